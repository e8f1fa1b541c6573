//! Workers' rows: for people, and for the operator's `Status=disabled`.

use std::time::Duration;

use fred::interfaces::HashesInterface;
use fred::types::Value;

use super::{Call, Store, failed, field_map, lua};
use crate::error::Error;
use crate::keys::Key;
use crate::name::WorkerName;
use crate::records::WorkerRow;

/// The row of a worker goes when nobody has written it for so long.
pub(crate) const ROW_TTL: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Writes fields of a row. `ttl`: for how long the row stays, none = for ever.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn write_row(
        &self,
        worker: &WorkerName,
        fields: &[(&str, String)],
        ttl: Option<Duration>,
    ) -> Result<(), Error> {
        let mut args = vec![ttl.map_or(0, |ttl| ttl.as_millis()).to_string()];
        for (field, value) in fields {
            args.extend([(*field).to_owned(), value.clone()]);
        }
        self.run(Call::new(&lua::ROW, self.keys().worker(worker), args)).await.map(drop)
    }

    /// Reads a row.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn read_row(&self, worker: &WorkerName) -> Result<Option<WorkerRow>, Error> {
        let fields: Value = self.client().hgetall(self.keys().worker(worker)).await.map_err(failed)?;
        Ok(Some(field_map(fields)).filter(|fields| !fields.is_empty()).map(WorkerRow::new))
    }

    /// Reads these rows, in order; one that is missing or cannot be read is left out.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn read_rows(&self, workers: &[WorkerName]) -> Result<Vec<(WorkerName, WorkerRow)>, Error> {
        let mut rows = Vec::new();
        for worker in workers {
            match self.read_row(worker).await {
                Ok(Some(row)) => rows.push((worker.clone(), row)),
                // A key of another type that somebody wrote there.
                Ok(None) | Err(Error::Server(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    /// Reads all rows there are, found by SCAN.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn scan_rows(&self) -> Result<Vec<(WorkerName, WorkerRow)>, Error> {
        let mut workers = Vec::new();
        self.scan_pages(&self.keys().workers_pattern(), |key| {
            if let Some(Key::Worker(name)) = self.keys().parse(key) {
                workers.push(name);
            }
        })
        .await?;
        self.read_rows(&super::distinct(workers)).await
    }
}

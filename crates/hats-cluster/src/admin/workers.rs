//! What an operator sees of workers, and how one is drained or taken back.

use std::collections::HashMap;

use serde::Serialize;

use crate::error::Error;
use crate::id::SessionId;
use crate::name::WorkerName;
use crate::records::{SessionRecord, WorkerRow};
use crate::store::{ROW_TTL, Store};

/// A worker, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// `enabled` or `disabled`: disabled drains and stops it.
    pub status: &'static str,
    /// `online`, `critical`, `draining` or `offline`; `gone` when it has not said so and its session has ended.
    pub state: String,
    /// How many threads it has.
    pub threads: u64,
    /// Its share beside the others'.
    pub weight: String,
    /// It takes no more threads than so many.
    pub max_threads: Option<usize>,
    /// What it offers to threads that require something.
    pub labels: String,
    /// `open`, or why it takes nothing new.
    pub claims: String,
    /// Where it runs.
    pub host: String,
    /// The process there.
    pub pid: String,
    /// The program's version.
    pub version: String,
    /// How long its session has been there.
    pub age_seconds: Option<u64>,
}

/// All workers that have a row, by name: those that have stopped stay for a day.
///
/// # Errors
/// When Redis does not answer.
pub async fn list_workers(store: &Store) -> Result<Vec<WorkerStatus>, Error> {
    let mut rows = store.scan_rows().await?;
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    statuses(store, &rows).await
}

/// One worker; none: there is no row of that name.
///
/// # Errors
/// When Redis does not answer.
pub async fn show_worker(store: &Store, name: &WorkerName) -> Result<Option<WorkerStatus>, Error> {
    match store.read_row(name).await? {
        Some(row) => Ok(statuses(store, &[(name.clone(), row)]).await?.pop()),
        None => Ok(None),
    }
}

/// Drains and stops a worker: it gives everything back and ends. A worker that is started under that name later enables
/// itself again. False: there is no worker of that name.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn drain_worker(store: &Store, name: &WorkerName) -> Result<bool, Error> {
    if store.read_row(name).await?.is_none() {
        return Ok(false);
    }
    store.write_row(name, &[("Status", "disabled".to_owned())], Some(ROW_TTL)).await?;
    Ok(true)
}

async fn statuses(store: &Store, rows: &[(WorkerName, WorkerRow)]) -> Result<Vec<WorkerStatus>, Error> {
    let server_ms = store.server_time().await?;
    let ids: Vec<SessionId> = rows.iter().filter_map(|(_, row)| session(row)).collect();
    let sampled = store.sample(&ids).await?.sessions;
    let sessions: HashMap<_, _> =
        sampled.into_iter().filter_map(|(id, record)| Some((id, record?))).collect();
    let live = |row| session(row).and_then(|id| sessions.get(&id)).filter(|record| record.is_live(server_ms));
    Ok(rows.iter().map(|(name, row)| status(name, row, live(row), server_ms)).collect())
}

fn session(row: &WorkerRow) -> Option<SessionId> {
    row.fields.get("Session").filter(|id| !id.is_empty()).map(|id| SessionId::from(id.as_str()))
}

fn status(
    name: &WorkerName,
    row: &WorkerRow,
    session: Option<&SessionRecord>,
    server_ms: u64,
) -> WorkerStatus {
    let text = |field: &str| row.fields.get(field).cloned().unwrap_or_default();
    let said = row.state.clone().unwrap_or_default();
    let state = if session.is_some() || said == "offline" { said } else { "gone".to_owned() };
    let capacity = session.map(|record| record.capacity.clone()).unwrap_or_default();
    WorkerStatus {
        name: name.to_string(),
        status: if row.disabled { "disabled" } else { "enabled" },
        state,
        threads: session.map_or(0, |record| record.threads),
        weight: capacity.weight.to_string(),
        max_threads: capacity.threads_max,
        labels: capacity.labels.to_string(),
        claims: text("Claims"),
        host: text("Host"),
        pid: text("Pid"),
        version: text("Version"),
        age_seconds: session.map(|record| server_ms.saturating_sub(record.opened_ms) / 1000),
    }
}

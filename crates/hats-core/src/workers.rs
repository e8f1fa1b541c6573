//! What an operator sees of the workers of a cluster, and how one is drained, for the sub-commands and for programs of
//! one's own.

use hats_cluster::admin;
use hats_cluster::name::WorkerName;
use hats_cluster::store::Store;

use crate::Error;
use crate::admin::connect;
use crate::config::AdminConfig;

pub use hats_cluster::admin::WorkerStatus;

/// The workers of a cluster.
#[derive(Clone, Debug)]
pub struct Workers {
    store: Store,
}

impl Workers {
    /// Connects to a cluster's Redis, for a few commands.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::Config`] at once, [`Error::Unreachable`] after 10 s.
    pub async fn connect(config: &AdminConfig) -> Result<Self, Error> {
        Ok(Self { store: connect(config).await? })
    }

    /// All workers, by name; those that have stopped stay for a day.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn list(&self) -> Result<Vec<WorkerStatus>, Error> {
        Ok(admin::list_workers(&self.store).await?)
    }

    /// One worker.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no worker of that name.
    pub async fn show(&self, name: &str) -> Result<WorkerStatus, Error> {
        let row = admin::show_worker(&self.store, &checked(name)?).await?;
        row.ok_or_else(|| no_such_worker(name))
    }

    /// Asks a worker to give everything back and to stop. Returns at once; the worker stops within its drain timeout.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no worker of that name.
    pub async fn drain(&self, name: &str) -> Result<(), Error> {
        match admin::drain_worker(&self.store, &checked(name)?).await? {
            true => Ok(()),
            false => Err(no_such_worker(name)),
        }
    }
}

fn checked(name: &str) -> Result<WorkerName, Error> {
    WorkerName::new(name).map_err(|error| Error::Config(error.to_string()))
}

fn no_such_worker(name: &str) -> Error {
    Error::Failed(format!("there is no worker {name}"))
}

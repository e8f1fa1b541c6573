//! What runs for endpoints right now, by name: so that a stop can wait for it, and name what does not end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The scripts that run. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Running(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    /// Told when the last one has ended.
    idle: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    names: HashMap<u64, Arc<str>>,
}

/// One script, until it is dropped: when the script is out of its fiber, whoever waits for it.
#[derive(Debug)]
pub(crate) struct Run {
    running: Running,
    number: u64,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { table: Mutex::default(), idle: watch::Sender::new(()) }))
    }

    pub(crate) fn enter(&self, name: Arc<str>) -> Run {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.names.insert(number, name);
        drop(table);
        Run { running: self.clone(), number }
    }

    /// The names of what runs, each once.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table().names.values().map(|name| (**name).to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Waits until nothing runs.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn ended(&self) {
        let mut idle = self.0.idle.subscribe();
        while !self.table().names.is_empty() {
            // The sender is ours, so it is there.
            let _ = idle.changed().await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds this lock can panic half-way through a change.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut table = self.running.table();
        table.names.remove(&self.number);
        let is_idle = table.names.is_empty();
        drop(table);
        if is_idle {
            self.running.0.idle.send_replace(());
        }
    }
}

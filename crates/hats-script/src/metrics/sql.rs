//! Statements of all scripts. One lane counts beside the other.
//!
//! What must hold: one that nobody waits for any more is counted too, as aborted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Calls;
use super::histogram::Histogram;

/// What kind of database a statement was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqlDatabase {
    MySql,
    Postgres,
    Sqlite,
}

const DATABASES: [&str; 3] = ["mysql", "postgres", "sqlite"];

/// Why nothing came of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqlFailure {
    /// It was not sent.
    Refused,
    /// The database said no.
    Error,
    /// There was no connection, or it broke.
    Connection,
    /// Nobody waited for it any more.
    Aborted,
}

const FAILURES: [&str; 4] = ["refused", "error", "connection", "aborted"];

/// The statements of a worker's scripts.
pub(crate) struct SqlCalls {
    durations: [Histogram; DATABASES.len()],
    failures: [[AtomicU64; FAILURES.len()]; DATABASES.len()],
}

/// A statement that is under way. Dropped before it has ended, it was aborted.
pub(crate) struct SqlCall {
    calls: Arc<SqlCalls>,
    database: SqlDatabase,
    begun: Instant,
    failure: Option<SqlFailure>,
}

impl SqlCalls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            durations: [const { Histogram::new(Histogram::NETWORK) }; DATABASES.len()],
            failures: Default::default(),
        })
    }

    pub(crate) fn begin(self: &Arc<Self>, database: SqlDatabase) -> SqlCall {
        let failure = Some(SqlFailure::Aborted);
        SqlCall { calls: self.clone(), database, begun: Instant::now(), failure }
    }

    pub(super) fn read(&self) -> Vec<Calls> {
        let each = DATABASES.iter().enumerate().map(|(database, name)| {
            let failures = FAILURES.iter().zip(&self.failures[database]);
            let errors = failures.map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)));
            Calls::new(name, self.durations[database].read(), errors.collect())
        });
        each.collect()
    }
}

impl SqlCall {
    /// None: it has gone well.
    pub(crate) fn end(mut self, failure: Option<SqlFailure>) {
        self.failure = failure;
    }
}

impl Drop for SqlCall {
    fn drop(&mut self) {
        let database = self.database as usize;
        self.calls.durations[database].record(self.begun.elapsed());
        if let Some(failure) = self.failure {
            self.calls.failures[database][failure as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_come_to_an_end_is_aborted() {
        let sql = SqlCalls::new();
        sql.begin(SqlDatabase::Sqlite).end(None);
        sql.begin(SqlDatabase::Sqlite).end(Some(SqlFailure::Error));
        drop(sql.begin(SqlDatabase::Sqlite));
        let read = sql.read();
        assert_eq!((read[2].what, read[2].durations.count()), ("sqlite", 3));
        assert_eq!(read[2].errors, [("refused", 0), ("error", 1), ("connection", 0), ("aborted", 1)]);
        assert_eq!(read[0].durations.count(), 0);
    }
}

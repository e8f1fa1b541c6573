//! What the rest asks of a database, whichever it is.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::statement::{Dialect, Statement};
use super::value::{Argument, Table, TooLarge};
use crate::vm::Passed;

/// A statement that is longer than this many bytes is forgotten once it has run. Shorter ones are kept, prepared, on the
/// connection: a hundred of them.
pub(super) const LONG_STATEMENT: usize = 32 << 10;

/// A database, and how to talk to it. Everything here runs on the I/O runtime.
pub(super) trait Server: Send + Sync + 'static {
    /// A connection on which one statement runs at a time.
    type Connection: Send + 'static;

    /// How its statements are read.
    fn dialect(&self) -> Dialect;

    /// True if its one connection is used by one handle alone, which may then do with it what it likes.
    fn is_private(&self) -> bool {
        false
    }

    /// Makes a connection. There is a time limit on it.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// False if the connection is known to be of no more use.
    fn is_sound(&self, connection: &Self::Connection) -> bool;

    /// Whether the connection is in a transaction, where that can be asked.
    fn in_transaction(&self, connection: &Self::Connection) -> Option<bool>;

    /// True if an error inside a transaction leaves it unable to do anything but roll back.
    fn errors_end_transactions(&self) -> bool {
        false
    }

    /// Runs a statement.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the connection is given to [`Self::abandon`].
    fn run(
        &self,
        connection: &mut Self::Connection,
        request: &Arc<Request>,
    ) -> impl Future<Output = Result<Outcome, Failure>> + Send;

    /// How long one statement may take, if there is a limit.
    fn statement_timeout(&self) -> Option<Duration> {
        None
    }

    /// Takes back what a statement may have left on the connection, of which only the server knows what it does. False
    /// if the connection is not to be used again.
    fn tidy(&self, _: &mut Self::Connection) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    /// Ends a statement that nobody waits for any more, on the server as well. The connection comes back if it is as
    /// good as new.
    fn abandon(&self, connection: Self::Connection) -> impl Future<Output = Option<Self::Connection>> + Send;

    /// Says goodbye.
    fn close(&self, connection: Self::Connection) -> impl Future<Output = ()> + Send;

    /// Whether the server answers anybody at all. Asked while a statement takes long.
    fn is_alive(&self) -> impl Future<Output = bool> + Send;
}

/// What a script asks for.
pub(super) struct Request {
    pub(super) action: Action,
    pub(super) statement: Statement,
    pub(super) arguments: Vec<Argument>,
    /// How large the result may become.
    pub(super) limit: usize,
    /// The script, for the lease gate.
    pub(super) passed: Passed,
}

/// What the script wants to know afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The rows.
    Query,
    /// How many were affected.
    Exec,
    /// Nothing: whether the database is there.
    Ping,
}

/// What came of a request.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Rows(Table),
    Count(u64),
}

/// Why nothing came of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It was not sent.
    #[error("{0}")]
    Refused(String),
    /// The database said no.
    #[error("{0}")]
    Statement(String),
    /// The database said no, and has rolled back the transaction that the statement was in.
    #[error("{0}")]
    RolledBack(String),
    /// The connection is of no more use, or there was none.
    #[error("{0}")]
    Connection(String),
    /// The lease has ended meanwhile.
    #[error("the worker's lease was lost")]
    Lost,
}

impl Request {
    /// The lease gate, again: the statement may have waited for its connection.
    pub(super) fn gate(&self) -> Result<(), Failure> {
        if self.passed.control().trusted_for().is_zero() { Err(Failure::Lost) } else { Ok(()) }
    }

    /// An error for a number of arguments that is not that of the placeholders.
    pub(super) fn wrong_number(&self, placeholders: usize) -> Failure {
        let given = self.arguments.len();
        let s = |n: usize| if n == 1 { "" } else { "s" };
        Failure::Refused(format!(
            "the statement has {placeholders} placeholder{}, and {given} argument{} given",
            s(placeholders),
            if given == 1 { " is" } else { "s are" },
        ))
    }

    /// How many bytes of an answer may come in. It is about what the result may take in the script's heap, and some more:
    /// each result is also measured when it is made.
    pub(super) fn bytes_max(&self) -> usize {
        self.limit.saturating_add(self.limit / 8)
    }
}

impl TooLarge {
    /// Ends a result; the rest of it is still under way, so its connection ends too.
    pub(super) fn failure(self) -> Failure {
        Failure::Connection(self.to_string())
    }
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the result is larger than {} bytes, half of the script's heap limit (MemoryLimit): ask for fewer rows or \
             columns, or for a part of them at a time",
            self.limit
        )
    }
}

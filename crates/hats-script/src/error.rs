//! How a script, and the runtime around it, can fail.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The runtime could not run a script; the script itself is not at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An OS thread for a lane could not be started.
    #[error("no OS thread for lane {lane}: {source}")]
    Lane {
        /// Number of the lane.
        lane: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Scripts cannot be preempted by signals, which was asked for; why.
    #[error("--preemption signals cannot be had: {0}; use auto or yields")]
    Preemption(String),
    /// No stack or no interpreter could be made.
    #[error("no interpreter for the script: {0}")]
    Vm(String),
    /// The runtime itself failed inside the script's fiber; the message of the panic.
    #[error("{0}")]
    Panicked(String),
    /// A library that is to be evaluated before every script cannot be.
    #[error("{library} cannot be preloaded: {error}{hint}")]
    Library {
        /// Its name.
        library: Arc<str>,
        /// What is wrong with it.
        error: ScriptError,
        /// What may help.
        hint: &'static str,
    },
    /// The lanes have been closed, or the script's lane has gone.
    #[error("the script lanes are closed")]
    Closed,
}

/// Why the call of a script came to no good end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScriptError {
    /// The script threw, or left a rejected promise behind.
    Thrown(Thrown),
    /// The call took longer than its limit.
    Timeout(Duration),
    /// The whole run took longer than its limit.
    RunTimeout(Duration),
    /// The heap limit, in bytes, was reached.
    Memory(usize),
    /// The stack limit, in bytes, was reached; what the interpreter threw says where.
    Stack(usize, Thrown),
    /// The source is longer than its limit: its length and the limit, in bytes.
    SourceTooLong(usize, usize),
    /// The source has more modules than a script may have: their number and the limit.
    TooManyModules(usize, usize),
    /// The promise that the call waits for is pending, and nothing is left that could settle it.
    Unsettled,
    /// The JavaScript engine itself failed in the script; what it failed of.
    Engine(String),
    /// The call was ended from outside, because the task has to stop and did not.
    Interrupted,
    /// The lease was lost: the task is no longer ours.
    Lost,
}

/// What a script threw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thrown {
    /// `TypeError` and the like; empty when something other than an `Error` was thrown.
    pub name: String,
    /// The error's message, or the thrown value as text.
    pub message: String,
    /// The JavaScript stack, a frame a line, innermost first; may be empty.
    pub stack: String,
    /// True when it was the rejection of a promise that nobody handled.
    pub rejected: bool,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thrown(thrown) => thrown.fmt(f),
            Self::Timeout(limit) => {
                write!(
                    f,
                    "TimeoutError: the call took longer than its limit of {limit:?} \
                     (CallTimeout of the task, --call-timeout of the worker)"
                )
            }
            Self::RunTimeout(limit) => {
                write!(f, "TimeoutError: the run took longer than its limit of {limit:?} (Timeout)")
            }
            Self::Memory(limit) => {
                write!(
                    f,
                    "MemoryError: the script needs more than its heap limit of {limit} bytes \
                     (MemoryLimit of the task, --memory-limit of the worker)"
                )
            }
            Self::Stack(limit, thrown) => {
                write!(
                    f,
                    "StackError: the script needs more than its stack limit of {limit} bytes \
                     (StackLimit of the task, --stack-limit of the worker): {thrown}"
                )
            }
            Self::SourceTooLong(length, limit) => {
                write!(
                    f,
                    "SourceError: the source has {length} bytes, more than the limit of {limit} \
                     (SourceLimit of the task, --source-limit of the worker)"
                )
            }
            Self::TooManyModules(count, limit) => {
                write!(f, "SourceError: the source has {count} modules, more than the limit of {limit}")
            }
            Self::Unsettled => f.write_str(
                "UnsettledError: the promise that the call returned, or that a module awaits, can never settle: \
                 nothing is left that could resolve it (no timer, no request in flight)",
            ),
            Self::Engine(what) => write!(f, "EngineError: {what}; the script was ended and its scope discarded"),
            Self::Interrupted => {
                f.write_str("InterruptedError: the call did not end in time when the task was stopped")
            }
            Self::Lost => f.write_str("LeaseLostError: the worker's lease was lost"),
        }
    }
}

impl std::error::Error for ScriptError {}

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rejected {
            f.write_str("unhandled rejection: ")?;
        }
        match (self.name.as_str(), self.message.as_str()) {
            ("", message) => write!(f, "uncaught {message}")?,
            (name, "") => f.write_str(name)?,
            (name, message) => write!(f, "{name}: {message}")?,
        }
        let stack = self.stack.trim_end();
        if stack.is_empty() { Ok(()) } else { write!(f, "\n{stack}") }
    }
}

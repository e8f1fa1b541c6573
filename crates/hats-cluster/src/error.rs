//! What can fail between a worker and its Redis, by what the caller can do about it.
//!
//! A lost lease or a refused claim is an outcome and never an error.

use std::time::Duration;

use fred::error::ErrorKind;

/// Why something in this crate could not be done.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Redis refuses this worker: password, user or permission. Trying again does not help.
    #[error("redis refuses this worker: {0}")]
    Refused(String),
    /// No answer from Redis, or no connection to it. May pass.
    #[error("redis cannot be reached: {0}")]
    Unreachable(String),
    /// A command was not answered in time. It may or may not have taken effect.
    #[error("redis has not answered in time")]
    Timeout,
    /// Redis answered with an error (LOADING, READONLY, OOM, …). May pass.
    #[error("redis answered: {0}")]
    Server(String),
    /// Redis answered something that this version does not understand.
    #[error("unexpected answer from redis: {0}")]
    Protocol(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// The worker has no session at the moment, or has stopped.
    #[error("the worker holds no session")]
    NoSession,
}

impl Error {
    /// No answer from Redis within `limit`.
    pub(crate) fn unreachable_within(limit: Duration, last: &str) -> Self {
        Self::Unreachable(format!("no answer within {limit:?}: {last}"))
    }

    /// Whether somebody has put something else where a record of ours should be.
    #[must_use]
    pub fn is_of_another_type(&self) -> bool {
        matches!(self, Self::Server(text) if text.starts_with("WRONGTYPE"))
    }

    /// Whether the same request may succeed later without anybody changing the configuration.
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Config(_))
    }
}

impl From<fred::error::Error> for Error {
    fn from(error: fred::error::Error) -> Self {
        let details = error.details().to_owned();
        match error.kind() {
            ErrorKind::Auth => Self::Refused(details),
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Config | ErrorKind::Url | ErrorKind::InvalidArgument => Self::Config(details),
            ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Backpressure => {
                Self::Unreachable(details)
            }
            ErrorKind::Parse | ErrorKind::Protocol => Self::Protocol(details),
            _ if is_refusal(&details) => Self::Refused(details),
            _ => Self::Server(details),
        }
    }
}

/// Whether the text of an error reply says that user, password or permission are refused.
fn is_refusal(details: &str) -> bool {
    ["NOPERM", "NOAUTH", "WRONGPASS", "ERR invalid password", "ERR AUTH"]
        .iter()
        .any(|prefix| details.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_do_not_pass() {
        let refused = fred::error::Error::new(ErrorKind::Unknown, "NOPERM this user has no permissions");
        assert!(!Error::from(refused).may_pass());
        let loading = fred::error::Error::new(ErrorKind::Unknown, "LOADING Redis is loading");
        assert!(Error::from(loading).may_pass());
    }
}

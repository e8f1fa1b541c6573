//! What ends a worker or an administrative command, by the exit code that tells a supervisor what to do.

use hats_cluster::address::RedisConfig;

/// Why a worker could not start or go on, or a command could not be carried out.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used. Trying again does not help.
    #[error("{0}")]
    Config(String),
    /// Redis refuses the password, the user or what the user may do. Trying again does not help.
    #[error("redis refuses this worker: {0}")]
    Refused(String),
    /// Redis could not be reached. May pass.
    #[error("redis cannot be reached: {0}")]
    Unreachable(String),
    /// The session was lost and a script under it did not end in time.
    #[error("hard stop: {0}")]
    HardStop(String),
    /// The operating system refuses what a worker needs (OS threads, sockets, memory). May pass.
    #[error("{0}")]
    System(String),
    /// Redis answered, but what was asked could not be done: no such thread, an error reply.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The exit code of the process that ends because of this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Config(_) | Self::Refused(_) => 2,
            Self::Unreachable(_) => 69,
            Self::HardStop(_) => 70,
            Self::System(_) => 71,
        }
    }

    /// What failed while Redis was spoken to, with where that is.
    pub(crate) fn at(error: hats_cluster::Error, redis: &RedisConfig) -> Self {
        let address = &redis.address;
        match Self::from(error) {
            Self::Refused(why) => Self::Refused(format!("{why} ({address})")),
            Self::Unreachable(why) => Self::Unreachable(format!("{why} ({address})")),
            other => other,
        }
    }
}

impl From<hats_cluster::Error> for Error {
    fn from(error: hats_cluster::Error) -> Self {
        use hats_cluster::Error as Cluster;
        match error {
            Cluster::Config(message) => Self::Config(message),
            Cluster::Refused(message) => Self::Refused(message),
            Cluster::Unreachable(message) => Self::Unreachable(readable(&message)),
            Cluster::Timeout => Self::Unreachable("it has not answered in time".to_owned()),
            Cluster::NoSession => Self::Unreachable(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<hats_endpoint::Error> for Error {
    fn from(error: hats_endpoint::Error) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<hats_scheduler::Error> for Error {
    fn from(error: hats_scheduler::Error) -> Self {
        match error {
            hats_scheduler::Error::CallLog { .. } => Self::Config(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// The client gives an error of the system as its `Debug` text, `Os { code: 111, …, message: "Connection refused" }`;
/// people need the message in it. What a wrapper has said before is not said twice.
fn readable(message: &str) -> String {
    let message = message.replace("redis cannot be reached: ", "");
    let Some(start) = message.find("Os {").or_else(|| message.find("Custom {")) else { return message };
    let (before, debug) = message.split_at(start);
    match debug.split('"').nth(1) {
        Some(text) if debug.trim_end().ends_with("\" }") => format!("{before}{text}"),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &str) -> String {
        Error::from(hats_cluster::Error::Unreachable(message.to_owned())).to_string()
    }

    #[test]
    fn errors_of_the_system_are_shown_by_their_message() {
        for (message, expected) in [
            (
                r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#,
                "Connection refused",
            ),
            (r#"Custom { kind: Uncategorized, error: "no such host" }"#, "no such host"),
            (
                r#"no answer within 10s: redis cannot be reached: Os { code: 2, kind: NotFound, message: "No such file" }"#,
                "no answer within 10s: No such file",
            ),
            ("connection closed", "connection closed"),
            ("Os { unfinished", "Os { unfinished"),
        ] {
            assert_eq!(shown(message), format!("redis cannot be reached: {expected}"));
        }
    }
}

//! What ends a worker or an administrative command, by the exit code that tells a supervisor what to do.

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
}

impl From<hats_cluster::Error> for Error {
    fn from(error: hats_cluster::Error) -> Self {
        use hats_cluster::Error as Cluster;
        match error {
            Cluster::Config(message) => Self::Config(message),
            Cluster::Refused(message) => Self::Refused(message),
            Cluster::Unreachable(message) => Self::Unreachable(message),
            Cluster::Timeout | Cluster::NoSession => Self::Unreachable(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
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

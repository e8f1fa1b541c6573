//! Why endpoints cannot be served at all.

use std::io;
use std::net::SocketAddr;

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port cannot be had: it is taken, or may not be used.
    #[error("endpoints cannot be served on {address} (--bind, --host-port): {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

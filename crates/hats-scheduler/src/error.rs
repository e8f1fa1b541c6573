//! What can fail here before any script runs. A script that fails is an outcome, not an error of this crate.

use std::io;
use std::path::PathBuf;

/// Why the scheduler cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call log cannot be opened.
    #[error("cannot open the call log {path}: {source}", path = path.display())]
    CallLog {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

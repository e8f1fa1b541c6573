//! What one script may use.

use std::time::Duration;

/// Limits of one script. Each ends in a clear error of that script and in nothing worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Heap of the interpreter in bytes. Default 64 MiB.
    pub memory: usize,
    /// JavaScript stack in bytes, from [`Limits::STACK_MIN`] to [`Limits::STACK_MAX`]. Default 512 KiB; larger values get
    /// a larger fiber stack.
    pub stack: usize,
    /// Length of the source in bytes. Default 1 MiB.
    pub source: usize,
    /// Length of the body of an HTTP answer in bytes, unpacked. Default 10 MiB.
    pub http_body: usize,
    /// Length of one log line in characters; the rest is cut off. Default 10,000.
    pub log_line: usize,
    /// Time that one call of the script may take. Default none.
    pub call_timeout: Option<Duration>,
}

impl Limits {
    /// The least stack that a script can do anything with.
    pub const STACK_MIN: usize = 16 << 10;
    /// The largest stack: each running script has address space for the whole of its own.
    pub const STACK_MAX: usize = 16 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            stack: 512 << 10,
            source: 1 << 20,
            http_body: 10 << 20,
            log_line: 10_000,
            call_timeout: None,
        }
    }
}

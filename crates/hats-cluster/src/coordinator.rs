//! The loop that claims threads for this worker, watches over those it owns and gives them back.

pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{Config, StuckNamer};
use crate::error::Error;
use crate::id::Nonce;
use crate::lease::Lease;
use crate::name::TaskName;
use crate::records::Definition;
use crate::store::Store;
use crate::watchdog::Stamp;

/// What the coordinator tells whoever runs the scripts.
#[derive(Debug)]
pub enum Event {
    /// This worker owns the thread now: run it.
    Claimed(Grant),
    /// The definition of an owned thread has changed. A new source restarts it in place, other fields apply to the
    /// calls to come.
    Changed {
        /// The thread.
        name: TaskName,
        /// The claim that it runs under.
        claim: Nonce,
        /// What it is now.
        definition: Definition,
    },
    /// End the thread in good order, then [`Handle::release`] it.
    Stop {
        /// The thread.
        name: TaskName,
        /// The claim that it runs under.
        claim: Nonce,
        /// Why.
        reason: StopReason,
    },
    /// The session is gone: end everything under it without `cleanup()`. Nothing of it is released: it is no longer
    /// ours.
    Lost {
        /// The lease of that session.
        lease: Lease,
    },
    /// This worker's row says `Status=disabled`: drain and stop.
    WorkerDisabled,
}

/// Why an owned thread has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Its `Status` is disabled.
    Disabled,
    /// Its definition is gone.
    Deleted,
    /// Somebody asked for a restart.
    Restart,
    /// A field of its definition cannot be used; the coordinator writes the error at the release.
    Malformed,
    /// Its claim no longer names this worker: nothing of it may run on, `cleanup()` included.
    Moved,
}

/// A thread that this worker owns.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The thread.
    pub name: TaskName,
    /// The full Redis key of its definition.
    pub key: String,
    /// Names this claim.
    pub claim: Nonce,
    /// The fence: greater than that of every earlier owner.
    pub epoch: u64,
    /// Crashes in a row before this start.
    pub restarts: u32,
    /// What the thread may trust while it runs.
    pub lease: Lease,
    /// What to run.
    pub definition: Definition,
}

/// How a thread is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// It may start elsewhere at once.
    Free {
        /// This worker does not take it again before this has passed.
        cool_down: Duration,
        /// Whether another worker is preferred for it.
        prefer_other: bool,
    },
    /// It failed.
    Crashed {
        /// Message and stack.
        error: String,
        /// Nobody takes it again before this has passed, unless its source changes or it is enabled anew.
        back_off: Duration,
        /// Crashes in a row, this one counted.
        restarts: u32,
    },
    /// It was stopped because of its definition: disabled or deleted.
    Stopped,
}

/// A cheap clone to talk to the coordinator.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
}

impl Handle {
    /// `init()` is done, or the first `main()` has been called: the thread counts as running.
    pub fn started(&self, _name: &TaskName, _claim: &Nonce) {}

    /// Gives a thread back. Only after its script has really stopped here. Returns at once; the coordinator repeats
    /// the release until Redis has answered it.
    pub fn release(&self, _name: &TaskName, _claim: &Nonce, _how: Release) {}

    /// Sets `Status=disabled` for the whole cluster.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn disable(&self, _name: &TaskName) -> Result<(), Error> {
        Err(Error::NoSession)
    }

    /// The thread's `Status` as it is in Redis now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn status(&self, _name: &TaskName) -> Result<String, Error> {
        Err(Error::NoSession)
    }

    /// The thread's `State` as it is in Redis now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn state(&self, _name: &TaskName) -> Result<String, Error> {
        Err(Error::NoSession)
    }

    /// Claims these threads at once, whatever their rank here. Those that run elsewhere are left alone.
    pub fn claim_now(&self, _names: Vec<TaskName>) {}

    /// A stamp for something that must come round again and again: a lane, a loop. One that is not touched for
    /// `stall_after` is named, and renewal of the session is withheld.
    pub fn stamp(&self, _who: &str) -> Stamp {
        Stamp::new(_who, None)
    }

    /// As [`Handle::stamp`], with a way to tell which script it is stuck in.
    pub fn stamp_with(&self, who: &str, _namer: StuckNamer) -> Stamp {
        self.stamp(who)
    }

    /// Claims nothing more; the worker's row says `draining`.
    pub fn begin_drain(&self) {}

    /// After everything was released: waits until Redis has answered the releases (for a bounded time), closes the
    /// session and marks the worker's row offline.
    pub async fn close(&self) {}

    /// What reads and writes this cluster's records.
    pub fn store(&self) -> Store {
        self.shared.store.clone()
    }

    /// Whether Redis answers on every connection that this crate has.
    pub fn redis_ready(&self) -> bool {
        false
    }
}

/// Opens a session and starts to claim threads.
///
/// # Errors
/// [`Error::Refused`] when Redis refuses user, password or a needed command; [`Error::Unreachable`] when it has not
/// answered within 10 s; [`Error::Config`] when the configuration cannot be used.
pub async fn start(_config: Config) -> Result<(Handle, mpsc::UnboundedReceiver<Event>), Error> {
    Err(Error::NoSession)
}

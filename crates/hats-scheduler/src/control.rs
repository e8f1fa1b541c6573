//! What a running script asks of its surroundings: the scheduler's half of [`hats_script::TaskControl`].
//!
//! One [`Control`] per *run* (a restart in place gets a fresh one, with `Stopped` false again), one [`Orders`] per
//! *claim*. What must hold: an answer about the lease is never remembered (the gate reads the boot clock each time),
//! and everything a script may read in a loop is an atomic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hats_cluster::Handle;
use hats_cluster::clock::BootInstant;
use hats_cluster::lease::Lease;
use hats_cluster::name::TaskName;
use hats_cluster::records::Definition;
use hats_script::BoxFuture;
use tokio::sync::watch;
use tracing::Span;

use crate::call_log::{CallLog, Caller};

/// What is wanted of a claim: always the whole, newest state, so that nothing depends on how often it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The thread is no longer ours: the script ends without `cleanup()`. Never taken back.
    pub(crate) lost: Option<Loss>,
    /// End in good order. Never taken back; a stronger reason replaces a weaker one.
    pub(crate) stop: Option<Stop>,
    /// What to run, and how.
    pub(crate) definition: Definition,
}

/// Why a thread ends in good order, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// The script called `thread.Stop()`.
    Asked,
    /// An operator asked for a fresh start.
    Restart,
    /// Another worker is to have it.
    Relocated,
    /// This worker stops.
    Drain,
    /// `Status=disabled`, or the definition is gone or malformed.
    Disabled,
}

/// What was lost, the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    /// This one claim: Redis names another owner. The session lives on.
    Claim,
    /// The session, and with it all that it owned: there is nothing left to release.
    Session,
}

/// The place where orders for one claim are put. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<watch::Sender<Wanted>>);

/// What one run of a thread is told about itself.
pub(crate) struct Control {
    name: TaskName,
    key: String,
    epoch: u64,
    lease: Lease,
    cluster: Handle,
    orders: Orders,
    stopped: Arc<AtomicBool>,
    /// The claim is lost although the session lives on.
    forfeited: AtomicBool,
    hang_us: AtomicU64,
    /// Zero: none.
    call_timeout_us: AtomicU64,
    audit: Option<Audit>,
    span: Span,
}

#[derive(Clone, Debug)]
pub(crate) struct Audit {
    pub(crate) log: Arc<CallLog>,
    pub(crate) caller: Caller,
}

impl Orders {
    pub(crate) fn new(definition: Definition) -> (Orders, watch::Receiver<Wanted>) {
        let (sender, receiver) = watch::channel(Wanted { lost: None, stop: None, definition });
        (Orders(Arc::new(sender)), receiver)
    }

    /// Asks for an end in good order.
    pub(crate) fn stop(&self, reason: Stop) {
        self.0.send_if_modified(|wanted| {
            let stronger = wanted.stop < Some(reason);
            if stronger {
                wanted.stop = Some(reason);
            }
            stronger
        });
    }

    pub(crate) fn lose(&self, loss: Loss) {
        self.0.send_if_modified(|wanted| {
            let greater = wanted.lost < Some(loss);
            if greater {
                wanted.lost = Some(loss);
            }
            greater
        });
    }

    pub(crate) fn define(&self, definition: Definition) {
        self.0.send_modify(|wanted| wanted.definition = definition);
    }
}

impl Control {
    pub(crate) fn new(
        (name, key, epoch): (TaskName, String, u64),
        lease: Lease,
        cluster: Handle,
        orders: Orders,
        audit: Option<Audit>,
        span: Span,
    ) -> Control {
        Control {
            name,
            key,
            epoch,
            lease,
            cluster,
            orders,
            stopped: Arc::default(),
            forfeited: AtomicBool::new(false),
            hang_us: AtomicU64::new(0),
            call_timeout_us: AtomicU64::new(0),
            audit,
            span,
        }
    }

    /// Takes over those settings that apply to a running script.
    pub(crate) fn adopt(&self, hang: Duration, call_timeout: Option<Duration>) {
        self.hang_us.store(micros(hang), Ordering::Relaxed);
        let call_timeout = call_timeout.map_or(0, |limit| micros(limit).max(1));
        self.call_timeout_us.store(call_timeout, Ordering::Relaxed);
    }

    /// From here on `Stopped` is true for this run.
    pub(crate) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// From here on no effect passes the gate.
    pub(crate) fn forfeit(&self) {
        self.forfeited.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn call_timeout(&self) -> Option<Duration> {
        let limit = self.call_timeout_us.load(Ordering::Relaxed);
        (limit > 0).then(|| Duration::from_micros(limit))
    }

    pub(crate) fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl hats_script::TaskControl for Control {
    fn key(&self) -> &str {
        &self.key
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn hang(&self) -> Duration {
        Duration::from_micros(self.hang_us.load(Ordering::Relaxed))
    }

    fn trusted_for(&self) -> Duration {
        if self.forfeited.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.lease.trusted_until().saturating_duration_since(BootInstant::now())
    }

    fn stopped(&self) -> bool {
        self.is_stopped()
    }

    fn stop(&self) {
        self.set_stopped();
        self.orders.stop(Stop::Asked);
    }

    fn disable(&self) -> BoxFuture<Result<(), String>> {
        let (cluster, name, orders) = (self.cluster.clone(), self.name.clone(), self.orders.clone());
        let stopped = self.stopped.clone();
        Box::pin(async move {
            cluster.disable(&name).await.map_err(|error| error.to_string())?;
            // The script may look at it before the supervisor does.
            stopped.store(true, Ordering::Release);
            orders.stop(Stop::Disabled);
            Ok(())
        })
    }

    fn state(&self) -> BoxFuture<Result<String, String>> {
        let (cluster, name) = (self.cluster.clone(), self.name.clone());
        Box::pin(async move { cluster.state(&name).await.map_err(|error| error.to_string()) })
    }

    fn status(&self) -> BoxFuture<Result<String, String>> {
        let (cluster, name) = (self.cluster.clone(), self.name.clone());
        Box::pin(async move { cluster.status(&name).await.map_err(|error| error.to_string()) })
    }

    fn effect(&self) {
        if let Some(audit) = &self.audit {
            audit.log.effect(&audit.caller);
        }
    }

    fn span(&self) -> Span {
        self.span.clone()
    }
}

//! One run of a job, from its grant to a report of how it ended.
//!
//! ```text
//!           ┌─► not begun: stopped or lost before that ─────────────────────────────┐
//!  granted ─┤                                                                       ├─► report
//!           └─► runs ──────────────────────────────────── came to its end ──────────┤
//!                │ wanted: stop ─► job.Stopped, waits end ─► drain timeout: interrupt ┤
//!                └ wanted: forfeit, or the lease is lost ─► killed ─────────────────┘
//! ```
//!
//! What must hold: when [`run`] returns, nothing of the script runs any more. Its [`RunGuard`] lives on the lane, so the
//! watchdog knows of the script for as long as it is there, also if nobody waits for [`run`].

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hats_cluster::clock::BootInstant;
use hats_cluster::lease::{Lease, RunGuard};
use hats_cluster::name::TaskName;
use hats_script::{
    BoxFuture, Bundle, Error, JobInfo, Kind, Lanes, Limits, Run, ScriptError, ScriptHandle, ScriptTask,
    TaskControl, Vm,
};
use tokio::sync::{Notify, watch};
use tracing::Span;

use super::{audited, shortened};
use crate::control::Audit;

/// What to run, and under what.
pub(crate) struct Job {
    /// For logs and stack traces.
    pub(crate) name: TaskName,
    /// The full Redis key of the definition.
    pub(crate) key: String,
    /// The fence.
    pub(crate) epoch: u64,
    /// The instant that the run was scheduled for, in milliseconds since 1970.
    pub(crate) tick_ms: i64,
    /// Counted from 1.
    pub(crate) attempt: u32,
    pub(crate) source: Bundle,
    /// What the script may use; `call_timeout` is for each of its calls.
    pub(crate) limits: Limits,
    /// How long the whole run may take.
    pub(crate) timeout: Option<Duration>,
    /// How long it may go on when it has to stop; then it is interrupted.
    pub(crate) drain_timeout: Duration,
    /// Of the lease that the run was granted under: the gate of its effects.
    pub(crate) guard: RunGuard,
    /// What the script may ask about the definition.
    pub(crate) record: Arc<dyn Record>,
    pub(crate) audit: Option<Audit>,
}

/// A job's definition in Redis, as far as its script may ask about it. The futures are awaited on a lane, so what does
/// their work is elsewhere.
pub(crate) trait Record: Send + Sync + 'static {
    /// `job.Disable()`.
    fn disable(&self) -> BoxFuture<Result<(), String>>;
    /// `job.State()`.
    fn state(&self) -> BoxFuture<Result<String, String>>;
    /// `job.Status()`.
    fn status(&self) -> BoxFuture<Result<String, String>>;
}

/// What is wanted of a run: a state, not a sequence. Each includes those before it, and none is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// That it comes to its end.
    #[default]
    GoOn,
    /// An end in good order, soon.
    Stop,
    /// It is no longer ours, although the session lives: no further effect, and an end at once.
    Forfeit,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunReport {
    pub(crate) outcome: Outcome,
    /// The last lines that it logged, as [`Run::log`] has them.
    pub(crate) log: Vec<String>,
    /// From the call of [`run`] to the first line of the script.
    pub(crate) waited: Duration,
    /// From there to its end.
    pub(crate) duration: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It came to its end, with what `main()` returned as [`Run::result`] has it.
    Done(Option<String>),
    /// By its own fault.
    Failed(RunError),
    /// It was asked to stop, and had not begun or did not return in time.
    Stopped,
    /// With its lease, or forfeited: it is no longer ours, and there is nothing to tell.
    Lost,
}

/// Why a run failed. As text it is for people, of bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunError {
    /// The script.
    Script(ScriptError),
    /// What should have run it.
    Runtime(String),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(error) => f.write_str(&shortened(error.to_string())),
            Self::Runtime(error) => f.write_str(error),
        }
    }
}

/// Runs a job once on one of `lanes`. Returns when the script is out of its lane, never sooner.
///
/// # Cancel safety
/// Dropped, the script is killed; its guard lives until it is out.
pub(crate) async fn run(lanes: &Lanes, job: Job, mut wanted: watch::Receiver<Wanted>) -> RunReport {
    let lease = job.guard.lease().clone();
    let mut orders = Orders { seen: *wanted.borrow_and_update(), more: true };
    let control = Arc::new(Control {
        name: job.name,
        key: job.key,
        epoch: job.epoch,
        info: JobInfo { tick_ms: job.tick_ms, attempt: job.attempt },
        lease: lease.clone(),
        record: job.record,
        // What is wanted from the first is known before the lane can begin.
        stop: Arc::new(StopAsked {
            asked: AtomicBool::new(orders.seen >= Wanted::Stop),
            told: Notify::new(),
        }),
        forfeited: AtomicBool::new(orders.seen == Wanted::Forfeit),
        audit: job.audit,
        span: Span::current(),
    });
    let (source, timeout, guard) = (job.source, job.timeout, job.guard);
    let (asked_at, inner) = (Instant::now(), control.clone());
    let task = ScriptTask { control: control.clone(), limits: job.limits };
    let (script, ended) = lanes.spawn_run(task, async move |vm: &mut Vm| {
        // Moved in, so that it is dropped when the script is out of its lane and not when somebody stops waiting for it.
        let _guard = guard;
        if inner.stopped() || inner.trusted_for().is_zero() {
            return None;
        }
        let begun = Instant::now();
        let mut log = Vec::new();
        let run = async {
            let run = vm.run_once(&source, inner.name.as_str(), timeout).await;
            log = run.log;
            run.result
        };
        let result = audited(&*inner, inner.audit.as_ref(), "run", run).await;
        Some(Ran { run: Run { result, log }, waited: begun - asked_at, duration: begun.elapsed() })
    });
    let script = KilledWhenDropped(script);

    let mut ended = pin!(ended);
    let mut patience = pin!(tokio::time::sleep(Duration::ZERO));
    let (mut stopping, mut impatient, mut killed) = (false, false, false);
    let ran = loop {
        if orders.seen == Wanted::Forfeit && !killed {
            killed = true;
            control.forfeited.store(true, Ordering::Release);
            script.0.kill();
        }
        if orders.seen >= Wanted::Stop && !stopping {
            stopping = true;
            impatient = true;
            control.stop.asked.store(true, Ordering::Release);
            script.0.interrupt_waits();
            patience.as_mut().reset(tokio::time::Instant::now() + job.drain_timeout);
        }
        tokio::select! {
            biased;
            ran = &mut ended => break ran,
            () = lease.lost(), if !killed => orders.seen = Wanted::Forfeit,
            changed = wanted.changed(), if orders.more => match changed {
                Ok(()) => orders.seen = orders.seen.max(*wanted.borrow_and_update()),
                Err(_) => orders.more = false,
            },
            () = control.stop.told.notified(), if !stopping => orders.seen = orders.seen.max(Wanted::Stop),
            () = &mut patience, if impatient => {
                impatient = false;
                tracing::warn!("interrupted: the run did not end within the drain timeout");
                script.0.interrupt();
            }
        }
    };
    report(ran, &control)
}

/// What the script's lane hands back.
struct Ran {
    run: Run,
    waited: Duration,
    duration: Duration,
}

struct Orders {
    seen: Wanted,
    /// Whether there may be others to come.
    more: bool,
}

struct KilledWhenDropped(ScriptHandle);

impl Drop for KilledWhenDropped {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn report(ran: Result<Option<Ran>, Error>, control: &Control) -> RunReport {
    let unbegun =
        |outcome| RunReport { outcome, log: Vec::new(), waited: Duration::ZERO, duration: Duration::ZERO };
    let Ran { run, waited, duration } = match ran {
        Ok(Some(ran)) => ran,
        _ if control.trusted_for().is_zero() => return unbegun(Outcome::Lost),
        // The lanes close when the worker ends.
        Ok(None) | Err(Error::Closed) => return unbegun(Outcome::Stopped),
        Err(error) => return unbegun(Outcome::Failed(RunError::Runtime(shortened(error.to_string())))),
    };
    let outcome = match run.result {
        Ok(result) => Outcome::Done(result),
        Err(ScriptError::Lost) => Outcome::Lost,
        Err(ScriptError::Interrupted) => Outcome::Stopped,
        Err(error) => Outcome::Failed(RunError::Script(error)),
    };
    RunReport { outcome, log: run.log, waited, duration }
}

/// What one run is told about itself.
struct Control {
    name: TaskName,
    key: String,
    epoch: u64,
    info: JobInfo,
    lease: Lease,
    record: Arc<dyn Record>,
    stop: Arc<StopAsked>,
    /// The run is no longer ours although the session lives on.
    forfeited: AtomicBool,
    audit: Option<Audit>,
    span: Span,
}

struct StopAsked {
    asked: AtomicBool,
    /// Told when the script itself asks.
    told: Notify,
}

impl TaskControl for Control {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn kind(&self) -> Kind {
        Kind::Job(self.info)
    }

    fn key(&self) -> &str {
        &self.key
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn trusted_for(&self) -> Duration {
        if self.forfeited.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.lease.trusted_until().saturating_duration_since(BootInstant::now())
    }

    fn stopped(&self) -> bool {
        self.stop.asked.load(Ordering::Acquire)
    }

    fn disable(&self) -> BoxFuture<Result<(), String>> {
        let (disabled, stop) = (self.record.disable(), self.stop.clone());
        Box::pin(async move {
            disabled.await?;
            // The script may look at it before anybody else does.
            stop.asked.store(true, Ordering::Release);
            stop.told.notify_one();
            Ok(())
        })
    }

    fn state(&self) -> BoxFuture<Result<String, String>> {
        self.record.state()
    }

    fn status(&self) -> BoxFuture<Result<String, String>> {
        self.record.status()
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

#[cfg(test)]
mod tests;

//! The loop that reacts to the coordinator: it starts a supervisor per claim, passes orders on, and at the drain waits
//! until the last script is out. Jobs have a loop of their own, which is started and drained here.
//!
//! What must hold: the table has one entry per *name*. A claim that is granted while an older run of the same thread
//! has not ended (its lease was lost, its script is still unwinding) waits in that entry for the old run's end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hats_cluster::id::{Nonce, SessionId};
use hats_cluster::lease::Lease;
use hats_cluster::name::TaskName;
use hats_cluster::watchdog::Stamp;
use hats_cluster::{Event, Grant, Handle, Release, StopReason};
use hats_script::Lanes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::CallLog;
use crate::control::{Loss, Orders, Stop};
use crate::jobs::{self, JobsHandle};
use crate::supervisor::{self, RELOCATED, Shared};

/// The loop touches its stamp at least this often.
const TURN: Duration = Duration::from_secs(1);
/// After drain timeout and `cleanup()` have passed, a script has this long to come out of its interrupt.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// What the scheduler is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a call in hand may go on when a thread has to stop; then it is interrupted. Default 20 s.
    pub drain_timeout: Duration,
    /// How long `cleanup()` may take. Default 5 s.
    pub cleanup_timeout: Duration,
    /// What a script may use where its definition does not say otherwise.
    pub limits: hats_script::Limits,
    /// Where every entry into script code is recorded. Default nowhere.
    pub call_log: Option<Arc<CallLog>>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            drain_timeout: Duration::from_secs(20),
            cleanup_timeout: Duration::from_secs(5),
            limits: hats_script::Limits::default(),
            call_log: None,
        }
    }
}

impl Config {
    /// The limits of a script whose definition has `own` ones.
    pub(crate) fn limits_for(&self, own: &hats_cluster::records::Limits) -> hats_script::Limits {
        let size =
            |own: Option<u64>, default| own.map_or(default, |own| usize::try_from(own).unwrap_or(usize::MAX));
        hats_script::Limits {
            memory: size(own.memory, self.limits.memory),
            stack: size(own.stack, self.limits.stack),
            source: size(own.source, self.limits.source),
            http_body: size(own.http_body, self.limits.http_body),
            log_line: size(own.log_line, self.limits.log_line),
            call_timeout: own.call_timeout.or(self.limits.call_timeout),
        }
    }
}

/// Runs what this worker owns.
pub struct Scheduler {
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<Event>,
    gone: mpsc::UnboundedReceiver<(TaskName, Nonce)>,
    threads: HashMap<TaskName, Owned>,
    /// Resolves when the lease that the newest claims are under is lost. The coordinator says so too, but it may be the
    /// very thing that hangs.
    lost: Option<(SessionId, LostFuture)>,
    session_lost: Arc<Notify>,
    stamp: Stamp,
    draining: bool,
    jobs: JobsHandle,
}

type LostFuture = Pin<Box<dyn Future<Output = Lease> + Send>>;

/// A thread that a supervisor is busy with.
struct Owned {
    claim: Nonce,
    session: SessionId,
    orders: Orders,
    /// Granted while the run above has not ended yet.
    waiting: Option<Box<Grant>>,
}

/// Why [`Scheduler::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The shutdown token was cancelled.
    Asked,
    /// The worker's own row says `Status=disabled`.
    Disabled,
    /// The coordinator is gone: there is nobody left to say what may run.
    ClusterGone,
}

/// What [`Scheduler::drain`] has left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Threads and jobs whose scripts did not even obey the interrupt: the process has to end with them inside.
    pub stuck: Vec<TaskName>,
}

impl Scheduler {
    /// A scheduler that runs on `lanes` what `events` grants.
    #[must_use]
    pub fn new(
        cluster: Handle,
        events: mpsc::UnboundedReceiver<Event>,
        lanes: Lanes,
        config: Config,
    ) -> Self {
        let stamp = cluster.stamp("scheduler");
        let (tell, gone) = mpsc::unbounded_channel();
        let jobs = jobs::start(cluster.clone(), lanes.clone(), config.clone());
        Scheduler {
            shared: Arc::new(Shared { cluster, lanes, config, gone: tell }),
            events,
            gone,
            threads: HashMap::new(),
            lost: None,
            session_lost: Arc::default(),
            stamp,
            draining: false,
            jobs,
        }
    }

    /// Notified whenever the coordinator says that a session was lost.
    #[must_use]
    pub fn session_lost(&self) -> Arc<Notify> {
        self.session_lost.clone()
    }

    /// Runs what is granted until something asks for the end. Then [`Scheduler::drain`] is to be called.
    ///
    /// # Cancel safety
    /// Cancelled, it can be called again; the scripts run on meanwhile.
    pub async fn run(&mut self, shutdown: &CancellationToken) -> Why {
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.stamp.touch();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Why::Asked,
                lease = lost(&mut self.lost) => self.lose(&lease),
                Some((name, claim)) = self.gone.recv() => self.forget(&name, &claim),
                event = self.events.recv() => match event {
                    Some(Event::WorkerDisabled) => return Why::Disabled,
                    Some(event) => self.react(event),
                    None => return Why::ClusterGone,
                },
                _ = turn.tick() => {}
            }
        }
    }

    /// Asks every thread and every run of a job to stop and waits until the last script is out, for at most the drain timeout, the time of
    /// `cleanup()` and a little more. What is granted meanwhile is given back unused.
    pub async fn drain(mut self) -> Drained {
        self.draining = true;
        self.jobs.begin_drain();
        for owned in self.threads.values_mut() {
            owned.orders.stop(Stop::Drain);
            if let Some(grant) = owned.waiting.take() {
                give_back(&self.shared.cluster, &grant);
            }
        }
        let config = &self.shared.config;
        let limit = Instant::now() + config.drain_timeout + config.cleanup_timeout + GRACE;
        let mut limit = std::pin::pin!(tokio::time::sleep_until(limit));
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cluster_gone = false;
        loop {
            self.stamp.touch();
            // What was granted up to here is given back even if nothing runs any more.
            while let Ok(event) = self.events.try_recv() {
                self.react(event);
            }
            if self.threads.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                lease = lost(&mut self.lost) => self.lose(&lease),
                Some((name, claim)) = self.gone.recv() => self.forget(&name, &claim),
                event = self.events.recv(), if !cluster_gone => match event {
                    Some(event) => self.react(event),
                    None => cluster_gone = true,
                },
                () = &mut limit => break,
                _ = turn.tick() => {}
            }
        }
        let mut stuck: Vec<TaskName> = self.threads.into_keys().collect();
        stuck.extend(touching(&self.stamp, self.jobs.drained()).await);
        Drained { stuck }
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Claimed(grant) => self.take(grant),
            Event::Changed { name, claim, definition } => match self.find(&name, &claim) {
                Some(Found::Running(orders)) => orders.define(definition),
                Some(Found::Waiting(Some(grant))) => grant.definition = definition,
                Some(Found::Waiting(None)) | None => {}
            },
            Event::Stop { name, claim, reason } => self.stop(&name, &claim, reason),
            Event::Lost { lease } => {
                self.lose(&lease);
                self.session_lost.notify_one();
            }
            // At the drain there is no more to do about it.
            Event::WorkerDisabled => {}
        }
    }

    fn take(&mut self, grant: Grant) {
        if self.draining {
            return give_back(&self.shared.cluster, &grant);
        }
        if self.lost.as_ref().is_none_or(|(session, _)| session != grant.lease.session()) {
            let lease = grant.lease.clone();
            let session = lease.session().clone();
            let lost = Box::pin(async move {
                lease.lost().await;
                lease
            });
            self.lost = Some((session, lost));
        }
        match self.threads.entry(grant.name.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(start(&self.shared, grant));
            }
            Entry::Occupied(mut occupied) => {
                tracing::debug!(task = %grant.name, kind = "thread", "granted while its old run has not ended: waits for that");
                occupied.get_mut().waiting = Some(Box::new(grant));
            }
        }
    }

    fn stop(&mut self, name: &TaskName, claim: &Nonce, reason: StopReason) {
        match self.find(name, claim) {
            Some(Found::Running(orders)) => match reason {
                StopReason::Disabled | StopReason::Deleted | StopReason::Malformed => {
                    orders.stop(Stop::Disabled)
                }
                StopReason::Restart => orders.stop(Stop::Restart),
                StopReason::Relocated => orders.stop(Stop::Relocated),
                StopReason::Moved => orders.lose(Loss::Claim),
            },
            Some(Found::Waiting(waiting)) => {
                *waiting = None;
                let how = match reason {
                    StopReason::Disabled | StopReason::Deleted | StopReason::Malformed => Release::Stopped,
                    StopReason::Relocated => RELOCATED,
                    StopReason::Restart | StopReason::Moved => FREE,
                };
                self.shared.cluster.release(name, claim, how);
            }
            None => {}
        }
    }

    /// Ends everything under this lease. What waits under it will never start.
    fn lose(&mut self, lease: &Lease) {
        if self.lost.as_ref().is_some_and(|(session, _)| session == lease.session()) {
            self.lost = None;
        }
        for owned in self.threads.values_mut() {
            if owned.session == *lease.session() {
                owned.orders.lose(Loss::Session);
            }
            if owned.waiting.as_ref().is_some_and(|grant| grant.lease.session() == lease.session()) {
                owned.waiting = None;
            }
        }
    }

    /// The supervisor of this claim is done; what has waited for that starts.
    fn forget(&mut self, name: &TaskName, claim: &Nonce) {
        let Entry::Occupied(occupied) = self.threads.entry(name.clone()) else { return };
        if occupied.get().claim != *claim {
            return;
        }
        if let Some(grant) = occupied.remove().waiting {
            self.threads.insert(name.clone(), start(&self.shared, *grant));
        }
    }

    fn find(&mut self, name: &TaskName, claim: &Nonce) -> Option<Found<'_>> {
        let owned = self.threads.get_mut(name)?;
        if owned.claim == *claim {
            return Some(Found::Running(&owned.orders));
        }
        let waits = owned.waiting.as_ref().is_some_and(|grant| grant.claim == *claim);
        waits.then_some(Found::Waiting(&mut owned.waiting))
    }
}

/// Awaits what comes to an end by itself. The loop that does so still comes round.
async fn touching<T>(stamp: &Stamp, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        stamp.touch();
        if let Ok(done) = tokio::time::timeout(TURN, &mut work).await {
            return done;
        }
    }
}

/// Where a claim is. One that has ended already is nowhere: what is still said about it means nothing.
enum Found<'a> {
    Running(&'a Orders),
    Waiting(&'a mut Option<Box<Grant>>),
}

const FREE: Release = Release::Free { cool_down: Duration::ZERO, prefer_other: false };

fn start(shared: &Arc<Shared>, grant: Grant) -> Owned {
    let (claim, session) = (grant.claim.clone(), grant.lease.session().clone());
    let orders = supervisor::start(shared.clone(), grant);
    Owned { claim, session, orders, waiting: None }
}

fn give_back(cluster: &Handle, grant: &Grant) {
    cluster.release(
        &grant.name,
        &grant.claim,
        Release::Free { cool_down: Duration::ZERO, prefer_other: true },
    );
}

/// The lease whose loss is waited for, once it is lost.
async fn lost(waiting: &mut Option<(SessionId, LostFuture)>) -> Lease {
    match waiting {
        Some((_, lost)) => {
            let lease = lost.await;
            *waiting = None;
            lease
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use hats_cluster::records;

    use super::*;

    #[test]
    fn a_definition_may_have_every_stack_that_a_script_can_run_with() {
        let (least, most) = (hats_script::Limits::STACK_MIN as u64, hats_script::Limits::STACK_MAX as u64);
        assert_eq!(records::STACK_LIMITS, least..=most);
    }

    #[test]
    fn each_limit_is_the_definitions_or_else_the_workers() {
        let config = Config::default();
        assert_eq!(config.limits_for(&records::Limits::default()), config.limits);
        let own = records::Limits {
            memory: Some(1),
            stack: Some(2),
            call_timeout: Some(Duration::from_secs(3)),
            source: Some(4),
            http_body: Some(5),
            log_line: Some(6),
        };
        let expected = hats_script::Limits {
            memory: 1,
            stack: 2,
            source: 4,
            http_body: 5,
            log_line: 6,
            call_timeout: Some(Duration::from_secs(3)),
        };
        assert_eq!(config.limits_for(&own), expected);
    }
}

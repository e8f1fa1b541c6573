//! The coordinator's loop and what it does at each message. The rules are in `plan` and `settle`, the knowledge in
//! `table`, the requests in `operation`; what follows from a message is in the modules below, by subject.

mod balancing;
mod claiming;
mod endpoints;
mod feed;
mod owning;
mod peers;
mod poison;
mod reading;
mod rounds;
mod rows;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::BootInstant;
use crate::config::Config;
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::keys::Key;
use crate::lease::{Lease, Timing};
use crate::name::{EndpointPath, Task, TaskName, WorkerName};
use crate::observe::Observer;
use crate::records::{ClaimRecord, DeadSession, DefinitionRead, PoisonRecord, SessionEnd, WorkerRow};
use crate::session::{self, SessionThread, Vitals};
use crate::store::{Burial, Found, MirrorUpdate, ROW_TTL, Released, Sample, Store, Struck, Verdict};
use crate::watch;
use crate::watchdog::Stamp;

use super::feed::JobNewsSender;
use super::operation::Claimed;
use super::poison::Poison;
use super::settle::Settling;
use super::table::{Known, Mine, Table};
use super::{Admission, Command, Condition, Connections, EndpointNews, Event, JobNews, Peers};

/// So many claims are under way at once.
const CLAIMS_MAX: usize = 256;
/// While the watch holds, definitions of what we own and claims of others are re-read once in this.
const SLOW_ROUND: Duration = Duration::from_secs(300);
/// Everything is looked for once in this.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Without a watch what is ours is read this often.
const POLL_OURS: Duration = Duration::from_secs(1);
/// The worker's row is written this often.
const ROW_EVERY: Duration = Duration::from_secs(10);
/// Notices that come this close together are looked into together.
const COALESCE: Duration = Duration::from_millis(2);
/// After a request about one thread has failed.
const RETRY: Duration = Duration::from_millis(300);
/// A malformed definition whose error could not be written down is not tried again sooner.
const MALFORMED_REST: Duration = Duration::from_millis(500);

/// What the loop is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) session: SessionThread,
    pub(super) vitals: Arc<Vitals>,
    pub(super) connections: Arc<Connections>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) peers: tokio::sync::watch::Sender<Peers>,
    pub(super) pushed: tokio::sync::watch::Sender<bool>,
    pub(super) poison: Arc<Poison>,
    pub(super) stamp: Stamp,
    /// Sessions of ours that were tried and not answered.
    pub(super) tried: HashSet<SessionId>,
}

/// An answer that has come in.
enum Done {
    Claim {
        name: TaskName,
        nonce: Nonce,
        claimed: Box<Claimed>,
    },
    Return {
        name: TaskName,
        nonce: Nonce,
        released: Option<Released>,
    },
    Ghost {
        name: TaskName,
        nonce: Nonce,
    },
    Pardon {
        name: TaskName,
        pardoned: bool,
    },
    Claims {
        names: Vec<TaskName>,
        claims: Result<Vec<ClaimRecord>, Error>,
    },
    /// Of each, whether its source is there if it is what we know already.
    Definitions(Vec<(TaskName, bool, Result<Option<DefinitionRead>, Error>)>),
    Mirrors(Vec<(TaskName, Nonce, Result<bool, Error>)>),
    Sample(Result<Sample, Error>),
    Bury {
        session: SessionId,
        burial: Result<Burial, Error>,
    },
    Sweep(Result<Found, Error>),
    Row(Result<(), Error>),
    Rows(Result<Vec<(WorkerName, WorkerRow)>, Error>),
    Forgotten(SessionId),
    /// The end of a session was counted against the tasks that its watchdog had named.
    Struck {
        dead: DeadSession,
        struck: Vec<(Task, Verdict<Struck>)>,
    },
    Poison(Vec<(Task, PoisonRecord)>),
    Reviewed {
        task: Task,
        verdict: Result<Verdict<bool>, Error>,
    },
}

/// How changes are noticed at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watching {
    Pushed,
    Polled,
}

/// How many threads there are to be owned, of how many that are known, and when that was counted.
#[derive(Debug, Clone, Copy, Default)]
struct Runnable {
    count: usize,
    of: usize,
    at: BootInstant,
}

pub(super) struct Coordinator {
    config: Config,
    timing: Timing,
    store: Store,
    session: SessionThread,
    vitals: Arc<Vitals>,
    connections: Arc<Connections>,
    events: mpsc::UnboundedSender<Event>,
    peers: tokio::sync::watch::Sender<Peers>,
    /// Whoever runs jobs.
    news: Option<JobNewsSender>,
    named_by_runs: HashSet<SessionId>,
    /// Whoever answers requests.
    endpoint_news: Option<mpsc::UnboundedSender<EndpointNews>>,
    pushed: tokio::sync::watch::Sender<bool>,
    /// Endpoints that have changed while a sweep was under way, which may have missed them.
    endpoints_changed: HashSet<EndpointPath>,
    stamp: Stamp,
    done: mpsc::UnboundedSender<Done>,
    answers: Option<mpsc::UnboundedReceiver<Done>>,

    incarnation: Nonce,
    host: String,
    /// The session that claims are made under.
    lease: Option<Lease>,
    opened_at: Option<BootInstant>,
    /// Sessions of ours that are not known to be dead.
    own: HashSet<SessionId>,
    table: Table,
    observer: Observer,
    /// The sessions in the index, as last seen.
    index: HashSet<SessionId>,
    watching: Watching,
    draining: bool,
    /// Whether new threads may be taken, as far as the rest of the worker is concerned.
    admission: Admission,
    /// How well we are, as far as the rest of the worker has found.
    condition: Condition,
    /// Shares are not compared before this: who has what is changing, and peers do not know it yet.
    calm_at: BootInstant,
    /// Since when it is critical, or no longer.
    condition_since: BootInstant,
    settling: Settling,
    /// A session was opened before the current one.
    opened_before: bool,
    /// Sessions of ours that were opened and are not known to have ended, but for the current one. How they end tells
    /// whether Redis has lost its data: nothing is claimed before.
    unsettled: HashSet<SessionId>,
    /// Sessions of ours that were never answered and were not there when they were closed, and since when.
    given_up: HashMap<SessionId, BootInstant>,
    runnable: Runnable,
    /// Nothing is claimed before this: Redis has lost data, or a worker of 2020 was seen.
    blocked_until: BootInstant,
    /// Redis was seen to have lost data: an owner may trust its lease until then without knowing.
    data_lost_until: BootInstant,
    /// A worker of 2020 was seen alive so recently that it counts as alive until then.
    seen_2020_until: BootInstant,
    claims_under_way: usize,
    /// Threads of ours that are stopped for the sake of another worker, and of which.
    moves: HashMap<TaskName, SessionId>,
    balance_at: BootInstant,
    /// It is said again from then on that this worker is critical and alone.
    alone_said_until: BootInstant,
    ghosts: HashSet<Nonce>,
    pardons: HashSet<TaskName>,
    poison: Arc<Poison>,
    /// Dead sessions whose end is not counted yet against the tasks that they had named.
    striking: HashSet<SessionId>,
    reviewing: HashSet<Task>,
    review_at: BootInstant,

    dirty_claims: HashSet<TaskName>,
    dirty_definitions: HashSet<TaskName>,
    dirty_rows: HashSet<WorkerName>,
    mirrors: HashMap<TaskName, (Nonce, MirrorUpdate)>,
    reading_claims: bool,
    reading_definitions: bool,
    reading_rows: bool,
    /// The mirrors that are on their way: of whom, and what tells when Redis has answered them.
    mirroring: Option<(HashSet<TaskName>, CancellationToken)>,
    flush_at: Option<BootInstant>,

    sampling: bool,
    sample_at: BootInstant,
    sample_failures: u32,
    sweeping: bool,
    sweep_began: BootInstant,
    /// How long the last sweep took. A shared Redis may hold many keys of others, and a sweep passes them all.
    sweep_took: Duration,
    sweep_at: BootInstant,
    poll_at: BootInstant,
    row_at: BootInstant,
    slow_at: BootInstant,
    turn_at: BootInstant,
    to_check: VecDeque<TaskName>,
    check_round_at: BootInstant,
    checks_per_turn: usize,
    rows_of_2020: HashMap<WorkerName, Option<String>>,
    rows_of_ours: HashSet<WorkerName>,
    namesakes: HashMap<SessionId, u64>,
    /// `Status=enabled` of our row was written: from then on it says what an operator wants.
    enabled_written: bool,
    disabled_told: bool,
    closing: Vec<oneshot::Sender<()>>,
    close_at: Option<BootInstant>,
}

enum Flow {
    On,
    Abandon,
    Close,
}

impl Coordinator {
    pub(super) fn new(parts: Parts) -> Self {
        let now = BootInstant::now();
        let timing = parts.config.timing();
        let (done, answers) = mpsc::unbounded_channel();
        Self {
            timing,
            settling: Settling::new(parts.config.settle),
            opened_before: false,
            unsettled: HashSet::new(),
            given_up: HashMap::new(),
            config: parts.config,
            store: parts.store,
            session: parts.session,
            vitals: parts.vitals,
            connections: parts.connections,
            events: parts.events,
            stamp: parts.stamp,
            done,
            answers: Some(answers),
            incarnation: Nonce::random(),
            host: host_name(),
            lease: None,
            opened_at: None,
            own: parts.tried,
            table: Table::default(),
            peers: parts.peers,
            news: None,
            named_by_runs: HashSet::new(),
            endpoint_news: None,
            pushed: parts.pushed,
            endpoints_changed: HashSet::new(),
            observer: Observer::new(timing),
            index: HashSet::new(),
            watching: Watching::Polled,
            draining: false,
            admission: Admission::Open,
            condition: Condition::default(),
            calm_at: BootInstant::default(),
            condition_since: now,
            runnable: Runnable::default(),
            blocked_until: BootInstant::default(),
            data_lost_until: BootInstant::default(),
            seen_2020_until: BootInstant::default(),
            claims_under_way: 0,
            moves: HashMap::new(),
            balance_at: now,
            alone_said_until: BootInstant::default(),
            ghosts: HashSet::new(),
            pardons: HashSet::new(),
            poison: parts.poison,
            striking: HashSet::new(),
            reviewing: HashSet::new(),
            review_at: now,
            dirty_claims: HashSet::new(),
            dirty_definitions: HashSet::new(),
            dirty_rows: HashSet::new(),
            mirrors: HashMap::new(),
            reading_claims: false,
            reading_definitions: false,
            reading_rows: false,
            mirroring: None,
            flush_at: None,
            sampling: false,
            sample_at: now,
            sample_failures: 0,
            sweeping: false,
            sweep_began: now,
            sweep_took: Duration::ZERO,
            sweep_at: now,
            poll_at: now + POLL_OURS,
            row_at: now,
            slow_at: now + SLOW_ROUND,
            turn_at: now,
            to_check: VecDeque::new(),
            check_round_at: now,
            checks_per_turn: 0,
            rows_of_2020: HashMap::new(),
            rows_of_ours: HashSet::new(),
            namesakes: HashMap::new(),
            enabled_written: false,
            disabled_told: false,
            closing: Vec::new(),
            close_at: None,
        }
    }

    pub(super) async fn run(
        mut self,
        lease: Lease,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut notices: mpsc::UnboundedReceiver<session::Notice>,
        watched: mpsc::UnboundedReceiver<watch::Notice>,
    ) {
        let mut watched = Some(watched);
        let Some(mut answers) = self.answers.take() else { return };
        let mut admission = self.config.admission.clone();
        self.admitted(admission.borrow_and_update().clone());
        let mut condition = self.config.condition.clone();
        self.condition_is(condition.borrow_and_update().clone());
        self.first_row().await;
        self.opened(lease);
        loop {
            self.stamp.touch();
            let now = BootInstant::now();
            self.turn(now);
            if self.is_closed(now) {
                return self.close().await;
            }
            let sleep = self.until_next(now);
            let lease = self.lease.clone();
            let pushed = async {
                match &mut watched {
                    Some(watched) => watched.recv().await,
                    None => std::future::pending().await,
                }
            };
            let lost = async {
                match &lease {
                    Some(lease) => lease.lost().await,
                    None => std::future::pending().await,
                }
            };
            let flow = tokio::select! {
                biased;
                () = lost => {
                    self.lost_current();
                    Flow::On
                }
                notice = notices.recv() => self.session_notice(notice),
                command = commands.recv() => self.command(command),
                Some(done) = answers.recv() => {
                    self.answered(done);
                    // Answers come in bursts: take what is there before looking round again.
                    for _ in 0..CLAIMS_MAX {
                        match answers.try_recv() {
                            Ok(done) => self.answered(done),
                            Err(_) => break,
                        }
                    }
                    Flow::On
                }
                notice = pushed => {
                    if notice.is_none() {
                        watched = None;
                    }
                    // Nobody pushes any more once the watch has ended.
                    self.watch_notice(notice.unwrap_or(watch::Notice::Lost));
                    Flow::On
                }
                Ok(()) = admission.changed() => {
                    let admitted = admission.borrow_and_update().clone();
                    self.admitted(admitted);
                    Flow::On
                }
                Ok(()) = condition.changed() => {
                    let found = condition.borrow_and_update().clone();
                    self.condition_is(found);
                    Flow::On
                }
                () = tokio::time::sleep(sleep) => Flow::On,
            };
            match flow {
                Flow::On => {}
                Flow::Abandon => return self.session.abandon(),
                Flow::Close => return self.close().await,
            }
        }
    }

    fn command(&mut self, command: Option<Command>) -> Flow {
        match command {
            Some(Command::Started { name, claim, ran }) => self.started(&name, &claim, ran),
            Some(Command::Release { name, claim, how }) => self.release(&name, &claim, how),
            Some(Command::ClaimNow(names)) => self.claim_now(names),
            Some(Command::Look(names)) => names.into_iter().for_each(|name| self.changed(Key::Thread(name))),
            Some(Command::FeedJobs(tell)) => self.feed_jobs(tell),
            Some(Command::FeedEndpoints(tell)) => self.feed_endpoints(tell),
            Some(Command::LookEndpoint(path)) => self.endpoint_changed(path),
            Some(Command::NameSessions(sessions)) => self.name_sessions(sessions),
            Some(Command::Drain) => self.drain(),
            Some(Command::Close(closed)) => {
                self.drain();
                self.closing.push(closed);
                self.close_at.get_or_insert(BootInstant::now() + self.config.close_timeout);
            }
            Some(Command::Abandon) => return Flow::Abandon,
            // The last handle is gone: nobody runs anything any more.
            None => return Flow::Close,
        }
        Flow::On
    }

    fn session_notice(&mut self, notice: Option<session::Notice>) -> Flow {
        let Some(notice) = notice else {
            error!("the OS thread of the session has ended: so does the worker");
            return Flow::Close;
        };
        match notice {
            session::Notice::Trying(id) => {
                self.own.insert(id);
            }
            session::Notice::Opened(lease) => self.opened(lease),
            session::Notice::Lost(lease) => self.lost(&lease),
            session::Notice::Ended(dead) => {
                self.own.remove(&dead.id);
                let was_opened = self.unsettled.remove(&dead.id);
                match dead.end {
                    SessionEnd::Gone if was_opened => self.data_is_lost(),
                    SessionEnd::Gone => {
                        self.given_up.insert(dead.id.clone(), BootInstant::now());
                    }
                    SessionEnd::Closed | SessionEnd::Buried => {}
                }
                self.died(dead);
                self.consider_all();
            }
            session::Notice::Failed(error) => debug!(%error, "no session yet"),
        }
        Flow::On
    }

    fn watch_notice(&mut self, notice: watch::Notice) {
        match notice {
            watch::Notice::Established => {
                self.watching = Watching::Pushed;
                self.connections.watch.store(true, Ordering::Release);
                self.look_at_everything();
                self.tell_jobs(JobNews::Gap);
                self.tell_endpoints(EndpointNews::Gap);
            }
            watch::Notice::Changed(keys) => {
                let keys: Vec<_> = keys.iter().filter_map(|key| self.store.keys().parse(key)).collect();
                keys.into_iter().for_each(|key| self.changed(key));
            }
            watch::Notice::Lost => {
                self.watching = Watching::Polled;
                self.connections.watch.store(false, Ordering::Release);
                self.poll_at = BootInstant::now() + POLL_OURS;
            }
            watch::Notice::Unavailable => {
                self.watching = Watching::Polled;
                self.connections.watch.store(true, Ordering::Release);
                self.poll_at = BootInstant::now();
            }
        }
    }

    /// Somebody has changed a key, we ourselves perhaps.
    fn changed(&mut self, key: Key) {
        match key {
            // Mostly the echo of our own claim. But it may be somebody else's, after a restart of Redis that has lost
            // ours, and nothing tells the two apart but a look.
            Key::Claim(name) => {
                let thread = self.table.entry(&name);
                match &thread.mine {
                    Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => thread.stale_claim = true,
                    _ => self.read_claim(name),
                }
            }
            Key::Thread(name) => {
                self.review(Task::thread(&name));
                let own_session = self.lease.as_ref().map(|lease| lease.session().clone());
                let thread = self.table.entry(&name);
                match &thread.mine {
                    Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => thread.stale_definition = true,
                    Some(Mine::Owned(_)) => self.read_definition(name),
                    None => match &thread.claim {
                        None => self.read_claim(name),
                        // Whoever owns it looks; it is read again before it is claimed.
                        Some(claim) if claim.session.is_some() && claim.session != own_session => {
                            thread.definition = Known::Unknown;
                            thread.malformed = false;
                            thread.seen = None;
                            self.consider(&name);
                        }
                        Some(_) => self.read_definition(name),
                    },
                }
            }
            Key::Worker(name) => {
                if !self.rows_of_ours.contains(&name) {
                    // Somebody new, perhaps with a session.
                    self.sample_at = BootInstant::now();
                }
                if name == self.config.worker_name || !self.rows_of_ours.contains(&name) {
                    self.dirty_rows.insert(name);
                    self.flush_soon();
                }
            }
            Key::Job(name) => {
                self.review(Task::job(&name));
                self.tell_jobs(JobNews::Changed(name));
            }
            Key::Endpoint(path) => {
                self.review(Task::endpoint(&path));
                self.endpoint_changed(path);
            }
            Key::Poison(task) => self.read_poison(vec![task]),
            Key::Ticks(_) | Key::Session(_) => {}
        }
    }

    fn answered(&mut self, done: Done) {
        match done {
            Done::Claim { name, nonce, claimed } => {
                self.claims_under_way = self.claims_under_way.saturating_sub(1);
                self.claim_answered(&name, &nonce, *claimed);
            }
            Done::Return { name, nonce, released } => self.returned(&name, &nonce, released),
            Done::Ghost { name, nonce } => {
                self.ghosts.remove(&nonce);
                self.read_claim(name);
            }
            Done::Pardon { name, pardoned } => {
                self.pardons.remove(&name);
                if pardoned {
                    self.read_claim(name);
                } else {
                    self.consider(&name);
                }
            }
            Done::Claims { names, claims } => self.claims_read(names, claims),
            Done::Definitions(read) => {
                self.reading_definitions = false;
                for (name, whole, read) in read {
                    self.definition_answered(&name, whole, read);
                }
            }
            Done::Mirrors(mirrors) => self.mirrored(mirrors),
            Done::Sample(sample) => self.sampled(sample),
            Done::Bury { session, burial } => self.buried(&session, burial),
            Done::Sweep(found) => self.swept(found),
            Done::Row(written) => self.row_written(written),
            Done::Rows(rows) => self.rows_read(rows),
            Done::Forgotten(session) => {
                self.index.remove(&session);
                self.observer.forget(&session);
            }
            Done::Struck { dead, struck } => self.struck(&dead, struck),
            Done::Poison(read) => self.poison_read(read),
            Done::Reviewed { task, verdict } => self.reviewed(&task, verdict),
        }
    }

    fn opened(&mut self, lease: Lease) {
        let now = BootInstant::now();
        let peers = self.index.iter().any(|id| !self.is_own(id) && self.observer.dead(id).is_none());
        self.settling.opened(now, self.opened_before.then_some(peers));
        self.opened_before = true;
        self.own.insert(lease.session().clone());
        self.index.insert(lease.session().clone());
        self.lease = Some(lease);
        self.opened_at = Some(now);
        self.look_at_everything();
        self.sample_at = now;
        self.row_at = now;
        self.consider_all();
    }

    /// New threads may be taken from now on, or may not.
    fn admitted(&mut self, admission: Admission) {
        self.admission = admission;
        self.tell_peers();
        // People see it in the row, and peers in the session's next renewal.
        self.row_at = BootInstant::now();
        if self.admission == Admission::Open {
            self.consider_all();
        }
    }

    /// What the rest of the worker has found: mostly other figures, which go into the row when it is written anyway.
    fn condition_is(&mut self, condition: Condition) {
        let was_critical = self.condition.critical.is_some();
        self.condition = condition;
        if was_critical != self.condition.critical.is_some() {
            let now = BootInstant::now();
            self.condition_since = now;
            self.tell_peers();
            // People see it in the row, and peers in the session's next renewal.
            self.row_at = now;
            // What peers are about to say of themselves counts.
            self.sample_at = now;
            self.consider_all();
        }
    }

    /// Peers do not wait for a worker that takes nothing new.
    fn tell_peers(&self) {
        let closed = self.draining || self.admission != Admission::Open || self.condition.critical.is_some();
        self.vitals.closed.store(closed, Ordering::Release);
    }

    fn lost_current(&mut self) {
        if let Some(lease) = self.lease.clone() {
            self.lost(&lease);
        }
    }

    fn lost(&mut self, lease: &Lease) {
        if self.lease.as_ref().is_none_or(|current| current.session() != lease.session()) {
            return;
        }
        warn!(session = %lease.session(), "the session is lost: everything under it ends");
        crate::metrics::SESSIONS_LOST.increment(1);
        self.lease = None;
        self.opened_at = None;
        self.unsettled.insert(lease.session().clone());
        let under_it: Vec<_> = self.table.mine().cloned().collect();
        for name in under_it {
            let thread = self.table.entry(&name);
            if thread.mine.as_ref().is_some_and(|mine| mine.lease().session() == lease.session()) {
                // What was being claimed may be held or not: the claim is read when the session is dead.
                let granted = thread.owned().map(|owned| owned.nonce.clone());
                self.table.set_mine(&name, None);
                if granted.is_none() {
                    self.read_claim(name);
                }
            }
        }
        self.mirrors.clear();
        self.moves.clear();
        self.count_threads();
        self.tell(Event::Lost { lease: lease.clone() });
    }

    fn is_own(&self, session: &SessionId) -> bool {
        self.own.contains(session)
    }

    /// A session has died: what it owned is free.
    fn died(&mut self, dead: DeadSession) {
        let id = dead.id.clone();
        if self.lease.as_ref().is_some_and(|lease| *lease.session() == id) {
            // Ours: the session's OS thread will hear of it by its own renewal.
            return;
        }
        self.calm_at = balancing::calm_at();
        if !self.is_own(&id) {
            info!(session = %id, end = ?dead.end, "a session has ended");
        }
        self.observer.bury(dead.clone());
        if dead.suspects.is_empty() {
            self.settled(&id);
        } else {
            self.strike(dead);
        }
    }

    /// What a dead session has left may be taken over.
    fn settled(&mut self, id: &SessionId) {
        self.tell_jobs(JobNews::Died(id.clone()));
        let freed = self
            .table
            .names(|thread| thread.claim.as_ref().is_some_and(|claim| claim.session.as_ref() == Some(id)));
        for name in freed {
            self.consider(&name);
        }
    }

    fn is_closed(&self, now: BootInstant) -> bool {
        self.close_at.is_some_and(|at| self.table.mine_len() == 0 || now >= at)
    }

    async fn close(mut self) {
        if self.table.mine_len() > 0 {
            warn!(
                threads = self.table.mine_len(),
                "not every release was answered: peers take over what is left"
            );
        }
        self.drain();
        self.session.close().await;
        let row = self.row("offline");
        let written = self.store.write_row(&self.config.worker_name, &row, Some(ROW_TTL));
        if !matches!(tokio::time::timeout(self.timing.command_timeout(), written).await, Ok(Ok(()))) {
            debug!("the worker's row could not be marked offline");
        }
        for closed in self.closing.drain(..) {
            let _ = closed.send(());
        }
    }

    fn tell(&self, event: Event) {
        // Whoever runs the scripts may be gone already at the end.
        let _ = self.events.send(event);
    }
}

fn crashed_mirror(error: String) -> MirrorUpdate {
    MirrorUpdate { owner: Some(String::new()), ..MirrorUpdate::crashed(error) }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

//! The coordinator's loop and what it does at each message. The rules are in `plan`, the knowledge in `table`, the
//! requests in `operation`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fred::interfaces::ClientLike;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::{BootInstant, unix_nanos};
use crate::config::Config;
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::keys::Key;
use crate::lease::{Lease, Timing};
use crate::name::{TaskName, WorkerName};
use crate::observe::{Due, Observer};
use crate::records::{
    ClaimRecord, DeadSession, Definition, DefinitionRead, SessionEnd, SessionRecord, SourceDigest, State,
    WorkerRow,
};
use crate::session::{self, SessionThread, Vitals};
use crate::store::{
    Answer, Burial, Found, Granted, Handover, MirrorError, MirrorUpdate, ReleaseKind, Released, Sample, Store,
};
use crate::watch;
use crate::watchdog::Stamp;

use super::operation::{Claim, Claimed, Return, until_answered};
use super::plan::{Member, Members};
use super::settle::{FEW, Room, Settling};
use super::table::{Known, Mine, Owned, Table, Thread};
use super::{Command, Connections, Event, Grant, KIND, Release, StopReason};

/// So many claims are under way at once.
const CLAIMS_MAX: usize = 256;
/// Each thread that we own is checked once in this.
const CHECK_ROUND: Duration = Duration::from_secs(30);
/// While the watch holds, definitions of what we own and claims of others are re-read once in this.
const SLOW_ROUND: Duration = Duration::from_secs(300);
/// Everything is looked for once in this.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Without a watch: what is ours, and everything else.
const POLL_OURS: Duration = Duration::from_secs(1);
const POLL_REST: Duration = Duration::from_secs(5);
/// Without a watch and with no more threads than this, everything is polled as often as what is ours.
const POLL_FEW: usize = 500;
/// The pause before a sweep is at least so many times as long as the last sweep.
const SWEEP_PAUSE: u32 = 10;
/// Sessions are sampled this often before all may be claimed.
const SAMPLE_SETTLING: Duration = Duration::from_millis(50);
/// The worker's row is written this often.
const ROW_EVERY: Duration = Duration::from_secs(10);
/// Until it was written for the first time it is tried this often.
const ROW_RETRY: Duration = Duration::from_secs(1);
/// A row that is not written any more goes after this.
const ROW_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long whoever is preferred at a hand-over goes first.
const PREFER_FOR: Duration = Duration::from_millis(400);
/// The same where changes are not pushed.
const PREFER_FOR_POLLED: Duration = Duration::from_secs(2);
/// Notices that come this close together are looked into together.
const COALESCE: Duration = Duration::from_millis(2);
/// After a request about one thread has failed.
const RETRY: Duration = Duration::from_millis(300);
/// A malformed definition whose error could not be written down is not tried again sooner.
const MALFORMED_REST: Duration = Duration::from_millis(500);
/// After a refusal the same is not asked for sooner, whatever the clocks say.
const REFUSED_REST: Duration = Duration::from_millis(50);
/// The same where the key of the claim holds something else.
const UNCLAIMABLE_REST: Duration = Duration::from_secs(5);
/// The loop comes round at least this often.
const TURN_MAX: Duration = Duration::from_millis(500);
/// A count of all threads is good for this long.
const RUNNABLE_AGE_MAX: Duration = Duration::from_millis(100);
/// Who waits for its rank looks again after this.
const PLAN_AGE_MAX: Duration = Duration::from_millis(100);
/// So many failed samples in a row and the connection is made anew.
const FAILURES_MAX: u32 = 3;
/// What a mark of poison says.
const POISON: &str = "poison: the workers that ran this thread died three times in a row; it is left alone for 10 minutes or \
                      until it is changed, restarted or enabled anew";
/// Stored instants further ahead than this count as passed.
const NEXT_START_MAX: Duration = Duration::from_secs(60);
const POISON_MAX: Duration = Duration::from_secs(600);
const PREFER_MAX: Duration = Duration::from_secs(10);
/// A request that was given up may still arrive for so long.
const GIVEN_UP_KEPT: Duration = Duration::from_secs(600);
/// A dead session is remembered in Redis for this long.
const DEAD_KEPT_MS: u64 = 3_600_000;

/// What the loop is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) session: SessionThread,
    pub(super) vitals: Arc<Vitals>,
    pub(super) connections: Arc<Connections>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) stamp: Stamp,
    /// Sessions of ours that were tried and not answered.
    pub(super) tried: HashSet<SessionId>,
}

/// An answer that has come in.
enum Done {
    Claim { name: TaskName, nonce: Nonce, claimed: Box<Claimed> },
    Return { name: TaskName, nonce: Nonce, released: Option<Released> },
    Ghost { name: TaskName, nonce: Nonce },
    Pardon { name: TaskName, pardoned: bool },
    Claims { names: Vec<TaskName>, claims: Result<Vec<ClaimRecord>, Error> },
    Definitions(Vec<(TaskName, Result<Option<DefinitionRead>, Error>)>),
    Mirrors(Vec<(TaskName, Nonce, Result<bool, Error>)>),
    Sample(Result<Sample, Error>),
    Bury { session: SessionId, burial: Result<Burial, Error> },
    Sweep(Result<Found, Error>),
    Row(Result<(), Error>),
    Rows(Result<Vec<(WorkerName, WorkerRow)>, Error>),
    Forgotten(SessionId),
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
    stamp: Stamp,
    done: mpsc::UnboundedSender<Done>,
    answers: Option<mpsc::UnboundedReceiver<Done>>,

    incarnation: Nonce,
    host: String,
    /// The session that claims are made under.
    lease: Option<Lease>,
    /// Sessions of ours that are not known to be dead.
    own: HashSet<SessionId>,
    table: Table,
    observer: Observer,
    /// The sessions in the index, as last seen.
    index: HashSet<SessionId>,
    watching: Watching,
    draining: bool,
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
    ghosts: HashSet<Nonce>,
    pardons: HashSet<TaskName>,

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
            own: parts.tried,
            table: Table::default(),
            observer: Observer::new(timing),
            index: HashSet::new(),
            watching: Watching::Polled,
            draining: false,
            runnable: Runnable::default(),
            blocked_until: BootInstant::default(),
            data_lost_until: BootInstant::default(),
            seen_2020_until: BootInstant::default(),
            claims_under_way: 0,
            ghosts: HashSet::new(),
            pardons: HashSet::new(),
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
                () = tokio::time::sleep(sleep) => Flow::On,
            };
            match flow {
                Flow::On => {}
                Flow::Abandon => return self.session.abandon(),
                Flow::Close => return self.close().await,
            }
        }
    }

    // ---- messages ----------------------------------------------------------------------------------------------

    fn command(&mut self, command: Option<Command>) -> Flow {
        match command {
            Some(Command::Started { name, claim }) => self.started(&name, &claim),
            Some(Command::Release { name, claim, how }) => self.release(&name, &claim, how),
            Some(Command::ClaimNow(names)) => self.claim_now(names),
            Some(Command::Look(names)) => names.into_iter().for_each(|name| self.changed(Key::Thread(name))),
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
            Key::Job(_) | Key::Endpoint(_) | Key::Session(_) => {}
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
                read.into_iter().for_each(|(name, read)| self.definition_read(&name, read));
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
        }
    }

    // ---- the session -------------------------------------------------------------------------------------------

    fn opened(&mut self, lease: Lease) {
        let now = BootInstant::now();
        let peers = self.index.iter().any(|id| !self.is_own(id) && self.observer.dead(id).is_none());
        self.settling.opened(now, self.opened_before.then_some(peers));
        self.opened_before = true;
        self.own.insert(lease.session().clone());
        self.index.insert(lease.session().clone());
        self.lease = Some(lease);
        self.look_at_everything();
        self.sample_at = now;
        self.row_at = now;
        self.consider_all();
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
        self.lease = None;
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
        if !self.is_own(&id) {
            info!(session = %id, end = ?dead.end, "a session has ended");
        }
        self.observer.bury(dead);
        let freed = self
            .table
            .names(|thread| thread.claim.as_ref().is_some_and(|claim| claim.session.as_ref() == Some(&id)));
        for name in freed {
            self.consider(&name);
        }
    }

    // ---- who else is there -------------------------------------------------------------------------------------

    fn sample(&mut self, now: BootInstant) {
        let settling = now < self.settling.over();
        self.sample_at = now + if settling { SAMPLE_SETTLING } else { self.timing.sample_every() };
        if self.sampling {
            return;
        }
        self.sampling = true;
        let ids: HashSet<&SessionId> = self.index.iter().chain(self.table.named()).collect();
        let ids: Vec<SessionId> = ids
            .into_iter()
            .filter(|id| !self.is_own(id) && self.observer.dead(id).is_none())
            .cloned()
            .collect();
        let (store, done) = (self.store.clone(), self.done.clone());
        let limit = self.timing.command_timeout() * 2;
        tokio::spawn(async move {
            let sample = tokio::time::timeout(limit, store.sample(&ids)).await;
            let _ = done.send(Done::Sample(sample.unwrap_or(Err(Error::Timeout))));
        });
    }

    fn sampled(&mut self, sample: Result<Sample, Error>) {
        self.sampling = false;
        let now = BootInstant::now();
        let sample = match sample {
            Ok(sample) => sample,
            Err(error) => {
                debug!(%error, "the sessions could not be sampled");
                self.observer.failed();
                self.connections.main.store(false, Ordering::Release);
                self.sample_failures += 1;
                if self.sample_failures.is_multiple_of(FAILURES_MAX) {
                    self.reconnect();
                }
                return;
            }
        };
        self.sample_failures = 0;
        self.connections.main.store(true, Ordering::Release);
        let unknown = sample
            .index
            .iter()
            .any(|id| !self.index.contains(id) && !self.is_own(id) && self.observer.dead(id).is_none());
        self.index = sample.index.into_iter().collect();
        if unknown {
            self.sample_at = now;
        }
        self.look_for_namesakes(&sample.sessions);
        self.settle(now, unknown, &sample.sessions);
        for dead in self.observer.answered(now, sample.sessions) {
            self.died(dead);
        }
    }

    /// Who is there decides from when on we claim.
    fn settle(&mut self, now: BootInstant, unknown: bool, sessions: &[(SessionId, Option<SessionRecord>)]) {
        let server_ms = self.vitals.server_ms(now);
        let records = sessions.iter().filter_map(|(_, record)| record.as_ref());
        let peers = records.filter(|record| record.alive && record.ready && record.expiry_ms > server_ms);
        let ages = peers.map(|record| Duration::from_millis(server_ms.saturating_sub(record.opened_ms)));
        let before = (self.settling.room(now), self.settling.over());
        self.settling.looked(now, ages.chain(unknown.then_some(Duration::ZERO)));
        if before != (self.settling.room(now), self.settling.over()) {
            self.consider_all();
        }
    }

    /// The connection that answers nobody any more may be dead without having been told.
    fn reconnect(&self) {
        let (store, limit) = (self.store.clone(), self.config.connect_timeout());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(limit * 2, store.client().force_reconnection()).await;
        });
    }

    fn look_for_namesakes(&mut self, sessions: &[(SessionId, Option<SessionRecord>)]) {
        let there: HashSet<&SessionId> = sessions.iter().map(|(id, _)| id).collect();
        self.namesakes.retain(|id, _| there.contains(id));
        for (id, record) in sessions {
            let Some(record) = record else { continue };
            if !record.alive || record.name != self.config.worker_name.as_str() {
                continue;
            }
            match self.namesakes.get(id).copied() {
                None => {
                    self.namesakes.insert(id.clone(), record.beat);
                }
                // It beats, so it is not what is left of an earlier run of ours.
                Some(beat) if beat != 0 && beat != record.beat => {
                    warn!(worker = %self.config.worker_name, session = %id, "another worker has the same name; both work");
                    self.namesakes.insert(id.clone(), 0);
                }
                Some(_) => {}
            }
        }
    }

    fn bury_due(&mut self, now: BootInstant) {
        let table = &self.table;
        for due in self.observer.due(now, |id| table.is_named(id)) {
            match due {
                Due::Bury { session, beat, expiry_ms } => {
                    // One at a time: the next try comes after this one's answer, or after its timeout.
                    self.observer.try_again(&session, now + self.timing.command_timeout() * 2);
                    let (store, done) = (self.store.clone(), self.done.clone());
                    tokio::spawn(async move {
                        let burial = store.bury(&session, beat, expiry_ms).await;
                        let _ = done.send(Done::Bury { session, burial });
                    });
                }
                Due::Gone { session } => self.died(DeadSession::gone(session)),
            }
        }
    }

    fn buried(&mut self, session: &SessionId, burial: Result<Burial, Error>) {
        let now = BootInstant::now();
        match burial {
            Ok(Burial::Buried(dead)) => {
                warn!(%session, "a session has stopped beating and is declared dead");
                self.died(dead);
            }
            Ok(Burial::AlreadyDead(dead)) => self.died(dead),
            Ok(Burial::Moved { .. }) => self.observer.moved(session),
            Ok(Burial::NotYet { server_ms, expiry_ms }) => {
                let wait = Duration::from_millis(expiry_ms.saturating_sub(server_ms).clamp(10, 1000));
                self.observer.try_again(session, now + wait);
            }
            Ok(Burial::Gone) => self.observer.moved(session),
            Err(error) => {
                debug!(%error, %session, "burial not answered");
                self.observer.try_again(session, now + RETRY);
            }
        }
    }

    fn members(&mut self, now: BootInstant) -> Members {
        // Counting all threads at every look would cost more than a count that is a moment old. But where new ones are
        // heard of the shares grow with each.
        let is_old = now.saturating_duration_since(self.runnable.at) >= RUNNABLE_AGE_MAX;
        if is_old || self.runnable.of != self.table.len() {
            self.runnable = Runnable { count: self.table.runnable(), of: self.table.len(), at: now };
        }
        let mut members: Vec<Member> = self
            .observer
            .alive(now)
            .filter(|(id, record)| record.ready && !self.is_own(id))
            .map(|(id, _)| Member { session: id.clone(), weight: 1.0, threads: self.table.load(id) })
            .collect();
        if let Some(lease) = &self.lease
            && !self.draining
        {
            let threads = self.table.mine_len();
            members.push(Member { session: lease.session().clone(), weight: 1.0, threads });
        }
        Members::new(members, self.runnable.count.max(self.table.mine_len()))
    }

    // ---- claiming ----------------------------------------------------------------------------------------------

    fn can_claim(&self, now: BootInstant) -> bool {
        !self.draining
            && now >= self.blocked_until
            && self.unsettled.is_empty()
            && self.lease.as_ref().is_some_and(Lease::is_trusted)
    }

    fn claim_now(&mut self, names: Vec<TaskName>) {
        for name in names {
            self.table.entry(&name).run_now = true;
            self.consider(&name);
        }
    }

    fn consider_all(&mut self) {
        for name in self.table.names(|thread| thread.mine.is_none()) {
            self.consider(&name);
        }
    }

    /// Looks at a thread that is not ours: whether it may be claimed, and from when on.
    fn consider(&mut self, name: &TaskName) {
        let now = BootInstant::now();
        let at = self.claimable_at(name, now);
        self.table.schedule(name, at);
    }

    /// When the thread may be claimed by somebody; none = as far as is known, not before something changes.
    fn claimable_at(&mut self, name: &TaskName, now: BootInstant) -> Option<BootInstant> {
        let thread = self.table.get(name)?;
        if thread.mine.is_some() {
            return None;
        }
        if let Some(nonce) = self.ghost(thread) {
            self.release_ghost(name, &nonce);
            return None;
        }
        let thread = self.table.get(name)?;
        if thread.is_off() {
            return None;
        }
        let Some(claim) = &thread.claim else {
            self.read_claim(name.clone());
            return None;
        };
        let changed = thread.has_changed();
        let mut at = thread.not_before;
        match &claim.session {
            Some(session) if self.observer.dead(session).is_none() => return None,
            Some(_) => {}
            None => {
                if !changed {
                    at = at.max(self.server_instant(claim.next_start_ms, now, NEXT_START_MAX));
                    at = at.max(self.server_instant(claim.poison_ms, now, POISON_MAX));
                }
                let preferred =
                    self.lease.as_ref().is_some_and(|own| claim.prefer.as_ref() == Some(own.session()));
                if !preferred && claim.prefer.is_some() {
                    at = at.max(self.server_instant(claim.prefer_until_ms, now, PREFER_MAX));
                }
            }
        }
        let thread = self.table.get_mut(name)?;
        let free_since = *thread.free_since.get_or_insert(now);
        Some(at.max(free_since))
    }

    /// The nonce, if the claim names our session although we neither own the thread nor ask for it.
    fn ghost(&self, thread: &Thread) -> Option<Nonce> {
        let claim = thread.claim.as_ref()?;
        let is_ours = self.lease.as_ref()?.session() == claim.session.as_ref()?;
        if is_ours { claim.nonce.clone() } else { None }
    }

    /// A stored instant on our boot clock. One further ahead than it could have been set counts as passed.
    fn server_instant(&self, server_ms: u64, now: BootInstant, most: Duration) -> BootInstant {
        let at = self.vitals.boot_at(server_ms);
        if server_ms == 0 || at.saturating_duration_since(now) > most { BootInstant::default() } else { at }
    }

    /// Claims what is due, as far as there is room.
    fn claim_due(&mut self, now: BootInstant) {
        let is_due = self.table.next_due().is_some_and(|at| at <= now);
        if !is_due || !self.can_claim(now) || self.claims_under_way >= CLAIMS_MAX {
            return;
        }
        let Some(lease) = self.lease.clone() else { return };
        let members = self.members(now);
        let room = self.settling.room(now);
        while self.claims_under_way < CLAIMS_MAX {
            let Some(name) = self.table.pop_due(now) else { return };
            let Some(at) = self.claimable_at(&name, now) else { continue };
            let Some(thread) = self.table.get(&name) else { continue };
            let preferred =
                thread.claim.as_ref().is_some_and(|claim| claim.prefer.as_ref() == Some(lease.session()));
            let at = if thread.run_now || preferred {
                at
            } else if room == Room::Few && self.table.mine_len() >= FEW {
                at.max(self.settling.over())
            } else {
                let since = at.max(self.settling.free_since(now)).max(self.blocked_until);
                since + members.delay(&name, lease.session(), self.table.mine_len())
            };
            if at > now {
                // Shares and members may change meanwhile.
                self.table.schedule(&name, Some(at.min(now + PLAN_AGE_MAX)));
            } else {
                self.claim(name, lease.clone());
            }
        }
    }

    fn claim(&mut self, name: TaskName, lease: Lease) {
        let nonce = Nonce::random();
        let mine = Mine::Claiming { nonce: nonce.clone(), lease: lease.clone() };
        self.table.set_mine(&name, Some(mine));
        self.claims_under_way += 1;
        let thread = self.table.entry(&name);
        thread.stale_claim = false;
        thread.stale_definition = false;
        let of_2020 = thread.of_2020.clone();
        let claim = thread.claim.clone().unwrap_or_default();
        let dead = claim.session.as_ref().and_then(|session| self.observer.dead(session)).cloned();
        let request = Claim {
            store: self.store.clone(),
            lease,
            timing: self.timing,
            name: name.clone(),
            nonce: nonce.clone(),
            dead,
            unclaimed: claim.epoch == 0 && claim.session.is_none(),
            of_2020,
        };
        let done = self.done.clone();
        tokio::spawn(async move {
            let claimed = Box::new(request.run().await);
            let _ = done.send(Done::Claim { name, nonce, claimed });
        });
    }

    fn claim_answered(&mut self, name: &TaskName, nonce: &Nonce, claimed: Claimed) {
        if !self.table.has_nonce(name, nonce) {
            // The session was lost meanwhile: its death settles it.
            return;
        }
        let Some(Mine::Claiming { lease, .. }) = self.table.set_mine(name, None) else { return };
        let thread = self.table.entry(name);
        if !matches!(claimed, Claimed::Of2020 { .. } | Claimed::Unread(_)) {
            thread.run_now = false;
        }
        let stale_claim = std::mem::take(&mut thread.stale_claim);
        match claimed {
            Claimed::Granted { granted, read } => {
                self.granted(name, nonce, lease, granted, read);
                if stale_claim {
                    self.read_claim(name.clone());
                }
                return;
            }
            Claimed::Refused { answer, read } => self.refused(name, answer, &read),
            Claimed::NothingToRun { read } => thread.read(read.as_ref()),
            Claimed::Of2020 { heartbeat, since } => {
                if thread.of_2020.is_none() {
                    info!(task = %name, "says running and nobody claims it: watched before it is claimed");
                }
                thread.of_2020 = Some((heartbeat, since));
                thread.not_before = BootInstant::now() + self.timing.sample_every();
            }
            Claimed::Unread(error) => {
                debug!(task = %name, %error, "the definition could not be read");
                thread.not_before = BootInstant::now() + RETRY;
            }
            Claimed::Unclaimable(error) => {
                if !std::mem::replace(&mut thread.unclaimable, true) {
                    warn!(task = %name, %error, "its claim cannot be used, nobody can run it");
                }
                thread.not_before = BootInstant::now() + UNCLAIMABLE_REST;
            }
            Claimed::LeaseLost => {}
        }
        if std::mem::take(&mut self.table.entry(name).stale_definition) {
            self.read_definition(name.clone());
        }
        if stale_claim {
            self.read_claim(name.clone());
        } else {
            self.consider(name);
        }
    }

    fn refused(&mut self, name: &TaskName, answer: Answer, read: &DefinitionRead) {
        if let Answer::BackOff { server_ms, .. }
        | Answer::Prefer { server_ms, .. }
        | Answer::Poison { server_ms, .. } = &answer
        {
            // Its clock may have been set back since the last renewal.
            self.vitals.server_said(*server_ms);
        }
        let thread = self.table.entry(name);
        thread.read(Some(read));
        thread.not_before = thread.not_before.max(BootInstant::now() + REFUSED_REST);
        let mut claim = thread.claim.clone().unwrap_or_default();
        // A refusal because of the past says that nothing has changed since.
        let same_as_ran = |claim: &mut ClaimRecord| {
            claim.session = None;
            claim.source = Some(read.digest.clone());
            claim.restart_at.clone_from(&read.restart_at);
        };
        match answer {
            Answer::Held { session, nonce } => {
                claim.session = session;
                claim.nonce = nonce;
                claim.prefer = None;
            }
            Answer::BackOff { next_start_ms, .. } => {
                same_as_ran(&mut claim);
                claim.next_start_ms = next_start_ms;
            }
            Answer::Poison { until_ms, .. } => {
                same_as_ran(&mut claim);
                claim.poison_ms = until_ms;
                if read.mirror.error.as_deref() != Some(POISON)
                    || read.mirror.state.as_deref() != Some("crashed")
                {
                    error!(task = %name, "{POISON}");
                    self.write_poison(name);
                }
            }
            Answer::Prefer { session, until_ms, .. } => {
                claim.session = None;
                claim.prefer = Some(session);
                claim.prefer_until_ms = until_ms;
            }
            Answer::Granted(_) => {}
        }
        self.table.set_claim(name, claim);
    }

    fn write_poison(&self, name: &TaskName) {
        let (store, name) = (self.store.clone(), name.clone());
        let update = MirrorUpdate {
            state: Some(State::Crashed),
            owner: Some(String::new()),
            error: MirrorError::Set(POISON.to_owned()),
            disable: false,
        };
        tokio::spawn(async move {
            if let Err(error) = store.mirror(&name, &update).await {
                debug!(task = %name, %error, "the mark of poison is not written, whoever meets it next does");
            }
        });
    }

    fn granted(
        &mut self,
        name: &TaskName,
        nonce: &Nonce,
        lease: Lease,
        granted: Granted,
        read: Option<DefinitionRead>,
    ) {
        self.vitals.server_said(granted.server_ms);
        let thread = self.table.entry(name);
        thread.unclaimable = false;
        thread.read(read.as_ref());
        thread.of_2020 = None;
        let stale_definition = std::mem::take(&mut thread.stale_definition);
        let claim = ClaimRecord {
            session: Some(lease.session().clone()),
            nonce: Some(nonce.clone()),
            epoch: granted.epoch,
            claimed_ms: granted.claimed_ms,
            restarts: granted.restarts,
            deaths: granted.deaths,
            source: read.as_ref().map(|read| read.digest.clone()),
            restart_at: read.as_ref().and_then(|read| read.restart_at.clone()),
            ..ClaimRecord::default()
        };
        self.table.set_claim(name, claim);
        let definition = match read {
            Some(DefinitionRead { enabled: true, definition: Ok(definition), .. }) if !self.draining => {
                definition
            }
            Some(DefinitionRead { enabled: true, definition: Err(error), .. }) => {
                let error = error.to_string();
                warn!(task = %name, error, "the definition is malformed");
                // No back-off: it starts as soon as it is mended, and what says so already is not claimed.
                let how = Handover::crashed(Duration::ZERO, granted.restarts);
                self.table.entry(name).not_before = BootInstant::now() + MALFORMED_REST;
                return self.give_back(name, nonce, lease, how, crashed_mirror(error));
            }
            Some(read) => {
                let prefer = if read.enabled { self.successor(name) } else { None };
                let how = Handover { prefer, ..Handover::free() };
                return self.give_back(name, nonce, lease, how, MirrorUpdate::default());
            }
            None => {
                let how = Handover { retire: true, ..Handover::free() };
                return self.give_back(name, nonce, lease, how, MirrorUpdate::default());
            }
        };
        let owned = Owned {
            nonce: nonce.clone(),
            lease: lease.clone(),
            ran: (definition.digest.clone(), definition.restart_at.clone()),
            definition: definition.clone(),
            stop: None,
            malformed: None,
            doubted: false,
        };
        self.table.set_mine(name, Some(Mine::Owned(Box::new(owned))));
        self.count_threads();
        if stale_definition {
            self.read_definition(name.clone());
        }
        let grant = Grant {
            key: self.store.keys().thread(name),
            name: name.clone(),
            claim: nonce.clone(),
            epoch: granted.epoch,
            restarts: granted.restarts,
            lease: lease.clone(),
            definition,
        };
        if self.events.send(Event::Claimed(grant)).is_err() {
            // Nobody is left who would run it, or give it back.
            let how = Handover { prefer: self.successor(name), ..Handover::free() };
            self.give_back(name, nonce, lease, how, MirrorUpdate::default());
            self.count_threads();
        }
    }

    /// Our session is named with a nonce that we do not know: nobody runs it, so it is given up at once.
    fn release_ghost(&mut self, name: &TaskName, nonce: &Nonce) {
        let Some(lease) = self.lease.clone() else { return };
        if !self.ghosts.insert(nonce.clone()) {
            return;
        }
        debug!(task = %name, %nonce, "a claim of ours that we know nothing of is given up");
        let (store, done) = (self.store.clone(), self.done.clone());
        let (name, nonce) = (name.clone(), nonce.clone());
        tokio::spawn(async move {
            let how = Handover::free();
            let _ = until_answered(&lease, || store.release(&name, &nonce, &how)).await;
            let _ = done.send(Done::Ghost { name, nonce });
        });
    }

    // ---- what we own -------------------------------------------------------------------------------------------

    fn started(&mut self, name: &TaskName, claim: &Nonce) {
        let owned = self.table.get_mut(name).and_then(|thread| thread.owned_mut());
        let Some(owned) = owned.filter(|owned| owned.nonce == *claim) else { return };
        // A source that was told but has not begun is not what fails.
        owned.ran = (owned.definition.digest.clone(), owned.definition.restart_at.clone());
        let update = MirrorUpdate {
            state: Some(State::Running),
            owner: Some(self.config.worker_name.to_string()),
            error: MirrorError::Keep,
            disable: false,
        };
        self.mirrors.insert(name.clone(), (claim.clone(), update));
        self.flush_soon();
    }

    fn release(&mut self, name: &TaskName, claim: &Nonce, how: Release) {
        let now = BootInstant::now();
        let Some(thread) = self.table.get_mut(name) else { return };
        let Some(owned) = thread.owned().filter(|owned| owned.nonce == *claim) else { return };
        let lease = owned.lease.clone();
        let (stop, malformed, ran) = (owned.stop, owned.malformed.clone(), owned.ran.clone());
        let mut handover = Handover { ran: Some(ran), ..Handover::free() };
        let mirror = match (&how, malformed) {
            (_, Some(error)) if stop == Some(StopReason::Malformed) => {
                handover.kind = Handover::crashed(Duration::ZERO, 0).kind;
                thread.not_before = now + MALFORMED_REST;
                crashed_mirror(error)
            }
            (Release::Crashed { error, back_off, restarts }, _) => {
                handover.kind = Handover::crashed(*back_off, *restarts).kind;
                crashed_mirror(error.clone())
            }
            (Release::Free { cool_down, prefer_other }, _) => {
                thread.not_before = now + *cool_down;
                if *prefer_other {
                    handover.prefer = self.successor(name);
                } else if stop == Some(StopReason::Restart) {
                    handover.prefer = Some((lease.session().clone(), PREFER_FOR));
                }
                stopped_mirror()
            }
            (Release::Stopped, _) => stopped_mirror(),
        };
        handover.retire = stop == Some(StopReason::Deleted);
        self.give_back(name, claim, lease, handover, mirror);
        self.count_threads();
    }

    fn give_back(
        &mut self,
        name: &TaskName,
        nonce: &Nonce,
        lease: Lease,
        how: Handover,
        mirror: MirrorUpdate,
    ) {
        self.mirrors.remove(name);
        let mine = Mine::Releasing { nonce: nonce.clone(), lease: lease.clone() };
        self.table.set_mine(name, Some(mine));
        let request = Return {
            store: self.store.clone(),
            lease,
            name: name.clone(),
            nonce: nonce.clone(),
            rests: self.rests(name, &how),
            how,
            mirror,
        };
        // A word of ours that is still on its way must not come after these: it would stand there for good.
        let earlier = self.mirroring.as_ref().filter(|(names, _)| names.contains(name));
        let earlier = earlier.map(|(_, answered)| answered.clone());
        let (done, name, nonce) = (self.done.clone(), name.clone(), nonce.clone());
        tokio::spawn(async move {
            if let Some(answered) = earlier {
                answered.cancelled().await;
            }
            let released = request.run().await;
            let _ = done.send(Done::Return { name, nonce, released });
        });
    }

    /// Whether nobody can have started a thread for some time after it is given back.
    fn rests(&self, name: &TaskName, how: &Handover) -> bool {
        match how.kind {
            // Two requests fit into it.
            ReleaseKind::Crashed { back_off, .. } if back_off > self.timing.command_timeout() * 3 => true,
            _ => self.table.get(name).is_some_and(Thread::is_off),
        }
    }

    fn returned(&mut self, name: &TaskName, nonce: &Nonce, released: Option<Released>) {
        if !self.table.has_nonce(name, nonce) {
            return;
        }
        self.table.set_mine(name, None);
        let thread = self.table.entry(name);
        thread.stale_claim = false;
        thread.stale_definition = false;
        thread.definition = Known::Unknown;
        thread.malformed = false;
        match released {
            // The session is lost: its death settles it.
            None => return,
            // It is for others to look now.
            Some(_) if self.draining => return,
            Some(Released::NotHeld) => self.read_claim(name.clone()),
            Some(Released::Released) => {
                let claim = ClaimRecord { session: None, ..thread.claim.clone().unwrap_or_default() };
                self.table.set_claim(name, claim);
                // Next start, preference and whoever has taken it meanwhile.
                self.read_claim(name.clone());
            }
        }
        // Why it was given back may be over already; and what is off must be known to be off before it is claimed.
        self.read_definition(name.clone());
    }

    /// Whom to hand a thread to.
    fn successor(&mut self, name: &TaskName) -> Option<(SessionId, Duration)> {
        let members = self.members(BootInstant::now());
        let own = self.lease.as_ref()?.session();
        let duration = match self.watching {
            Watching::Pushed => PREFER_FOR,
            Watching::Polled => PREFER_FOR_POLLED,
        };
        members.successor(name, own).map(|session| (session.clone(), duration))
    }

    fn ask_to_stop(&mut self, name: &TaskName, reason: StopReason) {
        let Some(owned) = self.table.get_mut(name).and_then(|thread| thread.owned_mut()) else { return };
        // What has moved outweighs what was asked for in good order.
        if owned.stop.is_some() && (reason != StopReason::Moved || owned.stop == Some(StopReason::Moved)) {
            return;
        }
        owned.stop = Some(reason);
        let claim = owned.nonce.clone();
        self.tell(Event::Stop { name: name.clone(), claim, reason });
    }

    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.vitals.draining.store(true, Ordering::Release);
        self.row_at = BootInstant::now();
    }

    fn count_threads(&self) {
        let owned = u64::try_from(self.table.owned_len()).unwrap_or(u64::MAX);
        self.vitals.threads.store(owned, Ordering::Relaxed);
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    fn read_claim(&mut self, name: TaskName) {
        self.dirty_claims.insert(name);
        self.flush_soon();
    }

    fn read_definition(&mut self, name: TaskName) {
        self.dirty_definitions.insert(name);
        self.flush_soon();
    }

    fn flush_soon(&mut self) {
        self.flush_at.get_or_insert(BootInstant::now() + COALESCE);
    }

    /// Sends what has gathered, one request of each kind at a time: later notices are read later.
    fn flush(&mut self) {
        self.flush_at = None;
        if !self.reading_claims && !self.dirty_claims.is_empty() {
            self.reading_claims = true;
            let names: Vec<_> = std::mem::take(&mut self.dirty_claims).into_iter().collect();
            let (store, done) = (self.store.clone(), self.done.clone());
            tokio::spawn(async move {
                let claims = store.check(&names).await;
                let _ = done.send(Done::Claims { names, claims });
            });
        }
        if !self.reading_definitions && !self.dirty_definitions.is_empty() {
            self.reading_definitions = true;
            let names = std::mem::take(&mut self.dirty_definitions);
            let asked: Vec<_> =
                names.into_iter().map(|name| (name.clone(), self.known_definition(&name))).collect();
            let (store, done) = (self.store.clone(), self.done.clone());
            tokio::spawn(async move {
                let read = store.read_definitions(&asked).await;
                let names = asked.into_iter().map(|(name, _)| name);
                let _ = done.send(Done::Definitions(names.zip(read).collect()));
            });
        }
        if !self.reading_rows && !self.dirty_rows.is_empty() {
            self.reading_rows = true;
            let names: Vec<_> = std::mem::take(&mut self.dirty_rows).into_iter().collect();
            let (store, done) = (self.store.clone(), self.done.clone());
            tokio::spawn(async move {
                let _ = done.send(Done::Rows(store.read_rows(&names).await));
            });
        }
        self.send_mirrors();
    }

    /// Whether something has gathered that can be sent.
    fn has_gathered(&self) -> bool {
        (!self.reading_claims && !self.dirty_claims.is_empty())
            || (!self.reading_definitions && !self.dirty_definitions.is_empty())
            || (!self.reading_rows && !self.dirty_rows.is_empty())
            || (self.mirroring.is_none() && !self.mirrors.is_empty())
    }

    /// What need not be sent again: the source that we run, or the one that ran last.
    fn known_definition(&self, name: &TaskName) -> Option<Definition> {
        let thread = self.table.get(name)?;
        if let Some(owned) = thread.owned() {
            return Some(owned.definition.clone());
        }
        if thread.malformed {
            // Of one that has no source, "you know it" would say that it has.
            return None;
        }
        let digest = thread.seen.as_ref().map(|(digest, _)| digest.clone());
        let digest = digest.or_else(|| thread.claim.as_ref()?.source.clone())?;
        Some(unfetched(digest))
    }

    fn claims_read(&mut self, names: Vec<TaskName>, claims: Result<Vec<ClaimRecord>, Error>) {
        self.reading_claims = false;
        match claims {
            Ok(claims) => {
                for (name, claim) in names.into_iter().zip(claims) {
                    self.claim_seen(&name, claim);
                }
            }
            Err(error) => {
                debug!(%error, "claims could not be read, read again");
                self.dirty_claims.extend(names);
                self.flush_at = Some(BootInstant::now() + RETRY);
            }
        }
    }

    fn claim_seen(&mut self, name: &TaskName, claim: ClaimRecord) {
        let thread = self.table.entry(name);
        match &mut thread.mine {
            None => {
                let is_blank = claim.session.is_none() && claim.nonce.is_none() && claim.epoch == 0;
                if is_blank {
                    self.claim_is_gone(name);
                }
                self.table.set_claim(name, claim);
                self.consider(name);
            }
            Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => {}
            Some(Mine::Owned(owned)) => {
                let is_ours = claim.session.as_ref() == Some(owned.lease.session())
                    && claim.nonce.as_ref() == Some(&owned.nonce);
                if is_ours {
                    owned.doubted = false;
                } else if owned.doubted {
                    warn!(task = %name, "the claim no longer names us: it stops");
                    self.table.set_claim(name, claim);
                    self.ask_to_stop(name, StopReason::Moved);
                } else {
                    // The answer may be older than the grant: the next one is not.
                    owned.doubted = true;
                    self.read_claim(name.clone());
                }
            }
        }
    }

    /// Claims outlive their definitions, so one that is gone is one that Redis has forgotten, unless it was told to go.
    /// Whoever has claimed it since we looked may not know yet.
    fn claim_is_gone(&mut self, name: &TaskName) {
        let Some(thread) = self.table.get(name).filter(|thread| !thread.retired) else { return };
        let Some(claim) = &thread.claim else { return };
        let may_be_owned = claim.session.as_ref().is_some_and(|owner| self.observer.dead(owner).is_none());
        if claim.epoch > 0 || may_be_owned {
            self.data_is_lost();
        }
    }

    /// As long as an owner may trust its lease without knowing that Redis has forgotten it, nobody claims anything.
    fn data_is_lost(&mut self) {
        let now = BootInstant::now();
        // No lease was renewed since the data went, so the first sight of it is what counts.
        if now < self.data_lost_until {
            return;
        }
        let longest = self.observer.longest_lease().max(self.timing.lease());
        warn!("redis has lost data: nothing is claimed for {longest:?}");
        self.data_lost_until = now + longest;
        self.blocked_until = self.blocked_until.max(self.data_lost_until);
    }

    fn definition_read(&mut self, name: &TaskName, read: Result<Option<DefinitionRead>, Error>) {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                debug!(task = %name, %error, "the definition could not be read, read again");
                self.dirty_definitions.insert(name.clone());
                self.flush_at = Some(BootInstant::now() + RETRY);
                return;
            }
        };
        let thread = self.table.entry(name);
        match &thread.mine {
            Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => thread.stale_definition = true,
            Some(Mine::Owned(_)) => {
                thread.read(read.as_ref());
                self.owned_definition_read(name, read);
            }
            None => {
                let was_disabled = thread.definition == Known::Disabled;
                thread.read(read.as_ref());
                let enabled_anew = was_disabled && thread.definition == Known::Enabled;
                let held_back = thread.claim.as_ref().is_some_and(|claim| {
                    claim.next_start_ms != 0 || claim.poison_ms != 0 || claim.restarts != 0
                });
                if enabled_anew && held_back {
                    self.pardon(name);
                } else {
                    self.consider(name);
                }
            }
        }
    }

    /// Enabled anew: back-off and poison are over at once.
    fn pardon(&mut self, name: &TaskName) {
        if !self.pardons.insert(name.clone()) {
            return;
        }
        let (store, done, name) = (self.store.clone(), self.done.clone(), name.clone());
        tokio::spawn(async move {
            let pardoned = store.pardon(&name).await.unwrap_or(false);
            let _ = done.send(Done::Pardon { name, pardoned });
        });
    }

    fn owned_definition_read(&mut self, name: &TaskName, read: Option<DefinitionRead>) {
        let Some(read) = read else { return self.ask_to_stop(name, StopReason::Deleted) };
        if !read.enabled {
            return self.ask_to_stop(name, StopReason::Disabled);
        }
        let Some(owned) = self.table.get_mut(name).and_then(|thread| thread.owned_mut()) else { return };
        match read.definition {
            Err(error) => {
                owned.malformed = Some(error.to_string());
                self.ask_to_stop(name, StopReason::Malformed);
            }
            Ok(definition) if definition == owned.definition => {}
            Ok(definition) if definition.restart_at != owned.definition.restart_at => {
                self.ask_to_stop(name, StopReason::Restart);
            }
            Ok(definition) => {
                owned.definition = definition.clone();
                let claim = owned.nonce.clone();
                self.tell(Event::Changed { name: name.clone(), claim, definition });
            }
        }
    }

    // ---- mirroring ---------------------------------------------------------------------------------------------

    fn send_mirrors(&mut self) {
        if self.mirroring.is_some() || self.mirrors.is_empty() {
            return;
        }
        let answered = CancellationToken::new();
        self.mirroring = Some((self.mirrors.keys().cloned().collect(), answered.clone()));
        let mirrors: Vec<_> = std::mem::take(&mut self.mirrors).into_iter().collect();
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let _answered = answered.drop_guard();
            let (nonces, updates): (Vec<_>, Vec<_>) =
                mirrors.into_iter().map(|(name, (nonce, update))| (nonce, (name, update))).unzip();
            let results = store.mirror_many(&updates).await;
            let names = updates.into_iter().map(|(name, _)| name);
            let mirrored =
                names.zip(nonces).zip(results).map(|((name, nonce), result)| (name, nonce, result));
            let _ = done.send(Done::Mirrors(mirrored.collect()));
        });
    }

    fn mirrored(&mut self, mirrors: Vec<(TaskName, Nonce, Result<bool, Error>)>) {
        self.mirroring = None;
        for (name, nonce, result) in mirrors {
            if result.is_err() {
                self.started(&name, &nonce);
                self.flush_at = Some(BootInstant::now() + RETRY);
            }
        }
    }

    // ---- the rounds --------------------------------------------------------------------------------------------

    fn turn(&mut self, now: BootInstant) {
        if now >= self.sample_at {
            self.sample(now);
        }
        self.bury_due(now);
        if now >= self.row_at {
            self.row_at = now + ROW_EVERY;
            self.write_row();
        }
        if now >= self.sweep_at && !self.sweeping {
            self.sweep(now);
        }
        if self.watching == Watching::Polled && now >= self.poll_at {
            self.poll(now);
        }
        if now >= self.turn_at {
            self.turn_at = now + TURN_MAX;
            self.check_some(now);
        }
        if now >= self.slow_at {
            self.slow_at = now + SLOW_ROUND;
            let others = self.table.names(|thread| thread.mine.is_none());
            self.dirty_claims.extend(others);
            let owned = self.table.names(|thread| thread.owned().is_some());
            self.dirty_definitions.extend(owned);
            self.flush_soon();
        }
        if self.has_gathered() {
            // What came while the last request of its kind was under way has nobody else to remind us of it.
            let at = *self.flush_at.get_or_insert(now + COALESCE);
            if now >= at {
                self.flush();
            }
        }
        self.claim_due(now);
    }

    fn until_next(&self, now: BootInstant) -> Duration {
        let claims = if self.can_claim(now) && self.claims_under_way < CLAIMS_MAX {
            self.table.next_due()
        } else {
            None
        };
        let flush = if self.has_gathered() { self.flush_at } else { None };
        [
            claims,
            flush,
            self.observer.next_due(|id| self.table.is_named(id)),
            Some(self.sample_at),
            Some(self.row_at),
            Some(self.turn_at),
            self.close_at,
        ]
        .into_iter()
        .flatten()
        .map(|at| at.saturating_duration_since(now))
        .fold(TURN_MAX, Duration::min)
        .max(Duration::from_millis(1))
    }

    /// Still ours? Everything we own, spread over a round.
    fn check_some(&mut self, now: BootInstant) {
        if now >= self.check_round_at {
            self.check_round_at = now + CHECK_ROUND;
            self.to_check = self.table.names(|thread| thread.owned().is_some()).into();
            let turns = (CHECK_ROUND.as_millis() / TURN_MAX.as_millis()).max(1) as usize;
            self.checks_per_turn = self.to_check.len().div_ceil(turns.saturating_sub(2).max(1));
        }
        for _ in 0..self.checks_per_turn {
            let Some(name) = self.to_check.pop_front() else { return };
            if self.table.get(&name).is_some_and(|thread| thread.owned().is_some()) {
                self.read_claim(name);
            }
        }
    }

    /// Nobody tells us what changes: look.
    fn poll(&mut self, now: BootInstant) {
        self.poll_at = now + POLL_OURS;
        let owned = self.table.names(|thread| thread.owned().is_some());
        self.dirty_definitions.extend(owned);
        self.dirty_rows.insert(self.config.worker_name.clone());
        self.flush_soon();
        let few = self.table.runnable() <= POLL_FEW;
        let rest_every = if few { POLL_OURS } else { POLL_REST };
        self.sweep_at = self.sweep_at.min(now + rest_every.max(self.sweep_took * SWEEP_PAUSE));
    }

    /// After a gap anything may have changed.
    fn look_at_everything(&mut self) {
        self.sweep_at = BootInstant::now();
        for name in self.table.names(|_| true) {
            let thread = self.table.entry(&name);
            match &thread.mine {
                None => {
                    if thread.definition != Known::Disabled {
                        thread.definition = Known::Unknown;
                    }
                    thread.malformed = false;
                    self.dirty_claims.insert(name);
                }
                // A Redis that came back may have lost our last claims, and others may have what we run.
                Some(Mine::Owned(_)) => {
                    self.dirty_claims.insert(name);
                }
                Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => {
                    thread.stale_claim = true;
                    thread.stale_definition = true;
                }
            }
        }
        let to_read = self.table.names(|thread| {
            thread.owned().is_some()
                || thread.is_off()
                || thread.claim.as_ref().is_some_and(|claim| claim.session.is_none())
        });
        self.dirty_definitions.extend(to_read);
        self.dirty_rows.insert(self.config.worker_name.clone());
        self.flush_soon();
    }

    fn sweep(&mut self, now: BootInstant) {
        self.sweeping = true;
        self.sweep_began = now;
        self.sweep_at = now + SWEEP_EVERY;
        let (store, done) = (self.store.clone(), self.done.clone());
        let index = self.index.clone();
        tokio::spawn(async move {
            let found = store.scan().await;
            if let Ok(found) = &found {
                mend_index(&store, found, &index).await;
            }
            let _ = done.send(Done::Sweep(found));
        });
    }

    fn swept(&mut self, found: Result<Found, Error>) {
        self.sweeping = false;
        let now = BootInstant::now();
        self.sweep_took = now.saturating_duration_since(self.sweep_began);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "the sweep was not answered");
                self.sweep_at = now + RETRY;
                return;
            }
        };
        let defined: HashSet<&TaskName> = found.threads.iter().collect();
        let claimed: HashSet<&TaskName> = found.claims.iter().collect();
        for name in &found.threads {
            let thread = self.table.entry(name);
            thread.retired = false;
            if thread.definition == Known::Gone {
                thread.definition = Known::Unknown;
                self.read_definition(name.clone());
            }
            let Some(thread) = self.table.get(name) else { continue };
            if thread.mine.is_none() && (thread.claim.is_none() || self.watching == Watching::Polled) {
                self.read_claim(name.clone());
            }
            let off_or_failed = self.table.get(name).is_some_and(|thread| {
                thread.mine.is_none()
                    && (thread.is_off() || thread.claim.as_ref().is_some_and(|claim| claim.session.is_none()))
            });
            if off_or_failed && self.watching == Watching::Polled {
                self.read_definition(name.clone());
            }
        }
        for name in &found.claims {
            if self.table.get(name).is_none() {
                self.read_claim(name.clone());
            }
        }
        let gone: Vec<_> =
            self.table.iter().map(|(name, _)| name).filter(|name| !defined.contains(name)).cloned().collect();
        for name in gone {
            self.without_definition(&name, claimed.contains(&name));
        }
        let rows: HashSet<&WorkerName> = found.workers.iter().collect();
        self.rows_of_ours.retain(|name| *name == self.config.worker_name || rows.contains(name));
        self.rows_of_2020.retain(|name, _| rows.contains(name));
        let workers = found.workers.iter().filter(|name| !self.rows_of_ours.contains(*name));
        self.dirty_rows.extend(workers.cloned());
        self.flush_soon();
        self.close_late(now, &found.sessions);
        self.forget_sessions(&found.sessions);
    }

    /// The sweep has found no definition of a thread that we know. What a reading has shown to be gone is settled here.
    fn without_definition(&mut self, name: &TaskName, claimed: bool) {
        let Some(thread) = self.table.get(name) else { return };
        // It may have been written behind the back of the SCAN: only a reading says that it is gone.
        if thread.mine.is_some() || thread.definition != Known::Gone {
            return self.read_definition(name.clone());
        }
        if !claimed {
            self.claim_is_gone(name);
            return self.table.forget(name);
        }
        if thread.retired {
            return;
        }
        let dead = thread.claim.as_ref().and_then(|claim| claim.session.clone());
        let free = dead.as_ref().is_none_or(|session| self.observer.dead(session).is_some());
        if thread.claim.is_none() || !free {
            return self.read_claim(name.clone());
        }
        let thread = self.table.entry(name);
        thread.retired = true;
        self.table.schedule(name, None);
        let (store, name) = (self.store.clone(), name.clone());
        tokio::spawn(async move {
            if let Err(error) = store.retire(&name, dead.as_ref()).await {
                debug!(task = %name, %error, "the claim is retired by the next sweep");
            }
        });
    }

    /// A session of ours that was given up before it was there may have come after its close. Peers would bury it; alone
    /// we have to close it again.
    fn close_late(&mut self, now: BootInstant, found: &[SessionId]) {
        self.given_up.retain(|_, since| now.saturating_duration_since(*since) < GIVEN_UP_KEPT);
        for id in found.iter().filter(|id| self.given_up.contains_key(*id)) {
            let (store, id) = (self.store.clone(), id.clone());
            tokio::spawn(async move {
                if let Err(error) = store.close(&id).await {
                    debug!(session = %id, %error, "closed by the next sweep");
                }
            });
        }
    }

    /// Removes sessions that have been dead for an hour and that nothing names.
    fn forget_sessions(&self, found: &[SessionId]) {
        let server_now = self.vitals.server_ms(BootInstant::now());
        let long_dead = self
            .observer
            .all_dead()
            .filter(|dead| dead.ended_ms.saturating_add(DEAD_KEPT_MS) <= server_now)
            .map(|dead| &dead.id);
        let without_key = self.observer.absent().filter(|id| !found.contains(id));
        for id in long_dead.chain(without_key).filter(|id| !self.table.is_named(id)) {
            let (store, done, id) = (self.store.clone(), self.done.clone(), id.clone());
            tokio::spawn(async move {
                if let Ok(true) = store.forget(&id).await {
                    let _ = done.send(Done::Forgotten(id));
                }
            });
        }
    }

    // ---- workers' rows -----------------------------------------------------------------------------------------

    fn row(&self, state: &str) -> Vec<(&'static str, String)> {
        let session = self.lease.as_ref().map(|lease| lease.session().to_string());
        let mut row = vec![
            ("State", state.to_owned()),
            ("Heartbeat", unix_nanos().to_string()),
            ("Incarnation", self.incarnation.to_string()),
            ("Session", session.unwrap_or_default()),
            ("Version", self.config.version.clone()),
            ("Host", self.host.clone()),
            ("Pid", std::process::id().to_string()),
            ("Threads", self.vitals.threads.load(Ordering::Relaxed).to_string()),
        ];
        if !self.enabled_written {
            // Whatever disabled an earlier run of this worker is over.
            row.push(("Status", "enabled".to_owned()));
        }
        row
    }

    async fn first_row(&mut self) {
        let row = self.row("online");
        match self.store.write_row(&self.config.worker_name, &row, Some(ROW_TTL)).await {
            Ok(()) => self.enabled_written = true,
            Err(error) => warn!(%error, "the worker's row could not be written, written later"),
        }
        self.row_at = BootInstant::now() + ROW_EVERY;
        self.rows_of_ours.insert(self.config.worker_name.clone());
    }

    fn write_row(&self) {
        let row = self.row(if self.draining { "draining" } else { "online" });
        let (store, done, worker) = (self.store.clone(), self.done.clone(), self.config.worker_name.clone());
        tokio::spawn(async move {
            let _ = done.send(Done::Row(store.write_row(&worker, &row, Some(ROW_TTL)).await));
        });
    }

    fn row_written(&mut self, written: Result<(), Error>) {
        match written {
            Ok(()) => self.enabled_written = true,
            Err(error) => {
                debug!(%error, "the worker's row could not be written");
                if !self.enabled_written {
                    self.row_at = self.row_at.min(BootInstant::now() + ROW_RETRY);
                }
            }
        }
    }

    fn rows_read(&mut self, rows: Result<Vec<(WorkerName, WorkerRow)>, Error>) {
        self.reading_rows = false;
        let Ok(rows) = rows else { return };
        let now = BootInstant::now();
        for (name, row) in rows {
            if name == self.config.worker_name {
                if row.disabled && self.enabled_written && !self.disabled_told {
                    self.disabled_told = true;
                    warn!(worker = %name, "this worker is disabled: it drains and stops");
                    self.tell(Event::WorkerDisabled);
                }
                continue;
            }
            if row.is_ours() {
                self.rows_of_ours.insert(name);
            } else {
                self.row_of_2020(now, name, &row);
            }
        }
    }

    /// Workers of 2020 take threads by other rules: while one of them is alive nothing is claimed.
    fn row_of_2020(&mut self, now: BootInstant, name: WorkerName, row: &WorkerRow) {
        let watch_for = Timing::observe(self.timing.lease()).max(Duration::from_secs(5));
        match self.rows_of_2020.insert(name.clone(), row.heartbeat.clone()) {
            // Not known yet whether it is alive: it is watched for a while first.
            None if row.state.as_deref() == Some("online") => {
                self.blocked_until = self.blocked_until.max(now + watch_for);
            }
            Some(before) if before != row.heartbeat => {
                if now >= self.seen_2020_until {
                    error!(
                        worker = %name,
                        "a worker of 2020 is alive in this cluster: nothing is claimed until it is stopped"
                    );
                }
                self.seen_2020_until = now + watch_for * 2;
                self.blocked_until = self.blocked_until.max(self.seen_2020_until);
            }
            _ => {}
        }
    }

    // ---- the end -----------------------------------------------------------------------------------------------

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

/// Enters what the indexes lack.
async fn mend_index(store: &Store, found: &Found, index: &HashSet<SessionId>) {
    let missing: Vec<SessionId> = found.sessions.iter().filter(|id| !index.contains(id)).cloned().collect();
    if !missing.is_empty()
        && let Err(error) = store.enter_index(&missing).await
    {
        debug!(%error, "the index of sessions is mended by the next sweep");
    }
    let Ok(indexed) = store.index(KIND).await else { return };
    let indexed: HashSet<TaskName> = indexed.into_iter().collect();
    let defined: HashSet<&TaskName> = found.threads.iter().collect();
    let missing: Vec<TaskName> =
        found.threads.iter().filter(|name| !indexed.contains(*name)).cloned().collect();
    let surplus: Vec<TaskName> = indexed.iter().filter(|name| !defined.contains(name)).cloned().collect();
    let mended = async {
        if !missing.is_empty() {
            store.index_add(KIND, &missing).await?;
        }
        if !surplus.is_empty() {
            store.index_remove(KIND, &surplus).await?;
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = mended.await {
        debug!(%error, "the index of threads is mended by the next sweep");
    }
}

fn crashed_mirror(error: String) -> MirrorUpdate {
    MirrorUpdate {
        state: Some(State::Crashed),
        owner: Some(String::new()),
        error: MirrorError::Set(error),
        disable: false,
    }
}

fn stopped_mirror() -> MirrorUpdate {
    MirrorUpdate {
        state: Some(State::Stopped),
        owner: Some(String::new()),
        error: MirrorError::Keep,
        disable: false,
    }
}

/// Stands for a source that need not be fetched.
fn unfetched(digest: SourceDigest) -> Definition {
    Definition {
        source: "".into(),
        digest,
        enabled: true,
        hang: crate::records::HANG_DEFAULT,
        restart: crate::records::RestartPolicy::default(),
        requires: None,
        limits: crate::records::Limits::default(),
        restart_at: None,
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests;

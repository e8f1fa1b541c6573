//! The loop that runs jobs: it knows them all, asks for each tick when it is due, and settles what the dead have left.
//!
//! ```text
//!  feed ──changed·gap·died──┐                 ┌── look ──▶ definitions and ticks, singly or by the slice
//!  peers ──lease·live───────┼──▶ the loop ────┼── adopt · settle ─▶ Redis
//!  answers ◀────────────────┘   (table, plan) └── ask ──▶ attempt ──granted──▶ run ──▶ finish
//! ```
//!
//! What must hold:
//! * One task owns the table and decides; it never waits for Redis. Every answer comes back as a message.
//! * No turn of the loop takes long, however many jobs there are: work on many of them is done in portions, and the loop
//!   stamps its progress and looks at everything else in between.
//! * A bounded number of questions is in flight. What has to wait waits in this process, where it is asked again whether
//!   it is still worth asking, and not before Redis.
//! * Nobody adopts a definition that another worker adopts: the first in rank does, the others see that it gets on with it.
//! * Nothing is decided by what is known here. Redis grants each tick once, whatever this worker believes; what is known
//!   only says when it is worth asking.
//! * The name of a run is in [`Runs`] before it is sent and leaves it only when Redis has answered the end of the run,
//!   or with its session. Whatever else names our session is a ghost and is ended as failed.

mod attempt;
mod overdue;
mod plan;
mod reading;
mod runs;
mod table;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hats_cluster::clock::unix_nanos;
use hats_cluster::coordinator::{JobFeed, JobNews, JobNewsReceiver, Peers};
use hats_cluster::id::SessionId;
use hats_cluster::lease::Lease;
use hats_cluster::name::TaskName;
use hats_cluster::records::{JobDefinition, JobRead, TicksRecord};
use hats_cluster::store::{Jobs as Found, MirrorUpdate, Store};
use hats_cluster::watchdog::Stamp;
use hats_cluster::{Error, Handle};
use hats_script::Lanes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::metrics;
use crate::runner::job::Wanted;

use self::attempt::After;
use self::overdue::{Due, OVERDUE_AFTER_MS};
use self::reading::{Looked, Way};
use self::runs::Runs;
use self::table::{Adoptions, Job, Known, Place, Step, Table};

/// Maximum pause between two turns of the loop.
const TURN_MAX: Duration = Duration::from_millis(500);
/// How long a turn may work on what has gathered of one kind, before the loop stamps its progress and looks at the rest.
const TURN_BUDGET: Duration = Duration::from_millis(5);
/// Maximum questions in flight, single reads among them, of one worker.
const QUESTIONS_MAX: usize = 64;
/// Changes that come this close together are read together.
const COALESCE: Duration = Duration::from_millis(2);
/// … and so close together while more than this many come in one such time: somebody writes many jobs at once.
const COALESCE_BURST: Duration = Duration::from_millis(250);
const BURST: usize = 64;
/// A server that has refused to read jobs by the slice is not asked to again for this long.
const PASS_REFUSED_FOR: Duration = Duration::from_secs(60);
/// After a question that was not answered.
const RETRY_MS: i64 = 300;
const RETRY: Duration = Duration::from_millis(300);
/// The clock has been set back when it shows so much less than before.
const SET_BACK_MS: i64 = 500;
/// Interval between full sweeps, where changes are pushed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Interval at which the worker that comes first for a job reads its ticks anew.
const ROUND_EVERY: Duration = Duration::from_secs(120);
/// Interval between full sweeps where nothing is pushed: with few jobs and with many.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const POLL_FEW: usize = 500;
/// The pause before a sweep is at least so many times as long as the last sweep: a shared Redis may hold many keys of
/// others, and a sweep passes them all.
const SWEEP_PAUSE: u32 = 10;
/// With so many questions in flight a worker leaves ticks for so much longer to those who come first for them.
const BUSY: usize = 16;
const LEAVE_MAX_MS: i64 = 300;
const LEAVE_STEP_MS: i64 = 100;
/// Minimum interval between two reads of all jobs whose adoption is left to others.
const ADOPTION_STEP_MS: i64 = 150;
/// Interval between two looks at our own runs.
const WATCH_RUNS_EVERY: Duration = Duration::from_secs(1);
/// Interval between two counts of the ticks that are overdue.
const OVERDUE_EVERY: Duration = Duration::from_millis(500);
/// Maximum dead sessions that are remembered.
const DEAD_MAX: usize = 10_000;
/// Maximum mirrored errors that are written by one task.
const MIRRORS_TOGETHER: usize = 64;

/// What the loop and the runs share.
pub(crate) struct Shared {
    pub(crate) cluster: Handle,
    pub(crate) store: Store,
    pub(crate) lanes: Lanes,
    pub(crate) config: Config,
    /// The name of this worker, for people.
    worker: String,
    runs: Runs,
    /// Nothing new is taken.
    drain: CancellationToken,
    /// A permit for each question that may be in flight. It is taken before a question is sent, so that the time it may
    /// take is counted from then, and not from when it began to wait for others.
    questions: Arc<Semaphore>,
    /// Never holds more than there are permits, runs and reads in flight.
    done: mpsc::UnboundedSender<Done>,
}

/// An answer that has come in.
enum Done {
    /// Jobs were read.
    Looked {
        looked: Vec<Looked>,
        permit: OwnedSemaphorePermit,
    },
    /// Nothing further comes of the single read in flight.
    LookEnded,
    /// A read has failed: these are to be read again, and the definitions of some.
    NotLooked(Vec<(TaskName, bool)>),
    /// All jobs that can be read by the slice have been; these have not, or the server has refused.
    PassEnded {
        left: Vec<(TaskName, bool)>,
        refused: bool,
    },
    /// A question about a job has been answered, or not; with what it has shown of the definition and the ticks.
    Asked {
        name: TaskName,
        /// From before it was asked.
        asked_at: Instant,
        read: Option<Option<JobRead>>,
        ticks: Option<TicksRecord>,
        after: After,
    },
    /// A run of ours has ended. With the definition it ran by, and the ticks since, if Redis has answered.
    Ended {
        name: TaskName,
        read: Option<JobDefinition>,
        ticks: Option<attempt::Seen>,
    },
    Mirrored,
    Swept(Result<Found, Error>),
    NotSwept,
}

/// Sees to it that the loop gets an answer, also of work that does not come to its end: it would wait for it for ever.
struct Answer {
    done: mpsc::UnboundedSender<Done>,
    otherwise: Option<Done>,
}

impl Answer {
    /// `otherwise` is what the loop is told if no answer comes.
    fn or(done: &mpsc::UnboundedSender<Done>, otherwise: Done) -> Self {
        Self { done: done.clone(), otherwise: Some(otherwise) }
    }

    fn is(mut self, answer: Done) {
        self.otherwise = Some(answer);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(answer) = self.otherwise.take() {
            let _ = self.done.send(answer);
        }
    }
}

impl Shared {
    /// A tick is due when Redis' clock and this worker's have both reached it.
    fn now_ms(&self) -> i64 {
        let server = i64::try_from(self.cluster.server_ms()).unwrap_or(i64::MAX);
        if server == 0 { wall_ms() } else { wall_ms().min(server) }
    }
}

/// How long the loop goes on with one kind of work before it looks at the others.
struct Budget(Instant);

impl Budget {
    fn new() -> Self {
        Self(Instant::now() + TURN_BUDGET)
    }

    /// False: enough for this turn. A step may take long itself, where the processor is shared with many.
    fn allows(&self) -> bool {
        Instant::now() < self.0
    }
}

/// How the loop is talked to.
pub(crate) struct JobsHandle {
    drain: CancellationToken,
    ended: tokio::task::JoinHandle<Vec<TaskName>>,
}

impl Drop for JobsHandle {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

impl JobsHandle {
    /// From here on no tick is asked for, and every run is asked to stop.
    pub(crate) fn begin_drain(&self) {
        self.drain.cancel();
    }

    /// Waits until the last run has ended and Redis knows. Gives the jobs whose runs have not, in the time that there is
    /// for a drain.
    pub(crate) async fn drained(mut self) -> Vec<TaskName> {
        self.begin_drain();
        match (&mut self.ended).await {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(%error, "the loop of the jobs has ended by itself");
                Vec::new()
            }
        }
    }
}

/// Starts to run jobs.
pub(crate) fn start(cluster: Handle, lanes: Lanes, config: Config) -> JobsHandle {
    let (tell, done) = mpsc::unbounded_channel();
    let limit = config.drain_timeout + crate::scheduler::GRACE;
    let stamp = cluster.stamp("jobs");
    let JobFeed { news, peers } = cluster.job_feed();
    let store = cluster.store();
    let worker = cluster.worker_name().to_string();
    let drain = CancellationToken::new();
    let shared = Arc::new(Shared {
        cluster,
        store,
        lanes,
        config,
        worker,
        runs: Runs::default(),
        drain: drain.clone(),
        questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        done: tell,
    });
    let now = Instant::now();
    let jobs = Jobs {
        shared,
        peers,
        place: Place::default(),
        table: Table::default(),
        due: Due::default(),
        dirty: HashMap::new(),
        dirty_whole: HashSet::new(),
        flush_at: None,
        burst: Burst::new(now),
        looking: false,
        passing: false,
        pass_refused_until: now,
        asking: 0,
        line: VecDeque::new(),
        revisit: Vec::new(),
        visit: Visit::default(),
        mirrors: HashMap::new(),
        mirroring: false,
        named: Vec::new(),
        named_stale: false,
        sweeping: false,
        swept: None,
        sweep_at: now,
        sweep_began: now,
        round_at: now,
        watch_at: now,
        overdue_at: now,
        adoption_looked_ms: i64::MIN / 2,
        latest_ms: i64::MIN,
        stamp,
        limit,
    };
    JobsHandle { drain, ended: tokio::spawn(jobs.run(news, done)) }
}

struct Jobs {
    shared: Arc<Shared>,
    peers: watch::Receiver<Peers>,
    place: Place,
    table: Table,
    due: Due,
    /// Jobs to be read, and whether their definitions are to be read as well.
    dirty: HashMap<TaskName, bool>,
    /// Jobs whose definition is to be read with its source.
    dirty_whole: HashSet<TaskName>,
    flush_at: Option<Instant>,
    burst: Burst,
    /// A single read is in flight.
    looking: bool,
    /// All jobs are being read by the slice.
    passing: bool,
    pass_refused_until: Instant,
    /// Questions in flight.
    asking: usize,
    /// Jobs whose questions wait for others to be answered.
    line: VecDeque<TaskName>,
    /// Jobs to be gone through, a few at each turn.
    revisit: Vec<TaskName>,
    visit: Visit,
    /// Errors to be shown in definitions.
    mirrors: HashMap<TaskName, MirrorUpdate>,
    mirroring: bool,
    /// The sessions of runs that the coordinator was told to watch.
    named: Vec<SessionId>,
    named_stale: bool,
    sweeping: bool,
    /// What a sweep has found, gone through a few at each turn.
    swept: Option<Sweep>,
    // Periodic work uses the monotonic clock.
    sweep_at: Instant,
    sweep_began: Instant,
    round_at: Instant,
    /// When our own runs are looked at next.
    watch_at: Instant,
    overdue_at: Instant,
    /// When the adoptions that are left to others were read last.
    adoption_looked_ms: i64,
    /// What the clock showed at the last turn.
    latest_ms: i64,
    stamp: Stamp,
    limit: Duration,
}

/// What is done about each job when all are gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Visit {
    /// Its ticks are read anew; if this is true its definition as well.
    look: Option<bool>,
    /// Its ticks are read anew if this worker comes first for it.
    look_first: bool,
}

/// A sweep that is being gone through.
struct Sweep {
    defined: HashSet<TaskName>,
    counted: HashSet<TaskName>,
    names: Vec<TaskName>,
    /// Ticks of jobs for which this worker comes first are read anew.
    round: bool,
    /// Definitions that are gone, and whose ticks are to follow.
    retire: Vec<TaskName>,
}

/// How many definitions have changed lately.
#[derive(Clone, Copy, Debug)]
struct Burst {
    since: Instant,
    before: usize,
    now: usize,
}

impl Burst {
    fn new(now: Instant) -> Self {
        Self { since: now, before: 0, now: 0 }
    }

    fn add(&mut self, now: Instant) {
        self.turn(now);
        self.now += 1;
    }

    fn turn(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.since);
        if past >= COALESCE_BURST {
            self.before = if past < COALESCE_BURST * 2 { self.now } else { 0 };
            (self.since, self.now) = (now, 0);
        }
    }

    /// How long changes are gathered before they are read.
    fn coalesce(&self) -> Duration {
        if self.now.max(self.before) > BURST { COALESCE_BURST } else { COALESCE }
    }
}

impl Jobs {
    /// Runs until everything is drained. Gives the jobs that do not end.
    async fn run(
        mut self,
        mut news: JobNewsReceiver,
        mut done: mpsc::UnboundedReceiver<Done>,
    ) -> Vec<TaskName> {
        let mut patience = std::pin::pin!(tokio::time::sleep(Duration::MAX / 4));
        let mut draining = false;
        self.take_peers();
        loop {
            self.stamp.touch();
            if draining && self.shared.runs.is_empty() {
                return Vec::new();
            }
            let now_ms = self.shared.now_ms();
            if !draining {
                self.turn(now_ms);
            }
            let pause = if draining { TURN_MAX } else { self.until_next(now_ms) };
            tokio::select! {
                biased;
                () = self.shared.drain.cancelled(), if !draining => {
                    draining = true;
                    // From here on nothing is known any more of what others take.
                    self.due.clear();
                    self.tell_overdue(now_ms);
                    self.shared.runs.want_of_all(Wanted::Stop);
                    patience.as_mut().reset(Instant::now() + self.limit);
                }
                () = &mut patience, if draining => return self.shared.runs.jobs().into_iter().collect(),
                Ok(()) = self.peers.changed() => self.take_peers(),
                Some(news) = news.recv() => self.hear(news),
                Some(answer) = done.recv() => self.answered(answer),
                () = tokio::time::sleep(pause) => {}
            }
            // News and answers come in bursts: each gets its share of the turn.
            let budget = Budget::new();
            while budget.allows()
                && let Some(news) = news.try_recv()
            {
                self.hear(news);
            }
            let budget = Budget::new();
            while budget.allows()
                && let Ok(answer) = done.try_recv()
            {
                self.answered(answer);
            }
            tokio::task::yield_now().await;
        }
    }

    fn until_next(&self, now_ms: i64) -> Duration {
        let now = Instant::now();
        let due = |at: i64| Duration::from_millis(u64::try_from(at.saturating_sub(now_ms)).unwrap_or(0));
        let flush = self.flush_at.filter(|_| self.way(now) != Way::Later);
        let sweep = (!self.sweeping).then(|| self.sweep_at - now);
        let gathered = !self.revisit.is_empty()
            || self.swept.is_some()
            || (!self.line.is_empty() && self.asking < QUESTIONS_MAX);
        [self.table.next_due().map(due), flush.map(|at| at - now), sweep, gathered.then_some(Duration::ZERO)]
            .into_iter()
            .flatten()
            .fold(TURN_MAX, Duration::min)
            .max(Duration::from_millis(1))
    }

    /// What is to be done by now, in portions: what is left over is done at the next turn.
    fn turn(&mut self, now_ms: i64) {
        let now = Instant::now();
        if now >= self.sweep_at && !self.sweeping {
            self.sweep(now);
        }
        if now >= self.watch_at {
            self.watch_at = now + WATCH_RUNS_EVERY;
            self.shared.runs.prune();
            for name in self.shared.runs.jobs() {
                self.look(&name, false);
            }
        }
        let before = std::mem::replace(&mut self.latest_ms, now_ms);
        if now_ms < before.saturating_sub(SET_BACK_MS) {
            // What was to be done soon would be done only when the clock shows that time again.
            self.visit_all(Visit::default());
        }
        self.visit_some(now_ms);
        self.sweep_some();
        let budget = Budget::new();
        while budget.allows()
            && let Some(name) = self.table.pop_due(now_ms)
        {
            self.consider(&name, now_ms);
        }
        let budget = Budget::new();
        while self.asking < QUESTIONS_MAX
            && budget.allows()
            && let Some(name) = self.line.pop_front()
        {
            if let Some(job) = self.table.get_mut(&name) {
                job.in_line = false;
                self.consider(&name, now_ms);
            }
        }
        if self.revisit.is_empty() && self.flush_at.is_some_and(|at| now >= at) {
            self.flush(now);
        }
        self.write_mirrors();
        self.name_sessions();
        if now >= self.overdue_at {
            self.overdue_at = now + OVERDUE_EVERY;
            self.tell_overdue(now_ms);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody has so many jobs")]
    fn tell_overdue(&self, now_ms: i64) {
        metrics::TICKS_OVERDUE.set(self.due.overdue(now_ms) as f64);
    }

    fn take_peers(&mut self) {
        let peers = self.peers.borrow_and_update().clone();
        let before = self.place.session().cloned();
        let pushed_before = std::mem::replace(&mut self.place.pushed, peers.pushed);
        if pushed_before != peers.pushed {
            self.sweep_at = Instant::now();
        }
        let ranks_change = self.place.live != peers.live || self.place.settled != peers.settled;
        self.place.live = peers.live;
        self.place.settled = peers.settled;
        self.place.lease = peers.lease;
        self.named_stale = true;
        let now = self.place.session().cloned();
        if before != now {
            if let Some(lost) = &before {
                // Granted or not: the session's death settles them, and whoever is in them is stopped by the lease.
                tracing::debug!(session = %lost, "no ticks are taken under this session any more");
            }
            self.visit_all(Visit { look: Some(false), look_first: false });
        } else if ranks_change && self.place.adoptions != Adoptions::default() {
            self.visit_all(Visit::default());
        }
    }

    fn hear(&mut self, news: JobNews) {
        match news {
            JobNews::Changed(name) => self.look(&name, true),
            JobNews::Gap => {
                self.sweep_at = Instant::now();
                self.visit_all(Visit { look: Some(true), look_first: false });
            }
            JobNews::Died(session) => self.died(session),
        }
    }

    /// What ran under it can be settled: each worker reads the jobs that it comes first for, the others in their turn.
    fn died(&mut self, session: SessionId) {
        if self.place.dead.len() >= DEAD_MAX {
            self.place.dead.clear();
        }
        if self.place.dead.insert(session) {
            self.named_stale = true;
            // What names it as far as is known already is settled even if its first one is dead as well.
            self.visit_all(Visit { look: None, look_first: true });
        }
    }

    /// Goes through all jobs, in portions. What was left to be done about them is done in the same round.
    fn visit_all(&mut self, visit: Visit) {
        self.visit = if self.revisit.is_empty() {
            visit
        } else {
            Visit {
                look: self.visit.look.max(visit.look),
                look_first: self.visit.look_first || visit.look_first,
            }
        };
        self.revisit = self.table.names().cloned().collect();
    }

    fn visit_some(&mut self, now_ms: i64) {
        let budget = Budget::new();
        while budget.allows()
            && let Some(name) = self.revisit.pop()
        {
            if self.table.get(&name).is_none() {
                continue;
            }
            if let Some(definition) = self.visit.look {
                self.look(&name, definition);
            } else if self.visit.look_first && self.place.is_first(&name) {
                self.look(&name, false);
            }
            if self.visit.look.is_none() || self.visit.look_first {
                self.consider(&name, now_ms);
            }
        }
    }

    /// Reads the job's ticks anew, and its definition if that may have changed.
    fn look(&mut self, name: &TaskName, definition: bool) {
        let now = Instant::now();
        if definition {
            self.burst.add(now);
        }
        self.table.entry(name);
        *self.dirty.entry(name.clone()).or_default() |= definition;
        self.flush_soon(now);
    }

    /// Reads the job's ticks and its definition, with the source.
    fn look_whole(&mut self, name: &TaskName) {
        self.dirty_whole.insert(name.clone());
        self.flush_soon(Instant::now());
    }

    fn flush_soon(&mut self, now: Instant) {
        let at = now + self.burst.coalesce();
        self.flush_at = Some(self.flush_at.map_or(at, |before| before.min(at)));
    }

    fn way(&self, now: Instant) -> Way {
        let passes = now >= self.pass_refused_until;
        reading::way(self.dirty.len(), self.table.len(), self.passing, self.looking, passes)
    }

    fn flush(&mut self, now: Instant) {
        if self.dirty.is_empty() && self.dirty_whole.is_empty() {
            self.flush_at = None;
            return;
        }
        match self.way(now) {
            Way::Later => {}
            Way::Pass => {
                self.flush_at = None;
                self.passing = true;
                let wanted = std::mem::take(&mut self.dirty);
                let is_new = |name: &&TaskName| self.table.get(name).is_none_or(Job::is_new);
                let new = wanted.keys().filter(is_new).cloned().collect();
                reading::pass(&self.shared, wanted, new);
                if !self.dirty_whole.is_empty() {
                    self.flush_soon(now);
                }
            }
            Way::Singly => {
                self.flush_at = None;
                self.looking = true;
                let whole = std::mem::take(&mut self.dirty_whole);
                let mut dirty = std::mem::take(&mut self.dirty);
                dirty.extend(whole.into_iter().map(|name| (name, true)));
                let unread = dirty.into_iter().map(|(name, changed)| {
                    let job = self.table.entry(&name);
                    let unread = changed || matches!(job.known, Known::Unknown);
                    let known = unread.then(|| job.read.clone());
                    (name, known)
                });
                reading::singly(&self.shared, unread.collect());
            }
        }
    }

    fn answered(&mut self, done: Done) {
        let now_ms = self.shared.now_ms();
        match done {
            Done::Looked { looked, permit } => {
                self.looked(looked, now_ms);
                drop(permit);
            }
            Done::LookEnded => self.looking = false,
            Done::NotLooked(names) => {
                self.looking = false;
                for (name, definition) in names {
                    tracing::error!(task = %name, kind = "job", "the job could not be read; reading it again");
                    let job = self.table.entry(&name);
                    job.stale = true;
                    if definition {
                        job.known = Known::Unknown;
                    }
                    self.table.schedule(&name, Some(now_ms + RETRY_MS));
                }
            }
            Done::PassEnded { left, refused } => {
                self.passing = false;
                let now = Instant::now();
                if refused {
                    self.pass_refused_until = now + PASS_REFUSED_FOR;
                    self.dirty.extend(left);
                } else {
                    // Another pass would leave these out as well.
                    self.dirty_whole.extend(left.into_iter().map(|(name, _)| name));
                }
                self.flush_soon(now);
            }
            Done::Asked { name, asked_at, read, ticks, after } => {
                self.asking = self.asking.saturating_sub(1);
                if let Some(read) = read {
                    self.defined(&name, read, asked_at, false);
                }
                if let Some(ticks) = ticks {
                    self.compare(&name, &ticks, asked_at);
                    self.set_ticks(&name, ticks, Instant::now());
                }
                self.table.entry(&name).asking = false;
                self.place.adoptions = self.table.note_adoption(&name, &self.place, now_ms);
                match after {
                    After::Rest(rest) => self.table.schedule(&name, Some(now_ms.saturating_add(rest))),
                    After::Read => self.look(&name, true),
                    After::Consider => self.consider(&name, now_ms),
                }
            }
            Done::Ended { name, read, ticks } => {
                if let Some(read) = read {
                    self.table.entry(&name).read = Some(read);
                }
                match ticks {
                    Some(seen) => {
                        self.compare(&name, &seen.ticks, seen.asked_at);
                        let job = self.table.entry(&name);
                        job.seen_ms = job.seen_ms.max(seen.asked_ms);
                        self.set_ticks(&name, seen.ticks, Instant::now());
                        self.consider(&name, now_ms);
                    }
                    None => self.look(&name, false),
                }
            }
            Done::Mirrored => self.mirroring = false,
            Done::Swept(Ok(found)) => self.swept(found),
            Done::Swept(Err(error)) => {
                tracing::debug!(%error, "the sweep of jobs was not answered");
                self.not_swept();
            }
            Done::NotSwept => {
                tracing::error!("the sweep of jobs has failed, it is repeated");
                self.not_swept();
            }
        }
    }

    fn looked(&mut self, looked: Vec<Looked>, now_ms: i64) {
        let mut names = Vec::with_capacity(looked.len());
        for looked in looked {
            // To parse the schedules of a slice takes some milliseconds of a processor, of which there may be little.
            self.stamp.touch();
            names.extend(self.learn(looked, now_ms));
        }
        // That others get on with adopting is seen before anything is decided.
        for name in &names {
            self.place.adoptions = self.table.note_adoption(name, &self.place, now_ms);
        }
        for name in &names {
            self.consider(name, now_ms);
        }
    }

    /// Takes what a read has shown. None: it has to be read again first.
    fn learn(&mut self, looked: Looked, now_ms: i64) -> Option<TaskName> {
        let Looked { name, asked_ms, asked_at, definition, outline, ticks } = looked;
        let job = self.table.entry(&name);
        match definition {
            None => {}
            Some(Err(error)) => {
                tracing::debug!(task = %name, kind = "job", %error, "the job could not be read");
                job.known = Known::Unknown;
                self.table.schedule(&name, Some(now_ms + RETRY_MS));
                return None;
            }
            Some(Ok(read)) => {
                let is_malformed = job.is_malformed() || ticks.as_ref().is_ok_and(table::is_malformed);
                if outline && is_malformed && table::known(read.clone(), job.known.ready()).2.is_none() {
                    // What is wrong with it is in what an outline does not show.
                    self.look_whole(&name);
                    return None;
                }
                self.defined(&name, read, asked_at, outline);
            }
        }
        let job = self.table.entry(&name);
        match ticks {
            Err(error) => {
                tracing::debug!(task = %name, kind = "job", %error, "the ticks could not be read");
                job.stale = true;
                self.table.schedule(&name, Some(now_ms + RETRY_MS));
                return None;
            }
            // It was asked for before a question was answered, and may be from before that.
            Ok(_) if job.ticks_at.is_some_and(|at| asked_at < at) => {}
            Ok(ticks) => {
                job.seen_ms = asked_ms;
                job.stale = false;
                self.compare(&name, &ticks, asked_at);
                self.set_ticks(&name, ticks, asked_at);
            }
        }
        Some(name)
    }

    fn set_ticks(&mut self, name: &TaskName, ticks: TicksRecord, at: Instant) {
        self.named_stale |= self.table.set_ticks(name, ticks);
        let job = self.table.entry(name);
        job.ticks_at = job.ticks_at.max(Some(at));
    }

    /// Takes a definition as it was read, and writes down what is wrong with it.
    fn defined(&mut self, name: &TaskName, read: Option<JobRead>, asked_at: Instant, outline: bool) {
        let job = self.table.entry(name);
        if job.defined_at.is_some_and(|at| asked_at < at) {
            return;
        }
        job.defined_at = Some(asked_at);
        let mirror = read.as_ref().map(|read| read.mirror.clone());
        let (known, kept, wrong) = table::known(read, job.known.ready());
        let runs_on = matches!(known, Known::On(_));
        // What runs of a job that was off before was asked for by hand, and goes on.
        let stays_off = matches!((&job.known, &known), (Known::Off { .. }, Known::Off { .. }));
        job.known = known;
        if !outline {
            job.read = kept;
        }
        if !runs_on && !stays_off {
            self.shared.runs.want_of_job(name, Wanted::Stop);
        }
        let Some(mirror) = mirror else { return };
        let job = self.table.entry(name);
        let says = (mirror.state.as_deref() == Some("crashed")).then_some(mirror.error).flatten();
        let update = match &wrong {
            Some(error) if says.as_ref() != Some(error) => Some(MirrorUpdate::crashed(error.clone())),
            // What was wrong with the definition is mended.
            None if says.is_some() && says == job.told => Some(MirrorUpdate::mended()),
            _ => None,
        };
        let told_before = std::mem::replace(&mut job.told, wrong);
        // All workers read outlines at the same time: one of them writes.
        let Some(update) = update.filter(|_| !outline || self.place.is_first(name)) else { return };
        if let Some(error) =
            self.table.entry(name).told.clone().filter(|error| told_before.as_ref() != Some(error))
        {
            tracing::warn!(task = %name, kind = "job", error, "the job cannot run");
        }
        self.mirrors.insert(name.clone(), update);
    }

    /// Writes what people are to see in definitions, some at a time.
    fn write_mirrors(&mut self) {
        if self.mirroring || self.mirrors.is_empty() {
            return;
        }
        let names: Vec<TaskName> = self.mirrors.keys().take(MIRRORS_TOGETHER).cloned().collect();
        let updates = names.into_iter().filter_map(|name| self.mirrors.remove_entry(&name)).collect();
        self.mirroring = true;
        let answer = Answer::or(&self.shared.done, Done::Mirrored);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            attempt::mirror(&shared, updates).await;
            drop(answer);
        });
    }

    /// Compares the runs that Redis knows with ours: what is not there any more must end here, what nobody here knows must
    /// end there.
    fn compare(&self, name: &TaskName, ticks: &TicksRecord, asked_at: Instant) {
        self.shared.runs.forfeit(name, asked_at, |nonce| ticks.runs.iter().any(|run| run.nonce == *nonce));
        for run in &ticks.runs {
            if run.cancelled {
                self.shared.runs.want(&run.nonce, Wanted::Stop);
            }
            // What is left of a session that is lost its death settles.
            let ours = self.place.lease.as_ref();
            let ours = ours.is_some_and(|lease| *lease.session() == run.session && lease.is_trusted());
            if ours && !self.shared.runs.has(&run.nonce) {
                let tick = attempt::instant(run.tick_ms);
                tracing::warn!(
                    task = %name,
                    kind = "job",
                    tick,
                    "a run of this worker that it knows nothing of: ended"
                );
                attempt::end_ghost(self.shared.clone(), name.clone(), run.nonce.clone());
            }
        }
    }

    /// Tells the coordinator which sessions have to be watched because runs name them.
    fn name_sessions(&mut self) {
        if !std::mem::take(&mut self.named_stale) {
            return;
        }
        let named = self.table.sessions();
        let named = named
            .filter(|session| self.place.session() != Some(*session) && !self.place.dead.contains(*session));
        let mut named: Vec<SessionId> = named.cloned().collect();
        named.sort_unstable();
        if named != self.named {
            self.shared.cluster.name_sessions(named.clone());
            self.named = named;
        }
    }

    fn consider(&mut self, name: &TaskName, now_ms: i64) {
        self.place.adoptions = self.table.note_adoption(name, &self.place, now_ms);
        let Some(job) = self.table.get(name) else { return };
        let step = job.step(name, &self.place, now_ms);
        match step {
            // What was due when the question was asked is due until it is answered.
            Step::Wait(_) if job.asking => self.table.schedule(name, None),
            // Whoever is last in rank never comes to ask for ticks that follow one another quickly.
            Step::Wait(at) => self.watch(name, at, now_ms),
            Step::Look => self.look(name, false),
            Step::LookForAdoption => self.look_for_adoption(name, now_ms),
            // Whoever comes first for it is as busy as we are: to look now would only keep Redis from answering.
            Step::LookInTurn { late_ms } if self.asking >= BUSY && late_ms < LEAVE_MAX_MS => {
                self.table.schedule(name, Some(now_ms + LEAVE_STEP_MS));
            }
            Step::LookInTurn { .. } => self.look(name, false),
            step => {
                let lease = self.place.lease.clone().filter(|_| !self.shared.drain.is_cancelled());
                let (due, seen_ms) = (job.due_since(name, now_ms), job.seen_ms);
                match lease {
                    Some(lease) => {
                        self.due.set(name, due);
                        self.take(name, step, lease);
                    }
                    None => self.leave(name, seen_ms, now_ms),
                }
            }
        }
    }

    /// Reads whether the job has been adopted, and with it all others that are left to other workers: they are adopted in
    /// any order, so to read them one by one as their time comes would be in vain most of the time.
    fn look_for_adoption(&mut self, name: &TaskName, now_ms: i64) {
        if self.passing {
            // It may be in what that shows.
            return self.table.schedule(name, Some(now_ms + ADOPTION_STEP_MS));
        }
        self.look(name, false);
        if now_ms >= self.adoption_looked_ms + ADOPTION_STEP_MS {
            self.adoption_looked_ms = now_ms;
            for name in self.table.left() {
                self.dirty.entry(name).or_default();
            }
        }
    }

    /// Leaves to others what there is to do, and looks again later whether they have done it.
    fn leave(&mut self, name: &TaskName, seen_ms: i64, now_ms: i64) {
        let look_at = seen_ms.saturating_add(OVERDUE_AFTER_MS);
        if self.shared.drain.is_cancelled() {
            self.table.schedule(name, None);
        } else if now_ms >= look_at {
            self.look(name, false);
        } else {
            self.watch(name, Some(look_at), now_ms);
        }
    }

    /// Waits until `at`, and sees meanwhile whether somebody takes the tick that is due and that this worker does not take.
    fn watch(&mut self, name: &TaskName, at: Option<i64>, now_ms: i64) {
        let Some(job) = self.table.get(name) else { return };
        let since = job.due_since(name, now_ms).filter(|_| !self.shared.drain.is_cancelled());
        let Some(since) = since else {
            self.due.set(name, None);
            return self.table.schedule(name, at);
        };
        let overdue_at = since.saturating_add(OVERDUE_AFTER_MS);
        let has_been_seen = job.seen_ms > overdue_at;
        let look_at = if has_been_seen { job.seen_ms + OVERDUE_AFTER_MS } else { overdue_at + 1 };
        self.due.set(name, has_been_seen.then_some(since));
        if now_ms >= look_at {
            self.look(name, false);
        } else {
            self.table.schedule(name, Some(at.map_or(look_at, |at| at.min(look_at))));
        }
    }

    /// Asks Redis for what the step says, in a task of its own, once few enough questions are in flight.
    fn take(&mut self, name: &TaskName, step: Step, lease: Lease) {
        self.table.schedule(name, None);
        let job = self.table.entry(name);
        let Some(ticks) = job.ticks.clone() else { return };
        if self.asking >= QUESTIONS_MAX {
            if !std::mem::replace(&mut job.in_line, true) {
                self.line.push_back(name.clone());
            }
            return;
        }
        job.asking = true;
        let (known, read) = (job.known.clone(), job.read.clone());
        self.asking += 1;
        if step == Step::Adopt {
            self.table.adopts(name);
        }
        let dead = ticks.runs.iter().map(|run| run.session.clone());
        let dead = dead.filter(|session| self.place.dead.contains(session)).collect();
        let question = attempt::Question { name: name.clone(), known, read, ticks, lease, dead };
        attempt::start(self.shared.clone(), question, step);
    }

    fn sweep(&mut self, now: Instant) {
        self.sweeping = true;
        self.sweep_began = now;
        let many = self.table.len() > POLL_FEW;
        let poll = if many { POLL.1 } else { POLL.0 };
        self.sweep_at = now + if self.place.pushed { SWEEP_EVERY } else { poll };
        let answer = Answer::or(&self.shared.done, Done::NotSwept);
        let shared = self.shared.clone();
        tokio::spawn(async move { answer.is(Done::Swept(reading::sweep(&shared.store).await)) });
    }

    fn not_swept(&mut self) {
        self.sweeping = false;
        self.sweep_at = Instant::now() + RETRY;
    }

    /// Found: the names of the definitions, and of the records of ticks.
    fn swept(&mut self, Found { defined, counted }: Found) {
        let now = Instant::now();
        self.sweep_at = self.sweep_at.max(now + (now - self.sweep_began) * SWEEP_PAUSE);
        let round = now >= self.round_at;
        if round {
            self.round_at = now + ROUND_EVERY;
        }
        let defined: HashSet<TaskName> = defined.into_iter().collect();
        let counted: HashSet<TaskName> = counted.into_iter().collect();
        let only_counted = counted.iter().filter(|name| !defined.contains(*name));
        let only_known =
            self.table.names().filter(|name| !defined.contains(*name) && !counted.contains(*name));
        let names = defined.iter().chain(only_counted).chain(only_known).cloned().collect();
        self.swept = Some(Sweep { defined, counted, names, round, retire: Vec::new() });
    }

    /// Goes through what a sweep has found, in portions.
    fn sweep_some(&mut self) {
        let Some(mut sweep) = self.swept.take() else { return };
        let budget = Budget::new();
        while budget.allows()
            && let Some(name) = sweep.names.pop()
        {
            self.compare_with(&mut sweep, name);
        }
        if !sweep.names.is_empty() {
            self.swept = Some(sweep);
            return;
        }
        self.sweeping = false;
        if !sweep.retire.is_empty() {
            attempt::retire(self.shared.clone(), sweep.retire);
        }
    }

    fn compare_with(&mut self, sweep: &mut Sweep, name: TaskName) {
        let (is_defined, is_counted) = (sweep.defined.contains(&name), sweep.counted.contains(&name));
        let Some(job) = self.table.get(&name) else { return self.look(&name, true) };
        let gone = matches!(job.known, Known::Gone);
        let is_wrong = job.told.is_some();
        if is_defined == gone {
            // Come or gone behind our back.
            self.look(&name, true);
        } else if gone && !is_counted {
            self.table.forget(&name);
            self.due.set(&name, None);
        } else if gone {
            if self.place.is_first(&name) {
                sweep.retire.push(name);
            }
        } else if !self.place.pushed {
            self.look(&name, true);
        } else if sweep.round && self.place.is_first(&name) {
            self.look(&name, is_wrong);
        }
    }
}

/// The wall clock. It can only delay a tick.
fn wall_ms() -> i64 {
    i64::try_from(unix_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loop_is_answered_also_by_work_that_fails() {
        let (done, mut answers) = mpsc::unbounded_channel();
        let answer = Answer::or(&done, Done::NotSwept);
        let failed = tokio::spawn(async move {
            let _answer = answer;
            panic!("on purpose");
        });
        assert!(failed.await.is_err());
        assert!(matches!(answers.recv().await, Some(Done::NotSwept)));
        Answer::or(&done, Done::NotSwept).is(Done::LookEnded);
        assert!(matches!(answers.recv().await, Some(Done::LookEnded)));
        assert!(answers.try_recv().is_err(), "once");
    }
}

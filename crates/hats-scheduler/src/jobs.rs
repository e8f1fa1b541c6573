//! The loop that runs jobs: it knows them all, asks for each tick when it is due, and settles what the dead have left.
//!
//! ```text
//!  feed ──changed·gap·died──┐                 ┌── look ──▶ definitions and ticks, read in pipelines
//!  peers ──lease·live───────┼──▶ the loop ────┼── adopt · settle ─▶ Redis
//!  answers ◀────────────────┘   (table, plan) └── ask ──▶ attempt ──granted──▶ run ──▶ finish
//! ```
//!
//! What must hold:
//! * One task owns the table and decides; it never waits for Redis. Every answer comes back as a message.
//! * Nothing is decided by what is known here. Redis grants each tick once, whatever this worker believes; what is known
//!   only says when it is worth asking.
//! * The name of a run is in [`Runs`] before it is sent and leaves it only when Redis has answered the end of the run,
//!   or with its session. Whatever else names our session is a ghost and is ended as failed.

mod attempt;
mod overdue;
mod plan;
mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hats_cluster::clock::unix_nanos;
use hats_cluster::coordinator::{JobFeed, JobNews, Peers};
use hats_cluster::id::{Nonce, SessionId};
use hats_cluster::lease::Lease;
use hats_cluster::name::TaskName;
use hats_cluster::records::{JobDefinition, JobRead, TicksRecord};
use hats_cluster::store::{Jobs as Found, MirrorUpdate, Store};
use hats_cluster::watchdog::Stamp;
use hats_cluster::{Error, Handle};
use hats_script::Lanes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::metrics;
use crate::runner::job::Wanted;

use self::attempt::After;
use self::overdue::{Due, OVERDUE_AFTER_MS};
use self::table::{Job, Known, Place, Step, Table};

/// The loop comes round at least this often.
const TURN_MAX: Duration = Duration::from_millis(500);
/// Changes that come this close together are looked into together.
const COALESCE: Duration = Duration::from_millis(2);
/// So many jobs go into one pipeline.
const LOOK_TOGETHER: usize = 64;
/// After a question that was not answered.
const RETRY_MS: i64 = 300;
const RETRY: Duration = Duration::from_millis(300);
/// The clock has been set back when it shows so much less than before.
const SET_BACK_MS: i64 = 500;
/// Everything is looked for once in this, where changes are pushed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Ticks are read anew this often by the worker that comes first for a job.
const ROUND_EVERY: Duration = Duration::from_secs(120);
/// Where nothing is pushed: with few jobs and with many.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const POLL_FEW: usize = 500;
/// The pause before a sweep is at least so many times as long as the last sweep: a shared Redis may hold many keys of
/// others, and a sweep passes them all.
const SWEEP_PAUSE: u32 = 10;
/// With so many questions under way a worker leaves ticks for so much longer to those who come first for them.
const BUSY: usize = 16;
const LEAVE_MAX_MS: i64 = 300;
/// Our own runs are looked at this often.
const WATCH_RUNS_EVERY: Duration = Duration::from_secs(1);
/// A look takes no longer than this.
const OVER_KEPT: Duration = Duration::from_secs(60);
/// So many of the dead are remembered.
const DEAD_MAX: usize = 10_000;

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
    done: mpsc::UnboundedSender<Done>,
}

/// The runs of this worker, those that are being asked for among them.
#[derive(Debug, Default)]
struct Runs(Mutex<HashMap<Nonce, Mine>>);

/// A run of ours, from the asking to the answered end.
#[derive(Debug)]
struct Mine {
    job: TaskName,
    wanted: watch::Sender<Wanted>,
    phase: Phase,
}

/// How far a run of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Redis has not answered yet.
    Asking,
    /// It was granted before this instant.
    Begun(Instant),
    /// Its end is on the way to Redis.
    Finishing,
    /// Redis has answered that it is over, at this instant. Remembered for as long as an earlier look may come in late.
    Over(Instant),
}

/// An answer that has come in.
enum Done {
    Looked(Vec<Looked>),
    /// A look has come to nothing: these are to be looked at again, and the definitions of some.
    NotLooked(Vec<(TaskName, bool)>),
    /// A question about a job has been answered, or not; with what is known of its ticks since.
    Asked {
        name: TaskName,
        /// From before it was asked.
        asked_at: Instant,
        ticks: Option<TicksRecord>,
        after: After,
    },
    /// A run of ours has ended.
    Ended {
        name: TaskName,
    },
    Swept(Result<Found, Error>),
    NotSwept,
}

/// Sees to it that the loop gets an answer, also of work that does not come to its end: it would wait for it for ever.
struct Answer {
    done: mpsc::UnboundedSender<Done>,
    otherwise: Option<Done>,
}

/// What a look at a job has shown.
struct Looked {
    name: TaskName,
    /// When the loop asked for it.
    asked_ms: i64,
    /// From right before it was read.
    asked_at: Instant,
    definition: Option<Result<Option<JobRead>, Error>>,
    ticks: Result<TicksRecord, Error>,
}

impl Runs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Nonce, Mine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a run that is about to be asked for. None: this worker drains. Decided under the lock, so whatever is
    /// entered is told to stop when the drain begins.
    fn enter(
        &self,
        drain: &CancellationToken,
        nonce: &Nonce,
        job: &TaskName,
    ) -> Option<watch::Receiver<Wanted>> {
        let mut runs = self.lock();
        if drain.is_cancelled() {
            return None;
        }
        let (wanted, receiver) = watch::channel(Wanted::default());
        let mine = Mine { job: job.clone(), wanted, phase: Phase::Asking };
        runs.insert(nonce.clone(), mine);
        Some(receiver)
    }

    fn begun(&self, nonce: &Nonce) {
        if let Some(mine) = self.lock().get_mut(nonce) {
            mine.phase = Phase::Begun(Instant::now());
        }
    }

    fn finishing(&self, nonce: &Nonce) {
        if let Some(mine) = self.lock().get_mut(nonce) {
            mine.phase = Phase::Finishing;
        }
    }

    fn over(&self, nonce: &Nonce) {
        if let Some(mine) = self.lock().get_mut(nonce) {
            mine.phase = Phase::Over(Instant::now());
        }
    }

    /// Nobody attends to it any more. Unless Redis has answered that it is over it is a ghost, should Redis know it.
    fn leave(&self, nonce: &Nonce) {
        let mut runs = self.lock();
        if runs.get(nonce).is_some_and(|mine| !mine.is_over()) {
            runs.remove(nonce);
        }
    }

    /// Forgets what has been over for long.
    fn prune(&self) {
        self.lock().retain(|_, mine| !matches!(mine.phase, Phase::Over(at) if at.elapsed() > OVER_KEPT));
    }

    fn has(&self, nonce: &Nonce) -> bool {
        self.lock().contains_key(nonce)
    }

    fn is_empty(&self) -> bool {
        self.lock().values().all(Mine::is_over)
    }

    /// Wants this, or more, of the runs that are meant.
    fn want(&self, what: Wanted, of: impl Fn(&Nonce, &Mine) -> bool) {
        for (nonce, mine) in &*self.lock() {
            if of(nonce, mine) {
                mine.wanted.send_if_modified(|wanted| {
                    let more = *wanted < what;
                    *wanted = (*wanted).max(what);
                    more
                });
            }
        }
    }

    fn jobs(&self) -> BTreeSet<TaskName> {
        self.lock().values().filter(|mine| !mine.is_over()).map(|mine| mine.job.clone()).collect()
    }
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

impl Mine {
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
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
        flush_at: None,
        looking: false,
        asking: 0,
        sweeping: false,
        sweep_at: now,
        sweep_began: now,
        round_at: now,
        watch_at: now,
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
    /// Jobs to be looked at, and whether their definitions are to be read as well.
    dirty: HashMap<TaskName, bool>,
    flush_at: Option<Instant>,
    looking: bool,
    /// Questions that are under way.
    asking: usize,
    sweeping: bool,
    // What comes round does not go by a clock that can be set.
    sweep_at: Instant,
    sweep_began: Instant,
    round_at: Instant,
    /// When our own runs are looked at next.
    watch_at: Instant,
    /// What the clock showed at the last turn.
    latest_ms: i64,
    stamp: Stamp,
    limit: Duration,
}

impl Jobs {
    /// Runs until everything is drained. Gives the jobs that do not end.
    async fn run(
        mut self,
        mut news: mpsc::UnboundedReceiver<JobNews>,
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
            let now_ms = self.now_ms();
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
                    self.shared.runs.want(Wanted::Stop, |_, _| true);
                    patience.as_mut().reset(Instant::now() + self.limit);
                }
                () = &mut patience, if draining => return self.shared.runs.jobs().into_iter().collect(),
                Ok(()) = self.peers.changed() => self.take_peers(),
                Some(news) = news.recv() => self.hear(news),
                Some(answer) = done.recv() => {
                    self.answered(answer);
                    // Answers come in bursts.
                    while let Ok(answer) = done.try_recv() {
                        self.answered(answer);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A tick is due when Redis' clock and this worker's have both reached it.
    fn now_ms(&self) -> i64 {
        let server = i64::try_from(self.shared.cluster.server_ms()).unwrap_or(i64::MAX);
        if server == 0 { wall_ms() } else { wall_ms().min(server) }
    }

    fn until_next(&self, now_ms: i64) -> Duration {
        let now = Instant::now();
        let due = |at: i64| Duration::from_millis(u64::try_from(at.saturating_sub(now_ms)).unwrap_or(0));
        let flush = if self.looking { None } else { self.flush_at };
        let sweep = (!self.sweeping).then(|| self.sweep_at - now);
        [self.table.next_due().map(due), flush.map(|at| at - now), sweep]
            .into_iter()
            .flatten()
            .fold(TURN_MAX, Duration::min)
            .max(Duration::from_millis(1))
    }

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
            self.consider_all(now_ms);
        }
        while let Some(name) = self.table.pop_due(now_ms) {
            self.consider(&name, now_ms);
        }
        if !self.looking && self.flush_at.is_some_and(|at| now >= at) {
            self.flush(now_ms);
        }
        self.tell_overdue(now_ms);
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
        self.place.live = peers.live;
        self.place.lease = peers.lease;
        let now = self.place.session().cloned();
        if before != now {
            if let Some(lost) = &before {
                // Granted or not: the session's death settles them, and whoever is in them is stopped by the lease.
                tracing::debug!(session = %lost, "no ticks are taken under this session any more");
            }
            self.look_at_all(false);
        }
    }

    fn hear(&mut self, news: JobNews) {
        match news {
            JobNews::Changed(name) => self.look(&name, true),
            JobNews::Gap => {
                self.sweep_at = Instant::now();
                self.look_at_all(true);
            }
            JobNews::Died(session) => self.died(session),
        }
    }

    /// What ran under it can be settled: each worker reads the jobs that it comes first for, the others in their turn.
    fn died(&mut self, session: SessionId) {
        if self.place.dead.len() >= DEAD_MAX {
            self.place.dead.clear();
        }
        if !self.place.dead.insert(session) {
            return;
        }
        let now_ms = self.now_ms();
        let first: Vec<TaskName> =
            self.table.names().filter(|name| self.place.is_first(name)).cloned().collect();
        for name in first {
            self.look(&name, false);
        }
        // What names it as far as is known already is settled even if its first one is dead as well.
        self.consider_all(now_ms);
    }

    fn look_at_all(&mut self, definitions: bool) {
        for name in self.table.names().cloned().collect::<Vec<_>>() {
            self.look(&name, definitions);
        }
    }

    fn consider_all(&mut self, now_ms: i64) {
        for name in self.table.names().cloned().collect::<Vec<_>>() {
            self.consider(&name, now_ms);
        }
    }

    /// Reads the job's ticks anew, and its definition if that may have changed.
    fn look(&mut self, name: &TaskName, definition: bool) {
        self.table.entry(name);
        *self.dirty.entry(name.clone()).or_default() |= definition;
        self.flush_at.get_or_insert_with(|| Instant::now() + COALESCE);
    }

    fn flush(&mut self, now_ms: i64) {
        self.flush_at = None;
        if self.dirty.is_empty() {
            return;
        }
        self.looking = true;
        let dirty: Vec<(TaskName, Option<Option<JobDefinition>>)> = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|(name, changed)| {
                let job = self.table.entry(&name);
                let unread = changed || matches!(job.known, Known::Unknown);
                let known = unread.then(|| job.read.clone());
                (name, known)
            })
            .collect();
        let not_looked = dirty.iter().map(|(name, known)| (name.clone(), known.is_some())).collect();
        let answer = Answer::or(&self.shared.done, Done::NotLooked(not_looked));
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let mut looked = Vec::with_capacity(dirty.len());
            for together in dirty.chunks(LOOK_TOGETHER) {
                looked.extend(look_at(&shared.store, together, now_ms).await);
            }
            answer.is(Done::Looked(looked));
        });
    }

    fn answered(&mut self, done: Done) {
        let now_ms = self.now_ms();
        match done {
            Done::Looked(looked) => {
                self.looking = false;
                looked.into_iter().for_each(|looked| self.looked(looked, now_ms));
                self.name_sessions();
            }
            Done::NotLooked(names) => {
                self.looking = false;
                for (name, definition) in names {
                    tracing::error!(task = %name, kind = "job", "a look at the job has failed, it is looked at again");
                    let job = self.table.entry(&name);
                    job.stale = true;
                    if definition {
                        job.known = Known::Unknown;
                    }
                    self.table.schedule(&name, Some(now_ms + RETRY_MS));
                }
            }
            Done::Asked { name, asked_at, ticks, after } => {
                if let Some(ticks) = &ticks {
                    self.compare(&name, ticks, asked_at);
                }
                let job = self.table.entry(&name);
                job.asking = false;
                self.asking = self.asking.saturating_sub(1);
                if let Some(ticks) = ticks {
                    job.ticks = Some(ticks);
                }
                match after {
                    After::Rest(rest) => self.table.schedule(&name, Some(now_ms.saturating_add(rest))),
                    After::Read => self.look(&name, true),
                    After::Consider => self.consider(&name, now_ms),
                }
            }
            Done::Ended { name } => self.look(&name, false),
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

    fn looked(&mut self, looked: Looked, now_ms: i64) {
        let Looked { name, asked_ms, asked_at, definition, ticks } = looked;
        let job = self.table.entry(&name);
        match definition {
            None => {}
            Some(Err(error)) => {
                tracing::debug!(task = %name, kind = "job", %error, "the job could not be read");
                job.known = Known::Unknown;
                return self.table.schedule(&name, Some(now_ms + RETRY_MS));
            }
            Some(Ok(read)) => self.defined(&name, read),
        }
        let job = self.table.entry(&name);
        match ticks {
            Err(error) => {
                tracing::debug!(task = %name, kind = "job", %error, "the ticks could not be read");
                job.stale = true;
                return self.table.schedule(&name, Some(now_ms + RETRY_MS));
            }
            Ok(ticks) => {
                job.seen_ms = asked_ms;
                job.stale = false;
                self.compare(&name, &ticks, asked_at);
                self.table.entry(&name).ticks = Some(ticks);
            }
        }
        self.consider(&name, now_ms);
    }

    /// Takes a definition as it was read, and writes down what is wrong with it.
    fn defined(&mut self, name: &TaskName, read: Option<JobRead>) {
        let mirror = read.as_ref().map(|read| read.mirror.clone());
        let (known, kept, wrong) = table::known(read);
        let runs_on = matches!(known, Known::On(_));
        let job = self.table.entry(name);
        // What runs of a job that was off before was asked for by hand, and goes on.
        let stays_off = matches!((&job.known, &known), (Known::Off { .. }, Known::Off { .. }));
        job.known = known;
        job.read = kept;
        if !runs_on && !stays_off {
            self.shared.runs.want(Wanted::Stop, |_, mine| mine.job == *name);
        }
        let Some(mirror) = mirror else { return };
        let says = (mirror.state.as_deref() == Some("crashed")).then_some(mirror.error).flatten();
        let update = match &wrong {
            Some(error) if says.as_ref() != Some(error) => {
                tracing::warn!(task = %name, kind = "job", error, "the job cannot run");
                Some(MirrorUpdate::crashed(error.clone()))
            }
            // What was wrong with the definition is mended.
            None if says.is_some() && says == job.told => Some(MirrorUpdate::mended()),
            _ => None,
        };
        job.told = wrong;
        if let Some(update) = update {
            attempt::mirror_soon(&self.shared, name, update);
        }
    }

    /// Compares the runs that Redis knows with ours: what is not there any more must end here, what nobody here knows must
    /// end there.
    fn compare(&self, name: &TaskName, ticks: &TicksRecord, asked_at: Instant) {
        self.shared.runs.want(Wanted::Forfeit, |nonce, mine| {
            mine.job == *name
                && matches!(mine.phase, Phase::Begun(at) if at < asked_at)
                && !ticks.runs.iter().any(|run| run.nonce == *nonce)
        });
        for run in &ticks.runs {
            if run.cancelled {
                self.shared.runs.want(Wanted::Stop, |nonce, _| *nonce == run.nonce);
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
    fn name_sessions(&self) {
        let mut named: Vec<SessionId> = self
            .table
            .iter()
            .filter_map(|(_, job)| job.ticks.as_ref())
            .flat_map(|ticks| &ticks.runs)
            .map(|run| run.session.clone())
            .filter(|session| self.place.session() != Some(session) && !self.place.dead.contains(session))
            .collect();
        named.sort_unstable();
        named.dedup();
        self.shared.cluster.name_sessions(named);
    }

    fn consider(&mut self, name: &TaskName, now_ms: i64) {
        let Some(job) = self.table.get(name) else { return };
        let step = job.step(name, &self.place, now_ms);
        match step {
            // What was due when the question was asked is due until it is answered.
            Step::Wait(_) if job.asking => self.table.schedule(name, None),
            // Whoever is last in rank never comes to ask for ticks that follow one another quickly.
            Step::Wait(at) => self.watch(name, at, now_ms),
            Step::Look => self.look(name, false),
            // Whoever comes first for it is as busy as we are: to look now would only keep Redis from answering.
            Step::LookInTurn { late_ms } if self.asking >= BUSY && late_ms < LEAVE_MAX_MS => {
                self.table.schedule(name, Some(now_ms + table::RANK_DELAY_MS));
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

    /// Asks Redis for what the step says, in a task of its own.
    fn take(&mut self, name: &TaskName, step: Step, lease: Lease) {
        let job = self.table.entry(name);
        let Some(ticks) = job.ticks.clone() else { return };
        job.asking = true;
        self.asking += 1;
        let known = job.known.clone();
        let dead = ticks.runs.iter().map(|run| run.session.clone());
        let dead = dead.filter(|session| self.place.dead.contains(session)).collect();
        let question = attempt::Question { name: name.clone(), known, ticks, lease, dead };
        attempt::start(self.shared.clone(), question, step);
        self.table.schedule(name, None);
    }

    fn sweep(&mut self, now: Instant) {
        self.sweeping = true;
        self.sweep_began = now;
        let many = self.table.names().count() > POLL_FEW;
        let poll = if many { POLL.1 } else { POLL.0 };
        self.sweep_at = now + if self.place.pushed { SWEEP_EVERY } else { poll };
        let answer = Answer::or(&self.shared.done, Done::NotSwept);
        let shared = self.shared.clone();
        tokio::spawn(async move { answer.is(Done::Swept(shared.store.scan_jobs().await)) });
    }

    fn not_swept(&mut self) {
        self.sweeping = false;
        self.sweep_at = Instant::now() + RETRY;
    }

    /// Found: the names of the definitions, and of the records of ticks.
    fn swept(&mut self, Found { defined, counted }: Found) {
        self.sweeping = false;
        let now = Instant::now();
        self.sweep_at = self.sweep_at.max(now + (now - self.sweep_began) * SWEEP_PAUSE);
        let round = now >= self.round_at;
        if round {
            self.round_at = now + ROUND_EVERY;
        }
        let there: HashSet<TaskName> = defined.into_iter().collect();
        let known: HashSet<TaskName> = self.table.names().cloned().collect();
        for name in there.iter().chain(&counted).filter(|name| !known.contains(*name)) {
            self.look(name, true);
        }
        for name in &known {
            let gone = matches!(self.table.get(name), Some(Job { known: Known::Gone, .. }));
            if there.contains(name) == gone {
                // Come or gone behind our back.
                self.look(name, true);
            } else if gone && !counted.contains(name) {
                self.table.forget(name);
                self.due.set(name, None);
            } else if gone {
                attempt::retire(self.shared.clone(), name.clone());
            } else if !self.place.pushed {
                self.look(name, true);
            } else if round && self.place.is_first(name) {
                self.look(name, false);
            }
        }
    }
}

/// Reads definitions, where asked for, and ticks.
async fn look_at(
    store: &Store,
    together: &[(TaskName, Option<Option<JobDefinition>>)],
    asked_ms: i64,
) -> Vec<Looked> {
    let names: Vec<TaskName> = together.iter().map(|(name, _)| name.clone()).collect();
    let unread: Vec<(TaskName, Option<JobDefinition>)> = together
        .iter()
        .filter_map(|(name, known)| known.clone().map(|known| (name.clone(), known)))
        .collect();
    let definitions = store.read_jobs(&unread).await;
    let mut definitions: HashMap<TaskName, _> =
        unread.into_iter().map(|(name, _)| name).zip(definitions).collect();
    let asked_at = Instant::now();
    let ticks = store.read_ticks(&names).await;
    names
        .into_iter()
        .zip(ticks)
        .map(|(name, ticks)| Looked {
            definition: definitions.remove(&name),
            asked_ms,
            asked_at,
            name,
            ticks,
        })
        .collect()
}

/// The wall clock. It can only delay a tick.
fn wall_ms() -> i64 {
    i64::try_from(unix_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered() -> (Runs, Nonce) {
        let (runs, nonce) = (Runs::default(), Nonce::random());
        let job = TaskName::new("job").unwrap();
        assert!(runs.enter(&CancellationToken::new(), &nonce, &job).is_some());
        (runs, nonce)
    }

    #[test]
    fn what_redis_has_not_answered_is_a_ghost_as_soon_as_nobody_attends_to_it() {
        let (runs, nonce) = entered();
        assert!(runs.has(&nonce));
        runs.leave(&nonce);
        assert!(!runs.has(&nonce), "it was asked for, and whether it was granted nobody knows");
        let (runs, nonce) = entered();
        runs.begun(&nonce);
        runs.finishing(&nonce);
        runs.leave(&nonce);
        assert!(!runs.has(&nonce), "its end may not have arrived");
    }

    #[test]
    fn what_is_over_is_remembered_for_a_look_that_comes_in_late() {
        let (runs, nonce) = entered();
        runs.begun(&nonce);
        runs.over(&nonce);
        runs.leave(&nonce);
        assert!(runs.has(&nonce));
        assert!(runs.is_empty(), "a drain does not wait for it");
        runs.prune();
        assert!(runs.has(&nonce));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_been_over_for_long_is_forgotten() {
        let (runs, nonce) = entered();
        runs.over(&nonce);
        tokio::time::advance(OVER_KEPT + Duration::from_secs(1)).await;
        runs.prune();
        assert!(!runs.has(&nonce));
    }

    #[test]
    fn nothing_is_entered_once_the_drain_has_begun() {
        let drain = CancellationToken::new();
        drain.cancel();
        assert!(Runs::default().enter(&drain, &Nonce::random(), &TaskName::new("job").unwrap()).is_none());
    }

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
        Answer::or(&done, Done::NotSwept).is(Done::Looked(Vec::new()));
        assert!(matches!(answers.recv().await, Some(Done::Looked(_))));
        assert!(answers.try_recv().is_err(), "once");
    }
}

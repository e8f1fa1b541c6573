//! The OS thread that sees to it that time limits hold, whatever the rest of the process does.
//!
//! ```text
//!   trusted ──S──▶ lease flipped ──between S and H──▶ scripts left are named ──H──▶ hard stop
//!   a lane or the coordinator silent for `stall_after` ──▶ named, renewal withheld ──▶ S, then H as above
//! ```
//!
//! What must always hold:
//! * It is an OS thread and never waits for anything but time: not for Redis, not for a lock that is held while
//!   something else is waited for, not for a runtime.
//! * The hard stop comes at H, but not before 250 ms after a freeze of the process was noticed: whoever was stopped
//!   with the process gets that long to see that the lease is gone and end by itself. While they do so one after the
//!   other they get up to a second. Freezes that go on happening, as on a host that is overloaded or where the share of
//!   the processor is limited, put it off no further.
//! * A freeze makes nobody look stalled: silence is counted in time during which the process ran.
//! * A task is named in the session's record only for a stall of `stall_after` of the lane that is in its code, and only
//!   while nothing else stalls that names no task. What is still running when a lease is lost for another reason (Redis
//!   was away, the process was suspended) is logged and counts against nobody.

use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::clock::BootInstant;
use crate::config::{OnHardStop, StuckNamer};
use crate::id::SessionId;
use crate::lease::Lease;
use crate::name::{Task, TaskKind, TaskName};
use crate::records::Suspect;

/// The watchdog looks round at least this often.
const ROUND_MAX: Duration = Duration::from_millis(50);
/// … and no more often than this.
const ROUND_LEAST: Duration = Duration::from_millis(1);
/// A round that comes this much too late means that the process was frozen.
const FREEZE_LEAST: Duration = Duration::from_millis(150);
/// A freeze this long is told.
const FREEZE_TOLD: Duration = Duration::from_secs(1);
/// After a freeze was noticed nobody is stopped hard for this long.
const GRACE_AFTER_FREEZE: Duration = Duration::from_millis(250);
/// Scripts that keep ending after a freeze get longer: as long as one ends within this after the other …
const ENDING_PAUSE_MAX: Duration = Duration::from_millis(100);
/// … but no longer than this.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// A lane that is silent for this long while scripts of a lost lease still run is what they are stuck in.
const SUSPICIOUS_SILENCE: Duration = Duration::from_millis(300);
/// How long the last words before a hard stop may take. With the shortest lease a peer may own what we run 0.2 s after
/// H: these two must end well before.
const LAST_WORDS_MAX: Duration = Duration::from_millis(20);
/// How long an orderly exit may take.
const EXIT_MAX: Duration = Duration::from_millis(60);
/// The exit code of a hard stop.
const EXIT_HARD_STOP: i32 = 70;

/// Why the process has to end.
#[derive(Debug, Clone)]
pub struct HardStop {
    /// The session that was lost.
    pub session: SessionId,
    /// The scripts that still run under it.
    pub stuck: Vec<TaskName>,
}

impl fmt::Display for HardStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} is lost and these threads have not ended: ", self.session)?;
        write_names(f, &self.stuck)
    }
}

/// The default at the hard stop: says why on standard error and exits with 70, without running a destructor.
///
/// Neither the message nor the exit may wait for something that is stuck, so each has an OS thread of its own and little
/// time; past that the process kills itself.
pub fn exit_at_hard_stop(stop: &HardStop) {
    let text = format!("hard stop: {stop}\n");
    let _ = within(LAST_WORDS_MAX, move || {
        let _ = std::io::stderr().write_all(text.as_bytes());
    });
    let _ = within(EXIT_MAX, || std::process::exit(EXIT_HARD_STOP));
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Runs `f` on an OS thread and waits for it, for `limit` at most.
fn within(limit: Duration, f: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    std::thread::Builder::new().spawn(move || {
        f();
        drop(done);
    })?;
    let _ = wait.recv_timeout(limit);
    Ok(())
}

/// Whoever has to come round again and again touches this whenever it does. It stops counting when the last clone is
/// dropped.
#[derive(Clone)]
pub struct Stamp {
    inner: Arc<StampInner>,
}

struct StampInner {
    who: String,
    last: AtomicU64,
    namer: Option<StuckNamer>,
}

impl Stamp {
    pub(crate) fn new(who: &str, namer: Option<StuckNamer>) -> Self {
        let last = AtomicU64::new(BootInstant::now().as_nanos());
        Self { inner: Arc::new(StampInner { who: who.to_owned(), last, namer }) }
    }

    /// Says: I came round.
    pub fn touch(&self) {
        self.inner.last.store(BootInstant::now().as_nanos(), Ordering::Relaxed);
    }
}

impl StampInner {
    /// The task in whose code it is.
    fn task(&self) -> Option<Task> {
        self.namer.as_ref().and_then(|name| name())
    }

    fn suspect(&self, stall_after: Duration) -> Option<Suspect> {
        let reason = format!("{} did not get out of its code for {stall_after:?}", self.who);
        Some(Suspect { task: self.task()?, reason })
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({})", self.inner.who)
    }
}

/// What the watchdog has to say. Said by an OS thread of its own, since writing a log line may wait for its reader.
enum Report {
    StoodStill {
        passed: Duration,
    },
    Stalled {
        who: String,
        task: Option<Task>,
        stall_after: Duration,
    },
    RoundAgain,
    Left {
        session: SessionId,
        left: usize,
        stuck: Vec<TaskName>,
    },
    /// Somebody else's line, who may not wait either.
    Line(Box<dyn FnOnce() + Send>),
}

impl Report {
    fn log(self) {
        match self {
            Self::Line(line) => line(),
            Self::StoodStill { passed } => warn!(elapsed = ?passed, "the process stood still"),
            Self::Stalled { who, task, stall_after } => error!(
                part = %who,
                task = task.as_ref().map_or("unknown", Task::name),
                kind = task.as_ref().map_or("unknown", |task| task.kind().as_str()),
                "has not come round for {stall_after:?}: the session is no longer renewed"
            ),
            Self::RoundAgain => warn!("everything comes round again: the session is renewed"),
            Self::Left { session, left, stuck } => error!(
                %session,
                threads = left,
                stuck = %Names(&stuck),
                "the session is lost and threads have not ended: the process ends at its hard stop if they do not"
            ),
        }
    }
}

/// A stamp, and what was last seen of it.
struct Watched {
    stamp: Weak<StampInner>,
    seen: Option<Seen>,
}

/// The value of a stamp, and how long the process had run when it was first seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    value: u64,
    awake: Duration,
}

/// Tasks that stall a session, as the watchdog found. None: nothing stalls it any more.
#[derive(Debug)]
pub(crate) struct Suspects {
    pub(crate) session: SessionId,
    pub(crate) suspects: Vec<Suspect>,
}

/// The running watchdog. Its OS thread ends when this is dropped.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    reports: std::sync::mpsc::Sender<Report>,
}

struct Shared {
    stall_after: Duration,
    stamps: Mutex<Vec<Watched>>,
    leases: Mutex<Vec<Lease>>,
    /// Whether renewal is withheld because something does not come round.
    withheld: AtomicBool,
    ended: AtomicBool,
}

impl Watchdog {
    /// Starts the OS thread. Suspects are sent to `suspects`, to be written into the session's record.
    pub(crate) fn start(
        stall_after: Duration,
        on_hard_stop: OnHardStop,
        suspects: mpsc::UnboundedSender<Suspects>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            stall_after,
            stamps: Mutex::default(),
            leases: Mutex::default(),
            withheld: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let (reports, to_say) = std::sync::mpsc::channel::<Report>();
        std::thread::Builder::new()
            .name("hats-watch-log".to_owned())
            .spawn(move || to_say.iter().for_each(Report::log))?;
        let outlets = Outlets { suspects, reports: reports.clone() };
        std::thread::Builder::new()
            .name("hats-watchdog".to_owned())
            .spawn(move || of_thread.run(&on_hard_stop, &outlets))?;
        Ok(Self { shared, reports })
    }

    /// Watches over a lease until it is lost and nothing runs under it.
    pub(crate) fn watch(&self, lease: Lease) {
        lock(&self.shared.leases).push(lease);
    }

    /// A stamp that must be touched at least every `stall_after`.
    pub(crate) fn stamp(&self, who: &str, namer: Option<StuckNamer>) -> Stamp {
        let stamp = Stamp::new(who, namer);
        lock(&self.shared.stamps).push(Watched { stamp: Arc::downgrade(&stamp.inner), seen: None });
        stamp
    }

    /// Logs a line on the OS thread that may wait for the log's reader.
    pub(crate) fn say(&self, line: impl FnOnce() + Send + 'static) {
        let _ = self.reports.send(Report::Line(Box::new(line)));
    }

    /// Whether the session may not be renewed now.
    pub(crate) fn is_withheld(&self) -> bool {
        self.shared.withheld.load(Ordering::Acquire)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
    }
}

/// Where the watchdog puts what it has found: both without waiting.
struct Outlets {
    suspects: mpsc::UnboundedSender<Suspects>,
    reports: std::sync::mpsc::Sender<Report>,
}

impl Outlets {
    fn suspect(&self, lease: &Lease, suspects: Vec<Suspect>) {
        let _ = self.suspects.send(Suspects { session: lease.session().clone(), suspects });
    }

    fn say(&self, report: Report) {
        let _ = self.reports.send(report);
    }
}

impl Shared {
    fn run(&self, on_hard_stop: &OnHardStop, outlets: &Outlets) {
        let mut rounds = Rounds::new(BootInstant::now());
        let mut sleep = ROUND_MAX;
        let mut evidence = Evidence::default();
        // After the end it stays until nothing is left to stop: what runs under a lost lease ends with the process.
        while !self.ended.load(Ordering::Acquire) || !lock(&self.leases).is_empty() {
            std::thread::sleep(sleep);
            let now = BootInstant::now();
            if let Some(passed) = rounds.begin(now, sleep) {
                outlets.say(Report::StoodStill { passed });
            }
            let stalled = self.silent_for(&rounds, self.stall_after);
            let leases = lock(&self.leases).clone();
            self.withhold(&stalled, outlets);
            if let Some(lease) = leases.iter().find(|lease| lease.is_trusted()) {
                let named = stalled.iter().map(|stamp| stamp.suspect(self.stall_after)).collect();
                if let Some(suspects) = evidence.found(stalled.len(), named) {
                    outlets.suspect(lease, suspects);
                }
            }
            for lease in &leases {
                match rounds.look_at_lease(now, lease) {
                    Duty::Nothing => {}
                    Duty::Forget => lock(&self.leases).retain(|other| other.session() != lease.session()),
                    Duty::Name => self.name_left(&rounds, lease, outlets),
                    Duty::HardStop => {
                        let stop = HardStop { session: lease.session().clone(), stuck: lease.scripts() };
                        on_hard_stop(&stop);
                    }
                }
            }
            sleep = rounds.sleep(now, &leases);
        }
    }

    /// Whoever has not come round for so long.
    fn silent_for(&self, rounds: &Rounds, least: Duration) -> Vec<Arc<StampInner>> {
        let mut silent = Vec::new();
        lock(&self.stamps).retain_mut(|watched| {
            let Some(stamp) = watched.stamp.upgrade() else { return false };
            if rounds.silence(&mut watched.seen, stamp.last.load(Ordering::Relaxed)) >= least {
                silent.push(stamp);
            }
            true
        });
        silent
    }

    fn withhold(&self, stalled: &[Arc<StampInner>], outlets: &Outlets) {
        let withheld = !stalled.is_empty();
        if self.withheld.swap(withheld, Ordering::AcqRel) == withheld {
            return;
        }
        if stalled.is_empty() {
            outlets.say(Report::RoundAgain);
        }
        for stamp in stalled {
            let (who, task) = (stamp.who.clone(), stamp.task());
            outlets.say(Report::Stalled { who, task, stall_after: self.stall_after });
        }
    }

    /// Logs the scripts that still run although their lease is lost.
    fn name_left(&self, rounds: &Rounds, lease: &Lease, outlets: &Outlets) {
        let left = lease.scripts();
        let names: Vec<_> = self
            .silent_for(rounds, SUSPICIOUS_SILENCE)
            .iter()
            .filter_map(|stamp| guard_name(&stamp.task()?))
            .filter(|name| left.contains(name))
            .collect();
        let stuck = if names.is_empty() { left.clone() } else { names };
        outlets.say(Report::Left { session: lease.session().clone(), left: left.len(), stuck });
    }
}

/// The name by which a running script of this task is known to its lease; None: it runs under none.
fn guard_name(task: &Task) -> Option<TaskName> {
    match task.kind() {
        TaskKind::Thread => task.as_thread(),
        TaskKind::Job => TaskName::new(format!("job:{}", task.name())).ok(),
        TaskKind::Endpoint => None,
    }
}

/// Which tasks a stall can be blamed on, as far as the record of the session says so. Pure.
#[derive(Debug, Default)]
struct Evidence {
    /// How many parts stalled at the last round.
    stalled: usize,
    /// What was written last.
    named: Vec<Suspect>,
}

impl Evidence {
    /// So many parts stall now, each in the code of this task, if it can tell. Gives what is to be written, if that is
    /// something else than before.
    fn found(&mut self, stalled: usize, named: Vec<Option<Suspect>>) -> Option<Vec<Suspect>> {
        let grown = stalled > std::mem::replace(&mut self.stalled, stalled);
        // Where a part stalls that is in no task's code the whole process may be what is slow.
        let now: Vec<Suspect> = named.into_iter().collect::<Option<_>>().unwrap_or_default();
        let suspects = match grown {
            true => now,
            // A lane that has gone on to another task was held up by none of them alone.
            false => self.named.iter().filter(|suspect| now.contains(suspect)).cloned().collect(),
        };
        (suspects != self.named).then(|| {
            self.named.clone_from(&suspects);
            suspects
        })
    }
}

/// What to do about a lease.
#[derive(Debug, PartialEq, Eq)]
enum Duty {
    Nothing,
    /// It is lost and nothing runs under it.
    Forget,
    /// Say what still runs.
    Name,
    /// The process has to end.
    HardStop,
}

/// The watchdog's memory from round to round: pure, given `now`.
struct Rounds {
    last_round: BootInstant,
    /// How long the process has run, as far as can be told: a freeze counts as no more than it takes to notice one.
    awake: Duration,
    /// When the last freeze was noticed.
    thawed: Option<BootInstant>,
    /// The last freeze was long enough to be told.
    thawed_from_long: bool,
    lost: HashMap<SessionId, LostLease>,
}

/// What the watchdog remembers of a lost lease under which something still runs.
struct LostLease {
    /// The freeze after which its scripts get a while to end by themselves. Invariant: set when the lease is first seen
    /// to be lost, and moved at most once by a freeze of each kind, so that no sequence of freezes puts off the hard stop
    /// for ever.
    thawed: Option<BootInstant>,
    moved_by_short: bool,
    moved_by_long: bool,
    /// How many scripts were left at the last look, and when one was last seen to have ended.
    left: usize,
    last_end: BootInstant,
    named: bool,
    stopped: bool,
}

impl Rounds {
    fn new(now: BootInstant) -> Self {
        Self {
            last_round: now,
            awake: Duration::ZERO,
            thawed: None,
            thawed_from_long: false,
            lost: HashMap::new(),
        }
    }

    /// A round begins; it was planned for `slept` after the last one. Tells how long a freeze was that is worth
    /// telling.
    fn begin(&mut self, now: BootInstant, slept: Duration) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.last_round);
        self.last_round = now;
        self.awake += passed.min(slept + FREEZE_LEAST);
        if passed < slept + FREEZE_LEAST {
            return None;
        }
        self.thawed = Some(now);
        self.thawed_from_long = passed >= FREEZE_TOLD;
        self.thawed_from_long.then_some(passed)
    }

    /// How long a stamp has not changed, in time during which the process ran.
    fn silence(&self, seen: &mut Option<Seen>, value: u64) -> Duration {
        let seen = seen.get_or_insert(Seen { value, awake: self.awake });
        if seen.value != value {
            *seen = Seen { value, awake: self.awake };
        }
        self.awake - seen.awake
    }

    fn look_at_lease(&mut self, now: BootInstant, lease: &Lease) -> Duty {
        // Asking flips the lease when its time is over.
        if lease.is_trusted() {
            return Duty::Nothing;
        }
        let left = lease.running();
        if left == 0 {
            self.lost.remove(lease.session());
            return Duty::Forget;
        }
        let lost = self.lost.entry(lease.session().clone()).or_insert_with(|| LostLease {
            thawed: self.thawed,
            moved_by_short: false,
            moved_by_long: false,
            left,
            last_end: now,
            named: false,
            stopped: false,
        });
        if self.thawed != lost.thawed {
            lost.freeze_noticed(self.thawed, self.thawed_from_long);
        }
        if left < lost.left {
            lost.left = left;
            lost.last_end = now;
        }
        if now >= lost.hard_stop_at(lease) && !lost.is_ending(now) {
            if lost.stopped {
                return Duty::Nothing;
            }
            lost.stopped = true;
            return Duty::HardStop;
        }
        if now >= lease.name_at() && !lost.named {
            lost.named = true;
            return Duty::Name;
        }
        Duty::Nothing
    }

    /// How long until something may be due.
    fn sleep(&self, now: BootInstant, leases: &[Lease]) -> Duration {
        let due = leases
            .iter()
            .filter_map(|lease| {
                let until = lease.trusted_until();
                match self.lost.get(lease.session()) {
                    Some(lost) if lost.stopped => None,
                    Some(lost) => Some(lost.hard_stop_at(lease)),
                    None => Some(until.max(now)),
                }
            })
            .map(|due| due.saturating_duration_since(now))
            .min()
            .unwrap_or(ROUND_MAX);
        due.clamp(ROUND_LEAST, ROUND_MAX)
    }
}

impl LostLease {
    fn freeze_noticed(&mut self, thawed: Option<BootInstant>, long: bool) {
        let moved = if long { &mut self.moved_by_long } else { &mut self.moved_by_short };
        if !*moved {
            *moved = true;
            self.thawed = thawed;
        }
    }

    fn hard_stop_at(&self, lease: &Lease) -> BootInstant {
        let grace = self.thawed.map_or(BootInstant::default(), |thawed| thawed + GRACE_AFTER_FREEZE);
        lease.hard_stop_at().max(grace)
    }

    /// Whether the process was frozen a moment ago and the scripts are ending one after the other.
    fn is_ending(&self, now: BootInstant) -> bool {
        self.thawed.is_some_and(|thawed| now < thawed + ENDING_MAX) && now < self.last_end + ENDING_PAUSE_MAX
    }
}

struct Names<'a>(&'a [TaskName]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.0)
    }
}

/// The first few names and how many more there are.
fn write_names(f: &mut fmt::Formatter<'_>, names: &[TaskName]) -> fmt::Result {
    const SHOWN: usize = 10;
    for (number, name) in names.iter().take(SHOWN).enumerate() {
        write!(f, "{}{name}", if number == 0 { "" } else { ", " })?;
    }
    match names.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Timing;

    const STALL: Duration = Duration::from_secs(10);

    fn lease_of(age: Duration) -> Lease {
        Lease::opened(SessionId::random(), Timing::new(Duration::from_secs(10)), BootInstant::now() - age)
    }

    #[test]
    fn names_then_stops_what_outlives_its_lease() {
        let now = BootInstant::now();
        let mut rounds = Rounds::new(now);
        let lease = lease_of(Duration::from_secs(8));
        assert_eq!(rounds.look_at_lease(now, &lease), Duty::Forget, "nothing runs");
        let _guard = lease.enter(&TaskName::try_from("a").unwrap());
        assert_eq!(rounds.look_at_lease(now, &lease), Duty::Name);
        assert_eq!(rounds.look_at_lease(now, &lease), Duty::Nothing, "named once");
        let at_h = lease.hard_stop_at();
        assert_eq!(rounds.look_at_lease(at_h, &lease), Duty::HardStop);
        assert_eq!(rounds.look_at_lease(at_h, &lease), Duty::Nothing, "once");
    }

    #[test]
    fn a_freeze_defers_the_hard_stop_by_its_grace() {
        let now = BootInstant::now();
        let mut rounds = Rounds::new(now - Duration::from_secs(30));
        rounds.begin(now, ROUND_MAX);
        let lease = lease_of(Duration::from_secs(30));
        let _guard = lease.enter(&TaskName::try_from("a").unwrap());
        assert_eq!(rounds.look_at_lease(now, &lease), Duty::Name);
        assert_eq!(rounds.look_at_lease(now + Duration::from_millis(249), &lease), Duty::Nothing);
        assert_eq!(rounds.look_at_lease(now + Duration::from_millis(250), &lease), Duty::HardStop);
    }

    #[test]
    fn after_a_freeze_scripts_that_keep_ending_get_longer() {
        let now = BootInstant::now();
        let mut rounds = Rounds::new(now - Duration::from_secs(30));
        rounds.begin(now, ROUND_MAX);
        let lease = lease_of(Duration::from_secs(30));
        let name = TaskName::try_from("a").unwrap();
        let mut guards: Vec<_> = (0..20).map(|_| lease.enter(&name)).collect();
        let at = |millis| now + Duration::from_millis(millis);
        assert_eq!(rounds.look_at_lease(at(0), &lease), Duty::Name);
        for tenth in 1..=5 {
            guards.pop();
            assert_eq!(rounds.look_at_lease(at(tenth * 90), &lease), Duty::Nothing);
        }
        assert_eq!(rounds.look_at_lease(at(549), &lease), Duty::Nothing);
        assert_eq!(rounds.look_at_lease(at(550), &lease), Duty::HardStop, "none has ended for a while");
    }

    #[test]
    fn late_rounds_do_not_put_off_the_hard_stop_for_ever() {
        let start = BootInstant::now() - Duration::from_secs(12);
        let mut rounds = Rounds::new(start);
        let lease = lease_of(Duration::from_secs(8));
        let name = TaskName::try_from("a").unwrap();
        let mut guards: Vec<_> = (0..100).map(|_| lease.enter(&name)).collect();
        let mut now = BootInstant::now();
        let stopped_after = (0..100).find(|_| {
            // Every round is late, and in each of them a script has ended.
            now = now + Duration::from_millis(210);
            rounds.begin(now, ROUND_MAX);
            guards.pop();
            rounds.look_at_lease(now, &lease) == Duty::HardStop
        });
        assert!(stopped_after.is_some_and(|round| round < 12), "{stopped_after:?}");
        assert!(now < lease.hard_stop_at() + ENDING_MAX);
    }

    #[test]
    fn a_long_freeze_gives_its_grace_even_after_a_short_one() {
        let now = BootInstant::now();
        let mut rounds = Rounds::new(now);
        let lease = lease_of(Duration::from_secs(8));
        let _guard = lease.enter(&TaskName::try_from("a").unwrap());
        assert_eq!(rounds.look_at_lease(now, &lease), Duty::Name);
        let short = now + Duration::from_millis(300);
        rounds.begin(short, ROUND_MAX);
        assert_eq!(rounds.look_at_lease(short, &lease), Duty::Nothing);
        let long = short + Duration::from_secs(30);
        assert_eq!(rounds.begin(long, ROUND_MAX), Some(Duration::from_secs(30)));
        assert_eq!(rounds.look_at_lease(long, &lease), Duty::Nothing);
        assert_eq!(rounds.look_at_lease(long + GRACE_AFTER_FREEZE, &lease), Duty::HardStop);
    }

    #[test]
    fn a_freeze_makes_nobody_look_stalled() {
        let start = BootInstant::now();
        let mut rounds = Rounds::new(start);
        let mut seen = None;
        assert_eq!(rounds.silence(&mut seen, 7), Duration::ZERO);
        let now = start + Duration::from_secs(30);
        rounds.begin(now, ROUND_MAX);
        assert!(rounds.silence(&mut seen, 7) <= ROUND_MAX + FREEZE_LEAST);
        rounds.begin(now + ROUND_MAX, ROUND_MAX);
        assert_eq!(rounds.silence(&mut seen, 8), Duration::ZERO);
    }

    #[test]
    fn late_rounds_hide_nobody_who_is_stalled() {
        let mut now = BootInstant::now();
        let mut rounds = Rounds::new(now);
        let mut seen = None;
        rounds.silence(&mut seen, 7);
        // Nine seconds of each ten are good, one round of each is late.
        for round in 1..=300 {
            let late = if round % 100 == 0 { Duration::from_millis(200) } else { Duration::ZERO };
            now = now + Duration::from_millis(50) + late;
            rounds.begin(now, ROUND_MAX);
        }
        assert!(rounds.silence(&mut seen, 7) >= STALL);
    }

    #[test]
    fn a_trusted_lease_needs_nothing() {
        let now = BootInstant::now();
        let mut rounds = Rounds::new(now);
        let lease = lease_of(Duration::ZERO);
        let _guard = lease.enter(&TaskName::try_from("a").unwrap());
        assert_eq!(rounds.look_at_lease(now, &lease), Duty::Nothing);
        assert!(rounds.sleep(now, &[lease]) <= ROUND_MAX);
    }

    #[test]
    fn the_watchdog_flips_a_lease_and_stops_hard() {
        let (suspects, mut suspected) = mpsc::unbounded_channel();
        let (stops, stopped) = std::sync::mpsc::channel();
        let watchdog = Watchdog::start(
            STALL,
            Arc::new(move |stop: &HardStop| {
                let _ = stops.send(stop.clone());
            }),
            suspects,
        )
        .unwrap();
        let lease = Lease::opened(
            SessionId::random(),
            Timing::new(Duration::from_secs(2)),
            BootInstant::now() - Duration::from_millis(1200),
        );
        let name = TaskName::try_from("stuck").unwrap();
        let guard = lease.enter(&name);
        watchdog.watch(lease.clone());
        let stop = stopped.recv().unwrap();
        assert_eq!(stop.stuck, vec![name.clone()]);
        assert!(BootInstant::now() >= lease.hard_stop_at());
        assert!(!lease.is_trusted());
        drop(guard);
        drop(watchdog);
        assert!(
            suspected.blocking_recv().is_none(),
            "that a lease was lost says nothing about what ran under it"
        );
    }

    #[test]
    fn a_stalled_lane_names_the_kind_and_takes_it_back_when_it_goes_on() {
        let (suspects, mut suspected) = mpsc::unbounded_channel();
        let watchdog =
            Watchdog::start(Duration::from_millis(100), Arc::new(|_: &HardStop| {}), suspects).unwrap();
        let task = Task::new(TaskKind::Job, "stuck").unwrap();
        let of_namer = task.clone();
        let stamp = watchdog.stamp("lane 0", Some(Arc::new(move || Some(of_namer.clone()))));
        let lease = lease_of(Duration::ZERO);
        watchdog.watch(lease.clone());
        let named = suspected.blocking_recv().unwrap();
        assert_eq!((&named.session, &named.suspects[0].task), (lease.session(), &task));
        assert_eq!(named.suspects[0].reason, "lane 0 did not get out of its code for 100ms");
        let touching = std::thread::spawn(move || {
            for _ in 0..200 {
                stamp.touch();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert!(suspected.blocking_recv().unwrap().suspects.is_empty());
        touching.join().unwrap();
    }

    fn suspect(name: &str) -> Suspect {
        Suspect { task: Task::new(TaskKind::Thread, name).unwrap(), reason: "r".to_owned() }
    }

    #[test]
    fn only_what_stays_in_one_task_s_code_is_evidence_against_it() {
        let (a, b) = (suspect("a"), suspect("b"));
        let mut evidence = Evidence::default();
        assert_eq!(evidence.found(0, vec![]), None);
        assert_eq!(evidence.found(1, vec![Some(a.clone())]), Some(vec![a.clone()]));
        assert_eq!(evidence.found(1, vec![Some(a.clone())]), None, "once");
        assert_eq!(
            evidence.found(2, vec![Some(a.clone()), Some(b.clone())]),
            Some(vec![a.clone(), b.clone()])
        );
        assert_eq!(evidence.found(2, vec![Some(a.clone()), Some(suspect("c"))]), Some(vec![a.clone()]));
        assert_eq!(
            evidence.found(3, vec![Some(a.clone()), Some(b.clone()), None]),
            Some(vec![]),
            "the process is slow"
        );
        assert_eq!(evidence.found(1, vec![Some(a.clone())]), None, "and may have been what was slow");
        assert_eq!(evidence.found(0, vec![]), None);
        assert_eq!(evidence.found(1, vec![Some(b.clone())]), Some(vec![b]), "another stall");
    }
}

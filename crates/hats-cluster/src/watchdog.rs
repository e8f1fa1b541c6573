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
//!   other they get up to a second.
//! * A freeze makes nobody look stalled: silence counts from the moment the process was running again.

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
use crate::name::TaskName;

/// The watchdog looks round at least this often.
const ROUND_MAX: Duration = Duration::from_millis(50);
/// A round that comes this much too late means that the process was frozen.
const FREEZE_LEAST: Duration = Duration::from_millis(150);
/// After a freeze was noticed nobody is stopped hard for this long.
const GRACE_AFTER_FREEZE: Duration = Duration::from_millis(250);
/// Scripts that keep ending after a freeze get longer: as long as one ends within this after the other …
const ENDING_PAUSE_MAX: Duration = Duration::from_millis(100);
/// … but no longer than this.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// A lane that is silent for this long while scripts of a lost lease still run is what they are stuck in.
const SUSPICIOUS_SILENCE: Duration = Duration::from_millis(300);
/// How long the last words before a hard stop may take.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);
/// How long an orderly exit may take.
const EXIT_MAX: Duration = Duration::from_millis(200);
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

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({})", self.inner.who)
    }
}

/// What the watchdog has to say. Said by an OS thread of its own, since writing a log line may wait for its reader.
#[derive(Debug)]
enum Report {
    StoodStill { passed: Duration },
    Stalled { who: String, task: Option<TaskName>, stall_after: Duration },
    RoundAgain,
    Left { session: SessionId, left: usize, stuck: Vec<TaskName> },
}

impl Report {
    fn log(&self) {
        match self {
            Self::StoodStill { passed } => warn!(?passed, "the process stood still"),
            Self::Stalled { who, task, stall_after } => error!(
                %who,
                task = task.as_ref().map_or("unknown", TaskName::as_str),
                "has not come round for {stall_after:?}: the session is no longer renewed"
            ),
            Self::RoundAgain => warn!("everything comes round again: the session is renewed"),
            Self::Left { session, left, stuck } => error!(
                %session,
                left,
                stuck = %Names(stuck),
                "the session is lost and threads have not ended: the process ends at its hard stop if they do not"
            ),
        }
    }
}

/// Threads that the watchdog found a session stuck in.
#[derive(Debug)]
pub(crate) struct Suspects {
    pub(crate) session: SessionId,
    pub(crate) names: Vec<TaskName>,
}

/// The running watchdog. Its OS thread ends when this is dropped.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    stall_after: Duration,
    stamps: Mutex<Vec<Weak<StampInner>>>,
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
            .spawn(move || to_say.iter().for_each(|report| report.log()))?;
        std::thread::Builder::new()
            .name("hats-watchdog".to_owned())
            .spawn(move || of_thread.run(&on_hard_stop, &Outlets { suspects, reports }))?;
        Ok(Self { shared })
    }

    /// Watches over a lease until it is lost and nothing runs under it.
    pub(crate) fn watch(&self, lease: Lease) {
        lock(&self.shared.leases).push(lease);
    }

    /// A stamp that must be touched at least every `stall_after`.
    pub(crate) fn stamp(&self, who: &str, namer: Option<StuckNamer>) -> Stamp {
        let stamp = Stamp::new(who, namer);
        lock(&self.shared.stamps).push(Arc::downgrade(&stamp.inner));
        stamp
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
    fn suspect(&self, lease: &Lease, names: Vec<TaskName>) {
        let _ = self.suspects.send(Suspects { session: lease.session().clone(), names });
    }

    fn say(&self, report: Report) {
        let _ = self.reports.send(report);
    }
}

impl Shared {
    fn run(&self, on_hard_stop: &OnHardStop, outlets: &Outlets) {
        let mut rounds = Rounds::new(BootInstant::now(), self.stall_after);
        let mut sleep = ROUND_MAX;
        // After the end it stays until nothing is left to stop: what runs under a lost lease ends with the process.
        while !self.ended.load(Ordering::Acquire) || !lock(&self.leases).is_empty() {
            std::thread::sleep(sleep);
            let now = BootInstant::now();
            if let Some(passed) = rounds.begin(now, sleep) {
                outlets.say(Report::StoodStill { passed });
            }
            let stalled = self.look_at_stamps(now, &rounds);
            let leases = lock(&self.leases).clone();
            self.withhold(&stalled, &leases, outlets);
            for lease in &leases {
                match rounds.look_at_lease(now, lease) {
                    Duty::Nothing => {}
                    Duty::Forget => lock(&self.leases).retain(|other| other.session() != lease.session()),
                    Duty::Name => self.name_left(now, lease, outlets),
                    Duty::HardStop => {
                        let stop = HardStop { session: lease.session().clone(), stuck: lease.scripts() };
                        on_hard_stop(&stop);
                    }
                }
            }
            sleep = rounds.sleep(now, &leases);
        }
    }

    /// Names whoever has not come round for too long.
    fn look_at_stamps(&self, now: BootInstant, rounds: &Rounds) -> Vec<Arc<StampInner>> {
        let mut stamps = lock(&self.stamps);
        stamps.retain(|stamp| stamp.strong_count() > 0);
        stamps
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|stamp| {
                rounds.is_stalled(now, BootInstant::from_nanos(stamp.last.load(Ordering::Relaxed)))
            })
            .collect()
    }

    fn withhold(&self, stalled: &[Arc<StampInner>], leases: &[Lease], outlets: &Outlets) {
        let withheld = !stalled.is_empty();
        if self.withheld.swap(withheld, Ordering::AcqRel) == withheld {
            return;
        }
        if stalled.is_empty() {
            outlets.say(Report::RoundAgain);
        }
        for stamp in stalled {
            let task = stamp.namer.as_ref().and_then(|name| name());
            if let (Some(name), Some(lease)) = (&task, leases.iter().find(|lease| lease.is_trusted())) {
                outlets.suspect(lease, vec![name.clone()]);
            }
            outlets.say(Report::Stalled { who: stamp.who.clone(), task, stall_after: self.stall_after });
        }
    }

    /// Names the scripts that still run although their lease is lost.
    fn name_left(&self, now: BootInstant, lease: &Lease, outlets: &Outlets) {
        let left = lease.scripts();
        let mut names: Vec<_> = lock(&self.stamps)
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|stamp| {
                let last = BootInstant::from_nanos(stamp.last.load(Ordering::Relaxed));
                now.saturating_duration_since(last) >= SUSPICIOUS_SILENCE
            })
            .filter_map(|stamp| stamp.namer.as_ref().and_then(|name| name()))
            .filter(|name| left.contains(name))
            .collect();
        if names.is_empty() && left.len() == 1 {
            names.clone_from(&left);
        }
        let stuck = if names.is_empty() { left.clone() } else { names.clone() };
        outlets.say(Report::Left { session: lease.session().clone(), left: left.len(), stuck });
        if !names.is_empty() {
            outlets.suspect(lease, names);
        }
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
    stall_after: Duration,
    last_round: BootInstant,
    /// When the last freeze was noticed.
    thawed: Option<BootInstant>,
    named: Option<SessionId>,
    stopped: Option<SessionId>,
    /// How many scripts of which lost session were left at the last look, and when one was last seen to have ended.
    left: Option<(SessionId, usize, BootInstant)>,
}

impl Rounds {
    fn new(now: BootInstant, stall_after: Duration) -> Self {
        Self { stall_after, last_round: now, thawed: None, named: None, stopped: None, left: None }
    }

    /// A round begins; it was planned for `slept` after the last one. Tells how long a freeze was that is worth
    /// telling.
    fn begin(&mut self, now: BootInstant, slept: Duration) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.last_round);
        self.last_round = now;
        if passed < slept + FREEZE_LEAST {
            return None;
        }
        self.thawed = Some(now);
        (passed >= Duration::from_secs(1)).then_some(passed)
    }

    fn is_stalled(&self, now: BootInstant, last: BootInstant) -> bool {
        let since = self.thawed.map_or(last, |thawed| last.max(thawed));
        now.saturating_duration_since(since) >= self.stall_after
    }

    fn look_at_lease(&mut self, now: BootInstant, lease: &Lease) -> Duty {
        // Asking flips the lease when its time is over.
        if lease.is_trusted() {
            return Duty::Nothing;
        }
        let left = lease.scripts().len();
        if left == 0 {
            return Duty::Forget;
        }
        let is_ending = self.is_ending(now, lease.session(), left);
        if now >= self.hard_stop_at(lease) && !is_ending {
            if self.stopped.as_ref() == Some(lease.session()) {
                return Duty::Nothing;
            }
            self.stopped = Some(lease.session().clone());
            return Duty::HardStop;
        }
        if now >= lease.name_at() && self.named.as_ref() != Some(lease.session()) {
            self.named = Some(lease.session().clone());
            return Duty::Name;
        }
        Duty::Nothing
    }

    /// Whether the process was frozen a moment ago and the scripts of the lost session are ending one after the other.
    fn is_ending(&mut self, now: BootInstant, session: &SessionId, left: usize) -> bool {
        let last_end = match &self.left {
            Some((before, count, last_end)) if before == session && left >= *count => *last_end,
            _ => now,
        };
        self.left = Some((session.clone(), left, last_end));
        self.thawed.is_some_and(|thawed| now < thawed + ENDING_MAX) && now < last_end + ENDING_PAUSE_MAX
    }

    fn hard_stop_at(&self, lease: &Lease) -> BootInstant {
        let grace = self.thawed.map_or(BootInstant::default(), |thawed| thawed + GRACE_AFTER_FREEZE);
        lease.hard_stop_at().max(grace)
    }

    /// How long until something may be due.
    fn sleep(&self, now: BootInstant, leases: &[Lease]) -> Duration {
        let due = leases
            .iter()
            .map(|lease| {
                let until = lease.trusted_until();
                if until > now { until } else { self.hard_stop_at(lease) }
            })
            .map(|due| due.saturating_duration_since(now))
            .min()
            .unwrap_or(ROUND_MAX);
        due.clamp(Duration::from_millis(1), ROUND_MAX)
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
        let mut rounds = Rounds::new(now, STALL);
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
        let mut rounds = Rounds::new(now - Duration::from_secs(30), STALL);
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
        let mut rounds = Rounds::new(now - Duration::from_secs(30), STALL);
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
    fn a_freeze_makes_nobody_look_stalled() {
        let start = BootInstant::now();
        let mut rounds = Rounds::new(start, STALL);
        let now = start + Duration::from_secs(30);
        assert!(rounds.is_stalled(now, start));
        rounds.begin(now, ROUND_MAX);
        assert!(!rounds.is_stalled(now, start));
        assert!(rounds.is_stalled(now + STALL, start));
    }

    #[test]
    fn a_trusted_lease_needs_nothing() {
        let now = BootInstant::now();
        let mut rounds = Rounds::new(now, STALL);
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
        assert_eq!(suspected.blocking_recv().unwrap().names, vec![name]);
        drop(guard);
    }
}

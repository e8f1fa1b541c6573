//! What this worker knows of every job, and what follows from it: pure, given `now`.
//!
//! What must hold:
//! * Everything known may be out of date; nothing is decided here that Redis does not decide again. Out of date means
//!   late, or one more question, never twice.
//! * A job that cannot run says why, in one text, and keeps its place: it is looked at again when its definition
//!   changes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use hats_cluster::id::SessionId;
use hats_cluster::lease::Lease;
use hats_cluster::name::TaskName;
use hats_cluster::rank;
use hats_cluster::records::{JobDefinition, JobRead, Overlap, RunRecord, TicksRecord};
use tokio::time::Instant;

use super::plan::{self, Next, Policy};
use crate::cron::{Schedule, UnixSeconds};

/// The second and third in rank ask so much later, each.
pub(super) const RANK_DELAY_MS: i64 = 20;
/// Whoever is further back looks after this.
const LAST_DELAY_MS: i64 = 5000;
/// No run that failed is due again later than this.
const AGAIN_MAX_MS: i64 = 3_600_000;
/// The `Def` of a definition that cannot be run.
pub(super) const MALFORMED: &str = "malformed";
/// Ranks that have a delay of their own.
const RANKS: usize = 3;
/// How much later each further rank adopts a definition, and by how much more for each job whose adoption it leaves to
/// others: these have that much to do first.
const ADOPT_DELAY_MS: i64 = 150;
const ADOPT_DELAY_EACH_US: i64 = 500;
const ADOPT_DELAY_MAX_MS: i64 = 5000;
/// Maximum jobs that are adopted before the startup grace is over: with more, workers that start together would each do
/// what all of them have to do.
const ADOPT_UNSETTLED_MAX: usize = 8;

/// A definition that can be run.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) definition: JobDefinition,
    pub(super) schedule: Schedule,
    pub(super) policy: Policy,
    /// What stands for its `Cron`, `TZ` and that it is enabled.
    pub(super) def: String,
}

/// What is known of a definition.
#[derive(Clone, Debug, Default)]
pub(super) enum Known {
    /// It has to be read.
    #[default]
    Unknown,
    Gone,
    /// It is there and does not run: disabled, or malformed. Its `def` is another than any it could run under.
    Off {
        /// Stands for why.
        def: &'static str,
        /// What an operator may still run by hand, if it is only disabled.
        ready: Option<Arc<Ready>>,
    },
    On(Arc<Ready>),
}

/// One job.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) known: Known,
    /// The last definition that was read whole: its source need not be fetched again.
    pub(super) read: Option<JobDefinition>,
    /// What Redis keeps of its ticks, as last seen.
    pub(super) ticks: Option<TicksRecord>,
    /// When that was asked for, in milliseconds since 1970.
    pub(super) seen_ms: i64,
    /// The last look at its ticks was not answered: what is known is from before.
    pub(super) stale: bool,
    /// A question about it is on its way, and nothing else is asked meanwhile.
    pub(super) asking: bool,
    /// Its definition says already why it does not run.
    pub(super) told: Option<String>,
    /// When what is known of its definition, and of its ticks, was asked for: what was asked for earlier is older.
    pub(super) defined_at: Option<Instant>,
    pub(super) ticks_at: Option<Instant>,
    /// Its question waits until fewer are in flight.
    pub(super) in_line: bool,
    /// Since when it is to be adopted, in milliseconds since 1970.
    unadopted_ms: Option<i64>,
    /// Its adoption is left to another worker, which comes before this one.
    left: bool,
    due: Option<i64>,
}

/// What there is to be adopted, as far as this worker knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Adoptions {
    /// All jobs that are to be adopted.
    all: usize,
    /// Those among them for which others come first.
    pub(super) left: usize,
    /// When one of these was last seen to have been adopted: as long as others get on with it they are left to them.
    progress_ms: i64,
}

/// What is to be done about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this instant (milliseconds since 1970); none: before something changes.
    Wait(Option<i64>),
    /// Definition or ticks have to be read first.
    Look,
    /// Whether others have adopted what is left to them is to be read.
    LookForAdoption,
    /// Somebody else comes first for a tick that has been due for so long: whether it has been taken is read first.
    LookInTurn { late_ms: i64 },
    /// Redis counts by another definition: tell it this one.
    Adopt,
    /// Something that the dead have left, or a run that is due again, or one that waits.
    Settle,
    /// Ask for this tick.
    Ask(Next),
    /// Ask for the run that an operator wants, by this name.
    ByHand(Arc<str>),
}

/// Who this worker is among the live.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// None: it takes nothing.
    pub(super) lease: Option<Lease>,
    pub(super) live: Arc<[SessionId]>,
    pub(super) dead: HashSet<SessionId>,
    pub(super) pushed: bool,
    /// The startup grace is over.
    pub(super) settled: bool,
    pub(super) adoptions: Adoptions,
}

impl Place {
    pub(super) fn session(&self) -> Option<&SessionId> {
        self.lease.as_ref().map(Lease::session)
    }

    /// Whether this worker comes first for what concerns the job as a whole.
    pub(super) fn is_first(&self, name: &TaskName) -> bool {
        self.session().is_some_and(|own| rank::of(name, 0, own, &self.live) == 0)
    }

    /// When this worker adopts the definition of a job that is to be adopted since `since`.
    fn adopt_at(&self, name: &TaskName, since: i64) -> i64 {
        let rank = self.session().map_or(RANKS, |own| rank::of(name, 0, own, &self.live)).min(RANKS);
        if rank == 0 {
            return since;
        }
        let left = i64::try_from(self.adoptions.left).unwrap_or(i64::MAX);
        let more = left.saturating_mul(ADOPT_DELAY_EACH_US) / 1000;
        let delay = ADOPT_DELAY_MS.saturating_add(more).min(ADOPT_DELAY_MAX_MS);
        let since = since.max(self.adoptions.progress_ms);
        since.saturating_add(delay * i64::try_from(rank).unwrap_or(1))
    }

    /// How long this worker leaves a tick of a job to others.
    fn delay_ms(&self, name: &TaskName, tick: i64) -> i64 {
        let rank = self.session().map_or(RANKS, |own| rank::of(name, tick, own, &self.live));
        if rank < RANKS { RANK_DELAY_MS * i64::try_from(rank).unwrap_or(0) } else { LAST_DELAY_MS }
    }
}

impl Known {
    /// What can be run by hand.
    pub(super) fn ready(&self) -> Option<&Arc<Ready>> {
        match self {
            Known::On(ready) => Some(ready),
            Known::Off { ready, .. } => ready.as_ref(),
            Known::Unknown | Known::Gone => None,
        }
    }
}

impl Ready {
    /// Reads the schedule of a definition.
    ///
    /// # Errors
    /// Names the field, what stands in it and what could stand there.
    pub(super) fn new(definition: JobDefinition) -> Result<Self, String> {
        let schedule =
            Schedule::parse(&definition.cron, definition.tz.as_deref()).map_err(|error| error.to_string())?;
        Ok(Self::with(definition, schedule))
    }

    /// As it was before, if nothing about its schedule has changed: to parse one takes long.
    fn renewed(definition: JobDefinition, before: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        match before {
            Some(before) if before.definition == definition => Ok(before.clone()),
            Some(before)
                if before.definition.cron == definition.cron && before.definition.tz == definition.tz =>
            {
                Ok(Arc::new(Self::with(definition, before.schedule.clone())))
            }
            _ => Self::new(definition).map(Arc::new),
        }
    }

    fn with(definition: JobDefinition, schedule: Schedule) -> Self {
        let policy = Policy {
            misfire: definition.misfire,
            look_back: definition.misfire_look_back,
            jitter: definition.jitter,
        };
        let def = schedule.digest().to_owned();
        Self { definition, schedule, policy, def }
    }
}

/// What a definition as it was read amounts to; with the text that says why it cannot run. `before`: what was known of it.
pub(super) fn known(
    read: Option<JobRead>,
    before: Option<&Arc<Ready>>,
) -> (Known, Option<JobDefinition>, Option<String>) {
    let Some(read) = read else { return (Known::Gone, None, None) };
    let malformed = Known::Off { def: MALFORMED, ready: None };
    let definition = match read.definition {
        Ok(definition) => definition,
        Err(error) => return (malformed, None, Some(error.to_string())),
    };
    let kept = Some(definition.clone());
    match Ready::renewed(definition, before) {
        Err(error) => (malformed, kept, Some(error)),
        Ok(ready) if ready.definition.enabled => (Known::On(ready), kept, None),
        Ok(ready) => (Known::Off { def: "disabled", ready: Some(ready) }, kept, None),
    }
}

/// Whether the ticks are counted by a definition that somebody has found malformed.
pub(super) fn is_malformed(ticks: &TicksRecord) -> bool {
    ticks.def.as_deref() == Some(MALFORMED)
}

impl Job {
    /// What to do about it now.
    pub(super) fn step(&self, name: &TaskName, place: &Place, now_ms: i64) -> Step {
        if self.asking {
            return Step::Wait(None);
        }
        if self.stale {
            return Step::Look;
        }
        let (Some(ticks), false) = (&self.ticks, matches!(self.known, Known::Unknown)) else {
            return Step::Look;
        };
        let left_behind = ticks.runs.iter().any(|run| place.dead.contains(&run.session));
        // What waits is granted only under the definition that is in force: another is adopted first.
        let may_take =
            matches!(&self.known, Known::On(ready) if ticks.def.as_deref() == Some(ready.def.as_str()));
        let mut wake = None;
        if left_behind || (may_take && ticks.is_stranded()) {
            let at = self.seen_ms + place.delay_ms(name, 0);
            if now_ms >= at {
                return Step::Settle;
            }
            wake = Some(at);
        }
        if let Some(retry) = ticks.retry_at_ms().filter(|_| may_take) {
            // An instant further ahead than it could have been set counts as passed, here as in Redis.
            let retry = if retry > now_ms.saturating_add(AGAIN_MAX_MS) { self.seen_ms } else { retry };
            let at = retry.saturating_add(place.delay_ms(name, retry / 1000));
            if now_ms >= at {
                return if self.seen_ms >= retry { Step::Settle } else { Step::Look };
            }
            wake = earlier(wake, at);
        }
        let def = match &self.known {
            Known::Unknown => return Step::Look,
            // What is left of it is counted, and goes in time.
            Known::Gone => return Step::Wait(wake),
            Known::Off { def, .. } => def,
            Known::On(ready) => ready.def.as_str(),
        };
        if ticks.def.as_deref() != Some(def) {
            if !self.settled_for(place) {
                return Step::Wait(wake);
            }
            let since = self.unadopted_ms.unwrap_or(self.seen_ms);
            let at = place.adopt_at(name, since);
            return if now_ms < at {
                Step::Wait(earlier(wake, at))
            } else if at > since && self.seen_ms < at {
                // The worker that comes first has done it by now, as a rule.
                Step::LookForAdoption
            } else {
                Step::Adopt
            };
        }
        if let Some(at) = self.known.ready().and_then(|ready| ready.definition.run_at.as_ref())
            && ticks.manual.as_deref() != Some(at)
        {
            let overlap = self.known.ready().map(|ready| ready.definition.overlap);
            let free = ticks.runs.is_empty() || overlap == Some(Overlap::Allow);
            let when = self.seen_ms + place.delay_ms(name, 0);
            if free && now_ms >= when {
                return Step::ByHand(at.clone());
            }
            if !free && now_ms - self.seen_ms >= LAST_DELAY_MS {
                return Step::Look;
            }
            // It waits for the end of the run, and the ticks go on meanwhile.
            wake = earlier(wake, if free { when } else { now_ms + LAST_DELAY_MS });
        }
        let (Known::On(ready), Some(last_ms)) = (&self.known, ticks.last_ms) else {
            return Step::Wait(wake);
        };
        let Some(next) = next_of(name, ready, ticks, last_ms, now_ms) else {
            return Step::Wait(wake);
        };
        if waits_in_line(&next, ready, ticks) {
            if now_ms - self.seen_ms >= LAST_DELAY_MS {
                return Step::Look;
            }
            // One after the other: looked at again when that run ends, here or elsewhere.
            return Step::Wait(earlier(wake, now_ms + LAST_DELAY_MS));
        }
        let delay = place.delay_ms(name, next.tick.get());
        let at = next.due_ms.saturating_add(delay);
        if now_ms < at {
            return Step::Wait(earlier(wake, at));
        }
        // Who comes first asks; the others look first whether somebody has it.
        if delay > 0 && self.seen_ms < next.due_ms {
            Step::LookInTurn { late_ms: now_ms - next.due_ms }
        } else {
            Step::Ask(next)
        }
    }

    fn settled_for(&self, place: &Place) -> bool {
        place.settled || place.adoptions.all <= ADOPT_UNSETTLED_MAX
    }

    /// Whether Redis counts its ticks by another definition than the one that is known.
    fn needs_adoption(&self) -> bool {
        let def = match &self.known {
            Known::Unknown | Known::Gone => return false,
            Known::Off { def, .. } => def,
            Known::On(ready) => ready.def.as_str(),
        };
        self.ticks.as_ref().is_some_and(|ticks| ticks.def.as_deref() != Some(def))
    }

    /// Whether its definition was found malformed.
    pub(super) fn is_malformed(&self) -> bool {
        self.ticks.as_ref().is_some_and(is_malformed)
            || matches!(self.known, Known::Off { def: MALFORMED, .. })
    }

    /// Whether nothing is known of it but its name.
    pub(super) fn is_new(&self) -> bool {
        self.defined_at.is_none()
    }

    /// Since when the oldest tick is due that nobody has taken as far as is known, in milliseconds since 1970; None: there
    /// is no such tick.
    pub(super) fn due_since(&self, name: &TaskName, now_ms: i64) -> Option<i64> {
        let (Known::On(ready), Some(ticks)) = (&self.known, &self.ticks) else { return None };
        let last_ms = ticks.last_ms.filter(|_| ticks.def.as_deref() == Some(ready.def.as_str()))?;
        let next = next_of(name, ready, ticks, last_ms, now_ms)?;
        if next.due_ms > now_ms || waits_in_line(&next, ready, ticks) {
            return None;
        }
        Some(if next.missed == 0 { next.due_ms } else { next.first_missed_ms })
    }
}

/// The tick that follows the last one that was decided.
fn next_of(name: &TaskName, ready: &Ready, ticks: &TicksRecord, last_ms: i64, now_ms: i64) -> Option<Next> {
    let schedule = match ticks.anchor_ms {
        Some(anchor) => &ready.schedule.clone().anchored(UnixSeconds::of_millis(anchor)),
        None => &ready.schedule,
    };
    plan::next(schedule, &ready.policy, name.as_str(), UnixSeconds::of_millis(last_ms), now_ms)
}

/// Whether a tick is made up for once those before it have been.
fn waits_in_line(next: &Next, ready: &Ready, ticks: &TicksRecord) -> bool {
    next.catching_up
        && !(ticks.runs.is_empty() && ticks.retries.is_empty())
        && ready.definition.overlap != Overlap::Allow
}

fn earlier(a: Option<i64>, b: i64) -> Option<i64> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// All jobs, and when each is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Table {
    jobs: HashMap<TaskName, Job>,
    queue: BTreeSet<(i64, TaskName)>,
    adoptions: Adoptions,
    /// How many runs name each session.
    sessions: HashMap<SessionId, usize>,
}

impl Table {
    pub(super) fn get(&self, name: &TaskName) -> Option<&Job> {
        self.jobs.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &TaskName) -> Option<&mut Job> {
        self.jobs.get_mut(name)
    }

    /// The job, entered if it was not known.
    pub(super) fn entry(&mut self, name: &TaskName) -> &mut Job {
        self.jobs.entry(name.clone()).or_default()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TaskName> {
        self.jobs.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Takes what Redis keeps of the ticks of a job. True: runs name other sessions than before.
    pub(super) fn set_ticks(&mut self, name: &TaskName, ticks: TicksRecord) -> bool {
        let job = self.jobs.entry(name.clone()).or_default();
        let before = job.ticks.replace(ticks);
        let (before, now) = (before.as_ref().map_or(&[][..], |ticks| &ticks.runs), job.ticks.as_ref());
        let now = now.map_or(&[][..], |ticks| &ticks.runs);
        let mut changed = false;
        for run in now {
            let runs = self.sessions.entry(run.session.clone()).or_default();
            changed |= *runs == 0;
            *runs += 1;
        }
        changed | uncount(&mut self.sessions, before)
    }

    /// The jobs whose adoption is left to others.
    pub(super) fn left(&self) -> Vec<TaskName> {
        let left = self.jobs.iter().filter(|(_, job)| job.left);
        left.map(|(name, _)| name.clone()).collect()
    }

    /// The sessions that runs name.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.sessions.keys()
    }

    /// Notes whether the job is to be adopted, and whether another worker comes `first` for that.
    pub(super) fn note_adoption(&mut self, name: &TaskName, place: &Place, now_ms: i64) -> Adoptions {
        let Some(job) = self.jobs.get_mut(name) else { return self.adoptions };
        let needed = job.needs_adoption();
        if needed || job.unadopted_ms.is_some() {
            let all = &mut self.adoptions;
            all.all = all.all.saturating_sub(usize::from(job.unadopted_ms.is_some()));
            all.left = all.left.saturating_sub(usize::from(job.left));
            if needed {
                job.unadopted_ms.get_or_insert(now_ms);
                job.left = !place.is_first(name);
                all.all += 1;
                all.left += usize::from(job.left);
            } else {
                job.unadopted_ms = None;
                if std::mem::take(&mut job.left) {
                    all.progress_ms = now_ms;
                }
            }
        }
        self.adoptions
    }

    /// Considers the job again at `at`; none: only when something changes.
    pub(super) fn schedule(&mut self, name: &TaskName, at: Option<i64>) {
        let Some(job) = self.jobs.get_mut(name) else { return };
        if job.due == at {
            return;
        }
        if let Some(due) = std::mem::replace(&mut job.due, at) {
            self.queue.remove(&(due, name.clone()));
        }
        if let Some(at) = at {
            self.queue.insert((at, name.clone()));
        }
    }

    pub(super) fn next_due(&self) -> Option<i64> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the next job that is to be considered by `now`.
    pub(super) fn pop_due(&mut self, now_ms: i64) -> Option<TaskName> {
        if self.next_due()? > now_ms {
            return None;
        }
        let (_, name) = self.queue.pop_first()?;
        if let Some(job) = self.jobs.get_mut(&name) {
            job.due = None;
        }
        Some(name)
    }

    /// This worker adopts it, whoever comes first.
    pub(super) fn adopts(&mut self, name: &TaskName) {
        if let Some(job) = self.jobs.get_mut(name)
            && std::mem::take(&mut job.left)
        {
            self.adoptions.left = self.adoptions.left.saturating_sub(1);
        }
    }

    pub(super) fn forget(&mut self, name: &TaskName) {
        self.schedule(name, None);
        let Some(job) = self.jobs.remove(name) else { return };
        if let Some(ticks) = &job.ticks {
            uncount(&mut self.sessions, &ticks.runs);
        }
        self.adoptions.all = self.adoptions.all.saturating_sub(usize::from(job.unadopted_ms.is_some()));
        self.adoptions.left = self.adoptions.left.saturating_sub(usize::from(job.left));
    }
}

/// These runs name their sessions no more. True: nothing else names one of these.
fn uncount(sessions: &mut HashMap<SessionId, usize>, runs: &[RunRecord]) -> bool {
    let mut changed = false;
    for run in runs {
        if let Some(runs) = sessions.get_mut(&run.session) {
            *runs = runs.saturating_sub(1);
            if *runs == 0 {
                sessions.remove(&run.session);
                changed = true;
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use hats_cluster::id::Nonce;
    use hats_cluster::records::{JobFields, RetryRecord, RunRecord, SourceDigest};

    use super::*;

    const NOON: i64 = 1_700_000_000_000;

    fn name() -> TaskName {
        TaskName::new("job").unwrap()
    }

    fn ready(fields: JobFields<'_>) -> Arc<Ready> {
        let fields = JobFields { cron: Some("* * * * * *"), ..fields };
        let definition = JobDefinition::parse("".into(), SourceDigest::of(""), &fields).unwrap();
        Arc::new(Ready::new(definition).unwrap())
    }

    fn alone() -> Place {
        let lease = Lease::trusted_for_test();
        let live = [lease.session().clone()].into();
        Place { lease: Some(lease), live, ..Place::default() }
    }

    /// Seen at noon, when the last tick was decided.
    fn job(fields: JobFields<'_>) -> Job {
        let ready = ready(fields);
        let ticks =
            TicksRecord { def: Some(ready.def.clone()), last_ms: Some(NOON), ..TicksRecord::default() };
        Job { known: Known::On(ready), ticks: Some(ticks), seen_ms: NOON, ..Job::default() }
    }

    fn ticks(job: &mut Job) -> &mut TicksRecord {
        job.ticks.get_or_insert_default()
    }

    fn run(session: &str) -> RunRecord {
        RunRecord {
            tick_ms: NOON,
            nonce: Nonce::random(),
            session: SessionId::from(session),
            epoch: 1,
            attempt: 1,
            started_ms: NOON,
            manual: false,
            cancelled: false,
            beside: false,
            worker: "w".to_owned(),
        }
    }

    fn asks(step: &Step) -> Option<i64> {
        match step {
            Step::Ask(next) => Some(next.tick.as_millis() - NOON),
            _ => None,
        }
    }

    #[test]
    fn a_tick_is_asked_for_when_it_is_due() {
        let job = job(JobFields::default());
        assert_eq!(job.step(&name(), &alone(), NOON + 999), Step::Wait(Some(NOON + 1000)));
        assert_eq!(asks(&job.step(&name(), &alone(), NOON + 1000)), Some(1000));
        let asking = Job { asking: true, ..job };
        assert_eq!(asking.step(&name(), &alone(), NOON + 1000), Step::Wait(None));
    }

    #[test]
    fn a_tick_is_due_until_it_is_decided() {
        let job = job(JobFields { cron: Some("* * * * *"), ..JobFields::default() });
        let since = |job: &Job, now_ms| job.due_since(&name(), now_ms).map(|since| since - NOON);
        assert_eq!(since(&job, NOON + 999), None);
        assert_eq!(since(&job, NOON + 1000), Some(1000));
        // The oldest of those that nobody has taken counts, whatever is asked for.
        assert_eq!(since(&job, NOON + 60_500), Some(1000));
        let asking = Job { asking: true, stale: true, ..job };
        assert_eq!(since(&asking, NOON + 60_500), Some(1000), "as long as nobody has answered");
        let mut taken = asking;
        ticks(&mut taken).last_ms = Some(NOON + 60_000);
        assert_eq!(since(&taken, NOON + 60_500), None);
        ticks(&mut taken).def = Some("another".to_owned());
        assert_eq!(since(&taken, NOON + 90_000), None, "Redis counts by another definition");
        let off = Job { known: Known::Off { def: "disabled", ready: None }, ..taken };
        assert_eq!(since(&off, NOON + 90_000), None);
    }

    #[test]
    fn a_tick_that_waits_for_the_run_before_it_is_not_due() {
        let mut job = job(JobFields { misfire: Some("all"), ..JobFields::default() });
        assert_eq!(job.due_since(&name(), NOON + 20_500), Some(NOON + 1000));
        ticks(&mut job).runs.push(run("x"));
        assert_eq!(job.due_since(&name(), NOON + 20_500), None);
    }

    #[test]
    fn what_is_not_known_is_looked_at_first() {
        let unknown = Job { known: Known::Unknown, ..job(JobFields::default()) };
        assert_eq!(unknown.step(&name(), &alone(), NOON), Step::Look);
        let unread = Job { ticks: None, ..job(JobFields::default()) };
        assert_eq!(unread.step(&name(), &alone(), NOON), Step::Look);
    }

    #[test]
    fn who_comes_later_looks_before_it_asks() {
        let lease = Lease::trusted_for_test();
        let own = lease.session().clone();
        let live: Arc<[SessionId]> = [own.clone(), SessionId::from("a"), SessionId::from("b")].into();
        let place = Place { lease: Some(lease), live: live.clone(), ..Place::default() };
        let mut later = 0;
        for second in 1..60 {
            let tick = NOON / 1000 + second;
            let rank = i64::try_from(rank::of(&name(), tick, &own, &live)).unwrap();
            let mut job = job(JobFields::default());
            ticks(&mut job).last_ms = Some(tick * 1000 - 1000);
            let due = tick * 1000 + RANK_DELAY_MS * rank;
            assert_eq!(job.step(&name(), &place, due - 1), Step::Wait(Some(due)));
            if rank > 0 {
                later += 1;
                let late_ms = RANK_DELAY_MS * rank;
                assert_eq!(job.step(&name(), &place, due), Step::LookInTurn { late_ms });
                // The look has shown that nobody has it.
                job.seen_ms = due;
            }
            assert!(asks(&job.step(&name(), &place, due)).is_some());
        }
        assert!(later > 20);
    }

    #[test]
    fn another_definition_is_adopted_before_anything_is_asked() {
        let mut changed = job(JobFields::default());
        ticks(&mut changed).def = Some("0 0 * * * UTC".to_owned());
        assert_eq!(changed.step(&name(), &alone(), NOON + 5000), Step::Adopt);
        let off = Job { known: Known::Off { def: "disabled", ready: None }, ..job(JobFields::default()) };
        assert_eq!(off.step(&name(), &alone(), NOON + 5000), Step::Adopt);
        let gone = Job { known: Known::Gone, ..job(JobFields::default()) };
        assert_eq!(gone.step(&name(), &alone(), NOON + 5000), Step::Wait(None));
    }

    /// A worker beside two others, with the place that it has for the job.
    fn beside_two() -> (Place, i64) {
        let lease = Lease::trusted_for_test();
        let own = lease.session().clone();
        let live: Arc<[SessionId]> = [own.clone(), SessionId::from("a"), SessionId::from("b")].into();
        let rank = i64::try_from(rank::of(&name(), 0, &own, &live)).unwrap();
        (Place { lease: Some(lease), live, settled: true, ..Place::default() }, rank)
    }

    fn unadopted() -> Job {
        let mut job = job(JobFields::default());
        ticks(&mut job).def = None;
        job.unadopted_ms = Some(NOON);
        job
    }

    #[test]
    fn a_job_is_adopted_by_rank_and_whoever_comes_later_looks_first() {
        for _ in 0..32 {
            let (place, rank) = beside_two();
            let at = NOON + rank * ADOPT_DELAY_MS;
            let mut job = unadopted();
            if rank == 0 {
                assert_eq!(job.step(&name(), &place, NOON), Step::Adopt);
                continue;
            }
            assert_eq!(job.step(&name(), &place, at - 1), Step::Wait(Some(at)));
            assert_eq!(job.step(&name(), &place, at), Step::LookForAdoption);
            job.seen_ms = at;
            assert_eq!(job.step(&name(), &place, at), Step::Adopt, "the first has not done it");
        }
    }

    #[test]
    fn jobs_are_left_to_others_for_as_long_as_these_get_on_with_them() {
        for _ in 0..32 {
            let (mut place, rank) = beside_two();
            let job = Job { seen_ms: NOON + 60_000, ..unadopted() };
            place.adoptions = Adoptions { all: 9000, left: 6000, progress_ms: NOON + 60_000 };
            let at = NOON + 60_000 + rank * (ADOPT_DELAY_MS + 3000);
            let expected = if rank == 0 { Step::Adopt } else { Step::Wait(Some(at)) };
            assert_eq!(job.step(&name(), &place, NOON + 60_000), expected);
        }
    }

    #[test]
    fn many_jobs_are_not_adopted_before_the_startup_grace_is_over() {
        let mut place = alone();
        place.adoptions.all = ADOPT_UNSETTLED_MAX;
        assert_eq!(unadopted().step(&name(), &place, NOON), Step::Adopt);
        place.adoptions.all += 1;
        assert_eq!(unadopted().step(&name(), &place, NOON), Step::Wait(None));
        place.settled = true;
        assert_eq!(unadopted().step(&name(), &place, NOON), Step::Adopt);
    }

    #[test]
    fn what_the_dead_have_left_comes_first() {
        let mut left = job(JobFields::default());
        ticks(&mut left).runs.push(run("x"));
        assert!(
            asks(&left.step(&name(), &alone(), NOON + 1000)).is_some(),
            "the overlap is for Redis to judge"
        );
        let place = Place { dead: [SessionId::from("x")].into(), ..alone() };
        assert_eq!(left.step(&name(), &place, NOON + 1000), Step::Settle);
    }

    #[test]
    fn what_is_due_again_waits_for_its_time() {
        let mut failed = job(JobFields::default());
        ticks(&mut failed).retries.push(RetryRecord {
            tick_ms: NOON,
            attempt: 2,
            at_ms: NOON + 500,
            beside: false,
        });
        assert_eq!(failed.step(&name(), &alone(), NOON + 499), Step::Wait(Some(NOON + 500)));
        assert_eq!(failed.step(&name(), &alone(), NOON + 500), Step::Look, "somebody else may have taken it");
        failed.seen_ms = NOON + 500;
        assert_eq!(failed.step(&name(), &alone(), NOON + 500), Step::Settle);
    }

    #[test]
    fn one_that_makes_up_for_ticks_runs_them_one_after_the_other() {
        let all = JobFields { misfire: Some("all"), ..JobFields::default() };
        let mut job = job(all);
        assert_eq!(asks(&job.step(&name(), &alone(), NOON + 5000)), Some(1000));
        ticks(&mut job).runs.push(run("x"));
        assert_eq!(job.step(&name(), &alone(), NOON + 5000), Step::Look, "it may have ended elsewhere");
        job.seen_ms = NOON + 5000;
        assert_eq!(job.step(&name(), &alone(), NOON + 5000), Step::Wait(Some(NOON + 5000 + LAST_DELAY_MS)));
    }

    #[test]
    fn an_operators_wish_is_asked_for_once_also_if_the_job_is_disabled() {
        let wish = JobFields { run_at: Some("now"), ..JobFields::default() };
        let mut on = job(wish.clone());
        assert_eq!(on.step(&name(), &alone(), NOON), Step::ByHand("now".into()));
        ticks(&mut on).manual = Some("now".to_owned());
        assert_eq!(on.step(&name(), &alone(), NOON), Step::Wait(Some(NOON + 1000)));
        let mut off = job(wish.clone());
        off.known = Known::Off { def: "disabled", ready: Some(ready(wish)) };
        ticks(&mut off).def = Some("disabled".to_owned());
        assert_eq!(off.step(&name(), &alone(), NOON), Step::ByHand("now".into()));
    }

    #[test]
    fn what_waits_under_another_definition_does_not_keep_the_new_one_from_being_adopted() {
        let mut changed = job(JobFields::default());
        ticks(&mut changed).def = Some("0 0 * * * UTC".to_owned());
        ticks(&mut changed).pending_ms = Some(NOON);
        assert_eq!(changed.step(&name(), &alone(), NOON + 5000), Step::Adopt);
        ticks(&mut changed).retries.push(RetryRecord {
            tick_ms: NOON,
            attempt: 2,
            at_ms: NOON,
            beside: false,
        });
        assert_eq!(changed.step(&name(), &alone(), NOON + 5000), Step::Adopt);
        changed.known = Known::Gone;
        assert_eq!(changed.step(&name(), &alone(), NOON + 5000), Step::Wait(None));
    }

    #[test]
    fn an_operators_wish_that_has_to_wait_does_not_stop_the_ticks() {
        let wish = JobFields { run_at: Some("now"), overlap: Some("replace"), ..JobFields::default() };
        let mut busy = job(wish);
        ticks(&mut busy).runs.push(run("x"));
        assert_eq!(asks(&busy.step(&name(), &alone(), NOON + 1000)), Some(1000));
    }

    #[test]
    fn a_look_that_was_not_answered_is_repeated() {
        let stale = Job { stale: true, ..job(JobFields::default()) };
        assert_eq!(stale.step(&name(), &alone(), NOON + 1000), Step::Look);
    }

    #[test]
    fn an_instant_that_no_clock_of_ours_has_set_counts_as_passed() {
        let mut failed = job(JobFields::default());
        let at_ms = i64::MAX;
        ticks(&mut failed).retries.push(RetryRecord { tick_ms: NOON, attempt: 2, at_ms, beside: false });
        assert_eq!(failed.step(&name(), &alone(), NOON), Step::Settle);
    }

    #[test]
    fn the_queue_gives_each_job_once_and_in_order() {
        let mut table = Table::default();
        let (a, b) = (TaskName::new("a").unwrap(), TaskName::new("b").unwrap());
        table.entry(&a);
        table.entry(&b);
        for (name, at) in [(&a, 5), (&b, 3), (&a, 1)] {
            table.schedule(name, Some(at));
        }
        assert_eq!(table.pop_due(2), Some(a.clone()));
        assert_eq!(table.pop_due(2), None);
        assert_eq!(table.pop_due(9), Some(b));
        assert_eq!(table.pop_due(9), None);
        table.schedule(&a, Some(7));
        table.forget(&a);
        assert_eq!(table.next_due(), None);
    }
}

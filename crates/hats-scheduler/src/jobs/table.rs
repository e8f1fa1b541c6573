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
use hats_cluster::records::{JobDefinition, JobRead, Overlap, TicksRecord};

use super::plan::{self, Next, Policy};
use crate::cron::{Schedule, UnixSeconds};

/// The second and third in rank ask so much later, each.
const RANK_DELAY_MS: i64 = 20;
/// Whoever is further back looks after this.
const LAST_DELAY_MS: i64 = 5000;
/// Ranks that have a delay of their own.
const RANKS: usize = 3;

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
    /// A question about it is on its way, and nothing else is asked meanwhile.
    pub(super) asking: bool,
    /// Its definition says already why it does not run.
    pub(super) told: Option<String>,
    due: Option<i64>,
}

/// What is to be done about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this instant (milliseconds since 1970); none: before something changes.
    Wait(Option<i64>),
    /// Definition or ticks have to be read first.
    Look,
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
}

impl Place {
    pub(super) fn session(&self) -> Option<&SessionId> {
        self.lease.as_ref().map(Lease::session)
    }

    /// Whether this worker comes first for what concerns the job as a whole.
    pub(super) fn is_first(&self, name: &TaskName) -> bool {
        self.session().is_some_and(|own| rank::of(name, 0, own, &self.live) == 0)
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
        let policy = Policy {
            misfire: definition.misfire,
            look_back: definition.misfire_look_back,
            jitter: definition.jitter,
        };
        let def = schedule.digest().to_owned();
        Ok(Self { definition, schedule, policy, def })
    }
}

/// What a definition as it was read amounts to; with the text that says why it cannot run.
pub(super) fn known(read: Option<JobRead>) -> (Known, Option<JobDefinition>, Option<String>) {
    let Some(read) = read else { return (Known::Gone, None, None) };
    let malformed = Known::Off { def: "malformed", ready: None };
    let definition = match read.definition {
        Ok(definition) => definition,
        Err(error) => return (malformed, None, Some(error.to_string())),
    };
    let kept = Some(definition.clone());
    match Ready::new(definition) {
        Err(error) => (malformed, kept, Some(error)),
        Ok(ready) if ready.definition.enabled => (Known::On(Arc::new(ready)), kept, None),
        Ok(ready) => (Known::Off { def: "disabled", ready: Some(Arc::new(ready)) }, kept, None),
    }
}

impl Job {
    /// What to do about it now.
    pub(super) fn step(&self, name: &TaskName, place: &Place, now_ms: i64) -> Step {
        if self.asking {
            return Step::Wait(None);
        }
        let (Some(ticks), false) = (&self.ticks, matches!(self.known, Known::Unknown)) else {
            return Step::Look;
        };
        let left_behind = ticks.runs.iter().any(|run| place.dead.contains(&run.session));
        let mut wake = None;
        if left_behind || ticks.is_stranded() {
            let at = self.seen_ms + place.delay_ms(name, 0);
            if now_ms >= at {
                return Step::Settle;
            }
            wake = Some(at);
        }
        if let Some(retry) = ticks.retry_at_ms() {
            let at = retry + place.delay_ms(name, retry / 1000);
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
            return Step::Adopt;
        }
        if let Some(at) = self.known.ready().and_then(|ready| ready.definition.run_at.as_ref())
            && ticks.manual.as_deref() != Some(at)
        {
            let when = self.seen_ms + place.delay_ms(name, 0);
            if now_ms >= when {
                return Step::ByHand(at.clone());
            }
            wake = earlier(wake, when);
        }
        let (Known::On(ready), Some(last_ms)) = (&self.known, ticks.last_ms) else {
            return Step::Wait(wake);
        };
        let schedule = match ticks.anchor_ms {
            Some(anchor) => &ready.schedule.clone().anchored(UnixSeconds::of_millis(anchor)),
            None => &ready.schedule,
        };
        let last = UnixSeconds::of_millis(last_ms);
        let Some(next) = plan::next(schedule, &ready.policy, name.as_str(), last, now_ms) else {
            return Step::Wait(wake);
        };
        if next.catching_up && !ticks.runs.is_empty() && ready.definition.overlap != Overlap::Allow {
            // One after the other: looked at again when that run ends, here or elsewhere.
            return Step::Wait(earlier(wake, now_ms + LAST_DELAY_MS));
        }
        let delay = place.delay_ms(name, next.tick.get());
        let at = next.due_ms.saturating_add(delay);
        if now_ms < at {
            return Step::Wait(earlier(wake, at));
        }
        // Who comes first asks; the others look first whether somebody has it.
        if delay > 0 && self.seen_ms < next.due_ms { Step::Look } else { Step::Ask(next) }
    }
}

fn earlier(a: Option<i64>, b: i64) -> Option<i64> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// All jobs, and when each is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Table {
    jobs: HashMap<TaskName, Job>,
    queue: BTreeSet<(i64, TaskName)>,
}

impl Table {
    pub(super) fn get(&self, name: &TaskName) -> Option<&Job> {
        self.jobs.get(name)
    }

    /// The job, entered if it was not known.
    pub(super) fn entry(&mut self, name: &TaskName) -> &mut Job {
        self.jobs.entry(name.clone()).or_default()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TaskName> {
        self.jobs.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TaskName, &Job)> {
        self.jobs.iter()
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

    pub(super) fn forget(&mut self, name: &TaskName) {
        self.schedule(name, None);
        self.jobs.remove(name);
    }
}

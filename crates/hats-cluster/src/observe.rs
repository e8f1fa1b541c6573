//! When a session that has stopped beating may be buried: pure, given `now`.
//!
//! ```text
//!   first sample that shows (Beat, Expiry) ──unchanged, an answered sample at least every 2 P──▶ O over: bury may be sent
//!              ▲                                        │
//!              └──── changed, or a sample failed ───────┘
//! ```
//!
//! What must always hold:
//! * Time is the observer's own boot clock, counted from the **receipt** of the first sample that showed the values. A
//!   jump of one clock alone kills nobody: burying also asks Redis' clock.
//! * A failed or late sample starts every watch anew. A Redis that stalls, or an observer that was frozen, lets nobody
//!   bury anybody. But nobody is forgotten by it: who was there at the last answer is taken to be there still.
//! * Death is declared once and is final: what is in [`Observer::dead`] never comes back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::BootInstant;
use crate::id::SessionId;
use crate::lease::Timing;
use crate::records::{DeadSession, SessionRecord};

/// A session whose key is gone counts as dead after its lease and this.
const GONE_EXTRA: Duration = Duration::from_secs(2);

/// What the observer has seen of the other sessions.
pub(crate) struct Observer {
    timing: Timing,
    watched: HashMap<SessionId, Watched>,
    dead: HashMap<SessionId, DeadSession>,
    /// Receipt of the last answered sample, if none has failed since.
    last_answer: Option<BootInstant>,
    /// Receipt of the last answered sample.
    last_seen: BootInstant,
}

struct Watched {
    /// None: its key is not there.
    record: Option<SessionRecord>,
    /// Receipt of the first sample that showed this `Beat` and `Expiry`, or their absence; none = a sample has failed
    /// since, and the next one that is answered is the first.
    since: Option<BootInstant>,
    /// When it was first seen.
    met: BootInstant,
    /// When it was last seen to have beaten. No failure of a sample counts here: it says nothing about others.
    beat_at: BootInstant,
    /// What its record says was written after this: receipt of the last sample that did not show it yet. At first sight
    /// nobody can tell.
    said_after: BootInstant,
    /// The lease, once it was seen.
    lease: Duration,
    /// Bury was sent and not granted: not again before this.
    not_before: Option<BootInstant>,
}

/// What may be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send bury with these values.
    Bury { session: SessionId, beat: u64, expiry_ms: u64 },
    /// It was watched absent for long enough: it counts as dead now.
    Gone { session: SessionId },
}

impl Observer {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            watched: HashMap::new(),
            dead: HashMap::new(),
            last_answer: None,
            last_seen: BootInstant::default(),
        }
    }

    /// A sample of `asked` was answered at `now`. A session that is no longer asked about is forgotten. Returns those
    /// that were found dead.
    pub(crate) fn answered(
        &mut self,
        now: BootInstant,
        sample: Vec<(SessionId, Option<SessionRecord>)>,
    ) -> Vec<DeadSession> {
        if !self.is_fresh(now) {
            self.failed();
        }
        self.last_answer = Some(now);
        let before = std::mem::replace(&mut self.last_seen, now);
        let asked: HashSet<_> = sample.iter().map(|(id, _)| id.clone()).collect();
        self.watched.retain(|id, _| asked.contains(id));
        let mut found = Vec::new();
        for (id, record) in sample {
            if self.dead.contains_key(&id) {
                continue;
            }
            if let Some(dead) = record.as_ref().and_then(|record| record.dead(&id)) {
                self.bury(dead.clone());
                found.push(dead);
                continue;
            }
            self.saw(before, now, id, record);
        }
        found
    }

    fn saw(&mut self, before: BootInstant, now: BootInstant, id: SessionId, record: Option<SessionRecord>) {
        let Some(watched) = self.watched.get_mut(&id) else {
            let lease = record.as_ref().map_or(self.timing.lease(), |record| record.lease);
            let watched = Watched {
                record,
                since: Some(now),
                met: now,
                beat_at: now,
                said_after: BootInstant::default(),
                lease,
                not_before: None,
            };
            self.watched.insert(id, watched);
            return;
        };
        let same = match (&watched.record, &record) {
            (Some(old), Some(new)) => old.beat == new.beat && old.expiry_ms == new.expiry_ms,
            (None, None) => true,
            _ => false,
        };
        if same {
            watched.since.get_or_insert(now);
        } else {
            watched.since = Some(now);
            watched.beat_at = now;
            watched.said_after = before;
            watched.not_before = None;
        }
        if let Some(record) = &record {
            watched.lease = record.lease;
        }
        watched.record = record;
    }

    /// A sample has failed: every watch starts anew with the next one that is answered.
    pub(crate) fn failed(&mut self) {
        self.last_answer = None;
        self.watched.values_mut().for_each(Watched::start_anew);
    }

    /// Whether the last answered sample is recent enough for the watches to go on.
    fn is_fresh(&self, now: BootInstant) -> bool {
        self.last_answer
            .is_some_and(|last| now.saturating_duration_since(last) <= self.timing.sample_every() * 2)
    }

    /// What may be done at `now`. `named` tells whether a thread names the session: only then does an absent one count.
    pub(crate) fn due(&self, now: BootInstant, named: impl Fn(&SessionId) -> bool) -> Vec<Due> {
        if !self.is_fresh(now) {
            return Vec::new();
        }
        self.watched
            .iter()
            .filter(|(_, watched)| watched.due_at().is_some_and(|due| now >= due))
            .filter_map(|(session, watched)| match &watched.record {
                Some(record) => Some(Due::Bury {
                    session: session.clone(),
                    beat: record.beat,
                    expiry_ms: record.expiry_ms,
                }),
                None => named(session).then(|| Due::Gone { session: session.clone() }),
            })
            .collect()
    }

    /// When something may be due next.
    pub(crate) fn next_due(&self, named: impl Fn(&SessionId) -> bool) -> Option<BootInstant> {
        let counts = self.watched.iter().filter(|(id, watched)| watched.record.is_some() || named(id));
        counts.filter_map(|(_, watched)| watched.due_at()).min()
    }

    /// Bury was not granted, or not answered: it is sent again no sooner than at `at`.
    pub(crate) fn try_again(&mut self, session: &SessionId, at: BootInstant) {
        if let Some(watched) = self.watched.get_mut(session) {
            watched.not_before = Some(at);
        }
    }

    /// Bury was answered: the session has beaten since.
    pub(crate) fn moved(&mut self, session: &SessionId) {
        if let Some(watched) = self.watched.get_mut(session) {
            watched.start_anew();
        }
    }

    /// A session is dead, for ever.
    pub(crate) fn bury(&mut self, dead: DeadSession) {
        self.watched.remove(&dead.id);
        self.dead.entry(dead.id.clone()).or_insert(dead);
    }

    /// What is known of a dead session.
    pub(crate) fn dead(&self, session: &SessionId) -> Option<&DeadSession> {
        self.dead.get(session)
    }

    /// All dead sessions that are still remembered.
    pub(crate) fn all_dead(&self) -> impl Iterator<Item = &DeadSession> {
        self.dead.values()
    }

    /// Nothing names the session and its record is removed: it need not be remembered.
    pub(crate) fn forget(&mut self, session: &SessionId) {
        self.dead.remove(session);
        self.watched.remove(session);
    }

    /// The sessions that are alive as far as anybody can tell, with their records. One that has missed several renewals
    /// is left out: it is no longer counted on, though not yet dead. While nobody answers us, nobody else is silent.
    pub(crate) fn alive(&self, now: BootInstant) -> impl Iterator<Item = (&SessionId, &SessionRecord)> {
        let seen = now.min(self.last_seen);
        self.watched.iter().filter_map(move |(id, watched)| {
            let record = watched.record.as_ref()?;
            let silent = seen.saturating_duration_since(watched.beat_at);
            (silent < watched.lease / 2 + self.timing.sample_every()).then_some((id, record))
        })
    }

    /// For how long this session has been known here. No clock but our own is in it.
    pub(crate) fn known_for(&self, id: &SessionId, now: BootInstant) -> Duration {
        self.watched.get(id).map_or(Duration::ZERO, |watched| now.saturating_duration_since(watched.met))
    }

    /// Whether what this session says of itself was written after `since`, give or take the time of an answer.
    pub(crate) fn has_spoken_since(&self, id: &SessionId, since: BootInstant) -> bool {
        self.watched.get(id).is_some_and(|watched| watched.said_after >= since)
    }

    /// The longest lease of the sessions that are watched.
    pub(crate) fn longest_lease(&self) -> Duration {
        self.watched.values().map(|watched| watched.lease).max().unwrap_or_default()
    }

    /// Sessions whose key was absent at the last answered sample.
    pub(crate) fn absent(&self) -> impl Iterator<Item = &SessionId> {
        self.watched.iter().filter(|(_, watched)| watched.record.is_none()).map(|(id, _)| id)
    }
}

impl Watched {
    /// What was watched so far does not count.
    fn start_anew(&mut self) {
        self.since = None;
        self.not_before = None;
    }

    /// None: not before another sample was answered.
    fn due_at(&self) -> Option<BootInstant> {
        let watch_for = match self.record {
            Some(_) => Timing::observe(self.lease),
            None => self.lease + GONE_EXTRA,
        };
        let due = self.since? + watch_for;
        Some(self.not_before.map_or(due, |at| due.max(at)))
    }
}

/// A session that lives, for tests.
#[cfg(test)]
pub(crate) fn living() -> SessionRecord {
    SessionRecord {
        name: "w".to_owned(),
        alive: true,
        beat: 1,
        expiry_ms: u64::MAX,
        lease: Duration::from_secs(5),
        suspects: Vec::new(),
        ready: true,
        threads: 0,
        opened_ms: 0,
        end: None,
        version: String::new(),
        capacity: crate::config::Capacity::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::SessionEnd;

    const D: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
    }

    fn record(beat: u64) -> SessionRecord {
        SessionRecord { beat, expiry_ms: 1000 * beat, ..living() }
    }

    struct World {
        observer: Observer,
        id: SessionId,
    }

    impl World {
        fn new() -> Self {
            Self { observer: Observer::new(Timing::new(D)), id: SessionId::from("s") }
        }

        fn sample(&mut self, millis: u64, beat: Option<u64>) {
            self.observer.answered(at(millis), vec![(self.id.clone(), beat.map(record))]);
        }

        fn due(&self, millis: u64) -> bool {
            !self.observer.due(at(millis), |_| true).is_empty()
        }
    }

    #[test]
    fn buries_after_o_from_first_sight_and_not_before() {
        let mut world = World::new();
        for second in 0..=5 {
            world.sample(second * 1000, Some(7));
        }
        assert!(!world.due(5049));
        assert!(world.due(5050), "timed from first sight, not at the next sample");
        assert_eq!(world.observer.next_due(|_| true), Some(at(5050)));
    }

    #[test]
    fn a_beat_starts_the_watch_anew() {
        let mut world = World::new();
        for second in 0..=5 {
            world.sample(second * 1000, Some(if second < 3 { 7 } else { 8 }));
        }
        assert!(!world.due(5999));
        for second in 6..=8 {
            world.sample(second * 1000, Some(8));
        }
        assert!(!world.due(8049));
        assert!(world.due(8050));
    }

    #[test]
    fn a_failed_or_missing_sample_starts_the_watch_anew() {
        let mut world = World::new();
        for second in 0..=4 {
            world.sample(second * 1000, Some(7));
        }
        world.observer.failed();
        world.sample(5000, Some(7));
        assert!(!world.due(6000));

        let mut world = World::new();
        world.sample(0, Some(7));
        world.sample(1000, Some(7));
        assert!(!world.due(6000), "the last answer is too old to act on");
        world.sample(6000, Some(7));
        assert!(!world.due(7000), "and the gap has voided what was watched before");
    }

    #[test]
    fn what_was_said_before_is_told_from_what_was_said_since() {
        let mut world = World::new();
        let spoken = |world: &World, since| world.observer.has_spoken_since(&world.id, at(since));
        world.sample(1000, Some(7));
        assert!(!spoken(&world, 0), "it may be old");
        world.sample(2000, Some(8));
        assert!(spoken(&world, 1000), "it was not there yet at 1 s");
        assert!(!spoken(&world, 1001));
        world.sample(3000, Some(8));
        assert!(!spoken(&world, 1001));
        world.observer.failed();
        world.sample(5000, Some(9));
        assert!(spoken(&world, 3000) && !spoken(&world, 3001));
    }

    #[test]
    fn a_failed_sample_forgets_nobody() {
        let mut world = World::new();
        let long = Duration::from_secs(20);
        let absent = SessionId::from("absent");
        for second in 0..2 {
            let record = Some(SessionRecord { lease: long, ..record(second) });
            let sample = vec![(world.id.clone(), Some(self::record(second))), (absent.clone(), record)];
            world.observer.answered(at(second * 1000), sample);
        }
        world.observer.answered(at(2000), vec![(world.id.clone(), Some(record(2))), (absent.clone(), None)]);
        world.observer.failed();
        assert_eq!(world.observer.alive(at(2333)).count(), 1, "a member all the same");
        assert_eq!(world.observer.alive(at(60_000)).count(), 1, "we know nothing, it may be well");
        assert_eq!(world.observer.longest_lease(), long, "of one that is absent too");
        // Answered again: now its silence is known.
        world.sample(7000, Some(2));
        assert_eq!(world.observer.alive(at(7000)).count(), 0);
    }

    #[test]
    fn who_has_beaten_at_its_burial_stays_a_member() {
        let mut world = World::new();
        for second in 0..=5 {
            world.sample(second * 1000, Some(7));
        }
        world.sample(5100, Some(8));
        world.observer.moved(&world.id.clone());
        assert_eq!(world.observer.alive(at(5200)).count(), 1);
        assert_eq!(world.observer.next_due(|_| true), None, "watched anew from the next sample on");
    }

    #[test]
    fn an_absent_session_counts_only_where_something_names_it() {
        let mut world = World::new();
        for second in 0..=7 {
            world.sample(second * 1000, None);
        }
        assert!(!world.due(6999));
        assert!(world.due(7000));
        assert!(world.observer.due(at(7000), |_| false).is_empty());
    }

    #[test]
    fn the_dead_stay_dead() {
        let mut world = World::new();
        let mut dead = record(7);
        dead.alive = false;
        dead.end = Some((SessionEnd::Buried, 5));
        let found = world.observer.answered(at(0), vec![(world.id.clone(), Some(dead))]);
        assert_eq!(found.len(), 1);
        world.sample(1000, Some(9));
        assert!(world.observer.dead(&world.id).is_some());
        assert_eq!(world.observer.alive(at(1000)).count(), 0);
    }

    #[test]
    fn a_refused_bury_is_sent_again_later() {
        let mut world = World::new();
        for second in 0..=5 {
            world.sample(second * 1000, Some(7));
        }
        world.observer.try_again(&world.id, at(5500));
        assert!(!world.due(5400));
        assert!(world.due(5500));
    }

    #[test]
    fn who_misses_renewals_is_not_counted_on() {
        let mut world = World::new();
        for second in 0..=4 {
            world.sample(second * 1000, Some(7));
        }
        assert_eq!(world.observer.alive(at(3000)).count(), 1);
        assert_eq!(world.observer.alive(at(4000)).count(), 0);
    }
}

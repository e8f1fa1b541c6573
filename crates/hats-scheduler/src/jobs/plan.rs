//! Which tick of a job comes next, when it is asked for, and how many it leaps over. Pure, given `now`.
//!
//! What must hold:
//! * Ticks are counted from the last one that was decided, never from now: none is lost because nobody looked.
//! * Every worker that knows the same job, the same last tick and about the same time comes to the same tick, and delays
//!   it by the same jitter.
//! * A tick that nobody will run any more is not decided by itself: the next one that is asked for leaps over it and
//!   counts it.

use std::time::Duration;

use hats_cluster::records::Misfire;

use crate::cron::{Schedule, UnixSeconds};

/// Under `Misfire=skip` a tick that is noticed later than this after its time counts as missed. Longer than a dead
/// first rank or a short stall of Redis may delay it.
const SKIP_AFTER: Duration = Duration::from_secs(10);
/// Under `Misfire=all` no more ticks than this are made up for.
const ALL_MOST: usize = 100;

/// What a definition says about ticks whose time has passed, and about the time of those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) misfire: Misfire,
    /// Ticks older than this are not made up for.
    pub(crate) look_back: Duration,
    /// Each tick is delayed by a part of this, always the same.
    pub(crate) jitter: Duration,
}

/// The tick to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) tick: UnixSeconds,
    /// When it may be asked for, in milliseconds since 1970; may have passed.
    pub(crate) due_ms: i64,
    /// How many elapsed ticks lie between the last one and this, which are missed, and the first of them.
    pub(crate) missed: u64,
    pub(crate) first_missed_ms: i64,
    /// It is made up for: there are others to run before the newest one.
    pub(crate) catching_up: bool,
}

/// The tick that follows `last`, as things are at `now_ms`. None at the end of the calendar.
pub(crate) fn next(
    schedule: &Schedule,
    policy: &Policy,
    job: &str,
    last: UnixSeconds,
    now_ms: i64,
) -> Option<Next> {
    let due = |tick: UnixSeconds| due_ms(schedule, policy, job, tick);
    let first = schedule.next_after(last)?;
    let ask = |tick: UnixSeconds, catching_up: bool| Next {
        tick,
        due_ms: due(tick),
        missed: if tick == first { 0 } else { schedule.count(last, UnixSeconds::new(tick.get() - 1)) },
        first_missed_ms: first.as_millis(),
        catching_up,
    };
    let coming = |after: UnixSeconds| schedule.next_after(after).map(|tick| ask(tick, false));

    let Some(newest) = newest_due(schedule, now_ms, due).filter(|newest| *newest > last) else {
        return coming(last);
    };
    let late_ms = now_ms.saturating_sub(newest.as_millis());
    let is_late = |most: Duration| late_ms > i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
    match policy.misfire {
        Misfire::Once if is_late(policy.look_back) => coming(newest),
        Misfire::Skip if is_late(SKIP_AFTER) => coming(newest),
        Misfire::Once | Misfire::Skip => Some(ask(newest, false)),
        Misfire::All => {
            let look_back_ms = i64::try_from(policy.look_back.as_millis()).unwrap_or(i64::MAX);
            // Exclusive: a tick just as old as the look-back is still made up for.
            let oldest = UnixSeconds::of_millis(now_ms.saturating_sub(look_back_ms).saturating_sub(1));
            match schedule.ticks(last.max(oldest), newest).rev().take(ALL_MOST).last() {
                Some(first) => Some(ask(first, first < newest)),
                None => coming(newest),
            }
        }
    }
}

/// The newest tick whose time to be asked for has come.
fn newest_due(schedule: &Schedule, now_ms: i64, due: impl Fn(UnixSeconds) -> i64) -> Option<UnixSeconds> {
    let newest = schedule.newest_by(UnixSeconds::of_millis(now_ms))?;
    if due(newest) <= now_ms {
        return Some(newest);
    }
    // No tick is delayed beyond the next one.
    schedule.newest_by(UnixSeconds::new(newest.get() - 1))
}

/// When a tick may be asked for: its time and its jitter, which never reaches the tick after it.
fn due_ms(schedule: &Schedule, policy: &Policy, job: &str, tick: UnixSeconds) -> i64 {
    let at = tick.as_millis();
    let jitter = i64::try_from(policy.jitter.as_millis()).unwrap_or(i64::MAX);
    if jitter == 0 {
        return at;
    }
    let room = schedule
        .next_after(tick)
        .map_or(jitter, |next| jitter.min(next.as_millis().saturating_sub(at)))
        .max(1);
    let hash = hats_cluster::rank::hash(job.as_bytes(), &tick.get().to_be_bytes());
    at.saturating_add(i64::try_from(hash % room.unsigned_abs()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Policy =
        Policy { misfire: Misfire::Once, look_back: Duration::from_secs(3600), jitter: Duration::ZERO };

    fn each(seconds: i64) -> Schedule {
        Schedule::parse(&format!("@every {seconds}s"), None).unwrap().anchored(UnixSeconds::new(0))
    }

    fn at(policy: Policy, seconds: i64, last: i64, now_ms: i64) -> (i64, u64, bool) {
        let next = next(&each(seconds), &policy, "job", UnixSeconds::new(last), now_ms).unwrap();
        assert_eq!(next.due_ms, next.tick.as_millis(), "without jitter");
        (next.tick.get(), next.missed, next.catching_up)
    }

    #[test]
    fn the_next_tick_is_counted_from_the_last_one() {
        assert_eq!(at(ONCE, 10, 100, 100_500), (110, 0, false));
        assert_eq!(at(ONCE, 10, 100, 110_000), (110, 0, false));
        assert_eq!(at(ONCE, 10, 100, 119_999), (110, 0, false));
        // A clock that went back changes nothing.
        assert_eq!(at(ONCE, 10, 100, 20_000), (110, 0, false));
    }

    #[test]
    fn once_runs_the_newest_and_counts_the_others() {
        assert_eq!(at(ONCE, 10, 100, 135_000), (130, 2, false));
        let short = Policy { look_back: Duration::from_secs(4), ..ONCE };
        assert_eq!(at(short, 10, 100, 134_000), (130, 2, false));
        assert_eq!(at(short, 10, 100, 134_001), (140, 3, false));
    }

    #[test]
    fn skip_runs_what_is_hardly_late_only() {
        let skip = Policy { misfire: Misfire::Skip, ..ONCE };
        assert_eq!(at(skip, 60, 60, 130_000), (120, 0, false));
        assert_eq!(at(skip, 60, 60, 130_001), (180, 1, false));
        assert_eq!(at(skip, 1, 60, 70_500), (70, 9, false));
    }

    #[test]
    fn all_makes_up_for_each_from_the_oldest() {
        let all = Policy { misfire: Misfire::All, ..ONCE };
        assert_eq!(at(all, 10, 100, 135_000), (110, 0, true));
        assert_eq!(at(all, 10, 110, 135_000), (120, 0, true));
        assert_eq!(at(all, 10, 120, 135_000), (130, 0, false));
        assert_eq!(at(all, 10, 130, 135_000), (140, 0, false));
    }

    #[test]
    fn all_has_its_bounds() {
        let all = Policy { misfire: Misfire::All, look_back: Duration::from_secs(25), ..ONCE };
        assert_eq!(at(all, 10, 100, 195_000), (170, 6, true));
        let far = Policy { misfire: Misfire::All, ..ONCE };
        // Of the ticks of an hour the newest hundred.
        assert_eq!(at(far, 1, 0, 3_000_000), (2901, 2900, true));
        // The newest one is too old as well.
        assert_eq!(at(all, 60, 0, 86_000), (120, 1, false));
    }

    #[test]
    fn every_elapsed_tick_is_asked_for_or_counted() {
        for misfire in [Misfire::Once, Misfire::Skip, Misfire::All] {
            let policy =
                Policy { misfire, look_back: Duration::from_secs(500), jitter: Duration::from_secs(3) };
            let schedule = each(7);
            let (mut last, mut accounted) = (UnixSeconds::new(0), 0);
            for now_ms in [9_000, 9_500, 40_000, 41_000, 900_000, 901_000, 2_000_000, 2_000_010] {
                while let Some(next) = next(&schedule, &policy, "j", last, now_ms)
                    && next.due_ms <= now_ms
                {
                    accounted += next.missed + 1;
                    last = next.tick;
                    assert_eq!(accounted, schedule.count(UnixSeconds::new(0), last), "{misfire:?}");
                }
            }
        }
    }

    #[test]
    fn jitter_is_always_the_same_and_never_reaches_the_next_tick() {
        let policy = Policy { jitter: Duration::from_secs(30), ..ONCE };
        let schedule = each(20);
        let mut seen = std::collections::HashSet::new();
        for tick in (20..2000).step_by(20) {
            let tick = UnixSeconds::new(tick);
            let delay = due_ms(&schedule, &policy, "job", tick) - tick.as_millis();
            assert!((0..20_000).contains(&delay), "{delay}");
            assert_eq!(delay, due_ms(&schedule, &policy, "job", tick) - tick.as_millis());
            seen.insert(delay);
        }
        assert!(seen.len() > 50, "{}", seen.len());
        // Not asked for before its jitter is over, and the tick before it stays the newest until then.
        let tick = UnixSeconds::new(100);
        let due = due_ms(&schedule, &policy, "job", tick);
        let next = next(&schedule, &policy, "job", UnixSeconds::new(80), due - 1).unwrap();
        assert_eq!((next.tick, next.due_ms), (tick, due));
    }
}

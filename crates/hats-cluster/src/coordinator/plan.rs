//! Who should claim a free thread, and when: pure, given `now`.
//!
//! Membership is a hint, never a lock: a wrong list delays a claim, it never prevents one and never doubles one. The
//! claim itself is decided in Redis.

use std::time::Duration;

use crate::id::SessionId;
use crate::name::TaskName;
use crate::rank::hash;

/// Rank r claims a free thread after r times this.
pub(crate) const RANK_DELAY: Duration = Duration::from_millis(150);
/// A worker that has its share already leaves a free thread to the others for this long, its rank apart.
pub(crate) const FULL_DELAY: Duration = Duration::from_millis(1000);
/// Nobody is counted to be further back than this, so that a long list of the dead does not delay a claim for long.
const RANK_MAX: u32 = 6;
/// A worker may have this many threads for each one of its even share.
const LOAD_BOUND: f64 = 1.1;

/// A live session that takes new threads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub(crate) session: SessionId,
    /// Its share beside the others'.
    pub(crate) weight: f64,
    /// Threads that it owns now.
    pub(crate) threads: usize,
}

/// The live sessions, and how many threads each of them may own.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Members {
    members: Vec<Member>,
    /// How many threads there are to own.
    threads: usize,
    weights: f64,
}

impl Members {
    pub(crate) fn new(members: Vec<Member>, threads: usize) -> Self {
        let weights = members.iter().map(|member| member.weight).sum();
        Self { members, threads, weights }
    }

    /// The most threads that a worker with this weight should own.
    fn cap(&self, weight: f64) -> usize {
        if self.weights <= 0.0 {
            return usize::MAX;
        }
        // A share that is whole but for the rounding of a float is whole.
        (LOAD_BOUND * self.threads as f64 * weight / self.weights - 1e-9).ceil() as usize
    }

    /// How long `own` waits before it claims a thread that is free, when it owns `own_threads` (those being claimed
    /// counted).
    pub(crate) fn delay(&self, thread: &TaskName, own: &SessionId, own_threads: usize) -> Duration {
        let Some(me) = self.members.iter().find(|member| member.session == *own) else {
            return RANK_DELAY * RANK_MAX;
        };
        let full = if own_threads >= self.cap(me.weight) { FULL_DELAY } else { Duration::ZERO };
        let mine = score(thread, me);
        let before = self
            .members
            .iter()
            .filter(|other| other.session != *own && other.threads < self.cap(other.weight))
            .filter(|other| score(thread, other) > mine)
            .count();
        full + RANK_DELAY * u32::try_from(before).unwrap_or(RANK_MAX).min(RANK_MAX)
    }

    /// Who should have this thread if `own` gives it up: the next one that has room, or else the next one.
    pub(crate) fn successor(&self, thread: &TaskName, own: &SessionId) -> Option<&SessionId> {
        self.members
            .iter()
            .filter(|other| other.session != *own)
            .max_by(|a, b| {
                let room = |member: &Member| member.threads < self.cap(member.weight);
                room(a).cmp(&room(b)).then(score(thread, a).total_cmp(&score(thread, b)))
            })
            .map(|member| &member.session)
    }
}

/// Weighted rendezvous hashing: the member with the highest score owns the thread. Every worker computes the same, and
/// a member that comes or goes moves only the threads that it wins or had.
fn score(thread: &TaskName, member: &Member) -> f64 {
    let hash = hash(thread.as_str().as_bytes(), member.session.as_str().as_bytes());
    // The upper 53 bits, moved off zero: an even number in (0, 1).
    let even = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -member.weight / even.ln()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn members(count: usize, threads: usize) -> Members {
        let member = |number| Member {
            session: SessionId::from(format!("session-{number}")),
            weight: 1.0,
            threads: 0,
        };
        Members::new((0..count).map(member).collect(), threads)
    }

    fn name(number: usize) -> TaskName {
        TaskName::try_from(format!("thread-{number}")).unwrap()
    }

    fn session(number: usize) -> SessionId {
        SessionId::from(format!("session-{number}"))
    }

    #[test]
    fn exactly_one_member_claims_at_once() {
        let members = members(5, 1000);
        for number in 0..200 {
            let mut delays: Vec<_> =
                (0..5).map(|who| members.delay(&name(number), &session(who), 0)).collect();
            delays.sort();
            let ranks: Vec<_> = (0..5).map(|rank| RANK_DELAY * rank).collect();
            assert_eq!(delays, ranks);
        }
    }

    #[test]
    fn threads_are_spread_evenly() {
        let members = members(3, 3000);
        let mut owned = HashMap::new();
        for number in 0..3000 {
            let first = (0..3).find(|who| members.delay(&name(number), &session(*who), 0).is_zero());
            *owned.entry(first.unwrap()).or_insert(0) += 1;
        }
        assert!(owned.values().all(|count| (900..1100).contains(count)), "{owned:?}");
    }

    #[test]
    fn a_leave_moves_only_its_own() {
        let (three, two) = (members(3, 300), members(2, 300));
        for number in 0..300 {
            let of_three = (0..3).find(|who| three.delay(&name(number), &session(*who), 0).is_zero());
            let of_two = (0..2).find(|who| two.delay(&name(number), &session(*who), 0).is_zero());
            assert!(of_three == Some(2) || of_three == of_two);
        }
    }

    #[test]
    fn who_has_its_share_leaves_the_rest_to_the_others() {
        let members = members(2, 100);
        assert!(members.delay(&name(1), &session(0), 55) >= FULL_DELAY, "the cap is 55");
        assert!(members.delay(&name(1), &session(0), 54) <= RANK_DELAY);
    }

    #[test]
    fn a_lone_worker_takes_everything_at_once() {
        let members = members(1, 1000);
        assert_eq!(members.delay(&name(1), &session(0), 999), Duration::ZERO);
    }

    #[test]
    fn a_successor_is_somebody_else() {
        let members = members(3, 10);
        for number in 0..20 {
            assert_ne!(members.successor(&name(number), &session(0)), Some(&session(0)));
        }
        assert_eq!(self::members(1, 1).successor(&name(0), &session(0)), None);
    }

    #[test]
    fn weights_count() {
        let heavy = Member { session: session(0), weight: 3.0, threads: 0 };
        let light = Member { session: session(1), weight: 1.0, threads: 0 };
        let members = Members::new(vec![heavy, light], 4000);
        let first =
            (0..4000).filter(|number| members.delay(&name(*number), &session(0), 0).is_zero()).count();
        assert!((2850..3150).contains(&first), "{first}");
    }
}

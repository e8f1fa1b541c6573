//! Who should claim a free thread, and when, and who should give some of its own away: pure, given `now`.
//!
//! Membership is a hint, never a lock: a wrong list delays a claim, it never prevents one and never doubles one. The
//! claim itself is decided in Redis.

mod balance;

use std::time::Duration;

use crate::id::SessionId;
use crate::labels::Labels;
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
    /// Threads that it owns now, those that are on their way to it counted and those on their way from it not.
    pub(crate) threads: usize,
    /// It takes no more than so many.
    pub(crate) threads_max: Option<usize>,
    /// For how long it has been known here.
    pub(crate) age: Duration,
    /// What it offers to threads that require something.
    pub(crate) labels: Labels,
}

impl Member {
    /// Whether it can run what requires this.
    fn offers(&self, requires: &Labels) -> bool {
        self.labels.offer(requires)
    }
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

    /// The most threads that a worker should own.
    fn cap(&self, member: &Member) -> usize {
        if self.weights <= 0.0 {
            return usize::MAX;
        }
        // A share that is whole but for the rounding of a float is whole.
        let bound = (LOAD_BOUND * self.threads as f64 * member.weight / self.weights - 1e-9).ceil() as usize;
        member.threads_max.map_or(bound, |most| bound.min(most))
    }

    fn has_room(&self, member: &Member) -> bool {
        member.threads < self.cap(member)
    }

    /// How long `own` waits before it claims a thread that is free, when it owns `own_threads` (those being claimed
    /// counted).
    pub(crate) fn delay(
        &self,
        thread: &TaskName,
        requires: &Labels,
        own: &SessionId,
        own_threads: usize,
    ) -> Duration {
        let Some(me) = self.members.iter().find(|member| member.session == *own) else {
            return RANK_DELAY * RANK_MAX;
        };
        let full = if own_threads >= self.cap(me) { FULL_DELAY } else { Duration::ZERO };
        let mine = score(thread, me);
        let before = self
            .members
            .iter()
            .filter(|other| other.session != *own && other.offers(requires) && self.has_room(other))
            .filter(|other| score(thread, other) > mine)
            .count();
        full + RANK_DELAY * u32::try_from(before).unwrap_or(RANK_MAX).min(RANK_MAX)
    }

    /// Who should have this thread if `own` gives it up: the next one that has room, or else the next one.
    pub(crate) fn successor(
        &self,
        thread: &TaskName,
        requires: &Labels,
        own: &SessionId,
    ) -> Option<&SessionId> {
        self.members
            .iter()
            .filter(|other| other.session != *own && other.offers(requires))
            .max_by(|a, b| {
                let room = |member: &Member| self.has_room(member);
                room(a).cmp(&room(b)).then(score(thread, a).total_cmp(&score(thread, b)))
            })
            .map(|member| &member.session)
    }

    /// How many of its threads `own` should give to whom, for even shares.
    pub(crate) fn moves(&self, own: &SessionId) -> Vec<(SessionId, usize)> {
        balance::moves(&self.members, own)
    }

    /// Of these threads of `own` those that `to` should be given first: what it would come first for if all were free.
    pub(crate) fn best_for<'a>(
        &self,
        to: &SessionId,
        threads: impl Iterator<Item = (&'a TaskName, &'a Labels)>,
    ) -> Vec<&'a TaskName> {
        let Some(member) = self.members.iter().find(|member| member.session == *to) else {
            return Vec::new();
        };
        let mut scored: Vec<(f64, &TaskName)> = threads
            .filter(|(_, requires)| member.offers(requires))
            .map(|(thread, _)| (score(thread, member), thread))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, thread)| thread).collect()
    }

    /// Whether this one takes one more, even if it has its share.
    pub(crate) fn may_take(&self, session: &SessionId) -> bool {
        let member = self.members.iter().find(|member| member.session == *session);
        member.is_some_and(|member| member.threads_max.is_none_or(|most| member.threads < most))
    }

    /// Whether this session is one of them.
    pub(crate) fn has(&self, session: &SessionId) -> bool {
        self.members.iter().any(|member| member.session == *session)
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
        Members::new((0..count).map(member).collect(), threads)
    }

    fn member(number: usize) -> Member {
        Member {
            session: session(number),
            weight: 1.0,
            threads: 0,
            threads_max: None,
            age: Duration::from_secs(60),
            labels: Labels::default(),
        }
    }

    fn delay(members: &Members, thread: usize, own: usize, own_threads: usize) -> Duration {
        members.delay(&name(thread), &Labels::default(), &session(own), own_threads)
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
            let mut delays: Vec<_> = (0..5).map(|who| delay(&members, number, who, 0)).collect();
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
            let first = (0..3).find(|who| delay(&members, number, *who, 0).is_zero());
            *owned.entry(first.unwrap()).or_insert(0) += 1;
        }
        assert!(owned.values().all(|count| (900..1100).contains(count)), "{owned:?}");
    }

    #[test]
    fn a_leave_moves_only_its_own() {
        let (three, two) = (members(3, 300), members(2, 300));
        for number in 0..300 {
            let of_three = (0..3).find(|who| delay(&three, number, *who, 0).is_zero());
            let of_two = (0..2).find(|who| delay(&two, number, *who, 0).is_zero());
            assert!(of_three == Some(2) || of_three == of_two);
        }
    }

    #[test]
    fn who_has_its_share_leaves_the_rest_to_the_others() {
        let members = members(2, 100);
        assert!(delay(&members, 1, 0, 55) >= FULL_DELAY, "the cap is 55");
        assert!(delay(&members, 1, 0, 54) <= RANK_DELAY);
    }

    #[test]
    fn a_lone_worker_takes_everything_at_once() {
        let members = members(1, 1000);
        assert_eq!(delay(&members, 1, 0, 999), Duration::ZERO);
    }

    #[test]
    fn a_successor_is_somebody_else() {
        let members = members(3, 10);
        for number in 0..20 {
            assert_ne!(members.successor(&name(number), &Labels::default(), &session(0)), Some(&session(0)));
        }
        assert_eq!(self::members(1, 1).successor(&name(0), &Labels::default(), &session(0)), None);
    }

    #[test]
    fn who_does_not_offer_what_is_required_is_not_waited_for_and_gets_nothing() {
        let gpu: Labels = "gpu".parse().unwrap();
        let offers = Member { labels: gpu.clone(), ..member(0) };
        let members = Members::new(vec![offers, member(1), member(2)], 100);
        for number in 0..20 {
            assert_eq!(members.delay(&name(number), &gpu, &session(0), 0), Duration::ZERO);
            assert_eq!(members.successor(&name(number), &gpu, &session(1)), Some(&session(0)));
            assert_eq!(members.successor(&name(number), &gpu, &session(0)), None);
        }
        let (plain, required) = (name(1), name(2));
        let none = Labels::default();
        let threads = [(&plain, &none), (&required, &gpu)];
        assert_eq!(members.best_for(&session(1), threads.into_iter()), [&plain]);
        assert_eq!(members.best_for(&session(0), threads.into_iter()).len(), 2);
    }

    #[test]
    fn who_takes_no_more_is_not_waited_for() {
        let full = Member { threads: 5, threads_max: Some(5), ..member(1) };
        let members = Members::new(vec![member(0), full], 100);
        for number in 0..20 {
            assert_eq!(delay(&members, number, 0, 0), Duration::ZERO);
        }
    }

    #[test]
    fn weights_count() {
        let heavy = Member { weight: 3.0, ..member(0) };
        let members = Members::new(vec![heavy, member(1)], 4000);
        let first = (0..4000).filter(|number| delay(&members, *number, 0, 0).is_zero()).count();
        assert!((2850..3150).contains(&first), "{first}");
    }
}

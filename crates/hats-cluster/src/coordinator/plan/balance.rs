//! Who should give how many of its threads to whom, so that the shares are even: pure.
//!
//! Every owner computes the whole table of moves from what it sees of everybody and carries out its own row. Where the
//! views are the same the rows fit together; where they are not, too little or too much is moved by as much as the views
//! differ, and the next look mends it.
//!
//! What must always hold:
//! * Nothing is moved while every share is nearly even: a thread that comes or goes starts no move.
//! * Shares are whole numbers that add up, and those who have more now keep the odd ones: as few moves as possible.
//! * Nothing is moved to a worker that has only just come, or above what it takes.

use std::time::Duration;

use crate::id::SessionId;

use super::Member;

/// A worker is given threads of others only when it has been there for so long.
pub(crate) const JOINED_LONG_AGO: Duration = Duration::from_secs(10);
/// So much of an even share may be missing or too much before anything is moved.
const TOLERANCE: f64 = 0.05;

/// One row of the table: how many threads `own` gives to whom.
pub(crate) fn moves(members: &[Member], own: &SessionId) -> Vec<(SessionId, usize)> {
    let shares = even_shares(members);
    let is_even = members.iter().zip(&shares).all(|(member, share)| {
        let tolerated = (TOLERANCE * *share as f64).max(1.0);
        let off = member.threads.abs_diff(*share) as f64;
        // Who cannot be given anything yet is waited for.
        off <= tolerated || (member.threads < *share && member.age < JOINED_LONG_AGO)
    });
    if is_even {
        return Vec::new();
    }
    let mut givers = Vec::new();
    let mut takers = Vec::new();
    for (member, share) in members.iter().zip(&shares) {
        if member.threads > *share {
            givers.push((&member.session, member.threads - share));
        } else if member.threads < *share && member.age >= JOINED_LONG_AGO {
            takers.push((&member.session, share - member.threads));
        }
    }
    givers.sort();
    takers.sort();
    // What all give and what all take, each laid end to end in the same order for everybody: where a giver's piece lies
    // over a taker's, so much goes from the one to the other.
    let before: usize = givers.iter().take_while(|(giver, _)| *giver != own).map(|(_, count)| count).sum();
    let Some((_, count)) = givers.iter().find(|(giver, _)| *giver == own) else { return Vec::new() };
    let (from, to) = (before, before + count);
    let mut at = 0;
    let mut row = Vec::new();
    for (taker, count) in takers {
        let overlap = to.min(at + count).saturating_sub(from.max(at));
        if overlap > 0 {
            row.push((taker.clone(), overlap));
        }
        at += count;
    }
    row
}

/// What each member's even share of all that they have is, in whole threads. What one cannot take the others share.
fn even_shares(members: &[Member]) -> Vec<usize> {
    let all: usize = members.iter().map(|member| member.threads).sum();
    let mut shares: Vec<Option<usize>> = vec![None; members.len()];
    loop {
        let taken: usize = shares.iter().flatten().sum();
        let open = |nth: &usize| shares[*nth].is_none();
        let weights: f64 = (0..members.len()).filter(open).map(|nth| members[nth].weight).sum();
        let left = all.saturating_sub(taken);
        let ideal = |nth: usize| left as f64 * members[nth].weight / weights;
        let full: Vec<usize> = (0..members.len())
            .filter(open)
            .filter(|nth| members[*nth].threads_max.is_some_and(|most| ideal(*nth) > most as f64))
            .collect();
        if full.is_empty() {
            let mut rest: Vec<usize> = (0..members.len()).filter(open).collect();
            let whole = |nth: usize| ideal(nth) as usize;
            let odd = left.saturating_sub(rest.iter().map(|nth| whole(*nth)).sum());
            for nth in &rest {
                shares[*nth] = Some(whole(*nth));
            }
            rest.sort_by(|a, b| {
                let more = |nth: &usize| members[*nth].threads;
                more(b).cmp(&more(a)).then_with(|| members[*a].session.cmp(&members[*b].session))
            });
            for nth in rest.into_iter().take(odd) {
                shares[nth] = shares[nth].map(|share| share + 1);
            }
            return shares.into_iter().map(Option::unwrap_or_default).collect();
        }
        for nth in full {
            shares[nth] = members[nth].threads_max;
        }
        if shares.iter().all(Option::is_some) {
            return shares.into_iter().map(Option::unwrap_or_default).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;

    fn member(number: usize, threads: usize) -> Member {
        Member {
            session: SessionId::from(format!("s{number}")),
            weight: 1.0,
            threads,
            threads_max: None,
            age: Duration::from_secs(3600),
            labels: Labels::default(),
        }
    }

    fn members(threads: &[usize]) -> Vec<Member> {
        threads.iter().enumerate().map(|(number, threads)| member(number, *threads)).collect()
    }

    /// All rows, carried out at once; gives how many threads have moved.
    fn step(members: &mut [Member]) -> usize {
        let seen = members.to_vec();
        let mut moved = 0;
        for giver in 0..members.len() {
            for (taker, count) in moves(&seen, &seen[giver].session) {
                members[giver].threads -= count;
                members.iter_mut().find(|member| member.session == taker).unwrap().threads += count;
                moved += count;
            }
        }
        moved
    }

    fn counts(members: &[Member]) -> Vec<usize> {
        members.iter().map(|member| member.threads).collect()
    }

    #[test]
    fn a_join_moves_no_more_than_it_must() {
        let mut joined = members(&[334, 333, 333, 0]);
        assert_eq!(step(&mut joined), 250);
        assert_eq!(counts(&joined), [250; 4]);
        assert_eq!(step(&mut joined), 0);
    }

    #[test]
    fn who_has_only_just_come_is_waited_for() {
        let mut joined = members(&[500, 500, 0]);
        joined[2].age = Duration::from_secs(9);
        assert_eq!(step(&mut joined), 0);
        joined[2].age = Duration::from_secs(10);
        assert_eq!(step(&mut joined), 333);
        assert_eq!(step(&mut joined), 0);
    }

    #[test]
    fn a_large_cluster_with_few_threads_each_fills_a_joiner_too() {
        let mut joined = members(&[&[10; 100][..], &[0]].concat());
        assert_eq!(step(&mut joined), 9);
        assert_eq!(joined[100].threads, 9);
        assert_eq!(step(&mut joined), 0);
    }

    #[test]
    fn what_is_nearly_even_is_left_alone() {
        assert_eq!(step(&mut members(&[104, 96, 100])), 0);
        assert_eq!(step(&mut members(&[2, 1, 0])), 0);
        assert!(step(&mut members(&[110, 90, 100])) > 0);
        assert_eq!(step(&mut members(&[2, 0])), 0, "one more or less is nearly even");
        assert_eq!(step(&mut members(&[4, 0])), 2);
    }

    #[test]
    fn weights_and_limits_count() {
        let mut weighted = members(&[400, 0]);
        weighted[1].weight = 3.0;
        step(&mut weighted);
        assert_eq!(counts(&weighted), [100, 300]);
        let mut limited = members(&[400, 0, 0]);
        limited[1].threads_max = Some(50);
        step(&mut limited);
        assert_eq!(counts(&limited), [175, 50, 175]);
        limited[2].threads_max = Some(100);
        step(&mut limited);
        assert_eq!(counts(&limited), [250, 50, 100], "nobody takes what is left");
    }

    #[test]
    fn one_alone_and_nobody_at_all_move_nothing() {
        assert_eq!(step(&mut members(&[100])), 0);
        assert_eq!(moves(&[], &SessionId::from("s0")), []);
        assert_eq!(moves(&members(&[100, 0]), &SessionId::from("stranger")), []);
    }

    #[test]
    fn an_hour_of_noise_moves_nothing() {
        // Threads that crash and are claimed by somebody else, one now and then, from any place to any other.
        let mut noisy = members(&[250; 4]);
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for second in 0..3600 {
            let (from, to) = (draw(4) as usize, draw(4) as usize);
            // What is claimed by rank goes to who has room: claims even out by themselves.
            if noisy[from].threads >= 250 && noisy[to].threads <= 250 {
                noisy[from].threads -= 1;
                noisy[to].threads += 1;
            }
            assert_eq!(step(&mut noisy), 0, "at {second} s: {:?}", counts(&noisy));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_state_becomes_even_at_the_price_of_the_least_moves(
            threads in proptest::collection::vec(0_usize..400, 2..8),
        ) {
            let mut any = members(&threads);
            let all: usize = threads.iter().sum();
            let moved = step(&mut any);
            let share = all as f64 / threads.len() as f64;
            let least: usize = threads.iter().map(|count| count.saturating_sub(share.ceil() as usize)).sum();
            proptest::prop_assert!(moved <= least + threads.len(), "{moved} moves, {least} would do");
            proptest::prop_assert_eq!(counts(&any).iter().sum::<usize>(), all);
            for count in counts(&any) {
                proptest::prop_assert!((count as f64 - share).abs() <= (0.05 * share).max(1.0) + 1.0);
            }
            proptest::prop_assert_eq!(step(&mut any), 0);
        }
    }
}

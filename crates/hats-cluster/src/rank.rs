//! Who comes first: rendezvous hashing over the live sessions, the same on every worker.

use crate::id::SessionId;
use crate::name::TaskName;

/// The place of `own` among the live sessions for a tick of a job, from 0: how many come before it. Every worker computes
/// the same, and one that comes or goes changes only the places behind its own.
#[must_use]
pub fn of(job: &TaskName, tick: i64, own: &SessionId, live: &[SessionId]) -> usize {
    let seed = hash(job.as_str().as_bytes(), &tick.to_be_bytes()).to_be_bytes();
    let score = |session: &SessionId| hash(&seed, session.as_str().as_bytes());
    let mine = (score(own), own);
    live.iter().filter(|other| (score(other), *other) > mine).count()
}

/// FNV-1a with a final mix: the same in every build and on every machine, which `DefaultHasher` does not promise.
#[must_use]
pub fn hash(a: &[u8], b: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in a.iter().chain(&[0xff]).chain(b) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once_and_the_first_ones_are_spread() {
        let live: Vec<SessionId> = (0..3).map(|n| SessionId::from(format!("s{n}"))).collect();
        let job = TaskName::new("j").unwrap();
        let mut first = [0; 3];
        for tick in 0..3000 {
            let mut places: Vec<usize> = live.iter().map(|own| of(&job, tick, own, &live)).collect();
            first[places.iter().position(|place| *place == 0).unwrap()] += 1;
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2]);
        }
        assert!(first.iter().all(|count| (900..1100).contains(count)), "{first:?}");
    }

    #[test]
    fn who_is_alone_comes_first() {
        let own = SessionId::from("s");
        assert_eq!(of(&TaskName::new("j").unwrap(), 1, &own, &[]), 0);
    }
}

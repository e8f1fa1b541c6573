//! Whether new threads may be taken, given what memory is in use: pure.

use std::fmt;

use hats_cluster::Admission;
use hats_health::readings::Memory;

use crate::config::MemoryBudget;

/// Once refused, new threads are taken again below this share of the budget, so that a worker at its budget does not
/// change its mind with every thread.
const RESUME_BELOW: f64 = 0.95;

/// The budget, and which side of it we are on.
#[derive(Debug)]
pub(super) struct Budget {
    budget: MemoryBudget,
    refused: bool,
}

impl Budget {
    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self { budget, refused: false }
    }

    /// What is new, if anything is.
    pub(super) fn decide(&mut self, reading: &Memory) -> Option<Admission> {
        let (used, limit) = match self.budget {
            MemoryBudget::Bytes(bytes) => (reading.resident, bytes as f64),
            MemoryBudget::Share(share) => (reading.used, reading.limit as f64 * share.value() / 100.0),
        };
        let used = used as f64;
        let refused = if self.refused { used >= limit * RESUME_BELOW } else { used > limit };
        if std::mem::replace(&mut self.refused, refused) == refused {
            return None;
        }
        Some(if refused { Admission::Refused(self.reason(reading).into()) } else { Admission::Open })
    }

    fn reason(&self, reading: &Memory) -> String {
        match self.budget {
            MemoryBudget::Bytes(bytes) => format!(
                "this process has {} resident, more than its memory-budget of {}",
                Size(reading.resident),
                Size(bytes)
            ),
            MemoryBudget::Share(share) => format!(
                "{:.1}% of {} ({}) are in use, more than the memory-budget of {share}",
                reading.percent(),
                Size(reading.limit),
                reading.whose,
            ),
        }
    }
}

/// Bytes, as people read them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            bytes => write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Percent;
    use hats_health::readings::Whose;

    fn share(percent: f64) -> Budget {
        Budget::new(MemoryBudget::Share(Percent::new(percent).unwrap()))
    }

    fn used(used: u64) -> Memory {
        Memory { used, limit: 1000 << 20, resident: 1 << 20, whose: Whose::Cgroup }
    }

    fn refused(admission: Option<Admission>) -> String {
        match admission {
            Some(Admission::Refused(why)) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refuses_above_the_budget_and_says_why() {
        let mut budget = share(80.0);
        assert_eq!(budget.decide(&used(800 << 20)), None);
        let why = refused(budget.decide(&used((800 << 20) + 1)));
        assert_eq!(
            why,
            "80.0% of 1000.0 MiB (the cgroup's limit) are in use, more than the memory-budget of 80%"
        );
    }

    #[test]
    fn a_change_is_said_once_and_resumes_well_below() {
        let mut budget = share(80.0);
        assert!(budget.decide(&used(900 << 20)).is_some());
        for megabytes in [950, 801, 800, 761, 760] {
            assert_eq!(budget.decide(&used(megabytes << 20)), None, "{megabytes}");
        }
        assert_eq!(budget.decide(&used(759 << 20)), Some(Admission::Open));
        for megabytes in [0, 759, 790, 800] {
            assert_eq!(budget.decide(&used(megabytes << 20)), None, "{megabytes}");
        }
        assert!(matches!(budget.decide(&used(801 << 20)), Some(Admission::Refused(_))));
    }

    #[test]
    fn a_size_is_that_of_this_process_whatever_else_is_in_use() {
        let mut budget = Budget::new(MemoryBudget::Bytes(2 << 30));
        let resident = |resident| Memory { resident, ..used(1000 << 20) };
        assert_eq!(budget.decide(&resident(2 << 30)), None);
        let why = refused(budget.decide(&resident(3 << 30)));
        assert_eq!(why, "this process has 3.0 GiB resident, more than its memory-budget of 2.0 GiB");
        assert_eq!(budget.decide(&resident(1 << 30)), Some(Admission::Open));
    }
}

//! Ticks whose time has come and that nobody has taken, as far as this worker knows: pure, given `now`.
//!
//! What must hold:
//! * A tick is known to be due for as long as it is neither granted nor counted as missed; what waits for a run before it on
//!   purpose is not overdue.
//! * A worker that takes nothing itself has looked again before it says that nobody else has.
//! * To know how many are overdue costs nothing per job: only jobs with a tick that is due are entered.

use std::collections::{BTreeSet, HashMap};

use hats_cluster::name::TaskName;

/// A tick that is due for longer than this is overdue. Whoever is last in rank has looked by then, and what is not made up
/// for (`Misfire=skip`) has been given up.
pub(super) const OVERDUE_AFTER_MS: i64 = 15_000;

/// The jobs that have a tick that is due, and since when.
#[derive(Debug, Default)]
pub(super) struct Due {
    since: HashMap<TaskName, i64>,
    by_time: BTreeSet<(i64, TaskName)>,
}

impl Due {
    /// The job's oldest tick that nobody has taken is due since then; None: it has none.
    pub(super) fn set(&mut self, name: &TaskName, since: Option<i64>) {
        let before = match since {
            Some(since) => self.since.insert(name.clone(), since),
            None => self.since.remove(name),
        };
        if before == since {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, name.clone()));
        }
        if let Some(since) = since {
            self.by_time.insert((since, name.clone()));
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many jobs have a tick that is overdue.
    pub(super) fn overdue(&self, now_ms: i64) -> usize {
        let latest = now_ms.saturating_sub(OVERDUE_AFTER_MS);
        self.by_time.iter().take_while(|(since, _)| *since < latest).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_counts_once_and_only_once_it_is_overdue() {
        let mut due = Due::default();
        let name = |text: &str| TaskName::new(text).unwrap();
        due.set(&name("a"), Some(1_000));
        due.set(&name("b"), Some(2_000));
        due.set(&name("b"), Some(2_000));
        assert_eq!(due.overdue(1_000 + OVERDUE_AFTER_MS), 0);
        assert_eq!(due.overdue(1_001 + OVERDUE_AFTER_MS), 1);
        assert_eq!(due.overdue(i64::MAX), 2);
        // Its next tick is due.
        due.set(&name("a"), Some(9_000));
        assert_eq!(due.overdue(2_001 + OVERDUE_AFTER_MS), 1);
        due.set(&name("b"), None);
        due.set(&name("none"), None);
        assert_eq!(due.overdue(i64::MAX), 1);
        due.clear();
        assert_eq!(due.overdue(i64::MAX), 0);
    }
}

//! Tasks that are set aside, as far as this worker knows: for whoever is about to run one.
//!
//! Redis decides what counts (`strike.lua`); this table is a cache of its records. Each worker enters what it counts
//! itself before it takes over anything of the dead session, and what it learns from the watch and from sweeps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Handle;
use crate::clock::BootInstant;
use crate::name::{Task, TaskKind};
use crate::records::PoisonRecord;

/// A task is set aside: it does not run for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// For so much longer.
    pub left: Duration,
    /// Why, as `Error` of the task says it.
    pub reason: Arc<str>,
}

/// What is counted against tasks.
#[derive(Debug, Default)]
pub(super) struct Poison {
    /// How many entries there are, so that nobody waits for a look at nothing.
    count: AtomicUsize,
    entries: Mutex<HashMap<Task, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// None: it is not set aside.
    until: Option<BootInstant>,
    until_ms: u64,
    reason: Arc<str>,
}

/// What an update has changed for whoever runs the task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It is set aside from now on, or for longer.
    SetAside,
    /// It may run again.
    Back,
}

impl Poison {
    /// Takes what Redis says. `until`: when the set-aside ends on our clock.
    pub(super) fn update(&self, task: &Task, record: &PoisonRecord, until: Option<BootInstant>) -> Change {
        let mut entries = self.lock();
        let before = entries.get(task).and_then(|entry| entry.until.map(|_| entry.until_ms));
        if record.deaths == 0 {
            entries.remove(task);
        } else {
            let entry = Entry { until, until_ms: record.until_ms, reason: record.error().into() };
            entries.insert(task.clone(), entry);
        }
        self.count.store(entries.len(), Ordering::Release);
        match (before, until.filter(|_| record.deaths > 0)) {
            (Some(before), Some(_)) if before == record.until_ms => Change::Nothing,
            (_, Some(_)) => Change::SetAside,
            (Some(_), None) => Change::Back,
            (None, None) => Change::Nothing,
        }
    }

    /// Until when the task is set aside.
    pub(super) fn until(&self, task: &Task) -> Option<BootInstant> {
        if self.is_empty() {
            return None;
        }
        self.lock().get(task)?.until
    }

    /// Whether nothing is counted against anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn set_aside(&self, task: &Task, now: BootInstant) -> Option<SetAside> {
        let entries = self.lock();
        let entry = entries.get(task)?;
        let left = entry.until?.saturating_duration_since(now);
        (!left.is_zero()).then(|| SetAside { left, reason: entry.reason.clone() })
    }

    /// Those whose time is over: told once.
    pub(super) fn take_over(&self, now: BootInstant) -> Vec<Task> {
        let mut over = Vec::new();
        for (task, entry) in &mut *self.lock() {
            if entry.until.is_some_and(|until| until <= now) {
                entry.until = None;
                over.push(task.clone());
            }
        }
        over
    }

    /// The tasks that are set aside.
    pub(super) fn all_set_aside(&self) -> Vec<Task> {
        let entries = self.lock();
        entries.iter().filter(|(_, entry)| entry.until.is_some()).map(|(task, _)| task.clone()).collect()
    }

    /// Tasks that something is counted against.
    pub(super) fn known(&self) -> Vec<Task> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Task, Entry>> {
        // Nothing that holds this lock can panic half-way through a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Whether a task is set aside because workers have ended because of it. Asks Redis nothing.
    #[must_use]
    pub fn set_aside(&self, kind: TaskKind, name: &str) -> Option<SetAside> {
        let poison = &self.shared.poison;
        if poison.is_empty() {
            return None;
        }
        poison.set_aside(&Task::new(kind, name).ok()?, BootInstant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    fn task() -> Task {
        Task::new(TaskKind::Endpoint, "/bad").unwrap()
    }

    fn record(deaths: u32, until_ms: u64) -> PoisonRecord {
        PoisonRecord { deaths, until_ms, reason: "r".to_owned(), source: None }
    }

    #[test]
    fn a_task_is_set_aside_until_its_time_is_over() {
        let poison = Poison::default();
        assert_eq!(poison.update(&task(), &record(2, 0), None), Change::Nothing);
        assert_eq!(poison.set_aside(&task(), at(0)), None);
        assert_eq!(poison.update(&task(), &record(3, 10), Some(at(10))), Change::SetAside);
        assert_eq!(poison.update(&task(), &record(3, 10), Some(at(10))), Change::Nothing, "told before");
        let aside = poison.set_aside(&task(), at(4)).unwrap();
        assert_eq!(aside.left, Duration::from_secs(6));
        assert!(aside.reason.starts_with("poison: r; 3 workers"), "{}", aside.reason);
        assert_eq!(poison.set_aside(&Task::new(TaskKind::Thread, "/bad").unwrap(), at(4)), None);
        assert_eq!(poison.take_over(at(9)), []);
        assert_eq!(poison.take_over(at(10)), [task()]);
        assert_eq!(poison.take_over(at(11)), [], "once");
        assert_eq!(poison.set_aside(&task(), at(11)), None);
        assert_eq!(poison.update(&task(), &record(4, 40), Some(at(40))), Change::SetAside);
        assert_eq!(poison.all_set_aside(), [task()]);
        assert_eq!(poison.update(&task(), &record(0, 0), None), Change::Back);
        assert!(poison.is_empty());
    }
}

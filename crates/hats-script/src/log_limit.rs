//! Limits how many lines each task logs, so that one script cannot fill the log, or drive the lines of others out of it.
//!
//! Each task (of one kind and name, on all lanes together) has a token bucket: [`BURST`] lines at once and
//! [`LINES_PER_SECOND`] in the long run. Lines above that are dropped and counted; [`REPORT_INTERVAL`] after the first dropped
//! line, one line says how many there were and of which task, and so on while it goes on.
//!
//! On cancel and failure: a report that is due when the runtime ends is not written; the metric has the count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::host::{Kind, TaskControl};

/// Maximum lines per second of one task in the long run.
pub(crate) const LINES_PER_SECOND: u32 = 1_000;
/// Maximum lines of one task at once, after it has logged nothing for a while.
pub(crate) const BURST: u32 = 2_000;
/// Minimum time between two reports about one task.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Tasks that are kept track of before those that have been quiet for long are forgotten.
const TASKS_BEFORE_PRUNING: usize = 1_024;

/// The limit of a worker, for all its lanes.
pub(crate) struct LogLimit {
    /// Where reports wait for their time.
    runtime: Handle,
    tasks: Mutex<Tasks>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Tasks {
    /// By kind, then by name.
    buckets: [HashMap<String, Bucket>; 3],
    /// Number of buckets at which the full ones are removed.
    prune_at: usize,
}

/// What one task may still log.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    lines: f64,
    /// When `lines` was right.
    at: Instant,
    /// Lines dropped since the last report. A report is due while this is not 0.
    dropped: u64,
}

impl LogLimit {
    /// For a worker whose reports wait on this runtime.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: Mutex::default(), dropped: AtomicU64::new(0) }
    }

    /// Whether the task may log one more line. A line that it may not log is counted here.
    pub(crate) fn admits(self: &Arc<Self>, task: &dyn TaskControl) -> bool {
        let kind = task.kind();
        let now = Instant::now();
        let mut tasks = self.tasks();
        let bucket = tasks.bucket(kind, task.name(), now);
        if bucket.take(now) {
            return true;
        }
        bucket.dropped += 1;
        let is_first = bucket.dropped == 1;
        drop(tasks);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if is_first {
            let (limit, name) = (self.clone(), task.name().to_owned());
            self.runtime.spawn(async move {
                tokio::time::sleep(REPORT_INTERVAL).await;
                limit.report(kind, &name);
            });
        }
        false
    }

    /// Lines dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn report(&self, kind: Kind, name: &str) {
        let mut tasks = self.tasks();
        let dropped =
            tasks.buckets[index(kind)].get_mut(name).map(|bucket| std::mem::take(&mut bucket.dropped));
        drop(tasks);
        if let Some(dropped) = dropped {
            tracing::warn!(
                task = name,
                kind = NAMES[index(kind)],
                "{dropped} log lines of this task were dropped: it logged more than {LINES_PER_SECOND} lines a second"
            );
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kinds are called, by [`index`].
const NAMES: [&str; 3] = ["thread", "job", "endpoint"];

fn index(kind: Kind) -> usize {
    match kind {
        Kind::Thread => 0,
        Kind::Job(_) => 1,
        Kind::Endpoint => 2,
    }
}

impl Tasks {
    fn bucket(&mut self, kind: Kind, name: &str, now: Instant) -> &mut Bucket {
        if !self.buckets[index(kind)].contains_key(name) {
            self.prune(now);
        }
        self.buckets[index(kind)].entry(name.to_owned()).or_insert_with(|| Bucket::full(now))
    }

    /// Forgets tasks that may log a whole burst again, when there are many.
    fn prune(&mut self, now: Instant) {
        let count = |buckets: &[HashMap<String, Bucket>; 3]| buckets.iter().map(HashMap::len).sum::<usize>();
        if count(&self.buckets) < self.prune_at.max(TASKS_BEFORE_PRUNING) {
            return;
        }
        for buckets in &mut self.buckets {
            buckets.retain(|_, bucket| !bucket.is_idle(now));
        }
        // So that the work per line stays constant, however many tasks there are.
        self.prune_at = count(&self.buckets) * 2;
    }
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { lines: f64::from(BURST), at: now, dropped: 0 }
    }

    fn lines_at(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.lines + since * f64::from(LINES_PER_SECOND)).min(f64::from(BURST))
    }

    /// Takes one line, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.lines = self.lines_at(now);
        self.at = now;
        let is_there = self.lines >= 1.0;
        if is_there {
            self.lines -= 1.0;
        }
        is_there
    }

    /// Whether nothing is lost by forgetting it.
    fn is_idle(&self, now: Instant) -> bool {
        self.dropped == 0 && self.lines_at(now) >= f64::from(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let lines_at = |bucket: &mut Bucket, now| (0..10_000).filter(|_| bucket.take(now)).count();
        assert_eq!(lines_at(&mut bucket, start), 2_000);
        assert_eq!(lines_at(&mut bucket, start), 0);
        assert_eq!(lines_at(&mut bucket, start + Duration::from_millis(500)), 500);
        // Never more than a burst, however long nothing was logged.
        assert!(!bucket.is_idle(start + Duration::from_millis(500)));
        assert!(bucket.is_idle(start + Duration::from_secs(60)));
        assert_eq!(lines_at(&mut bucket, start + Duration::from_secs(3600)), 2_000);
        // A clock that stands still gives nothing.
        assert_eq!(lines_at(&mut bucket, start), 0);
    }

    #[test]
    fn tasks_are_told_apart_and_quiet_ones_are_forgotten() {
        let start = Instant::now();
        let mut tasks = Tasks::default();
        while tasks.bucket(Kind::Thread, "loud", start).take(start) {}
        assert!(tasks.bucket(Kind::Endpoint, "loud", start).take(start));
        assert!(tasks.bucket(Kind::Thread, "other", start).take(start));
        tasks.bucket(Kind::Thread, "loud", start).dropped = 1;
        let later = start + Duration::from_secs(3600);
        for number in 0..TASKS_BEFORE_PRUNING * 10 {
            let name = format!("t{number}");
            let now = later + Duration::from_secs(60) * u32::try_from(number).unwrap();
            assert!(tasks.bucket(Kind::Thread, &name, now).take(now));
        }
        let kept: usize = tasks.buckets.iter().map(HashMap::len).sum();
        assert!(kept <= TASKS_BEFORE_PRUNING + 1, "{kept}");
        // A report is still due.
        assert_eq!(tasks.buckets[0]["loud"].dropped, 1);
    }
}

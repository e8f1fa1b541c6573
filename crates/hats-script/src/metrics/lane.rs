//! What one lane counts. It alone writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hats_arena::Meter;

use super::LaneReading;
use super::histogram::{Distribution, Histogram, MILLISECOND};
#[cfg(feature = "redis")]
use super::redis::RedisCalls;
use crate::error::ScriptError;
use crate::host::Kind;
use crate::log_limit::LogLimit;

/// `main()` is called thousands of times in a second or takes as long as it likes.
const MAIN_ENDS: &[u64] = &[
    MILLISECOND / 10,
    MILLISECOND,
    10 * MILLISECOND,
    100 * MILLISECOND,
    1_000 * MILLISECOND,
    10_000 * MILLISECOND,
    60_000 * MILLISECOND,
];

/// A lane that is not held up comes to its timers within a millisecond or two.
const LATENESS_ENDS: &[u64] = &[
    MILLISECOND,
    2 * MILLISECOND,
    5 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    100 * MILLISECOND,
    1_000 * MILLISECOND,
    10_000 * MILLISECOND,
];

/// The counters of one lane. Apart from what other OS threads write, so that none of them waits for the memory of another.
#[repr(align(128))]
pub(crate) struct LaneMetrics {
    pub(crate) main_calls: Histogram,
    /// By how much the lane came late to a timer of its own.
    pub(crate) lateness: Histogram,
    /// By kind of task, in the order of [`Self::KINDS`].
    pub(super) heap: [Arc<Meter>; 3],
    #[cfg(feature = "redis")]
    pub(crate) redis: RedisCalls,
    /// Of the whole worker: it counts what it drops.
    pub(crate) log_limit: Arc<LogLimit>,
    warm_interpreters: AtomicUsize,
    warm_bytes: AtomicUsize,
    warm_bytes_max: usize,
    /// As of the lane's last turn.
    preempted_at_instructions: AtomicU64,
    preempted_at_host_ends: AtomicU64,
    refused_ticks: AtomicU64,
    nested_entries: AtomicU64,
    /// Scripts that died in the middle of the engine's work, by the order of [`Self::DEATHS`].
    killed: [AtomicU64; Self::DEATHS.len()],
}

impl LaneMetrics {
    /// Why scripts die.
    pub(super) const DEATHS: [&'static str; 6] = ["timeout", "stop", "lost", "memory", "stack", "engine"];

    /// What the kinds of tasks are called.
    pub(super) const KINDS: [&'static str; 3] = ["thread", "job", "endpoint"];

    /// For a lane whose idle interpreters may take so many bytes.
    pub(crate) fn new(warm_bytes_max: usize, log_limit: Arc<LogLimit>) -> Self {
        Self {
            main_calls: Histogram::new(MAIN_ENDS),
            lateness: Histogram::new(LATENESS_ENDS),
            heap: Default::default(),
            #[cfg(feature = "redis")]
            redis: RedisCalls::default(),
            log_limit,
            warm_interpreters: AtomicUsize::new(0),
            warm_bytes: AtomicUsize::new(0),
            warm_bytes_max,
            preempted_at_instructions: AtomicU64::new(0),
            preempted_at_host_ends: AtomicU64::new(0),
            refused_ticks: AtomicU64::new(0),
            nested_entries: AtomicU64::new(0),
            killed: Default::default(),
        }
    }

    /// What has happened to the lane's fibers since it began.
    pub(crate) fn preempted(&self, stats: hats_fiber::Stats) {
        self.preempted_at_instructions.store(stats.preempted_at_instructions, Ordering::Relaxed);
        self.preempted_at_host_ends.store(stats.preempted_at_host_ends, Ordering::Relaxed);
        self.refused_ticks.store(stats.refused_ticks, Ordering::Relaxed);
        self.nested_entries.store(stats.nested_entries, Ordering::Relaxed);
    }

    /// A script died in the middle of the engine's work.
    pub(crate) fn killed(&self, why: &ScriptError) {
        let reason = match why {
            ScriptError::Timeout(_) | ScriptError::RunTimeout(_) => 0,
            ScriptError::Interrupted => 1,
            ScriptError::Lost => 2,
            ScriptError::Memory(_) => 3,
            ScriptError::Stack(..) => 4,
            _ => 5,
        };
        self.killed[reason].fetch_add(1, Ordering::Relaxed);
    }

    /// Where interpreters for tasks of this kind tell of their heap.
    pub(crate) fn heap_of(&self, kind: Kind) -> Arc<Meter> {
        let place = match kind {
            Kind::Thread => 0,
            Kind::Job(_) => 1,
            Kind::Endpoint => 2,
        };
        self.heap[place].clone()
    }

    /// So many interpreters wait for work, and take so many bytes.
    pub(crate) fn warm_is(&self, interpreters: usize, bytes: usize) {
        self.warm_interpreters.store(interpreters, Ordering::Relaxed);
        self.warm_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn no_lateness() -> Distribution {
        Histogram::new(LATENESS_ENDS).read()
    }

    pub(super) fn no_main_calls() -> Distribution {
        Histogram::new(MAIN_ENDS).read()
    }

    /// Deaths of scripts on all lanes, by the reason.
    pub(super) fn deaths(lanes: &[Arc<Self>]) -> Vec<(&'static str, u64)> {
        let of = |reason: usize| lanes.iter().map(|lane| lane.killed[reason].load(Ordering::Relaxed)).sum();
        Self::DEATHS.iter().enumerate().map(|(reason, name)| (*name, of(reason))).collect()
    }

    pub(super) fn read(&self) -> LaneReading {
        LaneReading {
            warm_interpreters: self.warm_interpreters.load(Ordering::Relaxed),
            warm_bytes: self.warm_bytes.load(Ordering::Relaxed),
            warm_bytes_max: self.warm_bytes_max,
            preempted_at_instructions: self.preempted_at_instructions.load(Ordering::Relaxed),
            preempted_at_host_ends: self.preempted_at_host_ends.load(Ordering::Relaxed),
            refused_ticks: self.refused_ticks.load(Ordering::Relaxed),
            nested_entries: self.nested_entries.load(Ordering::Relaxed),
        }
    }
}

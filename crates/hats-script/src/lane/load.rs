//! What a script weighs: how much of its lane's time it has taken lately, and its heap.
//!
//! The time is a sample. The clock that is read around each poll of a script moves on every few milliseconds only and costs
//! next to nothing to read; a poll in which it moves on is charged with that step, and the others with nothing. Over many
//! polls that comes to what an exact clock would have said.
//!
//! What must hold: a lane writes, anybody reads, and neither waits for the other for longer than a few instructions take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What is so long ago counts for a third of what is now.
const LATELY: Duration = Duration::from_secs(10);

/// What a script weighs.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The name of its task.
    pub task: String,
    /// How much of its lane's time it has taken lately: 1 is all of it.
    pub time: f64,
    /// Bytes that its heap takes.
    pub heap: usize,
}

/// What is known of one script's use of its lane.
#[derive(Default)]
pub(super) struct Load {
    taken: Mutex<Decaying>,
    heap: OnceLock<Arc<AtomicUsize>>,
}

/// Seconds that have been taken, the longer ago the fewer, as of `at`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Decaying {
    seconds: f64,
    at: Duration,
}

impl Load {
    /// The script has been running since `began`.
    pub(super) fn ran_since(&self, began: Duration) {
        let now = now();
        if now > began {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            *taken = taken.plus(now - began, now);
        }
    }

    /// Where the bytes of its heap are counted.
    pub(super) fn has_heap(&self, gauge: Arc<AtomicUsize>) {
        // A script has one interpreter.
        let _ = self.heap.set(gauge);
    }

    /// How much of the lane's time it has taken lately.
    pub(super) fn time(&self) -> f64 {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.plus(Duration::ZERO, now()).seconds / LATELY.as_secs_f64()
    }

    /// Bytes that its heap takes.
    pub(super) fn heap(&self) -> usize {
        self.heap.get().map_or(0, |gauge| gauge.load(Ordering::Relaxed))
    }
}

impl Decaying {
    fn plus(self, taken: Duration, now: Duration) -> Self {
        let ago = now.saturating_sub(self.at).as_secs_f64() / LATELY.as_secs_f64();
        Self { seconds: self.seconds * (-ago).exp() + taken.as_secs_f64(), at: now.max(self.at) }
    }
}

/// The time since some point in the past, as of the last tick of the kernel's clock.
pub(super) fn now() -> Duration {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_a_constant_share_comes_to_weigh_that_and_forgets_it() {
        let mut taken = Decaying::default();
        for step in 1..=10_000_u32 {
            // A quarter of each 10 ms, for 100 s.
            taken = taken.plus(Duration::from_micros(2500), Duration::from_millis(10) * step);
        }
        let share = taken.seconds / LATELY.as_secs_f64();
        assert!((share - 0.25).abs() < 0.001, "{share}");
        let later = taken.plus(Duration::ZERO, taken.at + LATELY);
        assert!((later.seconds / taken.seconds - (-1.0_f64).exp()).abs() < 1e-9);
    }
}

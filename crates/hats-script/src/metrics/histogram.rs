//! How long something took, as counts of a few ranges of time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most ranges that there are, the last without an end included.
const RANGES_MAX: usize = 12;
/// In nanoseconds.
pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000 * MICROSECOND;

/// Counts durations by range.
#[derive(Debug)]
pub struct Histogram {
    /// The upper ends of the ranges, in nanoseconds, ascending.
    ends: &'static [u64],
    counts: [AtomicU64; RANGES_MAX],
    nanos: AtomicU64,
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Distribution {
    /// Each range that has an end: the end in seconds, and how many took no longer and longer than the range before.
    pub ranges: Vec<(f64, u64)>,
    /// How many took longer than all of these.
    pub longer: u64,
    /// All durations together.
    pub sum: Duration,
}

/// A duration with the range that it is in, to be counted several times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    nanos: u64,
    range: usize,
}

impl Histogram {
    /// A millisecond to half a minute: for what goes over a network.
    pub const NETWORK: &'static [u64] = &[
        MILLISECOND,
        5 * MILLISECOND,
        25 * MILLISECOND,
        100 * MILLISECOND,
        250 * MILLISECOND,
        1_000 * MILLISECOND,
        2_500 * MILLISECOND,
        10_000 * MILLISECOND,
        30_000 * MILLISECOND,
    ];

    /// One with these upper ends of its ranges, in nanoseconds, ascending; at most eleven, others are left out.
    #[must_use]
    pub const fn new(ends: &'static [u64]) -> Self {
        let ends = if ends.len() < RANGES_MAX { ends } else { ends.split_at(RANGES_MAX - 1).0 };
        Self { ends, counts: [const { AtomicU64::new(0) }; RANGES_MAX], nanos: AtomicU64::new(0) }
    }

    /// Counts one duration, on any OS thread.
    pub fn record(&self, took: Duration) {
        let Timed { nanos, range } = self.timed(took);
        self.counts[range].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// As [`Self::record`], for the only OS thread that counts here: it costs less.
    pub(crate) fn record_alone(&self, took: Duration) {
        self.count_alone(self.timed(took));
    }

    /// Counts what has been looked up in a histogram of the same ranges. For the only OS thread that counts here.
    pub(crate) fn count_alone(&self, Timed { nanos, range }: Timed) {
        add_alone(&self.counts[range], 1);
        add_alone(&self.nanos, nanos);
    }

    /// Looks up a duration.
    pub(crate) fn timed(&self, took: Duration) -> Timed {
        let nanos =
            took.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(took.subsec_nanos()));
        let range = self.ends.iter().position(|end| nanos <= *end).unwrap_or(self.ends.len());
        Timed { nanos, range }
    }

    /// What has been counted so far.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let count = |range: usize| self.counts[range].load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "none of them comes near 2^53")]
        let end = |nanos: u64| nanos as f64 / 1e9;
        Distribution {
            ranges: self.ends.iter().enumerate().map(|(range, nanos)| (end(*nanos), count(range))).collect(),
            longer: count(self.ends.len()),
            sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

impl Distribution {
    /// How many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(_, count)| count).sum::<u64>() + self.longer
    }

    /// Takes in what another histogram of the same ranges has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for ((_, count), (_, more)) in self.ranges.iter_mut().zip(&other.ranges) {
            *count += more;
        }
        self.longer += other.longer;
        self.sum += other.sum;
    }
}

/// Adds to what no other OS thread writes.
pub(crate) fn add_alone(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_first_range_that_it_fits() {
        static ENDS: [u64; 2] = [1_000, 1_000_000];
        let histogram = Histogram::new(&ENDS);
        for nanos in [0, 1_000, 1_001, 1_000_000, 1_000_001, 5_000_000_000] {
            histogram.record(Duration::from_nanos(nanos));
        }
        histogram.record_alone(Duration::from_nanos(7));
        let read = histogram.read();
        assert_eq!(read.ranges, [(1e-6, 3), (1e-3, 2)]);
        assert_eq!((read.longer, read.count()), (2, 7));
        assert_eq!(read.sum, Duration::from_nanos(5_002_002_009));
        let mut twice = read.clone();
        twice.add(&read);
        assert_eq!((twice.count(), twice.sum), (14, read.sum * 2));
    }

    #[test]
    fn no_duration_is_too_long_and_no_more_ranges_than_there_is_room_for() {
        let histogram = Histogram::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        histogram.record(Duration::MAX);
        let read = histogram.read();
        assert_eq!((read.ranges.len(), read.longer), (11, 1));
    }
}

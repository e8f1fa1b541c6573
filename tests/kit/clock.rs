//! The boot clock, as the workers' call logs use it, and waiting for an event.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_BOOTTIME.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

/// A duration as the clock's nanoseconds.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Asks `event` again and again until it answers with something.
///
/// # Errors
/// When `within` is over first, or `event` itself fails.
pub fn wait_for<T>(what: &str, within: Duration, mut event: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = event()? {
            return Ok(found);
        }
        if start.elapsed() > within {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The value below which the given share (0 to 1) of the values lies; zero when there are none.
pub fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    // Truncation is meant: a position in a list that fits into memory.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a position between 0 and the length"
    )]
    let position = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(position).copied().unwrap_or_default()
}

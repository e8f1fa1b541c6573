//! How long a crashed thread rests before it runs again. Pure: the caller says how long the run had lasted.
//!
//! What must hold: the rest doubles from [`FIRST`] to [`LONGEST`] with each crash in a row, and a run that lasted
//! [`HEALTHY`] starts the row anew. The row's length travels with the claim in Redis, so that a crash loop that
//! moves from worker to worker is still one crash loop.

use std::time::Duration;

/// The rest after the first crash.
pub const FIRST: Duration = Duration::from_secs(1);
/// The rest never grows beyond this.
pub const LONGEST: Duration = Duration::from_secs(60);
/// A run that lasted this long was in good health: what crashed before it no longer counts.
pub const HEALTHY: Duration = Duration::from_secs(60);

/// What follows a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Crashes in a row, this one included.
    pub restarts: u32,
    /// Nobody starts the thread sooner than this.
    pub rest: Duration,
}

/// The back-off after a run that lasted `ran` and followed `before` crashes in a row.
#[must_use]
pub fn after_crash(before: u32, ran: Duration) -> BackOff {
    let before = if ran >= HEALTHY { 0 } else { before };
    let factor = 2_u32.checked_pow(before).unwrap_or(u32::MAX);
    BackOff { restarts: before.saturating_add(1), rest: FIRST.saturating_mul(factor).min(LONGEST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests(lasting: Duration, crashes: usize) -> Vec<u64> {
        let mut restarts = 0;
        (0..crashes)
            .map(|_| {
                let next = after_crash(restarts, lasting);
                restarts = next.restarts;
                next.rest.as_secs()
            })
            .collect()
    }

    #[test]
    fn doubles_from_a_second_to_a_minute() {
        assert_eq!(rests(Duration::from_millis(3), 9), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_minute_of_health_starts_anew() {
        assert_eq!(rests(HEALTHY, 3), [1, 1, 1]);
        assert_eq!(after_crash(5, HEALTHY), BackOff { restarts: 1, rest: FIRST });
        assert_eq!(after_crash(5, HEALTHY - Duration::from_millis(1)).restarts, 6);
    }

    #[test]
    fn never_overflows() {
        assert_eq!(after_crash(u32::MAX, Duration::ZERO), BackOff { restarts: u32::MAX, rest: LONGEST });
        assert_eq!(after_crash(40, Duration::ZERO).rest, LONGEST);
    }
}

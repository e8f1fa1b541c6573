//! The boot clock: the only clock that decides how long a session may be trusted.
//!
//! `CLOCK_BOOTTIME` advances while the machine is suspended and while the process is stopped, and nobody can set it.
//! `std::time::Instant` stands still during a suspend and a wall clock jumps: neither may decide who owns anything.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point on the boot clock of this host, in nanoseconds since boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootInstant(u64);

impl BootInstant {
    /// Reads the clock (about 40 ns).
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        // The boot clock starts at zero and never goes back: neither part is negative.
        Self((time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64))
    }

    /// The instant that lies `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long before `self` the instant `earlier` was; zero if it was not before.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for BootInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for BootInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

/// The wall clock in nanoseconds since 1970: for people to read. It decides nothing.
#[expect(clippy::disallowed_methods, reason = "written into a worker's row for people, never read again")]
pub fn unix_nanos() -> u128 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let first = BootInstant::now();
        let second = BootInstant::now();
        assert!(second >= first);
        assert_eq!(first.saturating_duration_since(second + Duration::from_secs(1)), Duration::ZERO);
    }
}

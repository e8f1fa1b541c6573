//! The instants that schedules are about.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::Offset;

/// A whole second of UTC, counted from the beginning of 1970. Ticks are whole seconds, so no finer unit is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(i64);

impl UnixSeconds {
    /// The calendar begins here, with the year 1: there are no ticks before.
    pub(super) const EARLIEST: i64 = -62_135_596_800;
    /// The calendar ends here, a day before the end of the year 9999: there are no ticks after.
    pub(super) const LATEST: i64 = 253_402_207_200;

    /// The second with this number.
    #[must_use]
    pub const fn new(seconds: i64) -> Self {
        Self(seconds)
    }

    /// The second in which a millisecond lies. A tick is after that millisecond exactly if it is after this second.
    #[must_use]
    pub const fn of_millis(millis: i64) -> Self {
        Self(millis.div_euclid(1000))
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970 of its beginning.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.saturating_mul(1000)
    }

    /// In the form of RFC 3339, for a clock that is `offset` seconds ahead of UTC.
    pub(super) fn with_offset(self, offset: i64) -> String {
        let offset = i32::try_from(offset).ok().and_then(|offset| Offset::from_seconds(offset).ok());
        match (Timestamp::from_second(self.0), offset) {
            (Ok(timestamp), Some(offset)) => timestamp.display_with_offset(offset).to_string(),
            _ => self.to_string(),
        }
    }
}

/// In the form of RFC 3339, such as `2026-03-29T01:00:00Z`.
impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.0) {
            Ok(timestamp) => timestamp.fmt(f),
            // Beyond the calendar.
            Err(_) => write!(f, "unix {}", self.0),
        }
    }
}

impl fmt::Debug for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was given is not an instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a time such as `2026-03-29T01:00:00Z`, got {0:?}")]
pub struct InstantError(String);

/// Reads RFC 3339; a fraction of a second is dropped.
impl FromStr for UnixSeconds {
    type Err = InstantError;

    fn from_str(text: &str) -> Result<Self, InstantError> {
        match text.parse::<Timestamp>() {
            Ok(timestamp) => Ok(Self::of_millis(timestamp.as_millisecond())),
            Err(_) => Err(InstantError(super::error::short(text))),
        }
    }
}

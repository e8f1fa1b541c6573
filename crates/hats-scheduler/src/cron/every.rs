//! `@every D`: a grid of whole seconds from an anchor. It knows no zone.

use std::fmt;

use super::error::{CronError, short};
use super::instant::UnixSeconds;

const EXPECTED: &str =
    "expected a time in whole seconds, one or more, such as 90s or 1h30m (units h, m, s, ms, us, ns)";
const NANOS: u128 = 1_000_000_000;
/// The longest time in Go, where the form comes from: 292 years.
const NANOS_MAX: u128 = i64::MAX as u128;

/// An interval and where its grid begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Every {
    // Invariant: at least 1, at most NANOS_MAX / NANOS.
    seconds: i64,
    /// The ticks are `anchor + seconds`, `anchor + 2 * seconds`, and so on.
    anchor: i64,
}

impl Every {
    pub(super) fn parse(text: &str) -> Result<Self, CronError> {
        let wrong = |expected| CronError::Every { value: short(text), expected };
        let nanos = nanos(text).ok_or_else(|| {
            wrong(match text.trim_end_matches('d').parse::<f64>() {
                Ok(_) if text.ends_with('d') => "expected hours for days, such as 24h",
                Ok(_) => "expected a unit behind the number, such as 90s",
                Err(_) => EXPECTED,
            })
        })?;
        if nanos > NANOS_MAX {
            return Err(wrong("expected at most 2562047h, which is 292 years"));
        }
        if nanos < NANOS || nanos % NANOS != 0 {
            return Err(wrong(EXPECTED));
        }
        // At most NANOS_MAX / NANOS, so it fits.
        let seconds = i64::try_from(nanos / NANOS).map_err(|_| wrong(EXPECTED))?;
        Ok(Self { seconds, anchor: 0 })
    }

    pub(super) fn anchor(&mut self, anchor: i64) {
        self.anchor = anchor.clamp(-UnixSeconds::LATEST, UnixSeconds::LATEST);
    }

    pub(super) fn next_after(&self, after: i64) -> Option<i64> {
        let next = self.tick(self.passed(after) + 1);
        (next <= UnixSeconds::LATEST).then_some(next)
    }

    pub(super) fn newest_by(&self, at: i64) -> Option<i64> {
        match self.passed(at) {
            0 => None,
            passed => Some(self.tick(passed)),
        }
    }

    pub(super) fn count(&self, after: i64, through: i64) -> u64 {
        // Not negative, since `through` is not before `after`.
        u64::try_from(self.passed(through) - self.passed(after)).unwrap_or(0)
    }

    pub(super) fn describe(&self) -> String {
        let one = |unit| format!("every {unit}");
        match self.seconds {
            1 => one("second"),
            60 => one("minute"),
            3600 => one("hour"),
            seconds if seconds % 3600 == 0 => format!("every {} hours", seconds / 3600),
            seconds if seconds % 60 == 0 => format!("every {} minutes", seconds / 60),
            seconds => format!("every {seconds} seconds"),
        }
    }

    /// How many ticks are not after `at`.
    fn passed(&self, at: i64) -> i64 {
        (at.min(UnixSeconds::LATEST).saturating_sub(self.anchor) / self.seconds).max(0)
    }

    fn tick(&self, number: i64) -> i64 {
        self.anchor.saturating_add(self.seconds.saturating_mul(number))
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@every {}s", self.seconds)
    }
}

/// A duration as Go writes them, exactly: `1h30m`, `1.5h`, `1500ms`. None if it is not one, or beyond all measure.
fn nanos(text: &str) -> Option<u128> {
    if text.is_empty() {
        return None;
    }
    let mut sum: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, unit_on) = rest.split_at(number_len);
        let unit_len = unit_on.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit_on.len());
        let (unit, after) = unit_on.split_at(unit_len);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        sum = sum.checked_add(scaled(number, scale)?)?;
        rest = after;
    }
    Some(sum)
}

/// A decimal number times `scale`, exactly; none if a part of it is lost.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let fraction = fraction.trim_end_matches('0');
    let power = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = digits(fraction)?.checked_mul(scale)?;
    if part % power != 0 {
        return None;
    }
    digits(whole)?.checked_mul(scale)?.checked_add(part / power)
}

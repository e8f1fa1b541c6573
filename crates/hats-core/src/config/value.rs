//! The shapes that values of settings are written in: durations, sizes, percentages, lists.
//!
//! Every value is read from text, so that a flag, a variable of the environment and a number or a bool in a
//! file all mean the same. An error says what was expected and repeats the value; what may hold a secret
//! does not come through here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longer times than this are taken for a mistake (and could overflow a clock).
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// `500ms`, `20s`, `1m 30s`; a plain number counts seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("expected a time such as `20s`, `500ms` or a number of seconds, got {}", quoted(text));
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| refuse())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| refuse())?,
    };
    if parsed > LONGEST {
        return Err(format!("{} is more than a year", quoted(text)));
    }
    Ok(parsed)
}

/// A percentage above 0 and at most 100: `85%` or `85`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// `None` if `value` is not above 0 and at most 100.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (value > 0.0 && value <= 100.0).then_some(Self(value))
    }

    /// From 0 to 100.
    #[must_use]
    pub fn value(self) -> f64 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        number.parse().ok().and_then(Self::new).ok_or_else(|| {
            format!("expected a percentage above 0 and at most 100, such as `85%`, got {}", quoted(text))
        })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// `64MiB`, `512k`, `1.5GiB`; a plain number counts bytes. `KB`, `MB`, `GB` count in thousands, all others in 1024s.
pub fn size(text: &str) -> Result<u64, String> {
    let refuse = || format!("expected a size such as `64MiB` or a number of bytes, got {}", quoted(text));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = text[digits.len()..].trim_start().to_ascii_lowercase();
    let scale: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(refuse()),
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(refuse);
    }
    let number: f64 = digits.parse().map_err(|_| refuse())?;
    let bytes = number * scale as f64;
    if !(0.0..=2f64.powi(53)).contains(&bytes) {
        return Err(refuse());
    }
    Ok(bytes as u64)
}

/// Go's spellings and the usual other ones.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("expected `true` or `false`, got {}", quoted(text))),
    }
}

/// Whether a threshold is switched off.
pub(super) fn is_off(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "off" | "none" | "0" | "0%")
}

/// The value as an error repeats it: short, and with nothing a terminal would act on.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
    format!("`{shown}{more}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers_count_seconds() {
        assert_eq!(duration("20"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "-1", "abc", "5 parsecs", "NaN", "inf", "1e300", "9999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("512 k"), Ok(512 << 10));
        assert_eq!(size("1.5G"), Ok(3 << 29));
        assert_eq!(size("2MB"), Ok(2_000_000));
        assert_eq!(size("100"), Ok(100));
        for wrong in ["", "-1", "MiB", "5 stone", "1e30T", "99999999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn percentages_end_at_100() {
        assert_eq!("85%".parse(), Ok(Percent(85.0)));
        assert_eq!("100".parse(), Ok(Percent(100.0)));
        for wrong in ["0", "100.1", "-3", "NaN", "%", "abc"] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_repeated_without_control_characters() {
        assert_eq!(quoted("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert!(quoted(&"x".repeat(1000)).len() < 80);
    }
}

//! Dates, as databases write them and as JavaScript counts them.

use std::fmt::Write;

/// Microseconds of a day.
pub(super) const DAY_MICROS: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, from which Postgres counts.
pub(super) const POSTGRES_EPOCH_DAYS: i64 = 10_957;
/// The latest instant that a JavaScript `Date` can be, in milliseconds from 1970; the earliest is as far the other way.
pub(super) const DATE_MILLIS_MAX: i64 = 8_640_000_000_000_000;

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar also before there was one. The year
/// before 1 is 0.
pub(super) fn civil(days: i64) -> (i64, u32, u32) {
    // Years that begin in March, so that the odd day is the last of one; 400 of them have 146,097 days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // Both are small by their making.
    (year, u32::try_from(month).unwrap_or(0), u32::try_from(day).unwrap_or(0))
}

/// `2024-02-29`. Years before 1 are written as Postgres does, with ` BC` at the very end, which is what is returned.
pub(super) fn write_date(text: &mut String, days: i64) -> &'static str {
    let (year, month, day) = civil(days);
    let (shown, suffix) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let _ = write!(text, "{shown:04}-{month:02}-{day:02}");
    suffix
}

/// `13:04:05`, and `.25` behind it if it is not on the second.
pub(super) fn write_time(text: &mut String, micros: i64) {
    let seconds = micros / 1_000_000;
    let _ = write!(text, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    write_fraction(text, micros % 1_000_000);
}

/// Millionths, without zeros at the end.
pub(super) fn write_fraction(text: &mut String, micros: i64) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
}

/// An instant of a JavaScript `Date`, in UTC: `2024-02-29 13:04:05.678`.
pub(super) fn instant(millis: i64) -> String {
    let days = millis.div_euclid(86_400_000);
    let rest = millis.rem_euclid(86_400_000);
    let mut text = String::with_capacity(24);
    let suffix = write_date(&mut text, days);
    let seconds = rest / 1000;
    let _ = write!(
        text,
        " {:02}:{:02}:{:02}.{:03}{suffix}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        rest % 1000
    );
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn date(days: i64) -> String {
        let mut text = String::new();
        let suffix = write_date(&mut text, days);
        text + suffix
    }

    #[test]
    fn days_are_counted_through_all_calendars() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (POSTGRES_EPOCH_DAYS, "2000-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_782, "2024-02-29"),
            (-719_162, "0001-01-01"),
            (-719_163, "0001-12-31 BC"),
            (-2_440_588, "4714-11-24 BC"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "10000-01-01"),
            (106_751_991, "294247-01-10"),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
    }

    #[test]
    fn instants_are_written_in_utc() {
        assert_eq!(instant(0), "1970-01-01 00:00:00.000");
        assert_eq!(instant(-1), "1969-12-31 23:59:59.999");
        assert_eq!(instant(1_709_211_845_678), "2024-02-29 13:04:05.678");
        assert_eq!(instant(DATE_MILLIS_MAX), "275760-09-13 00:00:00.000");
        assert_eq!(instant(-DATE_MILLIS_MAX), "271822-04-20 00:00:00.000 BC");
    }

    proptest! {
        /// Each day follows the one before, in months of the right length.
        #[test]
        fn a_day_follows_the_day_before(days in -150_000_000_i64..150_000_000) {
            let (year, month, day) = civil(days);
            let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            let length = match month {
                2 => 28 + u32::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            prop_assert!((1..=12).contains(&month) && (1..=length).contains(&day));
            let expected = match (day == length, month) {
                (false, _) => (year, month, day + 1),
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
            };
            prop_assert_eq!(civil(days + 1), expected);
        }
    }
}

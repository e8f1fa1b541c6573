//! Why a schedule cannot be used. Each error names the field of the job, the part of it that is wrong, and what to write
//! instead.

use std::fmt;

/// What is wrong with `Cron` or `TZ`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CronError {
    /// Not five and not six fields.
    #[error("field Cron: {value:?} has {count} {}; expected five, or six with the second first: {ORDER}{hint}",
        if *.count == 1 { "field" } else { "fields" })]
    FieldCount {
        /// The whole text, shortened.
        value: String,
        /// How many there are.
        count: usize,
        /// What else may help.
        hint: &'static str,
    },
    /// A part of a field means nothing.
    #[error("field Cron: {field} {value:?} is not valid: {expected}{}",
        if *.five { "; five fields are minute, hour, day of month, month, day of week, a second goes before them" } else { "" })]
    Field {
        /// Which one.
        field: Field,
        /// The part, shortened.
        value: String,
        /// What could stand there.
        expected: String,
        /// Whether there were five fields: a sixth may have been left out.
        five: bool,
    },
    /// A word with `@` that is none.
    #[error(
        "field Cron: {value:?} is not known: expected @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly or @every with a time such as 90s{hint}"
    )]
    Nickname {
        /// The word, shortened.
        value: String,
        /// What else may help.
        hint: &'static str,
    },
    /// The time of an `@every`.
    #[error("field Cron: @every {value:?} is not valid: {expected}")]
    Every {
        /// The time as given, shortened.
        value: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// There is no such zone.
    #[error(
        "field {field}: {value:?} is not a time zone: expected a name of the IANA database such as Europe/Berlin{hint}"
    )]
    Zone {
        /// `TZ` or `Cron`.
        field: &'static str,
        /// The name as given, shortened.
        value: String,
        /// What may have been meant.
        hint: String,
    },
    /// Two zones.
    #[error(
        "field TZ: {tz:?} is not the zone {cron:?} that Cron begins with: expected the same, or only one of them"
    )]
    TwoZones {
        /// Of `TZ`.
        tz: String,
        /// Of `Cron`.
        cron: String,
    },
    /// The days it names do not exist.
    #[error("field Cron: {value:?} never fires: {why}")]
    NeverFires {
        /// The fields, shortened.
        value: String,
        /// What excludes what.
        why: String,
    },
    /// The fields are in order one by one, but the library that evaluates them does not take them.
    #[error("field Cron: {value:?} cannot be evaluated: {why}")]
    NotEvaluated {
        /// The fields, shortened.
        value: String,
        /// What the library says.
        why: String,
    },
    /// Longer than any schedule.
    #[error("field Cron: it has {bytes} bytes, at most {CRON_BYTES_MAX} are read")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
}

/// More than any sensible schedule needs: a list of every second and minute has 340.
pub(super) const CRON_BYTES_MAX: usize = 1000;

const ORDER: &str = "[second] minute hour day-of-month month day-of-week";

/// A field of a cron expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59; zero where there are five fields.
    Second,
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or JAN to DEC.
    Month,
    /// 0 to 7, or SUN to SAT; 0 and 7 are Sunday.
    DayOfWeek,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// As much of a text as an error repeats.
pub(super) fn short(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

//! A schedule as a sentence in English, for people who check what they have written. It says exactly what the fields say,
//! as briefly as that can be done; programs read [`digest`](super::Schedule::digest).
//!
//! croner can describe its patterns too, but has `LW` for the last day and steps that it only knows from `*`.

use super::calendar::{Calendar, members};
use super::fields::{Fields, Item, Part};

const MONTHS: [&str; 13] = [
    "",
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Sunday stands at both ends.
const DAYS: [&str; 8] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// So many times of day are listed one by one.
const TIMES_LISTED: u32 = 5;

/// `at 04:30 on Monday through Friday in June`.
pub(super) fn sentence(fields: &Fields, calendar: &Calendar) -> String {
    let days = days(fields);
    let months = months(calendar.months);
    [Some(times(calendar)), days, months].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// How a set of numbers is best said.
enum Numbers {
    All,
    /// Every n-th one from the first on, without a shorter step at the end.
    Every(u32),
    /// A list, such as `0, 15 and 20 to 25`.
    These(u64),
}

impl Numbers {
    /// Of a set of numbers below `size`.
    fn of(set: u64, size: u32) -> Self {
        let step = (set >> 1).trailing_zeros() + 1;
        let stepped = |step: u32| members(set).eq((0..size).step_by(step as usize));
        match set.count_ones() {
            count if count == size => Self::All,
            count if count > 2 && size.is_multiple_of(step) && stepped(step) => Self::Every(step),
            _ => Self::These(set),
        }
    }
}

fn times(calendar: &Calendar) -> String {
    let Calendar { seconds, minutes, hours, .. } = *calendar;
    let with_seconds = seconds != 1;
    if hours.count_ones() * minutes.count_ones() * seconds.count_ones() <= TIMES_LISTED {
        let mut times = Vec::new();
        for hour in members(hours) {
            for minute in members(minutes) {
                for second in members(seconds) {
                    let second = if with_seconds { format!(":{second:02}") } else { String::new() };
                    times.push(format!("{hour:02}:{minute:02}{second}"));
                }
            }
        }
        return format!("at {}", list(&times, "and"));
    }

    let second = match Numbers::of(seconds, 60) {
        _ if !with_seconds => String::new(),
        Numbers::All => "every second".to_owned(),
        Numbers::Every(step) => format!("every {step} seconds"),
        Numbers::These(set) => format!("at {}", numbered("second", set)),
    };
    let by_number = second.starts_with("at");
    let (minute, minute_by_number) = match Numbers::of(minutes, 60) {
        Numbers::All if !with_seconds => ("every minute".to_owned(), false),
        Numbers::All if by_number => ("of every minute".to_owned(), false),
        Numbers::All => (String::new(), false),
        Numbers::Every(step) if !with_seconds => (format!("every {step} minutes"), false),
        Numbers::Every(step) => (format!("of every {} minute", ordinal(step)), false),
        Numbers::These(set) if !with_seconds => (format!("at {}", numbered("minute", set)), true),
        Numbers::These(set) => (format!("of {}", numbered("minute", set)), true),
    };
    let hour = match Numbers::of(hours, 24) {
        Numbers::All if minute_by_number => "of every hour".to_owned(),
        Numbers::All => String::new(),
        Numbers::Every(step) => {
            format!("{} every {} hour", if minute_by_number { "of" } else { "in" }, ordinal(step))
        }
        Numbers::These(set) if minute_by_number => format!("of {}", numbered("hour", set)),
        Numbers::These(set) => {
            let runs: Vec<String> =
                runs(set).iter().map(|(from, to)| format!("from {from:02}:00 through {to:02}:59")).collect();
            list(&runs, "and")
        }
    };
    let parts = [second, minute, hour];
    parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn days(fields: &Fields) -> Option<String> {
    let unbounded = |part: &Part| part.items == [Item::All { step: 1 }];
    let of_month = (!unbounded(&fields.day_of_month)).then(|| days_of_month(&fields.day_of_month.items));
    let of_week = |word: &str| list(&days_of_week(&fields.day_of_week.items), word);
    match (of_month, unbounded(&fields.day_of_week)) {
        (None, true) => None,
        (Some(days), true) => Some(format!("on {}", list(&days, "and"))),
        (None, false) if fields.needs_both_days() => Some(format!("on {}", of_week("and"))),
        (Some(days), false) if fields.needs_both_days() => {
            Some(format!("on {} if it is {}", list(&days, "and"), of_week("or")))
        }
        (Some(days), false) => Some(format!("on {}, and also on {}", list(&days, "and"), of_week("and"))),
        // Written as `*`, so it is starred, and both are needed.
        (None, false) => None,
    }
}

fn days_of_month(items: &[Item]) -> Vec<String> {
    let mut days = Vec::new();
    let numbers = values(items);
    if numbers != 0 {
        days.push(format!("{} of the month", numbered("day", numbers)));
    }
    for item in items {
        match item {
            Item::All { step: 1 } => days.push("every day".to_owned()),
            Item::All { step } => {
                days.push(format!("every {} day of the month from the 1st", ordinal((*step).into())));
            }
            Item::LastDay => days.push("the last day of the month".to_owned()),
            Item::LastWorkday => days.push("the last day from Monday to Friday of the month".to_owned()),
            Item::NearestWorkday { day } => {
                days.push(format!("the day from Monday to Friday nearest to day {day} of the month"));
            }
            Item::Range { .. } | Item::Nth { .. } | Item::LastOf { .. } => {}
        }
    }
    days
}

fn days_of_week(items: &[Item]) -> Vec<String> {
    let mut days = names(values(items), &DAYS);
    for item in items {
        let (from, to, which) = match *item {
            Item::All { step } => {
                days.extend((0..7).step_by(step.into()).map(|day| DAYS[day % 7].to_owned()));
                continue;
            }
            Item::Nth { from, to, nth } => (from, to, ordinal(nth.into())),
            Item::LastOf { from, to } => (from, to, "last".to_owned()),
            _ => continue,
        };
        for day in from..=to {
            days.push(format!("the {which} {} of the month", DAYS[usize::from(day) % 7]));
        }
    }
    days
}

/// What the plain numbers and ranges among items stand for.
fn values(items: &[Item]) -> u64 {
    let mut set = 0;
    for item in items {
        if let Item::Range { from, to, step } = *item {
            for value in (from..=to).step_by(step.into()) {
                set |= 1 << value;
            }
        }
    }
    set
}

fn months(set: u64) -> Option<String> {
    const ALL: u64 = 0b1_1111_1111_1110;
    (set != ALL).then(|| format!("in {}", list(&names(set, &MONTHS), "and")))
}

/// `Monday through Friday`, and what stands alone by its name.
fn names(set: u64, names: &[&str]) -> Vec<String> {
    let name = |number: u32| names.get(number as usize).copied().unwrap_or_default();
    runs(set)
        .into_iter()
        .flat_map(|(from, to)| match to - from {
            0 => vec![name(from).to_owned()],
            1 => vec![name(from).to_owned(), name(to).to_owned()],
            _ => vec![format!("{} through {}", name(from), name(to))],
        })
        .collect()
}

/// `minute 5`, `minutes 0, 15 and 20 to 25`.
fn numbered(unit: &str, set: u64) -> String {
    let numbers: Vec<String> = runs(set)
        .into_iter()
        .flat_map(|(from, to)| match to - from {
            0 => vec![from.to_string()],
            1 => vec![from.to_string(), to.to_string()],
            _ => vec![format!("{from} to {to}")],
        })
        .collect();
    let plural = if set.count_ones() == 1 { "" } else { "s" };
    format!("{unit}{plural} {}", list(&numbers, "and"))
}

/// The members of a set as runs without gaps, from and to.
fn runs(set: u64) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in members(set) {
        match runs.last_mut() {
            Some((_, to)) if *to + 1 == number => *to = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

fn list(items: &[String], word: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} {word} {last}", all.join(", ")),
    }
}

fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

//! The six fields of a cron expression: what may stand in each, and what it is called when it may not.
//!
//! Each part of a field becomes an [`Item`], so that errors and words can name it, and is then written in the one
//! spelling that croner reads. What the items match is croner's to say.

use std::fmt;

use croner::parser::{CronParser, Seconds, Year};

use super::error::{CronError, Field, short};
use super::expression::Texts;

/// Six fields, the second first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) second: Part,
    pub(super) minute: Part,
    pub(super) hour: Part,
    pub(super) day_of_month: Part,
    pub(super) month: Part,
    pub(super) day_of_week: Part,
    /// The day of the week began with `+`: a day must suit both fields, whatever they are.
    pub(super) both_days: bool,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) field: Field,
    // Invariant: not empty, and every number in it is one that the field can have.
    pub(super) items: Vec<Item>,
    /// It begins with `*`, or is `?`. Of an hour: the schedule follows real time. Of a day: it does not widen the other one.
    pub(super) starred: bool,
}

/// What stands between two commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// `*` or `*/step`.
    All { step: u8 },
    /// `from-to/step`; a single number is a range of one.
    Range { from: u8, to: u8, step: u8 },
    /// `L` of a day of month: the last day.
    LastDay,
    /// `LW`: the last day from Monday to Friday.
    LastWorkday,
    /// `15W`: the day from Monday to Friday that is nearest, within the month.
    NearestWorkday { day: u8 },
    /// `MON#2` or `MON-FRI#2`: the second one of the month.
    Nth { from: u8, to: u8, nth: u8 },
    /// `5L` or `FRI#L`: the last one of the month.
    LastOf { from: u8, to: u8 },
}

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Field {
    const fn min(self) -> u8 {
        match self {
            Self::DayOfMonth | Self::Month => 1,
            _ => 0,
        }
    }

    /// The largest number that is not another name for a smaller one.
    pub(super) const fn max(self) -> u8 {
        match self {
            Self::Second | Self::Minute => 59,
            Self::Hour => 23,
            Self::DayOfMonth => 31,
            Self::Month => 12,
            Self::DayOfWeek => 6,
        }
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &DAYS,
            _ => &[],
        }
    }

    /// What may stand in the field, for errors.
    const fn expected(self) -> &'static str {
        match self {
            Self::Second | Self::Minute => "expected numbers from 0 to 59, such as 0, */5, 10-20 or 0,30",
            Self::Hour => "expected numbers from 0 to 23, such as 4, */2, 9-17 or 0,12",
            Self::DayOfMonth => "expected numbers from 1 to 31, such as 1, */2 or 1,15, or L, LW or 15W",
            Self::Month => "expected numbers from 1 to 12 or JAN to DEC, such as 1, */3 or JAN,JUL",
            Self::DayOfWeek => {
                "expected numbers from 0 to 7 or SUN to SAT, such as 1-5, SAT,SUN, FRI#2 or 5L"
            }
        }
    }
}

impl Fields {
    pub(super) fn parse(texts: &Texts<'_>) -> Result<Self, CronError> {
        let [second, minute, hour, day_of_month, month, day_of_week] = texts.texts;
        let (both_days, bare) = match day_of_week.strip_prefix('+') {
            Some(bare) => (true, bare),
            None => (false, day_of_week),
        };
        let part = |field, text: &str| {
            Part::parse(field, text).map_err(|wrong| CronError::Field {
                field,
                value: short(if wrong.part.is_empty() { text } else { wrong.part }),
                expected: wrong.expected,
                five: texts.five,
            })
        };
        Ok(Self {
            second: part(Field::Second, second)?,
            minute: part(Field::Minute, minute)?,
            hour: part(Field::Hour, hour)?,
            day_of_month: part(Field::DayOfMonth, day_of_month)?,
            month: part(Field::Month, month)?,
            day_of_week: part(Field::DayOfWeek, bare)?,
            both_days,
        })
    }

    /// Whether a day has to suit both day fields. As in crontab(5), where one begins with `*` it has to; otherwise one
    /// that suits is enough.
    pub(super) fn needs_both_days(&self) -> bool {
        self.both_days || self.day_of_month.starred || self.day_of_week.starred
    }
}

/// The one spelling: six fields with numbers for names.
impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { second, minute, hour, day_of_month, month, day_of_week, both_days } = self;
        let plus = if *both_days { "+" } else { "" };
        write!(f, "{second} {minute} {hour} {day_of_month} {month} {plus}{day_of_week}")
    }
}

/// A part that means nothing, and what could stand there.
struct Wrong<'a> {
    /// Empty: the whole field.
    part: &'a str,
    expected: String,
}

impl Part {
    fn parse(field: Field, text: &str) -> Result<Self, Wrong<'_>> {
        let starred = text.starts_with('*') || text == "?";
        if text == "?" && matches!(field, Field::DayOfMonth | Field::DayOfWeek) {
            return Ok(Self { field, items: vec![Item::All { step: 1 }], starred });
        }
        let mut items = Vec::new();
        for part in text.split(',') {
            let item = Item::parse(field, part).map_err(|expected| Wrong { part, expected })?;
            items.push(item);
        }
        if starred && items.contains(&Item::All { step: 1 }) {
            // Whatever else is in the list is in it twice.
            items = vec![Item::All { step: 1 }];
        }
        Ok(Self { field, items, starred })
    }

    /// A field of these items alone, as croner reads it.
    fn spelled(&self, items: impl Iterator<Item = Item>) -> String {
        let spelled: Vec<String> = items.map(|item| item.spelled(self)).collect();
        spelled.join(",")
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled(self.items.iter().copied()))
    }
}

impl Item {
    /// Reads a part of a field; the error says what could stand there.
    fn parse(field: Field, part: &str) -> Result<Self, String> {
        let expected = || field.expected().to_owned();
        let upper = part.to_ascii_uppercase();
        let text = upper.as_str();
        match field {
            Field::DayOfMonth => match text {
                "L" => return Ok(Self::LastDay),
                "LW" | "WL" => return Ok(Self::LastWorkday),
                _ => {
                    if let Some(day) = text.strip_suffix('W') {
                        let day = value(field, day).ok_or_else(expected)?;
                        return Ok(Self::NearestWorkday { day });
                    }
                }
            },
            Field::DayOfWeek => {
                if text == "L" {
                    return Err(
                        "expected a day before L, such as 5L for the last Friday of the month".to_owned()
                    );
                }
                if let Some((days, nth)) = text.split_once('#') {
                    let (from, to) = range(field, days)?;
                    if nth == "L" {
                        return Ok(Self::LastOf { from, to });
                    }
                    let nth = number(nth).filter(|nth| (1..=5).contains(nth));
                    let nth =
                        nth.ok_or("expected a number from 1 to 5 or L behind #, such as FRI#2 or FRI#L")?;
                    return Ok(Self::Nth { from, to, nth });
                }
                if let Some(days) = text.strip_suffix('L') {
                    let (from, to) = range(field, days)?;
                    return Ok(Self::LastOf { from, to });
                }
            }
            _ => {}
        }
        let (values, step) = match text.split_once('/') {
            None => (text, 1),
            Some((values, step)) => (values, parse_step(field, step)?),
        };
        if values == "*" {
            return Ok(Self::All { step });
        }
        let (from, to) = range(field, values)?;
        // `N/step` runs on to the end of the field.
        let runs_on = values.len() < text.len() && !values.contains('-');
        Ok(Self::Range { from, to: if runs_on { field.max().max(from) } else { to }, step })
    }

    fn spelled(self, part: &Part) -> String {
        let (min, max) = (part.field.min(), part.field.max());
        match self {
            Self::All { step: 1 } if part.items.len() == 1 => "*".to_owned(),
            Self::All { step: 1 } => span(min, max),
            Self::All { step } => format!("*/{step}"),
            Self::Range { from, to, step: 1 } => span(from, to),
            Self::Range { from, to, step } => format!("{from}-{to}/{step}"),
            Self::LastDay => "L".to_owned(),
            Self::LastWorkday => "LW".to_owned(),
            Self::NearestWorkday { day } => format!("{day}W"),
            Self::Nth { from, to, nth } => format!("{}#{nth}", span(from, to)),
            Self::LastOf { from, to } => format!("{}#L", span(from, to)),
        }
    }
}

fn span(from: u8, to: u8) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

/// `5` or `5-7`.
fn range(field: Field, text: &str) -> Result<(u8, u8), String> {
    let expected = || field.expected().to_owned();
    let Some((from, to)) = text.split_once('-') else {
        let value = value(field, text).ok_or_else(expected)?;
        // Sunday has two numbers.
        let value = if value > field.max() { field.min() } else { value };
        return Ok((value, value));
    };
    let from = value(field, from).ok_or_else(expected)?;
    let to = value(field, to).ok_or_else(expected)?;
    let (from, to) = match field {
        // A week may begin and end with Sunday.
        Field::DayOfWeek if from == 7 && to < 7 => (0, to),
        Field::DayOfWeek if from > 0 && to == 0 => (from, 7),
        _ => (from, to),
    };
    if from > to {
        let (min, max) = (field.min(), field.max());
        let (late, early) = (span(from, max), span(min, to));
        return Err(format!("the range runs backwards, write {late},{early} if that was meant"));
    }
    Ok((from, to))
}

fn parse_step(field: Field, text: &str) -> Result<u8, String> {
    let longest = field.max() - field.min() + 1;
    number(text).filter(|step| (1..=longest).contains(step)).ok_or_else(|| {
        let every = match field {
            Field::Second | Field::Minute | Field::Hour => {
                ", or @every with a time such as 90m for longer ones"
            }
            _ => "",
        };
        format!("expected a step from 1 to {longest} behind /{every}")
    })
}

/// A number or a name, as it stands.
fn value(field: Field, text: &str) -> Option<u8> {
    let named = field.names().iter().zip(field.min()..).find(|(name, _)| **name == text);
    let largest = if field == Field::DayOfWeek { 7 } else { field.max() };
    match named {
        Some((_, value)) => Some(value),
        None => number(text).filter(|value| (field.min()..=largest).contains(value)),
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// What the fields match, as sets: bit n stands for the value n.
pub(super) struct Matches {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u64,
    pub(super) months: u64,
    days: Vec<croner::Cron>,
    weekdays: croner::Cron,
}

impl Matches {
    pub(super) fn of(fields: &Fields) -> Result<Self, CronError> {
        let days = &fields.day_of_month;
        // In one list with `LW` croner forgets a plain `L`, so that one is asked for by itself.
        let is_last = |item: &Item| *item == Item::LastDay;
        let last = days.items.iter().copied().filter(is_last);
        let others = days.items.iter().copied().filter(|item| !is_last(item));
        let lists = [days.spelled(last), days.spelled(others)];
        let days = lists.iter().filter(|list| !list.is_empty());
        let days = days.map(|list| croner(&format!("0 0 0 {list} * *"))).collect::<Result<_, _>>()?;
        let weekdays = croner(&format!("0 0 0 * * {}", fields.day_of_week))?;
        let Fields { second, minute, hour, month, .. } = fields;
        let rest = croner(&format!("{second} {minute} {hour} * {month} *"))?.pattern;
        let set =
            |component: &croner::CronComponent| component.values().iter().fold(0, |set, n| set | 1 << n);
        Ok(Self {
            seconds: set(&rest.seconds),
            minutes: set(&rest.minutes),
            hours: set(&rest.hours),
            months: set(&rest.months),
            days,
            weekdays,
        })
    }

    /// Whether a day suits the day of month, and whether it suits the day of week.
    pub(super) fn day(&self, year: i32, month: u32, day: u32, weekday: croner::Weekday) -> (bool, bool) {
        let suits = |cron: &croner::Cron| cron.pattern.day_match(year, month, day, weekday).unwrap_or(false);
        (self.days.iter().any(suits), suits(&self.weekdays))
    }
}

/// Has croner read fields in our spelling.
fn croner(pattern: &str) -> Result<croner::Cron, CronError> {
    let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build();
    // Whatever is spelled from items is understood; a test goes through all forms.
    parser
        .parse(pattern)
        .map_err(|error| CronError::NotEvaluated { value: short(pattern), why: error.to_string() })
}

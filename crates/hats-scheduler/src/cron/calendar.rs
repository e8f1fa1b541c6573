//! Which local times a schedule names. Knows no zone: a local time is a number of seconds that a clock without zone counts
//! from the beginning of 1970.
//!
//! Whether a day matches depends on three things only, its number, how long its month is and on which weekday that began.
//! There are 28 kinds of months, so all answers fit into a small table, and a search steps from month to month.

use jiff::SignedDuration;
use jiff::civil::Date;

use super::error::{CronError, short};
use super::fields::{Fields, Matches};
use super::instant::UnixSeconds;
use super::zone::OFFSET_MAX;

const DAY: i64 = 86_400;

/// The local times that match. All sets are bits: bit n stands for the value n.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u64,
    pub(super) months: u64,
    /// The days of a month of each kind, see [`kind`].
    days: [u32; KINDS],
    /// Whether the hour field begins with `*`.
    pub(super) follows_real_time: bool,
}

const KINDS: usize = 4 * 7;

/// The kind of a month: its length, and the weekday of its first day, from Sunday = 0.
fn kind(length: u32, first_weekday: u32) -> usize {
    // Both are small, a length is 28 to 31.
    (length.saturating_sub(28) * 7 + first_weekday % 7) as usize % KINDS
}

impl Calendar {
    pub(super) fn of(fields: &Fields) -> Result<Self, CronError> {
        let matches = Matches::of(fields)?;
        let needs_both = fields.needs_both_days();
        let mut days = [0; KINDS];
        // Croner needs a month of the right length, and takes the weekday we give it.
        for (length, year, month) in [(28, 2001, 2), (29, 2000, 2), (30, 2001, 4), (31, 2001, 1)] {
            for first_weekday in 0..7 {
                days[kind(length, first_weekday)] = (1..=length)
                    .filter(|day| {
                        let weekday = WEEKDAYS[(first_weekday + day - 1) as usize % 7];
                        let (by_month, by_week) = matches.day(year, month, *day, weekday);
                        if needs_both { by_month && by_week } else { by_month || by_week }
                    })
                    .fold(0, |set, day| set | 1 << day);
            }
        }
        let Matches { seconds, minutes, hours, months, .. } = matches;
        let follows_real_time = fields.hour.starred;
        let calendar = Self { seconds, minutes, hours, months, days, follows_real_time };
        if !calendar.ever_matches() {
            let why = format!(
                "no month of {} has a day {} that is also a day of week {}",
                fields.month, fields.day_of_month, fields.day_of_week
            );
            return Err(CronError::NeverFires { value: short(&fields.to_string()), why });
        }
        Ok(calendar)
    }

    /// Each length a month can have occurs with each first weekday, within 400 years at the latest.
    fn ever_matches(&self) -> bool {
        let has_day = |length| (0..7).any(|weekday| self.days[kind(length, weekday)] != 0);
        members(self.months).any(|month| match month {
            2 => has_day(28) || has_day(29),
            4 | 6 | 9 | 11 => has_day(30),
            _ => has_day(31),
        })
    }

    /// The first matching local time that is not before `from`.
    pub(super) fn next(&self, from: i64) -> Option<i64> {
        let (day, time) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        let mut month = Month::of(day)?;
        if self.matches_day(&month, day)
            && let Some(time) = self.next_time(time)
        {
            return Some(day * DAY + time);
        }
        let mut days = above(self.days_of(&month).into(), month.day_number(day));
        while days == 0 {
            month = month.next()?;
            days = self.days_of(&month).into();
        }
        let day = month.first + i64::from(days.trailing_zeros()) - 1;
        Some(day * DAY + self.next_time(0)?)
    }

    /// The last matching local time that is not after `from`.
    pub(super) fn newest(&self, from: i64) -> Option<i64> {
        let (day, time) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        let mut month = Month::of(day)?;
        if self.matches_day(&month, day)
            && let Some(time) = self.newest_time(time)
        {
            return Some(day * DAY + time);
        }
        let mut days = below(self.days_of(&month).into(), month.day_number(day));
        while days == 0 {
            month = month.previous()?;
            days = self.days_of(&month).into();
        }
        let day = month.first + i64::from(days.ilog2()) - 1;
        Some(day * DAY + self.newest_time(DAY - 1)?)
    }

    /// How many local times match that are not before `from` and before `to`.
    pub(super) fn count(&self, from: i64, to: i64) -> u64 {
        if to <= from {
            return 0;
        }
        let up_to = |local: i64| self.times_before(local.rem_euclid(DAY));
        let (first, last) = (from.div_euclid(DAY), to.div_euclid(DAY));
        let Some(mut month) = Month::of(first) else { return 0 };
        let matches = |month: &Month, day| u64::from(self.matches_day(month, day));
        // Whole days from the first one up to the last one, that one left out; then what is too much and too little.
        let mut days: u64 = 0;
        let before_first = matches(&month, first) * up_to(from);
        let mut day = first;
        let in_last = loop {
            let set = starting(self.days_of(&month).into(), month.day_number(day));
            let end = month.first + i64::from(month.length);
            if last < end {
                days += u64::from(below(set, month.day_number(last)).count_ones());
                break matches(&month, last) * up_to(to);
            }
            days += u64::from(set.count_ones());
            day = end;
            match month.next() {
                Some(next) => month = next,
                None => break 0,
            }
        };
        (days * self.times_before(DAY) + in_last).saturating_sub(before_first)
    }

    fn days_of(&self, month: &Month) -> u32 {
        match self.months >> month.number & 1 {
            0 => 0,
            _ => self.days[kind(month.length, month.first_weekday)],
        }
    }

    fn matches_day(&self, month: &Month, day: i64) -> bool {
        self.days_of(month) >> month.day_number(day) & 1 == 1
    }

    /// The first matching time of a day that is not before `time`.
    fn next_time(&self, time: i64) -> Option<i64> {
        let (hour, minute, second) = parts(time);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = first(starting(self.seconds, second))
            {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = first(above(self.minutes, minute)) {
                return Some(hour * 3600 + minute * 60 + first(self.seconds)?);
            }
        }
        Some(first(above(self.hours, hour))? * 3600 + first(self.minutes)? * 60 + first(self.seconds)?)
    }

    /// The last matching time of a day that is not after `time`.
    fn newest_time(&self, time: i64) -> Option<i64> {
        let (hour, minute, second) = parts(time);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = last(below(self.seconds, second + 1))
            {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = last(below(self.minutes, minute)) {
                return Some(hour * 3600 + minute * 60 + last(self.seconds)?);
            }
        }
        Some(last(below(self.hours, hour))? * 3600 + last(self.minutes)? * 60 + last(self.seconds)?)
    }

    /// How many times of a day match that are before `time`, which may be its end.
    fn times_before(&self, time: i64) -> u64 {
        let (hour, minute, second) = parts(time);
        let size = |set: u64| u64::from(set.count_ones());
        let mut times = size(below(self.hours, hour)) * size(self.minutes) * size(self.seconds);
        if self.hours >> hour & 1 == 1 {
            times += size(below(self.minutes, minute)) * size(self.seconds);
            if self.minutes >> minute & 1 == 1 {
                times += size(below(self.seconds, second));
            }
        }
        times
    }
}

/// A month of a year. Days are counted from the beginning of 1970.
#[derive(Clone, Copy)]
struct Month {
    year: i16,
    number: i8,
    first: i64,
    length: u32,
    first_weekday: u32,
}

impl Month {
    /// The month of a day; none beyond the calendar.
    fn of(day: i64) -> Option<Self> {
        if !(UnixSeconds::EARLIEST - OFFSET_MAX..=UnixSeconds::LATEST + OFFSET_MAX).contains(&(day * DAY)) {
            return None;
        }
        let date = Date::constant(1970, 1, 1).checked_add(SignedDuration::from_secs(day * DAY)).ok()?;
        let first = date.first_of_month();
        Some(Self {
            year: date.year(),
            number: date.month(),
            first: day - i64::from(date.day()) + 1,
            length: date.days_in_month().unsigned_abs().into(),
            first_weekday: first.weekday().to_sunday_zero_offset().unsigned_abs().into(),
        })
    }

    fn next(&self) -> Option<Self> {
        let (year, number) =
            if self.number == 12 { (self.year + 1, 1) } else { (self.year, self.number + 1) };
        let first_weekday = (self.first_weekday + self.length) % 7;
        Some(Self { first: self.first + i64::from(self.length), first_weekday, ..Self::bare(year, number)? })
    }

    fn previous(&self) -> Option<Self> {
        let (year, number) =
            if self.number == 1 { (self.year - 1, 12) } else { (self.year, self.number - 1) };
        if year < 0 {
            return None;
        }
        let month = Self::bare(year, number)?;
        let first_weekday = (self.first_weekday + 35 - month.length) % 7;
        Some(Self { first: self.first - i64::from(month.length), first_weekday, ..month })
    }

    /// With its length, but nowhere yet.
    fn bare(year: i16, number: i8) -> Option<Self> {
        let length = Date::new(year, number, 1).ok()?.days_in_month().unsigned_abs().into();
        Some(Self { year, number, first: 0, length, first_weekday: 0 })
    }

    /// The number of a day within the month, from 1.
    fn day_number(&self, day: i64) -> i64 {
        day - self.first + 1
    }
}

const WEEKDAYS: [croner::Weekday; 7] = {
    use croner::Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
    [Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday]
};

/// Hour, minute and second of a time of day; the end of a day is 24:00:00.
fn parts(time: i64) -> (i64, i64, i64) {
    (time / 3600, time / 60 % 60, time % 60)
}

/// The members of a set, rising.
pub(super) fn members(set: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |bit| set >> bit & 1 == 1)
}

/// The members that are not below `limit`, which is 0 to 63.
fn starting(set: u64, limit: i64) -> u64 {
    set >> limit << limit
}

fn above(set: u64, limit: i64) -> u64 {
    starting(set, limit + 1)
}

fn below(set: u64, limit: i64) -> u64 {
    set ^ starting(set, limit)
}

fn first(set: u64) -> Option<i64> {
    (set != 0).then(|| set.trailing_zeros().into())
}

fn last(set: u64) -> Option<i64> {
    set.checked_ilog2().map(i64::from)
}

//! When a job is due: from the text of `Cron` and `TZ` to instants. Pure: nobody here looks at a clock.
//!
//! ```text
//!  "30 4 * * 1-5", "Europe/Berlin"
//!        │ expression, fields        what is written, checked field by field
//!        ▼
//!     Calendar                       which local times match; knows no zone
//!        │ rule ◄──────── Zone       which instants those are; knows no cron
//!        ▼
//!     Schedule                       next, newest, ticks, count
//! ```
//!
//! What must hold:
//!
//! - Every worker computes the same instants. Zones come from the data built into the program, never from the
//!   machine's, and nothing depends on the time of the question: the ticks of a schedule are one fixed, rising sequence
//!   (of `@every` one per anchor), and each answer is a part of it.
//! - Where clocks change, one rule decides (see `rule`): a schedule whose hour field starts with `*` follows real time, any
//!   other names local times.
//! - No text makes it panic, and no schedule makes it slow: it steps over months and changes of a zone's offset, never
//!   over seconds.
//!
//! croner evaluates the fields and knows which days `L`, `W` and `#` mean. What it does not do or does otherwise is done
//! here: naming the field that is wrong, `N/step`, `@midnight`, `@every`, `CRON_TZ=`, schedules that never fire, days in
//! the manner of crontab(5), and the rule for changes of the clock.

mod calendar;
mod error;
mod every;
mod expression;
mod fields;
mod instant;
mod rule;
#[cfg(test)]
mod tests;
mod words;
mod zone;

use std::fmt;
use std::iter::FusedIterator;

pub use self::error::{CronError, Field};
pub use self::instant::{InstantError, UnixSeconds};

use self::calendar::Calendar;
use self::every::Every;
use self::expression::Expression;
use self::fields::Fields;
use self::zone::Zone;

/// What `Cron` and `TZ` of a job say. A tick is an instant of it, always a whole second of UTC.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
    zone: Zone,
    digest: String,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Boxed, since it is by far the larger one.
    Cron(Box<Cron>),
    Every(Every),
}

#[derive(Clone, Debug)]
struct Cron {
    fields: Fields,
    calendar: Calendar,
    /// What a worker of 2020 would have read.
    in_2020: Option<Box<Fields>>,
    /// Whether the zone stands in front, where 2020 knew it as well.
    zone_in_front: bool,
}

impl Schedule {
    /// Reads `Cron`, and `TZ` if there is one. An empty `TZ` counts as absent; without a zone it is UTC. A zone at the
    /// beginning of `Cron` (`CRON_TZ=` or `TZ=`) does as well, but not a different one in both places.
    ///
    /// # Errors
    ///
    /// Names the field, what stands in it, and what could stand there. A schedule that never fires is an error.
    pub fn parse(cron: &str, tz: Option<&str>) -> Result<Self, CronError> {
        let expression = Expression::split(cron)?;
        let zone = Zone::choose(expression.zone, tz)?;
        let fields = match expression.what {
            expression::What::Every(duration) => {
                let every = Every::parse(duration)?;
                // An interval knows no zone, so the zone makes no difference.
                let digest = every.to_string();
                return Ok(Self { kind: Kind::Every(every), zone, digest });
            }
            expression::What::Fields(ref texts) => Fields::parse(texts)?,
        };
        let calendar = Calendar::of(&fields)?;
        let digest = format!("{fields} {zone}");
        let in_2020 = match expression.what {
            expression::What::Fields(ref texts) => texts.as_in_2020().map(Box::new),
            expression::What::Every(_) => None,
        };
        let cron = Cron { fields, calendar, in_2020, zone_in_front: expression.zone.is_some() };
        Ok(Self { kind: Kind::Cron(Box::new(cron)), zone, digest })
    }

    /// The same, with the grid of an `@every` laid so that its first tick is one interval after `anchor`: a job's first
    /// sight, or its last tick. Without an anchor the grid begins in 1970. Any other schedule stays as it is.
    #[must_use]
    pub fn anchored(mut self, anchor: UnixSeconds) -> Self {
        if let Kind::Every(every) = &mut self.kind {
            every.anchor(anchor.get());
        }
        self
    }

    /// Whether it is an `@every`, for which [`anchored`](Self::anchored) matters.
    #[must_use]
    pub fn is_interval(&self) -> bool {
        matches!(self.kind, Kind::Every(_))
    }

    /// The first tick after `after`. None only at the end of the calendar, in the year 9999.
    #[must_use]
    pub fn next_after(&self, after: UnixSeconds) -> Option<UnixSeconds> {
        let after = after.get();
        let next = match &self.kind {
            Kind::Cron(cron) => rule::next_after(&cron.calendar, &self.zone, after),
            Kind::Every(every) => every.next_after(after),
        };
        next.map(UnixSeconds::new)
    }

    /// The newest tick that is not after `at`. None where there is none: before the first one of an `@every`, or at the
    /// beginning of the calendar, in the year 1.
    #[must_use]
    pub fn newest_by(&self, at: UnixSeconds) -> Option<UnixSeconds> {
        let at = at.get();
        let newest = match &self.kind {
            Kind::Cron(cron) => rule::newest_by(&cron.calendar, &self.zone, at),
            Kind::Every(every) => every.newest_by(at),
        };
        newest.map(UnixSeconds::new)
    }

    /// The ticks after `after` up to and with `through`, in both directions. They are computed one by one as they are
    /// asked for, so `take` and `rev` cost no more than what they return.
    #[must_use]
    pub fn ticks(&self, after: UnixSeconds, through: UnixSeconds) -> Ticks<'_> {
        Ticks { schedule: self, after, through }
    }

    /// How many ticks lie after `after` and not after `through`. Exact, and computed without visiting them: the time it
    /// takes grows with the months in between, not with the ticks.
    #[must_use]
    pub fn count(&self, after: UnixSeconds, through: UnixSeconds) -> u64 {
        let (after, through) = (after.get(), through.get());
        if through <= after {
            return 0;
        }
        match &self.kind {
            Kind::Cron(cron) => rule::count(&cron.calendar, &self.zone, after, through),
            Kind::Every(every) => every.count(after, through),
        }
    }

    /// A text that is the same for two schedules only if their ticks are: the fields in one spelling and the zone's
    /// name, or the interval. It does not depend on the anchor.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The IANA name of the zone, as the data spells it.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.zone.name()
    }

    /// What it says, as a sentence without a full stop: `at 04:30 on Monday through Friday, Europe/Berlin time`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Cron(cron) => {
                format!("{}, {} time", words::sentence(&cron.fields, &cron.calendar), self.zone)
            }
            Kind::Every(every) => every.describe(),
        }
    }

    /// For five fields: what a worker of 2020 took them for (`second minute hour day-of-month month`, in its own local
    /// time), and how to keep that. None where it could not have read them.
    #[must_use]
    pub fn note_for_2020(&self) -> Option<String> {
        let Kind::Cron(cron) = &self.kind else { return None };
        let old = cron.in_2020.as_ref()?;
        let sentence = words::sentence(old, &Calendar::of(old).ok()?);
        let (where_it_was, where_to_say) =
            if cron.zone_in_front { ("", "") } else { (", in their own local time", " and set TZ") };
        Some(format!(
            "workers of 2020 read these five fields as second, minute, hour, day of month and month{where_it_was}: \
             {sentence}; to keep that, write the six fields `{old}`{where_to_say}"
        ))
    }

    /// An instant as the schedule's zone shows it, in the form of RFC 3339.
    #[must_use]
    pub fn local_time(&self, at: UnixSeconds) -> String {
        let offset = if self.is_interval() { 0 } else { self.zone.offset(at.get()) };
        at.with_offset(offset)
    }
}

/// As it is written in one spelling: [`Schedule::digest`].
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digest)
    }
}

/// The ticks in a range, see [`Schedule::ticks`].
#[derive(Clone, Debug)]
pub struct Ticks<'a> {
    schedule: &'a Schedule,
    // Invariant: what is left lies after `after` and not after `through`.
    after: UnixSeconds,
    through: UnixSeconds,
}

impl Iterator for Ticks<'_> {
    type Item = UnixSeconds;

    fn next(&mut self) -> Option<UnixSeconds> {
        let tick = self.schedule.next_after(self.after).filter(|tick| *tick <= self.through);
        self.after = tick.unwrap_or(self.through);
        tick
    }
}

impl DoubleEndedIterator for Ticks<'_> {
    fn next_back(&mut self) -> Option<UnixSeconds> {
        let tick = self.schedule.newest_by(self.through).filter(|tick| *tick > self.after);
        self.through = tick.map_or(self.after, |tick| UnixSeconds::new(tick.get() - 1));
        tick
    }
}

impl FusedIterator for Ticks<'_> {}

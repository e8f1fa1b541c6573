//! Properties over schedules, zones and instants that nobody chose.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Zones with every kind of change.
const ZONES: [&str; 16] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "America/Caracas",
    "America/St_Johns",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kwajalein",
];

/// A field as text, and what it stands for, found without the code under test.
#[derive(Clone, Debug)]
struct Given {
    text: String,
    values: BTreeSet<u32>,
}

/// A number, range, step or list of a field.
fn numbers(min: u32, max: u32) -> impl Strategy<Value = Given> {
    let single = (min..=max).prop_map(|n| Given { text: n.to_string(), values: [n].into() });
    let span = (min..=max, min..=max, 1..=4_u32).prop_map(|(a, b, step)| {
        let (from, to) = (a.min(b), a.max(b));
        let slash = if step == 1 { String::new() } else { format!("/{step}") };
        Given { text: format!("{from}-{to}{slash}"), values: (from..=to).step_by(step as usize).collect() }
    });
    let running = (min..=max, 1..=(max - min)).prop_map(move |(from, step)| Given {
        text: format!("{from}/{step}"),
        values: (from..=max).step_by(step as usize).collect(),
    });
    let starred = (1..=(max - min)).prop_map(move |step| Given {
        text: if step == 1 { "*".to_owned() } else { format!("*/{step}") },
        values: (min..=max).step_by(step as usize).collect(),
    });
    let one = prop_oneof![4 => single, 2 => span, 1 => running, 4 => starred];
    vec(one, 1..=3).prop_map(|items| Given {
        text: items.iter().map(|item| item.text.as_str()).collect::<Vec<_>>().join(","),
        values: items.into_iter().flat_map(|item| item.values).collect(),
    })
}

/// A day, by its own definition.
#[derive(Clone, Debug)]
enum Day {
    Numbers(Given),
    Last,
    LastWorkday,
    Nearest(u32),
    Nth(u32, u32),
    LastOf(u32),
}

impl Day {
    fn text(&self) -> String {
        match self {
            Self::Numbers(given) => given.text.clone(),
            Self::Last => "L".to_owned(),
            Self::LastWorkday => "LW".to_owned(),
            Self::Nearest(day) => format!("{day}W"),
            Self::Nth(day, nth) => format!("{day}#{nth}"),
            Self::LastOf(day) => format!("{day}L"),
        }
    }

    fn of_month(&self, date: Date) -> bool {
        let day = date.day() as u32;
        let length = date.days_in_month();
        let workday = |day: i8| {
            let date = Date::new(date.year(), date.month(), day).unwrap();
            (1..=5).contains(&date.weekday().to_monday_one_offset())
        };
        match self {
            Self::Numbers(given) => given.values.contains(&day),
            Self::Last => date.day() == length,
            Self::LastWorkday => workday(date.day()) && !(date.day() + 1..=length).any(workday),
            Self::Nearest(wanted) => {
                let wanted = *wanted as i8;
                // The nearest one that is a day from Monday to Friday of this month; there are no ties.
                let nearest = (1..=length).filter(|day| workday(*day)).min_by_key(|day| (day - wanted).abs());
                wanted <= length && nearest == Some(date.day())
            }
            _ => false,
        }
    }

    fn of_week(&self, date: Date) -> bool {
        let weekday = date.weekday().to_sunday_zero_offset() as u32;
        match self {
            Self::Numbers(given) => given.values.contains(&weekday),
            Self::Nth(day, nth) => *day == weekday && (date.day() as u32).div_ceil(7) == *nth,
            Self::LastOf(day) => *day == weekday && date.day() + 7 > date.days_in_month(),
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Example {
    second: Given,
    minute: Given,
    hour: Given,
    days: Vec<Day>,
    month: Given,
    weekdays: Vec<Day>,
    both: bool,
}

impl fmt::Debug for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Example {
    fn text(&self) -> String {
        let list = |days: &[Day]| days.iter().map(Day::text).collect::<Vec<_>>().join(",");
        format!(
            "{} {} {} {} {} {}{}",
            self.second.text,
            self.minute.text,
            self.hour.text,
            list(&self.days),
            self.month.text,
            if self.both { "+" } else { "" },
            list(&self.weekdays)
        )
    }

    fn shows(&self, local: DateTime) -> bool {
        let has = |given: &Given, value: i8| given.values.contains(&(value as u32));
        let starred = |days: &[Day]| days[0].text().starts_with('*');
        let date = local.date();
        let by_month = self.days.iter().any(|day| day.of_month(date));
        let by_week = self.weekdays.iter().any(|day| day.of_week(date));
        let day = if self.both || starred(&self.days) || starred(&self.weekdays) {
            by_month && by_week
        } else {
            by_month || by_week
        };
        day && has(&self.second, local.second())
            && has(&self.minute, local.minute())
            && has(&self.hour, local.hour())
            && has(&self.month, local.month())
    }

    fn follows_real_time(&self) -> bool {
        self.hour.text.starts_with('*')
    }
}

fn any_numbers(min: u32, max: u32) -> impl Strategy<Value = Given> {
    let all = Given { text: "*".to_owned(), values: (min..=max).collect() };
    prop_oneof![1 => Just(all), 1 => numbers(min, max)]
}

fn examples() -> impl Strategy<Value = Example> {
    let zero = Given { text: "0".to_owned(), values: [0].into() };
    let second = prop_oneof![3 => Just(zero), 1 => numbers(0, 59)];
    let day = prop_oneof![
        6 => any_numbers(1, 31).prop_map(Day::Numbers),
        1 => Just(Day::Last),
        1 => Just(Day::LastWorkday),
        1 => (1..=31_u32).prop_map(Day::Nearest),
    ];
    let weekday = prop_oneof![
        6 => any_numbers(0, 6).prop_map(Day::Numbers),
        1 => (0..=6_u32, 1..=5_u32).prop_map(|(day, nth)| Day::Nth(day, nth)),
        1 => (0..=6_u32).prop_map(Day::LastOf),
    ];
    let days = (vec(day, 1..=2), any_numbers(1, 12), vec(weekday, 1..=2));
    // Hours near where clocks change are the interesting ones.
    let early = vec(0..=4_u32, 1..=2).prop_map(|hours| Given {
        text: hours.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        values: hours.into_iter().collect(),
    });
    let hour = prop_oneof![2 => any_numbers(0, 23), 1 => early];
    (second, any_numbers(0, 59), hour, days, prop::bool::weighted(0.1)).prop_map(
        |(second, minute, hour, (days, month, weekdays), both)| Example {
            second,
            minute,
            hour,
            days,
            month,
            weekdays,
            both,
        },
    )
}

fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap()
}

/// An instant, half of the time close to a change of the zone.
fn instants(zone_name: &'static str) -> impl Strategy<Value = i64> {
    // 1971 to 2045: offsets are whole minutes then.
    (31_536_000..2_366_841_600_i64, -90_000..90_000_i64, any::<bool>()).prop_map(move |(at, near, close)| {
        let zone = zone(zone_name);
        let change = zone.following(Timestamp::from_second(at).unwrap()).next();
        match change {
            Some(change) if close && change.timestamp().as_second() < 2_400_000_000 => {
                change.timestamp().as_second() + near
            }
            _ => at,
        }
    })
}

fn cases() -> impl Strategy<Value = (Example, &'static str, i64)> {
    (examples(), select(&ZONES[..]))
        .prop_flat_map(|(example, zone)| (Just(example), Just(zone), instants(zone)))
}

/// The ticks after one instant and not after another, found by looking at each second, or each minute where that does.
fn looked_up(example: &Example, zone: &TimeZone, after: i64, through: i64) -> Vec<i64> {
    let unit = if example.second.text == "0" { 60 } else { 1 };
    let local = |at: i64| zone.to_datetime(Timestamp::from_second(at).unwrap());
    let mut ticks = BTreeSet::new();
    if example.follows_real_time() {
        let first = after.div_euclid(unit) * unit + unit;
        ticks.extend((first..=through).step_by(unit as usize).filter(|at| example.shows(local(*at))));
    } else {
        // Go through local times, those of a day left out too.
        let margin = 26 * 3600;
        let utc = |local: i64| TimeZone::UTC.to_datetime(Timestamp::from_second(local).unwrap());
        let first = (after - margin).div_euclid(unit) * unit;
        for local in (first..=through + margin).step_by(unit as usize) {
            let shown = utc(local);
            if !example.shows(shown) {
                continue;
            }
            let at = match zone.to_ambiguous_timestamp(shown).offset() {
                AmbiguousOffset::Unambiguous { offset } => local - i64::from(offset.seconds()),
                AmbiguousOffset::Fold { before, .. } => local - i64::from(before.seconds()),
                AmbiguousOffset::Gap { before, .. } => {
                    // With the old offset it lies after the leap, which is the change before that.
                    let beyond = Timestamp::from_second(local - i64::from(before.seconds()) + 1).unwrap();
                    zone.preceding(beyond).next().unwrap().timestamp().as_second()
                }
            };
            ticks.insert(at);
        }
        ticks.retain(|at| (after + 1..=through).contains(at));
    }
    ticks.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_are_those_that_are_found_by_looking((example, zone_name, middle) in cases()) {
        let Ok(schedule) = Schedule::parse(&example.text(), Some(zone_name)) else { return Ok(()) };
        let reach = if example.second.text == "0" { 100_000 } else { 5_000 };
        let (after, through) = (middle - reach, middle + reach);
        let expected = looked_up(&example, &zone(zone_name), after, through);
        let ticks = schedule.ticks(UnixSeconds::new(after), UnixSeconds::new(through));
        let found: Vec<_> = ticks.clone().map(UnixSeconds::get).collect();
        prop_assert_eq!(&found, &expected, "{} {}", example.text(), zone_name);
        let mut back: Vec<_> = ticks.rev().map(UnixSeconds::get).collect();
        back.reverse();
        prop_assert_eq!(&back, &expected, "backwards: {} {}", example.text(), zone_name);
        let count = schedule.count(UnixSeconds::new(after), UnixSeconds::new(through));
        prop_assert_eq!(count, expected.len() as u64, "count: {} {}", example.text(), zone_name);
    }

    #[test]
    fn one_sequence_whatever_is_asked((example, zone_name, start) in cases(), far in 0..4_000_000_000_i64, split in 0.0..1.0) {
        let Ok(schedule) = Schedule::parse(&example.text(), Some(zone_name)) else { return Ok(()) };
        let after = UnixSeconds::new(start);
        let mut last = after;
        for (number, tick) in schedule.ticks(after, UnixSeconds::new(i64::MAX)).take(50).enumerate() {
            prop_assert!(tick > last);
            prop_assert_eq!(schedule.newest_by(tick), Some(tick));
            prop_assert_eq!(schedule.next_after(UnixSeconds::new(tick.get() - 1)), Some(tick));
            prop_assert_eq!(schedule.count(after, tick), number as u64 + 1);
            if last != after {
                prop_assert_eq!(schedule.newest_by(UnixSeconds::new(tick.get() - 1)), Some(last));
            }
            last = tick;
        }
        // Counting needs no visits, and adds up.
        let end = UnixSeconds::new(start + far);
        let middle = UnixSeconds::new(start + (far as f64 * split) as i64);
        prop_assert_eq!(
            schedule.count(after, middle) + schedule.count(middle, end),
            schedule.count(after, end)
        );
        prop_assert_eq!(schedule.count(end, after), 0);
        if let Some(newest) = schedule.newest_by(end).filter(|newest| *newest > after) {
            prop_assert_eq!(schedule.count(newest, end), 0);
            prop_assert_eq!(schedule.ticks(after, end).next_back(), Some(newest));
        }
    }

    #[test]
    fn one_spelling_means_the_same((example, zone_name, start) in cases()) {
        let Ok(schedule) = Schedule::parse(&example.text(), Some(zone_name)) else { return Ok(()) };
        let (fields, zone) = schedule.digest().rsplit_once(' ').unwrap();
        let again = Schedule::parse(fields, Some(zone)).unwrap();
        prop_assert_eq!(again.digest(), schedule.digest());
        let ticks = |schedule: &Schedule| -> Vec<_> {
            schedule.ticks(UnixSeconds::new(start), UnixSeconds::new(i64::MAX)).take(20).collect()
        };
        prop_assert_eq!(ticks(&again), ticks(&schedule));
        prop_assert!(!schedule.describe().contains("  "), "{}", schedule.describe());
    }

    #[test]
    fn a_grid_has_what_lies_on_it(seconds in 1..100_000_i64, anchor in 0..4_000_000_000_i64, at in 0..4_000_000_000_i64, far in 0..1_000_000_i64) {
        let every = schedule(&format!("@every {seconds}s"), "").anchored(UnixSeconds::new(anchor));
        let next = every.next_after(UnixSeconds::new(at)).unwrap().get();
        prop_assert!(next > at && (next - anchor) % seconds == 0 && next > anchor);
        prop_assert!(next - seconds <= at.max(anchor));
        let newest = every.newest_by(UnixSeconds::new(at)).map(UnixSeconds::get);
        prop_assert_eq!(newest, Some(next - seconds).filter(|newest| *newest > anchor));
        let count = every.count(UnixSeconds::new(at), UnixSeconds::new(at + far));
        let expected = (at + 1..=at + far).filter(|at| *at > anchor && (at - anchor) % seconds == 0).count();
        prop_assert_eq!(count, expected as u64);
    }

    #[test]
    fn no_text_makes_it_panic(cron in ".{0,60}", tz in proptest::option::of(".{0,20}"), at in any::<i64>()) {
        ask_everything(&cron, tz.as_deref(), at);
    }

    #[test]
    fn no_text_of_its_letters_makes_it_panic(cron in "(TZ=UTC |CRON_TZ=Asia/Tokyo |@every )?([-0-9*/,?LW#+a-zA-Z.]{1,6}[ \t]?){1,8}", at in any::<i64>()) {
        ask_everything(&cron, None, at);
    }
}

fn ask_everything(cron: &str, tz: Option<&str>, at: i64) {
    match Schedule::parse(cron, tz) {
        Err(error) => assert!(error.to_string().starts_with("field "), "{error}"),
        Ok(schedule) => {
            let at = UnixSeconds::new(at);
            let zero = UnixSeconds::new(0);
            let schedule = schedule.anchored(at);
            let _ = (schedule.next_after(at), schedule.newest_by(at), schedule.local_time(at));
            let _ = (schedule.next_after(zero), schedule.newest_by(zero), schedule.count(zero, at));
            let _ = (schedule.describe(), schedule.note_for_2020(), format!("{schedule:?}"));
        }
    }
}

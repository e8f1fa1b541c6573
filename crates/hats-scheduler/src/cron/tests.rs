//! What schedules promise, by tables that were checked by hand and by properties. `tests/cron_oracle.rs` compares with
//! others' implementations.

mod changes;
mod elsewhere;
mod properties;
mod reading;
mod words;

use super::*;

pub(super) fn schedule(cron: &str, tz: &str) -> Schedule {
    Schedule::parse(cron, Some(tz)).unwrap_or_else(|error| panic!("{cron}: {error}"))
}

pub(super) fn at(text: &str) -> UnixSeconds {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The ticks after an instant, as the zone shows them.
pub(super) fn ticks_after(cron: &str, tz: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = schedule(cron, tz);
    let ticks: Vec<_> = schedule.ticks(at(after), UnixSeconds::new(i64::MAX)).take(count).collect();
    // Whatever is asked, the answers are about one sequence.
    if let Some(last) = ticks.last() {
        let mut back: Vec<_> = schedule.ticks(at(after), *last).rev().collect();
        back.reverse();
        assert_eq!(back, ticks, "{cron} {tz}: backwards");
        assert_eq!(schedule.count(at(after), *last), ticks.len() as u64, "{cron} {tz}: count");
    }
    ticks.into_iter().map(|tick| schedule.local_time(tick)).collect()
}

/// Compares the ticks after an instant with a table.
#[track_caller]
pub(super) fn check(cron: &str, tz: &str, after: &str, expected: &[&str]) {
    assert_eq!(ticks_after(cron, tz, after, expected.len()), expected, "{cron} {tz}");
}

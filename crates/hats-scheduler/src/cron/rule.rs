//! From local times to instants: what happens where clocks change.
//!
//! *Real time*, for an hour field that begins with `*`: every instant at which the local clock shows a matching time. A
//! repeated hour has its ticks twice, a skipped one has none.
//!
//! *Local times*, for all others: each matching local time is due at the first instant at which the local clock has
//! reached it, that is, shows it or a later one. So a repeated time is due once, the first time, and all that a clock
//! leaps over are due together at the first instant after the leap, and are one tick; one that is due there anyway is
//! the same tick.
//!
//! Both need only where the offset of the zone changes, whatever the reason: summer time of an hour or half of one, a new
//! standard time, a day left out at the date line.

use super::calendar::Calendar;
use super::instant::UnixSeconds;
use super::zone::{OFFSET_MAX, Zone};

/// The first tick after an instant.
pub(super) fn next_after(calendar: &Calendar, zone: &Zone, after: i64) -> Option<i64> {
    let after = after.max(UnixSeconds::EARLIEST - 1);
    if after >= UnixSeconds::LATEST {
        return None;
    }
    let next = if calendar.follows_real_time {
        next_shown(calendar, zone, after + 1)?
    } else {
        let local = calendar.next(reached(zone, after) + 1)?;
        first_reaching(zone, local, after + 1)
    };
    (next <= UnixSeconds::LATEST).then_some(next)
}

/// The newest tick that is not after an instant.
pub(super) fn newest_by(calendar: &Calendar, zone: &Zone, at: i64) -> Option<i64> {
    let at = at.min(UnixSeconds::LATEST);
    if at < UnixSeconds::EARLIEST {
        return None;
    }
    let newest = if calendar.follows_real_time {
        newest_shown(calendar, zone, at)?
    } else {
        first_reaching(zone, calendar.newest(reached(zone, at))?, i64::MIN)
    };
    (newest >= UnixSeconds::EARLIEST).then_some(newest)
}

/// How many ticks lie after one instant and not after another.
pub(super) fn count(calendar: &Calendar, zone: &Zone, after: i64, through: i64) -> u64 {
    let after = after.max(UnixSeconds::EARLIEST - 1);
    let through = through.min(UnixSeconds::LATEST);
    if through <= after {
        return 0;
    }
    let changes = changes(zone, after, through);
    if calendar.follows_real_time {
        let mut count = 0;
        let mut start = after + 1;
        for end in changes.chain([through + 1]) {
            let offset = zone.offset(start);
            count += calendar.count(start + offset, end + offset);
            start = end;
        }
        count
    } else {
        let mut count = calendar.count(reached(zone, after) + 1, reached(zone, through) + 1);
        for change in changes {
            // What the clock leaps over and what it shows then are one tick.
            let together = calendar.count(reached(zone, change - 1) + 1, change + zone.offset(change) + 1);
            count -= together.saturating_sub(1);
        }
        count
    }
}

/// The first instant from `start` on at which the local clock shows a matching time.
fn next_shown(calendar: &Calendar, zone: &Zone, mut start: i64) -> Option<i64> {
    let mut from = start + zone.offset(start);
    let mut local = calendar.next(from)?;
    // Invariant: `local` matches, and nothing from `from` on does that is before it.
    loop {
        let offset = zone.offset(start);
        let shown = start + offset;
        if !(from..=local).contains(&shown) {
            (from, local) = (shown, calendar.next(shown)?);
        }
        let due = local - offset;
        match zone.next_change(start) {
            Some(change) if change <= due => start = change,
            _ => return Some(due),
        }
        if start - OFFSET_MAX >= from {
            // Far from `from`, and long before `local` no clock can show it: what is in between need not be looked at.
            start = start.max(local - OFFSET_MAX);
        }
    }
}

/// The last instant up to `end` at which the local clock shows a matching time.
fn newest_shown(calendar: &Calendar, zone: &Zone, mut end: i64) -> Option<i64> {
    let mut from = end + zone.offset(end);
    let mut local = calendar.newest(from)?;
    // Invariant: `local` matches, and nothing up to `from` does that is after it.
    loop {
        let offset = zone.offset(end);
        let shown = end + offset;
        if !(local..=from).contains(&shown) {
            (from, local) = (shown, calendar.newest(shown)?);
        }
        let due = local - offset;
        match zone.last_change(end) {
            Some(change) if change > due => end = change - 1,
            _ => return Some(due),
        }
        if end + OFFSET_MAX <= from {
            end = end.min(local + OFFSET_MAX);
        }
    }
}

/// The latest time that the local clock has shown, up to and with an instant.
fn reached(zone: &Zone, at: i64) -> i64 {
    let mut reached = at + zone.offset(at);
    let mut before = at;
    while let Some(change) = zone.last_change(before).filter(|change| *change > at - 2 * OFFSET_MAX) {
        before = change - 1;
        reached = reached.max(before + zone.offset(before));
    }
    reached
}

/// The first instant at which the local clock has reached a time. The caller knows that it is not before `not_before`.
fn first_reaching(zone: &Zone, local: i64, not_before: i64) -> i64 {
    let mut start = not_before.max(local - OFFSET_MAX);
    loop {
        let due = (local - zone.offset(start)).max(start);
        match zone.next_change(start) {
            Some(change) if change <= due => start = change,
            _ => return due,
        }
    }
}

/// The changes of a zone after one instant and not after another.
fn changes(zone: &Zone, after: i64, through: i64) -> impl Iterator<Item = i64> + '_ {
    let within = move |change: &i64| *change <= through;
    std::iter::successors(zone.next_change(after).filter(within), move |change| {
        zone.next_change(*change).filter(within)
    })
}

//! What can be told about a schedule without a cluster: what it says and when it is due.

use hats_cluster::clock::unix_nanos;
use hats_scheduler::cron::{Schedule, UnixSeconds};

use crate::Error;

/// What `Cron` and `TZ` of a job would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The schedule as a sentence.
    pub sentence: String,
    /// The IANA name of its zone; none for an `@every`, which knows no zone.
    pub zone: Option<String>,
    /// What a worker of 2020 would have read instead.
    pub note: Option<String>,
    /// The next runs, the first one first.
    pub runs: Vec<Run>,
}

/// One run that is to come, in the form of RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// In UTC.
    pub utc: String,
    /// As the schedule's zone shows it.
    pub local: String,
}

/// The next `count` runs of a schedule, counted from a time in the form of RFC 3339, or from now. An `@every` begins its
/// grid there.
///
/// # Errors
///
/// [`Error::Config`] for a schedule, zone or time that cannot be used.
pub fn preview(cron: &str, tz: Option<&str>, from: Option<&str>, count: usize) -> Result<Preview, Error> {
    let schedule = Schedule::parse(cron, tz).map_err(|error| Error::Config(error.to_string()))?;
    let from = match from {
        Some(text) => text.parse().map_err(|error| Error::Config(format!("from: {error}")))?,
        None => now(),
    };
    let schedule = schedule.anchored(from);
    let ticks = schedule.ticks(from, UnixSeconds::new(i64::MAX)).take(count);
    let runs = ticks.map(|tick| Run { utc: tick.to_string(), local: schedule.local_time(tick) }).collect();
    Ok(Preview {
        sentence: schedule.describe(),
        zone: (!schedule.is_interval()).then(|| schedule.zone().to_owned()),
        note: schedule.note_for_2020(),
        runs,
    })
}

pub(super) fn now() -> UnixSeconds {
    UnixSeconds::new(i64::try_from(unix_nanos() / 1_000_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_shown_in_both_times() {
        let preview =
            preview("30 2 * * *", Some("Europe/Berlin"), Some("2026-03-28T12:00:00+01:00"), 2).unwrap();
        let run = |utc: &str, local: &str| Run { utc: utc.to_owned(), local: local.to_owned() };
        let expected = [
            run("2026-03-29T01:00:00Z", "2026-03-29T03:00:00+02:00"),
            run("2026-03-30T00:30:00Z", "2026-03-30T02:30:00+02:00"),
        ];
        assert_eq!(preview.runs, expected);
        assert_eq!(preview.zone.as_deref(), Some("Europe/Berlin"));
        assert!(preview.note.is_some());
    }

    #[test]
    fn a_grid_begins_where_it_is_asked_from() {
        let preview = preview("@every 90s", None, Some("2026-01-01T00:00:07Z"), 1).unwrap();
        assert_eq!(preview.runs[0].utc, "2026-01-01T00:01:37Z");
        assert_eq!((preview.zone, preview.note), (None, None));
    }

    #[test]
    fn without_a_time_it_is_now() {
        let runs = preview("* * * * * *", None, None, 1).unwrap().runs;
        let next: UnixSeconds = runs[0].utc.parse().unwrap();
        assert!(next <= UnixSeconds::new(now().get() + 1));
    }

    #[test]
    fn what_cannot_be_used_is_a_configuration_error() {
        for (cron, from, expected) in
            [("* * *", None, "field Cron"), ("* * * * *", Some("soon"), "from: expected a time such as")]
        {
            match preview(cron, None, from, 1) {
                Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

//! Time zones, from the data built into the program: all workers of one version agree on them, whatever is installed on
//! their machines.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::error::{CronError, short};
use super::instant::UnixSeconds;

/// No clock is further from UTC, in seconds: what jiff admits.
pub(super) const OFFSET_MAX: i64 = 26 * 3600;

/// Names in the data that are no place.
const NOT_ZONES: [&str; 2] = ["Etc/Unknown", "Factory"];

/// A time zone.
#[derive(Clone)]
pub(super) struct Zone {
    zone: TimeZone,
    name: Arc<str>,
}

impl Zone {
    /// The zone of a job: what stands in front of `Cron`, or in `TZ`, or UTC.
    pub(super) fn choose(cron: Option<&str>, tz: Option<&str>) -> Result<Self, CronError> {
        let tz = tz.map(str::trim).filter(|tz| !tz.is_empty()).map(|tz| Self::named("TZ", tz)).transpose()?;
        let cron = cron.map(|cron| Self::named("Cron", cron)).transpose()?;
        match (cron, tz) {
            (Some(cron), Some(tz)) if cron.name != tz.name => {
                Err(CronError::TwoZones { tz: tz.name.to_string(), cron: cron.name.to_string() })
            }
            (Some(zone), _) | (None, Some(zone)) => Ok(zone),
            (None, None) => Ok(Self { zone: TimeZone::UTC, name: "UTC".into() }),
        }
    }

    fn named(field: &'static str, name: &str) -> Result<Self, CronError> {
        let data = TimeZoneDatabase::bundled();
        let known = !NOT_ZONES.iter().any(|other| other.eq_ignore_ascii_case(name));
        match data.get(name) {
            Ok(zone) if known => {
                let name = zone.iana_name().unwrap_or(name).into();
                Ok(Self { zone, name })
            }
            _ => Err(CronError::Zone { field, value: short(name), hint: hint(&data, name) }),
        }
    }

    /// As the data spells it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How far local time is ahead of UTC at an instant, in seconds.
    pub(super) fn offset(&self, at: i64) -> i64 {
        self.zone.to_offset(timestamp(at)).seconds().into()
    }

    /// The first instant after `at` at which local time may stop counting on from where it was.
    pub(super) fn next_change(&self, at: i64) -> Option<i64> {
        self.zone.following(timestamp(at)).next().map(|change| change.timestamp().as_second())
    }

    /// The last such instant that is not after `at`.
    pub(super) fn last_change(&self, at: i64) -> Option<i64> {
        self.zone
            .preceding(timestamp(at.saturating_add(1)))
            .next()
            .map(|change| change.timestamp().as_second())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}

/// Instants beyond the calendar are brought back to its ends.
fn timestamp(at: i64) -> Timestamp {
    let end = if at < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(at.min(UnixSeconds::LATEST)).unwrap_or(end)
}

/// What may have been meant by a name that is not known.
fn hint(data: &TimeZoneDatabase, name: &str) -> String {
    if name.eq_ignore_ascii_case("local") || name.eq_ignore_ascii_case("localtime") {
        return "; workers may differ in their own local time".to_owned();
    }
    if name.starts_with(['+', '-']) || name.contains([':', ';']) {
        return "; a zone of a fixed offset is Etc/GMT-2 for two hours ahead of UTC".to_owned();
    }
    const ALIKE: f64 = 0.88;
    let wanted = name.to_ascii_lowercase().replace([' ', '-'], "_");
    let likeness = |known: &str| {
        let known = known.to_ascii_lowercase();
        let city = known.rsplit('/').next().unwrap_or(&known);
        strsim::jaro_winkler(&known, &wanted).max(strsim::jaro_winkler(city, &wanted))
    };
    let nearest = data
        .available()
        .map(|known| (likeness(known.as_str()), known))
        .filter(|(likeness, known)| *likeness > ALIKE && !NOT_ZONES.contains(&known.as_str()))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map_or_else(String::new, |(_, known)| format!("; the nearest one is {known}"))
}

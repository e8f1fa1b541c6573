//! What a job's definition says beside its source.

use hats_cluster::records::{JobDefinition, JobFields, Limits, SourceDigest};
use hats_scheduler::cron::Schedule;

use super::header;
use crate::Error;
use crate::admin::Field;

/// What a job's definition says beside its source. What is absent stays as it is, but for the zone, which is a part of
/// the schedule: with `cron` given, an absent `tz` is UTC. An empty text is the default of that field. The texts are those
/// of the fields in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// Registers it disabled, or disables it.
    pub disabled: bool,
    /// `Cron`.
    pub cron: Option<String>,
    /// `TZ`.
    pub tz: Option<String>,
    /// `Overlap`: `forbid`, `buffer`, `allow` or `replace`.
    pub overlap: Option<String>,
    /// `Misfire`: `once`, `skip` or `all`.
    pub misfire: Option<String>,
    /// `MisfireSeconds`.
    pub misfire_seconds: Option<String>,
    /// `Jitter`.
    pub jitter: Option<String>,
    /// `Timeout`.
    pub timeout: Option<String>,
    /// `Retries`.
    pub retries: Option<String>,
    /// `MemoryLimit`.
    pub memory_limit: Option<String>,
    /// `StackLimit`.
    pub stack_limit: Option<String>,
    /// `CallTimeout`.
    pub call_timeout: Option<String>,
    /// `SourceLimit`.
    pub source_limit: Option<String>,
    /// `HttpBodyLimit`.
    pub http_body_limit: Option<String>,
    /// `LogLineLimit`.
    pub log_line_limit: Option<String>,
}

/// The fields by their names in Redis.
const FIELDS: [&str; 14] = [
    "Cron",
    "TZ",
    "Overlap",
    "Misfire",
    "MisfireSeconds",
    "Jitter",
    "Timeout",
    "Retries",
    "MemoryLimit",
    "StackLimit",
    "CallTimeout",
    "SourceLimit",
    "HttpBodyLimit",
    "LogLineLimit",
];

impl JobOptions {
    /// What the comment says that a script begins with:
    ///
    /// ```js
    /// // cron: 30 4 * * 1-5
    /// // tz: Europe/Berlin
    /// ```
    ///
    /// The names are those of the fields in Redis in any case, also with dashes. `shown` is the file, for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with the line of a field that is there twice, or that nobody knows and stands right below one.
    pub fn of_script(text: &str, shown: &str) -> Result<Self, Error> {
        header::read(text, shown).map_err(Error::Config)
    }

    /// These, and for what is absent those.
    #[must_use]
    pub fn or(mut self, mut others: Self) -> Self {
        self.disabled |= others.disabled;
        for (own, other) in self.slots().into_iter().zip(others.slots()) {
            if own.is_none() {
                *own = other.take();
            }
        }
        self
    }

    /// The fields to write, each known to mean something to a worker, and the limits among them.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the field.
    pub(crate) fn checked_fields(&self) -> Result<(Vec<Field>, Limits), Error> {
        let status = self.disabled.then(|| "disabled".to_owned());
        let fields = JobFields {
            status: status.as_deref(),
            // Without one it is that of a job which is there already.
            cron: self.cron.as_deref().or(Some("@hourly")),
            tz: self.tz.as_deref(),
            overlap: self.overlap.as_deref(),
            misfire: self.misfire.as_deref(),
            misfire_seconds: self.misfire_seconds.as_deref(),
            jitter: self.jitter.as_deref(),
            timeout: self.timeout.as_deref(),
            retries: self.retries.as_deref(),
            memory_limit: self.memory_limit.as_deref(),
            stack_limit: self.stack_limit.as_deref(),
            call_timeout: self.call_timeout.as_deref(),
            source_limit: self.source_limit.as_deref(),
            http_body_limit: self.http_body_limit.as_deref(),
            log_line_limit: self.log_line_limit.as_deref(),
            run_at: None,
        };
        let refuse = |error: String| Error::Config(error);
        let definition = JobDefinition::parse("".into(), SourceDigest::of(""), &fields)
            .map_err(|error| refuse(error.to_string()))?;
        Schedule::parse(&definition.cron, definition.tz.as_deref())
            .map_err(|error| refuse(error.to_string()))?;
        if self.cron.is_none() && self.tz.is_some() {
            return Err(refuse("field TZ: it is given, but Cron, which it belongs to, is not".to_owned()));
        }
        let mut all = self.clone();
        if all.cron.is_some() {
            all.tz.get_or_insert_default();
        }
        let status = status.map(|status| ("Status", status));
        let given = FIELDS.into_iter().zip(all.slots());
        let given = given.filter_map(|(field, value)| Some((field, value.take()?.trim().to_owned())));
        Ok((status.into_iter().chain(given).collect(), definition.limits))
    }

    /// A field by its name: in any case, with or without dashes or underscores.
    pub(crate) fn field_mut(&mut self, name: &str) -> Option<&mut Option<String>> {
        let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect();
        let at = FIELDS.iter().position(|field| field.eq_ignore_ascii_case(&plain))?;
        self.slots().into_iter().nth(at)
    }

    /// In the order of [`FIELDS`].
    fn slots(&mut self) -> [&mut Option<String>; 14] {
        [
            &mut self.cron,
            &mut self.tz,
            &mut self.overlap,
            &mut self.misfire,
            &mut self.misfire_seconds,
            &mut self.jitter,
            &mut self.timeout,
            &mut self.retries,
            &mut self.memory_limit,
            &mut self.stack_limit,
            &mut self.call_timeout,
            &mut self.source_limit,
            &mut self.http_body_limit,
            &mut self.log_line_limit,
        ]
    }
}

/// The field that was most likely meant.
pub(crate) fn nearest_field(name: &str) -> &'static str {
    let likeness =
        |field: &&str| strsim::jaro_winkler(&name.to_ascii_lowercase(), &field.to_ascii_lowercase());
    let known = FIELDS.into_iter();
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default()
}

/// What a job is told that has no schedule.
pub(crate) fn no_schedule(job: &str) -> String {
    format!(
        "{}: field Cron is missing: give a schedule, or begin the file with one, such as `// cron: */5 * * * *`",
        job.escape_debug()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fields: &[(&str, &str)]) -> JobOptions {
        let mut options = JobOptions::default();
        for (field, value) in fields {
            *options.field_mut(field).unwrap() = Some((*value).to_owned());
        }
        options
    }

    #[test]
    fn a_field_has_one_name_in_many_spellings() {
        let names = ["misfire-seconds", "MisfireSeconds", "MISFIRE_SECONDS"];
        let expected = options(&[("MisfireSeconds", "7")]);
        assert_eq!(expected.misfire_seconds.as_deref(), Some("7"));
        for name in names {
            assert_eq!(options(&[(name, "7")]), expected);
        }
        assert!(JobOptions::default().field_mut("misfires").is_none());
        assert_eq!(nearest_field("overlaps"), "Overlap");
    }

    #[test]
    fn the_zone_is_a_part_of_the_schedule() {
        let fields = |given: &[(&str, &str)]| options(given).checked_fields().unwrap().0;
        let written = |pairs: &[(&'static str, &str)]| -> Vec<_> {
            pairs.iter().map(|(field, value)| (*field, (*value).to_owned())).collect()
        };
        assert_eq!(fields(&[("cron", " @daily ")]), written(&[("Cron", "@daily"), ("TZ", "")]));
        assert_eq!(
            fields(&[("cron", "@daily"), ("tz", "Asia/Tokyo"), ("retries", "2")]),
            written(&[("Cron", "@daily"), ("TZ", "Asia/Tokyo"), ("Retries", "2")])
        );
        assert_eq!(fields(&[("overlap", "")]), written(&[("Overlap", "")]));
        assert!(fields(&[]).is_empty());
        let disabled = JobOptions { disabled: true, ..JobOptions::default() };
        assert_eq!(disabled.checked_fields().unwrap().0, written(&[("Status", "disabled")]));
    }

    #[test]
    fn what_no_worker_would_understand_is_refused_by_its_field() {
        for (given, parts) in [
            (&[("cron", "61 * * * *")] as &[_], ["Cron", "61"]),
            (&[("cron", "")], ["Cron", "schedule"]),
            (&[("cron", "@daily"), ("tz", "Europe/Atlantis")], ["TZ", "Europe/Atlantis"]),
            (&[("cron", "TZ=UTC @daily"), ("tz", "Europe/Berlin")], ["TZ", "Europe/Berlin"]),
            (&[("tz", "Europe/Berlin")], ["TZ", "Cron"]),
            (&[("overlap", "maybe")], ["Overlap", "maybe"]),
            (&[("misfire", "twice")], ["Misfire", "twice"]),
            (&[("misfire-seconds", "soon")], ["MisfireSeconds", "soon"]),
            (&[("jitter", "-1")], ["Jitter", "-1"]),
            (&[("timeout", "0")], ["Timeout", "0"]),
            (&[("retries", "1000")], ["Retries", "1000"]),
            (&[("memory-limit", "much")], ["MemoryLimit", "much"]),
            (&[("call-timeout", "0")], ["CallTimeout", "0"]),
        ] {
            match options(given).checked_fields() {
                Err(Error::Config(error)) => {
                    assert!(parts.iter().all(|part| error.contains(part)), "{given:?}: {error}");
                }
                other => panic!("{given:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_given_first_wins() {
        let given = options(&[("cron", "@daily"), ("retries", "2")]);
        let both = given.or(options(&[("cron", "@hourly"), ("tz", "Asia/Tokyo")]));
        assert_eq!(both, options(&[("cron", "@daily"), ("retries", "2"), ("tz", "Asia/Tokyo")]));
    }
}

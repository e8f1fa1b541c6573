//! Jobs: what people write about one, and what Redis keeps of its ticks.

use std::sync::Arc;
use std::time::Duration;

use super::{FieldError, Limits, Mirror, Modules, SourceDigest, parse_field, parse_status};
use crate::id::{Nonce, SessionId};

/// `MisfireSeconds` of a definition that has none.
const LOOK_BACK_DEFAULT: Duration = Duration::from_secs(3600);
/// `Timeout` of a definition that has none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);
const SECONDS_MAX: u64 = 30 * 24 * 3600;
const RETRIES_MAX: u32 = 100;

/// What happens to a tick while a run of the job has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It is skipped.
    #[default]
    Forbid,
    /// One waits for the run's end, further ones are skipped.
    Buffer,
    /// It runs beside it.
    Allow,
    /// The run is asked to end, and it follows.
    Replace,
}

/// What happens to ticks that nobody asked for in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Misfire {
    /// The newest of them runs.
    #[default]
    Once,
    /// None of them runs.
    Skip,
    /// All of them run, the oldest first, a hundred at most.
    All,
}

/// What people wrote about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDefinition {
    /// The script.
    pub source: Arc<str>,
    /// The files that it imports.
    pub modules: Modules,
    /// The digest of both.
    pub digest: SourceDigest,
    /// False when `Status` says `disabled`.
    pub enabled: bool,
    /// The schedule, not read yet.
    pub cron: Arc<str>,
    /// Its zone, not read yet.
    pub tz: Option<Arc<str>>,
    /// What happens while a run has not ended.
    pub overlap: Overlap,
    /// What happens to late ticks.
    pub misfire: Misfire,
    /// `MisfireSeconds`: older ticks are not made up for.
    pub misfire_look_back: Duration,
    /// Each tick is delayed by up to this.
    pub jitter: Duration,
    /// How long one run may take.
    pub timeout: Duration,
    /// How often a failed run is tried again.
    pub retries: u32,
    /// Limits of its own.
    pub limits: Limits,
    /// `RunAt`, any text: an operator asks for a run by changing it.
    pub run_at: Option<Arc<str>>,
}

/// One reading of a job's definition. What is malformed in it is beside what can be used even then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRead {
    /// The digest of the source and its modules (of the empty text, where there is none).
    pub digest: SourceDigest,
    /// False only when `Status` says `disabled`.
    pub enabled: bool,
    /// The mirrored fields.
    pub mirror: Mirror,
    /// The definition, or the field that is malformed.
    pub definition: Result<JobDefinition, FieldError>,
}

/// The fields of a job's definition that people write, as text, as they stand there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFields<'a> {
    /// `Status`.
    pub status: Option<&'a str>,
    /// `Cron`.
    pub cron: Option<&'a str>,
    /// `TZ`.
    pub tz: Option<&'a str>,
    /// `Overlap`.
    pub overlap: Option<&'a str>,
    /// `Misfire`.
    pub misfire: Option<&'a str>,
    /// `MisfireSeconds`.
    pub misfire_seconds: Option<&'a str>,
    /// `Jitter`.
    pub jitter: Option<&'a str>,
    /// `Timeout`.
    pub timeout: Option<&'a str>,
    /// `Retries`.
    pub retries: Option<&'a str>,
    /// `MemoryLimit`.
    pub memory_limit: Option<&'a str>,
    /// `StackLimit`.
    pub stack_limit: Option<&'a str>,
    /// `CallTimeout`.
    pub call_timeout: Option<&'a str>,
    /// `SourceLimit`.
    pub source_limit: Option<&'a str>,
    /// `HttpBodyLimit`.
    pub http_body_limit: Option<&'a str>,
    /// `LogLineLimit`.
    pub log_line_limit: Option<&'a str>,
    /// `RunAt`.
    pub run_at: Option<&'a str>,
}

/// What Redis keeps of the ticks of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TicksRecord {
    /// The definition by which they are counted; none: it was never seen.
    pub def: Option<String>,
    /// The last tick that was decided, or since when they are counted, in milliseconds since 1970.
    pub last_ms: Option<i64>,
    /// Where the grid of an `@every` begins.
    pub anchor_ms: Option<i64>,
    /// The runs that have not ended.
    pub runs: Vec<RunRecord>,
    /// Runs that failed and are due again.
    pub retries: Vec<RetryRecord>,
    /// A tick that waits for the end of a run.
    pub pending_ms: Option<i64>,
    /// The last [`JobDefinition::run_at`] that was granted.
    pub manual: Option<String>,
    /// The fence of the last run that was granted; 0: there was none.
    pub epoch: u64,
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The tick, or when it was asked for by hand.
    pub tick_ms: i64,
    /// Names the run.
    pub nonce: Nonce,
    /// Under which it runs.
    pub session: SessionId,
    /// The fence.
    pub epoch: u64,
    /// From 1.
    pub attempt: u32,
    /// When it was granted.
    pub started_ms: i64,
    /// Asked for by an operator, not by the schedule.
    pub manual: bool,
    /// The next tick replaces it: it is to end.
    pub cancelled: bool,
    /// It was granted under `Overlap=allow`: others may run beside it.
    pub beside: bool,
    /// The name of its worker.
    pub worker: String,
}

/// A run that failed and is due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRecord {
    /// The tick.
    pub tick_ms: i64,
    /// The attempt that is to come.
    pub attempt: u32,
    /// When.
    pub at_ms: i64,
    /// Others may run beside it: it need not wait for their end.
    pub beside: bool,
}

/// What became of a tick, or how a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TickOutcome {
    /// Its run came to its end.
    Ran,
    /// Its run, the last try of it, did not.
    Failed,
    /// There was a reason not to run it.
    Skipped,
    /// Nobody asked for it in time.
    Missed,
}

/// One line of the ledger: a tick, or several in a row that were missed together.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LedgerEntry {
    /// The first tick that it is about, in milliseconds since 1970.
    pub tick_ms: i64,
    /// How many ticks it is about.
    pub ticks: u64,
    /// What became of them.
    pub outcome: TickOutcome,
    /// The attempt that decided; 0: there was none.
    pub attempt: u32,
    /// How long after its time it began, in milliseconds.
    pub late_ms: u64,
    /// How long it ran, in milliseconds.
    pub took_ms: u64,
    /// When this was decided, in milliseconds since 1970.
    pub at_ms: i64,
    /// By whom it ran.
    pub worker: String,
    /// Why it failed, was skipped or missed.
    pub why: String,
}

/// A run that has ended, as the history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HistoryEntry {
    /// The tick, or when it was asked for by hand, in milliseconds since 1970.
    pub tick_ms: i64,
    /// Asked for by an operator, not by the schedule.
    pub manual: bool,
    /// From 1.
    pub attempt: u32,
    /// The fence.
    pub epoch: u64,
    /// When it was granted, in milliseconds since 1970, by Redis' clock.
    pub started_ms: i64,
    /// When its end was told, by the same clock.
    pub ended_ms: i64,
    /// How it ended.
    pub outcome: TickOutcome,
    /// It failed and was to be tried again after so many milliseconds.
    pub again_ms: Option<u64>,
    /// How long after its time it began, in milliseconds.
    pub late_ms: u64,
    /// How long it ran, in milliseconds; 0 where nobody knows.
    pub took_ms: u64,
    /// By whom it ran.
    pub worker: String,
    /// Why it failed.
    pub why: String,
    /// What its script gave back, as text.
    pub result: Option<String>,
    /// The last lines that it logged, the newest last.
    pub log: Vec<String>,
}

/// What Redis has written down about the ticks of a job, for people. The newest come first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TicksBook {
    /// Since when ticks are counted, in milliseconds since 1970; none: never.
    pub since_ms: Option<i64>,
    /// What is going on.
    pub record: TicksRecord,
    /// The counts.
    pub counts: TickCounts,
    /// The ledger: the last thousand lines or so, of thirty days at most.
    pub ledger: Vec<LedgerEntry>,
    /// The last runs: a hundred, fewer where they have said much.
    pub history: Vec<HistoryEntry>,
}

/// Counts of a job's ticks. Always: elapsed = ran + failed + skipped + missed + pending + running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct TickCounts {
    /// Ticks that were decided, one way or another.
    pub elapsed: u64,
    /// See [`TickOutcome`].
    pub ran: u64,
    /// See [`TickOutcome`].
    pub failed: u64,
    /// See [`TickOutcome`].
    pub skipped: u64,
    /// See [`TickOutcome`].
    pub missed: u64,
    /// Those that wait for another run's end or are due again.
    pub pending: u64,
    /// Those that run now.
    pub running: u64,
}

impl TickCounts {
    /// Whether every elapsed tick is accounted for.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.elapsed == self.ran + self.failed + self.skipped + self.missed + self.pending + self.running
    }
}

impl TickOutcome {
    /// The word in Redis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Ran, Self::Failed, Self::Skipped, Self::Missed]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }
}

impl Misfire {
    /// The word in a definition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Skip => "skip",
            Self::All => "all",
        }
    }
}

impl Overlap {
    /// The word in a definition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbid => "forbid",
            Self::Buffer => "buffer",
            Self::Allow => "allow",
            Self::Replace => "replace",
        }
    }
}

impl TicksRecord {
    /// Whether a tick waits although nothing runs any more.
    #[must_use]
    pub fn is_stranded(&self) -> bool {
        self.pending_ms.is_some() && self.runs.is_empty() && self.retries.is_empty()
    }

    /// When the first of those that are due again is due: of those that have to wait for the end of a run only while
    /// nothing runs.
    #[must_use]
    pub fn retry_at_ms(&self) -> Option<i64> {
        let free = self.runs.is_empty();
        self.retries.iter().filter(|retry| free || retry.beside).map(|retry| retry.at_ms).min()
    }

    /// Runs under `own`, a live session of this worker, that it knows nothing of: `known` tells which nonces it has in its
    /// table. Each is to be ended as failed ([`Ended::ghost`](crate::store::Ended::ghost)).
    pub fn ghosts(
        &self,
        own: &SessionId,
        known: impl Fn(&Nonce) -> bool,
    ) -> impl Iterator<Item = &RunRecord> {
        self.runs.iter().filter(move |run| run.session == *own && !known(&run.nonce))
    }
}

impl JobDefinition {
    /// The length of the source, its modules included.
    #[must_use]
    pub fn source_bytes(&self) -> usize {
        self.source.len() + self.modules.bytes()
    }

    /// Makes a definition of its fields. What is absent or empty has its default.
    ///
    /// # Errors
    /// Names the first field that is malformed. `Cron` and `TZ` are only looked at for being there.
    pub fn parse(source: Arc<str>, digest: SourceDigest, fields: &JobFields<'_>) -> Result<Self, FieldError> {
        const SECONDS: &str = "whole seconds, or a duration such as 90s or 5m, of 30 days at most";
        const SECONDS_ABOVE_0: &str =
            "whole seconds, or a duration such as 90s or 5m, above zero and of 30 days at most";
        let cron = parse_field("Cron", fields.cron, "a schedule such as `*/5 * * * *`", |text| {
            Some(Arc::from(text))
        })?;
        let Some(cron) = cron else {
            let value = String::new();
            return Err(FieldError { field: "Cron", value, expected: "a schedule such as `*/5 * * * *`" });
        };
        Ok(Self {
            source,
            modules: Modules::default(),
            digest,
            enabled: parse_status(fields.status)?,
            cron,
            tz: fields.tz.map(str::trim).filter(|text| !text.is_empty()).map(Arc::from),
            overlap: parse_field("Overlap", fields.overlap, "forbid, buffer, allow or replace", |text| {
                match text {
                    "forbid" => Some(Overlap::Forbid),
                    "buffer" => Some(Overlap::Buffer),
                    "allow" => Some(Overlap::Allow),
                    "replace" => Some(Overlap::Replace),
                    _ => None,
                }
            })?
            .unwrap_or_default(),
            misfire: parse_field("Misfire", fields.misfire, "once, skip or all", |text| match text {
                "once" => Some(Misfire::Once),
                "skip" => Some(Misfire::Skip),
                "all" => Some(Misfire::All),
                _ => None,
            })?
            .unwrap_or_default(),
            misfire_look_back: parse_field("MisfireSeconds", fields.misfire_seconds, SECONDS, seconds)?
                .unwrap_or(LOOK_BACK_DEFAULT),
            jitter: parse_field("Jitter", fields.jitter, SECONDS, seconds)?.unwrap_or_default(),
            timeout: parse_field("Timeout", fields.timeout, SECONDS_ABOVE_0, |text| {
                seconds(text).filter(|timeout| !timeout.is_zero())
            })?
            .unwrap_or(TIMEOUT_DEFAULT),
            retries: parse_field("Retries", fields.retries, "a number from 0 to 100", |text| {
                text.parse().ok().filter(|retries| *retries <= RETRIES_MAX)
            })?
            .unwrap_or_default(),
            limits: Limits::parse([
                fields.memory_limit,
                fields.stack_limit,
                fields.call_timeout,
                fields.source_limit,
                fields.http_body_limit,
                fields.log_line_limit,
            ])?,
            run_at: fields.run_at.filter(|text| !text.is_empty()).map(Arc::from),
        })
    }
}

impl JobRead {
    /// Puts together what one reading gave. `source`: none = the definition has no source, or what it has is no text.
    #[must_use]
    pub(crate) fn new(
        source: Option<Arc<str>>,
        modules: Result<Modules, FieldError>,
        digest: SourceDigest,
        fields: &JobFields<'_>,
        mirror: Mirror,
    ) -> Self {
        let definition = source.ok_or_else(FieldError::no_source).and_then(|source| {
            let modules = modules?;
            Ok(JobDefinition { modules, ..JobDefinition::parse(source, digest.clone(), fields)? })
        });
        Self { digest, enabled: parse_status(fields.status).unwrap_or(true), mirror, definition }
    }
}

/// Seconds: a plain number, or with a unit.
fn seconds(text: &str) -> Option<Duration> {
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds.min(SECONDS_MAX + 1)),
        Err(_) => humantime::parse_duration(text).ok()?,
    };
    Some(duration).filter(|duration| *duration <= Duration::from_secs(SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &JobFields<'_>) -> Result<JobDefinition, FieldError> {
        JobDefinition::parse("x".into(), SourceDigest::of("x"), fields)
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let job =
            parse(&JobFields { cron: Some("@hourly"), overlap: Some(" "), ..JobFields::default() }).unwrap();
        assert!(job.enabled);
        assert_eq!((job.overlap, job.misfire, job.retries), (Overlap::Forbid, Misfire::Once, 0));
        assert_eq!((job.misfire_look_back.as_secs(), job.timeout.as_secs()), (3600, 3600));
        assert_eq!((job.jitter, job.tz, job.run_at), (Duration::ZERO, None, None));
    }

    #[test]
    fn fields_are_read_in_all_their_forms() {
        let job = parse(&JobFields {
            status: Some("disabled"),
            cron: Some(" 0 4 * * * "),
            tz: Some("Europe/Berlin"),
            overlap: Some("replace"),
            misfire: Some("all"),
            misfire_seconds: Some("0"),
            jitter: Some("90s"),
            timeout: Some("5m"),
            retries: Some("3"),
            ..JobFields::default()
        })
        .unwrap();
        assert!(!job.enabled);
        assert_eq!((&*job.cron, job.tz.as_deref()), ("0 4 * * *", Some("Europe/Berlin")));
        assert_eq!((job.overlap, job.misfire, job.retries), (Overlap::Replace, Misfire::All, 3));
        assert_eq!(
            (job.misfire_look_back, job.jitter.as_secs(), job.timeout.as_secs()),
            (Duration::ZERO, 90, 300)
        );
    }

    #[test]
    fn a_malformed_field_is_named_with_its_value() {
        let of = |fields: JobFields<'_>| {
            parse(&JobFields { cron: fields.cron.or(Some("@hourly")), ..fields }).unwrap_err()
        };
        assert_eq!(of(JobFields { overlap: Some("maybe"), ..JobFields::default() }).field, "Overlap");
        assert_eq!(of(JobFields { timeout: Some("0"), ..JobFields::default() }).field, "Timeout");
        assert_eq!(of(JobFields { retries: Some("-1"), ..JobFields::default() }).value, "-1");
        assert_eq!(
            of(JobFields { jitter: Some("99999999999999999999"), ..JobFields::default() }).field,
            "Jitter"
        );
        assert_eq!(
            of(JobFields { misfire: Some("twice"), ..JobFields::default() }).expected,
            "once, skip or all"
        );
        assert_eq!(parse(&JobFields::default()).unwrap_err().field, "Cron");
    }
}

//! What stands in Redis, in our own types: definitions, claims, sessions, workers' rows.
//!
//! Must always hold: whatever anybody wrote into a hash by hand, reading it never fails as a whole. A malformed field of
//! a definition is an answer ([`FieldError`]) that makes that one task `crashed`; a malformed number in a record of
//! ours counts as absent.

mod endpoint;
mod job;
mod poison;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha1::{Digest as _, Sha1};

use crate::config::Capacity;
use crate::id::{Nonce, SessionId};
use crate::labels::Labels;
use crate::name::WorkerName;

pub use self::endpoint::{ENDPOINT_FIELDS, Endpoint, EndpointKind, EndpointRead};
pub use self::job::{
    HistoryEntry, JobDefinition, JobFields, JobRead, LedgerEntry, Misfire, Overlap, RetryRecord, RunRecord,
    TickCounts, TickOutcome, TicksBook, TicksRecord,
};
pub use self::poison::{PoisonRecord, SET_ASIDE_MAX, Suspect};

/// A longer source is not even looked at, whatever a worker or a definition allows.
pub const SOURCE_BYTES_MAX: usize = 16 << 20;

/// The stacks that an interpreter can run with, in bytes.
pub const STACK_LIMITS: std::ops::RangeInclusive<u64> = 16 << 10..=16 << 20;

/// `LogLineLimit` is no larger.
const LOG_LINE_MAX: u64 = 1_000_000;

/// `Hang` of a definition that has none.
pub const HANG_DEFAULT: Duration = Duration::from_millis(1);

/// SHA-1 of a source in lower-case hex, the same text that `redis.sha1hex` gives in Lua. Where the source has modules, it
/// stands for them too; `read.lua` says how.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceDigest(Arc<str>);

impl SourceDigest {
    /// The digest of this source, without modules.
    #[must_use]
    pub fn of(source: impl AsRef<[u8]>) -> Self {
        let hash = Sha1::digest(source.as_ref());
        Self(
            hash.iter()
                .fold(String::with_capacity(40), |mut text, byte| {
                    use fmt::Write as _;
                    // Writing into a String cannot fail.
                    let _ = write!(text, "{byte:02x}");
                    text
                })
                .into(),
        )
    }

    /// A digest as a script of ours gave it.
    #[must_use]
    pub fn from_hex(hex: &str) -> Self {
        Self(hex.into())
    }

    /// The digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SourceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceDigest({})", self.0)
    }
}

impl fmt::Display for SourceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happens after a script of a thread has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// It starts again, after a pause that grows.
    #[default]
    OnFailure,
    /// The thread is disabled, as in 2020.
    Never,
}

/// Limits that a definition sets for itself; what is absent is the worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of heap.
    pub memory: Option<u64>,
    /// Bytes of stack.
    pub stack: Option<u64>,
    /// Time for one call.
    pub call_timeout: Option<Duration>,
    /// Bytes of source.
    pub source: Option<u64>,
    /// Bytes of the body of an HTTP answer.
    pub http_body: Option<u64>,
    /// Characters of a line of log.
    pub log_line: Option<u64>,
}

/// The files that a script imports, each in a field of its own beside `Source`, and where the script itself stands among
/// them. All paths are relative to one folder above them all and have no `.` and `..` in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modules {
    /// `SourceFile`, the path of the script itself.
    pub main: Option<Arc<str>>,
    /// `Module:<path>`, the texts by their paths.
    pub files: Arc<BTreeMap<String, Arc<str>>>,
}

/// What people wrote about a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The script.
    pub source: Arc<str>,
    /// The files that it imports.
    pub modules: Modules,
    /// The digest of both.
    pub digest: SourceDigest,
    /// False when `Status` says `disabled`.
    pub enabled: bool,
    /// The pause between calls of `main`.
    pub hang: Duration,
    /// What happens after a failure.
    pub restart: RestartPolicy,
    /// `Requires`: what a worker must offer to run it.
    pub requires: Labels,
    /// Limits of its own.
    pub limits: Limits,
    /// `RestartAt`, any text: an operator asks for a restart by changing it. Another value than the one a claim was
    /// made with restarts the thread on its owner, and voids a back-off where it has none.
    pub restart_at: Option<Arc<str>>,
}

/// A field of a definition that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {value:?} is not valid: expected {expected}")]
pub struct FieldError {
    /// The name of the field.
    pub field: &'static str,
    /// What stands in it, shortened.
    pub value: String,
    /// What could stand in it.
    pub expected: &'static str,
}

/// What we write into a definition for people, as it stands there. Never read to decide who runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirror {
    /// `stopped`, `running` or `crashed`.
    pub state: Option<String>,
    /// The worker that runs it.
    pub owner: Option<String>,
    /// When the state last changed: nanoseconds since 1970 (a 2020 worker beats here).
    pub heartbeat: Option<String>,
    /// The last error.
    pub error: Option<String>,
    /// When it happened, RFC 3339.
    pub error_time: Option<String>,
}

/// One reading of a definition. What is malformed in it is beside what can be used even then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionRead {
    /// The digest of the source and its modules (of the empty text, where there is none).
    pub digest: SourceDigest,
    /// False only when `Status` says `disabled`.
    pub enabled: bool,
    /// `RestartAt`, see [`Definition::restart_at`].
    pub restart_at: Option<Arc<str>>,
    /// The mirrored fields.
    pub mirror: Mirror,
    /// The definition, or the field that is malformed.
    pub definition: Result<Definition, FieldError>,
}

/// A session, as it stands in Redis.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRecord {
    /// The worker's name.
    pub name: String,
    /// False once it was closed or buried.
    pub alive: bool,
    /// Rises with every renewal.
    pub beat: u64,
    /// Server milliseconds at which it may be buried.
    pub expiry_ms: u64,
    /// The lease D.
    pub lease: Duration,
    /// Tasks that its watchdog has named.
    pub suspects: Vec<Suspect>,
    /// False while the worker takes nothing new (draining, disabled, unhealthy).
    pub ready: bool,
    /// How many threads it had at the last renewal.
    pub threads: u64,
    /// Server milliseconds at which it was opened.
    pub opened_ms: u64,
    /// How and when it ended; none while alive.
    pub end: Option<(SessionEnd, u64)>,
    /// The program's version.
    pub version: String,
    /// Which threads it takes, and how many.
    pub capacity: Capacity,
}

impl SessionRecord {
    /// Whether it lives, as far as one look can tell.
    pub(crate) fn is_live(&self, server_ms: u64) -> bool {
        self.alive && self.expiry_ms > server_ms
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// By its own process, with nothing running under it.
    Closed,
    /// By a peer, after it had stopped beating.
    Buried,
    /// Its key is gone: watched absent for D + 2 s.
    Gone,
}

/// A session that the caller knows to be dead, and all that a claim needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadSession {
    /// Its id.
    pub id: SessionId,
    /// How it ended.
    pub end: SessionEnd,
    /// Server milliseconds of its end; 0 for [`SessionEnd::Gone`].
    pub ended_ms: u64,
    /// Tasks that its watchdog had named: its end counts against these and no others.
    pub suspects: Vec<Suspect>,
}

impl DeadSession {
    /// A session whose key was watched absent for long enough.
    #[must_use]
    pub fn gone(id: SessionId) -> Self {
        Self { id, end: SessionEnd::Gone, ended_ms: 0, suspects: Vec::new() }
    }
}

impl SessionRecord {
    /// This session as a dead one, if it is.
    #[must_use]
    pub fn dead(&self, id: &SessionId) -> Option<DeadSession> {
        let (end, ended_ms) = self.end?;
        Some(DeadSession { id: id.clone(), end, ended_ms, suspects: self.suspects.clone() })
    }
}

/// Who owns a thread, as it stands in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimRecord {
    /// The owner; none = free.
    pub session: Option<SessionId>,
    /// The nonce of the owner's claim, or of the last one if free.
    pub nonce: Option<Nonce>,
    /// The fence.
    pub epoch: u64,
    /// Server milliseconds of the last grant; 0 = never.
    pub claimed_ms: u64,
    /// Server milliseconds before which nobody is granted it; 0 = none.
    pub next_start_ms: u64,
    /// Digest of what ran.
    pub source: Option<SourceDigest>,
    /// `RestartAt` of the definition that ran.
    pub restart_at: Option<Arc<str>>,
    /// Failures in a row.
    pub restarts: u32,
    /// The session it was handed to.
    pub prefer: Option<SessionId>,
    /// Server milliseconds until which nobody else is granted it.
    pub prefer_until_ms: u64,
}

/// A worker's row, as it stands in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerRow {
    /// False only when `Status` says `disabled`.
    pub disabled: bool,
    /// `online`, `critical`, `draining` or `offline`.
    pub state: Option<String>,
    /// As it stands there; compare it only with an earlier reading.
    pub heartbeat: Option<String>,
    /// Ours have one, those of 2020 have none.
    pub incarnation: Option<String>,
    /// All fields.
    pub fields: HashMap<String, String>,
}

/// The state of a task, as it is mirrored for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody runs it.
    Stopped,
    /// Its owner runs it.
    Running,
    /// It has failed, see `Error`.
    Crashed,
}

impl State {
    /// The word in Redis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Crashed => "crashed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fields of a definition that people write, as text, as they stand there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields<'a> {
    /// `Status`.
    pub status: Option<&'a str>,
    /// `Hang`.
    pub hang: Option<&'a str>,
    /// `Restart`.
    pub restart: Option<&'a str>,
    /// `Requires`.
    pub requires: Option<&'a str>,
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
    /// `RestartAt`.
    pub restart_at: Option<&'a str>,
}

/// The fields of [`Limits`], in the order of their parsing.
pub(crate) const LIMIT_FIELDS: [&str; 6] =
    ["MemoryLimit", "StackLimit", "CallTimeout", "SourceLimit", "HttpBodyLimit", "LogLineLimit"];

const SOURCE_FILE: &str = "SourceFile";
const MODULE_PREFIX: &str = "Module:";

impl Modules {
    /// The fields that say it in a definition.
    #[must_use]
    pub fn fields(&self) -> Vec<(String, String)> {
        let main = self.main.iter().map(|path| (SOURCE_FILE.to_owned(), path.to_string()));
        let files =
            self.files.iter().map(|(path, text)| (format!("{MODULE_PREFIX}{path}"), text.to_string()));
        main.chain(files).collect()
    }

    /// The length of all of them.
    fn bytes(&self) -> usize {
        self.files.values().map(|text| text.len()).sum()
    }

    /// Reads them from their fields; a value of None is no text.
    pub(crate) fn from_fields(
        fields: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<Self, FieldError> {
        let mut main = None;
        let mut files = BTreeMap::new();
        for (field, value) in fields {
            let Some(value) = value else {
                let value = field.chars().take(VALUE_CHARS_SHOWN).collect();
                return Err(FieldError { field: "Module", value, expected: "a module in UTF-8" });
            };
            if field == SOURCE_FILE {
                main = Some(Arc::from(value));
            } else if let Some(path) = field.strip_prefix(MODULE_PREFIX) {
                files.insert(path.to_owned(), Arc::from(value));
            }
        }
        Ok(Self { main, files: Arc::new(files) })
    }
}

impl Definition {
    /// The length of the source, its modules included.
    #[must_use]
    pub fn source_bytes(&self) -> usize {
        self.source.len() + self.modules.bytes()
    }

    /// Makes a definition of its fields. What is absent or empty has its default.
    ///
    /// # Errors
    /// Names the first field that is malformed.
    pub fn parse(source: Arc<str>, digest: SourceDigest, fields: &Fields<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            source,
            modules: Modules::default(),
            digest,
            enabled: parse_status(fields.status)?,
            hang: parse_field("Hang", fields.hang, DURATION, duration)?.unwrap_or(HANG_DEFAULT),
            restart: parse_field("Restart", fields.restart, "on-failure or never", |text| match text {
                "on-failure" => Some(RestartPolicy::OnFailure),
                "never" => Some(RestartPolicy::Never),
                _ => None,
            })?
            .unwrap_or_default(),
            requires: parse_field("Requires", fields.requires, LABELS, |text| text.parse().ok())?
                .unwrap_or_default(),
            limits: Limits::parse([
                fields.memory_limit,
                fields.stack_limit,
                fields.call_timeout,
                fields.source_limit,
                fields.http_body_limit,
                fields.log_line_limit,
            ])?,
            restart_at: fields.restart_at.filter(|text| !text.is_empty()).map(Arc::from),
        })
    }
}

impl Limits {
    /// Reads them from [`LIMIT_FIELDS`].
    fn parse(texts: [Option<&str>; 6]) -> Result<Self, FieldError> {
        let [memory, stack, call_timeout, source, http_body, log_line] = texts;
        Ok(Self {
            memory: parse_field("MemoryLimit", memory, BYTES, bytes)?,
            stack: parse_field("StackLimit", stack, STACK_BYTES, |text| {
                bytes(text).filter(|stack| STACK_LIMITS.contains(stack))
            })?,
            call_timeout: parse_field("CallTimeout", call_timeout, TIMEOUT, |text| {
                duration(text).filter(|timeout| !timeout.is_zero())
            })?,
            source: parse_field("SourceLimit", source, SOURCE_BYTES, |text| {
                bytes(text).filter(|source| *source <= SOURCE_BYTES_MAX as u64)
            })?,
            http_body: parse_field("HttpBodyLimit", http_body, BYTES, bytes)?,
            log_line: parse_field("LogLineLimit", log_line, CHARACTERS, |text| {
                text.parse().ok().filter(|characters| (1..=LOG_LINE_MAX).contains(characters))
            })?,
        })
    }
}

const LABELS: &str = "labels such as gpu,zone=eu, of visible ASCII characters between commas";
const DURATION: &str = "milliseconds, or a duration such as 500ms or 30s, of 30 days at most";
const TIMEOUT: &str = "milliseconds, or a duration such as 500ms or 30s, above zero and of 30 days at most";
const BYTES: &str = "a number of bytes above zero, or one such as 64MiB";
const STACK_BYTES: &str = "a number of bytes from 16KiB to 16MiB, or one such as 512KiB";
const SOURCE_BYTES: &str = "a number of bytes above zero, or one such as 2MiB, of 16MiB at most";
const CHARACTERS: &str = "a number of characters from 1 to 1000000";
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const VALUE_CHARS_SHOWN: usize = 100;

fn parse_field<T>(
    field: &'static str,
    text: Option<&str>,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, FieldError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match parse(text) {
        Some(value) => Ok(Some(value)),
        None => Err(FieldError { field, value: text.chars().take(VALUE_CHARS_SHOWN).collect(), expected }),
    }
}

fn parse_status(text: Option<&str>) -> Result<bool, FieldError> {
    let status = parse_field("Status", text, "enabled or disabled", |text| match text {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    })?;
    Ok(status.unwrap_or(true))
}

fn duration(text: &str) -> Option<Duration> {
    let duration = match text.parse::<u64>() {
        Ok(ms) => Duration::from_millis(ms),
        Err(_) => humantime::parse_duration(text).ok()?,
    };
    Some(duration).filter(|duration| *duration <= DURATION_MAX)
}

/// A number of bytes: plain, or with a unit. Units without an `i` before the `B` count in thousands, except the bare
/// letters, which everybody means in the other way.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0)
}

impl FieldError {
    /// Whether an error that stands in a definition was one of these.
    pub(crate) fn has_said(error: &str) -> bool {
        error.starts_with("field ") && error.contains(" is not valid: expected ")
    }

    /// There is no source, or what there is is no text, or far too long.
    fn no_source() -> Self {
        Self {
            field: "Source",
            value: String::new(),
            expected: "a script in UTF-8, of 16 MiB at most with all its modules",
        }
    }
}

impl DefinitionRead {
    /// Puts together what one reading gave. `source`: none = the definition has no source, or what it has is no text.
    #[must_use]
    pub(crate) fn new(
        source: Option<Arc<str>>,
        modules: Result<Modules, FieldError>,
        digest: SourceDigest,
        fields: &Fields<'_>,
        mirror: Mirror,
    ) -> Self {
        let definition = match source {
            Some(source) => modules.and_then(|modules| {
                let definition = Definition::parse(source, digest.clone(), fields)?;
                Ok(Definition { modules, ..definition })
            }),
            None => Err(FieldError::no_source()),
        };
        Self {
            digest,
            enabled: parse_status(fields.status).unwrap_or(true),
            restart_at: fields.restart_at.filter(|text| !text.is_empty()).map(Arc::from),
            mirror,
            definition,
        }
    }
}

impl WorkerRow {
    /// A row from its fields.
    #[must_use]
    pub fn new(fields: HashMap<String, String>) -> Self {
        let of = |name: &str| fields.get(name).cloned();
        Self {
            disabled: fields.get("Status").is_some_and(|status| status == "disabled"),
            state: of("State"),
            heartbeat: of("Heartbeat"),
            incarnation: of("Incarnation"),
            fields,
        }
    }

    /// Whether a worker of this version writes it. Workers of 2020 know no incarnation.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.incarnation.is_some()
    }
}

/// Finds workers of 2020 that are alive: rows without an incarnation whose `Heartbeat` moves. They take threads by
/// other rules, so that nobody may claim while one of them is about.
///
/// No clock is compared: a row counts once its heartbeat differs from the one seen before.
#[derive(Debug, Default)]
pub struct Watch2020 {
    seen: HashMap<WorkerName, String>,
}

impl Watch2020 {
    /// Takes the rows of one reading and gives the workers of 2020 that have beaten since the reading before.
    pub fn observe(&mut self, rows: &[(WorkerName, WorkerRow)]) -> Vec<WorkerName> {
        let mut seen = HashMap::new();
        let mut alive = Vec::new();
        for (name, row) in rows {
            let Some(heartbeat) = row.heartbeat.clone().filter(|_| !row.is_ours()) else { continue };
            if self.seen.get(name).is_some_and(|before| *before != heartbeat) {
                alive.push(name.clone());
            }
            seen.insert(name.clone(), heartbeat);
        }
        self.seen = seen;
        alive
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(fields: &Fields<'_>) -> Result<Definition, FieldError> {
        Definition::parse("x".into(), SourceDigest::of("x"), fields)
    }

    #[test]
    fn a_digest_is_what_lua_makes_of_it() {
        assert_eq!(SourceDigest::of("").as_str(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }

    #[test]
    fn absent_and_empty_fields_have_defaults() {
        let definition = parse(&Fields::default()).unwrap();
        assert!(definition.enabled);
        assert_eq!(definition.hang, Duration::from_millis(1));
        assert_eq!(definition.restart, RestartPolicy::OnFailure);
        assert_eq!(definition.limits, Limits::default());
        let empty = Fields { status: Some(""), hang: Some(" "), requires: Some(""), ..Fields::default() };
        assert_eq!(parse(&empty).unwrap(), definition);
    }

    #[test]
    fn fields_are_read_in_all_their_forms() {
        let definition = parse(&Fields {
            status: Some("disabled"),
            hang: Some("250"),
            restart: Some("never"),
            requires: Some("gpu"),
            memory_limit: Some("64MiB"),
            stack_limit: Some("262144"),
            call_timeout: Some("1m 30s"),
            source_limit: Some("2 MiB"),
            http_body_limit: Some("20 MiB"),
            log_line_limit: Some("80"),
            restart_at: Some("now"),
        })
        .unwrap();
        assert!(!definition.enabled);
        assert_eq!(definition.hang, Duration::from_millis(250));
        assert_eq!(definition.restart, RestartPolicy::Never);
        assert_eq!(definition.requires.to_string(), "gpu");
        assert_eq!(definition.limits.memory, Some(64 << 20));
        assert_eq!(definition.limits.stack, Some(262_144));
        assert_eq!(definition.limits.call_timeout, Some(Duration::from_secs(90)));
        assert_eq!(definition.limits.source, Some(2 << 20));
        assert_eq!(definition.limits.http_body, Some(20 << 20));
        assert_eq!(definition.limits.log_line, Some(80));
        assert_eq!(definition.restart_at.as_deref(), Some("now"));
    }

    #[test]
    fn a_malformed_field_is_named_with_its_value() {
        for (fields, field) in [
            (Fields { status: Some("Enabled"), ..Fields::default() }, "Status"),
            (Fields { hang: Some("-1"), ..Fields::default() }, "Hang"),
            (Fields { hang: Some("99999999999999"), ..Fields::default() }, "Hang"),
            (Fields { restart: Some("always"), ..Fields::default() }, "Restart"),
            (Fields { memory_limit: Some("0"), ..Fields::default() }, "MemoryLimit"),
            (Fields { memory_limit: Some("lots"), ..Fields::default() }, "MemoryLimit"),
            (Fields { stack_limit: Some("99999999999999GiB"), ..Fields::default() }, "StackLimit"),
            (Fields { stack_limit: Some("16383"), ..Fields::default() }, "StackLimit"),
            (Fields { stack_limit: Some("17MiB"), ..Fields::default() }, "StackLimit"),
            (Fields { call_timeout: Some("0"), ..Fields::default() }, "CallTimeout"),
            (Fields { source_limit: Some("17MiB"), ..Fields::default() }, "SourceLimit"),
            (Fields { source_limit: Some("0"), ..Fields::default() }, "SourceLimit"),
            (Fields { http_body_limit: Some("-1"), ..Fields::default() }, "HttpBodyLimit"),
            (Fields { log_line_limit: Some("80 characters"), ..Fields::default() }, "LogLineLimit"),
            (Fields { log_line_limit: Some("1000001"), ..Fields::default() }, "LogLineLimit"),
        ] {
            assert_eq!(parse(&fields).unwrap_err().field, field);
        }
        let fields = Fields { hang: Some("soon"), ..Fields::default() };
        assert_eq!(
            parse(&fields).unwrap_err().to_string(),
            "field Hang: \"soon\" is not valid: expected milliseconds, or a duration such as 500ms or 30s, of 30 \
             days at most"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_fail_in_another_way(text in ".{0,40}") {
            let all = Fields {
                status: Some(&text), hang: Some(&text), restart: Some(&text), requires: Some(&text),
                memory_limit: Some(&text), stack_limit: Some(&text), call_timeout: Some(&text),
                source_limit: Some(&text), http_body_limit: Some(&text), log_line_limit: Some(&text),
                restart_at: Some(&text),
            };
            let _ = parse(&all);
        }

        #[test]
        fn a_plain_number_is_milliseconds_or_bytes(number in 1_u64..1_000_000_000) {
            prop_assert_eq!(duration(&number.to_string()), Some(Duration::from_millis(number)));
            prop_assert_eq!(bytes(&number.to_string()), Some(number));
            prop_assert_eq!(bytes(&format!("{number}KiB")), Some(number * 1024));
        }
    }

    #[test]
    fn only_a_row_that_beats_and_is_not_ours_is_a_worker_of_2020() {
        let row = |heartbeat: &str, ours: bool| {
            let mut fields = HashMap::from([("Heartbeat".to_owned(), heartbeat.to_owned())]);
            if ours {
                fields.insert("Incarnation".to_owned(), "x".to_owned());
            }
            WorkerRow::new(fields)
        };
        let name = |name: &str| WorkerName::new(name).unwrap();
        let mut watch = Watch2020::default();
        let rows = |old: &str, dead: &str, ours: &str| {
            [
                (name("old"), row(old, false)),
                (name("dead"), row(dead, false)),
                (name("ours"), row(ours, true)),
            ]
        };
        assert!(watch.observe(&rows("1", "1", "1")).is_empty());
        assert_eq!(watch.observe(&rows("2", "1", "2")), [name("old")]);
        assert!(watch.observe(&rows("2", "1", "3")).is_empty());
    }
}

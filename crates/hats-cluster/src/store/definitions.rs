//! Definitions of tasks: reading them, mirroring our state into them, registering them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fred::interfaces::{HashesInterface, KeysInterface, SetsInterface};
use fred::types::Value;

use super::{Call, PIPELINE_MAX, SOURCES_MAX, Store, failed, lua};
use crate::clock::unix_nanos;
use crate::error::Error;
use crate::name::{TaskKind, TaskName};
use crate::records::{
    Definition, DefinitionRead, FieldError, Fields, JobDefinition, JobFields, JobRead, Mirror, Modules,
    SOURCE_BYTES_MAX, SourceDigest, State,
};

/// A definition with more fields has been written by mistake. Far above the modules of any script.
const FIELDS_READ_MAX: usize = 10_000;

/// What becomes of the mirrored `Error`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MirrorError {
    /// It stays.
    #[default]
    Keep,
    /// It goes, with its time.
    Clear,
    /// It is this, as of now.
    Set(String),
}

/// What we write into a definition for people. An absent field stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorUpdate {
    /// `State`; sets `Heartbeat` too, which says when it changed.
    pub state: Option<State>,
    /// `Owner`; an empty one is removed.
    pub owner: Option<String>,
    /// `Error` and `ErrorTime`.
    pub error: MirrorError,
    /// Sets `Status` to `disabled` in the same step.
    pub disable: bool,
}

impl MirrorUpdate {
    /// It has failed with this error.
    #[must_use]
    pub fn crashed(error: String) -> Self {
        Self { state: Some(State::Crashed), error: MirrorError::Set(error), ..Self::default() }
    }

    /// It fails no more.
    #[must_use]
    pub fn mended() -> Self {
        Self { state: Some(State::Stopped), error: MirrorError::Clear, ..Self::default() }
    }
}

/// What registering a script did to the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// There was none with a source.
    Created,
    /// Its source, or a further field, was another.
    Updated,
    /// It was the same already.
    Unchanged,
}

impl Store {
    /// Reads the definition of a thread. The source comes over the wire only if its digest differs from `known`'s.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn read_definition(
        &self,
        thread: &TaskName,
        known: Option<&Definition>,
    ) -> Result<Option<DefinitionRead>, Error> {
        Ok(parse_read(self.run(self.read_call(thread, known)).await?, known))
    }

    /// Reads many definitions, in pipelines; the answers come in order.
    pub async fn read_definitions(
        &self,
        threads: &[(TaskName, Option<Definition>)],
    ) -> Vec<Result<Option<DefinitionRead>, Error>> {
        let calls = threads.iter().map(|(thread, known)| self.read_call(thread, known.as_ref())).collect();
        let all_known = threads.iter().all(|(_, known)| known.is_some());
        let replies = self.run_chunks(calls, if all_known { PIPELINE_MAX } else { SOURCES_MAX }).await;
        let threads = threads.iter().zip(replies);
        threads.map(|((_, known), reply)| Ok(parse_read(reply?, known.as_ref()))).collect()
    }

    fn read_call(&self, thread: &TaskName, known: Option<&Definition>) -> Call {
        self.read_any(TaskKind::Thread, thread, known.map(|known| &known.digest), &THREAD_FIELDS)
    }

    /// Reads definitions of jobs, in pipelines; the answers come in order. A source comes over the wire only if its
    /// digest differs from that of the definition that is known.
    pub async fn read_jobs(
        &self,
        jobs: &[(TaskName, Option<JobDefinition>)],
    ) -> Vec<Result<Option<JobRead>, Error>> {
        let call = |(job, known): &(TaskName, Option<JobDefinition>)| {
            self.read_any(TaskKind::Job, job, known.as_ref().map(|known| &known.digest), &JOB_FIELDS)
        };
        let all_known = jobs.iter().all(|(_, known)| known.is_some());
        let calls = jobs.iter().map(call).collect();
        let replies = self.run_chunks(calls, if all_known { PIPELINE_MAX } else { SOURCES_MAX }).await;
        let jobs = jobs.iter().zip(replies);
        jobs.map(|((_, known), reply)| Ok(parse_job(reply?, known.as_ref()))).collect()
    }

    fn read_any(
        &self,
        kind: TaskKind,
        task: &TaskName,
        known: Option<&SourceDigest>,
        fields: &[&str],
    ) -> Call {
        read_at(self.keys().definition(kind, task), known, fields.iter().chain(&MIRROR_FIELDS).copied())
    }

    /// Writes our state into a definition for people. False: there is no such definition any more.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn mirror(&self, thread: &TaskName, update: &MirrorUpdate) -> Result<bool, Error> {
        let reply = self.run(self.mirror_call(thread, update)).await?;
        Ok(reply.text(0)? == "EDITED")
    }

    /// Writes our state into many definitions, in pipelines; the answers come in order.
    pub async fn mirror_many(&self, updates: &[(TaskName, MirrorUpdate)]) -> Vec<Result<bool, Error>> {
        let calls = updates.iter().map(|(thread, update)| self.mirror_call(thread, update)).collect();
        let replies = self.run_many(calls).await;
        replies.into_iter().map(|reply| Ok(reply?.text(0)? == "EDITED")).collect()
    }

    /// As [`Store::mirror`], for a job.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn mirror_job(&self, job: &TaskName, update: &MirrorUpdate) -> Result<bool, Error> {
        let reply = self.run(self.mirror_any(self.keys().definition(TaskKind::Job, job), update)).await?;
        Ok(reply.text(0)? == "EDITED")
    }

    fn mirror_call(&self, thread: &TaskName, update: &MirrorUpdate) -> Call {
        self.mirror_any(self.keys().thread(thread), update)
    }

    fn mirror_any(&self, key: String, update: &MirrorUpdate) -> Call {
        let mut set = Vec::new();
        let mut remove = Vec::new();
        if let Some(state) = update.state {
            set.push(("State", state.as_str().to_owned()));
            set.push(("Heartbeat", unix_nanos().to_string()));
        }
        match update.owner.as_deref() {
            None => {}
            Some("") => remove.push("Owner"),
            Some(owner) => set.push(("Owner", owner.to_owned())),
        }
        match &update.error {
            MirrorError::Keep => {}
            MirrorError::Clear => remove.extend(["Error", "ErrorTime"]),
            MirrorError::Set(error) => {
                set.push(("Error", error.clone()));
                set.push(("ErrorTime", wall_clock_text()));
            }
        }
        if update.disable {
            set.push(("Status", "disabled".to_owned()));
        }
        self.edit_call(key, &set, &remove)
    }

    /// Sets fields of a definition that exists. False: there is none.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn edit(&self, kind: TaskKind, task: &TaskName, set: &[(&str, String)]) -> Result<bool, Error> {
        let reply = self.run(self.edit_call(self.keys().definition(kind, task), set, &[])).await?;
        Ok(reply.text(0)? == "EDITED")
    }

    pub(super) fn edit_call(&self, key: String, set: &[(&str, String)], remove: &[&str]) -> Call {
        let mut args = vec![set.len().to_string()];
        for (field, value) in set {
            args.extend([(*field).to_owned(), value.clone()]);
        }
        args.extend(remove.iter().map(|&field| field.to_owned()));
        Call::new(&lua::EDIT, key, args)
    }

    /// Sets `Status=disabled` of a thread, cluster-wide. False: there is no such definition.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn disable(&self, thread: &TaskName) -> Result<bool, Error> {
        self.disable_task(TaskKind::Thread, thread).await
    }

    /// As [`Store::disable`], for a task of any kind.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn disable_task(&self, kind: TaskKind, task: &TaskName) -> Result<bool, Error> {
        self.edit(kind, task, &[("Status", "disabled".to_owned())]).await
    }

    /// `Status` (`enabled`, `disabled`, or `deleted` if there is no such definition) and `State` (`stopped` if there is
    /// none) of a task as they are now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn status_and_state(
        &self,
        kind: TaskKind,
        task: &TaskName,
    ) -> Result<(&'static str, String), Error> {
        let key = self.keys().definition(kind, task);
        let fields: Vec<Option<String>> =
            self.client().hmget(&key, vec!["Status", "State"]).await.map_err(failed)?;
        let mut fields = fields.into_iter().map(|field| field.filter(|text| !text.is_empty()));
        let (status, state) = (fields.next().flatten(), fields.next().flatten());
        let status = match status.as_deref() {
            Some("disabled") => "disabled",
            Some(_) => "enabled",
            None if state.is_some() => "enabled",
            None => {
                let length: u64 = self.client().hlen(&key).await.map_err(failed)?;
                if length > 0 { "enabled" } else { "deleted" }
            }
        };
        Ok((status, state.unwrap_or_else(|| State::Stopped.to_string())))
    }

    /// Registers a script: replaces `Source` if it differs, sets a missing `Status`, removes modules of another source.
    /// Gives the `Status` too.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn put(&self, thread: &TaskName, source: &str) -> Result<(Put, String), Error> {
        self.put_with(TaskKind::Thread, thread, source, &[]).await
    }

    /// As [`Store::put`] for a task of any kind, and sets further fields in the same step: a task may begin its life
    /// disabled, a job has its schedule there, and a script comes with its [`Modules::fields`].
    /// A field that is given empty is removed, but for modules.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn put_with(
        &self,
        kind: TaskKind,
        task: &TaskName,
        source: &str,
        fields: &[(&str, String)],
    ) -> Result<(Put, String), Error> {
        self.put_at(self.keys().definition(kind, task), Value::from(source), fields).await
    }

    pub(super) async fn put_at(
        &self,
        key: String,
        source: Value,
        fields: &[(&str, String)],
    ) -> Result<(Put, String), Error> {
        let mut args = vec![source];
        for (field, value) in fields {
            args.extend([Value::from(*field), Value::from(value.as_str())]);
        }
        let reply = self.run(Call { lua: &lua::PUT, key, args }).await?;
        let put = match reply.text(0)?.as_str() {
            "CREATED" => Put::Created,
            "UPDATED" => Put::Updated,
            "UNCHANGED" => Put::Unchanged,
            _ => return Err(reply.unexpected()),
        };
        Ok((put, reply.text(1)?))
    }

    /// Deletes a definition. False: there was none.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn delete_definition(&self, kind: TaskKind, task: &TaskName) -> Result<bool, Error> {
        self.delete_at(self.keys().definition(kind, task)).await
    }

    pub(super) async fn delete_at(&self, key: String) -> Result<bool, Error> {
        let deleted: u64 = self.client().del(key).await.map_err(failed)?;
        Ok(deleted > 0)
    }

    /// The names in the index of a kind: a shortcut, neither complete nor up to date.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn index(&self, kind: TaskKind) -> Result<Vec<TaskName>, Error> {
        let names = self.index_members(kind).await?.into_iter();
        Ok(names.filter_map(|name| TaskName::new(name).ok()).collect())
    }

    pub(crate) async fn index_members(&self, kind: TaskKind) -> Result<Vec<String>, Error> {
        let members: Value = self.client().smembers(self.keys().index(kind)).await.map_err(failed)?;
        Ok(members.into_array().iter().filter_map(lua::lossy).collect())
    }

    /// Enters into the index of a kind what is `defined` and missing there, and removes what is not.
    ///
    /// # Errors
    /// When Redis does not answer; it may be repeated.
    pub async fn mend_index(&self, kind: TaskKind, defined: &[impl AsRef<str>]) -> Result<(), Error> {
        let indexed: HashSet<String> = self.index_members(kind).await?.into_iter().collect();
        let defined: HashSet<&str> = defined.iter().map(AsRef::as_ref).collect();
        let missing: Vec<&str> = defined.iter().copied().filter(|name| !indexed.contains(*name)).collect();
        let surplus: Vec<&String> = indexed.iter().filter(|name| !defined.contains(name.as_str())).collect();
        if !missing.is_empty() {
            self.index_add(kind, &missing).await?;
        }
        if !surplus.is_empty() {
            self.index_remove(kind, &surplus).await?;
        }
        Ok(())
    }

    /// Adds names to the index of a kind.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn index_add(&self, kind: TaskKind, names: &[impl AsRef<str>]) -> Result<(), Error> {
        let calls = names
            .chunks(1000)
            .map(|names| {
                Call::new(
                    &lua::INDEX,
                    self.keys().index(kind),
                    names.iter().map(|name| name.as_ref().to_owned()).collect(),
                )
            })
            .collect();
        self.run_many(calls).await.into_iter().try_for_each(|reply| reply.map(drop))
    }

    /// Removes names from the index of a kind.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn index_remove(&self, kind: TaskKind, names: &[impl AsRef<str>]) -> Result<(), Error> {
        for names in names.chunks(1000) {
            let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
            let () = self.client().srem(self.keys().index(kind), names).await.map_err(failed)?;
        }
        Ok(())
    }
}

const THREAD_FIELDS: [&str; 11] = [
    "Status",
    "Hang",
    "Restart",
    "Requires",
    "MemoryLimit",
    "StackLimit",
    "CallTimeout",
    "SourceLimit",
    "HttpBodyLimit",
    "LogLineLimit",
    "RestartAt",
];
pub(super) const JOB_FIELDS: [&str; 16] = [
    "Status",
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
    "RunAt",
];
/// Asked for behind the others.
pub(super) const MIRROR_FIELDS: [&str; 5] = ["State", "Owner", "Heartbeat", "Error", "ErrorTime"];

/// Reads a definition: its source and modules unless they are `known`, and these fields.
pub(super) fn read_at<'a>(
    key: String,
    known: Option<&SourceDigest>,
    fields: impl IntoIterator<Item = &'a str>,
) -> Call {
    let mut args = vec![known.map(SourceDigest::to_string).unwrap_or_default()];
    args.extend([SOURCE_BYTES_MAX, FIELDS_READ_MAX].map(|most| most.to_string()));
    args.extend(fields.into_iter().map(str::to_owned));
    Call::new(&lua::READ, key, args)
}

/// What `read.lua` gives of any definition.
struct Raw {
    digest: SourceDigest,
    source: Option<Arc<str>>,
    modules: Result<Modules, FieldError>,
    fields: HashMap<&'static str, String>,
}

impl Raw {
    /// None: there is no such definition. `known`: the source that is there already, with its digest and modules.
    fn parse(
        mut reply: lua::Reply,
        asked: &'static [&'static str],
        known: Option<(&SourceDigest, &Arc<str>, &Modules)>,
    ) -> Option<Self> {
        if reply.is_empty() {
            return None;
        }
        let digest = SourceDigest::from_hex(&reply.text(0).ok()?);
        let (source, modules) = match (known, reply.take(1)) {
            (_, Some(source)) => (source.into_string().map(Arc::from), Modules::from_fields(reply.pairs(2))),
            // One that is too long has no digest, and is not known for having none.
            (Some((known, source, modules)), None) if *known == digest && !digest.as_str().is_empty() => {
                (Some(source.clone()), Ok(modules.clone()))
            }
            (_, None) => (None, Ok(Modules::default())),
        };
        let values = reply.take(3).map(Value::into_array).unwrap_or_default();
        let fields = asked.iter().chain(&MIRROR_FIELDS).zip(&values);
        let fields = fields.filter_map(|(&field, value)| Some((field, lua::lossy(value)?))).collect();
        Some(Self { digest, source, modules, fields })
    }

    fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    fn mirror(&self) -> Mirror {
        let of = |field: &str| self.fields.get(field).cloned();
        Mirror {
            state: of("State"),
            owner: of("Owner"),
            heartbeat: of("Heartbeat"),
            error: of("Error"),
            error_time: of("ErrorTime"),
        }
    }
}

fn parse_read(reply: lua::Reply, known: Option<&Definition>) -> Option<DefinitionRead> {
    let known = known.map(|known| (&known.digest, &known.source, &known.modules));
    let mut raw = Raw::parse(reply, &THREAD_FIELDS, known)?;
    let modules = std::mem::replace(&mut raw.modules, Ok(Modules::default()));
    let fields = Fields {
        status: raw.get("Status"),
        hang: raw.get("Hang"),
        restart: raw.get("Restart"),
        requires: raw.get("Requires"),
        memory_limit: raw.get("MemoryLimit"),
        stack_limit: raw.get("StackLimit"),
        call_timeout: raw.get("CallTimeout"),
        source_limit: raw.get("SourceLimit"),
        http_body_limit: raw.get("HttpBodyLimit"),
        log_line_limit: raw.get("LogLineLimit"),
        restart_at: raw.get("RestartAt"),
    };
    Some(DefinitionRead::new(raw.source.clone(), modules, raw.digest.clone(), &fields, raw.mirror()))
}

fn parse_job(reply: lua::Reply, known: Option<&JobDefinition>) -> Option<JobRead> {
    let known = known.map(|known| (&known.digest, &known.source, &known.modules));
    Some(job_read(Raw::parse(reply, &JOB_FIELDS, known)?))
}

/// A definition of which everything but the source was read: the values of [`JOB_FIELDS`] and [`MIRROR_FIELDS`]. None:
/// there is none.
pub(super) fn job_outline(values: &[Value]) -> Option<JobRead> {
    let fields = JOB_FIELDS.iter().chain(&MIRROR_FIELDS).zip(values);
    let fields: HashMap<_, _> =
        fields.filter_map(|(&field, value)| Some((field, lua::lossy(value)?))).collect();
    let (digest, modules) = (SourceDigest::from_hex(""), Ok(Modules::default()));
    (!fields.is_empty()).then(|| job_read(Raw { digest, source: Some("".into()), modules, fields }))
}

fn job_read(mut raw: Raw) -> JobRead {
    let modules = std::mem::replace(&mut raw.modules, Ok(Modules::default()));
    let fields = JobFields {
        status: raw.get("Status"),
        cron: raw.get("Cron"),
        tz: raw.get("TZ"),
        overlap: raw.get("Overlap"),
        misfire: raw.get("Misfire"),
        misfire_seconds: raw.get("MisfireSeconds"),
        jitter: raw.get("Jitter"),
        timeout: raw.get("Timeout"),
        retries: raw.get("Retries"),
        memory_limit: raw.get("MemoryLimit"),
        stack_limit: raw.get("StackLimit"),
        call_timeout: raw.get("CallTimeout"),
        source_limit: raw.get("SourceLimit"),
        http_body_limit: raw.get("HttpBodyLimit"),
        log_line_limit: raw.get("LogLineLimit"),
        run_at: raw.get("RunAt"),
    };
    JobRead::new(raw.source.clone(), modules, raw.digest.clone(), &fields, raw.mirror())
}

/// The wall clock as people read it, RFC 3339. It decides nothing.
pub(crate) fn wall_clock_text() -> String {
    // A clock beyond the year 9999 has no such text.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let nanos = u64::try_from(unix_nanos()).unwrap_or(u64::MAX);
    let since_1970 = Duration::from_nanos(nanos).min(LAST);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_1970).to_string()
}

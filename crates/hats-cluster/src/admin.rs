//! What an operator does to threads, jobs and endpoints: sub-commands and the registration of scripts and files.
//!
//! All of it writes definitions and, of what the workers own, only what ends the back-off of a thread that nobody owns, what
//! waits of a job that is gone, and what is counted against a task that workers have ended because of. Must always hold: nothing in here can take or double a lease.

mod endpoints;
mod jobs;
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use fred::interfaces::ClientLike;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

pub use self::endpoints::{
    EndpointRow, list_endpoints, put_endpoint, remove_endpoint, set_endpoint_enabled, show_endpoint,
};
pub use self::jobs::{
    JobRow, JobRun, RetryRow, job_book, list_jobs, put_job, remove_job, run_job, set_job_enabled, show_job,
};
pub use self::workers::{WorkerStatus, drain_worker, list_workers, show_worker};
use crate::address::RedisConfig;
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::keys::Keys;
use crate::name::{ClusterName, Task, TaskKind, TaskName};
use crate::records::{
    ClaimRecord, Definition, DefinitionRead, PoisonRecord, RestartPolicy, SessionRecord, State,
};
use crate::store::{Put, Store, wall_clock_text};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Connects for a few commands, trying for so long.
///
/// # Errors
/// [`Error::Refused`] and [`Error::Config`] at once, others when the time is over.
pub async fn connect(redis: &RedisConfig, cluster: ClusterName, within: Duration) -> Result<Store, Error> {
    let deadline = Instant::now() + within;
    let mut last = Error::Timeout;
    loop {
        let client = redis.builder(COMMAND_TIMEOUT)?.build()?;
        match timeout_at(deadline, client.init()).await {
            Ok(Ok(_)) => return Ok(Store::new(client, Keys::new(cluster))),
            Ok(Err(error)) => last = Error::from(error),
            Err(_) => return Err(last),
        }
        if !last.may_pass() || Instant::now() + RETRY_AFTER >= deadline {
            return Err(last);
        }
        sleep(RETRY_AFTER).await;
    }
}

/// What registering a script has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOutcome {
    /// What became of the source.
    pub put: Put,
    /// `Status` says `disabled`, and was left so: the script does not run.
    pub disabled: bool,
}

/// Registers a script as a thread: replaces `Source` if it differs, sets a missing `Status`, leaves `disabled` alone,
/// never touches ownership.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn put_thread(store: &Store, name: &TaskName, source: &str) -> Result<PutOutcome, Error> {
    put_thread_with(store, name, source, &[]).await
}

/// As [`put_thread`], and sets further fields in the same step, [`Modules::fields`](crate::records::Modules::fields)
/// among them.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn put_thread_with(
    store: &Store,
    name: &TaskName,
    source: &str,
    fields: &[(&str, String)],
) -> Result<PutOutcome, Error> {
    let (put, status) = store.put_with(TaskKind::Thread, name, source, fields).await?;
    store.index_add(TaskKind::Thread, std::slice::from_ref(name)).await?;
    Ok(PutOutcome { put, disabled: status == "disabled" })
}

/// Enables or disables a thread. Enabling ends a back-off, and forgets crashes of workers. False: there is no such thread.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn set_enabled(store: &Store, name: &TaskName, enabled: bool) -> Result<bool, Error> {
    if !enabled {
        return store.disable(name).await;
    }
    // These first: whoever notices the new status finds nothing in the way any more.
    store.pardon(name).await?;
    store.absolve(&Task::thread(name)).await?;
    store.edit(TaskKind::Thread, name, &[("Status", "enabled".to_owned())]).await
}

/// Restarts a thread: on its owner, in good order; one that waits for a back-off starts at once. What is counted against
/// it for crashes of workers stays. False: there is no such thread.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn restart(store: &Store, name: &TaskName) -> Result<bool, Error> {
    // The time is for people, the nonce makes it another value than any before.
    let restart_at = format!("{} {}", wall_clock_text(), Nonce::random());
    store.pardon(name).await?;
    store.edit(TaskKind::Thread, name, &[("RestartAt", restart_at)]).await
}

/// Removes a thread: its owner stops it. False: there is no such thread.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn remove(store: &Store, name: &TaskName) -> Result<bool, Error> {
    let existed = store.delete_definition(TaskKind::Thread, name).await?;
    store.index_remove(TaskKind::Thread, std::slice::from_ref(name)).await?;
    store.retire(name, None).await?;
    Ok(existed)
}

/// A thread, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadRow {
    /// Its name.
    pub name: String,
    /// `enabled` or `disabled`.
    pub status: &'static str,
    /// `stopped`, `running` or `crashed`.
    pub state: &'static str,
    /// The worker that owns it now.
    pub owner: Option<String>,
    /// The epoch of the last claim.
    pub epoch: u64,
    /// Failures in a row.
    pub restarts: u32,
    /// For so long it does not start yet, after a failure or while it is set aside.
    pub waits_ms: Option<u64>,
    /// Crashes of workers that count against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poison: Option<PoisonRow>,
    /// The last error; a malformed field comes first.
    pub error: Option<String>,
    /// When it happened.
    pub error_time: Option<String>,
    /// The pause between calls of main.
    pub hang_ms: Option<u64>,
    /// `on-failure` or `never`.
    pub restart: Option<&'static str>,
    /// The length of the source, its modules included.
    pub source_bytes: Option<usize>,
    /// The source, in [`show_thread`] only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The files that it imports, in [`show_thread`] only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub modules: BTreeMap<String, String>,
}

/// Crashes of workers that count against a task, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoisonRow {
    /// How many in a row.
    pub deaths: u32,
    /// What the task did at the last of them.
    pub reason: String,
    /// For so much longer it is set aside.
    pub set_aside_ms: Option<u64>,
}

impl fmt::Display for PoisonRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deaths, reason, set_aside_ms } = self;
        write!(f, "{deaths} worker crashes in a row, the last because {reason}")?;
        match set_aside_ms {
            Some(ms) => write!(f, "; set aside for {:?} more", Duration::from_secs(ms.div_ceil(1000))),
            None => Ok(()),
        }
    }
}

/// What counts against these tasks, in order.
async fn poison_rows(store: &Store, tasks: &[Task], server_ms: u64) -> Result<Vec<Option<PoisonRow>>, Error> {
    let records = store.read_poison(tasks).await?;
    let row = |record: PoisonRecord| PoisonRow {
        deaths: record.deaths,
        set_aside_ms: record.left(server_ms).map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        reason: record.reason,
    };
    Ok(records.into_iter().map(|record| (record.deaths > 0).then(|| row(record))).collect())
}

/// All threads, by name.
///
/// # Errors
/// When Redis does not answer.
pub async fn list_threads(store: &Store) -> Result<Vec<ThreadRow>, Error> {
    let mut names = store.scan_definitions(TaskKind::Thread).await?;
    names.sort();
    rows(store, names).await
}

/// One thread, with its source.
///
/// # Errors
/// When Redis does not answer.
pub async fn show_thread(store: &Store, name: &TaskName) -> Result<Option<ThreadRow>, Error> {
    let mut row = rows(store, vec![name.clone()]).await?.pop();
    if let Some(row) = &mut row {
        let read = store.read_definition(name, None).await?;
        if let Some(definition) = read.and_then(|read| read.definition.ok()) {
            row.source = Some(definition.source.to_string());
            let files = definition.modules.files.iter();
            row.modules = files.map(|(path, text)| (path.clone(), text.to_string())).collect();
        }
    }
    Ok(row)
}

async fn rows(store: &Store, names: Vec<TaskName>) -> Result<Vec<ThreadRow>, Error> {
    let server_ms = store.server_time().await?;
    let claims = store.check(&names).await?;
    let mut sessions: Vec<SessionId> = claims.iter().filter_map(|claim| claim.session.clone()).collect();
    sessions.sort();
    sessions.dedup();
    let sample = store.sample(&sessions).await?;
    let sessions: HashMap<_, _> =
        sample.sessions.into_iter().filter_map(|(id, record)| Some((id, record?))).collect();
    let asked: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
    let reads = store.read_definitions(&asked).await;
    let mut rows = Vec::with_capacity(asked.len());
    let tasks: Vec<Task> = asked.iter().map(|(name, _)| Task::thread(name)).collect();
    let poison = poison_rows(store, &tasks, server_ms).await?;
    for ((((name, _), claim), read), poison) in asked.iter().zip(&claims).zip(reads).zip(poison) {
        // One that was deleted in between is left out.
        if let Some(read) = read? {
            let owner = claim.session.as_ref().and_then(|id| sessions.get(id)).filter(|record| record.alive);
            rows.push(row(name, &read, claim, owner, poison, server_ms));
        }
    }
    Ok(rows)
}

fn row(
    name: &TaskName,
    read: &DefinitionRead,
    claim: &ClaimRecord,
    owner: Option<&SessionRecord>,
    poison: Option<PoisonRow>,
    server_ms: u64,
) -> ThreadRow {
    let definition = read.definition.as_ref().ok();
    let mirrored = read.mirror.state.as_deref();
    let state = match (mirrored, owner) {
        (Some("crashed"), _) => State::Crashed,
        (Some("running"), Some(_)) => State::Running,
        // Whatever stands there by hand or was left by a worker that died.
        _ => State::Stopped,
    };
    let set_aside = poison.as_ref().and_then(|poison| poison.set_aside_ms).filter(|_| owner.is_none());
    let waits_ms = claim.next_start_ms.saturating_sub(server_ms).max(set_aside.unwrap_or(0));
    ThreadRow {
        name: name.to_string(),
        status: if read.enabled { "enabled" } else { "disabled" },
        state: state.as_str(),
        owner: owner.map(|record| record.name.clone()),
        epoch: claim.epoch,
        restarts: claim.restarts,
        waits_ms: Some(waits_ms).filter(|wait| *wait > 0 && owner.is_none()),
        poison,
        error: match &read.definition {
            Err(error) => Some(error.to_string()),
            Ok(_) => read.mirror.error.clone(),
        },
        error_time: read.mirror.error_time.clone(),
        hang_ms: definition.map(|definition| u64::try_from(definition.hang.as_millis()).unwrap_or(u64::MAX)),
        restart: definition.map(|definition| match definition.restart {
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Never => "never",
        }),
        source_bytes: definition.map(Definition::source_bytes),
        source: None,
        modules: BTreeMap::new(),
    }
}

//! What an operator does to jobs.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::{PoisonRow, PutOutcome, poison_rows};
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::name::{Task, TaskKind, TaskName};
use crate::records::{JobDefinition, JobRead, RunRecord, State, TickCounts, TicksBook, TicksRecord};
use crate::store::{Store, wall_clock_text};

/// Registers a script as a job: replaces `Source` if it differs, sets these fields (`Cron`, `TZ` and the like, and
/// [`Modules::fields`](crate::records::Modules::fields)) in the same step, sets a missing `Status`, leaves `disabled`
/// alone. It makes no tick: the same job once more changes nothing.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn put_job(
    store: &Store,
    name: &TaskName,
    source: &str,
    fields: &[(&str, String)],
) -> Result<PutOutcome, Error> {
    let (put, status) = store.put_with(TaskKind::Job, name, source, fields).await?;
    store.index_add(TaskKind::Job, std::slice::from_ref(name)).await?;
    Ok(PutOutcome { put, disabled: status == "disabled" })
}

/// Enables or disables a job. Nothing is counted for the time that it is off. Enabling forgets crashes of workers. False: there is no such job.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn set_job_enabled(store: &Store, name: &TaskName, enabled: bool) -> Result<bool, Error> {
    if enabled {
        store.absolve(&Task::job(name)).await?;
    }
    let status = if enabled { "enabled" } else { "disabled" };
    store.edit(TaskKind::Job, name, &[("Status", status.to_owned())]).await
}

/// Asks for a run beside the schedule: some worker takes it as soon as no other run is in its way. It moves no tick.
/// False: there is no such job.
///
/// # Errors
/// When the outcome is not known; repeated, it may ask for a second run.
pub async fn run_job(store: &Store, name: &TaskName) -> Result<bool, Error> {
    // The time is for people, the nonce makes it another value than any before.
    let run_at = format!("{} {}", wall_clock_text(), Nonce::random());
    store.edit(TaskKind::Job, name, &[("RunAt", run_at)]).await
}

/// Removes a job: a run that has begun is asked to stop, what waits is dropped, the ledger goes in 24 hours. False: there
/// is no such job.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn remove_job(store: &Store, name: &TaskName) -> Result<bool, Error> {
    let existed = store.delete_definition(TaskKind::Job, name).await?;
    store.index_remove(TaskKind::Job, std::slice::from_ref(name)).await?;
    // While something runs the workers see to it, when that has ended.
    store.retire_ticks(name).await?;
    Ok(existed)
}

/// A job, for people. Instants are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRow {
    /// Its name.
    pub name: String,
    /// `enabled` or `disabled`.
    pub status: &'static str,
    /// `running` while something runs, `crashed` if the last run that said so has failed or the definition cannot be
    /// used, else `stopped`.
    pub state: &'static str,
    /// The schedule, none if the definition is malformed.
    pub cron: Option<String>,
    /// Its zone.
    pub tz: Option<String>,
    /// `forbid`, `buffer`, `allow` or `replace`.
    pub overlap: Option<&'static str>,
    /// `once`, `skip` or `all`.
    pub misfire: Option<&'static str>,
    /// So old ticks are still made up for.
    pub misfire_seconds: Option<u64>,
    /// Each tick is delayed by up to this.
    pub jitter_seconds: Option<u64>,
    /// How long one run may take.
    pub timeout_seconds: Option<u64>,
    /// How often a failed run is tried again.
    pub retries: Option<u32>,
    /// The last tick that was decided, or since when they are counted.
    pub last_tick_ms: Option<i64>,
    /// Where the grid of an `@every` begins.
    pub anchor_ms: Option<i64>,
    /// A tick that waits for the end of a run.
    pub pending_ms: Option<i64>,
    /// What runs now.
    pub runs: Vec<JobRun>,
    /// What failed and is due again.
    pub due_again: Vec<RetryRow>,
    /// What became of the ticks so far.
    pub counts: TickCounts,
    /// Crashes of workers that count against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poison: Option<PoisonRow>,
    /// The last error; a malformed field comes first.
    pub error: Option<String>,
    /// When it happened.
    pub error_time: Option<String>,
    /// The length of the source, its modules included.
    pub source_bytes: Option<usize>,
    /// The source, in [`show_job`] only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The files that it imports, in [`show_job`] only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub modules: BTreeMap<String, String>,
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRun {
    /// Its tick, or when it was asked for.
    pub tick_ms: i64,
    /// Asked for by an operator.
    pub manual: bool,
    /// By whom it runs.
    pub worker: String,
    /// From 1.
    pub attempt: u32,
    /// The fence.
    pub epoch: u64,
    /// When it was granted, by Redis' clock.
    pub started_ms: i64,
    /// It was asked to end.
    pub cancelled: bool,
    /// Its worker's session is alive. Else the others are about to settle it.
    pub alive: bool,
}

/// A run that failed and is due again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryRow {
    /// Its tick.
    pub tick_ms: i64,
    /// The attempt that is to come.
    pub attempt: u32,
    /// When.
    pub at_ms: i64,
}

/// All jobs, by name.
///
/// # Errors
/// When Redis does not answer.
pub async fn list_jobs(store: &Store) -> Result<Vec<JobRow>, Error> {
    let mut names = store.scan_definitions(TaskKind::Job).await?;
    names.sort();
    Ok(rows(store, names).await?.into_iter().map(|(row, _)| row).collect())
}

/// One job, with its source.
///
/// # Errors
/// When Redis does not answer.
pub async fn show_job(store: &Store, name: &TaskName) -> Result<Option<JobRow>, Error> {
    let Some((mut row, definition)) = rows(store, vec![name.clone()]).await?.pop() else { return Ok(None) };
    if let Some(definition) = definition {
        row.source = Some(definition.source.to_string());
        let files = definition.modules.files.iter();
        row.modules = files.map(|(path, text)| (path.clone(), text.to_string())).collect();
    }
    Ok(Some(row))
}

/// What is written down about the ticks of a job: counts, ledger and history, for a day even if the job is gone. None:
/// there is no such job.
///
/// # Errors
/// When Redis does not answer.
pub async fn job_book(store: &Store, name: &TaskName) -> Result<Option<TicksBook>, Error> {
    match store.read_book(name).await? {
        Some(book) => Ok(Some(book)),
        None => {
            let (status, _) = store.status_and_state(TaskKind::Job, name).await?;
            Ok((status != "deleted").then(TicksBook::default))
        }
    }
}

async fn rows(store: &Store, names: Vec<TaskName>) -> Result<Vec<(JobRow, Option<JobDefinition>)>, Error> {
    let records: Vec<TicksRecord> = store.read_ticks(&names).await.into_iter().collect::<Result<_, _>>()?;
    let counts: Vec<TickCounts> = store.read_counts(&names).await.into_iter().collect::<Result<_, _>>()?;
    let sessions: HashSet<&SessionId> =
        records.iter().flat_map(|record| &record.runs).map(|run| &run.session).collect();
    let sessions: Vec<SessionId> = sessions.into_iter().cloned().collect();
    let sample = store.sample(&sessions).await?.sessions;
    let alive: HashSet<SessionId> = sample
        .into_iter()
        .filter(|(_, record)| record.as_ref().is_some_and(|one| one.alive))
        .map(|(id, _)| id)
        .collect();
    let asked: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
    let reads = store.read_jobs(&asked).await;
    let mut rows = Vec::with_capacity(asked.len());
    let tasks: Vec<Task> = asked.iter().map(|(name, _)| Task::job(name)).collect();
    let poison = poison_rows(store, &tasks, store.server_time().await?).await?;
    for (((((name, _), record), counts), read), poison) in
        asked.iter().zip(&records).zip(counts).zip(reads).zip(poison)
    {
        // One that was deleted in between is left out.
        if let Some(read) = read? {
            let row = JobRow { poison, ..row(name, &read, record, counts, &alive) };
            rows.push((row, read.definition.ok()));
        }
    }
    Ok(rows)
}

fn row(
    name: &TaskName,
    read: &JobRead,
    record: &TicksRecord,
    counts: TickCounts,
    alive: &HashSet<SessionId>,
) -> JobRow {
    let definition = read.definition.as_ref().ok();
    let run = |run: &RunRecord| JobRun {
        tick_ms: run.tick_ms,
        manual: run.manual,
        worker: run.worker.clone(),
        attempt: run.attempt,
        epoch: run.epoch,
        started_ms: run.started_ms,
        cancelled: run.cancelled,
        alive: alive.contains(&run.session),
    };
    let runs: Vec<JobRun> = record.runs.iter().map(run).collect();
    let state = if runs.iter().any(|run| run.alive) {
        State::Running
    } else if definition.is_none() || read.mirror.state.as_deref() == Some("crashed") {
        State::Crashed
    } else {
        State::Stopped
    };
    let again = record.retries.iter();
    JobRow {
        name: name.to_string(),
        status: if read.enabled { "enabled" } else { "disabled" },
        state: state.as_str(),
        cron: definition.map(|job| job.cron.to_string()),
        tz: definition.and_then(|job| job.tz.as_deref()).map(str::to_owned),
        overlap: definition.map(|job| job.overlap.as_str()),
        misfire: definition.map(|job| job.misfire.as_str()),
        misfire_seconds: definition.map(|job| job.misfire_look_back.as_secs()),
        jitter_seconds: definition.map(|job| job.jitter.as_secs()),
        timeout_seconds: definition.map(|job| job.timeout.as_secs()),
        retries: definition.map(|job| job.retries),
        last_tick_ms: record.last_ms,
        anchor_ms: record.anchor_ms,
        pending_ms: record.pending_ms,
        runs,
        due_again: again
            .map(|again| RetryRow { tick_ms: again.tick_ms, attempt: again.attempt, at_ms: again.at_ms })
            .collect(),
        counts,
        poison: None,
        error: match &read.definition {
            Err(error) => Some(error.to_string()),
            Ok(_) => read.mirror.error.clone(),
        },
        error_time: read.mirror.error_time.clone(),
        source_bytes: definition.map(JobDefinition::source_bytes),
        source: None,
        modules: BTreeMap::new(),
    }
}

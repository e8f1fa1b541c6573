//! Jobs, for the sub-commands and for programs of one's own: what a schedule says, what a job may say about itself, and
//! what an operator does to the jobs of a cluster.
//!
//! No worker is needed to write or read, only the cluster's Redis; a run needs one. Nothing in here grants a tick: workers
//! see what was changed and act on it.

mod header;
mod options;
mod preview;

use std::time::Duration;

use hats_cluster::admin;
use hats_cluster::name::TaskName;
use hats_cluster::records::{JobDefinition, JobRead};
use hats_cluster::store::Store;
use hats_scheduler::cron::{Schedule, UnixSeconds};

use crate::Error;
use crate::admin::{check_length, checked, connect};
use crate::config::{AdminConfig, Bundle};
use crate::registration::modules;

pub use self::options::JobOptions;
pub(crate) use self::options::{nearest_field, no_schedule};
pub use self::preview::{Preview, Run, preview};
pub use hats_cluster::admin::{JobRow, JobRun, PutOutcome, RetryRow};
pub use hats_cluster::records::{HistoryEntry, LedgerEntry, TickCounts, TickOutcome, TicksBook};

/// Between two looks at a run that is waited for, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The jobs of a cluster.
#[derive(Clone, Debug)]
pub struct Jobs {
    store: Store,
}

/// A run that was asked for by hand, see [`Jobs::run`].
#[derive(Clone, Debug)]
pub struct AskedRun {
    name: TaskName,
    run_at: String,
    /// The fence of the last run that had been granted when this one was asked for: its own is higher.
    epoch_before: u64,
}

impl Jobs {
    /// Connects to a cluster's Redis, for a few commands.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::Config`] at once, [`Error::Unreachable`] after 10 s.
    pub async fn connect(config: &AdminConfig) -> Result<Self, Error> {
        Ok(Self { store: connect(config).await? })
    }

    /// Registers a script: replaces `Source` and its modules if they differ, sets a missing `Status` and what the options
    /// say. A text is a script too, by `into()`; what is in files, [`Source`](crate::bundle::Source) reads. What the
    /// header of the script says is heeded only if it is among the options, see [`JobOptions::of_script`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a name, a source or an option that cannot be used, and for a new job without a schedule;
    /// otherwise the outcome is not known, and it may be repeated.
    pub async fn put(
        &self,
        name: &str,
        source: impl Into<Bundle>,
        options: &JobOptions,
    ) -> Result<PutOutcome, Error> {
        let name = checked(name)?;
        let source = source.into();
        let (fields, limits) = options.checked_fields()?;
        check_length(&source, &limits)?;
        if options.cron.is_none() && !self.has_schedule(&name).await? {
            return Err(Error::Config(options::no_schedule(name.as_str())));
        }
        let modules = modules(&source).fields();
        let modules = modules.iter().map(|(field, text)| (field.as_str(), text.clone()));
        let fields: Vec<_> = fields.into_iter().chain(modules).collect();
        Ok(admin::put_job(&self.store, &name, &source.main, &fields).await?)
    }

    /// All jobs, by name, without their sources.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn list(&self) -> Result<Vec<JobRow>, Error> {
        let mut rows = admin::list_jobs(&self.store).await?;
        rows.iter_mut().for_each(say_bad_schedule);
        Ok(rows)
    }

    /// One job, with its source.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such job.
    pub async fn show(&self, name: &str) -> Result<JobRow, Error> {
        let row = admin::show_job(&self.store, &checked(name)?).await?;
        let mut row = row.ok_or_else(|| no_such_job(name))?;
        say_bad_schedule(&mut row);
        Ok(row)
    }

    /// What is written down about the ticks of a job: counts, ledger and history, the newest first. They stay for a day
    /// after the job was removed.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such job.
    pub async fn book(&self, name: &str) -> Result<TicksBook, Error> {
        let book = admin::job_book(&self.store, &checked(name)?).await?;
        book.ok_or_else(|| no_such_job(name))
    }

    /// Lets a job run.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such job.
    pub async fn enable(&self, name: &str) -> Result<(), Error> {
        there_was(admin::set_job_enabled(&self.store, &checked(name)?, true).await?, name)
    }

    /// Lets a job run no more, until it is enabled. A run that has begun is asked to stop.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such job.
    pub async fn disable(&self, name: &str) -> Result<(), Error> {
        there_was(admin::set_job_enabled(&self.store, &checked(name)?, false).await?, name)
    }

    /// Removes a job. A run that has begun is asked to stop.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such job.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        there_was(admin::remove_job(&self.store, &checked(name)?).await?, name)
    }

    /// Asks for a run beside the schedule, also of a disabled job: some worker takes it as soon as no other run is in its
    /// way. Of several that are asked for meanwhile, only the last one is granted.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such job, or none that could run.
    pub async fn run(&self, name: &str) -> Result<AskedRun, Error> {
        let task = checked(name)?;
        let definition = self.read(&task, None).await?;
        let before = self.store.read_ticks(std::slice::from_ref(&task)).await;
        let epoch_before = before.into_iter().next().transpose()?.unwrap_or_default().epoch;
        there_was(admin::run_job(&self.store, &task).await?, name)?;
        let asked = self.read(&task, Some(definition)).await?;
        let run_at = asked.run_at.as_deref().unwrap_or_default().to_owned();
        Ok(AskedRun { name: task, run_at, epoch_before })
    }

    /// Waits for the end of a run that was asked for. If another one was asked for before it was granted, that is the one
    /// that is waited for. Without a worker it waits without end.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when the job is removed, or changed to one that cannot run, before it has begun. A run that
    /// fails is no error here.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the run goes on.
    pub async fn wait(&self, asked: AskedRun) -> Result<HistoryEntry, Error> {
        let AskedRun { name, mut run_at, epoch_before } = asked;
        let mut granted = None;
        let mut known = None;
        let mut pause = PAUSE;
        loop {
            let book = self.store.read_book(&name).await?.unwrap_or_default();
            if granted.is_none() && book.record.manual.as_deref() == Some(&run_at) {
                let running = book.record.runs.iter().filter(|run| run.manual).map(|run| run.epoch);
                let ended = book.history.iter().filter(|run| run.manual).map(|run| run.epoch);
                granted = running.chain(ended).filter(|epoch| *epoch > epoch_before).max();
                if granted.is_none() {
                    return Err(Error::Failed(format!("{name}: the run was granted, but nothing has run")));
                }
            }
            match granted {
                Some(epoch) => {
                    let is_open = book.record.runs.iter().any(|run| run.epoch == epoch);
                    match book.history.into_iter().find(|run| run.epoch == epoch) {
                        Some(run) => return Ok(run),
                        None if is_open => {}
                        None => {
                            return Err(Error::Failed(format!("{name}: the run has ended before it began")));
                        }
                    }
                }
                None => {
                    let definition = self.read(&name, known.take()).await?;
                    run_at = definition.run_at.as_deref().unwrap_or_default().to_owned();
                    known = Some(definition);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The definition of a job that can run.
    async fn read(&self, name: &TaskName, known: Option<JobDefinition>) -> Result<JobDefinition, Error> {
        let Some(read) = self.read_one(name, known).await? else { return Err(no_such_job(name.as_str())) };
        let definition = read.definition.map_err(|error| error.to_string()).and_then(|definition| {
            Schedule::parse(&definition.cron, definition.tz.as_deref())
                .map(|_| definition)
                .map_err(|error| error.to_string())
        });
        definition.map_err(|error| Error::Failed(format!("{name} cannot run: {error}")))
    }

    async fn has_schedule(&self, name: &TaskName) -> Result<bool, Error> {
        let read = self.read_one(name, None).await?;
        Ok(read.is_some_and(|read| read.definition.map_or_else(|error| error.field != "Cron", |_| true)))
    }

    async fn read_one(
        &self,
        name: &TaskName,
        known: Option<JobDefinition>,
    ) -> Result<Option<JobRead>, Error> {
        let mut reads = self.store.read_jobs(&[(name.clone(), known)]).await;
        Ok(reads.pop().transpose()?.flatten())
    }
}

/// The next tick of a job, in milliseconds since 1970. None while it is disabled or cannot run, and for an `@every` that
/// no worker has seen yet.
#[must_use]
pub fn next_tick_ms(row: &JobRow) -> Option<i64> {
    let cron = row.cron.as_deref().filter(|_| row.status == "enabled")?;
    let schedule = Schedule::parse(cron, row.tz.as_deref()).ok()?;
    let schedule = match row.anchor_ms {
        Some(anchor) => schedule.anchored(UnixSeconds::of_millis(anchor)),
        None if schedule.is_interval() => return None,
        None => schedule,
    };
    let decided = row.last_tick_ms.map_or(preview::now(), UnixSeconds::of_millis);
    schedule.next_after(preview::now().max(decided)).map(UnixSeconds::as_millis)
}

/// An instant in milliseconds since 1970 in the form of RFC 3339, to the second.
#[must_use]
pub fn instant(ms: i64) -> String {
    UnixSeconds::of_millis(ms).to_string()
}

/// A schedule that cannot be used is said even if no worker has looked at it yet.
fn say_bad_schedule(row: &mut JobRow) {
    if let Some(Err(error)) = row.cron.as_deref().map(|cron| Schedule::parse(cron, row.tz.as_deref())) {
        row.state = "crashed";
        row.error = Some(error.to_string());
    }
}

fn there_was(job: bool, name: &str) -> Result<(), Error> {
    if job { Ok(()) } else { Err(no_such_job(name)) }
}

fn no_such_job(name: &str) -> Error {
    Error::Failed(format!("there is no job `{}`", name.escape_debug()))
}

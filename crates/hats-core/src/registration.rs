//! Registers the scripts, jobs and endpoints that a worker was given, and registers them again when Redis has lost
//! everything.
//!
//! What must hold: registering replaces a source only at the worker's start. Later a script comes back only where
//! nothing at all is left of it, neither definition nor claim, or ticks: what an operator has changed or removed meanwhile
//! is theirs to decide, and claims and ticks outlive a definition for long enough to tell. Of an endpoint nothing outlives
//! its definition: endpoints come back only where not one of them is left.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hats_cluster::name::{EndpointPath, TaskKind, TaskName};
use hats_cluster::records::Modules;
use hats_cluster::store::{Put, Store};
use hats_cluster::{Handle, admin};
use tokio::sync::Notify;

use crate::Error;
use crate::config::{Bundle, Endpoint, Job, Script};
use crate::endpoints;
use crate::jobs::preview;

/// Between two rounds of tries, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Sees to it that the scripts are there.
pub(crate) struct Registrar {
    cluster: Handle,
    store: Store,
    tasks: Vec<Task>,
    endpoints: Vec<Endpoint>,
    run_now: bool,
    /// Told at each loss of a session: the loss of all data is one of its causes.
    session_lost: Arc<Notify>,
}

/// What is to be there: a thread or a job.
struct Task {
    kind: TaskKind,
    name: TaskName,
    source: Bundle,
    /// What else its definition says.
    fields: Vec<(&'static str, String)>,
}

impl Registrar {
    /// # Errors
    /// [`Error::Config`] for a job that no worker would understand.
    pub(crate) fn new(
        cluster: Handle,
        scripts: Vec<Script>,
        jobs: Vec<Job>,
        endpoints: Vec<Endpoint>,
        run_now: bool,
        session_lost: Arc<Notify>,
    ) -> Result<Self, Error> {
        let store = cluster.store();
        let threads = scripts.into_iter().map(|script| {
            Ok(Task { kind: TaskKind::Thread, name: script.name, source: script.source, fields: Vec::new() })
        });
        let jobs = jobs.into_iter().map(|job| {
            let (fields, _) = job.options.checked_fields()?;
            Ok(Task { kind: TaskKind::Job, name: job.name, source: job.source, fields })
        });
        let tasks = threads.chain(jobs).collect::<Result<_, Error>>()?;
        Ok(Registrar { cluster, store, tasks, endpoints, run_now, session_lost })
    }

    /// Registers, and watches for the loss of everything for as long as it is polled.
    pub(crate) async fn run(&self) -> Infallible {
        self.all(When::Start).await;
        loop {
            self.session_lost.notified().await;
            self.all(When::Later).await;
        }
    }

    async fn all(&self, when: When) {
        let register = async |task: &&Task| {
            self.register(task, when).await.inspect_err(|error| {
                tracing::warn!(task = %task.name, kind = %task.kind, %error, "cannot register it yet");
            })
        };
        until_done(self.tasks.iter().collect(), register).await;
        if !self.endpoints.is_empty() {
            self.all_endpoints(when).await;
        }
    }

    async fn all_endpoints(&self, when: When) {
        let paths: Vec<EndpointPath> = self.endpoints.iter().map(|one| one.path.clone()).collect();
        let lost = async |(): &()| {
            let outlines = self.store.outline_endpoints(&paths).await.into_iter();
            let outlines = outlines.collect::<Result<Vec<_>, _>>().inspect_err(|error| {
                tracing::warn!(kind = "endpoint", %error, "cannot see yet which are registered");
            })?;
            Ok::<_, hats_cluster::Error>(outlines.iter().all(Option::is_none))
        };
        if when == When::Later && until_done(vec![()], lost).await.contains(&false) {
            return;
        }
        let register = async |endpoint: &&Endpoint| {
            self.register_endpoint(endpoint).await.inspect_err(|error| {
                tracing::warn!(task = %endpoint.path, kind = "endpoint", %error, "cannot register it yet");
            })
        };
        let put = until_done(self.endpoints.iter().collect(), register).await;
        let count = |wanted: Put| put.iter().filter(|put| **put == wanted).count();
        let (new, changed, same) = (count(Put::Created), count(Put::Updated), count(Put::Unchanged));
        tracing::info!(new, changed, same, "endpoints registered");
    }

    async fn register_endpoint(&self, endpoint: &Endpoint) -> Result<Put, hats_cluster::Error> {
        let Endpoint { path, file } = endpoint;
        let outcome = endpoints::put(&self.store, path, file, Vec::new()).await?;
        if outcome.put != Put::Unchanged {
            self.cluster.look_at_endpoint(path.clone());
        }
        let what = match outcome.put {
            Put::Created => "registered",
            Put::Updated => "registered with what is new about it",
            Put::Unchanged => "registered already",
        };
        let (task, kind) = (path, TaskKind::Endpoint);
        if outcome.disabled {
            tracing::warn!(%task, %kind, "{what}, but its status is disabled: it is not served until it is enabled");
        } else if outcome.put == Put::Unchanged {
            tracing::debug!(%task, %kind, "{what}");
        } else {
            tracing::info!(%task, %kind, "{what}");
        }
        Ok(outcome.put)
    }

    async fn register(&self, task: &Task, when: When) -> Result<(), hats_cluster::Error> {
        let (kind, name) = (task.kind, &task.name);
        if when == When::Later && self.is_known(task).await? {
            return Ok(());
        }
        let runs_here = kind == TaskKind::Thread && self.run_now && when == When::Start;
        if runs_here {
            self.cluster.prefer(name).await?;
        }
        let modules = modules(&task.source).fields();
        let modules = modules.iter().map(|(field, text)| (field.as_str(), text.clone()));
        let fields: Vec<_> = task.fields.iter().cloned().chain(modules).collect();
        let outcome = match kind {
            TaskKind::Job => admin::put_job(&self.store, name, &task.source.main, &fields).await?,
            _ => admin::put_thread_with(&self.store, name, &task.source.main, &fields).await?,
        };
        if kind == TaskKind::Thread {
            self.cluster.look(vec![name.clone()]);
            if runs_here {
                // Each at once and not when all are registered: peers see the new ones as soon as this worker does.
                self.cluster.claim_now(vec![name.clone()]);
            }
        }
        let what = match (outcome.put, kind) {
            (Put::Created, _) => "registered",
            (Put::Updated, TaskKind::Job) => "registered with what is new about it",
            (Put::Updated, _) => "registered with a new source",
            (Put::Unchanged, _) => "registered already",
        };
        if outcome.disabled {
            tracing::warn!(task = %name, %kind, "{what}, but its status is disabled: it does not run until it is enabled");
        } else {
            tracing::info!(task = %name, %kind, "{what}");
        }
        if kind == TaskKind::Job {
            say_schedule(name, &task.fields);
        }
        Ok(())
    }

    /// Whether anything is left of a task.
    async fn is_known(&self, task: &Task) -> Result<bool, hats_cluster::Error> {
        let name = std::slice::from_ref(&task.name);
        if task.kind == TaskKind::Job {
            let (status, _) = self.store.status_and_state(TaskKind::Job, &task.name).await?;
            let ticks = self.store.read_ticks(name).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            return Ok(status != "deleted" || ticks.iter().any(|ticks| ticks.last_ms.is_some()));
        }
        if self.store.read_definition(&task.name, None).await?.is_some() {
            return Ok(true);
        }
        let claims = self.store.check(name).await?;
        Ok(claims.iter().any(|claim| claim.epoch > 0))
    }
}

/// Tries until each has its answer, and gives these, in no order. One that fails does not keep the others waiting.
async fn until_done<T, A, E>(all: Vec<T>, attempt: impl AsyncFn(&T) -> Result<A, E>) -> Vec<A> {
    let mut left = all;
    let mut answers = Vec::with_capacity(left.len());
    let mut pause = PAUSE;
    loop {
        let mut failed = Vec::new();
        for one in left {
            match attempt(&one).await {
                Ok(answer) => answers.push(answer),
                Err(_) => failed.push(one),
            }
        }
        if failed.is_empty() {
            return answers;
        }
        left = failed;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Logs what the schedule of a job means, so that one that was meant otherwise is noticed before it is due.
fn say_schedule(name: &TaskName, fields: &[(&'static str, String)]) {
    let field = |wanted: &str| {
        let found = fields.iter().find(|(field, _)| *field == wanted);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let Some(cron) = field("Cron") else { return };
    if let Ok(preview) = preview(cron, field("TZ"), None, 1) {
        let next = preview.runs.first().map_or("-", |run| run.utc.as_str());
        tracing::info!(task = %name, kind = "job", schedule = preview.sentence, next, note = preview.note, "scheduled");
    }
}

/// What a source imports, as it stands in Redis.
pub(crate) fn modules(source: &Bundle) -> Modules {
    Modules { main: source.file.clone(), files: source.modules.clone() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Start,
    Later,
}

//! What is asked of Redis about one job, and a run of it from the grant to the answered end, as straight code.
//!
//! ```text
//!  ask ──refused──▶ told to the loop
//!   └─granted──▶ the definition is read once more ──▶ run ──▶ finish (until it is answered) ─┐
//!                 └─ disabled, gone, another ──▶ skipped ──▶ finish                         │
//!                       ▲────────────────── what waited is granted in the same step ◀───────┘
//! ```
//!
//! What must hold: a nonce is in [`Runs`](super::Runs) before it is sent. A run whose lease is lost is not finished by us:
//! the death of its session says it all, and whoever learns of that settles it.

use std::sync::Arc;
use std::time::Duration;

use hats_cluster::Error;
use hats_cluster::id::{Nonce, SessionId};
use hats_cluster::lease::Lease;
use hats_cluster::name::{TaskKind, TaskName};
use hats_cluster::records::{JobDefinition, JobRead, Mirror, State, TickOutcome, TicksRecord};
use hats_cluster::store::{Asked, Ended, MirrorUpdate, Run, Said, Store, TickAnswer, TickRequest, Waiting};
use hats_script::{BoxFuture, span};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::plan::Next;
use super::table::{self, Known, Ready, Step};
use super::{Answer, Done, Shared};
use crate::call_log::Caller;
use crate::control::Audit;
use crate::metrics;
use crate::restart;
use crate::runner::bundle;
use crate::runner::job::{self, Outcome, Record, RunReport, Wanted};

/// Between two tries of the same question, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A tick that Redis' clock has not reached is asked for again after this.
const EARLY_MS: i64 = 5;
/// After an answer that should not have been.
const REST_MS: i64 = 1000;

/// What a question is about.
pub(super) struct Question {
    pub(super) name: TaskName,
    pub(super) known: Known,
    /// The last definition that was read whole: its source need not be fetched again.
    pub(super) read: Option<JobDefinition>,
    pub(super) ticks: TicksRecord,
    pub(super) lease: Lease,
    /// Sessions that the record names and that are known to be dead.
    pub(super) dead: Vec<SessionId>,
}

/// A run of ours that is in the table, from before it is asked for. Nobody attends to it any more when this goes.
struct Entered {
    shared: Arc<Shared>,
    by: Asked,
    wanted: watch::Receiver<Wanted>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.shared.runs.leave(&self.by.nonce);
    }
}

impl Entered {
    /// None: this worker takes nothing any more.
    fn new(shared: &Arc<Shared>, question: &Question) -> Option<Self> {
        let nonce = Nonce::random();
        let wanted = shared.runs.enter(&shared.drain, &nonce, &question.name)?;
        let session = question.lease.session().clone();
        let by = Asked { session, nonce, worker: shared.worker.clone() };
        Some(Self { shared: shared.clone(), by, wanted })
    }

    /// Redis has granted it.
    fn granted(self, run: Run, def: String, manual: bool) -> Granted {
        self.shared.runs.begun(&self.by.nonce);
        Granted { run, entered: self, def, manual }
    }
}

/// A run that was granted.
struct Granted {
    run: Run,
    entered: Entered,
    /// The definition it was granted under.
    def: String,
    manual: bool,
}

/// What Redis keeps of the ticks of a job, as it was when a run had ended.
pub(super) struct Seen {
    /// From before that was sent; and in milliseconds since 1970.
    pub(super) asked_at: Instant,
    pub(super) asked_ms: i64,
    pub(super) ticks: TicksRecord,
}

/// Asks what the step says, and runs what is granted.
pub(super) fn start(shared: Arc<Shared>, question: Question, step: Step) {
    let work = async move {
        let (name, asked_at) = (question.name.clone(), Instant::now());
        // A run has a span of its own.
        let span = tracing::error_span!("question", task = %name, kind = "job");
        let nothing = Done::Asked {
            name: name.clone(),
            asked_at,
            read: None,
            ticks: None,
            after: After::Rest(REST_MS),
        };
        let answer = Answer::or(&shared.done, nothing);
        let Told { granted, read, ticks, after } = ask(&shared, &question, step).instrument(span).await;
        answer.is(Done::Asked { name: name.clone(), asked_at, read, ticks, after });
        if let Some(granted) = granted {
            // Told however it ends; if nothing better is known the loop reads the job.
            let ended = Answer::or(&shared.done, Done::Ended { name: name.clone(), read: None, ticks: None });
            let (read, ticks) = attend(&shared, &question, granted).await;
            ended.is(Done::Ended { name, read, ticks });
        }
    };
    tokio::spawn(work);
}

/// What a question has come to.
struct Told {
    granted: Option<Granted>,
    /// The definition, if it was read.
    read: Option<Option<JobRead>>,
    ticks: Option<TicksRecord>,
    after: After,
}

impl Told {
    fn nothing(after: After) -> Self {
        Self { granted: None, read: None, ticks: None, after }
    }

    fn seen(ticks: TicksRecord, after: After) -> Self {
        Self { ticks: Some(ticks), ..Self::nothing(after) }
    }

    fn granted(granted: Option<Granted>, ticks: TicksRecord, after: After) -> Self {
        Self { granted, ..Self::seen(ticks, after) }
    }
}

/// What the loop does when a question about a job has been answered.
pub(super) enum After {
    /// It considers the job again.
    Consider,
    /// What is known of the definition may be old: it reads that first.
    Read,
    /// It considers the job after so many milliseconds.
    Rest(i64),
}

async fn ask(shared: &Arc<Shared>, question: &Question, step: Step) -> Told {
    let told = match step {
        Step::Wait(_) | Step::Look | Step::LookForAdoption | Step::LookInTurn { .. } => {
            Some(Told::nothing(After::Consider))
        }
        Step::Adopt => adopt(shared, question).await,
        Step::Settle => settle(shared, question).await,
        Step::Ask(next) => tick(shared, question, next).await,
        Step::ByHand(at) => by_hand(shared, question, &at).await,
    };
    told.unwrap_or_else(|| Told::nothing(After::Rest(REST_MS)))
}

async fn adopt(shared: &Shared, question: &Question) -> Option<Told> {
    // What is known may be what was before a change that a peer has adopted already: to adopt the old one again would
    // move the last tick, and lose those in between. So it is read once more; the ticks were read before it.
    let read = read(shared, question, question.read.clone()).await?;
    let (known, _, _) = table::known(read.clone(), question.known.ready());
    let (def, every) = match &known {
        Known::On(ready) => {
            (ready.def.as_str(), ready.schedule.is_interval().then(|| ready.schedule.digest()))
        }
        Known::Off { def, .. } => (*def, None),
        Known::Unknown | Known::Gone => {
            return Some(Told { read: Some(read), ..Told::nothing(After::Consider) });
        }
    };
    let seen = question.ticks.def.as_deref();
    let adopt = || shared.store.adopt(&question.name, seen, def, every);
    let (_, record) = answered(shared, &question.lease, "adopt", adopt).await?;
    Some(Told { read: Some(read), ..Told::seen(record, After::Consider) })
}

async fn settle(shared: &Arc<Shared>, question: &Question) -> Option<Told> {
    let (def, retries, overlap, may_run) = match &question.known {
        Known::On(ready) => (ready.def.clone(), ready.definition.retries, ready.definition.overlap, true),
        _ => (question.ticks.def.clone().unwrap_or_default(), 0, Default::default(), false),
    };
    let entered = Entered::new(shared, question)?;
    let waiting = Waiting {
        asked: may_run.then(|| entered.by.clone()),
        def: def.clone(),
        epoch: question.ticks.epoch,
        overlap,
        retries,
        again: restart::FIRST,
    };
    let settle = || shared.store.settle(&question.name, &question.dead, &waiting);
    let (run, record) = answered(shared, &question.lease, "settle", settle).await?;
    // What has changed nothing is not asked for again at once.
    let same = record == question.ticks;
    let after = if same { After::Rest(REST_MS) } else { After::Consider };
    Some(Told::granted(run.map(|run| entered.granted(run, def, false)), record, after))
}

async fn tick(shared: &Arc<Shared>, question: &Question, next: Next) -> Option<Told> {
    let Known::On(ready) = &question.known else { return Some(Told::nothing(After::Read)) };
    let last_ms = question.ticks.last_ms?;
    let entered = Entered::new(shared, question)?;
    let request = TickRequest {
        tick_ms: next.tick.as_millis(),
        last_ms,
        def: ready.def.clone(),
        missed: (next.missed, next.first_missed_ms, "nobody asked for it in time"),
        overlap: ready.definition.overlap,
        patient: next.catching_up,
    };
    let tick = || shared.store.tick(&question.name, &entered.by, &request);
    let (answer, record) = answered(shared, &question.lease, "tick", tick).await?;
    let after = match answer {
        TickAnswer::Granted(run) => {
            metrics::ticks(TickOutcome::Missed, next.missed);
            let granted = entered.granted(run, ready.def.clone(), false);
            return Some(Told::granted(Some(granted), record, After::Consider));
        }
        TickAnswer::Early => After::Rest(EARLY_MS),
        TickAnswer::Stale => After::Read,
        TickAnswer::Skipped => {
            metrics::ticks(TickOutcome::Skipped, 1);
            tracing::debug!(tick = %next.tick, "skipped: the run before has not ended");
            After::Consider
        }
        TickAnswer::Done | TickAnswer::Busy | TickAnswer::Buffered => After::Consider,
    };
    Some(Told::seen(record, after))
}

async fn by_hand(shared: &Arc<Shared>, question: &Question, at: &str) -> Option<Told> {
    let Some(ready) = question.known.ready() else { return Some(Told::nothing(After::Read)) };
    let entered = Entered::new(shared, question)?;
    let overlap = ready.definition.overlap;
    let ask = || shared.store.run_by_hand(&question.name, &entered.by, at, question.ticks.epoch, overlap);
    let (answer, record) = answered(shared, &question.lease, "run by hand", ask).await?;
    Some(match answer {
        TickAnswer::Granted(run) => {
            Told::granted(Some(entered.granted(run, ready.def.clone(), true)), record, After::Consider)
        }
        TickAnswer::Busy => Told::seen(record, After::Rest(REST_MS)),
        _ => Told::seen(record, After::Consider),
    })
}

/// The definition as it is now.
async fn read(shared: &Shared, question: &Question, known: Option<JobDefinition>) -> Option<Option<JobRead>> {
    let jobs = [(question.name.clone(), known)];
    let read = || async { shared.store.read_jobs(&jobs).await.pop().unwrap_or(Ok(None)) };
    answered(shared, &question.lease, "read", read).await
}

/// Runs what was granted, and what follows from it, until nothing follows. Gives the definition that was read last, and
/// the ticks as they were after the last run.
async fn attend(
    shared: &Arc<Shared>,
    question: &Question,
    granted: Granted,
) -> (Option<JobDefinition>, Option<Seen>) {
    let mut known = question.read.clone();
    let mut next = Some(granted);
    let mut seen = None;
    while let Some(granted) = next {
        let run = &granted.run;
        let tick = instant(run.tick_ms);
        let span = span::job(&question.name, &shared.worker, run.epoch, &tick, run.attempt);
        (next, seen) = attend_to_its_end(shared, question, &granted, &mut known).instrument(span).await;
    }
    (known, seen)
}

/// One run, until its end is answered. Gives what follows, and the ticks since.
async fn attend_to_its_end(
    shared: &Arc<Shared>,
    question: &Question,
    granted: &Granted,
    known: &mut Option<JobDefinition>,
) -> (Option<Granted>, Option<Seen>) {
    let Some(ended) = attend_one(shared, question, granted, known).await else { return (None, None) };
    let nonce = &granted.entered.by.nonce;
    count(granted, &ended);
    shared.runs.finishing(nonce);
    finish(shared, question, nonce, &ended).await
}

/// As people read it.
pub(super) fn instant(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).map_or_else(|_| unix_ms.to_string(), |instant| instant.to_string())
}

/// A try that is followed by another is not the end of its tick, and a run by hand is none.
fn count(granted: &Granted, ended: &Ended) {
    metrics::JOB_ERRORS.increment(u64::from(ended.outcome == TickOutcome::Failed));
    if ended.said.is_some() {
        metrics::RUN.record(ended.took.as_secs_f64());
    }
    if granted.manual {
        return;
    }
    if ended.said.is_some() && granted.run.attempt <= 1 {
        metrics::LATENESS.record(ended.late.as_secs_f64());
    }
    if ended.again.is_none() {
        metrics::ticks(ended.outcome, 1);
    }
}

/// One run. None: its lease is lost, there is nothing to tell.
async fn attend_one(
    shared: &Arc<Shared>,
    question: &Question,
    granted: &Granted,
    known: &mut Option<JobDefinition>,
) -> Option<Ended> {
    let name = &question.name;
    let read = read(shared, question, known.take()).await?;
    let mirror = read.as_ref().map(|read| read.mirror.clone()).unwrap_or_default();
    let (now_known, kept, wrong) = table::known(read, question.known.ready());
    *known = kept;
    let skip = |why: &str| Some(Ended { outcome: TickOutcome::Skipped, ..Ended::failed(why) });
    // However it was granted: by the schedule, as a retry or because somebody asked for it.
    if let Some(aside) = shared.cluster.set_aside(TaskKind::Job, name.as_str()) {
        return skip(&aside.reason);
    }
    let ready = match now_known {
        Known::On(ready) if granted.manual || ready.def == granted.def => ready,
        Known::Off { ready: Some(ready), .. } if granted.manual => ready,
        Known::On(_) => return skip("its schedule has changed"),
        Known::Gone | Known::Unknown => return skip("its definition is gone"),
        Known::Off { .. } => {
            return skip(
                &wrong
                    .map_or_else(|| "it is disabled".to_owned(), |wrong| format!("it is malformed: {wrong}")),
            );
        }
    };
    let run = &granted.run;
    tracing::debug!("runs");
    let report =
        job::run(&shared.lanes, job(shared, question, granted, &ready), granted.entered.wanted.clone()).await;
    let ended = ended(run, granted.manual, ready.definition.retries, report)?;
    tell(shared, name, &mirror, &ended);
    Some(ended.0)
}

fn job(shared: &Arc<Shared>, question: &Question, granted: &Granted, ready: &Ready) -> job::Job {
    let (name, run, definition) = (&question.name, &granted.run, &ready.definition);
    // The watchdog names what is stuck; a thread of the same name is another task.
    let guarded = TaskName::new(format!("job:{name}")).unwrap_or_else(|_| name.clone());
    let audit = shared
        .config
        .call_log
        .as_ref()
        .map(|log| Audit { log: log.clone(), caller: Caller::new(guarded.as_str(), run.epoch) });
    let (store, job) = (shared.store.clone(), name.clone());
    job::Job {
        name: name.clone(),
        key: shared.store.keys().definition(TaskKind::Job, name),
        epoch: run.epoch,
        tick_ms: run.tick_ms,
        attempt: run.attempt,
        source: bundle(&definition.source, &definition.modules),
        limits: shared.config.limits_for(&definition.limits),
        timeout: Some(definition.timeout),
        drain_timeout: shared.config.drain_timeout,
        guard: question.lease.enter(&guarded),
        record: Arc::new(OwnRecord { store, job }),
        audit,
    }
}

/// What a report means for the ledger, and the whole error for people. None: it is not ours any more.
fn ended(run: &Run, manual: bool, retries: u32, report: RunReport) -> Option<(Ended, Option<String>)> {
    let (outcome, why, error) = match report.outcome {
        Outcome::Lost => return None,
        Outcome::Done(_) => (TickOutcome::Ran, String::new(), None),
        Outcome::Failed(ref error) => {
            let text = error.to_string();
            (TickOutcome::Failed, text.clone(), Some(text))
        }
        Outcome::Stopped => (TickOutcome::Failed, "it was asked to stop".to_owned(), None),
    };
    let unbegun = outcome == TickOutcome::Failed && error.is_none() && report.duration.is_zero();
    let again = if unbegun {
        // Not a line of it has run, and that was not its fault.
        Some(Duration::ZERO)
    } else {
        (outcome == TickOutcome::Failed && run.attempt <= retries)
            .then(|| restart::after_crash(run.attempt.saturating_sub(1), Duration::ZERO).rest)
    };
    let result = match report.outcome {
        Outcome::Done(result) => result,
        _ => None,
    };
    let late = u64::try_from(run.started_ms.saturating_sub(run.tick_ms)).unwrap_or(0);
    let late = if manual { Duration::ZERO } else { Duration::from_millis(late) };
    let ended = Ended {
        outcome,
        again,
        late: late + report.waited,
        took: report.duration,
        why,
        said: Some(Said { result, log: report.log }),
    };
    Some((ended, error))
}

/// Mirrors for people how a run ended: when it failed, and when the first one after that did not.
fn tell(shared: &Arc<Shared>, name: &TaskName, mirror: &Mirror, (ended, error): &(Ended, Option<String>)) {
    let crashed = mirror.state.as_deref() == Some(State::Crashed.as_str());
    let update = match error {
        Some(error) => {
            tracing::warn!(error, "the run failed");
            span::failed(&Span::current(), error);
            MirrorUpdate::crashed(error.clone())
        }
        None if crashed && ended.outcome == TickOutcome::Ran => MirrorUpdate::mended(),
        None => return,
    };
    mirror_soon(shared, name, update);
}

fn mirror_soon(shared: &Arc<Shared>, name: &TaskName, update: MirrorUpdate) {
    let (shared, updates) = (shared.clone(), vec![(name.clone(), update)]);
    tokio::spawn(async move { mirror(&shared, updates).await });
}

/// Writes for people, once: what they see decides nothing.
pub(super) async fn mirror(shared: &Shared, updates: Vec<(TaskName, MirrorUpdate)>) {
    for (name, update) in updates {
        let Ok(_permit) = shared.questions.acquire().await else { return };
        if let Err(error) = shared.store.mirror_job(&name, &update).await {
            tracing::debug!(task = %name, kind = "job", %error, "the state of the job is not written");
        }
    }
}

/// Ends the run in Redis; repeated until it is answered or the lease is lost. Gives what follows, and the ticks since.
async fn finish(
    shared: &Arc<Shared>,
    question: &Question,
    nonce: &Nonce,
    ended: &Ended,
) -> (Option<Granted>, Option<Seen>) {
    // Who drains leaves what waits to the others.
    let next = Entered::new(shared, question);
    let by = next.as_ref().map(|next| &next.by);
    let (asked_at, asked_ms) = (Instant::now(), shared.now_ms());
    let finish = || shared.store.finish(&question.name, nonce, ended, by);
    let Some((run, ticks)) = answered(shared, &question.lease, "finish", finish).await else {
        return (None, None);
    };
    shared.runs.over(nonce);
    // What waited may have come under another definition than the run that has ended.
    let def = ticks.def.clone().unwrap_or_default();
    let granted = next.zip(run).map(|(next, run)| next.granted(run, def, false));
    (granted, Some(Seen { asked_at, asked_ms, ticks }))
}

/// Ends a run that names our session and that nobody here knows.
pub(super) fn end_ghost(shared: Arc<Shared>, name: TaskName, nonce: Nonce) {
    tokio::spawn(async move {
        let Ok(_permit) = shared.questions.acquire().await else { return };
        if let Err(error) = shared.store.finish(&name, &nonce, &Ended::ghost(), None).await {
            tracing::debug!(task = %name, kind = "job", %error, "a ghost is ended at the next look");
        }
    });
}

/// These definitions are gone: their ticks follow in a day.
pub(super) fn retire(shared: Arc<Shared>, names: Vec<TaskName>) {
    tokio::spawn(async move {
        for name in names {
            let Ok(_permit) = shared.questions.acquire().await else { return };
            if let Err(error) = shared.store.retire_ticks(&name).await {
                tracing::debug!(task = %name, kind = "job", %error, "the ticks are retired by the next sweep");
            }
        }
    });
}

/// Asks until there is an answer, each time once few enough questions are in flight. None: the lease is lost, or the
/// record cannot be used at all.
async fn answered<T, F: Future<Output = Result<T, Error>>>(
    shared: &Shared,
    lease: &Lease,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Option<T> {
    let mut pause = PAUSE;
    loop {
        let permit = tokio::select! {
            biased;
            () = lease.lost() => return None,
            permit = shared.questions.acquire() => permit.ok()?,
        };
        if !lease.is_trusted() {
            return None;
        }
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error) if !error.may_pass() || error.is_of_another_type() => {
                tracing::warn!(%error, question = what, "the ticks of the job cannot be used");
                return None;
            }
            Err(error) => tracing::debug!(%error, question = what, "not answered yet"),
        }
        drop(permit);
        tokio::select! {
            () = lease.lost() => return None,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

/// What a script may ask about its own job.
struct OwnRecord {
    store: Store,
    job: TaskName,
}

impl Record for OwnRecord {
    fn disable(&self) -> BoxFuture<Result<(), String>> {
        let (store, job) = (self.store.clone(), self.job.clone());
        Box::pin(async move {
            let status = [("Status", "disabled".to_owned())];
            store.edit(TaskKind::Job, &job, &status).await.map(drop).map_err(|error| error.to_string())
        })
    }

    fn state(&self) -> BoxFuture<Result<String, String>> {
        // Whoever asks runs. What is mirrored for people says how the last run ended.
        Box::pin(async { Ok(State::Running.to_string()) })
    }

    fn status(&self) -> BoxFuture<Result<String, String>> {
        let (store, job) = (self.store.clone(), self.job.clone());
        Box::pin(async move {
            let told = store.status_and_state(TaskKind::Job, &job).await;
            told.map(|(status, _)| status.to_owned()).map_err(|error| error.to_string())
        })
    }
}

//! Tasks that take their workers down: what the end of a session counts for, and who is set aside.
//!
//! ```text
//!   a session ends, its watchdog had named tasks ──strike, until answered──▶ its threads and runs may be taken over
//!   watch · sweep ──▶ record read ──▶ table ──▶ threads considered again, jobs and endpoints ask the table
//!   a definition changes while it is set aside ──review──▶ cleared, or nothing
//! ```

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::{Coordinator, Done, RETRY, Watching};
use crate::clock::BootInstant;
use crate::coordinator::JobNews;
use crate::coordinator::poison::Change;
use crate::error::Error;
use crate::metrics;
use crate::name::{Task, TaskKind};
use crate::records::{DeadSession, PoisonRecord};
use crate::store::{Store, Struck, Verdict};

impl Coordinator {
    /// A session has ended that had named tasks. Nothing of it is taken over before that is counted.
    pub(super) fn strike(&mut self, dead: DeadSession) {
        if !self.striking.insert(dead.id.clone()) {
            return;
        }
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let mut struck = Vec::new();
            for suspect in &dead.suspects {
                let verdict = loop {
                    match store.strike(suspect, &dead).await {
                        Ok(verdict) => break Some(verdict),
                        Err(error) if error.is_of_another_type() => {
                            let task = suspect.task.name();
                            warn!(task, kind = %suspect.task.kind(), %error, "its poison record cannot be used: nothing is counted");
                            break None;
                        }
                        Err(error) => {
                            debug!(session = %dead.id, %error, "the end of a session is not counted yet")
                        }
                    }
                    if done.is_closed() {
                        return;
                    }
                    tokio::time::sleep(RETRY).await;
                };
                struck.extend(verdict.map(|verdict| (suspect.task.clone(), verdict)));
            }
            let _ = done.send(Done::Struck { dead, struck });
        });
    }

    pub(super) fn struck(&mut self, dead: &DeadSession, struck: Vec<(Task, Verdict<Struck>)>) {
        for (task, Verdict { outcome, record, server_ms }) in struck {
            self.vitals.server_said(server_ms);
            let (name, kind) = (task.name(), task.kind().as_str());
            match outcome {
                Struck::SetAside => {
                    let back_off = record.left(server_ms).unwrap_or_default();
                    error!(task = name, kind, session = %dead.id, ?back_off, reason = record.reason, "set aside: workers in a row have ended because of it");
                    self.write_poison(task.clone(), record.clone());
                }
                Struck::Counted => {
                    warn!(task = name, kind, session = %dead.id, reason = record.reason, "a worker has ended because of it");
                }
                Struck::Kept => {}
            }
            self.poison_is(&task, &record);
        }
        self.striking.remove(&dead.id);
        self.settled(&dead.id);
    }

    /// Writes for people why a task is set aside.
    fn write_poison(&self, task: Task, record: PoisonRecord) {
        let store = self.store.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                match store.mirror_poison(&task, &record).await {
                    Ok(()) => return,
                    Err(error) => {
                        debug!(task = task.name(), kind = %task.kind(), %error, "why it is set aside is not written");
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Redis says this of a task.
    fn poison_is(&mut self, task: &Task, record: &PoisonRecord) {
        let now = BootInstant::now();
        let left = record.left(self.vitals.server_ms(now));
        match self.poison.update(task, record, left.map(|left| now + left)) {
            Change::Nothing => return,
            Change::SetAside => {}
            Change::Back => {
                info!(task = task.name(), kind = %task.kind(), "no longer set aside: changed or enabled")
            }
        }
        self.reconsider(task);
    }

    fn reconsider(&mut self, task: &Task) {
        self.gauge_poison();
        if let Some(thread) = task.as_thread()
            && self.table.get(&thread).is_some()
        {
            self.consider(&thread);
        }
        if let Some(job) = task.as_job() {
            self.tell_jobs(JobNews::Changed(job));
        }
    }

    /// Reads the records of these tasks.
    pub(super) fn read_poison(&self, tasks: Vec<Task>) {
        if tasks.is_empty() {
            return;
        }
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let records = read_until_answered(&store, &tasks).await;
            let _ = done.send(Done::Poison(tasks.into_iter().zip(records).collect()));
        });
    }

    pub(super) fn poison_read(&mut self, read: Vec<(Task, PoisonRecord)>) {
        for (task, record) in read {
            self.poison_is(&task, &record);
        }
    }

    /// The definition of a task may have changed: that matters if it is set aside.
    pub(super) fn review(&mut self, task: Task) {
        if self.poison.until(&task).is_none() || !self.reviewing.insert(task.clone()) {
            return;
        }
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let verdict = store.review_poison(&task).await;
            let _ = done.send(Done::Reviewed { task, verdict });
        });
    }

    pub(super) fn reviewed(&mut self, task: &Task, verdict: Result<Verdict<bool>, Error>) {
        self.reviewing.remove(task);
        match verdict {
            Ok(Verdict { record, server_ms, .. }) => {
                self.vitals.server_said(server_ms);
                self.poison_is(task, &record);
            }
            Err(error) => {
                debug!(task = task.name(), kind = %task.kind(), %error, "looked at again soon");
                self.review_at = BootInstant::now() + RETRY;
            }
        }
    }

    /// What is due about those that are set aside.
    pub(super) fn poison_turn(&mut self, now: BootInstant) {
        if self.poison.is_empty() {
            return;
        }
        for task in self.poison.take_over(now) {
            info!(task = task.name(), kind = %task.kind(), "was set aside, and is taken again");
            self.reconsider(&task);
        }
        if now >= self.review_at {
            self.review_at = now + if self.watching == Watching::Polled { POLL } else { RECHECK };
            let known = self.poison.known();
            self.read_poison(known);
            for task in self.poison.all_set_aside() {
                self.review(task);
            }
        }
    }

    fn gauge_poison(&self) {
        let all = self.poison.all_set_aside();
        for (kind, gauge) in [
            (TaskKind::Thread, &metrics::THREADS_POISONED),
            (TaskKind::Job, &metrics::JOBS_POISONED),
            (TaskKind::Endpoint, &metrics::ENDPOINTS_POISONED),
        ] {
            gauge.set(all.iter().filter(|task| task.kind() == kind).count() as f64);
        }
    }
}

/// Interval between reads of the known poison records and of the definitions of tasks that are set aside, where nothing is
/// pushed.
const POLL: Duration = Duration::from_secs(1);
/// The same where changes are pushed, should a push be lost.
const RECHECK: Duration = Duration::from_secs(10);

async fn read_until_answered(store: &Store, tasks: &[Task]) -> Vec<PoisonRecord> {
    for _ in 0..3 {
        match store.read_poison(tasks).await {
            Ok(records) => return records,
            Err(error) => debug!(%error, "poison records could not be read, read again"),
        }
        tokio::time::sleep(RETRY).await;
    }
    // Read again at the next round or sweep.
    Vec::new()
}

//! The runs of this worker, from before Redis is asked for one until its end is answered.
//!
//! What must hold:
//! * A nonce is entered before it is sent and leaves only when Redis has answered the end of the run, or with its
//!   session. A run in Redis that names our session and is not in here is an orphan.
//! * No operation walks over the runs of other jobs but those that concern all of them (drain, watch). Runs that are
//!   over are kept apart, so that a busy minute makes no later refresh slower.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hats_cluster::id::Nonce;
use hats_cluster::name::TaskName;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runner::job::Wanted;

/// How long a run that is over stays known, so that a late read does not mistake it for an orphan.
const OVER_KEPT: Duration = Duration::from_secs(60);

/// The runs of this worker, those that are being asked for among them.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    active: HashMap<Nonce, Mine>,
    // Invariant: exactly the nonces in `active`.
    by_job: HashMap<TaskName, Vec<Nonce>>,
    over: HashMap<Nonce, Instant>,
    // Invariant: exactly the nonces in `over`, the oldest first.
    over_order: VecDeque<Nonce>,
}

/// A run of ours that is not over.
#[derive(Debug)]
struct Mine {
    job: TaskName,
    wanted: watch::Sender<Wanted>,
    phase: Phase,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Redis has not answered yet.
    Asking,
    /// It was granted before this instant.
    Begun(Instant),
    /// Its end is on the way to Redis.
    Finishing,
}

impl Runs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a run that is about to be asked for. None: this worker drains. Decided under the lock, so whatever is
    /// entered is told to stop when the drain begins.
    pub(super) fn enter(
        &self,
        drain: &CancellationToken,
        nonce: &Nonce,
        job: &TaskName,
    ) -> Option<watch::Receiver<Wanted>> {
        let mut inner = self.lock();
        if drain.is_cancelled() {
            return None;
        }
        let (wanted, receiver) = watch::channel(Wanted::default());
        inner.active.insert(nonce.clone(), Mine { job: job.clone(), wanted, phase: Phase::Asking });
        inner.by_job.entry(job.clone()).or_default().push(nonce.clone());
        Some(receiver)
    }

    pub(super) fn begun(&self, nonce: &Nonce) {
        self.set_phase(nonce, Phase::Begun(Instant::now()));
    }

    pub(super) fn finishing(&self, nonce: &Nonce) {
        self.set_phase(nonce, Phase::Finishing);
    }

    fn set_phase(&self, nonce: &Nonce, phase: Phase) {
        if let Some(mine) = self.lock().active.get_mut(nonce) {
            mine.phase = phase;
        }
    }

    /// Redis has answered that it is over.
    pub(super) fn over(&self, nonce: &Nonce) {
        let mut inner = self.lock();
        if inner.remove(nonce) {
            inner.over.insert(nonce.clone(), Instant::now());
            inner.over_order.push_back(nonce.clone());
        }
    }

    /// The task that attended to it has ended. Unless Redis has answered that it is over, it is an orphan if Redis has it.
    pub(super) fn leave(&self, nonce: &Nonce) {
        self.lock().remove(nonce);
    }

    /// Forgets what has been over for [`OVER_KEPT`].
    pub(super) fn prune(&self) {
        let mut inner = self.lock();
        while let Some(oldest) = inner.over_order.front().cloned()
            && inner.over.get(&oldest).is_none_or(|at| at.elapsed() > OVER_KEPT)
        {
            inner.over_order.pop_front();
            inner.over.remove(&oldest);
        }
    }

    pub(super) fn has(&self, nonce: &Nonce) -> bool {
        let inner = self.lock();
        inner.active.contains_key(nonce) || inner.over.contains_key(nonce)
    }

    /// Whether none is left that is not over.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().active.is_empty()
    }

    /// Wants this, or more, of every run.
    pub(super) fn want_of_all(&self, what: Wanted) {
        self.lock().active.values().for_each(|mine| mine.want(what));
    }

    /// Wants this, or more, of every run of a job.
    pub(super) fn want_of_job(&self, job: &TaskName, what: Wanted) {
        self.lock().of_job(job).for_each(|(_, mine)| mine.want(what));
    }

    /// Wants this, or more, of one run.
    pub(super) fn want(&self, nonce: &Nonce, what: Wanted) {
        if let Some(mine) = self.lock().active.get(nonce) {
            mine.want(what);
        }
    }

    /// Ends the runs of a job that Redis did not know any more when it was asked at this instant.
    pub(super) fn forfeit(&self, job: &TaskName, asked_at: Instant, known: impl Fn(&Nonce) -> bool) {
        for (nonce, mine) in self.lock().of_job(job) {
            if matches!(mine.phase, Phase::Begun(at) if at < asked_at) && !known(nonce) {
                mine.want(Wanted::Forfeit);
            }
        }
    }

    /// The jobs with runs that are not over.
    pub(super) fn jobs(&self) -> BTreeSet<TaskName> {
        self.lock().by_job.keys().cloned().collect()
    }
}

impl Inner {
    fn of_job(&self, job: &TaskName) -> impl Iterator<Item = (&Nonce, &Mine)> {
        let nonces = self.by_job.get(job).into_iter().flatten();
        nonces.filter_map(|nonce| Some((nonce, self.active.get(nonce)?)))
    }

    fn remove(&mut self, nonce: &Nonce) -> bool {
        let Some(mine) = self.active.remove(nonce) else { return false };
        if let Some(of_job) = self.by_job.get_mut(&mine.job) {
            of_job.retain(|other| other != nonce);
            if of_job.is_empty() {
                self.by_job.remove(&mine.job);
            }
        }
        true
    }
}

impl Mine {
    fn want(&self, what: Wanted) {
        self.wanted.send_if_modified(|wanted| {
            let more = *wanted < what;
            *wanted = (*wanted).max(what);
            more
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> TaskName {
        TaskName::new(name).unwrap()
    }

    fn entered() -> (Runs, Nonce) {
        let (runs, nonce) = (Runs::default(), Nonce::random());
        assert!(runs.enter(&CancellationToken::new(), &nonce, &job("job")).is_some());
        (runs, nonce)
    }

    #[test]
    fn a_run_that_redis_has_not_answered_is_an_orphan_once_its_task_has_ended() {
        let (runs, nonce) = entered();
        assert!(runs.has(&nonce));
        runs.leave(&nonce);
        assert!(!runs.has(&nonce), "it was asked for, and whether it was granted nobody knows");
        let (runs, nonce) = entered();
        runs.begun(&nonce);
        runs.finishing(&nonce);
        runs.leave(&nonce);
        assert!(!runs.has(&nonce), "its end may not have arrived");
    }

    #[test]
    fn a_run_that_is_over_stays_known_for_a_late_read() {
        let (runs, nonce) = entered();
        runs.begun(&nonce);
        runs.over(&nonce);
        runs.leave(&nonce);
        assert!(runs.has(&nonce));
        assert!(runs.is_empty(), "a drain does not wait for it");
        runs.prune();
        assert!(runs.has(&nonce));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_has_been_over_for_long_is_forgotten() {
        let (runs, nonce) = entered();
        runs.over(&nonce);
        tokio::time::advance(OVER_KEPT + Duration::from_secs(1)).await;
        let late = Nonce::random();
        assert!(runs.enter(&CancellationToken::new(), &late, &job("job")).is_some());
        runs.over(&late);
        runs.prune();
        assert!(!runs.has(&nonce) && runs.has(&late));
        assert_eq!(runs.lock().over_order.len(), 1);
    }

    #[test]
    fn nothing_is_entered_once_the_drain_has_begun() {
        let drain = CancellationToken::new();
        drain.cancel();
        assert!(Runs::default().enter(&drain, &Nonce::random(), &job("job")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_runs_of_the_job_that_redis_does_not_know_are_forfeited() {
        let runs = Runs::default();
        let drain = CancellationToken::new();
        let of = |name: &str| {
            let nonce = Nonce::random();
            let wanted = runs.enter(&drain, &nonce, &job(name)).unwrap();
            (nonce, wanted)
        };
        let (known, known_wanted) = of("job");
        let (unknown, unknown_wanted) = of("job");
        let (other, other_wanted) = of("other");
        let (asking, asking_wanted) = of("job");
        [&known, &unknown, &other].into_iter().for_each(|nonce| runs.begun(nonce));
        tokio::time::advance(Duration::from_millis(1)).await;
        runs.forfeit(&job("job"), Instant::now(), |nonce| *nonce == known);
        assert_eq!(*unknown_wanted.borrow(), Wanted::Forfeit);
        for wanted in [&known_wanted, &other_wanted, &asking_wanted] {
            assert_eq!(*wanted.borrow(), Wanted::default());
        }
        runs.want(&other, Wanted::Stop);
        runs.want_of_job(&job("job"), Wanted::Stop);
        assert_eq!(*other_wanted.borrow(), Wanted::Stop);
        assert_eq!(*unknown_wanted.borrow(), Wanted::Forfeit, "more is not taken back");
        assert_eq!(runs.jobs().len(), 2);
        [&known, &unknown, &asking].into_iter().for_each(|nonce| runs.over(nonce));
        assert_eq!(runs.jobs().into_iter().collect::<Vec<_>>(), [job("other")]);
        assert!(runs.lock().by_job.len() == 1 && runs.lock().active.len() == 1);
    }
}

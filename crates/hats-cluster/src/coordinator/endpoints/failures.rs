//! How endpoints fail, as it is mirrored for people: `Error` and `ErrorTime`.
//!
//! An endpoint may fail a thousand times a second, and each change of its hash is pushed to every worker. Must always hold:
//! * Of one endpoint, this worker writes at most once in [`PAUSE`]; what is written then is the newest.
//! * An error is never written where there is no endpoint, and never removed if another one has come meanwhile.
//! * An error stays until a request was answered and it is over: its source was replaced, its field was mended, or nobody
//!   has seen it for [`OVER_AFTER`]. A page that fails once in a hundred requests does not look sound in between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::debug;

use crate::clock::BootInstant;
use crate::name::EndpointPath;
use crate::records::{EndpointRead, FieldError, SourceDigest};
use crate::store::Store;

/// Between two writes about one endpoint.
const PAUSE: Duration = Duration::from_secs(10);
/// An error that has not come again for so long is over.
const OVER_AFTER: Duration = Duration::from_secs(60);
/// A longer error is cut.
const ERROR_BYTES_MAX: usize = 10_000;

/// The endpoints that have failed.
#[derive(Debug)]
pub(in crate::coordinator) struct Failures {
    /// What errors are written on, whoever reports them.
    io: Handle,
    /// How many there are below, so that nobody waits for a look at nothing.
    count: AtomicUsize,
    failed: Mutex<HashMap<EndpointPath, Failed>>,
}

/// What is known of an endpoint that has failed.
#[derive(Debug, Default)]
struct Failed {
    /// What stands in its hash.
    stands: Option<Stands>,
    /// What is to be written there.
    wanted: Option<Wanted>,
    wrote_at: Option<BootInstant>,
    /// Somebody is seeing to what is wanted.
    is_seen_to: bool,
}

/// An error that stands in a hash.
#[derive(Debug)]
struct Stands {
    /// `ErrorTime`: tells errors apart, and is not compared with any clock.
    time: String,
    /// Here, it was last heard of then.
    since: BootInstant,
    /// Of what has failed, if that is known.
    digest: Option<SourceDigest>,
    /// What has failed is not there any more.
    is_mended: bool,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// An error.
    Error(String),
    /// That the error of this time is over.
    Mended(String),
}

/// What to do about an endpoint now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Write(Wanted),
    Wait(Duration),
    Done,
}

impl Failed {
    fn failed(&mut self, error: String, now: BootInstant) {
        self.wanted = Some(Wanted::Error(error));
        if let Some(stands) = &mut self.stands {
            stands.since = now;
            stands.is_mended = false;
        }
    }

    fn ok(&mut self, now: BootInstant) {
        let Some(stands) = self.stands.as_ref().filter(|_| self.wanted.is_none()) else { return };
        if stands.is_mended || now.saturating_duration_since(stands.since) >= OVER_AFTER {
            self.wanted = Some(Wanted::Mended(stands.time.clone()));
        }
    }

    /// The definition was read, and can be used; `error` stands there.
    fn seen(&mut self, error: Option<(&str, &str)>, digest: &SourceDigest, now: BootInstant) {
        let Some((text, time)) = error else {
            self.stands = None;
            if matches!(self.wanted, Some(Wanted::Mended(_))) {
                self.wanted = None;
            }
            return;
        };
        match &mut self.stands {
            Some(stands) if stands.time == time => {
                let known = stands.digest.get_or_insert_with(|| digest.clone());
                stands.is_mended |= known != digest || FieldError::has_said(text);
            }
            _ => {
                let is_mended = FieldError::has_said(text);
                let (time, digest) = (time.to_owned(), Some(digest.clone()));
                self.stands = Some(Stands { time, since: now, digest, is_mended });
            }
        }
    }

    fn step(&mut self, now: BootInstant) -> Step {
        let since = self.wrote_at.map(|at| now.saturating_duration_since(at));
        let left = since.and_then(|since| PAUSE.checked_sub(since)).filter(|left| !left.is_zero());
        // Where nothing stands and nothing is wanted, this is forgotten when the pause is over.
        if let Some(left) = left.filter(|_| self.wanted.is_some() || self.stands.is_none()) {
            return Step::Wait(left);
        }
        if self.wanted.is_none() {
            self.is_seen_to = false;
            return Step::Done;
        }
        match self.wanted.take() {
            Some(wanted) => {
                self.wrote_at = Some(now);
                Step::Write(wanted)
            }
            None => Step::Done,
        }
    }

    /// An error was written.
    fn written(&mut self, time: String, now: BootInstant) {
        self.stands = Some(Stands { time, since: now, digest: None, is_mended: false });
    }

    /// Nothing stands there, nothing is to be written, and the last writing was long enough ago to be forgotten.
    fn is_over(&self, now: BootInstant) -> bool {
        let rests = self.wrote_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        self.stands.is_none() && self.wanted.is_none() && !self.is_seen_to && !rests
    }
}

impl Failures {
    /// Called inside a tokio runtime, on which errors are then written.
    pub(in crate::coordinator) fn new() -> Self {
        Self { io: Handle::current(), count: AtomicUsize::new(0), failed: Mutex::default() }
    }

    pub(super) fn failed(self: &Arc<Self>, store: &Store, path: &EndpointPath, error: String) {
        let error = cut(error);
        self.change(store, path, true, |failed, now| failed.failed(error, now));
    }

    pub(super) fn ok(self: &Arc<Self>, store: &Store, path: &EndpointPath) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(store, path, false, Failed::ok);
        }
    }

    /// The definition was read just now.
    pub(super) fn seen(self: &Arc<Self>, store: &Store, path: &EndpointPath, read: Option<&EndpointRead>) {
        let Some(read) = read else {
            self.change(store, path, false, |failed, _| {
                failed.stands = None;
                failed.wanted = None;
            });
            return;
        };
        match &read.definition {
            Err(error) => {
                let error = cut(error.to_string());
                if read.error.as_ref() != Some(&error) {
                    self.failed(store, path, error);
                }
            }
            Ok(_) => {
                let error = read.error.as_deref();
                let error = error.map(|text| (text, read.error_time.as_deref().unwrap_or_default()));
                let change = |failed: &mut Failed, now| failed.seen(error, &read.digest, now);
                self.change(store, path, error.is_some(), change);
            }
        }
    }

    /// Changes what is known of an endpoint, and sees to it that what is wanted then is written.
    fn change(
        self: &Arc<Self>,
        store: &Store,
        path: &EndpointPath,
        add: bool,
        change: impl FnOnce(&mut Failed, BootInstant),
    ) {
        let now = BootInstant::now();
        let mut all = self.lock();
        let failed = match add {
            true => all.entry(path.clone()).or_default(),
            false => match all.get_mut(path) {
                Some(failed) => failed,
                None => return,
            },
        };
        change(failed, now);
        // What has gone is forgotten by whoever sees to it, after the pause.
        let has_gone = failed.stands.is_none() && !failed.is_over(now);
        let begins = (failed.wanted.is_some() || has_gone) && !failed.is_seen_to;
        failed.is_seen_to |= begins;
        if failed.is_over(now) {
            all.remove(path);
        }
        self.count.store(all.len(), Ordering::Relaxed);
        drop(all);
        if begins {
            self.see_to(store.clone(), path.clone());
        }
    }

    /// Writes what is wanted about an endpoint, now and later, until nothing is. Ends with whoever answers requests.
    fn see_to(self: &Arc<Self>, store: Store, path: EndpointPath) {
        let all = Arc::downgrade(self);
        self.io.spawn(async move {
            loop {
                let step = match all.upgrade() {
                    Some(all) => all.step(&path),
                    None => return,
                };
                let wanted = match step {
                    Step::Done => return,
                    Step::Wait(left) => {
                        tokio::time::sleep(left).await;
                        continue;
                    }
                    Step::Write(wanted) => wanted,
                };
                let written = match &wanted {
                    Wanted::Error(error) => store.endpoint_failed(&path, error.clone()).await,
                    Wanted::Mended(time) => store.endpoint_mended(&path, time).await.map(|_| None),
                };
                let Some(all) = all.upgrade() else { return };
                let mut all = all.lock();
                let Some(failed) = all.get_mut(&path) else { return };
                match written {
                    Ok(Some(time)) => failed.written(time, BootInstant::now()),
                    // There is no such endpoint, or no such error any more.
                    Ok(None) => failed.stands = None,
                    Err(error) => {
                        debug!(task = %path, kind = "endpoint", %error, "the error is not written, tried again later");
                        failed.wanted.get_or_insert(wanted);
                    }
                }
            }
        });
    }

    fn step(&self, path: &EndpointPath) -> Step {
        let now = BootInstant::now();
        let mut all = self.lock();
        let Some(failed) = all.get_mut(path) else { return Step::Done };
        let step = failed.step(now);
        if failed.is_over(now) {
            all.remove(path);
        }
        self.count.store(all.len(), Ordering::Relaxed);
        step
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointPath, Failed>> {
        // Whoever panicked in here has left nothing half done.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(mut error: String) -> String {
    let end = (0..=ERROR_BYTES_MAX.min(error.len())).rev().find(|at| error.is_char_boundary(*at));
    error.truncate(end.unwrap_or_default());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: BootInstant = BootInstant::from_nanos(1_000_000_000);

    fn at(seconds: u64) -> BootInstant {
        START + Duration::from_secs(seconds)
    }

    fn digest(text: &str) -> SourceDigest {
        SourceDigest::from_hex(text)
    }

    fn error(text: &str) -> Step {
        Step::Write(Wanted::Error(text.to_owned()))
    }

    fn mended(time: &str) -> Step {
        Step::Write(Wanted::Mended(time.to_owned()))
    }

    /// One whose error stands there since the start.
    fn standing() -> Failed {
        let mut failed = Failed::default();
        failed.failed("boom".to_owned(), at(0));
        assert_eq!(failed.step(at(0)), error("boom"));
        failed.written("t0".to_owned(), at(0));
        failed.seen(Some(("boom", "t0")), &digest("d1"), at(0));
        failed
    }

    #[test]
    fn of_many_errors_the_newest_is_written_once_in_a_while() {
        let mut failed = standing();
        for second in 1..9 {
            failed.failed(format!("boom {second}"), at(second));
        }
        assert_eq!(failed.step(at(9)), Step::Wait(Duration::from_secs(1)));
        assert_eq!(failed.step(at(10)), error("boom 8"));
        assert_eq!(failed.step(at(11)), Step::Done);
        assert!(!failed.is_over(at(11)));
    }

    #[test]
    fn an_answer_removes_an_error_only_when_it_is_over() {
        let mut failed = standing();
        failed.ok(at(30));
        assert_eq!(failed.step(at(30)), Step::Done);
        failed.failed("again".to_owned(), at(40));
        assert_eq!(failed.step(at(40)), error("again"));
        failed.written("t40".to_owned(), at(40));
        failed.ok(at(99));
        assert_eq!(failed.step(at(99)), Step::Done);
        failed.ok(at(100));
        assert_eq!(failed.step(at(100)), mended("t40"));
        failed.seen(None, &digest("d1"), at(100));
        assert!(failed.is_over(at(110)));
    }

    #[test]
    fn the_error_of_a_source_that_was_replaced_is_over_at_the_first_answer() {
        let mut failed = standing();
        failed.seen(Some(("boom", "t0")), &digest("d2"), at(20));
        assert_eq!(failed.step(at(20)), Step::Done, "nothing has answered yet");
        failed.ok(at(21));
        assert_eq!(failed.step(at(21)), mended("t0"));
    }

    #[test]
    fn an_error_about_a_field_is_over_when_the_field_is_mended() {
        let text = FieldError { field: "Kind", value: "x".to_owned(), expected: "y" }.to_string();
        let mut failed = Failed::default();
        failed.seen(Some((&text, "t0")), &digest("d1"), at(0));
        failed.ok(at(1));
        assert_eq!(failed.step(at(1)), mended("t0"));
    }

    #[test]
    fn an_error_that_another_worker_writes_again_and_again_stays() {
        let mut failed = Failed::default();
        for second in (0..200).step_by(10) {
            failed.seen(Some(("boom", &format!("t{second}"))), &digest("d1"), at(second));
            failed.ok(at(second + 9));
            assert_eq!(failed.step(at(second + 9)), Step::Done);
        }
    }

    #[test]
    fn what_has_gone_is_forgotten_after_the_pause() {
        let mut failed = Failed { is_seen_to: true, ..Failed::default() };
        failed.failed("boom".to_owned(), at(0));
        assert_eq!(failed.step(at(0)), error("boom"));
        // There is no such endpoint any more.
        assert_eq!(failed.step(at(1)), Step::Wait(Duration::from_secs(9)));
        assert!(!failed.is_over(at(9)));
        assert_eq!(failed.step(at(10)), Step::Done);
        assert!(failed.is_over(at(10)));
    }

    #[test]
    fn a_failure_goes_before_what_is_over() {
        let mut failed = standing();
        failed.ok(at(70));
        failed.failed("again".to_owned(), at(70));
        failed.ok(at(71));
        assert_eq!(failed.step(at(71)), error("again"));
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        assert_eq!(cut("ä".repeat(ERROR_BYTES_MAX)).len(), ERROR_BYTES_MAX);
        assert_eq!(cut(format!("x{}", "ä".repeat(ERROR_BYTES_MAX))).len(), ERROR_BYTES_MAX - 1);
        assert_eq!(cut("short".to_owned()), "short");
    }
}

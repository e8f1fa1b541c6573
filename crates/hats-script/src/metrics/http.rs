//! HTTP requests of all scripts, counted on whatever OS thread they come to their end.
//!
//! What must hold: one that nobody waits for any more is counted too, as aborted.

use std::sync::Arc;
use std::time::Instant;

use super::Calls;
use super::histogram::Histogram;

/// What an HTTP request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpOutcome {
    /// An answer with a status below 300.
    Success,
    Redirect,
    ClientError,
    ServerError,
    Timeout,
    /// There was no answer, or none that could be taken.
    Failed,
    /// Nobody waited for it any more: the call was ended, or the lease was lost.
    Aborted,
}

const OUTCOMES: [&str; 7] = ["2xx", "3xx", "4xx", "5xx", "timeout", "failed", "aborted"];

/// The HTTP requests of a worker's scripts.
pub(crate) struct HttpCalls {
    durations: [Histogram; OUTCOMES.len()],
}

/// A request that is under way. Dropped before it has ended, it was aborted.
pub(crate) struct HttpCall {
    calls: Arc<HttpCalls>,
    begun: Instant,
    outcome: HttpOutcome,
}

impl HttpOutcome {
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            ..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

impl HttpCalls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { durations: [const { Histogram::new(Histogram::NETWORK) }; OUTCOMES.len()] })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> HttpCall {
        HttpCall { calls: self.clone(), begun: Instant::now(), outcome: HttpOutcome::Aborted }
    }

    pub(super) fn read(&self) -> Vec<Calls> {
        let each = OUTCOMES.iter().zip(&self.durations);
        each.map(|(outcome, durations)| Calls::new(outcome, durations.read(), Vec::new())).collect()
    }
}

impl HttpCall {
    pub(crate) fn end(mut self, outcome: HttpOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for HttpCall {
    fn drop(&mut self) {
        self.calls.durations[self.outcome as usize].record(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_come_to_an_end_is_aborted() {
        let http = HttpCalls::new();
        http.begin().end(HttpOutcome::of_status(204));
        http.begin().end(HttpOutcome::of_status(599));
        drop(http.begin());
        let counts: Vec<_> =
            http.read().into_iter().map(|calls| (calls.what, calls.durations.count())).collect();
        let expected = [("2xx", 1), ("3xx", 0), ("4xx", 0), ("5xx", 1), ("timeout", 0), ("failed", 0)];
        assert_eq!(counts[..6], expected);
        assert_eq!(counts[6], ("aborted", 1));
    }
}

//! What is counted of requests: how long they took, by what was answered; why some were turned away; how many are in hand.
//!
//! What must hold: a request whose client went away before it was answered is counted too. What is told apart is told apart
//! by words of ours and by the class of a status, never by a path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use hats_script::metrics::{Calls, Histogram};

use crate::message::plain;

/// What requests come to: the class of the status, and `none` where nobody waited for it any more.
const STATUSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "none"];
const NONE: usize = STATUSES.len() - 1;

/// Why the server itself answers with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Draining,
    Unhealthy,
    /// Redis does not say what the path stands for.
    Unknown,
    /// The bodies of all requests are too large together.
    Bodies,
    /// The answers that clients have not taken yet are too large together.
    Answers,
    /// There was no place for its script in time.
    Busy,
    /// The client has closed its side, and the script has not ended soon.
    Gone,
    /// The script was ended with the worker.
    Stopped,
    /// There are too many connections.
    Connections,
    /// Workers have ended because of the page, and it is set aside.
    Poison,
}

const REASONS: [&str; 10] = [
    "draining",
    "unhealthy",
    "redis",
    "bodies",
    "answers",
    "busy",
    "client_gone",
    "stopped",
    "connections",
    "poison",
];

/// The counters of a server. Cheap to clone; it keeps no server.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    durations: [Histogram; STATUSES.len()],
    unavailable: [AtomicU64; REASONS.len()],
    in_hand: AtomicUsize,
}

/// What the counters show at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// Requests that have come to an end, by the class of their status.
    pub requests: Vec<Calls>,
    /// How many of them the server has turned away with 503, by the reason; connections that it has turned away are
    /// counted here only.
    pub unavailable: Vec<(&'static str, u64)>,
    /// Requests that are being read or answered.
    pub in_hand: usize,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            durations: [const { Histogram::new(Histogram::NETWORK) }; STATUSES.len()],
            unavailable: Default::default(),
            in_hand: AtomicUsize::new(0),
        }
    }
}

impl Metrics {
    /// What there is to be read now.
    #[must_use]
    pub fn read(&self) -> Reading {
        let Counters { durations, unavailable, in_hand } = &*self.0;
        let requests = STATUSES.iter().zip(durations);
        let reasons = REASONS.iter().zip(unavailable);
        Reading {
            requests: requests.map(|(status, took)| Calls::new(status, took.read(), Vec::new())).collect(),
            unavailable: reasons.map(|(why, count)| (*why, count.load(Ordering::Relaxed))).collect(),
            in_hand: in_hand.load(Ordering::Relaxed),
        }
    }

    /// A request whose head has been read.
    pub(crate) fn begin(&self) -> Counted<'_> {
        self.0.in_hand.fetch_add(1, Ordering::Relaxed);
        Counted { metrics: self, begun: Instant::now(), status: NONE }
    }

    /// Somebody is turned away.
    pub(crate) fn turned_away(&self, why: Why) {
        self.0.unavailable[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A request in hand, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    metrics: &'a Metrics,
    begun: Instant,
    status: usize,
}

impl Counted<'_> {
    /// It is answered.
    pub(crate) fn end(mut self, mut response: Response) -> Response {
        self.status = match response.status().as_u16() {
            ..300 => 0,
            300..400 => 1,
            400..500 => 2,
            500.. => 3,
        };
        if let Some(why) = response.extensions_mut().remove::<Why>() {
            self.metrics.turned_away(why);
        }
        response
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let Counters { durations, in_hand, .. } = &*self.metrics.0;
        durations[self.status].record(self.begun.elapsed());
        in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer of a server that does not answer, which says why to whoever counts.
pub(crate) fn unavailable(why: Why, method: &Method) -> Response {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, method);
    response.extensions_mut().insert(why);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_once_whatever_becomes_of_it() {
        let metrics = Metrics::default();
        let (answered, refused, dropped) = (metrics.begin(), metrics.begin(), metrics.begin());
        assert_eq!(metrics.read().in_hand, 3);
        answered.end(Response::default());
        let response = refused.end(unavailable(Why::Busy, &Method::GET));
        assert!(response.extensions().is_empty());
        drop(dropped);
        metrics.turned_away(Why::Connections);
        let Reading { requests, unavailable, in_hand } = metrics.read();
        assert_eq!(in_hand, 0);
        let counts: Vec<_> = requests.iter().map(|calls| (calls.what, calls.durations.count())).collect();
        assert_eq!(counts, [("2xx", 1), ("3xx", 0), ("4xx", 0), ("5xx", 1), ("none", 1)]);
        let unavailable: Vec<_> = unavailable.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(unavailable, [("busy", 1), ("connections", 1)]);
    }
}

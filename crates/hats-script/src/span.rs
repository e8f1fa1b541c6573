//! The spans of tasks: whatever is logged in one says whose doing it was. They are made here and nowhere else, so that all
//! have the same fields; what these mean stands in `crates/README.md`, "Logs and traces".
//!
//! A fiber may be suspended at any wait and an OS thread knows only one current span, so nothing on a fiber is ever inside
//! of one for longer than it takes to log a line: see [`TaskControl::span`](crate::TaskControl::span).

use std::fmt::Display;

use tracing::field::Empty;
use tracing::{Level, Span, error_span, span_enabled};

/// The target of all of them. Their level is that of errors: whoever sees anything of a task sees whose it is.
pub const TARGET: &str = "hats_task";

/// The life of a thread on a worker, from the claim to the release.
pub fn thread(task: &dyn Display, worker: &dyn Display, epoch: u64) -> Span {
    error_span!(
        target: TARGET,
        "thread",
        task = %task,
        kind = "thread",
        epoch,
        worker = %worker,
        error = Empty,
        otel.status_code = Empty,
    )
}

/// One run of a job, or one try of it. `tick` is the instant that it was due, in RFC 3339.
pub fn job(task: &dyn Display, worker: &dyn Display, epoch: u64, tick: &dyn Display, attempt: u32) -> Span {
    error_span!(
        target: TARGET,
        "job",
        task = %task,
        kind = "job",
        epoch,
        tick = %tick,
        attempt,
        worker = %worker,
        error = Empty,
        otel.status_code = Empty,
    )
}

/// One request of an endpoint. Made when it begins if [somebody wants it](wants_requests), else when its script logs
/// something.
pub fn endpoint(task: &dyn Display, worker: &dyn Display) -> Span {
    error_span!(
        target: TARGET,
        "endpoint",
        task = %task,
        kind = "endpoint",
        worker = %worker,
        status = Empty,
        error = Empty,
        otel.status_code = Empty,
    )
}

/// Whether somebody wants to know of every request, and not only of those that log something.
#[must_use]
pub fn wants_requests() -> bool {
    span_enabled!(target: TARGET, Level::DEBUG)
}

/// What the span is of has gone wrong.
pub fn failed(span: &Span, error: &str) {
    span.record("error", error);
    span.record("otel.status_code", "ERROR");
}

//! What is counted of this crate, for whoever has installed a recorder; without one it costs next to nothing.
//!
//! What must hold: the values of labels are a few words of ours, never the name of a task, a worker or a session.

use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

pub(crate) static CLAIMS_GRANTED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_claims_total", "outcome" => "granted"));
pub(crate) static CLAIMS_REFUSED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_claims_total", "outcome" => "refused"));
pub(crate) static CLAIMS_FAILED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_claims_total", "outcome" => "failed"));
pub(crate) static TAKEOVERS: LazyLock<Counter> = LazyLock::new(|| counter!("hats_takeovers_total"));
pub(crate) static MOVES: LazyLock<Counter> = LazyLock::new(|| counter!("hats_moves_total"));
pub(crate) static SESSIONS_LOST: LazyLock<Counter> = LazyLock::new(|| counter!("hats_sessions_lost_total"));
pub(crate) static SESSIONS_BURIED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_sessions_buried_total"));
pub(crate) static RENEW: LazyLock<Histogram> = LazyLock::new(|| histogram!("hats_session_renew_seconds"));
pub(crate) static RENEW_FAILED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_session_renew_failures_total"));
pub(crate) static SESSION_AGE: LazyLock<Gauge> = LazyLock::new(|| gauge!("hats_session_age_seconds"));
pub(crate) static THREADS_OWNED: LazyLock<Gauge> =
    LazyLock::new(|| gauge!("hats_threads", "state" => "owned"));
pub(crate) static THREADS_CHANGING: LazyLock<Gauge> =
    LazyLock::new(|| gauge!("hats_threads", "state" => "changing"));
pub(crate) static THREADS_DUE: LazyLock<Gauge> = LazyLock::new(|| gauge!("hats_cluster_threads"));
pub(crate) static THREADS_POISONED: LazyLock<Gauge> =
    LazyLock::new(|| gauge!("hats_tasks_poisoned", "kind" => "thread"));
pub(crate) static JOBS_POISONED: LazyLock<Gauge> =
    LazyLock::new(|| gauge!("hats_tasks_poisoned", "kind" => "job"));
pub(crate) static ENDPOINTS_POISONED: LazyLock<Gauge> =
    LazyLock::new(|| gauge!("hats_tasks_poisoned", "kind" => "endpoint"));

/// Tells the recorder what there is to be counted, so that each series is there from the start. A recorder that is
/// installed after the first use of this crate is not told anything.
pub fn describe() {
    metrics::describe_counter!("hats_claims_total", "Claims of threads that this worker has sent.");
    metrics::describe_counter!("hats_takeovers_total", "Threads taken over from a dead session.");
    metrics::describe_counter!("hats_moves_total", "Threads given to another worker.");
    metrics::describe_counter!("hats_sessions_lost_total", "Sessions that this worker has lost.");
    metrics::describe_counter!(
        "hats_sessions_buried_total",
        "Sessions of others declared dead by this worker."
    );
    metrics::describe_histogram!("hats_session_renew_seconds", "Time until a renewal was answered.");
    metrics::describe_counter!(
        "hats_session_renew_failures_total",
        "Renewals that were not answered in time."
    );
    metrics::describe_gauge!("hats_session_age_seconds", "Age of the session; 0 without one.");
    metrics::describe_gauge!("hats_threads", "Threads of this worker: owned, or changing hands right now.");
    metrics::describe_gauge!("hats_cluster_threads", "Threads of the cluster that somebody should run.");
    metrics::describe_gauge!(
        "hats_tasks_poisoned",
        "Tasks of the cluster that are set aside because workers have ended because of them."
    );
    for counter in [
        &CLAIMS_GRANTED,
        &CLAIMS_REFUSED,
        &CLAIMS_FAILED,
        &TAKEOVERS,
        &MOVES,
        &SESSIONS_LOST,
        &SESSIONS_BURIED,
        &RENEW_FAILED,
    ] {
        LazyLock::force(counter);
    }
    for gauge in [
        &SESSION_AGE,
        &THREADS_OWNED,
        &THREADS_CHANGING,
        &THREADS_DUE,
        &THREADS_POISONED,
        &JOBS_POISONED,
        &ENDPOINTS_POISONED,
    ] {
        LazyLock::force(gauge);
    }
    LazyLock::force(&RENEW);
}

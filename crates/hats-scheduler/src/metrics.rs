//! What is counted of this crate, for whoever has installed a recorder; without one it costs next to nothing.
//!
//! What must hold: the values of labels are a few words of ours, never the name of a task.

use std::sync::LazyLock;

use hats_cluster::records::TickOutcome;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

pub(crate) static THREAD_ERRORS: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_script_errors_total", "kind" => "thread"));
pub(crate) static JOB_ERRORS: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_script_errors_total", "kind" => "job"));
static TICKS_RAN: LazyLock<Counter> = LazyLock::new(|| counter!("hats_ticks_total", "outcome" => "ran"));
static TICKS_FAILED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_ticks_total", "outcome" => "failed"));
static TICKS_SKIPPED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_ticks_total", "outcome" => "skipped"));
static TICKS_MISSED: LazyLock<Counter> =
    LazyLock::new(|| counter!("hats_ticks_total", "outcome" => "missed"));
pub(crate) static TICKS_OVERDUE: LazyLock<Gauge> = LazyLock::new(|| gauge!("hats_ticks_overdue"));
pub(crate) static LATENESS: LazyLock<Histogram> = LazyLock::new(|| histogram!("hats_tick_lateness_seconds"));
pub(crate) static RUN: LazyLock<Histogram> = LazyLock::new(|| histogram!("hats_job_run_seconds"));

/// Counts `count` ticks with this outcome.
pub(crate) fn ticks(outcome: TickOutcome, count: u64) {
    let counter = match outcome {
        TickOutcome::Ran => &TICKS_RAN,
        TickOutcome::Failed => &TICKS_FAILED,
        TickOutcome::Skipped => &TICKS_SKIPPED,
        TickOutcome::Missed => &TICKS_MISSED,
    };
    counter.increment(count);
}

/// Tells the recorder what there is to be counted, so that each series is there from the start. A recorder that is
/// installed after the first use of this crate is not told anything.
pub fn describe() {
    metrics::describe_counter!(
        "hats_script_errors_total",
        "Scripts that have failed: threads, runs of jobs."
    );
    metrics::describe_counter!(
        "hats_ticks_total",
        "Ticks of jobs that this worker has asked for, by what came of them."
    );
    metrics::describe_gauge!(
        "hats_ticks_overdue",
        "Jobs with a tick that nobody has taken within 15 s, as far as this worker knows."
    );
    metrics::describe_histogram!("hats_tick_lateness_seconds", "From a tick to the first line of its run.");
    metrics::describe_histogram!("hats_job_run_seconds", "Duration of runs of jobs.");
    for counter in [&THREAD_ERRORS, &JOB_ERRORS, &TICKS_RAN, &TICKS_FAILED, &TICKS_SKIPPED, &TICKS_MISSED] {
        LazyLock::force(counter);
    }
    LazyLock::force(&TICKS_OVERDUE);
    for histogram in [&LATENESS, &RUN] {
        LazyLock::force(histogram);
    }
}

//! How soon threads run elsewhere. The times are printed, never asserted: only that all threads do.

use std::time::Duration;

use anyhow::Result;
use hats_tests::clock::percentile;
use hats_tests::{Lab, takeover};

use crate::is_soak;

#[test]
fn every_thread_of_a_dead_worker_runs_elsewhere() -> Result<()> {
    for (lease, threads) in shapes() {
        Lab::run("takeover", |lab| {
            let times = takeover::after_kill(lab, lease, threads)?;
            tell("SIGKILL", lease, threads, &times);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn every_thread_of_a_draining_worker_is_handed_over() -> Result<()> {
    for (lease, threads) in shapes() {
        Lab::run("hand-over", |lab| {
            let times = takeover::after_drain(lab, lease, threads)?;
            tell("SIGTERM", lease, threads, &times);
            Ok(())
        })?;
    }
    Ok(())
}

/// Leases and numbers of threads.
fn shapes() -> Vec<(Duration, usize)> {
    let [short, long] = [2, 5].map(Duration::from_secs);
    if is_soak() { vec![(short, 100), (short, 1000), (long, 100), (long, 1000)] } else { vec![(short, 100)] }
}

fn tell(signal: &str, lease: Duration, threads: usize, times: &[Duration]) {
    let [p50, p99, last] = [0.5, 0.99, 1.0].map(|share| percentile(times, share).as_secs_f64());
    eprintln!(
        "lease {lease:?}, {threads} threads, {signal} of one of two workers: {} moved, p50 {p50:.3} s, p99 {p99:.3} s, last {last:.3} s",
        times.len(),
    );
}

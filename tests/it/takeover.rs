//! How soon threads run elsewhere. The times are printed, never asserted: only that they all do.

use std::time::Duration;

use anyhow::Result;
use hats_tests::clock::percentile;
use hats_tests::cluster::{Cluster, Shape};
use hats_tests::history::EntryKind;
use hats_tests::{Lab, clock, redis};

use crate::is_soak;

#[test]
fn every_thread_of_a_dead_worker_runs_elsewhere() -> Result<()> {
    for (lease, threads) in shapes() {
        Lab::run("takeover", |lab| {
            let mut cluster = start(lab, lease, threads)?;
            let moved = cluster.threads_of(0)?;
            let killed = clock::now();
            cluster.seat(0)?.worker.kill()?;
            cluster.run(&moved, killed, Duration::from_secs(lease) * 3)?;
            let times = first_starts(&cluster, &moved, |_| Some(killed));
            tell(&format!("lease {lease} s, {threads} threads, SIGKILL of one of two workers"), &times);
            cluster.finish()?.not_empty()
        })?;
    }
    Ok(())
}

#[test]
fn every_thread_of_a_draining_worker_is_handed_over() -> Result<()> {
    for (lease, threads) in shapes() {
        Lab::run("hand-over", |lab| {
            let mut cluster = start(lab, lease, threads)?;
            let moved = cluster.threads_of(0)?;
            let pid = cluster.seat(0)?.worker.pid();
            let asked = clock::now();
            cluster.seat(0)?.worker.drain(Duration::from_secs(30))?;
            // Those that were handed over early may have started before the last was released.
            cluster.run(&moved, asked, Duration::from_secs(lease) * 3)?;
            clock::wait_for("all to have moved", Duration::from_secs(lease) * 3, || {
                cluster.history.read()?;
                Ok(cluster.history.threads_of(pid).is_empty().then_some(()))
            })?;
            // A thread's release follows the end of its last call at once.
            let mut ends = std::collections::HashMap::new();
            for entry in cluster.history.entries() {
                if entry.pid == pid && entry.kind == EntryKind::End {
                    ends.insert(entry.thread.clone(), entry.at);
                }
            }
            let times = first_starts(&cluster, &moved, |thread| ends.get(thread).copied());
            tell(&format!("lease {lease} s, {threads} threads, SIGTERM of one of two workers"), &times);
            cluster.finish()?.not_empty()
        })?;
    }
    Ok(())
}

/// Leases and numbers of threads.
fn shapes() -> Vec<(u64, usize)> {
    if is_soak() { vec![(2, 100), (2, 1000), (5, 100), (5, 1000)] } else { vec![(2, 100)] }
}

fn start(lab: &Lab, lease: u64, threads: usize) -> Result<Cluster> {
    let redis = redis::Options::default();
    let source = "function main() {}";
    let lease = Duration::from_secs(lease);
    Cluster::start(lab, Shape { workers: 2, threads, source, hang: 200, lease, redis, ..Shape::default() })
}

/// For each thread the time from an instant to the first start of its main() in another process than before.
fn first_starts(cluster: &Cluster, threads: &[String], since: impl Fn(&str) -> Option<u64>) -> Vec<Duration> {
    let pid = cluster.seats.first().map(|seat| seat.worker.pid());
    threads
        .iter()
        .filter_map(|thread| {
            let since = since(thread)?;
            let first = cluster
                .history
                .entries()
                .iter()
                .filter(|entry| entry.thread == *thread && entry.at >= since && Some(entry.pid) != pid)
                .map(|entry| entry.at)
                .min()?;
            Some(Duration::from_nanos(first - since))
        })
        .collect()
}

fn tell(what: &str, times: &[Duration]) {
    eprintln!(
        "{what}: {} moved, p50 {:.3} s, p99 {:.3} s, last {:.3} s",
        times.len(),
        percentile(times, 0.5).as_secs_f64(),
        percentile(times, 0.99).as_secs_f64(),
        percentile(times, 1.0).as_secs_f64(),
    );
}

//! How long threads of a worker that goes need until they run elsewhere.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;

use crate::cluster::{Cluster, Shape};
use crate::history::EntryKind;
use crate::{Lab, clock, redis};

/// Kills one of two workers; for each of its threads, the time from the kill to the first start elsewhere.
///
/// # Errors
/// When one does not run within three leases, or the history is not as it must be.
pub fn after_kill(lab: &Lab, lease: Duration, threads: usize) -> Result<Vec<Duration>> {
    let mut cluster = start(lab, lease, threads)?;
    let moved = cluster.threads_of(0)?;
    let killed = clock::now();
    cluster.seat(0)?.worker.kill()?;
    cluster.run(&moved, killed, lease * 3)?;
    let times = first_starts(&cluster, &moved, |_| Some(killed));
    cluster.seats.remove(0);
    cluster.finish()?.not_empty()?;
    Ok(times)
}

/// Drains one of two workers; for each of its threads, the time from the end of its last call, which its release
/// follows at once, to the first start elsewhere.
///
/// # Errors
/// When one does not run within three leases, or the history is not as it must be.
pub fn after_drain(lab: &Lab, lease: Duration, threads: usize) -> Result<Vec<Duration>> {
    let mut cluster = start(lab, lease, threads)?;
    let moved = cluster.threads_of(0)?;
    let pid = cluster.seat(0)?.worker.pid();
    cluster.seat(0)?.worker.drain(Duration::from_secs(30))?;
    clock::wait_for("all threads to have moved", lease * 3, || {
        cluster.history.read()?;
        Ok(cluster.history.threads_of(pid).is_empty().then_some(()))
    })?;
    let mut ends = HashMap::new();
    for entry in cluster.history.entries() {
        if entry.pid == pid && entry.kind == EntryKind::End {
            ends.insert(entry.thread.clone(), entry.at);
        }
    }
    let times = first_starts(&cluster, &moved, |thread| ends.get(thread).copied());
    cluster.seats.remove(0);
    cluster.finish()?.not_empty()?;
    Ok(times)
}

fn start(lab: &Lab, lease: Duration, threads: usize) -> Result<Cluster> {
    let source = "function main() {}";
    let redis = redis::Options::default();
    Cluster::start(lab, Shape { workers: 2, threads, source, hang: 200, lease, redis, ..Shape::default() })
}

/// For each thread the time from an instant to its first start in another process than that of the first seat.
fn first_starts(cluster: &Cluster, threads: &[String], since: impl Fn(&str) -> Option<u64>) -> Vec<Duration> {
    let gone = cluster.seats.first().map(|seat| seat.worker.pid());
    let mut first: HashMap<&str, u64> = HashMap::new();
    for entry in cluster.history.entries() {
        let is_elsewhere = entry.kind == EntryKind::Start && Some(entry.pid) != gone;
        if is_elsewhere && since(&entry.thread).is_some_and(|since| entry.at >= since) {
            first.entry(&entry.thread).and_modify(|at| *at = entry.at.min(*at)).or_insert(entry.at);
        }
    }
    threads
        .iter()
        .filter_map(|thread| Some(Duration::from_nanos(first.get(thread.as_str())? - since(thread)?)))
        .collect()
}

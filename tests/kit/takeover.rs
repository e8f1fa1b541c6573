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
    let (mut cluster, seat) = start(lab, lease, threads)?;
    let moved = cluster.threads_of(seat)?;
    let killed = clock::now();
    let gone = cluster.seat(seat)?.worker.pid();
    cluster.seat(seat)?.worker.kill()?;
    cluster.run(&moved, killed, lease * 3)?;
    let times = first_starts(&cluster, gone, &moved, |_| Some(killed));
    cluster.seats.remove(seat);
    cluster.finish()?.not_empty()?;
    Ok(times)
}

/// Drains one of two workers; for each of its threads, the time from the end of its last call, which its release
/// follows at once, to the first start elsewhere.
///
/// # Errors
/// When one does not run within three leases, or the history is not as it must be.
pub fn after_drain(lab: &Lab, lease: Duration, threads: usize) -> Result<Vec<Duration>> {
    let (mut cluster, seat) = start(lab, lease, threads)?;
    let moved = cluster.threads_of(seat)?;
    let gone = cluster.seat(seat)?.worker.pid();
    cluster.seat(seat)?.worker.drain(Duration::from_secs(30))?;
    clock::wait_for("all threads to have moved", lease * 3, || {
        cluster.history.read()?;
        Ok(cluster.history.threads_of(gone).is_empty().then_some(()))
    })?;
    let mut ends = HashMap::new();
    for entry in cluster.history.entries() {
        if entry.pid == gone && entry.kind == EntryKind::End {
            ends.insert(entry.thread.clone(), entry.at);
        }
    }
    let times = first_starts(&cluster, gone, &moved, |thread| ends.get(thread).copied());
    cluster.seats.remove(seat);
    cluster.finish()?.not_empty()?;
    Ok(times)
}

/// Two workers, and which of them has more of the threads.
fn start(lab: &Lab, lease: Duration, threads: usize) -> Result<(Cluster, usize)> {
    let source = "function main() {}";
    let redis = redis::Options::default();
    let shape = Shape { workers: 2, threads, source, hang: 200, lease, redis, ..Shape::default() };
    let mut cluster = Cluster::start(lab, shape)?;
    let seat = usize::from(cluster.threads_of(1)?.len() > cluster.threads_of(0)?.len());
    Ok((cluster, seat))
}

/// For each thread the time from an instant to its first start in another process than the one that went.
fn first_starts(
    cluster: &Cluster,
    gone: u32,
    threads: &[String],
    since: impl Fn(&str) -> Option<u64>,
) -> Vec<Duration> {
    let mut first: HashMap<&str, u64> = HashMap::new();
    for entry in cluster.history.entries() {
        let is_elsewhere = entry.kind == EntryKind::Start && entry.pid != gone;
        if is_elsewhere && since(&entry.thread).is_some_and(|since| entry.at >= since) {
            first.entry(&entry.thread).and_modify(|at| *at = entry.at.min(*at)).or_insert(entry.at);
        }
    }
    threads
        .iter()
        .filter_map(|thread| Some(Duration::from_nanos(first.get(thread.as_str())? - since(thread)?)))
        .collect()
}

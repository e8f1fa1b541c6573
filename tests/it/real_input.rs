//! The example on real input: three workers drain a list of records, one of them is killed in the middle, another
//! is restarted, and the counters equal an independent count of the file.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, Shape};
use hats_tests::proxy::Link;
use hats_tests::worker::workspace;
use hats_tests::{Lab, clock};

/// Threads that drain the list together.
const THREADS: usize = 12;

#[test]
fn every_record_is_counted_once() -> Result<()> {
    Lab::run("real input", |lab| {
        let source = fs::read_to_string(workspace().join("examples/tzdata.js"))?;
        let shape = Shape { threads: 0, hang: 1, ..Shape::default() };
        let mut cluster = Cluster::start(lab, shape)?;
        cluster.acquainted()?;
        // A network like others have, so that there is a middle to kill somebody in.
        for seat in &cluster.seats {
            seat.proxy.set(Link { latency: Duration::from_millis(4), ..Link::default() });
        }
        for number in 0..THREADS {
            cluster.define(&format!("tz{number}"), &source)?;
        }
        cluster.all_run(0, Duration::from_secs(15))?;
        // The two that drain most of it.
        let mut shares = (0..cluster.seats.len())
            .map(|seat| Ok((cluster.threads_of(seat)?.len(), seat)))
            .collect::<Result<Vec<_>>>()?;
        shares.sort_unstable();
        let [.., (some, restarted), (_, killed)] = shares.as_slice() else { unreachable!("three workers") };
        let (restarted, killed) = (*restarted, *killed);
        ensure!(*some > 0, "one worker has all threads: {shares:?}");

        let loaded = Command::new(workspace().join("examples/data/load.sh"))
            .args(["-p", &cluster.redis.address().port().to_string()])
            .output()?;
        ensure!(loaded.status.success(), "load.sh: {}", String::from_utf8_lossy(&loaded.stderr));

        counted(&cluster, 1000)?;
        cluster.seat(killed)?.worker.kill()?;
        let left = left(&cluster)?;
        ensure!(left > 1000, "only {left} records were left when a worker was killed");
        counted(&cluster, 1500)?;
        cluster.seat(restarted)?.worker.drain(Duration::from_secs(15))?;
        cluster.revive()?;

        counted(&cluster, records()?)?;
        let mut counts: Vec<String> = cluster
            .redis
            .hash("{tz}:counts")?
            .iter()
            .map(|(name, count)| format!("{name}\t{count}"))
            .collect();
        counts.sort();
        let independent =
            Command::new(workspace().join("examples/data/count.sh")).env("LC_ALL", "C").output()?;
        let mut independent: Vec<String> =
            String::from_utf8(independent.stdout)?.lines().map(str::to_owned).collect();
        independent.sort();
        assert_eq!(counts, independent);
        let mut printed: Vec<String> = expected()?.lines().map(str::to_owned).collect();
        printed.sort();
        assert_eq!(counts, printed);
        ensure!(left_anywhere(&cluster)? == 0, "records were left behind");
        cluster.finish()?.not_empty()
    })
}

fn expected() -> Result<String> {
    Ok(fs::read_to_string(workspace().join("examples/expected/tzdata.txt"))?)
}

/// Records of the file, comments left out.
fn records() -> Result<i64> {
    let file = fs::read_to_string(workspace().join("examples/data/tzdata.zi"))?;
    Ok(i64::try_from(file.lines().filter(|line| !line.starts_with('#')).count())?)
}

/// Waits until so many records are counted.
fn counted(cluster: &Cluster, records: i64) -> Result<()> {
    clock::wait_for(&format!("{records} records to be counted"), Duration::from_secs(60), || {
        let counted = cluster.redis.ask(&["HGET", "{tz}:counts", "records"])?.int().unwrap_or(0);
        Ok((counted >= records).then_some(()))
    })
}

fn left(cluster: &Cluster) -> Result<i64> {
    Ok(cluster.redis.ask(&["LLEN", "{tz}:queue"])?.int().unwrap_or(0))
}

fn left_anywhere(cluster: &Cluster) -> Result<i64> {
    let mut all = left(cluster)?;
    for number in 0..THREADS {
        let key = format!("{{tz}}:taken:{}", Cluster::key(&format!("tz{number}")));
        all += cluster.redis.ask(&["LLEN", &key])?.int().unwrap_or(0);
    }
    Ok(all)
}

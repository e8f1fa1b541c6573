//! Who has how many threads: shares become even whoever joins or leaves, and nobody moves more than that takes.
//!
//! What is printed (moves, times, the largest share) is never asserted as a time; that shares become even is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::{Lab, clock};

use crate::is_soak;

/// A worker is given threads of others when it has been there for 10 s.
const PATIENCE: Duration = Duration::from_secs(40);
/// Says what it does, so that the order of a move shows.
const TELLING: &str = r#"
    function init() { redis.Call("RPUSH", "told:" + thread.Key, "init " + worker.Name); }
    function main() { redis.Call("INCR", "count:" + thread.Key); sleep(20); }
    function cleanup() { redis.Call("RPUSH", "told:" + thread.Key, "cleanup " + worker.Name); }
"#;

fn shape() -> (usize, usize) {
    if is_soak() { (4, 1000) } else { (3, 60) }
}

/// Waits until all threads are owned and no worker is further than a tenth from its share; prints what that took.
fn becomes_even(
    cluster: &Cluster,
    what: &str,
    workers: usize,
    before: &BTreeMap<String, (String, u64)>,
) -> Result<()> {
    let began = Instant::now();
    let all = cluster.threads.len();
    let share = all as f64 / workers as f64;
    let off = (share / 10.0).max(1.0);
    let mut last = BTreeMap::new();
    let even = clock::wait_for(&format!("even shares after {what}"), PATIENCE, || {
        last = cluster.shares()?;
        let is_even = last.len() == workers
            && last.values().sum::<usize>() == all
            && last.values().all(|count| (*count as f64 - share).abs() <= off);
        Ok(is_even.then_some(()))
    });
    even.with_context(|| format!("{last:?}"))?;
    let now = cluster.claims()?;
    let moved = now
        .iter()
        .filter(|(thread, (_, epoch))| before.get(*thread).is_none_or(|(_, was)| was != epoch))
        .count();
    eprintln!(
        "balance: {what}: {all} threads on {workers} workers, {moved} moved, even after {:.1} s, the largest share {} of {share:.1}",
        began.elapsed().as_secs_f64(),
        last.values().max().copied().unwrap_or(0),
    );
    Ok(())
}

#[test]
fn shares_become_even_whoever_comes_and_goes() -> Result<()> {
    Lab::run("balance", |lab| {
        let (workers, threads) = shape();
        let mut cluster =
            Cluster::start(lab, Shape { workers, threads, source: TELLING, hang: 50, ..Shape::default() })?;
        becomes_even(&cluster, "the start", workers, &BTreeMap::new())?;

        let before = cluster.claims()?;
        cluster.join("joins")?;
        becomes_even(&cluster, "a join", workers + 1, &before)?;
        let moved =
            cluster.claims()?.iter().filter(|(thread, claim)| before.get(*thread) != Some(*claim)).count();
        let least = threads / (workers + 1);
        // What a thread that was on its way costs twice is in it.
        ensure!(moved <= least + least.div_ceil(10) + workers, "{moved} moves where {least} would do");
        told_in_order(&cluster, &before)?;

        let before = cluster.claims()?;
        let leaves = cluster.seats.pop().context("who has joined")?;
        leaves.worker.terminate()?;
        leaves.worker.wait(Duration::from_secs(20))?;
        becomes_even(&cluster, "a leave", workers, &before)?;

        let before = cluster.claims()?;
        cluster.seat(0)?.worker.kill()?;
        becomes_even(&cluster, "a death", workers - 1, &before)?;

        let before = cluster.claims()?;
        cluster.revive()?;
        becomes_even(&cluster, "its return", workers, &before)?;
        cluster.finish().map(drop)
    })
}

/// Each thread that has moved was cleaned up where it was before it began where it is.
fn told_in_order(cluster: &Cluster, before: &BTreeMap<String, (String, u64)>) -> Result<()> {
    let now = cluster.claims()?;
    for thread in
        now.iter().filter(|(thread, claim)| before.get(*thread) != Some(*claim)).map(|(name, _)| name)
    {
        let told =
            cluster.redis.ask(&["LRANGE", &format!("told:{}", Cluster::key(thread)), "0", "-1"])?.texts();
        for (nth, pair) in told.chunks(2).enumerate() {
            let [began, ended] = pair else { continue };
            let (began, ended) = (began.strip_prefix("init "), ended.strip_prefix("cleanup "));
            ensure!(began.is_some() && began == ended, "{thread}: the {nth}th life of {told:?}");
        }
    }
    Ok(())
}

#[test]
fn threads_run_where_what_they_require_is_offered_and_no_more_than_fit() -> Result<()> {
    Lab::run("requires", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 1, threads: 0, ..Shape::default() })?;
        cluster.join_with("gpu", &[("--labels", "gpu,zone=eu"), ("--max-threads", "3")])?;
        cluster.acquainted()?;
        for thread in ["a", "b"] {
            cluster.redis.ask(&["HSET", &Cluster::key(thread), "Requires", "gpu", "Hang", "20"])?;
            cluster.define(thread, hats_tests::cluster::STEADY)?;
        }
        for number in 0..10 {
            cluster.define(&format!("t{number}"), hats_tests::cluster::STEADY)?;
        }
        cluster.all_run(clock::now(), PATIENCE)?;
        // One that makes room is nobody's for a moment.
        clock::wait_for("all to be owned", PATIENCE, || {
            let shares = cluster.shares()?;
            ensure!(shares["gpu"] <= 3, "{shares:?}");
            Ok((shares.values().sum::<usize>() == 12).then_some(()))
        })?;
        let sessions: BTreeMap<String, (String, u64)> = cluster.claims()?;
        ensure!(sessions["a"].0 == sessions["b"].0, "both need the one that has a GPU: {sessions:?}");

        // It runs on where its requirement is met, and nowhere once it is met nowhere.
        cluster.redis.ask(&["HSET", &Cluster::key("a"), "Requires", "zone=us"])?;
        clock::wait_for("a to stop", PATIENCE, || {
            Ok((cluster.redis.field(&Cluster::key("a"), "State")? == "stopped").then_some(()))
        })?;
        let since = clock::now();
        cluster.join_with("us", &[("--labels", "zone=us")])?;
        cluster.run(&["a".to_owned()], since, PATIENCE)?;
        ensure!(cluster.redis.field(&Cluster::key("a"), "Owner")?.contains("us"));

        // What is no label is an error of that thread alone.
        cluster.redis.ask(&["HSET", &Cluster::key("b"), "Requires", "g p u"])?;
        clock::wait_for("b to be crashed", PATIENCE, || {
            Ok(cluster.redis.field(&Cluster::key("b"), "Error")?.contains("Requires").then_some(()))
        })?;
        cluster.threads.remove("b");
        cluster.finish().map(drop)
    })
}

#[test]
fn workers_are_listed_shown_and_drained() -> Result<()> {
    Lab::run("workers", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 4, ..Shape::default() })?;
        let address = cluster.redis.address().to_string();
        let ask = |words: &[&str]| {
            let shared = ["--redis-address", &address, "--cluster-name", NAME, "worker"];
            hats_tests::worker::run(&[&shared[..], words].concat())
        };
        let listed = clock::wait_for("both to say what they have", PATIENCE, || {
            let output = ask(&["list", "--json"])?;
            ensure!(output.code == 0, "{output:?}");
            let rows: serde_json::Value = serde_json::from_str(&output.stdout)?;
            let threads: u64 =
                rows.as_array().into_iter().flatten().filter_map(|row| row["threads"].as_u64()).sum();
            Ok((threads == 4).then_some(rows))
        })?;
        ensure!(listed.as_array().is_some_and(|rows| rows.len() == 2), "{listed}");
        ensure!(listed[0]["name"] == "w0" && listed[0]["state"] == "online", "{listed}");
        ensure!(ask(&["show", "w1"])?.stdout.contains("Claims   open"));
        let nobody = ask(&["drain", "nobody"])?;
        ensure!(nobody.code != 0 && nobody.stderr.contains("no worker nobody"), "{nobody:?}");

        ensure!(ask(&["drain", "w0"])?.code == 0);
        let drained = cluster.seats.remove(0);
        let exit = drained.worker.wait(Duration::from_secs(20))?;
        ensure!(exit.code() == Some(0), "{:?}", exit.status);
        cluster.all_run(clock::now(), PATIENCE)?;
        let row: serde_json::Value = serde_json::from_str(&ask(&["show", "w0", "--json"])?.stdout)?;
        ensure!(row["status"] == "disabled" && row["state"] == "offline", "{row}");
        cluster.seat(0)?.worker.terminate()?;
        Ok(())
    })
}

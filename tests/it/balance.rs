//! Who has how many threads: shares become even whoever joins, leaves, dies, is critical or recovers, and nobody moves more
//! than that takes.
//!
//! What is printed (moves, times, the largest share, the gaps of moves) is never asserted as a time; that shares become even
//! is, with how many moves, and that each thread is cleaned up where it was before it begins where it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::health::FakeSystem;
use hats_tests::{Lab, clock};

use crate::is_soak;

/// A worker is given threads of others when it has been there for 10 s, and one that is critical gives its own away bit by
/// bit.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nobody is on the way any more when nothing has moved for so long: owners look twice in it.
const STILL: Duration = Duration::from_millis(1500);
/// Says what it does and when, so that the order of a move shows, and how long nobody ran the thread.
const TELLING: &str = r#"
    function tell(what) { redis.Call("RPUSH", "told:" + thread.Key, `${what} ${worker.Name} ${Date.now()}`); }
    function init() { tell("init"); }
    function main() { redis.Call("INCR", "count:" + thread.Key); sleep(20); }
    function cleanup() { tell("cleanup"); }
"#;

fn shape() -> (usize, usize) {
    if is_soak() { (4, 1000) } else { (3, 48) }
}

type Claims = BTreeMap<String, (String, u64)>;

/// Waits until all threads are owned by these workers, each of which is no further than a tenth from its share, and nobody is
/// on the way any more. Prints what that took, and gives how many threads have moved.
fn becomes_even(cluster: &Cluster, what: &str, among: &[&str], before: &Claims) -> Result<usize> {
    let began = Instant::now();
    let all = cluster.threads.len();
    let share = all as f64 / among.len() as f64;
    let off = (share / 10.0).max(1.0);
    let mut last = BTreeMap::new();
    let even = clock::wait_for(&format!("even shares after {what}"), PATIENCE, || {
        last = cluster.shares()?;
        let of = |name: &&str| last.get(*name).copied().unwrap_or(0);
        let is_even = among.iter().map(of).sum::<usize>() == all
            && among.iter().map(of).all(|count| (count as f64 - share).abs() <= off);
        Ok(is_even.then(|| began.elapsed()))
    });
    let even = even.with_context(|| format!("{last:?}"))?;
    let largest = last.values().max().copied().unwrap_or(0);
    let now = is_still(cluster)?;
    let moved = now.iter().filter(|(thread, claim)| before.get(*thread) != Some(*claim)).count();
    eprintln!(
        "balance: {what}: {all} threads on {} workers, {moved} moved, even after {:.1} s, the largest share {largest} of {share:.1}{}",
        among.len(),
        even.as_secs_f64(),
        gaps(&told(cluster)?),
    );
    Ok(moved)
}

/// Waits until nothing moves any more.
fn is_still(cluster: &Cluster) -> Result<Claims> {
    let mut last = (Claims::new(), Instant::now());
    clock::wait_for("the moves to end", PATIENCE, || {
        let claims = cluster.claims()?;
        if claims != last.0 {
            last = (claims, Instant::now());
        }
        Ok((last.1.elapsed() >= STILL).then(|| last.0.clone()))
    })
}

/// The claims as they are; what threads tell from here on is of what comes next.
fn begin(cluster: &Cluster) -> Result<Claims> {
    let forget = |thread: &String| vec!["DEL".to_owned(), format!("told:{}", Cluster::key(thread))];
    cluster.redis.pipeline(&cluster.threads.keys().map(forget).collect::<Vec<_>>())?;
    cluster.claims()
}

/// For how long threads that were moved ran nowhere, in milliseconds. Each was cleaned up where it was before it began where it
/// is.
fn told(cluster: &Cluster) -> Result<Vec<u64>> {
    let mut gaps = Vec::new();
    for thread in cluster.threads.keys() {
        let told =
            cluster.redis.ask(&["LRANGE", &format!("told:{}", Cluster::key(thread)), "0", "-1"])?.texts();
        // What it was doing, where, and since when.
        let mut last: Option<(&str, &str, u64)> = None;
        for line in &told {
            let [what, worker, at] = line.split(' ').collect::<Vec<_>>()[..] else {
                anyhow::bail!("{thread}: {told:?}")
            };
            let at: u64 = at.parse()?;
            match (last, what) {
                (None, _) => {}
                (Some(("cleanup", _, ended)), "init") => gaps.push(at.saturating_sub(ended)),
                (Some(("init", began, _)), "cleanup") if began == worker => {}
                _ => anyhow::bail!(
                    "{thread} is not cleaned up where it was before it begins elsewhere: {told:?}"
                ),
            }
            last = Some((what, worker, at));
        }
        ensure!(last.is_none_or(|(what, ..)| what == "init"), "{thread}: {told:?}");
    }
    Ok(gaps)
}

fn gaps(of: &[u64]) -> String {
    let mut of = of.to_vec();
    of.sort_unstable();
    let [least, .., most] = of[..] else { return String::new() };
    let median = of[of.len() / 2];
    format!(
        ", between cleanup() and init() {least} / {median} / {most} ms (least, median, most of {})",
        of.len()
    )
}

/// No more than a tenth above the least that would do, and what a thread that was on its way costs twice.
fn is_thrifty(moved: usize, least: usize, workers: usize) -> Result<()> {
    ensure!(moved <= least + least.div_ceil(10) + workers, "{moved} moves where {least} would do");
    Ok(())
}

/// Starts a worker whose system is as well as the test wants.
fn join(lab: &Lab, cluster: &mut Cluster, name: &str) -> Result<FakeSystem> {
    let system = FakeSystem::new(lab, &format!("system-{name}"))?;
    let root = system.root().display().to_string();
    let flags = [("--system-root", &*root), ("--health-interval", "200ms"), ("--cpu-threshold", "4")];
    cluster.join_with(name, &flags)?;
    Ok(system)
}

#[test]
fn shares_become_even_whatever_happens() -> Result<()> {
    Lab::run("balance", |lab| {
        let (workers, threads) = shape();
        let shape = Shape { workers: 0, threads: 0, source: TELLING, hang: 50, ..Shape::default() };
        let mut cluster = Cluster::start(lab, shape)?;
        let names: Vec<String> = (0..workers).map(|number| format!("w{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let systems: Vec<FakeSystem> =
            names.iter().map(|name| join(lab, &mut cluster, name)).collect::<Result<_>>()?;
        cluster.acquainted()?;
        for number in 0..threads {
            cluster.threads.insert(format!("t{number}"), TELLING.to_owned());
        }
        cluster.define_all()?;
        becomes_even(&cluster, "the start", &names, &Claims::new())?;

        let before = begin(&cluster)?;
        let _system = join(lab, &mut cluster, "joins")?;
        let moved = becomes_even(&cluster, "a join", &[&names[..], &["joins"]].concat(), &before)?;
        is_thrifty(moved, threads / (workers + 1), workers)?;

        let before = begin(&cluster)?;
        let had = cluster.shares()?["joins"];
        let leaves = cluster.seats.pop().context("who has joined")?;
        leaves.worker.terminate()?;
        leaves.worker.wait(Duration::from_secs(30))?;
        let moved = becomes_even(&cluster, "a drain", &names, &before)?;
        is_thrifty(moved, had, workers)?;

        let before = begin(&cluster)?;
        let had = cluster.shares()?["w0"];
        cluster.seat(0)?.worker.kill()?;
        let moved = becomes_even(&cluster, "a death", &names[1..], &before)?;
        is_thrifty(moved, had, workers)?;

        let before = begin(&cluster)?;
        cluster.revive()?;
        let moved = becomes_even(&cluster, "its return", &names, &before)?;
        is_thrifty(moved, threads / workers, workers)?;

        let before = begin(&cluster)?;
        let had = cluster.shares()?["w1"];
        systems[1].load(9.0)?;
        let others: Vec<&str> = names.iter().copied().filter(|name| *name != "w1").collect();
        let moved = becomes_even(&cluster, "one is critical", &others, &before)?;
        is_thrifty(moved, had, workers)?;

        let before = begin(&cluster)?;
        systems[1].load(1.0)?;
        let moved = becomes_even(&cluster, "it has recovered", &names, &before)?;
        is_thrifty(moved, threads / workers, workers)?;
        cluster.finish().map(drop)
    })
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
        clock::wait_for("a to be with the one that offers it", PATIENCE, || {
            Ok(cluster.redis.field(&Cluster::key("a"), "Owner")?.contains("us").then_some(()))
        })?;

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

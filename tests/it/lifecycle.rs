//! The life of a thread and of a worker as their users see it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(10);

/// Writes its steps down in Redis.
const DIARY: &str = r#"
    const write = word => redis.Call("RPUSH", "diary", word);
    let calls = 0;
    write("source");
    async function init() { write("init"); await null; write("init awaited"); }
    function main() { if (++calls <= 2) write("main " + calls); sleep(5); }
    function cleanup() { write("cleanup"); }
"#;

fn diary(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.redis.ask(&["LRANGE", "diary", "0", "-1"])?.texts())
}

fn wait_for_diary(cluster: &Cluster, word: &str, times: usize) -> Result<()> {
    clock::wait_for(&format!("{times} times {word:?}"), PATIENCE, || {
        Ok((diary(cluster)?.iter().filter(|written| *written == word).count() >= times).then_some(()))
    })
}

fn start(lab: &Lab, workers: usize) -> Result<Cluster> {
    Cluster::start(lab, Shape { workers, threads: 0, ..Shape::default() })
}

fn wait_for_state(cluster: &Cluster, thread: &str, state: &str) -> Result<()> {
    clock::wait_for(&format!("{thread} to be {state}"), PATIENCE, || {
        Ok((cluster.redis.field(&Cluster::key(thread), "State")? == state).then_some(()))
    })
}

#[test]
fn a_thread_goes_from_source_to_cleanup() -> Result<()> {
    Lab::run("diary", |lab| {
        let mut cluster = start(lab, 1)?;
        cluster.define("diary", DIARY)?;
        wait_for_diary(&cluster, "main 2", 1)?;
        wait_for_state(&cluster, "diary", "running")?;
        let definition = cluster.redis.hash(&Cluster::key("diary"))?;
        ensure!(definition.get("Owner").is_some_and(|owner| owner.contains("w0")), "{definition:?}");
        ensure!(definition.get("Heartbeat").is_some_and(|beat| beat.len() == 19), "{definition:?}");
        cluster.finish()?;
        assert_eq!(diary(&cluster)?, ["source", "init", "init awaited", "main 1", "main 2", "cleanup"]);
        ensure!(cluster.redis.field(&Cluster::key("diary"), "State")? == "stopped");
        ensure!(cluster.redis.field(&format!("{NAME}:workers:w0"), "State")? == "offline");
        Ok(())
    })
}

#[test]
fn a_changed_source_restarts_where_it_runs() -> Result<()> {
    Lab::run("reload", |lab| {
        let mut cluster = start(lab, 2)?;
        cluster.define("diary", DIARY)?;
        wait_for_diary(&cluster, "main 2", 1)?;
        let before = cluster.redis.hash(&format!("{NAME}:Claims:diary"))?;
        let start = Instant::now();
        cluster.define("diary", &DIARY.replace("\"main \"", "\"new \""))?;
        wait_for_diary(&cluster, "new 1", 1)?;
        eprintln!("reload: {:.3} s", start.elapsed().as_secs_f64());
        let after = cluster.redis.hash(&format!("{NAME}:Claims:diary"))?;
        assert_eq!(before.get("Session"), after.get("Session"));
        // It ended in good order before it started anew.
        let words = diary(&cluster)?;
        assert_eq!(words.iter().filter(|word| *word == "cleanup").count(), 1, "{words:?}");
        // What does not concern the source changes nothing of its run.
        cluster.redis.ask(&["HSET", &Cluster::key("diary"), "Hang", "7"])?;
        cluster.run(&["diary".to_owned()], clock::now(), PATIENCE)?;
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(diary(&cluster)?.iter().filter(|word| *word == "cleanup").count(), 1);
        cluster.finish()?;
        Ok(())
    })
}

#[test]
fn disabled_is_stopped_and_enabled_runs_again() -> Result<()> {
    Lab::run("disable", |lab| {
        let mut cluster = start(lab, 2)?;
        cluster.define("diary", DIARY)?;
        wait_for_diary(&cluster, "main 2", 1)?;
        cluster.redis.ask(&["HSET", &Cluster::key("diary"), "Status", "disabled"])?;
        wait_for_diary(&cluster, "cleanup", 1)?;
        wait_for_state(&cluster, "diary", "stopped")?;
        cluster.redis.ask(&["HSET", &Cluster::key("diary"), "Status", "enabled"])?;
        wait_for_diary(&cluster, "init", 2)?;
        // A deleted one ends just as well.
        cluster.redis.ask(&["DEL", &Cluster::key("diary")])?;
        wait_for_diary(&cluster, "cleanup", 2)?;
        cluster.finish()?;
        ensure!(cluster.redis.hash(&Cluster::key("diary"))?.is_empty(), "a deleted definition came back");
        Ok(())
    })
}

#[test]
fn a_thread_that_stops_itself_goes_elsewhere() -> Result<()> {
    Lab::run("stop", |lab| {
        let mut cluster = start(lab, 2)?;
        let source = r#"
            function main() {
              redis.Call("RPUSH", "diary", worker.Name);
              thread.Stop();
              redis.Call("RPUSH", "diary", "goes on until the end of its call");
            }"#;
        cluster.define("stop", source)?;
        clock::wait_for("two owners", PATIENCE, || Ok((diary(&cluster)?.len() >= 4).then_some(())))?;
        let words = diary(&cluster)?;
        let mut owners = [words[0].clone(), words[2].clone()];
        owners.sort();
        assert_eq!(owners, ["w0", "w1"]);
        assert_eq!(words[1], words[3]);
        cluster.redis.ask(&[
            "HSET",
            &Cluster::key("self"),
            "Source",
            "function main() { thread.Disable(); sleep(9); }",
        ])?;
        clock::wait_for("Status=disabled", PATIENCE, || {
            Ok((cluster.redis.field(&Cluster::key("self"), "Status")? == "disabled").then_some(()))
        })?;
        wait_for_state(&cluster, "self", "stopped")?;
        cluster.finish()?.not_empty()
    })
}

#[test]
fn a_thread_that_stops_itself_at_each_start_is_started_once_in_five_seconds_by_each_worker() -> Result<()> {
    for workers in [2, 3] {
        Lab::run(&format!("cooldown{workers}"), |lab| {
            let mut cluster = start(lab, workers)?;
            let source = r#"
                function init() {
                  redis.Call("RPUSH", "diary", `${worker.Name} ${Date.now()}`);
                  thread.Stop();
                }"#;
            cluster.define("stop", source)?;
            let starts = || -> Result<BTreeMap<String, Vec<u64>>> {
                let mut starts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
                for line in diary(&cluster)? {
                    let (worker, at) = line.split_once(' ').context("no time of a start")?;
                    starts.entry(worker.to_owned()).or_default().push(at.parse()?);
                }
                Ok(starts)
            };
            clock::wait_for("two starts on each worker", PATIENCE * 3, || {
                let starts = starts()?;
                let all = starts.len() == workers && starts.values().all(|starts| starts.len() >= 2);
                // A hot loop is no reason to wait.
                let many = starts.values().any(|starts| starts.len() > 20);
                Ok((all || many).then_some(()))
            })?;
            for (worker, starts) in starts()? {
                for pair in starts.windows(2) {
                    // Its cooldown begins when it has stopped, behind the start.
                    ensure!(pair[1] - pair[0] >= 5000, "{worker} started it at {starts:?}");
                }
            }
            cluster.finish()?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_drain_waits_for_the_call_in_hand_and_then_interrupts() -> Result<()> {
    Lab::run("drain", |lab| {
        let mut cluster = start(lab, 1)?;
        cluster.define(
            "willing",
            r#"function main() {
                 redis.Call("INCR", "willing");
                 while (!thread.Stopped) sleep(60000);
                 redis.Call("RPUSH", "diary", "willing saw " + worker.ShuttingDown);
               }"#,
        )?;
        cluster.define(
            "deaf",
            r#"function main() { redis.Call("INCR", "deaf"); for (;;) {} }
               function cleanup() { redis.Call("RPUSH", "diary", "deaf cleans up"); }"#,
        )?;
        for key in ["willing", "deaf"] {
            clock::wait_for(key, PATIENCE, || Ok(cluster.redis.ask(&["GET", key])?.int()))?;
        }
        let start = Instant::now();
        // The cluster's workers have a drain timeout of 5 s.
        cluster.finish()?;
        let took = start.elapsed();
        ensure!(took >= Duration::from_secs(5), "the deaf one was not given its time: {took:?}");
        assert_eq!(diary(&cluster)?, ["willing saw true", "deaf cleans up"]);
        Ok(())
    })
}

#[test]
fn a_second_signal_ends_at_once() -> Result<()> {
    Lab::run("second signal", |lab| {
        let mut cluster = start(lab, 1)?;
        cluster.define("deaf", "function main() { for (;;) {} }")?;
        cluster.all_run(0, PATIENCE)?;
        let worker = &cluster.seat(0)?.worker;
        worker.process().signal(Signal::INT)?;
        clock::wait_for("State=draining", PATIENCE, || {
            Ok((cluster.redis.field(&format!("{NAME}:workers:w0"), "State")? == "draining").then_some(()))
        })?;
        // What comes within a moment of the first is its echo.
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        worker.process().signal(Signal::INT)?;
        let exit = worker.wait(PATIENCE)?;
        ensure!(exit.code().is_some_and(|code| code != 0), "{:?}", exit.status);
        ensure!(start.elapsed() < Duration::from_secs(3));
        Ok(())
    })
}

#[test]
fn a_worker_is_disabled_by_its_row() -> Result<()> {
    Lab::run("disabled worker", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 8, ..Shape::default() })?;
        cluster.redis.ask(&["HSET", &format!("{NAME}:workers:w0"), "Status", "disabled"])?;
        let exit = cluster.seat(0)?.worker.wait(Duration::from_secs(20))?;
        ensure!(exit.code() == Some(0), "{:?}", exit.status);
        cluster.all_run(exit.at, PATIENCE)?;
        // A start says that it is wanted again.
        cluster.recovers("the disabled worker was started again")?;
        // Its session is there before its row is written.
        clock::wait_for("the row to say enabled", PATIENCE, || {
            let status = cluster.redis.field(&format!("{NAME}:workers:w0"), "Status")?;
            Ok((status == "enabled").then_some(()))
        })?;
        cluster.finish()?.not_empty()
    })
}

#[test]
fn three_workers_share_hundreds_of_threads() -> Result<()> {
    Lab::run("share", |lab| {
        let mut cluster = start(lab, 3)?;
        cluster.acquainted()?;
        for number in 0..300 {
            cluster.threads.insert(format!("t{number}"), "function main() {}".to_owned());
        }
        cluster.define_all()?;
        cluster.all_run(0, Duration::from_secs(15))?;
        for seat in 0..3 {
            let share = cluster.threads_of(seat)?.len();
            eprintln!("share of worker {seat}: {share}");
            // On a busy machine one may be slow to ask; but nobody takes all.
            ensure!((5..=250).contains(&share), "worker {seat} has {share} of 300 threads");
        }
        let exit = cluster.seat(0)?.worker.kill()?;
        cluster.all_run(exit.at, cluster.lease() * 3)?;
        cluster.seats.remove(0);
        cluster.finish()?.not_empty()
    })
}

#[test]
fn run_now_claims_what_is_free_and_leaves_alone_what_runs() -> Result<()> {
    Lab::run("run now", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 10, ..Shape::default() })?;
        let script = |name: &str, text: &str| -> Result<String> {
            let path = lab.path().join(name);
            std::fs::write(&path, text)?;
            Ok(path.to_str().context("a path that is no text")?.to_owned())
        };
        let source = "function main() { sleep(10); }";
        let mine = script("mine.js", source)?;
        let theirs = script("theirs.js", source)?;
        cluster.define(&theirs, source)?;
        // Until then it may move by itself.
        cluster.evens_out()?;
        cluster.all_run(clock::now(), PATIENCE)?;
        let owner = cluster.history.last_start(&theirs).context("it does not run")?.1;

        let options = Options::new("new", NAME, &cluster.redis.address().to_string())
            .argument("--lease-seconds", "2")
            .argument("--scripts", &format!("{mine},{theirs}"))
            // Its share is less than the one that it claims, so that nothing moves to it by itself.
            .argument("--weight", "0.1")
            .flag("--run-now");
        let worker = Worker::start(lab, options)?;
        cluster.history.add(worker.calls().to_owned());
        cluster.run(std::slice::from_ref(&mine), 0, PATIENCE)?;
        let claimed = cluster.history.last_start(&mine).context("it does not run")?.1;
        assert_eq!(claimed, worker.pid());
        cluster.all_run(clock::now(), PATIENCE)?;
        let still = cluster.history.last_start(&theirs).context("it does not run")?.1;
        assert_eq!(still, owner);
        worker.drain(PATIENCE)?;
        cluster.finish()?;
        Ok(())
    })
}

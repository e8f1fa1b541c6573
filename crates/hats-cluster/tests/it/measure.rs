//! Figures, not facts: run one with `cargo test -p hats-cluster --test it -- --ignored --nocapture measure`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand};
use hats_cluster::clock::BootInstant;
use hats_cluster::id::{Nonce, SessionId};
use hats_cluster::name::TaskName;
use hats_cluster::records::{Overlap, TickOutcome};
use hats_cluster::store::{Asked, Ended, Said, Store, TickAnswer, TickRequest};
use tokio::task::JoinSet;

use crate::coordinator::{put, store};
use crate::server::RedisServer;
use crate::worker::{Journal, Worker, config};

/// Calls of each command so far, those inside Lua included.
async fn calls(store: &Store) -> HashMap<String, u64> {
    let stats: String = store.client().info(Some(fred::types::InfoKind::CommandStats)).await.unwrap();
    stats
        .lines()
        .filter_map(|line| {
            let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let calls = fields.strip_prefix("calls=")?.split(',').next()?;
            Some((name.to_owned(), calls.parse().ok()?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_cold_start_of_10_000() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 10_000).await;
    let start = BootInstant::now();
    let mut config = config(&redis.config(), "a");
    config.lease = Duration::from_secs(5);
    let _a = Worker::start_with(config, &journal).await;
    journal.until_running(10_000).await;
    println!(
        "10,000 threads claimed {:?} after the start",
        BootInstant::now().saturating_duration_since(start)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_commands_of_two_workers_with_1000_threads() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 1000).await;
    let start = |name: &'static str| {
        let mut config = config(&redis.config(), name);
        config.lease = Duration::from_secs(5);
        Worker::start_with(config, &journal)
    };
    let (_a, _b) = tokio::join!(start("a"), start("b"));
    journal.until_running(1000).await;
    println!("a {} b {}", journal.count("a"), journal.count("b"));
    tokio::time::sleep(Duration::from_secs(35)).await;
    let before = calls(&store).await;
    let seconds = 30;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let mut all = 0.0;
    let mut after: Vec<_> = calls(&store).await.into_iter().collect();
    after.sort();
    for (name, calls) in after {
        let per_second = (calls - before.get(&name).unwrap_or(&0)) as f64 / seconds as f64;
        if per_second > 0.0 {
            println!("{name:20} {per_second:6.1}/s");
        }
        all += per_second;
    }
    println!("{:20} {all:6.1}/s", "all");
}

async fn takeover(lease: u64, threads: usize) {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, threads).await;
    let start = |name: &'static str| {
        let mut config = config(&redis.config(), name);
        config.lease = Duration::from_secs(lease);
        Worker::start_with(config, &journal)
    };
    let (a, _b, _c) = tokio::join!(start("a"), start("b"), start("c"));
    journal.until_running(threads).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("shared {} {} {}", journal.count("a"), journal.count("b"), journal.count("c"));
    let killed = BootInstant::now();
    a.kill().await;
    journal.until("b and c run all", |_| journal.count("b") + journal.count("c") == threads).await;
    journal.check();
    let runs = journal.runs();
    let mut after: Vec<_> = runs
        .iter()
        .filter(|run| run.end.is_none() && run.start > killed)
        .map(|run| run.start.saturating_duration_since(killed))
        .collect();
    after.sort();
    println!(
        "lease {lease} s, {} of {threads} threads taken over: p50 {:?} p99 {:?} last {:?}; now {} {}",
        after.len(),
        after[after.len() / 2],
        after[after.len() * 99 / 100],
        after[after.len() - 1],
        journal.count("b"),
        journal.count("c")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_takeover() {
    for lease in [2, 5] {
        for threads in [100, 1000] {
            takeover(lease, threads).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_hand_over() {
    for threads in [100, 1000] {
        hand_over(threads).await;
    }
}

async fn hand_over(threads: usize) {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, threads).await;
    let start = |name: &'static str| {
        let mut config = config(&redis.config(), name);
        config.lease = Duration::from_secs(5);
        Worker::start_with(config, &journal)
    };
    let (a, _b, _c) = tokio::join!(start("a"), start("b"), start("c"));
    journal.until_running(threads).await;
    a.drain().await;
    journal.until("b and c run all", |_| journal.count("b") + journal.count("c") == threads).await;
    journal.check();
    let mut ends = HashMap::new();
    let mut gaps = Vec::new();
    for run in journal.runs() {
        if let Some(end) = run.end {
            ends.insert(run.name, end);
        } else if let Some(end) = ends.get(&run.name) {
            gaps.push(run.start.saturating_duration_since(*end));
        }
    }
    gaps.sort();
    println!(
        "{} threads handed over: p50 {:?} p99 {:?} last {:?}; now {} {}",
        gaps.len(),
        gaps[gaps.len() / 2],
        gaps[gaps.len() * 99 / 100],
        gaps[gaps.len() - 1],
        journal.count("b"),
        journal.count("c")
    );
}

/// Grants the tick that many milliseconds after the last one, and gives the time it took.
async fn tick_once(store: &Store, job: &TaskName, def: &str, last_ms: i64) -> (Duration, Nonce) {
    let asked =
        Asked { session: SessionId::from("s"), nonce: Nonce::random(), worker: "worker-1".to_owned() };
    let request = TickRequest {
        tick_ms: last_ms + 1,
        last_ms,
        def: def.to_owned(),
        missed: (0, 0, ""),
        overlap: Overlap::Forbid,
        patient: false,
    };
    let start = BootInstant::now();
    let (answer, _) = store.tick(job, &asked, &request).await.unwrap();
    assert!(matches!(answer, TickAnswer::Granted(_)), "{answer:?}");
    (BootInstant::now().saturating_duration_since(start), asked.nonce)
}

async fn finish(store: &Store, job: &TaskName, nonce: &Nonce) {
    let ended = Ended {
        outcome: TickOutcome::Ran,
        again: None,
        late: Duration::from_millis(12),
        took: Duration::from_millis(345),
        why: String::new(),
        said: Some(Said { result: Some("42".to_owned()), log: vec!["a line of log".to_owned(); 5] }),
    };
    store.finish(job, nonce, &ended, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_ticks() {
    let redis = RedisServer::start().await;
    let store = Arc::new(store(&redis.config()).await);
    store.load_scripts().await.unwrap();
    let mut jobs = Vec::new();
    for n in 0..1000 {
        let job = TaskName::new(format!("job-{n}")).unwrap();
        let last = store.adopt(&job, None, "d", None).await.unwrap().1.last_ms.unwrap();
        jobs.push((job, last));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for round in 0..3 {
        let start = BootInstant::now();
        let mut asked = JoinSet::new();
        for (job, last) in jobs.clone() {
            let store = store.clone();
            asked.spawn(async move {
                let (_, nonce) = tick_once(&store, &job, "d", last + round).await;
                let granted = BootInstant::now().saturating_duration_since(start);
                (job, nonce, granted)
            });
        }
        let mut granted = asked.join_all().await;
        granted.sort_by_key(|(_, _, after)| *after);
        let finish_from = BootInstant::now();
        let mut ended = JoinSet::new();
        for (job, nonce, _) in granted.clone() {
            let store = store.clone();
            ended.spawn(async move { finish(&store, &job, &nonce).await });
        }
        ended.join_all().await;
        println!(
            "1,000 ticks at once: granted p50 {:?} p99 {:?}; 1,000 runs finished in {:?}",
            granted[500].2,
            granted[990].2,
            BootInstant::now().saturating_duration_since(finish_from)
        );
    }
    let (job, last) = jobs[0].clone();
    let mut took = Vec::new();
    for n in 3..1100 {
        let (one, nonce) = tick_once(&store, &job, "d", last + n).await;
        took.push(one);
        finish(&store, &job, &nonce).await;
    }
    took.sort();
    let bytes: u64 = {
        let usage = CustomCommand::new_static("MEMORY", ClusterHash::Random, false);
        let args = vec!["USAGE".to_owned(), store.keys().ticks(&job), "SAMPLES".to_owned(), "0".to_owned()];
        store.client().custom(usage, args).await.unwrap()
    };
    println!("one tick alone: p50 {:?} p99 {:?}; a full ledger takes {bytes} bytes", took[548], took[1085]);
}

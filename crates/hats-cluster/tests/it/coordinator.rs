//! What workers of one cluster do together.

use std::time::Duration;

use fred::interfaces::{HashesInterface, KeysInterface};
use hats_cluster::address::RedisConfig;
use hats_cluster::admin;
use hats_cluster::clock::BootInstant;
use hats_cluster::name::{ClusterName, Task, TaskKind, TaskName, WorkerName};
use hats_cluster::store::Store;
use hats_cluster::{Admission, Event};

use crate::server::{Link, RedisServer, embedded};
use crate::worker::{Journal, Worker, config};

pub(crate) async fn store(redis: &RedisConfig) -> Store {
    admin::connect(redis, ClusterName::try_from("test").unwrap(), Duration::from_secs(5)).await.unwrap()
}

fn thread(number: usize) -> TaskName {
    TaskName::try_from(format!("thread-{number}")).unwrap()
}

pub(crate) async fn put(store: &Store, count: usize) {
    for number in 0..count {
        store.put(&thread(number), "1").await.unwrap();
    }
}

async fn field(store: &Store, number: usize, field: &str) -> String {
    let value: Option<String> =
        store.client().hget(store.keys().thread(&thread(number)), field).await.unwrap();
    value.unwrap_or_default()
}

/// Waits until a field of a thread's definition has this value.
async fn until_field(store: &Store, number: usize, name: &str, value: &str) {
    for _ in 0..1000 {
        if field(store, number, name).await == value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is {:?}", field(store, number, name).await);
}

/// How long after `since` the last run now running has started.
fn latest_start(journal: &Journal, since: BootInstant) -> Duration {
    let starts = journal.runs().into_iter().filter(|run| run.end.is_none()).map(|run| run.start);
    starts.max().unwrap().saturating_duration_since(since)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_start_together_share_evenly() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 90).await;
    let redis = redis.config();
    let (a, b, c) = tokio::join!(
        Worker::start(&redis, "a", &journal),
        Worker::start(&redis, "b", &journal),
        Worker::start(&redis, "c", &journal)
    );
    journal.until_running(90).await;
    for worker in [&a, &b, &c] {
        let count = journal.count(&worker.name);
        assert!((20..=33).contains(&count), "{:?}", journal.running());
    }
    journal.check();
    until_field(&store, 0, "State", "running").await;
}

async fn takes_over_from_the_dead(redis: &RedisConfig) {
    let (store, journal) = (store(redis).await, Journal::new());
    put(&store, 40).await;
    let a = Worker::start(redis, "a", &journal).await;
    let b = Worker::start(redis, "b", &journal).await;
    journal.until_running(40).await;
    let killed = BootInstant::now();
    let had = journal.count("a");
    assert!(had > 0, "{:?}", journal.running());
    a.kill().await;
    journal.until("b runs all", |_| journal.count("b") == 40).await;
    println!("{had} threads taken over {:?} after the kill", latest_start(&journal, killed));
    journal.check();
    assert!(b.handle.redis_ready());
    b.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takes_over_from_the_dead_real() {
    let redis = RedisServer::start().await;
    takes_over_from_the_dead(&redis.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takes_over_from_the_dead_embedded() {
    let (_server, redis) = embedded();
    takes_over_from_the_dead(&redis).await;
}

async fn hands_over_at_the_drain(redis: &RedisConfig) {
    let (store, journal) = (store(redis).await, Journal::new());
    put(&store, 40).await;
    let a = Worker::start(redis, "a", &journal).await;
    let _b = Worker::start(redis, "b", &journal).await;
    journal.until_running(40).await;
    let handed_over = journal.running().remove("a").unwrap();
    a.drain().await;
    journal.until("b runs all", |_| journal.count("b") == 40).await;
    journal.check();
    let mut gaps: Vec<_> = handed_over
        .iter()
        .map(|name| {
            let runs = journal.runs();
            let mut of_it = runs.iter().filter(|run| run.name == *name);
            let end = of_it.next().unwrap().end.unwrap();
            of_it.next_back().unwrap().start.saturating_duration_since(end)
        })
        .collect();
    gaps.sort();
    println!(
        "{} threads handed over, median {:?}, slowest {:?}",
        gaps.len(),
        gaps[gaps.len() / 2],
        gaps.last()
    );
    // Whoever has left says so.
    let row = store.read_row(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.state.as_deref(), Some("offline"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hands_over_at_the_drain_real() {
    let redis = RedisServer::start().await;
    hands_over_at_the_drain(&redis.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hands_over_at_the_drain_embedded() {
    let (_server, redis) = embedded();
    hands_over_at_the_drain(&redis).await;
}

async fn follows_the_definition(redis: &RedisConfig) {
    let (store, journal) = (store(redis).await, Journal::new());
    let _a = Worker::start(redis, "a", &journal).await;
    put(&store, 1).await;
    journal.until_running(1).await;

    store.put(&thread(0), "2").await.unwrap();
    journal.until("the new source runs", |runs| runs.last().is_some_and(|run| run.source == "2")).await;

    store.disable(&thread(0)).await.unwrap();
    journal.until_running(0).await;
    until_field(&store, 0, "State", "stopped").await;

    let key = store.keys().thread(&thread(0));
    let () = store.client().hset(&key, ("Status", "enabled")).await.unwrap();
    journal.until_running(1).await;

    admin::restart(&store, &thread(0)).await.unwrap();
    journal.until("restarted", |runs| runs.len() == 3 && runs[2].end.is_none()).await;

    let () = store.client().hset(&key, ("Hang", "soon")).await.unwrap();
    until_field(&store, 0, "State", "crashed").await;
    assert_eq!(journal.running().len(), 0);
    assert!(
        field(&store, 0, "Error").await.contains("Hang: \"soon\""),
        "{}",
        field(&store, 0, "Error").await
    );
    let () = store.client().hset(&key, ("Hang", "5")).await.unwrap();
    journal.until_running(1).await;

    admin::remove(&store, &thread(0)).await.unwrap();
    journal.until_running(0).await;
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_definition_real() {
    let redis = RedisServer::start().await;
    follows_the_definition(&redis.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_definition_embedded() {
    let (_server, redis) = embedded();
    follows_the_definition(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_definition_crashes_that_thread_alone() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 3).await;
    let () = store.client().hset(store.keys().thread(&thread(1)), ("CallTimeout", "never")).await.unwrap();
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    journal.until_running(2).await;
    until_field(&store, 1, "State", "crashed").await;
    assert!(field(&store, 1, "Error").await.contains("CallTimeout"));
    assert!(!field(&store, 1, "ErrorTime").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_backs_off_until_the_source_changes_or_it_is_enabled_anew() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 1).await;
    let a = Worker::start(&redis.config(), "a", &journal).await;
    let _b = Worker::start(&redis.config(), "b", &journal).await;
    journal.until_running(1).await;
    let who = |journal: &Journal| journal.runs().last().unwrap().worker.clone();
    let first = who(&journal);
    let crash = |journal: &Journal| {
        let worker = if who(journal) == "a" { &a } else { &_b };
        worker.crash("thread-0", Duration::from_secs(30));
    };
    crash(&journal);
    until_field(&store, 0, "State", "crashed").await;
    assert!(field(&store, 0, "Error").await.contains("planned"), "{first}");
    store.put(&thread(0), "2").await.unwrap();
    journal.until("the new source runs", |runs| runs.len() == 2).await;

    crash(&journal);
    until_field(&store, 0, "State", "crashed").await;
    let key = store.keys().thread(&thread(0));
    let () = store.client().hset(&key, ("Status", "disabled")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let () = store.client().hset(&key, ("Status", "enabled")).await.unwrap();
    journal.until("enabled anew", |runs| runs.len() == 3).await;

    // And a back-off that nothing ends ends by itself.
    let worker = if who(&journal) == "a" { &a } else { &_b };
    worker.crash("thread-0", Duration::from_millis(700));
    journal.until("after the back-off", |runs| runs.len() == 4).await;
    let runs = journal.runs();
    let rested = runs[3].start.saturating_duration_since(runs[2].end.unwrap());
    assert!(rested >= Duration::from_millis(650), "{rested:?}");
    assert_eq!(runs[3].restarts, 1);
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loses_its_data_and_everything_comes_back() {
    let mut redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 20).await;
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    let _b = Worker::start(&redis.config(), "b", &journal).await;
    journal.until_running(20).await;
    redis.restart_empty(Duration::from_millis(300)).await;
    journal.until_running(0).await;
    let healed = BootInstant::now();
    loop {
        match store.put(&thread(0), "1").await {
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    put(&store, 20).await;
    journal.until_running(20).await;
    println!("all run again {:?} after", latest_start(&journal, healed));
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_away_for_longer_than_a_lease() {
    let mut redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 20).await;
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    journal.until_running(20).await;
    redis.restart_empty(Duration::from_secs(4)).await;
    loop {
        match store.put(&thread(0), "1").await {
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    put(&store, 20).await;
    journal.until_running(20).await;
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ghost_is_given_up_at_once() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    put(&store, 1).await;
    journal.until_running(1).await;
    store.disable(&thread(0)).await.unwrap();
    journal.until_running(0).await;
    // As a claim that was answered to nobody would leave it.
    let sessions = store.sample(&[]).await.unwrap().index;
    assert_eq!(sessions.len(), 1);
    let key = store.keys().claim(&thread(0));
    let ghost = [("Session", sessions[0].as_str()), ("Claim", "ghost")];
    let () = store.client().hset(&key, ghost.to_vec()).await.unwrap();
    for _ in 0..500 {
        let session: Option<String> = store.client().hget(&key, "Session").await.unwrap();
        if session.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the ghost is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_deleted_and_written_anew_doubles_nothing() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    put(&store, 1).await;
    journal.until_running(1).await;
    // The definition deleted and written anew: its owner goes on or starts again, nobody else.
    let key = store.keys().thread(&thread(0));
    let () = store.client().del(&key).await.unwrap();
    put(&store, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    journal.until_running(1).await;
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_now_does_not_wait() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 1).await;
    let mut config = config(&redis.config(), "a");
    config.settle = Duration::from_secs(30);
    let a = Worker::start_with(config, &journal).await;
    a.handle.claim_now(vec![thread(0)]);
    journal.until_running(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_password_is_said_at_once() {
    let redis = RedisServer::start_with(&["--requirepass", "right"]).await;
    let mut refused = redis.config();
    refused.password = Some(hats_cluster::address::Secret::new("wrong"));
    let error = hats_cluster::start(config(&refused, "a")).await.err().unwrap();
    assert!(!error.may_pass(), "{error:?}");
}

/// Writes the row of a worker of 2020.
async fn beat_of_2020(store: &Store, heartbeat: &str) {
    let row = store.keys().worker(&"old".parse().unwrap());
    let fields = vec![("Status", "enabled"), ("State", "online"), ("Heartbeat", heartbeat)];
    let () = store.client().hset(row, fields).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_claimed_while_a_worker_of_2020_is_alive() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    put(&store, 1).await;
    journal.until_running(1).await;
    for beat in 0..10 {
        beat_of_2020(&store, &beat.to_string()).await;
        if beat == 1 {
            let () = store.client().hset(store.keys().thread(&thread(1)), ("Source", "1")).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(journal.count("a"), 1, "what it has it keeps, and takes nothing new");
    let silent = BootInstant::now();
    journal.until_running(2).await;
    println!("claimed {:?} after the last beat", BootInstant::now().saturating_duration_since(silent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_of_2020_has_left_is_claimed_once_it_stands_still() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    let left =
        vec![("Source", "1"), ("State", "running"), ("Heartbeat", "1600000000000000000"), ("Owner", "old")];
    let () = store.client().hset(store.keys().thread(&thread(0)), left).await.unwrap();
    let started = BootInstant::now();
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    journal.until_running(1).await;
    let watched = BootInstant::now().saturating_duration_since(started);
    assert!(watched >= Duration::from_secs(2), "{watched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_gone_stops_all_claims_until_its_owner_must_have_noticed() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 20).await;
    let redis = redis.config();
    let (_a, _b) = tokio::join!(Worker::start(&redis, "a", &journal), Worker::start(&redis, "b", &journal));
    journal.until_running(20).await;
    // By hand, which nobody should do.
    for number in 0..20 {
        let () = store.client().del(store.keys().claim(&thread(number))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    journal.until_running(20).await;
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_has_claimed_stops_here_at_once() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 1).await;
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    journal.until_running(1).await;
    // As after a restart of Redis that has forgotten the last second.
    let other = [("Session", "other"), ("Claim", "other")];
    let () = store.client().hset(store.keys().claim(&thread(0)), other.to_vec()).await.unwrap();
    let moved = BootInstant::now();
    journal.until_running(0).await;
    let after = BootInstant::now().saturating_duration_since(moved);
    assert!(after < Duration::from_secs(1), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_worker_starts_what_it_finds_soon() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 3).await;
    let started = BootInstant::now();
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    journal.until_running(3).await;
    let after = BootInstant::now().saturating_duration_since(started);
    assert!(after < Duration::from_millis(700), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_start_one_after_the_other_within_300_ms_share_evenly() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 300).await;
    let redis = redis.config();
    let start = |name: &'static str, after: u64| {
        let (redis, journal) = (redis.clone(), journal.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            Worker::start(&redis, name, &journal).await
        }
    };
    let (_a, _b, _c) = tokio::join!(start("a", 0), start("b", 150), start("c", 300));
    journal.until_running(300).await;
    for worker in ["a", "b", "c"] {
        let count = journal.count(worker);
        println!("{worker} {count}");
        assert!((80..=120).contains(&count), "{worker} has {count}");
    }
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_back_after_an_outage_share_evenly() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 90).await;
    let config = redis.config();
    let (_a, _b, _c) = tokio::join!(
        Worker::start(&config, "a", &journal),
        Worker::start(&config, "b", &journal),
        Worker::start(&config, "c", &journal)
    );
    journal.until_running(90).await;
    // Longer than S, and nobody is buried meanwhile.
    redis.freeze(Duration::from_millis(2500)).await;
    journal.until_running(0).await;
    journal.until_running(90).await;
    for worker in ["a", "b", "c"] {
        let count = journal.count(worker);
        println!("{worker} {count}");
        assert!((20..=36).contains(&count), "{:?}", journal.running());
    }
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_names_the_task_that_stalls_it_and_its_kind() {
    let redis = RedisServer::start().await;
    let store = store(&redis.config()).await;
    put(&store, 2).await;
    let mut config = config(&redis.config(), "a");
    // The coordinator itself comes round every half second.
    config.stall_after = Duration::from_secs(1);
    let (stops, mut stopped) = tokio::sync::mpsc::unbounded_channel();
    config.on_hard_stop = std::sync::Arc::new(move |stop| {
        let _ = stops.send(stop.clone());
    });
    let (handle, mut events) = hats_cluster::start(config).await.unwrap();
    let mut guards = Vec::new();
    while guards.len() < 2 {
        if let Some(Event::Claimed(grant)) = events.recv().await {
            guards.push(grant.lease.enter(&grant.name));
        }
    }
    let lease = guards[0].lease().clone();
    let job = Task::new(TaskKind::Job, thread(1).as_str()).unwrap();
    let of_namer = job.clone();
    let namer = move || Some(of_namer.clone());
    let _stuck = handle.stamp_with("lane", std::sync::Arc::new(namer));
    assert_eq!(stopped.recv().await.unwrap().stuck.len(), 2);
    for _ in 0..100 {
        let sample = store.sample(&[lease.session().clone()]).await.unwrap();
        let record = sample.sessions[0].1.clone().unwrap();
        if record.suspects.iter().map(|suspect| &suspect.task).eq([&job]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody is suspected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_among_the_claims_stop_nobody_else() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    // More than there may be claims under way at once.
    put(&store, 400).await;
    for number in 0..300 {
        let key = store.keys().claim(&thread(number));
        let () = store.client().set(key, "stray", None, None, false).await.unwrap();
    }
    let _a = Worker::start(&redis.config(), "a", &journal).await;
    journal.until_running(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_registered_here_is_claimed_without_a_poll() {
    let (_server, redis) = embedded();
    let (store, journal) = (store(&redis).await, Journal::new());
    let mut config = config(&redis, "a");
    config.settle = Duration::ZERO;
    let a = Worker::start_with(config, &journal).await;
    put(&store, 1).await;
    journal.until_running(1).await;
    // Between two polls, somewhere.
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.put(&thread(1), "1").await.unwrap();
    let registered = BootInstant::now();
    a.handle.look(vec![thread(1)]);
    journal.until_running(2).await;
    let after = BootInstant::now().saturating_duration_since(registered);
    assert!(after < Duration::from_millis(150), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_begun_in_an_outage_hold_up_nothing_after_it() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 20).await;
    let link = Link::to(&redis).await;
    let a = Worker::start(&link.config(), "a", &journal).await;
    journal.until_running(20).await;
    link.be_silent(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    link.be_silent(false);
    let healed = BootInstant::now();
    journal.until_running(20).await;
    let after = latest_start(&journal, healed);
    println!("all run again {after:?} after the outage");
    assert!(after < Duration::from_millis(3500), "{after:?}");
    for _ in 0..300 {
        if a.handle.redis_ready() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Pushed again, not polled.
    tokio::time::sleep(Duration::from_millis(500)).await;
    store.put(&thread(20), "1").await.unwrap();
    let put = BootInstant::now();
    journal.until_running(21).await;
    assert!(BootInstant::now().saturating_duration_since(put) < Duration::from_millis(400));
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_take_nothing_new_keeps_what_it_has_and_leaves_the_rest_to_the_others() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    let admission = tokio::sync::watch::Sender::new(Admission::Open);
    let mut limited = config(&redis.config(), "a");
    limited.admission = admission.subscribe();
    let other = redis.config();
    let (_a, _b) = tokio::join!(Worker::start_with(limited, &journal), Worker::start(&other, "b", &journal));
    put(&store, 20).await;
    journal.until_running(20).await;
    let kept = journal.count("a");
    assert!(kept > 0, "{:?}", journal.running());

    admission.send_replace(Admission::Refused("full".into()));
    until_row(&store, "a", "Claims", "refused: full").await;
    put(&store, 60).await;
    journal.until_running(60).await;
    assert_eq!(journal.count("a"), kept, "{:?}", journal.running());

    admission.send_replace(Admission::Open);
    until_row(&store, "a", "Claims", "open").await;
    put(&store, 200).await;
    journal.until_running(200).await;
    assert!(journal.count("a") > kept, "{:?}", journal.running());
    journal.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_take_nothing_from_the_start_takes_it_when_it_may() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, 5).await;
    let admission = tokio::sync::watch::Sender::new(Admission::Refused("full".into()));
    let mut limited = config(&redis.config(), "a");
    limited.admission = admission.subscribe();
    let a = Worker::start_with(limited, &journal).await;
    // Even what it is told to take.
    a.handle.claim_now(vec![thread(0)]);
    until_row(&store, "a", "Claims", "refused: full").await;
    // Long enough for whoever would take them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(journal.runs().is_empty(), "{:?}", journal.runs());
    admission.send_replace(Admission::Open);
    drop(admission);
    journal.until_running(5).await;
}

/// Waits until a field of a worker's row has this value.
async fn until_row(store: &Store, worker: &str, name: &str, value: &str) {
    let worker = WorkerName::try_from(worker).unwrap();
    for _ in 0..1000 {
        let row = store.read_row(&worker).await.unwrap();
        if row.is_some_and(|row| row.fields.get(name).is_some_and(|found| found == value)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} of {worker} is not {value:?}");
}

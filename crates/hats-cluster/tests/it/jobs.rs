//! What whoever runs jobs is told by the coordinator.

use std::time::Duration;

use hats_cluster::address::RedisConfig;
use hats_cluster::admin;
use hats_cluster::coordinator::{JobFeed, JobNews, JobNewsReceiver};
use hats_cluster::id::{Nonce, SessionId};
use hats_cluster::name::TaskName;
use hats_cluster::records::{Overlap, TicksRecord};
use hats_cluster::store::{Asked, SessionInfo, Store, TickAnswer, TickRequest, Waiting};

use crate::coordinator::store;
use crate::server::{RedisServer, embedded};
use crate::worker::{Journal, Worker};

const LEASE: Duration = Duration::from_secs(2);

fn job() -> TaskName {
    TaskName::try_from("job").unwrap()
}

async fn until(news: &mut JobNewsReceiver, expected: JobNews) {
    let wait = async { while news.recv().await.unwrap() != expected {} };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "never heard: {expected:?}");
}

/// The session that a worker takes ticks under, once it has told.
async fn own_session(feed: &mut JobFeed) -> SessionId {
    let peers = feed.peers.wait_for(|peers| peers.lease.is_some()).await.unwrap();
    peers.lease.as_ref().map(|lease| lease.session().clone()).unwrap()
}

/// A run under a session, with one more tick that waits for its end.
async fn run_under(store: &Store, session: &SessionId) -> TicksRecord {
    let (_, mut record) = store.adopt(&job(), None, "d", None).await.unwrap();
    for overlap in [Overlap::Forbid, Overlap::Buffer] {
        let asked = Asked { session: session.clone(), nonce: Nonce::random(), worker: "x".to_owned() };
        let last_ms = record.last_ms.unwrap();
        let request = TickRequest {
            tick_ms: last_ms + 1,
            last_ms,
            def: "d".to_owned(),
            missed: (0, 0, ""),
            overlap,
            patient: false,
        };
        loop {
            let (answer, after) = store.tick(&job(), &asked, &request).await.unwrap();
            record = after;
            if answer != TickAnswer::Early {
                break;
            }
        }
    }
    assert!(record.runs.len() == 1 && record.pending_ms.is_some(), "{record:?}");
    record
}

/// Nobody but a run names the session: not even the index.
async fn a_death_that_only_runs_have_seen_is_noticed_and_settled(redis: &RedisConfig) {
    let (store, journal) = (store(redis).await, Journal::new());
    let silent = SessionId::random();
    let info = SessionInfo {
        name: "x".parse().unwrap(),
        version: "0".to_owned(),
        lease: LEASE,
        capacity: hats_cluster::config::Capacity::default(),
        ready: true,
    };
    store.open(&silent, &info).await.unwrap();
    run_under(&store, &silent).await;
    let a = Worker::start(redis, "a", &journal).await;
    let mut feed = a.handle.job_feed();
    until(&mut feed.news, JobNews::Gap).await;
    let own = own_session(&mut feed).await;

    let record = store.read_ticks(&[job()]).await.pop().unwrap().unwrap();
    let named: Vec<SessionId> = record.runs.iter().map(|run| run.session.clone()).collect();
    a.handle.name_sessions(named);
    until(&mut feed.news, JobNews::Died(silent.clone())).await;
    let asked = Asked { session: own.clone(), nonce: Nonce::random(), worker: "a".to_owned() };
    let waiting = Waiting {
        asked: Some(asked.clone()),
        def: "d".to_owned(),
        epoch: record.epoch,
        overlap: Overlap::Forbid,
        retries: 0,
        again: Duration::ZERO,
    };
    let (run, after) = store.settle(&job(), &[silent], &waiting).await.unwrap();
    assert_eq!(run.map(|run| run.tick_ms), record.pending_ms);
    assert_eq!(after.runs[0].session, own);

    // One whose very key is gone.
    let gone = SessionId::random();
    a.handle.name_sessions(vec![own, gone.clone()]);
    until(&mut feed.news, JobNews::Died(gone)).await;
    a.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_that_only_runs_have_seen_is_noticed_and_settled_real() {
    let redis = RedisServer::start().await;
    a_death_that_only_runs_have_seen_is_noticed_and_settled(&redis.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_that_only_runs_have_seen_is_noticed_and_settled_embedded() {
    let (_server, redis) = embedded();
    a_death_that_only_runs_have_seen_is_noticed_and_settled(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_jobs_are_told_and_so_is_who_is_there() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    let a = Worker::start(&redis.config(), "a", &journal).await;
    let mut feed = a.handle.job_feed();
    feed.peers.wait_for(|peers| peers.pushed && peers.live.len() == 1).await.unwrap();
    // A gap that is not received yet stands for every change.
    until(&mut feed.news, JobNews::Gap).await;
    for cron in ["@hourly", "@daily"] {
        admin::put_job(&store, &job(), "1", &[("Cron", cron.to_owned())]).await.unwrap();
        until(&mut feed.news, JobNews::Changed(job())).await;
    }
    let b = Worker::start(&redis.config(), "b", &journal).await;
    let mut of_b = b.handle.job_feed();
    let both = feed.peers.wait_for(|peers| peers.live.len() == 2).await.unwrap().live.clone();
    let own = own_session(&mut of_b).await;
    assert!(both.contains(&own));
    b.drain().await;
    feed.peers.wait_for(|peers| peers.live.len() == 1).await.unwrap();
    assert_eq!(store.index(hats_cluster::name::TaskKind::Job).await.unwrap(), [job()]);
}

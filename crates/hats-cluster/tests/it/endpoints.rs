//! What whoever answers requests is told by the coordinator, and what that tells people.

use std::time::Duration;

use fred::interfaces::HashesInterface;
use hats_cluster::address::RedisConfig;
use hats_cluster::admin;
use hats_cluster::name::{EndpointPath, TaskKind};
use hats_cluster::store::Store;
use hats_cluster::{EndpointFeed, EndpointNews};

use crate::coordinator::store;
use crate::server::{RedisServer, embedded};
use crate::worker::{Journal, Worker};

fn path(path: &str) -> EndpointPath {
    path.parse().unwrap()
}

async fn put(store: &Store, at: &str, source: &'static str) {
    admin::put_endpoint(store, &path(at), source.into(), &[]).await.unwrap();
}

async fn until(feed: &mut EndpointFeed, what: &str, mut found: impl FnMut(EndpointNews) -> bool) {
    let wait = async { while !found(feed.news.recv().await.unwrap()) {} };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "never heard: {what}");
}

/// Until a sweep has found just these.
async fn until_found(feed: &mut EndpointFeed, paths: &[&str]) {
    let paths: Vec<_> = paths.iter().copied().map(path).collect();
    until(feed, "found", |news| matches!(news, EndpointNews::Found(found) if found == paths)).await;
}

async fn until_changed(feed: &mut EndpointFeed, at: &str) {
    until(feed, at, |news| news == EndpointNews::Changed(path(at))).await;
}

async fn until_error(store: &Store, at: &str, wanted: impl Fn(Option<&str>) -> bool) {
    let mut last = None;
    for _ in 0..3000 {
        last = store.read_endpoint(&path(at), None).await.unwrap().unwrap().error;
        if wanted(last.as_deref()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the error is {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_endpoints_are_pushed() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, "/b", "1").await;
    put(&store, "/a", "1").await;
    let a = Worker::start(&redis.config(), "a", &journal).await;
    let mut feed = a.handle.endpoint_feed();
    until_found(&mut feed, &["/a", "/b"]).await;
    feed.pushed.wait_for(|pushed| *pushed).await.unwrap();

    put(&store, "/new", "1").await;
    until_changed(&mut feed, "/new").await;
    let first = a.handle.endpoint(&path("/new")).await.unwrap().unwrap().unwrap();
    put(&store, "/new", "2").await;
    until_changed(&mut feed, "/new").await;
    let second = a.handle.endpoint_again(&path("/new"), &first).await.unwrap().unwrap().unwrap();
    assert_eq!((first.text(), second.text()), (Some("1"), Some("2")));
    admin::set_endpoint_enabled(&store, &path("/new"), false).await.unwrap();
    until_changed(&mut feed, "/new").await;
    assert!(!a.handle.endpoint_again(&path("/new"), &second).await.unwrap().unwrap().unwrap().enabled);
    admin::remove_endpoint(&store, &path("/new")).await.unwrap();
    until_changed(&mut feed, "/new").await;
    assert_eq!(a.handle.endpoint(&path("/new")).await.unwrap(), None);
    // Who asks again is told from the start.
    let mut feed = a.handle.endpoint_feed();
    until_found(&mut feed, &["/a", "/b"]).await;
    a.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_pushed_a_sweep_finds_what_is_new_and_what_is_gone() {
    let (_server, redis) = embedded();
    let (store, journal) = (store(&redis).await, Journal::new());
    let a = Worker::start(&redis, "a", &journal).await;
    let mut feed = a.handle.endpoint_feed();
    until_found(&mut feed, &[]).await;
    assert!(!*feed.pushed.borrow());
    put(&store, "/a", "1").await;
    until_found(&mut feed, &["/a"]).await;
    // What this worker has written itself needs no sweep.
    a.handle.look_at_endpoint(path("/own"));
    until_changed(&mut feed, "/own").await;
    admin::remove_endpoint(&store, &path("/a")).await.unwrap();
    until_found(&mut feed, &[]).await;
    a.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_all_data_is_noticed_and_so_is_what_comes_after() {
    let mut redis = RedisServer::start().await;
    let journal = Journal::new();
    put(&store(&redis.config()).await, "/a", "1").await;
    let a = Worker::start(&redis.config(), "a", &journal).await;
    let mut feed = a.handle.endpoint_feed();
    until_found(&mut feed, &["/a"]).await;
    redis.restart_empty(Duration::ZERO).await;
    until(&mut feed, "a gap", |news| news == EndpointNews::Gap).await;
    until_found(&mut feed, &[]).await;
    put(&store(&redis.config()).await, "/b", "1").await;
    until(&mut feed, "/b", |news| match news {
        EndpointNews::Changed(changed) => changed == path("/b"),
        EndpointNews::Found(found) => found == [path("/b")],
        EndpointNews::Gap => false,
    })
    .await;
    a.drain().await;
}

/// By hand, as people do: the index knows nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_mends_the_index() {
    let redis = RedisServer::start().await;
    let (store, journal) = (store(&redis.config()).await, Journal::new());
    put(&store, "/gone", "1").await;
    store.delete_endpoint(&path("/gone")).await.unwrap();
    let () = store.client().hset(store.keys().endpoint(&path("/a")), ("Source", "1")).await.unwrap();
    let a = Worker::start(&redis.config(), "a", &journal).await;
    let mut feed = a.handle.endpoint_feed();
    until_found(&mut feed, &["/a"]).await;
    let members = async || {
        use fred::interfaces::SetsInterface;
        let members: Vec<String> =
            store.client().smembers(store.keys().index(TaskKind::Endpoint)).await.unwrap();
        members
    };
    assert_eq!(members().await, ["/a"]);
    a.drain().await;
}

async fn errors_are_shown_while_they_last(redis: &RedisConfig) {
    let (store, journal) = (store(redis).await, Journal::new());
    put(&store, "/bad", "1").await;
    put(&store, "/fails", "1").await;
    let () = store.client().hset(store.keys().endpoint(&path("/bad")), ("Kind", "page")).await.unwrap();
    let a = Worker::start(redis, "a", &journal).await;
    let (bad, fails) = (path("/bad"), path("/fails"));

    let error = a.handle.endpoint(&bad).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.field, error.value.as_str()), ("Kind", "page"));
    until_error(&store, "/bad", |said| said == Some(&error.to_string())).await;
    for n in 0..100 {
        a.handle.endpoint_failed(&fails, format!("boom {n}"));
    }
    until_error(&store, "/fails", |said| said.is_some()).await;
    a.handle.endpoint_failed(&fails, "the last");
    a.handle.endpoint_failed(&path("/none"), "boom");

    // Mended, and another source: over as soon as they have answered, and not sooner.
    let () = store.client().hdel(store.keys().endpoint(&bad), "Kind").await.unwrap();
    a.handle.endpoint(&bad).await.unwrap().unwrap().unwrap();
    a.handle.endpoint_ok(&bad);
    until_error(&store, "/fails", |said| said == Some("the last")).await;
    a.handle.endpoint(&fails).await.unwrap().unwrap().unwrap();
    put(&store, "/fails", "2").await;
    a.handle.endpoint(&fails).await.unwrap().unwrap().unwrap();
    a.handle.endpoint_ok(&fails);
    until_error(&store, "/bad", |said| said.is_none()).await;
    until_error(&store, "/fails", |said| said.is_none()).await;
    assert_eq!(store.read_endpoint(&path("/none"), None).await.unwrap(), None);
    a.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_shown_while_they_last_real() {
    let redis = RedisServer::start().await;
    errors_are_shown_while_they_last(&redis.config()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_shown_while_they_last_embedded() {
    let (_server, redis) = embedded();
    errors_are_shown_while_they_last(&redis).await;
}

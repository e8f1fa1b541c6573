//! The `redis` module against the embedded server.

use std::num::NonZeroUsize;

use encore_miniredis::Miniredis;
use fred::types::Builder;
use fred::types::config::{Config, ReconnectError, ReconnectPolicy};

use super::*;
use crate::redis::Connections;

async fn connected(blocking: usize) -> (Miniredis, Lanes) {
    let server = Miniredis::run().await.unwrap();
    let lanes = connected_to(&server.redis_url(), blocking).await;
    (server, lanes)
}

pub(super) async fn connected_to(url: &str, blocking: usize) -> Lanes {
    lanes(2, Some(connections(url, blocking).await))
}

pub(super) async fn connections(url: &str, blocking: usize) -> Connections {
    let mut builder = Builder::from_config(Config::from_url(url).unwrap());
    builder.with_performance_config(|config| config.default_command_timeout = Duration::from_secs(10));
    builder.with_connection_config(|config| {
        config.max_command_attempts = 1;
        // As workers have it.
        config.reconnect_errors =
            vec![ReconnectError::ClusterDown, ReconnectError::Loading, ReconnectError::ReadOnly];
    });
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    Connections::connect(&builder, NonZeroUsize::new(blocking).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_scripts_block_than_there_are_connections_and_each_gets_its_element() {
    let (server, lanes) = connected(3).await;
    let fake = Fake::new();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            spawn(&lanes, &fake, Limits::default(), |vm| {
                vm.load("function main() { globalThis.got = redis.Blpop(0, 'queue') }", "test.js")?;
                vm.call("main")?;
                vm.eval("got")
            })
        })
        .collect();
    for n in 0..20 {
        server.push("queue", &[&n.to_string()]);
    }
    let mut got = Vec::new();
    for (_, ended) in waiting {
        got.push(ended.await.unwrap().parse::<u32>().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_blocking_wait_without_a_value() {
    let (_server, lanes) = connected(2).await;
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load("", "test.js")?;
        loaded.send(()).unwrap();
        vm.eval("redis.Blpop(0, 'queue') === ''")
    });
    loading.await.unwrap();
    handle.interrupt_waits();
    assert_eq!(ended.await, Ok("true".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_sent_once_the_lease_is_lost() {
    let (server, lanes) = connected(2).await;
    let fake = Fake::new();
    let inner = fake.clone();
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load(
            "function main() { redis.Do('SET', 'before', 1); sleep(0); redis.Do('SET', 'after', 1) }",
            "test.js",
        )?;
        vm.call("main")?;
        inner.trusted_ms.store(0, Ordering::Relaxed);
        vm.call("main")
    });
    assert_eq!(ended.await, Err(ScriptError::Lost));
    assert!(server.exists("before"));
    assert_eq!(fake.effects.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_does_not_end_a_wait_for_an_element() {
    let server = Miniredis::run().await.unwrap();
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", door.local_addr().unwrap());
    let (back, connections) = (server.addr(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let open = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = door.accept().await {
            let link = tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(back).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
            open.lock().unwrap().push(link);
        }
    });
    let lanes = connected_to(&url, 2).await;
    let fake = Fake::new();
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), |vm| vm.eval("redis.Blpop(0, 'queue')"));
    // The control connection, those of the lanes, and then the one that blocks.
    while connections.lock().unwrap().len() < 4 || fake.effects.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for link in connections.lock().unwrap().drain(..) {
        link.abort();
    }
    // What the server pops for a connection that it does not know to be gone is lost; so wait until it knows.
    let all = |open: &Vec<_>| open.len() >= 4 && server.current_connection_count() == open.len() as u64;
    while !all(&connections.lock().unwrap()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.push("queue", &["late"]);
    assert_eq!(ended.await, Ok("late".to_owned()));
}

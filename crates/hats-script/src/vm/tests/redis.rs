//! The `redis` module against the embedded server.

use std::num::NonZeroUsize;

use encore_miniredis::Miniredis;
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy};

use super::*;
use crate::redis::Connections;

async fn connected(blocking: usize) -> (Miniredis, Lanes) {
    let server = Miniredis::run().await.unwrap();
    let lanes = connected_to(&server.redis_url(), blocking).await;
    (server, lanes)
}

async fn connected_to(url: &str, blocking: usize) -> Lanes {
    let mut builder = Builder::from_config(Config::from_url(url).unwrap());
    builder.with_performance_config(|config| config.default_command_timeout = Duration::from_secs(10));
    builder.with_connection_config(|config| config.max_command_attempts = 1);
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    let connections = Connections::connect(&builder, NonZeroUsize::new(blocking).unwrap()).await.unwrap();
    lanes(2, Some(connections))
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_have_the_shapes_of_resp2() {
    let (server, lanes) = connected(4).await;
    server.hset("h", "f", "v");
    for (expression, expected) in [
        ("redis.Do('SET', 'k', 'ä')", "[\"OK\"]"),
        ("redis.Do('GET', 'k')", "[\"ä\"]"),
        ("redis.Do('get', 'k') == 'ä'", "true"),
        ("`${redis.Do('GET', 'k')}`", "ä"),
        ("redis.Do('SET', 'n', 41) && redis.Do('INCR', 'n') + 1", "43"),
        ("Array.isArray(redis.Do('GET', 'k'))", "true"),
        ("redis.Do('GET', 'absent')", "[null]"),
        ("redis.Do('HGETALL', 'h')", "[[\"f\", \"v\"]]"),
        ("(([value, err]) => err)(redis.Do('INCR', 'k'))", "ERR value is not an integer or out of range"),
        ("redis.Do('INCR', 'k')[0]", "null"),
        ("redis.Call('GET', 'k')", "ä"),
        (
            "(() => { try { redis.Call('INCR', 'k') } catch (e) { return [e.name, e instanceof RedisError, e instanceof Error] } })()",
            "[\"RedisError\", true, true]",
        ),
        (
            "redis.Do('SET', 'b', new Uint8Array([0, 255, 7])) && redis.Call('GET', 'b')",
            "Uint8Array(3) [0, 255, 7]",
        ),
        (
            "redis.Do('SET', 'i', 9223372036854775807n) && redis.Call('INCRBY', 'i', 0)",
            "9223372036854775807n",
        ),
        ("redis.Do('SET', 't', true) && redis.Call('GET', 't')", "1"),
        ("redis.Do('SET', 'x', 1.5) && redis.Call('GET', 'x')", "1.5"),
        ("redis.Call('EVAL', 'return {1, {2, ARGV[1]}}', 0, 'z')", "[1, [2, \"z\"]]"),
        (
            "redis.Do('SET', 'k', {})",
            "TypeError: redis.Do: argument 3 must be a string, number, bigint, boolean or Uint8Array, not an object",
        ),
        (
            "redis.Do('SET', 'k', null)",
            "TypeError: redis.Do: argument 3 must be a string, number, bigint, boolean or Uint8Array, not null",
        ),
        ("redis.Do()", "TypeError: redis.Do: argument 1 must be a string, not undefined"),
        (
            "redis.Do('MULTI')[1]",
            "ERR MULTI is not available to scripts: the connection is shared by all scripts; use EVAL, which runs its commands in one step",
        ),
        ("redis.Do('NOSUCH')[1].slice(0, 19)", "ERR unknown command"),
        (
            "redis.Do('SELECT 1')[1]",
            "ERR unknown command: its name is one word, and its arguments are given one by one",
        ),
        (
            "(() => { const pair = redis.Do('GET', 'k'); pair[0] = pair; try { return `${pair}` } catch (e) { return `${e}` } })()",
            "RangeError: Maximum call stack size exceeded",
        ),
        (
            "redis.Do('ECHO', ...Array(1000).fill('x'.repeat(1 << 20)))",
            "RangeError: redis.Do: the arguments are longer than the script's heap limit of 67108864 bytes",
        ),
        (
            "redis.Do('SET', 'long', new Uint8Array(100000).fill(200)) && redis.Do('STRLEN', 'long')",
            "[100000]",
        ),
        ("redis.HsetFenced('fenced', {a: 1, b: 'two'})", "[2]"),
        ("redis.Call('HMGET', 'fenced', 'a', 'b', '__epoch')", "[\"1\", \"two\", \"1700000000123\"]"),
        (
            "redis.Do('HSET', 'fenced', '__epoch', '1800000000000') && redis.HsetFenced('fenced', {a: 3})[1].slice(0, 5)",
            "STALE",
        ),
        (
            "redis.HsetFenced('fenced', {})",
            "TypeError: redis.HsetFenced: argument 2 must be an object with at least one field, not an object",
        ),
        (
            "redis.HsetFenced('fenced', [1])",
            "TypeError: redis.HsetFenced: argument 2 must be an object of fields and values, not an array",
        ),
        ("redis.Do('RPUSH', 'l', 'one') && redis.Blpop(1, 'l')", "one"),
        ("redis.Blpop(0.05, 'l')", ""),
        ("redis.Do('BLPOP', 'l', 0.05)", "[null]"),
        ("redis.Do('BLPOP', 'l', 'soon')[1]", "ERR timeout is not a float or out of range"),
    ] {
        let shown = match try_eval(&lanes, "", expression).await {
            Ok(text) => text,
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        assert_eq!(shown, expected, "{expression}");
    }
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

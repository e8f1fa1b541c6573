//! What is counted of scripts, and where it is read.

use std::sync::Arc;

use encore_miniredis::Miniredis;
use tokio::sync::oneshot;

use super::http::client;
use super::http::server::Server;
use super::redis::connections;
use super::*;
use crate::metrics::{Calls, Reading};
use crate::page::{Page, PageRequest};

async fn world() -> (Miniredis, Server, Lanes) {
    let redis = Miniredis::run().await.unwrap();
    let lanes = Lanes::start(&LanesConfig {
        count: 2,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        http: Some(client(crate::egress::Egress::default())),
        redis: Some(connections(&redis.redis_url(), 2).await),
        preload: Arc::default(),
        sql: Some(crate::sql::Databases::new(crate::sql::Config::default()).unwrap()),
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: Arc::new(|_| {}),
    })
    .unwrap();
    (redis, Server::start().await, lanes)
}

fn find<'a>(calls: &'a [Calls], what: &str) -> &'a Calls {
    calls.iter().find(|calls| calls.what == what).unwrap()
}

/// What has been counted, without the sorts of which there was nothing.
fn counts(calls: &[Calls]) -> Vec<(&'static str, u64)> {
    calls.iter().map(|calls| (calls.what, calls.durations.count())).filter(|(_, count)| *count > 0).collect()
}

fn errors(calls: &Calls) -> Vec<(&'static str, u64)> {
    calls.errors.iter().copied().filter(|(_, count)| *count > 0).collect()
}

fn heap(read: &Reading, kind: &str) -> usize {
    read.heap.iter().find(|(name, _)| *name == kind).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_main_are_counted_whatever_comes_after_them() {
    let lanes = one_lane();
    let metrics = lanes.metrics();
    let limits = Limits::default();
    let run = spawn(&lanes, &Fake::new(), limits, |vm| {
        vm.load(
            "let n = 0; function init() {} function main() { if (++n > 4) throw n; sleep(n) }",
            "test.js",
        )?;
        vm.call("init")?;
        for pause in [Some(Duration::ZERO), Some(Duration::from_millis(1)), None] {
            vm.call("main")?;
            if pause.is_some() {
                vm.idle(pause)?;
            }
        }
        vm.call("main")?;
        vm.call("main").unwrap_err();
        vm.call("none")
    });
    run.1.await.unwrap();
    let read = metrics.read().main_calls;
    assert_eq!(read.count(), 5);
    assert!(read.sum >= Duration::from_millis(1 + 2 + 3 + 4), "{:?}", read.sum);
    // The last one before the script ends.
    let run = spawn(&lanes, &Fake::new(), limits, |vm| {
        vm.load("function main() {}", "test.js")?;
        vm.call("main")
    });
    run.1.await.unwrap();
    assert_eq!(metrics.read().main_calls.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_counted_by_name_and_by_how_they_were_answered() {
    let (server, _http, lanes) = world().await;
    let metrics = lanes.metrics();
    let source = "for (let n = 0; n < 5; n++) redis.Do('INCR', 'n');
        redis.Do('LPUSH', 'l', 'x'); redis.Do('INCR', 'l');
        redis.Do('HSET', 'h', 'f', 1); redis.Do('HGETALL', 'h'); redis.Do('HGETALL', 'l');
        redis.Do('EVAL', 'return 1', 0); redis.Do('STRLEN', 'n'); redis.Do('NONE');
        redis.Do('SUBSCRIBE', 'never sent'); redis.Blpop(1, 'l'); redis.Do('BLPOP', 'n', 1)";
    spawn(&lanes, &Fake::new(), Limits::default(), move |vm| vm.load(source, "test.js")).1.await.unwrap();
    let read = metrics.read().redis;
    let expected =
        [("incr", 6), ("lpush", 1), ("hset", 1), ("hgetall", 2), ("eval", 1), ("blocking", 2), ("other", 2)];
    assert_eq!(counts(&read), expected);
    for (what, expected) in [("incr", 1), ("hgetall", 1), ("other", 1), ("blocking", 1), ("lpush", 0)] {
        let expected: Vec<_> = [("error", expected)].into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(errors(find(&read, what)), expected, "{what}");
    }
    server.close().await;
    let gone = "redis.Do('INCR', 'n')[1] + redis.Do('STRLEN', 'n')[1]";
    let limits = Limits { call_timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    let _ = spawn(&lanes, &Fake::new(), limits, move |vm| vm.eval(gone)).1.await;
    let _ = spawn(&lanes, &Fake::new(), limits, move |vm| vm.eval(gone)).1.await;
    let unanswered: u64 = metrics
        .read()
        .redis
        .iter()
        .flat_map(errors)
        .map(|(why, count)| u64::from(why == "no_answer") * count)
        .sum();
    assert!(unanswered > 0, "{:?}", metrics.read().redis);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_statements_are_counted_by_what_they_came_to() {
    let (_redis, server, lanes) = world().await;
    let metrics = lanes.metrics();
    let source = "
        http.Get('§/text'); http.Get('§/status/404'); http.Post('§/echo', 'x');
        http.Get('http://127.0.0.1:1/'); http.Get('§/slow/9000', { timeoutMs: 1 });
        const db = sql.New(':memory:', 'sqlite');
        db.Exec('CREATE TABLE t (n)'); db.Query('SELECT * FROM t'); db.Query('SELECT * FROM none'); db.Ping();
        db.Query('SELECT ?'); sql.New('u:p@tcp(127.0.0.1:1)/x', 'mysql').Ping()";
    let source = source.replace('§', &server.url(""));
    spawn(&lanes, &Fake::new(), Limits::default(), move |vm| vm.load(&source, "test.js")).1.await.unwrap();
    let read = metrics.read();
    let http = counts(&read.http);
    assert_eq!(http.iter().map(|(_, count)| count).sum::<u64>(), 5, "{http:?}");
    assert!(http.contains(&("timeout", 1)) && http.contains(&("failed", 1)), "{http:?}");
    assert!(http.iter().any(|(what, _)| *what == "2xx"), "{http:?}");
    assert_eq!(counts(&read.sql), [("mysql", 1), ("sqlite", 5)]);
    assert_eq!(errors(find(&read.sql, "sqlite")), [("refused", 1), ("error", 1)]);
    assert_eq!(errors(find(&read.sql, "mysql")), [("connection", 1)]);
    // Nobody waits for these any more.
    let limits = Limits { call_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let slow = format!("http.Get('{}')", server.url("/slow/9000"));
    spawn(&lanes, &Fake::new(), limits, move |vm| vm.eval(&slow)).1.await.unwrap_err();
    let endless = "sql.New(':memory:', 'sqlite').Query('WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c')";
    spawn(&lanes, &Fake::new(), limits, move |vm| vm.eval(endless)).1.await.unwrap_err();
    while !counts(&metrics.read().http).contains(&("aborted", 1)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(errors(find(&metrics.read().sql, "sqlite")).contains(&("aborted", 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn heap_is_that_of_the_scripts_that_are_there_by_kind() {
    let (_redis, _http, lanes) = world().await;
    let metrics = lanes.metrics();
    assert_eq!(metrics.read().heap, [("thread", 0), ("job", 0), ("endpoint", 0)]);
    let (there, is_there) = oneshot::channel();
    let (go, going) = oneshot::channel::<()>();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load("const big = new Uint8Array(2 << 20);", "test.js")?;
        there.send(()).unwrap();
        let _ = hats_fiber::wait(going);
        Ok::<_, ScriptError>(())
    });
    is_there.await.unwrap();
    let read = metrics.read();
    assert!(heap(&read, "thread") > 2 << 20, "{:?}", read.heap);
    assert_eq!((heap(&read, "job"), heap(&read, "endpoint")), (0, 0));
    go.send(()).unwrap();
    run.1.await.unwrap();
    // The interpreter goes after the result of what ran in it has been told.
    while heap(&metrics.read(), "thread") > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let page = Arc::new(Page::script("/a", "($ => () => {})".into(), Limits::default()));
    lanes.answer(&page, Fake::of(Kind::Endpoint), PageRequest::default()).1.await.unwrap().unwrap();
    let task = ScriptTask { control: Fake::job(), limits: Limits::default() };
    lanes
        .spawn_run(task, async |vm: &mut Vm| vm.run_once(&"1".into(), "job.js", None).await)
        .1
        .await
        .unwrap()
        .result
        .unwrap();
    let idle = |read: &Reading| read.lanes.iter().map(|lane| lane.warm_interpreters).sum::<usize>();
    while idle(&metrics.read()) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let read = metrics.read();
    assert!(heap(&read, "job") > 0 && heap(&read, "endpoint") > 0, "{:?}", read.heap);
    let bytes: usize = read.lanes.iter().map(|lane| lane.warm_bytes).sum();
    assert!(bytes > heap(&read, "job") + heap(&read, "endpoint"), "{bytes}");
    assert!(read.lanes.iter().all(|lane| lane.warm_bytes_max == LanesConfig::WARM_BYTES));
    drop(lanes);
    let read = metrics.read();
    assert_eq!((idle(&read), heap(&read, "job"), heap(&read, "endpoint")), (0, 0, 0));
}

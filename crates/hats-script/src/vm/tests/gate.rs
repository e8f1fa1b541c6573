//! The gate: no host call has an effect without its permission.

use std::sync::Arc;

use encore_miniredis::Miniredis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http::client;
use super::redis::{connected_to, connections};
use super::*;

/// A call of each host function that reaches outside, and each command that takes a way of its own.
const EFFECTS: &[&str] = &[
    "redis.Do('GET', 'k')",
    "redis.Do('SET', 'k', 1)",
    "redis.Do('INCR', 'n')",
    "redis.Do('DECR', 'n')",
    "redis.Do('DEL', 'k')",
    "redis.Do('EXISTS', 'k')",
    "redis.Do('HGET', 'h', 'f')",
    "redis.Do('LLEN', 'l')",
    "redis.Do('LPOP', 'l')",
    "redis.Do('RPOP', 'l')",
    "redis.Do('LPUSH', 'l', 1)",
    "redis.Do('RPUSH', 'l', 1)",
    "redis.Do('APPEND', 'a', 1)",
    "redis.Do('BLPOP', 'none', 0.01)",
    "redis.Call('INCR', 'n')",
    "redis.Blpop(0.01, 'none')",
    "redis.HsetFenced('fenced', { a: 1 })",
    "http.Get('http://127.0.0.1:1/')",
    "http.Head('http://127.0.0.1:1/')",
    "http.Delete('http://127.0.0.1:1/')",
    "http.Post('http://127.0.0.1:1/', '')",
    "http.Put('http://127.0.0.1:1/', '')",
    "http.Patch('http://127.0.0.1:1/', '')",
    "http.PostForm('http://127.0.0.1:1/', {})",
    "fetch('http://127.0.0.1:1/')",
    "sql.New(':memory:', 'sqlite').Ping()",
    "sql.New(':memory:', 'sqlite').Query('SELECT 1')",
    "sql.New(':memory:', 'sqlite').Exec('CREATE TABLE t (n)')",
    "thread.State()",
    "thread.Status()",
    "thread.Stop()",
    "thread.Disable()",
];

/// Host functions beside those that have none: to open a database connects to nothing, to close one lets go of it.
const NO_EFFECT: &[&str] = &["sql.New", "db.Close"];

async fn everything(redis: &Miniredis, preload: Option<String>) -> Lanes {
    let library = |source: String| crate::Library { name: "lib.js".into(), source: source.into() };
    Lanes::start(&LanesConfig {
        count: 1,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        http: Some(client(crate::egress::Egress::default())),
        redis: Some(connections(&redis.redis_url(), 2).await),
        preload: preload.into_iter().map(library).collect(),
        sql: Some(crate::sql::Databases::new(crate::sql::Config::default()).unwrap()),
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: Arc::new(|_| {}),
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_call_with_an_effect_is_in_the_list() {
    let redis = Miniredis::run().await.unwrap();
    let lanes = everything(&redis, None).await;
    let fake = Fake::new();
    let inner = fake.clone();
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load("globalThis.db = sql.New(':memory:', 'sqlite')", "test.js").unwrap();
        let names = "Object.entries({ redis, http, sql, thread, db }).flatMap(([name, object]) => \
                     Object.keys(object).filter(key => typeof object[key] === 'function').map(key => name + '.' + key)).join()";
        let names = vm.eval(names).unwrap();
        for effect in EFFECTS {
            let before = inner.effects.load(Ordering::Relaxed);
            vm.eval(&format!("Promise.resolve({effect}).catch(() => {{}})")).unwrap();
            assert!(inner.effects.load(Ordering::Relaxed) > before, "{effect} passes no gate");
        }
        names
    });
    let calls = EFFECTS.join("\n").replace("sql.New(':memory:', 'sqlite')", "db");
    for name in ended.await.split(',') {
        let is_known = NO_EFFECT.contains(&name) || calls.contains(&format!("{name}("));
        assert!(is_known, "{name} is in no list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_reaches_nothing_while_it_is_evaluated() {
    let redis = Miniredis::run().await.unwrap();
    let library = format!(
        "var said = []; \
         for (const effect of {EFFECTS:?}) {{ \
             try {{ \
                 const value = (0, eval)(effect); \
                 if (typeof value?.then === 'function') value.then(() => said.push(effect), (e) => said.push(e.message)); \
                 else said.push(effect); \
             }} catch (e) {{ said.push(e.message); }} \
         }}"
    );
    let lanes = everything(&redis, Some(library)).await;
    let fake = Fake::new();
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), |vm| {
        vm.load("", "test.js")?;
        vm.eval("said.join('\\n')")
    });
    let said = ended.await.unwrap();
    assert_eq!(said.lines().count(), EFFECTS.len(), "{said}");
    for line in said.lines() {
        assert!(line.contains("a preloaded library reaches outside only from functions"), "{line}");
    }
    assert_eq!(fake.effects.load(Ordering::Relaxed), 0);
    for key in ["k", "n", "l", "a", "fenced"] {
        assert!(!redis.exists(key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_was_interrupted_has_no_effect_any_more() {
    let redis = Miniredis::run().await.unwrap();
    let lanes = everything(&redis, None).await;
    for effect in EFFECTS {
        let fake = Fake::new();
        let (handle, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| {
            let source = format!(
                "function main() {{ \
                     redis.Do('PING'); \
                     try {{ sleep(1e9) }} catch {{}} \
                     for (let n = 0; n < 5; n++) try {{ Promise.resolve({effect}).catch(() => {{}}) }} catch {{}} \
                 }}"
            );
            vm.load(&source, "test.js")?;
            vm.call("main")
        });
        while fake.effects.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        handle.interrupt();
        assert_eq!(ended.await, Err(ScriptError::Interrupted), "{effect}");
        assert_eq!(fake.effects.load(Ordering::Relaxed), 1, "{effect}");
        let (stops, disables) = (&fake.stops, &fake.disables);
        assert_eq!((stops.load(Ordering::Relaxed), disables.load(Ordering::Relaxed)), (0, 0), "{effect}");
    }
    for key in ["k", "n", "l", "a", "fenced"] {
        assert!(!redis.exists(key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_catches_its_interrupt_sends_nothing_more() {
    let redis = Miniredis::run().await.unwrap();
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", door.local_addr().unwrap());
    let far = redis.addr();
    tokio::spawn(async move {
        while let Ok((near, _)) = door.accept().await {
            let far = TcpStream::connect(far).await.unwrap();
            let (near_reads, near_writes) = near.into_split();
            let (far_reads, far_writes) = far.into_split();
            tokio::spawn(delayed(near_reads, far_writes));
            tokio::spawn(delayed(far_reads, near_writes));
        }
    });
    let lanes = connected_to(&url, 1).await;
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load("for (;;) try { redis.Do('INCR', 'n') } catch {}", "test.js")
    });
    let count = || redis.get("n").unwrap_or_default().parse::<u64>().unwrap_or(0);
    while count() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    handle.interrupt();
    let before = count();
    assert_eq!(ended.await, Err(ScriptError::Interrupted));
    // One may have been on its way.
    let after = count();
    assert!(after <= before + 1, "{before} before the interrupt, {after} after it");
}

/// Carries what comes, a little later.
async fn delayed(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

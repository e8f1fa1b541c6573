//! Interpreters that serve one request after another: none sees anything of those before it, and each is answered as in an
//! interpreter of its own.

use std::sync::Arc;

use encore_miniredis::Miniredis;

use super::http::client;
use super::http::server::Server;
use super::redis::connections;
use super::*;
use crate::{Page, PageRequest, PageResponse};

/// Everything that a script can see without running anything: what there is below the global object, by names, kinds,
/// flags and values.
const LOOK: &str = "(() => { \
     const seen = new Map(), out = []; \
     const { ownKeys, getOwnPropertyDescriptor, getPrototypeOf, isExtensible } = Reflect; \
     const note = (value, path) => { \
         if (typeof value !== 'object' && typeof value !== 'function' || value === null) { \
             out.push(`${path} ${typeof value} ${String(value)}`); return; } \
         if (seen.has(value)) { out.push(`${path} = ${seen.get(value)}`); return; } \
         seen.set(value, path); \
         out.push(`${path} ${typeof value} ${isExtensible(value)}`); \
         note(getPrototypeOf(value), path + '.__proto__'); \
         for (const key of ownKeys(value)) { \
             const d = getOwnPropertyDescriptor(value, key), at = `${path}.${String(key)}`; \
             out.push(`${at} ${d.writable} ${d.enumerable} ${d.configurable}`); \
             if (key === 'timeOrigin') continue; \
             if ('value' in d) note(d.value, at); else { note(d.get, at + ' get'); note(d.set, at + ' set'); } } }; \
     note(globalThis, 'globalThis'); \
     return out.join('\\n'); })()";

/// What scripts do to be remembered, to be in the way, or to go on after their end. `§` is a server.
const HOSTILE: &[&str] = &[
    "globalThis.leak = 1; undeclared = 2; 3",
    "var v = 1; function f() {}; 4",
    "Object.prototype.leak = 1; Array.prototype.push = () => 1; Promise.prototype.then = null; JSON.parse = JSON.stringify = null; 5",
    "Function.prototype.call = Function.prototype.apply = null; String.prototype.toString = () => 'x'; Symbol.iterator in []",
    "for (const key of Reflect.ownKeys(globalThis)) { try { delete globalThis[key] } catch {} } 6",
    "for (const key of Reflect.ownKeys(globalThis)) { try { globalThis[key] = null } catch {} } 7",
    "[Object, Array, Promise, JSON, Math, Reflect, console, redis, env, worker, request, response].forEach(o => { Object.freeze(o); if (o.prototype) Object.freeze(o.prototype) }); 8",
    "Object.freeze(globalThis); 9",
    "Object.setPrototypeOf(globalThis, null); 10",
    "Object.defineProperty(globalThis, 'request', { value: 'mine' }); Object.defineProperty(Object.prototype, 'then', { get() { throw 1 } }); 11",
    "setTimeout(() => { globalThis.late = 1; response.Write('late') }, 1); setInterval(() => response.Write('late'), 1); 12",
    "setTimeout(() => { for (;;); }, 1); 13",
    "queueMicrotask(() => { globalThis.micro = 1; queueMicrotask(() => Promise.reject(new Error('later'))) }); 14",
    "(async () => { await new Promise(() => {}); response.Write('never') })(); 15",
    "const p = new Promise(done => globalThis.done = done); p.then(() => response.Write('p')); 16",
    "fetch('§/held').then(r => response.Write('held')); fetch('§/text').then(r => r.text()).then(t => response.Write(t)); 17",
    "new Promise((_, no) => setTimeout(no, 3, new Error('in time')))",
    "Promise.reject(new RangeError('nobody listens')); 18",
    "throw new TypeError('thrown')",
    "throw { toString() { throw 'twice' } }",
    "queueMicrotask(() => { throw new Error('in a microtask') }); 19",
    "let syntax error",
    "(function f() { f() })()",
    "try { (function f() { f() })() } catch { 'caught' }",
    "request.GetHeader('x'); request.Query.a; delete request.Query; request.mine = 1; response.Write('written'); 20",
    "redis.Do('SET', 'k', 'v'); redis.Do('GET', 'k')[0]",
    "const d = sql.New(':memory:', 'sqlite'); d.Exec('CREATE TABLE t (n)'); d.Exec('INSERT INTO t VALUES (1)'); d.Query('SELECT * FROM t')[0].n",
    "globalThis.db = sql.New(':memory:', 'sqlite'); db.Ping(); sql.New(':memory:', 'sqlite').Query('no sql'); 21",
    "for (let n = 0; n < 4; n++) globalThis['db' + n] = sql.New(':memory:', 'sqlite'); [db0, db1, db2, db3].map(d => d.Error).join()",
    "new URL('http://a/b?c=d').href + new TextEncoder().encode('ä') + structuredClone({ a: [1] }).a + btoa('x')",
    "URL.prototype.mine = 1; TextDecoder = null; class URLSearchParams {} crypto.subtle = 1; performance.mine = 2; 22",
    "http.Get('§/text').body.length",
    "http.mine = 1; env.Get = null; console.log = null; worker.mine = 1; Math.random = () => 4; Date.now = () => 0; 23",
    "const big = []; for (let n = 0; n < 20000; n++) big.push({ n }); globalThis.big = big; big.length",
    "globalThis.w = new WeakRef({}); new FinalizationRegistry(() => response.Write('gone')).register({}, 1); 24",
    "eval('var inner = 1; globalThis.code = new Function(\"return inner\")'); code()",
    "[setTimeout(() => {}, 9), setTimeout(() => {}, 9)].join()",
    "import('./none.js').catch(e => e.message)",
    "[Math.random() < 1, performance.now() < 60000, performance.timeOrigin > 1e12, crypto.randomUUID().length].join()",
    "sleep(1); new Date().getFullYear() > 2000",
    "Symbol.for('registered'); Object.keys(Object.prototype).join() + Array.from('abc', c => c + c)",
    "/(?<year>\\d+)/.exec('in 2020').groups.year + RegExp.$1",
    "globalThis.g = function* () { yield* [1, 2] }(); g.next(); g.next().value",
    "globalThis.p = new Proxy({}, { get() { throw 1 } }); Object.setPrototypeOf(Object.prototype.__proto__ ?? {}, null); 25",
];

/// A page that does whatever the request's body says, in the global scope.
fn anything(limits: Limits) -> Arc<Page> {
    let code =
        "($ => async () => { const value = await (0, eval)(request.Body); response.Write(String(value)) })";
    Arc::new(Page::script("/test", code.into(), limits))
}

struct World {
    _redis: Miniredis,
    server: Server,
    config: LanesConfig,
}

impl World {
    async fn new() -> Self {
        let redis = Miniredis::run().await.unwrap();
        let server = Server::start().await;
        let config = LanesConfig {
            count: 1,
            worker: Fake::new(),
            env: EnvOverlay::default(),
            http: Some(client(crate::egress::Egress::default())),
            redis: Some(connections(&redis.redis_url(), 2).await),
            preload: [crate::Library {
                name: "lib.js".into(),
                source: "var lib = { n: 1, list: [1] }".into(),
            }]
            .into(),
            sql: Some(crate::sql::Databases::new(crate::sql::Config::default()).unwrap()),
            warm_bytes: LanesConfig::WARM_BYTES,
            preemption: Default::default(),
            on_turn: Arc::new(|_| {}),
        };
        Self { _redis: redis, server, config }
    }

    fn lanes(&self, warm_bytes: usize) -> Lanes {
        Lanes::start(&LanesConfig { warm_bytes, ..self.config.clone() }).unwrap()
    }

    async fn ask(&self, lanes: &Lanes, page: &Arc<Page>, code: &str) -> Result<PageResponse, ScriptError> {
        let body = code.replace('§', &self.server.url(""));
        let request = PageRequest {
            method: "POST".to_owned(),
            path: "/test".to_owned(),
            url: "http://test/test".to_owned(),
            query: vec![("a".to_owned(), "b".to_owned())],
            body: body.into(),
            ..PageRequest::default()
        };
        lanes.answer(page, Fake::of(Kind::Endpoint), request).1.await.unwrap()
    }

    async fn look(&self, lanes: &Lanes, page: &Arc<Page>) -> String {
        String::from_utf8(self.ask(lanes, page, LOOK).await.unwrap().body).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_sees_anything_of_another() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits::default());
    let before = world.look(&lanes, &page).await;
    assert!(before.lines().count() > 3000, "{}", before.lines().count());
    for code in HOSTILE {
        let _ = world.ask(&lanes, &page, code).await;
        let after = world.look(&lanes, &page).await;
        let difference = before.lines().zip(after.lines()).find(|(before, after)| before != after);
        assert!(before == after, "after {code}: {difference:?}");
    }
    // What can be reset has been, so they were all answered by very few.
    let (idle, _) = lanes.idle().await;
    assert_eq!(idle, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_as_in_interpreters_of_their_own() {
    let world = World::new().await;
    let (warm, fresh) = (world.lanes(LanesConfig::WARM_BYTES), world.lanes(0));
    let page = anything(Limits::default());
    for round in 0..3 {
        for code in HOSTILE {
            let (reset, new) = (world.ask(&warm, &page, code).await, world.ask(&fresh, &page, code).await);
            assert_eq!(reset, new, "round {round}: {code}");
        }
    }
    assert_eq!(warm.idle().await.0, 1);
    assert_eq!(fresh.idle().await.0, 0);
    // All that there is, there is in both; but for the place of the engine's own random numbers.
    let (reset, new) = (world.look(&warm, &page).await, world.look(&fresh, &page).await);
    let difference = reset.lines().zip(new.lines()).find(|(reset, new)| reset != new);
    assert!(reset == new, "{difference:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reaches_a_limit_does_not_come_back() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits {
        call_timeout: Some(Duration::from_millis(300)),
        memory: 8 << 20,
        ..Limits::default()
    });
    let before = world.look(&lanes, &page).await;
    for code in [
        "globalThis.leak = 1; for (;;);",
        "globalThis.leak = 1; sleep(100000)",
        "globalThis.leak = 1; setTimeout(() => {}, 1e6); new Promise(() => {})",
        "globalThis.leak = []; for (;;) leak.push('x'.repeat(1000) + leak.length)",
        "globalThis.leak = []; try { for (;;) leak.push(new ArrayBuffer(100000)) } catch { 'caught' }",
        "globalThis.leak = 1; redis.Blpop(0, 'nothing')",
        "globalThis.leak = 1; http.Get('§/held')",
        "globalThis.leak = 1; setTimeout(() => { for (;;); }); new Promise(() => {})",
    ] {
        let answer = world.ask(&lanes, &page, code).await;
        assert!(
            matches!(answer, Err(ScriptError::Timeout(_) | ScriptError::Memory(_)))
                || code.contains("caught")
                || format!("{answer:?}").contains("for want of memory"),
            "{code}: {answer:?}"
        );
        assert_eq!(lanes.idle().await.0, 0, "{code}");
        assert!(world.look(&lanes, &page).await == before, "after {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_to_end_is_the_request_in_hand_and_no_later_one() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits::default());
    world.ask(&lanes, &page, "1").await.unwrap();
    let request = |code: &str| PageRequest { body: code.to_owned().into(), ..PageRequest::default() };
    let (first, ended) = lanes.answer(&page, Fake::of(Kind::Endpoint), request("2"));
    ended.await.unwrap().unwrap();
    let (second, ended) =
        lanes.answer(&page, Fake::of(Kind::Endpoint), request("new Promise(done => setTimeout(done, 50))"));
    // Too late for the first.
    first.kill();
    first.interrupt();
    assert!(ended.await.unwrap().is_ok());
    second.kill();
    assert_eq!(lanes.idle().await.0, 1);
    let code = "http.Get('§/held')".replace('§', &world.server.url(""));
    let (third, ended) = lanes.answer(&page, Fake::of(Kind::Endpoint), request(&code));
    world.server.wait_for(|seen| seen.requests.len() == 1).await;
    third.interrupt();
    assert_eq!(ended.await.unwrap(), Err(ScriptError::Interrupted));
    assert_eq!(lanes.idle().await.0, 0);
    let (fourth, ended) = lanes.answer(&page, Fake::of(Kind::Endpoint), request("4"));
    fourth.kill();
    // It may have been answered before.
    assert!(matches!(ended.await.unwrap(), Err(ScriptError::Lost) | Ok(_)));
    world.ask(&lanes, &page, "5").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_is_the_end_of_the_request_and_of_its_interpreter() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits::default());
    let fake = Fake::of(Kind::Endpoint);
    let code = "http.Get('§/held')".replace('§', &world.server.url(""));
    let request = PageRequest { body: code.into(), ..PageRequest::default() };
    let (script, ended) = lanes.answer(&page, fake.clone(), request.clone());
    world.server.wait_for(|seen| seen.requests.len() == 1).await;
    fake.trusted_ms.store(0, Ordering::Relaxed);
    script.kill();
    assert_eq!(ended.await.unwrap(), Err(ScriptError::Lost));
    assert_eq!(lanes.idle().await.0, 0);
    // One that was lost before it could begin has done nothing to an interpreter.
    assert_eq!(lanes.answer(&page, fake, request).1.await.unwrap(), Err(ScriptError::Lost));
    world.ask(&lanes, &page, "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_interpreters_as_requests_at_once_and_no_more_bytes_than_allowed() {
    let world = World::new().await;
    let room = 2 << 20;
    let lanes = world.lanes(room);
    let page = anything(Limits::default());
    let code = "new Promise(done => setTimeout(done, 20, request.Path))";
    let all: Vec<_> = (0..30)
        .map(|n| {
            let request = PageRequest { path: format!("/{n}"), body: code.into(), ..PageRequest::default() };
            lanes.answer(&page, Fake::of(Kind::Endpoint), request).1
        })
        .collect();
    for (n, ended) in all.into_iter().enumerate() {
        assert_eq!(ended.await.unwrap().unwrap().body, format!("/{n}").into_bytes());
    }
    let (idle, bytes) = lanes.idle().await;
    assert!((2..30).contains(&idle) && bytes <= room, "{idle} {bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_need_not_wait_is_done_by_one_interpreter_and_what_waits_holds_up_nobody() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits::default());
    world.ask(&lanes, &page, "1").await.unwrap();
    let answer = |code: &str| {
        let request = PageRequest { body: code.to_owned().into(), ..PageRequest::default() };
        lanes.answer(&page, Fake::of(Kind::Endpoint), request)
    };
    let all: Vec<_> = (0..100).map(|n| answer(&format!("{n}")).1).collect();
    for (n, ended) in all.into_iter().enumerate() {
        assert_eq!(ended.await.unwrap().unwrap().body, format!("{n}").into_bytes());
    }
    assert_eq!(lanes.idle().await.0, 1);
    // Those behind one that waits, or that never ends, are answered while it goes on.
    let (waits, waited) = answer("sleep(100000)");
    let (loops, looped) = answer("for (;;);");
    for ended in (0..10).map(|n| answer(&format!("{n}")).1).collect::<Vec<_>>() {
        ended.await.unwrap().unwrap();
    }
    assert_eq!(lanes.idle().await.0, 1);
    waits.interrupt();
    loops.interrupt();
    assert_eq!(waited.await.unwrap(), Err(ScriptError::Interrupted));
    assert_eq!(looped.await.unwrap(), Err(ScriptError::Interrupted));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_polled_on_a_lane_is_answered_there_unless_others_have_much_less_to_do() {
    let world = World::new().await;
    let lanes = Lanes::start(&LanesConfig { count: 2, ..world.config.clone() }).unwrap();
    let page = anything(Limits::default());
    let request = |code: &str| PageRequest { body: code.to_owned().into(), ..PageRequest::default() };
    let scripts = |lanes: &Lanes| lanes.status().iter().map(|lane| lane.scripts()).collect::<Vec<_>>();
    let (tell, told) = tokio::sync::oneshot::channel();
    let (guest, asked) = (lanes.clone(), page.clone());
    lanes.spawn_local(move || async move {
        let mut waiting = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..20 {
            let answered = guest.answer(&asked, Fake::of(Kind::Endpoint), request("sleep(100000)"));
            waiting.push(answered);
            seen.push(scripts(&guest));
        }
        for (script, ended) in waiting {
            script.interrupt();
            assert_eq!(ended.await.unwrap(), Err(ScriptError::Interrupted));
        }
        let _ = tell.send(seen);
    });
    let seen = told.await.unwrap();
    assert_eq!(seen[7], [8, 0], "they stay near");
    let last = &seen[19];
    assert!(last[0] > last[1] && last[1] > 0 && last[0] + last[1] == 20, "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_interpreter_keeps_no_task() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits::default());
    let task = Fake::of(Kind::Endpoint);
    for _ in 0..2 {
        lanes.answer(&page, task.clone(), PageRequest::default()).1.await.unwrap().unwrap();
    }
    assert_eq!(lanes.idle().await.0, 1);
    assert_eq!(Arc::strong_count(&task), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_stuck_is_given_nothing_more() {
    let world = World::new().await;
    let lanes = Lanes::start(&LanesConfig { count: 2, ..world.config.clone() }).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, began) = tokio::sync::oneshot::channel();
    lanes.spawn_local(move || async move {
        let _ = tell.send(std::thread::current().id());
        // As native code does that gives nobody a turn.
        let _ = wait.recv();
    });
    let stuck = began.await.unwrap();
    while !lanes.is_any_stuck() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let page = anything(Limits::default());
    for _ in 0..4 {
        let (tell, told) = tokio::sync::oneshot::channel();
        lanes.spawn_local(move || async move { tell.send(std::thread::current().id()).unwrap() });
        assert_ne!(told.await.unwrap(), stuck);
        world.ask(&lanes, &page, "1").await.unwrap();
    }
    go.send(()).unwrap();
    while lanes.is_any_stuck() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_that_was_used_least_recently_gives_way() {
    let world = World::new().await;
    let lanes = world.lanes(1500 << 10);
    let pages: Vec<_> = (0..10).map(|_| anything(Limits::default())).collect();
    for _ in 0..3 {
        for page in &pages {
            world.ask(&lanes, page, "1").await.unwrap();
            world.ask(&lanes, &pages[0], "1").await.unwrap();
        }
    }
    let (idle, bytes) = lanes.idle().await;
    assert!((2..10).contains(&idle) && bytes <= 1500 << 10, "{idle} {bytes}");
    drop(pages);
    // Nobody knows them any more: they go when the lane comes round.
    while lanes.idle().await.0 > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_page_is_told_each_time() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let broken = Arc::new(Page::script("/broken", "($ => {\n let let })".into(), Limits::default()));
    for _ in 0..3 {
        let error = world.ask(&lanes, &broken, "").await.unwrap_err().to_string();
        assert!(error.contains("SyntaxError") && error.contains("/broken:2"), "{error}");
    }
    // Nor is one for which there is no stack the last that is answered.
    let deep = Arc::new(Page::script("/deep", "1".into(), Limits { stack: 1, ..Limits::default() }));
    for _ in 0..3 {
        let (_, ended) = lanes.answer(&deep, Fake::of(Kind::Endpoint), PageRequest::default());
        let error = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("StackLimit"), "{error}");
    }
    let long = Arc::new(Page::script("/long", "1".into(), Limits { source: 0, ..Limits::default() }));
    assert_eq!(world.ask(&lanes, &long, "").await, Err(ScriptError::SourceTooLong(1, 0)));
    let small = anything(Limits { memory: 10_000, ..Limits::default() });
    let request = PageRequest::default();
    let error = lanes.answer(&small, Fake::of(Kind::Endpoint), request).1.await.unwrap_err().to_string();
    assert!(error.contains("MemoryLimit, is 10000 bytes"), "{error}");
    let deep = anything(Limits { stack: 1, ..Limits::default() });
    let request = PageRequest::default();
    let error = lanes.answer(&deep, Fake::of(Kind::Endpoint), request).1.await.unwrap_err().to_string();
    assert!(error.contains("StackLimit of 1 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_goes_on_by_itself_is_as_new_each_time() {
    let mut world = World::new().await;
    world.config.preload =
        [crate::Library { name: "lib.js".into(), source: "let n = 0; setInterval(() => n++, 1)".into() }]
            .into();
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let page = anything(Limits::default());
    for _ in 0..2 {
        let answer = world.ask(
            &lanes,
            &page,
            "const before = n; new Promise(done => setTimeout(() => done([before, n > 0]), 20))",
        );
        assert_eq!(answer.await.unwrap().body, b"0,true");
    }
    assert_eq!(lanes.idle().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_a_library_is_its_own_each_time() {
    let mut world = World::new().await;
    let source =
        "var own = sql.New(':memory:', 'sqlite'); globalThis.gone = sql.New(':memory:', 'sqlite'); gone = 0";
    world.config.preload = [crate::Library { name: "lib.js".into(), source: source.into() }].into();
    for lanes in [world.lanes(LanesConfig::WARM_BYTES), world.lanes(0)] {
        let page = anything(Limits::default());
        for _ in 0..3 {
            let answer = world.ask(
                &lanes,
                &page,
                "const d = sql.New(':memory:', 'sqlite'); d.Exec('CREATE TABLE t (n)'); d.Exec('INSERT INTO t VALUES (1)'); \
                 const before = own.Query('SELECT count(*) AS n FROM sqlite_master')[0].n; own.Exec('CREATE TABLE u (n)'); \
                 own = null; d.Query('SELECT n FROM t')[0].n + ',' + before",
            );
            assert_eq!(String::from_utf8(answer.await.unwrap().body).unwrap(), "1,0");
        }
        assert_eq!(lanes.idle().await.0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_jobs_see_nothing_of_each_other() {
    let world = World::new().await;
    let lanes = world.lanes(LanesConfig::WARM_BYTES);
    let run = async |source: &str, tick_ms| {
        let bundle = Bundle {
            modules: Arc::new(
                [("add.js".to_owned(), "export let n = 0; export const add = () => ++n".into())].into(),
            ),
            ..Bundle::from(source)
        };
        let control = Fake::of(Kind::Job(JobInfo { tick_ms, attempt: 1 }));
        let task = ScriptTask { control, limits: Limits::default() };
        lanes
            .spawn_run(task, async move |vm: &mut Vm| vm.run_once(&bundle, "test.js", None).await)
            .1
            .await
            .unwrap()
    };
    for round in 0..3_i64 {
        let text = |run: Run| run.result.unwrap().unwrap_or_default();
        assert_eq!(
            text(run("var main = () => job.Tick.getTime() + lib.n++", round).await),
            (round + 1).to_string()
        );
        assert_eq!(
            text(run("const main = () => 'const'; globalThis.leak = 1; lib = null", 0).await),
            "const"
        );
        assert_eq!(
            text(
                run(
                    "import { add } from './add.js'; export const main = () => [add(), typeof leak, lib.n]",
                    0
                )
                .await
            ),
            "[1, \"undefined\", 1]"
        );
        assert_eq!(
            text(run("setInterval(() => { throw 1 }, 1); const main = () => { console.log('x') }", 0).await),
            ""
        );
        assert_eq!(run("function main() { console.log('y') }", 0).await.log, ["y"]);
        assert!(run("import './none.js'", 0).await.result.is_err());
        assert!(run("throw new Error('early')", 0).await.result.is_err());
        assert!(run("export const n = ; const main = 1", 0).await.result.is_err());
    }
    assert_eq!(lanes.idle().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_close_whatever_their_interpreters_do() {
    let world = World::new().await;
    let page = anything(Limits::default());
    for code in
        ["http.Get('§/held')", "sleep(1e6)", "new Promise(() => setTimeout(() => {}, 1e9))", "for (;;);", "1"]
    {
        let lanes = world.lanes(LanesConfig::WARM_BYTES);
        world.ask(&lanes, &page, "1").await.unwrap();
        let request =
            PageRequest { body: code.replace('§', &world.server.url("")).into(), ..PageRequest::default() };
        let (_, ended) = lanes.answer(&page, Fake::of(Kind::Endpoint), request);
        // It has begun by now.
        lanes.idle().await;
        tokio::task::spawn_blocking(move || drop(lanes)).await.unwrap();
        assert!(matches!(ended.await, Ok(Err(ScriptError::Lost) | Ok(_)) | Err(Error::Closed)), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_and_what_they_import_are_evaluated_anew_for_each_request() {
    let world = World::new().await;
    let (warm, fresh) = (world.lanes(LanesConfig::WARM_BYTES), world.lanes(0));
    let module = Bundle {
        file: Some("pages/count.js".into()),
        modules: Arc::new(
            [
                (
                    "pages/n.js".to_owned(),
                    "export let n = 0; export const next = () => ++n; export const seen = []".into(),
                ),
                (
                    "pages/later.js".to_owned(),
                    "globalThis.later = (globalThis.later ?? 0) + 1; export default later".into(),
                ),
                ("pages/broken.js".to_owned(), "export default nothing.at.all".into()),
            ]
            .into(),
        ),
        ..Bundle::from(
            "import { next, seen } from './n.js'; let own = 0; \
             export default async (request) => { \
                 seen.push(request.url); own++; Array.prototype.mine = own; \
                 const code = await request.text(); \
                 const value = code ? await (0, eval)(code) : ''; \
                 const broken = await import('./broken.js').catch(e => e.name); \
                 const { default: later } = await import('./later.js'); \
                 return new Response([next(), seen.length, own, [].mine, later, broken, value].join(), { headers: { a: 'b' } }); }",
        )
    };
    let page = Arc::new(Page::handler("/count", module, Limits::default()));
    for code in [
        "",
        "1",
        "import('./n.js').then(m => m.next())",
        "import('./none.js').catch(e => e.message)",
        "Response = Request = fetch = null; 2",
        "Promise.prototype.then = null; 3",
        "throw new Error('thrown')",
        "new Promise(() => {})",
        "Headers.prototype.append = null; Object.freeze(Response.prototype); 4",
        "new Promise(() => setTimeout(() => { throw 5 }, 1))",
        "",
    ] {
        for _ in 0..2 {
            let reset = world.ask(&warm, &page, code).await;
            assert_eq!(reset, world.ask(&fresh, &page, code).await, "{code}");
        }
    }
    let answer = world.ask(&warm, &page, "").await.unwrap();
    assert_eq!(String::from_utf8(answer.body).unwrap(), "1,1,1,1,1,ReferenceError,");
    assert_eq!(warm.idle().await.0, 1);
}

/// What follows from the end of a task must not wait for the next one.
#[tokio::test]
async fn nothing_of_a_task_is_kept_once_its_work_is_over() {
    let lanes = one_lane();
    let page = anything(Limits::default());
    for body in ["1 + 1", "throw new Error('on purpose')", "2"] {
        let fake = Fake::of(Kind::Endpoint);
        let request = PageRequest { body: body.into(), ..PageRequest::default() };
        let (_, ended) = lanes.answer(&page, fake.clone(), request);
        let _ = ended.await.unwrap();
        // The interpreter is reset behind the answer.
        lanes.idle().await;
        assert_eq!(Arc::strong_count(&fake), 1, "{body}");
    }
}

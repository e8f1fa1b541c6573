//! Threads from their claim to their release: a real coordinator, real interpreters, an embedded Redis.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use encore_miniredis::Miniredis;
use hats_cluster::Handle;
use hats_cluster::address::RedisConfig;
use hats_cluster::name::TaskName;
use hats_scheduler::{Config, Drained, Scheduler, Why};
use hats_script::{EnvOverlay, Lanes, LanesConfig, WorkerInfo, redis};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here can take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// Scripts tell what they do by `say(…)`.
const SAY: &str = "const say = (...words) => redis.Call('RPUSH', 'said', words.join(' '));\n";

struct World {
    redis: Miniredis,
}

impl World {
    async fn new() -> World {
        World { redis: Miniredis::run().await.unwrap() }
    }

    fn define(&self, name: &str, source: &str) {
        self.redis.hset(&key(name), "Source", &format!("{SAY}{source}"));
    }

    fn set(&self, name: &str, field: &str, value: &str) {
        self.redis.hset(&key(name), field, value);
    }

    fn field(&self, name: &str, field: &str) -> String {
        self.redis.hget(&key(name), field).unwrap_or_default()
    }

    fn said(&self) -> Vec<String> {
        self.redis.list("said").unwrap_or_default()
    }

    fn count(&self, words: &str) -> usize {
        self.said().iter().filter(|said| *said == words).count()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            if begun.elapsed() > PATIENCE {
                panic!("not within {PATIENCE:?}: {what}\nsaid {:?}\n{}", self.said(), self.redis.dump());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_said(&self, words: &str) {
        self.until(words, |world| world.count(words) > 0).await;
    }

    async fn until_state(&self, name: &str, state: &str) {
        self.until(state, |world| world.field(name, "State") == state).await;
    }

    async fn worker(&self, config: Config) -> Worker {
        let redis = RedisConfig::new(self.redis.redis_url().parse().unwrap());
        let mut cluster =
            hats_cluster::Config::new("c".parse().unwrap(), "w".parse().unwrap(), redis.clone());
        cluster.settle = Duration::ZERO;
        let (handle, events) = hats_cluster::start(cluster).await.unwrap();
        let builder = redis.builder(Duration::from_secs(5)).unwrap();
        let connections = redis::Connections::connect(&builder, NonZeroUsize::MIN).await.unwrap();
        let lanes = Lanes::start(&LanesConfig {
            preload: Arc::default(),
            count: 2,
            worker: Arc::new(Info),
            env: EnvOverlay::default(),
            http: None,
            redis: Some(connections),
            sql: None,
            warm_bytes: LanesConfig::WARM_BYTES,
            preemption: Default::default(),
            on_turn: Arc::new(|_| {}),
        })
        .unwrap();
        let shutdown = CancellationToken::new();
        let mut scheduler = Scheduler::new(handle.clone(), events, lanes, config);
        let (asked, cluster) = (shutdown.clone(), handle.clone());
        let running = tokio::spawn(async move {
            let why = scheduler.run(&asked).await;
            cluster.begin_drain();
            let drained = scheduler.drain().await;
            cluster.close().await;
            (why, drained)
        });
        Worker { handle, shutdown, running }
    }

    /// A worker that has claimed `names`.
    async fn worker_with(&self, names: &[&str]) -> Worker {
        let worker = self.worker(quick()).await;
        worker.claim(names);
        worker
    }
}

struct Worker {
    handle: Handle,
    shutdown: CancellationToken,
    running: JoinHandle<(Why, Drained)>,
}

impl Worker {
    fn claim(&self, names: &[&str]) {
        self.handle.claim_now(names.iter().map(|name| TaskName::new(*name).unwrap()).collect());
    }

    async fn stop(self) -> (Why, Drained) {
        self.shutdown.cancel();
        self.running.await.unwrap()
    }
}

struct Info;

impl WorkerInfo for Info {
    fn name(&self) -> &str {
        "w"
    }

    fn cluster(&self) -> &str {
        "c"
    }

    fn shutting_down(&self) -> bool {
        false
    }

    fn healthy(&self) -> bool {
        true
    }
}

fn key(name: &str) -> String {
    format!("c:Threads:{name}")
}

fn quick() -> Config {
    Config { drain_timeout: Duration::from_millis(500), ..Config::default() }
}

const WHOLE_LIFE: &str = "
    say('load');
    function init() { say('init'); }
    function main() { say('main'); sleep(1e9); say('stopped', thread.Stopped); }
    function cleanup() { say('cleanup'); }
";

#[tokio::test(flavor = "multi_thread")]
async fn lives_from_load_to_cleanup() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    world.until_state("a", "running").await;
    assert_eq!(world.field("a", "Owner"), "w");
    assert_eq!(worker.stop().await, (Why::Asked, Drained::default()));
    assert_eq!(world.said(), ["load", "init", "main", "stopped true", "cleanup"]);
    assert_eq!(world.field("a", "State"), "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn hangs_between_calls_and_awaits_them() {
    let world = World::new().await;
    world.define("a", "let n = 0; async function main() { await null; say('main', n++); }");
    world.set("a", "Hang", "0");
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main 20").await;
    // Applies to the running thread.
    world.set("a", "Hang", "3600000");
    let mut last = 0;
    while std::mem::replace(&mut last, world.said().len()) != world.said().len() {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // To the pause under way as well.
    world.set("a", "Hang", "1");
    world.until("the calls go on", |world| world.said().len() > last + 5).await;
    world.set("a", "Hang", "3600000");
    // A long pause does not keep the worker.
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_main_its_timers_go_on() {
    let world = World::new().await;
    world.define(
        "a",
        "let n = 0; setInterval(() => say('tick', n++), 1); function cleanup() { say('cleanup'); }",
    );
    let worker = world.worker_with(&["a"]).await;
    world.until_said("tick 5").await;
    worker.stop().await;
    assert_eq!(world.count("cleanup"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_and_started_again() {
    let world = World::new().await;
    world.define("a", "say('load');\nfunction main() { throw new RangeError('too far'); }");
    let worker = world.worker_with(&["a"]).await;
    world.until_state("a", "crashed").await;
    let error = world.field("a", "Error");
    assert!(error.contains("RangeError: too far") && error.contains("a:3"), "{error}");
    assert!(!world.field("a", "ErrorTime").is_empty());
    assert_eq!(world.field("a", "Status"), "");
    world.until("it starts again", |world| world.count("load") >= 2).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_without_restart_disables() {
    let world = World::new().await;
    world.define("a", "say('load'); throw null;");
    world.set("a", "Restart", "never");
    let worker = world.worker_with(&["a"]).await;
    world.until_state("a", "crashed").await;
    assert_eq!(world.field("a", "Status"), "disabled");
    assert!(world.field("a", "Error").starts_with("uncaught null"));
    worker.stop().await;
    assert_eq!(world.count("load"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_can_do_wrong_crashes_it_alone() {
    let world = World::new().await;
    let wrong = [
        ("syntax", "function (", "SyntaxError"),
        (
            "rejection",
            "function main() { Promise.reject(new Error('left')); }",
            "unhandled rejection: Error: left",
        ),
        ("recursion", "function main() { main(); }", "stack"),
        (
            "bomb",
            "function main() { const all = []; for (;;) all.push(new Array(1e6).fill(1)); }",
            "MemoryError",
        ),
        ("slow", "function main() { for (;;); }", "TimeoutError"),
    ];
    for (name, source, _) in wrong {
        world.define(name, source);
    }
    world.set("slow", "CallTimeout", "100ms");
    world.redis.hset(&key("long"), "Source", &"//".repeat(1 << 20));
    world.define("good", "let n = 0; function main() { say('good', n++); }");
    let worker =
        world.worker_with(&["good", "syntax", "rejection", "recursion", "bomb", "slow", "long"]).await;
    for (name, _, expect) in wrong.into_iter().chain([("long", "", "SourceError")]) {
        // It is tried again and again, and nothing is said of an error while it begins.
        world.until(&format!("{name} to fail"), |world| world.field(name, "Error").contains(expect)).await;
    }
    let before = world.said().len();
    world.until("the good one goes on", |world| world.said().len() > before + 5).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_source_restarts_it_in_place() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    let epoch = world.redis.hget("c:Claims:a", "Epoch");
    world.define("a", "function main() { say('new', thread.Stopped); sleep(1e9); }");
    world.until_said("new false").await;
    assert_eq!(world.count("cleanup"), 1);
    assert_eq!(world.redis.hget("c:Claims:a", "Epoch"), epoch);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_source_ends_the_back_off() {
    let world = World::new().await;
    world.define("a", "throw new Error('x')");
    let worker = world.worker_with(&["a"]).await;
    world
        .until("a long rest", |world| {
            world.redis.hget("c:Claims:a", "Restarts").is_some_and(|restarts| restarts == "3")
        })
        .await;
    world.define("a", "function main() { say('mended'); sleep(1e9); }");
    world.until_said("mended").await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_and_enabled_again() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    world.set("a", "Status", "disabled");
    world.until_state("a", "stopped").await;
    assert_eq!(world.count("cleanup"), 1);
    world.set("a", "Status", "enabled");
    world.until("it runs again", |world| world.count("main") == 2).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_by_an_operator() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    world.set("a", "RestartAt", "now");
    world.until("it runs again", |world| world.count("main") == 2).await;
    assert_eq!(world.count("cleanup"), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_thread_ends_in_good_order() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    world.redis.del(&key("a"));
    world.until("it is free", |world| world.redis.hget("c:Claims:a", "Session").is_none()).await;
    assert_eq!(world.count("cleanup"), 1);
    worker.stop().await;
    assert!(!world.redis.exists(&key("a")), "nothing may bring it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_disables_itself() {
    let world = World::new().await;
    world.define("a", "function main() { say('before'); thread.Disable(); say('after', thread.Stopped); }");
    let worker = world.worker_with(&["a"]).await;
    world.until_state("a", "stopped").await;
    assert_eq!(world.field("a", "Status"), "disabled");
    worker.stop().await;
    assert_eq!(world.said(), ["before", "after true"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_gives_itself_up_and_comes_back_later() {
    let world = World::new().await;
    world.define(
        "a",
        "function main() { say('main', thread.Stopped); thread.Stop(); say('after', thread.Stopped, sleep(1e9)); }
         function cleanup() { say('cleanup'); }",
    );
    let worker = world.worker_with(&["a"]).await;
    world.until_said("cleanup").await;
    assert_eq!(world.said(), ["main false", "after true false", "cleanup"]);
    world.until("its second time", |world| world.count("main false") == 2).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_return_is_interrupted_and_cleans_up() {
    let world = World::new().await;
    world.define(
        "a",
        "function main() { say('main'); try { for (;;); } finally { say('caught'); } }
         function cleanup() { say('cleanup'); }",
    );
    world.define("b", "say('b'); for (;;);");
    let worker = world.worker_with(&["a", "b"]).await;
    world.until_said("main").await;
    world.until_said("b").await;
    assert_eq!(worker.stop().await, (Why::Asked, Drained::default()));
    assert_eq!((world.count("cleanup"), world.count("caught")), (1, 0));
    assert_eq!(world.field("a", "State"), "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_cleanup_is_cut_off() {
    let world = World::new().await;
    world.define("a", "function main() { say('main'); } function cleanup() { say('cleanup'); for (;;); }");
    let worker = world.worker(Config { cleanup_timeout: Duration::from_millis(200), ..quick() }).await;
    worker.claim(&["a"]);
    world.until_said("main").await;
    assert_eq!(worker.stop().await.1, Drained::default());
    assert_eq!(world.count("cleanup"), 1);
    assert_eq!(world.field("a", "State"), "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_ends_it_without_cleanup() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    let epoch: u64 = world.redis.hget("c:Claims:a", "Epoch").unwrap().parse().unwrap();
    let session = world.redis.hget("c:Claims:a", "Session").unwrap();
    world.redis.hset(&format!("c:Sessions:{session}"), "State", "dead");
    world.until("it runs again", |world| world.count("main") == 2).await;
    assert_eq!(world.count("cleanup") + world.count("stopped true"), 0);
    let after: u64 = world.redis.hget("c:Claims:a", "Epoch").unwrap().parse().unwrap();
    assert!(after > epoch);
    worker.stop().await;
    assert_eq!(world.count("cleanup"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_worker_stops() {
    let world = World::new().await;
    world.define("a", WHOLE_LIFE);
    let worker = world.worker_with(&["a"]).await;
    world.until_said("main").await;
    world.redis.hset("c:workers:w", "Status", "disabled");
    assert_eq!(worker.running.await.unwrap(), (Why::Disabled, Drained::default()));
    assert_eq!(world.count("cleanup"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_threads_start_and_stop_together() {
    let world = World::new().await;
    let names: Vec<String> = (0..1000).map(|number| format!("t{number}")).collect();
    for name in &names {
        world.define(
            name,
            "let first = true; function main() { if (first) say('main'); first = false; sleep(1e9); }",
        );
    }
    let worker = world.worker(quick()).await;
    worker.claim(&names.iter().map(String::as_str).collect::<Vec<_>>());
    world.until("all run", |world| world.redis.list("said").is_some_and(|said| said.len() == 1000)).await;
    assert_eq!(worker.stop().await, (Why::Asked, Drained::default()));
    let free = names.iter().filter(|name| world.redis.hget(&format!("c:Claims:{name}"), "Session").is_none());
    assert_eq!(free.count(), 1000);
}

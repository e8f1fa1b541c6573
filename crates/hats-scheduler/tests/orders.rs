//! Orders that come at awkward moments: the scheduler against a made-up coordinator's events.
//!
//! What ran when is read from the call log, which is also what proves that no two runs of a thread overlapped.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use encore_miniredis::Miniredis;
use hats_cluster::address::RedisConfig;
use hats_cluster::id::Nonce;
use hats_cluster::lease::Lease;
use hats_cluster::name::TaskName;
use hats_cluster::records::{Definition, Limits, Modules, RestartPolicy, SourceDigest};
use hats_cluster::{Event, Grant, StopReason};
use hats_scheduler::{CallLog, Config, Drained, Scheduler, Why};
use hats_script::{EnvOverlay, Lanes, LanesConfig, WorkerInfo};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(40);
const BUSY: &str = "function main() { for (;;); } function cleanup() {}";
const WAITS: &str = "function main() { sleep(1e9); } function cleanup() {}";

/// A scheduler whose events we make up. The coordinator behind its handle owns nothing and ignores what it is told
/// about claims that it never made.
struct World {
    events: mpsc::UnboundedSender<Event>,
    shutdown: CancellationToken,
    running: JoinHandle<(Why, Drained)>,
    log: PathBuf,
    _folder: tempfile::TempDir,
    _redis: Miniredis,
    epoch: u64,
}

/// A line of the call log: what happened, at which epoch, and what more it says.
#[derive(Debug, PartialEq)]
struct Line {
    event: String,
    epoch: u64,
    rest: String,
}

impl World {
    async fn new() -> World {
        let redis = Miniredis::run().await.unwrap();
        let at = RedisConfig::new(redis.redis_url().parse().unwrap());
        let cluster = hats_cluster::Config::new("c".parse().unwrap(), "w".parse().unwrap(), at);
        let (handle, mut unused) = hats_cluster::start(cluster).await.unwrap();
        tokio::spawn(async move { while unused.recv().await.is_some() {} });

        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("calls");
        let config = Config {
            drain_timeout: Duration::from_millis(300),
            call_log: Some(Arc::new(CallLog::open(&log).unwrap())),
            ..Config::default()
        };
        let lanes = Lanes::start(&LanesConfig {
            preload: Arc::default(),
            count: 2,
            worker: Arc::new(Info),
            env: EnvOverlay::default(),
            http: None,
            redis: None,
            sql: None,
            warm_bytes: LanesConfig::WARM_BYTES,
            preemption: Default::default(),
            on_turn: Arc::new(|_| {}),
        })
        .unwrap();
        let (events, receiver) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let mut scheduler = Scheduler::new(handle.clone(), receiver, lanes, config);
        let asked = shutdown.clone();
        let running = tokio::spawn(async move {
            let why = scheduler.run(&asked).await;
            let drained = scheduler.drain().await;
            handle.close().await;
            (why, drained)
        });
        World { events, shutdown, running, log, _folder: folder, _redis: redis, epoch: 0 }
    }

    fn claim(&mut self, lease: &Lease, source: &str) -> Nonce {
        self.epoch += 1;
        let claim = Nonce::random();
        let grant = Grant {
            name: name(),
            key: "c:Threads:a".to_owned(),
            claim: claim.clone(),
            epoch: self.epoch,
            restarts: 0,
            lease: lease.clone(),
            definition: definition(source),
        };
        self.send(Event::Claimed(grant));
        claim
    }

    fn send(&self, event: Event) {
        self.events.send(event).unwrap();
    }

    fn stop(&self, claim: &Nonce, reason: StopReason) {
        self.send(Event::Stop { name: name(), claim: claim.clone(), reason });
    }

    fn lose(&self, lease: &Lease) {
        lease.lose_for_test();
        self.send(Event::Lost { lease: lease.clone() });
    }

    fn change(&self, claim: &Nonce, source: &str) {
        self.send(Event::Changed { name: name(), claim: claim.clone(), definition: definition(source) });
    }

    fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines().map(Line::parse).collect()
    }

    async fn until(&self, event: &str, epoch: u64, rest: &str) {
        let wanted = Line { event: event.to_owned(), epoch, rest: rest.to_owned() };
        let begun = Instant::now();
        while !self.lines().contains(&wanted) {
            assert!(begun.elapsed() < PATIENCE, "no {wanted:?} in {:#?}", self.lines());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Drains, and checks that nothing was left and no two calls ever overlapped.
    async fn end(self) -> Vec<Line> {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap();
        assert_eq!(ended, (Why::Asked, Drained::default()));
        let text = std::fs::read_to_string(&self.log).unwrap();
        let events: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        for pair in events.chunks(2) {
            assert_eq!(pair, ["start", "end"], "calls overlap:\n{text}");
        }
        text.lines().map(Line::parse).collect()
    }
}

impl Line {
    fn parse(line: &str) -> Line {
        let fields: Vec<&str> = line.splitn(6, ' ').collect();
        let [event, _, _, _, epoch, rest] = fields[..] else { panic!("{line}") };
        Line { event: event.to_owned(), epoch: epoch.parse().unwrap(), rest: rest.to_owned() }
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

fn name() -> TaskName {
    TaskName::new("a").unwrap()
}

fn definition(source: &str) -> Definition {
    Definition {
        source: source.into(),
        modules: Modules::default(),
        digest: SourceDigest::of(source),
        enabled: true,
        hang: Duration::from_millis(1),
        restart: RestartPolicy::OnFailure,
        requires: hats_cluster::labels::Labels::default(),
        limits: Limits::default(),
        restart_at: None,
    }
}

fn ends(lines: &[Line]) -> Vec<(u64, &str)> {
    lines.iter().filter(|line| line.event == "end").map(|line| (line.epoch, line.rest.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_claim_waits_for_the_end_of_the_old_run() {
    let mut world = World::new().await;
    let mut lease = Lease::trusted_for_test();
    for round in 1..=30 {
        world.claim(&lease, BUSY);
        world.until("start", round, "main").await;
        let next = Lease::trusted_for_test();
        world.lose(&std::mem::replace(&mut lease, next));
    }
    let lines = world.end().await;
    let mains = ends(&lines).into_iter().filter(|(_, rest)| rest.ends_with(" main"));
    assert!(mains.clone().all(|(_, rest)| rest == "lost main"), "{lines:#?}");
    assert_eq!(mains.count(), 30);
    assert!(!lines.iter().any(|line| line.rest.contains("cleanup")));
}

#[tokio::test(flavor = "multi_thread")]
async fn granted_and_lost_at_once() {
    let mut world = World::new().await;
    for _ in 0..30 {
        let lease = Lease::trusted_for_test();
        world.claim(&lease, BUSY);
        world.lose(&lease);
    }
    let lease = Lease::trusted_for_test();
    world.claim(&lease, WAITS);
    world.until("start", 31, "main").await;
    let lines = world.end().await;
    assert_eq!(ends(&lines).last(), Some(&(31, "ok cleanup")));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_it_loads() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let claim = world.claim(&lease, "while (!thread.Stopped); function main() {} function cleanup() {}");
    world.until("start", 1, "load").await;
    world.stop(&claim, StopReason::Disabled);
    world.until("end", 1, "ok cleanup").await;
    // Free again: the next claim runs at once.
    world.claim(&lease, WAITS);
    world.until("start", 2, "main").await;
    let lines = world.end().await;
    assert_eq!(
        ends(&lines),
        [(1, "ok load"), (1, "ok cleanup"), (2, "ok load"), (2, "ok main"), (2, "ok cleanup")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_before_it_has_begun() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let claim = world.claim(&lease, "for (;;);");
    world.stop(&claim, StopReason::Deleted);
    world.claim(&lease, WAITS);
    world.until("start", 2, "main").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_while_it_stops() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let claim = world.claim(&lease, BUSY);
    world.until("start", 1, "main").await;
    world.stop(&claim, StopReason::Restart);
    world.change(&claim, "function main() { throw new Error('may not run') }");
    world.until("end", 1, "ok cleanup").await;
    let lines = world.end().await;
    assert_eq!(ends(&lines), [(1, "ok load"), (1, "interrupted main"), (1, "ok cleanup")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_twice_runs_the_newest() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let claim = world.claim(&lease, BUSY);
    world.until("start", 1, "main").await;
    world.change(&claim, "function main() { throw new Error('may not run') }");
    world.change(&claim, "function init() {} function main() { sleep(1e9); }");
    world.until("end", 1, "ok init").await;
    let lines = world.end().await;
    assert!(!lines.iter().any(|line| line.rest.contains("crashed")), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_while_it_stops() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let claim = world.claim(&lease, BUSY);
    world.until("start", 1, "main").await;
    world.stop(&claim, StopReason::Disabled);
    world.lose(&lease);
    world.until("end", 1, "lost main").await;
    let lines = world.end().await;
    assert_eq!(ends(&lines), [(1, "ok load"), (1, "lost main")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_from_us_it_ends_without_cleanup() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let claim = world.claim(&lease, WAITS);
    world.until("start", 1, "main").await;
    world.stop(&claim, StopReason::Moved);
    world.until("end", 1, "lost main").await;
    let lines = world.end().await;
    assert_eq!(ends(&lines), [(1, "ok load"), (1, "lost main")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_claim_that_has_ended_means_nothing() {
    let mut world = World::new().await;
    let lease = Lease::trusted_for_test();
    let old = world.claim(&lease, WAITS);
    world.until("start", 1, "main").await;
    world.stop(&old, StopReason::Disabled);
    world.until("end", 1, "ok cleanup").await;
    world.claim(&lease, WAITS);
    world.until("start", 2, "main").await;
    world.stop(&old, StopReason::Moved);
    world.change(&old, "function main() { throw new Error('may not run') }");
    let lines = world.end().await;
    assert_eq!(ends(&lines).last(), Some(&(2, "ok cleanup")));
}

//! Runs on real lanes, under a lease that the test can lose.

use std::sync::atomic::AtomicU32;

use hats_script::{EnvOverlay, LanesConfig, WorkerInfo};

use super::*;
use crate::call_log::{CallLog, Caller};

const LONG: Duration = Duration::from_secs(3600);

struct Worker;

impl WorkerInfo for Worker {
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

/// A definition, and the place where the test's scripts say how far they are: by asking for its state.
#[derive(Default)]
struct Fake {
    disables: AtomicU32,
    says: Notify,
}

impl Record for Fake {
    fn disable(&self) -> BoxFuture<Result<(), String>> {
        self.disables.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }
    fn state(&self) -> BoxFuture<Result<String, String>> {
        self.says.notify_one();
        Box::pin(async { Ok("running".to_owned()) })
    }
    fn status(&self) -> BoxFuture<Result<String, String>> {
        Box::pin(async { Err("no connection".to_owned()) })
    }
}

struct World {
    lanes: Lanes,
    lease: Lease,
    record: Arc<Fake>,
    drain_timeout: Duration,
    timeout: Option<Duration>,
    limits: Limits,
    audit: Option<Audit>,
    orders: watch::Sender<Wanted>,
}

impl World {
    fn new() -> World {
        let lanes = Lanes::start(&LanesConfig {
            preload: Arc::default(),
            count: 1,
            worker: Arc::new(Worker),
            env: EnvOverlay::default(),
            http: None,
            redis: None,
            sql: None,
            warm_bytes: LanesConfig::WARM_BYTES,
            preemption: Default::default(),
            on_turn: Arc::new(|_| {}),
        })
        .unwrap();
        World {
            lanes,
            lease: Lease::trusted_for_test(),
            record: Arc::default(),
            drain_timeout: LONG,
            timeout: Some(LONG),
            limits: Limits::default(),
            audit: None,
            orders: watch::channel(Wanted::GoOn).0,
        }
    }

    fn run(&self, source: &str) -> impl Future<Output = RunReport> + Send + 'static {
        let name = TaskName::new("j").unwrap();
        let job = Job {
            key: "c:Jobs:j".to_owned(),
            epoch: 7,
            tick_ms: 1_700_000_000_000,
            attempt: 3,
            source: source.into(),
            limits: self.limits,
            timeout: self.timeout,
            drain_timeout: self.drain_timeout,
            guard: self.lease.enter(&name),
            record: self.record.clone(),
            audit: self.audit.clone(),
            name,
        };
        let (lanes, wanted) = (self.lanes.clone(), self.orders.subscribe());
        async move { run(&lanes, job, wanted).await }
    }

    async fn outcome(&self, source: &str) -> Outcome {
        self.run(source).await.outcome
    }

    /// The outcome of a run to which something happens once its script has asked for its state.
    async fn outcome_after(&self, source: &str, event: impl FnOnce()) -> Outcome {
        let running = tokio::spawn(self.run(source));
        self.record.says.notified().await;
        event();
        running.await.unwrap().outcome
    }

    fn stop(&self) {
        self.orders.send_replace(Wanted::Stop);
    }
}

fn done(result: &str) -> Outcome {
    Outcome::Done(Some(result.to_owned()))
}

#[tokio::test]
async fn a_run_is_told_which_it_is_and_reports_what_came_of_it() {
    let world = World::new();
    let report = world
        .run(
            "console.log('load'); const { Key, Epoch, Tick, Attempt, Stopped } = job; \
             async function main() { console.warn('main'); return [Key, Epoch, Tick, Attempt, Stopped, thread === job]; }",
        )
        .await;
    assert_eq!(report.outcome, done("[\"c:Jobs:j\", 7, 2023-11-14T22:13:20.000Z, 3, false, true]"));
    assert_eq!(report.log, ["load", "warn: main"]);
    assert!(!report.waited.is_zero() && !report.duration.is_zero());
    assert_eq!(world.outcome("let x = 1").await, Outcome::Done(None));
}

#[tokio::test]
async fn its_own_faults_fail_it() {
    const TIMEOUT: &str = "TimeoutError: the run took longer than its limit of 50ms (Timeout)";
    let patient = World::new();
    let hasty = World { timeout: Some(Duration::from_millis(50)), ..World::new() };
    for (world, source, expected) in [
        (&patient, "function main() { throw new RangeError('far') }", "RangeError: far\n    at main (j:1:"),
        (&patient, "throw 5", "uncaught 5"),
        (&patient, "Promise.reject(new Error('left'))", "unhandled rejection: Error: left\n"),
        (&patient, "(", "SyntaxError: "),
        (&patient, "job.Status()", "Error: job.Status: no connection\n"),
        (&hasty, "for (;;);", TIMEOUT),
        (&hasty, "function main() { sleep(1e9) }", TIMEOUT),
    ] {
        let Outcome::Failed(error) = world.outcome(source).await else { panic!("{source}: did not fail") };
        assert!(error.to_string().starts_with(expected), "{source}: {error}");
    }
    let world = World { limits: Limits { memory: 1000, ..Limits::default() }, ..World::new() };
    let outcome = world.outcome("").await;
    assert!(
        matches!(&outcome, Outcome::Failed(RunError::Runtime(error)) if error.contains("MemoryLimit")),
        "{outcome:?}"
    );
    let long = RunError::Script(ScriptError::Thrown(hats_script::Thrown {
        name: "Error".to_owned(),
        message: "ä".repeat(20_000),
        stack: String::new(),
        rejected: false,
    }));
    assert!(long.to_string().len() <= super::super::ERROR_BYTES_MAX + '…'.len_utf8());
}

#[tokio::test]
async fn a_stop_is_seen_and_ends_waits() {
    let world = World::new();
    let outcome = world
        .outcome_after(
            "function main() { job.State(); return [sleep(1e9), job.Stopped, sleep(1e9)] }",
            || {
                world.stop();
            },
        )
        .await;
    assert_eq!(outcome, done("[false, true, false]"));
}

#[tokio::test]
async fn what_does_not_stop_is_interrupted() {
    let world = World { drain_timeout: Duration::from_millis(30), ..World::new() };
    for source in [
        "job.State(); for (;;);",
        "function main() { job.State(); for (;;) try { for (;;); } catch {} finally { for (;;); } }",
        "async function main() { job.State(); setInterval(() => {}, 10); await new Promise(() => {}) }",
    ] {
        world.orders.send_replace(Wanted::GoOn);
        assert_eq!(world.outcome_after(source, || world.stop()).await, Outcome::Stopped, "{source}");
    }
}

#[tokio::test]
async fn a_run_that_disables_its_job_goes_on_to_its_end() {
    let world = World::new();
    let outcome = world.outcome("function main() { job.Disable(); return [job.Stopped, sleep(1e9)] }").await;
    assert_eq!(outcome, done("[true, false]"));
    assert_eq!(world.record.disables.load(Ordering::Relaxed), 1);
    // But not for ever.
    let world = World { drain_timeout: Duration::from_millis(30), ..World::new() };
    assert_eq!(world.outcome("thread.Disable(); for (;;);").await, Outcome::Stopped);
}

#[tokio::test]
async fn a_lost_lease_kills_it() {
    let world = World::new();
    let source = "function main() { job.State(); try { sleep(1e9) } catch {} job.Disable() }";
    assert_eq!(world.outcome_after(source, || world.lease.lose_for_test()).await, Outcome::Lost);
    assert_eq!(world.record.disables.load(Ordering::Relaxed), 0);
    assert_eq!(world.outcome("job.Disable()").await, Outcome::Lost);
    assert_eq!(world.record.disables.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_forfeited_run_is_killed_although_the_lease_lives() {
    let world = World::new();
    let source = "function main() { job.State(); try { sleep(1e9) } catch {} job.Disable() }";
    let forfeit = || {
        world.orders.send_replace(Wanted::Forfeit);
    };
    assert_eq!(world.outcome_after(source, forfeit).await, Outcome::Lost);
    assert_eq!(world.record.disables.load(Ordering::Relaxed), 0);
    assert!(world.lease.is_trusted());
}

#[tokio::test]
async fn what_is_stopped_before_it_has_begun_never_begins() {
    let world = World::new();
    world.stop();
    let report = world.run("job.Disable()").await;
    assert_eq!((report.outcome, report.duration), (Outcome::Stopped, Duration::ZERO));
    world.orders.send_replace(Wanted::Forfeit);
    assert_eq!(world.outcome("job.Disable()").await, Outcome::Lost);
    assert_eq!(world.record.disables.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_any_more_is_killed() {
    let world = World::new();
    let running = tokio::spawn(world.run("job.State(); for (;;) sleep(1e9)"));
    world.record.says.notified().await;
    running.abort();
    while world.lanes.status().iter().any(|lane| lane.scripts() > 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn nobody_who_wants_something_is_needed() {
    let mut world = World::new();
    let running = tokio::spawn(world.run("function main() { job.State(); sleep(20); return 'end' }"));
    world.record.says.notified().await;
    world.orders = watch::channel(Wanted::GoOn).0;
    assert_eq!(running.await.unwrap().outcome, done("end"));
}

#[tokio::test]
async fn each_run_is_audited_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls");
    let audit = Audit { log: Arc::new(CallLog::open(&path).unwrap()), caller: Caller::new("j", 7) };
    let world = World { audit: Some(audit), ..World::new() };
    world.outcome("job.Disable(); function main() {}").await;
    world.outcome("throw 5").await;
    world.lease.lose_for_test();
    world.outcome("").await;
    let text = std::fs::read_to_string(&path).unwrap();
    let events: Vec<String> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            [&words[..1], &words[3..]].concat().join(" ")
        })
        .collect();
    assert_eq!(
        events,
        ["start j 7 run", "effect j 7", "end j 7 ok run", "start j 7 run", "end j 7 crashed run"]
    );
}

//! Scripts on real lanes: what each name does, how limits end, how scripts share a lane.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::{
    BoxFuture, EnvOverlay, JobInfo, Kind, Lanes, LanesConfig, Limits, ScriptHandle, TaskControl, WorkerInfo,
};

mod any_source;
#[cfg(feature = "redis")]
mod any_value;
mod calls;
#[cfg(all(feature = "http", feature = "redis"))]
mod conformance;
mod declared;
#[cfg(feature = "http")]
mod fetch;
#[cfg(all(feature = "http", feature = "redis", feature = "sql"))]
mod gate;
mod hostile;
#[cfg(feature = "http")]
mod http;
#[cfg(all(feature = "http", feature = "redis", feature = "sql"))]
mod metrics;
mod modules;
mod page;
#[cfg(feature = "redis")]
mod redis;
mod run;
mod sharing;
#[cfg(feature = "sql")]
mod sql;
#[cfg(all(feature = "http", feature = "redis", feature = "sql"))]
mod warm;
mod web;

/// A worker and a task as a test wants them.
struct Fake {
    kind: Kind,
    trusted_ms: AtomicU64,
    stopped: AtomicBool,
    unhealthy: AtomicBool,
    unreachable: AtomicBool,
    stops: AtomicU64,
    disables: AtomicU64,
    effects: AtomicU64,
}

impl Fake {
    /// A thread.
    fn new() -> std::sync::Arc<Self> {
        Self::of(Kind::Thread)
    }

    /// The second attempt of a job's run.
    fn job() -> std::sync::Arc<Self> {
        Self::of(Kind::Job(JobInfo { tick_ms: 1_700_000_000_500, attempt: 2 }))
    }

    fn of(kind: Kind) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            kind,
            trusted_ms: AtomicU64::new(60_000),
            stopped: AtomicBool::new(false),
            unhealthy: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
            stops: AtomicU64::new(0),
            disables: AtomicU64::new(0),
            effects: AtomicU64::new(0),
        })
    }
}

impl Fake {
    fn answer(&self, answer: &'static str) -> BoxFuture<Result<String, String>> {
        let unreachable = self.unreachable.load(Ordering::Relaxed);
        Box::pin(
            async move { if unreachable { Err("no connection".to_owned()) } else { Ok(answer.to_owned()) } },
        )
    }
}

impl TaskControl for Fake {
    fn name(&self) -> &str {
        "test.js"
    }
    fn kind(&self) -> Kind {
        self.kind
    }
    fn key(&self) -> &str {
        match self.kind {
            Kind::Thread => "default:Threads:test.js",
            Kind::Job(_) => "default:Jobs:test.js",
            Kind::Endpoint => "default:Endpoints:/test",
        }
    }
    fn epoch(&self) -> u64 {
        1_700_000_000_123
    }
    fn hang(&self) -> Duration {
        Duration::from_micros(1500)
    }
    fn trusted_for(&self) -> Duration {
        Duration::from_millis(self.trusted_ms.load(Ordering::Relaxed))
    }
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
    fn stop(&self) {
        self.stops.fetch_add(1, Ordering::Relaxed);
    }
    fn disable(&self) -> BoxFuture<Result<(), String>> {
        self.disables.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer("");
        Box::pin(async { answer.await.map(drop) })
    }
    fn state(&self) -> BoxFuture<Result<String, String>> {
        self.answer("running")
    }
    fn status(&self) -> BoxFuture<Result<String, String>> {
        self.answer("enabled")
    }
    fn effect(&self) {
        self.effects.fetch_add(1, Ordering::Relaxed);
    }
}

impl WorkerInfo for Fake {
    fn name(&self) -> &str {
        "w1"
    }
    fn cluster(&self) -> &str {
        "default"
    }
    fn shutting_down(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
    fn healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }
}

fn lanes(count: usize, #[cfg(feature = "redis")] redis: Option<crate::redis::Connections>) -> Lanes {
    Lanes::start(&LanesConfig {
        preload: std::sync::Arc::default(),
        count,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        #[cfg(feature = "http")]
        http: None,
        #[cfg(feature = "redis")]
        redis,
        #[cfg(feature = "sql")]
        sql: Some(crate::sql::Databases::new(crate::sql::Config::default()).unwrap()),
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: std::sync::Arc::new(|_| {}),
    })
    .unwrap()
}

#[cfg(feature = "http")]
fn lanes_with_http(count: usize, http: crate::http::Client) -> Lanes {
    Lanes::start(&LanesConfig {
        preload: std::sync::Arc::default(),
        count,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        http: Some(http),
        #[cfg(feature = "sql")]
        sql: None,
        #[cfg(feature = "redis")]
        redis: None,
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: std::sync::Arc::new(|_| {}),
    })
    .unwrap()
}

fn one_lane() -> Lanes {
    lanes(
        1,
        #[cfg(feature = "redis")]
        None,
    )
}

/// Starts `f` as a script's runner.
fn spawn<R: Send + 'static, F: FnOnce(&mut SyncVm<'_>) -> R + Send + 'static>(
    lanes: &Lanes,
    fake: &std::sync::Arc<Fake>,
    limits: Limits,
    f: F,
) -> (ScriptHandle, impl Future<Output = R> + Send + use<R, F>) {
    let task = ScriptTask { control: fake.clone(), limits };
    let (handle, ended) = lanes.spawn(task, async move |vm: &mut Vm| in_order(vm, f).await);
    (handle, async move { ended.await.unwrap() })
}

/// Runs `f` as straight code on a stack of its own, in which each call of the interpreter waits for its end.
async fn in_order<R>(vm: &mut Vm, f: impl FnOnce(&mut SyncVm<'_>) -> R) -> R {
    let mut f = Some(f);
    let mut vm = SyncVm(vm);
    let straight = || f.take().map(|f| f(&mut vm));
    let fiber = hats_fiber::Fiber::new(Handle::new(), 1 << 20, straight).unwrap();
    match fiber.await {
        Ok(result) => result.unwrap(),
        Err(FiberFailure::Panicked(panicked)) => panicked.resume(),
        Err(error) => panic!("{error}"),
    }
}

/// A script's interpreter whose calls block: tests read from top to bottom.
struct SyncVm<'a>(&'a mut Vm);

impl SyncVm<'_> {
    fn load(&mut self, source: &str, file: &str) -> Result<(), ScriptError> {
        hats_fiber::wait(self.0.load(source, file)).unwrap()
    }

    fn load_bundle(&mut self, bundle: &Bundle, file: &str) -> Result<(), ScriptError> {
        hats_fiber::wait(self.0.load_bundle(bundle, file)).unwrap()
    }

    fn has(&self, function: &str) -> bool {
        hats_fiber::wait(self.0.has(function)).unwrap()
    }

    fn call(&mut self, function: &str) -> Result<(), ScriptError> {
        hats_fiber::wait(self.0.call(function)).unwrap()
    }

    fn idle(&mut self, time: Option<Duration>) -> Result<Wake, ScriptError> {
        hats_fiber::wait(self.0.idle(time)).unwrap()
    }

    fn run_once(&mut self, bundle: &Bundle, file: &str, timeout: Option<Duration>) -> Run {
        hats_fiber::wait(self.0.run_once(bundle, file, timeout)).unwrap()
    }

    /// What an expression evaluates to, as text.
    fn eval(&mut self, expression: &str) -> Result<String, ScriptError> {
        let text = source::Text::new(&format!("(\n{expression}\n)"), "<eval>")?;
        let host = self.0.host.clone();
        let evaluated = self.0.call_through(
            |ctx| Ok(text.evaluate(ctx)?),
            |ctx, value| Ok(crate::modules::text_of(&host, ctx, &value)),
        );
        hats_fiber::wait(evaluated).unwrap()
    }
}

impl std::ops::Deref for SyncVm<'_> {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        self.0
    }
}

impl std::ops::DerefMut for SyncVm<'_> {
    fn deref_mut(&mut self) -> &mut Vm {
        self.0
    }
}

/// Loads a source and evaluates an expression on top of it.
async fn try_eval(
    lanes: &Lanes,
    source: &'static str,
    expression: &'static str,
) -> Result<String, ScriptError> {
    let fake = Fake::new();
    let run = spawn(lanes, &fake, Limits::default(), move |vm| {
        vm.load(source, "test.js")?;
        vm.eval(expression)
    });
    run.1.await
}

/// The error with which loading a source ends.
async fn load_error(source: &str, limits: Limits) -> String {
    let source = source.to_owned();
    let lanes = one_lane();
    let run = spawn(&lanes, &Fake::new(), limits, move |vm| vm.load(&source, "test.js"));
    run.1.await.unwrap_err().to_string()
}

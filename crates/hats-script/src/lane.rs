//! Lanes: the OS threads that scripts run on.
//!
//! A lane is one OS thread with a single-threaded executor. A script is put on the lane with the fewest scripts
//! and stays there for life. Others may have their own tasks polled between the scripts ([`Lanes::spawn_local`]): a page that
//! such a task has answered runs on the task's own lane, and nothing is handed from one OS thread to another. Each time a
//! lane comes round it says so ([`LanesConfig::on_turn`]); a lane that has not for long is stuck in native code, and
//! [`LaneStatus::script`] tells in whose. It is given nothing more as long as others are not stuck.
//!
//! On cancel and failure: dropping the last [`Lanes`] closes the lanes; scripts still on them are killed
//! ([`hats_fiber::Ask::Kill`]) and run to their end. A panic in a script's fiber ends that script alone.

mod load;
mod warm;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use hats_fiber::{Ask, Handle, Preemption, catch_panic, run_queue, turn};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local, yield_now};

use crate::bundle::{self, Library};
use crate::error::{Error, ScriptError};
use crate::host::{Kind, NoTask, TaskControl, WorkerInfo};
use crate::limits::Limits;
use crate::log_limit::LogLimit;
use crate::metrics::{LaneMetrics, Metrics};
use crate::modules::env::EnvOverlay;
#[cfg(feature = "http")]
use crate::modules::http;
#[cfg(feature = "redis")]
use crate::modules::redis;
#[cfg(feature = "sql")]
use crate::modules::sql;
use crate::page::{Page, PageRequest, PageResponse};
use crate::vm::Vm;

pub use self::load::Weight;

use self::load::Load;
use self::warm::{Scope, Warm, Work};

/// Stack of a lane's OS thread, on which the Redis client reads replies: it calls itself for each level of nesting, and
/// a script can have the server nest thousands of arrays. Pages that are never touched cost nothing.
const LANE_STACK_BYTES: usize = 16 << 20;
/// A library that takes longer is taken for broken.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(10);
/// A page is answered on the lane of whoever asks, unless another has so many fewer scripts: to hand it over costs more than
/// most pages take.
const NEARER_BY: usize = 8;
/// How often an idle lane says that it comes round.
const TURN_INTERVAL: Duration = Duration::from_millis(500);
/// A lane that has not come round for so long gets nothing more.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// What all scripts of a worker share.
#[derive(Clone)]
pub struct LanesConfig {
    /// Number of lanes; one per core is right.
    pub count: usize,
    /// The worker, as scripts see it.
    pub worker: Arc<dyn WorkerInfo>,
    /// Environment variables that scripts have set.
    pub env: EnvOverlay,
    /// The client for `http` and `fetch`; without it they fail.
    #[cfg(feature = "http")]
    pub http: Option<http::Client>,
    /// Connections for the `redis` module; without them its calls fail.
    #[cfg(feature = "redis")]
    pub redis: Option<redis::Connections>,
    /// Evaluated before every script's own source, in this order.
    pub preload: Arc<[Library]>,
    /// Databases for the `sql` module; without them its calls fail.
    #[cfg(feature = "sql")]
    pub sql: Option<sql::Databases>,
    /// Bytes of interpreters that each lane keeps ready for endpoints and jobs, to be reset after each request or run. 0: each
    /// gets a new one.
    pub warm_bytes: usize,
    /// How scripts that compute are made to give way.
    pub preemption: Preemption,
    /// Called with the lane's number at least every half second while the lane comes round.
    pub on_turn: Arc<dyn Fn(usize) + Send + Sync>,
}

/// The lanes of a worker. Cheap to clone; the last clone dropped closes them.
#[derive(Clone)]
pub struct Lanes {
    lanes: Arc<Vec<Lane>>,
    metrics: Metrics,
}

/// A script to run.
pub struct ScriptTask {
    /// The task that the script is the body of.
    pub control: Arc<dyn TaskControl>,
    /// What it may use.
    pub limits: Limits,
}

/// Asks things of one running script, from any OS thread.
#[derive(Clone, Debug)]
pub struct ScriptHandle {
    fiber: Handle,
}

/// What a lane is doing, for whoever watches it from outside.
pub struct LaneStatus {
    /// Scripts that live on the lane, from the moment that they are put there, by a number of their own.
    scripts: Mutex<HashMap<usize, Living>>,
    numbers: AtomicUsize,
    /// Tasks of others that are polled on the lane.
    guests: AtomicUsize,
    /// The number of the script that the lane is in the middle of; 0 for none.
    current: AtomicUsize,
    begun: Instant,
    /// When it has come round last, in milliseconds since it begun.
    came_round: AtomicU64,
}

/// A script that lives on a lane.
struct Living {
    control: Arc<dyn TaskControl>,
    load: Arc<Load>,
}

/// What every lane hands to the scripts on it.
pub(crate) struct LaneContext {
    pub(crate) status: Arc<LaneStatus>,
    pub(crate) worker: Arc<dyn WorkerInfo>,
    pub(crate) env: EnvOverlay,
    #[cfg(feature = "http")]
    pub(crate) http: Option<http::Client>,
    pub(crate) preload: Arc<[Library]>,
    #[cfg(feature = "redis")]
    pub(crate) redis: Option<redis::LaneConnection>,
    #[cfg(feature = "sql")]
    pub(crate) sql: Option<sql::Databases>,
    /// The runtime for I/O that a lane does not drive itself.
    #[cfg_attr(
        not(any(feature = "http", feature = "redis", feature = "sql")),
        expect(dead_code, reason = "no other module does such I/O yet")
    )]
    pub(crate) io: tokio::runtime::Handle,
    /// The task of who has none.
    pub(crate) nobody: Arc<dyn TaskControl>,
    pub(crate) metrics: Arc<LaneMetrics>,
    /// Interpreters that wait for their next work.
    warm: Warm,
}

impl LanesConfig {
    /// A good number of [`LanesConfig::warm_bytes`]: 64 MiB, which is some 150 interpreters that have not been asked for much.
    pub const WARM_BYTES: usize = 64 << 20;
}

thread_local! {
    /// The lane that this OS thread is.
    static HERE: RefCell<Option<Rc<LaneContext>>> = const { RefCell::new(None) };
    /// When this lane began to poll the script that it polls, or the last one.
    static POLLED_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When this lane began to poll the script that it polls.
pub(crate) fn polled_at() -> Instant {
    POLLED_AT.get().unwrap_or_else(Instant::now)
}

/// Run on the lane, inside its set of tasks.
type Job = Box<dyn FnOnce(&Rc<LaneContext>) + Send>;

struct Lane {
    // None once closing has begun, so that the lane's loop ends.
    jobs: Option<mpsc::UnboundedSender<Job>>,
    status: Arc<LaneStatus>,
    metrics: Arc<LaneMetrics>,
    os_thread: Option<thread::JoinHandle<()>>,
}

impl Lanes {
    /// Starts the lanes. Called inside a tokio runtime, which becomes the one that I/O runs on.
    ///
    /// # Errors
    /// When an OS thread or its executor cannot be had.
    pub fn start(config: &LanesConfig) -> Result<Self, Error> {
        let io = tokio::runtime::Handle::current();
        let log_limit = Arc::new(LogLimit::new(io.clone()));
        let lanes = (0..config.count.max(1))
            .map(|number| Lane::start(number, config.clone(), io.clone(), log_limit.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let metrics = Metrics::new(lanes.iter().map(|lane| lane.metrics.clone()).collect(), config);
        Ok(Self { lanes: Arc::new(lanes), metrics })
    }

    /// Runs `f` with an interpreter of its own, on the least busy lane. The future resolves when the
    /// script has really ended; dropping it leaves the script running.
    pub fn spawn<R: Send + 'static, F: AsyncFnOnce(&mut Vm) -> R + Send + 'static>(
        &self,
        task: ScriptTask,
        f: F,
    ) -> (ScriptHandle, impl Future<Output = Result<R, Error>> + Send + use<R, F>) {
        let fiber = Handle::new();
        let handle = ScriptHandle { fiber: fiber.clone() };
        let (result, ended) = oneshot::channel();
        self.put(task.control.clone(), move |place, context| {
            let context = context.clone();
            spawn_local(async move {
                // The receiver may be gone: then nobody wants to know how the script ended.
                let _ = result.send(run(place, context, fiber, task, f).await);
            });
        });
        (handle, async move { ended.await.unwrap_or(Err(Error::Closed)) })
    }

    /// As [`Lanes::spawn`], for work that is over with its call, such as a run of a job: the interpreter may be one that has been used before and is as new again.
    pub fn spawn_run<R: Send + 'static, F: AsyncFnOnce(&mut Vm) -> R + Send + 'static>(
        &self,
        task: ScriptTask,
        f: F,
    ) -> (ScriptHandle, impl Future<Output = Result<R, Error>> + Send + use<R, F>) {
        self.spawn_warm(Scope::run(&task), task.control, f)
    }

    fn spawn_warm<R: Send + 'static, F: AsyncFnOnce(&mut Vm) -> R + Send + 'static>(
        &self,
        scope: Scope,
        control: Arc<dyn TaskControl>,
        f: F,
    ) -> (ScriptHandle, impl Future<Output = Result<R, Error>> + Send + use<R, F>) {
        let fiber = Handle::new();
        let handle = ScriptHandle { fiber: fiber.clone() };
        let (result, ended) = oneshot::channel();
        self.put(control.clone(), move |place, context| {
            let run: warm::Run = Box::new(move |vm: Result<&mut Vm, Error>| {
                Box::pin(async move {
                    let ran = match vm {
                        Ok(vm) => catching(f(vm)).await,
                        Err(error) => Err(error),
                    };
                    let is_fit = ran.is_ok();
                    let tell: Box<dyn FnOnce()> = Box::new(move || {
                        // The receiver may be gone: then nobody wants to know how the script ended.
                        let _ = result.send(ran);
                    });
                    (is_fit, tell)
                })
            });
            Warm::serve(context, scope, Work { fiber, control, place, run });
        });
        (handle, async move { ended.await.unwrap_or(Err(Error::Closed)) })
    }

    /// Puts something on the lane with the fewest scripts, or on this one if it has hardly more.
    fn put(&self, control: Arc<dyn TaskControl>, job: impl FnOnce(Place, &Rc<LaneContext>) + Send + 'static) {
        let fewest = |lane: &&Lane| (lane.is_stuck(), lane.status.scripts());
        let Some(lane) = self.lanes.iter().min_by_key(fewest) else { return };
        let here = HERE.with_borrow(Clone::clone).filter(|here| {
            self.lanes.iter().any(|lane| Arc::ptr_eq(&lane.status, &here.status))
                && here.status.scripts() <= lane.status.scripts() + NEARER_BY
        });
        if let Some(here) = here {
            return job(Place::new(here.status.clone(), control), &here);
        }
        let place = Place::new(lane.status.clone(), control);
        lane.send(Box::new(move |context| job(place, context)));
    }

    /// Has a future polled on a lane, to its end, between the scripts of that lane: the lane with the fewest such futures.
    /// `make` is called there. When the lanes are closed it is dropped, or not even made.
    pub fn spawn_local<F: Future<Output = ()> + 'static>(&self, make: impl FnOnce() -> F + Send + 'static) {
        let fewest = |lane: &&Lane| (lane.is_stuck(), lane.status.guests.load(Ordering::Relaxed));
        let Some(lane) = self.lanes.iter().min_by_key(fewest) else { return };
        let guest = Guest::new(lane.status.clone());
        lane.send(Box::new(move |_| {
            let future = make();
            spawn_local(async move {
                let _guest = guest;
                future.await;
            });
        }));
    }

    /// Runs a page for one request, in a scope that no other request sees. The future resolves when the script has really
    /// ended; [`ScriptHandle::interrupt`] ends it when nobody wants the answer any more.
    pub fn answer(
        &self,
        page: &Arc<Page>,
        control: Arc<dyn TaskControl>,
        request: PageRequest,
    ) -> (ScriptHandle, impl Future<Output = Result<Result<PageResponse, ScriptError>, Error>> + Send + use<>)
    {
        let (scope, page) = (Scope::page(page), page.clone());
        self.spawn_warm(scope, control, async move |vm: &mut Vm| {
            vm.open(&page).await?;
            vm.answer(&page, request).await
        })
    }

    /// Evaluates the libraries in a scope that is thrown away: scripts would fail of one that is broken.
    ///
    /// # Errors
    /// [`Error::Library`] names the first that cannot be used.
    pub async fn try_libraries(&self, limits: Limits) -> Result<(), Error> {
        let limits = Limits { call_timeout: Some(LIBRARY_TIMEOUT), ..limits };
        let task = ScriptTask { control: Arc::new(NoTask), limits };
        let (_, ended) = self.spawn(task, async |vm: &mut Vm| vm.try_libraries().await);
        ended.await?.map_err(|(library, error)| {
            let imports = bundle::imports(&library.source, &library.name);
            let is_module = matches!(error, ScriptError::Thrown(_)) && imports.no_module.is_none();
            let hint = match error {
                ScriptError::Timeout(_) => "\nThis limit of libraries is no setting.",
                _ if is_module && (!imports.found.is_empty() || library.source.contains("export")) => {
                    "\nIt seems to be an ES module. Preload a build of it that is a script (UMD or IIFE), or import it."
                }
                _ => "",
            };
            Error::Library { library: library.name, error, hint }
        })
    }

    /// What is counted of the scripts; also once the lanes have gone.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// What each lane is doing.
    #[must_use]
    pub fn status(&self) -> Vec<Arc<LaneStatus>> {
        self.lanes.iter().map(|lane| lane.status.clone()).collect()
    }
}

#[cfg(test)]
impl Lanes {
    /// Whether any lane is stuck.
    pub(crate) fn is_any_stuck(&self) -> bool {
        self.lanes.iter().any(Lane::is_stuck)
    }

    /// How many interpreters of the first lane wait for work, and how many bytes they take, once all that was handed to the
    /// lane before has begun.
    pub(crate) async fn idle(&self) -> (usize, usize) {
        let (tell, told) = oneshot::channel();
        self.lanes[0].send(Box::new(move |context| {
            let context = context.clone();
            spawn_local(async move {
                // Those who have just told their results are about to be reset.
                tokio::task::yield_now().await;
                let _ = tell.send(context.warm.idle());
            });
        }));
        told.await.unwrap_or_default()
    }
}

async fn run<R: 'static>(
    place: Place,
    context: Rc<LaneContext>,
    handle: Handle,
    task: ScriptTask,
    f: impl AsyncFnOnce(&mut Vm) -> R,
) -> Result<R, Error> {
    let load = place.load.clone();
    let status = place.status.clone();
    let script = async move {
        // Scripts that are new take turns with those that compute.
        turn().await;
        let mut vm = Vm::new(task, context, handle)?;
        load.has_heap(vm.heap_gauge());
        catching(f(&mut vm)).await
    };
    OnLane { script: Box::pin(script), place: Rc::new(RefCell::new(Some(place))), status }.await
}

/// What a future comes to, or its panic as an error.
async fn catching<R>(future: impl Future<Output = R>) -> Result<R, Error> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_panic(|| future.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(panicked) => Poll::Ready(Err(Error::Panicked(panicked.to_string()))),
    })
    .await
}

impl ScriptHandle {
    /// The task is being stopped: sleeps and blocking waits of the script return early.
    pub fn interrupt_waits(&self) {
        self.fiber.ask(Ask::EndWaits);
    }

    /// Ends the call in hand with an error that the script cannot catch.
    pub fn interrupt(&self) {
        self.fiber.ask(Ask::Interrupt);
    }

    /// Ends the script at once and for good, without any further effect: its lease is lost.
    pub fn kill(&self) {
        self.fiber.ask(Ask::Kill);
    }

    /// Wakes an idle script so that its runner looks at what has changed.
    pub fn wake(&self) {
        self.fiber.wake();
    }
}

impl LaneStatus {
    fn new() -> Self {
        Self {
            scripts: Mutex::default(),
            numbers: AtomicUsize::new(0),
            guests: AtomicUsize::new(0),
            current: AtomicUsize::new(0),
            begun: Instant::now(),
            came_round: AtomicU64::new(0),
        }
    }

    fn come_round(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.came_round.store(now, Ordering::Relaxed);
    }

    fn since_round(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.came_round.load(Ordering::Relaxed)))
    }

    /// The kind and the name of the script that the lane is in the middle of right now.
    #[must_use]
    pub fn script(&self) -> Option<(Kind, String)> {
        let current = self.current.load(Ordering::Relaxed);
        self.table().get(&current).map(|living| (living.control.kind(), living.control.name().to_owned()))
    }

    /// What each of the threads that live on the lane weighs.
    #[must_use]
    pub fn weights(&self) -> Vec<Weight> {
        let table = self.table();
        let threads = table.values().filter(|living| living.control.kind() == Kind::Thread);
        let weight = |living: &Living| Weight {
            task: living.control.name().to_owned(),
            time: living.load.time(),
            heap: living.load.heap(),
        };
        threads.map(weight).collect()
    }

    /// How many scripts live on the lane.
    #[must_use]
    pub fn scripts(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Living>> {
        // Nothing that holds this lock can panic half-way through a change.
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn start(
        number: usize,
        config: LanesConfig,
        io: tokio::runtime::Handle,
        log_limit: Arc<LogLimit>,
    ) -> Result<Self, Error> {
        let no_lane = |source| Error::Lane { lane: number, source };
        let (jobs, inbox) = mpsc::unbounded_channel();
        let status = Arc::new(LaneStatus::new());
        let metrics = Arc::new(LaneMetrics::new(config.warm_bytes, log_limit));
        let counted = metrics.clone();
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Timers and I/O are looked at after this many polls, so that they keep their pace beside scripts
            // that use up their whole time slice at each poll.
            .event_interval(7)
            .build()
            .map_err(no_lane)?;
        let (tell, told) = std::sync::mpsc::channel();
        let os_thread = thread::Builder::new()
            .name(format!("lane-{number}"))
            .stack_size(LANE_STACK_BYTES)
            .spawn({
                let status = status.clone();
                move || {
                    let ticks = match hats_arena::attach(config.preemption) {
                        Ok(ticks) => ticks,
                        Err(error) => return drop(tell.send(Err(error))),
                    };
                    if let Some(why) = ticks.why_not().filter(|_| number == 0) {
                        tracing::warn!(
                            reason = %why,
                            "scripts give way at the ends of host calls only: a native operation without end stalls its lane"
                        );
                    }
                    let _ = tell.send(Ok(()));
                    lane_main(number, &executor, config, status, io, counted, inbox);
                    drop(ticks);
                }
            })
            .map_err(no_lane)?;
        match told.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Error::Preemption(error.to_string())),
            Err(error) => return Err(no_lane(std::io::Error::other(error))),
        }
        Ok(Self { jobs: Some(jobs), status, metrics, os_thread: Some(os_thread) })
    }

    /// It is stuck in native code, or has gone.
    fn is_stuck(&self) -> bool {
        self.status.since_round() > STUCK_AFTER
            || self.jobs.as_ref().is_none_or(mpsc::UnboundedSender::is_closed)
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A lane that is gone drops the job, and with it whatever tells of its end.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs = None;
        // The lane may not wait for itself, if a script's end drops the last `Lanes`.
        if let Some(os_thread) = self.os_thread.take().filter(|t| t.thread().id() != thread::current().id()) {
            let _ = os_thread.join();
        }
    }
}

fn lane_main(
    number: usize,
    executor: &tokio::runtime::Runtime,
    config: LanesConfig,
    status: Arc<LaneStatus>,
    io: tokio::runtime::Handle,
    metrics: Arc<LaneMetrics>,
    mut inbox: mpsc::UnboundedReceiver<Job>,
) {
    let LanesConfig { worker, env, preload, warm_bytes, on_turn, .. } = config;
    let local = LocalSet::new();
    executor.block_on(local.run_until(async {
        let context = Rc::new(LaneContext {
            status,
            worker,
            env,
            #[cfg(feature = "http")]
            http: config.http,
            preload,
            #[cfg(feature = "redis")]
            redis: config.redis.and_then(|connections| match connections.for_lane(metrics.clone()) {
                Ok(connection) => Some(connection),
                Err(error) => {
                    tracing::error!(%error, lane = number, "scripts of this lane have no Redis");
                    None
                }
            }),
            #[cfg(feature = "sql")]
            sql: config.sql,
            io,
            nobody: Arc::new(NoTask),
            warm: Warm::new(warm_bytes, metrics.clone()),
            metrics,
        });
        HERE.set(Some(context.clone()));
        spawn_local(run_queue(yield_now));
        let mut turns = tokio::time::interval(TURN_INTERVAL);
        loop {
            tokio::select! {
                job = inbox.recv() => match job {
                    Some(job) => job(&context),
                    None => break,
                },
                due = turns.tick() => {
                    context.metrics.lateness.record_alone(due.elapsed());
                    context.status.come_round();
                    context.warm.forget_dead();
                    context.metrics.preempted(hats_fiber::stats());
                    on_turn(number);
                }
            }
        }
        // Those who wait for work have come to their end.
        context.warm.close();
        HERE.set(None);
    }));
    // Dropping the set drops the scripts that are left, each of which is killed. Those that wait run to the end of their host
    // call first, which may ask for a timer of the executor.
    let _entered = executor.enter();
    drop(local);
}

/// What runs a script, while it is polled on its lane.
struct OnLane<F> {
    script: Pin<Box<F>>,
    // Given up after the script: fields are dropped in order. None while the script waits for work.
    place: Rc<RefCell<Option<Place>>>,
    status: Arc<LaneStatus>,
}

impl<F: Future> Future for OnLane<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.place.borrow().as_ref().map_or(0, |place| place.number);
        self.status.current.store(number, Ordering::Relaxed);
        let began = load::now();
        POLLED_AT.set(Some(Instant::now()));
        let poll = self.script.as_mut().poll(context);
        if let Some(place) = &*self.place.borrow() {
            place.load.ran_since(began);
        }
        self.status.current.store(0, Ordering::Relaxed);
        poll
    }
}

/// One of those that are polled on a lane without being a script.
struct Guest(Arc<LaneStatus>);

impl Guest {
    fn new(status: Arc<LaneStatus>) -> Self {
        status.guests.fetch_add(1, Ordering::Relaxed);
        Self(status)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A script's place among those of its lane, for as long as it lives.
struct Place {
    status: Arc<LaneStatus>,
    number: usize,
    load: Arc<Load>,
}

impl Place {
    fn new(status: Arc<LaneStatus>, control: Arc<dyn TaskControl>) -> Self {
        let number = status.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let load = Arc::<Load>::default();
        status.table().insert(number, Living { control, load: load.clone() });
        Self { status, number, load }
    }
}

impl Place {
    /// The lane is in the middle of this script from now on.
    fn show(&self) {
        self.status.current.store(self.number, Ordering::Relaxed);
    }

    /// The lane is in the middle of none.
    fn hide(self) {
        self.status.current.store(0, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.status.table().remove(&self.number);
    }
}

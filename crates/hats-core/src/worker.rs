//! The worker: what it is made of, in which order the parts start, and what keeps them together while it runs.
//!
//! ```text
//!  health port ─► embedded Redis? ─► cluster (session, claims) ─► lanes (interpreters) ─► scheduler ─► registration of the scripts
//! ```
//!
//! Each part needs the one before it; [`shutdown`](crate::shutdown) takes them down in the opposite order. What must
//! hold: whatever fails on the way up, [`Worker::run`] returns with everything stopped that had been started. The health
//! port is there before Redis is reached, and ends last.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hats_cluster::Handle;
use hats_cluster::address::RedisConfig;
use hats_cluster::config::{Capacity, OnHardStop};
use hats_cluster::name::{Task, TaskKind};
use hats_cluster::watchdog::{HardStop, Stamp};
use hats_health::Health;
use hats_scheduler::{CallLog, Scheduler, Why};
use hats_script::egress::Egress;
use hats_script::{EnvOverlay, Lanes, LanesConfig, WorkerInfo, http, redis, sql};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::config::Config;
use crate::health::{Counted, Vigil};
use crate::memory::{self, MemoryGate};
use crate::metrics::Metrics;
use crate::registration::Registrar;
use crate::shutdown::{self, Parts};

/// A script's command to Redis is given up after this; the lease may end it sooner.
const SCRIPT_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A worker of a cluster, ready to run. See [`Worker::builder`].
#[derive(Debug)]
pub struct Worker {
    config: Config,
    on_hard_stop: Option<HardStopHook>,
    metrics: Option<Metrics>,
}

/// What a worker is made with.
#[derive(Debug, Default)]
pub struct Builder {
    config: Option<Config>,
    on_hard_stop: Option<HardStopHook>,
    metrics: Option<Metrics>,
}

/// Why a worker stopped in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// It was asked to, by the token given to [`Worker::run`].
    Asked,
    /// Its row in Redis says `Status=disabled`.
    Disabled,
}

impl Worker {
    /// Starts with the default configuration and the default hard stop.
    ///
    /// ```
    /// # fn main() -> Result<(), hats_core::Error> {
    /// # #[cfg(feature = "embedded-redis")]
    /// let worker = hats_core::Worker::builder().config(hats_core::Config::default()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs until `shutdown` is cancelled or the worker is disabled in Redis; then drains: takes nothing new, lets the
    /// scripts finish the call in hand, releases everything and closes the session.
    ///
    /// Needs a multi-thread tokio runtime. Scripts run on OS threads of their own. Give the runtime's OS threads stacks
    /// of 16 MiB (`thread_stack_size`) if scripts are not to be trusted: the client reads a reply that is nested
    /// thousands deep by calling itself, and what does not fit the stack ends the process.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Refused`] when it cannot be started as configured, [`Error::Unreachable`] when
    /// Redis does not answer within 10 s at the start, [`Error::System`] when the system has no OS threads left,
    /// [`Error::HardStop`] when a script could not be ended: the process should end now.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped in the middle, scripts are killed without `cleanup()` and peers take over only when the
    /// session has run out. Cancel `shutdown` instead.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Stopped, Error> {
        // A child: the end of this worker is nobody else's.
        let shutdown = shutdown.child_token();
        // Answers before Redis is reached, and as long as anything else is there.
        let vigil = Vigil::begin(&self.config, self.metrics.clone(), &shutdown).await?;
        let stopped = self.work(&vigil, shutdown).await;
        vigil.end().await;
        stopped
    }

    async fn work(self, vigil: &Vigil, shutdown: CancellationToken) -> Result<Stopped, Error> {
        let mut memory = MemoryGate::new(self.config.memory_budget, &self.config.system_root);
        let Some((parts, mut scheduler)) = start(self, vigil, &memory, &shutdown).await? else {
            return Ok(Stopped::Asked);
        };
        let why = tokio::select! {
            why = scheduler.run(&shutdown) => why,
            // Registration goes on in the background, for as long as the worker runs.
            never = parts.registrar.run() => match never {},
            never = memory.run() => match never {},
        };
        // Scripts see it as `worker.ShuttingDown`, whoever asked for it.
        shutdown.cancel();
        shutdown::stop(parts, scheduler).await?;
        match why {
            Why::Asked => Ok(Stopped::Asked),
            Why::Disabled => Ok(Stopped::Disabled),
            Why::ClusterGone => Err(Error::Failed("the coordinator has ended unexpectedly".to_owned())),
        }
    }
}

impl Builder {
    /// The settings. Default [`Config::default`].
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Called on an OS thread of its own when a lost session's script does not end in time. It is expected to end the
    /// process: after it returns, two workers may run one thread. Default: the process exits with 70.
    #[must_use]
    pub fn on_hard_stop(mut self, hook: impl Fn(&HardStop) + Send + Sync + 'static) -> Self {
        self.on_hard_stop = Some(HardStopHook(Arc::new(hook)));
        self
    }

    /// What `/metrics` of the health port says beside the worker's health. Default nothing.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] names the first setting that cannot be used.
    pub fn build(self) -> Result<Worker, Error> {
        let config = self.config.unwrap_or_default();
        config.check()?;
        Ok(Worker { config, on_hard_stop: self.on_hard_stop, metrics: self.metrics })
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stopped::Asked => "stopped as asked",
            Stopped::Disabled => "stopped: the worker is disabled",
        })
    }
}

/// Starts everything, each part with what it needs of those before it. None: asked to stop before Redis had answered.
async fn start(
    worker: Worker,
    vigil: &Vigil,
    memory: &MemoryGate,
    shutdown: &CancellationToken,
) -> Result<Option<(Parts, Scheduler)>, Error> {
    let Worker { config, on_hard_stop, .. } = worker;
    let call_log = config.call_log.as_deref().map(CallLog::open).transpose()?.map(Arc::new);

    // A port that is taken is found out before anything else is begun.
    let endpoints = match config.host {
        true => Some(hats_endpoint::Listener::bind((config.bind, config.host_port).into()).await?),
        false => None,
    };
    let home = RedisHome::find(&config)?;
    let (cluster, events) = tokio::select! {
        started = hats_cluster::start(cluster_config(&config, &home, vigil, memory, on_hard_stop)) => {
            started.map_err(|error| Error::at(error, &home.config))?
        }
        // Redis may be a long time coming, and nothing runs yet that would have to end in good order.
        () = shutdown.cancelled() => return Ok(None),
    };
    let (lanes, script_redis, script_sql) = match start_lanes(&config, &home, &cluster, vigil, shutdown).await
    {
        Ok(started) => started,
        Err(error) => {
            cluster.close().await;
            return Err(error);
        }
    };
    let endpoint_config = endpoint_config(&config);
    let scheduler =
        Scheduler::new(cluster.clone(), events, lanes.clone(), scheduler_config(&config, call_log));
    let session_lost = scheduler.session_lost();
    let registrar = Registrar::new(
        cluster.clone(),
        config.scripts,
        config.jobs,
        config.endpoints,
        config.run_now,
        session_lost,
    )?;
    let endpoints = endpoints.map(|listener| {
        let health = vigil.health();
        let parts = hats_endpoint::Parts {
            cluster: cluster.clone(),
            lanes: lanes.clone(),
            is_healthy: Arc::new(move || health.borrow().is_healthy()),
        };
        hats_endpoint::Server::start(listener, endpoint_config, parts)
    });
    let counted = Counted {
        scripts: lanes.metrics(),
        endpoints: endpoints.as_ref().map(hats_endpoint::Server::metrics),
    };
    vigil.started(cluster.clone(), script_redis.clone(), counted, &lanes);
    let parts = Parts {
        endpoints,
        #[cfg(feature = "embedded-redis")]
        embedded_redis: home.embedded,
        cluster,
        lanes,
        script_redis,
        script_sql,
        registrar,
    };
    Ok(Some((parts, scheduler)))
}

/// Where Redis is, and the server itself if it is ours.
struct RedisHome {
    config: RedisConfig,
    #[cfg(feature = "embedded-redis")]
    embedded: Option<hats_embedded_redis::Server>,
}

impl RedisHome {
    fn find(config: &Config) -> Result<Self, Error> {
        if let Some(redis) = &config.redis {
            return Ok(RedisHome {
                config: redis.clone(),
                #[cfg(feature = "embedded-redis")]
                embedded: None,
            });
        }
        Self::embedded()
    }

    /// Whether it is a server of this worker's own, which has only just begun.
    fn is_own(&self) -> bool {
        #[cfg(feature = "embedded-redis")]
        return self.embedded.is_some();
        #[cfg(not(feature = "embedded-redis"))]
        return false;
    }

    #[cfg(feature = "embedded-redis")]
    fn embedded() -> Result<Self, Error> {
        let server =
            hats_embedded_redis::Server::start().map_err(|error| Error::System(error.to_string()))?;
        let url = server.url();
        tracing::warn!(
            %url,
            "no redis-address: started a Redis-compatible server inside this worker; it is for development and forgets \
             everything on exit. Other workers and redis-cli can join through the URL"
        );
        let address = url
            .parse()
            .map_err(|error| Error::System(format!("embedded redis at {}: {error}", server.address())))?;
        Ok(RedisHome { config: RedisConfig::new(address), embedded: Some(server) })
    }

    #[cfg(not(feature = "embedded-redis"))]
    fn embedded() -> Result<Self, Error> {
        Err(Error::Config("redis-address is missing, and this build has no embedded Redis".to_owned()))
    }
}

fn cluster_config(
    config: &Config,
    home: &RedisHome,
    vigil: &Vigil,
    memory: &MemoryGate,
    hook: Option<HardStopHook>,
) -> hats_cluster::Config {
    let mut cluster = hats_cluster::Config::new(
        config.cluster_name.clone(),
        config.worker_name.clone(),
        home.config.clone(),
    );
    cluster.lease = config.lease;
    cluster.stall_after = config.stall_after;
    cluster.capacity = Capacity {
        weight: config.weight,
        threads_max: config.max_threads.map(NonZeroUsize::get),
        labels: config.labels.clone(),
    };
    cluster.admission = memory.admission();
    cluster.condition = vigil.condition();
    cluster.weigh = vigil.weigh();
    if home.is_own() {
        // Nobody else can be there yet.
        cluster.settle = Duration::ZERO;
    }
    if let Some(HardStopHook(hook)) = hook {
        cluster.on_hard_stop = hook;
    }
    cluster
}

fn scheduler_config(config: &Config, call_log: Option<Arc<CallLog>>) -> hats_scheduler::Config {
    let limits = script_limits(config);
    hats_scheduler::Config { drain_timeout: config.drain_timeout, limits, call_log, ..Default::default() }
}

fn endpoint_config(config: &Config) -> hats_endpoint::Config {
    let mut endpoint = hats_endpoint::Config::default();
    endpoint.body_limit = config.endpoint_body_limit;
    endpoint.concurrency = config.endpoint_concurrency.get();
    endpoint.limits = script_limits(config);
    endpoint.drain_timeout = config.drain_timeout;
    endpoint
}

fn script_limits(config: &Config) -> hats_script::Limits {
    let limits = &config.limits;
    hats_script::Limits {
        memory: limits.memory,
        stack: limits.stack,
        source: limits.source,
        http_body: limits.http_body,
        log_line: limits.log_line,
        call_timeout: limits.call_timeout,
    }
}

fn http_settings(config: &Config, egress: Egress) -> http::Settings {
    http::Settings { egress, env_proxy: config.http_proxy, fence: config.http_fence }
}

/// Starts the lanes, each with a stamp of its own: a lane that is stuck in native code must not look alive because
/// another one comes round.
async fn start_lanes(
    config: &Config,
    home: &RedisHome,
    cluster: &Handle,
    vigil: &Vigil,
    shutdown: &CancellationToken,
) -> Result<(Lanes, redis::Connections, sql::Databases), Error> {
    // Connections of their own: no script's traffic goes over one that the cluster relies on.
    let builder = home.config.builder(SCRIPT_COMMAND_TIMEOUT)?;
    let script_redis = redis::Connections::connect(&builder, config.redis_blocking_connections)
        .await
        .map_err(|error| Error::Unreachable(error.to_string()))?;
    let egress = config.egress(vigil.port());
    let script_http = http::Client::new(&http_settings(config, egress.clone()))
        .map_err(|error| Error::System(error.to_string()))?;
    let script_sql = sql::Databases::new(sql::Config {
        sqlite_dir: config.sqlite_dir.clone(),
        connections: config.sql_connections,
        egress,
    })
    .map_err(|error| Error::Config(format!("sqlite-dir {error}")))?;
    let info = Info {
        name: config.worker_name.to_string(),
        cluster: config.cluster_name.to_string(),
        shutdown: shutdown.clone(),
        health: vigil.health(),
    };
    // The stamps name what a lane is stuck in, so they can only be made when the lanes are there.
    let stamps: Arc<OnceLock<Vec<Stamp>>> = Arc::default();
    let on_turn = {
        let stamps = stamps.clone();
        move |lane: usize| {
            if let Some(stamp) = stamps.get().and_then(|stamps| stamps.get(lane)) {
                stamp.touch();
            }
        }
    };
    let count = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let lanes = Lanes::start(&LanesConfig {
        count,
        worker: Arc::new(info),
        env: EnvOverlay::default(),
        http: Some(script_http),
        redis: Some(script_redis.clone()),
        preload: config.preload.clone().into(),
        sql: Some(script_sql.clone()),
        warm_bytes: memory::warm_bytes(config, count),
        preemption: config.preemption,
        on_turn: Arc::new(on_turn),
    })
    .map_err(|error| Error::System(error.to_string()))?;
    lanes
        .try_libraries(script_limits(config))
        .await
        .map_err(|error| Error::Config(format!("preload: {error}")))?;
    let made = lanes.status().into_iter().enumerate().map(|(number, status)| {
        let namer = move || status.script().and_then(|(kind, name)| task_of(kind, &name));
        cluster.stamp_with(&format!("lane {number}"), Arc::new(namer))
    });
    // Set once, here.
    let _ = stamps.set(made.collect());
    Ok((lanes, script_redis, script_sql))
}

/// A script as the cluster knows it. None: it is the body of no task.
fn task_of(kind: hats_script::Kind, name: &str) -> Option<Task> {
    let kind = match kind {
        hats_script::Kind::Thread => TaskKind::Thread,
        hats_script::Kind::Job(_) => TaskKind::Job,
        hats_script::Kind::Endpoint => TaskKind::Endpoint,
        _ => return None,
    };
    Task::new(kind, name).ok()
}

#[derive(Clone)]
struct HardStopHook(OnHardStop);

impl std::fmt::Debug for HardStopHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("on_hard_stop")
    }
}

/// What scripts see of this worker.
struct Info {
    name: String,
    cluster: String,
    shutdown: CancellationToken,
    health: watch::Receiver<Health>,
}

impl WorkerInfo for Info {
    fn name(&self) -> &str {
        &self.name
    }

    fn cluster(&self) -> &str {
        &self.cluster
    }

    fn shutting_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    fn healthy(&self) -> bool {
        self.health.borrow().is_healthy()
    }
}

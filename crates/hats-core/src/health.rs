//! How the worker is: what is read of CPU and memory, what that means for its parts, and what the health port says.
//!
//! ```text
//!  hats-health ─► Health ─┬─► Condition ─► coordinator (the worker's row, what it takes)
//!                         ├─► what is scarce ─► which threads it gives away first
//!   (monitor)             ├─► worker.Healthy of scripts
//!                         └─► Readiness ◄── Status ◄── what the parts know of their connections to Redis
//! ```
//!
//! What must hold: the port answers before anything else of the worker is there and until everything else is gone. What
//! it says is what the parts know already; nobody is asked, Redis least of all. Every kind of connection to Redis is in it.

mod exposition;
mod heaviest;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hats_cluster::config::Weigh;
use hats_cluster::{Condition, Handle, Links};
pub use hats_health::probe::Question;
use hats_health::readings::Reading;
use hats_health::server::{self, Listener, Port, Views};
use hats_health::{Check, CpuThreshold, Health, Monitor, Readiness, Readings, Thresholds};
use hats_health::{monitor, probe};
use hats_script::{LaneStatus, Lanes, redis};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Error;
use crate::config::{self, Config};
use crate::metrics::{self, Metrics, Text};

/// Where the port is unless it is given.
pub(crate) const PORT: u16 = 8787;
/// What was measured meanwhile is kept one by one.
const UPKEEP_EVERY: Duration = Duration::from_secs(2);

/// A supervisor that asks has little patience itself.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Asks a worker how it is, at its health port, and gives what it says in one line.
///
/// # Errors
/// [`Error::Failed`] when the answer is no, or when there is none within two seconds; it says why in one line.
pub async fn ask(address: SocketAddr, question: Question) -> Result<String, Error> {
    probe::ask(address, question, ANSWER_TIME).await.map_err(Error::Failed)
}

/// What answers for the worker's health, from its start to its end.
pub(crate) struct Vigil {
    status: Arc<Status>,
    server: server::Server,
    #[expect(dead_code, reason = "held, not looked at: what it runs ends with it")]
    tasks: [AbortOnDropHandle<()>; 2],
    condition: watch::Receiver<Condition>,
}

/// What the port's answers come from.
pub(crate) struct Status {
    health: watch::Receiver<Health>,
    shutdown: CancellationToken,
    parts: OnceLock<Parts>,
}

/// What can be asked once it is there.
struct Parts {
    cluster: Handle,
    scripts: redis::Connections,
    counted: Counted,
    lanes: Vec<Arc<LaneStatus>>,
}

/// What is counted by those parts, which it does not keep.
pub(crate) struct Counted {
    pub(crate) scripts: hats_script::metrics::Metrics,
    /// None: no endpoints are served here.
    pub(crate) endpoints: Option<hats_endpoint::metrics::Metrics>,
}

impl Vigil {
    /// Takes the port, looks at CPU and memory for the first time, and answers from then on.
    ///
    /// # Errors
    /// [`Error::Config`] when the port that was asked for cannot be had, [`Error::System`] when none can.
    pub(crate) async fn begin(
        config: &Config,
        metrics: Option<Metrics>,
        shutdown: &CancellationToken,
    ) -> Result<Self, Error> {
        let port = config.health_port.map_or(Port::Preferred(PORT), Port::Given);
        let listener = Listener::bind(config.bind, port).await.map_err(|error| match port {
            Port::Given(_) => Error::Config(format!("health-port: {error}; 0 is any free one")),
            Port::Preferred(_) => Error::System(format!("health port: {error}")),
        })?;
        tracing::info!(address = %listener.address(), "health is served");
        if listener.address().port() != PORT && config.health_port.is_none() {
            tracing::info!("port {PORT} is taken: health is served on another one; --health-port chooses it");
        }
        let mut monitor = Monitor::new(monitor_config(config));
        let health = monitor.health();
        let status =
            Arc::new(Status { health: health.clone(), shutdown: shutdown.clone(), parts: OnceLock::new() });
        let (view, counted) = (status.clone(), status.clone());
        let render = metrics.clone();
        let metrics_of = move || {
            let mut text = counted.metrics();
            text.extend(render.as_ref().map(Metrics::render));
            text
        };
        let views = Views { readiness: Arc::new(move || view.readiness()), metrics: Arc::new(metrics_of) };
        let server = listener.serve(views);
        let (publish, condition) = watch::channel(condition_of(&health.borrow()));
        let monitoring = tokio::spawn(async move { match monitor.run().await {} });
        let telling = tokio::spawn(tell(health, metrics, publish));
        let tasks = [monitoring, telling].map(AbortOnDropHandle::new);
        Ok(Self { status, server, tasks, condition })
    }

    /// What the coordinator is to make of it.
    pub(crate) fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.clone()
    }

    /// The health port, as it was bound.
    pub(crate) fn port(&self) -> u16 {
        self.server.address().port()
    }

    /// The health, as it is read.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.status.health.clone()
    }

    /// The parts are there now.
    pub(crate) fn started(
        &self,
        cluster: Handle,
        scripts: redis::Connections,
        counted: Counted,
        lanes: &Lanes,
    ) {
        // Set once.
        let _ = self.status.parts.set(Parts { cluster, scripts, counted, lanes: lanes.status() });
    }

    /// How heavy the threads of this worker are, for when it has too much to do.
    pub(crate) fn weigh(&self) -> Weigh {
        let status = self.status.clone();
        Arc::new(move || {
            let lanes = status.parts.get().map_or(&[][..], |parts| &parts.lanes);
            let weights = lanes.iter().flat_map(|lane| lane.weights()).collect();
            heaviest::weigh(&status.health.borrow(), weights)
        })
    }

    /// Nothing is left to answer for.
    pub(crate) async fn end(self) {
        self.server.stop().await;
    }
}

impl Status {
    /// What this worker is and does, in the text format of Prometheus; what the process counts comes beside it.
    fn metrics(&self) -> String {
        let mut text = Text::default();
        exposition::of(&mut text, &self.readiness());
        if let Some(Parts { counted, .. }) = self.parts.get() {
            metrics::of_scripts(&mut text, &counted.scripts.read());
            if let Some(endpoints) = &counted.endpoints {
                metrics::of_endpoints(&mut text, &endpoints.read());
            }
        }
        text.into_string()
    }

    fn readiness(&self) -> Readiness {
        let (links, scripts) = match self.parts.get() {
            Some(parts) => (parts.cluster.links(), parts.scripts.state()),
            None => (Links::default(), redis::State { commands: false, blocking: false }),
        };
        let no_answer = match self.parts.get() {
            Some(_) => "redis does not answer",
            None => "not connected yet",
        };
        let draining = self.shutdown.is_cancelled();
        let checks = vec![
            Check::new("redis.session", links.session, no_answer),
            Check::new("redis.commands", links.commands, no_answer),
            Check::new("redis.watch", links.watch, no_answer),
            Check::new("redis.scripts", scripts.commands, no_answer),
            Check::new("redis.scripts-blocking", scripts.blocking, no_answer),
            Check::new("drain", !draining, "this worker takes nothing new and stops"),
        ];
        Readiness { checks, health: self.health.borrow().clone() }
    }
}

/// Passes on what is read, and has what was measured sorted into its buckets.
async fn tell(
    mut health: watch::Receiver<Health>,
    metrics: Option<Metrics>,
    publish: watch::Sender<Condition>,
) {
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    loop {
        tokio::select! {
            changed = health.changed() => {
                if changed.is_err() {
                    return;
                }
                let condition = condition_of(&health.borrow_and_update());
                publish.send_if_modified(|told| {
                    let is_new = *told != condition;
                    *told = condition;
                    is_new
                });
            }
            _ = upkeep.tick() => {
                if let Some(metrics) = &metrics {
                    metrics.upkeep();
                }
            }
        }
    }
}

fn condition_of(health: &Health) -> Condition {
    let critical = (!health.is_healthy()).then(|| health.reason().into());
    Condition { critical, figures: figures(&health.readings) }
}

/// As the worker's row says them.
fn figures(readings: &Readings) -> Vec<(&'static str, String)> {
    let figure = |reading: Reading<f64>, digits| match reading {
        Reading::Known(value) => format!("{value:.digits$}"),
        Reading::Pending => String::new(),
        Reading::Unreadable => "unreadable".to_owned(),
    };
    vec![
        ("Load", figure(readings.load, 2)),
        ("CpuPercent", figure(readings.cpu.map(|cpu| cpu.percent), 1)),
        ("MemoryPercent", figure(readings.memory.map(|memory| memory.percent()), 1)),
    ]
}

fn monitor_config(config: &Config) -> monitor::Config {
    let cpu = config.cpu_threshold.map(|threshold| match threshold {
        config::CpuThreshold::Load(load) => CpuThreshold::Load(load),
        config::CpuThreshold::Use(percent) => CpuThreshold::Use(percent.value()),
    });
    let memory = config.mem_threshold.map(config::Percent::value);
    monitor::Config {
        thresholds: Thresholds { cpu, memory },
        interval: config.health_interval,
        root: config.system_root.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn config() -> Config {
        Config { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), health_port: Some(0), ..Config::default() }
    }

    #[tokio::test]
    async fn nothing_is_ready_before_redis_is_reached() {
        let shutdown = CancellationToken::new();
        let vigil = Vigil::begin(&config(), None, &shutdown).await.unwrap();
        let problems = |vigil: &Vigil| -> Vec<_> {
            let checks = vigil.status.readiness().checks;
            checks.iter().filter(|check| check.problem.is_some()).map(|check| check.name).collect()
        };
        let redis =
            ["redis.session", "redis.commands", "redis.watch", "redis.scripts", "redis.scripts-blocking"];
        assert_eq!(problems(&vigil), redis);
        shutdown.cancel();
        assert_eq!(problems(&vigil).last(), Some(&"drain"));
        vigil.end().await;
    }

    #[tokio::test]
    async fn a_given_port_that_is_taken_is_an_unusable_configuration() {
        let shutdown = CancellationToken::new();
        let vigil = Vigil::begin(&config(), None, &shutdown).await.unwrap();
        let port = vigil.server.address().port();
        let second = Vigil::begin(&Config { health_port: Some(port), ..config() }, None, &shutdown).await;
        let error = second.err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with(&format!("health-port: 127.0.0.1:{port} ")), "{error}");
    }

    #[test]
    fn figures_say_what_is_not_known() {
        let readings =
            Readings { load: Reading::Known(1.256), cpu: Reading::Pending, memory: Reading::Unreadable };
        let expected = [("Load", "1.26"), ("CpuPercent", ""), ("MemoryPercent", "unreadable")];
        assert_eq!(figures(&readings), expected.map(|(name, value)| (name, value.to_owned())));
    }
}

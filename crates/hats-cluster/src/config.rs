//! What a worker of a cluster is told at its start.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::address::RedisConfig;
use crate::coordinator::{Admission, Condition};
use crate::error::Error;
use crate::labels::Labels;
use crate::lease::Timing;
use crate::name::{ClusterName, Task, TaskName, WorkerName};
use crate::watchdog::HardStop;

/// Called at the hard stop, on the watchdog's OS thread. It is expected to end the process.
pub type OnHardStop = Arc<dyn Fn(&HardStop) + Send + Sync>;

/// Tells which script a lane is in, for the report about one that does not come round.
pub type StuckNamer = Arc<dyn Fn() -> Option<Task> + Send + Sync>;

/// Tells how heavy the threads of this worker are beside each other, in any unit. Who is not named weighs nothing.
pub type Weigh = Arc<dyn Fn() -> HashMap<TaskName, u64> + Send + Sync>;

/// Which threads a worker takes, and how many beside the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// Its share beside the others'. Above zero; default 1.
    pub weight: f64,
    /// It takes no more threads than so many. Default any number.
    pub threads_max: Option<usize>,
    /// What it offers to threads that require something. Default nothing.
    pub labels: Labels,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { weight: 1.0, threads_max: None, labels: Labels::default() }
    }
}

/// What a worker of a cluster is told at its start. See [`Config::new`] for the defaults.
#[derive(Clone)]
pub struct Config {
    /// The cluster: prefix of every key.
    pub cluster: ClusterName,
    /// This worker's name, for people.
    pub worker_name: WorkerName,
    /// Where Redis is.
    pub redis: RedisConfig,
    /// D, the lease. At least 2 s; default 5 s.
    pub lease: Duration,
    /// A lane or the coordinator that has not come round for this long is named and renewal is withheld. Default 10 s.
    pub stall_after: Duration,
    /// How long workers whose sessions are opened at about the same time wait for each other before they claim. One
    /// that sees nobody claims a few threads sooner. Default 1 s; zero where nobody else can be there.
    pub settle: Duration,
    /// How long [`crate::coordinator::Handle::close`] waits for Redis to answer the last releases. Default 5 s.
    pub close_timeout: Duration,
    /// Whether new threads may be taken at the moment, by the judgement of whoever composes the worker. What is owned
    /// stays owned. Default always; when the sender is gone its last word holds.
    pub admission: watch::Receiver<Admission>,
    /// How well this worker is, by the same judgement. Default well; when the sender is gone its last word holds.
    pub condition: watch::Receiver<Condition>,
    /// Which threads this worker takes, and how many.
    pub capacity: Capacity,
    /// How heavy threads are: a worker that has to shed asks, and begins with the heaviest. Default all alike.
    pub weigh: Weigh,
    /// The version that is written into the worker's row.
    pub version: String,
    /// Called at the hard stop. The default writes the reason to standard error and exits with 70.
    pub on_hard_stop: OnHardStop,
}

impl Config {
    /// A configuration with the defaults.
    pub fn new(cluster: ClusterName, worker_name: WorkerName, redis: RedisConfig) -> Self {
        Self {
            cluster,
            worker_name,
            redis,
            lease: Duration::from_secs(5),
            stall_after: Duration::from_secs(10),
            settle: Duration::from_secs(1),
            close_timeout: Duration::from_secs(5),
            admission: watch::channel(Admission::Open).1,
            condition: watch::channel(Condition::default()).1,
            capacity: Capacity::default(),
            weigh: Arc::new(HashMap::new),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            on_hard_stop: Arc::new(crate::watchdog::exit_at_hard_stop),
        }
    }

    /// The durations that follow from the lease.
    pub fn timing(&self) -> Timing {
        Timing::new(self.lease.max(Timing::LEAST))
    }

    /// Makes clients whose connections are given up in time: one that was begun while the link was down may never be
    /// answered, and others that are begun later are.
    pub(crate) fn builder(&self, command_timeout: Duration) -> Result<fred::types::Builder, Error> {
        let mut builder = self.redis.builder(command_timeout)?;
        builder.with_connection_config(|connection| {
            connection.connection_timeout = self.connect_timeout();
            connection.internal_command_timeout = self.connect_timeout();
        });
        Ok(builder)
    }

    /// How long a connection may take to be made: less than a session lasts without one.
    pub(crate) fn connect_timeout(&self) -> Duration {
        (self.timing().lease() / 3).clamp(Duration::from_secs(1), Duration::from_secs(5))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("cluster", &self.cluster)
            .field("worker_name", &self.worker_name)
            .field("lease", &self.lease)
            .field("stall_after", &self.stall_after)
            .field("settle", &self.settle)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

//! What a worker is told: every setting, with its meaning, unit and default.
//!
//! [`Config`] is plain data and complete: whoever embeds a worker may start from [`Config::default`] and set
//! fields. The binary reads it with [`Settings`], which knows flags, environment and files (see there for
//! their precedence). What is in a `Config` has been checked one by one by its types; [`Config::check`] knows
//! the rules that join several.
//!
//! Secrets live in types whose `Debug` and `Display` hide them, so a `Config` may be logged.

mod jobs;
mod load;
mod value;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hats_cluster::address::RedisConfig;
use hats_cluster::labels::Labels;
use hats_cluster::name::{ClusterName, EndpointPath, TaskName, WorkerName};
use hats_cluster::records::SOURCE_BYTES_MAX;
use hats_script::Preemption;
use hats_script::egress::Egress;

use crate::Error;
use crate::endpoints::EndpointFile;
use crate::jobs::JobOptions;

pub(crate) use value::quoted;

pub use hats_script::egress::Rule as NetRule;
pub use hats_script::{Bundle, Library};
pub use load::{AdminConfig, LogConfig, LogFormat, LogLevel, Settings, TraceConfig};
pub use value::{Percent, duration, size};

/// All settings of one worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The prefix of every key. Default `default`.
    pub cluster_name: ClusterName,
    /// For people; ownership uses a fresh random id per process. Default random and readable.
    pub worker_name: WorkerName,
    /// Where Redis is. None: embedded, see there.
    pub redis: Option<RedisConfig>,
    /// What a missing address means. Default [`EmbeddedRedis::Auto`].
    pub embedded_redis: EmbeddedRedis,
    /// Connections for scripts' blocking commands (`BLPOP` and the like). Default 64.
    pub redis_blocking_connections: NonZeroUsize,
    /// Registered as threads at start, and again whenever Redis lost its data.
    pub scripts: Vec<Script>,
    /// Registered as jobs at start, and again whenever Redis lost its data.
    pub jobs: Vec<Job>,
    /// Registered as endpoints at start, and again whenever Redis lost all of them.
    pub endpoints: Vec<Endpoint>,
    /// This worker claims the registered scripts itself, at once, unless they run elsewhere. Default false.
    pub run_now: bool,
    /// D, the length of the session's lease: a dead worker's threads move within about this time.
    /// Default 5 s, at least 2 s.
    pub lease: Duration,
    /// How long the call in hand may go on after a stop was asked. Default 20 s.
    pub drain_timeout: Duration,
    /// How long a lane or the coordinator may be silent before renewal is withheld. Default 10 s.
    pub stall_after: Duration,
    /// What scripts may use unless their task says otherwise.
    pub limits: Limits,
    /// Its share of the threads beside the others'. Default 1.
    pub weight: f64,
    /// It takes no more threads than so many. Default any number.
    pub max_threads: Option<NonZeroUsize>,
    /// What it offers to threads whose `Requires` asks for it. Default nothing.
    pub labels: Labels,
    /// Unhealthy above it. Default off.
    pub cpu_threshold: Option<CpuThreshold>,
    /// Unhealthy above this share of memory. Default 90 %.
    pub mem_threshold: Option<Percent>,
    /// New claims are refused above it; None: never. Default 80 % of the memory limit.
    pub memory_budget: Option<MemoryBudget>,
    /// Bytes that all interpreters may take together that are kept warmed up for endpoints and jobs; 0: each request and run
    /// makes one anew. None: 64 MiB for each core, but no more than an eighth of the memory limit. Default none.
    pub warm_memory: Option<usize>,
    /// How scripts that compute are made to give way to others. Default auto.
    pub preemption: Preemption,
    /// Between two readings of CPU and memory. Default 5 s.
    pub health_interval: Duration,
    /// Serve endpoints. Default false.
    pub host: bool,
    /// Where endpoints are served; 0 is any free port. Default 9999.
    pub host_port: u16,
    /// Bytes of the body of a request to an endpoint. Default 1 MiB.
    pub endpoint_body_limit: usize,
    /// Scripts of endpoints that run at once. Default 512.
    pub endpoint_concurrency: NonZeroUsize,
    /// Where health is served; 0 is any free port. None: 8787, or any free one if that is taken.
    pub health_port: Option<u16>,
    /// For both ports. Default 0.0.0.0.
    pub bind: IpAddr,
    /// Evaluated before every script, in the same scope.
    pub preload: Vec<Library>,
    /// What scripts may reach although `deny_net` names it.
    pub allow_net: Vec<NetRule>,
    /// What scripts may not reach, beside what nobody may. Default nothing.
    pub deny_net: Vec<NetRule>,
    /// Requests of scripts go through the proxies that the environment names. Default false.
    pub http_proxy: bool,
    /// Requests of scripts say which owner of a task they come from. Default false.
    pub http_fence: bool,
    /// The folder below which scripts may have SQLite files. Default none.
    pub sqlite_dir: Option<PathBuf>,
    /// Connections to one database, for all scripts together. Default 16.
    pub sql_connections: NonZeroUsize,
    /// Where each run of `main()` is recorded, for audits. Default nowhere.
    pub call_log: Option<PathBuf>,
    /// Below which the kernel's `proc` and `sys` are read. Default `/`.
    pub system_root: PathBuf,
}

/// A file that is registered as a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The thread's name: the path as given.
    pub name: TaskName,
    /// JavaScript, and what it imports. A text will do, by `into()`.
    pub source: Bundle,
}

/// A file that is registered as a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The job's name: the path as given.
    pub name: TaskName,
    /// JavaScript, and what it imports. A text will do, by `into()`.
    pub source: Bundle,
    /// When it runs, and how. Its `cron` has to be there.
    pub options: JobOptions,
}

/// A file that is registered as an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it answers.
    pub path: EndpointPath,
    /// What it answers with.
    pub file: EndpointFile,
}

/// What scripts may use unless their task says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of heap. Default 64 MiB.
    pub memory: usize,
    /// Bytes of the interpreter's stack. Default 512 KiB.
    pub stack: usize,
    /// Bytes of source. Default 1 MiB.
    pub source: usize,
    /// How long one call may take. Default none for threads.
    pub call_timeout: Option<Duration>,
    /// Bytes of the body of one HTTP answer. Default 10 MiB.
    pub http_body: usize,
    /// Characters of one line of log. Default 10,000.
    pub log_line: usize,
}

/// What a missing Redis address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EmbeddedRedis {
    /// The worker starts a server of its own, which forgets everything on exit.
    #[default]
    Auto,
    /// An error: a forgotten address must not make every worker its own cluster.
    Never,
}

/// When the CPU counts as overloaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpuThreshold {
    /// The 1-minute load average.
    Load(f64),
    /// CPU use over the interval.
    Use(Percent),
}

/// Above which use of memory new claims are refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryBudget {
    /// Of the limit, in use by all that it is for: the cgroup's limit where there is one, else the machine's memory.
    Share(Percent),
    /// Bytes that this process may have resident.
    Bytes(u64),
}

impl Config {
    /// The shortest lease: a shorter one would leave no time for several tries to renew it.
    pub const LEASE_MIN: Duration = Duration::from_secs(2);
    /// The longest lease: nobody wants to wait longer for a dead worker's threads.
    pub const LEASE_MAX: Duration = Duration::from_secs(3600);
    /// The least weight: a worker that is to have nothing is disabled instead.
    pub const WEIGHT_MIN: f64 = 0.01;
    /// The most weight.
    pub const WEIGHT_MAX: f64 = 1000.0;
    /// Every running script has address space for its whole stack, so a larger one is taken for a mistake.
    pub const STACK_MAX: usize = hats_script::Limits::STACK_MAX;

    /// Checks what joins several settings, or what a type does not say.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the first setting that cannot be used.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::Config(message));
        if self.lease < Self::LEASE_MIN || self.lease > Self::LEASE_MAX {
            return refuse(format!(
                "lease-seconds must be from {} to {}, got {}",
                Self::LEASE_MIN.as_secs(),
                Self::LEASE_MAX.as_secs(),
                self.lease.as_secs_f64()
            ));
        }
        if self.redis.is_none() {
            if self.embedded_redis == EmbeddedRedis::Never {
                return refuse("redis-address is missing, and embedded-redis is `never`".to_owned());
            }
            if !cfg!(feature = "embedded-redis") {
                return refuse("redis-address is missing, and this build has no embedded Redis".to_owned());
            }
        }
        if self.limits.stack > Self::STACK_MAX || self.limits.stack < hats_script::Limits::STACK_MIN {
            return refuse(format!("stack-limit must be from 16KiB to {}MiB", Self::STACK_MAX >> 20));
        }
        if self.limits.memory < 1 << 20 {
            return refuse("memory-limit must be at least 1MiB".to_owned());
        }
        if self.limits.source > SOURCE_BYTES_MAX {
            return refuse(format!("source-limit must be at most {}MiB", SOURCE_BYTES_MAX >> 20));
        }
        if self.stall_after < Duration::from_secs(1) {
            return refuse("stall-after must be at least 1s".to_owned());
        }
        if self.deny_net.is_empty() && !self.allow_net.iter().all(NetRule::is_health_port) {
            return refuse(
                "allow-net makes exceptions from deny-net, which is missing; for these and nothing else set deny-net to `*`"
                    .to_owned(),
            );
        }
        if !(Self::WEIGHT_MIN..=Self::WEIGHT_MAX).contains(&self.weight) {
            return refuse(format!(
                "weight must be from {} to {}, got {}",
                Self::WEIGHT_MIN,
                Self::WEIGHT_MAX,
                self.weight
            ));
        }
        if self.health_interval.is_zero() {
            return refuse("health-interval must be above 0".to_owned());
        }
        if let Some(folder) = self.sqlite_dir.as_deref().filter(|folder| !folder.is_dir()) {
            return refuse(format!("sqlite-dir {} is no folder", folder.display()));
        }
        if let Some(script) = self.scripts.iter().find(|script| script.source.bytes() > self.limits.source) {
            return refuse(format!(
                "script {} has {} bytes, more than the source-limit of {}",
                script.name,
                script.source.bytes(),
                self.limits.source
            ));
        }
        for job in &self.jobs {
            if job.source.bytes() > self.limits.source {
                return refuse(format!("job {} is larger than {} bytes", job.name, self.limits.source));
            }
            job.check().map_err(Error::Config)?;
        }
        if let Some(large) = self.endpoints.iter().find(|one| one.file.bytes() > self.limits.source) {
            let (path, bytes, most) = (&large.path, large.file.bytes(), self.limits.source);
            return refuse(format!(
                "endpoint {path} has {bytes} bytes, more than the source-limit of {most}"
            ));
        }
        Ok(())
    }
}

impl Config {
    /// What scripts of a worker with this health port may reach.
    pub(crate) fn egress(&self, health_port: u16) -> Egress {
        Egress::new(self.allow_net.clone(), self.deny_net.clone()).with_health_port(health_port)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_name: default_cluster(),
            worker_name: random_worker_name(),
            redis: None,
            embedded_redis: EmbeddedRedis::Auto,
            redis_blocking_connections: NonZeroUsize::MIN.saturating_add(63),
            scripts: Vec::new(),
            jobs: Vec::new(),
            endpoints: Vec::new(),
            run_now: false,
            lease: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(20),
            stall_after: Duration::from_secs(10),
            limits: Limits::default(),
            weight: 1.0,
            max_threads: None,
            labels: Labels::default(),
            cpu_threshold: None,
            mem_threshold: Percent::new(90.0),
            memory_budget: Percent::new(80.0).map(MemoryBudget::Share),
            warm_memory: None,
            preemption: Preemption::default(),
            health_interval: Duration::from_secs(5),
            host: false,
            host_port: 9999,
            endpoint_body_limit: 1 << 20,
            endpoint_concurrency: NonZeroUsize::MIN.saturating_add(511),
            health_port: None,
            bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            preload: Vec::new(),
            allow_net: Vec::new(),
            deny_net: Vec::new(),
            http_proxy: false,
            http_fence: false,
            sqlite_dir: None,
            sql_connections: NonZeroUsize::MIN.saturating_add(15),
            call_log: None,
            system_root: PathBuf::from("/"),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            stack: 512 << 10,
            source: 1 << 20,
            call_timeout: None,
            http_body: 10 << 20,
            log_line: 10_000,
        }
    }
}

impl FromStr for EmbeddedRedis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            _ => Err(format!("expected `auto` or `never`, got {}", value::quoted(text))),
        }
    }
}

impl FromStr for CpuThreshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.ends_with('%') {
            return text.parse().map(Self::Use);
        }
        match text.parse::<f64>() {
            Ok(load) if load > 0.0 && load.is_finite() => Ok(Self::Load(load)),
            _ => Err(format!(
                "expected a load average such as `4`, a share of CPU such as `85%`, or `off`, got {}",
                value::quoted(text)
            )),
        }
    }
}

impl FromStr for MemoryBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A plain number up to 100 is a percentage, as it is for `mem-threshold`; nobody means 80 bytes.
        let is_share = text.ends_with('%') || text.parse::<f64>().is_ok_and(|number| number <= 100.0);
        if is_share { text.parse().map(Self::Share) } else { size(text).map(Self::Bytes) }
    }
}

#[expect(clippy::expect_used, reason = "a literal; a unit test covers it")]
fn default_cluster() -> ClusterName {
    "default".parse().expect("`default` is a name")
}

/// Readable, and with enough chance in it that two workers of a cluster hardly ever share one.
#[expect(clippy::expect_used, reason = "lower-case words and digits; a unit test covers it")]
fn random_worker_name() -> WorkerName {
    let words = petname::petname(2, "-").unwrap_or_else(|| "worker".to_owned());
    let mut chance = [0; 2];
    // Without entropy the words have to do: the name is for people only.
    let _ = getrandom::fill(&mut chance);
    format!("{words}-{:04x}", u16::from_le_bytes(chance)).parse().expect("words and digits are a name")
}

#[cfg(test)]
mod tests;

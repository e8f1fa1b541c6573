//! The command line: what may be written, and what each flag is for. What a value means is decided by
//! [`Settings`], so that a flag, a variable and a key of a file cannot differ; here a value is only text.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use hats_core::config::Settings;
use hats_core::health::Question;

use crate::command::Command;
use crate::exit::EXIT_CODES;

/// What was asked for on the command line.
pub(crate) struct Asked {
    /// The flags that were given, without their dashes. A password may be among them, so there is no `Debug`.
    flags: Vec<(String, String)>,
    /// None: run a worker.
    pub(crate) command: Option<Command>,
    /// Some: only ask a running worker how it is.
    pub(crate) check: Option<Check>,
}

/// What `--health-check` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    Livez,
    Readyz,
}

impl From<Check> for Question {
    fn from(check: Check) -> Self {
        match check {
            Check::Livez => Self::Live,
            Check::Readyz => Self::Ready,
        }
    }
}

impl Asked {
    /// Reads the command line of this process. Ends the process when it cannot be understood (exit code 2), and
    /// after `--help` and `--version`.
    pub(crate) fn read() -> Self {
        Self::from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// All that was set, by flags and otherwise.
    pub(crate) fn settings(&self) -> Result<Settings, hats_core::Error> {
        let flags = self.flags.iter().map(|(name, value)| (name.as_str(), value.clone()));
        Settings::read(flags, std::env::vars_os())
    }

    fn from(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut cli = taking_negative_numbers(Cli::command());
        let matches = cli.try_get_matches_from_mut(arguments)?;
        let Cli { command, health, .. } = Cli::from_arg_matches(&matches)?;
        let check = health.health_check;
        let flags = given(&matches)?;
        if command.is_some()
            && let Some((name, _)) = flags.iter().find(|(name, _)| !is_shared(name))
        {
            let message = format!("--{name} is for running a worker; it means nothing to this sub-command\n");
            return Err(cli.error(clap::error::ErrorKind::ArgumentConflict, message));
        }
        if command.is_some() && check.is_some() {
            let message = "--health-check is a command of its own; it means nothing to a sub-command\n";
            return Err(cli.error(clap::error::ErrorKind::ArgumentConflict, message));
        }
        Ok(Self { flags, command, check })
    }
}

/// A negative number is a wrong value, not an unknown flag.
fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_action() {
        ArgAction::Set => argument.allow_negative_numbers(true),
        _ => argument,
    });
    command.mut_subcommands(taking_negative_numbers)
}

/// The flags on the command line, by the names of the settings.
fn given(matches: &ArgMatches) -> Result<Vec<(String, String)>, clap::Error> {
    let mut flags = Vec::new();
    for id in matches.ids() {
        if matches.value_source(id.as_str()) != Some(ValueSource::CommandLine) {
            continue;
        }
        // The groups of the derived structs are in the list as well, and are not text.
        if let Ok(Some(values)) = matches.try_get_many::<String>(id.as_str()) {
            let name = id.as_str().replace('_', "-");
            flags.extend(values.map(|value| (name.clone(), value.clone())));
        }
    }
    Ok(flags)
}

/// Whether a flag is for sub-commands too.
fn is_shared(name: &str) -> bool {
    let shared = Shared::augment_args(clap::Command::new("shared"));
    shared.get_arguments().any(|argument| argument.get_long() == Some(name))
}

/// A worker of a HATS cluster: finds work in Redis and runs it as JavaScript. Without a sub-command it runs.
///
/// Every flag can also be given as variable `HATS_<FLAG>` (`HATS_CLUSTER_NAME`) or as key of the config file
/// (cluster-name). A flag wins over a variable, a variable over the file.
#[derive(Parser)]
#[command(name = "hats-worker", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    worker: WorkerFlags,
    #[command(flatten)]
    time: TimeFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    health: HealthFlags,
    #[command(flatten)]
    egress: EgressFlags,
    #[command(flatten)]
    databases: DatabaseFlags,
    #[command(flatten)]
    endpoints: EndpointFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that a worker and the sub-commands both know.
#[derive(Args)]
struct Shared {
    /// Settings as JSON, TOML or YAML, by extension (.config is JSON or TOML)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<String>,

    /// The prefix of every key [default: default]
    #[arg(long, global = true, value_name = "N")]
    cluster_name: Option<String>,

    /// host:port, redis://, rediss://, redis-cluster://h1,h2, redis-sentinel://h1,h2?sentinelServiceName=m or
    /// unix:PATH [default: an embedded Redis that forgets everything on exit]
    #[arg(long, global = true, value_name = "A", help_heading = "Redis")]
    redis_address: Option<String>,

    /// Password for Redis; better given as HATS_REDIS_PASSWORD, which other users of the machine cannot see
    #[arg(long, global = true, value_name = "P", help_heading = "Redis", allow_hyphen_values = true)]
    redis_password: Option<String>,

    /// User for Redis
    #[arg(long, global = true, value_name = "U", help_heading = "Redis", allow_hyphen_values = true)]
    redis_username: Option<String>,

    /// How log lines look: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Logs (to standard error)")]
    log_format: Option<String>,

    /// error, warn, info, debug, trace or off; RUST_LOG wins [default: info]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Logs (to standard error)")]
    log_level: Option<String>,
}

/// Flags that only a worker knows, as all below.
#[derive(Args)]
struct WorkerFlags {
    /// This worker's name, for people [default: random, readable]
    #[arg(long, value_name = "N")]
    worker_name: Option<String>,

    /// Files to register as threads at start; the thread's name is the path as given
    #[arg(long, value_name = "FILE,FILE")]
    scripts: Option<String>,

    /// A file to register as a job at start, and its schedule: "a.js=*/5 * * * *". Once for each job. Without a schedule
    /// the file says it itself, in a comment it begins with (// cron: */5 * * * *), as does each file of a folder
    #[arg(long, value_name = "FILE=CRON|FILE|DIR")]
    jobs: Vec<String>,

    /// A folder whose files are registered as endpoints at start: a/b.html answers /a/b, index.html its folder, other
    /// files are sent as they are
    #[arg(long, value_name = "DIR")]
    endpoints: Option<String>,

    /// Claim the registered scripts here, at once, unless they run elsewhere
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    run_now: Option<String>,

    /// Library files evaluated before every script, in its scope
    #[arg(long, value_name = "FILE,FILE")]
    preload: Option<String>,

    /// Its share of the threads beside the other workers' [default: 1]
    #[arg(long, value_name = "X")]
    weight: Option<String>,

    /// No more threads than this [default: any number]
    #[arg(long, value_name = "N")]
    max_threads: Option<String>,

    /// What this worker offers to threads whose Requires asks for it: gpu,zone=eu
    #[arg(long, value_name = "L,L")]
    labels: Option<String>,

    /// No new threads above it: a share of the cgroup's or the machine's memory, a size of this process, or off
    /// [default: 80%]
    #[arg(long, value_name = "X")]
    memory_budget: Option<String>,

    /// For interpreters that are kept warmed up for endpoints and jobs, all together; 0 = none are kept
    /// [default: 64MiB for each core, at most an eighth of the cgroup's or the machine's memory]
    #[arg(long, value_name = "SIZE")]
    warm_memory: Option<String>,

    /// How scripts that compute give way to others: signals = at any instruction of the JavaScript engine (x86-64 Linux
    /// with glibc), yields = at the ends of host calls and when the engine polls, auto = signals where they can be had
    /// [default: auto]
    #[arg(long, value_name = "HOW")]
    preemption: Option<String>,

    /// Whether to start a Redis of its own where no address is given: auto or never [default: auto]
    #[arg(long, value_name = "WHEN", help_heading = "Redis")]
    embedded_redis: Option<String>,

    /// Connections for scripts' blocking commands such as BLPOP [default: 64]
    #[arg(long, value_name = "N", help_heading = "Redis")]
    redis_blocking_connections: Option<String>,

    /// The collector of OpenTelemetry that traces go to over HTTP, such as http://collector:4318: a span for each life of a
    /// thread, run of a job and request of an endpoint. Only in builds with the feature otlp
    #[arg(long, value_name = "URL", help_heading = "Traces")]
    otlp_endpoint: Option<String>,

    /// Records each run of main() in this file, for audits
    #[arg(long, value_name = "FILE", hide = true)]
    call_log: Option<String>,

    /// Where proc and sys are that tell of CPU and memory
    #[arg(long, value_name = "DIR", hide = true)]
    system_root: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Time")]
struct TimeFlags {
    /// After a worker dies its threads move within about this time; at least 2 [default: 5]
    #[arg(long, value_name = "D")]
    lease_seconds: Option<String>,

    /// How long the call in hand may go on once a stop is asked for [default: 20s]
    #[arg(long, value_name = "D")]
    drain_timeout: Option<String>,

    /// How long a part of the worker may be stuck before it gives up its lease [default: 10s]
    #[arg(long, value_name = "D")]
    stall_after: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Limits of scripts, unless their task has its own")]
struct LimitFlags {
    /// Heap [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<String>,

    /// Stack, at most 16MiB [default: 512KiB]
    #[arg(long, value_name = "SIZE")]
    stack_limit: Option<String>,

    /// Source [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    source_limit: Option<String>,

    /// Time of one call into a thread's script [default: none]
    #[arg(long, value_name = "D")]
    call_timeout: Option<String>,

    /// Body of one HTTP answer [default: 10MiB]
    #[arg(long, value_name = "SIZE")]
    http_body_limit: Option<String>,

    /// Characters of one line of log [default: 10000]
    #[arg(long, value_name = "N")]
    log_line_limit: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Health")]
struct HealthFlags {
    /// Unhealthy above it: a load average such as 4, CPU use such as 85%, or off [default: off]
    #[arg(long, value_name = "X")]
    cpu_threshold: Option<String>,

    /// Unhealthy above this percentage of memory, or off [default: 90]
    #[arg(long, value_name = "X")]
    mem_threshold: Option<String>,

    /// Between two readings of CPU and memory [default: 5]
    #[arg(long, value_name = "D")]
    health_interval: Option<String>,

    /// 0 = any free port [default: 8787, or any free one]
    #[arg(long, value_name = "P")]
    health_port: Option<String>,

    /// Run no worker, but ask the one that has these settings how it is, and exit with 0 or 1 within 2 s: livez is whether
    /// its process answers, readyz whether work may be sent to it
    #[arg(long, value_name = "PROBE", num_args = 0..=1, require_equals = true, default_missing_value = "livez")]
    health_check: Option<Check>,

    /// Address for this port and for that of endpoints [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    bind: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Endpoints")]
struct EndpointFlags {
    /// Serve endpoints
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    host: Option<String>,

    /// 0 = any free port [default: 9999]
    #[arg(long, value_name = "P")]
    host_port: Option<String>,

    /// Body of one request; a longer one is answered with 413 [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    endpoint_body_limit: Option<String>,

    /// Scripts of endpoints at once; further requests wait shortly, then are answered with 503 [default: 512]
    #[arg(long, value_name = "N")]
    endpoint_concurrency: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "What scripts may reach")]
struct EgressFlags {
    /// What scripts may not reach: hosts (db.internal, *.example.org), ranges (10.0.0.0/8), `private` or `*`
    /// [default: link-local and metadata addresses, which nothing allows]
    #[arg(long, value_name = "RULE,RULE")]
    deny_net: Option<String>,

    /// Exceptions from --deny-net, written alike; `health-port` opens this worker's own health port to its scripts
    #[arg(long, value_name = "RULE,RULE")]
    allow_net: Option<String>,

    /// Use the proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    http_proxy: Option<String>,

    /// Send `Hats-Fence: <task>;epoch=<n>` with every HTTP request
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    http_fence: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Databases of scripts")]
struct DatabaseFlags {
    /// The folder below which scripts may have SQLite files [default: none; databases in memory only]
    #[arg(long, value_name = "DIR")]
    sqlite_dir: Option<String>,

    /// Connections to one database, for all scripts of this worker together [default: 16]
    #[arg(long, value_name = "N")]
    sql_connections: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, clap::Error> {
        Asked::from(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_named_as_settings() {
        let asked = asked("hats-worker --lease-seconds 2 --host --run-now=false").unwrap();
        let mut flags = asked.flags;
        flags.sort();
        let expected = [("host", "true"), ("lease-seconds", "2"), ("run-now", "false")];
        assert_eq!(flags, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn every_flag_is_a_setting() {
        let cli = Cli::command();
        for argument in cli.get_arguments() {
            let Some(name) = argument.get_long() else { continue };
            if ["help", "version", "config", "health-check"].contains(&name) {
                continue;
            }
            let settings = Settings::read([(name, "1".to_owned())], []);
            assert!(settings.is_ok(), "--{name}: {settings:?}");
        }
    }

    #[test]
    fn shared_flags_may_stand_on_either_side_of_a_sub_command() {
        for line in [
            "hats-worker --redis-address h:1 thread list",
            "hats-worker thread --redis-address h:1 list",
            "hats-worker thread list --redis-address h:1",
        ] {
            let asked = asked(line).unwrap();
            assert_eq!(asked.flags, [("redis-address".to_owned(), "h:1".to_owned())], "{line}");
            assert!(asked.command.is_some());
        }
    }

    #[test]
    fn a_worker_flag_means_nothing_to_a_sub_command() {
        let error = asked("hats-worker --run-now thread list").err().unwrap();
        assert!(error.to_string().contains("--run-now"), "{error}");
    }

    #[test]
    fn a_health_check_is_for_liveness_unless_it_says_otherwise() {
        let check = |line| asked(line).map(|asked| asked.check);
        assert_eq!(check("hats-worker").unwrap(), None);
        assert_eq!(check("hats-worker --health-check").unwrap(), Some(Check::Livez));
        assert_eq!(check("hats-worker --health-check=readyz --health-port 1").unwrap(), Some(Check::Readyz));
        for line in ["hats-worker --health-check=metrics", "hats-worker --health-check thread list"] {
            let error = check(line).unwrap_err();
            assert!(error.to_string().contains("--health-check"), "{error}");
        }
    }

    #[test]
    fn jobs_are_given_one_by_one() {
        let line = ["hats-worker", "--jobs", "a.js=1,2 * * * *", "--jobs=b"];
        let flags = Asked::from(line.map(OsString::from)).unwrap().flags;
        assert_eq!(flags, ["a.js=1,2 * * * *", "b"].map(|job| ("jobs".to_owned(), job.to_owned())));
    }

    #[test]
    fn a_flag_is_given_once() {
        let error = asked("hats-worker --cluster-name a --cluster-name b").err().unwrap();
        assert!(error.to_string().contains("cannot be used multiple times"), "{error}");
    }
}

//! Where settings come from: flag, else environment `HATS_<FLAG>`, else config file, else default. This order
//! is written once, in [`Settings::read`].
//!
//! Every value is read as text by the same parser wherever it came from, and an error says where that was.
//! Must always hold: no error repeats a value that may hold a secret, a password or an address with one in it,
//! nor the line of a file that could.
//!
//! A key that a file has and nobody knows is an error, since it is a setting that would silently not be set. A
//! variable `HATS_…` that nobody knows only warns: Kubernetes sets such variables for every service it runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use figment::providers::{Format, Json, Toml, Yaml};
use figment::value::{Dict, Map, Num, Value};
use figment::{Figment, Metadata, Profile, Provider};
use hats_cluster::address::{RedisAddress, RedisConfig, Secret};
use hats_cluster::name::{ClusterName, TaskName, WorkerName};
use hats_script::Preemption;
use url::Url;

use super::value::{boolean, duration, is_off, quoted, size};
use super::{Config, Endpoint, Job, Library, Limits, Script, jobs};
use crate::Error;
use crate::bundle::{self, Source, read_text};
use crate::endpoints::read_folder;

/// A config file above this size is refused before it is read whole.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The most of anything that is counted in connections.
const CONNECTIONS_MAX: usize = 10_000;

/// The one setting whose flag is given once for each of its items: a schedule may have commas.
const JOBS: &str = "jobs";

/// One setting: a flag, a variable, a key.
struct Key {
    name: &'static str,
    /// What a config file of 2020 calls it.
    alias: Option<&'static str>,
}

const fn key(name: &'static str) -> Key {
    Key { name, alias: None }
}

/// All of them but `config`, which only a flag or a variable can give.
const KEYS: &[Key] = &[
    key("redis-address"),
    key("redis-password"),
    key("redis-username"),
    key("embedded-redis"),
    key("redis-blocking-connections"),
    Key { alias: Some("cluster"), ..key("cluster-name") },
    Key { alias: Some("name"), ..key("worker-name") },
    key("scripts"),
    key(JOBS),
    key("endpoints"),
    key("run-now"),
    key("lease-seconds"),
    key("drain-timeout"),
    key("stall-after"),
    key("weight"),
    key("max-threads"),
    key("labels"),
    key("memory-limit"),
    key("stack-limit"),
    key("source-limit"),
    key("call-timeout"),
    key("log-line-limit"),
    key("log-format"),
    key("log-level"),
    key("otlp-endpoint"),
    key("call-log"),
    key("system-root"),
    key("cpu-threshold"),
    key("mem-threshold"),
    key("memory-budget"),
    key("warm-memory"),
    key("preemption"),
    key("health-interval"),
    key("host"),
    key("host-port"),
    key("endpoint-body-limit"),
    key("endpoint-concurrency"),
    key("health-port"),
    key("bind"),
    key("allow-net"),
    key("deny-net"),
    key("http-proxy"),
    key("http-fence"),
    key("http-body-limit"),
    key("preload"),
    key("sqlite-dir"),
    key("sql-connections"),
];

/// Everything that was set, by whom, with unknown keys already refused. Values are read from it by
/// [`Settings::worker`], [`Settings::admin`] and [`Settings::logs`], each only what it needs.
pub struct Settings {
    /// Holds secrets as they were written: never printed.
    layers: Figment,
    warnings: Vec<String>,
}

/// What an administrative command needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdminConfig {
    /// The prefix of every key.
    pub cluster_name: ClusterName,
    /// Where Redis is.
    pub redis: RedisConfig,
}

/// How to write logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is worth a line.
    pub level: LogLevel,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceConfig {
    /// The whole URL that spans are sent to.
    pub endpoint: String,
    /// The cluster that they are of.
    pub cluster_name: ClusterName,
}

/// For people or for machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Text,
    /// A line of JSON.
    Json,
}

/// The least important lines that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// No lines at all.
    Off,
    /// What failed.
    Error,
    /// What somebody should look at.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl Settings {
    /// Collects what `flags` (names without dashes), `environment` and the config file that one of them names
    /// say. Nothing but the config file is read from disk.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a file that cannot be read or understood, a key that nobody knows, a flag that
    /// nobody knows, or a known variable that is no UTF-8.
    pub fn read<'a>(
        flags: impl IntoIterator<Item = (&'a str, String)>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let mut flags = Layer::from_flags(flags)?;
        let mut environment = Layer::from_environment(environment, &mut warnings)?;
        let from_environment = environment.values.remove("config");
        let file = match flags.values.remove("config").or(from_environment) {
            Some(Value::String(_, path)) => Some(Layer::from_file(Path::new(&path))?),
            _ => None,
        };

        // The precedence: what is merged later wins.
        let mut layers = Figment::new();
        if let Some(file) = file {
            layers = layers.merge(file);
        }
        layers = layers.merge(environment).merge(flags);

        Ok(Self { layers, warnings })
    }

    /// What is odd about the settings, but no error. Secrets are not in it.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads and checks all that a worker needs, the files named by `scripts`, `jobs` and `endpoints` included.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the first setting that cannot be used, and where it came from.
    pub fn worker(&self) -> Result<Config, Error> {
        let default = Config::default();
        let limits = self.limits()?;
        let config = Config {
            cluster_name: self.parsed("cluster-name")?.unwrap_or(default.cluster_name),
            worker_name: self.worker_name()?.unwrap_or(default.worker_name),
            redis: self.redis()?,
            embedded_redis: self.parsed("embedded-redis")?.unwrap_or_default(),
            redis_blocking_connections: self
                .read_as("redis-blocking-connections", connections)?
                .unwrap_or(default.redis_blocking_connections),
            scripts: self.scripts("scripts", limits.source)?,
            jobs: self.jobs(limits.source)?,
            endpoints: self.endpoints(limits.source)?,
            run_now: self.read_as("run-now", boolean)?.unwrap_or_default(),
            lease: self.read_as("lease-seconds", lease)?.unwrap_or(default.lease),
            drain_timeout: self.read_as("drain-timeout", duration)?.unwrap_or(default.drain_timeout),
            stall_after: self.read_as("stall-after", duration)?.unwrap_or(default.stall_after),
            limits,
            weight: self.parsed("weight")?.unwrap_or(default.weight),
            max_threads: self.parsed("max-threads")?,
            labels: self.parsed("labels")?.unwrap_or(default.labels),
            cpu_threshold: self.read_as("cpu-threshold", unless_off)?.unwrap_or(default.cpu_threshold),
            mem_threshold: self.read_as("mem-threshold", unless_off)?.unwrap_or(default.mem_threshold),
            memory_budget: self.read_as("memory-budget", unless_off)?.unwrap_or(default.memory_budget),
            warm_memory: self.read_as("warm-memory", any_bytes)?,
            preemption: self.read_as("preemption", preemption)?.unwrap_or(default.preemption),
            health_interval: self.read_as("health-interval", some_time)?.unwrap_or(default.health_interval),
            host: self.read_as("host", boolean)?.unwrap_or_default(),
            host_port: self.read_as("host-port", port)?.unwrap_or(default.host_port),
            endpoint_body_limit: self
                .read_as("endpoint-body-limit", bytes)?
                .unwrap_or(default.endpoint_body_limit),
            endpoint_concurrency: self
                .read_as("endpoint-concurrency", connections)?
                .unwrap_or(default.endpoint_concurrency),
            health_port: self.read_as("health-port", port)?,
            bind: self.read_as("bind", address)?.unwrap_or(default.bind),
            preload: self.libraries("preload", limits.source)?,
            allow_net: self.list_of("allow-net")?,
            deny_net: self.list_of("deny-net")?,
            http_proxy: self.read_as("http-proxy", boolean)?.unwrap_or_default(),
            http_fence: self.read_as("http-fence", boolean)?.unwrap_or_default(),
            sqlite_dir: self.read_as("sqlite-dir", |text| Ok(PathBuf::from(text)))?,
            sql_connections: self.read_as("sql-connections", connections)?.unwrap_or(default.sql_connections),
            call_log: self.read_as("call-log", |text| Ok(PathBuf::from(text)))?,
            system_root: self
                .read_as("system-root", |text| Ok(PathBuf::from(text)))?
                .unwrap_or(default.system_root),
        };
        config.check()?;
        Ok(config)
    }

    /// Reads what an administrative command needs. It talks to a Redis that is already there, so an address has
    /// to be given.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the first setting that cannot be used, and where it came from.
    pub fn admin(&self) -> Result<AdminConfig, Error> {
        let cluster_name = match self.parsed("cluster-name")? {
            Some(name) => name,
            None => Config::default().cluster_name,
        };
        let Some(redis) = self.redis()? else {
            return Err(Error::Config(
                "redis-address is missing: this command needs the address of the cluster's Redis; a worker with an \
                 embedded one prints it at its start"
                    .to_owned(),
            ));
        };
        Ok(AdminConfig { cluster_name, redis })
    }

    /// Reads where this worker's health port is asked from the same machine, by the settings that the worker was given.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a setting that cannot be used; also for port 0, since only the worker's log knows which one
    /// it then took.
    pub fn health_address(&self) -> Result<SocketAddr, Error> {
        let ip = match self.read_as("bind", address)?.unwrap_or(Config::default().bind) {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        match self.read_as("health-port", port)?.unwrap_or(crate::health::PORT) {
            0 => Err(Error::Config(
                "health-port is 0, which is any free one: it cannot be known from here, so give the worker a port"
                    .to_owned(),
            )),
            port => Ok(SocketAddr::new(ip, port)),
        }
    }

    /// Reads where traces go. None: nowhere.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the setting that cannot be used, and where it came from.
    pub fn traces(&self) -> Result<Option<TraceConfig>, Error> {
        let Some(endpoint) = self.read_as("otlp-endpoint", otlp_endpoint)? else { return Ok(None) };
        let cluster_name = self.parsed("cluster-name")?.unwrap_or(Config::default().cluster_name);
        Ok(Some(TraceConfig { endpoint, cluster_name }))
    }

    /// Reads how to write logs.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the setting that cannot be used, and where it came from.
    pub fn logs(&self) -> Result<LogConfig, Error> {
        Ok(LogConfig {
            format: self.parsed("log-format")?.unwrap_or_default(),
            level: self.parsed("log-level")?.unwrap_or_default(),
        })
    }

    fn limits(&self) -> Result<Limits, Error> {
        let default = Limits::default();
        Ok(Limits {
            memory: self.read_as("memory-limit", bytes)?.unwrap_or(default.memory),
            stack: self.read_as("stack-limit", bytes)?.unwrap_or(default.stack),
            source: self.read_as("source-limit", bytes)?.unwrap_or(default.source),
            call_timeout: self.read_as("call-timeout", some_time)?,
            http_body: self.read_as("http-body-limit", bytes)?.unwrap_or(default.http_body),
            log_line: self.read_as("log-line-limit", count)?.unwrap_or(default.log_line),
        })
    }

    /// Address, user and password. The last two mean nothing without the first: it was forgotten.
    fn redis(&self) -> Result<Option<RedisConfig>, Error> {
        let username = self.secret("redis-username")?;
        let password = self.secret("redis-password")?;
        let Some(found) = self.find("redis-address") else {
            let given = [("redis-username", &username), ("redis-password", &password)];
            return match given.iter().find(|(_, value)| value.is_some()) {
                Some((name, _)) => {
                    Err(Error::Config(format!("{name} is given, but redis-address is missing")))
                }
                None => Ok(None),
            };
        };
        let place = self.place(&found, "redis-address");
        let text = text(&found).map_err(|message| Error::Config(format!("{place}: {message}")))?;
        if text.is_empty() {
            return Err(Error::Config(format!("{place} is empty: leave it out to start an embedded Redis")));
        }
        let address: RedisAddress =
            text.parse().map_err(|error| Error::Config(format!("{place}: {error}")))?;
        Ok(Some(RedisConfig { address, username, password: password.map(Secret::new) }))
    }

    /// A text that no error repeats. Empty counts as not given.
    fn secret(&self, name: &'static str) -> Result<Option<String>, Error> {
        match self.find(name) {
            None | Some(Value::Empty(..)) => Ok(None),
            Some(Value::String(_, text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            // A number may have lost digits by now, so it must not be taken for the password.
            Some(other) => {
                let place = self.place(&other, name);
                Err(Error::Config(format!("{place} must be a text: put it in quotes")))
            }
        }
    }

    /// A file of 2020 may leave the name empty, which meant a random one.
    fn worker_name(&self) -> Result<Option<WorkerName>, Error> {
        let file_left_it_empty = self.find("worker-name").is_some_and(|value| {
            text(&value).is_ok_and(|text| text.is_empty())
                && self.layers.get_metadata(value.tag()).is_some_and(|layer| layer.name == FILE)
        });
        if file_left_it_empty { Ok(None) } else { self.parsed("worker-name") }
    }

    fn parsed<T>(&self, name: &'static str) -> Result<Option<T>, Error>
    where
        T: FromStr,
        T::Err: ToString,
    {
        self.read_as(name, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    fn read_as<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let parsed = text(&value).and_then(|text| match text.trim() {
            "" => Err("a value is missing".to_owned()),
            text => parse(text),
        });
        parsed.map(Some).map_err(|message| self.refuse(&value, name, &message))
    }

    /// A list in a file, or a text with commas anywhere.
    fn list(&self, name: &'static str) -> Result<Vec<String>, Error> {
        let Some(value) = self.find(name) else { return Ok(Vec::new()) };
        let items = match &value {
            Value::Array(_, items) => items.iter().map(text).collect::<Result<Vec<_>, _>>(),
            other => text(other).map(|text| match text.trim() {
                "" => Vec::new(),
                text => text.split(',').map(str::to_owned).collect(),
            }),
        };
        let items = items.map_err(|message| self.refuse(&value, name, &message))?;
        let mut trimmed: Vec<String> = Vec::new();
        for item in items {
            match item.trim() {
                "" => return Err(self.refuse(&value, name, "the list has an empty item")),
                item if trimmed.iter().any(|earlier| earlier == item) => {}
                item => trimmed.push(item.to_owned()),
            }
        }
        if trimmed.is_empty() && self.is_flag(&value) {
            return Err(self.refuse(&value, name, "a value is missing"));
        }
        Ok(trimmed)
    }

    fn list_of<T>(&self, name: &'static str) -> Result<Vec<T>, Error>
    where
        T: FromStr,
        T::Err: ToString,
    {
        let items = self.list(name)?;
        items
            .iter()
            .map(|item| {
                item.parse().map_err(|error: T::Err| match self.find(name) {
                    Some(value) => self.refuse(&value, name, &error.to_string()),
                    None => Error::Config(error.to_string()),
                })
            })
            .collect()
    }

    /// The scripts that a setting names, with what they import.
    fn scripts(&self, name: &'static str, bytes_max: usize) -> Result<Vec<Script>, Error> {
        self.each_of(name, |path| {
            let Source { bundle, left_out } =
                Source::from_file(Path::new(path), bytes_max).map_err(|error| error.to_string())?;
            for left_out in left_out {
                tracing::warn!("{left_out}; it is left out");
            }
            let name = TaskName::new(path).map_err(|error| error.to_string())?;
            Ok(Script { name, source: bundle })
        })
    }

    /// The jobs that `jobs` names, with what they import.
    fn jobs(&self, bytes_max: usize) -> Result<Vec<Job>, Error> {
        let Some(value) = self.find(JOBS) else { return Ok(Vec::new()) };
        jobs::read(&value, bytes_max).map_err(|message| self.refuse(&value, JOBS, &message))
    }

    /// The endpoints in the folder that `endpoints` names.
    fn endpoints(&self, bytes_max: usize) -> Result<Vec<Endpoint>, Error> {
        Ok(self.read_as("endpoints", |folder| read_folder(folder, bytes_max))?.unwrap_or_default())
    }

    fn libraries(&self, name: &'static str, bytes_max: usize) -> Result<Vec<Library>, Error> {
        self.each_of(name, |path| {
            let source = bundle::read_alone(Path::new(path), bytes_max)?;
            Ok(Library { name: path.into(), source: source.into() })
        })
    }

    fn each_of<T>(
        &self,
        name: &'static str,
        mut of: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Error> {
        let refuse = |message: String| match self.find(name) {
            Some(value) => self.refuse(&value, name, &message),
            None => Error::Config(message),
        };
        self.list(name)?.iter().map(|path| of(path).map_err(refuse)).collect()
    }

    fn find(&self, name: &str) -> Option<Value> {
        self.layers.find_value(name).ok()
    }

    fn is_flag(&self, value: &Value) -> bool {
        self.layers.get_metadata(value.tag()).is_some_and(|layer| layer.name == FLAG)
    }

    fn refuse(&self, value: &Value, name: &'static str, message: &str) -> Error {
        Error::Config(format!("{}: {message}", self.place(value, name)))
    }

    /// Where a value came from, as its author wrote it: `--lease-seconds`, `HATS_LEASE_SECONDS`,
    /// `lease-seconds in worker.config`.
    fn place(&self, value: &Value, name: &str) -> String {
        match self.layers.get_metadata(value.tag()) {
            Some(layer) => layer.interpolate(self.layers.profile(), &[name]),
            None => name.to_owned(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = KEYS.iter().map(|key| key.name).filter(|name| self.find(name).is_some());
        f.debug_struct("Settings").field("given", &given.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

const FLAG: &str = "flag";
const ENVIRONMENT: &str = "environment";
const FILE: &str = "file";

/// What one source says, by the names of settings.
struct Layer {
    /// One of the three constants above.
    kind: &'static str,
    values: Dict,
    /// Where a setting is to be corrected, in the words of who wrote it.
    places: BTreeMap<String, String>,
}

impl Layer {
    fn from_flags<'a>(flags: impl IntoIterator<Item = (&'a str, String)>) -> Result<Self, Error> {
        let mut layer = Self::empty(FLAG);
        for (name, value) in flags {
            if name != "config" && !KEYS.iter().any(|key| key.name == name) {
                return Err(Error::Config(format!("unknown flag --{name}; {}", nearest_hint(name, "--"))));
            }
            if name == JOBS {
                layer.append(name, value, format!("--{name}"));
            } else {
                layer.insert(name, value, format!("--{name}"));
            }
        }
        if let Some(Value::String(_, path)) = layer.values.get("config")
            && path.is_empty()
        {
            return Err(Error::Config("--config: a value is missing".to_owned()));
        }
        Ok(layer)
    }

    fn from_environment(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let mut layer = Self::empty(ENVIRONMENT);
        for (variable, value) in environment {
            let Some(variable) = variable.to_str() else { continue };
            let Some(suffix) = variable.strip_prefix("HATS_") else { continue };
            let name = suffix.to_ascii_lowercase().replace('_', "-");
            let is_known = name == "config" || KEYS.iter().any(|key| key.name == name);
            if !is_known || variable_of(&name) != variable {
                let nearest = variable_of(nearest(&name, KEYS.iter().map(|key| key.name)));
                warnings.push(format!(
                    "unknown variable {variable} is ignored; the nearest known one is {nearest}"
                ));
                continue;
            }
            let Some(value) = value.to_str() else {
                return Err(Error::Config(format!("{variable} is not valid UTF-8")));
            };
            // Kubernetes sets HATS_HOST_PORT for every pod beside a service that is called `hats-host`.
            if name.ends_with("-port") && value.contains("://") {
                warnings.push(format!("{variable} is ignored: it names a service, as Kubernetes sets it"));
                continue;
            }
            layer.insert(&name, value.to_owned(), variable.to_owned());
        }
        Ok(layer)
    }

    fn from_file(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let content = read_text(path, CONFIG_BYTES_MAX, "")
            .map_err(|message| Error::Config(format!("config file: {message}")))?;
        let content = content.trim_start_matches('\u{feff}');
        let table = parse(path, content).map_err(|message| Error::Config(format!("{shown}: {message}")))?;
        let mut layer = Self::empty(FILE);
        for (written, value) in table {
            let Some(key) = KEYS.iter().find(|key| key.name == written || key.alias == Some(&written)) else {
                return Err(Error::Config(format!(
                    "{shown}: unknown key {}; {}",
                    quoted(&written),
                    nearest_hint(&written, "")
                )));
            };
            let place = format!("{written} in {shown}");
            if layer.values.insert(key.name.to_owned(), value).is_some() {
                let alias = key.alias.unwrap_or_default();
                return Err(Error::Config(format!(
                    "{shown}: {alias} and {} mean the same setting",
                    key.name
                )));
            }
            layer.places.insert(key.name.to_owned(), place);
        }
        Ok(layer)
    }

    fn empty(kind: &'static str) -> Self {
        Self { kind, values: Dict::new(), places: BTreeMap::new() }
    }

    /// One item of a list.
    fn append(&mut self, name: &str, item: String, place: String) {
        let list = self.values.entry(name.to_owned()).or_insert_with(|| Value::from(Vec::<String>::new()));
        if let Value::Array(_, items) = list {
            items.push(Value::from(item));
        }
        self.places.insert(name.to_owned(), place);
    }

    fn insert(&mut self, name: &str, value: String, place: String) {
        self.values.insert(name.to_owned(), Value::from(value));
        self.places.insert(name.to_owned(), place);
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let places = self.places.clone();
        Metadata::named(self.kind).interpolater(move |_: &Profile, keys: &[&str]| {
            let name = keys.join(".");
            places.get(&name).cloned().unwrap_or(name)
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The keys of a config file. An error has the place, and nothing of what stands there.
fn parse(path: &Path, content: &str) -> Result<Dict, String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let value = match extension.to_ascii_lowercase().as_str() {
        "json" => json(content)?,
        "yaml" | "yml" => yaml(content)?,
        "config" if content.trim_start().starts_with(['{', '[']) => json(content)?,
        _ => toml(content)?,
    };
    match value {
        Value::Dict(_, table) => Ok(table),
        Value::Empty(..) => Ok(Dict::new()),
        _ => Err("expected keys with values".to_owned()),
    }
}

fn json(content: &str) -> Result<Value, String> {
    // serde_json's messages speak of what it expected, never of what it found.
    Json::from_str(content).map_err(|error| format!("not valid JSON: {error}"))
}

fn yaml(content: &str) -> Result<Value, String> {
    Yaml::from_str(content).map_err(|error| match error.location() {
        Some(at) => format!("not valid YAML at line {} column {}", at.line(), at.column()),
        None => "not valid YAML".to_owned(),
    })
}

fn toml(content: &str) -> Result<Value, String> {
    // The error's own text would repeat the line.
    Toml::from_str(content).map_err(|error| {
        let before = error.span().and_then(|span| content.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("not valid TOML at line {line} column {column}")
    })
}

/// What a scalar would be in the environment.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(_, text) => Ok(text.clone()),
        Value::Char(_, one) => Ok(one.to_string()),
        Value::Bool(_, flag) => Ok(flag.to_string()),
        Value::Num(_, number) => Ok(number_text(*number)),
        Value::Empty(..) => Ok(String::new()),
        Value::Dict(..) => Err("expected one value, got a table".to_owned()),
        Value::Array(..) => Err("expected one value, got a list".to_owned()),
    }
}

fn number_text(number: Num) -> String {
    match number {
        Num::F32(float) => float.to_string(),
        Num::F64(float) => float.to_string(),
        whole => match whole.to_i128() {
            Some(signed) => signed.to_string(),
            None => whole.to_u128().map(|unsigned| unsigned.to_string()).unwrap_or_default(),
        },
    }
}

fn variable_of(name: &str) -> String {
    format!("HATS_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// A flag or a key that is most like `name`, as an error shows it.
fn nearest_hint(name: &str, dashes: &str) -> String {
    let aliases = KEYS.iter().filter_map(|key| key.alias).filter(|_| dashes.is_empty());
    let nearest = nearest(name, KEYS.iter().map(|key| key.name).chain(aliases));
    format!("the nearest known one is `{dashes}{nearest}`")
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let likeness = |known: &str| strsim::jaro_winkler(name, known);
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default()
}

fn unless_off<T: FromStr<Err = String>>(text: &str) -> Result<Option<T>, String> {
    if is_off(text) { Ok(None) } else { text.parse().map(Some) }
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if lease < Config::LEASE_MIN || lease > Config::LEASE_MAX {
        let (least, most) = (Config::LEASE_MIN.as_secs(), Config::LEASE_MAX.as_secs());
        return Err(format!("must be from {least} to {most} seconds, got {}", quoted(text)));
    }
    Ok(lease)
}

fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("must be above 0, got {}", quoted(text))),
        time => Ok(time),
    }
}

/// What spans are posted to: the base URL of a collector with the path of the protocol.
fn otlp_endpoint(text: &str) -> Result<String, String> {
    const PATH: &str = "v1/traces";
    if text.contains('@') {
        // Whoever sees the flags of a process would see them, and so would whoever reads this error.
        return Err("credentials belong into OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    let wrong = || format!("expected a URL such as http://collector:4318, got {}", quoted(text));
    let url =
        text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(wrong)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    let base = url.as_str().trim_end_matches('/');
    Ok(if base.ends_with(&format!("/{PATH}")) { base.to_owned() } else { format!("{base}/{PATH}") })
}

fn bytes(text: &str) -> Result<usize, String> {
    match usize::try_from(size(text)?) {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(format!("{} is out of range", quoted(text))),
    }
}

/// As [`bytes`], and 0 for none.
fn preemption(text: &str) -> Result<Preemption, String> {
    match text {
        "auto" => Ok(Preemption::Auto),
        "signals" => Ok(Preemption::Signals),
        "yields" => Ok(Preemption::Yields),
        _ => Err(format!("expected auto, signals or yields, got {}", quoted(text))),
    }
}

fn any_bytes(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("{} is out of range", quoted(text)))
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("expected a number above 0, got {}", quoted(text))),
    }
}

fn connections(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .ok()
        .filter(|count: &NonZeroUsize| count.get() <= CONNECTIONS_MAX)
        .ok_or_else(|| format!("expected a number from 1 to {CONNECTIONS_MAX}, got {}", quoted(text)))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("expected a port from 0 to 65535, got {}", quoted(text)))
}

fn address(text: &str) -> Result<std::net::IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("expected an IP address such as 127.0.0.1, got {}", quoted(text)))
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("expected `text` or `json`, got {}", quoted(text))),
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(format!(
                "expected `error`, `warn`, `info`, `debug`, `trace` or `off`, got {}",
                quoted(text)
            )),
        }
    }
}

impl LogLevel {
    /// The name of it, as in `RUST_LOG`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

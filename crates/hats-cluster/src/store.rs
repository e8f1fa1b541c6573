//! Every question and every change we send to Redis, one typed function each.
//!
//! Whatever decides something is one Lua script that touches exactly one key; the scripts stand in `lua/`, each with a
//! header that says KEYS, ARGV and Returns, and each with one caller in this module. Must always hold: a refusal is an
//! answer, never an error; an error says that the outcome is not known; nothing in here repeats what may have been
//! carried out (the one exception, NOSCRIPT, says that nothing was).

mod claims;
mod definitions;
mod endpoints;
mod lua;
mod outlines;
mod poison;
mod sessions;
#[cfg(test)]
mod tests;
mod ticks;
mod workers;

use std::collections::HashMap;

use fred::clients::Client;
use fred::interfaces::{ClientLike, KeysInterface, LuaInterface};
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand, Value};

pub use self::claims::{
    Answer, BACK_OFF_MAX, ClaimRequest, Granted, HEALTHY_AFTER, Handover, PREFER_MAX, ReleaseKind, Released,
};
pub(crate) use self::definitions::wall_clock_text;
pub use self::definitions::{MirrorError, MirrorUpdate, Put};
pub use self::endpoints::EndpointOutline;
use self::lua::Lua;
pub use self::outlines::{JobOutline, Outlines};
pub use self::poison::{Struck, Verdict};
pub use self::sessions::{Burial, Load, Opened, Renewal, Sample, SessionInfo};
pub use self::ticks::{AGAIN_MAX, Asked, Ended, Jobs, Run, Said, TickAnswer, TickRequest, Waiting};
pub(crate) use self::workers::ROW_TTL;
use crate::error::Error;
use crate::id::SessionId;
use crate::keys::{Key, Keys};
use crate::name::{EndpointPath, Task, TaskKind, TaskName, WorkerName};

/// So many commands go into one pipeline: few enough that Redis answers all within the timeout of one command.
const PIPELINE_MAX: usize = 200;
/// So many sources are asked for in one pipeline: each may be a megabyte.
const SOURCES_MAX: usize = 32;
/// So many keys one page of a SCAN looks at.
const SCAN_COUNT: u32 = 500;

/// What can be done to the records of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Client,
    keys: Keys,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("cluster", self.keys.cluster()).finish_non_exhaustive()
    }
}

/// What a SCAN over all keys of the cluster has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Threads with a definition.
    pub threads: Vec<TaskName>,
    /// Jobs with a definition.
    pub jobs: Vec<TaskName>,
    /// Endpoints with a definition.
    pub endpoints: Vec<EndpointPath>,
    /// Threads with a claim.
    pub claims: Vec<TaskName>,
    /// Sessions.
    pub sessions: Vec<SessionId>,
    /// Workers with a row.
    pub workers: Vec<WorkerName>,
    /// Tasks with a poison record.
    pub poison: Vec<Task>,
}

impl Store {
    /// A store that sends through this client.
    #[must_use]
    pub fn new(client: Client, keys: Keys) -> Self {
        Self { client, keys }
    }

    /// The client it sends through.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The keys of its cluster.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Loads all scripts, on every master. To be called at every connect; what is missing in spite of it is sent whole.
    ///
    /// # Errors
    /// When Redis refuses or does not answer; nothing is lost by it.
    pub async fn load_scripts(&self) -> Result<(), Error> {
        for lua in lua::all() {
            for master in self.masters() {
                let () = match master {
                    Some(master) => self.client.with_cluster_node(master).script_load(lua.text()).await,
                    None => self.client.script_load(lua.text()).await,
                }
                .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Redis' own clock, in milliseconds.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn server_time(&self) -> Result<u64, Error> {
        let time = CustomCommand::new_static("TIME", ClusterHash::Random, false);
        let (seconds, micros): (u64, u64) =
            self.client.custom(time, Vec::<Value>::new()).await.map_err(failed)?;
        Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }

    /// Looks for everything of this cluster, by one SCAN over all keys. Slow, and the truth: indexes are shortcuts.
    ///
    /// # Errors
    /// When Redis does not answer; then nothing is known.
    pub async fn scan(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        let pattern = format!("{}:*", self.keys.cluster());
        self.scan_pages(&pattern, |key| match self.keys.parse(key) {
            Some(Key::Thread(name)) => found.threads.push(name),
            Some(Key::Job(name)) => found.jobs.push(name),
            Some(Key::Endpoint(name)) => found.endpoints.push(name),
            Some(Key::Claim(name)) => found.claims.push(name),
            Some(Key::Session(id)) => found.sessions.push(id),
            Some(Key::Worker(name)) => found.workers.push(name),
            Some(Key::Poison(task)) => found.poison.push(task),
            // Whoever runs jobs looks for these.
            Some(Key::Ticks(_)) | None => {}
        })
        .await?;
        // A SCAN may show a key twice.
        found.threads = distinct(found.threads);
        found.jobs = distinct(found.jobs);
        found.endpoints = distinct(found.endpoints);
        found.claims = distinct(found.claims);
        found.sessions = distinct(found.sessions);
        found.workers = distinct(found.workers);
        found.poison = distinct(found.poison);
        Ok(found)
    }

    /// The names of all threads, or all jobs, that have a definition, by SCAN.
    ///
    /// # Errors
    /// When Redis does not answer; then nothing is known.
    pub async fn scan_definitions(&self, kind: TaskKind) -> Result<Vec<TaskName>, Error> {
        let mut names = Vec::new();
        self.scan_pages(&self.keys.definitions_pattern(kind), |key| {
            if let Some(Key::Thread(name) | Key::Job(name)) = self.keys.parse(key) {
                names.push(name);
            }
        })
        .await?;
        Ok(distinct(names))
    }

    /// The masters of a Redis Cluster, or the one server there is.
    fn masters(&self) -> Vec<Option<Server>> {
        match self.client.is_clustered() {
            true => self.client.active_connections().into_iter().map(Some).collect(),
            false => vec![None],
        }
    }

    /// Goes over all keys of all masters that match.
    async fn scan_pages(&self, pattern: &str, mut each: impl FnMut(&str) + Send) -> Result<(), Error> {
        for master in self.masters() {
            let mut cursor = "0".to_owned();
            loop {
                let page: Value = match master.clone() {
                    Some(master) => {
                        let client = self.client.with_cluster_node(master);
                        client.scan_page(cursor, pattern, Some(SCAN_COUNT), None).await.map_err(failed)?
                    }
                    None => self
                        .client
                        .scan_page(cursor, pattern, Some(SCAN_COUNT), None)
                        .await
                        .map_err(failed)?,
                };
                let mut page = lua::Reply::new("scan", page)?;
                cursor = page.text(0)?;
                page.each_of(1, &mut each);
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Runs one script.
    async fn run(&self, call: Call) -> Result<lua::Reply, Error> {
        let reply: Result<Value, _> = self.client.custom(call.command(false), call.args(false)).await;
        let reply = match reply {
            Err(error) if is_noscript(&error) => {
                self.client.custom(call.command(true), call.args(true)).await
            }
            reply => reply,
        };
        lua::Reply::new(call.lua.name(), reply.map_err(failed)?)
    }

    /// Runs scripts in pipelines; the answers come in the order of the calls, each for itself.
    async fn run_many(&self, calls: Vec<Call>) -> Vec<Result<lua::Reply, Error>> {
        self.run_chunks(calls, PIPELINE_MAX).await
    }

    async fn run_chunks(&self, calls: Vec<Call>, most: usize) -> Vec<Result<lua::Reply, Error>> {
        let mut replies = Vec::with_capacity(calls.len());
        for calls in calls.chunks(most) {
            replies.extend(self.run_pipeline(calls).await);
        }
        replies
    }

    async fn run_pipeline(&self, calls: &[Call]) -> Vec<Result<lua::Reply, Error>> {
        let mut results = self.pipelined(calls, false).await;
        let missing: Vec<usize> =
            (0..calls.len()).filter(|&nth| results[nth].as_ref().err().is_some_and(is_noscript)).collect();
        if !missing.is_empty() {
            let again: Vec<Call> = missing.iter().map(|&nth| calls[nth].clone()).collect();
            for (nth, result) in missing.into_iter().zip(self.pipelined(&again, true).await) {
                results[nth] = result;
            }
        }
        let replies = calls.iter().zip(results);
        replies.map(|(call, result)| lua::Reply::new(call.lua.name(), result.map_err(failed)?)).collect()
    }

    /// One pipeline, exactly one result for each call.
    async fn pipelined(&self, calls: &[Call], whole: bool) -> Vec<Result<Value, fred::error::Error>> {
        let pipeline = self.client.pipeline();
        for call in calls {
            let queued: Result<(), _> = pipeline.custom(call.command(whole), call.args(whole)).await;
            if let Err(error) = queued {
                return vec![Err(error); calls.len()];
            }
        }
        one_for_each(calls.len(), pipeline.try_all().await)
    }
}

/// One script to run: on this key, with these arguments.
#[derive(Clone)]
struct Call {
    lua: &'static Lua,
    key: String,
    args: Vec<Value>,
}

impl Call {
    fn new(lua: &'static Lua, key: String, args: Vec<String>) -> Self {
        Self { lua, key, args: args.into_iter().map(Value::from).collect() }
    }

    /// EVAL (the script as a whole) or EVALSHA, sent to the node of a Redis Cluster that has the key. The client would
    /// go by the first argument, whatever place it is told, if it were not told the slot itself.
    fn command(&self, whole: bool) -> CustomCommand {
        let slot = ClusterHash::from(self.key.as_str());
        CustomCommand::new_static(if whole { "EVAL" } else { "EVALSHA" }, slot, false)
    }

    /// The arguments of EVAL (the script as a whole) or EVALSHA.
    fn args(&self, whole: bool) -> Vec<Value> {
        let script = if whole { self.lua.text() } else { self.lua.sha() };
        let mut args = Vec::with_capacity(self.args.len() + 3);
        args.extend([Value::from(script), Value::from("1"), Value::from(self.key.as_str())]);
        args.extend(self.args.iter().cloned());
        args
    }
}

/// What a pipeline gave, as one result for each of its commands: a pipeline that failed as a whole gives one error.
fn one_for_each(
    commands: usize,
    mut results: Vec<Result<Value, fred::error::Error>>,
) -> Vec<Result<Value, fred::error::Error>> {
    if results.len() == commands {
        return results;
    }
    let error = match results.pop() {
        Some(Err(error)) => error,
        _ => fred::error::Error::new(fred::error::ErrorKind::Protocol, "a pipeline lost replies"),
    };
    vec![Err(error); commands]
}

fn is_noscript(error: &fred::error::Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// An error of one command. A key that holds another type is a matter of that key, not of our configuration.
fn failed(error: fred::error::Error) -> Error {
    match is_of_another_type(&error) {
        true => Error::Server(error.details().to_owned()),
        false => Error::from(error),
    }
}

/// Whether somebody has put something else where a record of ours should be.
fn is_of_another_type(error: &fred::error::Error) -> bool {
    error.details().starts_with("WRONGTYPE")
}

/// One reading among many. A key of another type counts as absent, so that it is in nobody else's way.
fn read_one(result: Result<Value, fred::error::Error>) -> Result<Value, Error> {
    match result {
        Err(error) if is_of_another_type(&error) => Ok(Value::Null),
        result => result.map_err(failed),
    }
}

fn distinct<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values.dedup();
    values
}

/// A flat array of fields and values as a map. What is no text is shown as text as far as it goes.
fn field_map(value: Value) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    match value {
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
                if let (Some(field), Some(value)) = (lua::lossy(&field), lua::lossy(&value)) {
                    fields.insert(field, value);
                }
            }
        }
        Value::Map(map) => {
            for (field, value) in map.inner() {
                if let (Some(field), Some(value)) = (field.into_string(), lua::lossy(&value)) {
                    fields.insert(field, value);
                }
            }
        }
        _ => {}
    }
    fields
}

//! The commands that scripts send all the time, many of them together.
//!
//! What the scripts of a lane ask for in one round of the lane leaves as one pipeline: one wait, one timer and one write
//! for all of them. Only commands with flat replies are carried so: a pipeline's replies are converted by the client,
//! which goes as deep as a server has nested them.
//!
//! What must hold: each command passes the gate of its task when it is asked for and again when its round leaves, so that
//! a script that was interrupted, or whose lease is lost, sends nothing more; and a round that has not left when the first of these leases ends never will (see [`super::LaneConnection`]).

use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface, ListInterface};
use fred::types::config::Options;
use fred::types::{Key, Value as RedisValue};
use tokio::sync::oneshot;

use super::connections::{answered, message_of};
use super::{Reply, command};
use crate::metrics::{Command, LaneMetrics};
use crate::vm::Passed;

/// A command that many may share a pipeline with.
pub(super) enum Frequent {
    Get(Key),
    Set(Key, RedisValue),
    Incr(Key),
    Decr(Key),
    Del(Key),
    Exists(Key),
    Hget(Key, Key),
    Llen(Key),
    Lpop(Key),
    Rpop(Key),
    Lpush(Key, RedisValue),
    Rpush(Key, RedisValue),
}

/// A command of a script that waits for its round to leave, and then for its reply.
pub(super) struct Asked {
    pub(super) command: Frequent,
    pub(super) passed: Passed,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// A round has not been answered in time, and part of it may not even have left.
pub(super) struct Overdue;

impl Frequent {
    /// None for any other command; the arguments are left as they are then. `name` is in upper case.
    pub(super) fn new(name: &str, arguments: &mut [RedisValue]) -> Option<Self> {
        Some(match (name, arguments) {
            ("GET", [key]) => Self::Get(take_key(key)),
            ("SET", [key, value]) => Self::Set(take_key(key), value.take()),
            ("INCR", [key]) => Self::Incr(take_key(key)),
            ("DECR", [key]) => Self::Decr(take_key(key)),
            ("DEL", [key]) => Self::Del(take_key(key)),
            ("EXISTS", [key]) => Self::Exists(take_key(key)),
            ("HGET", [key, field]) => Self::Hget(take_key(key), take_key(field)),
            ("LLEN", [key]) => Self::Llen(take_key(key)),
            ("LPOP", [key]) => Self::Lpop(take_key(key)),
            ("RPOP", [key]) => Self::Rpop(take_key(key)),
            ("LPUSH", [key, value]) => Self::Lpush(take_key(key), value.take()),
            ("RPUSH", [key, value]) => Self::Rpush(take_key(key), value.take()),
            _ => return None,
        })
    }

    /// What it is counted as.
    fn counted_as(&self) -> Command {
        match self {
            Self::Get(_) => Command::Get,
            Self::Set(..) => Command::Set,
            Self::Incr(_) => Command::Incr,
            Self::Decr(_) => Command::Decr,
            Self::Del(_) => Command::Del,
            Self::Exists(_) => Command::Exists,
            Self::Hget(..) => Command::Hget,
            Self::Llen(_) => Command::Llen,
            Self::Lpop(_) => Command::Lpop,
            Self::Rpop(_) => Command::Rpop,
            Self::Lpush(..) => Command::Lpush,
            Self::Rpush(..) => Command::Rpush,
        }
    }

    /// Sends it, or puts it into a pipeline.
    async fn send<C: HashesInterface + KeysInterface + ListInterface + Sync>(
        self,
        client: &C,
    ) -> Result<RedisValue, FredError> {
        match self {
            Self::Get(key) => client.get(key).await,
            Self::Set(key, value) => client.set(key, value, None, None, false).await,
            Self::Incr(key) => client.incr(key).await,
            Self::Decr(key) => client.decr(key).await,
            Self::Del(key) => client.del(key).await,
            Self::Exists(key) => client.exists(key).await,
            Self::Hget(key, field) => client.hget(key, field).await,
            Self::Llen(key) => client.llen(key).await,
            Self::Lpop(key) => client.lpop(key, None).await,
            Self::Rpop(key) => client.rpop(key, None).await,
            Self::Lpush(key, value) => client.lpush(key, value).await,
            Self::Rpush(key, value) => client.rpush(key, value).await,
        }
    }
}

/// A key as the client wants it. Every argument is text, bytes or a number, and each can be a key.
fn take_key(value: &mut RedisValue) -> Key {
    match value.take() {
        RedisValue::String(text) => Key::from(text),
        RedisValue::Bytes(bytes) => Key::from(bytes),
        other => Key::from(command::text(&other)),
    }
}

/// Sends the commands of one round and answers each. Those whose lease has ended are not sent; the others have as long
/// as the first of their leases, and `most`. Each is counted with the time that the round has taken.
pub(super) async fn send_round(
    client: &Client,
    round: Vec<Asked>,
    most: Duration,
    metrics: &LaneMetrics,
) -> Result<(), Overdue> {
    let mut time = most;
    let mut commands = Vec::with_capacity(round.len());
    let mut waiting = Vec::with_capacity(round.len());
    for Asked { command, passed, reply } in round {
        let Some(trusted) = passed.again() else {
            answer(reply, Err("ERR the task is no longer ours, or was interrupted".to_owned()));
            continue;
        };
        time = time.min(trusted);
        waiting.push((reply, command.counted_as()));
        commands.push(command);
    }
    let begun = Instant::now();
    let mut results = send_together(client, commands, time).await;
    let took = metrics.redis.timed(begun.elapsed());
    let overdue = results.iter().any(is_timeout);
    // Where the connection broke there is one error for several.
    if let Some(last) = results.last().cloned() {
        results.resize(waiting.len(), last);
    }
    for ((reply, command), result) in waiting.into_iter().zip(results) {
        metrics.redis.count(command, took, answered(&result));
        answer(reply, result.map_err(|error| message_of(&error)));
    }
    if overdue { Err(Overdue) } else { Ok(()) }
}

/// The results of all commands in their order, or fewer, the last of which is the error of the rest.
async fn send_together(
    client: &Client,
    mut commands: Vec<Frequent>,
    time: Duration,
) -> Vec<Result<RedisValue, FredError>> {
    let Some(last) = commands.pop() else { return Vec::new() };
    let timed = client.with_options(&Options { timeout: Some(time), ..Options::default() });
    if commands.is_empty() {
        return vec![last.send(&timed).await];
    }
    let pipelined = commands.len();
    let pipeline = client.pipeline();
    for command in commands {
        // What comes of it is among the results of the pipeline; here it is only put into it.
        if let Err(error) = command.send(&pipeline).await {
            return vec![Err(error)];
        }
    }
    // The client writes what it has when nothing more is asked of it. With one command left for behind the pipeline, all
    // leaves in one write; the pipeline alone would be written command by command.
    let (mut results, last) = tokio::join!(
        async {
            let all = tokio::time::timeout(time, pipeline.try_all::<RedisValue>());
            all.await.unwrap_or_else(|_| vec![Err(FredError::new(ErrorKind::Timeout, "no answer in time"))])
        },
        last.send(&timed)
    );
    if results.len() == pipelined {
        results.push(last);
    }
    results
}

fn is_timeout(result: &Result<RedisValue, FredError>) -> bool {
    result.as_ref().is_err_and(|error| *error.kind() == ErrorKind::Timeout)
}

fn answer(to: oneshot::Sender<Reply>, reply: Reply) {
    // Nobody waits any more if the lane is being closed.
    let _ = to.send(reply);
}

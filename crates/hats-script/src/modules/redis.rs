//! `redis`: commands to the cluster's Redis, as synchronous calls.
//!
//! The scripts of a lane share one connection, which pipelines what they send; commands that block the server's side of
//! a connection go over a bounded set of others (see `blocking`), and commands that scripts send all the time leave
//! together (see `frequent`). Every command passes the lease gate right before it is handed to the connection, and is
//! forgotten there by the time the lease would end, sent or not: a command that had to wait does not leave after that.

mod blocking;
mod command;
mod connections;
mod frequent;
mod value;

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fred::types::Value as RedisValue;
use hats_arena::Kept;
use rquickjs::atom::PredefinedAtom;
use rquickjs::object::Property;
use rquickjs::{Array, Ctx, Exception, Function, IntoJs, Object, Value};

use self::command::Kind;
use self::connections::Broken;
pub(crate) use self::connections::LaneConnection;
pub use self::connections::{Connections, Error, State};
use self::frequent::Frequent;
use self::value::Arguments;
use super::{Call, define, lazy, plain_object, properties};
use crate::metrics::{Answered, Command};
use crate::vm::Host;

/// The same text as `HSET` with a fence beside the data. `__epoch` is the field that holds it.
const HSET_FENCED: &str = include_str!("redis/hset_fenced.lua");

/// A reply, or the text of the error that came instead.
type Reply = Result<RedisValue, String>;

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let redis = Object::new(ctx.clone())?;
    define(&redis, "redis.Do", host, do_command)?;
    define(&redis, "redis.Call", host, call_command)?;
    define(&redis, "redis.Blpop", host, blpop)?;
    define(&redis, "redis.HsetFenced", host, hset_fenced)?;
    ctx.globals().set("redis", redis)?;
    lazy(ctx, host, "RedisError", "(class RedisError extends Error { get name() { return 'RedisError'; } })")
}

fn do_command<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let reply = run(host, call)?;
    pair(host, call, reply)
}

fn call_command<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match run(host, call)? {
        Ok(reply) => value::to_js(call.ctx, reply),
        Err(message) => Err(redis_error(call.ctx, &message)),
    }
}

fn blpop<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let seconds = call.number(0)?;
    if !(0.0..=1e9).contains(&seconds) {
        return Err(call.wrong(0, "a number of seconds, 0 for no end"));
    }
    let mut arguments = Arguments::new(host);
    arguments.push_argument(call, 1)?;
    arguments.push(seconds.to_string());
    let reply = send_blocking(host, call, "BLPOP", arguments.into_values())?;
    match reply {
        // [key, element]
        Ok(RedisValue::Array(mut pair)) if pair.len() == 2 => value::to_js(call.ctx, pair.swap_remove(1)),
        Ok(_) => "".into_js(call.ctx),
        Err(message) => Err(redis_error(call.ctx, &message)),
    }
}

fn hset_fenced<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if host.control().kind() == crate::host::Kind::Endpoint {
        let message = format!(
            "{}: an endpoint has no epoch, which only threads and jobs have: use redis.Do('HSET', …)",
            call.name
        );
        return Err(Exception::throw_type(call.ctx, &message));
    }
    let mut arguments = Arguments::new(host);
    arguments.push(HSET_FENCED);
    arguments.push(1_i64);
    arguments.push_argument(call, 0)?;
    arguments.push(host.control().epoch().to_string());
    let fields = call.argument(1);
    let Some(fields) = plain_object(&fields) else {
        return Err(call.wrong(1, "an object of fields and values"));
    };
    let mut empty = true;
    for field in properties(call.ctx, fields) {
        let (name, item) = field?;
        empty = false;
        arguments.push(name.as_str());
        if !arguments.push_value(call, &item)? {
            let message = format!(
                "{}: field {name:?} must be a string, number, bigint, boolean or Uint8Array, not {}",
                call.name,
                super::inspect::brief(call.ctx, &item)
            );
            return Err(Exception::throw_type(call.ctx, &message));
        }
    }
    if empty {
        return Err(call.wrong(1, "an object with at least one field"));
    }
    let reply = send(host, call, "EVAL", arguments.into_values())?;
    pair(host, call, reply)
}

/// Checks and sends the command that the arguments of a call spell.
fn run(host: &Rc<Host>, call: &Call<'_, '_>) -> rquickjs::Result<Reply> {
    let name = call.string(0)?.to_ascii_uppercase();
    if !command::is_name(&name) {
        let message = "ERR unknown command: its name is one word, and its arguments are given one by one";
        return Ok(Err(message.to_owned()));
    }
    let mut arguments = Arguments::new(host);
    for n in 1..call.arguments.len() {
        arguments.push_argument(call, n)?;
    }
    let arguments = arguments.into_values();
    match command::kind_of(&name, &arguments) {
        Kind::Plain => send(host, call, &name, arguments),
        Kind::Blocking => send_blocking(host, call, &name, arguments),
        Kind::Refused(why) => Ok(Err(format!("ERR {name} is not available to scripts: {why}"))),
    }
}

fn send(
    host: &Rc<Host>,
    call: &Call<'_, '_>,
    name: &str,
    arguments: Vec<RedisValue>,
) -> rquickjs::Result<Reply> {
    if let Some(refused) = command::refused_key(host.lane.worker.cluster(), &arguments) {
        return Ok(Err(refused));
    }
    match &host.lane.redis {
        Some(connection) => send_over(host, call.ctx, connection, name, arguments),
        None => Ok(Err(NO_REDIS.to_owned())),
    }
}

fn send_over(
    host: &Rc<Host>,
    ctx: &Ctx<'_>,
    connection: &LaneConnection,
    name: &str,
    mut arguments: Vec<RedisValue>,
) -> rquickjs::Result<Reply> {
    if !connection.is_ready() {
        let begun = Instant::now();
        if !host.wait(ctx, connection.ready(host.time_for_io(COMMAND_TIMEOUT_MAX)))? {
            connection.count(Command::of(name), begun, Answered::Not);
            return Ok(Err("ERR there is no connection to Redis".to_owned()));
        }
    }
    // A round ends with the lease; a call that has to end before that goes alone.
    if host.call_outlasts_lease(COMMAND_TIMEOUT_MAX)
        && let Some(command) = Frequent::new(name, &mut arguments)
    {
        // It passes the gate when its round leaves.
        let answer = connection.send_frequent(command, host.control());
        let answer = host.wait_through(ctx, answer)?;
        return Ok(answer.unwrap_or_else(|_| Err("ERR the connection to Redis is being closed".to_owned())));
    }
    host.gate(ctx)?;
    // Pinned where it is made: it is large, and would be copied at each step down otherwise.
    let sent = pin!(connection.send(name, arguments, host.time_for_io(COMMAND_TIMEOUT_MAX)));
    host.wait_through(ctx, sent)
}

fn send_blocking(
    host: &Rc<Host>,
    call: &Call<'_, '_>,
    name: &str,
    arguments: Vec<RedisValue>,
) -> rquickjs::Result<Reply> {
    if let Some(refused) = command::refused_key(host.lane.worker.cluster(), &arguments) {
        return Ok(Err(refused));
    }
    match &host.lane.redis {
        Some(connection) => {
            let begun = Instant::now();
            let reply = blocking::run(host, call.ctx, connection, name, arguments)?;
            let answered = match &reply {
                Ok(Ok(_)) => Answered::Reply,
                Ok(Err(_)) => Answered::Error,
                Err(Broken(_)) => Answered::Not,
            };
            connection.count(Command::Blocking, begun, answered);
            Ok(reply.unwrap_or_else(|Broken(message)| Err(message)))
        }
        None => Ok(Err(NO_REDIS.to_owned())),
    }
}

const NO_REDIS: &str = "ERR this worker gives its scripts no Redis";

/// `[reply]` or `[null, error]`, which passes for its reply in text, arithmetic and comparison.
fn pair<'js>(host: &Host, call: &Call<'_, 'js>, reply: Reply) -> rquickjs::Result<Value<'js>> {
    let ctx = call.ctx;
    let pair = Array::new(ctx.clone())?;
    match reply {
        Ok(reply) => pair.set(0, value::to_js(ctx, reply)?)?,
        Err(message) => {
            pair.set(0, Value::new_null(ctx.clone()))?;
            pair.set(1, message)?;
        }
    }
    convert_to_reply(host, pair.as_object())?;
    Ok(pair.into_value())
}

/// What replies are made with, once for each scope.
pub(crate) struct ReplyParts {
    conversion: Kept<Function<'static>>,
    /// A pair that is kept for its shape: the engine forgets a shape with the last object that has it, and to make it
    /// again for each reply costs more than the reply.
    _sample: Kept<Object<'static>>,
}

impl ReplyParts {
    pub(crate) fn is_new(&self) -> bool {
        self.conversion.is_new()
    }
}

/// Makes a pair pass for its reply: gives it a `Symbol.toPrimitive`. That is JavaScript because it may come to call
/// itself, if the script puts a pair into itself, and the engine guards the stack in JavaScript only.
fn convert_to_reply<'js>(host: &Host, pair: &Object<'js>) -> rquickjs::Result<()> {
    let ctx = pair.ctx();
    let known = host.reply_parts.borrow().as_ref().map(|parts| parts.conversion.get(ctx)).transpose()?;
    let conversion: Function<'js> = match &known {
        Some(known) => known.clone(),
        // A conversion has to give a primitive; an array reply is joined, as arrays are.
        None => ctx.eval(
            "(function () { const reply = this[0]; \
             return typeof reply === 'object' && reply !== null ? `${reply}` : reply })",
        )?,
    };
    pair.prop(PredefinedAtom::SymbolToPrimitive, Property::from(conversion.clone()))?;
    if known.is_none() {
        let sample = Array::new(ctx.clone())?.into_object();
        sample.prop(PredefinedAtom::SymbolToPrimitive, Property::from(conversion.clone()))?;
        *host.reply_parts.borrow_mut() =
            Some(ReplyParts { conversion: Kept::new(ctx, conversion)?, _sample: Kept::new(ctx, sample)? });
    }
    Ok(())
}

fn redis_error(ctx: &Ctx<'_>, message: &str) -> rquickjs::Error {
    let made =
        ctx.globals().get::<_, rquickjs::Constructor<'_>>("RedisError").and_then(|c| c.construct((message,)));
    match made {
        Ok(error) => ctx.throw(error),
        Err(error) => error,
    }
}

/// Time that a command may take when the lease sets no nearer limit.
const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(30);

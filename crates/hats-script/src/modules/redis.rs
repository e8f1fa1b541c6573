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
use hats_arena::leaf::{self, define_element};
use rquickjs::atom::PredefinedAtom;
use rquickjs::object::Property;
use rquickjs::{Array, Ctx, Function, IntoJs, Object, Value};

use self::command::Kind;
use self::connections::Broken;
pub(crate) use self::connections::LaneConnection;
pub use self::connections::{Connections, Error, State};
use self::frequent::Frequent;
use self::value::Arguments;
use super::{CONVERT, Call, define, elements, function, helper, object, plain_object};
use crate::metrics::{Answered, Command};
use crate::vm::Host;

/// The same text as `HSET` with a fence beside the data. `__epoch` is the field that holds it.
const HSET_FENCED: &str = include_str!("redis/hset_fenced.lua");

/// A reply, or the text of the error that came instead.
type Reply = Result<RedisValue, String>;

/// What `host.js` makes `redis` of.
pub(super) fn leaves<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let redis = Object::new(ctx.clone())?;
    define(&redis, "redis.Do", host, do_command)?;
    define(&redis, "redis.Call", host, call_command)?;
    define(&redis, "redis.Blpop", host, blpop)?;
    let leaves = object(ctx)?;
    leaf::define(&leaves, "redis", redis)?;
    leaf::define(&leaves, "hsetFenced", function(ctx, "redis.HsetFenced", host, hset_fenced)?)?;
    Ok(leaves)
}

fn do_command<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let reply = run(host, call)?;
    pair(host, call, reply)
}

fn call_command<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match run(host, call)? {
        Ok(reply) => value::to_js(call.ctx, reply),
        Err(message) => Err(redis_error(host, call.ctx, &message)),
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
        Err(message) => Err(redis_error(host, call.ctx, &message)),
    }
}

fn hset_fenced<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if host.control().kind() == crate::host::Kind::Endpoint {
        let message = format!(
            "{}: an endpoint has no epoch, which only threads and jobs have: use redis.Do('HSET', …)",
            call.name
        );
        return Err(call.type_error(&message));
    }
    let mut arguments = Arguments::new(host);
    arguments.push(HSET_FENCED);
    arguments.push(1_i64);
    arguments.push_argument(call, 0)?;
    arguments.push(host.control().epoch().to_string());
    if plain_object(&call.argument(1)).is_none() {
        return Err(call.wrong(1, "an object of fields and values"));
    }
    // Its names and values in turn.
    let fields = call.argument(2);
    let mut fields = elements(&fields);
    let mut empty = true;
    while let (Some(name), Some(item)) = (fields.next(), fields.next()) {
        let name = name.as_string().map(leaf::string_of).transpose()?.unwrap_or_default();
        empty = false;
        arguments.push(name.as_str());
        if !arguments.push_value(call, &item)? {
            let message = format!(
                "{}: field {name:?} must be a string, number, bigint, boolean or Uint8Array, not {}",
                call.name,
                super::inspect::brief(call.ctx, &item)
            );
            return Err(call.type_error(&message));
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
        Kind::Alone => send_alone(host, call, &name, arguments),
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
        // It passes the gate once more when its round leaves.
        let answer = connection.send_frequent(command, host.gate_to_wait(ctx)?);
        let answer = host.wait_through(ctx, answer)?;
        return Ok(answer.unwrap_or_else(|_| Err("ERR the connection to Redis is being closed".to_owned())));
    }
    let passed = host.gate(ctx)?;
    // Pinned where it is made: it is large, and would be copied at each step down otherwise.
    let sent = pin!(connection.send(&passed, name, arguments, host.time_for_io(COMMAND_TIMEOUT_MAX)));
    host.wait_through(ctx, sent)
}

/// Sends a command that may answer with any error: over a connection that it shares with no other.
fn send_alone(
    host: &Rc<Host>,
    call: &Call<'_, '_>,
    name: &str,
    arguments: Vec<RedisValue>,
) -> rquickjs::Result<Reply> {
    let Some(connection) = &host.lane.redis else { return Ok(Err(NO_REDIS.to_owned())) };
    let begun = Instant::now();
    let time = host.time_for_io(COMMAND_TIMEOUT_MAX);
    let alone = host.wait(call.ctx, tokio::time::timeout(time, connection.alone()))?;
    let alone = match alone.unwrap_or_else(|_| Err(Broken("ERR there is no connection to Redis".to_owned())))
    {
        Ok(alone) => alone,
        Err(Broken(message)) => {
            connection.count(Command::of(name), begun, Answered::Not);
            return Ok(Err(message));
        }
    };
    let passed = host.gate(call.ctx)?;
    let time = host.time_for_io(COMMAND_TIMEOUT_MAX);
    let sent = pin!(connection.send_alone(&passed, alone, name, arguments, time));
    host.wait_through(call.ctx, sent)
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
        Ok(reply) => define_element(&pair, 0, value::to_js(ctx, reply)?)?,
        Err(message) => {
            define_element(&pair, 0, Value::new_null(ctx.clone()))?;
            define_element(&pair, 1, message)?;
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

/// Makes a pair pass for its reply: gives it a `Symbol.toPrimitive`, which is JavaScript, as what it has to convert may be.
fn convert_to_reply<'js>(host: &Host, pair: &Object<'js>) -> rquickjs::Result<()> {
    let ctx = pair.ctx();
    let known = host.reply_parts.borrow().as_ref().map(|parts| parts.conversion.get(ctx)).transpose()?;
    let conversion = known.clone().map_or_else(|| helper(ctx, host, CONVERT), Ok)?;
    pair.prop(PredefinedAtom::SymbolToPrimitive, Property::from(conversion.clone()))?;
    if known.is_none() {
        let sample = Array::new(ctx.clone())?.into_object();
        sample.prop(PredefinedAtom::SymbolToPrimitive, Property::from(conversion.clone()))?;
        *host.reply_parts.borrow_mut() =
            Some(ReplyParts { conversion: Kept::new(ctx, conversion)?, _sample: Kept::new(ctx, sample)? });
    }
    Ok(())
}

/// Throws a `RedisError`.
fn redis_error(host: &Host, ctx: &Ctx<'_>, message: &str) -> rquickjs::Error {
    let error = error_prototype(ctx, host).and_then(|prototype| leaf::new_error_of(&prototype, message));
    match error {
        Ok(error) => ctx.throw(error.into_value()),
        Err(error) => error,
    }
}

/// The prototype of each `RedisError`: there may be such errors before a script has asked for their constructor, which is
/// JavaScript.
pub(super) fn error_prototype<'js>(ctx: &Ctx<'js>, host: &Host) -> rquickjs::Result<Object<'js>> {
    host.made(ctx, "RedisError", |ctx| {
        let prototype = Object::new_proto(ctx.clone(), Some(&leaf::error_prototype(ctx)?))?;
        leaf::define_hidden(&prototype, "name", "RedisError")?;
        Ok(prototype)
    })
}

/// Time that a command may take when the lease sets no nearer limit.
const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(30);

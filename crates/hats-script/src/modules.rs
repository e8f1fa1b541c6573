//! The host modules: what scripts can call.
//!
//! Each module installs its names into a new scope. A host function gets its arguments as a slice of values and
//! checks them itself, so that a wrong one is a `TypeError` that names the call and the argument.

mod console;
pub(crate) mod env;
#[cfg(feature = "http")]
pub(crate) mod handler;
#[cfg(feature = "http")]
pub mod http;
mod inspect;
mod job;
#[cfg(feature = "redis")]
pub mod redis;
pub(crate) mod request;
pub(crate) mod response;
#[cfg(feature = "sql")]
pub mod sql;
mod thread;
mod timers;
pub(crate) mod web;
mod worker;

use std::rc::Rc;

use hats_arena::leaf::{self, ErrorKind, define as own, throw};
use hats_arena::{Invocation, Library, Native, define_accessor};
#[cfg(any(feature = "redis", feature = "sql"))]
use rquickjs::BigInt;
use rquickjs::object::Property;
use rquickjs::{Coerced, Ctx, Error, Function, IntoJs, Object, TypedArray, Value};

use crate::host::Kind;
use crate::vm::Host;

pub(crate) use self::inspect::{is_error, text_of};

/// What of every scope is JavaScript.
static HOST: Library = Library::new(include_str!("modules/js/host.js"), "worker");

/// Puts every module into the scope.
pub(crate) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    env::install(ctx, host)?;
    worker::install(ctx, host)?;
    let once = object(ctx)?;
    match host.control().kind() {
        Kind::Thread => thread::install(ctx, host)?,
        Kind::Job(_) => job::install(ctx, host)?,
        Kind::Endpoint => {
            request::install(ctx, host)?;
            own(&once, "response", response::leaves(ctx, host)?)?;
        }
    }
    own(&once, "console", console::leaves(ctx, host)?)?;
    own(&once, "microtask", timers::install(ctx, host)?)?;
    #[cfg(feature = "http")]
    own(&once, "http", true)?;
    #[cfg(feature = "redis")]
    own(&once, "redis", redis::leaves(ctx, host)?)?;
    #[cfg(feature = "sql")]
    own(&once, "sql", true)?;
    web::install(ctx, host)?;
    let source = function(ctx, "source", host, |_, call| source(&call.string(0)?).into_js(call.ctx))?;
    let give = function(ctx, "give", host, give)?;
    let is_plain = function(ctx, "isPlain", host, |_, call| {
        Ok(Value::new_bool(call.ctx.clone(), plain_object(&call.argument(0)).is_some()))
    })?;
    let helpers: Object<'_> = HOST.function(ctx)?.call((source, give, is_plain, once))?;
    for name in [TEXT, CONVERT, ESCAPE, FETCH] {
        if let Some(helper) = leaf::own_data(&helpers, name).and_then(Value::into_function) {
            host.made(ctx, name, |_| Ok(helper))?;
        }
    }
    Ok(())
}

/// Names of the functions of `host.js` that the host calls, or gives to others.
const TEXT: &str = "text";
const CONVERT: &str = "convert";
const ESCAPE: &str = "escape";
const FETCH: &str = "fetch";

/// One of them. They are made with the scope.
fn helper<'js>(ctx: &Ctx<'js>, host: &Host, name: &'static str) -> rquickjs::Result<Function<'js>> {
    host.made(ctx, name, |_| Err(Error::Unknown))
}

/// An object without a prototype.
fn object<'js>(ctx: &Ctx<'js>) -> rquickjs::Result<Object<'js>> {
    Object::new_proto(ctx.clone(), None)
}

/// What is compiled when a script first uses it: each is a function.
fn source(name: &str) -> &'static str {
    match name {
        "inspect" => include_str!("modules/js/inspect.js"),
        "url" => include_str!("modules/web/url.js"),
        "text" => include_str!("modules/web/text.js"),
        "crypto" => include_str!("modules/web/crypto.js"),
        "events" => include_str!("modules/web/events.js"),
        "base64" => include_str!("modules/web/base64.js"),
        "structuredClone" => include_str!("modules/web/structured_clone.js"),
        "objectToText" => include_str!("modules/js/object_to_text.js"),
        #[cfg(feature = "http")]
        "http" => include_str!("modules/js/http.js"),
        #[cfg(feature = "http")]
        "fetch" => include_str!("modules/http/fetch.js"),
        #[cfg(feature = "redis")]
        "RedisError" => include_str!("modules/js/redis_error.js"),
        _ => "undefined",
    }
}

/// The leaves that such a source is given, made now; or what needs no JavaScript.
fn give<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let ctx = call.ctx;
    match call.string(0)?.as_str() {
        "inspect" => inspect::leaves(ctx, host).map(Object::into_value),
        #[cfg(feature = "http")]
        "http" => http::leaves(ctx, host).map(Object::into_value),
        #[cfg(feature = "http")]
        "fetch" => http::fetch::leaves(ctx, host).map(Object::into_value),
        #[cfg(feature = "redis")]
        "RedisError" => redis::error_prototype(ctx, host).map(Object::into_value),
        #[cfg(feature = "sql")]
        "sql" => sql::made(ctx, host).map(Object::into_value),
        _ => web::leaf(ctx, host).map(Function::into_value),
    }
}

/// Puts numbers of ours into the place of the engine's random ones, which are the same after each reset.
pub(crate) fn random(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let math: Object<'_> = ctx.globals().get("Math")?;
    let random = function(ctx, "Math.random", host, |host, call| host.random().into_js(call.ctx))?;
    math.prop("random", Property::from(random).writable().configurable())
}

/// One call of a host function: where, by what name, and with which arguments.
pub(crate) struct Call<'a, 'js> {
    pub(crate) ctx: &'a Ctx<'js>,
    pub(crate) name: &'static str,
    pub(crate) this: Value<'js>,
    pub(crate) arguments: Vec<Value<'js>>,
    /// What the function is a function of, if it is one of something that the host has.
    #[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "only databases are such things"))]
    pub(crate) token: Option<u32>,
}

impl<'js> Call<'_, 'js> {
    /// The n-th argument, counted from 0; undefined if it was not given.
    pub(crate) fn argument(&self, n: usize) -> Value<'js> {
        self.arguments.get(n).cloned().unwrap_or_else(|| Value::new_undefined(self.ctx.clone()))
    }

    /// A `TypeError` that names this call and the n-th argument.
    pub(crate) fn wrong(&self, n: usize, expected: &str) -> rquickjs::Error {
        let given = self.argument(n);
        let given = inspect::brief(self.ctx, &given);
        let message = format!("{}: argument {} must be {expected}, not {given}", self.name, n + 1);
        self.type_error(&message)
    }

    /// Throws a `TypeError`.
    pub(crate) fn type_error(&self, message: &str) -> rquickjs::Error {
        throw(self.ctx, ErrorKind::Type, message)
    }

    /// Throws a `RangeError`.
    pub(crate) fn range_error(&self, message: &str) -> rquickjs::Error {
        throw(self.ctx, ErrorKind::Range, message)
    }

    /// The n-th argument as a string; nothing else is accepted.
    pub(crate) fn string(&self, n: usize) -> rquickjs::Result<String> {
        match self.argument(n).into_string() {
            Some(text) => leaf::string_of(&text),
            None => Err(self.wrong(n, "a string")),
        }
    }

    /// The n-th argument as a number.
    pub(crate) fn number(&self, n: usize) -> rquickjs::Result<f64> {
        self.argument(n)
            .as_number()
            .filter(|number| !number.is_nan())
            .ok_or_else(|| self.wrong(n, "a number"))
    }

    /// The n-th argument as a function.
    pub(crate) fn function(&self, n: usize) -> rquickjs::Result<Function<'js>> {
        self.argument(n).into_function().ok_or_else(|| self.wrong(n, "a function"))
    }
}

/// Adds a host function to `object`. `name` is the whole name, as in `redis.Do`; its last part is the property.
pub(crate) fn define(
    object: &Object<'_>,
    name: &'static str,
    host: &Rc<Host>,
    f: for<'a, 'js> fn(&'a Rc<Host>, &'a Call<'a, 'js>) -> rquickjs::Result<Value<'js>>,
) -> rquickjs::Result<()> {
    let function = function(object.ctx(), name, host, f)?;
    let property = last_part(name);
    object.prop(property, Property::from(function).writable().configurable().enumerable())
}

/// A host function by itself. `name` is the whole name, for errors; its last part is that of the function.
pub(crate) fn function<'js>(
    ctx: &Ctx<'js>,
    name: &'static str,
    host: &Rc<Host>,
    f: impl for<'a, 'b> Fn(&'a Rc<Host>, &'a Call<'a, 'b>) -> rquickjs::Result<Value<'b>> + 'static,
) -> rquickjs::Result<Function<'js>> {
    native(ctx, name, host, f)?.function(ctx, last_part(name))
}

/// What function objects are made of.
pub(crate) fn native(
    ctx: &Ctx<'_>,
    name: &'static str,
    host: &Rc<Host>,
    f: impl for<'a, 'b> Fn(&'a Rc<Host>, &'a Call<'a, 'b>) -> rquickjs::Result<Value<'b>> + 'static,
) -> rquickjs::Result<Native> {
    let host = host.clone();
    Native::new(ctx, move |invocation: Invocation<'_, '_>| {
        let Invocation { ctx, this, arguments, token, .. } = invocation;
        f(&host, &Call { ctx, name, this, arguments, token })
    })
}

fn last_part(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Adds a property that is asked for at each use.
pub(crate) fn getter<T: for<'js> IntoJs<'js> + 'static>(
    object: &Object<'_>,
    name: &'static str,
    host: &Rc<Host>,
    get: fn(&Host) -> T,
) -> rquickjs::Result<()> {
    let get = function(object.ctx(), name, host, move |host, call| get(host).into_js(call.ctx))?;
    define_accessor(object, name, Some(get), None, true, false)
}

/// The elements of a list, as far as each is the list's own: what JavaScript of ours gives to a leaf is made so.
pub(crate) fn elements<'js>(list: &Value<'js>) -> impl Iterator<Item = Value<'js>> + use<'js> {
    let list = list.as_object().cloned();
    let length =
        list.as_ref().and_then(|list| leaf::own_data(list, "length")?.as_number()).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a length, or no list of ours"
    )]
    let length = length as usize;
    (0..length).map_while(move |n| leaf::own_element(list.as_ref()?, n))
}

/// A `Uint8Array` of these bytes.
pub(crate) fn bytes_to_js<'js>(ctx: &Ctx<'js>, bytes: &[u8]) -> rquickjs::Result<Value<'js>> {
    TypedArray::<u8>::new_copy(ctx.clone(), bytes).map(TypedArray::into_value)
}

/// An object that is neither an array nor a function.
pub(crate) fn plain_object<'a, 'js>(value: &'a Value<'js>) -> Option<&'a Object<'js>> {
    value.as_object().filter(|_| !value.is_array() && !value.is_function())
}

/// What JavaScript makes of a primitive value as text, which is no symbol: nothing is asked for that.
pub(crate) fn coerced<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> rquickjs::Result<String> {
    if value.is_object() || value.is_symbol() {
        return Err(throw(ctx, ErrorKind::Type, "a value has no text of its own"));
    }
    let Coerced(text): Coerced<rquickjs::String<'js>> = rquickjs::FromJs::from_js(ctx, value)?;
    leaf::string_of(&text)
}

/// Largest integer that a JavaScript number holds exactly, and all below it.
#[cfg(any(feature = "redis", feature = "sql"))]
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// An integer as a number, or as a BigInt where a number would not be exact.
#[cfg(any(feature = "redis", feature = "sql"))]
pub(crate) fn integer_to_js<'js>(ctx: &Ctx<'js>, integer: i64) -> rquickjs::Result<Value<'js>> {
    if let Ok(small) = i32::try_from(integer) {
        return Ok(Value::new_int(ctx.clone(), small));
    }
    if integer.unsigned_abs() <= SAFE_INTEGER_MAX {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        return Ok(Value::new_float(ctx.clone(), integer as f64));
    }
    BigInt::from_i64(ctx.clone(), integer)?.into_js(ctx)
}

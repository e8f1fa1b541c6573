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

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use hats_arena::{Invocation, Native, define_accessor};
#[cfg(any(feature = "redis", feature = "sql"))]
use rquickjs::BigInt;
use rquickjs::object::Property;
use rquickjs::{Coerced, Ctx, Exception, Function, IntoJs, Object, TypedArray, Value};

use crate::host::Kind;
use crate::vm::Host;

pub(crate) use self::inspect::{is_error, text_of};

/// So much of an array is copied before others have their turn: a multiple of 3, so that no padding comes in between.
const PIECE_BYTES: usize = 48 << 10;
const PIECE_TO_BASE64: &str = "(({ toBase64 }) => (array, start, length) => \
     toBase64.call(new Uint8Array(array.buffer, array.byteOffset + start, length)))(Uint8Array.prototype)";

/// Puts every module into the scope.
pub(crate) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    console::install(ctx, host)?;
    env::install(ctx, host)?;
    worker::install(ctx, host)?;
    match host.control().kind() {
        Kind::Thread => thread::install(ctx, host)?,
        Kind::Job(_) => job::install(ctx, host)?,
        Kind::Endpoint => {
            request::install(ctx, host)?;
            response::install(ctx, host)?;
        }
    }
    timers::install(ctx, host)?;
    web::install(ctx, host)?;
    #[cfg(feature = "http")]
    http::install(ctx, host)?;
    #[cfg(feature = "redis")]
    redis::install(ctx, host)?;
    #[cfg(feature = "sql")]
    sql::install(ctx, host)?;
    Ok(())
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
        let given =
            if given.is_undefined() { "undefined".to_owned() } else { inspect::brief(self.ctx, &given) };
        let message = format!("{}: argument {} must be {expected}, not {given}", self.name, n + 1);
        Exception::throw_type(self.ctx, &message)
    }

    /// The n-th argument as a string; nothing else is accepted.
    pub(crate) fn string(&self, n: usize) -> rquickjs::Result<String> {
        match self.argument(n).into_string() {
            Some(text) => string_of(self.ctx, text),
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
        let _nested = host.enter_native(invocation.ctx)?;
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

/// Adds a global that is made from JavaScript at its first use, so that scripts without it pay nothing.
pub(crate) fn lazy(
    ctx: &Ctx<'_>,
    host: &Rc<Host>,
    name: &'static str,
    source: &'static str,
) -> rquickjs::Result<()> {
    lazy_with(ctx, host, name, move |_, ctx| ctx.eval(source))
}

/// Adds globals that are made together at the first use of any of them. `make` returns an object that has all of them.
pub(crate) fn lazy_group(
    ctx: &Ctx<'_>,
    host: &Rc<Host>,
    names: &'static [&'static str],
    make: impl for<'js> Fn(&Ctx<'js>, &Rc<Host>) -> rquickjs::Result<Object<'js>> + Copy + 'static,
) -> rquickjs::Result<()> {
    names.iter().try_for_each(|name| {
        lazy_with(ctx, host, name, move |host, ctx| made_group(ctx, host, names, make)?.get(*name))
    })
}

/// The object that has all of a group's names.
pub(crate) fn made_group<'js>(
    ctx: &Ctx<'js>,
    host: &Rc<Host>,
    names: &'static [&'static str],
    make: impl Fn(&Ctx<'js>, &Rc<Host>) -> rquickjs::Result<Object<'js>>,
) -> rquickjs::Result<Object<'js>> {
    host.made(ctx, names[0], |ctx| make(ctx, host))
}

/// Adds a global that `make` makes at its first use.
pub(crate) fn lazy_with(
    ctx: &Ctx<'_>,
    host: &Rc<Host>,
    name: &'static str,
    make: impl for<'js> Fn(&Rc<Host>, &Ctx<'js>) -> rquickjs::Result<Value<'js>> + 'static,
) -> rquickjs::Result<()> {
    // One function both gets and sets, since every script has it: only who sets calls it with an argument.
    let access = function(ctx, name, host, move |host, call| {
        let value = call.arguments.first().cloned().map_or_else(|| make(host, call.ctx), Ok)?;
        call.ctx.globals().prop(name, Property::from(value.clone()).writable().configurable())?;
        Ok(value)
    })?;
    define_accessor(&ctx.globals(), name, Some(access.clone()), Some(access), false, true)
}

/// A JavaScript string as UTF-8; a lone surrogate, which UTF-8 cannot say, becomes U+FFFD.
pub(crate) fn string_of<'js>(ctx: &Ctx<'js>, text: rquickjs::String<'js>) -> rquickjs::Result<String> {
    match text.to_string() {
        Err(rquickjs::Error::Utf8(_)) => {
            let well_formed: Function<'js> = ctx.eval("(text) => text.toWellFormed()")?;
            well_formed.call((text,))
        }
        other => other,
    }
}

/// The bytes of a `Uint8Array`, copied. The interpreter's memory may change whenever it runs, and what it offers to copy
/// out of it safely are single elements, and text: so a long array is copied as base64, piece by piece. The lane's other
/// scripts have their turn between pieces.
pub(crate) fn bytes_of<'js>(
    host: &Host,
    ctx: &Ctx<'js>,
    array: &TypedArray<'js, u8>,
) -> rquickjs::Result<Vec<u8>> {
    /// Up to here elements are faster.
    const FEW: usize = 16;
    let length = array.len();
    let mut bytes = Vec::with_capacity(length);
    if length <= FEW {
        for n in 0..u32::try_from(length).unwrap_or(u32::MAX) {
            bytes.push(array.get::<_, u8>(n)?);
        }
        return Ok(bytes);
    }
    let to_base64: Function<'js> = host.made(ctx, "piece to base64", |ctx| ctx.eval(PIECE_TO_BASE64))?;
    while bytes.len() < length {
        if !bytes.is_empty() {
            host.look_up(ctx)?;
        }
        let (start, piece) = (bytes.len(), (length - bytes.len()).min(PIECE_BYTES));
        let text: rquickjs::String<'_> = to_base64.call((array.clone(), start, piece))?;
        let text = text.to_string()?;
        if STANDARD.decode_vec(text, &mut bytes).is_err() || bytes.len() != start + piece {
            // The script has put something else into the array's place.
            return Err(Exception::throw_type(ctx, "the bytes of the Uint8Array cannot be read"));
        }
    }
    Ok(bytes)
}

/// The enumerable properties of an object. Their names are taken as JavaScript strings: taken as Rust's, `rquickjs` ends them at
/// a NUL and believes them to be UTF-8 where they have lone surrogates.
#[cfg(any(feature = "http", feature = "redis"))]
#[expect(clippy::disallowed_methods, reason = "this is where the names are taken as they should be")]
pub(crate) fn properties<'a, 'js>(
    ctx: &'a Ctx<'js>,
    object: &Object<'js>,
) -> impl Iterator<Item = rquickjs::Result<(String, Value<'js>)>> + use<'a, 'js> {
    object.props::<rquickjs::String<'js>, Value<'js>>().map(move |property| {
        let (name, value) = property?;
        Ok((string_of(ctx, name)?, value))
    })
}

/// An object that is neither an array nor a function.
#[cfg(any(feature = "http", feature = "redis"))]
pub(crate) fn plain_object<'a, 'js>(value: &'a Value<'js>) -> Option<&'a Object<'js>> {
    value.as_object().filter(|_| !value.is_array() && !value.is_function())
}

/// What JavaScript makes of a primitive value as text.
pub(crate) fn coerced<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> rquickjs::Result<String> {
    let Coerced(text): Coerced<rquickjs::String<'js>> = rquickjs::FromJs::from_js(ctx, value)?;
    string_of(ctx, text)
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

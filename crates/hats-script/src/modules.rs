//! The host modules: what scripts can call.
//!
//! Each module installs its names into a new scope. A host function gets its arguments as a slice of values and
//! checks them itself, so that a wrong one is a `TypeError` that names the call and the argument.

mod console;
pub(crate) mod env;
#[cfg(feature = "http")]
pub mod http;
mod inspect;
#[cfg(feature = "redis")]
pub mod redis;
mod thread;
mod timers;
mod web;
mod worker;

use std::rc::Rc;

#[cfg(any(feature = "http", feature = "redis"))]
use rquickjs::TypedArray;
use rquickjs::function::Rest;
use rquickjs::object::{Accessor, Property};
use rquickjs::{Coerced, Ctx, Exception, Function, IntoJs, Object, Value};

use crate::vm::Host;

pub(crate) use self::inspect::text_of;

/// Puts every module into the scope.
pub(crate) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    console::install(ctx, host)?;
    env::install(ctx, host)?;
    worker::install(ctx, host)?;
    thread::install(ctx, host)?;
    timers::install(ctx, host)?;
    web::install(ctx)?;
    #[cfg(feature = "http")]
    http::install(ctx, host)?;
    #[cfg(feature = "redis")]
    redis::install(ctx, host)?;
    Ok(())
}

/// One call of a host function: where, by what name, and with which arguments.
pub(crate) struct Call<'a, 'js> {
    pub(crate) ctx: &'a Ctx<'js>,
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<Value<'js>>,
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
pub(crate) fn define<'js>(
    object: &Object<'js>,
    name: &'static str,
    host: &Rc<Host>,
    f: fn(&Rc<Host>, &Call<'_, 'js>) -> rquickjs::Result<Value<'js>>,
) -> rquickjs::Result<()> {
    let host = host.clone();
    let call = move |ctx: Ctx<'js>, Rest(arguments): Rest<Value<'js>>| {
        let _nested = host.enter_native(&ctx)?;
        f(&host, &Call { ctx: &ctx, name, arguments })
    };
    let property = name.rsplit('.').next().unwrap_or(name);
    let function = Function::new(object.ctx().clone(), call)?.with_name(property)?;
    object.prop(property, Property::from(function).writable().configurable().enumerable())
}

/// Adds a property that is asked for at each use.
pub(crate) fn getter<'js, T: IntoJs<'js> + 'js>(
    object: &Object<'js>,
    name: &str,
    host: &Rc<Host>,
    get: fn(&Host) -> T,
) -> rquickjs::Result<()> {
    let host = host.clone();
    object.prop(name, Accessor::from(move || get(&host)).enumerable())
}

/// Adds a global that is made from JavaScript at its first use, so that scripts without it pay nothing.
pub(crate) fn lazy<'js>(ctx: &Ctx<'js>, name: &'static str, source: &'static str) -> rquickjs::Result<()> {
    lazy_with(ctx, name, move |ctx| ctx.eval(source))
}

/// Adds globals that are made together at the first use of any of them. `make` returns an object that has all of them.
#[cfg(feature = "http")]
pub(crate) fn lazy_group<'js>(
    ctx: &Ctx<'js>,
    host: &Rc<Host>,
    names: &'static [&'static str],
    make: fn(&Ctx<'js>, &Rc<Host>) -> rquickjs::Result<Object<'js>>,
) -> rquickjs::Result<()> {
    names.iter().try_for_each(|name| {
        let host = host.clone();
        lazy_with(ctx, name, move |ctx| host.made(ctx, names[0], make)?.get(*name))
    })
}

/// Adds a global that `make` makes at its first use.
fn lazy_with<'js>(
    ctx: &Ctx<'js>,
    name: &'static str,
    make: impl Fn(&Ctx<'js>) -> rquickjs::Result<Value<'js>> + 'js,
) -> rquickjs::Result<()> {
    // One function both gets and sets, since every script has it: only who sets calls it with an argument.
    let access = move |ctx: Ctx<'js>, Rest(given): Rest<Value<'js>>| {
        let value = given.into_iter().next().map_or_else(|| make(&ctx), Ok)?;
        ctx.globals().prop(name, Property::from(value.clone()).writable().configurable())?;
        rquickjs::Result::Ok(value)
    };
    let access = Function::new(ctx.clone(), access)?;
    let descriptor = Object::new(ctx.clone())?;
    descriptor.set("get", access.clone())?;
    descriptor.set("set", access)?;
    descriptor.set("configurable", true)?;
    let object: Object<'js> = ctx.globals().get("Object")?;
    let define: Function<'js> = object.get("defineProperty")?;
    define.call((ctx.globals(), name, descriptor))
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

/// The bytes of a `Uint8Array`. Read one by one: the engine's memory itself may change while it is looked at. A long one
/// takes its time, so the lane's other scripts have their turn meanwhile.
#[cfg(any(feature = "http", feature = "redis"))]
pub(crate) fn bytes_of(host: &Host, ctx: &Ctx<'_>, array: &TypedArray<'_, u8>) -> rquickjs::Result<Vec<u8>> {
    const BYTES_PER_LOOK: u32 = 4096;
    let length = u32::try_from(array.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(array.len());
    for n in 0..length {
        if n % BYTES_PER_LOOK == BYTES_PER_LOOK - 1 {
            host.look_up(ctx)?;
        }
        bytes.push(array.get::<_, u8>(n)?);
    }
    Ok(bytes)
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

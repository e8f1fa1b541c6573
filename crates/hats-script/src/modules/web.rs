//! Names of the web that are there without an import: `URL`, `URLSearchParams`, `TextEncoder`, `TextDecoder`, `atob`,
//! `btoa`, `crypto`, `performance`, `structuredClone`, `Event`, `EventTarget` and their kin. (`DOMException` is the
//! engine's own; timers and `queueMicrotask` are beside this module.)
//!
//! What must hold:
//! - A script that does not use a name pays for its accessor and for nothing else: what is behind them is
//!   JavaScript that is compiled at the first use. The standards' algorithms that are more than bookkeeping are Rust,
//!   behind one function ([`native`]) that the sources are given.
//! - That function is pure: no object of a script owns memory of Rust's, so nothing has to be told when it is gone.
//! - Bytes are copied in and out; no reference into the interpreter's memory is held.

mod base64;
mod crypto;
mod text;
mod url;

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hats_arena::leaf::{self, ErrorKind, throw};
use rquickjs::object::Property;
use rquickjs::{Ctx, Function, IntoJs, Object, Value};

use super::{Call, function, getter};
use crate::vm::Host;

/// The rest of this module's names are made by `host.js`.
pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    atomics(ctx, host)?;
    performance(ctx, host)
}

/// `Atomics.notify` without the lock that all interpreters of the process share: nobody can wait.
fn atomics(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let atomics: Object<'_> = ctx.globals().get("Atomics")?;
    let notify = function(ctx, "Atomics.notify", host, |_, call| Ok(Value::new_int(call.ctx.clone(), 0)))?;
    atomics.prop("notify", Property::from(notify).writable().configurable())
}

/// The function that the sources of this module are given.
pub(super) fn leaf<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Function<'js>> {
    host.made(ctx, "web leaf", |ctx| function(ctx, "native", host, native))
}

/// What the sources of this module call: an operation by its name, and its arguments, whose types they have seen to.
fn native<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match call.string(0)?.as_str() {
        "url.parse" => url::parse(call),
        "url.set" => url::set(call),
        "query.parse" => url::parse_query(call),
        "query.write" => url::write_query(call),
        "text.encode" => text::encode(call),
        "text.encodeUpTo" => text::encode_up_to(call),
        "text.encoding" => text::encoding(call),
        "text.decode" => text::decode(host, call),
        "crypto.random" => crypto::random(call),
        "crypto.uuid" => crypto::uuid(call),
        "base64.decode" => base64::decode(call),
        "base64.encode" => base64::encode(call),
        unknown => Err(throw(call.ctx, ErrorKind::Internal, unknown)),
    }
}

/// Makes `performance` tell when the script began: the engine's own object counts from the making of its scope, which may
/// have served others before, and has an origin that is not a time of day.
fn performance(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let engine: Object<'_> = ctx.globals().get("performance")?;
    let performance = Object::new_proto(ctx.clone(), Some(&engine))?;
    let now = function(ctx, "performance.now", host, |host, call| host.origin().age_ms().into_js(call.ctx))?;
    performance.prop("now", Property::from(now).writable().configurable())?;
    getter(&performance, "timeOrigin", host, |host| host.origin().unix_ms())?;
    ctx.globals().prop("performance", Property::from(performance).writable().configurable())
}

/// When a script began.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    begun: Instant,
    /// Since 1970.
    wall: Duration,
}

impl Origin {
    pub(crate) fn now() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "what a script is shown as the time of day decides nothing"
        )]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { begun: Instant::now(), wall }
    }

    fn age_ms(self) -> f64 {
        self.begun.elapsed().as_secs_f64() * 1e3
    }

    fn unix_ms(self) -> f64 {
        self.wall.as_secs_f64() * 1e3
    }
}

/// A list as a JavaScript array.
fn array_of<'js>(
    ctx: &Ctx<'js>,
    items: impl IntoIterator<Item = impl IntoJs<'js>>,
) -> rquickjs::Result<Value<'js>> {
    leaf::array_of(ctx, items.into_iter().map(Ok)).map(rquickjs::Array::into_value)
}

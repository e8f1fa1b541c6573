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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rquickjs::function::Rest;
use rquickjs::object::Property;
use rquickjs::{Ctx, Exception, Function, IntoJs, Object, Value};

use super::{Call, define, lazy, lazy_group};
use crate::vm::Host;

/// Names that are made together, because they need each other.
struct Group {
    names: &'static [&'static str],
    /// A function that is given [`native`] and returns an object with the names.
    source: &'static str,
}

static GROUPS: [Group; 4] = [
    Group { names: &["URL", "URLSearchParams"], source: include_str!("web/url.js") },
    Group { names: &["TextEncoder", "TextDecoder"], source: include_str!("web/text.js") },
    Group { names: &["crypto"], source: include_str!("web/crypto.js") },
    Group {
        names: &["Event", "CustomEvent", "EventTarget", "AbortSignal", "AbortController"],
        source: include_str!("web/events.js"),
    },
];

pub(super) fn install<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<()> {
    for group in &GROUPS {
        lazy_group(ctx, host, group.names, |ctx, host| {
            let native: Function<'js> = host.made(ctx, "web native", |ctx| native_function(ctx, host))?;
            ctx.eval::<Function<'js>, _>(group.source)?.call((native,))
        })?;
    }
    let globals = ctx.globals();
    define(&globals, "atob", host, base64::atob)?;
    define(&globals, "btoa", host, base64::btoa)?;
    lazy(ctx, "structuredClone", include_str!("web/structured_clone.js"))?;
    performance(ctx)
}

fn native_function<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Function<'js>> {
    let host = host.clone();
    Function::new(ctx.clone(), move |ctx: Ctx<'js>, Rest(arguments): Rest<Value<'js>>| {
        native(&host, &Call { ctx: &ctx, name: "native", arguments })
    })
}

/// What the sources of this module call: an operation by its name, and its arguments, whose types they have seen to.
fn native<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let _nested = host.enter_native(call.ctx)?;
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
        unknown => Err(Exception::throw_internal(call.ctx, unknown)),
    }
}

/// Makes `performance` tell when the script began: the engine's own object has the monotonic clock, and an origin that
/// is not a time of day.
fn performance<'js>(ctx: &Ctx<'js>) -> rquickjs::Result<()> {
    let engine: Object<'js> = ctx.globals().get("performance")?;
    let now: f64 = engine.get::<_, Function<'js>>("now")?.call(())?;
    #[expect(
        clippy::disallowed_methods,
        reason = "what a script is shown as the time of day decides nothing"
    )]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let performance = Object::new_proto(ctx.clone(), Some(&engine))?;
    performance.prop("timeOrigin", Property::from(wall.as_secs_f64() * 1e3 - now).enumerable())?;
    ctx.globals().prop("performance", Property::from(performance).writable().configurable())
}

/// Throws a `DOMException` of this name.
fn throw_dom_exception(ctx: &Ctx<'_>, name: &str, message: &str) -> rquickjs::Error {
    let made = ctx
        .globals()
        .get::<_, rquickjs::Constructor<'_>>("DOMException")
        .and_then(|constructor| constructor.construct::<_, Value<'_>>((message, name)));
    match made {
        Ok(error) => ctx.throw(error),
        Err(error) => error,
    }
}

/// A list as a JavaScript array.
fn array_of<'js>(
    ctx: &Ctx<'js>,
    items: impl IntoIterator<Item = impl IntoJs<'js>>,
) -> rquickjs::Result<Value<'js>> {
    let array = rquickjs::Array::new(ctx.clone())?;
    for (n, item) in items.into_iter().enumerate() {
        array.set(n, item)?;
    }
    Ok(array.into_value())
}

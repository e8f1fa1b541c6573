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

use rquickjs::object::Property;
use rquickjs::{Ctx, Exception, Function, IntoJs, Object, Value};

use super::{Call, define, function, getter, lazy, lazy_group};
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

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    for group in &GROUPS {
        lazy_group(ctx, host, group.names, |ctx, host| {
            let native: Function<'_> =
                host.made(ctx, "web native", |ctx| function(ctx, "native", host, native))?;
            ctx.eval::<Function<'_>, _>(group.source)?.call((native,))
        })?;
    }
    let globals = ctx.globals();
    define(&globals, "atob", host, base64::atob)?;
    define(&globals, "btoa", host, base64::btoa)?;
    lazy(ctx, host, "structuredClone", include_str!("web/structured_clone.js"))?;
    performance(ctx, host)
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
        unknown => Err(Exception::throw_internal(call.ctx, unknown)),
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

//! Handlers: modules of endpoints whose default export is called with a `Request` and returns the answer.
//!
//! What they are given and what they return are the `Request` and `Response` of `fetch`, made in JavaScript: no object of a
//! request owns memory of Rust's.

use std::rc::Rc;

use hats_arena::{entry, leaf};
use rquickjs::{Array, Ctx, Exception, Function, Value};

use super::http::{body_of, fetch};
use super::{inspect, response};
use crate::vm::Host;

/// What errors call it.
const NAME: &str = "the handler";
const BYTES_TYPE: &str = "application/octet-stream";

/// Makes what all requests need.
pub(crate) fn prepare(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    fetch::group(ctx, host).map(drop)
}

/// Calls the handler that a module exports.
pub(crate) fn call<'js>(
    ctx: &Ctx<'js>,
    host: &Rc<Host>,
    module: &Value<'js>,
) -> rquickjs::Result<Value<'js>> {
    let exported: Value<'js> = match module.as_object() {
        Some(exports) => entry::run(|| exports.get("default"))?,
        None => Value::new_undefined(ctx.clone()),
    };
    let incoming: Function<'js> = fetch::group(ctx, host)?.get("incoming")?;
    if let Some(function) = exported.as_function() {
        let request = entry::call(ctx, &incoming, &[])?;
        return entry::call(ctx, function, &[request]);
    }
    let fetch: Option<Function<'js>> = match exported.as_object() {
        Some(object) => entry::run(|| object.get::<_, Value<'js>>("fetch"))?.into_function(),
        None => None,
    };
    match fetch {
        Some(fetch) => {
            let request = entry::call(ctx, &incoming, &[])?;
            entry::call_on(ctx, &fetch, &exported, &[request])
        }
        None => {
            let found = inspect::brief(ctx, &exported);
            let message = format!(
                "the default export must be a function (request) or an object with fetch(request), not {found}"
            );
            Err(Exception::throw_type(ctx, &message))
        }
    }
}

/// Makes the answer of what the handler has returned.
pub(crate) fn answer<'js>(ctx: &Ctx<'js>, host: &Rc<Host>, returned: &Value<'js>) -> rquickjs::Result<()> {
    let refuse = |message: &str| Exception::throw_type(ctx, &format!("{NAME} {message}"));
    let is_nothing = returned.is_undefined() || returned.is_null();
    let (is_begun, is_fixed) =
        response::with_exchange(host, ctx, NAME, |exchange| (exchange.is_begun(), exchange.is_fixed()))?;
    if is_fixed || (is_nothing && is_begun) {
        return Ok(());
    }
    if is_nothing {
        return Err(refuse("returned nothing: return a Response or a string, or write with response.Write"));
    }
    if is_begun {
        return Err(refuse("returned its answer and had begun one with response: use one of both"));
    }
    if let Some(body) = body_of(returned)? {
        let own_type = if returned.is_string() { None } else { Some(BYTES_TYPE) };
        return response::change(host, ctx, NAME, |exchange| exchange.answer(body, own_type));
    }
    let outgoing: Function<'js> = fetch::group(ctx, host)?.get("outgoing")?;
    let Some(parts) = entry::call(ctx, &outgoing, std::slice::from_ref(returned))?.into_object() else {
        let found = inspect::brief(ctx, returned);
        let message = format!("must return a Response, a string or a Uint8Array, not {found}");
        return Err(refuse(&message));
    };
    let (status, flat): (u16, Array<'js>) = (parts.get(0)?, parts.get(1)?);
    let flat = flat.iter::<rquickjs::String<'js>>().map(|text| leaf::string_of(&text?));
    let flat: Vec<String> = flat.collect::<rquickjs::Result<_>>()?;
    let body = body_of(&parts.get(2)?)?.unwrap_or_default();
    response::change(host, ctx, NAME, |exchange| exchange.answer_with(status, &flat, body))
}

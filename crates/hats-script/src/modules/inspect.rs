//! Values as text, for people: logs and errors.
//!
//! Primitive values are made text here. To look into an object may run getters of the script's, so that is JavaScript
//! (`js/inspect.js`), and these are its leaves.

use std::fmt::Write as _;
use std::rc::Rc;

use hats_arena::entry;
use hats_arena::leaf::{self, array_of, define};
use rquickjs::{Ctx, Filter, IntoJs, Object, Value};

use super::{Call, TEXT, coerced, function, helper, object};
use crate::vm::Host;

/// Of a string no more is shown.
const LENGTH_MAX: usize = 64 << 10;
/// Of bytes no more are shown.
const ITEMS_MAX: usize = 100;

/// A value as `console.log` shows it: a string as it is, everything else as one would write it. For those outside of the
/// script: to look into an object runs JavaScript, and no host function may.
pub(crate) fn text_of<'js>(host: &Host, ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    if !value.is_object() {
        return plain_text(ctx, value);
    }
    let text = helper(ctx, host, TEXT).and_then(|text| entry::call(ctx, &text, std::slice::from_ref(value)));
    let text = text.and_then(|text| text.into_string().ok_or(rquickjs::Error::Unknown));
    text.and_then(|text| leaf::string_of(&text)).unwrap_or_else(|_| unreadable(ctx))
}

/// A value as `console.log` shows it, if it is no object. Runs no JavaScript.
pub(super) fn plain_text<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    match value.as_string() {
        Some(text) => leaf::string_of(text).unwrap_or_else(|_| unreadable(ctx)),
        None => primitive(ctx, value),
    }
}

/// A value in a few words, for error messages. Runs no JavaScript.
pub(super) fn brief<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    let text = if value.is_function() {
        "a function".to_owned()
    } else if value.is_array() {
        "an array".to_owned()
    } else {
        primitive(ctx, value)
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether a value is an error: an `Error` or a `DOMException`, which to the engine is an object of another class that has
/// an error for its prototype.
pub(crate) fn is_error(value: &Value<'_>) -> bool {
    let prototype = || value.as_object().filter(|_| !value.is_proxy()).and_then(Object::get_prototype);
    value.is_error() || prototype().is_some_and(|prototype| prototype.is_error())
}

fn primitive<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    if let Some(text) = value.as_string() {
        let text = leaf::string_of(text).unwrap_or_else(|_| unreadable(ctx));
        return quoted(&text);
    }
    if value.is_symbol() {
        return format!("Symbol({})", leaf::description_of(value).unwrap_or_default());
    }
    if value.is_object() {
        return "an object".to_owned();
    }
    let suffix = if value.is_big_int() { "n" } else { "" };
    match coerced(ctx, value.clone()) {
        Ok(text) => text + suffix,
        Err(_) => unreadable(ctx),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", &text[..text.floor_char_boundary(LENGTH_MAX)])
}

/// What `inspect.js` is made of.
pub(super) fn leaves<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let leaves = object(ctx)?;
    let text =
        function(ctx, "primitive", host, |_, call| primitive(call.ctx, &call.argument(0)).into_js(call.ctx))?;
    define(&leaves, "primitive", text)?;
    define(
        &leaves,
        "kind",
        function(ctx, "kind", host, |_, call| kind(&call.argument(0)).into_js(call.ctx))?,
    )?;
    define(&leaves, "prototype", function(ctx, "prototype", host, prototype)?)?;
    define(&leaves, "keys", function(ctx, "keys", host, keys)?)?;
    define(&leaves, "key", function(ctx, "key", host, |_, call| key(&call.string(0)?).into_js(call.ctx))?)?;
    define(
        &leaves,
        "bytes",
        function(ctx, "bytes", host, |_, call| bytes(&call.argument(0)).into_js(call.ctx))?,
    )?;
    define(&leaves, "error", function(ctx, "error", host, |_, call| error(call)?.into_js(call.ctx))?)?;
    Ok(leaves)
}

/// What an object is, as far as the engine knows.
fn kind(value: &Value<'_>) -> &'static str {
    if value.is_proxy() {
        "proxy"
    } else if value.is_function() {
        "function"
    } else if is_error(value) {
        "error"
    } else if value.is_array() {
        "array"
    } else if value.as_object().is_some_and(Object::is_typed_array::<u8>) {
        "bytes"
    } else {
        "other"
    }
}

/// The prototype of an object that is no proxy.
fn prototype<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let object = call.argument(0).into_object().filter(|object| !object.is_proxy());
    let prototype = object.and_then(|object| object.get_prototype());
    Ok(prototype.map_or_else(|| Value::new_undefined(call.ctx.clone()), Object::into_value))
}

/// How many enumerable properties an object has that is no proxy, and the names of the first of them: of as many as the
/// second argument says.
fn keys<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let Some(object) = call.argument(0).into_object().filter(|object| !object.is_proxy()) else {
        return Err(call.wrong(0, "an object"));
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of ours")]
    let most = call.number(1)? as usize;
    #[expect(clippy::disallowed_methods, reason = "the names are taken as JavaScript strings")]
    let mut names = object.own_keys::<rquickjs::String<'js>>(Filter::new().string().enum_only());
    let first: Vec<_> = names.by_ref().take(most).collect::<rquickjs::Result<_>>()?;
    let count = (first.len() + names.count()).into_js(call.ctx)?;
    let all = [Ok(count)].into_iter().chain(first.into_iter().map(|name| Ok(name.into_value())));
    array_of(call.ctx, all).map(rquickjs::Array::into_value)
}

/// The name of a property, and what stands between it and its value.
fn key(name: &str) -> String {
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
    if is_plain { format!("{name}: ") } else { format!("{name:?}: ") }
}

fn bytes(array: &Value<'_>) -> String {
    let bytes = leaf::bytes_of(array).unwrap_or_default();
    let length = bytes.len();
    let mut text = format!("Uint8Array({length}) [");
    for (n, byte) in bytes.iter().take(ITEMS_MAX).enumerate() {
        let separator = if n > 0 { ", " } else { "" };
        let _ = write!(text, "{separator}{byte}");
    }
    if length > ITEMS_MAX {
        let _ = write!(text, ", … {} more", length - ITEMS_MAX);
    }
    text + "]"
}

/// Name, message and stack of an error as text.
fn error(call: &Call<'_, '_>) -> rquickjs::Result<String> {
    let (name, message, stack) = (call.string(0)?, call.string(1)?, call.string(2)?);
    let separator = if name.is_empty() || message.is_empty() { "" } else { ": " };
    let mut text = format!("{name}{separator}{message}");
    let stack = stack.trim_end();
    if !stack.is_empty() {
        let _ = write!(text, "\n{stack}");
    }
    Ok(text)
}

fn unreadable(ctx: &Ctx<'_>) -> String {
    ctx.catch();
    "[unreadable]".to_owned()
}

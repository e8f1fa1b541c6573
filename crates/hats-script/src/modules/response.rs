//! `response`: the answer that a script of an endpoint gives, and the functions with which a template writes.
//!
//! All of it looks at the [`Exchange`] in hand, which is in the [`Host`]: no object of the script owns any of it. While there is
//! none, as when libraries are evaluated, to write is an error.
//!
//! What must hold: what has been kept of an answer is bounded, since it is no part of the script's heap; and whatever
//! [`Exchange::finish`] says can be sent as it is: no header of it ends early or is two.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use hats_arena::define_accessor;
use rquickjs::{Ctx, Exception, Function, Object, Value};

use super::{Call, bytes_of, coerced, define, function, string_of};
use crate::page::{DEFAULT_TYPE, PageRequest, PageResponse};
use crate::vm::Host;

/// Names and values of the headers of one answer, and this much for each header.
const HEADERS_BYTES_MAX: usize = 64 << 10;
const HEADER_COST: usize = 32;
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// What no text but some objects are, as text: objects that have nothing to say as text are JSON.
const OBJECT_TO_TEXT: &str = "(value) => { \
     const { toString } = value; \
     const speaks = value[Symbol.toPrimitive] !== undefined \
         || (typeof toString === 'function' && toString !== Object.prototype.toString && !Array.isArray(value)); \
     return speaks ? String(value) : JSON.stringify(value); }";

/// A request and what has been said of its answer so far.
pub(crate) struct Exchange {
    pub(crate) request: PageRequest,
    default_type: Option<Arc<str>>,
    body_limit: usize,
    status: Option<u16>,
    content_type: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    headers_bytes: usize,
    body: Vec<u8>,
    /// `response.Error` has fixed the answer.
    is_fixed: bool,
}

impl Exchange {
    pub(crate) fn new(request: PageRequest, default_type: Option<Arc<str>>, body_limit: usize) -> Self {
        Self {
            request,
            default_type,
            body_limit,
            status: None,
            content_type: None,
            headers: Vec::new(),
            headers_bytes: 0,
            body: Vec::new(),
            is_fixed: false,
        }
    }

    /// The answer as it stands.
    pub(crate) fn finish(self) -> PageResponse {
        let status = self.status.unwrap_or(200);
        let (mut headers, mut body) = (self.headers, self.body);
        let content_type = if has_no_body(status) {
            body.clear();
            self.content_type
        } else {
            let default = || self.default_type.as_deref().unwrap_or(DEFAULT_TYPE).to_owned();
            Some(self.content_type.unwrap_or_else(default))
        };
        if let Some(content_type) = content_type {
            headers.push(("content-type".to_owned(), content_type.into_bytes()));
        }
        PageResponse { status, headers, body }
    }

    /// Adds to the body. What is written after the answer is fixed is dropped.
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.is_fixed {
            return Ok(());
        }
        let limit = self.body_limit;
        if bytes.len() > limit - self.body.len() {
            return Err(format!(
                "the answer is longer than its limit of {limit} bytes (HttpBodyLimit of the endpoint, --http-body-limit of \
                 the worker)"
            ));
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }
}

/// Statuses that say that there is no body.
fn has_no_body(status: u16) -> bool {
    matches!(status, 204 | 205 | 304)
}

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let response = Object::new(ctx.clone())?;
    define(&response, "response.Write", host, write)?;
    ctx.globals().set("response", response)
}

/// What a template writes with: a function that writes pieces of its text, with a property that writes what is assigned to it
/// as escaped HTML.
pub(crate) fn writer<'js>(
    ctx: &Ctx<'js>,
    host: &Rc<Host>,
    text: &Arc<str>,
) -> rquickjs::Result<Function<'js>> {
    let text = text.clone();
    let writer = function(ctx, "write", host, move |host, call| {
        for bounds in call.arguments.chunks_exact(2) {
            piece(host, call.ctx, &text, bounds[0].get()?, bounds[1].get()?)?;
        }
        Ok(Value::new_undefined(call.ctx.clone()))
    })?;
    let escape = function(ctx, "e", host, |host, call| {
        write_value(host, call.ctx, "<?= ?>", call.argument(0), true)?;
        Ok(Value::new_undefined(call.ctx.clone()))
    })?;
    define_accessor(&writer, "e", None, Some(escape), false, false)?;
    Ok(writer)
}

fn piece(host: &Host, ctx: &Ctx<'_>, text: &str, from: u32, to: u32) -> rquickjs::Result<()> {
    match text.get(from as usize..to as usize) {
        Some(piece) => add(host, ctx, "the page", piece.as_bytes()),
        None => Err(Exception::throw_range(ctx, "the page's text has no such piece")),
    }
}

fn add(host: &Host, ctx: &Ctx<'_>, name: &str, bytes: &[u8]) -> rquickjs::Result<()> {
    let mut exchange = host.exchange.borrow_mut();
    let Some(exchange) = exchange.as_mut() else {
        return Err(Exception::throw_type(ctx, &format!("{name}: there is no request to answer")));
    };
    exchange.write(bytes).map_err(|error| Exception::throw_range(ctx, &format!("{name}: {error}")))
}

fn write<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    write_value(host, call.ctx, call.name, call.argument(0), false)?;
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn write_value<'js>(
    host: &Host,
    ctx: &Ctx<'js>,
    name: &str,
    value: Value<'js>,
    is_html: bool,
) -> rquickjs::Result<()> {
    let text = if let Some(text) = value.as_string() {
        string_of(ctx, text.clone())?
    } else if value.is_null() || value.is_undefined() {
        return Ok(());
    } else if let Some(int) = value.as_int() {
        let mut text = String::new();
        let _ = write!(text, "{int}");
        text
    } else if value.is_number() || value.is_bool() || value.is_big_int() {
        coerced(ctx, value)?
    } else if let Some(object) = value.as_object() {
        if let Some(array) = object.as_typed_array::<u8>().filter(|_| !is_html) {
            let bytes = bytes_of(host, ctx, array)?;
            return add(host, ctx, name, &bytes);
        }
        let to_text: Function<'js> = host.made(ctx, "object to text", |ctx| ctx.eval(OBJECT_TO_TEXT))?;
        match to_text.call::<_, Option<rquickjs::String<'js>>>((value,))? {
            Some(text) => string_of(ctx, text)?,
            None => return Ok(()),
        }
    } else {
        return Err(Exception::throw_type(ctx, &format!("{name}: a symbol cannot be written")));
    };
    if is_html {
        add(host, ctx, name, escaped(&text).as_bytes())
    } else {
        add(host, ctx, name, text.as_bytes())
    }
}

/// Text as HTML that shows it, also inside an attribute.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

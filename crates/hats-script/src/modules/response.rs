//! `response`: the answer that a script of an endpoint gives, and the functions with which a template writes.
//!
//! All of it looks at the [`Exchange`] in hand, which is in the [`Host`]: no object of the script owns any of it. While there is
//! none, as when libraries are evaluated, to write is an error.
//!
//! What must hold: what has been kept of an answer is bounded, since it is no part of the script's heap; and whatever
//! [`Exchange::finish`] says can be sent as it is: no header of it ends early or is two.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use hats_arena::define_accessor;
use hats_arena::leaf::{self, ErrorKind, throw};
use rquickjs::{Ctx, Function, Object, Value};

use super::{Call, ESCAPE, coerced, define, function, helper, object};
use crate::page::{DEFAULT_TYPE, PageRequest, PageResponse};
use crate::vm::Host;

/// Names and values of the headers of one answer, and this much for each header.
const HEADERS_BYTES_MAX: usize = 64 << 10;
const HEADER_COST: usize = 32;
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
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
    /// The headers say the type, if it has one.
    is_typed: bool,
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
            is_typed: false,
        }
    }

    /// The answer as it stands.
    pub(crate) fn finish(self) -> PageResponse {
        let status = self.status.unwrap_or(200);
        let (mut headers, mut body) = (self.headers, self.body);
        if has_no_body(status) {
            body.clear();
        }
        let content_type = if has_no_body(status) || self.is_typed {
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

    #[cfg(feature = "http")]
    /// True if a script has said anything of the answer.
    pub(crate) fn is_begun(&self) -> bool {
        let is_silent = self.body.is_empty() && self.headers.is_empty();
        !is_silent || self.status.is_some() || self.content_type.is_some()
    }

    #[cfg(feature = "http")]
    /// True once nothing can change the answer any more.
    pub(crate) fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// Adds to the body.
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.is_fixed {
            return Ok(());
        }
        if bytes.len() > self.body_limit - self.body.len() {
            return Err(self.too_long());
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn too_long(&self) -> String {
        format!(
            "the answer is longer than its limit of {} bytes (HttpBodyLimit of the endpoint, --http-body-limit of the worker)",
            self.body_limit
        )
    }

    /// Gives a header another value; of `Set-Cookie` there may be many.
    fn set_header(&mut self, name: &str, value: String) -> Result<(), String> {
        if self.is_fixed {
            return Ok(());
        }
        if name.eq_ignore_ascii_case("content-type") {
            self.content_type = Some(value);
            return Ok(());
        }
        if !name.eq_ignore_ascii_case("set-cookie") {
            self.headers.retain(|(known, value)| {
                let is_other = !known.eq_ignore_ascii_case(name);
                if !is_other {
                    self.headers_bytes -= cost(known, value);
                }
                is_other
            });
        }
        self.add_header(name, value.into_bytes())
    }

    fn add_header(&mut self, name: &str, value: Vec<u8>) -> Result<(), String> {
        let bytes = self.headers_bytes + cost(name, &value);
        if bytes > HEADERS_BYTES_MAX {
            return Err(format!("the headers of the answer are longer than {HEADERS_BYTES_MAX} bytes"));
        }
        self.headers_bytes = bytes;
        self.headers.push((name.to_owned(), value));
        Ok(())
    }

    /// Fixes the answer. The headers that it has keep their values.
    fn fail(&mut self, status: u16, text: &str) -> Result<(), String> {
        if self.is_fixed {
            return Ok(());
        }
        self.body.clear();
        self.write(text.as_bytes())?;
        self.status = Some(status);
        self.content_type = Some(PLAIN_TEXT.to_owned());
        self.is_fixed = true;
        Ok(())
    }

    #[cfg(feature = "http")]
    /// Answers with text or bytes that a handler has returned.
    pub(crate) fn answer(&mut self, body: Vec<u8>, own_type: Option<&str>) -> Result<(), String> {
        if body.len() > self.body_limit {
            return Err(self.too_long());
        }
        self.body = body;
        if self.default_type.is_none() {
            self.content_type = own_type.map(str::to_owned);
        }
        Ok(())
    }

    #[cfg(feature = "http")]
    /// Answers with a `Response`, whose headers are names and values in turn. Those that belong to the
    /// worker are left out: it may be the answer of another server.
    pub(crate) fn answer_with(
        &mut self,
        status: u16,
        headers: &[String],
        body: Vec<u8>,
    ) -> Result<(), String> {
        if body.len() > self.body_limit {
            return Err(self.too_long());
        }
        (self.status, self.body, self.is_typed) = (Some(status), body, true);
        for pair in headers.chunks_exact(2) {
            let (name, value) = (&pair[0], &pair[1]);
            if !belongs_to_worker(name) {
                checked_value(name, value)?;
                self.add_header(name, value.as_bytes().to_vec())?;
            }
        }
        Ok(())
    }
}

fn cost(name: &str, value: &[u8]) -> usize {
    name.len() + value.len() + HEADER_COST
}

/// Headers that say something of the connection or of how the body is sent.
pub(super) fn belongs_to_worker(name: &str) -> bool {
    const OWN: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn checked_name(name: &str) -> Result<(), String> {
    let shown: String = name.chars().take(60).collect();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{shown:?} is no name of a header"));
    }
    if belongs_to_worker(name) {
        return Err(format!("header {shown:?} belongs to the worker"));
    }
    Ok(())
}

fn checked_value(name: &str, value: &str) -> Result<(), String> {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        let shown: String = name.chars().take(60).collect();
        return Err(format!("the value of header {shown:?} has a character that no header can have"));
    }
    Ok(())
}

/// Statuses that say that there is no body.
fn has_no_body(status: u16) -> bool {
    matches!(status, 204 | 205 | 304)
}

/// What `host.js` makes `response` of. Each leaf that is given an object which is to be text returns true: then it wants the
/// text.
pub(super) fn leaves<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let response = Object::new(ctx.clone())?;
    define(&response, "response.SetContentType", host, set_content_type)?;
    define(&response, "response.SetHeader", host, set_header)?;
    define(&response, "response.SetStatus", host, set_status)?;
    let leaves = object(ctx)?;
    leaf::define(&leaves, "response", response)?;
    leaf::define(
        &leaves,
        "write",
        function(ctx, "response.Write", host, |host, call| write(host, call, false))?,
    )?;
    leaf::define(&leaves, "error", function(ctx, "response.Error", host, error)?)?;
    leaf::define(&leaves, "escaped", function(ctx, "<?= ?>", host, |host, call| write(host, call, true))?)?;
    Ok(leaves)
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
            let bound = |n: usize| bounds[n].as_int().and_then(|bound| usize::try_from(bound).ok());
            piece(host, call.ctx, &text, bound(0), bound(1))?;
        }
        Ok(Value::new_undefined(call.ctx.clone()))
    })?;
    let escape: Function<'_> = helper(ctx, host, ESCAPE)?;
    define_accessor(&writer, "e", None, Some(escape), false, false)?;
    Ok(writer)
}

fn piece(
    host: &Host,
    ctx: &Ctx<'_>,
    text: &str,
    from: Option<usize>,
    to: Option<usize>,
) -> rquickjs::Result<()> {
    match from.zip(to).and_then(|(from, to)| text.get(from..to)) {
        Some(piece) => add(host, ctx, "the page", piece.as_bytes()),
        None => Err(throw(ctx, ErrorKind::Range, "the page's text has no such piece")),
    }
}

fn add(host: &Host, ctx: &Ctx<'_>, name: &str, bytes: &[u8]) -> rquickjs::Result<()> {
    change(host, ctx, name, |exchange| exchange.write(bytes))
}

/// Does something to the answer in hand. What is wrong with it is a `RangeError`.
pub(super) fn change(
    host: &Host,
    ctx: &Ctx<'_>,
    name: &str,
    change: impl FnOnce(&mut Exchange) -> Result<(), String>,
) -> rquickjs::Result<()> {
    let changed = with_exchange(host, ctx, name, change)?;
    changed.map_err(|error| throw(ctx, ErrorKind::Range, &format!("{name}: {error}")))
}

/// Does something with the exchange in hand.
pub(super) fn with_exchange<T>(
    host: &Host,
    ctx: &Ctx<'_>,
    name: &str,
    f: impl FnOnce(&mut Exchange) -> T,
) -> rquickjs::Result<T> {
    // The exception is made when nothing is borrowed any more.
    let done = host.exchange.borrow_mut().as_mut().map(f);
    done.ok_or_else(|| throw(ctx, ErrorKind::Type, &format!("{name}: there is no request to answer")))
}

/// Writes the first argument. Returns true if that is an object, whose text is wanted.
fn write<'js>(host: &Rc<Host>, call: &Call<'_, 'js>, is_html: bool) -> rquickjs::Result<Value<'js>> {
    let value = call.argument(0);
    if !is_html && let Some(bytes) = leaf::bytes_of(&value) {
        add(host, call.ctx, call.name, &bytes)?;
        return Ok(Value::new_undefined(call.ctx.clone()));
    }
    match text_of_value(call, value)? {
        Written::Text(text) if is_html => add(host, call.ctx, call.name, escaped(&text).as_bytes())?,
        Written::Text(text) => add(host, call.ctx, call.name, text.as_bytes())?,
        Written::Nothing => {}
        Written::Object => return Ok(Value::new_bool(call.ctx.clone(), true)),
    }
    Ok(Value::new_undefined(call.ctx.clone()))
}

/// As [`write`], of a text and a status.
fn error<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = match text_of_value(call, call.argument(0))? {
        Written::Text(text) => text,
        Written::Nothing => String::new(),
        Written::Object => return Ok(Value::new_bool(call.ctx.clone(), true)),
    };
    let status = match call.argument(1) {
        status if status.is_undefined() => 500,
        _ => status(call, 1, 400)?,
    };
    change(host, call.ctx, call.name, |exchange| exchange.fail(status, &text))?;
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn set_status<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let status = status(call, 0, 200)?;
    change(host, call.ctx, call.name, |exchange| {
        if !exchange.is_fixed {
            exchange.status = Some(status);
        }
        Ok(())
    })?;
    Ok(Value::new_undefined(call.ctx.clone()))
}

/// The n-th argument as a status that an answer can have, from `least` on.
fn status(call: &Call<'_, '_>, n: usize, least: u16) -> rquickjs::Result<u16> {
    let number = call.number(n)?;
    let found = (least..=599).find(|status| f64::from(*status) == number);
    found.ok_or_else(|| {
        let message =
            format!("{}: argument {} must be a status from {least} to 599, not {number}", call.name, n + 1);
        call.range_error(&message)
    })
}

fn set_content_type<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    put_header(host, call, "Content-Type", call.string(0)?)
}

fn set_header<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let name = call.string(0)?;
    let value = call.argument(1);
    if !(value.is_string() || value.is_number() || value.is_bool() || value.is_big_int()) {
        return Err(call.wrong(1, "a string, number, bigint or boolean"));
    }
    let value = coerced(call.ctx, value)?;
    put_header(host, call, &name, value)
}

fn put_header<'js>(
    host: &Rc<Host>,
    call: &Call<'_, 'js>,
    name: &str,
    value: String,
) -> rquickjs::Result<Value<'js>> {
    let checked = checked_name(name).and_then(|()| checked_value(name, &value));
    checked.map_err(|error| call.type_error(&format!("{}: {error}", call.name)))?;
    let value = value.trim_matches([' ', '\t']).to_owned();
    change(host, call.ctx, call.name, |exchange| exchange.set_header(name, value))?;
    Ok(Value::new_undefined(call.ctx.clone()))
}

/// What is written for a value.
enum Written {
    Text(String),
    /// For null and undefined.
    Nothing,
    /// To find out runs JavaScript.
    Object,
}

fn text_of_value<'js>(call: &Call<'_, 'js>, value: Value<'js>) -> rquickjs::Result<Written> {
    if let Some(text) = value.as_string() {
        return leaf::string_of(text).map(Written::Text);
    }
    if value.is_null() || value.is_undefined() {
        return Ok(Written::Nothing);
    }
    if let Some(int) = value.as_int() {
        return Ok(Written::Text(int.to_string()));
    }
    if value.is_number() || value.is_bool() || value.is_big_int() {
        return coerced(call.ctx, value).map(Written::Text);
    }
    if value.is_symbol() || value.is_function() || value.is_promise() {
        let what = if value.is_symbol() {
            "a symbol"
        } else if value.is_function() {
            "a function"
        } else {
            "a promise, which has to be awaited first,"
        };
        return Err(call.type_error(&format!("{}: {what} cannot be written", call.name)));
    }
    Ok(Written::Object)
}

/// Text as HTML that shows it, also inside an attribute.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
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
    html.into()
}

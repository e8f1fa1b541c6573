//! `http`: requests as synchronous calls, and `fetch` with what belongs to it.
//!
//! A request runs on the I/O runtime, in the worker's one client (see `client`); the script waits for it as for any host
//! call, and so does a promise of `fetch`. Each passes the lease gate right before it is handed over. Whoever stops
//! waiting, because the call in hand is interrupted or the lease is lost, thereby aborts it.

mod client;
pub(crate) mod fetch;
mod headers;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use rquickjs::object::Property;
use rquickjs::{Array, Ctx, Exception, Function, IntoJs, Object, TypedArray, Value};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::client::Budget;
use self::client::{Answer, Body, Redirect, Request};
pub use self::client::{Client, Error, Settings};
use super::{
    Call, bytes_of, coerced, define, function, inspect, lazy_with, plain_object, properties, string_of,
};
use crate::vm::Host;

/// How long a request may take unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
const NO_HTTP: &str = "this worker gives its scripts no HTTP";
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    lazy_with(ctx, host, "http", made)?;
    fetch::install(ctx, host)
}

fn made<'js>(host: &Rc<Host>, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
    let http = Object::new(ctx.clone())?;
    define(&http, "http.Get", host, |host, call| request(host, call, Method::GET, Sends::Nothing))?;
    define(&http, "http.Head", host, |host, call| request(host, call, Method::HEAD, Sends::Nothing))?;
    define(&http, "http.Delete", host, |host, call| request(host, call, Method::DELETE, Sends::Nothing))?;
    define(&http, "http.Post", host, |host, call| request(host, call, Method::POST, Sends::Body))?;
    define(&http, "http.Put", host, |host, call| request(host, call, Method::PUT, Sends::Body))?;
    define(&http, "http.Patch", host, |host, call| request(host, call, Method::PATCH, Sends::Body))?;
    define(&http, "http.PostForm", host, |host, call| request(host, call, Method::POST, Sends::Form))?;
    Ok(http.into_value())
}

/// What the second argument of a call is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sends {
    Nothing,
    Body,
    Form,
}

fn request<'js>(
    host: &Rc<Host>,
    call: &Call<'_, 'js>,
    method: Method,
    sends: Sends,
) -> rquickjs::Result<Value<'js>> {
    let url = call.string(0)?;
    let (body, form, options) = match sends {
        Sends::Nothing => (None, false, 1),
        Sends::Body => (Some(read_body(host, call, 1)?), false, 2),
        Sends::Form => (Some(read_form(call, 1)?), true, 2),
    };
    let mut options = Options::read(call, options)?;
    if form {
        options.headers.entry(CONTENT_TYPE).or_insert(FORM);
    }
    let is_head = method == Method::HEAD;
    match perform(host, call, method, &url, body, options)? {
        Ok(answer) => result(host, call.ctx, answer, is_head),
        Err(error) => failure(call.ctx, &error),
    }
}

/// Sends a request and waits for its answer, or for why there is none.
fn perform(
    host: &Rc<Host>,
    call: &Call<'_, '_>,
    method: Method,
    url: &str,
    body: Option<Vec<u8>>,
    options: Options,
) -> rquickjs::Result<Result<Answer, String>> {
    let Some(client) = host.lane.http.clone() else { return Ok(Err(NO_HTTP.to_owned())) };
    let url = match read_url(url) {
        Ok(url) => url,
        Err(error) => return Ok(Err(error)),
    };
    let mut held = host.bodies.borrow().hold();
    if let Err(error) = held.grow(body.as_ref().map_or(0, Vec::len)) {
        return Ok(Err(error));
    }
    let request = Request {
        method,
        url,
        headers: options.headers,
        body: body.map(Bytes::from),
        redirect: Redirect::Follow,
        timeout: options.timeout,
        body_limit: host.limits.http_body,
        budget: host.bodies.borrow().clone(),
        passed: host.gate(call.ctx)?,
    };
    let sent = host.lane.io.spawn(async move { client.send(request).await });
    let answer = host.wait(call.ctx, AbortOnDropHandle::new(sent))?;
    drop(held);
    Ok(answer.unwrap_or_else(|error| Err(format!("the request could not be carried out: {error}"))))
}

fn read_url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| {
        let shown: String = text.chars().take(60).collect();
        format!("{shown:?} is no URL: {error}")
    })
}

/// What a call takes beside URL and body.
struct Options {
    headers: HeaderMap,
    timeout: Duration,
}

impl Options {
    /// Reads the n-th argument: `{headers, timeoutMs}`, or nothing.
    fn read(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<Self> {
        let mut options = Self { headers: HeaderMap::new(), timeout: TIMEOUT };
        let given = call.argument(n);
        if given.is_undefined() || given.is_null() {
            return Ok(options);
        }
        let Some(given) = plain_object(&given) else {
            return Err(call.wrong(n, "an object such as {headers, timeoutMs}"));
        };
        for option in properties(call.ctx, given) {
            let (name, value) = option?;
            match name.as_str() {
                _ if value.is_undefined() => {}
                "headers" => options.headers = read_headers(call, n, &value)?,
                "timeoutMs" => options.timeout = read_timeout(call, n, &value)?,
                name => {
                    let known = "the options are headers and timeoutMs";
                    return Err(wrong_part(call, n, &format!("{name:?} is no option; {known}")));
                }
            }
        }
        Ok(options)
    }
}

fn read_timeout<'js>(call: &Call<'_, 'js>, n: usize, value: &Value<'js>) -> rquickjs::Result<Duration> {
    /// More is taken for a mistake.
    const TIMEOUT_MS_MAX: f64 = 86_400_000.0;
    let milliseconds = value.as_number().filter(|number| *number > 0.0 && *number <= TIMEOUT_MS_MAX);
    match milliseconds.and_then(|number| Duration::try_from_secs_f64(number / 1e3).ok()) {
        Some(timeout) => Ok(timeout),
        None => {
            let given = inspect::brief(call.ctx, value);
            let message = format!("timeoutMs must be a number of milliseconds up to a day, not {given}");
            Err(wrong_part(call, n, &message))
        }
    }
}

fn read_headers<'js>(call: &Call<'_, 'js>, n: usize, value: &Value<'js>) -> rquickjs::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let Some(given) = plain_object(value) else {
        let given = inspect::brief(call.ctx, value);
        return Err(wrong_part(
            call,
            n,
            &format!("headers must be an object of names and values, not {given}"),
        ));
    };
    for header in properties(call.ctx, given) {
        let (name, value) = header?;
        each_text(call, &value, |text| match text {
            Some(text) => match headers::checked(&name, &text) {
                Ok(Some((name, value))) => match headers.try_append(name, value) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(wrong_part(call, n, "there are too many headers")),
                },
                Ok(None) => Ok(()),
                Err(message) => Err(wrong_part(call, n, &message)),
            },
            None => {
                let given = inspect::brief(call.ctx, &value);
                let message =
                    format!("header {name:?} must be a string, a number or an array of these, not {given}");
                Err(wrong_part(call, n, &message))
            }
        })?;
    }
    Ok(headers)
}

/// The n-th argument as a body.
fn read_body(host: &Host, call: &Call<'_, '_>, n: usize) -> rquickjs::Result<Vec<u8>> {
    let value = call.argument(n);
    match body_of(host, call.ctx, &value)? {
        Some(body) => Ok(body),
        None => Err(call.wrong(n, "a string or Uint8Array")),
    }
}

/// A string or a `Uint8Array` as bytes; None for anything else.
pub(crate) fn body_of<'js>(
    host: &Host,
    ctx: &Ctx<'js>,
    value: &Value<'js>,
) -> rquickjs::Result<Option<Vec<u8>>> {
    if let Some(text) = value.as_string() {
        return string_of(ctx, text.clone()).map(|text| Some(text.into_bytes()));
    }
    match value.as_object().and_then(|object| object.as_typed_array::<u8>()) {
        Some(array) => bytes_of(host, ctx, array).map(Some),
        None => Ok(None),
    }
}

/// The n-th argument as the fields of a form.
fn read_form(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<Vec<u8>> {
    let value = call.argument(n);
    let Some(fields) = plain_object(&value) else {
        return Err(call.wrong(n, "an object of names and values"));
    };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for field in properties(call.ctx, fields) {
        let (name, value) = field?;
        each_text(call, &value, |text| match text {
            Some(text) => {
                form.append_pair(&name, &text);
                Ok(())
            }
            None => {
                let given = inspect::brief(call.ctx, &value);
                let expected = "a string, number, bigint, boolean or an array of these";
                Err(wrong_part(call, n, &format!("field {name:?} must be {expected}, not {given}")))
            }
        })?;
    }
    Ok(form.finish().into_bytes())
}

/// Hands over a value, or each item of an array, as text; None for what is no text.
fn each_text<'js>(
    call: &Call<'_, 'js>,
    value: &Value<'js>,
    mut take: impl FnMut(Option<String>) -> rquickjs::Result<()>,
) -> rquickjs::Result<()> {
    let mut one = |value: &Value<'js>| {
        let is_text = value.is_string() || value.is_number() || value.is_bool() || value.is_big_int();
        take(if is_text { Some(coerced(call.ctx, value.clone())?) } else { None })
    };
    match value.as_array() {
        Some(items) => items.iter::<Value<'js>>().try_for_each(|item| one(&item?)),
        None => one(value),
    }
}

/// A `TypeError` about a part of the n-th argument.
fn wrong_part(call: &Call<'_, '_>, n: usize, message: &str) -> rquickjs::Error {
    Exception::throw_type(call.ctx, &format!("{}: argument {}: {message}", call.name, n + 1))
}

fn result<'js>(
    host: &Rc<Host>,
    ctx: &Ctx<'js>,
    answer: Answer,
    is_head: bool,
) -> rquickjs::Result<Value<'js>> {
    let result = Object::new(ctx.clone())?;
    if !is_head {
        set_body(host, ctx, &result, &answer.body)?;
    }
    result.set("headers", headers_to_js(ctx, &answer.headers)?)?;
    result.set("status", answer.status.as_u16())?;
    Ok(result.into_value())
}

/// `body` is the text. `bytes` is made when it is asked for, from the same text if that says it all, so that nothing is
/// kept twice; it is not enumerable, so that a result as JSON, or in the log, is no longer than it was without it.
fn set_body<'js>(host: &Rc<Host>, ctx: &Ctx<'js>, result: &Object<'js>, body: &Body) -> rquickjs::Result<()> {
    match body {
        Body::Text(text) => {
            let text = text.as_str().into_js(ctx)?;
            result.set("body", text.clone())?;
            let make: Function<'js> = host.made(ctx, "http bytes", |ctx| {
                let maker: Function<'js> = ctx.eval(LAZY_BYTES)?;
                maker.call((utf8_function(ctx, host)?,))
            })?;
            make.call((result.clone(), text))
        }
        Body::Bytes(bytes) => {
            result.set("body", String::from_utf8_lossy(bytes).as_ref())?;
            let bytes = TypedArray::<u8>::new_copy(ctx.clone(), bytes)?;
            result.prop("bytes", Property::from(bytes.into_value()).writable().configurable())
        }
    }
}

const LAZY_BYTES: &str = "(utf8) => (result, text) => { \
     const fix = (value) => Object.defineProperty(result, 'bytes', { value, writable: true, configurable: true }); \
     Object.defineProperty(result, 'bytes', { get: () => fix(utf8(text)).bytes, set: fix, configurable: true }) }";

/// A function of the script's world that makes a `Uint8Array` of a string.
fn utf8_function<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Function<'js>> {
    function(ctx, "utf8", host, |_, call| {
        let bytes = call.string(0)?.into_bytes();
        TypedArray::<u8>::new_copy(call.ctx.clone(), bytes).map(TypedArray::into_value)
    })
}

fn headers_to_js<'js>(ctx: &Ctx<'js>, headers: &HeaderMap) -> rquickjs::Result<Object<'js>> {
    let object = Object::new(ctx.clone())?;
    for name in headers.keys() {
        let values = Array::new(ctx.clone())?;
        for (n, value) in headers.get_all(name).iter().enumerate() {
            values.set(n, headers::text(value))?;
        }
        // Defined, not assigned: a server may call a header `__proto__`.
        let property = Property::from(values.into_value()).writable().configurable().enumerable();
        object.prop(headers::canonical(name), property)?;
    }
    Ok(object)
}

fn failure<'js>(ctx: &Ctx<'js>, error: &str) -> rquickjs::Result<Value<'js>> {
    let result = Object::new(ctx.clone())?;
    result.set("error", error)?;
    result.set("status", 0)?;
    result.set("body", "")?;
    result.set("headers", Object::new(ctx.clone())?)?;
    Ok(result.into_value())
}

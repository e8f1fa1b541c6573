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
use hats_arena::leaf::{self, define as own};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use rquickjs::{Ctx, Function, IntoJs, Object, Value};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::client::Budget;
use self::client::{Answer, Body, Redirect, Request};
pub use self::client::{Client, Error, Settings};
use super::{Call, bytes_to_js, coerced, define, elements, function, inspect, object, plain_object};
use crate::vm::Host;

/// How long a request may take unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
const NO_HTTP: &str = "this worker gives its scripts no HTTP";
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// What `http.js` is made of: its functions take URL, body, options, and a list of what is in the last two.
pub(super) fn leaves<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let http = object(ctx)?;
    define(&http, "http.Get", host, |host, call| request(host, call, Method::GET, Sends::Nothing))?;
    define(&http, "http.Head", host, |host, call| request(host, call, Method::HEAD, Sends::Nothing))?;
    define(&http, "http.Delete", host, |host, call| request(host, call, Method::DELETE, Sends::Nothing))?;
    define(&http, "http.Post", host, |host, call| request(host, call, Method::POST, Sends::Body))?;
    define(&http, "http.Put", host, |host, call| request(host, call, Method::PUT, Sends::Body))?;
    define(&http, "http.Patch", host, |host, call| request(host, call, Method::PATCH, Sends::Body))?;
    define(&http, "http.PostForm", host, |host, call| request(host, call, Method::POST, Sends::Form))?;
    own(&http, "utf8", utf8_function(ctx, host)?)?;
    Ok(http)
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
    let parts = Parts { call, list: call.argument(3), options: if sends == Sends::Nothing { 1 } else { 2 } };
    let (body, form) = match sends {
        Sends::Nothing => (None, false),
        Sends::Body => (Some(read_body(call, 1)?), false),
        Sends::Form => (Some(parts.form()?), true),
    };
    let mut options = parts.options()?;
    if form {
        options.headers.entry(CONTENT_TYPE).or_insert(FORM);
    }
    let is_head = method == Method::HEAD;
    match perform(host, call, method, &url, body, options)? {
        Ok(answer) => result(call, answer, is_head),
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

/// What `http.js` has found in the arguments of a call: for each part what it is, a name and a value.
struct Parts<'a, 'js> {
    call: &'a Call<'a, 'js>,
    list: Value<'js>,
    /// Which argument of the script's call are the options.
    options: usize,
}

impl<'js> Parts<'_, 'js> {
    /// `{headers, timeoutMs}`, or nothing.
    fn options(&self) -> rquickjs::Result<Options> {
        let (call, n) = (self.call, self.options);
        let mut options = Options { headers: HeaderMap::new(), timeout: TIMEOUT };
        let given = call.argument(2);
        if given.is_undefined() || given.is_null() {
            return Ok(options);
        }
        if plain_object(&given).is_none() {
            return Err(self.wrong(n, "an object such as {headers, timeoutMs}", &given));
        }
        for part in self.iter() {
            let (what, name, value) = part?;
            match (what.as_str(), name.as_str()) {
                ("header", _) => self.add_header(&mut options.headers, &name, &value)?,
                ("option", _) if value.is_undefined() => {}
                ("option", "headers") if plain_object(&value).is_some() => {}
                ("option", "headers") => {
                    let given = inspect::brief(call.ctx, &value);
                    let message = format!("headers must be an object of names and values, not {given}");
                    return Err(wrong_part(call, n, &message));
                }
                ("option", "timeoutMs") => options.timeout = read_timeout(call, n, &value)?,
                ("option", name) => {
                    let known = "the options are headers and timeoutMs";
                    return Err(wrong_part(call, n, &format!("{name:?} is no option; {known}")));
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// The second argument as the fields of a form.
    fn form(&self) -> rquickjs::Result<Vec<u8>> {
        let given = self.call.argument(1);
        if plain_object(&given).is_none() {
            return Err(self.wrong(1, "an object of names and values", &given));
        }
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        for part in self.iter() {
            let (what, name, value) = part?;
            if what != "field" {
                continue;
            }
            match text(self.call, &value)? {
                Some(text) => {
                    form.append_pair(&name, &text);
                }
                None => {
                    let given = inspect::brief(self.call.ctx, &value);
                    let expected = "a string, number, bigint, boolean or an array of these";
                    let message = format!("field {name:?} must be {expected}, not {given}");
                    return Err(wrong_part(self.call, 1, &message));
                }
            }
        }
        Ok(form.finish().into_bytes())
    }

    fn add_header(&self, headers: &mut HeaderMap, name: &str, value: &Value<'js>) -> rquickjs::Result<()> {
        let wrong = |message: &str| wrong_part(self.call, self.options, message);
        let Some(text) = text(self.call, value)? else {
            let given = inspect::brief(self.call.ctx, value);
            let message =
                format!("header {name:?} must be a string, a number or an array of these, not {given}");
            return Err(wrong(&message));
        };
        if let Some((name, value)) = headers::checked(name, &text).map_err(|message| wrong(&message))? {
            headers.try_append(name, value).map_err(|_| wrong("there are too many headers"))?;
        }
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = rquickjs::Result<(String, String, Value<'js>)>> {
        let mut list = elements(&self.list);
        std::iter::from_fn(move || {
            let (what, name, value) = (list.next()?, list.next()?, list.next()?);
            let text = |value: Value<'js>| value.as_string().map(leaf::string_of).transpose();
            let read = text(what).and_then(|what| Ok((what.unwrap_or_default(), text(name)?, value)));
            Some(read.map(|(what, name, value)| (what, name.unwrap_or_default(), value)))
        })
    }

    /// As [`Call::wrong`], of an argument of the script's.
    fn wrong(&self, n: usize, expected: &str, given: &Value<'js>) -> rquickjs::Error {
        let given = inspect::brief(self.call.ctx, given);
        let message = format!("{}: argument {} must be {expected}, not {given}", self.call.name, n + 1);
        self.call.type_error(&message)
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

/// A value as text; None for what is none.
fn text<'js>(call: &Call<'_, 'js>, value: &Value<'js>) -> rquickjs::Result<Option<String>> {
    let is_text = value.is_string() || value.is_number() || value.is_bool() || value.is_big_int();
    if is_text { coerced(call.ctx, value.clone()).map(Some) } else { Ok(None) }
}

/// The n-th argument as a body.
fn read_body(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<Vec<u8>> {
    let value = call.argument(n);
    match body_of(&value)? {
        Some(body) => Ok(body),
        None => Err(call.wrong(n, "a string or Uint8Array")),
    }
}

/// A string or a `Uint8Array` as bytes; None for anything else.
pub(crate) fn body_of(value: &Value<'_>) -> rquickjs::Result<Option<Vec<u8>>> {
    match value.as_string() {
        Some(text) => leaf::string_of(text).map(|text| Some(text.into_bytes())),
        None => Ok(leaf::bytes_of(value)),
    }
}

/// A `TypeError` about a part of the n-th argument.
fn wrong_part(call: &Call<'_, '_>, n: usize, message: &str) -> rquickjs::Error {
    call.type_error(&format!("{}: argument {}: {message}", call.name, n + 1))
}

fn result<'js>(call: &Call<'_, 'js>, answer: Answer, is_head: bool) -> rquickjs::Result<Value<'js>> {
    let ctx = call.ctx;
    let result = Object::new(ctx.clone())?;
    if !is_head {
        match &answer.body {
            Body::Text(text) => {
                let text = text.as_str().into_js(ctx)?;
                own(&result, "body", text.clone())?;
                // `http.js` makes the bytes of it when they are asked for.
                if let Some(list) = call.argument(3).as_object() {
                    own(list, "text", text)?;
                }
            }
            Body::Bytes(bytes) => {
                own(&result, "body", String::from_utf8_lossy(bytes).as_ref())?;
                leaf::define_hidden(&result, "bytes", bytes_to_js(ctx, bytes)?)?;
            }
        }
    }
    own(&result, "headers", headers_to_js(ctx, &answer.headers)?)?;
    own(&result, "status", answer.status.as_u16())?;
    Ok(result.into_value())
}

/// A function of the script's world that makes a `Uint8Array` of a string.
fn utf8_function<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Function<'js>> {
    function(ctx, "utf8", host, |_, call| bytes_to_js(call.ctx, call.string(0)?.as_bytes()))
}

fn headers_to_js<'js>(ctx: &Ctx<'js>, headers: &HeaderMap) -> rquickjs::Result<Object<'js>> {
    let object = Object::new(ctx.clone())?;
    for name in headers.keys() {
        let values = headers.get_all(name).iter().map(|value| Ok(headers::text(value)));
        own(&object, &headers::canonical(name), leaf::array_of(ctx, values)?)?;
    }
    Ok(object)
}

fn failure<'js>(ctx: &Ctx<'js>, error: &str) -> rquickjs::Result<Value<'js>> {
    let result = Object::new(ctx.clone())?;
    own(&result, "error", error)?;
    own(&result, "status", 0)?;
    own(&result, "body", "")?;
    own(&result, "headers", Object::new(ctx.clone())?)?;
    Ok(result.into_value())
}

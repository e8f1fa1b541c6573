//! `fetch`, `Request`, `Response` and `Headers`: written in JavaScript (`fetch.js`) on top of one host function that
//! begins a request and returns a promise. Nothing of it all exists in a script that uses none.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use rquickjs::convert::List;
use rquickjs::{Array, Ctx, Exception, Function, IntoJs, Object, TypedArray, Value};
use url::Position;

use super::client::{Answer, Body, Redirect, Request};
use super::{NO_HTTP, TIMEOUT, body_of, headers, read_url, utf8_function};
use crate::host::Kind;
use crate::modules::response::belongs_to_worker;
use crate::modules::{Call, bytes_of, define, lazy_group, made_group, request};
use crate::vm::{Finish, Host};

const NAMES: &[&str] = &["fetch", "Headers", "Request", "Response"];

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    lazy_group(ctx, host, NAMES, make)
}

/// The names of this module, and with them what handlers of endpoints need: `incoming` and `outgoing`.
pub(crate) fn group<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    made_group(ctx, host, NAMES, make)
}

fn make<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let native = Object::new(ctx.clone())?;
    native.set("utf8", utf8_function(ctx, host)?)?;
    define(&native, "fetch.text", host, text)?;
    define(&native, "fetch.url", host, url)?;
    define(&native, "fetch.location", host, location)?;
    define(&native, "fetch.send", host, send)?;
    define(&native, "fetch.abort", host, abort)?;
    if host.control().kind() == Kind::Endpoint {
        define(&native, "fetch.incoming", host, incoming)?;
        define(&native, "fetch.incomingHeaders", host, incoming_headers)?;
        define(&native, "fetch.incomingBody", host, incoming_body)?;
    }
    let make: Function<'_> = ctx.eval(include_str!("fetch.js"))?;
    make.call((native,))
}

/// Bytes as text.
fn text<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let bytes = call.argument(0);
    match bytes.as_object().and_then(|object| object.as_typed_array::<u8>()) {
        Some(array) => String::from_utf8_lossy(&bytes_of(host, call.ctx, array)?).as_ref().into_js(call.ctx),
        None => Err(call.wrong(0, "a Uint8Array")),
    }
}

/// A URL in the one form that it is sent in.
fn url<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match read_url(&call.string(0)?) {
        Ok(url) => url.as_str().into_js(call.ctx),
        Err(error) => Err(Exception::throw_type(call.ctx, &format!("fetch: {error}"))),
    }
}

/// Where a redirect leads to. An endpoint may name a path, below whatever host it was asked on.
fn location<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = call.string(0)?;
    let is_path = text.starts_with('/') && !text.starts_with("//") && !text.starts_with("/\\");
    if is_path && host.control().kind() == Kind::Endpoint {
        let url = url::Url::parse("http://host").and_then(|base| base.join(&text));
        if let Ok(url) = url {
            return url[Position::BeforePath..].into_js(call.ctx);
        }
    }
    self::url(host, call)
}

/// Method, URL and parameters of the request in hand.
fn incoming<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let ctx = call.ctx;
    let parts = request::of(host, |request| {
        List((request.method.as_str(), request.url.as_str(), request::params(ctx, request)?)).into_js(ctx)
    });
    parts.unwrap_or_else(|| Ok(Value::new_undefined(ctx.clone())))
}

/// Its headers as a flat array, without those of the connection.
fn incoming_headers<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let flat = Array::new(call.ctx.clone())?;
    request::of(host, |request| {
        let of_request = |(name, _): &&(String, Vec<u8>)| {
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length || !(belongs_to_worker(name) || name.eq_ignore_ascii_case("expect"))
        };
        for (n, (name, value)) in request.headers.iter().filter(of_request).enumerate() {
            flat.set(2 * n, name.to_ascii_lowercase())?;
            flat.set(2 * n + 1, String::from_utf8_lossy(value).as_ref())?;
        }
        Ok(())
    })
    .unwrap_or(Ok(()))
    .map(|()| flat.into_value())
}

/// Its body: null, a string if it is text, or a `Uint8Array`.
fn incoming_body<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let ctx = call.ctx;
    let body = request::of(host, |request| request.body.clone()).unwrap_or_default();
    if body.is_empty() {
        return Ok(Value::new_null(ctx.clone()));
    }
    match std::str::from_utf8(&body) {
        Ok(text) => text.into_js(ctx),
        Err(_) => TypedArray::<u8>::new_copy(ctx.clone(), &body).map(TypedArray::into_value),
    }
}

/// Begins a request. The arguments are those of `fetch.js`: method, URL, a flat array of headers, body, what to do about
/// redirects, time. Returns number and promise.
fn send<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let refuse = |message: &str| Exception::throw_type(call.ctx, &format!("fetch: {message}"));
    let Some(client) = host.lane.http.clone() else { return Err(refuse(NO_HTTP)) };
    let url = read_url(&call.string(1)?).map_err(|error| refuse(&error))?;
    let method =
        Method::from_bytes(call.string(0)?.as_bytes()).map_err(|error| refuse(&error.to_string()))?;
    let headers = read_headers(call, 2)?;
    let body = body_of(host, call.ctx, &call.argument(3))?;
    let redirect = match call.string(4)?.as_str() {
        "manual" => Redirect::Manual,
        "error" => Redirect::Error,
        _ => Redirect::Follow,
    };
    let timeout = call.argument(5).as_number().and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
    let mut held = host.bodies.borrow().hold();
    held.grow(body.as_ref().map_or(0, Vec::len)).map_err(|error| refuse(&error))?;
    let request = Request {
        method,
        url,
        headers,
        body: body.map(Bytes::from),
        redirect,
        timeout: timeout.unwrap_or(TIMEOUT),
        body_limit: host.limits.http_body,
        budget: host.bodies.borrow().clone(),
        passed: host.gate(call.ctx)?,
    };
    let sent = async move {
        let answer = client.send(request).await;
        drop(held);
        let finish: Finish = Box::new(move |_, ctx| match answer {
            Ok(answer) => answer_to_js(ctx, &answer),
            Err(error) => Err(Exception::throw_type(ctx, &format!("fetch: {error}"))),
        });
        finish
    };
    match host.operations.start(call.ctx, &host.lane.io, sent)? {
        Some((number, promise)) => List((number, promise)).into_js(call.ctx),
        None => Err(refuse("there are too many requests under way")),
    }
}

fn abort<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if let Some(number) = call.argument(0).get::<Option<u32>>().unwrap_or_default() {
        host.operations.abort(number);
    }
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn read_headers(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let flat: Vec<String> = call.argument(n).get()?;
    for pair in flat.chunks_exact(2) {
        let refuse = |message: &str| Exception::throw_type(call.ctx, &format!("fetch: {message}"));
        if let Some((name, value)) = headers::checked(&pair[0], &pair[1]).map_err(|error| refuse(&error))? {
            headers.try_append(name, value).map_err(|_| refuse("there are too many headers"))?;
        }
    }
    Ok(headers)
}

/// `[status, statusText, flat headers, body, url, redirected]`; as on the web the URL is without its fragment.
fn answer_to_js<'js>(ctx: &Ctx<'js>, answer: &Answer) -> rquickjs::Result<Value<'js>> {
    let headers = Array::new(ctx.clone())?;
    for (n, (name, value)) in answer.headers.iter().enumerate() {
        headers.set(2 * n, name.as_str())?;
        headers.set(2 * n + 1, headers::text(value))?;
    }
    let body = match &answer.body {
        Body::Text(text) => text.as_str().into_js(ctx)?,
        Body::Bytes(bytes) => TypedArray::<u8>::new_copy(ctx.clone(), bytes)?.into_value(),
    };
    let status_text = answer.status.canonical_reason().unwrap_or_default();
    let url = &answer.url[..Position::AfterQuery];
    let parts = (answer.status.as_u16(), status_text, headers, body, url, answer.redirected);
    List(parts).into_js(ctx)
}

//! `fetch`, `Request`, `Response` and `Headers`: written in JavaScript (`fetch.js`) on top of one host function that
//! begins a request and returns a promise. Nothing of it all exists in a script that uses none.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hats_arena::entry;
use hats_arena::leaf::{self, ErrorKind, array_of, throw};
use reqwest::Method;
use reqwest::header::HeaderMap;
use rquickjs::{Array, Ctx, IntoJs, Object, Value};
use url::Position;

use super::client::{Answer, Body, Redirect, Request};
use super::{NO_HTTP, TIMEOUT, body_of, headers, read_url, utf8_function};
use crate::host::Kind;
use crate::modules::response::belongs_to_worker;
use crate::modules::{Call, FETCH, bytes_to_js, define, elements, helper, object, request};
use crate::vm::{Finish, Host};

/// The names of this module, and with them what handlers of endpoints need: `incoming` and `outgoing`. This runs JavaScript.
pub(crate) fn group<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let make = helper(ctx, host, FETCH)?;
    entry::call(ctx, &make, &[])?.into_object().ok_or(rquickjs::Error::Unknown)
}

/// What `fetch.js` is made of.
pub(crate) fn leaves<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let native = object(ctx)?;
    leaf::define(&native, "utf8", utf8_function(ctx, host)?)?;
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
    Ok(native)
}

/// Bytes as text.
fn text<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match leaf::bytes_of(&call.argument(0)) {
        Some(bytes) => String::from_utf8_lossy(&bytes).as_ref().into_js(call.ctx),
        None => Err(call.wrong(0, "a Uint8Array")),
    }
}

/// A URL in the one form that it is sent in.
fn url<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match read_url(&call.string(0)?) {
        Ok(url) => url.as_str().into_js(call.ctx),
        Err(error) => Err(call.type_error(&format!("fetch: {error}"))),
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
        let texts = [&request.method, &request.url].map(|text| text.as_str().into_js(ctx));
        array_of(ctx, texts.into_iter().chain([request::params(ctx, request)])).map(Array::into_value)
    });
    parts.unwrap_or_else(|| Ok(Value::new_undefined(ctx.clone())))
}

/// Its headers as a flat array, without those of the connection.
fn incoming_headers<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let flat = request::of(host, |request| {
        let of_request = |(name, _): &&(String, Vec<u8>)| {
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length || !(belongs_to_worker(name) || name.eq_ignore_ascii_case("expect"))
        };
        let headers = request.headers.iter().filter(of_request);
        let flat = headers.flat_map(|(name, value)| {
            [name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned()]
        });
        array_of(call.ctx, flat.map(Ok))
    });
    flat.unwrap_or_else(|| Array::new(call.ctx.clone())).map(Array::into_value)
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
        Err(_) => bytes_to_js(ctx, &body),
    }
}

/// Begins a request. The arguments are those of `fetch.js`: method, URL, a flat array of headers, body, what to do about
/// redirects, time, and the functions that settle its promise. Returns the number of the request.
fn send<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let refuse = |message: &str| call.type_error(&format!("fetch: {message}"));
    let Some(client) = host.lane.http.clone() else { return Err(refuse(NO_HTTP)) };
    let url = read_url(&call.string(1)?).map_err(|error| refuse(&error))?;
    let method =
        Method::from_bytes(call.string(0)?.as_bytes()).map_err(|error| refuse(&error.to_string()))?;
    let headers = read_headers(call, 2)?;
    let body = body_of(&call.argument(3))?;
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
            Err(error) => Err(throw(ctx, ErrorKind::Type, &format!("fetch: {error}"))),
        });
        finish
    };
    let settle = (call.function(6)?, call.function(7)?);
    match host.operations.start(call.ctx, &host.lane.io, settle, sent)? {
        Some(number) => number.into_js(call.ctx),
        None => Err(refuse("there are too many requests under way")),
    }
}

fn abort<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if let Some(number) = call.argument(0).as_number() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of ours")]
        host.operations.abort(number as u32);
    }
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn read_headers(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let flat = call.argument(n);
    let mut flat = elements(&flat);
    let text = |item: &Value<'_>| item.as_string().map(leaf::string_of).transpose();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        let (Some(name), Some(value)) = (text(&name)?, text(&value)?) else { continue };
        let refuse = |message: &str| call.type_error(&format!("fetch: {message}"));
        if let Some((name, value)) = headers::checked(&name, &value).map_err(|error| refuse(&error))? {
            headers.try_append(name, value).map_err(|_| refuse("there are too many headers"))?;
        }
    }
    Ok(headers)
}

/// `[status, statusText, flat headers, body, url, redirected]`; as on the web the URL is without its fragment.
fn answer_to_js<'js>(ctx: &Ctx<'js>, answer: &Answer) -> rquickjs::Result<Value<'js>> {
    let headers = answer.headers.iter();
    let headers = headers.flat_map(|(name, value)| [name.as_str().to_owned(), headers::text(value)]);
    let headers = array_of(ctx, headers.map(Ok))?;
    let body = match &answer.body {
        Body::Text(text) => text.as_str().into_js(ctx)?,
        Body::Bytes(bytes) => bytes_to_js(ctx, bytes)?,
    };
    let parts = [
        answer.status.as_u16().into_js(ctx),
        answer.status.canonical_reason().unwrap_or_default().into_js(ctx),
        Ok(headers.into_value()),
        Ok(body),
        answer.url[..Position::AfterQuery].into_js(ctx),
        answer.redirected.into_js(ctx),
    ];
    array_of(ctx, parts).map(Array::into_value)
}

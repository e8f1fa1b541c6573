//! `request`: the request that a script of an endpoint answers.
//!
//! The object is made with the scope and owns nothing: its functions look at the request in hand in the [`Host`]. While there
//! is none, as when libraries are evaluated, everything is undefined. Values that cost something to make are made at their
//! first use and then are properties of their own.

use std::collections::HashMap;
use std::rc::Rc;

use hats_arena::define_accessor;
use hats_arena::leaf::{self, define_element};
use rquickjs::{Array, Ctx, IntoJs, Object, Value};

use super::{Call, bytes_to_js, define, function, getter};
use crate::page::PageRequest;
use crate::vm::Host;

pub(super) fn install<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let request = Object::new(ctx.clone())?;
    getter(&request, "Method", host, |host| of(host, |request| request.method.clone()))?;
    getter(&request, "Path", host, |host| of(host, |request| request.path.clone()))?;
    once(&request, "Query", host, query)?;
    once(&request, "Params", host, params)?;
    once(&request, "Body", host, |ctx, request| {
        String::from_utf8_lossy(&request.body).as_ref().into_js(ctx)
    })?;
    define(&request, "request.GetHeader", host, header)?;
    define(&request, "request.Bytes", host, bytes)?;
    ctx.globals().set("request", request)
}

/// Something of the request in hand, if there is one.
pub(super) fn of<T>(host: &Host, get: impl FnOnce(&PageRequest) -> T) -> Option<T> {
    host.exchange.borrow().as_ref().map(|exchange| get(&exchange.request))
}

/// Adds a property that is made at its first use, unless the script has set it.
fn once(
    object: &Object<'_>,
    name: &'static str,
    host: &Rc<Host>,
    make: for<'js> fn(&Ctx<'js>, &PageRequest) -> rquickjs::Result<Value<'js>>,
) -> rquickjs::Result<()> {
    // One function both gets and sets: only who sets calls it with an argument.
    let access = function(object.ctx(), name, host, move |host, call| {
        let value = match call.arguments.first() {
            Some(value) => value.clone(),
            None => match of(host, |request| make(call.ctx, request)).transpose()? {
                Some(value) => value,
                None => return Ok(Value::new_undefined(call.ctx.clone())),
            },
        };
        // A proxy, or an object that is frozen, is left as it is.
        if let Some(this) = call.this.as_object() {
            leaf::define(this, name, value.clone())?;
        }
        Ok(value)
    })?;
    define_accessor(object, name, Some(access.clone()), Some(access), true, true)
}

/// `{name: [values]}`.
fn query<'js>(ctx: &Ctx<'js>, request: &PageRequest) -> rquickjs::Result<Value<'js>> {
    let query = Object::new(ctx.clone())?;
    // Each with its length.
    let mut lists: HashMap<&str, (Array<'js>, usize)> = HashMap::new();
    for (name, value) in &request.query {
        if let Some(list) = lists.get_mut(name.as_str()) {
            define_element(&list.0, list.1, value.as_str())?;
            list.1 += 1;
            continue;
        }
        let list = Array::new(ctx.clone())?;
        define_element(&list, 0, value.as_str())?;
        leaf::define(&query, name, list.clone())?;
        lists.insert(name, (list, 1));
    }
    Ok(query.into_value())
}

/// `{name: value}`.
pub(super) fn params<'js>(ctx: &Ctx<'js>, request: &PageRequest) -> rquickjs::Result<Value<'js>> {
    let params = Object::new(ctx.clone())?;
    for (name, value) in &request.params {
        leaf::define(&params, name, value.as_str())?;
    }
    Ok(params.into_value())
}

/// The values of a header, joined as the web does: those of `Cookie` by `; `, those of others by `, `.
fn header<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let name = call.string(0)?;
    let joined = of(host, |request| {
        let mut values = request.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(&name));
        let first = values.next().map(|(_, value)| String::from_utf8_lossy(value).into_owned())?;
        let separator = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
        Some(values.fold(first, |joined, (_, value)| joined + separator + &String::from_utf8_lossy(value)))
    });
    match joined.flatten() {
        Some(joined) => joined.into_js(call.ctx),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

fn bytes<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let body = of(host, |request| request.body.clone()).unwrap_or_default();
    bytes_to_js(call.ctx, &body)
}

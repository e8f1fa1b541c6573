//! `sleep`, `setTimeout` and its kin, `queueMicrotask`.
//!
//! `sleep` is a synchronous wait: while it lasts the script's timers wait too. A timer's function that throws
//! ends the script as any uncaught error does.

use std::rc::Rc;
use std::time::Duration;

use hats_arena::leaf;
use rquickjs::{Ctx, Object, Value};

use super::{Call, define, function, inspect, object};
use crate::error::{ScriptError, Thrown};
use crate::vm::Host;

/// A timer never fires sooner, so that an interval of 0 leaves time for the rest of the script.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// Longer than any worker lives, short enough for every clock.
const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Returns what `host.js` makes `queueMicrotask` of.
pub(super) fn install<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let globals = ctx.globals();
    define(&globals, "sleep", host, sleep)?;
    define(&globals, "setTimeout", host, |host, call| start(host, call, false))?;
    define(&globals, "setInterval", host, |host, call| start(host, call, true))?;
    define(&globals, "clearTimeout", host, stop)?;
    define(&globals, "clearInterval", host, stop)?;
    let microtask = object(ctx)?;
    let checked = function(ctx, "queueMicrotask", host, |_, call| {
        call.function(0).map(rquickjs::Function::into_value)
    })?;
    leaf::define(&microtask, "checked", checked)?;
    leaf::define(&microtask, "failed", function(ctx, "failed", host, microtask_failed)?)?;
    Ok(microtask)
}

fn sleep<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let milliseconds = call.number(0)?;
    if milliseconds < 0.0 {
        return Err(call.wrong(0, "a number of milliseconds"));
    }
    let slept = host.wait_ending(call.ctx, tokio::time::sleep(delay(milliseconds, Duration::ZERO)))?;
    let stopping = slept.is_none() || host.control().stopped();
    Ok(Value::new_bool(call.ctx.clone(), !stopping))
}

fn start<'js>(host: &Rc<Host>, call: &Call<'_, 'js>, repeat: bool) -> rquickjs::Result<Value<'js>> {
    let function = call.function(0)?;
    // As on the web: what is no number counts as 0.
    let milliseconds = call.argument(1).as_number().filter(|n| n.is_finite()).unwrap_or(0.0);
    let arguments = call.arguments.iter().skip(2).cloned().collect();
    let delay = delay(milliseconds, DELAY_MIN);
    match host.events.start_timer(call.ctx, function, arguments, delay, repeat)? {
        Some(number) => Ok(Value::new_number(call.ctx.clone(), f64::from(number))),
        None => Err(call.range_error(&format!("{}: too many timers", call.name))),
    }
}

fn stop<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if let Some(number) =
        call.argument(0).as_number().filter(|n| n.fract() == 0.0 && (1.0..4294967296.0).contains(n))
    {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked in the line above"
        )]
        host.events.stop_timer(number as u32);
    }
    Ok(Value::new_undefined(call.ctx.clone()))
}

/// Keeps what a microtask has thrown, which nobody else hears of: the first argument. The others are what it says, if that
/// had to be found out by JavaScript; an error has a name, a message and a stack, another value a message alone. False if they
/// are missing and needed.
fn microtask_failed<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let is_told = call.arguments.len() > 1;
    let error = match host.ended() {
        // It followed from that.
        Some(end) => Some(end),
        None if is_told => Some(told(host, call)?),
        None => said(host, call),
    };
    let is_known = error.is_some();
    if let Some(error) = error {
        host.events.forget_failures();
        host.events.job_failed(error);
    }
    Ok(Value::new_bool(call.ctx.clone(), is_known))
}

/// What JavaScript has found out.
fn told(host: &Host, call: &Call<'_, '_>) -> rquickjs::Result<ScriptError> {
    let text = |n: usize| call.argument(n).into_string().map(|text| leaf::string_of(&text)).transpose();
    let message = text(2)?.unwrap_or_default();
    Ok(match text(1)? {
        Some(name) => {
            let stack = text(3)?.unwrap_or_default();
            host.understood(Thrown { name, message, stack, rejected: false })
        }
        None => host.thrown_value(&call.argument(0), message, false),
    })
}

/// What a value says without being asked. None if it has to be.
fn said(host: &Host, call: &Call<'_, '_>) -> Option<ScriptError> {
    let value = call.argument(0);
    let Some(error) = value.as_object() else {
        return Some(host.thrown_value(&value, inspect::plain_text(call.ctx, &value), false));
    };
    if !inspect::is_error(&value) {
        return None;
    }
    let part = |name: &str| {
        let part = leaf::data(error, name)?;
        match part.as_string() {
            Some(text) => leaf::string_of(text).ok(),
            None => part.is_undefined().then(String::new),
        }
    };
    let (name, message, stack) = (part("name")?, part("message")?, part("stack")?);
    Some(host.understood(Thrown { name, message, stack, rejected: false }))
}

fn delay(milliseconds: f64, min: Duration) -> Duration {
    Duration::try_from_secs_f64(milliseconds.max(0.0) / 1e3).unwrap_or(DELAY_MAX).clamp(min, DELAY_MAX)
}

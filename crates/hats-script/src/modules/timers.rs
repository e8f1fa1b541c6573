//! `sleep`, `setTimeout` and its kin, `queueMicrotask`.
//!
//! `sleep` is a synchronous wait: while it lasts the script's timers wait too. A timer's function that throws
//! ends the script as any uncaught error does.

use std::rc::Rc;
use std::time::Duration;

use rquickjs::{Ctx, Exception, Function, Value};

use super::{Call, define};
use crate::vm::Host;

/// A timer never fires sooner, so that an interval of 0 leaves time for the rest of the script.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// Longer than any worker lives, short enough for every clock.
const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let globals = ctx.globals();
    define(&globals, "sleep", host, sleep)?;
    define(&globals, "setTimeout", host, |host, call| start(host, call, false))?;
    define(&globals, "setInterval", host, |host, call| start(host, call, true))?;
    define(&globals, "clearTimeout", host, stop)?;
    define(&globals, "clearInterval", host, stop)?;
    define(&globals, "queueMicrotask", host, queue_microtask)
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
        None => Err(Exception::throw_range(call.ctx, &format!("{}: too many timers", call.name))),
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

fn queue_microtask<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let function = call.function(0)?;
    let run: Function<'js> =
        host.made(call.ctx, "microtask", |ctx| super::function(ctx, "", host, run_microtask))?;
    run.defer((function,))?;
    Ok(Value::new_undefined(call.ctx.clone()))
}

/// The engine drops the error of a job, so it is caught inside and kept.
fn run_microtask<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if let Err(error) = call.function(0)?.call::<_, Value<'js>>(()) {
        let error = host.explain(call.ctx, error.into());
        host.events.job_failed(error);
    }
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn delay(milliseconds: f64, min: Duration) -> Duration {
    Duration::try_from_secs_f64(milliseconds.max(0.0) / 1e3).unwrap_or(DELAY_MAX).clamp(min, DELAY_MAX)
}

//! `thread`: the thread that the script is the body of, and what jobs share with it.

use std::rc::Rc;

use hats_arena::leaf::{ErrorKind, throw};
use rquickjs::{Ctx, IntoJs, Object, Value};

use super::{Call, define, getter};
use crate::host::{BoxFuture, TaskControl};
use crate::vm::Host;

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let thread = Object::new(ctx.clone())?;
    getter(&thread, "Key", host, |host| host.control().key().to_owned())?;
    // Milliseconds and epochs stay below 2^53, so that a JavaScript number holds them exactly.
    getter(&thread, "Hang", host, |host| host.control().hang().as_secs_f64() * 1e3)?;
    getter(&thread, "Epoch", host, |host| host.control().epoch() as f64)?;
    getter(&thread, "Stopped", host, |host| host.control().stopped())?;
    define(&thread, "thread.State", host, |host, call| answer(host, call, |task| task.state()))?;
    define(&thread, "thread.Status", host, |host, call| answer(host, call, |task| task.status()))?;
    define(&thread, "thread.Stop", host, stop)?;
    define(&thread, "thread.Disable", host, disable)?;
    ctx.globals().set("thread", thread)
}

fn stop<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    host.gate(call.ctx)?.control().stop();
    Ok(Value::new_undefined(call.ctx.clone()))
}

pub(super) fn disable<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let passed = host.gate(call.ctx)?;
    match host.wait(call.ctx, passed.control().disable())? {
        Ok(()) => Ok(Value::new_undefined(call.ctx.clone())),
        Err(error) => Err(throw(call.ctx, ErrorKind::Plain, &format!("{}: {error}", call.name))),
    }
}

pub(super) fn answer<'js>(
    host: &Rc<Host>,
    call: &Call<'_, 'js>,
    question: impl FnOnce(&dyn TaskControl) -> BoxFuture<Result<String, String>>,
) -> rquickjs::Result<Value<'js>> {
    let passed = host.gate(call.ctx)?;
    match host.wait(call.ctx, question(&**passed.control()))? {
        Ok(answer) => answer.into_js(call.ctx),
        Err(error) => Err(throw(call.ctx, ErrorKind::Plain, &format!("{}: {error}", call.name))),
    }
}

//! `job`: the run of a job that the script is the body of. In jobs `thread` is the same object: the spelling of the older
//! documentation.

use std::rc::Rc;

use hats_arena::leaf::new_date;
use rquickjs::{Ctx, IntoJs, Object, Value};

use super::thread::{answer, disable};
use super::{define, getter};
use crate::host::{JobInfo, Kind};
use crate::vm::Host;

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let job = Object::new(ctx.clone())?;
    getter(&job, "Key", host, |host| host.control().key().to_owned())?;
    // Epochs stay below 2^53, so that a JavaScript number holds them exactly.
    getter(&job, "Epoch", host, |host| host.control().epoch() as f64)?;
    // A new Date at each use: whoever changes one changes that one only.
    getter(&job, "Tick", host, |host| info(host).map(|info| Date(info.tick_ms)))?;
    getter(&job, "Attempt", host, |host| info(host).map(|info| info.attempt))?;
    getter(&job, "Stopped", host, |host| host.control().stopped())?;
    define(&job, "job.State", host, |host, call| answer(host, call, |task| task.state()))?;
    define(&job, "job.Status", host, |host, call| answer(host, call, |task| task.status()))?;
    define(&job, "job.Disable", host, disable)?;
    ctx.globals().set("thread", job.clone())?;
    ctx.globals().set("job", job)
}

fn info(host: &Host) -> Option<JobInfo> {
    match host.control().kind() {
        Kind::Job(info) => Some(info),
        Kind::Thread | Kind::Endpoint => None,
    }
}

/// Milliseconds from 1970.
struct Date(i64);

impl<'js> IntoJs<'js> for Date {
    fn into_js(self, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
        #[expect(clippy::cast_precision_loss, reason = "what a Date can say is exact")]
        new_date(ctx, self.0 as f64)
    }
}

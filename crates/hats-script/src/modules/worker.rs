//! `worker`: the worker that the script runs on.

use std::rc::Rc;

use rquickjs::{Ctx, Object};

use super::getter;
use crate::vm::Host;

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let worker = Object::new(ctx.clone())?;
    getter(&worker, "Name", host, |host| host.lane.worker.name().to_owned())?;
    getter(&worker, "Cluster", host, |host| host.lane.worker.cluster().to_owned())?;
    getter(&worker, "ShuttingDown", host, |host| host.lane.worker.shutting_down())?;
    getter(&worker, "Healthy", host, |host| host.lane.worker.healthy())?;
    ctx.globals().set("worker", worker)
}

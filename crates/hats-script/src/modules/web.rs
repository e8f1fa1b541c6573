//! Names of the web that are written in JavaScript and made at their first use.

use rquickjs::Ctx;

use super::lazy;

pub(super) fn install(ctx: &Ctx<'_>) -> rquickjs::Result<()> {
    lazy(ctx, "structuredClone", include_str!("web/structured_clone.js"))
}

//! From a source text to a scope: script or module, and where its entry points are.

use rquickjs::context::EvalOptions;
use rquickjs::{CatchResultExt, CaughtError, Ctx, Function, Module, Object, Persistent, Promise, Value};

use super::failure::Failure;
use crate::error::{ScriptError, Thrown};

/// The functions of a script that a runner calls.
pub(super) const ENTRY_POINTS: [&str; 3] = ["init", "main", "cleanup"];

/// Evaluates `source`. For a module, returns the promise of its evaluation and its exports. A script is done when it
/// has run: the value of its last statement means nothing, be it a promise or not.
pub(super) fn evaluate<'js>(
    ctx: &Ctx<'js>,
    source: &str,
    file: &str,
) -> Result<Option<(Promise<'js>, Object<'js>)>, Failure> {
    if source.contains('\0') {
        return Err(Failure::Script(ScriptError::Thrown(Thrown {
            name: "SyntaxError".to_owned(),
            message: "the source contains a NUL character".to_owned(),
            stack: format!("    at {file}"),
            rejected: false,
        })));
    }
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(file.to_owned());
    let failed = match ctx.eval_with_options::<Value<'_>, _>(source, options).catch(ctx) {
        Ok(_) => return Ok(None),
        Err(failed) => failed,
    };
    if may_be_module(source)
        && is_compile_error(&failed, file)
        && let Ok(module) = Module::declare(ctx.clone(), file, source).catch(ctx)
    {
        let (module, promise) = module.eval()?;
        return Ok(Some((promise, module.namespace()?)));
    }
    Err(failed.throw(ctx).into())
}

/// A function that finds a global function by name, `const` and `let` included, each time it is called. None if the
/// global object has that function.
pub(super) fn lookup<'js>(
    ctx: &Ctx<'js>,
    name: &str,
) -> rquickjs::Result<Option<Persistent<Function<'static>>>> {
    let function: Function<'js> =
        ctx.eval(format!("(() => typeof {name} === 'function' ? {name} : undefined)"))?;
    let is_global = function
        .call::<_, Value<'js>>(())
        .and_then(|found| Ok(found.is_function() && found == ctx.globals().get::<_, Value<'js>>(name)?))
        .unwrap_or_else(|_| {
            // It is behind a getter that throws, which is for whoever wants to call it.
            ctx.catch();
            false
        });
    Ok(if is_global { None } else { Some(Persistent::save(ctx, function)) })
}

fn may_be_module(source: &str) -> bool {
    ["import", "export", "await"].iter().any(|word| source.contains(word))
}

/// True if nothing of the source has run yet: a compile error's stack is the place in the file and no frame,
/// while an error thrown by running code names the frames that it passed.
fn is_compile_error(error: &CaughtError<'_>, file: &str) -> bool {
    let CaughtError::Exception(exception) = error else { return false };
    let name: String = exception.as_object().get("name").unwrap_or_default();
    let stack = exception.stack().unwrap_or_default();
    let mut frames = stack.lines().map(str::trim).filter(|line| !line.is_empty());
    let place = frames.next().and_then(|frame| frame.strip_prefix("at "));
    name == "SyntaxError" && frames.next().is_none() && place.is_some_and(|place| place.starts_with(file))
}

//! From a source text to a scope: library, script or module, and where its entry points are.

use hats_arena::Kept;
use rquickjs::context::EvalOptions;
use rquickjs::{CatchResultExt, CaughtError, Ctx, Exception, Function, Module, Object, Promise, Value};

use super::failure::Failure;
use crate::bundle::Library;
use crate::error::{ScriptError, Thrown};

/// The functions of a script that a runner calls.
pub(super) const ENTRY_POINTS: [&str; 3] = ["init", "main", "cleanup"];

/// Evaluates a library: a sloppy script in the global scope, as a page in a browser has it.
pub(super) fn evaluate_library(ctx: &Ctx<'_>, library: &Library) -> Result<(), Failure> {
    refuse_nul(&library.source, &library.name)?;
    ctx.eval_with_options::<Value<'_>, _>(&*library.source, sloppy(&library.name))?;
    Ok(())
}

/// Refuses a library that leaves a function in the scope that a runner would take for the script's.
pub(super) fn refuse_entry_points(ctx: &Ctx<'_>) -> rquickjs::Result<()> {
    for name in ENTRY_POINTS {
        if ctx.eval(format!("typeof {name} === 'function'"))? {
            let message = format!("it defines {name}(), which would be that of every script without one");
            return Err(Exception::throw_type(ctx, &message));
        }
    }
    Ok(())
}

/// What a source turned out to be.
pub(super) enum Evaluated<'js> {
    /// A script, which is done when it has run, and the value of its last statement.
    Script(Value<'js>),
    /// A module: the promise of its evaluation, and its exports.
    Module(Promise<'js>, Object<'js>),
}

/// Evaluates `source`.
pub(super) fn evaluate<'js>(ctx: &Ctx<'js>, source: &str, file: &str) -> Result<Evaluated<'js>, Failure> {
    refuse_nul(source, file)?;
    let no_script = match ctx.eval_with_options::<Value<'_>, _>(source, sloppy(file)).catch(ctx) {
        Ok(value) => return Ok(Evaluated::Script(value)),
        Err(error) => error,
    };
    let Some(script_stops_at) = place_of_compile_error(&no_script, file).filter(|_| may_be_module(source))
    else {
        return Err(no_script.throw(ctx).into());
    };
    match Module::declare(ctx.clone(), file, source).catch(ctx) {
        Ok(module) => {
            let (module, promise) = module.eval()?;
            Ok(Evaluated::Module(promise, module.namespace()?))
        }
        Err(no_module) => {
            // What gets further is what it was meant to be. A module of which only an import fails got to its end.
            let is_module =
                place_of_compile_error(&no_module, file).is_none_or(|stops_at| stops_at > script_stops_at);
            Err(if is_module { no_module } else { no_script }.throw(ctx).into())
        }
    }
}

pub(super) fn sloppy(file: &str) -> EvalOptions {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(file.to_owned());
    options
}

pub(super) fn refuse_nul(source: &str, file: &str) -> Result<(), Failure> {
    if !source.contains('\0') {
        return Ok(());
    }
    Err(Failure::Script(ScriptError::Thrown(Thrown {
        name: "SyntaxError".to_owned(),
        message: "the source contains a NUL character".to_owned(),
        stack: format!("    at {file}"),
        rejected: false,
    })))
}

/// A function that finds a global function by name, `const` and `let` included, each time it is called. None if the
/// global object has that function.
pub(super) fn lookup<'js>(ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Option<Kept<Function<'static>>>> {
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
    if is_global { Ok(None) } else { Kept::new(ctx, function).map(Some) }
}

/// Whether a source may be or import a module.
pub(super) fn may_be_module(source: &str) -> bool {
    ["import", "export", "await"].iter().any(|word| source.contains(word))
}

/// Line and column at which the source does not compile. None if that is not what is wrong: a compile error's stack is
/// the place in the file and no frame, while an error thrown by running code names the frames that it passed.
fn place_of_compile_error(error: &CaughtError<'_>, file: &str) -> Option<(u32, u32)> {
    let CaughtError::Exception(exception) = error else { return None };
    let name: String = exception.as_object().get("name").unwrap_or_default();
    let stack = exception.stack().unwrap_or_default();
    let mut frames = stack.lines().map(str::trim).filter(|line| !line.is_empty());
    let place = frames.next()?.strip_prefix("at ")?.strip_prefix(file)?.strip_prefix(':')?;
    if name != "SyntaxError" || frames.next().is_some() {
        return None;
    }
    let (line, column) = place.split_once(':')?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

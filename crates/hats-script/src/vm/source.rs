//! From a source text to a scope: library, script or module, and where its entry points are.

use std::ffi::CString;

use hats_arena::{Kept, entry};
use rquickjs::{Ctx, Exception, Function, Object, Promise, Value};

use super::failure::Failure;
use crate::error::{ScriptError, Thrown};

/// The functions of a script that a runner calls.
pub(super) const ENTRY_POINTS: [&str; 3] = ["init", "main", "cleanup"];

/// A source as the engine takes it. It is owned by whoever waits for what comes of it: the engine may be left in its middle.
pub(super) struct Text {
    source: CString,
    file: CString,
    may_be_module: bool,
}

impl Text {
    /// # Errors
    /// When the source has a NUL in it.
    pub(super) fn new(source: &str, file: &str) -> Result<Self, ScriptError> {
        let refuse = |_| {
            ScriptError::Thrown(Thrown {
                name: "SyntaxError".to_owned(),
                message: "the source contains a NUL character".to_owned(),
                stack: format!("    at {file}"),
                rejected: false,
            })
        };
        let file_text = CString::new(file.replace('\0', "\u{fffd}")).map_err(refuse)?;
        let may_be_module = may_be_module(source);
        Ok(Self { source: CString::new(source).map_err(refuse)?, file: file_text, may_be_module })
    }

    /// Evaluates a sloppy script in the global scope, as a page in a browser has it.
    pub(super) fn evaluate<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
        entry::eval(ctx, &self.source, &self.file, entry::Kind::Sloppy)
    }

    /// Compiles a module with all that it imports.
    pub(super) fn declare<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<entry::Declared<'js>> {
        entry::declare(ctx, &self.source, &self.file)
    }

    /// Evaluates a source, whatever it is.
    pub(super) fn evaluate_source<'js>(&self, ctx: &Ctx<'js>) -> Result<Evaluated<'js>, Failure> {
        // What the engine says is taken apart before it is entered again: texts of Rust's may not be here by then.
        let script_stops_at = match self.evaluate(ctx) {
            Ok(value) => return Ok(Evaluated::Script(value)),
            Err(rquickjs::Error::Exception) => {
                let error = ctx.catch();
                match self.place_of_compile_error(&error).filter(|_| self.may_be_module) {
                    Some(place) => (place, error),
                    None => return Err(ctx.throw(error).into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let (script_stops_at, no_script) = script_stops_at;
        match self.declare(ctx) {
            Ok(module) => {
                let promise = module.run(ctx)?;
                let exports = module.exports(ctx)?.into_object().ok_or(rquickjs::Error::Unknown)?;
                Ok(Evaluated::Module(promise, exports))
            }
            Err(rquickjs::Error::Exception) => {
                let no_module = ctx.catch();
                // What gets further is what it was meant to be. A module of which only an import fails got to its end.
                let is_module =
                    self.place_of_compile_error(&no_module).is_none_or(|stops_at| stops_at > script_stops_at);
                Err(ctx.throw(if is_module { no_module } else { no_script }).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Line and column at which the source does not compile. None if that is not what is wrong: a compile error's stack is
    /// the place in the file and no frame, while an error thrown by running code names the frames that it passed.
    fn place_of_compile_error(&self, error: &Value<'_>) -> Option<(u32, u32)> {
        let error = error.as_object().filter(|error| error.as_value().is_error())?;
        let part = |name: &str| -> Option<String> {
            let value: Value<'_> = entry::run(|| error.get(name)).ok()?;
            value.as_string()?.to_string().ok()
        };
        let (name, stack) = (part("name")?, part("stack").unwrap_or_default());
        let mut frames = stack.lines().map(str::trim).filter(|line| !line.is_empty());
        let file = self.file.to_str().ok()?;
        let place = frames.next()?.strip_prefix("at ")?.strip_prefix(file)?.strip_prefix(':')?;
        if name != "SyntaxError" || frames.next().is_some() {
            return None;
        }
        let (line, column) = place.split_once(':')?;
        Some((line.parse().ok()?, column.parse().ok()?))
    }
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

/// A function that finds a global function by name, `const` and `let` included, each time it is called. None if the
/// global object has that function.
pub(super) fn lookup<'js>(ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Option<Kept<Function<'static>>>> {
    let function: Function<'js> =
        ctx.eval(format!("(() => typeof {name} === 'function' ? {name} : undefined)"))?;
    let globals = ctx.globals();
    let is_global = entry::call(ctx, &function, &[])
        .and_then(|found| {
            Ok(found.is_function() && found == entry::run(|| globals.get::<_, Value<'js>>(name))?)
        })
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

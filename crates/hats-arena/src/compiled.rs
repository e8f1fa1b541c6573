//! Scripts that are compiled once and run later.
#![expect(
    unsafe_code,
    reason = "what the engine compiles without running it has no safe interface, see the safety notes"
)]

use std::ffi::{CString, c_char};

use hats_fiber::engine;
use rquickjs::{Ctx, Error, Value, qjs};

use crate::kept::Kept;

/// A script that has been compiled and not run.
///
/// Invariant: the value is bytecode that the engine itself has made of a source, in the interpreter that keeps it.
#[derive(Debug)]
pub struct Compiled(Kept<Value<'static>>);

/// Compiles a script for the global scope, sloppy as a page's is. `file` stands in stack traces.
///
/// # Errors
/// A `SyntaxError` is pending in the interpreter, or the source has a NUL in it.
pub fn compile(ctx: &Ctx<'_>, source: &str, file: &str) -> rquickjs::Result<Compiled> {
    let length = source.len();
    let (source, file) = (CString::new(source)?, CString::new(file)?);
    let flags = qjs::JS_EVAL_TYPE_GLOBAL | qjs::JS_EVAL_FLAG_COMPILE_ONLY;
    let value = eval(ctx, source.as_ptr(), length, file.as_ptr(), flags)?;
    Kept::new(ctx, value).map(Compiled)
}

fn eval<'js>(
    ctx: &Ctx<'js>,
    source: *const c_char,
    length: usize,
    file: *const c_char,
    flags: u32,
) -> rquickjs::Result<Value<'js>> {
    // SAFETY: the context is alive for as long as there is a `Ctx`; both texts end in a NUL, and the first one's length is
    // that of what comes before it.
    let value = unsafe { qjs::JS_Eval(ctx.as_raw().as_ptr(), source, length as _, file, flags as _) };
    owned(ctx, value)
}

impl Compiled {
    /// Runs the script. Its value is that of its last statement.
    ///
    /// # Errors
    /// What the script threw is pending in the interpreter.
    pub fn run<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
        let compiled = self.0.get(ctx)?;
        // SAFETY: the value is alive and of this runtime, which `get` has seen to, and it is bytecode of the engine's own
        // making. The call takes over one reference, which is why there is one more.
        let (context, compiled) = (ctx.as_raw().as_ptr(), compiled.as_raw());
        let value = engine(|| unsafe { qjs::JS_EvalFunction(context, qjs::JS_DupValue(context, compiled)) });
        owned(ctx, value)
    }
}

/// What the engine has returned: a value that is ours, or a pending exception.
pub(crate) fn owned<'js>(ctx: &Ctx<'js>, value: qjs::JSValue) -> rquickjs::Result<Value<'js>> {
    // SAFETY: looks at the tag.
    if unsafe { qjs::JS_IsException(value) } {
        return Err(Error::Exception);
    }
    // SAFETY: a value that the engine returns is the caller's, and it is of the runtime of `ctx`.
    Ok(unsafe { Value::from_raw(ctx.clone(), value) })
}

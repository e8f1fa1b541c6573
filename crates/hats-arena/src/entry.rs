//! The engine's work, entered from the foot of a fiber: what may run scripts, and so may be preempted and die.
//!
//! What must hold: none of these owns anything while the engine runs, and texts that are evaluated are kept by the caller.
#![expect(unsafe_code, reason = "the engine is called with pointers, see the safety notes")]

use std::ffi::CStr;
use std::mem::MaybeUninit;

use hats_fiber::engine;
use rquickjs::{Ctx, Error, Function, Promise, Value, qjs};

use crate::compiled::owned;
use crate::countdown;

/// Arguments that a call needs no memory for.
const FEW: usize = 8;

/// What a text is evaluated as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A script in the global scope, sloppy as a page's is.
    Sloppy,
    /// A script in the global scope, in strict mode.
    Strict,
}

/// Evaluates a script. The value is that of its last statement. `file` stands in stack traces.
///
/// # Errors
/// What it threw is pending in the interpreter.
pub fn eval<'js>(ctx: &Ctx<'js>, source: &CStr, file: &CStr, kind: Kind) -> rquickjs::Result<Value<'js>> {
    let strict = if kind == Kind::Strict { qjs::JS_EVAL_FLAG_STRICT } else { 0 };
    evaluated(ctx, source, file, qjs::JS_EVAL_TYPE_GLOBAL | strict)
}

fn evaluated<'js>(ctx: &Ctx<'js>, source: &CStr, file: &CStr, flags: u32) -> rquickjs::Result<Value<'js>> {
    let context = ctx.as_raw().as_ptr();
    let length = source.count_bytes();
    // SAFETY: the context is alive for as long as there is a `Ctx`; both texts end in a NUL.
    let value =
        engine(|| unsafe { qjs::JS_Eval(context, source.as_ptr(), length as _, file.as_ptr(), flags as _) });
    owned(ctx, value)
}

/// Compiles a module with all that it imports. It is not run.
///
/// # Errors
/// What went wrong is pending in the interpreter.
pub fn declare<'js>(ctx: &Ctx<'js>, source: &CStr, file: &CStr) -> rquickjs::Result<Declared<'js>> {
    let flags = qjs::JS_EVAL_TYPE_MODULE | qjs::JS_EVAL_FLAG_STRICT | qjs::JS_EVAL_FLAG_COMPILE_ONLY;
    evaluated(ctx, source, file, flags).map(Declared)
}

/// A module that has been compiled.
#[derive(Clone, Debug)]
pub struct Declared<'js>(Value<'js>);

impl<'js> Declared<'js> {
    /// Runs the module. The promise is settled when it is done, with all that it awaits.
    ///
    /// # Errors
    /// That it cannot be linked is pending in the interpreter.
    pub fn run(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Promise<'js>> {
        let context = ctx.as_raw().as_ptr();
        let module = self.0.as_raw();
        // SAFETY: the value is a module, alive and of this runtime. The call takes over one reference, so there is one more.
        let value = engine(|| unsafe { qjs::JS_EvalFunction(context, qjs::JS_DupValue(context, module)) });
        owned(ctx, value)?.into_promise().ok_or(Error::Unknown)
    }

    /// What it exports.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn exports(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
        let context = ctx.as_raw().as_ptr();
        // SAFETY: the value is a module, alive and of this runtime.
        let value = unsafe {
            let module = qjs::JS_VALUE_GET_PTR(self.0.as_raw()).cast::<qjs::JSModuleDef>();
            qjs::JS_GetModuleNamespace(context, module)
        };
        owned(ctx, value)
    }
}

/// Imports a module, as the call `import()` in the file `importer` does.
///
/// # Errors
/// What went wrong is pending in the interpreter.
pub fn import<'js>(ctx: &Ctx<'js>, importer: &CStr, specifier: &CStr) -> rquickjs::Result<Promise<'js>> {
    let context = ctx.as_raw().as_ptr();
    // SAFETY: the context is alive, and both texts end in a NUL.
    let value = engine(|| unsafe { qjs::JS_LoadModule(context, importer.as_ptr(), specifier.as_ptr()) });
    owned(ctx, value)?.into_promise().ok_or(Error::Unknown)
}

/// Calls a function with `undefined` for `this`.
///
/// # Errors
/// What it threw is pending in the interpreter.
pub fn call<'js>(
    ctx: &Ctx<'js>,
    function: &Function<'js>,
    arguments: &[Value<'js>],
) -> rquickjs::Result<Value<'js>> {
    call_raw(ctx, function, qjs::JS_UNDEFINED, arguments)
}

/// Calls a function as a method of `this`.
///
/// # Errors
/// What it threw is pending in the interpreter.
pub fn call_on<'js>(
    ctx: &Ctx<'js>,
    function: &Function<'js>,
    this: &Value<'js>,
    arguments: &[Value<'js>],
) -> rquickjs::Result<Value<'js>> {
    call_raw(ctx, function, this.as_raw(), arguments)
}

fn call_raw<'js>(
    ctx: &Ctx<'js>,
    function: &Function<'js>,
    this: qjs::JSValue,
    arguments: &[Value<'js>],
) -> rquickjs::Result<Value<'js>> {
    let context = ctx.as_raw().as_ptr();
    let function = function.as_value().as_raw();
    let mut few = [const { MaybeUninit::<qjs::JSValue>::uninit() }; FEW];
    let count = arguments.len();
    // SAFETY: memory of the engine's, which goes with it: nothing of Rust's is lost where the script dies.
    let many = if count > FEW {
        unsafe { qjs::js_malloc(context, (count * size_of::<qjs::JSValue>()) as _).cast::<qjs::JSValue>() }
    } else {
        few.as_mut_ptr().cast()
    };
    if many.is_null() {
        return Err(Error::Exception);
    }
    for (n, argument) in arguments.iter().enumerate() {
        // SAFETY: there is room for all of them.
        unsafe { many.add(n).write(argument.as_raw()) };
    }
    let count_raw =
        i32::try_from(count).map_err(|_| Error::TooManyArgs { expected: i32::MAX as usize, given: count })?;
    // SAFETY: the function and the arguments are alive and of this runtime; the engine copies what it keeps.
    let value = engine(|| unsafe { qjs::JS_Call(context, function, this, count_raw, many) });
    if count > FEW {
        // SAFETY: it was handed out above.
        unsafe { qjs::js_free(context, many.cast()) };
    }
    owned(ctx, value)
}

/// As [`call`], with arguments that are given up: none of Rust's memory is in use while the function runs.
///
/// # Errors
/// What it threw is pending in the interpreter.
pub fn call_with<'js>(
    ctx: &Ctx<'js>,
    function: &Function<'js>,
    arguments: Vec<Value<'js>>,
) -> rquickjs::Result<Value<'js>> {
    if arguments.is_empty() {
        return call(ctx, function, &[]);
    }
    let context = ctx.as_raw().as_ptr();
    let count = i32::try_from(arguments.len())
        .map_err(|_| Error::TooManyArgs { expected: i32::MAX as usize, given: arguments.len() })?;
    let function = function.as_value().as_raw();
    // SAFETY: memory of the engine's, with room for all arguments; each is given a reference that is taken back below.
    let copied = unsafe {
        let copied = qjs::js_malloc(context, size_of_val(&*arguments) as _).cast::<qjs::JSValue>();
        if copied.is_null() {
            return Err(Error::Exception);
        }
        for (n, argument) in arguments.iter().enumerate() {
            copied.add(n).write(dup(ctx, argument.as_raw()));
        }
        copied
    };
    drop(arguments);
    // SAFETY: the function and the arguments are alive and of this runtime; the engine copies what it keeps.
    let value = engine(|| unsafe { qjs::JS_Call(context, function, qjs::JS_UNDEFINED, count, copied) });
    for n in 0..count {
        // SAFETY: as many were written above.
        let argument = unsafe { copied.add(n as usize).read() };
        release(owned(ctx, argument)?);
    }
    // SAFETY: it was handed out above.
    unsafe { qjs::js_free(context, copied.cast()) };
    owned(ctx, value)
}

/// One reference more to a value.
fn dup(ctx: &Ctx<'_>, value: qjs::JSValue) -> qjs::JSValue {
    // SAFETY: the value is alive and of the context's runtime.
    unsafe { qjs::JS_DupValue(ctx.as_raw().as_ptr(), value) }
}

/// Gives a value back to the engine. To free what it led to may take as long as a script does.
pub fn release(value: Value<'_>) {
    let mut value = Some(value);
    if hats_fiber::may_enter_engine() {
        engine(|| drop(value.take()));
    }
}

/// Runs one of the jobs that promises have left. False if there was none.
pub fn run_job(ctx: &Ctx<'_>) -> bool {
    engine(|| ctx.execute_pending_job())
}

/// Has the engine call its interrupt hook at the next turn of a loop or call of a function. False if that cannot be.
pub fn hurry(ctx: &Ctx<'_>) -> bool {
    match countdown::of(ctx.as_raw()) {
        Some(countdown) => {
            // SAFETY: it is a part of the context, which is alive, and the engine does not run meanwhile.
            unsafe { countdown.write_volatile(1) };
            true
        }
        None => false,
    }
}

/// Runs what may call scripts in other ways, such as reading a property. `f` and what it calls own nothing of Rust's.
pub fn run<R>(f: impl FnOnce() -> R) -> R {
    engine(f)
}

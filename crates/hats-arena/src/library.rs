//! JavaScript of the worker's own that every scope has: compiled once for the process, and without the text that the engine
//! would keep with each of its functions.
#![expect(unsafe_code, reason = "bytecode has no safe interface, see the safety notes")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::slice;
use std::sync::OnceLock;

use rquickjs::{Ctx, Error, Function, qjs};

use crate::compiled::owned;

/// A source whose last statement is a function.
pub struct Library {
    source: &'static str,
    /// Stands in stack traces.
    file: &'static str,
    /// Invariant: what the engine of this process has made of the source.
    bytecode: OnceLock<Vec<u8>>,
}

impl Library {
    /// Nothing is compiled yet.
    #[must_use]
    pub const fn new(source: &'static str, file: &'static str) -> Self {
        Self { source, file, bytecode: OnceLock::new() }
    }

    /// Makes the function. This runs JavaScript, so no host function may call it.
    ///
    /// # Errors
    /// When there is no memory, or the source does not compile.
    pub fn function<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Function<'js>> {
        let bytecode = match self.bytecode.get() {
            Some(bytecode) => bytecode,
            None => {
                let bytecode = self.compile(ctx)?;
                self.bytecode.get_or_init(|| bytecode)
            }
        };
        let context = ctx.as_raw().as_ptr();
        // SAFETY: the context is alive, and the bytes are those that this very engine has written.
        let script = owned(ctx, unsafe {
            qjs::JS_ReadObject(
                context,
                bytecode.as_ptr(),
                bytecode.len() as _,
                qjs::JS_READ_OBJ_BYTECODE as _,
            )
        })?;
        // SAFETY: the value is alive and a script of this context. The call takes over one reference, hence one more.
        let function = unsafe { qjs::JS_EvalFunction(context, qjs::JS_DupValue(context, script.as_raw())) };
        owned(ctx, function)?.into_function().ok_or(Error::Unknown)
    }

    fn compile(&self, ctx: &Ctx<'_>) -> rquickjs::Result<Vec<u8>> {
        let context = ctx.as_raw().as_ptr();
        let (source, file) = (CString::new(self.source)?, CString::new(self.file)?);
        let flags = qjs::JS_EVAL_TYPE_GLOBAL | qjs::JS_EVAL_FLAG_STRICT | qjs::JS_EVAL_FLAG_COMPILE_ONLY;
        // SAFETY: the context is alive; both texts end in a NUL, and the length is that of what comes before it.
        let script = owned(ctx, unsafe {
            let length = self.source.len() as _;
            qjs::JS_Eval(context, source.as_ptr(), length, file.as_ptr(), flags as _)
        })?;
        let flags = qjs::JS_WRITE_OBJ_BYTECODE | qjs::JS_WRITE_OBJ_STRIP_SOURCE;
        let mut length = MaybeUninit::uninit();
        // SAFETY: the value is alive, and a script that has been compiled and not run.
        let start = unsafe { qjs::JS_WriteObject(context, length.as_mut_ptr(), script.as_raw(), flags as _) };
        if start.is_null() {
            return Err(Error::Exception);
        }
        // SAFETY: the engine has written the length of what is there until it is freed, which is once, below.
        let bytecode = unsafe { slice::from_raw_parts(start, length.assume_init() as usize) }.to_vec();
        // SAFETY: it is the engine's, and nobody looks at it any more.
        unsafe { qjs::js_free(context, start.cast()) };
        Ok(bytecode)
    }
}

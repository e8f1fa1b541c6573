//! What the engine calls of the host beside native functions: its interrupt hook, the tracker of rejections, the loader of modules.
//!
//! What must hold: each is a call of the host ([`hats_fiber::host`]), outside of `catch_unwind`, and owns nothing when it is over.
//! To compile and run a module, the loader goes back into the engine: then there is a frame of ours between two of the engine's,
//! which owns nothing either; the text of the module is kept here meanwhile.
#![expect(unsafe_code, reason = "the engine calls with pointers, see the safety notes")]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use hats_fiber::{end_slice_when_due, host};
use rquickjs::{Ctx, Object, Value, qjs};

use crate::interpreter::{State, Unfit};
use crate::leaf::{self, ErrorKind};
use crate::native::{Switchboard, throw};

/// Learns of a promise and the reason for which it was rejected without a handler, or, if true, that it has one after all.
pub type RejectionTracker = Box<dyn for<'js> Fn(&Ctx<'js>, Value<'js>, Value<'js>, bool)>;
type Interrupt = Box<dyn Fn() -> bool>;

/// Finds modules for an interpreter. Each is called in the middle of the engine's work, and calls no JavaScript.
pub trait ModuleSource {
    /// The name that the engine is to know a module by, from the name of the importer and what that says.
    ///
    /// # Errors
    /// What is thrown at the import.
    fn resolve<'js>(
        &self,
        ctx: &Ctx<'js>,
        importer: &str,
        specifier: &str,
        attributes: Option<Object<'js>>,
    ) -> rquickjs::Result<String>;

    /// The text of a module, by its name.
    ///
    /// # Errors
    /// What is thrown at the import.
    fn find(&self, ctx: &Ctx<'_>, name: &str) -> rquickjs::Result<ModuleText>;

    /// A module that was found has been compiled with all that it imports, and run if it was to be; or that has failed.
    fn loaded(&self, name: &str, is_ok: bool);
}

/// The text of a module.
#[derive(Debug)]
pub struct ModuleText {
    /// What the engine compiles.
    pub source: CString,
    /// Whether it is run at once, so that it is known whether it can be linked.
    pub is_run: bool,
}

/// What the engine's pointers lead to.
pub(crate) struct Hooks {
    state: Rc<State>,
    switchboard: Rc<Switchboard>,
    interrupt: RefCell<Option<Rc<Interrupt>>>,
    tracker: RefCell<Option<Rc<RejectionTracker>>>,
    modules: RefCell<Option<Rc<dyn ModuleSource>>>,
    /// Texts that are being compiled, each for the one before.
    texts: RefCell<Vec<ModuleText>>,
}

impl Hooks {
    pub(crate) fn new(state: Rc<State>, switchboard: Rc<Switchboard>) -> Self {
        Self {
            state,
            switchboard,
            interrupt: RefCell::default(),
            tracker: RefCell::default(),
            modules: RefCell::default(),
            texts: RefCell::default(),
        }
    }

    /// Tells a runtime of these hooks.
    ///
    /// # Safety
    /// The runtime is alive, and the hooks are kept until nobody enters it any more.
    pub(crate) unsafe fn attach(self: &Rc<Self>, runtime: NonNull<qjs::JSRuntime>) {
        let hooks = Rc::as_ptr(self).cast_mut().cast::<c_void>();
        let runtime = runtime.as_ptr();
        // SAFETY: by the caller's word.
        unsafe {
            qjs::JS_SetInterruptHandler(runtime, Some(on_interrupt), hooks);
            qjs::JS_SetHostPromiseRejectionTracker(runtime, Some(on_rejection), hooks);
            qjs::JS_SetModuleLoaderFunc2(runtime, None, Some(on_load), None, hooks);
            qjs::JS_SetModuleNormalizeFunc2(runtime, Some(on_resolve));
        }
    }

    pub(crate) fn switchboard(&self) -> &Switchboard {
        &self.switchboard
    }

    pub(crate) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.switchboard.take_panic()
    }

    pub(crate) fn set_interrupt(&self, hook: Interrupt) {
        *self.interrupt.borrow_mut() = Some(Rc::new(hook));
    }

    pub(crate) fn set_tracker(&self, tracker: RejectionTracker) {
        *self.tracker.borrow_mut() = Some(Rc::new(tracker));
    }

    pub(crate) fn set_modules(&self, modules: Box<dyn ModuleSource>) {
        *self.modules.borrow_mut() = Some(modules.into());
    }

    /// Forgets all closures.
    pub(crate) fn clear(&self) {
        let all = (self.interrupt.take(), self.tracker.take(), self.modules.take(), self.texts.take());
        drop(all);
        self.switchboard.clear();
    }

    /// Runs `f`, and keeps its panic for the end of the entry.
    fn caught<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => Some(result),
            Err(panic) => {
                self.switchboard.panicked(panic);
                None
            }
        }
    }
}

/// # Safety
/// As for all below: only the engine calls it, inside an entry, with what its own documentation says and the pointer of `attach`.
unsafe extern "C" fn on_interrupt(_: *mut qjs::JSRuntime, opaque: *mut c_void) -> c_int {
    host(|_| {
        // SAFETY: the engine's word.
        let hooks = unsafe { &*opaque.cast::<Hooks>() };
        hooks.state.tell_used();
        // What has panicked is ended as well.
        let is_ended = hooks
            .caught(|| {
                hooks.state.native_calls.refuse_nested();
                let hook = hooks.interrupt.borrow().clone();
                hook.is_some_and(|hook| hook())
            })
            .unwrap_or(true);
        if is_ended {
            hooks.state.condemn(Unfit::Interrupted);
        }
        end_slice_when_due();
        c_int::from(is_ended)
    })
}

unsafe extern "C" fn on_rejection(
    context: *mut qjs::JSContext,
    promise: qjs::JSValue,
    reason: qjs::JSValue,
    is_handled: bool,
    opaque: *mut c_void,
) {
    host(|_| {
        let Some(context) = NonNull::new(context) else { return };
        // SAFETY: the engine's word; the values are its own, and each is given a reference more. The lifetime is this call's.
        unsafe {
            let hooks = &*opaque.cast::<Hooks>();
            let ctx = Ctx::from_raw(context);
            let value = |raw| Value::from_raw(ctx.clone(), qjs::JS_DupValue(context.as_ptr(), raw));
            let (promise, reason) = (value(promise), value(reason));
            hooks.caught(|| {
                let tracker = hooks.tracker.borrow().clone();
                if let Some(tracker) = tracker {
                    tracker(&ctx, promise, reason, is_handled);
                }
            });
        }
    });
}

unsafe extern "C" fn on_resolve(
    context: *mut qjs::JSContext,
    importer: *const c_char,
    specifier: *const c_char,
    attributes: qjs::JSValue,
    opaque: *mut c_void,
) -> *mut c_char {
    host(|_| {
        let Some(context) = NonNull::new(context) else { return ptr::null_mut() };
        // SAFETY: the engine's word: both texts end in NUL. The lifetime is this call's.
        unsafe {
            let hooks = &*opaque.cast::<Hooks>();
            let ctx = Ctx::from_raw(context);
            let (importer, specifier) =
                (CStr::from_ptr(importer).to_string_lossy(), CStr::from_ptr(specifier).to_string_lossy());
            let attributes =
                Value::from_raw(ctx.clone(), qjs::JS_DupValue(context.as_ptr(), attributes)).into_object();
            let resolved = hooks.caught(|| match hooks.modules.borrow().clone() {
                Some(modules) => modules.resolve(&ctx, &importer, &specifier, attributes),
                None => Err(no_modules(&ctx)),
            });
            let resolved = resolved.and_then(|name| match name {
                Ok(name) => CString::new(name).ok(),
                Err(error) => {
                    throw(&ctx, error);
                    None
                }
            });
            // The engine takes a copy in memory of its own.
            resolved.map_or(ptr::null_mut(), |name| qjs::js_strdup(context.as_ptr(), name.as_ptr()))
        }
    })
}

fn no_modules(ctx: &Ctx<'_>) -> rquickjs::Error {
    leaf::throw(ctx, ErrorKind::Type, "there are no modules to import")
}

unsafe extern "C" fn on_load(
    context: *mut qjs::JSContext,
    name: *const c_char,
    opaque: *mut c_void,
    _attributes: qjs::JSValue,
) -> *mut qjs::JSModuleDef {
    // SAFETY: the engine's word. Between the two host calls this frame owns nothing: the text is kept by the hooks, and pointers
    // to it and to the engine's values are all that is here.
    unsafe {
        let hooks = &raw const *opaque.cast::<Hooks>();
        let Some(text) = host(|_| begin_load(&*hooks, context, name)) else { return ptr::null_mut() };
        let flags = qjs::JS_EVAL_TYPE_MODULE | qjs::JS_EVAL_FLAG_STRICT | qjs::JS_EVAL_FLAG_COMPILE_ONLY;
        let module = qjs::JS_Eval(context, text.source, text.length as _, name, flags as _);
        let mut is_ok = !qjs::JS_IsException(module);
        if is_ok && text.is_run {
            // Once more than the engine will do: here it is learnt whether it can be linked.
            let promise = qjs::JS_EvalFunction(context, qjs::JS_DupValue(context, module));
            is_ok = !qjs::JS_IsException(promise);
            qjs::JS_FreeValue(context, promise);
        }
        host(|_| end_load(&*hooks, name, is_ok));
        if is_ok { qjs::JS_VALUE_GET_PTR(module).cast() } else { ptr::null_mut() }
    }
}

/// Where the text of a module is, that is being compiled.
#[derive(Clone, Copy)]
struct Text {
    source: *const c_char,
    length: usize,
    is_run: bool,
}

/// # Safety
/// As of `on_load`.
unsafe fn begin_load(hooks: &Hooks, context: *mut qjs::JSContext, name: *const c_char) -> Option<Text> {
    let context = NonNull::new(context)?;
    // SAFETY: the engine's word. The lifetime is this call's.
    let (ctx, name) = unsafe { (Ctx::from_raw(context), CStr::from_ptr(name).to_string_lossy()) };
    let found = hooks.caught(|| match hooks.modules.borrow().clone() {
        Some(modules) => modules.find(&ctx, &name),
        None => Err(no_modules(&ctx)),
    })?;
    match found {
        Ok(text) => {
            let found = Text {
                source: text.source.as_ptr(),
                length: text.source.as_bytes().len(),
                is_run: text.is_run,
            };
            hooks.texts.borrow_mut().push(text);
            Some(found)
        }
        Err(error) => {
            throw(&ctx, error);
            None
        }
    }
}

/// # Safety
/// As of `on_load`.
unsafe fn end_load(hooks: &Hooks, name: *const c_char, is_ok: bool) {
    // SAFETY: the engine's word.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let text = hooks.texts.borrow_mut().pop();
    drop(text);
    hooks.caught(|| {
        if let Some(modules) = hooks.modules.borrow().clone() {
            modules.loaded(&name, is_ok);
        }
    });
}

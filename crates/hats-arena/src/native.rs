//! Functions of the host as the engine sees them: numbers in a table that Rust has.
//!
//! ```text
//!  engine: function object { number, token? } ──call──► table[number] (a closure of Rust's)
//!          token object { number } ──freed──► Interpreter::set_released's hook
//! ```
//!
//! What must hold: no object of the engine owns memory of Rust's. The table belongs to the interpreter and outlives its
//! context; the engine has one pointer to it, in the context.
#![expect(unsafe_code, reason = "the engine calls with pointers, see the safety notes")]

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;

use hats_fiber::{Death, die, end_slice_when_due, host};
use rquickjs::{Ctx, Error, Function, Object, Value, qjs};

use crate::compiled::owned;
use crate::interpreter::{State, Unfit};
use crate::leaf::{self, ErrorClasses, ErrorKind};

type Body = dyn for<'a, 'js> Fn(Invocation<'a, 'js>) -> rquickjs::Result<Value<'js>>;

/// Hears of tokens that are freed.
type Released = Box<dyn Fn(u32)>;

/// One call of a host function.
#[non_exhaustive]
pub struct Invocation<'a, 'js> {
    /// Where.
    pub ctx: &'a Ctx<'js>,
    /// Of what.
    pub this: Value<'js>,
    /// With what.
    pub arguments: Vec<Value<'js>>,
    /// The number of the token that the function was made for, if any.
    pub token: Option<u32>,
}

/// A function of the host, of which any number of function objects can be made. Good for the interpreter that it was made
/// in, until a reset to a time before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Native {
    number: u16,
}

impl Native {
    /// Puts a function into the interpreter's table. It stays there until the interpreter goes, or is reset to a time
    /// before: whoever makes function objects often does so of one that is made once.
    ///
    /// # Errors
    /// When the context is of no [`crate::Interpreter`].
    pub fn new<F>(ctx: &Ctx<'_>, body: F) -> rquickjs::Result<Self>
    where
        F: for<'a, 'js> Fn(Invocation<'a, 'js>) -> rquickjs::Result<Value<'js>> + 'static,
    {
        let mut table = Switchboard::of(ctx)?.table.borrow_mut();
        // The engine keeps a function's number in 16 bits.
        let number = u16::try_from(table.len()).map_err(|_| Error::Unknown)?;
        table.push(Rc::new(body));
        Ok(Self { number })
    }

    /// Makes a function object.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn function<'js>(self, ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Function<'js>> {
        self.make(ctx, name, qjs::JS_UNDEFINED)
    }

    /// Makes a function object that belongs to a token, and keeps it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn function_of<'js>(
        self,
        ctx: &Ctx<'js>,
        name: &str,
        token: &Object<'js>,
    ) -> rquickjs::Result<Function<'js>> {
        self.make(ctx, name, token.as_value().as_raw())
    }

    fn make<'js>(
        self,
        ctx: &Ctx<'js>,
        name: &str,
        mut token: qjs::JSValue,
    ) -> rquickjs::Result<Function<'js>> {
        let context = ctx.as_raw().as_ptr();
        // SAFETY: the context is alive; the engine copies one value, with a reference of its own to it.
        let value = unsafe {
            qjs::JS_NewCFunctionData(context, Some(call), 0, self.number.into(), 1, &raw mut token)
        };
        let function = owned(ctx, value)?.into_function().ok_or(Error::Unknown)?;
        function.with_name(name)
    }
}

/// Defines a property by what gets and what sets it.
///
/// # Errors
/// When there is no memory, or the object has that property for good.
pub fn define_accessor<'js>(
    object: &Object<'js>,
    name: &str,
    get: Option<Function<'js>>,
    set: Option<Function<'js>>,
    is_enumerable: bool,
    is_configurable: bool,
) -> rquickjs::Result<()> {
    let context = object.ctx().as_raw().as_ptr();
    let raw = |function: Option<Function<'js>>| match function {
        // SAFETY: the value is alive; what is made is a reference more.
        Some(function) => unsafe { qjs::JS_DupValue(context, function.as_value().as_raw()) },
        None => qjs::JS_UNDEFINED,
    };
    let enumerable = if is_enumerable { qjs::JS_PROP_ENUMERABLE } else { 0 };
    let configurable = if is_configurable { qjs::JS_PROP_CONFIGURABLE } else { 0 };
    let flags = qjs::JS_PROP_THROW | enumerable | configurable;
    // SAFETY: the object and the name are alive; the engine takes over the references to the functions, and the atom is ours.
    let defined = unsafe {
        let atom = qjs::JS_NewAtomLen(context, name.as_ptr().cast(), name.len() as _);
        if atom == qjs::JS_ATOM_NULL as qjs::JSAtom {
            return Err(Error::Exception);
        }
        let object = object.as_value().as_raw();
        let defined = qjs::JS_DefinePropertyGetSet(context, object, atom, raw(get), raw(set), flags as _);
        qjs::JS_FreeAtom(context, atom);
        defined
    };
    if defined < 0 { Err(Error::Exception) } else { Ok(()) }
}

/// Makes an object that stands for something of the host's. When the engine frees it, the hook given to
/// [`crate::Interpreter::set_released`] gets its number; a reset frees nothing.
///
/// # Errors
/// When there is no memory.
pub fn new_token<'js>(ctx: &Ctx<'js>, number: u32) -> rquickjs::Result<Object<'js>> {
    let switchboard = Switchboard::of(ctx)?;
    let context = ctx.as_raw().as_ptr();
    // SAFETY: the context is alive, and the class was registered with its runtime before it was made.
    let value = unsafe { qjs::JS_NewObjectClass(context, switchboard.class) };
    let object = owned(ctx, value)?;
    let cell = Token { switchboard: ptr::from_ref(switchboard), number };
    // SAFETY: the memory is the engine's, of the right size and alignment, and belongs to the object from here on.
    unsafe {
        let place = qjs::js_malloc(context, size_of::<Token>() as _).cast::<Token>();
        if place.is_null() {
            return Err(Error::Exception);
        }
        place.write(cell);
        qjs::JS_SetOpaque(object.as_raw(), place.cast());
    }
    object.into_object().ok_or(Error::Unknown)
}

/// What a token's object refers to. It is in the engine's memory, so a reset takes it back as well.
#[repr(C)]
struct Token {
    switchboard: *const Switchboard,
    number: u32,
}

impl Token {
    /// The number of a token.
    ///
    /// # Safety
    /// The value is alive.
    unsafe fn of(class: qjs::JSClassID, value: qjs::JSValue) -> Option<u32> {
        // SAFETY: the pointer of an object of this class is null or was set by `new_token`, and leads to what is the
        // object's for as long as it lives.
        unsafe { qjs::JS_GetOpaque(value, class).cast::<Self>().as_ref() }.map(|token| token.number)
    }
}

/// What the engine's pointer leads to.
pub(crate) struct Switchboard {
    table: RefCell<Vec<Rc<Body>>>,
    sealed_at: Cell<usize>,
    released: RefCell<Option<Released>>,
    /// A panic of a host function, on its way through the engine.
    panic: Cell<Option<Box<dyn Any + Send>>>,
    class: qjs::JSClassID,
    pub(crate) errors: OnceCell<ErrorClasses>,
    pub(crate) state: Rc<State>,
}

/// Whether a host function runs, and how often something began above it: host functions are leaves, so that no frame of
/// Rust's lies between two frames of the engine.
#[derive(Default)]
pub(crate) struct NativeCalls {
    is_running: Cell<bool>,
    nested: Cell<u64>,
}

impl NativeCalls {
    /// A host function begins. It ends when what is returned is dropped.
    fn begin(&self) -> impl Drop + use<'_> {
        struct Running<'a> {
            calls: &'a NativeCalls,
            was_running: bool,
        }
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.calls.is_running.set(self.was_running);
            }
        }
        self.refuse_nested();
        Running { was_running: self.is_running.replace(true), calls: self }
    }

    /// Says that the engine has called Rust. It must not while a host function runs: that panics where it is tested, and is
    /// counted.
    pub(crate) fn refuse_nested(&self) {
        if self.is_running.get() {
            self.nested.set(self.nested.get() + 1);
            hats_fiber::count_nested();
        }
    }

    pub(crate) fn nested(&self) -> u64 {
        self.nested.get()
    }
}

impl Switchboard {
    /// A switchboard for a runtime that has no context yet.
    ///
    /// # Safety
    /// The runtime is alive and nobody is inside.
    pub(crate) unsafe fn new(runtime: *mut qjs::JSRuntime, state: Rc<State>) -> Option<Rc<Self>> {
        let mut class = qjs::JS_INVALID_CLASS_ID;
        let definition = qjs::JSClassDef {
            class_name: c"HostToken".as_ptr().cast(),
            finalizer: Some(released),
            gc_mark: None,
            call: None,
            exotic: ptr::null_mut(),
        };
        // SAFETY: by the caller's word. The engine copies the definition.
        let refused = unsafe {
            qjs::JS_NewClassID(runtime, &raw mut class);
            qjs::JS_NewClass(runtime, class, &raw const definition)
        };
        (refused == 0).then(|| {
            Rc::new(Self {
                table: RefCell::default(),
                sealed_at: Cell::new(0),
                released: RefCell::default(),
                panic: Cell::default(),
                class,
                errors: OnceCell::new(),
                state,
            })
        })
    }

    /// Tells a context of this switchboard.
    ///
    /// # Safety
    /// The context is alive, nobody is inside, and its switchboard is kept until it has gone.
    pub(crate) unsafe fn attach(self: &Rc<Self>, context: NonNull<qjs::JSContext>) {
        // SAFETY: by the caller's word.
        unsafe {
            qjs::JS_SetContextOpaque(context.as_ptr(), Rc::as_ptr(self).cast_mut().cast());
            if let Some(errors) = ErrorClasses::of(context.as_ptr()) {
                let _ = self.errors.set(errors);
            }
        }
    }

    /// The switchboard of a context, if it has one.
    ///
    /// # Safety
    /// The context is null or alive.
    unsafe fn at<'a>(context: *mut qjs::JSContext) -> Option<&'a Self> {
        if context.is_null() {
            return None;
        }
        // SAFETY: by the caller's word; the pointer is null or was set by `attach`.
        unsafe { qjs::JS_GetContextOpaque(context).cast::<Self>().as_ref() }
    }

    pub(crate) fn of<'a>(ctx: &'a Ctx<'_>) -> rquickjs::Result<&'a Self> {
        // SAFETY: nobody else sets a context's pointer: `rquickjs` never does, and it is no safe call. So it is null, or leads
        // to a switchboard that is kept for longer than the context, which is alive for as long as there is a `Ctx`.
        unsafe { qjs::JS_GetContextOpaque(ctx.as_raw().as_ptr()).cast::<Self>().as_ref() }
            .ok_or(Error::Unknown)
    }

    pub(crate) fn set_released(&self, hook: Released) {
        *self.released.borrow_mut() = Some(hook);
    }

    pub(crate) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.take()
    }

    pub(crate) fn seal(&self) {
        self.sealed_at.set(self.table.borrow().len());
    }

    pub(crate) fn reset(&self) {
        let sealed_at = self.sealed_at.get();
        // Dropped where nothing is borrowed.
        let newer = {
            let mut table = self.table.borrow_mut();
            if table.len() > sealed_at { table.split_off(sealed_at) } else { Vec::new() }
        };
        drop(newer);
    }

    /// Forgets all closures, which may know of whoever owns the interpreter.
    pub(crate) fn clear(&self) {
        let all = (self.table.take(), self.released.take());
        drop(all);
    }

    pub(crate) fn panicked(&self, panic: Box<dyn Any + Send>) {
        self.state.condemn(Unfit::Panicked);
        self.panic.set(Some(panic));
    }
}

/// What the engine calls for every host function.
///
/// # Safety
/// Only the engine calls it, with what its own documentation says.
unsafe extern "C" fn call(
    context: *mut qjs::JSContext,
    this: qjs::JSValue,
    count: c_int,
    arguments: *mut qjs::JSValue,
    number: c_int,
    data: *mut qjs::JSValue,
) -> qjs::JSValue {
    host(|may_die| {
        // SAFETY: the engine's word.
        let value = unsafe { dispatch(context, this, count, arguments, number, data) };
        if may_die {
            // SAFETY: as above. What the call has taken beyond the limit it could not be ended for.
            let is_over = unsafe { Switchboard::at(context) }.is_some_and(|of| of.state.is_over_limit());
            if is_over {
                die(Death::Memory);
            }
        }
        end_slice_when_due();
        value
    })
}

/// # Safety
/// As of `call`.
unsafe fn dispatch(
    context: *mut qjs::JSContext,
    this: qjs::JSValue,
    count: c_int,
    arguments: *mut qjs::JSValue,
    number: c_int,
    data: *mut qjs::JSValue,
) -> qjs::JSValue {
    let Some(context) = NonNull::new(context) else { return qjs::JS_EXCEPTION };
    // SAFETY: the engine calls from inside an entry of `Interpreter::with`, whose lock is held for as long as this call lasts.
    // The lifetime is one of this frame: no value with it can leave the closure but as the result.
    let ctx = unsafe { Ctx::from_raw(context) };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: all of what follows are values that the engine keeps alive during the call; each is given a reference more.
        let value = |raw: &qjs::JSValue| unsafe {
            Value::from_raw(ctx.clone(), qjs::JS_DupValue(context.as_ptr(), *raw))
        };
        let arguments = match usize::try_from(count) {
            // SAFETY: the engine gives so many.
            Ok(count) if count > 0 => unsafe { slice::from_raw_parts(arguments, count) },
            _ => &[],
        };
        let arguments = arguments.iter().map(value).collect();
        let switchboard = Switchboard::of(&ctx)?;
        let _running = switchboard.state.native_calls.begin();
        switchboard.state.tell_used();
        // SAFETY: `make` has given each of these functions one value, which is undefined or a token.
        let token = unsafe { Token::of(switchboard.class, *data) };
        let body =
            usize::try_from(number).ok().and_then(|number| switchboard.table.borrow().get(number).cloned());
        match body {
            Some(body) => body(Invocation { ctx: &ctx, this: value(&this), arguments, token }),
            None => Err(leaf::throw(&ctx, ErrorKind::Internal, "this function of the worker is gone")),
        }
    }));
    match result {
        Ok(Ok(value)) => {
            // SAFETY: the engine takes over one reference.
            unsafe { qjs::JS_DupValue(context.as_ptr(), value.as_raw()) }
        }
        Ok(Err(error)) => throw(&ctx, error),
        Err(panic) => {
            if let Ok(switchboard) = Switchboard::of(&ctx) {
                switchboard.panicked(panic);
            }
            throw(&ctx, leaf::throw(&ctx, ErrorKind::Internal, "the worker's function has failed"))
        }
    }
}

/// Throws an error, each of the kind that `rquickjs` gives it.
pub(crate) fn throw(ctx: &Ctx<'_>, error: Error) -> qjs::JSValue {
    let kind = match &error {
        // What was thrown is pending.
        Error::Exception => return qjs::JS_EXCEPTION,
        // SAFETY: the context is alive.
        Error::Allocation => return unsafe { qjs::JS_ThrowOutOfMemory(ctx.as_raw().as_ptr()) },
        Error::InvalidString(_)
        | Error::Utf8(_)
        | Error::FromJs { .. }
        | Error::IntoJs { .. }
        | Error::TooManyArgs { .. }
        | Error::MissingArgs { .. } => ErrorKind::Type,
        Error::AsSlice(_) | Error::Resolving { .. } | Error::Loading { .. } => ErrorKind::Reference,
        Error::Unknown => ErrorKind::Internal,
        _ => ErrorKind::Plain,
    };
    leaf::throw(ctx, kind, &error.to_string());
    qjs::JS_EXCEPTION
}

/// What the engine calls when it frees a token.
///
/// # Safety
/// Only the engine calls it.
unsafe extern "C" fn released(runtime: *mut qjs::JSRuntime, object: qjs::JSValue) {
    // SAFETY: the engine's word.
    host(|_| unsafe { release(runtime, object) });
}

/// # Safety
/// As of `released`.
unsafe fn release(runtime: *mut qjs::JSRuntime, object: qjs::JSValue) {
    // SAFETY: the object is being freed and still there. Its pointer is null if there was no memory for it, or was set by
    // `new_token`: then the memory is the engine's and nobody uses it after this, and the switchboard outlives the runtime.
    let (switchboard, number) = unsafe {
        let class = qjs::JS_GetClassID(object);
        let place = qjs::JS_GetOpaque(object, class).cast::<Token>();
        if place.is_null() {
            return;
        }
        let Token { switchboard, number } = place.read();
        qjs::js_free_rt(runtime, place.cast());
        (&*switchboard, number)
    };
    let told = catch_unwind(AssertUnwindSafe(|| {
        if let Some(hook) = &*switchboard.released.borrow() {
            hook(number);
        }
    }));
    if let Err(panic) = told {
        switchboard.panicked(panic);
    }
}

//! One interpreter, its way through seal and resets, and what ends that way.
//!
//! It is entered on the caller's own stack to be set up ([`Interpreter::with`]), and on its own stack, as a fiber, to run scripts
//! ([`Interpreter::enter`]): those may be preempted, and may die. After a death nobody enters the engine again, and nothing that
//! Rust has of it is given back to it: the memory is discarded as a whole. So it is at every other end.
#![expect(unsafe_code, reason = "the engine is made and entered with pointers, see the safety notes")]

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::panic::resume_unwind;
use std::pin::pin;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hats_fiber::{Death, Failure, Fiber, Handle};
use rquickjs::{Ctx, Runtime, qjs};

use crate::arena::{Arena, MALLOC_FUNCTIONS, Snapshot};
use crate::countdown;
use crate::heap::Heap;
use crate::hooks::{Hooks, ModuleSource, RejectionTracker};
use crate::meter::{Meter, Share};
use crate::native::{NativeCalls, Switchboard};

/// What an interpreter may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Heap in bytes.
    pub memory: usize,
    /// Stack of scripts in bytes, from where the interpreter is entered.
    pub stack: usize,
    /// Stack in bytes that native code may use beside that.
    pub native_stack: usize,
    /// Cycles are looked for when so many bytes have been allocated, and then as the heap grows.
    pub gc_threshold: usize,
}

/// An interpreter cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system gives no memory, or no addresses.
    #[error("no memory for an interpreter (see vm.max_map_count): {0}")]
    System(#[from] io::Error),
    /// The engine's own beginning does not fit into the heap.
    #[error("{0}")]
    Engine(#[from] rquickjs::Error),
}

/// Why an interpreter is not to be reset: it has to be thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It is not in an arena, or was never sealed.
    #[error("it has never been sealed")]
    Unsealed,
    /// Somebody is inside.
    #[error("somebody is inside")]
    Inside,
    /// So many values that were made since the seal are kept.
    #[error("{0} values that were made after the seal are kept")]
    Kept(usize),
    /// A value that was kept at the seal has been let go.
    #[error("a value that was kept at the seal has been let go")]
    Released,
    /// A hook was set after the seal.
    #[error("a hook was set after the seal")]
    Changed,
    /// It was interrupted.
    #[error("it was interrupted")]
    Interrupted,
    /// It needed more memory than there was.
    #[error("it ran out of memory")]
    OutOfMemory,
    /// A function of the host panicked.
    #[error("it panicked")]
    Panicked,
    /// Whoever uses it says so.
    #[error("it was condemned")]
    Condemned,
    /// Its script died in the middle of the engine's work.
    #[error("its script died: {0}")]
    Dead(Death),
}

/// A runtime of the engine with one context, in memory of its own.
pub struct Interpreter {
    // Others have it who keep values of it: see `Kept`.
    engine: Rc<Engine>,
    snapshot: OnceCell<Snapshot>,
    state: Rc<State>,
}

/// The engine, and what has to be there for as long as it is.
pub(crate) struct Engine {
    context: NonNull<qjs::JSContext>,
    runtime: NonNull<qjs::JSRuntime>,
    hooks: Rc<Hooks>,
    // Invariant: all memory of the engine is in it, and goes with it: the engine itself is never torn down.
    arena: Arena,
    /// Its script has died, or it is going: nobody enters it any more, nor gives anything back.
    is_over: Cell<bool>,
    /// What the bindings look for in every runtime: that of one of theirs.
    _opaque: Rc<Bindings>,
}

/// A runtime of the bindings' own making. They keep what they know of a runtime beside it, in a type that nobody else can make;
/// ours share one for each OS thread, which stays empty: we have nothing of theirs that would use it.
struct Bindings {
    _runtime: Runtime,
    opaque: *mut qjs::c_void,
}

impl Bindings {
    fn of_this_thread() -> rquickjs::Result<Rc<Self>> {
        thread_local! {
            static BINDINGS: OnceCell<Rc<Bindings>> = const { OnceCell::new() };
        }
        BINDINGS.with(|bindings| {
            if let Some(bindings) = bindings.get() {
                return Ok(bindings.clone());
            }
            let runtime = Runtime::new()?;
            let context = rquickjs::Context::custom::<()>(&runtime)?;
            // SAFETY: the runtime is alive.
            let opaque = unsafe { qjs::JS_GetRuntimeOpaque(context.get_runtime_ptr()) };
            drop(context);
            let made = Rc::new(Self { _runtime: runtime, opaque });
            Ok(bindings.get_or_init(|| made).clone())
        })
    }
}

impl Engine {
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

/// What decides whether a reset may happen.
#[derive(Default)]
pub(crate) struct State {
    engine: OnceCell<Weak<Engine>>,
    heap: OnceCell<Rc<Heap>>,
    inside: Cell<u32>,
    /// A fiber of it has been begun and not ended.
    has_fiber: Cell<bool>,
    sealed: Cell<bool>,
    /// Values that were kept after the seal, and still are.
    pub(crate) kept: Cell<usize>,
    pub(crate) released: Cell<bool>,
    condemned: Cell<Option<Unfit>>,
    /// Where it tells how much of its heap is in use, if anywhere.
    share: OnceCell<Share>,
    pub(crate) native_calls: NativeCalls,
}

impl State {
    pub(crate) fn engine(&self) -> Option<Rc<Engine>> {
        self.engine.get().and_then(Weak::upgrade)
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.get()
    }

    /// True if a host call has taken more memory than the script may have.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.heap.get().is_some_and(|heap| heap.is_over_limit())
    }

    /// Tells how much of the heap is in use.
    pub(crate) fn tell_used(&self) {
        if let Some(share) = self.share.get() {
            share.tell();
        }
    }

    pub(crate) fn condemn(&self, why: Unfit) {
        if self.condemned.get().is_none() {
            self.condemned.set(Some(why));
        }
    }
}

/// What becomes of a preempted script, when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes on.
    GoOn,
    /// It goes on, and the engine calls its interrupt hook at the next turn of a loop or call of a function.
    Hurry,
    /// It dies.
    Die,
}

impl Interpreter {
    /// An interpreter. Of the heap, a little goes to gaps between what is in use.
    ///
    /// # Errors
    /// When there is no memory for it, or no addresses.
    pub fn new(limits: Limits) -> Result<Self, Error> {
        let arena = Arena::new(limits.memory, limits.stack.saturating_add(limits.native_stack))?;
        let bindings = Bindings::of_this_thread()?;
        let heap: *const Heap = &raw const **arena.heap();
        // SAFETY: the heap outlives the engine, and its functions keep the engine's contract. The stack limit is the engine's own.
        let (runtime, context) = unsafe {
            let runtime = qjs::JS_NewRuntime2(&raw const MALLOC_FUNCTIONS, heap.cast_mut().cast());
            let runtime = NonNull::new(runtime).ok_or(rquickjs::Error::Allocation)?;
            qjs::JS_SetRuntimeOpaque(runtime.as_ptr(), bindings.opaque);
            qjs::JS_SetMaxStackSize(runtime.as_ptr(), limits.stack as _);
            qjs::JS_SetGCThreshold(runtime.as_ptr(), limits.gc_threshold as _);
            let context = qjs::JS_NewContext(runtime.as_ptr());
            (runtime, NonNull::new(context).ok_or(rquickjs::Error::Allocation)?)
        };
        let state = Rc::new(State::default());
        // Both were empty, since the state is new.
        let _ = state.heap.set(arena.heap().clone());
        // SAFETY: the runtime is alive, and nobody is inside of one that has just been made.
        let switchboard = unsafe { Switchboard::new(runtime.as_ptr(), state.clone()) };
        let switchboard = switchboard.ok_or(rquickjs::Error::Allocation)?;
        // SAFETY: the context is alive, and the engine keeps the switchboard.
        unsafe { switchboard.attach(context) };
        let hooks = Rc::new(Hooks::new(state.clone(), switchboard));
        // SAFETY: the runtime is alive and keeps to the hooks, which the engine keeps.
        unsafe { hooks.attach(runtime) };
        arena.set_limit(limits.memory);
        if arena.heap().is_over_limit() {
            return Err(rquickjs::Error::Allocation.into());
        }
        let is_over = Cell::new(false);
        let engine = Rc::new(Engine { context, runtime, hooks, arena, is_over, _opaque: bindings });
        let _ = state.engine.set(Rc::downgrade(&engine));
        Ok(Self { engine, snapshot: OnceCell::new(), state })
    }

    /// Enters the interpreter on the caller's own stack, for code that is known: it cannot be preempted, and what runs
    /// away in it is stopped by the interrupt hook alone. Goes on with the panic of a host function, if one was on its way through
    /// the engine.
    ///
    /// # Panics
    /// While a script of the interpreter is suspended, or after it has died.
    pub fn with<R>(&self, f: impl for<'js> FnOnce(&Ctx<'js>) -> R) -> R {
        assert!(
            !self.state.has_fiber.get() && !self.engine.is_over(),
            "the interpreter is not to be entered"
        );
        let entered = Entered::new(&self.state);
        let result = self.inside(f);
        drop(entered);
        self.left();
        result
    }

    fn inside<R>(&self, f: impl for<'js> FnOnce(&Ctx<'js>) -> R) -> R {
        // SAFETY: the engine is alive, nobody else is inside on another stack, and `Ctx` has a lifetime that ends with the call.
        let ctx = unsafe {
            qjs::JS_UpdateStackTop(self.engine.runtime.as_ptr());
            Ctx::from_raw(self.engine.context)
        };
        f(&ctx)
    }

    fn left(&self) {
        self.state.tell_used();
        if let Some(panic) = self.engine.hooks.take_panic() {
            resume_unwind(panic);
        }
    }

    /// Enters the interpreter on a stack of its own, where scripts can wait, are preempted and may die. `turn` decides what
    /// becomes of a preempted script, each time that its turn comes. `f` is called once; while scripts run, it and what it calls
    /// may own nothing that must not be lost: a death unwinds nothing.
    ///
    /// # Errors
    /// How the script died, or that `f` panicked. After a death the interpreter is never to be entered again.
    ///
    /// # Panics
    /// While another script of the interpreter is suspended, or after one has died.
    ///
    /// # Cancel safety
    /// Dropped, the script is killed, and the interpreter is not to be entered any more.
    pub async fn enter<R>(
        &self,
        handle: Handle,
        mut turn: impl FnMut() -> Turn,
        mut f: impl for<'js> FnMut(&Ctx<'js>) -> R,
    ) -> Result<R, Failure> {
        assert!(
            !self.state.has_fiber.get() && !self.engine.is_over(),
            "the interpreter is not to be entered"
        );
        assert!(self.state.inside.get() == 0, "the interpreter is entered already");
        let entered = Entered::new(&self.state);
        let in_fiber = InFiber::new(self);
        // SAFETY: the stack is the interpreter's, which runs one fiber at a time and outlives this one.
        let stack = unsafe { self.engine.arena.region().stack() };
        let fiber = Fiber::on(stack, handle, || self.inside(&mut f));
        // SAFETY: the countdown is a part of the interpreter that the fiber enters.
        let fiber = match countdown::of(self.engine.context) {
            Some(countdown) => unsafe { fiber.with_countdown(countdown) },
            None => fiber,
        };
        let mut fiber = pin!(fiber);
        let result = poll_fn(|context| {
            if fiber.is_preempted() {
                match turn() {
                    Turn::GoOn => {}
                    Turn::Hurry => fiber.hurry(),
                    Turn::Die => fiber.kill(),
                }
            }
            fiber.as_mut().poll(context)
        })
        .await;
        in_fiber.over(&result);
        drop(entered);
        self.left();
        result
    }

    /// How a script of it has died.
    #[must_use]
    pub fn death(&self) -> Option<Death> {
        match self.state.condemned.get() {
            Some(Unfit::Dead(death)) => Some(death),
            _ => None,
        }
    }

    /// Gives back the memory of the interpreter's stack, but for the `keep` bytes that calls use first.
    ///
    /// # Panics
    /// While a script of the interpreter is suspended.
    pub fn trim_stack(&self, keep: usize) {
        assert!(!self.state.has_fiber.get(), "the stack is in use");
        // SAFETY: no fiber runs on it.
        unsafe { self.engine.arena.region().trim_stack(keep) };
    }

    /// Sets what is asked from time to time while code runs: true ends it with an error that it cannot catch.
    pub fn set_interrupt(&self, hook: impl Fn() -> bool + 'static) {
        self.refuse_change();
        self.engine.hooks.set_interrupt(Box::new(hook));
    }

    /// Sets what learns of promises that are rejected without a handler, and of those that get one after all.
    pub fn set_rejection_tracker(&self, tracker: RejectionTracker) {
        self.refuse_change();
        self.engine.hooks.set_tracker(tracker);
    }

    /// Sets what finds modules.
    pub fn set_modules(&self, modules: impl ModuleSource + 'static) {
        self.refuse_change();
        self.engine.hooks.set_modules(Box::new(modules));
    }

    /// Sets what learns that the engine has freed a [token](crate::new_token). It is called in the middle of the engine's work,
    /// and may not enter it.
    pub fn set_released(&self, hook: impl Fn(u32) + 'static) {
        self.engine.hooks.switchboard().set_released(Box::new(hook));
    }

    fn refuse_change(&self) {
        if self.state.is_sealed() {
            self.state.condemn(Unfit::Changed);
        }
    }

    /// Ends the warm-up: this is what each reset leads back to.
    ///
    /// # Errors
    /// When it is sealed already, somebody is inside, or it has already gone wrong.
    pub fn seal(&self) -> Result<(), Unfit> {
        let arena = &self.engine.arena;
        if self.state.is_sealed() {
            return Err(Unfit::Unsealed);
        }
        self.fit(arena)?;
        // SAFETY: the runtime is alive, and nobody is inside.
        unsafe {
            qjs::JS_UpdateStackTop(self.engine.runtime.as_ptr());
            qjs::JS_RunGC(self.engine.runtime.as_ptr());
        }
        // SAFETY: nobody is inside, which `fit` has seen to.
        let snapshot = unsafe { arena.snapshot() };
        self.engine.hooks.switchboard().seal();
        self.state.sealed.set(true);
        // It was empty, since there was no seal.
        let _ = self.snapshot.set(snapshot);
        Ok(())
    }

    /// Puts the interpreter back to what it was when it was sealed.
    ///
    /// # Errors
    /// Why it has to be thrown away.
    pub fn reset(&self) -> Result<(), Unfit> {
        let arena = &self.engine.arena;
        self.fit(arena)?;
        let Some(snapshot) = self.snapshot.get() else { return Err(Unfit::Unsealed) };
        // SAFETY: the snapshot is this arena's. Nobody is inside, and no value is kept that was not there at the seal, which
        // `fit` has seen to. Values that are not kept live no longer than an entry, by their lifetime; what else could refer
        // to the engine's memory or be owned by it is banned where this crate is used, see the crate's documentation.
        unsafe { arena.restore(snapshot) };
        self.engine.hooks.switchboard().reset();
        arena.heap().tell_gauge();
        self.state.tell_used();
        Ok(())
    }

    fn fit(&self, arena: &Arena) -> Result<(), Unfit> {
        let state = &self.state;
        let kept = state.kept.get();
        match state.condemned.get() {
            Some(why) => Err(why),
            None if state.inside.get() > 0 => Err(Unfit::Inside),
            None if arena.heap().has_refused() => Err(Unfit::OutOfMemory),
            None if kept > 0 => Err(Unfit::Kept(kept)),
            None if state.released.get() => Err(Unfit::Released),
            None => Ok(()),
        }
    }

    /// How often JavaScript has run above a function of the host, which none of them allows. Counted in release builds; where
    /// it is tested, a panic says so.
    #[must_use]
    pub fn nested_entries(&self) -> u64 {
        self.state.native_calls.nested()
    }

    /// Says that this interpreter is to be thrown away.
    pub fn condemn(&self) {
        self.state.condemn(Unfit::Condemned);
    }

    /// True once it has been sealed.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.state.is_sealed()
    }

    /// Bytes of heap in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.engine.arena.heap().used()
    }

    /// Where the bytes of heap in use can be read at any time, from any OS thread.
    #[must_use]
    pub fn gauge(&self) -> Arc<AtomicUsize> {
        self.engine.arena.heap().gauge()
    }

    /// From now on its heap counts in this meter, once; all interpreters of one meter live on one OS thread.
    pub fn set_meter(&self, meter: Arc<Meter>) {
        // The first one stays.
        let _ = self.state.share.set(Share::new(meter, self.engine.arena.heap().clone()));
    }

    /// Bytes of memory that the interpreter takes at most at present, its snapshot included.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.engine.arena.resident() + self.snapshot.get().map_or(0, Snapshot::len)
    }

    /// What stands in the heap from a context on, as numbers of 32 bits.
    pub(crate) fn words_from(&self, context: NonNull<qjs::JSContext>, most: usize) -> Vec<i32> {
        let region = self.engine.arena.region();
        let start = context.as_ptr().addr() - region.base().as_ptr().addr();
        let count = most.min(region.touched().saturating_sub(start) / size_of::<i32>());
        // SAFETY: all up to `touched` is usable and initialised, and nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(context.as_ptr().cast::<i32>(), count) }.to_vec()
    }

    #[cfg(test)]
    pub(crate) fn first_difference(&self) -> Option<usize> {
        self.engine.arena.first_difference(self.snapshot.get()?)
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // Values that are kept for longer are forgotten, not given back.
        self.engine.is_over.set(true);
        // Closures may know of the interpreter's owner.
        self.engine.hooks.clear();
    }
}

/// A script of the interpreter is on its own stack. One that does not come to its end there has died.
struct InFiber<'a>(&'a Interpreter);

impl<'a> InFiber<'a> {
    fn new(interpreter: &'a Interpreter) -> Self {
        interpreter.state.has_fiber.set(true);
        Self(interpreter)
    }

    fn over<R>(self, result: &Result<R, Failure>) {
        if let Err(Failure::Dead(death)) = result {
            self.died(*death);
        }
        self.0.state.has_fiber.set(false);
        std::mem::forget(self);
    }

    fn died(&self, death: Death) {
        self.0.engine.is_over.set(true);
        // Outweighs whatever was wrong before.
        self.0.state.condemned.set(Some(Unfit::Dead(death)));
    }
}

impl Drop for InFiber<'_> {
    fn drop(&mut self) {
        self.died(Death::Killed);
        self.0.state.has_fiber.set(false);
    }
}

/// Somebody is inside. One that unwinds has panicked in there.
struct Entered<'a>(&'a State);

impl<'a> Entered<'a> {
    fn new(state: &'a State) -> Self {
        state.inside.set(state.inside.get() + 1);
        Self(state)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        if std::thread::panicking() {
            self.0.condemn(Unfit::Panicked);
        }
    }
}

#[cfg(test)]
mod tests;

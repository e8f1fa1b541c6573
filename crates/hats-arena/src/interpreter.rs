//! One interpreter, its way through seal and resets, and what ends that way.
#![expect(unsafe_code, reason = "memory under the engine is put back, see the safety notes")]

use std::cell::{Cell, OnceCell};
use std::io;
use std::panic::resume_unwind;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use rquickjs::loader::{Loader, Resolver};
use rquickjs::runtime::RejectionTracker;
use rquickjs::{Context, Ctx, Runtime, qjs};

use crate::arena::{Arena, Snapshot};
use crate::meter::{Meter, Share, Used};
use crate::native::{NativeCalls, Switchboard};
use crate::plain::PlainAllocator;

/// What an interpreter may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Heap in bytes.
    pub memory: usize,
    /// Stack in bytes, from where the interpreter is entered.
    pub stack: usize,
    /// Cycles are looked for when so many bytes have been allocated, and then as the heap grows.
    pub gc_threshold: usize,
}

/// An interpreter cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system gives no memory, or no addresses.
    #[error("no memory for an interpreter: {0}")]
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
}

/// A runtime of the engine with one context.
pub struct Interpreter {
    // Others have it who keep values of it: see `Kept`.
    engine: Rc<Engine>,
    snapshot: OnceCell<Snapshot>,
    state: Rc<State>,
}

/// The engine, and what has to be there for as long as it is.
pub(crate) struct Engine {
    // Dropped in this order: the runtime goes with the last reference to it, and then the memory that it was in.
    context: Context,
    runtime: Runtime,
    switchboard: Rc<Switchboard>,
    arena: Option<Arena>,
    /// Bytes in use where there is no arena.
    plain: Arc<AtomicUsize>,
    /// Tells the allocator that the engine is being dropped.
    is_leaving: Rc<Cell<bool>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.is_leaving.set(true);
    }
}

/// What decides whether a reset may happen.
#[derive(Default)]
pub(crate) struct State {
    engine: OnceCell<Weak<Engine>>,
    inside: Cell<u32>,
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

impl Interpreter {
    /// An interpreter whose memory is the process's. It can be used, and not be reset.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn plain(limits: Limits) -> Result<Self, Error> {
        let is_leaving = Rc::new(Cell::new(false));
        let used = Arc::<AtomicUsize>::default();
        let runtime = Runtime::new_with_alloc(PlainAllocator::new(is_leaving.clone(), used.clone()))?;
        Self::new(runtime, None, used, is_leaving, limits)
    }

    /// An interpreter whose memory is a region of its own. Of the heap, a little goes to gaps between what is in use.
    ///
    /// # Errors
    /// When there is no memory for it, or no addresses.
    pub fn in_arena(limits: Limits) -> Result<Self, Error> {
        let is_leaving = Rc::new(Cell::new(false));
        let arena = Arena::new(limits.memory, is_leaving.clone())?;
        // Without a limit yet: that there is no room for the bare runtime is what the engine's own bindings overlook.
        let runtime = Runtime::new_with_alloc(arena.allocator())?;
        arena.set_limit(limits.memory);
        Self::new(runtime, Some(arena), Arc::default(), is_leaving, limits)
    }

    fn new(
        runtime: Runtime,
        arena: Option<Arena>,
        plain: Arc<AtomicUsize>,
        is_leaving: Rc<Cell<bool>>,
        limits: Limits,
    ) -> Result<Self, Error> {
        if arena.is_none() {
            // An arena has its own, so that it is known there when it was reached.
            runtime.set_memory_limit(limits.memory);
        }
        runtime.set_max_stack_size(limits.stack);
        runtime.set_gc_threshold(limits.gc_threshold);
        let context = Context::full(&runtime)?;
        let state = Rc::new(State::default());
        // SAFETY: the runtime is alive, and nobody is inside of one that has just been made.
        let switchboard = unsafe { Switchboard::new(context.get_runtime_ptr(), state.clone()) };
        let switchboard = switchboard.ok_or(rquickjs::Error::Allocation)?;
        // SAFETY: the context is alive, and is dropped before the switchboard is.
        unsafe { switchboard.attach(context.as_raw()) };
        let engine = Rc::new(Engine { context, runtime, switchboard, arena, plain, is_leaving });
        // It was empty, since it is new.
        let _ = state.engine.set(Rc::downgrade(&engine));
        Ok(Self { engine, snapshot: OnceCell::new(), state })
    }

    /// Enters the interpreter. Goes on with the panic of a host function, if one was on its way through the engine.
    pub fn with<R>(&self, f: impl for<'js> FnOnce(&Ctx<'js>) -> R) -> R {
        let entered = Entered::new(&self.state);
        let result = self.engine.context.with(|ctx| {
            // SAFETY: the runtime is alive, and nobody else is inside: `Context::with` holds its lock.
            unsafe { qjs::JS_UpdateStackTop(qjs::JS_GetRuntime(ctx.as_raw().as_ptr())) };
            f(&ctx)
        });
        drop(entered);
        self.state.tell_used();
        if let Some(panic) = self.engine.switchboard.take_panic() {
            resume_unwind(panic);
        }
        result
    }

    /// Sets what is asked from time to time while code runs: true ends it with an error that it cannot catch.
    pub fn set_interrupt(&self, mut hook: impl FnMut() -> bool + 'static) {
        self.refuse_change();
        let state = self.state.clone();
        self.engine.runtime.set_interrupt_handler(Some(Box::new(move || {
            state.native_calls.refuse_nested();
            state.tell_used();
            let is_ended = hook();
            if is_ended {
                state.condemn(Unfit::Interrupted);
            }
            is_ended
        })));
    }

    /// Sets what hears of promises that are rejected with nobody listening, and of those that are listened to after all.
    pub fn set_rejection_tracker(&self, tracker: RejectionTracker) {
        self.refuse_change();
        self.engine.runtime.set_host_promise_rejection_tracker(Some(tracker));
    }

    /// Sets what finds modules.
    pub fn set_loader(&self, resolver: impl Resolver + 'static, loader: impl Loader + 'static) {
        self.refuse_change();
        self.engine.runtime.set_loader(resolver, loader);
    }

    /// Sets what hears that the engine has freed a [token](crate::new_token). It is called in the middle of the engine's work,
    /// and may not enter it.
    pub fn set_released(&self, hook: impl Fn(u32) + 'static) {
        self.engine.switchboard.set_released(Box::new(hook));
    }

    fn refuse_change(&self) {
        if self.state.is_sealed() {
            self.state.condemn(Unfit::Changed);
        }
    }

    /// Ends the warm-up: this is what each reset leads back to.
    ///
    /// # Errors
    /// When the interpreter is in no arena, somebody is inside, or it has already gone wrong.
    pub fn seal(&self) -> Result<(), Unfit> {
        let Some(arena) = self.engine.arena.as_ref().filter(|_| !self.state.is_sealed()) else {
            return Err(Unfit::Unsealed);
        };
        self.fit(arena)?;
        self.engine.runtime.run_gc();
        // SAFETY: nobody is inside, which `fit` has seen to.
        let snapshot = unsafe { arena.snapshot() };
        self.engine.switchboard.seal();
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
        let (Some(arena), Some(snapshot)) = (&self.engine.arena, self.snapshot.get()) else {
            return Err(Unfit::Unsealed);
        };
        self.fit(arena)?;
        // SAFETY: the snapshot is this arena's. Nobody is inside, and no value is kept that was not there at the seal, which
        // `fit` has seen to. Values that are not kept live no longer than an entry, by their lifetime; what else could refer
        // to the engine's memory or be owned by it is banned where this crate is used, see the crate's documentation.
        unsafe { arena.restore(snapshot) };
        self.engine.switchboard.reset();
        self.state.tell_used();
        Ok(())
    }

    fn fit(&self, arena: &Arena) -> Result<(), Unfit> {
        let state = &self.state;
        let kept = state.kept.get();
        match state.condemned.get() {
            Some(why) => Err(why),
            None if state.inside.get() > 0 => Err(Unfit::Inside),
            None if arena.has_refused() => Err(Unfit::OutOfMemory),
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
        match &self.engine.arena {
            Some(arena) => arena.heap().used(),
            None => usize::try_from(self.engine.runtime.memory_usage().malloc_size).unwrap_or(0),
        }
    }

    /// Where the bytes that the heap takes can be read at any time, from any OS thread. None where the heap is an arena.
    #[must_use]
    pub fn gauge(&self) -> Option<Arc<AtomicUsize>> {
        self.engine.arena.is_none().then(|| self.engine.plain.clone())
    }

    /// Where it stands how much the engine has taken: a little more than it has in use, and found out at once.
    fn where_used(&self) -> Used {
        match &self.engine.arena {
            Some(arena) => Used::Arena(arena.heap()),
            None => Used::Plain(self.engine.plain.clone()),
        }
    }

    /// From now on its heap counts in this meter, once; all interpreters of one meter live on one OS thread.
    pub fn set_meter(&self, meter: Arc<Meter>) {
        // The first one stays.
        let _ = self.state.share.set(Share::new(meter, self.where_used()));
    }

    /// Bytes of memory that the interpreter takes at most at present, its snapshot included.
    #[must_use]
    pub fn resident(&self) -> usize {
        match &self.engine.arena {
            Some(arena) => arena.resident() + self.snapshot.get().map_or(0, Snapshot::len),
            None => self.used(),
        }
    }

    #[cfg(test)]
    pub(crate) fn first_difference(&self) -> Option<usize> {
        self.engine.arena.as_ref()?.first_difference(self.snapshot.get()?)
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // A token that the engine frees from now on is nobody's business.
        self.engine.switchboard.clear();
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

//! What is known of a fiber while it runs, and the two borders that code in it crosses: into the engine and back to the host.
//!
//! ```text
//!   host code at the foot of the fiber ──engine()──► the engine ──host()──► an allocator, a native function, a hook
//!                                         inside = true          inside = false
//! ```
//!
//! Three states of a suspended fiber: *preempted* (suspended by the tick, or at the end of a host call, with nothing but the
//! engine's frames above its one entry), *waiting* (suspended inside a host call on a future that is pinned to its stack), and
//! *not begun*.
//!
//! What must hold:
//! - Nothing below an entry into the engine owns anything: a preempted fiber may be abandoned, its frames are not unwound.
//! - A fiber is preempted, and dies, only inside its one entry (`inside` and `depth` 1). Host functions are leaves: an entry
//!   above a frame of the host is counted ([`Stats::nested_entries`]) and is a panic in debug builds.
//! - `host` is outside of `catch_unwind`, and both borders restore their state when they are unwound through.
//! - The handlers read and write plain cells of [`Core`] and of this OS thread only.
#![expect(
    unsafe_code,
    reason = "a pointer to the running fiber is read by signal handlers, see the safety notes"
)]

use std::cell::Cell;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};
use std::task::Context;
use std::time::Instant;

use corosensei::Yielder;
use corosensei::trap::CoroutineTrapHandler;

use crate::ask::Handle;
use crate::fiber::Death;
use crate::tick;

/// Bytes above the guard below which a host call ends its script: native code needs room of its own.
const LOW_WATER_BYTES: usize = 32 << 10;

/// Why a fiber gave up its OS thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    Preempted,
    Waits,
    Dead(Death),
    Done,
}

/// The task context of the poll that resumes a fiber, handed across the stack switch.
pub(crate) struct TaskContext(pub(crate) ptr::NonNull<Context<'static>>);

/// What the handlers and the borders look at. Its address is stable from the fiber's first poll on.
pub(crate) struct Core {
    /// Asks things of the fiber.
    pub(crate) handle: Handle,
    /// The engine runs for the script, and no function of the host that it has called.
    pub(crate) inside: Cell<bool>,
    /// Entries into the engine that are open.
    pub(crate) depth: Cell<u32>,
    /// The slice is over: the next end of a host call suspends.
    pub(crate) pending: Cell<bool>,
    /// The lane abandons the fiber the next time that it is preempted.
    pub(crate) kill: Cell<bool>,
    /// The engine's countdown to its interrupt hook, or null.
    pub(crate) countdown: Cell<*mut i32>,
    /// A future is being polled: its poll has to return, so nothing may suspend.
    pub(crate) is_polling: Cell<bool>,
    pub(crate) yielder: Cell<*const Yielder<TaskContext, Out>>,
    pub(crate) context: Cell<Option<ptr::NonNull<Context<'static>>>>,
    pub(crate) resumed_at: Cell<Instant>,
    pub(crate) trap: Cell<Option<CoroutineTrapHandler<Out>>>,
    /// The whole stack, guard included.
    pub(crate) stack: Range<usize>,
    pub(crate) guard_bytes: usize,
}

thread_local! {
    /// The fiber whose stack this OS thread runs on.
    // Invariant: null, or leads to the core of a fiber that is being resumed by this OS thread.
    static CURRENT: Cell<*const Core> = const { Cell::new(ptr::null()) };
    static COUNTS: Counts = const {
        Counts { at_instructions: Cell::new(0), at_host_ends: Cell::new(0), refused: Cell::new(0), nested: Cell::new(0) }
    };
}

struct Counts {
    at_instructions: Cell<u64>,
    at_host_ends: Cell<u64>,
    refused: Cell<u64>,
    nested: Cell<u64>,
}

/// What happened to the fibers of one OS thread since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Preemptions by a signal, at some instruction of the engine.
    pub preempted_at_instructions: u64,
    /// Preemptions at the end of a host call.
    pub preempted_at_host_ends: u64,
    /// Signals that came where a fiber cannot be suspended.
    pub refused_ticks: u64,
    /// Entries into the engine above a frame of the host; always 0 unless a host function has a defect.
    pub nested_entries: u64,
}

/// The counts of this OS thread.
#[must_use]
pub fn stats() -> Stats {
    COUNTS.with(|counts| Stats {
        preempted_at_instructions: counts.at_instructions.get(),
        preempted_at_host_ends: counts.at_host_ends.get(),
        refused_ticks: counts.refused.get(),
        nested_entries: counts.nested.get(),
    })
}

fn count(which: impl FnOnce(&Counts) -> &Cell<u64>) {
    COUNTS.with(|counts| {
        let cell = which(counts);
        cell.set(cell.get() + 1);
    });
}

pub(crate) fn count_refused() {
    count(|counts| &counts.refused);
}

/// The fiber whose stack this OS thread runs on, if any.
#[inline]
pub(crate) fn current<'a>() -> Option<&'a Core> {
    // SAFETY: by the invariant of `CURRENT` the core is alive for as long as its fiber is being resumed, and what asks runs
    // on that fiber's stack, or in a handler above it, so the reference is used only during that time.
    unsafe { CURRENT.get().as_ref() }
}

/// Runs `f` with this core as the current one, and restores the one before, also when `f` unwinds.
pub(crate) fn as_current<R>(core: *const Core, f: impl FnOnce() -> R) -> R {
    struct Restore(*const Core);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(core));
    f()
}

impl Core {
    pub(crate) fn new(handle: Handle, stack: Range<usize>, guard_bytes: usize) -> Self {
        Self {
            handle,
            inside: Cell::new(false),
            depth: Cell::new(0),
            pending: Cell::new(false),
            kill: Cell::new(false),
            countdown: Cell::new(ptr::null_mut()),
            is_polling: Cell::new(false),
            yielder: Cell::new(ptr::null()),
            context: Cell::new(None),
            resumed_at: Cell::new(Instant::now()),
            trap: Cell::new(None),
            stack,
            guard_bytes,
        }
    }

    /// Nothing but frames of the engine above the one entry into it.
    #[inline]
    pub(crate) fn may_be_abandoned(&self) -> bool {
        self.inside.get() && self.depth.get() == 1
    }

    /// The lowest address of the stack that a signal handler's frame still fits above.
    pub(crate) fn low_water(&self) -> usize {
        self.stack.start + self.guard_bytes + LOW_WATER_BYTES
    }

    pub(crate) fn guard(&self) -> Range<usize> {
        self.stack.start..self.stack.start + self.guard_bytes
    }

    /// Gives up the OS thread until the fiber is resumed. Runs on the fiber's own stack.
    pub(crate) fn suspend(&self, out: Out) {
        // SAFETY: the yielder was set by the coroutine's own first function, whose frame outlives everything on this stack,
        // and a core is only suspended by code that runs on its stack.
        let TaskContext(context) = unsafe { (*self.yielder.get()).suspend(out) };
        self.context.set(Some(context));
    }

    /// As `suspend`, in the handler of the tick: counts, and leaves alone what only the lane's side needs.
    pub(crate) fn preempt_in_handler(&self) {
        self.pending.set(false);
        count(|counts| &counts.at_instructions);
        self.suspend(Out::Preempted);
    }
}

/// Enters the engine for a script. What is called here may be abandoned at any of the engine's instructions, so neither `f`
/// nor any frame below it on this fiber may own anything. Outside a fiber it just calls `f`.
pub fn engine<R>(f: impl FnOnce() -> R) -> R {
    struct Leave<'a>(&'a Core, bool);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.depth.set(self.0.depth.get() - 1);
            self.0.inside.set(self.1);
        }
    }
    let Some(core) = current() else { return f() };
    if core.depth.get() > 0 {
        count_nested();
    }
    core.depth.set(core.depth.get() + 1);
    let leave = Leave(core, core.inside.replace(true));
    let result = f();
    drop(leave);
    result
}

/// True at the foot of a fiber, where the engine is not entered yet.
#[must_use]
pub fn may_enter_engine() -> bool {
    current().is_some_and(|core| core.depth.get() == 0 && !core.is_polling.get())
}

/// Counts that the engine ran above a frame of the host, where a crash is the process's. Panics in debug builds.
pub fn count_nested() {
    count(|counts| &counts.nested);
    debug_assert!(std::thread::panicking(), "JavaScript has run above a function of the host");
}

/// The engine has called the host. `f` is given whether the script may be ended on the spot ([`die`]). The end of `f` is where
/// the script gives way to others if its slice is over, or is abandoned if it has been killed.
#[inline]
pub fn host<R>(f: impl FnOnce(bool) -> R) -> R {
    struct Return<'a>(&'a Core, bool);
    impl Drop for Return<'_> {
        fn drop(&mut self) {
            self.0.inside.set(self.1);
        }
    }
    let Some(core) = current() else { return f(false) };
    let may_die = core.may_be_abandoned();
    let before = core.inside.replace(false);
    // The handlers run on this OS thread, and are to see what has been written here.
    compiler_fence(Ordering::SeqCst);
    if may_die {
        let marker = 0_u8;
        if ptr::from_ref(&marker).addr() < core.low_water() {
            die(Death::Stack);
        }
    }
    let back = Return(core, before);
    let result = f(may_die);
    compiler_fence(Ordering::SeqCst);
    drop(back);
    compiler_fence(Ordering::SeqCst);
    if may_die && (core.pending.get() || core.kill.get()) {
        give_way(core);
    }
    result
}

#[cold]
fn give_way(core: &Core) {
    core.pending.set(false);
    count(|counts| &counts.at_host_ends);
    core.suspend(Out::Preempted);
}

/// Has the end of the host call that is being made give way to others, if it may, once the slice of the script is over. For
/// calls that come often where no signal ends slices.
pub fn end_slice_when_due() {
    if let Some(core) = current()
        && !tick::is_armed_here()
        && core.resumed_at.get().elapsed() >= tick::SLICE
    {
        core.pending.set(true);
    }
}

/// Ends the running fiber on the spot. Only for what [`host`] has told that it may.
pub fn die(death: Death) -> ! {
    if let Some(core) = current() {
        core.suspend(Out::Dead(death));
    }
    // A dead fiber is never resumed.
    std::process::abort()
}

//! The tick: a signal that ends a script's slice at whatever instruction of the engine it is.
//!
//! One one-shot timer of the kernel per lane, armed when a fiber is resumed and none is armed yet. Its handler runs on the
//! fiber's own stack. Where the fiber may be suspended it is, inside the handler: the kernel's frame keeps every register, and
//! resuming returns through it. Elsewhere the handler leaves a note for the end of the host call and comes again shortly.
//!
//! What must hold before the handler suspends: the stack pointer is in the current fiber's stack above its low-water mark; its
//! one entry into the engine is open with no frame of the host above it; and the instruction pointer is in the engine's own
//! text, in libm, or in a leaf function of libc that the engine itself has called ([`crate::text`]). "Any pure function of
//! libc" is not enough: `localtime_r` calls `strlen` under the lock of time zones. "Anywhere in the executable" is not either:
//! an allocator that is linked there is called by libc under its locks.
//!
//! The handler reads and writes plain cells only. Whether a script dies is decided by the lane afterwards.
#![expect(unsafe_code, reason = "timers and signal handlers are the system's, see the safety notes")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::Duration;

use crate::crash;
use crate::preempt::{self, Core};
use crate::text;

/// How long a fiber may keep its OS thread before it gives way.
pub(crate) const SLICE: Duration = Duration::from_millis(2);
/// A tick that came where nothing may be suspended comes again after this many nanoseconds.
const AGAIN_NS: i64 = 150_000;
const NS_MAX: i64 = 900_000_000;

/// How scripts that compute are made to give way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preemption {
    /// By signals where this build and system allow it, else at the ends of host calls.
    #[default]
    Auto,
    /// By signals; an error where that cannot be.
    Signals,
    /// At the ends of host calls and when the engine polls its interrupt hook. Native operations without end stall their lane.
    Yields,
}

/// Scripts cannot be preempted by signals here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreemptionError {
    /// The ranges of instructions at which a script may be suspended are unknown.
    #[error("{0}")]
    Text(&'static str),
    /// The system gives no timer or no stack for signal handlers.
    #[error("no timer or no stack for signal handlers: {0}")]
    System(#[from] io::Error),
}

/// Makes the length of the next slice.
type Slices = Box<dyn FnMut() -> Duration>;

thread_local! {
    /// In the place of [`SLICE`], for tests at many instructions.
    static SLICES: std::cell::RefCell<Option<Slices>> = const { std::cell::RefCell::new(None) };
    /// This OS thread's timer, if it is a lane that is preempted by signals.
    static TIMER: Cell<Option<libc::timer_t>> = const { Cell::new(None) };
    /// A signal is on its way.
    static IS_UNDER_WAY: Cell<bool> = const { Cell::new(false) };
    /// When the current slice is over, in nanoseconds of the monotonic clock; 0 for none.
    static SLICE_END: Cell<u64> = const { Cell::new(0) };
}

/// The signals of one lane, until it is dropped. It stays on its OS thread.
pub struct Ticks {
    timer: Option<libc::timer_t>,
    // Dropped after the timer: a handler may still need it.
    _alternate: Option<crash::AlternateStack>,
    why_not: Option<PreemptionError>,
    _stays_here: std::marker::PhantomData<*const ()>,
}

/// Makes this OS thread a lane whose fibers are preempted, for as long as what is returned lives.
///
/// # Errors
/// With [`Preemption::Signals`], why there are no signals.
pub fn attach(preemption: Preemption) -> Result<Ticks, PreemptionError> {
    let nothing =
        |why_not| Ticks { timer: None, _alternate: None, why_not, _stays_here: std::marker::PhantomData };
    if preemption == Preemption::Yields {
        return Ok(nothing(None));
    }
    match (start(), preemption) {
        (Ok(ticks), _) => Ok(ticks),
        (Err(why_not), Preemption::Signals) => Err(why_not),
        (Err(why_not), _) => Ok(nothing(Some(why_not))),
    }
}

impl Ticks {
    /// True if scripts are preempted by signals.
    #[must_use]
    pub fn has_signals(&self) -> bool {
        self.timer.is_some()
    }

    /// Why they are not, although that was wanted.
    #[must_use]
    pub fn why_not(&self) -> Option<&PreemptionError> {
        self.why_not.as_ref()
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else { return };
        TIMER.set(None);
        // SAFETY: the timer was created by `start`, and nobody uses it after this. A signal of it that is still pending finds
        // no current fiber.
        unsafe { libc::timer_delete(timer) };
        IS_UNDER_WAY.set(false);
    }
}

fn start() -> Result<Ticks, PreemptionError> {
    text::known().map_err(PreemptionError::Text)?;
    Ok(make_timer()?)
}

fn make_timer() -> io::Result<Ticks> {
    crash::install()?;
    let alternate = crash::AlternateStack::install()?;
    // SAFETY: all-zero is a valid value of these plain structures; the handler is async-signal-safe, see the module's header;
    // SIGURG is ignored by default and used for nothing else here.
    let timer = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_tick as *const () as usize;
        // Without SA_ONSTACK: the handler's frame is to stay on the fiber's own stack while that is suspended.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
        if libc::sigaction(libc::SIGURG, &raw const action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut event: libc::sigevent = mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGURG;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = ptr::null_mut();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
            return Err(io::Error::last_os_error());
        }
        timer
    };
    TIMER.set(Some(timer));
    Ok(Ticks {
        timer: Some(timer),
        _alternate: Some(alternate),
        why_not: None,
        _stays_here: std::marker::PhantomData,
    })
}

/// True if signals end slices on this OS thread.
pub(crate) fn is_armed_here() -> bool {
    TIMER.get().is_some()
}

fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours. The call takes no lock: it is answered from memory that the kernel shares.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Has the slices of this OS thread be as long as `slices` says, or as they are without.
#[doc(hidden)]
pub fn set_slice_of_tests(slices: Option<Slices>) {
    SLICES.set(slices);
}

/// A fiber is resumed on this OS thread: its slice begins.
pub(crate) fn begin_slice() {
    if TIMER.get().is_none() {
        return;
    }
    let slice = SLICES.with_borrow_mut(|slices| slices.as_mut().map_or(SLICE, |next| next()));
    let slice = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    SLICE_END.set(now_ns().saturating_add(slice));
    // A signal that comes from here on finds the slice begun, and asks for another one.
    compiler_fence(Ordering::SeqCst);
    // One that is under way for an earlier slice comes too early, and is set again then: short slices cost no system call.
    if !IS_UNDER_WAY.replace(true) {
        arm(i64::try_from(slice).unwrap_or(NS_MAX));
    }
}

/// The fiber gave up the OS thread.
pub(crate) fn end_slice() {
    SLICE_END.set(0);
}

/// Asks for a signal to this OS thread in so many nanoseconds. Async-signal-safe.
fn arm(ns: i64) {
    let Some(timer) = TIMER.get() else { return };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec { tv_sec: 0, tv_nsec: ns.clamp(1000, NS_MAX) },
    };
    // SAFETY: the timer is this OS thread's own and exists while it is in `TIMER`.
    unsafe { libc::timer_settime(timer, 0, &raw const at, ptr::null_mut()) };
}

/// The instruction and the stack pointer that a signal has interrupted.
///
/// # Safety
/// `context` is what the kernel gave to a handler with SA_SIGINFO.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn interrupted_at(context: *mut c_void) -> (usize, usize) {
    // SAFETY: by the caller's word.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let register = |n: c_int| registers[n as usize].cast_unsigned() as usize;
    (register(libc::REG_RIP), register(libc::REG_RSP))
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn interrupted_at(_: *mut c_void) -> (usize, usize) {
    // No ranges are known on this machine, so there are no signals either.
    (0, 0)
}

/// Whether the current fiber may be suspended where a signal has interrupted it.
pub(crate) fn may_suspend(core: &Core, instruction: usize, stack_pointer: usize) -> bool {
    core.may_be_abandoned()
        && stack_pointer >= core.low_water()
        && stack_pointer < core.stack.end
        && text::is_safe(instruction, stack_pointer)
}

/// The slice is over, or was when the signal was asked for. Runs on the fiber's own stack.
///
/// The signal may come at any moment: also between the beginning of a slice and the switch to its fiber. While a slice is not
/// over, a signal is on its way whenever this returns.
unsafe extern "C" fn on_tick(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    IS_UNDER_WAY.set(false);
    let end = SLICE_END.get();
    if end == 0 {
        return;
    }
    // SAFETY: the errno of this OS thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let left = end.saturating_sub(now_ns());
    match preempt::current() {
        Some(core) if left == 0 => {
            core.pending.set(true);
            // SAFETY: the kernel gave the context to this handler.
            let (instruction, stack_pointer) = unsafe { interrupted_at(context) };
            if may_suspend(core, instruction, stack_pointer) {
                core.preempt_in_handler();
            } else {
                preempt::count_refused();
                again(0);
            }
        }
        _ => again(left),
    }
    // SAFETY: as above; a fiber stays on its OS thread.
    unsafe { *errno = before };
}

/// Asks for the next signal, in the handler of this one.
fn again(left_ns: u64) {
    IS_UNDER_WAY.set(true);
    arm(i64::try_from(left_ns).unwrap_or(NS_MAX).max(AGAIN_NS));
}

#[cfg(test)]
mod tests;

//! The fiber: a coroutine seen as a future.
//!
//! What must hold: a fiber that waits is never abandoned, since its future is linked into lists of the executor; it is resumed
//! and told to end. Only one that is preempted inside the engine is ([`crate::preempt`]). So its closure owns nothing while the
//! engine runs: it is kept in the fiber's own memory, on the side of whoever polls, and called by reference.
#![expect(unsafe_code, reason = "a coroutine refers to the memory of its fiber, see the safety notes")]

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomPinned;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use corosensei::{Coroutine, CoroutineResult};

use crate::ask::{Ask, Handle};
use crate::preempt::{self, Core, Out, TaskContext};
use crate::queue;
use crate::stack::{GUARD_BYTES, Stack};
use crate::tick;

/// Address space of a fiber's stack unless another is given: 1 MiB. Pages that are never touched cost nothing.
pub const DEFAULT_STACK_BYTES: usize = 1 << 20;

/// Why a script came to its end in the middle of the engine's work. Its interpreter is in an unknown state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Death {
    /// It was killed.
    #[error("killed")]
    Killed,
    /// It asked for more memory than it may have.
    #[error("out of memory")]
    Memory,
    /// It had no stack left.
    #[error("stack overflow in native code")]
    Stack,
    /// An assertion of the engine failed.
    #[error("an internal assertion of the JavaScript engine failed")]
    Assertion,
    /// The processor refused an instruction of the engine; the number of the signal.
    #[error("signal {0} in the JavaScript engine")]
    Fault(i32),
}

/// Why a fiber has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its closure panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// It was abandoned in the middle of the engine's work.
    #[error("{0}")]
    Dead(Death),
}

/// No stack could be had for a fiber.
#[derive(Debug, thiserror::Error)]
#[error(
    "no stack of {bytes} bytes for one more fiber: each takes two memory mappings of the process \
     (see vm.max_map_count): {source}"
)]
pub struct StackError {
    bytes: usize,
    source: io::Error,
}

/// The closure of a fiber panicked; the message of the panic.
#[derive(Debug, thiserror::Error)]
pub struct Panicked {
    message: String,
}

/// A closure that runs on a stack of its own, as a future of its result.
///
/// # Cancel safety
/// Dropped before its end, a fiber that is preempted is abandoned; any other is resumed with [`Ask::Kill`] until its closure has
/// returned or it can be abandoned, and the drop takes as long as that does.
pub struct Fiber<F: FnMut() -> T, T> {
    // Fields that the coroutine refers to stay where they are once it has begun: see `_pinned`.
    core: Core,
    f: F,
    result: Option<Result<T, Panicked>>,
    // None once it has come to its end.
    coroutine: Option<Coroutine<TaskContext, Out, Out, Stack>>,
    /// Until the first poll.
    stack: Option<Stack>,
    state: State,
    /// Its place in the lane's queue, from the first time that it is preempted.
    place: Option<queue::Place>,
    _pinned: PhantomPinned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NotBegun,
    Preempted,
    Waits,
    Ended,
}

impl<F: FnMut() -> T, T> Fiber<F, T> {
    /// Prepares `f` to run on a new stack of `stack_bytes` at the first poll. `handle` asks things of it. `f` is called once.
    ///
    /// # Errors
    /// When the system has no memory mapping left for the stack.
    pub fn new(handle: Handle, stack_bytes: usize, f: F) -> Result<Self, StackError> {
        let stack = Stack::new(stack_bytes).map_err(|source| StackError { bytes: stack_bytes, source })?;
        Ok(Self::on(stack, handle, f))
    }

    /// As [`Fiber::new`], on a stack that is there.
    #[must_use]
    pub fn on(stack: Stack, handle: Handle, f: F) -> Self {
        Self {
            core: Core::new(handle, stack.range(), GUARD_BYTES),
            f,
            result: None,
            coroutine: None,
            stack: Some(stack),
            state: State::NotBegun,
            place: None,
            _pinned: PhantomPinned,
        }
    }

    /// The engine's countdown to its interrupt hook: [`Fiber::hurry`] sets it to 1.
    ///
    /// # Safety
    /// It is a part of the interpreter that the closure enters, and nobody else's, for as long as the fiber lives.
    #[must_use]
    pub unsafe fn with_countdown(self, countdown: *mut i32) -> Self {
        self.core.countdown.set(countdown);
        self
    }

    /// True if it gave way in the middle of the engine's work, and goes on when its turn comes.
    #[must_use]
    pub fn is_preempted(&self) -> bool {
        self.state == State::Preempted
    }

    /// Has the engine call its interrupt hook at the next turn of a loop, or call of a function.
    pub fn hurry(&self) {
        let countdown = self.core.countdown.get();
        if !countdown.is_null() && self.state == State::Preempted {
            // SAFETY: by the word of `with_countdown`'s caller it leads into the interpreter, which nobody uses while this fiber
            // is suspended.
            unsafe { countdown.write_volatile(1) };
        }
    }

    /// Abandons the fiber as soon as it is preempted, which it is at the next end of a host call.
    pub fn kill(&self) {
        self.core.kill.set(true);
    }

    fn begin(self: Pin<&mut Self>) {
        // SAFETY: nothing is moved out of the fiber; what is taken is the stack, which is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let Some(stack) = this.stack.take() else { return };
        let fiber = ptr::from_mut(this);
        let body = move |yielder: &corosensei::Yielder<TaskContext, Out>, first: TaskContext| {
            // SAFETY: the fiber is pinned, and outlives its coroutine, which runs only while the fiber is being polled or dropped.
            // Whoever polls touches only the coroutine meanwhile, and cells of the core.
            unsafe {
                let core = &raw const (*fiber).core;
                (*core).yielder.set(yielder);
                (*core).context.set(Some(first.0));
                let f = &raw mut (*fiber).f;
                let result = panic::catch_unwind(AssertUnwindSafe(|| (*f)())).map_err(Panicked::new);
                (*fiber).result = Some(result);
            }
            Out::Done
        };
        // SAFETY: the closure captures a pointer to the fiber alone, which is alive for as long as the coroutine is resumed: the
        // fiber is pinned, so it is dropped before its memory is used for anything else, and its drop ends the coroutine.
        let coroutine = unsafe { Coroutine::with_stack_unchecked(stack, body) };
        this.core.trap.set(Some(coroutine.trap_handler()));
        this.coroutine = Some(coroutine);
    }

    fn resume(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Failure>> {
        if self.state == State::NotBegun {
            self.as_mut().begin();
        }
        // SAFETY: nothing is moved out of the fiber but its result, which is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let Some(coroutine) = this.coroutine.as_mut() else { return Poll::Pending };
        if this.core.handle.asked() == Ask::Kill {
            this.core.kill.set(true);
        }
        // One that is preempted may be abandoned, and is not resumed only to be killed.
        if this.state == State::Preempted && this.core.kill.get() {
            return this.end(Death::Killed);
        }
        // The lifetime is erased here and kept by hand: see `wait::poll`.
        let context = TaskContext(ptr::NonNull::from(context).cast());
        this.core.resumed_at.set(Instant::now());
        this.core.pending.set(false);
        tick::begin_slice();
        let out = preempt::as_current(&raw const this.core, || coroutine.resume(context));
        tick::end_slice();
        match out {
            CoroutineResult::Yield(Out::Preempted) => {
                this.state = State::Preempted;
                if this.core.kill.get() {
                    return this.end(Death::Killed);
                }
                Poll::Pending
            }
            CoroutineResult::Yield(Out::Waits) => {
                this.state = State::Waits;
                Poll::Pending
            }
            CoroutineResult::Yield(Out::Dead(death)) | CoroutineResult::Return(Out::Dead(death)) => {
                this.end(death)
            }
            _ => {
                this.coroutine = None;
                this.state = State::Ended;
                match this.result.take() {
                    Some(result) => Poll::Ready(result.map_err(Failure::Panicked)),
                    None => Poll::Pending,
                }
            }
        }
    }

    /// Abandons the coroutine.
    fn end(&mut self, death: Death) -> Poll<Result<T, Failure>> {
        self.state = State::Ended;
        if let Some(mut coroutine) = self.coroutine.take() {
            // SAFETY: it is preempted, or has died where it may, inside its one entry into the engine; below that no frame owns
            // anything, and no frame of the host is above it.
            unsafe { coroutine.force_reset() };
        }
        Poll::Ready(Err(Failure::Dead(death)))
    }
}

impl<F: FnMut() -> T, T> Future for Fiber<F, T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.core.handle.register(context.waker());
        // Woken for another reason than its turn: it goes on when that comes, unless it is to end.
        let has_turn = self.place.as_ref().is_none_or(|place| !place.is_taken());
        if self.state == State::Preempted
            && !has_turn
            && !self.core.kill.get()
            && self.core.handle.asked() < Ask::Interrupt
        {
            return Poll::Pending;
        }
        let poll = self.as_mut().resume(context);
        if poll.is_pending() && self.state == State::Preempted {
            // SAFETY: the place is not pinned.
            let place = unsafe { self.get_unchecked_mut() }.place.get_or_insert_default();
            place.take(context.waker());
        }
        poll
    }
}

impl<F: FnMut() -> T, T> Drop for Fiber<F, T> {
    fn drop(&mut self) {
        if matches!(self.state, State::NotBegun | State::Ended) {
            return;
        }
        self.core.handle.abandon();
        let mut context = Context::from_waker(Waker::noop());
        while self.coroutine.is_some() {
            // SAFETY: a fiber that has begun was pinned, and it is not moved before its memory goes.
            let _ = unsafe { Pin::new_unchecked(&mut *self) }.resume(&mut context);
        }
    }
}

impl<F: FnMut() -> T, T> fmt::Debug for Fiber<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fiber")
            .field("state", &self.state)
            .field("asked", &self.core.handle.asked())
            .finish_non_exhaustive()
    }
}

/// Runs `f` and catches its panic.
///
/// # Errors
/// The panic. Whatever `f` was in the middle of may be half done.
pub fn catch_panic<R>(f: impl FnOnce() -> R) -> Result<R, Panicked> {
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(Panicked::new)
}

impl Panicked {
    fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Self { message }
    }

    /// Goes on with the panic on this side.
    pub fn resume(self) -> ! {
        panic::resume_unwind(Box::new(self.message))
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "internal panic: {}", self.message)
    }
}

#[cfg(test)]
mod tests;

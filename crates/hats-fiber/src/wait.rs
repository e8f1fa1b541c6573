//! Waiting from inside a fiber.
//!
//! The OS thread keeps one pointer to the innermost fiber that runs on it. It is set while that fiber's own code runs
//! and only then: [`Scope::enter`] sets it at the start, [`outside`] clears it around every resume and every poll of a
//! future, and [`Current::suspend`] sets it again when it comes back.
#![expect(unsafe_code, reason = "two pointers are handed across a stack switch, see the safety notes")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use corosensei::Yielder;

use crate::ask::{Ask, Handle};
use crate::stack;

/// Why a wait came to its end without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Asked to end waits early ([`Ask::EndWaits`]); the fiber itself may run on.
    #[error("the wait was ended early")]
    Early,
    /// Asked to end the call in hand ([`Ask::Interrupt`] or [`Ask::Kill`]).
    #[error("the call was interrupted")]
    Interrupted,
}

/// Waits for `future`, giving the OS thread to others meanwhile. Outside a fiber it blocks the OS thread, and so does a
/// wait inside a future that is itself being polled: that future's poll has to return.
///
/// # Errors
/// [`Ended::Interrupted`] when the fiber is asked to end its call; the future is dropped unfinished.
pub fn wait<F: Future>(future: F) -> Result<F::Output, Ended> {
    wait_until(future, Ask::Interrupt)
}

/// As [`wait`], but also ends early when the fiber is asked to end its waits: for sleeps and blocking reads,
/// which a script that is being stopped should not sit out.
///
/// # Errors
/// [`Ended::Early`] or [`Ended::Interrupted`]; the future is dropped unfinished.
pub fn wait_ending<F: Future>(future: F) -> Result<F::Output, Ended> {
    wait_until(future, Ask::EndWaits)
}

/// As [`wait`], but to the future's own end whatever is asked meanwhile: for I/O that has to be seen through or has a
/// time limit of its own. The future is dropped unfinished only if the fiber is dropped.
///
/// # Errors
/// [`Ended::Interrupted`] when the fiber is being dropped.
pub fn wait_through<F: Future>(future: F) -> Result<F::Output, Ended> {
    let mut future = pin!(future);
    with_current(|current| {
        let Some(current) = current else {
            return Ok(block_thread(future));
        };
        loop {
            if current.scope().handle.borrow().is_abandoned() {
                return Err(Ended::Interrupted);
            }
            if let Poll::Ready(value) = current.poll(future.as_mut()) {
                return Ok(value);
            }
            current.suspend();
        }
    })
}

/// As [`wait`], but only [`Ask::Kill`] ends it: for what must not be lost while the fiber may still act on it.
///
/// # Errors
/// [`Ended::Interrupted`] when the fiber is killed; the future is dropped unfinished.
pub fn wait_unless_killed<F: Future>(future: F) -> Result<F::Output, Ended> {
    wait_until(future, Ask::Kill)
}

/// What the running fiber has been asked; [`Ask::Nothing`] outside a fiber.
#[must_use]
pub fn current_ask() -> Ask {
    with_current(|current| current.map_or(Ask::Nothing, |c| c.scope().handle.borrow().asked()))
}

/// How long the running fiber has kept the OS thread since it was last resumed; zero outside a fiber.
#[must_use]
pub fn running_for() -> Duration {
    with_current(|current| current.map_or(Duration::ZERO, |c| c.resumed_at.get().elapsed()))
}

/// When the running fiber got the OS thread; None outside a fiber.
#[must_use]
pub fn resumed_at() -> Option<Instant> {
    with_current(|current| current.map(|current| current.resumed_at.get()))
}

/// Gives the memory of stack that the running fiber has used and no longer uses back to the system, but for some pages
/// that it will soon need again. For after a beginning that goes much deeper than what follows. Does nothing outside a
/// fiber.
pub fn trim_stack() {
    with_current(|current| {
        if let Some(current) = current {
            stack::trim(current.scope().stack_limit);
        }
    });
}

/// The running fiber goes by another handle from now on: whoever has the one that it went by until now asks nothing of it
/// any more. So one fiber does one piece of work after another, each with a handle of its own. Returns the former one;
/// outside a fiber, the one that was given.
pub fn adopt(handle: Handle) -> Handle {
    with_current(|current| {
        let Some(current) = current else { return handle };
        // Whoever asks something through it right now has to wake us.
        let _ = current.poll(pin!(std::future::poll_fn(|context| {
            handle.register(context.waker());
            Poll::Ready(())
        })));
        let former = current.scope().handle.replace(handle);
        former.unregister();
        // Whoever drops the fiber waits for its end by whatever handle.
        if former.is_abandoned() {
            current.scope().handle.borrow().abandon();
        }
        former
    })
}

/// Waits until `future` is ready or at least `limit` is asked.
fn wait_until<F: Future>(future: F, limit: Ask) -> Result<F::Output, Ended> {
    let mut future = pin!(future);
    with_current(|current| {
        let Some(current) = current else {
            return Ok(block_thread(future));
        };
        loop {
            let asked = current.scope().handle.borrow().asked();
            if asked >= limit.max(Ask::Interrupt) {
                return Err(Ended::Interrupted);
            }
            if let Poll::Ready(value) = current.poll(future.as_mut()) {
                return Ok(value);
            }
            if asked >= limit {
                return Err(Ended::Early);
            }
            current.suspend();
        }
    })
}

/// A future that is awaited outside any fiber: tests and start-up code.
fn block_thread<F: Future>(mut future: std::pin::Pin<&mut F>) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

/// The task context of the poll that resumed a fiber, handed across the stack switch.
pub(crate) struct TaskContext(NonNull<Context<'static>>);

impl TaskContext {
    pub(crate) fn new(context: &mut Context<'_>) -> Self {
        // The lifetime is erased here and kept by hand: see `Current::poll`.
        Self(NonNull::from(context).cast())
    }
}

/// What stays the same for a fiber's whole life.
pub(crate) struct Scope<'a> {
    pub(crate) yielder: &'a Yielder<TaskContext, ()>,
    /// The one that the fiber goes by at present, which the fiber's owner knows too.
    pub(crate) handle: Rc<RefCell<Handle>>,
    /// The lowest address of the fiber's stack, guard page included.
    pub(crate) stack_limit: usize,
}

/// The innermost fiber that runs on this OS thread. It lives on that fiber's own stack.
struct Current {
    scope: NonNull<Scope<'static>>,
    context: Cell<NonNull<Context<'static>>>,
    resumed_at: Cell<Instant>,
}

thread_local! {
    // Invariant: Some only while the stack that holds the pointed-to `Current` is the active one and polls nothing.
    static CURRENT: Cell<Option<NonNull<Current>>> = const { Cell::new(None) };
}

impl Scope<'_> {
    /// Runs `f` as the body of the fiber, with this scope as the current one.
    pub(crate) fn enter<R>(self, first: TaskContext, f: impl FnOnce() -> R) -> R {
        let current = Current {
            scope: NonNull::from(&self).cast(),
            context: Cell::new(first.0),
            resumed_at: Cell::new(Instant::now()),
        };
        CURRENT.set(Some(NonNull::from(&current)));
        let result = f();
        CURRENT.set(None);
        result
    }
}

/// Runs `f`, which is not the fiber's own code, with no current fiber, and restores the caller's afterwards, also when
/// `f` panics.
pub(crate) fn outside<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(Option<NonNull<Current>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.take());
    f()
}

fn with_current<R>(f: impl FnOnce(Option<&Current>) -> R) -> R {
    let current = CURRENT.get();
    // SAFETY: by the invariant of `CURRENT` the pointer leads to a `Current` in a frame of `Scope::enter` of
    // the active stack. That frame cannot end while this call, which runs above it, goes on; while the stack
    // is suspended inside `f` nothing runs on it. The reference does not outlive `f`.
    f(current.map(|pointer| unsafe { pointer.as_ref() }))
}

impl Current {
    fn scope(&self) -> &Scope<'_> {
        // SAFETY: `scope` was made from the `Scope` that `enter` holds by value in the same frame as this
        // `Current`, so it lives at least as long as `self`. The returned lifetime is that of `self`.
        unsafe { self.scope.cast().as_ref() }
    }

    fn poll<F: Future>(&self, future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        let mut context = self.context.get();
        // SAFETY: the pointer came from the `&mut Context` of the `Fiber::resume` call that made this stack
        // the active one. That call is suspended below us until we suspend or return, so its borrow is alive
        // and unused; `suspend` replaces the pointer with the next resume's. No other reference is made
        // from it while this one lives, and the stack is not suspended: for that somebody would have to wait in
        // this fiber, and inside `outside` there is none. A nested fiber gets a context of its own.
        let context: &mut Context<'_> = unsafe { context.as_mut() };
        outside(|| future.poll(context))
    }

    fn suspend(&self) {
        // While suspended this fiber is not the current one: `outside` around the resume restores its
        // caller's, and `self` is put back here.
        let TaskContext(context) = self.scope().yielder.suspend(());
        self.context.set(context);
        self.resumed_at.set(Instant::now());
        CURRENT.set(Some(NonNull::from(self)));
    }
}

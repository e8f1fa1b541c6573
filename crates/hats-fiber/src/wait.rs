//! Waiting from inside a fiber.
//!
//! While a future is polled inside a fiber nothing may suspend that fiber: its poll has to return. A wait in there blocks the OS
//! thread, as one outside any fiber does.
#![expect(unsafe_code, reason = "the context of a poll is handed across a stack switch, see the safety note")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::ask::Ask;
use crate::preempt::{self, Core, Out};

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
            if current.handle.is_abandoned() {
                return Err(Ended::Interrupted);
            }
            if let Poll::Ready(value) = poll(current, future.as_mut()) {
                return Ok(value);
            }
            current.suspend(Out::Waits);
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
    with_current(|current| current.map_or(Ask::Nothing, |c| c.handle.asked()))
}

/// How long the running fiber has kept the OS thread since it was last resumed; zero outside a fiber.
#[must_use]
pub fn running_for() -> Duration {
    with_current(|current| current.map_or(Duration::ZERO, |c| c.resumed_at.get().elapsed()))
}

/// Waits until `future` is ready or at least `limit` is asked.
fn wait_until<F: Future>(future: F, limit: Ask) -> Result<F::Output, Ended> {
    let mut future = pin!(future);
    with_current(|current| {
        let Some(current) = current else {
            return Ok(block_thread(future));
        };
        loop {
            let asked = current.handle.asked();
            if asked >= limit.max(Ask::Interrupt) {
                return Err(Ended::Interrupted);
            }
            if let Poll::Ready(value) = poll(current, future.as_mut()) {
                return Ok(value);
            }
            if asked >= limit {
                return Err(Ended::Early);
            }
            current.suspend(Out::Waits);
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

/// Calls `f` with the running fiber, if it may suspend.
fn with_current<R>(f: impl FnOnce(Option<&Core>) -> R) -> R {
    f(preempt::current().filter(|core| !core.is_polling.get()))
}

fn poll<F: Future>(core: &Core, future: Pin<&mut F>) -> Poll<F::Output> {
    struct Polled<'a>(&'a Core);
    impl Drop for Polled<'_> {
        fn drop(&mut self) {
            self.0.is_polling.set(false);
        }
    }
    let Some(mut context) = core.context.get() else { return Poll::Pending };
    core.is_polling.set(true);
    let _polled = Polled(core);
    // SAFETY: the pointer came from the `&mut Context` of the poll that made this stack the active one. That poll is suspended
    // below us until we suspend or return, so its borrow is alive and unused; `Core::suspend` replaces the pointer with the next
    // one's. No other reference is made from it while this one lives, and the stack is not suspended meanwhile: no tick suspends
    // code of the host, and a wait in here is none of this fiber's. A nested fiber gets a context of its own.
    let context: &mut Context<'_> = unsafe { context.as_mut() };
    future.poll(context)
}

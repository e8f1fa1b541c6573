//! The fiber: a coroutine seen as a future.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult};

use crate::ask::Handle;
use crate::wait::{self, TaskContext};

/// Address space of a fiber's stack unless another is given: 1 MiB. Pages that are never touched cost nothing.
pub const DEFAULT_STACK_BYTES: usize = 1 << 20;

/// A closure that runs on a stack of its own, as a future of its result.
///
/// # Cancel safety
/// Dropping it before its end resumes it with [`crate::Ask::Kill`] until the closure returns; the drop takes as long
/// as that does.
pub struct Fiber<T: 'static> {
    // None once the closure has returned.
    coroutine: Option<Coroutine<TaskContext, (), Result<T, Panicked>>>,
    // The one that the fiber goes by at present: see `adopt`.
    handle: Rc<RefCell<Handle>>,
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

impl<T: 'static> Fiber<T> {
    /// Prepares `f` to run on a stack of `stack_bytes` at the first poll. `handle` asks things of it.
    ///
    /// # Errors
    /// When the system has no memory mapping left for the stack.
    pub fn new(
        handle: Handle,
        stack_bytes: usize,
        f: impl FnOnce() -> T + 'static,
    ) -> Result<Self, StackError> {
        let stack =
            DefaultStack::new(stack_bytes).map_err(|source| StackError { bytes: stack_bytes, source })?;
        let handle = Rc::new(RefCell::new(handle));
        let inner = handle.clone();
        let stack_limit = stack.limit().get();
        let coroutine = Coroutine::with_stack(stack, move |yielder, first: TaskContext| {
            let scope = wait::Scope { yielder, handle: inner, stack_limit };
            scope.enter(first, || panic::catch_unwind(AssertUnwindSafe(f)).map_err(Panicked::new))
        });
        Ok(Self { coroutine: Some(coroutine), handle })
    }

    /// The handle that this fiber goes by: the one that it was made with, or has adopted last.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.borrow().clone()
    }

    fn resume(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Panicked>> {
        let Some(coroutine) = self.coroutine.as_mut() else {
            return Poll::Pending;
        };
        let result = wait::outside(|| coroutine.resume(TaskContext::new(context)));
        match result {
            CoroutineResult::Yield(()) => Poll::Pending,
            CoroutineResult::Return(value) => {
                self.coroutine = None;
                Poll::Ready(value)
            }
        }
    }
}

impl<T: 'static> Future for Fiber<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.handle.borrow().register(context.waker());
        self.resume(context)
    }
}

impl<T: 'static> Drop for Fiber<T> {
    fn drop(&mut self) {
        // A closure that never began holds no frames and may simply be dropped with its coroutine.
        if self.coroutine.as_ref().is_none_or(|c| !c.started()) {
            return;
        }
        self.handle.borrow().abandon();
        let mut context = Context::from_waker(Waker::noop());
        while self.coroutine.is_some() {
            let _ = self.resume(&mut context);
        }
    }
}

impl<T: 'static> fmt::Debug for Fiber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fiber").field("asked", &self.handle.borrow().asked()).finish_non_exhaustive()
    }
}

/// Runs `f` and catches its panic, for a fiber that has other work after it.
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
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "internal panic: {}", self.message)
    }
}

#[cfg(test)]
mod tests;

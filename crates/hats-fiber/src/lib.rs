//! Fibers: synchronous code on a stack of its own that looks like a future from outside.
//!
//! A [`Fiber`] runs a closure on a coroutine stack. Inside it, [`wait`] drives a future and, where an
//! ordinary function would block the OS thread, suspends the whole stack (C frames of an interpreter
//! included) and lets the executor go on with something else. That is how ten thousand scripts that
//! each wait in a synchronous call share two OS threads.
//!
//! What must hold:
//! - A fiber is polled, and dropped, only on the OS thread that polled it first (it is `!Send`, so the
//!   compiler sees to it).
//! - A suspended stack is never thrown away: C frames cannot be unwound. A fiber that is dropped before
//!   its end is resumed with [`Ask::Kill`], upon which every wait in it returns an error at once, until the
//!   closure has returned.
//! - A panic in the closure never crosses the foot of the coroutine stack: it becomes [`Panicked`].
//!
//! This crate and hats-arena are the only homes of `unsafe` in the workspace.

mod ask;
mod fiber;
mod stack;
mod wait;

pub use crate::ask::{Ask, Handle};
pub use crate::fiber::{DEFAULT_STACK_BYTES, Fiber, Panicked, StackError, catch_panic};
pub use crate::wait::{
    Ended, adopt, current_ask, resumed_at, running_for, trim_stack, wait, wait_ending, wait_through,
    wait_unless_killed,
};

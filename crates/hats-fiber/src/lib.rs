//! Fibers: synchronous code on a stack of its own that looks like a future from outside.
//!
//! A [`Fiber`] runs a closure on a coroutine stack. Inside it, [`wait`] drives a future and, where an
//! ordinary function would block the OS thread, suspends the whole stack (C frames of an interpreter
//! included) and lets the executor go on with something else. That is how ten thousand scripts that
//! each wait in a synchronous call share two OS threads.
//!
//! A fiber that runs an interpreter can also be suspended, or given up, in the middle of the interpreter's work: at any
//! instruction of it where the lane has signals ([`attach`]), and at the end of each call that the interpreter makes of the host
//! ([`host`]).
//!
//! What must hold:
//! - A fiber is polled, and dropped, only on the OS thread that polled it first (it is `!Send`, so the
//!   compiler sees to it).
//! - A fiber that waits is never thrown away: it is resumed with [`Ask::Kill`], upon which every wait in it returns an error at
//!   once, until the closure has returned. One that is preempted is abandoned without unwinding, for which nothing below its
//!   entry into the engine ([`engine`]) may own anything, and no frame of the host may be above it.
//! - A panic in the closure never crosses the foot of the coroutine stack: it becomes [`Panicked`].
//!
//! This crate and hats-arena are the only homes of `unsafe` in the workspace.

mod ask;
mod crash;
mod fiber;
mod preempt;
mod queue;
mod stack;
mod text;
mod tick;
mod wait;

pub use crate::ask::{Ask, Handle};
pub use crate::fiber::{DEFAULT_STACK_BYTES, Death, Failure, Fiber, Panicked, StackError, catch_panic};
pub use crate::preempt::{
    Stats, count_nested, die, end_slice_when_due, engine, host, may_enter_engine, stats,
};
pub use crate::queue::{run as run_queue, turn};
pub use crate::stack::{GUARD_BYTES, Stack, trim_unused};
pub use crate::text::engine_is_at;
#[doc(hidden)]
pub use crate::tick::set_slice_of_tests;
pub use crate::tick::{Preemption, PreemptionError, Ticks, attach};
pub use crate::wait::{Ended, current_ask, running_for, wait, wait_ending, wait_through, wait_unless_killed};

//! Interpreters whose whole memory is one region that can be put back to how it was.
//!
//! An [`Interpreter`] is a QuickJS runtime with one context, whose heap and stack are one region of memory. It runs scripts
//! [as a fiber](Interpreter::enter), which may be preempted and may die at any instruction of the engine; its end, in order or
//! not, discards the region. One that is to be used again and again is *warmed up* (host functions defined, libraries and sources
//! evaluated or compiled), [sealed](Interpreter::seal), used for one piece of work, and [reset](Interpreter::reset): every byte that the engine can see is then as it was when it was sealed,
//! whatever scripts have done to it, for the price of comparing and copying some pages.
//!
//! ```text
//!  make ──► warm up ──► seal ──► work ──► reset ──► work ──► reset ──► …
//!                                  └► interrupted, out of memory, panicked, … ──► dropped, never reset
//! ```
//!
//! What must hold, and what sees to it:
//! - Everything that the engine owns comes from the region. It takes its memory from the functions that it is given alone; of
//!   what is static in its sources only the list of those who wait in `Atomics.wait` could ever lead into an interpreter, and
//!   that call is refused in all of them, as in a browser's main thread.
//! - A reset happens only while nobody is inside. [`Interpreter::with`] counts, and no reference to the engine outlives it.
//! - No value of Rust's leads to what was made after the seal, and none that was kept before it has been let go. Values are kept
//!   in a [`Kept`], which is counted. (`rquickjs::Persistent` is not; `clippy.toml` bans it elsewhere.)
//! - Nothing in the engine owns memory of Rust's: a reset would lose it, and a finalizer that ran before the reset would
//!   have freed what is there again after it. Host functions are numbers in a table that belongs to the interpreter
//!   ([`Native`]), which a reset cuts back to what it was; an object that stands for something of the host's is a
//!   [token](new_token) with a number. (`rquickjs::Function::new` and classes own such memory; `clippy.toml` bans them elsewhere.)
//! - A host function runs no JavaScript: what it reads and makes, it does by [`leaf`]. A function of the host that begins while
//!   another one runs, and an interrupt that is asked for meanwhile, are counted, and panic where they are tested.
//! - Hooks and the loader of modules are set before the seal: the engine has pointers to them. One that is set later
//!   [condemns](Interpreter::condemn) the interpreter.
//! - An interpreter that was interrupted, was refused memory, died or panicked is thrown away and never reset. Each of these is
//!   seen here.
//! - The engine is never torn down: every end discards its memory as a whole, and what Rust keeps of it is forgotten.
//! - An interpreter may be entered from any stack: each entry tells the engine where that one is.
//!
//! What a reset does not bring back, since it is no part of the engine: whatever host functions have done outside of it. And
//! what the engine took from the world when its context was made (the seed of `Math.random`, the origin of
//! `performance.now`) is the same after each reset: whoever warms an interpreter up has to put something else in its place.
//!
//! This crate and hats-fiber are the only homes of `unsafe` in the workspace.

// What `tests/fuzz` shares with the tests here names this crate as others do.
#[cfg(test)]
extern crate self as hats_arena;

mod arena;
mod compiled;
mod countdown;
pub mod entry;
mod heap;
mod hooks;
mod interpreter;
mod kept;
pub mod leaf;
mod library;
mod meter;
mod native;
mod region;

use hats_fiber::{Preemption, PreemptionError, Ticks};

pub use crate::compiled::{Compiled, compile};
pub use crate::hooks::{ModuleSource, ModuleText, RejectionTracker};
pub use crate::interpreter::{Error, Interpreter, Limits, Turn, Unfit};
pub use crate::kept::Kept;
pub use crate::library::Library;
pub use crate::meter::Meter;
pub use crate::native::{Invocation, Native, define_accessor, new_token};

/// Makes this OS thread one whose scripts are preempted, for as long as what is returned lives.
///
/// # Errors
/// With [`Preemption::Signals`], why there are no signals.
pub fn attach(preemption: Preemption) -> Result<Ticks, PreemptionError> {
    hats_fiber::engine_is_at(rquickjs::qjs::JS_NewRuntime2 as *const () as usize);
    countdown::find();
    hats_fiber::attach(preemption)
}

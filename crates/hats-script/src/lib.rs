//! The script runtime: JavaScript that looks synchronous, ten thousand scripts to a few OS threads.
//!
//! A [`Lanes`] is a set of OS threads, one per core. [`Lanes::spawn`] puts a closure on a fiber of one of them
//! and hands it a [`Vm`]: a QuickJS interpreter with the host modules (`console`, `env`, `worker`, `thread` or `job`
//! or `request` and `response`, `redis`, `http`, `fetch`, `sql`, timers, `sleep`). Code in the closure, and the script it calls, is written as if it
//! blocked; where it waits, the lane goes on with another script. [`Lanes::answer`] runs a [`Page`] for one request.
//!
//! What must hold:
//! - A `Vm` is made, used and dropped on one lane.
//! - Every effect of a script passes the lease gate ([`TaskControl::trusted_for`]) right before it happens.
//! - A script is asked to end, then interrupted, then killed. One that is killed in the middle of the engine's work ends there:
//!   its interpreter is discarded, and what it owned outside of it is dropped in order.
//! - No panic, no `unwrap` on anything that a script or a server can cause.
//!
//! This crate knows no cluster. What it needs of one it asks for through [`TaskControl`] and [`WorkerInfo`].

mod bundle;
pub mod egress;
mod error;
mod host;
mod lane;
mod limits;
mod log_limit;
pub mod metrics;
mod modules;
mod page;
pub mod span;
mod vm;

pub use hats_fiber::Preemption;

pub use crate::bundle::{Bundle, Import, Imports, Library, Unresolvable, imports, resolve, syntax_error};
pub use crate::error::{Error, ScriptError, Thrown};
pub use crate::host::{BoxFuture, JobInfo, Kind, TaskControl, WorkerInfo};
pub use crate::lane::{LaneStatus, Lanes, LanesConfig, ScriptHandle, ScriptTask, Weight};
pub use crate::limits::Limits;
pub use crate::modules::env::EnvOverlay;
#[cfg(feature = "http")]
pub use crate::modules::http;
#[cfg(feature = "redis")]
pub use crate::modules::redis;
#[cfg(feature = "sql")]
pub use crate::modules::sql;
pub use crate::page::{Page, PageRequest, PageResponse, is_handler};
pub use crate::vm::{Run, Vm, Wake};

/// The TypeScript declarations of what scripts can call, for editors and type checkers.
pub const TYPES: &str = include_str!("../hats.d.ts");

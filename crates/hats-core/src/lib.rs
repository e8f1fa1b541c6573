//! "Core" is the TOP crate: the facade that joins the others to a worker. Nothing below it may name it.
//!
//! [`Worker`] runs a worker inside any program; the `hats-worker` binary does nothing else. [`config`] says all that a
//! worker can be told. `worker` owns the order in which the parts start, `shutdown` that in which they stop.

pub mod admin;
pub mod bundle;
pub mod config;
pub mod endpoints;
mod error;
pub mod health;
pub mod jobs;
mod memory;
pub mod metrics;
mod registration;
mod shutdown;
mod typescript;
mod worker;
pub mod workers;

pub use crate::config::Config;
pub use crate::error::Error;
pub use crate::worker::{Builder, Stopped, Worker};
pub use hats_cluster::watchdog::HardStop;
pub use hats_script::TYPES;
/// The target of the spans of tasks: what is logged in one of them is of that task.
pub use hats_script::span::TARGET as TASK_SPANS;

//! Runs as JavaScript what the cluster has granted to this worker, and tells the cluster how it ended.
//!
//! The [`Scheduler`] takes the coordinator's events and keeps one supervisor per claim; a supervisor starts the
//! script on a lane, carries orders to it and answers for its end; a runner is the script's life as straight code.
//! Who owns what is decided below, in `hats-cluster`; how JavaScript runs is known below, in `hats-script`. This crate
//! is the only one that knows both.
//!
//! What must hold: at most one run of a thread in this process at any time, also when a lease was lost and the thread
//! is granted anew before the old run has ended.

mod call_log;
mod control;
pub mod cron;
mod error;
mod jobs;
pub mod metrics;
pub mod restart;
mod runner;
mod scheduler;
mod supervisor;

pub use crate::call_log::CallLog;
pub use crate::error::Error;
pub use crate::scheduler::{Config, Drained, Scheduler, Why};

//! The whole-system tests, one binary made of modules: real worker processes, a real redis-server for each test.
//!
//! With `HATS_SOAK=1` the tests of single ownership and takeover run their long forms (`just soak`), the random walk
//! for `HATS_SOAK_MINUTES` (10). With `HATS_KEEP=DIR` the directories of failed tests are kept there.

mod bad_scripts;
mod balance;
mod blpop;
mod embedded;
mod endpoint_files;
mod endpoints;
mod examples;
mod health;
mod http;
mod job_load;
mod jobs;
mod killers;
mod layering;
mod leaks;
mod lifecycle;
mod limits;
mod logs;
mod metrics;
mod modules;
mod poison;
mod preload;
mod real_input;
mod single_ownership;
mod sql;
mod subcommands;
mod takeover;
mod ticks;
mod types;

use std::env;
use std::time::Duration;

/// Whether the long forms are asked for.
fn is_soak() -> bool {
    env::var("HATS_SOAK").is_ok_and(|value| value == "1")
}

/// How long the random walk goes on.
fn soak_minutes() -> Duration {
    let minutes = env::var("HATS_SOAK_MINUTES").ok().and_then(|value| value.parse().ok()).unwrap_or(10);
    Duration::from_secs(60 * minutes)
}

//! The kit of the whole-system tests: workers as real processes, a private redis-server for each test, faults
//! between them, and a checker that reads what the workers did.
//!
//! What must always hold:
//! - nothing relies on a port, a path or a server that was there before: every server listens on a free loopback port
//!   and lives in a temporary directory of its test;
//! - every child ends with the test that started it, however the test ends;
//! - waiting is for an event, with a generous bound after which the test fails and prints the logs of its workers;
//! - instants are read from CLOCK_BOOTTIME, the clock that all processes of one host share and nobody can step.
//!
//! Read in this order: [`lab`] (one test's room), [`redis`], [`worker`], [`proxy`] (faults on the wire), [`cluster`]
//! (some workers and their threads), [`history`] (what happened, and whether it was allowed to).

pub mod clock;
pub mod cluster;
pub mod health;
pub mod history;
pub mod lab;
pub mod npm;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod resp;
pub mod takeover;
pub mod ticks;
pub mod web;
pub mod worker;

pub use lab::Lab;

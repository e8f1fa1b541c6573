//! What the workers of a HATS cluster share: records in Redis, sessions, claims, ticks. No JavaScript here.
//!
//! Reading order: names and records say what there is, `lease` and `clock` what may be trusted and for how long,
//! `store` what can be done to Redis in one step, `session` and `watchdog` how a worker stays alive or ends in time,
//! `watch` how it learns of changes, `coordinator` what it makes of all that.
//!
//! Two look-alikes: a [`lease::Lease`] is how long this worker may trust its session; a claim ([`records`]) is what
//! Redis says about who owns one thread. The claim names the session, so staying alive costs nothing per thread. A run of
//! a job is the same for one tick: granted once, under a session, until its end is told.

pub mod id;
pub mod name;
pub mod records;

pub mod clock;
pub mod lease;

pub mod address;
pub mod config;
pub mod error;

pub mod rank;

pub mod admin;
pub mod keys;
pub mod labels;
pub mod store;

pub mod metrics;
mod observe;
mod session;
pub mod watchdog;

pub mod coordinator;
mod watch;

pub use crate::config::Config;
pub use crate::coordinator::{
    Admission, Condition, EndpointFeed, EndpointNews, Event, Grant, Handle, Links, Release, SetAside,
    StopReason, start,
};
pub use crate::error::Error;

//! What is counted of scripts: calls of `main()`, heap, and what they ask of Redis, of HTTP servers and of databases.
//!
//! ```text
//!  lane 0: LaneMetrics ─┐
//!  lane 1: LaneMetrics ─┼─► Metrics ── read ──► Reading (plain data, for whoever publishes it)
//!  http, sql: Calls ────┘
//! ```
//!
//! What must hold:
//! - To count takes no lock, and where there are millions in a second no locked instruction and no look at a clock that
//!   would not be looked at anyway: what one lane alone counts it just writes.
//! - Things are told apart by a few words of ours, never by the name of a task, a key, a host or a database. So there is as
//!   much to read with ten thousand scripts as with one.
//! - Whoever reads asks no lane: what is read is what is there.

mod histogram;
#[cfg(feature = "http")]
mod http;
mod lane;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sql")]
mod sql;

use std::sync::Arc;

use crate::lane::LanesConfig;

pub use self::histogram::{Distribution, Histogram};
#[cfg(feature = "http")]
pub(crate) use self::http::{HttpCalls, HttpOutcome};
pub(crate) use self::lane::LaneMetrics;
#[cfg(feature = "redis")]
pub(crate) use self::redis::{Answered, Command};
#[cfg(feature = "sql")]
pub(crate) use self::sql::{SqlCalls, SqlDatabase, SqlFailure};

/// The counters of a worker's scripts. Cheap to clone; it keeps no lane alive.
#[derive(Clone)]
pub struct Metrics {
    lanes: Arc<[Arc<LaneMetrics>]>,
    #[cfg(feature = "http")]
    http: Option<Arc<HttpCalls>>,
    #[cfg(feature = "sql")]
    sql: Option<Arc<SqlCalls>>,
}

/// What the counters show at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// Calls of `main()` of threads that have ended.
    pub main_calls: Distribution,
    /// Bytes of heap that interpreters have in use, by the kind of task.
    pub heap: Vec<(&'static str, usize)>,
    /// Commands to Redis that have come to an end, by name; rare ones are one.
    pub redis: Vec<Calls>,
    /// HTTP requests that have come to an end, by what they came to.
    pub http: Vec<Calls>,
    /// Statements that have come to an end, by the kind of database.
    pub sql: Vec<Calls>,
    /// By how much lanes came late to timers of their own.
    pub lateness: Distribution,
    /// Scripts that died in the middle of the engine's work, by the reason.
    pub deaths: Vec<(&'static str, u64)>,
    /// Log lines of scripts that were dropped because their task logged too many.
    pub log_lines_dropped: u64,
    /// One for each lane.
    pub lanes: Vec<LaneReading>,
}

/// Calls of one sort.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Calls {
    /// Which sort.
    pub what: &'static str,
    /// How long each took, those that failed included.
    pub durations: Distribution,
    /// How many failed, by the reason.
    pub errors: Vec<(&'static str, u64)>,
}

/// One lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneReading {
    /// Interpreters that are warmed up and wait for a request or a run.
    pub warm_interpreters: usize,
    /// Bytes of memory that these take.
    pub warm_bytes: usize,
    /// How many bytes they may take.
    pub warm_bytes_max: usize,
    /// Preemptions of scripts by a signal, at some instruction of the engine.
    pub preempted_at_instructions: u64,
    /// Preemptions of scripts at the end of a host call.
    pub preempted_at_host_ends: u64,
    /// Signals that came where a script cannot be suspended, and were repeated.
    pub refused_ticks: u64,
    /// Entries into the engine above a host function: 0 unless a host function has a defect.
    pub nested_entries: u64,
}

impl Calls {
    /// Calls of one sort, for whoever counts some.
    #[must_use]
    pub fn new(what: &'static str, durations: Distribution, errors: Vec<(&'static str, u64)>) -> Self {
        Self { what, durations, errors }
    }

    #[cfg(feature = "redis")]
    fn add(&mut self, other: &Self) {
        self.durations.add(&other.durations);
        for ((_, count), (_, more)) in self.errors.iter_mut().zip(&other.errors) {
            *count += more;
        }
    }
}

impl Metrics {
    #[cfg_attr(
        not(any(feature = "http", feature = "sql")),
        expect(unused_variables, reason = "there is nothing beside the lanes")
    )]
    pub(crate) fn new(lanes: Vec<Arc<LaneMetrics>>, config: &LanesConfig) -> Self {
        Self {
            lanes: lanes.into(),
            #[cfg(feature = "http")]
            http: config.http.as_ref().map(|client| client.calls().clone()),
            #[cfg(feature = "sql")]
            sql: config.sql.as_ref().map(|databases| databases.calls().clone()),
        }
    }

    /// What there is to be read now. Counters of one moment may be a few calls apart.
    #[must_use]
    pub fn read(&self) -> Reading {
        let mut main_calls = LaneMetrics::no_main_calls();
        let mut lateness = LaneMetrics::no_lateness();
        for lane in &*self.lanes {
            main_calls.add(&lane.main_calls.read());
            lateness.add(&lane.lateness.read());
        }
        let kinds = LaneMetrics::KINDS.iter().enumerate();
        let heap = kinds.map(|(kind, name)| {
            (*name, self.lanes.iter().map(|lane| lane.heap[kind].bytes()).sum::<usize>())
        });
        Reading {
            main_calls,
            heap: heap.collect(),
            redis: self.redis(),
            #[cfg(feature = "http")]
            http: self.http.as_ref().map(|calls| calls.read()).unwrap_or_default(),
            #[cfg(not(feature = "http"))]
            http: Vec::new(),
            #[cfg(feature = "sql")]
            sql: self.sql.as_ref().map(|calls| calls.read()).unwrap_or_default(),
            #[cfg(not(feature = "sql"))]
            sql: Vec::new(),
            lateness,
            deaths: LaneMetrics::deaths(&self.lanes),
            log_lines_dropped: self.lanes.first().map_or(0, |lane| lane.log_limit.dropped()),
            lanes: self.lanes.iter().map(|lane| lane.read()).collect(),
        }
    }

    #[cfg(feature = "redis")]
    fn redis(&self) -> Vec<Calls> {
        let mut lanes = self.lanes.iter().map(|lane| lane.redis.read());
        let mut all = lanes.next().unwrap_or_default();
        for lane in lanes {
            all.iter_mut().zip(&lane).for_each(|(all, lane)| all.add(lane));
        }
        all
    }

    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_self, reason = "as with Redis")]
    fn redis(&self) -> Vec<Calls> {
        Vec::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

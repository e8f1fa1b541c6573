//! How well a worker is: what the system says of CPU and memory, whether that is too much, and the HTTP port that answers
//! for it. It knows no cluster and no scripts: what else counts for readiness, and the metrics, are handed in.
//!
//! ```text
//!  readings (what the system says) ─► threshold (pure: over, good) ─► monitor (every interval) ─► watch channel of Health
//!                                                                     server (GET /, /livez, /readyz, /metrics) ◄── caller
//! ```
//!
//! Two look-alikes: [`Health`] is what the readings say; [`Readiness`] is what the port answers, of which health is one
//! part among others.

pub mod readings;
pub mod threshold;

pub mod monitor;
pub mod probe;
pub mod server;

pub use crate::monitor::{Health, Monitor};
pub use crate::readings::{Meter, Readings};
pub use crate::server::{Check, Readiness};
pub use crate::threshold::{CpuThreshold, Thresholds};

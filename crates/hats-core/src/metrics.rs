//! Metrics in the text format of Prometheus.
//!
//! ```text
//!  rare events: the crates below ─► recorder of the process (`install`) ──────────────────┐
//!  each call: counters of the lanes and of endpoints ─► readings ─► `scripts` ─► `text` ──┴─► /metrics
//! ```
//!
//! The crates below count where things happen; [`install`] makes the recorder that keeps the counts, for the whole
//! process, and is for whoever owns that process. What must hold: durations are bounded in memory, so somebody has to
//! look after them every few seconds ([`Metrics::upkeep`], which a worker does).

mod scripts;
mod text;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::Error;

pub(crate) use self::scripts::{of_endpoints, of_scripts};
pub(crate) use self::text::Text;

/// Bounds of the buckets of all durations, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The counts of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    log_lines_dropped: Option<fn() -> u64>,
}

/// Makes the recorder of this process. Before any worker is started: what has been counted already is not counted.
///
/// # Errors
/// [`Error::System`] when there is one already.
pub fn install() -> Result<Metrics, Error> {
    let wrong = |error: String| Error::System(format!("metrics: {error}"));
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .map_err(|error| wrong(error.to_string()))?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| wrong(error.to_string()))?;
    hats_cluster::metrics::describe();
    hats_scheduler::metrics::describe();
    Ok(Metrics { handle, log_lines_dropped: None })
}

impl Metrics {
    /// With `hats_log_lines_dropped_total`: lines that whoever writes the log has dropped since the start.
    #[must_use]
    pub fn with_log_lines_dropped(self, read: fn() -> u64) -> Self {
        Self { log_lines_dropped: Some(read), ..self }
    }

    /// All of it, as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Text::default();
        if let Some(read) = self.log_lines_dropped {
            let help = "Log lines that were dropped because standard error was not read in time.";
            text.counter("hats_log_lines_dropped_total", help).count(&[], read());
        }
        text.into_string() + &self.handle.render()
    }

    /// Sorts what was measured into its buckets.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests;

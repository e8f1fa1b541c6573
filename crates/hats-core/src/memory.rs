//! What memory may be used for. `--memory-budget`: above it this worker takes no new threads, and below it again it does.
//!
//! ```text
//!  hats-health (what the system says) ─► budget (pure: open or refused) ─► watch channel ─► coordinator, the worker's row
//! ```
//!
//! What must hold: what runs is left alone, whatever memory is in use; a system that does not say how much that is
//! refuses nothing; a refusal says what is in use, what the budget is, and is logged once when it begins and once when
//! it ends.

mod budget;
mod warm;

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use hats_cluster::Admission;
use hats_health::Meter;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use self::budget::Budget;
use crate::config::{Config, MemoryBudget};

/// Between two looks. A cold worker takes thousands of threads in a second, and must notice in time what they use.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Bytes of interpreters that each of so many lanes keeps warmed up.
pub(crate) fn warm_bytes(config: &Config, lanes: usize) -> usize {
    warm::of_each_lane(config, lanes, Meter::new(&config.system_root).memory())
}

/// Says whether new threads may be taken.
pub(crate) struct MemoryGate {
    budget: Option<Budget>,
    meter: Meter,
    admission: watch::Sender<Admission>,
}

impl MemoryGate {
    /// Has taken its first look when it returns, so that a worker that starts above its budget takes nothing.
    pub(crate) fn new(budget: Option<MemoryBudget>, root: &Path) -> Self {
        let (admission, _) = watch::channel(Admission::Open);
        let mut gate = Self { budget: budget.map(Budget::new), meter: Meter::new(root), admission };
        if gate.budget.is_some() && !gate.look() {
            tracing::warn!("memory in use cannot be read here: the memory-budget has no effect");
            gate.budget = None;
        }
        gate
    }

    /// Where the answer is, now and whenever it changes.
    pub(crate) fn admission(&self) -> watch::Receiver<Admission> {
        self.admission.subscribe()
    }

    /// Looks again and again.
    ///
    /// # Cancel safety
    /// Dropped, the last answer stays.
    pub(crate) async fn run(&mut self) -> Infallible {
        let mut turns = tokio::time::interval(LOOK_EVERY);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.look();
        }
    }

    /// False if there was nothing to see.
    fn look(&mut self) -> bool {
        let Some(budget) = &mut self.budget else { return true };
        let Some(reading) = self.meter.memory() else { return false };
        if let Some(admission) = budget.decide(&reading) {
            match &admission {
                Admission::Open => {
                    tracing::info!("takes new threads again: memory in use is below the budget")
                }
                Admission::Refused(why) => tracing::warn!(
                    "takes no new threads: {why}; to raise it, set --memory-budget or give the worker more memory"
                ),
            }
            self.admission.send_replace(admission);
        }
        true
    }
}

//! What comes round: everything that is due at a time and not at a message.

use std::time::Duration;

use super::{CLAIMS_MAX, COALESCE, Coordinator, POLL_OURS, ROW_EVERY, SLOW_ROUND, Watching};
use crate::clock::BootInstant;
use crate::coordinator::table::{Known, Mine};
use crate::metrics;

/// Each thread that we own is checked once in this.
const CHECK_ROUND: Duration = Duration::from_secs(30);
/// Without a watch everything else is looked for this often.
const POLL_REST: Duration = Duration::from_secs(5);
/// Without a watch and with no more threads than this, everything is polled as often as what is ours.
const POLL_FEW: usize = 500;
/// The pause before a sweep is at least so many times as long as the last sweep.
const SWEEP_PAUSE: u32 = 10;
/// The loop comes round at least this often.
const TURN_MAX: Duration = Duration::from_millis(500);

impl Coordinator {
    pub(super) fn turn(&mut self, now: BootInstant) {
        if now >= self.sample_at {
            self.sample(now);
        }
        self.bury_due(now);
        if now >= self.row_at {
            self.row_at = now + ROW_EVERY;
            self.write_row();
        }
        if now >= self.sweep_at && !self.sweeping {
            self.sweep(now);
        }
        if self.watching == Watching::Polled && now >= self.poll_at {
            self.poll(now);
        }
        if now >= self.turn_at {
            self.turn_at = now + TURN_MAX;
            self.gauge(now);
            self.poison_turn(now);
            self.check_some(now);
        }
        if now >= self.slow_at {
            self.slow_at = now + SLOW_ROUND;
            let others = self.table.names(|thread| thread.mine.is_none());
            self.dirty_claims.extend(others);
            let owned = self.table.names(|thread| thread.owned().is_some());
            self.dirty_definitions.extend(owned);
            self.flush_soon();
        }
        if self.has_gathered() {
            // What came while the last request of its kind was under way has nobody else to remind us of it.
            let at = *self.flush_at.get_or_insert(now + COALESCE);
            if now >= at {
                self.flush();
            }
        }
        self.balance(now);
        self.claim_due(now);
        self.publish_peers(now);
    }

    pub(super) fn until_next(&self, now: BootInstant) -> Duration {
        let claims = if self.can_claim(now) && self.claims_under_way < CLAIMS_MAX {
            self.table.next_due()
        } else {
            None
        };
        let flush = if self.has_gathered() { self.flush_at } else { None };
        [
            claims,
            flush,
            self.observer.next_due(|id| self.is_named(id)),
            Some(self.sample_at),
            Some(self.row_at),
            Some(self.turn_at),
            self.close_at,
        ]
        .into_iter()
        .flatten()
        .map(|at| at.saturating_duration_since(now))
        .fold(TURN_MAX, Duration::min)
        .max(Duration::from_millis(1))
    }

    fn gauge(&mut self, now: BootInstant) {
        let age = self.opened_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        metrics::SESSION_AGE.set(age.as_secs_f64());
        let (owned, mine) = (self.table.owned_len(), self.table.mine_len());
        metrics::THREADS_OWNED.set(owned as f64);
        metrics::THREADS_CHANGING.set(mine.saturating_sub(owned) as f64);
        metrics::THREADS_DUE.set(self.runnable.count as f64);
    }

    /// Still ours? Everything we own, spread over a round.
    fn check_some(&mut self, now: BootInstant) {
        if now >= self.check_round_at {
            self.check_round_at = now + CHECK_ROUND;
            self.to_check = self.table.names(|thread| thread.owned().is_some()).into();
            let turns = (CHECK_ROUND.as_millis() / TURN_MAX.as_millis()).max(1) as usize;
            self.checks_per_turn = self.to_check.len().div_ceil(turns.saturating_sub(2).max(1));
        }
        for _ in 0..self.checks_per_turn {
            let Some(name) = self.to_check.pop_front() else { return };
            if self.table.get(&name).is_some_and(|thread| thread.owned().is_some()) {
                self.read_claim(name);
            }
        }
    }

    /// Nobody tells us what changes: look.
    pub(super) fn poll(&mut self, now: BootInstant) {
        self.poll_at = now + POLL_OURS;
        let owned = self.table.names(|thread| thread.owned().is_some());
        self.dirty_definitions.extend(owned);
        self.dirty_rows.insert(self.config.worker_name.clone());
        self.flush_soon();
        let few = self.table.runnable() <= POLL_FEW;
        let rest_every = if few { POLL_OURS } else { POLL_REST };
        self.sweep_at = self.sweep_at.min(now + rest_every.max(self.sweep_took * SWEEP_PAUSE));
    }

    /// After a gap anything may have changed.
    pub(super) fn look_at_everything(&mut self) {
        self.sweep_at = BootInstant::now();
        for name in self.table.names(|_| true) {
            let thread = self.table.entry(&name);
            match &thread.mine {
                None => {
                    if thread.definition != Known::Disabled {
                        thread.definition = Known::Unknown;
                    }
                    thread.malformed = false;
                    self.dirty_claims.insert(name);
                }
                // A Redis that came back may have lost our last claims, and others may have what we run.
                Some(Mine::Owned(_)) => {
                    self.dirty_claims.insert(name);
                }
                Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => {
                    thread.stale_claim = true;
                    thread.stale_definition = true;
                }
            }
        }
        let to_read = self.table.names(|thread| {
            thread.owned().is_some()
                || thread.is_off()
                || thread.claim.as_ref().is_some_and(|claim| claim.session.is_none())
        });
        self.dirty_definitions.extend(to_read);
        self.dirty_rows.insert(self.config.worker_name.clone());
        self.flush_soon();
    }
}

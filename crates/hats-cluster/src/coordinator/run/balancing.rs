//! Giving threads away: for even shares, and because this worker is not healthy.
//!
//! A thread is stopped in good order, `cleanup()` included, and released with a preference for the one who is to have it.
//! What must hold: no more than a few are on their way at any time, and nothing is given away where nobody would take it. Who
//! becomes critical therefore hears first how its peers are now: what has come over it may have come over all.

use std::time::Duration;

use tracing::{info, warn};

use super::Coordinator;
use crate::clock::BootInstant;
use crate::coordinator::table::{Known, Thread};
use crate::coordinator::{Admission, StopReason};
use crate::id::SessionId;
use crate::name::TaskName;

/// Shares are compared this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So many threads may be on their way at once, or this part of what is owned if that is more.
const UNDER_WAY_MAX: usize = 25;
const UNDER_WAY_PART: usize = 20;
/// A worker that is not healthy gives this part of what it owns away at each look: what made it so may pass with it.
const SHED_PART: usize = 40;
/// A thread that has been free for so long is one that nobody else takes.
const WAITED_LONG: Duration = Duration::from_secs(2);
/// A worker that is critical and alone says so this often.
const ALONE_SAID_EVERY: Duration = Duration::from_secs(60);
/// After somebody has left, or this worker was given what was another's, so long passes before shares are compared: by then
/// all have told what they have now. Who compares sooner gives away what another is about to give to it.
const CALM_AFTER: Duration = Duration::from_secs(3);

/// When shares may be compared again after something has changed who has what.
pub(super) fn calm_at() -> BootInstant {
    BootInstant::now() + CALM_AFTER
}

impl Coordinator {
    pub(super) fn balance(&mut self, now: BootInstant) {
        if now < self.balance_at {
            return;
        }
        self.balance_at = now + LOOK_EVERY;
        let table = &self.table;
        self.moves.retain(|name, _| table.get(name).is_some_and(|thread| thread.mine.is_some()));
        let Some(own) = self.lease.as_ref().filter(|lease| lease.is_trusted()) else { return };
        let own = own.session().clone();
        if self.draining || now < self.settling.over() {
            return;
        }
        match self.condition.critical.clone() {
            Some(why) if self.has_ready_peer(now) => self.shed(now, &own, &why),
            Some(why) if now >= self.alone_said_until => {
                self.alone_said_until = now + ALONE_SAID_EVERY;
                warn!(reason = %why, "this worker is critical, and there is no healthy one: it keeps what it has and goes on");
            }
            Some(_) => {}
            None if self.admission == Admission::Open => {
                self.make_room(now, &own);
                self.even_out(now, &own);
            }
            // What it owns it keeps.
            None => {}
        }
    }

    fn room(&self) -> usize {
        UNDER_WAY_MAX.max(self.table.owned_len() / UNDER_WAY_PART).saturating_sub(self.moves.len())
    }

    fn even_out(&mut self, now: BootInstant, own: &SessionId) {
        if now < self.calm_at {
            return;
        }
        let members = self.members(now);
        let mut room = self.room();
        let mut moves: Vec<(TaskName, SessionId)> = Vec::new();
        for (to, count) in members.moves(own) {
            let free = self.stoppable().filter(|(name, _)| !moves.iter().any(|(moved, _)| moved == *name));
            let best = members.best_for(&to, free);
            let chosen: Vec<_> =
                best.into_iter().take(count.min(room)).map(|name| (name.clone(), to.clone())).collect();
            room -= chosen.len();
            moves.extend(chosen);
        }
        if !moves.is_empty() {
            info!(threads = moves.len(), "given to others for even shares");
        }
        self.hand_over(moves);
    }

    /// Full of threads that could run anywhere, while one that requires what this worker offers runs nowhere: as many of
    /// the former go.
    fn make_room(&mut self, now: BootInstant, own: &SessionId) {
        if self.config.capacity.threads_max.is_none_or(|most| self.table.mine_len() < most) {
            return;
        }
        if self.config.capacity.labels.is_empty() {
            return;
        }
        let waits = |thread: &Thread| {
            let free = thread.claim.as_ref().is_some_and(|claim| claim.session.is_none());
            let long =
                thread.free_since.is_some_and(|since| now.saturating_duration_since(since) > WAITED_LONG);
            thread.mine.is_none() && free && long && !thread.is_off()
        };
        // What nobody has tried to claim here has not been read.
        for name in self.table.names(|thread| waits(thread) && thread.definition == Known::Unknown) {
            self.read_definition(name);
        }
        let offered = &self.config.capacity.labels;
        let waiting = self
            .table
            .iter()
            .filter(|(_, thread)| waits(thread) && !thread.requires.is_empty())
            .filter(|(_, thread)| offered.offer(&thread.requires));
        let count = waiting.count().saturating_sub(self.moves.len()).min(self.room());
        if count == 0 {
            return;
        }
        let members = self.members(now);
        let moves: Vec<_> = self
            .stoppable()
            .filter(|(_, requires)| requires.is_empty())
            .filter_map(|(name, requires)| {
                let to = members.successor(name, requires, own)?;
                members.may_take(to).then(|| (name.clone(), to.clone()))
            })
            .take(count)
            .collect();
        if !moves.is_empty() {
            info!(threads = moves.len(), "given to others, to make room for what only runs here");
        }
        self.hand_over(moves);
    }

    fn shed(&mut self, now: BootInstant, own: &SessionId, why: &str) {
        let count = self.table.owned_len().div_ceil(SHED_PART).min(self.room());
        let members = self.members(now);
        let weights = (self.config.weigh)();
        let mut heaviest: Vec<(u64, &TaskName, SessionId)> = self
            .stoppable()
            .filter_map(|(name, requires)| {
                let to = members.successor(name, requires, own)?;
                if !self.observer.has_spoken_since(to, self.condition_since) {
                    return None;
                }
                Some((weights.get(name).copied().unwrap_or(0), name, to.clone()))
            })
            .collect();
        heaviest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let moves: Vec<_> =
            heaviest.into_iter().take(count).map(|(_, name, to)| (name.clone(), to)).collect();
        if !moves.is_empty() {
            warn!(reason = %why, threads = moves.len(), "this worker is critical: given to healthy ones");
        }
        self.hand_over(moves);
    }

    /// What runs here and has not been asked to stop.
    fn stoppable(&self) -> impl Iterator<Item = (&TaskName, &crate::labels::Labels)> {
        self.table.mine().filter_map(|name| {
            let thread = self.table.get(name)?;
            thread.owned().filter(|owned| owned.stop.is_none())?;
            Some((name, &thread.requires))
        })
    }

    fn hand_over(&mut self, moves: Vec<(TaskName, SessionId)>) {
        crate::metrics::MOVES.increment(moves.len() as u64);
        for (name, to) in moves {
            self.ask_to_stop(&name, StopReason::Relocated);
            self.moves.insert(name, to);
        }
    }
}

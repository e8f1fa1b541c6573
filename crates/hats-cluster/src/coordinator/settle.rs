//! How long a worker with a new session leaves free threads alone, so that workers that open theirs at about the same
//! time, or come back together, see each other before they share: pure, given `now`.
//!
//! ```text
//!   opened ──▶ nothing ──FIRST_LOOK, alone──▶ a few ──settle──▶ all
//!                 └────── peers seen ─────────────────settle──▶ all
//! ```
//!
//! What must always hold:
//! * Workers that see each other settle at the same instant: `settle` after the first of them has opened.
//! * A worker that sees nobody need not wait with a few threads. It waits with the rest, since others may be starting.
//! * It is a matter of even shares only. Who may claim is decided in Redis.

use std::time::Duration;

use crate::clock::BootInstant;

/// Who has not seen anybody by then counts as alone; a joiner has seen its peers.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// So many threads a worker may take before it has settled, if it is alone.
pub(super) const FEW: usize = 8;

/// How much may be claimed by rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Nothing,
    Few,
    All,
}

/// The time after a session was opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settling {
    settle: Duration,
    opened: BootInstant,
    /// All may be claimed from then on.
    over: BootInstant,
    /// A session of ours was lost before: the others may be coming back as well.
    again: bool,
    alone: bool,
}

impl Settling {
    /// Before the first session.
    pub(super) fn new(settle: Duration) -> Self {
        let never = BootInstant::default();
        Self { settle, opened: never, over: never, again: false, alone: false }
    }

    /// A session was opened. `peers`: others were there under the session before, if there was one.
    pub(super) fn opened(&mut self, now: BootInstant, peers: Option<bool>) {
        self.opened = now;
        self.again = peers.is_some();
        self.alone = false;
        // Who was alone and comes back has nobody to wait for.
        self.over = if peers == Some(false) { now } else { now + self.settle };
    }

    /// The sessions were looked at. `ages`: how long ago each of the others that live and take threads was opened.
    pub(super) fn looked(&mut self, now: BootInstant, ages: impl Iterator<Item = Duration>) {
        let oldest = ages.max();
        self.alone = oldest.is_none() && now >= self.first_look();
        if let Some(oldest) = oldest
            && !self.again
        {
            // It has waited for this long already; whoever is older waits for nobody.
            let over = (now + self.settle.saturating_sub(oldest)).max(self.first_look());
            self.over = self.over.min(over);
        }
    }

    /// What may be claimed now.
    pub(super) fn room(&self, now: BootInstant) -> Room {
        if now >= self.over {
            Room::All
        } else if self.alone {
            Room::Few
        } else {
            Room::Nothing
        }
    }

    /// What was free before counts as free since then: ranks spread the claims at every start.
    pub(super) fn free_since(&self, now: BootInstant) -> BootInstant {
        if self.room(now) == Room::Few { self.opened } else { self.over }
    }

    /// From when on everything may be claimed, as far as is known.
    pub(super) fn over(&self) -> BootInstant {
        self.over
    }

    fn first_look(&self) -> BootInstant {
        self.opened + FIRST_LOOK.min(self.settle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn opened(millis: u64, peers: Option<bool>) -> Settling {
        let mut settling = Settling::new(SETTLE);
        settling.opened(at(millis), peers);
        settling
    }

    #[test]
    fn who_is_alone_takes_a_few_soon_and_the_rest_once_settled() {
        let mut settling = opened(0, None);
        settling.looked(at(50), [].into_iter());
        assert_eq!(settling.room(at(60)), Room::Nothing, "others may be a moment behind");
        settling.looked(at(250), [].into_iter());
        assert_eq!(settling.room(at(250)), Room::Few);
        assert_eq!(settling.room(at(999)), Room::Few);
        assert_eq!(settling.room(at(1000)), Room::All);
        // Somebody has come meanwhile: even the few are shared now.
        settling.looked(at(300), [ms(10)].into_iter());
        assert_eq!(settling.room(at(310)), Room::Nothing);
    }

    #[test]
    fn who_starts_together_settles_together() {
        let (mut a, mut b) = (opened(0, None), opened(300, None));
        a.looked(at(350), [ms(50)].into_iter());
        b.looked(at(350), [ms(350)].into_iter());
        assert_eq!((a.over(), b.over()), (at(1000), at(1000)));
    }

    #[test]
    fn who_joins_a_cluster_at_work_waits_for_nobody() {
        let mut settling = opened(0, None);
        settling.looked(at(20), [ms(5000), ms(10)].into_iter());
        assert_eq!(settling.room(at(199)), Room::Nothing);
        assert_eq!(settling.room(at(200)), Room::All);
    }

    #[test]
    fn who_comes_back_waits_for_those_that_were_there() {
        let mut settling = opened(0, Some(true));
        settling.looked(at(20), [ms(5000)].into_iter());
        assert_eq!(settling.room(at(999)), Room::Nothing, "that one may be about to end");
        assert_eq!(settling.room(at(1000)), Room::All);
        assert_eq!(opened(0, Some(false)).room(at(0)), Room::All, "nobody was there");
    }

    #[test]
    fn nobody_waits_where_nobody_can_be() {
        let mut settling = Settling::new(Duration::ZERO);
        settling.opened(at(0), None);
        assert_eq!(settling.room(at(0)), Room::All);
    }
}

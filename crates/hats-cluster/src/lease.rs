//! A session as its own worker sees it: how long it may be trusted, and what runs under it.
//!
//! ```text
//!   opened ──renewed──▶ trusted ──S passes, LOST, given up──▶ lost        (for ever: nothing un-stops)
//!                        ▲    │
//!                        └────┘ renewed before S
//! ```
//!
//! What must always hold:
//! * The deadline counts from `t0`, read **before the first byte of the last successful renewal was sent**. The reply's
//!   time plays no part, so a slow network can only shorten the trust, never lengthen it.
//! * Whoever asks [`Lease::is_trusted`] compares with the boot clock itself. A stopped watchdog, a starved runtime or a
//!   suspended machine cannot make an old lease look young.
//! * One word decides: once anybody was told "lost", no renewal that comes in late can bring the lease back.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::BootInstant;
use crate::id::SessionId;
use crate::name::TaskName;

/// Every duration that follows from the lease D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
}

impl Timing {
    /// The least lease there may be.
    pub const LEAST: Duration = Duration::from_secs(2);

    /// The timing of a lease of `lease`.
    pub const fn new(lease: Duration) -> Self {
        Self { lease }
    }

    /// D itself.
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// R: renewals are sent this often, give or take a tenth.
    pub fn renew_every(&self) -> Duration {
        self.lease / 6
    }

    /// T: no command to Redis is waited for longer.
    pub fn command_timeout(&self) -> Duration {
        (self.lease / 12).min(Duration::from_millis(1500))
    }

    /// S: from `t0` until scripts are interrupted and no new effect begins.
    pub fn soft_stop(&self) -> Duration {
        self.lease * 2 / 3
    }

    /// H: from `t0` until whatever still runs ends with the process.
    pub fn hard_stop(&self) -> Duration {
        self.lease * 9 / 10
    }

    /// P: sessions are sampled this often.
    pub fn sample_every(&self) -> Duration {
        (self.lease / 5).min(Duration::from_secs(1))
    }

    /// O: how long a session with the lease `watched` must have stood still before it may be buried.
    pub fn observe(watched: Duration) -> Duration {
        watched + watched / 100
    }
}

/// The lease of one session: a cheap clone for everyone who must ask before acting.
#[derive(Clone)]
pub struct Lease {
    inner: Arc<Inner>,
}

struct Inner {
    session: SessionId,
    timing: Timing,
    /// Invariant: the instant until which the session is trusted, in nanoseconds of the boot clock; 0 once it is lost,
    /// and 0 for ever after. The one word that decides.
    trusted_until: AtomicU64,
    /// `t0` of the last successful renewal. Written after `trusted_until`: read too early it is older, and the hard
    /// stop only comes sooner.
    t0: AtomicU64,
    lost: CancellationToken,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    scripts: HashMap<u64, TaskName>,
}

impl Lease {
    /// The lease of a session whose opening was sent at `t0`.
    pub(crate) fn opened(session: SessionId, timing: Timing, t0: BootInstant) -> Self {
        Self {
            inner: Arc::new(Inner {
                session,
                timing,
                trusted_until: AtomicU64::new((t0 + timing.soft_stop()).as_nanos()),
                t0: AtomicU64::new(t0.as_nanos()),
                lost: CancellationToken::new(),
                running: Mutex::default(),
            }),
        }
    }

    /// The session that this is the lease of.
    pub fn session(&self) -> &SessionId {
        &self.inner.session
    }

    /// Whether an effect may begin now. Reads the boot clock.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted_at(BootInstant::now())
    }

    fn is_trusted_at(&self, now: BootInstant) -> bool {
        let mut until = self.inner.trusted_until.load(Ordering::Acquire);
        loop {
            if until == 0 {
                return false;
            }
            if now.as_nanos() < until {
                return true;
            }
            // Nobody may see this lease alive again after this answer, so it is made final before it is given.
            match self.inner.trusted_until.compare_exchange(until, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.inner.lost.cancel();
                    return false;
                }
                Err(renewed) => until = renewed,
            }
        }
    }

    /// Until when effects may begin if no further renewal succeeds; in the past once the lease is lost.
    pub fn trusted_until(&self) -> BootInstant {
        BootInstant::from_nanos(self.inner.trusted_until.load(Ordering::Acquire))
    }

    /// When the process must have ended whatever still runs under this lease.
    pub(crate) fn hard_stop_at(&self) -> BootInstant {
        BootInstant::from_nanos(self.inner.t0.load(Ordering::Acquire)) + self.inner.timing.hard_stop()
    }

    /// From when on the scripts that still run are named: halfway between the soft and the hard stop.
    pub(crate) fn name_at(&self) -> BootInstant {
        let timing = &self.inner.timing;
        self.hard_stop_at() - (timing.hard_stop() - timing.soft_stop()) / 2
    }

    /// Resolves at the soft stop, once and for ever.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) {
        self.inner.lost.cancelled().await;
    }

    /// Notes that a script runs under this lease until the guard is dropped. The watchdog names those left after the
    /// soft stop and ends the process at the hard stop while there are any.
    pub fn enter(&self, name: &TaskName) -> RunGuard {
        let mut running = self.scripts_running();
        let number = running.next;
        running.next += 1;
        running.scripts.insert(number, name.clone());
        drop(running);
        RunGuard { lease: self.clone(), number }
    }

    /// The scripts that run under this lease.
    pub(crate) fn scripts(&self) -> Vec<TaskName> {
        self.scripts_running().scripts.values().cloned().collect()
    }

    /// How many scripts run under this lease.
    pub(crate) fn running(&self) -> usize {
        self.scripts_running().scripts.len()
    }

    /// Whether nothing runs under this lease.
    pub(crate) fn is_idle(&self) -> bool {
        self.running() == 0
    }

    /// A renewal that was sent at `t0` has succeeded. False if it came too late: the lease is lost and stays so.
    pub(crate) fn renewed(&self, t0: BootInstant) -> bool {
        self.renewed_at(t0, BootInstant::now())
    }

    fn renewed_at(&self, t0: BootInstant, now: BootInstant) -> bool {
        let next = (t0 + self.inner.timing.soft_stop()).as_nanos();
        loop {
            if !self.is_trusted_at(now) {
                return false;
            }
            let until = self.inner.trusted_until.load(Ordering::Acquire);
            if until == 0 {
                return false;
            }
            if next <= until {
                return true;
            }
            if self
                .inner
                .trusted_until
                .compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                self.inner.t0.store(t0.as_nanos(), Ordering::Release);
                return self.is_trusted_at(now);
            }
        }
    }

    /// Ends the trust now: Redis said LOST, or the worker gives the session up.
    pub(crate) fn give_up(&self) {
        self.inner.trusted_until.store(0, Ordering::Release);
        self.inner.lost.cancel();
    }

    fn scripts_running(&self) -> MutexGuard<'_, Running> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that is trusted for a century: for tests of what runs under one.
    #[doc(hidden)]
    pub fn trusted_for_test() -> Self {
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        Self::opened(SessionId::random(), Timing::new(century), BootInstant::now())
    }

    /// Loses the lease at once: for tests of what runs under one.
    #[doc(hidden)]
    pub fn lose_for_test(&self) {
        self.give_up();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("session", &self.inner.session)
            .field("trusted_until", &self.trusted_until())
            .finish_non_exhaustive()
    }
}

/// A script runs under a lease for as long as this lives.
#[must_use = "the script counts as ended when the guard is dropped"]
#[derive(Debug)]
pub struct RunGuard {
    lease: Lease,
    number: u64,
}

impl RunGuard {
    /// The lease that the script runs under.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.lease.scripts_running().scripts.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Duration = Duration::from_secs(6);

    fn lease(t0: u64) -> Lease {
        Lease::opened(SessionId::random(), Timing::new(D), at(t0))
    }

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn timing_follows_from_the_lease() {
        let timing = Timing::new(Duration::from_secs(5));
        assert_eq!(timing.renew_every().as_millis(), 833);
        assert_eq!(timing.command_timeout().as_millis(), 416);
        assert_eq!(timing.soft_stop().as_millis(), 3333);
        assert_eq!(timing.hard_stop().as_millis(), 4500);
        assert_eq!(timing.sample_every().as_millis(), 1000);
        assert_eq!(Timing::observe(timing.lease()).as_millis(), 5050);
        assert_eq!(Timing::new(Duration::from_secs(60)).command_timeout().as_millis(), 1500);
        assert_eq!(Timing::new(Duration::from_secs(2)).sample_every().as_millis(), 400);
    }

    #[test]
    fn trusted_until_two_thirds_after_the_request_was_sent() {
        let lease = lease(100);
        assert!(lease.is_trusted_at(at(100)));
        assert!(lease.is_trusted_at(at(104) - Duration::from_nanos(1)));
        assert!(!lease.is_trusted_at(at(104)));
    }

    #[test]
    fn nothing_brings_a_lost_lease_back() {
        let lease = lease(100);
        assert!(!lease.is_trusted_at(at(104)));
        assert!(!lease.renewed_at(at(103), at(103)), "even a clock read earlier");
        assert!(!lease.is_trusted_at(at(100)));
        assert!(lease.inner.lost.is_cancelled());
    }

    #[test]
    fn a_renewal_counts_from_its_sending_and_only_forward() {
        let lease = lease(100);
        assert!(lease.renewed_at(at(102), at(103)));
        assert_eq!(lease.trusted_until(), at(106));
        assert_eq!(lease.hard_stop_at(), at(102) + D * 9 / 10);
        assert!(lease.renewed_at(at(101), at(103)), "an older reply that comes in later");
        assert_eq!(lease.trusted_until(), at(106));
    }

    #[test]
    fn a_renewal_answered_after_the_soft_stop_is_too_late() {
        let lease = lease(100);
        assert!(!lease.renewed_at(at(103), at(104)));
        assert!(lease.inner.lost.is_cancelled());
    }

    #[test]
    fn scripts_are_known_while_they_run() {
        let lease = Lease::trusted_for_test();
        let name = TaskName::try_from("a").unwrap();
        let guard = lease.enter(&name);
        assert_eq!(lease.scripts(), vec![name]);
        drop(guard);
        assert!(lease.is_idle());
        lease.lose_for_test();
        assert!(!lease.is_trusted());
    }
}

//! What the outside asks of a running fiber, and the handle to ask with.
//!
//! The asks are ordered and only ever rise, but for [`Handle::withdraw_interrupt`]. They are level-triggered:
//! a fiber that begins a wait after the ask was made sees it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use atomic_waker::AtomicWaker;

/// What a fiber has been asked to do; each one includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ask {
    /// Nothing: run on.
    Nothing = 0,
    /// Waits made with [`crate::wait_ending`] return early; all else runs on.
    EndWaits = 1,
    /// Every wait returns an error, so that the call in hand comes to its end.
    Interrupt = 2,
    /// As `Interrupt`, and for good.
    Kill = 3,
}

impl Ask {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Nothing,
            1 => Self::EndWaits,
            2 => Self::Interrupt,
            _ => Self::Kill,
        }
    }
}

/// Asks things of one fiber from any OS thread. Cheap to clone; outliving the fiber is harmless.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ask: AtomicU8,
    // Set when the fiber is dropped before its end: from then on nobody polls what it waits for.
    abandoned: AtomicBool,
    waker: AtomicWaker,
}

impl Handle {
    /// A handle that is not yet tied to a fiber; give it to [`crate::Fiber::new`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises what is asked to at least `ask` and wakes the fiber so that it notices.
    pub fn ask(&self, ask: Ask) {
        self.shared.ask.fetch_max(ask as u8, Ordering::AcqRel);
        self.shared.waker.wake();
    }

    /// What is asked at present.
    #[must_use]
    pub fn asked(&self) -> Ask {
        Ask::from_u8(self.shared.ask.load(Ordering::Acquire))
    }

    /// Takes back an [`Ask::Interrupt`], so that the fiber can run its clean-up. The fiber is left with
    /// [`Ask::EndWaits`]; an [`Ask::Kill`] stays.
    pub fn withdraw_interrupt(&self) {
        // A failed exchange means that there was nothing to take back, or a kill that must stay.
        let _ = self.shared.ask.compare_exchange(
            Ask::Interrupt as u8,
            Ask::EndWaits as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Polls the fiber once more without asking anything of it.
    pub fn wake(&self) {
        self.shared.waker.wake();
    }

    pub(crate) fn abandon(&self) {
        self.shared.abandoned.store(true, Ordering::Release);
        self.ask(Ask::Kill);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.shared.abandoned.load(Ordering::Acquire)
    }

    /// A change of what is asked, or [`Handle::wake`], wakes this. For futures beside the fiber that go by the same handle.
    pub fn register(&self, waker: &std::task::Waker) {
        self.shared.waker.register(waker);
    }
}

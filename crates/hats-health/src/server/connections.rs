//! The connections to the health port: how many there are, and which of them gives way to a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Connections above which the quietest one is asked to give way.
    limit: usize,
    /// Connections above which none is accepted until one has ended.
    most: usize,
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// Those that were not asked to give way, the one that has been quiet for longest first.
    quietest: BTreeMap<u64, Arc<Notify>>,
    /// All of them.
    count: usize,
    /// Number of the next event. Invariant: larger than every key of `quietest`.
    next: u64,
}

/// One connection. It is gone when this is dropped.
pub(super) struct Turn {
    shared: Arc<Shared>,
    give_way: Arc<Notify>,
    /// Its key in `quietest`, unless it was asked to give way.
    number: Mutex<u64>,
}

impl Connections {
    pub(super) fn new(limit: usize, most: usize) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            limit: limit.max(1),
            most: most.max(limit),
            ended: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until one more may be accepted.
    pub(super) async fn room(&self) {
        // One task accepts, so a permit that was stored meanwhile wakes it.
        while self.shared.state().count >= self.shared.most {
            self.shared.ended.notified().await;
        }
    }

    /// A new connection. The quietest one is asked to give way if there are too many now.
    pub(super) fn add(&self) -> Turn {
        let give_way = Arc::new(Notify::new());
        let mut state = self.shared.state();
        state.count += 1;
        let number = state.enter(give_way.clone());
        if state.quietest.len() > self.shared.limit
            && let Some((_, quietest)) = state.quietest.pop_first()
        {
            quietest.notify_one();
        }
        drop(state);
        Turn { shared: self.shared.clone(), give_way, number: Mutex::new(number) }
    }
}

impl Turn {
    /// A request has come: others are quieter now.
    pub(super) fn touch(&self) {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.state();
        if state.quietest.remove(&number).is_some() {
            *number = state.enter(self.give_way.clone());
        }
    }

    /// Returns when the connection has to give way to another one.
    pub(super) async fn asked_to_give_way(&self) {
        self.give_way.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let number = *self.number.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.state();
        state.quietest.remove(&number);
        state.count -= 1;
        drop(state);
        self.shared.ended.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// As the one that has been quiet for the shortest time.
    fn enter(&mut self, give_way: Arc<Notify>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.quietest.insert(number, give_way);
        number
    }
}

//! Who may begin now: bounds on scripts at once, on requests that wait for one, and on the bytes of bodies.
//!
//! What must hold: nobody waits longer than the queue's timeout, and no page has more than half of all the places, so
//! that one that never ends leaves the others theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places for scripts, and the queue before them.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    page_max: usize,
    waiting: Arc<AtomicUsize>,
    queue_max: usize,
    patience: Duration,
}

/// A place for one script, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _page: Counted,
}

/// Bytes of bodies that are in memory, against their limit.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    bytes: Arc<AtomicUsize>,
    limit: usize,
}

/// The bytes of one body, until it is dropped.
#[derive(Debug)]
pub(crate) struct BodyShare {
    of: Bodies,
    bytes: usize,
}

/// One of those that a counter counts, until it is dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Admission {
    pub(crate) fn new(places: usize, queue_max: usize, patience: Duration) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            page_max: places.div_ceil(2),
            waiting: Arc::default(),
            queue_max,
            patience,
        }
    }

    /// A place for a script of a page, of which `page` counts those that have one. None: too much is going on.
    ///
    /// # Cancel safety
    /// May be dropped: the turn in the queue is lost.
    pub(crate) async fn enter(&self, page: &Arc<AtomicUsize>) -> Option<Place> {
        let page = Counted::below(page, self.page_max)?;
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _turn = Counted::below(&self.waiting, self.queue_max)?;
                let place = self.places.clone().acquire_owned();
                tokio::time::timeout(self.patience, place).await.ok()?.ok()?
            }
        };
        Some(Place { _place: place, _page: page })
    }
}

impl Bodies {
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }

    pub(crate) fn share(&self) -> BodyShare {
        BodyShare { of: self.clone(), bytes: 0 }
    }
}

impl BodyShare {
    /// Whether so many more bytes fit.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let before = self.of.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        before.saturating_add(bytes) <= self.of.limit
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Counted {
    fn below(counter: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let counted = Self(counter.clone());
        (counter.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_page_has_half_of_the_places_and_the_rest_waits_or_is_turned_away() {
        let admission = Admission::new(4, 1, Duration::from_secs(2));
        let (one, other) = (Arc::default(), Arc::default());
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(admission.enter(&one).await.unwrap());
        }
        assert!(admission.enter(&one).await.is_none(), "it has its half");
        for _ in 0..2 {
            held.push(admission.enter(&other).await.unwrap());
        }
        let third = Arc::default();
        let (waited, turned_away) = tokio::join!(admission.enter(&third), admission.enter(&third));
        assert!(waited.is_none() && turned_away.is_none(), "one waits in vain, the other does not even wait");
        let (got, ()) = tokio::join!(admission.enter(&third), async { drop(held.pop()) });
        assert!(got.is_some());
        drop((got, held));
        assert!([&one, &other, &third].iter().all(|page| page.load(Ordering::Relaxed) == 0));
        assert_eq!(admission.places.available_permits(), 4);
    }

    #[test]
    fn bodies_share_one_limit_and_give_back_what_they_had() {
        let bodies = Bodies::new(10);
        let mut first = bodies.share();
        assert!(first.grow(6));
        let mut second = bodies.share();
        assert!(second.grow(4));
        assert!(!second.grow(1));
        drop(second);
        assert!(first.grow(4));
        drop(first);
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), 0);
    }
}

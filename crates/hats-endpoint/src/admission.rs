//! Who may begin now: bounds on scripts at once, on requests that wait for one, and on the bytes of bodies.
//!
//! What must hold: nobody waits longer than the queue's timeout, and no page has more than half of all the places, nor of the
//! queue, so that one that never ends leaves the others theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A smaller answer is not counted: as many as there may be connections make less than the system's own buffers.
const COUNTED_BYTES_MIN: usize = 8 << 10;

/// The places for scripts, and the queue before them.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    queue_max: usize,
    patience: Duration,
}

/// The places that one page may have, and its share of the queue.
#[derive(Debug)]
pub(crate) struct PagePlaces {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// A place for one script, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _page: OwnedSemaphorePermit,
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
        Self {
            places: Arc::new(Semaphore::new(within_semaphore(places))),
            waiting: Arc::default(),
            queue_max,
            patience,
        }
    }

    /// A place for a script of a page. None: too much is going on.
    ///
    /// # Cancel safety
    /// May be dropped: the turn in the queue is lost.
    pub(crate) async fn enter(&self, page: &PagePlaces) -> Option<Place> {
        if let Ok(own) = page.places.clone().try_acquire_owned()
            && let Ok(place) = self.places.clone().try_acquire_owned()
        {
            return Some(Place { _place: place, _page: own });
        }
        let _turn = Counted::below(&self.waiting, self.queue_max)?;
        let _own_turn = Counted::below(&page.waiting, self.queue_max.div_ceil(2))?;
        let places = async {
            // One of the page's own first: who waits for that holds up no other page.
            let own = page.places.clone().acquire_owned().await.ok()?;
            let place = self.places.clone().acquire_owned().await.ok()?;
            Some(Place { _place: place, _page: own })
        };
        tokio::time::timeout(self.patience, places).await.ok()?
    }
}

impl PagePlaces {
    /// Half of `places`, those that there are for all pages.
    pub(crate) fn of(places: usize) -> Self {
        let own = within_semaphore(places).div_ceil(2);
        Self { places: Arc::new(Semaphore::new(own)), waiting: Arc::default() }
    }
}

fn within_semaphore(places: usize) -> usize {
    places.clamp(1, Semaphore::MAX_PERMITS)
}

impl Bodies {
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }

    pub(crate) fn share(&self) -> BodyShare {
        BodyShare { of: self.clone(), bytes: 0 }
    }

    /// A body that counts until nobody has it any more; small ones do not. None: it does not fit.
    pub(crate) fn holding(&self, body: Vec<u8>) -> Option<Bytes> {
        if body.len() < COUNTED_BYTES_MIN {
            return Some(body.into());
        }
        let mut share = self.share();
        share.grow(body.capacity()).then(|| Bytes::from_owner(Held { body, _share: share }))
    }
}

/// A body and what it counts for.
struct Held {
    body: Vec<u8>,
    _share: BodyShare,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
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
    async fn one_page_has_half_of_the_places_and_of_the_queue_and_the_rest_is_turned_away() {
        let admission = Admission::new(4, 2, Duration::from_secs(2));
        let [one, other, third] = std::array::from_fn(|_| PagePlaces::of(4));
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(admission.enter(&one).await.unwrap());
        }
        let began = tokio::time::Instant::now();
        let (waited, turned_away) = tokio::join!(admission.enter(&one), async {
            let turned_away = admission.enter(&one).await;
            assert_eq!(began.elapsed(), Duration::ZERO, "it has half of the queue");
            held.push(admission.enter(&other).await.unwrap());
            turned_away
        });
        assert!(waited.is_none() && turned_away.is_none() && began.elapsed() == Duration::from_secs(2));
        held.push(admission.enter(&other).await.unwrap());
        let (in_vain, turned_away) = tokio::join!(admission.enter(&third), admission.enter(&third));
        assert!(in_vain.is_none() && turned_away.is_none());
        // Whoever ends makes room: of its page, and of all.
        let own = held.remove(0);
        let (got, ()) = tokio::join!(admission.enter(&one), async { drop(own) });
        let (other_got, ()) = tokio::join!(admission.enter(&third), async { drop(held.pop()) });
        assert!(got.is_some() && other_got.is_some());
        drop((got, other_got, held));
        for page in [&one, &other, &third] {
            assert_eq!((page.places.available_permits(), page.waiting.load(Ordering::Relaxed)), (2, 0));
        }
        assert_eq!((admission.places.available_permits(), admission.waiting.load(Ordering::Relaxed)), (4, 0));
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
        let answers = Bodies::new(COUNTED_BYTES_MIN + 1);
        let held = answers.holding(vec![0; COUNTED_BYTES_MIN]).unwrap();
        assert!(answers.holding(vec![0; COUNTED_BYTES_MIN]).is_none());
        assert_eq!(answers.holding(b"small".to_vec()).unwrap(), "small");
        let part = held.slice(1..2);
        drop(held);
        assert_eq!(answers.bytes.load(Ordering::Relaxed), COUNTED_BYTES_MIN);
        drop(part);
        assert_eq!(answers.bytes.load(Ordering::Relaxed), 0);
    }
}

//! The turns of a lane: fibers that were preempted, and those that are new, go on one after another.
//!
//! They are not woken at once: an executor that is given a fiber back as soon as it gives way polls it again before it looks at
//! timers and sockets, and a timer beside one busy script is a hundred milliseconds late. They stand in a queue of the lane's
//! own, of which [`run`] wakes one for each turn of the executor's driver. So what becomes ready meanwhile runs first.
//!
//! The queue belongs to the OS thread. It cannot grow beyond the fibers that live there: each has one place in it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

thread_local! {
    static QUEUE: Queue = const { Queue { turns: RefCell::new(VecDeque::new()), runner: RefCell::new(None), has_runner: Cell::new(false) } };
}

struct Queue {
    turns: RefCell<VecDeque<(Waker, Option<Place>)>>,
    /// Whoever runs the queue, while it is empty.
    runner: RefCell<Option<Waker>>,
    has_runner: Cell<bool>,
}

/// Whether a fiber stands in the queue.
#[derive(Clone, Default)]
pub(crate) struct Place(Rc<Cell<bool>>);

impl Place {
    pub(crate) fn is_taken(&self) -> bool {
        self.0.get()
    }

    /// Puts the fiber at the end of the queue, unless it stands there.
    pub(crate) fn take(&self, turn: &Waker) {
        if !self.0.replace(true) {
            push(turn.clone(), Some(self.clone()));
        }
    }
}

/// Puts what this wakes at the end of the queue.
fn push(turn: Waker, place: Option<Place>) {
    QUEUE.with(|queue| {
        if !queue.has_runner.get() {
            // Not a lane: the executor has to do.
            return wake((turn, place));
        }
        queue.turns.borrow_mut().push_back((turn, place));
        let runner = queue.runner.take();
        if let Some(runner) = runner {
            runner.wake();
        }
    });
}

fn wake((turn, place): (Waker, Option<Place>)) {
    if let Some(place) = place {
        place.0.set(false);
    }
    turn.wake();
}

/// Waits for a turn of this OS thread's queue: for what is new, and for work of the host that takes long.
pub async fn turn() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        push(context.waker().clone(), None);
        Poll::Pending
    })
    .await;
}

/// Gives turns, for as long as it is polled: one for each turn of the executor's driver. `give_way` lets the driver have its turn
/// (tokio's `yield_now`).
pub async fn run<G: Future<Output = ()>>(mut give_way: impl FnMut() -> G) {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            let left = QUEUE.with(|queue| {
                queue.has_runner.set(false);
                queue.turns.take()
            });
            left.into_iter().for_each(wake);
        }
    }
    QUEUE.with(|queue| queue.has_runner.set(true));
    let _leave = Leave;
    loop {
        let next = poll_fn(|context| {
            QUEUE.with(|queue| {
                let next = queue.turns.borrow_mut().pop_front();
                match next {
                    Some(turn) => Poll::Ready(turn),
                    None => {
                        *queue.runner.borrow_mut() = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await;
        wake(next);
        give_way().await;
    }
}

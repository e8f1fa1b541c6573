//! How many bytes of heap interpreters have in use together.
//!
//! What must hold: what an interpreter has told of itself is taken back when it goes, so that the sum is that of those who
//! are there. To tell costs a few instructions: it is done at each call of the host's.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::heap::Heap;

/// The heap of all interpreters that [tell it](crate::Interpreter::set_meter), in bytes, each as of the last time that it was
/// left, called the host or looked whether to go on.
///
/// Interpreters of one meter live on one OS thread; any other may read it.
#[derive(Debug, Default)]
pub struct Meter(AtomicUsize);

impl Meter {
    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Written by one OS thread alone, so nothing is lost between the two steps.
    fn replace(&self, before: usize, after: usize) {
        let bytes = self.bytes().wrapping_sub(before).wrapping_add(after);
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// One interpreter's part of a meter.
pub(crate) struct Share {
    meter: Arc<Meter>,
    heap: Rc<Heap>,
    told: Cell<usize>,
}

impl Share {
    pub(crate) fn new(meter: Arc<Meter>, heap: Rc<Heap>) -> Self {
        let share = Self { meter, heap, told: Cell::new(0) };
        share.tell();
        share
    }

    pub(crate) fn tell(&self) {
        let used = self.heap.used();
        let told = self.told.replace(used);
        if told != used {
            self.meter.replace(told, used);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.meter.replace(self.told.get(), 0);
    }
}

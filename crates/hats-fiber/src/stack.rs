//! The unused part of a stack.
//!
//! ```text
//!  limit                                             frames in use      foot
//!  │ guard │        given back        │  kept  │ trim │ ············ │
//! ```
#![expect(unsafe_code, reason = "the system is told that pages hold nothing, see the safety note")]

use std::hint::black_box;

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// What is kept below the frames in use: a script's calls need it again at once.
const KEPT_BYTES: usize = 16 << 10;

/// Gives back the pages of the running stack between its guard page above `limit` and its frames.
#[inline(never)]
pub(crate) fn trim(limit: usize) {
    let page = page_size();
    let here = black_box(&raw const page).addr();
    let start = limit.saturating_add(page);
    let end = here.saturating_sub(KEPT_BYTES) & !(page - 1);
    let Some(length) = end.checked_sub(start).filter(|length| *length > 0) else { return };
    // SAFETY: the caller runs on the stack that begins at `limit`, a mapping of its own with one guard page there. All
    // from `start` to `end` belongs to that mapping and lies below this function's frame by more than the red zone and
    // all that the call of the system needs, so no frame is in it: what is written there next is written
    // before it is read. Private anonymous memory reads as zeroes afterwards, which is as good as what was left there.
    let _ = unsafe { madvise(std::ptr::without_provenance_mut(start), length, Advice::LinuxDontNeed) };
}

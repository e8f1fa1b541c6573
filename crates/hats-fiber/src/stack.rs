//! Stacks of fibers.
//!
//! ```text
//!  limit                                                         top (where a stack begins)
//!  │ guard: no access │ low water │ given back while unused │ kept │
//! ```
//!
//! What must hold: the guard is [`GUARD_BYTES`] long, more than any frame of the engine, so that no frame leaps over it.
#![expect(unsafe_code, reason = "memory is asked of the system and given back, see the safety notes")]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr;

use corosensei::stack::StackPointer;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

/// Bytes without access at the lowest end of each stack. The engine has frames of more than a page.
pub const GUARD_BYTES: usize = 64 << 10;

/// Memory that a fiber runs on.
pub struct Stack {
    range: Range<usize>,
    is_owned: bool,
}

impl Stack {
    /// A stack with a mapping of its own, of `bytes` beside the guard.
    ///
    /// # Errors
    /// When the system has no addresses or no memory mapping left.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let length = bytes
            .checked_add(GUARD_BYTES)
            .and_then(|length| length.checked_next_multiple_of(page_size()))
            .filter(|_| bytes > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: without an address of ours the system maps where nothing is. What is made usable lies inside that mapping.
        unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            let base = mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags)?;
            let stack = Self { range: base.addr()..base.addr() + length, is_owned: true };
            mprotect(
                base.byte_add(GUARD_BYTES),
                length - GUARD_BYTES,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )?;
            Ok(stack)
        }
    }

    /// A stack in memory that somebody else owns.
    ///
    /// # Safety
    /// Its lowest [`GUARD_BYTES`] have no access, all above is readable and writable, both ends are multiples of the page
    /// size, nobody else uses any of it while a fiber has the stack, and it outlives the fiber.
    #[must_use]
    pub unsafe fn within(range: Range<usize>) -> Self {
        Self { range, is_owned: false }
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.is_owned {
            // SAFETY: the mapping is ours, and no fiber runs on it any more.
            let _ = unsafe { munmap(ptr::with_exposed_provenance_mut(self.range.start), self.range.len()) };
        }
    }
}

// SAFETY: both ends are multiples of the page size, hence of 16; the range has a guard at its lowest end and is not moved.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> StackPointer {
        NonZeroUsize::new(self.range.end).unwrap_or(NonZeroUsize::MIN)
    }

    fn limit(&self) -> StackPointer {
        NonZeroUsize::new(self.range.start).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Gives the memory of an unused stack back to the system, but for `keep` bytes where it begins.
///
/// # Safety
/// The range is that of a [`Stack`], and no fiber has it.
pub unsafe fn trim_unused(range: &Range<usize>, keep: usize) {
    let start = range.start + GUARD_BYTES;
    let end = range.end.saturating_sub(keep) & !(page_size() - 1);
    let Some(length) = end.checked_sub(start).filter(|length| *length > 0) else { return };
    // SAFETY: the part lies between the guard and the end of a stack that no fiber has, by the caller's word: what is written
    // there next is written before it is read. Private anonymous memory reads as zeroes afterwards.
    let _ = unsafe { madvise(ptr::with_exposed_provenance_mut(start), length, Advice::LinuxDontNeed) };
}

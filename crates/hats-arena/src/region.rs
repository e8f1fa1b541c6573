//! A range of addresses that is all the memory of one interpreter.
//!
//! ```text
//!  base                        touched         committed                      length
//!   │ what has ever been written │ zeroes         │ no memory, no access          │
//! ```
//!
//! What must hold: everything from `touched` on reads as zeroes or cannot be read at all.
#![expect(
    unsafe_code,
    reason = "memory is asked of the system and is handed out as pointers, see the safety notes"
)]

use std::cell::Cell;
use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

/// Memory is made usable in steps of this or of a quarter of what is there, whichever is more.
const COMMIT_BYTES: usize = 256 << 10;

/// A reserved range of addresses, usable up to a mark that rises when it has to.
pub(crate) struct Region {
    base: NonNull<u8>,
    length: usize,
    committed: Cell<usize>,
    touched: Cell<usize>,
    /// What lies beyond is not in memory.
    held: Cell<usize>,
}

impl Region {
    /// Reserves `length` bytes of address space, rounded up to whole pages. They cost nothing until they are used.
    pub(crate) fn reserve(length: usize) -> io::Result<Self> {
        let length = length
            .checked_next_multiple_of(page_size())
            .filter(|length| *length > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: without an address of ours the system maps where nothing is, so that no memory in use is affected.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let region = Self {
            base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            length,
            committed: Cell::new(0),
            touched: Cell::new(0),
            held: Cell::new(0),
        };
        // A region that touches ten pages is not to be given two megabytes. A system that knows no such pages refuses.
        // SAFETY: the range is the mapping just made, and the advice changes no contents.
        let _ = unsafe { madvise(base, length, Advice::LinuxNoHugepage) };
        Ok(region)
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// What lies beyond has never been written since it was last known to be zero.
    pub(crate) fn touched(&self) -> usize {
        self.touched.get()
    }

    /// Bytes of memory that the region has at most.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Makes the first `end` bytes usable, and takes them for written. False if the system gives no memory.
    pub(crate) fn touch(&self, end: usize) -> bool {
        if end > self.committed.get() && !self.commit(end) {
            return false;
        }
        if end > self.touched.get() {
            self.touched.set(end);
            self.held.set(self.held.get().max(end));
        }
        true
    }

    #[cold]
    fn commit(&self, end: usize) -> bool {
        if end > self.length {
            return false;
        }
        let before = self.committed.get();
        let wanted = end.max(before + COMMIT_BYTES.max(before / 4)).next_multiple_of(page_size());
        let committed = wanted.min(self.length);
        // SAFETY: the range lies inside our own mapping, and more access to it invalidates nothing.
        let allowed = unsafe {
            mprotect(self.base.as_ptr().cast(), committed, MprotectFlags::READ | MprotectFlags::WRITE)
        };
        if allowed.is_ok() {
            self.committed.set(committed);
        }
        allowed.is_ok()
    }

    /// Makes all bytes from `from` on zero again; of the memory that they took, all but the first `keep` bytes go back to
    /// the system.
    ///
    /// # Safety
    /// Nothing from `from` on is in use.
    pub(crate) unsafe fn zero_from(&self, from: usize, keep: usize) {
        let mut end = self.touched.get();
        let kept = from.saturating_add(keep).next_multiple_of(page_size());
        if kept < self.held.get() {
            let committed = self.committed.get();
            // SAFETY: both ends are multiples of the page size inside the usable part of our own mapping; by the
            // caller's word nothing there is in use. Private anonymous memory reads as zeroes afterwards.
            let given_back = unsafe {
                madvise(self.base.as_ptr().add(kept).cast(), committed - kept, Advice::LinuxDontNeed)
            };
            if given_back.is_ok() {
                end = end.min(kept);
                self.held.set(kept);
            }
        }
        if end > from {
            // SAFETY: `from..end` lies below `touched`, hence in the usable part, and nothing there is in use.
            unsafe { self.base.as_ptr().add(from).write_bytes(0, end - from) };
        }
        self.touched.set(self.touched.get().min(from));
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever has pointers into it keeps the region alive.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_mark_is_zero_whatever_was_written_there() {
        let region = Region::reserve(64 << 20).unwrap();
        assert!(region.touch(20 << 20));
        // SAFETY: usable, and nobody else's.
        unsafe { region.base().as_ptr().write_bytes(7, 20 << 20) };
        // SAFETY: nothing there is in use.
        unsafe { region.zero_from(5000, 100_000) };
        assert_eq!(region.touched(), 5000);
        assert!(region.touch(20 << 20));
        // SAFETY: usable and written.
        let all = unsafe { std::slice::from_raw_parts(region.base().as_ptr(), 20 << 20) };
        assert!(all[..5000].iter().all(|byte| *byte == 7));
        assert!(all[5000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn no_more_is_usable_than_was_reserved() {
        let region = Region::reserve(1 << 20).unwrap();
        assert!(region.touch(1 << 20));
        assert!(!region.touch((1 << 20) + 1));
        assert!(Region::reserve(0).is_err());
        assert!(Region::reserve(usize::MAX).is_err());
    }
}

//! A range of addresses that is all the memory of one interpreter, its stack included.
//!
//! ```text
//!  start         stack       base                        touched       committed                length
//!   │ guard: no access │ stack ◄── │ what has ever been written │ zeroes      │ no memory, no access │
//! ```
//!
//! The stack and the usable part of the heap are one mapping of the process, the guard and the rest of the range before it
//! another: two for each interpreter.
//!
//! What must hold: everything from `touched` on reads as zeroes or cannot be read at all.
#![expect(
    unsafe_code,
    reason = "memory is asked of the system and is handed out as pointers, see the safety notes"
)]

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use hats_fiber::{GUARD_BYTES, Stack};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

/// Memory is made usable in steps of this or of a quarter of what is there, whichever is more.
const COMMIT_BYTES: usize = 256 << 10;
/// Mappings of ended interpreters that an OS thread keeps for the next ones: they have no memory, and cost no system calls to
/// be had again.
const SPARE_MAX: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Mapping>> = const { RefCell::new(Vec::new()) };
}

/// A reserved range of addresses, usable up to a mark that rises when it has to.
pub(crate) struct Region {
    // None once it has been given back.
    mapping: Option<Mapping>,
    base: NonNull<u8>,
    length: usize,
    committed: Cell<usize>,
    touched: Cell<usize>,
    /// What lies beyond is not in memory.
    held: Cell<usize>,
}

/// What the system has reserved.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
    /// Of that, guard and stack come first.
    stack: usize,
    /// Bytes of the heap's part that are usable.
    committed: usize,
}

impl Mapping {
    fn new(stack: usize, heap: usize) -> io::Result<Self> {
        let length = stack.checked_add(heap).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: without an address of ours the system maps where nothing is, so that no memory in use is affected.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mapping = Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            length,
            stack,
            committed: 0,
        };
        // A region that touches ten pages is not to be given two megabytes. A system that knows no such pages refuses.
        // SAFETY: the range is the mapping just made, and the advice changes no contents.
        let _ = unsafe { madvise(start, length, Advice::LinuxNoHugepage) };
        Ok(mapping)
    }

    fn base(&self) -> NonNull<u8> {
        // SAFETY: the stack is shorter than the mapping.
        unsafe { self.start.add(self.stack) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever has pointers into it keeps its region alive.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl Region {
    /// Reserves addresses for a stack of `stack` bytes beside its guard and a heap of `length`, each rounded up to whole pages.
    /// They cost nothing until they are used.
    pub(crate) fn reserve(stack: usize, length: usize) -> io::Result<Self> {
        let pages = |bytes: usize| {
            let bytes = bytes.checked_next_multiple_of(page_size()).filter(|bytes| *bytes > 0);
            bytes.ok_or(io::Error::from(io::ErrorKind::InvalidInput))
        };
        let stack = pages(stack.checked_add(GUARD_BYTES).ok_or(io::ErrorKind::InvalidInput)?)?;
        let length = pages(length)?;
        let spare = SPARE.with_borrow_mut(|spare| {
            let fits = |mapping: &Mapping| mapping.stack == stack && mapping.length == stack + length;
            spare.iter().rposition(fits).map(|n| spare.swap_remove(n))
        });
        let mapping = spare.map_or_else(|| Mapping::new(stack, length), Ok)?;
        Ok(Self {
            base: mapping.base(),
            length,
            committed: Cell::new(mapping.committed),
            touched: Cell::new(0),
            held: Cell::new(0),
            mapping: Some(mapping),
        })
    }

    /// The addresses of the stack, guard included.
    pub(crate) fn stack_range(&self) -> Range<usize> {
        let base = self.base.as_ptr().expose_provenance();
        base - self.mapping.as_ref().map_or(0, |mapping| mapping.stack)..base
    }

    /// The stack.
    ///
    /// # Safety
    /// Nobody else uses it at the same time, and the region outlives it.
    pub(crate) unsafe fn stack(&self) -> Stack {
        // SAFETY: the heap has been touched, hence the stack is usable but for its guard; the rest is the caller's word.
        unsafe { Stack::within(self.stack_range()) }
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

    /// Bytes of memory that the heap has at most.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Makes the first `end` bytes of the heap usable, and takes them for written. False if the system gives no memory.
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
        // The first time, the stack becomes usable too.
        let stack = self.stack_range();
        let usable_stack = if before == 0 { stack.len() - GUARD_BYTES } else { 0 };
        // SAFETY: the range lies inside our own mapping, and more access to it invalidates nothing.
        let allowed = unsafe {
            mprotect(
                self.base.as_ptr().sub(usable_stack).cast(),
                usable_stack + committed,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
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
            // Beyond what was ever touched there is no memory.
            let held = self.held.get().next_multiple_of(page_size()).min(self.committed.get());
            // SAFETY: both ends are multiples of the page size inside the usable part of our own mapping; by the
            // caller's word nothing there is in use. Private anonymous memory reads as zeroes afterwards.
            let given_back =
                unsafe { madvise(self.base.as_ptr().add(kept).cast(), held - kept, Advice::LinuxDontNeed) };
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

    /// Gives the memory of whole pages inside a range of the heap back to the system; what stood there is zero or as it was.
    ///
    /// # Safety
    /// Nothing in the range is in use, and all of it has been touched.
    pub(crate) unsafe fn release(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(page_size());
        let end = range.end & !(page_size() - 1);
        if start < end {
            // SAFETY: both ends are multiples of the page size inside the usable part of our own mapping, and by the caller's
            // word nothing there is in use.
            let _ =
                unsafe { madvise(self.base.as_ptr().add(start).cast(), end - start, Advice::LinuxDontNeed) };
        }
    }

    /// Gives the stack's memory back, but for `keep` bytes where it begins.
    ///
    /// # Safety
    /// No fiber runs on it.
    pub(crate) unsafe fn trim_stack(&self, keep: usize) {
        // SAFETY: the caller's word.
        unsafe { hats_fiber::trim_unused(&self.stack_range(), keep) };
    }
}

impl Drop for Region {
    /// Gives all memory back and keeps the addresses for the next interpreter of this OS thread.
    fn drop(&mut self) {
        if self.committed.get() > 0 {
            // SAFETY: all pointers into the region keep it alive, so none of it is in use.
            unsafe {
                self.trim_stack(0);
                self.zero_from(0, 0);
            }
        }
        let Some(mut mapping) = self.mapping.take().filter(|_| self.committed.get() > 0) else { return };
        if self.touched.get() > 0 || self.held.get() > 0 {
            return;
        }
        mapping.committed = self.committed.get();
        // While the OS thread ends there is nowhere to keep it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(mapping);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_mark_is_zero_whatever_was_written_there() {
        let region = Region::reserve(1 << 20, 64 << 20).unwrap();
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
        let region = Region::reserve(1 << 20, 1 << 20).unwrap();
        assert!(region.touch(1 << 20));
        assert!(!region.touch((1 << 20) + 1));
        assert!(Region::reserve(1 << 20, 0).is_err());
        assert!(Region::reserve(1 << 20, usize::MAX).is_err());
    }
}

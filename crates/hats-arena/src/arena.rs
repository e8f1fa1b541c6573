//! The memory of one interpreter, its state at one moment, and the way back to it.
#![expect(unsafe_code, reason = "the memory of an interpreter is copied and written, see the safety notes")]

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use rquickjs::allocator::Allocator;
use rustix::param::page_size;

use crate::heap::{Heap, REGION_MAX};
use crate::region::Region;

/// Address space for each byte of heap: a block that is moved is there twice, and there are gaps.
const SPACE_PER_BYTE: usize = 4;
const SPACE_MIN: usize = 16 << 20;
/// Of what was used beyond the snapshot, so much stays with the arena for the next time.
const KEEP_BYTES: usize = 256 << 10;

/// The memory of one interpreter.
pub(crate) struct Arena {
    region: Rc<Region>,
    heap: Rc<Heap>,
    refused: Rc<Cell<bool>>,
}

/// What an arena's memory was at one moment, up to the last byte that was not zero.
pub(crate) struct Snapshot {
    bytes: Box<[u8]>,
}

impl Arena {
    /// An arena with room for a heap of `limit` bytes, but without that limit. Once `is_leaving`, nothing is freed any more.
    pub(crate) fn new(limit: usize, is_leaving: Rc<Cell<bool>>) -> io::Result<Self> {
        let space = limit.saturating_mul(SPACE_PER_BYTE).clamp(SPACE_MIN, REGION_MAX);
        let region = Rc::new(Region::reserve(space)?);
        let refused = Rc::new(Cell::new(false));
        let heap =
            Heap::new(region.clone(), refused.clone(), is_leaving).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { region, heap: Rc::new(heap), refused })
    }

    /// Bytes that may be in use from now on.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.heap.set_limit(bytes);
    }

    /// Hands out the arena's memory.
    pub(crate) fn allocator(&self) -> ArenaAllocator {
        ArenaAllocator { heap: self.heap.clone() }
    }

    /// True if memory was asked for that could not be given.
    pub(crate) fn has_refused(&self) -> bool {
        self.refused.get()
    }

    /// Knows how many bytes are in use, by blocks and what is around them.
    pub(crate) fn heap(&self) -> Rc<Heap> {
        self.heap.clone()
    }

    /// Bytes that the arena may have of the system's memory at present, its snapshot apart.
    pub(crate) fn resident(&self) -> usize {
        self.region.held()
    }

    /// Copies what there is.
    ///
    /// # Safety
    /// Nobody is inside the interpreter.
    pub(crate) unsafe fn snapshot(&self) -> Snapshot {
        let top = self.heap.top();
        self.heap.unpoison_all();
        // SAFETY: beyond `top` nothing is in use; and what is below `touched` is usable, and nobody writes meanwhile.
        let bytes = unsafe {
            self.region.zero_from(top, 0);
            std::slice::from_raw_parts(self.region.base().as_ptr(), top).into()
        };
        self.heap.poison_free();
        Snapshot { bytes }
    }

    /// Puts every byte back to what it was.
    ///
    /// # Safety
    /// The snapshot is this arena's; nobody is inside the interpreter, and nobody will use what was handed out after the
    /// snapshot.
    pub(crate) unsafe fn restore(&self, snapshot: &Snapshot) {
        self.heap.unpoison_all();
        let page = page_size();
        let base = self.region.base().as_ptr();
        for (n, was) in snapshot.bytes.chunks(page).enumerate() {
            // SAFETY: the snapshot was copied from the start of this region, all of which is usable up to there, and by
            // the caller's word nobody reads or writes it meanwhile.
            let is = unsafe { std::slice::from_raw_parts_mut(base.add(n * page), was.len()) };
            // Most pages have not been written to, and a page that is only read stays in nearer memory.
            if is != was {
                is.copy_from_slice(was);
            }
        }
        // SAFETY: what lies beyond the snapshot was handed out after it.
        unsafe { self.region.zero_from(snapshot.bytes.len(), KEEP_BYTES) };
        self.heap.poison_free();
    }

    /// The first byte that is not as it was, for tests.
    #[cfg(test)]
    pub(crate) fn first_difference(&self, snapshot: &Snapshot) -> Option<usize> {
        self.heap.unpoison_all();
        // SAFETY: usable up to there.
        let is = unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), self.region.touched()) };
        let was = snapshot.bytes.iter().copied().chain(std::iter::repeat(0));
        let difference = is.iter().zip(was).position(|(is, was)| *is != was);
        self.heap.poison_free();
        difference
    }
}

impl Snapshot {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// An arena as the engine sees it.
pub(crate) struct ArenaAllocator {
    // Kept by the engine's allocator until its runtime has gone, and with it the region.
    heap: Rc<Heap>,
}

// SAFETY: what the heap hands out is as long as was asked for, at a multiple of 16 and nobody else's until it is given back.
unsafe impl Allocator for ArenaAllocator {
    fn alloc(&mut self, size: usize) -> *mut u8 {
        self.heap.alloc(size)
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        // What does not fit into a number fits into no arena either.
        self.heap.calloc(count.saturating_mul(size))
    }

    unsafe fn dealloc(&mut self, pointer: *mut u8) {
        if !pointer.is_null() {
            // SAFETY: by the caller's word it was handed out by this heap.
            unsafe { self.heap.free(pointer) };
        }
    }

    unsafe fn realloc(&mut self, pointer: *mut u8, size: usize) -> *mut u8 {
        if pointer.is_null() {
            return self.heap.alloc(size);
        }
        // SAFETY: by the caller's word it was handed out by this heap.
        unsafe { self.heap.realloc(pointer, size) }
    }

    unsafe fn usable_size(pointer: *mut u8) -> usize {
        // SAFETY: by the caller's word it was handed out by a heap.
        unsafe { Heap::usable_size(pointer) }
    }
}

//! The allocator of a region: two-level segregated fit, with all that it knows inside the region.
//!
//! ```text
//!  control │ block │ block │ free block │ block │ the rest, never cut into blocks
//!                                               ▲ top
//!  a block: the size of the one below it, its own size and whether it is free, then the payload;
//!           a free one begins with the places of the next and the previous free one of its class
//! ```
//!
//! What must hold:
//! - Whatever decides what is handed out next is in the region: copied back, the region is as it was, bookkeeping included.
//! - No two free blocks lie side by side, and none lies below `top`: they have become one.
//! - A payload begins at a multiple of 16 and is at least as long as what was asked for.
//! - When there is no more memory the answer is a null pointer, never an abort.
#![expect(
    unsafe_code,
    reason = "an allocator reads and writes the memory that it manages, see the safety notes"
)]

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hats_fiber::{Death, die};

use crate::region::Region;

/// Sizes and places are counted in units of this: what payloads are aligned to.
const UNIT: usize = 16;
/// What stands before a payload.
const HEADER: usize = 8;
/// The smallest block: below that, the rest of a block stays with it.
const BLOCK_MIN: u32 = 2;
/// Classes of one power of two.
const STEPS: usize = 16;
const STEPS_LOG2: u32 = 4;
/// Powers of two that a size can have, those below [`STEPS`] being one.
const LEVELS: usize = 28;
/// A free block of this size gives its memory back to the system.
const RELEASE_BLOCK_BYTES: usize = 1 << 20;
/// So does the part that has never been cut into blocks, when this much of it has been in use,
const RELEASE_TOP_BYTES: usize = 4 << 20;
/// but for this much.
const KEPT_BYTES: usize = 256 << 10;
/// Units beyond the limit that host calls may take before they return: 4 MiB.
const RESERVE: u32 = ((4 << 20) / UNIT) as u32;
/// So many blocks of a class that may be too small are looked at.
const LOOKS: usize = 4;
/// The largest region: a place fits 32 bits, and a size 31.
pub(crate) const REGION_MAX: usize = 16 << 30;
/// In place of a block.
const NONE: u32 = 0;
const FREE: u32 = 1 << 31;

/// What the allocator knows, at the start of the region.
#[repr(C)]
struct Control {
    /// Where the part begins that has never been cut into blocks, in units.
    top: u32,
    /// The size of the block right below that.
    below_top: u32,
    /// Of all blocks that are in use, in units.
    used: u32,
    /// One bit for each level that has free blocks.
    levels: u32,
    /// For each level one bit for each class that has free blocks.
    classes: [u32; LEVELS],
    /// The first free block of each class.
    first: [[u32; STEPS]; LEVELS],
}

/// A block's header, and the links that a free one has in its payload.
#[repr(C)]
struct Block {
    below: u32,
    size: u32,
    next: u32,
    previous: u32,
}

/// The heap in a region.
pub(crate) struct Heap {
    region: Rc<Region>,
    /// Of blocks in use, in units.
    limit: Cell<u32>,
    /// Memory was asked for and not given.
    refused: Cell<bool>,
    /// Bytes in use, for other OS threads to read. Outside of the region, so that it can be read while the interpreter runs.
    gauge: Arc<AtomicUsize>,
}

/// Where the first block begins, in units: its payload is the first multiple of [`UNIT`] beyond the control part that leaves
/// room for a header.
const fn first_block() -> u32 {
    (size_of::<Control>() + HEADER).div_ceil(UNIT) as u32
}

impl Heap {
    /// Makes a heap without a limit in a region that nobody uses. None if there is no memory for its own needs.
    pub(crate) fn new(region: Rc<Region>) -> Option<Self> {
        let heap =
            Self { region, limit: Cell::new(u32::MAX), refused: Cell::new(false), gauge: Arc::default() };
        if heap.region.length() > REGION_MAX || !heap.region.touch(first_block() as usize * UNIT) {
            return None;
        }
        // SAFETY: the region is new, so all of the control part is zero, which is an empty heap, and it is usable.
        unsafe { (*heap.control()).top = first_block() };
        Some(heap)
    }

    /// Bytes that may be in use.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.set(u32::try_from(bytes / UNIT).unwrap_or(u32::MAX));
    }

    /// True if memory was asked for that could not be given.
    pub(crate) fn has_refused(&self) -> bool {
        self.refused.get()
    }

    /// True if a host call has taken more than the limit allows: it may, for a while, since it cannot be ended in its middle.
    pub(crate) fn is_over_limit(&self) -> bool {
        // SAFETY: as in `used`.
        unsafe { (*self.control()).used > self.limit.get() }
    }

    /// Where it can be read at any time, from any OS thread, how many bytes are in use.
    pub(crate) fn gauge(&self) -> Arc<AtomicUsize> {
        self.gauge.clone()
    }

    /// One writer: no need for a locked instruction.
    pub(crate) fn tell_gauge(&self) {
        self.gauge.store(self.used(), Ordering::Relaxed);
    }

    fn control(&self) -> *mut Control {
        self.region.base().as_ptr().cast()
    }

    /// The block whose payload begins at this place: a number of units from the start of the region.
    fn block(&self, place: u32) -> *mut Block {
        self.region.base().as_ptr().wrapping_add(place as usize * UNIT - HEADER).cast()
    }

    fn place(&self, payload: *mut u8) -> u32 {
        ((payload.addr() - self.region.base().as_ptr().addr()) / UNIT) as u32
    }

    fn payload(&self, place: u32) -> *mut u8 {
        self.region.base().as_ptr().wrapping_add(place as usize * UNIT)
    }

    /// Bytes of all blocks in use.
    pub(crate) fn used(&self) -> usize {
        // SAFETY: the control part is usable and initialised for as long as the region is there.
        unsafe { (*self.control()).used as usize * UNIT }
    }

    /// Where the part begins that has never been cut into blocks, in bytes.
    pub(crate) fn top(&self) -> usize {
        // SAFETY: as in `used`. The header of a block lies below its place.
        unsafe { (*self.control()).top as usize * UNIT - HEADER }
    }

    /// Memory for the engine, or null. What would lead beyond the limit ends the script where it `may_die`: the engine's own
    /// ways out of that are not to be trusted. One request for more than the whole limit is an error that a script can catch.
    pub(crate) fn alloc(&self, bytes: usize, may_die: bool) -> *mut u8 {
        let Some(size) = block_size(bytes) else { return self.refuse() };
        // SAFETY: the heap is in order whenever none of its own methods runs, and none runs inside another.
        unsafe { self.take(size, may_die) }.map_or_else(|| self.refuse(), |place| self.payload(place))
    }

    pub(crate) fn calloc(&self, bytes: usize, may_die: bool) -> *mut u8 {
        let touched = self.region.touched();
        let payload = self.alloc(bytes, may_die);
        if !payload.is_null() {
            let start = payload.addr() - self.region.base().as_ptr().addr();
            let dirty = touched.saturating_sub(start).min(bytes);
            // SAFETY: the payload has at least `bytes`, and what lies beyond the mark is zero.
            unsafe { payload.write_bytes(0, dirty) };
        }
        payload
    }

    /// # Safety
    /// `payload` was handed out by this heap and not taken back.
    pub(crate) unsafe fn free(&self, payload: *mut u8) {
        let place = self.place(payload);
        // SAFETY: by the caller's word there is a block in use there.
        let bytes = unsafe {
            let bytes = (*self.block(place)).size as usize * UNIT;
            self.give_back(place);
            bytes
        };
        self.release(place, bytes);
    }

    /// Gives the memory of what has just been freed back to the system, where that is worth a system call.
    fn release(&self, place: u32, bytes: usize) {
        let top = self.top();
        let start = place as usize * UNIT;
        if self.region.touched().saturating_sub(top) >= RELEASE_TOP_BYTES {
            // SAFETY: beyond `top` nothing is in use.
            unsafe { self.region.zero_from(top, KEPT_BYTES) };
        } else if bytes >= RELEASE_BLOCK_BYTES && start < top {
            // The block begins with its links and ends where the header of the next one begins, whatever it was joined with.
            // SAFETY: nothing of that is in use, and a free block's payload but for the links may hold anything.
            unsafe { self.region.release(start + size_of::<Block>()..start + bytes - HEADER) };
        }
    }

    /// # Safety
    /// `payload` was handed out by this heap and not taken back.
    pub(crate) unsafe fn realloc(&self, payload: *mut u8, bytes: usize, may_die: bool) -> *mut u8 {
        let Some(size) = block_size(bytes) else { return self.refuse() };
        let place = self.place(payload);
        // SAFETY: by the caller's word there is a block in use there; a new one does not overlap it.
        unsafe {
            let before = (*self.block(place)).size;
            if size <= before {
                self.cut(place, size);
                return payload;
            }
            if !self.allows((*self.control()).used - before, size, may_die) {
                return self.refuse();
            }
            if self.grow(place, size) {
                return payload;
            }
            // The limit is for what remains in use, not for what is while it is copied.
            (*self.control()).used -= before;
            let moved = self.take(size, false);
            (*self.control()).used += before;
            let Some(moved) = moved else { return self.fail(may_die) };
            let new = self.payload(moved);
            ptr::copy_nonoverlapping(payload, new, before as usize * UNIT - HEADER);
            self.give_back(place);
            new
        }
    }

    /// # Safety
    /// `payload` was handed out by a heap and not taken back.
    pub(crate) unsafe fn usable_size(payload: *mut u8) -> usize {
        // SAFETY: by the caller's word a header stands before it.
        unsafe { (*payload.sub(HEADER).cast::<Block>()).size as usize * UNIT - HEADER }
    }

    /// Whether so many units more may be in use beside `used`.
    fn allows(&self, used: u32, size: u32, may_die: bool) -> bool {
        let limit = self.limit.get();
        let Some(sum) = used.checked_add(size) else { return false };
        if sum <= limit {
            return true;
        }
        if size > limit {
            return false;
        }
        if may_die {
            die(Death::Memory);
        }
        sum <= limit.saturating_add(RESERVE)
    }

    /// There are no addresses left, or the system gives no memory.
    fn fail(&self, may_die: bool) -> *mut u8 {
        if may_die {
            die(Death::Memory);
        }
        self.refuse()
    }

    fn refuse(&self) -> *mut u8 {
        self.refused.set(true);
        ptr::null_mut()
    }

    /// # Safety
    /// As for all below: the heap is in order, and places that are given are those of blocks.
    unsafe fn take(&self, size: u32, may_die: bool) -> Option<u32> {
        // SAFETY: what the lists name are free blocks in the part below `top`, which is usable.
        unsafe {
            let control = self.control();
            if !self.allows((*control).used, size, may_die) {
                return None;
            }
            let place = match self.find(size) {
                Some(place) => {
                    self.unlink(place);
                    let block = self.block(place);
                    (*block).size &= !FREE;
                    self.unpoison(place, (*block).size);
                    (*control).used += (*block).size;
                    self.cut(place, size);
                    place
                }
                None => {
                    let place = (*control).top;
                    if place.checked_add(size).and_then(|top| self.raise_top(top)).is_none() {
                        if may_die {
                            die(Death::Memory);
                        }
                        return None;
                    }
                    let block = self.block(place);
                    (*block).below = (*control).below_top;
                    (*block).size = size;
                    (*control).below_top = size;
                    (*control).used += size;
                    place
                }
            };
            Some(place)
        }
    }

    /// Moves `top` up to `top`, if there is memory.
    unsafe fn raise_top(&self, top: u32) -> Option<()> {
        if top as usize * UNIT > self.region.length() || !self.region.touch(top as usize * UNIT - HEADER) {
            return None;
        }
        self.unpoison_top(top);
        // SAFETY: the control part is always there.
        unsafe { (*self.control()).top = top };
        Some(())
    }

    /// Makes a block in use larger where it is, if what lies behind it is free.
    unsafe fn grow(&self, place: u32, size: u32) -> bool {
        // SAFETY: the block above ours, if ours is not the last, is one of the heap.
        unsafe {
            let (control, block) = (self.control(), self.block(place));
            let before = (*block).size;
            let above = place + before;
            if above == (*control).top {
                let Some(()) = place.checked_add(size).and_then(|top| self.raise_top(top)) else {
                    return false;
                };
                (*block).size = size;
                (*control).below_top = size;
                (*control).used += size - before;
                return true;
            }
            let next = self.block(above);
            if (*next).size & FREE == 0 || before + ((*next).size & !FREE) < size {
                return false;
            }
            self.unlink(above);
            let absorbed = (*next).size & !FREE;
            self.unpoison(above, absorbed);
            (*block).size = before + absorbed;
            (*control).used += absorbed;
            self.tell_above(place);
            self.cut(place, size);
            true
        }
    }

    /// Frees what a block in use has beyond `size`, if that makes a block.
    unsafe fn cut(&self, place: u32, size: u32) {
        // SAFETY: the rest lies inside the block.
        unsafe {
            let block = self.block(place);
            let rest = (*block).size - size;
            if rest < BLOCK_MIN {
                return;
            }
            (*block).size = size;
            let cut = self.block(place + size);
            (*cut).below = size;
            (*cut).size = rest;
            self.tell_above(place + size);
            self.give_back(place + size);
        }
    }

    /// Frees a block in use, and makes it one with what is free beside it.
    unsafe fn give_back(&self, place: u32) {
        // SAFETY: `below` and `size` lead to the blocks beside this one.
        unsafe {
            let control = self.control();
            let (mut place, mut size) = (place, (*self.block(place)).size);
            (*control).used -= size;
            let above = place + size;
            if above != (*control).top && (*self.block(above)).size & FREE != 0 {
                self.unlink(above);
                size += (*self.block(above)).size & !FREE;
            }
            let below = (*self.block(place)).below;
            if below != 0 && (*self.block(place - below)).size & FREE != 0 {
                place -= below;
                self.unlink(place);
                size += below;
            }
            if place + size == (*control).top {
                (*control).top = place;
                (*control).below_top = (*self.block(place)).below;
                self.poison_top();
                return;
            }
            (*self.block(place)).size = size | FREE;
            self.tell_above(place);
            self.link(place, size);
            self.poison(place, size);
        }
    }

    /// Tells the block above one of the size that is below it.
    unsafe fn tell_above(&self, place: u32) {
        // SAFETY: either there is a block above or the control part counts it.
        unsafe {
            let size = (*self.block(place)).size & !FREE;
            if place + size == (*self.control()).top {
                (*self.control()).below_top = size;
            } else {
                (*self.block(place + size)).below = size;
            }
        }
    }

    /// A free block that is large enough: one of the first of its own class, or else the first of the smallest class all of
    /// which are. The engine asks for the same few sizes again and again.
    unsafe fn find(&self, size: u32) -> Option<u32> {
        // SAFETY: the control part is always there, and the lists name free blocks.
        unsafe {
            let control = self.control();
            let (level, class) = class_of(size);
            let mut own = (*control).first[level][class];
            for _ in 0..LOOKS {
                if own == NONE {
                    break;
                }
                if (*self.block(own)).size & !FREE >= size {
                    return Some(own);
                }
                own = (*self.block(own)).next;
            }
            // The least size of the next class up, if this is not the least of its own.
            let step = if size < STEPS as u32 { 0 } else { (1 << (size.ilog2() - STEPS_LOG2)) - 1 };
            let (mut level, class) = class_of(size.checked_add(step)?);
            if level >= LEVELS {
                return None;
            }
            let mut classes = (*control).classes[level] & (u32::MAX << class);
            if classes == 0 {
                let levels = (*control).levels & u32::MAX.checked_shl(level as u32 + 1).unwrap_or(0);
                if levels == 0 {
                    return None;
                }
                level = levels.trailing_zeros() as usize;
                classes = (*control).classes[level];
            }
            Some((*control).first[level][classes.trailing_zeros() as usize])
        }
    }

    unsafe fn link(&self, place: u32, size: u32) {
        let (level, class) = class_of(size);
        // SAFETY: a block of at least two units has room for the links.
        unsafe {
            let control = self.control();
            let next = (*control).first[level][class];
            (*self.block(place)).next = next;
            (*self.block(place)).previous = NONE;
            if next != NONE {
                (*self.block(next)).previous = place;
            }
            (*control).first[level][class] = place;
            (*control).classes[level] |= 1 << class;
            (*control).levels |= 1 << level;
        }
    }

    unsafe fn unlink(&self, place: u32) {
        // SAFETY: a free block is in the list of its class.
        unsafe {
            let control = self.control();
            let Block { size, next, previous, .. } = self.block(place).read();
            let (level, class) = class_of(size & !FREE);
            if next != NONE {
                (*self.block(next)).previous = previous;
            }
            if previous != NONE {
                (*self.block(previous)).next = next;
                return;
            }
            (*control).first[level][class] = next;
            if next == NONE {
                (*control).classes[level] &= !(1 << class);
                if (*control).classes[level] == 0 {
                    (*control).levels &= !(1 << level);
                }
            }
        }
    }
}

/// Level and class of a size.
fn class_of(size: u32) -> (usize, usize) {
    if size < STEPS as u32 {
        return (0, size as usize);
    }
    let log2 = size.ilog2();
    ((log2 - STEPS_LOG2 + 1) as usize, (size >> (log2 - STEPS_LOG2)) as usize & (STEPS - 1))
}

/// The size of the block for so many bytes of payload. None if no block is as large.
fn block_size(bytes: usize) -> Option<u32> {
    let size = bytes.checked_add(HEADER)?.div_ceil(UNIT);
    u32::try_from(size).ok().filter(|size| *size < FREE).map(|size| size.max(BLOCK_MIN))
}

/// Under AddressSanitizer, what is free may not be touched by anybody but this allocator.
#[cfg(not(hats_asan))]
#[expect(clippy::unused_self, reason = "these do something under AddressSanitizer")]
impl Heap {
    fn poison(&self, _place: u32, _size: u32) {}
    fn unpoison(&self, _place: u32, _size: u32) {}
    fn poison_top(&self) {}
    fn unpoison_top(&self, _top: u32) {}
    pub(crate) fn unpoison_all(&self) {}
    pub(crate) fn poison_free(&self) {}
}

#[cfg(hats_asan)]
mod asan {
    use super::{BLOCK_MIN, Block, FREE, HEADER, Heap, UNIT};

    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const u8, size: usize);
        fn __asan_unpoison_memory_region(start: *const u8, size: usize);
    }

    impl Drop for Heap {
        /// Whoever has these addresses next knows nothing of this heap.
        fn drop(&mut self) {
            self.unpoison_all();
        }
    }

    impl Heap {
        /// Beyond the links of a free block.
        pub(super) fn poison(&self, place: u32, size: u32) {
            let start = size_of::<Block>();
            let size = size as usize * UNIT;
            // SAFETY: the range lies in the region; marking it touches nothing.
            unsafe { __asan_poison_memory_region(self.block(place).cast::<u8>().add(start), size - start) };
        }

        pub(super) fn unpoison(&self, place: u32, size: u32) {
            // SAFETY: as in `poison`.
            unsafe { __asan_unpoison_memory_region(self.block(place).cast(), size as usize * UNIT) };
        }

        pub(super) fn poison_top(&self) {
            let (start, end) = (self.top(), self.region.touched());
            // SAFETY: as in `poison`.
            unsafe { __asan_poison_memory_region(self.region.base().as_ptr().add(start), end - start) };
        }

        /// Up to what is going to be the top.
        pub(super) fn unpoison_top(&self, top: u32) {
            let (start, end) = (self.top(), top as usize * UNIT - HEADER);
            // SAFETY: as in `poison`.
            unsafe { __asan_unpoison_memory_region(self.region.base().as_ptr().add(start), end - start) };
        }

        pub(crate) fn unpoison_all(&self) {
            // SAFETY: as in `poison`.
            unsafe { __asan_unpoison_memory_region(self.region.base().as_ptr(), self.region.length()) };
        }

        pub(crate) fn poison_free(&self) {
            let mut place = super::first_block();
            let top = ((self.top() + HEADER) / UNIT) as u32;
            while place < top {
                // SAFETY: sizes lead from block to block.
                let size = unsafe { (*self.block(place)).size };
                assert!(size & !FREE >= BLOCK_MIN);
                if size & FREE != 0 {
                    self.poison(place, size & !FREE);
                }
                place += size & !FREE;
            }
            self.poison_top();
        }
    }
}

#[cfg(test)]
mod tests;

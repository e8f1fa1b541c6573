//! The allocator of interpreters that have no arena: the process's, until the interpreter is being dropped.
//!
//! From then on nothing is freed until the engine has gone. It frees its modules first, and goes on to count references to
//! them where promises of their evaluation are still pending; what it counts in must not be anybody else's by then.
#![expect(unsafe_code, reason = "an allocator hands out and takes back memory, see the safety notes")]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::Cell;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rquickjs::allocator::Allocator;

/// What payloads are aligned to, and what stands before one: its length.
const UNIT: usize = 16;

pub(crate) struct PlainAllocator {
    is_leaving: Rc<Cell<bool>>,
    /// Bytes that are in use. Written by this allocator alone, and read by anybody.
    used: Arc<AtomicUsize>,
    /// Given back meanwhile.
    left: Vec<*mut u8>,
}

impl PlainAllocator {
    /// Once `is_leaving`, nothing is freed before this allocator is dropped. `used` counts the bytes that are in use.
    pub(crate) fn new(is_leaving: Rc<Cell<bool>>, used: Arc<AtomicUsize>) -> Self {
        Self { is_leaving, used, left: Vec::new() }
    }

    /// Counts what was given in place of `before` bytes, if it was given.
    fn counted(&self, payload: *mut u8, before: usize, bytes: usize) -> *mut u8 {
        if !payload.is_null() {
            self.count(before, bytes);
        }
        payload
    }

    /// One writer: no need for a locked instruction.
    fn count(&self, before: usize, bytes: usize) {
        let used = self.used.load(Ordering::Relaxed);
        self.used.store(used.wrapping_sub(before).wrapping_add(bytes), Ordering::Relaxed);
    }
}

impl Drop for PlainAllocator {
    fn drop(&mut self) {
        for payload in self.left.drain(..) {
            // SAFETY: it was handed out and given back once, and the engine that might have looked at it has gone.
            unsafe { dealloc(payload.sub(UNIT), layout_of(payload)) };
        }
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.checked_add(UNIT)?, UNIT).ok()
}

/// # Safety
/// The payload was handed out by a [`PlainAllocator`], and not freed.
unsafe fn length_of(payload: *mut u8) -> usize {
    // SAFETY: by the caller's word its length stands before it.
    unsafe { payload.sub(UNIT).cast::<usize>().read() }
}

/// # Safety
/// As of [`length_of`].
unsafe fn layout_of(payload: *mut u8) -> Layout {
    // SAFETY: by the caller's word; it was made of the same numbers before.
    unsafe { Layout::from_size_align_unchecked(length_of(payload) + UNIT, UNIT) }
}

/// Notes the length of what the process gave, if it gave something.
///
/// # Safety
/// `start` is null or has room for that.
unsafe fn noted(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() {
        return start;
    }
    // SAFETY: by the caller's word.
    unsafe {
        start.cast::<usize>().write(bytes);
        start.add(UNIT)
    }
}

// SAFETY: what is handed out is as long as was asked for, at a multiple of 16 and nobody else's until it is given back.
unsafe impl Allocator for PlainAllocator {
    fn alloc(&mut self, bytes: usize) -> *mut u8 {
        // SAFETY: a layout is never of no size.
        let payload = layout(bytes).map_or(ptr::null_mut(), |layout| unsafe { noted(alloc(layout), bytes) });
        self.counted(payload, 0, bytes)
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        let Some(bytes) = count.checked_mul(size) else { return ptr::null_mut() };
        // SAFETY: a layout is never of no size.
        let payload =
            layout(bytes).map_or(ptr::null_mut(), |layout| unsafe { noted(alloc_zeroed(layout), bytes) });
        self.counted(payload, 0, bytes)
    }

    unsafe fn dealloc(&mut self, payload: *mut u8) {
        if payload.is_null() {
            return;
        }
        if self.is_leaving.get() {
            self.left.push(payload);
            return;
        }
        // SAFETY: by the caller's word it was handed out by this allocator, and is given back once.
        let bytes = unsafe {
            let bytes = length_of(payload);
            dealloc(payload.sub(UNIT), layout_of(payload));
            bytes
        };
        self.count(bytes, 0);
    }

    unsafe fn realloc(&mut self, payload: *mut u8, bytes: usize) -> *mut u8 {
        if payload.is_null() {
            return self.alloc(bytes);
        }
        if self.is_leaving.get() {
            let new = self.alloc(bytes);
            if !new.is_null() {
                // SAFETY: both are as long as is copied, and one was just handed out, so that they do not overlap.
                unsafe { ptr::copy_nonoverlapping(payload, new, length_of(payload).min(bytes)) };
                self.left.push(payload);
            }
            return new;
        }
        let Some(new) = layout(bytes) else { return ptr::null_mut() };
        // SAFETY: by the caller's word it was handed out by this allocator; the new size fits a layout.
        let (moved, before) = unsafe {
            let before = length_of(payload);
            (noted(realloc(payload.sub(UNIT), layout_of(payload), new.size()), bytes), before)
        };
        self.counted(moved, before, bytes)
    }

    unsafe fn usable_size(payload: *mut u8) -> usize {
        // SAFETY: by the caller's word.
        unsafe { length_of(payload) }
    }
}

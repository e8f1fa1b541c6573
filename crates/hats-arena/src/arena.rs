//! The memory of one interpreter, its state at one moment, and the way back to it.
#![expect(unsafe_code, reason = "the memory of an interpreter is copied and written, see the safety notes")]

use std::io;
use std::rc::Rc;

use hats_fiber::host;
use rquickjs::qjs;
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
}

/// What an arena's memory was at one moment, up to the last byte that was not zero.
pub(crate) struct Snapshot {
    bytes: Box<[u8]>,
}

impl Arena {
    /// An arena with room for a heap of `limit` bytes and a stack of `stack`, but without that limit yet.
    pub(crate) fn new(limit: usize, stack: usize) -> io::Result<Self> {
        let space = limit.saturating_mul(SPACE_PER_BYTE).clamp(SPACE_MIN, REGION_MAX);
        let region = Rc::new(Region::reserve(stack, space)?);
        let heap = Heap::new(region.clone()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { region, heap: Rc::new(heap) })
    }

    /// Bytes that may be in use from now on.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.heap.set_limit(bytes);
    }

    /// Knows how many bytes are in use, by blocks and what is around them.
    pub(crate) fn heap(&self) -> &Rc<Heap> {
        &self.heap
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
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

/// How the engine asks for memory: each function is given a pointer to the [`Heap`]. Each is a call of the host, whose end is a
/// place to give way at.
pub(crate) static MALLOC_FUNCTIONS: qjs::JSMallocFunctions = qjs::JSMallocFunctions {
    js_calloc: Some(calloc),
    js_malloc: Some(malloc),
    js_free: Some(free),
    js_realloc: Some(realloc),
    js_malloc_usable_size: Some(usable_size),
};

/// # Safety
/// As for all below: the engine calls, with the pointer that it was given and with payloads that it has got and not given back.
unsafe fn heap<'a>(heap: *mut qjs::c_void) -> &'a Heap {
    // SAFETY: the pointer is that of a heap that outlives its engine.
    unsafe { &*heap.cast::<Heap>() }
}

fn bytes(size: qjs::size_t) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

unsafe extern "C" fn malloc(opaque: *mut qjs::c_void, size: qjs::size_t) -> *mut qjs::c_void {
    host(|may_die| {
        // SAFETY: the engine's word.
        let heap = unsafe { heap(opaque) };
        let payload = heap.alloc(bytes(size), may_die);
        heap.tell_gauge();
        payload.cast()
    })
}

unsafe extern "C" fn calloc(
    opaque: *mut qjs::c_void,
    count: qjs::size_t,
    size: qjs::size_t,
) -> *mut qjs::c_void {
    host(|may_die| {
        // SAFETY: the engine's word.
        let heap = unsafe { heap(opaque) };
        // What does not fit into a number fits into no arena either.
        let payload = heap.calloc(bytes(count).saturating_mul(bytes(size)), may_die);
        heap.tell_gauge();
        payload.cast()
    })
}

unsafe extern "C" fn free(opaque: *mut qjs::c_void, payload: *mut qjs::c_void) {
    if payload.is_null() {
        return;
    }
    host(|_| {
        // SAFETY: the engine's word.
        unsafe {
            let heap = heap(opaque);
            heap.free(payload.cast());
            heap.tell_gauge();
        }
    });
}

unsafe extern "C" fn realloc(
    opaque: *mut qjs::c_void,
    payload: *mut qjs::c_void,
    size: qjs::size_t,
) -> *mut qjs::c_void {
    host(|may_die| {
        // SAFETY: the engine's word.
        unsafe {
            let heap = heap(opaque);
            let moved = if payload.is_null() {
                heap.alloc(bytes(size), may_die)
            } else {
                heap.realloc(payload.cast(), bytes(size), may_die)
            };
            heap.tell_gauge();
            moved.cast()
        }
    })
}

unsafe extern "C" fn usable_size(payload: *const qjs::c_void) -> qjs::size_t {
    if payload.is_null() {
        return 0;
    }
    // SAFETY: the engine's word.
    unsafe { Heap::usable_size(payload.cast_mut().cast()) as qjs::size_t }
}

//! The allocator against a model of it: every block that is in use has its own bytes, where they were put.
#![expect(unsafe_code, reason = "the allocator is called as the engine calls it")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const REGION: usize = 4 << 20;

fn heap(limit: usize) -> Heap {
    let heap = Heap::new(Rc::new(Region::reserve(1 << 20, REGION).unwrap())).unwrap();
    heap.set_limit(limit);
    heap
}

/// Walks all blocks and lists, and says what is not as it must be.
fn check(heap: &Heap) {
    // SAFETY: the heap is in order, or this test fails or crashes, which is as good.
    unsafe {
        let control = &*heap.control();
        let (mut place, mut below, mut used, mut was_free) = (first_block(), 0, 0, false);
        let mut free = Vec::new();
        while place < control.top {
            let block = &*heap.block(place);
            let size = block.size & !FREE;
            assert!(size >= BLOCK_MIN);
            assert_eq!(block.below, below, "at {place}");
            let is_free = block.size & FREE != 0;
            assert!(!(is_free && was_free), "two free blocks side by side at {place}");
            if is_free {
                free.push((place, size));
            } else {
                used += size;
            }
            (was_free, below) = (is_free, size);
            place += size;
        }
        assert_eq!(place, control.top);
        assert_eq!(below, control.below_top);
        assert!(!was_free, "the last block is free");
        assert_eq!(used, control.used);
        let mut listed = Vec::new();
        for level in 0..LEVELS {
            assert_eq!(control.levels & (1 << level) != 0, control.classes[level] != 0);
            for class in 0..STEPS {
                let (mut at, mut before) = (control.first[level][class], NONE);
                assert_eq!(control.classes[level] & (1 << class) != 0, at != NONE);
                while at != NONE {
                    let block = &*heap.block(at);
                    assert_eq!(block.previous, before);
                    assert_eq!(class_of(block.size & !FREE), (level, class));
                    listed.push((at, block.size & !FREE));
                    (before, at) = (at, block.next);
                }
            }
        }
        listed.sort_unstable();
        assert_eq!(listed, free);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize),
    Calloc(usize),
    Free(usize),
    Realloc(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![
        4 => 1_usize..200,
        4 => Just(4072_usize),
        3 => 200_usize..10_000,
        1 => 10_000_usize..1_500_000,
    ];
    let step = prop_oneof![
        3 => size.clone().prop_map(Step::Alloc),
        1 => size.clone().prop_map(Step::Calloc),
        3 => any::<usize>().prop_map(Step::Free),
        3 => (any::<usize>(), size).prop_map(|(which, size)| Step::Realloc(which, size)),
    ];
    prop::collection::vec(step, 0..200)
}

/// What is in use: address, length that was asked for, and the byte that fills it.
type Model = BTreeMap<usize, (*mut u8, usize, u8)>;

fn fill(model: &mut Model, payload: *mut u8, size: usize, byte: u8) {
    assert_eq!(payload.addr() % UNIT, 0);
    // SAFETY: just handed out.
    unsafe {
        assert!(Heap::usable_size(payload) >= size);
        // All that is usable may be used.
        payload.write_bytes(byte, Heap::usable_size(payload));
    }
    model.insert(payload.addr(), (payload, size, byte));
}

fn expect(payload: *mut u8, size: usize, byte: u8) {
    // SAFETY: in use, and written.
    let bytes = unsafe { std::slice::from_raw_parts(payload, size) };
    assert!(bytes.iter().all(|found| *found == byte));
}

proptest! {
    #[test]
    fn what_is_in_use_is_nobody_elses_and_stays_as_it_was_written(steps in steps(), limit in 100_000_usize..REGION) {
        let heap = heap(limit);
        let mut model = Model::new();
        for (n, step) in steps.into_iter().enumerate() {
            let byte = (n % 250) as u8 + 1;
            let pick = |model: &Model, which: usize| model.keys().nth(which % model.len().max(1)).copied();
            match step {
                Step::Alloc(size) => {
                    let payload = heap.alloc(size, false);
                    if !payload.is_null() {
                        fill(&mut model, payload, size, byte);
                    }
                }
                Step::Calloc(size) => {
                    let payload = heap.calloc(size, false);
                    if !payload.is_null() {
                        expect(payload, size, 0);
                        fill(&mut model, payload, size, byte);
                    }
                }
                Step::Free(which) => {
                    if let Some((payload, size, byte)) = pick(&model, which).and_then(|at| model.remove(&at)) {
                        expect(payload, size, byte);
                        // SAFETY: in use until now.
                        unsafe { heap.free(payload) };
                    }
                }
                Step::Realloc(which, size) => {
                    if let Some(at) = pick(&model, which) {
                        let (payload, before, was) = model[&at];
                        // SAFETY: in use.
                        let moved = unsafe { heap.realloc(payload, size, false) };
                        if moved.is_null() {
                            expect(payload, before, was);
                        } else {
                            expect(moved, before.min(size), was);
                            model.remove(&at);
                            fill(&mut model, moved, size, byte);
                        }
                    }
                }
            }
            check(&heap);
            prop_assert!(heap.used() <= limit + RESERVE as usize * UNIT);
        }
        for (payload, size, byte) in model.values() {
            expect(*payload, *size, *byte);
            // SAFETY: in use until now.
            unsafe { heap.free(*payload) };
        }
        check(&heap);
        prop_assert_eq!(heap.used(), 0);
        prop_assert_eq!(heap.top(), first_block() as usize * UNIT - HEADER);
    }
}

#[test]
fn the_limit_and_the_end_of_the_region_are_a_null_pointer() {
    let limited = heap(1 << 20);
    assert!(limited.alloc((1 << 20) + 1, false).is_null());
    assert!(limited.has_refused());
    assert!(!limited.alloc((1 << 20) - HEADER, false).is_null());
    // What a host call takes may be a little more, and is known to be.
    assert!(!limited.is_over_limit());
    assert!(!limited.alloc(1, false).is_null());
    assert!(limited.is_over_limit());
    assert!(!limited.alloc(500 << 10, false).is_null());
    while !limited.alloc(500 << 10, false).is_null() {}
    assert!(limited.used() <= (1 << 20) + RESERVE as usize * UNIT);
    let short = heap(1 << 30);
    assert!(short.alloc(REGION, false).is_null());
    assert!(short.alloc(usize::MAX, false).is_null());
    assert!(short.calloc(usize::MAX - 20, false).is_null());
    assert!(!short.alloc(REGION / 2, false).is_null());
    check(&short);
}

#[test]
fn a_block_grows_where_it_is_if_nothing_is_behind_it() {
    let heap = heap(1 << 20);
    let (first, second) = (heap.alloc(1000, false), heap.alloc(1000, false));
    // SAFETY: all are in use when they are given.
    unsafe {
        assert_eq!(heap.realloc(second, 50_000, false), second);
        assert_eq!(heap.realloc(second, 100, false), second);
        let third = heap.alloc(100, false);
        heap.free(second);
        assert_eq!(heap.realloc(first, 1100, false), first);
        assert_ne!(heap.realloc(first, 50_000, false), first);
        heap.free(third);
    }
    check(&heap);
}

#[test]
fn a_size_that_comes_back_is_taken_again() {
    let heap = heap(1 << 20);
    let blocks: Vec<_> = (0..20).map(|_| heap.alloc(4072, false)).collect();
    let top = heap.top();
    for round in 0..10 {
        // SAFETY: in use, each freed once.
        unsafe { heap.free(blocks[3 + round % 2]) };
        assert_eq!(heap.alloc(4072, false), blocks[3 + round % 2]);
    }
    assert_eq!(heap.top(), top);
}

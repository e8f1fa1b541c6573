//! Random JavaScript under random limits, preempted and abandoned at random moments, beside a neighbour that is checked.
#![no_main]

use std::cell::RefCell;

use hats_fiber::{Preemption, Ticks};
use hats_fuzz::case::{Case, Neighbour};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static LANE: RefCell<Option<(Ticks, Neighbour)>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    LANE.with_borrow_mut(|lane| {
        let (_, neighbour) = lane.get_or_insert_with(|| {
            let ticks = hats_arena::attach(Preemption::Auto).expect("ends of host calls are always there");
            (ticks, Neighbour::new())
        });
        Case::new(bytes).run(neighbour);
    });
});

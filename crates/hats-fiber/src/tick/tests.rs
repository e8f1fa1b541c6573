//! Signals at the moments at which nothing can be suspended.
#![expect(unsafe_code, reason = "a signal is raised and a timer read")]

use super::*;

fn is_armed() -> bool {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut left = libc::itimerspec { it_interval: zero, it_value: zero };
    // SAFETY: the timer is this OS thread's own, and the structure is ours.
    unsafe { libc::timer_gettime(TIMER.get().unwrap(), &raw mut left) };
    left.it_value.tv_sec > 0 || left.it_value.tv_nsec > 0
}

/// A timer of the slice before may go off after the slice has begun and before its fiber is switched to.
#[test]
fn a_signal_before_the_fiber_of_a_slice_is_switched_to_is_not_the_last_one() {
    let _ticks = make_timer().unwrap();
    set_slice_of_tests(Some(Box::new(|| Duration::from_nanos(1))));
    IS_UNDER_WAY.set(true);
    begin_slice();
    assert!(!is_armed());
    // SAFETY: the handler of the tick is installed, and runs before this returns.
    unsafe { libc::raise(libc::SIGURG) };
    assert!(IS_UNDER_WAY.get());
    // It goes off again and again meanwhile.
    assert!((0..1000).any(|_| is_armed()));
    end_slice();
    set_slice_of_tests(None);
}

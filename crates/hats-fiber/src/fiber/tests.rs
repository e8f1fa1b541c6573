//! Fibers on a real executor.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::{
    Ask, DEFAULT_STACK_BYTES, Ended, Fiber, Handle, current_ask, running_for, wait, wait_ending,
    wait_through, wait_unless_killed,
};
use tokio::time::sleep;

fn fiber<T, F: FnMut() -> T>(f: F) -> Fiber<F, T> {
    Fiber::new(Handle::new(), DEFAULT_STACK_BYTES, f).unwrap()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn many_fibers_wait_side_by_side_on_one_thread() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let local = tokio::task::LocalSet::new();
    for n in [3_u64, 1, 2] {
        let order = order.clone();
        local.spawn_local(fiber(move || {
            wait(sleep(Duration::from_millis(n * 10))).unwrap();
            order.borrow_mut().push(n);
        }));
    }
    local.await;
    assert_eq!(*order.borrow(), [1, 2, 3]);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_wait_that_may_end_early_does_and_the_fiber_runs_on() {
    let handle = Handle::new();
    let body = Fiber::new(handle.clone(), DEFAULT_STACK_BYTES, || {
        let early = wait_ending(sleep(Duration::from_secs(3600)));
        let late = wait(sleep(Duration::from_millis(5)));
        (early, late, current_ask())
    })
    .unwrap();
    let (result, ()) = tokio::join!(body, async { handle.ask(Ask::EndWaits) });
    assert_eq!(result.unwrap(), (Err(Ended::Early), Ok(()), Ask::EndWaits));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_interrupt_ends_every_wait_until_it_is_withdrawn() {
    let handle = Handle::new();
    let inner = handle.clone();
    let body = Fiber::new(handle.clone(), DEFAULT_STACK_BYTES, move || {
        let first = wait(sleep(Duration::from_secs(3600)));
        let second = wait(sleep(Duration::from_millis(1)));
        inner.withdraw_interrupt();
        (first, second, wait(sleep(Duration::from_millis(1))))
    })
    .unwrap();
    let (result, ()) = tokio::join!(body, async { handle.ask(Ask::Interrupt) });
    assert_eq!(result.unwrap(), (Err(Ended::Interrupted), Err(Ended::Interrupted), Ok(())));
}

#[tokio::test(flavor = "current_thread")]
async fn a_kill_cannot_be_withdrawn() {
    let handle = Handle::new();
    handle.ask(Ask::Kill);
    handle.withdraw_interrupt();
    assert_eq!(handle.asked(), Ask::Kill);
}

#[tokio::test(flavor = "current_thread")]
async fn a_dropped_fiber_is_run_to_its_end() {
    let ended = Rc::new(Cell::new(false));
    let inner = ended.clone();
    let mut body = Box::pin(fiber(move || {
        let outcome = wait(std::future::pending::<()>());
        let again = wait(std::future::pending::<()>());
        assert_eq!((outcome, again), (Err(Ended::Interrupted), Err(Ended::Interrupted)));
        inner.set(true);
    }));
    tokio::select! {
        biased;
        _ = &mut body => panic!("it waits for ever"),
        () = tokio::task::yield_now() => {}
    }
    drop(body);
    assert!(ended.get());
}

#[tokio::test(flavor = "current_thread")]
async fn a_fiber_that_never_began_is_just_dropped() {
    let began = Rc::new(Cell::new(false));
    let inner = began.clone();
    drop(fiber(move || inner.set(true)));
    assert!(!began.get());
    assert_eq!(Rc::strong_count(&began), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_panic_inside_becomes_an_error() {
    let error = fiber(|| panic!("boom")).await.unwrap_err();
    assert_eq!(error.to_string(), "internal panic: boom");
}

#[tokio::test(flavor = "current_thread")]
async fn a_fiber_inside_a_fiber_keeps_them_apart() {
    let result = fiber(|| {
        let inner =
            wait(fiber(|| wait(async { tokio::task::yield_now().await }).map(|()| 1))).unwrap().unwrap();
        (inner, wait(async { tokio::task::yield_now().await }).map(|()| 2))
    })
    .await
    .unwrap();
    assert_eq!(result, (Ok(1), Ok(2)));
}

#[tokio::test(flavor = "current_thread")]
async fn the_slice_begins_anew_at_each_resume() {
    let (before, after) = fiber(|| {
        std::thread::sleep(Duration::from_millis(20));
        let before = running_for();
        wait(tokio::task::yield_now()).unwrap();
        (before, running_for())
    })
    .await
    .unwrap();
    assert!(before >= Duration::from_millis(20));
    assert!(after < before);
}

#[test]
fn outside_a_fiber_a_wait_blocks_the_thread() {
    assert_eq!(wait(async { 7 }), Ok(7));
    assert_eq!(running_for(), Duration::ZERO);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_seen_through_ends_by_itself_whatever_is_asked() {
    let handle = Handle::new();
    handle.ask(Ask::Kill);
    let body =
        Fiber::new(handle, DEFAULT_STACK_BYTES, || wait_through(sleep(Duration::from_millis(5)))).unwrap();
    assert_eq!(body.await.unwrap(), Ok(()));
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_seen_through_ends_when_the_fiber_is_dropped() {
    let ended = Rc::new(Cell::new(false));
    let inner = ended.clone();
    let mut body = Box::pin(fiber(move || {
        assert_eq!(wait_through(std::future::pending::<()>()), Err(Ended::Interrupted));
        inner.set(true);
    }));
    tokio::select! {
        biased;
        _ = &mut body => panic!("it waits for ever"),
        () = tokio::task::yield_now() => {}
    }
    drop(body);
    assert!(ended.get());
}

/// Pending once, and woken at once.
async fn once_pending() {
    let mut polled = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Were the inner wait to suspend the fiber, the outer future would go on with the context of a poll that is long over.
#[tokio::test(flavor = "current_thread")]
async fn a_wait_inside_a_polled_future_does_not_suspend_it() {
    let polls = Rc::new(Cell::new(0));
    let inner = polls.clone();
    let mut body = Box::pin(fiber(move || {
        wait(async {
            wait(once_pending()).unwrap();
            inner.set(1);
            once_pending().await;
        })
    }));
    std::future::poll_fn(|context| {
        assert!(body.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    assert_eq!(polls.get(), 1);
    assert_eq!(body.await.unwrap(), Ok(()));
}

#[tokio::test(flavor = "current_thread")]
async fn a_panic_in_a_waited_future_leaves_the_fiber_a_fiber() {
    let result = fiber(|| {
        let poll = std::panic::AssertUnwindSafe(|| wait(async { panic!("boom") }));
        assert!(std::panic::catch_unwind(poll).is_err());
        wait(tokio::task::yield_now())
    });
    assert_eq!(result.await.unwrap(), Ok(()));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_only_a_kill_ends_outlasts_an_interrupt() {
    let handle = Handle::new();
    handle.ask(Ask::Interrupt);
    let body = Fiber::new(handle.clone(), DEFAULT_STACK_BYTES, || {
        (
            wait_unless_killed(sleep(Duration::from_millis(5))),
            wait_unless_killed(std::future::pending::<()>()),
        )
    })
    .unwrap();
    let kill = async {
        sleep(Duration::from_millis(50)).await;
        handle.ask(Ask::Kill);
    };
    let (ended, ()) = tokio::join!(body, kill);
    assert_eq!(ended.unwrap(), (Ok(()), Err(Ended::Interrupted)));
}

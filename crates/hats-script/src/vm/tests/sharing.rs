//! How scripts share a lane, and how they are stopped.

use super::*;

#[tokio::test]
async fn endless_scripts_share_a_lane_with_the_others() {
    let lanes = one_lane();
    let fake = Fake::new();
    let hogs: Vec<_> = (0..5)
        .map(|_| spawn(&lanes, &fake, Limits::default(), |vm| vm.load("while (true) {}", "hog.js")))
        .collect();
    let other = spawn(&lanes, &fake, Limits::default(), |vm| {
        vm.load("function main() { sleep(1) }", "test.js")?;
        for _ in 0..20 {
            vm.call("main")?;
        }
        Ok::<_, ScriptError>(())
    });
    assert_eq!(other.1.await, Ok(()));
    for (handle, ended) in hogs {
        handle.kill();
        assert_eq!(ended.await, Err(ScriptError::Lost));
    }
}

#[tokio::test]
async fn a_stop_ends_sleeps_and_lets_the_call_finish() {
    let fake = Fake::new();
    let (slept, mut sleeping) = tokio::sync::oneshot::channel();
    let lanes = one_lane();
    let (handle, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load(
            "function main() { globalThis.full = sleep(3600000); sleep(1); globalThis.done = true }",
            "test.js",
        )?;
        slept.send(()).unwrap();
        vm.call("main")?;
        Ok::<_, ScriptError>((vm.eval("full")?, vm.eval("done")?, vm.idle(Some(Duration::from_secs(3600)))?))
    });
    (&mut sleeping).await.unwrap();
    handle.interrupt_waits();
    assert_eq!(ended.await, Ok(("false".to_owned(), "true".to_owned(), Wake::Stop)));
}

#[tokio::test]
async fn an_interrupt_cannot_be_caught_and_can_be_withdrawn() {
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let lanes = one_lane();
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load("function main() { while (true) { try { sleep(10) } catch (e) {} } } function cleanup() { globalThis.clean = 1 }", "test.js")?;
        loaded.send(()).unwrap();
        let main = vm.call("main");
        vm.withdraw_interrupt();
        vm.call("cleanup")?;
        Ok::<_, ScriptError>((main, vm.eval("clean")?))
    });
    loading.await.unwrap();
    handle.interrupt();
    assert_eq!(ended.await, Ok((Err(ScriptError::Interrupted), "1".to_owned())));
}

#[tokio::test]
async fn idle_time_runs_timers_and_ends_when_it_should() {
    let lanes = one_lane();
    let (ticked, ticking) = tokio::sync::oneshot::channel();
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load("globalThis.n = 0; setInterval(() => n++, 2)", "test.js")?;
        while vm.eval("n >= 3")? != "true" {
            assert_eq!(vm.idle(Some(Duration::from_millis(5)))?, Wake::Elapsed);
        }
        ticked.send(()).unwrap();
        vm.idle(None)
    });
    ticking.await.unwrap();
    handle.interrupt_waits();
    assert_eq!(ended.await, Ok(Wake::Stop));
}

#[tokio::test]
async fn a_timer_that_throws_is_an_error_of_the_script() {
    let lanes = one_lane();
    let (_, ended) = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load("setTimeout(() => { throw new Error('late') }, 1)", "test.js")?;
        vm.idle(None)
    });
    let error = ended.await.unwrap_err().to_string();
    assert!(error.starts_with("Error: late\n"), "{error}");
}

#[tokio::test]
async fn a_lane_says_which_task_it_is_in_and_its_kind() {
    let lanes = one_lane();
    let status = lanes.status().remove(0);
    let inner = status.clone();
    let (_, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |_| inner.script());
    assert_eq!(ended.await, Some((Kind::Thread, "test.js".to_owned())));
    assert_eq!(status.script(), None);
}

#[tokio::test]
async fn closing_the_lanes_ends_the_scripts_on_them() {
    let lanes = one_lane();
    let (_, ended) =
        spawn(&lanes, &Fake::new(), Limits::default(), |vm| vm.load("while (true) sleep(1000)", "test.js"));
    let closing = tokio::task::spawn_blocking(move || drop(lanes));
    closing.await.unwrap();
    // Either the script was killed or it had not begun; in both cases it is over.
    let _ = tokio::time::timeout(Duration::from_secs(5), tokio::spawn(ended)).await.expect("it has ended");
}

#[tokio::test]
async fn who_takes_a_lane_or_a_heap_weighs_more_than_the_others() {
    let lanes = one_lane();
    let fake = Fake::new();
    let loaded = |source: &'static str| {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (handle, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| {
            vm.load(source, "test.js")?;
            let _ = tell.send(());
            vm.call("main")
        });
        (handle, ended, told)
    };
    let mut scripts = vec![
        loaded("function main() { while (true) {} }"),
        loaded("const large = new Uint8Array(5e6); function main() { while (true) sleep(10) }"),
        loaded("function main() { while (true) sleep(10) }"),
        loaded("function main() { while (true) sleep(10) }"),
    ];
    for (_, _, told) in &mut scripts {
        told.await.unwrap();
    }
    let weights = loop {
        let mut weights = lanes.status()[0].weights();
        weights.sort_by(|a, b| b.time.total_cmp(&a.time));
        if weights[0].time > 0.05 {
            break weights;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(weights.len(), 4);
    assert!(weights[1].time < weights[0].time / 2.0, "{weights:?}");
    let large: Vec<_> = weights.iter().map(|weight| weight.heap > 5_000_000).collect();
    assert_eq!(large.iter().filter(|large| **large).count(), 1, "{weights:?}");
    assert!(!large[0] && weights.iter().all(|weight| weight.heap > 10_000), "{weights:?}");
    for (handle, ended, _) in scripts {
        handle.kill();
        assert_eq!(ended.await, Err(ScriptError::Lost));
    }
    assert!(lanes.status()[0].weights().is_empty());
}

//! Scripts that mean harm, or are written by accident as if they did: each harms itself alone.

use super::*;

/// The end of a call of `main` under a time limit, and of the `cleanup` that follows it.
async fn ends(source: &'static str) -> (Result<(), ScriptError>, Result<(), ScriptError>) {
    let limits = Limits { call_timeout: Some(Duration::from_millis(30)), ..Limits::default() };
    let lanes = one_lane();
    let run = spawn(&lanes, &Fake::new(), limits, move |vm| {
        vm.load(source, "test.js")?;
        let main = vm.call("main");
        Ok::<_, ScriptError>((main, vm.call("cleanup")))
    });
    run.1.await.unwrap()
}

#[tokio::test]
async fn what_a_script_catches_does_not_hide_that_its_time_was_over() {
    let timeout = Err(ScriptError::Timeout(Duration::from_millis(30)));
    for source in [
        "function main() { try { sleep(60000) } catch (e) {} }",
        "async function endless() { for (;;); } function main() { endless() }",
        "async function endless() { for (;;); } async function main() { try { await endless() } catch (e) {} }",
        "function main() { queueMicrotask(() => { for (;;); }) } async function cleanup() { await null }",
        "async function main() { Promise.reject(new Error('also')); for (;;) await null }",
        "function main() { new Promise(() => { for (;;); }) }",
        "function* endless() { try { for (;;) yield 1 } finally { for (;;); } } function main() { for (const n of endless()); }",
    ] {
        assert_eq!(ends(source).await, (timeout.clone(), Ok(())), "{source}");
    }
}

#[tokio::test]
async fn timers_that_take_longer_than_their_interval_leave_time_for_the_rest() {
    const SOURCE: &str =
        "setInterval(() => { const begun = Date.now(); while (Date.now() - begun < 5); }, 1)";
    let lanes = one_lane();
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load(SOURCE, "test.js")?;
        let first = vm.idle(Some(Duration::from_millis(1)))?;
        Ok::<_, ScriptError>((first, vm.idle(None)?))
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    handle.interrupt_waits();
    assert_eq!(ended.await, Ok((Wake::Elapsed, Wake::Stop)));
}

#[tokio::test]
async fn what_is_kept_outside_of_the_heap_has_limits_of_its_own() {
    let lanes = one_lane();
    for (expression, expected) in [
        (
            "(() => { const many = Array(30000).fill(0); try { for (;;) setTimeout(() => {}, 1e9, ...many) } catch (e) { return `${e}` } })()",
            "RangeError: setTimeout: too many timers",
        ),
        (
            "(() => { const many = Array(30000).fill(0); for (let n = 0; n < 10; n++) clearTimeout(setTimeout(() => {}, 1e9, ...many)); return 'ok' })()",
            "ok",
        ),
        (
            "(() => { for (let n = 0; n < 10; n++) { const error = env.Set(`k${n}`, 'x'.repeat(1 << 20)); if (error) return error } })()",
            "k3: the variables set by scripts would take more than 4194304 bytes",
        ),
        ("env.Set('k0', 'short')", "null"),
        ("console.log(...Array(2000).fill('x'.repeat(1 << 20)))", "undefined"),
        ("console.log(Array(100).fill('\\u0001'.repeat(1 << 20)))", "undefined"),
    ] {
        assert_eq!(try_eval(&lanes, "", expression).await.as_deref(), Ok(expected), "{expression}");
    }
}

#[tokio::test]
async fn native_code_that_calls_itself_comes_to_an_end() {
    let lanes = one_lane();
    for expression in [
        "JSON.parse('['.repeat(300000))",
        "(() => { let a = []; for (let n = 0; n < 300000; n++) a = [a]; return JSON.stringify(a) })()",
        "(() => { let a = []; for (let n = 0; n < 300000; n++) a = [a]; return structuredClone(a) })()",
        "(() => { const all = []; const o = { get x() { return String(console.log(o)) } }; console.log(o) })()",
        "(() => { const p = new Proxy({}, { get: console.log, has: console.log }); const o = Object.create(p); console.log(o); return `${p}` })()",
        "new RegExp('('.repeat(100000) + ')'.repeat(100000))",
        "eval('('.repeat(100000) + '1' + ')'.repeat(100000))",
        "(() => { const o = { toString() { return `${o}` } }; return `${o}` })()",
    ] {
        // Whatever comes of it, it comes.
        let _ = try_eval(&lanes, "", expression).await;
    }
    assert_eq!(try_eval(&lanes, "", "'alive'").await.as_deref(), Ok("alive"));
}

#[tokio::test]
async fn limits_that_no_script_can_run_with_are_errors() {
    let lanes = one_lane();
    for (limits, expected) in [
        (
            Limits { stack: usize::MAX, ..Limits::default() },
            "no interpreter for the script: its StackLimit of 18446744073709551615 bytes is not from 16384 to 16777216",
        ),
        (
            Limits { stack: 1, ..Limits::default() },
            "no interpreter for the script: its StackLimit of 1 bytes is not from 16384 to 16777216",
        ),
        (
            Limits { memory: 1000, ..Limits::default() },
            "no interpreter for the script: Allocation failed while creating object (its heap limit, MemoryLimit, is 1000 bytes)",
        ),
    ] {
        let task = ScriptTask { control: Fake::new(), limits };
        let error = lanes.spawn(task, async |_: &mut Vm| ()).1.await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

/// A look-up is the script's code as well, and begins with a clean slate: what had ended the call before is over.
#[tokio::test]
async fn functions_are_found_after_an_interrupt_and_behind_getters() {
    const SOURCE: &str = "function main() { sleep(60000) } let looked = 0; \
        Object.defineProperty(globalThis, 'cleanup', { get() { for (let n = 0; n < 100000; n++); looked++; return () => {} } }); \
        Object.defineProperty(globalThis, 'init', { get() { throw new Error('no') } })";
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let lanes = one_lane();
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(SOURCE, "test.js")?;
        loaded.send(()).unwrap();
        let main = vm.call("main");
        vm.withdraw_interrupt();
        Ok::<_, ScriptError>((main, vm.has("cleanup"), vm.has("init"), vm.eval("looked > 0")?))
    });
    loading.await.unwrap();
    handle.interrupt();
    assert_eq!(ended.await, Ok((Err(ScriptError::Interrupted), true, false, "true".to_owned())));
}

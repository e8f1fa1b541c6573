//! What a call finds in a source, and the ways in which it fails.

use super::*;

#[tokio::test]
async fn functions_are_found_whatever_they_are_declared_with() {
    let lanes = one_lane();
    for source in [
        "function main() { globalThis.ran = true }",
        "const main = () => { globalThis.ran = true }",
        "let main = async () => { await null; globalThis.ran = true }",
        "var main = function () { globalThis.ran = true }",
        "globalThis.main = () => { globalThis.ran = true }",
        "export function main() { globalThis.ran = true }",
        "await null; export const main = async () => { globalThis.ran = true }",
    ] {
        let ran = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(source, "test.js")?;
            assert!(vm.has("main") && !vm.has("init"));
            vm.call("main")?;
            vm.call("cleanup")?;
            vm.eval("globalThis.ran")
        });
        assert_eq!(ran.1.await, Ok("true".to_owned()), "{source}");
    }
}

#[tokio::test]
async fn a_source_runs_once_even_when_its_error_looks_like_a_module() {
    let error =
        load_error("globalThis.n = (globalThis.n ?? 0) + 1; JSON.parse('{'); // import", Limits::default())
            .await;
    assert!(error.starts_with("SyntaxError"), "{error}");
}

#[tokio::test]
async fn errors_keep_name_message_and_place() {
    for (source, expected) in [
        (
            "let x = 1;\nfunction f() { null.y }\nf();",
            "TypeError: cannot read property 'y' of null\n    at f (test.js:2:",
        ),
        ("let x = ;", "SyntaxError: unexpected token in expression: ';'\n    at test.js:1:"),
        (
            "throw null",
            "uncaught null (by the script, or for want of memory: its heap limit, MemoryLimit, is 67108864 bytes)",
        ),
        ("throw 'text'", "uncaught text"),
        ("throw {code: 7}", "uncaught { code: 7 }"),
        (
            "Promise.reject(new RangeError('far'))",
            "unhandled rejection: RangeError: far\n    at <eval> (test.js:1:",
        ),
        ("(async () => { throw new Error('inside') })()", "unhandled rejection: Error: inside"),
        ("await null; throw new Error('module')", "Error: module"),
        ("queueMicrotask(() => { throw new Error('micro') })", "Error: micro"),
        ("class Mine extends Error { name = 'Mine' }; throw new Mine('own')", "Mine: own"),
        (
            "const e = new Error('x'); Object.defineProperty(e, 'stack', {get() { throw 1 }}); throw e",
            "Error: x",
        ),
        ("import x from './other.js'", ""),
        ("\0", "SyntaxError: the source contains a NUL character"),
    ] {
        let error = load_error(source, Limits::default()).await;
        assert!(error.starts_with(expected), "{source}: {error}");
    }
}

#[tokio::test]
async fn a_handled_rejection_is_no_error() {
    let expression =
        "(async () => { const p = Promise.reject(1); try { await p } catch (e) { return e } })()";
    assert_eq!(try_eval(&one_lane(), "", expression).await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn every_limit_ends_in_its_own_error() {
    let small = Limits { memory: 4 << 20, ..Limits::default() };
    for bomb in [
        "const all = []; while (true) all.push('x'.repeat(10000) + all.length)",
        "let s = 'x'; while (true) s += s",
        "try { const all = []; while (true) all.push([1, 2, 3]) } catch (e) { throw e }",
    ] {
        let error = load_error(bomb, small).await;
        assert!(
            error.starts_with("MemoryError")
                || error.starts_with("uncaught null (by the script, or for want of memory")
                || error.starts_with("InternalError: string too long"),
            "{bomb}: {error}"
        );
    }
    let shallow = Limits { stack: 100_000, ..Limits::default() };
    for recursion in [
        "(function f() { f() })()",
        "[1, 2].sort(function f(a, b) { return [a, b].sort(f) })",
        "(async function f() { await f() })()",
    ] {
        let error = load_error(recursion, shallow).await;
        let expected = "StackError: the script needs more than its stack limit of 100000 bytes \
                        (StackLimit of the task, --stack-limit of the worker): ";
        assert!(error.starts_with(expected), "{recursion}: {error}");
        assert!(error.contains("RangeError: Maximum call stack size exceeded\n"), "{error}");
        assert!(error.contains("at f (test.js:1:"), "{error}");
    }
    let long = "x".repeat((1 << 20) + 1);
    assert_eq!(
        load_error(&long, Limits::default()).await,
        "SourceError: the source has 1048577 bytes, more than the limit of 1048576 \
         (SourceLimit of the task, --source-limit of the worker)"
    );
    let hasty = Limits { call_timeout: Some(Duration::from_millis(30)), ..Limits::default() };
    for slow in [
        "while (true) {}",
        "try { while (true) {} } catch (e) { globalThis.caught = 1 } finally { while (true) {} }",
        "sleep(60000)",
        "while (true) { try { sleep(1000) } catch (e) {} }",
        "await new Promise(done => setTimeout(done, 60000)); export {}",
        "(function again() { Promise.resolve().then(again) })()",
        "/(x+x+)+y/.test('x'.repeat(40))",
    ] {
        let error = load_error(slow, hasty).await;
        let expected = "TimeoutError: the call took longer than its limit of 30ms \
                        (CallTimeout of the task, --call-timeout of the worker)";
        assert_eq!(error, expected, "{slow}");
    }
}

#[tokio::test]
async fn rejections_that_are_handled_later_take_linear_time() {
    // A table that is searched from end to end takes minutes for the last of these.
    let limits = Limits { call_timeout: Some(Duration::from_secs(20)), ..Limits::default() };
    let lanes = one_lane();
    for count in [10_000, 60_000] {
        let run = spawn(&lanes, &Fake::new(), limits, move |vm| {
            let source = format!(
                "async function main() {{ \
                     const all = Array.from({{length: {count}}}, async (_, n) => {{ throw n }}); \
                     const settled = await Promise.allSettled(all); \
                     const right = settled.filter(({{status, reason}}, n) => status === 'rejected' && reason === n); \
                     if (right.length !== {count}) throw new Error(right.length) }}"
            );
            vm.load(&source, "test.js")?;
            vm.call("main")
        });
        assert_eq!(run.1.await, Ok(()), "{count}");
    }
}

#[tokio::test]
async fn the_first_rejection_that_nobody_handles_is_the_error() {
    for (source, expected) in [
        ("Promise.reject(1); Promise.reject(2)", "unhandled rejection: uncaught 1"),
        (
            "const p = Promise.reject(1); Promise.reject(2); p.catch(() => {})",
            "unhandled rejection: uncaught 2",
        ),
        (
            "const [p, , r] = [1, 2, 3].map(n => Promise.reject(n)); r.catch(() => {}); p.catch(() => {}); \
             p.catch(() => {}); Promise.reject(4)",
            "unhandled rejection: uncaught 2",
        ),
    ] {
        assert_eq!(load_error(source, Limits::default()).await, expected, "{source}");
    }
}

#[tokio::test]
async fn a_promise_that_nothing_can_settle_ends_the_call() {
    let lanes = one_lane();
    let limits = Limits { call_timeout: Some(Duration::from_secs(10)), ..Limits::default() };
    for source in [
        "async function main() { await new Promise(() => {}) }",
        "async function main() { for (;;) try { await new Promise(() => {}) } finally { continue } }",
        "async function main() { await new Promise(r => setTimeout(r, 1)); await new Promise(() => {}) }",
        "async function main() { clearInterval(setInterval(() => {}, 1e6)); await new Promise(() => {}) }",
        "const main = () => ({ then() {} }).then ? Promise.resolve({ then() {} }) : 0",
        // A fault of the engine: a call after `return()` that came before the first `next()` is never answered.
        "async function main() { const g = (async function* () { yield 1 })(); g.return(1); await g.next() }",
    ] {
        let run = spawn(&lanes, &Fake::new(), limits, move |vm| {
            vm.load(source, "test.js")?;
            vm.call("main")
        });
        assert_eq!(run.1.await, Err(ScriptError::Unsettled), "{source}");
    }
    // As soon as it is loaded: a module awaits at its top level.
    let error = load_error("await new Promise(() => {}); export {}", limits).await;
    assert_eq!(
        error,
        "UnsettledError: the promise that the call returned, or that a module awaits, can never settle: \
         nothing is left that could resolve it (no timer, no request in flight)"
    );
    // What settles it in time, and what fails before, counts.
    for (source, expected) in [
        (
            "async function main() { setTimeout(() => { throw 1 }, 1); await new Promise(() => {}) }",
            "uncaught 1",
        ),
        (
            "async function main() { Promise.reject(2); await new Promise(() => {}) }",
            "unhandled rejection: uncaught 2",
        ),
        (
            "let n = 0, done; setInterval(() => { if (++n > 9) done() }, 1); \
          async function main() { await new Promise(r => done = r); throw n }",
            "uncaught 10",
        ),
        (
            "async function main() { await new Promise(r => AbortSignal.timeout(1).onabort = r); throw 3 }",
            "uncaught 3",
        ),
    ] {
        let run = spawn(&lanes, &Fake::new(), limits, move |vm| {
            vm.load(source, "test.js")?;
            vm.call("main")
        });
        assert_eq!(run.1.await.unwrap_err().to_string(), expected, "{source}");
    }
}

#[tokio::test]
async fn an_effect_behind_a_lost_lease_does_not_happen() {
    let fake = Fake::new();
    let inner = fake.clone();
    let lanes = one_lane();
    let run = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load("function main() { try { thread.Disable() } catch (e) {} thread.Disable() }", "test.js")?;
        inner.trusted_ms.store(0, Ordering::Relaxed);
        vm.call("main")
    });
    assert_eq!(run.1.await, Err(ScriptError::Lost));
    assert_eq!(fake.disables.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_call_that_outlasts_its_lease_is_lost_even_if_it_has_no_effect() {
    let fake = Fake::new();
    let inner = fake.clone();
    let lanes = one_lane();
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let run = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load("function main() { sleep(50) }", "test.js")?;
        loaded.send(()).unwrap();
        vm.call("main")
    });
    loading.await.unwrap();
    inner.trusted_ms.store(0, Ordering::Relaxed);
    assert_eq!(run.1.await, Err(ScriptError::Lost));
}

/// The engine looks for interrupts while the scope is made as well.
#[tokio::test]
async fn a_script_that_has_to_end_before_it_has_begun_says_why() {
    let lanes = one_lane();
    for fake in [Fake::new(), Fake::job()] {
        fake.trusted_ms.store(0, Ordering::Relaxed);
        let run = spawn(&lanes, &fake, Limits::default(), |vm| vm.load("", "test.js"));
        assert_eq!(run.1.await, Err(ScriptError::Lost));
    }
}

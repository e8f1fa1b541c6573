//! One case for each line of what scripts can call, and for each way in which a script can fail.

use super::*;

async fn check(source: &'static str, cases: &[(&'static str, &str)]) {
    let lanes = one_lane();
    for (expression, expected) in cases {
        let shown = match try_eval(&lanes, source, expression).await {
            Ok(text) => text,
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        assert_eq!(shown, *expected, "{expression}");
    }
}

#[tokio::test]
async fn env_is_an_overlay_that_hides_the_workers_own_names() {
    check(
        "",
        &[
            ("env.Get('HATS_SCRIPT_TEST_ABSENT')", "undefined"),
            ("env.Get('no_such_variable')", "undefined"),
            ("typeof env.Get('PATH')", "string"),
            ("env.Set('colour', 'blue')", "null"),
            ("(env.Set('n', 5), env.Get('n'))", "5"),
            ("(env.Set('gone', 1), env.Unset('gone'), env.Get('gone'))", "undefined"),
            (
                "env.Set('HATS_X', 1)",
                "HATS_X belongs to the worker: names that begin with HATS_ cannot be set",
            ),
            ("env.Set('a=b', 1)", "\"a=b\" is no name of an environment variable"),
            ("env.Get()", "TypeError: env.Get: argument 1 must be a string, not undefined"),
            (
                "env.Set('k', {})",
                "TypeError: env.Set: argument 2 must be a string, number, bigint or boolean, not an object",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn worker_and_thread_tell_who_they_are() {
    check(
        "",
        &[
            (
                "`${worker.Name} ${worker.Cluster} ${worker.ShuttingDown} ${worker.Healthy}`",
                "w1 default false true",
            ),
            ("thread.Key", "default:Threads:test.js"),
            ("thread.Hang", "1.5"),
            ("thread.Epoch", "1700000000123"),
            ("thread.Stopped", "false"),
            ("thread.State()", "running"),
            ("thread.Status()", "Error: thread.Status: no connection"),
            ("thread.Stop()", "undefined"),
            ("thread.Disable()", "undefined"),
        ],
    )
    .await;
}

#[tokio::test]
async fn timers_promises_and_clones_work_as_on_the_web() {
    check(
        "let log = [];",
        &[
            ("sleep(1)", "true"),
            ("sleep('x')", "TypeError: sleep: argument 1 must be a number, not \"x\""),
            ("sleep(-1)", "TypeError: sleep: argument 1 must be a number of milliseconds, not -1"),
            ("new Promise(r => setTimeout((a, b) => r(a + b), 5, 1, 2))", "3"),
            ("(async () => { const t = setTimeout(() => log.push('no'), 1); clearTimeout(t); await new Promise(r => setTimeout(r, 10)); return log.length })()", "0"),
            ("new Promise(r => { let n = 0; const t = setInterval(() => { if (++n === 3) { clearInterval(t); r(n) } }, 0) })", "3"),
            ("(async () => { queueMicrotask(() => log.push('m')); await null; await null; return log.join() })()", "m"),
            ("setTimeout(1)", "TypeError: setTimeout: argument 1 must be a function, not 1"),
            ("clearTimeout(12345), clearTimeout(), clearInterval('x')", "undefined"),
            ("structuredClone({a: [1, new Date(0), new Map([[1, {b: 2}]])], s: new Set([3])})",
             "{ a: [1, 1970-01-01T00:00:00.000Z, Map(1) { 1 => { b: 2 } }], s: Set(1) { 3 } }"),
            ("(() => { const o = {}; o.self = o; const c = structuredClone(o); return c !== o && c.self === c })()", "true"),
            ("structuredClone(new Uint8Array([1, 2]))", "Uint8Array(2) [1, 2]"),
            ("structuredClone(() => 1)", "DataCloneError: structuredClone: () => 1 cannot be cloned"),
        ],
    )
    .await;
}

#[tokio::test]
async fn values_are_shown_usefully() {
    check(
        "class Point { constructor() { this.x = 1 } } const loop = {}; loop.me = loop;",
        &[
            ("'plain'", "plain"),
            ("['text', 1.5, true, null, undefined, 10n]", "[\"text\", 1.5, true, null, undefined, 10n]"),
            ("new Point()", "Point { x: 1 }"),
            ("loop", "{ me: [Circular] }"),
            ("({a: {b: {c: {d: {}}}}})", "{ a: { b: { c: { d: [Object] } } } }"),
            (
                "[function named() {}, () => {}, Symbol('s'), /x/g]",
                "[[Function: named], [Function], Symbol(s), /x/g]",
            ),
            ("({get bad() { throw 1 }})", "{ bad: [throws] }"),
            ("new Proxy({}, {})", "[Proxy]"),
            ("({'odd key': 1})", "{ \"odd key\": 1 }"),
            ("console.log('a', {b: 1}, '\\ud800')", "undefined"),
        ],
    )
    .await;
}

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
    check(
        "",
        &[("(async () => { const p = Promise.reject(1); try { await p } catch (e) { return e } })()", "1")],
    )
    .await;
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
        "await new Promise(() => {}); export {}",
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

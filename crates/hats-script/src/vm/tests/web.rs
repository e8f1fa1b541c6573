//! Names of the web: what they do, and what they cost.

use super::*;

const PRELUDE: &str = include_str!("web/prelude.js");

/// The facts of `web/cases.txt`: expressions, and what is shown of them.
fn cases() -> Vec<(&'static str, &'static str)> {
    let lines: Vec<_> = include_str!("web/cases.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    lines.chunks(2).map(|pair| (pair[0], pair[1])).collect()
}

#[tokio::test]
async fn names_of_the_web_do_what_the_standards_say() {
    let lanes = one_lane();
    let mut wrong = Vec::new();
    for (expression, expected) in cases() {
        let in_thread = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(PRELUDE, "prelude.js")?;
            vm.eval(&format!("attempt(() => ({expression}\n))"))
        });
        let in_job = spawn(&lanes, &Fake::job(), Limits::default(), move |vm| {
            let source = format!("{PRELUDE}\nfunction main() {{ return attempt(() => ({expression}\n)) }}");
            vm.run_once(&source.into(), "prelude.js", None).result.map(Option::unwrap_or_default)
        });
        for (task, run) in [("a thread", in_thread.1.await), ("a job", in_job.1.await)] {
            let shown = run.unwrap_or_else(|error| format!("failed: {error}"));
            if shown != expected {
                wrong.push(format!("in {task}: {expression}\n  is   {shown}\n  not  {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn check(cases: &[(&'static str, &str)]) {
    let lanes = one_lane();
    for (expression, expected) in cases {
        let shown = match try_eval(&lanes, "", expression).await {
            Ok(text) => text,
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        assert_eq!(shown, *expected, "{expression}");
    }
}

#[tokio::test]
async fn errors_name_the_call_and_the_argument() {
    check(&[
        ("new URL()", "TypeError: URL: argument 1 is missing"),
        ("new URL('nonsense')", "TypeError: URL: \"nonsense\" is not a valid URL"),
        ("new URL('//x', 'mailto:a')", "TypeError: URL: \"//x\" is not a valid URL, relative to \"mailto:a\""),
        ("new URL('a:b').href = '::'", "TypeError: URL.href: \"::\" is not a valid URL"),
        ("new URLSearchParams().append('a')", "TypeError: URLSearchParams.append: argument 2 is missing"),
        ("new URLSearchParams([[1]])", "TypeError: URLSearchParams: argument 1 has an item that is no pair of a name and a value"),
        ("new TextDecoder('x')", "RangeError: TextDecoder: \"x\" is not a known encoding"),
        (
            "new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([255]))",
            "TypeError: TextDecoder.decode: the bytes are not valid utf-8",
        ),
        (
            "new TextDecoder().decode('x')",
            "TypeError: TextDecoder.decode: argument 1 must be an ArrayBuffer or a view of one",
        ),
        ("new TextEncoder().encodeInto('x', 1)", "TypeError: TextEncoder.encodeInto: argument 2 must be a Uint8Array"),
        ("atob()", "TypeError: atob: argument 1 must be a string, not undefined"),
        ("atob('!')", "InvalidCharacterError: atob: argument 1 is not correctly encoded base64"),
        (
            "btoa('€')",
            "InvalidCharacterError: btoa: argument 1 has a character above U+00FF: encode it first, with TextEncoder for instance",
        ),
        (
            "crypto.getRandomValues(new Uint8Array(65537))",
            "QuotaExceededError: crypto.getRandomValues: at most 65536 bytes are given at once, not 65537",
        ),
        (
            "crypto.getRandomValues([])",
            "TypeError: crypto.getRandomValues: argument 1 must be a typed array of integers",
        ),
        ("structuredClone()", "TypeError: structuredClone: argument 1 is missing"),
        (
            "AbortSignal.timeout('x')",
            "TypeError: AbortSignal.timeout: argument 1 must be a number of milliseconds",
        ),
        ("AbortSignal.abort().throwIfAborted()", "AbortError: The operation was aborted"),
    ])
    .await;
}

#[tokio::test]
async fn objects_of_the_web_are_shown_usefully() {
    check(&[
        ("new URL('https://a/?b')", "URL https://a/?b"),
        ("[new URLSearchParams('a=1&b=2')]", "[URLSearchParams a=1&b=2]"),
        ("(() => { const u = new URL('a:b'); u.toString = () => { throw 1 }; return u })()", "URL {}"),
    ])
    .await;
    let shown = try_eval(&one_lane(), "", "[new DOMException('no', 'AbortError')]").await.unwrap();
    assert!(shown.starts_with("[AbortError: no\n    at <eval>"), "{shown}");
}

#[tokio::test]
async fn an_uncaught_dom_exception_keeps_name_message_and_place() {
    let error = load_error("function f() { atob('!') }\nf();", Limits::default()).await;
    assert_eq!(
        error.lines().next(),
        Some("InvalidCharacterError: atob: argument 1 is not correctly encoded base64")
    );
    assert!(error.contains("at f (test.js:1:"), "{error}");
}

#[tokio::test]
async fn a_listener_that_throws_is_an_error_of_the_script_and_stops_no_other() {
    let lanes = one_lane();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load(
            "globalThis.seen = 0; const target = new EventTarget(); \
             target.addEventListener('x', () => { throw new RangeError('mine') }); \
             target.addEventListener('x', () => seen++); \
             function main() { target.dispatchEvent(new Event('x')); seen++ }",
            "test.js",
        )?;
        let error = vm.call("main").unwrap_err().to_string();
        assert!(error.starts_with("RangeError: mine\n"), "{error}");
        vm.eval("seen")
    });
    assert_eq!(run.1.await.as_deref(), Ok("2"));
}

#[tokio::test]
async fn a_signal_that_lives_long_keeps_none_that_nobody_listens_to() {
    let lanes = one_lane();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load(
            "const stop = new AbortController(); \
             function main() { for (let n = 0; n < 500; n++) { \
               const signal = AbortSignal.any([stop.signal]); const f = () => {}; \
               signal.addEventListener('abort', f); signal.removeEventListener('abort', f); } }",
            "test.js",
        )?;
        vm.call("main")?;
        let before = vm.memory_used();
        for _ in 0..5 {
            vm.call("main")?;
        }
        assert!(vm.memory_used() < before + 10_000, "{before} bytes, then {}", vm.memory_used());
        // One that is listened to is kept, and hears.
        vm.eval(
            "(() => { let heard = 0; AbortSignal.any([stop.signal]).onabort = () => heard++; stop.abort(); return heard })()",
        )
    });
    assert_eq!(run.1.await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn a_script_may_have_things_of_its_own_by_these_names() {
    let lanes = one_lane();
    for name in [
        "http",
        "fetch",
        "URL",
        "URLSearchParams",
        "TextEncoder",
        "TextDecoder",
        "atob",
        "btoa",
        "crypto",
        "performance",
        "structuredClone",
        "Event",
        "CustomEvent",
        "EventTarget",
        "AbortSignal",
        "AbortController",
        "DOMException",
    ] {
        for own in [
            format!("var {name} = 5;"),
            format!("let {name} = 5;"),
            format!("const {name} = 5;"),
            format!("{name} = 5;"),
            format!("globalThis.{name} = 5;"),
            format!("'use strict'; {name} = 5;"),
            format!("function {name}() {{}} {name} = 5;"),
            format!("class {name} {{}}; globalThis.before = typeof {name}; {name} = 5;"),
            format!("delete globalThis.{name}; globalThis.{name} = 5;"),
            format!("Object.defineProperty(globalThis, '{name}', {{ value: 5 }});"),
            format!("export {{}}; globalThis.{name} = 5;"),
        ] {
            let source = own.clone();
            let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
                vm.load(&source, "test.js")?;
                vm.eval(name)
            });
            assert_eq!(run.1.await.as_deref(), Ok("5"), "{own}");
        }
    }
}

/// What a script does to the built-in objects is its own affair: it may get odd results, and nothing else.
#[tokio::test]
async fn patched_built_in_objects_harm_their_script_alone() {
    let lanes = one_lane();
    for patch in [
        "Uint8Array.prototype.toBase64 = () => '!!!!'",
        "Uint8Array.prototype.toBase64 = () => 'AAAA'",
        "Uint8Array.prototype.toBase64 = () => ({})",
        "globalThis.Uint8Array = class {}",
        "Object.defineProperty(Uint8Array.prototype, 'buffer', { value: new ArrayBuffer(3) })",
        "Object.defineProperty(Uint8Array.prototype, 'byteOffset', { value: -1 })",
        "Object.defineProperty(Uint8Array.prototype, 'length', { value: 1e9 })",
        "Array.prototype[Symbol.iterator] = () => ({ next() { throw 1 } })",
        "Object.prototype.toString = Object.keys = Object.defineProperty = () => { throw 1 }",
        "globalThis.DOMException = 5",
        "String.prototype.toWellFormed = () => 5",
        "globalThis.performance = globalThis.queueMicrotask = globalThis.AbortSignal = undefined",
        "delete globalThis.URL; globalThis.URLSearchParams = null",
        "WeakRef.prototype.deref = Set.prototype.add = () => 1",
        "globalThis.TextDecoder = function () { return new Proxy({}, { get() { throw 1 } }) }",
    ] {
        for use_of in [
            "new TextDecoder().decode(new Uint8Array(1000).fill(97)).length",
            "new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([255]))",
            "new TextEncoder().encode('abc').length",
            "new URL('https://a/?b=c').searchParams.get('b')",
            "`${new URLSearchParams([['a', '\\ud800']])}`",
            "atob('!')",
            "crypto.getRandomValues(new Uint8Array(8)).length",
            "crypto.randomUUID().length",
            "AbortSignal.any([new AbortController().signal]).aborted",
            "new EventTarget().dispatchEvent(new Event('x'))",
            "structuredClone({ a: [1, new Map()] })",
        ] {
            // Whatever comes of it, it comes.
            let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
                let _ = vm.load(patch, "test.js");
                let _ = vm.eval(use_of);
            });
            run.1.await;
        }
    }
    assert_eq!(try_eval(&lanes, "", "new URL('https://a').href").await.as_deref(), Ok("https://a/"));
}

#[tokio::test]
async fn long_texts_and_bytes_are_converted_within_the_limits() {
    let lanes = one_lane();
    for (expression, expected) in [
        (
            "(() => { const bytes = new Uint8Array(3 << 20).map((_, n) => n % 251); const text = new TextDecoder('latin1').decode(bytes); \
             return text.length === bytes.length && [...Array(251).keys()].every((n) => text.charCodeAt(n * 1001) === new TextDecoder('latin1').decode(bytes.subarray(n * 1001, n * 1001 + 1)).charCodeAt(0)) })()",
            "true",
        ),
        (
            "new TextDecoder().decode(new TextEncoder().encode('ä€😀'.repeat(200000))) === 'ä€😀'.repeat(200000)",
            "true",
        ),
        ("atob(btoa('\\u00ff'.repeat(1000000))) === '\\u00ff'.repeat(1000000)", "true"),
        ("[...new URLSearchParams('a=b&'.repeat(100000))].length", "100000"),
        (
            "(() => { const p = new URL('a:').searchParams; for (let n = 0; n < 300; n++) p.append('a', n); return p.size })()",
            "300",
        ),
        ("new URL('https://a/' + 'x/../'.repeat(200000)).href", "https://a/"),
        ("URL.canParse('https://' + 'a.'.repeat(100000))", "true"),
    ] {
        assert_eq!(try_eval(&lanes, "", expression).await.as_deref(), Ok(expected), "{expression}");
    }
    let small = Limits { memory: 4 << 20, ..Limits::default() };
    let error =
        load_error("const all = []; for (;;) all.push(new TextEncoder().encode('x'.repeat(100000)))", small)
            .await;
    assert!(error.starts_with("MemoryError"), "{error}");
    let hasty = Limits { call_timeout: Some(Duration::from_millis(30)), ..Limits::default() };
    let error =
        load_error("const bytes = new Uint8Array(8 << 20); for (;;) new TextDecoder().decode(bytes)", hasty)
            .await;
    assert!(error.starts_with("TimeoutError"), "{error}");
}

/// What each name adds to a script's heap once it is used. The heap is counted in the blocks that the engine takes, so a ceiling may be asserted;
/// what the process has resident is measured by the bench `figures web`.
#[tokio::test]
async fn a_name_of_the_web_costs_only_those_who_use_it() {
    async fn heap(source: &'static str) -> usize {
        let lanes = one_lane();
        let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(source, "test.js")?;
            vm.interpreter.with(|ctx| ctx.run_gc());
            Ok::<_, ScriptError>(vm.memory_used())
        });
        run.1.await.unwrap()
    }
    let idle = heap("").await;
    println!("{:<60} {:>7} bytes of heap", "a script that uses none", idle);
    for (source, ceiling) in [
        ("new URL('https://a/?b=c').searchParams", 65_000),
        ("new URLSearchParams('a=b')", 65_000),
        ("new TextEncoder().encode('a')", 35_000),
        ("new TextDecoder().decode(new Uint8Array(100))", 35_000),
        ("crypto.randomUUID()", 12_000),
        ("new AbortController()", 65_000),
        ("structuredClone({})", 35_000),
        ("btoa(atob('YQ=='))", 4_000),
        ("http.Get", 16_000),
        ("performance.timeOrigin + performance.now()", 1_000),
        ("new DOMException()", 1_000),
    ] {
        let more = heap(source).await.saturating_sub(idle);
        println!("{source:<60} {more:>7} more");
        assert!(more < ceiling, "{source}: {more} bytes");
    }
}

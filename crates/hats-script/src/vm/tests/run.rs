//! One run of a source: what it returns, what it leaves behind, how it ends.

use super::*;

async fn run_for(source: &str, timeout: Option<Duration>, limits: Limits) -> Run {
    let source = Bundle::from(source);
    let lanes = one_lane();
    spawn(&lanes, &Fake::job(), limits, move |vm| vm.run_once(&source, "test.js", timeout)).1.await
}

async fn run(source: &str) -> Run {
    run_for(source, None, Limits::default()).await
}

#[tokio::test]
async fn the_result_is_what_main_returns() {
    for (source, expected) in [
        ("function main() { return 'text' }", Some("text")),
        ("let n = 1; n += 1; function main() { return n + 1 }", Some("3")),
        ("const main = async () => { await null; return {a: [1n, 'b']} }", Some("{ a: [1n, \"b\"] }")),
        ("function main() { return new Promise(done => setTimeout(done, 5, 'later')) }", Some("later")),
        ("export function main() { return new Date(0) }", Some("1970-01-01T00:00:00.000Z")),
        ("await null; export const main = async () => true", Some("true")),
        ("function main() { return null }", Some("null")),
        ("function main() { return '' }", Some("")),
        ("function main() {}", None),
        ("var main = 5", None),
        ("'the last value'", None),
        ("Promise.resolve('the last value')", None),
        ("", None),
    ] {
        assert_eq!(
            run(source).await,
            Run { result: Ok(expected.map(str::to_owned)), log: Vec::new() },
            "{source}"
        );
    }
}

#[tokio::test]
async fn a_run_has_the_modules_of_its_bundle() {
    let source = Bundle {
        modules: std::sync::Arc::new([("add.js".to_owned(), "export default (a, b) => a + b".into())].into()),
        ..Bundle::from("import add from './add.js'; export const main = () => add(1, 2)")
    };
    let lanes = one_lane();
    let (_, ended) =
        spawn(&lanes, &Fake::job(), Limits::default(), move |vm| vm.run_once(&source, "test.js", None));
    assert_eq!(ended.await.result, Ok(Some("3".to_owned())));
}

#[tokio::test]
async fn a_run_ends_when_source_and_main_have_been_awaited() {
    for (source, expected) in [
        (
            "console.log('load'); async function main() { sleep(1); await null; console.log('main') }",
            vec!["load", "main"],
        ),
        (
            "(async () => { await new Promise(done => setTimeout(done, 5)); console.log('awaited') })()",
            vec!["awaited"],
        ),
        ("await new Promise(done => setTimeout(done, 5)); console.log('module'); export {}", vec!["module"]),
        (
            "queueMicrotask(() => console.log('micro')); Promise.resolve().then(() => console.log('then'))",
            vec!["micro", "then"],
        ),
        // What nobody waits for.
        ("setInterval(() => console.log('tick'), 1); setTimeout(() => console.log('late'), 2)", vec![]),
        ("new Promise(() => {}); function main() { console.log('main') }", vec!["main"]),
        // These are for threads.
        (
            "function init() { console.log('init') } function main() {} function cleanup() { console.log('cleanup') }",
            vec![],
        ),
    ] {
        assert_eq!(
            run(source).await,
            Run { result: Ok(None), log: expected.into_iter().map(str::to_owned).collect() },
            "{source}"
        );
    }
}

#[tokio::test]
async fn what_goes_wrong_fails_the_run() {
    for (source, expected) in [
        (
            "null.x; function main() { console.log('main') }",
            "TypeError: cannot read property 'x' of null\n    at <eval> (test.js:1:",
        ),
        ("\nfunction main() { throw new RangeError('far') }", "RangeError: far\n    at main (test.js:2:"),
        ("async function main() { await null; throw 'text' }", "uncaught text"),
        (
            "function main() { Promise.reject(new Error('left')); return 1 }",
            "unhandled rejection: Error: left\n",
        ),
        (
            "(async () => { await new Promise(done => setTimeout(done, 5)); throw new Error('at last') })()",
            "Error: at last\n",
        ),
        (
            "function main() { return { get x() { Promise.reject(new Error('shown')); return 1 } } }",
            "unhandled rejection: Error: shown\n",
        ),
        (
            "setTimeout(() => { throw new Error('timer') }, 1); async function main() { await new Promise(() => {}) }",
            "Error: timer\n",
        ),
        ("function main(", "SyntaxError: "),
        (
            "async function main() { await new Promise(() => {}) }",
            "UnsettledError: the promise that the call returned",
        ),
        ("new Promise(() => {})", "UnsettledError: the promise that"),
    ] {
        let Run { result, log } = run(source).await;
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{source}: {error}");
        assert_eq!(log, Vec::<String>::new());
    }
    let failed = run("console.log('before'); function main() { throw 1 }").await;
    assert_eq!(failed.log, ["before"]);
}

#[tokio::test]
async fn what_a_run_leaves_behind_is_bounded() {
    let run = run("for (let n = 1; n <= 25; n++) console.log('line', n); \
         console.info({a: 1}); console.warn('careful'); console.error('wrong'); console.log('ä'.repeat(2000)); \
         function main() { return 'ö'.repeat(5000) }")
    .await;
    assert_eq!(run.result, Ok(Some(format!("{}…", "ö".repeat(4000)))));
    let mut expected: Vec<String> = (10..=25).map(|n| format!("line {n}")).collect();
    expected.extend(["{ a: 1 }", "warn: careful", "error: wrong"].map(str::to_owned));
    expected.push(format!("{}…", "ä".repeat(1000)));
    assert_eq!(run.log, expected);
}

#[tokio::test]
async fn the_time_limit_is_that_of_the_whole_run() {
    const LIMIT: Duration = Duration::from_millis(100);
    for source in [
        "for (;;);",
        "function main() { for (;;); }",
        "sleep(60); function main() { sleep(60) }",
        "function main() { for (;;) try { for (;;) sleep(1) } catch {} finally { for (;;); } }",
        "async function main() { for (;;) await null }",
        "async function main() { setInterval(() => {}, 1); await new Promise(() => {}) }",
        "setTimeout(() => {}, 1e6); new Promise(() => {})",
        "function main() { return { get x() { for (;;); } } }",
    ] {
        let run = run_for(source, Some(LIMIT), Limits::default()).await;
        assert_eq!(run.result, Err(ScriptError::RunTimeout(LIMIT)), "{source}");
    }
    assert_eq!(
        ScriptError::RunTimeout(LIMIT).to_string(),
        "TimeoutError: the run took longer than its limit of 100ms (Timeout)"
    );
}

#[tokio::test]
async fn a_call_has_its_own_limit_beside_that_of_the_run() {
    let hasty = Limits { call_timeout: Some(Duration::from_millis(30)), ..Limits::default() };
    let run = run_for("function main() { for (;;); }", Some(Duration::from_secs(3600)), hasty).await;
    assert_eq!(run.result, Err(ScriptError::Timeout(Duration::from_millis(30))));
    let run = run_for("function main() { return 1 }", Some(Duration::MAX), Limits::default()).await;
    assert_eq!(run.result, Ok(Some("1".to_owned())));
}

#[tokio::test]
async fn a_stop_is_seen_and_ends_waits() {
    let lanes = one_lane();
    let fake = Fake::job();
    let (handle, ended) = spawn(&lanes, &fake, Limits::default(), |vm| {
        let source = "function main() { return [sleep(3600000), job.Stopped] }";
        vm.run_once(&source.into(), "test.js", None)
    });
    fake.stopped.store(true, Ordering::Relaxed);
    handle.interrupt_waits();
    assert_eq!(ended.await.result, Ok(Some("[false, true]".to_owned())));
}

#[tokio::test]
async fn an_interrupt_and_a_lost_lease_end_a_run() {
    let lanes = one_lane();
    let run = |fake: &std::sync::Arc<Fake>| {
        spawn(&lanes, fake, Limits::default(), |vm| {
            let source = "function main() { for (;;) try { sleep(10) } catch {} }";
            vm.run_once(&source.into(), "test.js", None).result
        })
    };
    let (handle, ended) = run(&Fake::job());
    handle.interrupt();
    assert_eq!(ended.await, Err(ScriptError::Interrupted));
    let fake = Fake::job();
    let (_handle, ended) = run(&fake);
    fake.trusted_ms.store(0, Ordering::Relaxed);
    assert_eq!(ended.await, Err(ScriptError::Lost));
}

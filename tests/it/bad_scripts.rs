//! Scripts that do what scripts should not do are crashed with an error that helps, and harm nothing else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, Shape};
use hats_tests::{Lab, clock};

/// Name, source, and what the `Error` must contain.
fn cases() -> Vec<(&'static str, String, &'static [&'static str])> {
    let source = |text: &str| text.to_owned();
    vec![
        (
            "memory",
            source("function main() { const a = []; for (;;) a.push('x'.repeat(1000) + a.length); }"),
            &["heap limit"],
        ),
        (
            "bigstring",
            source(
                "function main() { const s = 'x'.repeat(10 << 20); const a = []; for (;;) a.push(s + a.length + s); }",
            ),
            &["heap limit"],
        ),
        ("recursion", source("function main() { return main() + 1; }"), &["stack"]),
        ("bigsource", format!("const s = '{}';", "x".repeat(10 << 20)), &["limit of 1048576"]),
        ("bigerror", source("function main() { throw new Error('y'.repeat(10 << 20)); }"), &["yyyy"]),
        ("syntax", source("let a = 1;\nfunction main( {"), &["SyntaxError", "syntax:2"]),
        (
            "rejected",
            source("async function main() { await null; throw new TypeError('no luck'); }"),
            &["TypeError: no luck", "main"],
        ),
        (
            "unhandled",
            source("function main() { Promise.reject(new Error('nobody listens')); }"),
            &["nobody listens"],
        ),
        ("null", source("function main() { throw null; }"), &["null"]),
        ("object", source("function main() { throw {code: 7}; }"), &["7"]),
        (
            "in_init",
            source("function init() { undefinedThing(); }\nfunction main() {}"),
            &["ReferenceError", "undefinedThing", "init"],
        ),
        (
            "in_source",
            source("\n\nthrow new RangeError('at once');"),
            &["RangeError: at once", "in_source:3"],
        ),
        (
            "in_timer",
            source("setTimeout(() => { throw new Error('later'); }, 10); function main() { sleep(1); }"),
            &["later"],
        ),
        ("arguments", source("function main() { redis.Do({}); }"), &["TypeError", "redis.Do"]),
        (
            "conversion",
            source("function main() { const pair = redis.Do('GET', 'k'); pair[0] = pair; String(pair); }"),
            &["stack"],
        ),
        (
            "too_many_bytes",
            source("function main() { redis.Do('ECHO', ...Array(100).fill('x'.repeat(10 << 20))); }"),
            &["redis.Do", "heap limit"],
        ),
    ]
}

#[test]
fn are_crashed_with_an_error_that_helps() -> Result<()> {
    Lab::run("bad scripts", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 1, threads: 4, ..Shape::default() })?;
        let pid = cluster.seat(0)?.worker.pid();
        for (name, source, _) in cases() {
            cluster.redis.ask(&["HSET", &Cluster::key(name), "Source", &source, "Restart", "never"])?;
        }
        for (name, _, parts) in cases() {
            let key = Cluster::key(name);
            clock::wait_for(&format!("{name} to be crashed"), Duration::from_secs(20), || {
                Ok((cluster.redis.field(&key, "State")? == "crashed").then_some(()))
            })?;
            let error = cluster.redis.field(&key, "Error")?;
            for part in parts {
                ensure!(
                    error.contains(part),
                    "{name}: no {part:?} in {:?}",
                    error.get(..error.len().min(500))
                );
            }
            ensure!(error.len() < 100_000, "{name}: an Error of {} bytes", error.len());
            ensure!(!cluster.redis.field(&key, "ErrorTime")?.is_empty(), "{name}: no ErrorTime");
            ensure!(
                cluster.redis.field(&key, "Status")? == "disabled",
                "{name}: Restart=never did not disable it"
            );
        }
        // The others have not noticed.
        cluster.all_run(clock::now(), Duration::from_secs(5))?;
        ensure!(cluster.seat(0)?.worker.pid() == pid && cluster.seat(0)?.worker.process().is_running());
        ensure!(cluster.finish()?.lost == 0, "a session was lost");
        Ok(())
    })
}

#[test]
fn are_tried_again_with_growing_pauses_and_at_once_when_changed() -> Result<()> {
    Lab::run("restarts", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 2, ..Shape::default() })?;
        let key = Cluster::key("loop");
        let source = "function main() { redis.Call('INCR', 'tries'); throw new Error('again'); }";
        cluster.redis.ask(&["HSET", &key, "Source", source])?;
        clock::wait_for("a third try", Duration::from_secs(20), || {
            Ok(cluster.redis.ask(&["GET", "tries"])?.int().filter(|tries| *tries >= 3))
        })?;
        clock::wait_for("the crash to be written", Duration::from_secs(5), || {
            Ok(cluster.redis.field(&key, "Error")?.contains("again").then_some(()))
        })?;
        // Four seconds of pause lie ahead; a better source ends them.
        cluster.define("loop", "function main() { sleep(10); }")?;
        let changed = clock::now();
        cluster.run(&["loop".to_owned()], changed, Duration::from_secs(3)).context("after the change")?;
        cluster.finish()?;
        Ok(())
    })
}

#[test]
fn a_malformed_field_crashes_its_thread_alone() -> Result<()> {
    Lab::run("malformed", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 1, threads: 4, ..Shape::default() })?;
        for (field, value) in [
            ("Hang", "soon"),
            ("Restart", "maybe"),
            ("MemoryLimit", "-5"),
            ("StackLimit", "1000"),
            ("SourceLimit", "1TiB"),
            ("HttpBodyLimit", "all"),
            ("LogLineLimit", "none"),
            ("CallTimeout", "0"),
        ] {
            let key = Cluster::key(field);
            cluster.redis.ask(&["HSET", &key, "Source", "function main() {}", field, value])?;
            let error = clock::wait_for(&format!("{field} to be refused"), Duration::from_secs(10), || {
                Ok(Some(cluster.redis.field(&key, "Error")?).filter(|error| !error.is_empty()))
            })?;
            let expected = format!("field {field}: {value:?} is not valid: expected ");
            ensure!(error.starts_with(&expected), "{error}");
            ensure!(cluster.redis.field(&key, "State")? == "crashed");
        }
        cluster.all_run(clock::now(), Duration::from_secs(5))?;
        cluster.finish()?;
        Ok(())
    })
}

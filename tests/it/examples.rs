//! Every file in `examples/` is run, and what it prints is what `examples/expected/` says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::redis::RedisServer;
use hats_tests::web::WebServer;
use hats_tests::worker::{self, Options, Worker, workspace};
use hats_tests::{Lab, clock};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// The examples that a test of this module, `endpoints` or `real_input` runs.
pub(crate) const COVERED: [&str; 21] = [
    "embed.rs",
    "endpoints/guests.html",
    "endpoints/visits/[page].js",
    "env.js",
    "hello.js",
    "http.js",
    "jobs/counter.js",
    "jobs/retry.js",
    "modules/lib/counter.js",
    "modules/lib/farewell.js",
    "modules/lib/greet.js",
    "modules/main.js",
    "preload/main.js",
    "preload/text.js",
    "redis.js",
    "sql.js",
    "thread_control.js",
    "typescript.ts",
    "tzdata.js",
    "web.js",
    "worker1.config",
];

#[test]
fn every_example_has_a_test() -> Result<()> {
    let mut files = BTreeSet::new();
    let mut folders = vec![workspace().join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(workspace().join("examples"))?.to_string_lossy().into_owned();
            if !path.is_dir() {
                files.insert(name);
            } else if !["data", "expected"].contains(&&*name) {
                folders.push(path);
            }
        }
    }
    assert_eq!(files, COVERED.map(str::to_owned).into());
    Ok(())
}

/// What the script of a worker with JSON logs has printed so far.
pub(crate) fn printed(log: &Path) -> Vec<String> {
    let content = fs::read_to_string(log).unwrap_or_default();
    content
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["target"] == "script")
        .filter_map(|event| event["message"].as_str().map(str::to_owned))
        .collect()
}

fn expected(name: &str) -> Result<Vec<String>> {
    let path = workspace().join("examples/expected").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Runs a script on the embedded Redis until it has printed all but the last `after` lines, then drains it.
fn check(name: &str, after: usize) -> Result<()> {
    check_with(name, after, &[])
}

/// The same with environment variables.
fn check_with(name: &str, after: usize, environment: &[(&str, &str)]) -> Result<()> {
    check_script(name, &format!("{name}.js"), after, environment)
}

/// The same for a script of another name.
fn check_script(name: &str, script: &str, after: usize, environment: &[(&str, &str)]) -> Result<()> {
    Lab::run(name, |lab| {
        let expected = expected(name)?;
        let script = format!("examples/{script}");
        let mut options = Options::bare(name).argument("--scripts", &script).argument("--log-format", "json");
        for (key, value) in environment {
            options = options.environment(key, value);
        }
        let worker = Worker::start(lab, options)?;
        let enough = expected.len() - after;
        clock::wait_for(&format!("{enough} lines of {name}"), PATIENCE, || {
            Ok((printed(worker.log()).len() >= enough).then_some(()))
        })?;
        worker.drain(PATIENCE)?;
        assert_eq!(printed(worker.log()), expected);
        Ok(())
    })
}

#[test]
fn hello() -> Result<()> {
    check("hello", 1)
}

#[test]
fn env() -> Result<()> {
    check("env", 0)
}

#[test]
fn http() -> Result<()> {
    let server = WebServer::start()?;
    check_with("http", 0, &[("EXAMPLE_URL", &server.url())])
}

#[test]
fn redis() -> Result<()> {
    check("redis", 0)
}

#[test]
fn sql() -> Result<()> {
    check("sql", 0)
}

#[test]
fn thread_control() -> Result<()> {
    check("thread_control", 0)
}

#[test]
fn modules() -> Result<()> {
    check_script("modules", "modules/main.js", 0, &[])
}

#[test]
fn typescript() -> Result<()> {
    check_script("typescript", "typescript.ts", 0, &[])
}

#[test]
fn preload() -> Result<()> {
    check_script("preload", "preload/main.js", 0, &[("HATS_PRELOAD", "examples/preload/text.js")])
}

#[test]
fn web() -> Result<()> {
    check("web", 0)
}

/// Jobs of a folder, with the schedules that stand in the files.
#[test]
fn jobs() -> Result<()> {
    Lab::run("jobs", |lab| {
        let expected = expected("retry")?;
        let options = Options::bare("jobs").argument("--jobs", "examples/jobs");
        let worker = Worker::start(lab, options.argument("--log-format", "json"))?;
        let of_retry = || {
            let mut lines = printed(worker.log());
            lines.retain(|line| !line.starts_with("run number"));
            lines
        };
        clock::wait_for("the third attempt", PATIENCE, || {
            Ok((of_retry().len() >= expected.len()).then_some(()))
        })?;
        worker.drain(PATIENCE)?;
        assert_eq!(of_retry(), expected);
        Ok(())
    })
}

/// A schedule on the command line goes before the one in the file.
#[test]
fn counter() -> Result<()> {
    Lab::run("counter", |lab| {
        let expected = expected("counter")?;
        let options = Options::bare("counter").argument("--jobs", "examples/jobs/counter.js=* * * * * *");
        let worker = Worker::start(lab, options.argument("--log-format", "json"))?;
        clock::wait_for("some runs", PATIENCE, || {
            Ok((printed(worker.log()).len() >= expected.len()).then_some(()))
        })?;
        worker.drain(PATIENCE)?;
        assert_eq!(printed(worker.log())[..expected.len()], expected);
        Ok(())
    })
}

/// A configuration of 2020, with the Redis that is built in and with one of one's own.
#[test]
fn worker1_config() -> Result<()> {
    Lab::run("worker1.config", |lab| {
        let options = Options::bare("alone").argument("--config", "examples/worker1.config");
        let alone = Worker::start(lab, options.argument("--scripts", "examples/hello.js"))?;
        alone.wait_for_line("hello from default:Threads:examples/hello.js", PATIENCE)?;
        alone.drain(PATIENCE)?;

        let redis = RedisServer::start(lab)?;
        let options = Options::bare("joined").argument("--config", "examples/worker1.config");
        let joined = Worker::start(lab, options.argument("--redis-address", &redis.address().to_string()))?;
        clock::wait_for("the row of worker1", PATIENCE, || {
            Ok((redis.field("default:workers:worker1", "State")? == "online").then_some(()))
        })?;
        joined.drain(PATIENCE)?;
        assert_eq!(redis.field("default:workers:worker1", "State")?, "offline");
        Ok(())
    })
}

#[test]
fn embed() -> Result<()> {
    let example = worker::build("hats-core", &["--features", "embedded-redis", "--example", "embed"])?;
    let output = Command::new("timeout").args(["-k", "1", "60"]).arg(example).output()?;
    let all = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {all}", output.status);
    // What the script and the program print, in order, between the log lines of the worker.
    let wanted = [
        "hello from inside, greeting 1",
        "hello from inside, greeting 2",
        "hello from inside, greeting 3",
        "goodbye",
        "the script has ended its worker",
    ];
    let mut rest = all.as_str();
    for text in wanted {
        rest = rest.split_once(text).with_context(|| format!("no {text:?} in its place in {all}"))?.1;
    }
    Ok(())
}

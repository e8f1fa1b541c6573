//! Every file in `examples/` is run, and what it prints is what `examples/expected/` says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::redis::RedisServer;
use hats_tests::worker::{self, Options, Worker, workspace};
use hats_tests::{Lab, clock};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// The examples that a test of this module or `real_input` runs.
const COVERED: [&str; 8] = [
    "embed.rs",
    "env.js",
    "hello.js",
    "redis.js",
    "thread_control.js",
    "tzdata.js",
    "web.js",
    "worker1.config",
];

#[test]
fn every_example_has_a_test() -> Result<()> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(workspace().join("examples"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    assert_eq!(files, COVERED.map(str::to_owned).into());
    Ok(())
}

/// What the script of a worker with JSON logs has printed so far.
fn printed(log: &Path) -> Vec<String> {
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
    Lab::run(name, |lab| {
        let expected = expected(name)?;
        let script = format!("examples/{name}.js");
        let options = Options::bare(name).argument("--scripts", &script).argument("--log-format", "json");
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
fn redis() -> Result<()> {
    check("redis", 0)
}

#[test]
fn thread_control() -> Result<()> {
    check("thread_control", 0)
}

#[test]
fn web() -> Result<()> {
    check("web", 0)
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

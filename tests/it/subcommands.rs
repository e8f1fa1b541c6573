//! The command line as an administrator uses it: sub-commands, and one clear message with the right exit code for
//! whatever is wrong.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::redis::{RedisServer, free_port};
use hats_tests::worker::{Output, run, run_in};
use hats_tests::{Lab, clock};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `thread …` on a cluster.
fn thread(redis: SocketAddr, arguments: &[&str]) -> Result<Output> {
    let address = redis.to_string();
    run(&[&["--redis-address", &address, "--cluster-name", NAME, "thread"], arguments].concat())
}

/// The same, which must succeed, with its answer in JSON.
fn json(redis: SocketAddr, arguments: &[&str]) -> Result<Value> {
    let output = thread(redis, &[arguments, &["--json"]].concat())?;
    ensure!(output.code == 0, "{arguments:?}: {output:?}");
    serde_json::from_str(&output.stdout).with_context(|| format!("{arguments:?}: {output:?}"))
}

#[test]
fn a_thread_is_put_shown_stopped_started_and_removed() -> Result<()> {
    Lab::run("sub-commands", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 1, ..Shape::default() })?;
        let redis = cluster.redis.address();
        let file = lab.path().join("tick.js");
        let file_name = file.to_str().context("a path that is no text")?;
        let source = "function main() { redis.Call('INCR', 'ticks'); sleep(10); }";
        fs::write(&file, source)?;
        let names = ["tick".to_owned()];

        assert_eq!(json(redis, &["put", "tick", file_name])?["outcome"], "created");
        assert_eq!(json(redis, &["put", "tick", file_name])?["outcome"], "unchanged");
        cluster.run(&names, 0, PATIENCE)?;
        clock::wait_for("State=running", PATIENCE, || {
            Ok((json(redis, &["show", "tick"])?["state"] == "running").then_some(()))
        })?;
        let shown = json(redis, &["show", "tick"])?;
        assert_eq!((shown["name"].as_str(), shown["source"].as_str()), (Some("tick"), Some(source)));
        assert!(["w0", "w1"].contains(&shown["owner"].as_str().unwrap_or_default()), "{shown}");
        let listed = json(redis, &["list"])?;
        let rows: Vec<_> =
            listed.as_array().context("no list")?.iter().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(rows, ["t0", "tick"]);
        let table = thread(redis, &["list"])?;
        assert!(table.stdout.contains("tick") && table.stdout.contains("running"), "{table:?}");

        assert_eq!(json(redis, &["disable", "tick"])?["outcome"], "disabled");
        clock::wait_for("State=stopped", PATIENCE, || {
            Ok((cluster.redis.field(&Cluster::key("tick"), "State")? == "stopped").then_some(()))
        })?;
        cluster.history.read()?;
        let last = cluster.history.last_start("tick");
        cluster.all_run(clock::now(), PATIENCE)?;
        assert_eq!(cluster.history.last_start("tick"), last, "a disabled thread runs");

        json(redis, &["enable", "tick"])?;
        cluster.run(&names, clock::now(), PATIENCE)?;
        let epoch = |cluster: &mut Cluster| -> Result<Option<u64>> {
            cluster.history.read()?;
            Ok(cluster
                .history
                .entries()
                .iter()
                .rev()
                .find(|entry| entry.thread == "tick")
                .map(|entry| entry.epoch))
        };
        let before = epoch(&mut cluster)?;
        let loads = |cluster: &mut Cluster| -> Result<usize> {
            cluster.history.read()?;
            let is_load = |entry: &&hats_tests::history::Entry| {
                entry.thread == "tick" && entry.outcome.as_deref() == Some("load")
            };
            Ok(cluster.history.entries().iter().filter(is_load).count())
        };
        let loaded = loads(&mut cluster)?;
        json(redis, &["restart", "tick"])?;
        clock::wait_for("the restart", PATIENCE, || Ok((loads(&mut cluster)? > loaded).then_some(())))?;
        ensure!(epoch(&mut cluster)? >= before, "the epoch fell");

        fs::write(&file, "function main() { redis.Call('SET', 'new', 1); sleep(10); }")?;
        assert_eq!(json(redis, &["put", "tick", file_name])?["outcome"], "updated");
        clock::wait_for("the new source to run", PATIENCE, || Ok(cluster.redis.ask(&["GET", "new"])?.int()))?;

        json(redis, &["remove", "tick"])?;
        clock::wait_for("the thread to be gone", PATIENCE, || {
            let rows = json(redis, &["list"])?;
            Ok((rows.as_array().is_some_and(|rows| rows.len() == 1)).then_some(()))
        })?;
        let gone = thread(redis, &["show", "tick"])?;
        assert!(gone.code == 1 && gone.stderr.contains("tick"), "{gone:?}");
        cluster.finish()?;
        Ok(())
    })
}

/// One message, one line of it with what matters, nothing on standard output, and the code.
fn refuses(arguments: &[&str], environment: &[(&str, &str)], code: i32, parts: &[&str]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    refuses_in(directory.path(), arguments, environment, code, parts)
}

fn refuses_in(
    directory: &std::path::Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    code: i32,
    parts: &[&str],
) -> Result<()> {
    let output = run_in(directory, arguments, environment)?;
    ensure!(output.code == code, "{arguments:?} {environment:?}: not {code}: {output:?}");
    for part in parts {
        ensure!(output.stderr.contains(part), "{arguments:?}: no {part:?} in {output:?}");
    }
    ensure!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    ensure!(!output.stderr.contains("panicked"), "{arguments:?}: {output:?}");
    Ok(())
}

#[test]
fn what_is_wrong_is_said_once_and_clearly() -> Result<()> {
    Lab::run("refusals", |lab| {
        let redis = RedisServer::start(lab)?;
        let address = redis.address().to_string();
        let nobody = format!("127.0.0.1:{}", free_port()?);
        let at = ["--redis-address", address.as_str()];
        refuses(&["--lease-second", "2"], &[], 2, &["--lease-seconds"])?;
        refuses(&["--lease-seconds", "1"], &[], 2, &["lease-seconds"])?;
        refuses(&["--lease-seconds", "soon"], &[], 2, &["lease-seconds", "soon"])?;
        refuses(&["--redis-address", "http://h"], &[], 2, &["http"])?;
        refuses(&["--redis-address", "h:99999"], &[], 2, &["99999"])?;
        refuses(&["--embedded-redis", "always"], &[], 2, &["embedded-redis"])?;
        refuses(&["--cluster-name", "a:b"], &[], 2, &["cluster-name"])?;
        refuses(&[], &[("HATS_LEASE_SECONDS", "soon"), ("HATS_EMBEDDED_REDIS", "never")], 2, &["soon"])?;
        refuses(&["--config", "missing.toml"], &[], 2, &["missing.toml"])?;
        refuses(&[&at, &["--scripts", "missing.js"] as &[_]].concat(), &[], 2, &["missing.js"])?;
        refuses(&["--redis-address", &nobody], &[], 69, &[&nobody])?;
        refuses(&["--redis-address", &nobody, "thread", "list"], &[], 69, &[&nobody])?;
        refuses(&[&at, &["thread", "enable", "nobody"] as &[_]].concat(), &[], 1, &["nobody"])?;
        refuses(&[&at, &["thread", "put", "a", "missing.js"] as &[_]].concat(), &[], 2, &["missing.js"])?;

        let directory = tempfile::tempdir()?;
        for (file, content) in [
            ("unknown.toml", "clustr = 'x'"),
            ("unknown.json", r#"{"clustr": "x"}"#),
            ("unknown.yaml", "clustr: x"),
            ("unknown.config", r#"{"clustr": "x"}"#),
        ] {
            fs::write(directory.path().join(file), content)?;
            refuses_in(directory.path(), &["--config", file], &[], 2, &["clustr", "cluster", file])?;
        }
        fs::write(directory.path().join("broken.json"), "{")?;
        refuses_in(directory.path(), &["--config", "broken.json"], &[], 2, &["broken.json"])?;
        fs::write(directory.path().join("binary.js"), [0xff, 0xfe])?;
        refuses_in(
            directory.path(),
            &[&at, &["--scripts", "binary.js"] as &[_]].concat(),
            &[],
            2,
            &["binary.js"],
        )
    })
}

#[test]
fn a_refused_password_or_user_is_no_outage() -> Result<()> {
    Lab::run("passwords", |lab| {
        let redis = RedisServer::start(lab)?;
        let address = redis.address().to_string();
        redis.ask(&[
            "ACL", "SETUSER", "reader", "on", ">letmein", "~*", "-@all", "+ping", "+hello", "+info",
        ])?;
        redis.ask(&["ACL", "SETUSER", "default", ">hunter2", "on", "resetpass", ">hunter2"])?;
        for (arguments, words) in [
            (vec!["--redis-password", "wrong-secret"], vec!["refuse"]),
            (vec![], vec!["refuse"]),
            (vec!["--redis-username", "nobody", "--redis-password", "wrong-secret"], vec!["refuse"]),
            (vec!["--redis-username", "reader", "--redis-password", "letmein"], vec!["refuse"]),
        ] {
            for command in [vec![], vec!["thread", "list"]] {
                let arguments = [&["--redis-address", &address], arguments.as_slice(), &command].concat();
                let output = run(&arguments)?;
                ensure!(output.code == 2, "{arguments:?}: {output:?}");
                let said = output.stderr.to_lowercase();
                ensure!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {output:?}");
                ensure!(
                    !said.contains("wrong-secret") && !said.contains("letmein"),
                    "a secret is told: {output:?}"
                );
            }
        }
        Ok(())
    })
}

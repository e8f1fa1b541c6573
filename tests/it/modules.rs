//! Scripts of several files: registered from a folder, run wherever the cluster wants, without it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::redis::RedisServer;
use hats_tests::worker::{Options, Output, Worker, run};
use hats_tests::{Lab, clock};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `thread …` on the cluster.
fn thread(redis: &RedisServer, arguments: &[&str]) -> Result<Output> {
    let address = redis.address().to_string();
    run(&[&["--redis-address", &address, "--cluster-name", NAME, "thread"], arguments].concat())
}

/// Waits until the script has written this.
fn said(redis: &RedisServer, expected: &str) -> Result<()> {
    clock::wait_for(&format!("{expected:?} to be said"), PATIENCE, || {
        Ok((redis.ask(&["GET", "said"])?.text().as_deref() == Some(expected)).then_some(()))
    })
}

#[test]
fn are_registered_with_a_thread_and_reloaded_with_any_of_them() -> Result<()> {
    Lab::run("modules", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 1, ..Shape::default() })?;
        let key = Cluster::key("report");
        let folder = lab.path().join("project");
        fs::create_dir_all(folder.join("jobs"))?;
        fs::create_dir_all(folder.join("shared"))?;
        let main = folder.join("jobs/report.ts");
        let word = folder.join("shared/word.js");
        fs::write(
            &main,
            "import { word } from '../shared/word.js';\nimport type { Nothing } from './gone.ts';\n\
             export function main(): void { redis.Call('SET', 'said', word()); sleep(10); }",
        )?;
        fs::write(&word, "export const word = () => 'first';")?;
        let main = main.to_str().context("a path that is no text")?;
        let put = |expected: &str| -> Result<()> {
            let output = thread(&cluster.redis, &["put", "report", main])?;
            ensure!(output.code == 0 && output.stdout.contains(expected), "{output:?}");
            Ok(())
        };
        put("created")?;
        put("unchanged")?;
        // Read when it was registered, and never again.
        fs::rename(&folder, lab.path().join("elsewhere"))?;
        said(&cluster.redis, "first")?;
        assert_eq!(cluster.redis.field(&key, "SourceFile")?, "jobs/report.ts");
        assert_eq!(cluster.redis.field(&key, "Module:shared/word.js")?, "export const word = () => 'first';");
        ensure!(cluster.redis.field(&key, "Source")?.contains("export function main()       { redis"));
        fs::rename(lab.path().join("elsewhere"), &folder)?;

        // A change of the imported file alone restarts the thread, whoever makes it.
        fs::write(&word, "export { word } from './second.js';")?;
        fs::write(folder.join("shared/second.js"), "export const word = () => 'second';")?;
        put("updated")?;
        said(&cluster.redis, "second")?;
        cluster.redis.ask(&[
            "HSET",
            &key,
            "Module:shared/second.js",
            "export const word = () => 'by hand';",
        ])?;
        said(&cluster.redis, "by hand")?;

        let shown = thread(&cluster.redis, &["show", "report"])?;
        for part in ["Module    shared/second.js, 36 bytes", "Module    shared/word.js", "'by hand'"] {
            ensure!(shown.stdout.contains(part), "no {part:?} in {shown:?}");
        }
        let shown = thread(&cluster.redis, &["show", "report", "--json"])?;
        let shown: Value = serde_json::from_str(&shown.stdout)?;
        assert_eq!(shown["modules"]["shared/second.js"], "export const word = () => 'by hand';");

        // Errors name the file and the line that their author knows.
        fs::write(&word, "export const word = () => {\n  throw new Error('no word');\n};")?;
        put("updated")?;
        clock::wait_for("the error", PATIENCE, || {
            let error = cluster.redis.field(&key, "Error")?;
            Ok((error.contains("no word") && error.contains("(shared/word.js:2:")).then_some(()))
        })?;
        ensure!(cluster.redis.field(&key, "Error")?.contains("(report:3:"), "the script is not named");
        assert_eq!(cluster.redis.ask(&["HEXISTS", &key, "Module:shared/second.js"])?.int(), Some(0));
        cluster.finish()?;
        Ok(())
    })
}

#[test]
fn that_are_written_by_hand_run_as_well() -> Result<()> {
    Lab::run("modules by hand", |lab| {
        let cluster = Cluster::start(lab, Shape { workers: 1, threads: 1, ..Shape::default() })?;
        let key = Cluster::key("by_hand");
        let source = "import { word } from './lib/word.js'; export function main() { redis.Call('SET', 'said', word); sleep(10) }";
        cluster.redis.ask(&[
            "HSET",
            &key,
            "Source",
            source,
            "Module:lib/word.js",
            "export const word = 'hand';",
        ])?;
        said(&cluster.redis, "hand")?;
        // One that is not there is named, and harms nobody else.
        cluster.redis.ask(&["HDEL", &key, "Module:lib/word.js"])?;
        clock::wait_for("the error", PATIENCE, || {
            let error = cluster.redis.field(&key, "Error")?;
            let expected =
                "TypeError: by_hand:1 cannot import \"./lib/word.js\": the task has no module lib/word.js";
            Ok(error.starts_with(expected).then_some(()))
        })?;
        let mut cluster = cluster;
        cluster.all_run(clock::now(), PATIENCE)?;
        cluster.finish()?;
        Ok(())
    })
}

#[test]
fn that_cannot_be_had_are_told_at_registration() -> Result<()> {
    Lab::run("missing modules", |lab| {
        let redis = RedisServer::start(lab)?;
        let address = redis.address().to_string();
        let file = |name: &str, text: &str| -> Result<String> {
            let path = lab.path().join(name);
            fs::write(&path, text)?;
            Ok(path.to_str().context("a path that is no text")?.to_owned())
        };
        for (name, text, expected) in [
            ("a.js", "\nimport './gone.js';", "a.js:2: cannot import `./gone.js`: cannot read `"),
            (
                "b.js",
                "import _ from 'lodash';",
                "b.js:1: cannot import `lodash`: packages cannot be imported by name",
            ),
            ("c.ts", "\n\nenum E { A }", "c.ts:3:1: cannot strip an enum"),
        ] {
            let path = file(name, text)?;
            let put = thread(&redis, &["put", "x", &path])?;
            ensure!(put.code == 2 && put.stderr.contains(expected), "{put:?}");
            let worker = run(&["--redis-address", &address, "--scripts", &path])?;
            ensure!(worker.code == 2 && worker.stderr.contains(expected), "{worker:?}");
            assert_eq!(worker.stderr.lines().count(), 1, "{worker:?}");
        }
        // What may be missing is only mentioned.
        let path = file(
            "d.js",
            "async function main() { await import('./gone.js').catch((e) => console.log(e.message)); sleep(1e6) }",
        )?;
        let options = Options::new("w", NAME, &address).argument("--scripts", &path);
        let worker = Worker::start(lab, options)?;
        worker.wait_for_line("No such file or directory (os error 2); it is left out", PATIENCE)?;
        worker.wait_for_line("the task has no module gone.js, nor any other", PATIENCE)?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

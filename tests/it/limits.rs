//! Limits of scripts, of the worker and of their own, and the budget of memory: each is said, with what raises it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME};
use hats_tests::redis::RedisServer;
use hats_tests::web::WebServer;
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(30);

/// One limit: the worker's value, the task's field and its value, a script that needs more than the first and less than
/// the second, and the error that it ends with under the first.
struct Case {
    flag: &'static str,
    workers: &'static str,
    field: &'static str,
    own: &'static str,
    needs: String,
    error: &'static str,
}

fn cases(web: &WebServer) -> Vec<Case> {
    vec![
        Case {
            flag: "--memory-limit",
            workers: "8MiB",
            field: "MemoryLimit",
            own: "32MiB",
            needs: "globalThis.kept = new Uint8Array(16 << 20);".to_owned(),
            error: "MemoryError: the script needs more than its heap limit of 8388608 bytes (MemoryLimit of the task, --memory-limit of the worker)",
        },
        Case {
            flag: "--stack-limit",
            workers: "64KiB",
            field: "StackLimit",
            own: "2MiB",
            needs: "(function deep(n) { return n && 1 + deep(n - 1); })(1000);".to_owned(),
            error: "StackError: the script needs more than its stack limit of 65536 bytes (StackLimit of the task, --stack-limit of the worker)",
        },
        Case {
            flag: "--source-limit",
            workers: "1000",
            field: "SourceLimit",
            own: "2KiB",
            needs: format!("'{}';", "x".repeat(1500)),
            error: "bytes, more than the limit of 1000 (SourceLimit of the task, --source-limit of the worker)",
        },
        Case {
            flag: "--http-body-limit",
            workers: "1000",
            field: "HttpBodyLimit",
            own: "2KiB",
            needs: format!(
                "const {{ error }} = http.Post('{}/echo', 'x'.repeat(1500)); if (error) throw new Error(error);",
                web.url()
            ),
            error: "the body is longer than the limit of 1000 bytes (HttpBodyLimit of the task, --http-body-limit of the worker)",
        },
        Case {
            flag: "--call-timeout",
            workers: "1500ms",
            field: "CallTimeout",
            own: "20s",
            needs: "const begun = Date.now(); while (Date.now() - begun < 3000);".to_owned(),
            error: "TimeoutError: the call took longer than its limit of 1.5s (CallTimeout of the task, --call-timeout of the worker)",
        },
    ]
}

#[test]
fn are_the_workers_unless_the_task_has_its_own() -> Result<()> {
    Lab::run("limits", |lab| {
        let redis = RedisServer::start(lab)?;
        let cases = cases(&WebServer::start()?);
        let mut options = Options::new("a", NAME, &redis.address().to_string());
        for case in &cases {
            options = options.argument(case.flag, case.workers);
        }
        let worker = Worker::start(lab, options.argument("--log-line-limit", "20"))?;
        for case in &cases {
            let source = format!(
                "function init() {{ {} redis.Call('SET', 'done:' + thread.Key, 'yes'); }}",
                case.needs
            );
            for (name, own) in [("without", None), ("with", Some(case.own))] {
                let key = Cluster::key(&format!("{name}-{}", case.field));
                let mut definition = vec!["HSET", &key, "Source", &source, "Restart", "never"];
                definition.extend(own.iter().flat_map(|own| [case.field, own]));
                redis.ask(&definition)?;
            }
        }
        for case in &cases {
            let key = Cluster::key(&format!("without-{}", case.field));
            let error = clock::wait_for(&format!("an error of {key}"), PATIENCE, || {
                Ok(Some(redis.field(&key, "Error")?).filter(|error| !error.is_empty()))
            })?;
            ensure!(error.contains(case.error), "{}: {error}", case.field);
            let key = Cluster::key(&format!("with-{}", case.field));
            clock::wait_for(&format!("{key} to be done"), PATIENCE, || {
                ensure!(redis.field(&key, "Error")?.is_empty(), "{}", redis.field(&key, "Error")?);
                Ok((redis.ask(&["GET", &format!("done:{key}")])?.text().as_deref() == Some("yes"))
                    .then_some(()))
            })?;
        }
        let source = "function init() { console.log('y'.repeat(50)); }";
        for (name, own) in [("short", "12"), ("long", "40")] {
            redis.ask(&["HSET", &Cluster::key(name), "Source", source, "LogLineLimit", own])?;
        }
        redis.ask(&["HSET", &Cluster::key("workers"), "Source", source])?;
        for (shown, limit) in [(12, 12), (40, 40), (20, 20)] {
            let line =
                format!("{}… ({} more characters, LogLineLimit is {limit})", "y".repeat(shown), 50 - shown);
            worker.wait_for_line(&line, PATIENCE)?;
        }
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// What a process has resident is real here: one script keeps much, and gives it back when it is stopped.
#[test]
fn above_the_memory_budget_new_threads_are_left_to_others() -> Result<()> {
    Lab::run("memory budget", |lab| {
        let redis = RedisServer::start(lab)?;
        let address = redis.address().to_string();
        let claims = || redis.field(&format!("{NAME}:workers:a"), "Claims");
        let limited = Options::new("a", NAME, &address)
            .argument("--memory-limit", "1GiB")
            .argument("--memory-budget", "300MiB")
            .argument("--lease-seconds", "2");
        let a = Worker::start(lab, limited)?;
        let hog = Cluster::key("hog");
        let source = "function init() { globalThis.kept = new Uint8Array(400 << 20).fill(1); }";
        redis.ask(&["HSET", &hog, "Source", source])?;
        let line = a.wait_for_line("takes no new threads: this process has", PATIENCE)?;
        ensure!(line.contains("more than its memory-budget of 300.0 MiB"), "{line}");
        clock::wait_for("the row to say so", PATIENCE, || {
            Ok(claims()?.starts_with("refused: this process has").then_some(()))
        })?;

        let b = Worker::start(lab, Options::new("b", NAME, &address).argument("--lease-seconds", "2"))?;
        let source = "function init() { redis.Call('SET', 'on:' + thread.Key, worker.Name); }";
        let keys: Vec<String> = (0..20).map(|number| Cluster::key(&format!("t{number}"))).collect();
        for key in &keys {
            redis.ask(&["HSET", key, "Source", source])?;
        }
        let all_on = |name: &str| {
            clock::wait_for(&format!("all threads to run on {name}"), PATIENCE, || {
                for key in &keys {
                    if redis.ask(&["GET", &format!("on:{key}")])?.text().as_deref() != Some(name) {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            })
        };
        all_on("b")?;
        clock::wait_for("what runs to be left alone", PATIENCE, || {
            Ok((redis.field(&hog, "State")? == "running").then_some(()))
        })?;

        redis.ask(&["HSET", &hog, "Status", "disabled"])?;
        a.wait_for_line("takes new threads again", PATIENCE)?;
        clock::wait_for("the row to say so", PATIENCE, || Ok((claims()? == "open").then_some(())))?;
        b.kill()?;
        all_on("a").context("after the hog has gone")?;
        a.drain(PATIENCE)?;
        let log = std::fs::read_to_string(a.log())?;
        ensure!(log.matches("takes no new threads").count() == 1, "said once: {log}");
        Ok(())
    })
}

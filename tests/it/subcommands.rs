//! The command line as an administrator uses it: sub-commands, and one clear message with the right exit code for
//! whatever is wrong.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::redis::{RedisServer, free_port};
use hats_tests::worker::{Options, Output, Worker, run, run_in};
use hats_tests::{Lab, clock};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a sub-command on a cluster.
fn ask(redis: SocketAddr, arguments: &[&str]) -> Result<Output> {
    let address = redis.to_string();
    run(&[&["--redis-address", &address, "--cluster-name", NAME], arguments].concat())
}

/// Runs `thread …` on a cluster.
fn thread(redis: SocketAddr, arguments: &[&str]) -> Result<Output> {
    ask(redis, &[&["thread"], arguments].concat())
}

/// The same, which must succeed, with its answer in JSON.
fn json(redis: SocketAddr, arguments: &[&str]) -> Result<Value> {
    answer(redis, &[&["thread"], arguments].concat())
}

/// Runs `job …` on a cluster, which must succeed, with its answer in JSON.
fn job(redis: SocketAddr, arguments: &[&str]) -> Result<Value> {
    answer(redis, &[&["job"], arguments].concat())
}

fn answer(redis: SocketAddr, arguments: &[&str]) -> Result<Value> {
    let output = ask(redis, &[arguments, &["--json"]].concat())?;
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

#[test]
fn a_job_is_put_run_shown_stopped_and_removed() -> Result<()> {
    Lab::run("jobs", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 2, threads: 0, ..Shape::default() })?;
        let redis = cluster.redis.address();
        let key = format!("{NAME}:Jobs:beat");
        let file = lab.path().join("beat.js");
        let file_name = file.to_str().context("a path that is no text")?;
        let source = "// cron: 0 0 1 1 *\n// tz: Europe/Berlin\n// timeout: 60\n\
            function main() { console.log('at', job.Attempt); return { answer: 42 }; }";
        fs::write(&file, source)?;

        // What the file says, then what the command line says; the zone goes with the schedule.
        let put = job(redis, &["put", "beat", file_name, "--disabled"])?;
        assert_eq!((put["outcome"].as_str(), put["disabled"].as_bool()), (Some("created"), Some(true)));
        assert_eq!(put["schedule"]["next"].as_array().map(Vec::len), Some(5), "{put}");
        assert_eq!(job(redis, &["put", "beat", file_name])?["outcome"], "unchanged");
        assert_eq!(cluster.redis.field(&key, "TZ")?, "Europe/Berlin");
        fs::write(&file, source.replace("// tz: Europe/Berlin\n", ""))?;
        let put = ["put", "beat", file_name, "--cron", "@yearly", "--retries", "3", "--overlap", "allow"];
        assert_eq!(job(redis, &put)?["outcome"], "updated");
        assert_eq!(job(redis, &put)?["outcome"], "unchanged");
        let fields = cluster.redis.hash(&key)?;
        let of = |field: &str| fields.get(field).map(String::as_str);
        assert_eq!((of("Cron"), of("TZ"), of("Retries")), (Some("@yearly"), None, Some("3")));
        assert_eq!(
            (of("Status"), of("Timeout"), of("Overlap")),
            (Some("disabled"), Some("60"), Some("allow"))
        );

        // By hand, disabled or not; who waits sees how it went.
        let ran = job(redis, &["run", "beat", "--wait"])?;
        assert_eq!((ran["outcome"].as_str(), ran["manual"].as_bool()), (Some("ran"), Some(true)), "{ran}");
        assert_eq!((ran["result"].as_str(), &ran["log"]), (Some("{ answer: 42 }"), &json!(["at 1"])));
        let text = ask(redis, &["job", "run", "beat", "--wait"])?;
        assert!(text.code == 0 && text.stdout.contains("{ answer: 42 }"), "{text:?}");
        assert!(text.stdout.contains("by hand") && text.stdout.contains("at 1"), "{text:?}");
        assert_eq!(job(redis, &["run", "beat"])?["outcome"], "asked to run");
        clock::wait_for("the third run", PATIENCE, || {
            let history = job(redis, &["history", "beat"])?;
            Ok(history.as_array().is_some_and(|runs| runs.len() == 3).then_some(()))
        })?;
        let last = job(redis, &["history", "beat", "--count", "1"])?;
        assert_eq!(last.as_array().map(Vec::len), Some(1));
        let worker = last[0]["worker"].as_str().unwrap_or_default();
        assert!(["w0", "w1"].contains(&worker) && last[0]["epoch"].as_u64() > Some(0), "{last}");
        // Runs by hand are no ticks.
        assert_eq!(job(redis, &["ticks", "beat"])?["counts"]["elapsed"], 0);

        // On its schedule.
        job(redis, &["put", "beat", file_name, "--cron", "* * * * * *"])?;
        assert_eq!(job(redis, &["enable", "beat"])?["outcome"], "enabled");
        clock::wait_for("two ticks", PATIENCE, || {
            let ticks = job(redis, &["ticks", "beat"])?;
            let sum: u64 = ["ran", "failed", "skipped", "missed", "pending", "running"]
                .iter()
                .filter_map(|count| ticks["counts"][count].as_u64())
                .sum();
            ensure!(Some(sum) == ticks["counts"]["elapsed"].as_u64(), "{ticks}");
            let ran = ticks["ledger"].as_array().context("no ledger")?.iter();
            Ok((ran.filter(|entry| entry["outcome"] == "ran").count() >= 2).then_some(()))
        })?;
        let text = ask(redis, &["job", "ticks", "beat", "--count", "1"])?;
        assert!(text.stdout.contains(" elapsed = ") && text.stdout.contains("OUTCOME"), "{text:?}");
        let shown = job(redis, &["show", "beat"])?;
        assert_eq!((shown["cron"].as_str(), shown["retries"].as_u64()), (Some("* * * * * *"), Some(3)));
        assert!(shown["next_tick_ms"].as_i64() > shown["last_tick_ms"].as_i64(), "{shown}");
        assert!(shown["source"].as_str().is_some_and(|source| source.contains("answer")), "{shown}");
        let text = ask(redis, &["job", "show", "beat"])?;
        assert!(text.stdout.contains("Overlap         allow"), "{text:?}");
        assert_eq!(job(redis, &["list"])?[0]["name"], "beat");
        let table = ask(redis, &["job", "list"])?;
        assert!(table.stdout.contains("SCHEDULE") && table.stdout.contains("* * * * * *"), "{table:?}");

        // One that fails says so with its exit code.
        assert_eq!(job(redis, &["disable", "beat"])?["outcome"], "disabled");
        fs::write(&file, "function main() { console.log('so far'); throw new Error('no \\u001b[31mway'); }")?;
        assert_eq!(job(redis, &["put", "beat", file_name])?["outcome"], "updated");
        let failed = ask(redis, &["job", "run", "beat", "--wait"])?;
        assert!(failed.code == 1 && failed.stderr.contains("the run has failed: Error: no"), "{failed:?}");
        assert!(failed.stdout.contains("so far") && !failed.stdout.contains('\u{1b}'), "{failed:?}");

        assert_eq!(job(redis, &["remove", "beat"])?["outcome"], "removed");
        assert_eq!(job(redis, &["list"])?, json!([]));
        for command in ["show", "enable", "disable", "remove", "run"] {
            let gone = ask(redis, &["job", command, "beat"])?;
            assert!(gone.code == 1 && gone.stderr.contains("there is no job `beat`"), "{command}: {gone:?}");
        }
        // The books stay for a day.
        assert!(!job(redis, &["history", "beat"])?.as_array().context("no list")?.is_empty());
        cluster.finish()?;
        Ok(())
    })
}

/// A job that is off is run by hand in peace: only disabling it stops its runs, not whatever else is written about it.
#[test]
fn a_run_by_hand_of_a_disabled_job_is_not_stopped() -> Result<()> {
    Lab::run("by hand", |lab| {
        let mut cluster = Cluster::start(lab, Shape { workers: 1, threads: 0, ..Shape::default() })?;
        let redis = cluster.redis.address();
        let source = "function main() {
            redis.Call('SET', 'begun', 1);
            while (!job.Stopped && redis.Call('GET', 'go') === null) sleep(20);
            return job.Stopped ? 'stopped' : 'done';
        }";
        let file = lab.path().join("long.js");
        fs::write(&file, source)?;
        let file_name = file.to_str().context("a path that is no text")?;
        job(redis, &["put", "long", file_name, "--cron", "@yearly", "--disabled"])?;
        job(redis, &["run", "long"])?;
        clock::wait_for("the run", PATIENCE, || Ok(cluster.redis.ask(&["GET", "begun"])?.int()))?;
        job(redis, &["put", "long", file_name, "--jitter", "1"])?;
        // Changes are noticed in order: once another job has run, so has been this one.
        cluster.redis.ask(&[
            "HSET",
            "test:Jobs:beat",
            "Cron",
            "* * * * * *",
            "Source",
            "redis.Call('INCR', 'beats')",
        ])?;
        clock::wait_for("two beats", PATIENCE, || {
            Ok(cluster.redis.ask(&["GET", "beats"])?.int().filter(|beats| *beats >= 2))
        })?;
        cluster.redis.ask(&["SET", "go", "1"])?;
        clock::wait_for("its end", PATIENCE, || {
            let history = job(redis, &["history", "long"])?;
            let result = history[0]["result"].as_str().map(str::to_owned);
            Ok(result.map(|result| assert_eq!(result, "done")))
        })?;
        cluster.finish()?;
        Ok(())
    })
}

#[test]
fn a_job_that_cannot_run_is_refused_by_its_field() -> Result<()> {
    Lab::run("refused jobs", |lab| {
        let redis = RedisServer::start(lab)?;
        let address = redis.address().to_string();
        let file = "examples/hello.js";
        let put = ["--redis-address", address.as_str(), "job", "put", "a"];
        let refuses = |arguments: &[&str], code: i32, parts: &[&str]| -> Result<()> {
            let output = run(arguments)?;
            ensure!(output.code == code && output.stdout.is_empty(), "{arguments:?}: {output:?}");
            ensure!(parts.iter().all(|part| output.stderr.contains(part)), "{arguments:?}: {output:?}");
            Ok(())
        };
        for (flags, parts) in [
            (&[] as &[&str], ["field Cron is missing", "// cron:"]),
            (&["--cron", "61 * * * *"], ["field Cron", "61"]),
            (&["--cron", "@daily", "--tz", "Mars"], ["field TZ", "Mars"]),
            (&["--tz", "UTC"], ["field TZ", "Cron"]),
            (&["--cron", "@daily", "--overlap", "maybe"], ["field Overlap", "maybe"]),
            (&["--cron", "@daily", "--misfire", "twice"], ["field Misfire", "twice"]),
            (&["--cron", "@daily", "--misfire-seconds", "x"], ["field MisfireSeconds", "x"]),
            (&["--cron", "@daily", "--jitter", "x"], ["field Jitter", "x"]),
            (&["--cron", "@daily", "--timeout", "0"], ["field Timeout", "0"]),
            (&["--cron", "@daily", "--retries", "-1"], ["field Retries", "-1"]),
            (&["--cron", "@daily", "--memory-limit", "x"], ["field MemoryLimit", "x"]),
        ] {
            refuses(&[&put[..], &[file], flags].concat(), 2, &parts)?;
        }
        ensure!(redis.ask(&["KEYS", "*"])?.texts().is_empty(), "something was written");
        // One that was written by hand.
        redis.ask(&["HSET", "default:Jobs:a", "Source", "1", "Cron", "soon"])?;
        refuses(&["--redis-address", &address, "job", "run", "a"], 1, &["a cannot run", "field Cron"])?;
        let shown = run(&["--redis-address", &address, "job", "show", "a"])?;
        ensure!(
            shown.stdout.contains("field Cron: \"soon\"") && shown.stdout.contains("crashed"),
            "{shown:?}"
        );

        let directory = tempfile::tempdir()?;
        for (name, content) in
            [("good.js", "// cron: @daily\n"), ("bad.js", "// cron: 0 25 * * *\n"), ("none.js", "\n")]
        {
            fs::write(directory.path().join(name), content)?;
        }
        let refuses = |jobs: &[&str], parts: &[&str]| {
            let arguments = jobs.iter().flat_map(|jobs| ["--jobs", jobs]);
            let arguments: Vec<&str> = ["--redis-address", &address].into_iter().chain(arguments).collect();
            refuses_in(directory.path(), &arguments, &[], 2, parts)
        };
        refuses(&["good.js", "bad.js"], &["--jobs: bad.js: field Cron: hour \"25\""])?;
        refuses(&["none.js"], &["--jobs: none.js: field Cron is missing"])?;
        refuses(&["."], &["bad.js: field Cron"])?;
        refuses(&["good.js", "good.js=@hourly"], &["good.js", "twice"])?;
        refuses(&["missing.js=@daily"], &["missing.js"])
    })
}

/// What a worker was told to register is registered again when Redis has lost it, and not when an operator has removed it.
#[test]
fn jobs_of_the_command_line_come_back_when_everything_is_lost() -> Result<()> {
    Lab::run("lost jobs", |lab| {
        let redis = RedisServer::start(lab)?;
        // In the order in which they are registered.
        let (removed, kept) = ("examples/jobs/counter.js", "examples/jobs/retry.js");
        let key = |kind: &str, job: &str| format!("{NAME}:{kind}:{job}");
        let definition = key("Jobs", kept);
        let old = ["Source", "old", "Status", "disabled", "Cron", "@daily", "TZ", "Asia/Tokyo"];
        redis.ask(&[&["HSET", &definition], &old[..]].concat())?;
        let yearly = [removed, kept].map(|job| format!("{job}=CRON_TZ=Europe/Berlin 0 0 1 1 *"));
        let mut options = Options::new("w0", NAME, &redis.address().to_string());
        options = options.argument("--lease-seconds", "2").argument("--jobs", &yearly[0]);
        let worker = Worker::start(lab, options.argument("--jobs", &yearly[1]))?;
        worker.wait_for_line("its status is disabled", PATIENCE)?;
        let fields = redis.hash(&definition)?;
        let of = |field: &str| fields.get(field).map(String::as_str);
        assert_eq!((of("Status"), of("TZ")), (Some("disabled"), Some("Europe/Berlin")));
        assert_eq!(of("Cron"), Some("CRON_TZ=Europe/Berlin 0 0 1 1 *"));
        assert!(of("Source").is_some_and(|source| source.contains("job.Attempt")), "{fields:?}");

        // The session is lost; of one job nothing is left, of the other what is kept of a removed one.
        clock::wait_for("the jobs to be seen", PATIENCE, || {
            let seen = redis.field(&key("Ticks", removed), "LastTick")?;
            Ok((!seen.is_empty()).then_some(()))
        })?;
        job(redis.address(), &["remove", removed])?;
        redis.ask(&["DEL", &definition, &key("Ticks", kept)])?;
        for session in redis.ask(&["KEYS", &format!("{NAME}:Sessions:*")])?.texts() {
            redis.ask(&["DEL", &session])?;
        }
        let names = || -> Result<Vec<String>> {
            let rows = job(redis.address(), &["list"])?;
            let rows = rows.as_array().context("no list")?.iter();
            Ok(rows.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
        };
        clock::wait_for("one job to be back", PATIENCE * 2, || Ok((!names()?.is_empty()).then_some(())))?;
        assert_eq!(names()?, [kept]);
        assert_eq!(redis.field(&definition, "Status")?, "enabled");

        redis.ask(&["FLUSHALL"])?;
        clock::wait_for("both to be back", PATIENCE * 2, || Ok((names()? == [removed, kept]).then_some(())))?;
        worker.drain(PATIENCE)?;
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

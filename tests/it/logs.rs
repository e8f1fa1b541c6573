//! What stands in the log: whoever says something of a task says whose it is, in the words of `crates/README.md`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hats_tests::cluster::{Cluster, NAME};
use hats_tests::health::HealthPort;
use hats_tests::redis::{self, RedisServer};
use hats_tests::worker::{Options, Worker, workspace};
use hats_tests::{Lab, clock};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn start(lab: &Lab, redis: &RedisServer, log: &[(&str, &str)]) -> Result<Worker> {
    let options = Options::new("w0", NAME, &redis.address().to_string()).argument("--host-port", "0");
    let options = log.iter().fold(options, |options, (flag, value)| options.argument(flag, value));
    Worker::start(lab, options.flag("--host"))
}

fn define(redis: &RedisServer) -> Result<()> {
    let thread =
        "function main() { console.log('says', thread.Epoch); sleep(50); throw new Error('on purpose') }";
    redis.ask(&["HSET", &Cluster::key("a thread"), "Source", thread])?;
    let job = "console.warn('runs', job.Attempt, job.Tick.toISOString()); if (job.Attempt < 2) throw new Error('again')";
    let key = format!("{NAME}:Jobs:a job");
    redis.ask(&["HSET", &key, "Source", job, "Cron", "* * * * * *", "Retries", "1"])?;
    let page = "<? console.error('asked') ?>";
    redis.ask(&["HSET", &format!("{NAME}:Endpoints:/page"), "Source", page])?;
    Ok(())
}

/// Asks for the page until it is there.
fn ask(worker: &Worker) -> Result<()> {
    let line = worker.wait_for_line("endpoints are served", PATIENCE)?;
    // In text or in JSON.
    let address =
        line.split(['=', ' ', '"']).find(|word| word.starts_with("127.0.0.1:")).context(line.clone())?;
    clock::wait_for("the page", PATIENCE, || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })
}

/// The first line in which all of these stand.
fn line(worker: &Worker, words: &[&str]) -> Result<String> {
    clock::wait_for(&format!("a line with {words:?}"), PATIENCE, || {
        let log = fs::read_to_string(worker.log())?;
        let mut lines = log.lines();
        Ok(lines.find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned))
    })
}

#[test]
fn json_says_of_each_line_whose_it_is() -> Result<()> {
    Lab::run("json logs", |lab| {
        let redis =
            RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })?;
        define(&redis)?;
        let worker = start(lab, &redis, &[("--log-format", "json")])?;
        ask(&worker)?;
        let json = |words: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&line(&worker, words)?)?) };
        let is = |line: &Value, fields: &[(&str, Value)]| -> Result<()> {
            let wrong = fields.iter().find(|(name, value)| line[name] != *value);
            ensure!(wrong.is_none(), "{wrong:?} in {line}");
            Ok(())
        };
        let of_thread = [("task", "a thread".into()), ("kind", "thread".into()), ("worker", "w0".into())];
        let says = json(&["says"])?;
        is(&says, &of_thread)?;
        is(&says, &[("target", "script".into()), ("level", "INFO".into())])?;
        let epoch = says["epoch"].as_u64().context("no epoch")?;
        ensure!(says["message"] == format!("says {epoch}"), "{says}");
        let crashed = json(&["\"crashed\""])?;
        is(&crashed, &of_thread)?;
        is(&crashed, &[("epoch", epoch.into())])?;
        ensure!(crashed["error"].as_str().is_some_and(|error| error.contains("on purpose")), "{crashed}");

        let of_job = [("task", "a job".into()), ("kind", "job".into()), ("worker", "w0".into())];
        for attempt in [1, 2] {
            let runs = json(&[&format!("runs {attempt}")])?;
            is(&runs, &of_job)?;
            is(&runs, &[("attempt", attempt.into()), ("target", "script".into())])?;
            let tick = runs["tick"].as_str().context("no tick")?.trim_end_matches('Z');
            ensure!(runs["message"].as_str().is_some_and(|message| message.contains(tick)), "{runs}");
            ensure!(runs["epoch"].is_u64(), "{runs}");
        }
        let failed = json(&["the run failed"])?;
        is(&failed, &of_job)?;
        is(&failed, &[("attempt", 1.into())])?;

        let asked = json(&["asked"])?;
        is(&asked, &[("task", "/page".into()), ("kind", "endpoint".into()), ("worker", "w0".into())])?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// However little is asked for, what there is says whose it is.
#[test]
fn text_says_so_too_whatever_else_is_wanted() -> Result<()> {
    Lab::run("text logs", |lab| {
        let redis =
            RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })?;
        define(&redis)?;
        let worker = start(lab, &redis, &[("--log-level", "debug")])?;
        ask(&worker)?;
        line(&worker, &["INFO thread{task=a thread kind=\"thread\" epoch=", " worker=w0}: script: says "])?;
        let job = ["WARN job{task=a job kind=\"job\" epoch=", " attempt=2 worker=w0}: script: runs 2"];
        line(&worker, &job)?;
        line(&worker, &["ERROR endpoint{task=/page kind=\"endpoint\" worker=w0}: script: asked"])?;
        worker.drain(PATIENCE)?;

        // A new source ends a back-off.
        let source = "function main() { console.log('says'); throw new Error('on purpose') }";
        redis.ask(&["HSET", &Cluster::key("a thread"), "Source", source])?;
        let mut quiet = Options::new("w1", NAME, &redis.address().to_string());
        quiet = quiet.environment("RUST_LOG", "warn,script=off");
        let worker = Worker::start(lab, quiet)?;
        line(
            &worker,
            &["WARN thread{task=a thread kind=\"thread\" epoch=", " worker=w1}: hats_scheduler", ": crashed"],
        )?;
        ensure!(!fs::read_to_string(worker.log())?.contains("says"));
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// A pipe in place of the worker's log that is read only when it is asked to. Both ends stay open.
struct Pipe {
    path: PathBuf,
    ours: File,
}

impl Pipe {
    fn new(path: PathBuf) -> Result<Self> {
        ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "no mkfifo");
        // Opened for both, so that neither this nor the worker waits for the other.
        let ours = File::options().read(true).write(true).open(&path)?;
        Ok(Self { path, ours })
    }

    /// Reads until a line has this text.
    fn read_until(&self, text: &str) -> Result<String> {
        for line in BufReader::new(&self.ours).lines() {
            let line = line?;
            if line.contains(text) {
                return Ok(line);
            }
        }
        bail!("the pipe has ended");
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Whoever shows logs after a failure would wait for the end of this one.
        let _ = fs::remove_file(&self.path);
    }
}

/// Logs some megabytes a second.
const LOUD: &str = "const text = 'x'.repeat(1000);
    function main() { for (let i = 0; i < 20; i++) console.log(text); redis.Do('INCR', 'loud') }";

#[test]
fn a_log_that_nobody_reads_costs_lines_and_not_the_worker() -> Result<()> {
    Lab::run("unread log", |lab| {
        let redis =
            RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })?;
        redis.ask(&["HSET", &Cluster::key("loud"), "Source", LOUD, "Hang", "5"])?;
        let clock = "function main() { redis.Do('INCR', 'seconds') } function cleanup() { redis.Do('SET', 'clean', 1) }";
        redis.ask(&["HSET", &Cluster::key("clock"), "Source", clock, "Hang", "1000"])?;
        let count = |key: &str| -> Result<i64> {
            Ok(redis.ask(&["GET", key])?.text().unwrap_or_default().parse().unwrap_or(0))
        };
        let pipe = Pipe::new(lab.log("w0.log"))?;
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let options = Options::new("w0", NAME, &redis.address().to_string())
            .argument("--health-port", &free.port().to_string());
        let worker = Worker::start(lab, options)?;
        let port = HealthPort::at(free);
        let dropped = || port.metric("hats_log_lines_dropped_total");
        // A lane that waits for the pipe stalls; after ten seconds that costs the session, and then the process.
        clock::wait_for("twenty seconds of work", PATIENCE * 4, || {
            if let Some(exit) = worker.process().exit() {
                bail!("the worker ended: {exit:?}");
            }
            Ok((count("seconds")? >= 20).then_some(()))
        })?;
        clock::wait_for("dropped lines", PATIENCE, || Ok((dropped()? > 0.0).then_some(())))?;
        ensure!(port.metric("hats_sessions_lost_total")? as u64 == 0);

        let line = pipe.read_until("log lines were dropped: standard error was not read in time")?;
        ensure!(line.contains(" WARN ") && line.contains("hats_worker::telemetry::writer"), "{line}");
        let before = dropped()?;
        clock::wait_for("the pipe to be full again", PATIENCE, || Ok((dropped()? > before).then_some(())))?;
        worker.terminate()?;
        let exit = worker.wait(PATIENCE)?;
        ensure!(exit.code() == Some(0), "{exit:?}");
        ensure!(count("clean")? == 1);
        Ok(())
    })
}

#[test]
fn a_script_cannot_forge_a_line() -> Result<()> {
    Lab::run("forged log", |lab| {
        let redis =
            RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })?;
        let source = "function main() {
            console.log('said\\n2026-11-24T12:00:00Z  INFO hats_worker: FORGED\\r\\x1b[2J\\u202etxt.exe');
            throw new Error('thrown\\nFORGED by an error');
        }";
        redis.ask(&["HSET", &Cluster::key("forger"), "Source", source])?;
        let worker = Worker::start(lab, Options::new("w0", NAME, &redis.address().to_string()))?;
        let said = line(&worker, &["said"])?;
        let escaped = r"said\n2026-11-24T12:00:00Z  INFO hats_worker: FORGED\r\u{1b}[2J\u{202e}txt.exe";
        ensure!(said.ends_with(escaped), "{said}");
        let crashed = line(&worker, &["crashed", "thrown"])?;
        ensure!(crashed.contains(r"thrown\nFORGED by an error"), "{crashed}");
        // The stack too.
        ensure!(crashed.contains(r"\n    at main"), "{crashed}");
        worker.drain(PATIENCE)?;
        let log = fs::read_to_string(worker.log())?;
        for line in log.lines() {
            ensure!(
                line.starts_with("20") && !line.contains(|c: char| c.is_control() || c == '\u{202e}'),
                "{line:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_script_that_floods_the_log_loses_lines_and_its_neighbours_lose_none() -> Result<()> {
    Lab::run("flooded log", |lab| {
        let redis =
            RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })?;
        let flood = "function main() { for (let i = 0; i < 5000; i++) console.log('flood', i) }";
        redis.ask(&["HSET", &Cluster::key("flooder"), "Source", flood])?;
        let quiet = "let n = 0; function main() { console.log('quiet', n++, 'end') }";
        redis.ask(&["HSET", &Cluster::key("quiet"), "Source", quiet, "Hang", "50"])?;
        let worker = Worker::start(lab, Options::new("w0", NAME, &redis.address().to_string()))?;
        let port = HealthPort::of(&worker)?;
        let report = line(&worker, &["log lines of this task were dropped: it logged more than 1000 lines"])?;
        ensure!(report.contains("task=\"flooder\" kind=\"thread\""), "{report}");
        ensure!(port.metric("hats_script_log_lines_dropped_total")? > 0.0);
        ensure!(port.metric("hats_log_lines_dropped_total")? as u64 == 0);
        line(&worker, &["quiet 100 end"])?;
        worker.drain(PATIENCE)?;
        let log = fs::read_to_string(worker.log())?;
        for n in 0..100 {
            ensure!(log.contains(&format!("quiet {n} end")), "quiet {n} is missing");
        }
        Ok(())
    })
}

/// The names of the fields of events and spans, as the code has them.
fn fields_used() -> Result<BTreeSet<(String, String)>> {
    const MACROS: [&str; 11] = [
        "trace",
        "debug",
        "info",
        "warn",
        "error",
        "event",
        "trace_span",
        "debug_span",
        "info_span",
        "warn_span",
        "error_span",
    ];
    let mut used = BTreeSet::new();
    let mut folders = vec![workspace().join("crates"), workspace().join("bins")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                let text = fs::read_to_string(&path)?;
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                for name in MACROS {
                    for call in calls(text, name) {
                        used.extend(
                            fields(call).into_iter().map(|field| (field, path.display().to_string())),
                        );
                    }
                }
            }
        }
    }
    Ok(used)
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// What stands between the brackets of each call of a macro.
fn calls<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let head = format!("{name}!(");
    let begins = text.match_indices(&head).filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_')
    });
    let rest = begins.map(|(at, _)| &text[at + head.len()..]);
    let body = |rest: &'a str| {
        let mut depth = 1;
        let mut quoted = false;
        let mut escaped = false;
        let end = rest.find(|c: char| {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '(' | '[' | '{' if !quoted => depth += 1,
                ')' | ']' | '}' if !quoted => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        &rest[..end.unwrap_or(rest.len())]
    };
    rest.map(body).collect()
}

/// The names of the fields in what stands between the brackets.
fn fields(call: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for c in call.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().map(|part| part.push(c)).unwrap_or_default();
    }
    let name = |part: &String| {
        let part = part.trim();
        let name = part.split('=').next().unwrap_or(part).trim().trim_start_matches(['%', '?']);
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        (is_name && !part.starts_with("Level::")).then(|| name.to_owned())
    };
    parts.iter().filter_map(name).collect()
}

/// The first column of the tables below a heading.
fn words(heading: &str) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(workspace().join("crates/README.md"))?;
    let section =
        text.split("\n## ").find(|section| section.starts_with(heading)).context("no such section")?;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" |").next());
    Ok(cells.flat_map(|cell| cell.split(", ").map(|word| word.trim_matches('`').to_owned())).collect())
}

#[test]
fn one_thing_has_one_name_in_all_logs() -> Result<()> {
    let (known, used) = (words("Logs and traces")?, fields_used()?);
    ensure!(used.len() > 50, "{used:?}");
    let unknown: Vec<_> = used.iter().filter(|(field, _)| !known.contains(field)).collect();
    ensure!(unknown.is_empty(), "not in the table of crates/README.md: {unknown:#?}");
    let idle: Vec<_> = known.iter().filter(|word| !used.iter().any(|(field, _)| field == *word)).collect();
    ensure!(idle.is_empty(), "in the table of crates/README.md, and nowhere else: {idle:?}");
    Ok(())
}

//! What `/metrics` of real workers says, judged by promtool, and what dashboard and alert rules ask for.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME};
use hats_tests::health::{FakeSystem, HealthPort};
use hats_tests::redis::{self, RedisServer};
use hats_tests::web::WebServer;
use hats_tests::worker::{Options, Worker, workspace};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(30);
/// As many series as one worker may have, whatever it runs.
const SERIES_MAX: usize = 2_000;

fn persistent(lab: &Lab) -> Result<RedisServer> {
    RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })
}

fn options(name: &str, redis: &RedisServer) -> Options {
    Options::new(name, NAME, &redis.address().to_string())
}

fn job(redis: &RedisServer, name: &str, source: &str) -> Result<()> {
    redis.ask(&["HSET", &format!("{NAME}:Jobs:{name}"), "Source", source, "Cron", "* * * * * *"])?;
    Ok(())
}

/// Runs promtool (Debian's package prometheus), which has to find nothing.
fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run promtool, of Debian's package prometheus")?;
    if let Some(mut writer) = child.stdin.take() {
        writer.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success() && !said.contains("lint"), "promtool {arguments:?}: {said}\n{input}");
    Ok(())
}

/// The names of metrics in a text.
fn asked_for(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("hats_")).map(str::to_owned).collect()
}

fn docker(file: &str) -> std::path::PathBuf {
    workspace().join("docker").join(file)
}

fn text_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// What the panels of the dashboard ask Prometheus for.
fn questions() -> Result<Vec<String>> {
    let dashboard: serde_json::Value = serde_json::from_str(&text_of(&docker("grafana/dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let questions: Vec<_> = targets.filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect();
    ensure!(questions.len() > panels.len() / 2, "{questions:?}");
    Ok(questions)
}

#[test]
fn a_worker_that_does_everything_is_understood_by_prometheus() -> Result<()> {
    Lab::run("metrics", |lab| {
        let redis = persistent(lab)?;
        let web = WebServer::start()?;
        let flags = options("w0", &redis)
            .argument("--lease-seconds", "2")
            .argument("--health-interval", "200ms")
            .argument("--warm-memory", "48MiB")
            .argument("--host-port", "0")
            .flag("--host");
        let worker = Worker::start(lab, flags)?;
        let port = HealthPort::of(&worker)?;
        port.wait_for(200)?;
        // What has not happened is there as well, as 0.
        for series in [
            "hats_takeovers_total",
            "hats_ticks_overdue",
            "hats_sql_statement_seconds_count{database=\"mysql\"}",
        ] {
            assert_eq!(port.metric(series)? as u64, 0, "{series}");
        }
        let busy = format!(
            "const db = sql.New(':memory:', 'sqlite');
            function main() {{
              redis.Do('INCR', 'n'); redis.Do('HSET', 'n', 'a', 1); redis.Blpop(0.01, 'list');
              http.Get('{}'); http.Get('http://127.0.0.1:1/'); db.Query('SELECT 1'); db.Exec('no sql');
            }}",
            web.url()
        );
        for (thread, source) in
            [("fine", &*busy), ("broken", "function main() { throw new Error('on purpose') }")]
        {
            redis.ask(&["HSET", &Cluster::key(thread), "Source", source, "Hang", "5"])?;
        }
        job(&redis, "often", "redis.Do('RPUSH', 'ran', 'x')")?;
        let page = "<? if (request.Path == '/throws') throw 1 ?>hello";
        for path in ["/hello", "/throws"] {
            redis.ask(&["HSET", &format!("{NAME}:Endpoints:{path}"), "Source", page])?;
        }
        let line = worker.wait_for_line("endpoints are served address=", PATIENCE)?;
        let (_, address) = line.split_once("address=").context("no address")?;
        let endpoints: SocketAddr = address.trim().parse()?;
        let endpoints = SocketAddr::from(([127, 0, 0, 1], endpoints.port()));
        for (series, least) in [
            ("hats_claims_total{outcome=\"granted\"}", 2.0),
            ("hats_threads{state=\"owned\"}", 1.0),
            ("hats_script_errors_total{kind=\"thread\"}", 1.0),
            ("hats_ticks_total{outcome=\"ran\"}", 2.0),
            ("hats_tick_lateness_seconds_count", 2.0),
            ("hats_session_renew_seconds_count", 2.0),
            ("hats_session_age_seconds", 1.0),
            ("hats_memory_resident_bytes", 1e6),
            ("hats_redis_up{connection=\"watch\"}", 1.0),
            ("hats_ready", 1.0),
            ("hats_main_call_seconds_count", 2.0),
            ("hats_main_call_seconds_sum", 0.02),
            ("hats_script_heap_bytes{kind=\"thread\"}", 50_000.0),
            ("hats_script_heap_bytes{kind=\"job\"}", 50_000.0),
            ("hats_script_heap_bytes{kind=\"endpoint\"}", 50_000.0),
            ("hats_warm_limit_bytes", 47e6),
            ("hats_redis_command_seconds_count{command=\"incr\"}", 1.0),
            ("hats_redis_command_errors_total{command=\"hset\",reason=\"error\"}", 1.0),
            ("hats_redis_command_seconds_count{command=\"blocking\"}", 1.0),
            ("hats_redis_command_seconds_count{command=\"rpush\"}", 2.0),
            ("hats_http_request_seconds_count{outcome=\"2xx\"}", 1.0),
            ("hats_http_request_seconds_count{outcome=\"failed\"}", 1.0),
            ("hats_sql_statement_seconds_count{database=\"sqlite\"}", 2.0),
            ("hats_sql_statement_errors_total{database=\"sqlite\",reason=\"error\"}", 1.0),
            ("hats_endpoint_request_seconds_count{status=\"2xx\"}", 1.0),
            ("hats_endpoint_request_seconds_count{status=\"4xx\"}", 1.0),
            ("hats_endpoint_request_seconds_count{status=\"5xx\"}", 1.0),
        ] {
            clock::wait_for(series, PATIENCE, || {
                for path in ["/hello", "/throws", "/none"] {
                    HealthPort::at(endpoints).get(path)?;
                }
                Ok(port.metric(series).is_ok_and(|value| value >= least).then_some(()))
            })?;
        }
        let text = port.get("/metrics")?.body;
        let series = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        eprintln!("{series} series");
        ensure!(series < SERIES_MAX, "{series} series");
        for name in ["fine", "broken", "often", "hello", "throws"] {
            ensure!(!text.contains(name), "a task's name is in it: {name}\n{text}");
        }
        promtool(&["check", "metrics"], &text)?;

        let rules = text_of(&docker("alerts.yml"))?;
        let asked: String = questions()?.join("\n") + &rules;
        let known = asked_for(&text);
        let unknown: Vec<_> = asked_for(&asked).difference(&known).cloned().collect();
        ensure!(unknown.is_empty(), "dashboard or rules ask for what no worker says: {unknown:?}");
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn rules_and_panels_are_understood_by_prometheus() -> Result<()> {
    Lab::run("rules", |lab| {
        let path = |file: &str| docker(file).display().to_string();
        promtool(&["check", "rules", &path("alerts.yml")], "")?;
        promtool(&["test", "rules", &path("tests/alerts.test.yml")], "")?;
        // What a panel asks is checked as if it were a rule.
        let rules: Vec<_> = questions()?
            .into_iter()
            .enumerate()
            .map(|(number, question)| {
                let expr = question.replace("$job", ".*").replace("$__rate_interval", "5m");
                serde_json::json!({ "record": format!("panel:{number}"), "expr": expr })
            })
            .collect();
        // JSON is YAML.
        let rules = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string();
        let file = lab.path().join("panels.yml");
        std::fs::write(&file, &rules)?;
        promtool(&["check", "rules", &file.display().to_string()], "")
    })
}

/// One worker stands still, long before its session is over, and the other one is critical and takes nothing.
#[test]
fn a_tick_that_nobody_takes_is_overdue_until_somebody_does() -> Result<()> {
    Lab::run("overdue", |lab| {
        let redis = persistent(lab)?;
        let system = FakeSystem::new(lab, "system")?;
        let patient = |name: &str| options(name, &redis).argument("--lease-seconds", "120");
        let critical = patient("w1").argument("--health-interval", "100ms").argument("--cpu-threshold", "4");
        let healthy = Worker::start(lab, patient("w0"))?;
        let critical = Worker::start(lab, system.of(critical))?;
        let port = HealthPort::of(&critical)?;
        port.wait_for(200)?;
        HealthPort::of(&healthy)?.wait_for(200)?;
        system.load(9.0)?;
        port.wait_for(503)?;
        job(&redis, "j", "redis.Do('RPUSH', 'ran', worker.Name)")?;
        let ran = || -> Result<usize> { Ok(redis.ask(&["LRANGE", "ran", "0", "-1"])?.texts().len()) };
        clock::wait_for("two ticks", PATIENCE, || Ok((ran()? >= 2).then_some(())))?;
        assert_eq!(port.metric("hats_ticks_overdue")? as u64, 0);
        healthy.freeze()?;
        clock::wait_for("an overdue tick", Duration::from_secs(60), || {
            Ok((port.metric("hats_ticks_overdue")? as u64 == 1).then_some(()))
        })?;
        healthy.thaw()?;
        clock::wait_for("no overdue tick", Duration::from_secs(60), || {
            Ok((port.metric("hats_ticks_overdue")? as u64 == 0).then_some(()))
        })?;
        healthy.drain(PATIENCE)?;
        critical.drain(PATIENCE)?;
        Ok(())
    })
}

//! The figures of the product, each beside what it is to be compared with, printed by `just bench`.
//!
//! Medians of three runs, with the least and the greatest. Only ratios within one run mean anything elsewhere: the
//! workers, Redis and what drives them share the cores. Nothing is asserted. Words on the command line choose the
//! figures whose names contain them.

#![expect(clippy::print_stdout, reason = "printing is what this is for")]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hats_tests::clock::percentile;
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::process::Process;
use hats_tests::redis::RedisServer;
use hats_tests::ticks::{self, Books, COUNTED};
use hats_tests::worker::{self, Options, Worker};
use hats_tests::{Lab, clock, takeover};

/// How often each figure is taken.
const RUNS: usize = 3;

/// How long a rate is observed.
const WINDOW: Duration = Duration::from_secs(4);

type Figure = (&'static str, fn(&Lab) -> Result<()>);

const FIGURES: [Figure; 9] = [
    ("start", start),
    ("ticks", ticks),
    ("incr", incr),
    ("idle", idle),
    ("web", web),
    ("traffic", traffic),
    ("jobs", jobs),
    ("pages", pages),
    ("takeover", takeovers),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, figure) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            Lab::run(name, figure)?;
        }
    }
    Ok(())
}

/// Starts a worker of its own name on a Redis.
fn worker(lab: &Lab, redis: &RedisServer, name: &str) -> Result<Worker> {
    Worker::start(lab, Options::new(name, NAME, &redis.address().to_string()).without_call_log())
}

/// Defines threads of one source, at once.
fn define(redis: &RedisServer, count: usize, source: &str, hang: u32) -> Result<()> {
    let hang = hang.to_string();
    let commands: Vec<Vec<String>> = (0..count)
        .map(|number| {
            let key = Cluster::key(&format!("t{number}"));
            ["HSET", &key, "Source", source, "Hang", &hang].map(str::to_owned).to_vec()
        })
        .collect();
    redis.pipeline(&commands)?;
    Ok(())
}

fn number(redis: &RedisServer, key: &str) -> Result<i64> {
    Ok(redis.ask(&["GET", key])?.int().unwrap_or(0))
}

/// Waits until so many scripts have said that they are there.
fn all_started(redis: &RedisServer, count: usize) -> Result<()> {
    clock::wait_for(&format!("{count} threads to start"), Duration::from_secs(120), || {
        Ok((number(redis, "started")? >= i64::try_from(count)?).then_some(()))
    })
}

/// How much a counter grows in a second.
#[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
fn rate(mut counter: impl FnMut() -> Result<i64>) -> Result<f64> {
    let (first, start) = (counter()?, Instant::now());
    std::thread::sleep(WINDOW);
    let last = counter()?;
    Ok((last - first) as f64 / start.elapsed().as_secs_f64())
}

/// Prints the median of some runs and gives it.
fn tell(what: &str, unit: &str, mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    let median = runs.get(runs.len() / 2).copied().unwrap_or_default();
    let (least, greatest) =
        (runs.first().copied().unwrap_or_default(), runs.last().copied().unwrap_or_default());
    println!("{what:<64} {median:>14.1} {unit}  ({least:.1} to {greatest:.1})");
    median
}

/// From the start of the process to the first main().
fn start(lab: &Lab) -> Result<()> {
    let mut with_redis = Vec::new();
    let mut embedded = Vec::new();
    let script = lab.path().join("first.js");
    std::fs::write(&script, "function main() { sleep(1000); }")?;
    let script = script.to_str().context("a path that is no text")?;
    for run in 0..5 {
        let redis =
            RedisServer::start_with(lab, &format!("redis{run}"), hats_tests::redis::Options::default())?;
        let address = redis.address().to_string();
        let options = Options::new(&format!("joined{run}"), NAME, &address).argument("--scripts", script);
        with_redis.push(first_main(lab, options)?);
        embedded
            .push(first_main(lab, Options::bare(&format!("embedded{run}")).argument("--scripts", script))?);
    }
    tell("start: process to first main(), a Redis at hand", "ms", with_redis);
    tell("start: process to first main(), embedded Redis", "ms", embedded);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for reading")]
fn first_main(lab: &Lab, options: Options) -> Result<f64> {
    let mut history = hats_tests::history::History::default();
    let begun = clock::now();
    let worker = Worker::start(lab, options)?;
    history.add(worker.calls().to_owned());
    let started = clock::wait_for("the first main()", Duration::from_secs(30), || {
        history.read()?;
        Ok(history.threads_of(worker.pid()).first().and_then(|name| history.last_start(name)))
    })?;
    Ok((started.0 - begun) as f64 / 1e6)
}

/// main() after main() of one thread with an empty main and `Hang` 0.
fn ticks(lab: &Lab) -> Result<()> {
    let source = r#"
        let calls = 0;
        function main() { if ((++calls & 0xffff) === 0) report(); }
        function report() { redis.Call("SET", "ticks", calls); }
    "#;
    let redis = RedisServer::start(lab)?;
    define(&redis, 1, source, 0)?;
    let _worker = worker(lab, &redis, "ticks")?;
    clock::wait_for("the thread", Duration::from_secs(30), || {
        Ok((number(&redis, "ticks")? > 0).then_some(()))
    })?;
    let runs = (0..RUNS).map(|_| rate(|| number(&redis, "ticks"))).collect::<Result<Vec<_>>>()?;
    tell("ticks: main() of one thread, empty, Hang 0", "calls/s", runs);
    Ok(())
}

/// `redis.Do("INCR", …)`, main() after main(), beside redis-benchmark with as many clients and no pipeline.
fn incr(lab: &Lab) -> Result<()> {
    let source = r#"
        function init() { redis.Call("INCR", "started"); }
        function main() { redis.Do("INCR", "count"); }
    "#;
    for threads in [1, 32, 1000] {
        let redis =
            RedisServer::start_with(lab, &format!("redis{threads}"), hats_tests::redis::Options::default())?;
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for run in 0..RUNS {
            theirs.push(benchmark(&redis, threads)?);
            redis.ask(&["FLUSHALL"])?;
            define(&redis, threads, source, 0)?;
            let worker = worker(lab, &redis, &format!("incr{threads}-{run}"))?;
            all_started(&redis, threads)?;
            ours.push(rate(|| number(&redis, "count"))?);
            worker.kill()?;
        }
        let ours = tell(&format!("incr: {threads} threads, redis.Do(\"INCR\")"), "calls/s", ours);
        let theirs = tell(&format!("incr: redis-benchmark -c {threads}"), "calls/s", theirs);
        println!("{:<64} {:>14.2}", format!("incr: ratio at {threads}"), ours / theirs);
    }
    Ok(())
}

fn benchmark(redis: &RedisServer, clients: usize) -> Result<f64> {
    let requests = if clients == 1 { "100000" } else { "300000" };
    let output = Command::new("redis-benchmark")
        .args(["-p", &redis.address().port().to_string(), "-t", "incr", "--csv", "-n", requests])
        .args(["-c", &clients.to_string()])
        .output()
        .context("cannot run redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line =
        text.lines().find(|line| line.starts_with("\"INCR\"")).context("redis-benchmark says nothing")?;
    Ok(line.split(',').nth(1).context("a short line")?.trim_matches('"').parse()?)
}

/// Cold claim and resident memory of idle threads.
#[expect(clippy::cast_precision_loss, reason = "figures for reading")]
fn idle(lab: &Lab) -> Result<()> {
    let source = r#"
        function init() { redis.Call("INCR", "started"); }
        function main() { sleep(1000); }
    "#;
    for threads in [1000, 10_000] {
        let mut seconds = Vec::new();
        let mut kib = Vec::new();
        for run in 0..RUNS {
            let name = format!("idle{threads}-{run}");
            let redis = RedisServer::start_with(lab, &name, hats_tests::redis::Options::default())?;
            let empty = worker(lab, &redis, &format!("{name}-empty"))?;
            clock::wait_for("an idle worker", Duration::from_secs(30), || {
                let state = redis.field(&format!("{NAME}:workers:{}", empty.name()), "State")?;
                Ok((state == "online").then_some(()))
            })?;
            let before = empty.process().resident_kib()?;
            empty.kill()?;
            redis.ask(&["FLUSHALL"])?;
            define(&redis, threads, source, 1000)?;
            let begun = Instant::now();
            let worker = worker(lab, &redis, &name)?;
            all_started(&redis, threads)?;
            seconds.push(begun.elapsed().as_secs_f64());
            // Two rounds of main(), so that what is used only then counts.
            std::thread::sleep(WINDOW);
            kib.push(worker.process().resident_kib()?.saturating_sub(before) as f64 / threads as f64);
        }
        tell(&format!("idle: {threads} threads claimed by one worker from cold"), "s", seconds);
        tell(&format!("idle: resident memory per thread at {threads}"), "KiB", kib);
    }
    Ok(())
}

/// Resident memory of idle threads that have used a name of the web, which is made at its first use.
#[expect(clippy::cast_precision_loss, reason = "figures for reading")]
fn web(lab: &Lab) -> Result<()> {
    const THREADS: usize = 1000;
    let uses = [
        ("none of them", ""),
        ("URL and URLSearchParams", "new URL('https://a/?b=c').searchParams;"),
        ("TextEncoder and TextDecoder", "new TextDecoder().decode(new TextEncoder().encode('ä'));"),
        ("crypto", "crypto.randomUUID();"),
        ("AbortController and EventTarget", "new AbortController();"),
        ("structuredClone", "structuredClone({});"),
        ("atob, btoa, performance", "btoa(atob('YQ==')); performance.now();"),
    ];
    for (number, (what, use_of)) in uses.into_iter().enumerate() {
        let source = format!(
            "function init() {{ {use_of} redis.Call('INCR', 'started'); }} function main() {{ sleep(1000); }}"
        );
        let mut kib = Vec::new();
        for run in 0..RUNS {
            let name = format!("web{number}-{run}");
            let redis = RedisServer::start_with(lab, &name, hats_tests::redis::Options::default())?;
            let worker = worker(lab, &redis, &name)?;
            // What the worker itself takes is not counted.
            clock::wait_for("an idle worker", Duration::from_secs(30), || {
                let state = redis.field(&format!("{NAME}:workers:{name}"), "State")?;
                Ok((state == "online").then_some(()))
            })?;
            let before = worker.process().resident_kib()?;
            define(&redis, THREADS, &source, 1000)?;
            all_started(&redis, THREADS)?;
            std::thread::sleep(WINDOW);
            kib.push(worker.process().resident_kib()?.saturating_sub(before) as f64 / THREADS as f64);
        }
        tell(&format!("web: resident memory per thread, {what}"), "KiB", kib);
    }
    Ok(())
}

/// What two workers with running threads ask of Redis and of the cores.
#[expect(clippy::cast_precision_loss, reason = "figures for reading")]
fn traffic(lab: &Lab) -> Result<()> {
    let source = r#"
        function init() { redis.Call("INCR", "started"); }
        function main() {}
    "#;
    for threads in [1000, 10_000] {
        let name = format!("traffic{threads}");
        let redis = RedisServer::start_with(lab, &name, hats_tests::redis::Options::default())?;
        define(&redis, threads, source, 100)?;
        let workers =
            [worker(lab, &redis, &format!("{name}-a"))?, worker(lab, &redis, &format!("{name}-b"))?];
        all_started(&redis, threads)?;
        // What a start brings with it is over by then: mirrors of State, the first round of checks.
        std::thread::sleep(Duration::from_secs(15));
        let (mut calls, mut worker_cpu, mut redis_cpu) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let cpu = || -> Result<Duration> { workers.iter().map(|worker| worker.process().cpu()).sum() };
            redis.reset_stats()?;
            let (begun, ours, theirs) = (Instant::now(), cpu()?, redis.process().cpu()?);
            // A whole round of checks is 30 s long.
            std::thread::sleep(Duration::from_secs(30));
            let stats = redis.commandstats()?;
            let seconds = begun.elapsed().as_secs_f64();
            // The question itself is not theirs.
            let own = ["config|resetstat", "info"];
            let all: u64 =
                stats.iter().filter(|(name, _)| !own.contains(&name.as_str())).map(|(_, calls)| calls).sum();
            calls.push(all as f64 / seconds);
            worker_cpu.push((cpu()? - ours).as_secs_f64() / seconds * 100.0);
            redis_cpu.push((redis.process().cpu()? - theirs).as_secs_f64() / seconds * 100.0);
            let mut by_name: Vec<_> = stats.into_iter().collect();
            by_name.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
            by_name.truncate(6);
            println!("  {by_name:?}");
        }
        tell(&format!("traffic: 2 workers, {threads} threads, Hang 100 ms"), "commands/s", calls);
        tell(&format!("traffic: CPU of both workers, {threads} threads"), "%", worker_cpu);
        tell(&format!("traffic: CPU of Redis, {threads} threads"), "%", redis_cpu);
    }
    Ok(())
}

/// What jobs that are not due ask of Redis, and how late those begin that are.
#[expect(clippy::cast_precision_loss, reason = "figures for reading")]
fn jobs(lab: &Lab) -> Result<()> {
    let shape = Shape { threads: 0, lease: Duration::from_secs(5), ..Shape::default() };
    let define = |redis: &RedisServer, count: usize, cron: &str| -> Result<()> {
        let commands: Vec<Vec<String>> = (0..count)
            .map(|number| {
                let key = format!("{NAME}:Jobs:j{number}");
                ["HSET", &key, "Source", COUNTED, "Cron", cron].map(str::to_owned).to_vec()
            })
            .collect();
        redis.pipeline(&commands).map(drop)
    };
    Lab::run("jobs-idle", |lab| {
        // Behind proxies, which count what is sent; what a script does inside Redis is not counted.
        let mut cluster = Cluster::start(lab, shape)?;
        cluster.acquainted()?;
        define(&cluster.redis, 1000, "17 3 1 1 *")?;
        // A round over all of them is two minutes long.
        std::thread::sleep(Duration::from_secs(30));
        let sent = |cluster: &Cluster| -> std::collections::HashMap<String, u64> {
            let mut sent = std::collections::HashMap::new();
            for (name, count) in cluster.seats.iter().flat_map(|seat| seat.proxy.all_seen()) {
                *sent.entry(name).or_default() += count;
            }
            sent
        };
        let (before, begun) = (sent(&cluster), Instant::now());
        std::thread::sleep(Duration::from_secs(120));
        let seconds = begun.elapsed().as_secs_f64();
        let mut grown: Vec<(String, u64)> = sent(&cluster)
            .into_iter()
            .map(|(name, count)| (name.clone(), count - before.get(&name).copied().unwrap_or(0)))
            .collect();
        grown.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let all: u64 = grown.iter().map(|(_, count)| count).sum();
        tell("jobs: 1,000 idle ones, 3 workers", "commands/s", vec![all as f64 / seconds]);
        grown.truncate(8);
        println!("  {grown:?}");
        cluster.finish().map(drop)
    })?;
    for (count, step, seconds) in [(1000, 10, 45), (50, 1, 20), (1, 1, 20)] {
        let name = format!("jobs{count}");
        let redis = RedisServer::start_with(lab, &name, hats_tests::redis::Options::default())?;
        let names = ["a", "b", "c"].map(|nth| format!("{name}-{nth}"));
        let _workers: Vec<Worker> =
            names.iter().map(|name| worker(lab, &redis, name)).collect::<Result<_>>()?;
        // Until they know each other.
        std::thread::sleep(Duration::from_secs(3));
        define(&redis, count, &format!("*/{step} * * * * *"))?;
        std::thread::sleep(Duration::from_secs(seconds));
        let books: Vec<Books> = (0..count)
            .map(|number| Books::read(&redis, NAME, &format!("j{number}"), step))
            .collect::<Result<_>>()?;
        let late = ticks::check(&books)?.late;
        quantiles(&format!("jobs: {count} due each {step} s, lateness"), &late);
    }
    Ok(())
}

/// Pages, each request in a fresh scope, beside servers that only say hello. Driven by wrk with 32 connections.
fn pages(lab: &Lab) -> Result<()> {
    let redis = RedisServer::start(lab)?;
    redis.ask(&["SET", "value", "v"])?;
    let rows = "<table><? for (let i = 0; i < 100; i++) { ?><tr><td><?= i ?></td></tr><? } ?></table>";
    let handler = "export default { fetch() { return new Response('hello'); } }";
    let sources = [
        ("/hello", "a hello page", "hello"),
        ("/handler", "a hello handler", handler),
        ("/rows", "a page of 100 rows", rows),
        ("/redis", "a page with one redis.Do", "<?= redis.Do('GET', 'value') ?>"),
    ];
    for (path, _, source) in sources {
        redis.ask(&["HSET", &format!("{NAME}:Endpoints:{path}"), "Source", source])?;
    }
    let options = Options::new("pages", NAME, &redis.address().to_string())
        .flag("--host")
        .argument("--host-port", "0")
        .without_call_log();
    let worker = Worker::start(lab, options)?;
    let line = worker.wait_for_line("endpoints are served", Duration::from_secs(30))?;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.context("no address")?;
    for (path, what, _) in sources {
        drive(what, worker.process(), &format!("http://{address}{path}"))?;
    }
    drop(worker);

    let plain = worker::build("hats-endpoint", &["--example", "plain"])?;
    other(lab, "axum saying hello", &mut Command::new(plain))?;
    // Each from one warm scope, that has no page to look up: it is the protocol that is compared.
    let node = "require('node:http').createServer((_, answer) => { \
                  answer.setHeader('Content-Type', 'text/html; charset=utf-8'); answer.end('hello'); }) \
                  .listen(0, '127.0.0.1', function () { console.log('127.0.0.1:' + this.address().port); });";
    let answer = "new Response('hello', { headers: { 'Content-Type': 'text/html; charset=utf-8' } })";
    let bun = format!(
        "const s = Bun.serve({{ port: 0, hostname: '127.0.0.1', fetch: () => {answer} }}); \
         console.log('127.0.0.1:' + s.port);"
    );
    let deno = format!(
        "Deno.serve({{ port: 0, hostname: '127.0.0.1', \
         onListen: at => console.log('127.0.0.1:' + at.port) }}, () => {answer});"
    );
    for (program, arguments) in
        [("node", &["-e", node][..]), ("bun", &["-e", &bun]), ("deno", &["eval", &deno])]
    {
        let what = format!("{program} saying hello");
        if Command::new(program).arg("--version").output().is_ok() {
            other(lab, &what, Command::new(program).args(arguments))?;
        } else {
            println!("{:<64} not installed", format!("pages: {what}"));
        }
    }
    Ok(())
}

/// The same load on another server, whose first line says where it listens.
fn other(lab: &Lab, what: &str, command: &mut Command) -> Result<()> {
    let log = lab.log(&format!("{what}.log"));
    let process = Process::start(command, &log)?;
    let address = lab.wait_for_line(&log, "127.0.0.1:", Duration::from_secs(30))?;
    drive(what, &process, &format!("http://{}/", address.trim()))?;
    process.kill().map(drop)
}

/// Lets wrk ask for what it is worth.
fn drive(what: &str, server: &Process, url: &str) -> Result<()> {
    let wrk = |seconds: &str| -> Result<String> {
        let output = Command::new("wrk")
            .args(["-t", "1", "-c", "32", "-d", seconds, "--latency", url])
            .output()
            .context("wrk cannot be run (Debian: apt-get install wrk)")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success() && !text.contains("Non-2xx"), "{what}: {text}");
        Ok(text)
    };
    wrk("2s")?;
    let (mut rates, mut costs, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let before = server.cpu()?;
        let text = wrk("4s")?;
        let cpu = (server.cpu()? - before).as_secs_f64();
        let after = |mark: &str| text.lines().find_map(|line| line.trim().strip_prefix(mark)).map(str::trim);
        rates.push(after("Requests/sec:").context("wrk says no rate")?.parse()?);
        let requests: f64 = text
            .lines()
            .find_map(|line| line.trim().split_once(" requests in "))
            .context("wrk says no count")?
            .0
            .parse()?;
        costs.push(cpu * 1e6 / requests);
        latencies.push([after("50%"), after("99%")].map(|text| text.unwrap_or("?").to_owned()));
    }
    tell(&format!("pages: {what}"), "requests/s", rates);
    tell("       CPU of the server", "us/request", costs);
    for [p50, p99] in latencies {
        println!("       p50 {p50}, p99 {p99}");
    }
    Ok(())
}

/// How soon threads run elsewhere.
fn takeovers(_: &Lab) -> Result<()> {
    for lease in [2, 5].map(Duration::from_secs) {
        for threads in [100, 1000] {
            Lab::run("takeover", |lab| {
                let times = takeover::after_kill(lab, lease, threads)?;
                quantiles(&format!("takeover: lease {lease:?}, {threads} threads, after SIGKILL"), &times);
                Ok(())
            })?;
            Lab::run("hand-over", |lab| {
                let times = takeover::after_drain(lab, lease, threads)?;
                quantiles(&format!("takeover: lease {lease:?}, {threads} threads, after SIGTERM"), &times);
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn quantiles(what: &str, times: &[Duration]) {
    let [p50, p99, last] = [0.5, 0.99, 1.0].map(|share| percentile(times, share).as_secs_f64());
    println!("{what:<64} p50 {p50:.3} s, p99 {p99:.3} s, last {last:.3} s (of {})", times.len());
}

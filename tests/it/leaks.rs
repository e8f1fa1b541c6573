//! Scripts that start and stop again and again leave nothing behind: no memory, no file handle, no OS thread, no
//! connection.
//!
//! A cycle is a thread whose source has changed: its script is stopped and a new one is started in a fresh interpreter.
//! The short form does 2,000 of them, the long one (`HATS_SOAK=1`) 20,000; a tenth of them is for warming up. The series
//! is printed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME};
use hats_tests::redis::RedisServer;
use hats_tests::web::WebServer;
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(60);

/// What every script does in its `init()`: uses of every module. Whoever adds a module to the runtime adds a line.
const USES: &[&str] = &[
    r#"console.log("round", ROUND, { a: [1, 2, new Map([[1, 2]])] });"#,
    r#"env.Set("LEAKS", String(ROUND)); env.Get("LEAKS"); env.Unset("LEAKS");"#,
    "worker.Name + worker.Cluster + worker.ShuttingDown + worker.Healthy;",
    "thread.Key + thread.Hang + thread.Epoch + thread.Stopped + thread.State() + thread.Status();",
    r#"redis.Call("SET", "leaks:" + thread.Key, new Uint8Array(5000).fill(200)); redis.Do("GET", "leaks:" + thread.Key);"#,
    r#"redis.HsetFenced("leaks:fenced:" + thread.Key, { round: ROUND }); redis.Do("NOSUCH");"#,
    "sleep(1); setTimeout(() => {}, 100000, new Uint8Array(1000)); setInterval(() => {}, 5); queueMicrotask(() => {});",
    "new Promise(() => {}); Promise.reject(new Error('handled')).catch(() => {});",
    "const loop = { kept: new Uint8Array(10000) }; loop.loop = loop; structuredClone(loop);",
    "const url = new URL('https://a/?b=c'); url.searchParams.append('d', 'e'); url.href;",
    "const bytes = new TextEncoder().encode('ä'.repeat(5000)); new TextDecoder().decode(bytes, { stream: true }); atob(btoa('x'));",
    "crypto.randomUUID(); crypto.getRandomValues(new Uint8Array(100)); performance.now();",
    "AbortSignal.any([AbortSignal.timeout(100000), new AbortController().signal]).onabort = () => {};",
    // Few of the threads, or the number of connections would depend on how many are in here at once.
    "if (thread.Key.includes('idle')) { const url = env.Get('LEAKS_URL'); http.Post(url, 'x'.repeat(5000)).bytes; http.Get('http://127.0.0.1:1/'); \
     fetch(url + '/greeting').then((answer) => answer.json()); fetch(url + '/held', { signal: AbortSignal.timeout(1) }).catch(() => {}); \
     fetch(url + '/held'); }",
    "if (thread.Key.includes('idle')) { const db = sql.New('leaks.db', 'sqlite'), memory = sql.New(':memory:', 'sqlite'); \
     db.Exec('CREATE TABLE IF NOT EXISTS leaks (a, b)'); db.Exec('INSERT INTO leaks VALUES (?, ?)', ROUND, new Uint8Array(5000)); \
     db.Exec('DELETE FROM leaks WHERE a < ?', ROUND); db.Query('SELECT * FROM leaks LIMIT 3'); db.Exec('BEGIN'); db.Exec('NONSENSE'); \
     memory.Exec('CREATE TABLE a AS SELECT zeroblob(100000) b'); memory.Query('SELECT * FROM a'); \
     sql.New('u@tcp(127.0.0.1:1)/' + ROUND, 'mysql').Ping(); sql.New('postgres://u@127.0.0.1:1/' + ROUND, 'postgres').Ping(); }",
    "class Mine extends EventTarget {}; new Mine().addEventListener('x', () => loop); new DOMException('x');",
];

/// What they do after it, and so how they end: name, source, and further fields of the definition.
const ENDS: &[(&str, &str, &[&str])] = &[
    ("asleep", "function main() { sleep(100000); }", &[]),
    ("blocked", "function main() { redis.Blpop(0, 'nothing'); }", &[]),
    ("idle", "", &[]),
    ("busy", "function main() {} function cleanup() { redis.Do('INCR', 'cleaned'); }", &["Hang", "5"]),
    ("waiting", "async function main() { await new Promise((done) => setTimeout(done, 3)); }", &[]),
    (
        "module",
        "import { pause } from './lib/pause.js'; await import('./lib/pause.js'); export function main() { sleep(pause); }",
        &["Module:lib/pause.js", "export const pause = 10;"],
    ),
    ("crashed", "function main() { throw new Error('x'.repeat(1000)); }", &[]),
    (
        "hungry",
        "function main() { const all = []; for (;;) all.push(new Uint8Array(10000)); }",
        &["MemoryLimit", "2MiB"],
    ),
    ("deep", "function main() { return main() + 1; }", &[]),
    ("endless", "function main() { for (;;); }", &["CallTimeout", "200ms"]),
];

const THREADS: usize = 50;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident_kib: u64,
    handles: usize,
    os_threads: usize,
    connections: usize,
}

#[test]
fn nothing_is_left_of_scripts_that_have_ended() -> Result<()> {
    let rounds = if super::is_soak() { 400 } else { 40 };
    Lab::run("leaks", |lab| {
        let (redis, web) = (RedisServer::start(lab)?, WebServer::start()?);
        let options = Options::new("a", NAME, &redis.address().to_string()).without_call_log();
        let options = options.environment("LEAKS_URL", &web.url());
        let options = options.argument("--sqlite-dir", &lab.path().to_string_lossy());
        let worker = Worker::start(lab, options.argument("--log-level", "error"))?;
        let begun = Instant::now();
        let mut series = Vec::new();
        for round in 0..rounds {
            cycle(&redis, round)?;
            if (round + 1) % (rounds / 20) == 0 {
                let held = held(&worker, &redis)?;
                let (cycles, seconds) = ((round + 1) * THREADS, begun.elapsed().as_secs_f64());
                eprintln!("after {cycles:>6} cycles, {seconds:>6.1} s: {held:?}");
                series.push(held);
            }
        }
        let (warm, rest) = series.split_at(2);
        let greatest = |held: &[Held], of: fn(&Held) -> u64| held.iter().map(of).max().unwrap_or_default();
        // Each reading is of one moment of fifty scripts: the middle of many tells what stays.
        let third = series.len() / 3;
        let grown = middle_kib(&series[series.len() - third..]).saturating_sub(middle_kib(&series[..third]));
        ensure!(grown < GROWTH_KIB_MAX, "resident memory has grown by {grown} KiB: {series:?}");
        for of in [
            |held: &Held| held.handles as u64,
            |held: &Held| held.os_threads as u64,
            |held: &Held| held.connections as u64,
        ] {
            let grown = greatest(rest, of).saturating_sub(greatest(warm, of));
            ensure!(grown <= GROWTH_MAX, "{grown} more are held for ever: {series:?}");
        }
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

fn middle_kib(series: &[Held]) -> u64 {
    let mut all: Vec<u64> = series.iter().map(|held| held.resident_kib).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// Far less than a KiB for each cycle of the long form, and more than what the allocator keeps now and then.
const GROWTH_KIB_MAX: u64 = 10 << 10;
/// Connections for blocking commands are made as they are needed, and so are OS threads of the async runtime.
const GROWTH_MAX: u64 = 10;

/// Gives every thread a new source, and waits until each has started with it.
fn cycle(redis: &RedisServer, round: usize) -> Result<()> {
    let uses = USES.iter().map(|what| format!("{{ {what} }}\n")).collect::<String>();
    let started = format!("started:{round}");
    let say = format!("redis.Call('SADD', '{started}', thread.Key);\n");
    let (mut keys, mut commands) = (Vec::new(), Vec::new());
    for thread in 0..THREADS {
        let (name, end, fields) = ENDS[thread % ENDS.len()];
        // Whoever has little time says so before it is over.
        let (first, last) = if name == "endless" { (say.as_str(), "") } else { ("", say.as_str()) };
        let source = format!("const ROUND = {round};\nfunction init() {{\n{first}{uses}{last}}}\n{end}");
        let init =
            if name == "module" { source.replace("function init", "export function init") } else { source };
        let key = Cluster::key(&format!("{name}-{thread}"));
        keys.push(key.clone());
        let fields = fields.iter().map(|field| (*field).to_owned());
        commands
            .push(["HSET".to_owned(), key, "Source".to_owned(), init].into_iter().chain(fields).collect());
    }
    redis.pipeline::<String>(&commands)?;
    let mut missing = Vec::new();
    let waited = clock::wait_for(&format!("round {round}"), PATIENCE, || {
        let there = redis.ask(&["SMEMBERS", &started])?.texts();
        missing = keys.iter().filter(|key| !there.contains(key)).cloned().collect();
        Ok(missing.is_empty().then_some(()))
    });
    if let Err(error) = waited {
        let mut told = format!("{missing:?} have not started");
        for key in missing {
            told += &format!("\n{key}: {} {}", redis.field(&key, "State")?, redis.field(&key, "Error")?);
        }
        return Err(error.context(told));
    }
    redis.ask(&["DEL", &started])?;
    Ok(())
}

fn held(worker: &Worker, redis: &RedisServer) -> Result<Held> {
    let count = |folder: &str| -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/{folder}", worker.pid()))?.count())
    };
    let clients = redis.ask(&["CLIENT", "LIST"])?.text().context("no list of clients")?;
    Ok(Held {
        resident_kib: worker.process().resident_kib()?,
        handles: count("fd")?,
        os_threads: count("task")?,
        connections: clients.lines().count(),
    })
}

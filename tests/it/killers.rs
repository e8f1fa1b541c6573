//! Scripts that no engine is asked to survive, one native operation without end or a way into a crash of the engine each, as
//! threads, as jobs and as pages: every one ends alone, at its limit, and neither its worker nor a neighbour notices.
//!
//! The short form runs each of them once, in batches. The long form (`HATS_SOAK=1`) runs each alone as well, ends 100,000
//! pages in a row, and lets a cluster of three workers live with them for `HATS_SOAK_MINUTES`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hats_tests::cluster::NAME;
use hats_tests::redis::{RedisServer, free_port};
use hats_tests::web::WebServer;
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

use crate::{is_soak, soak_minutes};

/// Threads that tick beside the killers.
const NEIGHBOURS: usize = 100;
/// Killers of one batch, each as thread, job and page.
const BATCH: usize = 8;
/// A batch on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a neighbour was so late, in tenths of a millisecond: since its last `main()` ended, less its `Hang`. Each tells
/// it once a second.
const NEIGHBOUR: &str = r#"
let last = 0, ticks = 0, told = 0;
const late = {};
function main() {
  const now = performance.now();
  if (last) { const by = Math.max(0, Math.round((now - last - 20) * 10)); late[by] = (late[by] || 0) + 1; ticks++; }
  if (now - told > 1000) { told = now; redis.Do("HSET", "late", thread.Key, JSON.stringify(late), thread.Key + ":ticks", ticks); }
  last = performance.now();
}
"#;

/// Reached when it computes too long.
const TIME: &[&str] = &["TimeoutError: the "];
const MEMORY: &[&str] = &["MemoryError: the script needs more than its heap limit"];
const STACK: &[&str] = &["StackError: the script needs more than its stack limit"];
/// Which limit is the first depends on the speed of the machine.
const ANY: &[&str] = &[TIME[0], MEMORY[0], STACK[0]];

struct Killer {
    name: &'static str,
    /// Statements.
    code: &'static str,
    /// `MemoryLimit`.
    memory: &'static str,
    /// What its `Error` begins with, one of these.
    ends: &'static [&'static str],
}

macro_rules! killers {
    ($($name:ident $memory:literal $ends:ident $code:literal)*) => {
        const KILLERS: &[Killer] = &[
            $(Killer { name: stringify!($name), code: $code, memory: $memory, ends: $ends }),*
        ];
    };
}

killers! {
    // Loops over native calls, each of them short.
    loop_of_sorts "64MiB" TIME "const x = Array.from({length: 20000}, (_, i) => i * 7919 % 20011); for (;;) x.toSorted();"
    loop_of_splits "64MiB" TIME "const s = 'a,'.repeat(60000); for (;;) s.split(',');"
    loop_of_searches "64MiB" TIME "const s = 'a'.repeat(1e6); for (;;) s.indexOf('b');"
    loop_of_parses "64MiB" TIME "const s = JSON.stringify(Array.from({length: 3000}, (_, i) => ({id: i, name: 'n' + i}))); for (;;) JSON.parse(s);"
    loop_of_texts "64MiB" TIME "const o = Array.from({length: 3000}, (_, i) => ({id: i, name: 'n' + i})); for (;;) JSON.stringify(o);"
    loop_of_compares "64MiB" TIME "const s = 'ä'.repeat(1e5), t = s + 'b'; for (;;) s.localeCompare(t);"
    loop_of_typed_sorts "64MiB" TIME "const a = Float64Array.from({length: 200000}, (_, i) => i * 7919 % 200003); for (;;) a.toSorted();"
    loop_of_escapes "64MiB" TIME "const s = 'ä'.repeat(1e5); for (;;) decodeURIComponent(encodeURIComponent(s));"
    loop_of_copies "64MiB" TIME "const a = new Uint8Array(1e6); for (;;) a.slice();"
    loop_in_finally "64MiB" TIME "for (;;) { try { for (;;); } finally { continue; } }"
    // One native operation without end.
    index_of "64MiB" TIME "'a'.repeat(1e7).indexOf('a'.repeat(5e6) + 'b');"
    last_index_of "64MiB" TIME "'a'.repeat(1e7).lastIndexOf('a'.repeat(5e6) + 'b');"
    includes "64MiB" TIME "'a'.repeat(1e7).includes('a'.repeat(5e6) + 'b');"
    split "64MiB" TIME "'a'.repeat(1e7).split('a'.repeat(5e6) + 'b');"
    replace_all "64MiB" TIME "'a'.repeat(1e7).replaceAll('a'.repeat(5e6) + 'b', '');"
    join_of_holes "16MiB" ANY "new Array(2 ** 32 - 1).join('');"
    sort_of_holes "16MiB" ANY "new Array(2 ** 32 - 1).sort();"
    sort_by_time "16MiB" ANY "const byTime = []; byTime[Math.floor(Date.now() / 1000)] = 1; byTime.sort();"
    slice_of_holes "16MiB" ANY "new Array(2 ** 32 - 1).slice();"
    concat_of_holes "16MiB" ANY "for (;;) [].concat(new Array(2 ** 32 - 1));"
    reverse "16MiB" ANY "Array.prototype.reverse.call({length: 2 ** 53 - 1});"
    copy_within "16MiB" ANY "Array.prototype.copyWithin.call({length: 2 ** 53 - 1}, 0, 1);"
    unshift "16MiB" ANY "Array.prototype.unshift.call({length: 2 ** 53 - 2}, 1);"
    splice "16MiB" ANY "Array.prototype.splice.call({length: 2 ** 53 - 1}, 0, 1);"
    shift "16MiB" ANY "Array.prototype.shift.call({length: 2 ** 53 - 1});"
    index_of_nothing "16MiB" ANY "Array.prototype.indexOf.call({length: 2 ** 53 - 1}, 1);"
    last_index_of_nothing "16MiB" ANY "Array.prototype.lastIndexOf.call({length: 2 ** 53 - 1}, 1);"
    every_of_nothing "16MiB" ANY "Array.prototype.every.call({length: 2 ** 53 - 1}, () => true);"
    flat_of_nothing "16MiB" ANY "Array.prototype.flatMap.call({length: 2 ** 53 - 1}, x => x);"
    fill "16MiB" ANY "Array.prototype.fill.call({length: 2 ** 53 - 1}, 0);"
    from_length "16MiB" ANY "Array.from.call(Object, {length: 2 ** 53 - 1});"
    raw "16MiB" ANY "String.raw({raw: {length: 2 ** 53 - 1}});"
    dag "64MiB" ANY "let o = {}; for (let i = 0; i < 40; i++) o = {a: o, b: o}; JSON.stringify(o);"
    backtracking "64MiB" TIME "/(a+)+b/.test('a'.repeat(60));"
    backtracking_replace "64MiB" TIME "'a'.repeat(1e5).replace(/a*a*a*a*b/g, '');"
    normalize "256MiB" ANY "for (;;) ('a' + '\\u0301\\u0316'.repeat(3e6)).normalize();"
    alternatives "64MiB" ANY "for (;;) try { new RegExp('a|'.repeat(1e6)); } catch (e) {}"
    private_names "256MiB" ANY "for (;;) new Function('class A {' + Array.from({length: 20000}, (_, i) => '#x' + i).join(';') + '}');"
    many_lets "256MiB" ANY "for (;;) new Function(Array.from({length: 60000}, (_, i) => 'let x' + i).join(';'));"
    prototypes "64MiB" ANY "let o = {}; for (let i = 0; i < 1e5; i++) o = Object.create(o); for (;;) o.missing;"
    big_power "64MiB" ANY "const a = 3n ** 300000n; for (;;) a * a % 7n;"
    big_text "64MiB" ANY "for (;;) (7n ** 300000n).toString();"
    sort_by_endless "64MiB" TIME "[3, 2, 1].sort(() => { for (;;); });"
    parse_by_endless "64MiB" TIME "JSON.parse('[1]', () => { for (;;); });"
    overflow_in_catch "64MiB" ANY "const f = () => { try { f(); } catch (e) { f(); } }; f();"
    microtasks "64MiB" ANY "const f = () => Promise.resolve().then(f); f();"
    // The stack, by frames of the engine's own.
    iterator_map "64MiB" STACK "let it = [1].values(); for (let i = 0; i < 5000; i++) it = it.map(x => x); for (;;) it.next();"
    iterator_filter "64MiB" STACK "let it = [1].values(); for (let i = 0; i < 10000; i++) it = it.filter(x => x); it.next();"
    iterator_take "64MiB" STACK "let it = [1].values(); for (let i = 0; i < 10000; i++) it = it.take(9); it.next();"
    iterator_drop "64MiB" STACK "let it = [1].values(); for (let i = 0; i < 10000; i++) it = it.drop(0); it.next();"
    iterator_flat_map "64MiB" STACK "let it = [1].values(); for (let i = 0; i < 10000; i++) it = it.flatMap(x => [x]); it.next();"
    recursion "64MiB" STACK "const f = n => f(n + 1) + 1; f(0);"
    nested_text "64MiB" STACK "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; String(a);"
    proxies "64MiB" STACK "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.missing;"
    bound_functions "64MiB" STACK "let f = () => 1; for (let i = 0; i < 20000; i++) { f = f.bind(null); Object.defineProperty(f, 'name', {value: ''}); } f();"
    // The heap.
    push "8MiB" MEMORY "const a = []; for (;;) a.push('x'.repeat(1000) + a.length);"
    big_strings "64MiB" MEMORY "const s = 'x'.repeat(10 << 20), a = []; for (;;) a.push(s + a.length + s);"
    all_settled "8MiB" ANY "for (let n = 14000;; n += 500) Promise.allSettled(Array.from({length: n}, async () => n));"
    any_settled "8MiB" ANY "for (let n = 14000;; n += 500) Promise.any(Array.from({length: n}, async () => n));"
    all_kept "16MiB" ANY "const kept = []; for (;;) kept.push(Promise.allSettled(Array.from({length: 1000}, async () => 1)));"
    entries "3312KiB" MEMORY "let o = {}; for (let i = 0;; i++) { o['k' + i] = i; if (i % 1000 == 999) o = Object.fromEntries(Object.entries(o)); }"
    closures "8MiB" MEMORY "let f = null; for (;;) { const g = f; f = () => g; }"
    map_grows "8MiB" MEMORY "const m = new Map(); for (let i = 0;; i++) m.set(i, {i});"
    buffers "8MiB" MEMORY "const a = []; for (;;) a.push(new Uint8Array(10000));"
    errors "8MiB" MEMORY "const a = []; for (;;) a.push(new Error('x' + a.length));"
    clones "8MiB" MEMORY "let a = [1]; for (;;) a = structuredClone([...a, ...a]);"
}

/// What a killer is run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Thread,
    Job,
    Page,
}

const FORMS: [Form; 3] = [Form::Thread, Form::Job, Form::Page];

impl Form {
    fn key(self, name: &str) -> String {
        match self {
            Self::Thread => format!("{NAME}:Threads:{name}"),
            Self::Job => format!("{NAME}:Jobs:{name}"),
            Self::Page => format!("{NAME}:Endpoints:/{name}"),
        }
    }

    fn source(self, code: &str) -> String {
        match self {
            Self::Thread | Self::Job => format!("function main() {{ {code} }}"),
            Self::Page => format!("<? (() => {{ {code} }})(); ?>"),
        }
    }

    /// How long it may compute: a killer that is to meet another limit first gets the time for it.
    fn limit(self, ends: &[&str]) -> [&'static str; 2] {
        let is_time = ends == TIME || ends == ANY;
        match (self, is_time) {
            (Self::Job, true) => ["Timeout", "1"],
            (Self::Job, false) => ["Timeout", "20"],
            (_, true) => ["CallTimeout", "1s"],
            (_, false) => ["CallTimeout", "20s"],
        }
    }
}

/// One Redis and some workers that serve endpoints.
struct Bench {
    redis: RedisServer,
    workers: Vec<(Worker, SocketAddr)>,
}

impl Bench {
    fn start(lab: &Lab, workers: usize) -> Result<Self> {
        let redis = RedisServer::start(lab)?;
        let address = redis.address().to_string();
        let mut started = Vec::new();
        for number in 0..workers {
            let port = free_port()?;
            let options = Options::new(&format!("w{number}"), NAME, &address)
                .argument("--drain-timeout", "10")
                .argument("--host-port", &port.to_string())
                .flag("--host")
                .without_call_log();
            started.push((Worker::start(lab, options)?, SocketAddr::from(([127, 0, 0, 1], port))));
        }
        redis.ask(&["HSET", &Form::Page.key("good"), "Source", "good"])?;
        let bench = Self { redis, workers: started };
        for (_, address) in &bench.workers {
            clock::wait_for("an endpoint to be served", PATIENCE, || {
                Ok((get(*address, "/good", PATIENCE).is_ok_and(|(status, _)| status == 200)).then_some(()))
            })?;
        }
        Ok(bench)
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.workers.first().context("no worker")?.1)
    }

    fn worker(&self) -> Result<&Worker> {
        Ok(&self.workers.first().context("no worker")?.0)
    }

    /// Starts the neighbours and waits until each ticks.
    fn neighbours(&self, count: usize) -> Result<()> {
        let define = |number| {
            let key = Form::Thread.key(&format!("neighbour{number}"));
            ["HSET", &key, "Source", NEIGHBOUR, "Hang", "20"].map(str::to_owned).to_vec()
        };
        self.redis.pipeline(&(0..count).map(define).collect::<Vec<_>>())?;
        clock::wait_for("all neighbours to tick", PATIENCE, || {
            Ok((self.ticks()?.len() == count).then_some(()))
        })
    }

    /// How often each neighbour has ticked.
    fn ticks(&self) -> Result<BTreeMap<String, u64>> {
        let late = self.redis.hash("late")?;
        let ticks = late.into_iter().filter_map(|(name, count)| {
            let name = name.strip_suffix(":ticks")?;
            Some((name.to_owned(), count.parse().ok().filter(|count| *count > 0)?))
        });
        Ok(ticks.collect())
    }

    /// Every neighbour ticks on.
    fn goes_on(&self) -> Result<()> {
        let before = self.ticks()?;
        clock::wait_for("every neighbour to go on", PATIENCE, || {
            let now = self.ticks()?;
            Ok(before.iter().all(|(name, count)| now.get(name) > Some(count)).then_some(()))
        })
    }

    /// How often neighbours have been how late.
    fn lateness(&self) -> Result<Lateness> {
        let mut all = BTreeMap::new();
        for (name, text) in self.redis.hash("late")? {
            if name.ends_with(":ticks") {
                continue;
            }
            let counts: BTreeMap<u64, u64> = serde_json::from_str(&text)?;
            for (by, count) in counts {
                *all.entry(by).or_default() += count;
            }
        }
        Ok(Lateness(all))
    }

    /// The sessions that there are, and the workers' processes: neither may change.
    fn identity(&self) -> Result<(Vec<String>, Vec<u32>)> {
        let mut sessions = self.redis.ask(&["SMEMBERS", &format!("{NAME}:Sessions")])?.texts();
        sessions.sort();
        for (worker, _) in &self.workers {
            if let Some(exit) = worker.process().exit() {
                bail!("worker {} has ended: {:?}", worker.name(), exit.status);
            }
        }
        Ok((sessions, self.workers.iter().map(|(worker, _)| worker.pid()).collect()))
    }

    /// No innocent is set aside or has an error.
    fn nobody_is_set_aside(&self) -> Result<()> {
        let counted = self.redis.ask(&["KEYS", &format!("{NAME}:System:Poison:*")])?.texts();
        ensure!(counted.is_empty(), "counted against: {counted:?}");
        for name in self.redis.ask(&["KEYS", &Form::Thread.key("neighbour*")])?.texts() {
            let error = self.redis.field(&name, "Error")?;
            ensure!(error.is_empty(), "{name}: {error}");
        }
        let (status, body) = get(self.address()?, "/good", PATIENCE)?;
        ensure!(status == 200 && body.ends_with("good"), "{status}: {body}");
        Ok(())
    }

    fn define(&self, form: Form, killer: &Killer, name: &str) -> Result<()> {
        let [field, limit] = form.limit(killer.ends);
        let (key, source) = (form.key(name), form.source(killer.code));
        let mut command = vec!["HSET", &key, "Source", &source, "MemoryLimit", killer.memory, field, limit];
        match form {
            Form::Thread => command.extend(["Restart", "never"]),
            // Once a year; it is run by hand.
            Form::Job => command.extend(["Cron", "0 0 0 1 1 *"]),
            Form::Page => (),
        }
        self.redis.ask(&command)?;
        Ok(())
    }

    fn error_of(&self, form: Form, name: &str, within: Duration) -> Result<String> {
        let key = form.key(name);
        clock::wait_for(&format!("the error of {key}"), within, || {
            Ok(Some(self.redis.field(&key, "Error")?).filter(|error| !error.is_empty()))
        })
    }

    /// Runs killers at the same time, each in these forms; gives what was wrong with any, and tells of each.
    fn run(&self, killers: &[&Killer], forms: &[Form], wrong: &mut Vec<String>) -> Result<()> {
        let address = self.address()?;
        let runs: Vec<(&Killer, Form)> =
            killers.iter().flat_map(|killer| forms.iter().map(move |form| (*killer, *form))).collect();
        for (killer, form) in &runs {
            // As a thread it starts at once; the others are defined before they are asked for.
            if *form != Form::Thread {
                self.define(*form, killer, killer.name)?;
            }
        }
        for (killer, form) in &runs {
            if *form == Form::Page {
                known(address, killer.name)?;
            }
        }
        let found = thread::scope(|scope| {
            let ended = runs.iter().map(|(killer, form)| {
                scope.spawn(move || {
                    self.one(killer, *form, address).with_context(|| format!("{} as {form:?}", killer.name))
                })
            });
            let ended: Vec<_> = ended.collect();
            ended.into_iter().map(|run| run.join()).collect::<Vec<_>>()
        });
        for result in found {
            match result {
                Ok(Ok(line)) => eprintln!("{line}"),
                Ok(Err(error)) => wrong.push(format!("{error:#}")),
                Err(_) => bail!("a test thread panicked"),
            }
        }
        Ok(())
    }

    /// One killer from its start to its error, in a line for people.
    fn one(&self, killer: &Killer, form: Form, address: SocketAddr) -> Result<String> {
        let begun = Instant::now();
        let mut status = String::new();
        match form {
            Form::Thread => self.define(form, killer, killer.name)?,
            Form::Job => {
                self.redis.ask(&["HSET", &form.key(killer.name), "RunAt", &clock::now().to_string()])?;
            }
            Form::Page => {
                let (code, _) = get(address, &format!("/{}", killer.name), PATIENCE)?;
                ensure!(code == 500 || code == 504, "answered with {code}");
                let _ = write!(status, " {code}");
            }
        }
        let elapsed = if form == Form::Page { Some(begun.elapsed()) } else { None };
        let error = self.error_of(form, killer.name, PATIENCE)?;
        let elapsed = elapsed.unwrap_or_else(|| begun.elapsed()).as_millis();
        let head: String = error.chars().take(100).collect();
        ensure!(killer.ends.iter().any(|end| error.starts_with(end)), "after {elapsed} ms{status}: {head}");
        let name = error.split(':').next().unwrap_or_default();
        Ok(format!("{:24} {form:?}{status}: {name} after {elapsed} ms", killer.name))
    }
}

/// How often somebody was so late, in tenths of a millisecond.
#[derive(Clone)]
struct Lateness(BTreeMap<u64, u64>);

impl Lateness {
    fn since(&self, before: &Self) -> Self {
        let difference = self
            .0
            .iter()
            .map(|(by, count)| (*by, count - before.0.get(by).copied().unwrap_or(0).min(*count)));
        Self(difference.filter(|(_, count)| *count > 0).collect())
    }

    fn text(&self) -> String {
        let all: u64 = self.0.values().sum();
        let at = |per_mille: u64| {
            let mut left = all * per_mille / 1000;
            let found = self.0.iter().find(|(_, count)| {
                let is_here = left < **count;
                left = left.saturating_sub(**count);
                is_here
            });
            found.or(self.0.iter().next_back()).map_or(0, |(by, _)| *by)
        };
        let ms = |tenths: u64| format!("{}.{}", tenths / 10, tenths % 10);
        format!("{all} ticks late by p50 {} p99 {} max {} ms", ms(at(500)), ms(at(990)), ms(at(1000)))
    }
}

/// Status and whole text of the answer to a request.
fn get(address: SocketAddr, path: &str, within: Duration) -> Result<(u16, String)> {
    let mut stream = send(address, path, within)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer of {path}"))?;
    let status = text.split(' ').nth(1).with_context(|| format!("{path}: no status"))?.parse()?;
    Ok((status, text))
}

/// Waits until a page is served, without running it: a request with a body larger than any page takes is refused once it has
/// found its page.
fn known(address: SocketAddr, name: &str) -> Result<()> {
    clock::wait_for(&format!("/{name} to be known"), PATIENCE, || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "POST /{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok((&status == b"HTTP/1.1 413").then_some(()))
    })
}

fn send(address: SocketAddr, path: &str, within: Duration) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())?;
    Ok(stream)
}

#[test]
fn each_ends_alone_at_its_limit() -> Result<()> {
    Lab::run("killers", |lab| {
        let bench = Bench::start(lab, 1)?;
        bench.neighbours(NEIGHBOURS)?;
        let before = bench.identity()?;
        ensure!(before.0.len() == 1, "sessions: {:?}", before.0);
        // The same for a while without any killer.
        let begun = bench.lateness()?;
        thread::sleep(Duration::from_secs(if is_soak() { 30 } else { 4 }));
        let quiet = bench.lateness()?;
        let mut wrong = Vec::new();
        let all: Vec<&Killer> = KILLERS.iter().collect();
        for batch in all.chunks(BATCH) {
            bench.run(batch, &FORMS, &mut wrong)?;
            ensure!(
                bench.identity()? == before,
                "after {}",
                batch.iter().map(|killer| killer.name).collect::<Vec<_>>().join(", ")
            );
        }
        bench.goes_on()?;
        eprintln!("without killers: {}", quiet.since(&begun).text());
        eprintln!(
            "with {} killers in {} forms, {BATCH} at a time: {}",
            KILLERS.len(),
            FORMS.len(),
            bench.lateness()?.since(&quiet).text()
        );
        if is_soak() {
            forget(&bench)?;
            let alone = bench.lateness()?;
            for killer in KILLERS {
                for form in FORMS {
                    bench.run(&[killer], &[form], &mut wrong)?;
                }
                ensure!(bench.identity()? == before, "after {}", killer.name);
            }
            bench.goes_on()?;
            eprintln!("with one killer at a time: {}", bench.lateness()?.since(&alone).text());
        }
        ensure!(bench.identity()? == before, "the worker or its session has changed");
        bench.nobody_is_set_aside()?;
        ensure!(
            wrong.is_empty(),
            "{} of {} ended otherwise:\n{}",
            wrong.len(),
            KILLERS.len() * FORMS.len(),
            wrong.join("\n")
        );
        bench.worker()?.drain(Duration::from_secs(20))?;
        Ok(())
    })
}

/// Takes the killers' definitions away, so that each can start anew.
fn forget(bench: &Bench) -> Result<()> {
    for killer in KILLERS {
        for form in FORMS {
            bench.redis.ask(&["DEL", &form.key(killer.name)])?;
        }
    }
    thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// Open handles of a process.
fn handles(worker: &Worker) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", worker.pid()))?.count())
}

#[test]
fn thousands_of_ended_pages_leave_nothing_behind() -> Result<()> {
    const CLIENTS: usize = 12;
    /// Room for what an allocator keeps, in KiB.
    const AIR: u64 = 16 << 10;
    let all: usize = if is_soak() { 100_000 } else { 300 };
    Lab::run("abandonments", |lab| {
        let bench = Bench::start(lab, 1)?;
        let before = bench.identity()?;
        let pages = [
            ("native", "new Array(2 ** 32 - 1).join('');", 504),
            ("endless", "for (;;);", 504),
            ("hungry", "const a = []; for (;;) a.push('x'.repeat(1000) + a.length);", 500),
            (
                "deep",
                "let it = [1].values(); for (let i = 0; i < 10000; i++) it = it.drop(0); it.next();",
                500,
            ),
        ];
        for (name, code, _) in pages {
            // Memory and stack are reached in less than the time of the others, whatever else runs.
            let limit = if name == "native" || name == "endless" { "20" } else { "20s" };
            let source = Form::Page.source(code);
            bench.redis.ask(&[
                "HSET",
                &Form::Page.key(name),
                "Source",
                &source,
                "CallTimeout",
                limit,
                "MemoryLimit",
                "4MiB",
            ])?;
        }
        let address = bench.address()?;
        for (name, _, _) in pages {
            known(address, name)?;
        }
        let mut series = Vec::new();
        const PORTIONS: usize = 20;
        for _ in 0..PORTIONS {
            let each = all.div_ceil(PORTIONS * CLIENTS);
            thread::scope(|scope| -> Result<()> {
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|client| {
                        scope.spawn(move || -> Result<()> {
                            for number in 0..each {
                                let (name, _, expected) = pages[(client + number) % pages.len()];
                                let (status, _) = get(address, &format!("/{name}"), PATIENCE)?;
                                ensure!(status == expected, "{name}: {status}");
                            }
                            Ok(())
                        })
                    })
                    .collect();
                for client in clients {
                    client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
                }
                Ok(())
            })?;
            series.push((bench.worker()?.process().resident_kib()?, handles(bench.worker()?)?));
        }
        eprintln!("KiB and handles at each of {PORTIONS} parts of {all} ended pages: {series:?}");
        ensure!(bench.identity()? == before, "the worker or its session has changed");
        let (warm, late) = series.split_at(PORTIONS / 4);
        let (kib, open) = warm.iter().fold((0, 0), |most, now| (most.0.max(now.0), most.1.max(now.1)));
        for now in late {
            ensure!(now.0 <= kib + kib / 4 + AIR, "{} KiB after {kib}: {series:?}", now.0);
            ensure!(now.1 <= open + CLIENTS, "{} handles after {open}: {series:?}", now.1);
        }
        bench.nobody_is_set_aside()?;
        bench.worker()?.drain(Duration::from_secs(20))?;
        Ok(())
    })
}

/// Numbers that can be had again from their seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Result<&'a T> {
        let bound = u64::try_from(all.len())?;
        all.get(usize::try_from(self.below(bound))?).context("none to choose from")
    }
}

/// Work of every kind that has no end.
const WORK: &str = "const a = Array.from({length: 500}, (_, i) => i * 7919 % 20011), s = 'ab,'.repeat(500); let n = 0; \
    for (;;) { n += a.toSorted().length; s.split(',').join('b').replace(/a+b/g, 'c'); JSON.parse(JSON.stringify({a, s})); \
    new Map(a.map(x => [x, {x}])); new Promise(() => {}).then(() => n); }";

#[test]
fn ends_at_random_moments_answer_everybody() -> Result<()> {
    let rounds: u64 = if is_soak() { 1000 } else { 20 };
    Lab::run("random ends", |lab| {
        let bench = Bench::start(lab, 1)?;
        let before = bench.identity()?;
        let address = bench.address()?;
        let mut random = Random(clock::now() | 1);
        eprintln!("from {}", random.0);
        let pages: u64 = 10;
        for number in 0..pages {
            let limit = (1 + random.below(60)).to_string();
            let (page, job) = (Form::Page.key(&format!("p{number}")), Form::Job.key(&format!("j{number}")));
            bench.redis.ask(&["HSET", &page, "Source", &Form::Page.source(WORK), "CallTimeout", &limit])?;
            let source = Form::Job.source(WORK);
            bench.redis.ask(&[
                "HSET",
                &job,
                "Source",
                &source,
                "CallTimeout",
                &limit,
                "Cron",
                "0 0 0 1 1 *",
            ])?;
        }
        for number in 0..pages {
            known(address, &format!("p{number}"))?;
        }
        for round in 0..rounds {
            let page = format!("/p{}", round % pages);
            // One client goes away in the middle, another waits for its answer.
            let gone = send(address, &page, PATIENCE)?;
            thread::sleep(Duration::from_micros(random.below(60_000)));
            drop(gone);
            let (status, _) = get(address, &page, PATIENCE)?;
            ensure!(status == 504, "{page}: {status}");
            let (status, _) = get(address, "/good", PATIENCE)?;
            ensure!(status == 200, "after {page}: {status}");
        }
        for number in 0..pages {
            bench.redis.ask(&["HSET", &Form::Job.key(&format!("j{number}")), "RunAt", "1"])?;
        }
        for number in 0..pages {
            let name = format!("j{number}");
            let error = bench.error_of(Form::Job, &name, PATIENCE)?;
            ensure!(error.starts_with(TIME[0]), "{name}: {error}");
            // The next run is as good as any.
            let source = format!("function main() {{ redis.Do('SET', 'ran:{name}', '1') }}");
            bench.redis.ask(&["HSET", &Form::Job.key(&name), "Source", &source, "RunAt", "2"])?;
        }
        for number in 0..pages {
            clock::wait_for(&format!("j{number} to run"), PATIENCE, || {
                Ok((bench.redis.ask(&["GET", &format!("ran:j{number}")])?.text().as_deref() == Some("1"))
                    .then_some(()))
            })?;
        }
        ensure!(bench.identity()? == before, "the worker or its session has changed");
        bench.nobody_is_set_aside()?;
        bench.worker()?.drain(Duration::from_secs(20))?;
        Ok(())
    })
}

#[test]
fn ends_while_scripts_wait_let_the_worker_go_on() -> Result<()> {
    const EACH: usize = 13;
    Lab::run("ends while waiting", |lab| {
        let web = WebServer::start()?;
        let bench = Bench::start(lab, 1)?;
        let before = bench.identity()?;
        let address = bench.address()?;
        let held = format!("http.Get('{}/held');", web.url());
        let waits = [
            ("asleep", "sleep(600000);"),
            ("fetching", held.as_str()),
            ("popping", "redis.Blpop(0, 'nothing');"),
            (
                "querying",
                "sql.New(':memory:', 'sqlite').Query('WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c');",
            ),
        ];
        for (name, code) in waits {
            // Each says that it is about to wait.
            let begins = format!("redis.Do('INCR', 'begun:{name}'); {code}");
            let source = Form::Page.source(&begins);
            bench.redis.ask(&["HSET", &Form::Page.key(name), "Source", &source, "CallTimeout", "600s"])?;
        }
        for (name, _) in waits {
            known(address, name)?;
        }
        // Clients that go away: what they waited for is killed where it waits.
        let mut clients = Vec::new();
        for (name, _) in waits {
            // An endless query takes one of few places.
            let count = if name == "querying" { 2 } else { EACH };
            for _ in 0..count {
                clients.push(send(address, &format!("/{name}"), PATIENCE)?);
            }
            clock::wait_for(&format!("all of {name} to wait"), PATIENCE, || {
                let begun = bench.redis.ask(&["GET", &format!("begun:{name}")])?.text().unwrap_or_default();
                Ok((begun.parse() == Ok(count)).then_some(()))
            })?;
        }
        drop(clients);
        // Threads that reach their limit while they wait.
        for (name, code) in waits {
            for number in 0..if name == "querying" { 2 } else { EACH } {
                let key = Form::Thread.key(&format!("{name}{number}"));
                let source = Form::Thread.source(code);
                bench.redis.ask(&[
                    "HSET",
                    &key,
                    "Source",
                    &source,
                    "CallTimeout",
                    "500",
                    "Restart",
                    "never",
                ])?;
            }
        }
        for (name, _) in waits {
            for number in 0..if name == "querying" { 2 } else { EACH } {
                let error = bench.error_of(Form::Thread, &format!("{name}{number}"), PATIENCE)?;
                ensure!(error.starts_with(TIME[0]), "{name}{number}: {error}");
            }
        }
        ensure!(bench.identity()? == before, "the worker or its session has changed");
        bench.nobody_is_set_aside()?;
        bench.worker()?.drain(Duration::from_secs(20))?;
        Ok(())
    })
}

#[test]
fn a_cluster_lives_with_them() -> Result<()> {
    if !is_soak() {
        return Ok(());
    }
    const THREADS: usize = 200;
    const JOBS: usize = 50;
    const PAGES: usize = 20;
    Lab::run("killers, chaos", |lab| {
        let bench = Bench::start(lab, 3)?;
        bench.neighbours(THREADS)?;
        for number in 0..JOBS {
            let source = format!("redis.Do('INCR', 'runs:{number}')");
            let key = Form::Job.key(&format!("good{number}"));
            bench.redis.ask(&["HSET", &key, "Source", &source, "Cron", "@every 1s"])?;
        }
        for number in 0..PAGES {
            bench.redis.ask(&[
                "HSET",
                &Form::Page.key(&format!("good{number}")),
                "Source",
                "<?= 6 * 7 ?>",
            ])?;
        }
        for number in 0..PAGES {
            for (_, address) in &bench.workers {
                known(*address, &format!("good{number}"))?;
            }
        }
        let before = bench.identity()?;
        let mut random = Random(clock::now() | 1);
        eprintln!("from {}", random.0);
        let begun = bench.lateness()?;
        let end = Instant::now() + soak_minutes();
        thread::scope(|scope| -> Result<()> {
            let load: Vec<_> = (0..PAGES)
                .map(|number| {
                    let (_, address) = bench.workers[number % bench.workers.len()];
                    scope.spawn(move || -> Result<u64> {
                        let mut served = 0;
                        while Instant::now() < end {
                            let (status, _) = get(address, &format!("/good{number}"), PATIENCE)?;
                            ensure!(status == 200, "/good{number}: {status}");
                            served += 1;
                            thread::sleep(Duration::from_millis(10));
                        }
                        Ok(served)
                    })
                })
                .collect();
            let mut count = 0;
            while Instant::now() < end {
                let (killer, form) = (random.of(KILLERS)?, *random.of(&FORMS)?);
                let (_, address) = *random.of(&bench.workers)?;
                let name = format!("killer{count}");
                count += 1;
                bench.define(form, killer, &name)?;
                match form {
                    Form::Thread => (),
                    Form::Job => {
                        thread::sleep(Duration::from_secs(1));
                        bench.redis.ask(&["HSET", &form.key(&name), "RunAt", "1"])?;
                    }
                    Form::Page => {
                        known(address, &name)?;
                        let (status, _) = get(address, &format!("/{name}"), PATIENCE)?;
                        ensure!(status == 500 || status == 504, "{} as {form:?}: {status}", killer.name);
                    }
                }
                let error = bench
                    .error_of(form, &name, PATIENCE)
                    .with_context(|| format!("{} as {form:?}", killer.name))?;
                ensure!(
                    killer.ends.iter().any(|end| error.starts_with(end)),
                    "{} as {form:?}: {error}",
                    killer.name
                );
                bench.redis.ask(&["DEL", &form.key(&name)])?;
                ensure!(bench.identity()? == before, "after {} as {form:?}", killer.name);
                thread::sleep(Duration::from_secs(5));
            }
            let mut served = 0;
            for client in load {
                served += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            eprintln!("{count} killers, {served} pages served");
            Ok(())
        })?;
        bench.goes_on()?;
        eprintln!("{}", bench.lateness()?.since(&begun).text());
        for number in 0..JOBS {
            let error = bench.redis.field(&Form::Job.key(&format!("good{number}")), "Error")?;
            ensure!(error.is_empty(), "good{number}: {error}");
        }
        bench.nobody_is_set_aside()?;
        for (worker, _) in &bench.workers {
            worker.drain(Duration::from_secs(30))?;
        }
        Ok(())
    })
}

//! Endpoints over real HTTP: real workers, a real Redis, pages written as people would with `redis-cli`.
//!
//! The mixed load runs for 30 s, its long form (`HATS_SOAK=1`) for 10 minutes; the series of memory is printed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hats_tests::cluster::NAME;
use hats_tests::health::FakeSystem;
use hats_tests::redis::{self, RedisServer};
use hats_tests::worker::{Options, Worker, run, workspace};
use hats_tests::{Lab, clock};

use crate::is_soak;

const PATIENCE: Duration = Duration::from_secs(30);
/// Scripts have Redis again so long after it has come back.
const BACK_WITHIN: Duration = Duration::from_secs(8);
/// What `<?= redis.Do(…) ?>` writes without Redis: `[null, error]` stands for its reply.
const AWAY: &str = "null";

/// A connection to a worker's endpoints.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    fn send(&mut self, path: &str) -> Result<()> {
        Ok(self.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())?)
    }

    fn answer(&mut self) -> Result<Answer> {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
                let status = head.split(' ').nth(1).context("no status")?.parse()?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(Ok(0), str::parse)?;
                if self.read.len() >= end + 4 + length {
                    let bytes: Vec<u8> = self.read.drain(..end + 4 + length).collect();
                    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
                    return Ok(Answer { status, head, body });
                }
            }
            let mut scratch = [0; 4096];
            match self.stream.read(&mut scratch)? {
                0 => bail!("the connection has ended"),
                count => self.read.extend_from_slice(&scratch[..count]),
            }
        }
    }

    fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(path)?;
        self.answer()
    }
}

fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    Client::connect(address)?.get(path)
}

fn key(path: &str) -> String {
    format!("{NAME}:Endpoints:{path}")
}

fn define(redis: &RedisServer, path: &str, fields: &[&str]) -> Result<()> {
    let key = key(path);
    redis.ask(&[&["HSET", key.as_str()], fields].concat()).map(drop)
}

/// Starts a worker that serves endpoints, and finds where.
fn serving(lab: &Lab, redis: &RedisServer, name: &str) -> Result<(Worker, SocketAddr)> {
    serving_with(lab, redis, name, |options| options)
}

/// As [`serving`], with more options.
fn serving_with(
    lab: &Lab,
    redis: &RedisServer,
    name: &str,
    more: impl FnOnce(Options) -> Options,
) -> Result<(Worker, SocketAddr)> {
    let options = Options::new(name, NAME, &redis.address().to_string())
        .flag("--host")
        .argument("--host-port", "0")
        .argument("--drain-timeout", "20s")
        .without_call_log();
    let worker = Worker::start(lab, more(options))?;
    let line = lab.wait_for_line(worker.log(), "endpoints are served", PATIENCE)?;
    let address = line.split("address=").nth(1).context("no address")?;
    let address = address.split_whitespace().next().context("no address")?.parse()?;
    Ok((worker, address))
}

/// Waits until a path is answered so.
fn until(address: SocketAddr, path: &str, status: u16, body: &str) -> Result<()> {
    clock::wait_for(&format!("{path} to be {status} {body:?}"), PATIENCE, || {
        let answer = get(address, path)?;
        Ok((answer.status == status && answer.body == body).then_some(()))
    })
}

#[test]
fn pages_are_served_by_every_worker_as_they_are_written() -> Result<()> {
    Lab::run("endpoints", |lab| {
        let redis = RedisServer::start(lab)?;
        let (one, first) = serving(lab, &redis, "one")?;
        let (two, second) = serving(lab, &redis, "two")?;
        define(
            &redis,
            "/hello",
            &[
                "Source",
                "<? response.SetHeader('X-By', worker.Name) ?>hello <?= (request.Query.who || [])[0] ?>",
            ],
        )?;
        define(
            &redis,
            "/users/:id",
            &["Source", "export default (request) => 'user ' + new URL(request.url).pathname"],
        )?;
        for (address, name) in [(first, "one"), (second, "two")] {
            until(address, "/hello?who=a%26b", 200, "hello a&amp;b")?;
            until(address, "/users/7", 200, "user /users/7")?;
            ensure!(get(address, "/hello")?.head.contains(&format!("x-by: {name}")));
            ensure!(get(address, "/none")?.status == 404);
        }
        for round in 0..20 {
            define(&redis, "/hello", &["Source", &format!("round {round}")])?;
            for address in [first, second] {
                until(address, "/hello", 200, &format!("round {round}"))?;
            }
        }
        define(&redis, "/hello", &["Status", "disabled"])?;
        until(first, "/hello", 404, "Not Found\n")?;
        define(&redis, "/hello", &["Status", "enabled", "Source", "<? throw new Error('inside') ?>"])?;
        until(second, "/hello", 500, "Internal Server Error\n")?;
        clock::wait_for("the error to be told", PATIENCE, || {
            Ok(redis.field(&key("/hello"), "Error")?.contains("inside").then_some(()))
        })?;
        // What is not there costs Redis nothing.
        redis.reset_stats()?;
        let mut client = Client::connect(first)?;
        for number in 0..2000 {
            ensure!(client.get(&format!("/none/{number}"))?.status == 404);
        }
        let stats = redis.commandstats()?;
        let reads: u64 =
            ["evalsha", "hmget", "hgetall", "hget"].iter().filter_map(|name| stats.get(*name)).sum();
        ensure!(reads < 500, "2000 unknown paths made {reads} reads: {stats:?}");
        for worker in [one, two] {
            worker.drain(PATIENCE)?;
        }
        Ok(())
    })
}

#[test]
fn the_examples_are_served() -> Result<()> {
    Lab::run("endpoints examples", |lab| {
        let redis = RedisServer::start(lab)?;
        let folder = workspace().join("examples/endpoints");
        let (worker, address) = serving_with(lab, &redis, "one", |options| {
            options.argument("--endpoints", &folder.to_string_lossy())
        })?;
        clock::wait_for("the guest book", PATIENCE, || {
            Ok((get(address, "/guests")?.status == 200).then_some(()))
        })?;
        ensure!(get(address, "/guests")?.body.contains("<p>Nobody was here.</p>\n"));
        let sign = |name: &str| -> Result<Answer> {
            let mut client = Client::connect(address)?;
            let length = name.len();
            let head = format!("POST /guests HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{name}");
            client.stream.write_all(head.as_bytes())?;
            client.answer()
        };
        let signed = sign("name=Ada+%3Cada%40example.com%3E")?;
        ensure!(signed.status == 303 && signed.head.contains("location: /guests"), "{signed:?}");
        let refused = sign("")?;
        ensure!(refused.status == 400 && refused.body == "whom shall I write down?\n", "{refused:?}");
        let book = get(address, "/guests")?.body;
        ensure!(book.contains("<ol>\n\n  <li>Ada &lt;ada@example.com&gt;</li>\n\n</ol>\n"), "{book}");
        until(address, "/visits/start", 200, r#"{"page":"start","visits":0}"#)?;
        worker.drain(PATIENCE).map(drop)
    })
}

#[test]
fn a_drain_lets_the_request_in_hand_finish() -> Result<()> {
    Lab::run("endpoints drain", |lab| {
        let redis = RedisServer::start(lab)?;
        let (worker, address) = serving(lab, &redis, "one")?;
        let source = "<? redis.Do('RPUSH', 'began', '1'); redis.Do('BLPOP', 'go', 20) ?>done";
        define(&redis, "/waits", &["Source", source])?;
        define(&redis, "/", &["Source", "home"])?;
        until(address, "/", 200, "home")?;
        let mut busy = Client::connect(address)?;
        busy.send("/waits")?;
        clock::wait_for("the page to begin", PATIENCE, || {
            Ok((!redis.ask(&["LRANGE", "began", "0", "-1"])?.texts().is_empty()).then_some(()))
        })?;
        worker.terminate()?;
        clock::wait_for("others to be turned away", PATIENCE, || {
            let answer = get(address, "/")?;
            let is_away = answer.status == 503 && answer.head.contains("retry-after: ");
            Ok((is_away && answer.head.contains("connection: close")).then_some(()))
        })?;
        redis.ask(&["RPUSH", "go", "1"])?;
        let answer = busy.answer()?;
        ensure!((answer.status, answer.body.as_str()) == (200, "done"), "{answer:?}");
        let exit = worker.wait(PATIENCE)?;
        ensure!(exit.status.success(), "{exit:?}");
        Ok(())
    })
}

#[test]
fn what_is_known_is_served_while_redis_is_away() -> Result<()> {
    Lab::run("endpoints without redis", |lab| {
        let options = redis::Options { persistent: true, ..redis::Options::default() };
        let mut redis = RedisServer::start_with(lab, "redis", options)?;
        let (worker, address) = serving(lab, &redis, "one")?;
        define(&redis, "/known", &["Source", "known <?= request.Path ?>"])?;
        define(&redis, "/unread", &["Source", "unread"])?;
        until(address, "/known", 200, "known /known")?;
        redis.stop()?;
        for _ in 0..20 {
            let answer = get(address, "/known")?;
            ensure!((answer.status, answer.body.as_str()) == (200, "known /known"), "{answer:?}");
        }
        let answer = get(address, "/unread")?;
        ensure!(answer.status == 503 && answer.head.contains("retry-after: "), "{answer:?}");
        redis.start_again()?;
        until(address, "/unread", 200, "unread")?;
        define(&redis, "/known", &["Source", "other"])?;
        until(address, "/known", 200, "other")?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn a_critical_worker_sends_clients_elsewhere_until_it_has_recovered() -> Result<()> {
    Lab::run("critical pages", |lab| {
        let redis = RedisServer::start(lab)?;
        define(&redis, "/page", &["Source", "page"])?;
        let system = FakeSystem::new(lab, "system")?;
        let (worker, address) = serving_with(lab, &redis, "w0", |options| {
            system.of(options.argument("--health-interval", "100ms").argument("--mem-threshold", "90"))
        })?;
        until(address, "/page", 200, "page")?;
        system.memory(97)?;
        until(address, "/page", 503, "Service Unavailable\n")?;
        let answer = get(address, "/page")?;
        ensure!(answer.head.contains("retry-after: "), "{answer:?}");
        system.memory(10)?;
        until(address, "/page", 200, "page")?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn pages_are_answered_beside_scripts_that_never_wait() -> Result<()> {
    Lab::run("busy lanes", |lab| {
        let redis = RedisServer::start(lab)?;
        define(&redis, "/page", &["Source", "<?= redis.Do('INCR', 'asked') ?>"])?;
        for number in 0..6 {
            let key = format!("{NAME}:Threads:busy{number}");
            let source = "function main() { redis.Do('INCR', 'turns'); for (let n = 0; n < 3e6; n++); }";
            redis.ask(&["HSET", &key, "Source", source])?;
        }
        let (worker, address) = serving(lab, &redis, "w0")?;
        clock::wait_for("the threads to run", PATIENCE, || {
            let turns = redis.ask(&["GET", "turns"])?.text().unwrap_or_default();
            Ok((turns.parse::<u64>().unwrap_or(0) > 20).then_some(()))
        })?;
        let mut clients = (0..8).map(|_| Client::connect(address)).collect::<Result<Vec<_>>>()?;
        let mut last = 0;
        for _ in 0..10 {
            clients.iter_mut().try_for_each(|client| client.send("/page"))?;
            for client in &mut clients {
                let answer = client.answer()?;
                ensure!(answer.status == 200, "{answer:?}");
                last = last.max(answer.body.parse()?);
            }
        }
        assert_eq!(last, 80, "each was answered by a run of its own");
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn a_port_that_is_taken_is_an_error_of_the_configuration() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let output = run(&["--host", "--host-port", &port, "--bind", "127.0.0.1", "--health-port", "0"])?;
    ensure!(output.code == 2 && output.stderr.contains("--host-port"), "{output:?}");
    Ok(())
}

/// What the clients of the mixed load have seen.
#[derive(Debug, Default)]
struct Seen {
    good: AtomicU64,
    away: AtomicU64,
    late: AtomicU64,
    /// Redis is being restarted, or was so shortly before.
    is_away: AtomicBool,
}

#[test]
fn a_mixed_load_gets_no_wrong_answer() -> Result<()> {
    let (length, clients) =
        if is_soak() { (Duration::from_secs(600), 16) } else { (Duration::from_secs(30), 8) };
    Lab::run("endpoints load", |lab| {
        let options = redis::Options { persistent: true, ..redis::Options::default() };
        let mut redis = RedisServer::start_with(lab, "redis", options)?;
        let (worker, address) = serving(lab, &redis, "one")?;
        define(
            &redis,
            "/hello",
            &["Source", "hello <?= request.Query.n[0] ?> <?= typeof leaked ?><? globalThis.leaked = 1 ?>"],
        )?;
        define(&redis, "/rows", &["Source", "<? for (let i = 0; i < 100; i++) { ?><?= i ?>,<? } ?>"])?;
        define(&redis, "/redis", &["Source", "<?= redis.Do('GET', 'value') ?>"])?;
        define(&redis, "/loop", &["Source", "<? for (;;); ?>", "CallTimeout", "1s"])?;
        define(&redis, "/changes", &["Source", "<? const at = 0 ?>v<?= at ?> v<?= at ?>"])?;
        redis.ask(&["SET", "value", "v"])?;
        for path in ["/hello", "/rows", "/redis", "/changes"] {
            clock::wait_for(path, PATIENCE, || {
                Ok((get(address, &format!("{path}?n=0"))?.status == 200).then_some(()))
            })?;
        }
        let handles_before = handles(&worker)?;
        let rows: String = (0..100).map(|row| format!("{row},")).collect();
        let (stop, seen) = (AtomicBool::new(false), Seen::default());
        let begun = Instant::now();
        let outcome = thread::scope(|scope| -> Result<()> {
            let loads: Vec<_> = (0..clients)
                .map(|number| {
                    let (stop, seen, rows) = (&stop, &seen, &rows);
                    scope.spawn(move || load(address, number, rows, stop, seen))
                })
                .collect();
            let steered = steer(&mut redis, &worker, &seen, begun, length);
            stop.store(true, Ordering::Relaxed);
            for load in loads {
                load.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            steered
        });
        eprintln!("endpoints: {seen:?} in {:?}", begun.elapsed());
        outcome?;
        // Everybody has gone, and nothing is stuck.
        clock::wait_for("the connections to end", PATIENCE, || {
            Ok((handles(&worker)? <= handles_before + 4).then_some(()))
        })?;
        ensure!(get(address, "/rows")?.body == rows);
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// What the process holds open.
fn handles(worker: &Worker) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", worker.pid()))?.count())
}

/// One client at full speed, on one connection; the first one asks for the page without end.
fn load(address: SocketAddr, number: u64, rows: &str, stop: &AtomicBool, seen: &Seen) -> Result<()> {
    let mut client = Client::connect(address)?;
    let (mut count, mut newest) = (number, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let path = match (number, count % 4) {
            (0, _) => "/loop".to_owned(),
            (_, 0) => format!("/hello?n={number}-{count}"),
            (_, 1) => "/rows".to_owned(),
            (_, 2) => "/redis".to_owned(),
            (_, _) => "/changes".to_owned(),
        };
        let answer = client.get(&path).with_context(|| path.clone())?;
        let body = answer.body.as_str();
        let is_right = match path.as_str() {
            "/loop" => {
                seen.late.fetch_add(1, Ordering::Relaxed);
                answer.status == 504
            }
            "/rows" => answer.status == 200 && body == rows,
            "/redis" if body == "v" => answer.status == 200,
            "/redis" => {
                seen.away.fetch_add(1, Ordering::Relaxed);
                answer.status == 200 && seen.is_away.load(Ordering::Relaxed) && body == AWAY
            }
            "/changes" => match body.split_once(' ') {
                Some((one, other)) => {
                    let version = one.trim_start_matches('v').parse()?;
                    let is_newer = version >= newest;
                    newest = version;
                    answer.status == 200 && one == other && is_newer
                }
                None => false,
            },
            _ => answer.status == 200 && body == format!("hello {number}-{count} undefined"),
        };
        ensure!(is_right, "{path}: {answer:?}");
        seen.good.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Changes a source each second, restarts Redis in the middle, and looks at the worker's memory.
fn steer(
    redis: &mut RedisServer,
    worker: &Worker,
    seen: &Seen,
    begun: Instant,
    length: Duration,
) -> Result<()> {
    let (mut version, mut back_at, mut warm) = (0_u64, None, None);
    let step = (length / 20).as_secs().max(1);
    while begun.elapsed() < length {
        version += 1;
        let source = format!("<? const at = {version} ?>v<?= at ?> v<?= at ?>");
        define(redis, "/changes", &["Source", &source])?;
        if back_at.is_none() && begun.elapsed() > length / 2 {
            seen.is_away.store(true, Ordering::Relaxed);
            redis.stop()?;
            thread::sleep(Duration::from_secs(2));
            redis.start_again()?;
            back_at = Some(Instant::now());
        }
        if back_at.is_some_and(|at| at.elapsed() > BACK_WITHIN) {
            seen.is_away.store(false, Ordering::Relaxed);
        }
        if version % step == 0 {
            let kib = worker.process().resident_kib()?;
            eprintln!(
                "endpoints: {:>4} s {kib} KiB, {} handles",
                begun.elapsed().as_secs(),
                handles(worker)?
            );
            if begun.elapsed() > length / 4 {
                let warm = *warm.get_or_insert(kib);
                ensure!(kib < warm * 3 / 2 + (64 << 10), "memory has risen from {warm} to {kib} KiB");
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

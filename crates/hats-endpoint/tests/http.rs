//! What clients get over real connections, well-formed or not: a real server, real interpreters, an embedded Redis.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use encore_miniredis::Miniredis;
use hats_cluster::address::RedisConfig;
use hats_endpoint::{Config, Listener, Parts, Server};
use hats_script::{EnvOverlay, Lanes, LanesConfig, WorkerInfo, redis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here can take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// What each test finds.
const PAGES: &[(&str, &[(&str, &str)])] = &[
    ("/", &[("Source", "home")]),
    (
        "/echo",
        &[(
            "Source",
            "<? response.SetContentType('text/plain') ?><?= request.Method ?> <?= request.Path ?> [<?= request.Body ?>]",
        )],
    ),
    ("/users/:id", &[("Source", "user <?= request.Params.id ?>")]),
    ("/users/me", &[("Source", "me")]),
    ("/off", &[("Source", "off"), ("Status", "disabled")]),
    ("/throws", &[("Source", "secret text <? throw new Error('secret') ?>")]),
    ("/broken", &[("Source", "a\nb <? if (")]),
    ("/bad", &[("Source", "x"), ("Kind", "page")]),
    ("/loop", &[("Source", "<? for (;;); ?>"), ("CallTimeout", "100ms")]),
    ("/waits", &[("Source", "<? redis.Do('RPUSH', 'began', '1'); redis.Do('BLPOP', 'go', 20) ?>done")]),
    (
        "/sleeps",
        &[(
            "Source",
            "<? redis.Do('RPUSH', 'began', '1'); while (true) { redis.Do('INCR', 'turns'); sleep(5) } ?>",
        )],
    ),
    ("/file.css", &[("Source", "body{}"), ("Kind", "static"), ("ContentType", "text/css")]),
    ("/created", &[("Source", "<? response.SetStatus(201); response.SetHeader('X-A', '1') ?>made")]),
    ("/ä 50%", &[("Source", "100% ä %s")]),
    ("/xml", &[("Source", "<?xml version=\"1.0\"?><??<a/>")]),
    (
        "/late",
        &[("Source", "early<? response.Error('so it is', 409) ?>late<? redis.Do('SET', 'went', 'on') ?>")],
    ),
    ("/split", &[("Source", "<? response.SetHeader('X-A', 'a\\r\\nX-B: b') ?>x")]),
    ("/function", &[("Source", "export default function () { return 'text' }"), ("Kind", "template")]),
    ("/handler", &[("Source", "export default () => new Response('made', { status: 201 })")]),
    ("/none", &[("Source", "only <?= 1 ?>"), ("Kind", "handler")]),
    (
        "/eval",
        &[
            ("Source", "<? response.Write(String(await (0, eval)(request.Body))) ?>"),
            ("CallTimeout", "300ms"),
            ("MemoryLimit", "16m"),
        ],
    ),
    ("/scope", &[("Source", "<?= typeof leaked ?><? globalThis.leaked = 1; Array.prototype.x = 1 ?>")]),
];

struct World {
    redis: Miniredis,
    server: Option<Server>,
    address: SocketAddr,
    is_healthy: Arc<AtomicBool>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(set: impl FnOnce(&mut Config)) -> Self {
        let redis = Miniredis::run().await.unwrap();
        for (path, fields) in PAGES {
            for (field, value) in *fields {
                redis.hset(&key(path), field, value);
            }
        }
        let address = RedisConfig::new(redis.redis_url().parse().unwrap());
        let mut cluster =
            hats_cluster::Config::new("c".parse().unwrap(), "w".parse().unwrap(), address.clone());
        cluster.settle = Duration::ZERO;
        let (cluster, _) = hats_cluster::start(cluster).await.unwrap();
        let builder = address.builder(Duration::from_secs(5)).unwrap();
        let connections =
            redis::Connections::connect(&builder, NonZeroUsize::MIN.saturating_add(7)).await.unwrap();
        let lanes = Lanes::start(&LanesConfig {
            preload: Arc::default(),
            count: 2,
            worker: Arc::new(Info),
            env: EnvOverlay::default(),
            http: None,
            redis: Some(connections),
            sql: None,
            warm_bytes: LanesConfig::WARM_BYTES,
            preemption: Default::default(),
            on_turn: Arc::new(|_| {}),
        })
        .unwrap();
        let mut config = Config::default();
        set(&mut config);
        let is_healthy = Arc::new(AtomicBool::new(true));
        let healthy = is_healthy.clone();
        let parts = Parts { cluster, lanes, is_healthy: Arc::new(move || healthy.load(Ordering::Relaxed)) };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let server = Server::start(listener, config, parts);
        let world = Self { redis, address: server.address(), server: Some(server), is_healthy };
        world.until("the first sweep", async || world.get("/").await.status == 200).await;
        world
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), read: Vec::new() }
    }

    /// One request on a connection of its own.
    async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer(request.starts_with("HEAD")).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "not within {PATIENCE:?}: {what}");
    }

    async fn until_began(&self, count: usize) {
        self.until("scripts to begin", async || self.redis.list("began").unwrap_or_default().len() >= count)
            .await;
    }
}

fn key(path: &str) -> String {
    format!("c:Endpoints:{path}")
}

struct Info;

impl WorkerInfo for Info {
    fn name(&self) -> &str {
        "w"
    }

    fn cluster(&self) -> &str {
        "c"
    }

    fn shutting_down(&self) -> bool {
        false
    }

    fn healthy(&self) -> bool {
        true
    }
}

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

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The server may have closed already.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// None: the connection is at its end.
    async fn answer(&mut self, has_no_body: bool) -> Option<Answer> {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
                let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
                let mut answer = Answer { status, head, body: String::new() };
                let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
                let length = if has_no_body || status == 304 { 0 } else { length };
                if self.read.len() >= end + 4 + length {
                    let bytes: Vec<u8> = self.read.drain(..end + 4 + length).collect();
                    answer.body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
                    return Some(answer);
                }
            }
            let mut scratch = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut scratch)).await.unwrap();
            match read {
                Ok(count) if count > 0 => self.read.extend_from_slice(&scratch[..count]),
                _ => return None,
            }
        }
    }

    async fn is_closed(&mut self) -> bool {
        self.answer(false).await.is_none() && self.read.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_answered_by_its_page() {
    let world = World::new().await;
    for (path, status, body) in [
        ("/", 200, "home"),
        ("/users/me", 200, "me"),
        ("/users/a%2Fb", 200, "user a/b"),
        ("/users/", 404, "Not Found\n"),
        ("/nothing", 404, "Not Found\n"),
        ("/xml", 200, "<?xml version=\"1.0\"?><?<a/>"),
        ("/late", 409, "so it is"),
        ("/split", 500, "Internal Server Error\n"),
        ("/function", 200, "export default function () { return 'text' }"),
        ("/none", 500, "Internal Server Error\n"),
        ("/off", 404, "Not Found\n"),
        ("/echo/", 404, "Not Found\n"),
        ("/%C3%A4%2050%25", 200, "100% ä %s"),
        ("/%zz", 400, "Bad Request: the path is no percent-encoded UTF-8\n"),
        ("/%ff", 400, "Bad Request: the path is no percent-encoded UTF-8\n"),
        ("/throws", 500, "Internal Server Error\n"),
        ("/broken", 500, "Internal Server Error\n"),
        ("/bad", 500, "Internal Server Error\n"),
        ("/loop", 504, "Gateway Timeout\n"),
        ("/created", 201, "made"),
        ("http://other/users/me", 200, "me"),
    ] {
        let answer = world.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
        assert!(answer.header("date").is_some() && answer.header("server").is_none(), "{}", answer.head);
    }
    assert_eq!(world.get("/").await.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(world.get("/created").await.header("x-a"), Some("1"));
    for (path, error) in
        [("/throws", "secret"), ("/broken", "line 2"), ("/bad", "Kind"), ("/loop", "TimeoutError")]
    {
        world
            .until(path, async || {
                world.redis.hget(&key(path), "Error").is_some_and(|found| found.contains(error))
            })
            .await;
    }
    assert_eq!(world.get("/late").await.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(world.redis.get("went").as_deref(), Some("on"), "the script runs on");
    for _ in 0..50 {
        assert_eq!(world.get("/scope").await.body, "undefined");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_request_does_is_seen_by_another() {
    const LOOK: &str = "[globalThis, Object.prototype, Array.prototype, Promise.prototype, request, response, redis]\
        .map(o => Reflect.ownKeys(o).map(k => String(k) + ':' + typeof o[k]).join()).join('; ')";
    let world = World::new().await;
    let post = async |code: &str| {
        let length = code.len();
        let head = format!("POST /eval HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        world.ask(&(head + code)).await
    };
    let before = post(LOOK).await;
    assert_eq!((before.status, before.body.contains("fromCodePoint")), (200, false), "{before:?}");
    for (code, status) in [
        ("globalThis.leak = 1; Object.prototype.leak = 1; Array.prototype.map = null; 'done'", 200),
        (
            "for (const key of Reflect.ownKeys(globalThis)) { try { delete globalThis[key] } catch {} } 'done'",
            200,
        ),
        (
            "request.Path = 1; response.Write = null; redis.Do = null; Promise.prototype.then = null; 'done'",
            200,
        ),
        ("setInterval(() => response.Write('late'), 1); Promise.reject(1); new Promise(() => {})", 500),
        ("globalThis.leak = 1; throw new Error('thrown')", 500),
        ("globalThis.leak = 1; for (;;);", 504),
        ("globalThis.leak = 1; sleep(100000)", 504),
        ("globalThis.leak = []; for (;;) leak.push('x'.repeat(1000) + leak.length)", 500),
        ("globalThis.f = () => f(); f()", 500),
    ] {
        let answer = post(code).await;
        assert_eq!(answer.status, status, "{code}: {answer:?}");
        for _ in 0..3 {
            let after = post(LOOK).await;
            assert_eq!((after.status, after.body.as_str()), (200, before.body.as_str()), "after {code}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_have_a_limit() {
    let world = World::with(|config| config.answers_limit = 3 << 20).await;
    let large = "<? response.Write('x'.repeat(1 << 20)) ?>";
    world.redis.hset(&key("/large"), "Source", large);
    world.until("the page", async || world.get("/large").await.body.len() == 1 << 20).await;
    let get = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut held = Vec::new();
    // More for each than the buffers of both ends hold.
    for _ in 0..4 {
        let mut client = world.connect().await;
        client.send(get.repeat(64)).await;
        held.push(client);
    }
    world.until("there to be no room", async || world.get("/large").await.status == 503).await;
    assert_eq!(world.get("/").await.status, 200, "small ones are none of it");
    drop(held);
    world.until("there to be room again", async || world.get("/large").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_what_one_expects_of_them() {
    let world = World::new().await;
    let ask = async |request: &str| {
        world.ask(&format!("{} HTTP/1.1\r\nHost: a\r\n\r\n", request.replace(';', " HTTP/1.1\r\n"))).await
    };
    let (head, get) = (ask("HEAD /").await, ask("GET /").await);
    assert_eq!(head.header("content-length"), Some("4"));
    assert_eq!(head.header("content-type"), get.header("content-type"));
    assert_eq!(ask("DELETE /echo").await.body, "DELETE /echo []");
    assert_eq!(ask("OPTIONS /echo").await.body, "OPTIONS /echo []");
    for (request, status, allow) in [
        ("TRACE /echo", 405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("CONNECT a:80", 405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("OPTIONS *", 204, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("OPTIONS /file.css", 204, "GET, HEAD, OPTIONS"),
        ("POST /file.css", 405, "GET, HEAD, OPTIONS"),
    ] {
        let answer = ask(request).await;
        assert_eq!((answer.status, answer.header("allow")), (status, Some(allow)), "{request}");
    }
    let file = ask("GET /file.css").await;
    assert_eq!((file.body.as_str(), file.header("content-type")), ("body{}", Some("text/css")));
    let etag = file.header("etag").unwrap();
    let known = format!("GET /file.css HTTP/1.1\r\nHost: a\r\nIf-None-Match: W/{etag}\r\n\r\n");
    let answer = world.ask(&known).await;
    assert_eq!((answer.status, answer.header("etag"), answer.body.as_str()), (304, Some(etag), ""));
    assert_eq!(ask("HEAD /file.css").await.header("content-length"), Some("6"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_whole_and_within_their_limits() {
    let world = World::with(|config| {
        config.body_limit = 1000;
        config.body_timeout = Duration::from_millis(300);
    })
    .await;
    let post =
        |headers: &str, body: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}");
    let answer =
        world.ask(&post("Transfer-Encoding: chunked", "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX: y\r\n\r\n")).await;
    assert_eq!(answer.body, "POST /echo [abcde]");
    for (headers, body, status) in [
        ("Content-Length: 1001", String::new(), 413),
        ("Content-Length: 5000", "x".repeat(5000), 413),
        ("Transfer-Encoding: chunked", format!("3e9\r\n{}\r\n", "x".repeat(1001)), 413),
        ("Content-Length: 10", "abc".to_owned(), 408),
        ("Transfer-Encoding: chunked", "3\r\nab".to_owned(), 408),
        ("Transfer-Encoding: chunked", "zz\r\nab".to_owned(), 400),
        ("Transfer-Encoding: chunked", "3\nabc\n0\n\n".to_owned(), 400),
    ] {
        let mut client = world.connect().await;
        client.send(post(headers, &body)).await;
        let answer = client.answer(false).await.unwrap();
        assert_eq!(answer.status, status, "{headers} {body:.20}");
        assert!(client.is_closed().await, "{headers}: what is left of the body is no request");
    }
    // Nobody sends a body for nothing.
    let mut client = world.connect().await;
    client.send(post("Content-Length: 3\r\nExpect: 100-continue", "")).await;
    assert_eq!(client.answer(false).await.unwrap().status, 100);
    client.send("abc").await;
    assert_eq!(client.answer(false).await.unwrap().body, "POST /echo [abc]");
    let answer = world.ask(&post("Content-Length: 3000\r\nExpect: 100-continue", "")).await;
    assert_eq!(answer.status, 413);
    // A body that ends early: the client has said so by closing its side.
    let mut client = world.connect().await;
    client.send(post("Content-Length: 10", "abc")).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.answer(false).await.unwrap().status, 400);
    assert_eq!(world.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_refused_and_nothing_of_it_is_taken_for_a_request() {
    let world = World::new().await;
    let inner = "GET /users/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = inner.len();
    for (request, statuses) in [
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nContent-Length: 0\r\n\r\n{inner}"
            ),
            &[400][..],
        ),
        (format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0, {length}\r\n\r\n{inner}"), &[400]),
        (format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +{length}\r\n\r\n{inner}"), &[400]),
        (format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{inner}"), &[400]),
        // Chunks decide where the body ends, and the connection ends with it.
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
            &[200],
        ),
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}"
            ),
            &[200],
        ),
        (
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
            &[400],
        ),
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"
            ),
            &[400],
        ),
        (format!("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"), &[400]),
        (
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
            &[400],
        ),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nContent-Length : {length}\r\n\r\n{inner}"), &[400]),
        (
            format!("GET /echo HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: {length}\r\n\r\n{inner}"),
            &[400],
        ),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: {length}\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nX: \0y\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1\r\nHost: u@a\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/1.1 \r\nHost: a\r\n\r\n{inner}"), &[400]),
        (format!("GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo\r\nHost: a\r\n\r\n{inner}"), &[400]),
        (format!("GET /echo HTTP/2.0\r\nHost: a\r\n\r\n{inner}"), &[400]),
        (format!("GET echo HTTP/1.1\r\nHost: a\r\n\r\n{inner}"), &[400]),
        (format!("G\u{e4}T /echo HTTP/1.1\r\nHost: a\r\n\r\n{inner}"), &[400]),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000)), &[414, 431]),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000)), &[431]),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)), &[431]),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(20_000)), &[431]),
    ] {
        let mut client = world.connect().await;
        client.send(&request).await;
        let shown: String = request.chars().take(100).collect();
        let answer = client.answer(false).await.unwrap_or_else(|| panic!("no answer: {shown:?}"));
        assert!(statuses.contains(&answer.status), "{shown:?}: {answer:?}");
        assert!(client.is_closed().await, "{shown:?}: a second answer");
        assert_eq!(world.get("/users/me").await.body, "me");
    }
    // A line may end in a newline alone, and is read as if it did not.
    assert_eq!(world.ask("GET /users/me HTTP/1.1\nHost: a\n\n").await.body, "me");
    // Of two lengths that are the same there is one.
    let twice = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(world.ask(twice).await.body, "POST /echo [ab]");
    assert_eq!(world.ask("GET /users/me HTTP/1.0\r\n\r\n").await.body, "me");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_connection_are_answered_in_their_order() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let paths: Vec<String> = (0..40).map(|number| format!("/users/{number}")).collect();
    let requests: String =
        paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(&requests).await;
    for number in 0..40 {
        assert_eq!(client.answer(false).await.unwrap().body, format!("user {number}"));
    }
    client
        .send(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer(false).await.unwrap().body, "POST /echo [ab]");
    assert_eq!(client.answer(false).await.unwrap().body, "home");
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.answer(false).await.unwrap().body, "home");
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_given_up_and_an_idle_connection_is_closed() {
    let world = World::with(|config| {
        config.header_timeout = Duration::from_millis(200);
        config.idle_timeout = Duration::from_secs(2);
    })
    .await;
    let mut client = world.connect().await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    assert_eq!(client.answer(false).await.unwrap().status, 408);
    assert!(client.is_closed().await);
    let mut client = world.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer(false).await.unwrap().body, "home");
    assert!(client.is_closed().await, "it said nothing more");
    let mut silent = world.connect().await;
    assert!(silent.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_one_side_is_answered_and_who_has_gone_ends_the_script() {
    let world = World::with(|config| config.gone_timeout = Duration::from_millis(100)).await;
    let mut client = world.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.answer(false).await.unwrap().body, "home");
    assert!(client.is_closed().await);

    let mut client = world.connect().await;
    client.send("GET /sleeps HTTP/1.1\r\nHost: a\r\n\r\n").await;
    world.until_began(1).await;
    drop(client);
    let turns = || world.redis.get("turns");
    world
        .until("the script to end", async || {
            let before = turns();
            tokio::time::sleep(Duration::from_millis(300)).await;
            before == turns()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_the_request_in_hand_finish_and_turns_others_away() {
    let mut world = World::new().await;
    let (mut busy, mut idle) = (world.connect().await, world.connect().await);
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer(false).await.unwrap().status, 200);
    busy.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await;
    world.until_began(1).await;
    let server = world.server.take().unwrap();
    server.begin_drain();
    let drained = tokio::spawn(server.drain());
    assert!(idle.is_closed().await);
    let turned_away = world.get("/").await;
    assert_eq!(turned_away.status, 503);
    assert_eq!(turned_away.header("connection"), Some("close"));
    assert!(turned_away.header("retry-after").is_some());
    world.redis.push("go", &["1"]);
    let answer = busy.answer(false).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert!(busy.is_closed().await);
    assert_eq!(timeout(PATIENCE, drained).await.unwrap().unwrap().stuck, Vec::<String>::new());
    assert!(TcpStream::connect(world.address).await.is_err(), "the port is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_outlasts_the_drain_is_interrupted() {
    let mut world = World::with(|config| config.drain_timeout = Duration::from_millis(100)).await;
    let mut busy = world.connect().await;
    busy.send("GET /sleeps HTTP/1.1\r\nHost: a\r\n\r\n").await;
    world.until_began(1).await;
    let drained = timeout(PATIENCE, world.server.take().unwrap().drain()).await.unwrap();
    assert_eq!(drained.stuck, Vec::<String>::new());
    assert_eq!(busy.answer(false).await.unwrap().status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_is_place_for_is_told_to_come_again() {
    let world = World::with(|config| {
        config.concurrency = 2;
        config.queue_timeout = Duration::from_millis(50);
        config.connections = 4;
    })
    .await;
    let mut busy = world.connect().await;
    busy.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await;
    world.until_began(1).await;
    let refused = world.get("/waits").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(world.get("/").await.status, 200, "one page does not take all the places");
    let _held = [world.connect().await, world.connect().await, world.connect().await];
    world.until("connections to be counted", async || world.get("/").await.status == 503).await;
    world.redis.push("go", &["1"]);
    assert_eq!(busy.answer(false).await.unwrap().body, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bodies_together_have_a_limit() {
    let world = World::with(|config| config.bodies_limit = 1000).await;
    let post = |length: usize, body: &str| {
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    // What is known of it is read before.
    assert_eq!(world.get("/echo").await.status, 200);
    let mut slow = world.connect().await;
    slow.send(post(701, &"x".repeat(700))).await;
    let in_hand = || world.server.as_ref().unwrap().metrics().read().in_hand;
    world.until("the first to count", async || in_hand() == 1).await;
    assert_eq!(world.ask(&post(400, &"y".repeat(400))).await.status, 503);
    assert_eq!(world.ask(&post(300, &"y".repeat(300))).await.status, 200);
    slow.send("x").await;
    assert_eq!(slow.answer(false).await.unwrap().status, 200);
    assert_eq!(world.ask(&post(1000, &"y".repeat(1000))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_is_given_up() {
    let world = World::with(|config| config.write_timeout = Duration::from_millis(200)).await;
    world.redis.hset(&key("/large"), "Source", &"x".repeat(1 << 20));
    world.redis.hset(&key("/large"), "Kind", "static");
    let get = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    world.until("the file", async || world.get("/large").await.body.len() == 1 << 20).await;
    // More than the buffers of both ends hold.
    const TIMES: usize = 64;
    let mut client = world.connect().await;
    client.send(get.repeat(TIMES)).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut taken = 0;
    let mut scratch = vec![0; 1 << 20];
    while let Ok(count) = timeout(PATIENCE, client.stream.read(&mut scratch)).await.unwrap() {
        taken += count;
        if count == 0 {
            break;
        }
    }
    assert!(taken < TIMES << 20, "all {taken} bytes were kept for it");
    assert_eq!(world.get("/").await.status, 200);
}

/// What a client gets that takes so many bytes every 20 ms, up to `most`.
async fn taken_by_pieces(world: &World, piece: usize, most: usize) -> usize {
    let mut client = world.connect().await;
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64)).await;
    let mut scratch = vec![0; piece];
    let mut taken = 0;
    while taken < most {
        match timeout(PATIENCE, client.stream.read(&mut scratch)).await.unwrap() {
            Ok(count) if count > 0 => taken += count,
            _ => break,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_an_answer_by_the_drop_is_given_up_and_who_is_slow_is_not() {
    let world = World::with(|config| config.write_timeout = Duration::from_millis(500)).await;
    world.redis.hset(&key("/large"), "Source", &"x".repeat(1 << 20));
    world.redis.hset(&key("/large"), "Kind", "static");
    world.until("the file", async || world.get("/large").await.body.len() == 1 << 20).await;
    const SIZE: usize = 64 << 20;
    // 25 bytes in each timeout, for far longer than that; then everything that is left.
    let drops = async {
        let mut client = world.connect().await;
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64)).await;
        let mut taken = 0;
        let mut scratch = vec![0; 1 << 20];
        for _ in 0..100 {
            taken += client.stream.read(&mut scratch[..1]).await.unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while let Ok(count @ 1..) = timeout(PATIENCE, client.stream.read(&mut scratch)).await.unwrap() {
            taken += count;
        }
        taken
    };
    let (by_drops, slowly) = tokio::join!(drops, taken_by_pieces(&world, 64 << 10, SIZE / 2));
    assert!(by_drops < SIZE, "all {by_drops} bytes were kept for it");
    assert!(slowly >= SIZE / 2, "it was given up after {slowly} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_worker_answers_nothing() {
    let world = World::new().await;
    world.is_healthy.store(false, Ordering::Relaxed);
    let answer = world.get("/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    world.is_healthy.store(true, Ordering::Relaxed);
    assert_eq!(world.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_served_and_unknown_paths_ask_nothing() {
    let world = World::new().await;
    world.redis.hset(&key("/"), "Source", "changed");
    world.until("the change", async || world.get("/").await.body == "changed").await;
    world.redis.hset(&key("/new"), "Source", "new");
    world.until("the new page", async || world.get("/new").await.body == "new").await;
    world.redis.hset(&key("/new"), "Status", "disabled");
    world.until("the page to go", async || world.get("/new").await.status == 404).await;
    world.redis.del("c:Endpoints:/users/me");
    world.until("the other page", async || world.get("/users/me").await.body == "user me").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_what_they_came_to() {
    let world = World::new().await;
    let metrics = world.server.as_ref().unwrap().metrics();
    let before = metrics.read();
    for (path, status) in [("/users/me", 200), ("/not-there", 404), ("/%zz", 400), ("/throws", 500)] {
        assert_eq!(world.get(path).await.status, status, "{path}");
    }
    world.is_healthy.store(false, Ordering::Relaxed);
    world.get("/users/me").await;
    let after = metrics.read();
    let counts: Vec<_> = after
        .requests
        .iter()
        .zip(&before.requests)
        .map(|(after, before)| (after.what, after.durations.count() - before.durations.count()))
        .collect();
    assert_eq!(counts, [("2xx", 1), ("3xx", 0), ("4xx", 2), ("5xx", 2), ("none", 0)]);
    let unavailable: Vec<_> = after.unavailable.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(unavailable, [&("unhealthy", 1)]);
    // The client is answered before its request is out of hand.
    world.until("no request in hand", async || metrics.read().in_hand == 0).await;
}

//! The `http` module against a server that behaves and misbehaves.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::egress::{Egress, Resolve};
use crate::http::{Client, Settings};

pub(super) mod server;

use self::server::Server;

pub(super) fn client(egress: Egress) -> Client {
    let settings = Settings { egress, ..Settings::default() };
    Client::with_roots(&settings, rustls::RootCertStore::empty()).unwrap()
}

/// Evaluates an expression in which `§` is the server's URL.
pub(super) async fn eval(lanes: &Lanes, server: &Server, expression: &str) -> String {
    eval_with(lanes, Limits::default(), &expression.replace('§', &server.url(""))).await
}

pub(super) async fn eval_with(lanes: &Lanes, limits: Limits, expression: &str) -> String {
    let expression = expression.to_owned();
    let run = spawn(lanes, &Fake::new(), limits, move |vm| vm.eval(&expression));
    match run.1.await {
        Ok(text) => text,
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

pub(super) async fn check(lanes: &Lanes, server: &Server, cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(eval(lanes, server, expression).await, *expected, "{expression}");
    }
}

pub(super) async fn open() -> (Server, Lanes) {
    (Server::start().await, lanes_with_http(2, client(Egress::default())))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_say_what_they_are_told_to() {
    let (server, lanes) = open().await;
    let sent = |rest: &str| {
        let lines = rest.replace("HOST", &server.address.to_string());
        lines.replace("UA", concat!("hats-worker/", env!("CARGO_PKG_VERSION")))
    };
    for (expression, expected) in [
        (
            "http.Get('§/echo?q=%20ä#f').body",
            "GET /echo?q=%20%C3%A4 HTTP/1.1\naccept: */*\naccept-encoding: gzip\nuser-agent: UA\nhost: HOST\n",
        ),
        ("http.Delete('§/echo').body.split('\\n')[0]", "DELETE /echo HTTP/1.1"),
        ("http.Head('§/echo').status", "200"),
        (
            "http.Post('§/echo', 'grüße').body",
            "POST /echo HTTP/1.1\naccept: */*\naccept-encoding: gzip\nuser-agent: UA\nhost: HOST\ncontent-length: 7\ngrüße",
        ),
        ("http.Put('§/echo', new Uint8Array([104, 105])).body.split('\\n').at(-1)", "hi"),
        ("http.Patch('§/echo', '').body.includes('content-length: 0')", "true"),
        ("http.Post('§/echo', new Uint8Array([0, 255])).bytes.slice(-2)", "Uint8Array(2) [0, 255]"),
        ("http.Post('§/echo', 'a\\ud800b').body.split('\\n').at(-1)", "a\u{fffd}b"),
        (
            "http.PostForm('§/echo', {a: 'x y', 'b&': ['1', 2, 3n], c: true, d: []}).body",
            "POST /echo HTTP/1.1\ncontent-type: application/x-www-form-urlencoded\naccept: */*\naccept-encoding: gzip\n\
             user-agent: UA\nhost: HOST\ncontent-length: 33\na=x+y&b%26=1&b%26=2&b%26=3&c=true",
        ),
        (
            "http.PostForm('§/echo', {}, {headers: {'content-type': 'x/y'}}).body.split('\\n')[1]",
            "content-type: x/y",
        ),
        (
            "http.Get('§/echo', {headers: {'X-One': ' 1 ', 'x-two': ['a', 2], 'User-Agent': 'mine', 'Content-Length': 99, 'Host': 'other'}}).body",
            "GET /echo HTTP/1.1\nx-one: 1\nx-two: a\nx-two: 2\nuser-agent: mine\nhost: other\naccept: */*\naccept-encoding: gzip\n",
        ),
        (
            "http.Get('§/echo'.replace('//', '//user:p%40ss@')).body.split('\\n')[1]",
            "authorization: Basic dXNlcjpwQHNz",
        ),
        ("http.Get('§/echo', undefined).status", "200"),
        ("http.Get('§/echo', null).status", "200"),
        ("http.Get('§/echo', {headers: undefined, timeoutMs: undefined}).status", "200"),
    ] {
        let mut got = eval(&lanes, &server, expression).await;
        let mut wanted = sent(expected);
        if wanted.matches('\n').count() > 2 {
            // Their order means nothing.
            for text in [&mut got, &mut wanted] {
                let mut lines: Vec<_> = text.split('\n').collect();
                lines[1..].sort_unstable();
                *text = lines.join("\n");
            }
        }
        assert_eq!(got, wanted, "{expression}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_results_and_never_thrown() {
    let (server, lanes) = open().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = format!("http.Get('http://{closed}/x?secret').error");
    check(
        &lanes,
        &server,
        &[
            ("http.Head('').status", "0"),
            ("http.Get('ftp://example.com/').error", "ftp://example.com is no http or https URL"),
            ("http.Get('file:///etc/passwd').error", "file:// is no http or https URL"),
            (&refused, &format!("http://{closed}: cannot connect: Connection refused (os error 111)")),
            ("http.Get('http://name.invalid/', {timeoutMs: 5000}).status", "0"),
            (
                "http.Get('§/refuse').error.replace(/^\\S+ /, '')",
                "connection closed before message completed",
            ),
            ("http.Get('§/garbage').error.replace(/^\\S+ /, '')", "invalid HTTP version parsed"),
            (
                "http.Get('§/truncated').error",
                "the answer broke off: end of file before message length reached",
            ),
            ("http.Get('§/truncated-chunks').error.slice(0, 22)", "the answer broke off: "),
            ("http.Get('§/gzip-broken').error.slice(0, 22)", "the answer broke off: "),
            ("http.Get('§/endless').error", "the body is longer than the limit of 10485760 bytes (HttpBodyLimit of the task, --http-body-limit of the worker)"),
            ("http.Get('§/long/10485761').error", "the body is longer than the limit of 10485760 bytes (HttpBodyLimit of the task, --http-body-limit of the worker)"),
            ("http.Get('§/long/10485760').body.length", "10485760"),
            ("http.Get('§/gzip-bomb').error", "the body is longer than the limit of 10485760 bytes (HttpBodyLimit of the task, --http-body-limit of the worker)"),
            ("http.Get('§/held', {timeoutMs: 20}).error", "timed out after 20 ms"),
            ("http.Get('§/held-body', {timeoutMs: 20}).error", "timed out after 20 ms"),
            ("http.Get('https' + '§/'.slice(4), {timeoutMs: 50}).status", "0"),
            ("http.Get('§/x'.replace('127.0.0.1', 'a'.repeat(300))).status", "0"),
            ("http.Get('§/' + 'x'.repeat(100000)).status", "0"),
        ],
    )
    .await;
    let small = Limits { http_body: 10, ..Limits::default() };
    let expression = format!("[10, 11].map(n => http.Get('{}' + n).status)", server.url("/long/"));
    assert_eq!(eval_with(&lanes, small, &expression).await, "[200, 0]");
    // A body that the heap has no room for is the script's error, whatever the limit of bodies.
    let small = Limits { memory: 4 << 20, ..Limits::default() };
    let expression = format!("http.Get('{}').error", server.url("/long/8000000"));
    let error = eval_with(&lanes, small, &expression).await;
    let expected =
        "the bodies under way are longer than the script's heap limit of 4194304 bytes (MemoryLimit of";
    assert!(error.starts_with(expected), "{error}");
    let expression = format!("http.Get('{}').body.length", server.url("/long/4150000"));
    let error = eval_with(&lanes, small, &expression).await;
    assert!(error.starts_with("MemoryError"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_type_errors_that_name_call_and_argument() {
    let (server, lanes) = open().await;
    for call in ["Get", "Head", "Delete", "Post", "Put", "Patch", "PostForm"] {
        let name = format!("TypeError: http.{call}");
        let (body, options) = match call {
            "Get" | "Head" | "Delete" => ("", 2),
            "PostForm" => ("{}, ", 3),
            _ => ("'', ", 3),
        };
        for (arguments, expected) in [
            (
                format!("'§', {body}'x'"),
                format!("argument {options} must be an object such as {{headers, timeoutMs}}, not \"x\""),
            ),
            (
                format!("'§', {body}[]"),
                format!("argument {options} must be an object such as {{headers, timeoutMs}}, not an array"),
            ),
            (
                format!("'§', {body}{{timeout: 5}}"),
                format!(
                    "argument {options}: \"timeout\" is no option; the options are headers and timeoutMs"
                ),
            ),
            (
                format!("'§', {body}{{timeoutMs: 0}}"),
                format!("argument {options}: timeoutMs must be a number of milliseconds up to a day, not 0"),
            ),
            (
                format!("'§', {body}{{timeoutMs: '5'}}"),
                format!(
                    "argument {options}: timeoutMs must be a number of milliseconds up to a day, not \"5\""
                ),
            ),
            (
                format!("'§', {body}{{timeoutMs: NaN}}"),
                format!(
                    "argument {options}: timeoutMs must be a number of milliseconds up to a day, not NaN"
                ),
            ),
            (
                format!("'§', {body}{{headers: 'x'}}"),
                format!("argument {options}: headers must be an object of names and values, not \"x\""),
            ),
            (
                format!("'§', {body}{{headers: {{a: null}}}}"),
                format!(
                    "argument {options}: header \"a\" must be a string, a number or an array of these, not null"
                ),
            ),
            (
                format!("'§', {body}{{headers: {{'a b': 1}}}}"),
                format!("argument {options}: \"a b\" is no name of a header"),
            ),
            (
                format!("'§', {body}{{headers: {{a: 'x\\r\\nb: c'}}}}"),
                format!(
                    "argument {options}: the value of header \"a\" has a character that no header can have"
                ),
            ),
            (
                format!("'§', {body}{{headers: {{'Transfer-Encoding': 'chunked'}}}}"),
                format!("argument {options}: header \"Transfer-Encoding\" belongs to the worker"),
            ),
            (
                format!("'§', {body}{{headers: {{'Hats-Fence': 'x'}}}}"),
                format!("argument {options}: header \"Hats-Fence\" belongs to the worker"),
            ),
        ] {
            let expression = format!("http.{call}({arguments})");
            assert_eq!(
                eval(&lanes, &server, &expression).await,
                format!("{name}: {expected}"),
                "{expression}"
            );
        }
    }
    assert!(server.seen().requests.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_as_browsers_do_and_not_for_ever() {
    let (server, lanes) = open().await;
    let other = Server::start().await;
    let elsewhere = other.url("/echo");
    let to = |status: u16| format!("http.Post('§/to/{status}?/echo', 'data').body.split('\\n')");
    check(
        &lanes,
        &server,
        &[
            ("http.Get('§/redirects/10').body", "arrived"),
            (
                "http.Get('§/redirects/11').error.replace(/\\d+$/, 'PORT')",
                "more than 10 redirects, the last one to http://127.0.0.1:PORT",
            ),
            (&(to(301) + "[0]"), "GET /echo HTTP/1.1"),
            (&(to(302) + "[0]"), "GET /echo HTTP/1.1"),
            (&(to(303) + "[0]"), "GET /echo HTTP/1.1"),
            (&(to(303) + ".at(-1)"), ""),
            (&(to(307) + "[0]"), "POST /echo HTTP/1.1"),
            (&(to(307) + ".at(-1)"), "data"),
            (&(to(308) + ".at(-1)"), "data"),
            ("http.Put('§/to/302?/echo', 'data').body.split('\\n')[0]", "PUT /echo HTTP/1.1"),
            ("http.PostForm('§/to/303?/echo', {a: 1}).body.includes('content-type')", "false"),
            ("http.Head('§/to/302?/head').headers['Content-Length']", "[\"12345\"]"),
            (
                "http.Get('§/to/302?http://').error.replace(/^\\S+ /, '')",
                "redirects to what is no URL: empty host",
            ),
            ("http.Get('§/to/302?ftp://x/').error", "ftp://x is no http or https URL"),
            ("http.Get('§/status/302').status", "302"),
            ("http.Get('§/to/300?/echo').status", "300"),
        ],
    )
    .await;
    let secret = "{headers: {Authorization: 'secret', Cookie: 'secret', Host: 'here', 'X-Kept': 'kept'}}";
    let here = eval(&lanes, &server, &format!("http.Get('§/to/302?/echo', {secret}).body")).await;
    assert_eq!(here.matches("secret").count(), 2, "{here}");
    let there = eval(&lanes, &server, &format!("http.Get('§/to/302?{elsewhere}', {secret}).body")).await;
    assert!(there.contains("kept") && !there.contains("secret") && !there.contains("here"), "{there}");
}

/// Literal addresses, each a spelling of one that is forbidden.
const FORBIDDEN: &[&str] = &[
    "169.254.169.254",
    "169.254.169.254.",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "025177524776",
    "0251.254.169.254",
    "１６９.２５４.１６９.２５４",
    "169。254。169。254",
    "169%2e254%2e169%2e254",
    "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:FFFF:A9FE:A9FE]",
    "[::169.254.169.254]",
    "[::ffff:0:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[2001:0:a9fe:a9fe::]",
    "[fe80::1]",
    "[febf::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "0x646464c8",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "[ff02::1]",
    "255.255.255.255",
    "4294967295",
    "0.1.2.3",
    // By the list of the test.
    "127.0.0.1",
    "127.1",
    "0x7f.1",
    "0177.0.0.01",
    "2130706433",
    "0.0.0.0",
    "0",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "１２７.1",
    "user:pw@127.0.0.1",
    "x@y@127.0.0.1",
    "127.0.0.1\\\\@example.com",
    "10.0.0.1",
    "012.1",
    "[::ffff:a00:1]",
];

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_addresses_are_out_of_reach_however_they_are_spelled() {
    // The server is allowed by its address, and nothing else of the loopback range is.
    let server = Server::start_on("127.0.0.9".parse().unwrap(), 0).await;
    let victim = Server::start_on("127.0.0.1".parse().unwrap(), server.address.port()).await;
    let egress = Egress::parse("127.0.0.9", "127.0.0.0/8, ::1, 10.0.0.0/8").unwrap();
    let lanes = lanes_with_http(1, client(egress));
    let port = server.address.port();
    for spelling in FORBIDDEN {
        let direct = eval(&lanes, &server, &format!("http.Get('http://{spelling}:{port}/text').error")).await;
        assert!(direct.contains("out of reach for scripts"), "{spelling}: {direct}");
        // As a browser would, the client sends the rest of this URL percent-encoded, and so the server sends it back.
        let status = [301, 302, 303, 307, 308][spelling.len() % 5];
        let to = format!("http.Get('§/to/{status}?http://{spelling}:{port}/text').error");
        let redirected = eval(&lanes, &server, &to).await;
        assert!(redirected.contains("out of reach for scripts"), "redirect to {spelling}: {redirected}");
        let fetched =
            eval(&lanes, &server, &format!("fetch('http://{spelling}:{port}/').catch(String)")).await;
        assert!(
            fetched.starts_with("TypeError: fetch: ") && fetched.contains("out of reach"),
            "{spelling}: {fetched}"
        );
    }
    for odd in ["[fe80::1%25eth0]", "127.0.0.1.2", "127.0.0.256", "[127.0.0.1]", "1.2.3.08", ""] {
        assert_eq!(
            eval(&lanes, &server, &format!("http.Get('http://{odd}:{port}/').status")).await,
            "0",
            "{odd}"
        );
    }
    assert_eq!(victim.seen().connections, 0);
    assert_eq!(eval(&lanes, &server, "http.Get('§/text').status").await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_port_is_out_of_reach_and_its_neighbours_are_not() {
    let server = Server::start_on("127.0.0.1".parse().unwrap(), 0).await;
    let health = Server::start_on("127.0.0.1".parse().unwrap(), 0).await;
    let port = health.address.port();
    let lanes = lanes_with_http(1, client(Egress::default().with_health_port(port)));
    let refused = "is this worker's own health port; `--allow-net health-port` opens it to scripts";
    for host in ["127.0.0.1", "localhost", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let direct = eval(&lanes, &server, &format!("http.Get('http://{host}:{port}/text').error")).await;
        assert!(direct.contains(refused), "{host}: {direct}");
        let to = format!("http.Get('§/to/302?http://{host}:{port}/text').error");
        let redirected = eval(&lanes, &server, &to).await;
        assert!(redirected.contains(refused), "redirect to {host}: {redirected}");
        let fetched = eval(&lanes, &server, &format!("fetch('http://{host}:{port}/').catch(String)")).await;
        assert!(fetched.starts_with("TypeError: fetch: ") && fetched.contains(refused), "{host}: {fetched}");
    }
    assert_eq!(health.seen().connections, 0);
    let own = format!("http.Get('http://localhost:{}/text').status", server.address.port());
    assert_eq!(eval(&lanes, &server, &own).await, "200");
    let open = Egress::parse("health-port", "").unwrap().with_health_port(port);
    let lanes = lanes_with_http(1, client(open));
    let allowed = format!("http.Get('http://localhost:{port}/text').status");
    assert_eq!(eval(&lanes, &server, &allowed).await, "200");
}

struct Fickle(std::sync::Mutex<Vec<IpAddr>>);

impl Resolve for Fickle {
    fn resolve(&self, _: &str) -> BoxFuture<io::Result<Vec<IpAddr>>> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
        Box::pin(async move { Ok(vec![answer]) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_changes_its_mind_leads_nowhere_else() {
    let server = Server::start_on("127.0.0.9".parse().unwrap(), 0).await;
    let victim = Server::start_on("127.0.0.1".parse().unwrap(), server.address.port()).await;
    let answers = ["127.0.0.9", "127.0.0.1", "169.254.169.254", "127.0.0.9", "127.0.0.1"];
    let fickle = Fickle(answers.map(|ip| ip.parse().unwrap()).to_vec().into());
    let egress = Egress::parse("127.0.0.9", "127.0.0.0/8").unwrap().with_resolver(fickle);
    let lanes = lanes_with_http(1, client(egress));
    let get = |path: &str| format!("http.Get('http://rebind.example:{}{path}')", server.address.port());
    // Each connection is a look-up of its own, and goes where that one led.
    assert_eq!(eval(&lanes, &server, &(get("/close") + ".body")).await, "closed");
    for expected in
        ["rebind.example (127.0.0.1) is out of reach", "rebind.example (169.254.169.254) is out of reach"]
    {
        let error = eval(&lanes, &server, &(get("/close") + ".error")).await;
        assert!(error.contains(expected), "{error}");
    }
    // A redirect to the same name is a look-up again if it needs a new connection; a connection that stands is the one
    // that was judged.
    assert_eq!(eval(&lanes, &server, &(get("/redirects/3") + ".body")).await, "arrived");
    assert_eq!(victim.seen().connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_denied_by_name_are_not_even_asked() {
    let (server, _) = open().await;
    let lanes = lanes_with_http(1, client(Egress::parse("localhost", "*").unwrap()));
    let port = server.address.port();
    assert_eq!(
        eval(&lanes, &server, &format!("http.Get('http://localhost:{port}/text').status")).await,
        "200"
    );
    assert_eq!(
        eval(&lanes, &server, "http.Get('http://example.com/').error").await,
        "example.com is out of reach for scripts: deny-net has `*`"
    );
    assert_eq!(
        eval(&lanes, &server, "http.Get('§/text').error").await,
        "127.0.0.1 is out of reach for scripts: deny-net has `*`"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_aborted_when_its_script_has_to_end() {
    let (server, lanes) = open().await;
    for (ask, abandoned, expected) in [
        (ScriptHandle::kill as fn(&ScriptHandle), 1, ScriptError::Lost),
        (ScriptHandle::interrupt, 2, ScriptError::Interrupted),
    ] {
        let expression = format!("http.Get('{}')", server.url("/held"));
        let (handle, ended) =
            spawn(&lanes, &Fake::new(), Limits::default(), move |vm| vm.eval(&expression).map(drop));
        server.wait_for(|seen| seen.requests.len() == abandoned).await;
        ask(&handle);
        assert_eq!(ended.await, Err(expected));
        server.wait_for(|seen| seen.abandoned == abandoned).await;
    }
    let limits = Limits { call_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let expression = format!("http.Get('{}')", server.url("/held"));
    let error = eval_with(&lanes, limits, &expression).await;
    assert!(error.starts_with("TimeoutError: the call took longer than its limit of 50ms ("), "{error}");
    server.wait_for(|seen| seen.abandoned == 3).await;
}

/// The I/O side looks at the lease by itself: the lane may be stuck, and nobody there to end the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_aborted_with_the_lease() {
    let (server, lanes) = open().await;
    for (abandoned, path) in [(1, "/held"), (2, "/held-body")] {
        let fake = Fake::new();
        fake.trusted_ms.store(100, Ordering::Relaxed);
        let expression = format!("http.Get('{}').error", server.url(path));
        let (_, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| vm.eval(&expression));
        server.wait_for(|seen| seen.requests.len() == abandoned).await;
        fake.trusted_ms.store(0, Ordering::Relaxed);
        server.wait_for(|seen| seen.abandoned == abandoned).await;
        assert_eq!(ended.await, Err(ScriptError::Lost));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_once_the_lease_is_lost() {
    let (server, lanes) = open().await;
    let fake = Fake::new();
    let inner = fake.clone();
    let source = format!("function main() {{ http.Get('{}') }}", server.url("/text"));
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load(&source, "test.js")?;
        vm.call("main")?;
        inner.trusted_ms.store(0, Ordering::Relaxed);
        vm.call("main")
    });
    assert_eq!(ended.await, Err(ScriptError::Lost));
    assert_eq!(fake.effects.load(Ordering::Relaxed), 1);
    assert_eq!(server.seen().requests.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_request_come_to_its_end() {
    let (server, lanes) = open().await;
    let expression = format!("http.Get('{}').body", server.url("/held"));
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| vm.eval(&expression));
    server.wait_for(|seen| seen.requests.len() == 1).await;
    handle.interrupt_waits();
    server.release();
    assert_eq!(ended.await, Ok("held".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again() {
    let (server, lanes) = open().await;
    let expression =
        "Array.from({length: 20}, () => http.Get('§/text').status).every(status => status === 200)";
    assert_eq!(eval(&lanes, &server, expression).await, "true");
    assert_eq!(server.seen().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_the_fence_if_they_are_told_to() {
    let server = Server::start().await;
    let settings = Settings { fence: true, ..Settings::default() };
    let lanes = lanes_with_http(1, Client::with_roots(&settings, rustls::RootCertStore::empty()).unwrap());
    let fence = "hats-fence: test.js;epoch=1700000000123";
    let expression =
        "http.Get('§/to/302?/echo').body.split('\\n').filter(line => line.startsWith('hats-fence')).join()";
    assert_eq!(eval(&lanes, &server, expression).await, fence);
    let expression = "fetch('§/echo').then(r => r.text()).then(text => text.match(/hats-fence.*/)[0])";
    assert_eq!(eval(&lanes, &server, expression).await, fence);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_whoever_can_prove_who_it_is() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], made.signing_key.serialize_der().try_into().unwrap())
        .unwrap();
    let server = Server::start_tls(Arc::new(tls).into()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let trusting = lanes_with_http(1, Client::with_roots(&Settings::default(), roots).unwrap());
    let get = |host: &str| format!("http.Get('https://{host}:{}/text')", server.address.port());
    assert_eq!(eval(&trusting, &server, &(get("localhost") + ".body")).await, "grüße\u{0}!");
    let error = eval(&trusting, &server, &(get("127.0.0.1") + ".error")).await;
    assert!(error.contains("certificate not valid for name"), "{error}");
    let wary = lanes_with_http(1, client(Egress::default()));
    let error = eval(&wary, &server, &(get("localhost") + ".error")).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
}

/// Prints what waiting costs: many scripts wait for one slow server as long as one does.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_scripts_wait_for_a_slow_server_together() {
    let (server, lanes) = open().await;
    let mut took = Vec::new();
    for scripts in [1, 500] {
        let begun = Instant::now();
        let waiting: Vec<_> = (0..scripts)
            .map(|_| {
                let expression = format!("http.Get('{}').status", server.url("/slow/200"));
                spawn(&lanes, &Fake::new(), Limits::default(), move |vm| vm.eval(&expression)).1
            })
            .collect();
        for ended in waiting {
            assert_eq!(ended.await, Ok("200".to_owned()));
        }
        took.push(begun.elapsed());
    }
    println!("a server that answers after 200 ms: 1 script {:?}, 500 scripts {:?}", took[0], took[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_every_request_fails() {
    let server = Server::start().await;
    let lanes = one_lane();
    check(
        &lanes,
        &server,
        &[
            ("http.Get('§').error", "this worker gives its scripts no HTTP"),
            ("fetch('§').catch(String)", "TypeError: fetch: this worker gives its scripts no HTTP"),
        ],
    )
    .await;
}

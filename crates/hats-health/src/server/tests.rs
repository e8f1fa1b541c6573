use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::monitor::Health;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    server: Server,
    readiness: Arc<Mutex<Readiness>>,
}

impl Served {
    async fn new() -> Self {
        Self::within(LIMITS).await
    }

    async fn within(limits: Limits) -> Self {
        let readiness = Arc::new(Mutex::new(Readiness::default()));
        let view = readiness.clone();
        let views = Views {
            readiness: Arc::new(move || view.lock().unwrap().clone()),
            metrics: Arc::new(|| "hats_up 1\n".to_owned()),
        };
        let server = Listener::bind(LOCALHOST, Port::Given(0)).await.unwrap().serve_within(views, limits);
        Self { server, readiness }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address()).await.unwrap()
    }

    /// Sends bytes as they are and gives all that comes back until the server closes.
    async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may have closed already, having read enough.
        let _ = stream.write_all(request.as_ref()).await;
        all(&mut stream).await
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.raw(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }
}

async fn all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8(bytes).unwrap()
}

fn check(answer: &str, status: u16, body: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (_, found) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(found, body, "{answer}");
}

#[tokio::test]
async fn a_ready_worker_says_so_in_all_ways() {
    let served = Served::new().await;
    check(&served.ask("GET", "/").await, 200, "{}");
    check(&served.ask("GET", "/livez").await, 200, "alive\n");
    let ready = served.ask("GET", "/readyz").await;
    assert!(ready.contains("content-type: application/json\r\n"), "{ready}");
    let body = r#"{"checks":{"health":{"ok":true}},"readings":{"cpuPercent":null,"load":null,"memoryPercent":null},"ready":true}"#;
    check(&ready, 200, &format!("{body}\n"));
    let metrics = served.ask("GET", "/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    check(&metrics, 200, "hats_up 1\n");
}

#[tokio::test]
async fn one_that_is_not_ready_says_why_and_is_alive() {
    let served = Served::new().await;
    served.readiness.lock().unwrap().checks =
        vec![Check::new("redis.session", true, ""), Check::new("redis.watch", false, "no connection")];
    check(&served.ask("GET", "/").await, 500, "Unhealthy");
    check(&served.ask("GET", "/livez").await, 200, "alive\n");
    let ready = served.ask("GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains(r#""redis.session":{"ok":true}"#), "{ready}");
    assert!(ready.contains(r#""redis.watch":{"ok":false,"problem":"no connection"}"#), "{ready}");
    // And ready again as soon as it is.
    served.readiness.lock().unwrap().checks.clear();
    check(&served.ask("GET", "/").await, 200, "{}");
}

#[tokio::test]
async fn unhealthy_is_not_ready() {
    use crate::threshold::{CpuThreshold, Judge, Thresholds};
    let served = Served::new().await;
    let readings = crate::Readings { load: Some(9.0).into(), ..Default::default() };
    let mut judge = Judge::new(Thresholds { cpu: Some(CpuThreshold::Load(4.0)), memory: None });
    judge.judge(&readings);
    let over = judge.judge(&readings).into();
    served.readiness.lock().unwrap().health = Health { readings, over };
    let ready = served.ask("GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    let problem = r#""health":{"ok":false,"problem":"load average 9.0, threshold 4"}"#;
    assert!(ready.contains(problem) && ready.contains(r#""load":9.0"#), "{ready}");
}

#[tokio::test]
async fn head_has_no_body_and_other_methods_and_paths_are_refused() {
    let served = Served::new().await;
    for path in ["/", "/livez", "/readyz", "/metrics"] {
        let answer = served.ask("HEAD", path).await;
        check(&answer, 200, "");
        assert!(answer.contains("content-length: "), "{answer}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = served.ask(method, path).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
            assert!(answer.contains("allow: GET,HEAD"), "{method}: {answer}");
        }
    }
    for path in ["/x", "/readyz/", "/livez/x", "//", "/%2e", "/metrics%00"] {
        let answer = served.ask("GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    // A query changes nothing.
    assert!(served.ask("GET", "/livez?verbose").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_is_no_http_is_told_so_and_harms_nothing() {
    let served = Served::new().await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(HEADER_BYTES_MAX * 2));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    for odd in ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /\0 HTTP/1.1\r\n\r\n", &long, &many] {
        let answer = served.raw(odd).await;
        let shown: String = odd.chars().take(30).collect();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    check(&served.ask("GET", "/").await, 200, "{}");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let served = Served::new().await;
    let request = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = served.raw(format!("{request}{request}{last}")).await;
    assert_eq!(answer.matches("alive\n").count(), 2, "{answer}");
    assert!(answer.ends_with("{}"), "{answer}");
}

#[tokio::test]
async fn who_sends_nothing_is_let_go_and_makes_room() {
    let header_timeout = Duration::from_millis(50);
    let served = Served::within(Limits { connections: 3, header_timeout, ..LIMITS }).await;
    for beginning in ["", "GET /livez HTTP/1.1\r\nHo", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut idle = Vec::new();
        for _ in 0..3 {
            let mut stream = served.connect().await;
            stream.write_all(beginning.as_bytes()).await.unwrap();
            idle.push(stream);
        }
        // There is room for it only when one of them has gone.
        check(&served.ask("GET", "/livez").await, 200, "alive\n");
        for mut stream in idle {
            all(&mut stream).await;
        }
    }
}

/// Connections that stay, whatever they have sent so far.
async fn idle(served: &Served, count: usize) -> Vec<TcpStream> {
    let beginnings = ["", "GET /livez HTTP/1.1\r\nHo", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"];
    let mut idle = Vec::new();
    for beginning in beginnings.iter().cycle().take(count) {
        let mut stream = served.connect().await;
        let _ = stream.write_all(beginning.as_bytes()).await;
        idle.push(stream);
    }
    idle
}

#[tokio::test]
async fn a_probe_is_answered_however_many_connections_are_idle() {
    // Nobody is let go for being slow, so that only giving way can make room.
    let hour = Duration::from_secs(3600);
    let served = Served::within(Limits { header_timeout: hour, connection_time: hour, ..LIMITS }).await;
    let mut idle = idle(&served, LIMITS.connections * 5).await;
    for path in ["/livez", "/readyz", "/"] {
        let answer = served.ask("GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    // The quietest has given way, the newest is still there and answered.
    let mut newest = idle.pop().unwrap();
    all(&mut idle[0]).await;
    let _ =
        newest.write_all(b"st: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(all(&mut newest).await.ends_with("alive\n"));
}

#[tokio::test]
async fn a_connection_that_asks_is_not_the_quietest() {
    let hour = Duration::from_secs(3600);
    let grace = Duration::ZERO;
    let limits = Limits { connections: 3, grace, header_timeout: hour, connection_time: hour, ..LIMITS };
    let served = Served::within(limits).await;
    let mut busy = served.connect().await;
    let mut silent = served.connect().await;
    let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut answer = [0; 12];
    for _ in 0..10 {
        busy.write_all(request).await.unwrap();
        busy.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut rest = Vec::new();
        while !rest.ends_with(b"alive\n") {
            rest.push(busy.read_u8().await.unwrap());
        }
        check(&served.ask("GET", "/livez").await, 200, "alive\n");
        let other = idle(&served, 1).await;
        // It is there before the next request of the busy one.
        check(&served.ask("GET", "/livez").await, 200, "alive\n");
        drop(other);
    }
    let _ = idle(&served, 6).await;
    assert!(all(&mut silent).await.is_empty());
}

#[tokio::test]
async fn a_request_that_is_there_is_answered_in_a_flood_of_connections() {
    let hour = Duration::from_secs(3600);
    let limits = Limits { connections: 1, header_timeout: hour, connection_time: hour, ..LIMITS };
    let served = Served::within(limits).await;
    let mut asking = Vec::new();
    // All of them are in the queue before the first is accepted: this test is the runtime's only OS thread.
    for _ in 0..100 {
        let stream = std::net::TcpStream::connect(served.server.address()).unwrap();
        std::io::Write::write_all(&mut &stream, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        asking.push(TcpStream::from_std(stream).unwrap());
    }
    for stream in &mut asking[..99] {
        assert!(all(stream).await.ends_with("alive\n"));
    }
}

#[tokio::test]
async fn no_connection_lasts_for_ever() {
    let connection_time = Duration::from_millis(50);
    let served = Served::within(Limits { connection_time, ..LIMITS }).await;
    let mut stream = served.connect().await;
    // A body that never ends.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx").await.unwrap();
    assert!(all(&mut stream).await.ends_with("{}"));
}

#[tokio::test]
async fn a_preferred_port_that_is_taken_is_another_one_and_a_given_one_an_error() {
    let first = Listener::bind(LOCALHOST, Port::Given(0)).await.unwrap();
    let taken = first.address().port();
    let second = Listener::bind(LOCALHOST, Port::Preferred(taken)).await.unwrap();
    assert_ne!(second.address().port(), taken);
    let error = Listener::bind(LOCALHOST, Port::Given(taken)).await.unwrap_err();
    assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{taken} cannot be listened on: ")), "{error}");
    drop(first);
    let third = Listener::bind(LOCALHOST, Port::Preferred(taken)).await.unwrap();
    assert_eq!(third.address().port(), taken);
}

#[tokio::test]
async fn a_stop_lets_nobody_in_and_ends_who_is_idle() {
    let served = Served::new().await;
    let address = served.server.address();
    let mut idle = served.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    timeout(PATIENCE, served.server.stop()).await.unwrap();
    assert!(all(&mut idle).await.ends_with("alive\n"));
    assert!(TcpStream::connect(address).await.is_err());
}

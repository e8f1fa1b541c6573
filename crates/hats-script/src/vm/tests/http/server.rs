//! An HTTP server that answers in all the ways in which servers do, the bad ones included.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the server has seen so far; every change wakes whoever waits for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: usize,
    /// The first line of each request.
    pub(crate) requests: Vec<String>,
    /// Connections that the client closed while it was owed an answer.
    pub(crate) abandoned: usize,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<watch::Sender<Seen>>,
    released: Arc<watch::Sender<bool>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), 0).await
    }

    pub(crate) async fn start_on(ip: IpAddr, port: u16) -> Self {
        let (server, listener) = Self::bind(ip, port).await;
        let inner = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = inner.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(acceptor: tokio_rustls::TlsAcceptor) -> Self {
        let (server, listener) = Self::bind(Ipv4Addr::LOCALHOST.into(), 0).await;
        let inner = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, acceptor) = (inner.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        server.serve(stream).await;
                    }
                });
            }
        });
        server
    }

    async fn bind(ip: IpAddr, port: u16) -> (Self, TcpListener) {
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, seen: Arc::default(), released: Arc::new(watch::Sender::new(false)) };
        (server, listener)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(crate) async fn wait_for(&self, condition: impl Fn(&Seen) -> bool) {
        self.seen.subscribe().wait_for(condition).await.unwrap();
    }

    /// Lets `/held` answer.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.seen.send_modify(|seen| seen.connections += 1);
        let mut input = Vec::new();
        while let Some((head, body)) = read_request(&mut stream, &mut input).await {
            let first = head.lines().next().unwrap_or_default().to_owned();
            self.seen.send_modify(|seen| seen.requests.push(first.clone()));
            if self.answer(&mut stream, &head, &body).await.is_none() {
                break;
            }
        }
        let _ = stream.shutdown().await;
    }

    /// None: the connection is to be closed.
    async fn answer(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        head: &str,
        body: &[u8],
    ) -> Option<()> {
        let mut first = head.lines().next()?.split(' ');
        let (method, target) = (first.next()?, first.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut parts = path.trim_start_matches('/').split('/');
        let (route, argument) = (parts.next()?, parts.next().unwrap_or_default());
        let send = match route {
            "echo" => {
                let text = [head.as_bytes(), b"\n", body].concat();
                response(200, "Content-Type: text/plain\r\n", &text)
            }
            "text" => response(200, "Content-Type: text/plain; charset=utf-8\r\n", "grüße\u{0}!".as_bytes()),
            "json" => response(200, "Content-Type: application/json\r\n", br#"{"a": [1, 2]}"#),
            "bom" => response(200, "", b"\xef\xbb\xbf{\"a\": 1}"),
            "latin" => response(200, "", b"gr\xfc\xdfe"),
            "status" => response(argument.parse().ok()?, "", b""),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(argument.parse().ok()?)).await;
                response(200, "", b"slow")
            }
            "headers" => {
                let odd = "ETag: \"x\"\r\nx-many: a\r\nX-MANY: b\r\nset-cookie: c=1\r\nSet-Cookie: d=2\r\n\
                           __proto__: evil\r\nx-utf: gr\u{fc}\u{df}e\r\n";
                response(200, odd, b"")
            }
            "head" if method == "HEAD" => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: b\r\n\r\n".to_vec()
            }
            "held" => {
                let mut released = self.released.subscribe();
                let mut gone = [0];
                tokio::select! {
                    _ = released.wait_for(|released| *released) => response(200, "", b"held"),
                    _ = stream.read(&mut gone) => {
                        self.seen.send_modify(|seen| seen.abandoned += 1);
                        return None;
                    }
                }
            }
            "held-body" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await.ok()?;
                let mut gone = [0];
                let _ = stream.read(&mut gone).await;
                self.seen.send_modify(|seen| seen.abandoned += 1);
                return None;
            }
            "long" => {
                let length: usize = argument.parse().ok()?;
                response(200, "", &vec![b'x'; length])
            }
            "endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
                let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
                loop {
                    stream.write_all(&chunk).await.ok()?;
                }
            }
            "truncated" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await.ok()?;
                return None;
            }
            "truncated-chunks" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbe")
                    .await
                    .ok()?;
                return None;
            }
            "refuse" => return None,
            "garbage" => {
                stream.write_all(b"good morning\r\n\r\n").await.ok()?;
                return None;
            }
            "gzip" => response(200, "Content-Encoding: gzip\r\n", &gzip(b"unpacked")),
            "gzip-bomb" => response(200, "Content-Encoding: gzip\r\n", &gzip(&vec![0; 64 << 20])),
            "gzip-broken" => {
                let packed = gzip(&b"unpacked".repeat(100));
                response(200, "Content-Encoding: gzip\r\n", &packed[..packed.len() / 2])
            }
            "redirects" => match argument.parse::<u32>().ok()? {
                0 => response(200, "", b"arrived"),
                left => response(302, &format!("Location: /redirects/{}\r\n", left - 1), b"on"),
            },
            // To whatever stands behind the question mark.
            "to" => response(argument.parse().ok()?, &format!("Location: {query}\r\n"), b"on"),
            "close" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nclosed").await.ok()?;
                return None;
            }
            _ => response(404, "", b"no such path"),
        };
        let end = send.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        stream.write_all(if method == "HEAD" { &send[..end] } else { &send }).await.ok()
    }
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut Vec<u8>,
) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&input[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let all = end + 4 + length.unwrap_or(0);
            if input.len() >= all {
                let body = input[end + 4..all].to_vec();
                input.drain(..all);
                return Some((head.replace("\r\n", "\n"), body));
            }
        }
        let mut more = vec![0; 64 << 10];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => input.extend_from_slice(&more[..count]),
        }
    }
}

fn response(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if matches!(status, 204 | 304) {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    // Headers of a test are Latin-1, to have bytes in them that are no UTF-8.
    let head: Vec<u8> =
        format!("HTTP/1.1 {status} Some Reason\r\n{length}{headers}\r\n").chars().map(|c| c as u8).collect();
    [&head, body].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

//! Between a database driver and its server.
//!
//! ```text
//!  driver ── socket without a name in the file system ── relay ── TCP (and TLS) or unix socket ── server
//! ```
//!
//! The drivers connect by themselves, to a name that they look up by themselves, and take in whatever is sent. So they
//! are given a relay to connect to instead.
//!
//! What must hold:
//! - The server's address is one that the egress rules have judged; no driver looks anything up.
//! - Of one result no more bytes come through than were allowed for it, and no message that says it is longer begins.
//! - Nobody but this process gets through: the one who connects has its process id.
//! - A connection that the server has closed is known to be, before anybody tries to use it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;

use super::dsn::Place;
use crate::egress::Egress;

/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Allowed while a connection is made and between statements: greetings, notices, the server's farewell.
const IDLE_BYTES: u64 = 1 << 20;
/// Of several addresses each but the last one has so long to answer.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// A server from which nothing comes back counts as gone after about this time, also if nothing is sent to it.
const SILENCE: Duration = Duration::from_secs(45);

/// The server's end of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// How the messages of a server begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// In no way that is looked at.
    Opaque,
    /// A byte for the kind and four for the length.
    Postgres,
}

/// A connection to a server that a driver can use as if it were the server. Ends when dropped.
pub(super) struct Relay {
    folder: PathBuf,
    socket: PathBuf,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    /// Bytes that may still come from the server.
    left: AtomicU64,
    is_over: AtomicBool,
    is_open: AtomicBool,
}

/// Connects to a server, wherever the rules allow it to be.
pub(super) async fn connect(egress: &Egress, place: &Place) -> Result<Box<dyn Stream>, String> {
    let (host, address, port) = match place {
        Place::Unix(path) => {
            // Who may not reach this machine's own addresses may not reach its sockets either.
            egress.check(std::net::Ipv4Addr::LOCALHOST.into()).map_err(|error| error.to_string())?;
            let stream = UnixStream::connect(path).await;
            return match stream {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(format!("cannot connect to {place}: {error}")),
            };
        }
        Place::Tcp { host, address, port } => (host, address, *port),
    };
    let target = address.map_or_else(|| host.clone(), |address| address.to_string());
    let addresses = egress.resolve(&target, port).await.map_err(|error| error.to_string())?;
    let mut last = String::from("no address");
    let number = addresses.len();
    for (n, address) in addresses.into_iter().enumerate() {
        // One that swallows everything is not to keep us from the next one.
        let patience = if n + 1 < number { ADDRESS_TIMEOUT } else { Duration::MAX };
        match tokio::time::timeout(patience, connect_to(address)).await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("{address} does not answer"),
        }
    }
    Err(format!("cannot connect to {place}: {last}"))
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, SILENCE / 3)?;
    sockopt::set_tcp_keepintvl(&stream, SILENCE / 9)?;
    sockopt::set_tcp_keepcnt(&stream, 6)?;
    let silence = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&stream, silence)?;
    Ok(stream)
}

impl Relay {
    /// Waits for the driver in front of `server`. Called on the I/O runtime, which drives it from then on.
    pub(super) fn start(server: Box<dyn Stream>, framing: Framing) -> io::Result<Self> {
        // The driver of Postgres makes the name of the socket from that of a folder and a port. The first character says
        // that it is no file.
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let folder = PathBuf::from(format!("\0hats-sql-{:032x}", u128::from_le_bytes(random)));
        let socket = folder.join(".s.PGSQL.1");
        let listener = UnixListener::bind(&socket)?;
        let shared = Arc::new(Shared {
            left: AtomicU64::new(IDLE_BYTES),
            is_over: AtomicBool::new(false),
            is_open: AtomicBool::new(true),
        });
        let relay = shared.clone();
        let task = tokio::spawn(async move {
            // An error is seen by both ends, which are closed.
            let _ = carry(listener, server, framing, &relay).await;
            relay.is_open.store(false, Ordering::Release);
        });
        Ok(Self { folder, socket, shared, task: task.abort_handle() })
    }

    /// The socket that a driver connects to.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The folder that the driver of Postgres looks for its socket in, and the port that it looks for.
    pub(super) fn folder_and_port(&self) -> (&Path, u16) {
        (&self.folder, 1)
    }

    /// Says how many bytes may come from the server from now on.
    pub(super) fn allow(&self, bytes: usize) {
        self.shared.left.store(IDLE_BYTES.saturating_add(bytes as u64), Ordering::Release);
    }

    /// True if more has come than was allowed. The connection is of no further use then.
    pub(super) fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::Acquire)
    }

    /// False once either end has closed the connection.
    pub(super) fn is_open(&self) -> bool {
        self.shared.is_open.load(Ordering::Acquire)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    listener: UnixListener,
    server: Box<dyn Stream>,
    framing: Framing,
    shared: &Shared,
) -> io::Result<()> {
    let driver = loop {
        let (driver, _) = listener.accept().await?;
        let peer = driver.peer_cred()?.pid();
        if peer.is_some_and(|peer| u32::try_from(peer) == Ok(std::process::id())) {
            break driver;
        }
    };
    drop(listener);
    let (from_driver, to_driver) = driver.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    // Whichever ends first ends the other: neither protocol has connections that are open one way.
    tokio::select! {
        ended = upwards(from_driver, to_server) => ended,
        ended = downwards(from_server, to_driver, framing, shared) => ended,
    }
}

async fn upwards(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..read]).await?;
        to.flush().await?;
    }
}

async fn downwards(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    framing: Framing,
    shared: &Shared,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut frames = Frames::new(framing);
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        let left = shared.left.load(Ordering::Acquire);
        // The driver makes room for a whole message as soon as it has seen its length.
        let is_too_long = frames.longest_after(&chunk[..read]) > left;
        if is_too_long || read as u64 > left {
            shared.is_over.store(true, Ordering::Release);
            return Ok(());
        }
        // Another amount may have been allowed meanwhile, but only between two results.
        let _ = shared.left.compare_exchange(left, left - read as u64, Ordering::AcqRel, Ordering::Acquire);
        to.write_all(&chunk[..read]).await?;
    }
}

/// Follows the messages in a stream.
struct Frames {
    framing: Framing,
    header: [u8; 5],
    /// Bytes of the header that have been seen.
    seen: usize,
    /// Bytes of the message in hand that are still to come.
    left: u64,
}

impl Frames {
    fn new(framing: Framing) -> Self {
        Self { framing, header: [0; 5], seen: 0, left: 0 }
    }

    /// Follows a piece of the stream, and tells the length of the longest message in it.
    fn longest_after(&mut self, mut piece: &[u8]) -> u64 {
        let mut longest = 0;
        while self.framing == Framing::Postgres && !piece.is_empty() {
            let body = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            self.left -= body as u64;
            piece = &piece[body..];
            let part = (self.header.len() - self.seen).min(piece.len());
            self.header[self.seen..self.seen + part].copy_from_slice(&piece[..part]);
            self.seen += part;
            piece = &piece[part..];
            if self.seen == self.header.len() {
                self.seen = 0;
                let [_, a, b, c, d] = self.header;
                // It counts itself.
                self.left = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_sub(4);
                longest = longest.max(self.left);
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn relayed(framing: Framing) -> (Relay, UnixStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let place = Place::Tcp { host: "127.0.0.1".to_owned(), address: None, port };
        let ours = connect(&Egress::default(), &place).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let relay = Relay::start(ours, framing).unwrap();
        let driver = UnixStream::connect(relay.socket()).await.unwrap();
        (relay, driver, theirs)
    }

    #[tokio::test]
    async fn what_is_sent_arrives_both_ways() {
        let (relay, mut driver, mut server) = relayed(Framing::Opaque).await;
        let long = vec![7; 300_000];
        let (sent, received) = tokio::join!(driver.write_all(&long), async {
            let mut received = vec![0; long.len()];
            server.read_exact(&mut received).await.map(|_| received)
        });
        sent.unwrap();
        assert_eq!(received.unwrap(), long);
        server.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        driver.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        assert!(relay.is_open() && !relay.is_over());
    }

    #[tokio::test]
    async fn the_end_of_one_side_is_the_end_of_the_other() {
        let (relay, mut driver, server) = relayed(Framing::Opaque).await;
        drop(server);
        assert_eq!(driver.read(&mut [0]).await.unwrap(), 0);
        while relay.is_open() {
            tokio::task::yield_now().await;
        }
        let (_relay, driver, mut server) = relayed(Framing::Opaque).await;
        drop(driver);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        let (relay, _driver, mut server) = relayed(Framing::Opaque).await;
        drop(relay);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn no_more_comes_through_than_was_allowed() {
        let (relay, mut driver, mut server) = relayed(Framing::Opaque).await;
        relay.allow(100_000);
        let sending = tokio::spawn(async move {
            // Ends with an error once the relay has gone.
            while server.write_all(&[1; 4096]).await.is_ok() {}
        });
        let mut received = Vec::new();
        driver.read_to_end(&mut received).await.unwrap();
        sending.await.unwrap();
        assert!(relay.is_over());
        let allowed = 100_000 + usize::try_from(IDLE_BYTES).unwrap();
        assert!((allowed - CHUNK_BYTES..=allowed).contains(&received.len()), "{}", received.len());
    }

    #[tokio::test]
    async fn a_message_that_would_be_too_long_does_not_begin() {
        let (relay, mut driver, mut server) = relayed(Framing::Postgres).await;
        relay.allow(0);
        server.write_all(b"D\0\0\0\x06ab").await.unwrap();
        let mut received = [0; 7];
        driver.read_exact(&mut received).await.unwrap();
        // A gigabyte is announced, a byte at a time.
        for byte in *b"D\x40\0\0\0" {
            server.write_all(&[byte]).await.unwrap();
        }
        let mut rest = Vec::new();
        driver.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() < 5 && relay.is_over());
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let stream = [&b"Z\0\0\0\x05I"[..], b"D\0\0\0\x0aabcdef", b"C\0\0\0\x04", b"D\0\0\x01\0"].concat();
        for size in 1..stream.len() {
            let mut frames = Frames::new(Framing::Postgres);
            let longest = stream.chunks(size).map(|piece| frames.longest_after(piece)).max();
            assert_eq!(longest, Some(252), "{size}");
            assert_eq!(frames.left, 252);
        }
    }
}

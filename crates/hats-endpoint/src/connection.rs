//! A connection's socket, with the deadlines that the protocol's library does not know.
//!
//! What must hold: every wait for the client ends. A client that sends a head too slowly, takes its answer too slowly or
//! has gone costs a bounded time. One that only closes its side after its request is still answered, and one that sends
//! more than is read still gets its answer, since a socket that is closed with unread bytes in it would destroy it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::config::Config;

/// For what a client still sends after it was answered and before it closes.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;
/// Who does not take so much within the write timeout, or else all that there is, is given up. It is 4.3 KiB/s at 30 s.
const TAKEN_BYTES_MIN: usize = 128 << 10;

const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
      content-length: 16\r\n\r\nRequest Timeout\n";
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
      content-type: text/plain; charset=utf-8\r\ncontent-length: 20\r\n\r\nService Unavailable\n";

/// What the socket of a connection and whoever answers tell each other.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    is_busy: AtomicBool,
    /// Requests whose heads have been read.
    heads: AtomicU32,
    /// Nothing had come when the connection was read last.
    has_waited: AtomicBool,
}

/// The request that a connection is busy with, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Exchange>);

impl Exchange {
    /// A head has been read.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.is_busy.store(true, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Whether the next request had come before the last one was answered: such a client gives way to others.
    pub(crate) fn is_pipelined(&self) -> bool {
        !self.has_waited.swap(false, Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    fn heads(&self) -> u32 {
        self.heads.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

/// The socket of one connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    exchange: Arc<Exchange>,
    header_timeout: Duration,
    write_timeout: Duration,
    /// When the head that is under way began, and how many had been read before it.
    head: Option<(u32, Instant)>,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Writing>,
}

/// What the client has not taken yet is waited for.
#[derive(Debug)]
struct Writing {
    late: Pin<Box<Sleep>>,
    /// Bytes that it has taken since then.
    taken: usize,
}

impl Socket {
    pub(crate) fn new(stream: Arc<TcpStream>, exchange: Arc<Exchange>, config: &Config) -> Self {
        Self {
            stream,
            exchange,
            header_timeout: config.header_timeout,
            write_timeout: config.write_timeout,
            head: None,
            reading: None,
            writing: None,
        }
    }

    /// Bytes have come.
    fn received(&mut self) {
        self.reading = None;
        let heads = self.exchange.heads();
        match self.head {
            Some((before, _)) if before == heads => {}
            _ if !self.exchange.is_busy() => self.head = Some((heads, Instant::now())),
            _ => self.head = None,
        }
    }

    /// No bytes have come yet.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let since = match self.head {
            Some((before, since)) if before == self.exchange.heads() => since,
            _ => {
                self.reading = None;
                return Poll::Pending;
            }
        };
        let deadline = since + self.header_timeout;
        let late = self.reading.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(late.as_mut().poll(cx));
        // Nothing else is under way on this connection, so the line is free; if it is full, the client does not read.
        let _ = self.stream.try_write(TOO_SLOW);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes, or waits.
    fn poll_writing(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        loop {
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    let count = *written.as_ref().unwrap_or(&0);
                    self.writing.take_if(|writing| {
                        writing.taken += count;
                        count == length || writing.taken >= TAKEN_BYTES_MIN
                    });
                    return Poll::Ready(written);
                }
            }
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    let write_timeout = self.write_timeout;
                    let writing = self.writing.get_or_insert_with(|| Writing {
                        late: Box::pin(tokio::time::sleep(write_timeout)),
                        taken: 0,
                    });
                    ready!(writing.late.as_mut().poll(cx));
                    // The system says that there is room again when there is much of it. Who is slow may have taken enough
                    // without that.
                    let room = SockRef::from(&*self.stream).send_vectored(slices).unwrap_or(0);
                    let has_taken = room + writing.taken >= TAKEN_BYTES_MIN || room == length;
                    self.writing = None;
                    return Poll::Ready(if has_taken {
                        Ok(room)
                    } else {
                        Err(io::ErrorKind::TimedOut.into())
                    });
                }
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.stream.try_read_buf(buffer) {
                Ok(_) => {
                    self.received();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match self.stream.poll_read_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.exchange.has_waited.store(true, Ordering::Relaxed);
                    return self.poll_late(cx);
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever serves the connection closes it for good, see `close`.
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// Resolves when the client of the request in hand has gone, or has closed its side for so long. It may wait for its answer
/// all the same: nobody can tell. Of a client that has sent the next request already it is not known.
pub(crate) async fn gone(stream: &TcpStream, patience: Duration) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        // What is there stays there.
        match SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
            Ok(0) => return tokio::time::sleep(patience).await,
            Ok(_) => return std::future::pending().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Says that it is not readable after all, so that the next look waits.
                let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(error));
            }
            Err(_) => return,
        }
    }
}

/// Closes a connection so that what was sent last still arrives: says that no more comes, and reads what the client has
/// been sending until it closes too.
pub(crate) async fn close(stream: &TcpStream) {
    // It may be closed already.
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
    let drained = async {
        let mut scratch = vec![0; 16 << 10];
        let mut bytes = 0;
        while bytes < LINGER_BYTES_MAX && stream.readable().await.is_ok() {
            match stream.try_read(&mut scratch) {
                Ok(0) => break,
                Ok(count) => bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Answers a connection for which there is no place.
pub(crate) async fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(TOO_MANY);
    close(stream).await;
}

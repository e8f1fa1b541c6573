//! The health port: a few answers over HTTP for whoever runs the worker.
//!
//! ```text
//!  GET /         {} 200, or `Unhealthy` 500        as /readyz, in the words of 2020
//!  GET /livez    200                               the process answers, and that is all it says
//!  GET /readyz   200 or 503, JSON                  may work be sent here, and if not, why not
//!  GET /metrics  200, text of Prometheus
//! ```
//!
//! What must hold: every answer comes from what is known already; none waits, for Redis or for anything else. A probe is
//! answered however many connections there are and whatever they do: a new connection is always accepted, and above
//! `Limits::connections` the one that has been quiet for longest is closed to make room (`connections`). Rejecting the
//! newest instead would let 64 idle clients lock out every probe.

mod connections;
mod views;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connections::{Connections, Turn};
pub use self::views::{Check, Readiness, Views};

/// Limits on clients of the health port.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections above which the quietest one gives way to each new one.
    connections: usize,
    /// How long a connection may stay after it was asked to give way, counted from when it was accepted, so that a request
    /// that is already there is answered even in a flood of connections.
    grace: Duration,
    /// Maximum connections, those that give way included. Further ones wait in the system's queue, no longer than `grace`.
    connections_max: usize,
    /// Time for the header of a request to arrive, counted from the connection's start or from the previous answer.
    header_timeout: Duration,
    /// Maximum life of a connection; clients that ask often reconnect.
    connection_time: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    grace: Duration::from_millis(250),
    connections_max: 512,
    header_timeout: Duration::from_secs(2),
    connection_time: Duration::from_secs(60),
};
/// A request's header has no more bytes than this.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// After an error of the system, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long answers that are under way at the end may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// Which port to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one and no other; 0 is any free one.
    Given(u16),
    /// This one if it is free, else any.
    Preferred(u16),
}

/// The port could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened on: {error}")]
pub struct Error {
    /// What was tried.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub error: io::Error,
}

/// The port, taken.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// The server, running. It goes on until it is stopped, or dropped.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
    address: SocketAddr,
}

impl Listener {
    /// Takes a port.
    ///
    /// # Errors
    /// When it is taken already, or the system refuses.
    pub async fn bind(ip: IpAddr, port: Port) -> Result<Self, Error> {
        let (wanted, or_any) = match port {
            Port::Given(port) => (port, false),
            Port::Preferred(port) => (port, true),
        };
        match Self::at(SocketAddr::new(ip, wanted)).await {
            Err(taken) if or_any && taken.error.kind() == io::ErrorKind::AddrInUse => {
                Self::at(SocketAddr::new(ip, 0)).await
            }
            result => result,
        }
    }

    async fn at(address: SocketAddr) -> Result<Self, Error> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bound.await.map_err(|error| Error { address, error })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on.
    #[must_use]
    pub fn serve(self, views: Views) -> Server {
        self.serve_within(views, LIMITS)
    }

    fn serve_within(self, views: Views, limits: Limits) -> Server {
        let stop = CancellationToken::new();
        let service = TowerToHyperService::new(views.router());
        let task = tokio::spawn(accept(self.listener, service, limits, stop.clone()));
        Server { stop, task, address: self.address }
    }
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: nobody is let in any more, and answers that are under way are finished.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // It ends by itself in a bounded time, and has nothing to say about it.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Service = TowerToHyperService<axum::Router>;

async fn accept(listener: TcpListener, service: Service, limits: Limits, stop: CancellationToken) {
    let connections = Connections::new(limits.connections, limits.connections_max);
    let tasks = TaskTracker::new();
    let accepting = async {
        loop {
            connections.room().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (service, stop) = (service.clone(), stop.clone());
                    let turn = connections.add();
                    tasks.spawn(async move { converse(stream, service, limits, &turn, stop).await });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the health port was not accepted");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    tasks.close();
    let _ = timeout(GOODBYE, tasks.wait()).await;
}

/// One connection, to its end.
async fn converse(stream: TcpStream, service: Service, limits: Limits, turn: &Turn, stop: CancellationToken) {
    let accepted = Instant::now();
    let service = service_fn(|request| {
        turn.touch();
        service.call(request)
    });
    // Answers are small and leave at once.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(GOODBYE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
        () = sleep(limits.connection_time) => return,
        () = async {
            turn.asked_to_give_way().await;
            sleep_until(accepted + limits.grace).await;
        } => {
            tracing::debug!("closed the quietest connection to the health port to make room for a new one");
            return;
        }
    };
    if let Err(error) = ended {
        // Whoever has sent what is no HTTP has been told so, or is gone.
        tracing::debug!(%error, "a connection to the health port has ended");
    }
}

#[cfg(test)]
mod tests;

//! The port, its connections, and their end.
//!
//! ```text
//!  bound ──start──► serving ──begin_drain──► draining ──requests have ended, or their time is up──► closed
//!                                 new requests: 503 and the connection ends; connections without one end at once
//! ```
//!
//! Connections live on the lanes: what answers a request is mostly a script that has done so before it would have been handed
//! to another OS thread.
//!
//! On failure: an error of one connection ends that one alone. An error of the port (no more file descriptors) is logged,
//! and tried again. Connections of a lane that is stuck in native code stand still with it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hats_cluster::Handle;
use hats_script::Lanes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::admission::{Admission, Bodies};
use crate::config::Config;
use crate::connection::{self, Exchange, Socket};
use crate::handler::{self, Peer, Site};
use crate::metrics::{Metrics, Why};
use crate::routes::Routes;
use crate::running::Running;

/// After an error of the port.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// So many clients for which there is no place are told so at once; further ones are just closed.
const TURNED_AWAY_MAX: usize = 64;
/// How long an interrupted script may take to end.
const HURRY: Duration = Duration::from_secs(2);
/// How long the last answers may take to be taken.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A port that has been taken and is not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// What the server needs of others.
pub struct Parts {
    /// Where the definitions are.
    pub cluster: Handle,
    /// Where the scripts run.
    pub lanes: Lanes,
    /// Asked at each request: while it is false, this worker has too much to do, and answers with 503. It must not block.
    pub is_healthy: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Answers requests until it is told to drain.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    site: Arc<Site>,
    /// One for each request that is being answered.
    requests: TaskTracker,
    connections: TaskTracker,
    /// Ends whatever is left.
    closed: CancellationToken,
    accepting: Option<JoinHandle<()>>,
}

/// How a drain ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// The paths of endpoints whose scripts do not end, not even interrupted.
    pub stuck: Vec<String>,
}

impl Listener {
    /// Takes a port; 0 is any free one. Called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Bind`] when it cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let refused = |source| Error::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Server {
    /// Begins to answer requests. Called inside a tokio runtime.
    #[must_use]
    pub fn start(listener: Listener, config: Config, parts: Parts) -> Self {
        let Parts { cluster, lanes, is_healthy } = parts;
        let Listener { socket, address } = listener;
        let routes = Routes::new(cluster.clone(), &config);
        let feed = cluster.endpoint_feed();
        let site = Arc::new(Site {
            admission: Admission::new(config.concurrency, config.queue, config.queue_timeout),
            bodies: Bodies::new(config.bodies_limit),
            answers: Bodies::new(config.answers_limit),
            running: Running::new(),
            io: tokio::runtime::Handle::current(),
            metrics: Metrics::default(),
            draining: CancellationToken::new(),
            hurry: CancellationToken::new(),
            config,
            cluster,
            lanes,
            routes: routes.clone(),
            is_healthy,
        });
        let mut server = Self {
            accepting: None,
            address,
            site,
            requests: TaskTracker::new(),
            connections: TaskTracker::new(),
            closed: CancellationToken::new(),
        };
        let (port, closed) = (server.port(), server.closed.clone());
        // Both end with the server; neither fails.
        server.accepting = Some(tokio::spawn(port.accept(socket)));
        tokio::spawn(async move { closed.run_until_cancelled(routes.follow(feed)).await });
        tracing::info!(%address, "endpoints are served");
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is counted of requests; also once the server has gone.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.site.metrics.clone()
    }

    /// From here on new requests are answered with 503, and connections end after the answer in hand.
    pub fn begin_drain(&self) {
        self.site.draining.cancel();
    }

    /// Lets the requests in hand finish within [`Config::drain_timeout`], then interrupts their scripts; then closes the
    /// port and what is left.
    ///
    /// # Cancel safety
    /// Dropped, everything is closed at once, and the scripts that ran are killed.
    pub async fn drain(mut self) -> Drained {
        self.begin_drain();
        let accepting = self.accepting.take();
        let Self { site, requests, connections, closed, .. } = &self;
        requests.close();
        let ended = async {
            requests.wait().await;
            site.running.ended().await;
        };
        if tokio::time::timeout(site.config.drain_timeout, ended).await.is_err() {
            for path in site.running.names() {
                tracing::warn!(
                    task = path,
                    kind = "endpoint",
                    "interrupted: it did not end within the drain timeout"
                );
            }
            site.hurry.cancel();
            let _ = tokio::time::timeout(HURRY, site.running.ended()).await;
        }
        // Clients take their answers; new ones are still told that there is none.
        connections.close();
        let _ = tokio::time::timeout(LAST_ANSWERS, connections.wait()).await;
        closed.cancel();
        if let Some(accepting) = accepting {
            // It holds the lanes for as long as it goes on.
            let _ = accepting.await;
        }
        // Those of a lane that is stuck do not hear of it.
        let _ = tokio::time::timeout(HURRY, connections.wait()).await;
        Drained { stuck: site.running.names() }
    }

    fn port(&self) -> Port {
        let config = &self.site.config;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.idle_timeout)
            .max_header_size(config.header_bytes)
            // Who has closed its side may still wait for its answer; a script for somebody who has gone is ended by itself.
            .half_close(true)
            .keep_alive(true);
        Port {
            places: Arc::new(Semaphore::new(config.connections.min(Semaphore::MAX_PERMITS))),
            http,
            site: self.site.clone(),
            requests: self.requests.clone(),
            connections: self.connections.clone(),
            closed: self.closed.clone(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.site.draining.cancel();
        self.closed.cancel();
    }
}

/// What each connection is served with.
#[derive(Clone)]
struct Port {
    places: Arc<Semaphore>,
    http: http1::Builder,
    site: Arc<Site>,
    requests: TaskTracker,
    connections: TaskTracker,
    closed: CancellationToken,
}

impl Port {
    async fn accept(self, socket: TcpListener) {
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
        while let Some(accepted) = self.closed.run_until_cancelled(socket.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_the_client(&error) {
                        tracing::warn!(%error, "no connection can be accepted for endpoints");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            // Each ends by its own deadlines, at the latest when the server is closed.
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                self.place(stream, address, place);
            } else if let Ok(place) = turned_away.clone().try_acquire_owned() {
                self.site.metrics.turned_away(Why::Connections);
                let closed = self.closed.clone();
                self.connections.spawn(async move {
                    let _place = place;
                    closed.run_until_cancelled(connection::turn_away(&stream)).await;
                });
            }
        }
    }

    /// Puts a connection on a lane.
    fn place(&self, stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit) {
        let Ok(stream) = stream.into_std() else { return };
        let (port, token) = (self.clone(), self.connections.token());
        self.site.lanes.spawn_local(move || async move {
            let _token = token;
            // The lane's own driver tells of its bytes from here on.
            match TcpStream::from_std(stream) {
                Ok(stream) => port.serve(Arc::new(stream), address, place).await,
                Err(error) => tracing::warn!(%error, "a connection for endpoints is given up"),
            }
        });
    }

    async fn serve(self, stream: Arc<TcpStream>, address: SocketAddr, _place: OwnedSemaphorePermit) {
        let closed = self.closed.clone();
        closed
            .run_until_cancelled(async {
                if let Err(error) = self.converse(&stream, address).await {
                    tracing::debug!(%error, remote = %address, "a connection has ended");
                }
                connection::close(&stream).await;
            })
            .await;
    }

    async fn converse(
        &self,
        stream: &Arc<TcpStream>,
        address: SocketAddr,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let own = stream.local_addr()?;
        let exchange = Arc::<Exchange>::default();
        let socket = Socket::new(stream.clone(), exchange.clone(), &self.site.config);
        let peer = Peer { address, own, stream };
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (busy, token) = (exchange.begin(), self.requests.token());
            let gives_way = exchange.is_pipelined();
            async move {
                if gives_way {
                    tokio::task::yield_now().await;
                }
                let response = handler::serve(&self.site, peer, request).await;
                drop((busy, token));
                Ok::<_, Infallible>(response)
            }
        });
        let connection = self.http.serve_connection(TokioIo::new(socket), service);
        let mut connection = std::pin::pin!(connection);
        if !self.site.draining.is_cancelled() {
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = self.site.draining.cancelled() => connection.as_mut().graceful_shutdown(),
            }
        }
        // One that comes during a drain is told so, and its answer ends it.
        Ok(connection.await?)
    }
}

/// The client has gone before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("config", &self.config).finish_non_exhaustive()
    }
}

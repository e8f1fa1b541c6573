//! What the server may spend on its clients.

use std::time::Duration;

use hats_script::Limits;

/// The settings of a [`Server`](crate::Server). Each has a bound, so that no client can have the worker's all.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Bytes of a request's body; a longer one is answered with 413. Default 1 MiB.
    pub body_limit: usize,
    /// From a request's head to the end of its body; later, it is answered with 408. Default 30 s.
    pub body_timeout: Duration,
    /// From the first byte of a request to the end of its head; later, it is answered with 408. Default 10 s.
    pub header_timeout: Duration,
    /// Bytes of a request's head; a longer one is answered with 431. Default 32 KiB.
    pub header_bytes: usize,
    /// A connection without a request is closed after this. More than the 60 s of common proxies, which would otherwise
    /// send requests to connections that are just being closed. Default 75 s.
    pub idle_timeout: Duration,
    /// A client that takes less than 128 KiB of its answer in so long, and not all of it, is given up. Default 30 s.
    pub write_timeout: Duration,
    /// After a client has closed its side, a script that still runs for it has this long. Default 1 s.
    pub gone_timeout: Duration,
    /// Connections at once; further ones are answered with 503. Default 10,000.
    pub connections: usize,
    /// Bytes of all bodies at once; what goes beyond is answered with 503. Default 256 MiB.
    pub bodies_limit: usize,
    /// Bytes of all answers at once that clients have not taken yet; a request whose answer goes beyond gets 503. Default
    /// 256 MiB.
    pub answers_limit: usize,
    /// Scripts at once; further requests wait. One page has at most half of them. Default 512.
    pub concurrency: usize,
    /// Requests that wait for their script to begin; further ones are answered with 503. Default 1024.
    pub queue: usize,
    /// How long a request waits for its script to begin; then it is answered with 503. Default 2 s.
    pub queue_timeout: Duration,
    /// Bytes of sources that are kept, least recently used ones going first. Default 64 MiB.
    pub cache_bytes: usize,
    /// How old a source may be where changes are not pushed. Default 1 s.
    pub fresh_for: Duration,
    /// What a page may use unless its definition says otherwise. Without a `call_timeout` it is
    /// [`Config::PAGE_TIMEOUT`].
    pub limits: Limits,
    /// How long requests may go on after [`Server::drain`](crate::Server::drain). Default 20 s.
    pub drain_timeout: Duration,
}

impl Config {
    /// How long a page may take unless somebody says otherwise.
    pub const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_limit: 1 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            header_bytes: 32 << 10,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            gone_timeout: Duration::from_secs(1),
            connections: 10_000,
            bodies_limit: 256 << 20,
            answers_limit: 256 << 20,
            concurrency: 512,
            queue: 1024,
            queue_timeout: Duration::from_secs(2),
            cache_bytes: 64 << 20,
            fresh_for: Duration::from_secs(1),
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

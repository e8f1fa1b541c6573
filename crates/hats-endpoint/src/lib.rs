//! Endpoints: HTTP requests answered by scripts that stand in Redis.
//!
//! ```text
//!  accept ─► connection ─► handler ─► routes (which definition is it?) ─► content (what is it?) ─► admission ─► a lane
//!                             ▲                ▲
//!                     health, drain      news of the cluster
//! ```
//!
//! A [`Listener`] is the port, taken as early as may be; a [`Server`] answers on it until it is told to
//! [`drain`](Server::drain). It is HTTP/1.1, one request after the other on a connection, each read whole before its
//! script begins and each answered whole: nothing is streamed.
//!
//! What must hold:
//! - Nothing of one request is seen by another: each runs in a scope of its own.
//! - What a client sends costs a bounded amount of memory and time, and ends no other request and never the worker.
//! - A request for what does not exist asks Redis nothing.
//! - What went wrong inside is told to the log and to the definition's `Error`, never to the client.

mod admission;
mod config;
mod connection;
mod content;
mod definitions;
mod error;
mod handler;
mod message;
pub mod metrics;
mod routes;
mod running;
mod server;
pub mod template;

pub use crate::config::Config;
pub use crate::error::Error;
pub use crate::server::{Drained, Listener, Parts, Server};

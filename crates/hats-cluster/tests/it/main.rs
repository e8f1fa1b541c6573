//! The coordinator on real servers: a redis-server of its own for each test, and the embedded one.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod coordinator;
mod server;
mod worker;

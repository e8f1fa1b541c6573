//! The coordinator on real servers: a redis-server of its own for each test, and the embedded one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "figures are for whoever runs the tests")]

mod coordinator;
mod endpoints;
mod jobs;
mod measure;
mod server;
mod worker;

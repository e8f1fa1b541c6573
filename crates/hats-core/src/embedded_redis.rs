//! The Redis-compatible server that a worker without an address starts for itself: for trying things out.
//!
//! It listens on a free port of the loopback interface, so that other workers of this machine and `redis-cli` can
//! join, and forgets everything when the worker ends. It has an OS thread and a runtime of its own: nothing that the
//! worker does can delay it, and it delays nothing but itself.
//!
//! Its keys do not expire by themselves, only when its clock is moved; [`Server`] moves it with the boot clock.
//! A key may therefore go up to [`TICK`] early or late.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use encore_miniredis::Miniredis;
use hats_cluster::clock::BootInstant;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::Error;

/// Stack of the server's OS thread. It calls itself for each level of a nested table that a Lua script returns, and sets
/// no limit to that. Pages that are never touched cost nothing.
const STACK_BYTES: usize = 64 << 20;
/// How often the server's clock is moved.
const TICK: Duration = Duration::from_millis(20);

/// A running server. It stops, and what it holds is gone, when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    /// Closed to ask the server's OS thread to end.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when there is no OS thread or no port to be had.
    pub(crate) fn start() -> Result<Self, Error> {
        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("embedded-redis".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&started, stopped))
            .map_err(|error| Error::System(format!("cannot start the embedded redis: {error}")))?;
        let address = outcome.recv().unwrap_or_else(|_| Err("its OS thread has ended".to_owned()));
        let address =
            address.map_err(|error| Error::System(format!("cannot start the embedded redis: {error}")))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, as `--redis-address` and `redis-cli -u` take it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends within a tick; a panic in it was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The server's OS thread, from start to end.
fn serve(started: &mpsc::SyncSender<Result<SocketAddr, String>>, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        match Miniredis::run().await {
            Ok(server) => {
                let _ = started.send(Ok(server.addr()));
                tokio::select! {
                    () = move_clock(&server) => {}
                    _ = stopped => {}
                }
                server.close().await;
            }
            Err(error) => {
                let _ = started.send(Err(error.to_string()));
            }
        }
    });
}

/// Lets the time to live of the keys pass as time does, that of a suspended machine included.
async fn move_clock(server: &Miniredis) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = BootInstant::now();
    loop {
        ticks.tick().await;
        let now = BootInstant::now();
        server.fast_forward(now.saturating_duration_since(last));
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    /// Sends one command and returns what came by then; enough for short replies.
    fn ask(stream: &mut TcpStream, command: &str) -> String {
        let words: Vec<_> = command.split(' ').collect();
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!("*{}\r\n{}", words.len(), bulks.collect::<String>());
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = [0; 256];
        let length = stream.read(&mut reply).unwrap();
        String::from_utf8_lossy(&reply[..length]).into_owned()
    }

    #[test]
    fn keys_expire_by_themselves() {
        let server = Server::start().unwrap();
        assert!(server.url().starts_with("redis://127.0.0.1:"), "{}", server.url());
        let mut stream = TcpStream::connect(server.address).unwrap();
        assert_eq!(ask(&mut stream, "SET k v PX 100"), "+OK\r\n");
        assert_eq!(ask(&mut stream, "GET k"), "$1\r\nv\r\n");
        while ask(&mut stream, "GET k") != "$-1\r\n" {
            std::thread::sleep(TICK);
        }
    }

    #[test]
    fn nothing_listens_after_the_end() {
        let server = Server::start().unwrap();
        let address = server.address;
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}

//! The Redis-compatible server that a worker without an address starts for itself: for trying things out.
//!
//! The commands and the data are those of the library `encore-miniredis`. What is ours, because no released version of it
//! can be told to do so: `connection` (no command before the password), and `script` (Lua that reaches nothing but
//! the data, and ends).
//!
//! It listens on a free port of the loopback interface, so that other workers of this machine and `redis-cli` can
//! join through [`Server::url`], which carries a random password, and forgets everything when it is dropped. It has an OS
//! thread and a runtime of its own: nothing that the worker does can delay it, and it delays nothing but itself.
//!
//! Keys do not expire by themselves, only when the clock is moved; the server moves it with the boot clock. A key may
//! therefore go up to `TICK` early or late.
//!
//! What must hold: whoever may send commands reaches the data and nothing else of this process or machine, and no command
//! keeps the server from answering others for more than about `script::CPU_TIME_MAX`.

mod connection;
mod script;

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use encore_miniredis::db::{Inner, SharedState};
use encore_miniredis::dispatch::CommandTable;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Stack of the server's OS thread. Replies and requests that are nested are read and written by functions that call
/// themselves for each level. Pages that are never touched cost nothing.
const STACK_BYTES: usize = 64 << 20;
/// How often the server's clock is moved.
const TICK: Duration = Duration::from_millis(20);
/// After an error of the system, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Random bytes in a password.
const PASSWORD_BYTES: usize = 16;

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the embedded redis: {0}")]
pub struct Error(String);

/// A running server. It stops, and what it holds is gone, when this is dropped.
pub struct Server {
    address: SocketAddr,
    password: String,
    /// Closed to ask the server's OS thread to end.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Errors
    /// When the system refuses an OS thread, a port or random bytes.
    pub fn start() -> Result<Self, Error> {
        let password = password()?;
        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = mpsc::sync_channel(1);
        let expected = password.clone();
        let thread = std::thread::Builder::new()
            .name("embedded-redis".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&started, &expected, stopped))
            .map_err(|error| Error(error.to_string()))?;
        let address = outcome.recv().map_err(|_| Error("its OS thread ended".to_owned()))?;
        let address = address.map_err(|error| Error(error.to_string()))?;
        Ok(Self { address, password, stop: Some(stop), thread: Some(thread) })
    }

    /// Its URL, as `--redis-address` and `redis-cli -u` take it. It has the password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://:{}@{}", self.password, self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends as soon as the command at work has ended; a panic in it was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

fn password() -> Result<String, Error> {
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Error(error.to_string()))?;
    let mut password = String::with_capacity(PASSWORD_BYTES * 2);
    for byte in bytes {
        // To write to a text does not fail.
        let _ = write!(password, "{byte:02x}");
    }
    Ok(password)
}

/// The server's OS thread, from start to end.
fn run(started: &mpsc::SyncSender<io::Result<SocketAddr>>, password: &str, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    runtime.block_on(async {
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
            Ok(listener) => listener,
            Err(error) => return drop(started.send(Err(error))),
        };
        let state = state(password);
        let _ = started.send(listener.local_addr());
        tokio::select! {
            () = accept(&listener, &state) => {}
            () = move_clock(&state) => {}
            _ = stopped => {}
        }
    });
}

fn state(password: &str) -> Arc<SharedState> {
    let mut inner = Inner::new();
    inner.passwords.insert("default".to_owned(), password.to_owned());
    let state = SharedState::with_inner(inner);
    let mut table = CommandTable::new();
    script::register(&mut table);
    // Set once, here.
    let _ = state.command_table.set(Arc::new(table));
    state
}

/// Lets everybody in. The connections end with it.
async fn accept(listener: &TcpListener, state: &Arc<SharedState>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection::serve(stream, state.clone()))),
                Err(error) => {
                    tracing::debug!(%error, "a connection to the embedded redis was not accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            // A panic in one was reported where it happened and ends that connection alone.
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Lets the time to live of the keys pass as time does, that of a suspended machine included.
async fn move_clock(state: &SharedState) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = since_boot();
    loop {
        ticks.tick().await;
        let now = since_boot();
        state.lock().fast_forward(now.saturating_sub(last));
        last = now;
    }
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! The connections that the scripts of a worker share.
//!
//! Each lane has one of its own for plain commands, driven by the lane itself: what all fibers ask for in one round
//! of the lane leaves in one write, and no other OS thread has to be woken. The connections for blocking commands, and
//! the one that unblocks them, are driven by the I/O runtime.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface, ListInterface};
use fred::types::config::Options;
use fred::types::{Builder, ClusterHash, CustomCommand, Key, Value as RedisValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Reply, command};

/// How often a script that waits for the connection looks again, and a lane that could not connect tries again.
const READY_POLL: Duration = Duration::from_millis(20);
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// The connections for scripts could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no Redis connection for scripts: {0}")]
pub struct Error(String);

/// Connections to Redis for the scripts of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    builder: Builder,
    client: Client,
    /// One permit for each blocking connection that may exist. Waiters are served in order.
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Client>>,
}

/// The connection that the scripts of one lane share, and the way to all others.
pub(crate) struct LaneConnection {
    client: Client,
    pub(super) connections: Connections,
}

/// Leave to use one blocking connection.
pub(super) struct Turn {
    #[expect(dead_code, reason = "held, not looked at")]
    permit: OwnedSemaphorePermit,
}

/// A connection that blocks for one script at a time; it goes back to the others when dropped.
pub(super) struct BlockingConnection {
    client: Option<Client>,
    shared: Arc<Shared>,
    // Given back after the connection itself: fields are dropped in order.
    #[expect(dead_code, reason = "held, not looked at")]
    turn: Turn,
}

impl Connections {
    /// Connects. `builder` says how (one attempt per command, a reconnect policy that never gives up); `blocking`
    /// is how many more connections there may be for blocking commands, made when they are needed.
    ///
    /// # Errors
    /// When the first connection cannot be made.
    pub async fn connect(builder: &Builder, blocking: NonZeroUsize) -> Result<Self, Error> {
        let client = builder.build().map_err(|error| Error(error.to_string()))?;
        client.init().await.map_err(|error| Error(error.to_string()))?;
        Ok(Self {
            shared: Arc::new(Shared {
                builder: builder.clone(),
                client,
                permits: Arc::new(Semaphore::new(blocking.get())),
                waiting: AtomicUsize::new(0),
                idle: Mutex::default(),
            }),
        })
    }

    /// True if the connection stands, as far as is known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.client.is_connected()
    }

    /// Closes every connection.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.shared.idle());
        for client in idle.iter().chain([&self.shared.client]) {
            // An error means that the connection was gone already.
            let _ = client.quit().await;
        }
    }

    /// A lane's own connection. Called on the lane, whose executor drives it from then on.
    pub(crate) fn for_lane(&self) -> Result<LaneConnection, Error> {
        let client = self.shared.builder.build().map_err(|error| Error(error.to_string()))?;
        let connecting = client.clone();
        tokio::spawn(async move {
            while let Err(error) = connecting.init().await {
                tracing::warn!(%error, "no Redis connection for the scripts of a lane, trying on");
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
        });
        Ok(LaneConnection { client, connections: self.clone() })
    }

    /// Waits, in turn, for leave to use a blocking connection.
    pub(super) async fn turn(&self) -> Result<Turn, String> {
        let waiting = Waiting::new(&self.shared);
        let permit = self.shared.permits.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        drop(waiting);
        Ok(Turn { permit })
    }

    /// A connection for the one whose turn it is. Called on the I/O runtime, which drives it.
    pub(super) async fn blocking(&self, turn: Turn) -> Result<BlockingConnection, String> {
        let idle = self.shared.idle().pop();
        let client = match idle {
            Some(client) => client,
            None => {
                let client = self.shared.builder.build().map_err(|error| error.to_string())?;
                client.init().await.map_err(|error| format!("ERR no connection to Redis: {error}"))?;
                client
            }
        };
        Ok(BlockingConnection { client: Some(client), shared: self.shared.clone(), turn })
    }

    /// True if somebody waits for a blocking connection, or the next one would.
    pub(super) fn blocking_is_scarce(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0 || self.shared.permits.available_permits() == 0
    }

    /// Ends what a blocking connection waits for. True if the server knows how to.
    pub(super) async fn unblock(&self, connection: i64) -> bool {
        let command = custom("CLIENT", ClusterHash::Random, false);
        let arguments = vec![RedisValue::from("UNBLOCK"), RedisValue::from(connection)];
        request(self.shared.client.clone(), command, arguments, Duration::from_secs(1)).await.is_ok()
    }
}

impl LaneConnection {
    /// True if the connection stands, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        self.client.is_connected()
    }

    /// Waits until the connection stands, at most for `time`. Tells whether it does.
    pub(super) async fn ready(&self, time: Duration) -> bool {
        let connected = async {
            while !self.client.is_connected() {
                tokio::time::sleep(READY_POLL).await;
            }
        };
        tokio::time::timeout(time, connected).await.is_ok()
    }

    /// Sends a command. If it has not left by the end of `time`, it never will, provided that the future is not
    /// dropped before that.
    pub(super) async fn send(&self, name: &str, arguments: Vec<RedisValue>, time: Duration) -> Reply {
        let options = Options { timeout: Some(time), ..Options::default() };
        let client = self.client.with_options(&options);
        // The client flushes after each command that it does not know by name. These are the ones that scripts
        // send all the time, and they may share a write.
        let mut arguments = arguments;
        let reply: Result<RedisValue, FredError> = match (name, arguments.as_mut_slice()) {
            ("GET", [key]) => client.get(take_key(key)).await,
            ("INCR", [key]) => client.incr(take_key(key)).await,
            ("DECR", [key]) => client.decr(take_key(key)).await,
            ("DEL", [key]) => client.del(take_key(key)).await,
            ("EXISTS", [key]) => client.exists(take_key(key)).await,
            ("SET", [key, value]) => client.set(take_key(key), value.take(), None, None, false).await,
            ("HGET", [key, field]) => client.hget(take_key(key), take_key(field)).await,
            ("LPOP", [key]) => client.lpop(take_key(key), None).await,
            ("RPOP", [key]) => client.rpop(take_key(key), None).await,
            ("LPUSH", [key, value]) => client.lpush(take_key(key), value.take()).await,
            ("RPUSH", [key, value]) => client.rpush(take_key(key), value.take()).await,
            ("LLEN", [key]) => client.llen(take_key(key)).await,
            _ => {
                let hash = command::hash_of(name, &arguments);
                client.custom(custom(name, hash, false), arguments).await
            }
        };
        reply.map_err(|error| message_of(&error))
    }
}

/// A key as the client wants it. Every argument is text, bytes or a number, and each can be a key.
fn take_key(value: &mut RedisValue) -> Key {
    match value.take() {
        RedisValue::String(text) => Key::from(text),
        RedisValue::Bytes(bytes) => Key::from(bytes),
        other => Key::from(command::text(&other)),
    }
}

impl BlockingConnection {
    /// The server's number of this connection, by which it can be unblocked; None where servers have none.
    pub(super) async fn id(&self) -> Option<i64> {
        let client = self.client.clone()?;
        let command = custom("CLIENT", ClusterHash::Random, false);
        let reply = request(client, command, vec![RedisValue::from("ID")], Duration::from_secs(1)).await;
        match reply {
            Ok(RedisValue::Integer(id)) => Some(id),
            _ => None,
        }
    }

    /// Sends a command that may block for `time`.
    pub(super) async fn send(&mut self, name: &str, arguments: Vec<RedisValue>, time: Duration) -> Reply {
        let Some(client) = self.client.clone() else { return Err("ERR the connection is closed".to_owned()) };
        let hash = command::hash_of(name, &arguments);
        let reply = request(client, custom(name, hash, true), arguments, time).await;
        if reply.is_err() {
            // Whatever the connection still waits for must not be read by the next one who uses it.
            self.discard();
        }
        reply
    }

    fn discard(&mut self) {
        if let Some(client) = self.client.take() {
            tokio::spawn(async move {
                let _ = client.quit().await;
            });
        }
    }
}

impl Drop for BlockingConnection {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(ClientLike::is_connected) {
            self.shared.idle().push(client);
        }
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one who waits, also if he gives up.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn custom(name: &str, hash: ClusterHash, blocking: bool) -> CustomCommand {
    CustomCommand::new(name, hash, blocking)
}

async fn request(
    client: Client,
    command: CustomCommand,
    arguments: Vec<RedisValue>,
    time: Duration,
) -> Reply {
    let options = Options { timeout: Some(time), ..Options::default() };
    client.with_options(&options).custom(command, arguments).await.map_err(|error| message_of(&error))
}

/// An error of the server as it said it; one of the connection in the same form.
fn message_of(error: &FredError) -> String {
    match error.kind() {
        ErrorKind::Timeout => "ERR no answer from Redis in time".to_owned(),
        ErrorKind::IO | ErrorKind::Canceled => {
            format!("ERR the connection to Redis broke: {}", error.details())
        }
        _ => error.details().to_owned(),
    }
}

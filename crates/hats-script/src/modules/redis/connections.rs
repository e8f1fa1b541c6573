//! The connections that the scripts of a worker share.
//!
//! Each lane has one of its own for plain commands, driven by the lane itself: what all fibers ask for in one round
//! of the lane leaves in one write, and no other OS thread has to be woken. The connections for blocking commands, and
//! the one that unblocks them, are driven by the I/O runtime.
//!
//! What runs Lua or a function may answer with any error, `READONLY` and `CLUSTERDOWN` included, at which a client looks for
//! its server again: all that is under way on the connection fails. So such a command has a connection to itself, one of a
//! few that the lane drives too, and what it says breaks no other's. Where the error is true, each connection finds that out
//! by itself.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::config::Options;
use fred::types::{
    Builder, ClusterHash, ConnectHandle, CustomCommand, Resp3Frame as Frame, Value as RedisValue,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::frequent::{self, Asked, Frequent, Overdue};
use super::{COMMAND_TIMEOUT_MAX, Reply, command, value};
use crate::metrics::{Answered, Command, LaneMetrics};
use crate::vm::Passed;

/// An attempt to connect that was begun in an outage may hang until then, with the server long back; so it is short.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Saying goodbye takes no longer than this, for all connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections of one lane for commands that may answer with any error.
const ALONE_MAX: usize = 16;
/// How often a script that waits for the connection looks again.
const READY_POLL: Duration = Duration::from_millis(20);

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
    /// For what concerns other connections; driven by the I/O runtime.
    control: Driven,
    /// One permit for each blocking connection that may exist. Waiters are served in order.
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Driven>>,
    /// Those of the lanes, to see how they are; each lane drives its own.
    lanes: Mutex<Vec<Client>>,
}

/// How the connections of scripts are, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Every lane has its connection for plain commands.
    pub commands: bool,
    /// Those for blocking commands that exist stand, and so does the one that unblocks them.
    pub blocking: bool,
}

/// A client with the tokio task that drives its connection. A client that is merely dropped would be kept, and
/// reconnected for ever, by that task; so the task ends with this.
struct Driven {
    client: Client,
    driver: ConnectHandle,
}

/// The connection that the scripts of one lane share, and the way to all others.
pub(crate) struct LaneConnection {
    shared: Rc<LaneShared>,
    pub(super) connections: Connections,
}

struct LaneShared {
    builder: Builder,
    driven: RefCell<Driven>,
    /// Connections for commands that may answer with any error, one at a time; made when they are needed.
    alone: RefCell<Vec<Driven>>,
    /// A permit for each of these.
    alone_permits: Arc<Semaphore>,
    /// What leaves with the next round, which is under way if there is any.
    asked: RefCell<Vec<Asked>>,
    /// Knows this one too.
    all: Arc<Shared>,
    metrics: Arc<LaneMetrics>,
}

/// A connection failed, not the command: the server has said nothing.
pub(super) struct Broken(pub(super) String);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(format!("ERR {error}"))
    }
}

/// A connection of a lane that carries one command at a time.
pub(super) struct Alone {
    driven: Driven,
    #[expect(dead_code, reason = "held, not looked at")]
    permit: OwnedSemaphorePermit,
}

/// Leave to use one blocking connection.
pub(super) struct Turn {
    #[expect(dead_code, reason = "held, not looked at")]
    permit: OwnedSemaphorePermit,
}

/// A connection that blocks for one script at a time; it goes back to the others when dropped.
pub(super) struct BlockingConnection {
    driven: Option<Driven>,
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
        let mut builder = builder.clone();
        builder.with_connection_config(|connection| {
            connection.connection_timeout = connection.connection_timeout.min(CONNECT_TIMEOUT);
            connection.internal_command_timeout = connection.internal_command_timeout.min(CONNECT_TIMEOUT);
        });
        let control = Driven::start(&builder)?;
        control.connected().await?;
        Ok(Self {
            shared: Arc::new(Shared {
                builder,
                control,
                permits: Arc::new(Semaphore::new(blocking.get())),
                waiting: AtomicUsize::new(0),
                idle: Mutex::default(),
                lanes: Mutex::default(),
            }),
        })
    }

    /// How they are, as far as is known: nothing is sent.
    #[must_use]
    pub fn state(&self) -> State {
        let stands = |driven: &Driven| driven.client.is_connected();
        State {
            commands: self.shared.lanes().iter().all(Client::is_connected),
            blocking: stands(&self.shared.control) && self.shared.idle().iter().all(stands),
        }
    }

    /// Closes every connection but those of the lanes, which end with their lanes.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.shared.idle());
        let quit = async {
            for driven in idle.iter().chain([&self.shared.control]) {
                // An error means that the connection was gone already.
                let _ = driven.client.quit().await;
            }
        };
        // One that is being made again does not hear of it; what is left ends with its driver.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, quit).await;
    }

    /// A lane's own connection, whose commands the lane counts. Called on the lane, whose executor drives it from then on,
    /// through every loss.
    pub(crate) fn for_lane(&self, metrics: Arc<LaneMetrics>) -> Result<LaneConnection, Error> {
        let mut builder = self.shared.builder.clone();
        // Tried again also when the first attempt fails: nobody else would.
        builder.with_config(|config| config.fail_fast = false);
        // Each command and each round has a time of its own; here it would be a timer for each command of a round.
        builder.with_performance_config(|performance| performance.default_command_timeout = Duration::ZERO);
        let driven = Driven::start(&builder)?;
        self.shared.lanes().push(driven.client.clone());
        let (driven, all) = (RefCell::new(driven), self.shared.clone());
        let shared = LaneShared {
            builder,
            driven,
            alone: RefCell::default(),
            alone_permits: Arc::new(Semaphore::new(ALONE_MAX)),
            asked: RefCell::default(),
            all,
            metrics,
        };
        Ok(LaneConnection { shared: Rc::new(shared), connections: self.clone() })
    }

    /// Waits, in turn, for leave to use a blocking connection.
    pub(super) async fn turn(&self) -> Result<Turn, String> {
        let waiting = Waiting::new(&self.shared);
        let permit = self.shared.permits.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        drop(waiting);
        Ok(Turn { permit })
    }

    /// A connection for the one whose turn it is. Called on the I/O runtime, which drives it.
    pub(super) async fn blocking(&self, turn: Turn) -> Result<BlockingConnection, Broken> {
        let idle = self.shared.idle().pop();
        let driven = match idle {
            Some(driven) => driven,
            None => {
                let driven = Driven::start(&self.shared.builder)?;
                driven.connected().await?;
                driven
            }
        };
        Ok(BlockingConnection { driven: Some(driven), shared: self.shared.clone(), turn })
    }

    /// True if somebody waits for a blocking connection, or the next one would.
    pub(super) fn blocking_is_scarce(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0 || self.shared.permits.available_permits() == 0
    }

    /// Ends what a blocking connection waits for. True if the server knows how to.
    pub(super) async fn unblock(&self, connection: i64) -> bool {
        let command = custom("CLIENT", ClusterHash::Random, false);
        let arguments = vec![RedisValue::from("UNBLOCK"), RedisValue::from(connection)];
        request(&self.shared.control.client, command, arguments, Duration::from_secs(1)).await.is_ok()
    }
}

impl LaneConnection {
    /// True if the connection stands, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.driven.borrow().client.is_connected()
    }

    /// Waits until the connection stands, at most for `time`. Tells whether it does.
    pub(super) async fn ready(&self, time: Duration) -> bool {
        let connected = async {
            while !self.is_ready() {
                tokio::time::sleep(READY_POLL).await;
            }
        };
        tokio::time::timeout(time, connected).await.is_ok()
    }

    /// Sends a command. If it has not left by the end of `time`, it never will, provided that the future is not
    /// dropped before that.
    pub(super) async fn send(
        &self,
        _: &Passed,
        name: &str,
        arguments: Vec<RedisValue>,
        time: Duration,
    ) -> Reply {
        let client = self.shared.client();
        let command = custom(name, command::hash_of(name, &arguments), false);
        let begun = Instant::now();
        let frame = ask(&client, command, arguments, time).await;
        self.count_frame(name, begun, &frame);
        reply_of(frame)
    }

    /// A connection for one command that may answer with any error. Called on the lane, which drives it.
    pub(super) async fn alone(&self) -> Result<Alone, Broken> {
        let permit = self.shared.alone_permits.clone().acquire_owned().await;
        let permit = permit.map_err(|error| Broken(format!("ERR {error}")))?;
        loop {
            let idle = self.shared.alone.borrow_mut().pop();
            let driven = match idle {
                Some(driven) if driven.client.is_connected() => driven,
                Some(_) => continue,
                None => {
                    let driven = Driven::start(&self.shared.all.builder)?;
                    driven.connected().await?;
                    driven
                }
            };
            return Ok(Alone { driven, permit });
        }
    }

    /// As [`Self::send`], over a connection of its own, which goes back to the lane if the command was answered on it.
    pub(super) async fn send_alone(
        &self,
        _: &Passed,
        alone: Alone,
        name: &str,
        arguments: Vec<RedisValue>,
        time: Duration,
    ) -> Reply {
        let command = custom(name, command::hash_of(name, &arguments), false);
        let begun = Instant::now();
        // It must not wait here for a connection that is made again: by then its script may have gone.
        let options = Options { timeout: Some(time), fail_fast: true, ..Options::default() };
        let frame = alone.driven.client.with_options(&options).custom_raw(command, arguments).await;
        self.count_frame(name, begun, &frame);
        if frame.is_ok() && alone.driven.client.is_connected() {
            self.shared.alone.borrow_mut().push(alone.driven);
        }
        reply_of(frame)
    }

    fn count_frame(&self, name: &str, begun: Instant, frame: &Result<Frame, FredError>) {
        let answered = match frame {
            Ok(frame) if value::is_error(frame) => Answered::Error,
            frame => answered(frame),
        };
        self.count(Command::of(name), begun, answered);
    }

    /// Counts a command that has come to its end now.
    pub(super) fn count(&self, command: Command, begun: Instant, answered: Answered) {
        self.shared.metrics.redis.record(command, begun.elapsed(), answered);
    }

    /// Sends a command together with all others of the lane's round. Its reply, or the error that it never left or is
    /// not answered, comes by the end of its task's lease; until then it may leave, unless its script is interrupted.
    pub(super) fn send_frequent(&self, command: Frequent, passed: Passed) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        let mut asked = self.shared.asked.borrow_mut();
        asked.push(Asked { command, passed, reply });
        if asked.len() == 1 {
            // It has its turn behind all scripts that are ready now, and takes what they have asked for until then.
            tokio::task::spawn_local(self.shared.clone().send_round());
        }
        answer
    }
}

impl LaneShared {
    fn client(&self) -> Client {
        self.driven.borrow().client.clone()
    }

    async fn send_round(self: Rc<Self>) {
        let round = self.asked.take();
        let client = self.client();
        if let Err(Overdue) = frequent::send_round(&client, round, COMMAND_TIMEOUT_MAX, &self.metrics).await {
            self.replace(&client);
        }
    }

    /// Replaces the connection by a new one: what it has not sent yet never leaves.
    fn replace(&self, client: &Client) {
        let mut driven = self.driven.borrow_mut();
        if driven.client.id() != client.id() {
            return;
        }
        driven.driver.abort();
        match Driven::start(&self.builder) {
            Ok(new) => {
                self.all.lane_has(client, Some(new.client.clone()));
                *driven = new;
            }
            Err(error) => tracing::error!(%error, "the connection of a lane cannot be made again"),
        }
    }
}

impl Drop for LaneShared {
    fn drop(&mut self) {
        self.all.lane_has(&self.driven.borrow().client, None);
    }
}

impl Driven {
    /// Begins to connect; the executor that this is called on drives the connection.
    fn start(builder: &Builder) -> Result<Self, Error> {
        let client = builder.build().map_err(|error| Error(error.to_string()))?;
        let driver = client.connect();
        Ok(Self { client, driver })
    }

    async fn connected(&self) -> Result<(), Error> {
        self.client.wait_for_connect().await.map_err(|error| Error(error.to_string()))
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl BlockingConnection {
    /// The server's number of this connection, by which it can be unblocked; None where servers have none.
    pub(super) async fn id(&self) -> Option<i64> {
        let driven = self.driven.as_ref()?;
        let command = custom("CLIENT", ClusterHash::Random, false);
        let reply =
            request(&driven.client, command, vec![RedisValue::from("ID")], Duration::from_secs(1)).await;
        match reply {
            Ok(RedisValue::Integer(id)) => Some(id),
            _ => None,
        }
    }

    /// Sends a command that may block for `time`.
    pub(super) async fn send(
        &mut self,
        _: &Passed,
        name: &str,
        arguments: Vec<RedisValue>,
        time: Duration,
    ) -> Result<Reply, Broken> {
        let Some(driven) = self.driven.take() else {
            return Err(Broken("ERR the connection is closed".to_owned()));
        };
        let hash = command::hash_of(name, &arguments);
        // A command that waited here for the connection to come back would be sent when its script is long gone, and
        // what it pops would be lost.
        let options = Options { timeout: Some(time), fail_fast: true, ..Options::default() };
        let client = driven.client.with_options(&options);
        let frame = client.custom_raw(custom(name, hash, true), arguments).await;
        // After an error it ends here: whatever it still waits for must not be read by the next one who uses it.
        let frame = frame.map_err(|error| Broken(message_of(&error)))?;
        self.driven = Some(driven);
        Ok(value::of_frame(frame))
    }
}

impl Drop for BlockingConnection {
    fn drop(&mut self) {
        if let Some(driven) = self.driven.take().filter(|driven| driven.client.is_connected()) {
            self.shared.idle().push(driven);
        }
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Driven>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane has another connection now, or none any more.
    fn lane_has(&self, old: &Client, new: Option<Client>) {
        let mut lanes = self.lanes();
        lanes.retain(|client| client.id() != old.id());
        lanes.extend(new);
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
    client: &Client,
    command: CustomCommand,
    arguments: Vec<RedisValue>,
    time: Duration,
) -> Reply {
    reply_of(ask(client, command, arguments, time).await)
}

async fn ask(
    client: &Client,
    command: CustomCommand,
    arguments: Vec<RedisValue>,
    time: Duration,
) -> Result<Frame, FredError> {
    let options = Options { timeout: Some(time), ..Options::default() };
    client.with_options(&options).custom_raw(command, arguments).await
}

fn reply_of(frame: Result<Frame, FredError>) -> Reply {
    frame.map_err(|error| message_of(&error)).and_then(value::of_frame)
}

/// How a command was answered whose result this is.
pub(super) fn answered<T>(result: &Result<T, FredError>) -> Answered {
    match result.as_ref().map_err(FredError::kind) {
        Ok(_) => Answered::Reply,
        Err(ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Tls) => Answered::Not,
        Err(_) => Answered::Error,
    }
}

/// An error of the server as it said it; one of the connection in the same form.
pub(super) fn message_of(error: &FredError) -> String {
    match error.kind() {
        ErrorKind::Timeout => "ERR no answer from Redis in time".to_owned(),
        ErrorKind::IO | ErrorKind::Canceled => {
            format!("ERR the connection to Redis broke: {}", error.details())
        }
        _ => error.details().to_owned(),
    }
}

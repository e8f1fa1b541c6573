//! The loop that claims threads for this worker, watches over those it owns and gives them back.
//!
//! ```text
//!   session ─Opened·Lost·Ended─┐                    ┌─ Event ──▶ whoever runs the scripts
//!   watch ──Changed·Lost───────┤                    │
//!   Handle ──release·drain·…───┼──▶ coordinator ────┤
//!   done ◀── answers ──────────┘    (table, plan,   └─ requests ─▶ store (tokio tasks, bounded) ──▶ done
//!                                     observer)
//! ```
//!
//! What must always hold:
//! * One task owns the table and decides; it never waits for Redis. What it sends runs beside it, and every answer comes
//!   back as a message.
//! * A script starts only after a grant under a live session, and a thread is released only after whoever runs it said
//!   that its script has ended.
//! * What the watch says is a hint to look; so is membership. The truth is what Redis answers to a claim, a check or the
//!   sweep.
//! * When a session is lost everything under it leaves the table at once. Nothing of it is released: its death, declared
//!   by ourselves once nothing runs or by a peer, frees it all.

mod condition;
mod endpoints;
mod feed;
mod operation;
mod plan;
mod poison;
mod run;
mod settle;
mod table;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Config, StuckNamer};
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::lease::Lease;
use crate::name::{EndpointPath, TaskKind, TaskName, WorkerName};
use crate::records::{Definition, SourceDigest};
use crate::session::{self, SessionThread, Vitals};
use crate::store::Store;
use crate::watch;
use crate::watchdog::{Stamp, Watchdog};

pub use self::condition::{Condition, Links};
pub use self::endpoints::{EndpointFeed, EndpointNews};
pub use self::feed::{JobFeed, JobNews, JobNewsReceiver, Peers};
pub use self::poison::SetAside;

/// Redis must have answered within this at the start.
const START_MAX: Duration = Duration::from_secs(10);
/// How long is waited for the coordinator to have come round.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// Peers leave a thread that is about to be registered to this worker for so long.
const PREFERRED_FOR: Duration = Duration::from_secs(3);
const START_RETRY: Duration = Duration::from_millis(200);

/// What the coordinator tells whoever runs the scripts.
#[derive(Debug)]
pub enum Event {
    /// This worker owns the thread now: run it.
    Claimed(Grant),
    /// The definition of an owned thread has changed. A new source restarts it in place, other fields apply to the
    /// calls to come.
    Changed {
        /// The thread.
        name: TaskName,
        /// The claim that it runs under.
        claim: Nonce,
        /// What it is now.
        definition: Definition,
    },
    /// End the thread in good order, then [`Handle::release`] it.
    Stop {
        /// The thread.
        name: TaskName,
        /// The claim that it runs under.
        claim: Nonce,
        /// Why.
        reason: StopReason,
    },
    /// The session is gone: end everything under it without `cleanup()`. Nothing of it is released: it is no longer
    /// ours.
    Lost {
        /// The lease of that session.
        lease: Lease,
    },
    /// This worker's row says `Status=disabled`: drain and stop.
    WorkerDisabled,
}

/// Why an owned thread has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Its `Status` is disabled.
    Disabled,
    /// Its definition is gone.
    Deleted,
    /// Somebody asked for a restart.
    Restart,
    /// Another worker is to have it: for even shares, because this worker is not healthy, or because it does not offer what
    /// the thread requires.
    Relocated,
    /// A field of its definition cannot be used; the coordinator writes the error at the release.
    Malformed,
    /// Its claim no longer names this worker: nothing of it may run on, `cleanup()` included.
    Moved,
}

/// Whether a worker may take new threads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Admission {
    /// It may.
    #[default]
    Open,
    /// It may not; the reason is for people, in the worker's row.
    Refused(Arc<str>),
}

/// A thread that this worker owns.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The thread.
    pub name: TaskName,
    /// The full Redis key of its definition.
    pub key: String,
    /// Names this claim.
    pub claim: Nonce,
    /// The fence: greater than that of every earlier owner.
    pub epoch: u64,
    /// Crashes in a row before this start.
    pub restarts: u32,
    /// What the thread may trust while it runs.
    pub lease: Lease,
    /// What to run.
    pub definition: Definition,
}

/// How a thread is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// It may start elsewhere at once.
    Free {
        /// This worker does not take it again before this has passed, unless it is preferred.
        cool_down: Duration,
        /// Whether another worker is preferred for it.
        prefer_other: bool,
    },
    /// Its script has asked to be stopped here. Another worker is preferred, and may take it at once.
    StoppedByScript {
        /// This worker does not claim it again before this has passed, whoever is preferred.
        cool_down: Duration,
    },
    /// It failed.
    Crashed {
        /// Message and stack.
        error: String,
        /// Nobody takes it again before this has passed, unless its source changes or it is enabled anew.
        back_off: Duration,
        /// Crashes in a row, this one counted.
        restarts: u32,
    },
    /// It was stopped because of its definition: disabled, deleted or malformed.
    Stopped,
}

/// A cheap clone to talk to the coordinator.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    worker: WorkerName,
    store: Store,
    commands: mpsc::UnboundedSender<Command>,
    watchdog: Arc<Watchdog>,
    vitals: Arc<Vitals>,
    connections: Arc<Connections>,
    peers: tokio::sync::watch::Receiver<Peers>,
    pushed: tokio::sync::watch::Receiver<bool>,
    failures: Arc<endpoints::Failures>,
    poison: Arc<poison::Poison>,
    // Ends with the last handle.
    _loader: session::Loader,
}

/// Which connections answer, beside the session's.
#[derive(Debug, Default)]
struct Connections {
    main: AtomicBool,
    /// Established, or known to be impossible here.
    watch: AtomicBool,
}

/// What a run is a run of: source and `RestartAt`.
type Ran = (SourceDigest, Option<Arc<str>>);

/// What a handle asks the coordinator for.
enum Command {
    Started { name: TaskName, claim: Nonce, ran: Ran },
    Release { name: TaskName, claim: Nonce, how: Release },
    ClaimNow(Vec<TaskName>),
    Look(Vec<TaskName>),
    FeedJobs(feed::JobNewsSender),
    FeedEndpoints(mpsc::UnboundedSender<EndpointNews>),
    LookEndpoint(EndpointPath),
    NameSessions(Vec<SessionId>),
    Drain,
    Close(oneshot::Sender<()>),
    Abandon,
}

impl Handle {
    /// `init()` is done, or the first `main()` has been called: the thread counts as running, and `ran` as what runs. The
    /// coordinator may have heard of a newer definition by now, which has not failed if this run does.
    pub fn started(&self, name: &TaskName, claim: &Nonce, ran: &Definition) {
        let ran = (ran.digest.clone(), ran.restart_at.clone());
        self.send(Command::Started { name: name.clone(), claim: claim.clone(), ran });
    }

    /// Gives a thread back. Only after its script has really stopped here. Returns at once; the coordinator repeats
    /// the release until Redis has answered it.
    pub fn release(&self, name: &TaskName, claim: &Nonce, how: Release) {
        self.send(Command::Release { name: name.clone(), claim: claim.clone(), how });
    }

    /// Sets `Status=disabled` for the whole cluster.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn disable(&self, name: &TaskName) -> Result<(), Error> {
        self.shared.store.disable(name).await.map(drop)
    }

    /// The thread's `Status` as it is in Redis now; `deleted` if there is no such thread.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn status(&self, name: &TaskName) -> Result<String, Error> {
        let (status, _) = self.shared.store.status_and_state(TaskKind::Thread, name).await?;
        Ok(status.to_owned())
    }

    /// The thread's `State` as it is in Redis now; `stopped` if there is none.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn state(&self, name: &TaskName) -> Result<String, Error> {
        Ok(self.shared.store.status_and_state(TaskKind::Thread, name).await?.1)
    }

    /// Before a thread is registered: nobody else claims it for the time that this worker needs to do so. One that is owned
    /// is left alone, and so are all where this worker may take nothing.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn prefer(&self, name: &TaskName) -> Result<(), Error> {
        let mut peers = self.shared.peers.clone();
        // Known as soon as the coordinator has come round once.
        let known = timeout(FIRST_ROUND, peers.wait_for(|peers| peers.lease.is_some())).await;
        let Some(lease) = known.ok().and_then(Result::ok).and_then(|peers| peers.lease.clone()) else {
            return Ok(());
        };
        self.shared.store.prefer(name, lease.session(), PREFERRED_FOR).await.map(drop)
    }

    /// Claims these threads at once, whatever their rank here. Those that run elsewhere are left alone.
    pub fn claim_now(&self, names: Vec<TaskName>) {
        self.send(Command::ClaimNow(names));
    }

    /// These definitions were written just now: they are looked at without waiting for the watch to tell, or for the next
    /// poll where nothing is pushed.
    pub fn look(&self, names: Vec<TaskName>) {
        self.send(Command::Look(names));
    }

    /// A stamp for something that must come round again and again: a lane, a loop. One that is not touched for
    /// `stall_after` is named, and renewal of the session is withheld.
    pub fn stamp(&self, who: &str) -> Stamp {
        self.shared.watchdog.stamp(who, None)
    }

    /// As [`Handle::stamp`], with a way to tell which script it is stuck in.
    pub fn stamp_with(&self, who: &str, namer: StuckNamer) -> Stamp {
        self.shared.watchdog.stamp(who, Some(namer))
    }

    /// Claims nothing more; the worker's row says `draining`.
    pub fn begin_drain(&self) {
        self.send(Command::Drain);
    }

    /// After everything was released: waits until Redis has answered the releases (for a bounded time), closes the
    /// session and marks the worker's row offline. A second call returns at once.
    pub async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        self.send(Command::Close(closed));
        let _ = wait.await;
    }

    /// Ends everything as if the process had been killed: nothing is released or closed. For tests.
    #[doc(hidden)]
    pub fn abandon_for_test(&self) {
        self.send(Command::Abandon);
    }

    /// The worker's name, for people.
    #[must_use]
    pub fn worker_name(&self) -> &WorkerName {
        &self.shared.worker
    }

    /// What reads and writes this cluster's records.
    pub fn store(&self) -> Store {
        self.shared.store.clone()
    }

    /// Whether Redis answers on every connection that this crate has.
    pub fn redis_ready(&self) -> bool {
        self.links().all()
    }

    /// Which of this crate's connections to Redis answer, as last seen: nothing is sent.
    pub fn links(&self) -> Links {
        let connections = &self.shared.connections;
        Links {
            session: self.shared.vitals.answered.load(Ordering::Acquire),
            commands: connections.main.load(Ordering::Acquire),
            watch: connections.watch.load(Ordering::Acquire),
        }
    }

    fn send(&self, command: Command) {
        // After the end there is nothing left to ask for.
        let _ = self.shared.commands.send(command);
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("store", &self.shared.store).finish_non_exhaustive()
    }
}

/// Opens a session and starts to claim threads.
///
/// # Errors
/// [`Error::Refused`] when Redis refuses user, password or a needed command; [`Error::Unreachable`] when it has not
/// answered within 10 s; [`Error::Config`] when the configuration cannot be used.
pub async fn start(config: Config) -> Result<(Handle, mpsc::UnboundedReceiver<Event>), Error> {
    let deadline = Instant::now() + START_MAX;
    let worker = config.worker_name.clone();
    let (store, loader) = connect(&config, deadline).await?;

    let (suspects, suspected) = mpsc::unbounded_channel();
    let no_os_thread = |error: std::io::Error| Error::Config(format!("no OS thread can be started: {error}"));
    let watchdog = Watchdog::start(config.stall_after, config.on_hard_stop.clone(), suspects);
    let watchdog = Arc::new(watchdog.map_err(no_os_thread)?);
    let vitals = Arc::<Vitals>::default();
    // Peers may look at the session before the coordinator has come round for the first time.
    let closed =
        *config.admission.borrow() != Admission::Open || config.condition.borrow().critical.is_some();
    vitals.closed.store(closed, Ordering::Release);
    let (notify, mut notices) = mpsc::unbounded_channel();
    let session = SessionThread::start(&config, watchdog.clone(), suspected, vitals.clone(), notify);
    let session = session.map_err(no_os_thread)?;
    let (lease, tried) = match first_session(&mut notices, deadline).await {
        Ok(opened) => opened,
        Err(error) => {
            session.abandon();
            return Err(error);
        }
    };

    let (notify_watch, watched) = mpsc::unbounded_channel();
    tokio::spawn(watch::run(config.clone(), notify_watch));
    let (commands, asked) = mpsc::unbounded_channel();
    let (events, told) = mpsc::unbounded_channel();
    let connections = Arc::<Connections>::default();
    connections.main.store(true, Ordering::Release);
    let (publish, peers) = tokio::sync::watch::channel(Peers::default());
    let (tell_pushed, pushed) = tokio::sync::watch::channel(false);
    let poison = Arc::<poison::Poison>::default();
    let coordinator = run::Coordinator::new(run::Parts {
        stamp: watchdog.stamp("coordinator", None),
        config,
        store: store.clone(),
        session,
        vitals: vitals.clone(),
        connections: connections.clone(),
        events,
        peers: publish,
        pushed: tell_pushed,
        poison: poison.clone(),
        tried,
    });
    tokio::spawn(coordinator.run(lease, asked, notices, watched));
    let failures = Arc::new(endpoints::Failures::new());
    let shared = Shared {
        worker,
        store,
        commands,
        watchdog,
        vitals,
        connections,
        peers,
        pushed,
        failures,
        poison,
        _loader: loader,
    };
    Ok((Handle { shared: Arc::new(shared) }, told))
}

/// Connects the client that everything but the session and the watch goes over.
async fn connect(config: &Config, deadline: Instant) -> Result<(Store, session::Loader), Error> {
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(deadline, session::connect(config, config.timing().command_timeout())).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) if !error.may_pass() => return Err(error),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => return Err(Error::unreachable_within(START_MAX, &last)),
        }
        tokio::time::sleep(START_RETRY).await;
        if Instant::now() >= deadline {
            return Err(Error::unreachable_within(START_MAX, &last));
        }
    }
}

/// Waits for the first session. Gives the ids that were tried before it too.
async fn first_session(
    notices: &mut mpsc::UnboundedReceiver<session::Notice>,
    deadline: Instant,
) -> Result<(Lease, HashSet<SessionId>), Error> {
    let mut tried = HashSet::new();
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(deadline, notices.recv()).await {
            Ok(Some(session::Notice::Opened(lease))) => return Ok((lease, tried)),
            Ok(Some(session::Notice::Trying(id))) => {
                tried.insert(id);
            }
            Ok(Some(session::Notice::Failed(error))) if !error.may_pass() => return Err(error),
            Ok(Some(session::Notice::Failed(error))) => last = error.to_string(),
            Ok(Some(session::Notice::Lost(_) | session::Notice::Ended(_))) => {}
            Ok(None) => return Err(Error::NoSession),
            Err(_) => return Err(Error::unreachable_within(START_MAX, &last)),
        }
    }
}

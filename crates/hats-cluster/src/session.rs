//! The OS thread that opens this worker's session, keeps it alive, and opens the next one when it is lost.
//!
//! ```text
//!   ping ──answered──▶ open(fresh id) ──answered──▶ renew every R ──LOST · S passed──▶ given up ──▶ ping …
//!                        │ not answered in T: abandoned                                   │
//!                        ▼                                                                ▼
//!                 close, until answered                       close, once nothing runs under it, until answered
//! ```
//!
//! What must always hold:
//! * The OS thread, its runtime and its connection are its own: no script and no traffic of scripts can delay a renewal.
//! * `t0` is read before a renewal is sent. One that was not answered in time moves nothing.
//! * An id is tried once. Nothing runs, and nothing is claimed, under a session that was not answered.
//! * A session is closed only when nothing runs under it. Until then only a peer's bury can end it, and that waits for D.
//! * Redis may be away for as long as it likes: this comes back by itself, with a new client if the old one does not
//!   recover.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::ReconnectPolicy;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::clock::BootInstant;
use crate::config::Config;
use crate::error::Error;
use crate::id::SessionId;
use crate::keys::Keys;
use crate::lease::{Lease, Timing};
use crate::records::DeadSession;
use crate::store::{Burial, Load, Opened, Renewal, SessionInfo, Store};
use crate::watchdog::{Suspects, Watchdog};

/// Between tries while Redis does not answer.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_millis(300);
/// While no session can be opened, it is said once in so many tries.
const SAID_EVERY: u32 = 100;
/// How long an old client may take to say goodbye.
const QUIT_MAX: Duration = Duration::from_secs(1);
/// Between tries of a client to get its connection back. Short: a restart of Redis may take little less than S.
const RECONNECT_MS: u32 = 100;

/// What the session's OS thread tells the coordinator.
#[derive(Debug)]
pub(crate) enum Notice {
    /// An id is about to be tried: claims may never name it unless it is opened, but its hash may be there.
    Trying(SessionId),
    /// Opened: claims may be made under this lease.
    Opened(Lease),
    /// The lease is lost. The next session is being opened.
    Lost(Lease),
    /// A session of ours has ended, for certain.
    Ended(DeadSession),
    /// Redis does not let us open a session.
    Failed(Error),
}

/// What the rest of the worker shares with the session's OS thread without asking it.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// How many threads the worker owns.
    pub(crate) threads: AtomicU64,
    /// Whether it takes no more of them, for now or for good.
    pub(crate) closed: AtomicBool,
    /// Whether the last renewal was answered.
    pub(crate) answered: AtomicBool,
    /// Redis' clock minus the boot clock, in milliseconds, as of the last answer. 0 = never answered.
    server_offset_ms: AtomicI64,
}

impl Vitals {
    /// Redis' clock has shown this just now.
    pub(crate) fn server_said(&self, server_ms: u64) {
        let boot_ms = BootInstant::now().as_nanos() / 1_000_000;
        let offset = i64::try_from(server_ms).unwrap_or(0) - i64::try_from(boot_ms).unwrap_or(0);
        self.server_offset_ms.store(offset, Ordering::Relaxed);
    }

    /// What Redis' clock shows now, as far as can be told; 0 if it was never heard of.
    pub(crate) fn server_ms(&self, now: BootInstant) -> u64 {
        let offset = self.server_offset_ms.load(Ordering::Relaxed);
        let boot_ms = i64::try_from(now.as_nanos() / 1_000_000).unwrap_or(0);
        if offset == 0 { 0 } else { u64::try_from(boot_ms.saturating_add(offset)).unwrap_or(0) }
    }

    /// When Redis' clock will show `server_ms`, as far as can be told. In the past if it does already.
    pub(crate) fn boot_at(&self, server_ms: u64) -> BootInstant {
        let offset = self.server_offset_ms.load(Ordering::Relaxed);
        let boot_ms = i64::try_from(server_ms).unwrap_or(i64::MAX).saturating_sub(offset);
        BootInstant::from_nanos(u64::try_from(boot_ms).unwrap_or(0).saturating_mul(1_000_000))
    }
}

/// Talks to the session's OS thread.
pub(crate) struct SessionThread {
    close: mpsc::UnboundedSender<Close>,
}

/// How the session's OS thread is told to end.
enum Close {
    /// In good order; the sender is told when it is done.
    InOrder(oneshot::Sender<()>),
    /// As if the process had been killed: nothing is closed.
    Abandon,
}

impl SessionThread {
    /// One that is not there: for tests of the coordinator alone.
    #[cfg(test)]
    pub(crate) fn absent() -> Self {
        Self { close: mpsc::unbounded_channel().0 }
    }

    /// Starts the OS thread.
    pub(crate) fn start(
        config: &Config,
        watchdog: Arc<Watchdog>,
        suspects: mpsc::UnboundedReceiver<Suspects>,
        vitals: Arc<Vitals>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> std::io::Result<Self> {
        let (close, closing) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = config.clone();
        std::thread::Builder::new().name("hats-session".to_owned()).spawn(move || {
            let keeper = Keeper {
                timing: config.timing(),
                config,
                watchdog,
                vitals,
                notices,
                client: Slot::default(),
                newest_suspects: Arc::default(),
                loader: None,
                last_answer: BootInstant::now(),
            };
            runtime.block_on(keeper.run(Orders { closing, suspects }));
        })?;
        Ok(Self { close })
    }

    /// Closes the session, once nothing runs under it, and ends the OS thread. Resolves when Redis has answered, or
    /// when the OS thread has ended.
    pub(crate) async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        if self.close.send(Close::InOrder(closed)).is_ok() {
            let _ = wait.await;
        }
    }

    /// Stops renewing and closes nothing, as if the process had been killed.
    pub(crate) fn abandon(&self) {
        let _ = self.close.send(Close::Abandon);
    }
}

/// Runs on the session's OS thread.
struct Keeper {
    config: Config,
    timing: Timing,
    watchdog: Arc<Watchdog>,
    vitals: Arc<Vitals>,
    notices: mpsc::UnboundedSender<Notice>,
    client: Slot,
    newest_suspects: Arc<AtomicU64>,
    loader: Option<Loader>,
    last_answer: BootInstant,
}

/// Where the client is that is in use now. None: has to be made.
type Slot = Arc<Mutex<Option<Store>>>;

/// What the OS thread is told from outside, whatever it waits for.
struct Orders {
    closing: mpsc::UnboundedReceiver<Close>,
    /// Most of them come when the lease is lost already.
    suspects: mpsc::UnboundedReceiver<Suspects>,
}

/// Why a session is no longer renewed.
enum End {
    Lost,
    /// The worker stops. None: whoever could ask for it is gone.
    Close(Option<Close>),
}

impl Keeper {
    async fn run(mut self, mut orders: Orders) {
        loop {
            let lease = match self.open(&mut orders).await {
                Ok(lease) => lease,
                Err(end) => return end.answer(),
            };
            let id = lease.session().clone();
            self.say(move || info!(session = %id, "session opened"));
            self.watchdog.watch(lease.clone());
            self.tell(Notice::Opened(lease.clone()));
            match self.renew_until_end(&lease, &mut orders).await {
                End::Lost => {
                    lease.give_up();
                    self.vitals.answered.store(false, Ordering::Release);
                    self.tell(Notice::Lost(lease.clone()));
                    self.close_later(lease.session().clone(), Some(lease));
                }
                End::Close(Some(Close::Abandon)) => return,
                end @ End::Close(_) => {
                    self.close_now(&lease).await;
                    return end.answer();
                }
            }
        }
    }

    /// Opens a session, however long that takes.
    async fn open(&mut self, orders: &mut Orders) -> Result<Lease, End> {
        let mut pause = RETRY;
        let mut tries = 0;
        loop {
            match self.open_or_end(pause, orders).await? {
                Ok(lease) => return Ok(lease),
                Err(error) => {
                    // One failure is nothing to speak of: an old connection is found dead, say.
                    if tries % SAID_EVERY == 1 {
                        let error = error.clone();
                        self.say(move || warn!(%error, "no session can be opened, trying on"));
                    }
                    tries += 1;
                    self.tell(Notice::Failed(error));
                }
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One try, with a pause after it if it fails. Meanwhile suspects are written and the end is heeded.
    async fn open_or_end(
        &mut self,
        pause: Duration,
        orders: &mut Orders,
    ) -> Result<Result<Lease, Error>, End> {
        let writer = self.suspects_writer();
        let attempt = async {
            let opened = self.open_unless_withheld().await;
            if opened.is_err() {
                sleep(pause).await;
            }
            opened
        };
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                biased;
                close = orders.closing.recv() => return Err(End::Close(close)),
                Some(suspects) = orders.suspects.recv() => writer.write(suspects),
                opened = &mut attempt => return Ok(opened),
            }
        }
    }

    /// While something does not come round, nothing that would be claimed would be run.
    async fn open_unless_withheld(&mut self) -> Result<Lease, Error> {
        while self.watchdog.is_withheld() {
            sleep(RETRY).await;
        }
        self.try_open().await
    }

    async fn try_open(&mut self) -> Result<Lease, Error> {
        let store = self.client().await?;
        // An id is spent by trying it. While nobody answers, none is.
        let server_ms = self.answer(store.server_time()).await?;
        self.vitals.server_said(server_ms);
        let id = SessionId::random();
        self.tell(Notice::Trying(id.clone()));
        let info = SessionInfo {
            name: self.config.worker_name.clone(),
            version: self.config.version.clone(),
            lease: self.timing.lease(),
            capacity: self.config.capacity.clone(),
            ready: !self.vitals.closed.load(Ordering::Relaxed),
        };
        let t0 = BootInstant::now();
        let lease = match self.answer(store.open(&id, &info)).await {
            Ok(Opened::Opened { server_ms }) => {
                self.vitals.server_said(server_ms);
                Lease::opened(id, self.timing, t0)
            }
            Ok(Opened::Exists) => return Err(Error::Protocol(format!("session {id} exists already"))),
            Err(error) => {
                // It may have been opened all the same. Nothing will ever run under it.
                self.close_later(id, None);
                return Err(error);
            }
        };
        self.enter_index(&lease);
        Ok(lease)
    }

    /// Enters the session into the index, until that is answered: peers find it there.
    fn enter_index(&self, lease: &Lease) {
        let Some(store) = current(&self.client) else { return };
        let lease = lease.clone();
        let limit = self.timing.command_timeout();
        tokio::spawn(async move {
            while lease.is_trusted() {
                if let Ok(Ok(())) = timeout(limit, store.enter_index(&[lease.session().clone()])).await {
                    return;
                }
                sleep(RETRY).await;
            }
        });
    }

    async fn renew_until_end(&mut self, lease: &Lease, orders: &mut Orders) -> End {
        self.vitals.answered.store(true, Ordering::Release);
        let mut failing_since: Option<BootInstant> = None;
        let mut pause = self.until_next_renewal();
        loop {
            tokio::select! {
                biased;
                close = orders.closing.recv() => return End::Close(close),
                () = lease.lost() => return End::Lost,
                Some(suspects) = orders.suspects.recv() => {
                    self.suspects_writer().write(suspects);
                    continue;
                }
                () = sleep(pause) => {}
            }
            if self.watchdog.is_withheld() {
                pause = RETRY;
                continue;
            }
            match self.renew(lease).await {
                Ok(Renewal::Renewed { server_ms, .. }) => {
                    self.vitals.server_said(server_ms);
                    self.vitals.answered.store(true, Ordering::Release);
                    if let Some(since) = failing_since.take() {
                        let after = BootInstant::now().saturating_duration_since(since);
                        self.say(move || info!(elapsed = ?after, "the session is renewed again"));
                    }
                    pause = self.until_next_renewal();
                }
                Ok(Renewal::Lost) => {
                    let id = lease.session().clone();
                    self.say(move || warn!(session = %id, "the session is dead or gone"));
                    return End::Lost;
                }
                Err(error) => {
                    if failing_since.is_none() {
                        self.say(move || warn!(%error, "the session could not be renewed, trying on"));
                    }
                    failing_since.get_or_insert_with(BootInstant::now);
                    self.vitals.answered.store(false, Ordering::Release);
                    pause = RETRY;
                }
            }
        }
    }

    /// One renewal. The lease moves only if it was answered in time.
    async fn renew(&mut self, lease: &Lease) -> Result<Renewal, Error> {
        let store = self.client().await?;
        let load = Load {
            threads: self.vitals.threads.load(Ordering::Relaxed),
            ready: !self.vitals.closed.load(Ordering::Relaxed),
        };
        let t0 = BootInstant::now();
        let answer = self.answer(store.renew(lease.session(), load)).await;
        match &answer {
            Ok(_) => {
                crate::metrics::RENEW.record(BootInstant::now().saturating_duration_since(t0).as_secs_f64())
            }
            Err(_) => crate::metrics::RENEW_FAILED.increment(1),
        }
        let renewal = answer?;
        if matches!(renewal, Renewal::Renewed { .. }) && !lease.renewed(t0) {
            // It was answered after the soft stop: nothing un-stops.
            return Ok(Renewal::Lost);
        }
        Ok(renewal)
    }

    /// R, give or take a tenth, so that workers do not renew in step.
    fn until_next_renewal(&self) -> Duration {
        let mut byte = [128_u8];
        let _ = getrandom::fill(&mut byte);
        self.timing.renew_every().mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
    }

    fn suspects_writer(&self) -> SuspectsWriter {
        let timing = self.timing;
        let newest = self.newest_suspects.clone();
        SuspectsWriter { newest, client: self.client.clone(), timing, watchdog: self.watchdog.clone() }
    }

    /// Closes a session in the background once nothing runs under it, until that is answered.
    fn close_later(&self, session: SessionId, lease: Option<Lease>) {
        let (slot, notices) = (self.client.clone(), self.notices.clone());
        let limit = self.timing.command_timeout();
        tokio::spawn(async move {
            while lease.as_ref().is_some_and(|lease| !lease.is_idle()) {
                sleep(Duration::from_millis(10)).await;
            }
            close_until_answered(&slot, &session, limit, &notices).await;
        });
    }

    async fn close_now(&mut self, lease: &Lease) {
        lease.give_up();
        let closing = async {
            while !lease.is_idle() {
                sleep(Duration::from_millis(10)).await;
            }
            let limit = self.timing.command_timeout();
            close_until_answered(&self.client, lease.session(), limit, &self.notices).await;
        };
        if timeout(self.config.close_timeout, closing).await.is_err() {
            warn!(session = %lease.session(), "the session could not be closed: peers will bury it");
        }
    }

    /// The client, made anew if there is none or if it has had no answer for half of S: a connection may be dead without
    /// anybody having been told, and what is left until S is for the new one.
    async fn client(&mut self) -> Result<Store, Error> {
        let now = BootInstant::now();
        if now.saturating_duration_since(self.last_answer) > self.timing.soft_stop() / 2 {
            self.loader = None;
            if let Some(store) = lock(&self.client).take() {
                tokio::spawn(async move {
                    let _ = timeout(QUIT_MAX, store.client().quit()).await;
                });
            }
            self.last_answer = now;
        }
        if let Some(store) = current(&self.client) {
            return Ok(store);
        }
        let (store, loader) = connect(&self.config, self.timing.command_timeout()).await?;
        *lock(&self.client) = Some(store.clone());
        self.loader = Some(loader);
        self.last_answer = BootInstant::now();
        Ok(store)
    }

    /// Waits for an answer, for T at most, whatever the client thinks of timeouts.
    async fn answer<T>(&mut self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.timing.command_timeout();
        let answer = timeout(limit, asked).await.unwrap_or(Err(Error::Timeout));
        if !matches!(answer, Err(Error::Timeout | Error::Unreachable(_))) {
            self.last_answer = BootInstant::now();
        }
        answer
    }

    fn tell(&self, notice: Notice) {
        // Nobody listens any more when the worker stops.
        let _ = self.notices.send(notice);
    }

    /// Writing a log line may wait for its reader, and a renewal may not.
    fn say(&self, line: impl FnOnce() + Send + 'static) {
        self.watchdog.say(line);
    }
}

/// Writes down which tasks stall a session.
struct SuspectsWriter {
    /// Counts what was to be written: what is older than the newest is not written late.
    newest: Arc<AtomicU64>,
    client: Slot,
    timing: Timing,
    watchdog: Arc<Watchdog>,
}

impl SuspectsWriter {
    /// Tries for as long as the session can matter.
    fn write(&self, suspects: Suspects) {
        let (client, limit) = (self.client.clone(), self.timing.command_timeout());
        let (lease, watchdog) = (self.timing.lease(), self.watchdog.clone());
        let newest = self.newest.clone();
        let this = newest.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(async move {
            let written = async {
                while newest.load(Ordering::Relaxed) == this {
                    if let Some(store) = current(&client)
                        && let Ok(Ok(())) =
                            timeout(limit, store.suspect(&suspects.session, &suspects.suspects)).await
                    {
                        return;
                    }
                    sleep(RETRY).await;
                }
            };
            if timeout(lease, written).await.is_err() {
                let id = suspects.session;
                watchdog.say(move || warn!(session = %id, "the tasks that stall it could not be written down: its end will count against none"));
            }
        });
    }
}

impl End {
    fn answer(self) {
        if let Self::Close(Some(Close::InOrder(closed))) = self {
            let _ = closed.send(());
        }
    }
}

async fn close_until_answered(
    slot: &Slot,
    session: &SessionId,
    limit: Duration,
    notices: &mpsc::UnboundedSender<Notice>,
) {
    loop {
        if let Some(store) = current(slot)
            && let Some(dead) = close(&store, session, limit).await
        {
            let _ = notices.send(Notice::Ended(dead));
            return;
        }
        if notices.is_closed() {
            return;
        }
        sleep(RETRY * 2).await;
    }
}

/// Closes a session and tells how it ended: it may have been dead or gone before. None: not answered.
async fn close(store: &Store, session: &SessionId, limit: Duration) -> Option<DeadSession> {
    timeout(limit, store.close(session)).await.ok()?.ok()?;
    // Bury changes nothing about a dead session and says how it ended.
    match timeout(limit, store.bury(session, 0, 0)).await.ok()?.ok()? {
        Burial::Gone => Some(DeadSession::gone(session.clone())),
        Burial::AlreadyDead(dead) | Burial::Buried(dead) => Some(dead),
        Burial::Moved { .. } | Burial::NotYet { .. } => None,
    }
}

fn current(slot: &Slot) -> Option<Store> {
    lock(slot).clone()
}

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Store>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a client, connects it and loads our scripts. The client stops loading them when the loader is dropped.
pub(crate) async fn connect(config: &Config, command_timeout: Duration) -> Result<(Store, Loader), Error> {
    let mut builder = config.builder(command_timeout)?;
    builder.set_policy(ReconnectPolicy::new_constant(0, RECONNECT_MS));
    let client = init(builder.build()?, config.connect_timeout()).await?;
    let store = Store::new(client, Keys::new(config.cluster.clone()));
    let loader = Loader::start(&store);
    Ok((store, loader))
}

/// Connects a client, within `limit`.
pub(crate) async fn init(client: Client, limit: Duration) -> Result<Client, Error> {
    let error = match timeout(limit, client.init()).await {
        Ok(Ok(_)) => return Ok(client),
        Ok(Err(error)) => error.into(),
        Err(_) => Error::Timeout,
    };
    // One that is just dropped tries on for ever.
    let _ = timeout(QUIT_MAX, client.quit()).await;
    Err(error)
}

/// Loads our scripts now and after every reconnect, until it is dropped. What is missing in spite of that is sent whole.
#[derive(Debug)]
pub(crate) struct Loader(AbortHandle);

impl Loader {
    fn start(store: &Store) -> Self {
        let mut reconnects = store.client().reconnect_rx();
        let store = store.clone();
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = store.load_scripts().await {
                    tracing::debug!(%error, "scripts are not loaded: each is sent whole once");
                }
                if let Err(RecvError::Closed) = reconnects.recv().await {
                    return;
                }
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

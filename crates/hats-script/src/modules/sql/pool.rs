//! The connections to one database, which all scripts of the worker share.
//!
//! What must hold:
//! - There are never more of them than the pool's size, but for those that are just being closed.
//! - A connection comes back into the pool only if nothing was done over it that lasts, by what the statements say:
//!   functions of the database that change a session are its own affair.
//! - A wait for a connection, and the making of one, end in time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::server::{Failure, Server};

/// A script waits no longer for others to give back a connection.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// To make a connection takes no longer, unless the DSN says so.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that nobody has used for so long is closed;
const IDLE_MAX: Duration = Duration::from_secs(300);
/// and sooner if no script has the database open.
const IDLE_UNOPENED_MAX: Duration = Duration::from_secs(60);
/// Connections are made anew after this, so that a database that has moved is found.
const AGE_MAX: Duration = Duration::from_secs(1800);
/// Time to say goodbye, and to have the server end a statement.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections to one database.
pub(super) struct Pool<S: Server> {
    pub(super) server: S,
    size: usize,
    connect_timeout: Duration,
    /// One permit for each connection that may exist. Waiters are served in order.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle<S::Connection>>>,
    in_transactions: AtomicUsize,
    io: runtime::Handle,
}

struct Idle<C> {
    connection: C,
    born: Instant,
    since: Instant,
}

/// One connection, for as long as this lives. If it is not given back it is closed.
pub(super) struct Lease<S: Server> {
    // Some until it is given back or closed.
    connection: Option<S::Connection>,
    born: Instant,
    permit: Option<OwnedSemaphorePermit>,
    pool: Arc<Pool<S>>,
    /// A statement is under way.
    pub(super) is_busy: bool,
}

/// Counts an open transaction.
pub(super) struct Transaction<S: Server>(Arc<Pool<S>>);

impl<S: Server> Pool<S> {
    pub(super) fn new(
        server: S,
        size: usize,
        connect_timeout: Option<Duration>,
        io: runtime::Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            size,
            connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            in_transactions: AtomicUsize::new(0),
            io,
        })
    }

    /// A connection, in turn.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Lease<S>, Failure> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(Failure::Refused(self.all_in_use())) };
        let mut permit = Some(permit);
        while let Some(Idle { connection, born, .. }) = self.pop_idle() {
            let lease = self.lease(connection, born, permit.take());
            if lease.is_reusable() {
                return Ok(lease);
            }
            permit = lease.into_permit();
        }
        self.connect(permit).await
    }

    async fn connect(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Result<Lease<S>, Failure> {
        let connected = tokio::time::timeout(self.connect_timeout, self.server.connect()).await;
        let connection = connected.unwrap_or_else(|_| {
            let message = format!("no connection to the database within {:?}", self.connect_timeout);
            Err(Failure::Connection(message))
        })?;
        Ok(self.lease(connection, Instant::now(), permit))
    }

    fn lease(
        self: &Arc<Self>,
        connection: S::Connection,
        born: Instant,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Lease<S> {
        Lease { connection: Some(connection), born, permit, pool: self.clone(), is_busy: false }
    }

    fn all_in_use(&self) -> String {
        let (size, held) = (self.size, self.in_transactions.load(Ordering::Relaxed));
        format!(
            "all {size} connections of this worker to the database have been in use for {TURN_TIMEOUT:?}, {held} of \
             them by open transactions (--sql-connections)"
        )
    }

    /// Closes what nobody has used for long. True if the pool could go: it has no connections, and nobody has it.
    pub(super) fn sweep(self: &Arc<Self>) -> bool {
        // The registry has one, this call another.
        let is_unopened = Arc::strong_count(self) <= 2;
        let idle_max = if is_unopened { IDLE_UNOPENED_MAX } else { IDLE_MAX };
        let old: Vec<_> = {
            let mut idle = self.idle();
            let is_old = |idle: &mut Idle<S::Connection>| {
                idle.since.elapsed() > idle_max || !self.server.is_sound(&idle.connection)
            };
            idle.extract_if(.., is_old).collect()
        };
        let is_empty = old.is_empty() && self.idle().is_empty();
        self.close_idle(old);
        is_unopened && is_empty
    }

    /// Closes all that is not in use.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        let goodbye = async {
            for idle in idle {
                self.server.close(idle.connection).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, goodbye).await;
    }

    fn close_idle(self: &Arc<Self>, idle: Vec<Idle<S::Connection>>) {
        for idle in idle {
            let pool = self.clone();
            self.io.spawn(async move {
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, pool.server.close(idle.connection)).await;
            });
        }
    }

    /// The one that was used last: those that are not needed grow old.
    fn pop_idle(&self) -> Option<Idle<S::Connection>> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<S::Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Server> Lease<S> {
    pub(super) fn connection(&mut self) -> Result<&mut S::Connection, Failure> {
        // None only once it is given back, which takes the lease.
        self.connection.as_mut().ok_or_else(|| Failure::Connection("the connection is closed".to_owned()))
    }

    pub(super) fn pool(&self) -> &Arc<Pool<S>> {
        &self.pool
    }

    /// Whether the connection is in a transaction, where that can be asked.
    pub(super) fn in_transaction(&self) -> Option<bool> {
        self.connection.as_ref().and_then(|connection| self.pool.server.in_transaction(connection))
    }

    /// Takes back what a statement may have left behind. False if the connection is not to be used again.
    pub(super) async fn tidy(&mut self) -> bool {
        let pool = self.pool.clone();
        let Some(connection) = &mut self.connection else { return false };
        tokio::time::timeout(FAREWELL_TIMEOUT, pool.server.tidy(connection)).await.unwrap_or(false)
    }

    /// Counts the transaction that has begun.
    pub(super) fn begin(&self) -> Transaction<S> {
        self.pool.in_transactions.fetch_add(1, Ordering::Relaxed);
        Transaction(self.pool.clone())
    }

    /// For the next one, if it is still good.
    pub(super) fn give_back(mut self) {
        if !self.is_reusable() {
            return;
        }
        if let Some(connection) = self.connection.take() {
            let idle = Idle { connection, born: self.born, since: Instant::now() };
            self.pool.idle().push(idle);
        }
    }

    fn is_reusable(&self) -> bool {
        let is_sound =
            self.connection.as_ref().is_some_and(|connection| self.pool.server.is_sound(connection));
        let is_young = self.pool.server.is_private() || self.born.elapsed() < AGE_MAX;
        is_sound && is_young && !self.is_busy
    }

    /// Closes the connection and keeps the leave to have one.
    fn into_permit(mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
    }
}

impl<S: Server> Drop for Lease<S> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let (pool, permit, born, is_busy) = (self.pool.clone(), self.permit.take(), self.born, self.is_busy);
        self.pool.io.spawn(async move {
            let farewell = async {
                if !is_busy {
                    pool.server.close(connection).await;
                } else if let Some(connection) = pool.server.abandon(connection).await {
                    pool.idle().push(Idle { connection, born, since: Instant::now() });
                }
            };
            // What belongs to one handle is waited for, or the database in it would be gone.
            if pool.server.is_private() {
                farewell.await;
            } else {
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
            }
            // Not before: whoever has it next finds the connection.
            drop(permit);
        });
    }
}

impl<S: Server> Drop for Transaction<S> {
    fn drop(&mut self) {
        self.0.in_transactions.fetch_sub(1, Ordering::Relaxed);
    }
}

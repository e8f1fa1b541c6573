//! A database as one script has it open: which connection its statements go over.
//!
//! ```text
//!            BEGIN                        COMMIT, ROLLBACK
//!  Nothing ────────► Transaction ─────────────────────────────► Nothing
//!     ▲                   │  the connection breaks, the call is interrupted,
//!     │                   ▼  the database rolls back by itself
//!     └──── ROLLBACK ── Gone
//! ```
//!
//! What must hold:
//! - Outside a transaction each statement takes a connection that any other may have had before, and may have next.
//! - Between `BEGIN` and its end all statements go over one connection, which nobody else has.
//! - Nothing that a script means to do in a transaction is done outside of one because the transaction was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::pool::{Lease, Pool, Transaction};
use super::server::{Action, Failure, Outcome, Request, Server};
use super::statement::{Dialect, Effect};
use crate::host::{BoxFuture, TaskControl};

/// A statement that takes longer than this makes us ask whether the server is there.
const PROBE_AFTER: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(30) };
/// The lease is looked at this often while a statement runs, whatever it says of its end.
const LEASE_LOOK: Duration = Duration::from_secs(1);

const NO_TRANSACTION: &str = "there is no transaction: BEGIN comes first";
const GONE: &str = "the transaction is gone, and nothing of it was kept: ROLLBACK before anything else";
pub(super) const CLOSED: &str = "the database is closed";

/// A database that is open, whichever it is.
pub(super) trait Database: Send + Sync {
    /// How its statements are read.
    fn dialect(&self) -> Dialect;

    /// Runs a statement. One at a time: the next one waits.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the statement is ended on the server too, and the transaction it was in is rolled back.
    fn run(self: Arc<Self>, request: Arc<Request>) -> BoxFuture<Result<Outcome, Failure>>;

    /// Rolls back what is open, and lets nothing more through.
    fn close(self: Arc<Self>) -> BoxFuture<()>;
}

pub(super) struct Session<S: Server> {
    pool: Arc<Pool<S>>,
    held: Mutex<Held<S>>,
}

enum Held<S: Server> {
    Nothing,
    Transaction(Open<S>),
    Gone,
    Closed,
}

struct Open<S: Server> {
    lease: Lease<S>,
    // For the pool's count.
    _counted: Transaction<S>,
    /// Something was done that outlasts the transaction.
    is_spoiled: bool,
    /// A statement has failed, and the database accepts nothing more.
    has_failed: bool,
}

impl<S: Server> Session<S> {
    pub(super) fn new(pool: Arc<Pool<S>>) -> Arc<Self> {
        Arc::new(Self { pool, held: Mutex::new(Held::Nothing) })
    }

    async fn outside(&self, held: &mut Held<S>, request: &Arc<Request>) -> Result<Outcome, Failure> {
        let effect = request.statement.effect;
        match effect {
            Effect::End { .. } | Effect::InTransaction { .. } => {
                return Err(Failure::Refused(NO_TRANSACTION.to_owned()));
            }
            Effect::Session(instead) if !self.pool.server.is_private() => {
                let message = format!("this would last longer than the statement: {instead}");
                return Err(Failure::Refused(message));
            }
            _ => {}
        }
        let mut lease = self.pool.acquire().await?;
        let result = run_on(&mut lease, request).await;
        match (&result, effect) {
            (Ok(_), Effect::Begin { .. }) => {
                let counted = lease.begin();
                *held = Held::Transaction(Open {
                    lease,
                    _counted: counted,
                    is_spoiled: false,
                    has_failed: false,
                });
            }
            (Ok(_) | Err(Failure::Refused(_) | Failure::Statement(_) | Failure::RolledBack(_)), _) => {
                if effect != Effect::Calls || lease.tidy().await {
                    lease.give_back();
                }
            }
            // The connection is closed with the lease.
            (Err(Failure::Connection(_) | Failure::Lost), _) => {}
        }
        result
    }

    /// Inside a transaction; `held` says that it is gone unless that is taken back here.
    async fn inside(
        &self,
        held: &mut Held<S>,
        mut open: Open<S>,
        request: &Arc<Request>,
    ) -> Result<Outcome, Failure> {
        let effect = request.statement.effect;
        if let Effect::Begin { .. } = effect {
            *held = Held::Transaction(open);
            return Err(Failure::Refused(
                "there is a transaction already: COMMIT or ROLLBACK comes first".to_owned(),
            ));
        }
        let result = run_on(&mut open.lease, request).await;
        match &result {
            Ok(_) => {}
            // Nothing was sent.
            Err(Failure::Refused(_)) => {
                *held = Held::Transaction(open);
                return result;
            }
            Err(Failure::Statement(message)) => {
                if open.lease.in_transaction() == Some(false) {
                    open.lease.give_back();
                    return Err(Failure::RolledBack(format!("{message}; {GONE}")));
                }
            }
            Err(Failure::RolledBack(message)) => {
                open.lease.give_back();
                return Err(Failure::RolledBack(format!("{message}; {GONE}")));
            }
            Err(Failure::Connection(message)) => {
                let Effect::End { commits, .. } = effect else {
                    return Err(Failure::Connection(format!("{message}; {GONE}")));
                };
                *held = Held::Nothing;
                if !commits {
                    return Ok(Outcome::nothing(request));
                }
                let unknown = "whether the transaction was committed is not known";
                return Err(Failure::Connection(format!("{message}; {unknown}")));
            }
            Err(Failure::Lost) => return result,
        }
        let went_well = result.is_ok();
        match effect {
            Effect::End { spoils, commits } => {
                let still_in = open.lease.in_transaction().unwrap_or(false);
                if still_in {
                    *held = Held::Transaction(open);
                    return result;
                }
                *held = Held::Nothing;
                if went_well && !open.is_spoiled && !spoils {
                    open.lease.give_back();
                }
                if went_well && commits && open.has_failed {
                    let message = "a statement of the transaction had failed, so it was rolled back";
                    return Err(Failure::Statement(message.to_owned()));
                }
                return result;
            }
            Effect::InTransaction { recovers: true } if went_well => open.has_failed = false,
            Effect::Session(_) | Effect::Calls => open.is_spoiled = !self.pool.server.is_private(),
            _ => {}
        }
        open.has_failed |= !went_well && self.pool.server.errors_end_transactions();
        *held = Held::Transaction(open);
        result
    }
}

impl<S: Server> Database for Session<S> {
    fn dialect(&self) -> Dialect {
        self.pool.server.dialect()
    }

    fn run(self: Arc<Self>, request: Arc<Request>) -> BoxFuture<Result<Outcome, Failure>> {
        Box::pin(async move {
            if let Effect::Refused(why) = request.statement.effect {
                return Err(Failure::Refused(why.to_owned()));
            }
            let mut held = self.held.lock().await;
            // What is left if this ends in the middle.
            match std::mem::replace(&mut *held, Held::Gone) {
                Held::Nothing => {
                    *held = Held::Nothing;
                    self.outside(&mut held, &request).await
                }
                Held::Transaction(open) => self.inside(&mut held, open, &request).await,
                Held::Gone if request.action == Action::Ping => {
                    self.outside(&mut Held::Nothing, &request).await
                }
                Held::Gone => match request.statement.effect {
                    Effect::End { commits, .. } => {
                        *held = Held::Nothing;
                        if commits {
                            Err(Failure::Refused(GONE.to_owned()))
                        } else {
                            Ok(Outcome::nothing(&request))
                        }
                    }
                    _ => Err(Failure::Refused(GONE.to_owned())),
                },
                Held::Closed => {
                    *held = Held::Closed;
                    Err(Failure::Refused(CLOSED.to_owned()))
                }
            }
        })
    }

    fn close(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            // A transaction is closed with its lease.
            *self.held.lock().await = Held::Closed;
        })
    }
}

/// Runs a statement, for as long as the lease lasts and the server is there.
async fn run_on<S: Server>(lease: &mut Lease<S>, request: &Arc<Request>) -> Result<Outcome, Failure> {
    request.gate()?;
    let pool = lease.pool().clone();
    lease.is_busy = true;
    let result = {
        let connection = lease.connection()?;
        let mut running = std::pin::pin!(pool.server.run(connection, request));
        let mut lease_end = std::pin::pin!(end_of_lease(request.passed.control().as_ref()));
        let mut timeout = std::pin::pin!(until(pool.server.statement_timeout()));
        loop {
            let probe = async {
                tokio::time::sleep(PROBE_AFTER).await;
                pool.server.is_alive().await
            };
            tokio::select! {
                biased;
                result = &mut running => break result,
                () = &mut lease_end => return Err(Failure::Lost),
                limit = &mut timeout => {
                    let message = format!("the statement took longer than its limit of {limit:?}");
                    return Err(Failure::Connection(message));
                }
                is_alive = probe => if !is_alive {
                    return Err(Failure::Connection("the database does not answer any more".to_owned()));
                },
            }
        }
    };
    lease.is_busy = false;
    result
}

async fn end_of_lease(control: &dyn TaskControl) {
    loop {
        let left = control.trusted_for();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LEASE_LOOK)).await;
    }
}

/// Waits for as long as it says, and says how long that was; for ever if there is no limit.
async fn until(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

impl Outcome {
    /// What comes of a statement that there was no need to send.
    pub(super) fn nothing(request: &Request) -> Self {
        match request.action {
            Action::Query => Self::Rows(Default::default()),
            Action::Exec | Action::Ping => Self::Count(0),
        }
    }
}

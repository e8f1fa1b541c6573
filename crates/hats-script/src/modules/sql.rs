//! `sql`: databases, as synchronous calls.
//!
//! ```text
//!  script ── Db (an object of the script's) ── Session ── Pool ── Server (mysql, postgres, sqlite)
//!            lane                              │ I/O runtime
//! ```
//!
//! A script has a session for each `sql.New`; sessions of one DSN share a pool of connections. All I/O happens on
//! the I/O runtime, and a lane only awaits what comes of it.
//!
//! What must hold:
//! - A statement passes the lease gate before it is handed over, and again when it has its connection.
//! - A statement ends with the call that waits for it: with its time limit, an interrupt, the loss of the lease.
//! - No password is in an error or in a log.

mod calendar;
mod dsn;
mod mysql;
mod pool;
mod postgres;
mod relay;
mod server;
mod session;
mod sqlite;
mod statement;
mod tls;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hats_arena::leaf::{ErrorKind, define, throw};
use hats_arena::{Native, define_accessor, new_token};
use rquickjs::{Ctx, IntoJs, Object, Value};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot};

use self::dsn::{Sqlite, Target};
use self::mysql::MySqlServer;
use self::pool::Pool;
use self::postgres::PostgresServer;
use self::server::{Action, Failure, Outcome, Request, Server};
use self::session::{Database, Session};
use self::sqlite::{Folder, SqliteServer};
use self::statement::{Dialect, Statement};
use super::{Call, console, function, native};
use crate::egress::Egress;
use crate::host::BoxFuture;
use crate::metrics::{SqlCalls, SqlDatabase, SqlFailure};
use crate::vm::Host;

/// Databases that one script may have open.
const DATABASES_MAX: u32 = 64;
/// How many of them may be in memory: each may be as large as the script's heap.
const MEMORY_DATABASES_MAX: u32 = 4;
/// So many pools are kept before those that nobody needs are looked for at once.
const POOLS_MIN: usize = 64;
/// How often connections that nobody uses are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const PING: &str = "SELECT 1";

/// What scripts may do with databases.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder below which SQLite files may be. None: there are only databases in memory. Default none.
    pub sqlite_dir: Option<PathBuf>,
    /// Connections that the worker may have to one database. Default 16.
    pub connections: NonZeroUsize,
    /// Which servers may be reached.
    pub egress: Egress,
}

/// The databases that the scripts of a worker have open. Cheap to clone.
#[derive(Clone)]
pub struct Databases {
    shared: Arc<Shared>,
}

/// The folder for SQLite files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct Error {
    path: PathBuf,
    source: std::io::Error,
}

struct Shared {
    folder: Folder,
    connections: usize,
    egress: Arc<Egress>,
    sqlite_at_once: Arc<Semaphore>,
    pools: Mutex<Pools>,
    calls: Arc<SqlCalls>,
}

#[derive(Default)]
struct Pools {
    open: HashMap<Target, Arc<dyn AnyPool>>,
    /// With so many of them, those that nobody needs go before there is another one.
    enough: usize,
    /// A task looks after them.
    is_swept: bool,
}

/// A pool, whichever its database.
trait AnyPool: Send + Sync {
    fn session(self: Arc<Self>) -> Arc<dyn Database>;
    /// True if it can go.
    fn sweep(self: Arc<Self>) -> bool;
    fn close(self: Arc<Self>) -> BoxFuture<()>;
}

impl<S: Server> AnyPool for Pool<S> {
    fn session(self: Arc<Self>) -> Arc<dyn Database> {
        Session::new(self)
    }

    fn sweep(self: Arc<Self>) -> bool {
        Pool::sweep(&self)
    }

    fn close(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move { Pool::close(&self).await })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sqlite_dir: None,
            connections: NonZeroUsize::MIN.saturating_add(15),
            egress: Egress::default(),
        }
    }
}

impl Databases {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// When the folder for SQLite files is not there.
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config { sqlite_dir, connections, egress } = config;
        let folder = Folder::new(sqlite_dir.as_deref())
            .map_err(|source| Error { path: sqlite_dir.unwrap_or_default(), source })?;
        Ok(Self {
            shared: Arc::new(Shared {
                folder,
                connections: connections.get(),
                egress: Arc::new(egress),
                sqlite_at_once: SqliteServer::at_once(),
                pools: Mutex::default(),
                calls: SqlCalls::new(),
            }),
        })
    }

    pub(crate) fn calls(&self) -> &Arc<SqlCalls> {
        &self.shared.calls
    }

    /// Closes the connections that no script uses.
    pub async fn close(&self) {
        let pools: Vec<_> = self.shared.pools().open.drain().map(|(_, pool)| pool).collect();
        for pool in pools {
            pool.close().await;
        }
    }

    /// Opens a database. To connect is left to the first statement.
    fn open(
        &self,
        target: Target,
        memory_max: usize,
        io: &runtime::Handle,
    ) -> Result<Arc<dyn Database>, String> {
        let shared = &self.shared;
        let (size, at_once) = (shared.connections, shared.sqlite_at_once.clone());
        if target == Target::Sqlite(Sqlite::Memory) {
            let server = SqliteServer::memory(memory_max, at_once);
            return Ok(Pool::new(server, 1, None, io.clone()).session());
        }
        let mut pools = shared.pools();
        if let Some(pool) = pools.open.get(&target) {
            return Ok(pool.clone().session());
        }
        let pool: Arc<dyn AnyPool> = match &target {
            Target::MySql(mysql) => {
                let server = MySqlServer::new(mysql.clone(), shared.egress.clone());
                Pool::new(server, size, mysql.login.connect_timeout, io.clone())
            }
            Target::Postgres(postgres) => {
                let server = PostgresServer::new(postgres.clone(), shared.egress.clone());
                Pool::new(server, size, postgres.login.connect_timeout, io.clone())
            }
            Target::Sqlite(Sqlite::File { path, mode }) => {
                let server = SqliteServer::file(&shared.folder, path, *mode, at_once)?;
                Pool::new(server, size, None, io.clone())
            }
            Target::Sqlite(Sqlite::Memory) => return Err("opened above".to_owned()),
        };
        if pools.open.len() >= pools.enough.max(POOLS_MIN) {
            pools.sweep();
            // Half of them are needed at least, or it takes as many new ones until the next look.
            pools.enough = 2 * pools.open.len();
        }
        pools.open.insert(target, pool.clone());
        if !std::mem::replace(&mut pools.is_swept, true) {
            io.spawn(sweep(Arc::downgrade(shared)));
        }
        Ok(pool.session())
    }
}

impl Shared {
    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pools {
    /// Closes connections that nobody has used for long, and forgets the pools that nobody has.
    fn sweep(&mut self) {
        // Counted where nobody can open one meanwhile.
        self.open.retain(|_, pool| {
            let is_unopened = Arc::strong_count(pool) == 1;
            !(pool.clone().sweep() && is_unopened)
        });
    }
}

/// Closes what nobody uses, for as long as anything is open. Ends by itself with the databases.
async fn sweep(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut pools = shared.pools();
        pools.sweep();
        if pools.open.is_empty() {
            pools.is_swept = false;
            return;
        }
    }
}

/// A database of a script's.
pub(crate) struct Db {
    state: RefCell<State>,
    /// `db.Error`: why the last call failed, if it did.
    error: RefCell<Option<String>>,
    io: runtime::Handle,
}

enum State {
    Open {
        database: Arc<dyn Database>,
        _counted: Counted,
    },
    /// It could not be opened; every call says why.
    Unusable(String),
    Closed,
}

/// How many databases a script has open.
#[derive(Default)]
pub(crate) struct Opened {
    all: Cell<u32>,
    in_memory: Cell<u32>,
}

/// One of them.
struct Counted {
    opened: Rc<Opened>,
    is_memory: bool,
}

impl Opened {
    fn count(self: &Rc<Self>, is_memory: bool) -> Result<Counted, String> {
        if is_memory && self.in_memory.get() >= MEMORY_DATABASES_MAX {
            return Err(format!(
                "a script may have {MEMORY_DATABASES_MAX} databases in memory open at once: close one of them"
            ));
        }
        if self.all.get() >= DATABASES_MAX {
            return Err(format!(
                "a script may have {DATABASES_MAX} databases open at once: close one of them"
            ));
        }
        self.all.update(|n| n + 1);
        self.in_memory.update(|n| n + u32::from(is_memory));
        Ok(Counted { opened: self.clone(), is_memory })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.opened.all.update(|n| n - 1);
        self.opened.in_memory.update(|n| n - u32::from(self.is_memory));
    }
}

/// What `sql` is.
pub(super) fn made<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let methods = Methods {
        ping: method(ctx, "db.Ping", host, ping)?,
        close: method(ctx, "db.Close", host, close)?,
        query: method(ctx, "db.Query", host, query)?,
        exec: method(ctx, "db.Exec", host, exec)?,
        error: method(ctx, "db.Error", host, |_, db, call| db.error.borrow().clone().into_js(call.ctx))?,
    };
    let sql = Object::new(ctx.clone())?;
    let new = function(ctx, "sql.New", host, move |host, call| new(host, call, methods))?;
    define(&sql, "New", new)?;
    Ok(sql)
}

/// What the functions of all databases are made of: each knows by its token which one it is of.
#[derive(Clone, Copy)]
struct Methods {
    ping: Native,
    close: Native,
    query: Native,
    exec: Native,
    error: Native,
}

/// The databases of a script, by the number of their token.
#[derive(Default)]
pub(crate) struct Table {
    open: RefCell<HashMap<u32, Rc<Db>>>,
    last: Cell<u32>,
    opened: Rc<Opened>,
}

impl Table {
    fn insert(&self, db: Db) -> u32 {
        let mut open = self.open.borrow_mut();
        let mut number = self.last.get();
        loop {
            number = number.wrapping_add(1);
            if !open.contains_key(&number) {
                break;
            }
        }
        self.last.set(number);
        open.insert(number, Rc::new(db));
        number
    }

    fn get(&self, number: u32) -> Option<Rc<Db>> {
        self.open.borrow().get(&number).cloned()
    }

    /// The script has forgotten it.
    pub(crate) fn remove(&self, number: u32) {
        let forgotten = self.open.borrow_mut().remove(&number);
        drop(forgotten);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// The script has ended.
    pub(crate) fn clear(&self) {
        let all = self.open.take();
        drop(all);
        self.last.set(0);
    }
}

fn new<'js>(host: &Rc<Host>, call: &Call<'_, 'js>, methods: Methods) -> rquickjs::Result<Value<'js>> {
    let (dsn, driver) = (call.string(0)?, call.string(1)?);
    let target = match dsn::parse(&dsn, &driver) {
        None => return Err(call.wrong(1, "\"mysql\", \"postgres\" or \"sqlite\"")),
        Some(Err(malformed)) => {
            // Not the usual error, which would repeat the argument.
            let message = format!("{}: argument 1 is no DSN for {driver}: {malformed}", call.name);
            return Err(call.type_error(&message));
        }
        Some(Ok(target)) => target,
    };
    let state = open(host, target).unwrap_or_else(State::Unusable);
    let db = Db { state: RefCell::new(state), error: RefCell::new(None), io: host.lane.io.clone() };
    let number = host.databases.insert(db);
    let token = new_token(call.ctx, number).inspect_err(|_| host.databases.remove(number))?;
    let object = Object::new(call.ctx.clone())?;
    let functions =
        [("Ping", methods.ping), ("Close", methods.close), ("Query", methods.query), ("Exec", methods.exec)];
    for (name, native) in functions {
        let function = native.function_of(call.ctx, name, &token)?;
        define(&object, name, function)?;
    }
    let error = methods.error.function_of(call.ctx, "Error", &token)?;
    define_accessor(&object, "Error", Some(error), None, true, false)?;
    Ok(object.into_value())
}

fn open(host: &Host, target: Target) -> Result<State, String> {
    let databases = host.lane.sql.as_ref().ok_or("this worker gives its scripts no databases")?;
    let counted = host.databases.opened.count(target == Target::Sqlite(Sqlite::Memory))?;
    let database = databases.open(target, host.limits.memory, &host.lane.io)?;
    Ok(State::Open { database, _counted: counted })
}

/// A function of a database.
fn method(
    ctx: &Ctx<'_>,
    name: &'static str,
    host: &Rc<Host>,
    f: for<'a, 'js> fn(&'a Rc<Host>, &'a Rc<Db>, &'a Call<'a, 'js>) -> rquickjs::Result<Value<'js>>,
) -> rquickjs::Result<Native> {
    native(ctx, name, host, move |host, call| {
        match call.token.and_then(|number| host.databases.get(number)) {
            Some(db) => f(host, &db, call),
            None => {
                let message = format!("{}: the database is gone", call.name);
                Err(throw(call.ctx, ErrorKind::Internal, &message))
            }
        }
    })
}

fn ping<'js>(host: &Rc<Host>, db: &Rc<Db>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match db.run(host, call, PING, Action::Ping, Vec::new())? {
        Some(_) => Ok(Value::new_undefined(call.ctx.clone())),
        None => db.error.borrow().clone().into_js(call.ctx),
    }
}

fn close<'js>(host: &Rc<Host>, db: &Rc<Db>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    *db.error.borrow_mut() = None;
    if let Some(database) = db.take() {
        let (done, closed) = oneshot::channel();
        db.io.spawn(async move {
            database.close().await;
            // Whoever has asked may have gone.
            let _ = done.send(());
        });
        // It is dropped only if the runtime goes.
        let _ = host.wait(call.ctx, closed)?;
    }
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn query<'js>(host: &Rc<Host>, db: &Rc<Db>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = call.string(0)?;
    let arguments = value::arguments(host, call, 1)?;
    match db.run(host, call, &text, Action::Query, arguments)? {
        Some(Outcome::Rows(table)) => value::table_to_js(host, call.ctx, table),
        Some(Outcome::Count(_)) | None => Ok(Value::new_null(call.ctx.clone())),
    }
}

fn exec<'js>(host: &Rc<Host>, db: &Rc<Db>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = call.string(0)?;
    let arguments = value::arguments(host, call, 1)?;
    match db.run(host, call, &text, Action::Exec, arguments)? {
        Some(Outcome::Count(rows)) => super::integer_to_js(call.ctx, i64::try_from(rows).unwrap_or(i64::MAX)),
        Some(Outcome::Rows(_)) | None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

impl Db {
    /// Runs a statement and waits for what comes of it. None: it has failed, and that is logged and kept.
    fn run(
        &self,
        host: &Rc<Host>,
        call: &Call<'_, '_>,
        text: &str,
        action: Action,
        arguments: Vec<value::Argument>,
    ) -> rquickjs::Result<Option<Outcome>> {
        let failure = match self.ready(text) {
            Err(message) => message,
            Ok((database, statement)) => {
                let passed = host.gate(call.ctx)?;
                // A larger result would not fit beside what the script has already.
                let limit = host.limits.memory / 2;
                let request = Request { action, statement, arguments, limit, passed };
                let counted = host.lane.sql.as_ref().map(|sql| sql.calls().begin(counted_as(&*database)));
                let answered = host.wait(call.ctx, answer(&host.lane.io, database, request))?;
                if let Some(counted) = counted {
                    counted.end(answered.as_ref().err().map(Failure::counted_as));
                }
                match answered {
                    Ok(outcome) => {
                        *self.error.borrow_mut() = None;
                        return Ok(Some(outcome));
                    }
                    // The next step of the script ends it.
                    Err(Failure::Lost) => {
                        host.gate_to_wait(call.ctx)?;
                        Failure::Lost.to_string()
                    }
                    Err(failure) => failure.to_string(),
                }
            }
        };
        // A database may repeat in it whatever it was given.
        let failure = console::cut(failure, host.limits.log_line);
        let line = format!("{}: {failure}", call.name);
        host.keep_line("warn: ", &line);
        host.log(|| tracing::warn!(target: "script", "{line}"));
        *self.error.borrow_mut() = Some(failure);
        Ok(None)
    }

    fn ready(&self, text: &str) -> Result<(Arc<dyn Database>, Statement), String> {
        let database = match &*self.state.borrow() {
            State::Open { database, .. } => database.clone(),
            State::Unusable(message) => return Err(message.clone()),
            State::Closed => return Err(session::CLOSED.to_owned()),
        };
        let statement = Statement::read(database.dialect(), text)?;
        Ok((database, statement))
    }

    /// Closed from now on. What was open, for whoever closes it.
    fn take(&self) -> Option<Arc<dyn Database>> {
        match self.state.replace(State::Closed) {
            State::Open { database, .. } => Some(database),
            State::Unusable(_) | State::Closed => None,
        }
    }
}

impl Drop for Db {
    /// The script has ended, or has forgotten its database.
    fn drop(&mut self) {
        if let Some(database) = self.take() {
            self.io.spawn(database.close());
        }
    }
}

/// What a statement for a database is counted as.
fn counted_as(database: &dyn Database) -> SqlDatabase {
    match database.dialect() {
        Dialect::MySql => SqlDatabase::MySql,
        Dialect::Postgres => SqlDatabase::Postgres,
        Dialect::Sqlite => SqlDatabase::Sqlite,
    }
}

impl Failure {
    fn counted_as(&self) -> SqlFailure {
        match self {
            Self::Refused(_) => SqlFailure::Refused,
            Self::Statement(_) | Self::RolledBack(_) => SqlFailure::Error,
            Self::Connection(_) => SqlFailure::Connection,
            Self::Lost => SqlFailure::Aborted,
        }
    }
}

/// What comes of a statement that runs on the I/O runtime. Dropped, it ends the statement.
async fn answer(
    io: &runtime::Handle,
    database: Arc<dyn Database>,
    request: Request,
) -> Result<Outcome, Failure> {
    let (mut answer, answered) = oneshot::channel();
    io.spawn(async move {
        let running = database.run(Arc::new(request));
        tokio::select! {
            result = running => {
                // Whoever has asked may have gone.
                let _ = answer.send(result);
            }
            () = answer.closed() => {}
        }
    });
    // The task has panicked, or its runtime has gone.
    answered.await.unwrap_or_else(|_| Err(Failure::Connection("the statement has come to no end".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_has_open_does_not_pile_up() {
        let databases = Databases::new(Config::default()).unwrap();
        let io = runtime::Handle::current();
        let target = |n: usize| dsn::parse(&format!("u@tcp(127.0.0.1:1)/{n}"), "mysql").unwrap().unwrap();
        let kept: Vec<_> = (0..100).map(|n| databases.open(target(n), 0, &io).unwrap()).collect();
        for n in 0..5000 {
            databases.open(target(n), 0, &io).unwrap();
        }
        let number = databases.shared.pools().open.len();
        assert!((100..=256).contains(&number), "{number}");
        drop(kept);
    }
}

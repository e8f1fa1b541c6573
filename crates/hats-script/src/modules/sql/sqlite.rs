//! SQLite: files below one folder, and databases in memory.
//!
//! This is `rusqlite` and not the driver that the other databases have: a script writes the statements, and only here can
//! each of them be judged by what SQLite makes of it, given limits, and ended in the middle.
//!
//! What must hold:
//! - No file is opened but one below the folder, by a path without links; none is attached, no extension is loaded.
//! - No statement runs on a lane, nor on an OS thread that drives I/O.
//! - Nothing is committed once the lease has ended.
//! - What a statement leaves on a connection that others get is what it leaves in the database.
//! - A database in memory is no larger than its script's heap may be.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Batch, ErrorCode, OpenFlags, Statement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::calendar;
use super::dsn::FileMode;
use super::server::{Action, Failure, Outcome, Request, Server};
use super::statement::{Dialect, Effect};
use super::value::{Argument, Collector, Value, whole};
use crate::host::TaskControl;

/// A statement waits so long for another process, or a transaction of another script, to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// A script waits so long for others of this worker that write.
const WRITER_TIMEOUT: Duration = Duration::from_secs(30);
/// Steps of SQLite's machine between two looks at whether the statement should go on.
const STEPS_PER_LOOK: i32 = 1000;
/// Statements that run at once in the whole worker: each has an OS thread meanwhile.
const AT_ONCE: usize = 64;
const PAGE_BYTES: usize = 4096;

/// A database.
pub(super) struct SqliteServer {
    place: Place,
    /// SQLite has one writer at a time. Here they wait in turn, which its own locks know nothing of.
    writer: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
}

enum Place {
    Memory { bytes_max: usize },
    File { path: PathBuf, mode: FileMode },
}

/// Files below one folder, or none at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    /// Without links in it.
    path: Option<PathBuf>,
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Held from the first thing that is written to the end of the transaction.
    writing: Option<OwnedSemaphorePermit>,
}

/// What a statement has while it runs, on an OS thread that nobody can drop.
struct Shared {
    inner: Mutex<rusqlite::Connection>,
    guard: Arc<Guard>,
}

/// What SQLite asks while it works.
struct Guard {
    /// Nobody waits for the statement any more.
    is_stopped: AtomicBool,
    /// Whose statement it is.
    control: Mutex<Option<Arc<dyn TaskControl>>>,
    /// Why the last statement was refused.
    refused: Mutex<Option<String>>,
    is_private: bool,
}

impl Folder {
    /// # Errors
    /// When it is not there, or is no folder.
    pub(super) fn new(path: Option<&Path>) -> std::io::Result<Self> {
        let path = path.map(std::fs::canonicalize).transpose()?;
        match &path {
            Some(path) if !path.is_dir() => Err(std::io::ErrorKind::NotADirectory.into()),
            _ => Ok(Self { path }),
        }
    }

    /// The file that a script means.
    fn file(&self, asked: &str) -> Result<PathBuf, String> {
        let Some(folder) = &self.path else {
            return Err("this worker has no folder for SQLite files (--sqlite-dir): there is only :memory:"
                .to_owned());
        };
        let asked = Path::new(asked);
        let below = if asked.is_absolute() { asked.strip_prefix(folder).ok() } else { Some(asked) };
        let is_plain = |path: &&Path| {
            path.components().count() > 0
                && path.components().all(|part| matches!(part, Component::Normal(_)))
        };
        let Some(below) = below.filter(is_plain) else {
            return Err("the file is not below the folder for SQLite files (--sqlite-dir)".to_owned());
        };
        let name = below.to_string_lossy();
        // SQLite's own, beside a database.
        if ["-journal", "-wal", "-shm"].iter().any(|end| name.ends_with(end)) {
            return Err("that file is part of another database".to_owned());
        }
        Ok(folder.join(below))
    }
}

impl SqliteServer {
    pub(super) fn memory(bytes_max: usize, at_once: Arc<Semaphore>) -> Self {
        Self { place: Place::Memory { bytes_max }, writer: Arc::new(Semaphore::new(1)), at_once }
    }

    /// # Errors
    /// When the file is not one that scripts may open.
    pub(super) fn file(
        folder: &Folder,
        path: &str,
        mode: FileMode,
        at_once: Arc<Semaphore>,
    ) -> Result<Self, String> {
        let path = folder.file(path)?;
        Ok(Self { place: Place::File { path, mode }, writer: Arc::new(Semaphore::new(1)), at_once })
    }

    /// How many statements of SQLite may run at once, for all databases of a worker.
    pub(super) fn at_once() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(AT_ONCE))
    }

    fn open(&self) -> rusqlite::Result<Shared> {
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let is_private = self.is_private();
        let mut inner = match &self.place {
            Place::Memory { .. } => {
                flags |= OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
                rusqlite::Connection::open_in_memory_with_flags(flags)?
            }
            Place::File { path, mode } => {
                flags |= match mode {
                    FileMode::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
                    FileMode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
                    FileMode::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
                };
                rusqlite::Connection::open_with_flags(path, flags)?
            }
        };
        let guard = Arc::new(Guard {
            is_stopped: AtomicBool::new(false),
            control: Mutex::new(None),
            refused: Mutex::new(None),
            is_private,
        });
        inner.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        inner.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        inner.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        if let Place::Memory { bytes_max } = self.place {
            let pages = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            inner.pragma_update(None, "page_size", pages(PAGE_BYTES))?;
            let most = pages(bytes_max / PAGE_BYTES).max(16);
            inner.pragma_update(None, "max_page_count", most)?;
            // Its temporary tables are in a file of SQLite's own.
            inner.pragma_update(Some("temp"), "max_page_count", most)?;
        }
        let asked = guard.clone();
        inner.busy_handler(Some(move |times: i32| asked.waits_on(times)))?;
        let asked = guard.clone();
        inner.progress_handler(STEPS_PER_LOOK, Some(move || asked.is_over()))?;
        let asked = guard.clone();
        // True makes a rollback of the commit.
        inner.commit_hook(Some(move || asked.is_over()))?;
        let asked = guard.clone();
        inner.authorizer(Some(move |context: AuthContext<'_>| asked.judge(context)))?;
        Ok(Shared { inner: Mutex::new(inner), guard })
    }

    async fn take_turn_to_write(
        &self,
        connection: &mut Connection,
        request: &Request,
    ) -> Result<(), Failure> {
        let writes = match request.statement.effect {
            Effect::Begin { writes } => writes,
            Effect::End { .. } | Effect::InTransaction { .. } => false,
            _ => !request.statement.reads,
        };
        if writes && connection.writing.is_none() {
            let turn = tokio::time::timeout(WRITER_TIMEOUT, self.writer.clone().acquire_owned()).await;
            let Ok(Ok(turn)) = turn else {
                return Err(Failure::Refused(format!(
                    "another script of this worker has been writing to the database for {WRITER_TIMEOUT:?}"
                )));
            };
            connection.writing = Some(turn);
            // It may have taken long.
            request.gate()?;
        }
        Ok(())
    }
}

impl Server for SqliteServer {
    type Connection = Connection;

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn is_private(&self) -> bool {
        matches!(self.place, Place::Memory { .. })
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let place = match &self.place {
            Place::Memory { bytes_max } => Place::Memory { bytes_max: *bytes_max },
            Place::File { path, mode } => Place::File { path: path.clone(), mode: *mode },
        };
        let server = Self { place, writer: self.writer.clone(), at_once: self.at_once.clone() };
        let opened = tokio::task::spawn_blocking(move || server.open()).await;
        match opened {
            Ok(Ok(shared)) => Ok(Connection { shared: Arc::new(shared), writing: None }),
            Ok(Err(error)) => {
                Err(Failure::Connection(format!("the database cannot be opened: {}", message_of(&error))))
            }
            Err(panicked) => Err(Failure::Connection(panicked.to_string())),
        }
    }

    fn is_sound(&self, connection: &Connection) -> bool {
        !connection.shared.inner.is_poisoned()
    }

    fn in_transaction(&self, connection: &Connection) -> Option<bool> {
        // Nothing runs on it while somebody asks.
        connection.shared.inner.try_lock().ok().map(|inner| !inner.is_autocommit())
    }

    async fn run(&self, connection: &mut Connection, request: &Arc<Request>) -> Result<Outcome, Failure> {
        self.take_turn_to_write(connection, request).await?;
        let Ok(turn) = self.at_once.clone().acquire_owned().await else { return Err(Failure::Lost) };
        let (shared, asked) = (connection.shared.clone(), request.clone());
        let ran = tokio::task::spawn_blocking(move || {
            let result = shared.run(&asked);
            drop(turn);
            result
        });
        let result = ran.await.unwrap_or_else(|panicked| Err(Failure::Connection(panicked.to_string())));
        if self.in_transaction(connection) != Some(true) {
            connection.writing = None;
        }
        result
    }

    async fn abandon(&self, connection: Connection) -> Option<Connection> {
        connection.shared.guard.is_stopped.store(true, Ordering::Release);
        let shared = connection.shared.clone();
        let restored = tokio::task::spawn_blocking(move || {
            // The statement is over when the lock is free.
            let inner = shared.lock();
            shared.guard.reset(None);
            inner.is_autocommit() || inner.execute_batch("ROLLBACK").is_ok()
        });
        let is_restored = restored.await.unwrap_or(false);
        (is_restored && self.is_sound(&connection)).then_some(Connection { writing: None, ..connection })
    }

    async fn close(&self, connection: Connection) {
        // What was open is rolled back.
        let _ = tokio::task::spawn_blocking(move || drop(connection)).await;
    }

    async fn is_alive(&self) -> bool {
        // There is no server that could be dead.
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, rusqlite::Connection> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, request: &Request) -> Result<Outcome, Failure> {
        let inner = self.lock();
        self.guard.reset(Some(request.passed.control().clone()));
        request.gate()?;
        let result = run_on(&inner, request);
        let is_lost = request.gate();
        let refused = self.guard.take_refusal();
        *guarded(&self.guard.control) = None;
        let error = match result {
            Ok(outcome) => return Ok(outcome),
            Err(RunError::Known(failure)) => return Err(failure),
            Err(RunError::Sqlite(error)) => error,
        };
        is_lost?;
        if let Some(why) = refused {
            return Err(Failure::Refused(why));
        }
        Err(match error {
            rusqlite::Error::MultipleStatement => Failure::Refused("one statement at a time".to_owned()),
            error if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Failure::Statement("the statement was interrupted".to_owned())
            }
            error => Failure::Statement(message_of(&error)),
        })
    }
}

/// Why a statement came to nothing, before anybody has asked what that means.
enum RunError {
    Known(Failure),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for RunError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn run_on(inner: &rusqlite::Connection, request: &Request) -> Result<Outcome, RunError> {
    // The limit of a result is half of the script's heap.
    let longest = i32::try_from(request.limit.saturating_mul(2)).unwrap_or(i32::MAX);
    inner.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest)?;
    let text = &request.statement.text;
    if request.statement.has_parts {
        // Only the first one is made; were there another one, nothing would be run.
        let mut parts = Batch::new(inner, text);
        let first = parts.next()?;
        let is_one = matches!(parts.next(), Ok(None));
        return match first {
            Some(_) if !is_one => Err(rusqlite::Error::MultipleStatement.into()),
            Some(mut statement) => step(inner, &mut statement, request),
            None => Ok(Outcome::nothing(request)),
        };
    }
    match inner.prepare(text) {
        Ok(mut statement) => step(inner, &mut statement, request),
        Err(rusqlite::Error::Empty) => Ok(Outcome::nothing(request)),
        Err(error) => Err(error.into()),
    }
}

fn step(
    inner: &rusqlite::Connection,
    statement: &mut Statement<'_>,
    request: &Request,
) -> Result<Outcome, RunError> {
    let placeholders = statement.parameter_count();
    if placeholders != request.arguments.len() {
        return Err(RunError::Known(request.wrong_number(placeholders)));
    }
    for (n, argument) in request.arguments.iter().enumerate() {
        let bound = bound(argument)
            .map_err(|why| RunError::Known(Failure::Refused(format!("argument {}: {why}", n + 2))))?;
        statement.raw_bind_parameter(n + 1, bound)?;
    }
    let mut collector = Collector::new(request.limit);
    collector.set_columns(statement.column_names().map(str::to_owned));
    let columns = statement.column_count();
    let before = inner.total_changes();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if request.action != Action::Query {
            continue;
        }
        // The rest is still in the file: the connection is as good as before.
        let too_large =
            |error: super::value::TooLarge| RunError::Known(Failure::Statement(error.to_string()));
        collector.begin_row().map_err(too_large)?;
        for n in 0..columns {
            collector.push(value(row.get_ref(n)?)).map_err(too_large)?;
        }
    }
    drop(rows);
    // What the last statement that changed something has changed: that is another one, if this one has not.
    let has_changed = request.statement.changes_rows && inner.total_changes() != before;
    let affected = if has_changed { inner.changes() } else { 0 };
    Ok(match request.action {
        Action::Query => Outcome::Rows(collector.into_table()),
        Action::Exec | Action::Ping => Outcome::Count(affected),
    })
}

fn bound(argument: &Argument) -> Result<ToSqlOutput<'_>, String> {
    let borrowed = |value| Ok(ToSqlOutput::Borrowed(value));
    match argument {
        Argument::Null => borrowed(ValueRef::Null),
        Argument::Bool(flag) => borrowed(ValueRef::Integer(i64::from(*flag))),
        // SQLite would take it for null.
        Argument::Number(number) if number.is_nan() => Err("NaN is no number to this database".to_owned()),
        Argument::Number(number) => match whole(*number) {
            Some(whole) => borrowed(ValueRef::Integer(whole)),
            None => borrowed(ValueRef::Real(*number)),
        },
        Argument::BigInt(digits) => match digits.parse() {
            Ok(integer) => borrowed(ValueRef::Integer(integer)),
            Err(_) => Err(format!("{digits} is out of range: integers have 64 bits here")),
        },
        Argument::Text(text) => borrowed(ValueRef::Text(text.as_bytes())),
        Argument::Bytes(bytes) => borrowed(ValueRef::Blob(bytes)),
        Argument::Date(millis) => Ok(ToSqlOutput::Owned(calendar::instant(*millis).into())),
    }
}

fn value(field: ValueRef<'_>) -> Value {
    match field {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(number) => Value::Float(number),
        ValueRef::Text(text) => Value::text(text),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

fn message_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, Some(message)) if code.code == ErrorCode::DatabaseBusy => {
            format!("{message}: another process or transaction has it")
        }
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

fn guarded<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    fn reset(&self, control: Option<Arc<dyn TaskControl>>) {
        *guarded(&self.control) = control;
        *guarded(&self.refused) = None;
        self.is_stopped.store(false, Ordering::Release);
    }

    /// True if the statement is to be ended.
    fn is_over(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
            || guarded(&self.control).as_ref().is_some_and(|control| control.trusted_for().is_zero())
    }

    /// Waits a moment for a lock. False if it has been long enough.
    fn waits_on(&self, times: i32) -> bool {
        let waited = BUSY_PAUSE.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
        if waited >= BUSY_TIMEOUT || self.is_over() {
            return false;
        }
        std::thread::sleep(BUSY_PAUSE);
        true
    }

    fn take_refusal(&self) -> Option<String> {
        guarded(&self.refused).take()
    }

    /// Whether a statement may do what it is about to be made to do.
    fn judge(&self, context: AuthContext<'_>) -> Authorization {
        match self.refusal(&context.action) {
            None => Authorization::Allow,
            Some(why) => {
                guarded(&self.refused).get_or_insert(why);
                Authorization::Deny
            }
        }
    }

    fn refusal(&self, action: &AuthAction<'_>) -> Option<String> {
        match action {
            // VACUUM works in a database without a name, which it attaches.
            AuthAction::Attach { filename: "" } => None,
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => Some(
                "no other files than the database itself can be used: open another one with sql.New"
                    .to_owned(),
            ),
            AuthAction::Function { function_name }
                if function_name.eq_ignore_ascii_case("load_extension") =>
            {
                Some("extensions are not available".to_owned())
            }
            AuthAction::CreateVtable { module_name, .. } if !is_module(module_name) => {
                Some(format!("virtual tables of the kind {module_name:?} are not available"))
            }
            AuthAction::Pragma { pragma_name, pragma_value: Some(value) }
                if !self.is_pragma(pragma_name, value) =>
            {
                Some(format!(
                    "PRAGMA {pragma_name} cannot be given a value here: it would last longer than the statement"
                ))
            }
            AuthAction::Unknown { code, .. } => {
                Some(format!("the statement does something unknown ({code})"))
            }
            _ => None,
        }
    }

    /// Pragmas that may be given a value: those that ask about something, those that are kept in the file, and, where
    /// the connection is nobody else's, those that change only what it does.
    fn is_pragma(&self, name: &str, value: &str) -> bool {
        match name.to_ascii_lowercase().as_str() {
            "foreign_key_check" | "foreign_key_list" | "index_info" | "index_list" | "index_xinfo"
            | "integrity_check" | "quick_check" | "table_info" | "table_list" | "table_xinfo" => true,
            "application_id" | "auto_vacuum" | "encoding" | "incremental_vacuum" | "optimize"
            | "user_version" | "wal_checkpoint" => true,
            // The other modes are forgotten with the connection.
            "journal_mode" => {
                self.is_private || ["wal", "delete"].iter().any(|mode| value.eq_ignore_ascii_case(mode))
            }
            // Ends with the transaction.
            "defer_foreign_keys" => true,
            "automatic_index"
            | "case_sensitive_like"
            | "foreign_keys"
            | "ignore_check_constraints"
            | "query_only"
            | "recursive_triggers"
            | "reverse_unordered_selects" => self.is_private,
            _ => false,
        }
    }
}

/// Virtual tables whose data is in the database itself.
fn is_module(name: &str) -> bool {
    ["fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"]
        .iter()
        .any(|module| name.eq_ignore_ascii_case(module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_only_below_the_folder() {
        let root = std::env::temp_dir().join(format!("hats-sql-{}", std::process::id()));
        std::fs::create_dir_all(root.join("real")).unwrap();
        let folder = Folder::new(Some(&root.join("real"))).unwrap();
        let inside = std::fs::canonicalize(root.join("real")).unwrap();
        for asked in ["a.db", "sub/a.db", "./a.db", "file:a.db", "a.db?mode=ro", ":memory:", "..a"] {
            let file = folder.file(asked).ok();
            let plain = asked.strip_prefix("./").unwrap_or(asked);
            assert_eq!(
                file,
                (!asked.starts_with('.') || asked == "..a").then(|| inside.join(plain)),
                "{asked}"
            );
        }
        let absolute = inside.join("a.db");
        assert_eq!(folder.file(absolute.to_str().unwrap()), Ok(absolute));
        for asked in [
            "",
            ".",
            "..",
            "../a.db",
            "sub/../../a.db",
            "sub/..",
            "/etc/passwd",
            "/",
            "a.db-wal",
            "a.db-journal",
        ] {
            assert!(folder.file(asked).is_err(), "{asked}");
        }
        assert!(Folder::default().file("a.db").unwrap_err().contains("--sqlite-dir"));
        assert!(Folder::new(Some(&root.join("absent"))).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}

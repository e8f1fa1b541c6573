//! PostgreSQL.
//!
//! A statement is prepared first, so that the server says of which types its placeholders and columns are. Arguments that
//! are of such a type go as they are; all others go as text, and the placeholder is replaced by one with a cast: so the
//! server reads them by its own rules, whatever the type is.

mod text;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgConnection, PgDatabaseError, PgSeverity, PgSslMode,
    PgStatement, PgTypeInfo,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, ConnectOptions, Connection as _, Either, Encode, Executor, Postgres,
    Row, SqlSafeStr, Statement as _, Type, TypeInfo, raw_sql,
};

use self::text::{Kind, kind_of, oid, read};
use super::calendar;
use super::dsn::{self, Place};
use super::pool::CONNECT_TIMEOUT;
use super::relay::{self, Framing, Relay};
use super::server::{self, Action, Failure, Outcome, Request, Server};
use super::statement::Dialect;
use super::tls;
use super::value::{Argument, Collector, TooLarge, Value, number_text};
use crate::egress::Egress;

/// `cached plan must not change result type`: a table is not what it was when the statement was prepared.
const STALE_PLAN: (&str, &str) = ("0A000", "RevalidateCachedQuery");

/// A server.
pub(super) struct PostgresServer {
    target: dsn::Postgres,
    egress: Arc<Egress>,
}

pub(super) struct Connection {
    inner: PgConnection,
    /// By which it can be found on the server: the process, and when that began. Numbers of processes come again.
    backend: Option<(String, String)>,
    /// Names of types, as a cast wants them.
    type_names: HashMap<u32, String>,
    relay: Relay,
}

impl PostgresServer {
    pub(super) fn new(target: dsn::Postgres, egress: Arc<Egress>) -> Self {
        Self { target, egress }
    }

    fn options(&self, relay: &Relay) -> PgConnectOptions {
        let dsn::Postgres { login, application_name } = &self.target;
        let (folder, port) = relay.folder_and_port();
        // Everything is given that the driver would take from the environment, but for the settings in PGOPTIONS, which
        // cannot be.
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .socket(folder)
            .port(port)
            // The relay has it.
            .ssl_mode(PgSslMode::Disable)
            .username(&login.user)
            .password(login.password.reveal())
            .database(login.database.as_deref().unwrap_or(&login.user))
            .application_name(application_name)
            .disable_statement_logging()
    }

    /// What is asked of each new connection first: that it reads strings as we do, that it says nothing beside the answers,
    /// that it notices when we have gone (where it can), what the DSN wants, and who it is.
    fn first_statement(&self) -> String {
        let mut statement = String::from(
            "SELECT pg_catalog.pg_backend_pid()::text, \
             (SELECT backend_start::text FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()), \
             pg_catalog.set_config('standard_conforming_strings', 'on', false), \
             pg_catalog.set_config('client_min_messages', 'error', false), \
             (SELECT pg_catalog.set_config(name, '1s', false) FROM pg_catalog.pg_settings \
             WHERE name = 'client_connection_check_interval' AND setting = '0' \
             AND pg_catalog.version() LIKE '%linux%')",
        );
        for (name, value) in &self.target.login.settings {
            statement += &format!(", pg_catalog.set_config({}, {}, false)", literal(name), literal(value));
        }
        statement
    }

    async fn run_prepared(connection: &mut Connection, request: &Request) -> Result<Outcome, RunError> {
        let statement = prepare(&mut connection.inner, request.statement.text.clone()).await?;
        let kinds = kinds_of(&statement)?;
        let parameters = match statement.parameters() {
            Some(Either::Left(types)) => types.to_vec(),
            _ => Vec::new(),
        };
        if parameters.len() != request.arguments.len() {
            return Err(RunError::Known(request.wrong_number(parameters.len())));
        }
        let mut arguments = PgArguments::default();
        let mut casts: HashMap<usize, u32> = HashMap::new();
        for (n, (argument, info)) in request.arguments.iter().zip(&parameters).enumerate() {
            let number = base_of(info);
            let (bytes, sent_as) = match encode(number, argument).map_err(|why| wrong_argument(n, &why))? {
                Encoded::AsItIs(bytes) => (bytes, info.clone()),
                Encoded::Text(text) => {
                    let named = info.oid().map_or(0, |oid| oid.0);
                    casts.insert(n + 1, named);
                    (Some(text.into_bytes()), PgTypeInfo::with_oid(Oid(oid::TEXT)))
                }
            };
            let raw = Raw { bytes, info: sent_as };
            arguments.add(raw).map_err(|error| wrong_argument(n, &error.to_string()))?;
        }
        if casts.is_empty() {
            return collect(connection, statement, arguments, &kinds, request).await;
        }
        let mut names = HashMap::new();
        for (n, number) in casts {
            names.insert(n, type_name(connection, number).await?);
        }
        let text = request.statement.with_placeholders(|n| {
            names.get(&n).map(|name| format!("CAST(CAST(${n} AS pg_catalog.text) AS {name})"))
        });
        let statement = prepare(&mut connection.inner, text).await?;
        collect(connection, statement, arguments, &kinds, request).await
    }
}

/// Why a statement came to nothing, before anybody has asked what that means for the connection.
enum RunError {
    Known(Failure),
    Sqlx(sqlx::Error),
}

impl From<sqlx::Error> for RunError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl From<TooLarge> for RunError {
    fn from(error: TooLarge) -> Self {
        Self::Known(error.failure())
    }
}

impl Server for PostgresServer {
    type Connection = Connection;

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn errors_end_transactions(&self) -> bool {
        true
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let login = &self.target.login;
        let server = relay::connect(&self.egress, &login.place).await.map_err(Failure::Connection)?;
        let server = match &login.place {
            Place::Tcp { host, .. } => {
                tls::upgrade(server, &login.tls, host).await.map_err(Failure::Connection)?
            }
            Place::Unix(_) => server,
        };
        let relay = Relay::start(server, Framing::Postgres)
            .map_err(|error| Failure::Connection(format!("no way to the database: {error}")))?;
        let refused = |error: sqlx::Error| match database_error(&error) {
            // It has said something, so it is there.
            Some(said) => Failure::Statement(message_of(said)),
            None => failure(&error, &relay),
        };
        let mut inner = self.options(&relay).connect().await.map_err(refused)?;
        let first = AssertSqlSafe(self.first_statement());
        let row = inner.fetch_one(raw_sql(first)).await.map_err(refused)?;
        let text = |n: usize| row.try_get_raw(n).ok()?.as_str().ok().map(str::to_owned);
        let backend = text(0).zip(text(1));
        Ok(Connection { inner, backend, type_names: HashMap::new(), relay })
    }

    fn is_sound(&self, connection: &Connection) -> bool {
        connection.relay.is_open()
    }

    fn in_transaction(&self, _: &Connection) -> Option<bool> {
        None
    }

    async fn run(&self, connection: &mut Connection, request: &Arc<Request>) -> Result<Outcome, Failure> {
        connection.relay.allow(request.bytes_max());
        let mut result = Self::run_prepared(connection, request).await;
        if let Err(RunError::Sqlx(error)) = &result
            && database_error(error)
                .is_some_and(|said| (said.code(), said.routine().unwrap_or_default()) == STALE_PLAN)
            && connection.inner.clear_cached_statements().await.is_ok()
        {
            // It was not run. In a transaction it is too late for it, and the second error says so.
            result = Self::run_prepared(connection, request).await;
        }
        connection.relay.allow(0);
        if request.statement.text.len() > server::LONG_STATEMENT {
            // An error shows itself at the next statement.
            let _ = connection.inner.clear_cached_statements().await;
        }
        connection.inner.shrink_buffers();
        match result {
            Ok(outcome) => Ok(outcome),
            Err(RunError::Known(failure)) => Err(failure),
            Err(RunError::Sqlx(_)) if connection.relay.is_over() => {
                Err(Collector::new(request.limit).too_large().failure())
            }
            Err(RunError::Sqlx(error)) => Err(failure(&error, &connection.relay)),
        }
    }

    async fn tidy(&self, connection: &mut Connection) -> bool {
        // What a procedure may have left behind; and then all is set anew that is not the server's own.
        let statements = format!(
            "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; UNLISTEN *; CLOSE ALL; DISCARD TEMP; \
             SELECT pg_catalog.pg_advisory_unlock_all(); {}",
            self.first_statement()
        );
        connection.inner.execute(raw_sql(AssertSqlSafe(statements))).await.is_ok()
    }

    async fn abandon(&self, connection: Connection) -> Option<Connection> {
        let backend = connection.backend.clone();
        drop(connection);
        if let (Some((process, begun)), Ok(mut other)) = (backend, self.connect().await) {
            // An old server works on for a client that has gone, as long as it has nothing to say to it.
            let cancel = format!(
                "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity \
                 WHERE pid = {}::int AND backend_start = {}::timestamptz",
                literal(&process),
                literal(&begun)
            );
            let _ = other.inner.execute(raw_sql(AssertSqlSafe(cancel))).await;
            self.close(other).await;
        }
        None
    }

    async fn close(&self, connection: Connection) {
        // An error means that it was gone already.
        let _ = connection.inner.close().await;
    }

    async fn is_alive(&self) -> bool {
        let patience = self.target.login.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        match tokio::time::timeout(patience, self.connect()).await {
            Ok(Ok(connection)) => {
                self.close(connection).await;
                true
            }
            // Too many connections, or the like: it has said something.
            Ok(Err(Failure::Statement(_))) => true,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

async fn prepare(connection: &mut PgConnection, text: String) -> Result<PgStatement, sqlx::Error> {
    connection.prepare(AssertSqlSafe(text).into_sql_str()).await
}

/// How the columns of a statement are read.
fn kinds_of(statement: &PgStatement) -> Result<Vec<Kind>, RunError> {
    let kinds = statement.columns().iter().map(|column| {
        kind_of(column.type_info()).ok_or_else(|| {
            let (name, of) = (column.name(), column.type_info().name());
            RunError::Known(Failure::Refused(format!(
                "column {name:?} is of type {of}, which cannot be shown as it is: cast it to text"
            )))
        })
    });
    kinds.collect()
}

async fn collect(
    connection: &mut Connection,
    statement: PgStatement,
    arguments: PgArguments,
    kinds: &[Kind],
    request: &Request,
) -> Result<Outcome, RunError> {
    let mut collector = Collector::new(request.limit);
    collector.set_columns(statement.columns().iter().map(|column| column.name().to_owned()));
    let mut affected = 0_u64;
    let mut stream = connection.inner.fetch_many(statement.query_with(arguments));
    while let Some(item) = stream.try_next().await? {
        let row = match item {
            Either::Left(done) => {
                affected = affected.saturating_add(done.rows_affected());
                continue;
            }
            Either::Right(row) => row,
        };
        if request.action != Action::Query {
            continue;
        }
        collector.begin_row()?;
        for (n, kind) in kinds.iter().enumerate() {
            let field = row.try_get_raw(n)?;
            let value = match field.as_bytes() {
                Ok(bytes) => read(kind, bytes).map_err(|_| {
                    let name = row.columns().get(n).map_or("", |column| column.name());
                    RunError::Known(Failure::Connection(format!(
                        "column {name:?} is not of the type that it says"
                    )))
                })?,
                Err(_) => Value::Null,
            };
            collector.push(value)?;
        }
    }
    Ok(match request.action {
        Action::Query => Outcome::Rows(collector.into_table()),
        // To give rows is to affect none.
        Action::Exec if request.statement.reads => Outcome::Count(0),
        Action::Exec | Action::Ping => Outcome::Count(affected),
    })
}

/// The name of a type as a cast wants it: with its schema where that is needed, and without a length.
async fn type_name(connection: &mut Connection, number: u32) -> Result<String, RunError> {
    if let Some(name) = connection.type_names.get(&number) {
        return Ok(name.clone());
    }
    let ask = format!("SELECT pg_catalog.format_type({number}, -1)");
    let row = connection.inner.fetch_one(raw_sql(AssertSqlSafe(ask))).await?;
    let name = row.try_get_raw(0)?.as_str().map_err(sqlx::Error::Decode)?.to_owned();
    connection.type_names.insert(number, name.clone());
    Ok(name)
}

/// The number of a type, or of the one that it is a domain over.
fn base_of(info: &PgTypeInfo) -> u32 {
    let mut info = info;
    // Domains over domains end somewhere.
    for _ in 0..32 {
        match info.oid() {
            // Those that come with every server are no domains.
            Some(Oid(number)) if number < 10_000 => return number,
            _ => match info.kind() {
                sqlx::postgres::PgTypeKind::Domain(base) => info = base,
                _ => break,
            },
        }
    }
    info.oid().map_or(0, |oid| oid.0)
}

/// How an argument goes to the server.
#[derive(Debug, PartialEq)]
enum Encoded {
    /// In the binary form of the placeholder's type; None for null.
    AsItIs(Option<Vec<u8>>),
    /// As text, for the server to read.
    Text(String),
}

/// Encodes an argument for a placeholder of the type with this number.
fn encode(number: u32, argument: &Argument) -> Result<Encoded, String> {
    let as_it_is = |bytes: &[u8]| Ok(Encoded::AsItIs(Some(bytes.to_vec())));
    let is_textual = matches!(number, oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN);
    match (argument, number) {
        (Argument::Null, _) => Ok(Encoded::AsItIs(None)),
        (Argument::Bytes(bytes), oid::BYTEA) => as_it_is(bytes),
        (Argument::Bytes(_), _) => {
            Err("a Uint8Array is for a placeholder of type bytea, and this one is not".to_owned())
        }
        (Argument::Bool(flag), oid::BOOL) => as_it_is(&[u8::from(*flag)]),
        (Argument::Bool(_) | Argument::Number(_) | Argument::BigInt(_), oid::INT2) => {
            as_it_is(&integer::<i16>(argument, "smallint")?.to_be_bytes())
        }
        (Argument::Bool(_) | Argument::Number(_) | Argument::BigInt(_), oid::INT4) => {
            as_it_is(&integer::<i32>(argument, "integer")?.to_be_bytes())
        }
        (Argument::Bool(_) | Argument::Number(_) | Argument::BigInt(_), oid::INT8) => {
            as_it_is(&integer::<i64>(argument, "bigint")?.to_be_bytes())
        }
        (Argument::Number(number), oid::FLOAT8) => as_it_is(&number.to_be_bytes()),
        (Argument::Number(number), oid::FLOAT4) => {
            #[expect(clippy::cast_possible_truncation, reason = "what is lost is asked about right below")]
            let single = *number as f32;
            if single.is_infinite() && number.is_finite() {
                return Err(format!("{} is out of range for real", number_text(*number)));
            }
            as_it_is(&single.to_be_bytes())
        }
        (argument, _) => {
            let text = text_of(argument);
            if is_textual { Ok(Encoded::AsItIs(Some(text.into_bytes()))) } else { Ok(Encoded::Text(text)) }
        }
    }
}

/// What an argument is as text.
fn text_of(argument: &Argument) -> String {
    match argument {
        Argument::Text(text) | Argument::BigInt(text) => text.clone(),
        Argument::Number(number) => number_text(*number),
        Argument::Bool(flag) => flag.to_string(),
        Argument::Date(millis) => {
            let instant = calendar::instant(*millis);
            match instant.strip_suffix(" BC") {
                Some(instant) => format!("{instant}+00 BC"),
                None => format!("{instant}+00"),
            }
        }
        Argument::Null | Argument::Bytes(_) => String::new(),
    }
}

fn integer<T: TryFrom<i64>>(argument: &Argument, name: &str) -> Result<T, String> {
    if let Argument::Number(number) = argument
        && number.fract() != 0.0
    {
        let shown = number_text(*number);
        return Err(format!("{shown} is no whole number, and the placeholder is of type {name}"));
    }
    // A negative zero is a whole number here.
    let whole = argument.as_i64().or_else(|| (*argument == Argument::Number(0.0)).then_some(0));
    let fitting = whole.and_then(|whole| T::try_from(whole).ok());
    fitting.ok_or_else(|| format!("{} is out of range for {name}", text_of(argument)))
}

/// An error in the n-th argument for a placeholder; the call has the statement before them.
fn wrong_argument(n: usize, why: &str) -> RunError {
    RunError::Known(Failure::Refused(format!("argument {}: {why}", n + 2)))
}

/// An argument that is encoded already.
struct Raw {
    bytes: Option<Vec<u8>>,
    info: PgTypeInfo,
}

impl Type<Postgres> for Raw {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(oid::TEXT))
    }
}

impl Encode<'_, Postgres> for Raw {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.bytes {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }
}

/// A string literal, whatever the server's settings.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()
}

fn message_of(said: &PgDatabaseError) -> String {
    let mut message = said.message().to_owned();
    for (label, more) in [("", said.detail()), ("hint: ", said.hint())] {
        if let Some(more) = more {
            message += &format!("; {label}{more}");
        }
    }
    message + &format!(" ({})", said.code())
}

fn failure(error: &sqlx::Error, relay: &Relay) -> Failure {
    if let Some(said) = database_error(error) {
        let is_fatal = matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic);
        let message = message_of(said);
        return if is_fatal { Failure::Connection(message) } else { Failure::Statement(message) };
    }
    match error {
        sqlx::Error::Io(error) if !relay.is_open() => {
            Failure::Connection(format!("the connection to the database broke: {error}"))
        }
        sqlx::Error::Io(error) => {
            Failure::Connection(format!("the connection to the database failed: {error}"))
        }
        sqlx::Error::Protocol(message) => Failure::Connection(message.clone()),
        other => Failure::Connection(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_in_the_form_of_their_type_or_as_text() {
        let as_it_is = |bytes: &[u8]| Ok(Encoded::AsItIs(Some(bytes.to_vec())));
        let text = |text: &str| Ok(Encoded::Text(text.to_owned()));
        let number = Argument::Number;
        let big = |digits: &str| Argument::BigInt(digits.to_owned());
        let string = |text: &str| Argument::Text(text.to_owned());
        const DATE: u32 = 1082;
        for (number, argument, expected) in [
            (oid::INT4, Argument::Null, Ok(Encoded::AsItIs(None))),
            (oid::INT2, number(-2.0), as_it_is(&[0xff, 0xfe])),
            (oid::INT4, number(-0.0), as_it_is(&[0; 4])),
            (oid::INT4, Argument::Bool(true), as_it_is(&[0, 0, 0, 1])),
            (oid::INT8, big("9223372036854775807"), as_it_is(&i64::MAX.to_be_bytes())),
            (
                oid::INT8,
                big("9223372036854775808"),
                Err("9223372036854775808 is out of range for bigint".to_owned()),
            ),
            (oid::INT4, number(3e9), Err("3000000000 is out of range for integer".to_owned())),
            (oid::INT2, number(32768.0), Err("32768 is out of range for smallint".to_owned())),
            (
                oid::INT4,
                number(f64::NAN),
                Err("NaN is no whole number, and the placeholder is of type integer".to_owned()),
            ),
            (
                oid::INT4,
                number(1.5),
                Err("1.5 is no whole number, and the placeholder is of type integer".to_owned()),
            ),
            (oid::INT4, string("12"), text("12")),
            (oid::FLOAT8, number(f64::INFINITY), as_it_is(&f64::INFINITY.to_be_bytes())),
            (oid::FLOAT4, number(1e300), Err("1e300 is out of range for real".to_owned())),
            (oid::BOOL, Argument::Bool(true), as_it_is(&[1])),
            (oid::BOOL, number(1.0), text("1")),
            (oid::TEXT, string("ä"), as_it_is("ä".as_bytes())),
            (oid::VARCHAR, number(1.5), as_it_is(b"1.5")),
            (oid::TEXT, Argument::Bool(false), as_it_is(b"false")),
            (oid::BYTEA, Argument::Bytes(vec![0, 1]), as_it_is(&[0, 1])),
            (
                oid::TEXT,
                Argument::Bytes(vec![]),
                Err("a Uint8Array is for a placeholder of type bytea, and this one is not".to_owned()),
            ),
            (DATE, Argument::Date(0), text("1970-01-01 00:00:00.000+00")),
            (DATE, string("tomorrow"), text("tomorrow")),
            (1700, big("123456789012345678901234567890"), text("123456789012345678901234567890")),
        ] {
            assert_eq!(encode(number, &argument), expected, "{number} {argument:?}");
        }
    }

    #[test]
    fn literals_are_read_as_they_are_meant() {
        assert_eq!(literal(r"it's \ x"), r"E'it\'s \\ x'");
    }
}

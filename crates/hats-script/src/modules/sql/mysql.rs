//! MySQL and MariaDB.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow, MySqlSslMode,
    MySqlValueRef,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, ConnectOptions, Connection as _, Decode, Either, Executor, MySql, Row,
    SqlSafeStr, Statement as _, Type, TypeInfo, ValueRef, raw_sql,
};

use super::calendar;
use super::dsn::{self, Place, TlsMode};
use super::pool::CONNECT_TIMEOUT;
use super::relay::{self, Framing, Relay};
use super::server::{self, Action, Failure, Outcome, Request, Server};
use super::statement::{Dialect, Effect};
use super::tls::Files;
use super::value::{Argument, Collector, TooLarge, Value, number_text, whole};
use crate::egress::Egress;

/// "This command is not supported in the prepared statement protocol yet".
const UNSUPPORTED_PREPARED: u16 = 1295;
/// A deadlock, for which the server rolls back the whole transaction.
const DEADLOCK: u16 = 1213;
/// The connection was killed, or the server is going down.
const KILLED: [u16; 4] = [1053, 1927, 3169, 4031];

/// A server.
pub(super) struct MySqlServer {
    target: dsn::MySql,
    egress: Arc<Egress>,
}

pub(super) struct Connection {
    inner: MySqlConnection,
    /// Its number on the server, by which it can be killed.
    id: Option<u64>,
    relay: Relay,
}

impl MySqlServer {
    pub(super) fn new(target: dsn::MySql, egress: Arc<Egress>) -> Self {
        Self { target, egress }
    }

    async fn options(&self) -> Result<MySqlConnectOptions, String> {
        let dsn::MySql { login, charset, collation, cleartext, .. } = &self.target;
        let host = match &login.place {
            Place::Tcp { host, .. } => host,
            Place::Unix(_) => "localhost",
        };
        let mut options = MySqlConnectOptions::new()
            // The name that the certificate has to have. The connection itself is the relay's.
            .host(host)
            .username(&login.user)
            .charset(charset)
            .enable_cleartext_plugin(*cleartext)
            // Neither is the server's own idea of SQL to be changed.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .disable_statement_logging()
            .ssl_mode(match login.tls.mode {
                TlsMode::Disabled => MySqlSslMode::Disabled,
                TlsMode::Preferred => MySqlSslMode::Preferred,
                TlsMode::Required => MySqlSslMode::Required,
                TlsMode::VerifyAuthority => MySqlSslMode::VerifyCa,
                TlsMode::VerifyName => MySqlSslMode::VerifyIdentity,
            });
        if !login.password.reveal().is_empty() {
            options = options.password(login.password.reveal());
        }
        if let Some(database) = &login.database {
            options = options.database(database);
        }
        if let Some(collation) = collation {
            options = options.collation(collation);
        }
        let files = Files::read(&login.tls).await?;
        if let Some(authorities) = files.authorities {
            options = options.ssl_ca_from_pem(authorities);
        }
        if let Some((certificate, key)) = files.identity {
            options = options.ssl_client_cert_from_pem(certificate).ssl_client_key_from_pem(key);
        }
        Ok(options)
    }

    /// Runs a statement that has no placeholders without preparing it: not every statement can be.
    async fn run_text(connection: &mut MySqlConnection, request: &Request) -> Result<Outcome, RunError> {
        let statement = raw_sql(AssertSqlSafe(request.statement.text.clone()));
        collect(connection.fetch_many(statement), request, Format::Text).await
    }

    async fn run_prepared(connection: &mut MySqlConnection, request: &Request) -> Result<Outcome, RunError> {
        let statement =
            connection.prepare(AssertSqlSafe(request.statement.text.clone()).into_sql_str()).await?;
        let placeholders = match statement.parameters() {
            Some(Either::Right(number)) => number,
            Some(Either::Left(types)) => types.len(),
            None => 0,
        };
        if placeholders != request.arguments.len() {
            return Err(RunError::Known(request.wrong_number(placeholders)));
        }
        let mut arguments = MySqlArguments::default();
        arguments.reserve(request.arguments.len(), 0);
        for (n, argument) in request.arguments.iter().enumerate() {
            add(&mut arguments, n, argument).map_err(RunError::Known)?;
        }
        let query = statement.query_with(arguments);
        collect(connection.fetch_many(query), request, Format::Binary).await
    }
}

/// Why a statement came to nothing, before anybody has asked what that means for the connection.
enum RunError {
    Known(Failure),
    Sqlx(sqlx::Error),
}

impl From<TooLarge> for RunError {
    fn from(error: TooLarge) -> Self {
        Self::Known(error.failure())
    }
}

impl From<sqlx::Error> for RunError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl Server for MySqlServer {
    type Connection = Connection;

    fn dialect(&self) -> Dialect {
        Dialect::MySql
    }

    fn statement_timeout(&self) -> Option<std::time::Duration> {
        self.target.statement_timeout
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let login = &self.target.login;
        let options = self.options().await.map_err(Failure::Connection)?;
        let server = relay::connect(&self.egress, &login.place).await.map_err(Failure::Connection)?;
        let relay = Relay::start(server, Framing::Opaque)
            .map_err(|error| Failure::Connection(format!("no way to the database: {error}")))?;
        let mut inner =
            options.socket(relay.socket()).connect().await.map_err(|error| failure(&error, &relay))?;
        let mut first = String::new();
        if !login.settings.is_empty() {
            let settings: Vec<_> =
                login.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            first = format!("SET {}; ", settings.join(", "));
        }
        first.push_str("SELECT CONNECTION_ID()");
        let row =
            inner.fetch_one(raw_sql(AssertSqlSafe(first))).await.map_err(|error| failure(&error, &relay))?;
        let id = row.try_get_raw(0).ok().and_then(|id| match decode(&id, Format::Text) {
            Value::Integer(id) => u64::try_from(id).ok(),
            Value::Unsigned(id) => Some(id),
            _ => None,
        });
        Ok(Connection { inner, id, relay })
    }

    fn is_sound(&self, connection: &Connection) -> bool {
        connection.relay.is_open()
    }

    fn in_transaction(&self, _: &Connection) -> Option<bool> {
        None
    }

    async fn run(&self, connection: &mut Connection, request: &Arc<Request>) -> Result<Outcome, Failure> {
        let Connection { inner, relay, .. } = connection;
        relay.allow(request.bytes_max());
        let goes_as_text =
            request.arguments.is_empty() && !matches!(request.statement.effect, Effect::None | Effect::Calls);
        let result = if goes_as_text {
            Self::run_text(inner, request).await
        } else {
            match Self::run_prepared(inner, request).await {
                Err(RunError::Sqlx(error))
                    if number(&error) == Some(UNSUPPORTED_PREPARED) && request.arguments.is_empty() =>
                {
                    Self::run_text(inner, request).await
                }
                result => result,
            }
        };
        relay.allow(0);
        if request.statement.text.len() > server::LONG_STATEMENT {
            // An error shows itself at the next statement.
            let _ = inner.clear_cached_statements().await;
        }
        inner.shrink_buffers();
        match result {
            Ok(outcome) => Ok(outcome),
            Err(RunError::Known(failure)) => Err(failure),
            Err(RunError::Sqlx(_)) if relay.is_over() => {
                Err(Collector::new(request.limit).too_large().failure())
            }
            Err(RunError::Sqlx(error)) => Err(failure(&error, relay)),
        }
    }

    async fn tidy(&self, connection: &mut Connection) -> bool {
        // What a procedure may have left behind.
        let statement = raw_sql("ROLLBACK; SET autocommit = 1");
        connection.inner.execute(statement).await.is_ok()
    }

    async fn abandon(&self, connection: Connection) -> Option<Connection> {
        let id = connection.id;
        drop(connection);
        if let (Some(id), Ok(mut other)) = (id, self.connect().await) {
            // The server works on for a client that has gone, as long as it has nothing to say to it.
            let _ = other.inner.execute(raw_sql(AssertSqlSafe(format!("KILL {id}")))).await;
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
            Ok(Err(Failure::Statement(_) | Failure::RolledBack(_))) => true,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

/// How the server writes the values of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Binary,
}

async fn collect(
    mut stream: impl futures_util::Stream<
        Item = Result<Either<sqlx::mysql::MySqlQueryResult, MySqlRow>, sqlx::Error>,
    > + Unpin,
    request: &Request,
    format: Format,
) -> Result<Outcome, RunError> {
    let mut collector = Collector::new(request.limit);
    let (mut affected, mut is_first) = (0_u64, true);
    while let Some(item) = stream.try_next().await? {
        let row = match item {
            Either::Left(done) => {
                affected = affected.saturating_add(done.rows_affected());
                // A procedure may have several results. The first one that has rows counts.
                is_first &= !collector.has_columns();
                continue;
            }
            Either::Right(row) => row,
        };
        if request.action != Action::Query || !is_first {
            continue;
        }
        if !collector.has_columns() {
            collector.set_columns(row.columns().iter().map(|column| column.name().to_owned()));
        }
        collector.begin_row()?;
        for n in 0..row.len() {
            collector.push(decode(&row.try_get_raw(n)?, format))?;
        }
    }
    Ok(match request.action {
        Action::Query => Outcome::Rows(collector.into_table()),
        Action::Exec | Action::Ping => Outcome::Count(affected),
    })
}

fn add(arguments: &mut MySqlArguments, n: usize, argument: &Argument) -> Result<(), Failure> {
    let added = match argument {
        Argument::Null => arguments.add(None::<String>),
        Argument::Bool(flag) => arguments.add(*flag),
        Argument::Number(number) => match whole(*number) {
            Some(whole) => arguments.add(whole),
            None if number.is_finite() => arguments.add(*number),
            None => {
                let shown = number_text(*number);
                return Err(Failure::Refused(format!(
                    "argument {}: {shown} is no number to this database",
                    n + 2
                )));
            }
        },
        Argument::BigInt(digits) => match (digits.parse::<i64>(), digits.parse::<u64>()) {
            (Ok(integer), _) => arguments.add(integer),
            (_, Ok(integer)) => arguments.add(integer),
            // For a DECIMAL.
            _ => arguments.add(digits.as_str()),
        },
        Argument::Text(text) => arguments.add(text.as_str()),
        Argument::Bytes(bytes) => arguments.add(bytes.as_slice()),
        Argument::Date(millis) => arguments.add(calendar::instant(*millis)),
    };
    added.map_err(|error| Failure::Refused(format!("argument {}: {error}", n + 2)))
}

fn decode(value: &MySqlValueRef<'_>, format: Format) -> Value {
    // Not `is_null`, to which dates of zeros are null.
    let Ok(bytes) = <&[u8] as Decode<'_, MySql>>::decode(value.clone()) else { return Value::Null };
    let info = value.type_info();
    match (info.name(), format) {
        ("NULL", _) => Value::Null,
        ("FLOAT" | "DOUBLE", Format::Binary) => float(bytes),
        ("FLOAT" | "DOUBLE", Format::Text) => parsed(bytes).map_or_else(|| Value::text(bytes), Value::Float),
        ("BIT", _) => Value::Unsigned(bytes.iter().fold(0, |bits, byte| (bits << 8) | u64::from(*byte))),
        ("DATE", Format::Binary) => Value::Text(date(bytes)),
        ("DATETIME" | "TIMESTAMP", Format::Binary) => Value::Text(date_time(bytes)),
        ("TIME", Format::Binary) => Value::Text(time(bytes)),
        ("DATETIME" | "TIMESTAMP" | "TIME", Format::Text) => match std::str::from_utf8(bytes) {
            Ok(text) if text.contains('.') => {
                Value::Text(text.trim_end_matches('0').trim_end_matches('.').to_owned())
            }
            _ => Value::text(bytes),
        },
        ("DATE", Format::Text) | ("DECIMAL" | "JSON" | "ENUM" | "SET", _) => Value::text(bytes),
        ("GEOMETRY", _) => Value::Bytes(bytes.to_vec()),
        (name, format) if name == "BOOLEAN" || name == "YEAR" || name.contains("INT") => {
            let is_unsigned = name == "YEAR" || <u64 as Type<MySql>>::compatible(&info);
            integer(bytes, is_unsigned, format)
        }
        // It has a character set, or is just bytes.
        _ if <str as Type<MySql>>::compatible(&info) => Value::text(bytes),
        _ => Value::Bytes(bytes.to_vec()),
    }
}

fn parsed<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn integer(bytes: &[u8], is_unsigned: bool, format: Format) -> Value {
    if format == Format::Text {
        return parsed(bytes)
            .map(Value::Integer)
            .or_else(|| parsed(bytes).map(Value::Unsigned))
            .unwrap_or_else(|| Value::text(bytes));
    }
    let length = bytes.len().min(8);
    let is_negative = !is_unsigned && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if is_negative { 0xff } else { 0 }; 8];
    wide[..length].copy_from_slice(&bytes[..length]);
    if is_unsigned {
        Value::Unsigned(u64::from_le_bytes(wide))
    } else {
        Value::Integer(i64::from_le_bytes(wide))
    }
}

fn float(bytes: &[u8]) -> Value {
    if let Ok(double) = bytes.try_into() {
        return Value::Float(f64::from_le_bytes(double));
    }
    match bytes.try_into() {
        // The number that people see, and not the nearest one that a longer format has.
        Ok(single) => Value::Float(super::value::widened(f32::from_le_bytes(single))),
        Err(_) => Value::text(bytes),
    }
}

/// The length, then year, month and day. What is zero at the end is left out.
fn date(bytes: &[u8]) -> String {
    let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
    let year = u16::from_le_bytes([at(1), at(2)]);
    format!("{year:04}-{:02}-{:02}", at(3), at(4))
}

/// As a date, then hour, minute, second and microseconds.
fn date_time(bytes: &[u8]) -> String {
    let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
    let mut text = format!("{} {:02}:{:02}:{:02}", date(bytes), at(5), at(6), at(7));
    calendar::write_fraction(&mut text, u32::from_le_bytes([at(8), at(9), at(10), at(11)]).into());
    text
}

/// The length, a sign, days, hours, minutes, seconds and microseconds.
fn time(bytes: &[u8]) -> String {
    let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
    let sign = if at(1) == 0 { "" } else { "-" };
    let hours = u64::from(u32::from_le_bytes([at(2), at(3), at(4), at(5)])) * 24 + u64::from(at(6));
    let mut text = format!("{sign}{hours:02}:{:02}:{:02}", at(7), at(8));
    calendar::write_fraction(&mut text, u32::from_le_bytes([at(9), at(10), at(11), at(12)]).into());
    text
}

fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

fn failure(error: &sqlx::Error, relay: &Relay) -> Failure {
    match error {
        sqlx::Error::Database(said) => {
            let message = said.to_string();
            match number(error) {
                Some(DEADLOCK) => Failure::RolledBack(message),
                Some(number) if KILLED.contains(&number) => Failure::Connection(message),
                _ => Failure::Statement(message),
            }
        }
        sqlx::Error::Io(error) if !relay.is_open() => {
            Failure::Connection(format!("the connection to the database broke: {error}"))
        }
        sqlx::Error::Io(error) => {
            Failure::Connection(format!("the connection to the database failed: {error}"))
        }
        sqlx::Error::Tls(error) => Failure::Connection(format!("no TLS with the server: {error}")),
        sqlx::Error::Protocol(message) => Failure::Connection(message.clone()),
        other => Failure::Connection(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_dates_and_times_is_zero() {
        assert_eq!(date(&[0]), "0000-00-00");
        assert_eq!(date(&[4, 0xe8, 7, 2, 29]), "2024-02-29");
        assert_eq!(date_time(&[0]), "0000-00-00 00:00:00");
        assert_eq!(date_time(&[4, 0xe8, 7, 2, 29]), "2024-02-29 00:00:00");
        assert_eq!(date_time(&[7, 0xe8, 7, 2, 29, 23, 59, 58]), "2024-02-29 23:59:58");
        assert_eq!(date_time(&[11, 0xe8, 7, 2, 29, 23, 59, 58, 0x20, 0xa1, 7, 0]), "2024-02-29 23:59:58.5");
        assert_eq!(time(&[0]), "00:00:00");
        assert_eq!(time(&[8, 1, 34, 0, 0, 0, 22, 59, 59]), "-838:59:59");
        assert_eq!(time(&[12, 0, 0, 0, 0, 0, 1, 2, 3, 1, 0, 0, 0]), "01:02:03.000001");
    }

    #[test]
    fn integers_of_all_widths_keep_their_sign() {
        assert_eq!(integer(&[0xff], false, Format::Binary), Value::Integer(-1));
        assert_eq!(integer(&[0xff], true, Format::Binary), Value::Unsigned(255));
        assert_eq!(integer(&[0, 0x80], false, Format::Binary), Value::Integer(-32768));
        assert_eq!(integer(&[0xff; 8], true, Format::Binary), Value::Unsigned(u64::MAX));
        assert_eq!(integer(b"18446744073709551615", true, Format::Text), Value::Unsigned(u64::MAX));
        assert_eq!(integer(b"-5", false, Format::Text), Value::Integer(-5));
    }
}

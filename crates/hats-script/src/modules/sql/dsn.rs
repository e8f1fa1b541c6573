//! Where a database is, as scripts say it: a DSN and the name of a driver.
//!
//! What must hold:
//! - No error repeats any part of the DSN: where it is malformed, nobody can say which part is the password.
//! - Nothing is taken from the environment of the worker, nor from files that other programs read.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// A database, and how to get there. Two that are equal share their connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    MySql(MySql),
    Postgres(Postgres),
    Sqlite(Sqlite),
}

/// A MySQL or MariaDB server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MySql {
    pub(super) login: Login,
    pub(super) charset: String,
    pub(super) collation: Option<String>,
    /// The password may be sent as it is, if the server asks for that.
    pub(super) cleartext: bool,
    /// How long one statement may take.
    pub(super) statement_timeout: Option<Duration>,
}

/// A PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Postgres {
    pub(super) login: Login,
    pub(super) application_name: String,
}

/// What both kinds of servers want to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Login {
    pub(super) place: Place,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) database: Option<String>,
    pub(super) tls: Tls,
    pub(super) connect_timeout: Option<Duration>,
    /// Set on every new connection: names, checked, and values, as they were written.
    pub(super) settings: Vec<(String, String)>,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// `host` is the name that the server's certificate has to have. `address` is where it is, if that is not to be
    /// looked up.
    Tcp { host: String, address: Option<IpAddr>, port: u16 },
    /// A socket in the file system.
    Unix(PathBuf),
}

/// How a connection is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    pub(super) mode: TlsMode,
    /// Files in PEM form: additional authorities, our certificate and its key.
    pub(super) authorities: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// How much is asked of the encryption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum TlsMode {
    Disabled,
    /// If the server has it; it may be anybody.
    #[default]
    Preferred,
    /// The server may be anybody.
    Required,
    /// The server's certificate is by somebody known.
    VerifyAuthority,
    /// … and is the server's own.
    VerifyName,
}

/// An SQLite database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sqlite {
    /// One that belongs to whoever opens it, and goes with it.
    Memory,
    File {
        /// As written; below the folder for databases.
        path: String,
        mode: FileMode,
    },
}

/// What may be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FileMode {
    Read,
    Write,
    Create,
}

/// A text that is not printed.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Secret(String);

/// Why a text is no DSN. Never has a part of it in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// The name of the worker's connections for the administrators of a Postgres server.
const APPLICATION_NAME: &str = "hats-worker";

/// It is kept for as long as connections are, outside of the script's heap.
const BYTES_MAX: usize = 4096;

/// Reads a DSN. None: no driver has that name.
pub(super) fn parse(dsn: &str, driver: &str) -> Option<Result<Target>> {
    let is_too_long = dsn.len() > BYTES_MAX;
    // What is too long is not even looked at.
    let dsn = if is_too_long { "" } else { dsn };
    let parsed = match driver {
        "mysql" => mysql(dsn).map(Target::MySql),
        "postgres" => postgres(dsn).map(Target::Postgres),
        "sqlite" => sqlite(dsn).map(Target::Sqlite),
        _ => return None,
    };
    if is_too_long {
        return Some(Err(Malformed("it is longer than 4096 bytes")));
    }
    Some(if dsn.contains('\0') { Err(Malformed("it has a zero character")) } else { parsed })
}

impl Secret {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What the parts of a DSN come to before they are put together. Both ways of writing one end here.
#[derive(Default)]
struct Parts {
    host: Option<String>,
    address: Option<IpAddr>,
    port: Option<u16>,
    socket: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    tls: Tls,
    connect_timeout: Option<Duration>,
    settings: Vec<(String, String)>,
}

impl Parts {
    fn login(self, port: u16, user: impl FnOnce() -> Result<String>) -> Result<Login> {
        let place = match self.socket {
            Some(socket) => Place::Unix(socket),
            None => {
                let host = self.host.filter(|host| !host.is_empty());
                let host = host.or_else(|| self.address.map(|address| address.to_string()));
                let host = host.unwrap_or_else(|| "localhost".to_owned());
                Place::Tcp { host, address: self.address, port: self.port.unwrap_or(port) }
            }
        };
        if let Place::Unix(path) = &place
            && !path.is_absolute()
        {
            return Err(Malformed("the path of a socket begins with a /"));
        }
        // What a server reads before it knows who speaks to it. One that is no database at all is to see no lines in it.
        let is_broken = |text: &str| text.contains(char::is_control);
        if is_broken(&place.to_string())
            || self.user.as_deref().is_some_and(is_broken)
            || self.database.as_deref().is_some_and(is_broken)
            || self.settings.iter().any(|(_, value)| is_broken(value))
            || self.password.as_ref().is_some_and(|password| password.contains('\0'))
        {
            return Err(Malformed("it has a control character"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Malformed("a client's certificate and its key go together"));
        }
        Ok(Login {
            place,
            user: match self.user.filter(|user| !user.is_empty()) {
                Some(given) => given,
                None => user()?,
            },
            password: Secret(self.password.unwrap_or_default()),
            database: self.database.filter(|database| !database.is_empty()),
            tls: self.tls,
            connect_timeout: self.connect_timeout,
            settings: self.settings,
        })
    }

    /// Takes user, password, host, port and path out of a URL.
    fn of_url(url: &Url) -> Result<Self> {
        if url.fragment().is_some() {
            return Err(Malformed("it has a #: percent-encode it as %23"));
        }
        let host = match url.host_str() {
            Some(host) => decoded(host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host))?,
            None => String::new(),
        };
        let database = decoded(url.path().strip_prefix('/').unwrap_or_default())?;
        if url.path().contains('@') {
            // `user:12/34@host/database`
            return Err(Malformed(
                "there is an @ behind the first /: percent-encode a / in the password as %2F",
            ));
        }
        if host.contains(',') {
            return Err(Malformed("it names several hosts, and one is possible"));
        }
        Ok(Self {
            host: Some(host),
            port: url.port(),
            user: Some(decoded(url.username())?),
            password: url.password().map(decoded).transpose()?,
            database: Some(database),
            ..Self::default()
        })
    }
}

fn decoded(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            decoded.push(byte);
            at += 1;
            continue;
        }
        let hex = text.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded
            .push(value.ok_or(Malformed("a % is not followed by two hexadecimal digits: write it as %25"))?);
        at += 3;
    }
    String::from_utf8(decoded).map_err(|_| Malformed("what is percent-encoded is not UTF-8"))
}

fn parsed_url(dsn: &str) -> Result<Url> {
    Url::parse(dsn).map_err(|_| {
        Malformed("it is no URL such as driver://user:password@host:port/database; percent-encode special characters")
    })
}

/// Seconds, or text such as `500ms`.
fn time(text: &str) -> Result<Duration> {
    const NO_TIME: Malformed = Malformed("a time is neither seconds nor text such as 500ms");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds: f64 = number.parse().map_err(|_| NO_TIME)?;
    let unit = match &text[number.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(NO_TIME),
    };
    Duration::try_from_secs_f64(seconds * unit).map_err(|_| NO_TIME)
}

fn truth(text: &str) -> Result<bool> {
    match text {
        "true" | "TRUE" | "True" | "1" => Ok(true),
        "false" | "FALSE" | "False" | "0" => Ok(false),
        _ => Err(Malformed("a switch is neither true nor false")),
    }
}

/// The name of a variable of the server's.
fn setting(name: &str, value: &str) -> Result<(String, String)> {
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if !is_name {
        return Err(Malformed("the name of a parameter is no name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn word(text: &str) -> Result<String> {
    let is_word = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_word { Ok(text.to_owned()) } else { Err(Malformed("a character set or a collation is no name")) }
}

fn mysql(dsn: &str) -> Result<MySql> {
    if dsn.starts_with("mysql://") || dsn.starts_with("mariadb://") { mysql_url(dsn) } else { mysql_go(dsn) }
}

/// What the parameters of a MySQL DSN may say, in either form.
struct MySqlOptions {
    charset: String,
    collation: Option<String>,
    cleartext: bool,
    statement_timeout: Option<Duration>,
}

impl MySqlOptions {
    fn new() -> Self {
        Self { charset: "utf8mb4".to_owned(), collation: None, cleartext: false, statement_timeout: None }
    }

    fn take(&mut self, parts: &mut Parts, name: &str, value: &str) -> Result<()> {
        match name {
            "tls" => {
                parts.tls.mode = match value {
                    "true" => TlsMode::VerifyName,
                    "false" => TlsMode::Disabled,
                    "skip-verify" => TlsMode::Required,
                    "preferred" => TlsMode::Preferred,
                    _ => return Err(Malformed("tls is one of true, false, skip-verify, preferred")),
                }
            }
            "ssl-mode" | "sslmode" => {
                parts.tls.mode = match value.to_ascii_lowercase().replace('-', "_").as_str() {
                    "disabled" | "disable" => TlsMode::Disabled,
                    "preferred" | "prefer" => TlsMode::Preferred,
                    "required" | "require" => TlsMode::Required,
                    "verify_ca" => TlsMode::VerifyAuthority,
                    "verify_identity" | "verify_full" => TlsMode::VerifyName,
                    _ => {
                        return Err(Malformed(
                            "ssl-mode is one of disabled, preferred, required, verify_ca, verify_identity",
                        ));
                    }
                }
            }
            "ssl-ca" | "sslca" => parts.tls.authorities = Some(value.into()),
            "ssl-cert" | "sslcert" => parts.tls.certificate = Some(value.into()),
            "ssl-key" | "sslkey" => parts.tls.key = Some(value.into()),
            "socket" => parts.socket = Some(value.into()),
            // Several are a list of preferences.
            "charset" => self.charset = word(value.split(',').next().unwrap_or_default())?,
            "collation" => self.collation = Some(word(value)?),
            "timeout" | "connect_timeout" => parts.connect_timeout = Some(time(value)?),
            "readTimeout" => self.statement_timeout = Some(time(value)?).filter(|time| !time.is_zero()),
            "allowCleartextPasswords" => self.cleartext = truth(value)?,
            "clientFoundRows" if !truth(value)? => {
                return Err(Malformed(
                    "clientFoundRows=false is not available: db.Exec counts the rows that were found",
                ));
            }
            "timezone" | "time-zone" => {
                parts.settings.push(("time_zone".to_owned(), format!("'{}'", value.replace('\'', "''"))));
            }
            // With these, statements outside of BEGIN and COMMIT would begin transactions that nobody ends.
            _ if ["autocommit", "completion_type"].iter().any(|other| name.eq_ignore_ascii_case(other)) => {
                return Err(Malformed(
                    "autocommit and completion_type are not available: a transaction is from BEGIN to COMMIT or ROLLBACK",
                ));
            }
            // Of drivers of other languages: what they are about is otherwise here, or is always so.
            "allowAllFiles"
            | "allowFallbackToPlaintext"
            | "allowNativePasswords"
            | "allowOldPasswords"
            | "charsetFallback"
            | "checkConnLiveness"
            | "clientFoundRows"
            | "columnsWithAlias"
            | "compress"
            | "connectionAttributes"
            | "interpolateParams"
            | "loc"
            | "maxAllowedPacket"
            | "multiStatements"
            | "parseTime"
            | "rejectReadOnly"
            | "serverPubKey"
            | "timeTruncate"
            | "writeTimeout"
            | "statement-cache-capacity" => {}
            _ => parts.settings.push(setting(name, value)?),
        }
        Ok(())
    }

    fn finish(self, parts: Parts) -> Result<MySql> {
        let Self { charset, collation, cleartext, statement_timeout } = self;
        let login = parts.login(3306, || Ok(String::new()))?;
        if cleartext && matches!(login.tls.mode, TlsMode::Disabled | TlsMode::Preferred) {
            return Err(Malformed(
                "allowCleartextPasswords is only available with tls=true or tls=skip-verify",
            ));
        }
        Ok(MySql { login, charset, collation, cleartext, statement_timeout })
    }
}

fn mysql_url(dsn: &str) -> Result<MySql> {
    let url = parsed_url(dsn)?;
    let mut parts = Parts::of_url(&url)?;
    let mut options = MySqlOptions::new();
    for (name, value) in url.query_pairs() {
        options.take(&mut parts, &name, &value)?;
    }
    options.finish(parts)
}

/// `[user[:password]@][network[(address)]]/[database][?name=value&…]`. The last `/` is the one before the database, and
/// the last `@` before that ends the password: so either may be in it.
fn mysql_go(dsn: &str) -> Result<MySql> {
    // Behind an address it is found also if there are others in the values; Go would want those percent-encoded.
    let behind_address = dsn.rfind(")/").map(|place| place + 1).filter(|place| !dsn[*place..].contains('@'));
    let slash = behind_address.or_else(|| dsn.rfind('/'));
    let slash = slash.ok_or(Malformed("the / before the name of the database is missing"))?;
    let (front, back) = (&dsn[..slash], &dsn[slash + 1..]);
    let (database, query) = match back.split_once('?') {
        Some((database, query)) => (database, Some(query)),
        None => (back, None),
    };
    let mut parts = Parts { database: Some(decoded(database)?), ..Parts::default() };
    let network = match front.rfind('@') {
        None => front,
        Some(at) => {
            let (user, password) = match front[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&front[..at], None),
            };
            parts.user = Some(user.to_owned());
            parts.password = password.map(str::to_owned);
            &front[at + 1..]
        }
    };
    let (network, address) = match network.split_once('(') {
        None => (network, None),
        Some((network, address)) => {
            let address = address.strip_suffix(')');
            (network, Some(address.ok_or(Malformed("the ) behind the address is missing"))?))
        }
    };
    match (network, address) {
        ("" | "tcp", None | Some("")) => {}
        ("unix", Some(path)) if path.starts_with('/') => parts.socket = Some(path.into()),
        ("unix", _) => return Err(Malformed("the path of the socket in unix(/path) is missing")),
        ("" | "tcp" | "tcp4" | "tcp6", Some(address)) => {
            let (host, port) = host_and_port(address)?;
            parts.host = Some(host.to_owned());
            parts.port = port;
        }
        _ => return Err(Malformed("the network is neither tcp(host:port) nor unix(/path)")),
    }
    let mut options = MySqlOptions::new();
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(Malformed("a parameter has no value"))?;
        options.take(&mut parts, name, &decoded(&value.replace('+', " "))?)?;
    }
    options.finish(parts)
}

fn host_and_port(address: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or(Malformed("the ] behind the address is missing"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(Malformed("the address is not host:port")),
            }
        }
        None => match address.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(Malformed("an IPv6 address stands in brackets, as in [::1]:3306"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = port.map(|port| port.parse().map_err(|_| Malformed("the port is no number from 0 to 65535")));
    Ok((host, port.transpose()?))
}

fn postgres(dsn: &str) -> Result<Postgres> {
    let mut options = PostgresOptions::default();
    let mut parts;
    if dsn.starts_with("postgres://") || dsn.starts_with("postgresql://") {
        // The form with a socket, postgres://user@%2Fpath/database, is no URL to everybody.
        let url = parsed_url(dsn)?;
        parts = Parts::of_url(&url)?;
        if let Some(host) = parts.host.take() {
            options.host(&mut parts, &host);
        }
        for (name, value) in url.query_pairs() {
            options.take(&mut parts, &name, &value)?;
        }
    } else {
        parts = Parts::default();
        for (name, value) in pairs(dsn)? {
            options.take(&mut parts, &name, &value)?;
        }
    }
    options.finish(parts)
}

#[derive(Default)]
struct PostgresOptions {
    application_name: Option<String>,
    // A folder: the name of the socket in it has the port.
    folder: Option<String>,
}

impl PostgresOptions {
    fn host(&mut self, parts: &mut Parts, host: &str) {
        if host.starts_with('/') {
            self.folder = Some(host.to_owned());
        } else {
            self.folder = None;
            parts.host = Some(host.to_owned());
        }
    }

    fn take(&mut self, parts: &mut Parts, name: &str, value: &str) -> Result<()> {
        match name {
            "host" if value.contains(',') => {
                return Err(Malformed("it names several hosts, and one is possible"));
            }
            "host" => self.host(parts, value),
            "hostaddr" => {
                parts.address = Some(value.parse().map_err(|_| Malformed("hostaddr is no address"))?);
            }
            "port" => {
                parts.port =
                    Some(value.parse().map_err(|_| Malformed("the port is no number from 0 to 65535"))?);
            }
            "dbname" | "database" => parts.database = Some(value.to_owned()),
            "user" => parts.user = Some(value.to_owned()),
            "password" => parts.password = Some(value.to_owned()),
            "sslmode" | "ssl-mode" => {
                parts.tls.mode = match value {
                    "disable" => TlsMode::Disabled,
                    "allow" | "prefer" => TlsMode::Preferred,
                    "require" => TlsMode::Required,
                    "verify-ca" => TlsMode::VerifyAuthority,
                    "verify-full" => TlsMode::VerifyName,
                    _ => {
                        return Err(Malformed(
                            "sslmode is one of disable, allow, prefer, require, verify-ca, verify-full",
                        ));
                    }
                }
            }
            "sslrootcert" | "ssl-root-cert" => parts.tls.authorities = Some(value.into()),
            "sslcert" | "ssl-cert" => parts.tls.certificate = Some(value.into()),
            "sslkey" | "ssl-key" => parts.tls.key = Some(value.into()),
            "connect_timeout" => {
                // Zero is "no limit" there, and no limit is what we never have.
                parts.connect_timeout = Some(time(value)?).filter(|time| !time.is_zero());
            }
            "application_name" | "fallback_application_name" => {
                self.application_name = Some(value.to_owned())
            }
            "options" => parts.settings.extend(command_line(value)?),
            // Of other libraries: what they are about is otherwise here, or is always so.
            "binary_parameters"
            | "channel_binding"
            | "client_encoding"
            | "gssencmode"
            | "keepalives"
            | "keepalives_count"
            | "keepalives_idle"
            | "keepalives_interval"
            | "krbsrvname"
            | "passfile"
            | "requirepeer"
            | "service"
            | "sslcompression"
            | "sslsni"
            | "statement-cache-capacity"
            | "target_session_attrs"
            | "tcp_user_timeout" => {}
            _ => parts.settings.push(setting(name, value)?),
        }
        Ok(())
    }

    fn finish(self, mut parts: Parts) -> Result<Postgres> {
        if let Some(folder) = self.folder {
            let port = parts.port.unwrap_or(5432);
            parts.socket = Some(PathBuf::from(folder).join(format!(".s.PGSQL.{port}")));
        }
        if parts.tls.mode == TlsMode::Required && parts.tls.authorities.is_some() {
            // As libpq has it: whoever names authorities wants them to be looked at.
            parts.tls.mode = TlsMode::VerifyAuthority;
        }
        let mut login = parts.login(5432, || Err(Malformed("the user is missing")))?;
        if login.database.is_none() {
            login.database = Some(login.user.clone());
        }
        let application_name = self.application_name.unwrap_or_else(|| APPLICATION_NAME.to_owned());
        if application_name.contains(char::is_control) {
            return Err(Malformed("it has a control character"));
        }
        Ok(Postgres { login, application_name })
    }
}

/// `name=value name='a value' …`, with a backslash before quotes and backslashes in values.
fn pairs(dsn: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(Malformed(
            "it is neither a URL, postgres://user:password@host/database, nor a list, host=… user=… dbname=…",
        ))?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Malformed("a parameter has no value; put a value with blanks in it between quotes"));
        }
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut characters = after.char_indices().skip(usize::from(quoted));
        let mut value = String::new();
        let end = loop {
            match characters.next() {
                None if quoted => return Err(Malformed("the ' at the end of a value is missing")),
                None => break after.len(),
                Some((at, '\'')) if quoted => break at + 1,
                Some((at, c)) if !quoted && c.is_whitespace() => break at,
                Some((_, '\\')) => match characters.next() {
                    Some((_, escaped)) => value.push(escaped),
                    None => return Err(Malformed("there is nothing behind the last \\")),
                },
                Some((_, c)) => value.push(c),
            }
        };
        pairs.push((name.to_owned(), value));
        let behind = &after[end..];
        rest = behind.trim_start();
        if quoted && !behind.is_empty() && behind.len() == rest.len() {
            return Err(Malformed("there is something right behind the ' at the end of a value"));
        }
    }
    Ok(pairs)
}

/// `-c name=value --name=value`, as in `options`. A backslash stands before a blank that is part of a value.
fn command_line(text: &str) -> Result<Vec<(String, String)>> {
    const NO_OPTION: Malformed = Malformed("options are written as -c name=value");
    let mut words: Vec<String> = Vec::new();
    let mut in_word = false;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c.is_whitespace() {
            in_word = false;
            continue;
        }
        if !in_word {
            words.push(String::new());
            in_word = true;
        }
        let c = if c == '\\' { characters.next().ok_or(NO_OPTION)? } else { c };
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(pair), _) => pair.to_owned(),
            (None, Some("")) => words.next().ok_or(NO_OPTION)?,
            (None, Some(pair)) => pair.to_owned(),
            (None, None) => return Err(NO_OPTION),
        };
        let (name, value) = pair.split_once('=').ok_or(NO_OPTION)?;
        settings.push(setting(&name.replace('-', "_"), value)?);
    }
    Ok(settings)
}

fn sqlite(dsn: &str) -> Result<Sqlite> {
    let has_scheme = ["sqlite:", "sqlite3:", "file:"].iter().find_map(|scheme| dsn.strip_prefix(scheme));
    let (path, query) = match has_scheme {
        // What is no URL is a path, whatever is in it.
        None => (dsn.to_owned(), None),
        Some(rest) => {
            let (path, query) = match rest.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (rest, None),
            };
            (decoded(path.strip_prefix("//").unwrap_or(path))?, query)
        }
    };
    let mut mode = FileMode::Create;
    let mut memory = path == ":memory:";
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        match pair {
            "mode=ro" => mode = FileMode::Read,
            "mode=rw" => mode = FileMode::Write,
            "mode=rwc" => mode = FileMode::Create,
            "mode=memory" => memory = true,
            _ => return Err(Malformed("the one parameter there is is mode: ro, rw, rwc or memory")),
        }
    }
    if memory {
        return Ok(Sqlite::Memory);
    }
    if path.is_empty() {
        return Err(Malformed("the path of the file is missing; :memory: is a database without one"));
    }
    Ok(Sqlite::File { path, mode })
}

#[cfg(test)]
mod tests;

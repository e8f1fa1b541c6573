//! Where Redis is, and how its clients are set up.
//!
//! Must always hold: no secret is ever printed, neither by `Debug` nor by `Display` nor inside an error; every client
//! has explicit timeouts, sends a command once at most, and reconnects for ever.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use fred::types::Builder;
use fred::types::RespVersion;
use fred::types::config::{
    ClusterDiscoveryPolicy, Config, ReconnectError, ReconnectPolicy, Server, ServerConfig, TcpConfig,
    TlsConfig, TlsConnector,
};

use crate::error::Error;

const PORT_DEFAULT: u16 = 6379;
const SENTINEL_PORT_DEFAULT: u16 = 26379;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before a reconnect; later ones double.
const RECONNECT_MS_MIN: u32 = 20;
const RECONNECT_MS_MAX: u32 = 1_000;
const RECONNECT_MS_JITTER: u32 = 20;

/// A text that never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for those that have to send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where Redis is: one of the forms `host:port`, `redis://[user:password@]host[:port][/db]`, `rediss://…` (TLS),
/// `redis-cluster://h1[:port],h2`, `redis-sentinel://h1[:port],h2?sentinelServiceName=m`, `unix:PATH`; `rediss-cluster`
/// and `rediss-sentinel` are the same over TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisAddress {
    server: ServerAddress,
    tls: bool,
    username: Option<String>,
    password: Option<Secret>,
    database: Option<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum ServerAddress {
    Single(Host),
    Cluster(Vec<Host>),
    Sentinel { hosts: Vec<Host>, service: String, username: Option<String>, password: Option<Secret> },
    Unix(PathBuf),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Host {
    name: String,
    port: u16,
}

/// Why a text is no address. Carries nothing of the part where a password may stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a redis address: {0}")]
pub struct AddressError(String);

impl AddressError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl FromStr for RedisAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::new("it is empty"));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return parse_url(scheme, rest);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if text.contains('@') {
            return Err(AddressError::new(
                "a user or password needs the form redis://user:password@host:port",
            ));
        }
        let host = parse_host(text, None)?;
        Ok(Self::plain(ServerAddress::Single(host)))
    }
}

impl RedisAddress {
    fn plain(server: ServerAddress) -> Self {
        Self { server, tls: false, username: None, password: None, database: None }
    }

    /// Whether this is a Redis Cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.server, ServerAddress::Cluster(_))
    }
}

fn unix(path: &str) -> Result<RedisAddress, AddressError> {
    if path.is_empty() {
        return Err(AddressError::new("unix: needs the path of a socket"));
    }
    Ok(RedisAddress::plain(ServerAddress::Unix(PathBuf::from(path))))
}

fn parse_url(scheme: &str, rest: &str) -> Result<RedisAddress, AddressError> {
    let (tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, kind),
        None => (false, scheme.strip_prefix("redis").unwrap_or(scheme)),
    };
    if scheme == "unix" {
        return unix(rest);
    }
    let (rest, query) = match rest.split_once('?') {
        // What stands before the @ may be a password, of which nothing must be named below.
        Some((_, query)) if query.contains('@') => {
            return Err(AddressError::new("a ? or @ in a password or parameter must be written %3F or %40"));
        }
        Some((rest, query)) => (rest, parse_query(query)?),
        None => (rest, Vec::new()),
    };
    // A password may hold a slash that was not encoded, hosts never hold an @.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (username, password) = match user {
        None => (None, None),
        Some(user) => parse_user(user)?,
    };
    let database = match path.trim_end_matches('/') {
        "" => None,
        text => Some(
            text.parse::<u8>()
                .map_err(|_| AddressError::new(format!("database {text:?} is not a number from 0 to 255")))?,
        ),
    };
    let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let only = |known: &[&str]| match query.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(AddressError::new(format!("parameter {key:?} is not known"))),
        None => Ok(()),
    };
    let server = match kind {
        "" => {
            only(&[])?;
            if hosts.contains(',') {
                return Err(AddressError::new("several hosts need redis-cluster:// or redis-sentinel://"));
            }
            ServerAddress::Single(parse_host(hosts, Some(PORT_DEFAULT))?)
        }
        "-cluster" => {
            only(&[])?;
            if database.is_some_and(|database| database != 0) {
                return Err(AddressError::new("a redis cluster has database 0 only"));
            }
            ServerAddress::Cluster(parse_hosts(hosts, PORT_DEFAULT)?)
        }
        "-sentinel" => {
            only(&["sentinelServiceName", "sentinelUsername", "sentinelPassword"])?;
            let service = of("sentinelServiceName")
                .filter(|name| !name.is_empty())
                .ok_or_else(|| AddressError::new("redis-sentinel:// needs ?sentinelServiceName=NAME"))?;
            ServerAddress::Sentinel {
                hosts: parse_hosts(hosts, SENTINEL_PORT_DEFAULT)?,
                service,
                username: of("sentinelUsername"),
                password: of("sentinelPassword").map(Secret),
            }
        }
        _ => {
            return Err(AddressError::new(format!(
                "scheme {scheme:?} is not known: use redis, rediss, redis-cluster, redis-sentinel or unix"
            )));
        }
    };
    Ok(RedisAddress { server, tls, username, password, database })
}

fn parse_user(user: &str) -> Result<(Option<String>, Option<Secret>), AddressError> {
    let (name, password) = match user.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (user, None),
    };
    let name = decode(name)?;
    let password = password.map(decode).transpose()?.filter(|password| !password.is_empty());
    Ok((Some(name).filter(|name| !name.is_empty()), password.map(Secret)))
}

fn parse_query(query: &str) -> Result<Vec<(String, String)>, AddressError> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

fn parse_hosts(text: &str, port: u16) -> Result<Vec<Host>, AddressError> {
    text.split(',').map(|host| parse_host(host.trim(), Some(port))).collect()
}

/// `host:port`, `[v6]:port`; without a port only where there is a default.
fn parse_host(text: &str, port: Option<u16>) -> Result<Host, AddressError> {
    let expected = || AddressError::new(format!("{text:?} is not of the form host:port"));
    let (name, rest) = match text.strip_prefix('[') {
        Some(text) => text.split_once(']').ok_or_else(expected)?,
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) => match digits.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(AddressError::new(format!("{digits:?} in {text:?} is not a port"))),
        },
        None if rest.is_empty() => port.ok_or_else(expected)?,
        None => return Err(expected()),
    };
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(expected());
    }
    Ok(Host { name: name.to_owned(), port })
}

/// Percent-decoding. An error says nothing of the text: it may be a password.
fn decode(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = rest.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return Err(AddressError::new("a % in a user, password or parameter must be written %25"));
        };
        bytes.push(code);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| AddressError::new("a user, password or parameter is not UTF-8"))
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { "s" } else { "" };
        match &self.server {
            ServerAddress::Unix(path) => return write!(f, "unix:{}", path.display()),
            ServerAddress::Single(_) => write!(f, "redis{tls}://")?,
            ServerAddress::Cluster(_) => write!(f, "redis{tls}-cluster://")?,
            ServerAddress::Sentinel { .. } => write!(f, "redis{tls}-sentinel://")?,
        }
        match (&self.username, &self.password) {
            (None, None) => {}
            (username, None) => write!(f, "{}@", username.as_deref().unwrap_or(""))?,
            (username, Some(_)) => write!(f, "{}:***@", username.as_deref().unwrap_or(""))?,
        }
        let hosts = match &self.server {
            ServerAddress::Single(host) => std::slice::from_ref(host),
            ServerAddress::Cluster(hosts) | ServerAddress::Sentinel { hosts, .. } => hosts,
            ServerAddress::Unix(_) => &[],
        };
        for (nth, Host { name, port }) in hosts.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            match name.contains(':') {
                true => write!(f, "{comma}[{name}]:{port}")?,
                false => write!(f, "{comma}{name}:{port}")?,
            }
        }
        if let Some(database) = self.database {
            write!(f, "/{database}")?;
        }
        if let ServerAddress::Sentinel { service, .. } = &self.server {
            write!(f, "?sentinelServiceName={service}")?;
        }
        Ok(())
    }
}

/// How to reach Redis: the address, and user and password given beside it, which win over those inside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub address: RedisAddress,
    /// `--redis-username`.
    pub username: Option<String>,
    /// `--redis-password`.
    pub password: Option<Secret>,
}

impl RedisConfig {
    /// A configuration with nothing but an address.
    #[must_use]
    pub fn new(address: RedisAddress) -> Self {
        Self { address, username: None, password: None }
    }

    /// The client's configuration: RESP2 (the watch connection asks for RESP3 itself), first connection reported.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client_config(&self) -> Result<Config, Error> {
        let server = |host: &Host| Server::new(host.name.clone(), host.port);
        let servers = |hosts: &[Host]| hosts.iter().map(server).collect();
        let server = match &self.address.server {
            ServerAddress::Single(host) => ServerConfig::Centralized { server: server(host) },
            ServerAddress::Cluster(hosts) => ServerConfig::Clustered {
                hosts: servers(hosts),
                // Seeds may go away in time: the nodes heard of since serve as well.
                policy: ClusterDiscoveryPolicy::UseCache,
            },
            ServerAddress::Sentinel { hosts, service, username, password } => ServerConfig::Sentinel {
                hosts: servers(hosts),
                service_name: service.clone(),
                username: username.clone(),
                password: password.as_ref().map(|secret| secret.expose().to_owned()),
            },
            ServerAddress::Unix(path) => ServerConfig::Unix { path: path.clone() },
        };
        let tls = match self.address.tls {
            true => Some(TlsConfig::from(TlsConnector::default_rustls().map_err(|error| {
                Error::Config(format!("TLS for redis cannot be set up: {}", error.details()))
            })?)),
            false => None,
        };
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let password = self.password.as_ref().filter(|secret| !secret.expose().is_empty());
        Ok(Config {
            fail_fast: true,
            username: given(&self.username).or_else(|| self.address.username.clone()),
            password: password.or(self.address.password.as_ref()).map(|secret| secret.expose().to_owned()),
            server,
            version: RespVersion::RESP2,
            database: self.address.database,
            tls,
            ..Config::default()
        })
    }

    /// What clients are built with: one attempt per command and `command_timeout` for it, timeouts for connecting, a
    /// reconnect policy that never gives up.
    ///
    /// # Errors
    /// As [`client_config`](Self::client_config).
    pub fn builder(&self, command_timeout: Duration) -> Result<Builder, Error> {
        let mut builder = Builder::from_config(self.client_config()?);
        let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS_MIN, RECONNECT_MS_MAX, 2);
        policy.set_jitter(RECONNECT_MS_JITTER);
        builder.set_policy(policy);
        builder.with_performance_config(|performance| {
            performance.default_command_timeout = command_timeout;
        });
        builder.with_connection_config(|connection| {
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            // A command that may have been carried out is never sent again by the client.
            connection.max_command_attempts = 1;
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            // Whoever answers this is no longer, or not yet, the server we want: look for it again.
            connection.reconnect_errors =
                vec![ReconnectError::ClusterDown, ReconnectError::Loading, ReconnectError::ReadOnly];
        });
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<RedisAddress>() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_form_is_understood() {
        for (text, expect) in [
            ("localhost:6379", "redis://localhost:6379"),
            ("[::1]:7000", "redis://[::1]:7000"),
            ("redis://h", "redis://h:6379"),
            ("redis://h:1/", "redis://h:1"),
            ("redis://u:p@h:1/3", "redis://u:***@h:1/3"),
            ("redis://:p@h", "redis://:***@h:6379"),
            ("redis://:p/@x@h", "redis://:***@h:6379"),
            ("rediss://h", "rediss://h:6379"),
            ("redis-cluster://a,b:7001", "redis-cluster://a:6379,b:7001"),
            ("rediss-cluster://a", "rediss-cluster://a:6379"),
            (
                "redis-sentinel://a,b:1/2?sentinelServiceName=m",
                "redis-sentinel://a:26379,b:1/2?sentinelServiceName=m",
            ),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
            ("unix:///run/redis.sock", "unix:/run/redis.sock"),
        ] {
            assert_eq!(shown(text), expect, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_with_it() {
        for (text, expect) in [
            ("", "it is empty"),
            ("localhost", "\"localhost\" is not of the form host:port"),
            ("localhost:", "\"\" in \"localhost:\" is not a port"),
            ("localhost:99999", "\"99999\" in \"localhost:99999\" is not a port"),
            (":6379", "\":6379\" is not of the form host:port"),
            (
                "http://h:1",
                "scheme \"http\" is not known: use redis, rediss, redis-cluster, redis-sentinel or unix",
            ),
            ("user:secret@h:1", "a user or password needs the form redis://user:password@host:port"),
            ("redis://u:secret%@h", "a % in a user, password or parameter must be written %25"),
            ("redis://u:secret@h:x", "\"x\" in \"h:x\" is not a port"),
            ("redis://u:hush?secret@h:1", "a ? or @ in a password or parameter must be written %3F or %40"),
            (
                "redis-sentinel://u:hush?secret@h?sentinelServiceName=m",
                "a ? or @ in a password or parameter must be written %3F or %40",
            ),
            ("redis://h/x", "database \"x\" is not a number from 0 to 255"),
            ("redis://a,b", "several hosts need redis-cluster:// or redis-sentinel://"),
            ("redis-sentinel://a", "redis-sentinel:// needs ?sentinelServiceName=NAME"),
            ("redis-cluster://a/3", "a redis cluster has database 0 only"),
            ("redis://h?x=1", "parameter \"x\" is not known"),
            ("unix:", "unix: needs the path of a socket"),
        ] {
            assert_eq!(shown(text), format!("not a redis address: {expect}"), "{text}");
        }
    }

    #[test]
    fn no_secret_prints() {
        let mut config = RedisConfig::new(
            "redis-sentinel://u:hush1@h?sentinelServiceName=m&sentinelPassword=hush2".parse().unwrap(),
        );
        config.password = Some(Secret::new("hush3"));
        for text in [format!("{config:?}"), format!("{config:#?}"), config.address.to_string()] {
            assert!(!text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn what_is_given_beside_the_address_wins() {
        let mut config = RedisConfig::new("redis://u:p%40@h/2".parse().unwrap());
        let client = config.client_config().unwrap();
        assert_eq!((client.username.as_deref(), client.password.as_deref()), (Some("u"), Some("p@")));
        assert_eq!(client.database, Some(2));
        config.username = Some(String::new());
        config.password = Some(Secret::new("q"));
        let client = config.client_config().unwrap();
        assert_eq!((client.username.as_deref(), client.password.as_deref()), (Some("u"), Some("q")));
    }

    #[test]
    fn clients_send_once_and_never_wait_or_give_up_for_ever() {
        let config = RedisConfig::new("h:1".parse().unwrap());
        let builder = config.builder(Duration::from_millis(420)).unwrap();
        assert_eq!(builder.get_connection_config().max_command_attempts, 1);
        assert_eq!(builder.get_performance_config().default_command_timeout, Duration::from_millis(420));
        assert_eq!(builder.get_policy().map(ReconnectPolicy::max_attempts), Some(0));
    }
}

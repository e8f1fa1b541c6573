//! What scripts may reach over the network, whichever module they use.
//!
//! An [`Egress`] judges *addresses*, not texts: whatever a host is written as, it is turned into addresses once, each of
//! them is judged, and the caller connects to what [`Egress::resolve`] returned and to nothing else. So a name that
//! resolves to something else a moment later changes nothing.
//!
//! What must hold:
//! - Nobody looks a name up a second time between the check and the connection.
//! - An address that carries an IPv4 address inside (mapped, NAT64, 6to4 …) is judged by that one.
//! - Link-local, metadata, multicast and broadcast addresses are refused whatever the rules say.
//! - The worker's own health port ([`Egress::with_health_port`]) is refused at every address of this machine unless a rule
//!   of `allow` is `health-port`; no other rule opens it. Scripts could fill it, and the worker's probes would time out.
//!
//! A rule of `allow` makes an exception from those of `deny`; what no rule of `deny` names is allowed.

mod address;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::Semaphore;

use self::address::Views;
use crate::host::BoxFuture;

/// Which addresses and hosts scripts may reach. Cheap to clone. By default all but those that are always refused.
#[derive(Clone)]
pub struct Egress {
    allow: Arc<[Rule]>,
    deny: Arc<[Rule]>,
    /// The worker's own health port, if it has one.
    health_port: Option<u16>,
    resolver: Arc<dyn Resolve>,
}

/// One item of the lists of what is allowed and what is denied.
///
/// `10.0.0.0/8` and `::1` name addresses, `db.internal` and `*.example.org` hosts by their names (the second one those
/// below `example.org`), `private` all addresses that are not of the public internet, `health-port` the worker's own health
/// port on this machine, and `*` everything but that port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    All,
    Private,
    HealthPort,
    // The address has no bits beyond the prefix, and is no mapped one.
    Range { address: IpAddr, prefix: u8 },
    // Lower case, as in DNS, without a dot at the end.
    Host(String),
    // `*.` is left out.
    Below(String),
}

/// A text that is no [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(String);

/// A host as it was meant, whatever it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name, in lower case and ASCII.
    Name(String),
}

/// Something that scripts may not reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{target} is out of reach for scripts: {why}")]
pub struct Denied {
    target: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Never(&'static str),
    Rule(Rule),
    HealthPort,
}

/// Why a host leads to no address that may be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is forbidden.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The text is no host.
    #[error("{0:?} is no host")]
    Host(String),
    /// The look-up failed.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The look-up gave nothing.
    #[error("{0} has no address")]
    NoAddress(String),
}

/// From a name to its addresses.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up a name. Called once for each connection that is to be made.
    fn resolve(&self, host: &str) -> BoxFuture<io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system, for some look-ups at a time: each takes an OS thread of those that the whole
/// process has for such things, until the system gives up, whether anybody still waits for it or not.
#[derive(Clone, Debug)]
pub struct SystemResolver {
    turns: Arc<Semaphore>,
}

impl SystemResolver {
    /// How many look-ups go on at a time.
    pub const LOOKUPS_MAX: usize = 64;
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(Self::LOOKUPS_MAX)) }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<io::Result<Vec<IpAddr>>> {
        let (host, turns) = (host.to_owned(), self.turns.clone());
        Box::pin(async move {
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            // A task of its own, so that the turn lasts as long as the look-up does.
            let lookup = tokio::spawn(async move {
                let found = tokio::net::lookup_host((host.as_str(), 0)).await;
                drop(turn);
                found.map(|found| found.map(|address| address.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

impl Egress {
    /// A policy of these lists.
    #[must_use]
    pub fn new(allow: impl Into<Arc<[Rule]>>, deny: impl Into<Arc<[Rule]>>) -> Self {
        let resolver = Arc::new(SystemResolver::default());
        Self { allow: allow.into(), deny: deny.into(), health_port: None, resolver }
    }

    /// Reads both lists, whose items are separated by commas; an empty text is an empty list.
    ///
    /// # Errors
    /// The first item that is no [`Rule`].
    pub fn parse(allow: &str, deny: &str) -> Result<Self, RuleError> {
        let rules = |list: &str| match list.trim() {
            "" => Ok(Vec::new()),
            list => list.split(',').map(|item| item.trim().parse()).collect::<Result<Vec<Rule>, _>>(),
        };
        Ok(Self::new(rules(allow)?, rules(deny)?))
    }

    /// The same policy with another resolver than that of the system.
    #[must_use]
    pub fn with_resolver(self, resolver: impl Resolve) -> Self {
        Self { resolver: Arc::new(resolver), ..self }
    }

    /// The same policy for scripts of a worker with this health port, as it was bound (never 0).
    #[must_use]
    pub fn with_health_port(self, port: u16) -> Self {
        Self { health_port: Some(port), ..self }
    }

    /// The worker's health port, if it is closed to scripts.
    pub(crate) fn guarded_port(&self) -> Option<u16> {
        self.health_port.filter(|_| !self.allow.iter().any(Rule::is_health_port))
    }

    /// Whether an address and port may be connected to.
    fn check_address(&self, address: SocketAddr) -> Result<(), Denied> {
        self.check(address.ip())?;
        self.check_health_port(address)
    }

    /// Refuses the worker's own health port, at whatever address of this machine.
    fn check_health_port(&self, address: SocketAddr) -> Result<(), Denied> {
        if self.guarded_port() != Some(address.port()) {
            return Ok(());
        }
        if Views::of(address.ip()).targets.into_iter().any(is_local) {
            return Err(Denied { target: address.to_string(), why: Why::HealthPort });
        }
        Ok(())
    }

    /// Whether an address may be connected to, whichever the port.
    ///
    /// # Errors
    /// [`Denied`] says why not.
    pub fn check(&self, ip: IpAddr) -> Result<(), Denied> {
        let views = Views::of(ip);
        never(ip, &views)?;
        let denied = |rule: &Rule| Denied { target: ip.to_string(), why: Why::Rule(rule.clone()) };
        // What it is written as, which only a range can mean.
        let named = |rules: &[Rule]| rules.iter().find(|rule| rule.ranges_over(views.written)).cloned();
        if let Some(rule) = named(&self.deny)
            && named(&self.allow).is_none()
        {
            return Err(denied(&rule));
        }
        // Where it leads to.
        for target in &views.targets {
            if !self.allow.iter().any(|rule| rule.matches(*target))
                && let Some(rule) = self.deny.iter().find(|rule| rule.matches(*target))
            {
                return Err(denied(rule));
            }
        }
        Ok(())
    }

    /// Whether a host may be connected to, as far as can be said without looking it up: for a literal address that is
    /// all, a name's addresses are judged by [`Self::resolve`].
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Error::Host`] for a text that is no host.
    pub fn check_host(&self, host: &str, port: u16) -> Result<Host, Error> {
        let host = Host::parse(host)?;
        match &host {
            Host::Address(ip) => self.check_address(SocketAddr::new(*ip, port))?,
            Host::Name(name) => {
                self.check_name(name)?;
            }
        }
        Ok(host)
    }

    /// Looks a host up, once, and returns those of its addresses that may be connected to. The caller connects to one
    /// of these and looks up nothing more. A literal address is only judged.
    ///
    /// # Errors
    /// [`Error::Denied`] if there is an address but none that is allowed; else why there is none.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        let name = match self.check_host(host, port)? {
            Host::Address(ip) => return Ok(vec![SocketAddr::new(ip, port)]),
            Host::Name(name) => name,
        };
        let allowed_by_name = self.check_name(&name)?;
        let found = self.resolver.resolve(&name).await;
        let found = found.map_err(|source| Error::Resolve { host: name.clone(), source })?;
        let mut allowed: Vec<SocketAddr> = Vec::new();
        let mut refused = None;
        for ip in found {
            let address = SocketAddr::new(ip, port);
            let judged = if allowed_by_name {
                never(ip, &Views::of(ip)).and_then(|()| self.check_health_port(address))
            } else {
                self.check_address(address)
            };
            match judged {
                Ok(()) => {
                    if !allowed.contains(&address) {
                        allowed.push(address);
                    }
                }
                Err(denied) => {
                    let target = format!("{name} ({})", denied.target);
                    refused.get_or_insert(Denied { target, ..denied });
                }
            }
        }
        match refused {
            _ if !allowed.is_empty() => Ok(allowed),
            Some(denied) => Err(denied.into()),
            None => Err(Error::NoAddress(name)),
        }
    }

    /// True if the name is allowed as such, false if its addresses have to be.
    fn check_name(&self, name: &str) -> Result<bool, Denied> {
        if self.allow.iter().any(|rule| rule.names(name)) {
            return Ok(true);
        }
        let denied = |rule: &Rule| Denied { target: name.to_owned(), why: Why::Rule(rule.clone()) };
        if let Some(rule) = self.deny.iter().find(|rule| rule.names(name)) {
            return Err(denied(rule));
        }
        // Where no address could be allowed, the name is not even looked up: it could tell something to whoever answers.
        match self.deny.iter().find(|rule| rule.0 == Kind::All) {
            Some(rule) if !self.allow.iter().any(Rule::has_addresses) => Err(denied(rule)),
            _ => Ok(false),
        }
    }
}

/// Whether packets to this address stay on this machine. No name is looked up and nothing is sent: a socket can be bound to
/// the addresses of this machine and to no others, unless the system is told otherwise (`ip_nonlocal_bind`), in which case
/// too much is taken for local rather than too little.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// What no rule can allow.
fn never(ip: IpAddr, views: &Views) -> Result<(), Denied> {
    match views.never() {
        Some(why) => Err(Denied { target: ip.to_string(), why: Why::Never(why) }),
        None => Ok(()),
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self::new([], [])
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("allow", &self.allow).field("deny", &self.deny).finish_non_exhaustive()
    }
}

impl Rule {
    /// Whether it can allow an address whose name no rule has.
    fn has_addresses(&self) -> bool {
        matches!(self.0, Kind::All | Kind::Private | Kind::Range { .. })
    }

    /// Whether it is `health-port`, which is closed unless it is allowed, whatever else is denied.
    #[must_use]
    pub fn is_health_port(&self) -> bool {
        self.0 == Kind::HealthPort
    }

    /// True for a range with this address in it.
    fn ranges_over(&self, ip: IpAddr) -> bool {
        match self.0 {
            Kind::Range { address, prefix } => address::in_range(ip, address, prefix),
            _ => false,
        }
    }

    fn matches(&self, ip: IpAddr) -> bool {
        match &self.0 {
            Kind::All => true,
            Kind::Private => address::is_private(ip),
            Kind::Range { .. } => self.ranges_over(ip),
            Kind::Host(_) | Kind::Below(_) | Kind::HealthPort => false,
        }
    }

    fn names(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match &self.0 {
            Kind::Host(host) => name == host,
            Kind::Below(domain) => name.strip_suffix(domain.as_str()).is_some_and(|sub| sub.ends_with('.')),
            _ => false,
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let refuse = |hint: &str| {
            let expected = "expected a host, a range such as `10.0.0.0/8`, `private`, `health-port` or `*`";
            let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
            let hint = if hint.is_empty() { String::new() } else { format!(": {hint}") };
            RuleError(format!("{expected}, got `{shown}`{hint}"))
        };
        match text {
            "*" => return Ok(Self(Kind::All)),
            "private" => return Ok(Self(Kind::Private)),
            "health-port" => return Ok(Self(Kind::HealthPort)),
            _ => {}
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let all = if address.is_ipv4() { 32 } else { 128 };
            let is_number = |bits: &str| !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
            let prefix = match bits {
                None => all,
                Some(bits) if is_number(bits) => bits.parse().map_err(|_| refuse(""))?,
                Some(_) => return Err(refuse("")),
            };
            if prefix > all {
                return Err(refuse(&format!("the prefix has at most {all} bits")));
            }
            let first = address::masked(address, prefix);
            if first != address {
                return Err(refuse(&format!("write `{first}/{prefix}` for the range, or `{address}` alone")));
            }
            return Ok(Self(match address {
                IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                    Kind::Range { address: v6.to_canonical(), prefix: prefix - 96 }
                }
                address => Kind::Range { address, prefix },
            }));
        }
        let (name, is_below) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        match Host::parse(name) {
            Ok(Host::Name(name)) if bits.is_none() && !name.contains('*') => {
                let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
                Ok(Self(if is_below { Kind::Below(name) } else { Kind::Host(name) }))
            }
            Ok(Host::Address(ip)) if !is_below => Err(refuse(&format!("write that address as `{ip}`"))),
            _ => Err(refuse("")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::All => f.write_str("*"),
            Kind::Private => f.write_str("private"),
            Kind::HealthPort => f.write_str("health-port"),
            Kind::Range { address, prefix } => write!(f, "{address}/{prefix}"),
            Kind::Host(name) => f.write_str(name),
            Kind::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

impl Host {
    /// Reads a host as browsers do: `127.1`, `0x7f000001`, `2130706433` and `１２７。０。０。１` are the address that
    /// they look like to a resolver, names are in lower case and ASCII. Brackets may stand around an IPv6 address or not.
    ///
    /// # Errors
    /// [`Error::Host`] for a text that is none, and for an IPv6 address with a zone.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let no_host = || Error::Host(text.chars().take(300).collect());
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if bare.is_some() || text.contains(':') {
            let v6: Ipv6Addr = bare.unwrap_or(text).parse().map_err(|_| no_host())?;
            return Ok(Self::Address(v6.into()));
        }
        match url::Host::parse(text).map_err(|_| no_host())? {
            url::Host::Ipv4(ip) => Ok(Self::Address(ip.into())),
            url::Host::Ipv6(ip) => Ok(Self::Address(ip.into())),
            // `..` and the like would be looked up as something else by every resolver.
            url::Host::Domain(name) if is_name(&name) => Ok(Self::Name(name)),
            url::Host::Domain(_) => Err(no_host()),
        }
    }
}

fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never(why) => f.write_str(why),
            Self::Rule(rule) => write!(f, "deny-net has `{rule}`"),
            Self::HealthPort => f.write_str(
                "it is this worker's own health port; `--allow-net health-port` opens it to scripts",
            ),
        }
    }
}

#[cfg(test)]
mod tests;

//! A TCP proxy between a worker and Redis that knows the wire format and does what networks do.
//!
//! ```text
//! worker ──▶ reader ─▶ queue ─▶ writer ──▶ redis      (requests; named when they are read)
//! worker ◀── writer ◀─ queue ◀─ reader ◀── redis      (replies; matched to their requests in order)
//! ```
//! What must always hold: bytes of one direction of one connection never change their order. A black hole keeps what
//! it swallowed and delivers it when the link heals, as TCP's own repetition would, even if the sender has given up
//! meanwhile: the late request is the nasty one. A cut loses everything under way.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use sha1::{Digest, Sha1};

use crate::clock;
use crate::resp::{Value, parse};

/// Which requests a rule is about.
#[derive(Clone, Debug)]
pub enum Match {
    /// A Lua script by its name: the first word of its source's first comment line.
    Lua(&'static str),
    /// A command by its name, in upper case.
    Command(&'static str),
    /// Any command with an argument that contains this.
    Argument(String),
}

/// What becomes of a request that matches.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The request never arrives: the connection is cut instead.
    LoseRequest,
    /// The request arrives late.
    DelayRequest(Duration),
    /// Redis does it, the connection is cut before the reply comes through.
    LoseReply,
    /// Redis does it, and neither this reply nor any later one on the connection comes through.
    SilenceAfter,
    /// The reply comes late, and with it those behind it.
    DelayReply(Duration),
}

/// A rule for the requests to come.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which.
    pub of: Match,
    /// How many matches to let through first.
    pub skip: usize,
    /// How many after those to act on.
    pub count: usize,
    /// What to do.
    pub action: Action,
}

/// The state of the link for all connections.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Whether new connections are taken.
    pub accepts: bool,
    /// Whether bytes reach Redis.
    pub to_server: bool,
    /// Whether bytes reach the worker.
    pub to_client: bool,
    /// Delay of each direction.
    pub latency: Duration,
}

impl Default for Link {
    fn default() -> Self {
        Self { accepts: true, to_server: true, to_client: true, latency: Duration::ZERO }
    }
}

/// A proxy; ends with its last handle's drop.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// A rule that was set, to see how often it has acted.
#[derive(Clone, Debug)]
pub struct Hits(Arc<AtomicU64>);

impl Hits {
    /// How often it has acted.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until it has acted at least once.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait(&self, within: Duration) -> Result<()> {
        clock::wait_for("a rule of the proxy to meet a request", within, || {
            Ok((self.count() > 0).then_some(()))
        })
    }
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    link: Link,
    rules: Vec<(Rule, Hits)>,
    /// Lua sources seen, by digest.
    lua: HashMap<String, String>,
    /// Requests seen, by Lua name or command.
    seen: HashMap<String, u64>,
    connections: HashMap<u64, (TcpStream, TcpStream)>,
    next: u64,
    closed: bool,
}

/// One connection's requests that wait for their replies.
#[derive(Debug, Default)]
struct Pending(Mutex<VecDeque<Option<Action>>>);

struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

impl Proxy {
    /// Starts a proxy before `upstream` on a free port.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("proxy accept".to_owned())
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the link.
    pub fn set(&self, link: Link) {
        self.shared.state().link = link;
        self.shared.changed.notify_all();
    }

    /// The link as at the beginning. Rules stay.
    pub fn heal(&self) {
        self.set(Link::default());
    }

    /// Cuts every connection; new ones are taken if the link says so.
    pub fn cut(&self) {
        let mut state = self.shared.state();
        for (client, server) in state.connections.drain().map(|(_, pair)| pair) {
            close(&client);
            close(&server);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Cuts every connection and takes no new one.
    pub fn refuse(&self) {
        self.set(Link { accepts: false, ..Link::default() });
        self.cut();
    }

    /// Adds a rule for the requests to come.
    pub fn rule(&self, rule: Rule) -> Hits {
        let hits = Hits(Arc::default());
        self.shared.state().rules.push((rule, hits.clone()));
        hits
    }

    /// Removes all rules.
    pub fn clear_rules(&self) {
        self.shared.state().rules.clear();
    }

    /// How many requests of a Lua script or command came by.
    pub fn seen(&self, name: &str) -> u64 {
        self.shared.state().seen.get(name).copied().unwrap_or(0)
    }

    /// Everything seen so far.
    pub fn all_seen(&self) -> HashMap<String, u64> {
        self.shared.state().seen.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.cut();
        // The accepting OS thread wakes by a last connection and sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Names a request, counts it, and says what the first rule that meets it wants.
    fn meet(&mut self, request: &Value) -> Option<Action> {
        let arguments = request.texts();
        let command = arguments.first()?.to_ascii_uppercase();
        let lua = match (command.as_str(), arguments.get(1)) {
            ("SCRIPT", Some(_)) => {
                if let Some(source) = arguments.get(2) {
                    self.learn(source);
                }
                None
            }
            ("EVAL", Some(source)) => Some(self.learn(source)),
            ("EVALSHA", Some(digest)) => self.lua.get(&digest.to_ascii_lowercase()).cloned(),
            _ => None,
        };
        *self.seen.entry(lua.clone().unwrap_or_else(|| command.clone())).or_default() += 1;
        for (rule, hits) in &mut self.rules {
            let met = match &rule.of {
                Match::Lua(name) => lua.as_deref() == Some(*name),
                Match::Command(name) => command == *name,
                Match::Argument(text) => arguments.iter().skip(1).any(|argument| argument.contains(text)),
            };
            if !met {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.count > 0 {
                rule.count -= 1;
                hits.0.fetch_add(1, Ordering::SeqCst);
                return Some(rule.action);
            }
        }
        None
    }

    fn learn(&mut self, source: &str) -> String {
        let digest: String =
            Sha1::digest(source.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = lua_name(source);
        self.lua.insert(digest, name.clone());
        name
    }
}

/// The first word of the comment line before the one about KEYS, or of the first one, without a `name:` before and a colon
/// or `.lua` behind it.
fn lua_name(source: &str) -> String {
    let header = source.split_once("\n-- KEYS").map_or(source, |(before, _)| before);
    let mut comments = header.lines().filter(|line| line.trim_start().starts_with("--"));
    let line = if header == source { comments.next() } else { comments.next_back() }.unwrap_or_default();
    let words = line.trim_start().trim_start_matches('-').trim().trim_start_matches("name:");
    let word = words.split_whitespace().next().unwrap_or_default();
    word.trim_end_matches([':', '.', ',', '(']).trim_end_matches(".lua").to_ascii_lowercase()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        {
            let state = shared.state();
            if state.closed {
                return;
            }
            if !state.link.accepts {
                continue;
            }
        }
        // A server that is down looks to the worker like a connection closed at once.
        let Ok(server) = TcpStream::connect_timeout(&shared.upstream, Duration::from_secs(2)) else {
            continue;
        };
        if carry(shared, &client, &server).is_err() {
            close(&client);
            close(&server);
        }
    }
}

fn close(stream: &TcpStream) {
    // Already closed by the other side is as good.
    let _closed = stream.shutdown(Shutdown::Both);
}

fn carry(shared: &Arc<Shared>, client: &TcpStream, server: &TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let id = {
        let mut state = shared.state();
        state.next += 1;
        let id = state.next;
        let pair = (client.try_clone()?, server.try_clone()?);
        state.connections.insert(id, pair);
        id
    };
    let pending = Arc::new(Pending::default());
    for requests in [true, false] {
        let (from, to) = if requests { (client, server) } else { (server, client) };
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (send, receive) = channel();
        let (reading, writing) = (Arc::clone(shared), Arc::clone(shared));
        let pending = Arc::clone(&pending);
        let name = if requests { "requests" } else { "replies" };
        std::thread::Builder::new()
            .name(format!("proxy read {name}"))
            .stack_size(256 * 1024)
            .spawn(move || Reader { shared: reading, id, pending, requests }.run(from, &send))?;
        std::thread::Builder::new()
            .name(format!("proxy write {name}"))
            .stack_size(256 * 1024)
            .spawn(move || write(&writing, id, requests, to, &receive))?;
    }
    Ok(())
}

struct Reader {
    shared: Arc<Shared>,
    id: u64,
    pending: Arc<Pending>,
    requests: bool,
}

impl Reader {
    fn run(&self, mut from: TcpStream, send: &Sender<Packet>) {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let mut silent = false;
        loop {
            let read = match from.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
            let latency = self.shared.state().link.latency;
            let mut taken = 0;
            let mut plain = 0;
            while let Ok(Some((value, length))) = parse(buffer.get(taken..).unwrap_or_default()) {
                let action = if self.requests { self.request(&value) } else { self.reply(&value) };
                if let Some(action) = action {
                    // What came before goes first and undelayed.
                    self.pass(&buffer, plain, taken, Duration::ZERO, latency, silent, send);
                    plain = taken;
                    match action {
                        Action::LoseRequest | Action::LoseReply => return self.cut(),
                        Action::SilenceAfter => silent = true,
                        Action::DelayRequest(delay) | Action::DelayReply(delay) => {
                            self.pass(&buffer, plain, taken + length, delay, latency, silent, send);
                            plain = taken + length;
                        }
                    }
                }
                taken += length;
            }
            self.pass(&buffer, plain, taken, Duration::ZERO, latency, silent, send);
            buffer.drain(..taken);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call shape for three places of one loop")]
    fn pass(
        &self,
        buffer: &[u8],
        from: usize,
        to: usize,
        delay: Duration,
        latency: Duration,
        silent: bool,
        send: &Sender<Packet>,
    ) {
        if from < to && !silent {
            let bytes = buffer.get(from..to).unwrap_or_default().to_vec();
            // The writer is gone only when the connection is.
            let _gone = send.send(Packet { due: Instant::now() + latency + delay, bytes });
        }
    }

    /// What becomes of a request; what concerns its reply is left for the reply.
    fn request(&self, request: &Value) -> Option<Action> {
        let action = self.shared.state().meet(request);
        let (now, then) = match action {
            Some(Action::LoseRequest | Action::DelayRequest(_)) => (action, None),
            later => (None, later),
        };
        self.pending.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(then);
        now
    }

    fn reply(&self, reply: &Value) -> Option<Action> {
        if matches!(reply, Value::Push(_)) {
            return None;
        }
        self.pending.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten()
    }

    fn cut(&self) {
        if let Some((client, server)) = self.shared.state().connections.remove(&self.id) {
            close(&client);
            close(&server);
        }
        self.shared.changed.notify_all();
    }
}

fn write(shared: &Shared, id: u64, requests: bool, mut to: TcpStream, receive: &Receiver<Packet>) {
    let open = |state: &State| if requests { state.link.to_server } else { state.link.to_client };
    for packet in receive {
        let mut state = shared.state();
        loop {
            // A cut loses what is under way.
            if !state.connections.contains_key(&id) {
                return;
            }
            let left = packet.due.saturating_duration_since(Instant::now());
            if left.is_zero() && open(&state) {
                break;
            }
            let wait = if left.is_zero() { Duration::from_secs(1) } else { left };
            state = shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        if to.write_all(&packet.bytes).is_err() {
            break;
        }
    }
    // This direction is over and everything of it was delivered. A request's end reaches the server, which then ends
    // the other direction.
    let _closed = to.shutdown(Shutdown::Write);
    if !requests && let Some((client, server)) = shared.state().connections.remove(&id) {
        close(&client);
        close(&server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lab;
    use crate::redis::RedisServer;
    use crate::resp::Client;

    const CLAIM: &str = "-- claim: takes it\nreturn redis.call('INCR', KEYS[1])";

    fn with(test: impl FnOnce(&RedisServer, &Proxy) -> Result<()>) -> Result<()> {
        Lab::run("proxy", |lab| {
            let redis = RedisServer::start(lab)?;
            let proxy = Proxy::start(redis.address())?;
            test(&redis, &proxy)
        })
    }

    fn client(proxy: &Proxy, timeout: u64) -> Result<Client> {
        Client::connect(proxy.address(), Duration::from_millis(timeout))
    }

    #[test]
    fn a_lua_file_is_named_by_its_first_comment() {
        for source in [
            "-- claim\n",
            "-- claim.lua: x",
            "-- name: claim",
            "--- claim (thread, session)",
            "\n-- Claim: y",
            "-- what comes before\nlocal x\n-- claim: y\n-- KEYS[1] z\n-- Returns 1",
        ] {
            assert_eq!(lua_name(source), "claim", "{source:?}");
        }
    }

    #[test]
    fn a_lost_reply_was_done_and_is_never_heard_of() -> Result<()> {
        with(|redis, proxy| {
            let hits =
                proxy.rule(Rule { of: Match::Lua("claim"), skip: 1, count: 1, action: Action::LoseReply });
            let mut one = client(proxy, 5000)?;
            let digest = one.ask(&["SCRIPT", "LOAD", CLAIM])?.text().unwrap_or_default();
            assert_eq!(one.ask(&["EVALSHA", &digest, "1", "k"])?, Value::Int(1));
            assert!(one.ask(&["EVALSHA", &digest, "1", "k"]).is_err());
            assert_eq!(hits.count(), 1);
            assert_eq!(redis.ask(&["GET", "k"])?.int(), Some(2));
            // The next connection is not concerned.
            assert_eq!(client(proxy, 5000)?.ask(&["EVALSHA", &digest, "1", "k"])?, Value::Int(3));
            assert_eq!(proxy.seen("claim"), 3);
            Ok(())
        })
    }

    #[test]
    fn a_late_reply_keeps_its_place() -> Result<()> {
        with(|_, proxy| {
            let delay = Duration::from_millis(300);
            let action = Action::DelayReply(delay);
            proxy.rule(Rule { of: Match::Argument(":Claims:".to_owned()), skip: 0, count: 1, action });
            let mut one = client(proxy, 5000)?;
            let start = Instant::now();
            one.send(&crate::resp::command(&["INCR", "first"]))?;
            one.send(&crate::resp::command(&["INCRBY", "c:Claims:t", "5"]))?;
            one.send(&crate::resp::command(&["INCR", "first"]))?;
            assert_eq!(one.reply()?, Value::Int(1));
            assert_eq!(one.reply()?, Value::Int(5));
            assert!(start.elapsed() >= delay);
            assert_eq!(one.reply()?, Value::Int(2));
            Ok(())
        })
    }

    #[test]
    fn a_lost_request_was_not_done() -> Result<()> {
        with(|redis, proxy| {
            proxy.rule(Rule { of: Match::Command("INCR"), skip: 0, count: 1, action: Action::LoseRequest });
            assert!(client(proxy, 5000)?.ask(&["INCR", "k"]).is_err());
            assert_eq!(redis.ask(&["GET", "k"])?, Value::Null);
            Ok(())
        })
    }

    #[test]
    fn a_black_hole_delivers_when_healed_even_if_the_sender_is_gone() -> Result<()> {
        with(|redis, proxy| {
            let mut one = client(proxy, 200)?;
            assert_eq!(one.ask(&["PING"])?.text().as_deref(), Some("PONG"));
            proxy.set(Link { to_server: false, ..Link::default() });
            assert!(one.ask(&["SET", "k", "late"]).is_err());
            drop(one);
            assert_eq!(redis.ask(&["GET", "k"])?, Value::Null);
            proxy.heal();
            clock::wait_for("the late request", Duration::from_secs(5), || {
                Ok((redis.ask(&["GET", "k"])?.text().as_deref() == Some("late")).then_some(()))
            })
        })
    }

    #[test]
    fn the_other_way_is_a_reply_that_does_not_come() -> Result<()> {
        with(|redis, proxy| {
            let mut one = client(proxy, 200)?;
            proxy.set(Link { to_client: false, ..Link::default() });
            assert!(one.ask(&["SET", "k", "done"]).is_err());
            assert_eq!(redis.ask(&["GET", "k"])?.text().as_deref(), Some("done"));
            Ok(())
        })
    }

    #[test]
    fn silence_swallows_this_reply_and_all_behind_it() -> Result<()> {
        with(|redis, proxy| {
            proxy.rule(Rule { of: Match::Command("INCR"), skip: 0, count: 1, action: Action::SilenceAfter });
            let mut one = client(proxy, 200)?;
            assert!(one.ask(&["INCR", "k"]).is_err());
            assert!(one.ask(&["INCR", "k"]).is_err());
            assert_eq!(redis.ask(&["GET", "k"])?.int(), Some(2));
            Ok(())
        })
    }

    #[test]
    fn cut_refused_and_slow() -> Result<()> {
        with(|_, proxy| {
            let mut one = client(proxy, 5000)?;
            one.ask(&["PING"])?;
            proxy.cut();
            assert!(one.ask(&["PING"]).is_err());
            proxy.refuse();
            assert!(client(proxy, 1000).and_then(|mut two| two.ask(&["PING"])).is_err());
            proxy.set(Link { latency: Duration::from_millis(100), ..Link::default() });
            let start = Instant::now();
            client(proxy, 5000)?.ask(&["PING"])?;
            assert!(start.elapsed() >= Duration::from_millis(200));
            Ok(())
        })
    }
}

//! One connection: commands in, replies out, in order.
//!
//! The library has such a loop, which takes commands that wait (`BLPOP`) and subscriptions from whoever has not given the
//! password. Here nothing but `AUTH`, `HELLO … AUTH` and `QUIT` comes before it.

use std::sync::Arc;
use std::time::Duration;

use encore_miniredis::connection::{ConnCtx, Connection};
use encore_miniredis::db::SharedState;
use encore_miniredis::dispatch::{MSG_INVALID_TIMEOUT, MSG_TIMEOUT_NEGATIVE, dispatch, err_wrong_number};
use encore_miniredis::frame::Frame;
use encore_miniredis::pubsub::{PubsubCtx, PubsubMessage};
use tokio::net::TcpStream;
use tokio::time::Instant;

const NOAUTH: &str = "NOAUTH Authentication required.";
const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                            <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
                            protocol version at the same time";
/// A wait that was to last for ever is over after this. No client of ours asks for so much.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

type Args = Vec<Vec<u8>>;

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, state: Arc<SharedState>) {
    // Replies are small and leave at once.
    let _ = stream.set_nodelay(true);
    let mut client =
        Client { connection: Connection::new(stream), context: ConnCtx::new(), state, ahead: None };
    // The client is gone, or sends what is no Redis protocol: there is nobody to tell.
    let _ = client.serve().await;
}

struct Client {
    connection: Connection,
    context: ConnCtx,
    state: Arc<SharedState>,
    /// A command that came while the one before it waited.
    ahead: Option<Frame>,
}

/// The connection has ended.
struct Gone;

impl Client {
    async fn serve(&mut self) -> Result<(), Gone> {
        loop {
            let frame = match self.ahead.take() {
                Some(frame) => frame,
                None => self.read().await?,
            };
            let Some(args) = arguments(frame) else {
                self.write(&Frame::error("ERR invalid command format")).await?;
                continue;
            };
            let Some(command) = args.first().map(|name| String::from_utf8_lossy(name).to_uppercase()) else {
                self.write(&Frame::error("ERR empty command")).await?;
                continue;
            };
            if let Some(refusal) = self.refusal(&command, &args) {
                self.write(&Frame::error(refusal)).await?;
                continue;
            }
            if !self.context.in_tx() && matches!(&*command, "SUBSCRIBE" | "PSUBSCRIBE") && args.len() > 1 {
                self.subscribed(args).await?;
                continue;
            }
            let reply = match Waiting::of(&command, &args, &self.state, &self.context) {
                Some(Ok(waiting)) => self.wait(waiting).await?,
                Some(Err(error)) => Frame::error(error),
                None => self.dispatch(&args),
            };
            self.connection.resp3 = self.context.resp3;
            self.write(&reply).await?;
            if command == "QUIT" {
                return Ok(());
            }
        }
    }

    /// Why a command may not be carried out for one who has not given the password.
    fn refusal(&self, command: &str, args: &Args) -> Option<&'static str> {
        match command {
            _ if self.context.authenticated => None,
            "AUTH" | "QUIT" => None,
            "HELLO" if args.iter().any(|arg| arg.eq_ignore_ascii_case(b"AUTH")) => None,
            "HELLO" => Some(NOAUTH_HELLO),
            _ => Some(NOAUTH),
        }
    }

    fn dispatch(&mut self, args: &Args) -> Frame {
        match self.state.command_table.get() {
            Some(table) => dispatch(table, &self.state, &mut self.context, args).0,
            None => Frame::error("ERR the server is starting"),
        }
    }

    /// Carries out a command without telling those who wait: two of them would wake each other for ever.
    fn attempt(&mut self, args: &Args) -> Frame {
        let Some((name, args)) = args.split_first() else { return Frame::Null };
        let table = self.state.command_table.get();
        match table.and_then(|table| table.get(&String::from_utf8_lossy(name))) {
            Some(command) => (command.handler)(&self.state, &mut self.context, args),
            None => Frame::Null,
        }
    }

    /// Tries a command again whenever something has changed, until it gives something or its time is over.
    async fn wait(&mut self, waiting: Waiting) -> Result<Frame, Gone> {
        let state = self.state.clone();
        let deadline = Instant::now() + waiting.limit;
        loop {
            for (key, attempt) in &waiting.attempts {
                match self.attempt(attempt) {
                    Frame::Null | Frame::NullArray => {}
                    error @ Frame::Error(_) => return Ok(error),
                    found => {
                        // Others may wait for what this has moved.
                        state.notify.notify_waiters();
                        return Ok(match key {
                            Some(key) => Frame::Array(vec![Frame::Bulk(key.clone().into()), found]),
                            None => found,
                        });
                    }
                }
            }
            // All connections are served by one OS thread: nothing can have changed since the attempts.
            let changed = state.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            loop {
                tokio::select! {
                    () = &mut changed => break,
                    () = tokio::time::sleep_until(deadline) => return Ok(Frame::NullArray),
                    // One who has gone gets nothing that others wait for.
                    ahead = self.connection.read_frame(), if self.ahead.is_none() => match ahead {
                        Ok(Some(frame)) => self.ahead = Some(frame),
                        Ok(None) | Err(_) => return Err(Gone),
                    },
                }
            }
        }
    }

    /// Serves a connection that has subscribed, until it has no subscription left.
    async fn subscribed(&mut self, first: Args) -> Result<(), Gone> {
        let mut subscriptions = match self.state.pubsub.lock() {
            Ok(mut registry) => PubsubCtx::new(&mut registry),
            Err(_) => return Err(Gone),
        };
        let ended = self.serve_subscribed(&mut subscriptions, first).await;
        if let Ok(mut registry) = self.state.pubsub.lock() {
            registry.remove(&subscriptions.handle);
        }
        ended
    }

    async fn serve_subscribed(&mut self, subscriptions: &mut PubsubCtx, first: Args) -> Result<(), Gone> {
        let mut next = Some(first);
        loop {
            if let Some(args) = next.take() {
                for reply in self.change(subscriptions, &args) {
                    self.write(&reply).await?;
                }
                if subscriptions.total_count() == 0 {
                    return Ok(());
                }
            }
            tokio::select! {
                frame = self.connection.read_frame() => match frame {
                    Ok(Some(frame)) => next = Some(arguments(frame).unwrap_or_default()),
                    Ok(None) | Err(_) => return Err(Gone),
                },
                message = subscriptions.rx.recv() => {
                    let frame = self.push(published(message.ok_or(Gone)?));
                    self.write(&frame).await?;
                }
            }
        }
    }

    /// Carries out a command of one who has subscriptions.
    fn change(&self, subscriptions: &PubsubCtx, args: &Args) -> Vec<Frame> {
        let Some((name, rest)) = args.split_first() else {
            return vec![Frame::error("ERR empty command")];
        };
        let name = String::from_utf8_lossy(name).to_lowercase();
        let mut names: Vec<String> =
            rest.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let act: fn(&PubsubCtx, &str) -> usize = match &*name {
            "subscribe" => PubsubCtx::subscribe,
            "psubscribe" => PubsubCtx::psubscribe,
            "unsubscribe" => PubsubCtx::unsubscribe,
            "punsubscribe" => PubsubCtx::punsubscribe,
            "ping" => {
                let text = names.pop().unwrap_or_default();
                return vec![self.push(vec![Frame::bulk_string("pong"), Frame::bulk_string(&text)])];
            }
            _ => {
                return vec![Frame::error(format!(
                    "ERR Can't execute '{name}': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING are allowed in this context"
                ))];
            }
        };
        if names.is_empty() {
            match &*name {
                "unsubscribe" => names = subscriptions.channels(),
                "punsubscribe" => names = subscriptions.patterns(),
                _ => return vec![Frame::error(err_wrong_number(&name))],
            }
        }
        let confirm = |what: &String| {
            let count = i64::try_from(act(subscriptions, what)).unwrap_or(i64::MAX);
            self.push(vec![Frame::bulk_string(&name), Frame::bulk_string(what), Frame::Integer(count)])
        };
        names.iter().map(confirm).collect()
    }

    fn push(&self, parts: Vec<Frame>) -> Frame {
        if self.context.resp3 { Frame::Push(parts) } else { Frame::Array(parts) }
    }

    async fn read(&mut self) -> Result<Frame, Gone> {
        match self.connection.read_frame().await {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) | Err(_) => Err(Gone),
        }
    }

    async fn write(&mut self, frame: &Frame) -> Result<(), Gone> {
        self.connection.write_frame(frame).await.map_err(|_| Gone)
    }
}

fn published(message: PubsubMessage) -> Vec<Frame> {
    let text = |text: &str| Frame::bulk_string(text);
    let mut parts = vec![text(message.kind)];
    parts.extend(message.pattern.as_deref().map(text));
    parts.extend([text(&message.channel), text(&message.data)]);
    parts
}

/// A command as its words. None: it is none.
fn arguments(frame: Frame) -> Option<Args> {
    let Frame::Array(parts) = frame else { return None };
    let words = parts.into_iter().map(|part| match part {
        Frame::Bulk(bytes) => Some(bytes.to_vec()),
        Frame::Simple(text) => Some(text.into_bytes()),
        Frame::Integer(number) => Some(number.to_string().into_bytes()),
        _ => None,
    });
    words.collect()
}

/// A command that waits for something, as commands that do not.
struct Waiting {
    limit: Duration,
    /// Tried in this order. A key is put before what the command gives.
    attempts: Vec<(Option<Vec<u8>>, Args)>,
}

impl Waiting {
    /// None: the command does not wait.
    fn of(
        command: &str,
        args: &Args,
        state: &SharedState,
        context: &ConnCtx,
    ) -> Option<Result<Self, String>> {
        if context.in_tx() {
            // Queued, and carried out without a wait.
            return None;
        }
        let expect = |count: usize| match args.len() == count {
            true => Ok(()),
            false => Err(err_wrong_number(command)),
        };
        let renamed = |name: &str, args: &[Vec<u8>]| -> Args { [&[name.as_bytes().to_vec()], args].concat() };
        match command {
            "BLPOP" | "BRPOP" => Some((|| {
                let [_, keys @ .., timeout] = &args[..] else { return Err(err_wrong_number(command)) };
                if keys.is_empty() {
                    return Err(err_wrong_number(command));
                }
                let pop = command.trim_start_matches('B');
                let attempts =
                    keys.iter().map(|key| (Some(key.clone()), renamed(pop, std::slice::from_ref(key))));
                Ok(Self { limit: seconds(timeout)?, attempts: attempts.collect() })
            })()),
            "BRPOPLPUSH" => Some(expect(4).and_then(|()| {
                Ok(Self {
                    limit: seconds(&args[3])?,
                    attempts: vec![(None, renamed("RPOPLPUSH", &args[1..3]))],
                })
            })),
            "BLMOVE" => Some(expect(6).and_then(|()| {
                Ok(Self { limit: seconds(&args[5])?, attempts: vec![(None, renamed("LMOVE", &args[1..5]))] })
            })),
            "XREAD" | "XREADGROUP" => Self::of_stream(args, state, context),
            _ => None,
        }
    }

    fn of_stream(args: &Args, state: &SharedState, context: &ConnCtx) -> Option<Result<Self, String>> {
        let is = |arg: &[u8], word: &str| arg.eq_ignore_ascii_case(word.as_bytes());
        let streams = args.iter().position(|arg| is(arg, "STREAMS"))?;
        let block = args[..streams].iter().position(|arg| is(arg, "BLOCK"))?;
        let timeout = args[..streams].get(block + 1)?;
        let limit = match String::from_utf8_lossy(timeout).parse::<i64>() {
            Err(_) => return Some(Err("ERR timeout is not an integer or out of range".to_owned())),
            Ok(number) => match u64::try_from(number) {
                Err(_) => return Some(Err(MSG_TIMEOUT_NEGATIVE.to_owned())),
                Ok(0) => WAIT_MAX,
                Ok(number) => Duration::from_millis(number).min(WAIT_MAX),
            },
        };
        let mut attempt = args.clone();
        attempt[0].make_ascii_uppercase();
        let names = &args[streams + 1..];
        let keys = &names[..names.len() / 2];
        // `$` means the last entry there is now, not the last one at each try.
        for (number, key) in keys.iter().enumerate() {
            let id = &mut attempt[streams + 1 + keys.len() + number];
            if id == b"$" {
                let inner = state.lock();
                let stream = inner.db(context.selected_db).stream_keys.get(&*String::from_utf8_lossy(key));
                *id = stream
                    .map_or_else(|| "0-0".to_owned(), |stream| stream.last_id().to_string())
                    .into_bytes();
            }
        }
        attempt.drain(block..block + 2);
        Some(Ok(Self { limit, attempts: vec![(None, attempt)] }))
    }
}

/// A timeout in seconds; 0 is for ever.
fn seconds(text: &[u8]) -> Result<Duration, String> {
    let number: f64 = String::from_utf8_lossy(text).parse().map_err(|_| MSG_INVALID_TIMEOUT.to_owned())?;
    match number {
        0.0 => Ok(WAIT_MAX),
        _ if number < 0.0 => Err(MSG_TIMEOUT_NEGATIVE.to_owned()),
        _ => match Duration::try_from_secs_f64(number) {
            Ok(limit) => Ok(limit.min(WAIT_MAX)),
            Err(_) => Err("ERR timeout is out of range".to_owned()),
        },
    }
}

//! Blocking commands, in slices.
//!
//! ```text
//! script:  BLPOP key 0
//! server:  BLPOP key 1.0 → nil, BLPOP key 1.0 → nil, BLPOP key 0.7 → element
//! ```
//!
//! What must hold:
//! - The server gives up waiting before the lease could end, so nothing is popped for a worker that has lost it: a
//!   slice is never longer than the time left until the soft stop, and one that has not left by then never does.
//! - While others wait for a connection a slice is at most a second, so that each gets its turn.
//! - A connection that breaks ends a slice, not the wait.
//! - An element that was popped reaches the script: a slice that has begun is waited for to its end. When the
//!   task is asked to stop the server is told to unblock, and what it then answers counts.
//! - Where the server cannot be told (no CLIENT UNBLOCK), slices are so short that nobody needs to.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fred::types::Value as RedisValue;
use rquickjs::Ctx;
use tokio::sync::oneshot;

use super::Reply;
use super::command::{self, Timeout};
use super::connections::{Broken, Connections, LaneConnection, Turn};
use crate::host::TaskControl;
use crate::vm::{Host, Passed};

/// A slice while others wait.
const SLICE_SHARED: Duration = Duration::from_secs(1);
/// A slice on a server that cannot be told to unblock.
const SLICE_UNSTOPPABLE: Duration = Duration::from_millis(100);
/// The server's wait ends this long before the lease does, or the time limit of the call, for the way there.
const MARGIN: Duration = Duration::from_millis(150);
/// Less than this is not worth a slice: the next renewal is waited for.
const SLICE_MIN: Duration = Duration::from_millis(20);
/// After a connection broke, until the next one is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The answer to a slice comes at its end; this much later the connection counts as dead.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Runs a blocking command for a script. Broken: there is no connection, or it broke at the end of the time.
pub(super) fn run(
    host: &Rc<Host>,
    ctx: &Ctx<'_>,
    connection: &LaneConnection,
    name: &str,
    mut arguments: Vec<RedisValue>,
) -> rquickjs::Result<Result<Reply, Broken>> {
    let Some(timeout) = command::timeout_of(name, &arguments) else {
        return Ok(Ok(Err(format!("ERR {name} does not block"))));
    };
    let Some(asked) = timeout.read(&arguments) else {
        // Servers read more spellings of a number than we do. Sent as it is, one of them could block for ever.
        let expected = match timeout {
            Timeout::Seconds(_) => "a float",
            Timeout::Milliseconds(_) => "an integer",
        };
        return Ok(Ok(Err(format!("ERR timeout is not {expected} or out of range"))));
    };
    pin_stream_ids(host, ctx, connection, name, &mut arguments)?;
    let connections = &connection.connections;
    let until = (!asked.is_zero()).then(|| Instant::now() + asked);
    loop {
        host.look_up(ctx)?;
        if host.stop_asked() {
            return Ok(Ok(Ok(RedisValue::Null)));
        }
        // Nothing is popped for a script that could do nothing with it yet.
        if !connection.is_ready() {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Err(Broken("ERR there is no connection to Redis".to_owned())));
            }
            host.wait_ending(ctx, connection.ready(RECONNECT_PAUSE))?;
            continue;
        }
        let turn = match host.wait_ending(ctx, connections.turn())? {
            None => return Ok(Ok(Ok(RedisValue::Null))),
            Some(Err(message)) => return Ok(Err(Broken(message))),
            Some(Ok(turn)) => turn,
        };
        let trusted = host.time_for_io(Duration::MAX).saturating_sub(MARGIN);
        if trusted < SLICE_MIN {
            drop(turn);
            host.wait_ending(ctx, tokio::time::sleep(SLICE_MIN))?;
            // The next turn of the loop passes it too; a script that was asked to end hears of it here.
            host.gate_to_wait(ctx)?;
            continue;
        }
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        let shared = if connections.blocking_is_scarce() { SLICE_SHARED } else { Duration::MAX };
        let slice = left.max(Duration::from_millis(1)).min(trusted).min(shared);
        let passed = host.gate(ctx)?;
        let reply = one_slice(host, ctx, passed, connections, turn, name, &arguments, timeout, slice)?;
        host.look_up(ctx)?;
        let over = until.is_some_and(|until| Instant::now() >= until) || host.stop_asked();
        match reply {
            Ok(Ok(RedisValue::Null)) if !over => {}
            Ok(reply) => return Ok(Ok(reply)),
            broken @ Err(_) if over => return Ok(broken),
            // The script waits for an element, not for a connection.
            Err(Broken(_)) => {
                host.wait_ending(ctx, tokio::time::sleep(RECONNECT_PAUSE))?;
            }
        }
    }
}

/// Sends one slice and waits for its answer, whatever happens but the loss of the lease.
#[expect(clippy::too_many_arguments, reason = "the parts of one command, used nowhere else")]
fn one_slice(
    host: &Rc<Host>,
    ctx: &Ctx<'_>,
    passed: Passed,
    connections: &Connections,
    turn: Turn,
    name: &str,
    arguments: &[RedisValue],
    timeout: Timeout,
    slice: Duration,
) -> rquickjs::Result<Result<Reply, Broken>> {
    let (stop, mut stopped) = oneshot::channel::<()>();
    let (answer, mut answered) = oneshot::channel();
    let (name, arguments, connections) = (name.to_owned(), arguments.to_vec(), connections.clone());
    let (begun, control) = (Instant::now(), passed.control().clone());
    host.lane.io.spawn(async move {
        let ready = async {
            let connection = connections.blocking(turn).await?;
            let id = connection.id().await;
            Ok::<_, Broken>((connection, id))
        };
        let ready = tokio::select! {
            ready = ready => ready,
            // Nothing has been sent yet, and a server that cannot be reached would keep the script past its lease.
            _ = &mut stopped => {
                let _ = answer.send(Ok(Ok(RedisValue::Null)));
                return;
            }
        };
        let (mut connection, id) = match ready {
            Ok(ready) => ready,
            Err(broken) => {
                let _ = answer.send(Err(broken));
                return;
            }
        };
        // Connecting has taken time, and the lease may have been lost meanwhile.
        let slice = slice.saturating_sub(begun.elapsed()).min(control.trusted_for().saturating_sub(MARGIN));
        if slice.is_zero() {
            let _ = answer.send(Ok(Ok(RedisValue::Null)));
            return;
        }
        let slice = if id.is_some() { slice } else { slice.min(SLICE_UNSTOPPABLE) };
        let arguments = timeout.write(arguments, slice);
        let reply = {
            let mut reply = std::pin::pin!(connection.send(&passed, &name, arguments, slice + ANSWER_MARGIN));
            let unblocked = async {
                tokio::select! {
                    reply = &mut reply => reply,
                    // Also when the script has gone: then nobody is left to wait for.
                    _ = stopped => {
                        if control.trusted_for().is_zero() {
                            return lost();
                        }
                        if let Some(id) = id {
                            connections.unblock(id).await;
                        }
                        reply.await
                    }
                }
            };
            // The connection may be one that is being made again, and the command wait in it. Dropped with the connection
            // it never leaves.
            tokio::select! {
                biased;
                () = lease_end(&*control) => lost(),
                reply = unblocked => reply,
            }
        };
        // The connection is free for the next one before the script goes on.
        drop(connection);
        let _ = answer.send(reply);
    });
    let reply = match host.wait_ending(ctx, &mut answered) {
        Ok(Some(reply)) => reply,
        asked => {
            // The task is asked to stop, or more. A receiver that is gone means that the answer is on its way. Once
            // the lease is lost the answer is for nobody: the server has ended its wait before that.
            let _ = stop.send(());
            let reply = host.wait_unless_killed(ctx, answered)?;
            asked?;
            reply
        }
    };
    Ok(reply.unwrap_or_else(|_| Err(Broken("ERR the connection to Redis broke".to_owned()))))
}

/// Resolves when the task is no longer ours; later than that by a renewal's time if it is lost before its time.
async fn lease_end(control: &dyn TaskControl) {
    loop {
        let trusted = control.trusted_for();
        if trusted.is_zero() {
            return;
        }
        tokio::time::sleep(trusted).await;
    }
}

fn lost() -> Result<Reply, Broken> {
    Err(Broken("ERR the task is no longer ours".to_owned()))
}

/// `$` means "newer than what is there now". Between two slices it would mean another now, so it is replaced by the
/// id of the newest entry once and for all.
fn pin_stream_ids(
    host: &Rc<Host>,
    ctx: &Ctx<'_>,
    connection: &LaneConnection,
    name: &str,
    arguments: &mut [RedisValue],
) -> rquickjs::Result<()> {
    for (key, id) in command::stream_ids(name, arguments) {
        if command::text(&arguments[id]) != "$" {
            continue;
        }
        let newest = vec![arguments[key].clone(), "+".into(), "-".into(), "COUNT".into(), 1.into()];
        let newest = match super::send_over(host, ctx, connection, "XREVRANGE", newest)? {
            Ok(entries) => first_id(entries),
            Err(_) => continue,
        };
        arguments[id] = newest.unwrap_or_else(|| "0-0".to_owned()).into();
    }
    Ok(())
}

/// The id in `[[id, fields]]`.
fn first_id(entries: RedisValue) -> Option<String> {
    let first = entries.into_array().into_iter().next()?;
    first.into_array().into_iter().next()?.into_string()
}

impl Timeout {
    /// How long the script wants to wait; zero is for ever. None if it is no time.
    fn read(self, arguments: &[RedisValue]) -> Option<Duration> {
        match self {
            Self::Seconds(place) => {
                let seconds: f64 = command::text(arguments.get(place)?).parse().ok()?;
                Duration::try_from_secs_f64(seconds).ok()
            }
            Self::Milliseconds(place) => {
                command::text(arguments.get(place)?).parse().ok().map(Duration::from_millis)
            }
        }
    }

    /// The same command with another time to wait.
    fn write(self, mut arguments: Vec<RedisValue>, slice: Duration) -> Vec<RedisValue> {
        // Never 0, which would be for ever.
        let (place, text) = match self {
            Self::Seconds(place) => (place, format!("{:.3}", slice.as_secs_f64().max(0.001))),
            Self::Milliseconds(place) => (place, slice.as_millis().max(1).to_string()),
        };
        if let Some(argument) = arguments.get_mut(place) {
            *argument = text.into();
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_never_asks_for_ever() {
        let arguments = vec![RedisValue::from("key"), RedisValue::from("0")];
        let timeout = Timeout::Seconds(1);
        assert_eq!(timeout.read(&arguments), Some(Duration::ZERO));
        let sliced = timeout.write(arguments, Duration::from_micros(3));
        assert_eq!(command::text(&sliced[1]), "0.001");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in ["-1", "soon", "NaN", "inf", "0x0", "1e300"] {
            assert_eq!(Timeout::Seconds(0).read(&[RedisValue::from(wrong)]), None, "{wrong}");
        }
    }
}

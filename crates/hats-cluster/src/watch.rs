//! How a worker notices that a definition, a claim or a worker's row has changed.
//!
//! ```text
//!   connect ──▶ tracking on ──▶ Established (re-read everything) ──▶ Changed … Changed ──▶ PING unanswered ──▶ Lost ─┐
//!      ▲             └─ cannot be had ──▶ Unavailable (poll) ── tried again later ─┐                                │
//!      └───────────────────────────────────────────────────────────────────────────┴────────────────────────────────┘
//! ```
//!
//! What must always hold:
//! * Tracking is on before anything is re-read: what changes after the read is pushed.
//! * The connection is its own and is never repaired, only replaced: every new one begins with `Established`, so no gap
//!   can go unnoticed. A push that got lost on the way through this process counts as a lost watch too.
//! * Pushes come in order, so an answered PING proves that none is outstanding. One PING a second, answered within T.
//! * It is tested for the ability, not for the protocol's version: where tracking is refused the caller polls.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientInterface, ClientLike, EventInterface, TrackingInterface};
use fred::types::client::Toggle;
use fred::types::config::Server;
use fred::types::{RespVersion, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::error::Error;
use crate::keys::Keys;
use crate::session;

const PING_EVERY: Duration = Duration::from_secs(1);
/// Between tries to get the watch back.
const RETRY: Duration = Duration::from_millis(250);
/// Where tracking was refused: tried again after this. The server may have been replaced by one that can.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(60);
/// The same where the server did not refuse it but broke off.
const RETRY_BROKEN_OFF: Duration = Duration::from_secs(10);
/// One that breaks off so often in a row is not just a link that comes and goes.
const BREAKS_OFF_LEAST: u32 = 3;
/// So many pushes may wait in this process. Redis puts all keys of one turn of its loop into one.
const PUSHES_MAX: usize = 4096;

/// What the watch tells the coordinator.
#[derive(Debug)]
pub(crate) enum Notice {
    /// From now on changes are pushed: everything is to be read again.
    Established,
    /// These keys have changed.
    Changed(Vec<String>),
    /// Changes may go unnoticed until the next `Established`.
    Lost,
    /// This server cannot push: poll.
    Unavailable,
}

/// Watches until nobody listens any more.
pub(crate) async fn run(config: Config, notices: mpsc::UnboundedSender<Notice>) {
    let mut refused_before = false;
    let mut broken_off = 0;
    while !notices.is_closed() {
        let ended = watch_once(&config, &notices).await;
        if notices.is_closed() {
            return;
        }
        broken_off = match &ended {
            Ended::NotConnected(error) if breaks_off(error) => broken_off + 1,
            _ => 0,
        };
        let pause = match ended {
            Ended::Unavailable(error) => {
                if !refused_before {
                    info!(%error, "this redis pushes no changes: polling");
                }
                refused_before = true;
                let _ = notices.send(Notice::Unavailable);
                RETRY_UNAVAILABLE
            }
            Ended::Lost(error) => {
                refused_before = false;
                warn!(%error, "the watch is lost, trying on");
                let _ = notices.send(Notice::Lost);
                RETRY
            }
            Ended::NotReady(error) => {
                debug!(%error, "the watch cannot begin yet, trying on");
                RETRY
            }
            Ended::NotConnected(error) => {
                debug!(%error, "the watch cannot connect, trying on");
                let may_be_refusal = broken_off >= BREAKS_OFF_LEAST;
                if may_be_refusal && connect(&config, RespVersion::RESP2).await.is_ok() {
                    // It is there, and breaks off at the protocol, again and again: that is a refusal too.
                    if !refused_before {
                        info!(%error, "this redis pushes no changes: polling");
                    }
                    refused_before = true;
                    let _ = notices.send(Notice::Unavailable);
                    RETRY_BROKEN_OFF
                } else {
                    RETRY
                }
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = notices.closed() => {}
        }
    }
}

enum Ended {
    /// There was none.
    NotConnected(Error),
    /// The server is there, and busy, loading, or not answering now.
    NotReady(Error),
    /// It was there and is lost.
    Lost(Error),
    /// The server cannot do it.
    Unavailable(Error),
}

/// Whether a connection came to an end in a way that may be meant. Silence is not.
fn breaks_off(error: &Error) -> bool {
    !matches!(error, Error::Timeout)
}

/// Whether an error says that this server cannot push, and not just that it does not do so now.
fn cannot_push(error: &Error) -> bool {
    match error {
        Error::Server(text) => text.starts_with("ERR"),
        Error::Refused(_) | Error::Protocol(_) | Error::Config(_) => true,
        Error::Timeout | Error::Unreachable(_) | Error::NoSession => false,
    }
}

async fn watch_once(config: &Config, notices: &mpsc::UnboundedSender<Notice>) -> Ended {
    let client = match connect(config, RespVersion::RESP3).await {
        Ok(client) => client,
        Err(error) => return Ended::NotConnected(error),
    };
    let ended = watch(config, &client, notices).await;
    let _ = timeout(config.timing().command_timeout(), client.quit()).await;
    ended
}

async fn connect(config: &Config, version: RespVersion) -> Result<Client, Error> {
    let limit = config.timing().command_timeout();
    let mut builder = config.builder(limit)?;
    builder.with_config(|client| client.version = version);
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = PUSHES_MAX);
    session::init(builder.build()?, config.connect_timeout()).await
}

async fn watch(config: &Config, client: &Client, notices: &mpsc::UnboundedSender<Notice>) -> Ended {
    let limit = config.timing().command_timeout();
    let keys = Keys::new(config.cluster.clone());
    // Listen first: not one push may get lost.
    let mut pushes = client.invalidation_rx();
    let mut reconnects = client.reconnect_rx();
    let nodes: Vec<Option<Server>> = match client.is_clustered() {
        true => client.active_connections().into_iter().map(Some).collect(),
        false => vec![None],
    };
    for node in &nodes {
        if let Err(error) = track(client, node.clone(), keys.watched_prefixes(), limit).await {
            return if cannot_push(&error) { Ended::Unavailable(error) } else { Ended::NotReady(error) };
        }
    }
    if notices.send(Notice::Established).is_err() {
        return Ended::Lost(Error::NoSession);
    }
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            push = pushes.recv() => match push {
                Ok(push) => {
                    let keys = push.keys.into_iter().filter_map(|key| key.into_string()).collect();
                    if notices.send(Notice::Changed(keys)).is_err() {
                        return Ended::Lost(Error::NoSession);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    return Ended::Lost(Error::Protocol(format!("{missed} pushes came too fast")));
                }
                Err(RecvError::Closed) => return Ended::Lost(Error::Unreachable("closed".to_owned())),
            },
            // The client has repaired the connection: tracking is off on the new one.
            _ = reconnects.recv() => return Ended::Lost(Error::Unreachable("the connection was lost".to_owned())),
            _ = pings.tick() => {
                for node in &nodes {
                    if let Err(error) = ping(client, node.clone(), limit).await {
                        return Ended::Lost(error);
                    }
                }
            }
            () = notices.closed() => return Ended::Lost(Error::NoSession),
        }
    }
}

async fn track(
    client: &Client,
    node: Option<Server>,
    prefixes: Vec<String>,
    limit: Duration,
) -> Result<(), Error> {
    let tracked = async {
        match node {
            Some(node) => {
                client
                    .with_cluster_node(node)
                    .client_tracking::<Value, _, _>(Toggle::On, None, prefixes, true, false, false, false)
                    .await
            }
            None => {
                client
                    .client_tracking::<Value, _, _>(Toggle::On, None, prefixes, true, false, false, false)
                    .await
            }
        }
    };
    timeout(limit, tracked).await.map_err(|_| Error::Timeout)?.map(drop).map_err(Error::from)
}

async fn ping(client: &Client, node: Option<Server>, limit: Duration) -> Result<(), Error> {
    let answered = async {
        match node {
            Some(node) => client.with_cluster_node(node).ping::<Value>(None).await,
            None => client.ping::<Value>(None).await,
        }
    };
    timeout(limit, answered).await.map_err(|_| Error::Timeout)?.map(drop).map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_busy_can_still_push() {
        let server = |text: &str| Error::Server(text.to_owned());
        for text in ["BUSY Redis is busy running a script", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "MISCONF"]
        {
            assert!(!cannot_push(&server(text)), "{text}");
        }
        assert!(!cannot_push(&Error::Timeout));
        assert!(cannot_push(&server("ERR unknown subcommand 'tracking'")));
        assert!(cannot_push(&Error::Refused("NOPERM".to_owned())));
    }
}

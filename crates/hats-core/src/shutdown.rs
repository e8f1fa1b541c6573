//! How a worker stops: the order, in one function.

use hats_cluster::Handle;
use hats_scheduler::Scheduler;
use hats_script::{Lanes, redis, sql};

use crate::Error;
use crate::registration::Registrar;

/// Everything that has to be stopped besides the scheduler, in the order of its start.
pub(crate) struct Parts {
    #[cfg(feature = "embedded-redis")]
    pub(crate) embedded_redis: Option<hats_embedded_redis::Server>,
    pub(crate) cluster: Handle,
    pub(crate) lanes: Lanes,
    pub(crate) script_redis: redis::Connections,
    pub(crate) script_sql: sql::Databases,
    pub(crate) registrar: Registrar,
    pub(crate) endpoints: Option<hats_endpoint::Server>,
}

/// Stops a worker. Each step relies on those before it:
///
/// 1. no request is answered any more but those in hand, nothing new is registered or claimed, and peers see `draining`;
/// 2. every script is asked to end, has the drain timeout for its call in hand and then is interrupted, runs its
///    `cleanup()`, and is released as soon as it is out, each for itself; the requests in hand have the same time;
/// 3. no script is left, so the lanes end, and then the connections that scripts used;
/// 4. Redis has answered the releases, so the session is closed: from here on peers may do as they like;
/// 5. nobody needs the embedded Redis any more.
///
/// # Errors
/// [`Error::HardStop`] when a script did not even obey the interrupt. The session is then left open on purpose: closed,
/// it would let a peer start what still runs here. It runs out by itself when the process ends.
pub(crate) async fn stop(parts: Parts, scheduler: Scheduler) -> Result<(), Error> {
    // 1.
    if let Some(endpoints) = &parts.endpoints {
        endpoints.begin_drain();
    }
    drop(parts.registrar);
    parts.cluster.begin_drain();
    // 2.
    let answered = async {
        match parts.endpoints {
            Some(endpoints) => endpoints.drain().await.stuck,
            None => Vec::new(),
        }
    };
    let (drained, stuck) = tokio::join!(scheduler.drain(), answered);
    if !drained.stuck.is_empty() || !stuck.is_empty() {
        let names: Vec<&str> =
            drained.stuck.iter().map(|name| name.as_str()).chain(stuck.iter().map(String::as_str)).collect();
        // To drop the lanes is to wait for their scripts, and these do not end.
        std::mem::forget(parts.lanes);
        return Err(Error::HardStop(format!(
            "these threads, jobs and endpoints do not end: {}",
            names.join(", ")
        )));
    }
    // 3.
    // The drop waits for OS threads. If the runtime is gone already, it happens where this future is dropped.
    let _ = tokio::task::spawn_blocking(move || drop(parts.lanes)).await;
    tokio::join!(parts.script_redis.close(), parts.script_sql.close());
    // 4.
    parts.cluster.close().await;
    // 5.
    #[cfg(feature = "embedded-redis")]
    drop(parts.embedded_redis);
    Ok(())
}

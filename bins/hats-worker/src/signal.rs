//! Signals: the first SIGTERM or SIGINT asks the worker to drain, the second ends the process at once.
//!
//! They are handled on an OS thread with a runtime of its own, so that a second signal works even where nothing
//! else does any more.

use std::time::{Duration, Instant};

use hats_core::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{exit, telemetry};

/// Who runs a worker in a process group may send one signal twice, to the worker and to its group, as `timeout` does.
/// What comes so soon after the first is the same one.
const ECHO: Duration = Duration::from_millis(50);

/// Starts to listen. The token is cancelled at the first signal.
pub(crate) fn listen() -> Result<CancellationToken, Error> {
    let refuse = |error: std::io::Error| Error::System(format!("cannot listen for signals: {error}"));
    let drain = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(refuse)?;
    // Registered before this returns: a signal during the start drains, it does not kill.
    let signals = {
        let _entered = runtime.enter();
        Signals {
            terminate: signal(SignalKind::terminate()).map_err(refuse)?,
            interrupt: signal(SignalKind::interrupt()).map_err(refuse)?,
        }
    };
    let token = drain.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(handle(signals, &token)))
        .map_err(refuse)?;
    Ok(drain)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// Lives as long as the process.
async fn handle(mut signals: Signals, drain: &CancellationToken) {
    let first = signals.next().await;
    let since = Instant::now();
    info!(signal = first.as_raw_value(), "draining; a second signal ends the worker at once");
    drain.cancel();
    let mut second = signals.next().await;
    while since.elapsed() < ECHO {
        second = signals.next().await;
    }
    warn!(signal = second.as_raw_value(), "ended at once by a second signal");
    telemetry::flush();
    std::process::exit(exit::by_signal(second.as_raw_value()));
}

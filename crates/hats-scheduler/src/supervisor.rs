//! One supervisor per claim: it starts the script, carries orders to it, and answers for its end.
//!
//! ```text
//!              ┌────────── new source, same claim ─────────┐
//!              ▼                                           │
//!  claimed ─► running ──stop · source──► stopping ──┬──► ended ──► release (free · crashed · stopped)
//!              │ crash ─────────────────────────────┤      │
//!              └─ lost ─► killed ───────────────────┘      └─lost──► forget: the session's death says it all
//! ```
//!
//! What must hold:
//! - the [`RunGuard`](hats_cluster::lease::RunGuard) of the lease lives until the script is really out of its lane: the
//!   watchdog counts on it;
//! - nothing is released before that, and a lost claim is not released at all;
//! - the scheduler hears of the end exactly once, even if the supervisor itself panics: only then may another run of
//!   the same thread begin in this process.
//!
//! It is one tokio task per claim and keeps no queue: orders are a state, not a sequence.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hats_cluster::id::Nonce;
use hats_cluster::name::TaskName;
use hats_cluster::records::RestartPolicy;
use hats_cluster::{Grant, Handle, Release};
use hats_script::{Lanes, ScriptTask, Vm, span};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{Instrument, Span};

use crate::Config;
use crate::control::{Audit, Control, Loss, Orders, Stop, Wanted};
use crate::restart;
use crate::runner::bundle;
use crate::runner::thread::{self, Ended, Interrupts, Thread};

/// After `thread.Stop()` this worker leaves the thread to others for so long.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Whoever is first may have it, this worker too.
const FREE: Release = Release::Free { cool_down: Duration::ZERO, prefer_other: false };

/// Another one is to have it, and has time to come.
pub(crate) const RELOCATED: Release = Release::Free { cool_down: Duration::from_secs(3), prefer_other: true };

/// What every supervisor of a worker shares.
pub(crate) struct Shared {
    pub(crate) cluster: Handle,
    pub(crate) lanes: Lanes,
    pub(crate) config: Config,
    /// Told when a claim's script has ended and its supervisor is done.
    pub(crate) gone: mpsc::UnboundedSender<(TaskName, Nonce)>,
}

/// What follows the end of a run.
#[derive(Clone, Debug, PartialEq)]
enum Next {
    /// The same claim runs on, from a fresh VM.
    Restart,
    Release(Release),
    /// First `Status=disabled`, then the release: the other way round a peer might take it in between.
    DisableAndRelease(Release),
    /// The session is lost: whatever it owned is no longer ours to release.
    Forget,
}

/// Runs `grant` until its end. Spawned by the scheduler, which learns of the end through [`Shared::gone`].
pub(crate) fn start(shared: Arc<Shared>, grant: Grant) -> Orders {
    let (orders, wanted) = Orders::new(grant.definition.clone());
    let span = span::thread(&grant.name, shared.cluster.worker_name(), grant.epoch);
    let gone = Gone { tell: shared.gone.clone(), whose: Some((grant.name.clone(), grant.claim.clone())) };
    let supervisor = supervise(shared, grant, orders.clone(), wanted, gone);
    tokio::spawn(supervisor.instrument(span));
    orders
}

/// Tells the scheduler, come what may.
struct Gone {
    tell: mpsc::UnboundedSender<(TaskName, Nonce)>,
    whose: Option<(TaskName, Nonce)>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(whose) = self.whose.take() {
            // Nobody listens any more: the scheduler has been dropped, and with it the need to know.
            let _ = self.tell.send(whose);
        }
    }
}

async fn supervise(
    shared: Arc<Shared>,
    grant: Grant,
    orders: Orders,
    mut wanted: watch::Receiver<Wanted>,
    _gone: Gone,
) {
    let mut restarts = grant.restarts;
    let release = loop {
        let begun = Instant::now();
        let seen = wanted.borrow_and_update().clone();
        // Stopped or lost before it had begun: there is nothing to end.
        let ended = if seen.lost.is_some() || seen.stop.is_some() || !grant.lease.is_trusted() {
            Ended::InOrder
        } else {
            run_once(&shared, &grant, &seen, &orders, &mut wanted).await
        };
        let now_wanted = wanted.borrow_and_update().clone();
        let lost = if grant.lease.is_trusted() { now_wanted.lost } else { Some(Loss::Session) };
        match next(&ended, &seen, &now_wanted, lost, restarts, begun.elapsed()) {
            Next::Restart => {
                if let Ended::Crashed(error) = ended {
                    tracing::warn!(error, "crashed; a new source is here already");
                }
                tracing::info!("restarts with a new source");
                restarts = 0;
            }
            Next::Release(release) => break release,
            Next::DisableAndRelease(release) => {
                // Boxed: what is seldom needed would otherwise take its place in every supervisor.
                Box::pin(disable(&shared.cluster, &grant, &mut wanted)).await;
                if !grant.lease.is_trusted() {
                    return;
                }
                break release;
            }
            Next::Forget => return,
        }
    };
    match &release {
        Release::Crashed { error, back_off, .. } => {
            crate::metrics::THREAD_ERRORS.increment(1);
            tracing::warn!(error, ?back_off, "crashed");
            span::failed(&Span::current(), error);
        }
        _ => tracing::debug!(?release, "ended"),
    }
    shared.cluster.release(&grant.name, &grant.claim, release);
}

/// One VM from birth to death. Returns when the script is out of it, never sooner.
async fn run_once(
    shared: &Arc<Shared>,
    grant: &Grant,
    seen: &Wanted,
    orders: &Orders,
    wanted: &mut watch::Receiver<Wanted>,
) -> Ended {
    let audit = shared.config.call_log.as_ref().map(|log| Audit {
        log: log.clone(),
        caller: crate::call_log::Caller::new(grant.name.as_str(), grant.epoch),
    });
    let control = Arc::new(Control::new(
        (grant.name.clone(), grant.key.clone(), grant.epoch),
        grant.lease.clone(),
        shared.cluster.clone(),
        orders.clone(),
        audit,
        Span::current(),
    ));
    let limits = shared.config.limits_for(&seen.definition.limits);
    control.adopt(seen.definition.hang, limits.call_timeout);
    let interrupts = Arc::new(Interrupts::default());
    let thread = Thread {
        source: bundle(&seen.definition.source, &seen.definition.modules),
        control: control.clone(),
        interrupts: interrupts.clone(),
        cleanup_timeout: shared.config.cleanup_timeout,
    };
    let task = ScriptTask { control: control.clone(), limits };
    let guard = grant.lease.enter(&grant.name);
    let (cluster, name, claim) = (shared.cluster.clone(), grant.name.clone(), grant.claim.clone());
    let definition = seen.definition.clone();
    let (script, ended) = shared.lanes.spawn(task, async move |vm: &mut Vm| {
        // Moved in, so that it is dropped when the script is out of its lane and not when somebody stops waiting for it.
        let _guard = guard;
        thread::run(vm, &thread, || cluster.started(&name, &claim, &definition)).await
    });

    let mut ended = pin!(ended);
    let mut patience = pin!(sleep_until(tokio::time::Instant::now()));
    let mut stopping = false;
    let mut impatient = false;
    loop {
        tokio::select! {
            biased;
            result = &mut ended => return result.unwrap_or_else(|error| Ended::Crashed(error.to_string())),
            Ok(()) = wanted.changed() => {
                let now_wanted = wanted.borrow_and_update().clone();
                if now_wanted.lost.is_some() {
                    control.forfeit();
                    script.kill();
                    continue;
                }
                let call_timeout = shared.config.limits_for(&now_wanted.definition.limits).call_timeout;
                control.adopt(now_wanted.definition.hang, call_timeout);
                // A pause that is under way goes by the new settings as well.
                script.wake();
                if !stopping && (now_wanted.stop.is_some() || is_newer(seen, &now_wanted)) {
                    stopping = true;
                    impatient = true;
                    control.set_stopped();
                    script.interrupt_waits();
                    patience.as_mut().reset(tokio::time::Instant::now() + shared.config.drain_timeout);
                }
            }
            () = &mut patience, if impatient => {
                impatient = false;
                interrupts.unless_cleaning_up(|| script.interrupt());
            }
        }
    }
}

fn is_newer(seen: &Wanted, wanted: &Wanted) -> bool {
    wanted.definition.digest != seen.definition.digest
}

/// Decides what follows a run that began when `seen` was wanted and ended when `wanted` was.
fn next(
    ended: &Ended,
    seen: &Wanted,
    wanted: &Wanted,
    lost: Option<Loss>,
    restarts: u32,
    ran: Duration,
) -> Next {
    match lost {
        Some(Loss::Session) => return Next::Forget,
        // Not ours any more, but the coordinator waits to hear that nothing runs.
        Some(Loss::Claim) => return Next::Release(FREE),
        None => {}
    }
    if wanted.stop.is_none() && (is_newer(seen, wanted) || *ended == Ended::InOrder) {
        return Next::Restart;
    }
    if let Ended::Crashed(error) = ended {
        let back_off = restart::after_crash(restarts, ran);
        let release =
            Release::Crashed { error: error.clone(), back_off: back_off.rest, restarts: back_off.restarts };
        return match wanted.definition.restart {
            RestartPolicy::OnFailure => Next::Release(release),
            RestartPolicy::Never => Next::DisableAndRelease(release),
        };
    }
    Next::Release(match wanted.stop {
        Some(Stop::Disabled) => Release::Stopped,
        Some(Stop::Asked) => Release::StoppedByScript { cool_down: COOL_DOWN },
        Some(Stop::Relocated) => RELOCATED,
        Some(Stop::Drain) => Release::Free { cool_down: Duration::ZERO, prefer_other: true },
        Some(Stop::Restart) | None => FREE,
    })
}

/// Sets `Status=disabled`, trying until it is done or the lease is lost: the crashed thread must not start again.
async fn disable(cluster: &Handle, grant: &Grant, wanted: &mut watch::Receiver<Wanted>) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = cluster.disable(&grant.name).await {
        tracing::warn!(%error, "cannot disable the crashed thread yet");
        let gone = wanted.wait_for(|wanted| wanted.lost.is_some() || wanted.stop == Some(Stop::Disabled));
        if tokio::time::timeout(pause, gone).await.is_ok() || !grant.lease.is_trusted() {
            return;
        }
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use hats_cluster::records::{Definition, Modules, SourceDigest};

    use super::*;

    const RAN: Duration = Duration::from_secs(1);

    fn wanted(source: &str) -> Wanted {
        let definition = Definition {
            source: source.into(),
            modules: Modules::default(),
            digest: SourceDigest::of(source),
            enabled: true,
            hang: Duration::from_millis(1),
            restart: RestartPolicy::OnFailure,
            requires: hats_cluster::labels::Labels::default(),
            limits: hats_cluster::records::Limits::default(),
            restart_at: None,
        };
        Wanted { lost: None, stop: None, definition }
    }

    fn stop(reason: Stop) -> Wanted {
        Wanted { stop: Some(reason), ..wanted("a") }
    }

    fn crash() -> Ended {
        Ended::Crashed("Error: x".to_owned())
    }

    fn crashed(restarts: u32, seconds: u64) -> Release {
        Release::Crashed { error: "Error: x".to_owned(), back_off: Duration::from_secs(seconds), restarts }
    }

    fn check(ended: &Ended, now: &Wanted, expect: Next) {
        assert_eq!(next(ended, &wanted("a"), now, now.lost, 0, RAN), expect);
    }

    #[test]
    fn each_stop_is_released_in_its_way() {
        let free = |seconds, prefer_other| {
            Next::Release(Release::Free { cool_down: Duration::from_secs(seconds), prefer_other })
        };
        let cools = Release::StoppedByScript { cool_down: Duration::from_secs(5) };
        check(&Ended::InOrder, &stop(Stop::Asked), Next::Release(cools));
        check(&Ended::InOrder, &stop(Stop::Drain), free(0, true));
        check(&Ended::InOrder, &stop(Stop::Relocated), free(3, true));
        check(&Ended::InOrder, &stop(Stop::Restart), free(0, false));
        check(&Ended::InOrder, &stop(Stop::Disabled), Next::Release(Release::Stopped));
    }

    #[test]
    fn a_crash_is_a_crash_also_while_stopping() {
        check(&crash(), &wanted("a"), Next::Release(crashed(1, 1)));
        check(&crash(), &stop(Stop::Drain), Next::Release(crashed(1, 1)));
        check(&crash(), &stop(Stop::Disabled), Next::Release(crashed(1, 1)));
    }

    #[test]
    fn crashes_in_a_row_rest_longer() {
        let (seen, now) = (wanted("a"), wanted("a"));
        assert_eq!(next(&crash(), &seen, &now, None, 3, RAN), Next::Release(crashed(4, 8)));
        assert_eq!(next(&crash(), &seen, &now, None, 3, restart::HEALTHY), Next::Release(crashed(1, 1)));
    }

    #[test]
    fn never_restart_disables_first() {
        let mut now = wanted("a");
        now.definition.restart = RestartPolicy::Never;
        check(&crash(), &now, Next::DisableAndRelease(crashed(1, 1)));
    }

    #[test]
    fn a_new_source_restarts_in_place_even_after_a_crash() {
        check(&Ended::InOrder, &wanted("b"), Next::Restart);
        check(&crash(), &wanted("b"), Next::Restart);
        check(&Ended::InOrder, &wanted("a"), Next::Restart); // changed there and back
    }

    #[test]
    fn a_stop_outweighs_a_new_source() {
        let now = Wanted { stop: Some(Stop::Disabled), ..wanted("b") };
        check(&Ended::InOrder, &now, Next::Release(Release::Stopped));
    }

    #[test]
    fn what_is_lost_is_not_released() {
        let session = Wanted { lost: Some(Loss::Session), ..stop(Stop::Drain) };
        check(&Ended::Lost, &session, Next::Forget);
        check(&Ended::InOrder, &session, Next::Forget);
        check(&crash(), &session, Next::Forget);
        let claim = Wanted { lost: Some(Loss::Claim), ..wanted("a") };
        check(&Ended::Lost, &claim, Next::Release(FREE));
        check(&crash(), &claim, Next::Release(FREE));
    }

    #[test]
    fn orders_only_grow() {
        let (orders, seen) = Orders::new(wanted("a").definition);
        orders.stop(Stop::Disabled);
        orders.stop(Stop::Asked);
        orders.lose(Loss::Session);
        orders.lose(Loss::Claim);
        orders.define(wanted("b").definition);
        let now = seen.borrow();
        assert_eq!((now.stop, now.lost), (Some(Stop::Disabled), Some(Loss::Session)));
        assert_eq!(&*now.definition.source, "b");
    }
}

//! The sweep: everything of the cluster found by SCAN, which is slow and the truth.

use std::collections::HashSet;
use std::time::Duration;

use tracing::debug;

use super::{Coordinator, Done, RETRY, SWEEP_EVERY, Watching};
use crate::clock::BootInstant;
use crate::coordinator::table::Known;
use crate::error::Error;
use crate::id::SessionId;
use crate::name::{TaskKind, TaskName, WorkerName};
use crate::store::{Found, Store};

/// A request that was given up may still arrive for so long.
const GIVEN_UP_KEPT: Duration = Duration::from_secs(600);
/// A dead session is remembered in Redis for this long.
const DEAD_KEPT_MS: u64 = 3_600_000;

impl Coordinator {
    pub(super) fn sweep(&mut self, now: BootInstant) {
        self.sweeping = true;
        self.sweep_began = now;
        self.sweep_at = now + SWEEP_EVERY;
        let (store, done) = (self.store.clone(), self.done.clone());
        let index = self.index.clone();
        tokio::spawn(async move {
            let found = store.scan().await;
            if let Ok(found) = &found {
                mend_index(&store, found, &index).await;
            }
            let _ = done.send(Done::Sweep(found));
        });
    }

    pub(super) fn swept(&mut self, found: Result<Found, Error>) {
        self.sweeping = false;
        let now = BootInstant::now();
        self.sweep_took = now.saturating_duration_since(self.sweep_began);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "the sweep was not answered");
                self.sweep_at = now + RETRY;
                return;
            }
        };
        self.read_poison(found.poison);
        self.endpoints_found(&found.endpoints);
        let defined: HashSet<&TaskName> = found.threads.iter().collect();
        let claimed: HashSet<&TaskName> = found.claims.iter().collect();
        for name in &found.threads {
            let thread = self.table.entry(name);
            thread.retired = false;
            if thread.definition == Known::Gone {
                thread.definition = Known::Unknown;
                self.read_definition(name.clone());
            }
            let Some(thread) = self.table.get(name) else { continue };
            if thread.mine.is_none() && (thread.claim.is_none() || self.watching == Watching::Polled) {
                self.read_claim(name.clone());
            }
            let off_or_failed = self.table.get(name).is_some_and(|thread| {
                thread.mine.is_none()
                    && (thread.is_off() || thread.claim.as_ref().is_some_and(|claim| claim.session.is_none()))
            });
            if off_or_failed && self.watching == Watching::Polled {
                self.read_definition(name.clone());
            }
        }
        for name in &found.claims {
            if self.table.get(name).is_none() {
                self.read_claim(name.clone());
            }
        }
        let gone: Vec<_> =
            self.table.iter().map(|(name, _)| name).filter(|name| !defined.contains(name)).cloned().collect();
        for name in gone {
            self.without_definition(&name, claimed.contains(&name));
        }
        let rows: HashSet<&WorkerName> = found.workers.iter().collect();
        self.rows_of_ours.retain(|name| *name == self.config.worker_name || rows.contains(name));
        self.rows_of_2020.retain(|name, _| rows.contains(name));
        let workers = found.workers.iter().filter(|name| !self.rows_of_ours.contains(*name));
        self.dirty_rows.extend(workers.cloned());
        self.flush_soon();
        self.close_late(now, &found.sessions);
        self.forget_sessions(&found.sessions);
    }

    /// The sweep has found no definition of a thread that we know. What a reading has shown to be gone is settled here.
    fn without_definition(&mut self, name: &TaskName, claimed: bool) {
        let Some(thread) = self.table.get(name) else { return };
        // It may have been written behind the back of the SCAN: only a reading says that it is gone.
        if thread.mine.is_some() || thread.definition != Known::Gone {
            return self.read_definition(name.clone());
        }
        if !claimed {
            self.claim_is_gone(name);
            return self.table.forget(name);
        }
        if thread.retired {
            return;
        }
        let dead = thread.claim.as_ref().and_then(|claim| claim.session.clone());
        let free = dead.as_ref().is_none_or(|session| self.observer.dead(session).is_some());
        if thread.claim.is_none() || !free {
            return self.read_claim(name.clone());
        }
        let thread = self.table.entry(name);
        thread.retired = true;
        self.table.schedule(name, None);
        let (store, name) = (self.store.clone(), name.clone());
        tokio::spawn(async move {
            if let Err(error) = store.retire(&name, dead.as_ref()).await {
                debug!(task = %name, kind = "thread", %error, "the claim is retired by the next sweep");
            }
        });
    }

    /// A session of ours that was given up before it was there may have come after its close. Peers would bury it; alone
    /// we have to close it again.
    fn close_late(&mut self, now: BootInstant, found: &[SessionId]) {
        self.given_up.retain(|_, since| now.saturating_duration_since(*since) < GIVEN_UP_KEPT);
        for id in found.iter().filter(|id| self.given_up.contains_key(*id)) {
            let (store, id) = (self.store.clone(), id.clone());
            tokio::spawn(async move {
                if let Err(error) = store.close(&id).await {
                    debug!(session = %id, %error, "closed by the next sweep");
                }
            });
        }
    }

    /// Removes sessions that have been dead for an hour and that nothing names.
    fn forget_sessions(&self, found: &[SessionId]) {
        let server_now = self.vitals.server_ms(BootInstant::now());
        let long_dead = self
            .observer
            .all_dead()
            .filter(|dead| dead.ended_ms.saturating_add(DEAD_KEPT_MS) <= server_now)
            .map(|dead| &dead.id);
        let without_key = self.observer.absent().filter(|id| !found.contains(id));
        for id in long_dead.chain(without_key).filter(|id| !self.is_named(id)) {
            let (store, done, id) = (self.store.clone(), self.done.clone(), id.clone());
            tokio::spawn(async move {
                if let Ok(true) = store.forget(&id).await {
                    let _ = done.send(Done::Forgotten(id));
                }
            });
        }
    }
}

/// Enters what the indexes lack.
async fn mend_index(store: &Store, found: &Found, index: &HashSet<SessionId>) {
    let missing: Vec<SessionId> = found.sessions.iter().filter(|id| !index.contains(id)).cloned().collect();
    if !missing.is_empty()
        && let Err(error) = store.enter_index(&missing).await
    {
        debug!(%error, "the index of sessions is mended by the next sweep");
    }
    for (kind, mended) in [
        (TaskKind::Thread, store.mend_index(TaskKind::Thread, &found.threads).await),
        (TaskKind::Job, store.mend_index(TaskKind::Job, &found.jobs).await),
        (TaskKind::Endpoint, store.mend_index(TaskKind::Endpoint, &found.endpoints).await),
    ] {
        if let Err(error) = mended {
            debug!(%error, "the index of {kind}s is mended by the next sweep");
        }
    }
}

//! What this worker owns, from its start to its release, and what is mirrored of it for people.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Coordinator, Done, MALFORMED_REST, RETRY, Watching, crashed_mirror};
use crate::clock::BootInstant;
use crate::coordinator::operation::Return;
use crate::coordinator::table::{Known, Mine, Thread};
use crate::coordinator::{Event, Ran, Release, StopReason};
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::lease::Lease;
use crate::name::TaskName;
use crate::records::{ClaimRecord, DefinitionRead, State};
use crate::store::{Handover, MirrorError, MirrorUpdate, ReleaseKind, Released};

/// How long whoever is preferred at a hand-over goes first.
const PREFER_FOR: Duration = Duration::from_millis(400);
/// The same where changes are not pushed.
const PREFER_FOR_POLLED: Duration = Duration::from_secs(2);
/// The same where the thread was stopped for the sake of the other one.
const PREFER_FOR_RELOCATED: Duration = Duration::from_secs(2);

impl Coordinator {
    pub(super) fn started(&mut self, name: &TaskName, claim: &Nonce, ran: Ran) {
        let owned = self.table.get_mut(name).and_then(|thread| thread.owned_mut());
        let Some(owned) = owned.filter(|owned| owned.nonce == *claim) else { return };
        // A source that was told but has not begun is not what fails.
        owned.ran = ran;
        self.mirror_running(name, claim);
    }

    fn mirror_running(&mut self, name: &TaskName, claim: &Nonce) {
        let owned = self.table.get(name).and_then(Thread::owned);
        if owned.is_none_or(|owned| owned.nonce != *claim) {
            return;
        }
        let update = MirrorUpdate {
            state: Some(State::Running),
            owner: Some(self.config.worker_name.to_string()),
            error: MirrorError::Keep,
            disable: false,
        };
        self.mirrors.insert(name.clone(), (claim.clone(), update));
        self.flush_soon();
    }

    pub(super) fn release(&mut self, name: &TaskName, claim: &Nonce, how: Release) {
        let now = BootInstant::now();
        let Some(thread) = self.table.get_mut(name) else { return };
        let Some(owned) = thread.owned().filter(|owned| owned.nonce == *claim) else { return };
        let lease = owned.lease.clone();
        let (stop, malformed, ran) = (owned.stop, owned.malformed.clone(), owned.ran.clone());
        let mut handover = Handover { ran: Some(ran), ..Handover::free() };
        let mirror = match (&how, malformed) {
            (_, Some(error)) if stop == Some(StopReason::Malformed) => {
                handover.kind = Handover::crashed(Duration::ZERO, 0).kind;
                thread.not_before = now + MALFORMED_REST;
                crashed_mirror(error)
            }
            (Release::Crashed { error, back_off, restarts }, _) => {
                handover.kind = Handover::crashed(*back_off, *restarts).kind;
                crashed_mirror(error.clone())
            }
            (Release::Free { cool_down, prefer_other }, _) => {
                thread.given_until = now + *cool_down;
                if *prefer_other {
                    handover.prefer = self.heir(name);
                } else if stop == Some(StopReason::Restart) {
                    handover.prefer = Some((lease.session().clone(), PREFER_FOR));
                }
                stopped_mirror()
            }
            (Release::StoppedByScript { cool_down }, _) => {
                thread.cools_until = now + *cool_down;
                handover.prefer = self.heir(name);
                stopped_mirror()
            }
            (Release::Stopped, _) => stopped_mirror(),
        };
        handover.retire = stop == Some(StopReason::Deleted);
        self.give_back(name, claim, lease, handover, mirror);
        self.count_threads();
    }

    pub(super) fn give_back(
        &mut self,
        name: &TaskName,
        nonce: &Nonce,
        lease: Lease,
        how: Handover,
        mirror: MirrorUpdate,
    ) {
        self.mirrors.remove(name);
        let mine = Mine::Releasing { nonce: nonce.clone(), lease: lease.clone() };
        self.table.set_mine(name, Some(mine));
        let request = Return {
            store: self.store.clone(),
            lease,
            name: name.clone(),
            nonce: nonce.clone(),
            rests: self.rests(name, &how),
            how,
            mirror,
        };
        // A word of ours that is still on its way must not come after these: it would stand there for good.
        let earlier = self.mirroring.as_ref().filter(|(names, _)| names.contains(name));
        let earlier = earlier.map(|(_, answered)| answered.clone());
        let (done, name, nonce) = (self.done.clone(), name.clone(), nonce.clone());
        tokio::spawn(async move {
            if let Some(answered) = earlier {
                answered.cancelled().await;
            }
            let released = request.run().await;
            let _ = done.send(Done::Return { name, nonce, released });
        });
    }

    /// Whether nobody can have started a thread for some time after it is given back.
    pub(super) fn rests(&self, name: &TaskName, how: &Handover) -> bool {
        match how.kind {
            // Two requests fit into it.
            ReleaseKind::Crashed { back_off, .. } if back_off > self.timing.command_timeout() * 3 => true,
            _ => self.table.get(name).is_some_and(Thread::is_off),
        }
    }

    pub(super) fn returned(&mut self, name: &TaskName, nonce: &Nonce, released: Option<Released>) {
        if !self.table.has_nonce(name, nonce) {
            return;
        }
        self.table.set_mine(name, None);
        let thread = self.table.entry(name);
        thread.stale_claim = false;
        thread.stale_definition = false;
        thread.definition = Known::Unknown;
        thread.malformed = false;
        match released {
            // The session is lost: its death settles it.
            None => return,
            // It is for others to look now.
            Some(_) if self.draining => return,
            Some(Released::NotHeld) => self.read_claim(name.clone()),
            Some(Released::Released) => {
                let claim = ClaimRecord { session: None, ..thread.claim.clone().unwrap_or_default() };
                self.table.set_claim(name, claim);
                // Next start, preference and whoever has taken it meanwhile.
                self.read_claim(name.clone());
            }
        }
        // Why it was given back may be over already; and what is off must be known to be off before it is claimed.
        self.read_definition(name.clone());
    }

    /// Whom to hand a thread to: the one for whom it was stopped, if that one is still there.
    fn heir(&mut self, name: &TaskName) -> Option<(SessionId, Duration)> {
        let meant = self.moves.remove(name);
        let members = self.members(BootInstant::now());
        match meant.filter(|session| members.has(session)) {
            Some(session) => Some((session, PREFER_FOR_RELOCATED)),
            None => self.successor(name),
        }
    }

    /// Who comes next for a thread.
    pub(super) fn successor(&mut self, name: &TaskName) -> Option<(SessionId, Duration)> {
        let members = self.members(BootInstant::now());
        let own = self.lease.as_ref()?.session();
        let requires = self.table.get(name).map(|thread| thread.requires.clone()).unwrap_or_default();
        let duration = match self.watching {
            Watching::Pushed => PREFER_FOR,
            Watching::Polled => PREFER_FOR_POLLED,
        };
        members.successor(name, &requires, own).map(|session| (session.clone(), duration))
    }

    pub(super) fn ask_to_stop(&mut self, name: &TaskName, reason: StopReason) {
        let Some(owned) = self.table.get_mut(name).and_then(|thread| thread.owned_mut()) else { return };
        // What has moved outweighs what was asked for in good order.
        if owned.stop.is_some() && (reason != StopReason::Moved || owned.stop == Some(StopReason::Moved)) {
            return;
        }
        owned.stop = Some(reason);
        let claim = owned.nonce.clone();
        self.tell(Event::Stop { name: name.clone(), claim, reason });
    }

    pub(super) fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.tell_peers();
        self.row_at = BootInstant::now();
    }

    pub(super) fn count_threads(&self) {
        let owned = u64::try_from(self.table.owned_len()).unwrap_or(u64::MAX);
        self.vitals.threads.store(owned, Ordering::Relaxed);
    }

    pub(super) fn owned_definition_read(&mut self, name: &TaskName, read: Option<DefinitionRead>) {
        let Some(read) = read else { return self.ask_to_stop(name, StopReason::Deleted) };
        if !read.enabled {
            return self.ask_to_stop(name, StopReason::Disabled);
        }
        let Some(owned) = self.table.get_mut(name).and_then(|thread| thread.owned_mut()) else { return };
        match read.definition {
            Err(error) => {
                owned.malformed = Some(error.to_string());
                self.ask_to_stop(name, StopReason::Malformed);
            }
            Ok(definition) if !self.config.capacity.labels.offer(&definition.requires) => {
                owned.definition.requires = definition.requires.clone();
                let thread = self.table.entry(name);
                thread.requires = definition.requires;
                self.ask_to_stop(name, StopReason::Relocated);
            }
            Ok(definition) if definition == owned.definition => {}
            Ok(definition) if definition.restart_at != owned.definition.restart_at => {
                self.ask_to_stop(name, StopReason::Restart);
            }
            Ok(definition) => {
                owned.definition = definition.clone();
                let claim = owned.nonce.clone();
                self.tell(Event::Changed { name: name.clone(), claim, definition });
            }
        }
    }

    pub(super) fn send_mirrors(&mut self) {
        if self.mirroring.is_some() || self.mirrors.is_empty() {
            return;
        }
        let answered = CancellationToken::new();
        self.mirroring = Some((self.mirrors.keys().cloned().collect(), answered.clone()));
        let mirrors: Vec<_> = std::mem::take(&mut self.mirrors).into_iter().collect();
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let _answered = answered.drop_guard();
            let (nonces, updates): (Vec<_>, Vec<_>) =
                mirrors.into_iter().map(|(name, (nonce, update))| (nonce, (name, update))).unzip();
            let results = store.mirror_many(&updates).await;
            let names = updates.into_iter().map(|(name, _)| name);
            let mirrored =
                names.zip(nonces).zip(results).map(|((name, nonce), result)| (name, nonce, result));
            let _ = done.send(Done::Mirrors(mirrored.collect()));
        });
    }

    pub(super) fn mirrored(&mut self, mirrors: Vec<(TaskName, Nonce, Result<bool, Error>)>) {
        self.mirroring = None;
        for (name, nonce, result) in mirrors {
            if result.is_err() {
                self.mirror_running(&name, &nonce);
                self.flush_at = Some(BootInstant::now() + RETRY);
            }
        }
    }
}

fn stopped_mirror() -> MirrorUpdate {
    MirrorUpdate {
        state: Some(State::Stopped),
        owner: Some(String::new()),
        error: MirrorError::Keep,
        disable: false,
    }
}

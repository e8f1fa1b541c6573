//! Reading claims and definitions, and what is learnt from it. What gathers is read together.

use tracing::{debug, warn};

use super::{COALESCE, Coordinator, Done, RETRY};
use crate::clock::BootInstant;
use crate::coordinator::StopReason;
use crate::coordinator::table::{Known, Mine};
use crate::error::Error;
use crate::name::TaskName;
use crate::records::{ClaimRecord, Definition, DefinitionRead, SourceDigest};

impl Coordinator {
    pub(super) fn read_claim(&mut self, name: TaskName) {
        self.dirty_claims.insert(name);
        self.flush_soon();
    }

    pub(super) fn read_definition(&mut self, name: TaskName) {
        self.dirty_definitions.insert(name);
        self.flush_soon();
    }

    pub(super) fn flush_soon(&mut self) {
        self.flush_at.get_or_insert(BootInstant::now() + COALESCE);
    }

    /// Sends what has gathered, one request of each kind at a time: later notices are read later.
    pub(super) fn flush(&mut self) {
        self.flush_at = None;
        if !self.reading_claims && !self.dirty_claims.is_empty() {
            self.reading_claims = true;
            let names: Vec<_> = std::mem::take(&mut self.dirty_claims).into_iter().collect();
            let (store, done) = (self.store.clone(), self.done.clone());
            tokio::spawn(async move {
                let claims = store.check(&names).await;
                let _ = done.send(Done::Claims { names, claims });
            });
        }
        if !self.reading_definitions && !self.dirty_definitions.is_empty() {
            self.reading_definitions = true;
            let names = std::mem::take(&mut self.dirty_definitions);
            let asked: Vec<_> =
                names.into_iter().map(|name| (name.clone(), self.known_definition(&name))).collect();
            let is_owned = |name| self.table.get(name).is_some_and(|thread| thread.owned().is_some());
            let whole: Vec<_> = asked.iter().map(|(name, known)| known.is_none() || is_owned(name)).collect();
            let (store, done) = (self.store.clone(), self.done.clone());
            tokio::spawn(async move {
                let read = store.read_definitions(&asked).await;
                let read = asked.into_iter().zip(whole).zip(read);
                let read = read.map(|(((name, _), whole), read)| (name, whole, read));
                let _ = done.send(Done::Definitions(read.collect()));
            });
        }
        if !self.reading_rows && !self.dirty_rows.is_empty() {
            self.reading_rows = true;
            let names: Vec<_> = std::mem::take(&mut self.dirty_rows).into_iter().collect();
            let (store, done) = (self.store.clone(), self.done.clone());
            tokio::spawn(async move {
                let _ = done.send(Done::Rows(store.read_rows(&names).await));
            });
        }
        self.send_mirrors();
    }

    /// Whether something has gathered that can be sent.
    pub(super) fn has_gathered(&self) -> bool {
        (!self.reading_claims && !self.dirty_claims.is_empty())
            || (!self.reading_definitions && !self.dirty_definitions.is_empty())
            || (!self.reading_rows && !self.dirty_rows.is_empty())
            || (self.mirroring.is_none() && !self.mirrors.is_empty())
    }

    /// What need not be sent again: the source that we run, or the one that ran last.
    pub(super) fn known_definition(&self, name: &TaskName) -> Option<Definition> {
        let thread = self.table.get(name)?;
        if let Some(owned) = thread.owned() {
            return Some(owned.definition.clone());
        }
        if thread.malformed {
            // Of one that has no source, "you know it" would say that it has.
            return None;
        }
        let digest = thread.seen.as_ref().map(|(digest, _)| digest.clone());
        let digest = digest.or_else(|| thread.claim.as_ref()?.source.clone())?;
        Some(unfetched(digest))
    }

    pub(super) fn claims_read(&mut self, names: Vec<TaskName>, claims: Result<Vec<ClaimRecord>, Error>) {
        self.reading_claims = false;
        match claims {
            Ok(claims) => {
                for (name, claim) in names.into_iter().zip(claims) {
                    self.claim_seen(&name, claim);
                }
            }
            Err(error) => {
                debug!(%error, "claims could not be read, read again");
                self.dirty_claims.extend(names);
                self.flush_at = Some(BootInstant::now() + RETRY);
            }
        }
    }

    pub(super) fn claim_seen(&mut self, name: &TaskName, claim: ClaimRecord) {
        let thread = self.table.entry(name);
        match &mut thread.mine {
            None => {
                let is_blank = claim.session.is_none() && claim.nonce.is_none() && claim.epoch == 0;
                if is_blank {
                    self.claim_is_gone(name);
                }
                self.table.set_claim(name, claim);
                self.consider(name);
            }
            Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => {}
            Some(Mine::Owned(owned)) => {
                let is_ours = claim.session.as_ref() == Some(owned.lease.session())
                    && claim.nonce.as_ref() == Some(&owned.nonce);
                if is_ours {
                    owned.doubted = false;
                } else if owned.doubted {
                    warn!(task = %name, kind = "thread", "the claim no longer names us: it stops");
                    self.table.set_claim(name, claim);
                    self.ask_to_stop(name, StopReason::Moved);
                } else {
                    // The answer may be older than the grant: the next one is not.
                    owned.doubted = true;
                    self.read_claim(name.clone());
                }
            }
        }
    }

    /// Claims outlive their definitions, so one that is gone is one that Redis has forgotten, unless it was told to go.
    /// Whoever has claimed it since we looked may not know yet.
    pub(super) fn claim_is_gone(&mut self, name: &TaskName) {
        let Some(thread) = self.table.get(name).filter(|thread| !thread.retired) else { return };
        let Some(claim) = &thread.claim else { return };
        let may_be_owned = claim.session.as_ref().is_some_and(|owner| self.observer.dead(owner).is_none());
        if claim.epoch > 0 || may_be_owned {
            self.data_is_lost();
        }
    }

    /// As long as an owner may trust its lease without knowing that Redis has forgotten it, nobody claims anything.
    pub(super) fn data_is_lost(&mut self) {
        let now = BootInstant::now();
        // No lease was renewed since the data went, so the first sight of it is what counts.
        if now < self.data_lost_until {
            return;
        }
        let longest = self.observer.longest_lease().max(self.timing.lease());
        warn!("redis has lost data: nothing is claimed for {longest:?}");
        self.data_lost_until = now + longest;
        self.blocked_until = self.blocked_until.max(self.data_lost_until);
    }

    /// `whole`: the answer has the source even if that is what we know. It has not where the thread was not ours when it
    /// was asked for; nothing of it may run then, whatever has become ours meanwhile.
    pub(super) fn definition_answered(
        &mut self,
        name: &TaskName,
        whole: bool,
        read: Result<Option<DefinitionRead>, Error>,
    ) {
        if !whole && self.table.get(name).is_some_and(|thread| thread.owned().is_some()) {
            return self.read_definition(name.clone());
        }
        self.definition_read(name, read);
    }

    pub(super) fn definition_read(&mut self, name: &TaskName, read: Result<Option<DefinitionRead>, Error>) {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                debug!(task = %name, kind = "thread", %error, "the definition could not be read, read again");
                self.dirty_definitions.insert(name.clone());
                self.flush_at = Some(BootInstant::now() + RETRY);
                return;
            }
        };
        let thread = self.table.entry(name);
        match &thread.mine {
            Some(Mine::Claiming { .. } | Mine::Releasing { .. }) => thread.stale_definition = true,
            Some(Mine::Owned(_)) => {
                thread.read(read.as_ref());
                self.owned_definition_read(name, read);
            }
            None => {
                let was_disabled = thread.definition == Known::Disabled;
                thread.read(read.as_ref());
                let enabled_anew = was_disabled && thread.definition == Known::Enabled;
                let held_back = thread
                    .claim
                    .as_ref()
                    .is_some_and(|claim| claim.next_start_ms != 0 || claim.restarts != 0);
                if enabled_anew && held_back {
                    self.pardon(name);
                } else {
                    self.consider(name);
                }
            }
        }
    }

    /// Enabled anew: the back-off is over at once.
    fn pardon(&mut self, name: &TaskName) {
        if !self.pardons.insert(name.clone()) {
            return;
        }
        let (store, done, name) = (self.store.clone(), self.done.clone(), name.clone());
        tokio::spawn(async move {
            let pardoned = store.pardon(&name).await.unwrap_or(false);
            let _ = done.send(Done::Pardon { name, pardoned });
        });
    }
}

/// Stands for a source that need not be fetched.
pub(super) fn unfetched(digest: SourceDigest) -> Definition {
    Definition {
        source: "".into(),
        modules: crate::records::Modules::default(),
        digest,
        enabled: true,
        hang: crate::records::HANG_DEFAULT,
        restart: crate::records::RestartPolicy::default(),
        requires: crate::labels::Labels::default(),
        limits: crate::records::Limits::default(),
        restart_at: None,
    }
}

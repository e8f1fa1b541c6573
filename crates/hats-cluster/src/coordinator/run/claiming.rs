//! Claiming: which threads may be claimed and when, the claims themselves and what their answers mean.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::balancing::calm_at;
use super::{CLAIMS_MAX, Coordinator, Done, MALFORMED_REST, RETRY, crashed_mirror};
use crate::clock::BootInstant;
use crate::coordinator::operation::{Claimed, Claims, Wanted, until_answered};
use crate::coordinator::settle::{FEW, Room};
use crate::coordinator::table::{Mine, Owned, Thread};
use crate::coordinator::{Admission, Event, Grant};
use crate::id::Nonce;
use crate::lease::Lease;
use crate::metrics;
use crate::name::{Task, TaskName};
use crate::records::{ClaimRecord, DefinitionRead};
use crate::store::{Answer, Granted, Handover, MirrorUpdate};

/// So many of them are made together: as many sources as go into one pipeline.
const CLAIMS_TOGETHER: usize = 32;
/// After a refusal the same is not asked for sooner, whatever the clocks say.
const REFUSED_REST: Duration = Duration::from_millis(50);
/// The same where the key of the claim holds something else.
const UNCLAIMABLE_REST: Duration = Duration::from_secs(5);
/// Who waits for its rank looks again after this.
const PLAN_AGE_MAX: Duration = Duration::from_millis(100);
/// Stored instants further ahead than this count as passed.
const NEXT_START_MAX: Duration = Duration::from_secs(60);
const PREFER_MAX: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Whether there is room for one more thread.
    pub(super) fn can_claim(&self, now: BootInstant) -> bool {
        self.config.capacity.threads_max.is_none_or(|most| self.table.mine_len() < most) && self.takes(now)
    }

    /// Whether anything new is taken.
    pub(super) fn takes(&self, now: BootInstant) -> bool {
        !self.draining
            && self.admission == Admission::Open
            // Critical and alone: better here than nowhere.
            && (self.condition.critical.is_none() || !self.has_ready_peer(now))
            && now >= self.blocked_until
            && self.unsettled.is_empty()
            && self.lease.as_ref().is_some_and(Lease::is_trusted)
    }

    pub(super) fn claim_now(&mut self, names: Vec<TaskName>) {
        for name in names {
            self.table.entry(&name).run_now = true;
            self.consider(&name);
        }
    }

    pub(super) fn consider_all(&mut self) {
        for name in self.table.names(|thread| thread.mine.is_none()) {
            self.consider(&name);
        }
    }

    /// Looks at a thread that is not ours: whether it may be claimed, and from when on.
    pub(super) fn consider(&mut self, name: &TaskName) {
        let now = BootInstant::now();
        let at = self.claimable_at(name, now);
        self.table.schedule(name, at);
    }

    /// When the thread may be claimed by somebody; none = as far as is known, not before something changes.
    pub(super) fn claimable_at(&mut self, name: &TaskName, now: BootInstant) -> Option<BootInstant> {
        let thread = self.table.get(name)?;
        if thread.mine.is_some() {
            return None;
        }
        if let Some(nonce) = self.ghost(thread) {
            self.release_ghost(name, &nonce);
            return None;
        }
        let thread = self.table.get(name)?;
        if thread.is_off() || !self.config.capacity.labels.offer(&thread.requires) {
            return None;
        }
        let Some(claim) = &thread.claim else {
            self.read_claim(name.clone());
            return None;
        };
        let changed = thread.has_changed();
        let preferred = self.lease.as_ref().is_some_and(|own| claim.prefer.as_ref() == Some(own.session()));
        let mut at = thread.not_before.max(thread.cools_until);
        if !preferred {
            at = at.max(thread.given_until);
        }
        match &claim.session {
            Some(session) if self.observer.dead(session).is_none() || self.striking.contains(session) => {
                return None;
            }
            Some(_) => {}
            None => {
                if !changed {
                    at = at.max(self.server_instant(claim.next_start_ms, now, NEXT_START_MAX));
                }
                if !preferred && claim.prefer.is_some() {
                    at = at.max(self.server_instant(claim.prefer_until_ms, now, PREFER_MAX));
                }
            }
        }
        if !self.poison.is_empty()
            && let Some(until) = self.poison.until(&Task::thread(name))
        {
            at = at.max(until);
        }
        let thread = self.table.get_mut(name)?;
        let free_since = *thread.free_since.get_or_insert(now);
        Some(at.max(free_since))
    }

    /// The nonce, if the claim names our session although we neither own the thread nor ask for it.
    fn ghost(&self, thread: &Thread) -> Option<Nonce> {
        let claim = thread.claim.as_ref()?;
        let is_ours = self.lease.as_ref()?.session() == claim.session.as_ref()?;
        if is_ours { claim.nonce.clone() } else { None }
    }

    /// A stored instant on our boot clock. One further ahead than it could have been set counts as passed.
    fn server_instant(&self, server_ms: u64, now: BootInstant, most: Duration) -> BootInstant {
        let at = self.vitals.boot_at(server_ms);
        if server_ms == 0 || at.saturating_duration_since(now) > most { BootInstant::default() } else { at }
    }

    /// Claims what is due, as far as there is room.
    pub(super) fn claim_due(&mut self, now: BootInstant) {
        let is_due = self.table.next_due().is_some_and(|at| at <= now);
        if !is_due || !self.can_claim(now) || self.claims_under_way >= CLAIMS_MAX {
            return;
        }
        let Some(lease) = self.lease.clone() else { return };
        let members = self.members(now);
        let room = self.settling.room(now);
        let mut wanted = Vec::new();
        while self.claims_under_way < CLAIMS_MAX && self.can_claim(now) {
            let Some(name) = self.table.pop_due(now) else { break };
            let Some(at) = self.claimable_at(&name, now) else { continue };
            let Some(thread) = self.table.get(&name) else { continue };
            let preferred =
                thread.claim.as_ref().is_some_and(|claim| claim.prefer.as_ref() == Some(lease.session()));
            let at = if thread.run_now || preferred {
                at
            } else if room == Room::Few && self.table.mine_len() >= FEW {
                at.max(self.settling.over())
            } else {
                let since = at.max(self.settling.free_since(now)).max(self.blocked_until);
                since + members.delay(&name, &thread.requires, lease.session(), self.table.mine_len())
            };
            if at > now {
                // Shares and members may change meanwhile.
                self.table.schedule(&name, Some(at.min(now + PLAN_AGE_MAX)));
            } else {
                wanted.push(self.want(name, lease.clone()));
            }
        }
        while !wanted.is_empty() {
            let rest = wanted.split_off(wanted.len().min(CLAIMS_TOGETHER));
            self.claim(wanted, lease.clone());
            wanted = rest;
        }
    }

    fn want(&mut self, name: TaskName, lease: Lease) -> Wanted {
        let nonce = Nonce::random();
        self.table.set_mine(&name, Some(Mine::Claiming { nonce: nonce.clone(), lease }));
        self.claims_under_way += 1;
        let thread = self.table.entry(&name);
        thread.stale_claim = false;
        thread.stale_definition = false;
        let of_2020 = thread.of_2020.clone();
        let claim = thread.claim.clone().unwrap_or_default();
        let dead = claim.session.as_ref().and_then(|session| self.observer.dead(session)).cloned();
        let unclaimed = claim.epoch == 0 && claim.session.is_none();
        Wanted { name, nonce, dead, unclaimed, of_2020 }
    }

    fn claim(&self, wanted: Vec<Wanted>, lease: Lease) {
        let labels = self.config.capacity.labels.clone();
        let claims = Claims { store: self.store.clone(), lease, timing: self.timing, labels };
        let done = self.done.clone();
        tokio::spawn(claims.run(wanted, move |name, nonce, claimed| {
            let _ = done.send(Done::Claim { name, nonce, claimed: Box::new(claimed) });
        }));
    }

    pub(super) fn claim_answered(&mut self, name: &TaskName, nonce: &Nonce, claimed: Claimed) {
        if !self.table.has_nonce(name, nonce) {
            // The session was lost meanwhile: its death settles it.
            return;
        }
        let Some(Mine::Claiming { lease, .. }) = self.table.set_mine(name, None) else { return };
        let thread = self.table.entry(name);
        if !matches!(claimed, Claimed::Of2020 { .. } | Claimed::Unread(_)) {
            thread.run_now = false;
        }
        let stale_claim = std::mem::take(&mut thread.stale_claim);
        match &claimed {
            Claimed::Granted { .. } => {
                metrics::CLAIMS_GRANTED.increment(1);
                let of_dead = thread.claim.as_ref().is_some_and(|claim| claim.session.is_some());
                metrics::TAKEOVERS.increment(u64::from(of_dead));
                let given = |claim: &ClaimRecord| claim.prefer.as_ref() == Some(lease.session());
                if of_dead || thread.claim.as_ref().is_some_and(given) {
                    self.calm_at = calm_at();
                }
            }
            Claimed::Refused { .. } => metrics::CLAIMS_REFUSED.increment(1),
            Claimed::Unread(_) | Claimed::Unclaimable(_) => metrics::CLAIMS_FAILED.increment(1),
            Claimed::NothingToRun { .. } | Claimed::Of2020 { .. } | Claimed::LeaseLost => {}
        }
        match claimed {
            Claimed::Granted { granted, read } => {
                self.granted(name, nonce, lease, granted, read);
                if stale_claim {
                    self.read_claim(name.clone());
                }
                return;
            }
            Claimed::Refused { answer, read } => self.refused(name, answer, &read),
            Claimed::NothingToRun { read } => thread.read(read.as_ref()),
            Claimed::Of2020 { heartbeat, since } => {
                if thread.of_2020.is_none() {
                    info!(task = %name, kind = "thread", "says running and nobody claims it: watched before it is claimed");
                }
                thread.of_2020 = Some((heartbeat, since));
                thread.not_before = BootInstant::now() + self.timing.sample_every();
            }
            Claimed::Unread(error) => {
                debug!(task = %name, kind = "thread", %error, "the definition could not be read");
                thread.not_before = BootInstant::now() + RETRY;
            }
            Claimed::Unclaimable(error) => {
                if !std::mem::replace(&mut thread.unclaimable, true) {
                    warn!(task = %name, kind = "thread", %error, "its claim cannot be used, nobody can run it");
                }
                thread.not_before = BootInstant::now() + UNCLAIMABLE_REST;
            }
            Claimed::LeaseLost => {}
        }
        if std::mem::take(&mut self.table.entry(name).stale_definition) {
            self.read_definition(name.clone());
        }
        if stale_claim {
            self.read_claim(name.clone());
        } else {
            self.consider(name);
        }
    }

    fn refused(&mut self, name: &TaskName, answer: Answer, read: &DefinitionRead) {
        if let Answer::BackOff { server_ms, .. } | Answer::Prefer { server_ms, .. } = &answer {
            // Its clock may have been set back since the last renewal.
            self.vitals.server_said(*server_ms);
        }
        let thread = self.table.entry(name);
        thread.read(Some(read));
        thread.not_before = thread.not_before.max(BootInstant::now() + REFUSED_REST);
        let mut claim = thread.claim.clone().unwrap_or_default();
        // A refusal because of the past says that nothing has changed since.
        let same_as_ran = |claim: &mut ClaimRecord| {
            claim.session = None;
            claim.source = Some(read.digest.clone());
            claim.restart_at.clone_from(&read.restart_at);
        };
        match answer {
            Answer::Held { session, nonce } => {
                claim.session = session;
                claim.nonce = nonce;
                claim.prefer = None;
            }
            Answer::BackOff { next_start_ms, .. } => {
                same_as_ran(&mut claim);
                claim.next_start_ms = next_start_ms;
            }
            Answer::Prefer { session, until_ms, .. } => {
                claim.session = None;
                claim.prefer = Some(session);
                claim.prefer_until_ms = until_ms;
            }
            Answer::Granted(_) => {}
        }
        self.table.set_claim(name, claim);
    }

    fn granted(
        &mut self,
        name: &TaskName,
        nonce: &Nonce,
        lease: Lease,
        granted: Granted,
        read: Option<DefinitionRead>,
    ) {
        self.vitals.server_said(granted.server_ms);
        let thread = self.table.entry(name);
        thread.unclaimable = false;
        thread.read(read.as_ref());
        thread.of_2020 = None;
        let stale_definition = std::mem::take(&mut thread.stale_definition);
        let claim = ClaimRecord {
            session: Some(lease.session().clone()),
            nonce: Some(nonce.clone()),
            epoch: granted.epoch,
            claimed_ms: granted.claimed_ms,
            restarts: granted.restarts,
            source: read.as_ref().map(|read| read.digest.clone()),
            restart_at: read.as_ref().and_then(|read| read.restart_at.clone()),
            ..ClaimRecord::default()
        };
        self.table.set_claim(name, claim);
        let definition = match read {
            Some(DefinitionRead { enabled: true, definition: Ok(definition), .. }) if !self.draining => {
                definition
            }
            Some(DefinitionRead { enabled: true, definition: Err(error), .. }) => {
                let error = error.to_string();
                warn!(task = %name, kind = "thread", error, "the definition is malformed");
                // No back-off: it starts as soon as it is mended, and what says so already is not claimed.
                let how = Handover::crashed(Duration::ZERO, granted.restarts);
                self.table.entry(name).not_before = BootInstant::now() + MALFORMED_REST;
                return self.give_back(name, nonce, lease, how, crashed_mirror(error));
            }
            Some(read) => {
                let prefer = if read.enabled { self.successor(name) } else { None };
                let how = Handover { prefer, ..Handover::free() };
                return self.give_back(name, nonce, lease, how, MirrorUpdate::default());
            }
            None => {
                let how = Handover { retire: true, ..Handover::free() };
                return self.give_back(name, nonce, lease, how, MirrorUpdate::default());
            }
        };
        let owned = Owned {
            nonce: nonce.clone(),
            lease: lease.clone(),
            ran: (definition.digest.clone(), definition.restart_at.clone()),
            definition: definition.clone(),
            stop: None,
            malformed: None,
            doubted: false,
        };
        self.table.set_mine(name, Some(Mine::Owned(Box::new(owned))));
        self.count_threads();
        if stale_definition {
            self.read_definition(name.clone());
        }
        let grant = Grant {
            key: self.store.keys().thread(name),
            name: name.clone(),
            claim: nonce.clone(),
            epoch: granted.epoch,
            restarts: granted.restarts,
            lease: lease.clone(),
            definition,
        };
        if self.events.send(Event::Claimed(grant)).is_err() {
            // Nobody is left who would run it, or give it back.
            let how = Handover { prefer: self.successor(name), ..Handover::free() };
            self.give_back(name, nonce, lease, how, MirrorUpdate::default());
            self.count_threads();
        }
    }

    /// Our session is named with a nonce that we do not know: nobody runs it, so it is given up at once.
    fn release_ghost(&mut self, name: &TaskName, nonce: &Nonce) {
        let Some(lease) = self.lease.clone() else { return };
        if !self.ghosts.insert(nonce.clone()) {
            return;
        }
        debug!(task = %name, kind = "thread", claim = %nonce, "a claim of ours that we know nothing of is given up");
        let (store, done) = (self.store.clone(), self.done.clone());
        let (name, nonce) = (name.clone(), nonce.clone());
        tokio::spawn(async move {
            let how = Handover::free();
            let _ = until_answered(&lease, || store.release(&name, &nonce, &how)).await;
            let _ = done.send(Done::Ghost { name, nonce });
        });
    }
}

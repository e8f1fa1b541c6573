//! What the coordinator knows of every thread of the cluster.
//!
//! What must always hold:
//! * A nonce is in the table before it is sent, and leaves it only when it was answered for good or when its session is
//!   lost. Whatever names our session with another nonce is a ghost.
//! * `loads` counts exactly the claims as last seen; `queue` holds exactly the threads whose `due` is set.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::clock::BootInstant;
use crate::id::{Nonce, SessionId};
use crate::labels::Labels;
use crate::lease::Lease;
use crate::name::TaskName;
use crate::records::{ClaimRecord, Definition, DefinitionRead, SourceDigest};

use super::StopReason;

/// All threads that were ever heard of and are not gone without a trace.
#[derive(Default)]
pub(super) struct Table {
    threads: HashMap<TaskName, Thread>,
    loads: HashMap<SessionId, usize>,
    queue: BTreeSet<(BootInstant, TaskName)>,
    /// Threads that are ours in one way or another.
    mine: HashSet<TaskName>,
    /// How many of those are owned, not just about to be.
    owned: usize,
}

/// One thread.
#[derive(Default)]
pub(super) struct Thread {
    pub(super) definition: Known,
    /// Source and `RestartAt` as last read; the source itself is kept only for what we own.
    pub(super) seen: Option<(SourceDigest, Option<Arc<str>>)>,
    /// What a worker must offer, as last read.
    pub(super) requires: Labels,
    /// Its definition is malformed and says so already: there is nothing to run until it changes.
    pub(super) malformed: bool,
    /// The claim as last seen; none = not yet.
    pub(super) claim: Option<ClaimRecord>,
    /// Since when it is known to be free, or its owner to be dead.
    pub(super) free_since: Option<BootInstant>,
    /// This worker leaves it alone until then.
    pub(super) not_before: BootInstant,
    /// It was given away, and is not taken back before this, unless whoever has it gives it to us.
    pub(super) given_until: BootInstant,
    /// Its script has asked to be stopped here: this worker does not claim it before this, whoever is preferred.
    pub(super) cools_until: BootInstant,
    /// To be claimed here at once, whatever the rank.
    pub(super) run_now: bool,
    /// The claim has changed while one of our own requests was under way.
    pub(super) stale_claim: bool,
    /// The definition has changed while our claim was under way.
    pub(super) stale_definition: bool,
    /// It says running and nobody claims it, so a worker of 2020 may run it: its heartbeat, and since when it stands
    /// still.
    pub(super) of_2020: Option<(String, BootInstant)>,
    /// Its claim's key holds something else, and that was said.
    pub(super) unclaimable: bool,
    /// It has no definition, and its claim was told to go in time.
    pub(super) retired: bool,
    pub(super) mine: Option<Mine>,
    due: Option<BootInstant>,
}

/// What is known of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Known {
    /// Not read yet: it is read before a claim.
    #[default]
    Unknown,
    Gone,
    Disabled,
    Enabled,
}

/// A thread that is ours, or is about to be, or was until just now.
pub(super) enum Mine {
    /// The claim is sent, or about to be.
    Claiming { nonce: Nonce, lease: Lease },
    /// Granted, and handed to whoever runs it.
    Owned(Box<Owned>),
    /// Its script has ended; the release is sent until it is answered.
    Releasing { nonce: Nonce, lease: Lease },
}

/// A thread that we own.
pub(super) struct Owned {
    pub(super) nonce: Nonce,
    pub(super) lease: Lease,
    /// What it was last told to be.
    pub(super) definition: Definition,
    /// What has run: source and `RestartAt`.
    pub(super) ran: (SourceDigest, Option<Arc<str>>),
    /// It was asked to stop.
    pub(super) stop: Option<StopReason>,
    /// The field that is malformed, if that is why it stops.
    pub(super) malformed: Option<String>,
    /// The last look at the claim did not show us. The next one decides.
    pub(super) doubted: bool,
}

impl Mine {
    pub(super) fn nonce(&self) -> &Nonce {
        match self {
            Self::Claiming { nonce, .. } | Self::Releasing { nonce, .. } => nonce,
            Self::Owned(owned) => &owned.nonce,
        }
    }

    pub(super) fn lease(&self) -> &Lease {
        match self {
            Self::Claiming { lease, .. } | Self::Releasing { lease, .. } => lease,
            Self::Owned(owned) => &owned.lease,
        }
    }
}

impl Thread {
    pub(super) fn owned(&self) -> Option<&Owned> {
        match &self.mine {
            Some(Mine::Owned(owned)) => Some(owned),
            _ => None,
        }
    }

    pub(super) fn owned_mut(&mut self) -> Option<&mut Owned> {
        match &mut self.mine {
            Some(Mine::Owned(owned)) => Some(owned),
            _ => None,
        }
    }

    /// Whether nobody would run it even if it were free.
    pub(super) fn is_off(&self) -> bool {
        self.malformed || matches!(self.definition, Known::Gone | Known::Disabled)
    }

    /// Whether the definition is another than the one that ran last: no failure of the past counts then.
    pub(super) fn has_changed(&self) -> bool {
        let (Some((digest, restart_at)), Some(claim)) = (&self.seen, &self.claim) else { return false };
        claim.source.as_ref().is_some_and(|ran| ran != digest || claim.restart_at != *restart_at)
    }

    /// Takes what a reading of the definition says.
    pub(super) fn read(&mut self, read: Option<&DefinitionRead>) {
        self.malformed = false;
        let Some(read) = read else {
            self.definition = Known::Gone;
            self.seen = None;
            return;
        };
        self.definition = if read.enabled { Known::Enabled } else { Known::Disabled };
        self.seen = Some((read.digest.clone(), read.restart_at.clone()));
        match &read.definition {
            Ok(definition) => self.requires = definition.requires.clone(),
            Err(error) => {
                // Whoever meets it first writes down what is wrong with it.
                self.requires = Labels::default();
                self.malformed = says_so_already(read, &error.to_string());
            }
        }
    }
}

/// Whether the mirror of a malformed definition shows the error already.
pub(super) fn says_so_already(read: &DefinitionRead, error: &str) -> bool {
    read.mirror.state.as_deref() == Some("crashed") && read.mirror.error.as_deref() == Some(error)
}

impl Table {
    pub(super) fn get(&self, name: &TaskName) -> Option<&Thread> {
        self.threads.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &TaskName) -> Option<&mut Thread> {
        self.threads.get_mut(name)
    }

    /// The thread, entered if it was not known.
    pub(super) fn entry(&mut self, name: &TaskName) -> &mut Thread {
        self.threads.entry(name.clone()).or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TaskName, &Thread)> {
        self.threads.iter()
    }

    /// How many threads are known.
    pub(super) fn len(&self) -> usize {
        self.threads.len()
    }

    /// Names of all threads for which `f` holds.
    pub(super) fn names(&self, f: impl Fn(&Thread) -> bool) -> Vec<TaskName> {
        self.threads.iter().filter(|(_, thread)| f(thread)).map(|(name, _)| name.clone()).collect()
    }

    /// How many threads there are to be owned by somebody.
    pub(super) fn runnable(&self) -> usize {
        self.threads.values().filter(|thread| !thread.is_off()).count()
    }

    pub(super) fn load(&self, session: &SessionId) -> usize {
        self.loads.get(session).copied().unwrap_or(0)
    }

    /// Sessions that are named by a claim.
    pub(super) fn named(&self) -> impl Iterator<Item = &SessionId> {
        self.loads.keys()
    }

    pub(super) fn is_named(&self, session: &SessionId) -> bool {
        self.loads.contains_key(session)
    }

    /// Takes a claim as it was seen.
    pub(super) fn set_claim(&mut self, name: &TaskName, claim: ClaimRecord) {
        let thread = self.threads.entry(name.clone()).or_default();
        let before = thread.claim.as_ref().and_then(|claim| claim.session.clone());
        if before != claim.session {
            thread.free_since = None;
            if let Some(session) = before
                && let Some(load) = self.loads.get_mut(&session)
            {
                *load -= 1;
                if *load == 0 {
                    self.loads.remove(&session);
                }
            }
            if let Some(session) = &claim.session {
                *self.loads.entry(session.clone()).or_default() += 1;
            }
        }
        thread.claim = Some(claim);
    }

    /// Names of the threads that are ours in one way or another.
    pub(super) fn mine(&self) -> impl Iterator<Item = &TaskName> {
        self.mine.iter()
    }

    pub(super) fn mine_len(&self) -> usize {
        self.mine.len()
    }

    pub(super) fn set_mine(&mut self, name: &TaskName, mine: Option<Mine>) -> Option<Mine> {
        match mine {
            Some(_) => self.mine.insert(name.clone()),
            None => self.mine.remove(name),
        };
        self.owned += usize::from(matches!(mine, Some(Mine::Owned(_))));
        let before = std::mem::replace(&mut self.entry(name).mine, mine);
        self.owned -= usize::from(matches!(before, Some(Mine::Owned(_))));
        before
    }

    /// How many threads this worker owns.
    pub(super) fn owned_len(&self) -> usize {
        self.owned
    }

    /// Whether the table has this nonce for the thread.
    pub(super) fn has_nonce(&self, name: &TaskName, nonce: &Nonce) -> bool {
        self.get(name).and_then(|thread| thread.mine.as_ref()).is_some_and(|mine| mine.nonce() == nonce)
    }

    /// Looks at a thread again at `at`; none = only when something changes.
    pub(super) fn schedule(&mut self, name: &TaskName, at: Option<BootInstant>) {
        let Some(thread) = self.threads.get_mut(name) else { return };
        if thread.due == at {
            return;
        }
        if let Some(due) = thread.due.take() {
            self.queue.remove(&(due, name.clone()));
        }
        if let Some(at) = at {
            thread.due = Some(at);
            self.queue.insert((at, name.clone()));
        }
    }

    /// When the next thread is to be looked at.
    pub(super) fn next_due(&self) -> Option<BootInstant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the next thread that is to be looked at by `now`.
    pub(super) fn pop_due(&mut self, now: BootInstant) -> Option<TaskName> {
        if self.next_due()? > now {
            return None;
        }
        let (_, name) = self.queue.pop_first()?;
        if let Some(thread) = self.threads.get_mut(&name) {
            thread.due = None;
        }
        Some(name)
    }

    /// Forgets a thread of which nothing is left.
    pub(super) fn forget(&mut self, name: &TaskName) {
        self.schedule(name, None);
        self.set_claim(name, ClaimRecord::default());
        self.set_mine(name, None);
        self.threads.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(session: &str) -> ClaimRecord {
        ClaimRecord { session: Some(SessionId::from(session)), ..ClaimRecord::default() }
    }

    #[test]
    fn loads_count_the_claims_as_last_seen() {
        let mut table = Table::default();
        let (a, b) = (TaskName::try_from("a").unwrap(), TaskName::try_from("b").unwrap());
        table.set_claim(&a, held_by("x"));
        table.set_claim(&b, held_by("x"));
        assert_eq!(table.load(&SessionId::from("x")), 2);
        table.set_claim(&a, held_by("y"));
        table.set_claim(&b, ClaimRecord::default());
        assert_eq!(table.load(&SessionId::from("x")), 0);
        assert!(!table.is_named(&SessionId::from("x")));
        assert_eq!(table.load(&SessionId::from("y")), 1);
        table.forget(&a);
        assert_eq!(table.named().count(), 0);
    }

    #[test]
    fn the_queue_gives_each_thread_once_and_in_order() {
        let mut table = Table::default();
        let (a, b) = (TaskName::try_from("a").unwrap(), TaskName::try_from("b").unwrap());
        table.entry(&a);
        table.entry(&b);
        let at = |nanos| Some(BootInstant::from_nanos(nanos));
        table.schedule(&a, at(5));
        table.schedule(&b, at(3));
        table.schedule(&a, at(1));
        assert_eq!(table.pop_due(BootInstant::from_nanos(2)), Some(a));
        assert_eq!(table.pop_due(BootInstant::from_nanos(2)), None);
        assert_eq!(table.pop_due(BootInstant::from_nanos(9)), Some(b));
        assert_eq!(table.pop_due(BootInstant::from_nanos(9)), None);
    }

    #[test]
    fn a_changed_source_or_restart_mark_is_a_change() {
        let mut thread = Thread {
            claim: Some(ClaimRecord { source: Some(SourceDigest::of("a")), ..ClaimRecord::default() }),
            ..Thread::default()
        };
        assert!(!thread.has_changed(), "not read yet");
        thread.seen = Some((SourceDigest::of("a"), None));
        assert!(!thread.has_changed());
        thread.seen = Some((SourceDigest::of("a"), Some("now".into())));
        assert!(thread.has_changed());
        thread.seen = Some((SourceDigest::of("b"), None));
        assert!(thread.has_changed());
    }
}

//! Who else is there: samples of the sessions, burials, and the members that share the threads.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fred::interfaces::ClientLike;
use tracing::{debug, warn};

use super::{Coordinator, Done, RETRY, Runnable};
use crate::clock::BootInstant;
use crate::config::Capacity;
use crate::coordinator::plan::{Member, Members};
use crate::error::Error;
use crate::id::SessionId;
use crate::observe::Due;
use crate::records::{DeadSession, SessionRecord};
use crate::store::{Burial, Sample};

/// Sessions are sampled this often before all may be claimed.
const SAMPLE_SETTLING: Duration = Duration::from_millis(50);
/// A count of all threads is good for this long.
const RUNNABLE_AGE_MAX: Duration = Duration::from_millis(100);
/// So many failed samples in a row and the connection is made anew.
const FAILURES_MAX: u32 = 3;

impl Coordinator {
    pub(super) fn sample(&mut self, now: BootInstant) {
        let settling = now < self.settling.over();
        self.sample_at = now + if settling { SAMPLE_SETTLING } else { self.timing.sample_every() };
        if self.sampling {
            return;
        }
        self.sampling = true;
        let ids: HashSet<&SessionId> = self.index.iter().chain(self.named()).collect();
        let ids: Vec<SessionId> = ids
            .into_iter()
            .filter(|id| !self.is_own(id) && self.observer.dead(id).is_none())
            .cloned()
            .collect();
        let (store, done) = (self.store.clone(), self.done.clone());
        let limit = self.timing.command_timeout() * 2;
        tokio::spawn(async move {
            let sample = tokio::time::timeout(limit, store.sample(&ids)).await;
            let _ = done.send(Done::Sample(sample.unwrap_or(Err(Error::Timeout))));
        });
    }

    pub(super) fn sampled(&mut self, sample: Result<Sample, Error>) {
        self.sampling = false;
        let now = BootInstant::now();
        let sample = match sample {
            Ok(sample) => sample,
            Err(error) => {
                debug!(%error, "the sessions could not be sampled");
                self.observer.failed();
                self.connections.main.store(false, Ordering::Release);
                self.sample_failures += 1;
                if self.sample_failures.is_multiple_of(FAILURES_MAX) {
                    self.reconnect();
                }
                return;
            }
        };
        self.sample_failures = 0;
        self.connections.main.store(true, Ordering::Release);
        let unknown = sample
            .index
            .iter()
            .any(|id| !self.index.contains(id) && !self.is_own(id) && self.observer.dead(id).is_none());
        self.index = sample.index.into_iter().collect();
        if unknown {
            self.sample_at = now;
        }
        self.look_for_namesakes(&sample.sessions);
        self.settle(now, unknown, &sample.sessions);
        for dead in self.observer.answered(now, sample.sessions) {
            self.died(dead);
        }
    }

    /// Who is there decides from when on we claim.
    fn settle(&mut self, now: BootInstant, unknown: bool, sessions: &[(SessionId, Option<SessionRecord>)]) {
        let server_ms = self.vitals.server_ms(now);
        let records = sessions.iter().filter_map(|(_, record)| record.as_ref());
        let peers = records.filter(|record| record.alive && record.ready && record.expiry_ms > server_ms);
        let ages = peers.map(|record| Duration::from_millis(server_ms.saturating_sub(record.opened_ms)));
        let before = (self.settling.room(now), self.settling.over());
        self.settling.looked(now, ages.chain(unknown.then_some(Duration::ZERO)));
        if before != (self.settling.room(now), self.settling.over()) {
            self.consider_all();
        }
    }

    /// The connection that answers nobody any more may be dead without having been told.
    fn reconnect(&self) {
        let (store, limit) = (self.store.clone(), self.config.connect_timeout());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(limit * 2, store.client().force_reconnection()).await;
        });
    }

    fn look_for_namesakes(&mut self, sessions: &[(SessionId, Option<SessionRecord>)]) {
        let there: HashSet<&SessionId> = sessions.iter().map(|(id, _)| id).collect();
        self.namesakes.retain(|id, _| there.contains(id));
        for (id, record) in sessions {
            let Some(record) = record else { continue };
            if !record.alive || record.name != self.config.worker_name.as_str() {
                continue;
            }
            match self.namesakes.get(id).copied() {
                None => {
                    self.namesakes.insert(id.clone(), record.beat);
                }
                // It beats, so it is not what is left of an earlier run of ours.
                Some(beat) if beat != 0 && beat != record.beat => {
                    warn!(worker = %self.config.worker_name, session = %id, "another worker has the same name; both work");
                    self.namesakes.insert(id.clone(), 0);
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn bury_due(&mut self, now: BootInstant) {
        for due in self.observer.due(now, |id| self.is_named(id)) {
            match due {
                Due::Bury { session, beat, expiry_ms } => {
                    // One at a time: the next try comes after this one's answer, or after its timeout.
                    self.observer.try_again(&session, now + self.timing.command_timeout() * 2);
                    let (store, done) = (self.store.clone(), self.done.clone());
                    tokio::spawn(async move {
                        let burial = store.bury(&session, beat, expiry_ms).await;
                        let _ = done.send(Done::Bury { session, burial });
                    });
                }
                Due::Gone { session } => self.died(DeadSession::gone(session)),
            }
        }
    }

    pub(super) fn buried(&mut self, session: &SessionId, burial: Result<Burial, Error>) {
        let now = BootInstant::now();
        match burial {
            Ok(Burial::Buried(dead)) => {
                crate::metrics::SESSIONS_BURIED.increment(1);
                warn!(%session, "a session has stopped beating and is declared dead");
                self.died(dead);
            }
            Ok(Burial::AlreadyDead(dead)) => self.died(dead),
            Ok(Burial::Moved { .. }) => self.observer.moved(session),
            Ok(Burial::NotYet { server_ms, expiry_ms }) => {
                let wait = Duration::from_millis(expiry_ms.saturating_sub(server_ms).clamp(10, 1000));
                self.observer.try_again(session, now + wait);
            }
            Ok(Burial::Gone) => self.observer.moved(session),
            Err(error) => {
                debug!(%error, %session, "burial not answered");
                self.observer.try_again(session, now + RETRY);
            }
        }
    }

    /// Whether somebody else takes new threads.
    pub(super) fn has_ready_peer(&self, now: BootInstant) -> bool {
        self.observer.alive(now).any(|(id, record)| record.ready && !self.is_own(id))
    }

    pub(super) fn members(&mut self, now: BootInstant) -> Members {
        // Counting all threads at every look would cost more than a count that is a moment old. But where new ones are
        // heard of the shares grow with each.
        let is_old = now.saturating_duration_since(self.runnable.at) >= RUNNABLE_AGE_MAX;
        if is_old || self.runnable.of != self.table.len() {
            self.runnable = Runnable { count: self.table.runnable(), of: self.table.len(), at: now };
        }
        let mut members: Vec<Member> = self
            .observer
            .alive(now)
            .filter(|(id, record)| record.ready && !self.is_own(id))
            .map(|(id, record)| {
                let coming = self.moves.values().filter(|to| *to == id).count();
                let age = self.observer.known_for(id, now);
                member(id, &record.capacity, self.table.load(id) + coming, age)
            })
            .collect();
        if let Some(lease) = self.lease.as_ref().filter(|_| self.takes(now)) {
            let threads = self.table.mine_len().saturating_sub(self.moves.len());
            // Nobody gives anything to itself.
            members.push(member(lease.session(), &self.config.capacity, threads, Duration::MAX));
        }
        Members::new(members, self.runnable.count.max(self.table.mine_len()))
    }
}

fn member(session: &SessionId, capacity: &Capacity, threads: usize, age: Duration) -> Member {
    let Capacity { weight, threads_max, labels } = capacity.clone();
    Member { session: session.clone(), weight, threads, threads_max, age, labels }
}

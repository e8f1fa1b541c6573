//! Feeding whoever runs jobs: who is there and what has happened.

use super::{Coordinator, Watching};
use crate::clock::BootInstant;
use crate::coordinator::feed::{JobNews, JobNewsSender, Peers};
use crate::coordinator::settle::Room;
use crate::id::SessionId;

impl Coordinator {
    pub(super) fn feed_jobs(&mut self, tell: JobNewsSender) {
        self.news = Some(tell);
        self.tell_jobs(JobNews::Gap);
    }

    /// Runs name these sessions: they are sampled, and buried when they do not beat.
    pub(super) fn name_sessions(&mut self, sessions: Vec<SessionId>) {
        self.named_by_runs = sessions.into_iter().collect();
        let named = &self.named_by_runs;
        let dead = named.iter().filter(|id| self.observer.dead(id).is_some() && !self.striking.contains(*id));
        let dead: Vec<_> = dead.cloned().collect();
        dead.into_iter().for_each(|id| self.tell_jobs(JobNews::Died(id)));
    }

    pub(super) fn tell_jobs(&self, news: JobNews) {
        if let Some(tell) = &self.news {
            tell.send(news);
        }
    }

    /// Says who is there, if that has changed.
    pub(super) fn publish_peers(&self, now: BootInstant) {
        let lease = self.lease.clone().filter(|_| self.takes(now));
        let others = self.observer.alive(now).filter(|(id, record)| record.ready && !self.is_own(id));
        let mut live: Vec<SessionId> = others.map(|(id, _)| id.clone()).collect();
        live.extend(lease.iter().map(|lease| lease.session().clone()));
        live.sort_unstable();
        let pushed = self.watching == Watching::Pushed;
        let settled = self.settling.room(now) == Room::All;
        self.publish_pushed(pushed);
        self.peers.send_if_modified(|peers| {
            let session =
                |lease: &Option<crate::lease::Lease>| lease.as_ref().map(|lease| lease.session().clone());
            let same = session(&peers.lease) == session(&lease)
                && *peers.live == live[..]
                && (peers.pushed, peers.settled) == (pushed, settled);
            if !same {
                *peers = Peers { lease, live: live.into(), pushed, settled };
            }
            !same
        });
    }

    /// Whether something that may still run names the session.
    pub(super) fn is_named(&self, session: &SessionId) -> bool {
        self.table.is_named(session) || self.named_by_runs.contains(session)
    }

    /// The sessions that claims and runs name.
    pub(super) fn named(&self) -> impl Iterator<Item = &SessionId> {
        self.table.named().chain(&self.named_by_runs)
    }
}

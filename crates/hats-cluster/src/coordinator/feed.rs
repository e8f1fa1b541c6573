//! What the coordinator tells the job loop: who is alive, what has changed, and who has died.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::{Command, Handle};
use crate::id::SessionId;
use crate::lease::Lease;
use crate::name::TaskName;

/// Maximum changed jobs that are named one by one. With more the reader reads everything anew, in slices, which costs it
/// less and keeps this bounded.
const CHANGED_MAX: usize = 100_000;

/// Who shares the ticks, as far as this worker knows. A hint: a wrong list delays a tick, it never prevents one and never
/// doubles one.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    /// The lease of this worker's session. None: there is none, or nothing new may be taken under it.
    pub lease: Option<Lease>,
    /// The live sessions that take work, this worker's own among them.
    pub live: Arc<[SessionId]>,
    /// Whether changes are pushed. Else they have to be looked for.
    pub pushed: bool,
    /// The startup grace is over: workers that start at the same time have seen each other.
    pub settled: bool,
}

/// News for the job loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobNews {
    /// The definition of this job has changed.
    Changed(TaskName),
    /// After a gap in what is noticed anything may have changed.
    Gap,
    /// The session is dead, once and for ever: what ran under it can be reconciled.
    Died(SessionId),
}

/// Both, as [`Handle::job_feed`] gives them.
#[derive(Debug)]
pub struct JobFeed {
    /// What happens.
    pub news: JobNewsReceiver,
    /// What is.
    pub peers: watch::Receiver<Peers>,
}

/// A mailbox for the news: what is not received yet is kept once, however often it is told, and never more than there are
/// jobs and sessions.
pub(super) fn job_news() -> (JobNewsSender, JobNewsReceiver) {
    let mailbox = Arc::new(Mailbox::default());
    (JobNewsSender(mailbox.clone()), JobNewsReceiver(mailbox))
}

#[derive(Debug, Default)]
struct Mailbox {
    unread: Mutex<Unread>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Unread {
    gap: bool,
    changed: BTreeSet<TaskName>,
    died: BTreeSet<SessionId>,
    closed: bool,
}

impl Mailbox {
    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that tells.
#[derive(Debug)]
pub(super) struct JobNewsSender(Arc<Mailbox>);

impl JobNewsSender {
    pub(super) fn send(&self, news: JobNews) {
        self.0.unread().put(news);
        self.0.wake.notify_one();
    }
}

impl Drop for JobNewsSender {
    fn drop(&mut self) {
        self.0.unread().closed = true;
        self.0.wake.notify_one();
    }
}

/// The end that is told.
#[derive(Debug)]
pub struct JobNewsReceiver(Arc<Mailbox>);

impl JobNewsReceiver {
    /// The next news: a gap first, then deaths, then changes. None: nobody tells any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped before it is ready.
    pub async fn recv(&mut self) -> Option<JobNews> {
        loop {
            {
                let mut unread = self.0.unread();
                if let Some(news) = unread.take() {
                    return Some(news);
                }
                if unread.closed {
                    return None;
                }
            }
            self.0.wake.notified().await;
        }
    }

    /// The next news, if there is any.
    pub fn try_recv(&mut self) -> Option<JobNews> {
        self.0.unread().take()
    }
}

impl Unread {
    fn put(&mut self, news: JobNews) {
        match news {
            JobNews::Gap => self.gap = true,
            JobNews::Died(session) => {
                self.died.insert(session);
            }
            // Everything is read anew.
            JobNews::Changed(_) if self.gap => {}
            JobNews::Changed(job) => {
                self.changed.insert(job);
                self.gap = self.changed.len() > CHANGED_MAX;
            }
        }
        if self.gap {
            self.changed.clear();
        }
    }

    fn take(&mut self) -> Option<JobNews> {
        if std::mem::take(&mut self.gap) {
            return Some(JobNews::Gap);
        }
        if let Some(session) = self.died.pop_first() {
            return Some(JobNews::Died(session));
        }
        self.changed.pop_first().map(JobNews::Changed)
    }
}

impl Handle {
    /// Begins to tell about jobs; who asks last is told.
    #[must_use]
    pub fn job_feed(&self) -> JobFeed {
        let (tell, news) = job_news();
        self.send(Command::FeedJobs(tell));
        JobFeed { news, peers: self.shared.peers.clone() }
    }

    /// Runs of jobs name these sessions, and no others: they are watched as those that claims name, and their deaths are
    /// told in the feed, those that are known already at once.
    pub fn name_sessions(&self, sessions: Vec<SessionId>) {
        self.send(Command::NameSessions(sessions));
    }

    /// What Redis' clock says about now, in milliseconds since 1970, judged from its last answers.
    #[must_use]
    pub fn server_ms(&self) -> u64 {
        self.shared.vitals.server_ms(crate::clock::BootInstant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(name: &str) -> JobNews {
        JobNews::Changed(TaskName::new(name).unwrap())
    }

    #[test]
    fn news_that_nobody_has_read_yet_is_kept_once() {
        let (tell, mut news) = job_news();
        for _ in 0..3 {
            tell.send(changed("a"));
            tell.send(JobNews::Died(SessionId::from("s")));
        }
        assert_eq!(news.try_recv(), Some(JobNews::Died(SessionId::from("s"))));
        assert_eq!(news.try_recv(), Some(changed("a")));
        assert_eq!(news.try_recv(), None);
        tell.send(changed("a"));
        assert_eq!(news.try_recv(), Some(changed("a")), "it has changed again since it was read");
    }

    #[test]
    fn a_gap_stands_for_all_changes() {
        let (tell, mut news) = job_news();
        tell.send(changed("a"));
        tell.send(JobNews::Gap);
        tell.send(changed("b"));
        assert_eq!(news.try_recv(), Some(JobNews::Gap));
        assert_eq!(news.try_recv(), None);
        for nth in 0..=CHANGED_MAX {
            tell.send(changed(&nth.to_string()));
        }
        assert_eq!(news.try_recv(), Some(JobNews::Gap), "too many to name");
        assert_eq!(news.try_recv(), None);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_news_and_by_the_end() {
        let (tell, mut news) = job_news();
        let waits = tokio::spawn(async move { (news.recv().await, news.recv().await) });
        tell.send(changed("a"));
        drop(tell);
        assert_eq!(waits.await.unwrap(), (Some(changed("a")), None));
    }
}

//! What the coordinator tells whoever runs jobs: who is there, what has changed, and who has died.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{Command, Handle};
use crate::id::SessionId;
use crate::lease::Lease;
use crate::name::TaskName;

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
}

/// News for whoever runs jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobNews {
    /// The definition of this job has changed.
    Changed(TaskName),
    /// After a gap in what is noticed anything may have changed.
    Gap,
    /// The session is dead, once and for ever: what ran under it can be settled.
    Died(SessionId),
}

/// Both, as [`Handle::job_feed`] gives them.
#[derive(Debug)]
pub struct JobFeed {
    /// What happens.
    pub news: mpsc::UnboundedReceiver<JobNews>,
    /// What is.
    pub peers: watch::Receiver<Peers>,
}

impl Handle {
    /// Begins to tell about jobs; who asks last is told.
    #[must_use]
    pub fn job_feed(&self) -> JobFeed {
        let (tell, news) = mpsc::unbounded_channel();
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

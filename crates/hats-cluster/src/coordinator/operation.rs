//! What the coordinator sends to Redis on behalf of one thread: a claim, a release. Each goes on until it is answered or
//! until the lease that it is made under is lost; then the session's death settles it.

use std::time::Duration;

use tokio::time::sleep;

use crate::clock::BootInstant;
use crate::error::Error;
use crate::id::Nonce;
use crate::labels::Labels;
use crate::lease::{Lease, Timing};
use crate::name::TaskName;
use crate::records::{DeadSession, DefinitionRead};
use crate::store::{Answer, ClaimRequest, Granted, Handover, MirrorUpdate, Released, Store};

use super::table::says_so_already;

/// Between tries of a request that was not answered.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How a claim went.
#[derive(Debug)]
pub(super) enum Claimed {
    /// Ours. The definition as read right after the grant.
    Granted { granted: Granted, read: Option<DefinitionRead> },
    /// Refused. The definition as read right before.
    Refused { answer: Answer, read: DefinitionRead },
    /// Not asked for: there is nothing to run. The definition as read.
    NothingToRun { read: Option<DefinitionRead> },
    /// Not asked for: it says running and nobody claims it. Its heartbeat, and since when that stands still.
    Of2020 { heartbeat: String, since: BootInstant },
    /// Not asked for: the definition could not be read.
    Unread(Error),
    /// There is something else where the claim should be.
    Unclaimable(Error),
    /// The lease was lost before there was an answer.
    LeaseLost,
}

/// A claim to be made.
pub(super) struct Wanted {
    pub(super) name: TaskName,
    pub(super) nonce: Nonce,
    pub(super) dead: Option<DeadSession>,
    /// Nobody has ever claimed it here.
    pub(super) unclaimed: bool,
    pub(super) of_2020: Option<(String, BootInstant)>,
}

/// Claims that are made together, each step of all of them in one write.
pub(super) struct Claims {
    pub(super) store: Store,
    pub(super) lease: Lease,
    pub(super) timing: Timing,
    /// What this worker offers.
    pub(super) labels: Labels,
}

impl Claims {
    /// Reads what is wanted, claims what can be run, and reads that again. `tell` is called once for each, as soon as it
    /// is known how it went: nobody waits for one that is not answered.
    pub(super) async fn run<F>(self, wanted: Vec<Wanted>, tell: F)
    where
        F: Fn(TaskName, Nonce, Claimed) + Clone + Send + 'static,
    {
        let mut asked = Vec::new();
        for (wanted, read) in self.read(wanted).await {
            match self.before_the_claim(&wanted, read).await {
                Ok(read) => asked.push((self.request(&wanted, &read), wanted, read)),
                Err(claimed) => tell(wanted.name, wanted.nonce, claimed),
            }
        }
        let requests: Vec<_> =
            asked.iter().map(|(request, wanted, _)| (wanted.name.clone(), request.clone())).collect();
        let answers = match self.lease.is_trusted() {
            true => self.store.claim_many(&requests).await,
            false => requests.iter().map(|_| Err(Error::NoSession)).collect(),
        };
        let mut granted = Vec::new();
        for ((request, wanted, read), answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(Answer::Granted(answer)) => granted.push((request, wanted, read, answer)),
                Ok(answer) => tell(wanted.name, wanted.nonce, Claimed::Refused { answer, read }),
                Err(_) => self.alone(request, wanted.name, read, tell.clone()),
            }
        }
        let known: Vec<_> = granted
            .iter()
            .map(|(_, wanted, read, _)| (wanted.name.clone(), read.definition.as_ref().ok().cloned()))
            .collect();
        let again = self.store.read_definitions(&known).await;
        for ((request, wanted, read, granted), again) in granted.into_iter().zip(again) {
            match again {
                Ok(read) => tell(wanted.name, wanted.nonce, Claimed::Granted { granted, read }),
                // Asked for once more, the same nonce gets the same grant.
                Err(_) => self.alone(request, wanted.name, read, tell.clone()),
            }
        }
    }

    async fn read(
        &self,
        wanted: Vec<Wanted>,
    ) -> impl Iterator<Item = (Wanted, Result<Option<DefinitionRead>, Error>)> + use<> {
        let names: Vec<_> = wanted.iter().map(|wanted| (wanted.name.clone(), None)).collect();
        let reads = self.store.read_definitions(&names).await;
        wanted.into_iter().zip(reads)
    }

    /// The definition, if there is something to claim it for.
    async fn before_the_claim(
        &self,
        wanted: &Wanted,
        read: Result<Option<DefinitionRead>, Error>,
    ) -> Result<DefinitionRead, Claimed> {
        let read = match read.map_err(Claimed::Unread)? {
            Some(read) if is_runnable(&read) && self.offers(&read) => read,
            read => return Err(Claimed::NothingToRun { read }),
        };
        match self.may_be_of_2020(wanted, &read).await {
            Ok(None) => Ok(read),
            Ok(Some(of_2020)) => Err(of_2020),
            Err(error) => Err(Claimed::Unread(error)),
        }
    }

    /// Whether this worker has what it takes to run it.
    fn offers(&self, read: &DefinitionRead) -> bool {
        read.definition.as_ref().map_or(true, |definition| self.labels.offer(&definition.requires))
    }

    fn request(&self, wanted: &Wanted, read: &DefinitionRead) -> ClaimRequest {
        ClaimRequest {
            session: self.lease.session().clone(),
            nonce: wanted.nonce.clone(),
            dead: wanted.dead.clone(),
            digest: read.digest.clone(),
            restart_at: read.restart_at.clone(),
        }
    }

    /// Goes on with a claim that was not answered until it is.
    fn alone<F>(&self, request: ClaimRequest, name: TaskName, read: DefinitionRead, tell: F)
    where
        F: Fn(TaskName, Nonce, Claimed) + Send + 'static,
    {
        let (store, lease) = (self.store.clone(), self.lease.clone());
        tokio::spawn(async move {
            let claimed = match until_claimed(&store, &lease, &name, &request, read).await {
                Ok(claimed) => claimed,
                Err(Unanswered::Never(error)) => Claimed::Unclaimable(error),
                Err(Unanswered::LeaseLost) => Claimed::LeaseLost,
            };
            tell(name, request.nonce, claimed);
        });
    }

    /// Whether a worker of 2020 may be running it: then its heartbeat is watched first.
    async fn may_be_of_2020(&self, wanted: &Wanted, read: &DefinitionRead) -> Result<Option<Claimed>, Error> {
        if !wanted.unclaimed || read.mirror.state.as_deref() != Some("running") {
            return Ok(None);
        }
        // A peer may have claimed it since we looked, and it is its mirror that says running.
        let claims = self.store.check(std::slice::from_ref(&wanted.name)).await?;
        if claims.iter().any(|claim| claim.epoch > 0) {
            return Ok(None);
        }
        let heartbeat = read.mirror.heartbeat.clone().unwrap_or_default();
        let now = BootInstant::now();
        let since = match &wanted.of_2020 {
            Some((before, since)) if *before == heartbeat => *since,
            _ => now,
        };
        let watched = now.saturating_duration_since(since);
        let waits = watched < Timing::observe(self.timing.lease());
        Ok(waits.then_some(Claimed::Of2020 { heartbeat, since }))
    }
}

async fn until_claimed(
    store: &Store,
    lease: &Lease,
    name: &TaskName,
    request: &ClaimRequest,
    read: DefinitionRead,
) -> Result<Claimed, Unanswered> {
    let granted = match until_answered(lease, || store.claim(name, request)).await? {
        Answer::Granted(granted) => granted,
        answer => return Ok(Claimed::Refused { answer, read }),
    };
    let known = read.definition.as_ref().ok();
    let read = until_answered(lease, || store.read_definition(name, known)).await?;
    Ok(Claimed::Granted { granted, read })
}

/// Whether there is something to run, or an error to be written down first.
fn is_runnable(read: &DefinitionRead) -> bool {
    match &read.definition {
        Ok(_) => read.enabled,
        Err(error) => read.enabled && !says_so_already(read, &error.to_string()),
    }
}

/// A thread to be given back.
pub(super) struct Return {
    pub(super) store: Store,
    pub(super) lease: Lease,
    pub(super) name: TaskName,
    pub(super) nonce: Nonce,
    pub(super) how: Handover,
    pub(super) mirror: MirrorUpdate,
    /// Nobody starts it for a while, so that what is said again late overwrites nobody's word.
    pub(super) rests: bool,
}

impl Return {
    /// None: the lease was lost before there was an answer.
    pub(super) async fn run(self) -> Option<Released> {
        // Sent first, so that the next owner's words come after ours; not waited for, so that it need not wait.
        let mirror = self.store.mirror(&self.name, &self.mirror);
        let release = until_answered(&self.lease, || self.store.release(&self.name, &self.nonce, &self.how));
        let (mirrored, released) = tokio::join!(mirror, release);
        let released = match released {
            Ok(released) => Some(released),
            // Whatever took the place of the claim has freed the thread.
            Err(Unanswered::Never(_)) => Some(Released::NotHeld),
            Err(Unanswered::LeaseLost) => None,
        };
        if let Err(error) = mirrored {
            tracing::debug!(task = %self.name, kind = "thread", %error, "the state is not mirrored");
            if released == Some(Released::Released)
                && let Some(mirror) = self.said_late()
            {
                let _ = self.store.mirror(&self.name, &mirror).await;
            }
        }
        released
    }

    /// What may be said again when somebody else may have the thread already: an error, but not who runs it.
    fn said_late(&self) -> Option<MirrorUpdate> {
        if self.rests {
            return Some(self.mirror.clone());
        }
        let error = MirrorUpdate { state: None, owner: None, ..self.mirror.clone() };
        (error != MirrorUpdate::default()).then_some(error)
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The lease that it is made under was lost first.
    LeaseLost,
    /// It will never have one: the key holds something else.
    Never(Error),
}

/// Asks until there is an answer.
pub(super) async fn until_answered<T, F>(lease: &Lease, ask: impl Fn() -> F) -> Result<T, Unanswered>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = RETRY;
    loop {
        if !lease.is_trusted() {
            return Err(Unanswered::LeaseLost);
        }
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_of_another_type() => return Err(Unanswered::Never(error)),
            Err(error) => tracing::debug!(%error, "not answered, asked again"),
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = lease.lost() => return Err(Unanswered::LeaseLost),
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

//! Claims: who owns a thread.

use std::time::Duration;

use fred::interfaces::HashesInterface;
use fred::types::Value;

use super::{Call, PIPELINE_MAX, Store, failed, lua, one_for_each, read_one};
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::name::TaskName;
use crate::records::{ClaimRecord, DeadSession, SourceDigest};

/// No back-off is longer. A stored `NextStart` further ahead counts as passed.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// Nobody is preferred for longer. A stored `PreferUntil` further ahead counts as passed.
pub const PREFER_MAX: Duration = Duration::from_secs(10);
/// A run longer than this was healthy: failures before it do not count any more.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a claim says. The caller has read the definition just before, enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who asks.
    pub session: SessionId,
    /// The nonce of this claim, in the caller's table already.
    pub nonce: Nonce,
    /// The owner, if the caller knows it to be dead.
    pub dead: Option<DeadSession>,
    /// What will run.
    pub digest: SourceDigest,
    /// `RestartAt` of the definition.
    pub restart_at: Option<std::sync::Arc<str>>,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The caller owns the thread.
    Granted(Granted),
    /// Somebody else owns it, or this nonce holds it no longer.
    Held {
        /// The owner; none = free, but this nonce was released or given up before.
        session: Option<SessionId>,
        /// The nonce of the owner's claim.
        nonce: Option<Nonce>,
    },
    /// It has failed and may not start yet.
    BackOff {
        /// When it may.
        next_start_ms: u64,
        /// Redis' clock.
        server_ms: u64,
    },
    /// It was handed to another session.
    Prefer {
        /// To which.
        session: SessionId,
        /// Until when that one goes first.
        until_ms: u64,
        /// Redis' clock.
        server_ms: u64,
    },
}

/// What a grant says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The fence.
    pub epoch: u64,
    /// Failures in a row before.
    pub restarts: u32,
    /// Redis' clock at the grant.
    pub claimed_ms: u64,
    /// Redis' clock now.
    pub server_ms: u64,
}

/// How a thread is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseKind {
    /// In good order.
    Free,
    /// Its script has failed.
    Crashed {
        /// So long nobody starts it, at most [`BACK_OFF_MAX`].
        back_off: Duration,
        /// Failures in a row, this one included.
        restarts: u32,
    },
}

/// What a release says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// How it ended.
    pub kind: ReleaseKind,
    /// Who goes first, and for how long, at most [`PREFER_MAX`].
    pub prefer: Option<(SessionId, Duration)>,
    /// The definition is gone: the claim goes in 24 hours.
    pub retire: bool,
    /// What ran last, if the source was changed under the same claim: digest and `RestartAt`.
    pub ran: Option<(SourceDigest, Option<std::sync::Arc<str>>)>,
}

impl Handover {
    /// A release in good order, to anybody.
    #[must_use]
    pub fn free() -> Self {
        Self { kind: ReleaseKind::Free, prefer: None, retire: false, ran: None }
    }

    /// A release after a failure.
    #[must_use]
    pub fn crashed(back_off: Duration, restarts: u32) -> Self {
        Self { kind: ReleaseKind::Crashed { back_off, restarts }, ..Self::free() }
    }
}

/// The answer to a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It is free now.
    Released,
    /// This nonce held nothing. A claim with it that is still on its way will be answered [`Answer::Held`].
    NotHeld,
}

impl Store {
    /// Asks for a thread. The same request may be repeated: while its nonce holds, the same grant is given.
    ///
    /// # Errors
    /// When the outcome is not known: the nonce may hold.
    pub async fn claim(&self, thread: &TaskName, request: &ClaimRequest) -> Result<Answer, Error> {
        parse_answer(&self.run(self.claim_call(thread, request)).await?)
    }

    /// Asks for many threads, in pipelines; the answers come in the order of the requests.
    pub async fn claim_many(&self, requests: &[(TaskName, ClaimRequest)]) -> Vec<Result<Answer, Error>> {
        let calls = requests.iter().map(|(thread, request)| self.claim_call(thread, request)).collect();
        let replies = self.run_many(calls).await;
        replies.into_iter().map(|reply| parse_answer(&reply?)).collect()
    }

    fn claim_call(&self, thread: &TaskName, request: &ClaimRequest) -> Call {
        let (dead, ended) = request.dead.as_ref().map_or(("", 0), |dead| (dead.id.as_str(), dead.ended_ms));
        let args = [
            request.session.as_str(),
            request.nonce.as_str(),
            dead,
            &ended.to_string(),
            request.digest.as_str(),
            request.restart_at.as_deref().unwrap_or(""),
        ];
        Call::new(&lua::CLAIM, self.keys().claim(thread), args.map(str::to_owned).to_vec())
    }

    /// Gives a thread up, by the nonce of its claim; only after the script has really stopped here.
    ///
    /// # Errors
    /// When the outcome is not known; it is to be repeated until it is.
    pub async fn release(&self, thread: &TaskName, nonce: &Nonce, how: &Handover) -> Result<Released, Error> {
        parse_released(&self.run(self.release_call(thread, nonce, how)).await?)
    }

    /// Gives many threads up, in pipelines; the answers come in order.
    pub async fn release_many(
        &self,
        releases: &[(TaskName, Nonce, Handover)],
    ) -> Vec<Result<Released, Error>> {
        let calls =
            releases.iter().map(|(thread, nonce, how)| self.release_call(thread, nonce, how)).collect();
        let replies = self.run_many(calls).await;
        replies.into_iter().map(|reply| parse_released(&reply?)).collect()
    }

    fn release_call(&self, thread: &TaskName, nonce: &Nonce, how: &Handover) -> Call {
        let (kind, back_off, restarts) = match how.kind {
            ReleaseKind::Free => ("free", Duration::ZERO, 0),
            ReleaseKind::Crashed { back_off, restarts } => ("crashed", back_off.min(BACK_OFF_MAX), restarts),
        };
        let (prefer, prefer_for) = match &how.prefer {
            Some((session, duration)) => (session.as_str(), (*duration).min(PREFER_MAX)),
            None => ("", Duration::ZERO),
        };
        let (ran, restart_at) = match &how.ran {
            Some((digest, restart_at)) => (digest.as_str(), restart_at.as_deref().unwrap_or("")),
            None => ("", ""),
        };
        let args = [
            nonce.as_str(),
            kind,
            &back_off.as_millis().to_string(),
            &restarts.to_string(),
            prefer,
            &prefer_for.as_millis().to_string(),
            if how.retire { "1" } else { "0" },
            ran,
            restart_at,
        ];
        Call::new(&lua::RELEASE, self.keys().claim(thread), args.map(str::to_owned).to_vec())
    }

    /// Ends the back-off of a thread that nobody owns, because an operator wants so. False: it is owned.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn pardon(&self, thread: &TaskName) -> Result<bool, Error> {
        let reply = self.run(Call::new(&lua::PARDON, self.keys().claim(thread), Vec::new())).await?;
        Ok(reply.text(0)? == "PARDONED")
    }

    /// Nobody but this session claims a thread for a while, at most [`PREFER_MAX`], which need not be there yet. False: it is
    /// owned.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn prefer(
        &self,
        thread: &TaskName,
        session: &SessionId,
        duration: Duration,
    ) -> Result<bool, Error> {
        let args = vec![session.to_string(), duration.min(PREFER_MAX).as_millis().to_string()];
        let reply = self.run(Call::new(&lua::PREFER, self.keys().claim(thread), args)).await?;
        Ok(reply.text(0)? == "PREFERRED")
    }

    /// Lets the claim of a thread without definition go in 24 hours. False: somebody else than `dead` owns it.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn retire(&self, thread: &TaskName, dead: Option<&SessionId>) -> Result<bool, Error> {
        let args = vec![dead.map(SessionId::to_string).unwrap_or_default()];
        let reply = self.run(Call::new(&lua::RETIRE, self.keys().claim(thread), args)).await?;
        Ok(reply.text(0)? == "RETIRED")
    }

    /// Reads the claims of these threads, in pipelines and in order. One without a record is free; so seems one whose
    /// key holds something else, though nobody can claim it.
    ///
    /// # Errors
    /// When anything of it was not answered.
    pub async fn check(&self, threads: &[TaskName]) -> Result<Vec<ClaimRecord>, Error> {
        let mut records = Vec::with_capacity(threads.len());
        for chunk in threads.chunks(PIPELINE_MAX) {
            let pipeline = self.client().pipeline();
            for thread in chunk {
                let () = pipeline.hmget(self.keys().claim(thread), FIELDS.to_vec()).await.map_err(failed)?;
            }
            for value in one_for_each(chunk.len(), pipeline.try_all().await) {
                records.push(parse_record(read_one(value)?));
            }
        }
        Ok(records)
    }
}

const FIELDS: [&str; 10] = [
    "Session",
    "Claim",
    "Epoch",
    "Claimed",
    "NextStart",
    "Source",
    "RestartAt",
    "Restarts",
    "Prefer",
    "PreferUntil",
];

fn parse_record(value: Value) -> ClaimRecord {
    let fields: Vec<Option<String>> = value.into_array().iter().map(lua::lossy).collect();
    let text = |nth: usize| fields.get(nth).cloned().flatten().filter(|text| !text.is_empty());
    let number = |nth: usize| text(nth).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    ClaimRecord {
        session: text(0).map(SessionId::from),
        nonce: text(1).map(Nonce::from),
        epoch: number(2),
        claimed_ms: number(3),
        next_start_ms: number(4),
        source: text(5).map(|hex| SourceDigest::from_hex(&hex)),
        restart_at: text(6).map(Into::into),
        restarts: small(number(7)),
        prefer: text(8).map(SessionId::from),
        prefer_until_ms: number(9),
    }
}

fn parse_answer(reply: &lua::Reply) -> Result<Answer, Error> {
    match reply.text(0)?.as_str() {
        "GRANTED" => Ok(Answer::Granted(Granted {
            epoch: reply.number(1)?,
            restarts: small(reply.number(2)?),
            claimed_ms: reply.number(3)?,
            server_ms: reply.number(4)?,
        })),
        "HELD" => {
            let text = |nth| reply.text(nth).map(|text| Some(text).filter(|text| !text.is_empty()));
            Ok(Answer::Held { session: text(1)?.map(SessionId::from), nonce: text(2)?.map(Nonce::from) })
        }
        "BACKOFF" => Ok(Answer::BackOff { next_start_ms: reply.number(1)?, server_ms: reply.number(2)? }),
        "PREFER" => Ok(Answer::Prefer {
            session: SessionId::from(reply.text(1)?),
            until_ms: reply.number(2)?,
            server_ms: reply.number(3)?,
        }),
        _ => Err(reply.unexpected()),
    }
}

fn parse_released(reply: &lua::Reply) -> Result<Released, Error> {
    match reply.text(0)?.as_str() {
        "RELEASED" => Ok(Released::Released),
        "NOTHELD" => Ok(Released::NotHeld),
        _ => Err(reply.unexpected()),
    }
}

/// A counter; beyond what fits it no longer matters how many.
pub(super) fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

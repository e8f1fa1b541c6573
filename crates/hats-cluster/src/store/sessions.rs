//! Sessions: open, renew, close, bury, and the sample that watches them.

use std::time::Duration;

use fred::interfaces::{HashesInterface, SetsInterface};
use fred::types::Value;

use super::{Call, PIPELINE_MAX, Store, failed, lua, one_for_each, read_one};
use crate::config::Capacity;
use crate::error::Error;
use crate::id::SessionId;
use crate::name::WorkerName;
use crate::records::{DeadSession, SessionEnd, SessionRecord, Suspect};

/// What a session says of its worker.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionInfo {
    /// The worker's name.
    pub name: WorkerName,
    /// The program's version.
    pub version: String,
    /// The lease D.
    pub lease: Duration,
    /// Which threads it takes, and how many.
    pub capacity: Capacity,
    /// Whether it takes new threads.
    pub ready: bool,
}

/// What a renewal says of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// How many threads it has.
    pub threads: u64,
    /// Whether it takes new ones.
    pub ready: bool,
}

/// The answer to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The session is there, and alive.
    Opened {
        /// Redis' clock.
        server_ms: u64,
    },
    /// The id was used before.
    Exists,
}

/// The answer to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The session lives on.
    Renewed {
        /// The new `Beat`.
        beat: u64,
        /// The new `Expiry`.
        expiry_ms: u64,
        /// Redis' clock.
        server_ms: u64,
    },
    /// The session is dead or gone; nothing was changed.
    Lost,
}

/// The answer to bury.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Burial {
    /// It is dead, by this very call.
    Buried(DeadSession),
    /// It was dead before.
    AlreadyDead(DeadSession),
    /// It has beaten since it was seen: the watch starts anew.
    Moved {
        /// `Beat` now.
        beat: u64,
        /// `Expiry` now.
        expiry_ms: u64,
    },
    /// Its expiry has not come.
    NotYet {
        /// Redis' clock.
        server_ms: u64,
        /// `Expiry`.
        expiry_ms: u64,
    },
    /// There is no such session. It counts as dead only after being watched absent.
    Gone,
}

/// One look at the sessions.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// All ids in the index set.
    pub index: Vec<SessionId>,
    /// The sessions asked for, in that order; none = no such key.
    pub sessions: Vec<(SessionId, Option<SessionRecord>)>,
}

const FIELDS: [&str; 15] = [
    "State",
    "Name",
    "Beat",
    "Expiry",
    "LeaseMs",
    "Suspect",
    "Ready",
    "Load",
    "Opened",
    "End",
    "Ended",
    "Version",
    "Weight",
    "ThreadsMax",
    "Labels",
];

impl Store {
    /// Opens a session. Once per id: not answered in time, the id is given up and a new one is tried.
    ///
    /// # Errors
    /// When the outcome is not known.
    pub async fn open(&self, id: &SessionId, info: &SessionInfo) -> Result<Opened, Error> {
        let Capacity { weight, threads_max, labels } = &info.capacity;
        let args = vec![
            info.name.to_string(),
            info.version.clone(),
            info.lease.as_millis().to_string(),
            weight.to_string(),
            threads_max.map(|most| most.to_string()).unwrap_or_default(),
            labels.to_string(),
            u8::from(info.ready).to_string(),
        ];
        let reply = self.run(Call::new(&lua::OPEN, self.keys().session(id), args)).await?;
        match reply.text(0)?.as_str() {
            "OPENED" => Ok(Opened::Opened { server_ms: reply.number(1)? }),
            "EXISTS" => Ok(Opened::Exists),
            _ => Err(reply.unexpected()),
        }
    }

    /// Enters sessions into the index set: one's own after open was answered, others that a SCAN has found.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn enter_index(&self, ids: &[SessionId]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids = ids.iter().map(SessionId::to_string).collect();
        self.run(Call::new(&lua::INDEX, self.keys().sessions(), ids)).await.map(drop)
    }

    /// Keeps a session alive.
    ///
    /// # Errors
    /// When the outcome is not known: it counts as not renewed, even if it turns out to have worked.
    pub async fn renew(&self, id: &SessionId, load: Load) -> Result<Renewal, Error> {
        let args = vec![load.threads.to_string(), u8::from(load.ready).to_string()];
        let reply = self.run(Call::new(&lua::RENEW, self.keys().session(id), args)).await?;
        match reply.text(0)?.as_str() {
            "RENEWED" => Ok(Renewal::Renewed {
                beat: reply.number(1)?,
                expiry_ms: reply.number(2)?,
                server_ms: reply.number(3)?,
            }),
            "LOST" => Ok(Renewal::Lost),
            _ => Err(reply.unexpected()),
        }
    }

    /// Ends a session in good order: dead at once. One that is dead or gone is fine.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn close(&self, id: &SessionId) -> Result<(), Error> {
        self.run(Call::new(&lua::CLOSE, self.keys().session(id), Vec::new())).await.map(drop)
    }

    /// Writes down which tasks stall the session, so that its end counts against these; none: nothing does any more.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn suspect(&self, id: &SessionId, suspects: &[Suspect]) -> Result<(), Error> {
        // No name has a line end.
        let lines = suspects.iter().map(Suspect::line).collect::<Vec<_>>().join("\n");
        self.run(Call::new(&lua::SUSPECT, self.keys().session(id), vec![lines])).await.map(drop)
    }

    /// Declares a session dead that was watched with these values, unchanged, for O.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn bury(&self, id: &SessionId, seen_beat: u64, seen_expiry_ms: u64) -> Result<Burial, Error> {
        let args = vec![seen_beat.to_string(), seen_expiry_ms.to_string()];
        let reply = self.run(Call::new(&lua::BURY, self.keys().session(id), args)).await?;
        let dead = || -> Result<DeadSession, Error> {
            Ok(DeadSession {
                id: id.clone(),
                end: parse_end(&reply.text(1)?),
                ended_ms: reply.number(2).unwrap_or(0),
                suspects: parse_suspects(&reply.text(3)?),
            })
        };
        match reply.text(0)?.as_str() {
            "BURIED" => Ok(Burial::Buried(dead()?)),
            "DEAD" => Ok(Burial::AlreadyDead(dead()?)),
            "MOVED" => Ok(Burial::Moved { beat: reply.number(1)?, expiry_ms: reply.number(2)? }),
            "NOTYET" => Ok(Burial::NotYet { server_ms: reply.number(1)?, expiry_ms: reply.number(2)? }),
            "GONE" => Ok(Burial::Gone),
            _ => Err(reply.unexpected()),
        }
    }

    /// Removes a session that has been dead for an hour, from the index too. The caller has seen that nothing names it.
    /// False: it is alive, or has not been dead for so long.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn forget(&self, id: &SessionId) -> Result<bool, Error> {
        let reply = self.run(Call::new(&lua::FORGET, self.keys().session(id), Vec::new())).await?;
        match reply.text(0)?.as_str() {
            "FORGOTTEN" => {
                let () = self.client().srem(self.keys().sessions(), id.as_str()).await.map_err(failed)?;
                Ok(true)
            }
            "KEPT" => Ok(false),
            _ => Err(reply.unexpected()),
        }
    }

    /// One look at the index and at these sessions, in one pipeline.
    ///
    /// # Errors
    /// When anything of it was not answered: then nothing was seen.
    pub async fn sample(&self, known: &[SessionId]) -> Result<Sample, Error> {
        let mut index = Vec::new();
        let mut sessions = Vec::with_capacity(known.len());
        for (nth, chunk) in at_least_one_chunk(known).enumerate() {
            let pipeline = self.client().pipeline();
            if nth == 0 {
                let () = pipeline.smembers(self.keys().sessions()).await.map_err(failed)?;
            }
            for id in chunk {
                let () = pipeline.hmget(self.keys().session(id), FIELDS.to_vec()).await.map_err(failed)?;
            }
            let commands = chunk.len() + usize::from(nth == 0);
            let mut values = one_for_each(commands, pipeline.try_all().await).into_iter();
            if nth == 0 {
                let members = values.next().map_or(Ok(Value::Null), read_one)?;
                index = members
                    .into_array()
                    .iter()
                    .filter_map(lua::lossy)
                    .filter(|id| !id.is_empty())
                    .map(SessionId::from)
                    .collect();
            }
            for (id, value) in chunk.iter().zip(values) {
                sessions.push((id.clone(), parse_record(read_one(value)?)));
            }
        }
        Ok(Sample { index, sessions })
    }
}

/// Chunks for pipelines, one of them empty if there is nothing else: the index is always asked for.
fn at_least_one_chunk(known: &[SessionId]) -> impl Iterator<Item = &[SessionId]> {
    let empty = known.is_empty().then_some(known);
    empty.into_iter().chain(known.chunks(PIPELINE_MAX))
}

fn parse_record(value: Value) -> Option<SessionRecord> {
    let fields: Vec<Option<String>> = value.into_array().iter().map(lua::lossy).collect();
    if fields.iter().all(Option::is_none) {
        return None;
    }
    let text = |nth: usize| fields.get(nth).cloned().flatten().unwrap_or_default();
    let number = |nth: usize| text(nth).parse::<u64>().unwrap_or(0);
    // The same reading as in bury: only what says that it is dead is dead.
    let alive = text(0) != "dead";
    Some(SessionRecord {
        name: text(1),
        alive,
        beat: number(2),
        expiry_ms: number(3),
        lease: Duration::from_millis(number(4)),
        suspects: parse_suspects(&text(5)),
        ready: text(6) != "0",
        threads: number(7),
        opened_ms: number(8),
        end: (!alive).then(|| (parse_end(&text(9)), number(10))),
        version: text(11),
        capacity: Capacity {
            // Of an earlier version, or unreadable: as if nothing had been said.
            weight: text(12)
                .parse()
                .ok()
                .filter(|weight: &f64| weight.is_normal() && *weight > 0.0)
                .unwrap_or(1.0),
            threads_max: text(13).parse().ok(),
            labels: text(14).parse().unwrap_or_default(),
        },
    })
}

fn parse_end(text: &str) -> SessionEnd {
    match text {
        "closed" => SessionEnd::Closed,
        _ => SessionEnd::Buried,
    }
}

fn parse_suspects(text: &str) -> Vec<Suspect> {
    text.lines().filter_map(Suspect::parse).collect()
}

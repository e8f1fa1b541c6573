//! Poison records: which worker crashes count against a task, and until when it is set aside.

use fred::interfaces::HashesInterface;
use fred::types::Value;

use super::claims::small;
use super::definitions::read_at;
use super::{Call, MirrorUpdate, PIPELINE_MAX, Store, failed, lua, one_for_each, read_one};
use crate::error::Error;
use crate::name::Task;
use crate::records::{DeadSession, PoisonRecord, SourceDigest, Suspect};

/// What became of a report that a session has ended because of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Struck {
    /// By this very call the task is set aside.
    SetAside,
    /// It counts, and is not enough to set the task aside.
    Counted,
    /// It does not count, or was counted before.
    Kept,
}

/// What Redis says of a task after a call about its poison record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<T> {
    /// What the call did.
    pub outcome: T,
    /// What is written down now.
    pub record: PoisonRecord,
    /// Redis' clock.
    pub server_ms: u64,
}

const FIELDS: [&str; 4] = ["Deaths", "Until", "Reason", "Source"];

impl Store {
    /// Counts the end of a session against a task that its watchdog had named, once. To be repeated until it is answered,
    /// before anything that ran under the session is taken over.
    ///
    /// # Errors
    /// When the outcome is not known.
    pub async fn strike(&self, suspect: &Suspect, dead: &DeadSession) -> Result<Verdict<Struck>, Error> {
        let (digest, _) = self.digest_and_status(&suspect.task, None).await?;
        let others = dead.suspects.iter().map(|other| &other.task).filter(|other| **other != suspect.task);
        let mut others: Vec<String> = others.map(Task::to_string).collect();
        others.sort_unstable();
        others.dedup();
        let args = vec![
            dead.id.to_string(),
            dead.ended_ms.to_string(),
            suspect.reason.clone(),
            digest.to_string(),
            others.join("\n"),
        ];
        let reply = self.run(Call::new(&lua::STRIKE, self.keys().poison(&suspect.task), args)).await?;
        parse(&reply, |word| match word {
            "SETASIDE" => Some(Struck::SetAside),
            "COUNTED" => Some(Struck::Counted),
            "KEPT" => Some(Struck::Kept),
            _ => None,
        })
    }

    /// Reads what is counted against these tasks, in pipelines and in order.
    ///
    /// # Errors
    /// When anything of it was not answered.
    pub async fn read_poison(&self, tasks: &[Task]) -> Result<Vec<PoisonRecord>, Error> {
        let mut records = Vec::with_capacity(tasks.len());
        for chunk in tasks.chunks(PIPELINE_MAX) {
            let pipeline = self.client().pipeline();
            for task in chunk {
                let () = pipeline.hmget(self.keys().poison(task), FIELDS.to_vec()).await.map_err(failed)?;
            }
            for value in one_for_each(chunk.len(), pipeline.try_all().await) {
                let fields: Vec<Option<String>> =
                    read_one(value)?.into_array().iter().map(lua::lossy).collect();
                let text = |nth: usize| fields.get(nth).cloned().flatten().unwrap_or_default();
                records.push(record(&text(0), &text(1), text(2), text(3)));
            }
        }
        Ok(records)
    }

    /// Looks whether the definition of a task that is set aside has changed meanwhile: another source, or disabled and
    /// enabled again, ends the row of crashes. True: it has.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn review_poison(&self, task: &Task) -> Result<Verdict<bool>, Error> {
        // First the record, so that the definition is newer than the crash.
        let seen = self.client().hmget(self.keys().poison(task), vec!["Until", "Source"]).await;
        let seen: Vec<Option<String>> = read_one(seen)?.into_array().iter().map(lua::lossy).collect();
        let seen = |nth: usize| seen.get(nth).cloned().flatten();
        let known = seen(1).map(|hex| SourceDigest::from_hex(&hex));
        let (digest, enabled) = self.digest_and_status(task, known.as_ref()).await?;
        let status = if enabled { "enabled" } else { "disabled" };
        let args = vec![seen(0).unwrap_or_default(), digest.to_string(), status.to_owned()];
        let reply = self.run(Call::new(&lua::REVIEW, self.keys().poison(task), args)).await?;
        parse(&reply, |word| match word {
            "CLEARED" => Some(true),
            "KEPT" => Some(false),
            _ => None,
        })
    }

    /// Forgets what is counted against a task, because an operator wants so.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn absolve(&self, task: &Task) -> Result<(), Error> {
        self.run(Call::new(&lua::ABSOLVE, self.keys().poison(task), Vec::new())).await.map(drop)
    }

    /// Writes for people why a task is set aside.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub(crate) async fn mirror_poison(&self, task: &Task, record: &PoisonRecord) -> Result<(), Error> {
        let error = record.error();
        if let Some(thread) = task.as_thread() {
            let update = MirrorUpdate { owner: Some(String::new()), ..MirrorUpdate::crashed(error) };
            self.mirror(&thread, &update).await?;
        } else if let Some(job) = task.as_job() {
            self.mirror_job(&job, &MirrorUpdate::crashed(error)).await?;
        } else if let Some(path) = task.as_endpoint() {
            self.endpoint_failed(&path, error).await?;
        }
        Ok(())
    }

    /// The digest of the source of a task, empty where there is no such task, and whether the task is enabled. The source
    /// comes over the wire only if its digest is not the `known` one.
    async fn digest_and_status(
        &self,
        task: &Task,
        known: Option<&SourceDigest>,
    ) -> Result<(SourceDigest, bool), Error> {
        let mut reply = self.run(read_at(self.keys().definition_of(task), known, ["Status"])).await?;
        if reply.is_empty() {
            return Ok((SourceDigest::from_hex(""), false));
        }
        let values = reply.take(3).map(Value::into_array).unwrap_or_default();
        let status = values.first().and_then(lua::lossy).unwrap_or_default();
        Ok((SourceDigest::from_hex(&reply.text(0)?), status != "disabled"))
    }
}

fn parse<T>(reply: &lua::Reply, outcome: impl FnOnce(&str) -> Option<T>) -> Result<Verdict<T>, Error> {
    let outcome = outcome(&reply.text(0)?).ok_or_else(|| reply.unexpected())?;
    let record = record(&reply.text(1)?, &reply.text(2)?, reply.text(3)?, reply.text(4)?);
    Ok(Verdict { outcome, record, server_ms: reply.number(5)? })
}

fn record(deaths: &str, until: &str, reason: String, source: String) -> PoisonRecord {
    PoisonRecord {
        deaths: small(deaths.parse().unwrap_or(0)),
        until_ms: until.parse().unwrap_or(0),
        reason,
        source: Some(source).filter(|hex| !hex.is_empty()).map(|hex| SourceDigest::from_hex(&hex)),
    }
}

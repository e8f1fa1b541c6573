//! The ticks of jobs: counted, granted, ended and settled, and read.

use std::time::Duration;

use fred::interfaces::HashesInterface;
use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::{Call, PIPELINE_MAX, Store, failed, field_map, lua, one_for_each, read_one};
use crate::error::Error;
use crate::id::{Nonce, SessionId};
use crate::name::TaskName;
use crate::records::{
    HistoryEntry, LedgerEntry, Overlap, RetryRecord, RunRecord, TickCounts, TickOutcome, TicksBook,
    TicksRecord,
};

/// The fields that every worker reads again and again, in the order of [`parse_record`].
pub(super) const WATCHED: [&str; 8] =
    ["Def", "LastTick", "Anchor", "Runs", "Retries", "Pending", "Manual", "Epoch"];
/// The fields of [`parse_counts`], in its order.
const COUNTED: [&str; 8] = ["Elapsed", "Ran", "Failed", "Skipped", "Missed", "Runs", "Retries", "Pending"];
/// What a run has said is no longer than this in the history.
const SAID_BYTES_MAX: usize = 8000;
/// Nothing that failed waits longer for its next try.
pub const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// As in `ticks.lua`.
const LEDGER_LINES: u64 = 25;
const LEDGER_CHUNKS: u64 = 40;
const HISTORY_MOST: u64 = 100;

/// The names that a SCAN has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Jobs with a definition.
    pub defined: Vec<TaskName>,
    /// Jobs with a record of ticks.
    pub counted: Vec<TaskName>,
}

/// Who asks, and by which name the run would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The session that the run would be under.
    pub session: SessionId,
    /// Names the run. The same question with the same nonce has the same answer while the run lasts.
    pub nonce: Nonce,
    /// The worker's name, for people.
    pub worker: String,
}

/// A tick that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickRequest {
    /// In milliseconds since 1970.
    pub tick_ms: i64,
    /// The `LastTick` that it was counted from.
    pub last_ms: i64,
    /// The definition that it was computed by.
    pub def: String,
    /// How many ticks lie between the two, the first of them, and why nobody ran them.
    pub missed: (u64, i64, &'static str),
    /// What happens while a run has not ended.
    pub overlap: Overlap,
    /// Rather no decision than one beside a run.
    pub patient: bool,
}

/// A run that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The tick, or when it was asked for by hand.
    pub tick_ms: i64,
    /// The fence.
    pub epoch: u64,
    /// From 1.
    pub attempt: u32,
    /// When it was granted, by Redis' clock.
    pub started_ms: i64,
}

/// The answer to the question for a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickAnswer {
    /// Run it.
    Granted(Run),
    /// It was decided before, or counted from another tick.
    Done,
    /// Another definition is in force.
    Stale,
    /// Redis' clock has not reached it.
    Early,
    /// A run has not ended, and the question was patient.
    Busy,
    /// Decided: it does not run, since a run has not ended.
    Skipped,
    /// Decided: it waits for the end of a run.
    Buffered,
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Ran, failed or skipped.
    pub outcome: TickOutcome,
    /// If it failed: it is due again after this, [`AGAIN_MAX`] at most. No matter what is said here, a run by hand, one
    /// that was to end and one that began under an earlier definition are not tried again.
    pub again: Option<Duration>,
    /// How long after its time it began.
    pub late: Duration,
    /// How long it ran.
    pub took: Duration,
    /// Why it failed or was skipped, for people: of several lines the first.
    pub why: String,
    /// What it said, for the history; none: nothing has run, and the history does not show it.
    pub said: Option<Said>,
}

/// What a run has said. What is too long for the history loses its oldest lines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// What its script gave back, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The last lines that it logged, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Under which conditions what waits may be granted while the dead's runs are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Who would run it; none: nothing is taken.
    pub asked: Option<Asked>,
    /// The definition that must be in force.
    pub def: String,
    /// The fence that must be in force: [`TicksRecord::epoch`] of the record that this was decided by.
    pub epoch: u64,
    /// As the definition has it.
    pub overlap: Overlap,
    /// How often a failed run is tried again.
    pub retries: u32,
    /// When it is due again.
    pub again: Duration,
}

impl Ended {
    /// A run that nobody here knows, or that nobody can run: it has failed.
    #[must_use]
    pub fn failed(why: &str) -> Self {
        Self {
            outcome: TickOutcome::Failed,
            again: None,
            late: Duration::ZERO,
            took: Duration::ZERO,
            why: why.to_owned(),
            said: None,
        }
    }

    /// A run under a session of ours that is not in our table: its grant came when nobody waited for it any more.
    #[must_use]
    pub fn ghost() -> Self {
        Self::failed("the worker knows nothing of this run")
    }
}

impl Said {
    /// As the history keeps it.
    fn text(&self) -> String {
        let mut said = self.clone();
        loop {
            let text = serde_json::to_string(&said).unwrap_or_default();
            if text.len() <= SAID_BYTES_MAX {
                return text;
            }
            if said.log.is_empty() {
                // Its bytes are at least a sixth of what JSON makes of them.
                let result = said.result.take().unwrap_or_default();
                let most = result.len().min(SAID_BYTES_MAX) * 3 / 4;
                said.result = Some(result[..result.floor_char_boundary(most)].to_owned());
            } else {
                said.log.remove(0);
            }
        }
    }
}

impl Store {
    /// The names of all jobs that have a definition or a record of ticks, by SCAN.
    ///
    /// # Errors
    /// When Redis does not answer; then nothing is known.
    pub async fn scan_jobs(&self) -> Result<Jobs, Error> {
        let mut jobs = Jobs::default();
        let pattern = format!("{}:*", self.keys().cluster());
        self.scan_pages(&pattern, |key| match self.keys().parse(key) {
            Some(crate::keys::Key::Job(name)) => jobs.defined.push(name),
            Some(crate::keys::Key::Ticks(name)) => jobs.counted.push(name),
            _ => {}
        })
        .await?;
        jobs.defined = super::distinct(jobs.defined);
        jobs.counted = super::distinct(jobs.counted);
        Ok(jobs)
    }

    /// Reads what Redis keeps of the ticks of these jobs, in pipelines and in order, without their ledgers.
    pub async fn read_ticks(&self, jobs: &[TaskName]) -> Vec<Result<TicksRecord, Error>> {
        let answers = self.read_each(jobs, &WATCHED).await;
        answers.into_iter().map(|answer| Ok(parse_record(&answer?))).collect()
    }

    /// Counts the ticks by another definition from now on. False: another than `seen` is in force.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn adopt(
        &self,
        job: &TaskName,
        seen: Option<&str>,
        def: &str,
        every: Option<&str>,
    ) -> Result<(bool, TicksRecord), Error> {
        let args = [seen.unwrap_or(""), def, every.unwrap_or("")].map(str::to_owned).to_vec();
        let (word, _, record) = self.ask(&lua::ADOPT, job, args).await?;
        Ok((word == "ADOPTED", record))
    }

    /// Asks for a tick. The same question may be repeated.
    ///
    /// # Errors
    /// When the outcome is not known: the run may be granted.
    pub async fn tick(
        &self,
        job: &TaskName,
        asked: &Asked,
        request: &TickRequest,
    ) -> Result<(TickAnswer, TicksRecord), Error> {
        let (missed, first, why) = request.missed;
        let args = vec![
            asked.session.to_string(),
            asked.nonce.to_string(),
            one_line(&asked.worker),
            request.tick_ms.to_string(),
            request.last_ms.to_string(),
            request.def.clone(),
            missed.to_string(),
            first.to_string(),
            why.to_owned(),
            request.overlap.as_str().to_owned(),
            if request.patient { "1" } else { "" }.to_owned(),
        ];
        let (word, run, record) = self.ask(&lua::TICK, job, args).await?;
        Ok((tick_answer(&word, run)?, record))
    }

    /// Asks for a run that an operator wants. The same question may be repeated. `epoch`: [`TicksRecord::epoch`] of the
    /// record that did not show `run_at` as granted; [`TickAnswer::Stale`] if a run was granted since.
    ///
    /// # Errors
    /// When the outcome is not known: the run may be granted.
    pub async fn run_by_hand(
        &self,
        job: &TaskName,
        asked: &Asked,
        run_at: &str,
        epoch: u64,
        overlap: Overlap,
    ) -> Result<(TickAnswer, TicksRecord), Error> {
        let args = vec![
            asked.session.to_string(),
            asked.nonce.to_string(),
            one_line(&asked.worker),
            run_at.to_owned(),
            epoch.to_string(),
            overlap.as_str().to_owned(),
        ];
        let (word, run, record) = self.ask(&lua::MANUAL, job, args).await?;
        Ok((tick_answer(&word, run)?, record))
    }

    /// Ends a run; what waits for that is granted to `next` in the same step. To be repeated until it is answered.
    ///
    /// # Errors
    /// When the outcome is not known.
    pub async fn finish(
        &self,
        job: &TaskName,
        nonce: &Nonce,
        ended: &Ended,
        next: Option<&Asked>,
    ) -> Result<(Option<Run>, TicksRecord), Error> {
        let mut args = vec![
            nonce.to_string(),
            ended.outcome.as_str().to_owned(),
            ended.again.map(|again| again.as_millis().to_string()).unwrap_or_default(),
            ended.late.as_millis().to_string(),
            ended.took.as_millis().to_string(),
            one_line(&ended.why),
            if ended.said.is_some() { "1" } else { "" }.to_owned(),
            ended.said.as_ref().map(Said::text).unwrap_or_default(),
        ];
        args.extend(match next {
            Some(next) => [next.session.to_string(), next.nonce.to_string(), one_line(&next.worker)],
            None => [String::new(), String::new(), String::new()],
        });
        let (word, run, record) = self.ask(&lua::FINISH, job, args).await?;
        Ok(((word == "NEXT").then_some(run), record))
    }

    /// Ends the runs of sessions that are known to be dead, and grants what waits if nothing runs any more. The same may
    /// be repeated.
    ///
    /// # Errors
    /// When the outcome is not known: a run may be granted.
    pub async fn settle(
        &self,
        job: &TaskName,
        dead: &[SessionId],
        waiting: &Waiting,
    ) -> Result<(Option<Run>, TicksRecord), Error> {
        let (session, nonce, worker) = match &waiting.asked {
            Some(asked) => (asked.session.as_str(), asked.nonce.as_str(), one_line(&asked.worker)),
            None => ("", "", String::new()),
        };
        let mut args = vec![
            session.to_owned(),
            nonce.to_owned(),
            worker,
            waiting.def.clone(),
            waiting.epoch.to_string(),
            waiting.overlap.as_str().to_owned(),
            waiting.retries.to_string(),
            waiting.again.as_millis().to_string(),
            "its worker died".to_owned(),
        ];
        args.extend(dead.iter().map(SessionId::to_string));
        let (word, run, record) = self.ask(&lua::SETTLE, job, args).await?;
        Ok(((word == "NEXT").then_some(run), record))
    }

    /// The definition of a job is gone: what waits is dropped, and the record goes in 24 hours. False: something runs, it
    /// is to be asked again.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn retire_ticks(&self, job: &TaskName) -> Result<bool, Error> {
        let (word, _, _) = self.ask(&lua::RETIRE_TICKS, job, Vec::new()).await?;
        Ok(word == "RETIRED")
    }

    /// The counts of these jobs' ticks, in pipelines and in order.
    pub async fn read_counts(&self, jobs: &[TaskName]) -> Vec<Result<TickCounts, Error>> {
        let answers = self.read_each(jobs, &COUNTED).await;
        answers.into_iter().map(|answer| Ok(parse_counts(&answer?))).collect()
    }

    /// All that is written down about the ticks of a job; none: nothing is.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn read_book(&self, job: &TaskName) -> Result<Option<TicksBook>, Error> {
        let all: Value = self.client().hgetall(self.keys().ticks(job)).await.map_err(failed)?;
        let fields = field_map(all);
        if fields.is_empty() {
            return Ok(None);
        }
        let text = |field: &str| fields.get(field).cloned();
        let number = |field: &str| text(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let chunk = |nth: u64| fields.get(&format!("L:{}", nth % LEDGER_CHUNKS));
        let head = number("LedgerHead").div_ceil(LEDGER_LINES);
        let chunks = (head.saturating_sub(LEDGER_CHUNKS).max(number("LedgerTail"))..head).rev();
        let ledger = chunks.filter_map(chunk).flat_map(|chunk| chunk.lines().rev()).filter_map(parse_entry);
        let head = number("HistoryHead");
        let runs = (head.saturating_sub(HISTORY_MOST).max(number("HistoryTail"))..head).rev();
        let runs = runs.filter_map(|nth| fields.get(&format!("H:{}", nth % HISTORY_MOST)));
        Ok(Some(TicksBook {
            since_ms: text("Since").and_then(|text| text.parse().ok()),
            record: parse_record(&WATCHED.map(text)),
            counts: parse_counts(&COUNTED.map(text)),
            ledger: ledger.collect(),
            history: runs.filter_map(|entry| parse_history(entry)).collect(),
        }))
    }

    /// Reads the same fields of many records, in pipelines and in order.
    async fn read_each<const N: usize>(
        &self,
        jobs: &[TaskName],
        fields: &[&'static str; N],
    ) -> Vec<Result<[Option<String>; N], Error>> {
        let mut records = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(PIPELINE_MAX) {
            let pipeline = self.client().pipeline();
            let mut queued = Ok(());
            for job in jobs {
                queued = queued.and(pipeline.hmget(self.keys().ticks(job), fields.to_vec()).await);
            }
            let answers = match queued {
                Ok(()) => one_for_each(jobs.len(), pipeline.try_all().await),
                Err(error) => vec![Err(error); jobs.len()],
            };
            records.extend(answers.into_iter().map(|answer| {
                let values = read_one(answer)?.into_array();
                Ok(std::array::from_fn(|nth| values.get(nth).and_then(lua::lossy)))
            }));
        }
        records
    }

    /// Runs one of the scripts about ticks: its word, the run it speaks of, and what stands there now.
    async fn ask(
        &self,
        lua: &'static lua::Lua,
        job: &TaskName,
        args: Vec<String>,
    ) -> Result<(String, Run, TicksRecord), Error> {
        let reply = self.run(Call::new(lua, self.keys().ticks(job), args)).await?;
        let run = Run {
            tick_ms: signed(reply.number(1)?),
            epoch: reply.number(2)?,
            attempt: u32::try_from(reply.number(3)?).unwrap_or(u32::MAX),
            started_ms: signed(reply.number(4)?),
        };
        // Behind them Redis' clock.
        let record = parse_record(&std::array::from_fn(|nth| reply.text(6 + nth).ok()));
        Ok((reply.text(0)?, run, record))
    }
}

fn tick_answer(word: &str, run: Run) -> Result<TickAnswer, Error> {
    Ok(match word {
        "GRANTED" => TickAnswer::Granted(run),
        "DONE" => TickAnswer::Done,
        "STALE" => TickAnswer::Stale,
        "EARLY" => TickAnswer::Early,
        "BUSY" => TickAnswer::Busy,
        "SKIPPED" => TickAnswer::Skipped,
        "BUFFERED" => TickAnswer::Buffered,
        _ => return Err(Error::Protocol(format!("a tick was answered with {word:?}"))),
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A text as a field of a line.
fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The values of [`WATCHED`]. A malformed one counts as absent.
pub(super) fn parse_record(values: &[Option<String>; WATCHED.len()]) -> TicksRecord {
    let [def, last, anchor, runs, retries, pending, manual, epoch] = values;
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let instant = |value: &Option<String>| value.as_ref()?.parse::<i64>().ok();
    TicksRecord {
        def: text(def),
        last_ms: instant(last).filter(|last| *last > 0),
        anchor_ms: instant(anchor),
        runs: lines(runs).filter_map(parse_run).collect(),
        retries: lines(retries).filter_map(parse_retry).collect(),
        pending_ms: instant(pending),
        manual: text(manual),
        epoch: epoch.as_ref().and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
    }
}

/// The values of [`COUNTED`].
fn parse_counts(values: &[Option<String>; COUNTED.len()]) -> TickCounts {
    let [elapsed, ran, failed, skipped, missed, runs, retries, pending] = values;
    let number = |value: &Option<String>| value.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count = |lines: usize| u64::try_from(lines).unwrap_or(u64::MAX);
    let waits = pending.as_ref().is_some_and(|text| !text.is_empty());
    TickCounts {
        elapsed: number(elapsed),
        ran: number(ran),
        failed: number(failed),
        skipped: number(skipped),
        missed: number(missed),
        pending: count(lines(retries).filter_map(parse_retry).count()) + u64::from(waits),
        running: count(lines(runs).filter_map(parse_run).filter(|run| !run.manual).count()),
    }
}

fn lines(value: &Option<String>) -> impl Iterator<Item = &str> {
    value.as_deref().unwrap_or_default().lines()
}

fn parse_run(line: &str) -> Option<RunRecord> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [tick, nonce, session, epoch, attempt, started, kind, cancelled, beside, worker] = fields[..] else {
        return None;
    };
    Some(RunRecord {
        tick_ms: tick.parse().ok()?,
        nonce: Nonce::from(nonce),
        session: SessionId::from(session),
        epoch: epoch.parse().ok()?,
        attempt: attempt.parse().ok()?,
        started_ms: started.parse().ok()?,
        manual: kind == "manual",
        cancelled: cancelled == "1",
        beside: beside == "1",
        worker: worker.to_owned(),
    })
}

fn parse_retry(line: &str) -> Option<RetryRecord> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [tick, attempt, at, beside] = fields[..] else { return None };
    Some(RetryRecord {
        tick_ms: tick.parse().ok()?,
        attempt: attempt.parse().ok()?,
        at_ms: at.parse().ok()?,
        beside: beside == "1",
    })
}

fn parse_entry(line: &str) -> Option<LedgerEntry> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [tick, ticks, outcome, attempt, late, took, at, worker, why] = fields[..] else { return None };
    Some(LedgerEntry {
        tick_ms: tick.parse().ok()?,
        ticks: ticks.parse().ok()?,
        outcome: TickOutcome::parse(outcome)?,
        attempt: attempt.parse().ok()?,
        late_ms: late.parse().ok()?,
        took_ms: took.parse().ok()?,
        at_ms: at.parse().ok()?,
        worker: worker.to_owned(),
        why: why.to_owned(),
    })
}

fn parse_history(entry: &str) -> Option<HistoryEntry> {
    let (line, said) = entry.split_once('\n')?;
    let fields: Vec<&str> = line.split('\t').collect();
    let [tick, kind, attempt, epoch, started, at, outcome, again, late, took, worker, why] = fields[..]
    else {
        return None;
    };
    let said = serde_json::from_str::<Said>(said).unwrap_or_default();
    Some(HistoryEntry {
        tick_ms: tick.parse().ok()?,
        manual: kind == "manual",
        attempt: attempt.parse().ok()?,
        epoch: epoch.parse().ok()?,
        started_ms: started.parse().ok()?,
        ended_ms: at.parse().ok()?,
        outcome: TickOutcome::parse(outcome)?,
        again_ms: again.parse().ok(),
        late_ms: late.parse().ok()?,
        took_ms: took.parse().ok()?,
        worker: worker.to_owned(),
        why: why.to_owned(),
        result: said.result,
        log: said.log,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_a_run_said_is_kept_within_bounds(
            result in prop::option::of("\\PC{0,5000}|[\u{0}-\u{1f}]{0,3000}"),
            log in prop::collection::vec("\\PC{0,1000}", 0..30),
        ) {
            let said = Said { result, log };
            let text = said.text();
            prop_assert!(text.len() <= SAID_BYTES_MAX && !text.contains('\n'));
            let kept: Said = serde_json::from_str(&text).unwrap();
            prop_assert!(said.log.ends_with(&kept.log));
            prop_assert!(said.result.unwrap_or_default().starts_with(&kept.result.unwrap_or_default()));
        }
    }

    #[test]
    fn what_is_none_of_ours_counts_as_absent() {
        let mut values: [Option<String>; WATCHED.len()] = WATCHED.map(|_| Some("x\ty\nz".to_owned()));
        let record = parse_record(&values);
        assert_eq!((record.last_ms, record.pending_ms, record.epoch), (None, None, 0));
        assert!(record.runs.is_empty() && record.retries.is_empty());
        values.fill(None);
        assert_eq!(parse_record(&values), TicksRecord::default());
    }
}

//! Random walks over the ticks of one job, beside a model of them in plain Rust.
//!
//! Each step asks one of the scripts something: what a worker would ask, or what one with old knowledge would; then
//! perhaps the same again, as after a lost reply, or something from long ago, as after a network that kept it. What is
//! answered and what stands there afterwards must be what the model says, and beside that, without the model: every tick
//! is accounted for once, each is granted once, no nonce is granted twice, nothing runs beside another run unless it
//! may, no fence and no last tick ever falls.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::*;
use crate::records::{LedgerEntry, RetryRecord};

/// Long enough that nothing that is due again in it becomes due in a walk.
const LATER: Duration = Duration::from_secs(3000);

/// xorshift64*: the same walk for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let roll = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(roll).unwrap() % most
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.below(from.len())]) }
    }
}

/// One question.
#[derive(Debug, Clone)]
enum Question {
    Adopt { seen: Option<String>, def: String, every: Option<String> },
    Tick(Asked, TickRequest),
    Manual { asked: Asked, run_at: String, epoch: u64, overlap: Overlap },
    Finish { nonce: Nonce, ended: Ended, next: Option<Asked> },
    Settle { dead: Vec<SessionId>, waiting: Waiting },
    Retire,
}

/// What came of it: the word, and tick and attempt of the run it speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Word(&'static str),
    Run(i64, u32),
}

/// The record, with what only Redis' clock knows left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    def: Option<String>,
    last_ms: Option<i64>,
    runs: Vec<(i64, Nonce, u32, bool, bool, bool)>,
    retries: Vec<(i64, u32, bool)>,
    pending_ms: Option<i64>,
    manual: Option<String>,
}

impl From<&TicksRecord> for Seen {
    fn from(record: &TicksRecord) -> Self {
        let run = |run: &RunRecord| {
            let tick = if run.manual { 0 } else { run.tick_ms };
            (tick, run.nonce.clone(), run.attempt, run.manual, run.cancelled, run.beside)
        };
        Self {
            def: record.def.clone(),
            last_ms: record.last_ms,
            runs: record.runs.iter().map(run).collect(),
            retries: record.retries.iter().map(|one| (one.tick_ms, one.attempt, one.beside)).collect(),
            pending_ms: record.pending_ms,
            manual: record.manual.clone(),
        }
    }
}

#[derive(Debug, Clone)]
struct ModelRun {
    tick: i64,
    nonce: Nonce,
    session: SessionId,
    attempt: u32,
    manual: bool,
    cancelled: bool,
    beside: bool,
    /// Begun before the definition changed.
    old: bool,
}

/// A run that is due again: tick, attempt, whether it is due, whether beside others.
type Again = (i64, u32, bool, bool);

/// The rules, in plain Rust.
#[derive(Debug, Default)]
struct Model {
    def: Option<String>,
    last: i64,
    grants: u64,
    runs: Vec<ModelRun>,
    retries: Vec<Again>,
    pending: Option<i64>,
    manual: Option<String>,
    elapsed: u64,
    missed: u64,
    /// What became of each single tick.
    decided: BTreeMap<i64, TickOutcome>,
}

impl Model {
    fn find(&self, nonce: &Nonce) -> Option<&ModelRun> {
        self.runs.iter().find(|run| run.nonce == *nonce)
    }

    fn decide(&mut self, tick: i64, outcome: TickOutcome) {
        assert_eq!(self.decided.insert(tick, outcome), None, "{tick} is decided twice");
    }

    fn drop_waiting(&mut self) {
        for (tick, ..) in std::mem::take(&mut self.retries) {
            self.decide(tick, TickOutcome::Failed);
        }
        if let Some(tick) = self.pending.take() {
            self.decide(tick, TickOutcome::Skipped);
        }
    }

    fn grant(&mut self, tick: i64, asked: &Asked, attempt: u32, manual: bool, beside: bool) -> Outcome {
        self.grants += 1;
        self.runs.push(ModelRun {
            tick,
            nonce: asked.nonce.clone(),
            session: asked.session.clone(),
            attempt,
            manual,
            cancelled: false,
            beside,
            old: false,
        });
        Outcome::Run(if manual { 0 } else { tick }, attempt)
    }

    fn grant_waiting(&mut self, asked: &Asked, allow: bool) -> Option<Outcome> {
        let free = self.runs.is_empty();
        let ready = |(_, _, due, beside): &Again| *due && (free || (allow && *beside));
        if let Some(place) = self.retries.iter().position(ready) {
            let (tick, attempt, _, beside) = self.retries.remove(place);
            return Some(self.grant(tick, asked, attempt, false, allow && beside));
        }
        if free && self.retries.is_empty() {
            let tick = self.pending.take()?;
            return Some(self.grant(tick, asked, 1, false, false));
        }
        None
    }

    fn end(&mut self, run: &ModelRun, outcome: TickOutcome, again: Option<Duration>) {
        let may = outcome == TickOutcome::Failed && !run.manual && !run.cancelled && !run.old;
        match again.filter(|_| may) {
            Some(again) => self.retries.push((run.tick, run.attempt + 1, again.is_zero(), run.beside)),
            None if run.manual => {}
            None => self.decide(run.tick, outcome),
        }
    }

    fn running(&self, nonce: &Nonce, session: &SessionId) -> Option<Outcome> {
        let run = self.find(nonce).filter(|run| run.session == *session)?;
        Some(Outcome::Run(if run.manual { 0 } else { run.tick }, run.attempt))
    }

    /// What should be answered; `record` is what Redis says afterwards: only an instant of its clock is taken from it.
    fn answer(&mut self, question: &Question, epoch: u64, record: &TicksRecord) -> Outcome {
        match question {
            Question::Adopt { seen, def, .. } => {
                if self.def.as_ref() == Some(def) {
                    return Outcome::Word("ADOPTED");
                }
                if self.def != *seen {
                    return Outcome::Word("STALE");
                }
                self.drop_waiting();
                self.runs.iter_mut().for_each(|run| run.old = true);
                self.def = Some(def.clone());
                assert!(record.last_ms.unwrap() >= self.last);
                self.last = record.last_ms.unwrap();
                Outcome::Word("ADOPTED")
            }
            Question::Tick(asked, request) => self.tick(asked, request),
            Question::Manual { asked, run_at, epoch: seen, overlap } => {
                if let Some(run) = self.running(&asked.nonce, &asked.session) {
                    return run;
                }
                if self.manual.as_ref() == Some(run_at) {
                    return Outcome::Word("DONE");
                }
                if *seen != epoch {
                    return Outcome::Word("STALE");
                }
                let allow = *overlap == Overlap::Allow;
                if !self.runs.is_empty() && !allow {
                    return Outcome::Word("BUSY");
                }
                self.manual = Some(run_at.clone());
                self.grant(0, asked, 1, true, allow)
            }
            Question::Finish { nonce, ended, next } => {
                let next = next.as_ref();
                if let Some(run) = next.and_then(|next| self.running(&next.nonce, &next.session)) {
                    return run;
                }
                let Some(place) = self.runs.iter().position(|run| run.nonce == *nonce) else {
                    return Outcome::Word("NONE");
                };
                let run = self.runs.remove(place);
                self.end(&run, ended.outcome, ended.again);
                let follows = next.and_then(|next| self.grant_waiting(next, false));
                follows.unwrap_or(Outcome::Word("NONE"))
            }
            Question::Settle { dead, waiting } => {
                let asked = waiting.asked.as_ref();
                if let Some(run) = asked.and_then(|asked| self.running(&asked.nonce, &asked.session)) {
                    return run;
                }
                for run in std::mem::take(&mut self.runs) {
                    if dead.contains(&run.session) {
                        let again = (run.attempt <= waiting.retries).then_some(waiting.again);
                        self.end(&run, TickOutcome::Failed, again);
                    } else {
                        self.runs.push(run);
                    }
                }
                let may = self.def.as_ref() == Some(&waiting.def) && waiting.epoch == epoch;
                let allow = waiting.overlap == Overlap::Allow;
                let follows = asked.filter(|_| may).and_then(|asked| self.grant_waiting(asked, allow));
                follows.unwrap_or(Outcome::Word("NONE"))
            }
            Question::Retire => {
                self.drop_waiting();
                if self.def.take().is_some() {
                    self.runs.iter_mut().for_each(|run| run.old = true);
                }
                Outcome::Word(if self.runs.is_empty() { "RETIRED" } else { "KEPT" })
            }
        }
    }

    fn tick(&mut self, asked: &Asked, request: &TickRequest) -> Outcome {
        if let Some(run) = self.running(&asked.nonce, &asked.session) {
            return run;
        }
        let word = Outcome::Word;
        if self.def.as_ref() != Some(&request.def) {
            return word("STALE");
        }
        if request.last_ms != self.last || request.tick_ms <= self.last {
            return word("DONE");
        }
        if request.tick_ms > self.last + 1_000_000 {
            return word("EARLY");
        }
        let allow = request.overlap == Overlap::Allow;
        let idle = self.runs.is_empty() && self.retries.is_empty();
        let busy = !(allow || idle);
        if busy && request.patient {
            return word("BUSY");
        }
        let tick = request.tick_ms;
        self.elapsed += 1 + request.missed.0;
        self.missed += request.missed.0;
        self.last = tick;
        if !busy {
            return self.grant(tick, asked, 1, false, allow);
        }
        match request.overlap {
            Overlap::Replace => {
                self.runs.iter_mut().for_each(|run| run.cancelled = true);
                self.drop_waiting();
                self.pending = Some(tick);
                self.grant_waiting(asked, false).unwrap_or(word("BUFFERED"))
            }
            Overlap::Buffer if self.pending.is_none() => {
                self.pending = Some(tick);
                word("BUFFERED")
            }
            _ => {
                self.decide(tick, TickOutcome::Skipped);
                word("SKIPPED")
            }
        }
    }

    fn seen(&self) -> Seen {
        let run = |run: &ModelRun| {
            (run.tick, run.nonce.clone(), run.attempt, run.manual, run.cancelled, run.beside)
        };
        Seen {
            def: self.def.clone(),
            last_ms: Some(self.last).filter(|last| *last > 0),
            runs: self.runs.iter().map(run).collect(),
            retries: self
                .retries
                .iter()
                .map(|(tick, attempt, _, beside)| (*tick, *attempt, *beside))
                .collect(),
            pending_ms: self.pending,
            manual: self.manual.clone(),
        }
    }

    fn counts(&self) -> TickCounts {
        let of = |outcome| self.decided.values().filter(|decided| **decided == outcome).count() as u64;
        TickCounts {
            elapsed: self.elapsed,
            ran: of(TickOutcome::Ran),
            failed: of(TickOutcome::Failed),
            skipped: of(TickOutcome::Skipped),
            missed: self.missed,
            pending: self.retries.len() as u64 + u64::from(self.pending.is_some()),
            running: self.runs.iter().filter(|run| !run.manual).count() as u64,
        }
    }
}

/// What must hold whatever the rules are, from what was seen alone.
#[derive(Debug, Default)]
struct Watcher {
    /// Who was granted which try of which tick.
    granted: HashMap<(i64, u32), Nonce>,
    /// Nonces that were seen to run, and are seen no more.
    over: HashSet<Nonce>,
    runs: Vec<RunRecord>,
    epoch: u64,
    last: i64,
    /// Ticks that were decided to elapse.
    elapsed: BTreeSet<i64>,
}

impl Watcher {
    fn look(&mut self, book: &TicksBook) {
        let record = &book.record;
        assert!(book.counts.is_balanced(), "{:?}", book.counts);
        let last = record.last_ms.unwrap_or(0);
        assert!(last >= self.last && record.epoch >= self.epoch, "something has fallen");
        for run in &record.runs {
            assert!(!self.over.contains(&run.nonce), "{run:?} is granted anew");
            if self.runs.iter().any(|before| before.nonce == run.nonce) {
                continue;
            }
            assert!(run.epoch > self.epoch, "the fence of {run:?} does not rise");
            let alone = record.runs.len() == 1;
            assert!(run.beside || alone, "{run:?} runs beside another: {:?}", record.runs);
            if !run.manual {
                let first = self.granted.insert((run.tick_ms, run.attempt), run.nonce.clone());
                assert_eq!(first, None, "a tick is granted twice");
            }
        }
        let gone = self.runs.iter().filter(|before| record.runs.iter().all(|run| run.nonce != before.nonce));
        self.over.extend(gone.map(|run| run.nonce.clone()));
        self.runs.clone_from(&record.runs);
        self.epoch = record.epoch;
        self.last = last;

        // Every tick is in one place.
        let mut places: Vec<i64> =
            record.runs.iter().filter(|run| !run.manual).map(|run| run.tick_ms).collect();
        places.extend(record.retries.iter().map(|RetryRecord { tick_ms, .. }| tick_ms));
        places.extend(record.pending_ms);
        let singles = book.ledger.iter().filter(|entry| entry.outcome != TickOutcome::Missed);
        places.extend(singles.map(|LedgerEntry { tick_ms, .. }| tick_ms));
        places.sort_unstable();
        let expected: Vec<i64> = self.elapsed.iter().copied().collect();
        assert_eq!(places, expected, "every elapsed tick, each once");
        let missed = book.ledger.iter().filter(|entry| entry.outcome == TickOutcome::Missed);
        assert_eq!(missed.map(|entry| entry.ticks).sum::<u64>(), book.counts.missed);
    }
}

struct Walk<'a> {
    store: &'a Store,
    job: TaskName,
    dice: Dice,
    model: Model,
    watcher: Watcher,
    record: TicksRecord,
    sessions: Vec<SessionId>,
    dead: Vec<SessionId>,
    asked_before: Vec<Question>,
    /// Records as they were at some time.
    old_records: Vec<TicksRecord>,
    /// How often which answer was given.
    heard: BTreeMap<String, usize>,
}

impl Walk<'_> {
    fn somebody(&mut self) -> Asked {
        if self.dice.one_in(12) || self.sessions.is_empty() {
            self.sessions.push(SessionId::random());
        }
        let session = self.dice.pick(&self.sessions).unwrap().clone();
        Asked { session, nonce: Nonce::random(), worker: "w".to_owned() }
    }

    fn overlap(&mut self) -> Overlap {
        *self
            .dice
            .pick(&[Overlap::Forbid, Overlap::Buffer, Overlap::Buffer, Overlap::Replace, Overlap::Allow])
            .unwrap()
    }

    fn question(&mut self) -> Question {
        // Some have not looked for a while.
        let record = match self.dice.one_in(8) {
            true => self.dice.pick(&self.old_records).unwrap_or(&self.record).clone(),
            false => self.record.clone(),
        };
        let def = record.def.clone().unwrap_or_else(|| "d0".to_owned());
        let retries = u32::try_from(self.dice.below(3)).unwrap();
        let again = if self.dice.one_in(3) { LATER } else { Duration::ZERO };
        match self.dice.below(20) {
            0 => Question::Retire,
            1 => {
                let n = self.dice.below(3);
                let every = self.dice.one_in(2).then(|| format!("{n}s"));
                Question::Adopt { seen: record.def, def: format!("d{n}"), every }
            }
            2 => {
                let known = record.manual.filter(|_| self.dice.one_in(3));
                let run_at = known.unwrap_or_else(|| Nonce::random().to_string());
                let (asked, overlap) = (self.somebody(), self.overlap());
                Question::Manual { asked, run_at, epoch: record.epoch, overlap }
            }
            3..=9 => {
                let last_ms = record.last_ms.unwrap_or(0);
                let step = if self.dice.one_in(25) { 10_000_000 } else { self.dice.below(4) };
                let missed = if self.dice.one_in(4) { (3, last_ms + 1, "late") } else { (0, 0, "") };
                let request = TickRequest {
                    tick_ms: last_ms + i64::try_from(step).unwrap(),
                    last_ms,
                    def,
                    missed,
                    overlap: self.overlap(),
                    patient: self.dice.one_in(6),
                };
                Question::Tick(self.somebody(), request)
            }
            10..=15 => {
                let runs: Vec<Nonce> = record.runs.iter().map(|run| run.nonce.clone()).collect();
                let nonce = self.dice.pick(&runs).cloned().unwrap_or_else(Nonce::random);
                let outcomes =
                    [TickOutcome::Ran, TickOutcome::Failed, TickOutcome::Failed, TickOutcome::Skipped];
                let outcome = *self.dice.pick(&outcomes).unwrap();
                let again = (!self.dice.one_in(3)).then_some(again);
                let next = self.dice.one_in(2).then(|| self.somebody());
                Question::Finish { nonce, ended: Ended { again, ..run_ended(outcome) }, next }
            }
            16 => {
                // One dies; nobody has settled it yet.
                if let Some(dies) = self.dice.pick(&self.sessions).cloned() {
                    self.sessions.retain(|session| *session != dies);
                    self.dead.push(dies);
                }
                self.question()
            }
            _ => {
                let dead: Vec<SessionId> =
                    self.dead.clone().into_iter().filter(|_| !self.dice.one_in(4)).collect();
                let asked = (!self.dice.one_in(5)).then(|| self.somebody());
                let (epoch, overlap) = (record.epoch, self.overlap());
                let waiting = Waiting { asked, def, epoch, overlap, retries, again };
                Question::Settle { dead, waiting }
            }
        }
    }

    async fn ask(&mut self, question: &Question) {
        let (store, job) = (self.store, &self.job);
        let run = |run: Run, record: &TicksRecord| {
            let of = record.runs.iter().find(|one| one.epoch == run.epoch).unwrap();
            assert_eq!((of.tick_ms, of.attempt, of.started_ms), (run.tick_ms, run.attempt, run.started_ms));
            Outcome::Run(if of.manual { 0 } else { run.tick_ms }, run.attempt)
        };
        let tick = |answer: TickAnswer, record: &TicksRecord| match answer {
            TickAnswer::Granted(granted) => run(granted, record),
            TickAnswer::Done => Outcome::Word("DONE"),
            TickAnswer::Stale => Outcome::Word("STALE"),
            TickAnswer::Early => Outcome::Word("EARLY"),
            TickAnswer::Busy => Outcome::Word("BUSY"),
            TickAnswer::Skipped => Outcome::Word("SKIPPED"),
            TickAnswer::Buffered => Outcome::Word("BUFFERED"),
        };
        let none = || Outcome::Word("NONE");
        let before = (self.record.epoch, self.model.last);
        let (outcome, record) = match question {
            Question::Adopt { seen, def, every } => {
                let (adopted, record) =
                    store.adopt(job, seen.as_deref(), def, every.as_deref()).await.unwrap();
                (Outcome::Word(if adopted { "ADOPTED" } else { "STALE" }), record)
            }
            Question::Tick(asked, request) => {
                let (answer, record) = store.tick(job, asked, request).await.unwrap();
                (tick(answer, &record), record)
            }
            Question::Manual { asked, run_at, epoch, overlap } => {
                let (answer, record) = store.run_by_hand(job, asked, run_at, *epoch, *overlap).await.unwrap();
                (tick(answer, &record), record)
            }
            Question::Finish { nonce, ended, next } => {
                let (next, record) = store.finish(job, nonce, ended, next.as_ref()).await.unwrap();
                (next.map_or_else(none, |next| run(next, &record)), record)
            }
            Question::Settle { dead, waiting } => {
                let (next, record) = store.settle(job, dead, waiting).await.unwrap();
                (next.map_or_else(none, |next| run(next, &record)), record)
            }
            Question::Retire => {
                let retired = store.retire_ticks(job).await.unwrap();
                let record = store.read_ticks(std::slice::from_ref(job)).await.pop().unwrap().unwrap();
                (Outcome::Word(if retired { "RETIRED" } else { "KEPT" }), record)
            }
        };
        let expected = self.model.answer(question, before.0, &record);
        assert_eq!(outcome, expected, "{question:?}");
        assert_eq!(Seen::from(&record), self.model.seen(), "after {question:?}");
        if let Question::Tick(_, request) = question
            && self.model.last == request.tick_ms
            && before.1 != self.model.last
        {
            self.watcher.elapsed.insert(request.tick_ms);
        }
        if let Some(book) = store.read_book(job).await.unwrap() {
            assert_eq!((&book.record, book.counts), (&record, self.model.counts()), "after {question:?}");
            self.watcher.look(&book);
        }
        let heard = match outcome {
            Outcome::Word(word) => word.to_owned(),
            Outcome::Run(_, attempt) => format!("RUN {}", attempt.min(2)),
        };
        let kind = format!("{question:?}");
        let kind = kind.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        *self.heard.entry(format!("{kind} {heard}")).or_default() += 1;
        self.record = record;
    }

    /// As if the last ticks had been an hour ago: then there are many more that have come.
    async fn long_ago(&mut self) {
        let last = i64::try_from(self.store.server_time().await.unwrap()).unwrap() - 600_000;
        if self.model.last > last {
            // Never below what was decided.
            let last = last.max(self.watcher.elapsed.last().copied().unwrap_or(0));
            let key = self.store.keys.ticks(&self.job);
            let () = self.store.client.hset(key, ("LastTick", last.to_string())).await.unwrap();
            (self.model.last, self.watcher.last, self.record.last_ms) = (last, last, Some(last));
        }
    }

    async fn go(&mut self, steps: usize) {
        for _ in 0..steps {
            let question = self.question();
            self.ask(&question).await;
            if matches!(question, Question::Adopt { .. }) {
                self.long_ago().await;
            }
            // Its answer was lost.
            while self.dice.one_in(5) {
                self.ask(&question).await;
            }
            self.asked_before.push(question);
            self.old_records.push(self.record.clone());
            if self.dice.one_in(5) {
                // From long ago. Those for what waits, whatever that is, are the dangerous ones.
                let settles: Vec<Question> = self
                    .asked_before
                    .iter()
                    .filter(|one| matches!(one, Question::Settle { .. }))
                    .cloned()
                    .collect();
                let from = if self.dice.one_in(2) { &settles } else { &self.asked_before };
                let Some(late) = self.dice.pick(from).cloned() else { continue };
                self.ask(&late).await;
                if matches!(late, Question::Adopt { .. }) {
                    self.long_ago().await;
                }
            }
        }
        // In the end nothing is stuck: what runs ends, what waits runs.
        let def = "end".to_owned();
        let adopt = Question::Adopt { seen: self.record.def.clone(), def: def.clone(), every: None };
        self.ask(&adopt).await;
        let mut left = 0;
        while !(self.record.runs.is_empty() && self.record.pending_ms.is_none()) {
            let nonce = self.record.runs.first().map_or_else(Nonce::random, |run| run.nonce.clone());
            let next = Some(self.somebody());
            self.ask(&Question::Finish { nonce, ended: run_ended(TickOutcome::Ran), next }).await;
            left += 1;
            assert!(left < 1000, "{:?}", self.record);
        }
        let counts = self.model.counts();
        assert_eq!(counts.elapsed, counts.ran + counts.failed + counts.skipped + counts.missed);
    }
}

async fn walks(bench: &Bench, seeds: std::ops::Range<u64>, steps: usize) -> BTreeMap<String, usize> {
    let mut heard = BTreeMap::new();
    for seed in seeds {
        let mut walk = Walk {
            store: &bench.store,
            job: TaskName::new(format!("walk {seed}")).unwrap(),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            model: Model::default(),
            watcher: Watcher::default(),
            record: TicksRecord::default(),
            sessions: Vec::new(),
            dead: Vec::new(),
            asked_before: Vec::new(),
            old_records: Vec::new(),
            heard: BTreeMap::new(),
        };
        println!("walk with seed {seed}");
        walk.go(steps).await;
        for (what, times) in walk.heard {
            *heard.entry(what).or_default() += times;
        }
    }
    heard
}

pub(super) async fn a_random_walk_is_what_the_model_says(bench: Bench) {
    let heard = walks(&bench, 1..25, 150).await;
    // A walk that meets not all there is proves little.
    for what in [
        "Adopt ADOPTED",
        "Adopt STALE",
        "Tick RUN 1",
        "Tick DONE",
        "Tick STALE",
        "Tick EARLY",
        "Tick BUSY",
        "Tick BUFFERED",
        "Tick SKIPPED",
        "Manual RUN 1",
        "Manual DONE",
        "Manual STALE",
        "Manual BUSY",
        "Finish RUN 1",
        "Finish RUN 2",
        "Finish NONE",
        "Settle RUN 1",
        "Settle RUN 2",
        "Settle NONE",
        "Retire RETIRED",
        "Retire KEPT",
    ] {
        assert!(heard.contains_key(what), "no {what} in {heard:?}");
    }
}

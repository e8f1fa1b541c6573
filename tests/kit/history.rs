//! What the workers did, and whether they were allowed to.
//!
//! A worker under test appends to its call log a line for every entry into a script, above all for every run of
//! main(): `start|effect|end <boot ns> <pid> <thread> <epoch> [outcome] [function]`. All processes of a host share CLOCK_BOOTTIME, so
//! the logs of all workers can be laid side by side. [`check`] proves from them:
//! - no two calls of one thread overlap, on whatever worker;
//! - epochs of a thread only rise, and one epoch belongs to one process;
//! - no effect of an older epoch comes after the start of a newer one.
//!
//! A call lasts from its `start` to its `end`. One that has no end because its process is gone ends when the process
//! was seen to be gone. One in which the process was frozen, and that ended as lost (or with the process) afterwards,
//! lasts until the freeze began, for a frozen process does nothing; but if it shows an effect after it was resumed,
//! it lasts until that effect.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What a line of a call log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A function is about to be called.
    Start,
    /// A host call has passed the lease gate.
    Effect,
    /// The function has ended.
    End,
}

/// A line of a call log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened.
    pub kind: EntryKind,
    /// When, in nanoseconds of the boot clock.
    pub at: u64,
    /// In which process.
    pub pid: u32,
    /// To which thread.
    pub thread: String,
    /// Under which epoch.
    pub epoch: u64,
    /// The function called for a start; how it ended, and the function, for an end.
    pub outcome: Option<String>,
}

impl Entry {
    /// Reads one line.
    ///
    /// # Errors
    /// When it is no such line.
    pub fn parse(line: &str) -> Result<Self> {
        let mut words = line.split(' ');
        let mut word = |what: &str| words.next().with_context(|| format!("no {what} in {line:?}"));
        let kind = match word("kind")? {
            "start" => EntryKind::Start,
            "effect" => EntryKind::Effect,
            "end" => EntryKind::End,
            other => bail!("unknown kind {other:?} in {line:?}"),
        };
        let at = word("instant")?.parse().with_context(|| format!("no instant in {line:?}"))?;
        let pid = word("pid")?.parse().with_context(|| format!("no pid in {line:?}"))?;
        let thread = word("thread")?.to_owned();
        let epoch = word("epoch")?.parse().with_context(|| format!("no epoch in {line:?}"))?;
        let outcome = words.collect::<Vec<_>>().join(" ");
        let outcome = (!outcome.is_empty()).then_some(outcome);
        Ok(Self { kind, at, pid, thread, epoch, outcome })
    }

    fn is_lost(&self) -> bool {
        self.outcome.as_deref().is_some_and(|outcome| outcome.starts_with("lost"))
    }

    /// Whether this is the start of a run of main(), not of what comes before and after.
    fn is_main(&self) -> bool {
        self.kind == EntryKind::Start && self.outcome.as_deref().is_none_or(|function| function == "main")
    }
}

/// What was done to a process, or became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FateKind {
    /// It was seen stopped by SIGSTOP.
    Frozen,
    /// SIGCONT is about to be sent.
    Thawed,
    /// It is gone.
    Gone,
}

/// A fate and its instant.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// Nanoseconds of the boot clock.
    pub at: u64,
    /// Which process.
    pub pid: u32,
    /// What.
    pub kind: FateKind,
}

/// What a checked history contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Calls.
    pub calls: usize,
    /// Effects.
    pub effects: usize,
    /// Threads seen.
    pub threads: usize,
    /// Changes of a thread's process.
    pub takeovers: usize,
    /// Calls that ended with their session lost, or with their process.
    pub lost: usize,
}

impl Summary {
    /// Fails for a history in which nothing was put to the test.
    ///
    /// # Errors
    /// When there was neither a takeover nor a lost session.
    pub fn not_empty(&self) -> Result<()> {
        if self.takeovers == 0 && self.lost == 0 {
            bail!("an empty run proves nothing: no takeover and no lost session in it ({self})");
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls, {} effects, {} threads, {} takeovers, {} calls lost",
            self.calls, self.effects, self.threads, self.takeovers, self.lost
        )
    }
}

/// One call of main().
#[derive(Debug)]
struct Call {
    pid: u32,
    epoch: u64,
    start: u64,
    end: u64,
    lost: bool,
}

/// Checks a history; `now` bounds calls that are still running.
///
/// # Errors
/// With every violation found, when there is one.
pub fn check(entries: &[Entry], fates: &[Fate], now: u64) -> Result<Summary> {
    let mut by_thread: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_thread.entry(&entry.thread).or_default().push(entry);
    }
    let mut summary = Summary { threads: by_thread.len(), ..Summary::default() };
    let mut violations = Vec::new();
    for (thread, mut entries) in by_thread {
        entries.sort_by_key(|entry| entry.at);
        let calls = calls(thread, &entries, fates, now, &mut violations);
        summary.calls += calls.len();
        summary.effects += entries.iter().filter(|entry| entry.kind == EntryKind::Effect).count();
        summary.lost += calls.iter().filter(|call| call.lost).count();
        summary.takeovers += calls.windows(2).filter(|pair| matches!(pair, [a, b] if a.pid != b.pid)).count();
        overlaps(thread, &calls, &mut violations);
        epochs(thread, &calls, &mut violations);
        late_effects(thread, &entries, &mut violations);
    }
    if violations.is_empty() {
        return Ok(summary);
    }
    let count = violations.len();
    violations.truncate(20);
    bail!("{count} violations of single ownership ({summary}):\n{}", violations.join("\n"))
}

/// The calls of one thread, by their start.
fn calls(
    thread: &str,
    entries: &[&Entry],
    fates: &[Fate],
    now: u64,
    violations: &mut Vec<String>,
) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut by_pid: BTreeMap<u32, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_pid.entry(entry.pid).or_default().push(entry);
    }
    for (pid, own) in by_pid {
        let fates: Vec<&Fate> = fates.iter().filter(|fate| fate.pid == pid).collect();
        let mut open: Option<(&Entry, u64)> = None;
        let mut close = |open: Option<(&Entry, u64)>, end: Option<&Entry>| {
            if let Some((start, last_effect)) = open {
                calls.push(call(start, last_effect, end, &fates, now));
            }
        };
        for entry in own {
            match entry.kind {
                EntryKind::Start => {
                    if let Some((earlier, _)) = open {
                        violations.push(format!(
                            "{thread}: process {pid} starts a call at {} inside its own of {}",
                            entry.at, earlier.at
                        ));
                    }
                    close(open.take(), Some(entry));
                    open = Some((entry, entry.at));
                }
                EntryKind::Effect => {
                    if let Some((_, last)) = &mut open {
                        *last = entry.at;
                    }
                }
                EntryKind::End => close(open.take(), Some(entry)),
            }
        }
        close(open, None);
    }
    calls.sort_by_key(|call| call.start);
    calls
}

fn call(start: &Entry, last_effect: u64, end: Option<&Entry>, fates: &[&Fate], now: u64) -> Call {
    let gone = fates.iter().find(|fate| fate.kind == FateKind::Gone).map(|fate| fate.at);
    let until = end.map(|end| end.at).or(gone).unwrap_or(now).max(start.at);
    let lost = end.is_some_and(Entry::is_lost) || (end.is_none() && gone.is_some());
    // A process that is frozen to this day has not said how its call ends; it does nothing meanwhile.
    let frozen = fates
        .iter()
        .filter(|fate| fate.kind == FateKind::Frozen && fate.at >= start.at && fate.at <= until)
        .map(|fate| fate.at)
        .max();
    let end = match frozen {
        Some(frozen) if lost || end.is_none() => frozen.max(last_effect),
        _ => until,
    };
    Call { pid: start.pid, epoch: start.epoch, start: start.at, end, lost }
}

fn overlaps(thread: &str, calls: &[Call], violations: &mut Vec<String>) {
    let mut latest: Option<&Call> = None;
    for call in calls {
        if let Some(earlier) = latest
            && earlier.pid != call.pid
            && earlier.end > call.start
        {
            violations.push(format!(
                "{thread}: process {} (epoch {}) is inside from {} to {} while process {} (epoch {}) starts at {}, {:.3} ms early",
                earlier.pid,
                earlier.epoch,
                earlier.start,
                earlier.end,
                call.pid,
                call.epoch,
                call.start,
                milliseconds(earlier.end - call.start),
            ));
        }
        if latest.is_none_or(|earlier| earlier.end <= call.end) {
            latest = Some(call);
        }
    }
}

fn epochs(thread: &str, calls: &[Call], violations: &mut Vec<String>) {
    let mut owners: BTreeMap<u64, u32> = BTreeMap::new();
    let mut highest = 0;
    for call in calls {
        if call.epoch < highest {
            violations.push(format!(
                "{thread}: process {} starts with epoch {} at {} after epoch {highest} was seen",
                call.pid, call.epoch, call.start
            ));
        }
        highest = highest.max(call.epoch);
        let owner = *owners.entry(call.epoch).or_insert(call.pid);
        if owner != call.pid {
            violations.push(format!(
                "{thread}: epoch {} is used by process {owner} and by process {}",
                call.epoch, call.pid
            ));
        }
    }
}

fn late_effects(thread: &str, entries: &[&Entry], violations: &mut Vec<String>) {
    let mut newest: Option<&Entry> = None;
    for entry in entries {
        match entry.kind {
            EntryKind::Start => {
                if newest.is_none_or(|newest| newest.epoch < entry.epoch) {
                    newest = Some(entry);
                }
            }
            EntryKind::Effect => {
                if let Some(newest) = newest
                    && entry.epoch < newest.epoch
                {
                    violations.push(format!(
                        "{thread}: process {} has an effect with epoch {} at {}, {:.3} ms after process {} started epoch {}",
                        entry.pid,
                        entry.epoch,
                        entry.at,
                        milliseconds(entry.at - newest.at),
                        newest.pid,
                        newest.epoch
                    ));
                }
            }
            EntryKind::End => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for reading only")]
fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// The call logs of all workers, read as they grow.
#[derive(Debug, Default)]
pub struct History {
    logs: Vec<Log>,
    entries: Vec<Entry>,
    last_start: BTreeMap<String, (u64, u32)>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
}

impl History {
    /// Adds a worker's log, which need not exist yet.
    pub fn add(&mut self, path: PathBuf) {
        if !self.logs.iter().any(|log| log.path == path) {
            self.logs.push(Log { path, offset: 0, rest: Vec::new() });
        }
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// When a log cannot be read or holds a line that is none.
    pub fn read(&mut self) -> Result<()> {
        for log in &mut self.logs {
            let Ok(mut file) = File::open(&log.path) else { continue };
            file.seek(SeekFrom::Start(log.offset))?;
            let read = file.read_to_end(&mut log.rest)?;
            log.offset += u64::try_from(read)?;
            let Some(end) = log.rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let whole: Vec<u8> = log.rest.drain(..=end).collect();
            for line in std::str::from_utf8(&whole)?.lines() {
                let entry = Entry::parse(line)?;
                if entry.is_main() {
                    let last = self.last_start.entry(entry.thread.clone()).or_default();
                    *last = (*last).max((entry.at, entry.pid));
                }
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    /// Everything read.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Instant and process of the newest start of a thread's main().
    pub fn last_start(&self, thread: &str) -> Option<(u64, u32)> {
        self.last_start.get(thread).copied()
    }

    /// The threads whose newest start was in this process.
    pub fn threads_of(&self, pid: u32) -> Vec<String> {
        self.last_start.iter().filter(|(_, last)| last.1 == pid).map(|(thread, _)| thread.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a history written as text; `!` lines are fates: `! <instant> <pid> frozen|thawed|gone`.
    fn verdict(text: &str) -> Result<Summary> {
        let mut entries = Vec::new();
        let mut fates = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(fate) = line.strip_prefix("! ") {
                let words: Vec<&str> = fate.split(' ').collect();
                let kind = match words[2] {
                    "frozen" => FateKind::Frozen,
                    "thawed" => FateKind::Thawed,
                    _ => FateKind::Gone,
                };
                fates.push(Fate { at: words[0].parse()?, pid: words[1].parse()?, kind });
            } else {
                entries.push(Entry::parse(line)?);
            }
        }
        check(&entries, &fates, 1_000)
    }

    fn fails(text: &str, with: &str) {
        let error = verdict(text).unwrap_err().to_string();
        assert!(error.contains(with), "{error}");
    }

    #[test]
    fn a_good_takeover_passes() {
        let summary = verdict(
            "start 10 1 t 5
             effect 12 1 t 5
             end 20 1 t 5 ok
             start 30 1 t 5
             ! 35 1 gone
             start 60 2 t 6
             end 70 2 t 6 ok",
        )
        .unwrap();
        assert_eq!(summary, Summary { calls: 3, effects: 1, threads: 1, takeovers: 1, lost: 1 });
        summary.not_empty().unwrap();
    }

    #[test]
    fn a_planted_double_run_is_caught() {
        fails(
            "start 10 1 t 5
             end 50 1 t 5 ok
             start 40 2 t 6
             end 60 2 t 6 ok",
            "is inside from 10 to 50 while process 2",
        );
    }

    #[test]
    fn a_double_run_inside_a_long_call_is_caught() {
        fails(
            "start 10 1 t 5
             start 20 2 t 6
             end 25 2 t 6 ok
             start 30 2 t 6
             end 35 2 t 6 ok
             end 100 1 t 5 ok",
            "2 violations",
        );
    }

    #[test]
    fn a_call_that_still_runs_counts_until_now() {
        fails(
            "start 10 1 t 5
             start 40 2 t 6",
            "is inside from 10 to 1000",
        );
    }

    #[test]
    fn two_calls_at_once_in_one_process_are_caught() {
        fails(
            "start 10 1 t 5
             start 20 1 t 5
             end 30 1 t 5 ok",
            "inside its own",
        );
    }

    #[test]
    fn a_falling_epoch_is_caught() {
        fails(
            "start 10 1 t 5
             end 20 1 t 5 ok
             start 30 2 t 4
             end 40 2 t 4 ok",
            "epoch 4 at 30 after epoch 5",
        );
    }

    #[test]
    fn an_epoch_of_two_owners_is_caught() {
        fails(
            "start 10 1 t 5
             end 20 1 t 5 ok
             start 30 2 t 5
             end 40 2 t 5 ok",
            "epoch 5 is used by process 1 and by process 2",
        );
    }

    #[test]
    fn a_late_effect_is_caught() {
        fails(
            "start 10 1 t 5
             end 20 1 t 5 ok
             start 30 2 t 6
             effect 35 1 t 5
             end 40 2 t 6 ok",
            "has an effect with epoch 5 at 35",
        );
    }

    #[test]
    fn a_frozen_call_ends_with_the_freeze_if_it_is_lost() {
        let summary = verdict(
            "start 10 1 t 5
             effect 12 1 t 5
             ! 15 1 frozen
             start 40 2 t 6
             end 45 2 t 6 ok
             ! 50 1 thawed
             end 51 1 t 5 lost",
        )
        .unwrap();
        assert_eq!((summary.takeovers, summary.lost), (1, 1));
        verdict(
            "start 10 1 t 5
             ! 15 1 frozen
             start 40 2 t 6
             end 45 2 t 6 ok",
        )
        .unwrap();
    }

    #[test]
    fn a_frozen_call_that_goes_on_as_if_nothing_had_been_is_caught() {
        fails(
            "start 10 1 t 5
             ! 15 1 frozen
             start 40 2 t 6
             end 45 2 t 6 ok
             ! 50 1 thawed
             end 51 1 t 5 ok",
            "is inside from 10 to 51",
        );
    }

    #[test]
    fn an_effect_after_the_freeze_is_caught_even_if_the_call_is_lost() {
        fails(
            "start 10 1 t 5
             ! 15 1 frozen
             start 40 2 t 6
             end 60 2 t 6 ok
             ! 50 1 thawed
             effect 51 1 t 5
             end 52 1 t 5 lost",
            "2 violations",
        );
    }

    #[test]
    fn an_empty_history_is_no_proof() {
        let summary = verdict(
            "start 10 1 t 5
             end 20 1 t 5 ok",
        )
        .unwrap();
        assert!(summary.not_empty().unwrap_err().to_string().contains("proves nothing"));
        assert!(verdict("").unwrap().not_empty().is_err());
    }

    #[test]
    fn logs_are_read_as_they_grow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calls");
        let mut history = History::default();
        history.add(path.clone());
        history.read().unwrap();
        std::fs::write(&path, "start 10 1 t 5\nend 2").unwrap();
        history.read().unwrap();
        assert_eq!(history.entries().len(), 1);
        std::fs::write(&path, "start 10 1 t 5\nend 20 1 t 5 ok\nstart 30 1 u 7\n").unwrap();
        history.read().unwrap();
        assert_eq!(history.entries().len(), 3);
        assert_eq!(history.last_start("u"), Some((30, 1)));
        assert_eq!(history.threads_of(1), ["t", "u"]);
    }
}

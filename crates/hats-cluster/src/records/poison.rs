//! Tasks that took their worker down: whom a watchdog has named, and what is counted against a task.

use std::time::Duration;

use super::SourceDigest;
use crate::name::Task;

/// A task that the watchdog of a session has named, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Suspect {
    /// The task.
    pub task: Task,
    /// What it did, for people.
    pub reason: String,
}

impl Suspect {
    /// Its line in `Suspect` of a session: kind, name and reason, parted by tabs. No name has a tab.
    pub(crate) fn line(&self) -> String {
        let reason: String = self
            .reason
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(REASON_CHARS_MAX)
            .collect();
        format!("{}\t{}\t{reason}", self.task.kind(), self.task.name())
    }

    /// None: this is no line of ours. One without a kind singles no task out.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(3, '\t');
        let task = Task::new(fields.next()?.parse().ok()?, fields.next()?).ok()?;
        Some(Self { task, reason: fields.next().unwrap_or("it was named by the watchdog").to_owned() })
    }
}

/// Maximum length of a reason.
const REASON_CHARS_MAX: usize = 500;

/// The worker crashes that count against a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoisonRecord {
    /// Crashes in a row.
    pub deaths: u32,
    /// Server milliseconds until which it is set aside; 0 = it is not.
    pub until_ms: u64,
    /// What the task did at the last of them.
    pub reason: String,
    /// Digest of the definition when the last of them was counted.
    pub source: Option<SourceDigest>,
}

impl PoisonRecord {
    /// How much longer the task is set aside at `server_ms`. An instant further ahead than it could have been set counts
    /// as passed.
    #[must_use]
    pub fn left(&self, server_ms: u64) -> Option<Duration> {
        let left = Duration::from_millis(self.until_ms.saturating_sub(server_ms));
        (!left.is_zero() && left <= SET_ASIDE_MAX).then_some(left)
    }

    /// What `Error` of a task says that is set aside.
    #[must_use]
    pub fn error(&self) -> String {
        let Self { deaths, reason, .. } = self;
        format!(
            "poison: {reason}; {deaths} workers in a row have ended because of it, so it is set aside for a while, 10 \
             minutes at most; another source or enabling it starts it at once"
        )
    }
}

/// No task is set aside for longer. As in `strike.lua`.
pub const SET_ASIDE_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::TaskKind;

    #[test]
    fn a_suspect_comes_with_its_kind() {
        let task = Task::new(TaskKind::Job, "a b.js").unwrap();
        let suspect = Suspect { task, reason: "stuck\tfor\n10s".to_owned() };
        let read = Suspect::parse(&suspect.line()).unwrap();
        assert_eq!((read.task, read.reason.as_str()), (suspect.task, "stuck for 10s"));
        for line in ["a.js", "thread", "page\t/a\tx", "endpoint\tno path\tx", ""] {
            assert_eq!(Suspect::parse(line), None, "{line}");
        }
    }

    #[test]
    fn an_instant_further_ahead_than_it_can_be_set_counts_as_passed() {
        let record = PoisonRecord { until_ms: 1_000_000, ..PoisonRecord::default() };
        assert_eq!(record.left(990_000), Some(Duration::from_secs(10)));
        assert_eq!(record.left(1_000_000), None);
        assert_eq!(record.left(399_999), None);
        assert_eq!(PoisonRecord::default().left(5), None);
    }
}

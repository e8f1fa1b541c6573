//! Commands of one lane's scripts to Redis. The lane alone writes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Calls;
use super::histogram::{Histogram, MICROSECOND, MILLISECOND, Timed, add_alone};

const ENDS: &[u64] = &[
    100 * MICROSECOND,
    500 * MICROSECOND,
    MILLISECOND,
    5 * MILLISECOND,
    25 * MILLISECOND,
    100 * MILLISECOND,
    500 * MILLISECOND,
    2_500 * MILLISECOND,
    10_000 * MILLISECOND,
];

/// Which command it was: those that scripts send often have a name of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Get,
    Set,
    Incr,
    Decr,
    Del,
    Exists,
    Hget,
    Llen,
    Lpop,
    Rpop,
    Lpush,
    Rpush,
    Hset,
    Hgetall,
    Expire,
    Zadd,
    Xadd,
    Publish,
    /// `EVAL`, `EVALSHA`, `FCALL` and `HsetFenced`.
    Eval,
    /// Those that wait for an element: how long they took is how long they waited.
    Blocking,
    Other,
}

/// By the order above.
const NAMES: [&str; 21] = [
    "get", "set", "incr", "decr", "del", "exists", "hget", "llen", "lpop", "rpop", "lpush", "rpush", "hset",
    "hgetall", "expire", "zadd", "xadd", "publish", "eval", "blocking", "other",
];

/// How a command was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// With a reply.
    Reply,
    /// With an error.
    Error,
    /// Not at all: in time, or because the connection broke.
    Not,
}

/// What came of the commands of one lane.
pub(crate) struct RedisCalls {
    durations: [Histogram; NAMES.len()],
    errors: [AtomicU64; NAMES.len()],
    unanswered: [AtomicU64; NAMES.len()],
}

impl Command {
    /// `name` is in upper case.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "SET" => Self::Set,
            "INCR" => Self::Incr,
            "DECR" => Self::Decr,
            "DEL" => Self::Del,
            "EXISTS" => Self::Exists,
            "HGET" => Self::Hget,
            "LLEN" => Self::Llen,
            "LPOP" => Self::Lpop,
            "RPOP" => Self::Rpop,
            "LPUSH" => Self::Lpush,
            "RPUSH" => Self::Rpush,
            "HSET" => Self::Hset,
            "HGETALL" => Self::Hgetall,
            "EXPIRE" | "PEXPIRE" => Self::Expire,
            "ZADD" => Self::Zadd,
            "XADD" => Self::Xadd,
            "PUBLISH" => Self::Publish,
            "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" => Self::Eval,
            _ => Self::Other,
        }
    }
}

impl Default for RedisCalls {
    fn default() -> Self {
        Self {
            durations: [const { Histogram::new(ENDS) }; NAMES.len()],
            errors: [const { AtomicU64::new(0) }; NAMES.len()],
            unanswered: [const { AtomicU64::new(0) }; NAMES.len()],
        }
    }
}

impl RedisCalls {
    /// Looks up how long some commands took together.
    pub(crate) fn timed(&self, took: Duration) -> Timed {
        self.durations[0].timed(took)
    }

    /// Counts one of them.
    pub(crate) fn count(&self, command: Command, took: Timed, answered: Answered) {
        let place = command as usize;
        self.durations[place].count_alone(took);
        match answered {
            Answered::Reply => {}
            Answered::Error => add_alone(&self.errors[place], 1),
            Answered::Not => add_alone(&self.unanswered[place], 1),
        }
    }

    /// Counts one that was on its own.
    pub(crate) fn record(&self, command: Command, took: Duration, answered: Answered) {
        self.count(command, self.timed(took), answered);
    }

    pub(super) fn read(&self) -> Vec<Calls> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let each = NAMES.iter().enumerate().map(|(place, name)| {
            let errors =
                vec![("error", count(&self.errors[place])), ("no_answer", count(&self.unanswered[place]))];
            Calls::new(name, self.durations[place].read(), errors)
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_counted_under_its_name() {
        let calls = RedisCalls::default();
        for (place, name) in NAMES.iter().enumerate().filter(|(_, name)| **name != "blocking") {
            let command = Command::of(&name.to_ascii_uppercase());
            assert_eq!(command as usize, place, "{name}");
            calls.record(command, Duration::from_millis(1), Answered::Reply);
        }
        calls.record(Command::Blocking, Duration::from_secs(60), Answered::Not);
        calls.record(Command::of("FLUSHALL"), Duration::from_millis(2), Answered::Error);
        let read = calls.read();
        for calls in &read {
            let count = if calls.what == "other" { 2 } else { 1 };
            assert_eq!(calls.durations.count(), count, "{}", calls.what);
        }
        let errors = |what: &str| read.iter().find(|calls| calls.what == what).unwrap().errors.clone();
        assert_eq!(errors("blocking"), [("error", 0), ("no_answer", 1)]);
        assert_eq!(errors("other"), [("error", 1), ("no_answer", 0)]);
    }
}

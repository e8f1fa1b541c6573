//! What became of the ticks of jobs, and whether the books are right.
//!
//! A job under test writes each of its runs into a list in Redis, `ran:<name>`, as `<tick ms> <attempt>`; the cluster
//! keeps its own books. [`check`] lays the two and the schedule side by side and proves for each job:
//! - no try of a tick ran twice;
//! - every tick of the schedule, from the job's first sight to the last one decided, is in the books exactly once;
//! - the counts add up, and agree with the lines;
//! - what the books say ran has run, and what has run the books know of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock;
use crate::redis::RedisServer;

/// A script that writes down that it has run.
pub const COUNTED: &str = r#"
function main() {
  redis.Call("RPUSH", "ran:" + job.Key, job.Tick.getTime() + " " + job.Attempt);
}
"#;

/// All that is known of the ticks of one job.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// The job.
    pub name: String,
    /// Seconds between its ticks.
    pub step: i64,
    /// A second from which they are counted off.
    pub origin: i64,
    /// Since when ticks are counted, in milliseconds since 1970.
    pub since: i64,
    /// The last tick that was decided.
    pub last: i64,
    /// The counters, by name.
    pub counts: BTreeMap<String, i64>,
    /// The lines of the ledger: first tick, how many, outcome, lateness in milliseconds.
    pub ledger: Vec<(i64, i64, String, i64)>,
    /// Ticks that run.
    pub running: Vec<i64>,
    /// Ticks that wait or are due again.
    pub waiting: Vec<i64>,
    /// What has run: tick and attempt.
    pub ran: Vec<(i64, i64)>,
}

impl Books {
    /// Reads the books of a job whose ticks are `step` seconds apart.
    ///
    /// # Errors
    /// When there are none, or something else.
    pub fn read(redis: &RedisServer, cluster: &str, name: &str, step: i64) -> Result<Self> {
        let fields = redis.hash(&format!("{cluster}:Ticks:{name}"))?;
        let number = |field: &str| -> Result<i64> {
            let text = fields.get(field).map_or("0", String::as_str);
            text.parse().with_context(|| format!("{name}: {field} is {text:?}"))
        };
        let lines = |field: &str| fields.get(field).map_or("", String::as_str).lines();
        let mut books = Self {
            name: name.to_owned(),
            step,
            origin: number("Anchor")?.div_euclid(1000),
            since: number("Since")?,
            last: number("LastTick")?,
            ..Self::default()
        };
        for field in ["Elapsed", "Ran", "Failed", "Skipped", "Missed"] {
            books.counts.insert(field.to_owned(), number(field)?);
        }
        for field in fields.keys().filter(|field| field.starts_with("L:")) {
            for line in lines(field) {
                let words: Vec<&str> = line.split('\t').collect();
                let [tick, ticks, outcome, _, late, ..] = words[..] else { bail!("{name}: {line:?}") };
                books.ledger.push((tick.parse()?, ticks.parse()?, outcome.to_owned(), late.parse()?));
            }
        }
        let tick = |line: &str| -> Result<i64> {
            let tick = line.split('\t').next().unwrap_or_default();
            tick.parse().with_context(|| format!("{name}: {line:?}"))
        };
        books.running =
            lines("Runs").filter(|line| line.contains("\ttick\t")).map(tick).collect::<Result<_>>()?;
        books.waiting = lines("Retries").chain(lines("Pending")).map(tick).collect::<Result<_>>()?;
        let ran = redis.ask(&["LRANGE", &format!("ran:{cluster}:Jobs:{name}"), "0", "-1"])?;
        for entry in ran.texts() {
            let (tick, attempt) = entry.split_once(' ').with_context(|| format!("{name}: {entry:?}"))?;
            books.ran.push((tick.parse()?, attempt.parse()?));
        }
        Ok(books)
    }

    /// The ticks of the schedule that the books are about.
    fn ticks(&self) -> impl Iterator<Item = i64> {
        let (step, origin) = (self.step * 1000, self.origin * 1000);
        let first = (self.since - origin).div_euclid(step) * step + step + origin;
        (first..=self.last).step_by(usize::try_from(step).unwrap_or(usize::MAX))
    }

    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name = &self.name;
        let mut seen = BTreeSet::new();
        for (tick, attempt) in &self.ran {
            if !seen.insert((tick, attempt)) {
                found.push(format!("{name}: try {attempt} of tick {tick} ran twice"));
            }
        }
        let mut decided: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
        for (first, ticks, outcome, _) in &self.ledger {
            for nth in 0..*ticks {
                decided.entry(first + nth * self.step * 1000).or_default().push(outcome);
            }
        }
        for tick in self.running.iter().chain(&self.waiting) {
            decided.entry(*tick).or_default().push("open");
        }
        let mut due = 0;
        for tick in self.ticks() {
            due += 1;
            match decided.remove(&tick).as_deref() {
                None => found.push(format!("{name}: tick {tick} is in no book")),
                Some([_]) => {}
                Some(all) => found.push(format!("{name}: tick {tick} is in the books as {all:?}")),
            }
        }
        for (tick, outcomes) in decided {
            found.push(format!("{name}: {tick} is no tick of it, and is in the books as {outcomes:?}"));
        }
        let of = |field: &str| self.counts.get(field).copied().unwrap_or(0);
        if of("Elapsed") != due {
            found.push(format!("{name}: {due} ticks were due, {} are counted", of("Elapsed")));
        }
        for (field, outcome) in
            [("Ran", "ran"), ("Failed", "failed"), ("Skipped", "skipped"), ("Missed", "missed")]
        {
            let lines = self.ledger.iter().filter(|line| line.2 == outcome);
            let count: i64 = lines.map(|line| line.1).sum();
            if count != of(field) {
                found.push(format!("{name}: {count} {outcome} by the ledger, {} by the count", of(field)));
            }
        }
        let open = i64::try_from(self.running.len() + self.waiting.len()).unwrap_or(i64::MAX);
        let sum = of("Ran") + of("Failed") + of("Skipped") + of("Missed") + open;
        if sum != of("Elapsed") {
            found.push(format!("{name}: {} ticks have elapsed, {sum} are accounted for", of("Elapsed")));
        }
        let ran: BTreeSet<i64> = self.ran.iter().map(|(tick, _)| *tick).collect();
        for (tick, _, outcome, _) in &self.ledger {
            match outcome.as_str() {
                "ran" if !ran.contains(tick) => {
                    found.push(format!("{name}: tick {tick} is said to have run, and has not"));
                }
                "skipped" | "missed" if ran.contains(tick) => {
                    found.push(format!("{name}: tick {tick} is said not to have run, and has"));
                }
                _ => {}
            }
        }
        found
    }
}

/// What checked books contain.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Ticks by outcome.
    pub counts: BTreeMap<String, i64>,
    /// How late those that ran began.
    pub late: Vec<Duration>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?}; late p50 {:?}, p99 {:?}",
            self.counts,
            clock::percentile(&self.late, 0.5),
            clock::percentile(&self.late, 0.99)
        )
    }
}

/// Checks the books of many jobs.
///
/// # Errors
/// With what is wrong, when something is.
pub fn check(all: &[Books]) -> Result<Summary> {
    let found: Vec<String> = all.iter().flat_map(Books::violations).collect();
    if !found.is_empty() {
        let shown: Vec<&String> = found.iter().take(20).collect();
        bail!("{} things are wrong with the ticks:\n{shown:#?}", found.len());
    }
    let mut summary = Summary::default();
    for books in all {
        for (field, count) in &books.counts {
            *summary.counts.entry(field.clone()).or_default() += count;
        }
        let ran = books.ledger.iter().filter(|line| line.2 == "ran");
        summary.late.extend(ran.map(|line| Duration::from_millis(line.3.unsigned_abs())));
    }
    summary.late.sort_unstable();
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten ticks: two missed together, one skipped, one open, the others ran.
    fn books() -> Books {
        let line = |tick: i64, ticks, outcome: &str| (tick * 1000, ticks, outcome.to_owned(), 1);
        let mut ledger = vec![line(103, 2, "missed"), line(106, 1, "skipped")];
        ledger.extend([101, 102, 105, 107, 108, 109].map(|tick| line(tick, 1, "ran")));
        let counts = [("Elapsed", 10), ("Ran", 6), ("Failed", 0), ("Skipped", 1), ("Missed", 2)];
        Books {
            name: "j".to_owned(),
            step: 1,
            origin: 0,
            since: 100_400,
            last: 110_000,
            counts: counts.map(|(field, count)| (field.to_owned(), count)).into(),
            ledger,
            running: vec![110_000],
            waiting: Vec::new(),
            ran: [101, 102, 105, 107, 108, 109, 110].map(|tick| (tick * 1000, 1)).to_vec(),
        }
    }

    fn wrong(change: impl FnOnce(&mut Books)) -> String {
        let mut books = books();
        change(&mut books);
        check(&[books]).unwrap_err().to_string()
    }

    #[test]
    fn right_books_pass() {
        assert_eq!(check(&[books()]).unwrap().counts["Missed"], 2);
    }

    #[test]
    fn a_double_grant_is_found() {
        assert!(wrong(|books| books.ran.push((105_000, 1))).contains("ran twice"));
        let twice = wrong(|books| books.ledger.push((105_000, 1, "ran".to_owned(), 1)));
        assert!(twice.contains("in the books as"), "{twice}");
    }

    #[test]
    fn a_lost_tick_is_found() {
        let lost = wrong(|books| books.ledger.retain(|line| line.0 != 105_000));
        assert!(lost.contains("tick 105000 is in no book"), "{lost}");
        // Also where the counts have forgotten it as well.
        let lost = wrong(|books| {
            books.ledger.retain(|line| line.0 != 105_000);
            books.counts.extend([("Elapsed".to_owned(), 9), ("Ran".to_owned(), 5)]);
        });
        assert!(lost.contains("10 ticks were due, 9 are counted"), "{lost}");
    }

    #[test]
    fn a_run_that_the_books_do_not_know_is_found() {
        assert!(wrong(|books| books.ran.push((103_000, 1))).contains("said not to have run"));
        assert!(wrong(|books| books.ran.retain(|ran| ran.0 != 108_000)).contains("said to have run"));
        assert!(wrong(|books| books.last = 109_000).contains("is no tick of it"));
    }
}

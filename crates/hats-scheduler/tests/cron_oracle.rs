//! Ticks compared with croniter's, a well-known implementation in Python: more than 300 expressions in seven zones over
//! three years, changes of the clock included.
//!
//! `cron_oracle/oracle.py` answers two questions. Which instants are due by our own rule, from croniter's matching and
//! Python's zones: there every instant must be the same. And which ones croniter itself takes where clocks change: there
//! each difference must be one of [`Decision`].
//!
//! It needs Python and, the first time, PyPI; where they cannot be had it says so on standard error and ends.

#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use hats_scheduler::cron::{Schedule, UnixSeconds};

const PACKAGES: [&str; 2] = ["croniter==7.0.0", "tzdata==2026.6"];

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Africa/Casablanca",
];

/// Times of day, of each kind: every one with every day below.
const TIMES: [&str; 15] = [
    "0 0",
    "30 2",
    "15 1",
    "0 0,12",
    "45 1-3",
    "10/20 2",
    "0 0-23",
    "59 23",
    "5 */6",
    "0 *",
    "30 *",
    "*/20 *",
    "17 1/5",
    "*/30 0-4/2",
    "1,31 */3",
];

/// Days as `day-of-month month day-of-week`.
const DAYS: [&str; 19] = [
    "* * *",
    "1 * *",
    "31 * *",
    "L * *",
    "15W * *",
    "*/7 * *",
    "1-7 * *",
    "29 2 *",
    "* 3,10 *",
    "* APR-SEP/2 *",
    "* * 0",
    "* * 7",
    "* * MON-FRI",
    "* * SAT,SUN",
    "* * SUN#2",
    "* * SUN#L",
    "13 * FRI",
    "*/2 * 1",
    "1-7 * +SUN",
];

/// What the two lists do not have.
const OTHERS: [&str; 44] = [
    "* * * * *",
    "* * * * * *",
    "*/5 * * * *",
    "*/7 * * * *",
    "* 2 * * *",
    "* 1-3 * * *",
    "0,30 0,1,2,3 * * *",
    "*/10 * * * * *",
    "30 30 2 * * *",
    "*/15 0 2 * * *",
    "0 */15 2 * * *",
    "59 59 23 * * *",
    "59 59 23 31 12 *",
    "0 0 0 1 1 ?",
    "0 0 ? * MON",
    "5/10 * * * *",
    "50/5 9-17 * * 1-5",
    "20-35/15 * * * *",
    "0 22 * * 1-5",
    "23 0-20/2 * * *",
    "5 4 * * sun",
    "0 4 8-14 * *",
    "14,44 9 * 3 WED",
    "0 0 1,15 * 3",
    "30 4 1,15 * 5",
    "0 0 * * 5L",
    "0 0 * * 1#1",
    "0 0 * * FRI#5",
    "0 0 L 2 *",
    "0 0 30 * *",
    "0 0 1W * *",
    "0 0 LW * *",
    "0 0 31W * *",
    "0 12 L,15 * *",
    "0 0 * * 3/2",
    "0 0 * * */3",
    "0 0 * * 5-7",
    "0 0 * * FRI-SUN",
    "0 0 29 2 +SAT",
    "0 3 25-31 3,10 +SUN",
    "@hourly",
    "@daily",
    "@weekly",
    "@monthly",
];

/// Where we answer otherwise than croniter, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Decision {
    /// It runs schedules of local times in both halves of a repeated hour. Ours names a time of day, and a day has it
    /// once: a nightly job runs once a night.
    LocalTimesAreOnce,
    /// It takes `0-23` for `*`, and has no tick at the end of a gap for it. Ours names local times unless the hour begins
    /// with `*`, and those in a gap are due at its end.
    LocalTimesAreCaughtUp,
    /// It keeps the second of a schedule at the end of a gap. Ours is due at the first instant after it.
    GapsEndAtOnce,
    /// It runs schedules with a stepped hour at the end of a gap. Ours follows real time when the hour begins with `*`:
    /// nothing is late, so nothing is caught up.
    RealTimeIsNotCaughtUp,
    /// It loses ticks in the second half of a repetition that is shorter than an hour. Ours has every instant at which
    /// the clock shows a matching time.
    RealTimeRepeatsAll,
}

/// Expressions that croniter does not take, or takes otherwise away from changes of the clock, and why. They are checked
/// by the table and the property tests of the module.
const APART: [(&str, &str); 2] = [
    ("0 0 LW * *", "croniter has no LW"),
    (
        "0 0 31W * *",
        "croniter takes the last day of a shorter month for the 31st; a month without it has no nearest day",
    ),
];

#[test]
fn ticks_are_those_of_croniter() {
    let Some(python) = environment() else { return };
    let expressions = expressions();
    assert!(expressions.len() >= 300, "{}", expressions.len());
    let mut questions = Vec::new();
    for expression in &expressions {
        for zone in ZONES {
            questions.push((expression.as_str(), zone, Schedule::parse(expression, Some(zone)).unwrap()));
        }
    }

    let mut compared: u64 = 0;
    let mut wrong = Vec::new();
    let mut apart = BTreeSet::new();
    let mut decisions: BTreeMap<Decision, u64> = BTreeMap::new();
    for answer in ask(&python, &questions).lines() {
        let parts: Vec<&str> = answer.split('\t').collect();
        let (expression, zone, schedule) = &questions[parts[0].parse::<usize>().unwrap()];
        let known_apart = APART.iter().any(|(other, _)| other == expression);
        if parts[1] == "error" {
            apart.insert(*expression);
            if !known_apart {
                wrong.push(format!("{expression}: {}", parts[2]));
            }
            continue;
        }
        let [after, through] = [parts[2], parts[3]].map(|at| UnixSeconds::new(at.parse().unwrap()));
        let theirs: BTreeSet<_> =
            parts[4].split_whitespace().map(|at| UnixSeconds::new(at.parse().unwrap())).collect();
        let ours: BTreeSet<_> = schedule.ticks(after, through).collect();
        compared += ours.len() as u64;
        for tick in ours.symmetric_difference(&theirs) {
            let is_ours = ours.contains(tick);
            match decision(schedule, *tick, is_ours).filter(|_| parts[1] == "croniter") {
                Some(decision) => *decisions.entry(decision).or_default() += 1,
                None if known_apart => {
                    apart.insert(*expression);
                }
                None => {
                    let whose = if is_ours { "ours" } else { "theirs" };
                    let local = schedule.local_time(*tick);
                    wrong.push(format!("{expression} {zone}: {local} only {whose} ({})", parts[1]));
                }
            }
        }
    }

    say(&format!(
        "{} expressions in {} zones: {compared} ticks compared; {decisions:?}",
        expressions.len(),
        ZONES.len()
    ));
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    assert!(compared > 100_000, "only {compared} ticks were compared");
    assert_eq!(decisions.len(), 5, "{decisions:?}");
    // What is listed as different is different.
    assert_eq!(apart, APART.iter().map(|(expression, _)| *expression).collect());
}

/// Why only one of us has a tick.
fn decision(schedule: &Schedule, tick: UnixSeconds, is_ours: bool) -> Option<Decision> {
    let shown = |at: UnixSeconds| schedule.local_time(at)[..19].to_owned();
    let offset = |at: UnixSeconds| schedule.local_time(at)[19..].to_owned();
    let before = UnixSeconds::new(tick.get() - 1);
    let after_gap = offset(before) != offset(tick) && shown(before) < shown(tick);
    let minute = UnixSeconds::new(tick.get() - tick.get() % 60);
    let within_first_minute = schedule.next_after(UnixSeconds::new(minute.get() - 1)) == Some(minute);
    // No repetition in these zones is longer.
    let is_repeated = (1..=60).any(|minutes| {
        let earlier = UnixSeconds::new(tick.get() - minutes * 60);
        offset(earlier) != offset(tick) && shown(earlier) == shown(tick)
    });
    let follows_real_time = schedule.digest().split(' ').nth(2).unwrap().starts_with('*');
    match (follows_real_time, is_ours) {
        (false, false) if is_repeated => Some(Decision::LocalTimesAreOnce),
        (false, false) if within_first_minute => Some(Decision::GapsEndAtOnce),
        (false, true) if after_gap => Some(Decision::LocalTimesAreCaughtUp),
        (true, false) if after_gap => Some(Decision::RealTimeIsNotCaughtUp),
        (true, true) if is_repeated => Some(Decision::RealTimeRepeatsAll),
        _ => None,
    }
}

fn expressions() -> Vec<String> {
    let combined = TIMES.iter().flat_map(|time| DAYS.map(|days| format!("{time} {days}")));
    combined.chain(OTHERS.map(str::to_owned)).collect()
}

/// The expression as croniter writes it, and how it joins the days.
fn for_croniter(expression: &str) -> (String, &'static str) {
    let last = |day: &str| {
        let day = day.strip_suffix("#L").or_else(|| day.strip_suffix('L').filter(|day| !day.is_empty()));
        let number = |day| match day {
            "SUN" => "0",
            "FRI" => "5",
            other => other,
        };
        day.map(|day| format!("L{}", number(day)))
    };
    let Some((others, day)) = expression.rsplit_once(' ') else {
        // Its own words begin with an hour that it has to be told.
        let fields = match expression {
            "@hourly" => "0 * * * *",
            "@daily" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            other => panic!("{other}"),
        };
        return (fields.to_owned(), "or");
    };
    let (day, join) = day.strip_prefix('+').map_or((day, "or"), |day| (day, "and"));
    (format!("{others} {}", last(day).unwrap_or_else(|| day.to_owned())), join)
}

/// What the script answers to all questions.
fn ask(python: &Path, questions: &[(&str, &str, Schedule)]) -> String {
    let mut script = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cron_oracle/oracle.py"))
        // The zones of the package, whatever the machine has.
        .env("PYTHONTZPATH", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = String::new();
    for (number, (expression, zone, _)) in questions.iter().enumerate() {
        let (expression, join) = for_croniter(expression);
        input.push_str(&format!("{number}\t{expression}\t{join}\t{zone}\n"));
    }
    let mut stdin = script.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = script.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "the script failed");
    String::from_utf8(output.stdout).unwrap()
}

/// A Python that has the packages, made once below the target folder; none where it cannot be had.
fn environment() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cron-oracle");
    let python = folder.join("bin/python");
    let imports = "import sys, croniter, tzdata; sys.exit(sys.version_info < (3, 9))";
    if run(&python, &["-c", imports]) {
        return Some(python);
    }
    let folder = folder.to_str().expect("the target folder has a name in UTF-8");
    let made = run("python3", &["-m", "venv", "--clear", folder])
        && run(&python, &["-m", "pip", "install", "--quiet", PACKAGES[0], PACKAGES[1]])
        && run(&python, &["-c", imports]);
    if !made {
        say("skipped: this comparison needs python3 (3.9 or newer) with venv, and PyPI the first time");
    }
    made.then_some(python)
}

fn run(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    let silent = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent.is_ok_and(|status| status.success())
}

/// To standard error itself: what a passing test prints is not shown.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "cron_oracle: {text}");
}

//! `hats-worker job …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use hats_core::Error;
use hats_core::config::AdminConfig;
use hats_core::jobs::{
    HistoryEntry, JobOptions, JobRow, Jobs, LedgerEntry, Preview, PutOutcome, TickCounts, TickOutcome,
    TicksBook, instant, next_tick_ms, preview,
};
use serde_json::{Value, json};

use super::{LimitArgs, Output, columns, plain, print, push_lines, put_word, read_source, short, to_json};

/// How many runs a job that was put shows in advance.
const RUNS_SHOWN: usize = 5;

/// What can be done to jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a script with its schedule, or change one; the workers of the cluster run it
    Put(Box<PutArgs>),
    /// Show all jobs
    List(Output),
    /// Show one job, with its source
    Show(One),
    /// Show its last runs, the newest first, with what they logged
    History(Last),
    /// Show what became of its ticks: counts, and the last of them one by one
    Ticks(Last),
    /// Let a job run on its schedule
    Enable(One),
    /// Let a job run no more, until it is enabled; a run that has begun is asked to stop
    Disable(One),
    /// Run a job once, now, beside its schedule; a disabled one too
    Run(RunArgs),
    /// Remove a job; a run that has begun is asked to stop
    Remove(One),
    /// Show what a schedule says and when it is due; needs no Redis
    Next(NextArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Name of the job
    name: String,
    /// File with the script, - for standard input. What it says in the comment it begins with (// cron: */5 * * * *)
    /// holds unless a flag says otherwise
    file: String,
    /// When it runs: five fields (minute hour day-of-month month day-of-week), six with a second before them, @daily and
    /// the like, or @every 90s
    #[arg(long, value_name = "CRON")]
    cron: Option<String>,
    /// Time zone of the schedule, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// When a run has not ended at the next tick: forbid (skip that tick), buffer (one waits), allow (run beside it) or
    /// replace (stop the old run) [default: forbid]
    #[arg(long, value_name = "POLICY")]
    overlap: Option<String>,
    /// Ticks that nobody asked for in time: once (run the newest), skip or all [default: once]
    #[arg(long, value_name = "POLICY")]
    misfire: Option<String>,
    /// Older ticks are not made up for [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    misfire_seconds: Option<String>,
    /// Delays each tick by up to this [default: 0]
    #[arg(long, value_name = "SECONDS")]
    jitter: Option<String>,
    /// Time of one run [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    /// How often a failed run is tried again, after a pause that grows [default: 0]
    #[arg(long, value_name = "N")]
    retries: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Register it disabled, or disable it
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Name of the job
    name: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Last {
    /// Name of the job
    name: String,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    count: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the job
    name: String,
    /// Wait for its end and show the result; the exit code is 1 if it has failed
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct NextArgs {
    /// Five fields (minute hour day-of-month month day-of-week), six with a second before them, @daily and the like,
    /// or @every 90s
    cron: String,
    /// Time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// How many runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Only runs after this time, such as 2026-03-29T01:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Command {
    pub(super) async fn run(&self, config: &AdminConfig) -> Result<(), Error> {
        if let Self::Put(put) = self {
            return put.run(config).await;
        }
        let jobs = Jobs::connect(config).await?;
        match self {
            Self::Put(_) | Self::Next(_) => Ok(()),
            Self::List(output) => {
                let rows = jobs.list().await?;
                output.print(|| rows.iter().map(row_json).collect(), || table(&rows))
            }
            Self::Show(one) => {
                let row = jobs.show(&one.name).await?;
                one.output.print(|| row_json(&row), || details(&row))
            }
            Self::History(last) => {
                let mut runs = jobs.book(&last.name).await?.history;
                runs.truncate(last.count);
                last.output.print(|| to_json(&runs), || runs.iter().map(run_text).collect())
            }
            Self::Ticks(last) => {
                let mut book = jobs.book(&last.name).await?;
                book.ledger.truncate(last.count);
                last.output.print(|| book_json(&last.name, &book), || book_text(&book))
            }
            Self::Enable(one) => one.done(jobs.enable(&one.name).await, "enabled"),
            Self::Disable(one) => one.done(jobs.disable(&one.name).await, "disabled"),
            Self::Remove(one) => one.done(jobs.remove(&one.name).await, "removed"),
            Self::Run(run) => run.run(&jobs).await,
        }
    }
}

impl PutArgs {
    async fn run(&self, config: &AdminConfig) -> Result<(), Error> {
        // The file first: what is wrong with it does not need Redis to be told. So with a schedule.
        let source = read_source(&self.file)?;
        let options = self.options().or(JobOptions::of_script(&source.main, &self.file)?);
        let upcoming = |cron: &str| preview(cron, options.tz.as_deref(), None, RUNS_SHOWN);
        let preview = options.cron.as_deref().map(upcoming).transpose()?;
        let jobs = Jobs::connect(config).await?;
        let outcome = jobs.put(&self.name, source, &options).await?;
        self.output.print(
            || put_json(&self.name, outcome, preview.as_ref()),
            || put_text(&self.name, outcome, preview.as_ref()),
        )
    }

    fn options(&self) -> JobOptions {
        JobOptions {
            disabled: self.disabled,
            cron: self.cron.clone(),
            tz: self.tz.clone(),
            overlap: self.overlap.clone(),
            misfire: self.misfire.clone(),
            misfire_seconds: self.misfire_seconds.clone(),
            jitter: self.jitter.clone(),
            timeout: self.timeout.clone(),
            retries: self.retries.clone(),
            memory_limit: self.limits.memory_limit.clone(),
            stack_limit: self.limits.stack_limit.clone(),
            call_timeout: self.limits.call_timeout.clone(),
            source_limit: self.limits.source_limit.clone(),
            http_body_limit: self.limits.http_body_limit.clone(),
            log_line_limit: self.limits.log_line_limit.clone(),
        }
    }
}

impl One {
    fn done(&self, outcome: Result<(), Error>, what: &str) -> Result<(), Error> {
        outcome?;
        self.output.done("name", &self.name, what)
    }
}

impl RunArgs {
    async fn run(&self, jobs: &Jobs) -> Result<(), Error> {
        let asked = jobs.run(&self.name).await?;
        if !self.wait {
            return self.output.print(
                || json!({ "name": self.name, "outcome": "asked to run" }),
                || format!("{}: asked to run\n", plain(&self.name, false)),
            );
        }
        let run = jobs.wait(asked).await?;
        self.output.print(|| to_json(&run), || run_text(&run))?;
        match run.outcome {
            TickOutcome::Ran => Ok(()),
            _ => Err(Error::Failed(format!(
                "{}: the run has failed: {}",
                plain(&self.name, false),
                short(&run.why)
            ))),
        }
    }
}

impl NextArgs {
    pub(super) fn run(&self) -> Result<(), Error> {
        let preview = preview(&self.cron, self.tz.as_deref(), self.from.as_deref(), self.count.into())?;
        if self.output.json {
            print(&format!("{:#}\n", as_json(&preview)))
        } else {
            print(&plain(&as_text(&preview), true))
        }
    }
}

fn put_json(name: &str, outcome: PutOutcome, preview: Option<&Preview>) -> Value {
    json!({
        "name": name,
        "outcome": put_word(outcome),
        "disabled": outcome.disabled,
        "schedule": preview.map(as_json),
    })
}

fn put_text(name: &str, outcome: PutOutcome, preview: Option<&Preview>) -> String {
    let disabled = if outcome.disabled { " (disabled: it does not run until it is enabled)" } else { "" };
    let mut text = format!("{}: {}{disabled}\n", plain(name, false), put_word(outcome));
    if let Some(preview) = preview {
        text.push_str(&plain(&as_text(preview), true));
    }
    text
}

fn row_json(row: &JobRow) -> Value {
    let mut value = to_json(row);
    if let Value::Object(fields) = &mut value {
        fields.insert("next_tick_ms".to_owned(), next_tick_ms(row).into());
    }
    value
}

/// One line per job.
fn table(rows: &[JobRow]) -> String {
    let head = ["NAME", "STATUS", "STATE", "SCHEDULE", "NEXT", "RAN", "FAILED", "SKIPPED", "MISSED", "ERROR"];
    let mut cells = vec![head.map(str::to_owned)];
    for row in rows {
        cells.push([
            plain(&row.name, false),
            row.status.to_owned(),
            row.state.to_owned(),
            schedule(row),
            next(row),
            row.counts.ran.to_string(),
            row.counts.failed.to_string(),
            row.counts.skipped.to_string(),
            row.counts.missed.to_string(),
            short(row.error.as_deref().unwrap_or_default()),
        ]);
    }
    columns(&cells)
}

fn schedule(row: &JobRow) -> String {
    let cron = plain(row.cron.as_deref().unwrap_or("-"), false);
    match &row.tz {
        Some(tz) => format!("{cron} ({})", plain(tz, false)),
        None => cron,
    }
}

fn next(row: &JobRow) -> String {
    next_tick_ms(row).map_or_else(|| "-".to_owned(), instant)
}

fn details(row: &JobRow) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<16}{value}\n"));
    line("Name", &plain(&row.name, false));
    line("Status", row.status);
    line("State", row.state);
    line("Cron", &schedule(row));
    line("Next", &next(row));
    if let Some(poison) = &row.poison {
        line("Poison", &plain(&poison.to_string(), false));
    }
    if let Some(last) = row.last_tick_ms {
        line("LastTick", &instant(last));
    }
    let seconds = [
        ("MisfireSeconds", row.misfire_seconds),
        ("Jitter", row.jitter_seconds.filter(|seconds| *seconds > 0)),
        ("Timeout", row.timeout_seconds),
    ];
    if let (Some(overlap), Some(misfire)) = (row.overlap, row.misfire) {
        line("Overlap", overlap);
        line("Misfire", misfire);
    }
    for (name, seconds) in seconds {
        if let Some(seconds) = seconds {
            line(name, &format!("{seconds} s"));
        }
    }
    if let Some(retries) = row.retries {
        line("Retries", &retries.to_string());
    }
    for run in &row.runs {
        let what = if run.manual { "by hand" } else { "tick" };
        let how = match (run.alive, run.cancelled) {
            (false, _) => ", its worker is gone",
            (true, true) => ", asked to stop",
            (true, false) => "",
        };
        let (tick, attempt, worker) = (instant(run.tick_ms), run.attempt, plain(&run.worker, false));
        line("Running", &format!("{what} {tick}, attempt {attempt}, on {worker}, epoch {}{how}", run.epoch));
    }
    for again in &row.due_again {
        let (tick, at) = (instant(again.tick_ms), instant(again.at_ms));
        line("Again", &format!("tick {tick}, attempt {} at {at}", again.attempt));
    }
    if let Some(pending) = row.pending_ms {
        line("Waiting", &format!("tick {}", instant(pending)));
    }
    line("Ticks", &counts_text(row.counts));
    if let Some(error) = &row.error {
        line("Error", &plain(row.error_time.as_deref().unwrap_or_default(), false));
        for error_line in plain(error, true).lines() {
            text.push_str(&format!("  {error_line}\n"));
        }
    }
    if let Some(source) = &row.source {
        text.push_str(&format!("{:<16}{} bytes\n", "Source", source.len()));
        push_lines(&mut text, source);
    }
    for (path, module) in &row.modules {
        text.push_str(&format!("{:<16}{}, {} bytes\n", "Module", plain(path, false), module.len()));
        push_lines(&mut text, module);
    }
    text
}

fn counts_text(counts: TickCounts) -> String {
    let TickCounts { elapsed, ran, failed, skipped, missed, pending, running } = counts;
    format!(
        "{elapsed} elapsed = {ran} ran + {failed} failed + {skipped} skipped + {missed} missed + {pending} pending + \
         {running} running"
    )
}

/// A run that has ended: a line, what came of it, and what it logged.
fn run_text(run: &HistoryEntry) -> String {
    let what = if run.manual { "by hand" } else { "tick" };
    let late = if run.manual { String::new() } else { format!(", {} late", millis(run.late_ms)) };
    let attempt = if run.attempt > 1 { format!(", attempt {}", run.attempt) } else { String::new() };
    let mut text = format!(
        "{what} {}: {}{late}, took {}, on {}{attempt}, epoch {}\n",
        instant(run.tick_ms),
        run.outcome.as_str(),
        millis(run.took_ms),
        plain(&run.worker, false),
        run.epoch
    );
    let mut block = |name: &str, content: &str| {
        for (nth, line) in plain(content, true).lines().enumerate() {
            let name = if nth == 0 { name } else { "" };
            text.push_str(&format!("  {name:<8}{line}\n"));
        }
    };
    block("why", &run.why);
    if let Some(again) = run.again_ms {
        block("again", &format!("after {}", millis(again)));
    }
    block("result", run.result.as_deref().unwrap_or_default());
    for (nth, line) in run.log.iter().enumerate() {
        block(if nth == 0 { "log" } else { "" }, line);
    }
    text
}

fn book_json(name: &str, book: &TicksBook) -> Value {
    let record = &book.record;
    let running: Vec<i64> = record.runs.iter().filter(|run| !run.manual).map(|run| run.tick_ms).collect();
    let again = record.retries.iter().map(|again| again.tick_ms);
    let pending: Vec<i64> = again.chain(record.pending_ms).collect();
    json!({
        "name": name,
        "since_ms": book.since_ms,
        "last_tick_ms": record.last_ms,
        "counts": book.counts,
        "running_ms": running,
        "pending_ms": pending,
        "ledger": to_json(&book.ledger),
    })
}

fn book_text(book: &TicksBook) -> String {
    let Some(since) = book.since_ms else { return "no worker has seen it yet\n".to_owned() };
    let mut text = format!("since {}: {}\n", instant(since), counts_text(book.counts));
    let mut cells = vec![["TICK", "OUTCOME", "LATE", "TOOK", "ATTEMPT", "WORKER", "WHY"].map(str::to_owned)];
    let running = book.record.runs.iter().filter(|run| !run.manual).map(|run| (run.tick_ms, "running"));
    let again = book.record.retries.iter().map(|again| (again.tick_ms, "pending"));
    let pending = book.record.pending_ms.map(|tick| (tick, "pending"));
    for (tick, state) in pending.into_iter().chain(running).chain(again) {
        let [late, took, attempt, worker, why] = std::array::from_fn(|_| String::new());
        cells.push([instant(tick), state.to_owned(), late, took, attempt, worker, why]);
    }
    cells.extend(book.ledger.iter().map(ledger_cells));
    text.push_str(&columns(&cells));
    text
}

fn ledger_cells(entry: &LedgerEntry) -> [String; 7] {
    let has_run = entry.attempt > 0;
    let only = |text: String| if has_run { text } else { "-".to_owned() };
    let tick = instant(entry.tick_ms);
    [
        if entry.ticks > 1 { format!("{tick} and {} more", entry.ticks - 1) } else { tick },
        entry.outcome.as_str().to_owned(),
        only(millis(entry.late_ms)),
        only(millis(entry.took_ms)),
        only(entry.attempt.to_string()),
        only(plain(&entry.worker, false)),
        short(&entry.why),
    ]
}

fn millis(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { format!("{:?}", Duration::from_millis(ms)) }
}

fn as_json(preview: &Preview) -> Value {
    let runs: Vec<Value> =
        preview.runs.iter().map(|run| json!({ "utc": run.utc, "local": run.local })).collect();
    json!({ "sentence": preview.sentence, "zone": preview.zone, "next": runs, "note": preview.note })
}

fn as_text(preview: &Preview) -> String {
    let mut text = format!("{}\n", preview.sentence);
    // A zone that shows the same everywhere needs no column.
    let zone = preview.zone.as_deref().filter(|zone| *zone != "UTC");
    let width = preview.runs.iter().map(|run| run.utc.len()).max().unwrap_or_default();
    if let Some(zone) = zone {
        text.push_str(&format!("{:width$}  {zone}\n", "UTC"));
    }
    for run in &preview.runs {
        match zone {
            Some(_) => text.push_str(&format!("{:width$}  {}\n", run.utc, run.local)),
            None => text.push_str(&format!("{}\n", run.utc)),
        }
    }
    if let Some(note) = &preview.note {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use hats_core::jobs::JobRun;

    use super::*;

    const FROM: Option<&str> = Some("2026-03-28T12:00:00Z");

    fn row(name: &str) -> JobRow {
        JobRow {
            name: name.to_owned(),
            status: "enabled",
            state: "stopped",
            cron: Some("@every 1h".to_owned()),
            tz: None,
            overlap: Some("forbid"),
            misfire: Some("once"),
            misfire_seconds: Some(3600),
            jitter_seconds: Some(0),
            timeout_seconds: Some(60),
            retries: Some(2),
            last_tick_ms: Some(1_774_699_200_000),
            anchor_ms: None,
            pending_ms: None,
            runs: Vec::new(),
            due_again: Vec::new(),
            poison: None,
            counts: TickCounts { elapsed: 5, ran: 3, failed: 1, skipped: 1, ..TickCounts::default() },
            error: None,
            error_time: None,
            source_bytes: Some(4),
            source: None,
            modules: Default::default(),
        }
    }

    #[test]
    fn jobs_are_a_table() {
        let crashed = JobRow {
            status: "disabled",
            state: "crashed",
            cron: Some("30 4 * * *".to_owned()),
            tz: Some("Europe/Berlin".to_owned()),
            error: Some("Error: \u{1b}[31mno\n    at main (b.js:1)".to_owned()),
            ..row("b.js")
        };
        let expected = "\
NAME          STATUS    STATE    SCHEDULE                    NEXT  RAN  FAILED  SKIPPED  MISSED  ERROR
long/name.js  enabled   stopped  @every 1h                   -     3    1       1        0
b.js          disabled  crashed  30 4 * * * (Europe/Berlin)  -     3    1       1        0       Error: \\u{1b}[31mno
";
        assert_eq!(table(&[row("long/name.js"), crashed]), expected);
    }

    #[test]
    fn one_job_is_shown_with_what_runs() {
        let run = JobRun {
            tick_ms: 1_774_699_200_000,
            manual: false,
            worker: "brave\u{7}".to_owned(),
            attempt: 2,
            epoch: 7,
            started_ms: 1_774_699_200_004,
            cancelled: true,
            alive: true,
        };
        let row = JobRow { runs: vec![run], source: Some("main".to_owned()), ..row("a.js") };
        let expected = "\
Name            a.js
Status          enabled
State           stopped
Cron            @every 1h
Next            -
LastTick        2026-03-28T12:00:00Z
Overlap         forbid
Misfire         once
MisfireSeconds  3600 s
Timeout         60 s
Retries         2
Running         tick 2026-03-28T12:00:00Z, attempt 2, on brave\\u{7}, epoch 7, asked to stop
Ticks           5 elapsed = 3 ran + 1 failed + 1 skipped + 0 missed + 0 pending + 0 running
Source          4 bytes
main
";
        assert_eq!(details(&row), expected);
    }

    #[test]
    fn a_run_is_shown_with_what_it_said() {
        let run = HistoryEntry {
            tick_ms: 1_774_699_200_000,
            manual: false,
            attempt: 2,
            epoch: 7,
            started_ms: 1_774_699_200_004,
            ended_ms: 1_774_699_201_504,
            outcome: TickOutcome::Failed,
            again_ms: Some(2000),
            late_ms: 4,
            took_ms: 1500,
            worker: "w".to_owned(),
            why: "Error: no\n    at main".to_owned(),
            result: None,
            log: vec!["one".to_owned(), "\u{1b}[2Jtwo".to_owned()],
        };
        let expected = "\
tick 2026-03-28T12:00:00Z: failed, 4ms late, took 1.5s, on w, attempt 2, epoch 7
  why     Error: no
              at main
  again   after 2s
  log     one
          \\u{1b}[2Jtwo
";
        assert_eq!(run_text(&run), expected);
        let run = HistoryEntry {
            manual: true,
            attempt: 1,
            outcome: TickOutcome::Ran,
            again_ms: None,
            why: String::new(),
            result: Some("42".to_owned()),
            log: Vec::new(),
            ..run
        };
        let expected = "by hand 2026-03-28T12:00:00Z: ran, took 1.5s, on w, epoch 7\n  result  42\n";
        assert_eq!(run_text(&run), expected);
    }

    #[test]
    fn the_ledger_accounts_for_each_tick() {
        let entry = |tick_ms, ticks, outcome, attempt, why: &str| LedgerEntry {
            tick_ms,
            ticks,
            outcome,
            attempt,
            late_ms: 4,
            took_ms: 20,
            at_ms: tick_ms,
            worker: "w".to_owned(),
            why: why.to_owned(),
        };
        let mut book = TicksBook {
            since_ms: Some(1_774_699_100_000),
            counts: TickCounts { elapsed: 5, ran: 1, missed: 3, pending: 1, ..TickCounts::default() },
            ledger: vec![
                entry(1_774_699_204_000, 1, TickOutcome::Ran, 1, ""),
                entry(1_774_699_201_000, 3, TickOutcome::Missed, 0, "nobody asked"),
            ],
            ..TicksBook::default()
        };
        book.record.pending_ms = Some(1_774_699_205_000);
        let expected = "\
since 2026-03-28T11:58:20Z: 5 elapsed = 1 ran + 0 failed + 0 skipped + 3 missed + 1 pending + 0 running
TICK                             OUTCOME  LATE  TOOK  ATTEMPT  WORKER  WHY
2026-03-28T12:00:05Z             pending
2026-03-28T12:00:04Z             ran      4ms   20ms  1        w
2026-03-28T12:00:01Z and 2 more  missed   -     -     -        -       nobody asked
";
        assert_eq!(book_text(&book), expected);
        let json = book_json("j", &book);
        assert_eq!((&json["counts"]["missed"], &json["ledger"][1]["ticks"]), (&json!(3), &json!(3)));
        assert_eq!(json["pending_ms"], json!([1_774_699_205_000_i64]));
        assert_eq!(book_text(&TicksBook::default()), "no worker has seen it yet\n");
    }

    #[test]
    fn both_times_are_shown_where_they_differ() {
        let text = as_text(&preview("0 30 2 * * *", Some("europe/berlin"), FROM, 2).unwrap());
        let expected = "\
at 02:30, Europe/Berlin time
UTC                   Europe/Berlin
2026-03-29T01:00:00Z  2026-03-29T03:00:00+02:00
2026-03-30T00:30:00Z  2026-03-30T02:30:00+02:00
";
        assert_eq!(text, expected);
        let text = as_text(&preview("@every 1h", None, FROM, 2).unwrap());
        assert_eq!(text, "every hour\n2026-03-28T13:00:00Z\n2026-03-28T14:00:00Z\n");
    }

    #[test]
    fn five_fields_have_a_note() {
        let text = as_text(&preview("30 2 * * *", None, FROM, 1).unwrap());
        assert!(
            text.starts_with("at 02:30, UTC time\n2026-03-29T02:30:00Z\nnote: workers of 2020 "),
            "{text}"
        );
    }
}

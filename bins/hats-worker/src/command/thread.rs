//! `hats-worker thread …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use hats_core::Error;
use hats_core::admin::{PutOptions, PutOutcome, ThreadRow, Threads};
use hats_core::config::AdminConfig;
use serde_json::{Value, json};

use super::{LimitArgs, Output, columns, plain, push_lines, put_word, read_source, short, to_json};

/// What can be done to threads.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a script, or change one; a worker of the cluster starts it
    Put(Box<PutArgs>),
    /// Show all threads
    List(Output),
    /// Show one thread, with its source
    Show(One),
    /// Let a thread run; ends its crash back-off
    Enable(One),
    /// Stop a thread in the whole cluster, until it is enabled
    Disable(One),
    /// Restart a thread where it runs; ends its crash back-off where it does not
    Restart(One),
    /// Stop a thread and remove it
    Remove(One),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Name of the thread
    name: String,
    /// File with the script, - for standard input
    file: String,
    /// Register it disabled, or disable it
    #[arg(long)]
    disabled: bool,
    /// Between two calls of main(): a number counts milliseconds; 100ms and 2s mean what they say
    #[arg(long, value_name = "MS")]
    hang: Option<String>,
    /// After a crash: on-failure (again after a pause) or never (disable it)
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// What a worker must offer (--labels) to run it: gpu,zone=eu
    #[arg(long, value_name = "L,L")]
    requires: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Name of the thread
    name: String,
    #[command(flatten)]
    output: Output,
}

impl Command {
    pub(super) async fn run(&self, config: &AdminConfig) -> Result<(), Error> {
        if let Self::Put(put) = self {
            // The file first: what is wrong with it does not need Redis to be told.
            let source = read_source(&put.file)?;
            let threads = Threads::connect(config).await?;
            let outcome = threads.put(&put.name, source, &put.options()).await?;
            return put.output.print(|| put_json(&put.name, outcome), || put_text(&put.name, outcome));
        }
        let threads = Threads::connect(config).await?;
        match self {
            Self::Put(_) => Ok(()),
            Self::List(output) => {
                let rows = threads.list().await?;
                output.print(|| rows.iter().map(to_json).collect(), || table(&rows))
            }
            Self::Show(one) => {
                let row = threads.show(&one.name).await?;
                one.output.print(|| to_json(&row), || details(&row))
            }
            Self::Enable(one) => one.done(threads.enable(&one.name).await, "enabled"),
            Self::Disable(one) => one.done(threads.disable(&one.name).await, "disabled"),
            Self::Restart(one) => one.done(threads.restart(&one.name).await, "asked to restart"),
            Self::Remove(one) => one.done(threads.remove(&one.name).await, "removed"),
        }
    }
}

impl PutArgs {
    fn options(&self) -> PutOptions {
        PutOptions {
            disabled: self.disabled,
            hang: self.hang.clone(),
            restart: self.restart.clone(),
            requires: self.requires.clone(),
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

fn put_json(name: &str, outcome: PutOutcome) -> Value {
    json!({ "name": name, "outcome": put_word(outcome), "disabled": outcome.disabled })
}

fn put_text(name: &str, outcome: PutOutcome) -> String {
    let disabled = if outcome.disabled { " (disabled: it does not run until it is enabled)" } else { "" };
    format!("{}: {}{disabled}\n", plain(name, false), put_word(outcome))
}

/// One line per thread; columns as wide as what stands in them.
fn table(rows: &[ThreadRow]) -> String {
    let mut cells =
        vec![["NAME", "STATUS", "STATE", "OWNER", "EPOCH", "RESTARTS", "ERROR"].map(str::to_owned)];
    for row in rows {
        cells.push([
            plain(&row.name, false),
            row.status.to_owned(),
            state(row),
            plain(row.owner.as_deref().unwrap_or("-"), false),
            row.epoch.to_string(),
            row.restarts.to_string(),
            short(row.error.as_deref().unwrap_or_default()),
        ]);
    }
    columns(&cells)
}

/// The state, and how long a thread that failed still waits.
fn state(row: &ThreadRow) -> String {
    match row.waits_ms {
        Some(ms) => format!("{} (again in {:?})", row.state, Duration::from_secs(ms.div_ceil(1000))),
        None => row.state.to_owned(),
    }
}

fn details(row: &ThreadRow) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<10}{value}\n"));
    line("Name", &plain(&row.name, false));
    line("Status", row.status);
    line("State", &state(row));
    line("Owner", &plain(row.owner.as_deref().unwrap_or("-"), false));
    line("Epoch", &row.epoch.to_string());
    line("Restarts", &row.restarts.to_string());
    if let Some(poison) = &row.poison {
        line("Poison", &plain(&poison.to_string(), false));
    }
    if let Some(hang) = row.hang_ms {
        line("Hang", &format!("{hang} ms"));
    }
    if let Some(restart) = row.restart {
        line("Restart", restart);
    }
    if let Some(error) = &row.error {
        let at = row.error_time.as_deref().unwrap_or_default();
        line("Error", &plain(at, false));
        for error_line in plain(error, true).lines() {
            text.push_str(&format!("  {error_line}\n"));
        }
    }
    if let Some(source) = &row.source {
        text.push_str(&format!("Source    {} bytes\n", source.len()));
        push_lines(&mut text, source);
    }
    for (path, module) in &row.modules {
        text.push_str(&format!("Module    {}, {} bytes\n", plain(path, false), module.len()));
        push_lines(&mut text, module);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> ThreadRow {
        ThreadRow {
            name: name.to_owned(),
            status: "enabled",
            state: "running",
            owner: Some("brave-otter".to_owned()),
            epoch: 1_700_000_000_001,
            restarts: 0,
            waits_ms: None,
            poison: None,
            error: None,
            error_time: None,
            hang_ms: Some(1),
            restart: Some("on-failure"),
            source_bytes: Some(3),
            source: None,
            modules: Default::default(),
        }
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let crashed = ThreadRow {
            state: "crashed",
            owner: None,
            restarts: 3,
            waits_ms: Some(3500),
            error: Some("Error: \u{1b}[31mno\n    at main (b.js:1)".to_owned()),
            ..row("b.js")
        };
        let expected = "\
NAME          STATUS   STATE                  OWNER        EPOCH          RESTARTS  ERROR
long/name.js  enabled  running                brave-otter  1700000000001  0
b.js          enabled  crashed (again in 4s)  -            1700000000001  3         Error: \\u{1b}[31mno
";
        assert_eq!(table(&[row("long/name.js"), crashed]), expected);
        assert_eq!(table(&[]), "NAME  STATUS  STATE  OWNER  EPOCH  RESTARTS  ERROR\n");
    }

    #[test]
    fn one_thread_is_shown_with_error_and_source() {
        let row = ThreadRow {
            error: Some("Error: no\n    at main (a.js:1)".to_owned()),
            error_time: Some("2026-01-01T00:00:00Z".to_owned()),
            source: Some("main".to_owned()),
            modules: [("lib/b.js".to_owned(), "b\n".to_owned())].into(),
            ..row("a.js")
        };
        let expected = "\
Name      a.js
Status    enabled
State     running
Owner     brave-otter
Epoch     1700000000001
Restarts  0
Hang      1 ms
Restart   on-failure
Error     2026-01-01T00:00:00Z
  Error: no
      at main (a.js:1)
Source    4 bytes
main
Module    lib/b.js, 2 bytes
b
";
        assert_eq!(details(&row), expected);
    }
}

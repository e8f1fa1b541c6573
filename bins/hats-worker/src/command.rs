//! The sub-commands. Each does one thing and ends; no worker takes part. Most connect to the cluster's Redis for it.
//!
//! Answers go to standard output, as text for people or with `--json` for programs. What is printed of Redis has no
//! control characters left: anybody may write there, and a terminal obeys them.

mod endpoint;
mod job;
mod thread;
mod worker;

use std::io::{self, Read, Write};
use std::path::Path;

use clap::{Args, Subcommand};
use hats_core::Error;
use hats_core::admin::{Put, PutOutcome, SOURCE_BYTES_MAX};
use hats_core::bundle::Source;
use hats_core::config::{Bundle, Settings};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::warn;

use crate::telemetry;

/// What can be done beside running a worker.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register, show and control threads: scripts that run continuously, each on exactly one worker
    #[command(subcommand)]
    Thread(thread::Command),
    /// Register, show, run and control jobs: scripts that run on a schedule, once for each tick in the whole cluster
    #[command(subcommand)]
    Job(job::Command),
    /// Register, show and control endpoints: pages, handlers and files that answer HTTP requests
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Show workers, and drain one
    #[command(subcommand)]
    Worker(worker::Command),
    /// Print the TypeScript declarations of what scripts can call (hats.d.ts), for editors and type checkers
    Types,
}

/// What the script of one task may use, where that differs from the worker's own limits.
#[derive(Debug, Args)]
struct LimitArgs {
    /// Heap of the script, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<String>,
    /// Stack of the script, such as 512KiB
    #[arg(long, value_name = "SIZE")]
    stack_limit: Option<String>,
    /// Time of one call: a number counts milliseconds; 500ms and 30s mean what they say
    #[arg(long, value_name = "MS")]
    call_timeout: Option<String>,
    /// Length of the source, such as 2MiB
    #[arg(long, value_name = "SIZE")]
    source_limit: Option<String>,
    /// Body of one HTTP answer, such as 20MiB
    #[arg(long, value_name = "SIZE")]
    http_body_limit: Option<String>,
    /// Characters of one line of log
    #[arg(long, value_name = "N")]
    log_line_limit: Option<String>,
}

impl Command {
    /// Carries it out.
    pub(crate) fn run(&self, settings: &Settings) -> Result<(), Error> {
        telemetry::start_quiet(settings.logs()?)?;
        for warning in settings.warnings() {
            warn!("{warning}");
        }
        match self {
            Self::Job(job::Command::Next(next)) => return next.run(),
            Self::Types => return print(hats_core::TYPES),
            Self::Thread(_) | Self::Job(_) | Self::Endpoint(_) | Self::Worker(_) => {}
        }
        let config = settings.admin()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::System(format!("cannot start the runtime: {error}")))?;
        let outcome = runtime.block_on(async {
            match self {
                Self::Thread(command) => command.run(&config).await,
                Self::Job(command) => command.run(&config).await,
                Self::Endpoint(command) => command.run(&config).await,
                Self::Worker(command) => command.run(&config).await,
                Self::Types => Ok(()),
            }
        });
        runtime.shutdown_background();
        outcome
    }
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Output {
    fn print(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { print(&format!("{:#}\n", json())) } else { print(&text()) }
    }

    /// Says what was done to a task; `key` is what its name is called.
    fn done(&self, key: &str, name: &str, what: &str) -> Result<(), Error> {
        self.print(|| json!({ key: name, "outcome": what }), || format!("{}: {what}\n", plain(name, false)))
    }
}

fn to_json(value: &impl Serialize) -> Value {
    // Every field is text, a number, a list of such or absent, so this cannot fail.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Writes an answer. A reader that has gone away, as `head` does, has seen enough.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::System(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// What a terminal can be shown: control characters are spelled out, line breaks kept only with `lines`.
fn plain(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if lines => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_debug()),
            c => shown.push(c),
        }
    }
    shown
}

/// The first line of an error, as much of it as fits into a table.
fn short(error: &str) -> String {
    const CHARS: usize = 60;
    let first_line = plain(error.lines().next().unwrap_or_default(), false);
    let mut short: String = first_line.chars().take(CHARS).collect();
    if short.len() < first_line.len() {
        short.push('…');
    }
    short
}

/// A table: columns as wide as what stands in them.
fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    const GAP: usize = 2;
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count() + GAP);
        }
    }
    let mut text = String::new();
    for line in lines {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

/// A source, line by line.
fn push_lines(text: &mut String, source: &str) {
    text.push_str(&plain(source, true));
    if !source.ends_with('\n') {
        text.push('\n');
    }
}

/// A script from a file, with what it imports, or from standard input.
fn read_source(file: &str) -> Result<Bundle, Error> {
    if file != "-" {
        let source = Source::from_file(Path::new(file), SOURCE_BYTES_MAX)?;
        for left_out in &source.left_out {
            warn!("{}; it is left out", plain(left_out, false));
        }
        return Ok(source.bundle);
    }
    let text = String::from_utf8(read_stdin()?).map_err(|_| unreadable("it is not valid UTF-8"))?;
    Ok(Source::from_text(&text, "-")?.bundle)
}

fn read_stdin() -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(SOURCE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(&error.to_string()))?;
    if bytes.len() > SOURCE_BYTES_MAX {
        return Err(unreadable(&format!("it is larger than {SOURCE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn unreadable(why: &str) -> Error {
    Error::Config(format!("cannot read -: {why}"))
}

fn put_word(outcome: PutOutcome) -> &'static str {
    match outcome.put {
        Put::Created => "created",
        Put::Updated => "updated",
        Put::Unchanged => "unchanged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_no_control_characters() {
        assert_eq!(plain("a\u{1b}[2J\nb", false), "a\\u{1b}[2J\\nb");
        assert_eq!(plain("a\u{7}\n\tb", true), "a\\u{7}\n\tb");
    }
}

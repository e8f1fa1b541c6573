//! The sub-commands. Each does one thing and ends; no worker takes part. Most connect to the cluster's Redis for it.
//!
//! Answers go to standard output, as text for people or with `--json` for programs. What is printed of Redis has no
//! control characters left: anybody may write there, and a terminal obeys them.

mod job;
mod thread;

use std::io::{self, Write};

use clap::Subcommand;
use hats_core::Error;
use hats_core::config::Settings;
use tracing::warn;

use crate::telemetry;

/// What can be done beside running a worker.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register, show and control threads: scripts that run continuously, each on exactly one worker
    #[command(subcommand)]
    Thread(thread::Command),
    /// Jobs: scripts that run on a schedule
    #[command(subcommand)]
    Job(job::Command),
    /// Print the TypeScript declarations of what scripts can call (hats.d.ts), for editors and type checkers
    Types,
}

impl Command {
    /// Carries it out.
    pub(crate) fn run(&self, settings: &Settings) -> Result<(), Error> {
        telemetry::start_quiet(settings.logs()?)?;
        for warning in settings.warnings() {
            warn!("{warning}");
        }
        let command = match self {
            Self::Thread(command) => command,
            Self::Job(command) => return command.run(),
            Self::Types => return print(hats_core::TYPES),
        };
        let config = settings.admin()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::System(format!("cannot start the runtime: {error}")))?;
        let outcome = runtime.block_on(command.run(&config));
        runtime.shutdown_background();
        outcome
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_no_control_characters() {
        assert_eq!(plain("a\u{1b}[2J\nb", false), "a\\u{1b}[2J\\nb");
        assert_eq!(plain("a\u{7}\n\tb", true), "a\\u{7}\n\tb");
    }
}

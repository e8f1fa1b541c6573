//! Logs: one line per event to standard error, so that standard output carries what a sub-command answers.
//! `RUST_LOG` wins over `--log-level`.

use std::io::{self, IsTerminal};

use hats_core::Error;
use hats_core::config::{LogConfig, LogFormat, LogLevel};
use tracing_subscriber::EnvFilter;

/// Starts writing logs, for the rest of the process.
pub(crate) fn start(config: LogConfig) -> Result<(), Error> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(config.level)?).with_writer(io::stderr);
    let outcome = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            let is_colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(is_colourful).try_init()
        }
    };
    outcome.map_err(|error| Error::System(format!("cannot start the logs: {error}")))
}

/// As [`start`], but `info` shows no more than `warn`: for commands whose answer is all that is asked for.
pub(crate) fn start_quiet(config: LogConfig) -> Result<(), Error> {
    let level = if config.level == LogLevel::Info { LogLevel::Warn } else { config.level };
    start(LogConfig { level, ..config })
}

fn filter(level: LogLevel) -> Result<EnvFilter, Error> {
    let directives = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => directives,
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Error::Config("RUST_LOG is not valid UTF-8".to_owned()));
        }
        _ => return Ok(EnvFilter::new(default_directives(level))),
    };
    EnvFilter::try_new(&directives).map_err(|error| Error::Config(format!("RUST_LOG: {error}")))
}

/// The Redis client reports every connection that fails; the worker says the same once, in its own words. The drivers of
/// databases log what servers tell beside their answers, which is what scripts have them tell.
fn default_directives(level: LogLevel) -> String {
    format!("{},fred=off,sqlx=off", level.as_str())
}

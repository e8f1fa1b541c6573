//! Logs: one line per event to standard error, so that standard output carries what a sub-command answers.
//! `RUST_LOG` wins over `--log-level`. Whatever is logged of a task says whose it is, whichever events are wanted.
//! Nothing that logs waits for whoever reads: see [`writer`].

mod json;
#[cfg(feature = "otlp")]
mod otlp;
mod text;
mod writer;

use std::io::{self, IsTerminal};

use hats_core::config::{LogConfig, LogFormat, LogLevel, TraceConfig};
use hats_core::{Error, TASK_SPANS};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

pub(crate) use self::writer::{flush, say};

/// What has to be ended before the process is. Nothing is lost by dropping it but the last traces.
#[must_use]
pub(crate) struct Telemetry {
    #[cfg(feature = "otlp")]
    export: Option<otlp::Export>,
}

impl Telemetry {
    /// Sends what is left, while the runtime is still there.
    pub(crate) fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(export) = self.export {
            export.end();
        }
    }
}

/// Starts writing logs and sending traces, for the rest of the process.
pub(crate) fn start(
    logs: LogConfig,
    traces: Option<&TraceConfig>,
    runtime: &tokio::runtime::Runtime,
) -> Result<Telemetry, Error> {
    #[cfg(feature = "otlp")]
    {
        let export =
            traces.map(|traces| otlp::Export::begin(traces, runtime.handle().clone())).transpose()?;
        begin(Registry::default().with(lines(logs)?).with(export.as_ref().map(otlp::Export::layer)))?;
        Ok(Telemetry { export })
    }
    #[cfg(not(feature = "otlp"))]
    {
        let _ = runtime;
        if traces.is_some() {
            let message =
                "otlp-endpoint: this build sends no traces; build it with --features otlp, or leave it out";
            return Err(Error::Config(message.to_owned()));
        }
        begin(Registry::default().with(lines(logs)?))?;
        Ok(Telemetry {})
    }
}

/// Starts writing logs, of which `info` shows no more than `warn`: for commands whose answer is all that is asked for.
pub(crate) fn start_quiet(config: LogConfig) -> Result<(), Error> {
    let level = if config.level == LogLevel::Info { LogLevel::Warn } else { config.level };
    begin(Registry::default().with(lines(LogConfig { level, ..config })?))
}

/// Log lines that were dropped because standard error was not read in time.
pub(crate) fn lines_dropped() -> u64 {
    writer::dropped()
}

fn begin(subscriber: impl Into<tracing::Dispatch>) -> Result<(), Error> {
    subscriber.try_init().map_err(|error| Error::System(format!("cannot start the logs: {error}")))?;
    // The default hook writes to standard error and waits until it can.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        // Should the process end with it, these are its last words.
        flush();
    }));
    Ok(())
}

fn lines<S>(config: LogConfig) -> Result<impl Layer<S>, Error>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_task = |metadata: &Metadata<'_>| {
        metadata.is_span() && metadata.target() == TASK_SPANS && *metadata.level() == Level::ERROR
    };
    let wanted = filter(config.level)?.or(filter_fn(is_task).with_max_level_hint(LevelFilter::ERROR));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer::start()?);
    let layer = match config.format {
        LogFormat::Json => layer.fmt_fields(JsonFields::new()).event_format(json::Lines).boxed(),
        LogFormat::Text => {
            let is_colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer.with_ansi(is_colourful).fmt_fields(text::fields()).boxed()
        }
    };
    Ok(layer.with_filter(wanted))
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

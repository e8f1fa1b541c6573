//! The `hats-worker` program: runs a worker of a cluster, or administers one.

mod args;
mod command;
mod exit;
mod signal;
mod telemetry;

use std::io::Write;
use std::process::ExitCode;

use hats_core::config::Settings;
use hats_core::{Error, Worker};
use tracing::{info, warn};

use crate::args::Asked;

/// For the interpreters too, whose many small pieces it keeps together: a thousand scripts run a tenth faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stack of the OS threads that read from Redis: the client calls itself for each level of a nested reply, and a script
/// can have the server nest thousands of arrays. Pages that are never touched cost nothing.
const IO_STACK_BYTES: usize = 16 << 20;

fn main() -> ExitCode {
    let asked = Asked::read();
    let outcome = match (asked.check, &asked.command) {
        (Some(check), _) => health_check(&asked, check),
        (None, Some(command)) => asked.settings().and_then(|settings| command.run(&settings)),
        (None, None) => asked.settings().and_then(|settings| run(&settings)),
    };
    match outcome {
        Ok(()) => {
            telemetry::flush();
            ExitCode::SUCCESS
        }
        Err(error) => exit::failed(&error),
    }
}

/// Runs a worker until it is asked to stop.
fn run(settings: &Settings) -> Result<(), Error> {
    let runtime = runtime()?;
    let telemetry = telemetry::start(settings.logs()?, settings.traces()?.as_ref(), &runtime)?;
    let drain = signal::listen()?;
    for warning in settings.warnings() {
        warn!("{warning}");
    }
    let config = settings.worker()?;

    let metrics = hats_core::metrics::install()?.with_log_lines_dropped(telemetry::lines_dropped);
    let worker = Worker::builder().config(config).metrics(metrics).build()?;
    let stopped = runtime.block_on(worker.run(drain));
    telemetry.end();
    // Whatever is still busy must not keep the process.
    runtime.shutdown_background();
    info!(reason = %stopped?, "stopped");
    Ok(())
}

/// Asks the worker that has these settings how it is. Whatever is wrong, the code is 1: container engines know no other.
fn health_check(asked: &Asked, check: args::Check) -> Result<(), Error> {
    let answer = || {
        let address = asked.settings()?.health_address()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::System(format!("cannot start the runtime: {error}")))?;
        runtime.block_on(hats_core::health::ask(address, check.into()))
    };
    let answer = answer().map_err(|error| Error::Failed(error.to_string()))?;
    // Where nobody reads standard output the exit code has to do.
    let _ = writeln!(std::io::stdout().lock(), "{answer}");
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name("hats-io")
        .thread_stack_size(IO_STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| Error::System(format!("cannot start the runtime: {error}")))
}

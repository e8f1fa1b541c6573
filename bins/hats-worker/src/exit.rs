//! The exit codes, which tell a supervisor whether starting again may help, and the one line that says why.

use std::process::ExitCode;

use hats_core::Error;

use crate::telemetry;

/// Shown below `--help`. [`Error::exit_code`] is where they are decided.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    stopped as asked, or the command was carried out
  1    a sub-command could not be carried out: no such thread or job, a run that failed, an error reply from Redis
  2    unusable configuration: wrong flags, keys or values; password, user or permission refused
  69   Redis not reachable within 10 s at start
  70   hard stop: the lease was lost and a script did not end in time
  71   the operating system refused what a worker needs
  130, 143   a second SIGINT or SIGTERM ended the worker at once";

/// Says on standard error why the process ends, in one message.
pub(crate) fn failed(error: &Error) -> ExitCode {
    // Where nobody reads standard error the exit code has to do.
    telemetry::say(&format!("hats-worker: {error}"));
    ExitCode::from(error.exit_code())
}

/// The code of a process that a second signal ended at once, as a shell would report it.
pub(crate) fn by_signal(number: i32) -> i32 {
    128 + number
}

//! Runners: how a task of each kind is run on its lane, from the first line of its source to the last.

pub(crate) mod job;
pub(crate) mod thread;

use std::future::Future;
use std::sync::Arc;

use hats_cluster::clock::BootInstant;
use hats_cluster::records::Modules;
use hats_script::{Bundle, ScriptError, TaskControl};

use crate::call_log::CallOutcome;
use crate::control::Audit;

/// Of an error's message and stack, so many bytes are kept: they go into Redis, for people.
const ERROR_BYTES_MAX: usize = 10_000;

/// Enters script code, and records it if somebody audits.
async fn audited<T>(
    control: &dyn TaskControl,
    audit: Option<&Audit>,
    function: &str,
    body: impl Future<Output = Result<T, ScriptError>>,
) -> Result<T, ScriptError> {
    let Some(audit) = audit else { return body.await };
    let at = BootInstant::now();
    if control.trusted_for().is_zero() {
        return Err(ScriptError::Lost);
    }
    audit.log.start(at, &audit.caller, function);
    let result = body.await;
    let outcome = match &result {
        Ok(_) => CallOutcome::Ok,
        Err(ScriptError::Lost) => CallOutcome::Lost,
        Err(ScriptError::Interrupted) => CallOutcome::Interrupted,
        Err(_) => CallOutcome::Crashed,
    };
    audit.log.end(&audit.caller, outcome, function);
    result
}

/// What a definition has to run.
pub(crate) fn bundle(source: &Arc<str>, modules: &Modules) -> Bundle {
    let Modules { main, files } = modules.clone();
    Bundle { main: source.clone(), file: main, modules: files }
}

fn shortened(mut text: String) -> String {
    if text.len() > ERROR_BYTES_MAX {
        text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_cut_between_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = shortened("ä".repeat(ERROR_BYTES_MAX));
        assert_eq!(long.chars().count(), ERROR_BYTES_MAX / 2 + 1);
        assert!(long.ends_with("ä…"));
    }
}

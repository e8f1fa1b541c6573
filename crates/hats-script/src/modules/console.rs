//! `console`: what a script prints goes to the worker's log, with the task's name, and to the last lines that a run keeps.

use std::rc::Rc;

use rquickjs::{Ctx, Object, Value};
use tracing::Level;

use super::{Call, define, text_of};
use crate::vm::Host;

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let console = Object::new(ctx.clone())?;
    define(&console, "console.log", host, info)?;
    define(&console, "console.info", host, info)?;
    define(&console, "console.debug", host, |host, call| {
        // A run keeps such lines as far as the log has them, or they would drive out the others.
        if tracing::enabled!(target: "script", Level::DEBUG) {
            let line = line(host, call);
            host.keep_line("debug: ", &line);
            host.log(|| tracing::debug!(target: "script", "{line}"));
        }
        undefined(call)
    })?;
    define(&console, "console.warn", host, |host, call| {
        if host.keeps_log() || tracing::enabled!(target: "script", Level::WARN) {
            let line = line(host, call);
            host.keep_line("warn: ", &line);
            host.log(|| tracing::warn!(target: "script", "{line}"));
        }
        undefined(call)
    })?;
    define(&console, "console.error", host, |host, call| {
        if host.keeps_log() || tracing::enabled!(target: "script", Level::ERROR) {
            let line = line(host, call);
            host.keep_line("error: ", &line);
            host.log(|| tracing::error!(target: "script", "{line}"));
        }
        undefined(call)
    })?;
    ctx.globals().set("console", console)
}

fn info<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    if host.keeps_log() || tracing::enabled!(target: "script", Level::INFO) {
        let line = line(host, call);
        host.keep_line("", &line);
        host.log(|| tracing::info!(target: "script", "{line}"));
    }
    undefined(call)
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a host function")]
fn undefined<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    Ok(Value::new_undefined(call.ctx.clone()))
}

fn line(host: &Host, call: &Call<'_, '_>) -> String {
    let limit = host.limits.log_line;
    let mut line = String::new();
    for (n, value) in call.arguments.iter().enumerate() {
        if n > 0 {
            line.push(' ');
        }
        // What will be cut off is not even made: one long string may be given a thousand times.
        if line.len() > limit.saturating_mul(char::MAX_LEN_UTF8) {
            line.push('…');
            break;
        }
        line.push_str(&text_of(call.ctx, value));
    }
    cut(line, limit)
}

/// A line of at most `limit` characters, with a note of how many of those that were made are cut off.
pub(super) fn cut(line: String, limit: usize) -> String {
    // No more bytes than the limit means no more characters either.
    if line.len() <= limit {
        return line;
    }
    match line.char_indices().nth(limit) {
        None => line,
        Some((end, _)) => {
            let more = line[end..].chars().count();
            format!("{}… ({more} more characters, LogLineLimit is {limit})", &line[..end])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("äöü".to_owned(), 3), "äöü");
        assert_eq!(cut("äöüß!".to_owned(), 3), "äöü… (2 more characters, LogLineLimit is 3)");
    }
}

//! `console`: what a script prints goes to the worker's log, with the task's name, and to the last lines that a run keeps.

use std::rc::Rc;

use hats_arena::leaf::define;
use rquickjs::{Ctx, Object, Value};
use tracing::Level;

use super::{Call, elements, function, inspect, object};
use crate::vm::Host;

/// What `host.js` makes the functions of `console` of: the level is the name of the function.
pub(super) fn leaves<'js>(ctx: &Ctx<'js>, host: &Rc<Host>) -> rquickjs::Result<Object<'js>> {
    let console = object(ctx)?;
    let log = function(ctx, "console.log", host, |host, call| {
        let level = call.string(0)?;
        if is_logged(host, &level) {
            log(host, &level, &line(host, call));
        }
        Ok(Value::new_undefined(call.ctx.clone()))
    })?;
    define(&console, "log", log)?;
    let is_logged = function(ctx, "console.isLogged", host, |host, call| {
        Ok(Value::new_bool(call.ctx.clone(), is_logged(host, &call.string(0)?)))
    })?;
    define(&console, "isLogged", is_logged)?;
    #[expect(clippy::cast_precision_loss, reason = "no line is so long")]
    define(&console, "lineMax", most_bytes(host) as f64)?;
    Ok(console)
}

/// Whether anybody sees a line. A run keeps lines of debug as far as the log has them, or they would drive out the others.
fn is_logged(host: &Host, level: &str) -> bool {
    match level {
        "debug" => tracing::enabled!(target: "script", Level::DEBUG),
        "warn" => host.keeps_log() || tracing::enabled!(target: "script", Level::WARN),
        "error" => host.keeps_log() || tracing::enabled!(target: "script", Level::ERROR),
        _ => host.keeps_log() || tracing::enabled!(target: "script", Level::INFO),
    }
}

fn log(host: &Host, level: &str, line: &str) {
    match level {
        "debug" => {
            host.keep_line("debug: ", line);
            host.log(|| tracing::debug!(target: "script", "{line}"));
        }
        "warn" => {
            host.keep_line("warn: ", line);
            host.log(|| tracing::warn!(target: "script", "{line}"));
        }
        "error" => {
            host.keep_line("error: ", line);
            host.log(|| tracing::error!(target: "script", "{line}"));
        }
        _ => {
            host.keep_line("", line);
            host.log(|| tracing::info!(target: "script", "{line}"));
        }
    }
}

/// Of what will be cut off no more is made than this: one long string may be given a thousand times.
fn most_bytes(host: &Host) -> usize {
    host.limits.log_line.saturating_mul(char::MAX_LEN_UTF8)
}

/// The second argument is the list of what is printed: objects are text by now.
fn line(host: &Host, call: &Call<'_, '_>) -> String {
    let mut line = String::new();
    for (n, value) in elements(&call.argument(1)).enumerate() {
        if n > 0 {
            line.push(' ');
        }
        if line.len() > most_bytes(host) {
            line.push('…');
            break;
        }
        line.push_str(&inspect::plain_text(call.ctx, &value));
    }
    cut(line, host.limits.log_line)
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

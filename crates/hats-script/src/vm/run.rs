//! One run of a source, from its first line to the end of its `main()`: how jobs run.
//!
//! What must hold: the time limit is that of the whole run, and everything that a run leaves behind (its result, its last
//! lines of log) has a bounded size.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hats_arena::entry;
use rquickjs::{Ctx, Value};

use super::failure::Failure;
use super::{Host, Vm};
use crate::bundle::Bundle;
use crate::error::ScriptError;
use crate::modules::text_of;

/// Of a result so many characters are kept.
const RESULT_CHARS_MAX: usize = 4_000;
/// So many of the last lines of log are kept, and so many characters of each.
const LOG_LINES_MAX: usize = 20;
const LOG_LINE_CHARS_MAX: usize = 1_000;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What `main()` returned, as `console.log` would show it (a string as it is), cut after 4,000 characters. None if that
    /// was undefined, or there is no `main()`.
    pub result: Result<Option<String>, ScriptError>,
    /// The last lines that the script logged, newest last: at most 20, each cut after 1,000 characters. A line of
    /// `console.warn`, `console.error` or `console.debug` has the level before it; the last are there only if the worker's
    /// log has them.
    pub log: Vec<String>,
}

impl Vm {
    /// Runs a source once: evaluates it whole, as [`Vm::load_bundle`] does, then calls `main()` if there is one. A source without
    /// it that ends in a promise is awaited as well. Timers that nobody waits for end with the run.
    ///
    /// `timeout` is the time that all of it may take; each call has its own limit beside that.
    pub async fn run_once(&mut self, bundle: &Bundle, file: &str, timeout: Option<Duration>) -> Run {
        self.host.begin_run(timeout);
        let result = match self.load_bundle(bundle, file).await {
            Ok(()) => self.run_main().await,
            Err(error) => Err(error),
        };
        Run { result, log: self.host.end_run() }
    }

    async fn run_main(&self) -> Result<Option<String>, ScriptError> {
        let main_is_there = Cell::new(false);
        self.call_through(
            |ctx| match self.find(ctx, "main")? {
                Some(main) => {
                    main_is_there.set(true);
                    Ok(entry::call(ctx, &main, &[])?)
                }
                None => {
                    let last = self.entries.as_ref().and_then(|entries| entries.last.as_ref());
                    match last {
                        Some(promise) => Ok(promise.get(ctx)?.into_value()),
                        None => Ok(Value::new_undefined(ctx.clone())),
                    }
                }
            },
            |ctx, value| {
                let is_result = main_is_there.get() && !value.is_undefined();
                let text = is_result.then(|| cut(text_of(&self.host, ctx, &value), RESULT_CHARS_MAX));
                entry::release(value);
                if is_result {
                    // To show a value may have run getters of the script.
                    self.host.after_showing(ctx)?;
                }
                Ok(text)
            },
        )
        .await
    }
}

impl Host {
    /// What getters that were run to show a value have left behind.
    fn after_showing(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        self.run_jobs(ctx)?;
        match self.ended() {
            Some(end) => Err(end.into()),
            None => self.check_rejections(ctx),
        }
    }

    fn begin_run(&self, timeout: Option<Duration>) {
        // A limit beyond the end of the clock is none.
        let limit = timeout.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        self.run_limit.set(limit);
        *self.run_log.borrow_mut() = Some(VecDeque::new());
    }

    fn end_run(&self) -> Vec<String> {
        self.run_limit.set(None);
        self.run_log.take().map(Vec::from).unwrap_or_default()
    }

    /// True in a run: what the script logs is kept, whatever the log's level.
    pub(crate) fn keeps_log(&self) -> bool {
        self.run_log.borrow().is_some()
    }

    /// Keeps a line of log, if this is a run.
    pub(crate) fn keep_line(&self, level: &str, line: &str) {
        let mut log = self.run_log.borrow_mut();
        let Some(lines) = log.as_mut() else { return };
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(cut(format!("{level}{line}"), LOG_LINE_CHARS_MAX));
    }
}

/// A text of at most `most` characters, and a mark where the rest was cut off.
fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

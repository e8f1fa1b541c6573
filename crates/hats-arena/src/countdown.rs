//! Where the engine counts down to its interrupt hook: a private number in each context.
//!
//! It is found once, by running loops of known lengths and looking for the one number of the context that falls with each turn.
//! Where none is found, or more than one, interrupts come when the engine's countdown is over by itself.
use std::ptr::NonNull;
use std::sync::OnceLock;

use rquickjs::qjs;

use crate::interpreter::{Interpreter, Limits};

/// A context is no longer than this, in numbers of 32 bits.
const WORDS_MAX: usize = 256;
/// Bytes from the beginning of a context.
static OFFSET: OnceLock<Option<usize>> = OnceLock::new();

/// The countdown of a context.
pub(crate) fn of(context: NonNull<qjs::JSContext>) -> Option<*mut i32> {
    let offset = (*OFFSET.get()?)?;
    Some(context.as_ptr().wrapping_byte_add(offset).cast())
}

/// Finds it, once for the process. False if it cannot be found.
pub(crate) fn find() -> bool {
    OFFSET.get_or_init(search).is_some()
}

fn search() -> Option<usize> {
    let limits =
        Limits { memory: 16 << 20, stack: 256 << 10, native_stack: 64 << 10, gc_threshold: 16 << 20 };
    let interpreter = Interpreter::new(limits).ok()?;
    // By how much each number falls while so many turns are made.
    let falls = |turns: u32| {
        interpreter.with(|ctx| {
            let before = interpreter.words_from(ctx.as_raw(), WORDS_MAX);
            ctx.eval::<(), _>(format!("for (let i = 0; i < {turns}; i++);")).ok()?;
            let after = interpreter.words_from(ctx.as_raw(), WORDS_MAX);
            Some(
                before
                    .iter()
                    .zip(after)
                    .map(|(before, after)| i64::from(*before) - i64::from(after))
                    .collect::<Vec<_>>(),
            )
        })
    };
    // The countdown may begin anew meanwhile, which it does not do three times in a row.
    (0..3).find_map(|_| {
        let (few, many) = (falls(100)?, falls(300)?);
        // It may fall more than once at each turn, but always as often.
        let is_countdown =
            |n: &usize| few[*n] >= 100 && many[*n] > few[*n] && (many[*n] - few[*n]) % 200 == 0;
        let mut found = (0..few.len()).filter(is_countdown);
        found.next().filter(|_| found.next().is_none()).map(|n| n * size_of::<i32>())
    })
}

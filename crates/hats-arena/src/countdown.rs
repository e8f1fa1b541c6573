//! Where the engine counts down to its interrupt hook: a private number in each context.
//!
//! It is found once, by running loops of known lengths and looking for the one number of the context that falls with each turn.
//! Where none is found, or more than one, interrupts come when the engine's countdown is over by itself.
#![expect(unsafe_code, reason = "the memory of a context is read, see the safety notes")]

use std::ptr::NonNull;
use std::sync::OnceLock;

use rquickjs::qjs;

use crate::heap::Heap;
use crate::interpreter::{Interpreter, Limits};

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
    let words = |context: NonNull<qjs::JSContext>| -> Vec<i32> {
        // SAFETY: the context is a block of the interpreter's heap, so it may be read to its end.
        unsafe {
            let bytes = Heap::usable_size(context.as_ptr().cast());
            std::slice::from_raw_parts(context.as_ptr().cast::<i32>(), bytes / size_of::<i32>()).to_vec()
        }
    };
    // By how much each number falls while so many turns are made.
    let falls = |turns: u32| {
        interpreter.with(|ctx| {
            let before = words(ctx.as_raw());
            ctx.eval::<(), _>(format!("for (let i = 0; i < {turns}; i++);")).ok()?;
            let after = words(ctx.as_raw());
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
        let (few, many) = (falls(1000)?, falls(3000)?);
        // It may fall more than once at each turn, but always as often.
        let is_countdown =
            |n: &usize| few[*n] >= 1000 && many[*n] > few[*n] && (many[*n] - few[*n]) % 2000 == 0;
        let mut found = (0..few.len()).filter(is_countdown);
        found.next().filter(|_| found.next().is_none()).map(|n| n * size_of::<i32>())
    })
}

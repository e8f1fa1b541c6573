//! What a script has set in motion: timers, rejected promises, microtasks that failed.
//!
//! All of it holds values of the interpreter, so [`Events::clear`] is called before the interpreter goes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use hats_arena::Kept;
use rquickjs::{Ctx, Function, Value};

use crate::error::ScriptError;

/// Timers, and arguments for their functions, that one script may have running. Beyond it `setTimeout` throws: the
/// table is not part of the heap that the script's memory limit counts.
const TIMERS_MAX: usize = 100_000;

type Saved = Kept<Value<'static>>;

#[derive(Default)]
pub(crate) struct Events {
    timers: RefCell<HashMap<u32, Timer>>,
    // Due time and number of each timer, in the order in which they fire.
    due: RefCell<BTreeMap<(Instant, u32), ()>>,
    // Timers and their arguments.
    timed_values: Cell<usize>,
    last_timer: Cell<u32>,
    rejections: RefCell<Rejections>,
    job_error: RefCell<Option<ScriptError>>,
}

/// Rejected promises that nobody has handled yet, oldest first. To add one and to find one again takes logarithmic time:
/// `Promise.allSettled` over async functions that throw reports each promise twice.
///
/// An entry takes about 200 bytes outside of the script's heap. It keeps its promise alive, which takes about as much inside,
/// so the memory limit of the heap bounds the number of entries too.
#[derive(Default)]
struct Rejections {
    /// By the order of their rejection.
    entries: BTreeMap<u64, Rejection>,
    /// The hash of each entry's promise and the entry's number. Two promises may have the same hash.
    by_promise: BTreeSet<(u64, u64)>,
    last: u64,
}

struct Rejection {
    promise: Saved,
    reason: Saved,
}

impl Rejections {
    fn insert<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        promise: Value<'js>,
        reason: Value<'js>,
    ) -> rquickjs::Result<()> {
        let hash = identity_hash(&promise);
        let rejection = Rejection { promise: Kept::new(ctx, promise)?, reason: Kept::new(ctx, reason)? };
        self.last += 1;
        self.entries.insert(self.last, rejection);
        self.by_promise.insert((hash, self.last));
        Ok(())
    }

    fn remove<'js>(&mut self, ctx: &Ctx<'js>, promise: &Value<'js>) -> Option<Rejection> {
        let hash = identity_hash(promise);
        let is_it = |number: &u64| {
            let entry = self.entries.get(number);
            entry.is_some_and(|entry| entry.promise.get(ctx).is_ok_and(|known| known == *promise))
        };
        let mut numbers = self.by_promise.range((hash, 0)..=(hash, u64::MAX)).map(|&(_, number)| number);
        let number = numbers.find(is_it)?;
        self.by_promise.remove(&(hash, number));
        self.entries.remove(&number)
    }
}

/// The hash of an object's identity: it stays the same for as long as the object lives.
fn identity_hash(value: &Value<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

struct Timer {
    due: Instant,
    period: Option<Duration>,
    function: Kept<Function<'static>>,
    arguments: Vec<Saved>,
}

impl Events {
    /// Starts a timer and returns its number, or None when there are too many.
    pub(crate) fn start_timer<'js>(
        &self,
        ctx: &Ctx<'js>,
        function: Function<'js>,
        arguments: Vec<Value<'js>>,
        delay: Duration,
        repeat: bool,
    ) -> rquickjs::Result<Option<u32>> {
        let mut timers = self.timers.borrow_mut();
        let timed_values = self.timed_values.get() + 1 + arguments.len();
        if timed_values > TIMERS_MAX {
            return Ok(None);
        }
        let mut number = self.last_timer.get();
        loop {
            number = number.checked_add(1).unwrap_or(1);
            if !timers.contains_key(&number) {
                break;
            }
        }
        self.last_timer.set(number);
        let due = Instant::now() + delay;
        let arguments = arguments.into_iter().map(|value| Kept::new(ctx, value)).collect::<Result<_, _>>()?;
        let function = Kept::new(ctx, function)?;
        let timer = Timer { due, period: repeat.then_some(delay), function, arguments };
        timers.insert(number, timer);
        self.timed_values.set(timed_values);
        self.due.borrow_mut().insert((due, number), ());
        Ok(Some(number))
    }

    /// Stops a timer; an unknown number is ignored, as on the web.
    pub(crate) fn stop_timer(&self, number: u32) {
        if let Some(timer) = self.timers.borrow_mut().remove(&number) {
            self.due.borrow_mut().remove(&(timer.due, number));
            self.uncount(&timer);
        }
    }

    pub(super) fn no_timers(&self) -> bool {
        self.timers.borrow().is_empty()
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.due.borrow().first_key_value().map(|((due, _), ())| *due)
    }

    pub(super) fn timer_due(&self, now: Instant) -> bool {
        self.next_timer().is_some_and(|due| due <= now)
    }

    /// Takes the first timer that is due off the list, or moves it on if it repeats.
    pub(super) fn take_due<'js>(
        &self,
        ctx: &Ctx<'js>,
        now: Instant,
    ) -> rquickjs::Result<Option<(Function<'js>, Vec<Value<'js>>)>> {
        let mut due_times = self.due.borrow_mut();
        let Some((&(due, number), ())) = due_times.first_key_value() else { return Ok(None) };
        if due > now {
            return Ok(None);
        }
        due_times.remove(&(due, number));
        let mut timers = self.timers.borrow_mut();
        let Some(mut timer) = timers.remove(&number) else { return Ok(None) };
        let function = timer.function.get(ctx)?;
        let arguments = timer.arguments.iter().map(|saved| saved.get(ctx)).collect::<Result<_, _>>()?;
        if let Some(period) = timer.period {
            timer.due = now + period;
            due_times.insert((timer.due, number), ());
            timers.insert(number, timer);
        } else {
            self.uncount(&timer);
        }
        Ok(Some((function, arguments)))
    }

    fn uncount(&self, timer: &Timer) {
        self.timed_values.set(self.timed_values.get() - 1 - timer.arguments.len());
    }

    /// The engine's report that a promise was rejected with nobody listening, or that somebody now listens.
    pub(super) fn track_rejection<'js>(
        &self,
        ctx: &Ctx<'js>,
        promise: Value<'js>,
        reason: Value<'js>,
        handled: bool,
    ) {
        let mut rejections = self.rejections.borrow_mut();
        if handled {
            let handled = rejections.remove(ctx, &promise);
            // Its values are freed while nobody holds the table.
            drop(rejections);
            drop(handled);
        } else {
            // An error means that the interpreter is none of ours, which cannot be.
            let _ = rejections.insert(ctx, promise, reason);
        }
    }

    /// The reason of the first rejection that nobody has handled; the others are forgotten with it.
    pub(super) fn take_rejection<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Option<Value<'js>>> {
        if self.rejections.borrow().entries.is_empty() {
            return Ok(None);
        }
        let rejections = self.rejections.take();
        rejections.entries.first_key_value().map(|(_, first)| first.reason.get(ctx)).transpose()
    }

    /// Forgets rejections and failed microtasks: another error is that of the call already.
    pub(crate) fn forget_failures(&self) {
        let forgotten = (self.rejections.take(), self.job_error.take());
        drop(forgotten);
    }

    /// Keeps the error of a microtask, which the engine itself drops. The first one counts.
    pub(crate) fn job_failed(&self, error: ScriptError) {
        self.job_error.borrow_mut().get_or_insert(error);
    }

    pub(super) fn take_job_error(&self) -> Option<ScriptError> {
        self.job_error.take()
    }

    /// Lets go of every value of the interpreter.
    pub(super) fn clear(&self) {
        self.due.take();
        drop(self.timers.take());
        self.timed_values.set(0);
        self.last_timer.set(0);
        self.forget_failures();
    }
}

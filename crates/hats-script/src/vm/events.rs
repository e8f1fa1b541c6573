//! What a script has set in motion: timers, rejected promises, microtasks that failed.
//!
//! All of it holds values of the interpreter, so [`Events::clear`] is called before the interpreter goes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
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
    // Promise and reason.
    rejections: RefCell<Vec<(Saved, Saved)>>,
    job_error: RefCell<Option<ScriptError>>,
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
            rejections.retain(|(saved, _)| saved.get(ctx).is_ok_and(|known| known != promise));
        } else if let (Ok(promise), Ok(reason)) = (Kept::new(ctx, promise), Kept::new(ctx, reason)) {
            rejections.push((promise, reason));
        }
    }

    /// The reason of the first rejection that nobody has handled; the others are forgotten with it.
    pub(super) fn take_rejection<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Option<Value<'js>>> {
        if self.rejections.borrow().is_empty() {
            return Ok(None);
        }
        let mut rejections = self.rejections.take();
        let (_, reason) = rejections.swap_remove(0);
        reason.get(ctx).map(Some)
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

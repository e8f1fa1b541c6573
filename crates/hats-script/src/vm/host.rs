//! What a script's interpreter and its host calls share: the task, its limits, and when to end.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hats_arena::Kept;
use hats_fiber::{Ask, Ended, Handle, running_for, wait, wait_ending};
#[cfg(feature = "redis")]
use hats_fiber::{wait_through, wait_unless_killed};
use rquickjs::promise::PromiseState;
use rquickjs::{Ctx, Exception, FromJs, IntoJs, Promise, Value};

use super::TIME_SLICE;
use super::events::Events;
use super::failure::Failure;
use super::loader::Modules;
use super::operations::{Done, Operations};
use crate::error::ScriptError;
use crate::host::TaskControl;
use crate::lane::{LaneContext, ScriptTask};
use crate::limits::Limits;
#[cfg(feature = "http")]
use crate::modules::http::Budget;
#[cfg(feature = "redis")]
use crate::modules::redis::ReplyParts;
use crate::modules::response::Exchange;
#[cfg(feature = "sql")]
use crate::modules::sql;
use crate::modules::web::Origin;

/// Host functions that may be inside one another. Native code that calls native code has no stack limit but this.
const NATIVE_DEPTH_MAX: u32 = 64;
/// Jobs that are run before the clock and the asks are looked at again.
const JOBS_PER_LOOK: usize = 256;

/// Shared by an interpreter's hooks and host functions. Lives as long as the interpreter.
pub(crate) struct Host {
    /// Of the work in hand.
    control: RefCell<Arc<dyn TaskControl>>,
    pub(crate) lane: Rc<LaneContext>,
    pub(crate) limits: Limits,
    /// Of the work in hand.
    fiber: RefCell<Handle>,
    /// When the work in hand began.
    origin: Cell<Origin>,
    pub(crate) events: Events,
    pub(crate) operations: Operations,
    pub(crate) call_timeout: Cell<Option<Duration>>,
    /// When the call in hand has to be over.
    deadline: Cell<Option<Instant>>,
    /// When the call in hand, or the last one, began.
    begun: Cell<Instant>,
    /// When the last call of a thread's `main()` began, if it has ended and is not counted yet.
    main_begun: Cell<Option<Instant>>,
    /// When the run has to be over, if this is one with a time limit, and that limit.
    pub(super) run_limit: Cell<Option<(Instant, Duration)>>,
    /// The last lines that the script logged, if this is a run.
    pub(super) run_log: RefCell<Option<VecDeque<String>>>,
    /// Why the call in hand is being ended. Set once for each call.
    ended: RefCell<Option<ScriptError>>,
    /// So that neither timers nor operations keep the others waiting.
    timer_was_last: Cell<bool>,
    /// How many host functions the script is inside of.
    native_depth: Cell<u32>,
    /// The request in hand and what has been written for its answer, if this is an endpoint. It is here and not in the
    /// interpreter, whose objects own nothing of it.
    pub(crate) exchange: RefCell<Option<Exchange>>,
    /// Libraries are being evaluated.
    pub(super) is_preloading: Cell<bool>,
    /// Made by the `redis` module at its first reply, for all of them.
    #[cfg(feature = "redis")]
    pub(crate) reply_parts: RefCell<Option<ReplyParts>>,
    /// Of the requests that are under way.
    #[cfg(feature = "http")]
    pub(crate) bodies: RefCell<Budget>,
    /// What host modules keep of the interpreter for this script, by a name of their own.
    made: RefCell<HashMap<&'static str, Kept<Value<'static>>>>,
    /// The databases that the script has open.
    #[cfg(feature = "sql")]
    pub(crate) databases: sql::Table,
    /// The modules that the script may import.
    pub(super) modules: RefCell<Option<Modules>>,
    /// For `Math.random`, where the engine's own would give the same numbers after each reset.
    random: Cell<u64>,
}

impl Host {
    pub(super) fn new(task: ScriptTask, lane: Rc<LaneContext>, fiber: Handle) -> Self {
        Self {
            control: RefCell::new(task.control),
            lane,
            limits: task.limits,
            fiber: RefCell::new(fiber),
            origin: Cell::new(Origin::now()),
            events: Events::default(),
            operations: Operations::default(),
            call_timeout: Cell::new(task.limits.call_timeout),
            deadline: Cell::new(None),
            begun: Cell::new(Instant::now()),
            main_begun: Cell::new(None),
            run_limit: Cell::new(None),
            run_log: RefCell::new(None),
            ended: RefCell::new(None),
            timer_was_last: Cell::new(false),
            native_depth: Cell::new(0),
            exchange: RefCell::new(None),
            is_preloading: Cell::new(false),
            #[cfg(feature = "redis")]
            reply_parts: RefCell::new(None),
            #[cfg(feature = "http")]
            bodies: RefCell::new(Budget::new(task.limits.memory)),
            made: RefCell::default(),
            #[cfg(feature = "sql")]
            databases: sql::Table::default(),
            modules: RefCell::new(None),
            random: Cell::new(0),
        }
    }

    /// The task of the work in hand.
    pub(crate) fn control(&self) -> Arc<dyn TaskControl> {
        self.control.borrow().clone()
    }

    /// Logs something that the work in hand has done, if its task may log one more line. `log` must not wait.
    pub(crate) fn log(&self, log: impl FnOnce()) {
        let control = self.control.borrow();
        if self.lane.metrics.log_limit.admits(&**control) {
            control.span().in_scope(log);
        }
    }

    /// What is asked of the work in hand.
    pub(crate) fn asked(&self) -> Ask {
        self.fiber.borrow().asked()
    }

    /// What is asked of the work in hand, to answer it.
    pub(super) fn fiber(&self) -> Handle {
        self.fiber.borrow().clone()
    }

    /// When the work in hand began.
    pub(crate) fn origin(&self) -> Origin {
        self.origin.get()
    }

    /// Other work begins.
    pub(super) fn forget_task(&self) {
        *self.control.borrow_mut() = self.lane.nobody.clone();
    }

    pub(super) fn begin_work(&self, control: Arc<dyn TaskControl>, fiber: Handle) {
        self.origin.set(Origin::now());
        *self.control.borrow_mut() = control;
        *self.fiber.borrow_mut() = fiber;
    }

    /// Lets go of all that the work in hand has left behind, so that the interpreter can be reset.
    pub(super) fn end_work(&self) {
        self.operations.clear();
        self.events.clear();
        self.call_timeout.set(self.limits.call_timeout);
        self.deadline.set(None);
        self.run_limit.set(None);
        drop(self.run_log.take());
        drop(self.ended.take());
        self.timer_was_last.set(false);
        drop(self.exchange.take());
        self.made.borrow_mut().retain(|_, made| !made.is_new());
        #[cfg(feature = "redis")]
        self.reply_parts.borrow_mut().take_if(|parts| parts.is_new());
        #[cfg(feature = "http")]
        {
            *self.bodies.borrow_mut() = Budget::new(self.limits.memory);
        }
        #[cfg(feature = "sql")]
        self.databases.clear();
    }

    /// Between 0 and 1.
    pub(crate) fn random(&self) -> f64 {
        let mut state = self.random.get();
        if state == 0 {
            // Without the system's own, the time has to do: nothing secret is made of these.
            state = getrandom::u64().unwrap_or(0).max(1);
        }
        // xorshift64*, as the engine has it.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let random = bits as f64 / (1_u64 << 53) as f64;
        random
    }

    /// Lets go of every value of the interpreter, before it goes.
    pub(super) fn clear(&self) {
        self.operations.clear();
        self.events.clear();
        #[cfg(feature = "sql")]
        self.databases.clear();
        drop(self.made.take());
        #[cfg(feature = "redis")]
        drop(self.reply_parts.take());
    }

    /// What is made once for each scope.
    pub(crate) fn made<'js, T: FromJs<'js> + IntoJs<'js> + Clone>(
        &self,
        ctx: &Ctx<'js>,
        name: &'static str,
        make: impl FnOnce(&Ctx<'js>) -> rquickjs::Result<T>,
    ) -> rquickjs::Result<T> {
        let known = self.made.borrow().get(name).map(|known| known.get(ctx)).transpose()?;
        if let Some(known) = known {
            return T::from_js(ctx, known);
        }
        let made = make(ctx)?;
        let kept = Kept::new(ctx, made.clone().into_js(ctx)?)?;
        self.made.borrow_mut().insert(name, kept);
        Ok(made)
    }

    /// Starts the clock of a call.
    pub(super) fn begin_call(&self) -> Result<(), ScriptError> {
        *self.ended.borrow_mut() = None;
        let now = Instant::now();
        self.count_main(now);
        self.begun.set(now);
        let of_call = self.call_timeout.get().map(|limit| now + limit);
        let of_run = self.run_limit.get().map(|(end, _)| end);
        self.deadline.set([of_call, of_run].into_iter().flatten().min());
        match self.end_at(now) {
            Some(end) => Err(end),
            None => Ok(()),
        }
    }

    /// The call in hand was one of a thread's `main()`, and has ended. It is counted by whoever looks at the clock next.
    pub(super) fn main_ended(&self) {
        self.main_begun.set(Some(self.begun.get()));
    }

    /// Counts the last call of `main()`, if it has ended and is not counted yet: `now`, or a moment before.
    pub(super) fn count_main(&self, now: Instant) {
        if let Some(begun) = self.main_begun.take() {
            self.lane.metrics.main_calls.record_alone(now.saturating_duration_since(begun));
        }
    }

    /// True if a call of `main()` has ended and is not counted yet.
    pub(super) fn has_main_to_count(&self) -> bool {
        self.main_begun.get().is_some()
    }

    /// The interpreter's hook: true ends the script's code with an error that it cannot catch.
    pub(super) fn interrupt(&self) -> bool {
        if self.end_now().is_some() {
            return true;
        }
        if running_for() < TIME_SLICE {
            return false;
        }
        // An error here means that an end was asked for, which the next line finds.
        let _ = wait(tokio::task::yield_now());
        self.end_now().is_some()
    }

    /// For long native work: lets others have their turn, and ends with an error if the call in hand has to end.
    pub(crate) fn look_up(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        if self.interrupt() {
            return Err(Exception::throw_internal(ctx, &self.why_ended().to_string()));
        }
        Ok(())
    }

    /// Counts a host function for as long as what it returns lives.
    pub(crate) fn enter_native(&self, ctx: &Ctx<'_>) -> rquickjs::Result<impl Drop + use<'_>> {
        struct Leave<'a>(&'a Cell<u32>);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        if self.native_depth.get() >= NATIVE_DEPTH_MAX {
            let message =
                format!("more than {NATIVE_DEPTH_MAX} calls of the worker's functions inside one another");
            return Err(Exception::throw_range(ctx, &message));
        }
        self.native_depth.set(self.native_depth.get() + 1);
        Ok(Leave(&self.native_depth))
    }

    /// Why the call in hand has been ended, if it has.
    pub(super) fn ended(&self) -> Option<ScriptError> {
        self.ended.borrow().clone()
    }

    /// As [`Self::ended`], for those who know that there is a reason.
    pub(super) fn why_ended(&self) -> ScriptError {
        self.end_now().unwrap_or(ScriptError::Interrupted)
    }

    /// True if the task is no longer ours.
    pub(super) fn is_lost(&self) -> bool {
        self.asked() == Ask::Kill || self.control.borrow().trusted_for().is_zero()
    }

    /// Looks for a reason to end the call in hand, and remembers it.
    fn end_now(&self) -> Option<ScriptError> {
        self.end_by(Instant::now)
    }

    /// As [`Self::end_now`], for those who have just looked at the clock.
    fn end_at(&self, now: Instant) -> Option<ScriptError> {
        self.end_by(|| now)
    }

    fn end_by(&self, now: impl FnOnce() -> Instant) -> Option<ScriptError> {
        let mut ended = self.ended.borrow_mut();
        if ended.is_none() {
            *ended = self.reason_to_end(now);
        }
        ended.clone()
    }

    fn reason_to_end(&self, now: impl FnOnce() -> Instant) -> Option<ScriptError> {
        match self.asked() {
            Ask::Kill => return Some(ScriptError::Lost),
            Ask::Interrupt => return Some(ScriptError::Interrupted),
            Ask::EndWaits | Ask::Nothing => {}
        }
        if self.control.borrow().trusted_for().is_zero() {
            return Some(ScriptError::Lost);
        }
        let now = now();
        if self.deadline.get().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.run_limit.get() {
            Some((end, limit)) if now >= end => Some(ScriptError::RunTimeout(limit)),
            _ => self.call_timeout.get().map(ScriptError::Timeout),
        }
    }

    /// True once the task has been asked to stop.
    #[cfg(feature = "redis")]
    pub(crate) fn stop_asked(&self) -> bool {
        self.asked() >= Ask::EndWaits
    }

    /// The lease gate, which every effect passes right before it happens.
    pub(crate) fn gate(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        if let Some(end) = self.end_now() {
            return Err(Exception::throw_internal(ctx, &end.to_string()));
        }
        // Each script evaluates them, and nobody is told whose doing it was.
        if self.is_preloading.get() {
            let message = "a preloaded library reaches outside only from functions that a script calls";
            return Err(Exception::throw_message(ctx, message));
        }
        self.control.borrow().effect();
        Ok(())
    }

    /// Waits for a host call's future within the time limit of the call in hand. The error is thrown into the
    /// script; should it catch it, its next step ends it.
    pub(crate) fn wait<F: Future>(&self, ctx: &Ctx<'_>, future: F) -> rquickjs::Result<F::Output> {
        let result = match self.deadline.get() {
            None => wait(future).ok(),
            Some(deadline) => {
                wait(tokio::time::timeout_at(deadline.into(), future)).ok().and_then(Result::ok)
            }
        };
        result.ok_or_else(|| Exception::throw_internal(ctx, &self.why_ended().to_string()))
    }

    /// Waits for I/O that must not be dropped half-way, to its own end, for which [`Self::time_for_io`] has to see. If
    /// the call is to end by then, what came of the I/O is not for the script.
    #[cfg(feature = "redis")]
    pub(crate) fn wait_through<F: Future>(&self, ctx: &Ctx<'_>, future: F) -> rquickjs::Result<F::Output> {
        match (wait_through(future), self.end_now()) {
            (Ok(output), None) => Ok(output),
            (_, end) => {
                let end = end.unwrap_or(ScriptError::Lost);
                Err(Exception::throw_internal(ctx, &end.to_string()))
            }
        }
    }

    /// As [`Self::wait_through`], but not beyond the loss of the lease.
    #[cfg(feature = "redis")]
    pub(crate) fn wait_unless_killed<F: Future>(
        &self,
        ctx: &Ctx<'_>,
        future: F,
    ) -> rquickjs::Result<F::Output> {
        let result = wait_unless_killed(future);
        result.map_err(|_| Exception::throw_internal(ctx, &self.why_ended().to_string()))
    }

    /// How long I/O that begins now may take: not beyond the lease, nor the time limit of the call in hand.
    #[cfg(feature = "redis")]
    pub(crate) fn time_for_io(&self, most: Duration) -> Duration {
        let call =
            self.deadline.get().map_or(most, |deadline| deadline.saturating_duration_since(Instant::now()));
        // Zero would be no limit at all.
        self.control.borrow().trusted_for().min(call).min(most).max(Duration::from_millis(1))
    }

    /// True if the call in hand has at least as long as the lease, or `most`.
    #[cfg(feature = "redis")]
    pub(crate) fn call_outlasts_lease(&self, most: Duration) -> bool {
        self.deadline.get().is_none_or(|deadline| {
            deadline.saturating_duration_since(Instant::now())
                >= self.control.borrow().trusted_for().min(most)
        })
    }

    /// As [`Self::wait`], but None as soon as the task is asked to stop.
    pub(crate) fn wait_ending<F: Future>(
        &self,
        ctx: &Ctx<'_>,
        future: F,
    ) -> rquickjs::Result<Option<F::Output>> {
        let result = match self.deadline.get() {
            None => wait_ending(future).map(Some),
            Some(deadline) => wait_ending(tokio::time::timeout_at(deadline.into(), future)).map(Result::ok),
        };
        match (result, self.end_now()) {
            // Handed on whatever has happened: a future that is done must not be asked again.
            (Ok(Some(value)), _) => Ok(Some(value)),
            // Whoever stood still while the lease ran out hears of that, and not of a stop.
            (Err(Ended::Early), None) => Ok(None),
            (_, end) => {
                let end = end.unwrap_or_else(|| self.why_ended());
                Err(Exception::throw_internal(ctx, &end.to_string()))
            }
        }
    }

    /// Brings a call to its end: microtasks run, a returned promise is waited for, and what was rejected and not
    /// handled by then is the call's error. So is the reason for which it had to end, also if the script has caught
    /// what came of it.
    pub(super) fn settle<'js>(&self, ctx: &Ctx<'js>, promise: Option<Promise<'js>>) -> Result<(), Failure> {
        loop {
            self.run_jobs(ctx)?;
            match promise.as_ref().map(Promise::state) {
                None | Some(PromiseState::Resolved) => {
                    return match self.ended() {
                        Some(end) => Err(end.into()),
                        None => self.check_rejections(ctx),
                    };
                }
                Some(PromiseState::Rejected) => {
                    if let Some(Err(error)) = promise.as_ref().and_then(Promise::result::<Value<'_>>) {
                        return Err(error.into());
                    }
                    return Ok(());
                }
                Some(PromiseState::Pending) => {
                    self.check_rejections(ctx)?;
                    let next = [self.events.next_timer(), self.deadline.get()].into_iter().flatten().min();
                    // An error means that an end was asked for, which the next line finds.
                    let _ = wait(self.event(next));
                    if let Some(end) = self.end_now() {
                        return Err(end.into());
                    }
                    self.run_event(ctx)?;
                }
            }
        }
    }

    /// Waits until `time`, if there is one, or until an operation is over.
    async fn event(&self, time: Option<Instant>) {
        match time {
            None => self.operations.ended().await,
            Some(time) => tokio::select! {
                biased;
                () = self.operations.ended() => {}
                () = tokio::time::sleep_until(time.into()) => {}
            },
        }
    }

    /// Runs what follows from the first event that is there: of a timer and an operation that which did not have its
    /// turn last.
    fn run_event(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        let timer_first = !self.timer_was_last.get() && self.events.timer_due(Instant::now());
        match if timer_first { None } else { self.operations.take() } {
            Some(done) => {
                self.timer_was_last.set(false);
                self.finish_operation(ctx, done)
            }
            None => {
                self.timer_was_last.set(true);
                self.run_timer(ctx)
            }
        }
    }

    /// Settles the promise of an operation that is over, as a call of its own.
    pub(super) fn finish(&self, ctx: &Ctx<'_>, done: Done) -> Result<(), Failure> {
        self.finish_operation(ctx, done)?;
        self.run_jobs(ctx)?;
        self.check_rejections(ctx)
    }

    /// Runs the function of the first timer that is due, as a call of its own.
    pub(super) fn fire_timer(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        self.run_timer(ctx)?;
        self.run_jobs(ctx)?;
        self.check_rejections(ctx)
    }

    fn run_timer(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        if let Some((function, arguments)) = self.events.take_due(ctx, Instant::now())? {
            let mut call = rquickjs::function::Args::new(ctx.clone(), arguments.len());
            call.push_args(arguments)?;
            call.apply::<Value<'_>>(&function)?;
        }
        Ok(())
    }

    fn run_jobs(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        let mut jobs = 0_usize;
        while ctx.execute_pending_job() {
            jobs += 1;
            if jobs.is_multiple_of(JOBS_PER_LOOK) && self.interrupt() {
                break;
            }
        }
        if jobs > 0 {
            // A job that was interrupted leaves no trace but this.
            if let Some(end) = self.ended() {
                return Err(end.into());
            }
        }
        match self.events.take_job_error() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn check_rejections(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        match self.events.take_rejection(ctx)? {
            Some(reason) => Err(self.thrown(ctx, reason, true).into()),
            None => Ok(()),
        }
    }
}

//! What a script's interpreter and its host calls share: the task, its limits, and when to end.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hats_arena::leaf::{ErrorKind, throw};
use hats_arena::{Kept, Turn, entry};
use hats_fiber::{Ask, Death, Ended, Handle, running_for, turn, wait, wait_ending};
#[cfg(feature = "redis")]
use hats_fiber::{wait_through, wait_unless_killed};
use rquickjs::promise::PromiseState;
use rquickjs::{Ctx, FromJs, IntoJs, Promise, Value};

use super::events::Events;
use super::failure::Failure;
use super::loader::Modules;
use super::operations::Operations;
use super::{Settling, TIME_SLICE, Woken};
use crate::error::{ScriptError, Thrown};
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

/// A script that is interrupted and has not ended after this dies.
const INTERRUPT_PATIENCE: Duration = Duration::from_millis(100);
/// Jobs that are run before the clock and the asks are looked at again.
const JOBS_PER_LOOK: usize = 256;
/// A call that has to end runs no more jobs than this.
const JOBS_AFTER_END: usize = 16 * JOBS_PER_LOOK;

/// The permission to have one effect. Only the gate gives it ([`Host::gate`]), and whatever reaches outside for a script
/// takes it, so that no host call can pass the gate by.
pub(crate) struct Passed {
    control: Arc<dyn TaskControl>,
    fiber: Handle,
}

impl Passed {
    /// The task whose effect it is.
    pub(crate) fn control(&self) -> &Arc<dyn TaskControl> {
        &self.control
    }

    /// The gate again, for an effect that has waited and would happen now: how long it may take, or None if it must not
    /// happen any more.
    #[cfg(feature = "redis")]
    pub(crate) fn again(&self) -> Option<Duration> {
        let trusted = self.control.trusted_for();
        if trusted.is_zero() || self.fiber.asked() >= Ask::Interrupt {
            return None;
        }
        self.control.effect();
        Some(trusted)
    }
}

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
    /// Since when the script is interrupted and does not end.
    hurried_at: Cell<Option<Instant>>,
    /// So that neither timers nor operations keep the others waiting.
    timer_was_last: Cell<bool>,
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
            hurried_at: Cell::new(None),
            timer_was_last: Cell::new(false),
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
        self.hurried_at.set(None);
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
        self.end_now().is_some()
    }

    /// What becomes of a preempted script when its turn comes. One that has to end is interrupted first, which leaves its
    /// interpreter whole for `cleanup()`; it dies if that does not end it.
    pub(super) fn next_turn(&self) -> Turn {
        match self.end_now() {
            None => Turn::GoOn,
            Some(ScriptError::Lost) => Turn::Die,
            Some(_) => {
                let now = Instant::now();
                let since = self.hurried_at.get().unwrap_or(now);
                self.hurried_at.set(Some(since));
                if now.saturating_duration_since(since) >= INTERRUPT_PATIENCE {
                    Turn::Die
                } else {
                    Turn::Hurry
                }
            }
        }
    }

    /// What a death is to the script's author.
    pub(super) fn why_died(&self, death: Death) -> ScriptError {
        match death {
            Death::Killed => self.why_ended(),
            Death::Memory => ScriptError::Memory(self.limits.memory),
            Death::Stack => ScriptError::Stack(
                self.limits.stack,
                Thrown {
                    name: "RangeError".to_owned(),
                    message: format!("{death}: an operation of the engine called itself too deeply"),
                    stack: String::new(),
                    rejected: false,
                },
            ),
            other => ScriptError::Engine(other.to_string()),
        }
    }

    /// Counts that the script died in the middle of the engine's work.
    pub(super) fn count_death(&self, why: &ScriptError) {
        self.lane.metrics.killed(why);
    }

    /// For long native work: lets others have their turn, and ends with an error if the call in hand has to end.
    pub(crate) fn look_up(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        if running_for() >= TIME_SLICE {
            // An error here means that an end was asked for, which the next line finds.
            let _ = wait(turn());
        }
        if self.interrupt() {
            return Err(throw(ctx, ErrorKind::Internal, &self.why_ended().to_string()));
        }
        Ok(())
    }

    /// Why the call in hand has been ended, if it has.
    pub(crate) fn ended(&self) -> Option<ScriptError> {
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
    pub(super) fn end_now(&self) -> Option<ScriptError> {
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

    /// The gate, which every effect passes right before it happens. What reaches outside takes the permission that it
    /// gives.
    pub(crate) fn gate(&self, ctx: &Ctx<'_>) -> rquickjs::Result<Passed> {
        let passed = self.gate_to_wait(ctx)?;
        passed.control.effect();
        Ok(passed)
    }

    /// As [`Self::gate`], for an effect that waits before it happens: [`Passed::again`] is asked then.
    pub(crate) fn gate_to_wait(&self, ctx: &Ctx<'_>) -> rquickjs::Result<Passed> {
        if let Some(end) = self.end_now() {
            return Err(throw(ctx, ErrorKind::Internal, &end.to_string()));
        }
        // Each script evaluates them, and nobody is told whose doing it was.
        if self.is_preloading.get() {
            let message = "a preloaded library reaches outside only from functions that a script calls";
            return Err(throw(ctx, ErrorKind::Plain, message));
        }
        Ok(Passed { control: self.control(), fiber: self.fiber() })
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
        result.ok_or_else(|| throw(ctx, ErrorKind::Internal, &self.why_ended().to_string()))
    }

    /// Waits for I/O that must not be dropped half-way, to its own end, for which [`Self::time_for_io`] has to see. If
    /// the call is to end by then, what came of the I/O is not for the script.
    #[cfg(feature = "redis")]
    pub(crate) fn wait_through<F: Future>(&self, ctx: &Ctx<'_>, future: F) -> rquickjs::Result<F::Output> {
        match (wait_through(future), self.end_now()) {
            (Ok(output), None) => Ok(output),
            (_, end) => {
                let end = end.unwrap_or(ScriptError::Lost);
                Err(throw(ctx, ErrorKind::Internal, &end.to_string()))
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
        result.map_err(|_| throw(ctx, ErrorKind::Internal, &self.why_ended().to_string()))
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
                Err(throw(ctx, ErrorKind::Internal, &end.to_string()))
            }
        }
    }

    /// Brings a call as far as it gets at once: microtasks run, and if it does not wait for a promise, `finish` is given what it
    /// came to. What was rejected and not handled by then is the call's error. So is the reason for which it had to end, also if
    /// the script has caught what came of it.
    pub(super) fn advance<'js, R>(
        &self,
        ctx: &Ctx<'js>,
        value: Value<'js>,
        finish: &mut impl FnMut(&Ctx<'js>, Value<'js>) -> Result<R, Failure>,
    ) -> Result<Settling<R>, Failure> {
        self.run_jobs(ctx)?;
        let promise = value.as_promise().cloned();
        let value = match promise.as_ref().map(Promise::state) {
            None | Some(PromiseState::Resolved) => {
                if let Some(end) = self.ended() {
                    return Err(end.into());
                }
                self.check_rejections(ctx)?;
                match promise.and_then(|promise| promise.result()) {
                    Some(result) => result?,
                    None => value,
                }
            }
            Some(PromiseState::Rejected) => match promise.and_then(|promise| promise.result::<Value<'_>>()) {
                Some(Err(error)) => return Err(error.into()),
                _ => Value::new_undefined(ctx.clone()),
            },
            Some(PromiseState::Pending) => {
                self.check_rejections(ctx)?;
                // No job is left either: nothing of the script can run again.
                if self.events.no_timers() && self.operations.is_empty() {
                    return Err(self.end_now().unwrap_or(ScriptError::Unsettled).into());
                }
                let promise = promise.ok_or(rquickjs::Error::Unknown)?;
                return Kept::new(ctx, promise).map(Settling::Pending).map_err(Failure::from);
            }
        };
        finish(ctx, value).map(Settling::Done)
    }

    /// Waits for what may settle a promise that the call waits for, or for a reason to end the call.
    pub(super) async fn next_event(&self) {
        loop {
            let next = [self.events.next_timer(), self.deadline.get()].into_iter().flatten().min();
            if self.event_or_wake(next).await != Woken::Outside || self.end_now().is_some() {
                return;
            }
        }
    }

    /// Resolves at `until`, when an operation is over, or when the future is polled again for another reason.
    pub(super) async fn event_or_wake(&self, until: Option<Instant>) -> Woken {
        let fiber = self.fiber();
        let asked = fiber.asked();
        let mut has_waited = false;
        let outside = poll_fn(|context| {
            fiber.register(context.waker());
            // What was asked after the first look woke nobody.
            if std::mem::replace(&mut has_waited, true) || fiber.asked() != asked {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = time => Woken::Time,
            () = self.operations.ended() => Woken::Operation,
            () = outside => Woken::Outside,
        }
    }

    /// Runs what follows from the first event that is there: of a timer and an operation that which did not have its
    /// turn last.
    pub(super) fn run_event(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
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

    /// Runs the function of the first timer that is due.
    pub(super) fn run_timer(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        if let Some((function, arguments)) = self.events.take_due(ctx, Instant::now())? {
            entry::release(entry::call_with(ctx, &function, arguments)?);
        }
        Ok(())
    }

    pub(super) fn run_jobs(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        let (mut jobs, mut ended_after) = (0_usize, 0);
        while entry::run_job(ctx) {
            jobs += 1;
            if !jobs.is_multiple_of(JOBS_PER_LOOK) || !self.interrupt() {
                continue;
            }
            // The job that runs next is ended inside, and with it a chain of jobs that would go on in the next call.
            ended_after += JOBS_PER_LOOK;
            if !entry::hurry(ctx) || ended_after > JOBS_AFTER_END {
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

    pub(super) fn check_rejections(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        match self.events.take_rejection(ctx)? {
            Some(reason) => Err(self.thrown(ctx, reason, true).into()),
            None => Ok(()),
        }
    }
}

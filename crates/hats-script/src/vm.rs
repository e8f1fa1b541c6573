//! One script's interpreter.
//!
//! A [`Vm`] owns a QuickJS runtime with one context: the script's scope. It lives on its lane's side: what runs it is a future,
//! which enters the interpreter step by step. Each step runs on the interpreter's own stack, as a fiber, and to the script
//! everything in it looks synchronous. In the middle of a step the script may give way to others at any instruction, and may
//! die: then the interpreter is discarded, and all that the script owned is dropped here, in order.
//!
//! What must hold: what a step does is a function that owns nothing, since a death unwinds nothing; texts that it evaluates and
//! values that it keeps are owned by the future.
//!
//! Each call from outside ([`Vm::load`], [`Vm::call`], the timers that [`Vm::idle`] fires) is a *call*: it has a
//! time limit, it is over only when its promise is settled and the microtasks are done, and a rejection that
//! nobody has handled by then is its error. [`Vm::run_once`] makes the calls of a whole run, which has a time limit of
//! its own.

mod answer;
mod events;
mod failure;
mod host;
mod loader;
#[cfg_attr(
    not(feature = "http"),
    expect(dead_code, reason = "only promises of `http` are settled from outside")
)]
mod operations;
mod run;
mod source;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use hats_arena::{Interpreter, Kept, entry};
use hats_fiber::{Ask, Failure as FiberFailure, Handle, turn};
use rquickjs::{Atom, Ctx, Function, Object, Promise, Value};

use crate::bundle::{Bundle, Library};
use crate::error::{Error, ScriptError};
use crate::host::TaskControl;
use crate::lane::{LaneContext, ScriptTask};
use crate::limits::Limits;
use crate::modules;

use self::failure::Failure;
use self::loader::HostModules;
use self::source::Evaluated;

pub(crate) use self::host::{Host, Passed};
#[cfg(feature = "http")]
pub(crate) use self::operations::Finish;
pub use self::run::Run;

/// How long a script may keep its lane before it goes to the back of the queue.
pub(crate) const TIME_SLICE: Duration = Duration::from_millis(2);
/// Stack that native code (the interpreter's own frames and host calls) may use beside the script's.
const NATIVE_STACK_BYTES: usize = 512 << 10;
/// Stack that an interpreter keeps in memory after it has gone deeper than the calls to come.
const STACK_KEPT_BYTES: usize = 16 << 10;
/// Cycles are looked for when this much has been allocated, and then as the heap grows. QuickJS' own default
/// of 256 KiB, stated because memory per idle script hangs on it.
const GC_THRESHOLD_BYTES: usize = 256 << 10;

/// An interpreter with a script's scope in it.
pub struct Vm {
    host: Rc<Host>,
    // Invariant: holds values of the interpreter, so it is emptied before that goes (see `drop`).
    entries: Option<Entries>,
    // Invariant: as above.
    page: Option<Result<answer::Opened, ScriptError>>,
    /// What came of the libraries, if they have been evaluated.
    preloaded: Option<Result<(), ScriptError>>,
    interpreter: Interpreter,
}

/// How an idle time came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The time is over.
    Elapsed,
    /// The task has been asked to stop.
    Stop,
    /// Somebody wants the runner to look at what has changed.
    Woken,
}

/// Where a script's entry points are looked up, anew at each call: a script may replace them.
struct Entries {
    /// The names of [`source::ENTRY_POINTS`] as the engine keeps them: to look one up by its text costs as much as a call.
    names: Vec<Kept<Value<'static>>>,
    /// For each of [`source::ENTRY_POINTS`] a function that looks it up in the script's global scope; none where it is a
    /// property of the global object, which is sooner asked itself.
    lookups: Vec<Option<Kept<Function<'static>>>>,
    /// What a module exports.
    exports: Option<Kept<Object<'static>>>,
    /// The promise that the source of a run ended in.
    last: Option<Kept<Promise<'static>>>,
}

impl Vm {
    /// An interpreter for one piece of work.
    pub(crate) fn new(task: ScriptTask, lane: Rc<LaneContext>, fiber: Handle) -> Result<Self, Error> {
        Self::make(task, lane, fiber)
    }

    /// An interpreter that can be sealed, and reset after each piece of work.
    pub(crate) fn resettable(task: ScriptTask, lane: Rc<LaneContext>, fiber: Handle) -> Result<Self, Error> {
        let vm = Self::make(task, lane, fiber)?;
        vm.interpreter
            .with(|ctx| modules::random(ctx, &vm.host))
            .map_err(|error| Error::Vm(error.to_string()))?;
        Ok(vm)
    }

    /// Ends what all work in this interpreter has in common. False if it cannot be reset: then it is good for one piece.
    pub(crate) fn seal(&mut self) -> bool {
        // A library has set something in motion, which goes on in a scope that is new. Or it has opened a database, whose
        // sessions are no part of what is put back.
        #[cfg(feature = "sql")]
        let has_opened = !self.host.databases.is_empty();
        #[cfg(not(feature = "sql"))]
        let has_opened = false;
        if has_opened || !self.nothing_goes_on() {
            return false;
        }
        self.host.end_work();
        self.interpreter.seal().is_ok()
    }

    /// Another piece of work begins.
    pub(crate) fn begin_work(&mut self, control: Arc<dyn TaskControl>, fiber: Handle) {
        self.host.begin_work(control, fiber);
    }

    /// Puts the interpreter back to how it was when it was sealed. False if it has to be thrown away.
    pub(crate) fn end_work(&mut self) -> bool {
        self.entries = None;
        self.host.end_work();
        let modules = self.host.modules.take();
        if let (Some(modules), Some(_)) = (modules, &self.page) {
            modules.renew();
            *self.host.modules.borrow_mut() = Some(modules);
        }
        match self.interpreter.reset() {
            Ok(()) => {
                // What is idle keeps nobody's task: with it goes a page that nobody knows any more.
                self.host.forget_task();
                true
            }
            Err(why) => {
                self.host.log(|| tracing::debug!(reason = %why, "an interpreter is thrown away"));
                false
            }
        }
    }

    /// Gives back the stack that calls have used, but for what the next one needs first.
    pub(crate) fn trim_stack(&self) {
        if !self.is_dead() {
            self.interpreter.trim_stack(STACK_KEPT_BYTES);
        }
    }

    /// Bytes of memory that the interpreter takes while nobody uses it.
    pub(crate) fn resident(&self) -> usize {
        self.interpreter.resident()
    }

    fn make(task: ScriptTask, lane: Rc<LaneContext>, fiber: Handle) -> Result<Self, Error> {
        check_stack(&task.limits)?;
        let limit = task.limits.memory;
        let no_vm = |error: &dyn std::fmt::Display| {
            Error::Vm(format!("{error} (its heap limit, MemoryLimit, is {limit} bytes)"))
        };
        let limits = hats_arena::Limits {
            memory: task.limits.memory,
            stack: task.limits.stack,
            native_stack: NATIVE_STACK_BYTES,
            gc_threshold: GC_THRESHOLD_BYTES,
        };
        let interpreter = Interpreter::new(limits).map_err(|error| no_vm(&error))?;
        let host = Rc::new(Host::new(task, lane, fiber));
        let tracker = host.clone();
        interpreter.set_rejection_tracker(Box::new(move |ctx, promise, reason, is_handled| {
            tracker.events.track_rejection(ctx, promise, reason, is_handled);
        }));
        #[cfg(feature = "sql")]
        interpreter.set_released({
            let host = host.clone();
            move |number| host.databases.remove(number)
        });
        interpreter.set_meter(host.lane.metrics.heap_of(host.control().kind()));
        interpreter.set_modules(HostModules(host.clone()));
        interpreter.with(|ctx| modules::install(ctx, &host)).map_err(|error| no_vm(&error))?;
        // Not before: to make the scope takes no time to speak of, and an end that is asked for meanwhile is one of the
        // first call, not a scope that could not be made.
        let hook = host.clone();
        interpreter.set_interrupt(move || hook.interrupt());
        Ok(Self { host, entries: None, page: None, preloaded: None, interpreter })
    }

    /// Evaluates the worker's libraries in the script's scope, unless that has been done.
    ///
    /// # Errors
    /// What a library threw, or the limit that it ran into.
    pub async fn preload(&mut self) -> Result<(), ScriptError> {
        if let Some(preloaded) = &self.preloaded {
            return preloaded.clone();
        }
        let preloaded = self.preload_each(|_| Ok(())).await.map_err(|(_, error)| error);
        self.preloaded = Some(preloaded.clone());
        preloaded
    }

    /// The same, each with a look at what it is for scripts; an error comes with the library that it is of.
    pub(crate) async fn try_libraries(&mut self) -> Result<(), (Library, ScriptError)> {
        self.preload_each(source::refuse_entry_points).await
    }

    async fn preload_each(
        &mut self,
        then: impl Fn(&Ctx<'_>) -> rquickjs::Result<()>,
    ) -> Result<(), (Library, ScriptError)> {
        let host = self.host.clone();
        host.is_preloading.set(true);
        let mut evaluated = Ok(());
        for library in host.lane.preload.iter() {
            let one = async {
                let text = source::Text::new(&library.source, &library.name)?;
                self.call_through(
                    |ctx| {
                        // A promise for its last value is not waited for.
                        entry::release(text.evaluate(ctx)?);
                        Ok(Value::new_undefined(ctx.clone()))
                    },
                    |ctx, _| Ok(then(ctx)?),
                )
                .await
            };
            if let Err(error) = one.await {
                evaluated = Err((library.clone(), error));
                break;
            }
        }
        host.is_preloading.set(false);
        evaluated
    }

    /// Evaluates a whole source in the script's scope, after the libraries: as a script, or as a module if it only parses
    /// as one. `file` stands in stack traces.
    ///
    /// # Errors
    /// What the script threw, or the limit that it ran into.
    pub async fn load(&mut self, source: &str, file: &str) -> Result<(), ScriptError> {
        self.load_bundle(&Bundle::from(source), file).await
    }

    /// As [`Vm::load`], for a source with the modules that it may import.
    ///
    /// # Errors
    /// What the script threw, or the limit that it ran into.
    pub async fn load_bundle(&mut self, bundle: &Bundle, file: &str) -> Result<(), ScriptError> {
        self.check_size(bundle.bytes(), bundle)?;
        self.preload().await?;
        let source = &*bundle.main;
        let modules = source::may_be_module(source).then(|| self.host.serve_modules(bundle, file));
        let text = source::Text::new(source, file)?;
        let host = self.host.clone();
        let exports: RefCell<Option<Kept<Object<'static>>>> = RefCell::default();
        let last: RefCell<Option<Kept<Promise<'static>>>> = RefCell::default();
        let loaded = self
            .call_through(
                |ctx| {
                    let evaluated = text.evaluate_source(ctx)?;
                    if let Some(modules) = &modules {
                        modules.source_is_declared();
                    }
                    match evaluated {
                        Evaluated::Module(promise, namespace) => {
                            *exports.borrow_mut() = Some(Kept::new(ctx, namespace)?);
                            Ok(promise.into_value())
                        }
                        Evaluated::Script(value) => {
                            // For a thread it means nothing, be it a promise or not.
                            if let Some(promise) = value.into_promise().filter(|_| host.keeps_log()) {
                                *last.borrow_mut() = Some(Kept::new(ctx, promise)?);
                            }
                            Ok(Value::new_undefined(ctx.clone()))
                        }
                    }
                },
                |ctx, _| Ok(Entries::find(ctx, &exports, &last)?),
            )
            .await;
        if let (Err(_), Some(modules)) = (&loaded, modules) {
            modules.abandon();
        }
        self.entries = Some(loaded?);
        // The parser and the making of a scope went much deeper than the calls to come.
        self.interpreter.trim_stack(STACK_KEPT_BYTES);
        Ok(())
    }

    /// Refuses a source of `bytes` that is longer than its limit, or has too many modules.
    fn check_size(&self, bytes: usize, bundle: &Bundle) -> Result<(), ScriptError> {
        let limit = self.host.limits.source;
        if bytes > limit {
            return Err(ScriptError::SourceTooLong(bytes, limit));
        }
        if bundle.modules.len() > Bundle::MODULES_MAX {
            return Err(ScriptError::TooManyModules(bundle.modules.len(), Bundle::MODULES_MAX));
        }
        Ok(())
    }

    /// True if the script has a function of this name.
    pub async fn has(&self, function: &str) -> bool {
        if self.host.begin_call().is_err() {
            return false;
        }
        self.step(|ctx| Ok(self.find(ctx, function)?.is_some())).await.unwrap_or(false)
    }

    /// Calls a function of the script and waits until what it returns is settled. A missing function is no
    /// error: nothing is called.
    ///
    /// # Errors
    /// What the script threw, or the limit that it ran into.
    pub async fn call(&mut self, function: &str) -> Result<(), ScriptError> {
        let called = self
            .call_through(
                |ctx| match self.find(ctx, function)? {
                    Some(function) => Ok(entry::call(ctx, &function, &[])?),
                    None => Ok(Value::new_undefined(ctx.clone())),
                },
                |_, value| {
                    entry::release(value);
                    Ok(())
                },
            )
            .await;
        if function == "main" {
            self.host.main_ended();
            if called.is_err() {
                self.host.count_main(Instant::now());
            }
        }
        called
    }

    /// Lets timers and promises of the script run, for `time` or, without it, until the task is asked to stop or
    /// the runner is woken. A time of zero gives way to other scripts if the time slice is used up.
    ///
    /// # Errors
    /// What a timer's function threw, or why the script has to end.
    pub async fn idle(&mut self, time: Option<Duration>) -> Result<Wake, ScriptError> {
        let asked = self.host.asked();
        if asked >= Ask::Interrupt || (time == Some(Duration::ZERO) && self.nothing_goes_on()) {
            return self.give_way(asked).await;
        }
        let now = Instant::now();
        self.host.count_main(now);
        let until = time.map(|time| now + time);
        loop {
            self.fire_timers().await?;
            self.finish_operations().await?;
            if self.host.asked() >= Ask::EndWaits {
                return self.give_way(self.host.asked()).await;
            }
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Ok(Wake::Elapsed);
            }
            let next = [until, self.host.events.next_timer()].into_iter().flatten().min();
            if self.host.event_or_wake(next).await == Woken::Outside {
                match self.host.asked() {
                    Ask::Nothing => return Ok(Wake::Woken),
                    Ask::EndWaits => return Ok(Wake::Stop),
                    _ => return Err(self.host.why_ended()),
                }
            }
        }
    }

    /// Replaces the time limit of the calls to come.
    pub fn set_call_timeout(&mut self, limit: Option<Duration>) {
        self.host.call_timeout.set(limit);
    }

    /// Takes back an interrupt that has done its work, so that the script can clean up.
    pub fn withdraw_interrupt(&mut self) {
        self.host.fiber().withdraw_interrupt();
    }

    /// What has been asked of the script.
    #[must_use]
    pub fn stop_asked(&self) -> bool {
        self.host.asked() >= Ask::EndWaits
    }

    /// Bytes of heap that the script uses.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.interpreter.used()
    }

    /// Where the bytes that the heap takes can be read at any time.
    pub(crate) fn heap_gauge(&self) -> Arc<AtomicUsize> {
        self.interpreter.gauge()
    }

    /// True if the script died in the middle of something: nothing of it can be called any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.interpreter.death().is_some()
    }

    async fn give_way(&self, asked: Ask) -> Result<Wake, ScriptError> {
        if asked >= Ask::Interrupt {
            return Err(self.host.why_ended());
        }
        let now = Instant::now();
        self.host.count_main(now);
        if now.saturating_duration_since(crate::lane::polled_at()) >= TIME_SLICE {
            turn().await;
            let asked = self.host.asked();
            if asked >= Ask::Interrupt {
                return Err(self.host.why_ended());
            }
        }
        Ok(if asked >= Ask::EndWaits { Wake::Stop } else { Wake::Elapsed })
    }

    /// Fires the timers that are due now: not those that become due meanwhile, or a script whose timers take longer
    /// than their interval would never come to anything else.
    async fn fire_timers(&mut self) -> Result<(), ScriptError> {
        let now = Instant::now();
        while self.host.events.timer_due(now) && !self.stop_asked() {
            let host = self.host.clone();
            self.call_through(|ctx| host.run_timer(ctx).map(|()| Value::new_undefined(ctx.clone())), nothing)
                .await?;
        }
        Ok(())
    }

    /// Settles the promises of the operations that are over. Those that are begun meanwhile have to wait, or a script that
    /// begins one at the end of each would never come to anything else.
    async fn finish_operations(&mut self) -> Result<(), ScriptError> {
        for _ in 0..self.host.operations.count() {
            if self.stop_asked() {
                break;
            }
            let Some(done) = self.host.operations.take() else { break };
            let (host, done) = (self.host.clone(), RefCell::new(Some(done)));
            let settle = |ctx: &Ctx<'_>| {
                if let Some(done) = done.take() {
                    host.finish_operation(ctx, done)?;
                }
                Ok(())
            };
            self.call_through(|ctx| settle(ctx).map(|()| Value::new_undefined(ctx.clone())), nothing).await?;
        }
        Ok(())
    }

    fn nothing_goes_on(&self) -> bool {
        self.host.events.no_timers() && self.host.operations.is_empty()
    }

    /// One call of the script: begins it with `start`, brings what that returns to its end, and has `finish` look at what came
    /// of it. Finds out what went wrong if something did.
    async fn call_through<R>(
        &self,
        start: impl for<'js> FnMut(&Ctx<'js>) -> Result<Value<'js>, Failure>,
        finish: impl for<'js> FnMut(&Ctx<'js>, Value<'js>) -> Result<R, Failure>,
    ) -> Result<R, ScriptError> {
        self.host.begin_call()?;
        let result = self.settled(start, finish).await;
        self.ended(result)
    }

    /// What a call comes to that has gone well otherwise.
    fn ended<R>(&self, result: Result<R, ScriptError>) -> Result<R, ScriptError> {
        // A call that stood still while its lease ran out, and then found nothing more to do, has not gone well.
        let result = if self.host.is_lost() { Err(ScriptError::Lost) } else { result };
        if result.as_ref().is_err_and(|error| !matches!(error, ScriptError::Thrown(_))) {
            self.interpreter.condemn();
        }
        result
    }

    /// As [`Self::call_through`], within a call. While a promise is waited for, the script takes no stack.
    async fn settled<R>(
        &self,
        mut start: impl for<'js> FnMut(&Ctx<'js>) -> Result<Value<'js>, Failure>,
        mut finish: impl for<'js> FnMut(&Ctx<'js>, Value<'js>) -> Result<R, Failure>,
    ) -> Result<R, ScriptError> {
        let host = &*self.host;
        let mut settling = self
            .step(|ctx| {
                let value = start(ctx)?;
                host.advance(ctx, value, &mut finish)
            })
            .await?;
        loop {
            let promise = match settling {
                Settling::Done(result) => return Ok(result),
                Settling::Pending(promise) => RefCell::new(Some(promise)),
            };
            host.next_event().await;
            if let Some(end) = host.end_now() {
                host.events.forget_failures();
                return Err(end);
            }
            settling = self
                .step(|ctx| {
                    host.run_event(ctx)?;
                    let kept = promise.take();
                    let value = match &kept {
                        Some(promise) => promise.get(ctx)?.into_value(),
                        None => Value::new_undefined(ctx.clone()),
                    };
                    drop(kept);
                    host.advance(ctx, value, &mut finish)
                })
                .await?;
        }
    }

    /// Runs `f` in the interpreter, as a fiber: `f` is called once.
    async fn step<R>(
        &self,
        mut f: impl for<'js> FnMut(&Ctx<'js>) -> Result<R, Failure>,
    ) -> Result<R, ScriptError> {
        if self.is_dead() {
            return Err(self.why_dead());
        }
        let host = &*self.host;
        let entered = self
            .interpreter
            .enter(
                host.fiber(),
                || host.next_turn(),
                |ctx| f(ctx).map_err(|failure| host.explain(ctx, failure)),
            )
            .await;
        match entered {
            Ok(result) => result,
            Err(FiberFailure::Panicked(panicked)) => panicked.resume(),
            Err(_) => {
                let why = self.why_dead();
                host.count_death(&why);
                Err(why)
            }
        }
    }

    /// What the death of the script is to its author.
    fn why_dead(&self) -> ScriptError {
        self.interpreter.death().map_or(ScriptError::Interrupted, |death| self.host.why_died(death))
    }

    fn find<'js>(&self, ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Option<Function<'js>>> {
        let Some(entries) = &self.entries else { return Ok(None) };
        let place = source::ENTRY_POINTS.iter().position(|entry| *entry == name);
        let name = match place {
            Some(place) => entries.names[place].get(ctx)?,
            None => Atom::from_str(ctx.clone(), name)?.to_value()?,
        };
        if let Some(exports) = &entries.exports {
            let exports = exports.get(ctx)?;
            let exported: Value<'_> = entry::run(|| exports.get(name.clone()))?;
            if let Some(function) = exported.into_function() {
                return Ok(Some(function));
            }
        }
        let found: Value<'_> = match place.and_then(|place| entries.lookups[place].as_ref()) {
            Some(lookup) => entry::call(ctx, &lookup.get(ctx)?, &[])?,
            None => {
                let globals = ctx.globals();
                entry::run(|| globals.get(name.clone()))?
            }
        };
        Ok(found.into_function())
    }
}

impl Entries {
    /// Finds them in a scope in which the source has been evaluated.
    fn find(
        ctx: &Ctx<'_>,
        exports: &RefCell<Option<Kept<Object<'static>>>>,
        last: &RefCell<Option<Kept<Promise<'static>>>>,
    ) -> rquickjs::Result<Self> {
        let lookups = source::ENTRY_POINTS.iter().map(|name| source::lookup(ctx, name));
        let names = source::ENTRY_POINTS
            .iter()
            .map(|name| Kept::new(ctx, Atom::from_str(ctx.clone(), name)?.to_value()?));
        Ok(Self {
            names: names.collect::<rquickjs::Result<_>>()?,
            lookups: lookups.collect::<rquickjs::Result<_>>()?,
            exports: exports.take(),
            last: last.take(),
        })
    }
}

/// A call whose result nobody looks at.
fn nothing(_: &Ctx<'_>, value: Value<'_>) -> Result<(), Failure> {
    entry::release(value);
    Ok(())
}

/// Refuses a stack limit that is none.
fn check_stack(limits: &Limits) -> Result<(), Error> {
    let stack = limits.stack;
    if (Limits::STACK_MIN..=Limits::STACK_MAX).contains(&stack) {
        return Ok(());
    }
    let (least, most) = (Limits::STACK_MIN, Limits::STACK_MAX);
    Err(Error::Vm(format!("its StackLimit of {stack} bytes is not from {least} to {most}")))
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.host.has_main_to_count() {
            self.host.count_main(Instant::now());
        }
        self.entries = None;
        self.page = None;
        self.host.clear();
    }
}

/// How far a call has come.
pub(super) enum Settling<R> {
    Done(R),
    /// It waits for this.
    Pending(Kept<Promise<'static>>),
}

/// Why an idle script goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Time,
    Operation,
    Outside,
}

#[cfg(test)]
mod tests;

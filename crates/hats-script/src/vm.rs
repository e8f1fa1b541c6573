//! One script's interpreter.
//!
//! A [`Vm`] owns a QuickJS runtime with one context: the script's scope. It is made on the fiber that uses it
//! (QuickJS takes the stack it was made on for the one to guard) and everything in it looks synchronous.
//!
//! Each entry from outside ([`Vm::load`], [`Vm::call`], the timers that [`Vm::idle`] fires) is a *call*: it has a
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

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use hats_arena::{Interpreter, Kept};
use hats_fiber::{Ask, Ended, Handle, resumed_at, trim_stack, wait, wait_ending};
use rquickjs::{Atom, Ctx, Function, Object, Promise, Value};

use crate::bundle::{Bundle, Library};
use crate::error::{Error, ScriptError};
use crate::host::TaskControl;
use crate::lane::{LaneContext, ScriptTask};
use crate::modules;

use self::operations::Operations;
use self::source::Evaluated;

use self::loader::HostModules;

pub(crate) use self::host::{Host, Passed};
#[cfg(feature = "http")]
pub(crate) use self::operations::Finish;
pub use self::run::Run;

/// How long a script may keep its lane before it goes to the back of the queue.
pub(crate) const TIME_SLICE: Duration = Duration::from_millis(2);
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
        Self::make(task, lane, fiber, Interpreter::plain)
    }

    /// An interpreter that can be sealed, and reset after each piece of work.
    pub(crate) fn resettable(task: ScriptTask, lane: Rc<LaneContext>, fiber: Handle) -> Result<Self, Error> {
        let vm = Self::make(task, lane, fiber, Interpreter::in_arena)?;
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

    /// Bytes of memory that the interpreter takes while nobody uses it.
    pub(crate) fn resident(&self) -> usize {
        self.interpreter.resident()
    }

    fn make(
        task: ScriptTask,
        lane: Rc<LaneContext>,
        fiber: Handle,
        interpreter: fn(hats_arena::Limits) -> Result<Interpreter, hats_arena::Error>,
    ) -> Result<Self, Error> {
        let limit = task.limits.memory;
        let no_vm = |error: &dyn std::fmt::Display| {
            Error::Vm(format!("{error} (its heap limit, MemoryLimit, is {limit} bytes)"))
        };
        let limits = hats_arena::Limits {
            memory: task.limits.memory,
            stack: task.limits.stack,
            gc_threshold: GC_THRESHOLD_BYTES,
        };
        let interpreter = interpreter(limits).map_err(|error| no_vm(&error))?;
        let host = Rc::new(Host::new(task, lane, fiber));
        let tracker = host.clone();
        interpreter.set_rejection_tracker(Box::new(move |ctx, promise, reason, handled| {
            tracker.events.track_rejection(&ctx, promise, reason, handled);
        }));
        #[cfg(feature = "sql")]
        interpreter.set_released({
            let host = host.clone();
            move |number| host.databases.remove(number)
        });
        interpreter.set_meter(host.lane.metrics.heap_of(host.control().kind()));
        interpreter.set_loader(HostModules(host.clone()), HostModules(host.clone()));
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
    pub fn preload(&mut self) -> Result<(), ScriptError> {
        if let Some(preloaded) = &self.preloaded {
            return preloaded.clone();
        }
        let preloaded = self.preload_each(|_| Ok(())).map_err(|(_, error)| error);
        self.preloaded = Some(preloaded.clone());
        preloaded
    }

    /// The same, each with a look at what it is for scripts; an error comes with the library that it is of.
    pub(crate) fn try_libraries(&mut self) -> Result<(), (Library, ScriptError)> {
        self.preload_each(source::refuse_entry_points)
    }

    fn preload_each(
        &mut self,
        then: impl Fn(&Ctx<'_>) -> rquickjs::Result<()>,
    ) -> Result<(), (Library, ScriptError)> {
        let host = self.host.clone();
        host.is_preloading.set(true);
        let evaluated = host.lane.preload.iter().try_for_each(|library| {
            let evaluated = self.enter(|ctx| {
                source::evaluate_library(ctx, library)?;
                host.settle(ctx, None)?;
                Ok(then(ctx)?)
            });
            evaluated.map_err(|error| (library.clone(), error))
        });
        host.is_preloading.set(false);
        evaluated
    }

    /// Evaluates a whole source in the script's scope, after the libraries: as a script, or as a module if it only parses
    /// as one. `file` stands in stack traces.
    ///
    /// # Errors
    /// What the script threw, or the limit that it ran into.
    pub fn load(&mut self, source: &str, file: &str) -> Result<(), ScriptError> {
        self.load_bundle(&Bundle::from(source), file)
    }

    /// As [`Vm::load`], for a source with the modules that it may import.
    ///
    /// # Errors
    /// What the script threw, or the limit that it ran into.
    pub fn load_bundle(&mut self, bundle: &Bundle, file: &str) -> Result<(), ScriptError> {
        self.check_size(bundle.bytes(), bundle)?;
        self.preload()?;
        let source = &*bundle.main;
        let modules = source::may_be_module(source).then(|| self.host.serve_modules(bundle, file));
        let host = self.host.clone();
        let loaded = self.enter(|ctx| {
            let evaluated = source::evaluate(ctx, source, file)?;
            if let Some(modules) = &modules {
                modules.source_is_declared();
            }
            let (evaluated, exports, last) = match evaluated {
                Evaluated::Module(promise, exports) => (Some(promise), Some(exports), None),
                // For a thread it means nothing, be it a promise or not.
                Evaluated::Script(value) => (None, None, value.into_promise().filter(|_| host.keeps_log())),
            };
            host.settle(ctx, evaluated)?;
            let lookups = source::ENTRY_POINTS.iter().map(|name| source::lookup(ctx, name));
            let names = source::ENTRY_POINTS
                .iter()
                .map(|name| Kept::new(ctx, Atom::from_str(ctx.clone(), name)?.to_value()?));
            Ok(Entries {
                names: names.collect::<rquickjs::Result<_>>()?,
                lookups: lookups.collect::<rquickjs::Result<_>>()?,
                exports: exports.map(|exports| Kept::new(ctx, exports)).transpose()?,
                last: last.map(|promise| Kept::new(ctx, promise)).transpose()?,
            })
        });
        if let (Err(_), Some(modules)) = (&loaded, modules) {
            modules.abandon();
        }
        self.entries = Some(loaded?);
        // The parser and the making of a scope went much deeper than the calls to come.
        trim_stack();
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
    #[must_use]
    pub fn has(&self, function: &str) -> bool {
        self.enter(|ctx| Ok(self.find(ctx, function)?.is_some())).unwrap_or(false)
    }

    /// Calls a function of the script and waits until what it returns is settled. A missing function is no
    /// error: nothing is called.
    ///
    /// # Errors
    /// What the script threw, or the limit that it ran into.
    pub fn call(&mut self, function: &str) -> Result<(), ScriptError> {
        let host = self.host.clone();
        let called = self.enter(|ctx| match self.find(ctx, function)? {
            Some(function) => {
                let value: Value<'_> = function.call(())?;
                host.settle(ctx, value.into_promise())
            }
            None => Ok(()),
        });
        if function == "main" {
            host.main_ended();
            if called.is_err() {
                host.count_main(Instant::now());
            }
        }
        called
    }

    /// Lets timers and promises of the script run, for `time` or, without it, until the task is asked to stop or
    /// the runner is woken. A time of zero gives way to other scripts if the time slice is used up.
    ///
    /// # Errors
    /// What a timer's function threw, or why the script has to end.
    pub fn idle(&mut self, time: Option<Duration>) -> Result<Wake, ScriptError> {
        let asked = self.host.asked();
        if asked >= Ask::Interrupt || (time == Some(Duration::ZERO) && self.nothing_goes_on()) {
            return self.give_way(asked);
        }
        let now = Instant::now();
        self.host.count_main(now);
        let until = time.map(|time| now + time);
        loop {
            self.fire_timers()?;
            self.finish_operations()?;
            if self.host.asked() >= Ask::EndWaits {
                return self.give_way(self.host.asked());
            }
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Ok(Wake::Elapsed);
            }
            let next = [until, self.host.events.next_timer()].into_iter().flatten().min();
            match wait_ending(woken_or(next, &self.host.operations)) {
                Ok(Woken::Time | Woken::Operation) => {}
                Ok(Woken::Outside) if !self.stop_asked() => return Ok(Wake::Woken),
                Ok(Woken::Outside) => {}
                Err(Ended::Early) => return Ok(Wake::Stop),
                Err(Ended::Interrupted) => return Err(self.host.why_ended()),
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

    /// Where the bytes that the heap takes can be read at any time, if they can.
    pub(crate) fn heap_gauge(&self) -> Option<Arc<AtomicUsize>> {
        self.interpreter.gauge()
    }

    fn give_way(&self, asked: Ask) -> Result<Wake, ScriptError> {
        if asked >= Ask::Interrupt {
            return Err(self.host.why_ended());
        }
        let now = Instant::now();
        self.host.count_main(now);
        let has_had_its_turn =
            resumed_at().is_some_and(|resumed| now.saturating_duration_since(resumed) >= TIME_SLICE);
        if has_had_its_turn && wait(tokio::task::yield_now()).is_err() {
            return Err(self.host.why_ended());
        }
        Ok(if asked >= Ask::EndWaits { Wake::Stop } else { Wake::Elapsed })
    }

    /// Fires the timers that are due now: not those that become due meanwhile, or a script whose timers take longer
    /// than their interval would never come to anything else.
    fn fire_timers(&mut self) -> Result<(), ScriptError> {
        let now = Instant::now();
        while self.host.events.timer_due(now) && !self.stop_asked() {
            let host = self.host.clone();
            self.enter(|ctx| host.fire_timer(ctx))?;
        }
        Ok(())
    }

    /// Settles the promises of the operations that are over. Those that are begun meanwhile have to wait, or a script that
    /// begins one at the end of each would never come to anything else.
    fn finish_operations(&mut self) -> Result<(), ScriptError> {
        for _ in 0..self.host.operations.count() {
            if self.stop_asked() {
                break;
            }
            let Some(done) = self.host.operations.take() else { break };
            let host = self.host.clone();
            self.enter(|ctx| host.finish(ctx, done))?;
        }
        Ok(())
    }

    fn nothing_goes_on(&self) -> bool {
        self.host.events.no_timers() && self.host.operations.is_empty()
    }

    /// Begins a call, runs `f` in the interpreter, and finds out what went wrong if something did.
    fn enter<R>(
        &self,
        f: impl for<'js> FnOnce(&Ctx<'js>) -> Result<R, failure::Failure>,
    ) -> Result<R, ScriptError> {
        self.host.begin_call()?;
        let result = self.interpreter.with(|ctx| f(ctx).map_err(|failure| self.host.explain(ctx, failure)));
        // A call that stood still while its lease ran out, and then found nothing more to do, has not gone well.
        let result = if self.host.is_lost() { Err(ScriptError::Lost) } else { result };
        if result
            .as_ref()
            .is_err_and(|error| !matches!(error, ScriptError::Thrown(_) | ScriptError::Unsettled))
        {
            self.interpreter.condemn();
        }
        result
    }

    fn find<'js>(&self, ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Option<Function<'js>>> {
        let Some(entries) = &self.entries else { return Ok(None) };
        let place = source::ENTRY_POINTS.iter().position(|entry| *entry == name);
        let name = match place {
            Some(place) => entries.names[place].get(ctx)?,
            None => Atom::from_str(ctx.clone(), name)?.to_value()?,
        };
        if let Some(exports) = &entries.exports {
            let exported: Value<'_> = exports.get(ctx)?.get(name.clone())?;
            if let Some(function) = exported.into_function() {
                return Ok(Some(function));
            }
        }
        let found: Value<'_> = match place.and_then(|place| entries.lookups[place].as_ref()) {
            Some(lookup) => lookup.get(ctx)?.call(())?,
            None => ctx.globals().get(name)?,
        };
        Ok(found.into_function())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.host.has_main_to_count() {
            self.host.count_main(Instant::now());
        }
        // Values that Rust holds must go before the interpreter that they belong to.
        self.entries = None;
        self.page = None;
        self.host.clear();
    }
}

enum Woken {
    Time,
    Operation,
    Outside,
}

/// Resolves at `until`, when an operation is over, or when the fiber is polled again for another reason.
async fn woken_or(until: Option<Instant>, operations: &Operations) -> Woken {
    let mut polled = false;
    let outside = std::future::poll_fn(|_| {
        if std::mem::replace(&mut polled, true) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
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
        () = operations.ended() => Woken::Operation,
        () = outside => Woken::Outside,
    }
}

#[cfg(test)]
mod tests;

//! One case of the fuzz test: a random program with random limits on a lane of its own, preempted, interrupted, killed or dropped at
//! random moments, beside a neighbour on the same OS thread that must come to the results that it would come to alone.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hats_arena::entry::{self, Kind};
use hats_arena::{Error, Interpreter, Limits, Native, Turn, Unfit};
use hats_fiber::{Ask, Death, Failure, Handle};
use rquickjs::{CatchResultExt, Ctx, Function, Value};

use super::program::{self, Choices};

/// Deterministic work of many kinds; each returns a short digest.
const WORK: &CStr = match CStr::from_bytes_with_nul(
    concat!(include_str!("../../../crates/hats-arena/src/interpreter/tests/work.js"), "\0").as_bytes(),
) {
    Ok(text) => text,
    Err(_) => c"",
};
/// What generated programs call beside the engine's own functions.
const SUPPORT: &str = include_str!("support.js");
/// What an interpreter that was reset has to come to.
const CHECK: &str = "[3, 1, 2].toSorted().map(x => x * 2).join() + 'aXb'.replace(/x/i, y => y + y) + JSON.stringify({ a: [1n ** 2n + ''] }) \
    + [...new Map([[1, 2]])] + depth + typeof x + Object.keys(globalThis).length";
const NATIVE_STACK_BYTES: usize = 512 << 10;
/// Bytes beyond its limit that a host call may have taken when its script dies.
const RESERVE_BYTES: usize = 4 << 20;
/// After an interrupt that is not obeyed for as many turns, the script is killed.
const TURNS_TO_OBEY: u32 = 60;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its limits are too small for the engine's own beginning.
    NotBegun,
    /// It is no JavaScript.
    NotParsed,
    /// It ran to its end.
    Done,
    /// It threw.
    Thrown,
    /// It obeyed an interrupt.
    Interrupted,
    /// It was dropped in its middle.
    Dropped,
    /// It died.
    Dead(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun => f.write_str("not begun"),
            Self::NotParsed => f.write_str("not parsed"),
            Self::Done => f.write_str("done"),
            Self::Thrown => f.write_str("thrown"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Dropped => f.write_str("dropped"),
            Self::Dead(why) => write!(f, "dead: {why}"),
        }
    }
}

/// What is done to a program that goes on for too long.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is abandoned when its turn comes.
    Die,
    /// It is interrupted at the next turn of a loop, and abandoned if that does not help.
    Hurry,
    /// It is asked to come to its end, then killed.
    Interrupt,
    /// It is asked to die, waiting or not.
    Kill,
    /// Its future is dropped.
    Drop,
}

/// What is done with one program, in the order in which the bytes decide it.
#[derive(Debug)]
pub struct Case {
    limits: Limits,
    slice: u64,
    spread: u64,
    turns: u32,
    end: End,
    is_sealed: bool,
    kind: u8,
    /// Of the victim's polls, every how manieth is followed by one of the neighbour.
    neighbour_every: u32,
    source: CString,
}

impl Case {
    /// The case that these bytes describe.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut choices = Choices::new(bytes);
        let limits = Limits {
            memory: choices.one_of(&[4 << 20, 3 << 19, 2 << 20, 3 << 20, 8 << 20, 16 << 20]),
            stack: choices.one_of(&[512 << 10, 256 << 10, 128 << 10, 64 << 10, 32 << 10, 16 << 10]),
            native_stack: NATIVE_STACK_BYTES,
            gc_threshold: choices.one_of(&[256 << 10, 1 << 10, 32 << 10, 1 << 20]),
        };
        let (slice, spread) = choices.one_of(&[
            (1_000, 40_000),
            (1_000, 1_000),
            (20_000, 200_000),
            (2_000_000, 1),
            (100_000, 400_000),
        ]);
        let turns =
            choices.one_of(&[0, 1, 2, 3, 5, 8, 13, 20, 40, 80, 150, 300]) + u32::from(choices.byte() % 8);
        let end = choices.one_of(&[End::Die, End::Die, End::Hurry, End::Interrupt, End::Kill, End::Drop]);
        let is_sealed = choices.below(3) == 1;
        let kind = choices.byte() % 8;
        let neighbour_every = choices.one_of(&[8, 1, 2, 32]);
        let source = CString::new(program::program(&mut choices)).unwrap_or_default();
        Self { limits, slice, spread, turns, end, is_sealed, kind, neighbour_every, source }
    }

    /// Its program.
    #[must_use]
    pub fn source(&self) -> &str {
        self.source.to_str().unwrap_or_default()
    }

    /// Runs it beside the neighbour.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn run(&self, neighbour: &mut Neighbour) -> Outcome {
        let nested = hats_fiber::stats().nested_entries;
        self.set_slices();
        let outcome = self.run_program(neighbour);
        hats_fiber::set_slice_of_tests(None);
        assert_eq!(hats_fiber::stats().nested_entries, nested, "JavaScript ran above a host function");
        outcome
    }

    fn set_slices(&self) {
        let (slice, spread) = (self.slice, self.spread);
        let mut seed = 88_172_645_463_325_252 ^ self.source.as_bytes().len() as u64;
        hats_fiber::set_slice_of_tests(Some(Box::new(move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            Duration::from_nanos(slice + seed % spread)
        })));
    }

    fn run_program(&self, neighbour: &mut Neighbour) -> Outcome {
        let interpreter = match Interpreter::new(self.limits) {
            Ok(interpreter) => interpreter,
            Err(Error::System(error)) => panic!("no interpreter: {error}"),
            Err(_) => return Outcome::NotBegun,
        };
        let begun = Rc::new(Cell::new(false));
        if !set_up(&interpreter, &begun) {
            return Outcome::NotBegun;
        }
        let is_interrupted = Rc::new(Cell::new(false));
        let asked = is_interrupted.clone();
        interpreter.set_interrupt(move || asked.get());
        interpreter.set_rejection_tracker(Box::new(|_, _, _, _| {}));
        let expected = self.is_sealed.then(|| {
            interpreter.seal().ok()?;
            let checked = eval(&interpreter, CHECK);
            interpreter.reset().ok().map(|()| checked)
        });
        begun.set(false);

        let outcome = self.victim(&interpreter, &is_interrupted, neighbour);
        let outcome = match outcome {
            Outcome::Thrown if !begun.get() => Outcome::NotParsed,
            outcome => outcome,
        };

        assert_eq!(interpreter.nested_entries(), 0, "JavaScript ran above a host function");
        let used = interpreter.used();
        assert!(used <= self.limits.memory + RESERVE_BYTES, "{used} bytes in use of {}", self.limits.memory);
        assert_eq!(interpreter.gauge().load(Ordering::Relaxed), used, "the gauge is wrong");
        let is_dead = matches!(outcome, Outcome::Dead(_)) || interpreter.death().is_some();
        if let Some(Some(expected)) = expected {
            match interpreter.reset() {
                Ok(()) => {
                    assert!(!is_dead, "one that died was reset");
                    assert_eq!(eval(&interpreter, CHECK), expected, "one that was reset is another");
                }
                Err(Unfit::Dead(_)) => assert!(is_dead),
                Err(Unfit::Interrupted | Unfit::OutOfMemory) => {}
                Err(why) => panic!("not to be reset: {why}"),
            }
        }
        outcome
    }

    /// The program on its own stack, its neighbour between its turns.
    fn victim(
        &self,
        interpreter: &Interpreter,
        is_interrupted: &Cell<bool>,
        neighbour: &mut Neighbour,
    ) -> Outcome {
        let handle = Handle::new();
        let turns = Cell::new(0);
        let turn = || {
            turns.set(turns.get() + 1);
            if turns.get() <= self.turns {
                return Turn::GoOn;
            }
            if turns.get() > self.turns + TURNS_TO_OBEY {
                return Turn::Die;
            }
            match self.end {
                End::Die => Turn::Die,
                End::Hurry => {
                    is_interrupted.set(true);
                    Turn::Hurry
                }
                End::Interrupt => {
                    is_interrupted.set(true);
                    handle.ask(Ask::Interrupt);
                    Turn::Hurry
                }
                End::Kill => {
                    handle.ask(Ask::Kill);
                    Turn::GoOn
                }
                End::Drop => Turn::GoOn,
            }
        };
        let mut script = Box::pin(interpreter.enter(handle.clone(), turn, |ctx| self.script(ctx)));
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0;
        let result = loop {
            if let Poll::Ready(result) = script.as_mut().poll(&mut context) {
                break Some(result);
            }
            polls += 1;
            if polls % self.neighbour_every == 0 {
                neighbour.poll();
            }
            if polls > self.turns {
                // One that waits gets no turns.
                match self.end {
                    End::Drop => break None,
                    End::Interrupt => handle.ask(Ask::Interrupt),
                    End::Kill => handle.ask(Ask::Kill),
                    End::Die | End::Hurry if polls > self.turns + TURNS_TO_OBEY => handle.ask(Ask::Kill),
                    End::Die | End::Hurry => {}
                }
            }
        };
        drop(script);
        let death = interpreter.death();
        match result {
            None => {
                assert_eq!(death, Some(Death::Killed));
                Outcome::Dropped
            }
            Some(Ok(outcome)) => {
                assert_eq!(death, None);
                if is_interrupted.get() && outcome == Outcome::Thrown {
                    Outcome::Interrupted
                } else {
                    outcome
                }
            }
            Some(Err(Failure::Dead(dead))) => {
                assert_eq!(death, Some(dead));
                Outcome::Dead(match dead {
                    Death::Killed => "killed",
                    Death::Memory => "memory",
                    Death::Stack => "stack",
                    Death::Assertion => "assertion",
                    _ => "other",
                })
            }
            Some(Err(failure)) => panic!("{failure}"),
        }
    }

    fn script(&self, ctx: &Ctx<'_>) -> Outcome {
        let result = match self.kind {
            0 => entry::declare(ctx, &self.source, c"fuzz.js")
                .and_then(|module| module.run(ctx).map(rquickjs::Promise::into_value)),
            1 => entry::eval(ctx, &self.source, c"fuzz.js", Kind::Strict),
            _ => entry::eval(ctx, &self.source, c"fuzz.js", Kind::Sloppy),
        };
        let outcome = match result {
            Ok(value) => {
                entry::release(value);
                Outcome::Done
            }
            Err(_) => {
                entry::release(ctx.catch());
                Outcome::Thrown
            }
        };
        while entry::run_job(ctx) {}
        outcome
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, slice, spread, turns, end, is_sealed, kind, neighbour_every, .. } = self;
        let source = self.source();
        write!(
            f,
            "// {limits:?}, slice {slice} + {spread} ns, {turns} turns, then {end:?}, sealed {is_sealed}, kind {kind}, \
             neighbour every {neighbour_every}\n{source}"
        )
    }
}

/// Defines what programs call. False if there is no memory for it.
fn set_up(interpreter: &Interpreter, begun: &Rc<Cell<bool>>) -> bool {
    let begun = begun.clone();
    interpreter.with(|ctx| {
        let define = || -> rquickjs::Result<()> {
            let host = Native::new(ctx, move |call| {
                begun.set(true);
                let text = format!("called with {}", call.arguments.len());
                Ok(rquickjs::String::from_str(call.ctx.clone(), &text)?.into_value())
            })?;
            // Waits for some polls, or until it is killed.
            let pause = Native::new(ctx, |call| {
                let polls = call.arguments.first().and_then(Value::as_int).unwrap_or(0) % 5;
                let mut left = if polls == 4 { i32::MAX } else { polls };
                let waited = hats_fiber::wait(poll_fn(|_| {
                    left -= 1;
                    if left < 0 { Poll::Ready(()) } else { Poll::Pending }
                }));
                Ok(Value::new_bool(call.ctx.clone(), waited.is_ok()))
            })?;
            for (name, native) in [("host", host), ("pause", pause)] {
                ctx.globals().set(name, native.function(ctx, name)?)?;
            }
            ctx.eval::<(), _>(SUPPORT)
        };
        define().is_ok()
    })
}

/// What an expression comes to, on the caller's own stack.
fn eval(interpreter: &Interpreter, source: &str) -> String {
    interpreter.with(|ctx| match ctx.eval::<String, _>(source).catch(ctx) {
        Ok(text) => text,
        Err(error) => error.to_string(),
    })
}

/// A script that computes what is known, for ever.
pub struct Neighbour {
    work: Pin<Box<dyn Future<Output = ()>>>,
    checked: Rc<Cell<u64>>,
}

impl Neighbour {
    /// One with an interpreter of its own.
    ///
    /// # Panics
    /// When there is no memory for it.
    #[must_use]
    pub fn new() -> Self {
        let limits = Limits {
            memory: 64 << 20,
            stack: 256 << 10,
            native_stack: NATIVE_STACK_BYTES,
            gc_threshold: 256 << 10,
        };
        let interpreter = Interpreter::new(limits).unwrap_or_else(|error| panic!("no neighbour: {error}"));
        let count: usize = interpreter.with(|ctx| {
            let count = ctx.eval(WORK.to_bytes()).catch(ctx);
            count.unwrap_or_else(|error| panic!("the neighbour's work: {error}"))
        });
        // On the caller's own stack, where nothing is preempted.
        let expected: Vec<String> = (0..count).map(|n| eval(&interpreter, &format!("run({n})"))).collect();
        let checked = Rc::new(Cell::new(0));
        let count = checked.clone();
        let work = Box::pin(async move {
            for n in (0..expected.len()).cycle() {
                let Ok(call) = CString::new(format!("run({n})")) else { continue };
                let result = interpreter.enter(Handle::new(), || Turn::GoOn, |ctx| text_of(ctx, &call)).await;
                match result {
                    Ok(text) => assert_eq!(text, expected[n], "the neighbour came to another result"),
                    Err(failure) => panic!("the neighbour: {failure}"),
                }
                count.set(count.get() + 1);
            }
        });
        Self { work, checked }
    }

    /// Results that were compared.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked.get()
    }

    fn poll(&mut self) {
        let is_over = self.work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!is_over, "the neighbour came to an end");
    }
}

impl Default for Neighbour {
    fn default() -> Self {
        Self::new()
    }
}

fn text_of(ctx: &Ctx<'_>, source: &CStr) -> String {
    let text = entry::eval(ctx, source, c"neighbour.js", Kind::Sloppy).and_then(|value| {
        let string: Function<'_> = ctx.globals().get("String")?;
        entry::call(ctx, &string, &[value])
    });
    match text.catch(ctx) {
        Ok(text) => text.as_string().and_then(|text| text.to_string().ok()).unwrap_or_default(),
        Err(error) => error.to_string(),
    }
}

//! Scripts on stacks of their own: preempted at every kind of instruction, killed, and out of memory or stack.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hats_fiber::{Ask, Death, Failure, Handle, Preemption, stats};
use rquickjs::{CatchResultExt, Function};

use super::{Interpreter, LIMITS, Limits};
use crate::entry::{self, Kind};
use crate::{Native, Turn, Unfit, attach};

/// Deterministic work of many kinds; each returns a short digest.
const WORK: &str = include_str!("work.js");

fn text(source: &str) -> CString {
    CString::new(source).unwrap()
}

/// Runs a script on the interpreter's own stack, and makes its last value a text.
async fn run(
    interpreter: &Interpreter,
    handle: Handle,
    turn: impl FnMut() -> Turn,
    source: &CString,
) -> Result<String, Failure> {
    interpreter
        .enter(handle, turn, |ctx| {
            let shown = entry::eval(ctx, source, c"test.js", Kind::Sloppy).and_then(|value| {
                let string: Function<'_> = ctx.globals().get("String")?;
                entry::call(ctx, &string, &[value])
            });
            let shown = shown.catch(ctx).map(|shown| shown.as_string().unwrap().to_string().unwrap());
            while entry::run_job(ctx) {}
            shown.unwrap_or_else(|error| error.to_string())
        })
        .await
}

/// Polls a future again and again until it is ready: a lane with nothing else to do.
fn drive<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// Polls all in turn until all are ready.
fn drive_all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut context = Context::from_waker(Waker::noop());
    while results.iter().any(Option::is_none) {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(&mut context)
            {
                *result = Some(output);
            }
        }
    }
    results.into_iter().flatten().collect()
}

fn go_on() -> Turn {
    Turn::GoOn
}

fn large() -> Interpreter {
    Interpreter::new(Limits { memory: 256 << 20, stack: 512 << 10, native_stack: 512 << 10, ..LIMITS })
        .unwrap()
}

/// Soaks run for longer with this.
fn preemptions(few: u64) -> u64 {
    std::env::var("HATS_PREEMPTIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(few)
}

#[test]
fn preempted_at_random_instructions_every_script_comes_to_the_same_results() {
    let ticks = attach(Preemption::Auto).unwrap();
    assert!(ticks.has_signals(), "{:?}", ticks.why_not());
    soak(preemptions(20_000));
}

fn soak(target: u64) {
    let work = text(WORK);
    let make = || {
        let interpreter = large();
        interpreter.with(|ctx| entry::eval(ctx, &work, c"work.js", Kind::Sloppy).map(|_| ()).unwrap());
        interpreter
    };
    let count: usize = {
        let interpreter = large();
        drive(run(&interpreter, Handle::new(), go_on, &work)).unwrap().parse().unwrap()
    };
    let calls: Vec<CString> = (0..count).map(|n| text(&format!("run({n})"))).collect();
    let reference: Vec<String> = {
        let interpreter = make();
        // On the caller's own stack, where nothing is preempted.
        calls.iter().map(|call| super::eval(&interpreter, call.to_str().unwrap())).collect()
    };
    let begun = stats();
    let preempted = || stats().preempted_at_instructions - begun.preempted_at_instructions;
    let mut seed = 88_172_645_463_325_252_u64;
    let mut runs = 0;
    hats_fiber::set_slice_of_tests(Some(Box::new(move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        Duration::from_nanos(1000 + seed % 40_000)
    })));
    while preempted() < target {
        let interpreters: Vec<_> = (0..8).map(|_| make()).collect();
        let scripts = interpreters.iter().enumerate().map(|(offset, interpreter)| {
            let (calls, reference) = (&calls, &reference);
            let script: Pin<Box<dyn Future<Output = usize>>> = Box::pin(async move {
                for n in 0..calls.len() {
                    let n = (n + offset) % calls.len();
                    let result = run(interpreter, Handle::new(), go_on, &calls[n]).await.unwrap();
                    assert_eq!(result, reference[n]);
                }
                calls.len()
            });
            script
        });
        runs += drive_all(scripts.collect()).into_iter().sum::<usize>();
    }
    hats_fiber::set_slice_of_tests(None);
    let now = stats();
    println!(
        "{} preemptions at instructions, {} at ends of host calls, {} ticks refused, {runs} pieces of work, none different",
        preempted(),
        now.preempted_at_host_ends - begun.preempted_at_host_ends,
        now.refused_ticks - begun.refused_ticks,
    );
    assert_eq!(now.nested_entries, begun.nested_entries);
}

/// Endless native operations of the engine, which poll no hook.
const NATIVE_LOOPS: &[&str] = &[
    "for (;;);",
    "const x = Array.from({ length: 20000 }, (_, i) => i * 7919 % 20011); for (;;) x.toSorted()",
    "'a'.repeat(3e7).indexOf('a'.repeat(1.5e7) + 'b')",
    "const s = 'a'.repeat(1e6); for (;;) s.indexOf('b')",
    "new Array(2 ** 32 - 1).join('')",
    "String.raw({ raw: { length: 2 ** 53 - 1 } })",
    "let a = [1]; for (let i = 0; i < 40; i++) a = [a, a]; JSON.stringify(a)",
    "const s = JSON.stringify(Array.from({ length: 3000 }, (_, i) => ({ a: i, b: 'x' + i }))); for (;;) JSON.parse(s)",
    "const s = 'a,b,c,'.repeat(20000); for (;;) s.split(',')",
    "Array.prototype.reverse.call({ length: 2 ** 53 - 1 })",
    "Array.prototype.lastIndexOf.call({ length: 2 ** 53 - 1 }, 1)",
    "/^(a+)+$/.test('a'.repeat(40) + 'b')",
    "let x = 3n ** 200000n; for (;;) x * x",
    "const s = '\\u0344'.repeat(300000); for (;;) s.normalize('NFD')",
    "let o = {}; for (let i = 0; i < 1e5; i++) o = Object.create(o); for (;;) o.x",
    "for (;;) new Date(2020, 1, 1).toString()",
    "const f = Float64Array.from({ length: 1e5 }, (_, i) => i); for (;;) f.map(Math.sin)",
    "const a = new Array(3e5).fill('abcdefgh'.repeat(100) + 'x'); for (;;) a.toSorted()",
];

#[test]
fn a_native_operation_without_end_gives_way_and_is_killed() {
    let ticks = attach(Preemption::Auto).unwrap();
    assert!(ticks.has_signals());
    for source in NATIVE_LOOPS {
        let interpreter = large();
        let turns = Cell::new(0);
        let turn = || {
            turns.set(turns.get() + 1);
            if turns.get() > 5 { Turn::Die } else { Turn::GoOn }
        };
        let result = drive(run(&interpreter, Handle::new(), turn, &text(source)));
        assert!(matches!(result, Err(Failure::Dead(Death::Killed))), "{source}: {result:?}");
        assert_eq!(interpreter.death(), Some(Death::Killed));
        assert_eq!(interpreter.reset(), Err(Unfit::Dead(Death::Killed)));
    }
}

#[test]
fn an_interrupt_comes_at_the_next_turn_of_a_loop() {
    let _ticks = attach(Preemption::Auto).unwrap();
    assert!(crate::countdown::find());
    let interpreter = large();
    let is_asked = Rc::new(Cell::new(false));
    let (asked, hooked) = (is_asked.clone(), Rc::new(Cell::new(0)));
    let counted = hooked.clone();
    interpreter.set_interrupt(move || {
        counted.set(counted.get() + 1);
        asked.get()
    });
    // Each turn of this loop is a long native operation: the engine's own countdown would need 10,000 of them.
    let source = text("const s = 'a'.repeat(1e6); for (;;) s.indexOf('b')");
    let turn = || {
        is_asked.set(true);
        Turn::Hurry
    };
    let result = drive(run(&interpreter, Handle::new(), turn, &source)).unwrap();
    assert!(result.contains("interrupted"), "{result}");
    // The engine itself would need 10,000 turns for one.
    assert!((1..5).contains(&hooked.get()), "{}", hooked.get());
    assert_eq!(interpreter.death(), None);
    assert_eq!(super::eval(&interpreter, "1 + 1"), "2");
}

#[test]
fn what_would_crash_the_engine_ends_one_script() {
    let _ticks = attach(Preemption::Auto).unwrap();
    let small = |mib: usize| {
        Interpreter::new(Limits { memory: mib << 20, stack: 512 << 10, native_stack: 512 << 10, ..LIMITS })
            .unwrap()
    };
    let cases = [
        (
            64,
            Death::Stack,
            "let it = [1].values(); for (let i = 0; i < 20000; i++) it = it.map(x => x); it.next()",
        ),
        (
            64,
            Death::Stack,
            "let it = [1].values(); for (let i = 0; i < 20000; i++) it = it.drop(0); it.next()",
        ),
        (
            64,
            Death::Stack,
            "let it = [1].values(); for (let i = 0; i < 20000; i++) it = it.flatMap(x => [x]); it.next()",
        ),
        (
            16,
            Death::Memory,
            "async function ok(i) { return i } Promise.allSettled(Array.from({ length: 150000 }, (_, i) => ok(i)))",
        ),
        (
            16,
            Death::Memory,
            "async function bad(i) { throw i } Promise.any(Array.from({ length: 150000 }, (_, i) => bad(i)))",
        ),
        (
            4,
            Death::Memory,
            "const o = {}; for (let i = 0; i < 3000; i++) o['k' + i] = i; const a = []; for (;;) a.push(Object.fromEntries(Object.entries(o)))",
        ),
        (
            16,
            Death::Memory,
            "const a = []; for (let s = 'x';; s += 'yyyy'.repeat(1000)) a.push(s + a.length)",
        ),
        (16, Death::Memory, "const a = []; for (;;) a.push({ a })"),
    ];
    for round in 0..10 {
        for (mib, death, source) in cases {
            let interpreter = small(mib);
            let result = drive(run(&interpreter, Handle::new(), go_on, &text(source)));
            assert!(
                matches!(result, Err(Failure::Dead(dead)) if dead == death),
                "{round} {source}: {result:?}"
            );
        }
    }
    // One request for more than all there may be is an error that a script can catch.
    let interpreter = small(16);
    let source =
        text("let n = 0; for (let i = 0; i < 100; i++) try { new ArrayBuffer(1e9) } catch { n++ } n");
    assert_eq!(drive(run(&interpreter, Handle::new(), go_on, &source)).unwrap(), "100");
}

/// As if the engine itself went wrong: these do not go through the borders of a host call.
#[test]
fn assertions_and_aborts_of_others_than_the_engine_are_not_taken_for_its_own() {
    let _ticks = attach(Preemption::Auto).unwrap();
    let interpreter = large();
    let result =
        drive(run(&interpreter, Handle::new(), go_on, &text("new Date(2020, 0, 1).getTimezoneOffset() * 0")));
    assert_eq!(result.unwrap(), "0");
}

#[test]
fn scripts_killed_at_random_moments_leave_their_neighbours_alone() {
    let _ticks = attach(Preemption::Auto).unwrap();
    let work = text(&format!("{WORK};\n(() => {{ for (let i = 0;; i++) run(i % names.length) }})()"));
    let check = text(&format!(
        "{WORK};\n(() => {{ let s = ''; for (let i = 0; i < names.length; i++) s += run(i); return s }})()"
    ));
    let expected = drive(run(&large(), Handle::new(), go_on, &check)).unwrap();
    let neighbour = large();
    let checked = Cell::new(0);
    let stop = Cell::new(false);
    let mut good: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
        while !stop.get() {
            assert_eq!(run(&neighbour, Handle::new(), go_on, &check).await.unwrap(), expected);
            checked.set(checked.get() + 1);
        }
    });
    let mut context = Context::from_waker(Waker::noop());
    for n in 0..300_u64 {
        let interpreter = Interpreter::new(Limits {
            memory: 64 << 20,
            stack: 512 << 10,
            native_stack: 512 << 10,
            ..LIMITS
        })
        .unwrap();
        let until = Instant::now() + Duration::from_micros(100 + n.wrapping_mul(2_654_435_769) % 4000);
        let turn = || if Instant::now() >= until { Turn::Die } else { Turn::GoOn };
        let mut victim = Box::pin(run(&interpreter, Handle::new(), turn, &work));
        let result = loop {
            if let Poll::Ready(result) = victim.as_mut().poll(&mut context) {
                break result;
            }
            assert!(good.as_mut().poll(&mut context).is_pending());
        };
        assert!(matches!(result, Err(Failure::Dead(Death::Killed))), "{result:?}");
    }
    stop.set(true);
    drive(good);
    assert!(checked.get() > 0);
}

#[test]
fn a_script_that_waits_is_resumed_and_dies_at_the_end_of_its_host_call() {
    let _ticks = attach(Preemption::Auto).unwrap();
    let interpreter = large();
    let ended = Rc::new(RefCell::new(Vec::new()));
    let inner = ended.clone();
    interpreter.with(|ctx| {
        let wait = Native::new(ctx, move |call| {
            let waited = hats_fiber::wait(std::future::pending::<()>());
            inner.borrow_mut().push(waited.is_err());
            Ok(rquickjs::Value::new_undefined(call.ctx.clone()))
        });
        ctx.globals().set("wait", wait.unwrap().function(ctx, "wait").unwrap()).unwrap();
    });
    let handle = Handle::new();
    let source = text("for (;;) try { wait() } catch {}");
    let mut script = Box::pin(run(&interpreter, handle.clone(), go_on, &source));
    let mut context = Context::from_waker(Waker::noop());
    assert!(script.as_mut().poll(&mut context).is_pending());
    handle.ask(Ask::Kill);
    let result = drive(script);
    assert!(matches!(result, Err(Failure::Dead(Death::Killed))), "{result:?}");
    assert_eq!(*ended.borrow(), [true]);
}

#[test]
fn a_script_that_is_dropped_is_over_whatever_it_did() {
    let _ticks = attach(Preemption::Auto).unwrap();
    for source in ["for (;;);", "const s = 'a'.repeat(1e6); for (;;) s.indexOf('b')"] {
        let interpreter = large();
        let source = text(source);
        let mut script = Box::pin(run(&interpreter, Handle::new(), go_on, &source));
        drive(poll_fn(|context| {
            assert!(script.as_mut().poll(context).is_pending());
            Poll::Ready(())
        }));
        drop(script);
        assert_eq!(interpreter.death(), Some(Death::Killed));
    }
}

#[test]
fn a_trimmed_stack_gives_memory_back_and_is_used_again() {
    fn resident_pages() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }
    let deep = text("(function f(n) { return n ? f(n - 1) + 1 : 0 })(500)");
    let interpreters: Vec<_> = (0..100).map(|_| large()).collect();
    let dig = || {
        for interpreter in &interpreters {
            assert_eq!(drive(run(interpreter, Handle::new(), go_on, &deep)).unwrap(), "500");
        }
    };
    dig();
    let before = resident_pages();
    interpreters.iter().for_each(|interpreter| interpreter.trim_stack(16 << 10));
    let given_back = before.saturating_sub(resident_pages());
    assert!(given_back > 5000, "only {given_back} pages were given back");
    dig();
}

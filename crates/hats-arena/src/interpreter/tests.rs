//! Scripts that do what they can to be remembered, and what must be refused.

use std::cell::RefCell;
use std::rc::Rc;

use rquickjs::{CatchResultExt, Ctx, Function, Module, Object, Value};

use super::*;
use crate::{Kept, Meter, Native, compile, new_token};

const LIMITS: Limits =
    Limits { memory: 16 << 20, stack: 256 << 10, native_stack: 256 << 10, gc_threshold: 256 << 10 };

fn warmed() -> Interpreter {
    Interpreter::new(LIMITS).unwrap()
}

fn sealed() -> Interpreter {
    let interpreter = warmed();
    interpreter.seal().unwrap();
    interpreter
}

/// What a script makes, as text; an error as its message.
fn eval(interpreter: &Interpreter, source: &str) -> String {
    interpreter.with(|ctx| eval_in(ctx, source))
}

fn eval_in(ctx: &Ctx<'_>, source: &str) -> String {
    match ctx.eval::<Value<'_>, _>(source).catch(ctx) {
        Ok(value) => {
            let shown = ctx.globals().get("String").and_then(|string: Function<'_>| string.call((value,)));
            shown.catch(ctx).unwrap_or_else(|error| error.to_string())
        }
        Err(error) => error.to_string(),
    }
}

fn reset(interpreter: &Interpreter) {
    interpreter.reset().unwrap();
    assert_eq!(interpreter.first_difference(), None);
}

#[test]
fn after_a_reset_every_byte_is_as_it_was() {
    let interpreter = sealed();
    let scripts = [
        "globalThis.leak = 1; var v = 2; let l = 3; const c = 4; class K {}; function f() {}",
        "Object.prototype.leak = 1; Array.prototype.map = null; Promise.prototype.then = () => {}; JSON.parse = 1",
        "for (const key of Object.getOwnPropertyNames(globalThis)) { try { delete globalThis[key] } catch {} }",
        "Object.freeze(globalThis); Object.freeze(Object.prototype); Object.freeze(Function.prototype)",
        "Promise.resolve().then(() => { throw 1 }); Promise.reject(2); (async () => { await new Promise(() => {}) })()",
        "globalThis.big = []; for (let n = 0; n < 20000; n++) big.push({ n, text: 'text ' + n })",
        "const m = new Map; for (let n = 0; n < 5000; n++) m.set(Symbol.for('s' + n), new WeakRef({}))",
        "new FinalizationRegistry(() => {}).register({}, 1); const w = new WeakMap; w.set({}, w)",
        "/(a+)+b/u.test('a'.repeat(20)); new RegExp('[\\\\p{L}--[a-z]]', 'v').exec('ä'); 'x'.replace(/(?<y>x)/, '$<y>')",
        "(function deep(n) { return n ? deep(n - 1) + 1 : 0 })(500)",
        "try { (function forever() { forever() })() } catch (error) { globalThis.caught = error }",
        "new ArrayBuffer(3 << 20); new Uint8Array(1 << 20).fill(7).toSorted(); eval('var inner = 1')",
        "function* g() { yield* [1, 2, 3] } globalThis.it = g(); it.next(); globalThis.p = new Proxy({}, {})",
        "throw new Error('left behind')",
        "syntax error",
        "const o = {}; o.self = o; globalThis.cycle = o; structured = [o, o]; JSON.stringify([1e21, 0.1, -0])",
    ];
    let fresh = eval(&interpreter, "Object.getOwnPropertyNames(globalThis).sort().join()");
    reset(&interpreter);
    for _ in 0..20 {
        for script in scripts {
            eval(&interpreter, script);
            assert!(interpreter.first_difference().is_some());
            reset(&interpreter);
        }
        interpreter.with(|ctx| while ctx.execute_pending_job() {});
        reset(&interpreter);
    }
    assert_eq!(eval(&interpreter, "Object.getOwnPropertyNames(globalThis).sort().join()"), fresh);
    assert_eq!(
        eval(
            &interpreter,
            "[typeof leak, typeof v, typeof l, ({}).leak, [1].map(n => n + 1), JSON.parse('[2]')]"
        ),
        "undefined,undefined,undefined,,2,2"
    );
}

#[test]
fn a_reset_world_goes_as_a_new_one_goes() {
    let steps = "const out = []; for (let n = 0; n < 300; n++) { out.push(`${n}:${Math.sqrt(n)}`) } \
         Object.prototype.x = out.length; out.sort().join() + ({}).x";
    let interpreter = sealed();
    let first = eval(&interpreter, steps);
    for _ in 0..50 {
        reset(&interpreter);
        assert_eq!(eval(&interpreter, steps), first);
    }
    assert_eq!(eval(&sealed(), steps), first);
}

#[test]
fn memory_beyond_the_snapshot_is_given_back() {
    let interpreter = sealed();
    let before = interpreter.resident();
    eval(&interpreter, "globalThis.big = new Uint8Array(10 << 20).fill(1); 0");
    assert!(interpreter.resident() > before + (10 << 20));
    reset(&interpreter);
    assert!(interpreter.resident() < before + (1 << 20));
}

#[test]
fn the_heap_limit_is_an_error_of_the_script_and_the_end_of_the_interpreter() {
    for source in [
        "const a = []; for (;;) a.push('x'.repeat(1000) + a.length)",
        "const a = []; for (;;) a.push({})",
        "new Uint8Array(15.9 * (1 << 20)); let s = 'x'; for (;;) s += s",
        "const a = []; for (;;) a.push(new ArrayBuffer(1 << 20))",
        "let f = 'return 1'; for (;;) f = `return (() => { ${f} })() + '${'x'.repeat(100000)}'`, new Function(f)",
    ] {
        let interpreter = sealed();
        let error = eval(&interpreter, source);
        assert!(error.contains("memory") || error.contains("null") || error.contains("too long"), "{error}");
        // Code that is entered by `with` cannot be ended in its middle, and may take a little more.
        assert!(interpreter.used() <= LIMITS.memory + (4 << 20));
        if !error.contains("too long") {
            assert_eq!(interpreter.reset(), Err(Unfit::OutOfMemory));
        }
        drop(interpreter);
    }
}

#[test]
fn a_script_that_catches_the_want_of_memory_has_had_its_interpreter_all_the_same() {
    let interpreter = sealed();
    assert_eq!(eval(&interpreter, "try { new ArrayBuffer(100 << 20) } catch { 'caught' }"), "caught");
    assert_eq!(interpreter.reset(), Err(Unfit::OutOfMemory));
}

#[test]
fn a_heap_that_is_too_small_for_the_engine_is_an_error() {
    for memory in [0, 1000, 10_000, 50_000] {
        assert!(Interpreter::new(Limits { memory, ..LIMITS }).is_err(), "{memory}");
    }
}

#[test]
fn the_stack_limit_holds_wherever_the_interpreter_is_entered() {
    fn deeper<R>(levels: u32, f: &dyn Fn() -> R) -> R {
        let room = std::hint::black_box([0_u8; 10_000]);
        let result = if levels > 0 { deeper(levels - 1, f) } else { f() };
        std::hint::black_box(room);
        result
    }
    let depth = "let n = 0; (function f() { n++; try { f() } catch {} })(); n";
    let interpreter = sealed();
    let here: u32 = eval(&interpreter, depth).parse().unwrap();
    reset(&interpreter);
    let below: u32 = deeper(40, &|| eval(&interpreter, depth).parse().unwrap());
    assert!(here > 100);
    assert!(here.abs_diff(below) < here / 10, "{here} {below}");
}

#[test]
fn whoever_was_interrupted_is_not_reset() {
    let interpreter = warmed();
    let end = Rc::new(Cell::new(false));
    interpreter.set_interrupt({
        let end = end.clone();
        move || end.get()
    });
    interpreter.seal().unwrap();
    eval(&interpreter, "for (let n = 0; n < 1000000; n++);");
    reset(&interpreter);
    end.set(true);
    assert!(eval(&interpreter, "for (;;);").contains("interrupted"));
    assert_eq!(interpreter.reset(), Err(Unfit::Interrupted));
}

#[test]
fn nobody_is_inside_at_a_reset() {
    let interpreter = sealed();
    interpreter.with(|_| assert_eq!(interpreter.reset(), Err(Unfit::Inside)));
    reset(&interpreter);
    let unsealed = warmed();
    assert_eq!(unsealed.reset(), Err(Unfit::Unsealed));
    unsealed.with(|_| assert_eq!(unsealed.seal(), Err(Unfit::Inside)));
    assert_eq!(interpreter.seal(), Err(Unfit::Unsealed));
}

#[test]
fn what_is_kept_decides() {
    let interpreter = warmed();
    let old = interpreter.with(|ctx| Kept::new(ctx, Object::new(ctx.clone()).unwrap()).unwrap());
    interpreter.seal().unwrap();
    let number = |interpreter: &Interpreter| {
        interpreter.with(|ctx| {
            let object = old.get(ctx).unwrap();
            let number = object.get::<_, Option<u32>>("n").unwrap().unwrap_or(0) + 1;
            object.set("n", number).unwrap();
            number
        })
    };
    for _ in 0..5 {
        assert_eq!((number(&interpreter), number(&interpreter)), (1, 2));
        reset(&interpreter);
    }
    let new = interpreter.with(|ctx| Kept::new(ctx, Object::new(ctx.clone()).unwrap()).unwrap());
    assert_eq!(interpreter.reset(), Err(Unfit::Kept(1)));
    drop(new);
    reset(&interpreter);
    drop(old);
    assert_eq!(interpreter.reset(), Err(Unfit::Released));
}

#[test]
fn what_is_kept_is_of_one_interpreter() {
    let (one, other) = (warmed(), warmed());
    let kept = one.with(|ctx| Kept::new(ctx, Object::new(ctx.clone()).unwrap()).unwrap());
    assert!(other.with(|ctx| kept.get(ctx).is_err()));
}

#[test]
fn the_engine_lives_as_long_as_what_is_kept_of_it() {
    for interpreter in [warmed(), sealed()] {
        let kept = interpreter.with(|ctx| Kept::new(ctx, Object::new(ctx.clone()).unwrap()).unwrap());
        let compiled = interpreter.with(|ctx| compile(ctx, "1", "page.js").unwrap());
        drop(interpreter);
        drop((kept, compiled));
    }
}

#[test]
fn a_hook_that_is_set_after_the_seal_is_the_end() {
    let interpreter = sealed();
    interpreter.set_interrupt(|| false);
    assert_eq!(interpreter.reset(), Err(Unfit::Changed));
}

#[test]
fn functions_of_the_host_are_called_with_what_they_are_given() {
    let interpreter = warmed();
    interpreter.with(|ctx| {
        let native = Native::new(ctx, |call| {
            let sum = call.arguments.iter().filter_map(Value::as_number).sum::<f64>();
            if sum < 0.0 {
                return Err(rquickjs::Exception::throw_range(call.ctx, "less than nothing"));
            }
            if sum > 1000.0 {
                return Err(rquickjs::Error::new_from_js("sum", "small sum"));
            }
            Ok(Value::new_number(call.ctx.clone(), sum))
        });
        ctx.globals().set("sum", native.unwrap().function(ctx, "sum").unwrap()).unwrap();
    });
    interpreter.seal().unwrap();
    for _ in 0..10 {
        assert_eq!(eval(&interpreter, "sum(1, 2, 3.5) + sum()"), "6.5");
        assert!(eval(&interpreter, "sum(-1)").contains("less than nothing"));
        assert!(eval(&interpreter, "try { sum(2000) } catch (e) { e.name }").contains("TypeError"));
        assert_eq!(
            eval(&interpreter, "[sum.name, sum.length, typeof sum, [1, 2].map(sum)]"),
            "sum,0,function,1,3"
        );
        assert!(eval(&interpreter, "new sum()").contains("constructor"));
        eval(&interpreter, "delete globalThis.sum; sum = null");
        reset(&interpreter);
    }
}

#[test]
fn a_function_that_was_made_after_the_seal_is_gone_with_all_that_it_owns() {
    let interpreter = sealed();
    let owned = Rc::new(());
    for _ in 0..3 {
        interpreter.with(|ctx| {
            let owned = owned.clone();
            let native = Native::new(ctx, move |call| {
                let count = Rc::strong_count(&owned) as i32;
                Ok(Value::new_int(call.ctx.clone(), count))
            });
            ctx.globals().set("count", native.unwrap().function(ctx, "count").unwrap()).unwrap();
            assert_eq!(eval_in(ctx, "count()"), "2");
        });
        reset(&interpreter);
        assert_eq!(Rc::strong_count(&owned), 1);
        assert_eq!(eval(&interpreter, "typeof count"), "undefined");
    }
}

#[test]
fn a_token_tells_when_it_is_freed_and_a_reset_frees_none() {
    let interpreter = warmed();
    let freed = Rc::new(RefCell::new(Vec::new()));
    interpreter.set_released({
        let freed = freed.clone();
        move |number| freed.borrow_mut().push(number)
    });
    interpreter.with(|ctx| {
        let number = Native::new(ctx, |call| {
            let number = call.token.map_or(-1, u32::cast_signed);
            Ok(Value::new_int(call.ctx.clone(), number))
        });
        let number = number.unwrap();
        let open = Native::new(ctx, move |call| {
            let token = new_token(call.ctx, call.arguments[0].as_int().unwrap_or(0).unsigned_abs())?;
            number.function_of(call.ctx, "number", &token).map(Function::into_value)
        });
        ctx.globals().set("open", open.unwrap().function(ctx, "open").unwrap()).unwrap();
        ctx.globals().set("none", number.function(ctx, "none").unwrap()).unwrap();
    });
    interpreter.seal().unwrap();
    for _ in 0..3 {
        assert_eq!(
            eval(&interpreter, "globalThis.a = open(7); let b = open(8); [a(), b(), none()]"),
            "7,8,-1"
        );
        assert!(freed.borrow().is_empty());
        eval(&interpreter, "a = null");
        assert_eq!(freed.take(), [7]);
        eval(&interpreter, "b.self = b; b = null");
        interpreter.with(|ctx| ctx.run_gc());
        assert_eq!(freed.take(), [8]);
        eval(&interpreter, "globalThis.c = open(9)");
        reset(&interpreter);
        assert!(freed.borrow().is_empty());
    }
}

#[test]
fn a_panic_goes_through_the_engine_and_ends_the_interpreter() {
    let interpreter = warmed();
    interpreter.with(|ctx| {
        let native = Native::new(ctx, |_| panic!("a bug"));
        ctx.globals().set("fail", native.unwrap().function(ctx, "fail").unwrap()).unwrap();
    });
    interpreter.seal().unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eval(&interpreter, "try { fail() } catch {} 'went on'");
    }));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"a bug"));
    assert_eq!(interpreter.reset(), Err(Unfit::Panicked));
    let other = sealed();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.with(|_| panic!("here"))));
    assert!(panic.is_err());
    assert_eq!(other.reset(), Err(Unfit::Panicked));
}

#[test]
fn what_is_compiled_before_the_seal_runs_after_each_reset() {
    let interpreter = warmed();
    let source = "var n = (globalThis.n || 0) + 1; let own = n; function f() { return own }\nf()";
    let compiled = interpreter.with(|ctx| compile(ctx, source, "page.js").unwrap());
    interpreter.seal().unwrap();
    for _ in 0..10 {
        interpreter.with(|ctx| {
            assert_eq!(compiled.run(ctx).unwrap().as_int(), Some(1));
            assert!(compiled.run(ctx).is_err(), "its let is there already");
            ctx.catch();
        });
        reset(&interpreter);
    }
    let failing = warmed();
    failing.with(|ctx| {
        assert!(compile(ctx, "let let", "page.js").is_err());
        assert!(ctx.catch().is_error());
        assert!(compile(ctx, "1\0", "page.js").is_err());
        let throws = compile(ctx, "\n  null.x", "page.js").unwrap();
        let error = throws.run(ctx).catch(ctx).unwrap_err().to_string();
        assert!(error.contains("page.js:2"), "{error}");
    });
}

#[test]
fn what_an_interpreter_takes_can_be_read_at_any_time() {
    let interpreter = warmed();
    let gauge = interpreter.gauge();
    let taken = || gauge.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(taken(), interpreter.used());
    let before = taken();
    eval(&interpreter, "globalThis.large = new Uint8Array(5e6)");
    assert!((5_000_000..5_100_000).contains(&(taken() - before)), "{before} bytes, then {}", taken());
    eval(&interpreter, "globalThis.large = [1]; for (let n = 0; n < 1e5; n++) large.push(n)");
    assert!(taken() - before < 3_000_000, "{before} bytes, then {}", taken());
}

#[test]
fn what_a_script_frees_goes_back_to_the_system() {
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
    let interpreter = Interpreter::new(Limits { memory: 128 << 20, ..LIMITS }).unwrap();
    // In the middle of the heap, and at its end; large blocks, and many small ones.
    for source in [
        "globalThis.held = new Uint8Array(50 << 20).fill(1); globalThis.after = new Uint8Array(1000)",
        "globalThis.held = 'x'.repeat(50 << 20)",
        "globalThis.held = Array.from({ length: 300000 }, (_, n) => ({ n }))",
    ] {
        eval(&interpreter, source);
        let before = resident();
        eval(&interpreter, "globalThis.held = null; globalThis.after = null");
        interpreter.with(|ctx| ctx.run_gc());
        let freed = before.saturating_sub(resident());
        assert!(freed > 10 << 20, "{source}: {freed} bytes");
    }
}

#[test]
fn interpreters_come_and_go() {
    for n in 0..200 {
        let interpreter = sealed();
        eval(&interpreter, "globalThis.big = []; for (let n = 0; n < 1000; n++) big.push({ n })");
        if n % 2 == 0 {
            reset(&interpreter);
        }
    }
}

/// The engine frees modules before what leads to them. Here that is seen under AddressSanitizer, and elsewhere by luck.
#[test]
fn modules_that_wait_for_ever_harm_nobody_when_they_are_dropped() {
    for source in [
        "globalThis.p = new Promise(r => globalThis.r = r); await p; export let x = 1",
        "await null; throw 1",
        "export let x = 1; throw 1",
    ] {
        for jobs in [0, 1, 2, 10] {
            for interpreter in [warmed(), sealed()] {
                interpreter.with(|ctx| {
                    let evaluated = Module::evaluate(ctx.clone(), "a", source).catch(ctx);
                    if let Ok(promise) = evaluated {
                        ctx.globals().set("first", promise).unwrap();
                    }
                    eval_in(ctx, "Array.prototype.q = import('a'); Array.prototype.q.catch(() => 0); 0");
                    for _ in 0..jobs {
                        ctx.execute_pending_job();
                    }
                });
                let _ = interpreter.reset();
            }
        }
    }
}

#[test]
fn a_meter_has_the_heap_of_all_who_are_there() {
    let grow = "globalThis.big = []; for (let n = 0; n < 10000; n++) big.push({ n })";
    {
        let meter = Arc::<Meter>::default();
        let (one, other) = (warmed(), warmed());
        one.set_meter(meter.clone());
        let taken = |interpreter: &Interpreter| interpreter.used();
        let empty = meter.bytes();
        assert_eq!(empty, taken(&one));
        other.set_meter(meter.clone());
        // Once is enough.
        other.set_meter(meter.clone());
        eval(&other, grow);
        assert!(taken(&other) > taken(&one) + 500_000);
        assert_eq!(meter.bytes(), taken(&one) + taken(&other));
        eval(&other, "big = null");
        other.with(|ctx| ctx.run_gc());
        assert!(meter.bytes() < 3 * empty, "{} bytes, {empty} before", meter.bytes());
        drop(other);
        assert_eq!(meter.bytes(), taken(&one));
        drop(one);
        assert_eq!(meter.bytes(), 0);
    }
}

#[test]
fn a_meter_knows_of_heap_while_the_host_is_called_and_after_a_reset() {
    let meter = Arc::<Meter>::default();
    let interpreter = warmed();
    interpreter.set_meter(meter.clone());
    let seen = Rc::new(Cell::new(0));
    let (told, inner) = (seen.clone(), meter.clone());
    interpreter.with(|ctx| {
        let look = Native::new(ctx, move |call| {
            told.set(inner.bytes());
            Ok(Value::new_undefined(call.ctx.clone()))
        });
        ctx.globals().set("look", look.unwrap().function(ctx, "look").unwrap()).unwrap();
    });
    interpreter.seal().unwrap();
    let sealed = interpreter.used();
    eval(&interpreter, "globalThis.big = new Uint8Array(4 << 20); look()");
    assert!(seen.get() > sealed + (4 << 20), "{} bytes, {sealed} before", seen.get());
    reset(&interpreter);
    assert_eq!((meter.bytes(), interpreter.used()), (sealed, sealed));
}

#[test]
fn javascript_above_a_function_of_the_host_is_noticed() {
    let interpreter = warmed();
    interpreter.with(|ctx| {
        let outer = Native::new(ctx, |call| {
            let function = call.arguments[0].as_function().unwrap();
            function.call::<_, Value<'_>>(())
        });
        let inner = Native::new(ctx, |call| Ok(Value::new_int(call.ctx.clone(), 1)));
        for (name, native) in [("outer", outer), ("inner", inner)] {
            ctx.globals().set(name, native.unwrap().function(ctx, name).unwrap()).unwrap();
        }
    });
    assert_eq!(eval(&interpreter, "inner() + inner()"), "2");
    assert_eq!(interpreter.nested_entries(), 0);
    let nested =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eval(&interpreter, "outer(inner)")));
    assert_eq!(nested.is_err(), cfg!(debug_assertions));
    assert_eq!(interpreter.nested_entries(), 1);
    let interrupted = warmed();
    interrupted.set_interrupt(|| false);
    interrupted.with(|ctx| {
        let outer = Native::new(ctx, |call| {
            let function = call.arguments[0].as_function().unwrap();
            function.call::<_, Value<'_>>(())
        });
        ctx.globals().set("outer", outer.unwrap().function(ctx, "outer").unwrap()).unwrap();
    });
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eval(&interrupted, "outer(() => { for (let n = 0; n < 100000; n++); })")
    }));
    assert_eq!(asked.is_err(), cfg!(debug_assertions));
    assert!(interrupted.nested_entries() > 0);
}

mod fibers;
mod fuzz;

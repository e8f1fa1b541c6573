//! What a fresh world costs: a new runtime and context beside a reset, each with one call of a page in it.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this prints figures, and stops if there are none"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hats_arena::{Interpreter, Limits, compile};

const LIMITS: Limits =
    Limits { memory: 64 << 20, stack: 512 << 10, native_stack: 512 << 10, gc_threshold: 256 << 10 };
const PAGE: &str = "globalThis.count = (globalThis.count || 0) + 1; Object.prototype.seen = count; \
     let out = ''; for (let n = 0; n < ROWS; n++) { out += `<li>${n}</li>` } out.length + count";

fn main() {
    println!("{:>24} {:>9} {:>9}", "microseconds per request", "hello", "100 rows");
    for (name, of) in
        [("runtime and context", fresh as fn(&str) -> Duration), ("reset", reset), ("reset alone", bare)]
    {
        let took = ["1", "100"].map(|rows| median(|| of(&PAGE.replace("ROWS", rows))).as_secs_f64() * 1e6);
        println!("{name:>24} {:>9.1} {:>9.1}", took[0], took[1]);
    }
    let warmed = || {
        let interpreter = Interpreter::new(LIMITS).unwrap();
        let page = interpreter.with(|ctx| compile(ctx, &PAGE.replace("ROWS", "100"), "page").unwrap());
        interpreter.seal().unwrap();
        interpreter.with(|ctx| page.run(ctx).map(|_| ()).unwrap());
        interpreter.reset().unwrap();
        (page, interpreter)
    };
    const MANY: usize = 200;
    let before = resident();
    let all: Vec<_> = (0..MANY).map(|_| warmed()).collect();
    let each = (resident() - before) / MANY;
    let counted = all.iter().map(|(_, interpreter)| interpreter.resident()).sum::<usize>() / MANY;
    println!(
        "a warmed interpreter that has served a request: {} KiB resident, {} KiB by its own count",
        each >> 10,
        counted >> 10
    );
    let used = all[0].1.used();
    println!("its heap: {} KiB", used >> 10);
    let before = resident();
    for n in 0..2000 {
        let (_page, interpreter) = warmed();
        if n % 2 == 0 {
            // Thrown away in the middle of something.
            interpreter.with(|ctx| {
                let _ = ctx
                    .eval::<(), _>("globalThis.big = []; for (;;) big.push('x'.repeat(9000) + big.length)");
            });
        }
    }
    let growth = resident().saturating_sub(before);
    println!("after 2,000 more that were made and dropped: {} KiB more resident", growth >> 10);
    // As a worker has it: many interpreters, each of which has grown cold.
    let begun = Instant::now();
    const ROUNDS: u32 = 20;
    for _ in 0..ROUNDS {
        for (page, interpreter) in &all {
            interpreter.with(|ctx| page.run(ctx).map(|_| ()).unwrap());
            interpreter.reset().unwrap();
        }
    }
    let took = begun.elapsed() / (ROUNDS * MANY as u32);
    println!(
        "100 rows and a reset, {MANY} interpreters in turn: {:.1} microseconds",
        took.as_secs_f64() * 1e6
    );
}

fn fresh(page: &str) -> Duration {
    time(200, || {
        let runtime = rquickjs::Runtime::new().unwrap();
        let context = rquickjs::Context::full(&runtime).unwrap();
        context.with(|ctx| black_box(ctx.eval::<f64, _>(page).unwrap()));
    })
}

fn reset(page: &str) -> Duration {
    let interpreter = Interpreter::new(LIMITS).unwrap();
    let page = interpreter.with(|ctx| compile(ctx, page, "page").unwrap());
    interpreter.seal().unwrap();
    time(2000, || {
        interpreter.with(|ctx| {
            black_box(page.run(ctx).unwrap().as_number().unwrap());
        });
        interpreter.reset().unwrap();
    })
}

fn bare(_: &str) -> Duration {
    let interpreter = Interpreter::new(LIMITS).unwrap();
    interpreter.seal().unwrap();
    time(2000, || interpreter.reset().unwrap())
}

fn time(times: u32, mut f: impl FnMut()) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        f();
    }
    begun.elapsed() / times
}

fn median(mut f: impl FnMut() -> Duration) -> Duration {
    let mut all: Vec<_> = (0..9).map(|_| f()).collect();
    all.sort_unstable();
    all[4]
}

/// Bytes that the process has of the system's memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

//! The fuzz test of `tests/fuzz`, for a bounded number of cases, or for `HATS_FUZZ_SECONDS`.
//!
//! The case with the number n is made of bytes that follow from n. `HATS_FUZZ_FIRST` is the first number, `HATS_FUZZ_CASES` how many.
//! `HATS_FUZZ_PROGRAM` names a file that always has the case that runs: what is in it after a crash has done it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hats_fiber::{Preemption, stats};

use self::case::{Case, Neighbour};
use crate::attach;

#[expect(unreachable_pub, reason = "shared with the target of cargo-fuzz")]
#[path = "../../../../../tests/fuzz/src/case.rs"]
mod case;
#[expect(unreachable_pub, reason = "shared with the target of cargo-fuzz")]
#[path = "../../../../../tests/fuzz/src/program.rs"]
mod program;

/// Without a time: some seconds of a debug build.
const CASES: u64 = 400;
/// Bytes of a case.
const BYTES: u64 = 700;
/// Cases with one neighbour, which is then dropped in the middle of its work.
const CASES_OF_NEIGHBOUR: u64 = 100;
/// A case that takes longer has found something that cannot be killed.
const STALL: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

fn bytes_of(case: u64) -> Vec<u8> {
    let mut seed = case.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56
    };
    for _ in 0..8 {
        next();
    }
    let length = 40 + next() * BYTES / 256;
    (0..length).map(|_| u8::try_from(next()).unwrap_or(0)).collect()
}

#[test]
fn random_programs_that_are_stopped_at_random_moments_harm_nobody() {
    let ticks = attach(Preemption::Auto).unwrap();
    assert!(ticks.has_signals(), "{:?}", ticks.why_not());
    let end = number("HATS_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = number("HATS_FUZZ_FIRST").unwrap_or(0);
    let cases = number("HATS_FUZZ_CASES").unwrap_or(if end.is_some() { u64::MAX } else { CASES });
    let program = std::env::var_os("HATS_FUZZ_PROGRAM");
    let running = Arc::new(AtomicU64::new(first));
    watch(running.clone());
    let begun = stats();
    let mut outcomes = BTreeMap::new();
    let mut checked = 0;
    let mut neighbour = Neighbour::new();
    for n in 0..cases {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        if n > 0 && n % CASES_OF_NEIGHBOUR == 0 {
            checked += neighbour.checked();
            neighbour = Neighbour::new();
        }
        let case = Case::new(&bytes_of(first.wrapping_add(n)));
        running.store(first.wrapping_add(n), Ordering::Relaxed);
        if let Some(file) = &program {
            std::fs::write(file, format!("// case {}\n{case}", first.wrapping_add(n))).unwrap();
        }
        *outcomes.entry(case.run(&mut neighbour)).or_insert(0_u64) += 1;
    }
    running.store(u64::MAX, Ordering::Relaxed);
    checked += neighbour.checked();
    let now = stats();
    println!(
        "{} programs, {} preemptions at instructions, {} at ends of host calls, {checked} results of neighbours, none different",
        outcomes.values().sum::<u64>(),
        now.preempted_at_instructions - begun.preempted_at_instructions,
        now.preempted_at_host_ends - begun.preempted_at_host_ends,
    );
    for (outcome, count) in outcomes {
        println!("{count:>8} {outcome}");
    }
    assert!(checked > 0 || cases < CASES);
}

/// Ends the process, and says at which case, if one does not come to its end.
fn watch(running: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut seen, mut since) = (running.load(Ordering::Relaxed), Instant::now());
        while seen != u64::MAX {
            std::thread::sleep(Duration::from_secs(1));
            let now = running.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > STALL {
                eprintln!("case {seen} does not come to its end: HATS_FUZZ_FIRST={seen} HATS_FUZZ_CASES=1");
                std::process::abort();
            }
        }
    });
}

//! What it costs to read a schedule and to ask it: `cargo bench -p hats-scheduler --bench cron`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people who measure")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hats_scheduler::cron::{Schedule, UnixSeconds};

/// The usual ones, and those that would be slow if seconds or days were tried one by one.
const SCHEDULES: [(&str, &str); 12] = [
    ("* * * * * *", "UTC"),
    ("* * * * *", "Europe/Berlin"),
    ("30 4 * * 1-5", "Europe/Berlin"),
    ("0 */2 * * *", "Australia/Lord_Howe"),
    ("0 0 LW * *", "America/Santiago"),
    ("0 0 29 2 *", "UTC"),
    ("0 0 29 2 *", "Europe/Berlin"),
    ("0 */5 29 2 *", "Africa/Casablanca"),
    ("59 59 23 31 12 5", "Europe/Berlin"),
    ("59 59 23 29 2 +FRI", "Europe/Berlin"),
    ("0 * 29 2 +FRI", "America/New_York"),
    ("@every 90s", "UTC"),
];

/// Each measurement takes about so long.
const LONG: Duration = Duration::from_millis(200);

fn main() {
    println!("{:<34}{:>12}{:>12}{:>12}{:>16}", "", "parse", "next", "newest", "count 3 years");
    let start = UnixSeconds::new(1_774_000_000);
    let end = UnixSeconds::new(start.get() + 3 * 365 * 86_400);
    for (cron, zone) in SCHEDULES {
        let schedule = Schedule::parse(cron, Some(zone)).unwrap();
        let parse = measure(|_| Schedule::parse(black_box(cron), Some(zone)).unwrap());
        // From instants all over the next twenty years.
        let at = |round: u64| UnixSeconds::new(start.get() + (round * 7_654_321 % 630_720_000) as i64);
        let next = measure(|round| schedule.next_after(at(round)));
        let newest = measure(|round| schedule.newest_by(at(round)));
        let count = measure(|_| schedule.count(black_box(start), end));
        let name = format!("{cron} {zone}");
        println!("{name:<34}{:>12}{:>12}{:>12}{:>16}", parse, next, newest, count);
    }
}

/// The mean of one call, as text.
fn measure<T>(mut call: impl FnMut(u64) -> T) -> String {
    let begin = Instant::now();
    let mut round = 0;
    while begin.elapsed() < LONG {
        for _ in 0..10 {
            black_box(call(round));
            round += 1;
        }
    }
    let nanos = begin.elapsed().as_nanos() / u128::from(round);
    if nanos < 10_000 { format!("{nanos} ns") } else { format!("{:.1} us", nanos as f64 / 1000.0) }
}

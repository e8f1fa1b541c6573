//! Thousands of jobs at once cost a few commands each in the whole cluster, and no session.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::process::Process;
use hats_tests::{Lab, clock, redis};

use crate::is_soak;

/// Maximum commands that the workers of a cluster send for each new job.
const COMMANDS_MAX: f64 = 3.0;
/// What a worker logs when its session is lost, or is about to be.
const LOST: [&str; 3] = ["the session is lost", "has not come round", "the process ends at its hard stop"];
/// Commands of a whole cluster within [`QUIET`] that are no more than what goes on all the time.
const QUIET_COMMANDS: u64 = 150;
const QUIET: Duration = Duration::from_secs(2);

/// Every hour, half an hour from now: no tick comes while the commands are counted.
fn hourly(cluster: &Cluster) -> Result<String> {
    let minute = cluster.redis.time_ms()? / 60_000 % 60;
    Ok(format!("{} * * * *", (minute + 30) % 60))
}

/// The commands that all workers have sent.
fn sent(cluster: &Cluster) -> u64 {
    cluster.seats.iter().map(|seat| seat.proxy.all_seen().values().sum::<u64>()).sum()
}

fn records(cluster: &Cluster, jobs: usize) -> Result<usize> {
    let commands: Vec<Vec<String>> = (0..jobs)
        .map(|n| ["HEXISTS", &format!("{NAME}:Ticks:j{n}"), "Def"].map(str::to_owned).into())
        .collect();
    let replies = cluster.redis.pipeline(&commands)?;
    Ok(replies.iter().filter(|reply| reply.int() == Some(1)).count())
}

/// Defines so many jobs in a running cluster, beside processes that never rest, and counts what that costs.
fn settle(lab: &Lab, jobs: usize, busy: usize) -> Result<()> {
    let shape = Shape {
        threads: 0,
        lease: Duration::from_secs(5),
        redis: redis::Options::default(),
        ..Shape::default()
    };
    let cluster = Cluster::start(lab, shape)?;
    cluster.acquainted()?;
    let mut spin = Command::new("sh");
    spin.args(["-c", "while :; do :; done"]);
    let busy: Vec<Process> = (0..busy)
        .map(|nth| Process::start(&spin, &lab.log(&format!("busy{nth}.log"))))
        .collect::<Result<_>>()?;
    let sessions = cluster.live_sessions()?;
    let cron = hourly(&cluster)?;
    let define: Vec<Vec<String>> = (0..jobs)
        .map(|n| {
            let key = format!("{NAME}:Jobs:j{n}");
            ["HSET", &key, "Source", r#"redis.Call("INCR", "ran")"#, "Cron", &cron].map(str::to_owned).into()
        })
        .collect();
    let (start, before) = (Instant::now(), sent(&cluster));
    cluster.redis.pipeline(&define)?;
    let most = Duration::from_secs(300);
    clock::wait_for("all jobs to be adopted", most, || Ok((records(&cluster, jobs)? == jobs).then_some(())))?;
    let adopted = start.elapsed();
    // Whoever left them to others has to see it, too.
    let mut last = sent(&cluster);
    clock::wait_for("the workers to come to rest", most, || {
        std::thread::sleep(QUIET);
        let now = sent(&cluster);
        let was = std::mem::replace(&mut last, now);
        Ok((now - was <= QUIET_COMMANDS).then_some(()))
    })?;
    let commands = sent(&cluster) - before;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let each = commands as f64 / jobs as f64;
    eprintln!(
        "{jobs} jobs, {} busy processes: {each:.2} commands per job, all adopted after {adopted:.1?}, at rest after {:.1?}",
        busy.len(),
        start.elapsed()
    );
    let mut seen: Vec<(String, u64)> = cluster.seats.iter().flat_map(|seat| seat.proxy.all_seen()).collect();
    seen.sort_by_key(|one| std::cmp::Reverse(one.1));
    ensure!(each <= COMMANDS_MAX, "{each:.2} commands per job: {:?}", &seen[..seen.len().min(12)]);
    ensure!(cluster.live_sessions()? == sessions, "not all sessions have lived through it");
    for seat in &cluster.seats {
        let log = fs::read_to_string(seat.worker.log())?;
        let lost = log.lines().find(|line| LOST.iter().any(|text| line.contains(text)));
        ensure!(lost.is_none(), "{}: {lost:?}", seat.worker.name());
        ensure!(seat.worker.process().is_running(), "{} has ended", seat.worker.name());
    }
    busy.iter().try_for_each(|process| process.kill().map(drop))
}

#[test]
fn thousands_of_new_jobs_cost_a_few_commands_each_and_no_session() -> Result<()> {
    let sizes: &[(usize, usize)] =
        if is_soak() { &[(10_000, 0), (10_000, 2), (20_000, 0), (20_000, 2)] } else { &[(2000, 0)] };
    for (jobs, busy) in sizes {
        Lab::run("job load", |lab| settle(lab, *jobs, *busy))?;
    }
    Ok(())
}

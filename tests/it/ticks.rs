//! Each tick of a job is granted once, whatever happens to workers and Redis, and the books add up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::proxy::{Action, Match, Rule};
use hats_tests::ticks::{self, Books, COUNTED};
use hats_tests::{Lab, clock, redis};

use crate::is_soak;

/// Jobs of one cluster: so many each second, and so many each three seconds.
#[derive(Clone, Copy)]
struct Jobs {
    each_second: usize,
    each_three: usize,
}

impl Jobs {
    fn all(self) -> impl Iterator<Item = (String, &'static str, i64)> {
        let seconds = (0..self.each_second).map(|n| (format!("s{n}"), "* * * * * *", 1));
        seconds.chain((0..self.each_three).map(|n| (format!("e{n}"), "@every 3s", 3)))
    }

    fn define(self, cluster: &Cluster) -> Result<()> {
        let commands: Vec<Vec<String>> = self
            .all()
            .map(|(name, cron, _)| {
                let key = format!("{NAME}:Jobs:{name}");
                ["HSET", &key, "Source", COUNTED, "Cron", cron].map(str::to_owned).to_vec()
            })
            .collect();
        cluster.redis.pipeline(&commands)?;
        Ok(())
    }

    fn books(self, cluster: &Cluster) -> Result<Vec<Books>> {
        self.all().map(|(name, _, step)| Books::read(&cluster.redis, NAME, &name, step)).collect()
    }

    /// The last tick of the job that is furthest behind.
    fn last(self, cluster: &Cluster) -> Result<i64> {
        let last =
            self.all().map(|(name, ..)| cluster.redis.field(&format!("{NAME}:Ticks:{name}"), "LastTick"));
        let last: Vec<String> = last.collect::<Result<_>>()?;
        Ok(last.iter().filter_map(|last| last.parse().ok()).min().unwrap_or(0))
    }

    /// Waits until a tick that was due after now has been decided for every job: none is stuck.
    fn go_on(self, cluster: &Cluster, what: &str) -> Result<()> {
        let since = cluster.redis.time_ms()?;
        clock::wait_for(
            &format!("every job to go on after {what}"),
            cluster.lease() * 4 + Duration::from_secs(4),
            || Ok((self.last(cluster)? > since).then_some(())),
        )
    }
}

/// Loses the replies to one of the scripts about ticks at every worker, until some have been lost.
fn lose(cluster: &Cluster, lua: &'static str) -> Result<()> {
    let rule = Rule { of: Match::Lua(lua), skip: 0, count: 3, action: Action::LoseReply };
    let hits: Vec<_> = cluster.seats.iter().map(|seat| seat.proxy.rule(rule.clone())).collect();
    clock::wait_for("lost replies", Duration::from_secs(10), || {
        Ok((hits.iter().map(|hits| hits.count()).sum::<u64>() >= 3).then_some(()))
    })?;
    cluster.seats.iter().for_each(|seat| seat.proxy.clear_rules());
    Ok(())
}

#[test]
fn through_deaths_freezes_drains_stalls_and_lost_replies() -> Result<()> {
    let (jobs, most) = if is_soak() {
        (Jobs { each_second: 200, each_three: 50 }, Duration::from_secs(120))
    } else {
        (Jobs { each_second: 30, each_three: 10 }, Duration::ZERO)
    };
    Lab::run("ticks", |lab| {
        let mut cluster = Cluster::start(lab, Shape { threads: 0, ..Shape::default() })?;
        cluster.acquainted()?;
        jobs.define(&cluster)?;
        jobs.go_on(&cluster, "the start")?;
        let start = Instant::now();
        while {
            lose(&cluster, "tick")?;
            lose(&cluster, "finish")?;
            jobs.go_on(&cluster, "lost replies")?;
            cluster.seat(0)?.worker.kill()?;
            jobs.go_on(&cluster, "a death")?;
            cluster.revive()?;
            cluster.seat(1)?.worker.freeze()?;
            std::thread::sleep(Duration::from_secs(10));
            cluster.seat(1)?.worker.thaw()?;
            jobs.go_on(&cluster, "a freeze")?;
            cluster.revive()?;
            cluster.seat(2)?.worker.drain(Duration::from_secs(15))?;
            jobs.go_on(&cluster, "a drain")?;
            cluster.revive()?;
            cluster.redis.stall(Duration::from_secs(3))?;
            cluster.redis.ask(&["PING"])?;
            jobs.go_on(&cluster, "a stall of Redis")?;
            cluster.revive()?;
            start.elapsed() < most
        } {}
        // By the call logs: no two runs of one job at once, and epochs only rise.
        cluster.finish()?;
        let books = jobs.books(&cluster)?;
        let summary = ticks::check(&books)?;
        eprintln!("ticks: {} jobs: {summary}", books.len());
        let left: Vec<_> =
            books.iter().filter(|books| !books.running.is_empty()).map(|books| &books.name).collect();
        ensure!(left.is_empty(), "everybody has stopped, and these still run: {left:?}");
        Ok(())
    })
}

/// What has run of a job, as its script wrote it down.
fn ran(cluster: &Cluster, job: &str) -> Result<Vec<String>> {
    Ok(cluster.redis.ask(&["LRANGE", &format!("ran:{NAME}:Jobs:{job}"), "0", "-1"])?.texts())
}

/// Waits for so many more runs of a job.
fn runs(cluster: &Cluster, job: &str, more: usize) -> Result<()> {
    let before = ran(cluster, job)?.len();
    clock::wait_for(&format!("{more} runs of {job}"), Duration::from_secs(20), || {
        Ok((ran(cluster, job)?.len() >= before + more).then_some(()))
    })
}

/// Nothing of the job runs for three of its ticks; one that was granted before may still end.
fn rests(cluster: &Cluster, job: &str) -> Result<()> {
    std::thread::sleep(Duration::from_secs(1));
    let before = ran(cluster, job)?;
    std::thread::sleep(Duration::from_secs(3));
    let after = ran(cluster, job)?;
    ensure!(before == after, "{job} has run: {before:?}, {after:?}");
    Ok(())
}

#[test]
fn through_changes_of_the_definition() -> Result<()> {
    Lab::run("definitions", |lab| {
        let mut cluster = Cluster::start(lab, Shape { threads: 0, ..Shape::default() })?;
        let key = format!("{NAME}:Jobs:j");
        let set = |cluster: &Cluster, field: &str, value: &str| -> Result<()> {
            cluster.redis.ask(&["HSET", &key, field, value]).map(drop)
        };
        let define = |cluster: &Cluster| -> Result<()> {
            let fields = ["HSET", &key, "Source", COUNTED, "Cron", "* * * * * *"];
            cluster.redis.ask(&fields).map(drop)
        };
        let missed = |cluster: &Cluster| -> Result<()> {
            let missed = cluster.redis.field(&format!("{NAME}:Ticks:j"), "Missed")?;
            ensure!(missed.is_empty() || missed == "0", "{missed} ticks count as missed");
            Ok(())
        };
        define(&cluster)?;
        runs(&cluster, "j", 2)?;
        // Another schedule: nothing of the old one is left, and nothing is made up for when it comes back.
        for other in ["0 0 1 1 *", "CRON_TZ=Asia/Tokyo 0 0 1 1 *", "not one at all"] {
            set(&cluster, "Cron", other)?;
            rests(&cluster, "j")?;
            set(&cluster, "Cron", "* * * * * *")?;
            runs(&cluster, "j", 2)?;
        }
        let state = cluster.redis.field(&key, "State")?;
        ensure!(state != "crashed", "it is mended, and still {state}");
        set(&cluster, "TZ", "Nowhere/Land")?;
        rests(&cluster, "j")?;
        let error = cluster.redis.field(&key, "Error")?;
        ensure!(error.contains("TZ") && error.contains("Nowhere/Land"), "{error}");
        set(&cluster, "TZ", "Asia/Tokyo")?;
        runs(&cluster, "j", 2)?;
        set(&cluster, "Status", "disabled")?;
        rests(&cluster, "j")?;
        set(&cluster, "Status", "enabled")?;
        runs(&cluster, "j", 2)?;
        cluster.redis.ask(&["DEL", &key])?;
        rests(&cluster, "j")?;
        define(&cluster)?;
        runs(&cluster, "j", 2)?;
        // As a deployment script would.
        cluster.redis.ask(&["DEL", &key])?;
        define(&cluster)?;
        runs(&cluster, "j", 2)?;
        missed(&cluster)?;
        let mut all = ran(&cluster, "j")?;
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        ensure!(all.len() == count, "of {count} runs {} are the same", count - all.len());
        cluster.finish().map(drop)
    })
}

#[test]
fn through_restarts_of_everybody_and_of_redis() -> Result<()> {
    let jobs = Jobs { each_second: 5, each_three: 2 };
    Lab::run("restarts", |lab| {
        let mut cluster = Cluster::start(lab, Shape { threads: 0, ..Shape::default() })?;
        cluster.acquainted()?;
        jobs.define(&cluster)?;
        jobs.go_on(&cluster, "the start")?;
        for seat in &cluster.seats {
            seat.worker.terminate()?;
        }
        for seat in &cluster.seats {
            seat.worker.wait(Duration::from_secs(20))?;
        }
        // Some ticks that nobody is there for.
        std::thread::sleep(Duration::from_secs(4));
        cluster.revive()?;
        jobs.go_on(&cluster, "a restart of everybody")?;
        cluster.redis.stop()?;
        std::thread::sleep(Duration::from_millis(300));
        cluster.redis.start_again()?;
        jobs.go_on(&cluster, "a short restart of Redis")?;
        cluster.redis.stop()?;
        cluster.endure(2.0);
        cluster.redis.start_again()?;
        jobs.go_on(&cluster, "a long restart of Redis")?;
        // Another name makes no difference.
        cluster.seat(0)?.worker.drain(Duration::from_secs(15))?;
        cluster.join("renamed")?;
        jobs.go_on(&cluster, "another name")?;
        cluster.revive()?;
        cluster.acquainted()?;
        cluster.finish()?;
        let summary = ticks::check(&jobs.books(&cluster)?)?;
        let missed = summary.counts.get("Missed").copied().unwrap_or(0);
        ensure!(missed >= 5 * 2, "nobody was there for four seconds, and {missed} ticks were missed");
        Ok(())
    })
}

#[test]
fn through_stepped_clocks() -> Result<()> {
    let jobs = Jobs { each_second: 5, each_three: 2 };
    Lab::run("clocks", |lab| {
        let redis = redis::Options { persistent: true, fake_clock: true };
        let shape =
            Shape { threads: 0, fake_clocks: true, redis, lease: Duration::from_secs(3), ..Shape::default() };
        let mut cluster = Cluster::start(lab, shape)?;
        cluster.acquainted()?;
        jobs.define(&cluster)?;
        jobs.go_on(&cluster, "the start")?;
        for seconds in [3600, -3600] {
            cluster.seat(0)?.worker.step_clock(seconds)?;
            jobs.go_on(&cluster, "a step of a worker's clock")?;
            cluster.seat(0)?.worker.step_clock(0)?;
            jobs.go_on(&cluster, "its way back")?;
        }
        // A tick is due when both clocks have reached it: ahead, Redis changes nothing.
        cluster.redis.step_clock(3600)?;
        let since = jobs.last(&cluster)?;
        clock::wait_for("further ticks", Duration::from_secs(15), || {
            Ok((jobs.last(&cluster)? > since + 2000).then_some(()))
        })?;
        cluster.redis.step_clock(0)?;
        jobs.go_on(&cluster, "its way back")?;
        // Behind, it delays them; then the newest one runs and the others count as missed.
        cluster.redis.step_clock(-3600)?;
        std::thread::sleep(Duration::from_secs(2));
        let since = jobs.last(&cluster)?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(jobs.last(&cluster)? == since, "ticks run although Redis says that they are to come");
        cluster.redis.step_clock(0)?;
        jobs.go_on(&cluster, "its way back")?;
        cluster.finish()?;
        ticks::check(&jobs.books(&cluster)?).map(drop)
    })
}

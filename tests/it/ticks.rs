//! Each tick of a job is granted once, whatever happens to workers and Redis, and the books add up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::proxy::{Action, Match, Rule};
use hats_tests::ticks::{self, Books, COUNTED};
use hats_tests::{Lab, clock};

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

    /// Waits until a tick that was due after now has been decided for every job: none is stuck.
    fn go_on(self, cluster: &Cluster, what: &str) -> Result<()> {
        let since = cluster.redis.time_ms()?;
        let mut behind = Vec::new();
        let waited = clock::wait_for(what, cluster.lease() * 4 + Duration::from_secs(4), || {
            behind.clear();
            for (name, ..) in self.all() {
                let last = cluster.redis.field(&format!("{NAME}:Ticks:{name}"), "LastTick")?;
                if last.parse::<i64>().unwrap_or(0) <= since {
                    behind.push(name);
                }
            }
            Ok(behind.is_empty().then_some(()))
        });
        waited.map_err(|error| error.context(format!("after {what}: these do not go on: {behind:?}")))
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

//! Blocking commands: a thousand scripts wait over a few connections, all are served, none is lost.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, Shape};
use hats_tests::{Lab, clock, redis};

const SCRIPTS: usize = 1000;

/// Each waits for ever at a list of its own and writes down what it got.
const WAITER: &str = r#"
    const key = "queue:" + thread.Key.split(":").pop();
    function main() {
      const reply = redis.Call("BLPOP", key, 0);
      if (reply !== null) redis.Call("RPUSH", "done", reply[1]);
    }
"#;

#[test]
fn a_thousand_waiting_scripts_are_all_served_and_drained_at_once() -> Result<()> {
    Lab::run("blpop", |lab| {
        let shape = Shape {
            workers: 1,
            threads: SCRIPTS,
            source: WAITER,
            hang: 1,
            redis: redis::Options::default(),
            ..Shape::default()
        };
        let mut cluster = Cluster::start(lab, shape)?;
        let push = |cluster: &Cluster, round: &str, scripts: usize| {
            let pushes: Vec<Vec<String>> = (0..scripts)
                .map(|number| {
                    ["RPUSH", &format!("queue:t{number}"), &format!("{round}-{number}")]
                        .map(str::to_owned)
                        .to_vec()
                })
                .collect();
            cluster.redis.pipeline(&pushes)
        };
        push(&cluster, "first", SCRIPTS)?;
        clock::wait_for("every script to be served", Duration::from_secs(60), || {
            Ok((cluster.redis.ask(&["LLEN", "done"])?.int() == i64::try_from(SCRIPTS).ok()).then_some(()))
        })?;

        // Some more come just as the worker drains: each is either served or still where it was.
        push(&cluster, "second", SCRIPTS / 2)?;
        let start = std::time::Instant::now();
        cluster.seat(0)?.worker.drain(Duration::from_secs(15))?;
        eprintln!("blpop: drained in {:.3} s", start.elapsed().as_secs_f64());
        let mut found = cluster.redis.ask(&["LRANGE", "done", "0", "-1"])?.texts();
        for number in 0..SCRIPTS {
            found.extend(cluster.redis.ask(&["LRANGE", &format!("queue:t{number}"), "0", "-1"])?.texts());
        }
        let distinct: HashSet<&String> = found.iter().collect();
        ensure!(
            found.len() == SCRIPTS + SCRIPTS / 2,
            "{} elements of {}",
            found.len(),
            SCRIPTS + SCRIPTS / 2
        );
        ensure!(distinct.len() == found.len(), "an element was served twice");
        cluster.check()?;
        Ok(())
    })
}

#[test]
fn nothing_is_popped_for_a_worker_that_has_lost_its_lease() -> Result<()> {
    Lab::run("blpop frozen", |lab| {
        let shape = Shape { workers: 2, threads: 40, source: WAITER, hang: 1, ..Shape::default() };
        let mut cluster = Cluster::start(lab, shape)?;
        cluster.seat(0)?.worker.freeze()?;
        // Its lease is over now as the server sees it, and its sockets are still open.
        cluster.endure(1.0);
        for number in 0..40 {
            cluster.redis.ask(&["RPUSH", &format!("queue:t{number}"), &number.to_string()])?;
        }
        clock::wait_for("every element to arrive elsewhere", cluster.lease() * 4, || {
            Ok((cluster.redis.ask(&["LLEN", "done"])?.int() == Some(40)).then_some(()))
        })?;
        cluster.seat(0)?.worker.thaw()?;
        cluster.finish()?.not_empty()
    })
}

#[test]
fn waiting_scripts_come_back_after_an_outage() -> Result<()> {
    Lab::run("blpop outage", |lab| {
        let shape = Shape { workers: 1, threads: 20, source: WAITER, hang: 1, ..Shape::default() };
        let mut cluster = Cluster::start(lab, shape)?;
        // A short one, over before the lease is, and one that costs the session.
        for leases in [0.2, 1.5] {
            cluster.seat(0)?.proxy.refuse();
            cluster.endure(leases);
            cluster.seat(0)?.proxy.heal();
            cluster.redis.ask(&["DEL", "done"])?;
            for number in 0..20 {
                cluster.redis.ask(&["RPUSH", &format!("queue:t{number}"), &number.to_string()])?;
            }
            clock::wait_for("every script to be served", cluster.lease() * 3, || {
                Ok((cluster.redis.ask(&["LLEN", "done"])?.int() == Some(20)).then_some(()))
            })?;
        }
        cluster.finish()?;
        Ok(())
    })
}

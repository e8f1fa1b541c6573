//! Tasks that take workers down: the one in whose code workers stall is set aside, and no other, whatever else happens to
//! workers. The short form runs each case once, the long form (`HATS_SOAK=1`) ten times.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::redis::{RedisServer, free_port};
use hats_tests::worker::{Options, Worker, run};
use hats_tests::{Lab, clock};

use crate::is_soak;
use crate::single_ownership::STICK;

/// Threads that do nothing wrong.
const INNOCENT: usize = 12;
/// Three workers one after the other stall, are buried and start again in this.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Thread,
    Job,
    Page,
}

impl Bad {
    fn name(self) -> &'static str {
        if self == Self::Page { "/bad" } else { "bad" }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Job => "job",
            Self::Page => "endpoint",
        }
    }

    fn key(self) -> String {
        let part = match self {
            Self::Thread => "Threads",
            Self::Job => "Jobs",
            Self::Page => "Endpoints",
        };
        format!("{NAME}:{part}:{}", self.name())
    }

    fn record(self) -> String {
        format!("{NAME}:System:Poison:{}:{}", self.word(), self.name())
    }

    /// It tries to get rid of what is counted against it, and then computes natively for hours.
    fn source(self) -> String {
        let (key, record, name) = (self.key(), self.record(), self.name());
        let escape = format!(
            r#"redis.Do("HSET", "{key}", "RestartAt", String(Date.now()), "Status", "disabled");
            redis.Do("HSET", "{key}", "Status", "enabled", "Deaths", "0", "Note", String(Math.random()));
            redis.Do("HSET", "{NAME}:Claims:{name}", "Deaths", "0"); redis.Do("HDEL", "{NAME}:Claims:{name}", "Deaths");
            if (!redis.Do("DEL", "{record}")[1]) redis.Do("INCR", "escaped");
            if (!redis.Do("HDEL", "{record}", "Deaths")[1]) redis.Do("INCR", "escaped");"#
        );
        match self {
            Self::Thread => format!("function main() {{ {escape} {STICK} }}"),
            // Disabling would end its run in good order.
            Self::Job => STICK.to_owned(),
            Self::Page => format!("<? {escape} {STICK} ?>"),
        }
    }
}

struct Bench {
    redis: RedisServer,
    workers: Vec<(Worker, SocketAddr)>,
}

impl Bench {
    fn start(lab: &Lab, bad: Bad, workers: usize) -> Result<Self> {
        let redis = RedisServer::start(lab)?;
        for number in 0..INNOCENT {
            let key = format!("{NAME}:Threads:t{number}");
            redis.ask(&[
                "HSET",
                &key,
                "Source",
                "function main() { redis.Do('INCR', thread.Key + ':calls') }",
                "Hang",
                "50",
            ])?;
        }
        // The same name as the bad one's, another kind.
        let innocent_job = if bad == Bad::Job { "good" } else { "bad" };
        redis.ask(&["HSET", &format!("{NAME}:Jobs:{innocent_job}"), "Source", "1", "Cron", "@every 1s"])?;
        if bad != Bad::Thread {
            redis.ask(&[
                "HSET",
                &format!("{NAME}:Threads:bad"),
                "Source",
                "function main() {}",
                "Hang",
                "50",
            ])?;
        }
        redis.ask(&["HSET", &format!("{NAME}:Endpoints:/good"), "Source", "good"])?;
        redis.ask(&["HSET", &bad.key(), "Source", &bad.source()])?;
        if bad == Bad::Job {
            redis.ask(&["HSET", &bad.key(), "Cron", "@every 1s"])?;
        }
        let address = redis.address().to_string();
        let mut started = Vec::new();
        for number in 0..workers {
            let port = free_port()?;
            let options = Options::new(&format!("w{number}"), NAME, &address)
                .argument("--lease-seconds", "2")
                .argument("--stall-after", "3")
                .argument("--drain-timeout", "5")
                // Preempted, native code stalls no lane, and there is nothing to set a task aside for.
                .argument("--preemption", "yields")
                .argument("--host-port", &port.to_string())
                .flag("--host");
            started.push((Worker::start(lab, options)?, SocketAddr::from(([127, 0, 0, 1], port))));
        }
        Ok(Self { redis, workers: started })
    }

    fn revive(&mut self) -> Result<()> {
        for (worker, _) in &mut self.workers {
            worker.revive()?;
        }
        Ok(())
    }

    /// The names of the keys with something counted in them.
    fn counted(&self) -> Result<Vec<String>> {
        let keys = self.redis.ask(&["KEYS", &format!("{NAME}:System:Poison:*")])?.texts();
        Ok(keys)
    }

    fn until_set_aside(&mut self, bad: Bad) -> Result<()> {
        clock::wait_for("the bad one to be set aside", PATIENCE, || {
            self.revive()?;
            if bad == Bad::Page {
                for (_, address) in &self.workers {
                    // Its answer never comes.
                    let _ = get(*address, bad.name(), Duration::from_millis(100));
                }
            }
            Ok((self.redis.field(&bad.record(), "Until")?.len() > 1).then_some(()))
        })
    }

    /// Everything but the bad one runs.
    fn others_run(&mut self) -> Result<()> {
        let calls = |bench: &Self, number: usize| -> Result<u64> {
            let key = format!("{NAME}:Threads:t{number}:calls");
            Ok(bench.redis.ask(&["GET", &key])?.text().unwrap_or_default().parse().unwrap_or(0))
        };
        let before = (0..INNOCENT).map(|number| calls(self, number)).collect::<Result<Vec<_>>>()?;
        clock::wait_for("all others to run", Duration::from_secs(60), || {
            self.revive()?;
            let now = (0..INNOCENT).map(|number| calls(self, number)).collect::<Result<Vec<_>>>()?;
            Ok(now.iter().zip(&before).all(|(now, before)| now > before).then_some(()))
        })
    }
}

/// Status and head of the answer to a request.
fn get(address: SocketAddr, path: &str, within: Duration) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, text.to_ascii_lowercase()))
}

fn one_is_set_aside(bad: Bad, workers: usize) -> Result<()> {
    let rounds = if is_soak() { 10 } else { 1 };
    for round in 0..rounds {
        Lab::run(&format!("poison {bad:?} {workers} {round}"), |lab| {
            let mut bench = Bench::start(lab, bad, workers)?;
            bench.until_set_aside(bad)?;
            is_told(&mut bench, bad)?;
            bench.others_run()?;
            ensure!(bench.counted()? == [bad.record()], "counted: {:?}", bench.counted()?);
            ensure!(bench.redis.ask(&["GET", "escaped"])?.text().is_none(), "it got at its record");
            is_cleared(&mut bench, bad)
        })?;
    }
    Ok(())
}

/// People, the job's ledger and clients see that it is set aside, and why.
fn is_told(bench: &mut Bench, bad: Bad) -> Result<()> {
    let error = clock::wait_for("its error", Duration::from_secs(5), || {
        let error = bench.redis.field(&bad.key(), "Error")?;
        Ok(error.starts_with("poison: lane").then_some(error))
    });
    error.with_context(|| format!("{:?}", bench.redis.hash(&bad.key())))?;
    let shown = command(bench, bad, "show")?;
    ensure!(shown.contains("worker crashes in a row"), "{shown}");
    match bad {
        Bad::Thread => Ok(()),
        Bad::Job => clock::wait_for("a tick to be skipped", PATIENCE, || {
            bench.revive()?;
            let ledger = bench.redis.hash(&format!("{NAME}:Ticks:bad"))?;
            Ok(ledger
                .values()
                .any(|chunk| chunk.contains("\tskipped\t") && chunk.contains("poison: lane"))
                .then_some(()))
        }),
        Bad::Page => clock::wait_for("503 with Retry-After", PATIENCE, || {
            bench.revive()?;
            let (_, address) = bench.workers[0];
            let Ok((status, head)) = get(address, bad.name(), Duration::from_secs(1)) else {
                return Ok(None);
            };
            Ok((status == 503 && head.contains("retry-after: ")).then_some(()))
        }),
    }
}

fn command(bench: &Bench, bad: Bad, verb: &str) -> Result<String> {
    let address = bench.redis.address().to_string();
    let words = [bad.word(), verb, bad.name(), "--redis-address", &address, "--cluster-name", NAME];
    let output = run(&words)?;
    if output.code != 0 {
        bail!("{output:?}");
    }
    Ok(output.stdout)
}

/// An operator mends and enables it: it counts as new.
fn is_cleared(bench: &mut Bench, bad: Bad) -> Result<()> {
    let source = match bad {
        Bad::Thread => "function main() { redis.Do('SET', 'mended', '1') }",
        Bad::Job => "redis.Do('SET', 'mended', '1')",
        Bad::Page => "<? redis.Do('SET', 'mended', '1') ?>",
    };
    bench.redis.ask(&["HSET", &bad.key(), "Source", source, "Status", "enabled"])?;
    command(bench, bad, "enable")?;
    ensure!(bench.redis.field(&bad.record(), "Deaths")?.is_empty(), "still counted");
    clock::wait_for("the mended one to run", Duration::from_secs(60), || {
        bench.revive()?;
        if bad == Bad::Page {
            let _ = get(bench.workers[0].1, bad.name(), Duration::from_secs(1));
        }
        Ok((bench.redis.ask(&["GET", "mended"])?.text().as_deref() == Some("1")).then_some(()))
    })
}

macro_rules! cases {
    ($($name:ident $bad:ident $workers:literal)*) => {
        $(#[test] fn $name() -> Result<()> { one_is_set_aside(Bad::$bad, $workers) })*
    };
}

cases! {
    a_bad_thread_alone_is_set_aside_with_one_worker Thread 1
    a_bad_thread_alone_is_set_aside_with_two_workers Thread 2
    a_bad_thread_alone_is_set_aside_with_three_workers Thread 3
    a_bad_job_alone_is_set_aside_with_one_worker Job 1
    a_bad_job_alone_is_set_aside_with_two_workers Job 2
    a_bad_job_alone_is_set_aside_with_three_workers Job 3
    a_bad_page_alone_is_set_aside_with_one_worker Page 1
    a_bad_page_alone_is_set_aside_with_two_workers Page 2
    a_bad_page_alone_is_set_aside_with_three_workers Page 3
}

/// Kills, suspensions and outages, faster after one another than anywhere else, name nobody.
#[test]
fn what_happens_to_healthy_workers_sets_nobody_aside() -> Result<()> {
    let rounds = if is_soak() { 10 } else { 1 };
    Lab::run("innocents", |lab| {
        let mut cluster = Cluster::start(lab, Shape { threads: 30, ..Shape::default() })?;
        for _ in 0..rounds {
            for _ in 0..2 {
                for seat in 0..3 {
                    cluster.seat(seat)?.worker.kill()?;
                    cluster.recovers("a kill")?;
                }
                for seat in 0..3 {
                    cluster.seat(seat)?.worker.freeze()?;
                    cluster.endure(2.0);
                    cluster.seat(seat)?.worker.thaw()?;
                    cluster.recovers("a suspension")?;
                }
            }
            for seat in 0..3 {
                cluster.seat(seat)?.worker.freeze()?;
            }
            cluster.endure(2.0);
            for seat in 0..3 {
                cluster.seat(seat)?.worker.thaw()?;
            }
            cluster.recovers("a suspension of all")?;
            cluster.redis.freeze()?;
            cluster.endure(2.0);
            cluster.redis.thaw()?;
            cluster.recovers("an outage of Redis")?;
        }
        let counted = cluster.redis.ask(&["KEYS", &format!("{NAME}:System:Poison:*")])?.texts();
        ensure!(counted.is_empty(), "{counted:?}");
        for thread in cluster.threads.keys() {
            let error = cluster.redis.field(&Cluster::key(thread), "Error")?;
            ensure!(!error.starts_with("poison"), "{thread}: {error}");
        }
        cluster.finish()?.not_empty()
    })
}

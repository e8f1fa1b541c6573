//! What the health port says of a worker, and what follows when it is unhealthy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::health::{FakeSystem, HealthPort};
use hats_tests::redis::{self, RedisServer};
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(20);

/// Uses every kind of connection that scripts have.
const USER: &str = r#"
function main() {
  redis.Do("INCR", "calls");
  redis.Blpop(1, "list");
}
"#;

/// Every kind of connection that a worker has.
const CONNECTIONS: [&str; 5] =
    ["redis.commands", "redis.scripts", "redis.scripts-blocking", "redis.session", "redis.watch"];

fn persistent(lab: &Lab) -> Result<RedisServer> {
    RedisServer::start_with(lab, "redis", redis::Options { persistent: true, fake_clock: false })
}

fn options(name: &str, redis: &RedisServer) -> Options {
    Options::new(name, NAME, &redis.address().to_string()).argument("--lease-seconds", "2")
}

fn define(redis: &RedisServer, thread: &str, source: &str) -> Result<()> {
    redis.ask(&["HSET", &Cluster::key(thread), "Source", source, "Hang", "5"])?;
    Ok(())
}

fn calls(redis: &RedisServer) -> Result<i64> {
    Ok(redis.ask(&["GET", "calls"])?.text().unwrap_or_default().parse().unwrap_or(0))
}

/// Waits until the script has gone on.
fn wait_for_calls(redis: &RedisServer) -> Result<()> {
    let before = calls(redis)?;
    clock::wait_for("the script to go on", PATIENCE, || Ok((calls(redis)? > before + 1).then_some(())))
}

fn wait_for_state(redis: &RedisServer, worker: &str, state: &str) -> Result<()> {
    clock::wait_for(&format!("{worker} to be {state}"), PATIENCE, || {
        Ok((redis.field(&format!("{NAME}:workers:{worker}"), "State")? == state).then_some(()))
    })
}

#[test]
fn readiness_follows_redis_on_every_kind_of_connection_and_liveness_does_not() -> Result<()> {
    Lab::run("readiness", |lab| {
        let mut redis = persistent(lab)?;
        define(&redis, "user", USER)?;
        let worker = Worker::start(lab, options("w0", &redis))?;
        let port = HealthPort::of(&worker)?;
        let ready = port.wait_for(200)?;
        ensure!(ready["ready"] == true && ready["readings"]["memoryPercent"].is_number(), "{ready}");
        wait_for_calls(&redis)?;
        for round in 0..2 {
            redis.stop()?;
            clock::wait_for("every connection to be missed", PATIENCE, || {
                ensure!(port.get("/livez")?.status == 200);
                let problems = port.problems()?;
                Ok(CONNECTIONS
                    .iter()
                    .all(|name| problems.iter().any(|problem| problem == name))
                    .then_some(()))
            })?;
            let root = port.get("/")?;
            ensure!((root.status, &*root.body) == (500, "Unhealthy"), "{root:?}");
            redis.start_again()?;
            port.wait_for(200)?;
            let root = port.get("/")?;
            ensure!((root.status, &*root.body) == (200, "{}"), "{root:?}");
            // And it is not only said: the script goes on by itself.
            wait_for_calls(&redis)?;
            eprintln!("outage {round}: ready again");
        }
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn a_redis_that_is_silent_is_not_ready_and_is_again() -> Result<()> {
    Lab::run("silent", |lab| {
        let redis = persistent(lab)?;
        let worker = Worker::start(lab, options("w0", &redis))?;
        let port = HealthPort::of(&worker)?;
        port.wait_for(200)?;
        redis.process().freeze()?;
        // Nothing breaks, it just does not answer.
        clock::wait_for("its silence to be noticed", PATIENCE, || {
            let problems = port.problems()?;
            let noticed = ["redis.commands", "redis.session", "redis.watch"];
            Ok(noticed.iter().all(|name| problems.iter().any(|problem| problem == name)).then_some(()))
        })?;
        ensure!(port.get("/livez")?.status == 200);
        redis.process().thaw()?;
        port.wait_for(200)?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn the_port_answers_before_redis_is_reached_and_while_the_worker_drains() -> Result<()> {
    Lab::run("early and late", |lab| {
        let mut redis = persistent(lab)?;
        let source =
            "function main() { redis.Do('INCR', 'calls'); while (redis.Do('GET', 'go') != 'on') sleep(5); }";
        define(&redis, "long", source)?;
        redis.stop()?;
        let worker = Worker::start(lab, options("w0", &redis))?;
        let port = HealthPort::of(&worker)?;
        ensure!(port.get("/livez")?.status == 200);
        ensure!(port.get("/")?.status == 500);
        assert_eq!(port.problems()?, CONNECTIONS);
        redis.start_again()?;
        port.wait_for(200)?;
        clock::wait_for("the script's call", PATIENCE, || Ok((calls(&redis)? > 0).then_some(())))?;
        worker.terminate()?;
        let answer = port.wait_for(503)?;
        ensure!(answer["checks"]["drain"]["ok"] == false, "{answer}");
        assert_eq!(port.problems()?, ["drain"]);
        redis.ask(&["SET", "go", "on"])?;
        let exit = worker.wait(PATIENCE)?;
        ensure!(exit.code() == Some(0), "{exit:?}");
        Ok(())
    })
}

#[test]
fn a_port_that_is_taken() -> Result<()> {
    Lab::run("ports", |lab| {
        let redis = persistent(lab)?;
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let port = taken.local_addr()?.port().to_string();
        let given = Worker::start(lab, options("w0", &redis).argument("--health-port", &port))?;
        let exit = given.wait(PATIENCE)?;
        ensure!(exit.code() == Some(2), "{exit:?}");
        given.wait_for_line(&format!("health-port: 127.0.0.1:{port} cannot be listened on"), PATIENCE)?;
        // The default one: whoever has it, this test or somebody else.
        let _taken = TcpListener::bind("127.0.0.1:8787");
        let worker = Worker::start(lab, options("w1", &redis).default_health_port())?;
        let port = HealthPort::of(&worker)?;
        ensure!(port.address().port() != 8787);
        worker.wait_for_line("port 8787 is taken", PATIENCE)?;
        port.wait_for(200)?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn an_unhealthy_worker_says_so_everywhere_and_recovers() -> Result<()> {
    Lab::run("critical", |lab| {
        let redis = persistent(lab)?;
        let healthy = "function main() { redis.Do('SET', 'healthy', String(worker.Healthy)); sleep(10); }";
        define(&redis, "healthy", healthy)?;
        let system = FakeSystem::new(lab, "system")?;
        let options =
            options("w0", &redis).argument("--health-interval", "100ms").argument("--cpu-threshold", "4");
        let worker = Worker::start(lab, system.of(options))?;
        let port = HealthPort::of(&worker)?;
        let script_sees = |wanted: &str| {
            clock::wait_for(&format!("worker.Healthy to be {wanted}"), PATIENCE, || {
                Ok((redis.ask(&["GET", "healthy"])?.text().as_deref() == Some(wanted)).then_some(()))
            })
        };
        port.wait_for(200)?;
        script_sees("true")?;
        for sick in ["load", "memory"] {
            match sick {
                "load" => system.load(9.0)?,
                _ => system.memory(97)?,
            }
            let answer = port.wait_for(503)?;
            let problem = answer["checks"]["health"]["problem"].to_string();
            ensure!(problem.contains(sick) && problem.contains("threshold"), "{answer}");
            assert_eq!(port.problems()?, ["health"]);
            wait_for_state(&redis, "w0", "critical")?;
            let row = redis.hash(&format!("{NAME}:workers:w0"))?;
            ensure!(row["Critical"].contains(sick), "{row:?}");
            script_sees("false")?;
            // A little less is not enough to recover.
            system.load(3.9)?;
            system.memory(85)?;
            worker.wait_for_line("this worker is unhealthy", PATIENCE)?;
            system.load(1.0)?;
            system.memory(10)?;
            port.wait_for(200)?;
            wait_for_state(&redis, "w0", "online")?;
            script_sees("true")?;
            let row = redis.hash(&format!("{NAME}:workers:w0"))?;
            ensure!(row["Critical"].is_empty() && !row["MemoryPercent"].is_empty(), "{row:?}");
        }
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn a_configuration_of_2020_is_heeded() -> Result<()> {
    Lab::run("2020", |lab| {
        let redis = persistent(lab)?;
        let system = FakeSystem::new(lab, "system")?;
        let file = lab.path().join("worker.config");
        let content = format!(
            r#"{{"name":"old","redis-address":"{}","redis-password":"","cluster":"{NAME}","cpu-threshold":10,"mem-threshold":100,"health-interval":1,"host":false}}"#,
            redis.address()
        );
        std::fs::write(&file, content)?;
        let options = Options::bare("old").argument("--config", &file.display().to_string());
        let worker = Worker::start(lab, system.of(options))?;
        let port = HealthPort::of(&worker)?;
        port.wait_for(200)?;
        system.load(11.0)?;
        wait_for_state(&redis, "old", "critical")?;
        system.load(1.0)?;
        wait_for_state(&redis, "old", "online")?;
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// A cluster of workers whose systems are as well as the test wants; no threads yet.
fn moody(lab: &Lab, workers: usize) -> Result<(Cluster, Vec<FakeSystem>)> {
    let mut cluster = Cluster::start(lab, Shape { workers: 0, threads: 0, ..Shape::default() })?;
    let mut systems = Vec::new();
    for number in 0..workers {
        let system = FakeSystem::new(lab, &format!("system{number}"))?;
        let root = system.root().display().to_string();
        let flags = [("--system-root", &*root), ("--health-interval", "200ms"), ("--cpu-threshold", "4")];
        cluster.join_with(&format!("w{number}"), &flags)?;
        systems.push(system);
    }
    cluster.acquainted()?;
    Ok((cluster, systems))
}

/// Runs for a moment, and leaves a word at its end.
const POLITE: &str = r#"
function main() { redis.Do("INCR", "calls"); sleep(10); }
function cleanup() { redis.Do("INCR", "cleanups"); }
"#;

fn define_many(cluster: &mut Cluster, numbers: std::ops::Range<usize>) -> Result<Vec<String>> {
    let names: Vec<String> = numbers.map(|number| format!("m{number}")).collect();
    for name in &names {
        cluster.threads.insert(name.clone(), POLITE.to_owned());
    }
    cluster.define_all()?;
    cluster.run(&names, clock::now(), PATIENCE)?;
    Ok(names)
}

/// Waits until every thread is owned and `are` holds of how many each worker has, in the order of their seats.
fn wait_for_owners(cluster: &Cluster, what: &str, are: impl Fn(&[usize]) -> bool) -> Result<Vec<usize>> {
    let mut seen = Vec::new();
    let waited = clock::wait_for(what, Duration::from_secs(60), || {
        let shares = cluster.shares()?;
        seen.clear();
        seen.extend(
            (0..cluster.seats.len()).map(|seat| shares.get(&format!("w{seat}")).copied().unwrap_or(0)),
        );
        let all: usize = seen.iter().sum();
        Ok((all == cluster.threads.len() && are(&seen)).then_some(()))
    });
    waited.map_err(|error| error.context(format!("{seen:?}")))?;
    Ok(seen)
}

#[test]
fn a_critical_worker_sheds_to_healthy_ones_and_takes_its_share_again() -> Result<()> {
    Lab::run("shedding", |lab| {
        let (mut cluster, systems) = moody(lab, 3)?;
        let first = define_many(&mut cluster, 0..30)?;
        let before = wait_for_owners(&cluster, "shares", |owners| owners.iter().all(|count| *count > 0))?;
        systems[0].load(9.0)?;
        wait_for_state(&cluster.redis, "w0", "critical")?;
        let after = wait_for_owners(&cluster, "w0 to have nothing", |owners| owners[0] == 0)?;
        eprintln!("owners {before:?}, then {after:?}");
        // In good order, and each of them runs on.
        let cleanups: usize = cluster.redis.ask(&["GET", "cleanups"])?.text().unwrap_or_default().parse()?;
        ensure!(cleanups == before[0], "{cleanups} cleanups of {}", before[0]);
        cluster.run(&first, clock::now(), PATIENCE)?;
        let log = std::fs::read_to_string(cluster.seat(0)?.worker.log())?;
        ensure!(
            log.matches("this worker is critical: given to healthy ones").count() > 1,
            "all at once:\n{log}"
        );
        // What is new goes to the others.
        define_many(&mut cluster, 30..40)?;
        wait_for_owners(&cluster, "the new ones elsewhere", |owners| owners[0] == 0)?;
        systems[0].load(1.0)?;
        wait_for_state(&cluster.redis, "w0", "online")?;
        // The others give it its share, and no more than that.
        let last = wait_for_owners(&cluster, "even shares", |owners| {
            owners.iter().all(|count| (12..=15).contains(count))
        })?;
        eprintln!("recovered {last:?}");
        let all = cluster.threads.keys().cloned().collect::<Vec<_>>();
        cluster.run(&all, clock::now(), PATIENCE)?;
        assert_eq!(last.iter().sum::<usize>(), all.len());
        cluster.finish()?.not_empty()
    })
}

#[test]
fn the_thread_that_takes_most_is_given_away_first() -> Result<()> {
    Lab::run("heaviest", |lab| {
        let (mut cluster, systems) = moody(lab, 2)?;
        define_many(&mut cluster, 0..30)?;
        // By its name it would be the last.
        let busy = "z-busy";
        cluster.define(busy, "function main() { redis.Do('INCR', 'calls'); while (!thread.Stopped) {} }")?;
        cluster.run(&[busy.to_owned()], clock::now(), PATIENCE)?;
        // Until then it may move by itself.
        cluster.evens_out()?;
        let before = cluster.claims()?;
        let seat = usize::from(!cluster.threads_of(0)?.iter().any(|thread| thread == busy));
        systems[seat].load(9.0)?;
        wait_for_owners(&cluster, "all to be with the other", |owners| owners[seat] == 0)?;
        let mut moved: Vec<(u64, String)> = cluster
            .claims()?
            .into_iter()
            .filter(|(thread, claim)| before.get(thread).is_some_and(|was| was.0 != claim.0))
            .map(|(thread, (_, epoch))| (epoch, thread))
            .collect();
        moved.sort();
        let place = moved.iter().position(|(_, thread)| thread == busy);
        // Those that were asked to stop after it may have stopped sooner.
        ensure!(moved.len() > 8 && place.is_some_and(|place| place < 4), "{place:?} of {moved:?}");
        cluster.finish()?.not_empty()
    })
}

#[test]
fn with_nobody_healthy_nothing_is_shed_and_what_was_shed_comes_back() -> Result<()> {
    Lab::run("all critical", |lab| {
        let (mut cluster, systems) = moody(lab, 3)?;
        let names = define_many(&mut cluster, 0..12)?;
        for system in &systems {
            system.load(9.0)?;
        }
        for worker in ["w0", "w1", "w2"] {
            wait_for_state(&cluster.redis, worker, "critical")?;
        }
        for number in 0..3 {
            let line = "there is no healthy one: it keeps what it has and goes on";
            cluster.seat(number)?.worker.wait_for_line(line, PATIENCE)?;
        }
        wait_for_owners(&cluster, "every thread to be owned", |_| true)?;
        cluster.run(&names, clock::now(), PATIENCE)?;
        // One recovers and gets it all from the others.
        systems[1].load(1.0)?;
        wait_for_owners(&cluster, "w1 to have it all", |owners| owners[1] == 12)?;
        cluster.run(&names, clock::now(), PATIENCE)?;
        cluster.finish()?.not_empty()
    })
}

#[test]
fn a_critical_worker_that_is_alone_goes_on_claiming_and_says_so() -> Result<()> {
    Lab::run("alone", |lab| {
        let (mut cluster, systems) = moody(lab, 1)?;
        systems[0].load(9.0)?;
        wait_for_state(&cluster.redis, "w0", "critical")?;
        define_many(&mut cluster, 0..10)?;
        cluster
            .seat(0)?
            .worker
            .wait_for_line("there is no healthy one: it keeps what it has and goes on", PATIENCE)?;
        cluster.finish()?;
        Ok(())
    })
}

#[test]
fn a_critical_worker_takes_no_ticks() -> Result<()> {
    Lab::run("no ticks", |lab| {
        let (mut cluster, systems) = moody(lab, 2)?;
        systems[0].load(9.0)?;
        wait_for_state(&cluster.redis, "w0", "critical")?;
        // The others have heard of it by the time that it says to itself that it sheds.
        clock::wait_for("a session that is not ready", PATIENCE, || {
            let sessions = cluster.redis.ask(&["SMEMBERS", &format!("{NAME}:Sessions")])?.texts();
            let ready =
                sessions.iter().map(|id| cluster.redis.field(&format!("{NAME}:Sessions:{id}"), "Ready"));
            let ready = ready.collect::<Result<Vec<_>>>()?;
            Ok(ready.iter().any(|ready| ready == "0").then_some(()))
        })?;
        let source = "redis.Do('RPUSH', 'ran', worker.Name)";
        cluster.redis.ask(&["HSET", &format!("{NAME}:Jobs:j"), "Source", source, "Cron", "* * * * * *"])?;
        let ran = || -> Result<Vec<String>> { Ok(cluster.redis.ask(&["LRANGE", "ran", "0", "-1"])?.texts()) };
        clock::wait_for("five ticks", PATIENCE, || Ok((ran()?.len() >= 5).then_some(())))?;
        ensure!(ran()?.iter().all(|worker| worker == "w1"), "{:?}", ran()?);
        systems[0].load(1.0)?;
        clock::wait_for("a tick on w0", PATIENCE, || {
            Ok(ran()?.iter().any(|name| name == "w0").then_some(()))
        })?;
        cluster.finish()?;
        Ok(())
    })
}

/// A cgroup with a limit, where the system lets us have one.
struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// One with these limits of `controller`: the files of version 1, or that of version 2, with what stands in them.
    /// None of version 1 is one that just counts.
    fn new(name: &str, controller: &str, v1: &[(&str, &str)], v2: (&str, &str)) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        // "<number>:<controllers>:<path>": version 1 names the controller, version 2 nothing.
        let path_of = |controller: &str| {
            own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
                controllers.split(',').any(|name| name == controller).then_some(path)
            })
        };
        let (folder, limits) = match (path_of(controller), path_of("")) {
            (Some(path), _) => (Path::new("/sys/fs/cgroup").join(controller).join(path), v1),
            (None, Some(path)) => (Path::new("/sys/fs/cgroup").join(path), &[v2][..]),
            (None, None) => return None,
        };
        // One name in all of them, as container runtimes do it.
        let folder = folder.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        let cgroup = Self { folder };
        for (file, limit) in limits {
            std::fs::write(cgroup.folder.join(file), limit).ok()?;
        }
        Some(cgroup)
    }

    fn take(&self, pid: u32) -> Result<()> {
        Ok(std::fs::write(self.folder.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It goes once the last process has left it.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_worker_under_a_real_limit_of_memory_turns_critical_and_recovers() -> Result<()> {
    Lab::run("memory limit", |lab| {
        let limit = (400 << 20).to_string();
        let (v1, v2) = ([("memory.limit_in_bytes", &*limit)], ("memory.max", &*limit));
        let Some(cgroup) = Cgroup::new("hats-limit", "memory", &v1, v2) else {
            eprintln!("skipped: this system lets us make no cgroup with a limit");
            return Ok(());
        };
        let redis = persistent(lab)?;
        let options = options("w0", &redis).argument("--health-interval", "200ms");
        let worker = Worker::start(lab, options.argument("--mem-threshold", "40"))?;
        cgroup.take(worker.pid())?;
        let port = HealthPort::of(&worker)?;
        port.wait_for(200)?;
        let source = r#"
            let held = null;
            function main() {
              if (redis.Do("GET", "hold") == "on") held ??= "x".repeat(50 << 20); else held = null;
              sleep(20);
            }"#;
        redis.ask(&["SET", "hold", "on"])?;
        for number in 0..5 {
            define(&redis, &format!("hold{number}"), source)?;
        }
        let answer = port.wait_for(503)?;
        ensure!(answer["checks"]["health"]["problem"].to_string().contains("memory in use"), "{answer}");
        wait_for_state(&redis, "w0", "critical")?;
        redis.ask(&["SET", "hold", "off"])?;
        let answer = port.wait_for(200)?;
        wait_for_state(&redis, "w0", "online")?;
        eprintln!("recovered at {}", answer["readings"]);
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// Computes without end until it is dropped.
struct Stress(std::process::Child);

impl Stress {
    fn new() -> Result<Self> {
        Ok(Self(std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?))
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_worker_under_real_load_turns_critical_and_recovers() -> Result<()> {
    Lab::run("load", |lab| {
        // A third of a core for the two of them, so that the load is theirs and no other test's.
        let v1 = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "33000")];
        let Some(cgroup) = Cgroup::new("hats-load", "cpu", &v1, ("cpu.max", "33000 100000")) else {
            eprintln!("skipped: this system lets us make no cgroup with a quota");
            return Ok(());
        };
        let redis = persistent(lab)?;
        let options = options("w0", &redis).argument("--health-interval", "500ms");
        let worker = Worker::start(lab, options.argument("--cpu-threshold", "80%"))?;
        let port = HealthPort::of(&worker)?;
        // Where time is counted apart from quotas, it has to be counted for the two of them as well.
        let counted = Cgroup::new("hats-load", "cpuacct", &[], ("cgroup.freeze", "0"));
        let take =
            |pid| cgroup.take(pid).and_then(|()| counted.as_ref().map_or(Ok(()), |group| group.take(pid)));
        take(worker.pid())?;
        port.wait_for(200)?;
        let stress = Stress::new()?;
        take(stress.0.id())?;
        let answer = port.wait_for(503)?;
        ensure!(answer["checks"]["health"]["problem"].to_string().contains("CPU use"), "{answer}");
        wait_for_state(&redis, "w0", "critical")?;
        drop(stress);
        let answer = port.wait_for(200)?;
        wait_for_state(&redis, "w0", "online")?;
        eprintln!("recovered at {}", answer["readings"]);
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn probes_are_answered_whatever_fills_the_health_port() -> Result<()> {
    Lab::run("full health port", |lab| {
        let redis = persistent(lab)?;
        define(&redis, "user", USER)?;
        let worker = Worker::start(lab, options("w0", &redis))?;
        let port = HealthPort::of(&worker)?;
        port.wait_for(200)?;
        // Some say nothing, some begin a request, some keep a connection after one.
        let beginnings = ["", "GET /livez HTTP/1.1\r\nHo", "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"];
        let mut idle = Vec::new();
        for beginning in beginnings.iter().cycle().take(300) {
            let mut stream = TcpStream::connect(port.address())?;
            // Closed already if more have come meanwhile.
            let _ = stream.write_all(beginning.as_bytes());
            idle.push(stream);
            if idle.len() % 50 == 0 {
                for path in ["/livez", "/readyz"] {
                    let answer = within_probe(&port, path)?;
                    ensure!(answer.starts_with("HTTP/1.1 200 "), "{} idle, {path}: {answer}", idle.len());
                }
            }
        }
        wait_for_calls(&redis)?;
        drop(idle);
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

/// The answer to one probe, which waits as long as a supervisor's would by default (1 s) before it takes the worker for
/// dead. Before connections gave way to new ones there was no answer in 10 s.
fn within_probe(port: &HealthPort, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(port.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{path} was not answered"))?;
    Ok(answer)
}

#[test]
fn scripts_do_not_reach_the_health_port_and_do_reach_the_endpoint_port() -> Result<()> {
    Lab::run("own ports", |lab| {
        let redis = persistent(lab)?;
        redis.ask(&["HSET", &format!("{NAME}:Endpoints:/hello"), "Source", "hello"])?;
        let start = |name: &str, allow: Option<&str>| {
            let mut options = options(name, &redis).flag("--host").argument("--host-port", "0");
            if let Some(allow) = allow {
                options = options.argument("--allow-net", allow);
            }
            Worker::start(lab, options)
        };
        let script = |health: u16, endpoints: u16| {
            format!(
                r#"
let asked = false;
function main() {{
  if (asked) return;
  asked = true;
  for (const host of ["127.0.0.1", "localhost", "0.0.0.0"]) {{
    console.log("health", host, http.Get(`http://${{host}}:{health}/livez`).error ?? "reached", "end");
  }}
  console.log("sql", sql.New("postgres://u@localhost:{health}/d", "postgres").Ping(), "end");
  let endpoint;
  while ((endpoint = http.Get("http://127.0.0.1:{endpoints}/hello")).status != 200) sleep(20);
  console.log("endpoint", endpoint.body, "end");
}}"#
            )
        };
        let refused = "is this worker's own health port; `--allow-net health-port` opens it to scripts";
        for (name, allow, expected) in [("closed", None, refused), ("open", Some("health-port"), "reached")] {
            let worker = start(name, allow)?;
            let health = HealthPort::of(&worker)?.address().port();
            let line = worker.wait_for_line("endpoints are served", PATIENCE)?;
            let (_, endpoints) = line.trim().rsplit_once(':').context("no port")?;
            define(&redis, name, &script(health, endpoints.parse()?))?;
            for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
                let line = worker.wait_for_line(&format!("health {host} "), PATIENCE)?;
                ensure!(line.contains(expected), "{line}");
            }
            if allow.is_none() {
                let line = worker.wait_for_line("sql ", PATIENCE)?;
                ensure!(line.contains(expected), "{line}");
            }
            worker.wait_for_line("endpoint hello end", PATIENCE)?;
            redis.ask(&["DEL", &Cluster::key(name)])?;
            worker.drain(PATIENCE)?;
        }
        Ok(())
    })
}

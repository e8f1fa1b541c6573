//! What the health port says of a worker, and what follows when it is unhealthy.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, NAME};
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

//! A task runs on at most one worker at a time, whatever happens to workers, network, Redis and clocks; and after
//! every fault, when it is healed, everything runs again within three leases.
//!
//! Each test is a scenario: a cluster of real processes, some faults one after the other, and at the end the check of
//! the whole recorded history. The long form repeats each scenario with more threads, and then goes on with faults in
//! a random order.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{Cluster, PATIENT, Shape};
use hats_tests::proxy::{Action, Link, Match, Rule};
use hats_tests::{Lab, clock, redis};

use crate::{is_soak, soak_minutes};

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Drain,
    /// SIGSTOP for so many leases, then SIGCONT.
    Freeze(f64),
    /// All connections are cut, new ones are taken.
    Cut,
    /// All connections are cut, new ones refused, for so many leases.
    Unreachable(f64),
    /// Each direction takes so long.
    Slow(Duration),
    /// Nothing reaches Redis, for so many leases; what was sent meanwhile arrives when it is over.
    DeafServer(f64),
    /// Nothing reaches the worker, for so many leases.
    DeafWorker(f64),
    /// Redis carries out a Lua script and the worker does not hear of it.
    Lost(&'static str),
    /// Neither does it hear of anything after it on that connection.
    Silent(&'static str),
    /// A Lua script's reply comes late.
    LateReply(&'static str),
    /// A Lua script comes late.
    LateRequest(&'static str),
    /// Redis does nothing for so many leases, but its system takes connections.
    Stall(f64),
    /// Redis is down for so many leases and keeps its data.
    Restart(f64),
    /// Redis is down for so many leases and comes back empty; the definitions are written again.
    Loss(f64),
    /// Redis forgets all Lua scripts, just before some are needed.
    ScriptFlush,
    /// A script computes without end.
    Endless,
    /// A script is stuck where the interpreter cannot interrupt it.
    Stuck,
    /// A second worker has the name of the first, and then dies.
    Twin,
    /// The definitions of running threads are deleted and written again.
    Redeploy,
    /// `State`, `Owner` and `Heartbeat` of running threads are written by hand.
    ByHand,
    /// The worker's wall clock steps by so many seconds, then back.
    WorkerClock(i64),
    /// Redis' wall clock steps by so many seconds, then back.
    RedisClock(i64),
}

use Fault::*;

impl Fault {
    /// Does it to one seat (or to what all share), waits for as long as it lasts, and heals it.
    fn strike(self, cluster: &mut Cluster, seat: usize) -> Result<()> {
        let lease = cluster.lease();
        match self {
            Kill => {
                let threads = cluster.threads_of(seat)?;
                let exit = cluster.seat(seat)?.worker.kill()?;
                cluster.run(&threads, exit.at, lease * 3)?;
            }
            Drain => {
                let threads = cluster.threads_of(seat)?;
                let exit = cluster.seat(seat)?.worker.drain(Duration::from_secs(15))?;
                cluster.run(&threads, exit.at, lease * 3)?;
            }
            Freeze(leases) => {
                cluster.seat(seat)?.worker.freeze()?;
                if leases >= 3.0 {
                    let frozen = clock::now();
                    let threads: Vec<String> = cluster.threads.keys().cloned().collect();
                    cluster.run(&threads, frozen, lease * 3)?;
                    let spent = Duration::from_nanos(clock::now() - frozen);
                    std::thread::sleep(lease.mul_f64(leases).saturating_sub(spent));
                } else {
                    cluster.endure(leases);
                }
                cluster.seat(seat)?.worker.thaw()?;
            }
            Cut => cluster.seat(seat)?.proxy.cut(),
            Unreachable(leases) => {
                cluster.seat(seat)?.proxy.refuse();
                cluster.endure(leases);
                cluster.seat(seat)?.proxy.heal();
            }
            Slow(latency) => link(cluster, seat, 2.0, Link { latency, ..Link::default() })?,
            DeafServer(leases) => link(cluster, seat, leases, Link { to_server: false, ..Link::default() })?,
            DeafWorker(leases) => link(cluster, seat, leases, Link { to_client: false, ..Link::default() })?,
            Lost(lua) => rule(cluster, seat, lua, Action::LoseReply)?,
            Silent(lua) => rule(cluster, seat, lua, Action::SilenceAfter)?,
            LateReply(lua) => rule(cluster, seat, lua, Action::DelayReply(lease.mul_f64(0.4)))?,
            LateRequest(lua) => rule(cluster, seat, lua, Action::DelayRequest(lease.mul_f64(0.4)))?,
            Stall(leases) => {
                cluster.redis.stall(lease.mul_f64(leases))?;
                // Answered only when the stall is over.
                cluster.redis.ask(&["PING"])?;
            }
            Restart(leases) => {
                cluster.redis.stop()?;
                cluster.endure(leases);
                cluster.redis.start_again()?;
            }
            Loss(leases) => {
                cluster.redis.stop()?;
                cluster.redis.forget()?;
                cluster.endure(leases);
                cluster.redis.start_again()?;
                cluster.define_all()?;
            }
            ScriptFlush => {
                cluster.redis.ask(&["SCRIPT", "FLUSH"])?;
                Kill.strike(cluster, seat)?;
            }
            Endless => endless(cluster)?,
            Stuck => stuck(cluster)?,
            Twin => twin(cluster, seat)?,
            Redeploy => {
                let threads: Vec<String> = cluster.threads.keys().skip(seat).step_by(4).cloned().collect();
                for thread in &threads {
                    let source = cluster.threads.get(thread).context("an unknown thread")?;
                    let key = Cluster::key(thread);
                    // As a deployment script would: two commands, in one connection.
                    cluster.redis.pipeline(&[vec!["DEL", &key], vec!["HSET", &key, "Source", source]])?;
                }
            }
            ByHand => by_hand(cluster)?,
            WorkerClock(seconds) => {
                cluster.seat(seat)?.worker.step_clock(seconds)?;
                nobody_moves(cluster)?;
                Kill.strike(cluster, (seat + 1) % cluster.seats.len())?;
                cluster.seat(seat)?.worker.step_clock(0)?;
                nobody_moves(cluster)?;
            }
            RedisClock(seconds) => {
                cluster.redis.step_clock(seconds)?;
                nobody_moves(cluster)?;
                Kill.strike(cluster, seat)?;
                cluster.redis.step_clock(0)?;
                nobody_moves(cluster)?;
            }
        }
        Ok(())
    }
}

fn link(cluster: &Cluster, seat: usize, leases: f64, link: Link) -> Result<()> {
    cluster.seat(seat)?.proxy.set(link);
    cluster.endure(leases);
    cluster.seat(seat)?.proxy.heal();
    Ok(())
}

/// The seat with the most threads.
fn busiest(cluster: &mut Cluster) -> Result<usize> {
    let mut shares = Vec::new();
    for seat in 0..cluster.seats.len() {
        shares.push((cluster.threads_of(seat)?.len(), seat));
    }
    Ok(shares.into_iter().max().context("no seat")?.1)
}

/// Sets a rule for one Lua script, brings about that it is sent, and waits until the rule has acted.
fn rule(cluster: &mut Cluster, seat: usize, lua: &'static str, action: Action) -> Result<()> {
    let rule = |count| Rule { of: Match::Lua(lua), skip: 0, count, action };
    let patience = cluster.lease() * 4;
    match lua {
        // A session is opened by a worker that starts.
        "open" => {
            cluster.seat(seat)?.worker.kill()?;
            let hits = cluster.seat(seat)?.proxy.rule(rule(1));
            cluster.revive()?;
            hits.wait(patience)?;
        }
        // A dead worker is buried by one of the others, and its threads are claimed by all of them.
        "bury" | "claim" => {
            let mut hits = Vec::new();
            for (other, seat_of) in cluster.seats.iter().enumerate() {
                if other != seat {
                    hits.push(seat_of.proxy.rule(rule(2)));
                }
            }
            cluster.seat(seat)?.worker.kill()?;
            clock::wait_for("a rule of the proxies to meet a request", patience, || {
                Ok(hits.iter().any(|hits| hits.count() > 0).then_some(()))
            })?;
        }
        // A worker that drains releases.
        "release" | "close" => {
            let hits = cluster.seat(seat)?.proxy.rule(rule(2));
            cluster.seat(seat)?.worker.drain(Duration::from_secs(15))?;
            ensure!(hits.count() > 0, "no {lua} was met");
        }
        _ => cluster.seat(seat)?.proxy.rule(rule(1)).wait(patience)?,
    }
    for seat in &cluster.seats {
        seat.proxy.clear_rules();
    }
    Ok(())
}

/// Where it is proven that nobody moves, a busy machine must not be what moves them: a lease with some more air.
fn calm() -> Shape {
    Shape { lease: Duration::from_secs(3), ..Shape::default() }
}

/// Every thread goes on for longer than a burial takes, each where it is.
fn nobody_moves(cluster: &mut Cluster) -> Result<()> {
    cluster.evens_out()?;
    let before = cluster.check()?.takeovers;
    cluster.endure(1.5);
    cluster.all_run(clock::now(), cluster.lease())?;
    let after = cluster.check()?.takeovers;
    ensure!(after == before, "{} threads have moved", after - before);
    Ok(())
}

fn endless(cluster: &mut Cluster) -> Result<()> {
    let (lost, since) = (cluster.check()?.lost, clock::now());
    cluster.redis.ask(&[
        "HSET",
        &Cluster::key("endless"),
        "Source",
        "function main() { while (true) {} }",
    ])?;
    // It may have run elsewhere in an earlier round.
    cluster.run(&["endless".to_owned()], since, cluster.lease() * 3)?;
    nobody_moves(cluster)?;
    ensure!(cluster.check()?.lost == lost, "a session was lost to a script that computes");
    cluster.redis.ask(&["DEL", &Cluster::key("endless")])?;
    Ok(())
}

/// Looks for a long needle in a longer heap of hay, which the engine does without looking up once; it takes hours, and stalls
/// the lane of a worker with `--preemption yields`.
pub(crate) const STICK: &str = r#""a".repeat(1e7).indexOf("a".repeat(5e6) + "b");"#;

fn stuck(cluster: &mut Cluster) -> Result<()> {
    // Only the first owner runs into it, so that one worker dies of it and not one after the other.
    let source = r#"
        function main() {
          if (redis.Call("SET", "stuck", "1", "NX") === null) { sleep(100); return; }
          STICK
        }"#;
    let source = source.replace("STICK", STICK);
    cluster.redis.ask(&["DEL", "stuck"])?;
    cluster.define("stuck", &source)?;
    let patience = Duration::from_secs(30);
    let ended = clock::wait_for("the stuck worker to end itself", patience, || {
        Ok(cluster.seats.iter().find_map(|seat| seat.worker.process().exit()))
    })?;
    ensure!(ended.code() == Some(70), "a stuck worker ended with {:?}, not by a hard stop", ended.status);
    Ok(())
}

fn twin(cluster: &mut Cluster, seat: usize) -> Result<()> {
    let name = cluster.seat(seat)?.worker.name().to_owned();
    cluster.join_as(&name, &format!("{name}-twin"))?;
    let twin = cluster.seats.len() - 1;
    cluster.recovers("the start of a worker with a name that another has")?;
    // The first dies: the name lives on, and still its threads are taken over.
    Kill.strike(cluster, seat)?;
    cluster.recovers("the end of one of two workers with one name")?;
    let threads = cluster.threads_of(twin)?;
    let seat = cluster.seats.remove(twin);
    let exit = seat.worker.kill()?;
    cluster.run(&threads, exit.at, cluster.lease() * 3)
}

fn by_hand(cluster: &mut Cluster) -> Result<()> {
    for (number, thread) in cluster.threads.keys().enumerate() {
        let key = Cluster::key(thread);
        let fields: [&str; 6] = match number % 3 {
            0 => ["State", "crashed", "Owner", "somebody", "Heartbeat", "1"],
            1 => ["State", "stopped", "Owner", "", "Heartbeat", "0"],
            _ => ["State", "running", "Owner", "w0", "Heartbeat", "9999999999999999999"],
        };
        cluster.redis.ask(&[&["HSET", key.as_str()], fields.as_slice()].concat())?;
    }
    nobody_moves(cluster)?;
    // With a real takeover on top, what was written by hand still decides nothing.
    Kill.strike(cluster, 0)
}

/// Where a fault strikes: only a worker that has threads gives some to claim or to release, and one that has just
/// started may have none.
fn seat_for(cluster: &mut Cluster, fault: Fault, seat: usize) -> Result<usize> {
    match fault {
        Lost("claim" | "release")
        | Silent("claim" | "release")
        | LateReply("claim" | "release")
        | LateRequest("claim" | "release") => busiest(cluster),
        _ => Ok(seat),
    }
}

/// Runs a scenario and checks its history.
fn scenario(name: &str, shape: Shape, faults: &[(Fault, usize)]) -> Result<()> {
    let (shape, rounds) =
        if is_soak() { (Shape { threads: 4 * shape.threads, ..shape }, 3) } else { (shape, 1) };
    Lab::run(name, |lab| {
        let mut cluster = Cluster::start(lab, shape)?;
        for _ in 0..rounds {
            for &(fault, seat) in faults {
                let seat = seat_for(&mut cluster, fault, seat)?;
                let what = format!("{fault:?} of seat {seat}");
                eprintln!("{name}: {what}");
                fault.strike(&mut cluster, seat).with_context(|| format!("during {what}"))?;
                cluster.recovers(&what)?;
            }
        }
        cluster.finish()?.not_empty()
    })
}

#[test]
fn through_kills_and_drains() -> Result<()> {
    scenario("kills", Shape::default(), &[(Kill, 0), (Drain, 1), (Kill, 2), (Drain, 0), (Redeploy, 1)])
}

#[test]
fn through_freezes() -> Result<()> {
    scenario(
        "freezes",
        Shape::default(),
        &[(Freeze(0.5), 0), (Freeze(1.0), 1), (Freeze(2.0), 2), (Freeze(6.0), 0)],
    )
}

#[test]
fn through_cut_and_slow_connections() -> Result<()> {
    let slow = [Slow(Duration::from_millis(40)), Slow(Duration::from_millis(400))];
    scenario("links", Shape::default(), &[(Cut, 0), (slow[0], 1), (slow[1], 2), (Unreachable(2.0), 0)])
}

#[test]
fn through_one_way_connections() -> Result<()> {
    let short = [(DeafServer(0.5), 2), (DeafWorker(0.5), 0)];
    scenario("one way", Shape::default(), &[short[0], (DeafServer(2.0), 0), short[1], (DeafWorker(2.0), 1)])
}

#[test]
fn through_lost_replies() -> Result<()> {
    let faults = [
        (Lost("open"), 0),
        (Lost("claim"), 1),
        (Lost("release"), 2),
        (Lost("renew"), 0),
        (Silent("claim"), 1),
        (Lost("bury"), 2),
    ];
    scenario("lost replies", Shape::default(), &faults)
}

#[test]
fn through_late_replies_and_requests() -> Result<()> {
    let replies = [(LateReply("open"), 0), (LateReply("claim"), 1), (LateReply("release"), 2)];
    let requests = [(LateRequest("open"), 1), (LateRequest("claim"), 2), (LateRequest("release"), 0)];
    scenario("late replies", Shape::default(), &[replies, requests].concat())
}

#[test]
fn through_stalls_and_restarts_of_redis() -> Result<()> {
    let faults =
        [(Stall(0.3), 0), (Stall(1.5), 0), (Restart(0.1), 0), (Restart(2.0), 0), (Loss(0.1), 0), (Kill, 1)];
    scenario("redis", Shape::default(), &faults)
}

#[test]
fn through_scripts_that_compute_and_redis_that_forgets_lua() -> Result<()> {
    scenario("compute", calm(), &[(Endless, 0), (ScriptFlush, 1)])
}

#[test]
fn through_a_lane_stuck_in_native_code() -> Result<()> {
    // Preempted, native code stalls no lane.
    let shape =
        Shape { stall_after: Some(Duration::from_secs(3)), preemption: Some("yields"), ..Shape::default() };
    scenario("stuck", shape, &[(Stuck, 0)])
}

#[test]
fn through_twins_redeploys_and_hands() -> Result<()> {
    scenario("hands", calm(), &[(Twin, 1), (Redeploy, 2), (ByHand, 0)])
}

#[test]
fn through_stepped_clocks_of_workers() -> Result<()> {
    let shape = Shape { fake_clocks: true, ..calm() };
    scenario("worker clocks", shape, &[(WorkerClock(3600), 0), (WorkerClock(-3600), 1)])
}

#[test]
fn through_a_stepped_clock_of_redis() -> Result<()> {
    let redis = redis::Options { persistent: true, fake_clock: true };
    let shape = Shape { redis, ..calm() };
    scenario("redis clock", shape, &[(RedisClock(3600), 0), (RedisClock(-3600), 1)])
}

#[test]
fn through_a_random_walk_with_a_stepped_clock_of_redis() -> Result<()> {
    random_walk(false)
}

#[test]
fn through_a_random_walk_with_a_redis_that_forgets() -> Result<()> {
    random_walk(true)
}

/// The long form: everything in a random order, several at a time.
///
/// An epoch is the server's time or more, so a server that has run ahead and then forgets all gives epochs twice: a
/// walk has the one or the other.
fn random_walk(forgets: bool) -> Result<()> {
    if !is_soak() {
        return Ok(());
    }
    let mut random = Random(clock::now() | 1);
    let name = if forgets { "random walk, Redis forgets" } else { "random walk, Redis' clock steps" };
    eprintln!("{name}: from {}", random.0);
    let redis = redis::Options { persistent: true, fake_clock: true };
    let shape =
        Shape { workers: 5, threads: 100, source: PATIENT, redis, fake_clocks: true, ..Shape::default() };
    Lab::run(name, |lab| {
        let mut cluster = Cluster::start(lab, shape)?;
        let start = std::time::Instant::now();
        let mut strikes = 0;
        while start.elapsed() < soak_minutes() / 2 {
            let seat = random.below(cluster.seats.len());
            let fault = match random.fault() {
                RedisClock(_) if forgets => Loss(0.5),
                Loss(leases) if !forgets => Restart(leases),
                fault => fault,
            };
            let seat = seat_for(&mut cluster, fault, seat)?;
            // Beside it, another worker's link suffers for the same time.
            let other = (seat + 1 + random.below(cluster.seats.len() - 1)) % cluster.seats.len();
            let beside = match fault {
                // Of these it is proven that nobody moves.
                WorkerClock(_) | RedisClock(_) => Link::default(),
                _ => random.link(),
            };
            let what = format!("{fault:?} of seat {seat} with {beside:?} of seat {other}");
            eprintln!("{:>6.1} s {what}", start.elapsed().as_secs_f64());
            cluster.seat(other)?.proxy.set(beside);
            fault.strike(&mut cluster, seat).with_context(|| format!("during {what}"))?;
            cluster.seat(other)?.proxy.heal();
            cluster.recovers(&what)?;
            strikes += 1;
        }
        eprintln!("{name}: {strikes} faults");
        cluster.finish()?.not_empty()
    })
}

/// Numbers that can be had again from their seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap_or(1).max(1)).unwrap_or(0)
    }

    fn fault(&mut self) -> Fault {
        let leases = [0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 2.0, 6.0][self.below(9)];
        let lua = ["open", "claim", "release", "renew", "close", "bury"][self.below(6)];
        let seconds = [3600, -3600][self.below(2)];
        let latency = Duration::from_millis([20, 60, 90, 200, 500][self.below(5)]);
        [
            Kill,
            Drain,
            Freeze(leases),
            Cut,
            Unreachable(leases),
            Slow(latency),
            DeafServer(leases),
            DeafWorker(leases),
            Lost(lua),
            Silent(lua),
            LateReply(lua),
            LateRequest(lua),
            Stall(leases),
            Restart(leases),
            Loss(leases),
            ScriptFlush,
            Redeploy,
            WorkerClock(seconds),
            RedisClock(seconds),
        ][self.below(19)]
    }

    fn link(&mut self) -> Link {
        let slow = Link { latency: Duration::from_millis(60), ..Link::default() };
        let deaf = Link { to_server: false, ..Link::default() };
        [Link::default(), Link::default(), slow, deaf][self.below(4)]
    }
}

//! A cluster under test: one Redis, some workers, each behind a proxy of its own, and the threads they run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::history::{self, History, Summary};
use crate::proxy::Proxy;
use crate::redis::{self, RedisServer};
use crate::worker::{Options, Worker};
use crate::{Lab, clock};

/// The name of the cluster in every test.
pub const NAME: &str = "test";

/// The script most tests run: an effect, a wait, another effect, within some 30 ms.
pub const STEADY: &str = r#"
function main() {
  redis.Call("INCR", "count:" + thread.Key);
  sleep(20);
  redis.Call("SET", "last:" + thread.Key, String(thread.Epoch));
}
"#;

/// As [`STEADY`], of an author who knows that Redis can be away: faults that follow each other would otherwise crash it
/// several times in a row, and its back-off, which is right to grow, would outlast what a test waits for.
pub const PATIENT: &str = r#"
function main() {
  try {
    redis.Call("INCR", "count:" + thread.Key);
    sleep(20);
    redis.Call("SET", "last:" + thread.Key, String(thread.Epoch));
  } catch (error) {
    if (error.name !== "RedisError") throw error;
    console.warn(error.message);
  }
}
"#;

/// How a cluster is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Workers at the start.
    pub workers: usize,
    /// Threads of the same source.
    pub threads: usize,
    /// That source.
    pub source: &'static str,
    /// Their `Hang` in milliseconds.
    pub hang: u32,
    /// The lease.
    pub lease: Duration,
    /// The server.
    pub redis: redis::Options,
    /// Whether the wall clocks of workers can be stepped.
    pub fake_clocks: bool,
    /// `--stall-after`, if not the default.
    pub stall_after: Option<Duration>,
    /// `--preemption`, if not the default.
    pub preemption: Option<&'static str>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            workers: 3,
            threads: 24,
            source: STEADY,
            hang: 20,
            lease: Duration::from_secs(2),
            redis: redis::Options { persistent: true, fake_clock: false },
            fake_clocks: false,
            stall_after: None,
            preemption: None,
        }
    }
}

/// A worker and the proxy before it.
#[derive(Debug)]
pub struct Seat {
    /// The link between the worker and Redis.
    pub proxy: Proxy,
    /// The worker.
    pub worker: Worker,
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    lab: Lab,
    shape: Shape,
    /// Its Redis.
    pub redis: RedisServer,
    /// Its workers.
    pub seats: Vec<Seat>,
    /// Threads that are enabled and must run, with their sources.
    pub threads: BTreeMap<String, String>,
    /// Call logs.
    pub history: History,
}

impl Cluster {
    /// Starts everything and waits until every thread runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(lab: &Lab, shape: Shape) -> Result<Self> {
        let redis = RedisServer::start_with(lab, "redis", shape.redis)?;
        let mut cluster = Self {
            lab: lab.clone(),
            shape,
            redis,
            seats: Vec::new(),
            threads: BTreeMap::new(),
            history: History::default(),
        };
        for number in 0..shape.threads {
            cluster.threads.insert(format!("t{number}"), shape.source.to_owned());
        }
        for number in 0..shape.workers {
            cluster.join(&format!("w{number}"))?;
        }
        // Whoever is there first would take all.
        if shape.threads > 0 {
            cluster.acquainted()?;
        }
        cluster.define_all()?;
        cluster.all_run(clock::now(), Duration::from_secs(30)).context("at the start")?;
        Ok(cluster)
    }

    /// The lease.
    pub fn lease(&self) -> Duration {
        self.shape.lease
    }

    /// Its lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&mut self, name: &str) -> Result<()> {
        self.join_as(name, name)
    }

    /// Starts one more worker whose logs go under another name than its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join_as(&mut self, name: &str, log: &str) -> Result<()> {
        self.start_worker(name, log, &[])
    }

    /// Starts one more worker with these flags beside the usual ones.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join_with(&mut self, name: &str, flags: &[(&str, &str)]) -> Result<()> {
        self.start_worker(name, name, flags)
    }

    fn start_worker(&mut self, name: &str, log: &str, flags: &[(&str, &str)]) -> Result<()> {
        let proxy = Proxy::start(self.redis.address())?;
        let mut options = Options::new(name, NAME, &proxy.address().to_string())
            .argument("--lease-seconds", &self.shape.lease.as_secs_f64().to_string())
            .argument("--drain-timeout", "5");
        for (flag, value) in flags {
            options = options.argument(flag, value);
        }
        log.clone_into(&mut options.log);
        if let Some(stall_after) = self.shape.stall_after {
            options = options.argument("--stall-after", &stall_after.as_secs_f64().to_string());
        }
        if let Some(preemption) = self.shape.preemption {
            options = options.argument("--preemption", preemption);
        }
        if self.shape.fake_clocks {
            options = options.fake_clock();
        }
        let worker = Worker::start(&self.lab, options)?;
        self.history.add(worker.calls().to_owned());
        self.seats.push(Seat { proxy, worker });
        Ok(())
    }

    /// The key of a thread's definition.
    pub fn key(thread: &str) -> String {
        format!("{NAME}:Threads:{thread}")
    }

    /// Writes the definitions of all threads, as `redis-cli` would.
    ///
    /// # Errors
    /// When Redis refuses.
    pub fn define_all(&self) -> Result<()> {
        let commands: Vec<Vec<String>> = self
            .threads
            .iter()
            .map(|(thread, source)| {
                let hang = self.shape.hang.to_string();
                ["HSET", &Self::key(thread), "Source", source, "Hang", &hang].map(str::to_owned).to_vec()
            })
            .collect();
        self.redis.pipeline(&commands)?;
        Ok(())
    }

    /// Defines one more thread; it counts from now on as one that must run.
    ///
    /// # Errors
    /// When Redis refuses.
    pub fn define(&mut self, thread: &str, source: &str) -> Result<()> {
        let hang = self.shape.hang.to_string();
        self.redis.ask(&["HSET", &Self::key(thread), "Source", source, "Hang", &hang])?;
        self.threads.insert(thread.to_owned(), source.to_owned());
        Ok(())
    }

    /// Waits until every thread has started a call after `since`.
    ///
    /// # Errors
    /// When some have not; they are named, with what Redis says of them.
    pub fn all_run(&mut self, since: u64, within: Duration) -> Result<()> {
        let names: Vec<String> = self.threads.keys().cloned().collect();
        self.run(&names, since, within)
    }

    /// The same for some threads.
    ///
    /// # Errors
    /// When some have not; they are named, with what Redis says of them.
    pub fn run(&mut self, names: &[String], since: u64, within: Duration) -> Result<()> {
        let mut missing = Vec::new();
        let waited = clock::wait_for("every thread to run", within, || {
            self.history.read()?;
            missing = names
                .iter()
                .filter(|name| self.history.last_start(name).is_none_or(|(at, _)| at < since))
                .cloned()
                .collect();
            Ok(missing.is_empty().then_some(()))
        });
        if let Err(error) = waited {
            let mut told = format!("{} of {} threads do not run", missing.len(), names.len());
            for name in missing.iter().take(5) {
                let claim = self.redis.hash(&format!("{NAME}:Claims:{name}")).unwrap_or_default();
                let mut definition = self.redis.hash(&Self::key(name)).unwrap_or_default();
                definition.remove("Source");
                told +=
                    &format!("\n{name}: {definition:?} {claim:?} last {:?}", self.history.last_start(name));
            }
            return Err(error.context(told));
        }
        Ok(())
    }

    /// Waits for as long as the faults of a scenario last; nothing can be waited for while a fault holds.
    pub fn endure(&self, leases: f64) {
        std::thread::sleep(self.shape.lease.mul_f64(leases));
    }

    /// Starts ended workers again, by whatever they ended.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn revive(&mut self) -> Result<()> {
        for seat in &mut self.seats {
            seat.worker.revive()?;
        }
        Ok(())
    }

    /// After a fault is healed: starts ended workers again; within three leases every enabled thread must run, and
    /// every worker must have a session, the one that had lost its own as well.
    ///
    /// # Errors
    /// When one does not.
    pub fn recovers(&mut self, what: &str) -> Result<()> {
        let healed = clock::now();
        let within = self.shape.lease * 3;
        self.revive()?;
        self.all_run(healed, within).with_context(|| format!("after {what}"))?;
        let spent = Duration::from_nanos(clock::now() - healed);
        let mut missing = Vec::new();
        let joined = clock::wait_for("every worker to have a session", within.saturating_sub(spent), || {
            let mut alive = self.alive()?;
            missing.clear();
            for seat in &self.seats {
                match alive.iter().position(|name| name == seat.worker.name()) {
                    Some(found) => drop(alive.swap_remove(found)),
                    None => missing.push(seat.worker.name().to_owned()),
                }
            }
            Ok(missing.is_empty().then_some(()))
        });
        joined.with_context(|| format!("after {what}: no session of {missing:?}"))
    }

    /// Waits until every worker has a session and has had time to see those of the others: they sample each other at
    /// least every second and say nothing of it.
    ///
    /// # Errors
    /// When one has none.
    pub fn acquainted(&self) -> Result<()> {
        clock::wait_for("all sessions", Duration::from_secs(15), || {
            Ok((self.alive()?.len() >= self.seats.len()).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    /// The names of the workers that have a live session, one for each session.
    ///
    /// # Errors
    /// When Redis refuses.
    pub fn alive(&self) -> Result<Vec<String>> {
        Ok(self.live_sessions()?.into_values().collect())
    }

    /// The live sessions, and the names of their workers.
    ///
    /// # Errors
    /// When Redis refuses.
    pub fn live_sessions(&self) -> Result<BTreeMap<String, String>> {
        let ids = self.redis.ask(&["SMEMBERS", &format!("{NAME}:Sessions")])?.texts();
        let ask = |id: &String| {
            ["HMGET", &format!("{NAME}:Sessions:{id}"), "State", "Name"].map(str::to_owned).to_vec()
        };
        let replies = self.redis.pipeline(&ids.iter().map(ask).collect::<Vec<_>>())?;
        let mut names = BTreeMap::new();
        for (id, reply) in ids.into_iter().zip(&replies) {
            if let [state, name] = &reply.texts()[..]
                && state == "alive"
            {
                names.insert(id, name.clone());
            }
        }
        Ok(names)
    }

    /// Waits until no owner has a reason to give threads away, and none is on its way: until then they may move by themselves.
    ///
    /// # Errors
    /// When that takes longer than workers need to know each other well.
    pub fn evens_out(&self) -> Result<()> {
        /// Owners look twice in this, and what they have asked to stop has stopped.
        const STILL: Duration = Duration::from_secs(1);
        let mut last = (BTreeMap::new(), Instant::now());
        let even = clock::wait_for("even shares", Duration::from_secs(30), || {
            let claims = self.claims()?;
            if claims != last.0 {
                last = (claims, Instant::now());
            }
            let shares = self.shares()?;
            let all: usize = shares.values().sum();
            let workers = shares.len().max(1);
            // One more or less than a whole share is nearly even, and so nothing to move.
            let nearly = (all / workers).saturating_sub(1)..=all.div_ceil(workers) + 1;
            let is_even = shares.values().all(|count| nearly.contains(count));
            Ok((is_even && all >= self.threads.len() && last.1.elapsed() >= STILL).then_some(()))
        });
        even.with_context(|| format!("{:?}", self.shares()))
    }

    /// How many threads each live session owns, by the names of the workers, as Redis has it.
    ///
    /// # Errors
    /// When Redis refuses.
    pub fn shares(&self) -> Result<BTreeMap<String, usize>> {
        let names = self.live_sessions()?;
        let mut shares: BTreeMap<String, usize> = names.values().map(|name| (name.clone(), 0)).collect();
        for (session, _) in self.claims()?.into_values() {
            if let Some(share) = names.get(&session).and_then(|name| shares.get_mut(name)) {
                *share += 1;
            }
        }
        Ok(shares)
    }

    /// The session and the epoch of each thread's claim.
    ///
    /// # Errors
    /// When Redis refuses.
    pub fn claims(&self) -> Result<BTreeMap<String, (String, u64)>> {
        let ask = |thread: &String| {
            let key = format!("{NAME}:Claims:{thread}");
            vec!["HMGET".to_owned(), key, "Session".to_owned(), "Epoch".to_owned()]
        };
        let replies = self.redis.pipeline(&self.threads.keys().map(ask).collect::<Vec<_>>())?;
        let claims = self.threads.keys().zip(&replies).filter_map(|(thread, reply)| {
            let fields = match reply {
                crate::resp::Value::List(fields) => fields,
                _ => return None,
            };
            let text = |nth: usize| fields.get(nth).and_then(crate::resp::Value::text).unwrap_or_default();
            Some((thread.clone(), (text(0), text(1).parse().unwrap_or(0))))
        });
        Ok(claims.collect())
    }

    /// The threads that must run and that a worker ran last.
    ///
    /// # Errors
    /// When a call log cannot be read.
    pub fn threads_of(&mut self, seat: usize) -> Result<Vec<String>> {
        self.history.read()?;
        let pid = self.seats.get(seat).context("no such seat")?.worker.pid();
        let mut threads = self.history.threads_of(pid);
        threads.retain(|thread| self.threads.contains_key(thread));
        Ok(threads)
    }

    /// One seat.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn seat(&self, seat: usize) -> Result<&Seat> {
        self.seats.get(seat).context("no such seat")
    }

    /// Drains all workers and checks the whole history.
    ///
    /// # Errors
    /// When a worker does not end well or single ownership was violated.
    pub fn finish(&mut self) -> Result<Summary> {
        for seat in &self.seats {
            seat.worker.terminate()?;
        }
        for seat in &self.seats {
            let exit = seat.worker.wait(Duration::from_secs(20))?;
            if exit.code() != Some(0) {
                bail!("worker {} drained with {:?}", seat.worker.name(), exit.status);
            }
        }
        self.check()
    }

    /// Checks the history so far.
    ///
    /// # Errors
    /// When single ownership was violated.
    pub fn check(&mut self) -> Result<Summary> {
        self.history.read()?;
        let summary = history::check(self.history.entries(), &self.lab.fates(), clock::now())?;
        eprintln!("{}: {summary}", self.lab.name());
        Ok(summary)
    }
}

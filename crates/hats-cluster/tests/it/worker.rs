//! A worker without scripts: it takes what it is granted, says so in a journal, and gives back what it is told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hats_cluster::address::RedisConfig;
use hats_cluster::clock::BootInstant;
use hats_cluster::id::Nonce;
use hats_cluster::lease::{Lease, RunGuard};
use hats_cluster::name::{ClusterName, TaskName, WorkerName};
use hats_cluster::records::Definition;
use hats_cluster::watchdog::HardStop;
use hats_cluster::{Config, Event, Handle, Release, StopReason};
use tokio::sync::{mpsc, watch};

/// What all workers of a test have run.
#[derive(Clone)]
pub(crate) struct Journal {
    runs: Arc<Mutex<Vec<Run>>>,
    changed: Arc<watch::Sender<u64>>,
}

/// One thread on one worker, under one claim.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) worker: String,
    pub(crate) name: String,
    pub(crate) epoch: u64,
    pub(crate) restarts: u32,
    pub(crate) source: String,
    pub(crate) start: BootInstant,
    pub(crate) end: Option<BootInstant>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { runs: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    fn edit(&self, f: impl FnOnce(&mut Vec<Run>)) {
        f(&mut self.runs.lock().unwrap());
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    /// What runs now, by worker.
    pub(crate) fn running(&self) -> HashMap<String, Vec<String>> {
        let mut running: HashMap<String, Vec<String>> = HashMap::new();
        for run in self.runs().into_iter().filter(|run| run.end.is_none()) {
            running.entry(run.worker).or_default().push(run.name);
        }
        running
    }

    pub(crate) fn count(&self, worker: &str) -> usize {
        self.running().get(worker).map_or(0, Vec::len)
    }

    /// Waits until `f` holds, for a minute at most.
    pub(crate) async fn until(&self, what: &str, f: impl Fn(&[Run]) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if f(&self.runs()) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!("{what}: running {:?}", self.running());
        }
    }

    pub(crate) async fn until_running(&self, count: usize) {
        self.until(&format!("{count} threads run"), |runs| {
            runs.iter().filter(|run| run.end.is_none()).count() == count
        })
        .await;
    }

    /// No two runs of a thread overlap, and epochs only rise.
    pub(crate) fn check(&self) {
        let mut threads: HashMap<String, Vec<Run>> = HashMap::new();
        for run in self.runs() {
            threads.entry(run.name.clone()).or_default().push(run);
        }
        for runs in threads.values_mut() {
            runs.sort_by_key(|run| run.start);
            for pair in runs.windows(2) {
                let end = pair[0].end.unwrap_or_else(|| panic!("runs twice: {pair:?}"));
                assert!(end <= pair[1].start, "overlap: {pair:?}");
                assert!(pair[0].epoch < pair[1].epoch, "epochs: {pair:?}");
            }
        }
    }
}

pub(crate) struct Worker {
    pub(crate) handle: Handle,
    pub(crate) name: String,
    orders: mpsc::UnboundedSender<Order>,
    task: tokio::task::JoinHandle<()>,
}

enum Order {
    Crash {
        name: String,
        back_off: Duration,
    },
    Drain,
    /// As a killed process would.
    Die,
}

pub(crate) fn config(redis: &RedisConfig, name: &str) -> Config {
    // Shown when the test fails.
    let _ = tracing_subscriber::fmt()
        .with_env_filter("hats_cluster=debug")
        .with_ansi(false)
        .with_test_writer()
        .try_init();
    let mut config = Config::new(
        ClusterName::try_from("test").unwrap(),
        WorkerName::try_from(name).unwrap(),
        redis.clone(),
    );
    config.lease = Duration::from_secs(2);
    config.on_hard_stop = Arc::new(|stop: &HardStop| panic!("{stop}"));
    config
}

impl Worker {
    pub(crate) async fn start(redis: &RedisConfig, name: &str, journal: &Journal) -> Self {
        Self::start_with(config(redis, name), journal).await
    }

    pub(crate) async fn start_with(config: Config, journal: &Journal) -> Self {
        let name = config.worker_name.to_string();
        let (handle, events) = hats_cluster::start(config).await.unwrap();
        let (orders, ordered) = mpsc::unbounded_channel();
        let runner = Runner {
            name: name.clone(),
            handle: handle.clone(),
            journal: journal.clone(),
            running: HashMap::new(),
        };
        let task = tokio::spawn(runner.run(events, ordered));
        Self { handle, name, orders, task }
    }

    /// As SIGKILL would.
    pub(crate) async fn kill(self) {
        self.handle.abandon_for_test();
        let _ = self.orders.send(Order::Die);
        self.task.await.unwrap();
    }

    pub(crate) fn crash(&self, name: &str, back_off: Duration) {
        self.orders.send(Order::Crash { name: name.to_owned(), back_off }).unwrap();
    }

    /// As SIGTERM would.
    pub(crate) async fn drain(self) {
        self.handle.begin_drain();
        self.orders.send(Order::Drain).unwrap();
        self.task.await.unwrap();
        self.handle.close().await;
    }
}

struct Runner {
    name: String,
    handle: Handle,
    journal: Journal,
    running: HashMap<TaskName, Running>,
}

struct Running {
    claim: Nonce,
    epoch: u64,
    guard: RunGuard,
    definition: Definition,
}

impl Runner {
    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.react(event, false),
                    None => {
                        for name in self.running.keys().cloned().collect::<Vec<_>>() {
                            self.end(&name, None);
                        }
                        return;
                    }
                },
                Some(order) = orders.recv() => match order {
                    Order::Crash { name, back_off } => {
                        let name = TaskName::try_from(name).unwrap();
                        let error = "Error: planned\n    at main (x.js:1)".to_owned();
                        self.end(&name, Some(Release::Crashed { error, back_off, restarts: 1 }));
                    }
                    Order::Drain => {
                        for name in self.running.keys().cloned().collect::<Vec<_>>() {
                            self.end(&name, Some(handed_over()));
                        }
                        while let Ok(event) = events.try_recv() {
                            self.react(event, true);
                        }
                        return;
                    }
                    Order::Die => {
                        for name in self.running.keys().cloned().collect::<Vec<_>>() {
                            self.end(&name, None);
                        }
                        return;
                    }
                },
            }
        }
    }

    fn react(&mut self, event: Event, draining: bool) {
        match event {
            Event::Claimed(grant) if draining => {
                self.handle.release(&grant.name, &grant.claim, handed_over())
            }
            Event::Claimed(grant) => {
                assert!(grant.definition.enabled);
                if !grant.lease.is_trusted() {
                    return;
                }
                let guard = grant.lease.enter(&grant.name);
                self.journal.edit(|runs| {
                    runs.push(Run {
                        worker: self.name.clone(),
                        name: grant.name.to_string(),
                        epoch: grant.epoch,
                        restarts: grant.restarts,
                        source: grant.definition.source.to_string(),
                        start: BootInstant::now(),
                        end: None,
                    });
                });
                self.handle.started(&grant.name, &grant.claim, &grant.definition);
                let running =
                    Running { claim: grant.claim, epoch: grant.epoch, guard, definition: grant.definition };
                self.running.insert(grant.name, running);
            }
            Event::Changed { name, claim, definition } => {
                let running = self.running.get_mut(&name).filter(|running| running.claim == claim).unwrap();
                running.definition = definition;
                self.handle.started(&name, &claim, &running.definition);
                let source = running.definition.source.to_string();
                self.journal.edit(|runs| {
                    if let Some(run) = runs.iter_mut().rfind(|run| run.name == name.as_str()) {
                        run.source = source;
                    }
                });
            }
            Event::Stop { name, reason, .. } => {
                let how = match reason {
                    StopReason::Restart | StopReason::Moved => {
                        Release::Free { cool_down: Duration::ZERO, prefer_other: false }
                    }
                    _ => Release::Stopped,
                };
                self.end(&name, Some(how));
            }
            Event::Lost { lease } => self.lose(&lease),
            Event::WorkerDisabled => {}
        }
    }

    fn lose(&mut self, lease: &Lease) {
        let under_it: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.guard.lease().session() == lease.session())
            .map(|(name, _)| name.clone())
            .collect();
        for name in under_it {
            self.end(&name, None);
        }
    }

    fn end(&mut self, name: &TaskName, how: Option<Release>) {
        let Some(running) = self.running.remove(name) else { return };
        let now = BootInstant::now();
        self.journal.edit(|runs| {
            let run = runs.iter_mut().find(|run| run.epoch == running.epoch && run.name == name.as_str());
            run.unwrap().end = Some(now);
        });
        drop(running.guard);
        if let Some(how) = how {
            self.handle.release(name, &running.claim, how);
        }
    }
}

fn handed_over() -> Release {
    Release::Free { cool_down: Duration::ZERO, prefer_other: true }
}

//! Reads again and again, judges, and tells whoever watches.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::readings::{Meter, Readings};
use crate::threshold::{Excess, Judge, Thresholds};

/// How a worker's health is watched.
#[derive(Clone, Debug)]
pub struct Config {
    /// Above what it is unhealthy.
    pub thresholds: Thresholds,
    /// Between two readings.
    pub interval: Duration,
    /// Below which the files of the kernel are read: `/`.
    pub root: PathBuf,
}

/// What is known of a worker's health. The default is that of one who has not been looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// What the last look has shown.
    pub readings: Readings,
    /// What stands against it; nothing if it is healthy.
    pub over: Arc<[Excess]>,
}

/// The loop over all of it.
pub struct Monitor {
    interval: Duration,
    meter: Meter,
    judge: Judge,
    /// What cannot be read although there is a threshold for it, as it was last said.
    unreadable: Vec<&'static str>,
    health: watch::Sender<Health>,
}

impl Health {
    /// Whether nothing stands against it.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.over.is_empty()
    }

    /// What stands against it, for people; empty if it is healthy.
    #[must_use]
    pub fn reason(&self) -> String {
        let reasons: Vec<_> = self.over.iter().map(Excess::to_string).collect();
        reasons.join("; ")
    }
}

impl Monitor {
    /// Has taken its first look when it returns.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut monitor = Self {
            // An interval of zero would be a busy loop.
            interval: config.interval.max(Duration::from_millis(1)),
            meter: Meter::new(config.root),
            judge: Judge::new(config.thresholds),
            unreadable: Vec::new(),
            health: watch::channel(Health::default()).0,
        };
        monitor.look();
        monitor
    }

    /// Where the health is, now and after each look.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Looks again and again.
    ///
    /// # Cancel safety
    /// Dropped, the last word stays.
    pub async fn run(&mut self) -> Infallible {
        let mut turns = tokio::time::interval(self.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is now, and was taken by `new`.
        turns.tick().await;
        loop {
            turns.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        let readings = self.meter.read();
        let over = self.judge.judge(&readings);
        let unreadable = self.judge.unreadable(&readings);
        for name in unreadable.iter().filter(|name| !self.unreadable.contains(name)) {
            tracing::warn!("{name} cannot be read here: its threshold has no effect until it can");
        }
        self.unreadable = unreadable;
        let health = Health { readings, over: over.into() };
        let was_healthy = self.health.borrow().is_healthy();
        match (was_healthy, health.is_healthy()) {
            (true, false) => tracing::warn!(reason = health.reason(), "this worker is unhealthy"),
            (false, true) => tracing::info!("this worker is healthy again"),
            _ => {}
        }
        self.health.send_replace(health);
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("interval", &self.interval).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::threshold::CpuThreshold;

    fn load(root: &Path, load: &str) {
        fs::create_dir_all(root.join("proc")).unwrap();
        fs::write(root.join("proc/loadavg"), format!("{load} 0.00 0.00 1/1 1\n")).unwrap();
    }

    fn config(root: &Path) -> Config {
        Config {
            thresholds: Thresholds { cpu: Some(CpuThreshold::Load(4.0)), memory: None },
            interval: Duration::from_millis(5),
            root: root.to_owned(),
        }
    }

    #[tokio::test]
    async fn whoever_watches_sees_it_turn_and_turn_back() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), "1.00");
        let mut monitor = Monitor::new(config(folder.path()));
        let mut health = monitor.health();
        assert!(health.borrow().is_healthy());
        assert_eq!(health.borrow().readings.load.known(), Some(1.0));
        let watcher = async {
            load(folder.path(), "9.00");
            let sick = health.wait_for(|health| !health.is_healthy()).await.unwrap().clone();
            assert_eq!(sick.reason(), "load average 9.0, threshold 4");
            load(folder.path(), "3.00");
            health.wait_for(Health::is_healthy).await.unwrap();
        };
        tokio::select! {
            never = monitor.run() => match never {},
            () = watcher => {}
        }
    }

    #[test]
    fn what_cannot_be_read_leaves_it_healthy_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut monitor = Monitor::new(config(folder.path()));
        monitor.look();
        assert_eq!(monitor.unreadable, ["load average"]);
        let health = monitor.health().borrow().clone();
        assert!(health.is_healthy() && health.readings.load.is_unreadable());
    }
}

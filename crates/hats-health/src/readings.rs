//! What the system says of CPU and memory.
//!
//! A limit is that of the cgroup (version 2 or 1) that leaves the least, of the one that this process is in and those
//! around it; where none has a limit it is the machine. Of a cgroup's memory the inactive part of the file cache does not
//! count: the kernel takes it back before anything else.
//!
//! What must hold: what cannot be read is [`Reading::Unreadable`] and never a number.

mod cgroup;
mod files;

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, System};

use self::cgroup::CpuTime;
use self::files::Files;

/// What one look has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// The load average of the last minute.
    pub load: Reading<f64>,
    /// Use of the CPU since the look before.
    pub cpu: Reading<Cpu>,
    /// Memory in use.
    pub memory: Reading<Memory>,
}

/// One quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Reading<T> {
    /// It needs another look, because it is counted from one to the next.
    #[default]
    Pending,
    /// The system does not tell.
    Unreadable,
    /// This is what it says.
    Known(T),
}

/// Use of the CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    /// Of all that there is to use, from 0 to 100; a cgroup may exceed its quota for a moment.
    pub percent: f64,
    /// What it is a share of.
    pub whose: Whose,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the limit, by everybody that it is for.
    pub used: u64,
    /// How much there is to use.
    pub limit: u64,
    /// What this process has resident.
    pub resident: u64,
    /// What the limit is one of.
    pub whose: Whose,
}

/// Whose limit something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// That of a cgroup.
    Cgroup,
    /// There is none but what the machine has.
    Machine,
}

/// Looks at the machine and at the cgroups around this process.
pub struct Meter {
    system: Option<System>,
    files: Files,
    /// CPU time used by the limited cgroups around us, at the look before.
    before: Option<(Instant, Vec<CpuTime>)>,
    /// When the machine's counters were looked at, and what that has shown.
    machine: Option<(Instant, Reading<Cpu>)>,
}

impl<T> Reading<T> {
    /// The value, if there is one.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Pending | Self::Unreadable => None,
        }
    }

    /// The value, seen in another way.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Pending => Reading::Pending,
            Self::Unreadable => Reading::Unreadable,
            Self::Known(value) => Reading::Known(f(value)),
        }
    }

    /// Whether the system does not tell.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable)
    }
}

impl<T> From<Option<T>> for Reading<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unreadable, Self::Known)
    }
}

impl Memory {
    /// What is in use of the limit, in percent.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.used as f64 * 100.0 / self.limit.max(1) as f64
    }
}

impl Meter {
    /// Reads the files of the kernel below `root`: `/`, or a folder that has a `proc` and a `sys` in it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let system = System::new();
        if let Err(error) = &system {
            tracing::debug!(%error, "the machine cannot be read");
        }
        Self { system: system.ok(), files: Files::new(root), before: None, machine: None }
    }

    /// One look at everything.
    pub fn read(&mut self) -> Readings {
        Readings { load: self.files.load().into(), cpu: self.cpu(), memory: self.memory().into() }
    }

    /// A look at memory alone. None: it cannot be read.
    pub fn memory(&mut self) -> Option<Memory> {
        let machine = self.system.as_mut().and_then(|system| {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            let (total, available) = (system.total_memory(), system.available_memory());
            (total > 0).then(|| (total.saturating_sub(available), total))
        });
        let resident = self.files.resident()?;
        // A limit beyond what the machine has is none.
        let cgroup =
            self.files.memory().filter(|(_, limit)| machine.is_none_or(|(_, total)| *limit <= total));
        let (used, limit, whose) = match (cgroup, machine) {
            (Some((used, limit)), _) => (used, limit, Whose::Cgroup),
            (None, Some((used, total))) => (used, total, Whose::Machine),
            (None, None) => return None,
        };
        Some(Memory { used, limit, resident, whose })
    }

    fn cpu(&mut self) -> Reading<Cpu> {
        let machine = self.machine_cpu();
        let now = Instant::now();
        let cpus = self.system.as_ref().map_or(0, |system| system.cpus().len());
        // A quota beyond what the machine has is none.
        let times: Vec<_> =
            self.files.cpu().into_iter().filter(|time| cpus == 0 || time.quota <= cpus as f64).collect();
        if times.is_empty() {
            self.before = None;
            return machine;
        }
        let Some((then, before)) = self.before.replace((now, times.clone())) else { return Reading::Pending };
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        match cgroup::fullest(&before, &times, seconds) {
            Some(percent) => Reading::Known(Cpu { percent, whose: Whose::Cgroup }),
            // The groups are others than before.
            None => Reading::Pending,
        }
    }

    fn machine_cpu(&mut self) -> Reading<Cpu> {
        let Some(system) = &mut self.system else { return Reading::Unreadable };
        let now = Instant::now();
        // Its counters move in steps: a look sooner than this shows nothing new.
        if let Some((then, last)) = self.machine
            && now.saturating_duration_since(then) < MINIMUM_CPU_UPDATE_INTERVAL
        {
            return last;
        }
        system.refresh_cpu_usage();
        let percent = f64::from(system.global_cpu_usage());
        let reading = match self.machine {
            _ if system.cpus().is_empty() || !percent.is_finite() => Reading::Unreadable,
            None => Reading::Pending,
            Some(_) => Reading::Known(Cpu { percent, whose: Whose::Machine }),
        };
        self.machine = Some((now, reading));
        reading
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("files", &self.files).finish_non_exhaustive()
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "the cgroup's limit",
            Self::Machine => "the machine's memory",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let mut meter = Meter::new("/");
        let first = meter.read();
        let memory = first.memory.known().unwrap();
        assert!(memory.limit > 1 << 20 && memory.used > 0 && memory.resident > 1 << 20, "{memory:?}");
        assert!(memory.used <= memory.limit + (1 << 30), "{memory:?}");
        assert!(first.load.known().unwrap() >= 0.0);
        assert_eq!(first.cpu, Reading::Pending, "it takes two looks");
        assert_eq!(meter.read().cpu, Reading::Pending, "not at once");
        std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL * 2);
        let percent = meter.read().cpu.known().unwrap().percent;
        assert!((0.0..=1000.0).contains(&percent), "{percent}");
    }

    #[test]
    fn what_is_not_there_is_unreadable_and_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut meter = Meter::new(folder.path());
        let readings = meter.read();
        assert_eq!(readings.load, Reading::Unreadable);
        assert_eq!(readings.memory, Reading::Unreadable);
    }
}

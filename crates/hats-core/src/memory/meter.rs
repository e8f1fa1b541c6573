//! How much memory there is and how much of it is in use, as the system says.
//!
//! The limit is that of the cgroup (version 2 or 1) that leaves the least, of the one that this process is in and those
//! around it; where none has a limit it is the machine's memory. Of a cgroup's usage the inactive part of the file cache
//! does not count: the kernel takes it back before anything else.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use sysinfo::{MemoryRefreshKind, System};

/// One look, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Of the limit, by everybody that it is for.
    pub(super) used: u64,
    pub(super) limit: u64,
    /// What this process has resident.
    pub(super) resident: u64,
    pub(super) whose: Whose,
}

/// What the limit is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Cgroup,
    Machine,
}

/// Looks at the memory of this process and what is around it.
pub(super) struct Meter {
    system: Option<System>,
    files: Files,
}

impl Meter {
    pub(super) fn new() -> Self {
        let system = System::new();
        if let Err(error) = &system {
            tracing::debug!(%error, "the machine's memory cannot be read");
        }
        Self { system: system.ok(), files: Files { root: PathBuf::from("/") } }
    }

    /// None: nothing can be read.
    pub(super) fn read(&mut self) -> Option<Reading> {
        let machine = self.system.as_mut().and_then(|system| {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            let (total, available) = (system.total_memory(), system.available_memory());
            (total > 0).then(|| (total.saturating_sub(available), total))
        });
        let resident = self.files.resident()?;
        // A limit beyond what the machine has is none.
        let cgroup =
            self.files.cgroup().filter(|(_, limit)| machine.is_none_or(|(_, total)| *limit <= total));
        let (used, limit, whose) = match (cgroup, machine) {
            (Some((used, limit)), _) => (used, limit, Whose::Cgroup),
            (None, Some((used, total))) => (used, total, Whose::Machine),
            (None, None) => return None,
        };
        Some(Reading { used, limit, resident, whose })
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

/// The files of the kernel, under a root that a test may choose.
struct Files {
    root: PathBuf,
}

impl Files {
    /// Bytes that this process has resident.
    fn resident(&self) -> Option<u64> {
        let status = self.text("proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Usage and limit of the cgroup that leaves the least.
    fn cgroup(&self) -> Option<(u64, u64)> {
        let own = self.text("proc/self/cgroup")?;
        // "<number>:<controllers>:<path>"; version 2 has the number 0 and no controllers.
        let paths = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let version = match controllers {
                "" => &V2,
                list if list.split(',').any(|controller| controller == "memory") => &V1,
                _ => return None,
            };
            Some((version, path))
        });
        let levels = paths.flat_map(|(version, path)| {
            // Inside a container the path may be one of the host, which is not there: its own group is the root then.
            let path = Path::new(path.trim_start_matches('/'));
            path.ancestors().filter_map(|group| self.level(version, group))
        });
        levels.min_by_key(|(used, limit)| limit.saturating_sub(*used))
    }

    fn level(&self, version: &Version, group: &Path) -> Option<(u64, u64)> {
        let folder = Path::new(version.folder).join(group);
        let number = |file: &str| self.text(folder.join(file))?.trim().parse::<u64>().ok();
        // Without one it says "max" (2), or a number that no machine has (1).
        let limit = number(version.limit).filter(|limit| *limit < 1 << 60)?;
        let usage = number(version.usage)?;
        let inactive = self.text(folder.join("memory.stat")).and_then(|stat| {
            let line = stat.lines().find_map(|line| line.strip_prefix(version.inactive_file))?;
            line.trim().parse::<u64>().ok()
        });
        Some((usage.saturating_sub(inactive.unwrap_or(0)), limit))
    }

    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }
}

/// Where a version of cgroups says what.
struct Version {
    folder: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`; of a group and all below it.
    inactive_file: &'static str,
}

const V2: Version = Version {
    folder: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    inactive_file: "inactive_file ",
};

const V1: Version = Version {
    folder: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file ",
};

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        folder: tempfile::TempDir,
    }

    impl Fake {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (path, content) in files {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self { folder }
        }

        fn files(&self) -> Files {
            Files { root: self.folder.path().to_owned() }
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let reading = Meter::new().read().unwrap();
        assert!(reading.limit > 1 << 20 && reading.used > 0 && reading.resident > 1 << 20, "{reading:?}");
        assert!(reading.used <= reading.limit + (1 << 30), "{reading:?}");
    }

    #[test]
    fn a_container_of_version_2_has_its_limit_at_the_root() {
        let fake = Fake::new(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1000000\n"),
            ("sys/fs/cgroup/memory.current", "700000\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 500000\nfile 200000\ninactive_file 150000\nactive_file 50000\n",
            ),
        ]);
        assert_eq!(fake.files().cgroup(), Some((550_000, 1_000_000)));
    }

    #[test]
    fn a_group_around_ours_may_leave_less() {
        let fake = Fake::new(&[
            ("proc/self/cgroup", "0::/a/b/c\n"),
            ("sys/fs/cgroup/a/b/c/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/c/memory.current", "1\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100\n"),
            ("sys/fs/cgroup/a/memory.max", "2000\n"),
            ("sys/fs/cgroup/a/memory.current", "1500\n"),
        ]);
        assert_eq!(fake.files().cgroup(), Some((1500, 2000)));
    }

    #[test]
    fn version_1_names_its_controllers_and_counts_those_below() {
        let fake = Fake::new(&[
            ("proc/self/cgroup", "12:cpu,cpuacct:/x\n7:memory:/docker/abc\n0::/\n"),
            // The path is one of the host; the container's own group is what it sees as the root.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
        ]);
        assert_eq!(fake.files().cgroup(), Some((600, 1000)));
    }

    #[test]
    fn a_limit_that_is_none_is_none() {
        let fake = Fake::new(&[
            ("proc/self/cgroup", "7:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900\n"),
        ]);
        assert_eq!(fake.files().cgroup(), None);
        for odd in ["", "nonsense", "0::", ":::", "0::/../../x"] {
            assert_eq!(Fake::new(&[("proc/self/cgroup", odd)]).files().cgroup(), None, "{odd}");
        }
        assert_eq!(Fake::new(&[]).files().cgroup(), None);
    }

    #[test]
    fn resident_memory_is_in_kilobytes() {
        let fake = Fake::new(&[("proc/self/status", "Name:\tx\nVmRSS:\t    2048 kB\n")]);
        assert_eq!(fake.files().resident(), Some(2 << 20));
    }
}

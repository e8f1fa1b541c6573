//! Limits of the cgroups around this process, and what is used of them.

use std::path::{Path, PathBuf};

use super::files::Files;

/// What a cgroup with a quota has used of the CPU until now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CpuTime {
    group: PathBuf,
    /// CPUs that it may use.
    pub(super) quota: f64,
    used_seconds: f64,
}

/// Where a controller says what, in a version of cgroups.
struct Version<'a> {
    folder: &'a str,
    is_v2: bool,
}

/// In percent of its quota, what the cgroup has used that has used most of it. None: the two looks have no group in
/// common.
pub(super) fn fullest(before: &[CpuTime], now: &[CpuTime], seconds: f64) -> Option<f64> {
    let percents = now.iter().filter_map(|now| {
        let before = before.iter().find(|before| before.group == now.group)?;
        let used = (now.used_seconds - before.used_seconds).max(0.0);
        let percent = used * 100.0 / (seconds * now.quota);
        percent.is_finite().then_some(percent)
    });
    percents.max_by(f64::total_cmp)
}

impl Files {
    /// Memory in use and its limit, of the cgroup that leaves the least.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        let of = |version: &Version<'_>, group: &Path| self.memory_of(version, group);
        self.levels("memory", of).into_iter().min_by_key(|(used, limit)| limit.saturating_sub(*used))
    }

    /// CPU time of all cgroups around us that have a quota.
    pub(super) fn cpu(&self) -> Vec<CpuTime> {
        self.levels("cpu", |version, group| self.cpu_of(version, group))
    }

    /// What `of` says of our own cgroup for `controller` and of those around it.
    fn levels<T>(&self, controller: &str, of: impl Fn(&Version<'_>, &Path) -> Option<T>) -> Vec<T> {
        let own = self.text("proc/self/cgroup").unwrap_or_default();
        let v1 = format!("sys/fs/cgroup/{controller}");
        // "<number>:<controllers>:<path>"; version 2 has the number 0 and no controllers.
        let paths = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let version = match controllers {
                "" => Version { folder: "sys/fs/cgroup", is_v2: true },
                list if list.split(',').any(|name| name == controller) => {
                    Version { folder: &v1, is_v2: false }
                }
                _ => return None,
            };
            Some((version, path))
        });
        let levels = paths.flat_map(|(version, path)| {
            // Inside a container the path may be one of the host, which is not there: its own group is the root then.
            let path = Path::new(path.trim_start_matches('/'));
            path.ancestors().filter_map(|group| of(&version, group)).collect::<Vec<_>>()
        });
        levels.collect()
    }

    fn memory_of(&self, version: &Version<'_>, group: &Path) -> Option<(u64, u64)> {
        let folder = Path::new(version.folder).join(group);
        // The inactive file cache of a group and all below it.
        let (limit, usage, inactive_file) = if version.is_v2 {
            ("memory.max", "memory.current", "inactive_file ")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        };
        // Without one it says "max" (2), or a number that no machine has (1).
        let limit: u64 = self.number(&folder, limit).filter(|limit| *limit < 1 << 60)?;
        let usage: u64 = self.number(&folder, usage)?;
        let inactive = self.line(&folder, "memory.stat", inactive_file).unwrap_or(0);
        Some((usage.saturating_sub(inactive), limit))
    }

    fn cpu_of(&self, version: &Version<'_>, group: &Path) -> Option<CpuTime> {
        let folder = Path::new(version.folder).join(group);
        let (quota_us, period_us, used_seconds) = if version.is_v2 {
            // "<quota> <period>"; without one the quota is "max".
            let max = self.text(folder.join("cpu.max"))?;
            let mut parts = max.split_whitespace();
            let quota: f64 = parts.next()?.parse().ok()?;
            let period: f64 = parts.next()?.parse().ok()?;
            let used = self.line(&folder, "cpu.stat", "usage_usec ")?;
            (quota, period, used as f64 / 1e6)
        } else {
            // Without one it is -1.
            let quota: f64 = self.number(&folder, "cpu.cfs_quota_us")?;
            let period: f64 = self.number(&folder, "cpu.cfs_period_us")?;
            // Mounted together with `cpu`, or beside it.
            let accounted = Path::new("sys/fs/cgroup/cpuacct").join(group);
            let used: u64 =
                self.number(&folder, "cpuacct.usage").or_else(|| self.number(&accounted, "cpuacct.usage"))?;
            (quota, period, used as f64 / 1e9)
        };
        let quota = quota_us / period_us;
        (quota_us > 0.0 && quota.is_finite()).then_some(CpuTime { group: folder, quota, used_seconds })
    }

    fn number<T: std::str::FromStr>(&self, folder: &Path, file: &str) -> Option<T> {
        self.text(folder.join(file))?.trim().parse().ok()
    }

    fn line(&self, folder: &Path, file: &str, name: &str) -> Option<u64> {
        let content = self.text(folder.join(file))?;
        content.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::Fake;
    use super::*;

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
        assert_eq!(fake.files().memory(), Some((550_000, 1_000_000)));
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
        assert_eq!(fake.files().memory(), Some((1500, 2000)));
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
        assert_eq!(fake.files().memory(), Some((600, 1000)));
    }

    #[test]
    fn a_limit_that_is_none_is_none() {
        let fake = Fake::new(&[
            ("proc/self/cgroup", "7:memory:/\n3:cpu:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpuacct.usage", "1000\n"),
        ]);
        assert_eq!(fake.files().memory(), None);
        assert_eq!(fake.files().cpu(), []);
        for odd in ["", "nonsense", "0::", ":::", "0::/../../x"] {
            let fake = Fake::new(&[("proc/self/cgroup", odd), ("sys/fs/cgroup/cpu.max", "max 100000\n")]);
            assert_eq!((fake.files().memory(), fake.files().cpu()), (None, vec![]), "{odd}");
        }
        assert_eq!(Fake::new(&[]).files().memory(), None);
    }

    fn percent(fake: &Fake, seconds: f64, change: impl Fn()) -> Option<f64> {
        let before = fake.files().cpu();
        change();
        fullest(&before, &fake.files().cpu(), seconds)
    }

    #[test]
    fn cpu_is_counted_in_the_quota_of_version_2() {
        let fake = Fake::new(&[
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("sys/fs/cgroup/pod/box/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/pod/box/cpu.stat", "usage_usec 1000000\nuser_usec 1\n"),
            ("sys/fs/cgroup/pod/cpu.max", "200000 100000\n"),
            ("sys/fs/cgroup/pod/cpu.stat", "usage_usec 9000000\n"),
        ]);
        let used = percent(&fake, 10.0, || {
            // 4 of the 5 seconds that it has, while the pod has used 5 of its 20.
            fake.write("sys/fs/cgroup/pod/box/cpu.stat", "usage_usec 5000000\nuser_usec 1\n");
            fake.write("sys/fs/cgroup/pod/cpu.stat", "usage_usec 14000000\n");
        });
        assert_eq!(used, Some(80.0));
    }

    #[test]
    fn cpu_is_counted_in_the_quota_of_version_1_wherever_it_is_accounted() {
        for accounted in ["sys/fs/cgroup/cpu/cpuacct.usage", "sys/fs/cgroup/cpuacct/cpuacct.usage"] {
            let fake = Fake::new(&[
                ("proc/self/cgroup", "2:cpuacct:/\n1:cpu:/\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                (accounted, "1000000000\n"),
            ]);
            let used = percent(&fake, 5.0, || fake.write(accounted, "6000000000\n"));
            assert_eq!(used, Some(50.0), "{accounted}");
        }
    }

    #[test]
    fn a_counter_that_begins_anew_or_no_time_at_all_is_no_use_of_the_cpu() {
        let time = |group: &str, used_seconds| CpuTime { group: group.into(), quota: 1.0, used_seconds };
        assert_eq!(fullest(&[time("a", 9.0)], &[time("a", 1.0)], 1.0), Some(0.0));
        assert_eq!(fullest(&[time("a", 1.0)], &[time("b", 2.0)], 1.0), None);
        assert_eq!(fullest(&[time("a", 1.0)], &[time("a", 1.0)], 0.0), None);
    }
}

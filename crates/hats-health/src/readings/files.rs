//! The files of the kernel, under a root that may be another than `/`.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// Bytes that this process has resident.
    pub(super) fn resident(&self) -> Option<u64> {
        let status = self.text("proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// The load average of the last minute.
    pub(super) fn load(&self) -> Option<f64> {
        let averages = self.text("proc/loadavg")?;
        let load: f64 = averages.split_whitespace().next()?.parse().ok()?;
        (load.is_finite() && load >= 0.0).then_some(load)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::readings) struct Fake {
        folder: tempfile::TempDir,
    }

    impl Fake {
        pub(in crate::readings) fn new(files: &[(&str, &str)]) -> Self {
            let fake = Self { folder: tempfile::tempdir().unwrap() };
            for (path, content) in files {
                fake.write(path, content);
            }
            fake
        }

        pub(in crate::readings) fn write(&self, path: &str, content: &str) {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        pub(in crate::readings) fn files(&self) -> Files {
            Files::new(self.folder.path())
        }
    }

    #[test]
    fn resident_memory_is_in_kilobytes() {
        let fake = Fake::new(&[("proc/self/status", "Name:\tx\nVmRSS:\t    2048 kB\n")]);
        assert_eq!(fake.files().resident(), Some(2 << 20));
    }

    #[test]
    fn the_load_is_that_of_the_last_minute() {
        let load = |content| Fake::new(&[("proc/loadavg", content)]).files().load();
        assert_eq!(load("2.50 1.00 0.50 3/123 4567\n"), Some(2.5));
        for odd in ["", "nonsense", "NaN 1 1", "-1 0 0", "inf 0 0"] {
            assert_eq!(load(odd), None, "{odd}");
        }
    }
}

//! The room of one test: a temporary directory, the logs to show when it fails, and the record of what was done to
//! which process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::clock;
use crate::history::{Fate, FateKind};

/// Lines of each log that a failing test prints.
const TAIL: usize = 120;

/// One test's room. Cheap to clone; all clones are the same room.
#[derive(Clone, Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    directory: TempDir,
    logs: Mutex<Vec<PathBuf>>,
    fates: Mutex<Vec<Fate>>,
}

impl Lab {
    /// Runs a test in a room of its own; if it fails or panics, the ends of all its logs are printed.
    ///
    /// # Errors
    /// Those of the test.
    pub fn run(name: &str, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        let directory = tempfile::Builder::new().prefix("hats-").tempdir()?;
        let lab = Lab {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                directory,
                logs: Mutex::default(),
                fates: Mutex::default(),
            }),
        };
        // Dropped while a panic unwinds, so a panicking test shows its logs as well.
        let mut printer = Printer { lab: lab.clone(), failed: true };
        let result = test(&lab).with_context(|| format!("in {name}"));
        printer.failed = result.is_err();
        result
    }

    /// The test's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The temporary directory.
    pub fn path(&self) -> &Path {
        self.inner.directory.path()
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A log file to be shown when the test fails.
    pub fn log(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        let mut logs = self.inner.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if !logs.contains(&path) {
            logs.push(path.clone());
        }
        path
    }

    /// Records what was done to a process, or what became of it.
    pub fn record(&self, pid: u32, kind: FateKind) {
        self.record_at(pid, kind, clock::now());
    }

    /// The same at a given instant.
    pub fn record_at(&self, pid: u32, kind: FateKind, at: u64) {
        self.inner.fates.lock().unwrap_or_else(PoisonError::into_inner).push(Fate { at, pid, kind });
    }

    /// Everything recorded so far.
    pub fn fates(&self) -> Vec<Fate> {
        self.inner.fates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that contains `text` in a log, and gives it.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_for_line(&self, log: &Path, text: &str, within: Duration) -> Result<String> {
        clock::wait_for(&format!("{text:?} in {}", log.display()), within, || {
            let content = fs::read_to_string(log).unwrap_or_default();
            Ok(content.lines().find(|line| line.contains(text)).map(str::to_owned))
        })
    }
}

struct Printer {
    lab: Lab,
    failed: bool,
}

impl Drop for Printer {
    fn drop(&mut self) {
        if !self.failed {
            return;
        }
        for log in self.lab.inner.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let content =
                fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let skipped = lines.len().saturating_sub(TAIL);
            eprintln!("---- {} ({skipped} lines before)", log.display());
            for line in lines.iter().skip(skipped) {
                eprintln!("{line}");
            }
        }
        // Where a failure must be looked at more closely, the whole room can be kept.
        if let Some(keep) = std::env::var_os("HATS_KEEP") {
            let target = Path::new(&keep).join(self.lab.name().replace(['/', ' '], "-"));
            let copied =
                std::process::Command::new("cp").arg("-a").arg(self.lab.path()).arg(&target).status();
            eprintln!("kept as {}: {copied:?}", target.display());
        }
    }
}

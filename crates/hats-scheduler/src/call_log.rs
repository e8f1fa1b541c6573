//! A record of every entry into script code, for audits: proof that no two workers were in one thread at once.
//!
//! One line of text per event, fields parted by one blank:
//!
//! ```text
//! start  <boot ns> <pid> <thread> <epoch> <function>             before the function is entered
//! effect <boot ns> <pid> <thread> <epoch>                        a host call has passed the lease gate
//! end    <boot ns> <pid> <thread> <epoch> <outcome> <function>   after it has ended
//! ```
//!
//! What must hold: a line is one `write(2)` to a file opened for appending, so that lines of several lanes and even
//! of several processes never mix, and nothing waits in a buffer of ours when the process is killed. Stamps are of
//! CLOCK_BOOTTIME, which all processes of a host share. A line that cannot be written is counted and told once: an
//! audit with holes must not pass for a whole one, and a full disk must not stop the work.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use hats_cluster::clock::BootInstant;

use crate::Error;

/// The log of one process, shared by its lanes.
#[derive(Debug)]
pub struct CallLog {
    file: File,
    pid: u32,
    failed: AtomicBool,
}

/// Who makes the calls: one run's fields, prepared once.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    thread: Box<str>,
    epoch: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    Ok,
    Crashed,
    Interrupted,
    Lost,
}

impl CallLog {
    /// Opens `path` for appending, creating it if it is not there.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn open(path: &Path) -> Result<CallLog, Error> {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = opened.map_err(|source| Error::CallLog { path: path.to_owned(), source })?;
        Ok(CallLog { file, pid: std::process::id(), failed: AtomicBool::new(false) })
    }

    /// `at` was read before the lease was found to be trusted: a process that is frozen right after that has not begun
    /// its call late, it only says so late.
    pub(crate) fn start(&self, at: BootInstant, caller: &Caller, function: &str) {
        self.line("start", at, caller, &[function]);
    }

    pub(crate) fn effect(&self, caller: &Caller) {
        self.line("effect", BootInstant::now(), caller, &[]);
    }

    pub(crate) fn end(&self, caller: &Caller, outcome: CallOutcome, function: &str) {
        self.line("end", BootInstant::now(), caller, &[outcome.word(), function]);
    }

    fn line(&self, event: &str, at: BootInstant, caller: &Caller, more: &[&str]) {
        let mut line = String::with_capacity(96 + caller.thread.len());
        // Writing to a String cannot fail.
        let _ = write!(line, "{event} {} {} {} {}", at.as_nanos(), self.pid, caller.thread, caller.epoch);
        for word in more {
            line.push(' ');
            line.push_str(word);
        }
        line.push('\n');
        if let Err(error) = (&self.file).write_all(line.as_bytes())
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the call log has holes from here on");
        }
    }
}

impl Caller {
    pub(crate) fn new(thread: &str, epoch: u64) -> Caller {
        let mut name = String::with_capacity(thread.len());
        for character in thread.chars() {
            if character == '%' || character.is_whitespace() || character.is_control() {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(name, "%{byte:02X}");
                }
            } else {
                name.push(character);
            }
        }
        Caller { thread: name.into_boxed_str(), epoch }
    }
}

impl CallOutcome {
    fn word(self) -> &'static str {
        match self {
            CallOutcome::Ok => "ok",
            CallOutcome::Crashed => "crashed",
            CallOutcome::Interrupted => "interrupted",
            CallOutcome::Lost => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expect: &str) {
        assert_eq!(&*Caller::new(name, 1).thread, expect);
    }

    #[test]
    fn names_are_one_field() {
        check("examples/hello.js", "examples/hello.js");
        check("a b\t%\n", "a%20b%09%25%0A");
        check("grün\u{a0}x", "grün%C2%A0x");
    }

    #[test]
    fn lines_are_appended_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        std::fs::write(&path, "kept\n").unwrap();
        let log = CallLog::open(&path).unwrap();
        let caller = Caller::new("my thread", 7);
        log.start(BootInstant::now(), &caller, "main");
        log.effect(&caller);
        log.end(&caller, CallOutcome::Interrupted, "main");

        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        let pid = std::process::id().to_string();
        assert_eq!(lines[0], ["kept"]);
        assert_eq!((lines[1][0], &lines[1][2..]), ("start", &[&*pid, "my%20thread", "7", "main"][..]));
        assert_eq!((lines[2][0], &lines[2][2..]), ("effect", &[&*pid, "my%20thread", "7"][..]));
        assert_eq!(
            (lines[3][0], &lines[3][2..]),
            ("end", &[&*pid, "my%20thread", "7", "interrupted", "main"][..])
        );
        let stamps: Vec<u64> = lines[1..].iter().map(|line| line[1].parse().unwrap()).collect();
        assert!(stamps.is_sorted() && stamps[0] > 0);
    }
}

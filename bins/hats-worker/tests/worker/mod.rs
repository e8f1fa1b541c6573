//! The program under test: how it is called, and a worker that runs until it is asked to stop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The program, with nothing of this process' environment that it would read.
pub(crate) fn hats(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hats-worker"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("HATS_") {
            command.env_remove(variable);
        }
    }
    command
}

/// A worker that runs until it is asked to stop. What it logs is kept.
pub(crate) struct Worker {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: String,
    silence_max: Duration,
}

impl Worker {
    /// One that says nothing for `silence_max` while a line is waited for is stuck.
    pub(crate) fn start(mut command: Command, silence_max: Duration) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines, seen: String::new(), silence_max }
    }

    /// The next line of the log; none when it has ended. A worker that says nothing for long is stuck.
    #[track_caller]
    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(self.silence_max) {
            Ok(line) => {
                self.seen.push_str(&line);
                self.seen.push('\n');
                Some(line)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the worker is stuck:\n{}", self.seen),
        }
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub(crate) fn line_with(&mut self, text: &str) -> String {
        while let Some(line) = self.next_line() {
            if line.contains(text) {
                return line;
            }
        }
        panic!("the worker ended before it said {text:?}:\n{}", self.seen)
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for its end: its exit code and all it has logged.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while self.next_line().is_some() {}
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A child process that can be killed, stopped and continued by its pid, and that ends with the test.
//!
//! A waiter (an OS thread) reaps the child at once, so that the instant of its end is known and a pid is never
//! signalled after it was given back to the system.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// How and when a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Boot-clock instant at which it was reaped.
    pub at: u64,
    /// Its status.
    pub status: ExitStatus,
}

impl Exit {
    /// The exit code, absent when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

#[derive(Debug, Default)]
struct Shared {
    exit: Mutex<Option<Exit>>,
    ended: Condvar,
}

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    shared: Arc<Shared>,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// The child dies with the OS thread that calls this (PR_SET_PDEATHSIG, set by `setpriv` of util-linux, since
    /// setting it between fork and exec would need unsafe code), so call it from the thread of the test.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        wrapped.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child =
            wrapped.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid out of range")?;
        let shared = Arc::new(Shared::default());
        let waiter = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("wait {}", child.id())).spawn(move || {
            // A failed wait means that the child is gone without a status; it must not look alive for ever.
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(9));
            *locked(&waiter.exit) = Some(Exit { at: clock::now(), status });
            waiter.ended.notify_all();
        })?;
        Ok(Self { pid, shared })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *locked(&self.shared.exit)
    }

    /// Whether it is still there.
    pub fn is_running(&self) -> bool {
        self.exit().is_none()
    }

    /// Sends a signal, if it is still there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Holding the lock keeps the waiter from recording the end meanwhile; the pid itself is given back when the
        // waiter reaps it, a moment before it takes this lock, and no new process gets the same pid that soon.
        let exit = locked(&self.shared.exit);
        if exit.is_some() {
            return Ok(());
        }
        match kill_process(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Stops it by SIGSTOP and returns once the system shows it stopped.
    ///
    /// # Errors
    /// When it is gone or does not stop within five seconds.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        clock::wait_for("a process to stop", Duration::from_secs(5), || {
            if self.exit().is_some() {
                bail!("process {} ended and cannot be frozen", self.pid());
            }
            Ok((state(self.pid())? == 'T').then_some(()))
        })
    }

    /// Continues it by SIGCONT.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it by SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&self) -> Result<Exit> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(20))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it is still there after `within`.
    pub fn wait(&self, within: Duration) -> Result<Exit> {
        let until = Instant::now() + within;
        let mut exit = locked(&self.shared.exit);
        loop {
            if let Some(exit) = *exit {
                return Ok(exit);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("process {} has not ended within {within:?}", self.pid());
            }
            exit = self.shared.ended.wait_timeout(exit, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// CPU time used so far, user and system, of all its OS threads.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(self.pid())
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill().is_err() {
            eprintln!("process {} did not end", self.pid());
        }
    }
}

fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    // Fields 14 and 15 of stat(5); the two before the bracket are cut off and the list starts at zero.
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field).context("a short stat")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / rustix::param::clock_ticks_per_second()))
}

fn state(pid: u32) -> Result<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).context("an odd stat")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

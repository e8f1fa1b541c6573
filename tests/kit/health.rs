//! The health port of a worker, and a system for it to read that is as well as the test wants it to be.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Lab;
use crate::clock;
use crate::worker::{Options, Worker};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where a worker answers for its health.
#[derive(Clone, Copy, Debug)]
pub struct HealthPort {
    address: SocketAddr,
}

/// What it says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Body.
    pub body: String,
}

impl HealthPort {
    /// That of a worker that was just started; its log says where it is.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn of(worker: &Worker) -> Result<Self> {
        let line = worker.wait_for_line("health is served address=", PATIENCE)?;
        let (_, address) = line.split_once("address=").context("no address")?;
        let mut address: SocketAddr = address.trim().parse().with_context(|| line.clone())?;
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        Ok(Self { address })
    }

    /// Whatever answers to HTTP at an address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for a page.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// What `/readyz` says.
    ///
    /// # Errors
    /// When it is no JSON, or nobody answers.
    pub fn readyz(&self) -> Result<(u16, Value)> {
        let answer = self.get("/readyz")?;
        let value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
        Ok((answer.status, value))
    }

    /// The names of what `/readyz` finds wrong.
    ///
    /// # Errors
    /// As above.
    pub fn problems(&self) -> Result<Vec<String>> {
        let (_, answer) = self.readyz()?;
        let checks = answer["checks"].as_object().context("no checks")?;
        Ok(checks.iter().filter(|(_, check)| check["ok"] != true).map(|(name, _)| name.clone()).collect())
    }

    /// Waits until `/readyz` has this status, while `/livez` is fine.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn wait_for(&self, status: u16) -> Result<Value> {
        clock::wait_for(&format!("/readyz to be {status}"), PATIENCE, || {
            anyhow::ensure!(self.get("/livez")?.status == 200, "/livez is not 200");
            let (found, answer) = self.readyz()?;
            Ok((found == status).then_some(answer))
        })
    }

    /// The value of a series of `/metrics`, by its name with labels.
    ///
    /// # Errors
    /// When it is not there.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let text = self.get("/metrics")?.body;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {series} in\n{text}"))?.parse()?)
    }
}

/// A `proc` and a `sys` that a worker reads in place of the system's.
#[derive(Clone, Debug)]
pub struct FakeSystem {
    root: PathBuf,
}

impl FakeSystem {
    /// One without load, in a cgroup of 1000 MiB of which a tenth is in use.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let system = Self { root: lab.directory(name)? };
        system.write("proc/self/cgroup", "0::/\n")?;
        system.write("proc/self/status", "VmRSS:\t  20480 kB\n")?;
        system.write("sys/fs/cgroup/memory.max", &format!("{}\n", 1000 << 20))?;
        system.memory(10)?;
        system.load(0.0)?;
        Ok(system)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Lets a worker read it.
    #[must_use]
    pub fn of(&self, options: Options) -> Options {
        options.environment("HATS_SYSTEM_ROOT", &self.root.display().to_string())
    }

    /// Sets the load average of the last minute.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn load(&self, load: f64) -> Result<()> {
        self.write("proc/loadavg", &format!("{load:.2} 0.00 0.00 1/100 1000\n"))
    }

    /// Sets how many percent of the cgroup's memory are in use.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn memory(&self, percent: u64) -> Result<()> {
        self.write("sys/fs/cgroup/memory.current", &format!("{}\n", percent * (10 << 20)))
    }

    fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        // By rename, so that nobody reads half a file.
        let next = path.with_extension("next");
        fs::write(&next, content)?;
        Ok(fs::rename(&next, &path)?)
    }
}

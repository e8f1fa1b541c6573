//! A private redis-server: started, stalled, stopped, restarted with or without its data, and asked what it did.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::resp::{Client, Value, command};
use crate::{Lab, clock};

/// How a server is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keeps its data over a restart (append-only file).
    pub persistent: bool,
    /// Its wall clock can be stepped (libfaketime); the other clocks stay true.
    pub fake_clock: bool,
}

/// A server of one test.
#[derive(Debug)]
pub struct RedisServer {
    lab: Lab,
    name: String,
    options: Options,
    directory: PathBuf,
    port: u16,
    clock: Option<FakeClock>,
    process: Process,
}

impl RedisServer {
    /// Starts a server that forgets.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, "redis", Options::default())
    }

    /// Starts a server.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_with(lab: &Lab, name: &str, options: Options) -> Result<Self> {
        let directory = lab.directory(name)?;
        let clock = if options.fake_clock { Some(FakeClock::new(lab, name)?) } else { None };
        // A free port can be lost to somebody else before the server has it; another one is tried then.
        let mut failure = None;
        for _ in 0..5 {
            let port = free_port()?;
            match launch(lab, name, options, &directory, port, clock.as_ref()) {
                Ok(process) => {
                    return Ok(Self {
                        lab: lab.clone(),
                        name: name.to_owned(),
                        options,
                        directory,
                        port,
                        clock,
                        process,
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("no attempt was made")?)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A new connection.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address(), Duration::from_secs(30))
    }

    /// One command on a connection of its own. An error reply is an error here.
    ///
    /// # Errors
    /// When the server cannot be asked or refuses.
    pub fn ask<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Result<Value> {
        match self.client()?.ask(arguments)? {
            Value::Error(text) => bail!("redis refused: {text}"),
            value => Ok(value),
        }
    }

    /// Many commands in one pipeline; the replies in order.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn pipeline<A: AsRef<[u8]>>(&self, commands: &[Vec<A>]) -> Result<Vec<Value>> {
        let mut client = self.client()?;
        let mut replies = Vec::with_capacity(commands.len());
        // In portions, so that neither side waits for the other with full buffers.
        for portion in commands.chunks(500) {
            let bytes: Vec<u8> = portion.iter().flat_map(|arguments| command(arguments)).collect();
            client.send(&bytes)?;
            for _ in portion {
                replies.push(client.reply()?);
            }
        }
        Ok(replies)
    }

    /// A hash as a map.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn hash(&self, key: &str) -> Result<BTreeMap<String, String>> {
        let flat = self.ask(&["HGETALL", key])?.texts();
        Ok(flat
            .chunks_exact(2)
            .filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())))
            .collect())
    }

    /// One field of a hash as text, empty when absent.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn field(&self, key: &str, field: &str) -> Result<String> {
        Ok(self.ask(&["HGET", key, field])?.text().unwrap_or_default())
    }

    /// Stops answering for a while, as a slow script or a fork would: the server sleeps and does nothing else.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn stall(&self, duration: Duration) -> Result<()> {
        // The reply comes after the sleep; nobody waits for it here.
        let mut client = self.client()?;
        client.send(&command(&["DEBUG", "SLEEP", &duration.as_secs_f64().to_string()]))?;
        // The connection must outlive the command's arrival.
        std::thread::Builder::new().spawn(move || drop(client.reply()))?;
        Ok(())
    }

    /// Freezes the process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<()> {
        self.process.freeze()
    }

    /// Continues the process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn thaw(&self) -> Result<()> {
        self.process.thaw()
    }

    /// Stops it in good order; what it keeps is on disk.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        // By command: the handler of the signal reads the clock, and under libfaketime that may wait for itself.
        if let Ok(mut client) = self.client() {
            client.send(&command(&["SHUTDOWN", "NOSAVE"]))?;
            // There is no reply but the end of the connection.
            drop(client.reply());
        }
        self.process.wait(Duration::from_secs(20))?;
        Ok(())
    }

    /// Starts it again on the same port, with the data it has kept.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_again(&mut self) -> Result<()> {
        self.stop()?;
        self.process =
            launch(&self.lab, &self.name, self.options, &self.directory, self.port, self.clock.as_ref())?;
        Ok(())
    }

    /// Deletes what a stopped server has kept.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn forget(&self) -> Result<()> {
        fs::remove_dir_all(&self.directory)?;
        Ok(fs::create_dir_all(&self.directory)?)
    }

    /// Steps its wall clock to the true time plus `seconds`.
    ///
    /// # Errors
    /// When the server was started without a clock to step.
    pub fn step_clock(&self, seconds: i64) -> Result<()> {
        self.clock.as_ref().context("this server has a true clock")?.step(seconds)
    }

    /// The server's clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn time_ms(&self) -> Result<i64> {
        let time = self.ask(&["TIME"])?.texts();
        let [seconds, micros] = &time[..] else { bail!("TIME is {time:?}") };
        Ok(seconds.parse::<i64>()? * 1000 + micros.parse::<i64>()? / 1000)
    }

    /// Calls of each command since the last reset, those inside Lua included, in lower case.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn commandstats(&self) -> Result<BTreeMap<String, u64>> {
        let info = self.ask(&["INFO", "commandstats"])?.text().unwrap_or_default();
        Ok(info
            .lines()
            .filter_map(|line| {
                let (name, figures) = line.trim().strip_prefix("cmdstat_")?.split_once(':')?;
                let calls = figures.split(',').find_map(|figure| figure.strip_prefix("calls="))?;
                Some((name.to_owned(), calls.parse().ok()?))
            })
            .collect())
    }

    /// Starts counting anew.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn reset_stats(&self) -> Result<()> {
        self.ask(&["CONFIG", "RESETSTAT"])?;
        Ok(())
    }
}

/// The clock file of one process under libfaketime.
///
/// libfaketime reads the file at every look at the wall clock; monotonic and boot clocks are left true, so that only
/// what a step of the system's clock would change is changed.
#[derive(Debug)]
pub struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// The library, as Debian's package `libfaketime` lays it, for programs with several OS threads.
    const LIBRARIES: [&str; 3] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];

    /// A clock that shows the true time.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let clock = Self { file: lab.path().join(format!("{name}.clock")) };
        Self::library()?;
        clock.step(0)?;
        Ok(clock)
    }

    fn library() -> Result<&'static str> {
        Self::LIBRARIES
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .context("libfaketime is not installed (Debian: apt-get install libfaketime)")
    }

    /// Steps to the true time plus `seconds`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&self, seconds: i64) -> Result<()> {
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n"))?;
        // By rename, so that no reader meets half a file.
        Ok(fs::rename(&next, &self.file)?)
    }

    /// Puts a command under this clock.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn wrap(&self, command: &mut Command) -> Result<()> {
        // The C library comes second so that its malloc wins over jemalloc's, with which Debian links redis-server:
        // jemalloc reads the clock while it sets itself up, libfaketime allocates while it does, and neither returns.
        command
            .env("LD_PRELOAD", format!("{} libc.so.6", Self::library()?))
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        Ok(())
    }
}

fn launch(
    lab: &Lab,
    name: &str,
    options: Options,
    directory: &std::path::Path,
    port: u16,
    clock: Option<&FakeClock>,
) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
        .args(["--enable-debug-command", "yes", "--dir"])
        .arg(directory)
        // The page cache outlives the process; waiting for a busy disk would look like a stall of Redis.
        .args(["--appendfsync", "no", "--appendonly", if options.persistent { "yes" } else { "no" }]);
    if let Some(clock) = clock {
        clock.wrap(&mut command)?;
    }
    let process = Process::start(&command, &lab.log(&format!("{name}.log")))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    clock::wait_for("redis-server to answer", Duration::from_secs(20), || {
        if let Some(exit) = process.exit() {
            bail!("redis-server ended with {:?}", exit.status);
        }
        let Ok(mut client) = Client::connect(address, Duration::from_secs(5)) else { return Ok(None) };
        Ok(matches!(client.ask(&["PING"]), Ok(Value::Text(_))).then_some(()))
    })?;
    Ok(process)
}

/// A port that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_data_over_a_restart_if_asked_to() -> Result<()> {
        Lab::run("redis restart", |lab| {
            let mut redis =
                RedisServer::start_with(lab, "redis", Options { persistent: true, fake_clock: false })?;
            redis.ask(&["SET", "k", "v"])?;
            redis.start_again()?;
            assert_eq!(redis.ask(&["GET", "k"])?.text().as_deref(), Some("v"));
            redis.stop()?;
            redis.forget()?;
            redis.start_again()?;
            assert_eq!(redis.ask(&["GET", "k"])?, Value::Null);
            Ok(())
        })
    }

    #[test]
    fn only_its_wall_clock_is_stepped() -> Result<()> {
        Lab::run("redis clock", |lab| {
            let redis =
                RedisServer::start_with(lab, "redis", Options { persistent: false, fake_clock: true })?;
            let seconds = || -> Result<i64> {
                redis.ask(&["TIME"])?.texts().first().context("no time")?.parse::<i64>().context("no number")
            };
            let before = seconds()?;
            redis.step_clock(3600)?;
            assert!((3590..3700).contains(&(seconds()? - before)));
            redis.step_clock(-3600)?;
            assert!((-3610..-3500).contains(&(seconds()? - before)));
            // A blocked client waits on the monotonic clock: the step neither ends nor lengthens its second.
            let start = std::time::Instant::now();
            redis.ask(&["BLPOP", "none", "1"])?;
            assert!(start.elapsed() < Duration::from_secs(10));
            Ok(())
        })
    }

    #[test]
    fn commands_are_counted() -> Result<()> {
        Lab::run("redis stats", |lab| {
            let redis = RedisServer::start(lab)?;
            redis.reset_stats()?;
            redis.ask(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "k"])?;
            let stats = redis.commandstats()?;
            assert_eq!((stats.get("eval"), stats.get("incr")), (Some(&1), Some(&1)));
            Ok(())
        })
    }
}

//! Workers as real processes of the binary under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::Lab;
use crate::history::FateKind;
use crate::process::{Exit, Process};
use crate::redis::FakeClock;

/// The binary under test: `HATS_WORKER_BIN`, or built once in the profile and target directory of the test itself.
///
/// # Errors
/// When it cannot be built.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY
        .get_or_init(|| build("hats-worker", &[]).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// Builds the binary of a package, or with `--example NAME` at the end of `kind` an example, and gives its path.
///
/// # Errors
/// When cargo fails.
pub fn build(package: &str, kind: &[&str]) -> Result<PathBuf> {
    if kind.is_empty()
        && let Some(given) = env::var_os("HATS_WORKER_BIN")
    {
        return Ok(given.into());
    }
    // .../<target>/<profile>/deps/<test>
    let own = env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).context("a test outside a target directory")?;
    let target = profile.parent().context("a test outside a target directory")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", package]).args(kind).arg("--target-dir").arg(target);
    if profile.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    // What cargo tells a test about its own package would make it build other crates anew, each time.
    let told = env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"].iter().any(|start| name.starts_with(start))
    });
    for (name, _) in told {
        command.env_remove(name);
    }
    command.current_dir(workspace());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("{package} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(match kind {
        [.., "--example", name] => profile.join("examples").join(name),
        _ => profile.join(package),
    })
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// How a worker is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, by default also that of its logs.
    pub name: String,
    /// The name of its logs where two workers share a name.
    pub log: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment beside the inherited.
    pub environment: Vec<(String, String)>,
    /// Whether its wall clock can be stepped.
    pub fake_clock: bool,
    /// Whether it records its calls; not where its speed is measured.
    pub call_log: bool,
    /// Whether it has the health port that it takes by itself, in place of any free one.
    pub default_health_port: bool,
}

impl Options {
    /// A worker of a cluster at a Redis address.
    pub fn new(name: &str, cluster: &str, redis: &str) -> Self {
        let mut options =
            Self::bare(name).argument("--worker-name", name).argument("--cluster-name", cluster);
        options = options.argument("--redis-address", redis).argument("--embedded-redis", "never");
        options
    }

    /// A worker with no arguments at all.
    pub fn bare(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            log: name.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            fake_clock: false,
            call_log: true,
            default_health_port: false,
        }
    }

    /// Adds a flag with a value.
    #[must_use]
    pub fn argument(mut self, flag: &str, value: &str) -> Self {
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds a flag without a value, or a word.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.arguments.push(flag.to_owned());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Lets it record nothing.
    #[must_use]
    pub fn without_call_log(mut self) -> Self {
        self.call_log = false;
        self
    }

    /// Leaves it the choice of its health port.
    #[must_use]
    pub fn default_health_port(mut self) -> Self {
        self.default_health_port = true;
        self
    }

    /// Gives it a wall clock that can be stepped.
    #[must_use]
    pub fn fake_clock(mut self) -> Self {
        self.fake_clock = true;
        self
    }
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    lab: Lab,
    options: Options,
    log: PathBuf,
    calls: PathBuf,
    clock: Option<FakeClock>,
    process: Process,
}

impl Worker {
    /// Starts a worker.
    ///
    /// # Errors
    /// When there is no binary or it cannot be started.
    pub fn start(lab: &Lab, options: Options) -> Result<Self> {
        let log = lab.log(&format!("{}.log", options.log));
        let calls = lab.path().join(format!("{}.calls", options.log));
        let clock = if options.fake_clock { Some(FakeClock::new(lab, &options.log)?) } else { None };
        let mut command = Command::new(binary()?);
        command.args(&options.arguments);
        if options.call_log {
            command.arg("--call-log").arg(&calls);
        }
        command.current_dir(workspace());
        only_given(&mut command);
        // How much memory the machine has left is no affair of a test's that does not ask.
        command.env("HATS_MEMORY_BUDGET", "off").env("HATS_BIND", "127.0.0.1");
        if !options.default_health_port {
            command.env("HATS_HEALTH_PORT", "0");
        }
        if !options.environment.iter().any(|(name, _)| name == "HATS_SYSTEM_ROOT") {
            command.env("HATS_MEM_THRESHOLD", "off");
        }
        command.envs(options.environment.iter().cloned());
        command.env("NO_COLOR", "1");
        if let Some(clock) = &clock {
            clock.wrap(&mut command)?;
        }
        let process = Process::start(&command, &log)?;
        Ok(Self { lab: lab.clone(), options, log, calls, clock, process })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where its log goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Where its call log goes.
    pub fn calls(&self) -> &Path {
        &self.calls
    }

    /// Kills it by SIGKILL.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&self) -> Result<Exit> {
        let exit = self.process.kill()?;
        self.lab.record_at(self.pid(), FateKind::Gone, exit.at);
        Ok(exit)
    }

    /// Asks it by SIGTERM to drain; does not wait.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&self, within: Duration) -> Result<Exit> {
        let exit = self.process.wait(within)?;
        self.lab.record_at(self.pid(), FateKind::Gone, exit.at);
        Ok(exit)
    }

    /// Drains it and expects exit code 0.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn drain(&self, within: Duration) -> Result<Exit> {
        self.terminate()?;
        let exit = self.wait(within)?;
        if exit.code() != Some(0) {
            bail!("worker {} drained with {:?}", self.name(), exit.status);
        }
        Ok(exit)
    }

    /// Freezes it by SIGSTOP.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<()> {
        self.process.freeze()?;
        self.lab.record(self.pid(), FateKind::Frozen);
        Ok(())
    }

    /// Continues it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn thaw(&self) -> Result<()> {
        self.lab.record(self.pid(), FateKind::Thawed);
        self.process.thaw()
    }

    /// Steps its wall clock to the true time plus `seconds`.
    ///
    /// # Errors
    /// When it was started without a clock to step.
    pub fn step_clock(&self, seconds: i64) -> Result<()> {
        self.clock.as_ref().context("this worker has a true clock")?.step(seconds)
    }

    /// Waits for a line in its log.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<String> {
        self.lab.wait_for_line(&self.log, text, within)
    }

    /// If it has ended, by itself or killed, starts it again with the same arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn revive(&mut self) -> Result<bool> {
        let Some(exit) = self.process.exit() else { return Ok(false) };
        self.lab.record_at(self.pid(), FateKind::Gone, exit.at);
        *self = Self::start(&self.lab, self.options.clone())?;
        Ok(true)
    }
}

/// Keeps settings of the test's own environment from the worker, which would take them for its own.
fn only_given(command: &mut Command) {
    for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("HATS_")) {
        command.env_remove(key);
    }
}

/// What a finished command gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the binary to its end, as an administrator would.
///
/// # Errors
/// When it cannot be started.
pub fn run(arguments: &[&str]) -> Result<Output> {
    run_in(&workspace(), arguments, &[])
}

/// The same in a directory and with environment variables; `timeout` of coreutils bounds it.
///
/// # Errors
/// When it cannot be started.
pub fn run_in(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "1", "30"])
        .arg(binary()?)
        .args(arguments)
        .current_dir(directory)
        .env("NO_COLOR", "1");
    only_given(&mut command);
    let output = command.envs(environment.iter().copied()).output()?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

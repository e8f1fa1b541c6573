//! Real servers, in temporary folders and on free ports. Tests that run at the same time share one; it is gone when none
//! of them has it any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// What the tests' user and its password are; the password is one that has to be written with care.
pub(super) const USER: &str = "tester";
pub(super) const PASSWORD: &str = "p@ss/w:rd'?";

/// A MariaDB or a PostgreSQL server.
pub(super) struct DatabaseServer {
    kind: Kind,
    process: Mutex<Child>,
    pub(super) port: u16,
    pub(super) folder: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    MariaDb,
    Postgres,
}

static MARIADB: Mutex<Weak<DatabaseServer>> = Mutex::new(Weak::new());
static POSTGRES: Mutex<Weak<DatabaseServer>> = Mutex::new(Weak::new());

impl DatabaseServer {
    /// A MariaDB that others use as well.
    pub(super) fn mariadb() -> Arc<Self> {
        Self::shared(Kind::MariaDb, &MARIADB)
    }

    /// A PostgreSQL that others use as well.
    pub(super) fn postgres() -> Arc<Self> {
        Self::shared(Kind::Postgres, &POSTGRES)
    }

    /// A MariaDB to be killed.
    pub(super) fn own_mariadb() -> Self {
        Self::start(Kind::MariaDb)
    }

    /// A PostgreSQL to be killed.
    pub(super) fn own_postgres() -> Self {
        Self::start(Kind::Postgres)
    }

    fn shared(kind: Kind, place: &Mutex<Weak<Self>>) -> Arc<Self> {
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        place.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(kind));
            *place = Arc::downgrade(&server);
            server
        })
    }

    fn start(kind: Kind) -> Self {
        // A free port can be lost to somebody else before the server has it; another one is tried then.
        for _ in 0..5 {
            let folder = TempDir::new().unwrap();
            prepare(kind, folder.path());
            let port = free_port();
            let process = Mutex::new(launch(kind, folder.path(), port));
            let server = Self { kind, process, port, folder };
            if server.wait() {
                return server;
            }
            let log = fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            eprintln!("{kind:?} did not start: {log}");
        }
        panic!("no server could be started");
    }

    /// True once it answers, false if it has ended.
    fn wait(&self) -> bool {
        for _ in 0..600 {
            if self.process.lock().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if self.answers() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn answers(&self) -> bool {
        let folder = self.folder.path();
        match self.kind {
            Kind::MariaDb => {
                let mut client = Command::new("mariadb");
                client
                    .arg("--no-defaults")
                    .arg("--socket")
                    .arg(folder.join("socket"))
                    .args(["-u", "root", "-e"]);
                let user = format!("'{USER}'@'%' IDENTIFIED BY '{}'", PASSWORD.replace('\'', "''"));
                client.arg(format!(
                    "CREATE DATABASE IF NOT EXISTS test; CREATE USER IF NOT EXISTS {user}; GRANT ALL ON *.* TO '{USER}'@'%'"
                ));
                client.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
            }
            Kind::Postgres => {
                let mut client = Command::new(postgres_program("psql"));
                client.args([
                    "-h",
                    "127.0.0.1",
                    "-U",
                    USER,
                    "-p",
                    &self.port.to_string(),
                    "-c",
                    "SELECT 1",
                    "postgres",
                ]);
                client.env("PGPASSWORD", PASSWORD);
                client.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
            }
        }
    }

    /// A DSN for it.
    pub(super) fn dsn(&self) -> String {
        self.dsn_at(self.port)
    }

    /// A DSN for it, on the way over another port.
    pub(super) fn dsn_at(&self, port: u16) -> String {
        match self.kind {
            Kind::MariaDb => format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/test"),
            Kind::Postgres => {
                let password: String = PASSWORD.bytes().map(|byte| format!("%{byte:02x}")).collect();
                format!("postgres://{USER}:{password}@127.0.0.1:{port}/postgres")
            }
        }
    }

    /// Ends it as a power cut would.
    pub(super) fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        if self.kind == Kind::Postgres {
            // `runuser` ends when the server has, and killed before it would leave it behind.
            signal_postmaster(self.folder.path(), "-QUIT");
            for _ in 0..200 {
                if process.try_wait().unwrap().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = process.kill();
        let _ = process.wait();
    }

    /// Starts it again, with its data.
    pub(super) fn start_again(&self) {
        // Its lock is still there.
        *self.process.lock().unwrap() = launch(self.kind, self.folder.path(), self.port);
        assert!(self.wait());
    }

    /// Stops its process, which then answers nobody; connections stay.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        // Of a PostgreSQL this would be the wrong process.
        assert_eq!(self.kind, Kind::MariaDb);
        let id = self.process.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn prepare(kind: Kind, folder: &Path) {
    match kind {
        Kind::MariaDb => {
            let mut install = Command::new("mariadb-install-db");
            install.arg("--no-defaults").arg(format!("--datadir={}", folder.join("data").display()));
            install.args([
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]);
            // Servers clear up after others of theirs in a folder that they share.
            install.arg(format!("--tmpdir={}", folder.display()));
            if is_root() {
                install.arg("--user=root");
            }
            run(install);
        }
        Kind::Postgres => {
            let password = folder.join("password");
            fs::write(&password, PASSWORD).unwrap();
            certificate(folder);
            if is_root() {
                // It refuses to run as root.
                run_with("chown", &["-R", "postgres", folder.to_str().unwrap()]);
            }
            let mut init = as_postgres("initdb");
            init.arg("-D").arg(folder.join("data"));
            init.args([
                "-U",
                USER,
                "-A",
                "scram-sha-256",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--pwfile",
            ]);
            run({
                init.arg(&password);
                init
            });
        }
    }
}

fn launch(kind: Kind, folder: &Path, port: u16) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = match kind {
        Kind::MariaDb => {
            let mut command = Command::new(mariadbd());
            command.arg("--no-defaults").arg(format!("--datadir={}", folder.join("data").display()));
            command.arg(format!("--socket={}", folder.join("socket").display()));
            command.arg(format!("--pid-file={}", folder.join("pid").display()));
            command.arg(format!("--port={port}"));
            command.args([
                "--character-set-server=utf8mb4",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
            ]);
            command.arg(format!("--tmpdir={}", folder.display()));
            command.args(["--innodb-flush-log-at-trx-commit=0"]);
            command.args([
                "--innodb-buffer-pool-size=32M",
                "--max-allowed-packet=256M",
                "--max-connections=300",
            ]);
            if is_root() {
                command.arg("--user=root");
            }
            command
        }
        Kind::Postgres => {
            let mut command = as_postgres("postgres");
            command.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
            command.arg("-k").arg(folder);
            for setting in ["fsync=off", "ssl=on", "max_connections=150", "shared_buffers=16MB"] {
                command.args(["-c", setting]);
            }
            for (name, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
                command.arg("-c").arg(format!("{name}={}", folder.join(file).display()));
            }
            command
        }
    };
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// An authority, and a certificate by it for `localhost`.
fn certificate(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let (ca_key, server_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key)).unwrap();
    fs::write(folder.join("server.pem"), server.pem()).unwrap();
    let key = folder.join("server.key");
    fs::write(&key, server_key.serialize_pem()).unwrap();
    // Or it is not taken.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
}

fn signal_postmaster(folder: &Path, signal: &str) {
    let Ok(file) = fs::read_to_string(folder.join("data/postmaster.pid")) else { return };
    if let Some(id) = file.lines().next() {
        let _ = Command::new("kill").args([signal, id]).status();
    }
}

fn as_postgres(program: &str) -> Command {
    let path = postgres_program(program);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(path);
    // Wherever the test is run, that user may not be able to be there.
    command.current_dir("/");
    command
}

/// Debian keeps them out of the way.
fn postgres_program(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(program)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| program.into())
}

fn mariadbd() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mariadbd");
    if debian.exists() { debian } else { "mariadbd".into() }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run_with(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command);
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

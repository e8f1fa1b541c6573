//! The command line from outside: what it answers, on which stream, and with which exit code.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests, and what only they call, fail by panicking")]

mod worker;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::worker::{Worker, hats};

const SECRET: &str = "hunter2";

/// A worker that says nothing for so long while a line is waited for is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[test]
fn help_tells_the_exit_codes_and_no_secrets() {
    let mut command = hats(&["--help"]);
    command.env("HATS_REDIS_PASSWORD", SECRET).env("HATS_REDIS_ADDRESS", "redis://:hunter2@h:1");
    let help = run(command);
    help.expect(0, "Exit codes:");
    assert!(!help.stdout.contains(SECRET), "{}", help.stdout);
    assert!(!help.stdout.contains("call-log"), "{}", help.stdout);
    run(hats(&["--version"])).expect(0, "hats-worker ");
}

#[test]
fn wrong_flags_are_named() {
    for (arguments, expected) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--cluster-nam", "a"], "--cluster-name"),
        (&["--cluster-name"], "a value is required"),
        (&["--cluster-name", "a", "--cluster-name", "b"], "cannot be used multiple times"),
        (&["--run-now", "thread", "list"], "--run-now is for running a worker"),
        (&["stray"], "stray"),
        (&["thread"], "Usage:"),
        (&["thread", "put", "name-only"], "<FILE>"),
    ] {
        run(hats(arguments)).expect(2, expected);
    }
}

#[test]
fn wrong_values_are_named_in_one_line() {
    for (arguments, expected) in [
        (&["--lease-seconds", "1"][..], "--lease-seconds: must be from 2 to 3600 seconds"),
        (&["--lease-seconds", "-1"], "--lease-seconds: expected a time"),
        (&["--cluster-name", ""], "--cluster-name: a value is missing"),
        (&["--cluster-name", "a:b"], "--cluster-name: a cluster name must not contain ':'"),
        (&["--redis-address", "localhost"], "--redis-address: not a redis address"),
        (&["--redis-address", ""], "--redis-address is empty"),
        (&["--redis-address", "http://h:1"], "scheme \"http\" is not known"),
        (&["--redis-password", SECRET], "redis-address is missing"),
        (&["--embedded-redis", "never"], "redis-address is missing"),
        (&["--scripts", "/no/such/script.js"], "cannot read `/no/such/script.js`: No such file"),
        (&["--scripts", "/"], "it is a directory"),
        (&["--scripts", "a.js,,b.js"], "--scripts: the list has an empty item"),
        (&["--log-level", "loud"], "--log-level: expected `error`"),
        (&["--host-port", "70000"], "--host-port: expected a port"),
        (&["--config", "/no/such/file.toml"], "cannot read `/no/such/file.toml`: No such file"),
        (&["thread", "list"], "redis-address is missing"),
    ] {
        let answer = run(hats(arguments));
        answer.expect(2, expected);
        assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    }
}

#[test]
fn wrong_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let large = file("large.js", &vec![b' '; (1 << 20) + 1]);
    run(hats(&["--scripts", &large])).expect(2, "is larger than 1048576 bytes (source-limit)");
    let binary = file("binary.js", b"\xff\xfe");
    run(hats(&["--scripts", &binary])).expect(2, "is not valid UTF-8");
    let config = file("a.json", br#"{"redis-adress": "h:1"}"#);
    run(hats(&["--config", &config]))
        .expect(2, "unknown key `redis-adress`; the nearest known one is `redis-address`");
    let config = file("a.toml", b"redis-password = hunter2");
    let answer = run(hats(&["--config", &config]));
    answer.expect(2, "a.toml: not valid TOML at line 1");
    assert!(!answer.stderr.contains(SECRET), "{}", answer.stderr);
}

#[test]
fn variables_are_checked_as_flags_are() {
    let mut command = hats(&[]);
    command.env("HATS_LEASE_SECONDS", "soon");
    run(command).expect(2, "HATS_LEASE_SECONDS: expected a time");
    let mut command = hats(&[]);
    command.env("RUST_LOG", "a=b=c");
    run(command).expect(2, "RUST_LOG");
}

#[test]
fn a_refused_password_is_told_at_once_and_not_shown() {
    let redis = Redis::start(&["--requirepass", "right"]);
    for arguments in [&["thread", "list"][..], &[]] {
        for password in [SECRET, ""] {
            let mut command = hats(&["--redis-address", &redis.address]);
            command.args(["--redis-password", password]).args(arguments);
            let answer = run(command);
            answer.expect(2, "redis refuses this worker");
            assert!(!answer.stderr.contains(SECRET), "{}", answer.stderr);
        }
    }
    let url = format!("redis://:hunter2@{}", redis.address);
    let answer = run(hats(&["--redis-address", &url, "thread", "list"]));
    answer.expect(2, "redis refuses this worker");
    assert!(!answer.stderr.contains(SECRET), "{}", answer.stderr);
    run(hats(&["--redis-address", &redis.address, "--redis-password", "right", "thread", "list"]))
        .expect(0, "NAME");
}

#[test]
fn a_user_without_permission_is_refused() {
    let redis =
        Redis::start(&["--user", "weak", "on", ">pw", "~*", "&*", "+ping", "+hello", "+client", "+info"]);
    for arguments in [&["thread", "list"][..], &[]] {
        let mut command = hats(&["--redis-address", &redis.address, "--redis-username", "weak"]);
        command.args(["--redis-password", "pw"]).args(arguments);
        run(command).expect(2, "redis refuses this worker");
    }
}

#[test]
fn an_unreachable_redis_is_told_after_ten_seconds() {
    // Taken and never answered, and closed.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = silent.local_addr().unwrap().to_string();
    let waiting: Vec<_> = [(&closed, true), (&closed, false), (&silent, true), (&silent, false)]
        .into_iter()
        .map(|(address, is_worker)| {
            let mut command = hats(&["--redis-address", address]);
            if !is_worker {
                command.args(["thread", "list"]);
            }
            thread::spawn(move || run(command))
        })
        .collect();
    for answer in waiting {
        answer.join().unwrap().expect(69, "redis cannot be reached");
    }
}

#[test]
fn threads_are_administered() {
    let redis = Redis::start(&[]);
    let admin = |arguments: &[&str]| run(hats(&[&["--redis-address", &redis.address], arguments].concat()));
    let json = |arguments: &[&str]| -> Value {
        let answer = admin(&[arguments, &["--json"]].concat());
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        serde_json::from_str(&answer.stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("a.js");
    fs::write(&script, "function main() {}").unwrap();
    let script = script.to_str().unwrap();

    admin(&["thread", "put", "a", script, "--disabled", "--hang", "100"]).expect(0, "a: created (disabled");
    admin(&["thread", "put", "a", script]).expect(0, "a: unchanged (disabled");
    assert_eq!(json(&["thread", "put", "a", script, "--memory-limit", "32MiB"])["outcome"], "updated");
    let shown = json(&["thread", "show", "a"]);
    assert_eq!((shown["status"].as_str(), shown["hang_ms"].as_u64()), (Some("disabled"), Some(100)));
    assert_eq!(shown["source"], "function main() {}");
    admin(&["thread", "enable", "a"]).expect(0, "a: enabled");
    assert_eq!(json(&["thread", "list"])[0]["status"], "enabled");
    admin(&["thread", "disable", "a"]).expect(0, "a: disabled");
    admin(&["thread", "list"]).expect(0, "a     disabled  stopped");
    admin(&["thread", "restart", "a"]).expect(0, "a: asked to restart");
    admin(&["thread", "show", "a"]).expect(0, "function main() {}");
    admin(&["thread", "remove", "a"]).expect(0, "a: removed");
    assert_eq!(json(&["thread", "list"]), Value::Array(Vec::new()));

    for verb in ["show", "enable", "disable", "restart", "remove"] {
        admin(&["thread", verb, "a"]).expect(1, "there is no thread `a`");
    }
    admin(&["thread", "put", "a", script, "--hang", "soon"]).expect(2, "field Hang");
    admin(&["thread", "put", "a", script, "--stack-limit", "1k"]).expect(2, "field StackLimit: \"1k\"");
    admin(&["thread", "put", "a", script, "--log-line-limit", "0"]).expect(2, "field LogLineLimit");
    let large = folder.path().join("large.js");
    fs::write(&large, "/".repeat(1_500_000)).unwrap();
    let large = large.to_str().unwrap();
    admin(&["thread", "put", "large", large]).expect(
        2,
        "the source has 1500000 bytes, more than the limit of 1048576 (SourceLimit, --source-limit)",
    );
    admin(&["thread", "put", "large", large, "--source-limit", "2MiB"]).expect(0, "large: created");
    admin(&["thread", "remove", "large"]).expect(0, "large: removed");
    admin(&["thread", "put", "", script]).expect(2, "a task name must not be empty");
    admin(&["thread", "put", "a", "/no/such/file"]).expect(2, "No such file");
    // The cluster's name is a part of every key.
    admin(&["thread", "put", "a", script]).expect(0, "a: created");
    assert_eq!(json(&["--cluster-name", "other", "thread", "list"]), Value::Array(Vec::new()));
}

#[test]
fn a_script_may_come_from_standard_input() {
    let redis = Redis::start(&[]);
    let mut put = hats(&["--redis-address", &redis.address, "thread", "put", "a", "-"]);
    put.stdin(Stdio::piped());
    let mut child = put.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("let café;".as_bytes()).unwrap();
    Answer::of(child.wait_with_output().unwrap()).expect(0, "a: created");
    run(hats(&["--redis-address", &redis.address, "thread", "show", "a"])).expect(0, "let café;");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let redis = Redis::start(&[]);
    let mut list = hats(&["--redis-address", &redis.address, "thread", "list"]);
    let mut child = list.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let answer = Answer::of(child.wait_with_output().unwrap());
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_embedded_redis_can_be_joined_and_ends_with_its_worker() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("hello.js");
    fs::write(&script, "function main() {}").unwrap();
    let mut worker = hats(&["--scripts", script.to_str().unwrap(), "--log-format", "json"]);
    worker.env("HATS_NO_SUCH_THING", "1");
    let mut worker = Worker::start(worker, SILENCE_MAX);
    let line = worker.line_with("redis://:");
    let url = line.split(['"', ' ']).find(|word| word.starts_with("redis://")).unwrap();
    worker.line_with("registered");
    let listed = run(hats(&["--redis-address", url, "thread", "list"]));
    listed.expect(0, "hello.js");
    worker.signal("TERM");
    let (code, log) = worker.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("HATS_NO_SUCH_THING"), "{log}");
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
}

#[test]
fn a_worker_that_waits_for_redis_stops_when_asked() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut worker = Worker::start(hats(&["--redis-address", &closed]), SILENCE_MAX);
    worker.line_with("health is served");
    worker.signal("TERM");
    worker.line_with("draining");
    let (code, log) = worker.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("busy.js");
    fs::write(&script, "function main() { console.log('busy now'); while (true) {} }").unwrap();
    let mut worker =
        Worker::start(hats(&["--scripts", script.to_str().unwrap(), "--drain-timeout", "60s"]), SILENCE_MAX);
    worker.line_with("busy now");
    worker.signal("TERM");
    worker.line_with("a second signal");
    // Signals that come together are taken for one.
    thread::sleep(Duration::from_millis(200));
    worker.signal("TERM");
    let (code, log) = worker.end();
    assert_eq!(code, Some(143), "{log}");
}

fn run(mut command: Command) -> Answer {
    Answer::of(command.output().unwrap())
}

struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// An answer goes to standard output, anything wrong to standard error.
    #[track_caller]
    fn expect(&self, code: i32, text: &str) {
        let said = if code == 0 { &self.stdout } else { &self.stderr };
        assert!(
            self.code == Some(code) && said.contains(text),
            "expected {code} and {text:?}, got {:?}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
    }
}

/// A server of one test's own, on a free port, with its files in a folder that goes with it.
struct Redis {
    address: String,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // Between finding a free port and using it somebody else may take it.
        while Instant::now() < deadline {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = spawn_redis(folder.path(), address.port(), options);
            let mut log = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            while log.read_line(&mut line).unwrap() > 0 {
                if line.contains("Ready to accept connections") {
                    // What it says later must not fill the pipe.
                    thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
                    return Self { address: address.to_string(), child, _folder: folder };
                }
            }
            let _ = child.wait();
        }
        panic!("redis-server does not start")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_redis(folder: &Path, port: u16, options: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder)
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server is needed for this test: {error}"))
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_that_sends_no_traces_says_so() {
    run(hats(&["--otlp-endpoint", "http://127.0.0.1:4318"])).expect(2, "this build sends no traces");
    run(hats(&["--otlp-endpoint", "127.0.0.1:4318"]))
        .expect(2, "expected a URL such as http://collector:4318");
}

#[test]
fn a_schedule_is_shown_without_redis() {
    let from = ["--from", "2026-03-28T12:00:00Z"];
    let next = |arguments: &[&str]| run(hats(&[&["job", "next"], arguments, &from[..]].concat()));
    let answer = next(&["30 2 * * *", "--tz", "Europe/Berlin", "--count", "1"]);
    answer.expect(0, "2026-03-29T01:00:00Z  2026-03-29T03:00:00+02:00");
    answer.expect(0, "note: workers of 2020");
    let answer = next(&["CRON_TZ=Europe/Berlin 30 2 * * *", "--json", "--count", "2"]);
    answer.expect(0, "");
    let json: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(json["sentence"], "at 02:30, Europe/Berlin time");
    assert_eq!(json["zone"], "Europe/Berlin");
    assert_eq!(json["next"][1]["utc"], "2026-03-30T00:30:00Z");
    assert_eq!(json["next"][1]["local"], "2026-03-30T02:30:00+02:00");
    assert!(json["note"].as_str().is_some_and(|note| note.contains("six fields")));
    run(hats(&["job", "next", "* * * * *"])).expect(0, "every minute, UTC time");
    for (arguments, expected) in [
        (&["0 25 * * *"][..], "field Cron: hour \"25\" is not valid"),
        (&["* * * * *", "--tz", "Berlin"], "field TZ: \"Berlin\" is not a time zone"),
        (&["0 0 31 2 *"], "never fires"),
        (&["* * * * *", "--count", "0"], "--count"),
        (&["*", "*", "*", "*", "*"], "unexpected argument"),
    ] {
        next(arguments).expect(2, expected);
    }
    run(hats(&["job", "next", "* * * * *", "--from", "soon"])).expect(2, "from: expected a time such as");
}

#[test]
fn a_health_check_is_answered_by_its_exit_code_and_one_line() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let check = |probe: &str, port: &str| {
        let mut command = hats(&[probe, "--bind", "127.0.0.1"]);
        command.env("HATS_HEALTH_PORT", port);
        let answer = run(command);
        assert_eq!(answer.stdout.lines().count() + answer.stderr.lines().count(), 1, "{}", answer.stderr);
        answer
    };
    check("--health-check", &free).expect(1, "/livez cannot be asked: Connection refused");
    check("--health-check=readyz", "0").expect(1, "health-port is 0");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    check("--health-check", &port).expect(1, "/livez has not answered within 2000 ms");
}

//! The embedded Redis: a worker without an address starts one, and everybody can join it by its URL.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{NAME, STEADY};
use hats_tests::history::{self, History};
use hats_tests::resp::{Client, Value};
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(20);

/// Password and address of the URL that a worker prints.
fn printed(worker: &Worker) -> Result<(String, String)> {
    let line = worker.wait_for_line("redis://:", PATIENCE)?;
    let (_, url) = line.split_once("redis://:").context("no url")?;
    let (password, rest) = url.split_once('@').context("no password")?;
    let address = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    Ok((password.to_owned(), address))
}

/// What scripts may ask of it reaches nothing but its data, and ends.
#[test]
fn scripts_reach_its_data_and_nothing_else() -> Result<()> {
    Lab::run("embedded sandbox", |lab| {
        let script = lab.path().join("sandbox.js");
        std::fs::write(
            &script,
            r#"
for (const source of ["return io.popen('id'):read('*a')", "return os.execute('id')", "return load('return 1')()",
                      "return getfenv(0)", "return package.loaded", "while true do end"]) {
  console.log("asked", source, "got", redis.Do("EVAL", source, 0)[1], "end");
}
console.log("after", redis.Do("EVAL", "return redis.call('SET', 'k', 'fine')", 0)[0], redis.Do("GET", "k")[0], "end");
"#,
        )?;
        let options = Options::bare("w").argument("--scripts", &script.to_string_lossy());
        let worker = Worker::start(lab, options)?;
        worker.wait_for_line("after OK fine end", PATIENCE)?;
        let log = std::fs::read_to_string(worker.log())?;
        for (asked, expected) in [
            ("io.popen", "nonexistent global variable 'io'"),
            ("os.execute", "attempt to call field 'execute'"),
            ("load(", "nonexistent global variable 'load'"),
            ("getfenv", "nonexistent global variable 'getfenv'"),
            ("package", "nonexistent global variable 'package'"),
            ("while true", "ERR script killed: it used more than 500 ms of CPU time"),
        ] {
            let line =
                log.lines().find(|line| line.contains(" asked ") && line.contains(asked)).unwrap_or_default();
            ensure!(line.contains(expected), "{asked}: {line}");
        }
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn a_second_worker_joins_by_the_url() -> Result<()> {
    Lab::run("embedded", |lab| {
        let options = |name: &str| {
            Options::bare(name)
                .argument("--worker-name", name)
                .argument("--cluster-name", NAME)
                .argument("--lease-seconds", "2")
        };
        let mut history = History::default();
        let first = Worker::start(lab, options("first").argument("--scripts", "examples/hello.js"))?;
        history.add(first.calls().to_owned());
        let (password, address) = printed(&first)?;
        first.wait_for_line("hello from", PATIENCE)?;

        // As redis-cli would.
        let mut client = Client::connect(address.parse()?, PATIENCE)?;
        // Nobody else of this machine may.
        let refused = client.ask(&["HGET", "test:Threads:examples/hello.js", "Status"])?;
        ensure!(matches!(&refused, Value::Error(error) if error.starts_with("NOAUTH")), "{refused:?}");
        client.ask(&["AUTH", &password])?;
        ensure!(client.ask(&["HGET", "test:Threads:examples/hello.js", "Status"])?.text().is_some());
        let second = Worker::start(
            lab,
            options("second").argument("--redis-address", &format!("redis://:{password}@{address}")),
        )?;
        history.add(second.calls().to_owned());
        clock::wait_for("the second worker's row", PATIENCE, || {
            let state = client.ask(&["HGET", "test:workers:second", "State"])?;
            Ok((state.text().as_deref() == Some("online")).then_some(()))
        })?;
        // Without client tracking each looks for new threads every few seconds, and whoever looks first takes what it
        // finds; so threads are added until both have some.
        let mut names = Vec::new();
        clock::wait_for("both workers to run some", PATIENCE * 3, || {
            std::thread::sleep(Duration::from_millis(300));
            let name = format!("t{}", names.len());
            client.ask(&["HSET", &format!("{NAME}:Threads:{name}"), "Source", STEADY, "Hang", "20"])?;
            names.push(name);
            history.read()?;
            let both = [&first, &second].iter().all(|worker| !history.threads_of(worker.pid()).is_empty());
            Ok(both.then_some(()))
        })?;
        second.kill()?;
        clock::wait_for("the first to run all", PATIENCE, || {
            history.read()?;
            let all = names.iter().all(|name| history.last_start(name).is_some());
            Ok((all && history.threads_of(second.pid()).is_empty()).then_some(()))
        })?;
        ensure!(client.ask(&["PING"])? == Value::Text(b"PONG".to_vec()));
        first.drain(PATIENCE)?;
        history.read()?;
        let summary = history::check(history.entries(), &lab.fates(), clock::now())?;
        eprintln!("embedded: {summary}");
        summary.not_empty()
    })
}

#[test]
fn a_worker_that_must_not_start_one_says_what_is_missing() -> Result<()> {
    let output = hats_tests::worker::run(&["--embedded-redis", "never"])?;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("redis-address"), "{output:?}");
    Ok(())
}

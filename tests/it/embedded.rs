//! The embedded Redis: a worker without an address starts one, and everybody can join it by its URL.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::{NAME, STEADY};
use hats_tests::history::{self, History};
use hats_tests::resp::{Client, Value};
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(20);

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
        let line = first.wait_for_line("redis://127.0.0.1:", PATIENCE)?;
        let url: String = line
            .split_once("redis://")
            .context("no url")?
            .1
            .chars()
            .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
            .collect();
        first.wait_for_line("hello from", PATIENCE)?;

        // As redis-cli would.
        let mut client = Client::connect(url.parse()?, PATIENCE)?;
        ensure!(client.ask(&["HGET", "test:Threads:examples/hello.js", "Status"])?.text().is_some());
        let second =
            Worker::start(lab, options("second").argument("--redis-address", &format!("redis://{url}")))?;
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

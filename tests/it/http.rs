//! The settings of scripts' network: each flag reaches the scripts of a real worker.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use hats_tests::web::WebServer;
use hats_tests::worker::{Options, Worker};
use hats_tests::{Lab, clock};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a script that asks for `url` once, and gives the line that it logs.
fn ask(lab: &Lab, options: Options, url: &str) -> Result<String> {
    let script = lab.path().join(format!("{}.js", options.name));
    let source = format!(
        "const r = http.Get({url:?}); console.log('got', r.error ?? `${{r.status}} ${{r.body}}`, 'end');"
    );
    fs::write(&script, source)?;
    let worker = Worker::start(lab, options.argument("--scripts", &script.to_string_lossy()))?;
    let line = worker.wait_for_line(" end", PATIENCE)?;
    worker.drain(PATIENCE)?;
    Ok(line)
}

#[test]
fn egress_rules_are_settings() -> Result<()> {
    Lab::run("egress", |lab| {
        let server = WebServer::start()?;
        let url = format!("{}/greeting", server.url());
        let closed = ask(lab, Options::bare("closed").argument("--deny-net", "private"), &url)?;
        assert!(closed.contains("127.0.0.1 is out of reach for scripts: deny-net has `private`"), "{closed}");
        assert!(server.requests().is_empty());
        let options =
            Options::bare("open").argument("--deny-net", "private").argument("--allow-net", "127.0.0.1");
        let open = ask(lab, options, &url)?;
        assert!(open.contains("200 {\"greeting\""), "{open}");
        let limited = ask(lab, Options::bare("limited").argument("--http-body-limit", "10"), &url)?;
        assert!(limited.contains("the body is longer than the limit of 10 bytes"), "{limited}");
        Ok(())
    })
}

#[test]
fn proxies_of_the_environment_are_used_only_if_asked_for() -> Result<()> {
    Lab::run("proxy", |lab| {
        let proxy = WebServer::start()?;
        let environment = |name: &str| {
            ["HTTP_PROXY", "http_proxy", "ALL_PROXY"]
                .iter()
                .fold(Options::bare(name), |options, key| options.environment(key, &proxy.url()))
                .environment("NO_PROXY", "")
                .environment("no_proxy", "")
        };
        let direct = WebServer::start()?;
        let url = format!("{}/greeting", direct.url());
        let line = ask(lab, environment("direct"), &url)?;
        assert!(line.contains("200"), "{line}");
        assert!(proxy.requests().is_empty());

        let line = ask(lab, environment("proxied").flag("--http-proxy"), "http://name.invalid/greeting")?;
        assert!(line.contains("200"), "{line}");
        let asked = proxy.requests();
        assert!(asked[0].starts_with("GET http://name.invalid/greeting HTTP/1.1\n"), "{asked:?}");
        // What is out of reach is so behind a proxy too.
        let line = ask(lab, environment("refused").flag("--http-proxy"), "http://169.254.169.254/greeting")?;
        assert!(line.contains("out of reach"), "{line}");
        assert_eq!(proxy.requests().len(), 1);
        Ok(())
    })
}

#[test]
fn the_fence_is_sent_if_asked_for() -> Result<()> {
    Lab::run("fence", |lab| {
        let server = WebServer::start()?;
        let url = format!("{}/greeting", server.url());
        ask(lab, Options::bare("plain"), &url)?;
        ask(lab, Options::bare("fenced").flag("--http-fence"), &url)?;
        let requests = server.requests();
        assert!(!requests[0].contains("hats-fence"), "{requests:?}");
        let fence = requests[1].lines().find_map(|line| line.strip_prefix("hats-fence: "));
        let (task, epoch) = fence.and_then(|fence| fence.split_once(";epoch=")).expect("a fence");
        assert!(task.ends_with("/fenced.js"), "{task}");
        assert!(epoch.parse::<u64>().is_ok_and(|epoch| epoch > 0), "{epoch}");
        Ok(())
    })
}

#[test]
fn a_drain_ends_a_request_that_is_not_answered() -> Result<()> {
    Lab::run("drain", |lab| {
        let server = WebServer::start()?;
        let script = lab.path().join("held.js");
        let source = format!(
            "function main() {{ console.log(http.Get('{}/held').error) }} function cleanup() {{ console.log('clean') }}",
            server.url()
        );
        fs::write(&script, source)?;
        let options = Options::bare("held").argument("--drain-timeout", "1s");
        let worker = Worker::start(lab, options.argument("--scripts", &script.to_string_lossy()))?;
        clock::wait_for("the request", PATIENCE, || Ok((!server.requests().is_empty()).then_some(())))?;
        worker.drain(PATIENCE)?;
        let log = fs::read_to_string(worker.log())?;
        assert!(log.contains("clean") && !log.contains("timed out"), "{log}");
        Ok(())
    })
}

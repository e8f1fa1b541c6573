//! Endpoints from files: by the command line, and from a folder that a worker registers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::cluster::NAME;
use hats_tests::redis::RedisServer;
use hats_tests::worker::{Options, Output, Worker, run, run_in};
use hats_tests::{Lab, clock};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `endpoint …` on a cluster.
fn endpoint(redis: SocketAddr, arguments: &[&str]) -> Result<Output> {
    let address = redis.to_string();
    run(&[&["--redis-address", &address, "--cluster-name", NAME, "endpoint"], arguments].concat())
}

/// The same, which must succeed, with its answer in JSON.
fn json(redis: SocketAddr, arguments: &[&str]) -> Result<Value> {
    let output = endpoint(redis, &[arguments, &["--json"]].concat())?;
    ensure!(output.code == 0, "{arguments:?}: {output:?}");
    serde_json::from_str(&output.stdout).with_context(|| format!("{arguments:?}: {output:?}"))
}

fn key(path: &str) -> String {
    format!("{NAME}:Endpoints:{path}")
}

fn paths(redis: SocketAddr) -> Result<Vec<String>> {
    let rows = json(redis, &["list"])?;
    let rows = rows.as_array().context("no list")?.iter();
    Ok(rows.filter_map(|row| row["path"].as_str().map(str::to_owned)).collect())
}

fn write(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, content)?;
    }
    Ok(())
}

#[test]
fn an_endpoint_is_put_listed_shown_disabled_and_removed() -> Result<()> {
    Lab::run("endpoint sub-commands", |lab| {
        let server = RedisServer::start(lab)?;
        let redis = server.address();
        let picture: Vec<u8> = (0..=255).collect();
        write(
            lab.path(),
            &[
                ("hello.html", b"<p><?= request.Path ?></p>"),
                ("api.ts", b"import { a } from './lib/a.js';\nexport default (r: Request) => a;"),
                ("lib/a.js", b"export const a = 'a';"),
                ("app.js", b"document.title = 'a';"),
                ("logo.png", &picture),
            ],
        )?;
        let file = |name: &str| lab.path().join(name).to_string_lossy().into_owned();

        let put = json(redis, &["put", "/hello", &file("hello.html")])?;
        assert_eq!((put["outcome"].as_str(), put["kind"].as_str()), (Some("created"), Some("template")));
        assert_eq!(json(redis, &["put", "/hello", &file("hello.html")])?["outcome"], "unchanged");
        let put =
            ["put", "/hello", &file("hello.html"), "--content-type", "text/plain", "--call-timeout", "5s"];
        assert_eq!(json(redis, &put)?["outcome"], "updated");
        let said = endpoint(redis, &["put", "/api/:id", &file("api.ts")])?;
        assert_eq!((said.code, said.stdout.as_str()), (0, "/api/:id: created as handler\n"));
        assert_eq!(json(redis, &["put", "/app.js", &file("app.js")])?["kind"], "static");
        assert_eq!(json(redis, &["put", "/logo", &file("logo.png"), "--disabled"])?["disabled"], true);

        let fields = server.hash(&key("/hello"))?;
        let of = |field: &str| fields.get(field).map(String::as_str);
        assert_eq!((of("Source"), of("Status")), (Some("<p><?= request.Path ?></p>"), Some("enabled")));
        assert_eq!((of("ContentType"), of("Kind")), (Some("text/plain"), Some("template")));
        assert_eq!((of("CallTimeout"), of("ETag")), (Some("5s"), None));
        let fields = server.hash(&key("/api/:id"))?;
        assert_eq!(fields.get("Module:lib/a.js").map(String::as_str), Some("export const a = 'a';"));
        assert!(fields["Source"].contains("export default (r         ) => a;"), "{fields:?}");
        assert_eq!(server.field(&key("/logo"), "ContentType")?, "image/png");
        assert_eq!(server.field(&key("/logo"), "ETag")?.len(), 40);
        let stored = server.ask(&["HSTRLEN", &key("/logo"), "Source"])?.int();
        assert_eq!(stored, Some(256), "bytes are stored as they are");

        assert_eq!(paths(redis)?, ["/api/:id", "/app.js", "/hello", "/logo"]);
        let table = endpoint(redis, &["list"])?.stdout;
        assert!(
            table.contains("/app.js   enabled   static    text/javascript; charset=utf-8  21"),
            "{table}"
        );
        let shown = json(redis, &["show", "/api/:id"])?;
        assert_eq!(shown["modules"]["lib/a.js"], "export const a = 'a';");
        assert!(endpoint(redis, &["show", "/logo"])?.stdout.contains("256 bytes, which are no text"));

        json(redis, &["enable", "/logo"])?;
        assert_eq!(server.field(&key("/logo"), "Status")?, "enabled");
        json(redis, &["disable", "/hello"])?;
        let again = endpoint(redis, &["put", "/hello", &file("hello.html")])?;
        assert!(again.stdout.contains("unchanged as template (disabled"), "{again:?}");
        assert_eq!(server.field(&key("/hello"), "ContentType")?, "text/plain", "what is not given stays");
        // The type of a picture is not that of the page in its place.
        json(redis, &["put", "/logo", &file("hello.html")])?;
        assert_eq!(server.field(&key("/logo"), "ContentType")?, "");
        assert_eq!(server.field(&key("/logo"), "ETag")?, "");

        // One that was written by hand.
        server.ask(&["HSET", &key("/by/hand"), "Source", "x", "Kind", "page"])?;
        let table = endpoint(redis, &["list"])?.stdout;
        assert!(table.contains("field Kind: \"page\" is not valid"), "{table}");
        json(redis, &["remove", "/by/hand"])?;
        for command in ["show", "enable", "disable", "remove"] {
            let gone = endpoint(redis, &[command, "/by/hand"])?;
            assert!(gone.code == 1 && gone.stderr.contains("there is no endpoint `/by/hand`"), "{gone:?}");
        }
        assert_eq!(paths(redis)?, ["/api/:id", "/app.js", "/hello", "/logo"]);
        Ok(())
    })
}

#[test]
fn an_endpoint_that_cannot_be_served_is_refused_by_what_is_wrong() -> Result<()> {
    Lab::run("refused endpoints", |lab| {
        let server = RedisServer::start(lab)?;
        let large = vec![b'x'; (1 << 20) + 1];
        write(
            lab.path(),
            &[
                ("a.html", b"x"),
                ("plain.js", b"export const a = 1;"),
                ("broken.ts", b"export default (;"),
                ("open.html", b"<p>\n<? if (true) {"),
                ("broken.html", b"<p>\n<? let a = ; ?>"),
                ("latin.html", b"\xe4"),
                ("large.txt", &large),
                ("site/a/large.txt", &large),
            ],
        )?;
        let file = |name: &str| lab.path().join(name).to_string_lossy().into_owned();
        for (arguments, parts) in [
            (vec!["a", &file("a.html")], vec!["must begin with '/'"]),
            (vec!["/a", &file("none.html")], vec!["cannot read", "none.html"]),
            (vec!["/a", &file("latin.html")], vec!["latin.html", "not valid UTF-8"]),
            (vec!["/a", &file("broken.ts")], vec!["broken.ts"]),
            (vec!["/a", &file("open.html")], vec!["open.html: line 2", "not closed"]),
            (vec!["/a", &file("broken.html")], vec!["broken.html is no page: SyntaxError", "broken.html:2"]),
            (vec!["/a", &file("plain.js"), "--kind", "handler"], vec!["plain.js", "no default export"]),
            (vec!["/a", &file("a.html"), "--content-type", "html"], vec!["field ContentType", "html"]),
            (vec!["/a", &file("a.html"), "--memory-limit", "x"], vec!["field MemoryLimit", "x"]),
            (vec!["/a", &file("large.txt")], vec!["1048577 bytes", "SourceLimit"]),
        ] {
            // Nobody is asked for that: there is no Redis at this address.
            let refused =
                endpoint(SocketAddr::from(([127, 0, 0, 1], 1)), &[&["put"], &arguments[..]].concat())?;
            ensure!(refused.code == 2 && refused.stdout.is_empty(), "{arguments:?}: {refused:?}");
            ensure!(parts.iter().all(|part| refused.stderr.contains(part)), "{arguments:?}: {refused:?}");
        }
        ensure!(server.ask(&["KEYS", "*"])?.texts().is_empty(), "something was written");
        let larger = ["put", "/a", &file("large.txt"), "--source-limit", "2MiB"];
        assert_eq!(json(server.address(), &larger)?["outcome"], "created");

        let address = server.address().to_string();
        for (folder, parts) in [
            ("site", ["--endpoints: ", "large.txt", "larger than 1048576 bytes"]),
            ("a.html", ["--endpoints: ", "a.html", "is no folder"]),
        ] {
            let refused = run_in(lab.path(), &["--redis-address", &address, "--endpoints", folder], &[])?;
            ensure!(refused.code == 2, "{refused:?}");
            ensure!(parts.iter().all(|part| refused.stderr.contains(part)), "{refused:?}");
        }
        Ok(())
    })
}

/// Registered at the start, without a word where nothing is new; again when Redis has lost all of them, and not when an
/// operator has removed one.
#[test]
fn a_folder_of_endpoints_is_registered_and_comes_back_when_everything_is_lost() -> Result<()> {
    Lab::run("endpoints of a folder", |lab| {
        let server = RedisServer::start(lab)?;
        let redis = server.address();
        let folder = lab.path().join("site");
        write(
            &folder,
            &[
                ("index.html", b"hello"),
                ("users/[id].html", b"<?= request.Params.id ?>"),
                ("api/now.js", b"import { now } from '../_lib/now.js'; export default () => now();"),
                ("_lib/now.js", b"export const now = () => new Date().toISOString();"),
                ("css/style.css", b"p { color: red }"),
                (".env", b"SECRET=1"),
            ],
        )?;
        let all = ["/", "/api/now", "/css/style.css", "/users/:id"];
        let old = ["HSET", &key("/"), "Source", "old", "Status", "disabled", "CallTimeout", "5s"];
        server.ask(&old)?;
        let site = folder.to_str().context("a path that is no text")?;
        let options = |name: &str| {
            let options = Options::new(name, NAME, &redis.to_string());
            options.argument("--lease-seconds", "2").argument("--endpoints", site)
        };
        let worker = Worker::start(lab, options("w0"))?;
        worker.wait_for_line("its status is disabled", PATIENCE)?;
        worker.wait_for_line("endpoints registered", PATIENCE)?;
        assert_eq!(paths(redis)?, all);
        let fields = server.hash(&key("/"))?;
        let of = |field: &str| fields.get(field).map(String::as_str);
        assert_eq!((of("Source"), of("Status")), (Some("hello"), Some("disabled")));
        assert_eq!((of("CallTimeout"), of("Kind")), (Some("5s"), Some("template")));
        assert_eq!(server.field(&key("/css/style.css"), "ContentType")?, "text/css; charset=utf-8");
        server.ask(&["HSET", &key("/by/hand"), "Source", "stays"])?;

        // Another one with the same folder: nothing is new, and nothing is written or removed.
        json(redis, &["enable", "/"])?;
        let other = Worker::start(lab, options("w1"))?;
        other.wait_for_line("endpoints registered", PATIENCE)?;
        let log = fs::read_to_string(other.log())?;
        assert!(log.contains("new=0 changed=0 same=4"), "{log}");
        assert_eq!(paths(redis)?, ["/", "/api/now", "/by/hand", "/css/style.css", "/users/:id"]);
        other.drain(PATIENCE)?;

        // A session is lost, and so is one endpoint: an operator may have removed it.
        json(redis, &["remove", "/by/hand"])?;
        json(redis, &["remove", "/users/:id"])?;
        for session in server.ask(&["SMEMBERS", &format!("{NAME}:Sessions")])?.texts() {
            server.ask(&["DEL", &format!("{NAME}:Sessions:{session}")])?;
        }
        clock::wait_for("the worker to look what is left", PATIENCE, || {
            Ok(server.commandstats()?.contains_key("hstrlen").then_some(()))
        })?;
        assert_eq!(paths(redis)?, all[..3]);
        server.ask(&["FLUSHALL"])?;
        clock::wait_for("all to be back", PATIENCE * 2, || Ok((paths(redis)? == all).then_some(())))?;
        assert_eq!(server.field(&key("/"), "Status")?, "enabled");
        worker.drain(PATIENCE)?;
        Ok(())
    })
}

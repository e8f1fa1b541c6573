//! Many scripts, slow statements, dead servers, ends of leases, and what may be reached.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicUsize;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::servers::DatabaseServer;
use super::*;

/// For each driver a statement that takes a minute, and how to count those that run. Tests share servers, so each has
/// statements of its own: `seconds` tells them apart.
fn slow(seconds: u32) -> [(&'static str, String, String); 2] {
    [
        (
            "mysql",
            format!("SELECT SLEEP({seconds})"),
            format!(
                "SELECT count(*) n FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP({seconds})%'"
            ),
        ),
        (
            "postgres",
            format!("SELECT pg_sleep({seconds})"),
            format!(
                "SELECT count(*) n FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep({seconds})%'"
            ),
        ),
    ]
}

fn server_of(driver: &str) -> Arc<DatabaseServer> {
    if driver == "mysql" { DatabaseServer::mariadb() } else { DatabaseServer::postgres() }
}

async fn until_running(lanes: &Lanes, source: &str, count: &str, expected: &str) {
    until(&format!("{expected} of {count}"), async || {
        evaluate(lanes, source, &[&format!("db.Query({count:?})[0].n")]).await == [expected]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_scripts_share_few_connections() {
    for (driver, connections, tables) in [
        (
            "mysql",
            "SELECT count(*) n FROM information_schema.processlist WHERE user = 'tester'",
            "CREATE TABLE many (a INT)",
        ),
        (
            "postgres",
            "SELECT count(*) n FROM pg_stat_activity WHERE usename = 'tester' AND backend_type = 'client backend'",
            "CREATE TABLE many (a INT)",
        ),
    ] {
        // One of its own: the connections are counted.
        let server =
            if driver == "mysql" { DatabaseServer::own_mariadb() } else { DatabaseServer::own_postgres() };
        let lanes = lanes_with(Config { connections: NonZeroUsize::new(5).unwrap(), ..Config::default() });
        let source = source(&server.dsn(), driver);
        assert_eq!(evaluate(&lanes, &source, &[&format!("db.Exec({tables:?})")]).await, ["0"]);
        let most = Arc::new(AtomicUsize::new(0));
        let running: Vec<_> = (0..150)
            .map(|n| {
                let (source, most) = (source.clone(), most.clone());
                let count = format!("db.Query({connections:?})[0].n");
                spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
                    vm.load(&source, "test.js").unwrap();
                    for _ in 0..5 {
                        vm.eval(&format!("db.Exec('INSERT INTO many VALUES (?)', {n})")).unwrap();
                    }
                    most.fetch_max(vm.eval(&count).unwrap().parse().unwrap(), Ordering::Relaxed);
                    vm.eval(&format!("db.Query('SELECT count(*) n FROM many WHERE a = ?', {n})[0].n"))
                        .unwrap()
                })
                .1
            })
            .collect();
        for ended in running {
            assert_eq!(ended.await, "5");
        }
        assert!((1..=5).contains(&most.load(Ordering::Relaxed)), "{most:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_scripts_write_to_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let lanes = lanes_with(Config { sqlite_dir: Some(folder.path().to_owned()), ..Config::default() });
    let source = source("many.db", "sqlite");
    assert_eq!(evaluate(&lanes, &source, &["db.Exec('CREATE TABLE many (a INT)')"]).await, ["0"]);
    let running: Vec<_> = (0..100)
        .map(|n| {
            let source = source.clone();
            spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
                vm.load(&source, "test.js").unwrap();
                let insert = format!("db.Exec('INSERT INTO many VALUES (?)', {n}) ?? db.Error");
                let transaction = format!(
                    "db.Exec('BEGIN IMMEDIATE') ?? db.Error, {insert}, db.Exec('COMMIT') ?? db.Error"
                );
                (vm.eval(&insert).unwrap(), vm.eval(&transaction).unwrap())
            })
            .1
        })
        .collect();
    for ended in running {
        assert_eq!(ended.await, ("1".to_owned(), "0".to_owned()));
    }
    assert_eq!(evaluate(&lanes, &source, &["db.Query('SELECT count(*) n FROM many')[0].n"]).await, ["200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_waits_for_a_database_does_not_hold_up_its_lane() {
    let server = DatabaseServer::postgres();
    let config = LanesConfig {
        count: 1,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        #[cfg(feature = "http")]
        http: None,
        #[cfg(feature = "redis")]
        redis: None,
        preload: [].into(),
        sql: Some(Databases::new(Config::default()).unwrap()),
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: Arc::new(|_| {}),
    };
    let lanes = Lanes::start(&config).unwrap();
    let (source, fake) = (source(&server.dsn(), "postgres"), Fake::new());
    let waiting = spawn(&lanes, &fake, Limits::default(), move |vm| {
        // The interrupt may come as early as this.
        vm.load(&source, "test.js")?;
        vm.eval("db.Query('SELECT pg_sleep(60)')")
    });
    // On the same lane; if that were blocked, this would come to no end.
    assert_eq!(evaluate(&lanes, "", &["1 + 1"]).await, ["2"]);
    waiting.0.interrupt();
    assert_eq!(waiting.1.await, Err(ScriptError::Interrupted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_statement_outlasts_a_stop_and_ends_with_an_interrupt_on_the_server_too() {
    for (driver, slow, count) in slow(61) {
        let (server, lanes) = (server_of(driver), some_lanes());
        let source = source(&server.dsn(), driver);
        let (script, statement) = (source.clone(), format!("db.Query({slow:?})"));
        let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(&script, "test.js").unwrap();
            let ended = vm.eval(&statement);
            vm.withdraw_interrupt();
            // For cleanup(): the database can be used again.
            (ended, vm.eval("db.Query('SELECT 1 a')").unwrap())
        });
        until_running(&lanes, &source, &count, "1").await;
        run.0.interrupt_waits();
        assert_eq!(evaluate(&lanes, &source, &["db.Query('SELECT 2 a')"]).await, ["[{ a: 2 }]"]);
        until_running(&lanes, &source, &count, "1").await;
        run.0.interrupt();
        assert_eq!(run.1.await, (Err(ScriptError::Interrupted), "[{ a: 1 }]".to_owned()));
        until_running(&lanes, &source, &count, "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_with_the_lease() {
    for (driver, slow, count) in slow(62) {
        let (server, lanes, fake) = (server_of(driver), some_lanes(), Fake::new());
        let source = source(&server.dsn(), driver);
        let (script, statement) = (source.clone(), format!("db.Query({slow:?})"));
        let run = spawn(&lanes, &fake, Limits::default(), move |vm| {
            vm.load(&script, "test.js").unwrap();
            vm.eval(&statement)
        });
        until_running(&lanes, &source, &count, "1").await;
        // Nobody tells the script: the statement itself looks.
        fake.trusted_ms.store(0, Ordering::Relaxed);
        assert_eq!(run.1.await, Err(ScriptError::Lost));
        until_running(&lanes, &source, &count, "0").await;
        // The next one is not even begun.
        let effects = fake.effects.load(Ordering::Relaxed);
        let refused = spawn(&lanes, &fake, Limits::default(), |vm| vm.load("1", "test.js"));
        assert_eq!(refused.1.await, Err(ScriptError::Lost));
        assert_eq!(fake.effects.load(Ordering::Relaxed), effects);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_had_to_wait_passes_the_gate_again() {
    let server = DatabaseServer::postgres();
    let lanes = lanes_with(Config { connections: NonZeroUsize::MIN, ..Config::default() });
    let source = source(&server.dsn(), "postgres");
    assert_eq!(evaluate(&lanes, &source, &["db.Exec('CREATE TABLE gated (a INT)')"]).await, ["0"]);
    let (script, (begun, has_begun), (release, released)) =
        (source.clone(), tokio::sync::oneshot::channel(), std::sync::mpsc::channel::<()>());
    let holder = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&script, "test.js").unwrap();
        vm.eval("db.Exec('BEGIN')").unwrap();
        begun.send(()).unwrap();
        released.recv().unwrap();
        vm.eval("db.Exec('ROLLBACK')").unwrap()
    });
    has_begun.await.unwrap();
    let (script, fake) = (source.clone(), Fake::new());
    let waiter = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load(&script, "test.js").unwrap();
        vm.eval("db.Exec('INSERT INTO gated VALUES (1)')")
    });
    let seen = fake.clone();
    until("the statement waits for its turn", async || seen.effects.load(Ordering::Relaxed) > 0).await;
    fake.trusted_ms.store(0, Ordering::Relaxed);
    release.send(()).unwrap();
    assert_eq!(holder.1.await, "0");
    assert_eq!(waiter.1.await, Err(ScriptError::Lost));
    assert_eq!(
        evaluate(&lanes, &source, &["db.Query('SELECT a FROM gated')", "db.Exec('DROP TABLE gated')"]).await,
        ["[]", "0"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_an_error_and_one_that_is_back_is_found() {
    for (driver, slow, _) in slow(63) {
        let server =
            if driver == "mysql" { DatabaseServer::own_mariadb() } else { DatabaseServer::own_postgres() };
        let (source, lanes) = (source(&server.dsn(), driver), some_lanes());
        let (script, statement) = (source.clone(), format!("db.Query({slow:?})"));
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(&script, "test.js").unwrap();
            assert_eq!(vm.eval("db.Ping()").unwrap(), "undefined");
            begun.send(()).unwrap();
            let killed = (vm.eval(&statement).unwrap(), vm.eval("db.Error").unwrap());
            (killed, vm.eval("db.Ping()").unwrap())
        });
        has_begun.await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.kill();
        let ((result, error), ping) = run.1.await;
        assert_eq!(result, "null");
        assert!(!error.is_empty() && error != "undefined", "{error}");
        assert_ne!(ping, "undefined");
        server.start_again();
        assert_eq!(
            evaluate(&lanes, &source, &["db.Ping()", "db.Query('SELECT 1 a')"]).await,
            ["undefined", "[{ a: 1 }]"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_killed_is_an_error_of_its_statement_alone() {
    for (driver, slow, count) in slow(64) {
        let (server, lanes) = (server_of(driver), some_lanes());
        let source = source(&server.dsn(), driver);
        let (script, statement) = (source.clone(), format!("db.Query({slow:?})"));
        let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(&script, "test.js").unwrap();
            let killed = (vm.eval(&statement).unwrap(), vm.eval("db.Error").unwrap());
            (killed, vm.eval("db.Query('SELECT 1 a')").unwrap())
        });
        until_running(&lanes, &source, &count, "1").await;
        let kill = if driver == "mysql" {
            "db.Exec('KILL ' + db.Query(\"SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(64)%'\")[0].id)"
        } else {
            "db.Query(\"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(64)%' AND state = 'active'\")"
        };
        evaluate(&lanes, &source, &[kill]).await;
        let ((result, error), after) = run.1.await;
        assert_eq!((result.as_str(), after.as_str()), ("null", "[{ a: 1 }]"), "{error}");
        assert!(error != "undefined", "{error}");
    }
}

/// Servers that accept and say nothing, that go away in the middle, or that are no databases.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_an_error_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().port();
    let (kept, mut keeping) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = kept.send(stream);
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let lanes = some_lanes();
    for (dsn, driver) in [
        (format!("u:p@tcp(127.0.0.1:{silent})/d?timeout=200ms"), "mysql"),
        (format!("postgres://u@127.0.0.1:{silent}/d?connect_timeout=0.2"), "postgres"),
    ] {
        let shown = evaluate(&lanes, &source(&dsn, driver), &["db.Ping()"]).await;
        assert_eq!(shown, ["no connection to the database within 200ms"], "{dsn}");
    }
    for (dsn, driver) in [
        (format!("u:p@tcp(127.0.0.1:{other})/d"), "mysql"),
        (format!("postgres://u@127.0.0.1:{other}/d"), "postgres"),
        (format!("postgres://u@127.0.0.1:{other}/d?sslmode=disable"), "postgres"),
        ("u:p@tcp(127.0.0.1:1)/d".to_owned(), "mysql"),
        ("postgres://u@absent.invalid/d".to_owned(), "postgres"),
        ("u@unix(/no/such/socket)/d".to_owned(), "mysql"),
    ] {
        let shown = evaluate(&lanes, &source(&dsn, driver), &["db.Ping()"]).await;
        assert!(shown[0].len() > 5 && shown[0] != "undefined", "{dsn}: {}", shown[0]);
    }
    assert!(keeping.recv().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_any_more_is_an_error() {
    let (server, lanes) = (DatabaseServer::own_mariadb(), some_lanes());
    let source = source(&format!("{}?timeout=500ms", server.dsn()), "mysql");
    let (script, (next, go_on)) = (source.clone(), std::sync::mpsc::channel::<()>());
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&script, "test.js").unwrap();
        // Slow, and all the same there.
        assert_eq!(vm.eval("db.Query('SELECT SLEEP(1.2) s')").unwrap(), "[{ s: 0 }]");
        ready.send(()).unwrap();
        go_on.recv().unwrap();
        [vm.eval("db.Query('SELECT 1')").unwrap(), vm.eval("db.Error").unwrap()]
    });
    is_ready.await.unwrap();
    server.freeze();
    next.send(()).unwrap();
    assert_eq!(run.1.await, ["null", "the database does not answer any more"]);
    server.thaw();
    assert_eq!(evaluate(&lanes, &source, &["db.Ping()"]).await, ["undefined"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_in_use_is_no_reason_to_wait_for_ever() {
    let server = DatabaseServer::postgres();
    let lanes = lanes_with(Config { connections: NonZeroUsize::MIN, ..Config::default() });
    let source = source(&server.dsn(), "postgres");
    let limits = Limits { call_timeout: Some(Duration::from_millis(200)), ..Limits::default() };
    let run = spawn(&lanes, &Fake::new(), limits, move |vm| {
        vm.load(&source, "test.js").unwrap();
        vm.eval("db.Exec('BEGIN')").unwrap();
        let other = format!("{}.Ping()", source.trim_start_matches("const db = ").trim_end_matches(';'));
        let ended = vm.eval(&other);
        vm.eval("db.Exec('ROLLBACK')").unwrap();
        (ended, vm.eval(&other))
    });
    let (ended, after) = run.1.await;
    assert_eq!(ended, Err(ScriptError::Timeout(Duration::from_millis(200))));
    assert_eq!(after, Ok("undefined".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_rules_allow_is_reached() {
    let server = DatabaseServer::postgres();
    let port = server.port;
    let deny =
        |allow: &str, deny: &str| Config { egress: Egress::parse(allow, deny).unwrap(), ..Config::default() };
    let socket = server.folder.path().join(format!(".s.PGSQL.{port}")).display().to_string();
    for (config, dsn, driver, expected) in [
        (
            deny("", "127.0.0.0/8"),
            server.dsn(),
            "postgres",
            "127.0.0.1 is out of reach for scripts: deny-net has `127.0.0.0/8`",
        ),
        (
            deny("", "private"),
            format!("u@tcp(localhost:{port})/d"),
            "mysql",
            "is out of reach for scripts: deny-net has `private`",
        ),
        (
            deny("", "private"),
            format!("u@tcp([::ffff:127.0.0.1]:{port})/d"),
            "mysql",
            "is out of reach for scripts: deny-net has `private`",
        ),
        (
            deny("", "private"),
            format!("u@unix({socket})/d"),
            "mysql",
            "127.0.0.1 is out of reach for scripts: deny-net has `private`",
        ),
        (
            deny("", "localhost"),
            format!("postgres://u@localhost:{port}/d"),
            "postgres",
            "localhost is out of reach for scripts: deny-net has `localhost`",
        ),
        (
            deny("", "private"),
            format!("host=example.org hostaddr=127.0.0.1 port={port} user=u"),
            "postgres",
            "127.0.0.1 is out of reach for scripts: deny-net has `private`",
        ),
        (
            Config::default(),
            "postgres://u@169.254.169.254/d".to_owned(),
            "postgres",
            "169.254.169.254 is out of reach for scripts",
        ),
        (deny("127.0.0.1", "*"), server.dsn(), "postgres", "undefined"),
    ] {
        let shown = evaluate(&lanes_with(config), &source(&dsn, driver), &["db.Ping()"]).await;
        assert!(shown[0].contains(expected), "{dsn}: {}", shown[0]);
    }
}

/// Closes what a peer sends after a while, as a firewall does that forgets: whoever uses the connection next finds out.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_nobody_used_it_is_replaced() {
    let server = DatabaseServer::mariadb();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (to, (cut, _)) = (server.port, tokio::sync::broadcast::channel::<()>(4));
    let cutter = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut cut = cutter.subscribe();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut from, &mut server) => {}
                    _ = cut.recv() => {}
                }
            });
        }
    });
    let (source, (next, go_on)) = (source(&server.dsn_at(port), "mysql"), std::sync::mpsc::channel::<()>());
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let lanes = some_lanes();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js").unwrap();
        let before = vm.eval("db.Query('SELECT CONNECTION_ID() id')[0].id").unwrap();
        ready.send(()).unwrap();
        go_on.recv().unwrap();
        (before, vm.eval("db.Query('SELECT CONNECTION_ID() id')[0].id").unwrap())
    });
    is_ready.await.unwrap();
    cut.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    next.send(()).unwrap();
    let (before, after) = run.1.await;
    assert_ne!(before, after);
}

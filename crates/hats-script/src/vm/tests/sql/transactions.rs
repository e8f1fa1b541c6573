//! Transactions, on all three databases.

use super::servers::DatabaseServer;
use super::*;

const GONE: &str = "the transaction is gone, and nothing of it was kept: ROLLBACK before anything else";

/// Each database, with a table of its own for the test.
async fn on_all(name: &str, mut test: impl AsyncFnMut(&Lanes, &str, &str)) {
    let (mariadb, postgres) = (DatabaseServer::mariadb(), DatabaseServer::postgres());
    let folder = tempfile::tempdir().unwrap();
    let lanes = lanes_with(Config { sqlite_dir: Some(folder.path().to_owned()), ..Config::default() });
    for (dsn, driver) in [
        (mariadb.dsn(), "mysql"),
        (postgres.dsn(), "postgres"),
        ("transactions.db".to_owned(), "sqlite"),
        (":memory:".to_owned(), "sqlite"),
    ] {
        let source = source(&dsn, driver);
        let table = format!(
            "{source} const again = () => sql.New({dsn:?}, {driver:?}); db.Exec('DROP TABLE IF EXISTS {name}'); db.Exec('CREATE TABLE {name} (a INT)');"
        );
        test(&lanes, &table, driver).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_between_begin_and_its_end_are_one() {
    on_all("tx", async |lanes, source, driver| {
        let is_memory = source.contains(":memory:");
        check(
            lanes,
            source,
            &[
                ("db.Exec('COMMIT')", "undefined"),
                ("db.Error", "there is no transaction: BEGIN comes first"),
                ("db.Exec('SAVEPOINT s')", "undefined"),
                ("db.Exec('BEGIN')", "0"),
                ("db.Exec('BEGIN')", "undefined"),
                ("db.Error", "there is a transaction already: COMMIT or ROLLBACK comes first"),
                ("db.Exec('INSERT INTO tx VALUES (?)', 1)", "1"),
                ("db.Query('SELECT a FROM tx')", "[{ a: 1 }]"),
                ("globalThis.other = again(), 1", "1"),
                if is_memory { ("1", "1") } else { ("other.Query('SELECT a FROM tx')", "[]") },
                ("db.Exec('ROLLBACK')", "0"),
                ("db.Query('SELECT a FROM tx')", "[]"),
                (if driver == "sqlite" { "db.Exec('BEGIN')" } else { "db.Exec('START TRANSACTION')" }, "0"),
                ("db.Exec('INSERT INTO tx VALUES (1)')", "1"),
                ("db.Exec('SAVEPOINT s')", "0"),
                ("db.Exec('INSERT INTO tx VALUES (2)')", "1"),
                ("db.Exec('ROLLBACK TO SAVEPOINT s')", "0"),
                // What would last longer than a statement is fine in here.
                ("db.Exec('CREATE TEMPORARY TABLE only_here (a INT)')", "0"),
                ("db.Exec('INSERT INTO only_here SELECT a FROM tx')", "1"),
                ("db.Query('SELECT a FROM only_here')", "[{ a: 1 }]"),
                ("db.Exec('COMMIT')", "0"),
                ("other.Query('SELECT a FROM tx')", if is_memory { "null" } else { "[{ a: 1 }]" }),
                // The connection with it is gone, or nobody else's.
                (
                    "db.Query('SELECT count(*) FROM only_here') === null",
                    if is_memory { "false" } else { "true" },
                ),
                ("db.Exec('BEGIN; INSERT INTO tx VALUES (3)')", "undefined"),
                ("db.Error", "one statement at a time"),
            ],
        )
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_left_open_is_rolled_back() {
    on_all("unfinished", async |lanes, source, _| {
        if source.contains(":memory:") {
            return;
        }
        let cases = [
            ("globalThis.other = again(), other.Exec('BEGIN')", "0"),
            ("other.Exec('INSERT INTO unfinished VALUES (1)')", "1"),
            ("other.Close()", "undefined"),
            ("db.Query('SELECT a FROM unfinished')", "[]"),
            // Forgotten, and at the end of the script.
            ("globalThis.other = again(), other.Exec('BEGIN') + other.Exec('INSERT INTO unfinished VALUES (1)')", "1"),
            ("globalThis.other = null", "null"),
            ("db.Exec('BEGIN') + db.Exec('INSERT INTO unfinished VALUES (2)')", "1"),
        ];
        check(lanes, source, &cases).await;
        let looking = source.split("db.Exec").next().unwrap().to_owned();
        until("rolled back", async || {
            let shown = evaluate(lanes, &looking, &["db.Query('SELECT a FROM unfinished')"]).await;
            shown == ["[]"]
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_transaction_is_gone_until_it_is_rolled_back() {
    on_all("gone", async |lanes, source, driver| {
        let slow = match driver {
            "mysql" => "db.Query('SELECT SLEEP(60)')",
            "postgres" => "db.Query('SELECT pg_sleep(60)')",
            _ => "db.Query('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n')",
        };
        let source = source.to_owned();
        let run = spawn(lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(&source, "test.js").unwrap();
            assert_eq!(vm.eval("db.Exec('BEGIN') + db.Exec('INSERT INTO gone VALUES (1)')").unwrap(), "1");
            vm.set_call_timeout(Some(Duration::from_millis(100)));
            assert_eq!(vm.eval(slow), Err(ScriptError::Timeout(Duration::from_millis(100))));
            vm.set_call_timeout(None);
            [
                "db.Exec('INSERT INTO gone VALUES (2)')",
                "db.Error",
                "db.Exec('COMMIT')",
                "db.Error",
                "db.Query('SELECT a FROM gone')",
                "db.Exec('BEGIN') + db.Exec('INSERT INTO gone VALUES (3)') + db.Exec('COMMIT')",
                "db.Query('SELECT a FROM gone')",
            ]
            .map(|expression| vm.eval(expression).unwrap())
        });
        assert_eq!(run.1.await, ["undefined", GONE, "undefined", GONE, "[]", "1", "[{ a: 3 }]"], "{driver}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_rolls_back_is_known() {
    let postgres = DatabaseServer::postgres();
    check(
        &some_lanes(),
        &source(&postgres.dsn(), "postgres"),
        &[
            ("db.Exec('CREATE TABLE failing (a INT)')", "0"),
            ("db.Exec('BEGIN') + db.Exec('INSERT INTO failing VALUES (1)')", "1"),
            ("db.Query('SELECT 1/0')", "null"),
            ("db.Query('SELECT 1')", "null"),
            (
                "db.Error",
                "current transaction is aborted, commands ignored until end of transaction block (25P02)",
            ),
            // Postgres itself would call this a success.
            ("db.Exec('COMMIT')", "undefined"),
            ("db.Error", "a statement of the transaction had failed, so it was rolled back"),
            ("db.Query('SELECT a FROM failing')", "[]"),
            ("db.Exec('BEGIN') + db.Exec('INSERT INTO failing VALUES (1)') + db.Exec('SAVEPOINT s')", "1"),
            ("db.Query('SELECT 1/0')", "null"),
            ("db.Exec('ROLLBACK TO s') + db.Exec('COMMIT')", "0"),
            ("db.Query('SELECT a FROM failing')", "[{ a: 1 }]"),
            // Not sent, so the transaction is well.
            ("db.Exec('BEGIN') + db.Exec('INSERT INTO failing VALUES (2)')", "1"),
            ("db.Query('SELECT ?::int', 1.5)", "null"),
            ("db.Exec('COMMIT')", "0"),
            // Settings in a transaction do not get out.
            ("db.Exec('BEGIN') + db.Exec(\"SET search_path = nowhere\") + db.Exec('COMMIT')", "0"),
            ("db.Query('SELECT count(*) n FROM failing')", "[{ n: 2 }]"),
            ("db.Exec('DROP TABLE failing')", "0"),
        ],
    )
    .await;

    // Two transactions that wait for each other: the server ends one of them as a whole.
    let mariadb = DatabaseServer::mariadb();
    let lanes = some_lanes();
    let source = source(&mariadb.dsn(), "mysql");
    let prepare = [
        "db.Exec('CREATE TABLE deadly (a INT PRIMARY KEY, b INT)')",
        "db.Exec('INSERT INTO deadly VALUES (1, 0), (2, 0)')",
    ];
    assert_eq!(evaluate(&lanes, &source, &prepare).await, ["0", "2"]);
    let (one, two) = (source.clone(), source.clone());
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let (mine, theirs) = (barrier.clone(), barrier);
    let fight = |source: String, barrier: Arc<std::sync::Barrier>, first: u32, second: u32| {
        move |vm: &mut SyncVm<'_>| {
            vm.load(&source, "test.js").unwrap();
            vm.eval(&format!("db.Exec('BEGIN') + db.Exec('UPDATE deadly SET b = 1 WHERE a = {first}')"))
                .unwrap();
            // Each on a lane of its own.
            barrier.wait();
            let updated = vm.eval(&format!("db.Exec('UPDATE deadly SET b = 1 WHERE a = {second}')")).unwrap();
            let error = vm.eval("db.Error").unwrap();
            let after = vm.eval("db.Exec('INSERT INTO deadly VALUES (3, 0)')").unwrap();
            let rolled_back = vm.eval("db.Exec('ROLLBACK')").unwrap();
            (updated, error, after, rolled_back)
        }
    };
    let (one, two) = (
        spawn(&lanes, &Fake::new(), Limits::default(), fight(one, mine, 1, 2)),
        spawn(&lanes, &Fake::new(), Limits::default(), fight(two, theirs, 2, 1)),
    );
    let (one, two) = tokio::join!(one.1, two.1);
    let (loser, winner) = if one.0 == "undefined" { (one, two) } else { (two, one) };
    assert_eq!(winner.0, "1");
    assert!(loser.1.starts_with("1213 (40001)") && loser.1.ends_with(GONE), "{}", loser.1);
    assert_eq!((loser.2.as_str(), loser.3.as_str()), ("undefined", "0"));
    assert_eq!(
        evaluate(
            &lanes,
            &source,
            &["db.Query('SELECT count(*) n FROM deadly')", "db.Exec('DROP TABLE deadly')"]
        )
        .await,
        ["[{ n: 2 }]", "0"]
    );
}

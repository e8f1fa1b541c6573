//! SQLite, and what is the same for all databases.

use super::*;

fn memory() -> String {
    source(":memory:", "sqlite")
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_named() {
    check(
        &some_lanes(),
        &memory(),
        &[
            ("sql.New()", "TypeError: sql.New: argument 1 must be a string, not undefined"),
            ("sql.New(':memory:')", "TypeError: sql.New: argument 2 must be a string, not undefined"),
            (
                "sql.New('x', 'oracle')",
                "TypeError: sql.New: argument 2 must be \"mysql\", \"postgres\" or \"sqlite\", not \"oracle\"",
            ),
            (
                "sql.New('user:secret@host', 'mysql')",
                "TypeError: sql.New: argument 1 is no DSN for mysql: the / before the name of the database is missing",
            ),
            ("db.Query()", "TypeError: db.Query: argument 1 must be a string, not undefined"),
            ("db.Exec(7)", "TypeError: db.Exec: argument 1 must be a string, not 7"),
            (
                "db.Query('SELECT ?', {})",
                "TypeError: db.Query: argument 2 must be a string, number, bigint, boolean, null, undefined, Date or Uint8Array, not an object",
            ),
            (
                "db.Exec('SELECT ?, ?', 1, [1])",
                "TypeError: db.Exec: argument 3 must be a string, number, bigint, boolean, null, undefined, Date or Uint8Array, not an array",
            ),
            (
                "db.Query('SELECT ?', () => 1)",
                "TypeError: db.Query: argument 2 must be a string, number, bigint, boolean, null, undefined, Date or Uint8Array, not a function",
            ),
            (
                "db.Query('SELECT ?', Object.create(Date.prototype))",
                "TypeError: db.Query: argument 2 must be a string, number, bigint, boolean, null, undefined, Date or Uint8Array, not an object",
            ),
            ("db.Query('SELECT ?', new Date(NaN))", "TypeError: db.Query: argument 2 must be a valid Date, not an object"),
            (
                "db.Query('SELECT ?', ...Array(1000).fill('x'.repeat(1 << 20)))",
                "RangeError: db.Query: the arguments are longer than the script's heap limit of 67108864 bytes",
            ),
            ("db.Error", "undefined"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_kept_until_the_next_call_goes_well() {
    check(
        &some_lanes(),
        &memory(),
        &[
            ("Object.keys(db).join()", "Ping,Close,Query,Exec,Error"),
            ("db.Ping()", "undefined"),
            ("db.Query('SELECT absent')", "null"),
            ("db.Error", "no such column: absent"),
            ("db.Exec('NONSENSE')", "undefined"),
            ("db.Error", "near \"NONSENSE\": syntax error"),
            ("db.Exec('CREATE TABLE t (a)')", "0"),
            ("db.Error", "undefined"),
            ("db.Query('SELECT ?')", "null"),
            ("db.Error", "the statement has 1 placeholder, and 0 arguments are given"),
            ("db.Query('SELECT 1', 2)", "null"),
            ("db.Error", "the statement has 0 placeholders, and 1 argument is given"),
            ("db.Query('SELECT 1; SELECT 2')", "null"),
            ("db.Error", "one statement at a time"),
            ("db.Query('SELECT 1; -- and no more')", "[{ 1: 1 }]"),
            ("db.Query('')", "[]"),
            ("db.Query('SELECT 1 a\\0; SELECT 2')", "null"),
            ("db.Error", "the statement has a zero character in it"),
            ("db.Exec(' -- nothing')", "0"),
            ("db.Close()", "undefined"),
            ("db.Query('SELECT 1')", "null"),
            ("db.Error", "the database is closed"),
            ("db.Ping()", "the database is closed"),
            ("db.Close()", "undefined"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_the_line_of_a_failure() {
    let lanes = some_lanes();
    let source = memory() + "db.Query('SELECT absent'); console.log('ended')";
    let run = spawn(&lanes, &Fake::job(), Limits::default(), move |vm| {
        vm.run_once(&source.as_str().into(), "test.js", None).log
    });
    assert_eq!(run.1.await, ["warn: db.Query: no such column: absent", "ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_and_go_as_the_table_says() {
    check(
        &some_lanes(),
        &memory(),
        &[
            (
                "db.Query('SELECT 1 a, -1.5 b, NULL c, \\'text ä 😀\\' d, x\\'00ff07\\' e, 9007199254740991 f, 9007199254740992 g, -9223372036854775808 h')",
                "[{ a: 1, b: -1.5, c: null, d: \"text ä 😀\", e: Uint8Array(3) [0, 255, 7], f: 9007199254740991, g: 9007199254740992n, h: -9223372036854775808n }]",
            ),
            ("typeof db.Query('SELECT 9007199254740991 a')[0].a", "number"),
            (
                "db.Query('SELECT ? a, ? b, ? c, ? d, ? e, ? f', 1, -1.5, null, undefined, true, false)",
                "[{ a: 1, b: -1.5, c: null, d: null, e: 1, f: 0 }]",
            ),
            (
                "db.Query('SELECT ? a, typeof(?) b, ? c', 'ä😀\\0z', '5', new Uint8Array([0, 255]))",
                "[{ a: \"ä😀\\0z\", b: \"text\", c: Uint8Array(2) [0, 255] }]",
            ),
            (
                "db.Query('SELECT ? a, ? b, typeof(?) c, typeof(?) d', 9223372036854775807n, -9223372036854775808n, 5, 5.5)",
                "[{ a: 9223372036854775807n, b: -9223372036854775808n, c: \"integer\", d: \"real\" }]",
            ),
            ("db.Query('SELECT ?', 9223372036854775808n)", "null"),
            ("db.Error", "argument 2: 9223372036854775808 is out of range: integers have 64 bits here"),
            ("db.Query('SELECT ?', NaN)", "null"),
            ("db.Error", "argument 2: NaN is no number to this database"),
            (
                "db.Query('SELECT ? a, ? b', Infinity, new Date(Date.UTC(2024, 1, 29, 13, 4, 5, 678)))",
                "[{ a: Infinity, b: \"2024-02-29 13:04:05.678\" }]",
            ),
            // Bytes that are no text, in a column of text.
            ("db.Query('SELECT CAST(x\\'ff41\\' AS TEXT) a')", "[{ a: Uint8Array(2) [255, 65] }]"),
            ("db.Query('SELECT \\'\\' a, x\\'\\' b')", "[{ a: \"\", b: Uint8Array(0) [] }]"),
            // Columns of one name: the last one counts. And names that mean something to JavaScript.
            ("db.Query('SELECT 1 a, 2 a')", "[{ a: 2 }]"),
            ("Object.entries(db.Query('SELECT 1 __proto__, 2 b')[0]).join(';')", "__proto__,1;b,2"),
            ("'toString' in db.Query('SELECT 1 __proto__')[0]", "true"),
            ("db.Exec('CREATE TABLE t (id INTEGER PRIMARY KEY, a)')", "0"),
            ("db.Exec('INSERT INTO t (a) VALUES (?), (?), (?)', 'x', 'y', 'z')", "3"),
            ("db.Exec('UPDATE t SET a = a')", "3"),
            ("db.Exec('SELECT * FROM t')", "0"),
            ("db.Exec('CREATE INDEX i ON t (a)')", "0"),
            ("db.Query('INSERT INTO t (a) VALUES (1) RETURNING id, a')", "[{ id: 4, a: 1 }]"),
            ("db.Exec('INSERT INTO t (a) VALUES (2) RETURNING id')", "1"),
            ("db.Exec('DELETE FROM t WHERE id > ?', 3)", "2"),
            ("db.Query('SELECT count(*) n FROM t WHERE a IN (?, ?)', 'x', 'y')", "[{ n: 2 }]"),
            ("db.Query('DELETE FROM t')", "[]"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_and_texts_come_back_as_they_went() {
    check(
        &some_lanes(),
        &memory(),
        &[
            ("db.Exec('CREATE TABLE t (a, b)')", "0"),
            ("globalThis.blob = new Uint8Array(3_000_000).map((_, n) => n * 7), 1", "1"),
            ("db.Exec('INSERT INTO t VALUES (?, ?)', blob, 'ä'.repeat(1_000_000))", "1"),
            ("globalThis.row = db.Query('SELECT * FROM t')[0], row.a.length", "3000000"),
            ("row.a.every((byte, n) => byte === blob[n])", "true"),
            ("row.b === 'ä'.repeat(1_000_000)", "true"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_too_large_is_an_error() {
    let too_large = "the result is larger than 33554432 bytes, half of the script's heap limit (MemoryLimit): ask for fewer rows or columns, or for a part of them at a time";
    check(
        &some_lanes(),
        &memory(),
        &[
            ("db.Query('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, \\'text\\' FROM n')", "null"),
            ("db.Error", too_large),
            ("db.Query('SELECT zeroblob(60000000)')", "null"),
            ("db.Error", too_large),
            ("db.Query('SELECT zeroblob(1000000000)')", "null"),
            ("db.Error", "string or blob too big"),
            ("db.Query('SELECT randomblob(?) || randomblob(?)', 60e6, 60e6)", "null"),
            ("db.Error", "string or blob too big"),
            // As much as is said, and the script is well.
            ("db.Query('SELECT zeroblob(33000000) a')[0].a.length", "33000000"),
            ("db.Query('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000) SELECT i FROM n').length", "200000"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_memory_is_its_handles_own_and_no_larger_than_the_heap() {
    check(
        &some_lanes(),
        &memory(),
        &[
            ("db.Exec('CREATE TABLE t (a)')", "0"),
            ("globalThis.other = sql.New(':memory:', 'sqlite'), other.Query('SELECT * FROM t')", "null"),
            ("other.Error", "no such table: t"),
            ("db.Exec('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT zeroblob(100000) FROM n')", "undefined"),
            ("db.Error", "database or disk is full"),
            ("db.Query('SELECT count(*) n FROM t')", "[{ n: 0 }]"),
            ("db.Exec('PRAGMA max_page_count = 1000000000')", "undefined"),
            ("db.Error", "PRAGMA max_page_count cannot be given a value here: it would last longer than the statement"),
            ("db.Exec('PRAGMA page_size = 65536')", "undefined"),
            // The connection is nobody else's.
            ("db.Exec('PRAGMA foreign_keys = OFF')", "0"),
            ("db.Query('PRAGMA foreign_keys')", "[{ foreign_keys: 0 }]"),
            ("db.Exec('CREATE TEMP TABLE u (a)')", "0"),
            ("db.Exec('INSERT INTO u VALUES (1)')", "1"),
            ("db.Exec('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO u SELECT zeroblob(100000) FROM n')", "undefined"),
            ("db.Error", "database or disk is full"),
            ("globalThis.more = [1, 2].map(() => sql.New(':memory:', 'sqlite')), more.map(one => one.Ping())", "[undefined, undefined]"),
            ("sql.New(':memory:', 'sqlite').Ping()", "a script may have 4 databases in memory open at once: close one of them"),
            ("other.Close(), sql.New(':memory:', 'sqlite').Ping()", "undefined"),
            ("globalThis.servers = Array.from({ length: 61 }, (_, n) => sql.New('u@tcp(127.0.0.1:1)/' + n, 'mysql')), servers[60].Ping().slice(0, 14)", "cannot connect"),
            ("sql.New(':memory:', 'sqlite').Ping()", "a script may have 64 databases open at once: close one of them"),
            ("servers[0].Close(), sql.New(':memory:', 'sqlite').Ping()", "undefined"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_shared_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let lanes = lanes_with(Config { sqlite_dir: Some(folder.path().to_owned()), ..Config::default() });
    check(
        &lanes,
        &source("app.db", "sqlite"),
        &[
            ("db.Exec('CREATE TABLE t (a)')", "0"),
            ("db.Exec('INSERT INTO t VALUES (1)')", "1"),
            ("sql.New('app.db', 'sqlite').Query('SELECT * FROM t')", "[{ a: 1 }]"),
            ("sql.New('sqlite://app.db?mode=ro', 'sqlite').Query('SELECT * FROM t')", "[{ a: 1 }]"),
            ("globalThis.ro = sql.New('file:app.db?mode=ro', 'sqlite'), ro.Exec('DELETE FROM t')", "undefined"),
            ("ro.Error", "attempt to write a readonly database"),
            ("sql.New('file:absent.db?mode=rw', 'sqlite').Ping().slice(0, 60)", "the database cannot be opened: unable to open database file:"),
            ("db.Query('PRAGMA journal_mode = wal')", "[{ journal_mode: \"wal\" }]"),
            ("db.Query('PRAGMA journal_mode = off')", "null"),
            ("db.Exec('PRAGMA user_version = 7')", "0"),
            ("db.Query('PRAGMA user_version')", "[{ user_version: 7 }]"),
            ("db.Exec('VACUUM')", "0"),
            ("db.Query('PRAGMA integrity_check(1)')", "[{ integrity_check: \"ok\" }]"),
            // What would last longer than the statement.
            ("db.Exec('PRAGMA foreign_keys = OFF')", "undefined"),
            ("db.Exec('CREATE TEMP TABLE u (a)')", "undefined"),
            ("db.Error", "this would last longer than the statement: do it between BEGIN and COMMIT, where all statements go over one connection"),
            ("db.Exec('CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET a = a + 1; SELECT 1; END')", "0"),
            ("db.Exec('CREATE TRIGGER h AFTER INSERT ON t BEGIN SELECT 1; END; SELECT 1; SELECT 2')", "undefined"),
            ("db.Error", "one statement at a time"),
            ("db.Exec('INSERT INTO t VALUES (1)')", "1"),
            ("db.Query('SELECT a FROM t')", "[{ a: 2 }, { a: 2 }]"),
        ],
    )
    .await;
    assert!(folder.path().join("app.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_closed_with_the_scripts_that_had_them_open() {
    let folder = tempfile::tempdir().unwrap();
    let databases =
        Databases::new(Config { sqlite_dir: Some(folder.path().to_owned()), ..Config::default() }).unwrap();
    let lanes = lanes_of(databases.clone());
    let open = || {
        let handles = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let files = handles.filter_map(|handle| std::fs::read_link(handle.path()).ok());
        files.filter(|file| file.starts_with(folder.path())).count()
    };
    for n in 0..20 {
        let source = source("app.db", "sqlite");
        let cases = [
            "db.Exec('BEGIN')",
            "db.Exec('CREATE TABLE IF NOT EXISTS t (a)')",
            "db.Query('SELECT * FROM t')",
        ];
        assert_eq!(evaluate(&lanes, &source, &cases).await, ["0", "0", "[]"], "{n}");
    }
    until("the files are closed", async || {
        databases.close().await;
        open() == 0
    })
    .await;
    // What was left open was not kept.
    let shown = evaluate(&lanes, &source("app.db", "sqlite"), &["db.Query('SELECT * FROM t')"]).await;
    assert_eq!(shown, ["null"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_of_the_folder_can_be_reached() {
    let root = tempfile::tempdir().unwrap();
    let inside = root.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(root.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", inside.join("link")).unwrap();
    std::os::unix::fs::symlink("../outside/x.db", inside.join("link.db")).unwrap();
    // The folder itself may be reached through one.
    std::os::unix::fs::symlink(&inside, root.path().join("way")).unwrap();
    let lanes = lanes_with(Config { sqlite_dir: Some(root.path().join("way")), ..Config::default() });
    let outside = root.path().join("outside/x.db").display().to_string();
    let not_below = "the file is not below the folder for SQLite files (--sqlite-dir)";
    for (dsn, expected) in [
        (outside.as_str(), not_below),
        ("../outside/x.db", not_below),
        ("file:../outside/x.db", not_below),
        ("file:%2e%2e/outside/x.db", not_below),
        ("sqlite:///etc/passwd", not_below),
        ("link/x.db", "the database cannot be opened: unable to open database file"),
        ("link.db", "the database cannot be opened: unable to open database file"),
    ] {
        let shown = evaluate(&lanes, &source(dsn, "sqlite"), &["db.Ping()"]).await;
        assert!(shown[0].starts_with(expected), "{dsn}: {}", shown[0]);
    }
    let attached = "no other files than the database itself can be used: open another one with sql.New";
    let attach = format!("db.Exec(`ATTACH '{outside}' AS o`)");
    let vacuum = format!("db.Exec(`VACUUM INTO '{outside}'`)");
    check(
        &lanes,
        &source("in.db", "sqlite"),
        &[
            ("db.Ping()", "undefined"),
            (&attach, "undefined"),
            ("db.Error", "a database is one file; open the other one with sql.New"),
            ("db.Exec('EXPLAIN ATTACH ? AS o', 'x')", "undefined"),
            (&vacuum, "undefined"),
            ("db.Error", attached),
            ("db.Exec('VACUUM INTO ?', 'x.db')", "undefined"),
            ("db.Query(\"SELECT load_extension('x')\")", "null"),
            ("db.Error", "extensions are not available"),
            ("db.Exec('CREATE VIRTUAL TABLE v USING dbstat(main)')", "undefined"),
            ("db.Error", "virtual tables of the kind \"dbstat\" are not available"),
            ("db.Exec('CREATE VIRTUAL TABLE v USING fts5(a)')", "0"),
            ("db.Exec('INSERT INTO v VALUES (?)', 'some words')", "1"),
            ("db.Query('SELECT a FROM v WHERE v MATCH ?', 'words')", "[{ a: \"some words\" }]"),
            ("db.Exec(\"PRAGMA temp_store_directory = '/tmp'\")", "undefined"),
            ("db.Exec('PRAGMA writable_schema = 1')", "undefined"),
            ("db.Exec('PRAGMA hard_heap_limit = 1')", "undefined"),
            ("db.Query('SELECT * FROM pragma_hard_heap_limit(1)')", "null"),
            ("db.Ping()", "undefined"),
        ],
    )
    .await;
    assert_eq!(std::fs::read_dir(root.path().join("outside")).unwrap().count(), 0);
    let none = "this worker has no folder for SQLite files (--sqlite-dir): there is only :memory:";
    let cases = [("db.Ping()", none), ("db.Query('SELECT 1')", "null"), ("db.Close()", "undefined")];
    check(&some_lanes(), &source("a.db", "sqlite"), &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_end_ends_with_its_call() {
    let lanes = some_lanes();
    let endless =
        "db.Query('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n')";
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&memory(), "test.js").unwrap();
        let before = vm.eval("db.Exec('CREATE TABLE t (a)')").unwrap();
        vm.set_call_timeout(Some(Duration::from_millis(50)));
        let ended = vm.eval(endless).unwrap_err();
        vm.set_call_timeout(None);
        // The database is still there, with what was in it.
        (before, ended, vm.eval("db.Query('SELECT count(*) n FROM t')").unwrap())
    });
    let (before, ended, after) = run.1.await;
    assert_eq!((before.as_str(), after.as_str()), ("0", "[{ n: 0 }]"));
    assert_eq!(ended, ScriptError::Timeout(Duration::from_millis(50)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_for_a_lease_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let lanes = lanes_with(Config { sqlite_dir: Some(folder.path().to_owned()), ..Config::default() });
    let fake = Fake::new();
    let lease = fake.clone();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let run = spawn(&lanes, &fake, Limits::default(), move |vm| {
        vm.load(&source("a.db", "sqlite"), "test.js").unwrap();
        vm.eval("db.Exec('CREATE TABLE t (a)')").unwrap();
        begun.send(()).unwrap();
        vm.eval("db.Exec('INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 30000000) SELECT 1 FROM n WHERE i % 100000 = 0')")
    });
    has_begun.await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    lease.trusted_ms.store(0, Ordering::Relaxed);
    assert_eq!(run.1.await, Err(ScriptError::Lost));
    let shown = evaluate(&lanes, &source("a.db", "sqlite"), &["db.Query('SELECT count(*) n FROM t')"]).await;
    assert_eq!(shown, ["[{ n: 0 }]"]);
}

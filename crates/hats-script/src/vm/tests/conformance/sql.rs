//! `sql`: what is the same for all databases. What is different has tests with each of the servers.

use super::{Line, Within};

const OPEN: &str = "const db = sql.New(':memory:', 'sqlite'); db.Exec('CREATE TABLE t (a)');";

pub(super) const LINES: &[Line] = &[
    Line {
        names: &["sql.New"],
        within: Within::All,
        source: "",
        cases: &[
            ("Object.keys(sql.New(':memory:', 'sqlite')).join()", "Ping,Close,Query,Exec,Error"),
            ("sql.New('user:pw@tcp(127.0.0.1:1)/db?x=y', 'mysql').Error", "undefined"),
            ("sql.New('mysql://user:pw@127.0.0.1:1/db', 'mysql').Error", "undefined"),
            ("sql.New('postgres://user:pw@127.0.0.1:1/db', 'postgres').Error", "undefined"),
            ("sql.New()", "TypeError: sql.New: argument 1 must be a string, not undefined"),
            (
                "sql.New('secret', 'oracle')",
                "TypeError: sql.New: argument 2 must be \"mysql\", \"postgres\" or \"sqlite\", not \"oracle\"",
            ),
            (
                "sql.New('user:secret@host', 'mysql')",
                "TypeError: sql.New: argument 1 is no DSN for mysql: the / before the name of the database is missing",
            ),
            (
                "sql.New('user:secret@host', 'postgres')",
                "TypeError: sql.New: argument 1 is no DSN for postgres: it is neither a URL, \
                 postgres://user:password@host/database, nor a list, host=… user=… dbname=…",
            ),
            (
                "sql.New('', 'sqlite')",
                "TypeError: sql.New: argument 1 is no DSN for sqlite: the path of the file is missing; :memory: is a database \
                 without one",
            ),
        ],
    },
    // `db.Ping` and `db.Close`
    Line {
        names: &[],
        within: Within::All,
        source: OPEN,
        cases: &[
            ("[db.Ping(), db.Error]", "[undefined, undefined]"),
            ("db.Close()", "undefined"),
            ("[db.Close(), db.Close(), db.Ping()]", "[undefined, undefined, \"the database is closed\"]"),
            (
                "sql.New('a.db', 'sqlite').Ping()",
                "this worker has no folder for SQLite files (--sqlite-dir): there is only :memory:",
            ),
            (
                "sql.New('u:secret@tcp(127.0.0.1:1)/db', 'mysql').Ping()",
                "cannot connect to 127.0.0.1:1: Connection refused (os error 111)",
            ),
            (
                "sql.New('postgres://u:secret@127.0.0.1:1/db', 'postgres').Ping()",
                "cannot connect to 127.0.0.1:1: Connection refused (os error 111)",
            ),
            (
                "sql.New('mysql://169.254.169.254/db', 'mysql').Ping()",
                "169.254.169.254 is out of reach for scripts: a link-local address",
            ),
        ],
    },
    // `db.Query`
    Line {
        names: &[],
        within: Within::All,
        source: OPEN,
        cases: &[
            ("db.Query('SELECT * FROM t')", "[]"),
            (
                "db.Query('SELECT ? a, ? b, ? c, ? d, ? e', 'x', 1.5, null, undefined, true)",
                "[{ a: \"x\", b: 1.5, c: null, d: null, e: 1 }]",
            ),
            (
                "db.Query('SELECT ? a, ? b, ? c', 9007199254740992n, new Uint8Array([1, 2]), new Date(0))",
                "[{ a: 9007199254740992n, b: Uint8Array(2) [1, 2], c: \"1970-01-01 00:00:00.000\" }]",
            ),
            ("[db.Query('SELECT * FROM absent'), db.Error]", "[null, \"no such table: absent\"]"),
            (
                "[db.Query('SELECT absent'), db.Query('SELECT 1 a'), db.Error]",
                "[null, [{ a: 1 }], undefined]",
            ),
            ("db.Query()", "TypeError: db.Query: argument 1 must be a string, not undefined"),
            (
                "db.Query('SELECT ?', [])",
                "TypeError: db.Query: argument 2 must be a string, number, bigint, boolean, null, undefined, Date or \
                 Uint8Array, not an array",
            ),
        ],
    },
    // `db.Exec`
    Line {
        names: &[],
        within: Within::All,
        source: OPEN,
        cases: &[
            ("db.Exec('INSERT INTO t VALUES (?), (?)', 1, 2)", "2"),
            (
                "[db.Exec('INSERT INTO t VALUES (1)'), db.Exec('UPDATE t SET a = 1'), db.Exec('DELETE FROM t')]",
                "[1, 1, 1]",
            ),
            ("db.Exec('SELECT 1')", "0"),
            ("[db.Exec('NONSENSE'), db.Error]", "[undefined, \"near \\\"NONSENSE\\\": syntax error\"]"),
            (
                "[db.Exec('SELECT ?'), db.Error]",
                "[undefined, \"the statement has 1 placeholder, and 0 arguments are given\"]",
            ),
            ("db.Exec(7)", "TypeError: db.Exec: argument 1 must be a string, not 7"),
        ],
    },
];

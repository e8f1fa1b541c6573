//! MariaDB.

use super::servers::{DatabaseServer, PASSWORD, USER};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn values_come_as_the_table_says() {
    let server = DatabaseServer::mariadb();
    check(
        &some_lanes(),
        &source(&server.dsn(), "mysql"),
        &[
            ("db.Ping()", "undefined"),
            (
                "db.Exec(`CREATE TABLE kinds (id INT PRIMARY KEY, ti TINYINT, tu TINYINT UNSIGNED, bo BOOLEAN, \
                 si SMALLINT, su SMALLINT UNSIGNED, mi MEDIUMINT, i INT, iu INT UNSIGNED, bi BIGINT, bu BIGINT UNSIGNED, \
                 f FLOAT, d DOUBLE, de DECIMAL(65,30), y YEAR, da DATE, dt DATETIME(6), ts TIMESTAMP(3) NULL, tm TIME(6), \
                 c CHAR(5), vc VARCHAR(20), vb VARBINARY(20), tx TEXT, bl BLOB, lb LONGBLOB, j JSON, \
                 e ENUM('one','zwei ä'), s SET('a','b'), bt BIT(10), bn BINARY(4), ub VARCHAR(20) COLLATE utf8mb4_bin)`)",
                "0",
            ),
            (
                "db.Exec(`INSERT INTO kinds VALUES (1, -128, 255, true, -32768, 65535, -8388608, -2147483648, 4294967295, \
                 -9223372036854775808, 18446744073709551615, 0.1, 0.1, \
                 12345678901234567890123456789012345.123456789012345678901234567891, 2024, '2024-02-29', \
                 '2024-02-29 13:04:05.000006', '2024-02-29 13:04:05.5', '-838:59:58.9', 'abc', 'ä😀', x'00ff', 'text', \
                 x'00', x'ff', '{\"a\": 1}', 'zwei ä', 'a,b', b'1000000001', x'0102', 'Bin')`)",
                "1",
            ),
            ("db.Exec('INSERT INTO kinds (id) VALUES (2)')", "1"),
            // Zero dates are what the server says, and not null.
            ("db.Exec(\"INSERT INTO kinds (id, da, dt, tm) VALUES (3, '0000-00-00', '0000-00-00', 0)\")", "1"),
            ("db.Query('SELECT da, dt, tm FROM kinds WHERE id = 3')", "[{ da: \"0000-00-00\", dt: \"0000-00-00 00:00:00\", tm: \"00:00:00\" }]"),
            (
                "globalThis.row = db.Query('SELECT * FROM kinds ORDER BY id')[0], Object.entries(row).map(([k, v]) => k + '=' + (typeof v === 'bigint' ? v + 'n' : v instanceof Uint8Array ? '<' + v + '>' : typeof v === 'string' ? JSON.stringify(v) : v)).join(' ')",
                "id=1 ti=-128 tu=255 bo=1 si=-32768 su=65535 mi=-8388608 i=-2147483648 iu=4294967295 \
                 bi=-9223372036854775808n bu=18446744073709551615n f=0.1 d=0.1 \
                 de=\"12345678901234567890123456789012345.123456789012345678901234567891\" y=2024 da=\"2024-02-29\" \
                 dt=\"2024-02-29 13:04:05.000006\" ts=\"2024-02-29 13:04:05.5\" tm=\"-838:59:58.9\" c=\"abc\" vc=\"ä😀\" \
                 vb=<0,255> tx=\"text\" bl=<0> lb=<255> j=\"{\\\"a\\\": 1}\" e=\"zwei ä\" s=\"a,b\" bt=513 bn=<1,2,0,0> \
                 ub=\"Bin\"",
            ),
            ("new Set(Object.values(db.Query('SELECT * FROM kinds WHERE id = 2')[0])).size", "2"),
            ("Object.values(db.Query('SELECT * FROM kinds WHERE id = 2')[0])[1]", "null"),
            ("db.Query('SELECT CAST(? AS DATE) a, CAST(\\'2024-01-02 03:04:05\\' AS DATETIME) b', '2024-01-02')", "[{ a: \"2024-01-02\", b: \"2024-01-02 03:04:05\" }]"),
            ("db.Query('SELECT CAST(9007199254740991 AS INT) a, CAST(9007199254740992 AS INT) b')", "[{ a: 9007199254740991, b: 9007199254740992n }]"),
            ("db.Query('SELECT count(*) n, sum(id) s FROM kinds')", "[{ n: 3, s: \"6\" }]"),
            ("db.Query(\"SHOW TABLES LIKE 'kinds'\").length", "1"),
            ("db.Exec('DROP TABLE kinds')", "0"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_go_as_the_table_says() {
    let server = DatabaseServer::mariadb();
    check(
        &some_lanes(),
        &source(&server.dsn(), "mysql"),
        &[
            (
                "db.Query('SELECT ? a, ? b, ? c, ? d, ? e, ? f', 'ä😀\\0\\'', 1, -1.5, null, undefined, true)",
                "[{ a: \"ä😀\\0'\", b: 1, c: -1.5, d: null, e: null, f: 1 }]",
            ),
            (
                "db.Query('SELECT ? a, ? b, ? c', 9223372036854775807n, -9223372036854775808n, 18446744073709551615n)",
                "[{ a: 9223372036854775807n, b: -9223372036854775808n, c: 18446744073709551615n }]",
            ),
            (
                "db.Query('SELECT ? a, hex(?) b', new Uint8Array([0, 255]), new Uint8Array([0, 255]))",
                "[{ a: Uint8Array(2) [0, 255], b: \"00FF\" }]",
            ),
            ("db.Exec('CREATE TABLE go (a DECIMAL(65), b DATETIME(3), c DATE, d TIMESTAMP(3), e BOOLEAN, f TEXT, g BIGINT)')", "0"),
            (
                "db.Exec('INSERT INTO go VALUES (?, ?, ?, ?, ?, ?, ?)', 12345678901234567890123456789012345678901234567890123456789012345n, \
                 new Date(1709211845678), new Date(1709211845678), new Date(1709211845678), false, 5, '7')",
                "1",
            ),
            (
                "db.Query('SELECT * FROM go')",
                "[{ a: \"12345678901234567890123456789012345678901234567890123456789012345\", b: \"2024-02-29 13:04:05.678\", \
                 c: \"2024-02-29\", d: \"2024-02-29 13:04:05.678\", e: 0, f: \"5\", g: 7 }]",
            ),
            // The session's time zone is UTC, so an instant stays one.
            ("db.Query('SELECT unix_timestamp(d) s FROM go')", "[{ s: \"1709211845.678\" }]"),
            ("db.Query('SELECT ?', Infinity)", "null"),
            ("db.Error", "argument 2: Infinity is no number to this database"),
            ("db.Query('SELECT ?, ?', 1)", "null"),
            ("db.Error", "the statement has 2 placeholders, and 1 argument is given"),
            // The connection is well after that.
            ("db.Query(\"SELECT '?' a, ? b -- ?\", 1)", "[{ a: \"?\", b: 1 }]"),
            ("db.Exec('UPDATE go SET e = ? WHERE f = ?', 0, '5')", "1"),
            ("db.Exec('DELETE FROM go')", "1"),
            ("db.Exec('DROP TABLE go')", "0"),
            ("db.Query('SELEKT')", "null"),
            ("db.Error.slice(0, 13)", "1064 (42000):"),
            ("db.Exec('INSERT INTO absent VALUES (1)')", "undefined"),
            ("db.Error", "1146 (42S02): Table 'test.absent' doesn't exist"),
            ("db.Query('SELECT 1; SELECT 2')", "null"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_come_back_as_they_went_and_larger_ones_are_an_error() {
    let server = DatabaseServer::mariadb();
    check(
        &some_lanes(),
        &source(&server.dsn(), "mysql"),
        &[
            ("db.Exec('CREATE TABLE large (a LONGBLOB, b LONGTEXT)')", "0"),
            // More than one packet of the protocol.
            ("globalThis.blob = new Uint8Array(17_000_000).fill(7), blob.set([1, 2, 3], 16_777_210), 1", "1"),
            ("db.Exec('INSERT INTO large VALUES (?, ?)', blob, 'ä😀'.repeat(100_000))", "1"),
            ("db.Error", "undefined"),
            ("globalThis.row = db.Query('SELECT * FROM large')[0], row.a.length", "17000000"),
            ("row.a.subarray(16_777_209, 16_777_214)", "Uint8Array(5) [7, 1, 2, 3, 7]"),
            ("row.b === 'ä😀'.repeat(100_000)", "true"),
            ("row = blob = null", "null"),
            ("db.Query('SELECT REPEAT(?, 200000000) a', 'x')", "null"),
            ("db.Error.slice(0, 45)", "the result is larger than 33554432 bytes, hal"),
            ("db.Query('SELECT seq, REPEAT(?, 1000) FROM seq_1_to_1000000', 'x')", "null"),
            ("db.Error.slice(0, 45)", "the result is larger than 33554432 bytes, hal"),
            ("db.Query('SELECT seq FROM seq_1_to_100000').length", "100000"),
            ("db.Exec('DROP TABLE large')", "0"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_the_connection_is_refused() {
    let server = DatabaseServer::mariadb();
    let instead = "this would last longer than the statement: ";
    check(
        &some_lanes(),
        &source(&server.dsn(), "mysql"),
        &[
            ("db.Query(\"SELECT 'a\\0b' a, ? b\", 'a\\0b')", "[{ a: \"a\\0b\", b: \"a\\0b\" }]"),
            ("db.Exec('SET @a = 1')", "undefined"),
            ("db.Error", &format!("{instead}connections are shared; put it into the DSN, or do it between BEGIN and COMMIT")),
            ("db.Exec('USE mysql')", "undefined"),
            ("db.Exec('LOCK TABLES a READ')", "undefined"),
            ("db.Query(\"SELECT GET_LOCK('a', 1)\")", "null"),
            ("db.Exec('CREATE TEMPORARY TABLE t (a INT)')", "undefined"),
            // A procedure may leave behind what it likes.
            ("db.Exec('DROP PROCEDURE IF EXISTS leaves')", "0"),
            (
                "db.Exec('CREATE PROCEDURE leaves(x INT) BEGIN SET autocommit = 0; START TRANSACTION; SELECT x AS y; SELECT 2 AS z; END')",
                "0",
            ),
            ("db.Query('CALL leaves(?)', 7)", "[{ y: 7 }]"),
            ("db.Query('SELECT @@autocommit a, @@in_transaction b')", "[{ a: 1, b: 0 }]"),
            ("db.Query('CALL leaves(8)')", "[{ y: 8 }]"),
            ("db.Query('SELECT @@autocommit a, @@in_transaction b')", "[{ a: 1, b: 0 }]"),
            ("db.Exec('DROP PROCEDURE leaves')", "0"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dsn_is_followed() {
    let server = DatabaseServer::mariadb();
    let port = server.port;
    let password: String = PASSWORD.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let url = format!(
        "mysql://{USER}:{password}@localhost:{port}/test?sql_mode=%27ANSI_QUOTES%27&timezone=%2B02:00"
    );
    let socket = server.folder.path().join("socket").display().to_string();
    for (dsn, expression, expected) in [
        (url.as_str(), "db.Query('SELECT @@sql_mode m, @@time_zone z, \"a\"')", "null"),
        (&url, "db.Query('SELECT @@sql_mode m, @@time_zone z')", "[{ m: \"ANSI_QUOTES\", z: \"+02:00\" }]"),
        (
            &format!("{USER}:{PASSWORD}@unix({socket})/test?charset=utf8mb4&collation=utf8mb4_bin"),
            "db.Query('SELECT @@collation_connection c, DATABASE() d')",
            "[{ c: \"utf8mb4_bin\", d: \"test\" }]",
        ),
        (
            &format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/?time_zone='%2B01:00'"),
            "db.Query('SELECT DATABASE() d, @@time_zone z')",
            "[{ d: null, z: \"+01:00\" }]",
        ),
        (&format!("{USER}:wrong@tcp(127.0.0.1:{port})/test"), "db.Ping().slice(0, 13)", "1045 (28000):"),
        (
            &format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/absent"),
            "db.Ping()",
            "1049 (42000): Unknown database 'absent'",
        ),
        (
            &format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/test?absent_variable=1"),
            "db.Ping()",
            "1193 (HY000): Unknown system variable 'absent_variable'",
        ),
        // This server has no TLS.
        (
            &format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/test?tls=true"),
            "db.Ping()",
            "no TLS with the server: server does not support TLS",
        ),
        (
            &format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/test?ssl-ca=/dev/zero"),
            "db.Ping()",
            "/dev/zero is no readable PEM file of at most 1 MiB",
        ),
        (
            &format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{port})/test?readTimeout=50ms"),
            "[db.Query('SELECT SLEEP(60)'), db.Error]",
            "[null, \"the statement took longer than its limit of 50ms\"]",
        ),
    ] {
        assert_eq!(evaluate(&some_lanes(), &source(dsn, "mysql"), &[expression]).await, [expected], "{dsn}");
    }
}

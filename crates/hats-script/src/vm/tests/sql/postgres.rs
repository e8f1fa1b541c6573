//! PostgreSQL.

use super::servers::{DatabaseServer, PASSWORD, USER};
use super::*;

/// Shows each field of the first row on its own, with its kind.
const SHOW: &str = "const show = rows => !rows ? db.Error : Object.entries(rows[0]).map(([k, v]) => k + '=' + (typeof v === 'bigint' ? v + 'n' \
     : v instanceof Uint8Array ? '<' + v + '>' : JSON.stringify(v, (_, x) => typeof x === 'bigint' ? x + 'n' : x))).join(' ');";

fn with_show(server: &DatabaseServer) -> String {
    source(&server.dsn(), "postgres") + SHOW
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_as_the_table_says() {
    let server = DatabaseServer::postgres();
    check(
        &some_lanes(),
        &with_show(&server),
        &[
            ("db.Ping()", "undefined"),
            (
                "show(db.Query(`SELECT true a, false b, (-32768)::int2 c, 2147483647 d, 9007199254740991 e, 9007199254740992 f, \
                 (-9223372036854775808)::int8 g, 0.1::float4 h, 0.1::float8 i, 'NaN'::float8 IS NOT NULL j, NULL::int k`))",
                "a=true b=false c=-32768 d=2147483647 e=9007199254740991 f=9007199254740992n g=-9223372036854775808n h=0.1 i=0.1 j=true k=null",
            ),
            ("db.Query(\"SELECT 'NaN'::float8 a, '-Infinity'::float4 b\")", "[{ a: NaN, b: -Infinity }]"),
            (
                "show(db.Query(`SELECT 1234567890123456789012345678901234567890.12345678901234567890 a, -0.00 b, 'NaN'::numeric c, \
                 '-infinity'::numeric d, 1e-20 e, 1e20::numeric f, 10000::numeric g, 0.0001 h`))",
                "a=\"1234567890123456789012345678901234567890.12345678901234567890\" b=\"0.00\" c=\"NaN\" d=\"-Infinity\" e=\"0.00000000000000000001\" f=\"100000000000000000000\" g=\"10000\" h=\"0.0001\"",
            ),
            (
                "show(db.Query(`SELECT 'ä😀'::text a, 'b'::varchar b, 'c'::char(3) c, 'd'::name d, 'e'::\"char\" e, \
                 '\\\\x00ff'::bytea f, ''::text g, ''::bytea h`))",
                "a=\"ä😀\" b=\"b\" c=\"c  \" d=\"d\" e=\"e\" f=<0,255> g=\"\" h=<>",
            ),
            (
                "show(db.Query(`SELECT '2024-02-29'::date a, '13:04:05.000006'::time b, '13:04:05+05:30'::timetz c, \
                 '2024-02-29 13:04:05.5'::timestamp d, '2024-02-29 13:04:05+02'::timestamptz e, 'infinity'::date f, \
                 '-infinity'::timestamptz g, '4714-11-24 BC'::date h, '294276-12-31 23:59:59.999999'::timestamp i, \
                 '0001-01-01 00:00:00 BC'::timestamp j, '24:00'::time k`))",
                "a=\"2024-02-29\" b=\"13:04:05.000006\" c=\"13:04:05+05:30\" d=\"2024-02-29 13:04:05.5\" e=\"2024-02-29 11:04:05+00\" f=\"infinity\" g=\"-infinity\" h=\"4714-11-24 BC\" i=\"294276-12-31 23:59:59.999999\" j=\"0001-01-01 00:00:00 BC\" k=\"24:00:00\"",
            ),
            (
                "show(db.Query(`SELECT '{\"a\": [1, 2]}'::json a, '{\"a\":[1,2]}'::jsonb b, '$.a[*]'::jsonpath c, '<x/>'::xml d, \
                 '00112233-4455-6677-8899-AABBCCDDEEFF'::uuid e`))",
                "a=\"{\\\"a\\\": [1, 2]}\" b=\"{\\\"a\\\": [1, 2]}\" c=\"$.\\\"a\\\"[*]\" d=\"<x/>\" e=\"00112233-4455-6677-8899-aabbccddeeff\"",
            ),
            (
                "show(db.Query(`SELECT ARRAY[1, NULL, 3] a, ARRAY[['x', 'y'], ['z', NULL]] b, '{}'::int[] c, \
                 ARRAY[9223372036854775807] d, ARRAY['2024-01-01'::date] e, ARRAY[true] f`))",
                "a=[1,null,3] b=[[\"x\",\"y\"],[\"z\",null]] c=[] d=[\"9223372036854775807n\"] e=[\"2024-01-01\"] f=[true]",
            ),
            ("db.Exec(`CREATE TYPE tone AS ENUM ('sad', 'ok \"\"')`)", "0"),
            ("db.Exec(`CREATE DOMAIN small AS int CHECK (VALUE < 10)`)", "0"),
            ("db.Exec(`CREATE TYPE pair AS (a int, b text, m tone)`)", "0"),
            (
                "show(db.Query(`SELECT 'sad'::tone a, ARRAY['sad']::tone[] b, 5::small c, ROW(1, 'x y', 'sad')::pair d, ROW(1, NULL, '') e, \
                 ARRAY[ROW(1, 'a,b', NULL)::pair] f`))",
                "a=\"sad\" b=[\"sad\"] c=5 d=\"(1,\\\"x y\\\",sad)\" e=\"(1,,\\\"\\\")\" f=[\"(1,\\\"a,b\\\",)\"]",
            ),
            ("db.Exec('DROP TYPE pair') + db.Exec('DROP DOMAIN small') + db.Exec('DROP TYPE tone')", "0"),
            ("db.Query('SELECT pg_sleep(0) a')", "[{ a: \"\" }]"),
            ("db.Query('SELECT FROM generate_series(1, 2)')", "[{}, {}]"),
            ("db.Query('SELECT to_tsvector(\\'a b\\') v')", "null"),
            ("db.Error", "column \"v\" is of type tsvector, which cannot be shown as it is: cast it to text"),
            ("db.Query('SELECT to_tsvector(\\'simple\\', \\'a b\\')::text v')", "[{ v: \"'a':1 'b':2\" }]"),
        ],
    )
    .await;
}

/// What is shown as text is exactly what the server itself makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_those_of_the_server() {
    let server = DatabaseServer::postgres();
    let compare = "const same = (type, ...texts) => texts.filter(text => { const [row] = db.Query(`SELECT x a, format('%s', x) b FROM (SELECT $1::text::${type} x) y`, text) ?? [{a: db.Error}]; return row.a !== row.b && JSON.stringify(row.a) !== row.b }).map(text => JSON.stringify(db.Query(`SELECT x a, format('%s', x) b FROM (SELECT $1::text::${type} x) y`, text))).join() || 'same';";
    let source = source(&server.dsn(), "postgres") + compare;
    let types = [
        (
            "numeric",
            "'0', '-1', '1e100', '1e-100', '123456789.987654321', '0.10', '9999', '10000', '99999999.00009999'",
        ),
        (
            "interval",
            "'0', '1 year', '-1 year 2 mons -3 days 04:05:06.7', '1 mon -1 day', '-1 mon 1 day -00:00:00.000001', '100:00:00', '1 year 1 mon 1 day 1 hour', '-14 months', '178000000 years'",
        ),
        (
            "timestamp",
            "'epoch', '1999-12-31 23:59:59.999999', '0044-03-15 BC', '10000-01-01', '2000-01-01 00:00:00.1'",
        ),
        ("timestamptz", "'epoch', '1999-12-31 23:59:59.9', '0044-03-15 BC', '2024-06-01 12:00+05:45'"),
        ("timetz", "'00:00+00', '23:59:59.5-15:59', '12:00+00:00:30', '12:00-03:30'"),
        ("date", "'epoch', '0001-01-01', '5874897-12-31', '4713-01-01 BC'"),
        ("inet", "'127.0.0.1', '10.0.0.0/8', '::1', '::ffff:1.2.3.4', '2001:db8::/32', '1::2:0:0:3'"),
        ("cidr", "'10.0.0.0/8', '::1/128', '192.168.1.1/32'"),
        ("macaddr", "'08:00:2b:01:02:03'"),
        ("macaddr8", "'08:00:2b:01:02:03:04:05'"),
        ("bit(10)", "'1010101010'"),
        ("varbit", "'', '1', '10101010101'"),
        ("point", "'(1,2)', '(-0.5,1e20)', '(1e-7,1e15)', '(123456789012345,0.0001)', '(NaN,Infinity)'"),
        ("line", "'{1,-1,0}'"),
        ("lseg", "'[(0,0),(1,1)]'"),
        ("box", "'(1,1),(0,0)'"),
        ("path", "'[(0,0),(1,1)]', '((0,0),(1,1),(2,0))'"),
        ("polygon", "'((0,0),(1,1),(2,0))'"),
        ("circle", "'<(0,0),1.5>'"),
        ("int4range", "'[1,5)', 'empty', '(,5)', '[1,)', '(,)'"),
        ("numrange", "'[1.5,2.50]', '(-1,1)'"),
        ("tsrange", "'[2024-01-01,2024-02-01 12:00)'"),
        ("tstzrange", "'[2024-01-01,infinity]'"),
        ("daterange", "'[2024-01-01,2024-02-01)'"),
        ("pg_lsn", "'0/0', '16/B374D848', 'FFFFFFFF/FFFFFFFF'"),
        ("tid", "'(1,2)'"),
        ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    ];
    let expressions: Vec<String> =
        types.iter().map(|(name, texts)| format!("same('{name}', {texts})")).collect();
    let cases: Vec<(&str, &str)> =
        expressions.iter().map(|expression| (expression.as_str(), "same")).collect();
    check(&some_lanes(), &source, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_string_fits_every_type() {
    let server = DatabaseServer::postgres();
    check(
        &some_lanes(),
        &with_show(&server),
        &[
            (
                "db.Exec(`CREATE TABLE fits (a date, b uuid, c json, d jsonb, e numeric(40,2), f timestamptz, g timestamp, h time, i interval, \
                 j bool, k int2, l int4, m int8, n float4, o float8, p int[], q text[], r bytea, s inet, t varchar(5), u char(3), v point, w int4range, x xml, y bit(3))`)",
                "0",
            ),
            (
                "db.Exec('INSERT INTO fits VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)', '2024-02-29', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', \
                 '{\"a\": 1}', '[1, 2]', '12345678901234567890.005', '2024-02-29 13:04:05+02', '2024-02-29T13:04:05.5', '1:02 pm', '1 day 2 hours', \
                 'yes', '-5', '6', '9223372036854775807', '1.5', '1e300', '{1,NULL,3}', '{a,\"b c\"}', '\\\\x00ff', '10.0.0.1', 'vär', 'ab', '(1,2)', '[1,5]', '<a/>', '101')",
                "1",
            ),
            (
                "show(db.Query('SELECT * FROM fits'))",
                "a=\"2024-02-29\" b=\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\" c=\"{\\\"a\\\": 1}\" d=\"[1, 2]\" e=\"12345678901234567890.01\" \
                 f=\"2024-02-29 11:04:05+00\" g=\"2024-02-29 13:04:05.5\" h=\"13:02:00\" i=\"1 day 02:00:00\" j=true k=-5 l=6 \
                 m=9223372036854775807n n=1.5 o=1e+300 p=[1,null,3] q=[\"a\",\"b c\"] r=<0,255> s=\"10.0.0.1\" t=\"vär\" u=\"ab \" \
                 v=\"(1,2)\" w=\"[1,6)\" x=\"<a/>\" y=\"101\"",
            ),
            ("db.Query('SELECT count(*) n FROM fits WHERE a = ? AND b = ? AND d @> ? AND e > ? AND f = ? AND ? = ANY(p) AND s << ?', '2024-02-29', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[2]', '1', '2024-02-29 11:04:05Z', 3, '10.0.0.0/8')", "[{ n: 1 }]"),
            ("db.Query('SELECT count(*) n FROM fits WHERE k = ANY(?) LIMIT ? OFFSET ?', '{-5,7}', '1', 0)", "[{ n: 1 }]"),
            ("db.Exec(`UPDATE fits SET a = ?`, 'no date')", "undefined"),
            ("db.Error", "invalid input syntax for type date: \"no date\" (22007)"),
            ("db.Exec(`DROP TABLE fits`)", "0"),
            ("db.Exec(`CREATE TYPE mood AS ENUM ('sad', 'ok')`)", "0"),
            ("db.Exec(`CREATE DOMAIN tiny AS int CHECK (VALUE < 10)`)", "0"),
            ("db.Exec(`CREATE TABLE moods (m mood, n tiny)`)", "0"),
            ("db.Exec('INSERT INTO moods VALUES (?, ?)', 'sad', 5)", "1"),
            ("db.Exec('INSERT INTO moods VALUES (?, ?)', 'sad', '6')", "1"),
            ("db.Query('SELECT n FROM moods WHERE m = ? ORDER BY n', 'sad')", "[{ n: 5 }, { n: 6 }]"),
            ("db.Exec('INSERT INTO moods VALUES (?, ?)', 'glad', 5)", "undefined"),
            ("db.Error", "invalid input value for enum mood: \"glad\" (22P02)"),
            ("db.Exec('INSERT INTO moods VALUES (?, ?)', 'sad', 50)", "undefined"),
            ("db.Error", "value for domain tiny violates check constraint \"tiny_check\" (23514)"),
            ("db.Exec(`DROP TABLE moods`) + db.Exec(`DROP DOMAIN tiny`) + db.Exec(`DROP TYPE mood`)", "0"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_go_as_the_table_says() {
    let server = DatabaseServer::postgres();
    check(
        &some_lanes(),
        &with_show(&server),
        &[
            (
                "show(db.Query('SELECT ?::int2 a, ?::int8 b, ?::float8 c, ?::text d, ?::int e, ?::bool f, ?::bytea g, ?::numeric h, ?::text i, ?::int j', \
                 -5, 9223372036854775807n, 1.5, 'ä😀', null, true, new Uint8Array([0, 255]), 123456789012345678901234567890n, undefined, true))",
                "a=-5 b=9223372036854775807n c=1.5 d=\"ä😀\" e=null f=true g=<0,255> h=\"123456789012345678901234567890\" i=null j=1",
            ),
            (
                "globalThis.when = new Date(1709211845678), show(db.Query('SELECT ?::timestamptz a, ?::timestamp b, ?::date c, ?::time d, ?::text e, extract(epoch from ?::timestamptz) f', when, when, when, when, when, when))",
                "a=\"2024-02-29 13:04:05.678+00\" b=\"2024-02-29 13:04:05.678\" c=\"2024-02-29\" d=\"13:04:05.678\" e=\"2024-02-29 13:04:05.678+00\" f=\"1709211845.678000\"",
            ),
            ("show(db.Query('SELECT ?::date a, ?::timestamptz b', new Date(-62198755200000), new Date(8.64e15)))", "a=\"0002-01-01 BC\" b=\"275760-09-13 00:00:00+00\""),
            ("show(db.Query('SELECT ?::jsonb a, ?::jsonb b, ?::jsonb c', 1.5, true, '\"text\"'))", "a=\"1.5\" b=\"true\" c=\"\\\"text\\\"\""),
            // What nobody can say the type of is text.
            ("db.Query('SELECT ? a, ? b', 5, 'x')", "[{ a: \"5\", b: \"x\" }]"),
            ("db.Query('SELECT ?::int', 3e9)", "null"),
            ("db.Error", "argument 2: 3000000000 is out of range for integer"),
            ("db.Query('SELECT 1 + ?', 1.5)", "null"),
            ("db.Error", "argument 2: 1.5 is no whole number, and the placeholder is of type integer"),
            ("db.Query('SELECT ?::int8', 9223372036854775808n)", "null"),
            ("db.Error", "argument 2: 9223372036854775808 is out of range for bigint"),
            ("db.Query('SELECT ?::text', new Uint8Array(1))", "null"),
            ("db.Error", "argument 2: a Uint8Array is for a placeholder of type bytea, and this one is not"),
            ("db.Query('SELECT ?::date', 5)", "null"),
            ("db.Error", "invalid input syntax for type date: \"5\" (22007)"),
            ("db.Query('SELECT ?::text', 'a\\0b')", "null"),
            ("db.Error", "invalid byte sequence for encoding \"UTF8\": 0x00 (22021)"),
            ("db.Query('SELECT ?, ?', 1)", "null"),
            ("db.Error", "the statement has 2 placeholders, and 1 argument is given"),
            ("db.Query('SELECT $1::int + $2 a, $1::int b', 1, '2')", "[{ a: 3, b: 1 }]"),
            ("db.Query('SELECT $1::date a, $1::date b', '2024-01-01')", "[{ a: \"2024-01-01\", b: \"2024-01-01\" }]"),
            ("db.Query(`SELECT '{\"a\":1}'::jsonb ?? ? a, '?' b, \"?\" c, $$?$$ d /* ? /* ? */ */ -- ?\\n FROM (SELECT 5 \"?\") q`, 'a')", "[{ a: true, b: \"?\", c: 5, d: \"?\" }]"),
            ("db.Query(`SELECT '{\"a\":1}'::jsonb ??| ? a`, '{b,a}')", "[{ a: true }]"),
            ("db.Query('SELECT ?, $1', 1, 2)", "null"),
            ("db.Error", "the statement has both ? and $1: use one of them, and write ?? for an operator that is a question mark"),
            ("db.Query('SELECT 1; SELECT 2')", "null"),
            ("db.Error", "cannot insert multiple commands into a prepared statement (42601)"),
            ("db.Exec('CREATE TABLE go (a int PRIMARY KEY, b text)')", "0"),
            ("db.Exec('INSERT INTO go VALUES (?, ?), (?, ?)', 1, 'x', 2, 'y')", "2"),
            ("db.Exec('INSERT INTO go VALUES (?, ?)', 1, 'x')", "undefined"),
            ("db.Error", "duplicate key value violates unique constraint \"go_pkey\"; Key (a)=(1) already exists. (23505)"),
            ("db.Query('INSERT INTO go VALUES (3) RETURNING a')", "[{ a: 3 }]"),
            ("db.Exec('UPDATE go SET b = ?', null)", "3"),
            ("db.Exec('SELECT * FROM go')", "0"),
            ("db.Query('SELECT * FROM go WHERE a = 1')", "[{ a: 1, b: null }]"),
            // A statement that was prepared before its table has changed.
            ("db.Exec('ALTER TABLE go ALTER b TYPE bytea USING NULL')", "0"),
            ("db.Query('SELECT * FROM go WHERE a = 1')", "[{ a: 1, b: null }]"),
            ("db.Exec('DELETE FROM go')", "3"),
            ("db.Exec('DROP TABLE go')", "0"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_come_back_as_they_went_and_larger_ones_are_an_error() {
    let server = DatabaseServer::postgres();
    for dsn in [server.dsn() + "?sslmode=disable", server.dsn() + "?sslmode=require"] {
        check(
            &some_lanes(),
            &source(&dsn, "postgres"),
            &[
                ("globalThis.blob = new Uint8Array(3_000_000).fill(7), blob.set([1, 2, 3], 1_000_000), 1", "1"),
                ("globalThis.row = db.Query('SELECT ?::bytea a, ?::text b', blob, 'ä😀'.repeat(100_000))[0], row.a.length", "3000000"),
                ("row.a.subarray(999_999, 1_000_004)", "Uint8Array(5) [7, 1, 2, 3, 7]"),
                ("row.b === 'ä😀'.repeat(100_000)", "true"),
                ("db.Query('SELECT repeat(?, 200000000) a', 'x')", "null"),
                ("db.Error.slice(0, 45)", "the result is larger than 33554432 bytes, hal"),
                ("db.Query('SELECT i, repeat(?, 1000) FROM generate_series(1, 1000000) i', 'x')", "null"),
                ("db.Error.slice(0, 45)", "the result is larger than 33554432 bytes, hal"),
                ("db.Query('SELECT i FROM generate_series(1, 100000) i').length", "100000"),
            ],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_the_connection_is_refused() {
    let server = DatabaseServer::postgres();
    check(
        &some_lanes(),
        &source(&server.dsn(), "postgres"),
        &[
            ("db.Exec('SET search_path = x')", "undefined"),
            ("db.Error", "this would last longer than the statement: connections are shared; put it into the DSN, or do it between BEGIN and COMMIT"),
            ("db.Query('SELECT pg_advisory_lock(1)')", "null"),
            ("db.Exec('CREATE TEMP TABLE t (a int)')", "undefined"),
            ("db.Query('SELECT 1\\0')", "null"),
            ("db.Query('SELECT ?::text a', 'a\\0')", "null"),
            ("db.Error.slice(0, 21)", "invalid byte sequence"),
            ("db.Exec('LISTEN x')", "undefined"),
            ("db.Error", "notifications are not available to scripts; NOTIFY is"),
            ("db.Exec(\"NOTIFY x, 'y'\")", "0"),
            ("db.Exec('COPY t FROM STDIN')", "undefined"),
            ("db.Error", "COPY from and to the client is not available; use INSERT and SELECT"),
            ("db.Query(\"SELECT set_config('search_path', 'x', false)\")", "null"),
            // A block may leave behind what it likes.
            (
                "db.Exec(\"DO $$ BEGIN PERFORM set_config('search_path', 'x', false), set_config('TimeZone', 'Asia/Tokyo', false), \
                 pg_advisory_lock(7); CREATE TEMP TABLE left_behind (a int); END $$\") ?? db.Error",
                "0",
            ),
            (
                "db.Query(\"SELECT current_setting('search_path') a, current_setting('TimeZone') b, \
                 (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND pid = pg_backend_pid()) c, \
                 to_regclass('left_behind')::text d\") ?? db.Error",
                "[{ a: \"\\\"$user\\\", public\", b: \"UTC\", c: 0, d: null }]",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dsn_is_followed() {
    let server = DatabaseServer::postgres();
    let (port, folder) = (server.port, server.folder.path().display().to_string());
    let password = PASSWORD.replace('\'', "\\'");
    let encoded: String = PASSWORD.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let list = format!("host=127.0.0.1 port={port} user={USER} password='{password}' dbname=postgres");
    let tls = "db.Query('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')[0].ssl";
    let ca = format!("{folder}/ca.pem");
    for (dsn, expression, expected) in [
        (
            format!("{list} application_name=me search_path='a, b'"),
            "db.Query(\"SELECT current_setting('application_name') a, current_setting('search_path') b\")",
            "[{ a: \"me\", b: \"a, b\" }]",
        ),
        (
            list.clone(),
            "db.Query(\"SELECT current_setting('application_name') a, current_setting('TimeZone') b\")",
            "[{ a: \"hats-worker\", b: \"UTC\" }]",
        ),
        (format!("{list} options='-c work_mem=5MB'"), "db.Query('SHOW work_mem')", "[{ work_mem: \"5MB\" }]"),
        (
            format!("{list} absent_setting=1"),
            "db.Ping()",
            "unrecognized configuration parameter \"absent_setting\" (42704)",
        ),
        (format!("{list} sslmode=disable"), tls, "false"),
        (list.clone(), tls, "true"),
        (format!("{list} sslmode=require"), tls, "true"),
        // Nobody known has signed it; its own authority has, for the name `localhost` and not for the address.
        (
            format!("{list} sslmode=verify-ca"),
            "db.Ping()",
            "no TLS with the server: invalid peer certificate: UnknownIssuer",
        ),
        (format!("{list} sslmode=verify-ca sslrootcert={ca}"), tls, "true"),
        (
            format!("{list} sslmode=verify-full sslrootcert={ca}"),
            "db.Ping().includes('invalid peer certificate: certificate not valid for name')",
            "true",
        ),
        (
            format!(
                "postgres://{USER}:{encoded}@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={ca}"
            ),
            tls,
            "true",
        ),
        (
            format!("{list} hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={ca}")
                .replace("host=127.0.0.1 ", "host=localhost "),
            tls,
            "true",
        ),
        (
            format!("{list} sslmode=verify-ca sslrootcert=/dev/zero"),
            "db.Ping()",
            "/dev/zero is no readable PEM file of at most 1 MiB",
        ),
        (
            format!("{list} sslmode=verify-ca sslrootcert={folder}/absent"),
            "db.Ping().slice(-45)",
            "/absent is no readable PEM file of at most 1 MiB",
        ),
        (
            format!("host={folder} port={port} user={USER} password='{password}' dbname=postgres"),
            "db.Query('SELECT inet_server_addr() a')",
            "[{ a: null }]",
        ),
        (
            format!("postgres://{USER}:wrong@127.0.0.1:{port}/postgres"),
            "db.Ping()",
            "password authentication failed for user \"tester\" (28P01)",
        ),
        (format!("{list} dbname=absent"), "db.Ping()", "database \"absent\" does not exist (3D000)"),
    ] {
        let shown = evaluate(&some_lanes(), &source(&dsn, "postgres"), &[expression]).await;
        assert!(
            shown[0].ends_with(expected.trim_start_matches("/absent")),
            "{dsn}: {} and not {expected}",
            shown[0]
        );
    }
}

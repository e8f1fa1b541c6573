//! Whatever a script gives comes back as it was, through each of the databases.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::servers::DatabaseServer;
use super::*;

/// A value as JavaScript writes it, and the type that Postgres has to be told.
fn value(text_has_zeros: bool) -> impl Strategy<Value = (String, &'static str)> {
    // As JSON writes them, which is how JavaScript reads them.
    let quote = |text: String| {
        let escaped = text.chars().map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                format!("\\u{{{:x}}}", u32::from(c))
            }
            c => c.to_string(),
        });
        format!("\"{}\"", escaped.collect::<String>())
    };
    prop_oneof![
        any::<String>()
            .prop_map(move |text| if text_has_zeros { text } else { text.replace('\0', "") })
            .prop_map(move |text| (quote(text), "text")),
        any::<i64>().prop_map(|integer| (format!("{integer}n"), "int8")),
        (-9_007_199_254_740_991..=9_007_199_254_740_991_i64)
            .prop_map(|integer| (format!("{integer}"), "int8")),
        (-1000..1000_i64).prop_map(|integer| (format!("{integer}n"), "int8")),
        any::<f64>()
            .prop_filter("a number", |number| number.is_finite() && number.fract() != 0.0)
            .prop_map(|number| (format!("{number:e}"), "float8")),
        prop::collection::vec(any::<u8>(), 0..64)
            .prop_map(|bytes| (format!("new Uint8Array({bytes:?})"), "bytea")),
        Just(("null".to_owned(), "text")),
        Just(("undefined".to_owned(), "int8")),
    ]
}

/// What is the same after a database had it: `undefined` is null there, and a BigInt that is a safe integer a number.
const SAME: &str = "const same = (sent, got) => { \
     if (sent === undefined) return got === null; \
     if (typeof sent === 'bigint' && BigInt.asIntN(54, sent) === sent && sent !== -(2n ** 53n)) return got === Number(sent); \
     if (sent instanceof Uint8Array) return got instanceof Uint8Array && sent.length === got.length && sent.every((byte, n) => byte === got[n]); \
     return Object.is(sent, got); };";

async fn come_back(lanes: &Lanes, dsn: &str, driver: &'static str) {
    let source = source(dsn, driver) + SAME;
    let run = spawn(lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js").unwrap();
        let vm = RefCell::new(vm);
        // Longer with PROPTEST_CASES.
        let mut runner = TestRunner::default();
        let values = prop::collection::vec(value(driver != "postgres"), 1..6);
        runner
            .run(&values, |values| {
                let columns: Vec<String> = (0..values.len())
                    .map(|n| match driver {
                        "postgres" => format!("?::{} c{n}", values[n].1),
                        _ => format!("? c{n}"),
                    })
                    .collect();
                let arguments: Vec<&str> = values.iter().map(|(text, _)| text.as_str()).collect();
                let expression = format!(
                    "(() => {{ const sent = [{}]; const rows = db.Query('SELECT {}', ...sent); \
                     return rows === null ? db.Error : sent.every((value, n) => same(value, rows[0]['c' + n])) }})()",
                    arguments.join(", "),
                    columns.join(", ")
                );
                let shown = vm.borrow_mut().eval(&expression).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(shown, "true", "{}", expression);
                Ok(())
            })
            .map_err(|error| error.to_string())
    });
    run.1.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_from_sqlite() {
    come_back(&some_lanes(), ":memory:", "sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_from_mariadb() {
    come_back(&some_lanes(), &DatabaseServer::mariadb().dsn(), "mysql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_from_postgres() {
    come_back(&some_lanes(), &DatabaseServer::postgres().dsn(), "postgres").await;
}

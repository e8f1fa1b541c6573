//! The `sql` module against SQLite, a real MariaDB and a real PostgreSQL.

use std::sync::Arc;

use super::*;
use crate::egress::Egress;
use crate::sql::{Config, Databases};

mod mysql;
mod postgres;
mod roundtrip;
mod servers;
mod sharing;
mod sqlite;
mod transactions;

/// Lanes whose scripts have databases.
fn lanes_with(config: Config) -> Lanes {
    lanes_of(Databases::new(config).unwrap())
}

fn lanes_of(databases: Databases) -> Lanes {
    Lanes::start(&LanesConfig {
        count: 2,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        #[cfg(feature = "http")]
        http: None,
        #[cfg(feature = "redis")]
        redis: None,
        preload: [].into(),
        sql: Some(databases),
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: Arc::new(|_| {}),
    })
    .unwrap()
}

fn some_lanes() -> Lanes {
    lanes_with(Config::default())
}

/// A script with a database as `db`.
fn source(dsn: &str, driver: &str) -> String {
    format!("const db = sql.New({dsn:?}, {driver:?});")
}

/// What each expression evaluates to, in one script and in order.
async fn evaluate(lanes: &Lanes, source: &str, expressions: &[&str]) -> Vec<String> {
    let source = source.to_owned();
    let expressions: Vec<String> = expressions.iter().map(|&expression| expression.to_owned()).collect();
    let run = spawn(lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js").unwrap();
        let shown = expressions.iter().map(|expression| match vm.eval(expression) {
            Ok(text) => text,
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        });
        shown.collect::<Vec<_>>()
    });
    run.1.await
}

/// Compares what each expression evaluates to.
async fn check(lanes: &Lanes, source: &str, cases: &[(&str, &str)]) {
    let expressions: Vec<&str> = cases.iter().map(|(expression, _)| *expression).collect();
    let shown = evaluate(lanes, source, &expressions).await;
    for (n, (expression, expected)) in cases.iter().enumerate() {
        assert_eq!(shown[n], *expected, "{expression}, and then {:?}", shown.get(n + 1));
    }
}

/// Waits for something that happens by itself.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not: {what}");
}

#[tokio::test]
async fn a_script_without_databases_pays_next_to_nothing_for_them() {
    let lanes = some_lanes();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        vm.load("", "test.js").unwrap();
        vm.eval("[1].map(a => a + 1), 1").unwrap();
        let before = vm.memory_used();
        vm.eval("delete globalThis.sql").unwrap();
        before - vm.memory_used()
    });
    let bytes = run.1.await;
    assert!(bytes < 512, "{bytes}");
}

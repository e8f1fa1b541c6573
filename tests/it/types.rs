//! `hats.d.ts` says what is there: each script among the examples is checked against it, and it is compared with the names
//! that a script really finds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::worker::{Options, Worker, run, workspace};
use hats_tests::{Lab, clock, npm};
use serde_json::Value;

use crate::examples::{COVERED, printed};

const PATIENCE: Duration = Duration::from_secs(30);
const TYPESCRIPT: &str = "5.9.3";

/// Declared, and still to be made. A name that is there has to go from this list.
const TO_BE_MADE: [&str; 0] = [];

/// Declared, but not for the threads that this test looks into. What jobs have more than threads is compared where a job's
/// scope is tested.
const NOT_IN_THREADS: [&str; 3] = ["job", "request", "response"];

/// There by the engine's doing, and not declared: nothing to be relied on.
const OF_THE_ENGINE: [&str; 1] = ["InternalError"];

type Names = BTreeMap<String, BTreeSet<String>>;

fn compiler(arguments: &[String]) -> Result<Value> {
    let typescript = npm::package("typescript", TYPESCRIPT)?;
    let output = Command::new("node")
        .arg("tests/it/types/compiler.cjs")
        .arg(typescript)
        .args(arguments)
        .current_dir(workspace())
        .output()
        .context("node is needed to run the TypeScript compiler")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn declarations() -> String {
    let path: PathBuf = workspace().join("crates/hats-script/hats.d.ts");
    path.to_string_lossy().into_owned()
}

/// The names and members of a list of pairs, or of an object.
fn names(value: &Value) -> Result<Names> {
    serde_json::from_value(value.clone()).context("no names")
}

#[test]
fn every_example_is_typed() -> Result<()> {
    let scripts = COVERED.into_iter().filter(|name| name.ends_with(".js") || name.ends_with(".ts"));
    let scripts = scripts.map(|name| match name {
        // It uses what the library defines.
        "preload/main.js" => "examples/preload/main.js,examples/preload/text.js".to_owned(),
        name => format!("examples/{name}"),
    });
    let arguments = ["check".to_owned(), declarations()].into_iter().chain(scripts);
    let wrong = compiler(&arguments.collect::<Vec<_>>())?;
    let wrong = wrong.as_object().context("no answer")?;
    let shown: String = wrong.values().filter_map(Value::as_str).collect();
    ensure!(wrong.is_empty(), "{shown}");
    Ok(())
}

#[test]
fn what_is_wrong_is_found() -> Result<()> {
    Lab::run("wrong types", |lab| {
        let script = lab.path().join("wrong.js");
        std::fs::write(
            &script,
            "env.Set('k', {}); redis.Blpop('k', 1); document.title; thread.Stopped = true;",
        )?;
        let script = script.to_string_lossy().into_owned();
        let wrong = compiler(&["check".to_owned(), declarations(), script.clone()])?;
        let shown = wrong[&script].as_str().unwrap_or_default();
        for part in ["bigint", "'string' is not assignable", "'document'", "'Stopped'"] {
            ensure!(shown.contains(part), "no {part} in {shown}");
        }
        Ok(())
    })
}

#[test]
fn what_is_declared_is_there_and_nothing_else() -> Result<()> {
    let known = compiler(&["names".to_owned(), declarations()])?;
    let declared = names(&known["declared"])?;
    let language: BTreeSet<String> = serde_json::from_value(known["language"].clone())?;
    let present = present()?;

    let is_type = |name: &str| name.starts_with("type ");
    let base = |name: &str| name.strip_prefix("static ").unwrap_or(name).to_owned();
    let absent: BTreeSet<&str> = TO_BE_MADE.into_iter().chain(NOT_IN_THREADS).collect();
    for name in &absent {
        ensure!(!present.contains_key(*name), "{name} is there: take it from the list of what is to be made");
        ensure!(declared.contains_key(*name), "{name} is to be made, but not declared");
    }
    for (name, members) in &declared {
        if is_type(name) && !present.contains_key(name) || absent.contains(&*base(name)) {
            continue;
        }
        let found = present.get(name).with_context(|| format!("{name} is declared, but not there"))?;
        ensure!(members == found, "{name}: declared {members:?}, there {found:?}");
    }
    let undeclared = present.keys().filter(|name| {
        let name = base(name);
        !declared.contains_key(&name) && !language.contains(&name) && !OF_THE_ENGINE.contains(&&*name)
    });
    let undeclared: Vec<_> = undeclared.collect();
    ensure!(undeclared.is_empty(), "there, but not declared: {undeclared:?}");
    Ok(())
}

/// What a thread finds.
fn present() -> Result<Names> {
    let mut present = Names::new();
    Lab::run("names", |lab| {
        let options = Options::bare("names").argument("--scripts", "tests/it/types/present.js");
        let worker = Worker::start(lab, options.argument("--log-format", "json"))?;
        clock::wait_for("all names", PATIENCE, || {
            Ok(printed(worker.log()).iter().any(|line| line == "done").then_some(()))
        })?;
        worker.drain(PATIENCE)?;
        for line in printed(worker.log()).iter().filter(|line| *line != "done") {
            let (name, members): (String, BTreeSet<String>) =
                serde_json::from_str(line).with_context(|| line.clone())?;
            present.insert(name, members);
        }
        Ok(())
    })?;
    Ok(present)
}

#[test]
fn the_worker_prints_them() -> Result<()> {
    let output = run(&["types"])?;
    ensure!(output.code == 0 && output.stderr.is_empty(), "{output:?}");
    assert_eq!(output.stdout, std::fs::read_to_string(declarations())?);
    Ok(())
}

//! Libraries that every script of a worker has: real ones, and broken ones.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::worker::{Options, Worker, run};
use hats_tests::{Lab, npm};

const PATIENCE: Duration = Duration::from_secs(30);

const UNDERSCORE: (&str, &str) = ("underscore", "1.13.7");
const LODASH: (&str, &str) = ("lodash", "4.17.21");

/// Uses a library as scripts of 2020 did, and reports what it got.
fn check(name: &str, package: (&str, &str), files: &[&str], script: &str, expected: &str) -> Result<()> {
    let folder = npm::package(package.0, package.1)?;
    for file in files {
        Lab::run(name, |lab| {
            let main = lab.path().join("main.js");
            fs::write(&main, script)?;
            let library = folder.join(file);
            let options = Options::bare(name)
                .argument("--scripts", main.to_str().context("a path that is no text")?)
                .argument("--preload", library.to_str().context("a path that is no text")?);
            let worker = Worker::start(lab, options)?;
            worker.wait_for_line(expected, PATIENCE)?;
            worker.drain(PATIENCE)?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn underscore_is_there_as_in_2020() -> Result<()> {
    let script = "
        var total = _.chain([1, 2, 3, 4]).filter(function (n) { return n % 2 === 0 }).map(function (n) { return n * n })
            .reduce(function (a, b) { return a + b }, 0).value();
        var hello = _.template('hello <%= name %>')({ name: 'you' });
        function main() {
            console.log('underscore', _.VERSION, total, hello, _.isEqual({ a: [1] }, { a: [1] }), this._ === _);
            sleep(1e6);
        }";
    let files = ["underscore-umd.js", "underscore-umd-min.js"];
    check("underscore", UNDERSCORE, &files, script, "underscore 1.13.7 20 hello you true true")
}

#[test]
fn lodash_is_there_for_modules_too() -> Result<()> {
    let script = "
        const grouped = _.groupBy(['one', 'two', 'three'], 'length');
        export async function main() {
            const debounced = await new Promise((resolve) => _.debounce(resolve, 5)('late'));
            console.log('lodash', _.VERSION, grouped, _.cloneDeep({ a: [1] }), debounced, _.camelCase('so it is'));
            sleep(1e6);
        }";
    let expected = r#"lodash 4.17.21 { 3: ["one", "two"], 5: ["three"] } { a: [1] } late soItIs"#;
    check("lodash", LODASH, &["lodash.js", "lodash.min.js"], script, expected)
}

#[test]
fn a_broken_library_stops_the_worker_at_its_start() -> Result<()> {
    Lab::run("broken libraries", |lab| {
        for (name, text, expected) in [
            ("syntax.js", "var a = 1;\nvar b = ;", vec!["SyntaxError", "syntax.js:2:"]),
            (
                "throws.js",
                "\n\nthrow new RangeError('not here');",
                vec!["RangeError: not here", "throws.js:3:"],
            ),
            ("module.js", "export const x = 1;", vec!["SyntaxError", "It seems to be an ES module."]),
            (
                "effect.js",
                "redis.Call('SET', 'k', 1);",
                vec!["only from functions that a script calls", "effect.js:1:"],
            ),
            ("enum.ts", "enum E { A }", vec!["enum.ts:1:1: cannot strip an enum"]),
        ] {
            let path = lab.path().join(name);
            fs::write(&path, text)?;
            let path = path.to_str().context("a path that is no text")?;
            let output = run(&["--preload", path])?;
            ensure!(output.code == 2, "{output:?}");
            for part in expected {
                ensure!(output.stderr.contains(part), "{name}: no {part:?} in {output:?}");
            }
        }
        Ok(())
    })
}

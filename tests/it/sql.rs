//! Databases of real workers: the folder for SQLite files is a setting, and a drain lets a statement come to its end.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hats_tests::Lab;
use hats_tests::worker::{Options, Worker};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn what_a_worker_has_written_the_next_one_finds() -> Result<()> {
    Lab::run("sqlite", |lab| {
        let script = lab.path().join("count.js");
        fs::write(
            &script,
            "const db = sql.New('counts/app.db', 'sqlite'); \
             db.Exec('CREATE TABLE IF NOT EXISTS starts (worker TEXT, ended INT DEFAULT 0)'); \
             db.Exec('INSERT INTO starts (worker) VALUES (?)', worker.Name); \
             console.log('starts', JSON.stringify(db.Query('SELECT * FROM starts ORDER BY rowid')), db.Error, 'end'); \
             function cleanup() { db.Exec('UPDATE starts SET ended = 1 WHERE worker = ?', worker.Name) }",
        )?;
        let folder = lab.path().join("databases");
        fs::create_dir_all(folder.join("counts"))?;
        let start = |name: &str| {
            let options = Options::bare(name)
                .argument("--scripts", &script.to_string_lossy())
                .argument("--worker-name", name)
                .argument("--sqlite-dir", &folder.to_string_lossy());
            let worker = Worker::start(lab, options)?;
            let line = worker.wait_for_line(" end", PATIENCE)?;
            worker.drain(PATIENCE)?;
            anyhow::Ok(line)
        };
        let first = start("first")?;
        ensure!(first.contains(r#"starts [{"worker":"first","ended":0}] undefined end"#), "{first}");
        let second = start("second")?;
        let expected = r#"starts [{"worker":"first","ended":1},{"worker":"second","ended":0}] undefined end"#;
        ensure!(second.contains(expected), "{second}");
        Ok(())
    })
}

#[test]
fn a_drain_lets_a_statement_end_and_then_interrupts_it() -> Result<()> {
    // Counts to a number that takes a while, then to one that takes for ever.
    let count = |to: &str| {
        format!(
            "db.Query('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {to}) SELECT max(i) m FROM n')"
        )
    };
    Lab::run("drain", |lab| {
        for (name, to, timeout, expected) in [
            ("long", "3000000", "20s", "counted [ { m: 3000000 } ]"),
            ("endless", "-1", "300ms", "cleaned [ { a: 1 } ]"),
        ] {
            let script = lab.path().join(format!("{name}.js"));
            let source = format!(
                "const db = sql.New(':memory:', 'sqlite'); \
                 function main() {{ console.log('begun'); console.log('counted', {}) }} \
                 function cleanup() {{ console.log('cleaned', db.Query('SELECT 1 a')) }}",
                count(to)
            );
            fs::write(&script, source)?;
            let options = Options::bare(name)
                .argument("--scripts", &script.to_string_lossy())
                .argument("--drain-timeout", timeout);
            let worker = Worker::start(lab, options)?;
            worker.wait_for_line("begun", PATIENCE)?;
            worker.drain(PATIENCE)?;
            let log = fs::read_to_string(worker.log()).context("no log")?;
            let flat = log.replace("[{", "[ {").replace("}]", "} ]");
            ensure!(flat.contains(expected), "{name}: {log}");
            ensure!(log.contains("cleaned"), "{name}: {log}");
        }
        Ok(())
    })
}

//! What the fields of a job's definition do in a real cluster.

use std::time::Duration;

use anyhow::{Result, ensure};
use hats_tests::cluster::{Cluster, NAME, Shape};
use hats_tests::{Lab, clock};

/// Writes definitions: the name, the source, and further fields with their values.
fn define(cluster: &Cluster, jobs: &[(&str, &str, &[&str])]) -> Result<()> {
    for (name, source, fields) in jobs {
        let key = key(name);
        let fixed = ["HSET", &key, "Source", source, "Cron", "* * * * * *"];
        cluster.redis.ask(&[&fixed[..], fields].concat())?;
    }
    Ok(())
}

fn key(name: &str) -> String {
    format!("{NAME}:Jobs:{name}")
}

fn list(cluster: &Cluster, name: &str) -> Result<Vec<String>> {
    Ok(cluster.redis.ask(&["LRANGE", name, "0", "-1"])?.texts())
}

/// Waits until a field of a hash is as it should be.
fn becomes(cluster: &Cluster, key: &str, field: &str, right: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    let waited = clock::wait_for(&format!("{field} of {key}"), Duration::from_secs(20), || {
        last = cluster.redis.field(key, field)?;
        Ok(right(&last).then_some(()))
    });
    waited.map_err(|error| error.context(format!("it is {last:?}")))?;
    Ok(last)
}

fn at_least(cluster: &Cluster, name: &str, field: &str, least: u64) -> Result<()> {
    becomes(cluster, &format!("{NAME}:Ticks:{name}"), field, |text| text.parse::<u64>().unwrap_or(0) >= least)
        .map(drop)
}

#[test]
fn overlap_timeout_and_retries_do_what_they_say() -> Result<()> {
    Lab::run("jobs", |lab| {
        let cluster = Cluster::start(lab, Shape { workers: 2, threads: 0, ..Shape::default() })?;
        cluster.acquainted()?;
        let slow = r#"function main() { sleep(1700); redis.Call("RPUSH", "ended:" + job.Key, job.Tick.getTime()); }"#;
        let yields = r#"
            function main() {
                while (!job.Stopped) sleep(5000);
                redis.Call("RPUSH", "ended:" + job.Key, job.Tick.getTime());
            }"#;
        define(
            &cluster,
            &[
                ("forbid", slow, &[]),
                ("buffer", slow, &["Overlap", "buffer"]),
                ("allow", slow, &["Overlap", "allow"]),
                ("replace", yields, &["Overlap", "replace"]),
                ("timeout", "function main() { while (true) {} }", &["Timeout", "1"]),
                (
                    "third",
                    r#"if (job.Attempt < 3) throw new Error("not yet")"#,
                    &["Retries", "2", "Overlap", "allow"],
                ),
                ("source", "function (", &[]),
                ("field", "1", &["Retries", "many"]),
                ("once", r#"job.Disable(); redis.Call("INCR", "once")"#, &[]),
                ("jitter", "1", &["Jitter", "1"]),
            ],
        )?;
        for name in ["forbid", "buffer"] {
            at_least(&cluster, name, "Ran", 2)?;
            at_least(&cluster, name, "Skipped", 1)?;
        }
        at_least(&cluster, "allow", "Ran", 3)?;
        let skipped = cluster.redis.field(&format!("{NAME}:Ticks:allow"), "Skipped")?;
        ensure!(skipped.is_empty(), "{skipped} ticks were skipped beside runs that are allowed");
        at_least(&cluster, "replace", "Ran", 2)?;
        at_least(&cluster, "timeout", "Failed", 1)?;
        becomes(&cluster, &key("timeout"), "Error", |error| {
            error.contains("TimeoutError") && error.contains("1s")
        })?;
        at_least(&cluster, "third", "Ran", 2)?;
        at_least(&cluster, "jitter", "Ran", 2)?;
        becomes(&cluster, &key("source"), "Error", |error| error.contains("SyntaxError"))?;
        becomes(&cluster, &key("field"), "Error", |error| {
            error.contains("Retries") && error.contains("many")
        })?;
        for name in ["source", "field", "timeout"] {
            becomes(&cluster, &key(name), "State", |state| state == "crashed")?;
        }
        becomes(&cluster, &key("once"), "Status", |status| status == "disabled")?;
        // What was wrong is mended, and says so no more.
        define(&cluster, &[("source", "1", &[]), ("field", "1", &["Retries", "1"])])?;
        for name in ["source", "field"] {
            becomes(&cluster, &key(name), "State", |state| state != "crashed")?;
            becomes(&cluster, &key(name), "Error", str::is_empty)?;
            at_least(&cluster, name, "Ran", 1)?;
        }
        for name in ["forbid", "buffer", "replace"] {
            let ended = list(&cluster, &format!("ended:{}", key(name)))?;
            ensure!(ended.is_sorted(), "{name}: {ended:?}");
        }
        ensure!(cluster.redis.ask(&["GET", "once"])?.text().as_deref() == Some("1"), "it ran on");
        // Runs that are allowed beside each other are no violation, and are not looked at by the check.
        for seat in &cluster.seats {
            seat.worker.drain(Duration::from_secs(15))?;
        }
        Ok(())
    })
}

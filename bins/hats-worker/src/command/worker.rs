//! `hats-worker worker …`: who is in the cluster, and draining one of them.

use std::time::Duration;

use clap::{Args, Subcommand};
use hats_core::Error;
use hats_core::config::AdminConfig;
use hats_core::workers::{WorkerStatus, Workers};
use serde_json::json;

use super::{Output, columns, plain, to_json};

/// What can be done to workers.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// All workers: who they are, how they are, and what they have
    List(Output),
    /// One worker
    Show(One),
    /// Have a worker give everything back and stop; started again under its name it takes part again
    Drain(One),
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Name of the worker
    name: String,
    #[command(flatten)]
    output: Output,
}

impl Command {
    pub(super) async fn run(&self, config: &AdminConfig) -> Result<(), Error> {
        let workers = Workers::connect(config).await?;
        match self {
            Self::List(output) => {
                let rows = workers.list().await?;
                output.print(|| rows.iter().map(to_json).collect(), || table(&rows))
            }
            Self::Show(one) => {
                let row = workers.show(&one.name).await?;
                one.output.print(|| to_json(&row), || details(&row))
            }
            Self::Drain(one) => {
                workers.drain(&one.name).await?;
                one.output.print(
                    || json!({ "name": one.name, "outcome": "asked to drain" }),
                    || format!("{}: asked to drain and stop\n", plain(&one.name, false)),
                )
            }
        }
    }
}

fn age(row: &WorkerStatus) -> String {
    row.age_seconds.map_or_else(|| "-".to_owned(), |age| format!("{:?}", Duration::from_secs(age)))
}

/// One line per worker; columns as wide as what stands in them.
fn table(rows: &[WorkerStatus]) -> String {
    let mut cells =
        vec![["NAME", "STATUS", "STATE", "THREADS", "AGE", "LABELS", "CLAIMS"].map(str::to_owned)];
    for row in rows {
        cells.push([
            plain(&row.name, false),
            row.status.to_owned(),
            plain(&row.state, false),
            row.threads.to_string(),
            age(row),
            plain(if row.labels.is_empty() { "-" } else { &row.labels }, false),
            plain(&row.claims, false),
        ]);
    }
    columns(&cells)
}

fn details(row: &WorkerStatus) -> String {
    let most = row.max_threads.map_or_else(|| "any number".to_owned(), |most| most.to_string());
    let lines = [
        ("Name", row.name.clone()),
        ("Status", row.status.to_owned()),
        ("State", row.state.clone()),
        ("Threads", row.threads.to_string()),
        ("Most", most),
        ("Weight", row.weight.clone()),
        ("Labels", row.labels.clone()),
        ("Claims", row.claims.clone()),
        ("Age", age(row)),
        ("Host", row.host.clone()),
        ("Pid", row.pid.clone()),
        ("Version", row.version.clone()),
    ];
    lines.iter().map(|(name, value)| format!("{name:<9}{}\n", plain(value, false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> WorkerStatus {
        WorkerStatus {
            name: name.to_owned(),
            status: "enabled",
            state: "online".to_owned(),
            threads: 12,
            weight: "1".to_owned(),
            max_threads: None,
            labels: "gpu,zone=eu".to_owned(),
            claims: "open".to_owned(),
            host: "box".to_owned(),
            pid: "7".to_owned(),
            version: "0.1.0".to_owned(),
            age_seconds: Some(3661),
        }
    }

    #[test]
    fn workers_are_shown_in_columns() {
        let gone = WorkerStatus {
            state: "gone".to_owned(),
            threads: 0,
            labels: String::new(),
            claims: "refused: \u{1b}[31mfull".to_owned(),
            age_seconds: None,
            ..row("b")
        };
        let expected = "\
NAME   STATUS   STATE   THREADS  AGE    LABELS       CLAIMS
otter  enabled  online  12       3661s  gpu,zone=eu  open
b      enabled  gone    0        -      -            refused: \\u{1b}[31mfull
";
        assert_eq!(table(&[row("otter"), gone]), expected);
    }

    #[test]
    fn one_worker_is_shown_in_lines() {
        let text = details(&row("otter"));
        assert!(text.starts_with("Name     otter\nStatus   enabled\n"), "{text}");
        assert!(text.contains("\nMost     any number\n"), "{text}");
    }
}

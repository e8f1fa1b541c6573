//! `hats-worker job …`.

use clap::{Args, Subcommand};
use hats_core::Error;
use hats_core::jobs::{Preview, preview};
use serde_json::{Value, json};

use super::{plain, print};

/// What can be asked about jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a schedule says and when it is due; needs no Redis
    Next(NextArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NextArgs {
    /// Five fields (minute hour day-of-month month day-of-week), six with a second before them, @daily and the like,
    /// or @every 90s
    cron: String,
    /// Time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// How many runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Only runs after this time, such as 2026-03-29T01:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) fn run(&self) -> Result<(), Error> {
        let Self::Next(next) = self;
        let preview = preview(&next.cron, next.tz.as_deref(), next.from.as_deref(), next.count.into())?;
        if next.json {
            print(&format!("{:#}\n", as_json(&preview)))
        } else {
            print(&plain(&as_text(&preview), true))
        }
    }
}

fn as_json(preview: &Preview) -> Value {
    let runs: Vec<Value> =
        preview.runs.iter().map(|run| json!({ "utc": run.utc, "local": run.local })).collect();
    json!({ "sentence": preview.sentence, "zone": preview.zone, "next": runs, "note": preview.note })
}

fn as_text(preview: &Preview) -> String {
    let mut text = format!("{}\n", preview.sentence);
    // A zone that shows the same everywhere needs no column.
    let zone = preview.zone.as_deref().filter(|zone| *zone != "UTC");
    let width = preview.runs.iter().map(|run| run.utc.len()).max().unwrap_or_default();
    if let Some(zone) = zone {
        text.push_str(&format!("{:width$}  {zone}\n", "UTC"));
    }
    for run in &preview.runs {
        match zone {
            Some(_) => text.push_str(&format!("{:width$}  {}\n", run.utc, run.local)),
            None => text.push_str(&format!("{}\n", run.utc)),
        }
    }
    if let Some(note) = &preview.note {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Option<&str> = Some("2026-03-28T12:00:00Z");

    #[test]
    fn both_times_are_shown_where_they_differ() {
        let text = as_text(&preview("0 30 2 * * *", Some("europe/berlin"), FROM, 2).unwrap());
        let expected = "\
at 02:30, Europe/Berlin time
UTC                   Europe/Berlin
2026-03-29T01:00:00Z  2026-03-29T03:00:00+02:00
2026-03-30T00:30:00Z  2026-03-30T02:30:00+02:00
";
        assert_eq!(text, expected);
        let text = as_text(&preview("@every 1h", None, FROM, 2).unwrap());
        assert_eq!(text, "every hour\n2026-03-28T13:00:00Z\n2026-03-28T14:00:00Z\n");
    }

    #[test]
    fn five_fields_have_a_note() {
        let text = as_text(&preview("30 2 * * *", None, FROM, 1).unwrap());
        assert!(
            text.starts_with("at 02:30, UTC time\n2026-03-29T02:30:00Z\nnote: workers of 2020 "),
            "{text}"
        );
    }
}

//! `hats-worker endpoint …`.

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use hats_core::Error;
use hats_core::admin::SOURCE_BYTES_MAX;
use hats_core::config::AdminConfig;
use hats_core::endpoints::{EndpointFile, EndpointKind, EndpointOptions, EndpointRow, Endpoints, PutOutcome};
use serde_json::{Value, json};

use super::{LimitArgs, Output, columns, plain, push_lines, put_word, read_stdin, short, to_json};

/// What can be done to endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a page, a handler or a file, or change one; the workers that serve endpoints answer with it
    Put(Box<PutArgs>),
    /// Show all endpoints
    List(Output),
    /// Show one endpoint, with its source
    Show(One),
    /// Serve an endpoint
    Enable(One),
    /// Answer as if there were no such endpoint, until it is enabled
    Disable(One),
    /// Remove an endpoint
    Remove(One),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// What it answers: /a/b, exact but for parameters, /users/:id
    path: String,
    /// File with it, - for standard input
    file: String,
    /// What it is. Without it .html is a template, a script with a default export a handler, and any other file is sent
    /// as it is
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// What its answers are, such as text/plain [default: text/html; charset=utf-8, of a static file what its name says]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Register it disabled, or disable it
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Text with code in it, <? … ?>
    Template,
    /// A module with a default export
    Handler,
    /// Sent as it is
    Static,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Path of the endpoint
    path: String,
    #[command(flatten)]
    output: Output,
}

impl Command {
    pub(super) async fn run(&self, config: &AdminConfig) -> Result<(), Error> {
        if let Self::Put(put) = self {
            return put.run(config).await;
        }
        let endpoints = Endpoints::connect(config).await?;
        match self {
            Self::Put(_) => Ok(()),
            Self::List(output) => {
                let rows = endpoints.list().await?;
                output.print(|| rows.iter().map(to_json).collect(), || table(&rows))
            }
            Self::Show(one) => {
                let row = endpoints.show(&one.path).await?;
                one.output.print(|| to_json(&row), || details(&row))
            }
            Self::Enable(one) => one.done(endpoints.enable(&one.path).await, "enabled"),
            Self::Disable(one) => one.done(endpoints.disable(&one.path).await, "disabled"),
            Self::Remove(one) => one.done(endpoints.remove(&one.path).await, "removed"),
        }
    }
}

impl PutArgs {
    async fn run(&self, config: &AdminConfig) -> Result<(), Error> {
        // What is wrong with these does not need Redis to be told.
        let kind = self.kind.map(EndpointKind::from);
        let file = match self.file.as_str() {
            "-" => EndpointFile::from_bytes(read_stdin()?.into(), kind, "-")?,
            file => EndpointFile::read(Path::new(file), kind, SOURCE_BYTES_MAX)?,
        };
        let options = self.options();
        Endpoints::check(&self.path, &file, &options)?;
        let endpoints = Endpoints::connect(config).await?;
        let outcome = endpoints.put(&self.path, &file, &options).await?;
        self.output.print(|| self.outcome_json(&file, outcome), || self.outcome_text(&file, outcome))
    }

    fn options(&self) -> EndpointOptions {
        EndpointOptions {
            disabled: self.disabled,
            content_type: self.content_type.clone(),
            memory_limit: self.limits.memory_limit.clone(),
            stack_limit: self.limits.stack_limit.clone(),
            call_timeout: self.limits.call_timeout.clone(),
            source_limit: self.limits.source_limit.clone(),
            http_body_limit: self.limits.http_body_limit.clone(),
            log_line_limit: self.limits.log_line_limit.clone(),
        }
    }

    fn outcome_json(&self, file: &EndpointFile, outcome: PutOutcome) -> Value {
        json!({
            "path": self.path,
            "outcome": put_word(outcome),
            "disabled": outcome.disabled,
            "kind": file.kind().as_str(),
        })
    }

    /// What it was taken for stands there: a script that was meant to answer and is only sent is noticed.
    fn outcome_text(&self, file: &EndpointFile, outcome: PutOutcome) -> String {
        let disabled =
            if outcome.disabled { " (disabled: it is not served until it is enabled)" } else { "" };
        format!("{}: {} as {}{disabled}\n", plain(&self.path, false), put_word(outcome), file.kind().as_str())
    }
}

impl From<Kind> for EndpointKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Template => Self::Template,
            Kind::Handler => Self::Handler,
            Kind::Static => Self::Static,
        }
    }
}

impl One {
    fn done(&self, outcome: Result<(), Error>, what: &str) -> Result<(), Error> {
        outcome?;
        self.output.done("path", &self.path, what)
    }
}

/// One line per endpoint.
fn table(rows: &[EndpointRow]) -> String {
    let mut cells = vec![["PATH", "STATUS", "KIND", "TYPE", "BYTES", "ERROR"].map(str::to_owned)];
    for row in rows {
        cells.push([
            plain(&row.path, false),
            row.status.to_owned(),
            row.kind.unwrap_or("-").to_owned(),
            plain(row.content_type.as_deref().unwrap_or("-"), false),
            row.source_bytes.to_string(),
            short(row.error.as_deref().unwrap_or_default()),
        ]);
    }
    columns(&cells)
}

fn details(row: &EndpointRow) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<13}{value}\n"));
    line("Path", &plain(&row.path, false));
    line("Status", row.status);
    if let Some(poison) = &row.poison {
        line("Poison", &plain(&poison.to_string(), false));
    }
    if let Some(kind) = row.kind {
        line("Kind", kind);
    }
    if let Some(content_type) = &row.content_type {
        line("ContentType", &plain(content_type, false));
    }
    if let Some(etag) = &row.etag {
        line("ETag", &plain(etag, false));
    }
    if let Some(error) = &row.error {
        line("Error", &plain(row.error_time.as_deref().unwrap_or_default(), false));
        for error_line in plain(error, true).lines() {
            text.push_str(&format!("  {error_line}\n"));
        }
    }
    match &row.source {
        Some(source) => {
            text.push_str(&format!("Source       {} bytes\n", source.len()));
            push_lines(&mut text, source);
        }
        None if row.kind == Some("static") => {
            text.push_str(&format!("Source       {} bytes, which are no text\n", row.source_bytes));
        }
        None => {}
    }
    for (path, module) in &row.modules {
        text.push_str(&format!("Module       {}, {} bytes\n", plain(path, false), module.len()));
        push_lines(&mut text, module);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str) -> EndpointRow {
        EndpointRow {
            path: path.to_owned(),
            status: "enabled",
            kind: Some("template"),
            content_type: None,
            etag: None,
            poison: None,
            error: None,
            error_time: None,
            source_bytes: 3,
            source: None,
            modules: Default::default(),
        }
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let failed = EndpointRow {
            status: "disabled",
            kind: None,
            content_type: Some("text/plain".to_owned()),
            error: Some("Error: \u{1b}[31mno\n    at main (b.js:1)".to_owned()),
            ..row("/users/:id")
        };
        let expected = "\
PATH        STATUS    KIND      TYPE        BYTES  ERROR
/           enabled   template  -           3
/users/:id  disabled  -         text/plain  3      Error: \\u{1b}[31mno
";
        assert_eq!(table(&[row("/"), failed]), expected);
        assert_eq!(table(&[]), "PATH  STATUS  KIND  TYPE  BYTES  ERROR\n");
    }

    #[test]
    fn one_endpoint_is_shown_with_error_and_source() {
        let page = EndpointRow {
            error: Some("Error: no\n    at /a:1".to_owned()),
            error_time: Some("2026-01-01T00:00:00Z".to_owned()),
            source: Some("<?= 1 ?>".to_owned()),
            modules: [("lib/b.js".to_owned(), "b\n".to_owned())].into(),
            ..row("/a")
        };
        let expected = "\
Path         /a
Status       enabled
Kind         template
Error        2026-01-01T00:00:00Z
  Error: no
      at /a:1
Source       8 bytes
<?= 1 ?>
Module       lib/b.js, 2 bytes
b
";
        assert_eq!(details(&page), expected);
        let picture = EndpointRow {
            kind: Some("static"),
            content_type: Some("image/png".to_owned()),
            etag: Some("\"d1\"".to_owned()),
            ..row("/a.png")
        };
        let expected = "\
Path         /a.png
Status       enabled
Kind         static
ContentType  image/png
ETag         \"d1\"
Source       3 bytes, which are no text
";
        assert_eq!(details(&picture), expected);
    }
}

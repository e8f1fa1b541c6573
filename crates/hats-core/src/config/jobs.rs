//! The setting `jobs`: which files are jobs, and when they run.
//!
//! ```text
//!  examples/jobs/counter.js=*/5 * * * *     a file and its schedule
//!  examples/jobs/report.ts                  a file that says itself when it runs, in the comment it begins with
//!  examples/jobs                            every such file in a folder
//! ```
//!
//! A flag gives one of these, a variable one in each line, a file a list or a table. What is given there goes before
//! what the file says about itself.

use std::fs;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use hats_cluster::name::TaskName;

use super::Job;
use super::load::text;
use super::value::quoted;
use crate::Error;
use crate::bundle::{EXTENSIONS, Source};
use crate::jobs::{JobOptions, nearest_field, no_schedule};

impl Job {
    /// Reads a job from a file. What it says about itself in the comment it begins with, see
    /// [`JobOptions::of_script`], is added to `given`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the file, and the field if one is wrong.
    pub fn from_file(path: &str, given: JobOptions, bytes_max: usize) -> Result<Self, Error> {
        from_file(path, given, bytes_max).map_err(Error::Config)
    }

    /// Whether workers understand it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.options.cron.is_none() {
            return Err(no_schedule(self.name.as_str()));
        }
        self.options.checked_fields().map(drop).map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Reads all jobs that a value of the setting names.
pub(super) fn read(value: &Value, bytes_max: usize) -> Result<Vec<Job>, String> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut add = |more: Vec<Job>| {
        for job in more {
            match jobs.iter().find(|earlier| earlier.name == job.name) {
                None => jobs.push(job),
                Some(same) if *same == job => {}
                Some(_) => return Err(format!("job {} is there twice", quoted(job.name.as_str()))),
            }
        }
        Ok(())
    };
    match value {
        Value::Dict(_, table) => {
            for (path, says) in table {
                let given = options(says).map_err(|error| format!("{path}: {error}"))?;
                add(at_path(path, given, bytes_max)?)?;
            }
        }
        Value::Array(_, items) => {
            for item in items {
                add(item_of(&text(item)?, bytes_max)?)?;
            }
        }
        other => {
            for line in text(other)?.lines().filter(|line| !line.trim().is_empty()) {
                add(item_of(line, bytes_max)?)?;
            }
        }
    }
    Ok(jobs)
}

/// What stands behind a path in a table: a schedule, or fields.
fn options(says: &Value) -> Result<JobOptions, String> {
    let Value::Dict(_, fields) = says else {
        return Ok(JobOptions { cron: Some(text(says)?), ..JobOptions::default() });
    };
    fields_of(fields)
}

fn fields_of(fields: &Dict) -> Result<JobOptions, String> {
    let mut options = JobOptions::default();
    for (name, value) in fields {
        let nearest = || nearest_field(name);
        let slot = options
            .field_mut(name)
            .ok_or_else(|| format!("unknown key {}; the nearest known one is {}", quoted(name), nearest()))?;
        if slot.is_some() {
            return Err(format!("field {} is there twice", quoted(name)));
        }
        *slot = Some(text(value).map_err(|error| format!("{name}: {error}"))?);
    }
    Ok(options)
}

/// `FILE=CRON`, a file, or a folder.
fn item_of(item: &str, bytes_max: usize) -> Result<Vec<Job>, String> {
    let item = item.trim();
    if item.is_empty() {
        return Err("a value is missing".to_owned());
    }
    match item.split_once('=') {
        // What is there goes by its whole name.
        Some((path, cron)) if !Path::new(item).exists() => {
            let given = JobOptions { cron: Some(cron.trim().to_owned()), ..JobOptions::default() };
            at_path(path.trim(), given, bytes_max)
        }
        _ => at_path(item, JobOptions::default(), bytes_max),
    }
}

fn at_path(path: &str, given: JobOptions, bytes_max: usize) -> Result<Vec<Job>, String> {
    if !Path::new(path).is_dir() {
        return from_file(path, given, bytes_max).map(|job| vec![job]);
    }
    if given != JobOptions::default() {
        return Err(format!("{path} is a folder: its files say themselves when they run"));
    }
    let jobs = files(path)?;
    if jobs.is_empty() {
        tracing::warn!("{path}: a folder of jobs, and there are none in it");
    }
    jobs.iter().map(|path| from_file(path, JobOptions::default(), bytes_max)).collect()
}

/// The scripts in a folder, by name. Those in folders below are what they import; hidden files and declarations of types
/// are none.
fn files(folder: &str) -> Result<Vec<String>, String> {
    let cannot_read = |error: std::io::Error| format!("cannot read {}: {error}", quoted(folder));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot_read)? {
        let path: PathBuf = entry.map_err(cannot_read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let is_script = EXTENSIONS.contains(&&*extension) && !name.starts_with('.');
        let is_types = name.ends_with(".d.ts") || name.ends_with(".d.mts");
        if is_script && !is_types && path.is_file() {
            let whole = path.to_str();
            files.push(whole.ok_or_else(|| format!("{folder}: {name} is not valid UTF-8"))?.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

fn from_file(path: &str, given: JobOptions, bytes_max: usize) -> Result<Job, String> {
    let Source { bundle, left_out } =
        Source::from_file(Path::new(path), bytes_max).map_err(|error| error.to_string())?;
    for left_out in left_out {
        tracing::warn!("{left_out}; it is left out");
    }
    let said = JobOptions::of_script(&bundle.main, path).map_err(|error| error.to_string())?;
    let name = TaskName::new(path).map_err(|error| error.to_string())?;
    let job = Job { name, source: bundle, options: given.or(said) };
    job.check()?;
    Ok(job)
}

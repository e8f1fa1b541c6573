//! What an operator does to the threads of a cluster, for the sub-commands and for programs of one's own.
//!
//! No worker is needed for it, only the cluster's Redis. Nothing in here takes or gives ownership: workers see what
//! was changed and act on it.

use std::time::Duration;

use hats_cluster::admin;
use hats_cluster::name::TaskName;
use hats_cluster::records::{Definition, Fields, Limits, SourceDigest};
use hats_cluster::store::Store;

use crate::Error;
use crate::config::{AdminConfig, Bundle, Config};
use crate::registration::modules;

pub use hats_cluster::admin::{PoisonRow, PutOutcome, ThreadRow};
pub use hats_cluster::records::SOURCE_BYTES_MAX;
pub use hats_cluster::store::Put;

/// How long a connection is tried for.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A field of a definition and what is written into it.
pub(crate) type Field = (&'static str, String);

/// The threads of a cluster.
#[derive(Clone, Debug)]
pub struct Threads {
    store: Store,
}

/// What a thread's definition says beside its source. What is absent stays as it is; the texts are those of the fields
/// in Redis.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Registers it disabled, or disables it.
    pub disabled: bool,
    /// `Hang`, between two calls of `main()`.
    pub hang: Option<String>,
    /// `Restart`: `on-failure` or `never`.
    pub restart: Option<String>,
    /// `Requires`: what a worker must offer to run it, such as `gpu,zone=eu`.
    pub requires: Option<String>,
    /// `MemoryLimit`.
    pub memory_limit: Option<String>,
    /// `StackLimit`.
    pub stack_limit: Option<String>,
    /// `CallTimeout`.
    pub call_timeout: Option<String>,
    /// `SourceLimit`.
    pub source_limit: Option<String>,
    /// `HttpBodyLimit`.
    pub http_body_limit: Option<String>,
    /// `LogLineLimit`.
    pub log_line_limit: Option<String>,
}

impl Threads {
    /// Connects to a cluster's Redis, for a few commands.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::Config`] at once, [`Error::Unreachable`] after 10 s.
    pub async fn connect(config: &AdminConfig) -> Result<Self, Error> {
        Ok(Self { store: connect(config).await? })
    }

    /// Registers a script: replaces `Source` and its modules if they differ, sets a missing `Status` and what the options
    /// say. A text is a script too, by `into()`; what is in files, [`Source`](crate::bundle::Source) reads.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a name, a source or an option that cannot be used; otherwise the outcome is not known,
    /// and it may be repeated.
    pub async fn put(
        &self,
        name: &str,
        source: impl Into<Bundle>,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let name = checked(name)?;
        let source = source.into();
        let (options, limits) = options.checked_fields()?;
        check_length(&source, &limits)?;
        let modules = modules(&source).fields();
        let modules = modules.iter().map(|(field, text)| (field.as_str(), text.clone()));
        let fields: Vec<_> = options.into_iter().chain(modules).collect();
        Ok(admin::put_thread_with(&self.store, &name, &source.main, &fields).await?)
    }

    /// All threads, by name, without their sources.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn list(&self) -> Result<Vec<ThreadRow>, Error> {
        Ok(admin::list_threads(&self.store).await?)
    }

    /// One thread, with its source.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such thread.
    pub async fn show(&self, name: &str) -> Result<ThreadRow, Error> {
        let row = admin::show_thread(&self.store, &checked(name)?).await?;
        row.ok_or_else(|| no_such_thread(name))
    }

    /// Lets a thread run; ends its crash back-off.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such thread.
    pub async fn enable(&self, name: &str) -> Result<(), Error> {
        there_was(admin::set_enabled(&self.store, &checked(name)?, true).await?, name)
    }

    /// Stops a thread in the whole cluster, until it is enabled.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such thread.
    pub async fn disable(&self, name: &str) -> Result<(), Error> {
        there_was(admin::set_enabled(&self.store, &checked(name)?, false).await?, name)
    }

    /// Restarts a thread where it runs; ends its crash back-off where it does not.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such thread.
    pub async fn restart(&self, name: &str) -> Result<(), Error> {
        there_was(admin::restart(&self.store, &checked(name)?).await?, name)
    }

    /// Removes a thread; its owner stops it.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such thread.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        there_was(admin::remove(&self.store, &checked(name)?).await?, name)
    }
}

impl PutOptions {
    /// The fields to write, each known to mean something to a worker, and the limits among them.
    fn checked_fields(&self) -> Result<(Vec<Field>, Limits), Error> {
        let status = self.disabled.then(|| "disabled".to_owned());
        let fields = Fields {
            status: status.as_deref(),
            hang: self.hang.as_deref(),
            restart: self.restart.as_deref(),
            requires: self.requires.as_deref(),
            memory_limit: self.memory_limit.as_deref(),
            stack_limit: self.stack_limit.as_deref(),
            call_timeout: self.call_timeout.as_deref(),
            source_limit: self.source_limit.as_deref(),
            http_body_limit: self.http_body_limit.as_deref(),
            log_line_limit: self.log_line_limit.as_deref(),
            ..Fields::default()
        };
        let definition = Definition::parse("".into(), SourceDigest::of(""), &fields)
            .map_err(|error| Error::Config(error.to_string()))?;
        let all = [
            ("Status", &status),
            ("Hang", &self.hang),
            ("Restart", &self.restart),
            ("Requires", &self.requires),
            ("MemoryLimit", &self.memory_limit),
            ("StackLimit", &self.stack_limit),
            ("CallTimeout", &self.call_timeout),
            ("SourceLimit", &self.source_limit),
            ("HttpBodyLimit", &self.http_body_limit),
            ("LogLineLimit", &self.log_line_limit),
        ];
        let fields = all.into_iter().filter_map(|(field, value)| Some((field, value.clone()?))).collect();
        Ok((fields, definition.limits))
    }
}

/// Connects to a cluster's Redis, for a few commands.
pub(crate) async fn connect(config: &AdminConfig) -> Result<Store, Error> {
    admin::connect(&config.redis, config.cluster_name.clone(), CONNECT_WITHIN)
        .await
        .map_err(|error| Error::at(error, &config.redis))
}

/// Whether a source is as short as it has to be.
pub(crate) fn check_length(source: &Bundle, limits: &Limits) -> Result<(), Error> {
    check_bytes(source.bytes(), limits)
}

/// As [`check_length`], of any source.
pub(crate) fn check_bytes(length: usize, limits: &Limits) -> Result<(), Error> {
    let (length, default) = (length as u64, Config::default().limits.source as u64);
    let limit = limits.source.unwrap_or(default);
    if length > limit {
        return Err(Error::Config(format!(
            "the source has {length} bytes, more than the limit of {limit} (SourceLimit, --source-limit)"
        )));
    }
    Ok(())
}

pub(crate) fn checked(name: &str) -> Result<TaskName, Error> {
    TaskName::new(name).map_err(|error| Error::Config(error.to_string()))
}

fn there_was(thread: bool, name: &str) -> Result<(), Error> {
    if thread { Ok(()) } else { Err(no_such_thread(name)) }
}

fn no_such_thread(name: &str) -> Error {
    Error::Failed(format!("there is no thread `{}`", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_no_worker_would_understand_are_refused() {
        let options = PutOptions { hang: Some("soon".to_owned()), ..PutOptions::default() };
        let error = options.checked_fields().unwrap_err();
        assert!(matches!(error, Error::Config(_)));
        assert!(error.to_string().contains("Hang") && error.to_string().contains("soon"), "{error}");
    }

    #[test]
    fn only_what_is_given_is_written() {
        let options =
            PutOptions { disabled: true, memory_limit: Some("32MiB".to_owned()), ..PutOptions::default() };
        let (fields, limits) = options.checked_fields().unwrap();
        assert_eq!(limits.memory, Some(32 << 20));
        assert_eq!(fields, [("Status", "disabled".to_owned()), ("MemoryLimit", "32MiB".to_owned())]);
        assert!(PutOptions::default().checked_fields().unwrap().0.is_empty());
    }
}

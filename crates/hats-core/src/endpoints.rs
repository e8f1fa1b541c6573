//! Endpoints, for the sub-commands and for programs of one's own: what a file is as an endpoint, which files a folder
//! has, and what an operator does to the endpoints of a cluster.
//!
//! No worker is needed to write or read, only the cluster's Redis; workers that serve endpoints see what was changed.

mod file;
mod folder;

use bytes::Bytes;
use hats_cluster::admin;
use hats_cluster::name::EndpointPath;
use hats_cluster::records::{Endpoint, Limits, SourceDigest};
use hats_cluster::store::Store;

use crate::Error;
use crate::admin::{Field, check_bytes, connect};
use crate::config::AdminConfig;

pub use self::file::EndpointFile;
pub(crate) use self::folder::read as read_folder;
pub use hats_cluster::admin::{EndpointRow, PutOutcome};
pub use hats_cluster::records::EndpointKind;

/// The endpoints of a cluster.
#[derive(Clone, Debug)]
pub struct Endpoints {
    store: Store,
}

/// What an endpoint's definition says beside its source and kind. What is absent stays as it is. An empty text is the
/// default of that field. The texts are those of the fields in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Registers it disabled, or disables it.
    pub disabled: bool,
    /// `ContentType`. Absent, it is for a file that is sent as it is what the name of that file says.
    pub content_type: Option<String>,
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

impl Endpoints {
    /// Connects to a cluster's Redis, for a few commands.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::Config`] at once, [`Error::Unreachable`] after 10 s.
    pub async fn connect(config: &AdminConfig) -> Result<Self, Error> {
        Ok(Self { store: connect(config).await? })
    }

    /// Registers a file: replaces `Source`, its modules and `Kind` if they differ, sets a missing `Status` and what the
    /// options say.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a path, a file or an option that cannot be used; otherwise the outcome is not known, and it
    /// may be repeated.
    pub async fn put(
        &self,
        path: &str,
        file: &EndpointFile,
        options: &EndpointOptions,
    ) -> Result<PutOutcome, Error> {
        let (path, options) = Self::checked(path, file, options)?;
        Ok(put(&self.store, &path, file, options).await?)
    }

    /// Whether [`Endpoints::put`] would take this, which needs no Redis to be told.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a path, a file or an option that cannot be used.
    pub fn check(path: &str, file: &EndpointFile, options: &EndpointOptions) -> Result<(), Error> {
        Self::checked(path, file, options).map(drop)
    }

    fn checked(
        path: &str,
        file: &EndpointFile,
        options: &EndpointOptions,
    ) -> Result<(EndpointPath, Vec<Field>), Error> {
        let path = checked(path)?;
        let (options, limits) = options.checked_fields()?;
        check_bytes(file.bytes(), &limits)?;
        Ok((path, options))
    }

    /// All endpoints, by path, without their sources.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn list(&self) -> Result<Vec<EndpointRow>, Error> {
        Ok(admin::list_endpoints(&self.store).await?)
    }

    /// One endpoint, with its source if that is text.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such endpoint.
    pub async fn show(&self, path: &str) -> Result<EndpointRow, Error> {
        let row = admin::show_endpoint(&self.store, &checked(path)?).await?;
        row.ok_or_else(|| no_such_endpoint(path))
    }

    /// Serves an endpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such endpoint.
    pub async fn enable(&self, path: &str) -> Result<(), Error> {
        there_was(admin::set_endpoint_enabled(&self.store, &checked(path)?, true).await?, path)
    }

    /// Answers as if there were no such endpoint, until it is enabled.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such endpoint.
    pub async fn disable(&self, path: &str) -> Result<(), Error> {
        there_was(admin::set_endpoint_enabled(&self.store, &checked(path)?, false).await?, path)
    }

    /// Removes an endpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when there is no such endpoint.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        there_was(admin::remove_endpoint(&self.store, &checked(path)?).await?, path)
    }
}

/// Registers a file as an endpoint, with further fields.
pub(crate) async fn put(
    store: &Store,
    path: &EndpointPath,
    file: &EndpointFile,
    options: Vec<Field>,
) -> Result<PutOutcome, hats_cluster::Error> {
    let mut fields = file.fields();
    let says_type = |fields: &[(String, String)]| fields.iter().any(|(field, _)| field == "ContentType");
    for (field, value) in options {
        fields.retain(|(own, _)| own != field);
        fields.push((field.to_owned(), value));
    }
    if !says_type(&fields) && was_static(store, path).await? {
        // The type of a picture is not that of the page in its place.
        fields.push(("ContentType".to_owned(), String::new()));
    }
    let fields: Vec<_> = fields.iter().map(|(field, value)| (field.as_str(), value.clone())).collect();
    admin::put_endpoint(store, path, file.source(), &fields).await
}

async fn was_static(store: &Store, path: &EndpointPath) -> Result<bool, hats_cluster::Error> {
    let outlines = store.outline_endpoints(std::slice::from_ref(path)).await;
    let outline = outlines.into_iter().next().transpose()?.flatten();
    let kind = outline.and_then(|outline| outline.read.definition.ok()).and_then(|endpoint| endpoint.kind);
    Ok(kind == Some(EndpointKind::Static))
}

impl EndpointOptions {
    /// The fields to write, each known to mean something to a worker, and the limits among them.
    fn checked_fields(&self) -> Result<(Vec<Field>, Limits), Error> {
        let status = self.disabled.then(|| "disabled".to_owned());
        let all = [
            ("Status", &status),
            ("ContentType", &self.content_type),
            ("MemoryLimit", &self.memory_limit),
            ("StackLimit", &self.stack_limit),
            ("CallTimeout", &self.call_timeout),
            ("SourceLimit", &self.source_limit),
            ("HttpBodyLimit", &self.http_body_limit),
            ("LogLineLimit", &self.log_line_limit),
        ];
        let given = |field: &str| all.iter().find(|(name, _)| *name == field)?.1.as_deref();
        let endpoint = Endpoint::parse(Bytes::new(), SourceDigest::of(""), given)
            .map_err(|error| Error::Config(error.to_string()))?;
        let fields =
            all.into_iter().filter_map(|(field, value)| Some((field, value.as_ref()?.trim().to_owned())));
        Ok((fields.collect(), endpoint.limits))
    }
}

fn checked(path: &str) -> Result<EndpointPath, Error> {
    EndpointPath::new(path).map_err(|error| Error::Config(error.to_string()))
}

fn there_was(endpoint: bool, path: &str) -> Result<(), Error> {
    if endpoint { Ok(()) } else { Err(no_such_endpoint(path)) }
}

fn no_such_endpoint(path: &str) -> Error {
    Error::Failed(format!("there is no endpoint `{}`", path.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_no_worker_would_understand_are_refused() {
        for (options, field) in [
            (EndpointOptions { content_type: Some("html".to_owned()), ..Default::default() }, "ContentType"),
            (EndpointOptions { call_timeout: Some("soon".to_owned()), ..Default::default() }, "CallTimeout"),
        ] {
            let error = options.checked_fields().unwrap_err();
            assert!(matches!(&error, Error::Config(error) if error.contains(field)), "{error}");
        }
    }

    #[test]
    fn only_what_is_given_is_written() {
        let options = EndpointOptions {
            disabled: true,
            content_type: Some(" ".to_owned()),
            memory_limit: Some("32MiB".to_owned()),
            ..EndpointOptions::default()
        };
        let (fields, limits) = options.checked_fields().unwrap();
        assert_eq!(limits.memory, Some(32 << 20));
        let expected = [("Status", "disabled"), ("ContentType", ""), ("MemoryLimit", "32MiB")];
        assert_eq!(fields, expected.map(|(field, value)| (field, value.to_owned())));
        assert!(EndpointOptions::default().checked_fields().unwrap().0.is_empty());
    }
}

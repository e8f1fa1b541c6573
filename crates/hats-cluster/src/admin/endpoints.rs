//! What an operator does to endpoints.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::{PoisonRow, PutOutcome, poison_rows};
use crate::error::Error;
use crate::name::{EndpointPath, Task, TaskKind};
use crate::records::{Endpoint, EndpointKind, EndpointRead};
use crate::store::Store;

/// Registers an endpoint: replaces `Source` if it differs, sets these fields (`Kind`, `ContentType` and the like, and
/// [`Modules::fields`](crate::records::Modules::fields)) in the same step, sets a missing `Status`, leaves `disabled`
/// alone.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn put_endpoint(
    store: &Store,
    path: &EndpointPath,
    source: Bytes,
    fields: &[(&str, String)],
) -> Result<PutOutcome, Error> {
    let (put, status) = store.put_endpoint(path, source, fields).await?;
    store.index_add(TaskKind::Endpoint, std::slice::from_ref(path)).await?;
    Ok(PutOutcome { put, disabled: status == "disabled" })
}

/// Enables or disables an endpoint. Enabling forgets crashes of workers. False: there is no such endpoint.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn set_endpoint_enabled(store: &Store, path: &EndpointPath, enabled: bool) -> Result<bool, Error> {
    if enabled {
        store.absolve(&Task::endpoint(path)).await?;
    }
    let status = if enabled { "enabled" } else { "disabled" };
    store.edit_endpoint(path, &[("Status", status.to_owned())]).await
}

/// Removes an endpoint: requests for it are answered as if it had never been there. False: there is no such endpoint.
///
/// # Errors
/// When the outcome is not known; it may be repeated.
pub async fn remove_endpoint(store: &Store, path: &EndpointPath) -> Result<bool, Error> {
    let existed = store.delete_endpoint(path).await?;
    store.index_remove(TaskKind::Endpoint, std::slice::from_ref(path)).await?;
    Ok(existed)
}

/// An endpoint, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointRow {
    /// Its path.
    pub path: String,
    /// `enabled` or `disabled`.
    pub status: &'static str,
    /// `template`, `handler` or `static`; none: as the source looks, or the definition is malformed.
    pub kind: Option<&'static str>,
    /// What its answers are, unless the script says otherwise.
    pub content_type: Option<String>,
    /// The entity tag of a file, in [`show_endpoint`] only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Crashes of workers that count against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poison: Option<PoisonRow>,
    /// The last error; a malformed field comes first.
    pub error: Option<String>,
    /// When it happened.
    pub error_time: Option<String>,
    /// The length of the source; in [`show_endpoint`] its modules are included.
    pub source_bytes: usize,
    /// The source if it is text, in [`show_endpoint`] only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The files that it imports, in [`show_endpoint`] only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub modules: BTreeMap<String, String>,
}

/// All endpoints, by path.
///
/// # Errors
/// When Redis does not answer.
pub async fn list_endpoints(store: &Store) -> Result<Vec<EndpointRow>, Error> {
    let mut paths = store.scan_endpoints().await?;
    paths.sort();
    let mut rows = Vec::with_capacity(paths.len());
    let tasks: Vec<Task> = paths.iter().map(Task::endpoint).collect();
    let poison = poison_rows(store, &tasks, store.server_time().await?).await?;
    for ((path, outline), poison) in paths.iter().zip(store.outline_endpoints(&paths).await).zip(poison) {
        // One that was deleted in between is left out.
        if let Some(outline) = outline? {
            rows.push(EndpointRow { source_bytes: outline.source_bytes, poison, ..row(path, &outline.read) });
        }
    }
    Ok(rows)
}

/// One endpoint, with its source.
///
/// # Errors
/// When Redis does not answer.
pub async fn show_endpoint(store: &Store, path: &EndpointPath) -> Result<Option<EndpointRow>, Error> {
    let Some(read) = store.read_endpoint(path, None).await? else { return Ok(None) };
    let poison =
        poison_rows(store, &[Task::endpoint(path)], store.server_time().await?).await?.pop().flatten();
    let row = EndpointRow { poison, ..row(path, &read) };
    let Ok(endpoint) = &read.definition else { return Ok(Some(row)) };
    let files = endpoint.modules.files.iter();
    Ok(Some(EndpointRow {
        etag: endpoint.etag.as_deref().map(str::to_owned),
        source_bytes: endpoint.source_bytes(),
        source: endpoint.text().map(str::to_owned),
        modules: files.map(|(path, text)| (path.clone(), text.to_string())).collect(),
        ..row
    }))
}

fn row(path: &EndpointPath, read: &EndpointRead) -> EndpointRow {
    let endpoint: Option<&Endpoint> = read.definition.as_ref().ok();
    EndpointRow {
        path: path.to_string(),
        status: if read.enabled { "enabled" } else { "disabled" },
        kind: endpoint.and_then(|endpoint| endpoint.kind).map(EndpointKind::as_str),
        content_type: endpoint.and_then(|endpoint| endpoint.content_type.as_deref()).map(str::to_owned),
        etag: None,
        poison: None,
        error: match &read.definition {
            Err(error) => Some(error.to_string()),
            Ok(_) => read.error.clone(),
        },
        error_time: read.error_time.clone(),
        source_bytes: 0,
        source: None,
        modules: BTreeMap::new(),
    }
}

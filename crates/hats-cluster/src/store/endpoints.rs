//! Endpoints: reading, registering and removing them, and telling people how they fail.

use std::collections::HashMap;

use bytes::Bytes;
use fred::types::Value;

use super::definitions::{read_at, wall_clock_text};
use super::{Call, Put, SOURCES_MAX, Store, distinct, lua};
use crate::error::Error;
use crate::keys::Key;
use crate::name::{EndpointPath, TaskKind};
use crate::records::{ENDPOINT_FIELDS, Endpoint, EndpointRead, Modules, SourceDigest};

/// Asked for behind the others.
const MIRROR_FIELDS: [&str; 2] = ["Error", "ErrorTime"];

impl Store {
    /// Reads an endpoint. None: there is no such endpoint. The source comes over the wire only if it differs from the one
    /// that is `known`.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn read_endpoint(
        &self,
        path: &EndpointPath,
        known: Option<&Endpoint>,
    ) -> Result<Option<EndpointRead>, Error> {
        let call = self.read_endpoint_call(path, known);
        Ok(parse(self.run(call).await?, known))
    }

    /// Reads many endpoints, in pipelines; the answers come in order.
    pub async fn read_endpoints(&self, paths: &[EndpointPath]) -> Vec<Result<Option<EndpointRead>, Error>> {
        let calls = paths.iter().map(|path| self.read_endpoint_call(path, None)).collect();
        let replies = self.run_chunks(calls, SOURCES_MAX).await;
        replies.into_iter().map(|reply| Ok(parse(reply?, None))).collect()
    }

    fn read_endpoint_call(&self, path: &EndpointPath, known: Option<&Endpoint>) -> Call {
        let fields = ENDPOINT_FIELDS.iter().chain(&MIRROR_FIELDS).copied();
        read_at(self.keys().endpoint(path), known.map(|known| &known.digest), fields)
    }

    /// The paths of all endpoints that have a definition, by SCAN.
    ///
    /// # Errors
    /// When Redis does not answer; then nothing is known.
    pub async fn scan_endpoints(&self) -> Result<Vec<EndpointPath>, Error> {
        let mut paths = Vec::new();
        self.scan_pages(&self.keys().definitions_pattern(TaskKind::Endpoint), |key| {
            if let Some(Key::Endpoint(path)) = self.keys().parse(key) {
                paths.push(path);
            }
        })
        .await?;
        Ok(distinct(paths))
    }

    /// Registers an endpoint: replaces `Source` if it differs, sets a missing `Status` and these fields, removes modules
    /// of another source. A field that is given empty is removed, but for modules. Gives the `Status` too.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn put_endpoint(
        &self,
        path: &EndpointPath,
        source: Bytes,
        fields: &[(&str, String)],
    ) -> Result<(Put, String), Error> {
        self.put_at(self.keys().endpoint(path), Value::Bytes(source), fields).await
    }

    /// Sets fields of an endpoint that exists. False: there is none.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn edit_endpoint(&self, path: &EndpointPath, set: &[(&str, String)]) -> Result<bool, Error> {
        let reply = self.run(self.edit_call(self.keys().endpoint(path), set, &[])).await?;
        Ok(reply.text(0)? == "EDITED")
    }

    /// Writes `Error` and `ErrorTime` of an endpoint that exists. Gives the time that was written; none: there is no such
    /// endpoint.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn endpoint_failed(&self, path: &EndpointPath, error: String) -> Result<Option<String>, Error> {
        let time = wall_clock_text();
        let there = self.edit_endpoint(path, &[("Error", error), ("ErrorTime", time.clone())]).await?;
        Ok(there.then_some(time))
    }

    /// Removes `Error` and `ErrorTime` of an endpoint, if they are of that time. False: they are not.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn endpoint_mended(&self, path: &EndpointPath, error_time: &str) -> Result<bool, Error> {
        let call = Call::new(&lua::MENDED, self.keys().endpoint(path), vec![error_time.to_owned()]);
        Ok(self.run(call).await?.text(0)? == "MENDED")
    }

    /// Deletes the definition of an endpoint. False: there was none.
    ///
    /// # Errors
    /// When the outcome is not known; it may be repeated.
    pub async fn delete_endpoint(&self, path: &EndpointPath) -> Result<bool, Error> {
        self.delete_at(self.keys().endpoint(path)).await
    }
}

fn parse(mut reply: lua::Reply, known: Option<&Endpoint>) -> Option<EndpointRead> {
    if reply.is_empty() {
        return None;
    }
    let digest = SourceDigest::from_hex(&reply.text(0).ok()?);
    let (source, modules) = match (known, reply.take(1)) {
        (_, Some(source)) => (Some(lua::raw(source)), Modules::from_fields(reply.pairs(2))),
        // One that is too long has no digest, and is not known for having none.
        (Some(known), None) if known.digest == digest && !digest.as_str().is_empty() => {
            (Some(known.source.clone()), Ok(known.modules.clone()))
        }
        (_, None) => (None, Ok(Modules::default())),
    };
    let values = reply.take(3).map(Value::into_array).unwrap_or_default();
    let fields: HashMap<&str, String> = ENDPOINT_FIELDS
        .iter()
        .chain(&MIRROR_FIELDS)
        .zip(&values)
        .filter_map(|(&field, value)| Some((field, lua::lossy(value)?)))
        .collect();
    Some(EndpointRead::new(source, modules, digest, |field| fields.get(field).map(String::as_str)))
}

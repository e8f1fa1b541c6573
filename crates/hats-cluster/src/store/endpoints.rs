//! Endpoints: reading, registering and removing them, and telling people how they fail.

use std::collections::HashMap;

use bytes::Bytes;
use fred::interfaces::HashesInterface;
use fred::types::Value;

use super::definitions::{read_at, wall_clock_text};
use super::{Call, PIPELINE_MAX, Put, SOURCES_MAX, Store, distinct, lua, one_for_each, read_one};
use crate::error::Error;
use crate::keys::Key;
use crate::name::{EndpointPath, TaskKind};
use crate::records::{
    ENDPOINT_FIELDS, Endpoint, EndpointRead, FieldError, Modules, SOURCE_BYTES_MAX, SourceDigest,
};

/// Asked for behind the others.
const MIRROR_FIELDS: [&str; 2] = ["Error", "ErrorTime"];

/// What an endpoint says beside its source, and how long that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOutline {
    /// As if the source were empty.
    pub read: EndpointRead,
    /// The length of the source without its modules; 0 where there is none.
    pub source_bytes: usize,
}

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

    /// Reads what many endpoints say beside their sources, in pipelines and in order.
    pub async fn outline_endpoints(
        &self,
        paths: &[EndpointPath],
    ) -> Vec<Result<Option<EndpointOutline>, Error>> {
        const COMMANDS: usize = 4;
        let fields: Vec<&str> = ENDPOINT_FIELDS.iter().chain(&MIRROR_FIELDS).copied().collect();
        let mut outlines = Vec::with_capacity(paths.len());
        for paths in paths.chunks(PIPELINE_MAX) {
            let pipeline = self.client().pipeline();
            let mut queued = Ok(());
            for key in paths.iter().map(|path| self.keys().endpoint(path)) {
                queued = queued
                    .and(pipeline.hmget::<(), _, _>(&key, fields.clone()).await)
                    .and(pipeline.hstrlen::<(), _, _>(&key, "Source").await)
                    .and(pipeline.hexists::<(), _, _>(&key, "Source").await)
                    .and(pipeline.hlen::<(), _>(&key).await);
            }
            let answers = match queued {
                Ok(()) => one_for_each(COMMANDS * paths.len(), pipeline.try_all().await),
                Err(error) => vec![Err(error); COMMANDS * paths.len()],
            };
            for answers in answers.chunks(COMMANDS) {
                let answers: Result<Vec<Value>, Error> = answers.iter().cloned().map(read_one).collect();
                outlines.push(answers.map(outline));
            }
        }
        outlines
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
    Some(read(source, modules, digest, &values))
}

/// Of one endpoint: the values of its fields, the length of its source, whether it has one, and how many fields it has.
fn outline(mut answers: Vec<Value>) -> Option<EndpointOutline> {
    let number = |nth: usize| answers.get(nth).and_then(Value::as_usize).unwrap_or(0);
    let (source_bytes, has_source, fields) = (number(1), number(2) > 0, number(3));
    let source = (has_source && source_bytes <= SOURCE_BYTES_MAX).then(Bytes::new);
    let values = answers.first_mut().map(|values| values.take().into_array()).unwrap_or_default();
    let read = read(source, Ok(Modules::default()), SourceDigest::of(""), &values);
    (fields > 0).then_some(EndpointOutline { read, source_bytes })
}

/// `values`: those of [`ENDPOINT_FIELDS`] and [`MIRROR_FIELDS`].
fn read(
    source: Option<Bytes>,
    modules: Result<Modules, FieldError>,
    digest: SourceDigest,
    values: &[Value],
) -> EndpointRead {
    let fields = ENDPOINT_FIELDS.iter().chain(&MIRROR_FIELDS).zip(values);
    let fields: HashMap<&str, String> =
        fields.filter_map(|(&field, value)| Some((field, lua::lossy(value)?))).collect();
    EndpointRead::new(source, modules, digest, |field| fields.get(field).map(String::as_str))
}

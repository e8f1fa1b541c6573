//! What an endpoint is, made of its definition once and then served many times.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderValue;
use bytes::Bytes;
use hats_cluster::name::EndpointPath;
use hats_cluster::records::{self, Endpoint, EndpointKind, FieldError};
use hats_script::{Bundle, Limits, Page, is_handler};
use tokio::time::Instant;

use crate::admission::PagePlaces;
use crate::template;

/// Between two lines of log about one endpoint that fails.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// An endpoint as it is served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) path: EndpointPath,
    /// The Redis key of its definition.
    pub(crate) key: String,
    pub(crate) content: Content,
    /// For its scripts that run, whatever version of it they are of.
    pub(crate) places: Arc<PagePlaces>,
    log: Mutex<Log>,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// `Status=disabled`.
    Disabled,
    /// It cannot be served, for this reason.
    Broken(String),
    /// A file that is sent as it is.
    File(File),
    /// A script.
    Page(Arc<Page>),
}

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: HeaderValue,
    pub(crate) etag: HeaderValue,
}

#[derive(Debug, Default)]
struct Log {
    written: Option<Instant>,
    left_out: u64,
}

impl Served {
    /// Makes what is served of a definition. May compute for long.
    pub(crate) fn new(
        path: EndpointPath,
        key: String,
        places: Arc<PagePlaces>,
        read: Result<&Endpoint, &FieldError>,
        limits: &Limits,
    ) -> Self {
        let content = match read {
            Err(error) => Content::Broken(error.to_string()),
            Ok(endpoint) if !endpoint.enabled => Content::Disabled,
            Ok(endpoint) => content(&path, endpoint, limits).unwrap_or_else(Content::Broken),
        };
        Self { path, key, content, places, log: Mutex::default() }
    }

    /// How many lines about this endpoint were left out since the last one; none: this one is to be left out as well.
    pub(crate) fn may_log(&self) -> Option<u64> {
        let now = Instant::now();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.written.is_some_and(|written| now - written < LOG_PAUSE) {
            log.left_out += 1;
            return None;
        }
        log.written = Some(now);
        Some(std::mem::take(&mut log.left_out))
    }
}

fn content(path: &EndpointPath, endpoint: &Endpoint, limits: &Limits) -> Result<Content, String> {
    if endpoint.kind == Some(EndpointKind::Static) {
        return file(endpoint).map(Content::File);
    }
    let limits = limits_of(&endpoint.limits, limits);
    let source = endpoint.text().ok_or("field Source: the page is no UTF-8; a file needs Kind=static")?;
    let file: Arc<str> = path.as_str().into();
    let is_handler = match endpoint.kind {
        Some(kind) => kind == EndpointKind::Handler,
        None => is_handler(source),
    };
    let page = if is_handler {
        Page::handler(file, bundle(source, &endpoint.modules), limits)
    } else {
        template::page(&file, source, limits).map_err(|error| error.to_string())?
    };
    let page = match &endpoint.content_type {
        Some(content_type) => page.content_type(content_type),
        None => page,
    };
    Ok(Content::Page(Arc::new(page)))
}

fn file(endpoint: &Endpoint) -> Result<File, String> {
    let header = |what: &str, value: &str| {
        HeaderValue::from_str(value).map_err(|_| format!("field {what}: {value:?} does not fit a header"))
    };
    let content_type = endpoint.content_type.as_deref().unwrap_or("application/octet-stream");
    let made_up;
    let etag = match endpoint.etag.as_deref() {
        Some(etag) => etag,
        None => {
            made_up = format!("\"{}\"", endpoint.digest);
            &made_up
        }
    };
    Ok(File {
        bytes: endpoint.source.clone(),
        content_type: header("ContentType", content_type)?,
        etag: header("ETag", etag)?,
    })
}

/// A handler with the files that it imports.
fn bundle(source: &str, modules: &records::Modules) -> Bundle {
    Bundle { main: source.into(), file: modules.main.clone(), modules: modules.files.clone() }
}

/// The limits of a page whose definition has `own` ones.
fn limits_of(own: &records::Limits, worker: &Limits) -> Limits {
    let size =
        |own: Option<u64>, default| own.map_or(default, |own| usize::try_from(own).unwrap_or(usize::MAX));
    Limits {
        memory: size(own.memory, worker.memory),
        stack: size(own.stack, worker.stack),
        source: size(own.source, worker.source),
        http_body: size(own.http_body, worker.http_body),
        log_line: size(own.log_line, worker.log_line),
        call_timeout: own.call_timeout.or(worker.call_timeout),
    }
}

//! One request, from its head to its answer.
//!
//! ```text
//!  draining? 503 ─ malformed? 400 ─ unhealthy? 503 ─ no such path, disabled? 404 ─ a file? 200, 304, 405
//!    └─ a page: set aside? 503 ─ body (408, 413) ─ a place (503) ─ script ─► its answer · thrown 500 · too long 504 · stopped 503
//! ```
//!
//! What must hold:
//! - Nothing is done for a request that has not been read whole.
//! - A script ends when nobody waits for its answer any more.
//! - The client is told the status, and the log and the definition's `Error` the reason.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, header, request};
use axum::response::Response;
use hats_cluster::name::TaskKind;
use hats_script::{
    BoxFuture, Error, Kind, Lanes, Page, PageRequest, PageResponse, ScriptError, ScriptHandle, TaskControl,
    span,
};
use hyper::body::{Body as _, Incoming};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::admission::{Admission, Bodies};
use crate::config::Config;
use crate::connection;
use crate::content::{Content, File, Served};
use crate::message::{
    self, BadBody, FILE_METHODS, PAGE_METHODS, Target, closing, plain, plain_text, retry_after,
};
use crate::metrics::{Metrics, Why, unavailable};
use crate::routes::{Lookup, Routes};
use crate::running::{Run, Running};

/// A script that has not ended so long after its limit is stuck in native code. Its client waits no longer.
const OVERDUE: Duration = Duration::from_secs(5);
/// A script that has not ended so soon is watched: whether its client is still there, and whether it has to hurry.
const SOON: Duration = Duration::from_millis(20);

/// Everything that an answer is made with.
pub(crate) struct Site {
    pub(crate) config: Config,
    /// The runtime of the server.
    pub(crate) io: Handle,
    pub(crate) cluster: hats_cluster::Handle,
    pub(crate) lanes: Lanes,
    pub(crate) routes: Routes,
    pub(crate) admission: Admission,
    /// Of requests.
    pub(crate) bodies: Bodies,
    /// Of answers, until they are taken.
    pub(crate) answers: Bodies,
    pub(crate) is_healthy: Arc<dyn Fn() -> bool + Send + Sync>,
    pub(crate) running: Running,
    pub(crate) metrics: Metrics,
    /// No new requests.
    pub(crate) draining: CancellationToken,
    /// Requests have had their time: scripts are interrupted.
    pub(crate) hurry: CancellationToken,
}

/// The connection that a request came on.
#[derive(Clone, Copy)]
pub(crate) struct Peer<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) own: SocketAddr,
    pub(crate) stream: &'a TcpStream,
}

/// Answers a request, and notes it in the access log.
pub(crate) async fn serve(site: &Arc<Site>, peer: Peer<'_>, request: Request<Incoming>) -> Response {
    let counted = site.metrics.begin();
    if !tracing::enabled!(target: "hats_access", tracing::Level::DEBUG) {
        return counted.end(answer(site, peer, request).await);
    }
    let begun = Instant::now();
    let method = request.method().clone();
    // Without the query, in which people put what is secret.
    let path = request.uri().path().to_owned();
    let response = counted.end(answer(site, peer, request).await);
    tracing::debug!(
        target: "hats_access",
        %method,
        path,
        status = response.status().as_u16(),
        bytes = response.body().size_hint().exact(),
        elapsed = ?begun.elapsed(),
        remote = %peer.address,
        "answered"
    );
    response
}

async fn answer(site: &Arc<Site>, peer: Peer<'_>, request: Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let method = head.method.clone();
    if site.draining.is_cancelled() {
        return closing(unavailable(Why::Draining, &method));
    }
    let malformed =
        |text: &str| closing(plain_text(StatusCode::BAD_REQUEST, format!("Bad Request: {text}\n"), &method));
    let host = match message::host(&head, peer.own) {
        Ok(host) => host,
        Err(text) => return malformed(text),
    };
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        return message::options(PAGE_METHODS);
    }
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return closing(message::not_allowed(PAGE_METHODS, &method));
    }
    let Ok(target) = Target::parse(head.uri.path()) else {
        return malformed("the path is no percent-encoded UTF-8");
    };
    if !(site.is_healthy)() {
        return unavailable(Why::Unhealthy, &method);
    }
    let (served, params) = match site.routes.find(&target).await {
        Lookup::Found(served, params) => (served, params),
        Lookup::Missing => return plain(StatusCode::NOT_FOUND, &method),
        Lookup::Unknown => return unavailable(Why::Unknown, &method),
    };
    let page = match &served.content {
        Content::Disabled => return plain(StatusCode::NOT_FOUND, &method),
        Content::Broken(reason) => {
            failed(site, &served, reason.clone());
            return plain(StatusCode::INTERNAL_SERVER_ERROR, &method);
        }
        Content::File(file) => return send_file(file, &head),
        Content::Page(page) => page,
    };
    if let Some(aside) = site.cluster.set_aside(TaskKind::Endpoint, served.path.as_str()) {
        return retry_after(unavailable(Why::Poison, &method), aside.left);
    }
    let Config { body_limit, body_timeout, .. } = site.config;
    let (body, _share) = match message::read_body(body, body_limit, body_timeout, &site.bodies).await {
        Ok(read) => read,
        Err(error) => {
            let status = match error {
                BadBody::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                BadBody::TooSlow => StatusCode::REQUEST_TIMEOUT,
                BadBody::TooMuch => return closing(unavailable(Why::Bodies, &method)),
                BadBody::Broken => StatusCode::BAD_REQUEST,
            };
            return closing(plain(status, &method));
        }
    };
    let Some(_place) = site.admission.enter(&served.places).await else {
        return unavailable(Why::Busy, &method);
    };
    let request = message::page_request(head, &target, &host, params, body);
    run(site, peer, &served, page, request, &method).await
}

fn send_file(file: &File, head: &request::Parts) -> Response {
    let method = &head.method;
    if *method == Method::OPTIONS {
        return message::options(FILE_METHODS);
    }
    if *method != Method::GET && *method != Method::HEAD {
        return message::not_allowed(FILE_METHODS, method);
    }
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(header::ETAG, file.etag.clone());
    if message::has_tag(&head.headers, &file.etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(header::CONTENT_TYPE, file.content_type.clone());
    message::with_body(response, file.bytes.clone(), method)
}

/// Runs a page for a request that has its place.
///
/// # Cancel safety
/// Dropped, the script is killed.
async fn run(
    site: &Arc<Site>,
    peer: Peer<'_>,
    served: &Arc<Served>,
    page: &Arc<Page>,
    request: PageRequest,
    method: &Method,
) -> Response {
    let control = Arc::new(Control {
        served: served.clone(),
        cluster: site.cluster.clone(),
        hurry: site.hurry.clone(),
        is_gone: AtomicBool::new(false),
        span: OnceLock::new(),
    });
    if span::wants_requests() {
        control.span();
    }
    let response = attend(site, peer, &control, page, request, method).await;
    if let Some(span) = control.span.get() {
        span.record("status", response.status().as_u16());
    }
    response
}

async fn attend(
    site: &Arc<Site>,
    peer: Peer<'_>,
    control: &Arc<Control>,
    page: &Arc<Page>,
    request: PageRequest,
    method: &Method,
) -> Response {
    let run = site.running.enter(page.file().clone());
    let deadline = Instant::now() + page.limits().call_timeout.unwrap_or(Config::PAGE_TIMEOUT) + OVERDUE;
    let (script, ended) = site.lanes.answer(page, control.clone(), request);
    let mut script = Script {
        handle: script,
        control: control.clone(),
        under_way: Some((Box::pin(ended), run)),
        io: site.io.clone(),
    };
    // Most are over before it is worth while to look at anything else.
    if let Ok(ended) = tokio::time::timeout(SOON, script.ended()).await {
        return finished(site, control, ended, method);
    }
    let mut is_hurried = false;
    let gone = connection::gone(peer.stream, site.config.gone_timeout);
    let mut gone = std::pin::pin!(gone);
    loop {
        tokio::select! {
            biased;
            ended = script.ended() => return finished(site, control, ended, method),
            () = site.hurry.cancelled(), if !is_hurried => {
                is_hurried = true;
                script.handle.interrupt();
            }
            // Nobody reads this, or nobody will for long.
            () = &mut gone => return closing(unavailable(Why::Gone, method)),
            () = tokio::time::sleep_until(deadline) => {
                let reason = "it has not ended at its time limit: it is stuck in native code";
                control.failed(site, reason.to_owned());
                return closing(plain(StatusCode::GATEWAY_TIMEOUT, method));
            }
        }
    }
}

/// The answer of a script that has ended.
fn finished(site: &Site, control: &Control, ended: Ended, method: &Method) -> Response {
    let (status, reason) = match ended {
        Ok(Ok(mut answer)) => {
            let body = std::mem::take(&mut answer.body);
            let Some(body) = site.answers.holding(body) else {
                return unavailable(Why::Answers, method);
            };
            match message::page_response(answer, body, method) {
                Some(response) => {
                    site.cluster.endpoint_ok(&control.served.path);
                    return response;
                }
                None => (StatusCode::INTERNAL_SERVER_ERROR, Some("its answer is none".to_owned())),
            }
        }
        Ok(Err(ScriptError::Interrupted | ScriptError::Lost)) | Err(Error::Closed) => {
            return closing(unavailable(Why::Stopped, method));
        }
        Ok(Err(error)) => {
            let is_late = matches!(error, ScriptError::Timeout(_) | ScriptError::RunTimeout(_));
            let status =
                if is_late { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::INTERNAL_SERVER_ERROR };
            (status, Some(error.to_string()))
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Some(error.to_string())),
    };
    if let Some(reason) = reason {
        control.failed(site, reason);
    }
    plain(status, method)
}

/// Tells people why a request failed.
fn failed(site: &Site, served: &Served, reason: String) {
    if let Some(left_out) = served.may_log() {
        tracing::warn!(task = %served.path, kind = "endpoint", left_out, error = reason, "failed at a request");
    }
    site.cluster.endpoint_failed(&served.path, reason);
}

type Ended = Result<Result<PageResponse, ScriptError>, Error>;

/// What a run of a page ends in.
type Ending = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// A script while somebody waits for its answer. Dropped before it has ended, it is killed, and counts as running until it
/// is out.
struct Script {
    handle: ScriptHandle,
    control: Arc<Control>,
    /// None: it has ended.
    under_way: Option<(Ending, Run)>,
    /// Where its end is waited for if nobody else does. The lane may be the one that it keeps.
    io: Handle,
}

impl Script {
    /// Waits for its end, once.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn ended(&mut self) -> Ended {
        let Some((ended, _)) = &mut self.under_way else { return Err(Error::Closed) };
        let ended = ended.await;
        self.under_way = None;
        ended
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let Some((ended, run)) = self.under_way.take() else { return };
        self.control.is_gone.store(true, Ordering::Release);
        self.handle.kill();
        // Ends with the script.
        self.io.spawn(async move {
            let _ = ended.await;
            drop(run);
        });
    }
}

/// What the script of one request is told about itself. An endpoint has no owner, so that its effects need no lease: they
/// end when nobody waits for its answer.
struct Control {
    served: Arc<Served>,
    cluster: hats_cluster::Handle,
    hurry: CancellationToken,
    is_gone: AtomicBool,
    /// Made when it is needed: most requests log nothing.
    span: OnceLock<Span>,
}

impl Control {
    fn failed(&self, site: &Site, reason: String) {
        if let Some(span) = self.span.get() {
            span::failed(span, &reason);
        }
        failed(site, &self.served, reason);
    }
}

impl TaskControl for Control {
    fn name(&self) -> &str {
        self.served.path.as_str()
    }

    fn kind(&self) -> Kind {
        Kind::Endpoint
    }

    fn key(&self) -> &str {
        &self.served.key
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn trusted_for(&self) -> Duration {
        if self.is_gone.load(Ordering::Acquire) { Duration::ZERO } else { Duration::MAX }
    }

    fn stopped(&self) -> bool {
        self.hurry.is_cancelled()
    }

    fn disable(&self) -> BoxFuture<Result<(), String>> {
        no_task()
    }

    fn state(&self) -> BoxFuture<Result<String, String>> {
        no_task()
    }

    fn status(&self) -> BoxFuture<Result<String, String>> {
        no_task()
    }

    fn span(&self) -> Span {
        self.span.get_or_init(|| span::endpoint(&self.served.path, self.cluster.worker_name())).clone()
    }
}

/// Endpoints have no such calls.
fn no_task<T>() -> BoxFuture<Result<T, String>> {
    Box::pin(async { Err("an endpoint is no task of its own".to_owned()) })
}

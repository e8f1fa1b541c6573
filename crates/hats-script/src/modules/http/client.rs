//! The HTTP client that all scripts of a worker share. It runs on the I/O runtime; lanes only await what it says.
//!
//! What must hold:
//! - Each hop of a request, the first one and each that a redirect leads to, is judged by the egress rules before it
//!   begins, and so is each address that its host resolves to, right where the connection is made.
//! - Nothing begins once the lease is lost, and what is under way then is aborted, although no lane may be there to say so.
//! - A body is never longer than its limit, packed or unpacked, and all that are under way for one script together are
//!   no longer than the script's heap may be.

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::headers;
use crate::egress::{self, Egress};
use crate::host::TaskControl;
use crate::metrics::{HttpCalls, HttpOutcome};
use crate::vm::Passed;

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Connections to one host that are kept for the next request, and for how long.
const IDLE_PER_HOST_MAX: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How scripts may use HTTP.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What they may reach.
    pub egress: Egress,
    /// Whether the proxies that the environment names are used. The names of hosts are then resolved by the proxy, which
    /// has to judge the addresses. Default false.
    pub env_proxy: bool,
    /// Whether requests carry `Hats-Fence: <task>;epoch=<n>`. Default false.
    pub fence: bool,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client for scripts: {0}")]
pub struct Error(String);

/// The HTTP client of a worker, with its pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    client: reqwest::Client,
    /// For the port that this machine's addresses are refused at. A resolver is given no port, so this client has one that
    /// knows it.
    at_health_port: Option<reqwest::Client>,
    egress: Egress,
    fence: bool,
    calls: Arc<HttpCalls>,
}

/// One request of a script.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) redirect: Redirect,
    pub(super) timeout: Duration,
    /// The longest body of the answer, in bytes.
    pub(super) body_limit: usize,
    pub(super) budget: Budget,
    /// The gate has been passed.
    pub(super) passed: Passed,
}

/// What to do about a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Follow,
    /// It is the answer.
    Manual,
    /// It is a failure.
    Error,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Where it came from in the end.
    pub(super) url: Url,
    pub(super) redirected: bool,
    /// Held until the body has become a value of the script.
    _held: Held,
}

/// The body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Text(String),
    /// No UTF-8.
    Bytes(Vec<u8>),
}

/// How much of the bodies of one script's requests is in memory outside of its heap.
#[derive(Clone)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// A part of a [`Budget`], given back when dropped.
pub(super) struct Held {
    budget: Budget,
    bytes: usize,
}

impl Client {
    /// A client for the scripts of one worker.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of this system cannot be read");
        }
        if found.certs.is_empty() {
            tracing::warn!(
                "this system has no root certificates: https requests of scripts will fail. Install ca-certificates, or \
                 name a file in SSL_CERT_FILE"
            );
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Self::with_roots(settings, roots)
    }

    pub(crate) fn with_roots(settings: &Settings, roots: rustls::RootCertStore) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let egress = settings.egress.clone();
        let build = |port: u16| {
            let mut client = reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::new(Resolver { egress: egress.clone(), port }))
                // Followed here, hop by hop.
                .redirect(reqwest::redirect::Policy::none())
                // What has been sent is not sent again on the client's own account.
                .retry(reqwest::retry::never())
                .referer(false)
                .user_agent(concat!("hats-worker/", env!("CARGO_PKG_VERSION")))
                .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
                .pool_idle_timeout(IDLE_TIMEOUT);
            if !settings.env_proxy {
                client = client.no_proxy();
            }
            client.build().map_err(|error| Error(describe(&error)))
        };
        let client = build(0)?;
        let at_health_port = egress.guarded_port().map(build).transpose()?;
        Ok(Self { client, at_health_port, egress, fence: settings.fence, calls: HttpCalls::new() })
    }

    pub(crate) fn calls(&self) -> &Arc<HttpCalls> {
        &self.calls
    }

    /// Sends a request and reads the whole answer. The error is a text for the script.
    ///
    /// # Cancel safety
    /// Dropped, the request is aborted: its connection is closed.
    pub(super) async fn send(&self, request: Request) -> Result<Answer, String> {
        let control = request.passed.control().clone();
        let timeout = request.timeout;
        let counted = self.calls.begin();
        let sent = while_trusted(&*control, tokio::time::timeout(timeout, self.follow(request)));
        let answer = sent.await;
        counted.end(match &answer {
            Some(Ok(Ok(answer))) => HttpOutcome::of_status(answer.status.as_u16()),
            Some(Ok(Err(_))) => HttpOutcome::Failed,
            Some(Err(_)) => HttpOutcome::Timeout,
            None => HttpOutcome::Aborted,
        });
        match answer {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(format!("timed out after {} ms", timeout.as_millis())),
            None => Err("the worker's lease was lost".to_owned()),
        }
    }

    async fn follow(&self, request: Request) -> Result<Answer, String> {
        let Request { mut method, mut url, mut headers, mut body, .. } = request;
        if self.fence
            && let Some(fence) = headers::fence(&**request.passed.control())
        {
            headers.insert(headers::FENCE, fence);
        }
        let mut redirects = 0;
        loop {
            let response = self.hop(&method, &url, &headers, body.as_ref()).await?;
            let next = match next_hop(&response, &url) {
                Some(next) if request.redirect != Redirect::Manual => next?,
                _ => {
                    let (status, headers) = (response.status(), response.headers().clone());
                    let mut held = request.budget.hold();
                    let body = read_body(response, &method, request.body_limit, &mut held).await?;
                    return Ok(Answer { status, headers, body, url, redirected: redirects > 0, _held: held });
                }
            };
            if request.redirect == Redirect::Error {
                return Err(format!("{} redirects to {}", shown(&url), shown(&next)));
            }
            redirects += 1;
            if redirects > REDIRECTS_MAX {
                return Err(format!("more than {REDIRECTS_MAX} redirects, the last one to {}", shown(&next)));
            }
            if becomes_get(response.status(), &method) {
                method = Method::GET;
                body = None;
                for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION] {
                    headers.remove(name);
                }
            }
            if next.origin() != url.origin() {
                for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HOST] {
                    headers.remove(name);
                }
            }
            url = next;
        }
    }

    /// One request to one host.
    async fn hop(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Option<&Bytes>,
    ) -> Result<Response, String> {
        let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https"));
        let Some(host) = host else {
            return Err(format!("{} is no http or https URL", shown(url)));
        };
        // A literal address never comes to the resolver.
        let port = url.port_or_known_default().unwrap_or_default();
        self.egress.check_host(host, port).map_err(|error| error.to_string())?;
        let client = match &self.at_health_port {
            Some(client) if self.egress.guarded_port() == Some(port) => client,
            _ => &self.client,
        };
        let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
        if *method == Method::HEAD && !headers.contains_key(ACCEPT_ENCODING) {
            // Unpacking takes away the length of the body, which may be all that is asked for.
            request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if let Some(body) = body {
            if body.is_empty() {
                // Left out otherwise, which some servers take for a mistake.
                request = request.header(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            request = request.body(body.clone());
        }
        request.send().await.map_err(|error| format!("{}: {}", shown(url), describe(&error)))
    }
}

impl Budget {
    /// A budget of so many bytes, none of which is used.
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: Arc::default(), limit }
    }

    pub(super) fn hold(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }
}

impl Held {
    /// Takes more of the budget, if there is so much.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), String> {
        let Budget { used, limit } = &self.budget;
        // The count includes what is refused, until it is given back with all of this.
        self.bytes += bytes;
        if used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > *limit {
            return Err(format!(
                "the bodies under way are longer than the script's heap limit of {limit} bytes (MemoryLimit of the \
                 task, --memory-limit of the worker)"
            ));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Runs a future as long as the lease is trusted, and looks at the lease each time before it goes on. None if the lease
/// was lost.
async fn while_trusted<F: Future>(control: &dyn TaskControl, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    loop {
        let step = poll_fn(|context| {
            if control.trusted_for().is_zero() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(context).map(Some)
        });
        match tokio::time::timeout(control.trusted_for(), step).await {
            Ok(output) => return output,
            // The lease would end now, unless it has been renewed meanwhile.
            Err(_) if control.trusted_for().is_zero() => return None,
            Err(_) => {}
        }
    }
}

/// Where a response sends the client to, if it does.
fn next_hop(response: &Response, from: &Url) -> Option<Result<Url, String>> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?;
    let location = String::from_utf8_lossy(location.as_bytes());
    let next = from.join(&location);
    Some(next.map_err(|error| format!("{} redirects to what is no URL: {error}", shown(from))))
}

/// As browsers do it: other methods and statuses keep method and body.
fn becomes_get(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        301 | 302 => *method == Method::POST,
        303 => *method != Method::GET && *method != Method::HEAD,
        _ => false,
    }
}

async fn read_body(
    mut response: Response,
    method: &Method,
    limit: usize,
    held: &mut Held,
) -> Result<Body, String> {
    let too_long = || {
        format!(
            "the body is longer than the limit of {limit} bytes (HttpBodyLimit of the task, --http-body-limit of the \
             worker)"
        )
    };
    let mut bytes = Vec::new();
    if *method != Method::HEAD {
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let broken = |error| format!("the answer broke off: {}", describe(&error));
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > limit {
                return Err(too_long());
            }
            held.grow(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Body::Text(text),
        Err(error) => Body::Bytes(error.into_bytes()),
    })
}

/// A URL as an error may show it: without what can hold a secret.
fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// What went wrong, in the words of whoever saw it first. The URL is left out: it may hold a secret.
fn describe(error: &reqwest::Error) -> String {
    let mut innermost: &(dyn StdError + 'static) = error;
    loop {
        if let Some(refused) = innermost.downcast_ref::<egress::Error>() {
            return refused.to_string();
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None if innermost.is::<reqwest::Error>() => return "the request failed".to_owned(),
            None if error.is_connect() => return format!("cannot connect: {innermost}"),
            None => return innermost.to_string(),
        }
    }
}

/// Resolves names by the egress rules.
struct Resolver {
    egress: Egress,
    /// 0 stands for all ports that are judged alike, and is replaced by that of the URL.
    port: u16,
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let (egress, port) = (self.egress.clone(), self.port);
        Box::pin(async move {
            let addresses = egress.resolve(name.as_str(), port).await?;
            let addresses: reqwest::dns::Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

//! Traces: the spans of tasks, sent to a collector of OpenTelemetry (OTLP over HTTP, protobuf).
//!
//! What must hold: tasks never wait for the collector. Spans that have ended wait in a bounded queue; what does not fit is
//! lost. A collector that is away is said once, and once that it is back. Only spans are sent: what is logged in them
//! stays in the log, since a span may last for weeks and would have to keep it all.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hats_core::config::TraceConfig;
use hats_core::{Error, TASK_SPANS};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber, info, warn};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// One request to the collector may take so long.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// The last spans have so long to leave.
const END_MAX: Duration = Duration::from_secs(3);

/// Sends spans until it is ended.
pub(super) struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// Nothing is sent before the first span has ended. `runtime` does the I/O.
    pub(super) fn begin(config: &TraceConfig, runtime: Handle) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::System(format!("traces cannot be sent: {error}"));
        // Nobody else in this process relies on another one: whoever speaks TLS here brings ring along.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inner = reqwest::Client::builder().timeout(REQUEST_MAX).no_proxy().build();
        let inner = inner.map_err(|error| failed(&error))?;
        let endpoint = config.endpoint.clone();
        let client = Client { inner, runtime, endpoint: endpoint.clone(), is_away: AtomicBool::new(false) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| failed(&error))?;
        let resource = Resource::builder()
            .with_service_name("hats-worker")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.namespace", config.cluster_name.to_string()),
                KeyValue::new("service.instance.id", instance()),
            ])
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self { provider })
    }

    /// What spans have to pass.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let is_task = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target() == TASK_SPANS;
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("hats-worker"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(is_task).with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Sends what is left, for a bounded time. The runtime has to be there still.
    pub(super) fn end(self) {
        // Why it has failed the client has said.
        let _ = self.provider.shutdown_with_timeout(END_MAX);
    }
}

/// Tells one process from the next one of the same name.
fn instance() -> String {
    let mut bytes = [0_u8; 16];
    // Without the system's own numbers the process id has to do.
    if getrandom::fill(&mut bytes).is_err() {
        return std::process::id().to_string();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Speaks HTTP on the worker's runtime: who exports has an OS thread of its own, and no runtime.
#[derive(Debug)]
struct Client {
    inner: reqwest::Client,
    runtime: Handle,
    endpoint: String,
    /// As was last said.
    is_away: AtomicBool,
}

type Sent = Result<Response<Bytes>, HttpError>;

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Sent> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let inner = self.inner.clone();
        let sent = self.runtime.spawn(async move { inner.send_bytes(request).await });
        Box::pin(async move {
            let sent = sent.await.unwrap_or_else(|error| Err(error.into()));
            self.tell(&sent);
            sent
        })
    }
}

impl Client {
    fn tell(&self, sent: &Sent) {
        let problem = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the answer is {}", response.status())),
            Err(error) => Some(described(&**error)),
        };
        let was_away = self.is_away.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(error) if !was_away => {
                warn!(url = self.endpoint, error, "traces are lost: they cannot be sent, trying on");
            }
            None if was_away => info!(url = self.endpoint, "traces are sent again"),
            _ => {}
        }
    }
}

/// An error and what it comes from: the outermost alone says little.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

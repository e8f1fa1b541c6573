//! What the health port says.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use crate::monitor::Health;
use crate::readings::Reading;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether work may be sent to this worker, as far as is known now.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// What has to be in order, each by its name.
    pub checks: Vec<Check>,
    /// What the readings say; it counts as a check too.
    pub health: Health,
}

/// One thing that has to be in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is about: `redis.session`.
    pub name: &'static str,
    /// What is wrong with it, for people; none = nothing.
    pub problem: Option<String>,
}

/// Where the answers come from. Both are asked at each request and must not wait.
#[derive(Clone)]
pub struct Views {
    /// What `/` and `/readyz` say.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// What `/metrics` says: the text format of Prometheus.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Check {
    /// One that is in order, or else has this problem.
    #[must_use]
    pub fn new(name: &'static str, ok: bool, problem: &str) -> Self {
        Self { name, problem: (!ok).then(|| problem.to_owned()) }
    }
}

impl Readiness {
    /// Whether everything is in order.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.is_healthy() && self.checks.iter().all(|check| check.problem.is_none())
    }

    fn json(&self) -> Value {
        let problem_of = |problem: Option<&str>| match problem {
            None => json!({ "ok": true }),
            Some(problem) => json!({ "ok": false, "problem": problem }),
        };
        let mut checks: Map<String, Value> = self
            .checks
            .iter()
            .map(|check| (check.name.to_owned(), problem_of(check.problem.as_deref())))
            .collect();
        let reason = (!self.health.is_healthy()).then(|| self.health.reason());
        checks.insert("health".to_owned(), problem_of(reason.as_deref()));
        json!({ "ready": self.is_ready(), "checks": checks, "readings": self.readings() })
    }

    /// A number, or null while there is none, or why there is none.
    fn readings(&self) -> Value {
        let value = |reading: Reading<f64>| match reading {
            Reading::Known(value) => json!((value * 100.0).round() / 100.0),
            Reading::Pending => Value::Null,
            Reading::Unreadable => json!("unreadable"),
        };
        let readings = &self.health.readings;
        let cpu = readings.cpu.map(|cpu| cpu.percent);
        let memory = readings.memory.map(|memory| memory.percent());
        json!({
            "load": value(readings.load),
            "cpuPercent": value(cpu),
            "memoryPercent": value(memory),
        })
    }
}

impl Views {
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/", get(root))
            .route("/livez", get(alive))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .with_state(self)
    }
}

async fn root(State(views): State<Views>) -> Response {
    if (views.readiness)().is_ready() {
        say(StatusCode::OK, JSON, "{}")
    } else {
        say(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "Unhealthy")
    }
}

async fn alive() -> Response {
    say(StatusCode::OK, TEXT, "alive\n")
}

async fn ready(State(views): State<Views>) -> Response {
    let readiness = (views.readiness)();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    say(status, JSON, format!("{}\n", readiness.json()))
}

async fn metrics(State(views): State<Views>) -> Response {
    say(StatusCode::OK, PROMETHEUS, (views.metrics)())
}

async fn unknown() -> Response {
    say(StatusCode::NOT_FOUND, TEXT, "not found; there are /, /livez, /readyz and /metrics\n")
}

/// The router adds which methods there are.
async fn wrong_method() -> Response {
    say(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are answered here\n")
}

fn say(status: StatusCode, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // The next answer may be another one.
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.into()).into_response()
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Views")
    }
}

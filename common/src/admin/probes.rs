//! What probes and scrapers ask: `/healthz/ready`, `/healthz/live`, `/metrics`, `/stats/prometheus`.

use std::sync::Arc;

use http::header::ACCEPT;
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::response::{self, Body};
use super::server::Handler;
use crate::lifecycle::readiness::Readiness;
use crate::telemetry::exposition::Format;
use crate::telemetry::metrics::Metrics;

/// Answers the probes of the kubelet.
pub struct ReadinessHandler {
    readiness: Readiness,
}

impl ReadinessHandler {
    /// Answers from `readiness`.
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness }
    }
}

impl Handler for ReadinessHandler {
    fn handle(&self, request: &Parts) -> Response<Body> {
        match request.uri.path() {
            "/healthz/ready" | "/healthz/live" if !is_read(&request.method) => read_only(),
            "/healthz/live" => response::text(StatusCode::OK, "live\n"),
            "/healthz/ready" => match self.readiness.awaited() {
                awaited if awaited.is_empty() => response::text(StatusCode::OK, "ready\n"),
                awaited => {
                    let text = format!("not ready, pending: {}\n", awaited.join(", "));
                    response::text(StatusCode::INTERNAL_SERVER_ERROR, text)
                }
            },
            _ => not_found(),
        }
    }
}

/// Answers scrapes.
pub struct StatsHandler {
    metrics: Arc<Metrics>,
}

impl StatsHandler {
    /// Answers from `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl Handler for StatsHandler {
    fn handle(&self, request: &Parts) -> Response<Body> {
        match request.uri.path() {
            "/metrics" | "/stats/prometheus" if !is_read(&request.method) => read_only(),
            "/metrics" | "/stats/prometheus" => {
                let accept = request.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
                let format = Format::negotiate(accept);
                response::chunks(format.content_type(), self.metrics.scrape(format))
            }
            _ => not_found(),
        }
    }
}

pub(super) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

pub(super) fn read_only() -> Response<Body> {
    response::method_not_allowed("GET, HEAD", "only GET and HEAD\n")
}

pub(super) fn not_found() -> Response<Body> {
    response::text(StatusCode::NOT_FOUND, "not found\n")
}

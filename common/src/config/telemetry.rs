//! Telemetry as stated: which requests are traced, logged and counted, and how.
//!
//! Knows no providers but their names, which MeshConfig says more of. The surprising thing: what is not stated is not a
//! default but the word of whoever is less specific: the mesh, then the namespace, then the target.

use std::sync::Arc;

use http::HeaderName;

use super::access_format::Format;
use super::expression::Expression;
use super::note::Note;
use super::routing::Share;
use super::security::TargetRef;
use super::{Labels, ObjectName};

/// Most entries of any list of a Telemetry.
pub const MAX_TELEMETRY_ENTRIES: usize = 64;

/// `telemetry.istio.io` Telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `spec.selector.matchLabels`. Waypoints select by targets alone, as in Istio.
    pub selector: Labels,
    /// `spec.targetRefs` or `targetRef`.
    pub targets: Box<[TargetRef]>,
    /// `spec.tracing`.
    pub tracing: Box<[Tracing]>,
    /// `spec.metrics`.
    pub metrics: Box<[Metrics]>,
    /// `spec.accessLogging`.
    pub access_logging: Box<[AccessLogging]>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

impl Telemetry {
    /// Whether it is about everything in its namespace, or in the mesh where that is the root namespace.
    pub fn is_wide(&self) -> bool {
        self.selector.is_empty() && self.targets.is_empty()
    }
}

/// Which side of a request is meant (`match.mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the word of its name")]
pub enum Mode {
    #[default]
    ClientAndServer,
    Client,
    Server,
}

impl Mode {
    /// Whether it is meant of a waypoint, which stands before the server as in Istio.
    pub fn has_server(self) -> bool {
        self != Self::Client
    }
}

/// One entry of `tracing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tracing {
    /// `match.mode`.
    pub mode: Mode,
    /// `providers[].name`, of which the first counts.
    pub providers: Box<[Arc<str>]>,
    /// `randomSamplingPercentage`.
    pub sampling: Option<Share>,
    /// `disableSpanReporting`.
    pub disabled: Option<bool>,
    /// `customTags`.
    pub tags: Box<[CustomTag]>,
    /// `enableIstioTags`.
    pub istio_tags: Option<bool>,
}

/// One entry of `customTags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomTag {
    /// The tag's name.
    pub name: Arc<str>,
    /// Its value.
    pub value: TagSource,
}

/// What a tag says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagSource {
    /// `literal.value`.
    Literal(Arc<str>),
    /// `environment`: a variable of the proxy's own, and what stands for it.
    Environment(Arc<str>, Option<Arc<str>>),
    /// `header`: of the request, and what stands for it.
    Header(HeaderName, Option<Arc<str>>),
    /// `formatter.value`: Envoy's command operators.
    Formatter(Arc<Format>),
}

/// One entry of `metrics`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// `providers[].name`.
    pub providers: Box<[Arc<str>]>,
    /// `overrides`.
    pub overrides: Box<[MetricOverride]>,
}

/// One entry of `overrides`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricOverride {
    /// `match.mode`.
    pub mode: Mode,
    /// The metric; `None` for all of them.
    pub metric: Option<Metric>,
    /// `disabled`.
    pub disabled: Option<bool>,
    /// `tagOverrides`, by the tag's name.
    pub tags: Box<[(Arc<str>, TagOverride)]>,
}

/// A standard metric of Istio (`match.metric`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the word of its name")]
pub enum Metric {
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

impl Metric {
    /// Each with its word, and the name under which it is scraped.
    pub const ALL: [(Self, &'static str, &'static str); 10] = [
        (Self::RequestCount, "REQUEST_COUNT", "istio_requests_total"),
        (Self::RequestDuration, "REQUEST_DURATION", "istio_request_duration_milliseconds"),
        (Self::RequestSize, "REQUEST_SIZE", "istio_request_bytes"),
        (Self::ResponseSize, "RESPONSE_SIZE", "istio_response_bytes"),
        (Self::TcpOpenedConnections, "TCP_OPENED_CONNECTIONS", "istio_tcp_connections_opened_total"),
        (Self::TcpClosedConnections, "TCP_CLOSED_CONNECTIONS", "istio_tcp_connections_closed_total"),
        (Self::TcpSentBytes, "TCP_SENT_BYTES", "istio_tcp_sent_bytes_total"),
        (Self::TcpReceivedBytes, "TCP_RECEIVED_BYTES", "istio_tcp_received_bytes_total"),
        (Self::GrpcRequestMessages, "GRPC_REQUEST_MESSAGES", "istio_request_messages_total"),
        (Self::GrpcResponseMessages, "GRPC_RESPONSE_MESSAGES", "istio_response_messages_total"),
    ];

    /// The metric of this word, or scraped under this name.
    pub fn of(text: &str) -> Option<Self> {
        let is = |(_, word, name): &&(Self, &str, &str)| *word == text || *name == text;
        Self::ALL.iter().find(is).map(|(metric, ..)| *metric)
    }
}

/// What becomes of a tag of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagOverride {
    /// `REMOVE`.
    Remove,
    /// `UPSERT`: the value.
    Upsert(Expression),
}

/// One entry of `accessLogging`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLogging {
    /// `match.mode`.
    pub mode: Mode,
    /// `providers[].name`.
    pub providers: Box<[Arc<str>]>,
    /// `disabled`.
    pub disabled: Option<bool>,
    /// `filter.expression`.
    pub filter: Option<Expression>,
}

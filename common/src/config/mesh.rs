//! Istio's MeshConfig as stated: whom a mesh may ask and tell by name, and who is told where nothing else is said.
//!
//! Of it the parts that Ebb acts on, or may; every other field that an operator states is named in `notes`. Knows no
//! services: whether a provider's is there is found out where it is used.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::ObjectName;
use super::note::Note;
use super::routing::Share;
use crate::snapshot::model::StringMatch;

/// Name of the ConfigMap, in the root namespace.
pub const MESH_CONFIG_NAME: &str = "istio";
/// Most providers.
pub const MAX_PROVIDERS: usize = 256;
/// Longest time for one export to a collector, whatever a provider states.
pub const MAX_EXPORT_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's body that an authorizer may be shown.
pub const MAX_SHOWN_BYTES: u32 = 4 << 20;

/// Key `mesh` of the ConfigMap `istio` (`istio.mesh.v1alpha1.MeshConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// `extensionProviders`, each with a name of its own.
    pub providers: Box<[Arc<Provider>]>,
    /// `defaultProviders`.
    pub defaults: DefaultProviders,
    /// `accessLogFile`; `None` where it is not stated or empty, which is no log.
    pub access_log_file: Option<Arc<str>>,
    /// `accessLogFormat`, as written.
    pub access_log_format: Option<Arc<str>>,
    /// `accessLogEncoding`.
    pub access_log_encoding: LogEncoding,
    /// `enableTracing`.
    pub enable_tracing: bool,
    /// `defaultConfig.tracing.sampling`.
    pub tracing_sampling: Option<Share>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

impl MeshConfig {
    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|it| *it.name == *name)
    }
}

/// The object that states the MeshConfig in force: its name in the root namespace of the mesh.
pub fn mesh_config_object(root_namespace: &Arc<str>) -> ObjectName {
    ObjectName { namespace: root_namespace.clone(), name: MESH_CONFIG_NAME.into() }
}

/// A ConfigMap that may state the MeshConfig: it does in the root namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedMeshConfig {
    /// Namespace and name.
    pub object: ObjectName,
    /// What it states.
    pub config: Arc<MeshConfig>,
}

/// `defaultProviders`: names of providers that serve where no Telemetry says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultProviders {
    /// `tracing`.
    pub tracing: Box<[Arc<str>]>,
    /// `metrics`.
    pub metrics: Box<[Arc<str>]>,
    /// `accessLogging`.
    pub access_logging: Box<[Arc<str>]>,
}

/// `accessLogEncoding`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogEncoding {
    /// `TEXT`.
    #[default]
    Text,
    /// `JSON`.
    Json,
}

/// One of `extensionProviders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// `name`, by which policies and Telemetry name it.
    pub name: Arc<str>,
    /// What it is.
    pub kind: ProviderKind,
}

/// What a provider is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderKind {
    /// `envoyExtAuthzHttp`.
    HttpAuthorizer(HttpAuthorizer),
    /// `envoyExtAuthzGrpc`.
    GrpcAuthorizer(Authorizer),
    /// `zipkin`.
    Zipkin(Zipkin),
    /// `opentelemetry`.
    OpenTelemetry(OpenTelemetry),
    /// `envoyFileAccessLog`.
    FileLog(FileLog),
    /// `envoyOtelAls`.
    OtelLog(OtelLog),
    /// `prometheus`.
    Prometheus,
    /// A kind that is known and not implemented, by its field.
    NotImplemented(&'static str),
}

impl ProviderKind {
    /// The field that states it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::HttpAuthorizer(_) => "envoyExtAuthzHttp",
            Self::GrpcAuthorizer(_) => "envoyExtAuthzGrpc",
            Self::Zipkin(_) => "zipkin",
            Self::OpenTelemetry(_) => "opentelemetry",
            Self::FileLog(_) => "envoyFileAccessLog",
            Self::OtelLog(_) => "envoyOtelAls",
            Self::Prometheus => "prometheus",
            Self::NotImplemented(field) => field,
        }
    }
}

/// `service` and `port` of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderService {
    /// What stands before `/` in `service`; `None` where the host alone says which it is.
    pub namespace: Option<Arc<str>>,
    /// The full name of the service.
    pub host: Arc<str>,
    /// `port` of the service.
    pub port: u16,
}

/// What authorizers of both protocols have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorizer {
    /// Where it is.
    pub service: ProviderService,
    /// `timeout`; 600 s where none is stated, as in Istio.
    pub timeout: Duration,
    /// `failOpen`: no answer lets the request through.
    pub fail_open: bool,
    /// `statusOnError`: what a client is answered when there is no answer and `fail_open` is not set; 403 by default.
    pub status_on_error: u16,
    /// `clearRouteCache`: the route is looked for again after the authorizer changed the request.
    pub clear_route_cache: bool,
    /// `includeRequestBodyInCheck`.
    pub body: Option<ShownBody>,
}

/// `envoyExtAuthzHttp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAuthorizer {
    /// What it has in common with the other protocol.
    pub common: Authorizer,
    /// `pathPrefix`: stands before the request's own path; empty where it is not stated.
    pub path_prefix: Arc<str>,
    /// `includeRequestHeadersInCheck`, or `includeHeadersInCheck`: names, in lower case.
    pub shown_headers: Box<[StringMatch]>,
    /// `includeAdditionalHeadersInCheck`.
    pub added_headers: Box<[(HeaderName, HeaderValue)]>,
    /// `headersToUpstreamOnAllow`: of its answer, for the endpoint.
    pub upstream_on_allow: Box<[StringMatch]>,
    /// `headersToDownstreamOnDeny`: of its answer, for the client; `None` is all of them.
    pub downstream_on_deny: Option<Box<[StringMatch]>>,
    /// `headersToDownstreamOnAllow`: of its answer, for the client.
    pub downstream_on_allow: Box<[StringMatch]>,
}

/// `includeRequestBodyInCheck`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownBody {
    /// `maxRequestBytes`, 1 to [`MAX_SHOWN_BYTES`].
    pub max_bytes: u32,
    /// `allowPartialMessage`: of a longer body that much is shown; without it the request is answered 413.
    pub allow_partial: bool,
    /// `packAsBytes`: in a gRPC check as bytes, and not as a string.
    pub pack_as_bytes: bool,
}

/// `zipkin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zipkin {
    /// Where it is.
    pub service: ProviderService,
    /// `maxTagLength`, in bytes.
    pub max_tag_length: Option<u32>,
    /// `enable64bitTraceId`: trace ids of 64 bits, and not of 128.
    pub short_trace_ids: bool,
    /// `path`; `/api/v2/spans` by default.
    pub path: Arc<str>,
    /// `traceContextOption`: `USE_B3_WITH_W3C_PROPAGATION`.
    pub with_w3c: bool,
}

/// `opentelemetry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTelemetry {
    /// Where it is.
    pub service: ProviderService,
    /// `maxTagLength`, in bytes.
    pub max_tag_length: Option<u32>,
    /// `http`; `None` is gRPC.
    pub http: Option<OtlpHttp>,
    /// `grpc`: how its calls are made, where that is stated.
    pub grpc: OtlpGrpc,
}

/// `http` of an OpenTelemetry provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpHttp {
    /// `path`, with its `/`.
    pub path: Arc<str>,
    /// `timeout` of one export.
    pub timeout: Option<Duration>,
    /// `headers`, of those with a value in the MeshConfig.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
}

/// `grpc` of an OpenTelemetry provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtlpGrpc {
    /// `timeout` of one export.
    pub timeout: Option<Duration>,
    /// `initialMetadata`, of those with a value in the MeshConfig.
    pub metadata: Box<[(HeaderName, HeaderValue)]>,
}

/// `envoyFileAccessLog`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLog {
    /// `path`.
    pub path: Arc<str>,
    /// `logFormat`; `None` is the format of the mesh.
    pub format: Option<LogFormat>,
    /// `omitEmptyValues`.
    pub omit_empty: bool,
}

/// `logFormat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// `text`: a line.
    Text(Arc<str>),
    /// `labels`: keys, each with its format, in the order of statement.
    Labels(Box<[(Arc<str>, Arc<str>)]>),
}

/// `envoyOtelAls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtelLog {
    /// Where it is.
    pub service: ProviderService,
    /// `logName`; `otel_envoy_accesslog` by default.
    pub log_name: Arc<str>,
    /// `logFormat.text`.
    pub text: Option<Arc<str>>,
    /// `logFormat.labels`.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
}

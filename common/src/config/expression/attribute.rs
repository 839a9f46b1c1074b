//! The attributes of a request that expressions ask for, by Envoy's names.

use http::HeaderName;

use super::Type;

/// One attribute (Envoy "Attributes"; `filter_state.*_peer` as Istio adds them).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the attribute of its name")]
pub enum Attribute {
    RequestPath,
    RequestUrlPath,
    RequestQuery,
    RequestHost,
    RequestScheme,
    RequestMethod,
    RequestProtocol,
    RequestId,
    RequestUserAgent,
    RequestReferer,
    RequestSize,
    RequestHeader(HeaderName),
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseGrpcStatus,
    ResponseSize,
    ResponseHeader(HeaderName),
    ConnectionMtls,
    ConnectionServerName,
    ConnectionPeerSan,
    ConnectionTerminationDetails,
    SourceAddress,
    SourcePort,
    DestinationAddress,
    DestinationPort,
    UpstreamAddress,
    UpstreamPort,
    UpstreamTransportFailureReason,
    ClusterName,
    RouteName,
    /// Something known of the workload that calls.
    Source(PeerFact),
    /// Something known of the workload that is called.
    Destination(PeerFact),
}

/// What is known of a workload (Istio's `downstream_peer` and `upstream_peer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of its name")]
pub enum PeerFact {
    Name,
    Namespace,
    Workload,
    Service,
    Revision,
    App,
    Version,
    Cluster,
    Principal,
}

static PLAIN: [(&str, Attribute); 28] = [
    ("request.path", Attribute::RequestPath),
    ("request.url_path", Attribute::RequestUrlPath),
    ("request.query", Attribute::RequestQuery),
    ("request.host", Attribute::RequestHost),
    ("request.scheme", Attribute::RequestScheme),
    ("request.method", Attribute::RequestMethod),
    ("request.protocol", Attribute::RequestProtocol),
    ("request.id", Attribute::RequestId),
    ("request.useragent", Attribute::RequestUserAgent),
    ("request.referer", Attribute::RequestReferer),
    ("request.size", Attribute::RequestSize),
    ("response.code", Attribute::ResponseCode),
    ("response.code_details", Attribute::ResponseCodeDetails),
    ("response.flags", Attribute::ResponseFlags),
    ("response.grpc_status", Attribute::ResponseGrpcStatus),
    ("response.size", Attribute::ResponseSize),
    ("connection.mtls", Attribute::ConnectionMtls),
    ("connection.requested_server_name", Attribute::ConnectionServerName),
    ("connection.uri_san_peer_certificate", Attribute::ConnectionPeerSan),
    ("connection.termination_details", Attribute::ConnectionTerminationDetails),
    ("source.address", Attribute::SourceAddress),
    ("source.port", Attribute::SourcePort),
    ("destination.address", Attribute::DestinationAddress),
    ("destination.port", Attribute::DestinationPort),
    ("upstream.address", Attribute::UpstreamAddress),
    ("upstream.port", Attribute::UpstreamPort),
    ("upstream.transport_failure_reason", Attribute::UpstreamTransportFailureReason),
    ("xds.cluster_name", Attribute::ClusterName),
];

/// What stands before a fact about a workload, and whose fact that is.
type Peer = (&'static str, fn(PeerFact) -> Attribute);

const PEERS: [Peer; 6] = [
    ("filter_state.downstream_peer.", Attribute::Source),
    ("downstream_peer.", Attribute::Source),
    ("source.workload.", Attribute::Source),
    ("filter_state.upstream_peer.", Attribute::Destination),
    ("upstream_peer.", Attribute::Destination),
    ("destination.workload.", Attribute::Destination),
];

const FACTS: [(&str, PeerFact); 9] = [
    ("name", PeerFact::Name),
    ("namespace", PeerFact::Namespace),
    ("workload", PeerFact::Workload),
    ("service", PeerFact::Service),
    ("revision", PeerFact::Revision),
    ("app", PeerFact::App),
    ("version", PeerFact::Version),
    ("cluster", PeerFact::Cluster),
    ("principal", PeerFact::Principal),
];

impl Attribute {
    /// The attribute of this path.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "xds.route_name" => return Some(Self::RouteName),
            "source.principal" => return Some(Self::Source(PeerFact::Principal)),
            "destination.principal" => return Some(Self::Destination(PeerFact::Principal)),
            _ => {}
        }
        if let Some((_, plain)) = PLAIN.iter().find(|(name, _)| *name == path) {
            return Some(plain.clone());
        }
        let (prefix, made) = PEERS.iter().find(|(prefix, _)| path.starts_with(prefix))?;
        let fact = &path[prefix.len()..];
        FACTS.iter().find(|(name, _)| *name == fact).map(|(_, fact)| made(*fact))
    }

    /// The header of this name in the map of this path.
    pub(super) fn header(path: &str, name: &str) -> Option<Result<Self, String>> {
        let made: fn(HeaderName) -> Self = match path {
            "request.headers" => Self::RequestHeader,
            "response.headers" => Self::ResponseHeader,
            _ => return None,
        };
        let name = name.parse().map_err(|_| format!("{name:?} is no name of a header"));
        Some(name.map(made))
    }

    /// What it comes to. Flags are their words here, `DI,UT`, and not the number that Envoy makes of them: what compares
    /// them with a number is refused.
    pub fn kind(&self) -> Type {
        match self {
            Self::RequestSize
            | Self::ResponseCode
            | Self::ResponseGrpcStatus
            | Self::ResponseSize
            | Self::SourcePort
            | Self::DestinationPort
            | Self::UpstreamPort => Type::Int,
            Self::ConnectionMtls => Type::Bool,
            _ => Type::String,
        }
    }
}

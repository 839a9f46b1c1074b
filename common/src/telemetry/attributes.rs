//! What expressions and formats ask of a finished request, answered from its line in the access log.
//!
//! Knows no expressions. What a line does not hold because the default format never tells it comes from [`More`].

use std::borrow::Cow;
use std::net::SocketAddr;

use http::HeaderName;

use super::request_line::RequestLine;
use crate::config::expression::{Attribute, Facts, PeerFact, Value};

/// What is known of a request beyond its line.
pub trait More {
    /// A header of the request, of those that were asked for beforehand.
    fn request_header(&self, name: &HeaderName) -> Option<&[u8]>;
    /// A header of the answer, of those that were asked for beforehand.
    fn response_header(&self, name: &HeaderName) -> Option<&[u8]>;
    /// The status of a gRPC call.
    fn grpc_status(&self) -> Option<u8>;
    /// The trace it belongs to.
    fn trace_id(&self) -> Option<u128>;
    /// Something of the workload that calls, or of the one that is called.
    fn peer(&self, side: Side, fact: PeerFact) -> Option<Cow<'_, str>>;
}

/// One end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who calls.
    Source,
    /// Who is called.
    Destination,
}

fn shown(bytes: &[u8]) -> Value<'_> {
    Value::Text(String::from_utf8_lossy(bytes))
}

fn whole(number: u64) -> Value<'static> {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

fn ip(address: SocketAddr) -> Value<'static> {
    Value::Text(address.ip().to_canonical().to_string().into())
}

fn port(address: SocketAddr) -> Value<'static> {
    Value::Number(address.port().into())
}

/// The two parts of a path: before the `?` and behind it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == b'?') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &[]),
    }
}

impl RequestLine<'_> {
    fn of_request(&self, attribute: &Attribute) -> Option<Value<'_>> {
        let http = self.http.as_ref()?;
        match attribute {
            Attribute::RequestPath => Some(shown(http.asked_path)),
            Attribute::RequestUrlPath => Some(shown(split(http.asked_path).0)),
            Attribute::RequestQuery => Some(shown(split(http.asked_path).1)),
            Attribute::RequestHost => http.authority.map(shown),
            Attribute::RequestScheme => Some(Value::text("http")),
            Attribute::RequestMethod => Some(Value::text(http.method)),
            Attribute::RequestProtocol => Some(Value::text(http.protocol)),
            Attribute::RequestId => http.request_id.map(shown),
            Attribute::RequestUserAgent => http.user_agent.map(shown),
            Attribute::RequestReferer => self.header(&http::header::REFERER),
            Attribute::RequestHeader(name) => self.header(name),
            _ => None,
        }
    }

    /// A header of the request, also where it is a part of the line anyway.
    fn header(&self, name: &HeaderName) -> Option<Value<'_>> {
        let http = self.http.as_ref()?;
        let of_line = match name.as_str() {
            "host" => http.authority,
            "user-agent" => http.user_agent,
            "x-request-id" => http.request_id,
            "x-forwarded-for" => http.forwarded_for,
            _ => None,
        };
        of_line.or_else(|| self.more?.request_header(name)).map(shown)
    }

    fn of_response(&self, attribute: &Attribute) -> Option<Value<'_>> {
        match attribute {
            Attribute::ResponseCode => (self.status > 0).then(|| whole(self.status.into())),
            Attribute::ResponseCodeDetails => {
                self.details.map(|details| Value::Text(details.to_string().into()))
            }
            Attribute::ResponseFlags => Some(Value::Text(self.flags.to_string().into())),
            Attribute::ResponseGrpcStatus => self.more?.grpc_status().map(|it| whole(it.into())),
            Attribute::ResponseSize => Some(whole(self.bytes_sent)),
            Attribute::ResponseHeader(name) => self.more?.response_header(name).map(shown),
            _ => None,
        }
    }
}

impl Facts for RequestLine<'_> {
    fn attribute(&self, attribute: &Attribute) -> Option<Value<'_>> {
        match attribute {
            Attribute::RequestSize => Some(whole(self.bytes_received)),
            Attribute::ConnectionMtls => {
                Some(Value::Bool(self.more?.peer(Side::Source, PeerFact::Principal).is_some()))
            }
            Attribute::ConnectionServerName => self.server_name.map(Value::text),
            Attribute::ConnectionPeerSan => {
                self.more?.peer(Side::Source, PeerFact::Principal).map(Value::Text)
            }
            Attribute::ConnectionTerminationDetails => self.termination_details.map(Value::text),
            Attribute::SourceAddress => self.downstream_remote.map(ip),
            Attribute::SourcePort => self.downstream_remote.map(port),
            Attribute::DestinationAddress => self.downstream_local.map(ip),
            Attribute::DestinationPort => self.downstream_local.map(port),
            Attribute::UpstreamAddress => self.upstream_host.map(ip),
            Attribute::UpstreamPort => self.upstream_host.map(port),
            Attribute::UpstreamTransportFailureReason => self.transport_failure.map(Value::text),
            Attribute::ClusterName => self.upstream_cluster.map(Value::text),
            Attribute::RouteName => self.route.map(Value::text),
            Attribute::Source(fact) => self.more?.peer(Side::Source, *fact).map(Value::Text),
            Attribute::Destination(fact) => self.more?.peer(Side::Destination, *fact).map(Value::Text),
            other => self.of_request(other).or_else(|| self.of_response(other)),
        }
    }
}

//! From what was gathered of a request to its line in the access log.

use std::fmt;

use common::telemetry::request_line::{HttpLine, RequestLine};
use http::{HeaderValue, Version};

use super::{Asked, Details, Facts};

impl Facts {
    pub(super) fn line(&self) -> RequestLine<'_> {
        let via_upstream = self.sent_to.address.is_some() && self.status != 0;
        let details = self.details.as_ref().or(via_upstream.then_some(&Details::ViaUpstream));
        RequestLine {
            http: Some(self.asked.line()),
            status: self.status,
            flags: self.flags,
            details: details.map(|details| details as &dyn fmt::Display),
            termination_details: self.termination.as_deref(),
            transport_failure: self.transport_failure.as_deref(),
            bytes_received: self.took.request_bytes,
            bytes_sent: self.took.response_bytes,
            duration: self.took.duration,
            service_time: self.service_time,
            upstream_host: self.sent_to.address,
            upstream_cluster: self.sent_to.cluster.as_deref(),
            upstream_local: None,
            downstream_local: Some(self.parties.called),
            downstream_remote: Some(self.parties.client),
            server_name: None,
            route: self.route.as_deref(),
            more: Some(self),
        }
    }
}

impl Asked {
    fn line(&self) -> HttpLine<'_> {
        let path = self.path.as_ref().map_or("", |path| path.as_str());
        let authority = self.authority.as_ref().map(|authority| authority.as_str().as_bytes());
        HttpLine {
            method: self.method.as_str(),
            asked_path: path.as_bytes(),
            path: self.original_path.as_ref().map_or(path.as_bytes(), HeaderValue::as_bytes),
            protocol: protocol(self.version),
            forwarded_for: self.forwarded_for.as_ref().map(HeaderValue::as_bytes),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            request_id: self.request_id.as_ref().map(HeaderValue::as_bytes),
            authority: authority.or(self.host.as_ref().map(HeaderValue::as_bytes)),
        }
    }
}

/// The version in Envoy's words.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

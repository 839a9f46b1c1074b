//! What is told of one request: gathered while it is served, written when it is over.
//!
//! Decides nothing and knows no routes. The surprising thing: a record cannot be forgotten. One that is dropped before
//! its answer's end tells of a client that went away, because that is what drops it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::hbone::request::Traceparent;
use common::snapshot::model::{Service, Workload};
use common::telemetry::requests::{Ending, Family, RequestEnds, RequestProtocol, Took};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};

use crate::flags::{Flag, Flags};
use crate::payload::{BodyError, Observer};
use crate::trace_headers::{Ids, X_REQUEST_ID};

mod carried;
mod details;
mod further;
mod headless;
mod ledger;
mod messages;
mod parties;
mod received;
mod traced;

pub use carried::{Carried, Metered};
pub use details::{Details, Reset};
pub use headless::late_head;
pub use ledger::Ledger;
pub use parties::Parties;
pub use received::{Counted, Received};

use further::Captured;
use messages::Messages;
use traced::Traced;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The gRPC status of what cannot be told (`UNKNOWN`).
const GRPC_UNKNOWN: u8 = 2;
/// The last gRPC status there is.
const GRPC_LAST: u8 = 16;

/// One request, as logs and metrics tell of it. Cheap to move.
pub struct Record {
    facts: Box<Facts>,
}

struct Facts {
    parties: Parties,
    began: Instant,
    asked: Asked,
    protocol: RequestProtocol,
    flags: Flags,
    details: Option<Details>,
    route: Option<Arc<str>>,
    sent_to: SentTo,
    status: u16,
    grpc_status: Option<u8>,
    service_time: Option<Duration>,
    termination: Option<Box<str>>,
    transport_failure: Option<Box<str>>,
    received: Option<Received>,
    took: Took,
    /// How far the messages of the answer were read.
    messages: Messages,
    /// Headers that somebody wants to hear of.
    captured: Option<Box<Captured>>,
    /// The span that it is.
    traced: Option<Box<Traced>>,
    is_told: bool,
}

/// What the client sent, for the log. Values share the memory of the request's own.
struct Asked {
    method: Method,
    original_path: Option<HeaderValue>,
    path: Option<PathAndQuery>,
    version: Version,
    authority: Option<Authority>,
    host: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

/// Where a request or a connection was sent to.
#[derive(Debug, Clone, Default)]
struct SentTo {
    cluster: Option<Arc<str>>,
    address: Option<SocketAddr>,
    workload: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
}

impl Record {
    /// Begins with what the client sent, after its ids have been put in order.
    pub fn begin<B>(parties: Parties, request: &Request<B>, ids: &Ids) -> Self {
        let mut record = Self::of(parties, request);
        record.facts.traced = Traced::begin(&record.facts.parties, ids);
        record
    }

    fn of<B>(parties: Parties, request: &Request<B>) -> Self {
        let asked = Asked::of(request);
        let is_grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc);
        let captured = Captured::of(&parties.telemetry, request.headers());
        let facts = Facts {
            parties,
            began: Instant::now(),
            asked,
            protocol: if is_grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            flags: Flags::default(),
            details: None,
            route: None,
            sent_to: SentTo::default(),
            status: 0,
            grpc_status: None,
            service_time: None,
            termination: None,
            transport_failure: None,
            received: None,
            took: Took::default(),
            messages: Messages::default(),
            captured,
            traced: None,
            is_told: false,
        };
        Self { facts: Box::new(facts) }
    }

    /// When the request began.
    pub fn began(&self) -> Instant {
        self.facts.began
    }

    /// Whether it is a gRPC call.
    pub fn is_grpc(&self) -> bool {
        self.facts.protocol == RequestProtocol::Grpc
    }

    /// Something was done to it.
    pub fn flag(&mut self, flag: Flag) {
        self.facts.flags.set(flag);
    }

    /// Why it was answered as it was (Envoy `%RESPONSE_CODE_DETAILS%`). Unless told otherwise, the endpoint answered.
    pub fn details(&mut self, details: Details) {
        self.facts.details = Some(details);
    }

    /// The route it took.
    pub fn route(&mut self, name: &Arc<str>) {
        self.facts.route = Some(name.clone());
    }

    /// Where it was sent; of several attempts the last counts. `cluster` is the name in Istio's form,
    /// `outbound|8080|v1|web.shop.svc.cluster.local`.
    pub fn upstream(&mut self, cluster: &Arc<str>, address: SocketAddr, workload: Option<&Arc<Workload>>) {
        let sent_to = &mut self.facts.sent_to;
        sent_to.cluster = Some(cluster.clone());
        sent_to.address = Some(address);
        sent_to.workload = workload.cloned();
    }

    /// The service that its route leads to, where that is not the one that was called.
    pub fn service(&mut self, service: &Arc<Service>) {
        self.facts.sent_to.service = Some(service.clone());
    }

    /// It is about to be sent to an endpoint: puts the span of this try into its headers. Says which that is, where it is
    /// recorded here.
    pub fn tries(&mut self, headers: &mut HeaderMap) -> Option<Traceparent> {
        self.facts.traced.as_mut()?.tries(headers)
    }

    /// That try is answered, or over without an answer; where it went is known.
    pub fn tried(&mut self, status: Option<StatusCode>) {
        let facts = &mut *self.facts;
        if let Some(traced) = &mut facts.traced {
            traced.tried(&facts.sent_to, status);
        }
    }

    /// How long the endpoint took, from the request's end to the head of the answer (Envoy
    /// `x-envoy-upstream-service-time`).
    pub fn service_time(&mut self, time: Duration) {
        self.facts.service_time = Some(time);
    }

    /// Why the client's connection was ended by the proxy (Envoy `%CONNECTION_TERMINATION_DETAILS%`).
    pub fn terminated(&mut self, why: &dyn fmt::Display) {
        self.facts.termination = Some(why.to_string().into());
    }

    /// Why no connection to the endpoint could be made (Envoy `%UPSTREAM_TRANSPORT_FAILURE_REASON%`); of several
    /// attempts the last counts.
    pub fn transport_failure(&mut self, why: &dyn fmt::Display) {
        self.facts.transport_failure = Some(why.to_string().into());
    }

    /// Bytes of the request's body were read. For a body that is read elsewhere, see [`Record::receiver`].
    pub fn received(&mut self, bytes: u64) {
        self.facts.took.request_bytes += bytes;
    }

    /// Bytes of another protocol were carried behind the answer.
    pub fn carried(&mut self, received: u64, sent: u64) {
        self.facts.took.request_bytes += received;
        self.facts.took.response_bytes += sent;
    }

    /// Counts what is read of the request's body, from wherever it is read.
    pub fn receiver(&mut self) -> Received {
        let is_grpc = self.is_grpc();
        self.facts.received.get_or_insert_with(|| Received::new(is_grpc)).clone()
    }

    /// The head of the answer, as the client gets it.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let facts = &mut *self.facts;
        if let Some(captured) = &mut facts.captured {
            captured.answered(&facts.parties.telemetry, headers);
        }
        self.facts.status = status.as_u16();
        self.facts.grpc_status = headers.get(GRPC_STATUS).map(grpc_status);
    }
}

impl Observer for Record {
    fn sent(&mut self, data: &[u8]) {
        let facts = &mut *self.facts;
        facts.took.response_bytes += data.len() as u64;
        if facts.protocol == RequestProtocol::Grpc {
            facts.took.response_messages += facts.messages.read(data);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = trailers.get(GRPC_STATUS) {
            self.facts.grpc_status = Some(grpc_status(status));
        }
    }

    fn ended(&mut self, how: Result<(), &BodyError>) {
        if let Err(error) = how {
            self.facts.broke_off(error);
        }
        self.facts.tell();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.facts.is_told {
            return;
        }
        self.facts.flags.set(Flag::ClientGone);
        self.facts.details = Some(Details::ClientGone);
        self.facts.tell();
    }
}

impl Facts {
    /// The answer has begun, and does not come to its end.
    fn broke_off(&mut self, error: &BodyError) {
        let (flag, details) = match error {
            BodyError::TimedOut => (Flag::UpstreamTimeout, Details::ResponseTimeout),
            BodyError::StoodStill => (Flag::StreamIdle, Details::StreamIdleTimeout),
            BodyError::Peer(error) if is_reset(error) => {
                (Flag::UpstreamReset, Details::ResetAfterResponse(Reset::Remote))
            }
            BodyError::Peer(_) => {
                (Flag::UpstreamTermination, Details::ResetAfterResponse(Reset::Termination))
            }
            // As of a request that is denied before it is begun, Envoy's flags have no word for it.
            BodyError::Denied(policy) => return self.details = Some(Details::Denied(policy.clone())),
            BodyError::Abandoned | BodyError::Superseded | BodyError::Unwanted => {
                (Flag::LocalReset, Details::ResetAfterResponse(Reset::Local))
            }
        };
        self.flags.set(flag);
        self.details = Some(details);
    }

    /// Counts it and writes its line, once.
    fn tell(&mut self) {
        self.is_told = true;
        self.took.duration = self.began.elapsed();
        if let Some(received) = &self.received {
            self.took.request_bytes += received.bytes();
            self.took.request_messages += received.messages();
        }
        let parties = &self.parties;
        let ends = RequestEnds {
            source: parties.caller.as_ref(),
            source_identity: parties.identity(),
            destination: self.sent_to.workload.as_ref().or(parties.workload.as_ref()),
            service: self.sent_to.service.as_ref().or(parties.service.as_ref()),
        };
        let line = self.line();
        match &parties.telemetry.counted {
            None => {
                let edge = parties.ledger.requests.edge(&ends);
                edge.show(Family::ALL);
                edge.ended(self.ending(), &self.took);
            }
            Some(counted) => {
                counted.count(&parties.ledger.requests, &ends, (self.ending(), &self.took), &line)
            }
        }
        parties.telemetry.log(&parties.ledger.access, &line, self.is_failed());
        if let Some(traced) = &self.traced {
            traced.tell(self);
        }
    }

    fn ending(&self) -> Ending {
        let grpc_status = match self.protocol {
            RequestProtocol::Http => None,
            RequestProtocol::Grpc => self.grpc_status.or_else(|| grpc_status_of(self.status)),
        };
        Ending { protocol: self.protocol, status: self.status, grpc_status, flags: self.flags }
    }

    /// Whether somebody should look at it. A client that goes away is nobody's fault.
    fn is_failed(&self) -> bool {
        let broken = [
            Flag::UpstreamTimeout,
            Flag::UpstreamReset,
            Flag::UpstreamTermination,
            Flag::UpstreamProtocolError,
            Flag::LocalReset,
        ];
        self.status >= 500 || broken.iter().any(|flag| self.flags.has(*flag))
    }
}

impl Asked {
    fn of<B>(request: &Request<B>) -> Self {
        let header = |name: HeaderName| request.headers().get(name).cloned();
        let authority = request.uri().authority().cloned();
        Self {
            method: request.method().clone(),
            original_path: header(ORIGINAL_PATH),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            host: if authority.is_none() { header(header::HOST) } else { None },
            authority,
            forwarded_for: header(FORWARDED_FOR),
            user_agent: header(header::USER_AGENT),
            request_id: header(X_REQUEST_ID),
        }
    }
}

/// Whether a request is a gRPC call: `application/grpc`, with a suffix or without.
fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Reads `grpc-status`. What is none of the statuses there are is `UNKNOWN`, as gRPC's own clients take it.
fn grpc_status(value: &HeaderValue) -> u8 {
    let text = value.to_str().unwrap_or_default();
    text.parse().ok().filter(|status| *status <= GRPC_LAST).unwrap_or(GRPC_UNKNOWN)
}

/// The status of a call that was answered without one (gRPC's "HTTP to gRPC Status Code Mapping"). A call without any
/// answer has none.
fn grpc_status_of(status: u16) -> Option<u8> {
    Some(match status {
        0 => return None,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => GRPC_UNKNOWN,
    })
}

/// Whether the endpoint reset the stream, and did not end the whole connection.
fn is_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(h2::Error::is_reset)
}

mod line;

#[cfg(test)]
mod tests;

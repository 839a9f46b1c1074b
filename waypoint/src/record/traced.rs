//! The spans of one request: what the waypoint was asked, and each time it asked an endpoint.
//!
//! Names and tags are those of Istio's waypoints. The surprising thing: spans are made when all is over. Until then there are
//! a few numbers, and for a request that is not to be recorded there are not even tags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::config::expression::PeerFact;
use common::hbone::request::Traceparent;
use common::spans::{Side, Span, fresh};
use common::telemetry::attributes::{More as _, Side as End};
use common::telemetry::flags::Flags;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{Facts, Parties, SentTo};
use crate::spans::Tracer;
use crate::trace_headers::{self, Ids, Trace};

/// Most tries of one request that have spans of their own.
const MAX_TRIES_TOLD: usize = 32;

/// The place of a request in its trace.
pub(super) struct Traced {
    tracer: Arc<Tracer>,
    trace: u128,
    is_sampled: bool,
    /// The span that the request is here.
    own: u64,
    /// The caller's, where it sent one.
    parent: Option<u64>,
    tries: Vec<Try>,
}

/// One time that an endpoint was asked.
struct Try {
    span: u64,
    began: Instant,
    /// When it was over; the last one is over when the request is.
    ended: Option<Instant>,
    status: Option<StatusCode>,
    cluster: Option<Arc<str>>,
    address: Option<SocketAddr>,
}

impl Traced {
    /// A request begins, where somebody wants spans.
    pub(super) fn begin(parties: &Parties, ids: &Ids) -> Option<Box<Self>> {
        let (tracer, trace) = (parties.telemetry.tracer.as_ref()?, ids.trace?);
        let is_sampled = trace.is_sampled.unwrap_or_else(|| tracer.sampling.takes(trace.id));
        let (own, parent) = match ids.is_begun {
            true => (trace.span, None),
            false => (fresh(), Some(trace.span)),
        };
        let tracer = tracer.clone();
        Some(Box::new(Self { tracer, trace: trace.id, is_sampled, own, parent, tries: Vec::new() }))
    }

    pub(super) fn trace_id(&self) -> u128 {
        self.trace
    }

    /// An endpoint is asked: it hears of the span that this is. Says which, where that will be told.
    pub(super) fn tries(&mut self, headers: &mut HeaderMap) -> Option<Traceparent> {
        let span = fresh();
        trace_headers::hand_on(
            headers,
            &Trace { id: self.trace, span, is_sampled: Some(self.is_sampled) },
            self.own,
        );
        if !self.is_sampled || self.tries.len() >= MAX_TRIES_TOLD {
            return None;
        }
        let began = Instant::now();
        let nothing = Try { span, began, ended: None, status: None, cluster: None, address: None };
        if let Some(before) = self.tries.last_mut() {
            before.ended.get_or_insert(began);
        }
        self.tries.push(nothing);
        Some(Traceparent::new(self.trace, span).sampled())
    }

    /// It has answered, or not.
    pub(super) fn tried(&mut self, sent_to: &SentTo, status: Option<StatusCode>) {
        if let Some(last) = self.tries.last_mut() {
            last.status = status;
            last.cluster = sent_to.cluster.clone();
            last.address = sent_to.address;
            if status.is_none() {
                last.ended = Some(Instant::now());
            }
        }
    }

    /// All is over.
    pub(super) fn tell(&self, facts: &Facts) {
        if !self.is_sampled {
            return;
        }
        let (over, now) = (Instant::now(), SystemTime::now());
        let since = |at: Instant| now - over.saturating_duration_since(at);
        let last = self.tries.len().saturating_sub(1);
        for (at, one) in self.tries.iter().enumerate() {
            let ended = one.ended.unwrap_or(over);
            let times = (since(one.began), ended.saturating_duration_since(one.began));
            let flags = if at == last { facts.flags } else { Flags::default() };
            self.tracer.exporter.push(self.client(one, facts, times, flags));
        }
        self.tracer.exporter.push(self.server(facts, (since(facts.began), facts.took.duration)));
    }

    fn span(
        &self,
        (id, parent): (u64, Option<u64>),
        side: Side,
        name: String,
        times: (SystemTime, Duration),
    ) -> Span {
        let (began, took) = times;
        Span { trace: self.trace, id, parent, side, name, began, took, is_error: false, tags: Vec::new() }
    }

    fn server(&self, facts: &Facts, times: (SystemTime, Duration)) -> Span {
        let service = facts.parties.service.as_ref();
        let port = facts.parties.called.port();
        // Istio's decoration of a route: the service and the port that were called.
        let name = match service {
            Some(service) => format!("{}:{port}/*", service.hostname),
            None => format!("{}/*", facts.parties.called),
        };
        let mut span = self.span((self.own, self.parent), Side::Server, name, times);
        let most = self.tracer.max_tag;
        let asked = &facts.asked;
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let line = facts.line();
        if let Some(http) = &line.http {
            let authority = http.authority.map(String::from_utf8_lossy).unwrap_or_default();
            let path = String::from_utf8_lossy(http.asked_path);
            span.tag("http.url", format!("http://{authority}{path}"), most);
            span.tag("http.method", http.method, most);
            span.tag("http.protocol", http.protocol, most);
        }
        if let Some(agent) = &asked.user_agent {
            span.tag("user_agent", text(agent), most);
        }
        if let Some(id) = &asked.request_id {
            span.tag("guid:x-request-id", text(id), most);
        }
        span.tag("peer.address", facts.parties.client.ip().to_canonical().to_string(), most);
        span.tag("request_size", facts.took.request_bytes.to_string(), most);
        span.tag("response_size", facts.took.response_bytes.to_string(), most);
        span.tag("http.status_code", facts.status.to_string(), most);
        if let Some(status) = facts.ending().grpc_status {
            span.tag("grpc.status_code", status.to_string(), most);
        }
        self.common(&mut span, facts.sent_to.cluster.as_deref(), facts.flags);
        if self.tracer.istio_tags {
            self.istio(&mut span, facts);
        }
        for tag in &self.tracer.tags {
            if let Some(value) = tag.value(&line) {
                span.tag(tag.name.to_string(), value, most);
            }
        }
        span.is_error = facts.status >= 500 || facts.status == 0;
        span
    }

    fn client(&self, one: &Try, facts: &Facts, times: (SystemTime, Duration), flags: Flags) -> Span {
        let cluster = one.cluster.as_deref();
        let name = format!("router {} egress", cluster.unwrap_or("unknown"));
        let mut span = self.span((one.span, Some(self.own)), Side::Client, name, times);
        let most = self.tracer.max_tag;
        if let Some(http) = &facts.line().http {
            span.tag("http.protocol", http.protocol, most);
        }
        if let Some(address) = one.address {
            span.tag("upstream_address", address.to_string(), most);
            span.tag("peer.address", address.to_string(), most);
        }
        span.tag("http.status_code", one.status.map_or(0, |it| it.as_u16()).to_string(), most);
        self.common(&mut span, cluster, flags);
        span.is_error = one.status.is_none_or(|it| it.is_server_error());
        span
    }

    /// What stands in both.
    fn common(&self, span: &mut Span, cluster: Option<&str>, flags: Flags) {
        let most = self.tracer.max_tag;
        span.tag("component", "proxy", most);
        span.tag("node_id", self.tracer.me.node.as_str(), most);
        if let Some(cluster) = cluster {
            span.tag("upstream_cluster", cluster, most);
            span.tag("upstream_cluster.name", cluster, most);
        }
        span.tag("response_flags", flags.to_string(), most);
    }

    fn istio(&self, span: &mut Span, facts: &Facts) {
        const FACTS: [(&str, &str, PeerFact); 7] = [
            ("istio.source_workload", "istio.destination_workload", PeerFact::Workload),
            ("istio.source_namespace", "istio.destination_namespace", PeerFact::Namespace),
            ("istio.source_app", "istio.destination_app", PeerFact::App),
            ("istio.source_version", "istio.destination_version", PeerFact::Version),
            ("istio.source_instance_name", "istio.destination_instance_name", PeerFact::Name),
            ("istio.source_cluster_id", "istio.destination_cluster_id", PeerFact::Cluster),
            ("istio.source_principal", "istio.destination_principal", PeerFact::Principal),
        ];
        let (me, most) = (&self.tracer.me, self.tracer.max_tag);
        for (name, value) in [
            ("istio.mesh_id", &me.mesh),
            ("istio.canonical_service", &me.canonical_service),
            ("istio.namespace", &me.namespace),
            ("istio.cluster_id", &me.cluster),
        ] {
            span.tag(name, value.as_str(), most);
        }
        span.tag("istio.canonical_revision", "latest", most);
        for (source, destination, fact) in FACTS {
            for (name, end) in [(source, End::Source), (destination, End::Destination)] {
                if let Some(value) = facts.peer(end, fact) {
                    span.tag(name, value, most);
                }
            }
        }
    }
}

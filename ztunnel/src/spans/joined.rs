//! One connection as a span of the trace that it was made in.
//!
//! Only a waypoint through which the pod is reached is believed about traces, and that by its identity: whoever else states
//! one could put what it likes into other people's. The span is told when the connection is over, which may be long after the request that it was made for.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::hbone::request::Traceparent;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::Workload;
use common::spans::{Side, Span, fresh};
use common::spiffe::Identity;

use super::{Spans, Tracer};
use crate::record::Ends;

/// A connection that is told of when it is over.
#[derive(Debug)]
pub struct Joined {
    tracer: Arc<Tracer>,
    trace: u128,
    parent: u64,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// Bytes from the client to the server.
    pub request_bytes: u64,
    /// Bytes from the server to the client.
    pub response_bytes: u64,
    /// How long it lasted.
    pub took: Duration,
    /// Why it was refused or broke.
    pub refusal: Option<&'a Refusal>,
}

impl Joined {
    /// A connection that arrived through a tunnel: joined to the trace that the tunnel's other end states, where that is a
    /// waypoint through which the pod is reached, and the trace is to be recorded.
    pub fn new(
        spans: &Spans,
        mesh: &Snapshot,
        ends: &Ends,
        stated: Option<Traceparent>,
    ) -> Option<Box<Self>> {
        let stated = stated.filter(|it| it.is_sampled())?;
        let pod = ends.destination.as_ref()?;
        let tracer = spans.tracer(pod.namespace())?;
        let caller = ends.source.as_ref()?;
        let gateway = caller.stands_as()?;
        let proved = ends.source_identity.as_ref()?;
        let port = ends.tunnelled_to.unwrap_or(ends.server).port();
        let stands_before = mesh.waypoints_before(pod, port).any(|it| *it == gateway)
            && mesh.may_use_waypoint(pod.namespace(), &gateway)
            || ends.service.as_ref().is_some_and(|it| mesh.stands_before_service(&gateway, it));
        if !stands_before || !mesh.is_waypoint(&gateway, proved) {
            return None;
        }
        Some(Box::new(Self { tracer, trace: stated.trace_id(), parent: stated.parent_id() }))
    }

    /// It is over.
    pub fn tell(&self, ends: &Ends, outcome: &Outcome<'_>) {
        self.tracer.exporter.push(self.span(ends, outcome));
    }

    /// What is told of it.
    pub(super) fn span(&self, ends: &Ends, outcome: &Outcome<'_>) -> Span {
        let target = ends.tunnelled_to.unwrap_or(ends.server);
        let name = match &ends.destination {
            Some(pod) => format!("{}.{}:{}", pod.workload_name, pod.namespace(), target.port()),
            None => target.to_string(),
        };
        let mut span = Span {
            trace: self.trace,
            id: fresh(),
            parent: Some(self.parent),
            side: Side::Server,
            name,
            began: SystemTime::now() - outcome.took,
            took: outcome.took,
            is_error: outcome.refusal.is_some(),
            tags: Vec::new(),
        };
        let most = self.tracer.max_tag;
        let mut tag = |name: &'static str, value: &dyn Display| span.tag(name, value.to_string(), most);
        tag("component", &super::ZTUNNEL);
        tag("node_id", &self.tracer.me.node);
        tag("protocol", &"hbone");
        tag("direction", &"inbound");
        tag("peer.address", &ends.client);
        tag("dst.addr", &target);
        if let Some(service) = &ends.service {
            tag("dst.service", &service.hostname);
        }
        // As the pod sees them, like the access log.
        tag("bytes_sent", &outcome.response_bytes);
        tag("bytes_recv", &outcome.request_bytes);
        if let Some(refusal) = outcome.refusal {
            tag("response_flags", &refusal.flag());
            tag("why", refusal);
        }
        if self.tracer.istio_tags {
            self.istio(&mut span, ends);
        }
        for (name, value) in &self.tracer.tags {
            span.tag(name.to_string(), &**value, most);
        }
        span
    }

    fn istio(&self, span: &mut Span, ends: &Ends) {
        let (me, most) = (&self.tracer.me, self.tracer.max_tag);
        for (name, value) in [
            ("istio.mesh_id", &me.mesh),
            ("istio.canonical_service", &me.canonical_service),
            ("istio.namespace", &me.namespace),
            ("istio.cluster_id", &me.cluster),
        ] {
            span.tag(name, value.as_str(), most);
        }
        let mut peer = |side: &str, workload: Option<&Arc<Workload>>, proved: Option<&Identity>| {
            let mut tag = |fact: &str, value: &dyn Display| {
                span.tag(format!("istio.{side}_{fact}"), value.to_string(), most);
            };
            if let Some(it) = workload {
                tag("workload", &it.workload_name);
                tag("namespace", it.namespace());
                tag("app", or(&it.app, &it.canonical_name));
                tag("version", or(&it.version, &it.canonical_revision));
                tag("instance_name", &it.name);
                tag("cluster_id", &it.cluster);
            }
            if let Some(it) = proved {
                tag("principal", it);
            }
        };
        peer("source", ends.source.as_ref(), ends.source_identity.as_ref());
        peer("destination", ends.destination.as_ref(), ends.destination_identity.as_ref());
    }
}

/// The label, or what stands for it, as in the spans of waypoints.
fn or<'l>(label: &'l Arc<str>, otherwise: &'l Arc<str>) -> &'l Arc<str> {
    if label.is_empty() { otherwise } else { label }
}

//! What is known of a request beyond its line, for whoever states an expression, a format or a tag.

use std::borrow::Cow;

use common::config::expression::PeerFact;
use common::snapshot::model::{TunnelProtocol, Workload};
use common::spiffe::Identity;
use common::telemetry::attributes::{More, Side};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Carried, Facts, Parties, SentTo};
use crate::telemetry::Effective;

/// Headers that somebody wants to hear of. Values share the memory of the message's own.
pub(super) struct Captured {
    request: Vec<(HeaderName, HeaderValue)>,
    response: Vec<(HeaderName, HeaderValue)>,
}

impl Captured {
    /// Those of a request; none where nobody asks for any.
    pub(super) fn of(asked: &Effective, headers: &HeaderMap) -> Option<Box<Self>> {
        if asked.request_headers.is_empty() && asked.response_headers.is_empty() {
            return None;
        }
        Some(Box::new(Self { request: kept(&asked.request_headers, headers), response: Vec::new() }))
    }

    /// Those of its answer.
    pub(super) fn answered(&mut self, asked: &Effective, headers: &HeaderMap) {
        self.response = kept(&asked.response_headers, headers);
    }
}

fn kept(names: &[HeaderName], headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

fn found<'h>(headers: &'h [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'h [u8]> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_bytes())
}

impl More for Facts {
    fn request_header(&self, name: &HeaderName) -> Option<&[u8]> {
        found(&self.captured.as_ref()?.request, name)
    }

    fn response_header(&self, name: &HeaderName) -> Option<&[u8]> {
        found(&self.captured.as_ref()?.response, name)
    }

    fn grpc_status(&self) -> Option<u8> {
        self.ending().grpc_status
    }

    fn trace_id(&self) -> Option<u128> {
        self.traced.as_ref().map(|it| it.trace_id())
    }

    fn peer(&self, side: Side, fact: PeerFact) -> Option<Cow<'_, str>> {
        peer(&self.parties, &self.sent_to, side, fact)
    }
}

impl More for Carried {
    fn request_header(&self, _: &HeaderName) -> Option<&[u8]> {
        None
    }

    fn response_header(&self, _: &HeaderName) -> Option<&[u8]> {
        None
    }

    fn grpc_status(&self) -> Option<u8> {
        None
    }

    fn trace_id(&self) -> Option<u128> {
        None
    }

    fn peer(&self, side: Side, fact: PeerFact) -> Option<Cow<'_, str>> {
        peer(&self.parties, &self.sent_to, side, fact)
    }
}

fn peer<'p>(parties: &'p Parties, sent_to: &'p SentTo, side: Side, fact: PeerFact) -> Option<Cow<'p, str>> {
    let (workload, identity) = match side {
        Side::Source => (parties.caller.as_deref(), parties.identity()),
        Side::Destination => {
            let workload = sent_to.workload.as_deref().or(parties.workload.as_deref());
            let enrolled = workload.filter(|it| it.protocol == TunnelProtocol::Hbone);
            (workload, enrolled.map(|it| &it.identity))
        }
    };
    of(workload, identity, fact)
}

fn of<'p>(
    workload: Option<&'p Workload>,
    identity: Option<&'p Identity>,
    fact: PeerFact,
) -> Option<Cow<'p, str>> {
    if fact == PeerFact::Principal {
        return identity.map(|it| it.to_string().into());
    }
    let it = workload?;
    // As in the metrics: pods without the labels of Kubernetes have the canonical ones.
    let or = |stated: &'p str, other: &'p str| if stated.is_empty() { other } else { stated };
    let text: &str = match fact {
        PeerFact::Name => &it.name,
        PeerFact::Namespace => it.namespace(),
        PeerFact::Workload => &it.workload_name,
        PeerFact::Service => &it.canonical_name,
        PeerFact::Revision => &it.canonical_revision,
        PeerFact::App => or(&it.app, &it.canonical_name),
        PeerFact::Version => or(&it.version, &it.canonical_revision),
        PeerFact::Cluster => &it.cluster,
        PeerFact::Principal => return None,
    };
    Some(text.into())
}

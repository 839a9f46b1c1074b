//! Where a request came from before it came into the mesh (`remote.ip`, `remoteIpBlocks`).
//!
//! Anybody can write `x-forwarded-for`. Who stands at the edge of the mesh to take requests from outside wrote the last
//! address of it himself, so it is believed of the pods of gateways, known by their labels, and of nobody else.

use std::net::{IpAddr, SocketAddr};

use common::config::waypoint::GATEWAY_NAME;
use common::snapshot::model::Workload;
use http::HeaderName;

use super::Facts;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that policies mean by the remote one.
pub(super) fn address(facts: &Facts<'_>) -> IpAddr {
    let told = facts.http.as_ref().filter(|_| facts.caller.is_some_and(is_gateway)).and_then(|http| {
        let last = http.request.headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
        parse(last.rsplit(',').next()?.trim())
    });
    told.unwrap_or(facts.source)
}

/// A Gateway's pods, and those of Istio's own ingress gateway. Not those of waypoints, which pass on what they are told.
fn is_gateway(workload: &Workload) -> bool {
    workload.labels.get(GATEWAY_NAME).is_some() && !workload.is_waypoint()
        || workload.labels.get("istio").is_some_and(|it| **it == *"ingressgateway")
}

fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()))?;
    Some(address.to_canonical())
}

//! The values of a snapshot as `/config_dump` shows them: the JSON keys `istioctl ztunnel-config` and Kiali read.
//!
//! Keys of Istio's ztunnel are spelled as there, also where Ebb has nothing to put under them; what Ebb adds comes under
//! keys Istio does not use. A key of the wrong type makes Kiali's page empty, so the shapes are pinned by a test.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::config::ObjectName;
use crate::snapshot::model::{Endpoint, Policy, Service, TunnelProtocol, Workload};

/// One item of `workloads`. `services` are those it serves, `policies` the keys (`namespace/name`) of those that select
/// it by label.
pub fn workload_json(workload: &Workload, services: &[Arc<Service>], policies: &[Arc<str>]) -> Value {
    let services: Vec<_> = services.iter().map(|service| namespaced_hostname(service)).collect();
    json!({
        "uid": workload.uid,
        "workloadIps": workload.addresses,
        "waypoint": waypoint_json(workload.waypoint.as_ref()),
        "networkGateway": null,
        "protocol": workload.protocol,
        "name": workload.name,
        "namespace": workload.identity.namespace,
        "trustDomain": workload.identity.trust_domain,
        "serviceAccount": workload.identity.service_account,
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_kind,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "clusterId": workload.cluster,
        "locality": *workload.locality,
        "node": workload.node,
        "network": "",
        "networkMode": if workload.host_network { "HostNetwork" } else { "Standard" },
        "status": workload.health,
        "hostname": "",
        "capacity": 1,
        "applicationTunnel": null,
        "services": services,
        "authorizationPolicies": policies,
        "nativeTunnel": workload.protocol == TunnelProtocol::Hbone && workload.enrolment.is_none(),
    })
}

/// One item of `services`, with where it is served.
pub fn service_json(service: &Service, endpoints: &[Endpoint]) -> Value {
    let shown: Map<String, Value> =
        endpoints.iter().map(|endpoint| (endpoint_key(endpoint), endpoint_json(service, endpoint))).collect();
    // A service port has one target in this key; where pods differ, each endpoint tells its own.
    let target = |port| endpoints.iter().find_map(|endpoint| endpoint.target_port(port)).unwrap_or(port);
    let ports: Map<String, Value> =
        service.ports.iter().map(|port| (port.port.to_string(), target(port.port).into())).collect();
    let balancing = &service.load_balancing;
    json!({
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": service.vips.iter().map(|ip| on_network(*ip)).collect::<Vec<_>>(),
        "cidrVips": [],
        "ports": ports,
        "endpoints": shown,
        "loadBalancer": {
            "mode": balancing.mode,
            "routingPreferences": balancing.routing_preferences,
            "healthPolicy": if balancing.allow_unready { "AllowAll" } else { "OnlyHealthy" },
        },
        "waypoint": waypoint_json(service.waypoint.as_ref()),
        "subjectAltNames": [],
        "ipFamilies": ip_families(&service.vips),
        "canonical": true,
        "visibility": "Public",
    })
}

/// One item of `policies`.
pub fn policy_json(policy: &Policy) -> Value {
    json!({
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": policy.scope,
        "action": policy.action,
        "rules": policy.rules,
        "dryRun": policy.dry_run,
    })
}

/// The Gateway by its own name, which is all that is known of it.
fn waypoint_json(waypoint: Option<&ObjectName>) -> Value {
    waypoint.map_or(Value::Null, |it| json!({ "destination": it.to_string() }))
}

/// `version` of the dump.
pub fn version_json(version: &str, revision: &str) -> Value {
    json!({ "version": version, "gitRevision": revision })
}

/// An endpoint without a workload is told apart by its address.
fn endpoint_key(endpoint: &Endpoint) -> String {
    match &endpoint.workload {
        Some(workload) => workload.uid.to_string(),
        None => on_network(endpoint.address),
    }
}

fn endpoint_json(service: &Service, endpoint: &Endpoint) -> Value {
    let ports: Map<String, Value> =
        endpoint.ports.iter().map(|(port, target)| (port.to_string(), (*target).into())).collect();
    json!({
        "workloadUid": endpoint.workload.as_ref().map_or("", |workload| &workload.uid),
        "service": namespaced_hostname(service),
        "address": on_network(endpoint.address),
        "status": endpoint.health,
        "port": ports,
    })
}

fn namespaced_hostname(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.hostname)
}

/// An address with its network in front, which is the nameless only one.
fn on_network(ip: IpAddr) -> String {
    format!("/{ip}")
}

fn ip_families(vips: &[IpAddr]) -> &'static str {
    match (vips.iter().any(IpAddr::is_ipv4), vips.iter().any(IpAddr::is_ipv6)) {
        (true, true) => "Dual",
        (false, true) => "IPv6",
        (true, false) => "IPv4",
        (false, false) => "",
    }
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;

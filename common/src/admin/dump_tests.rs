use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::snapshot::model::{Action, Match, PolicyScope, StringMatch};
use crate::telemetry::test_mesh::{endpoint, service, workload};

// The structs of istioctl (pkg `configdump`), field for field: what does not decode into them breaks the tool.

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IstioctlWorkload {
    uid: String,
    workload_ips: Vec<String>,
    waypoint: Option<IstioctlGateway>,
    protocol: String,
    name: String,
    namespace: String,
    service_account: String,
    workload_name: String,
    workload_type: String,
    canonical_name: String,
    canonical_revision: String,
    cluster_id: String,
    trust_domain: String,
    locality: BTreeMap<String, String>,
    node: String,
    network: String,
    status: String,
    hostname: String,
    capacity: u32,
    authorization_policies: Vec<String>,
    services: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct IstioctlGateway {
    #[expect(dead_code, reason = "only its type is of interest")]
    destination: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IstioctlService {
    name: String,
    namespace: String,
    hostname: String,
    vips: Vec<String>,
    ports: BTreeMap<u16, i64>,
    load_balancer: Option<IstioctlBalancer>,
    waypoint: Option<IstioctlGateway>,
    endpoints: BTreeMap<String, IstioctlEndpoint>,
    subject_alt_names: Vec<String>,
    ip_families: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IstioctlBalancer {
    mode: String,
    routing_preferences: Vec<String>,
    health_policy: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IstioctlEndpoint {
    workload_uid: String,
    service: String,
    status: String,
    port: BTreeMap<u16, u16>,
}

#[test]
fn a_workload_decodes_as_istioctl_does() {
    let services = [Arc::new(service("cart"))];
    let json = workload_json(&workload("cart"), &services, &["shop/deny".into()]);
    let read: IstioctlWorkload = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(read.uid, "Kubernetes//Pod/shop/cart-1");
    assert_eq!(read.workload_ips, ["10.0.0.7"]);
    assert_eq!((read.protocol.as_str(), read.status.as_str()), ("HBONE", "Healthy"));
    assert_eq!((read.name.as_str(), read.namespace.as_str()), ("cart-1", "shop"));
    assert_eq!((read.service_account.as_str(), read.trust_domain.as_str()), ("cart", "cluster.local"));
    assert_eq!((read.workload_name.as_str(), read.workload_type.as_str()), ("cart", "deployment"));
    assert_eq!((read.canonical_name.as_str(), read.canonical_revision.as_str()), ("cart", "v2"));
    assert_eq!((read.cluster_id.as_str(), read.node.as_str()), ("Kubernetes", "node-a"));
    assert_eq!(read.locality["region"], "r1");
    assert_eq!((read.network.as_str(), read.hostname.as_str(), read.capacity), ("", "", 1));
    assert_eq!(read.services, ["shop/cart.shop.svc.cluster.local"]);
    assert_eq!(read.authorization_policies, ["shop/deny"]);
    assert!(read.waypoint.is_none());
    assert_eq!(json["networkMode"], "Standard");
}

#[test]
fn a_pod_outside_the_mesh_is_shown_as_tcp() {
    let mut outside = workload("old");
    let likeness = Arc::make_mut(&mut outside.likeness);
    (likeness.protocol, likeness.host_network) = (TunnelProtocol::None, true);
    let json = workload_json(&outside, &[], &[]);
    assert_eq!((&json["protocol"], &json["networkMode"]), (&json!("TCP"), &json!("HostNetwork")));
    assert_eq!(json["nativeTunnel"], false);
}

#[test]
fn a_service_decodes_as_istioctl_does() {
    let stranger =
        Endpoint { workload: None, address: "fd00::9".parse().unwrap(), ..endpoint(workload("x")) };
    let json = service_json(&service("cart"), &[endpoint(workload("cart")), stranger]);
    let read: IstioctlService = serde_json::from_value(json).unwrap();
    assert_eq!((read.name.as_str(), read.namespace.as_str()), ("cart", "shop"));
    assert_eq!(read.hostname, "cart.shop.svc.cluster.local");
    assert_eq!(read.vips, ["/10.96.0.1"]);
    assert_eq!(read.ports, BTreeMap::from([(80, 8080)]));
    assert_eq!(read.ip_families, "IPv4");
    assert!(read.waypoint.is_none() && read.subject_alt_names.is_empty());
    let balancer = read.load_balancer.unwrap();
    assert_eq!((balancer.mode.as_str(), balancer.health_policy.as_str()), ("Standard", "OnlyHealthy"));
    assert!(balancer.routing_preferences.is_empty());
    let endpoint = &read.endpoints["Kubernetes//Pod/shop/cart-1"];
    assert_eq!(endpoint.workload_uid, "Kubernetes//Pod/shop/cart-1");
    assert_eq!(endpoint.service, "shop/cart.shop.svc.cluster.local");
    assert_eq!((endpoint.status.as_str(), endpoint.port[&80]), ("Healthy", 8080));
    assert_eq!(read.endpoints["/fd00::9"].workload_uid, "");
}

#[test]
fn a_policy_keeps_rules_clauses_and_matches() {
    let matching = Match {
        principals: vec![StringMatch::Exact("cluster.local/ns/shop/sa/web".into()), StringMatch::Presence],
        not_source_ips: vec!["10.0.0.0/8".parse().unwrap()],
        destination_ports: vec![8080],
        ..Match::default()
    };
    let policy = Policy {
        name: "deny".into(),
        namespace: "shop".into(),
        key: "shop/deny".into(),
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        dry_run: false,
        rules: vec![vec![vec![matching]]],
    };
    assert_eq!(
        policy_json(&policy),
        json!({
            "name": "deny", "namespace": "shop", "scope": "WorkloadSelector", "action": "Deny", "dryRun": false,
            "rules": [[[{
                "principals": [{"Exact": "cluster.local/ns/shop/sa/web"}, "Presence"],
                "notSourceIps": ["10.0.0.0/8"],
                "destinationPorts": [8080],
            }]]],
        })
    );
}

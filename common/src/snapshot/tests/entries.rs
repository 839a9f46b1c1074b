//! ServiceEntries as services: by address and by host, their endpoints wherever these come from.

use std::net::IpAddr;
use std::sync::Arc;

use super::Desk;
use crate::config::ObjectName;
use crate::snapshot::Snapshot;
use crate::snapshot::model::Endpoint;

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: \
         {{{spec}}}\n"
    )
}

fn machine(name: &str, address: &str, version: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: \
         {{address: {address}, labels: {{app: api, version: {version}}}, ports: {{web: 9000}}, weight: 2}}\n"
    )
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: api-1, namespace: shop, labels: {app: api}}\nspec: {nodeName: \
                   n1}\nstatus: {podIP: 10.1.0.9}\n";

/// Addresses and ports that a host's port 80 is served at.
fn served(mesh: &Snapshot, host: &str) -> Vec<String> {
    let Some(service) = mesh.service("shop", host) else { return vec!["no such service".to_owned()] };
    let port = |it: &Endpoint| it.target_port(80).unwrap_or(0);
    mesh.endpoints(service).iter().map(|it| format!("{}:{} x{}", it.address, port(it), it.weight)).collect()
}

const WEB: &str = "ports: [{number: 80, name: web, protocol: HTTP, targetPort: 8080}]";

#[test]
fn every_host_is_a_service_found_by_name_and_the_first_by_address() {
    let mut files = Desk::new();
    let spec = format!(
        "hosts: [a.example.com, b.example.com], addresses: [192.0.2.1], {WEB}, resolution: STATIC, endpoints: [{{address: \
         198.51.100.7}}, {{address: 198.51.100.8, ports: {{web: 81}}}}]"
    );
    let mesh = files.write("entry.yaml", &entry("api", &spec)).clone();
    for host in ["a.example.com", "b.example.com"] {
        assert_eq!(served(&mesh, host), ["198.51.100.7:8080 x1", "198.51.100.8:81 x1"]);
        assert!(mesh.service_named(host, "bank", "cluster.local").is_some());
    }
    let called = mesh.service_at("192.0.2.1".parse().unwrap()).unwrap();
    assert_eq!(&*called.hostname, "a.example.com");
    // What is stated of an endpoint proves nothing of whoever calls from there.
    assert!(mesh.workload_at("198.51.100.7".parse().unwrap()).is_none());
    let mesh = files.write("entry.yaml", "").clone();
    assert!(mesh.service_at("192.0.2.1".parse().unwrap()).is_none());
    assert!(mesh.service_named("a.example.com", "shop", "cluster.local").is_none());
    assert_eq!(mesh.services().count(), 0);
}

#[test]
fn an_entry_that_is_not_exported_is_seen_from_its_own_namespace_only() {
    let mut files = Desk::new();
    let mesh =
        files.write("e.yaml", &entry("api", &format!("hosts: [a.example.com], {WEB}, exportTo: ['.']")));
    assert!(mesh.service_named("a.example.com", "shop", "cluster.local").is_some());
    assert!(mesh.service_named("a.example.com", "bank", "cluster.local").is_none());
}

#[test]
fn selected_pods_and_workload_entries_come_and_go() {
    let mut files = Desk::new();
    let spec = format!(
        "hosts: [a.example.com], {WEB}, resolution: STATIC, workloadSelector: {{labels: {{app: api}}}}"
    );
    let mesh = files.write("entry.yaml", &entry("api", &spec));
    assert!(served(mesh, "a.example.com").is_empty());
    let mesh = files.write("vm.yaml", &machine("vm", "198.51.100.7", "v1"));
    assert_eq!(served(mesh, "a.example.com"), ["198.51.100.7:9000 x2"]);
    let mesh = files.write("pod.yaml", POD);
    assert_eq!(served(mesh, "a.example.com"), ["10.1.0.9:8080 x1", "198.51.100.7:9000 x2"]);
    let mesh = files.write("vm.yaml", &machine("vm", "198.51.100.9", "v1"));
    assert_eq!(served(mesh, "a.example.com"), ["10.1.0.9:8080 x1", "198.51.100.9:9000 x2"]);
    files.write("vm.yaml", "");
    let mesh = files.write("pod.yaml", "");
    assert!(served(mesh, "a.example.com").is_empty());
}

#[test]
fn an_endpoint_that_is_a_pod_is_that_pod_for_as_long_as_it_is_there() {
    let mut files = Desk::new();
    let spec =
        format!("hosts: [a.example.com], {WEB}, resolution: STATIC, endpoints: [{{address: 10.1.0.9}}]");
    files.write("entry.yaml", &entry("api", &spec));
    let name = |mesh: &Snapshot| {
        let service = mesh.service("shop", "a.example.com").unwrap();
        mesh.endpoints(service).get(0).unwrap().workload.as_ref().unwrap().name.to_string()
    };
    assert_eq!(name(files.write("pod.yaml", POD)), "api-1");
    assert_eq!(name(files.write("pod.yaml", "")), "api");
}

#[test]
fn names_are_asked_for_and_their_addresses_followed() {
    let mut files = Desk::new();
    let dns = |more: &str| entry("api", &format!("hosts: [a.example.com], {WEB}, resolution: DNS{more}"));
    let mesh = files.write("entry.yaml", &dns(""));
    assert_eq!(mesh.names().iter().map(|it| &**it).collect::<Vec<_>>(), ["a.example.com"]);
    assert!(served(mesh, "a.example.com").is_empty());
    let found = |name: &str, addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        (Arc::from(name), addresses.into_boxed_slice())
    };
    let mesh = files.resolve(found("a.example.com", &["198.51.100.1", "198.51.100.2"]));
    assert_eq!(served(mesh, "a.example.com"), ["198.51.100.1:8080 x1", "198.51.100.2:8080 x1"]);
    let mesh = files.resolve(found("a.example.com", &["198.51.100.2"]));
    assert_eq!(served(mesh, "a.example.com"), ["198.51.100.2:8080 x1"]);
    let mesh = files.write("entry.yaml", &dns(", endpoints: [{address: b.example.com, weight: 5}]"));
    assert_eq!(mesh.names().iter().map(|it| &**it).collect::<Vec<_>>(), ["b.example.com"]);
    assert!(served(mesh, "a.example.com").is_empty(), "what is stated is looked up, and not the host");
    let mesh = files.resolve(found("b.example.com", &["198.51.100.3"]));
    assert_eq!(served(mesh, "a.example.com"), ["198.51.100.3:8080 x5"]);
    // What nobody asks for any more is forgotten.
    files.write("entry.yaml", "");
    let mesh = files.write("entry.yaml", &dns(", endpoints: [{address: b.example.com}]"));
    assert!(served(mesh, "a.example.com").is_empty());
}

#[test]
fn of_two_entries_for_one_host_the_first_by_name_counts_and_the_other_takes_over() {
    let mut files = Desk::new();
    let at = |address: &str| {
        format!("hosts: [a.example.com], {WEB}, resolution: STATIC, endpoints: [{{address: {address}}}]")
    };
    files.write("two.yaml", &entry("two", &at("198.51.100.2")));
    let mesh = files.write("one.yaml", &entry("one", &at("198.51.100.1")));
    assert_eq!(served(mesh, "a.example.com"), ["198.51.100.1:8080 x1"]);
    let mesh = files.write("one.yaml", "");
    assert_eq!(served(mesh, "a.example.com"), ["198.51.100.2:8080 x1"]);
}

#[test]
fn an_entry_is_bound_to_its_waypoint_by_its_label_or_its_namespace() {
    let mut files = Desk::new();
    let namespace =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: gate}}\n";
    let mesh = files.write("e.yaml", &entry("api", &format!("hosts: [a.example.com], {WEB}")));
    assert_eq!(mesh.service("shop", "a.example.com").unwrap().waypoint, None);
    let mesh = files.write("ns.yaml", namespace);
    let gate = Some(ObjectName::new("shop", "gate"));
    assert_eq!(mesh.service("shop", "a.example.com").unwrap().waypoint, gate);
}

#[test]
fn a_pod_behind_an_entry_with_a_waypoint_is_not_reached_round_it() {
    let mut files = Desk::new();
    files.write("ns.yaml", &super::namespace("shop", "ambient"));
    files.write("pod.yaml", &super::pod("a", "10.1.0.9", &[("app", "api")]));
    let bound = |spec: &str| {
        let spec =
            format!("hosts: [a.example.com], addresses: [192.0.2.1], {WEB}, resolution: STATIC, {spec}");
        entry("api", &spec)
            .replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: gate}}")
    };
    for spec in ["workloadSelector: {labels: {app: api}}", "endpoints: [{address: 10.1.0.9}]"] {
        files.write("entry.yaml", &bound(spec));
        let pod = files.pod("shop", "a");
        assert!(files.now.came_through(&pod, 8080, None).is_err(), "{spec}");
        assert!(files.now.came_through(&pod, 8081, None).is_ok(), "{spec}");
        files.write("entry.yaml", "");
        assert!(files.now.came_through(&pod, 8080, None).is_ok(), "{spec}");
    }
}

//! ServiceEntries and WorkloadEntries as operators write them, good and bad.

use std::sync::Arc;

use crate::config::decode::{Decoded, yaml};
use crate::config::entry::{EntryEndpoint, Resolution, ServiceEntry, Whereabouts, WorkloadEntry};
use crate::config::names::Names;
use crate::config::{ObjectName, Resource};

const PORTS: &str = "ports: [{number: 443, name: https, protocol: HTTPS}]";

fn manifest(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata:\n  name: api\n  namespace: shop\n  labels: \
         {{istio.io/use-waypoint: gate}}\nspec: {{{spec}}}\n"
    )
}

fn read(text: &str) -> Decoded {
    yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
}

fn good(kind: &str, spec: &str) -> Resource {
    let decoded = read(&manifest(kind, spec));
    let rejected: Vec<String> = decoded.rejected.iter().map(ToString::to_string).collect();
    assert!(rejected.is_empty(), "{rejected:#?}\n{spec}");
    decoded.stated[0].resource.clone()
}

fn entry(spec: &str) -> Arc<ServiceEntry> {
    match good("ServiceEntry", spec) {
        Resource::ServiceEntry(it) => it,
        other => panic!("{other:?}"),
    }
}

fn workload(spec: &str) -> Arc<WorkloadEntry> {
    match good("WorkloadEntry", spec) {
        Resource::WorkloadEntry(it) => it,
        other => panic!("{other:?}"),
    }
}

/// Field and reason of the one fault.
fn fault(kind: &str, spec: &str) -> (String, String) {
    let decoded = read(&manifest(kind, spec));
    assert_eq!((decoded.stated.len(), decoded.rejected.len()), (0, 1), "{spec}");
    (decoded.rejected[0].field.to_string(), decoded.rejected[0].reason.to_string())
}

#[test]
fn every_field_of_a_service_entry_is_taken_as_stated() {
    let it = entry(
        "hosts: [api.example.com, api.example.org], addresses: [192.0.2.1, 2001:db8::1/128], location: MESH_EXTERNAL, \
         ports: [{number: 80, name: web, protocol: http, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}], \
         resolution: STATIC, endpoints: [{address: 198.51.100.7, ports: {web: 9090}, labels: {version: v1}, locality: \
         eu/eu-1, weight: 3, serviceAccount: api}, {address: 198.51.100.8}], exportTo: [.], subjectAltNames: [api.example.com]",
    );
    assert_eq!(it.hosts.iter().map(|it| &**it).collect::<Vec<_>>(), ["api.example.com", "api.example.org"]);
    assert_eq!(
        it.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.1", "2001:db8::1"]
    );
    assert_eq!((it.ports[0].number, it.ports[0].target, &*it.ports[0].protocol), (80, 8080, "http"));
    assert_eq!((it.ports[1].number, it.ports[1].target, &*it.ports[1].protocol), (443, 443, "tls"));
    assert_eq!(it.resolution, Resolution::Static);
    let [first, second]: &[EntryEndpoint; 2] = it.endpoints[..].try_into().unwrap();
    assert_eq!(first.at, Whereabouts::Ip("198.51.100.7".parse().unwrap()));
    assert_eq!((first.target(&it.ports[0]), first.target(&it.ports[1])), (9090, 443));
    assert_eq!(first.labels.get("version").map(|it| &**it), Some("v1"));
    assert_eq!(first.locality.each_ref().map(|it| &**it), ["eu", "eu-1", ""]);
    assert_eq!((first.weight.get(), &*first.service_account), (3, "api"));
    assert_eq!((second.weight.get(), &*second.service_account), (1, "default"));
    assert!(it.visibility.reaches("shop") && !it.visibility.reaches("bank"));
    assert_eq!(&*it.subject_alt_names[0], "api.example.com");
    let gate = Some(ObjectName::new("shop", "gate"));
    assert_eq!(crate::config::waypoint::UseWaypoint::resolve(it.use_waypoint.as_ref(), None), gate);
}

#[test]
fn resolutions_are_by_name_and_names_only_where_they_are_looked_up() {
    for (stated, resolution) in [
        ("", Resolution::None),
        (", resolution: NONE", Resolution::None),
        (", resolution: DNS", Resolution::Dns),
        (", resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.example.com}]", Resolution::Dns),
        (", resolution: STATIC, workloadSelector: {labels: {app: api}}", Resolution::Static),
    ] {
        assert_eq!(
            entry(&format!("hosts: [api.example.com], {PORTS}{stated}")).resolution,
            resolution,
            "{stated}"
        );
    }
}

#[test]
fn what_only_narrows_is_noted() {
    for (spec, field, label) in [
        ("hosts: ['*.example.com']", "spec.hosts[0]", "wildcard-host-ignored"),
        ("hosts: [a.example.com], addresses: [192.0.2.0/24]", "spec.addresses[0]", "address-range-ignored"),
        (
            "hosts: [a.example.com], ports: [{number: 53, name: dns, protocol: UDP}]",
            "spec.ports[0].protocol",
            "udp-ignored",
        ),
    ] {
        let it = entry(spec);
        assert_eq!(it.notes.len(), 1, "{spec}");
        assert_eq!((&*it.notes[0].field, it.notes[0].caveat.label()), (field, label));
    }
}

#[test]
fn a_workload_entry_has_the_labels_of_both_places_its_specs_first() {
    let it = workload("address: vm.example.com, labels: {app: api, istio.io/use-waypoint: other}, weight: 0");
    assert_eq!(it.endpoint.at, Whereabouts::Name("vm.example.com".into()));
    assert_eq!(it.endpoint.labels.get("app").map(|it| &**it), Some("api"));
    assert_eq!(it.endpoint.labels.get("istio.io/use-waypoint").map(|it| &**it), Some("other"));
    assert_eq!(it.endpoint.weight.get(), 1);
}

/// That each is turned away, by this field, in words with this one in them.
fn turned_away<const N: usize>(faulty: [(String, &str, &str); N]) {
    for (spec, field, word) in faulty {
        let (at, reason) = fault("ServiceEntry", &spec);
        assert_eq!(at, field, "{spec}: {reason}");
        assert!(reason.contains(word), "{spec}: {reason}");
    }
}

#[test]
fn a_faulty_host_address_or_port_is_turned_away_with_its_field() {
    let host = "hosts: [a.example.com]";
    turned_away([
        ("ports: []".to_owned(), "spec.hosts", "not stated"),
        ("hosts: [web]".to_owned(), "spec.hosts[0]", "several labels"),
        ("hosts: [A.example.com]".to_owned(), "spec.hosts[0]", "lower case"),
        ("hosts: [a.b, a.b]".to_owned(), "spec.hosts[1]", "twice"),
        ("hosts: ['*.a.b'], resolution: DNS".to_owned(), "spec.hosts[0]", "NONE"),
        (format!("{host}, addresses: [127.0.0.1]"), "spec.addresses[0]", "loopback"),
        (format!("{host}, addresses: [host]"), "spec.addresses[0]", "not an IP"),
        (format!("{host}, ports: [{{name: a, protocol: TCP}}]"), "spec.ports[0].number", "not stated"),
        (format!("{host}, ports: [{{number: 0, name: a}}]"), "spec.ports[0].number", ""),
        (format!("{host}, ports: [{{number: 1}}]"), "spec.ports[0].name", "not stated"),
        (
            format!("{host}, ports: [{{number: 1, name: a, protocol: SCTP}}]"),
            "spec.ports[0].protocol",
            "none of",
        ),
        (
            format!("{host}, ports: [{{number: 1, name: a}}, {{number: 1, name: b}}]"),
            "spec.ports[1].number",
            "twice",
        ),
        (
            format!("{host}, ports: [{{number: 1, name: a}}, {{number: 2, name: a}}]"),
            "spec.ports[1].name",
            "twice",
        ),
    ]);
}

#[test]
fn a_faulty_endpoint_or_resolution_is_turned_away_with_its_field() {
    let host = "hosts: [a.example.com]";
    turned_away([
        (format!("{host}, location: MOON"), "spec.location", "neither"),
        (format!("{host}, resolution: DYNAMIC_DNS"), "spec.resolution", "not implemented"),
        (format!("{host}, resolution: GUESS"), "spec.resolution", "none of"),
        (format!("{host}, endpoints: [{{address: 192.0.2.1}}]"), "spec.resolution", "NONE"),
        (format!("{host}, resolution: STATIC, endpoints: [{{address: a.b}}]"), "spec.endpoints", "STATIC"),
        (
            format!("{host}, resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]"),
            "spec.endpoints[0].address",
            "loopback",
        ),
        (format!("{host}, resolution: STATIC, endpoints: [{{}}]"), "spec.endpoints[0].address", "not stated"),
        (
            format!("{host}, resolution: STATIC, endpoints: [{{address: 'unix:///a'}}]"),
            "spec.endpoints[0].address",
            "neither",
        ),
        (
            format!("{host}, resolution: STATIC, endpoints: [{{address: 192.0.2.1, network: n2}}]"),
            "spec.endpoints[0].network",
            "not implemented",
        ),
        (
            format!("{host}, resolution: STATIC, endpoints: [{{address: 192.0.2.1, weight: -1}}]"),
            "spec.endpoints[0].weight",
            "",
        ),
        (
            format!("{host}, resolution: STATIC, endpoints: [{{address: 192.0.2.1, ports: {{web: 70000}}}}]"),
            "spec.endpoints[0].ports.web",
            "",
        ),
        (
            format!("{host}, resolution: STATIC, endpoints: [{{address: 192.0.2.1, locality: a/b/c/d}}]"),
            "spec.endpoints[0].locality",
            "more parts",
        ),
        (
            format!(
                "{host}, resolution: STATIC, workloadSelector: {{labels: {{a: b}}}}, endpoints: [{{address: 192.0.2.1}}]"
            ),
            "spec.workloadSelector",
            "only one",
        ),
        (
            format!("{host}, resolution: DNS, workloadSelector: {{labels: {{a: b}}}}"),
            "spec.workloadSelector",
            "STATIC",
        ),
        (format!("{host}, exportTo: ['~']"), "spec.exportTo[0]", ""),
        (format!("{host}, subjectAltNames: ['']"), "spec.subjectAltNames[0]", "empty"),
    ]);
    assert_eq!(fault("WorkloadEntry", "labels: {a: b}").0, "spec.address");
    let (_, unknown) = fault("ServiceEntry", "hosts: [a.b], port: 3");
    assert!(unknown.contains("port"), "{unknown}");
}

use std::net::IpAddr;

use super::super::model::{TunnelProtocol, WorkloadKind};
use super::{Desk, namespace, pod, pod_with};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn who_is_enrolled_follows_pod_then_namespace_and_never_host_or_sidecar() {
    let sidecar = "  annotations:\n    sidecar.istio.io/status: '{}'\n";
    let host = "  hostNetwork: true\n";
    let key = "istio.io/dataplane-mode";
    // namespace's word, pod's word, metadata, spec, enrolled
    let cases: &[(&str, Option<&str>, &str, &str, bool)] = &[
        ("ambient", None, "", "", true),
        ("none", None, "", "", false),
        ("other", None, "", "", false),
        ("none", Some("ambient"), "", "", true),
        ("other", Some("ambient"), "", "", true),
        ("ambient", Some("none"), "", "", false),
        ("ambient", Some("other"), "", "", true),
        ("other", Some("other"), "", "", false),
        ("ambient", None, sidecar, "", false),
        ("ambient", Some("ambient"), sidecar, "", false),
        ("ambient", None, "", host, false),
        ("ambient", Some("ambient"), "", host, false),
    ];
    for (mode, own, metadata, spec, enrolled) in cases {
        let labels: Vec<_> = own.iter().map(|own| (key, *own)).collect();
        let text = namespace("shop", mode) + &pod_with("a", "10.0.0.1", &labels, metadata, spec);
        let desk = Desk::with(&text);
        let pod = desk.pod("shop", "a");
        assert_eq!(pod.enrolment.is_some(), *enrolled, "{mode} {own:?} {metadata} {spec}");
        assert_eq!(pod.protocol == TunnelProtocol::Hbone, *enrolled);
        assert_eq!(desk.now.pods_on("n1").count(), usize::from(*enrolled));
    }
}

#[test]
fn relabelling_a_namespace_enrols_its_pods_and_no_others() {
    let mut desk = Desk::with(&(namespace("shop", "none") + &pod("a", "10.0.0.1", &[])));
    assert!(desk.pod("shop", "a").enrolment.is_none());
    desk.write("mesh.yaml", &(namespace("shop", "ambient") + &pod("a", "10.0.0.1", &[])));
    assert!(desk.pod("shop", "a").enrolment.is_some());
    assert_eq!(desk.now.workload_at(ip("10.0.0.1")).unwrap().protocol, TunnelProtocol::Hbone);
    desk.write("mesh.yaml", &pod("a", "10.0.0.1", &[]));
    assert!(desk.pod("shop", "a").enrolment.is_none(), "the namespace is gone");
}

#[test]
fn annotations_name_the_namespace_and_bypass_inbound() {
    let annotations = "  annotations:\n    ebb.dev/netns: /run/netns/a\n    ambient.istio.io/bypass-inbound-capture: \"true\"\n";
    let desk = Desk::with(&(namespace("shop", "ambient") + &pod_with("a", "10.0.0.1", &[], annotations, "")));
    let pod = desk.pod("shop", "a");
    assert_eq!(pod.netns.as_deref(), Some("/run/netns/a"));
    assert!(pod.enrolment.as_ref().is_some_and(|it| it.bypass_inbound));
}

#[test]
fn a_pod_that_is_over_is_no_workload_and_leaves_its_address() {
    let over = pod("a", "10.0.0.1", &[]).replace("Running", "Succeeded");
    let mut desk = Desk::with(&over);
    assert!(desk.find("shop", "a").is_none());
    desk.write("b.yaml", &pod("b", "10.0.0.1", &[]));
    assert_eq!(&*desk.now.workload_at(ip("10.0.0.1")).unwrap().name, "b");
    let failed = pod("b", "10.0.0.1", &[]).replace("Running", "Failed");
    desk.write("b.yaml", &failed);
    assert!(desk.now.workload_at(ip("10.0.0.1")).is_none());
}

#[test]
fn of_two_pods_at_one_address_the_younger_has_it_whichever_came_first() {
    let aged = |name: &str, time: &str| {
        pod_with(name, "10.0.0.1", &[], &format!("  creationTimestamp: \"{time}\"\n"), "")
    };
    let (old, young) = (aged("old", "2026-01-01T00:00:00Z"), aged("young", "2026-01-02T00:00:00Z"));
    for (first, second) in [(&old, &young), (&young, &old)] {
        let mut desk = Desk::with(first);
        desk.write("second.yaml", second);
        let at = |desk: &Desk| desk.now.workload_at(ip("10.0.0.1")).map(|it| it.name.to_string());
        assert_eq!(at(&desk).as_deref(), Some("young"));
        desk.write("second.yaml", "");
        desk.write("mesh.yaml", &old);
        assert_eq!(at(&desk).as_deref(), Some("old"));
    }
}

#[test]
fn host_network_pods_never_shadow_a_pod() {
    let host = pod_with("host", "10.0.0.1", &[], "", "  hostNetwork: true\n");
    let desk = Desk::with(&(host.clone() + &pod("a", "10.0.0.1", &[]) + &host.replace("host\n", "host2\n")));
    assert_eq!(&*desk.now.workload_at(ip("10.0.0.1")).unwrap().name, "a");
    assert!(Desk::with(&host).now.workload_at(ip("10.0.0.1")).is_none());
    assert_eq!(&*desk.now.workload_at(ip("::ffff:10.0.0.1")).unwrap().name, "a");
}

#[test]
fn telemetry_names_come_from_labels_and_owners() {
    let owned = |kind: &str, name: &str, labels: &[(&str, &str)]| {
        let owner = format!("  ownerReferences:\n  - kind: {kind}\n    name: {name}\n    controller: true\n");
        let desk = Desk::with(&pod_with("a-1", "10.0.0.1", labels, &owner, ""));
        let pod = desk.pod("shop", "a-1");
        (pod.workload_kind, pod.workload_name.to_string(), pod.canonical_name.to_string())
    };
    let hash = [("pod-template-hash", "6d9f")];
    let names = |kind, name: &str| (kind, name.to_owned(), name.to_owned());
    assert_eq!(owned("ReplicaSet", "web-6d9f", &hash), names(WorkloadKind::Deployment, "web"));
    assert_eq!(owned("ReplicaSet", "web-6d9f", &[]), names(WorkloadKind::Deployment, "web"));
    assert_eq!(owned("Job", "backup-28391040", &[]), names(WorkloadKind::CronJob, "backup"));
    assert_eq!(owned("Job", "backup", &[]), names(WorkloadKind::Job, "backup"));
    assert_eq!(owned("StatefulSet", "db", &[]), names(WorkloadKind::Pod, "db"));
    let labelled = [("app", "shop-web"), ("version", "v2")];
    assert_eq!(owned("StatefulSet", "db", &labelled).2, "shop-web");
    let desk = Desk::with(&pod("a", "10.0.0.1", &labelled));
    let pod = desk.pod("shop", "a");
    assert_eq!((&*pod.canonical_revision, &*pod.app, &*pod.version), ("v2", "shop-web", "v2"));
    assert_eq!(pod.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
}

#[test]
fn a_node_gives_its_pods_their_locality() {
    let node = |zone: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  labels:\n    topology.kubernetes.io/zone: {zone}\n"
        )
    };
    let mut desk = Desk::with(&(pod("a", "10.0.0.1", &[]) + &node("z1")));
    assert_eq!(&*desk.pod("shop", "a").locality.zone, "z1");
    desk.write("mesh.yaml", &(pod("a", "10.0.0.1", &[]) + &node("z2")));
    assert_eq!(&*desk.pod("shop", "a").locality.zone, "z2");
    desk.write("mesh.yaml", &pod("a", "10.0.0.1", &[]));
    assert_eq!(&*desk.pod("shop", "a").locality.zone, "");
}

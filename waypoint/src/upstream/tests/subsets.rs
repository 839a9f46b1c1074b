use super::{ClusterKey, Desk, NoUpstream, key, pod, pod_with, rule, service, web};

const SUBSETS: &str = "  subsets:\n  - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n  \
                       - {name: none, labels: {version: v9}}\n  - {name: all}\n";

fn mixed() -> String {
    service("web") + &pod(1, "v1") + &pod(2, "v2") + &pod(3, "v1") + &rule("web", SUBSETS)
}

#[test]
fn a_subset_is_the_endpoints_with_its_labels() {
    let mut desk = Desk::new(&mixed());
    for (subset, endpoints) in
        [(None, &[1, 2, 3][..]), (Some("v1"), &[1, 3]), (Some("v2"), &[2]), (Some("all"), &[1, 2, 3])]
    {
        let cluster = desk.cluster("web", subset);
        assert_eq!(desk.seen(&cluster), endpoints, "{subset:?}");
    }
}

#[test]
fn a_subset_without_endpoints_is_unhealthy_and_one_that_is_not_stated_unknown() {
    let mut desk = Desk::new(&mixed());
    let empty = desk.cluster("web", Some("none"));
    assert_eq!(desk.pick(&empty).unwrap_err(), NoUpstream::NoHealthy);
    assert_eq!(NoUpstream::NoHealthy.flag(), "UH");
    assert!(desk.clusters.get(&key("web", Some("v3"))).is_none());
    assert_eq!(NoUpstream::Unknown.flag(), "NC");
}

#[test]
fn neither_an_unknown_service_nor_an_unknown_port_has_a_cluster() {
    let desk = Desk::new(&web(1));
    assert!(desk.clusters.get(&key("cart", None)).is_none());
    assert!(desk.clusters.get(&ClusterKey { port: 8080, ..key("web", None) }).is_none());
    assert!(desk.clusters.get(&ClusterKey { port: 81, ..key("web", None) }).is_some());
}

#[test]
fn only_ready_endpoints_are_asked_unless_the_service_publishes_all() {
    let pods = pod(1, "v1") + &pod_with(2, "v1", "uid-2", "Pending");
    let mut desk = Desk::new(&(service("web") + &pods));
    let web = desk.web();
    assert_eq!(desk.seen(&web), [1]);
    let all = service("web").replace("spec:\n", "spec:\n  publishNotReadyAddresses: true\n");
    desk.write("mesh.yaml", &(all + &pods));
    assert_eq!(desk.seen(&web), [1, 2]);
}

#[test]
fn an_endpoint_is_at_its_own_port_and_says_who_is_there() {
    let mut desk = Desk::new(&web(1));
    let cluster = desk.web();
    let picked = desk.pick(&cluster).unwrap();
    assert_eq!(picked.address, "10.0.0.1:8080".parse().unwrap());
    assert_eq!(picked.workload.as_ref().map(|it| &*it.name), Some("web-1"));
    let cluster = desk.clusters.get(&ClusterKey { port: 81, ..key("web", None) }).unwrap();
    assert_eq!(desk.pick(&cluster).unwrap().address, "10.0.0.1:8081".parse().unwrap());
}

use common::balance::outlier::Outcome;

use super::{Desk, PickFacts, facts, last, policy_of_web, service, web};

/// Nodes n1 to n4: two zones of one region, and another region. The waypoint is on n1.
const NODES: &str = "
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: west, topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/region: west, topology.kubernetes.io/zone: b}}
---
apiVersion: v1
kind: Node
metadata: {name: n3, labels: {topology.kubernetes.io/region: east, topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n4, labels: {topology.kubernetes.io/region: west, topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: waypoint, namespace: edge}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.1.0.1}
";

fn desk(more: &str) -> Desk {
    Desk::new(&format!("{}{NODES}{more}", web(4)))
}

#[test]
fn without_an_outlier_detection_all_are_alike() {
    let mut desk = desk("");
    let cluster = desk.web();
    assert_eq!(desk.seen(&cluster), [1, 2, 3, 4]);
}

#[test]
fn with_an_outlier_detection_the_nearest_are_asked_and_the_next_when_they_fail() {
    let mut desk =
        desk(&policy_of_web("outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}"));
    let cluster = desk.web();
    for nearest in [&[1, 4][..], &[2], &[3]] {
        assert_eq!(desk.seen(&cluster), nearest);
        for victim in nearest {
            let attempt = loop {
                let picked = desk.pick(&cluster).unwrap();
                if last(picked.address) == *victim {
                    break picked.attempt;
                }
            };
            attempt.finish(Outcome::Answered(500), desk.now).unwrap();
        }
    }
}

#[test]
fn preference_can_be_switched_off() {
    let off = "loadBalancer: {localityLbSetting: {enabled: false}}, outlierDetection: {}";
    let mut desk = desk(&policy_of_web(off));
    let cluster = desk.web();
    assert_eq!(desk.seen(&cluster), [1, 2, 3, 4]);
}

#[test]
fn distribute_gives_places_their_parts_whatever_the_way_of_balancing() {
    for algorithm in ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"] {
        let parts = format!(
            "loadBalancer: {{simple: {algorithm}, localityLbSetting: {{distribute: [{{from: west/a/*, \
             to: {{\"west/a/*\": 80, \"east/*\": 20}}}}]}}}}"
        );
        let mut desk = desk(&policy_of_web(&parts));
        let cluster = desk.web();
        let tally = desk.tally(&cluster, 5000);
        assert!((850..1150).contains(&tally[&3]), "{algorithm}: {tally:?}");
        assert!(
            (1700..2300).contains(&tally[&1]) && (1700..2300).contains(&tally[&4]),
            "{algorithm}: {tally:?}"
        );
        assert!(!tally.contains_key(&2), "{algorithm}: no part for west/b");
    }
}

#[test]
fn a_label_of_priority_can_be_the_node() {
    let rule = "loadBalancer: {localityLbSetting: {failoverPriority: [kubernetes.io/hostname]}}, outlierDetection: {}";
    let mut desk = desk(&policy_of_web(rule));
    let cluster = desk.web();
    assert_eq!(desk.seen(&cluster), [1]);
}

#[test]
fn a_service_that_prefers_close_endpoints_gets_them_without_any_rule() {
    let close =
        |mode: &str| service("web").replace("spec:\n", &format!("spec:\n  trafficDistribution: {mode}\n"));
    let mut desk = desk("");
    let cluster = desk.web();
    let pods = web(4).replace(&service("web"), "");
    desk.write("mesh.yaml", &format!("{}{pods}{NODES}", close("PreferClose")));
    assert_eq!(desk.seen(&cluster), [1, 4]);
    desk.write("mesh.yaml", &format!("{}{pods}{NODES}", close("PreferSameNode")));
    assert_eq!(desk.seen(&cluster), [1]);
}

#[test]
fn a_service_for_the_node_only_is_served_from_the_waypoint_s_node() {
    let local = service("web").replace("spec:\n", "spec:\n  internalTrafficPolicy: Local\n");
    let pods = web(4).replace(&service("web"), "");
    let mut desk = Desk::new(&format!("{local}{pods}{NODES}"));
    let cluster = desk.web();
    assert_eq!(desk.seen(&cluster), [1]);
}

#[test]
fn clusters_follow_the_waypoint_to_another_node() {
    let mut desk = desk(&policy_of_web("outlierDetection: {}"));
    let cluster = desk.web();
    assert_eq!(desk.seen(&cluster), [1, 4]);
    let moved = NODES.replace("spec: {nodeName: n1}", "spec: {nodeName: n3}");
    desk.write("mesh.yaml", &format!("{}{moved}{}", web(4), policy_of_web("outlierDetection: {}")));
    assert_eq!(desk.seen(&cluster), [3]);
}

#[test]
fn a_retry_that_is_to_go_elsewhere_goes_to_the_next_level() {
    let address = |n: u8| std::net::SocketAddr::from(([10, 0, 0, n], 8080));
    for algorithm in ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"] {
        let stated = format!("loadBalancer: {{simple: {algorithm}}}, outlierDetection: {{}}");
        let mut desk = desk(&policy_of_web(&stated));
        let cluster = desk.web();
        let mut far_from = |avoided: &[u8]| {
            let far_from: Vec<_> = avoided.iter().map(|it| address(*it)).collect();
            let facts = PickFacts { far_from: &far_from, ..facts() };
            let picks = (0..200).map(|_| last(desk.pick_by(&cluster, facts).unwrap().address));
            picks.collect::<std::collections::BTreeSet<u8>>().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(far_from(&[]), [1, 4], "{algorithm}");
        assert_eq!(far_from(&[1]), [2], "{algorithm}: 4 is as near as 1");
        assert_eq!(far_from(&[1, 2]), [3], "{algorithm}");
        assert_eq!(far_from(&[4, 2, 3]), [1, 4], "{algorithm}: everywhere was tried");
    }
}

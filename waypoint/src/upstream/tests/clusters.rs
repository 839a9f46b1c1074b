use std::sync::Arc;

use super::{Desk, NoUpstream, key, pod, policy_of_web, rule, rule_in, service, web};
use crate::upstream::clusters::MAX_CLUSTERS;

#[test]
fn a_cluster_is_the_same_for_as_long_as_its_destination_exists() {
    let mut desk = Desk::new(&web(1));
    let cluster = desk.web();
    desk.write("mesh.yaml", &(web(3) + &policy_of_web("connectionPool: {tcp: {maxConnections: 9}}")));
    assert!(Arc::ptr_eq(&cluster, &desk.web()));
    assert_eq!(cluster.policy().limits.connections, 9);
    assert_eq!(desk.seen(&cluster), [1, 2, 3]);
}

#[test]
fn a_statement_about_connections_is_in_force_until_another_thing_is_stated_of_them() {
    let limited = |most: u8| format!("connectionPool: {{tcp: {{maxConnections: {most}}}}}");
    let mut desk = Desk::new(&(web(1) + &policy_of_web(&limited(9))));
    let cluster = desk.web();
    let first = cluster.policy().pool.clone();
    let about_others = limited(9) + ", loadBalancer: {simple: RANDOM}";
    desk.write("mesh.yaml", &(web(2) + &policy_of_web(&about_others)));
    assert!(Arc::ptr_eq(&first, &cluster.policy().pool) && !first.is_over());
    desk.write("mesh.yaml", &(web(2) + &policy_of_web(&limited(8))));
    let second = cluster.policy().pool.clone();
    assert!(first != second && first.is_over() && !second.is_over());
    desk.write("mesh.yaml", &pod(1, "v1"));
    assert!(cluster.is_gone() && second.is_over());
}

const LEAST: &str = "  trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}\n";

#[test]
fn only_what_changed_is_compiled_anew() {
    let others = service("cart") + &service("cards");
    let mut desk = Desk::new(&(web(2) + &rule("cart", "  subsets: [{name: v1, labels: {version: v1}}]\n")));
    desk.write("others.yaml", &others);
    let keys = [key("web", None), key("cart", None), key("cart", Some("v1")), key("cards", None)];
    let generations =
        |desk: &Desk| keys.clone().map(|key| desk.clusters.get(&key).unwrap().compiled().generation);
    assert_eq!(generations(&desk), [0; 4]);
    // All of them select the pods of `web`, and a pod of another version is none of the subset's.
    desk.write("pod.yaml", &pod(9, "v2"));
    assert_eq!(generations(&desk), [1, 1, 0, 1]);
    desk.write("rule.yaml", &rule_in("edge", "cards", "cards.shop.svc.cluster.local", LEAST));
    assert_eq!(generations(&desk), [1, 1, 0, 2]);
    desk.write("rule.yaml", &rule_in("istio-system", "any", "*.shop.svc.cluster.local", LEAST));
    assert_eq!(generations(&desk), [2, 1, 0, 3], "a wildcard is about all without a rule of their own");
    desk.write("unrelated.yaml", &rule_in("bank", "x", "cards", LEAST));
    assert_eq!(generations(&desk), [2, 1, 0, 3]);
}

#[test]
fn a_service_that_goes_refuses_whoever_still_holds_it_and_may_come_again() {
    let mut desk = Desk::new(&web(1));
    let whole = desk.web();
    desk.write("mesh.yaml", &pod(1, "v1"));
    assert!(whole.is_gone() && desk.clusters.get(&key("web", None)).is_none());
    assert_eq!(desk.pick(&whole).unwrap_err(), NoUpstream::Unknown);
    assert!(desk.clusters.all().is_empty());
    desk.write("mesh.yaml", &web(2));
    let again = desk.web();
    assert!(!Arc::ptr_eq(&whole, &again));
    assert_eq!(desk.seen(&again), [1, 2]);
}

#[test]
fn a_request_finds_the_destinations_of_the_routes_it_began_under() {
    let subset = |name: &str, version: &str| {
        rule("web", &format!("  subsets: [{{name: {name}, labels: {{version: {version}}}}}]\n"))
    };
    let pods = || web(1) + &pod(2, "v2");
    for (before, after) in [("old", "new"), ("same", "same")] {
        // Whether somebody has asked for it while it was there, or not.
        for asked in [true, false] {
            let mut desk = Desk::new(&(pods() + &subset(before, "v1")));
            let began = desk.clusters.now();
            if asked {
                let cluster = desk.cluster("web", Some(before));
                assert_eq!(desk.seen(&cluster), [1]);
            }
            desk.write("mesh.yaml", &(pods() + &subset(after, "v2")));
            let (old, new) = (key("web", Some(before)), key("web", Some(after)));
            let then = desk.clusters.get_of(&began, &old).expect("it was there when the request began");
            assert_eq!(desk.seen(&then), [1], "{before} {asked}");
            assert!(then.policy().pool.is_over(), "what was stated of its connections then is not in force");
            let now = desk.clusters.get(&new).unwrap();
            assert!(!now.policy().pool.is_over());
            assert_eq!(desk.seen(&now), [2], "{before} {asked}");
            assert!(before == after || desk.clusters.get(&old).is_none());
            assert!(before == after || desk.clusters.get_of(&began, &new).is_none());
        }
    }
}

#[test]
fn a_port_that_goes_takes_its_cluster_along() {
    let mut desk = Desk::new(&web(1));
    let cluster = desk.web();
    desk.write("mesh.yaml", &web(1).replace("port: 80,", "port: 90,"));
    assert!(cluster.is_gone() && desk.clusters.get(&key("web", None)).is_none());
}

#[test]
fn rules_that_come_change_and_go_are_followed() {
    let limit = |connections: u32| {
        policy_of_web(&format!("connectionPool: {{tcp: {{maxConnections: {connections}}}}}"))
    };
    let mut desk = Desk::new(&web(1));
    let cluster = desk.web();
    let mut after = |text: &str| {
        desk.write("rule.yaml", text);
        cluster.policy().limits.connections
    };
    assert_eq!(after(&limit(5)), 5);
    assert_eq!(after(&limit(6)), 6);
    assert_eq!(after(&limit(7).replace("host: \"web\"", "host: \"*.local\"")), 7, "another host");
    assert_eq!(after(&limit(8).replace("host: \"web\"", "host: \"cart\"")), u32::MAX);
    assert_eq!(after(&limit(9)), 9);
    assert_eq!(after(""), u32::MAX);
}

#[test]
fn an_endpoint_of_several_services_has_a_state_in_each() {
    let mut desk = Desk::new(&(web(1) + &service("cart")));
    let (web, cart) = (desk.web(), desk.cluster("cart", None));
    let _one = desk.pick(&web).unwrap();
    assert_eq!((web.endpoints()[0].active(), cart.endpoints()[0].active()), (1, 0));
}

#[test]
fn there_are_no_more_clusters_than_the_bound_says() {
    let names: String = (0..128).map(|n| format!("{{name: v{n}}}, ")).collect();
    let rules = rule("web", &format!("  subsets: [{names}]\n"));
    let ports: String =
        (0..MAX_CLUSTERS / 128 + 1).map(|n| format!("{{name: p{n}, port: {}}}, ", n + 1)).collect();
    let service = service("web");
    let (head, _) = service.split_once("  ports:").unwrap();
    let desk = Desk::new(&format!("{head}  ports: [{ports}]\n{rules}"));
    let mut built = 0;
    for port in 1..=MAX_CLUSTERS / 128 + 1 {
        for subset in 0..128 {
            let key = super::ClusterKey { port: port as u16, ..key("web", Some(&format!("v{subset}"))) };
            built += usize::from(desk.clusters.get(&key).is_some());
        }
    }
    assert_eq!(built, MAX_CLUSTERS);
    assert_eq!(desk.clusters.refused(), 128);
}

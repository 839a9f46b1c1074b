use std::net::IpAddr;

use super::super::model::{BalanceMode, Health, Scope};
use super::{Desk, namespace, pod, pod_with};

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\nspec:\n{spec}")
}

const HTTP: &str = "  clusterIP: 10.96.0.1\n  selector:\n    app: a\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n";

fn slice(name: &str, service: &str, body: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: shop\n  labels:\n    kubernetes.io/service-name: {service}\naddressType: IPv4\nports:\n- name: http\n  port: 8081\n{body}"
    )
}

/// `address>target!` for each endpoint that serves port 80; `!` when it is not ready.
fn endpoints(desk: &Desk, name: &str) -> Vec<String> {
    let service = desk.now.service("shop", name).unwrap_or_else(|| panic!("no service {name}"));
    let spell = |it: &std::sync::Arc<super::super::model::Endpoint>| {
        let target = it.target_port(80).map(|it| it.to_string()).unwrap_or_default();
        let mark = if it.health == Health::Healthy { "" } else { "!" };
        let who = it.workload.as_ref().map_or("?", |it| &it.name);
        format!("{}>{target}{mark} {who}", it.address)
    };
    desk.now.endpoints(service).iter().map(spell).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_selector_gives_endpoints_and_follows_pods() {
    let unready =
        pod("b", "10.0.0.2", &[("app", "a")]) + "  conditions:\n  - type: Ready\n    status: \"False\"\n";
    let mut desk = Desk::with(&(service("web", HTTP) + &pod("a", "10.0.0.1", &[("app", "a")]) + &unready));
    assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>8080 a", "10.0.0.2>8080! b"]);
    desk.write("c.yaml", &pod("c", "10.0.0.3", &[("app", "a")]));
    assert_eq!(endpoints(&desk, "web").len(), 3);
    desk.write("c.yaml", &pod("c", "10.0.0.4", &[("app", "a")]));
    assert_eq!(endpoints(&desk, "web")[2], "10.0.0.4>8080 c");
    desk.write("c.yaml", &pod("c", "10.0.0.4", &[("app", "other")]));
    assert_eq!(endpoints(&desk, "web").len(), 2);
    desk.write("c.yaml", &pod("c", "10.0.0.4", &[("app", "a")]).replace("Running", "Failed"));
    assert_eq!(endpoints(&desk, "web").len(), 2);
}

#[test]
fn slices_come_before_the_selector() {
    let mut desk = Desk::with(&(service("web", HTTP) + &pod("a", "10.0.0.1", &[("app", "a")])));
    let body = "endpoints:\n- addresses: [\"10.0.0.1\"]\n  conditions:\n    ready: false\n  targetRef:\n    kind: Pod\n    name: a\n- addresses: [\"192.0.2.1\"]\n";
    desk.write("slice.yaml", &slice("web-1", "web", body));
    assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>8081! a", "192.0.2.1>8081 ?"]);
    desk.write("slice.yaml", "");
    assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>8080 a"]);
    desk.write("slice.yaml", &slice("web-1", "web", ""));
    assert!(endpoints(&desk, "web").is_empty(), "a slice without endpoints is a statement too");
}

#[test]
fn an_address_that_is_no_longer_the_named_pods_is_not_used() {
    let body = "endpoints:\n- addresses: [\"10.0.0.1\"]\n  targetRef:\n    kind: Pod\n    name: a\n";
    let text = service("web", HTTP) + &slice("web-1", "web", body);
    let mut desk = Desk::with(&text);
    assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>8081 ?"]);
    desk.write("pods.yaml", &pod("a", "10.0.0.1", &[]));
    assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>8081 a"]);
    desk.write("pods.yaml", &(pod("a", "10.0.0.2", &[]) + &pod("thief", "10.0.0.1", &[])));
    assert!(endpoints(&desk, "web").is_empty());
    desk.write("pods.yaml", &pod("thief", "10.0.0.1", &[]));
    assert!(endpoints(&desk, "web").is_empty());
    desk.write("pods.yaml", &pod("a", "10.0.0.1", &[]).replace("Running", "Succeeded"));
    assert!(endpoints(&desk, "web").is_empty());
}

#[test]
fn named_target_ports_are_each_pods_own() {
    let spec = HTTP.replace("8080", "web");
    let port = |n: u16| format!("  containers:\n  - ports:\n    - name: web\n      containerPort: {n}\n");
    let desk = Desk::with(
        &(service("web", &spec)
            + &pod_with("a", "10.0.0.1", &[("app", "a")], "", &port(3000))
            + &pod_with("b", "10.0.0.2", &[("app", "a")], "", &port(4000))
            + &pod("c", "10.0.0.3", &[("app", "a")])),
    );
    assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>3000 a", "10.0.0.2>4000 b", "10.0.0.3> c"]);
}

#[test]
fn vips_are_cluster_and_load_balancer_addresses_and_headless_has_none() {
    let balanced = HTTP.to_owned() + "status:\n  loadBalancer:\n    ingress:\n    - ip: 203.0.113.1\n";
    let headless = HTTP.replace("10.96.0.1", "None");
    let alias = "  type: ExternalName\n  externalName: example.org\n";
    let desk =
        Desk::with(&(service("web", &balanced) + &service("headless", &headless) + &service("alias", alias)))
            .all_good();
    for vip in ["10.96.0.1", "203.0.113.1", "::ffff:10.96.0.1"] {
        assert_eq!(&*desk.now.service_at(ip(vip)).unwrap().name, "web", "{vip}");
    }
    assert!(desk.now.service("shop", "headless").unwrap().vips.is_empty());
    assert!(desk.now.service("shop", "alias").is_none());
}

#[test]
fn of_two_services_at_one_address_the_first_by_name_has_it() {
    let mut desk = Desk::with(&service("b", HTTP));
    desk.write("a.yaml", &service("a", HTTP));
    assert_eq!(&*desk.now.service_at(ip("10.96.0.1")).unwrap().name, "a");
    desk.write("a.yaml", "");
    assert_eq!(&*desk.now.service_at(ip("10.96.0.1")).unwrap().name, "b");
}

#[test]
fn preferences_come_from_the_service_then_its_namespace() {
    const ZONE: &[Scope] = &[Scope::Network, Scope::Region, Scope::Zone];
    const NODE: &[Scope] = &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];
    let annotated = |word: &str| {
        namespace("shop", "ambient")
            + &format!("  annotations:\n    networking.istio.io/traffic-distribution: {word}\n")
    };
    let plain = namespace("shop", "ambient");
    for (namespace, extra, scopes, mode) in [
        (&plain, "", &[][..], BalanceMode::Standard),
        (&plain, "  trafficDistribution: PreferClose\n", ZONE, BalanceMode::Failover),
        (&plain, "  trafficDistribution: PreferSameZone\n", ZONE, BalanceMode::Failover),
        (&plain, "  trafficDistribution: PreferSameNode\n", NODE, BalanceMode::Failover),
        (&plain, "  internalTrafficPolicy: Local\n", &[Scope::Node], BalanceMode::Strict),
        (&annotated("PreferSameNode"), "", NODE, BalanceMode::Failover),
        (&annotated("PreferSameNode"), "  trafficDistribution: PreferClose\n", ZONE, BalanceMode::Failover),
        (&annotated("PreferSameNode"), "  trafficDistribution: Any\n", &[], BalanceMode::Standard),
    ] {
        let mut desk = Desk::with(&service("web", &(HTTP.to_owned() + extra)));
        desk.write("namespace.yaml", namespace);
        let found = &desk.now.service("shop", "web").unwrap().load_balancing;
        assert_eq!((&*found.routing_preferences, found.mode), (scopes, mode), "{extra} {namespace}");
    }
    let desk = Desk::with(&service("web", &(HTTP.to_owned() + "  publishNotReadyAddresses: true\n")));
    assert!(desk.now.service("shop", "web").unwrap().load_balancing.allow_unready);
}

#[test]
fn json_yields_to_yaml_whatever_it_is_called_and_the_conflict_is_told() {
    let port = |n: &str| service("web", &HTTP.replace("8080", n)) + &pod("a", "10.0.0.1", &[("app", "a")]);
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\", \"namespace\": \"shop\", \
                \"labels\": {\"app\": \"a\"}}, \"status\": {\"phase\": \"Running\", \"podIP\": \"10.9.9.9\"}}";
    for order in [["a.json", "b.yml", "c.yaml"], ["c.yaml", "b.yml", "a.json"], ["b.yml", "a.json", "c.yaml"]]
    {
        let mut desk = Desk::new();
        for file in order {
            desk.write(file, &if file == "a.json" { json.to_owned() } else { port("1111") });
        }
        let told = || desk.now.conflicts().iter().find(|it| it.key.to_string() == "Pod shop/a").cloned();
        let conflict = told().unwrap();
        let ignored: Vec<&str> = conflict.ignored.iter().map(|it| &*it.file).collect();
        assert_eq!((&*conflict.in_force.file, ignored), ("b.yml", vec!["c.yaml", "a.json"]));
        desk.write("b.yml", "");
        let told = desk.now.conflicts().iter().find(|it| it.key.to_string() == "Pod shop/a").cloned();
        assert_eq!(&*told.unwrap().in_force.file, "c.yaml");
    }
}

#[test]
fn a_conflict_is_won_by_the_first_file_name_whichever_came_first() {
    let port = |n: &str| service("web", &HTTP.replace("8080", n)) + &pod("a", "10.0.0.1", &[("app", "a")]);
    for order in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
        let mut desk = Desk::new();
        for file in order {
            desk.write(file, &port(if file == "a.yaml" { "1111" } else { "2222" }));
        }
        assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>1111 a"]);
        let conflicts: Vec<String> =
            desk.now.conflicts().iter().map(|it| format!("{} {}", it.key, it.in_force)).collect();
        assert_eq!(conflicts, ["Pod shop/a a.yaml:16", "Service shop/web a.yaml:2"]);
        desk.write("a.yaml", "");
        assert_eq!(endpoints(&desk, "web"), ["10.0.0.1>2222 a"]);
        assert!(desk.now.conflicts().is_empty());
    }
}

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::balance::{Caller, Wanted, choose};
use crate::config::routing::Visibility;
use crate::snapshot::Endpoints;
use crate::snapshot::model::{
    BalanceMode, Endpoint, External, Health, Likeness, LoadBalancing, Locality, Scope, Service, ServicePort,
    TunnelProtocol, Workload, WorkloadKind,
};
use crate::spiffe::Identity;

fn at(node: &str, zone: &str, region: &str) -> Locality {
    let _ = node;
    Locality { region: region.into(), zone: zone.into(), subzone: "".into() }
}

fn endpoint(address: &str, node: &str, zone: &str, health: Health) -> Endpoint {
    let workload = Workload {
        uid: address.into(),
        incarnation: "".into(),
        name: address.into(),
        addresses: Arc::new([address.parse().unwrap()]),
        node: node.into(),
        workload_name: "web".into(),
        locality: Arc::new(at(node, zone, "r")),
        health,
        netns: None,
        likeness: Arc::new(Likeness {
            identity: Identity::new("cluster.local", "shop", "web"),
            protocol: TunnelProtocol::Hbone,
            host_network: false,
            canonical_name: "web".into(),
            canonical_revision: "v1".into(),
            labels: Default::default(),
            workload_kind: WorkloadKind::Pod,
            app: "".into(),
            version: "".into(),
            cluster: "Kubernetes".into(),
            enrolment: None,
            probed: Arc::default(),
            waypoint: None,
        }),
    };
    let address = address.parse().unwrap();
    let ports = Arc::from([(80, 8080)]);
    Endpoint { address, workload: Some(Arc::new(workload)), health, ports, weight: std::num::NonZeroU32::MIN }
}

fn service(mode: BalanceMode, scopes: &[Scope]) -> Service {
    Service {
        name: "web".into(),
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
        vips: Box::default(),
        ports: [80, 81]
            .map(|port| ServicePort { port, name: "".into(), app_protocol: "".into() })
            .into_iter()
            .collect(),
        load_balancing: LoadBalancing { routing_preferences: scopes.into(), mode, allow_unready: false },
        waypoint: None,
        external: None,
    }
}

/// Chooses often and counts.
fn tally(
    service: &Service,
    endpoints: Vec<Endpoint>,
    wanted: (u16, &str),
    load: fn(&Endpoint) -> u32,
) -> BTreeMap<String, usize> {
    let endpoints = Endpoints::collect(endpoints);
    let here = at("n1", "z1", "r");
    let caller = Caller { node: "n1", locality: &here, cluster: "Kubernetes" };
    let wanted = Wanted { port: wanted.0, original: wanted.1.parse().unwrap() };
    let mut rng = StdRng::seed_from_u64(7);
    let mut found = BTreeMap::new();
    for _ in 0..2000 {
        let chosen = match choose(service, &endpoints, caller, wanted, load, &mut rng) {
            Ok(choice) => format!("{}:{}", choice.endpoint.address, choice.port),
            Err(none) => format!("{none:?}"),
        };
        *found.entry(chosen).or_default() += 1;
    }
    found
}

const CALLED: (u16, &str) = (80, "10.96.0.1");
const IDLE: fn(&Endpoint) -> u32 = |_| 0;
const FAILOVER: &[Scope] = &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];

#[test]
fn only_ready_endpoints_that_serve_the_port_are_chosen() {
    let mut other_port = endpoint("10.0.0.3", "n1", "z1", Health::Healthy);
    other_port.ports = Arc::from([(81, 8081)]);
    let all = || {
        vec![
            endpoint("10.0.0.1", "n1", "z1", Health::Healthy),
            endpoint("10.0.0.2", "n1", "z1", Health::Unhealthy),
            other_port.clone(),
        ]
    };
    let standard = service(BalanceMode::Standard, &[]);
    let one = |text: &str| BTreeMap::from([(text.to_owned(), 2000)]);
    assert_eq!(tally(&standard, all(), CALLED, IDLE), one("10.0.0.1:8080"));
    assert_eq!(tally(&standard, all(), (81, "10.96.0.1"), IDLE), one("10.0.0.3:8081"));
    assert_eq!(tally(&standard, all(), (82, "10.96.0.1"), IDLE), one("UnknownPort"));
    assert_eq!(tally(&standard, Vec::new(), CALLED, IDLE), one("NoneUsable"));
    let mut unready = standard;
    unready.load_balancing.allow_unready = true;
    assert_eq!(tally(&unready, all(), CALLED, IDLE).len(), 2);
}

#[test]
fn the_nearest_are_preferred_and_the_others_are_what_is_left() {
    let (near, zone, far) = (("10.0.0.1", "n1", "z1"), ("10.0.0.2", "n2", "z1"), ("10.0.0.3", "n3", "z2"));
    let of = |places: &[(&str, &str, &str)]| -> Vec<Endpoint> {
        places.iter().map(|(ip, node, zone)| endpoint(ip, node, zone, Health::Healthy)).collect()
    };
    let failover = service(BalanceMode::Failover, FAILOVER);
    for (places, expected) in [
        (vec![near, zone, far], "10.0.0.1:8080"),
        (vec![zone, far], "10.0.0.2:8080"),
        (vec![far], "10.0.0.3:8080"),
    ] {
        let found = tally(&failover, of(&places), CALLED, IDLE);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [expected]);
    }
    let strict = service(BalanceMode::Strict, &[Scope::Node]);
    assert!(tally(&strict, of(&[near, zone]), CALLED, IDLE).contains_key("10.0.0.1:8080"));
    assert!(tally(&strict, of(&[zone, far]), CALLED, IDLE).contains_key("NoneUsable"));
}

#[test]
fn an_unready_near_endpoint_does_not_hide_a_ready_far_one() {
    let failover = service(BalanceMode::Failover, FAILOVER);
    let all = vec![
        endpoint("10.0.0.1", "n1", "z1", Health::Unhealthy),
        endpoint("10.0.0.3", "n3", "z2", Health::Healthy),
    ];
    assert!(tally(&failover, all, CALLED, IDLE).into_keys().eq(["10.0.0.3:8080"]));
}

#[test]
fn the_family_called_is_preferred() {
    let all = || {
        vec![
            endpoint("10.0.0.1", "n1", "z1", Health::Healthy),
            endpoint("fd00::1", "n1", "z1", Health::Healthy),
        ]
    };
    let standard = service(BalanceMode::Standard, &[]);
    assert!(tally(&standard, all(), CALLED, IDLE).into_keys().eq(["10.0.0.1:8080"]));
    assert!(tally(&standard, all(), (80, "fd00::99"), IDLE).into_keys().eq(["fd00::1:8080"]));
    assert!(tally(&standard, all()[1..].to_vec(), CALLED, IDLE).into_keys().eq(["fd00::1:8080"]));
}

#[test]
fn idle_endpoints_are_drawn_alike_few_or_many() {
    for count in [3, 40] {
        let all =
            (1..=count).map(|i| endpoint(&format!("10.0.0.{i}"), "n1", "z1", Health::Healthy)).collect();
        let found = tally(&service(BalanceMode::Standard, &[]), all, CALLED, IDLE);
        assert_eq!(found.len(), count);
        let fair = 2000 / count;
        for (who, often) in found {
            assert!((fair / 2..fair * 2).contains(&often), "{who} of {count}: {often}");
        }
    }
}

#[test]
fn the_busier_of_two_is_passed_over() {
    let all = vec![
        endpoint("10.0.0.1", "n1", "z1", Health::Healthy),
        endpoint("10.0.0.2", "n1", "z1", Health::Healthy),
    ];
    let busy = |it: &Endpoint| u32::from(it.address == "10.0.0.1".parse::<IpAddr>().unwrap());
    let found = tally(&service(BalanceMode::Standard, &[]), all, CALLED, busy);
    assert!(found.into_keys().eq(["10.0.0.2:8080"]));
}

#[test]
fn endpoints_of_a_service_entry_are_drawn_and_loaded_by_their_weights() {
    let all = |shares: [u32; 3]| -> Vec<Endpoint> {
        (1..=3)
            .zip(shares)
            .map(|(i, share)| Endpoint {
                weight: share.try_into().unwrap(),
                ..endpoint(&format!("10.0.0.{i}"), "n1", "z1", Health::Healthy)
            })
            .collect()
    };
    let external = External {
        entry: "out".into(),
        visibility: Visibility::Everywhere,
        subject_alt_names: [].into(),
        goes_where_called: false,
    };
    let mut service = service(BalanceMode::Standard, &[]);
    service.external = Some(Arc::new(external));
    let found = tally(&service, all([1, 3, 16]), CALLED, IDLE);
    for (who, due) in [("10.0.0.1:8080", 100), ("10.0.0.2:8080", 300), ("10.0.0.3:8080", 1600)] {
        assert!(found[who].abs_diff(due) < due / 3, "{found:?}");
    }
    // Sixteen times the weight bears eight times the load more lightly; a weight of one does not.
    let eight_on_the_third =
        |it: &Endpoint| if it.address == "10.0.0.3".parse::<IpAddr>().unwrap() { 8 } else { 1 };
    let found = tally(&service, all([1, 1, 16]), CALLED, eight_on_the_third);
    assert!(found["10.0.0.3:8080"] > 1700, "{found:?}");
    let found = tally(&service, all([1, 1, 1]), CALLED, eight_on_the_third);
    assert!(!found.contains_key("10.0.0.3:8080"), "{found:?}");
}

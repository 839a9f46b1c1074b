use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::testing::{flow, mesh, pod};

fn routed(original: &str) -> Result<NextHop, Refusal> {
    routed_in("", original)
}

fn routed_in(more: &str, original: &str) -> Result<NextHop, Refusal> {
    let mesh = mesh(more);
    let pod = pod(&mesh, "client");
    let client = if original.starts_with('[') { "[fd00::2]:40000" } else { "10.0.0.2:40000" };
    route(&mesh, &flow(&pod, client, original), |_| 0, &mut SmallRng::seed_from_u64(1))
}

fn tunnel(hop: Result<NextHop, Refusal>) -> (String, String) {
    match hop {
        Ok(NextHop::Tunnel { peer, authority, .. }) => (peer.to_string(), authority.to_string()),
        other => panic!("no tunnel: {other:?}"),
    }
}

#[test]
fn a_pod_of_the_mesh_is_reached_through_a_tunnel_whatever_the_port() {
    for (original, authority) in [
        ("10.0.0.3:8080", "10.0.0.3:8080"),
        ("10.0.0.3:9999", "10.0.0.3:9999"),
        ("[::ffff:10.0.0.3]:8080", "10.0.0.3:8080"),
    ] {
        assert_eq!(tunnel(routed(original)), ("10.0.0.3:15008".into(), authority.into()), "{original}");
    }
    assert_eq!(tunnel(routed("[fd00::3]:80")), ("[fd00::3]:15008".into(), "[fd00::3]:80".into()));
}

#[test]
fn a_service_is_reached_at_its_target_port_in_the_family_that_was_called() {
    assert_eq!(tunnel(routed("10.96.0.10:80")), ("10.0.0.3:15008".into(), "10.0.0.3:8080".into()));
    assert_eq!(tunnel(routed("[fd00:96::10]:80")), ("[fd00::3]:15008".into(), "[fd00::3]:8080".into()));
}

#[test]
fn outside_the_mesh_goes_plain() {
    for (original, target) in [
        ("10.0.0.4:80", "10.0.0.4:80"),
        ("10.96.0.11:80", "10.0.0.4:8080"),
        ("192.0.2.1:443", "192.0.2.1:443"),
    ] {
        match routed(original) {
            Ok(NextHop::Plain { target: to, .. }) => assert_eq!(to.to_string(), target),
            other => panic!("{original}: {other:?}"),
        }
    }
}

#[test]
fn a_service_is_never_passed_through_for_want_of_an_endpoint_or_a_port() {
    assert!(matches!(routed("10.96.0.12:80"), Err(Refusal::NoHealthyUpstream(_))));
    assert!(matches!(routed("10.96.0.10:81"), Err(Refusal::UnknownServicePort(_))));
}

#[test]
fn the_proxys_own_ports_are_no_destination() {
    for original in
        ["10.0.0.2:15001", "10.0.0.2:15006", "127.0.0.1:15008", "10.0.0.3:15001", "10.0.0.3:15008"]
    {
        assert_eq!(routed(original), Err(Refusal::RecursiveCall), "{original}");
    }
}

#[test]
fn a_pod_that_calls_itself_stays_inside() {
    let mesh = mesh("");
    let web = pod(&mesh, "web");
    let hop =
        route(&mesh, &flow(&web, "10.0.0.3:40000", "10.96.0.10:80"), |_| 0, &mut SmallRng::seed_from_u64(1));
    assert!(
        matches!(hop, Ok(NextHop::Local { target, .. }) if target.to_string() == "10.0.0.3:8080"),
        "{hop:?}"
    );
}

#[test]
fn a_pod_that_was_replaced_has_no_way_out() {
    let before = mesh("");
    let old = pod(&before, "client");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: client, namespace: shop, uid: other}\n\
                spec: {nodeName: n1, serviceAccountName: client}\n\
                status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}\n";
    let decoded =
        common::config::decode::yaml::decode(&"b.yaml".into(), text.as_bytes(), &mut Default::default());
    let mut now = common::snapshot::Mesh::new(Default::default());
    let now = now.apply(common::config::Batch { upserts: decoded.stated, ..Default::default() });
    let hop =
        route(&now, &flow(&old, "10.0.0.2:40000", "10.0.0.3:80"), |_| 0, &mut SmallRng::seed_from_u64(1));
    assert_eq!(hop, Err(Refusal::UnknownWorkload));
}

/// Namespace `shop` uses the waypoint `wp`, which stands for what is said.
fn behind_waypoint(stands_for: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {{istio.io/dataplane-mode: ambient, \
         istio.io/use-waypoint: wp}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: wp, \
         namespace: shop, labels: {{istio.io/waypoint-for: {stands_for}}}}}\n"
    )
}

#[test]
fn what_is_bound_to_a_waypoint_is_refused_and_never_reached_round_it() {
    let missing = || Err(Refusal::WaypointMissing("shop/wp".into()));
    let (service, pod, outside) = ("10.96.0.10:80", "10.0.0.3:8080", "10.0.0.4:80");
    assert_eq!(routed_in(&behind_waypoint("service"), service), missing());
    assert!(routed_in(&behind_waypoint("service"), pod).is_ok(), "a pod is not a service");
    assert_eq!(routed_in(&behind_waypoint("workload"), pod), missing());
    assert_eq!(routed_in(&behind_waypoint("workload"), service), missing(), "its pods are bound");
    assert_eq!(routed_in(&behind_waypoint("all"), service), missing());
    assert!(routed_in(&behind_waypoint("none"), service).is_ok());
    assert!(routed_in(&behind_waypoint("all"), outside).is_ok(), "another namespace");
    // Without an endpoint, it is still the waypoint that is missing first.
    assert_eq!(routed_in(&behind_waypoint("service"), "10.96.0.12:80"), missing());
    // A destination that is not in the mesh can be behind a waypoint as well.
    let plain =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: outside, labels: {istio.io/use-waypoint: wp}}\n";
    let missing = Err(Refusal::WaypointMissing("outside/wp".into()));
    assert_eq!(routed_in(plain, "10.96.0.11:80"), missing);
    assert_eq!(routed_in(plain, outside), missing);
}

#[test]
fn a_pod_of_several_addresses_leaves_from_the_one_its_socket_has() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let (two, dual) = ([ip("10.0.0.2"), ip("10.0.0.7"), ip("fd00::2")], [ip("10.0.0.2"), ip("fd00::2")]);
    let cases: &[(&[IpAddr], &str, &str, Option<&str>)] = &[
        (&two, "10.0.0.7", "10.0.0.3", Some("10.0.0.7")),
        (&two, "10.0.0.2", "10.0.0.3", Some("10.0.0.2")),
        (&two, "10.0.0.9", "10.0.0.3", None),
        (&two, "fd00::2", "fd00::3", None),
        (&two, "fd00::2", "10.0.0.3", None),
        (&two, "10.0.0.7", "fd00::3", None),
        (&dual, "10.0.0.2", "10.0.0.3", None),
    ];
    for (addresses, client, peer, from) in cases {
        assert_eq!(leaves_from(addresses, ip(client), ip(peer)), from.map(ip), "{client} to {peer}");
    }
}

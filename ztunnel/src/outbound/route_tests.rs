use common::config::ObjectName;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::testing::{GATEWAY, WAYPOINT_POD, behind_waypoint, flow, mesh, pod};

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
fn what_a_pod_leads_to_ztunnels_own_listeners_is_not_dialled_back_to_them() {
    let mesh = mesh("");
    let routed_from = |listeners: &[&str], original| {
        let mut pod = Arc::try_unwrap(pod(&mesh, "client")).unwrap();
        pod.listeners = listeners.iter().map(|at| at.parse().unwrap()).collect();
        let flow = flow(&Arc::new(pod), "10.0.0.2:40000", original);
        route(&mesh, &flow, |_| 0, &mut SmallRng::seed_from_u64(1))
    };
    // The second one's port is the kernel's choice, because an application has 15001.
    let listeners = ["240.1.2.3:15001", "240.4.5.6:41234"];
    for original in ["240.1.2.3:15001", "[::ffff:240.1.2.3]:15001", "240.4.5.6:41234"] {
        assert_eq!(routed_from(&listeners, original), Err(Refusal::RecursiveCall), "{original}");
        assert!(routed_from(&[], original).is_ok(), "{original} is another pod's, and so nobody's");
    }
    // Istio gives such addresses to ServiceEntries, and some clusters to their nodes.
    for original in ["240.240.0.1:80", "240.1.2.3:80"] {
        assert!(matches!(routed_from(&listeners, original), Ok(NextHop::Plain { .. })), "{original}");
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

#[test]
fn what_is_bound_to_a_waypoint_goes_there_and_asks_for_what_was_called() {
    let (vip, vip6, pod) = ("10.96.0.10:80", "[fd00:96::10]:80", "10.0.0.3:9090");
    for (stands_for, original, authority) in [
        ("service", vip, Some(vip)),
        ("service", vip6, Some(vip6)),
        ("service", "10.96.0.12:80", Some("10.96.0.12:80")),
        ("service", pod, None),
        ("workload", pod, Some(pod)),
        ("workload", "[fd00::3]:9090", Some("[fd00::3]:9090")),
        ("workload", vip, Some("10.0.0.3:8080")),
        ("all", vip, Some(vip)),
        ("all", pod, Some(pod)),
        ("all", "10.0.0.4:80", None),
        ("none", vip, None),
        ("none", pod, None),
    ] {
        let mesh = behind_waypoint(stands_for) + WAYPOINT_POD;
        let hop = routed_in(&mesh, original).unwrap();
        let NextHop::Waypoint { peer, authority: asked, waypoint, service, .. } = &hop else {
            assert_eq!(authority, None, "{stands_for} {original}: {hop:?}");
            continue;
        };
        assert_eq!(Some(asked.to_string().as_str()), authority, "{stands_for} {original}");
        let expected = if asked.is_ipv4() { "10.0.0.9:15008" } else { "[fd00::9]:15008" };
        assert_eq!(peer.to_string(), expected, "{stands_for} {original}");
        assert_eq!(waypoint.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/waypoint");
        assert_eq!(
            service.is_some(),
            original.contains(":96::") || original.starts_with("10.96."),
            "{original}"
        );
        assert_eq!(hop.server(), *peer, "load is the waypoint's");
    }
}

#[test]
fn a_waypoint_that_cannot_be_reached_is_never_gone_round() {
    let missing = || Err(Refusal::WaypointMissing("shop/wp".into()));
    let (service, pod) = ("10.96.0.10:80", "10.0.0.3:8080");
    let unready = WAYPOINT_POD.replace("status: 'True'", "status: 'False'");
    let elsewhere = WAYPOINT_POD.replace("namespace: shop", "namespace: outside");
    let other_class = behind_waypoint("all").replace("istio-waypoint", "istio");
    let rejected = behind_waypoint("all").replace("port: 15008", "port: 80");
    for mesh in [
        behind_waypoint("all"),
        behind_waypoint("all") + &unready,
        behind_waypoint("all") + &elsewhere,
        other_class + WAYPOINT_POD,
        rejected + WAYPOINT_POD,
    ] {
        assert_eq!(routed_in(&mesh, service), missing(), "{mesh}");
        assert_eq!(routed_in(&mesh, pod), missing(), "{mesh}");
    }
    // A destination that is not in the mesh can be behind a waypoint as well; and one of another namespace stands before
    // it only where that lets it.
    let plain = "apiVersion: v1\nkind: Namespace\nmetadata: {name: outside, labels: {istio.io/use-waypoint: wp, \
                 istio.io/use-waypoint-namespace: shop}}\n---\n";
    let open =
        GATEWAY.replace("protocol: HBONE", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}");
    for (gateway, goes) in [("", false), (GATEWAY, false), (&open, true)] {
        let gateway = gateway.replace("STANDS_FOR", "all");
        let mesh = format!("{plain}{gateway}{WAYPOINT_POD}");
        for original in ["10.96.0.11:80", "10.0.0.4:80"] {
            let hop = routed_in(&mesh, original);
            assert_eq!(matches!(hop, Ok(NextHop::Waypoint { .. })), goes, "{gateway}: {hop:?}");
            assert!(goes || hop == missing(), "{gateway}: {hop:?}");
        }
    }
}

#[test]
fn the_lighter_of_a_waypoints_pods_is_taken_and_all_get_their_turn() {
    let second =
        WAYPOINT_POD.replace("wp-1", "wp-2").replace("10.0.0.9", "10.0.0.10").replace("fd00::9", "fd00::a");
    let mesh = mesh(&(behind_waypoint("all") + WAYPOINT_POD + &second));
    let (pod, mut rng) = (pod(&mesh, "client"), SmallRng::seed_from_u64(1));
    let mut peers = |load: fn(IpAddr) -> u32| -> std::collections::BTreeSet<String> {
        let one = |_| match route(&mesh, &flow(&pod, "10.0.0.2:1", "10.96.0.10:80"), load, &mut rng) {
            Ok(NextHop::Waypoint { peer, .. }) => peer.to_string(),
            other => panic!("no waypoint: {other:?}"),
        };
        (0..50).map(one).collect()
    };
    assert_eq!(peers(|_| 0).len(), 2);
    let busy = peers(|ip| u32::from(ip == IpAddr::from([10, 0, 0, 9])));
    assert_eq!(busy.into_iter().collect::<Vec<_>>(), ["10.0.0.10:15008"]);
}

#[test]
fn a_waypoints_pod_that_was_tried_is_not_chosen_again_by_either_address() {
    let second =
        WAYPOINT_POD.replace("wp-1", "wp-2").replace("10.0.0.9", "10.0.0.10").replace("fd00::9", "fd00::a");
    let mesh = mesh(&(behind_waypoint("all") + WAYPOINT_POD + &second));
    let caller = mesh.workload(&pod(&mesh, "client").uid).unwrap();
    let bound = Bound { gateway: ObjectName::new("shop", "wp"), namespace: "shop".into() };
    let mut rng = SmallRng::seed_from_u64(1);
    let mut choose = |tried: &[Arc<str>]| {
        let wanted = WaypointWanted { bound: &bound, called: "10.96.0.10".parse().unwrap(), tried };
        // The one that cannot be reached has no connections and looks as if it had nothing to do.
        let load = |ip: IpAddr| u32::from(ip == IpAddr::from([10, 0, 0, 10]));
        waypoint_pod(&mesh, wanted, caller, load, &mut rng)
    };
    let (first, idle) = choose(&[]).unwrap();
    assert_eq!(first.to_string(), "10.0.0.9:15008");
    for _ in 0..20 {
        let (other, _) = choose(std::slice::from_ref(&idle.uid)).unwrap();
        assert_eq!(other.to_string(), "10.0.0.10:15008");
    }
    let (_, busy) = choose(std::slice::from_ref(&idle.uid)).unwrap();
    let none = choose(&[idle.uid.clone(), busy.uid.clone()]);
    assert_eq!(
        none,
        Err(Refusal::WaypointMissing("shop/wp".into())),
        "the destination is not reached round it"
    );
}

#[test]
fn whoever_has_the_waypoints_identity_goes_straight_and_a_waypoint_itself_is_called_in_plain() {
    let own = WAYPOINT_POD.replace("serviceAccountName: waypoint", "serviceAccountName: client");
    let all = behind_waypoint("all");
    assert!(matches!(routed_in(&(all.clone() + &own), "10.96.0.10:80"), Ok(NextHop::Tunnel { .. })));
    let mesh = all + WAYPOINT_POD;
    for (original, plain) in [("10.0.0.9:15021", true), ("10.0.0.9:15008", false)] {
        let hop = routed_in(&mesh, original);
        assert_eq!(matches!(hop, Ok(NextHop::Plain { .. })), plain, "{original}: {hop:?}");
    }
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

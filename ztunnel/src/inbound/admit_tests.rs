use common::config::ObjectName;

use super::*;
use crate::testing::{WAYPOINT_POD, behind_waypoint, flow, mesh, pod};

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
const ONLY_CLIENT: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: only-client, namespace: shop}\n\
    spec: {action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}\n";
const UNREADABLE: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: broken, namespace: shop}\nspec: {action: ALLOW, rulez: []}\n";

fn client() -> Identity {
    Identity::new("cluster.local", "shop", "client")
}

fn tunnelled(more: &str, peer: &Identity, asked: &str) -> Result<Admission, Refusal> {
    let mesh = mesh(more);
    let flow = flow(&pod(&mesh, "web"), "10.0.0.2:40000", "10.0.0.3:15008");
    let asked =
        Authority::parse(asked).map_err(|error| Refusal::DestinationMismatch(error.to_string().into()))?;
    admit_tunnel(&mesh, &flow, peer, &asked)
}

fn plain(more: &str, original: &str) -> Result<Admission, Refusal> {
    let mesh = mesh(more);
    let flow = flow(&pod(&mesh, "web"), "10.0.0.4:40000", original);
    admit_plaintext(&mesh, &flow, PlaintextBehindWaypoint::Refuse)
}

#[test]
fn what_is_judged_is_what_is_connected_to() {
    let admission = tunnelled("", &client(), "10.0.0.3:8080").unwrap();
    assert_eq!(admission.target, "10.0.0.3:8080".parse().unwrap());
    assert_eq!(admission.client, "10.0.0.2:40000".parse().unwrap());
    assert_eq!(admission.identity, Some(client()));
}

#[test]
fn a_connect_to_anything_but_this_pod_is_refused() {
    for asked in [
        "10.0.0.4:8080",
        "10.0.0.2:8080",
        "[fd00::3]:8080",
        "127.0.0.1:8080",
        "[::1]:8080",
        "[::ffff:10.0.0.3]:8080",
        "[::ffff:127.0.0.1]:8080",
        "169.254.169.254:80",
        "0.0.0.0:8080",
        "255.255.255.255:8080",
        "224.0.0.1:8080",
        "[ff02::1]:8080",
        "[fe80::1%eth0]:8080",
        "10.0.0.3:0",
        "10.0.0.3:15001",
        "10.0.0.3:15006",
        "10.0.0.3:15008",
        "web.shop.svc.cluster.local:80",
        "localhost:8080",
        "10.96.0.10:80",
    ] {
        let refused = tunnelled("", &client(), asked).expect_err(asked);
        assert_ne!(refused.flag(), "DENY", "{asked} is no matter of policy: {refused}");
    }
}

#[test]
fn plaintext_to_a_strict_pod_is_refused_and_a_tunnel_is_not() {
    assert!(plain("", "10.0.0.3:8080").is_ok());
    assert_eq!(plain(STRICT, "10.0.0.3:8080"), Err(Refusal::PlaintextNotAllowed("shop/default".into())));
    assert!(tunnelled(STRICT, &client(), "10.0.0.3:8080").is_ok());
}

#[test]
fn an_allow_policy_admits_whom_it_names_and_nobody_else() {
    assert!(tunnelled(ONLY_CLIENT, &client(), "10.0.0.3:8080").is_ok());
    let other = Identity::new("cluster.local", "shop", "other");
    let refused = Err(Refusal::NoAllowPolicyMatched("shop/only-client".into()));
    assert_eq!(tunnelled(ONLY_CLIENT, &other, "10.0.0.3:8080"), refused);
    assert_eq!(plain(ONLY_CLIENT, "10.0.0.3:8080"), refused);
}

#[test]
fn a_policy_that_cannot_be_read_admits_nobody() {
    let refused = tunnelled(UNREADABLE, &client(), "10.0.0.3:8080");
    assert_eq!(refused, Err(Refusal::PolicyUnknown("AuthorizationPolicy shop/broken".into())));
}

#[test]
fn plaintext_for_the_proxys_own_ports_or_for_others_is_refused() {
    for original in ["10.0.0.3:15001", "10.0.0.3:15006", "10.0.0.3:15008"] {
        assert_eq!(plain("", original), Err(Refusal::RecursiveCall), "{original}");
    }
    assert!(matches!(plain("", "10.0.0.9:80"), Err(Refusal::DestinationMismatch(_))));
    // What a listener is bound to, where an application has 15006 and a route of the pod's own leads there.
    assert!(matches!(plain("", "240.1.2.3:41234"), Err(Refusal::DestinationMismatch(_))));
}

#[test]
fn an_address_alone_does_not_make_a_caller() {
    let mesh = mesh("");
    let address = "10.0.0.2".parse().unwrap();
    assert_eq!(caller(&mesh, address, Some(&client())).map(|w| &*w.name), Some("client"));
    assert_eq!(caller(&mesh, address, Some(&Identity::new("cluster.local", "shop", "web"))), None);
}

#[test]
fn a_claimed_service_is_believed_only_when_the_pod_serves_it() {
    let mesh = mesh("");
    let (web, client) = (pod(&mesh, "web"), pod(&mesh, "client"));
    assert!(claimed_service(&mesh, "web.shop.svc.cluster.local", &web).is_some());
    assert!(claimed_service(&mesh, "web.shop.svc.cluster.local", &client).is_none());
    assert!(claimed_service(&mesh, "web.shop.svc.other", &web).is_none());
    assert!(claimed_service(&mesh, "plain.outside.svc.cluster.local", &web).is_none());
}

fn waypoint() -> Identity {
    Identity::new("cluster.local", "shop", "waypoint")
}

fn bypassed<T>() -> Result<T, Refusal> {
    Err(Refusal::WaypointBypassed("shop/wp".into()))
}

#[test]
fn what_is_behind_a_waypoint_admits_it_and_nobody_who_comes_round_it() {
    for (stands_for, asked, kept) in [
        ("service", "10.0.0.3:8080", true),
        ("service", "10.0.0.3:9090", false),
        ("workload", "10.0.0.3:8080", true),
        ("workload", "10.0.0.3:9090", true),
        ("all", "10.0.0.3:9090", true),
        ("none", "10.0.0.3:8080", false),
    ] {
        let mesh = behind_waypoint(stands_for) + WAYPOINT_POD;
        assert!(tunnelled(&mesh, &waypoint(), asked).is_ok(), "{stands_for} {asked}");
        for (result, who) in
            [(tunnelled(&mesh, &client(), asked), "tunnel"), (plain(&mesh, asked), "plaintext")]
        {
            assert_eq!(result.is_ok(), !kept, "{who} {stands_for} {asked}");
            assert!(!kept || result == bypassed(), "{who} {stands_for} {asked}: {result:?}");
        }
    }
}

#[test]
fn where_the_waypoint_is_missing_nobody_is_taken_for_it() {
    let imposter = WAYPOINT_POD.replace("namespace: shop", "namespace: outside");
    let bound = behind_waypoint("all");
    let namespace = bound.split_once("---").unwrap().0.to_owned() + "---\n";
    for mesh in [bound.clone(), bound + &imposter, namespace + WAYPOINT_POD] {
        assert_eq!(tunnelled(&mesh, &waypoint(), "10.0.0.3:8080"), bypassed(), "{mesh}");
        assert_eq!(plain(&mesh, "10.0.0.3:8080"), bypassed(), "{mesh}");
    }
}

#[test]
fn a_pod_that_calls_itself_does_not_walk_round_its_waypoint() {
    let mesh = mesh(&(behind_waypoint("service") + WAYPOINT_POD));
    let web = pod(&mesh, "web");
    let admission = |identity: &str| Admission {
        target: "10.0.0.3:8080".parse().unwrap(),
        client: "10.0.0.3:40000".parse().unwrap(),
        identity: Some(Identity::new("cluster.local", "shop", identity)),
        by_way_of: None,
    };
    assert_eq!(judge(&mesh, &web, &admission("web")), bypassed());
    assert_eq!(judge(&mesh, &web, &admission("waypoint")), Ok(()));
}

#[test]
fn policies_see_the_waypoint_as_the_caller() {
    let through = behind_waypoint("all") + WAYPOINT_POD;
    let only_client = Err(Refusal::NoAllowPolicyMatched("shop/only-client".into()));
    assert_eq!(tunnelled(&format!("{through}{ONLY_CLIENT}"), &waypoint(), "10.0.0.3:8080"), only_client);
    let only_waypoint = ONLY_CLIENT.replace("sa/client", "sa/waypoint");
    assert!(tunnelled(&format!("{through}{only_waypoint}"), &waypoint(), "10.0.0.3:8080").is_ok());
}

#[test]
fn plaintext_is_taken_to_the_waypoint_where_the_operator_says_so_and_plaintext_is_taken_at_all() {
    let through = behind_waypoint("all") + WAYPOINT_POD;
    let hairpin = |more: &str, original: &str| {
        let mesh = mesh(&format!("{through}{more}"));
        let flow = flow(&pod(&mesh, "web"), "10.0.0.4:40000", original);
        admit_plaintext(&mesh, &flow, PlaintextBehindWaypoint::Hairpin)
    };
    let gateway = Some(ObjectName::new("shop", "wp"));
    // That nobody but the waypoint is allowed is what the waypoint's own connection is judged by.
    for more in ["", ONLY_CLIENT] {
        let admission = hairpin(more, "10.0.0.3:8080").unwrap();
        assert_eq!((admission.by_way_of, admission.identity), (gateway.clone(), None), "{more}");
        assert_eq!(admission.target, "10.0.0.3:8080".parse().unwrap());
    }
    assert_eq!(hairpin(STRICT, "10.0.0.3:8080"), Err(Refusal::PlaintextNotAllowed("shop/default".into())));
    assert_eq!(
        hairpin(UNREADABLE, "10.0.0.3:8080"),
        Err(Refusal::PolicyUnknown("AuthorizationPolicy shop/broken".into()))
    );
    let open = mesh("");
    let straight = admit_plaintext(
        &open,
        &flow(&pod(&open, "web"), "10.0.0.4:40000", "10.0.0.3:8080"),
        PlaintextBehindWaypoint::Hairpin,
    );
    assert_eq!(straight.unwrap().by_way_of, None);
}

#[test]
fn the_kubelet_of_the_pods_node_reaches_the_ports_it_is_to_probe_and_no_others() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nstatus: {addresses: [{type: InternalIP, address: \
                172.30.0.2}]}\n---\n";
    let probed = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u2, labels: {app: web}}\nspec: \
                  {nodeName: n2, serviceAccountName: web, containers: [{name: app, livenessProbe: {tcpSocket: {port: \
                  8080}}}]}\nstatus: {phase: Running, podIPs: [{ip: 10.0.0.3}]}\n---\n";
    let mesh = mesh(&(behind_waypoint("all") + WAYPOINT_POD + node + probed));
    let web = pod(&mesh, "web");
    for (client, port, admitted) in [
        ("172.30.0.2:40000", 8080, true),
        ("172.30.0.2:40000", 9090, false),
        ("172.30.0.1:40000", 8080, false),
        ("10.0.0.4:40000", 8080, false),
    ] {
        let flow = flow(&web, client, &format!("10.0.0.3:{port}"));
        let judged = admit_plaintext(&mesh, &flow, PlaintextBehindWaypoint::Refuse);
        assert_eq!(judged.is_ok(), admitted, "{client} {port}: {judged:?}");
    }
}

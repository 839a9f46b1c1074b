use super::*;
use crate::testing::{flow, mesh, pod};

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
    admit_plaintext(&mesh, &flow(&pod(&mesh, "web"), "10.0.0.4:40000", original))
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
    assert_eq!(refused, Err(Refusal::PolicyUnknown("shop/broken".into())));
}

#[test]
fn plaintext_for_the_proxys_own_ports_or_for_others_is_refused() {
    for original in ["10.0.0.3:15001", "10.0.0.3:15006", "10.0.0.3:15008"] {
        assert_eq!(plain("", original), Err(Refusal::RecursiveCall), "{original}");
    }
    assert!(matches!(plain("", "10.0.0.9:80"), Err(Refusal::DestinationMismatch(_))));
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

#[test]
fn a_pod_behind_a_waypoint_admits_nobody_who_comes_round_it() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {istio.io/dataplane-mode: \
                     ambient, istio.io/use-waypoint: wp}\n";
    let gateway = |stands_for| {
        format!(
            "{namespace}---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: wp, namespace: \
             shop, labels: {{istio.io/waypoint-for: {stands_for}}}}}\n"
        )
    };
    let refused = Err(Refusal::WaypointMissing("shop/wp".into()));
    for behind in [namespace.to_owned(), gateway("workload"), gateway("all")] {
        assert_eq!(tunnelled(&behind, &client(), "10.0.0.3:8080"), refused, "{behind}");
        assert_eq!(plain(&behind, "10.0.0.3:8080"), refused, "{behind}");
    }
    for before in [gateway("service"), gateway("none")] {
        assert!(tunnelled(&before, &client(), "10.0.0.3:8080").is_ok(), "{before}");
        assert!(plain(&before, "10.0.0.3:8080").is_ok(), "{before}");
    }
}

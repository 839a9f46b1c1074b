//! Who is refused because nobody was asked who may have to agree: by manifests, what is called and who calls.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use common::config::ObjectName;
use common::hbone::request::Authority;
use common::manifests::Manifests;
use common::snapshot::MeshSettings;

use super::exchange;
use super::rig::{Rig, web};
use crate::authn::tests::NoKeyring;
use crate::destination::Destination;
use crate::exchange::called::{Called, Scene};
use crate::routes::View;
use crate::upstream::{Clusters, Vantage};
use crate::worker::Followed;

/// Services and a ServiceEntry lead to ports of a pod; the waypoint is for all of it, and `client` calls from elsewhere.
const MESH: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: u1, labels: {app: web}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: client, uid: u2, labels: {app: caller}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: whatever, port: 81, targetPort: 8081}
    - {name: tcp, port: 5432, targetPort: 5432}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: open, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {clusterIP: 10.96.0.3, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 6060}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy, namespace: shop}
spec:
  hosts: [legacy.example.com]
  addresses: [10.97.0.1]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 7070}]
  resolution: STATIC
  workloadSelector: {labels: {app: web}}
";
const ASKS: &str = "filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: auth, port: 9000}, grpc: {}}}], ";
const WEB: &str = "group: '', kind: Service, name: web, namespace: shop";
const GATEWAY: &str = "name: wp, namespace: shop";
const POD: &str = "10.0.0.1:8080";

/// An HTTPRoute that attaches to a parent, with `filters` in its only rule.
fn route(object: &str, parent: &str, filters: &str) -> String {
    let (namespace, name) = object.split_once('/').unwrap();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{{parent}}}], rules: [{{{filters}matches: [{{path: {{value: /asked}}}}], backendRefs: [{{name: web, port: 80}}]}}]}}\n"
    )
}

/// One that has somebody asked, and that nobody can read.
fn unread(object: &str, parent: &str) -> String {
    route(object, parent, ASKS).replace("rules:", "rulez: [], rules:")
}

fn mesh(more: &str) -> Manifests {
    Manifests::of(vec![("mesh.yaml".into(), (MESH.to_owned() + more).into())], MeshSettings::default())
}

/// What becomes of a call: the status, or 0 where nothing keeps it; and whether rules for requests are stated, and TLS is refused.
fn called(manifests: &Manifests, to: &str, from_client: bool) -> (u16, bool, bool) {
    let gateway = ObjectName::new("shop", "wp");
    let clusters = Clusters::new(Vantage::new(&manifests.settings, gateway.clone()), Instant::now());
    let view = View { waypoint: gateway.clone(), cluster_domain: "cluster.local".into() };
    let nothing = Followed::nothing(view, &clusters);
    clusters.update(&manifests.mesh, Instant::now());
    let followed = Arc::new(nothing.next(&manifests.mesh, &clusters, &NoKeyring));
    let original: SocketAddr = to.parse().unwrap();
    let destination = Destination::find(&manifests.mesh, &gateway, &Authority::Address(original)).unwrap();
    let caller = if from_client { "10.0.0.2" } else { "10.0.0.1" };
    let caller = manifests.mesh.workload_at(caller.parse().unwrap()).unwrap();
    let pod = OnceLock::new();
    let scene =
        Scene { clusters: &clusters, destination: &destination, original, caller: Some(caller), pod: &pod };
    let called = Called::of(followed, scene);
    (called.unasked().map_or(0, |it| it.status()), called.has_http_rules(), called.refuses_tls())
}

fn check(cases: &[(String, &str, bool, u16)]) {
    for (more, to, from_client, expected) in cases {
        let manifests = mesh(more);
        let found = called(&manifests, to, *from_client);
        assert_eq!(found.0, *expected, "{to}, {from_client}: {more}");
        let is_pod = to.starts_with("10.0.");
        assert!(found.1 || *expected == 0, "{to}: bytes get round it\n{more}");
        assert_eq!(found.2, is_pod && *expected != 0, "{to}: TLS gets round it\n{more}");
    }
}

#[test]
fn a_pod_is_not_called_round_who_a_service_has_asked() {
    let asks = route("shop/r", WEB, ASKS);
    let of = |namespace: &str, filters: &str| route(&format!("{namespace}/c"), WEB, filters);
    let entry = "group: networking.istio.io, kind: ServiceEntry, name: legacy";
    let of_open = "group: '', kind: Service, name: open";
    check(&[
        (String::new(), POD, false, 0),
        (route("shop/r", WEB, ""), POD, false, 0),
        (asks.clone(), POD, false, 403),
        (asks.clone(), POD, true, 403),
        (asks.clone(), "10.0.0.1:8081", false, 403),
        // Those who call the service are asked about, and what is carried as bytes nobody is asked about.
        (asks.clone(), "10.96.0.1:80", false, 0),
        (asks.clone(), "10.0.0.1:5432", false, 0),
        (asks.clone(), "10.0.0.1:9090", false, 0),
        (asks.clone(), "10.0.0.1:4040", false, 0),
        (route("shop/r", &format!("{WEB}, port: 81"), ASKS), POD, false, 0),
        (route("shop/r", &format!("{WEB}, port: 81"), ASKS), "10.0.0.1:8081", false, 403),
        (route("shop/r", entry, ASKS), "10.0.0.1:7070", false, 403),
        (route("shop/r", entry, ASKS), POD, false, 0),
        (route("shop/r", of_open, ASKS), "10.0.0.1:6060", false, 0),
        // One for some callers alone is for those.
        (of("client", ASKS), POD, true, 403),
        (of("client", ASKS), POD, false, 0),
        (asks.clone() + &of("client", ""), POD, true, 0),
        (asks + &of("client", ""), POD, false, 403),
        (route("shop/g", GATEWAY, ASKS), POD, false, 403),
        (route("shop/g", GATEWAY, ASKS), "10.0.0.1:9090", false, 403),
        (route("shop/g", GATEWAY, ASKS), "10.0.0.1:4040", false, 0),
        (route("shop/g", GATEWAY, ASKS) + &route("shop/r", WEB, ""), POD, false, 0),
    ]);
}

#[test]
fn a_route_that_nobody_could_read_refuses_whatever_it_may_be_about() {
    let (own, consumer) = (unread("shop/r", WEB), unread("client/r", WEB));
    let entry = unread("shop/r", "group: networking.istio.io, kind: ServiceEntry, name: legacy")
        .replace("[{name: web, ", "[{name: gone, ");
    let anything = own.replace("rulez: []", "rulez: [\"\\u0041\"]");
    let all = "{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}";
    let shared = unread("client/r", GATEWAY);
    check(&[
        (own.clone(), "10.96.0.1:80", false, 500),
        (own.clone(), POD, false, 500),
        (own.clone(), "10.0.0.1:5432", true, 500),
        (own.clone(), "10.96.0.2:80", false, 0),
        (own.clone(), "10.0.0.1:9090", false, 0),
        (own.replace("ExternalAuth", "Other").replace("externalAuth", "other"), POD, false, 0),
        (own.clone() + &route("shop/x", WEB, ASKS), POD, false, 500),
        (entry.clone(), "10.97.0.1:80", false, 500),
        (entry.clone(), "10.0.0.1:7070", false, 500),
        (entry, POD, false, 0),
        (consumer.clone(), "10.96.0.1:80", true, 500),
        (consumer.clone(), POD, true, 500),
        (consumer.clone(), "10.96.0.1:80", false, 0),
        (consumer, POD, false, 0),
        (anything.clone(), "10.96.0.2:80", false, 500),
        (anything, "10.0.0.1:4040", false, 500),
        (unread("shop/g", GATEWAY), "10.0.0.1:4040", false, 500),
        (unread("shop/g", GATEWAY), "10.96.0.2:80", false, 500),
        // Of another namespace where its listener lets it.
        (shared, POD, false, 0),
    ]);
    let open = MESH.replace("{name: mesh, port: 15008, protocol: HBONE}", all);
    let text = open + &unread("client/r", GATEWAY);
    let manifests = Manifests::of(vec![("mesh.yaml".into(), text.into())], MeshSettings::default());
    assert_eq!(manifests.rejected.len(), 1);
    assert_eq!(called(&manifests, "10.96.0.2:80", false).0, 500);
}

#[tokio::test]
async fn who_calls_a_pod_round_an_authorizer_is_answered_and_told_of() {
    let asks = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec: \
                {parentRefs: [{group: '', kind: Service, name: web}], rules: [{";
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: waypoint, namespace: edge}\n\
                   spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, \
                   allowedRoutes: {namespaces: {from: All}}}]}\n";
    let mut rig =
        Rig::new(&(web(1, &[1]) + gateway + asks + ASKS + "backendRefs: [{name: web, port: 80}]}]}\n"));
    rig.calls_pod(1);
    let request = "GET /free HTTP/1.1\r\nhost: web\r\nconnection: close\r\n";
    let answer = exchange(rig.client(), &format!("{request}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    let answer = exchange(rig.client(), &format!("{request}content-type: application/grpc\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("grpc-status: 7\r\n"), "{answer}");
    let log = rig.log();
    assert!(log.contains("403 UAEX ext_authz_error"), "{log}");
}

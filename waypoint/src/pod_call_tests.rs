use std::net::SocketAddr;
use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::Snapshot;
use http::HeaderMap;

use crate::authn::tables::{Bound, Tables};
use crate::authn::tests::signer::signer;
use crate::authn::tests::{Asked, NoKeyring, token};
use crate::destination::Destination;
use crate::limits::{CalledFor, Caller, Limits, Outcome};
use crate::pod_call::PodCall;
use crate::routes::RequestFacts;
use crate::routes::tests::Desk;

/// Two Services and a ServiceEntry lead to port 8080 of a pod, a Service to its port 9090; the waypoint is for all of it.
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
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: admin, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {clusterIP: 10.96.0.3, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 9090}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy, namespace: shop}
spec:
  hosts: [legacy.example.com]
  addresses: [10.97.0.1]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  workloadSelector: {labels: {app: web}}
";

fn targets(names: &str) -> String {
    let target = |name: &str| match name {
        "legacy" => "{group: networking.istio.io, kind: ServiceEntry, name: legacy}".to_owned(),
        name => format!("{{group: '', kind: Service, name: {name}}}"),
    };
    names.split(' ').map(target).collect::<Vec<_>>().join(", ")
}

fn authentication(name: &str, of: &str, issuer: &str, more: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{}]\n  jwtRules: [{{issuer: {issuer}, jwks: '{}'{more}}}]\n",
        targets(of),
        signer().jwks("k")
    )
}

fn limit(name: &str, of: &str, requests: u32) -> String {
    format!(
        "---\napiVersion: gateway.ebb.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{targetRefs: [{}], limits: [{{requests: {requests}, per: 1h}}]}}\n",
        targets(of)
    )
}

fn gateway() -> ObjectName {
    ObjectName::new("shop", "wp")
}

/// The pod, at one of its ports.
fn pod(mesh: &Snapshot, port: u16) -> (Destination, SocketAddr) {
    let address = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
    let workload = mesh.workload_at(address.ip()).unwrap().clone();
    (Destination::Workload { workload, port }, address)
}

/// Whether the pod takes a token of each of these issuers; `None` where tokens are not looked at.
fn takes(manifests: &str, port: u16) -> [Option<bool>; 2] {
    let mesh = Desk::with(&(MESH.to_owned() + manifests)).now;
    let tables = Arc::new(Tables::new(gateway())).update(&mesh, &NoKeyring);
    let (destination, address) = pod(&mesh, port);
    let Bound::Rules(rules) = tables.of(&mesh, &destination, address) else { panic!("unknown") };
    ["me", "them"].map(|issuer| {
        let mut asked = Asked::bearing(&token(serde_json::json!({ "iss": issuer })));
        asked.judge(&rules).map_or(Some(false), |it| it.claims().map(|_| true))
    })
}

#[test]
fn tokens_for_a_pod_are_judged_by_the_rules_of_every_service_that_leads_to_the_port() {
    let (web, admin) = (authentication("a", "web", "me", ""), authentication("b", "admin", "them", ""));
    for (manifests, port, expected) in [
        (String::new(), 8080, [None, None]),
        (web.clone(), 8080, [Some(true), Some(false)]),
        (web.clone(), 9090, [None, None]),
        (web.clone(), 7070, [None, None]),
        (authentication("a", "legacy", "me", ""), 8080, [Some(true), Some(false)]),
        (authentication("a", "web admin", "me", ""), 8080, [Some(true), Some(false)]),
        // What proves something to one of them alone proves nothing.
        (web.clone() + &admin, 8080, [None, None]),
        (web + &admin + &authentication("c", "web admin", "me", ""), 8080, [Some(true), Some(false)]),
    ] {
        assert_eq!(takes(&manifests, port), expected, "{port} {manifests}");
    }
}

#[test]
fn headers_that_one_of_several_services_writes_are_not_taken_from_a_client_that_calls_the_pod() {
    let written = ", outputClaimToHeaders: [{header: x-user, claim: sub}]";
    let manifests = authentication("a", "web", "me", written) + &authentication("b", "admin", "them", "");
    let mesh = Desk::with(&(MESH.to_owned() + &manifests)).now;
    let tables = Arc::new(Tables::new(gateway())).update(&mesh, &NoKeyring);
    let (destination, address) = pod(&mesh, 8080);
    let Bound::Rules(rules) = tables.of(&mesh, &destination, address) else { panic!("unknown") };
    let outputs: Vec<_> = rules.outputs().iter().map(|it| it.as_str().to_owned()).collect();
    assert_eq!(outputs, ["x-user"]);
    assert!(!rules.is_empty());
}

#[test]
fn a_request_to_a_pod_counts_in_the_limits_of_every_service_that_leads_to_the_port() {
    for (manifests, port, expected) in [
        (String::new(), 8080, 5),
        (limit("a", "web", 3), 8080, 3),
        (limit("a", "web", 3), 9090, 5),
        (limit("a", "legacy", 2), 8080, 2),
        (limit("a", "web", 3) + &limit("b", "admin", 1), 8080, 1),
        (limit("a", "web admin", 4), 8080, 4),
    ] {
        let mesh = Desk::with(&(MESH.to_owned() + &manifests)).now;
        let mut limits = Limits::none(gateway());
        limits.update(&Snapshot::default(), &mesh);
        let (Destination::Workload { workload, .. }, original) = pod(&mesh, port) else { panic!() };
        let gateway = gateway();
        let call = PodCall { mesh: &mesh, gateway: &gateway, workload: &workload, original, port };
        let called = CalledFor { services: limits.meant_by(call), route: None };
        let headers = HeaderMap::new();
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: "10.0.0.1",
            path: "/",
            query: None,
            headers: &headers,
            port,
            source: None,
            claims: None,
        };
        let caller = Caller { identity: None, address: original.ip() };
        let ask = || limits.ask(&called, &facts, &caller, 1_000_000_000_000);
        let admitted = (0..5).filter(|_| matches!(ask(), Outcome::Admitted(_))).count();
        assert_eq!(admitted, expected, "{port} {manifests}");
    }
}

/// A service has endpoints of one family unless more are asked for, and the pod has an address of the other one too.
#[test]
fn what_leads_to_a_pod_leads_to_it_by_whichever_of_its_addresses_it_is_called() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
        ports: [{name: http, port: 8080}]\n\
        endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}}]\n";
    let both = MESH.replace("podIP: 10.0.0.1", "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]");
    let mesh = Desk::with(&(both + slice)).now;
    let gateway = gateway();
    let named = [ObjectName::new("shop", "web"), ObjectName::new("shop", "admin")];
    for address in ["10.0.0.1", "fd00::1"] {
        let original = SocketAddr::new(address.parse().unwrap(), 8080);
        let workload = mesh.workload_at(original.ip()).unwrap();
        let call = PodCall { mesh: &mesh, gateway: &gateway, workload, original, port: 8080 };
        let leading: Vec<_> =
            call.among(named.iter(), std::iter::empty()).map(|(it, port)| (&*it.name, port)).collect();
        assert_eq!(leading, [("web", 80), ("admin", 81)], "{address}");
    }
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::config::mesh::ProviderService;
use common::hbone::request::Traceparent;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::spans::export::Exporters;
use common::spans::reach::{Connecting, Dial, Wanted};
use common::spans::{Me, Side};
use common::spiffe::Identity;
use common::telemetry::labels::Reporter;
use http::Version;
use tokio::runtime::Handle;

use super::joined::{Joined, Outcome};
use super::{Spans, secrecy};
use crate::record::{Ends, Near};
use crate::testing::{WAYPOINT_POD, behind_waypoint, mesh};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Everything is told to a collector, but what goes to namespaces that want it otherwise.
const TOLD: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    extensionProviders:
    - name: otel
      opentelemetry: {service: otel.obs.svc.cluster.local, port: 4317}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec: {tracing: [{providers: [{name: otel}], customTags: {who: {literal: {value: me}}, path: {header: {name: x-path}}}}]}
---
";

fn of_namespace(spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: own, namespace: shop}}\nspec: {{tracing: [{spec}]}}\n---\n"
    )
}

struct Nobody;

impl Dial for Nobody {
    fn connect<'c>(&'c self, _: Wanted<'c>) -> Connecting<'c> {
        Box::pin(async { Err("nobody is at home".to_owned()) })
    }
}

fn following(mesh: &Snapshot) -> Spans {
    let me = Me { node: "ztunnel~n2".into(), ..Me::default() };
    let spans = Spans::new(Exporters::new(Arc::new(me), Arc::new(Nobody), Handle::current()));
    spans.follow(mesh);
    spans
}

/// A connection from the pod `caller`, with the identity of the account `account`, to the port 8080 of `web`.
fn ends(mesh: &Snapshot, caller: &str, account: &str) -> Ends {
    let workload = |name: &str| mesh.workload(&format!("Kubernetes//Pod/shop/{name}")).cloned();
    Ends {
        reporter: Reporter::Destination,
        near: Near::Server,
        client: "10.0.0.9:40000".parse().unwrap(),
        server: "10.0.0.3:15008".parse().unwrap(),
        tunnelled_to: Some("10.0.0.3:8080".parse().unwrap()),
        source: workload(caller),
        destination: workload("web"),
        service: mesh.service("shop", "web").cloned(),
        source_identity: Some(Identity::new("cluster.local", "shop", account)),
        destination_identity: Some(Identity::new("cluster.local", "shop", "web")),
        since: Instant::now(),
    }
}

fn joined(manifests: &str, (caller, account): (&str, &str), stated: &str) -> Option<Box<Joined>> {
    let mesh = mesh(&(behind_waypoint("service") + WAYPOINT_POD + manifests));
    let spans = following(&mesh);
    Joined::new(&spans, &mesh, &ends(&mesh, caller, account), Traceparent::parse(stated))
}

#[tokio::test]
async fn only_a_waypoint_is_believed_about_traces_that_are_to_be_recorded() {
    const WAYPOINT: (&str, &str) = ("wp-1", "waypoint");
    assert!(joined(TOLD, WAYPOINT, SAMPLED).is_some());
    let unsampled = SAMPLED.replace("-01", "-00");
    for (manifests, caller, stated) in [
        (TOLD, WAYPOINT, unsampled.as_str()),
        (TOLD, WAYPOINT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz"),
        (TOLD, ("client", "client"), SAMPLED),
        // At the address of the waypoint, but not proved to be it.
        (TOLD, ("wp-1", "client"), SAMPLED),
        // Nobody wants to hear of it.
        ("", WAYPOINT, SAMPLED),
        (&(TOLD.to_owned() + &of_namespace("{disableSpanReporting: true}")), WAYPOINT, SAMPLED),
        // Of requests that others make.
        (&TOLD.replace("tracing: [{", "tracing: [{match: {mode: CLIENT}, "), WAYPOINT, SAMPLED),
        // A provider that there is not.
        (&TOLD.replace("name: otel}]", "name: else}]"), WAYPOINT, SAMPLED),
    ] {
        assert!(joined(manifests, caller, stated).is_none(), "{manifests} {caller:?} {stated}");
    }
}

#[tokio::test]
async fn a_namespace_may_want_what_the_mesh_does_not() {
    let off = TOLD.replace("tracing: [{", "tracing: [{disableSpanReporting: true, ");
    assert!(joined(&off, ("wp-1", "waypoint"), SAMPLED).is_none());
    let on = off + &of_namespace("{disableSpanReporting: false}");
    assert!(joined(&on, ("wp-1", "waypoint"), SAMPLED).is_some());
}

#[tokio::test]
async fn a_span_says_whose_connection_it_was_and_how_it_went() {
    let mesh = mesh(&(behind_waypoint("service") + WAYPOINT_POD + TOLD));
    let (spans, ends) = (following(&mesh), ends(&mesh, "wp-1", "waypoint"));
    let joined = Joined::new(&spans, &mesh, &ends, Traceparent::parse(SAMPLED)).unwrap();
    let took = Duration::from_millis(20);
    let refusal = Refusal::ConnectFailed("10.0.0.3:8080: refused".into());
    for refusal in [None, Some(&refusal)] {
        let outcome = Outcome { request_bytes: 10, response_bytes: 300, took, refusal };
        let span = joined.span(&ends, &outcome);
        assert_eq!((span.trace, span.parent), (0x0af7651916cd43dd8448eb211c80319c, Some(0xb7ad6b7169203331)));
        assert_eq!((span.side, span.took, span.name.as_str()), (Side::Server, took, "web.shop:8080"));
        let tag = |name: &str| span.tags.iter().find(|it| it.0 == name).map(|it| it.1.as_str());
        for (name, value) in [
            ("component", "ztunnel"),
            ("node_id", "ztunnel~n2"),
            ("direction", "inbound"),
            ("protocol", "hbone"),
            ("dst.service", "web.shop.svc.cluster.local"),
            ("bytes_sent", "300"),
            ("bytes_recv", "10"),
            ("istio.source_workload", "wp-1"),
            ("istio.source_principal", "spiffe://cluster.local/ns/shop/sa/waypoint"),
            ("istio.destination_namespace", "shop"),
            ("istio.destination_principal", "spiffe://cluster.local/ns/shop/sa/web"),
            ("who", "me"),
        ] {
            assert_eq!(tag(name), Some(value), "{name} of {span:?}");
        }
        assert_eq!(tag("path"), None);
        assert_eq!(span.is_error, refusal.is_some());
        assert_eq!(tag("response_flags"), refusal.map(|_| "CONNECT"));
        assert_eq!(tag("why").is_some_and(|it| it.contains("10.0.0.3:8080: refused")), refusal.is_some());
    }
}

/// Another waypoint of the namespace, which stands before nobody.
const ELSEWHERE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: shop, labels: {istio.io/waypoint-for: service}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other-1, namespace: shop, uid: other-1, labels: {gateway.networking.k8s.io/gateway-name: other}}
spec: {nodeName: n2, serviceAccountName: other}
status: {phase: Running, podIPs: [{ip: 10.0.0.19}], conditions: [{type: Ready, status: 'True'}]}
---
";

#[tokio::test]
async fn a_waypoint_through_which_a_pod_is_not_reached_is_not_believed() {
    let manifests = TOLD.to_owned() + ELSEWHERE;
    assert!(joined(&manifests, ("other-1", "other"), SAMPLED).is_none());
    // With the pod behind it, it is believed, and the one before no more.
    let behind = behind_waypoint("service").replace("use-waypoint: wp", "use-waypoint: other");
    let mesh = mesh(&(behind + WAYPOINT_POD + &manifests));
    let (spans, stated) = (following(&mesh), Traceparent::parse(SAMPLED));
    let believed = |ends: &Ends| Joined::new(&spans, &mesh, ends, stated).is_some();
    let mut other = ends(&mesh, "other-1", "other");
    assert!(believed(&other) && !believed(&ends(&mesh, "wp-1", "waypoint")));
    // The port is reserved for it, whichever service was called.
    other.service = None;
    assert!(believed(&other));
    other.tunnelled_to = Some("10.0.0.3:9999".parse().unwrap());
    assert!(!believed(&other));
}

#[tokio::test]
async fn only_the_root_namespace_may_have_the_nodes_environment_told() {
    let stating = |tag: &str| format!("{{customTags: {{path: {{environment: {{{tag}}}}}}}}}");
    let root = TOLD.replace("path: {header: {name: x-path}}", "path: {environment: {name: PATH}}");
    let path = std::env::var("PATH").unwrap();
    for (manifests, told) in [
        (root.clone(), Some(path.as_str())),
        (TOLD.to_owned() + &of_namespace(&stating("name: PATH")), None),
        (TOLD.to_owned() + &of_namespace(&stating("name: PATH, defaultValue: none")), Some("none")),
        // The root has it told anyway.
        (root + &of_namespace(&stating("name: PATH")), Some(path.as_str())),
    ] {
        let spans = following(&mesh(&manifests));
        let tracer = spans.tracer("shop").unwrap();
        let tag = tracer.tags.iter().find(|it| &*it.0 == "path").map(|it| &*it.1);
        assert_eq!(tag, told, "{manifests}");
    }
}

#[tokio::test]
async fn what_is_not_as_stated_is_shown_while_it_lasts() {
    let wrong = TOLD.to_owned() + &of_namespace("{providers: [{name: else}]}");
    let spans = following(&mesh(&wrong));
    let dump = spans.dump();
    assert_eq!(dump["problems"], serde_json::json!(["MeshConfig has no provider else"]));
    assert_eq!(dump["everywhere"], "otel");
    assert_eq!(dump["namespaces"], serde_json::json!({ "shop": null }));
    assert_eq!(dump["telemetries"], serde_json::json!(["istio-system/mesh", "shop/own"]));
    spans.follow(&mesh(TOLD));
    assert_eq!(spans.dump()["problems"], serde_json::json!([]));
}

#[test]
fn where_tls_or_headers_are_stated_nothing_is_sent_in_the_clear() {
    const PLAIN: &str = "plain.outside.svc.cluster.local";
    let rule = |namespace: &str, host: &str, policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r{}, namespace: {namespace}}}\n\
             spec: {{host: '{host}', trafficPolicy: {policy}}}\n---\n",
            host.trim_start_matches(['*', '.']).len(),
        )
    };
    let simple = "{tls: {mode: SIMPLE}}";
    let secured = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p, namespace: outside}\n\
        spec: {targetRefs: [{group: '', kind: Service, name: plain}], validation: {hostname: a.b, wellKnownCACertificates: System}}\n---\n";
    for (manifests, has_headers, is_demanded) in [
        (String::new(), false, false),
        (String::new(), true, true),
        (rule("outside", "plain", simple), false, true),
        (rule("outside", PLAIN, "{tls: {mode: DISABLE}}"), false, false),
        (
            rule("outside", PLAIN, "{portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}"),
            false,
            true,
        ),
        (
            rule("outside", PLAIN, "{portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE}}]}"),
            false,
            false,
        ),
        (rule("istio-system", "*.outside.svc.cluster.local", simple), false, true),
        // The closer host, and the closer namespace, decide.
        (
            rule("outside", "*.local", simple) + &rule("outside", PLAIN, "{tls: {mode: DISABLE}}"),
            false,
            false,
        ),
        (
            rule("istio-system", "*.local", simple)
                + &rule("outside", PLAIN, "{connectionPool: {tcp: {maxConnections: 5}}}"),
            false,
            false,
        ),
        // Nobody else silences a collector.
        (rule("shop", PLAIN, simple), false, false),
        (rule("outside", "other", simple), false, false),
        (secured.to_owned(), false, true),
        (secured.replace("name: plain", "name: other"), false, false),
        (secured.replace("name: plain", "name: plain, sectionName: grpc"), false, false),
    ] {
        let mesh = mesh(&manifests);
        assert!(mesh.rejected().is_empty(), "{:?}", mesh.rejected());
        let service = ProviderService { namespace: None, host: PLAIN.into(), port: 80 };
        let found = mesh.provided(&service, "cluster.local").unwrap();
        let wanted = Wanted { service: &service, version: Version::HTTP_2, has_headers };
        let why = secrecy::demanded(&mesh, found, &wanted, "cluster.local");
        assert_eq!(why.is_some(), is_demanded, "{manifests} {why:?}");
    }
}

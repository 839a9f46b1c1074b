use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::Snapshot;

use super::gateway::route;
use super::{Desk, service, view, virtual_service};
use crate::routes::{PortRoutes, Tables};

/// Everything that tables say, in words.
fn said(tables: &Tables) -> Vec<String> {
    let words = |port: u16, it: &PortRoutes| -> String {
        let rules = it.http.rules().iter().map(|rule| {
            let targets: Vec<_> = rule
                .route
                .leads_to()
                .map(|it| format!("{}:{}:{:?}:{:?}", it.host, it.port(port), it.service, it.missing))
                .collect();
            let (fault, action) = (rule.route.fault(), rule.route.action());
            format!("{} {:?} {action:?} {targets:?} {fault:?}", rule.name(), rule.stated())
        });
        rules.collect::<Vec<_>>().join("\n")
    };
    let asking = Some(tables.asking()).filter(|it| !it.is_empty()).map(|it| format!("{it:?}"));
    let services = tables.iter().map(|it| {
        let (first, second) = (words(80, it.port(80)), words(81, it.port(81)));
        let consumer = words(80, it.port_for(80, Some("client")));
        format!("{}\n80: {first}\n81: {second}\nclient: {consumer}\n{:?}", it.service, it.problems)
    });
    services.chain(asking).collect()
}

fn forwarding(object: &str, hosts: &str, to: &str) -> String {
    virtual_service(
        object,
        1,
        &format!("hosts: [{hosts}]\nhttp:\n- name: {to}\n  route: [{{destination: {{host: {to}}}}}]"),
    )
}

fn delegating(object: &str, hosts: &str, to: &str) -> String {
    virtual_service(object, 1, &format!("hosts: [{hosts}]\nhttp:\n- delegate: {{name: {to}}}"))
}

fn delegate(object: &str, to: &str) -> String {
    virtual_service(object, 1, &format!("http:\n- name: {to}\n  route: [{{destination: {{host: {to}}}}}]"))
}

/// An HTTPRoute that attaches to parents and leads to a backend, with a filter where one is named.
fn attaching(object: &str, parents: &str, backend: &str, filter: &str) -> String {
    let filters = match filter {
        "" => String::new(),
        name => format!(
            "filters: [{{type: ExtensionRef, extensionRef: {{group: gateway.ebb.dev, kind: HTTPFaultFilter, name: {name}}}}}], "
        ),
    };
    let spec = format!("parentRefs: [{parents}]\nrules: [{{{filters}backendRefs: [{{{backend}}}]}}]");
    route("HTTPRoute", object, 1, &spec)
}

/// The same, for routes of the Gateway API.
fn attachments() -> Vec<(&'static str, &'static str, String)> {
    const A: &str = "{group: '', kind: Service, name: a, namespace: shop}";
    const GATEWAY: &str = "{name: waypoint, namespace: edge}";
    const ENTRY: &str = "{group: networking.istio.io, kind: ServiceEntry, name: api, namespace: shop}";
    const FAR: &str = "name: far, namespace: data, port: 80";
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: data}\n\
                 spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}\n";
    let filter = "---\napiVersion: gateway.ebb.dev/v1alpha1\nkind: HTTPFaultFilter\nmetadata: {name: f, namespace: shop}\n\
                  spec: {abort: {httpStatus: 418, percentage: {value: 100}}}\n";
    let gateway = |from: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: waypoint, namespace: edge}}\n\
             spec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - {{name: mesh, port: 15008, protocol: HBONE, \
             allowedRoutes: {{namespaces: {{from: {from}}}}}}}\n"
        )
    };
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: api\n  namespace: shop\n  labels: \
                 {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: edge}\nspec:\n  hosts: [api.example.com]\n  \
                 ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n";
    vec![
        ("a route", "g", attaching("shop/g", A, "name: b, port: 80", "")),
        ("to what is not there", "g", attaching("shop/g", A, "name: late, port: 80", "")),
        ("appears without the port", "n", service("shop", "late", &[81])),
        ("with it", "n", service("shop", "late", &[80, 81])),
        ("to another namespace", "g", attaching("shop/g", A, FAR, "")),
        ("where there is a service", "far", service("data", "far", &[80])),
        ("that it is granted", "grant", grant.to_owned()),
        ("no more", "grant", String::new()),
        ("with a filter", "g", attaching("shop/g", A, "name: b, port: 80", "f")),
        ("that appears", "f", filter.to_owned()),
        ("a consumer's", "c", attaching("client/c", A, "name: a, namespace: shop, port: 80", "")),
        (
            "at the Gateway too",
            "g",
            attaching("shop/g", &format!("{A}, {GATEWAY}"), "name: b, port: 80", "f"),
        ),
        ("which is there for its own", "wp", gateway("Same")),
        ("and for all", "wp", gateway("All")),
        ("at the Gateway alone", "g", attaching("shop/g", GATEWAY, "name: b, port: 80", "f")),
        ("and nobody's", "wp", gateway("Same")),
        ("of an entry", "g", attaching("shop/g", ENTRY, "name: b, port: 80", "")),
        ("that appears", "entry", entry.to_owned()),
        ("with another host", "entry", entry.replace("api.example", "other.example")),
        ("goes", "g", String::new()),
        ("and the rest", "entry", String::new()),
        ("the consumer", "c", String::new()),
        ("the filter", "f", String::new()),
    ]
}

/// The same, for routes that have somebody asked, and the pods that their services lead to.
fn askings() -> Vec<(&'static str, &'static str, String)> {
    const A: &str = "{group: '', kind: Service, name: a, namespace: shop}";
    let asks = |object: &str, parent: &str| {
        let filter = "filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: b, port: 80}, grpc: {}}}]";
        attaching(object, parent, "name: b, port: 80", "")
            .replace("[{backendRefs", &format!("[{{{filter}, backendRefs"))
    };
    let selecting = service("shop", "a", &[80]) + "  selector: {app: a}\n" + &service("shop", "b", &[80]);
    let pod = |n: u8, app: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: shop, uid: u{n}, labels: {{app: {app}}}}}\n\
             spec: {{nodeName: n1}}\nstatus: {{phase: Running, podIP: 10.0.0.{n}}}\n"
        )
    };
    vec![
        ("a service with pods", "s", selecting),
        ("a pod", "p", pod(1, "a")),
        ("has somebody asked", "g", asks("shop/g", A)),
        ("another pod", "p", pod(1, "a") + &pod(2, "a")),
        ("the first goes elsewhere", "p", pod(1, "x") + &pod(2, "a")),
        ("asks nobody", "g", attaching("shop/g", A, "name: b, port: 80", "")),
        ("a consumer asks", "c", asks("client/c", A)),
        ("no pods", "p", String::new()),
        ("pods again", "p", pod(3, "a")),
        ("no consumer", "c", String::new()),
        ("asks again", "g", asks("shop/g", A)),
        ("no services", "s", String::new()),
        ("no pods either", "p", String::new()),
        ("no route", "g", String::new()),
    ]
}

/// One change after another, and what each is about.
fn steps() -> Vec<(&'static str, &'static str, String)> {
    let of_mesh = |name: &str| service("shop", name, &[80]).replace("istio.io/use-waypoint: waypoint, ", "");
    let mut steps = vec![
        ("services", "s", service("shop", "a", &[80, 81]) + &service("shop", "b", &[80]) + &of_mesh("c")),
        ("a route of one service", "v", forwarding("shop/v", "a", "b")),
        ("another destination", "v", forwarding("shop/v", "a", "c")),
        ("another host", "v", forwarding("shop/v", "b", "a")),
        ("a pattern", "w", forwarding("shop/w", "'*.shop.svc.cluster.local'", "d")),
        ("its destination appears", "d", service("shop", "d", &[80])),
        ("and gets another port", "d", service("shop", "d", &[80, 81])),
        ("and goes", "d", String::new()),
        ("a delegate that is not there", "r", delegating("shop/r", "a", "x")),
        ("appears", "x", delegate("shop/x", "b")),
        ("leads elsewhere", "x", delegate("shop/x", "e")),
        ("to what appears", "e", service("shop", "e", &[82])),
        ("gets hosts and is none any more", "x", forwarding("shop/x", "e", "e")),
        ("goes", "x", String::new()),
        ("a waypoint for the third", "s", service("shop", "a", &[80]) + &service("shop", "c", &[80])),
        ("a root that stops delegating", "r", forwarding("shop/r", "a, c", "b")),
        ("no routes", "r", String::new()),
        ("no pattern", "w", String::new()),
    ];
    steps.extend(attachments());
    steps.extend(askings());
    steps.push(("nothing", "v", String::new()));
    steps
}

#[test]
fn tables_that_follow_are_those_that_are_made_from_nothing() {
    let mut desk = Desk::new();
    let mut tables = Tables::new(view(), &Snapshot::default());
    for (what, file, text) in steps() {
        let before = desk.now.clone();
        let now = desk.write(&format!("{file}.yaml"), &text);
        tables = tables.update(&before, &now);
        assert_eq!(said(&tables), said(&Tables::new(view(), &now)), "after: {what}");
    }
    assert_eq!(said(&tables), [""; 0]);
}

#[test]
fn snapshots_may_be_skipped() {
    let mut desk = Desk::new();
    let snapshots: Vec<Arc<Snapshot>> =
        steps().iter().map(|(_, file, text)| desk.write(&format!("{file}.yaml"), text)).collect();
    for skip in 2..6 {
        let mut at = Arc::<Snapshot>::default();
        let mut tables = Tables::new(view(), &at);
        for next in snapshots.iter().skip(skip - 1).step_by(skip) {
            tables = tables.update(&at, next);
            at = next.clone();
            assert_eq!(said(&tables), said(&Tables::new(view(), &at)), "every {skip}th");
        }
    }
}

#[test]
fn what_a_change_does_not_concern_is_shared() {
    let mut desk = Desk::new();
    desk.write("s.yaml", &(service("shop", "a", &[80]) + &service("shop", "b", &[80])));
    let before = desk.write("v.yaml", &(forwarding("shop/a", "a", "b") + &forwarding("shop/b", "b", "c")));
    let tables = Tables::new(view(), &before);
    let now = desk.write("v.yaml", &(forwarding("shop/a", "a", "b") + &forwarding("shop/b", "b", "d")));
    let later = tables.update(&before, &now);
    let table = |tables: &Tables, name: &str| tables.of(&ObjectName::new("shop", name)).unwrap().clone();
    assert!(Arc::ptr_eq(&table(&tables, "a"), &table(&later, "a")));
    assert!(!Arc::ptr_eq(&table(&tables, "b"), &table(&later, "b")));
    assert!(tables.of(&ObjectName::new("shop", "c")).is_none());
}

#[test]
fn tables_are_of_the_services_the_waypoint_stands_for() {
    let other = service("shop", "b", &[80]).replace("use-waypoint: waypoint", "use-waypoint: another");
    let text = service("shop", "a", &[80]) + &other + &forwarding("shop/v", "a, b", "c");
    let tables = Tables::new(view(), &Desk::with(&text).now);
    let names: Vec<String> = tables.iter().map(|it| it.service.to_string()).collect();
    assert_eq!(names, ["shop/a"]);
}

//! Which policies are in force for what, and how they follow changes.

use std::sync::Arc;

use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, ObjectName};
use common::snapshot::{Mesh, MeshSettings, Snapshot};

use super::Asking;
use crate::authz::Policies;
use crate::routes::tests::service;

/// A mesh of files, and the policies of the waypoint `edge/waypoint` that follow it.
struct Followed {
    mesh: Mesh,
    now: Arc<Snapshot>,
    policies: Policies,
    changed: bool,
}

impl Followed {
    fn new() -> Self {
        let gateway = ObjectName::new("edge", "waypoint");
        let mesh = Mesh::new(MeshSettings::default());
        let mut made = Self { mesh, now: Arc::default(), policies: Policies::none(gateway), changed: false };
        let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: out, namespace: shop, \
                     labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: edge}}\nspec: {hosts: \
                     [out.example], addresses: [240.0.0.1], ports: [{number: 80, name: http, protocol: HTTP}], \
                     resolution: STATIC, endpoints: [{address: 192.0.2.1}]}\n";
        made.write("mesh.yaml", &(service("shop", "web", &[80]) + &service("bank", "web", &[80]) + entry));
        made.write("gateway.yaml", &gateway_of("istio-waypoint"));
        made
    }

    fn write(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let decoded = yaml::decode(&file, text.as_bytes(), &mut Names::default());
        let removals = self.mesh_keys(&file);
        let batch = Batch {
            reread: vec![file],
            upserts: decoded.stated,
            removals: if text.is_empty() { removals } else { Vec::new() },
            rejected: decoded.rejected,
            ..Batch::default()
        };
        let later = self.mesh.apply(batch);
        self.changed = self.policies.update(&self.now, &later);
        self.now = later;
    }

    /// Every policy is in the file of its name.
    fn mesh_keys(&self, file: &Arc<str>) -> Vec<common::config::Removal> {
        let all = self.now.policies().filter(|it| it.origin.file == *file);
        let key = |it: &Arc<common::snapshot::policies::PolicyEntry>| common::config::Key {
            kind: common::config::Kind::AuthorizationPolicy,
            object: it.object.clone(),
        };
        all.map(|it| common::config::Removal { file: file.clone(), key: key(it) }).collect()
    }

    /// The policies in force for a service, by name.
    fn of(&self, namespace: &str, name: &str) -> Vec<String> {
        let service = self.now.service(namespace, name).unwrap();
        let found = self.policies.of_service(&self.now, service);
        let unknown = found.unknown.map(|it| format!("unread {it}"));
        unknown
            .into_iter()
            .chain(found.sets().flat_map(|it| it.iter()).map(|it| it.key().to_string()))
            .collect()
    }
}

fn gateway_of(class: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: waypoint, namespace: edge}}\nspec: \
         {{gatewayClassName: {class}, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: \
         {{from: All}}}}}}]}}\n"
    )
}

fn attached(namespace: &str, name: &str, to: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{action: DENY, {to} rules: [{{}}]}}\n"
    )
}

const GATEWAY: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}],";
const CLASS: &str =
    "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}],";
const SERVICE: &str = "targetRefs: [{group: '', kind: Service, name: web}],";
const ENTRY: &str = "targetRef: {group: networking.istio.io, kind: ServiceEntry, name: out},";

#[test]
fn a_policy_is_in_force_for_what_it_is_attached_to_and_nothing_else() {
    for (namespace, to, expected) in [
        ("shop", SERVICE, [true, false, false]),
        ("bank", SERVICE, [false, true, false]),
        ("edge", SERVICE, [false, false, false]),
        ("shop", "targetRefs: [{group: core, kind: Service, name: web}],", [true, false, false]),
        ("shop", ENTRY, [false, false, true]),
        ("bank", ENTRY, [false, false, false]),
        // A ServiceEntry has the name of its object, not of its host, and is no Service.
        ("shop", "targetRefs: [{group: '', kind: Service, name: out}],", [false, false, false]),
        ("edge", GATEWAY, [true, true, true]),
        ("shop", GATEWAY, [false, false, false]),
        ("istio-system", CLASS, [true, true, true]),
        ("edge", CLASS, [false, false, false]),
        ("istio-system", &CLASS.replace("istio-waypoint", "ebb-waypoint"), [false, false, false]),
        ("istio-system", GATEWAY, [false, false, false]),
        // Those are for the ztunnels of the pods.
        ("shop", "", [false, false, false]),
        ("istio-system", "", [false, false, false]),
        ("shop", "selector: {matchLabels: {app: web}},", [false, false, false]),
    ] {
        let mut all = Followed::new();
        all.write("p.yaml", &attached(namespace, "p", to));
        assert!(all.now.rejected().is_empty(), "{:?}", all.now.rejected());
        let services = [("shop", "web"), ("bank", "web"), ("shop", "out.example")];
        for ((in_namespace, name), expected) in services.into_iter().zip(expected) {
            let found = all.of(in_namespace, name);
            let wanted = if expected { vec![format!("{namespace}/p")] } else { vec![] };
            assert_eq!(found, wanted, "{namespace} {to} for {in_namespace}/{name}");
        }
    }
}

#[test]
fn an_unreadable_policy_is_in_force_for_all_it_may_concern() {
    for (namespace, shop, bank) in
        [("shop", true, false), ("edge", true, true), ("istio-system", true, true), ("other", false, false)]
    {
        let mut all = Followed::new();
        all.write("p.yaml", &attached(namespace, "p", SERVICE).replace("rules", "rulez"));
        assert!(all.changed);
        let unread = vec![format!("unread AuthorizationPolicy {namespace}/p")];
        assert_eq!(all.of("shop", "web"), if shop { unread.clone() } else { vec![] }, "{namespace}");
        assert_eq!(all.of("bank", "web"), if bank { unread } else { vec![] }, "{namespace}");
        all.write("p.yaml", &attached(namespace, "p", "targetRefs: [{group: '', kind: Service, name: x}],"));
        assert!(all.changed);
        assert_eq!((all.of("shop", "web"), all.of("bank", "web")), (vec![], vec![]));
    }
}

#[test]
fn policies_that_come_go_and_turn_to_something_else_are_followed() {
    let mut all = Followed::new();
    all.write("a.yaml", &attached("shop", "a", SERVICE));
    all.write("b.yaml", &attached("shop", "b", SERVICE));
    all.write("c.yaml", &attached("edge", "c", GATEWAY));
    assert!(all.changed && !all.policies.is_empty());
    assert_eq!(all.of("shop", "web"), ["edge/c", "shop/a", "shop/b"]);
    let shared = |all: &Followed| {
        let service = all.now.service("shop", "web").unwrap();
        all.policies.attached_to(service).unwrap().iter().last().unwrap().clone()
    };
    let b = shared(&all);
    all.write("a.yaml", &attached("shop", "a", ENTRY));
    assert_eq!(all.of("shop", "web"), ["edge/c", "shop/b"]);
    assert_eq!(all.of("shop", "out.example"), ["edge/c", "shop/a"]);
    assert!(Arc::ptr_eq(&b, &shared(&all)), "what did not change is kept");
    all.write("more.yaml", &service("shop", "more", &[80]));
    assert!(!all.changed, "no policy changed");
    all.write("s.yaml", &attached("shop", "s", ""));
    assert!(!all.changed, "no policy of a waypoint changed");
    all.write("d.yaml", &attached("istio-system", "d", CLASS));
    assert_eq!(all.of("bank", "web"), ["edge/c", "istio-system/d"]);
    all.write("gateway.yaml", &gateway_of("ebb-waypoint"));
    assert!(all.changed);
    assert_eq!(all.of("bank", "web"), ["edge/c"]);
    for file in ["a.yaml", "b.yaml", "c.yaml", "d.yaml"] {
        all.write(file, "");
    }
    assert!(all.policies.is_empty());
}

const EXAMPLE: &str = include_str!("../../../../deploy/examples/policy/10-shop.yaml");

#[test]
fn the_example_does_what_its_page_says() {
    let mut all = Followed::new();
    all.write("orders.yaml", &service("shop", "orders", &[80]));
    all.write("10-shop.yaml", EXAMPLE);
    assert!(all.now.rejected().is_empty(), "{:?}", all.now.rejected());
    let orders = all.now.service("shop", "orders").unwrap();
    let found = all.policies.of_service(&all.now, orders);
    let identity = |account: &str| format!("spiffe://cluster.local/ns/{account}");
    let verdict = |account: &str, method: &str, path: &str| {
        let asking = Asking::default().from(Some(&identity(account))).method(method).path(path);
        let asking = asking.header("x-purpose", "audit-7").at("192.0.2.1");
        asking.ask(|it| (found.judge(it, &[]).is_ok(), found.would_refuse(it).is_some())).unwrap()
    };
    const FRONTEND: &str = "shop/sa/frontend";
    for (account, method, path, expected) in [
        (FRONTEND, "GET", "/orders/7", (true, false)),
        (FRONTEND, "GET", "/orders/7/lines", (false, false)),
        (FRONTEND, "POST", "/orders", (true, true)),
        (FRONTEND, "DELETE", "/orders/7", (false, false)),
        (FRONTEND, "GET", "/orders/debug", (false, false)),
        ("ops/sa/robot", "GET", "/internal/state", (true, false)),
        ("bank/sa/web", "GET", "/orders/7", (false, false)),
    ] {
        assert_eq!(verdict(account, method, path).0, expected.0, "{account} {method} {path}");
        if expected.0 {
            assert_eq!(verdict(account, method, path).1, expected.1, "{account} {method} {path}");
        }
    }
}

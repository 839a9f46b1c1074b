//! RateLimits as an operator would write them, and requests to ask about.

use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::Snapshot;
use common::spiffe::Identity;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{CalledFor, Caller, Limits, Outcome};
use crate::routes::RequestFacts;
use crate::routes::tests::Desk;

const SERVICES: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  clusterIP: \
                        10.96.0.1\n  ports: [{name: http, port: 80}, {name: other, port: 81}]\n---\napiVersion: \
                        networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: entry, namespace: shop}\nspec:\n  \
                        hosts: [api.example.com]\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: \
                        HTTP}]\n  endpoints: [{address: 192.0.2.1}]\n";

/// A RateLimit in a namespace, with the targets and limits that are stated.
fn stated((namespace, name): (&str, &str), targets: &str, limits: &str, more: &str) -> String {
    format!(
        "---\napiVersion: gateway.ebb.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{targets}], limits: [{limits}]{more}}}\n"
    )
}

const WEB: &str = "{kind: Service, name: web}";

/// Somebody who asks, of the waypoint `edge/waypoint`.
struct Asking {
    limits: Limits,
    mesh: Arc<Snapshot>,
    headers: HeaderMap,
    path: &'static str,
    identity: Option<Identity>,
    address: &'static str,
}

impl Asking {
    fn of(manifests: &str) -> Self {
        let desk = Desk::with(&(SERVICES.to_owned() + manifests));
        assert!(desk.now.rejected().is_empty(), "{:?}", desk.now.rejected());
        let mut limits = Limits::none(ObjectName::new("edge", "waypoint"));
        limits.update(&Snapshot::default(), &desk.now);
        Self {
            limits,
            mesh: desk.now.clone(),
            headers: HeaderMap::new(),
            path: "/",
            identity: Some(Identity::new("cluster.local", "shop", "a")),
            address: "10.0.0.1",
        }
    }

    fn ask(&self, at: (&str, u16), route: Option<(&ObjectName, &str)>) -> Outcome {
        let service = self.mesh.service("shop", at.0);
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: "web",
            path: self.path,
            query: None,
            headers: &self.headers,
            port: at.1,
            source: None,
            claims: None,
        };
        let caller = Caller { identity: self.identity.as_ref(), address: self.address.parse().unwrap() };
        let called = CalledFor { services: service.into_iter().map(|it| (it, at.1)).collect(), route };
        self.limits.ask(&called, &facts, &caller, 1_000_000_000_000)
    }

    /// How many of five are let through.
    fn admitted(&self, at: (&str, u16)) -> usize {
        (0..5).filter(|_| matches!(self.ask(at, None), Outcome::Admitted(_))).count()
    }
}

#[test]
fn a_limit_counts_what_it_is_attached_to_and_nothing_else() {
    let entry = "{group: networking.istio.io, kind: ServiceEntry, name: entry}";
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}";
    for (namespace, target, expected) in [
        ("shop", WEB, [2, 0, 5]),
        ("shop", "{kind: Service, name: web, sectionName: http}", [2, 5, 5]),
        ("shop", "{kind: Service, name: other}", [5, 5, 5]),
        ("edge", WEB, [5, 5, 5]),
        ("shop", entry, [5, 5, 2]),
        ("edge", gateway, [2, 0, 0]),
        ("shop", gateway, [5, 5, 5]),
    ] {
        let asking = Asking::of(&stated((namespace, "l"), target, "{requests: 2, per: 1h}", ""));
        let told = [("web", 80), ("web", 81), ("api.example.com", 80)].map(|at| asking.admitted(at));
        assert_eq!(told, expected, "{namespace} {target}");
    }
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: slow}";
    let asking = Asking::of(&stated(("shop", "l"), route, "{requests: 1, per: 1h}", ""));
    let (ours, other) = (ObjectName::new("shop", "r"), ObjectName::new("market", "r"));
    for (route, expected) in [
        (Some((&ours, "fast")), true),
        (Some((&other, "slow")), true),
        (None, true),
        (Some((&ours, "slow")), true),
        (Some((&ours, "slow")), false),
    ] {
        assert_eq!(matches!(asking.ask(("web", 80), route), Outcome::Admitted(_)), expected, "{route:?}");
    }
}

#[test]
fn requests_are_counted_apart_by_what_is_stated() {
    let apart = |by: &str| {
        let mut asking =
            Asking::of(&stated(("shop", "l"), WEB, &format!("{{requests: 2, per: 1h, by: [{by}]}}"), ""));
        let mut counts = vec![asking.admitted(("web", 80))];
        asking.address = "10.0.0.2";
        counts.push(asking.admitted(("web", 80)));
        asking.identity = Some(Identity::new("cluster.local", "shop", "b"));
        counts.push(asking.admitted(("web", 80)));
        asking.identity = Some(Identity::new("cluster.local", "market", "b"));
        counts.push(asking.admitted(("web", 80)));
        asking.identity = None;
        counts.push(asking.admitted(("web", 80)));
        asking.headers.insert(HeaderName::from_static("x-tenant"), HeaderValue::from_static("t"));
        counts.push(asking.admitted(("web", 80)));
        counts
    };
    assert_eq!(apart("{type: SourceAddress}"), [2, 2, 0, 0, 0, 0]);
    assert_eq!(apart("{type: SourcePrincipal}"), [2, 0, 2, 2, 2, 0]);
    assert_eq!(apart("{type: SourceNamespace}"), [2, 0, 0, 2, 2, 0]);
    assert_eq!(apart("{type: Header, name: X-Tenant}"), [2, 0, 0, 0, 0, 2]);
    assert_eq!(apart("{type: SourceNamespace}, {type: Header, name: x-tenant}"), [2, 0, 0, 2, 2, 2]);
}

#[test]
fn what_one_limit_refuses_no_other_has_counted() {
    let limits =
        "{name: all, requests: 4, per: 1h}, {requests: 1, per: 1h, matches: [{path: {value: /slow}}]}";
    let mut asking = Asking::of(&stated(("shop", "l"), WEB, limits, ""));
    asking.path = "/slow/x";
    assert_eq!(asking.admitted(("web", 80)), 1);
    let Outcome::Refused { limit, told: Some(told), wait } = asking.ask(("web", 80), None) else { panic!() };
    assert_eq!((&*limit, told.limit, told.remaining, wait.as_secs()), ("shop/l[1]", 1, 0, 3600));
    asking.path = "/slower";
    let Outcome::Admitted(Some(told)) = asking.ask(("web", 80), None) else { panic!() };
    assert_eq!((told.limit, told.remaining), (4, 2), "what was refused did not count");
    assert_eq!(asking.admitted(("web", 80)), 2);
    let Outcome::Refused { limit, .. } = asking.ask(("web", 80), None) else { panic!() };
    assert_eq!(limit, "shop/l[all]");
}

#[test]
fn a_dry_run_lets_through_and_headers_can_be_left_out() {
    let dry = Asking::of(&stated(("shop", "l"), WEB, "{requests: 1, per: 1h}", ", dryRun: true"));
    assert_eq!(dry.admitted(("web", 80)), 5);
    assert_eq!(dry.ask(("web", 80), None), Outcome::Admitted(None));
    let silent = Asking::of(&stated(("shop", "l"), WEB, "{requests: 1, per: 1h}", ", responseHeaders: Omit"));
    assert_eq!(silent.ask(("web", 80), None), Outcome::Admitted(None));
    assert!(matches!(silent.ask(("web", 80), None), Outcome::Refused { told: None, .. }));
}

#[test]
fn buckets_outlast_a_change_of_anything_but_their_limit() {
    let of = |targets: &str, second: u32| {
        stated(
            ("shop", "l"),
            targets,
            &format!(
                "{{requests: 2, per: 1h}}, {{requests: {second}, per: 1h, matches: [{{path: {{value: /x}}}}]}}"
            ),
            "",
        )
    };
    let mut asking = Asking::of(&of(WEB, 9));
    assert_eq!(asking.admitted(("web", 80)), 2);
    for (manifest, expected) in [
        (of("{kind: Service, name: web}, {kind: Service, name: other}", 9), 0),
        (of(WEB, 8), 0),
        (of(WEB, 8).replace("requests: 2", "requests: 3"), 3),
        (String::new(), 5),
    ] {
        let later = Desk::with(&(SERVICES.to_owned() + &manifest)).now.clone();
        assert!(asking.limits.update(&asking.mesh, &later));
        asking.mesh = later;
        assert_eq!(asking.admitted(("web", 80)), expected, "{manifest}");
    }
    assert!(asking.limits.is_empty() && !asking.limits.update(&asking.mesh, &asking.mesh.clone()));
}

//! Routes of the Gateway API: in which order, for whom, and to where.

use common::config::ObjectName;

use super::{Desk, ask, name, service, virtual_service};
use crate::routes::{Flaw, Missing, ServiceRoutes};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: reviews}]";

/// A route of a kind, `spec` as it is written below `spec`.
pub(super) fn route(kind: &str, object: &str, created: u32, spec: &str) -> String {
    let (namespace, name) = object.split_once('/').unwrap();
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         creationTimestamp: \"2026-01-01T00:00:{created:02}Z\"\nspec:\n{spec}"
    )
}

/// An HTTPRoute of the service `reviews`: a rule a line, `NAME: MATCH`.
fn rules(object: &str, created: u32, parent: &str, lines: &str) -> String {
    let mut spec = format!("{parent}\nrules:\n");
    for line in lines.lines() {
        let (name, matched) = line.trim().split_once(": ").unwrap();
        spec += &format!(
            "- {{name: {name}, matches: [{{{matched}}}], backendRefs: [{{name: reviews, port: 80}}]}}\n"
        );
    }
    route("HTTPRoute", object, created, &spec)
}

fn desk(text: &str) -> Desk {
    Desk::with(&(service("shop", "reviews", &[80, 81]) + text))
}

/// The last part of the name of the rule that a request falls under.
fn found(routes: &ServiceRoutes, request: &str) -> String {
    name(&ask(routes, 80, request)).rsplit('.').next().unwrap_or_default().to_owned()
}

#[test]
fn a_prefix_is_one_of_segments() {
    for (prefix, path, expected) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1", "/v1/x", true),
        ("/v1", "/v10", false),
        ("/v1", "/v", false),
        ("/v1/", "/v1", true),
        ("/v1/", "/v1/x", true),
        ("/v1/", "/v10", false),
        ("/", "/", true),
        ("/", "/x", true),
        ("/caf%c3%a9", "/caf%C3%A9/x", true),
    ] {
        let stated = rules("shop/r", 0, PARENT, &format!("hit: path: {{value: '{prefix}'}}"));
        let told = found(&desk(&stated).routes("reviews"), &format!("GET {path}"));
        assert_eq!(told == "hit", expected, "{prefix} {path}");
    }
}

#[test]
fn the_most_particular_match_decides_wherever_it_is_stated() {
    let stated = rules(
        "shop/a",
        5,
        PARENT,
        "root: path: {value: /}\n\
         regex: path: {type: RegularExpression, value: '/a/.*'}\n\
         short: path: {value: /a}\n\
         method: path: {value: /m}, method: GET\n\
         one: path: {value: /h}, headers: [{name: x-a, value: '1'}]\n\
         query: path: {value: /h}, queryParams: [{name: q, value: '1'}]",
    ) + &rules(
        "shop/b",
        9,
        PARENT,
        "long: path: {value: /a/b}\n\
         exact: path: {type: Exact, value: /a/b/c}\n\
         headers: path: {value: /m}, headers: [{name: x-a, value: '1'}, {name: x-b, value: '2'}]\n\
         two: path: {value: /h}, headers: [{name: x-a, value: '1'}, {name: x-b, value: '2'}]\n\
         bare: path: {value: /h}",
    );
    let desk = desk(&stated);
    let routes = desk.routes("reviews");
    for (request, expected) in [
        ("GET /", "root"),
        ("GET /a", "short"),
        ("GET /a/x", "short"),
        ("GET /a/b/x", "long"),
        ("GET /a/b/c", "exact"),
        ("GET /m\nx-a: 1\nx-b: 2", "method"),
        ("POST /m\nx-a: 1\nx-b: 2", "headers"),
        ("GET /h?q=1", "query"),
        ("GET /h?q=1\nx-a: 1", "one"),
        ("GET /h?q=1\nx-a: 1\nx-b: 2", "two"),
        ("GET /h", "bare"),
    ] {
        assert_eq!(found(&routes, request), expected, "{request}");
    }
}

#[test]
fn among_equals_the_oldest_route_decides_then_its_name_then_the_first_rule() {
    let twice = |object: &str, created, name: &str| {
        rules(object, created, PARENT, &format!("{name}1: path: {{value: /}}\n{name}2: path: {{value: /}}"))
    };
    for (stated, expected) in [
        (twice("shop/a", 5, "a") + &twice("shop/b", 2, "b"), "b1"),
        (twice("shop/b", 5, "b") + &twice("shop/a", 5, "a"), "a1"),
        (twice("shop/a", 5, "a"), "a1"),
    ] {
        assert_eq!(found(&desk(&stated).routes("reviews"), "GET /"), expected);
    }
}

#[test]
fn a_request_that_no_rule_takes_has_no_route() {
    let stated = rules("shop/a", 0, PARENT, "a: path: {value: /a}");
    assert_eq!(found(&desk(&stated).routes("reviews"), "GET /b"), "404");
}

#[test]
fn a_route_attaches_to_the_ports_that_it_names() {
    let at = |what: &str| format!("parentRefs: [{{group: '', kind: Service, name: reviews, {what}}}]");
    for (what, on_80, on_81) in [
        ("port: 81", false, true),
        ("sectionName: http-80", true, false),
        ("sectionName: http-80, port: 81", false, false),
        ("port: 82", false, false),
        ("port: 81}, {group: '', kind: Service, name: reviews, port: 80", true, true),
    ] {
        let desk = desk(&rules("shop/r", 0, &at(what), "r: path: {value: /}"));
        let routes = desk.routes("reviews");
        let told = [80, 81].map(|port| name(&ask(&routes, port, "GET /")) != "service");
        assert_eq!(told, [on_80, on_81], "{what}");
    }
}

#[test]
fn a_route_of_another_namespace_is_for_callers_of_that_namespace_alone() {
    let parent = "parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop}]";
    let to = "rules: [{name: consumer, matches: [{path: {value: /a}}], backendRefs: [{name: reviews, namespace: shop, port: 80}]}]";
    let stated = route("HTTPRoute", "client/r", 0, &format!("{parent}\n{to}"))
        + &rules("shop/r", 0, PARENT, "producer: path: {value: /}");
    let desk = desk(&stated);
    let routes = desk.routes("reviews");
    let names = |caller: Option<&str>| -> Vec<String> {
        let rules = routes.port_for(80, caller).http.rules();
        rules.iter().map(|it| it.name().to_string()).collect()
    };
    assert_eq!(names(None), ["producer"]);
    assert_eq!(names(Some("shop")), ["producer"]);
    assert_eq!(names(Some("client")), ["consumer"], "and no other rule");
}

#[test]
fn the_closest_says_where_requests_go() {
    const GATEWAY: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: waypoint, namespace: \
        edge}\nspec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - {name: mesh, port: 15008, protocol: HBONE, \
        allowedRoutes: {namespaces: {from: All}}}\n";
    let of_gateway = rules("edge/g", 0, "parentRefs: [{name: waypoint}]", "gateway: path: {value: /}");
    let of_service = rules("shop/r", 0, PARENT, "direct: path: {value: /}");
    let stated = virtual_service(
        "shop/v",
        0,
        "hosts: [reviews]\nhttp:\n- name: virtual\n  route: [{destination: {host: reviews}}]",
    );
    for (text, expected) in [
        (of_gateway.clone(), "gateway"),
        (of_gateway.clone() + &stated, "virtual"),
        (of_gateway.clone() + &of_service, "direct"),
        (of_service.clone() + &stated, "direct"),
        (of_gateway.replace("name: waypoint", "name: other"), "service-itself"),
    ] {
        let desk = desk(&(GATEWAY.to_owned() + &text));
        let routes = desk.routes("reviews");
        let told = name(&ask(&routes, 80, "GET /"));
        let told = if told == "service" { "service-itself" } else { told.rsplit('.').next().unwrap() };
        assert_eq!(told, expected, "{text}");
    }
    let both = desk(&(of_service + &stated));
    let problems = both.routes("reviews").problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0]
            .to_string()
            .contains("VirtualService shop/v: of no effect, because HTTPRoute shop/r attaches"),
        "{problems:?}"
    );
    let closed = desk(&(GATEWAY.replace("from: All", "from: Same") + &of_gateway.replace("edge/g", "x/g")));
    assert!(closed.routes("reviews").attached.len() <= 1);
    let foreign =
        rules("other/g", 0, "parentRefs: [{name: waypoint, namespace: edge}]", "gateway: path: {value: /}");
    let closed = desk(&(GATEWAY.replace("from: All", "from: Same") + &foreign));
    assert_eq!(
        name(&ask(&closed.routes("reviews"), 80, "GET /")),
        "service",
        "its listener lets nobody else"
    );
}

#[test]
fn hostnames_count_at_a_gateway_the_closest_first() {
    const GATEWAY: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: waypoint, namespace: \
        edge}\nspec:\n  gatewayClassName: istio-waypoint\n  listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n";
    let hosts = |hosts: &str| format!("parentRefs: [{{name: waypoint}}]\nhostnames: [{hosts}]");
    let text = rules("edge/a", 0, &hosts("'*.example.com'"), "wide: path: {type: Exact, value: /x}")
        + &rules("edge/b", 1, &hosts("a.example.com, '*.b.example.com'"), "close: path: {value: /}");
    let desk = desk(&(GATEWAY.to_owned() + &text));
    let routes = desk.routes("reviews");
    for (request, expected) in [
        ("GET /x\nhost: a.example.com", "close"),
        ("GET /x\nhost: A.Example.com:80", "close"),
        ("GET /x\nhost: z.b.example.com", "close"),
        ("GET /x\nhost: z.example.com", "wide"),
        ("GET /y\nhost: z.example.com", "404"),
        ("GET /x\nhost: example.com", "404"),
    ] {
        assert_eq!(found(&routes, request), expected, "{request}");
    }
}

#[test]
fn a_call_of_grpc_falls_under_grpc_routes_first_and_nothing_else_does() {
    let text = route(
        "GRPCRoute",
        "shop/g",
        9,
        &format!(
            "{PARENT}\nrules:\n- {{name: all, backendRefs: [{{name: reviews, port: 80}}]}}\n- {{name: one, matches: [{{method: {{service: a.B, method: C}}}}], backendRefs: [{{name: reviews, port: 80}}]}}"
        ),
    ) + &rules("shop/h", 0, PARENT, "http: path: {type: Exact, value: /a.B/C}");
    let desk = desk(&text);
    let routes = desk.routes("reviews");
    for (request, expected) in [
        ("POST /a.B/C\ncontent-type: application/grpc", "one"),
        ("POST /a.B/D\ncontent-type: application/grpc+proto", "all"),
        ("POST /a.B/C\ncontent-type: application/json", "http"),
        ("POST /a.B/D\ncontent-type: application/json", "404"),
    ] {
        assert_eq!(found(&routes, request), expected, "{request}");
    }
}

#[test]
fn a_backend_that_is_missing_is_said_to_be_and_why() {
    let to = |backend: &str| {
        route("HTTPRoute", "shop/r", 0, &format!("{PARENT}\nrules: [{{backendRefs: [{backend}]}}]"))
    };
    let grant = |kind: &str, namespace: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: \
             data}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {namespace}}}], to: \
             [{{group: '', kind: Service}}]}}\n"
        )
    };
    let other = service("data", "store", &[90]);
    let far = "{name: store, namespace: data, port: 90}";
    for (text, expected) in [
        (to("{name: reviews, port: 80}"), None),
        (to("{name: reviews, port: 99}"), Some(Missing::Port)),
        (to("{name: ratings, port: 80}"), Some(Missing::Service)),
        (to(far), Some(Missing::Grant)),
        (to(far) + &grant("HTTPRoute", "shop"), None),
        (to(far) + &grant("HTTPRoute", "other"), Some(Missing::Grant)),
        (to(far) + &grant("GRPCRoute", "shop"), Some(Missing::Grant)),
        (to("{group: x.example, kind: Thing, name: z}"), Some(Missing::Kind)),
        (
            to(
                "{group: networking.istio.io, kind: Hostname, name: reviews.shop.svc.cluster.local, port: 80}",
            ),
            None,
        ),
    ] {
        let desk = desk(&(other.clone() + &text));
        let routes = desk.routes("reviews");
        let rule = &routes.port(80).http.rules()[0];
        let target = rule.route.forwards().next().unwrap().target;
        assert_eq!(target.missing, expected, "{text}");
        assert_eq!(target.service.is_none(), expected.is_some());
        assert_eq!(routes.problems.len(), usize::from(expected.is_some()), "{:?}", routes.problems);
    }
}

#[test]
fn a_fault_filter_is_found_in_the_routes_namespace() {
    let text = route(
        "HTTPRoute",
        "shop/r",
        0,
        &format!(
            "{PARENT}\nrules: [{{filters: [{{type: ExtensionRef, extensionRef: {{group: gateway.ebb.dev, kind: HTTPFaultFilter, name: f}}}}], backendRefs: [{{name: reviews, port: 80}}]}}]"
        ),
    );
    let filter = |namespace: &str| {
        format!(
            "---\napiVersion: gateway.ebb.dev/v1alpha1\nkind: HTTPFaultFilter\nmetadata: {{name: f, namespace: {namespace}}}\nspec: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}\n"
        )
    };
    for (text, there) in
        [(text.clone() + &filter("shop"), true), (text.clone() + &filter("other"), false), (text, false)]
    {
        let desk = desk(&text);
        let routes = desk.routes("reviews");
        let route = &routes.port(80).http.rules()[0].route;
        assert_eq!(route.fault().abort.is_some(), there);
        let missing = (!there).then(|| ObjectName::new("shop", "f"));
        assert_eq!(route.missing_filter(), missing.as_ref());
    }
}

#[test]
fn a_backend_of_its_own_rewrite_and_copies_gets_them_and_no_other_does() {
    let spec = format!(
        "{PARENT}\nrules:\n- matches: [{{path: {{value: /a}}}}]\n  filters:\n  - {{type: URLRewrite, urlRewrite: {{hostname: rule.x, \
         path: {{type: ReplacePrefixMatch, replacePrefixMatch: /r}}}}}}\n  - {{type: RequestMirror, requestMirror: {{backendRef: \
         {{name: reviews, port: 80}}}}}}\n  backendRefs:\n  - name: reviews\n    port: 80\n    filters:\n    - {{type: URLRewrite, \
         urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /own}}}}}}\n    - {{type: RequestMirror, requestMirror: \
         {{backendRef: {{name: reviews, port: 81}}}}}}\n    - {{type: RequestMirror, requestMirror: {{backendRef: {{name: gone, port: \
         80}}}}}}\n  - {{name: reviews, port: 81}}\n"
    );
    let desk = desk(&route("HTTPRoute", "shop/r", 0, &spec));
    let routes = desk.routes("reviews");
    assert!(routes.problems.iter().any(|it| it.to_string().contains("gone")), "{:?}", routes.problems);
    let rule = &routes.port(80).http.rules()[0];
    let headers = http::HeaderMap::new();
    let facts = crate::routes::RequestFacts {
        method: "GET",
        scheme: "http",
        authority: "asked",
        path: "/a/b",
        query: None,
        headers: &headers,
        port: 80,
        source: None,
        claims: None,
    };
    let found: Vec<_> = rule
        .route
        .forwards()
        .map(|chosen| {
            let made = crate::stages::transform::rewrite(rule, &chosen, &facts).unwrap();
            let mut rng = rand::rng();
            let copies = crate::stages::mirror::fires(&rule.route, Some(&chosen), &mut rng);
            let ports: Vec<_> = copies.iter().map(|it| (it.service.is_some(), it.port(0))).collect();
            (made.target.unwrap(), made.authority.unwrap().to_string(), ports)
        })
        .collect();
    let expected = [
        ("/own/b".to_owned(), "rule.x".to_owned(), vec![(true, 80), (true, 81), (false, 0)]),
        ("/r/b".to_owned(), "rule.x".to_owned(), vec![(true, 80)]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn connections_take_the_closest_server_name_and_then_the_tcp_route() {
    let tls = |object: &str, host: &str| {
        route(
            "TLSRoute",
            object,
            0,
            &format!(
                "{PARENT}\nhostnames: ['{host}']\nrules: [{{backendRefs: [{{name: reviews, port: 80}}]}}]"
            ),
        )
    };
    let text = tls("shop/wide", "*.example")
        + &tls("shop/close", "a.example")
        + &route(
            "TCPRoute",
            "shop/tcp",
            0,
            &format!("{PARENT}\nrules: [{{backendRefs: [{{name: reviews, port: 81}}]}}]"),
        );
    let desk = desk(&text);
    let routes = desk.routes("reviews");
    let found = |server_name: Option<&str>| {
        let facts = crate::routes::ConnectionFacts {
            server_name,
            destination: [10, 0, 0, 1].into(),
            port: 80,
            source: None,
        };
        routes.port(80).connections.find(&facts).map(|it| it.route.stated_by().name.to_string())
    };
    assert_eq!(found(Some("a.example")).as_deref(), Some("close"));
    assert_eq!(found(Some("b.example")).as_deref(), Some("wide"));
    assert_eq!(found(Some("other")).as_deref(), Some("tcp"));
    assert_eq!(found(None).as_deref(), Some("tcp"));
}

#[test]
fn what_takes_the_place_of_a_route_that_has_somebody_asked_is_told() {
    const FILTER: &str = "filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: auth, port: 9}, grpc: {}}}]";
    const FOREIGN: &str = "parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop}]";
    const GATEWAY: &str = "parentRefs: [{name: waypoint, namespace: edge}]";
    let plain = |object: &str, parent: &str| rules(object, 0, parent, "all: path: {value: /}");
    let asks = |object: &str, parent: &str| {
        plain(object, parent).replace("matches:", &format!("{FILTER}, matches:"))
    };
    let at = |port: u16| PARENT.replace("}]", &format!(", port: {port}}}]"));
    let at_foreign = |port: u16| FOREIGN.replace("}]", &format!(", port: {port}}}]"));
    let waypoint = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: waypoint, namespace: edge}\n\
                    spec:\n  gatewayClassName: istio-waypoint\n  listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n";
    let of_gateway = asks("edge/g", GATEWAY) + waypoint;
    let stated =
        virtual_service("shop/v", 0, "hosts: [reviews]\nhttp:\n- route: [{destination: {host: reviews}}]");
    let bytes = route(
        "TCPRoute",
        "client/t",
        0,
        &format!("{FOREIGN}\nrules: [{{backendRefs: [{{name: reviews, namespace: shop, port: 80}}]}}]"),
    );
    for (text, expected) in [
        (asks("shop/p", PARENT), &[][..]),
        (plain("shop/p", PARENT) + &plain("client/c", FOREIGN), &[]),
        (
            asks("shop/p", PARENT) + &plain("client/c", FOREIGN),
            &["HTTPRoute client/c: callers of its namespace"],
        ),
        (asks("shop/p", PARENT) + &asks("client/c", FOREIGN), &[]),
        (asks("shop/p", PARENT) + &bytes, &[]),
        (asks("shop/p", &at(80)) + &plain("client/c", &at_foreign(81)), &[]),
        (
            asks("shop/p", &at(81)) + &plain("client/c", &at_foreign(81)),
            &["HTTPRoute client/c: callers of its"],
        ),
        (of_gateway.clone(), &[]),
        (of_gateway.clone() + &plain("shop/p", PARENT), &["HTTPRoute shop/p: callers of the service"]),
        (of_gateway.clone() + &plain("client/c", FOREIGN), &["HTTPRoute client/c: callers of its namespace"]),
        (of_gateway.clone() + &asks("shop/p", PARENT), &[]),
        (of_gateway.clone() + &stated, &["VirtualService shop/v: callers of the service"]),
        (of_gateway + &stated + &asks("shop/p", PARENT), &[]),
    ] {
        let problems = desk(&text).routes("reviews").problems;
        let told = problems.iter().filter(|it| it.flaw == Flaw::Unasked);
        let told: Vec<String> = told.map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{told:#?}\n{text}");
        for (told, expected) in told.iter().zip(expected) {
            let by = "not asked about as HTTPRoute";
            assert!(told.starts_with(expected) && told.contains(by) && told.contains("CUSTOM"), "{told}");
        }
    }
}

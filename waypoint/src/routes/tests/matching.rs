use common::snapshot::Snapshot;
use http::HeaderMap;

use super::{Desk, ask, name, service, virtual_service};
use crate::routes::{Found, RequestFacts, ServiceRoutes};

/// A service with one route, of this one match; named `r`.
fn matching(stated: &str) -> ServiceRoutes {
    let spec = format!(
        "hosts: [reviews]\nhttp:\n- name: r\n  match: [{{{stated}}}]\n  directResponse: {{status: 200}}"
    );
    let text = service("shop", "reviews", &[80]) + &virtual_service("shop/v", 0, &spec);
    Desk::with(&text).routes("reviews")
}

#[test]
fn a_match_holds_when_everything_in_it_does() {
    for (stated, request, expected) in [
        ("uri: {exact: /a}", "GET /a?b=/c", true),
        ("uri: {exact: /a}", "GET /a/", false),
        ("uri: {exact: /a}", "GET /A", false),
        ("uri: {exact: /a}, ignoreUriCase: true", "GET /A", true),
        ("uri: {prefix: /v1}", "GET /v10", true),
        ("uri: {prefix: /v1}", "GET /v", false),
        ("uri: {prefix: /v1}, ignoreUriCase: true", "GET /V1/x", true),
        ("uri: {regex: '/v[0-9]+'}", "GET /v12", true),
        ("uri: {regex: '/v[0-9]+'}", "GET /v12/x", false),
        ("uri: {exact: /caf%c3%a9}", "GET /caf%C3%A9", true),
        ("uri: {prefix: '/%7Ea/{x'}", "GET /~a/%7Bx", true),
        ("method: {exact: GET}", "GET /", true),
        ("method: {exact: GET}", "POST /", false),
        ("method: {exact: GET}", "get /", false),
        ("method: {regex: 'GET|HEAD'}", "HEAD /", true),
        ("scheme: {exact: http}", "GET /", true),
        ("scheme: {exact: https}", "GET /", false),
        ("authority: {exact: reviews}", "GET /\nhost: reviews", true),
        ("authority: {exact: reviews}", "GET /\nhost: reviews:80", false),
        ("authority: {prefix: rev}", "GET /\nhost: reviews:80", true),
        ("headers: {x-a: {exact: b}}", "GET /\nx-a: b", true),
        ("headers: {x-a: {exact: b}}", "GET /\nx-a: c", false),
        ("headers: {x-a: {exact: b}}", "GET /", false),
        ("headers: {x-a: {exact: 'b,c'}}", "GET /\nx-a: b\nx-a: c", false),
        ("headers: {x-a: {exact: b}}", "GET /\nx-a: b\nx-a: c", true),
        ("headers: {x-a: {exact: c}}", "GET /\nx-a: b\nx-a: c", true),
        ("headers: {x-a: {regex: 'c.*'}}", "GET /\nx-a: b\nx-a: cc", true),
        ("headers: {x-a: {exact: 'b,c'}}", "GET /\nx-a: b,c", true),
        ("headers: {x-a: {exact: ''}}", "GET /\nx-a: ", true),
        ("headers: {x-a: {prefix: b}}", "GET /\nx-a: bc", true),
        ("headers: {x-a: {regex: 'b.*'}}", "GET /\nx-a: b\u{e9}", true),
        ("headers: {x-a: {}}", "GET /\nx-a: ", true),
        ("headers: {x-a: {}}", "GET /", false),
        ("headers: {x-a: {regex: '*'}}", "GET /\nx-a: anything", true),
        ("headers: {x-a: {regex: '*'}}", "GET /", false),
        ("headers: {X-A: {exact: b}}", "GET /\nx-a: b", true),
        ("headers: {'@request.auth.claims[a]': {exact: b}}", "GET /\nx-a: b", false),
        ("withoutHeaders: {x-a: {exact: b}}", "GET /", true),
        ("withoutHeaders: {x-a: {exact: b}}", "GET /\nx-a: b", false),
        ("withoutHeaders: {x-a: {exact: b}}", "GET /\nx-a: c", true),
        ("withoutHeaders: {x-a: {exact: b}}", "GET /\nx-a: c\nx-a: b", false),
        ("withoutHeaders: {x-a: {exact: 'c,b'}}", "GET /\nx-a: c\nx-a: b", true),
        ("withoutHeaders: {x-a: {exact: ''}}", "GET /", false),
        ("withoutHeaders: {x-a: {regex: '.*'}}", "GET /", false),
        ("withoutHeaders: {x-a: {}}", "GET /", true),
        ("withoutHeaders: {x-a: {}}", "GET /\nx-a: ", false),
        ("queryParams: {a: {exact: b}}", "GET /?a=b", true),
        ("queryParams: {a: {exact: b}}", "GET /?x&a=b&a=c", true),
        ("queryParams: {a: {exact: b}}", "GET /?a=c&a=b", false),
        ("queryParams: {a: {exact: b}}", "GET /", false),
        ("queryParams: {a: {prefix: b}}", "GET /?a=bc", true),
        ("queryParams: {a: {regex: '[0-9]+'}}", "GET /?a=12", true),
        ("queryParams: {a: {}}", "GET /?a", true),
        ("queryParams: {a: {}}", "GET /?b=a", false),
        ("uri: {prefix: /a}, method: {exact: PUT}, headers: {x-a: {}}", "PUT /a\nx-a: b", true),
        ("uri: {prefix: /a}, method: {exact: PUT}, headers: {x-a: {}}", "PUT /b\nx-a: b", false),
        ("uri: {prefix: /a}, method: {exact: PUT}, headers: {x-a: {}}", "GET /a\nx-a: b", false),
        ("uri: {prefix: /a}, method: {exact: PUT}, headers: {x-a: {}}", "PUT /a", false),
        ("sourceLabels: {app: web}", "GET /", false),
        ("sourceNamespace: shop", "GET /", false),
    ] {
        let found = name(&ask(&matching(stated), 80, request));
        assert_eq!(found, if expected { "r" } else { "404" }, "{stated} of {request}");
    }
}

#[test]
fn the_source_is_the_workload_that_calls() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, labels: {app: web, tier: front}}\n\
               spec: {serviceAccountName: web, nodeName: n}\nstatus: {phase: Running, podIP: 10.0.0.1}\n";
    let mesh: std::sync::Arc<Snapshot> = Desk::with(pod).now;
    let web = mesh.workload("Kubernetes//Pod/shop/p").unwrap();
    let headers = HeaderMap::new();
    for (stated, expected) in [
        ("sourceLabels: {app: web}", true),
        ("sourceLabels: {app: web, tier: front}", true),
        ("sourceLabels: {app: web, tier: back}", false),
        ("sourceLabels: {app: web, other: ''}", false),
        ("sourceNamespace: shop", true),
        ("sourceNamespace: other", false),
        ("sourceLabels: {app: web}, sourceNamespace: other", false),
    ] {
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: "reviews",
            path: "/",
            query: None,
            headers: &headers,
            port: 80,
            source: Some(web),
            claims: None,
        };
        let routes = matching(stated);
        let found = matches!(routes.port(80).http.find(&facts), Found::Rule(_));
        assert_eq!(found, expected, "{stated}");
    }
}

#[test]
fn a_claim_is_of_a_verified_token_and_of_nothing_else() {
    let claims = serde_json::json!({
        "sub": "me", "groups": ["dev", "ops"], "deep": {"er": {"est": "x"}}, "scope": ["read"], "age": 41, "a.b": "dots",
    });
    for (stated, expected) in [
        ("headers: {'@request.auth.claims.sub': {exact: me}}", true),
        ("headers: {'@request.auth.claims[sub]': {prefix: m}}", true),
        ("headers: {'@request.auth.claims[sub]': {}}", true),
        ("headers: {'@request.auth.claims[sub]': {exact: you}}", false),
        ("headers: {'@request.auth.claims[groups]': {exact: ops}}", true),
        ("headers: {'@request.auth.claims[groups]': {regex: 'd.*'}}", true),
        ("headers: {'@request.auth.claims[groups]': {exact: other}}", false),
        ("headers: {'@request.auth.claims[deep][er][est]': {exact: x}}", true),
        ("headers: {'@request.auth.claims.deep.er.est': {exact: x}}", true),
        ("headers: {'@request.auth.claims[deep][er]': {exact: x}}", false),
        ("headers: {'@request.auth.claims[sub][er]': {exact: me}}", false),
        ("headers: {'@request.auth.claims[a.b]': {exact: dots}}", true),
        ("headers: {'@request.auth.claims[age]': {exact: '41'}}", false),
        ("headers: {'@request.auth.claims[none]': {}}", false),
        ("withoutHeaders: {'@request.auth.claims[sub]': {exact: me}}", false),
        ("withoutHeaders: {'@request.auth.claims[none]': {exact: x}}", true),
    ] {
        let headers = HeaderMap::new();
        let routes = matching(stated);
        let found = |claims| {
            let facts = RequestFacts {
                method: "GET",
                scheme: "http",
                authority: "reviews",
                path: "/",
                query: None,
                headers: &headers,
                port: 80,
                source: None,
                claims,
            };
            matches!(routes.port(80).http.find(&facts), Found::Rule(_))
        };
        assert_eq!(found(claims.as_object()), expected, "{stated}");
        assert_eq!(
            found(None),
            stated.starts_with("without"),
            "nobody has a claim without a token: {stated}"
        );
    }
}

const RULES: [(&str, &str); 14] = [
    ("a", "uri: {exact: /a}, headers: {x: {exact: '1'}}"),
    ("b", "uri: {prefix: /a}, method: {exact: POST}"),
    ("c", "uri: {exact: /a}"),
    ("d", "uri: {prefix: /a/b}"),
    ("e", "uri: {regex: '/a/.*'}, queryParams: {q: {exact: '1'}}"),
    ("f", "uri: {prefix: /a/b/c}"),
    ("g", "headers: {x: {exact: '2'}}"),
    ("h", "headers: {x: {exact: '2'}, w: {}}"),
    ("i", "uri: {prefix: /A}, ignoreUriCase: true"),
    ("j", "queryParams: {q: {exact: '2'}}"),
    ("k", "authority: {exact: other}"),
    ("l", "method: {exact: DELETE}"),
    ("m", "withoutHeaders: {x: {}}, uri: {prefix: /}"),
    ("o", "uri: {regex: '/a|/b'}"),
];

#[test]
fn the_index_finds_the_first_rule_that_holds_as_if_all_were_asked() {
    let http: String = RULES
        .iter()
        .map(|(name, stated)| {
            format!("- name: {name}\n  match: [{{{stated}}}]\n  directResponse: {{status: 200}}\n")
        })
        .collect();
    let text = service("shop", "reviews", &[80])
        + &virtual_service("shop/v", 0, &format!("hosts: [reviews]\nhttp:\n{http}"));
    let all = Desk::with(&text).routes("reviews");
    let alone = RULES.map(|(name, stated)| (name, matching(stated)));
    let mut seen = std::collections::BTreeSet::new();
    for method in ["GET", "POST", "DELETE"] {
        for path in ["/", "/a", "/A/x", "/a/b", "/a/b/c/d", "/a/bc", "/b", "/a/x", "*"] {
            for query in ["", "?q=1", "?q=2", "?q=3&q=1"] {
                for headers in ["", "\nx: 1", "\nx: 2", "\nx: 2\nw: z", "\nx: 3", "\nx: 3\nhost: other"] {
                    let request = format!("{method} {path}{query}{headers}");
                    let holding =
                        alone.iter().find(|(_, it)| matches!(ask(it, 80, &request), Found::Rule(_)));
                    let expected = holding.map_or("404", |(name, _)| name);
                    assert_eq!(name(&ask(&all, 80, &request)), expected, "{request}");
                    seen.insert(expected);
                }
            }
        }
    }
    assert!(seen.len() >= 12, "a request for nearly every rule, or this shows little: {seen:?}");
}

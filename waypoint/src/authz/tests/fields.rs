//! Every field in every form.

use serde_json::json;

use super::Asking;
use crate::routes::tests::Desk;

/// Each rule, the requests that fall under it, and those that do not.
fn check(rule: &str, inside: &[Asking], outside: &[Asking]) {
    for asking in inside {
        assert!(asking.falls_under(rule), "{rule} takes {asking:?}");
    }
    for asking in outside {
        assert!(!asking.falls_under(rule), "{rule} leaves {asking:?}");
    }
}

fn asking() -> Asking {
    Asking::default()
}

const WEB: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/web");
const OPS: Option<&str> = Some("spiffe://other.local/ns/ops/sa/robot");

#[test]
fn who_calls_is_known_by_the_verified_identity_alone() {
    let (web, ops, nobody) = (asking().from(WEB), asking().from(OPS), asking().from(None));
    let source = |list: &str| format!("{{from: [{{source: {{{list}}}}}]}}");
    for (list, takes) in [
        ("principals: [cluster.local/ns/shop/sa/web]", [true, false, false]),
        ("principals: ['cluster.local/ns/shop/*']", [true, false, false]),
        ("principals: ['*/sa/robot']", [false, true, false]),
        ("principals: ['*']", [true, true, false]),
        ("principals: [web]", [false, false, false]),
        ("notPrincipals: [cluster.local/ns/shop/sa/web]", [false, true, true]),
        ("notPrincipals: ['*']", [false, false, true]),
        ("namespaces: [shop]", [true, false, false]),
        ("namespaces: ['sh*', x]", [true, false, false]),
        ("namespaces: ['*ps']", [false, true, false]),
        ("notNamespaces: [shop]", [false, true, true]),
        ("namespaces: ['*'], notNamespaces: [ops]", [true, false, false]),
        ("serviceAccounts: [web]", [true, false, false]),
        ("serviceAccounts: [ops/robot]", [false, true, false]),
        ("serviceAccounts: [robot]", [false, false, false]),
        ("notServiceAccounts: [shop/web]", [false, true, true]),
    ] {
        for (asking, takes) in [&web, &ops, &nobody].into_iter().zip(takes) {
            assert_eq!(asking.falls_under(&source(list)), takes, "{list}: {:?}", asking.identity);
        }
    }
    let when = |key: &str, values: &str| format!("{{when: [{{key: {key}, {values}}}]}}");
    for (key, values) in [
        ("source.principal", "values: [cluster.local/ns/shop/sa/web]"),
        ("source.namespace", "values: [shop]"),
        ("source.serviceAccount", "values: [shop/web]"),
        ("source.namespace", "values: ['*'], notValues: [ops]"),
    ] {
        check(&when(key, values), &[asking().from(WEB)], &[asking().from(OPS), asking().from(None)]);
    }
}

#[test]
fn addresses_and_ports_are_compared_in_their_one_form() {
    let other = || asking().at("192.168.1.1");
    for rule in [
        "{from: [{source: {ipBlocks: [10.0.0.0/24, fd00::/8]}}]}",
        "{from: [{source: {notIpBlocks: [192.168.1.1]}}]}",
        "{from: [{source: {remoteIpBlocks: [10.0.0.9]}}]}",
        "{from: [{source: {notRemoteIpBlocks: [192.168.0.0/16]}}]}",
        "{when: [{key: source.ip, values: [10.0.0.0/8]}]}",
        "{when: [{key: remote.ip, values: [10.0.0.0/8]}]}",
        "{when: [{key: remote.ip, notValues: [192.168.1.1]}]}",
    ] {
        check(rule, &[asking()], &[other()]);
    }
    let elsewhere = Asking { destination: "10.96.0.11".into(), ..asking() };
    check("{when: [{key: destination.ip, values: [10.96.0.10]}]}", &[asking()], &[elsewhere]);
    let port = |port| Asking { port, ..asking() };
    for rule in [
        "{to: [{operation: {ports: ['80', '443']}}]}",
        "{to: [{operation: {notPorts: ['8080']}}]}",
        "{when: [{key: destination.port, values: ['80']}]}",
        "{when: [{key: destination.port, notValues: ['8080']}]}",
    ] {
        check(rule, &[port(80)], &[port(8080)]);
    }
}

#[test]
fn forwarded_addresses_are_believed_of_gateways_alone() {
    let pod = |name: &str, ip: &str, label: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{label}}}}}\nspec: \
             {{nodeName: n1}}\nstatus: {{phase: Running, podIP: {ip}}}\n"
        )
    };
    let gateway = "gateway.networking.k8s.io/gateway-name: edge";
    let text = pod("gateway", "10.0.0.1", gateway)
        + &pod("ingress", "10.0.0.2", "istio: ingressgateway")
        + &pod("web", "10.0.0.3", "app: web")
        + &pod("waypoint", "10.0.0.4", "gateway.networking.k8s.io/gateway-name: wp")
        + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop}\nspec: \
           {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";
    let mesh = Desk::with(&text).now;
    let from = |ip: &str, forwarded: &str| {
        let asking = Asking { caller: mesh.workload_at(ip.parse().unwrap()).cloned(), ..asking() };
        assert!(asking.caller.is_some());
        asking.at(ip).header("x-forwarded-for", forwarded)
    };
    let rule = "{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}";
    check(
        rule,
        &[
            from("10.0.0.1", "203.0.113.9"),
            from("10.0.0.2", "198.51.100.1, 203.0.113.9"),
            from("10.0.0.1", "198.51.100.1").header("x-forwarded-for", "203.0.113.9"),
            from("10.0.0.1", "[::ffff:203.0.113.9]:4000"),
        ],
        &[
            from("10.0.0.3", "203.0.113.9"),
            from("10.0.0.4", "203.0.113.9"),
            from("10.0.0.1", "203.0.113.9, 198.51.100.1"),
            from("10.0.0.1", "203.0.113.9, unknown"),
            from("10.0.0.1", ""),
            Asking { caller: None, ..from("10.0.0.1", "203.0.113.9") },
        ],
    );
    // What a gateway says of others is no word about itself.
    check("{from: [{source: {ipBlocks: [203.0.113.0/24]}}]}", &[], &[from("10.0.0.1", "203.0.113.9")]);
}

#[test]
fn methods_and_paths_are_compared_byte_for_byte() {
    let to = |list: &str| format!("{{to: [{{operation: {{{list}}}}}]}}");
    let method = |it: &str| asking().method(it);
    check(&to("methods: [GET, POST]"), &[method("GET"), method("POST")], &[method("get"), method("PUT")]);
    check(&to("methods: ['P*']"), &[method("POST")], &[method("GET")]);
    check(&to("methods: ['*T']"), &[method("GET"), method("PUT")], &[method("HEAD")]);
    check(&to("methods: ['*']"), &[method("X-OWN")], &[]);
    check(&to("notMethods: [DELETE]"), &[method("GET")], &[method("DELETE")]);
    let path = |it: &str| asking().path(it);
    check(&to("paths: [/a, /b]"), &[path("/a"), path("/b?x=/c")], &[path("/a/"), path("/A"), path("/ab")]);
    check(&to("paths: ['/a*']"), &[path("/a"), path("/ab"), path("/a/b")], &[path("/b/a")]);
    check(&to("paths: ['*.html']"), &[path("/a/b.html")], &[path("/a.html/b"), path("/a?.html")]);
    check(&to("paths: ['*']"), &[path("/"), path("*")], &[]);
    check(&to("notPaths: [/health, '/public/*']"), &[path("/a")], &[path("/health"), path("/public/x")]);
    check(&to("paths: ['/a/{*}/c']"), &[path("/a/b/c"), path("/a/b=*/c")], &[path("/a/c"), path("/a/b/b/c")]);
    check(&to("paths: ['/a/{**}']"), &[path("/a/b/c"), path("/a/")], &[path("/a"), path("/b")]);
    check(&to("notPaths: ['/{**}/secret']"), &[path("/a")], &[path("/a/secret"), path("/a/b/secret")]);
    // Rules have the one form that requests have.
    check(&to("paths: ['/caf\u{e9}']"), &[path("/caf%c3%a9"), path("/caf%C3%A9")], &[path("/cafe")]);
    check(&to("paths: ['/%61-%7Ex y']"), &[path("/a-~x%20y"), path("/%61%2D~x%20y")], &[]);
    check(&to("paths: ['/{id}']"), &[path("/{id}"), path("/%7bid%7D")], &[path("/1")]);
    check(&to("paths: ['/\u{e9}/{*}']"), &[path("/%C3%A9/x")], &[path("/e/x")]);
}

#[test]
fn a_host_is_the_same_in_any_case_and_at_any_port() {
    let to = |list: &str| format!("{{to: [{{operation: {{{list}}}}}]}}");
    let host = |it: &str| asking().host(it);
    check(
        &to("hosts: [Shop.example.com]"),
        &[
            "shop.example.com",
            "SHOP.EXAMPLE.COM",
            "shop.example.com:80",
            "shop.example.com.",
            "shop.example.com.:80",
            "shop.example.com:8080",
        ]
        .map(host),
        &["example.com", "xshop.example.com", "shop.example.com.x", "shop.example.comx:80", ""].map(host),
    );
    check(
        &to("hosts: ['*.example.com']"),
        &["a.example.com", "a.b.EXAMPLE.com:81"].map(host),
        &["example.com", "a.example.com.org"].map(host),
    );
    check(&to("hosts: ['shop.*']"), &["shop.a", "Shop.b:80"].map(host), &["xshop.a"].map(host));
    check(&to("hosts: ['shop:*']"), &["shop:80", "SHOP:1"].map(host), &["shop", "shop.x:1"].map(host));
    check(&to("hosts: ['shop:80']"), &["shop", "shop:80", "shop."].map(host), &["shop:81"].map(host));
    check(&to("hosts: ['*:8080']"), &["a:8080"].map(host), &["a:80", "a"].map(host));
    check(&to("hosts: ['*']"), &["a"].map(host), &[""].map(host));
    check(&to("hosts: ['[fd00::1]']"), &["[fd00::1]", "[FD00::1]:9"].map(host), &["[fd00::2]"].map(host));
    check(&to("notHosts: [admin]"), &["a"].map(host), &["ADMIN:1", "admin."].map(host));
    check(
        "{when: [{key: 'request.headers[Host]', values: [shop]}]}",
        &["SHOP:1"].map(host),
        &["b"].map(host),
    );
    check(
        "{when: [{key: 'request.headers[:authority]', notValues: [shop]}]}",
        &["b"].map(host),
        &["shop"].map(host),
    );
}

#[test]
fn headers_are_compared_value_by_value() {
    let when = |name: &str, values: &str| format!("{{when: [{{key: 'request.headers[{name}]', {values}}}]}}");
    let with = |value: &str| asking().header("x-role", value);
    let two = with("guest").header("x-role", "admin");
    check(
        &when("X-Role", "values: [admin]"),
        &[with("admin"), two.clone()],
        &[asking(), with("Admin"), with("")],
    );
    check(&when("x-role", "values: ['ad*']"), &[with("admin")], &[with("xad")]);
    check(&when("x-role", "values: ['*min']"), &[with("admin")], &[with("minx")]);
    check(&when("x-role", "values: ['*']"), &[with("admin"), with("")], &[asking()]);
    check(&when("x-role", "notValues: [admin]"), &[asking(), with("guest")], &[with("admin"), two]);
    check(&when("x-role", "notValues: ['*']"), &[asking()], &[with("")]);
    check(&when(":method", "values: [GET]"), &[asking()], &[asking().method("PUT")]);
}

#[test]
fn a_token_is_compared_by_issuer_and_subject_apart() {
    let token = |claims| asking().token(claims);
    let user = || token(json!({"iss": "https://a/b", "sub": "ann"}));
    let from = |list: &str| format!("{{from: [{{source: {{{list}}}}}]}}");
    for (values, takes) in [
        ("'https://a/b/ann'", true),
        ("'https://a/b/bob'", false),
        ("'https://a/b/*'", true),
        ("'https://a/*'", false),
        ("'https://a/b/a*'", true),
        ("'*/ann'", true),
        ("'*/b/ann'", true),
        ("'*b/ann'", true),
        ("'*nn'", true),
        ("'https*'", true),
        ("'*/*'", true),
        ("'*'", true),
    ] {
        assert_eq!(user().falls_under(&from(&format!("requestPrincipals: [{values}]"))), takes, "{values}");
        assert_eq!(
            user().falls_under(&from(&format!("notRequestPrincipals: [{values}]"))),
            !takes,
            "{values}"
        );
        let when = format!("{{when: [{{key: request.auth.principal, values: [{values}]}}]}}");
        assert_eq!(user().falls_under(&when), takes, "{values}");
        for nobody in [asking(), token(json!({"iss": "https://a/b"})), token(json!({"iss": 1, "sub": "ann"}))]
        {
            assert!(!nobody.falls_under(&from(&format!("requestPrincipals: [{values}]"))), "{values}");
        }
    }
}

#[test]
fn a_claim_is_a_string_or_a_list_of_them() {
    let token = |claims| asking().token(claims);
    let user = || token(json!({"aud": ["x", "y"], "azp": "app"}));
    let when = |key: &str, values: &str| format!("{{when: [{{key: '{key}', {values}}}]}}");
    check(
        &when("request.auth.audiences", "values: ['y']"),
        &[user(), token(json!({"aud": "y"}))],
        &[asking()],
    );
    check(
        &when("request.auth.audiences", "notValues: [z]"),
        &[user(), asking()],
        &[token(json!({"aud": ["z"]}))],
    );
    check(
        &when("request.auth.presenter", "values: [app]"),
        &[user()],
        &[asking(), token(json!({"aud": "app"}))],
    );
    let groups = when("request.auth.claims[groups]", "values: [admin]");
    check(
        &groups,
        &[token(json!({"groups": ["dev", "admin"]})), token(json!({"groups": "admin"}))],
        &[
            asking(),
            token(json!({"groups": []})),
            token(json!({"groups": {"admin": 1}})),
            token(json!({"groups": [["admin"]]})),
            token(json!({"groups": "dev admin"})),
        ],
    );
    check(
        &when("request.auth.claims[a][b.c]", "values: ['v*']"),
        &[token(json!({"a": {"b.c": "v1"}}))],
        &[
            token(json!({"a": {"b": {"c": "v1"}}})),
            token(json!({"a": ["v1"]})),
            token(json!({"a[b.c]": "v1"})),
        ],
    );
    check(
        &when("request.auth.claims[scope]", "values: [read]"),
        &[token(json!({"scope": "write read"})), token(json!({"scope": ["read"]}))],
        &[token(json!({"scope": "reading"}))],
    );
    // Only strings are compared: 1 is not "1", and true not "true".
    let not_strings = token(json!({"n": 1, "t": true, "x": null}));
    for key in ["n", "t", "x"] {
        let rule = when(&format!("request.auth.claims[{key}]"), "values: ['1', 'true', 'null', '*']");
        assert!(!not_strings.falls_under(&rule), "{key}");
    }
}

#[test]
fn server_names_are_those_of_tls() {
    let sni = |name: &str| Asking { server_name: Some(name.into()), ..asking().tcp() };
    let rule = "{when: [{key: connection.sni, values: ['*.Example.com']}]}";
    check(rule, &[sni("a.example.com")], &[sni("example.com"), asking().tcp(), asking()]);
}

#[test]
fn everything_in_a_rule_must_hold_and_one_of_everything_in_a_list() {
    let rule = "{from: [{source: {namespaces: [shop], ipBlocks: [10.0.0.0/8]}}, {source: {namespaces: [ops]}}], \
                to: [{operation: {methods: [GET], paths: ['/a*']}}, {operation: {methods: [PUT]}}], \
                when: [{key: 'request.headers[x]', values: [a, b]}, {key: destination.port, values: ['80']}]}";
    let good = || asking().path("/a").header("x", "b");
    check(
        rule,
        &[good(), good().from(OPS).at("192.168.0.1"), good().method("PUT").path("/z")],
        &[
            good().at("192.168.0.1"),
            good().path("/z"),
            good().method("POST"),
            asking().path("/a"),
            asking().path("/a").header("x", "c"),
            Asking { port: 81, ..good() },
        ],
    );
}

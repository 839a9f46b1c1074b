//! The labs' manifests in, explanations out.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::snapshot::MeshSettings;

use super::*;

/// A pod of everything in the labs that matters here.
fn pods() -> String {
    let pod = |name: &str, account: &str, address: &str, labels: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: market, uid: {name}, labels: {{{labels}}}}}\n\
             spec: {{nodeName: node-1, serviceAccountName: {account}}}\n\
             status: {{phase: Running, podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
        )
    };
    [
        pod("waypoint-1", "waypoint", "10.1.0.9", "gateway.networking.k8s.io/gateway-name: waypoint"),
        pod("client-1", "client", "10.1.0.7", "app: client"),
        pod("customers-v1-1", "customers", "10.1.0.3", "app: customers, version: v1"),
        pod("customers-v2-1", "customers", "10.1.0.4", "app: customers, version: v2"),
        pod("ratings-1", "ratings", "10.1.0.5", "app: ratings, version: v1"),
        pod("slow-1", "slow", "10.1.0.6", "app: slow, version: v1"),
        pod("flaky-1", "flaky", "10.1.0.8", "app: flaky, version: v1"),
    ]
    .concat()
}

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/traffic")
}

/// The labs' services with one file of routes, and more.
fn lab(routes: &str, more: &str) -> Manifests {
    Manifests::of(lab_files(routes, more), MeshSettings::default())
}

fn lab_files(routes: &str, more: &str) -> Vec<(Arc<str>, Vec<u8>)> {
    let mut all: Vec<(Arc<str>, Vec<u8>)> = Vec::new();
    let mut take = |file: &str, text: &str| all.push((file.into(), text.into()));
    let is_base = |name: &str| name.starts_with(|it: char| it.is_ascii_digit());
    let mut files: Vec<_> =
        fs::read_dir(examples()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    for name in files.iter().filter(|it| is_base(it) || **it == format!("lab-{routes}.yaml")) {
        take(name, &fs::read_to_string(examples().join(name)).unwrap());
    }
    take("pods.yaml", &pods());
    take("more.yaml", more);
    all
}

fn asked(path: &str, headers: &[(&str, &str)]) -> Asked {
    let headers = headers.iter().map(|(name, it)| ((*name).to_owned(), (*it).to_owned())).collect();
    Asked { method: "GET".to_owned(), path: path.to_owned(), headers, server_name: None }
}

fn told(manifests: &Manifests, to: &str, asked: &Asked) -> (String, Verdict) {
    let (mut told, verdict) = explain(manifests, ("market/client-1", to), asked).unwrap();
    manifests.beware(&mut told);
    (told.lines(&verdict), verdict)
}

/// What is said in the end.
fn ends(text: &str) -> &str {
    text.lines().last().and_then(|it| it.strip_prefix("verdict")).unwrap_or_default().trim()
}

/// A lab, what is called with which path and headers, what has to be told, and the verdict.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
    &'static str,
);

const CASES: &[Case] = &[
    (
        "canary",
        "customers",
        "/",
        &[],
        &[
            "90 % to customers.market.svc.cluster.local:80 subset v1",
            "by DestinationRule market/customers at lab-canary.yaml:2",
            "by VirtualService market/customers at lab-canary.yaml:19",
            "10 % to",
            "10.1.0.4:8080, pod customers-v2-1",
            "by Namespace market at 10-namespace.yaml:2",
            "at the node",
        ],
        "admitted",
    ),
    (
        "headers",
        "customers",
        "/",
        &[("user", "debug")],
        &["spec.http[0].match[0] \"headers-debug\" takes it: header user \"debug\"", "subset v2"],
        "admitted",
    ),
    (
        "headers",
        "customers",
        "/",
        &[("user", "me")],
        &["does not take it: header user is not \"debug\"", "\"headers-others\" takes it"],
        "admitted",
    ),
    (
        "user-agent",
        "customers",
        "/",
        &[("user-agent", "Firefox/1")],
        &["regex \".*Firefox/[0-9]+.*\"", "subset v2"],
        "admitted",
    ),
    (
        "rewrite",
        "customers.market",
        "/legacy/x?y",
        &[],
        &[
            "customers.market/legacy/x?y becomes customers.market/api/x?y",
            "x-envoy-original-path: /legacy/x?y",
        ],
        "admitted",
    ),
    (
        "redirect",
        "customers",
        "/old-prices",
        &[],
        &["spec.http[0].match[0] \"redirect-moved\" takes it"],
        "answered: 301 to http://customers/prices",
    ),
    ("delay", "ratings", "/", &[], &["fault        50 % are delayed by 400ms"], "admitted"),
    (
        "abort",
        "ratings",
        "/",
        &[],
        &["50 % are answered 418"],
        "depends: 50 % are answered 418: fault filter abort; of all others: admitted",
    ),
    (
        "gateway",
        "customers",
        "/",
        &[],
        &[
            "by HTTPRoute market/customers at lab-gateway.yaml:37",
            "90 % to customers-v1.market.svc.cluster.local:80",
        ],
        "depends: 20 % are answered 418",
    ),
    ("timeout", "slow", "/", &[], &["timeout      1s"], "admitted"),
    ("retries", "flaky", "/", &[], &["timeout      none, 2s each try", "up to 3 after 5xx"], "admitted"),
    ("mirror", "customers", "/", &[], &["100 % are copied to audit.market.svc.cluster.local:80"], "admitted"),
    ("breaker", "ratings", "/", &[], &["at most 1 connections, 1 waiting requests"], "admitted"),
    ("sticky", "customers", "/", &[], &["RING_HASH", "of all hashes"], "admitted"),
    ("", "customers", "/", &[], &["none is stated: to what was called", "50 %"], "admitted"),
    ("", "fragile", "/", &[], &["none that is ready"], "refused: 503: no healthy upstream"),
    ("", "customers", "/a//b", &[], &["cannot be read in one way"], "refused: 400"),
];

#[test]
fn every_lab_is_told_by_file_and_line() {
    for (routes, host, path, headers, expected, verdict) in CASES {
        let manifests = lab(routes, "");
        let (text, _) = told(&manifests, &format!("{host}:80"), &asked(path, headers));
        for line in *expected {
            assert!(text.contains(line), "{routes}: {line:?} is missing\n{text}");
        }
        assert!(ends(&text).starts_with(verdict), "{routes}: {verdict:?}\n{text}");
    }
}

const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: market}
spec:
  targetRefs: [{kind: Service, group: '', name: customers}]
  action: DENY
  rules:
    - to: [{operation: {methods: [POST]}}]
    - to: [{operation: {paths: ['/secret/*']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get-only, namespace: market}
spec:
  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

#[test]
fn each_policy_is_told_with_the_rule_that_matched() {
    let manifests = lab("canary", DENY);
    let (text, _) = told(&manifests, "customers:80", &asked("/secret/1", &[]));
    assert!(text.contains("DENY market/no-secrets: spec.rules[1] matches"), "{text}");
    assert!(text.contains("by AuthorizationPolicy market/no-secrets at more.yaml:9"), "{text}");
    assert!(text.contains("ALLOW market/get-only: spec.rules[0] matches"), "{text}");
    assert_eq!(ends(&text), "refused: 403: denied by ns[market]-policy[no-secrets]-rule[1]", "{text}");
    let (text, verdict) = told(&manifests, "customers:80", &asked("/", &[]));
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    for line in [
        "DENY market/no-secrets: no rule matches",
        "spec.rules[0].to[0].operation.methods: the method GET is not POST",
        "by AuthorizationPolicy market/no-secrets at more.yaml:8",
        "spec.rules[1].to[0].operation.paths: the path / is not /secret/*",
        "by AuthorizationPolicy market/no-secrets at more.yaml:9",
    ] {
        assert!(text.contains(line), "{line:?} is missing\n{text}");
    }
    let (text, verdict) =
        told(&manifests, "ratings:80", &Asked { method: "PUT".to_owned(), ..asked("/", &[]) });
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("403: allow policies exist")), "{text}");
    assert!(!text.contains("no-secrets"), "{text}");
}

#[test]
fn a_policy_of_the_pods_that_does_not_let_the_waypoint_in_is_told() {
    let only = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: only-client, namespace: market}\n\
                spec: {selector: {matchLabels: {app: customers}}, rules: [{from: [{source: {principals: ['*/sa/client']}}]}]}\n";
    let (text, verdict) = told(&lab("canary", only), "customers:80", &asked("/", &[]));
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("refuses the waypoint")), "{text}");
    assert!(text.contains("ALLOW market/only-client: does not match"), "{text}");
    let why = "spec.rules[0].from[0].source.principals: the caller cluster.local/ns/market/sa/waypoint is not */sa/client";
    assert!(text.contains(why), "{text}");
}

#[test]
fn without_a_waypoint_the_connection_is_told_and_why_there_is_none() {
    let own = "apiVersion: v1\nkind: Service\nmetadata: {name: bare, namespace: market, labels: {istio.io/use-waypoint: none}}\n\
               spec: {clusterIP: 10.96.9.9, selector: {app: ratings}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
    let (text, verdict) = told(&lab("canary", own), "bare:80", &asked("/", &[]));
    // Its pods are reached through another service's waypoint too, and so is the port open to all.
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    assert!(text.contains("no waypoint: istio.io/use-waypoint is none"), "{text}");
    assert!(text.contains("by Service market/bare at more.yaml:1"), "{text}");
    assert!(text.contains("10.1.0.5:8080, pod ratings-1, through a tunnel by mutual TLS"), "{text}");
    assert!(!text.contains("request "), "{text}");
}

#[test]
fn a_connection_by_tls_is_told_by_its_server_name() {
    let tls = "apiVersion: v1\nkind: Service\nmetadata: {name: vault, namespace: market}\n\
               spec: {clusterIP: 10.96.9.8, selector: {app: ratings}, ports: [{name: tls, port: 443, targetPort: 8443}]}\n---\n\
               apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vault, namespace: market}\n\
               spec: {hosts: [vault, a.example], tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host: slow, port: {number: 80}}}]}]}\n";
    let manifests = lab("", tls);
    let named = |name: &str| Asked { server_name: Some(name.to_owned()), ..asked("/", &[]) };
    let (text, verdict) = told(&manifests, "vault:443", &named("a.example"));
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    assert!(text.contains("spec.tls[0] takes it") && text.contains("pod slow-1"), "{text}");
    let (text, _) = told(&manifests, "vault:443", &named("b.example"));
    assert!(text.contains("none takes it: to what was called") && text.contains("10.1.0.5:8443"), "{text}");
}

#[test]
fn keys_that_are_not_fetched_leave_it_open() {
    let fetched = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: tokens, namespace: market}\n\
                   spec: {targetRefs: [{kind: Service, group: '', name: customers}], jwtRules: [{issuer: me, jwksUri: 'https://keys.example/'}]}\n";
    let manifests = lab("canary", fetched);
    let claims = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJtZSIsInN1YiI6InlvdSJ9.c2ln";
    let (text, verdict) =
        told(&manifests, "customers:80", &asked("/", &[("authorization", &format!("Bearer {claims}"))]));
    assert!(matches!(verdict, Verdict::Depends(_)), "{text}");
    assert!(text.contains("https://keys.example/"), "{text}");
    assert!(text.contains("by RequestAuthentication market/tokens at more.yaml:4"), "{text}");
    let (text, verdict) = told(&manifests, "customers:80", &asked("/", &[]));
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    assert!(text.contains("the request has none"), "{text}");
}

#[test]
fn what_is_not_acted_on_is_named() {
    let more = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: f, namespace: market}\nspec: {}\n---\n\
                apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad, namespace: market}\nspec: {host: [x]}\n";
    let (text, _) = told(&lab("canary", more), "customers:80", &asked("/", &[]));
    assert!(text.contains("more.yaml:9: VirtualService market/bad"), "{text}");
    assert!(text.contains("networking.istio.io/v1alpha3 EnvoyFilter at more.yaml:1 is of a kind"), "{text}");
}

#[test]
fn tls_that_a_policy_states_is_told_with_its_line_and_what_cannot_be_used_is_refused() {
    let policy = |believed: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: t, namespace: market}}\nspec:\n  \
             targetRefs: [{{group: '', kind: Service, name: customers}}]\n  validation: {{hostname: c.example, {believed}}}\n"
        )
    };
    let (text, verdict) =
        told(&lab("canary", &policy("wellKnownCACertificates: System")), "customers:80", &asked("/", &[]));
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    for words in
        ["SNI c.example", "by BackendTLSPolicy market/t at more.yaml:6", "by TLS of its own inside a tunnel"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let missing = policy("caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]");
    let (text, verdict) = told(&lab("canary", &missing), "customers:80", &asked("/", &[]));
    let Verdict::Refused(why) = &verdict else { panic!("{text}") };
    assert!(why.contains("there is no ConfigMap market/none"), "{why}");
    assert!(text.contains("in plaintext neither"), "{text}");
}

#[test]
fn everything_that_touches_the_question_is_named_and_the_rest_is_counted() {
    let bad = |name: &str, namespace: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: \
             {{host: [x]}}\n"
        )
    };
    let many: String = (0..12).map(|it| bad(&format!("bad-{it}"), "market")).collect();
    let more = many + &bad("customers", "market") + &bad("far", "elsewhere");
    let (text, _) = told(&lab("canary", &more), "customers:80", &asked("/", &[]));
    for at in 0..12 {
        assert!(text.contains(&format!("VirtualService market/bad-{at} ")), "{at}\n{text}");
    }
    assert!(
        text.starts_with("beware") && text.lines().next().unwrap().contains("market/customers"),
        "{text}"
    );
    assert!(text.contains("1 more document, of other namespaces, is not acted on"), "{text}");
    assert!(!text.contains("elsewhere/far"), "{text}");
}

#[test]
fn a_namespace_that_cannot_be_read_is_said_to_be_so() {
    let mesh = |namespace: &str| {
        let text = format!(
            "{namespace}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, \
             selector: {{app: web}}, ports: [{{name: http, port: 80}}]}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, \
             namespace: shop, labels: {{app: web}}}}\nstatus: {{phase: Running, podIP: 10.0.0.1}}\n"
        );
        Manifests::of(vec![("all.yaml".into(), text.into())], Default::default())
    };
    let ask = |manifests: &Manifests| {
        let (mut told, verdict) = explain(manifests, ("shop/web", "web:80"), &asked("/", &[])).unwrap();
        manifests.beware(&mut told);
        told.lines(&verdict)
    };
    let text = ask(&mesh(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: 'a b'}}}",
    ));
    assert!(text.contains("waypoint  not known: the Namespace shop cannot be read (all.yaml:1)"), "{text}");
    assert!(text.contains("Namespace shop ") && !text.contains("/shop "), "{text}");
    let text = ask(&mesh("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"));
    assert!(text.contains("no waypoint: neither its labels nor its namespace's"), "{text}");
}

#[test]
fn a_token_that_nobody_looks_at_is_told() {
    let manifests = lab("canary", "");
    let (text, _) = told(&manifests, "customers:80", &asked("/", &[("authorization", "Bearer a.b.c")]));
    assert!(text.contains("no RequestAuthentication applies"), "{text}");
    let (text, _) = told(&manifests, "customers:80", &asked("/", &[]));
    assert!(!text.contains("token"), "{text}");
}

#[test]
fn of_a_rule_the_first_field_that_is_not_met_is_told() {
    let unmet = |rule: &str| {
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: market}}\nspec:\n  targetRefs: \
             [{{kind: Service, group: '', name: customers}}]\n  rules: [{rule}]\n"
        );
        told(&lab("canary", &policy), "customers:80", &asked("/a", &[("x-user", "me")])).0
    };
    for (rule, expected) in [
        (
            "{from: [{source: {namespaces: [a, b]}}]}",
            "from[0].source.namespaces: the caller cluster.local/ns/market/sa/client is none of a, b",
        ),
        (
            "{from: [{source: {notNamespaces: [market]}}]}",
            "from[0].source.notNamespaces: the caller cluster.local/ns/market/sa/client is market, as it must not be",
        ),
        ("{from: [{source: {serviceAccounts: [other/client]}}]}", "source.serviceAccounts: the caller"),
        (
            "{from: [{source: {ipBlocks: [10.9.0.0/16]}}]}",
            "from[0].source.ipBlocks: the caller's address 10.1.0.7 is not 10.9.0.0/16",
        ),
        (
            "{from: [{source: {requestPrincipals: ['*']}}]}",
            "requestPrincipals: the request, which has no verified token, is not",
        ),
        (
            "{from: [{source: {namespaces: [market]}}], to: [{operation: {ports: ['81']}}]}",
            "to[0].operation.ports: the port 80 is not 81",
        ),
        (
            "{to: [{operation: {hosts: [a.example]}}]}",
            "to[0].operation.hosts: the host customers is not a.example",
        ),
        (
            "{to: [{operation: {methods: [GET], paths: ['/b/{*}', /c, /d, /e]}}]}",
            "paths: the path /a is none of /b/{*}, /c, /d and 1 more",
        ),
        (
            "{when: [{key: 'request.headers[x-user]', values: [you]}]}",
            "when[0].values: the value of the header x-user is not you",
        ),
        (
            "{when: [{key: 'request.headers[x-none]', values: ['*']}]}",
            "when[0].values: the header x-none, which is not there, is not *",
        ),
        (
            "{when: [{key: 'request.auth.claims[group]', values: [a]}]}",
            "when[0].values: the request, which has no verified token, is not a",
        ),
        (
            "{when: [{key: destination.port, notValues: ['80']}]}",
            "when[0].notValues: the port 80 is 80, as it must not be",
        ),
    ] {
        let text = unmet(rule);
        assert!(
            text.contains(&format!("spec.rules[0].{expected}")) || text.contains(expected),
            "{expected}\n{text}"
        );
        assert!(ends(&text).starts_with("refused: 403"), "{text}");
    }
}

#[test]
fn who_calls_a_pod_round_an_authorizer_is_told_that_it_is_refused() {
    let asks = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: ask, namespace: market}\nspec:\n  \
                parentRefs: [{group: '', kind: Service, name: ratings}]\n  rules: [{filters: [{type: ExternalAuth, externalAuth: \
                {protocol: GRPC, backendRef: {name: slow, port: 80}, grpc: {}}}], backendRefs: [{name: ratings, port: 80}]}]\n";
    let (pod, other) = ("10.1.0.5:8080", "10.1.0.6:8080");
    let manifests = |routes: &str| {
        let mut files = lab_files("", routes);
        for (_, text) in &mut files {
            *text =
                String::from_utf8_lossy(text).replace("waypoint-for: service", "waypoint-for: all").into();
        }
        Manifests::of(files, MeshSettings::default())
    };
    let says = |manifests: &Manifests, to: &str| {
        let (text, verdict) = told(manifests, to, &asked("/", &[]));
        (ends(&text).to_owned(), verdict, text)
    };
    let stated = manifests(asks);
    let (end, _, text) = says(&stated, pod);
    let why = "refused: 403: a route of ratings.market.svc.cluster.local has an authorizer asked";
    assert!(end.starts_with(why), "{text}");
    assert_eq!(says(&stated, other).1, Verdict::Admitted);
    let tls = Asked { server_name: Some("ratings".to_owned()), ..asked("/", &[]) };
    let (text, _) = told(&stated, pod, &tls);
    assert!(ends(&text).starts_with("refused: 400: a route of ratings"), "{text}");
    let unread = manifests(&asks.replace("rules:", "rulez: []\n  rules:"));
    for to in [pod, "ratings:80"] {
        let (end, _, text) = says(&unread, to);
        assert!(end.starts_with("refused: 500: the route market/ask cannot be read"), "{to}\n{text}");
    }
    assert_eq!(says(&manifests(""), pod).1, Verdict::Admitted);
}

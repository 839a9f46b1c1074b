//! What `waypoint explain` says becomes of a request is what becomes of it: each request goes through all of a waypoint, and
//! is explained from the same manifests.

use bytes::Bytes;
use common::explain::{Explanation, Verdict};
use common::manifests::Manifests;
use common::snapshot::MeshSettings;
use http::Response;
use http_body_util::Full;
use serde_json::json;

use super::exchange;
use super::rig::{Rig, web};
use crate::authn::tests::signer::signer;
use crate::explain::{Asked, explain};
use crate::routes::tests::virtual_service;

/// The caller at the address that the rig has, and a waypoint with a pod. What the rig lacks is not asked of it.
const PARTIES: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: shop, uid: c, labels: {app: caller, tier: gold, istio.io/dataplane-mode: ambient}}
spec: {nodeName: n1, serviceAccountName: caller}
status: {phase: Running, podIP: 10.9.9.9}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: edge}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: w, namespace: edge, uid: w, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}
spec: {nodeName: n1, serviceAccountName: waypoint}
status: {phase: Running, podIP: 10.0.9.9, conditions: [{type: Ready, status: 'True'}]}
";

/// What became of a request: the status of an answer that was made by the waypoint, or what the endpoint got.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Made(u16),
    Sent { target: String, host: String, rule: String },
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{targetRefs: [{{kind: Service, group: '', name: web}}], {spec}}}\n"
    )
}

fn route(name: &str, stated: &str) -> String {
    format!(
        "- name: {name}\n  route: [{{destination: {{host: web}}}}]\n  headers: {{request: {{set: {{x-rule: {name}}}}}}}\n  {stated}\n"
    )
}

/// Configurations under which every request is tried.
fn configurations() -> Vec<String> {
    let jwks = signer().jwks("k");
    let tokens = format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, group: '', name: web}}]\n  jwtRules: [{{issuer: me, jwks: '{jwks}', forwardOriginalToken: true}}]\n"
    );
    let routes = [
        route("exact", "match: [{uri: {exact: /exact}}]"),
        route("two", "match: [{uri: {prefix: /a}, method: {exact: POST}}, {headers: {x-a: {exact: one}}}]"),
        route("regex", "match: [{uri: {regex: '/r/[0-9]+'}}]\n  rewrite: {uri: /rewritten, authority: other}"),
        route("present", "match: [{headers: {x-b: {}}, withoutHeaders: {x-c: {exact: never}}}]"),
        route("query", "match: [{queryParams: {v: {exact: '1'}}}]\n  rewrite: {uri: /q/}"),
        route("host", "match: [{authority: {prefix: shop.}}]"),
        route("gold", "match: [{sourceLabels: {tier: gold}, uri: {prefix: /gold}}]"),
        route("lead", "match: [{sourceLabels: {tier: lead}}]"),
        "- match: [{uri: {prefix: /moved}}]\n  redirect: {uri: /there, redirectCode: 302}\n".to_owned(),
        "- match: [{uri: {exact: /tea}}]\n  directResponse: {status: 418, body: {string: tea}}\n".to_owned(),
        route("broken", "match: [{uri: {exact: /broken}}]\n  fault: {abort: {httpStatus: 555, percentage: {value: 100}}}"),
        "- match: [{uri: {prefix: /nobody}}]\n  route: [{destination: {host: nobody}}]\n".to_owned(),
        "- match: [{uri: {prefix: /subset}}]\n  route: [{destination: {host: web, subset: none}}]\n".to_owned(),
        route("cors", "match: [{uri: {prefix: /cors}}]\n  corsPolicy: {allowOrigins: [{exact: 'https://good.example'}], allowMethods: [GET]}"),
        route("claim", "match: [{headers: {'@request.auth.claims.group': {exact: admin}}}]"),
    ]
    .concat();
    let some = virtual_service("shop/web", 0, &format!("hosts: [web]\nhttp:\n{}", routes.trim_end()));
    let all = virtual_service(
        "shop/web",
        0,
        &format!("hosts: [web]\nhttp:\n{}{}", routes, route("rest", "timeout: 5s").trim_end()),
    );
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\n\
        spec:\n  parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules:\n  - name: long\n    matches: [{path: {type: PathPrefix, value: /a/b}}]\n    \
        filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: long}]}}]\n    backendRefs: [{name: web, port: 80}]\n  \
        - name: short\n    matches: [{path: {type: PathPrefix, value: /a}, method: POST}]\n    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /z}}}]\n    \
        backendRefs: [{name: web, port: 80}]\n  - matches: [{path: {type: Exact, value: /exact}}]\n    backendRefs: [{name: web, port: 80}]\n  - matches: [{path: {value: /nobody}}]\n    backendRefs: [{name: nobody, port: 80}]\n";
    let deny = policy(
        "deny",
        "action: DENY, rules: [{to: [{operation: {paths: [/a*, '/r/{*}'], notMethods: [GET]}}]}, {when: [{key: 'request.headers[x-a]', values: [one]}]}]",
    );
    let allow = policy(
        "allow",
        "rules: [{from: [{source: {principals: ['*/sa/caller']}}], to: [{operation: {methods: [GET, POST]}}]}]",
    );
    let stranger = policy("stranger", "rules: [{from: [{source: {namespaces: [elsewhere]}}]}]");
    let dry = policy("dry", "action: DENY, rules: [{}]")
        .replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}");
    let bearer = policy("bearer", "rules: [{from: [{source: {requestPrincipals: ['me/*']}}]}]");
    vec![
        String::new(),
        all.clone(),
        some.clone(),
        gateway.to_owned(),
        deny.clone(),
        allow.clone() + &all,
        stranger.clone(),
        dry + &deny + &all,
        tokens.clone() + &all,
        tokens.clone() + &bearer + &all,
        tokens + &deny + &allow + gateway,
    ]
}

/// Method, target and headers.
type Asking = (&'static str, &'static str, Vec<(&'static str, String)>);

fn requests() -> Vec<Asking> {
    let token = |claims| format!("Bearer {}", signer().token("k", &claims));
    let good = token(json!({ "iss": "me", "sub": "you", "exp": 4_000_000_000_u64, "group": "admin" }));
    let late = token(json!({ "iss": "me", "sub": "you", "exp": 1_000_000_000 }));
    let one = |name, value: &str| vec![(name, value.to_owned())];
    let mut all: Vec<Asking> = Vec::new();
    let targets = [
        "/",
        "/exact",
        "/exact/",
        "/a",
        "/a/b/c",
        "/ab",
        "/r/12",
        "/r/x",
        "/?v=1",
        "/x?w=2&v=1",
        "/gold/1",
        "/moved/x",
        "/tea",
        "/broken",
        "/nobody",
        "/subset",
        "/cors",
        "/a;x=1",
        "/a//b",
        "/a/../b",
        "/%2e/",
        "/%61",
        "/a%2Fb",
        "/q?x#y",
    ];
    for target in targets {
        all.extend(["GET", "POST"].map(|method| (method, target, Vec::new())));
    }
    for target in ["/", "/a", "/gold"] {
        for headers in [
            one("x-a", "one"),
            one("x-a", "two"),
            one("x_a", "one"),
            one("x-b", ""),
            vec![("x-b", "1".to_owned()), ("x-c", "never".to_owned())],
            one("host", "shop.example"),
            one("host", "bad host"),
            one("connection", "x-forwarded-for"),
            one("authorization", &good),
            one("authorization", &late),
            one("authorization", "Bearer no.token"),
            vec![
                ("origin", "https://good.example".to_owned()),
                ("access-control-request-method", "GET".to_owned()),
            ],
        ] {
            all.push(("GET", target, headers));
        }
    }
    let preflight = vec![
        ("origin", "https://good.example".to_owned()),
        ("access-control-request-method", "GET".to_owned()),
    ];
    all.push(("OPTIONS", "/cors", preflight));
    all.push(("DELETE", "/a", Vec::new()));
    all
}

/// The request through all of a waypoint.
async fn sent(rig: &Rig, (method, target, headers): &Asking) -> Outcome {
    rig.listens(1, async |request| {
        let header =
            |name: &str| request.headers().get(name).map_or("", |it| it.to_str().unwrap()).to_owned();
        let body =
            json!({ "target": request.uri().to_string(), "host": header("host"), "rule": header("x-rule") });
        Response::new(Full::new(Bytes::from(format!("got {body}"))))
    })
    .await;
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        text.push_str("host: web\r\n");
    }
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    // What asks for a close already does not ask twice.
    if !headers.iter().any(|(name, _)| *name == "connection") {
        text.push_str("connection: close\r\n");
    }
    let answer = exchange(rig.strict_client(), &(text + "\r\n")).await;
    if let Some((_, got)) = answer.split_once("got ") {
        let got: serde_json::Value = serde_json::from_str(got).unwrap();
        let text = |name: &str| got[name].as_str().unwrap().to_owned();
        return Outcome::Sent { target: text("target"), host: text("host"), rule: text("rule") };
    }
    Outcome::Made(
        answer.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{answer:?}")),
    )
}

fn explained(manifests: &Manifests, (method, target, headers): &Asking) -> (Explanation, Verdict) {
    let asked = Asked {
        method: (*method).to_owned(),
        path: (*target).to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        server_name: None,
    };
    explain(manifests, ("shop/caller", "web:80"), &asked).unwrap()
}

/// What an explanation says becomes of a request.
fn outcome(told: &Explanation, verdict: &Verdict) -> Outcome {
    let status = |why: &str| why[..3].parse().unwrap_or_else(|_| panic!("no status: {why}"));
    match verdict {
        Verdict::Refused(why) | Verdict::Answered(why) => Outcome::Made(status(why)),
        Verdict::Depends(on) => panic!("depends: {on}"),
        Verdict::Admitted => {
            let fact = |subject: &str, name: &str| {
                let step = told.steps().iter().find(|it| it.subject == subject)?;
                step.facts[name].as_str().map(str::to_owned)
            };
            let of = |name: &str| fact("rewrite", name).or_else(|| fact("request", name)).unwrap();
            let headers = told.steps().iter().find(|it| it.subject == "headers");
            let all = headers.and_then(|it| it.facts["request"].as_array()).cloned().unwrap_or_default();
            let rule = all.iter().find_map(|it| it.as_str()?.strip_prefix("x-rule: ").map(str::to_owned));
            Outcome::Sent { target: of("target"), host: of("authority"), rule: rule.unwrap_or_default() }
        }
    }
}

#[tokio::test]
async fn what_is_explained_is_what_becomes_of_a_request() {
    let (mut made, mut sent_on) = (0, 0);
    for configuration in configurations() {
        let text = web(1, &[]) + PARTIES + &configuration;
        let rig = Rig::new(&text);
        assert!(rig.conversation.caller.is_some());
        let manifests = Manifests::of(vec![("all.yaml".into(), text.into())], MeshSettings::default());
        for asking in requests() {
            let (told, verdict) = explained(&manifests, &asking);
            let came = sent(&rig, &asking).await;
            let lines = told.lines(&verdict);
            assert_eq!(outcome(&told, &verdict), came, "{asking:?}\n{lines}\n{configuration}");
            *if matches!(came, Outcome::Made(_)) { &mut made } else { &mut sent_on } += 1;
        }
    }
    assert!(made > 200 && sent_on > 200, "{made} answered, {sent_on} sent on");
}

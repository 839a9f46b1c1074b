//! Routes of the Gateway API as operators write them, good and bad. Tables hold a rule in YAML's flow style.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::config::decode::{Decoded, yaml};
use crate::config::gateway::{Backend, GatewayRoute, ParentKind, PathRank};
use crate::config::names::Names;
use crate::config::routing::http::{Redirect, RedirectPath, RedirectPort, RewritePath};
use crate::config::routing::request::ValueMatch;
use crate::config::routing::{HttpAction, HttpRoute, Share, StringMatch};
use crate::config::{ObjectName, Resource};

const PARENT: &str = "{group: '', kind: Service, name: web}";

/// A route `shop/web` of a kind with a `spec`.
pub(super) fn of_kind(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: web\n  namespace: shop\nspec: \
         {spec}\n"
    )
}

/// An HTTPRoute of one rule; `TO` in it is a backend.
pub(super) fn http(rule: &str) -> String {
    let rule = rule.replace("TO", "backendRefs: [{name: web, port: 80}]");
    of_kind("HTTPRoute", &format!("{{parentRefs: [{PARENT}], rules: [{{{rule}}}]}}"))
}

pub(super) fn grpc(rule: &str) -> String {
    let rule = rule.replace("TO", "backendRefs: [{name: web, port: 80}]");
    of_kind("GRPCRoute", &format!("{{parentRefs: [{PARENT}], rules: [{{{rule}}}]}}"))
}

fn read(text: &str) -> Decoded {
    yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
}

fn resource(text: &str) -> Resource {
    let decoded = read(text);
    let rejected: Vec<String> = decoded.rejected.iter().map(ToString::to_string).collect();
    assert!(rejected.is_empty(), "{rejected:#?}\n{text}");
    assert_eq!(decoded.stated.len(), 1, "{text}");
    decoded.stated[0].resource.clone()
}

fn route(text: &str) -> Arc<GatewayRoute> {
    match resource(text) {
        Resource::Route(it) => it,
        other => panic!("{other:?}"),
    }
}

/// The only rule of an HTTPRoute.
fn rule(stated: &str) -> HttpRoute {
    route(&http(stated)).http[0].clone()
}

fn notes(text: &str) -> Vec<(String, &'static str)> {
    resource(text).notes().iter().map(|it| (it.field.to_string(), it.caveat.label())).collect()
}

pub(super) fn assert_refused(cases: &[(&str, &str, &str)], text: impl Fn(&str) -> String, prefix: &str) {
    let mut wrong = Vec::new();
    for (part, field, reason) in cases {
        let decoded = read(&text(part));
        let [rejected] = &decoded.rejected[..] else {
            wrong.push(format!("{part}\n  accepted"));
            continue;
        };
        let path = format!("{prefix}{field}");
        let at_field = *rejected.field == *path
            || rejected.field.strip_suffix(field).is_some_and(|it| it.is_empty() || it.ends_with('.'));
        if !at_field || !rejected.reason.contains(reason) || rejected.subject.key().is_none() {
            wrong.push(format!("{part}\n  {rejected}\n  expected {path} {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_and_version_is_read_and_what_is_nearly_its_group_is_refused() {
    let tcp = of_kind(
        "TCPRoute",
        &format!("{{parentRefs: [{PARENT}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}"),
    );
    for (text, key) in [
        (http("TO"), "HTTPRoute shop/web"),
        (http("TO").replace("io/v1", "io/v1beta1"), "HTTPRoute shop/web"),
        (grpc("TO"), "GRPCRoute shop/web"),
        (tcp.clone(), "TCPRoute shop/web"),
        (tcp.replace("io/v1", "io/v1alpha2"), "TCPRoute shop/web"),
        (tcp.replace("TCP", "TLS").replace("io/v1", "io/v1alpha3"), "TLSRoute shop/web"),
    ] {
        assert_eq!(resource(&text).key().to_string(), key);
    }
    for (from, to) in [("io/v1", "io/v9"), ("gateway.networking.k8s.io", "gateway.networking.k8s.oi")] {
        let rejected = read(&http("TO").replace(from, to)).rejected;
        assert!(rejected[0].reason.contains("expected gateway.networking.k8s.io/v1"), "{}", rejected[0]);
    }
    let foreign = read(&http("TO").replace("gateway.networking.k8s.io", "routes.example.com"));
    assert_eq!((foreign.rejected.len(), foreign.skipped.len()), (0, 1));
}

#[test]
fn parents_are_services_entries_and_gateways() {
    let spec = "{parentRefs: [{name: wp}, {group: '', kind: Service, name: a, namespace: other, port: 80, sectionName: http}, \
                {group: networking.istio.io, kind: ServiceEntry, name: api}, {group: x.example, kind: Thing, name: z}]}";
    let stated = route(&of_kind("HTTPRoute", spec));
    let parents: Vec<_> = stated.parents.iter().map(|it| (it.kind, it.object.to_string(), it.port)).collect();
    assert_eq!(
        parents,
        [
            (ParentKind::Gateway, "shop/wp".to_owned(), None),
            (ParentKind::Service, "other/a".to_owned(), Some(80)),
            (ParentKind::Entry, "shop/api".to_owned(), None)
        ]
    );
    assert_eq!(stated.parents[1].section.as_deref(), Some("http"));
    assert_eq!(
        notes(&of_kind("HTTPRoute", spec)),
        [("spec.parentRefs[3]".to_owned(), "parent-ignored"), ("spec.rules[0]".to_owned(), "no-backends")]
    );
    assert_eq!(
        notes(&of_kind("HTTPRoute", "{rules: [{backendRefs: [{name: a, port: 1}]}]}"))[0].1,
        "no-parents"
    );
}

#[test]
fn matches_become_conditions_and_know_their_rank() {
    let stated = route(&http(
        "matches: [{path: {type: Exact, value: /a}, method: GET}, {path: {value: /b/}}, \
         {path: {type: RegularExpression, value: '/c.*'}, headers: [{name: X-A, value: b}, {name: x-b, type: \
         RegularExpression, value: 'c+'}], queryParams: [{name: q, value: '1'}]}, {}], TO",
    ));
    let matches = &stated.http[0].matches;
    assert_eq!(matches[0].path, Some(StringMatch::Exact("/a".into())));
    assert_eq!(matches[0].method, Some(StringMatch::Exact("GET".into())));
    assert_eq!(matches[1].path, Some(StringMatch::Segments("/b".into())));
    assert!(matches!(&matches[2].headers[1].1, ValueMatch::Value(StringMatch::Regex(_))));
    assert_eq!(matches[2].query.len(), 1);
    assert_eq!(
        matches[3].path,
        Some(StringMatch::Segments("".into())),
        "a match that states nothing takes all"
    );
    let ranks = &stated.ranks[0];
    assert!(ranks[0] > ranks[1] && ranks[1] > ranks[3] && ranks[3] > ranks[2], "{ranks:?}");
    assert_eq!((ranks[2].path, ranks[2].headers, ranks[2].query), (PathRank::Regex, 2, 1));
    assert_eq!(&*stated.http[0].name, "shop.web.0");
    assert_eq!(&*rule("name: first, TO").name, "first");
}

#[test]
fn backends_have_weights_and_those_without_any_get_nothing() {
    let stated = rule(
        "backendRefs: [{name: a, port: 80}, {name: b, namespace: other, port: 81, weight: 9}, {name: c, port: 80, weight: 0}]",
    );
    let HttpAction::Forward(to) = &stated.action else { panic!("{stated:?}") };
    let told: Vec<_> = to
        .iter()
        .map(|it| (it.destination.backend.clone().unwrap(), it.destination.port, it.weight))
        .collect();
    assert_eq!(
        told,
        [
            (Backend::Service(ObjectName::new("shop", "a")), Some(80), 1),
            (Backend::Service(ObjectName::new("other", "b")), Some(81), 9)
        ]
    );
    assert_eq!(notes(&http("backendRefs: [{name: c, port: 80, weight: 0}]"))[0].1, "no-backends");
    let unknown = "backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: a}]";
    assert_eq!(notes(&http(unknown)), [("spec.rules[0].backendRefs[0]".to_owned(), "backend-unknown")]);
}

#[test]
fn filters_become_what_a_virtual_service_states() {
    let stated = rule(
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: '1'}, {name: Host, value: \
         b.example}], add: [{name: b, value: '2'}], remove: [c]}}, {type: ResponseHeaderModifier, \
         responseHeaderModifier: {set: [{name: d, value: '4'}]}}, {type: RequestMirror, requestMirror: {backendRef: {name: \
         m, port: 80}, percent: 25}}, {type: RequestMirror, requestMirror: {backendRef: {name: m2, port: 80}, fraction: \
         {numerator: 1, denominator: 1000}}}, {type: URLRewrite, urlRewrite: {hostname: h.example, path: {type: \
         ReplacePrefixMatch, replacePrefixMatch: /x/}}}], TO",
    );
    let request = &stated.headers.request;
    assert_eq!((request.set.len(), request.add.len(), request.remove.len()), (1, 1, 1));
    assert_eq!(stated.headers.authority.as_deref(), Some("b.example"));
    assert_eq!(stated.headers.response.set.len(), 1);
    let shares: Vec<_> = stated.mirrors.iter().map(|it| it.share).collect();
    assert_eq!(shares, [Share::percent(25.0).unwrap(), Share::percent(0.1).unwrap()]);
    let rewrite = stated.rewrite.unwrap();
    assert_eq!(rewrite.path, Some(RewritePath::Matched("/x".into())));
    assert_eq!(rewrite.authority.as_deref(), Some("h.example"));
    let full = rule(
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /y/}}}], TO",
    );
    assert_eq!(full.rewrite.unwrap().path, Some(RewritePath::Whole("/y/".into())));
}

#[test]
fn a_redirect_keeps_the_port_that_was_called_unless_it_changes_the_scheme() {
    let redirect = |stated: &str| match rule(&format!(
        "filters: [{{type: RequestRedirect, requestRedirect: {{{stated}}}}}]"
    ))
    .action
    {
        HttpAction::Redirect(it) => it,
        other => panic!("{other:?}"),
    };
    let whole =
        redirect("hostname: a.example, path: {type: ReplaceFullPath, replaceFullPath: /n}, statusCode: 308");
    assert_eq!(
        whole,
        Redirect {
            path: Some(RedirectPath::Whole("/n".into())),
            authority: Some("a.example".into()),
            port: Some(RedirectPort::OfRequest),
            scheme: None,
            status: StatusCode::PERMANENT_REDIRECT
        }
    );
    assert_eq!(redirect("").status, StatusCode::FOUND);
    assert_eq!(redirect("scheme: https").port, Some(RedirectPort::OfScheme));
    assert_eq!(redirect("scheme: https, port: 8443").port, Some(RedirectPort::Number(8443)));
    let prefix = redirect("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}");
    assert_eq!(prefix.path, Some(RedirectPath::Prefix("".into())));
}

#[test]
fn cors_allows_origins_with_a_star_in_them() {
    let stated = rule(
        "filters: [{type: CORS, cors: {allowOrigins: ['https://*.example.com', 'http://a.b'], allowMethods: [GET], \
         allowHeaders: [x-a], allowCredentials: true}}], TO",
    );
    let cors = stated.cors.unwrap();
    let allows = |origin: &str| cors.origins.iter().any(|it| it.matches(origin));
    for (origin, expected) in [
        ("https://x.example.com", true),
        ("https://x.y.example.com", true),
        ("https://example.com", false),
        ("https://x.example.com.evil", false),
        ("https://xexample-com", false),
        ("http://a.b", true),
        ("http://aXb", false),
    ] {
        assert_eq!(allows(origin), expected, "{origin}");
    }
    assert_eq!((cors.max_age, cors.credentials), (Some(Duration::from_secs(5)), Some(true)));
}

#[test]
fn timeouts_and_retries_are_read() {
    let stated = rule(
        "timeouts: {request: 10s, backendRequest: 2s}, retry: {codes: [503], attempts: 3, backoff: 50ms}, TO",
    );
    let retries = stated.retries.unwrap();
    assert_eq!(
        (stated.timeout, retries.per_try_timeout),
        (Some(Duration::from_secs(10)), Some(Duration::from_secs(2)))
    );
    assert_eq!((retries.attempts, retries.backoff), (Some(3), Some(Duration::from_millis(50))));
    assert_eq!(*retries.retry_on.unwrap().statuses, [StatusCode::SERVICE_UNAVAILABLE]);
    let stated = rule("timeouts: {request: 0s, backendRequest: 0s}, TO");
    assert!(stated.timeout.is_none() && stated.retries.is_none(), "0 turns a timeout off");
    assert!(rule("timeouts: {backendRequest: 2s}, TO").retries.unwrap().retry_on.is_none());
}

#[test]
fn a_filter_that_is_not_implemented_breaks_its_rule_and_not_the_route() {
    for filter in [
        "{type: ExtensionRef, extensionRef: {group: example.com, kind: Auth, name: a}}",
        "{type: ExtensionRef, extensionRef: {group: '', kind: Secret, name: a}}",
    ] {
        let text = http(&format!("filters: [{filter}], TO"));
        let HttpAction::Forward(to) = &route(&text).http[0].action else { panic!("{filter}") };
        assert!(to.is_empty(), "its requests must not be sent on: {filter}");
        let notes: Vec<_> = notes(&text).into_iter().map(|(_, label)| label).collect();
        assert_eq!(notes, ["filter-unknown", "no-backends"], "{filter}");
    }
    let ours =
        "{type: ExtensionRef, extensionRef: {group: gateway.ebb.dev, kind: HTTPFaultFilter, name: slow}}";
    assert_eq!(rule(&format!("filters: [{ours}], TO")).fault_filter, Some(ObjectName::new("shop", "slow")));
    let inner = rule(
        "backendRefs: [{name: a, port: 80, filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]",
    );
    let HttpAction::Forward(to) = &inner.action else { panic!("{inner:?}") };
    assert!(matches!(to[0].destination.backend, Some(Backend::Unknown(_))), "{to:?}");
}

#[test]
fn a_backend_is_rewritten_to_and_copied_by_itself() {
    let stated = rule(
        "matches: [{path: {value: /a}}], backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: \
         a.b, path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}, {type: RequestMirror, requestMirror: {backendRef: \
         {name: m, port: 80}, percent: 50}}, {type: RequestMirror, requestMirror: {backendRef: {name: p, port: 80}}}]}, {name: \
         b, port: 80}]",
    );
    let HttpAction::Forward(to) = &stated.action else { panic!("{stated:?}") };
    let rewrite = to[0].rewrite.as_ref().unwrap();
    assert_eq!(rewrite.authority.as_deref(), Some("a.b"));
    assert_eq!(rewrite.path, Some(RewritePath::Matched("/c".into())));
    let shares: Vec<u32> = to[0].mirrors.iter().map(|it| it.share.per_million()).collect();
    assert_eq!(shares, [500_000, 1_000_000]);
    assert_eq!((&to[1].rewrite, to[1].mirrors.len(), stated.mirrors.len()), (&None, 0, 0));
}

#[test]
fn a_session_ends_as_stated_whatever_carries_it() {
    for (stated, lasts, idle) in [
        ("type: Header, sessionName: x-s", None, None),
        ("absoluteTimeout: 1h, idleTimeout: 90s", Some(3600), Some(90)),
        ("type: Header, sessionName: x-s, idleTimeout: 1m", None, Some(60)),
    ] {
        let session = rule(&format!("sessionPersistence: {{{stated}}}, TO")).session.unwrap();
        let seconds = |it: Option<Duration>| it.map(|it| it.as_secs());
        assert_eq!((seconds(session.lasts), seconds(session.idle)), (lasts, idle), "{stated}");
    }
}

#[test]
fn a_call_of_grpc_is_matched_by_its_path() {
    for (method, path, expected) in [
        ("{service: a.B, method: C}", "/a.B/C", true),
        ("{service: a.B, method: C}", "/a.B/D", false),
        ("{service: a.B}", "/a.B/D", true),
        ("{service: a.B}", "/a.BB/D", false),
        ("{method: C}", "/x.Y/C", true),
        ("{method: C}", "/x.Y/CC", false),
        ("{type: RegularExpression, service: 'a\\..+', method: 'C|D'}", "/a.B/D", true),
        ("{type: RegularExpression, service: 'a|b'}", "/b/X", true),
        ("{type: RegularExpression, service: 'a|b'}", "/c/X", false),
    ] {
        let stated = route(&grpc(&format!("matches: [{{method: {method}}}], TO")));
        let matched = &stated.http[0].matches[0];
        assert_eq!(matched.path.as_ref().unwrap().matches(path), expected, "{method} {path}");
        assert!(matched.is_grpc);
    }
    let ranks = |method: &str| route(&grpc(&format!("matches: [{{method: {method}}}], TO"))).ranks[0][0];
    assert!(
        ranks("{service: abc}") > ranks("{service: ab, method: abcd}"),
        "the service goes before the method"
    );
    assert!(ranks("{service: ab, method: a}") > ranks("{service: ab}"));
}

#[test]
fn connections_are_routed_by_their_server_name() {
    let text = of_kind(
        "TLSRoute",
        &format!(
            "{{parentRefs: [{PARENT}], hostnames: [a.example, '*.b.example'], rules: [{{backendRefs: [{{name: web, port: 443}}]}}]}}"
        ),
    );
    let stated = route(&text);
    let names: Vec<_> = stated.tls[0].matches.iter().map(|it| &*it.sni_hosts[0]).collect();
    assert_eq!(names, ["a.example", "*.b.example"]);
    assert!(stated.hostnames.is_empty() && stated.http.is_empty());
}

#[test]
fn grants_and_faults_are_read() {
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: \
                 data}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: \
                 [{group: '', kind: Service, name: a}]}\n";
    let Resource::ReferenceGrant(grant) = resource(grant) else { panic!("no grant") };
    use crate::config::gateway::RouteKind::{Grpc, Http};
    for (kind, namespace, service, expected) in [
        (Http, "shop", "a", true),
        (Http, "shop", "b", false),
        (Http, "x", "a", false),
        (Grpc, "shop", "a", false),
    ] {
        assert_eq!(grant.permits(kind, namespace, service), expected, "{kind:?} {namespace} {service}");
    }
    let fault = |spec: &str| {
        format!(
            "apiVersion: gateway.ebb.dev/v1alpha1\nkind: HTTPFaultFilter\nmetadata: {{name: f, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let text = fault(
        "{delay: {fixedDelay: 2s, percentage: {value: 10}}, abort: {httpStatus: 503, percentage: {value: 0.5}}}",
    );
    let Resource::FaultFilter(filter) = resource(&text) else { panic!("no filter") };
    assert_eq!(filter.fault.abort.as_ref().unwrap().share, Share::percent(0.5).unwrap());
    assert_refused(
        &[
            ("{}", "spec", "neither delay nor abort"),
            ("{delay: {fixedDelay: 2s}}", "spec.delay", "never fires"),
            ("{delay: {fixedDelay: 2s, percent: 5}}", "spec.delay.percent", "deprecated"),
            ("{abort: {httpStatus: 99, percentage: {value: 1}}}", "spec.abort.httpStatus", "200 to 599"),
            ("{delays: {}}", "delays", "unknown field"),
        ],
        fault,
        "",
    );
}

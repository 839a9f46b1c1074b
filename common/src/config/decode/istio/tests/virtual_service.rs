//! What each field of a VirtualService becomes.

use std::time::Duration;

use http::StatusCode;

use super::{good_route, good_service, http, notes, virtual_service};
use crate::config::ObjectName;
use crate::config::routing::cors::Listed;
use crate::config::routing::http::{HttpAction, RedirectPath, RedirectPort, RewritePath};
use crate::config::routing::request::{HeaderKey, ValueMatch};
use crate::config::routing::resilience::{AbortWith, RetryCondition};
use crate::config::routing::{Gateways, Share, StringMatch, Visibility};

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

#[test]
fn hosts_gateways_and_visibility_are_those_stated() {
    let service = good_service(&virtual_service(
        "{hosts: [web, web.shop.svc.cluster.local, '*.example.com', 10.0.0.1, 'fd00::1'], gateways: [mesh, edge, infra/in], \
         exportTo: [., bank], http: [{ROUTE}]}",
    ));
    assert_eq!(service.hosts.len(), 5);
    assert!(service.gateways.mesh);
    assert_eq!(*service.gateways.named, [ObjectName::new("shop", "edge"), ObjectName::new("infra", "in")]);
    assert!(service.visibility.reaches("shop") && service.visibility.reaches("bank"));
    assert!(!service.visibility.reaches("other"));
    let plain = good_service(&http("ROUTE"));
    assert_eq!((&plain.gateways, &plain.visibility), (&Gateways::default(), &Visibility::Everywhere));
    let edge =
        good_service(&virtual_service("{hosts: ['*'], gateways: [edge], exportTo: ['*'], http: [{ROUTE}]}"));
    assert!(!edge.gateways.mesh && edge.visibility.reaches("anyone"));
}

#[test]
fn a_match_is_every_condition_of_its_entry() {
    let route = good_route(
        "match: [{name: m, uri: {exact: /a}, scheme: {exact: http}, method: {regex: 'GET|HEAD'}, authority: {prefix: web}, \
         headers: {X-User: {exact: me}, x-there: {}, x-any: {regex: '*'}, '@request.auth.claims[a][b]': {exact: c}}, \
         withoutHeaders: {x-not: {prefix: a}, authority: {}}, queryParams: {q: {exact: '1'}, p: {}}, port: 8080, \
         sourceLabels: {app: cart}, sourceNamespace: shop, gateways: [mesh], statPrefix: s}, \
         {uri: {prefix: /B}, ignoreUriCase: true}, {uri: {regex: '/c/[0-9]+'}}, {uri: {exact: /D}, ignoreUriCase: true}], \
         name: r, ROUTE",
    );
    assert_eq!((&*route.name, route.matches.len()), ("r", 4));
    let first = &route.matches[0];
    assert_eq!((&*first.name, &*first.stat_prefix, first.port), ("m", "s", Some(8080)));
    assert_eq!((&first.path, &first.scheme), (&Some(exact("/a")), &Some(exact("http"))));
    assert!(
        first.method.as_ref().unwrap().matches("HEAD") && !first.method.as_ref().unwrap().matches("HEADS")
    );
    assert_eq!(first.authority, Some(StringMatch::Prefix("web".into())));
    let header = |name: &'static str| HeaderKey::Header(http::HeaderName::from_static(name));
    assert_eq!(
        *first.headers,
        [
            (header("x-user"), ValueMatch::Value(exact("me"))),
            (header("x-there"), ValueMatch::Present),
            (header("x-any"), ValueMatch::Present),
            (HeaderKey::Claim(["a".into(), "b".into()].into()), ValueMatch::Value(exact("c"))),
        ]
    );
    assert_eq!(first.without_headers[0].0, header("x-not"));
    assert_eq!(first.without_headers[1], (header("authority"), ValueMatch::Present));
    assert_eq!(first.query[0], ("q".into(), ValueMatch::Value(exact("1"))));
    assert_eq!(first.query[1].1, ValueMatch::Present);
    assert_eq!(first.source_labels.get("app").map(|it| &**it), Some("cart"));
    assert_eq!(first.source_namespace.as_deref(), Some("shop"));
    assert_eq!(first.gateways, Some(Gateways::default()));
    assert!(!first.takes_everything());
    assert!(route.matches[1].path.as_ref().unwrap().matches("/bc"));
    assert!(route.matches[2].path.as_ref().unwrap().matches("/c/12"));
    assert!(route.matches[3].path.as_ref().unwrap().matches("/d"));
    let dotted = good_route("match: [{headers: {'@request.auth.claims.group': {exact: a}}}], ROUTE");
    assert_eq!(dotted.matches[0].headers[0].0, HeaderKey::Claim(["group".into()].into()));
}

#[test]
fn a_route_has_weighted_destinations_each_with_headers_of_its_own() {
    let route = good_route(
        "route: [{destination: {host: web, subset: v1, port: {number: 80}}, weight: 90, headers: {response: {set: {x: z}}}}, \
         {destination: {host: web.shop.svc.cluster.local, subset: v2}, weight: 10}, {destination: {host: '*.x.com'}, weight: 0}]",
    );
    let HttpAction::Forward(to) = &route.action else { panic!("{route:?}") };
    assert_eq!(to.iter().map(|it| it.weight).collect::<Vec<_>>(), [90, 10, 0]);
    let first = &to[0].destination;
    assert_eq!((&*first.host, first.subset.as_deref(), first.port), ("web", Some("v1"), Some(80)));
    assert_eq!(to[0].headers.response.set.len(), 1);
    // A sum other than 100 is a proportion, and one destination needs no weight.
    good_route(
        "route: [{destination: {host: a}, weight: 10}, {destination: {host: b}, weight: 10}, {destination: {host: c}, weight: 80}]",
    );
    good_route("route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 2}]");
    good_route("route: [{destination: {host: a}, weight: 0}]");
}

#[test]
fn redirects_and_direct_responses_answer_by_themselves() {
    let redirect =
        |text: &str| match good_route(&format!("match: [{{uri: {{prefix: /a}}}}], redirect: {{{text}}}"))
            .action
        {
            HttpAction::Redirect(it) => it,
            other => panic!("{other:?}"),
        };
    let full = redirect(
        "uri: /new, authority: 'new.example.com:8443', scheme: https, redirectCode: 308, port: 8443",
    );
    assert_eq!(full.path, Some(RedirectPath::Whole("/new".into())));
    assert_eq!(full.authority.as_deref(), Some("new.example.com:8443"));
    assert_eq!((full.scheme.as_deref(), full.port), (Some("https"), Some(RedirectPort::Number(8443))));
    assert_eq!(full.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(redirect("uri: /x").status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirect("prefixRewrite: /b").path, Some(RedirectPath::Prefix("/b".into())));
    assert_eq!(redirect("derivePort: FROM_PROTOCOL_DEFAULT").port, Some(RedirectPort::OfScheme));
    assert_eq!(redirect("derivePort: FROM_REQUEST_PORT").port, Some(RedirectPort::OfRequest));
    for code in [301, 302, 303, 307, 308] {
        assert_eq!(redirect(&format!("scheme: http, redirectCode: {code}")).status.as_u16(), code);
    }
    for (text, status, body) in [
        ("status: 503, body: {string: 'out of order'}", 503, "out of order"),
        ("status: 200, body: {bytes: aGVsbG8=}", 200, "hello"),
        ("status: 204", 204, ""),
    ] {
        let HttpAction::Respond(it) = good_route(&format!("directResponse: {{{text}}}")).action else {
            panic!("{text}")
        };
        assert_eq!((it.status.as_u16(), &it.body[..]), (status, body.as_bytes()));
    }
}

#[test]
fn rewrites_are_of_path_and_authority() {
    let rewrite = |text: &str| good_route(&format!("rewrite: {{{text}}}, ROUTE")).rewrite.unwrap();
    let both = rewrite("uri: /v2, authority: web.example.com");
    assert_eq!(both.path, Some(RewritePath::Matched("/v2".into())));
    assert_eq!(both.authority.as_deref(), Some("web.example.com"));
    let regex = r"uriRegexRewrite: {match: '^/api/v(\d+)/(.*)$', rewrite: '/\2?v=\1'}";
    let Some(RewritePath::Substitution(it)) = rewrite(regex).path else { panic!() };
    assert_eq!(it.apply(b"/api/v3/users"), b"/users?v=3");
    let text = http(&format!("rewrite: {{uri: /x, {regex}}}, ROUTE"));
    assert_eq!(notes(&text), [("spec.http[0].rewrite.uri".to_owned(), "regex-rewrite-wins")]);
}

#[test]
fn headers_are_set_added_and_removed_and_the_host_is_the_authority() {
    let route = good_route(
        "headers: {request: {set: {X-A: b, ':authority': one.example}, add: {x-c: 'd e', host: two.example}, remove: [X-F, x-g]}, \
         response: {set: {x-h: ''}, add: {x-i: 'é'}, remove: [server]}}, ROUTE",
    );
    let changes = &route.headers;
    assert_eq!(changes.authority.as_deref(), Some("one.example"));
    assert_eq!(changes.request.set[0].0, "x-a");
    assert_eq!(changes.request.add[0].1, "d e");
    assert_eq!(changes.request.remove.iter().map(|it| it.as_str()).collect::<Vec<_>>(), ["x-f", "x-g"]);
    assert_eq!((changes.response.set.len(), changes.response.add.len()), (1, 1));
    let text = http(
        "headers: {request: {set: {':path': /x}, remove: [host]}, response: {add: {host: x, x: '%REQ(Y)%'}}}, ROUTE",
    );
    let found = notes(&text);
    let labels: Vec<_> = found.iter().map(|it| it.1).collect();
    assert_eq!(labels.iter().filter(|it| **it == "pseudo-header-ignored").count(), 3, "{found:?}");
    assert!(labels.contains(&"formatter-not-expanded"), "{found:?}");
}

#[test]
fn timeouts_and_retries_are_as_stated_and_zero_is_no_timeout() {
    let timeout = |text: &str| good_route(&format!("timeout: {text}, ROUTE")).timeout;
    assert_eq!(timeout("0.5s"), Some(Duration::from_millis(500)));
    assert_eq!(timeout("1h"), Some(Duration::from_secs(3600)));
    assert_eq!(timeout("0s"), None);
    let text = "attempts: 3, perTryTimeout: 2s, retryOn: 'connect-failure, 503,gateway-error, unavailable', backoff: 10ms, \
                retryIgnorePreviousHosts: false, retryRemoteLocalities: true";
    let retries = good_route(&format!("retries: {{{text}}}, ROUTE")).retries.unwrap();
    assert_eq!((retries.attempts, retries.per_try_timeout), (Some(3), Some(Duration::from_secs(2))));
    assert_eq!(retries.backoff, Some(Duration::from_millis(10)));
    assert_eq!((retries.avoid_previous_hosts, retries.remote_localities), (Some(false), Some(true)));
    let on = retries.retry_on.unwrap();
    assert_eq!(
        *on.conditions,
        [RetryCondition::ConnectFailure, RetryCondition::GatewayError, RetryCondition::GrpcUnavailable]
    );
    assert_eq!(*on.statuses, [StatusCode::SERVICE_UNAVAILABLE]);
    assert_eq!(good_route("retries: {attempts: 0}, ROUTE").retries.unwrap().attempts, Some(0));
    for word in [
        "5xx",
        "reset",
        "reset-before-request",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
    ] {
        let retries =
            good_route(&format!("retries: {{attempts: 1, retryOn: {word}}}, ROUTE")).retries.unwrap();
        assert_eq!(retries.retry_on.unwrap().conditions.len(), 1, "{word}");
    }
    assert_eq!(
        notes(&http("retries: {retryOn: 5xx}, ROUTE")),
        [("spec.http[0].retries".to_owned(), "attempts-not-stated")]
    );
}

#[test]
fn faults_and_mirrors_have_exact_shares() {
    let fault = |text: &str| good_route(&format!("fault: {{{text}}}, ROUTE")).fault;
    let both = fault(
        "delay: {fixedDelay: 5s, percentage: {value: 0.1}}, abort: {httpStatus: 503, percentage: {value: 50}}",
    );
    let delay = both.delay.unwrap();
    assert_eq!((delay.fixed, delay.share.per_million()), (Duration::from_secs(5), 1000));
    let abort = both.abort.unwrap();
    assert_eq!(
        (abort.with, abort.share.per_million()),
        (AbortWith::Http(StatusCode::SERVICE_UNAVAILABLE), 500_000)
    );
    let grpc = fault("abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100.0}}").abort.unwrap();
    assert_eq!((grpc.with, grpc.share), (AbortWith::Grpc(14), Share::ALL));
    assert_eq!(fault("delay: {fixedDelay: 1s, percent: 10}").delay.unwrap().share.per_million(), 100_000);
    let wins = fault("delay: {fixedDelay: 1s, percent: 10, percentage: {value: 20}}").delay.unwrap();
    assert_eq!(wins.share.per_million(), 200_000);
    assert_eq!(fault("delay: {fixedDelay: 1s}").delay.unwrap().share, Share::NONE);
    let mirrors = |text: &str| {
        let route = good_route(&format!("{text}, ROUTE"));
        route
            .mirrors
            .iter()
            .map(|it| (it.destination.host.to_string(), it.share.per_million()))
            .collect::<Vec<_>>()
    };
    let one = |share| vec![("m".to_owned(), share)];
    assert_eq!(mirrors("mirror: {host: m}"), one(1_000_000));
    assert_eq!(mirrors("mirror: {host: m, subset: v2}, mirrorPercentage: {value: 0}"), one(0));
    assert_eq!(
        mirrors("mirror: {host: m}, mirrorPercentage: {value: 12.5}, mirrorPercent: 90"),
        one(125_000)
    );
    assert_eq!(mirrors("mirror: {host: m}, mirror_percent: 90"), one(900_000));
    let several = mirrors(
        "mirror: {host: m}, mirrors: [{destination: {host: p}, percentage: {value: 1}}, {destination: {host: o}}]",
    );
    assert_eq!(several.iter().map(|it| it.1).collect::<Vec<_>>(), [1_000_000, 10_000, 1_000_000]);
}

#[test]
fn cors_is_as_stated() {
    let cors = |text: &str| good_route(&format!("corsPolicy: {{{text}}}, ROUTE")).cors.unwrap();
    let full = cors(
        "allowOrigins: [{exact: 'https://a.example'}, {prefix: 'https://b.'}, {regex: 'https://.*[.]c[.]example'}], \
         allowMethods: [GET, POST], allowHeaders: [X-A, x-b], exposeHeaders: ['*'], maxAge: 24h, allowCredentials: true, \
         unmatchedPreflights: IGNORE",
    );
    assert!(full.origins[2].matches("https://x.c.example") && !full.origins[2].matches("https://c.example"));
    assert_eq!(full.methods.len(), 2);
    let Listed::Names(names) = &full.headers else { panic!("{full:?}") };
    assert_eq!((names[0].as_str(), names.len()), ("x-a", 2));
    assert_eq!((&full.expose, full.max_age), (&Listed::Any, Some(Duration::from_secs(86_400))));
    assert_eq!((full.credentials, full.ignore_unmatched), (Some(true), true));
    let older = cors("allowOrigin: ['*'], unmatchedPreflights: FORWARD");
    assert!(older.origins[0].matches("https://anyone.example") && !older.ignore_unmatched);
    assert_eq!(
        notes(&http("corsPolicy: {allowOrigin: [a.example]}, ROUTE")),
        [("spec.http[0].corsPolicy.allowOrigin".to_owned(), "legacy-allow-origin")]
    );
}

#[test]
fn delegation_goes_to_a_virtual_service_without_hosts() {
    let delegate =
        |text: &str| match good_route(&format!("match: [{{uri: {{prefix: /a}}}}], delegate: {{{text}}}"))
            .action
        {
            HttpAction::Delegate(it) => it,
            other => panic!("{other:?}"),
        };
    assert_eq!(delegate("name: cart"), ObjectName::new("shop", "cart"));
    assert_eq!(delegate("name: cart, namespace: bank"), ObjectName::new("bank", "cart"));
    assert!(good_service(&virtual_service("{http: [{ROUTE}]}")).hosts.is_empty());
}

#[test]
fn connections_are_routed_by_server_name_port_and_address() {
    let service = good_service(&virtual_service(
        "{hosts: [web, '*.example.com'], tls: [{match: [{sniHosts: [a.example.com, '*.b.example.com'], port: 443, \
         destinationSubnets: [10.1.0.0/16], sourceLabels: {a: b}, sourceNamespace: shop, gateways: [mesh]}], ROUTE}], \
         tcp: [{match: [{port: 27017, destinationSubnets: ['10.0.0.1'], sourceLabels: {a: b}, sourceNamespace: x, gateways: [edge]}], \
         route: [{destination: {host: a}, weight: 20}, {destination: {host: b}, weight: 80}]}, {ROUTE}]}",
    ));
    let tls = &service.tls[0].matches[0];
    assert_eq!((tls.sni_hosts.len(), tls.connection.port), (2, Some(443)));
    assert_eq!(tls.connection.destination_subnets[0].to_string(), "10.1.0.0/16");
    assert_eq!(tls.connection.source_namespace.as_deref(), Some("shop"));
    let tcp = &service.tcp[0];
    assert_eq!((tcp.matches[0].port, tcp.route[1].weight), (Some(27017), 80));
    assert!(!tcp.matches[0].gateways.as_ref().unwrap().mesh);
    assert!(service.tcp[1].matches.is_empty());
    let text = virtual_service("{hosts: [web], tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], ROUTE}]}");
    assert_eq!(notes(&text), [("spec.tcp[0].match[0].sourceSubnet".to_owned(), "source-subnet-ignored")]);
}

#[test]
fn what_is_accepted_with_a_caveat_is_noted_by_field() {
    for (route, field, label) in [
        ("match: [{headers: {uri: {exact: /a}}}], ROUTE", "match[0].headers[\"uri\"]", "header-key-ignored"),
        (
            "match: [{headers: {method: {exact: GET}}}], ROUTE",
            "match[0].headers[\"method\"]",
            "header-key-ignored",
        ),
        (
            "match: [{uri: {regex: a}, ignoreUriCase: true}], ROUTE",
            "match[0].ignoreUriCase",
            "ignore-case-without-effect",
        ),
        ("fault: {delay: {fixedDelay: 5s}}, ROUTE", "fault.delay", "fault-never-fires"),
        ("fault: {abort: {httpStatus: 500}}, ROUTE", "fault.abort", "fault-never-fires"),
        ("fault: {delay: {fixedDelay: 5s, percent: 10}}, ROUTE", "fault.delay.percent", "legacy-percent"),
        (
            "fault: {delay: {exponentialDelay: 5s}}, ROUTE",
            "fault.delay.exponentialDelay",
            "exponential-delay-ignored",
        ),
        ("mirror: {host: m}, mirrorPercent: 5, ROUTE", "mirrorPercent", "legacy-percent"),
    ] {
        assert_eq!(notes(&http(route)), [(format!("spec.http[0].{field}"), label)], "{route}");
    }
    assert_eq!(notes(&http("fault: {delay: {fixedDelay: 5s, percentage: {value: 0}}}, ROUTE")), []);
    let text = virtual_service("{hosts: [web], http: [{match: [{uri: {prefix: /}}], ROUTE}, {ROUTE}]}");
    assert_eq!(notes(&text), [("spec.http[1]".to_owned(), "never-reached")]);
    let text =
        virtual_service("{hosts: [web], http: [{match: [{uri: {prefix: /}, port: 80}], ROUTE}, {ROUTE}]}");
    assert_eq!(notes(&text), []);
}

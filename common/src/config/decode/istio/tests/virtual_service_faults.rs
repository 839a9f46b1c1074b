//! What is refused of a VirtualService, at which field and why.

use super::{assert_refused, http, refusal, virtual_service};

/// Part of an HTTP route, field below it, reason.
type Cases = &'static [(&'static str, &'static str, &'static str)];

const ACTIONS: Cases = &[
    ("match: [{uri: {exact: /a}}]", "", "states no route, redirect"),
    ("route: []", "", "states no route, redirect"),
    ("redirect: {uri: /a}, ROUTE", ".redirect", "together with route"),
    ("directResponse: {status: 200}, ROUTE", ".directResponse", "together with route"),
    ("redirect: {uri: /a}, directResponse: {status: 200}", ".directResponse", "together with redirect"),
    ("delegate: {name: a}, ROUTE", ".delegate", "together with route"),
    ("delegate: {name: a}, redirect: {uri: /a}", ".delegate", "together with redirect"),
    ("redirect: {uri: /a}, rewrite: {uri: /b}", ".rewrite", "together with redirect"),
    ("redirect: {uri: /a}, fault: {abort: {httpStatus: 500}}", ".fault", "together with redirect"),
    (
        "directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}",
        ".fault",
        "together with directResponse",
    ),
    ("delegate: {}", ".delegate.name", "not the name"),
    ("delegate: {name: a/b}", ".delegate.name", "not the name"),
    ("delegate: {name: a, namespace: A}", ".delegate.namespace", "lower-case"),
    ("ROUTE, weight: 100", "weight", "unknown field"),
    ("routes: []", "routes", "unknown field"),
    ("route: [{host: web}]", "host", "unknown field"),
    ("route: [{destination: {name: web}}]", "name", "unknown field"),
];

const DESTINATIONS: Cases = &[
    ("route: [{}]", ".route[0].destination", "not stated"),
    ("route: [{destination: {subset: v1}}]", ".route[0].destination.host", "not stated"),
    ("route: [{destination: {host: '*'}}]", ".route[0].destination.host", "no destination"),
    ("route: [{destination: {host: Web}}]", ".route[0].destination.host", "lower case"),
    ("route: [{destination: {host: 'web:80'}}]", ".route[0].destination.host", "no host"),
    ("route: [{destination: {host: web, subset: V_1}}]", ".route[0].destination.subset", "lower-case"),
    (
        "route: [{destination: {host: web, port: {number: 0}}}]",
        ".route[0].destination.port.number",
        "1 to 65535",
    ),
    (
        "route: [{destination: {host: web, port: {number: 65536}}}]",
        ".route[0].destination.port.number",
        "1 to 65535",
    ),
    ("route: [{destination: {host: web, port: {}}}]", ".route[0].destination.port.number", "not stated"),
    ("route: [{destination: {host: web, port: {name: http}}}]", "name", "unknown field"),
    ("route: [{destination: {host: web, port: 80}}]", "", "mapping"),
    ("route: [{destination: {host: web}, weight: -1}]", ".route[0].weight", "-1 is negative"),
    ("route: [{destination: {host: web}, weight: 3000000000}]", ".route[0].weight", "not within"),
    ("route: [{destination: {host: web}, weight: '10'}]", "", "where a number belongs"),
    ("route: [{destination: {host: web}, weight: 10.5}]", "", "whole number"),
    ("route: [{destination: {host: web}, weight: 010}]", "", "leading zero"),
    ("route: [{destination: {host: a}}, {destination: {host: b}}]", ".route", "add up to 0"),
    (
        "route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 0}]",
        ".route",
        "add up to 0",
    ),
    (
        "route: [{destination: {host: a}, weight: 2147483647}, {destination: {host: b}, weight: 2147483647}, {destination: {host: c}, weight: 2}]",
        ".route",
        "add up to 4294967296",
    ),
];

const MATCHES: Cases = &[
    ("match: [{schema: {exact: http}}], ROUTE", "schema", "scheme"),
    ("match: [{path: {exact: /a}}], ROUTE", "path", "unknown field"),
    ("match: [{uri: /a}], ROUTE", "", "mapping"),
    ("match: [{uri: {}}], ROUTE", ".match[0].uri", "none of exact"),
    ("match: [{uri: {exact: /a, prefix: /b}}], ROUTE", ".match[0].uri", "more than one"),
    ("match: [{uri: {prefix: ''}}], ROUTE", ".match[0].uri.prefix", "empty prefix"),
    ("match: [{uri: {suffix: /a}}], ROUTE", "suffix", "unknown field"),
    ("match: [{uri: {regex: ''}}], ROUTE", ".match[0].uri.regex", "empty regex"),
    ("match: [{uri: {regex: '*'}}], ROUTE", ".match[0].uri.regex", "no regex"),
    ("match: [{uri: {regex: 'a)|(b'}}], ROUTE", ".match[0].uri.regex", "no regex"),
    ("match: [{uri: {regex: '(?!a)b'}}], ROUTE", ".match[0].uri.regex", "look-around"),
    ("match: [{uri: {regex: '(a{1000}){1000}'}}], ROUTE", ".match[0].uri.regex", "memory"),
    ("match: [{method: {regex: '['}}], ROUTE", ".match[0].method.regex", "no regex"),
    ("match: [{headers: {x-a: {exact: 1.10}}}], ROUTE", "", "quoted"),
    ("match: [{headers: {x-a: {exact: true}}}], ROUTE", "", "quoted"),
    ("match: [{headers: {x-a: b}}], ROUTE", "", "mapping"),
    ("match: [{headers: {x-a: null}}], ROUTE", ".match[0].headers[\"x-a\"]", "write {}"),
    ("match: [{headers: {'x a': {exact: b}}}], ROUTE", ".match[0].headers[\"x a\"]", "no header name"),
    ("match: [{headers: {x-a: {regex: '('}}}], ROUTE", ".match[0].headers[\"x-a\"].regex", "no regex"),
    (
        "match: [{headers: {'@request.auth.claims[a': {exact: b}}}], ROUTE",
        ".match[0].headers[\"@request.auth.claims[a\"]",
        "no claim",
    ),
    ("match: [{queryParams: {'': {exact: b}}}], ROUTE", ".match[0].queryParams[\"\"]", "without a name"),
    ("match: [{port: 0}], ROUTE", ".match[0].port", "1 to 65535"),
    ("match: [{sourceNamespace: A.b}], ROUTE", ".match[0].sourceNamespace", "lower-case"),
    ("match: [{sourceLabels: {a: 'b c'}}], ROUTE", ".match[0].sourceLabels.a", "label value"),
    ("match: [{gateways: [a/b/c]}], ROUTE", ".match[0].gateways[0]", "neither name nor"),
    ("match: {uri: {exact: /a}}, ROUTE", "", "sequence"),
];

const ANSWERS: Cases = &[
    ("redirect: {}", ".redirect", "changes nothing"),
    ("redirect: {redirectCode: 302}", ".redirect", "changes nothing"),
    ("redirect: {uri: /a, redirectCode: 200}", ".redirect.redirectCode", "no status of a redirect"),
    ("redirect: {uri: /a, redirectCode: 304}", ".redirect.redirectCode", "no status of a redirect"),
    ("redirect: {uri: 'a b'}", ".redirect.uri", "no path"),
    ("redirect: {uri: \"/a\\nb\"}", ".redirect.uri", "no path"),
    ("redirect: {scheme: ftp}", ".redirect.scheme", "neither http nor https"),
    ("redirect: {authority: 'a b'}", ".redirect.authority", "no host"),
    ("redirect: {uri: /a, port: 70000}", ".redirect.port", "1 to 65535"),
    ("redirect: {port: 80, derivePort: FROM_REQUEST_PORT}", ".redirect.derivePort", "together with port"),
    ("redirect: {derivePort: from_request_port}", ".redirect.derivePort", "neither"),
    ("redirect: {uri: /a, prefixRewrite: /b}", ".redirect.prefixRewrite", "together with uri"),
    ("redirect: {prefixRewrite: /b}", ".redirect.prefixRewrite", "needs a uri prefix"),
    (
        "match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /b}",
        ".redirect.prefixRewrite",
        "needs a uri prefix",
    ),
    ("directResponse: {}", ".directResponse.status", "not stated"),
    ("directResponse: {status: 99}", ".directResponse.status", "200 to 599"),
    ("directResponse: {status: 600}", ".directResponse.status", "200 to 599"),
    ("directResponse: {status: 200, body: {}}", ".directResponse.body", "neither"),
    ("directResponse: {status: 200, body: {string: a, bytes: YQ==}}", ".directResponse.body", "both"),
    ("directResponse: {status: 200, body: {bytes: '*'}}", ".directResponse.body.bytes", "base64"),
    ("directResponse: {status: 200, body: text}", "", "mapping"),
    ("rewrite: {}, ROUTE", ".rewrite", "changes nothing"),
    ("rewrite: {uri: v2}, ROUTE", ".rewrite.uri", "starts with /"),
    ("rewrite: {uriRegexRewrite: {rewrite: /a}}, ROUTE", ".rewrite.uriRegexRewrite.match", "not stated"),
    ("rewrite: {uriRegexRewrite: {match: '(', rewrite: /a}}, ROUTE", ".rewrite.uriRegexRewrite", "no regex"),
    (
        r"rewrite: {uriRegexRewrite: {match: a, rewrite: '\1'}}, ROUTE",
        ".rewrite.uriRegexRewrite",
        "no such group",
    ),
];

const RESILIENCE: Cases = &[
    ("timeout: 10, ROUTE", "", "quoted"),
    ("timeout: '10', ROUTE", ".timeout", "not a duration"),
    ("timeout: 1d, ROUTE", ".timeout", "not a duration"),
    ("timeout: -1s, ROUTE", ".timeout", "negative"),
    ("retries: {attempts: -1}, ROUTE", ".retries.attempts", "negative"),
    ("retries: {attempts: 0, retryOn: 5xx}, ROUTE", ".retries.attempts", "turns retries off"),
    ("retries: {attempts: 1, perTryTimeout: 0s}, ROUTE", ".retries.perTryTimeout", "less than 1ms"),
    ("retries: {attempts: 1, perTryTimeout: 10us}, ROUTE", ".retries.perTryTimeout", "less than 1ms"),
    ("retries: {attempts: 1, retryOn: '5xx,often'}, ROUTE", ".retries.retryOn", "often"),
    ("retries: {attempts: 1, retryOn: '5xx,'}, ROUTE", ".retries.retryOn", "neither"),
    ("retries: {attempts: 1, retryOn: '700'}, ROUTE", ".retries.retryOn", "neither"),
    ("retries: {attempts: 1, backoff: 0s}, ROUTE", ".retries.backoff", "less than 1ms"),
    ("retries: {attempts: 1, retryRemoteLocalities: maybe}, ROUTE", "", "bool"),
    ("retry: {attempts: 1}, ROUTE", "retry", "unknown field"),
    ("fault: {}, ROUTE", ".fault", "neither delay nor abort"),
    ("fault: {delay: {percentage: {value: 1}}}, ROUTE", ".fault.delay.fixedDelay", "not stated"),
    ("fault: {delay: {fixedDelay: 0s}}, ROUTE", ".fault.delay.fixedDelay", "less than 1ms"),
    (
        "fault: {delay: {fixedDelay: 1s, exponentialDelay: 1s}}, ROUTE",
        ".fault.delay.exponentialDelay",
        "together",
    ),
    (
        "fault: {delay: {fixedDelay: 1s, percentage: {value: 100.1}}}, ROUTE",
        ".fault.delay.percentage.value",
        "100.1",
    ),
    (
        "fault: {delay: {fixedDelay: 1s, percentage: {value: -1}}}, ROUTE",
        ".fault.delay.percentage.value",
        "-1",
    ),
    ("fault: {delay: {fixedDelay: 1s, percentage: {value: .nan}}}, ROUTE", "", "finite"),
    (
        "fault: {delay: {fixedDelay: 1s, percentage: {value: 0.00001}}}, ROUTE",
        ".fault.delay.percentage.value",
        "0.0001",
    ),
    ("fault: {delay: {fixedDelay: 1s, percentage: 10}}, ROUTE", "", "mapping"),
    ("fault: {delay: {fixedDelay: 1s, percent: 101}}, ROUTE", ".fault.delay.percent", "0 to 100"),
    ("fault: {abort: {percentage: {value: 1}}}, ROUTE", ".fault.abort", "neither httpStatus nor grpcStatus"),
    ("fault: {abort: {httpStatus: 199}}, ROUTE", ".fault.abort.httpStatus", "200 to 599"),
    ("fault: {abort: {httpStatus: 600}}, ROUTE", ".fault.abort.httpStatus", "200 to 599"),
    ("fault: {abort: {grpcStatus: unavailable}}, ROUTE", ".fault.abort.grpcStatus", "UNAVAILABLE"),
    (
        "fault: {abort: {httpStatus: 500, grpcStatus: UNAVAILABLE}}, ROUTE",
        ".fault.abort.grpcStatus",
        "together",
    ),
    ("fault: {abort: {http2Error: CANCEL}}, ROUTE", ".fault.abort.http2Error", "not implemented"),
    ("fault: {abort: {httpStatus: 500, percent: 10}}, ROUTE", "percent", "unknown field"),
    ("mirror: {}, ROUTE", ".mirror.host", "not stated"),
    ("mirrorPercentage: {value: 10}, ROUTE", ".mirrorPercentage", "without mirror"),
    ("mirrorPercent: 10, ROUTE", ".mirrorPercent", "without mirror"),
    ("mirror: {host: m}, mirrorPercent: 101, ROUTE", ".mirrorPercent", "0 to 100"),
    ("mirrors: [{percentage: {value: 1}}], ROUTE", ".mirrors[0].destination", "not stated"),
    (
        "mirrors: [{destination: {host: m}, percentage: {value: 101}}], ROUTE",
        ".mirrors[0].percentage.value",
        "101",
    ),
];

const HEADERS: Cases = &[
    ("headers: {set: {a: b}}, ROUTE", "set", "unknown field"),
    ("headers: {request: {set: {'a b': c}}}, ROUTE", ".headers.request.set[\"a b\"]", "no header name"),
    (
        "headers: {request: {set: {a: \"b\\r\\nc\"}}}, ROUTE",
        ".headers.request.set[\"a\"]",
        "control character",
    ),
    ("headers: {request: {set: {a: 1}}}, ROUTE", "", "quoted"),
    ("headers: {request: {set: {host: 'a b'}}}, ROUTE", ".headers.request.set[\"host\"]", "no host"),
    ("headers: {response: {remove: ['']}}, ROUTE", ".headers.response.remove[0]", "no header name"),
    ("headers: {response: {remove: server}}, ROUTE", "", "sequence"),
    ("corsPolicy: {allowOrigins: [{}]}, ROUTE", ".corsPolicy.allowOrigins[0]", "none of"),
    ("corsPolicy: {allowOrigins: ['*']}, ROUTE", "", "mapping"),
    ("corsPolicy: {allowMethods: [get]}, ROUTE", ".corsPolicy.allowMethods[0]", "no HTTP method"),
    ("corsPolicy: {allowHeaders: ['a b']}, ROUTE", ".corsPolicy.allowHeaders[0]", "no header name"),
    ("corsPolicy: {maxAge: 1500ms}, ROUTE", ".corsPolicy.maxAge", "whole seconds"),
    ("corsPolicy: {unmatchedPreflights: DROP}, ROUTE", ".corsPolicy.unmatchedPreflights", "neither"),
    ("websocketUpgrade: true, ROUTE", "websocketUpgrade", "unknown field"),
];

#[test]
fn http_routes_are_refused_by_field_and_reason() {
    for cases in [ACTIONS, DESTINATIONS, MATCHES, ANSWERS, RESILIENCE, HEADERS] {
        assert_refused(cases, http, "spec.http[0]");
    }
}

#[test]
fn the_rest_of_a_virtual_service_is_refused_by_field_and_reason() {
    let cases: Cases = &[
        ("null", "", "not stated"),
        ("{hosts: [web]}", "", "none of http, tls and tcp"),
        ("{hosts: [web], http: []}", "", "none of http, tls and tcp"),
        ("{hosts: [web], route: []}", "route", "unknown field"),
        ("{host: web, http: [{ROUTE}]}", "host", "unknown field"),
        ("{hosts: web, http: [{ROUTE}]}", "", "sequence"),
        ("{hosts: [Web], http: [{ROUTE}]}", ".hosts[0]", "lower case"),
        ("{hosts: ['web.*.com'], http: [{ROUTE}]}", ".hosts[0]", "no host"),
        ("{hosts: ['http://web'], http: [{ROUTE}]}", ".hosts[0]", "no host"),
        ("{hosts: ['::ffff:10.0.0.1'], http: [{ROUTE}]}", ".hosts[0]", "no host"),
        ("{hosts: [web, web], http: [{ROUTE}]}", ".hosts[1]", "twice"),
        ("{hosts: ['*'], http: [{ROUTE}]}", ".hosts[0]", "every host"),
        ("{hosts: ['*'], gateways: [mesh, edge], http: [{ROUTE}]}", ".hosts[0]", "every host"),
        ("{hosts: [web], gateways: ['A/b'], http: [{ROUTE}]}", ".gateways[0]", "lower-case"),
        ("{hosts: [web], exportTo: ['*', '.'], http: [{ROUTE}]}", ".exportTo", "alone"),
        ("{hosts: [web], exportTo: ['~'], http: [{ROUTE}]}", ".exportTo[0]", "nobody"),
        ("{hosts: [web], exportTo: [Shop], http: [{ROUTE}]}", ".exportTo[0]", "lower-case"),
        ("{gateways: [mesh], http: [{ROUTE}]}", ".gateways", "without hosts"),
        ("{tcp: [{ROUTE}]}", ".hosts", "only http routes"),
        ("{http: [{delegate: {name: a}}]}", ".http[0].delegate", "one level"),
        ("{hosts: [web], tls: [{ROUTE}]}", ".tls[0].match", "needs sniHosts"),
        ("{hosts: [web], tls: [{match: [{port: 443}], ROUTE}]}", ".tls[0].match[0].sniHosts", "not stated"),
        (
            "{hosts: [web], tls: [{match: [{sniHosts: [other]}], ROUTE}]}",
            ".tls[0].match[0].sniHosts[0]",
            "not within",
        ),
        (
            "{hosts: ['*.a.com'], tls: [{match: [{sniHosts: [a.com]}], ROUTE}]}",
            ".tls[0].match[0].sniHosts[0]",
            "not within",
        ),
        ("{hosts: [web], tls: [{match: [{sniHosts: [web]}]}]}", ".tls[0].route", "not stated"),
        ("{hosts: [web], tcp: [{match: [{port: 1}]}]}", ".tcp[0].route", "not stated"),
        (
            "{hosts: [web], tcp: [{match: [{destinationSubnets: [10.0.0.0/33]}], ROUTE}]}",
            ".tcp[0].match[0].destinationSubnets[0]",
            "CIDR",
        ),
        ("{hosts: [web], tcp: [{match: [{sniHosts: [web]}], ROUTE}]}", "sniHosts", "unknown field"),
        (
            "{hosts: [web], tcp: [{route: [{destination: {host: a}, headers: {}}]}]}",
            "headers",
            "unknown field",
        ),
        (
            "{hosts: [web], tcp: [{route: [{destination: {host: a}, weight: -5}]}]}",
            ".tcp[0].route[0].weight",
            "negative",
        ),
    ];
    assert_refused(cases, virtual_service, "spec");
}

#[test]
fn two_first_routes_of_which_one_only_matches_are_not_an_or() {
    let text = virtual_service(
        "{hosts: [web], http: [{match: [{uri: {prefix: /a}}]}, {match: [{uri: {prefix: /b}}], ROUTE}]}",
    );
    let rejected = refusal(&text);
    assert_eq!(&*rejected.field, "spec.http[0]");
    assert!(rejected.reason.contains("list them in one match"), "{rejected}");
}

#[test]
fn what_could_exhaust_memory_is_bounded() {
    let many = |count: usize, one: &str| vec![one; count].join(", ");
    let regexes = format!("match: [{}], ROUTE", many(257, "{uri: {regex: a}}"));
    assert!(refusal(&http(&regexes)).reason.contains("more than 256 regexes"));
    let entries = format!("match: [{}], ROUTE", many(4097, "{port: 1}"));
    assert!(refusal(&http(&entries)).reason.contains("more than 4096 entries"));
    let long = format!("match: [{{uri: {{regex: {}}}}}], ROUTE", "a".repeat(1025));
    assert!(refusal(&http(&long)).reason.contains("more than 1024"));
    let body = format!("directResponse: {{status: 200, body: {{string: {}}}}}", "a".repeat((1 << 20) + 1));
    assert!(refusal(&http(&body)).reason.contains("more than 1048576"));
    let text = virtual_service(&format!("{{hosts: [web], http: [{}]}}", many(200, "{ROUTE}")));
    assert_eq!(super::notes(&text).len(), 64);
}

//! What is refused of routes, and at which field. Tables hold a rule in YAML's flow style; `TO` in it is a backend.

use super::tests::{assert_refused, grpc, http, of_kind};

#[test]
fn a_match_that_could_not_hold_is_refused() {
    assert_refused(
        &[
            ("backendRef: []", "backendRef", "unknown field"),
            ("matches: [{path: {type: Prefix, value: /}}], TO", ".matches[0].path.type", "none of Exact"),
            ("matches: [{path: {value: a}}], TO", ".matches[0].path.value", "starts with /"),
            ("matches: [{path: {value: /a//b}}], TO", ".matches[0].path.value", "holds"),
            ("matches: [{path: {value: /a/../b}}], TO", ".matches[0].path.value", "holds"),
            ("matches: [{path: {value: /a%2Fb}}], TO", ".matches[0].path.value", "holds"),
            (
                "matches: [{path: {type: RegularExpression, value: '('}}], TO",
                ".matches[0].path.value",
                "no regex",
            ),
            ("matches: [{method: get}], TO", ".matches[0].method", "no HTTP method"),
            ("matches: [{headers: [{name: a}]}], TO", ".matches[0].headers[0].value", "not stated"),
            (
                "matches: [{headers: [{name: a, value: x}, {name: A, value: x}]}], TO",
                ".matches[0].headers[1].name",
                "twice",
            ),
            (
                "matches: [{headers: [{name: a, value: x, type: Prefix}]}], TO",
                ".matches[0].headers[0].type",
                "neither Exact",
            ),
        ],
        http,
        "spec.rules[0]",
    );
}

#[test]
fn a_filter_that_says_nothing_or_two_things_is_refused() {
    assert_refused(
        &[
            ("filters: [{type: Nothing}], TO", ".filters[0].type", "no type of filter"),
            ("filters: [{type: URLRewrite}], TO", ".filters[0].urlRewrite", "not stated"),
            (
                "filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}, cors: {}}], TO",
                ".filters[0].cors",
                "URLRewrite",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {}}], TO",
                ".filters[0].urlRewrite",
                "changes nothing",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}, {type: URLRewrite, urlRewrite: {hostname: a.b}}], TO",
                ".filters[1]",
                "a second URLRewrite",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}, {type: RequestRedirect, requestRedirect: {scheme: https}}]",
                ".filters",
                "both",
            ),
        ],
        http,
        "spec.rules[0]",
    );
}

#[test]
fn a_filter_that_could_not_be_applied_is_refused() {
    assert_refused(
        &[
            (
                "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: \
                 ReplacePrefixMatch, replacePrefixMatch: /b}}}], TO",
                ".filters",
                "needs a PathPrefix",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /b}}}], TO",
                ".filters[0].urlRewrite.path",
                "field of its type",
            ),
            (
                "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
                ".filters[0].requestRedirect.statusCode",
                "no status of a redirect",
            ),
            (
                "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}], TO",
                ".backendRefs",
                "RequestRedirect",
            ),
            (
                "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}}}], TO",
                ".filters[0].requestMirror.fraction",
                "together with percent",
            ),
            (
                "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 101}}}], TO",
                ".filters[0].requestMirror.fraction.numerator",
                "0 to 100",
            ),
            (
                "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: x}, {name: A, value: x2}]}}], TO",
                ".filters[0].requestHeaderModifier.set[1].name",
                "twice",
            ),
            (
                "filters: [{type: CORS, cors: {allowOrigins: [example.com]}}], TO",
                ".filters[0].cors.allowOrigins[0]",
                "no origin",
            ),
        ],
        http,
        "spec.rules[0]",
    );
}

#[test]
fn backends_timeouts_retries_and_sessions_keep_to_their_ranges() {
    assert_refused(
        &[
            ("backendRefs: [{name: a}]", ".backendRefs[0].port", "needs one"),
            ("backendRefs: [{name: a, port: 0}]", ".backendRefs[0].port", "1 to 65535"),
            ("backendRefs: [{name: a, port: 80, weight: 1000001}]", ".backendRefs[0].weight", "0 to 1000000"),
            ("backendRefs: [{name: A, port: 80}]", ".backendRefs[0].name", "not a valid name"),
            ("timeouts: {request: 1s, backendRequest: 2s}, TO", ".timeouts.backendRequest", "longer than"),
            ("timeouts: {request: soon}, TO", ".timeouts.request", "not a duration"),
            ("retry: {codes: [200]}, TO", ".retry.codes[0]", "400 to 599"),
            ("name: x, weights: 1, TO", "weights", "unknown field"),
            (
                "backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, \
                 replacePrefixMatch: /b}}}]}], matches: [{path: {type: Exact, value: /a}}]",
                ".backendRefs[0].filters",
                "needs a PathPrefix",
            ),
            (
                "backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}, {type: URLRewrite, \
                 urlRewrite: {hostname: a.b}}]}]",
                ".backendRefs[0].filters[1]",
                "a second URLRewrite",
            ),
            (
                "sessionPersistence: {type: Token}, TO",
                ".sessionPersistence.type",
                "neither Cookie nor Header",
            ),
            ("sessionPersistence: {idleTimeout: 0s}, TO", ".sessionPersistence.idleTimeout", "less than 1ms"),
            ("sessionPersistence: {sessionName: 'a b'}, TO", ".sessionPersistence.sessionName", "no token"),
            (
                "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}, TO",
                ".sessionPersistence.absoluteTimeout",
                "needs it",
            ),
        ],
        http,
        "spec.rules[0]",
    );
}

#[test]
fn what_is_wrong_in_other_kinds_and_above_the_rules_is_refused() {
    assert_refused(
        &[
            ("matches: [{path: {value: /}}], TO", "path", "unknown field"),
            ("matches: [{method: {}}], TO", ".matches[0].method", "neither service nor method"),
            ("matches: [{method: {service: 'a/b'}}], TO", ".matches[0].method.service", "no service"),
            (
                "matches: [{method: {type: RegularExpression, service: 'a)|(b'}}], TO",
                ".matches[0].method.service",
                "no regex",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}], TO",
                ".filters[0].type",
                "GRPCRoute has no",
            ),
            ("timeouts: {request: 1s}, TO", "timeouts", "unknown field"),
            (
                "backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}]}]",
                ".backendRefs[0].filters[0].type",
                "GRPCRoute has no",
            ),
        ],
        grpc,
        "spec.rules[0]",
    );
    assert_refused(
        &[
            ("{hostnames: [A.b], rules: [{backendRefs: []}]}", "spec.hostnames[0]", "no name"),
            (
                "{parentRefs: [{kind: Service, group: '', name: X}]}",
                "spec.parentRefs[0].name",
                "not a valid name",
            ),
            (
                "{parentRefs: [{kind: Service, group: '', name: x, port: 70000}]}",
                "spec.parentRefs[0].port",
                "65535",
            ),
        ],
        |spec| of_kind("HTTPRoute", spec),
        "",
    );
}

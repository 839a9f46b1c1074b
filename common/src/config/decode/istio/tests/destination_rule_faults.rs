//! What is refused of a DestinationRule, at which field and why.

use super::{assert_refused, destination_rule, policy};

/// Part of a traffic policy, field below it, reason.
type Cases = &'static [(&'static str, &'static str, &'static str)];

const BALANCERS: Cases = &[
    ("loadBalancer: {simple: round_robin}", ".loadBalancer.simple", "none of LEAST_REQUEST"),
    (
        "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
        ".loadBalancer.consistentHash",
        "together with simple",
    ),
    ("loadBalancer: {consistentHash: {}}", ".loadBalancer.consistentHash", "none of httpHeaderName"),
    (
        "loadBalancer: {consistentHash: {useSourceIp: false}}",
        ".loadBalancer.consistentHash",
        "none of httpHeaderName",
    ),
    (
        "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}",
        ".loadBalancer.consistentHash",
        "more than one of",
    ),
    (
        "loadBalancer: {consistentHash: {httpHeaderName: 'a b'}}",
        ".loadBalancer.consistentHash.httpHeaderName",
        "no header name",
    ),
    (
        "loadBalancer: {consistentHash: {httpQueryParameterName: ''}}",
        ".loadBalancer.consistentHash.httpQueryParameterName",
        "empty",
    ),
    (
        "loadBalancer: {consistentHash: {httpCookie: {ttl: 0s}}}",
        ".loadBalancer.consistentHash.httpCookie.name",
        "no name",
    ),
    (
        "loadBalancer: {consistentHash: {httpCookie: {name: a, path: 'a;b'}}}",
        ".loadBalancer.consistentHash.httpCookie.path",
        "cannot stand",
    ),
    ("loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: 5}}}", "", "quoted"),
    (
        "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}",
        ".loadBalancer.consistentHash.maglev.tableSize",
        "not a prime",
    ),
    (
        "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}, ringHash: {}}}",
        ".loadBalancer.consistentHash.maglev",
        "together with ringHash",
    ),
    (
        "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9000000}}}",
        ".loadBalancer.consistentHash.ringHash.minimumRingSize",
        "not within",
    ),
    ("loadBalancer: {warmup: {}}", ".loadBalancer.warmup.duration", "not stated"),
    (
        "loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}",
        ".loadBalancer.warmup.minimumPercent",
        "101",
    ),
    ("loadBalancer: {warmup: {duration: 1s, aggression: 0.5}}", ".loadBalancer.warmup.aggression", "0.5"),
    ("loadBalancer: {algorithm: RANDOM}", "algorithm", "unknown field"),
];

const LOCALITIES: Cases = &[
    ("distribute: [{from: a, to: {a: 50, b: 40}}]", ".distribute[0].to", "add up to 90"),
    ("distribute: [{from: a}]", ".distribute[0].to", "add up to 0"),
    ("distribute: [{from: a, to: {a: 0, b: 100}}]", ".distribute[0].to[\"a\"]", "not within"),
    ("distribute: [{from: a, to: {a: -1, b: 101}}]", ".distribute[0].to[\"a\"]", "negative"),
    ("distribute: [{from: a/*/c, to: {a: 100}}]", ".distribute[0].from", "no locality"),
    ("distribute: [{to: {a: 100}}]", ".distribute[0].from", "no locality"),
    ("distribute: [{from: a, to: {a/b/c/d: 100}}]", ".distribute[0].to[\"a/b/c/d\"]", "no locality"),
    (
        "distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]",
        ".distribute",
        "together with failover",
    ),
    ("failover: [{from: a, to: a}]", ".failover[0]", "to itself"),
    ("failover: [{from: a}]", ".failover[0].to", "not stated"),
    ("failover: [{from: a/b, to: c}]", ".failover[0].from", "not a region"),
    ("failoverPriority: ['']", ".failoverPriority[0]", "neither label"),
    ("failoverPriority: ['a=b c']", ".failoverPriority[0]", "neither label"),
];

const POOLS: Cases = &[
    ("connectionPool: {}", ".connectionPool", "neither tcp nor http"),
    ("connectionPool: {tcp: {maxConnections: -1}}", ".connectionPool.tcp.maxConnections", "negative"),
    ("connectionPool: {tcp: {maxConnections: '1'}}", "", "where a number belongs"),
    ("connectionPool: {tcp: {connectTimeout: 0s}}", ".connectionPool.tcp.connectTimeout", "less than 1ms"),
    (
        "connectionPool: {tcp: {tcpKeepalive: {probes: -1}}}",
        ".connectionPool.tcp.tcpKeepalive.probes",
        "negative",
    ),
    (
        "connectionPool: {tcp: {tcpKeepalive: {time: soon}}}",
        ".connectionPool.tcp.tcpKeepalive.time",
        "not a duration",
    ),
    ("connectionPool: {http: {maxRetries: 3000000000}}", ".connectionPool.http.maxRetries", "not within"),
    (
        "connectionPool: {http: {h2UpgradePolicy: MAYBE}}",
        ".connectionPool.http.h2UpgradePolicy",
        "none of DEFAULT",
    ),
    (
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}",
        ".connectionPool.http.h2UpgradePolicy",
        "together with useClientProtocol",
    ),
    (
        "connectionPool: {http: {http2KeepAlive: {interval: 1s}}}",
        ".connectionPool.http.http2KeepAlive.timeout",
        "not stated",
    ),
    ("connectionPool: {http: {maxPendingRequests: 1}}", "maxPendingRequests", "unknown field"),
];

const OTHERS: Cases = &[
    ("outlierDetection: {consecutive5xxErrors: -1}", ".outlierDetection.consecutive5xxErrors", "negative"),
    ("outlierDetection: {consecutive5xxError: 1}", "consecutive5xxError", "unknown field"),
    (
        "outlierDetection: {consecutiveLocalOriginFailures: 5}",
        ".outlierDetection.consecutiveLocalOriginFailures",
        "needs splitExternalLocalOriginErrors",
    ),
    ("outlierDetection: {interval: 0s}", ".outlierDetection.interval", "less than 1ms"),
    ("outlierDetection: {baseEjectionTime: 3m0}", ".outlierDetection.baseEjectionTime", "not a duration"),
    ("outlierDetection: {maxEjectionPercent: 101}", ".outlierDetection.maxEjectionPercent", "0 to 100"),
    ("outlierDetection: {minHealthPercent: -1}", ".outlierDetection.minHealthPercent", "negative"),
    (
        "outlierDetection: {outlierDetectionHttpErrorCodes: [600]}",
        ".outlierDetection.outlierDetectionHttpErrorCodes[0]",
        "100 to 599",
    ),
    ("tls: {mode: STRICT}", ".tls.mode", "none of DISABLE"),
    ("tls: {mode: MUTUAL}", ".tls.clientCertificate", "not stated"),
    ("tls: {mode: MUTUAL, clientCertificate: /c}", ".tls.privateKey", "not stated"),
    (
        "tls: {mode: MUTUAL, credentialName: s, privateKey: /k}",
        ".tls.privateKey",
        "together with credentialName",
    ),
    (
        "tls: {mode: SIMPLE, credentialName: s, caCertificates: /c}",
        ".tls.caCertificates",
        "together with credentialName",
    ),
    ("tls: {mode: ISTIO_MUTUAL, privateKey: /k}", ".tls.privateKey", "ISTIO_MUTUAL"),
    (
        "tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}",
        ".tls.insecureSkipVerify",
        "together",
    ),
    ("tls: {mode: SIMPLE, subjectAltNames: ['']}", ".tls.subjectAltNames[0]", "empty"),
    ("portLevelSettings: [{loadBalancer: {simple: RANDOM}}]", ".portLevelSettings[0].port", "not stated"),
    ("portLevelSettings: [{port: {number: 80}}]", ".portLevelSettings[0]", "states nothing"),
    (
        "portLevelSettings: [{port: {number: 80}, tls: {}}, {port: {number: 80}, tls: {}}]",
        ".portLevelSettings[1].port",
        "twice",
    ),
    ("portLevelSettings: [{port: {number: 80}, tunnel: {}}]", "tunnel", "unknown field"),
    ("tunnel: {targetHost: a}", ".tunnel.targetPort", "not stated"),
    ("tunnel: {targetPort: 1}", ".tunnel.targetHost", "not stated"),
    ("tunnel: {targetHost: '*.a', targetPort: 1}", ".tunnel.targetHost", "not one host"),
    ("tunnel: {protocol: POST, targetHost: a, targetPort: 1}", ".tunnel.protocol", "not implemented"),
    ("tunnel: {protocol: GET, targetHost: a, targetPort: 1}", ".tunnel.protocol", "neither CONNECT nor POST"),
    ("proxyProtocol: {version: V3}", ".proxyProtocol.version", "neither V1 nor V2"),
    ("retryBudget: {percent: 100.5}", ".retryBudget.percent", "100.5"),
    ("retryBudget: {minRetryConcurrency: -1}", ".retryBudget.minRetryConcurrency", "negative"),
    ("retryBudget: {budgetInterval: 0s}", ".retryBudget.budgetInterval", "less than 1ms"),
    ("", "", "states nothing"),
];

#[test]
fn traffic_policies_are_refused_by_field_and_reason() {
    for cases in [BALANCERS, POOLS, OTHERS] {
        assert_refused(cases, policy, "spec.trafficPolicy");
    }
    let locality = |part: &str| policy(&format!("loadBalancer: {{localityLbSetting: {{{part}}}}}"));
    assert_refused(LOCALITIES, locality, "spec.trafficPolicy.loadBalancer.localityLbSetting");
}

#[test]
fn the_rest_of_a_destination_rule_is_refused_by_field_and_reason() {
    let cases: Cases = &[
        ("null", "", "not stated"),
        ("{}", ".host", "not stated"),
        ("{host: ''}", ".host", "not stated"),
        ("{host: Web}", ".host", "lower case"),
        ("{hosts: [web]}", "hosts", "unknown field"),
        ("{host: web, exportTo: ['*', a]}", ".exportTo", "alone"),
        (
            "{host: web, workloadSelector: {matchLabels: {a: 'b c'}}}",
            ".workloadSelector.matchLabels.a",
            "label value",
        ),
        ("{host: web, workloadSelector: {labels: {a: b}}}", "labels", "unknown field"),
        ("{host: web, subsets: [{labels: {a: b}}]}", ".subsets[0].name", "lower-case"),
        ("{host: web, subsets: [{name: V1}]}", ".subsets[0].name", "lower-case"),
        ("{host: web, subsets: [{name: a}, {name: a}]}", ".subsets[1].name", "twice"),
        ("{host: web, subsets: [{name: a, labels: {a: 'b c'}}]}", ".subsets[0].labels.a", "label value"),
        ("{host: web, subsets: [{name: a, labels: {version: 1}}]}", "", "quoted"),
        (
            "{host: web, subsets: [{name: a, trafficPolicy: {}}]}",
            ".subsets[0].trafficPolicy",
            "states nothing",
        ),
        ("{host: web, subsets: [{name: a, weight: 1}]}", "weight", "unknown field"),
        ("{host: web, loadBalancer: {simple: RANDOM}}", "loadBalancer", "unknown field"),
    ];
    assert_refused(cases, destination_rule, "spec");
}

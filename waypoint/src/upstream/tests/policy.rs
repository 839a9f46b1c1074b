use std::time::Duration;

use common::balance::budget::{Limits, RetryBudget};
use common::balance::locality::{Failover, Preference};
use common::balance::outlier::Settings;
use common::config::destination::balance::Algorithm;
use common::config::destination::pool::HttpVersion;
use common::config::destination::tls::TlsMode;

use super::{ClusterKey, Desk, key, policy_of_web, rule, web};
use crate::upstream::policy::{DEFAULT_MAX_STREAMS, EffectivePolicy};

fn policy(rules: &str, key: &ClusterKey) -> EffectivePolicy {
    let desk = Desk::new(&(web(1) + rules));
    EffectivePolicy::clone(&desk.clusters.get(key).unwrap().policy())
}

fn of_web(stated: &str) -> EffectivePolicy {
    policy(&policy_of_web(stated), &key("web", None))
}

#[test]
fn without_a_rule_the_defaults_are_istio_s() {
    let policy = policy("", &key("web", None));
    assert_eq!(policy.algorithm, Algorithm::LeastRequest);
    assert_eq!(policy.locality.preference, Preference::Failover(Failover::default()));
    assert!(!policy.locality.detects_outliers);
    assert_eq!(policy.limits, Limits::default());
    assert_eq!(policy.limits.requests, u32::MAX);
    assert_eq!(policy.connect_timeout, Duration::from_secs(10));
    assert_eq!(policy.tcp_idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(policy.http_idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(policy.version, HttpVersion::Default);
    assert_eq!(policy.max_requests_per_connection, None);
    assert_eq!(policy.max_concurrent_streams, DEFAULT_MAX_STREAMS);
    assert_eq!((policy.outlier, policy.warmup, policy.tls), (None, None, None));
    assert!(policy.rules.is_empty());
}

#[test]
fn an_empty_outlier_detection_is_one_with_envoy_s_defaults() {
    let policy = of_web("outlierDetection: {}");
    assert_eq!(policy.outlier, Some(Settings::default()));
    assert!(policy.locality.detects_outliers);
    assert_eq!(policy.locality.panic_percent, 0);
}

#[test]
fn outlier_detection_is_taken_over_field_by_field() {
    let stated = "outlierDetection: {consecutiveGatewayErrors: 2, splitExternalLocalOriginErrors: true, \
                  consecutiveLocalOriginFailures: 4, interval: 1s, baseEjectionTime: 2m, maxEjectionPercent: 50, \
                  minHealthPercent: 30, outlierDetectionHttpErrorCodes: [429]}";
    let policy = of_web(stated);
    let expected = Settings {
        consecutive_5xx: 5,
        consecutive_gateway: 2,
        split_local_origin: true,
        consecutive_local_origin: 4,
        error_codes: [429].into(),
        interval: Duration::from_secs(1),
        base_ejection: Duration::from_secs(120),
        max_ejection_percent: 50,
    };
    assert_eq!(policy.outlier, Some(expected));
    assert_eq!(policy.locality.panic_percent, 30);
}

#[test]
fn consecutive_errors_is_an_alias_that_the_newer_field_beats() {
    let threshold =
        |stated: &str| of_web(&format!("outlierDetection: {{{stated}}}")).outlier.unwrap().consecutive_5xx;
    assert_eq!(threshold("consecutiveErrors: 3"), 3);
    assert_eq!(threshold("consecutiveErrors: 3, consecutive5xxErrors: 7"), 7);
    assert_eq!(threshold("consecutive5xxErrors: 0"), 0);
}

#[test]
fn limits_and_the_retry_budget_that_beats_max_retries() {
    let stated = "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, \
                  maxRetries: 4, maxRequestsPerConnection: 5}}, retryBudget: {percent: 12.5, minRetryConcurrency: 6}";
    let policy = of_web(stated);
    let limits = Limits {
        connections: 1,
        pending: 2,
        requests: 3,
        retries: 4,
        retry_budget: Some(RetryBudget { percent: 12.5, min_concurrency: 6 }),
    };
    assert_eq!(policy.limits, limits);
    assert_eq!(policy.max_requests_per_connection.map(Into::into), Some(5_u32));
    assert_eq!(of_web("retryBudget: {}").limits.retry_budget, Some(RetryBudget::default()));
}

#[test]
fn an_idle_timeout_of_zero_is_none() {
    let policy = of_web("connectionPool: {tcp: {idleTimeout: 0s}, http: {idleTimeout: 5s}}");
    assert_eq!((policy.tcp_idle_timeout, policy.http_idle_timeout), (None, Some(Duration::from_secs(5))));
}

/// Service level: random, 11 connections, connect within 1 s. Its port 81: only round robin. Subset `v1`: 22
/// connections, and for its port 81 only TLS. Subset `v2`: consistent hashing.
const LAYERS: &str = "
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    connectionPool: {tcp: {maxConnections: 11, connectTimeout: 1s}}
    outlierDetection: {}
    retryBudget: {}
    portLevelSettings:
    - port: {number: 81}
      loadBalancer: {simple: ROUND_ROBIN}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy:
      connectionPool: {tcp: {maxConnections: 22}}
      portLevelSettings:
      - port: {number: 81}
        tls: {mode: SIMPLE}
  - name: v2
    labels: {version: v2}
    trafficPolicy:
      loadBalancer: {consistentHash: {useSourceIp: true}}
  - name: v3
    labels: {version: v3}
";

#[test]
fn narrower_policies_replace_wider_ones_block_by_block_and_ports_all_of_them() {
    let none = u32::MAX;
    let random = || Algorithm::Random;
    let least = || Algorithm::LeastRequest;
    let robin = || Algorithm::RoundRobin;
    for (subset, port, algorithm, connections, connect_s, outlier, tls) in [
        (None, 80, random(), 11, 1, true, None),
        // What is not stated for the port is the default and not the host's.
        (None, 81, robin(), none, 10, false, None),
        // The block is replaced as a whole: the connect timeout beside the limit is the default again.
        (Some("v1"), 80, random(), 22, 10, true, None),
        // The subset's port replaces everything, the host's port too.
        (Some("v1"), 81, least(), none, 10, false, Some(TlsMode::Simple)),
        // The subset's block replaces that of the host's port.
        (Some("v2"), 81, hash(), none, 10, false, None),
        (Some("v2"), 80, hash(), 11, 1, true, None),
        (Some("v3"), 81, robin(), none, 10, false, None),
    ] {
        let key = ClusterKey { port, ..key("web", subset) };
        let policy = policy(&rule("web", LAYERS.trim_start_matches('\n')), &key);
        assert_eq!(policy.algorithm, algorithm, "{key}");
        assert_eq!(policy.limits.connections, connections, "{key}");
        assert_eq!(policy.connect_timeout, Duration::from_secs(connect_s), "{key}");
        assert_eq!(policy.outlier.is_some(), outlier, "{key}");
        assert_eq!(policy.tls.map(|it| it.mode), tls, "{key}");
        assert_eq!(
            policy.limits.retry_budget,
            Some(RetryBudget::default()),
            "no port has one of its own: {key}"
        );
    }
}

fn hash() -> Algorithm {
    let stated = of_web("loadBalancer: {consistentHash: {useSourceIp: true}}").algorithm;
    assert!(matches!(stated, Algorithm::ConsistentHash(_)));
    stated
}

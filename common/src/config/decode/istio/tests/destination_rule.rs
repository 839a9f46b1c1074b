//! What each field of a DestinationRule becomes.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{destination_rule, good_rule, notes, policy};
use crate::config::destination::balance::{Algorithm, HashKey, HashTable, LoadBalancer};
use crate::config::destination::outlier::OutlierDetection;
use crate::config::destination::pool::HttpVersion;
use crate::config::destination::tls::TlsMode;
use crate::config::destination::{PortPolicy, TrafficPolicy};
use crate::config::routing::Share;

fn ports(text: &str) -> PortPolicy {
    good_rule(&policy(text)).policy.ports.clone()
}

fn balancer(text: &str) -> LoadBalancer {
    ports(&format!("loadBalancer: {{{text}}}")).load_balancer.unwrap()
}

fn outlier(text: &str) -> OutlierDetection {
    ports(&format!("outlierDetection: {{{text}}}")).outlier_detection.unwrap()
}

fn share(percent: f64) -> Option<Share> {
    Some(Share::percent(percent).unwrap())
}

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

#[test]
fn host_visibility_clients_and_subsets_are_those_stated() {
    let rule = good_rule(&destination_rule(
        "{host: web, exportTo: [.], workloadSelector: {matchLabels: {app: cart}}, subsets: [{name: v1, labels: {version: v1}}, \
         {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}, {name: all}]}",
    ));
    assert_eq!(&*rule.host, "web");
    assert!(rule.visibility.reaches("shop") && !rule.visibility.reaches("bank"));
    assert_eq!(rule.clients.get("app").map(|it| &**it), Some("cart"));
    assert_eq!(rule.policy, TrafficPolicy::default());
    assert_eq!(rule.subsets.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["v1", "v2", "all"]);
    assert_eq!(rule.subsets[0].labels.get("version").map(|it| &**it), Some("v1"));
    let own = rule.subsets[1].policy.ports.load_balancer.as_ref().unwrap();
    assert_eq!(own.algorithm, Some(Algorithm::RoundRobin));
    assert!(rule.subsets[2].labels.is_empty());
    assert_eq!(&*good_rule(&destination_rule("{host: '*.example.com'}")).host, "*.example.com");
}

#[test]
fn simple_algorithms_are_by_name() {
    for (word, algorithm) in [
        ("UNSPECIFIED", None),
        ("LEAST_REQUEST", Some(Algorithm::LeastRequest)),
        ("ROUND_ROBIN", Some(Algorithm::RoundRobin)),
        ("RANDOM", Some(Algorithm::Random)),
        ("PASSTHROUGH", Some(Algorithm::Passthrough)),
        ("LEAST_CONN", Some(Algorithm::LeastRequest)),
    ] {
        assert_eq!(balancer(&format!("simple: {word}")).algorithm, algorithm, "{word}");
    }
    assert_eq!(
        notes(&policy("loadBalancer: {simple: LEAST_CONN}")),
        [("spec.trafficPolicy.loadBalancer.simple".to_owned(), "least-conn-alias")]
    );
}

#[test]
fn consistent_hashes_have_one_key_and_a_table() {
    let hash = |text: &str| match balancer(&format!("consistentHash: {{{text}}}")).algorithm {
        Some(Algorithm::ConsistentHash(hash)) => hash,
        other => panic!("{other:?}"),
    };
    let header = hash("httpHeaderName: X-User");
    assert_eq!(header.key, HashKey::Header(http::HeaderName::from_static("x-user")));
    assert_eq!(header.table, HashTable::Ring(1024));
    let HashKey::Cookie(cookie) = hash(
        "httpCookie: {name: user, path: /a, ttl: 0s, attributes: [{name: SameSite, value: Strict}]}, ringHash: {minimumRingSize: 2048}",
    )
    .key
    else {
        panic!()
    };
    assert_eq!((&*cookie.name, &*cookie.path, cookie.ttl), ("user", "/a", Some(Duration::ZERO)));
    assert_eq!(*cookie.attributes, [("SameSite".into(), "Strict".into())]);
    assert_eq!(hash("useSourceIp: true, maglev: {}").table, HashTable::Maglev(65_537));
    assert_eq!(hash("useSourceIp: true, maglev: {tableSize: 251}").table, HashTable::Maglev(251));
    let query = hash("httpQueryParameterName: u, useSourceIp: false, minimumRingSize: 64");
    assert_eq!((query.key, query.table), (HashKey::QueryParameter("u".into()), HashTable::Ring(64)));
    assert_eq!(
        notes(&policy("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 64}}")),
        [(
            "spec.trafficPolicy.loadBalancer.consistentHash.minimumRingSize".to_owned(),
            "minimum-ring-size-legacy"
        )]
    );
}

#[test]
fn localities_and_warm_up_are_as_stated() {
    let setting = |text: &str| balancer(&format!("localityLbSetting: {{{text}}}")).locality.unwrap();
    let spread = setting(
        "enabled: true, distribute: [{from: us-west/zone1/*, to: {'us-west/zone1/*': 80, us-west/zone2/*: 20}}]",
    );
    assert_eq!((spread.enabled, &*spread.distribute[0].from), (Some(true), "us-west/zone1/*"));
    assert_eq!(spread.distribute[0].to.iter().map(|it| it.1).collect::<Vec<_>>(), [80, 20]);
    let failover = setting(
        "failover: [{from: us-east, to: eu-west}], failoverPriority: [topology.kubernetes.io/region, version=v1]",
    );
    assert_eq!(*failover.failover, [("us-east".into(), "eu-west".into())]);
    let [first, second] = &*failover.failover_priority else { panic!("{failover:?}") };
    assert_eq!((&*first.key, first.value.as_deref()), ("topology.kubernetes.io/region", None));
    assert_eq!((&*second.key, second.value.as_deref()), ("version", Some("v1")));
    let field = "spec.trafficPolicy.loadBalancer";
    let text = policy("loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}");
    assert_eq!(notes(&text), [(format!("{field}.localityLbSetting"), "failover-needs-outlier-detection")]);
    let text =
        policy("loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}, outlierDetection: {}");
    assert_eq!(notes(&text), []);
    let text = policy("loadBalancer: {zoneAwareLbSetting: {enabled: true}}");
    assert_eq!(notes(&text), [(format!("{field}.zoneAwareLbSetting"), "zone-aware-ignored")]);

    let warmup = balancer("warmup: {duration: 1s, minimumPercent: 20, aggression: 1.5}").warmup.unwrap();
    assert_eq!((Some(warmup.duration), Some(warmup.minimum)), (SECOND, share(20.0)));
    assert_eq!(warmup.aggression_thousandths, 1500);
    let older = balancer("warmupDurationSecs: 1s").warmup.unwrap();
    assert_eq!((Some(older.minimum), older.aggression_thousandths), (share(10.0), 1000));
    let text = policy("loadBalancer: {warmupDurationSecs: 1s}");
    assert_eq!(notes(&text), [(format!("{field}.warmupDurationSecs"), "warmup-legacy")]);
    let text = policy("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}");
    assert_eq!(notes(&text), [(format!("{field}.warmup"), "warmup-without-effect")]);
}

#[test]
fn connection_pools_have_limits_of_which_zero_is_none() {
    let pool = ports(
        "connectionPool: {tcp: {maxConnections: 100, connectTimeout: 30ms, tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}, \
         maxConnectionDuration: 1s, idleTimeout: 0s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1000, \
         maxRequestsPerConnection: 10, maxRetries: 0, idleTimeout: 1s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 5, \
         http2KeepAlive: {interval: 1s, timeout: 20s}}}",
    )
    .connection_pool
    .unwrap();
    assert_eq!(pool.tcp.max_connections, NonZeroU32::new(100));
    assert_eq!(pool.tcp.connect_timeout, Some(Duration::from_millis(30)));
    let keepalive = pool.tcp.keepalive.unwrap();
    assert_eq!((keepalive.probes, keepalive.interval), (NonZeroU32::new(3), Some(Duration::from_secs(75))));
    assert_eq!(keepalive.time, Some(Duration::from_secs(7200)));
    assert_eq!((pool.tcp.max_connection_duration, pool.tcp.idle_timeout), (SECOND, Some(Duration::ZERO)));
    assert_eq!((pool.http.max_pending_requests, pool.http.max_retries), (NonZeroU32::new(1), None));
    assert_eq!(pool.http.max_requests, NonZeroU32::new(1000));
    assert_eq!(pool.http.max_requests_per_connection, NonZeroU32::new(10));
    assert_eq!((pool.http.idle_timeout, pool.http.max_concurrent_streams), (SECOND, NonZeroU32::new(5)));
    assert_eq!(pool.http.keepalive.map(|it| it.timeout), Some(Duration::from_secs(20)));
    for (text, version) in [
        ("h2UpgradePolicy: DEFAULT", HttpVersion::Default),
        ("h2UpgradePolicy: DO_NOT_UPGRADE", HttpVersion::Http1),
        ("h2UpgradePolicy: UPGRADE, useClientProtocol: false", HttpVersion::Http2),
        ("useClientProtocol: true", HttpVersion::AsClient),
    ] {
        let pool = ports(&format!("connectionPool: {{http: {{{text}}}}}")).connection_pool.unwrap();
        assert_eq!(pool.http.version, version, "{text}");
    }
}

#[test]
fn outlier_detection_honours_the_older_name_and_says_so() {
    let full = outlier(
        "consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true, \
         consecutiveLocalOriginFailures: 4, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: 100, minHealthPercent: 50, \
         outlierDetectionHttpErrorCodes: [429, 500]",
    );
    assert_eq!((full.consecutive_5xx, full.consecutive_gateway_errors), (Some(7), Some(3)));
    assert_eq!((full.split_local_origin, full.consecutive_local_origin_failures), (true, Some(4)));
    assert_eq!((full.interval, full.base_ejection_time), (SECOND, SECOND));
    assert_eq!((full.max_ejected, full.min_healthy), (share(100.0), share(50.0)));
    assert_eq!(full.error_codes.iter().map(|it| it.as_u16()).collect::<Vec<_>>(), [429, 500]);
    assert_eq!(outlier("consecutiveErrors: 3").consecutive_5xx, Some(3));
    assert_eq!(outlier("consecutiveErrors: 3, consecutive5xxErrors: 9").consecutive_5xx, Some(9));
    assert_eq!(outlier("consecutive5xxErrors: 0").consecutive_5xx, Some(0));
    let field = |name: &str| format!("spec.trafficPolicy.outlierDetection.{name}");
    for (text, name, label) in [
        ("consecutiveErrors: 3", "consecutiveErrors", "consecutive-errors-alias"),
        (
            "consecutiveErrors: 3, consecutive5xxErrors: 9",
            "consecutiveErrors",
            "consecutive-errors-overridden",
        ),
        ("consecutiveGatewayErrors: 5", "consecutiveGatewayErrors", "gateway-errors-without-effect"),
    ] {
        assert_eq!(
            notes(&policy(&format!("outlierDetection: {{{text}}}"))),
            [(field(name), label)],
            "{text}"
        );
    }
    assert_eq!(
        notes(&policy("outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 5}")),
        []
    );
}

#[test]
fn tls_is_as_stated_and_the_meshs_own_is_accepted_silently() {
    let tls = |text: &str| ports(&format!("tls: {{{text}}}")).tls.unwrap();
    let simple = tls(
        "mode: SIMPLE, caCertificates: /ca.pem, caCrl: /crl.pem, subjectAltNames: [a.example], sni: a.example",
    );
    assert_eq!(
        (simple.mode, &*simple.ca_certificates, &*simple.ca_crl),
        (TlsMode::Simple, "/ca.pem", "/crl.pem")
    );
    assert_eq!((&*simple.sni, simple.subject_alt_names.len()), ("a.example", 1));
    let mutual = tls("mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem");
    assert_eq!((&*mutual.client_certificate, &*mutual.private_key), ("/c.pem", "/k.pem"));
    assert_eq!(&*tls("mode: MUTUAL, credentialName: secret").credential_name, "secret");
    assert_eq!(tls("mode: SIMPLE, insecureSkipVerify: true").skip_verification, Some(true));
    for (word, mode) in [("DISABLE", TlsMode::Disable), ("ISTIO_MUTUAL", TlsMode::IstioMutual)] {
        assert_eq!(tls(&format!("mode: {word}")).mode, mode);
        assert_eq!(notes(&policy(&format!("tls: {{mode: {word}}}"))), []);
    }
}

#[test]
fn ports_tunnels_and_retry_budgets_are_as_stated() {
    let rule = good_rule(&policy(
        "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}, {port: {number: 443}, tls: {mode: SIMPLE}, \
         connectionPool: {tcp: {maxConnections: 1}}, outlierDetection: {interval: 1s}}], tunnel: {protocol: CONNECT, \
         targetHost: proxy.example, targetPort: 3128}, retryBudget: {percent: 30.5, minRetryConcurrency: 0, budgetInterval: 1s}",
    ));
    let by_port = &rule.policy.by_port;
    assert_eq!(by_port.iter().map(|it| it.0).collect::<Vec<_>>(), [80, 443]);
    assert_eq!(by_port[0].1.load_balancer.as_ref().unwrap().algorithm, Some(Algorithm::Random));
    assert!(by_port[1].1.tls.is_some() && by_port[1].1.connection_pool.is_some());
    let tunnel = rule.policy.tunnel.as_ref().unwrap();
    assert_eq!((&*tunnel.host, tunnel.port), ("proxy.example", 3128));
    let budget = rule.policy.retry_budget.unwrap();
    assert_eq!((Some(budget.share), budget.at_least, budget.interval), (share(30.5), 0, SECOND));
    let budget = good_rule(&policy("retryBudget: {}")).policy.retry_budget.unwrap();
    assert_eq!((Some(budget.share), budget.at_least, budget.interval), (share(20.0), 3, None));
    assert_eq!(
        notes(&policy("proxyProtocol: {version: V2}")),
        [("spec.trafficPolicy.proxyProtocol".to_owned(), "proxy-protocol-ignored")]
    );
}

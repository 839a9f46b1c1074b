//! Whole manifests in block style, as people write them for the usual exercises.

use super::{good_rule, good_service, notes, read, resource};
use crate::config::routing::HttpAction;

const CANARY: &str = "apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: checkout
  annotations:
    note: ninety to ten
spec:
  hosts:
    - checkout
  http:
    - match:
        - headers:
            end-user:
              exact: tester
      route:
        - destination:
            host: checkout
            subset: v2
    - route:
        - destination:
            host: checkout
            subset: v1
          weight: 90
        - destination:
            host: checkout
            subset: v2
          weight: 10
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: checkout
spec:
  host: checkout
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
";

const RESILIENT: &str = "apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: payments
  namespace: bank
spec:
  hosts: [payments.bank.svc.cluster.local]
  http:
  - fault:
      delay:
        percentage:
          value: 0.1   # one in a thousand
        fixedDelay: 5s
      abort:
        percentage: {value: 50}
        httpStatus: 500
    timeout: 10s
    retries:
      attempts: 3
      perTryTimeout: 2s
      retryOn: gateway-error,connect-failure,refused-stream
    mirror:
      host: payments
      subset: shadow
    mirrorPercentage:
      value: 100.0
    route:
    - destination: {host: payments, port: {number: 8080}}
";

const BREAKER: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: ledger
  namespace: bank
spec:
  host: ledger
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 1
      http:
        http1MaxPendingRequests: 1
        maxRequestsPerConnection: 1
    outlierDetection:
      consecutiveErrors: 1
      interval: 1s
      baseEjectionTime: 3m
      maxEjectionPercent: 100
    tls:
      mode: ISTIO_MUTUAL
";

const INGRESS: &str = "apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: front
spec:
  hosts: [\"*\"]
  gateways: [front-gateway]
  http:
  - match:
    - uri: {exact: /login}
    - uri: {prefix: /static}
    rewrite: {uri: /}
    route: [{destination: {host: front, port: {number: 9080}}}]
  - match:
    - uri:
        prefix: /old
    redirect:
      uri: /new
      redirectCode: 302
  tls:
  - match:
    - port: 443
      sniHosts: [login.example.com]
    route:
    - destination: {host: login}
  tcp:
  - match:
    - port: 3306
    route:
    - destination: {host: mysql, port: {number: 3306}}
";

const STICKY: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart}
spec:
  host: cart.default.svc.cluster.local
  trafficPolicy:
    loadBalancer:
      consistentHash:
        httpCookie:
          name: session
          ttl: 30m
    portLevelSettings:
    - port:
        number: 80
      loadBalancer:
        simple: LEAST_CONN
";

#[test]
fn a_canary_sends_testers_to_the_new_version_and_a_tenth_of_the_others() {
    let decoded = read(CANARY);
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    assert_eq!(decoded.stated.len(), 2);
    let service = good_service(CANARY.split("---").next().unwrap());
    assert!(!service.http[0].takes_everything() && service.http[1].takes_everything());
    let HttpAction::Forward(to) = &service.http[1].action else { panic!("{service:?}") };
    assert_eq!(to.iter().map(|it| it.weight).collect::<Vec<_>>(), [90, 10]);
    assert!(service.notes.is_empty());
}

#[test]
fn chaos_timeouts_retries_and_a_mirror_go_together() {
    let service = good_service(RESILIENT);
    let route = &service.http[0];
    assert!(route.fault.delay.is_some() && route.fault.abort.is_some() && route.retries.is_some());
    assert_eq!(route.mirrors.len(), 1);
    assert!(service.notes.is_empty());
}

#[test]
fn a_circuit_breaker_with_the_older_name_works_and_says_what_to_write() {
    let rule = good_rule(BREAKER);
    let outlier = rule.policy.ports.outlier_detection.as_ref().unwrap();
    assert_eq!(outlier.consecutive_5xx, Some(1));
    assert_eq!(notes(BREAKER).len(), 1, "{:?}", rule.notes);
}

#[test]
fn an_ingress_needs_no_host_and_keeps_to_its_gateway() {
    let service = good_service(INGRESS);
    assert!(!service.gateways.mesh);
    assert_eq!((service.http.len(), service.tls.len(), service.tcp.len()), (2, 1, 1));
    assert_eq!(service.http[0].matches.len(), 2, "an OR is one list");
}

#[test]
fn sticky_sessions_are_by_cookie_and_a_port_may_differ() {
    assert_eq!(good_rule(STICKY).policy.by_port[0].0, 80);
}

/// Mistakes that circulate: each is refused where it stands rather than half obeyed.
#[test]
fn what_tutorials_get_wrong_is_refused_on_its_line() {
    for (from, to, line) in [
        // The weight beside the destination's list item instead of inside it.
        ("          weight: 90", "      weight: 90", 23),
        ("              exact: tester", "              equals: tester", 14),
        ("        - headers:", "        - header:", 12),
        ("kind: VirtualService", "kind: VirtualSerivce", 1),
        ("          weight: 10", "          weight: 10%", 27),
    ] {
        let text = CANARY.split("---").next().unwrap().replacen(from, to, 1);
        let decoded = read(&text);
        assert_eq!(decoded.stated.len(), 0, "{to}");
        assert_eq!(decoded.rejected[0].origin.line, line, "{}", decoded.rejected[0]);
    }
    assert_eq!(resource(STICKY).key().to_string(), "DestinationRule default/cart");
}

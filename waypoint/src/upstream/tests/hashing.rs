use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};

use super::{Desk, PickFacts, facts, last, pod, policy_of_web, service, web};

const GOLDEN: &str = include_str!("../../../../common/src/balance/tests/envoy-1.40.0.txt");

fn by_header(table: &str) -> String {
    policy_of_web(&format!("loadBalancer: {{consistentHash: {{httpHeaderName: x-key, {table}}}}}"))
}

/// The endpoint of a request with the header `x-key`.
fn of_key(desk: &mut Desk, key: &str) -> u8 {
    let headers = HeaderMap::from_iter([("x-key".parse().unwrap(), HeaderValue::from_str(key).unwrap())]);
    let cluster = desk.web();
    last(desk.pick_by(&cluster, PickFacts { headers: &headers, ..facts() }).unwrap().address)
}

#[test]
fn requests_go_where_envoy_sends_them() {
    let hosts = (1..=5).map(|n| format!("10.0.0.{n}:8080=1")).collect::<Vec<_>>().join(" ");
    for (line, table) in
        [("ring\t1024", "ringHash: {minimumRingSize: 1024}"), ("maglev\t65537", "maglev: {tableSize: 65537}")]
    {
        let line = format!("{line}\t{hosts}\t");
        let answers = GOLDEN.lines().find_map(|it| it.strip_prefix(&line)).unwrap();
        let mut desk = Desk::new(&(web(5) + &by_header(table)));
        for (n, letter) in answers.bytes().enumerate() {
            assert_eq!(of_key(&mut desk, &format!("key-{n}")), letter - b'a' + 1, "{table}, key-{n}");
        }
    }
}

#[test]
fn keys_keep_their_endpoint_when_others_come_and_go() {
    for table in ["ringHash: {}", "maglev: {}"] {
        let rule = by_header(table);
        let mut desk = Desk::new(&(web(5) + &rule));
        let keys: Vec<String> = (0..200).map(|n| format!("key-{n}")).collect();
        let at = |desk: &mut Desk| keys.iter().map(|key| of_key(desk, key)).collect::<Vec<u8>>();
        let before = at(&mut desk);
        assert_eq!(at(&mut desk), before);
        desk.write("other.yaml", &service("other"));
        assert_eq!(at(&mut desk), before, "{table}: nothing of it changed");
        desk.write("mesh.yaml", &(web(6) + &rule));
        let with_another = at(&mut desk);
        let moved = before.iter().zip(&with_another).filter(|(a, b)| a != b).count();
        assert!((10..=70).contains(&moved), "{table}: {moved} of 200 moved for one endpoint in six");
        desk.write("mesh.yaml", &(web(5) + &rule));
        assert_eq!(at(&mut desk), before, "{table}: as it was");
    }
}

#[test]
fn a_request_without_the_header_goes_anywhere() {
    let mut desk = Desk::new(&(web(3) + &by_header("ringHash: {}")));
    let cluster = desk.web();
    assert_eq!(desk.seen(&cluster), [1, 2, 3]);
}

#[test]
fn a_client_s_address_decides_and_its_port_does_not() {
    let mut desk =
        Desk::new(&(web(5) + &policy_of_web("loadBalancer: {consistentHash: {useSourceIp: true}}")));
    let cluster = desk.web();
    let mut from = |source: &str| {
        let source: SocketAddr = source.parse().unwrap();
        last(desk.pick_by(&cluster, PickFacts { source, ..facts() }).unwrap().address)
    };
    let of_one: Vec<u8> = (1000..1020).map(|port| from(&format!("10.7.0.1:{port}"))).collect();
    assert!(of_one.iter().all(|it| *it == of_one[0]), "{of_one:?}");
    let of_many: std::collections::BTreeSet<u8> =
        (1..60).map(|n| from(&format!("10.7.0.{n}:1000"))).collect();
    assert_eq!(of_many.len(), 5);
}

#[test]
fn a_query_parameter_decides() {
    let by = "loadBalancer: {consistentHash: {httpQueryParameterName: user}}";
    let mut desk = Desk::new(&(web(5) + &policy_of_web(by)));
    let cluster = desk.web();
    let mut of = |query: &str| {
        last(desk.pick_by(&cluster, PickFacts { query: Some(query), ..facts() }).unwrap().address)
    };
    for n in 0..20 {
        assert_eq!(of(&format!("user=u{n}&a=1")), of(&format!("b=2&user=u{n}")), "u{n}");
    }
}

#[test]
fn a_cookie_that_is_given_leads_back_to_the_same_endpoint_also_after_a_rebuild() {
    let by = "loadBalancer: {consistentHash: {httpCookie: {name: sid, path: /shop, ttl: 60s}}}";
    let mesh = web(5) + &policy_of_web(by);
    let mut desk = Desk::new(&mesh);
    let cluster = desk.web();
    for port in 1000..1050 {
        let source = SocketAddr::from(([10, 7, 0, 1], port));
        let first = desk.pick_by(&cluster, PickFacts { source, ..facts() }).unwrap();
        let [given] = &first.set_cookies[..] else { panic!("{:?}", first.set_cookies) };
        assert!(given.ends_with("; Max-Age=60; Path=/shop; HttpOnly"), "{given}");
        let cookie = given.split(';').next().unwrap();
        let headers = HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::from_str(cookie).unwrap())]);
        desk.write("other.yaml", &service(&format!("other-{port}")));
        desk.write("mesh.yaml", &mesh.replace("version: v1", &format!("version: v{port}")));
        let again = desk.pick_by(&cluster, PickFacts { headers: &headers, ..facts() }).unwrap();
        assert_eq!(again.address, first.address);
        assert!(again.set_cookies.is_empty(), "it has one");
    }
}

#[test]
fn hashing_passes_over_an_ejected_endpoint_and_comes_back_to_it() {
    use common::balance::outlier::Outcome;
    let outlier = "outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 50}";
    let by = format!("loadBalancer: {{consistentHash: {{httpHeaderName: x-key}}}}, {outlier}");
    let mut desk = Desk::new(&(service("web") + &pod(1, "v1") + &pod(2, "v1") + &policy_of_web(&by)));
    let cluster = desk.web();
    let before: Vec<u8> = (0..50).map(|n| of_key(&mut desk, &format!("key-{n}"))).collect();
    let victim = desk.pick(&cluster).unwrap();
    let other = 3 - last(victim.address);
    victim.attempt.finish(Outcome::Answered(500), desk.now).unwrap();
    assert!((0..50).all(|n| of_key(&mut desk, &format!("key-{n}")) == other));
    desk.pass(30);
    let after: Vec<u8> = (0..50).map(|n| of_key(&mut desk, &format!("key-{n}"))).collect();
    assert_eq!(after, before);
}

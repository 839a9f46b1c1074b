//! Tables of what is and what is not a request, and properties over anything at all.

use proptest::prelude::*;

use super::*;
use crate::snapshot::model::WorkloadKind;

#[test]
fn an_authority_prints_as_it_was_read() {
    for text in [
        "10.0.0.7:8080",
        "127.0.0.1:1",
        "255.0.0.1:65535",
        "[fd00::7]:8080",
        "[::1]:80",
        "[2001:db8:0:1:2:3:4:5]:443",
        "web.shop.svc.cluster.local:80",
        "a:1",
        "7up.example.com:80",
        "xn--bcher-kva.example:443",
    ] {
        assert_eq!(Authority::parse(text).map(|authority| authority.to_string()), Ok(text.to_owned()));
    }
    assert_eq!(Authority::parse("[fd00:0:0::7]:80").unwrap().to_string(), "[fd00::7]:80");
}

/// None of these names one place.
pub(crate) const NOWHERE: &[&str] = &[
    "",
    ":",
    ":80",
    "10.0.0.7",
    "10.0.0.7:",
    "10.0.0.7:0",
    "10.0.0.7:00080",
    "10.0.0.7:080",
    "10.0.0.7:+80",
    "10.0.0.7:-1",
    "10.0.0.7:65536",
    "10.0.0.7:99999999999",
    "10.0.0.7:80 ",
    " 10.0.0.7:80",
    "10.0.0.7:8o",
    "10.0.0.7:80:80",
    "10.0.0.7:80/",
    "10.0.0.7:80#",
    "10.0.0.7:80?x",
    "10.0.0.7\0:80",
    "user@10.0.0.7:80",
    "user:pw@10.0.0.7:80",
    "@10.0.0.7:80",
    "010.0.0.7:80",
    "10.0.0.07:80",
    "10.0.7:80",
    "10.7:80",
    "167772167:80",
    "0x0a000007:80",
    "0x7f.1:80",
    "0177.0.0.1:80",
    "10.0.0.7.:80",
    "10.0.0.256:80",
    "0.0.0.0:80",
    "224.0.0.1:80",
    "255.255.255.255:80",
    "[::]:80",
    "[ff02::1]:80",
    "[::ffff:127.0.0.1]:80",
    "[::ffff:7f00:1]:80",
    "[::ffff:10.0.0.7]:80",
    "[fe80::1%eth0]:80",
    "[fe80::1%1]:80",
    "[fe80::1%25eth0]:80",
    "fe80::1:80",
    "::1:80",
    "[fd00::7]",
    "[fd00::7]80",
    "[fd00::7:80",
    "fd00::7]:80",
    "[]:80",
    "[10.0.0.7]:80",
    "[[::1]]:80",
    "[::1]:0",
    "[::1]:",
    "[v1.x]:80",
    "Web.shop:80",
    "WEB:80",
    "web..shop:80",
    ".web:80",
    "web.:80",
    "-web:80",
    "web-:80",
    "we_b:80",
    "we b:80",
    "web%2eshop:80",
    "*.shop:80",
    "bücher.example:80",
    "web\t:80",
    "web.1:80",
    "web.shop.127:80",
    "http://web:80",
    "//web:80",
];

#[test]
fn whatever_is_not_one_place_is_no_authority() {
    let long = format!("{}:80", "a.".repeat(130));
    let label = format!("{}.example:80", "a".repeat(64));
    for text in NOWHERE.iter().copied().chain([long.as_str(), label.as_str()]) {
        assert!(Authority::parse(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn a_scope_is_not_part_of_an_address() {
    let scoped = std::net::SocketAddrV6::new("fd00::7".parse().unwrap(), 80, 5, 9);
    assert_eq!(Authority::address(scoped.into()), Authority::parse("[fd00::7]:80"));
}

#[test]
fn forwarded_is_read_as_istio_writes_it() {
    let with_host = r#"for="10.0.0.1:5000";host=web.shop.svc.cluster.local"#;
    for text in [with_host, r#"for="10.0.0.1:5000""#, r#"for="[fd00::1]:5000""#] {
        assert_eq!(Forwarded::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(
        Forwarded::parse(r#"By=x;FOR="10.0.0.1:5000"; proto=http;Host="web.shop.svc.cluster.local""#),
        Forwarded::parse(with_host)
    );
    for text in [
        "",
        "for",
        "for=",
        "host=web",
        r#"for="10.0.0.1""#,
        r#"for="10.0.0.1:5000"#,
        r#"for=10.0.0.1:5000""#,
        r#"for="10.0.0.1:5000", for="10.0.0.2:1""#,
        r#"for="10.0.0.1:5000";for="10.0.0.2:1""#,
        r#"for="_hidden""#,
        r#"for="web:80""#,
        r#"for="10.0.0.1:5000";host=a;host=b"#,
        r#"for="10.0.0.1:5000";host=A B"#,
        r#"for="10.0.0.\1:5000""#,
    ] {
        assert_eq!(Forwarded::parse(text), None, "{text:?}");
    }
    assert_eq!(Forwarded::parse(&format!("{with_host};x={}", "y".repeat(MAX_FORWARDED_BYTES))), None);
}

#[test]
fn baggage_is_read_as_istio_writes_it() {
    let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,\
                service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z";
    let baggage = Baggage::parse(text).unwrap();
    assert_eq!(baggage.to_string(), text);
    assert_eq!(baggage.workload, Some((WorkloadKind::Deployment, "web".into())));
    let loose = Baggage::parse("x=1, service.name = web ;p=1, service.name=other").unwrap();
    assert_eq!(&*loose.service, "web", "of a repeated member the first counts");
    assert_eq!(Baggage::parse("service.name"), None);
    assert_eq!(Baggage::parse(&"a=b,".repeat(MAX_BAGGAGE_MEMBERS + 1)), None);
    assert_eq!(Baggage::parse(&format!("a={}", "b".repeat(MAX_BAGGAGE_BYTES))), None);
}

#[test]
fn a_value_that_would_break_the_list_is_left_out() {
    let baggage =
        Baggage { service: "a,service.version=evil".into(), zone: "z".into(), ..Baggage::default() };
    assert_eq!(baggage.to_string(), "cloud.availability_zone=z");
}

#[test]
fn a_traceparent_prints_as_it_was_read() {
    let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = Traceparent::parse(text).unwrap();
    assert_eq!(trace.to_string(), text);
    assert_eq!(trace.child(1).to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-01");
    assert!(Traceparent::parse(&Traceparent::new(0, 0).to_string()).is_some());
    for text in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
    ] {
        assert_eq!(Traceparent::parse(text), None, "{text:?}");
    }
}

#[test]
fn a_connect_is_read_as_it_was_written() {
    let connect = Connect {
        authority: Authority::parse("10.0.0.7:8080").unwrap(),
        forwarded: Forwarded::parse(r#"for="10.0.0.1:5000";host=web.shop.svc.cluster.local"#),
        baggage: Baggage::parse("service.name=web"),
        traceparent: Some(Traceparent::new(1, 2)),
        unauthenticated: true,
    };
    let (parts, ()) = connect.encode().unwrap().into_parts();
    assert_eq!(Connect::decode(&parts), Ok(connect));
}

#[test]
fn a_doubled_header_is_absent() {
    let (mut parts, ()) =
        Connect::to(Authority::parse("10.0.0.7:80").unwrap()).encode().unwrap().into_parts();
    for value in [r#"for="10.0.0.1:5000""#, r#"for="10.0.0.2:5000""#] {
        parts.headers.append(FORWARDED, HeaderValue::from_static(value));
    }
    assert_eq!(Connect::decode(&parts).unwrap().forwarded, None);
}

#[test]
fn whoever_claims_to_be_unauthenticated_is_however_it_is_spelled_and_nobody_else() {
    let plain = Connect::to(Authority::parse("10.0.0.7:80").unwrap());
    let (parts, ()) = plain.encode().unwrap().into_parts();
    assert!(!Connect::decode(&parts).unwrap().unauthenticated);
    for values in [&["true"][..], &["false"], &[""], &["true", "false"]] {
        let mut parts = parts.clone();
        for value in values {
            parts.headers.append(UNAUTHENTICATED, HeaderValue::from_static(value));
        }
        assert!(Connect::decode(&parts).unwrap().unauthenticated, "{values:?}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_a_parser_panic(text in "\\PC{0,300}") {
        let _ = (Authority::parse(&text), Forwarded::parse(&text), Baggage::parse(&text), Traceparent::parse(&text));
    }

    #[test]
    fn an_accepted_authority_is_canonical(text in "[0-9a-z.:\\[\\]-]{1,24}:[0-9]{1,6}") {
        if let Ok(authority) = Authority::parse(&text) {
            prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
        }
    }

    #[test]
    fn every_address_is_judged_by_value_and_not_by_spelling(octets: [u8; 16], port: u16) {
        let address = std::net::SocketAddr::new(octets.into(), port);
        prop_assert_eq!(Authority::parse(&address.to_string()), Authority::address(address));
    }
}

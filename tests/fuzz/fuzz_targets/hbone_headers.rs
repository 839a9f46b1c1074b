//! What a peer says about itself in a CONNECT: forwarded, baggage and traceparent.
//!
//! One line of input per header. Whatever was accepted can be sent on, and what is sent reads as what it was. Baggage
//! may lose members on the way, those that would break its list apart, but is the same from then on.

#![no_main]

use common::hbone::request::{Authority, Baggage, Connect, Forwarded, Traceparent};
use http::{HeaderValue, Method, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut request = Request::builder().method(Method::CONNECT).uri("10.0.0.7:8080");
    for (name, value) in
        ["forwarded", "baggage", "traceparent"].into_iter().zip(input.split(|byte| *byte == b'\n'))
    {
        if let Ok(text) = std::str::from_utf8(value) {
            read_alone(text);
        }
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request = request.header(name, value);
        }
    }
    let (parts, ()) =
        request.body(()).expect("the method, the address and the values are valid").into_parts();
    let connect = Connect::decode(&parts).expect("headers never decide whether a CONNECT is one");
    assert_eq!(connect.authority, Authority::parse("10.0.0.7:8080").expect("an address"));
    let (sent, ()) = connect.encode().expect("what was decoded can be sent").into_parts();
    let arrived = Connect::decode(&sent).expect("what was sent can be decoded");
    assert_eq!(
        (&arrived.authority, &arrived.forwarded, &arrived.traceparent),
        (&connect.authority, &connect.forwarded, &connect.traceparent),
    );
    assert_eq!(baggage_of(&arrived), baggage_of(&connect));
});

fn baggage_of(connect: &Connect) -> String {
    connect.baggage.as_ref().map_or_else(String::new, Baggage::to_string)
}

fn read_alone(text: &str) {
    if let Some(forwarded) = Forwarded::parse(text) {
        assert_eq!(Forwarded::parse(&forwarded.to_string()), Some(forwarded));
    }
    if let Some(baggage) = Baggage::parse(text) {
        let printed = baggage.to_string();
        assert!(printed.bytes().all(|byte| byte.is_ascii_graphic()), "{printed:?} is no header value");
        let again = Baggage::parse(&printed).map_or_else(String::new, |baggage| baggage.to_string());
        assert_eq!(again, printed, "members appeared or vanished on the way");
    }
    if let Some(traceparent) = Traceparent::parse(text) {
        assert_eq!(Traceparent::parse(&traceparent.to_string()), Some(traceparent));
    }
}

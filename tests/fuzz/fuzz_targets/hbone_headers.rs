//! What a peer says about itself in a CONNECT: forwarded, baggage and traceparent.
//!
//! One line of input per header. Whatever is accepted, printed and read again says the same.

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
    let (again, ()) = connect.encode().expect("what was decoded can be sent").into_parts();
    assert_eq!(Connect::decode(&again), Ok(connect), "what is sent on says something else");
});

fn read_alone(text: &str) {
    if let Some(forwarded) = Forwarded::parse(text) {
        assert_eq!(Forwarded::parse(&forwarded.to_string()), Some(forwarded));
    }
    if let Some(baggage) = Baggage::parse(text).filter(|baggage| *baggage != Baggage::default()) {
        assert_eq!(Baggage::parse(&baggage.to_string()), Some(baggage));
    }
    if let Some(traceparent) = Traceparent::parse(text) {
        assert_eq!(Traceparent::parse(&traceparent.to_string()), Some(traceparent));
    }
}

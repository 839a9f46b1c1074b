use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use http::HeaderName;

use super::*;
use crate::config::expression::{Expression, PeerFact};
use crate::telemetry::attributes::{More, Side};
use crate::telemetry::flags::Flag;
use crate::telemetry::line::LogFormat;
use crate::telemetry::logging;
use crate::telemetry::request_line::HttpLine;

/// What is known beyond the line.
struct Further {
    request: BTreeMap<&'static str, &'static str>,
    response: BTreeMap<&'static str, &'static str>,
}

impl More for Further {
    fn request_header(&self, name: &HeaderName) -> Option<&[u8]> {
        self.request.get(name.as_str()).map(|it| it.as_bytes())
    }
    fn response_header(&self, name: &HeaderName) -> Option<&[u8]> {
        self.response.get(name.as_str()).map(|it| it.as_bytes())
    }
    fn grpc_status(&self) -> Option<u8> {
        None
    }
    fn trace_id(&self) -> Option<u128> {
        Some(0xabc)
    }
    fn peer(&self, side: Side, fact: PeerFact) -> Option<Cow<'_, str>> {
        (side == Side::Source && fact == PeerFact::Principal)
            .then(|| "spiffe://cluster.local/ns/shop/sa/web".into())
    }
}

fn told(shape: &Shape) -> String {
    let out = Captured::default();
    let (log, subscriber) = logging::build("info", LogFormat::Plain, Box::new(out.clone())).unwrap();
    let _guard = tracing::subscriber::set_default(subscriber);
    let further = Further {
        request: BTreeMap::from([("x-user", "Ann \"A\"\nrm"), ("x-tag", "abcdefgh")]),
        response: BTreeMap::from([("content-type", "text/html")]),
    };
    let line = RequestLine {
        http: Some(HttpLine {
            method: "GET",
            path: b"/orig",
            asked_path: b"/a?b=1",
            protocol: "HTTP/2",
            forwarded_for: None,
            user_agent: Some(b"curl"),
            request_id: Some(b"id-1"),
            authority: Some(b"shop"),
        }),
        status: 503,
        flags: Flag::DelayInjected.into(),
        bytes_sent: 7,
        duration: Duration::from_millis(12),
        service_time: Some(Duration::from_millis(3)),
        downstream_remote: Some("10.0.0.7:4000".parse().unwrap()),
        more: Some(&further),
        ..RequestLine::default()
    };
    log.access.shaped(shape, &line, false);
    assert!(log.sink.flush(Duration::from_secs(10)));
    let text = out.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn format(text: &str) -> Format {
    Format::read(text, |_| None).unwrap()
}

#[test]
fn each_operator_tells_what_it_stands_for() {
    for (stated, expected) in [
        ("%REQ(:METHOD)% %REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "GET /a?b=1 /orig"),
        ("%RESPONSE_CODE%/%RESPONSE_FLAGS%/%PROTOCOL%", "503/DI/HTTP/2"),
        ("%BYTES_SENT% %BYTES_RECEIVED% %DURATION%ms", "7 0 12ms"),
        ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %RESP(Content-Type)%", "3 text/html"),
        ("%REQ(X-A?X-TAG):3%|%REQ(X-A)%|%UPSTREAM_HOST%", "abc|-|-"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.7:4000 10.0.0.7"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/shop/sa/web"),
        ("%TRACE_ID%", "00000000000000000000000000000abc"),
        ("%CEL(request.host + '/' + request.query)%", "shop/b=1"),
        ("%REQ(X-USER)%", r#"Ann \"A\"\nrm"#),
        ("%REQ(X-REQUEST-ID)% %REQ(USER-AGENT)% %REQ(:AUTHORITY)%", "id-1 curl shop"),
    ] {
        assert_eq!(told(&Shape::Text(format(stated))), format!("{expected}\n"), "{stated}");
    }
    assert_eq!(told(&Shape::Text(format("a\n"))), "a\n");
    assert_eq!(told(&Shape::Text(format("%START_TIME%"))).len(), "2026-11-21T00:00:00.000Z\n".len());
}

#[test]
fn labels_make_one_object_whatever_a_client_sends() {
    let fields = |omits_empty| Shape::Labels {
        fields: [
            ("code", "%RESPONSE_CODE%"),
            ("mixed", "say \"%REQ(X-USER)%\" \\"),
            ("none", "%UPSTREAM_HOST%"),
            ("path", "%REQ(:PATH)%"),
        ]
        .map(|(key, it)| (key.into(), format(it)))
        .into(),
        omits_empty,
    };
    let whole: serde_json::Value = serde_json::from_str(&told(&fields(false))).unwrap();
    let expected = serde_json::json!({
        "code": 503, "mixed": "say \"Ann \"A\"\nrm\" \\", "none": null, "path": "/a?b=1"
    });
    assert_eq!(whole, expected);
    let whole: serde_json::Value = serde_json::from_str(&told(&fields(true))).unwrap();
    assert!(whole.get("none").is_none(), "{whole}");
    assert_eq!(told(&Shape::Labels { fields: Box::default(), omits_empty: true }), "{}\n");
}

#[test]
fn filters_see_what_the_line_tells() {
    for (filter, holds) in [
        ("response.code >= 500 && request.method == 'GET'", true),
        ("response.flags == 'DI' && request.url_path == '/a'", true),
        ("connection.mtls && source.address == '10.0.0.7'", true),
        ("request.headers['x-tag'].startsWith('abc') && request.useragent == 'curl'", true),
        ("has(upstream.address)", false),
    ] {
        let expression = format!("%CEL({filter})%");
        assert_eq!(told(&Shape::Text(format(&expression))), format!("{holds}\n"), "{filter}");
        assert!(Expression::condition(filter.into()).is_ok());
    }
}

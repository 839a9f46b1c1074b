use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use common::config::mesh::{Authorizer, ProviderKind};
use prost::Message as _;

use super::{headers, pairs, provider, put};
use crate::authorizer::grpc::{self, Parties, question};
use crate::authorizer::proto::{
    CheckRequest, CheckResponse, DeniedResponse, Header, HeaderValueOption, HttpStatus, OkResponse,
    QueryParameter, Status,
};
use crate::authorizer::{Failure, Seen, Verdict};

fn authorizer(more: &str) -> Authorizer {
    match provider(&format!("envoyExtAuthzGrpc: {{service: a.b, port: 80{more}}}")) {
        ProviderKind::GrpcAuthorizer(it) => it,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_authorizer_is_shown_the_whole_request_and_its_parties() {
    let all = headers(&[
        ("x-a", "1"),
        ("x-a", "2"),
        ("content-length", "7"),
        ("host", "web"),
        ("x-request-id", "r"),
    ]);
    let parties = Parties {
        client: "10.0.0.1:4000".parse().unwrap(),
        principal: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
        called: "[::ffff:10.96.0.1]:80".parse().unwrap(),
    };
    let seen = Seen { bytes: Bytes::from_static(b"{\"a\"\xff"), is_partial: true };
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    let asked = |more: &str| {
        let framed = question(&authorizer(more), &put(&all, Some(&seen)), &parties, now);
        assert_eq!((framed[0], framed.len()), (0, 5 + usize::from(framed[3]) * 256 + usize::from(framed[4])));
        CheckRequest::decode(&framed[5..]).unwrap().attributes.unwrap()
    };
    let body = ", includeRequestBodyInCheck: {maxRequestBytes: 9, allowPartialMessage: true";
    let attributes = asked(&format!("{body}}}"));
    let (source, destination) = (attributes.source.unwrap(), attributes.destination.unwrap());
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/web");
    let address = |it: super::super::proto::Peer| it.address.unwrap().socket_address.unwrap();
    let (client, called) = (address(source), address(destination));
    assert_eq!((&*client.address, client.port_value), ("10.0.0.1", 4000));
    assert_eq!((&*called.address, called.port_value), ("10.96.0.1", 80));
    let request = attributes.request.unwrap();
    assert_eq!(request.time.map(|it| (it.seconds, it.nanos)), Some((1, 500_000_000)));
    let http = request.http.unwrap();
    assert_eq!((&*http.method, &*http.path, &*http.host, http.size), ("PUT", "/orders?a=1", "web:80", 7));
    assert_eq!((&*http.protocol, &*http.id, &*http.scheme), ("HTTP/1.1", "r", "http"));
    assert_eq!((&*http.headers["x-a"], &*http.headers[":path"]), ("1,2", "/orders?a=1"));
    assert!(!http.headers.contains_key("host"));
    assert_eq!(http.headers["x-envoy-auth-partial-body"], "true");
    assert_eq!((&*http.body, http.raw_body.len()), ("{\"a\"\u{fffd}", 0));
    let packed = asked(&format!("{body}, packAsBytes: true}}")).request.unwrap().http.unwrap();
    assert_eq!((&*packed.body, &*packed.raw_body), ("", &b"{\"a\"\xff"[..]));
}

fn told(response: &CheckResponse) -> Result<Verdict, Failure> {
    let message = response.encode_to_vec();
    let length = u8::try_from(message.len()).unwrap();
    let body = [&[0, 0, 0, 0, length][..], &message].concat();
    grpc::verdict(StatusCode::OK, &HeaderMap::new(), Some(&headers(&[("grpc-status", "0")])), &body)
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = Header { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append: None, append_action: 0 }
}

#[test]
fn ok_agrees_with_its_changes() {
    assert!(matches!(told(&CheckResponse::default()), Ok(Verdict::Agreed(it)) if it == Default::default()));
    let ok = OkResponse {
        headers: vec![
            option("X-User", "alice"),
            HeaderValueOption { append: Some(true), ..option("x-role", "b") },
            HeaderValueOption { append_action: 1, ..option("x-once", "new") },
        ],
        headers_to_remove: vec!["X-Secret".to_owned()],
        response_headers_to_add: vec![option("x-told", "t")],
        ..OkResponse::default()
    };
    let agreed = CheckResponse { status: Some(Status { code: 0 }), ok: Some(ok), denied: None };
    let Ok(Verdict::Agreed(changes)) = told(&agreed) else { panic!() };
    let mut request = headers(&[("x-user", "forged"), ("x-role", "a"), ("x-once", "old"), ("x-secret", "s")]);
    changes.apply(&mut request);
    assert_eq!(pairs(&request), [("x-once", "old"), ("x-role", "a"), ("x-role", "b"), ("x-user", "alice")]);
    assert_eq!(changes.answer.len(), 1);
}

#[test]
fn anything_but_ok_refuses_as_it_says() {
    let refused = |denied: Option<DeniedResponse>| {
        told(&CheckResponse { status: Some(Status { code: 7 }), denied, ok: Some(OkResponse::default()) })
    };
    let Ok(Verdict::Refused(plain)) = refused(None) else { panic!() };
    assert_eq!((plain.status, plain.headers.len(), plain.body.len()), (StatusCode::FORBIDDEN, 0, 0));
    let denied = DeniedResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![option("www-authenticate", "Bearer")],
        body: "who are you".to_owned(),
    };
    let Ok(Verdict::Refused(own)) = refused(Some(denied.clone())) else { panic!() };
    assert_eq!((own.status.as_u16(), &*own.body, own.headers.len()), (401, &b"who are you"[..], 1));
    let odd = DeniedResponse { status: Some(HttpStatus { code: 7000 }), ..denied };
    assert!(matches!(refused(Some(odd)), Err(Failure::Malformed(_))));
}

#[test]
fn what_is_no_answer_is_taken_for_none() {
    let message = CheckResponse::default().encode_to_vec();
    let whole = [&[0, 0, 0, 0, 0][..], &message].concat();
    let (ok, none) = (headers(&[("grpc-status", "0")]), HeaderMap::new());
    let judge = |status, headers: &HeaderMap, trailers: Option<&HeaderMap>, body: &[u8]| {
        grpc::verdict(StatusCode::from_u16(status).unwrap(), headers, trailers, body)
    };
    assert!(judge(200, &none, Some(&ok), &whole).is_ok());
    assert_eq!(judge(503, &none, Some(&ok), &whole), Err(Failure::Status(503)));
    assert_eq!(judge(200, &headers(&[("grpc-status", "14")]), None, &[]), Err(Failure::Status(14)));
    for (trailers, body) in [
        (None, &whole[..]),
        (Some(&ok), &[][..]),
        (Some(&ok), &[1, 0, 0, 0, 0]),
        (Some(&ok), &[0, 0, 0, 0, 9]),
        (Some(&ok), &[0, 0, 0, 0, 0, 0]),
        (Some(&ok), &[0, 0, 0, 0, 1, 0xff]),
    ] {
        assert!(matches!(judge(200, &none, trailers, body), Err(Failure::Malformed(_))), "{body:?}");
    }
    let with = |ok: OkResponse| told(&CheckResponse { status: None, denied: None, ok: Some(ok) });
    for name in [":path", "host", "content-length", "a b", ""] {
        let ok = OkResponse { headers: vec![option(name, "v")], ..OkResponse::default() };
        assert!(matches!(with(ok), Err(Failure::Malformed(_))), "{name}");
        let ok = OkResponse { headers_to_remove: vec![name.to_owned()], ..OkResponse::default() };
        assert!(matches!(with(ok), Err(Failure::Malformed(_))), "{name}");
    }
    let query = OkResponse {
        query_parameters_to_set: vec![QueryParameter { key: "a".to_owned() }],
        ..OkResponse::default()
    };
    assert!(matches!(with(query), Err(Failure::Malformed(_))));
    let bad_value = OkResponse { headers: vec![option("x", "a\nb")], ..OkResponse::default() };
    assert!(matches!(with(bad_value), Err(Failure::Malformed(_))));
}

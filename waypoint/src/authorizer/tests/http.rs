use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use common::config::mesh::{HttpAuthorizer, ProviderKind};

use super::{headers, pairs, provider, put};
use crate::authorizer::http::{question, strip, verdict};
use crate::authorizer::{Failure, Refused, Seen, Verdict};

fn authorizer(more: &str) -> HttpAuthorizer {
    match provider(&format!("envoyExtAuthzHttp: {{service: a.b, port: 80{more}}}")) {
        ProviderKind::HttpAuthorizer(it) => it,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_authorizer_sees_what_it_is_to_see() {
    let all = headers(&[
        ("authorization", "Bearer x"),
        ("host", "web"),
        ("content-length", "700"),
        ("x-mine", "1"),
        ("x-mine", "2"),
        ("x-b3-traceid", "t"),
        ("request-id", "r"),
        ("cookie", "c"),
        ("x-envoy-auth-partial-body", "forged"),
    ]);
    let plain = question(&authorizer(""), &put(&all, None));
    assert_eq!(plain.target, "/orders?a=1");
    assert_eq!(pairs(&plain.headers), [("authorization", "Bearer x"), ("content-length", "0")]);
    let more = ", pathPrefix: /check, includeRequestHeadersInCheck: [x-mine, 'x-b3-*', '*-id'], \
                includeAdditionalHeadersInCheck: {x-mine: ours, host: elsewhere}";
    let shown = question(&authorizer(more), &put(&all, None));
    assert_eq!(shown.target, "/check/orders?a=1");
    let expected = [
        ("authorization", "Bearer x"),
        ("content-length", "0"),
        ("request-id", "r"),
        ("x-b3-traceid", "t"),
        ("x-mine", "ours"),
    ];
    assert_eq!(pairs(&shown.headers), expected);
    let all_shown = question(&authorizer(", includeRequestHeadersInCheck: ['*']"), &put(&all, None));
    assert!(
        !all_shown.headers.contains_key("host")
            && !all_shown.headers.contains_key("x-envoy-auth-partial-body")
    );
    assert_eq!(all_shown.headers["content-length"], "0");
    let legacy = question(&authorizer(", includeHeadersInCheck: [cookie]"), &put(&all, None));
    assert_eq!(legacy.headers["cookie"], "c");
    for (is_partial, told) in [(true, "true"), (false, "false")] {
        let seen = Seen { bytes: Bytes::from_static(b"hello"), is_partial };
        let with_body = question(&authorizer(""), &put(&all, Some(&seen)));
        assert_eq!(
            (&*with_body.body, &with_body.headers["content-length"]),
            (&b"hello"[..], &"5".parse().unwrap())
        );
        assert_eq!(with_body.headers["x-envoy-auth-partial-body"], told);
    }
}

#[test]
fn only_200_agrees_and_a_failing_server_says_nothing() {
    let judge = |status: u16| {
        verdict(&authorizer(""), StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), Bytes::new())
    };
    assert!(matches!(judge(200), Ok(Verdict::Agreed(changes)) if changes == Default::default()));
    for refusing in [201, 204, 302, 401, 403, 404, 429] {
        assert!(
            matches!(judge(refusing), Ok(Verdict::Refused(it)) if it.status.as_u16() == refusing),
            "{refusing}"
        );
    }
    for failing in [500, 502, 503, 504] {
        assert_eq!(judge(failing), Err(Failure::Status(failing)));
    }
}

type Pairs = Vec<(String, String)>;

/// What of an answer with these headers reaches the endpoint and the client.
fn told(more: &str, status: u16) -> (Pairs, Pairs) {
    let answer = headers(&[
        ("x-user", "alice"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("location", "/login"),
        ("www-authenticate", "Basic"),
        ("content-length", "4"),
        ("connection", "close"),
    ]);
    let said = verdict(
        &authorizer(more),
        StatusCode::from_u16(status).unwrap(),
        &answer,
        Bytes::from_static(b"body"),
    );
    let mut request = headers(&[("x-user", "forged"), ("x-other", "o")]);
    let mut client = HeaderMap::new();
    match said.unwrap() {
        Verdict::Agreed(changes) => {
            changes.apply(&mut request);
            changes.answer.iter().for_each(|it| it.apply(&mut client));
        }
        Verdict::Refused(Refused { headers, body, .. }) => {
            assert_eq!(&*body, b"body");
            headers.iter().for_each(|it| it.apply(&mut client));
        }
    }
    let owned = |headers: &HeaderMap| {
        pairs(headers).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    (owned(&request), owned(&client))
}

fn list(all: &[(&str, &str)]) -> Pairs {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn headers_of_its_answer_go_where_they_are_listed_for() {
    let forged = list(&[("x-other", "o"), ("x-user", "forged")]);
    assert_eq!(told("", 200), (forged.clone(), vec![]));
    let known = list(&[("x-other", "o"), ("x-user", "alice")]);
    assert_eq!(told(", headersToUpstreamOnAllow: [X-User]", 200), (known, vec![]));
    let cookies = list(&[("set-cookie", "a=1"), ("set-cookie", "b=2")]);
    assert_eq!(told(", headersToDownstreamOnAllow: ['set-*']", 200), (forged.clone(), cookies.clone()));
    let all = [&cookies[..], &list(&[("www-authenticate", "Basic"), ("x-user", "alice")])].concat();
    let all = [&list(&[("location", "/login")])[..], &all].concat();
    assert_eq!(told("", 302), (forged.clone(), all));
    let listed =
        [&list(&[("location", "/login")])[..], &cookies, &list(&[("www-authenticate", "Basic")])].concat();
    assert_eq!(told(", headersToDownstreamOnDeny: [set-cookie, connection]", 401), (forged, listed));
}

#[test]
fn what_only_the_authorizer_may_say_no_client_says() {
    let client =
        [("x-user", "root"), ("x-auth-a", "1"), ("x-auth-b", "2"), ("content-length", "3"), ("x", "4")];
    for (named, left) in [
        ("[]", vec!["content-length", "x", "x-auth-a", "x-auth-b", "x-user"]),
        ("[x-user]", vec!["content-length", "x", "x-auth-a", "x-auth-b"]),
        ("[X-USER, 'x-auth-*']", vec!["content-length", "x"]),
        ("['*-length', '*-user']", vec!["content-length", "x", "x-auth-a", "x-auth-b"]),
        ("['*']", vec!["content-length", "x", "x-auth-a", "x-auth-b", "x-user"]),
    ] {
        let mut headers = headers(&client);
        strip(&authorizer(&format!(", headersToUpstreamOnAllow: {named}")), &mut headers);
        assert_eq!(pairs(&headers).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), left, "{named}");
    }
    let removing = headers(&[("x-envoy-auth-headers-to-remove", "x-secret, Host,x-b")]);
    let said = verdict(&authorizer(""), StatusCode::OK, &removing, Bytes::new());
    let Ok(Verdict::Agreed(changes)) = said else { panic!() };
    let mut request = headers(&[("x-secret", "s"), ("host", "h"), ("x-b", "b"), ("x-c", "c")]);
    changes.apply(&mut request);
    assert_eq!(pairs(&request), [("host", "h"), ("x-c", "c")]);
}

#[test]
fn what_an_answer_says_of_itself_is_not_set_on_a_request() {
    let said = [("x-user", "a"), ("content-type", "t"), ("date", "d"), ("server", "s"), ("set-cookie", "c")];
    let set = |named: &str| {
        let authorizer = authorizer(&format!(", headersToUpstreamOnAllow: {named}"));
        let Ok(Verdict::Agreed(it)) = verdict(&authorizer, StatusCode::OK, &headers(&said), Bytes::new())
        else {
            panic!()
        };
        it.request.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(set("['*']"), ["x-user"]);
    assert_eq!(set("[set-cookie]"), ["set-cookie"], "by its name");
}

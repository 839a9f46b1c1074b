use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A request, by what is known of it.
#[derive(Default)]
struct Known(BTreeMap<&'static str, Value<'static>>);

impl Facts for Known {
    fn attribute(&self, attribute: &Attribute) -> Option<Value<'_>> {
        let name = match attribute {
            Attribute::RequestHeader(name) => format!("request.headers.{name}"),
            Attribute::ResponseHeader(name) => format!("response.headers.{name}"),
            other => format!("{other:?}"),
        };
        self.0.get(name.as_str()).cloned()
    }
}

fn known() -> Known {
    Known(BTreeMap::from([
        ("ResponseCode", Value::Number(503)),
        ("RequestMethod", Value::text("GET")),
        ("RequestUrlPath", Value::text("/api/v1/orders")),
        ("RequestHost", Value::text("shop.example")),
        ("ConnectionMtls", Value::Bool(true)),
        ("DestinationPort", Value::Number(8080)),
        ("Source(Namespace)", Value::text("front")),
        ("request.headers.x-user", Value::text("Alice")),
        ("response.headers.content-type", Value::text("text/html")),
    ]))
}

#[test]
fn conditions_hold_as_in_cel() {
    for (text, expected) in [
        ("response.code >= 400", true),
        ("response.code == 503 && request.method == 'GET'", true),
        ("response.code < 500 || connection.mtls", true),
        ("!(response.code in [200, 503])", false),
        ("request.method in ['PUT', \"GET\"]", true),
        ("request.url_path.startsWith('/api') && request.url_path.endsWith('orders')", true),
        ("request.url_path.contains('v2')", false),
        ("request.url_path.matches('^/api/v[0-9]/')", true),
        ("request.url_path.matches('v[0-9]/o')", true),
        (r"request.url_path.matches(r'^\d')", false),
        ("has(request.headers['x-user'])", true),
        ("has(request.headers.host)", false),
        ("'x-user' in request.headers", true),
        ("'x-other' in response.headers", false),
        ("request.headers['X-User'].lowerAscii() == 'alice'", true),
        ("response.headers['content-type'] == 'text/html'", true),
        ("filter_state.downstream_peer.namespace == 'front'", true),
        ("filter_state['downstream_peer'].namespace != 'front'", false),
        ("string(response.code) == '503' && int('503') == response.code", true),
        ("size(request.host) == 12 && request.host.size() > 1", true),
        ("(response.code > 500 ? 'bad' : 'good') == 'bad'", true),
        ("request.method + '-' + string(destination.port) == 'GET-8080'", true),
        ("-1 < response.code && !false && true != false", true),
        ("'a\\'b' == \"a'b\"", true),
        // What is missing spoils the whole, unless the other side decides alone.
        ("request.headers['x-other'] == 'a'", false),
        ("!(request.headers['x-other'] == 'a')", false),
        ("request.headers['x-other'] == 'a' || response.code == 503", true),
        ("response.code == 503 || request.headers['x-other'] == 'a'", true),
        ("request.headers['x-other'] == 'a' && response.code == 503", false),
        ("!(request.headers['x-other'] == 'a' && response.code == 1)", true),
        ("response.grpc_status == 0", false),
    ] {
        let read = Expression::condition(text.into()).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(read.holds(&known()), expected, "{text}");
    }
}

#[test]
fn values_come_to_what_they_say() {
    for (text, expected) in [
        ("request.host", Some("shop.example")),
        ("'fixed'", Some("fixed")),
        ("response.code", Some("503")),
        ("connection.mtls", Some("true")),
        ("has(request.headers['x-b']) ? request.headers['x-b'] : 'none'", Some("none")),
        ("request.headers['x-b']", None),
    ] {
        let read = Expression::value(text.into()).unwrap();
        let facts = known();
        let value = read.evaluate(&facts).map(|it| it.into_text().into_owned());
        assert_eq!(value.as_deref(), expected, "{text}");
    }
}

#[test]
fn what_is_not_part_of_the_subset_is_refused_by_name() {
    let deep = "(".repeat(40) + "true" + &")".repeat(40);
    let wide = format!("true{}", " && true".repeat(MAX_EXPRESSION_NODES));
    let long = format!("'{}' == ''", "a".repeat(MAX_EXPRESSION_BYTES));
    for (text, why) in [
        ("", "an empty expression"),
        ("response.code", "comes to a int, where a condition belongs"),
        ("response.code == '200'", "takes a string, not a int"),
        ("response.code + 1 == 2", "+ takes a string"),
        ("response.code * 2 == 2", "the operator * is not part of the subset"),
        ("request.time > 1", "the attribute request.time is not part of the subset"),
        ("request.host.reverse('a')", "the function reverse is not part of the subset"),
        ("timestamp('a') == 'b'", "the function timestamp is not part of the subset"),
        ("request.host.matches('(')", "regex"),
        ("request.host.matches(request.path)", "matches takes a text"),
        ("response.code == 1.5", "no whole number"),
        ("request.host == 'a", "without its closing quote"),
        ("request.host == '\\q'", "the escape \\q"),
        ("request.headers['a b'] == 'c'", "no name of a header"),
        ("request.host in request.headers", "in takes a list"),
        ("'a' in request.host", "no list and no map"),
        ("true true", "the expression should end"),
        ("(true", "expected )"),
        ("response.code &", "'&' is none of CEL"),
        ("has('a')", "expected a name"),
        (&deep, "nested deeper"),
        (&wide, "more than 256 parts"),
        (&long, "more than 4096 bytes"),
    ] {
        let refused = Expression::condition(text.into()).expect_err(text);
        assert!(refused.contains(why), "{text}: {refused}");
    }
}

#[test]
fn the_headers_that_are_asked_for_are_known_beforehand() {
    let read = Expression::condition(
        "has(request.headers['x-a']) || ('x-b' in response.headers && request.headers['x-c'] in ['1'])"
            .into(),
    )
    .unwrap();
    let (request, response) = read.headers();
    let names = |all: &[HeaderName]| all.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(" ");
    assert_eq!((names(&request).as_str(), names(&response).as_str()), ("x-a x-c", "x-b"));
}

proptest! {
    #[test]
    fn no_text_is_read_without_end_or_a_panic(text in "[a-z.()\\[\\]'\"!&|<>=?:+, 0-9\\\\é-]{0,80}") {
        if let Ok(read) = Expression::value(text.into()) {
            let facts = known();
            let _ = read.evaluate(&facts);
        }
    }
}

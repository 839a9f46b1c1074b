//! What matching looks at: one request or one connection, in the forms that rules are written for.
//!
//! Borrowed from whoever holds the request, so that matching allocates nothing. The path is the canonical one and the
//! authority is as the client sent it: rules about either see exactly what is forwarded and logged.

use std::net::IpAddr;

use common::snapshot::model::Workload;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value};

/// A request, before anything of it is changed.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The method, in its own case.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority as the client sent it, with the port if it sent one.
    pub authority: &'a str,
    /// The canonical path, without the query.
    pub path: &'a str,
    /// What follows `?`, if there is one.
    pub query: Option<&'a str>,
    /// The headers. Cookies that came in several are one, joined by `; `.
    pub headers: &'a HeaderMap,
    /// The port of the service that was called.
    pub port: u16,
    /// The workload that calls, known by its verified identity and address.
    pub source: Option<&'a Workload>,
    /// What the verified token of the request claims, if there is one.
    pub claims: Option<&'a Map<String, Value>>,
}

impl<'a> RequestFacts<'a> {
    /// The values of a header. Several headers of one name are several values, as in Envoy 1.40: joined by commas, one
    /// would hide the other from a rule.
    pub fn values(&self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.headers.get_all(name).into_iter().map(|it| it.as_bytes())
    }

    /// The value of a parameter of the query, as it was sent; of several the first, and empty for one without `=`.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.query?.split('&').map(|it| it.split_once('=').unwrap_or((it, "")));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Whether it is a gRPC call, by its content type: `application/grpc` or `application/grpc+proto`.
    pub fn is_grpc(&self) -> bool {
        let stated = self.headers.get(CONTENT_TYPE).map(|it| it.as_bytes());
        let rest = stated.and_then(|it| it.strip_prefix(b"application/grpc"));
        rest.is_some_and(|it| it.is_empty() || it.starts_with(b"+"))
    }

    /// Path and query, as they are forwarded when nothing rewrites them.
    pub fn target(&self) -> String {
        with_query(self.path, self.query)
    }
}

/// A path with its query, if there is one.
pub(crate) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// A connection that is not HTTP, or whose HTTP is inside TLS that is not ended here.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The server name of a TLS ClientHello; `None` when it is no TLS, or names none.
    pub server_name: Option<&'a str>,
    /// The address that was called.
    pub destination: IpAddr,
    /// The port of the service that was called.
    pub port: u16,
    /// The workload that calls, known by its verified identity and address.
    pub source: Option<&'a Workload>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_name_are_apart_and_parameters_are_the_first_of_theirs() {
        let name = HeaderName::from_static("x-a");
        let mut headers = HeaderMap::new();
        let facts = |headers: &HeaderMap| {
            let facts = RequestFacts {
                method: "GET",
                scheme: "http",
                authority: "reviews",
                path: "/",
                query: Some("a=1&b&a=2&c=x%20y&=z"),
                headers,
                port: 80,
                source: None,
                claims: None,
            };
            assert_eq!(
                ["a", "b", "c", "d", ""].map(|it| facts.parameter(it).map(str::to_owned)),
                [Some("1".into()), Some("".into()), Some("x%20y".into()), None, Some("z".into())]
            );
            assert_eq!(facts.target(), "/?a=1&b&a=2&c=x%20y&=z");
            facts.values(&name).map(|it| String::from_utf8(it.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert!(facts(&headers).is_empty());
        for values in [&["1"][..], &["1", "2,3"]] {
            headers.append(&name, values[values.len() - 1].parse().unwrap());
            assert_eq!(facts(&headers), values);
        }
    }

    #[test]
    fn a_grpc_call_is_known_by_its_content_type_and_nothing_else() {
        for (stated, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, stated.parse().unwrap())]);
            let facts = RequestFacts {
                method: "POST",
                scheme: "http",
                authority: "a",
                path: "/",
                query: None,
                headers: &headers,
                port: 80,
                source: None,
                claims: None,
            };
            assert_eq!(facts.is_grpc(), expected, "{stated}");
        }
    }
}

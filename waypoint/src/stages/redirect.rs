//! `redirect`: where a client is sent instead.

use common::config::routing::http::{Redirect, RedirectPath, RedirectPort};
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use super::respond::Answer;
use crate::routes::{PathPart, RequestFacts};

/// The answer, with its `Location`. Changes to response headers that the route states are made to it too. A request
/// whose authority cannot stand in a header is answered with 400.
pub fn redirected(stated: &Redirect, part: PathPart<'_>, facts: &RequestFacts<'_>) -> Answer {
    let scheme = stated.scheme.as_deref().unwrap_or(facts.scheme);
    let location = format!("{scheme}://{}{}", authority(stated, scheme, facts), path(stated, part, facts));
    match HeaderValue::try_from(location) {
        Ok(location) => {
            let mut answer = Answer::bare(stated.status);
            answer.headers.insert(LOCATION, location);
            answer
        }
        Err(_) => Answer::bare(StatusCode::BAD_REQUEST),
    }
}

/// Host and port. A port that is the scheme's own is left out where a port is stated.
fn authority(stated: &Redirect, scheme: &str, facts: &RequestFacts<'_>) -> String {
    let authority = stated.authority.as_deref().unwrap_or(facts.authority);
    let (host, own_port) = split_port(authority);
    let port = match stated.port {
        Some(RedirectPort::Number(port)) => Some(port),
        Some(RedirectPort::OfRequest) => Some(facts.port),
        Some(RedirectPort::OfScheme) => None,
        // The port that the client called goes with its scheme: `:80` means nothing to https.
        None if stated.authority.is_none() && scheme != facts.scheme => {
            own_port.and_then(|it| it.parse().ok()).filter(|it| Some(*it) != default_port(facts.scheme))
        }
        None => return authority.to_owned(),
    };
    match port.filter(|it| stated.port.is_none() || Some(*it) != default_port(scheme)) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Path and query. The query of the request is kept, unless the stated path has one.
fn path(stated: &Redirect, part: PathPart<'_>, facts: &RequestFacts<'_>) -> String {
    let path = match (&stated.path, part) {
        (None, _) => return facts.target(),
        (Some(RedirectPath::Whole(path)), _) if path.contains('?') => return path.to_string(),
        (Some(RedirectPath::Whole(path)), _) => path.to_string(),
        (Some(RedirectPath::Prefix(path)), part) => replaced(part, path, facts.path),
    };
    crate::routes::with_query(&path, facts.query)
}

/// A path with what was matched of it replaced.
pub(super) fn replaced(part: PathPart<'_>, by: &str, path: &str) -> String {
    let rest = match part {
        PathPart::Whole => "",
        PathPart::Prefix(prefix) => path.get(prefix.len()..).unwrap_or_default(),
        // The slash belongs to what follows the prefix; where nothing is left of either, it is the path.
        PathPart::Segments(prefix) => match path.get(prefix.len()..).unwrap_or_default() {
            "" if by.is_empty() => "/",
            // The `*` of OPTIONS has no segments.
            "*" => return path.to_owned(),
            rest => rest,
        },
    };
    format!("{by}{rest}")
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host and port of an authority. An address in brackets keeps them.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use common::config::routing::HttpAction;
    use http::HeaderMap;

    use super::*;
    use crate::routes::tests::rule;

    const PREFIX: &str = "match: [{uri: {prefix: /old}}]\n";

    /// Status and location for a request to `http://AUTHORITY/old/x?y=1` on port 8080.
    fn location(stated: &str, authority: &str) -> (u16, String) {
        let headers = HeaderMap::new();
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority,
            path: "/old/x",
            query: Some("y=1"),
            headers: &headers,
            port: 8080,
            source: None,
            claims: None,
        };
        let rule = rule(&format!("{PREFIX}redirect: {{{stated}}}"));
        let HttpAction::Redirect(stated) = rule.route.action() else { panic!("no redirect") };
        let answer = redirected(stated, rule.prefix(), &facts);
        let location = answer.headers.get(LOCATION).map(|it| it.to_str().unwrap().to_owned());
        (answer.status.as_u16(), location.unwrap_or_default())
    }

    #[test]
    fn a_redirect_changes_what_is_stated_and_keeps_the_rest() {
        for (stated, authority, expected) in [
            ("uri: /new", "a", "http://a/new?y=1"),
            ("uri: '/new?z=2'", "a", "http://a/new?z=2"),
            ("prefixRewrite: /new", "a", "http://a/new/x?y=1"),
            ("authority: b", "a:8080", "http://b/old/x?y=1"),
            ("authority: 'b:1'", "a:8080", "http://b:1/old/x?y=1"),
            ("scheme: https", "a", "https://a/old/x?y=1"),
            ("scheme: https", "a:80", "https://a/old/x?y=1"),
            ("scheme: https", "a:8080", "https://a:8080/old/x?y=1"),
            ("scheme: https", "a:443", "https://a:443/old/x?y=1"),
            ("scheme: https", "[::1]:80", "https://[::1]/old/x?y=1"),
            ("uri: /", "[::1]", "http://[::1]/?y=1"),
            ("uri: /", "a:80", "http://a:80/?y=1"),
            ("scheme: https, port: 443", "a:8080", "https://a/old/x?y=1"),
            ("port: 80", "a:8080", "http://a/old/x?y=1"),
            ("port: 443", "a", "http://a:443/old/x?y=1"),
            ("port: 81, authority: 'b:1'", "a", "http://b:81/old/x?y=1"),
            ("derivePort: FROM_PROTOCOL_DEFAULT, scheme: https", "a:8080", "https://a/old/x?y=1"),
            ("derivePort: FROM_REQUEST_PORT", "a", "http://a:8080/old/x?y=1"),
            ("derivePort: FROM_REQUEST_PORT, scheme: https", "a:1", "https://a:8080/old/x?y=1"),
        ] {
            assert_eq!(location(stated, authority), (301, expected.to_owned()), "{stated} of {authority}");
        }
    }

    #[test]
    fn every_status_of_a_redirect_is_told() {
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(location(&format!("uri: /, redirectCode: {status}"), "a").0, status);
        }
    }
}

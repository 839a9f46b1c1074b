//! An authorizer over HTTP: it is asked with the method and path of the request, and agrees with 200.

use bytes::Bytes;
use common::config::mesh::HttpAuthorizer;
use common::snapshot::model::StringMatch;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{Asked, Change, Changes, Failure, How, Refused, Verdict, is_framing, is_named};

/// Whether the body that is shown is not whole (Envoy's header).
const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// In the authorizer's answer: headers to take out of the request (Envoy's header).
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// What a refusal tells its client whatever `headersToDownstreamOnDeny` lists.
const ALWAYS_TOLD: [HeaderName; 2] = [WWW_AUTHENTICATE, LOCATION];

/// Headers that are about the answer they stand in, besides those of its content (RFC 9110, 8 and 10.2; RFC 9111; RFC 6265).
const OF_ANSWER: [&str; 18] = [
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "pragma",
    "proxy-authenticate",
    "retry-after",
    "server",
    "set-cookie",
    "vary",
    "via",
    "www-authenticate",
    "x-envoy-upstream-service-time",
];

/// What an authorizer is asked.
#[derive(Debug, PartialEq)]
pub struct Question {
    /// Path and query.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The question about a request.
pub fn question(authorizer: &HttpAuthorizer, asked: &Asked<'_>) -> Question {
    let mut headers = HeaderMap::new();
    for (name, value) in asked.headers {
        let is_shown = *name == AUTHORIZATION || is_named(&authorizer.shown_headers, name);
        if is_shown && !is_framing(name) && *name != EXPECT {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.remove(PARTIAL_BODY);
    if let Some(seen) = asked.body {
        let is_partial = HeaderValue::from_static(if seen.is_partial { "true" } else { "false" });
        headers.insert(PARTIAL_BODY, is_partial);
    }
    for (name, value) in authorizer.added_headers.iter().filter(|(name, _)| !is_framing(name)) {
        headers.insert(name.clone(), value.clone());
    }
    let body = asked.body.map(|it| it.bytes.clone()).unwrap_or_default();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Question { target: format!("{}{}", authorizer.path_prefix, asked.target), headers, body }
}

/// What the answer says.
///
/// # Errors
/// [`Failure`] when it is of a server that has failed.
pub fn verdict(
    authorizer: &HttpAuthorizer,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Verdict, Failure> {
    if status.is_server_error() || status.is_informational() {
        return Err(Failure::Status(status.as_u16()));
    }
    if status != StatusCode::OK {
        let told = |name: &HeaderName| match &authorizer.downstream_on_deny {
            None => true,
            Some(listed) => ALWAYS_TOLD.contains(name) || is_named(listed, name),
        };
        return Ok(Verdict::Refused(Refused { status, headers: taken(headers, How::Add, told), body }));
    }
    let removed = headers.get_all(TO_REMOVE).iter().filter_map(|it| it.to_str().ok());
    let removed = removed.flat_map(|it| it.split(',')).filter_map(|it| it.trim().parse().ok());
    Ok(Verdict::Agreed(Changes {
        request: taken(headers, How::Set, |name| is_for_request(authorizer, name)),
        removed: removed.filter(|name| !is_framing(name)).collect(),
        answer: taken(headers, How::Add, |name| is_named(&authorizer.downstream_on_allow, name)),
    }))
}

/// Whether a header of the answer is set on the request: where a list names it, or all are that are about the request and
/// not about the answer itself.
fn is_for_request(authorizer: &HttpAuthorizer, name: &HeaderName) -> bool {
    let by_name = |it: &StringMatch| {
        let is_of_answer = *it == StringMatch::Presence
            && (name.as_str().starts_with("content-") || OF_ANSWER.contains(&name.as_str()));
        !is_of_answer && is_named(std::slice::from_ref(it), name)
    };
    authorizer.upstream_on_allow.iter().any(by_name)
}

fn taken(headers: &HeaderMap, how: How, wanted: impl Fn(&HeaderName) -> bool) -> Vec<Change> {
    let wanted = headers.iter().filter(|(name, _)| !is_framing(name) && wanted(name));
    wanted.map(|(name, value)| Change { name: name.clone(), value: value.clone(), how }).collect()
}

/// A name as servers read it that take `_` for `-`.
fn dashed(name: &HeaderName) -> HeaderName {
    name.as_str().replace('_', "-").parse().unwrap_or_else(|_| name.clone())
}

/// Takes out of a request what only the authorizer may say to an endpoint.
pub fn strip(authorizer: &HttpAuthorizer, headers: &mut HeaderMap) {
    let named: Vec<StringMatch> =
        authorizer.upstream_on_allow.iter().filter(|it| **it != StringMatch::Presence).cloned().collect();
    let is_ours = |name: &HeaderName| is_named(&named, name) || is_named(&named, &dashed(name));
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| !is_framing(name) && is_ours(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

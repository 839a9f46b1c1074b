//! What the head of a request says, in one reading: authority, target, and which fields are for the next hop alone.
//!
//! Pure. Refuses what two servers could read differently (RFC 9112, section 3.2; RFC 9113, section 8.3.1).

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use common::snapshot::model::Workload;
use http::header::{
    CONNECTION, COOKIE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, request};

use crate::authn::Authenticated;
use crate::authn::places::Carrier;
use crate::routes::{self, RequestFacts, with_query};
use crate::serve::Conversation;

/// The one protocol that is passed on (RFC 6455).
const WEBSOCKET: &str = "websocket";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// What tells where a request comes from.
const ORIGIN: [HeaderName; 3] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];
/// What tells an application who called, as the proxy before it has verified: nobody else is believed, and this one says it
/// by none of them. `x-forwarded-for` is not among them: it is for the edge of the mesh to say, and known to be hearsay.
const TESTIMONY: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-external-address"),
];
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What is said to the next hop alone, whether `Connection` lists it or not, but for `TE`.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Its target is none, or could be read in two ways.
    #[error("target: {0}")]
    Target(#[from] routes::Malformed),
    /// None, or one that is no host with an optional port.
    #[error("no usable authority")]
    Authority,
    /// Two that differ.
    #[error("authorities that differ")]
    Contradiction,
    /// CONNECT, which a waypoint is not asked for inside a tunnel.
    #[error("CONNECT")]
    Connect,
    /// It says of headers that tell where it comes from that they are for the next hop alone.
    #[error("Connection names x-forwarded-for, -host or -proto")]
    Hidden,
}

impl Malformed {
    /// What it is answered with.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Target(routes::Malformed::TooLong) => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What a request says before its body, read once: rules see what is forwarded.
#[derive(Clone)]
pub(crate) struct Head {
    /// The method.
    pub(crate) method: Method,
    /// The version the client speaks.
    pub(super) version: Version,
    /// The headers, cookies in one.
    pub(crate) headers: HeaderMap,
    /// Who sent it, by the tokens in it; nobody before they were looked at.
    pub(crate) authenticated: Authenticated,
    pub(super) authority: Arc<str>,
    /// The target as the client sent it.
    sent: PathAndQuery,
    /// The canonical path, where the client's own is not.
    path: Option<String>,
    query: Option<String>,
    /// A segment of the path has parameters, or is escaped twice.
    pub(crate) reads_twice: bool,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// [`Malformed`] when it has not one meaning.
    pub(crate) fn read(parts: request::Parts) -> Result<Self, Malformed> {
        let authority = authority(&parts)?;
        let sent = parts.uri.path_and_query().cloned();
        let sent = sent.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let canonical = routes::canonical_path(sent.as_str())?;
        let reads_twice = canonical.reads_twice;
        let query = canonical.query.map(str::to_owned);
        let path = match canonical.path {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path),
        };
        let request::Parts { method, version, mut headers, .. } = parts;
        join_cookies(&mut headers);
        let version = if version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let authenticated = Authenticated::default();
        Ok(Self { method, version, headers, authenticated, authority, sent, path, query, reads_twice })
    }

    /// Where tokens may stand.
    pub(crate) fn carrier(&mut self) -> Carrier<'_> {
        Carrier { headers: &mut self.headers, query: &mut self.query }
    }

    /// Path and query as they are forwarded when nothing rewrites them: in the client's own memory, where they are as it sent
    /// them.
    ///
    /// # Errors
    /// What is no path instead.
    pub(super) fn target(&self) -> Result<PathAndQuery, String> {
        if self.path.is_none() && self.query.as_deref() == self.sent.query() {
            return Ok(self.sent.clone());
        }
        let made =
            with_query(self.path.as_deref().unwrap_or_else(|| self.sent.path()), self.query.as_deref());
        PathAndQuery::try_from(made.as_str()).map_err(|_| made)
    }

    /// What rules look at.
    pub(crate) fn facts<'a>(&'a self, conversation: &'a Conversation) -> RequestFacts<'a> {
        self.facts_for(conversation.destination.port(), conversation.caller.as_deref())
    }

    /// The same of a call to a port by a workload.
    pub(crate) fn facts_for<'a>(&'a self, port: u16, source: Option<&'a Workload>) -> RequestFacts<'a> {
        RequestFacts {
            method: self.method.as_str(),
            scheme: "http",
            authority: &self.authority,
            path: self.path.as_deref().unwrap_or_else(|| self.sent.path()),
            query: self.query.as_deref(),
            headers: &self.headers,
            port,
            source,
            claims: self.authenticated.claims(),
        }
    }
}

/// HTTP/2 clients may send each cookie apart (RFC 9113, section 8.2.3); rules and HTTP/1.1 know one header.
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// The authority of a request, as the client wrote it.
///
/// # Errors
/// [`Malformed`] when there is none, or there are two.
fn authority(parts: &request::Parts) -> Result<Arc<str>, Malformed> {
    if parts.method == http::Method::CONNECT {
        return Err(Malformed::Connect);
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().map_err(|_| Malformed::Authority)?),
        (Some(_), Some(_)) => return Err(Malformed::Contradiction),
    };
    let stated = parts.uri.authority().map(|authority| authority.as_str());
    let authority = match (stated, host) {
        (Some(stated), Some(host)) if !stated.eq_ignore_ascii_case(host) => {
            return Err(Malformed::Contradiction);
        }
        (Some(stated), _) => stated,
        (None, Some(host)) => host,
        // HTTP/1.0 has none; the strict reader saw to it that HTTP/1.1 has one.
        (None, None) if parts.version == Version::HTTP_10 => return Ok(Arc::default()),
        (None, None) => return Err(Malformed::Authority),
    };
    if is_authority(authority) { Ok(authority.into()) } else { Err(Malformed::Authority) }
}

/// A host name or address, and a port if there is one; no user, no spaces, nothing escaped.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else { return false };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None if rest.is_empty() => (address, None),
                None => return false,
            }
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let spelled = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if !host.bytes().all(spelled) {
                return false;
            }
            (host, port)
        }
    };
    let is_port = |port: &str| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    (1..=253).contains(&host.len()) && port.is_none_or(is_port)
}

/// The same of a request. To be done before anything is added to it or decided about it: a client can take back what it
/// said itself, and nothing that was said here.
///
/// # Errors
/// [`Malformed::Hidden`], as in Envoy: without these headers the request would seem to come from elsewhere.
pub(super) fn strip(headers: &mut HeaderMap) -> Result<(), Malformed> {
    let listed = remove_hop_by_hop(headers);
    if headers.keys().any(|name| TESTIMONY.contains(name)) {
        TESTIMONY.iter().for_each(|name| drop(headers.remove(name)));
    }
    if listed.iter().any(|name| ORIGIN.contains(name)) { Err(Malformed::Hidden) } else { Ok(()) }
}

/// Takes out what a head says to the next hop alone (RFC 9110, section 7.6.1), and returns the names of what it listed as
/// that. `te: trailers` stays, which is said to the server.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) -> Vec<HeaderName> {
    // Most heads have none of them, and to look each up costs more than to pass over the few there are.
    if !headers.keys().any(|name| *name == TE || HOP_BY_HOP.contains(name)) {
        return Vec::new();
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in &listed {
        // What frames and routes a request is not for its sender to hide.
        if name != TE && name != HOST && name != http::header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    headers.remove(TE);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    listed
}

/// The other protocol that a request asks for, when it asks for one as HTTP/1.1 does, and it is WebSocket: whatever else
/// is asked for is passed over (RFC 9110, section 7.8). HTTP/2 above all, which would carry requests that nobody here sees.
pub(crate) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let mut protocols =
        headers.get_all(UPGRADE).iter().filter_map(|it| it.to_str().ok()).flat_map(|it| it.split(','));
    let is_websocket = protocols.any(|protocol| protocol.trim().eq_ignore_ascii_case(WEBSOCKET));
    (version == Version::HTTP_11 && asks && is_websocket).then(|| HeaderValue::from_static(WEBSOCKET))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// Version, URI, headers, and what they say.
    type Case<'a> = (Version, &'a str, &'a [(&'a str, &'a str)], Result<&'a str, Malformed>);

    #[test]
    fn there_is_one_authority_or_the_request_is_refused() {
        use Malformed::{Authority, Contradiction};
        let one = Version::HTTP_11;
        let cases: [Case<'_>; 17] = [
            (one, "/", &[("host", "Shop:80")], Ok("Shop:80")),
            (one, "/", &[("host", "[fd00::1]:80")], Ok("[fd00::1]:80")),
            (one, "http://shop/a", &[("host", "SHOP")], Ok("shop")),
            (Version::HTTP_2, "http://shop/a", &[], Ok("shop")),
            (Version::HTTP_10, "/", &[], Ok("")),
            (one, "/", &[], Err(Authority)),
            (one, "/", &[("host", "")], Err(Authority)),
            (one, "/", &[("host", "a"), ("host", "a")], Err(Contradiction)),
            (one, "http://shop/a", &[("host", "other")], Err(Contradiction)),
            (Version::HTTP_2, "http://shop/a", &[("host", "other")], Err(Contradiction)),
            (one, "/", &[("host", "user@shop")], Err(Authority)),
            (one, "/", &[("host", "shop/a")], Err(Authority)),
            (one, "/", &[("host", "shop:0")], Err(Authority)),
            (one, "/", &[("host", "shop:")], Err(Authority)),
            (one, "/", &[("host", "shop:99999")], Err(Authority)),
            (one, "/", &[("host", "[fd00::1")], Err(Authority)),
            (one, "/", &[("host", "sh%6fp")], Err(Authority)),
        ];
        for (version, uri, headers, expected) in cases {
            let told = authority(&parts(version, uri, headers));
            assert_eq!(told.as_deref().map_err(|why| *why), expected, "{uri} {headers:?}");
        }
    }

    #[test]
    fn what_is_said_to_this_hop_goes_no_further() {
        let all = [
            ("connection", "close, X-Mine, te"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, Trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("accept", "a"),
        ];
        let mut headers = parts(Version::HTTP_11, "/", &all).headers;
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("accept", "a"), ("te", "trailers")]);
        let mut hidden =
            parts(Version::HTTP_11, "/", &[("connection", "host, content-length"), ("host", "a")]).headers;
        remove_hop_by_hop(&mut hidden);
        assert_eq!(hidden.len(), 1);
    }

    #[test]
    fn nobody_hides_where_a_request_comes_from() {
        for (listed, expected) in [
            ("x-request-id, traceparent, authorization", Ok(())),
            ("close, X-Forwarded-For", Err(Malformed::Hidden)),
            ("x-forwarded-host", Err(Malformed::Hidden)),
            ("x-forwarded-proto", Err(Malformed::Hidden)),
        ] {
            let mut headers = parts(Version::HTTP_11, "/", &[("connection", listed)]).headers;
            assert_eq!(strip(&mut headers), expected, "{listed}");
        }
    }

    #[test]
    fn another_protocol_is_asked_for_in_two_places() {
        let both = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let asked = |version, fields: &[(&str, &str)]| upgrade(version, &parts(version, "/", fields).headers);
        assert_eq!(asked(Version::HTTP_11, &both).unwrap(), "websocket");
        assert_eq!(asked(Version::HTTP_11, &both[..1]), None);
        assert_eq!(asked(Version::HTTP_11, &both[1..]), None);
        assert_eq!(asked(Version::HTTP_10, &both), None);
        assert_eq!(asked(Version::HTTP_11, &[both[0], ("upgrade", "h2c, WebSocket")]).unwrap(), "websocket");
        for other in ["h2c", "HTTP/2.0", "TLS/1.0", "websockets", ""] {
            assert_eq!(asked(Version::HTTP_11, &[both[0], ("upgrade", other)]), None, "{other}");
        }
    }
}

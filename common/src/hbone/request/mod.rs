//! What a CONNECT says: where to, and what the sender claims about itself. Pure encoding and parsing.
//!
//! Refuses to know whether the claims are true. Everything but the authority is telemetry: a malformed or doubled
//! header is treated as absent and never decides anything, while a malformed authority ends the request. One more
//! exception is `x-ebb-unauthenticated`, which only takes rights away, so that it counts however it is spelled.

mod authority;
mod baggage;
mod forwarded;
mod traceparent;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::NOWHERE;

pub use authority::{Authority, InvalidAuthority, MAX_AUTHORITY_BYTES};
pub use baggage::{Baggage, MAX_BAGGAGE_BYTES, MAX_BAGGAGE_MEMBERS};
pub use forwarded::{Forwarded, MAX_FORWARDED_BYTES};
pub use traceparent::Traceparent;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};

const FORWARDED: HeaderName = http::header::FORWARDED;
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Ebb's own.
const UNAUTHENTICATED: HeaderName = HeaderName::from_static("x-ebb-unauthenticated");

/// A CONNECT of HBONE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Where the tunnel is to end.
    pub authority: Authority,
    /// The client's address and the service it called, as the sender says.
    pub forwarded: Option<Forwarded>,
    /// The sender's workload, as it says.
    pub baggage: Option<Baggage>,
    /// The trace this connection belongs to.
    pub traceparent: Option<Traceparent>,
    /// Header `x-ebb-unauthenticated`: the sender carries the connection of somebody who proved nothing, so its own
    /// certificate says nothing about the caller. Whoever receives it grants what plaintext is granted, and no more.
    pub unauthenticated: bool,
}

/// Why a request is not a CONNECT of HBONE. Answered with 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Another method.
    #[error("the method is not CONNECT")]
    Method,
    /// A scheme, path or `:protocol`, which a plain CONNECT does not have (RFC 9113, section 8.5).
    #[error("a CONNECT has neither scheme nor path nor protocol")]
    Shape,
    /// No usable `:authority`.
    #[error("authority: {0}")]
    Authority(#[from] InvalidAuthority),
}

impl Connect {
    /// A CONNECT that says nothing but where to.
    pub fn to(authority: Authority) -> Self {
        Self { authority, forwarded: None, baggage: None, traceparent: None, unauthenticated: false }
    }

    /// The request as `h2` sends it.
    pub fn encode(&self) -> Result<Request<()>, http::Error> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .version(http::Version::HTTP_2)
            .uri(self.authority.to_string())
            .body(())?;
        let headers = request.headers_mut();
        if let Some(forwarded) = &self.forwarded {
            headers.insert(FORWARDED, HeaderValue::try_from(forwarded.to_string())?);
        }
        if let Some(baggage) = &self.baggage {
            headers.insert(BAGGAGE, HeaderValue::try_from(baggage.to_string())?);
        }
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, HeaderValue::try_from(traceparent.to_string())?);
        }
        if self.unauthenticated {
            headers.insert(UNAUTHENTICATED, HeaderValue::from_static("true"));
        }
        Ok(request)
    }

    /// Reads a request as `h2` received it.
    ///
    /// # Errors
    /// [`InvalidRequest`] when it is not a CONNECT to a usable authority.
    pub fn decode(parts: &request::Parts) -> Result<Self, InvalidRequest> {
        if parts.method != Method::CONNECT {
            return Err(InvalidRequest::Method);
        }
        let uri = &parts.uri;
        let has_path = uri.path_and_query().is_some_and(|path| !path.as_str().is_empty());
        if uri.scheme().is_some() || has_path || parts.extensions.get::<h2::ext::Protocol>().is_some() {
            return Err(InvalidRequest::Shape);
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        Ok(Self {
            authority: Authority::parse(authority)?,
            forwarded: single(&parts.headers, &FORWARDED).and_then(Forwarded::parse),
            baggage: single(&parts.headers, &BAGGAGE).and_then(Baggage::parse),
            traceparent: single(&parts.headers, &TRACEPARENT).and_then(Traceparent::parse),
            unauthenticated: parts.headers.contains_key(UNAUTHENTICATED),
        })
    }
}

/// The response to a CONNECT, with the answering workload's baggage on a 200 (Istio `ENABLE_RESPONSE_BAGGAGE`).
pub(crate) fn encode_response(status: StatusCode, baggage: Option<&Baggage>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(value) = baggage.and_then(|baggage| HeaderValue::try_from(baggage.to_string()).ok()) {
        response.headers_mut().insert(BAGGAGE, value);
    }
    response
}

/// The baggage of a response.
pub(crate) fn response_baggage(headers: &HeaderMap) -> Option<Baggage> {
    single(headers, &BAGGAGE).and_then(Baggage::parse)
}

/// A header's value when it is there exactly once and is visible ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

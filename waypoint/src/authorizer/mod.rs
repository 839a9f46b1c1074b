//! What an external authorizer is asked about a request, and what its answer means (AuthorizationPolicy, action CUSTOM).
//!
//! Pure: the request to the authorizer and its answer are values; `exchange` carries them. The surprising thing: what an
//! authorizer may tell an endpoint, no client can tell it: headers that `headersToUpstreamOnAllow` names are taken out of
//! every request that was asked about, and are there only where the authorizer has set them.
//!
//! # Where it differs from Istio and Envoy
//!
//! - `custom-forged-headers`: the above. Envoy leaves a client's own header in its place where the authorizer sets none. A
//!   bare `*` names no header and takes none out.
//! - `custom-route`: the route is looked for when the authorizer has spoken, as if `clearRouteCache` were always stated.
//! - `custom-changes`: an answer of a gRPC authorizer that changes pseudo-headers, headers that frame a message, or the
//!   query is no answer. Envoy changes some of these. Dynamic metadata is passed over.
//! - `custom-under-way`: a request that is under way when policies change is judged by them again, and cut off where one
//!   has a provider asked that has not agreed to it. Envoy asks at the beginning and never again.
//! - `custom-append`: a header that is to be appended is added where it is not there; Envoy leaves it out.
//! - `custom-limits`: our own limits (`MAX_CHECKS_IN_FLIGHT`, `SHOWN_BODIES_BYTES`) refuse with 503, `failOpen` or not.

pub mod grpc;
pub mod http;
mod proto;
#[cfg(test)]
mod tests;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use common::snapshot::model::StringMatch;

/// Bytes of an authorizer's answer; a longer one is none.
pub const MAX_VERDICT_BYTES: usize = 256 * 1024;

/// Headers that say how a message is framed or where it goes: no authorizer sets or hides them.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A request that an authorizer is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// Canonical path and query.
    pub target: &'a str,
    /// The authority as the client sent it.
    pub authority: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The version that the client speaks.
    pub version: ::http::Version,
    /// What is shown of its body; `None` where nothing is.
    pub body: Option<&'a Seen>,
}

/// What was read of a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its beginning.
    pub bytes: Bytes,
    /// There is more.
    pub is_partial: bool,
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The request may go on.
    Agreed(Changes),
    /// It may not, and this is the answer.
    Refused(Refused),
}

/// What an authorizer changes of a request that may go on, and of its answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Of the request's headers.
    pub request: Vec<Change>,
    /// Of them, what is taken out.
    pub removed: Vec<HeaderName>,
    /// Of the answer's headers.
    pub answer: Vec<Change>,
}

/// A header to change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What becomes of values that are there.
    pub how: How,
}

/// What becomes of the values of a header that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// They stay beside the new one.
    Add,
    /// They are replaced.
    Set,
    /// They stay, and the new one is for where there are none.
    IfAbsent,
    /// They are replaced, and where there are none there will be none.
    IfPresent,
}

/// The answer to a request that may not go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: Vec<Change>,
    /// The body.
    pub body: Bytes,
}

/// Why an authorizer has said nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such service, or no endpoint of it may be asked.
    #[error("{0} cannot be asked")]
    Unreachable(String),
    /// Its time was up.
    #[error("no answer in time")]
    Late,
    /// It answered that it cannot answer.
    #[error("it answered {0}")]
    Status(u16),
    /// What it answered is no verdict.
    #[error("its answer is none: {0}")]
    Malformed(&'static str),
}

impl Changes {
    /// Makes the changes to a request.
    pub fn apply(&self, headers: &mut HeaderMap) {
        self.request.iter().for_each(|it| it.apply(headers));
        for name in &self.removed {
            headers.remove(name);
        }
    }
}

impl Change {
    /// Makes the change.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let is_there = headers.contains_key(&self.name);
        match self.how {
            How::Set => drop(headers.insert(self.name.clone(), self.value.clone())),
            How::Add => drop(headers.append(self.name.clone(), self.value.clone())),
            How::IfAbsent if !is_there => drop(headers.insert(self.name.clone(), self.value.clone())),
            How::IfPresent if is_there => drop(headers.insert(self.name.clone(), self.value.clone())),
            How::IfAbsent | How::IfPresent => {}
        }
    }
}

/// Whether a header is among those that patterns, in lower case, name.
fn is_named(patterns: &[StringMatch], name: &HeaderName) -> bool {
    let name = name.as_str();
    patterns.iter().any(|pattern| match pattern {
        StringMatch::Presence => true,
        StringMatch::Exact(text) => name == &**text,
        StringMatch::Prefix(text) => name.starts_with(&**text),
        StringMatch::Suffix(text) => name.ends_with(&**text),
    })
}

/// Those of the headers that patterns, in lower case, name.
pub fn shown(patterns: &[StringMatch], headers: &HeaderMap) -> HeaderMap {
    let named = headers.iter().filter(|(name, _)| is_named(patterns, name));
    named.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(&name.as_str())
}

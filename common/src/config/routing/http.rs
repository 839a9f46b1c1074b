//! HTTP routes: what they match, where they lead and how they change a request (Istio `HTTPRoute`).

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use bytes::Bytes;

use super::Destination;
use super::cors::CorsPolicy;
use super::headers::HeaderChanges;
use super::request::HttpMatch;
use super::resilience::{Fault, Mirror, Retries};
use super::session::Session;
use super::strings::Substitution;
use crate::config::ObjectName;
use crate::config::mesh::{Authorizer, HttpAuthorizer};
use crate::snapshot::model::StringMatch;

/// One entry of `spec.http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// `name`, empty when there is none.
    pub name: Arc<str>,
    /// `match`: any of these; empty takes every request.
    pub matches: Box<[HttpMatch]>,
    /// What becomes of the request.
    pub action: HttpAction,
    /// `rewrite`.
    pub rewrite: Option<Rewrite>,
    /// `timeout` of the whole request, retries included; `None` when not stated or 0, which is none.
    pub timeout: Option<Duration>,
    /// `retries`; `None` leaves the default of the mesh.
    pub retries: Option<Retries>,
    /// `fault`.
    pub fault: Fault,
    /// The filter that states the fault, of a rule of the Gateway API (`extensionRef`).
    pub fault_filter: Option<ObjectName>,
    /// `mirror` with its percentage, then `mirrors`.
    pub mirrors: Box<[Mirror]>,
    /// `corsPolicy`.
    pub cors: Option<CorsPolicy>,
    /// `headers`.
    pub headers: HeaderChanges,
    /// `sessionPersistence`, of a rule of the Gateway API.
    pub session: Option<Session>,
    /// The filter `ExternalAuth`, of a rule of the Gateway API.
    pub external_auth: Option<Box<ExternalAuth>>,
}

/// Who has to agree to the requests of a rule (GEP-1494).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAuth {
    /// `backendRef`.
    pub backend: Destination,
    /// How it is asked; the service named there is nobody's.
    pub asked_by: AskedBy,
}

/// `protocol` of an authorizer, and what is stated of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedBy {
    /// `HTTP`.
    Http(HttpAuthorizer),
    /// `GRPC`.
    Grpc {
        /// What it has in common with the other protocol.
        common: Authorizer,
        /// `allowedHeaders`: names, in lower case; `None` is all of them.
        shown_headers: Option<Box<[StringMatch]>>,
    },
}

impl HttpRoute {
    /// Whether it takes every request, so that no route after it is reached.
    pub fn takes_everything(&self) -> bool {
        self.matches.is_empty() || self.matches.iter().any(HttpMatch::takes_everything)
    }
}

/// What becomes of a request; exactly one is stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAction {
    /// `route`: sent to one of these. Empty where no `backendRef` of the Gateway API has a weight, or a filter cannot be
    /// applied: 500.
    Forward(Box<[HttpDestination]>),
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    Respond(DirectResponse),
    /// `delegate`: the routes of this VirtualService decide, within what is matched here.
    Delegate(ObjectName),
}

/// One destination of a route and its share (Istio `HTTPRouteDestination`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpDestination {
    /// `destination`.
    pub destination: Destination,
    /// `weight`: its part of the sum of all. A single destination gets everything, whatever its weight; of several,
    /// one of weight 0 gets nothing. The sum of several is never 0.
    pub weight: u32,
    /// `headers` for this destination alone.
    pub headers: HeaderChanges,
    /// `URLRewrite` of a backend of the Gateway API: what it states takes the place of what the rule does.
    pub rewrite: Option<Rewrite>,
    /// `RequestMirror`s of a backend of the Gateway API: copies of what it gets, beside those of the rule.
    pub mirrors: Box<[Mirror]>,
}

/// Which status a redirect answers with, and to where (Istio `HTTPRedirect`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `uri` or `prefixRewrite`; `None` keeps the path.
    pub path: Option<RedirectPath>,
    /// `authority`; `None` keeps it.
    pub authority: Option<Arc<str>>,
    /// `port` or `derivePort`; `None` keeps what the authority says.
    pub port: Option<RedirectPort>,
    /// `scheme`: `http` or `https`; `None` keeps it.
    pub scheme: Option<Arc<str>>,
    /// `redirectCode`: 301 (the default), 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// The path of a redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// `uri`: the whole path.
    Whole(Arc<str>),
    /// `prefixRewrite`: instead of the prefix that matched.
    Prefix(Arc<str>),
}

/// The port of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// `port`.
    Number(u16),
    /// `derivePort: FROM_PROTOCOL_DEFAULT`: the scheme's own, and so left out.
    OfScheme,
    /// `derivePort: FROM_REQUEST_PORT`: the one that was called.
    OfRequest,
}

/// An answer without asking anyone (Istio `HTTPDirectResponse`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`.
    pub status: StatusCode,
    /// `body.string` or `body.bytes`; empty when there is none.
    pub body: Bytes,
}

/// How a request is changed before it is sent (Istio `HTTPRewrite`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// `uri` or `uriRegexRewrite`.
    pub path: Option<RewritePath>,
    /// `authority`.
    pub authority: Option<Arc<str>>,
}

/// How a path is rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewritePath {
    /// `uri`: instead of the prefix that matched, or of the whole path where something else did.
    Matched(Arc<str>),
    /// `replaceFullPath` of the Gateway API: instead of the whole path, whatever matched.
    Whole(Arc<str>),
    /// `uriRegexRewrite`.
    Substitution(Substitution),
}

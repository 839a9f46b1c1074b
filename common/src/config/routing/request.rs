//! What a request must be for a route to take it (Istio `HTTPMatchRequest`).

use std::sync::Arc;

use ::http::HeaderName;

use super::Gateways;
use super::strings::StringMatch;
use crate::config::Labels;

/// One entry of `match`: everything stated must hold. A route with several takes what any of them does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// `name`, empty when there is none; for logs.
    pub name: Arc<str>,
    /// `uri` with `ignoreUriCase`: of the path, without the query.
    pub path: Option<StringMatch>,
    /// `scheme`.
    pub scheme: Option<StringMatch>,
    /// `method`.
    pub method: Option<StringMatch>,
    /// `authority`: with the port, when the client sent it.
    pub authority: Option<StringMatch>,
    /// `headers`.
    pub headers: Box<[(HeaderKey, ValueMatch)]>,
    /// `withoutHeaders`: none of these may hold. A missing header counts as empty, unless presence is asked for.
    pub without_headers: Box<[(HeaderKey, ValueMatch)]>,
    /// `queryParams`: of the first value of each.
    pub query: Box<[(Arc<str>, ValueMatch)]>,
    /// Only calls of gRPC, by their content type: every match of a GRPCRoute.
    pub is_grpc: bool,
    /// `port` of the service.
    pub port: Option<u16>,
    /// `sourceLabels`: of the workload that calls, known by its identity and address.
    pub source_labels: Labels,
    /// `sourceNamespace` of the workload that calls.
    pub source_namespace: Option<Arc<str>>,
    /// `gateways`; `None` leaves it to the VirtualService.
    pub gateways: Option<Gateways>,
    /// `statPrefix`, empty when there is none.
    pub stat_prefix: Arc<str>,
}

impl HttpMatch {
    /// Whether it takes every request.
    pub fn takes_everything(&self) -> bool {
        let Self { name: _, stat_prefix: _, path, .. } = self;
        let bare = Self {
            name: self.name.clone(),
            stat_prefix: self.stat_prefix.clone(),
            path: path.clone(),
            ..Self::default()
        };
        *self == bare && path.as_ref().is_none_or(StringMatch::matches_every_path)
    }
}

/// Whose value is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// A header.
    Header(HeaderName),
    /// A claim of a verified JWT, by its path: `@request.auth.claims[group][name]` or, older, with dots.
    Claim(Box<[Arc<str>]>),
}

/// What a header or parameter must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// There: `{}` or regex `*`.
    Present,
    /// Of this value.
    Value(StringMatch),
}

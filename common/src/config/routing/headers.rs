//! Changes to headers (Istio `Headers`).

use std::sync::Arc;

use ::http::{HeaderName, HeaderValue};

/// `headers` of a route or a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// `request`.
    pub request: HeaderOperations,
    /// `response`.
    pub response: HeaderOperations,
    /// What `request` sets `:authority` or `host` to; `set` counts before `add`.
    pub authority: Option<Arc<str>>,
}

/// What is set, added and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOperations {
    /// `set`: replaces.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// `add`: appends.
    pub add: Box<[(HeaderName, HeaderValue)]>,
    /// `remove`.
    pub remove: Box<[HeaderName]>,
}

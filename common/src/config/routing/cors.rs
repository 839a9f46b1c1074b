//! Cross-origin requests (Istio `CorsPolicy`).

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderName;

use super::strings::StringMatch;

/// `corsPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsPolicy {
    /// `allowOrigins`, and what the older `allowOrigin` lists.
    pub origins: Box<[StringMatch]>,
    /// `allowMethods`; `*` is any.
    pub methods: Box<[Arc<str>]>,
    /// `allowHeaders`.
    pub headers: Listed,
    /// `exposeHeaders`.
    pub expose: Listed,
    /// `maxAge`, whole seconds.
    pub max_age: Option<Duration>,
    /// `allowCredentials`; `None` is false.
    pub credentials: Option<bool>,
    /// `unmatchedPreflights: IGNORE`: a preflight of another origin is answered without permission instead of being
    /// sent on, which is the default.
    pub ignore_unmatched: bool,
}

/// Header names, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// `*` is among them.
    Any,
    /// These.
    Names(Box<[HeaderName]>),
}

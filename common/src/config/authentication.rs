//! RequestAuthentication as stated: whose tokens are taken, where they stand in a request, and what is told of them.
//!
//! Knows no keys beyond their text and verifies nothing: that is for the waypoint. The surprising thing: a rule admits
//! nobody. A request without a token passes without an identity, and what it may do is for an AuthorizationPolicy to say.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::note::Note;
use super::security::TargetRef;
use super::{Labels, ObjectName};

/// Most rules of one RequestAuthentication.
pub const MAX_JWT_RULES: usize = 64;
/// Most bytes of a JWKS, stated or fetched.
pub const MAX_JWKS_BYTES: usize = 1 << 20;

/// `security.istio.io` RequestAuthentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// Namespace and name.
    pub object: ObjectName,
    /// `spec.selector.matchLabels`. Waypoints select by targets alone, as in Istio.
    pub selector: Labels,
    /// `spec.targetRefs` or `targetRef`.
    pub targets: Box<[TargetRef]>,
    /// `spec.jwtRules`.
    pub rules: Box<[JwtRule]>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

/// One entry of `jwtRules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRule {
    /// `issuer`: what `iss` of a token must be.
    pub issuer: Arc<str>,
    /// `audiences`, of which a token must have one; any will do where none is stated.
    pub audiences: Box<[Arc<str>]>,
    /// Where the keys are.
    pub keys: KeySource,
    /// `fromHeaders`, `fromParams` and `fromCookies`; where none is stated, Istio's own two.
    pub locations: Box<[TokenLocation]>,
    /// `outputPayloadToHeader`.
    pub payload_header: Option<HeaderName>,
    /// `outputClaimToHeaders`: the header, and the claim, which may be a path with dots.
    pub claim_headers: Box<[(HeaderName, Arc<str>)]>,
    /// `forwardOriginalToken`: the token stays in the request.
    pub forward: bool,
    /// `timeout` of one fetch of keys.
    pub timeout: Duration,
    /// `spaceDelimitedClaims`, besides `scope` and `permission`: strings that are lists.
    pub space_delimited: Box<[Arc<str>]>,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// `jwks`: here.
    Inline(Arc<str>),
    /// `jwksUri`.
    Uri(Arc<str>),
    /// Neither: where the discovery document of the issuer says (OpenID Connect Discovery 1.0, section 4). Holds the URI of
    /// that document.
    Discovery(Arc<str>),
}

/// Where a token stands in a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenLocation {
    /// A header, behind a prefix that may be empty.
    Header {
        /// Its name, in lower case.
        name: Arc<str>,
        /// What stands before the token.
        prefix: Arc<str>,
    },
    /// A parameter of the query.
    Parameter(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

impl RequestAuthentication {
    /// Whether it could be in force at a waypoint at all.
    pub fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }
}

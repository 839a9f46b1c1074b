//! Why a request is refused for its token, in Envoy's words: clients and dashboards know them.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};

use crate::stages::respond::{Answer, answer};

/// Longest URL told in `WWW-Authenticate`, in bytes (Envoy).
const MAX_REALM_BYTES: usize = 256;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "`words` says what each is")]
pub enum Refusal {
    TooLong,
    NotThreeParts,
    HeaderBase64,
    HeaderJson,
    NoAlgorithm,
    UnknownAlgorithm,
    KeyIdNotString,
    Critical,
    PayloadBase64,
    PayloadJson,
    IssuerNotString,
    SubjectNotString,
    AudienceNotString,
    ExpiryNotNumber,
    NotBeforeNotNumber,
    SignatureBase64,
    NotYetValid,
    Expired,
    UnknownIssuer,
    AudienceNotAllowed,
    NoMatchingKey,
    NoValidKeys,
    WrongSignature,
    FetchFailed,
    SeveralTokens,
    Unreadable,
}

impl Refusal {
    /// What the client is told. Those of `TooLong`, `Critical` and `Unreadable` are ours: Envoy does not refuse for them.
    pub fn words(self) -> &'static str {
        match self {
            Self::TooLong => "Jwt is too long",
            Self::NotThreeParts => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::NoAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::UnknownAlgorithm => "Jwt header [alg] is not supported",
            Self::KeyIdNotString => "Jwt header [kid] field is not a string",
            Self::Critical => "Jwt header [crit] is not supported",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::IssuerNotString => "Jwt payload [iss] field is not a string",
            Self::SubjectNotString => "Jwt payload [sub] field is not a string",
            Self::AudienceNotString => "Jwt payload [aud] field is not a string or string list",
            Self::ExpiryNotNumber => "Jwt payload [exp] field is not an integer",
            Self::NotBeforeNotNumber => "Jwt payload [nbf] field is not an integer",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::NoMatchingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::NoValidKeys => "Jwks doesn't have any valid public key",
            Self::WrongSignature => "Jwt verification fails",
            Self::FetchFailed => "Jwks remote fetch is failed",
            Self::SeveralTokens => "Found multiple Jwt tokens",
            Self::Unreadable => "RequestAuthentication cannot be read",
        }
    }

    /// 403 where the token is good and for somebody else, or where nothing can be said of any; 401 for the rest.
    pub fn status(self) -> StatusCode {
        match self {
            Self::AudienceNotAllowed | Self::Unreadable => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The answer to a request for `authority` and `path`. The query is not repeated, because a token may stand in it.
    pub fn answer(self, authority: &str, path: &str, is_grpc: bool) -> Answer {
        let mut made = answer(self.status(), self.words(), is_grpc);
        if self != Self::Unreadable {
            let path = path.get(..MAX_REALM_BYTES).unwrap_or(path);
            let challenge = format!("Bearer realm=\"http://{authority}{path}\", error=\"invalid_token\"");
            // Neither a path nor an authority, as they were read, holds a quote or anything that no header may.
            if let Ok(challenge) = HeaderValue::try_from(challenge) {
                made.headers.insert(WWW_AUTHENTICATE, challenge);
            }
        }
        made
    }
}

//! One JWT (RFC 7519, in the compact form of RFC 7515): read, not yet believed. Pure.
//!
//! Stricter than Envoy in what has only one good meaning: Base64url without padding, no key twice, no `crit`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::refusal::Refusal;

/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// How far clocks may be apart, in seconds (Envoy's default).
pub const CLOCK_SKEW: u64 = 60;

/// How a token is signed. HMAC and `none` are no such ways: whoever can verify by the one can sign, and anybody by the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of RFC 7518 and RFC 8037")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// Every one there is.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// A token as it was sent.
#[derive(Debug)]
pub struct Token<'t> {
    /// `alg`: what it says of itself, which a key has to agree to.
    pub algorithm: Algorithm,
    /// `kid`.
    pub key_id: Option<String>,
    /// What is signed.
    pub signed: &'t str,
    /// The signature.
    pub signature: Vec<u8>,
    /// The payload in Base64url, as it stands in the token.
    pub payload: &'t str,
    /// What it claims.
    pub claims: Claims,
}

/// What a token claims, with what has a meaning here taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`; empty where there is none.
    pub issuer: String,
    /// `sub`.
    pub subject: Option<String>,
    /// `aud`: one or several.
    pub audiences: Vec<String>,
    /// `exp` and `nbf`.
    pub times: Times,
    /// All of them.
    pub all: Map<String, Value>,
}

/// When a token is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// `exp`; none never expires, as in Envoy.
    pub expires: Option<u64>,
    /// `nbf`.
    pub not_before: Option<u64>,
}

impl<'t> Token<'t> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Refusal`] when it is none.
    pub fn read(bytes: &'t [u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotThreeParts)?;
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::NotThreeParts);
        };
        let (algorithm, key_id) = read_header(header)?;
        let decoded = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refusal::PayloadBase64)?;
        let claims = Claims::read(json::object(&decoded).map_err(|_| Refusal::PayloadJson)?)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::SignatureBase64)?;
        let signed = &text[..header.len() + 1 + payload.len()];
        Ok(Self { algorithm, key_id, signed, signature, payload, claims })
    }
}

fn read_header(text: &str) -> Result<(Algorithm, Option<String>), Refusal> {
    let decoded = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::HeaderBase64)?;
    let header = json::object(&decoded).map_err(|_| Refusal::HeaderJson)?;
    let Some(Value::String(algorithm)) = header.get("alg") else { return Err(Refusal::NoAlgorithm) };
    let algorithm = Algorithm::of(algorithm).ok_or(Refusal::UnknownAlgorithm)?;
    if header.contains_key("crit") {
        return Err(Refusal::Critical);
    }
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => return Err(Refusal::KeyIdNotString),
    };
    Ok((algorithm, key_id))
}

impl Claims {
    fn read(all: Map<String, Value>) -> Result<Self, Refusal> {
        let text = |name: &str, wrong| match all.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong),
        };
        // What is less than a second off is read the strict way.
        let expires = time(all.get("exp"), f64::floor).map_err(|()| Refusal::ExpiryNotNumber)?;
        let not_before = time(all.get("nbf"), f64::ceil).map_err(|()| Refusal::NotBeforeNotNumber)?;
        Ok(Self {
            issuer: text("iss", Refusal::IssuerNotString)?.unwrap_or_default(),
            subject: text("sub", Refusal::SubjectNotString)?,
            audiences: audiences(all.get("aud"))?,
            times: Times { expires, not_before },
            all,
        })
    }
}

impl Times {
    /// Whether a token is valid now, in seconds since 1970.
    ///
    /// # Errors
    /// When it is not any more, or not yet.
    pub fn check(&self, now: u64) -> Result<(), Refusal> {
        if self.not_before.is_some_and(|it| it > now.saturating_add(CLOCK_SKEW)) {
            return Err(Refusal::NotYetValid);
        }
        if self.expires.is_some_and(|it| now > it.saturating_add(CLOCK_SKEW)) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }
}

/// `NumericDate` of RFC 7519: seconds, perhaps with a fraction.
fn time(stated: Option<&Value>, whole: fn(f64) -> f64) -> Result<Option<u64>, ()> {
    let number = match stated {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(()),
    };
    if let Some(seconds) = number.as_u64() {
        return Ok(Some(seconds));
    }
    match number.as_f64() {
        // Far less than what u64 holds, and far beyond any clock.
        Some(seconds) if (0.0..1e15).contains(&seconds) => Ok(Some(whole(seconds) as u64)),
        _ => Err(()),
    }
}

fn audiences(stated: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(Refusal::AudienceNotString),
    };
    match stated {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}

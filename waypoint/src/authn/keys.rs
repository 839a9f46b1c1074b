//! The keys of an issuer (JWKS, RFC 7517), and whether one of them has signed a token. Pure.
//!
//! What a key may be used for is read from the key: its type, curve, `alg`, `use` and `key_ops`. The token's own `alg` only
//! picks among that, so that no public key is ever taken for a secret, and no token chooses a weaker way.

use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::json;
use super::refusal::Refusal;
use super::token::{Algorithm, Token};

/// Most keys of one JWKS.
pub const MAX_KEYS: usize = 64;
/// Most keys that are tried for one token that does not say which it is of.
pub const MAX_TRIALS: usize = 16;

/// Shortest modulus of RSA, in bytes: 2048 bits.
const MIN_RSA_BYTES: usize = 256;
/// Longest one: 8192 bits.
const MAX_RSA_BYTES: usize = 1024;

/// Some issuers pad what should not be.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why something is no JWKS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// It is not JSON, or not of that shape.
    #[error("no JWKS: {0}")]
    Shape(String),
    /// It has more than [`MAX_KEYS`].
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    /// It has none that a token could be verified by.
    #[error("no key that a token could be verified by")]
    NoneUsable,
}

/// The keys of an issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Key]>,
}

#[derive(Debug)]
struct Key {
    id: Option<Box<str>>,
    /// What it may verify, each with the key in the form that takes.
    ways: Box<[(Algorithm, ParsedPublicKey)]>,
}

impl KeySet {
    /// Reads a JWKS. Keys that are for something else, or that nobody should use, are passed over.
    ///
    /// # Errors
    /// [`InvalidKeys`].
    pub fn read(bytes: &[u8]) -> Result<Self, InvalidKeys> {
        let shape = |why: &str| InvalidKeys::Shape(why.to_owned());
        let stated = json::object(bytes).map_err(|error| InvalidKeys::Shape(error.to_string()))?;
        let Some(Value::Array(stated)) = stated.get("keys") else { return Err(shape("no list of keys")) };
        if stated.len() > MAX_KEYS {
            return Err(InvalidKeys::TooMany);
        }
        let keys: Box<[Key]> = stated.iter().filter_map(|it| Key::read(it.as_object()?)).collect();
        if keys.is_empty() { Err(InvalidKeys::NoneUsable) } else { Ok(Self { keys }) }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, which [`KeySet::read`] sees to.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether one of the keys has signed a token.
    ///
    /// # Errors
    /// [`Refusal::NoMatchingKey`] when none is of its `kid` and `alg`, [`Refusal::WrongSignature`] when none has.
    pub fn verify(&self, token: &Token<'_>) -> Result<(), Refusal> {
        // A key without an id may be the one, as in Envoy.
        let may_be = |key: &&Key| match (&token.key_id, &key.id) {
            (Some(asked), Some(id)) => **asked == **id,
            _ => true,
        };
        let ways = self.keys.iter().filter(may_be).flat_map(|it| &it.ways);
        let mut tried =
            ways.filter(|(algorithm, _)| *algorithm == token.algorithm).take(MAX_TRIALS).peekable();
        if tried.peek().is_none() {
            return Err(Refusal::NoMatchingKey);
        }
        let message = token.signed.as_bytes();
        match tried.any(|(_, key)| key.verify_sig(message, &token.signature).is_ok()) {
            true => Ok(()),
            false => Err(Refusal::WrongSignature),
        }
    }
}

impl Key {
    fn read(stated: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| stated.get(name).map(Value::as_str);
        // What is there and no string is not understood, so the key is not used.
        let optional = |name: &str| text(name).map_or(Some(None), |it| it.map(Some));
        let required = |name: &str| text(name).flatten();
        if optional("use")?.is_some_and(|it| it != "sig") || !may_verify(stated.get("key_ops")) {
            return None;
        }
        let pinned = match optional("alg")? {
            // What RFC 9864 calls it.
            Some("Ed25519") => Some(Algorithm::EdDsa),
            Some(name) => Some(Algorithm::of(name)?),
            None => None,
        };
        let bytes = |name: &str| BASE64.decode(required(name)?).ok();
        let ways = match required("kty")? {
            "RSA" => rsa(&bytes("n")?, &bytes("e")?, pinned),
            "EC" => elliptic(required("crv")?, &bytes("x")?, &bytes("y")?, pinned),
            "OKP" if required("crv")? == "Ed25519" => {
                one(Algorithm::EdDsa, &signature::ED25519, &bytes("x")?, pinned)
            }
            _ => return None,
        };
        let id = optional("kid")?.map(Into::into);
        (!ways.is_empty()).then(|| Self { id, ways: ways.into() })
    }
}

/// `key_ops` (RFC 7517, section 4.3).
fn may_verify(stated: Option<&Value>) -> bool {
    match stated {
        None => true,
        Some(Value::Array(uses)) => uses.iter().any(|it| it == "verify"),
        Some(_) => false,
    }
}

fn rsa(n: &[u8], e: &[u8], pinned: Option<Algorithm>) -> Vec<(Algorithm, ParsedPublicKey)> {
    let ways: [(Algorithm, &'static RsaParameters); 6] = [
        (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
        (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
        (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    let (n, e) = (without_zeros(n), without_zeros(e));
    // Verification would refuse what is outside; a key that cannot verify is none. Exponents are odd, and small where they
    // are anybody's.
    let is_long =
        n.first().is_some_and(|first| n.len() > MIN_RSA_BYTES || n.len() == MIN_RSA_BYTES && *first >= 0x80);
    let is_exponent = e.len() <= 4 && e != [1] && e.last().is_some_and(|last| last & 1 == 1);
    if !is_long || n.len() > MAX_RSA_BYTES || !is_exponent {
        return Vec::new();
    }
    let key = RsaPublicKeyComponents { n, e };
    let usable = ways.into_iter().filter(|(algorithm, _)| pinned.is_none_or(|it| it == *algorithm));
    usable.filter_map(|(algorithm, how)| Some((algorithm, key.to_parsed_public_key(how).ok()?))).collect()
}

/// Some issuers write a sign in front.
fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|it| *it != 0).unwrap_or(number.len());
    &number[first..]
}

fn elliptic(curve: &str, x: &[u8], y: &[u8], pinned: Option<Algorithm>) -> Vec<(Algorithm, ParsedPublicKey)> {
    let (algorithm, how, length): (_, &'static dyn VerificationAlgorithm, _) = match curve {
        "P-256" => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        _ => return Vec::new(),
    };
    if x.len() != length || y.len() != length {
        return Vec::new();
    }
    // An uncompressed point (SEC 1, section 2.3.3).
    one(algorithm, how, &[&[4], x, y].concat(), pinned)
}

fn one(
    algorithm: Algorithm,
    how: &'static dyn VerificationAlgorithm,
    key: &[u8],
    pinned: Option<Algorithm>,
) -> Vec<(Algorithm, ParsedPublicKey)> {
    if pinned.is_some_and(|it| it != algorithm) {
        return Vec::new();
    }
    ParsedPublicKey::new(how, key).map(|key| (algorithm, key)).into_iter().collect()
}

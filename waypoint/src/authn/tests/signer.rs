//! Issuers of tests: their keys are made when a test begins and go with it.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::token::Algorithm;

/// Somebody who signs tokens.
pub(crate) struct Signer {
    pub(super) algorithm: Algorithm,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Elliptic(EcdsaKeyPair, &'static str),
    Edwards(Ed25519KeyPair),
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One for each way of signing there is, each with a key of its own.
pub(super) static SIGNERS: LazyLock<Vec<Signer>> =
    LazyLock::new(|| Algorithm::ALL.into_iter().map(Signer::new).collect());

/// The one that tests use when any will do.
pub(crate) fn signer() -> &'static Signer {
    by(Algorithm::Es256)
}

pub(super) fn by(algorithm: Algorithm) -> &'static Signer {
    SIGNERS.iter().find(|it| it.algorithm == algorithm).unwrap()
}

impl Signer {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        let rsa = |how| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), how);
        let elliptic = |how, curve| Key::Elliptic(EcdsaKeyPair::generate(how).unwrap(), curve);
        let key = match algorithm {
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
            Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
            Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
            Algorithm::Es256 => elliptic(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::Es384 => elliptic(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::Es512 => elliptic(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            Algorithm::EdDsa => Key::Edwards(Ed25519KeyPair::generate().unwrap()),
        };
        Self { algorithm, key }
    }

    /// Its public key, with further members.
    pub(super) fn jwk(&self, more: Value) -> Value {
        let mut key = match &self.key {
            Key::Rsa(pair, _) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({
                    "kty": "RSA",
                    "n": base64(n.big_endian_without_leading_zero()),
                    "e": base64(e.big_endian_without_leading_zero()),
                })
            }
            Key::Elliptic(pair, curve) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y) })
            }
            Key::Edwards(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key()) })
            }
        };
        key.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        key
    }

    /// A JWKS of its key alone, which has this id.
    pub(crate) fn jwks(&self, id: &str) -> String {
        json!({ "keys": [self.jwk(json!({ "kid": id }))] }).to_string()
    }

    /// What it signs, in the compact form.
    pub(super) fn sign(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims));
        format!("{signed}.{}", base64(self.signature(signed.as_bytes())))
    }

    /// A token with its own `alg`.
    pub(crate) fn token(&self, id: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm.name(), "kid": id }), &claims.to_string())
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(pair, how) => {
                let mut made = vec![0; pair.public_modulus_len()];
                pair.sign(*how, &random, message, &mut made).unwrap();
                made
            }
            Key::Elliptic(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Edwards(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

//! Workload identities: SPIFFE ids of the shape Istio uses.
//!
//! Knows nothing of certificates; `tls` takes ids out of them. The grammar is byte-exact on purpose: an id that
//! would need repair (upper-case scheme, percent encoding, empty or extra segments) is not an id.

use std::fmt;
use std::sync::Arc;

/// The longest SPIFFE id accepted, in bytes (SPIFFE ID specification, section 2.3).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// The trust domain assumed when none is configured (Istio's default).
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Cheap to clone; equal when all three parts are byte-equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The trust domain, lower case.
    pub trust_domain: Arc<str>,
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The Kubernetes service account.
    pub service_account: Arc<str>,
}

/// Why a string is not a SPIFFE id Ebb accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Longer than [`MAX_SPIFFE_ID_BYTES`].
    #[error("a SPIFFE id has at most {MAX_SPIFFE_ID_BYTES} bytes, this one {0}")]
    TooLong(usize),
    /// Not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape,
    /// A part holds a byte outside its alphabet.
    #[error("the {part} holds a byte that is not allowed there")]
    Alphabet {
        /// Which part of the id.
        part: &'static str,
    },
}

impl Identity {
    /// Builds an identity from parts that are already known to be valid names.
    pub fn new(
        trust_domain: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        service_account: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// Reads `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// [`InvalidIdentity`] when the string is anything but exactly that.
    pub fn parse(uri: &str) -> Result<Self, InvalidIdentity> {
        if uri.len() > MAX_SPIFFE_ID_BYTES {
            return Err(InvalidIdentity::TooLong(uri.len()));
        }
        let path = uri.strip_prefix("spiffe://").ok_or(InvalidIdentity::Shape)?;
        let mut segments = path.split('/');
        let mut next = || segments.next().ok_or(InvalidIdentity::Shape);
        let (trust_domain, ns, namespace, sa, service_account) =
            (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || segments.next().is_some() {
            return Err(InvalidIdentity::Shape);
        }
        check("trust domain", trust_domain, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))?;
        check("namespace", namespace, is_path_byte)?;
        check("service account", service_account, is_path_byte)?;
        Ok(Self::new(trust_domain, namespace, service_account))
    }

    /// The principal as AuthorizationPolicy writes it: the id without `spiffe://`.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

fn is_path_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

fn check(part: &'static str, text: &str, allowed: fn(u8) -> bool) -> Result<(), InvalidIdentity> {
    // "." and ".." are spelled with allowed bytes but name another path (SPIFFE ID, section 2.2).
    if text.is_empty() || text == "." || text == ".." {
        return Err(InvalidIdentity::Shape);
    }
    if text.bytes().all(allowed) { Ok(()) } else { Err(InvalidIdentity::Alphabet { part }) }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Identity {
    type Err = InvalidIdentity;
    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_prints_as_it_was_read() {
        let id = "spiffe://cluster.local/ns/shop/sa/web-1.x_y";
        assert_eq!(Identity::parse(id).unwrap().to_string(), id);
        assert_eq!(Identity::parse(id).unwrap().principal(), "cluster.local/ns/shop/sa/web-1.x_y");
    }

    #[test]
    fn whatever_needs_repair_is_refused() {
        for id in [
            "",
            "spiffe://",
            "SPIFFE://td/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td//ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/sa/b/ns/a",
            "spiffe://td/ns/a%2f/sa/b",
            "spiffe://td/ns/a\0/sa/b",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe:///ns/a/sa/b",
            "https://td/ns/a/sa/b",
        ] {
            assert!(Identity::parse(id).is_err(), "{id:?} was accepted");
        }
        assert!(Identity::parse(&format!("spiffe://td/ns/a/sa/{}", "b".repeat(3000))).is_err());
    }
}

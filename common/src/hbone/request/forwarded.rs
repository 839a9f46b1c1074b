//! The `forwarded` header (RFC 7239) as HBONE uses it: `for="10.0.0.1:5000";host=web.shop.svc.cluster.local`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::authority::{Authority, is_hostname};

/// The longest `forwarded` value read, in bytes.
pub const MAX_FORWARDED_BYTES: usize = 512;

/// Who connected to the sender, and which service it called. Claims of the sender, not facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The original client.
    pub client: SocketAddr,
    /// The service's fully qualified name.
    pub host: Option<Arc<str>>,
}

impl Forwarded {
    /// Reads one forwarded element. `by`, `proto` and unknown parameters are skipped.
    ///
    /// `None` when it is too long, lists several elements, repeats a parameter, has no `for`, or `for` is not an
    /// address with a port.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_FORWARDED_BYTES || text.contains(',') {
            return None;
        }
        let (mut client, mut host) = (None, None);
        for pair in text.split(';') {
            let (name, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
            let value = unquote(value)?;
            let repeated = if name.eq_ignore_ascii_case("for") {
                let Ok(Authority::Address(address)) = Authority::parse(value) else { return None };
                client.replace(address).is_some()
            } else if name.eq_ignore_ascii_case("host") {
                let value = Some(value).filter(|value| is_hostname(value))?;
                host.replace(Arc::from(value)).is_some()
            } else {
                false
            };
            if repeated {
                return None;
            }
        }
        Some(Self { client: client?, host })
    }
}

/// The text of a token or of a quoted string; `None` when quotes do not match or escape something.
fn unquote(value: &str) -> Option<&str> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    (!inner.contains(['"', '\\'])).then_some(inner)
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for=\"{}\"", self.client)?;
        match &self.host {
            Some(host) => write!(f, ";host={host}"),
            None => Ok(()),
        }
    }
}

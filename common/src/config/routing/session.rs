//! Sessions whose requests go to one endpoint (Gateway API `SessionPersistence`, GEP-1619).
//!
//! Nothing is kept of a session: what its client carries names the endpoint, as in Envoy's stateful sessions. One that is
//! gone, or must not be asked, is replaced by another, and the client told.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::COOKIE;
use ::http::{HeaderMap, HeaderName};

/// `sessionPersistence` of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What carries it.
    pub carrier: Carrier,
}

/// What a client carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// `sessionName`.
        name: Arc<str>,
        /// `absoluteTimeout` of a `Permanent` one; another ends with the client's session.
        max_age: Option<Duration>,
    },
    /// A header by this name, in answers and in the requests that follow.
    Header(HeaderName),
}

impl Session {
    /// The endpoint that a request asks for.
    pub fn endpoint(&self, headers: &HeaderMap) -> Option<SocketAddr> {
        match &self.carrier {
            Carrier::Header(name) => read(headers.get(name)?.to_str().ok()?),
            Carrier::Cookie { name, .. } => {
                let cookies = headers.get_all(COOKIE).iter().filter_map(|it| it.to_str().ok());
                let mut pairs =
                    cookies.flat_map(|it| it.split(';')).filter_map(|it| it.trim().split_once('='));
                pairs.find_map(|(key, value)| if key == &**name { read(value) } else { None })
            }
        }
    }

    /// What tells a client which endpoint it is to ask for from now on: a header for the answer.
    pub fn told(&self, endpoint: SocketAddr) -> (HeaderName, String) {
        let mut value = written(endpoint);
        match &self.carrier {
            Carrier::Header(name) => (name.clone(), value),
            Carrier::Cookie { name, max_age } => {
                value = format!("{name}={value}; Path=/; HttpOnly");
                if let Some(age) = max_age {
                    // Writing to a string cannot fail.
                    let _ = write!(value, "; Max-Age={}", age.as_secs());
                }
                (::http::header::SET_COOKIE, value)
            }
        }
    }
}

/// An address in hexadecimal digits, because a cookie can hold neither brackets nor colons everywhere.
fn written(endpoint: SocketAddr) -> String {
    endpoint.to_string().bytes().fold(String::new(), |mut made, byte| {
        let _ = write!(made, "{byte:02x}");
        made
    })
}

fn read(text: &str) -> Option<SocketAddr> {
    // The longest address there is, written so.
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 128 {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok());
    let bytes: Option<Vec<u8>> = digits.collect();
    std::str::from_utf8(&bytes?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_client_is_told_leads_it_back_and_nothing_else_does() {
        let cookie = Session { carrier: Carrier::Cookie { name: "s".into(), max_age: None } };
        let header = Session { carrier: Carrier::Header(HeaderName::from_static("x-s")) };
        for endpoint in ["10.0.0.1:8080", "[fd00::1]:8080"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            let (name, value) = header.told(endpoint);
            let headers = HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())]);
            assert_eq!(header.endpoint(&headers), Some(endpoint));
            assert_eq!(cookie.endpoint(&headers), None);
            let (_, value) = cookie.told(endpoint);
            let pair = value.split(';').next().unwrap();
            let sent = HeaderValue::try_from(format!("a=b; s2=x; {pair}; c=d")).unwrap();
            assert_eq!(cookie.endpoint(&HeaderMap::from_iter([(COOKIE, sent)])), Some(endpoint));
        }
        let (name, value) =
            Session { carrier: Carrier::Cookie { name: "s".into(), max_age: Some(Duration::from_secs(60)) } }
                .told("10.0.0.1:1".parse().unwrap());
        assert_eq!(name, "set-cookie");
        assert!(value.ends_with("; Path=/; HttpOnly; Max-Age=60"), "{value}");
        for odd in ["", "0", "zz", "31302e30", "s", &"31".repeat(200)] {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static("x-s"), HeaderValue::try_from(odd).unwrap())]);
            assert_eq!(header.endpoint(&headers), None, "{odd}");
        }
    }
}

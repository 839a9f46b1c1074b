//! The request that is asked about: from flags to the head that a waypoint would read.
//!
//! Goes the way of a real one: what the strict reader and the reading of heads refuse is refused here by them.

use http::{HeaderValue, Request, Version};

use crate::exchange::arrived::Arrived;
use crate::exchange::head::{self, Head};
use crate::exchange::upgrade;
use crate::strict::Strict;
use crate::trace_headers::Sampling;

/// A request in the operator's words.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its target: path and query.
    pub path: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// The server name of a TLS connection, where it is one.
    pub server_name: Option<String>,
}

/// Why a waypoint would not look any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    /// The status it answers with.
    pub(super) status: u16,
    /// Why.
    pub(super) why: String,
}

impl Unread {
    fn bad(why: impl ToString) -> Self {
        Self { status: 400, why: why.to_string() }
    }
}

impl Asked {
    /// The head of the request as it comes from a client that calls `host`.
    pub(super) fn head(&self, host: &str) -> Result<Head, Unread> {
        let mut headers: Vec<(&str, &str)> = self.headers.iter().map(|(name, it)| (&**name, &**it)).collect();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            headers.insert(0, ("host", host));
        }
        let mut raw = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        headers.iter().for_each(|(name, value)| raw.push_str(&format!("{name}: {value}\r\n")));
        raw.push_str("\r\n");
        Strict::default().feed(raw.as_bytes()).map_err(|(_, why)| Unread::bad(why))?;
        let mut request = Request::builder().method(&*self.method).uri(&*self.path).version(Version::HTTP_11);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut request = request.body(()).map_err(Unread::bad)?;
        let wish = head::upgrade(request.version(), request.headers());
        let Arrived { request: stripped, verdict, .. } =
            Arrived::of(std::mem::take(&mut request), None, Sampling::Off);
        let malformed = |why: head::Malformed| Unread { status: why.status().as_u16(), why: why.to_string() };
        verdict.map_err(malformed)?;
        let mut parts = stripped.into_parts().0;
        if let Some(protocol) = wish {
            upgrade::restate(&protocol, &mut parts.headers);
        }
        Head::read(parts).map_err(malformed)
    }
}

/// A path as a flag states it.
pub(super) fn path(text: &str) -> Result<String, String> {
    match text.starts_with('/') || text == "*" {
        true => Ok(text.to_owned()),
        false => Err(format!("a path begins with a slash: /{text}")),
    }
}

/// A header as a flag states it, `name: value`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("write it as 'name: value', not {text:?}");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    if name.parse::<http::HeaderName>().is_err() {
        return Err(format!("{name:?} is no name of a header"));
    }
    let value = value.trim();
    if HeaderValue::from_str(value).is_err() {
        return Err(format!("{value:?} can be no value of a header"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

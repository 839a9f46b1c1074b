//! Where tokens stand in a request: found there, and taken out again. Pure.
//!
//! The surprising thing: of two tokens in one place none is read. Which of them an application would take is not for us to
//! guess.

use std::borrow::Cow;
use std::sync::Arc;

use common::config::authentication::TokenLocation;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::refusal::Refusal;

/// A place where tokens of a rule stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header, behind this prefix.
    Header(HeaderName, Arc<str>),
    /// A parameter of the query.
    Parameter(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}

/// The part of a request in which tokens may stand.
#[derive(Debug)]
pub struct Carrier<'a> {
    /// Its headers, cookies in one.
    pub headers: &'a mut HeaderMap,
    /// What follows `?`, if there is one.
    pub query: &'a mut Option<String>,
}

impl Place {
    /// The place that a rule states; `None` where no request could have it.
    pub fn of(stated: &TokenLocation) -> Option<Self> {
        Some(match stated {
            TokenLocation::Header { name, prefix } => Self::Header(name.parse().ok()?, prefix.clone()),
            TokenLocation::Parameter(name) => Self::Parameter(name.clone()),
            TokenLocation::Cookie(name) => Self::Cookie(name.clone()),
        })
    }

    /// The token that stands there, if one does.
    ///
    /// # Errors
    /// [`Refusal::SeveralTokens`].
    pub fn find<'r>(
        &self,
        headers: &'r HeaderMap,
        query: Option<&'r str>,
    ) -> Result<Option<Cow<'r, [u8]>>, Refusal> {
        match self {
            Self::Header(name, prefix) => {
                let values = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
                only(values.filter_map(|it| behind(prefix, it)).map(Cow::Borrowed))
            }
            Self::Parameter(name) => {
                let pairs = query.into_iter().flat_map(|it| it.split('&')).map(halves);
                only(
                    pairs
                        .filter(|(key, _)| unescaped(key) == name.as_bytes())
                        .map(|(_, value)| unescaped(value)),
                )
            }
            Self::Cookie(name) => {
                let values = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
                let pairs = values.flat_map(|it| it.split(|byte| *byte == b';')).map(cookie);
                only(pairs.filter(|(key, _)| *key == name.as_bytes()).map(|(_, value)| Cow::Borrowed(value)))
            }
        }
    }

    /// Takes out what stands there.
    pub fn clear(&self, carrier: &mut Carrier<'_>) {
        match self {
            Self::Header(name, _) => drop(carrier.headers.remove(name)),
            Self::Parameter(name) => {
                let Some(query) = carrier.query else { return };
                let others = query.split('&').filter(|pair| unescaped(halves(pair).0) != name.as_bytes());
                let left = others.collect::<Vec<_>>().join("&");
                *carrier.query = Some(left).filter(|it| !it.is_empty());
            }
            Self::Cookie(name) => {
                let values = carrier.headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
                let pairs = values.flat_map(|it| it.split(|byte| *byte == b';'));
                let others = pairs.map(<[u8]>::trim_ascii).filter(|it| cookie(it).0 != name.as_bytes());
                let left = others.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(&b"; "[..]);
                match HeaderValue::from_bytes(&left) {
                    Ok(left) if !left.is_empty() => drop(carrier.headers.insert(COOKIE, left)),
                    // What a header holds, less some of it, is what a header may hold: this is where nothing is left.
                    _ => drop(carrier.headers.remove(COOKIE)),
                }
            }
        }
    }
}

fn only<'r>(mut found: impl Iterator<Item = Cow<'r, [u8]>>) -> Result<Option<Cow<'r, [u8]>>, Refusal> {
    let first = found.next();
    if found.next().is_some() { Err(Refusal::SeveralTokens) } else { Ok(first) }
}

/// What stands behind a prefix. The case of the prefix is not looked at: schemes have none (RFC 9110, section 11.1).
fn behind<'v>(prefix: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    // A prefix that ends in a space is there too where nothing follows it, for no header ends in one.
    let bare = prefix.trim_end().as_bytes();
    if value.len() == bare.len() && !bare.is_empty() && value.eq_ignore_ascii_case(bare) {
        return Some(b"");
    }
    let (before, after) = value.split_at_checked(prefix.len())?;
    let is_there = before.eq_ignore_ascii_case(prefix.as_bytes()) && !value.is_empty();
    is_there.then(|| after.trim_ascii())
}

fn halves(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// Name and value of a cookie; a value in quotes is what is between them (RFC 6265, section 4.1.1).
fn cookie(pair: &[u8]) -> (&[u8], &[u8]) {
    let pair = pair.trim_ascii();
    let at = pair.iter().position(|it| *it == b'=').unwrap_or(pair.len());
    let (name, value) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
    let inner = value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\""));
    (name.trim_ascii(), inner.unwrap_or(value))
}

/// A name or a value of a query as applications read it; what is no escape stands for itself.
fn unescaped(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|it| matches!(it, b'%' | b'+')) {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|it| char::from(*it).to_digit(16));
    let (mut made, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                made.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => made.push(b' '),
            (byte, ..) => made.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(made)
}

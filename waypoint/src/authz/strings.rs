//! Comparing strings as policies state them. Allocates nothing.

use common::snapshot::model::StringMatch;

/// Whether a value is as asked, byte for byte. What is empty is not there.
pub(super) fn fits(want: &StringMatch, value: &[u8]) -> bool {
    match want {
        StringMatch::Presence => !value.is_empty(),
        StringMatch::Exact(text) => value == text.as_bytes(),
        StringMatch::Prefix(text) => value.starts_with(text.as_bytes()),
        StringMatch::Suffix(text) => value.ends_with(text.as_bytes()),
    }
}

/// A host that is asked for, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    text: StringMatch,
    names_port: bool,
}

impl Host {
    pub(super) fn new(stated: &StringMatch) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let text = match stated {
            StringMatch::Presence => StringMatch::Presence,
            StringMatch::Prefix(text) => StringMatch::Prefix(lower(text).into()),
            // Their end is that of the authority, and so in its canonical form.
            StringMatch::Exact(text) => StringMatch::Exact(canonical(&lower(text)).into()),
            StringMatch::Suffix(text) => StringMatch::Suffix(canonical(&lower(text)).into()),
        };
        let (StringMatch::Exact(end) | StringMatch::Prefix(end) | StringMatch::Suffix(end)) = stated else {
            return Self { text, names_port: false };
        };
        let behind_address = end.rsplit(']').next().unwrap_or_default();
        Self { text, names_port: behind_address.contains(':') }
    }

    /// Whether an authority is this host: whatever its case, with or without the port of HTTP, with or without a dot
    /// behind it, and at any port when none was asked for.
    pub(super) fn fits(&self, authority: &str) -> bool {
        let canonical = canonical(authority);
        let other = if self.names_port { canonical } else { without_port(canonical) };
        self.fits_exactly(authority) || self.fits_exactly(other)
    }

    fn fits_exactly(&self, authority: &str) -> bool {
        let authority = authority.as_bytes();
        let part = |text: &str, range: Option<&[u8]>| {
            range.is_some_and(|it| it.eq_ignore_ascii_case(text.as_bytes()))
        };
        match &self.text {
            StringMatch::Presence => !authority.is_empty(),
            StringMatch::Exact(text) => part(text, Some(authority)),
            StringMatch::Prefix(text) => part(text, authority.get(..text.len())),
            StringMatch::Suffix(text) => {
                part(text, authority.len().checked_sub(text.len()).map(|from| &authority[from..]))
            }
        }
    }
}

/// Without the port of HTTP, and without a dot at its end.
fn canonical(authority: &str) -> &str {
    let host = authority.strip_suffix(":80").unwrap_or(authority);
    host.strip_suffix('.').unwrap_or(host)
}

fn without_port(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

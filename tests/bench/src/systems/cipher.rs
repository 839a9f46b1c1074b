//! Reads from the wire what TLS peers agreed on: no system has to be asked, and none can be mistaken about itself.
//!
//! A ServerHello is not encrypted (RFC 8446, 4.1.3). It begins its TCP segment, since it is the first thing a server says.

use anyhow::Result;
use harness::wire::Capture;

/// Cipher suites of TLS 1.3 by number (RFC 8446, B.4).
const SUITES: [(u16, &str); 3] =
    [(0x1301, "AES-128-GCM"), (0x1302, "AES-256-GCM"), (0x1303, "ChaCha20-Poly1305")];

/// Named groups by number (RFC 8446, 4.2.7; the hybrid ones by IANA).
const GROUPS: [(u16, &str); 5] = [
    (0x0017, "P-256"),
    (0x0018, "P-384"),
    (0x001d, "X25519"),
    (0x11eb, "P-256 with ML-KEM-768"),
    (0x11ec, "X25519 with ML-KEM-768"),
];

/// The extension `key_share`.
const KEY_SHARE: u16 = 51;

/// What the last handshake seen on `wire` agreed on; none when there was none.
///
/// # Errors
/// Packets were lost.
pub(super) fn seen(wire: &Capture) -> Result<Option<String>> {
    let mut seen = None;
    wire.each(|packet| {
        if let Some(agreed) = agreed(packet.payload) {
            seen = Some(agreed);
        }
    })?;
    Ok(seen)
}

/// What a ServerHello at the start of `payload` says, for the reader of the report.
fn agreed(payload: &[u8]) -> Option<String> {
    let mut hello = Bytes(payload);
    // A handshake record of any version; its length; the handshake type of a ServerHello; its length; its version.
    (hello.byte()? == 0x16 && hello.byte()? == 3).then_some(())?;
    hello.take(3)?;
    (hello.byte()? == 2).then_some(())?;
    hello.take(3 + 2 + 32)?;
    let session = hello.byte()?;
    hello.take(session.into())?;
    let suite = named(&SUITES, hello.word()?);
    let _compression = hello.byte()?;
    let length = hello.word()?;
    // What is cut off by the end of the segment is not looked at.
    let mut extensions = Bytes(hello.0.get(..length.into()).unwrap_or(hello.0));
    let group = extensions.find(KEY_SHARE).and_then(|share| Bytes(share).word());
    Some(match group {
        Some(group) => format!("{suite}, {}", named(&GROUPS, group)),
        None => suite,
    })
}

fn named(names: &[(u16, &str)], number: u16) -> String {
    let name = names.iter().find(|(known, _)| *known == number);
    name.map_or_else(|| format!("{number:#06x}"), |(_, name)| (*name).to_owned())
}

/// What is left of a message.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|taken| u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// The content of the extension `wanted`.
    fn find(&mut self, wanted: u16) -> Option<&'a [u8]> {
        loop {
            let (kind, length) = (self.word()?, self.word()?);
            let content = self.take(length.into())?;
            if kind == wanted {
                return Some(content);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ServerHello of TLS 1.3 with these in it.
    fn hello(suite: u16, group: u16) -> Vec<u8> {
        let mut bytes = vec![0x16, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3];
        bytes.extend([7; 32]);
        bytes.extend([4, 1, 2, 3, 4]);
        bytes.extend(suite.to_be_bytes());
        bytes.push(0);
        let supported_versions = [0, 43, 0, 2, 3, 4];
        let [high, low] = group.to_be_bytes();
        let key_share = [0, 51, 0, 6, high, low, 0, 2, 9, 9];
        let length = (supported_versions.len() + key_share.len()) as u16;
        bytes.extend(length.to_be_bytes());
        bytes.extend(supported_versions);
        bytes.extend(key_share);
        bytes
    }

    #[test]
    fn suite_and_group_are_read_from_a_server_hello() {
        assert_eq!(agreed(&hello(0x1301, 0x001d)).as_deref(), Some("AES-128-GCM, X25519"));
        assert_eq!(agreed(&hello(0x1302, 0x11ec)).as_deref(), Some("AES-256-GCM, X25519 with ML-KEM-768"));
        assert_eq!(agreed(&hello(0x1399, 0x0001)).as_deref(), Some("0x1399, 0x0001"));
    }

    #[test]
    fn a_hello_that_is_cut_off_still_tells_its_suite_and_nothing_else_is_one() {
        let whole = hello(0x1301, 0x001d);
        assert_eq!(agreed(&whole[..60]).as_deref(), Some("AES-128-GCM"));
        for length in 0..48 {
            assert_eq!(agreed(&whole[..length]), None, "{length}");
        }
        let mut client = whole.clone();
        client[5] = 1;
        assert_eq!(agreed(&client), None);
        assert_eq!(agreed(b"GET / HTTP/1.1\r\n"), None);
    }
}

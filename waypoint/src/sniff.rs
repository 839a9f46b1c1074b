//! Which protocol a client speaks, by its first bytes. Pure.

use common::hbone::io::TunnelIo;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is taken for one of HTTP/1.
const MAX_METHOD_BYTES: usize = 20;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// Too few to tell.
    More,
    /// The beginning of an HTTP/1 request.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Anything else.
    Other,
}

/// Tells what `bytes`, the first of a connection, are the beginning of.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    if let Some(rest) = bytes.get(..PREFACE.len()) {
        if rest == PREFACE {
            return Sniffed::Http2;
        }
    } else if PREFACE.starts_with(bytes) {
        return Sniffed::More;
    }
    for (position, byte) in bytes.iter().enumerate() {
        match byte {
            b' ' if position > 0 => return Sniffed::Http1,
            b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' if position < MAX_METHOD_BYTES => {}
            _ => return Sniffed::Other,
        }
    }
    Sniffed::More
}

/// Waits for as many first bytes as it takes to tell. They stay unread.
///
/// # Errors
/// When the stream is reset meanwhile.
pub async fn watch(stream: &mut TunnelIo) -> std::io::Result<Sniffed> {
    loop {
        match sniff(stream.ahead()) {
            Sniffed::More => {}
            told => return Ok(told),
        }
        if !stream.look_ahead().await? {
            // It ended before it could be told: whatever it is, its bytes are to arrive.
            return Ok(Sniffed::Other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_told_by_as_few_bytes_as_it_takes() {
        let cases: [(&[u8], Sniffed); 12] = [
            (b"", Sniffed::More),
            (b"P", Sniffed::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniffed::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Sniffed::Http2),
            (b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n", Sniffed::Http1),
            (b"GE", Sniffed::More),
            (b"GET ", Sniffed::Http1),
            (b"M-SEARCH * HTTP/1.1", Sniffed::Http1),
            (b" GET", Sniffed::Other),
            (b"\x16\x03\x01", Sniffed::Other),
            (b"AUTHENTICATEWITHLONGWORDS ", Sniffed::Other),
            (b"PRI * HTTP/3", Sniffed::Http1),
        ];
        for (bytes, told) in cases {
            assert_eq!(sniff(bytes), told, "{:?}", bytes.escape_ascii().to_string());
        }
    }
}

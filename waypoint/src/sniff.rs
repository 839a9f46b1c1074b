//! Which protocol a client speaks, by its first bytes. Pure.

use std::time::Duration;

use common::hbone::io::TunnelIo;
use rustls::server::Acceptor;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is taken for one of HTTP/1.
const MAX_METHOD_BYTES: usize = 20;

/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Bytes of a ClientHello that are looked at for a server name.
const CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// Time for a ClientHello to arrive.
const CLIENT_HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// Too few to tell.
    More,
    /// The beginning of an HTTP/1 request.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// The beginning of a TLS handshake.
    Tls,
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
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Sniffed::Tls;
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

/// Waits for as many first bytes as it takes to tell, for ever for the first, and `within` for the others. They stay
/// unread.
///
/// # Errors
/// When the stream is reset meanwhile.
pub async fn watch(stream: &mut TunnelIo, within: Duration) -> std::io::Result<Sniffed> {
    // It ended, or took too long, before it could be told: whatever it is, its bytes are to arrive.
    if stream.ahead().is_empty() && !stream.look_ahead().await? {
        return Ok(Sniffed::Other);
    }
    let watching = async {
        loop {
            match sniff(stream.ahead()) {
                Sniffed::More => {}
                told => return Ok(told),
            }
            if !stream.look_ahead().await? {
                return Ok(Sniffed::Other);
            }
        }
    };
    tokio::time::timeout(within, watching).await.unwrap_or(Ok(Sniffed::Other))
}

/// The server that a ClientHello names, in lower case; `None` when it names none, or is none. It stays unread.
pub async fn server_name(stream: &mut TunnelIo) -> Option<String> {
    let reading = async {
        loop {
            if let Some(hello) = client_hello(stream.ahead()) {
                return hello;
            }
            if stream.ahead().len() > CLIENT_HELLO_BYTES || !stream.look_ahead().await.ok()? {
                return None;
            }
        }
    };
    tokio::time::timeout(CLIENT_HELLO_DEADLINE, reading).await.ok()?
}

/// The server that a ClientHello names; the outer `None` when it is not complete.
fn client_hello(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        // A slice fails to be read only by its end.
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
            }
            Err(_) => return Some(None),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_read_of_a_whole_hello_and_of_nothing_else() {
        let provider = common::tls::provider().clone();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = "Shop.Example.com".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        assert_eq!(client_hello(&hello), Some(Some("shop.example.com".into())));
        assert_eq!(client_hello(&hello[..hello.len() - 1]), None);
        assert_eq!(client_hello(&hello[..5]), None);
        assert_eq!(client_hello(b"\x16\x03\x01\x00\x05hello"), Some(None));
    }

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
            (b"\x16\x03\x01", Sniffed::Tls),
            (b"AUTHENTICATEWITHLONGWORDS ", Sniffed::Other),
            (b"PRI * HTTP/3", Sniffed::Http1),
        ];
        for (bytes, told) in cases {
            assert_eq!(sniff(bytes), told, "{:?}", bytes.escape_ascii().to_string());
        }
    }
}

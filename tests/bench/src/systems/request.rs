//! One HTTP/1.1 request from inside a namespace. The harness speaks HTTP/1.0, which Envoy answers with 426.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result};
use harness::netns::Namespace;

/// Longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 * 1024;

/// The status that `path` is answered with.
///
/// # Errors
/// No answer comes in time, or one that is not HTTP.
pub(super) fn status(namespace: &Namespace, to: SocketAddr, path: &str, within: Duration) -> Result<u16> {
    let mut stream = namespace.connect(to, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    parse(&answer).context("no HTTP/1.1 answer")
}

fn parse(answer: &[u8]) -> Option<u16> {
    str::from_utf8(answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_http_has_a_status() {
        assert_eq!(parse(b"HTTP/1.1 426 Upgrade Required\r\n\r\n"), Some(426));
        for text in ["", "HTTP/1.1 2", "SSH-2.0-x", "HTTP/1.1 abc"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}

//! The smallest HTTP/1.1 client that a load generator can do with: one buffer per connection, nothing allocated per request.
//!
//! Understands answers with a Content-Length and nothing else, which is what the servers of these tests send.

use std::net::SocketAddr;

use harness::report::{Failure, FailureKind};
use hyper::Uri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::net::{failed, protocol};

/// Room for the head of an answer, and for a piece of its body.
const BUFFER: usize = 64 * 1024;

/// One connection.
pub(crate) struct HttpConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) body: u64,
    /// The server will close the connection.
    pub(crate) last: bool,
}

/// The bytes of a GET request, with further headers as lines of `NAME: VALUE`.
pub(crate) fn request(url: &Uri, to: SocketAddr, headers: &[String], last: bool) -> Vec<u8> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or_else(|| to.to_string(), ToString::to_string);
    let close = if last { "Connection: close\r\n" } else { "" };
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{close}\r\n").into_bytes()
}

impl HttpConnection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; BUFFER], filled: 0 }
    }

    /// Sends one request and reads all of its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answered, Failure> {
        self.stream.write_all(request).await.map_err(|error| failed(&error))?;
        let (head, answered) = loop {
            if let Some(parsed) = parse_head(&self.buffer[..self.filled])? {
                break parsed;
            }
            if self.filled == self.buffer.len() {
                return Err(protocol("the head of an answer is too long"));
            }
            self.filled += self.read(self.filled).await?;
        };
        let mut missing = answered.body.saturating_sub((self.filled - head) as u64);
        if missing == 0 {
            let end = head + answered.body as usize;
            self.buffer.copy_within(end..self.filled, 0);
            self.filled -= end;
            return Ok(answered);
        }
        self.filled = 0;
        while missing > 0 {
            let got = self.read(0).await? as u64;
            missing = missing.checked_sub(got).ok_or_else(|| protocol("more than the answer"))?;
        }
        Ok(answered)
    }

    async fn read(&mut self, at: usize) -> Result<usize, Failure> {
        match self.stream.read(&mut self.buffer[at..]).await.map_err(|error| failed(&error))? {
            0 => Err(Failure {
                kind: FailureKind::Closed,
                detail: "closed before the end of an answer".into(),
            }),
            length => Ok(length),
        }
    }
}

/// Length of the head and what it says, once it is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Answered)>, Failure> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| protocol("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
    let status =
        status.and_then(|code| code.parse().ok()).ok_or_else(|| protocol("not an HTTP/1.1 answer"))?;
    let (mut body, mut last) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            last = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let body = body.ok_or_else(|| protocol("an answer without Content-Length"))?;
    Ok(Some((end + 4, Answered { status, body, last })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_headers_stand_between_host_and_end() {
        let (url, to) = ("http://shop:80/a?b".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let sent = |headers: &[String]| String::from_utf8(request(&url, to, headers, false)).unwrap();
        assert_eq!(sent(&[]), "GET /a?b HTTP/1.1\r\nHost: shop:80\r\n\r\n");
        assert_eq!(
            sent(&["x: 1".into(), "y: 2".into()]),
            "GET /a?b HTTP/1.1\r\nHost: shop:80\r\nx: 1\r\ny: 2\r\n\r\n"
        );
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\nConnection: close\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse_head(&head.as_bytes()[..end]).unwrap(), None, "cut at {end}");
        }
        let answered = Answered { status: 503, body: 7, last: true };
        let text = format!("{head}body..");
        assert_eq!(parse_head(text.as_bytes()).unwrap(), Some((head.len(), answered)));
    }

    #[test]
    fn what_it_does_not_understand_is_a_protocol_failure() {
        for text in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] {
            assert_eq!(parse_head(text.as_bytes()).unwrap_err().kind, FailureKind::Protocol);
        }
    }
}

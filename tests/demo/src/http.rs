//! Calls as an application in a pod makes them: HTTP/1.1 over a socket of the pod's network namespace.
//!
//! Knows nothing of meshes. It blocks, because a closed loop of one thread per connection is what the demo measures with,
//! and it understands answers of a declared length only, which is all that `ebb-app http` gives.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{cluster::Pod, report::Described};

/// Longest body that is kept; longer ones are for [`Connection::download`].
const BODY_MAX_BYTES: u64 = 1 << 20;

/// Longest head of an answer.
const HEAD_MAX_BYTES: u64 = 16 * 1024;

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// An open connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask<'a> {
    /// The method, of a request without a body.
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) path: &'a str,
    /// The header `Host`.
    pub(crate) host: &'a str,
    /// Further headers, by name and value.
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

impl<'a> From<&'a str> for Ask<'a> {
    fn from(path: &'a str) -> Self {
        Self { method: "GET", path, host: "web.shop", headers: &[] }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// Names in lower case, and values, in the order they came in.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

impl Reply {
    /// The server's description of itself and of the request.
    ///
    /// # Errors
    /// The body is something else.
    pub(crate) fn described(&self) -> Result<Described> {
        serde_json::from_str(&self.body).with_context(|| format!("not a description: {:?}", self.body))
    }

    /// The first value of a header, by its name in lower case.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Connection {
    /// Connects from inside `pod`.
    ///
    /// # Errors
    /// Refused, or no answer within `within`.
    pub(crate) fn open(pod: &Pod, to: SocketAddr, within: Duration) -> Result<Self> {
        pod.namespace().within(|| Self::open_here(to, within))
    }

    /// Connects from the namespace that the calling thread is in.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(crate) fn open_here(to: SocketAddr, within: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, within).with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        stream.set_read_timeout(Some(within)).context("set a deadline")?;
        stream.set_write_timeout(Some(within)).context("set a deadline")?;
        Ok(Self { stream: BufReader::with_capacity(READ_BYTES, stream) })
    }

    /// One request, after which the connection can be used for the next.
    ///
    /// # Errors
    /// The connection broke, no answer came in time, or it was not HTTP.
    pub(crate) fn get<'a>(&mut self, what: impl Into<Ask<'a>>) -> Result<Reply> {
        let Head { status, length, headers } = self.ask(what.into())?;
        ensure!(length <= BODY_MAX_BYTES, "an answer of {length} bytes");
        let mut body = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut body).context("read the body")?;
        Ok(Reply { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// One request whose body is thrown away; returns its length in bytes.
    ///
    /// # Errors
    /// As [`Connection::get`], or the status was not 200.
    pub(crate) fn download(&mut self, path: &str) -> Result<u64> {
        let Head { status, length, .. } = self.ask(path.into())?;
        ensure!(status == 200, "GET {path} gave {status}");
        let mut left = length;
        while left > 0 {
            let here = self.stream.fill_buf().context("read the body")?.len();
            ensure!(here > 0, "the body ended {left} bytes early");
            let taken = left.min(here as u64);
            self.stream.consume(usize::try_from(taken)?);
            left -= taken;
        }
        Ok(length)
    }

    fn ask(&mut self, Ask { method, path, host, headers }: Ask<'_>) -> Result<Head> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.push_str("\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).context("send the request")?;
        let mut head = String::new();
        let mut lines = self.stream.by_ref().take(HEAD_MAX_BYTES);
        loop {
            let length = lines.read_line(&mut head).context("wait for the answer")?;
            ensure!(length > 0, "closed without an answer");
            if head.ends_with("\r\n\r\n") {
                return parse_head(&head);
            }
        }
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::get`].
pub(crate) fn get(pod: &Pod, to: SocketAddr, path: &str, within: Duration) -> Result<Reply> {
    Connection::open(pod, to, within)?.get(path)
}

/// What comes before a body.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
    headers: Vec<(String, String)>,
}

fn parse_head(head: &str) -> Result<Head> {
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).context("not HTTP/1.1")?;
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers: Vec<_> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let (_, length) = length.context("an answer without a declared length")?;
    Ok(Head {
        status: status.parse().context("no status")?,
        length: length.parse().context("no length")?,
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_gives_status_and_length() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 17\r\n\r\n";
        let Head { status, length, headers } = parse_head(head).unwrap();
        assert_eq!((status, length), (200, 17));
        assert_eq!(headers[1], ("content-length".to_owned(), "17".to_owned()));
    }

    #[test]
    fn what_is_not_an_answer_of_known_length_is_an_error() {
        for head in
            ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 2x0 \r\na: b\r\n\r\n"]
        {
            assert!(parse_head(head).is_err(), "{head}");
        }
    }
}

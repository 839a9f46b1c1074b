//! HTTP/1.1 by hand, so that every byte of a target and every line of a head is what a test wants it to be.
//!
//! Reads messages of a known length, chunked ones, and answers that have no body; nothing that nobody sends here.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail, ensure};

/// Longest body that is read, in bytes.
const BODY_MAX: usize = 64 * 1024;

/// Longest line of a head, in bytes.
const LINE_MAX: u64 = 64 * 1024;

/// Most lines of a head.
const LINES_MAX: usize = 200;

/// A message as it came: names in lower case, otherwise untouched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Header lines in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// Reads a message; `None` at the end of the connection. `bodiless` is of an answer to HEAD.
    ///
    /// # Errors
    /// The connection breaks off, or what comes is no such message.
    pub fn read(from: &mut BufReader<impl Read>, bodiless: bool) -> Result<Option<Self>> {
        let Some(start) = line(from)? else { return Ok(None) };
        let mut message = Self { start, ..Self::default() };
        loop {
            let line = line(from)?.context("ended within a head")?;
            if line.is_empty() {
                break;
            }
            ensure!(message.headers.len() < LINES_MAX, "a head of more than {LINES_MAX} lines");
            let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
            message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if !bodiless && !message.is_bodiless() {
            message.body = body(&message, from)?;
        }
        Ok(Some(message))
    }

    /// The value of a header, of several the first.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The status of an answer.
    ///
    /// # Errors
    /// It is none.
    pub fn status(&self) -> Result<u16> {
        let status = self.start.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|it| it.parse().ok());
        status.with_context(|| format!("no answer: {:?}", self.start))
    }

    /// Whether its sender closes the connection after it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"))
    }

    fn is_bodiless(&self) -> bool {
        matches!(self.status(), Ok(100..=199 | 204 | 304))
    }
}

fn line(from: &mut BufReader<impl Read>) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    from.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).context("read a head")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    ensure!(bytes.pop() == Some(b'\n') && bytes.pop() == Some(b'\r'), "ended within a line of a head");
    Ok(Some(String::from_utf8(bytes).context("a head that is not UTF-8")?))
}

fn body(message: &Message, from: &mut BufReader<impl Read>) -> Result<Vec<u8>> {
    if message.header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        return chunks(from);
    }
    match message.header("content-length") {
        Some(length) => exactly(length.parse().context("content-length")?, from),
        // A request without a length has no body; an answer without one lasts until the connection ends.
        None if message.status().is_err() => Ok(Vec::new()),
        None => bail!("an answer without a length: {message:?}"),
    }
}

fn chunks(from: &mut BufReader<impl Read>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?.context("ended before a chunk")?;
        let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("no size: {size:?}"))?;
        ensure!(body.len() + size <= BODY_MAX, "a body of more than {BODY_MAX} bytes");
        body.extend(exactly(size, from)?);
        line(from)?.context("ended after a chunk")?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn exactly(length: usize, from: &mut BufReader<impl Read>) -> Result<Vec<u8>> {
    ensure!(length <= BODY_MAX, "a body of {length} bytes");
    let mut body = vec![0; length];
    from.read_exact(&mut body).context("read a body")?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, bodiless: bool) -> Result<Option<Message>> {
        Message::read(&mut BufReader::new(text.as_bytes()), bodiless)
    }

    #[test]
    fn messages_are_read_to_their_end_and_no_further() {
        let two = "HTTP/1.1 200 OK\r\nX-A:  b \r\nContent-Length: 2\r\n\r\nabHTTP/1.1 204 No Content\r\n\r\n";
        let mut both = BufReader::new(two.as_bytes());
        let first = Message::read(&mut both, false).unwrap().unwrap();
        assert_eq!(
            (first.status().unwrap(), first.header("x-a"), &*first.body),
            (200, Some("b"), &b"ab"[..])
        );
        let second = Message::read(&mut both, false).unwrap().unwrap();
        assert_eq!((second.status().unwrap(), second.body.len()), (204, 0));
        assert_eq!(Message::read(&mut both, false).unwrap(), None);
    }

    #[test]
    fn bodies_come_in_chunks_too_or_not_at_all() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(chunked, false).unwrap().unwrap().body, b"abc");
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).unwrap().unwrap().body.is_empty());
        assert!(read("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false).unwrap().unwrap().body.is_empty());
    }

    #[test]
    fn half_a_message_is_none() {
        for text in ["HTTP/1.1 200", "HTTP/1.1 200 OK\r\nX-A: b\r\n", "HTTP/1.1 200 OK\r\nX-A\r\n\r\n"] {
            assert!(read(text, false).is_err(), "{text:?}");
        }
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", false).is_err());
        assert!(read("HTTP/1.1 200 OK\r\n\r\n", false).is_err(), "no length");
    }
}

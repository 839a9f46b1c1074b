//! The lines of a request's head, one by one, and what they say together about its framing.

use super::Framing;

/// Why bytes are not HTTP/1.1 that can be read in one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More than [`HEAD_BYTES`](super::HEAD_BYTES).
    #[error("the head is too long")]
    TooLong,
    /// A line feed without a carriage return.
    #[error("a bare line feed")]
    BareLineFeed,
    /// A carriage return without a line feed.
    #[error("a bare carriage return")]
    BareCarriageReturn,
    /// Not `METHOD target HTTP/1.x`, single-spaced.
    #[error("the request line")]
    RequestLine,
    /// CONNECT, which a waypoint is not asked for inside a tunnel.
    #[error("CONNECT")]
    Connect,
    /// `#`, which is for browsers. What parses targets after this would drop it, and what is behind it.
    #[error("a fragment")]
    Fragment,
    /// Not `name: value`, or a folded line.
    #[error("a header line")]
    HeaderLine,
    /// None with HTTP/1.1, or more than one.
    #[error("not exactly one Host")]
    Host,
    /// More than one, or not a plain number.
    #[error("Content-Length")]
    ContentLength,
    /// More than one, not exactly `chunked`, with HTTP/1.0, or beside a Content-Length.
    #[error("Transfer-Encoding")]
    TransferEncoding,
    /// A chunk's size, extensions or end.
    #[error("a chunk")]
    Chunk,
    /// A trailer that would have a meaning in a head.
    #[error("a trailer")]
    Trailer,
    /// A request for another protocol that has a body.
    #[error("Upgrade with a body")]
    UpgradeWithBody,
}

/// Digits of a Content-Length that surely fit 64 bits.
const LENGTH_DIGITS: usize = 18;

/// What the lines so far say.
#[derive(Debug, Default)]
pub(super) struct Head {
    version: Option<Minor>,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connection_upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Minor {
    Zero,
    One,
}

impl Head {
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Violation> {
        if self.version.is_none() {
            self.version = Some(request_line(line)?);
            return Ok(());
        }
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Violation::ContentLength);
            }
            self.length = Some(length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.connection_upgrade |=
                value.split(|byte| *byte == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        }
        Ok(())
    }

    /// What the head says as a whole: how the body is framed, and whether another protocol is asked for.
    pub(super) fn end(&self) -> Result<(Framing, bool), Violation> {
        // An empty line before any request, which some parsers skip.
        let version = self.version.ok_or(Violation::RequestLine)?;
        if self.hosts > 1 || (self.hosts == 0 && version == Minor::One) {
            return Err(Violation::Host);
        }
        if self.chunked && (self.length.is_some() || version == Minor::Zero) {
            return Err(Violation::TransferEncoding);
        }
        let framing = match (self.length, self.chunked) {
            (_, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        Ok((framing, self.upgrade && self.connection_upgrade && version == Minor::One))
    }
}

fn request_line(line: &[u8]) -> Result<Minor, Violation> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Violation::RequestLine);
    };
    let is_target = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || !is_target {
        return Err(Violation::RequestLine);
    }
    if method == b"CONNECT" {
        return Err(Violation::Connect);
    }
    if target.contains(&b'#') {
        return Err(Violation::Fragment);
    }
    match version {
        b"HTTP/1.1" => Ok(Minor::One),
        b"HTTP/1.0" => Ok(Minor::Zero),
        _ => Err(Violation::RequestLine),
    }
}

/// Name and value of a header line. A folded line begins with a space, which no name does.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Violation::HeaderLine)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty()
        || !name.iter().all(|byte| is_token(*byte))
        || !value.iter().all(|byte| is_text(*byte) || *byte >= 0x80)
    {
        return Err(Violation::HeaderLine);
    }
    Ok((name, value.trim_ascii()))
}

fn length(value: &[u8]) -> Result<u64, Violation> {
    if !(1..=LENGTH_DIGITS).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLength);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// A line of trailers: nothing that frames, routes or authorises (RFC 9110, section 6.5.1).
pub(super) fn trailer(line: &[u8]) -> Result<(), Violation> {
    const FORBIDDEN: [&[u8]; 14] = [
        b"transfer-encoding",
        b"content-length",
        b"host",
        b"connection",
        b"upgrade",
        b"te",
        b"trailer",
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"content-encoding",
        b"content-type",
        b"expect",
    ];
    let (name, _) = field(line)?;
    let forbidden = FORBIDDEN.iter().any(|it| name.eq_ignore_ascii_case(it));
    if forbidden { Err(Violation::Trailer) } else { Ok(()) }
}

/// A character of a name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A printable ASCII character, a space or a tab.
pub(super) fn is_text(byte: u8) -> bool {
    byte == b'\t' || (b' '..0x7f).contains(&byte)
}

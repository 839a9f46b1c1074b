//! A server that keeps every byte, and reads them as HTTP/1.1 in every way a careless server might.
//!
//! Answers each request that it can make out with `ok`. The surprising thing: it is not strict, its readings are. Bytes
//! that it was sent count as understood only where all readings agree how many requests they are.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use harness::netns::Namespace;

use crate::peer::{SOON, Server};

/// What a request is answered with, once.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// What has come.
#[derive(Debug, Default)]
struct Record {
    /// The bytes of each connection.
    connections: Vec<Vec<u8>>,
    open: usize,
}

/// The server.
#[derive(Debug)]
pub struct Recorder {
    record: Arc<Mutex<Record>>,
    _server: Server,
}

impl Recorder {
    /// Listens in `namespace`, and takes `think` before each answer.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(namespace: &Namespace, port: u16, think: Duration) -> Result<Self> {
        let record: Arc<Mutex<Record>> = Arc::default();
        let kept = Arc::clone(&record);
        let server = Server::start(namespace, port, move |stream, _| {
            let number = {
                let mut record = lock(&kept);
                record.open += 1;
                record.connections.push(Vec::new());
                record.connections.len() - 1
            };
            // However it ends, what came is kept.
            let _ = keep(&kept, number, stream, think);
            lock(&kept).open -= 1;
        })?;
        Ok(Self { record, _server: server })
    }

    /// Takes what every connection so far has brought, once none is open any more.
    ///
    /// # Errors
    /// One stays open.
    pub fn take(&self) -> Result<Vec<Vec<u8>>> {
        crate::mesh::eventually(
            "the server's connections to end",
            SOON,
            || Ok(lock(&self.record).open == 0),
        )?;
        Ok(std::mem::take(&mut lock(&self.record).connections))
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(record: &Mutex<Record>, number: usize, mut stream: TcpStream, think: Duration) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    let (mut buffer, mut answered) = (vec![0; 64 * 1024], 0);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        let seen = {
            let mut record = lock(record);
            let Some(bytes) = record.connections.get_mut(number) else { bail!("taken meanwhile") };
            bytes.extend_from_slice(&buffer[..read]);
            requests(bytes, Reading::CHUNKS_FIRST).complete
        };
        while answered < seen {
            std::thread::sleep(think);
            stream.write_all(ANSWER)?;
            answered += 1;
        }
    }
}

/// How a server reads framing.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// A Content-Length counts for more than a Transfer-Encoding.
    length_first: bool,
    /// Of several Content-Lengths the last one counts.
    last_length: bool,
}

impl Reading {
    /// What the specification asks for.
    pub const CHUNKS_FIRST: Self = Self { length_first: false, last_length: false };
    /// What servers have been seen to do.
    pub const ALL: [Self; 4] = [
        Self::CHUNKS_FIRST,
        Self { length_first: true, last_length: false },
        Self { length_first: false, last_length: true },
        Self { length_first: true, last_length: true },
    ];
}

/// What bytes were read as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// The head of each, its lines joined with a line feed.
    pub heads: Vec<String>,
    /// Of them, those whose body came whole.
    pub complete: usize,
    /// Bytes behind the last of them that are none yet.
    pub left: usize,
}

/// Reads `bytes` as a careless server would: any line feed ends a line, names may have spaces behind them, a coding that
/// says `chunked` somewhere is chunked, and sizes end where their digits do.
#[must_use]
pub fn requests(bytes: &[u8], reading: Reading) -> Requests {
    let (mut rest, mut found) = (bytes, Requests::default());
    while let Some((head, body)) = head(rest) {
        let chunked =
            values(&head, "transfer-encoding").any(|value| value.to_ascii_lowercase().contains("chunked"));
        let mut lengths = values(&head, "content-length").filter_map(|value| {
            let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<usize>().ok()
        });
        let length = if reading.last_length { lengths.next_back() } else { lengths.next() };
        found.heads.push(head.join("\n"));
        let after = match (chunked, length) {
            (true, None) => skip_chunks(body),
            (true, Some(_)) if !reading.length_first => skip_chunks(body),
            (_, Some(length)) => body.get(length..),
            (false, None) => Some(body),
        };
        let Some(after) = after else { return found };
        found.complete += 1;
        rest = after;
    }
    found.left = rest.len();
    found
}

/// Reads what a server was sent in every way.
///
/// # Errors
/// Two ways differ, or there are bytes that are none of HTTP.
pub fn agreed(bytes: &[u8]) -> Result<Requests> {
    let first = requests(bytes, Reading::CHUNKS_FIRST);
    for reading in Reading::ALL {
        let other = requests(bytes, reading);
        ensure!(other == first, "{reading:?} sees {other:?}, and the specification {first:?}");
    }
    if !bytes.is_empty() {
        ensure!(!first.heads.is_empty(), "no request in {:?}", bytes.escape_ascii().to_string());
    }
    for head in &first.heads {
        let line = head.lines().next().unwrap_or_default();
        ensure!(line.split(' ').count() == 3 && line.ends_with(" HTTP/1.1"), "a request line {line:?}");
        ensure!(!head.contains('\r') && !head.contains('\0'), "a head {head:?}");
    }
    Ok(first)
}

/// The lines of a head, and what is behind it. Empty lines before it are passed over.
fn head(mut bytes: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let mut lines = Vec::new();
    loop {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        bytes = &bytes[end + 1..];
        if !line.is_empty() {
            lines.push(String::from_utf8_lossy(line).into_owned());
        } else if !lines.is_empty() {
            return Some((lines, bytes));
        }
    }
}

fn values<'a>(head: &'a [String], name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
    head.iter().skip(1).filter_map(move |line| {
        let (found, value) = line.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// What is behind the last chunk and its trailers.
fn skip_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let digits: String =
            bytes[..end].iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_hexdigit).collect();
        let size = usize::from_str_radix(&digits, 16).unwrap_or(0);
        bytes = &bytes[end + 1..];
        if size == 0 {
            loop {
                let end = bytes.iter().position(|byte| *byte == b'\n')?;
                let is_last = matches!(&bytes[..end], b"" | b"\r");
                bytes = &bytes[end + 1..];
                if is_last {
                    return Some(bytes);
                }
            }
        }
        bytes = bytes.get(size..)?;
        bytes = bytes.strip_prefix(b"\r").unwrap_or(bytes).strip_prefix(b"\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_differ_exactly_where_servers_do() {
        let plain = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
        let both = agreed(plain).unwrap();
        assert_eq!((both.heads.len(), both.complete), (2, 2));
        let clte = b"POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG";
        assert!(agreed(clte).is_err());
        let twice = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\nG";
        assert!(agreed(twice).is_err());
        let cut = agreed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe").unwrap();
        assert_eq!((cut.heads.len(), cut.complete), (1, 0));
        let chunks =
            agreed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n0\r\n\r\n").unwrap();
        assert_eq!((chunks.heads.len(), chunks.complete), (1, 1));
        assert!(agreed(b"GET / HTTP/1.1\nHost: a\n\n").is_ok());
        assert!(agreed(b"GET /a b HTTP/1.1\r\n\r\n").is_err());
        assert!(agreed(b"\x81\x02hi").is_err());
    }
}

//! Lets only HTTP/1.1 through that nobody can read in two ways.
//!
//! What the parser behind it would repair is refused before it gets there: bare line feeds, folded lines, spaces before a
//! colon, two lengths, lengths beside chunks, codings that are not exactly `chunked`. Whatever passes has one framing, so
//! that an endpoint cannot see another request than the one that was judged. Knows no routes. The surprising thing: the
//! refusal itself comes from that parser, which is given a NUL in the place of the fault and answers 400.

mod head;
mod io;
mod verdicts;

pub use head::Violation;
pub use io::StrictIo;
pub use verdicts::Verdicts;

use head::Head;

/// Bytes of a request's head, and of the trailers of its body.
pub const HEAD_BYTES: usize = crate::serve::REQUEST_HEAD_BYTES;
/// Hexadecimal digits of a chunk's size.
const CHUNK_SIZE_DIGITS: usize = 16;
/// Bytes of the extensions of all chunks of a body.
const CHUNK_EXTENSION_BYTES: usize = 256;
/// Room for a line that is kept from one head to the next.
const LINE_KEPT_BYTES: usize = 4 * 1024;

/// Follows the bytes of one connection from the client.
#[derive(Debug)]
pub struct Strict {
    state: State,
    /// The line that has begun, without its end.
    line: Vec<u8>,
    head: Head,
    /// Bytes of the head, or of the trailers, so far.
    taken: usize,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// Heads that were whole.
    heads: u64,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A line of a head.
    Head,
    /// A body of known length, of which this much is left.
    Body(u64),
    /// The line that tells a chunk's size.
    ChunkSize,
    /// A chunk, of which this much is left.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// A line of trailers.
    Trailers,
    /// A request for another protocol: what comes next depends on the answer.
    Undecided,
    /// Another protocol, from here to the end.
    Opaque,
}

/// How the body of a request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
}

impl Default for Strict {
    fn default() -> Self {
        Self {
            state: State::Head,
            line: Vec::new(),
            head: Head::default(),
            taken: 0,
            extensions: 0,
            heads: 0,
        }
    }
}

impl Strict {
    /// Takes the next bytes. Returns how many of them may pass now; fewer than all only at a change of protocol that is
    /// not decided yet.
    ///
    /// # Errors
    /// How many may pass, and why none may after them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, (usize, Violation)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Undecided => return Ok(at),
                State::Opaque => rest.len(),
                State::Body(left) | State::Chunk(left) => self.pass(rest.len(), left),
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    self.take_line(rest).map_err(|(passed, why)| (at + passed, why))?
                }
            };
        }
        Ok(at)
    }

    /// The number of the head that has begun and is not whole; `None` between requests and within bodies.
    pub fn open_head(&self) -> Option<u64> {
        (self.is_in_head() && self.taken > 0).then_some(self.heads)
    }

    /// Whether the next byte belongs to a head.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Head
    }

    /// The number of the head, from 1, whose answer the next bytes wait for.
    pub fn undecided(&self) -> Option<u64> {
        (self.state == State::Undecided).then_some(self.heads)
    }

    /// The answer to a request for another protocol was given, and the protocol has `changed` or not.
    pub fn decide(&mut self, changed: bool) {
        if self.state == State::Undecided {
            self.state = if changed { State::Opaque } else { State::Head };
        }
    }

    fn pass(&mut self, there: usize, left: u64) -> usize {
        let passed = left.min(there as u64);
        let left = left - passed;
        self.state = match self.state {
            State::Chunk(_) if left > 0 => State::Chunk(left),
            State::Chunk(_) => State::ChunkEnd,
            _ if left > 0 => State::Body(left),
            _ => State::Head,
        };
        passed as usize
    }

    /// Takes bytes up to the end of a line, if it is there. What has passed before a fault is never a whole line.
    fn take_line(&mut self, bytes: &[u8]) -> Result<usize, (usize, Violation)> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        // Also for a line whose end is still to come: a head has begun with its first byte.
        self.taken += part.len() + usize::from(end.is_some());
        if self.taken > HEAD_BYTES {
            return Err((0, Violation::TooLong));
        }
        self.line.extend_from_slice(part);
        if end.is_none() {
            return Ok(bytes.len());
        }
        let mut line = std::mem::take(&mut self.line);
        if line.pop() != Some(b'\r') {
            return Err((part.len(), Violation::BareLineFeed));
        }
        let taken = self.end_line(&line).map_err(|why| (part.len(), why));
        line.clear();
        // Of a long line no room is left to whoever then stands still for long.
        if self.taken == 0 && line.capacity() > LINE_KEPT_BYTES {
            line.shrink_to(LINE_KEPT_BYTES);
        }
        self.line = line;
        taken.map(|()| part.len() + 1)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.contains(&b'\r') {
            return Err(Violation::BareCarriageReturn);
        }
        match self.state {
            State::Head if line.is_empty() => self.end_head(),
            State::Head => self.head.line(line),
            State::ChunkSize => self.chunk(line),
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                self.taken = 0;
                Ok(())
            }
            State::ChunkEnd => Err(Violation::Chunk),
            State::Trailers if line.is_empty() => {
                self.begin_head();
                Ok(())
            }
            State::Trailers => head::trailer(line),
            // The others take no lines.
            State::Body(_) | State::Chunk(_) | State::Undecided | State::Opaque => Ok(()),
        }
    }

    fn end_head(&mut self) -> Result<(), Violation> {
        let (framing, upgrades) = self.head.end()?;
        self.heads = self.heads.wrapping_add(1);
        self.begin_head();
        self.state = match framing {
            // Whoever asks for another protocol has nothing to say before the answer: bytes in between could be taken
            // for a request by one side and for the other protocol by the other.
            Framing::None | Framing::Length(0) if upgrades => State::Undecided,
            _ if upgrades => return Err(Violation::UpgradeWithBody),
            Framing::None | Framing::Length(0) => State::Head,
            Framing::Length(length) => State::Body(length),
            Framing::Chunked => State::ChunkSize,
        };
        Ok(())
    }

    fn begin_head(&mut self) {
        self.state = State::Head;
        self.head = Head::default();
        (self.taken, self.extensions) = (0, 0);
    }

    fn chunk(&mut self, line: &[u8]) -> Result<(), Violation> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        self.extensions += extension.len();
        let is_extension = extension.is_empty() || extension.starts_with(b";");
        let is_text = extension.iter().all(|byte| head::is_text(*byte));
        if !(1..=CHUNK_SIZE_DIGITS).contains(&digits)
            || !is_extension
            || !is_text
            || self.extensions > CHUNK_EXTENSION_BYTES
        {
            return Err(Violation::Chunk);
        }
        let size = size.iter().fold(0, |sum, digit| sum << 4 | u64::from(value(*digit)));
        self.taken = 0;
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
        Ok(())
    }
}

fn value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests;

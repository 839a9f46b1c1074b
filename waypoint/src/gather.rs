//! Gathers small DATA frames of HTTP/2 that come together into one, before they are read.
//!
//! `h2` keeps 256 bytes for every small frame that nobody has read yet, and ends the connection when they are many: an
//! honest client that sends byte by byte while its endpoint is still being connected to would be cut. What is in the
//! frames, its order and its end stay as they are, and flow control counts nothing else. Knows no streams. The surprising
//! thing: nothing is held back or kept; what a read brought is put together in its own place, and only gets shorter.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
/// Frames of fewer bytes cost `h2` more than what is in them.
const SMALL_BYTES: usize = 256;
/// The largest frame that every peer takes (RFC 9113, section 4.2).
const MAX_FRAME_BYTES: usize = 16_384;

/// Reads HTTP/2 of `io` with its small DATA frames gathered.
#[derive(Debug)]
pub struct Gathered<T> {
    io: T,
    frames: Walk,
}

/// Where in the frames the next byte stands.
#[derive(Debug)]
struct Walk {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    /// A header that was cut.
    header: [u8; HEADER_BYTES],
    read: usize,
}

impl<T> Gathered<T> {
    /// What a client sends, from its preface on.
    pub fn requests(io: T) -> Self {
        Self::after(PREFACE_BYTES, io)
    }

    /// What a server sends.
    pub fn answers(io: T) -> Self {
        Self::after(0, io)
    }

    fn after(skip: usize, io: T) -> Self {
        Self { io, frames: Walk { skip, header: [0; HEADER_BYTES], read: 0 } }
    }
}

impl Walk {
    /// Gathers what is in `bytes`, the next of the connection; how many are left of them.
    fn gather(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        // Where the header of the last small frame of data stands, if it can grow.
        let mut open = None;
        while from < bytes.len() {
            let there = bytes.len() - from;
            let mut taken = there.min(self.skip);
            if taken > 0 {
                self.skip -= taken;
            } else if self.read > 0 || there < HEADER_BYTES {
                taken = there.min(HEADER_BYTES - self.read);
                self.cut_header(&bytes[from..from + taken]);
            } else {
                let (length, kind, flags) = header(&bytes[from..]);
                let whole = HEADER_BYTES + length;
                let is_small = kind == DATA && (1..SMALL_BYTES).contains(&length) && flags & !END_STREAM == 0;
                if is_small && whole <= there {
                    match open.filter(|open| grows(&bytes[*open..], &bytes[from..], length)) {
                        Some(frame) => {
                            grow(&mut bytes[frame..], length, flags);
                            bytes.copy_within(from + HEADER_BYTES..from + whole, to);
                            to += length;
                        }
                        None => {
                            bytes.copy_within(from..from + whole, to);
                            open = Some(to);
                            to += whole;
                        }
                    }
                    from += whole;
                    open = open.filter(|_| flags & END_STREAM == 0);
                    continue;
                }
                taken = HEADER_BYTES;
                self.skip = length;
            }
            bytes.copy_within(from..from + taken, to);
            (from, to, open) = (from + taken, to + taken, None);
        }
        to
    }

    fn cut_header(&mut self, part: &[u8]) {
        self.header[self.read..self.read + part.len()].copy_from_slice(part);
        self.read += part.len();
        if self.read == HEADER_BYTES {
            self.read = 0;
            self.skip = header(&self.header).0;
        }
    }
}

/// Length of the payload, kind and flags of the frame that `bytes` begin with.
fn header(bytes: &[u8]) -> (usize, u8, u8) {
    (u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize, bytes[3], bytes[4])
}

/// Whether `frame` has room for the payload of `next`, and is of the same stream.
fn grows(frame: &[u8], next: &[u8], length: usize) -> bool {
    let stream = 5..HEADER_BYTES;
    frame[stream.clone()] == next[stream] && header(frame).0 + length <= MAX_FRAME_BYTES
}

fn grow(frame: &mut [u8], by: usize, flags: u8) {
    let length = ((header(frame).0 + by) as u32).to_be_bytes();
    frame[..3].copy_from_slice(&length[1..]);
    frame[4] |= flags;
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let left = this.frames.gather(&mut buf.filled_mut()[before..]);
        buf.set_filled(before + left);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Frame = (u8, u8, u32, Vec<u8>);

    fn bytes_of(frames: &[Frame]) -> Vec<u8> {
        let one = |(kind, flags, stream, payload): &Frame| {
            let length = (payload.len() as u32).to_be_bytes();
            let head = [&length[1..], &[*kind, *flags], &stream.to_be_bytes()].concat();
            [head, payload.clone()].concat()
        };
        frames.iter().flat_map(one).collect()
    }

    fn frames_of(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (length, kind, flags) = header(bytes);
            let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
            frames.push((kind, flags, stream, bytes[9..9 + length].to_vec()));
            bytes = &bytes[9 + length..];
        }
        frames
    }

    /// The bytes behind a preface, read in pieces of these lengths.
    fn read(bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let whole = [&[b'P'; PREFACE_BYTES][..], bytes].concat();
        let mut walk = Gathered::requests(()).frames;
        let (mut rest, mut out) = (&whole[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*cut));
            let mut piece = now.to_vec();
            let left = walk.gather(&mut piece);
            out.extend_from_slice(&piece[..left]);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        out.split_off(PREFACE_BYTES)
    }

    /// Frames, with consecutive DATA of one stream as one.
    fn meaning(frames: Vec<Frame>) -> Vec<Frame> {
        let mut all: Vec<Frame> = Vec::new();
        for (kind, flags, stream, payload) in frames {
            match all.last_mut() {
                Some(last) if (kind, last.0, last.2) == (DATA, DATA, stream) && last.1 == 0 && flags <= 1 => {
                    last.1 = flags;
                    last.3.extend(payload);
                }
                _ => all.push((kind, flags, stream, payload)),
            }
        }
        all
    }

    #[test]
    fn small_frames_of_one_stream_become_one_and_keep_their_end() {
        let byte = |flags, stream| (DATA, flags, stream, vec![7]);
        let many = vec![byte(0, 1); 1000];
        let out =
            frames_of(&read(&bytes_of(&[many.clone(), vec![byte(1, 1), byte(0, 3)]].concat()), &[20_000]));
        assert_eq!(out, [(DATA, 1, 1, vec![7; 1001]), byte(0, 3)]);
        let out = frames_of(&read(&bytes_of(&vec![byte(0, 1); 40_000]), &[1_000_000]));
        assert_eq!(out.iter().map(|frame| frame.3.len()).collect::<Vec<_>>(), [16_384, 16_384, 7232]);
    }

    proptest! {
        #[test]
        fn what_is_said_stays_the_same_however_it_is_cut(
            frames in prop::collection::vec(
                (prop_oneof![3 => Just(0_u8), 1 => 0..10_u8], 0..10_u8, 1..3_u32, prop::collection::vec(0..4_u8, 0..400)),
                1..30,
            ),
            cuts in prop::collection::vec(1..900_usize, 1..8),
        ) {
            let bytes = bytes_of(&frames);
            let out = read(&bytes, &cuts);
            prop_assert!(out.len() <= bytes.len());
            prop_assert_eq!(meaning(frames_of(&out)), meaning(frames));
        }
    }
}

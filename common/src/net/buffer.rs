//! Read buffers, owned by the worker thread and not by connections.
//!
//! A relay asks only once its socket is readable, so ten thousand idle connections hold no buffer at all. What was
//! read is either copied out, when it is small, or leaves with its buffer, which comes back once the last handle to
//! it is dropped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::tcp::ReadHalf;
use tokio_util::io::poll_read_buf;

/// The largest chunk read for a tunnel. With the 9 bytes of a DATA frame's header it fills four TLS records of
/// 16,384 bytes exactly, so that no record carries a few bytes only.
pub const CHUNK_BYTES: usize = 4 * 16_384 - 9;

/// Up to this size a message is copied into an allocation of its own, so that a queued small message never keeps a
/// whole chunk alive.
const COPY_BYTES: usize = 8 * 1024;

/// Chunks a worker keeps for reuse; 1 MiB in all.
const SPARE_CHUNKS: usize = 16;

/// Bytes one read moves between two TCP sockets. 256 KiB measured best on loopback.
pub const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static CHUNKS: RefCell<Chunks> = RefCell::new(Chunks::default());
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

#[derive(Default)]
struct Chunks {
    current: BytesMut,
    /// Handles to chunks that went out; each is unique, and so free again, once its reader dropped its own.
    lent: VecDeque<Bytes>,
}

impl Chunks {
    fn next_chunk(&mut self) -> BytesMut {
        for _ in 0..self.lent.len() {
            let Some(oldest) = self.lent.pop_front() else { break };
            match oldest.try_into_mut() {
                Ok(mut chunk) => {
                    chunk.clear();
                    return chunk;
                }
                Err(busy) => self.lent.push_back(busy),
            }
        }
        BytesMut::with_capacity(CHUNK_BYTES)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut ReadHalf<'_>,
        limit: usize,
    ) -> Poll<io::Result<Bytes>> {
        if self.current.capacity() < CHUNK_BYTES {
            self.current = self.next_chunk();
        }
        self.current.clear();
        let read = ready!(poll_read_buf(Pin::new(socket), cx, &mut (&mut self.current).limit(limit)))?;
        if read <= COPY_BYTES {
            return Poll::Ready(Ok(Bytes::copy_from_slice(&self.current)));
        }
        let chunk = std::mem::take(&mut self.current).freeze();
        if self.lent.len() < SPARE_CHUNKS {
            self.lent.push_back(chunk.clone());
        }
        Poll::Ready(Ok(chunk))
    }
}

/// Reads what a socket has, at most `limit` and at most [`CHUNK_BYTES`]. Empty means FIN. Pending leaves no buffer.
///
/// `poll_read` and not `try_read`: after a short read it knows that nothing is left, and saves the next system call.
pub fn poll_read_chunk(
    cx: &mut Context<'_>,
    socket: &mut ReadHalf<'_>,
    limit: usize,
) -> Poll<io::Result<Bytes>> {
    CHUNKS.with_borrow_mut(|chunks| chunks.poll_read(cx, socket, limit.min(CHUNK_BYTES)))
}

/// What [`poll_read_through`] did.
pub struct ReadThrough {
    /// Bytes read; 0 means FIN.
    pub read: usize,
    /// What `consume` did not take, or why it failed.
    pub rest: io::Result<Bytes>,
}

/// Reads what a socket has, at most `limit`, into the worker's scratch buffer and hands it to `consume`, which returns
/// how much it took; the rest comes back as an owned copy.
pub fn poll_read_through(
    cx: &mut Context<'_>,
    socket: &mut ReadHalf<'_>,
    limit: usize,
    consume: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> Poll<io::Result<ReadThrough>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.reserve(SCRATCH_BYTES);
        let mut space = (&mut *scratch).limit(limit.min(SCRATCH_BYTES));
        let read = ready!(poll_read_buf(Pin::new(socket), cx, &mut space))?;
        let rest = match read {
            0 => Ok(Bytes::new()),
            _ => consume(scratch).map(|taken| Bytes::copy_from_slice(&scratch[taken..])),
        };
        Poll::Ready(Ok(ReadThrough { read, rest }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_once_its_reader_dropped_it() {
        let mut chunks = Chunks::default();
        let mut chunk = chunks.next_chunk();
        chunk.extend_from_slice(&[7; COPY_BYTES + 1]);
        let place = chunk.as_ptr();
        let out = chunk.freeze();
        chunks.lent.push_back(out.clone());
        assert_ne!(chunks.next_chunk().as_ptr(), place, "the chunk is still being read");
        drop(out);
        let again = chunks.next_chunk();
        assert_eq!(again.as_ptr(), place);
        assert!(again.capacity() >= CHUNK_BYTES);
    }
}

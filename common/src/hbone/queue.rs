//! Bytes of one stream on their way to whoever reads them, with tiny frames gathered into few chunks.
//!
//! Knows neither `h2` nor sockets. Bounded by the stream's window, which is not given back before they are read.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Frames up to this size are copied together while they wait for a slow application.
const MERGE_BYTES: usize = 1024;
/// What merged frames are gathered in.
const MERGED_CHUNK_BYTES: usize = 16 * 1024;
/// Chunks that an empty queue keeps places for.
const KEPT_PLACES: usize = 16;

/// Chunks in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) chunks: VecDeque<Bytes>,
    /// Small frames gathered behind `chunks` while the reader is blocked.
    merged: BytesMut,
    pub(super) bytes: usize,
    /// Whether the reader has to be waited for, so that copying costs nobody time.
    pub(super) blocked: bool,
}

impl Queue {
    /// One whose reader is never there when something comes.
    pub(super) fn merging() -> Self {
        Self { blocked: true, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        if self.blocked && chunk.len() <= MERGE_BYTES {
            if self.merged.len() + chunk.len() > MERGED_CHUNK_BYTES {
                self.seal();
            }
            self.merged.extend_from_slice(&chunk);
        } else if !chunk.is_empty() {
            self.seal();
            self.chunks.push_back(chunk);
        }
    }

    /// Takes the first chunk.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.seal();
        let first = self.chunks.pop_front()?;
        self.bytes -= first.len();
        self.let_go();
        Some(first)
    }

    pub(super) fn seal(&mut self) {
        if !self.merged.is_empty() {
            self.chunks.push_back(self.merged.split().freeze());
        }
    }

    pub(super) fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.chunks.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.chunks.pop_front();
        }
        self.let_go();
    }

    /// Nothing idle holds memory, not even the ring of an empty queue that was long once.
    fn let_go(&mut self) {
        if self.bytes == 0 {
            if self.chunks.capacity() > KEPT_PLACES {
                self.chunks = VecDeque::new();
            }
            self.merged = BytesMut::new();
        }
    }
}

//! What waits to be sent to one provider: so many, and of so many bytes, at most.
//!
//! Knows no collectors. The surprising thing: what was taken for an export waits until that is over, so that the end of a
//! process can wait for what it still has to tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use super::{Entry, Span};

/// Spans, or lines, of one provider that wait to be sent.
pub const MAX_QUEUED_SPANS: usize = 8192;
/// Bytes that they may hold.
pub const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// Spans, or lines, in one export.
pub const MAX_BATCH_SPANS: usize = 512;
/// Bytes in one: collectors that speak gRPC take 4 MiB, if nobody says otherwise, and refuse the whole above that.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// How long the first span of a batch waits for others.
pub const BATCH_WINDOW: Duration = Duration::from_secs(1);

/// What waits to be sent: of one provider always the same.
#[derive(Debug)]
pub(super) enum Told {
    Span(Span),
    Entry(Entry),
}

impl Told {
    /// What it holds in memory, which is more than what is sent of it.
    fn bytes(&self) -> usize {
        fn texts<N: AsRef<str>>(all: &[(N, String)]) -> usize {
            all.iter().map(|(name, value)| name.as_ref().len() + value.len() + size_of::<(N, String)>()).sum()
        }
        size_of::<Self>()
            + match self {
                Self::Span(it) => it.name.len() + texts(&it.tags),
                Self::Entry(it) => it.body.len() + texts(&it.attributes),
            }
    }
}

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) overflowed: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Not sent yet, those of the export that is under way among them.
    waiting: AtomicU64,
    /// Bytes of those in the queue.
    bytes: AtomicUsize,
    /// Some of those that waited do no more.
    fewer: Notify,
}

impl Counts {
    /// An export is over: so many were taken, and so many were not.
    pub(super) fn settle(&self, sent: u64, failed: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
        self.leave(sent + failed);
    }

    /// So many wait no more. Where all was given up meanwhile, there is less to take away.
    fn leave(&self, many: u64) {
        let less = |waiting: u64| Some(waiting.saturating_sub(many));
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
        self.fewer.notify_waiters();
    }

    /// Nobody will send what still waits; says how many that are.
    pub(super) fn abandon(&self) -> u64 {
        let left = self.waiting.swap(0, Ordering::Relaxed);
        self.failed.fetch_add(left, Ordering::Relaxed);
        self.fewer.notify_waiters();
        left
    }

    /// Ends when nothing waits.
    pub(super) async fn emptied(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            fewer.await;
        }
    }
}

/// The end where things are put in.
#[derive(Debug)]
pub(super) struct Entrance {
    sender: mpsc::Sender<Told>,
    counts: Arc<Counts>,
}

/// The end where they are taken out.
pub(super) struct Queue {
    receiver: mpsc::Receiver<Told>,
    /// What did not fit into the batch before.
    next: Option<Told>,
    counts: Arc<Counts>,
}

/// A queue with nothing in it.
pub(super) fn queue(counts: &Arc<Counts>) -> (Entrance, Queue) {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_SPANS);
    let entrance = Entrance { sender, counts: counts.clone() };
    (entrance, Queue { receiver, next: None, counts: counts.clone() })
}

impl Entrance {
    /// Puts something in, or counts it as lost.
    pub(super) fn put(&self, told: Told) {
        let (counts, bytes) = (&*self.counts, told.bytes());
        // Before it is put there: it may be taken out at once.
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        let held = counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = bytes <= MAX_BATCH_BYTES && held + bytes <= MAX_QUEUED_BYTES;
        if !fits || self.sender.try_send(told).is_err() {
            counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
            counts.overflowed.fetch_add(1, Ordering::Relaxed);
            counts.leave(1);
        }
    }
}

impl Queue {
    /// What came first, and what comes soon; `None` when nothing will come any more.
    pub(super) async fn batch(&mut self) -> Option<Vec<Told>> {
        let first = match self.next.take() {
            Some(told) => told,
            None => self.receiver.recv().await?,
        };
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        let until = Instant::now() + BATCH_WINDOW;
        while batch.len() < MAX_BATCH_SPANS {
            // A queue that ended ends the batch.
            let Ok(Some(told)) = timeout_at(until, self.receiver.recv()).await else { break };
            let more = told.bytes();
            if bytes + more > MAX_BATCH_BYTES {
                self.next = Some(told);
                break;
            }
            bytes += more;
            batch.push(told);
        }
        self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(batch)
    }
}

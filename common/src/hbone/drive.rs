//! What both ends of an HBONE connection need around `h2`: turns, keepalive, and the window that grows with what
//! slow readers hold.
//!
//! `h2` owns the transport and tells little about it, so the transport is wrapped: [`Wire`] counts what arrives,
//! which serves as the sign of life, and ends a turn after a while.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::ahead::Unanswered;
use super::frames::Frames;
use super::inbox::Inbox;
use super::limits;

/// What all streams of a worker hold for slow readers, with its bound.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes; [`limits::HELD_BYTES_PER_WORKER`] is the usual one.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

/// What the task that drives a connection shares with the connection's streams. All of them run on one thread, so
/// the atomics are never contended; they only make the types `Send`.
#[derive(Debug)]
pub(super) struct Shared {
    budget: Arc<Budget>,
    /// Bytes that left `h2` and wait in a stream's queue.
    held: AtomicUsize,
    /// Plaintext bytes received since the beginning.
    received: AtomicU64,
    /// Bytes the current turn may still read.
    turn: AtomicUsize,
    /// CONNECTs withdrawn by the peer since the last keepalive interval.
    pub(super) withdrawn: AtomicU32,
    /// Set once the peer has sent too much of what carries nothing.
    flooded: AtomicBool,
    /// Intervals that have begun.
    intervals: AtomicU32,
    /// Set by whoever wants the connection gone at once.
    aborted: AtomicBool,
    /// Set once the client's SETTINGS were received whole.
    settings: AtomicBool,
    /// Set once the connection has ended.
    pub(super) ended: AtomicBool,
    driver: AtomicWaker,
    /// Streams that this end reads at its own pace, by their numbers.
    inboxes: Mutex<HashMap<u32, Weak<Inbox>>>,
    /// Streams whose CONNECT waits for an answer, by their numbers.
    unanswered: Mutex<HashMap<u32, Weak<Unanswered>>>,
    /// Bytes of DATA, with what `h2` keeps for small frames, since inboxes were last drained.
    undrained: AtomicUsize,
}

impl Shared {
    pub(super) fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            held: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            turn: AtomicUsize::new(limits::TURN_READ_BYTES),
            withdrawn: AtomicU32::new(0),
            flooded: AtomicBool::new(false),
            intervals: AtomicU32::new(0),
            aborted: AtomicBool::new(false),
            settings: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            driver: AtomicWaker::new(),
            inboxes: Mutex::default(),
            unanswered: Mutex::default(),
            undrained: AtomicUsize::new(0),
        })
    }

    /// Records that a stream holds `now` bytes where it held `before`. False when the worker's budget is exceeded.
    pub(super) fn hold(&self, before: usize, now: usize) -> bool {
        if now == before {
            return true;
        }
        if now < before {
            self.held.fetch_sub(before - now, Relaxed);
            self.budget.held.fetch_sub(before - now, Relaxed);
            return true;
        }
        let grown = now - before;
        let window = limits::CONNECTION_WINDOW_BYTES as usize;
        let connection = self.held.fetch_add(grown, Relaxed);
        let worker = self.budget.held.fetch_add(grown, Relaxed) + grown;
        // The driver raises the window in steps, before the peer has used up half of the one it has.
        if connection / (window / 4) != (connection + grown) / (window / 4) {
            self.driver.wake();
        }
        worker <= self.budget.limit
    }

    /// The same of a stream whose CONNECT is not answered. The peer gets no window for it, which is the connection's until
    /// somebody reads what came.
    pub(super) fn hold_ahead(&self, before: usize, now: usize) -> bool {
        if now <= before {
            self.budget.held.fetch_sub(before - now, Relaxed);
            return true;
        }
        let grown = now - before;
        self.budget.held.fetch_add(grown, Relaxed) + grown <= self.budget.limit
    }

    /// Asks the driver to end the connection and all its streams at once.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Relaxed);
        self.driver.wake();
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Relaxed)
    }

    /// Whether the peer has sent too much of what carries nothing.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// Begins a keepalive interval: what may be done so many times in one may be done again.
    pub(super) fn begin_interval(&self) {
        self.withdrawn.store(0, Relaxed);
        self.intervals.fetch_add(1, Relaxed);
    }

    pub(super) fn saw_settings(&self) -> bool {
        self.settings.load(Relaxed)
    }

    /// Begins a turn of the driver.
    pub(super) fn begin_turn(&self, cx: &Context<'_>) {
        self.turn.store(limits::TURN_READ_BYTES, Relaxed);
        self.driver.register(cx.waker());
    }

    /// Ends a turn: what `h2` holds for slow readers is taken from it before it is too much for `h2`, and what it holds
    /// for nobody yet before it is much that no budget knows of.
    pub(super) fn end_turn(&self) {
        let undrained = self.undrained.load(Relaxed);
        if undrained >= limits::UNCOUNTED_AHEAD_BYTES {
            let unanswered: Vec<_> = self.unanswered().values().filter_map(Weak::upgrade).collect();
            unanswered.iter().for_each(|stream| stream.drain());
        }
        if undrained < limits::UNDRAINED_BYTES {
            return;
        }
        self.undrained.store(0, Relaxed);
        let inboxes: Vec<_> = self.inboxes().values().filter_map(Weak::upgrade).collect();
        inboxes.iter().for_each(|inbox| inbox.drain());
    }

    /// Has the driver drain `inbox` when its reader is slow, until [`Shared::remove_inbox`].
    pub(super) fn add_inbox(&self, stream: u32, inbox: &Arc<Inbox>) {
        self.inboxes().insert(stream, Arc::downgrade(inbox));
    }

    pub(super) fn remove_inbox(&self, stream: u32) {
        self.inboxes().remove(&stream);
    }

    /// Has the driver count what comes on the stream, until [`Shared::remove_unanswered`].
    pub(super) fn add_unanswered(&self, stream: u32, unanswered: &Arc<Unanswered>) {
        self.unanswered().insert(stream, Arc::downgrade(unanswered));
    }

    pub(super) fn remove_unanswered(&self, stream: u32) {
        self.unanswered().remove(&stream);
    }

    /// Bounded by the number of streams of one connection.
    fn unanswered(&self) -> MutexGuard<'_, HashMap<u32, Weak<Unanswered>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bounded by the number of streams of one connection.
    fn inboxes(&self) -> MutexGuard<'_, HashMap<u32, Weak<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window the peer should have now, when it differs enough from `current` to be told.
    pub(super) fn window(&self, current: u32) -> Option<u32> {
        let held = u32::try_from(self.held.load(Relaxed)).unwrap_or(u32::MAX);
        let step = limits::CONNECTION_WINDOW_BYTES / 4;
        let wanted = (limits::CONNECTION_WINDOW_BYTES.saturating_add(held - held % step))
            .min(limits::CONNECTION_WINDOW_MAX_BYTES);
        (wanted != current).then_some(wanted)
    }
}

/// The transport under `h2`.
pub(super) struct Wire<T> {
    io: T,
    shared: Arc<Shared>,
    /// What a server has seen of the client's opening, until it is complete.
    opening: Option<Opening>,
    frames: Frames,
    interval: u32,
}

impl<T> Wire<T> {
    pub(super) fn new(io: T, shared: Arc<Shared>) -> Self {
        Self { io, shared, opening: None, frames: Frames::after(0), interval: 0 }
    }

    /// A transport whose first frame behind the preface must be SETTINGS (RFC 9113, section 3.4).
    pub(super) fn expecting_settings(io: T, shared: Arc<Shared>) -> Self {
        let opening = Some(Opening::default());
        Self { io, shared, opening, frames: Frames::after(PREFACE_BYTES), interval: 0 }
    }

    /// Counts what was received; the driver hears of a flood, and nothing more is read before it has.
    fn count(&mut self, received: &[u8]) {
        let interval = self.shared.intervals.load(Relaxed);
        if self.interval != interval {
            self.interval = interval;
            self.frames.begin_interval();
        }
        let calm = self.frames.received(received);
        self.shared.undrained.fetch_add(self.frames.take_data_cost(), Relaxed);
        if !calm {
            self.shared.flooded.store(true, Relaxed);
            self.shared.turn.store(0, Relaxed);
            self.shared.driver.wake();
        }
    }
}

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const SETTINGS: u8 = 4;

/// Watches for the end of a client's first SETTINGS frame.
#[derive(Default)]
struct Opening {
    seen: usize,
    header: [u8; FRAME_HEADER_BYTES],
}

impl Opening {
    /// Takes note of received bytes; true once SETTINGS are complete.
    fn observe(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let header_end = PREFACE_BYTES + FRAME_HEADER_BYTES;
        for (position, byte) in (self.seen..header_end).zip(bytes) {
            if let Some(place) = position.checked_sub(PREFACE_BYTES) {
                self.header[place] = *byte;
            }
        }
        self.seen += bytes.len();
        if self.seen < header_end {
            return Ok(false);
        }
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        if kind != SETTINGS || flags != 0 || stream != [0; 4] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the first frame is not SETTINGS"));
        }
        Ok(self.seen >= header_end + u32::from_be_bytes([0, a, b, c]) as usize)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let turn = this.shared.turn.load(Relaxed);
        if turn == 0 {
            // The driver comes again, behind the streams that it has just woken.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if let Some(opening) = &mut this.opening
            && opening.observe(&buf.filled()[before..])?
        {
            this.opening = None;
            this.shared.settings.store(true, Relaxed);
        }
        this.shared.turn.store(turn.saturating_sub(read), Relaxed);
        this.shared.received.fetch_add(read as u64, Relaxed);
        this.count(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.frames.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        this.frames.sent(written);
        Poll::Ready(Ok(written))
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

/// What a [`Keepalive`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// An interval has passed and the peer is alive or being asked.
    Interval,
    /// The peer did not answer.
    Dead,
}

/// Asks the peer for signs of life. Anything that arrives is one, so a busy connection never depends on a PONG that
/// queues behind its data.
pub(super) struct Keepalive {
    ping: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    asked: Option<Instant>,
    seen: u64,
}

impl Keepalive {
    pub(super) fn new(ping: Option<PingPong>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + limits::KEEPALIVE_INTERVAL));
        Self { ping, timer, asked: None, seen: 0 }
    }

    /// Ready at each interval; the caller polls again until it is pending. `sooner` shortens the next interval for
    /// the caller's own purposes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared, sooner: Duration) -> Poll<Tick> {
        if let Some(ping) = &mut self.ping {
            // The answer itself does not matter, `received` has counted it; taking it allows the next PING.
            let _ = ping.poll_pong(cx);
        }
        ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        let received = shared.received.load(Relaxed);
        match self.asked {
            Some(asked) if received == self.seen => {
                if now.duration_since(asked) >= limits::KEEPALIVE_TIMEOUT {
                    return Poll::Ready(Tick::Dead);
                }
            }
            // Asked also when something came just now: the peer may have died right after it.
            _ => {
                // Refused only while an earlier PING is under way, which serves as well.
                let _ = self.ping.as_mut().map(|ping| ping.send_ping(Ping::opaque()));
                self.asked = Some(now);
            }
        }
        self.seen = received;
        let next = limits::KEEPALIVE_INTERVAL.min(sooner).max(Duration::from_millis(10));
        self.timer.as_mut().reset(now + next);
        Poll::Ready(Tick::Interval)
    }
}

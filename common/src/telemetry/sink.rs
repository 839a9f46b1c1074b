//! A bounded buffer between whoever logs and standard output, emptied by a thread of its own.
//!
//! Knows nothing of levels and fields: a line is bytes. The surprising thing: when the reader of standard output stops
//! reading, lines are dropped and counted, never waited for. A log is worth less than a connection.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::Level;

use super::line::{Line, LogFormat};

/// What may wait to be written, in bytes. Twice as much is held at most: one part fills while the other is written.
pub const LOG_BUFFER_BYTES: usize = 1 << 20;
/// How long the first line of a batch waits for others, so that many lines cost one system call.
pub const LOG_BATCH_WINDOW: Duration = Duration::from_millis(20);
/// How long the end of the program waits for the last lines to be taken.
pub const LOG_CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Where log lines go. Cheap to clone; every clone fills the same buffer.
#[derive(Clone)]
pub struct LogSink {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when there is something to write, or when it is time to end.
    filled: Condvar,
    /// Told when everything was written.
    emptied: Condvar,
    dropped_total: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Lines dropped since the last report.
    dropped: u64,
    writing: bool,
    closing: bool,
}

/// Ends the writing thread when dropped, after what is buffered was written or [`LOG_CLOSE_DEADLINE`] has passed.
pub struct LogGuard {
    sink: LogSink,
}

impl LogSink {
    /// Starts the thread that writes to `out`; `format` is how it reports lines that had to be dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(out: Box<dyn Write + Send>, format: LogFormat) -> std::io::Result<(Self, LogGuard)> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { pending: Vec::with_capacity(LOG_BUFFER_BYTES), ..State::default() }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped_total: AtomicU64::new(0),
        });
        let sink = Self { shared };
        let writer = sink.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || writer.shared.write_all(out, format))?;
        Ok((sink.clone(), LogGuard { sink }))
    }

    /// Takes one line, ended by a newline. Never waits for the reader: a line that does not fit is counted instead.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        let before = state.pending.len();
        if before + line.len() > LOG_BUFFER_BYTES {
            state.dropped += 1;
            self.shared.dropped_total.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.pending.extend_from_slice(line);
        let half = LOG_BUFFER_BYTES / 2;
        let wake = before == 0 || (before < half && state.pending.len() >= half);
        drop(state);
        if wake {
            self.shared.filled.notify_one();
        }
    }

    /// How many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped_total.load(Ordering::Relaxed)
    }

    /// Waits until everything pushed so far was written, at most `deadline`. Returns whether it was.
    pub fn flush(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let mut state = self.shared.lock();
        while !state.pending.is_empty() || state.writing {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            let waited = self.shared.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that hold the lock, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: Box<dyn Write + Send>, format: LogFormat) {
        let mut batch = Vec::with_capacity(LOG_BUFFER_BYTES);
        while let Some(dropped) = self.next_batch(&mut batch) {
            // Standard output that is closed or full of errors has nobody left to be told.
            let _ = out.write_all(&batch);
            if dropped > 0 {
                let mut report = Vec::new();
                report_dropped(&mut report, format, dropped);
                let _ = out.write_all(&report);
            }
            let _ = out.flush();
            batch.clear();
            let mut state = self.lock();
            state.writing = false;
            if state.pending.is_empty() {
                self.emptied.notify_all();
            }
        }
        self.emptied.notify_all();
    }

    /// Moves what is pending into `batch` and returns how many lines were dropped; `None` at the end.
    fn next_batch(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut state = self.lock();
        while state.pending.is_empty() && !state.closing {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.pending.is_empty() {
            return None;
        }
        if !state.closing && state.pending.len() < LOG_BUFFER_BYTES / 2 {
            let waited = self.filled.wait_timeout(state, LOG_BATCH_WINDOW);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut state.pending, batch);
        state.writing = true;
        Some(std::mem::take(&mut state.dropped))
    }
}

fn report_dropped(out: &mut Vec<u8>, format: LogFormat, dropped: u64) {
    let head = (SystemTime::now(), Level::WARN, "telemetry::sink");
    let message = "log lines dropped: standard output is not read fast enough";
    let mut line = Line::begin(out, format, head, &message);
    line.number("lines", &dropped).number("buffer_bytes", &LOG_BUFFER_BYTES);
    line.end();
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.sink.shared.lock().closing = true;
        self.sink.shared.filled.notify_one();
        self.sink.flush(LOG_CLOSE_DEADLINE);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A reader that reads only when told to.
    struct Stalled {
        gate: Receiver<()>,
        entered: Sender<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            // A closed gate stays open for good.
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_towards_a_stalled_reader_is_bounded_and_its_drops_are_counted() {
        let (open, gate) = channel();
        let (entered, stalled) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let out = Stalled { gate, entered, written: written.clone() };
        let (sink, guard) = LogSink::start(Box::new(out), LogFormat::Plain).unwrap();

        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        sink.push(&line);
        stalled.recv().unwrap(); // the writer holds the first line and is stuck
        let pushed = 10 * LOG_BUFFER_BYTES / line.len();
        let started = Instant::now();
        for _ in 0..pushed {
            sink.push(&line);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "pushing waited for the reader");
        let kept = LOG_BUFFER_BYTES / line.len();
        assert_eq!(sink.dropped(), (pushed - kept) as u64);
        assert!(sink.shared.lock().pending.capacity() <= 2 * LOG_BUFFER_BYTES);

        drop(open);
        drop(guard);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("xxx\n").count(), kept + 1);
        assert!(text.ends_with(&format!("lines={} buffer_bytes=1048576\n", pushed - kept)), "no report");
    }

    #[test]
    fn the_last_lines_are_written_before_the_program_ends() {
        let (_open, gate) = channel();
        drop(_open);
        let written = Arc::new(Mutex::new(Vec::new()));
        let out = Stalled { gate, entered: channel().0, written: written.clone() };
        let (sink, guard) = LogSink::start(Box::new(out), LogFormat::Json).unwrap();
        sink.push(b"last words\n");
        drop(guard);
        assert_eq!(*written.lock().unwrap(), b"last words\n");
    }

    #[test]
    fn a_reader_that_never_comes_back_does_not_hold_up_the_end() {
        let (_open, gate) = channel();
        let out = Stalled { gate, entered: channel().0, written: Arc::default() };
        let (sink, guard) = LogSink::start(Box::new(out), LogFormat::Json).unwrap();
        sink.push(b"lost\n");
        let started = Instant::now();
        drop(guard);
        assert!(started.elapsed() < LOG_CLOSE_DEADLINE * 3);
    }
}

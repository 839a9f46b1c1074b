//! How an accept loop behaves when `accept` fails: out of file descriptors must be neither a busy loop nor a flood of
//! log lines, and the process must say that it cannot serve.
//!
//! Pure: it is told of errors and times, and answers what to do.

use std::io;
use std::time::{Duration, Instant};

/// The pause after the first failure.
pub const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause: also how soon accepting resumes after descriptors are free again.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// One log line in this time, however many accepts fail.
pub const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What went wrong with an accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The connection was gone before it was accepted, or a signal came: the listener is fine.
    Connection,
    /// File descriptors or memory have run out: a pause helps.
    Starved,
    /// Anything else.
    Listener,
}

/// What the accept loop does after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// How long to wait before the next accept; zero for a fault of one connection.
    pub wait: Duration,
    /// Whether to write a log line, and how many failures it stands for.
    pub log: Option<u64>,
    /// Whether the process is out of file descriptors or memory, and so is not ready.
    pub starving: bool,
}

/// The state of one accept loop.
#[derive(Debug, Default)]
pub struct AcceptBackoff {
    pause: Option<Duration>,
    starving: bool,
    unlogged: u64,
    logged: Option<Instant>,
}

impl AcceptBackoff {
    /// An accept failed.
    pub fn failed(&mut self, error: &io::Error, now: Instant) -> Pause {
        let fault = fault(error);
        if fault == Fault::Connection {
            return Pause { wait: Duration::ZERO, log: None, starving: self.starving };
        }
        self.starving = fault == Fault::Starved;
        let wait = self.pause.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.pause = Some(wait);
        self.unlogged += 1;
        let due = self.logged.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL);
        let log = due.then(|| std::mem::take(&mut self.unlogged));
        if due {
            self.logged = Some(now);
        }
        Pause { wait, log, starving: self.starving }
    }

    /// An accept went well. Returns whether the loop was starving until now.
    pub fn accepted(&mut self) -> bool {
        self.pause = None;
        std::mem::take(&mut self.starving)
    }
}

fn fault(error: &io::Error) -> Fault {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Fault::Starved,
        // accept(2): errors of the new connection are reported by accept and are to be retried.
        Some(
            Errno::ECONNABORTED
            | Errno::ECONNRESET
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENOPROTOOPT
            | Errno::ETIMEDOUT,
        ) => Fault::Connection,
        _ => Fault::Listener,
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn pauses_double_to_the_longest_and_start_again_after_an_accept() {
        let (mut backoff, now) = (AcceptBackoff::default(), Instant::now());
        let waits: Vec<_> =
            (0..9).map(|_| backoff.failed(&error(Errno::EMFILE), now).wait.as_millis()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 100, 100]);
        assert!(backoff.accepted(), "the end of starvation is told once");
        assert!(!backoff.accepted());
        assert_eq!(backoff.failed(&error(Errno::EMFILE), now).wait, FIRST_PAUSE);
    }

    #[test]
    fn one_line_a_second_stands_for_all_failures() {
        let (mut backoff, start) = (AcceptBackoff::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(backoff.failed(&error(Errno::EMFILE), at(0)).log, Some(1));
        for ms in 1..1000 {
            assert_eq!(backoff.failed(&error(Errno::EMFILE), at(ms)).log, None);
        }
        assert_eq!(backoff.failed(&error(Errno::EMFILE), at(1000)).log, Some(1000));
        // Also when failures and accepts alternate.
        backoff.accepted();
        assert_eq!(backoff.failed(&error(Errno::EMFILE), at(1500)).log, None);
    }

    #[test]
    fn a_fault_of_one_connection_neither_waits_nor_logs_nor_starves() {
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO] {
            let pause = AcceptBackoff::default().failed(&error(errno), Instant::now());
            assert_eq!(pause, Pause { wait: Duration::ZERO, log: None, starving: false }, "{errno}");
        }
        for (errno, starving) in [(Errno::ENFILE, true), (Errno::ENOMEM, true), (Errno::EINVAL, false)] {
            let pause = AcceptBackoff::default().failed(&error(errno), Instant::now());
            assert_eq!((pause.wait, pause.starving), (FIRST_PAUSE, starving), "{errno}");
        }
    }

    #[test]
    fn starvation_lasts_through_an_aborted_connection() {
        let (mut backoff, now) = (AcceptBackoff::default(), Instant::now());
        assert!(backoff.failed(&error(Errno::EMFILE), now).starving);
        assert!(backoff.failed(&error(Errno::ECONNABORTED), now).starving);
    }
}

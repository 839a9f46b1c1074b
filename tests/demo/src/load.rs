//! A closed loop of callers: each makes the next call when the last is over, on a new connection, and keeps the times.
//!
//! Knows nothing of what happens meanwhile; [`Tally`] sorts the calls into phases afterwards, by when they were made.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use harness::{cluster::Pod, netns::Namespace};

use crate::http::Connection;

/// Callers at a time.
pub(crate) const CALLERS: usize = 4;

/// A caller's pause between calls, so that the load leaves the machine room to restart a proxy.
const THINKING: Duration = Duration::from_millis(4);

/// How long a call may take in all its parts; longer than a TCP client needs to try its SYN three times.
const PATIENCE: Duration = Duration::from_secs(8);

/// Calls one caller remembers at most.
const CALLS_MAX: usize = 100_000;

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// When it began.
    pub(crate) began: Instant,
    /// How long it took, to the answer or the failure.
    pub(crate) took: Duration,
    /// Whether it was answered with 200.
    pub(crate) ok: bool,
}

/// Keeps [`CALLERS`] callers in `pod` calling while `script` runs; returns the calls and what the script gave.
///
/// # Errors
/// The script failed, or a caller could not be started.
pub(crate) fn under_load<T>(
    pod: &Pod,
    to: SocketAddr,
    path: &str,
    script: impl FnOnce() -> Result<T>,
) -> Result<(Vec<Call>, T)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let caller = || caller(pod.namespace(), to, path, &over);
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        let given = script();
        over.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for caller in callers {
            calls.extend(caller.join().map_err(|_| anyhow!("a caller panicked"))?.context("a caller")?);
        }
        Ok((calls, given?))
    })
}

fn caller(namespace: &Namespace, to: SocketAddr, path: &str, over: &AtomicBool) -> Result<Vec<Call>> {
    namespace.within(|| {
        let mut calls = Vec::new();
        while !over.load(Ordering::Relaxed) && calls.len() < CALLS_MAX {
            let began = Instant::now();
            let reply = Connection::open_here(to, PATIENCE).and_then(|mut connection| connection.get(path));
            let ok = reply.is_ok_and(|reply| reply.status == 200);
            calls.push(Call { began, took: began.elapsed(), ok });
            thread::sleep(THINKING);
        }
        Ok(calls)
    })
}

/// The calls of one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Answered.
    pub(crate) ok: usize,
    /// Not answered.
    pub(crate) failed: usize,
    /// The longest that one of them took, answered or not.
    pub(crate) longest: Duration,
}

impl Tally {
    /// Sorts calls into those over before `from`, those begun at `to` or after, and those between or across.
    #[must_use]
    pub(crate) fn around(calls: &[Call], from: Instant, to: Instant) -> [Self; 3] {
        let mut phases = [Self::default(); 3];
        for call in calls {
            let phase = match call.began {
                began if began + call.took < from => 0,
                began if began < to => 1,
                _ => 2,
            };
            phases[phase].add(call);
        }
        phases
    }

    fn add(&mut self, call: &Call) {
        *(if call.ok { &mut self.ok } else { &mut self.failed }) += 1;
        self.longest = self.longest.max(call.took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_in_the_phase_they_were_made_in_and_those_across_in_the_middle() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let call = |began, took, ok| Call { began: start + ms(began), took: ms(took), ok };
        let calls = [
            call(0, 5, true),
            call(8, 5, false),  // Across the beginning of the middle.
            call(12, 30, true), // Across its end.
            call(20, 1, true),
        ];
        let [before, during, after] = Tally::around(&calls, start + ms(10), start + ms(20));
        assert_eq!(before, Tally { ok: 1, failed: 0, longest: ms(5) });
        assert_eq!(during, Tally { ok: 1, failed: 1, longest: ms(30) });
        assert_eq!(after, Tally { ok: 1, failed: 0, longest: ms(1) });
    }
}

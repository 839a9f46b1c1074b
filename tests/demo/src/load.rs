//! A closed loop of callers: each makes the next call when the last is over, on a new connection, and keeps the times.
//!
//! Knows nothing of what happens meanwhile; [`Phases`] sorts the calls into phases afterwards, by when they were made.

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
            calls.push(call_here(to, path));
            thread::sleep(THINKING);
        }
        Ok(calls)
    })
}

fn call_here(to: SocketAddr, path: &str) -> Call {
    let began = Instant::now();
    let reply = Connection::open_here(to, PATIENCE).and_then(|mut connection| connection.get(path));
    Call { began, took: began.elapsed(), ok: reply.is_ok_and(|reply| reply.status == 200) }
}

/// Makes `count` calls apart from any load, beginning one every `pause`, and does `work` while they are under way.
///
/// # Errors
/// `work` failed, or a caller could not be started.
pub(crate) fn beside_calls<T>(
    (pod, to, path): (&Pod, SocketAddr, &str),
    count: u32,
    pause: Duration,
    work: impl FnOnce() -> Result<T>,
) -> Result<(Vec<Call>, T)> {
    thread::scope(|scope| {
        let caller = |number: u32| {
            pod.namespace().within(|| {
                thread::sleep(pause * number);
                Ok(call_here(to, path))
            })
        };
        let callers: Vec<_> = (0..count).map(|number| scope.spawn(move || caller(number))).collect();
        let given = work();
        let calls =
            callers.into_iter().map(|caller| caller.join().map_err(|_| anyhow!("a caller panicked"))?);
        Ok((calls.collect::<Result<_>>()?, given?))
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

/// When a proxy was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    /// The signal was not sent before.
    pub(crate) killing: Instant,
    /// The process was gone by then.
    pub(crate) dead: Instant,
    /// Its successor was ready by then.
    pub(crate) ready: Instant,
}

/// The calls around an outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    /// Over before it.
    pub(crate) before: Tally,
    /// Under way when it began.
    pub(crate) cut: Tally,
    /// Begun within it.
    pub(crate) down: Tally,
    /// Begun after it.
    pub(crate) after: Tally,
}

impl Phases {
    /// Sorts calls into their phases.
    #[must_use]
    pub(crate) fn around(outage: Outage, calls: &[Call]) -> Self {
        let mut phases = Self::default();
        for call in calls {
            let phase = match call.began {
                began if began + call.took < outage.killing => &mut phases.before,
                began if began < outage.dead => &mut phases.cut,
                began if began < outage.ready => &mut phases.down,
                _ => &mut phases.after,
            };
            phase.add(call);
        }
        phases
    }
}

impl Tally {
    fn add(&mut self, call: &Call) {
        *(if call.ok { &mut self.ok } else { &mut self.failed }) += 1;
        self.longest = self.longest.max(call.took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_in_the_phase_they_were_made_in_and_those_under_way_by_themselves() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let call = |began, took, ok| Call { began: start + ms(began), took: ms(took), ok };
        let calls =
            [call(0, 5, true), call(8, 5, false), call(11, 30, true), call(14, 30, true), call(20, 1, true)];
        let outage = Outage { killing: start + ms(10), dead: start + ms(12), ready: start + ms(20) };
        let phases = Phases::around(outage, &calls);
        assert_eq!(phases.before, Tally { ok: 1, failed: 0, longest: ms(5) });
        assert_eq!(phases.cut, Tally { ok: 1, failed: 1, longest: ms(30) });
        assert_eq!(phases.down, Tally { ok: 1, failed: 0, longest: ms(30) });
        assert_eq!(phases.after, Tally { ok: 1, failed: 0, longest: ms(1) });
    }
}

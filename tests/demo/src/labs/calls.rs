//! Many calls from one pod, in turn or at once, and what their callers saw.
//!
//! Knows nothing of what is expected. A caller keeps its connection, as programs do; when that breaks the call counts as
//! unanswered and the next one has a new connection.

use std::{
    net::SocketAddr,
    sync::{
        Barrier, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use harness::{cluster::Pod, report::Described};

use crate::http::{Ask, Connection, Reply};

/// How long one call may take; longer than anything the labs delay.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    /// On a connection of its own, as of somebody who has not called before.
    apart: bool,
}

impl Question {
    /// Asks for a path.
    pub(super) fn path(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), headers: Vec::new(), apart: false }
    }

    /// By another method than GET, without a body.
    pub(super) fn by(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// With one more header.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// On a connection of its own.
    pub(super) fn apart(mut self) -> Self {
        self.apart = true;
        self
    }
}

/// How many calls, and by how many callers at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) calls: usize,
    pub(super) callers: usize,
}

impl Load {
    /// One call after the other.
    pub(super) fn in_turn(calls: usize) -> Self {
        Self { calls, callers: 1 }
    }

    /// All of them at the same moment.
    pub(super) fn at_once(calls: usize) -> Self {
        Self { calls, callers: calls }
    }
}

/// One call as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    /// Until the answer was whole.
    pub(super) took: Duration,
    /// The answer; none when the connection broke.
    pub(super) reply: Option<Reply>,
}

impl Called {
    /// The status; 0 without an answer.
    pub(super) fn status(&self) -> u16 {
        self.reply.as_ref().map_or(0, |reply| reply.status)
    }

    /// A header of the answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.reply.as_ref()?.header(name)
    }

    /// How the server that answered describes itself, where one did.
    pub(super) fn described(&self) -> Option<Described> {
        let reply = self.reply.as_ref().filter(|reply| reply.status == 200)?;
        reply.described().ok()
    }

    /// The version of the server that answered; empty where none did.
    pub(super) fn version(&self) -> String {
        self.described().map(|it| it.version).unwrap_or_default()
    }
}

/// Makes calls from `pod` to `to`; `ask` says what the call of each number asks for. In the order of the numbers.
///
/// # Errors
/// A caller cannot be started. Calls that fail are results.
pub(super) fn call(
    pod: &Pod,
    to: SocketAddr,
    load: Load,
    ask: impl Fn(usize) -> Question + Sync,
) -> Result<Vec<Called>> {
    let (next, start) = (AtomicUsize::new(0), Barrier::new(load.callers));
    let all = Mutex::new(Vec::new());
    let caller = || {
        let mut connection = Connection::open_here(to, PATIENCE).ok();
        start.wait();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= load.calls {
                return Ok(());
            }
            let called = one(&mut connection, to, &ask(number));
            all.lock().unwrap_or_else(PoisonError::into_inner).push((number, called));
        }
    };
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..load.callers).map(|_| scope.spawn(|| pod.namespace().within(caller))).collect();
        callers.into_iter().try_for_each(|caller| caller.join().map_err(|_| anyhow!("a caller panicked"))?)
    })?;
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, called)| called).collect())
}

fn one(connection: &mut Option<Connection>, to: SocketAddr, question: &Question) -> Called {
    let began = Instant::now();
    let headers: Vec<_> = question.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ask = Ask { method: question.method, path: &question.path, host: "market", headers: &headers };
    let kept = connection.take().filter(|_| !question.apart);
    let open = kept.map_or_else(|| Connection::open_here(to, PATIENCE), Ok);
    let reply = open.and_then(|mut open| {
        let reply = open.get(ask)?;
        *connection = Some(open).filter(|_| !question.apart);
        Ok(reply)
    });
    Called { took: began.elapsed(), reply: reply.ok() }
}

/// How many calls had each status, in words.
pub(super) fn statuses(calls: &[Called]) -> String {
    let mut counts = std::collections::BTreeMap::<u16, usize>::new();
    calls.iter().for_each(|call| *counts.entry(call.status()).or_default() += 1);
    let each = counts.into_iter().map(|(status, count)| match status {
        0 => format!("{count} without an answer"),
        _ => format!("{count} x {status}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// How many calls had this status.
pub(super) fn count(calls: &[Called], status: u16) -> usize {
    calls.iter().filter(|call| call.status() == status).count()
}

#[cfg(test)]
pub(super) mod made {
    //! Calls made up for tests of claims.

    use super::*;

    /// An answer of a server of this version after so many milliseconds.
    pub(in crate::labs) fn answered(version: &str, took_ms: u64) -> Called {
        described(version, took_ms, |_| {})
    }

    /// The same, with changes to how the server describes itself.
    pub(in crate::labs) fn described(
        version: &str,
        took_ms: u64,
        change: impl FnOnce(&mut Described),
    ) -> Called {
        let mut described = Described {
            name: format!("customers-{version}-x"),
            version: version.into(),
            peer: "10.244.1.2:4000".parse().unwrap(),
            local: "10.244.1.3:8080".parse().unwrap(),
            method: "GET".into(),
            path: "/".into(),
            headers: Default::default(),
            called: None,
        };
        change(&mut described);
        let mut called = status(200, took_ms);
        called.reply.as_mut().unwrap().body = serde_json::to_string(&described).unwrap();
        called
    }

    /// An answer of this status that no server described; 0 is no answer.
    pub(in crate::labs) fn status(status: u16, took_ms: u64) -> Called {
        let reply = Reply { status, headers: Vec::new(), body: String::new() };
        Called { took: Duration::from_millis(took_ms), reply: (status > 0).then_some(reply) }
    }
}

#[cfg(test)]
mod tests {
    use super::{made::*, *};

    #[test]
    fn what_was_not_answered_has_status_0_and_no_version() {
        let calls = [answered("v1", 1), status(503, 1), status(0, 1), status(503, 1)];
        assert_eq!(statuses(&calls), "1 without an answer, 1 x 200, 2 x 503");
        assert_eq!((count(&calls, 503), count(&calls, 0)), (2, 1));
        assert_eq!(calls.map(|call| call.version()), ["v1", "", "", ""]);
    }
}

//! The open connections of one worker, judged again whenever policy changes.
//!
//! A connection is entered before its verdict is acted upon, and both happen without an await in between, so that a
//! policy change either is seen by the verdict or finds the connection here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::net::kill::{Kill, Killed, kill_switch};
use common::refusal::Refusal;
use common::snapshot::Snapshot;

use crate::inbound::admit::{self, Admission};
use crate::pods::Pod;

/// The most connections one worker carries at a time; more are refused, not queued.
pub const MAX_CONNECTIONS: usize = 65_536;

/// Which way a connection goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// How a connection travels between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Through a tunnel.
    Hbone,
    /// As it is.
    Tcp,
}

/// What is known of an open connection.
#[derive(Debug)]
pub struct Entry {
    /// The pod it belongs to.
    pub pod: Arc<Pod>,
    /// Which way it goes.
    pub direction: Direction,
    /// How it travels.
    pub protocol: Protocol,
    /// The connecting side.
    pub source: SocketAddr,
    /// Where it wanted to go.
    pub original: SocketAddr,
    /// Where it is taken: the pod that was chosen, or the application.
    pub server: SocketAddr,
    /// What was admitted; `None` for outbound connections, which the peer's node judges.
    pub admission: Option<Admission>,
}

impl Entry {
    /// Whether it is taken to a server that was chosen among others, and so is part of that one's load.
    fn leads_on(&self) -> bool {
        let to_waypoint = self.admission.as_ref().is_some_and(|it| it.by_way_of.is_some());
        self.direction == Direction::Outbound || to_waypoint
    }
}

/// The registry of one worker.
#[derive(Debug, Default)]
pub struct Live {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Boxed, since a table keeps up to twice the room that is needed.
    entries: HashMap<u64, Box<(Entry, Kill)>>,
    /// Open connections to servers that were chosen, by server; never more entries than connections.
    load: HashMap<IpAddr, u32>,
}

/// Keeps a connection in the registry until it is dropped. As it has a `Drop`, a block that names a part of it keeps all of
/// it, where of a pair it would keep the half that it names.
#[derive(Debug)]
pub struct Registration {
    live: Arc<Live>,
    id: u64,
    /// Tells the connection's relay when it is ended from outside.
    pub killed: Killed,
}

impl Registration {
    /// Notes that the connection is taken to another server than the one it was entered with.
    pub fn led_to(&self, server: SocketAddr) {
        let mut inner = self.live.lock();
        if inner.entries.get(&self.id).is_none_or(|it| it.0.server == server) {
            return;
        }
        let Some(mut entered) = inner.entries.remove(&self.id) else { return };
        inner.unload(&entered.0);
        entered.0.server = server;
        inner.load(&entered.0);
        inner.entries.insert(self.id, entered);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.live.lock();
        if let Some(entered) = inner.entries.remove(&self.id) {
            let (entry, _) = &*entered;
            entry.pod.open.fetch_sub(1, Ordering::Relaxed);
            inner.unload(entry);
        }
    }
}

impl Inner {
    fn load(&mut self, entry: &Entry) {
        if entry.leads_on() {
            *self.load.entry(entry.server.ip()).or_insert(0) += 1;
        }
    }

    fn unload(&mut self, entry: &Entry) {
        let server = entry.server.ip();
        if entry.leads_on()
            && let Some(count) = self.load.get_mut(&server)
        {
            *count -= 1;
            if *count == 0 {
                self.load.remove(&server);
            }
        }
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock leaves the map itself whole: each operation is one insertion or removal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection.
    ///
    /// # Errors
    /// [`Refusal::LimitReached`] at [`MAX_CONNECTIONS`].
    pub fn enter(self: &Arc<Self>, entry: Entry) -> Result<Registration, Refusal> {
        let (kill, killed) = kill_switch();
        let mut inner = self.lock();
        if inner.entries.len() >= MAX_CONNECTIONS {
            return Err(Refusal::LimitReached("MAX_CONNECTIONS"));
        }
        entry.pod.open.fetch_add(1, Ordering::Relaxed);
        inner.load(&entry);
        let id = inner.next;
        inner.next += 1;
        inner.entries.insert(id, Box::new((entry, kill)));
        drop(inner);
        Ok(Registration { live: self.clone(), id, killed })
    }

    /// Ends every admitted connection that `mesh` no longer allows.
    pub fn judge_again(&self, mesh: &Snapshot) -> usize {
        self.end_where(|entry| {
            let admission = entry.admission.as_ref()?;
            admit::judge(mesh, &entry.pod, admission).err()
        })
    }

    /// Ends the connections for which `reason` gives one; returns how many.
    pub fn end_where(&self, reason: impl Fn(&Entry) -> Option<Refusal>) -> usize {
        let ended: Vec<(Kill, Refusal)> = self
            .lock()
            .entries
            .values()
            .filter_map(|entered| {
                let (entry, kill) = &**entered;
                reason(entry).map(|reason| (kill.clone(), reason))
            })
            .collect();
        // Outside the lock: killing wakes tasks that leave the registry.
        for (kill, reason) in &ended {
            kill.kill(reason.clone());
        }
        ended.len()
    }

    /// How many connections are open to a server that was chosen for them.
    pub fn load(&self, server: IpAddr) -> u32 {
        self.lock().load.get(&server).copied().unwrap_or(0)
    }

    /// Shows each open connection to `visit`.
    pub fn for_each(&self, mut visit: impl FnMut(&Entry)) {
        for entered in self.lock().entries.values() {
            visit(&entered.0);
        }
    }
}

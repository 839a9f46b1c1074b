//! One thread per node that waits for interfaces to appear in enrolled pods and covers them at once.
//!
//! Looks at the whole namespace whenever something is announced rather than trusting the announcement, so a
//! lost or repeated message changes nothing.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{enrolment::SharedPod, interfaces::Changes};

/// The watching thread; ends when dropped.
pub(crate) struct Watch {
    list: WatchList,
    thread: Option<JoinHandle<()>>,
}

/// The pods that are watched, shared with their handles.
#[derive(Clone)]
pub(crate) struct WatchList(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    wake: UnixStream,
}

#[derive(Default)]
struct State {
    pods: Vec<Watched>,
    ended: bool,
}

#[derive(Clone)]
struct Watched {
    number: u32,
    changes: Arc<Changes>,
    pod: SharedPod,
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let list = WatchList(Arc::new(Inner { state: Mutex::default(), wake }));
        let watched = list.clone();
        let thread =
            thread::Builder::new().name("interfaces".to_owned()).spawn(move || run(&watched, &woken))?;
        Ok(Self { list, thread: Some(thread) })
    }

    pub(crate) fn list(&self) -> &WatchList {
        &self.list
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.list.change(|state| {
            state.ended = true;
            state.pods.clear();
        });
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl WatchList {
    /// Watches a pod from now on; `number` is the one in its configuration.
    pub(crate) fn add(&self, number: u32, changes: Changes, pod: SharedPod) {
        let watched = Watched { number, changes: Arc::new(changes), pod };
        self.change(|state| state.pods.push(watched));
    }

    /// Watches a pod no longer.
    pub(crate) fn remove(&self, number: u32) {
        self.change(|state| state.pods.retain(|watched| watched.number != number));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
        // A full pipe means the thread has yet to read an earlier wake-up, which serves as well.
        let _best_effort = (&self.0.wake).write(&[0]);
    }

    fn snapshot(&self) -> Option<Vec<Watched>> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.ended).then(|| state.pods.clone())
    }
}

fn run(list: &WatchList, woken: &UnixStream) {
    while let Some(pods) = list.snapshot() {
        let mut waiting: Vec<PollFd<'_>> =
            pods.iter().map(|watched| PollFd::new(watched.changes.as_fd(), PollFlags::POLLIN)).collect();
        waiting.push(PollFd::new(woken.as_fd(), PollFlags::POLLIN));
        // Fails only for a signal, and then the next round is the right answer.
        let _ready = poll(&mut waiting, PollTimeout::NONE);
        let announced: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(waiting);
        for (watched, _) in pods.iter().zip(&announced).filter(|(_, announced)| **announced) {
            watched.changes.discard();
            watched.pod.cover_interfaces();
        }
        let mut wakeups = [0; 64];
        let _read = (&mut &*woken).read(&mut wakeups);
    }
}

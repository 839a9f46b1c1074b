//! What the process still waits for before it can serve.
//!
//! A task is named when it is begun and must be reported done. Losing its guard does not count as done: a start-up task
//! that fails or panics leaves the process not ready, with the name of the task in the probe's answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many awaited tasks are known by name; further ones are awaited as a number.
pub const MAX_AWAITED: usize = 1024;

/// The tasks awaited. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    awaited: Mutex<Awaited>,
    /// Tells that a task is done.
    done: Notify,
}

#[derive(Debug, Default)]
struct Awaited {
    next: u64,
    tasks: BTreeMap<u64, Task>,
    /// Tasks that came when [`MAX_AWAITED`] names were kept.
    unnamed: usize,
}

#[derive(Debug)]
struct Task {
    name: String,
    abandoned: bool,
}

/// One awaited task: [`ReadyGuard::done`] ends the wait, dropping it does not.
#[derive(Debug)]
#[must_use = "a guard that is dropped leaves the process not ready"]
pub struct ReadyGuard {
    readiness: Readiness,
    /// `None` for a task without a name.
    id: Option<u64>,
}

impl Readiness {
    /// Makes the process not ready until the guard is told that it is done.
    pub fn await_task(&self, name: impl Into<String>) -> ReadyGuard {
        let mut awaited = self.lock();
        if awaited.tasks.len() >= MAX_AWAITED {
            awaited.unnamed += 1;
            return ReadyGuard { readiness: self.clone(), id: None };
        }
        awaited.next += 1;
        let id = awaited.next;
        awaited.tasks.insert(id, Task { name: name.into(), abandoned: false });
        ReadyGuard { readiness: self.clone(), id: Some(id) }
    }

    /// Whether nothing is awaited.
    pub fn is_ready(&self) -> bool {
        let awaited = self.lock();
        awaited.tasks.is_empty() && awaited.unnamed == 0
    }

    /// Waits until nothing is awaited.
    pub async fn ready(&self) {
        loop {
            let mut done = std::pin::pin!(self.inner.done.notified());
            // Before the look, so that no task ends unheard in between.
            done.as_mut().enable();
            if self.is_ready() {
                return;
            }
            done.await;
        }
    }

    /// The names of what is awaited, in the order it was begun.
    pub fn awaited(&self) -> Vec<String> {
        let describe = |task: &Task| match task.abandoned {
            true => format!("{} (given up)", task.name),
            false => task.name.clone(),
        };
        let awaited = self.lock();
        let more = (awaited.unnamed > 0).then(|| format!("{} more", awaited.unnamed));
        awaited.tasks.values().map(describe).chain(more).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Awaited> {
        // Each statement under the lock leaves the map whole.
        self.inner.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyGuard {
    /// The task is done.
    pub fn done(self) {
        let mut awaited = self.readiness.lock();
        match self.id {
            Some(id) => drop(awaited.tasks.remove(&id)),
            None => awaited.unnamed -= 1,
        }
        self.readiness.inner.done.notify_waiters();
        // Its removal is what `drop` looks at: nothing is left to be marked as given up.
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if let Some(task) = self.readiness.lock().tasks.get_mut(&id) {
            task.abandoned = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_task_is_done() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (manifests, certificates) =
            (readiness.await_task("manifests"), readiness.clone().await_task("certificates"));
        assert_eq!(readiness.awaited(), ["manifests", "certificates"]);
        manifests.done();
        assert_eq!(readiness.awaited(), ["certificates"]);
        certificates.done();
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn who_waits_for_readiness_is_told_when_the_last_task_is_done_and_not_before() {
        let readiness = Readiness::default();
        readiness.ready().await;
        let (manifests, certificates) =
            (readiness.await_task("manifests"), readiness.await_task("certificates"));
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        tokio::task::yield_now().await;
        manifests.done();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        certificates.done();
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.expect("told").unwrap();
    }

    #[test]
    fn a_task_that_panics_leaves_the_process_not_ready() {
        let readiness = Readiness::default();
        let guard = readiness.await_task("manifests");
        std::thread::spawn(move || {
            let _guard = guard;
            std::panic::resume_unwind(Box::new(()));
        })
        .join()
        .unwrap_err();
        assert_eq!(readiness.awaited(), ["manifests (given up)"]);
    }

    #[test]
    fn tasks_beyond_the_bound_still_hold_readiness_back() {
        let readiness = Readiness::default();
        let all: Vec<_> = (0..MAX_AWAITED + 10).map(|n| readiness.await_task(n.to_string())).collect();
        assert_eq!(readiness.awaited().len(), MAX_AWAITED + 1);
        for guard in all {
            assert!(!readiness.is_ready());
            guard.done();
        }
        assert!(readiness.is_ready());
    }
}

//! Stops taking new work, and waits for the work in hand until a deadline.
//!
//! One trigger, many watches, on any thread and any runtime. Knows nothing of connections: whoever holds a guard is
//! waited for. The surprising thing: the watch carries the deadline, so that whoever drains knows how long it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

/// Starts the drain and waits for it.
#[derive(Debug)]
pub struct DrainTrigger {
    deadline: watch::Sender<Option<Instant>>,
    live: Arc<Live>,
}

/// Tells that the drain has begun, and hands out guards for work in hand. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    deadline: watch::Receiver<Option<Instant>>,
    live: Arc<Live>,
}

/// Work in hand: the drain waits until it is dropped.
#[derive(Debug)]
#[must_use = "a guard that is dropped is not waited for"]
pub struct DrainGuard {
    live: Arc<Live>,
}

#[derive(Debug, Default)]
struct Live {
    count: AtomicUsize,
    /// Told when the count may have reached zero.
    fell: Notify,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All work was finished.
    Finished,
    /// The deadline passed with this much work in hand.
    DeadlinePassed {
        /// How many guards were held.
        left: usize,
    },
}

/// A trigger and the first watch of it.
pub fn channel() -> (DrainTrigger, DrainWatch) {
    let (sender, receiver) = watch::channel(None);
    let live = Arc::new(Live::default());
    (DrainTrigger { deadline: sender, live: live.clone() }, DrainWatch { deadline: receiver, live })
}

impl DrainTrigger {
    /// How many guards are held.
    pub fn live(&self) -> usize {
        self.live.count.load(Ordering::Acquire)
    }

    /// Tells every watch to stop taking work, and waits until all guards are dropped or `grace` has passed.
    pub async fn drain(self, grace: Duration) -> Drained {
        let deadline = Instant::now() + grace;
        self.deadline.send_replace(Some(deadline));
        let empty = async {
            loop {
                // Registered before the count is read, so that a fall in between is not missed.
                let fell = self.live.fell.notified();
                if self.live() == 0 {
                    return;
                }
                fell.await;
            }
        };
        match timeout_at(deadline, empty).await {
            Ok(()) => Drained::Finished,
            Err(_) => Drained::DeadlinePassed { left: self.live() },
        }
    }
}

impl DrainWatch {
    /// The deadline, when the drain has begun.
    pub fn deadline(&self) -> Option<Instant> {
        *self.deadline.borrow()
    }

    /// Whether the drain has begun: nothing new should be taken. Takes no lock while its trigger is there: it is asked with
    /// every request, by all threads.
    pub fn is_draining(&self) -> bool {
        // No watch takes note of what it has seen, so that for all of them the deadline stays a change.
        self.deadline.has_changed().unwrap_or_else(|_| self.deadline().is_some())
    }

    /// Waits until the drain begins and returns its deadline. Safe to cancel and to call again.
    pub async fn draining(&self) -> Instant {
        let mut deadline = self.deadline.clone();
        // Bound before it is matched on: the value borrows `deadline`.
        let begun = deadline.wait_for(Option::is_some).await.ok().and_then(|deadline| *deadline);
        match begun {
            Some(deadline) => deadline,
            // The trigger was dropped without a drain: there is nothing to wait for, ever.
            None => std::future::pending().await,
        }
    }

    /// Marks work in hand.
    pub fn guard(&self) -> DrainGuard {
        self.live.count.fetch_add(1, Ordering::AcqRel);
        DrainGuard { live: self.live.clone() }
    }

    /// How many guards are held.
    pub fn live(&self) -> usize {
        self.live.count.load(Ordering::Acquire)
    }
}

impl Clone for DrainGuard {
    fn clone(&self) -> Self {
        self.live.count.fetch_add(1, Ordering::AcqRel);
        Self { live: self.live.clone() }
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.live.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.live.fell.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_the_last_guard() {
        let (trigger, watch) = channel();
        let guards = [watch.guard(), watch.guard()];
        assert_eq!(trigger.live(), 2);
        let begun = Instant::now();
        let draining = watch.clone();
        let work = tokio::spawn(async move {
            let deadline = draining.draining().await;
            assert_eq!(deadline, begun + Duration::from_secs(30));
            for guard in guards {
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(guard);
            }
        });
        assert!(!watch.is_draining());
        assert_eq!(trigger.drain(Duration::from_secs(30)).await, Drained::Finished);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert!(watch.is_draining());
        work.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_deadline_is_counted() {
        let (trigger, watch) = channel();
        let guard = watch.guard();
        let clone = guard.clone();
        let begun = Instant::now();
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Drained::DeadlinePassed { left: 2 });
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        drop((guard, clone));
        assert_eq!(watch.live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trigger_that_is_lost_is_not_a_drain() {
        let (trigger, watch) = channel();
        drop(trigger);
        assert!(tokio::time::timeout(Duration::from_secs(60), watch.draining()).await.is_err());
        assert!(!watch.is_draining());
    }

    #[test]
    fn guards_on_other_threads_and_runtimes_are_waited_for() {
        let (trigger, watch) = channel();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (watch, guard) = (watch.clone(), watch.guard());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(watch.draining());
                    drop(guard);
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(trigger.drain(Duration::from_secs(20))), Drained::Finished);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}

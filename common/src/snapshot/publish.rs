//! Hands each new snapshot to all who read.
//!
//! Readers take the current one without a lock. A reader that waits is told that there is a newer one, not how many
//! there were in between.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Snapshot;

/// The one who publishes.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    generation: watch::Sender<u64>,
}

/// One who reads; cheap to clone, one for each task that waits.
#[derive(Debug, Clone)]
pub struct Reader {
    current: Arc<ArcSwap<Snapshot>>,
    generation: watch::Receiver<u64>,
}

/// A publisher and its first reader, with an empty snapshot of generation 0.
pub fn channel() -> (Publisher, Reader) {
    let current = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (generation, receiver) = watch::channel(0);
    (Publisher { current: current.clone(), generation }, Reader { current, generation: receiver })
}

impl Publisher {
    /// Makes a snapshot current.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation();
        self.current.store(snapshot);
        self.generation.send_replace(generation);
    }

    /// Another reader.
    pub fn reader(&self) -> Reader {
        Reader { current: self.current.clone(), generation: self.generation.subscribe() }
    }
}

impl Reader {
    /// The current snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The current snapshot, for a moment: cheaper than [`Self::current`], not to be held across an await.
    pub fn peek(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Waits for a snapshot newer than the last one this reader was told of, and returns it. When nobody publishes any
    /// more it waits for ever, because the last snapshot stays good.
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        if self.generation.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.generation.borrow_and_update();
        self.current()
    }
}

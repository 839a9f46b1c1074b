//! What is under way and has to be judged again when policies change: a waker for each, found without a lock.
//!
//! Knows no policies. Every conversation has places for all the requests that may be under way on it; the first is part
//! of it, the others come in chunks when they are needed. Only opening and ending a conversation takes a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// The most conversations of one process; more are refused.
pub const MAX_CONVERSATIONS: usize = 262_144;
/// Chunks of places that one conversation may have: twice as many requests as a client may have under way.
pub const MAX_CHUNKS: usize = 32;

/// Every conversation of the process, and how often policies have changed.
#[derive(Debug, Default)]
pub struct Registry {
    turn: AtomicU64,
    next: AtomicU64,
    all: Mutex<HashMap<u64, Arc<Places>>>,
}

/// One conversation, for as long as it lasts.
#[derive(Debug)]
pub struct Watched {
    registry: Arc<Registry>,
    id: u64,
    places: Arc<Places>,
}

impl Registry {
    /// Enters a conversation; `None` at [`MAX_CONVERSATIONS`].
    pub fn enter(self: &Arc<Self>) -> Option<Watched> {
        let places = Arc::<Places>::default();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut all = self.lock();
        if all.len() >= MAX_CONVERSATIONS {
            return None;
        }
        all.insert(id, places.clone());
        drop(all);
        Some(Watched { registry: self.clone(), id, places })
    }

    /// How often policies have changed. To be asked before they are looked at.
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    /// Policies have changed, and the new ones are in force: wakes everything that is under way.
    pub fn changed(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        let all: Vec<Arc<Places>> = self.lock().values().cloned().collect();
        all.iter().for_each(|it| it.wake());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Places>>> {
        // Each use is one insertion, one removal or one copy.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// A place for something that is under way; `None` when there are too many.
    pub fn place(&self) -> Option<Place> {
        self.places.take()
    }

    /// The registry it is entered in.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

/// The places of one conversation.
#[derive(Debug, Default)]
struct Places {
    first_taken: AtomicBool,
    first: AtomicWaker,
    more: [OnceLock<Box<Chunk>>; MAX_CHUNKS],
}

#[derive(Debug)]
struct Chunk {
    taken: AtomicU64,
    wakers: [AtomicWaker; 64],
}

impl Default for Chunk {
    fn default() -> Self {
        Self { taken: AtomicU64::new(0), wakers: std::array::from_fn(|_| AtomicWaker::new()) }
    }
}

/// Keeps a place until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// `None` is the first.
    at: Option<(usize, u32)>,
}

impl Places {
    fn take(self: &Arc<Self>) -> Option<Place> {
        if !self.first_taken.swap(true, Ordering::AcqRel) {
            return Some(Place { places: self.clone(), at: None });
        }
        self.more.iter().enumerate().find_map(|(at, chunk)| {
            let bit = chunk.get_or_init(Box::default).take()?;
            Some(Place { places: self.clone(), at: Some((at, bit)) })
        })
    }

    fn wake(&self) {
        self.first.wake();
        for chunk in self.more.iter().filter_map(OnceLock::get) {
            chunk.wakers.iter().for_each(AtomicWaker::wake);
        }
    }
}

impl Chunk {
    fn take(&self) -> Option<u32> {
        loop {
            let bit = self.taken.load(Ordering::Relaxed).trailing_ones();
            if bit == u64::BITS {
                return None;
            }
            if self.taken.fetch_or(1 << bit, Ordering::AcqRel) & 1 << bit == 0 {
                return Some(bit);
            }
        }
    }
}

impl Place {
    /// Whom to wake when policies change.
    pub fn register(&self, waker: &Waker) {
        self.waker().register(waker);
    }

    fn waker(&self) -> &AtomicWaker {
        let chunk = self.at.and_then(|(at, bit)| Some((self.places.more[at].get()?, bit)));
        chunk.map_or(&self.places.first, |(chunk, bit)| &chunk.wakers[bit as usize])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before somebody else has the place.
        drop(self.waker().take());
        match self.at {
            None => self.places.first_taken.store(false, Ordering::Release),
            Some((at, bit)) => {
                if let Some(chunk) = self.places.more[at].get() {
                    chunk.taken.fetch_and(!(1 << bit), Ordering::AcqRel);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whatever_is_under_way_is_woken_once_for_a_change_and_nothing_else_is() {
        let registry = Arc::<Registry>::default();
        let watched = registry.enter().unwrap();
        let woken = Arc::<Woken>::default();
        let places: Vec<Place> = (0..200).map(|_| watched.place().unwrap()).collect();
        places.iter().for_each(|it| it.register(&woken.clone().into()));
        let turn = registry.turn();
        registry.changed();
        assert_eq!((registry.turn(), woken.0.swap(0, Ordering::Relaxed)), (turn + 1, 200));
        registry.changed();
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "nobody asked again");
        places.iter().for_each(|it| it.register(&woken.clone().into()));
        drop(places);
        registry.changed();
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "they are over");
        drop(watched);
        assert!(registry.lock().is_empty());
    }

    #[test]
    fn a_place_is_taken_once_at_a_time_and_there_are_only_so_many() {
        let registry = Arc::<Registry>::default();
        let watched = registry.enter().unwrap();
        let mut places: Vec<Place> = std::iter::from_fn(|| watched.place()).collect();
        assert_eq!(places.len(), 1 + MAX_CHUNKS * 64);
        let mut all: Vec<_> = places.iter().map(|it| it.at).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), places.len());
        for at in [700, 0] {
            let gone = places.swap_remove(at).at;
            assert_eq!(watched.place().map(|it| it.at), Some(gone));
        }
    }
}

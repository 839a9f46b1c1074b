//! A bounded table from the labels of an edge (who talked to whom) to its counters.
//!
//! Knows neither labels nor counters. The surprising thing: an edge is dropped exactly when nobody holds it, and never before
//! what it counted last was scraped twice, so that no count is lost with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an edge that nobody holds keeps its series, unless an operator says otherwise. Long enough for any `rate()`
/// people plot.
pub const EDGE_IDLE_EXPIRY: Duration = Duration::from_secs(15 * 60);
/// How often a last count is scraped before its series may go: `rate()` needs two samples.
pub(super) const LAST_SCRAPES: u32 = 2;
/// When the table is full, how often a new edge may look for one that has expired.
const FULL_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The counters of one edge.
pub(super) trait Counters {
    /// How often it was counted; what is counted again in between is not idle.
    fn uses(&self) -> u64;
}

/// Edges by their labels.
#[derive(Debug)]
pub(super) struct EdgeTable<E> {
    most: usize,
    edges: HashMap<Arc<str>, Entry<E>>,
    swept: Option<Instant>,
    /// How long what is idle is kept; `None` is for ever.
    expiry: Option<Duration>,
}

#[derive(Debug)]
struct Entry<E> {
    edge: Arc<E>,
    idle: Option<Idle>,
}

/// What is known of an edge that nobody holds.
#[derive(Debug, Clone, Copy)]
struct Idle {
    since: Instant,
    /// How often it had been used by then.
    uses: u64,
    /// How often it was scraped since.
    scrapes: u32,
}

impl<E: Counters> EdgeTable<E> {
    /// Keeps `most` edges.
    pub(super) fn new(most: usize) -> Self {
        Self { most, edges: HashMap::new(), swept: None, expiry: Some(EDGE_IDLE_EXPIRY) }
    }

    /// Keeps what is idle for so long; `None` is for ever.
    pub(super) fn expire_after(&mut self, expiry: Option<Duration>) {
        self.expiry = expiry;
    }

    /// How many edges there are.
    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// Every edge.
    pub(super) fn edges(&self) -> impl Iterator<Item = &Arc<E>> {
        self.edges.values().map(|entry| &entry.edge)
    }

    /// Finds or makes the edge with the labels `text`; `None` when it is new and there is no room for it.
    pub(super) fn find(
        &mut self,
        text: String,
        now: Instant,
        make: impl FnOnce(Arc<str>) -> E,
    ) -> Option<Arc<E>> {
        if let Some(entry) = self.edges.get(text.as_str()) {
            return Some(entry.edge.clone());
        }
        if self.edges.len() >= self.most {
            let due = self.swept.is_none_or(|at| now.duration_since(at) >= FULL_SWEEP_INTERVAL);
            if due {
                self.sweep(now, 0);
            }
            if self.edges.len() >= self.most {
                return None;
            }
        }
        let labels: Arc<str> = text.into();
        let edge = Arc::new(make(labels.clone()));
        self.edges.insert(labels, Entry { edge: edge.clone(), idle: None });
        Some(edge)
    }

    /// The edge with these labels, where there is one.
    pub(super) fn get(&self, labels: &str) -> Option<&Arc<E>> {
        self.edges.get(labels).map(|entry| &entry.edge)
    }

    /// Drops the edge with these labels. Who holds it counts for nobody.
    pub(super) fn remove(&mut self, labels: &str) {
        self.edges.remove(labels);
    }

    /// A scrape is about to see the edges: drops those that nobody has held for long enough.
    pub(super) fn scraped(&mut self, now: Instant) {
        self.sweep(now, 1);
    }

    fn sweep(&mut self, now: Instant, scrapes: u32) {
        self.swept = Some(now);
        let expiry = self.expiry;
        let mut expired = Vec::new();
        for (labels, entry) in &mut self.edges {
            let uses = entry.edge.uses();
            entry.idle = match entry.idle {
                _ if Arc::strong_count(&entry.edge) > 1 => None,
                Some(idle) if idle.uses == uses => {
                    Some(Idle { scrapes: idle.scrapes.saturating_add(scrapes), ..idle })
                }
                _ => Some(Idle { since: now, uses, scrapes }),
            };
            // This scrape itself does not show it any more.
            let is_over = |idle: Idle| {
                expiry.is_some_and(|expiry| now.duration_since(idle.since) >= expiry)
                    && idle.scrapes > LAST_SCRAPES
            };
            if entry.idle.is_some_and(is_over) {
                expired.push(labels.clone());
            }
        }
        for labels in expired {
            let Some(Entry { edge, .. }) = self.edges.remove(&labels) else { continue };
            // A worker may have found the edge through its cache since we looked. Taking it apart succeeds only when
            // nobody has it, and from then on nobody can get it: no count is ever lost with a dropped edge.
            if let Err(edge) = Arc::try_unwrap(edge) {
                self.edges.insert(labels, Entry { edge, idle: None });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Never;

    impl Counters for Never {
        fn uses(&self) -> u64 {
            0
        }
    }

    fn table() -> (EdgeTable<Never>, Instant) {
        let (mut table, start) = (EdgeTable::new(2), Instant::now());
        for name in ["a", "b"] {
            assert!(table.find(name.to_owned(), start, |_| Never).is_some());
        }
        (table, start)
    }

    #[test]
    fn nothing_goes_before_it_was_scraped_twice_however_long_that_takes() {
        let (mut table, start) = table();
        let late = start + 10 * EDGE_IDLE_EXPIRY;
        // Full, and nobody has scraped: what is new has no place.
        assert!(table.find("c".to_owned(), start, |_| Never).is_none());
        assert!(table.find("c".to_owned(), late, |_| Never).is_none());
        for _ in 0..LAST_SCRAPES {
            table.scraped(late);
            assert_eq!(table.len(), 2, "the scrape shows it");
        }
        table.scraped(late);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_operator_says_how_long_idle_series_are_kept() {
        for (expiry, left) in
            [(None, 2), (Some(Duration::from_secs(3600)), 2), (Some(Duration::from_secs(5)), 0)]
        {
            let (mut table, start) = table();
            table.expire_after(expiry);
            for second in 0..10 {
                table.scraped(start + Duration::from_secs(second));
            }
            assert_eq!(table.len(), left, "{expiry:?}");
        }
    }
}

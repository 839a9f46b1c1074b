//! A bounded table from the labels of an edge (who talked to whom) to its counters.
//!
//! Knows neither labels nor counters. The surprising thing: an edge is dropped exactly when nobody holds it, so that no
//! count is lost with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an edge that nobody holds keeps its series. Long enough for any `rate()` people plot.
pub(super) const EDGE_IDLE_EXPIRY: Duration = Duration::from_secs(3600);
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
}

#[derive(Debug)]
struct Entry<E> {
    edge: Arc<E>,
    /// Since when nobody held it, and how often it had been used by then.
    idle: Option<(Instant, u64)>,
}

impl<E: Counters> EdgeTable<E> {
    /// Keeps `most` edges.
    pub(super) fn new(most: usize) -> Self {
        Self { most, edges: HashMap::new(), swept: None }
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
                self.sweep(now);
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

    /// Drops the edges that nobody has held for [`EDGE_IDLE_EXPIRY`].
    pub(super) fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        let mut expired = Vec::new();
        for (labels, entry) in &mut self.edges {
            let uses = entry.edge.uses();
            entry.idle = match entry.idle {
                _ if Arc::strong_count(&entry.edge) > 1 => None,
                Some((since, seen)) if seen == uses => Some((since, seen)),
                _ => Some((now, uses)),
            };
            if entry.idle.is_some_and(|(since, _)| now.duration_since(since) >= EDGE_IDLE_EXPIRY) {
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

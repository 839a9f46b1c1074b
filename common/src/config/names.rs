//! Shares equal strings: ten thousand pods name a few hundred namespaces, nodes, accounts and labels.
//!
//! Only the source that decodes holds one; it sweeps what nobody uses any more as it grows.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this many names a sweep is not worth its time.
const SWEEP_FLOOR: usize = 4096;

/// A set of shared strings.
#[derive(Debug)]
pub struct Names {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: SWEEP_FLOOR }
    }
}

impl Names {
    /// The shared form of `text`.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = (self.known.len() * 2).max(SWEEP_FLOOR);
        }
        let name: Arc<str> = text.into();
        self.known.insert(name.clone());
        name
    }

    /// How many strings are held.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_and_unused_names_are_let_go() {
        let mut names = Names::default();
        let kept = names.share("shop");
        assert!(Arc::ptr_eq(&kept, &names.share("shop")));
        for i in 0..3 * SWEEP_FLOOR {
            names.share(&format!("pod-{i}"));
        }
        assert!(names.len() <= SWEEP_FLOOR + 1, "{} names held", names.len());
        assert!(Arc::ptr_eq(&kept, &names.share("shop")));
    }
}

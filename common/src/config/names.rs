//! Shares equal strings: ten thousand pods name a few hundred namespaces, nodes, accounts and labels. What each has for
//! itself, such as its own name, is not for here: to know it would cost more than it could save.
//!
//! Only the source that decodes holds names, and the mesh what workloads have alike; either sweeps what nobody uses any
//! more as it grows.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Below this many names a sweep is not worth its time.
const SWEEP_FLOOR: usize = 4096;

/// A set of shared values.
#[derive(Debug)]
pub(crate) struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: SWEEP_FLOOR }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    /// The one that is equal to `value` and known, or else `value`, which is known from now on.
    pub(crate) fn join(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&*value) {
            return known.clone();
        }
        self.add(value.clone());
        value
    }

    fn share(&mut self, value: &T) -> Arc<T>
    where
        Arc<T>: for<'t> From<&'t T>,
    {
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        let shared: Arc<T> = value.into();
        self.add(shared.clone());
        shared
    }

    fn add(&mut self, value: Arc<T>) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|it| Arc::strong_count(it) > 1);
            self.sweep_at = (self.known.len() * 2).max(SWEEP_FLOOR);
        }
        self.known.insert(value);
    }
}

/// A set of shared strings, and of short lists that many objects have alike.
#[derive(Debug, Default)]
pub struct Names {
    strings: Shared<str>,
    pairs: Shared<[(Arc<str>, Arc<str>)]>,
    ports: Shared<[(Arc<str>, u16)]>,
    numbers: Shared<[u16]>,
}

impl Names {
    /// The shared form of `text`.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        self.strings.share(text)
    }

    /// The shared form of labels: the pods of one Deployment have the same.
    pub(crate) fn share_pairs(&mut self, pairs: &[(Arc<str>, Arc<str>)]) -> Arc<[(Arc<str>, Arc<str>)]> {
        self.pairs.share(pairs)
    }

    /// The shared form of named ports.
    pub(crate) fn share_ports(&mut self, ports: &[(Arc<str>, u16)]) -> Arc<[(Arc<str>, u16)]> {
        self.ports.share(ports)
    }

    /// The shared form of ports without names.
    pub(crate) fn share_numbers(&mut self, numbers: &[u16]) -> Arc<[u16]> {
        self.numbers.share(numbers)
    }

    /// How many strings are held.
    pub fn len(&self) -> usize {
        self.strings.known.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.strings.known.is_empty()
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

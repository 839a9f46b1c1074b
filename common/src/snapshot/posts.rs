//! Which workloads run on which node.
//!
//! By node first, and only then by workload: nodes are few, and a workload that stands in a tree of its node's alone needs
//! no key beside itself.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::model::Workload;

/// Workloads by node; a node without any has no entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Posts(OrdMap<Arc<str>, OrdSet<ByUid>>);

impl Posts {
    /// The workloads of a node, by uid.
    pub(super) fn on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> + use<'_> {
        self.0.get(node).into_iter().flatten().map(|it| &it.0)
    }

    /// Puts what a workload is now in the place of what it was.
    pub(super) fn replace(&mut self, before: Option<&Workload>, now: Option<&Arc<Workload>>) {
        if let Some(before) = before.filter(|before| now.is_none_or(|now| now.node != before.node)) {
            self.remove(before);
        }
        if let Some(now) = now {
            match self.0.get_mut(&now.node) {
                Some(there) => drop(there.insert(ByUid(now.clone()))),
                None => drop(self.0.insert(now.node.clone(), OrdSet::unit(ByUid(now.clone())))),
            }
        }
    }

    fn remove(&mut self, workload: &Workload) {
        if let Some(there) = self.0.get_mut(&workload.node) {
            there.remove(&*workload.uid);
            if there.is_empty() {
                self.0.remove(&workload.node);
            }
        }
    }
}

#[cfg(test)]
impl Posts {
    /// All workloads, by node and uid.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.0.values().flatten().map(|it| &it.0)
    }
}

/// A workload in the order of uids.
#[derive(Debug, Clone)]
struct ByUid(Arc<Workload>);

impl Borrow<str> for ByUid {
    fn borrow(&self) -> &str {
        &self.0.uid
    }
}

impl Ord for ByUid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.uid.cmp(&other.0.uid)
    }
}

impl PartialOrd for ByUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for ByUid {}

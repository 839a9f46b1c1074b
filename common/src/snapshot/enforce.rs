//! Keeps, for every workload, everything that decides who may connect to it.
//!
//! Workloads that no selector picks share the policy of their namespace, or of the mesh; of the picked ones, those
//! picked by the same policies share theirs. A policy that cannot be read binds everyone it may concern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Snapshot;
use super::catalog::{Catalog, Changes};
use super::model::{EffectivePolicy, Workload};
use super::policies::{Bound, Rules, Selection, age, compile, effective, selection};
use super::workloads::Constants;
use super::{UnknownAuthentication, Unread};
use crate::config::may_mean::MayMean;
use crate::config::{Key, Kind, ObjectName, Rejected};

/// Policies of a namespace, by what selects.
type Shared = BTreeMap<Selection, Arc<EffectivePolicy>>;

#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    rules: BTreeMap<Arc<str>, Rules>,
    shared: BTreeMap<Arc<str>, Shared>,
    none: Rules,
}

impl Enforcement {
    /// Follows a batch; true when the policy of a workload that was there before and still is has changed.
    pub(crate) fn apply<'p>(
        &mut self,
        catalog: &Catalog,
        changes: &Changes,
        constants: &Constants,
        pods: impl Iterator<Item = (&'p ObjectName, Option<&'p Arc<Workload>>, Option<&'p Arc<Workload>>)>,
        draft: &mut Snapshot,
    ) -> bool {
        let root = constants.root_namespace();
        let mut dirty = self.restate(catalog, changes, root, draft);
        let mut changed = false;
        if dirty.contains(root) {
            // Whatever binds the mesh is part of every policy there is.
            dirty.extend(self.rules.keys().cloned());
            dirty.extend(self.shared.keys().cloned());
            self.shared.clear();
            let now = effective(self.of(root), &self.none, &Selection::new());
            if *draft.mesh_policy != now {
                draft.mesh_policy = Arc::new(now);
                changed = true;
            }
            if self.of(root).select() {
                dirty.extend(catalog.pods.iter().map(|(object, _)| object.namespace.clone()));
            }
        }
        for namespace in &dirty {
            changed |= self.namespace(catalog, constants, namespace, draft);
        }
        for (object, before, now) in pods {
            match (before, now) {
                (Some(before), None) => {
                    // It may be back, bound by other policies, before anybody looks.
                    draft.selected.remove(&before.uid);
                    changed |= before.enrolment.is_some();
                }
                (_, Some(now)) if !dirty.contains(&object.namespace) => {
                    changed |= self.workload(catalog, root, object, now, draft) && before.is_some();
                }
                _ => {}
            }
        }
        changed
    }

    fn of(&self, namespace: &Arc<str>) -> &Rules {
        self.rules.get(namespace).unwrap_or(&self.none)
    }

    /// Takes up changed policies; returns the namespaces they are of.
    fn restate(
        &mut self,
        catalog: &Catalog,
        changes: &Changes,
        root: &Arc<str>,
        draft: &mut Snapshot,
    ) -> BTreeSet<Arc<str>> {
        let mut dirty = BTreeSet::new();
        for object in changes.authorization.keys() {
            dirty.insert(object.namespace.clone());
            match (catalog.authorization.get(object), catalog.authorization.origin(object)) {
                (Some(stated), Some(origin)) => {
                    draft.policies.insert(object.clone(), Arc::new(compile(stated, origin, root)));
                }
                _ => drop(draft.policies.remove(object)),
            }
        }
        for object in changes.peers.keys() {
            dirty.insert(object.namespace.clone());
            match catalog.peers.get(object) {
                Some(stated) => draft.peer_authentications.insert(object.clone(), stated.clone()),
                None => draft.peer_authentications.remove(object),
            };
        }
        if changes.rejected || !dirty.is_empty() {
            let mut unknown = Self::unknown(catalog, root);
            let had = self.rules.iter().filter(|(_, rules)| !rules.unknown.is_empty());
            dirty.extend(had.map(|(namespace, _)| namespace.clone()));
            dirty.extend(unknown.keys().cloned());
            draft.unknown_policies = unknown.values().flatten().cloned().collect();
            for namespace in &dirty {
                let rules =
                    Self::gather(catalog, draft, namespace, unknown.remove(namespace).unwrap_or_default());
                if rules.is_empty() {
                    self.rules.remove(namespace);
                } else {
                    self.rules.insert(namespace.clone(), rules);
                }
            }
        }
        dirty
    }

    /// Policies, and bindings to waypoints, that could not be read and have no version in force, by the namespace they
    /// concern; the root namespace stands for the whole mesh, and for what is not even known to be of one namespace.
    fn unknown(catalog: &Catalog, root: &Arc<str>) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
        let mut found: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        for rejected in unknown(catalog) {
            // Connections do not depend on tokens; what does is refused by the waypoint, request by request.
            if rejected.subject.kind == Some(Kind::RequestAuthentication) {
                continue;
            }
            let (namespace, name) = match rejected.subject.key() {
                None => {
                    let namespace = rejected.subject.namespace.clone().unwrap_or_else(|| root.clone());
                    (namespace, rejected.origin.to_string())
                }
                Some(Key { kind: Kind::Namespace, object }) => {
                    (object.name.clone(), format!("Namespace {}", object.name))
                }
                Some(Key { kind, object }) => (object.namespace.clone(), format!("{kind} {object}")),
            };
            found.entry(namespace).or_default().push(name.into());
        }
        found
    }

    fn gather(catalog: &Catalog, draft: &Snapshot, namespace: &Arc<str>, unknown: Vec<Arc<str>>) -> Rules {
        let first = ObjectName { namespace: namespace.clone(), name: "".into() };
        let entries = draft.policies.range(first..).take_while(|(object, _)| object.namespace == *namespace);
        let policies = entries.filter_map(|(_, entry)| {
            Some(Bound { selector: entry.stated.selector.clone(), policy: entry.policy.clone()? })
        });
        let mut peers: Vec<_> = catalog.peers.of(namespace).map(|(_, stated)| stated.clone()).collect();
        peers.sort_by_key(|it| age(it));
        Rules { policies: policies.collect(), peers, unknown }
    }

    /// Derives the policy of a namespace and of each of its workloads anew.
    fn namespace(
        &mut self,
        catalog: &Catalog,
        constants: &Constants,
        namespace: &Arc<str>,
        draft: &mut Snapshot,
    ) -> bool {
        let root = constants.root_namespace();
        let mut changed = false;
        self.shared.remove(namespace);
        let before = draft.by_namespace.get(namespace).cloned();
        let inherited = before.as_ref().unwrap_or(&draft.mesh_policy).clone();
        if namespace == root || !self.rules.contains_key(namespace) {
            draft.by_namespace.remove(namespace);
            changed |= before.is_some() && *inherited != *draft.mesh_policy;
        } else {
            let now = effective(self.of(root), self.of(namespace), &Selection::new());
            if before.is_none_or(|before| *before != now) {
                changed |= *inherited != now;
                draft.by_namespace.insert(namespace.clone(), Arc::new(now));
            }
        }
        for (object, _) in catalog.pods.of(namespace) {
            if let Some(workload) = draft.workloads.get(&*constants.uid(object)).cloned() {
                changed |= self.workload(catalog, root, object, &workload, draft);
            }
        }
        changed
    }

    /// Derives the policy of one workload anew; true when it is another than before.
    fn workload(
        &mut self,
        catalog: &Catalog,
        root: &Arc<str>,
        object: &ObjectName,
        workload: &Arc<Workload>,
        draft: &mut Snapshot,
    ) -> bool {
        let own = if object.namespace == *root { &self.none } else { self.of(&object.namespace) };
        let mesh = self.of(root);
        let labels = catalog.pods.get(object).map(|pod| &pod.labels);
        let picked = match labels {
            Some(labels) if mesh.select() || own.select() => selection(mesh, own, labels),
            _ => Selection::new(),
        };
        let before = draft.policy_for(workload).clone();
        if picked.is_empty() {
            draft.selected.remove(&workload.uid);
        } else {
            let shared = self.shared.entry(object.namespace.clone()).or_default();
            let policy = match shared.get(&picked) {
                Some(policy) => policy.clone(),
                None => {
                    let rules = |namespace| self.rules.get(namespace).unwrap_or(&self.none);
                    let own = if object.namespace == *root { &self.none } else { rules(&object.namespace) };
                    let policy = Arc::new(effective(rules(root), own, &picked));
                    shared.insert(picked, policy.clone());
                    policy
                }
            };
            draft.selected.insert(workload.uid.clone(), policy);
        }
        *draft.policy_for(workload) != before
    }
}

/// Documents that guard access, could not be read, and have no version in force.
fn unknown(catalog: &Catalog) -> impl Iterator<Item = &Arc<Rejected>> {
    let guards = |it: &&Arc<Rejected>| it.guards_access && !it.last_good;
    catalog.rejected().filter(guards).filter(|it| !it.subject.key().is_some_and(|key| catalog.holds(&key)))
}

/// Of those, what is or may be a RequestAuthentication.
pub(crate) fn unknown_authentications(catalog: &Catalog) -> Arc<[UnknownAuthentication]> {
    let may_be = |it: &&Arc<Rejected>| it.subject.kind.is_none_or(|kind| kind == Kind::RequestAuthentication);
    let named = |it: &Arc<Rejected>| {
        let name = it.subject.key().map_or_else(|| it.origin.to_string(), |key| key.object.to_string());
        UnknownAuthentication { namespace: it.subject.namespace.clone(), name: name.into() }
    };
    unknown(catalog).filter(may_be).map(named).collect()
}

/// Documents that may make a promise about services, as those of a kind do, and of which no version is in force.
pub(crate) fn unread(catalog: &Catalog, of: Kind, promise: fn(&Rejected) -> &MayMean) -> Arc<[Unread]> {
    // What is kept of a file is held; of another kind it is another object.
    let in_force = |it: &Rejected| {
        let key = it.subject.key().filter(|key| key.kind == of);
        key.is_some_and(|key| it.last_good || catalog.holds(&key))
    };
    let unread = catalog.rejected().filter(|it| *promise(it) != MayMean::Nothing && !in_force(it));
    let named = |it: &Arc<Rejected>| {
        let name = it.subject.key().map_or_else(|| it.origin.to_string(), |key| key.object.to_string());
        Unread { namespace: it.subject.namespace.clone(), name: name.into(), may_mean: promise(it).clone() }
    };
    unread.map(named).collect()
}

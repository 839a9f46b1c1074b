//! Which policies are in force for what, kept up to date from one snapshot to the next.
//!
//! A change costs work in proportion to the policies of the namespace it is in; compiled policies are kept. What was
//! called is found by name alone, so that services that come and go change nothing here.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::config::ObjectName;
use common::config::security::{PolicyAction, TargetRef};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;
use common::snapshot::policies::PolicyEntry;
use imbl::OrdMap;

use super::{Effective, Policy, PolicySet, compile};
use crate::pod_call;

/// The policies of one waypoint.
#[derive(Debug, Clone)]
pub struct Policies {
    gateway: ObjectName,
    class: Option<Arc<str>>,
    /// One of them has somebody asked.
    has_custom: bool,
    /// Those that are attached to anything, compiled.
    attached: OrdMap<ObjectName, Attached>,
    /// Those attached to the waypoint itself, or to its class.
    own: Arc<PolicySet>,
    services: OrdMap<ObjectName, Arc<PolicySet>>,
    entries: OrdMap<ObjectName, Arc<PolicySet>>,
}

#[derive(Debug, Clone)]
struct Attached {
    targets: Box<[TargetRef]>,
    policy: Arc<Policy>,
}

/// What a policy is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Entry,
    Gateway,
    Class,
}

impl Kind {
    fn of(target: &TargetRef) -> Option<Self> {
        Some(match &*target.kind {
            "Service" => Self::Service,
            "ServiceEntry" => Self::Entry,
            "Gateway" => Self::Gateway,
            "GatewayClass" => Self::Class,
            _ => return None,
        })
    }
}

impl Policies {
    /// None, of the waypoint that stands for `gateway`.
    pub fn none(gateway: ObjectName) -> Self {
        Self {
            gateway,
            class: None,
            has_custom: false,
            attached: OrdMap::new(),
            own: Arc::default(),
            services: OrdMap::new(),
            entries: OrdMap::new(),
        }
    }

    /// Takes over what differs between two snapshots, of which `old` is the one these are of; true when anything did that
    /// may change a verdict.
    pub fn update(&mut self, old: &Snapshot, new: &Snapshot) -> bool {
        let mut touched = BTreeSet::new();
        for change in new.policies_since(old) {
            let attached = change.now.filter(|it| !it.stated.targets.is_empty()).map(Attached::new);
            let before = match attached {
                Some(now) => {
                    touched.insert(change.object.namespace.clone());
                    self.attached.insert(change.object.clone(), now)
                }
                None => self.attached.remove(change.object),
            };
            if before.is_some() {
                touched.insert(change.object.namespace.clone());
            }
        }
        for namespace in &touched {
            self.regroup(namespace);
        }
        if !touched.is_empty() {
            self.has_custom = self.attached.values().any(|it| it.policy.action() == PolicyAction::Custom);
        }
        let class = new.waypoint_class(&self.gateway).cloned();
        let root = new.root_namespace();
        let is_ours = |it: &Arc<str>| it == root || *it == self.gateway.namespace;
        let is_of_other_class = class != self.class;
        if is_of_other_class || touched.iter().any(is_ours) {
            self.class = class;
            self.own = Arc::new(self.own_of(root));
        }
        is_of_other_class || !touched.is_empty() || old.unknown_policies() != new.unknown_policies()
    }

    /// Whether nothing is ever refused.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.services.is_empty() && self.entries.is_empty()
    }

    /// Whether anybody has to be asked about any request.
    pub fn has_custom(&self) -> bool {
        self.has_custom
    }

    /// Those that are in force for calls to a service.
    pub fn of_service<'p>(&'p self, mesh: &'p Snapshot, service: &Service) -> Effective<'p> {
        Effective {
            unknown: self.unknown(mesh, &service.namespace),
            sets: [Some(&self.own), self.attached_to(service)],
        }
    }

    /// Those that are in force for calls to a pod by its own address, whichever service it serves.
    pub fn of_pod<'p>(&'p self, mesh: &'p Snapshot, namespace: &str) -> Effective<'p> {
        Effective { unknown: self.unknown(mesh, namespace), sets: [Some(&self.own), None] }
    }

    /// The Services and the ServiceEntries, of one namespace, to which any are attached.
    pub fn named_in<'p>(
        &'p self,
        namespace: &Arc<str>,
    ) -> (impl Iterator<Item = &'p ObjectName> + use<'p>, impl Iterator<Item = &'p ObjectName> + use<'p>)
    {
        (pod_call::of_namespace(&self.services, namespace), pod_call::of_namespace(&self.entries, namespace))
    }

    /// Everything attached to a service.
    pub fn attached_to(&self, service: &Service) -> Option<&PolicySet> {
        let (all, name) = match &service.external {
            Some(external) => (&self.entries, &external.entry),
            None => (&self.services, &service.name),
        };
        if all.is_empty() {
            return None;
        }
        let name = ObjectName { namespace: service.namespace.clone(), name: name.clone() };
        all.get(&name).map(AsRef::as_ref)
    }

    /// What cannot be read may have been meant for the waypoint, in its namespace, or for what was called, in that one's.
    fn unknown<'p>(&self, mesh: &'p Snapshot, namespace: &str) -> Option<&'p Arc<str>> {
        if mesh.unknown_policies().is_empty() {
            return None;
        }
        let of = |namespace| mesh.unknown_policies_of(namespace).first();
        of(namespace).or_else(|| of(&self.gateway.namespace))
    }

    /// Every policy of a namespace that is attached, by name.
    fn attached_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Attached> + use<'_> {
        let first = ObjectName { namespace: namespace.clone(), name: "".into() };
        let namespace = namespace.clone();
        self.attached.range(first..).take_while(move |(it, _)| it.namespace == namespace).map(|(_, it)| it)
    }

    fn regroup(&mut self, namespace: &Arc<str>) {
        for kind in [Kind::Service, Kind::Entry] {
            let named = |attached: &Attached| attached.names(kind).cloned().collect::<Vec<_>>();
            let names: BTreeSet<Arc<str>> = self.attached_in(namespace).flat_map(named).collect();
            let sets: Vec<_> =
                names.into_iter().map(|name| (self.set_of(namespace, kind, &name), name)).collect();
            let all = if kind == Kind::Service { &mut self.services } else { &mut self.entries };
            let first = ObjectName { namespace: namespace.clone(), name: "".into() };
            let before = all.range(first..).take_while(|(it, _)| it.namespace == *namespace);
            let before: Vec<ObjectName> = before.map(|(it, _)| it.clone()).collect();
            before.iter().for_each(|it| drop(all.remove(it)));
            for (set, name) in sets {
                all.insert(ObjectName { namespace: namespace.clone(), name }, Arc::new(set));
            }
        }
    }

    fn set_of(&self, namespace: &Arc<str>, kind: Kind, name: &str) -> PolicySet {
        let named = |it: &&Attached| it.names(kind).any(|it| **it == *name);
        let all: Vec<_> = self.attached_in(namespace).filter(named).map(|it| it.policy.clone()).collect();
        PolicySet::new(&all)
    }

    /// Those attached to the Gateway, in its namespace, and to its class, in the root namespace.
    fn own_of(&self, root: &Arc<str>) -> PolicySet {
        let ours = &self.gateway.namespace;
        let binds = |namespace: &Arc<str>, it: &Attached| {
            namespace == ours && it.names(Kind::Gateway).any(|it| *it == self.gateway.name)
                || namespace == root && it.names(Kind::Class).any(|it| Some(it) == self.class.as_ref())
        };
        let namespaces = BTreeSet::from([root, ours]);
        let all = namespaces.into_iter().flat_map(|namespace| {
            self.attached_in(namespace).filter(move |it| binds(namespace, it)).map(|it| it.policy.clone())
        });
        PolicySet::new(&all.collect::<Vec<_>>())
    }
}

impl Attached {
    fn new(entry: &Arc<PolicyEntry>) -> Self {
        Self { targets: entry.stated.targets.clone(), policy: Arc::new(compile::policy(&entry.stated)) }
    }

    /// The names of its targets of this kind.
    fn names(&self, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        self.targets.iter().filter(move |it| Kind::of(it) == Some(kind)).map(|it| &it.name)
    }
}

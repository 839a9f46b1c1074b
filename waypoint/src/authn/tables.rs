//! Which rules bind what is called through this waypoint: from the mesh to [`Rules`], kept in step with it.
//!
//! A RequestAuthentication binds a waypoint by `targetRefs` alone, as in Istio: its Gateway, every waypoint's class where it
//! is in the root namespace, a Service or a ServiceEntry. One that cannot be read binds whatever it may have been meant for:
//! there no request is let through.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use common::config::security::TargetRef;
use common::config::waypoint::Waypoint;
use common::config::{ObjectName, RequestAuthentication};
use common::snapshot::model::Service;
use common::snapshot::{Snapshot, UnknownAuthentication};
use imbl::OrdMap;
use serde_json::{Value, json};

use super::remote::Keyring;
use super::rules::{Rule, Rules};
use crate::destination::Destination;
use crate::pod_call::{self, PodCall};

/// Rules of everything behind one waypoint.
#[derive(Debug)]
pub struct Tables {
    gateway: ObjectName,
    /// What is in force, with what it was made of.
    compiled: BTreeMap<ObjectName, Compiled>,
    /// For what no target names.
    everywhere: Arc<Rules>,
    /// For the Services that some do: the rules of their waypoint, and their own.
    services: OrdMap<ObjectName, Arc<Rules>>,
    /// The same for ServiceEntries.
    entries: OrdMap<ObjectName, Arc<Rules>>,
    unknown: Unknown,
}

#[derive(Debug, Clone)]
struct Compiled {
    stated: Arc<RequestAuthentication>,
    rules: Box<[Arc<Rule>]>,
}

/// A Service, or the ServiceEntry of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    object: ObjectName,
    is_entry: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Unknown {
    /// Everything is concerned.
    all: bool,
    /// The services of these are.
    namespaces: Box<[Arc<str>]>,
}

/// What binds something.
#[derive(Debug, Clone)]
pub enum Bound<'t> {
    /// These rules; there may be none.
    Rules(Cow<'t, Arc<Rules>>),
    /// It cannot be known.
    Unknown,
}

impl Tables {
    /// No rules, of a waypoint that stands for a Gateway.
    pub fn new(gateway: ObjectName) -> Self {
        Self {
            gateway,
            compiled: BTreeMap::new(),
            everywhere: Arc::default(),
            services: OrdMap::new(),
            entries: OrdMap::new(),
            unknown: Unknown::default(),
        }
    }

    /// The rules of another mesh. What is stated as it was stays the same value.
    #[must_use]
    pub fn update(self: &Arc<Self>, mesh: &Snapshot, keyring: &dyn Keyring) -> Arc<Self> {
        let unknown = self.unknown(mesh);
        let concerned: Vec<_> = mesh.request_authentications().filter(|it| self.concerns(it, mesh)).collect();
        let known = self.compiled.values().map(|it| &it.stated);
        if unknown == self.unknown && concerned.iter().copied().eq(known) {
            return self.clone();
        }
        let compiled: BTreeMap<ObjectName, Compiled> = concerned
            .into_iter()
            .map(|stated| {
                let before = self.compiled.get(&stated.object).filter(|it| it.stated == *stated);
                let compiled = before.cloned().unwrap_or_else(|| Compiled {
                    stated: stated.clone(),
                    rules: stated.rules.iter().map(|it| Arc::new(Rule::new(it, keyring))).collect(),
                });
                (stated.object.clone(), compiled)
            })
            .collect();
        // In the order of their names, by position: what a target is bound by is put together without asking all of them.
        let all: Vec<&Compiled> = compiled.values().collect();
        let rules = |of: &BTreeSet<usize>| {
            let all = of.iter().filter_map(|at| all.get(*at)).flat_map(|it| it.rules.iter().cloned());
            Arc::new(Rules::new(all.collect()))
        };
        let is_wide = |at: &usize| all.get(*at).is_some_and(|it| self.is_wide(&it.stated, mesh));
        let wide: BTreeSet<usize> = (0..all.len()).filter(is_wide).collect();
        let mut bound: BTreeMap<Target, BTreeSet<usize>> = BTreeMap::new();
        for (at, it) in all.iter().enumerate() {
            for target in targets_of(&it.stated) {
                bound.entry(target).or_insert_with(|| wide.clone()).insert(at);
            }
        }
        let (mut services, mut entries) = (OrdMap::new(), OrdMap::new());
        for (Target { object, is_entry }, of) in bound {
            if is_entry { &mut entries } else { &mut services }.insert(object, rules(&of));
        }
        let everywhere = rules(&wide);
        Arc::new(Self { gateway: self.gateway.clone(), compiled, everywhere, services, entries, unknown })
    }

    /// What binds what was called, at the address `original`. A pod that is called by its own address is bound by what
    /// the rules of all services that it may have been called for have in common.
    pub fn of(&self, mesh: &Snapshot, destination: &Destination, original: SocketAddr) -> Bound<'_> {
        let namespace = match destination {
            Destination::Service { service, .. } => &service.namespace,
            Destination::Workload { workload, .. } => workload.namespace(),
        };
        if self.unknown.all || self.unknown.namespaces.contains(namespace) {
            return Bound::Unknown;
        }
        if self.services.is_empty() && self.entries.is_empty() {
            return Bound::Rules(Cow::Borrowed(&self.everywhere));
        }
        Bound::Rules(match destination {
            Destination::Service { service, .. } => Cow::Borrowed(self.of_service(service)),
            Destination::Workload { workload, port } => {
                self.of_pod(PodCall { mesh, gateway: &self.gateway, workload, original, port: *port })
            }
        })
    }

    fn of_service(&self, service: &Service) -> &Arc<Rules> {
        let (all, name) = match &service.external {
            Some(external) => (&self.entries, &external.entry),
            None => (&self.services, &service.name),
        };
        let object = ObjectName { namespace: service.namespace.clone(), name: name.clone() };
        all.get(&object).unwrap_or(&self.everywhere)
    }

    fn of_pod(&self, pod: PodCall<'_>) -> Cow<'_, Arc<Rules>> {
        let of_namespace = |all| pod_call::of_namespace(all, pod.namespace());
        let meant = pod.among(of_namespace(&self.services), of_namespace(&self.entries));
        let mut bound: Vec<&Arc<Rules>> = Vec::new();
        for rules in meant.map(|(service, _)| self.of_service(service)) {
            if !bound.iter().any(|it| Arc::ptr_eq(it, rules)) {
                bound.push(rules);
            }
        }
        match &*bound {
            [] => Cow::Borrowed(&self.everywhere),
            [rules] => Cow::Borrowed(rules),
            several => {
                Cow::Owned(Arc::new(Rules::common(&several.iter().map(|it| &***it).collect::<Vec<_>>())))
            }
        }
    }

    /// The RequestAuthentication that states a rule, and the rule's position in it.
    pub(crate) fn stating(&self, rule: &Arc<Rule>) -> Option<(&ObjectName, usize)> {
        self.compiled.iter().find_map(|(object, it)| {
            let at = it.rules.iter().position(|it| Arc::ptr_eq(it, rule))?;
            Some((object, at))
        })
    }

    /// What is in force, for operators.
    pub fn dump(&self) -> Value {
        let rules = |it: &Compiled| -> Vec<Value> { it.rules.iter().map(|it| it.dump()).collect() };
        let all = self.compiled.values();
        let all: Vec<_> =
            all.map(|it| json!({ "name": it.stated.object.to_string(), "rules": rules(it) })).collect();
        let unknown: Vec<&str> = self.unknown.namespaces.iter().map(|it| &**it).collect();
        json!({ "inForce": all, "refusedEverywhere": self.unknown.all, "refusedIn": unknown })
    }

    fn concerns(&self, stated: &RequestAuthentication, mesh: &Snapshot) -> bool {
        self.is_wide(stated, mesh) || targets_of(stated).next().is_some()
    }

    /// Whether it binds everything behind this waypoint.
    fn is_wide(&self, stated: &RequestAuthentication, mesh: &Snapshot) -> bool {
        let own = *stated.object.namespace == *self.gateway.namespace;
        let root = *stated.object.namespace == **mesh.root_namespace();
        stated.targets.iter().any(|it| match &*it.kind {
            "Gateway" => own && *it.name == *self.gateway.name,
            "GatewayClass" => root && Waypoint::is_class(&it.name),
            _ => false,
        })
    }

    fn unknown(&self, mesh: &Snapshot) -> Unknown {
        let stated = mesh.unknown_authentications();
        let wide = |it: &UnknownAuthentication| {
            let wide = [mesh.root_namespace(), &self.gateway.namespace];
            it.namespace.as_ref().is_none_or(|namespace| wide.contains(&namespace))
        };
        let namespaces = stated.iter().filter_map(|it| it.namespace.clone()).collect();
        Unknown { all: stated.iter().any(wide), namespaces }
    }
}

/// The services that it names, of its own namespace.
fn targets_of(stated: &RequestAuthentication) -> impl Iterator<Item = Target> {
    stated.targets.iter().filter_map(|TargetRef { kind, name, .. }| {
        let is_entry = match &**kind {
            "Service" => false,
            "ServiceEntry" => true,
            _ => return None,
        };
        let object = ObjectName { namespace: stated.object.namespace.clone(), name: name.clone() };
        Some(Target { object, is_entry })
    })
}

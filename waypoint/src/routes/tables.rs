//! The routes of every service that a waypoint stands for, kept up to date from one snapshot to the next.
//!
//! A change costs work in proportion to the services it concerns: who refers to what is remembered, and tables that
//! nothing concerns are shared with those before. Services to which no VirtualService applies and no route attaches have no
//! table.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::config::routing::{HttpAction, VirtualService};
use common::config::{Key, ObjectName};
use common::snapshot::model::Service;
use common::snapshot::{Snapshot, name_below};
use imbl::{OrdMap, OrdSet};

use super::asking::Asking;
use super::attached::attaching;
use super::attachments::Attachments;
use super::hosts;
use super::table::{Compiled, Part, ServiceRoutes, View, applying, compile_from};

/// The routes of all services of a waypoint.
#[derive(Debug, Clone)]
pub struct Tables {
    view: Arc<View>,
    services: OrdMap<ObjectName, Arc<ServiceRoutes>>,
    asking: Asking,
    references: References,
    attachments: Attachments,
}

impl Tables {
    /// Compiles a snapshot from nothing.
    pub fn new(view: View, mesh: &Snapshot) -> Self {
        let nothing = Self {
            view: Arc::new(view),
            services: OrdMap::new(),
            asking: Asking::default(),
            references: References::default(),
            attachments: Attachments::default(),
        };
        nothing.update(&Snapshot::default(), mesh)
    }

    /// The DNS domain below which services are named.
    pub fn cluster_domain(&self) -> &str {
        &self.view.cluster_domain
    }

    /// The routes of a service; `None` when no VirtualService applies to it and no route attaches, or another waypoint stands for it: its
    /// requests go to the service itself.
    pub fn of(&self, service: &ObjectName) -> Option<&Arc<ServiceRoutes>> {
        self.services.get(service)
    }

    /// The services with a route that has somebody asked (`ExternalAuth`), by the pods they lead to.
    pub(crate) fn asking(&self) -> &Asking {
        &self.asking
    }

    /// Every table, by service.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServiceRoutes>> {
        self.services.values()
    }

    /// The tables for a later snapshot; `old` is the one that these are of.
    #[must_use]
    pub fn update(&self, old: &Snapshot, new: &Snapshot) -> Self {
        let mut tables = self.clone();
        let concerns = tables.follow(old, new);
        let mut compiled = Compiled::default();
        for object in concerns.changed.iter().chain(&concerns.named) {
            let service = new.service(&object.namespace, &object.name);
            let ours = service.filter(|it| it.waypoint.as_ref() == Some(&tables.view.waypoint));
            let applied = ours.map(|it| tables.applying(it, new)).unwrap_or_default();
            let attached =
                ours.map(|it| attaching(&tables.view, new, it, tables.attachments.candidates(it, new)));
            let attached = attached.unwrap_or_default();
            let Some(service) = ours.filter(|_| !applied.is_empty() || !attached.is_empty()) else {
                tables.services.remove(object);
                tables.asking.remove(object);
                continue;
            };
            let known = tables.services.get(object);
            let alike = known.is_some_and(|known| {
                same(known.applied.iter(), applied.iter().copied())
                    && same(known.attached.iter(), attached.iter().map(|it| &it.route))
            });
            let stale = applied.iter().any(|it| concerns.stale.contains(&it.object))
                || attached.iter().any(|it| concerns.stale_routes.contains(&it.key()));
            if !alike || stale || concerns.changed.contains(object) {
                let told = known.map(|it| it.problems.clone()).unwrap_or_default();
                let routes = compile_from(new, &tables.view, service, (applied, attached), &mut compiled);
                for problem in routes.problems.iter().filter(|it| !told.contains(it)) {
                    tracing::warn!(service = %object, "{problem}");
                }
                match routes.asks() {
                    true => tables.asking.file(object, new.endpoints(service)),
                    false => tables.asking.remove(object),
                }
                tables.services.insert(object.clone(), Arc::new(routes));
            }
        }
        tables.asking.follow(old, new);
        tables
    }

    /// The VirtualServices that apply to a service.
    fn applying<'m>(&self, service: &Service, mesh: &'m Snapshot) -> Vec<&'m Arc<VirtualService>> {
        let candidates: BTreeSet<&ObjectName> = self.references.naming(&service.hostname).collect();
        let stated = candidates.into_iter().filter_map(|it| mesh.virtual_service(it));
        applying(&self.view, service, stated)
    }

    /// Brings the references up to date. Returns what is concerned.
    fn follow(&mut self, old: &Snapshot, new: &Snapshot) -> Concerns {
        let (mut stale, mut changed, mut moved) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for change in new.virtual_services_since(old) {
            stale.insert(change.object.clone());
            stale.extend(self.references.delegating.of(change.object).cloned());
        }
        for change in new.services_since(old) {
            changed.insert(change.object.clone());
            // Destinations know of a service whether it is there, and its only port.
            let known = |it: Option<&Arc<Service>>| {
                it.map(|it| it.ports.iter().map(|it| it.port).collect::<Vec<u16>>())
            };
            if known(change.before) != known(change.now) {
                stale.extend(self.references.leading.of(&hosts::led_to_by(change.object)).cloned());
                moved.insert(change.object.clone());
            }
        }
        let mut named = BTreeSet::new();
        for object in &stale {
            named.extend(self.references.remove(object));
            let stated = new.virtual_service(object).filter(|it| may_apply(it, &self.view));
            if let Some(stated) = stated {
                named.extend(self.references.add(stated, new, &self.view));
            }
        }
        let by_name = named.iter().filter_map(|it| name_below(it, &self.view.cluster_domain));
        let mut services: BTreeSet<ObjectName> = by_name.collect();
        let external = named.iter().flat_map(|it| new.external_named(it));
        services.extend(external.map(|it| ObjectName::new(it.namespace.clone(), it.name.clone())));
        let ends: BTreeSet<&str> = named.iter().filter_map(|it| hosts::wildcard(it)).collect();
        if !ends.is_empty() {
            let by_pattern =
                new.services().filter(|it| hosts::ends(&it.hostname).any(|end| ends.contains(end)));
            services.extend(by_pattern.map(|it| ObjectName::new(it.namespace.clone(), it.name.clone())));
        }
        let stirred = self.attachments.follow(old, new, &moved, &self.view);
        services.extend(stirred.services);
        let named = services.difference(&changed).cloned().collect();
        Concerns { named, changed, stale, stale_routes: stirred.stale }
    }
}

/// What a change is about.
struct Concerns {
    /// Services that changed themselves.
    changed: BTreeSet<ObjectName>,
    /// Services that some stale VirtualService names, closely enough to decide or not.
    named: BTreeSet<ObjectName>,
    /// VirtualServices that changed, or what they lead or delegate to did.
    stale: BTreeSet<ObjectName>,
    /// The same of routes of the Gateway API.
    stale_routes: BTreeSet<Key>,
}

/// Whether two lists are of the same allocations.
fn same<'a, T: 'a>(
    mut known: impl Iterator<Item = &'a Arc<T>>,
    mut now: impl Iterator<Item = &'a Arc<T>>,
) -> bool {
    loop {
        match (known.next(), now.next()) {
            (None, None) => return true,
            (Some(known), Some(now)) if Arc::ptr_eq(known, now) => {}
            _ => return false,
        }
    }
}

/// Whether a VirtualService may apply to any service here.
fn may_apply(stated: &VirtualService, view: &View) -> bool {
    stated.gateways.mesh && !stated.hosts.is_empty() && stated.visibility.reaches(&view.waypoint.namespace)
}

/// A many-to-many relation that shares structure with its copies.
#[derive(Debug, Clone)]
pub(super) struct Relation<K: Ord + Clone, V: Ord + Clone = ObjectName>(OrdMap<K, OrdSet<V>>);

impl<K: Ord + Clone, V: Ord + Clone> Default for Relation<K, V> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Relation<K, V> {
    pub(super) fn of<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &V> + use<'_, K, V, Q>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn add(&mut self, key: &K, value: &V) {
        self.0.entry(key.clone()).or_default().insert(value.clone());
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

/// Which VirtualServices refer to what.
#[derive(Debug, Clone, Default)]
struct References {
    /// Full name, or pattern, to those that have it as a host.
    naming: Relation<Arc<str>>,
    /// Delegate to those that delegate to it.
    delegating: Relation<ObjectName>,
    /// Service to those that lead to it.
    leading: Relation<ObjectName>,
    /// All of these by VirtualService, to take them out again.
    filed: OrdMap<ObjectName, Arc<Filed>>,
}

/// What one VirtualService refers to.
#[derive(Debug)]
struct Filed {
    hosts: BTreeSet<Arc<str>>,
    delegates: BTreeSet<ObjectName>,
    leads_to: BTreeSet<ObjectName>,
}

impl References {
    /// Those that name a service by its name or by a pattern.
    fn naming<'r>(&'r self, hostname: &'r str) -> impl Iterator<Item = &'r ObjectName> {
        let patterns = hosts::ends(hostname).flat_map(|end| self.naming.of(&*format!("*{end}")));
        self.naming.of(hostname).chain(patterns)
    }

    /// Files one and returns the names and patterns of its hosts.
    fn add(&mut self, stated: &Arc<VirtualService>, mesh: &Snapshot, view: &View) -> Vec<Arc<str>> {
        let object = &stated.object;
        let full = |host| hosts::full_name(host, &object.namespace, &view.cluster_domain);
        let delegates = stated.http.iter().filter_map(|it| match &it.action {
            HttpAction::Delegate(delegate) => Some(delegate.clone()),
            _ => None,
        });
        let filed = Filed {
            hosts: stated.hosts.iter().map(|it| Arc::from(&*full(it))).collect(),
            delegates: delegates.collect(),
            leads_to: Part::new(stated, mesh, view).leads_to(&view.cluster_domain),
        };
        filed.hosts.iter().for_each(|it| self.naming.add(it, object));
        filed.delegates.iter().for_each(|it| self.delegating.add(it, object));
        filed.leads_to.iter().for_each(|it| self.leading.add(it, object));
        let names = filed.hosts.iter().cloned().collect();
        self.filed.insert(object.clone(), Arc::new(filed));
        names
    }

    /// Takes one out, if it is filed, and returns the names and patterns of its hosts.
    fn remove(&mut self, object: &ObjectName) -> Vec<Arc<str>> {
        let Some(filed) = self.filed.remove(object) else { return Vec::new() };
        filed.hosts.iter().for_each(|it| self.naming.remove(it, object));
        filed.delegates.iter().for_each(|it| self.delegating.remove(it, object));
        filed.leads_to.iter().for_each(|it| self.leading.remove(it, object));
        filed.hosts.iter().cloned().collect()
    }
}

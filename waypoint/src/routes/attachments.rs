//! Which routes of the Gateway API are about which services, kept up to date from one snapshot to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::config::gateway::{Backend, GatewayRoute, Parent, ParentKind};
use common::config::routing::{Destination, HttpAction};
use common::config::{Key, ObjectName};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;
use imbl::{OrdMap, OrdSet};

use super::attached::is_gateway;
use super::hosts;
use super::table::View;
use super::tables::Relation;

/// What a route names as a parent: a Service or a ServiceEntry, the latter by `true`.
type Named = (bool, ObjectName);

/// What refers to what, among routes of the Gateway API.
#[derive(Debug, Clone, Default)]
pub(super) struct Attachments {
    /// Parent to the routes that attach to it.
    parents: Relation<Named, Key>,
    /// Those that attach to this waypoint's Gateway, whether they may or not.
    of_gateway: OrdSet<Key>,
    /// Service to the routes that lead to it.
    leading: Relation<ObjectName, Key>,
    /// Namespace to the routes of others that lead to services of it.
    crossing: Relation<Arc<str>, Key>,
    /// Filter to the routes that name it.
    filters: Relation<ObjectName, Key>,
    filed: OrdMap<Key, Arc<Filed>>,
}

/// What one route refers to.
#[derive(Debug, Default)]
struct Filed {
    parents: BTreeSet<Named>,
    is_of_gateway: bool,
    leads_to: BTreeSet<ObjectName>,
    crosses_to: BTreeSet<Arc<str>>,
    filters: BTreeSet<ObjectName>,
}

/// What a change is about.
#[derive(Default)]
pub(super) struct Stirred {
    /// Routes that changed, or what they refer to did.
    pub(super) stale: BTreeSet<Key>,
    /// Services that stale routes attach to, or did.
    pub(super) services: BTreeSet<ObjectName>,
}

impl Attachments {
    /// The routes that may attach to a service.
    pub(super) fn candidates<'m>(
        &self,
        service: &Service,
        mesh: &'m Snapshot,
    ) -> impl Iterator<Item = &'m Arc<GatewayRoute>> {
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        let named = match &service.external {
            None => (false, ObjectName { namespace, name }),
            Some(external) => (true, ObjectName { namespace, name: external.entry.clone() }),
        };
        let keys: BTreeSet<&Key> = self.parents.of(&named).chain(&self.of_gateway).collect();
        keys.into_iter().filter_map(|it| mesh.route(it)).collect::<Vec<_>>().into_iter()
    }

    /// Follows from one snapshot to another. `moved` are services that came or went, or whose ports are others.
    pub(super) fn follow(
        &mut self,
        old: &Snapshot,
        new: &Snapshot,
        moved: &BTreeSet<ObjectName>,
        view: &View,
    ) -> Stirred {
        let mut stale: BTreeSet<Key> = new.routes_since(old).map(|it| it.object.clone()).collect();
        for change in new.grants_since(old) {
            stale.extend(self.crossing.of(&change.object.namespace).cloned());
        }
        for change in new.fault_filters_since(old) {
            stale.extend(self.filters.of(change.object).cloned());
        }
        for service in moved {
            stale.extend(self.leading.of(&hosts::led_to_by(service)).cloned());
        }
        let may = |mesh: &Snapshot, key: &Key| mesh.may_use_waypoint(&key.object.namespace, &view.waypoint);
        stale.extend(self.of_gateway.iter().filter(|key| may(old, key) != may(new, key)).cloned());
        let mut named = BTreeSet::new();
        let mut is_of_gateway = false;
        for key in &stale {
            let before = self.remove(key);
            let now = new.route(key).map(|it| self.add(key, it, view));
            for filed in before.iter().chain(&now) {
                named.extend(filed.parents.iter().cloned());
                is_of_gateway |= filed.is_of_gateway;
            }
        }
        let services =
            if stale.is_empty() { BTreeSet::new() } else { services(&named, is_of_gateway, new, view) };
        Stirred { stale, services }
    }

    fn add(&mut self, key: &Key, stated: &GatewayRoute, view: &View) -> Arc<Filed> {
        let filed = Arc::new(Filed::new(stated, view));
        filed.parents.iter().for_each(|it| self.parents.add(it, key));
        filed.leads_to.iter().for_each(|it| self.leading.add(it, key));
        filed.crosses_to.iter().for_each(|it| self.crossing.add(it, key));
        filed.filters.iter().for_each(|it| self.filters.add(it, key));
        if filed.is_of_gateway {
            self.of_gateway.insert(key.clone());
        }
        self.filed.insert(key.clone(), filed.clone());
        filed
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Filed>> {
        let filed = self.filed.remove(key)?;
        filed.parents.iter().for_each(|it| self.parents.remove(it, key));
        filed.leads_to.iter().for_each(|it| self.leading.remove(it, key));
        filed.crosses_to.iter().for_each(|it| self.crossing.remove(it, key));
        filed.filters.iter().for_each(|it| self.filters.remove(it, key));
        self.of_gateway.remove(key);
        Some(filed)
    }
}

/// The services that parents stand for; with those behind the Gateway, where some route attaches to that.
fn services(
    named: &BTreeSet<Named>,
    with_gateway: bool,
    mesh: &Snapshot,
    view: &View,
) -> BTreeSet<ObjectName> {
    let object = |it: &Arc<Service>| ObjectName::new(it.namespace.clone(), it.name.clone());
    let mut found: BTreeSet<ObjectName> =
        named.iter().filter(|(is_entry, _)| !is_entry).map(|(_, object)| object.clone()).collect();
    if with_gateway {
        let ours = mesh.services().filter(|it| it.waypoint.as_ref() == Some(&view.waypoint));
        found.extend(ours.map(object));
    }
    for (_, entry) in named.iter().filter(|(is_entry, _)| *is_entry) {
        let stated = mesh.services().filter(|it| {
            it.namespace == entry.namespace
                && it.external.as_ref().is_some_and(|external| external.entry == entry.name)
        });
        found.extend(stated.map(object));
    }
    found
}

impl Filed {
    fn new(stated: &GatewayRoute, view: &View) -> Self {
        let mut filed = Self::default();
        let named = |it: &Parent| match it.kind {
            ParentKind::Service => Some((false, it.object.clone())),
            ParentKind::Entry => Some((true, it.object.clone())),
            ParentKind::Gateway => None,
        };
        filed.parents = stated.parents.iter().filter_map(named).collect();
        filed.is_of_gateway = stated.parents.iter().any(|it| is_gateway(it, view));
        for rule in &stated.http {
            filed.filters.extend(rule.fault_filter.clone());
            if let HttpAction::Forward(to) = &rule.action {
                for backend in to {
                    filed.lead(&backend.destination, stated, view);
                    backend.mirrors.iter().for_each(|it| filed.lead(&it.destination, stated, view));
                }
            }
            rule.external_auth.iter().for_each(|it| filed.lead(&it.backend, stated, view));
            rule.mirrors.iter().for_each(|it| filed.lead(&it.destination, stated, view));
        }
        let connections = stated.tls.iter().map(|it| &it.route).chain(stated.tcp.iter().map(|it| &it.route));
        for to in connections.flatten() {
            filed.lead(&to.destination, stated, view);
        }
        filed
    }

    fn lead(&mut self, destination: &Destination, stated: &GatewayRoute, view: &View) {
        match &destination.backend {
            Some(Backend::Service(object)) => {
                self.leads_to.insert(object.clone());
                if object.namespace != stated.object.namespace {
                    self.crosses_to.insert(object.namespace.clone());
                }
            }
            Some(Backend::Hostname(host)) => {
                self.leads_to.insert(hosts::led_to(host, &view.cluster_domain));
            }
            Some(Backend::Unknown(_)) | None => {}
        }
    }
}

//! What is looked for. Each part takes what was stated and says what it finds; none knows how it is printed.

mod core;
mod documents;
mod fields;
mod gateway;
mod limits;
mod policies;
mod providers;
mod routing;
mod secured;
mod services;
mod tokens;
mod waypoints;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use common::config::core::{Labels, Namespace, Pod};
use common::config::decode::yaml::tree::Node;
use common::config::destination::DestinationRule;
use common::config::routing::VirtualService;
use common::config::waypoint::Waypoint;
use common::config::{Key, Kind, ObjectName, Origin, Resource, Stated};
use common::explain::Origins as _;
use common::manifests::Manifests;
use common::snapshot::Snapshot;
use common::snapshot::model::Service;

use self::core::Made;
use super::finding::{Code, Finding};
use crate::routes::hosts::full_name;

/// Everything there is to say, by file and line.
pub fn findings(manifests: &Manifests) -> Vec<Finding> {
    let view = View::of(manifests);
    let mut report = Report { manifests, found: Vec::new() };
    documents::check(&view, &mut report);
    core::check(&view, &mut report);
    services::check(&view, &mut report);
    waypoints::check(&view, &mut report);
    routing::check(&view, &mut report);
    gateway::check(&view, &mut report);
    policies::check(&view, &mut report);
    tokens::check(&view, &mut report);
    providers::check(&view, &mut report);
    limits::check(&view, &mut report);
    secured::check(&view, &mut report);
    let mut found = report.found;
    found.sort_by(|a, b| (&a.origin, a.code.id, &a.message).cmp(&(&b.origin, b.code.id, &b.message)));
    found
}

/// What was found so far.
struct Report<'m> {
    manifests: &'m Manifests,
    found: Vec<Finding>,
}

impl Report<'_> {
    /// Something about a field of an object; about all of it where the field is empty.
    fn say(
        &mut self,
        code: &'static Code,
        of: &Stated,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        let (key, field) = (of.resource.key(), field.into());
        let mut origin = of.origin.clone();
        if !field.is_empty()
            && let Some(line) = self.manifests.line_of(&of.origin, &key, &field)
        {
            origin.line = line;
        }
        let object = key.to_string();
        self.found.push(Finding { code, origin, object, field, message: message.into() });
    }

    /// Something about what is no object that could be read.
    fn tell(
        &mut self,
        code: &'static Code,
        origin: &Origin,
        object: impl ToString,
        (field, message): (&str, impl Into<String>),
    ) {
        let (origin, object) = (origin.clone(), object.to_string());
        self.found.push(Finding { code, origin, object, field: field.to_owned(), message: message.into() });
    }
}

/// What was stated, by what checks ask for.
struct View<'m> {
    manifests: &'m Manifests,
    mesh: &'m Snapshot,
    origins: HashMap<Key, &'m Stated>,
    namespaces: HashMap<Arc<str>, Arc<Namespace>>,
    gateways: HashMap<ObjectName, Option<Waypoint>>,
    pods: BTreeMap<Arc<str>, Vec<Arc<Pod>>>,
    made: Made,
    /// By the full name of the host.
    rules: HashMap<Arc<str>, Vec<Arc<DestinationRule>>>,
    /// Full names of hosts in the mesh.
    hosts: BTreeSet<Arc<str>>,
}

impl<'m> View<'m> {
    fn of(manifests: &'m Manifests) -> Self {
        let mut view = Self {
            manifests,
            mesh: &manifests.mesh,
            origins: HashMap::new(),
            namespaces: HashMap::new(),
            gateways: HashMap::new(),
            pods: BTreeMap::new(),
            made: core::made(manifests),
            rules: HashMap::new(),
            hosts: manifests.mesh.services().map(|it| it.hostname.clone()).collect(),
        };
        for stated in &manifests.stated {
            view.origins.insert(stated.resource.key(), stated);
            match &stated.resource {
                Resource::Namespace(it) => drop(view.namespaces.insert(it.name.clone(), it.clone())),
                Resource::Gateway(it) => {
                    // Its controller makes pods for it.
                    if it.waypoint.is_none() {
                        view.made.unclear.insert(it.object.namespace.clone());
                    }
                    view.gateways.insert(it.object.clone(), it.waypoint.clone());
                }
                Resource::Pod(it) => {
                    view.pods.entry(it.object.namespace.clone()).or_default().push(it.clone());
                }
                Resource::DestinationRule(it) => {
                    let host = view.full(&it.host, &it.object.namespace);
                    view.rules.entry(host).or_default().push(it.clone());
                }
                _ => {}
            }
        }
        view
    }

    /// A host as an object of `namespace` means it.
    fn full(&self, host: &str, namespace: &str) -> Arc<str> {
        full_name(host, namespace, &self.manifests.settings.cluster_domain).into()
    }

    fn service(&self, host: &str, namespace: &str) -> Option<&'m Arc<Service>> {
        self.mesh.service_named(host, namespace, &self.manifests.settings.cluster_domain)
    }

    /// Whether any host of the mesh is meant by a name or pattern.
    fn is_host(&self, pattern: &str) -> bool {
        match pattern.strip_prefix('*') {
            Some(end) => self.hosts.iter().any(|host| host.ends_with(end)),
            None => self.hosts.contains(pattern),
        }
    }

    /// Rules for a host, its own before those of patterns.
    fn rules_for(&self, host: &str) -> impl Iterator<Item = &Arc<DestinationRule>> {
        let fits = |pattern: &str| pattern.strip_prefix('*').is_some_and(|end| host.ends_with(end));
        let patterns = self.rules.iter().filter(move |(pattern, _)| fits(pattern));
        self.rules.get(host).into_iter().chain(patterns.map(|(_, rules)| rules)).flatten()
    }

    fn has_pods(&self, namespace: &str) -> bool {
        self.pods.get(namespace).is_some_and(|pods| !pods.is_empty())
    }

    /// Whether labels pick a pod of the namespace, or of any where it is the root namespace. `None` where nobody can know:
    /// no pod is stated there at all, or what may make others than can be seen.
    fn selects(&self, labels: &Labels, namespace: &str) -> Option<bool> {
        let everywhere = *namespace == *self.manifests.settings.root_namespace;
        let is_of = |own: &str| everywhere || *own == *namespace;
        let pods = self.pods.iter().filter(|(own, _)| is_of(own)).flat_map(|(_, it)| it).map(|it| &it.labels);
        let made = self.made.templates.iter().filter(|(own, _)| is_of(own)).flat_map(|(_, it)| it);
        let mut all = pods.chain(made).peekable();
        all.peek()?;
        let is_unclear = || self.made.unclear.iter().any(|it| is_of(it));
        if all.any(|it| labels.all_in(it)) { Some(true) } else { (!is_unclear()).then_some(false) }
    }

    /// Whether pods are stated anywhere, or what makes some: where none are nobody can know what selects some.
    fn knows_pods(&self) -> bool {
        !self.pods.is_empty() || !self.made.templates.is_empty()
    }

    fn virtual_services(&self) -> impl Iterator<Item = (&'m Stated, &'m Arc<VirtualService>)> {
        self.manifests.stated.iter().filter_map(|stated| match &stated.resource {
            Resource::VirtualService(it) => Some((stated, it)),
            _ => None,
        })
    }

    /// Whether an object writes something at these keys.
    fn is_written(&self, stated: &Stated, keys: &[&str]) -> bool {
        let stating = self.manifests.stating(&stated.origin, Some(&stated.resource.key()));
        stating.is_some_and(|it| it.node().is_some_and(|it| it.at(keys).is_some()))
    }

    /// The item of a list whose key has this value, such as `spec.ports[1]`; the list where none is.
    fn item(&self, stated: &Stated, list: &str, (key, value): (&str, &str)) -> String {
        let stating = self.manifests.stating(&stated.origin, Some(&stated.resource.key()));
        let keys: Vec<&str> = list.split('.').collect();
        let at = stating.as_ref().and_then(|it| {
            let items = it.node()?.at(&keys)?.items();
            items.iter().position(|it| it.get(key).and_then(Node::text) == Some(value))
        });
        at.map_or_else(|| list.to_owned(), |at| format!("{list}[{at}]"))
    }

    /// The services of a ServiceEntry.
    fn of_entry(&self, namespace: &str, name: &str) -> impl Iterator<Item = &'m Arc<Service>> {
        let of = move |it: &&Arc<Service>| {
            *it.namespace == *namespace
                && it.external.as_ref().is_some_and(|external| *external.entry == *name)
        };
        self.mesh.services().filter(of)
    }

    fn is_stated(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.origins.contains_key(&Key { kind, object: ObjectName::new(namespace, name) })
    }
}

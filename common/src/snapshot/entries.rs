//! ServiceEntries into services with endpoints, and what they refer to.
//!
//! Each host of an entry is a service, named by the host: dots keep it apart from Kubernetes' own. Endpoints are workloads
//! that nobody finds by address: what connects from there has proved nothing by being stated here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::catalog::Changes;
use super::compile::{Mesh, Touched};
use super::index::Relation;
use super::model::{
    Endpoint, External, Health, Likeness, LoadBalancing, Locality, Service, ServicePort, TunnelProtocol,
    Workload, WorkloadKind,
};
use super::services::Endpoints;
use crate::config::entry::{EntryEndpoint, EntryPort, Resolution, ServiceEntry, Whereabouts};
use crate::config::waypoint::UseWaypoint;
use crate::config::{Labels, ObjectName, Pod};
use crate::spiffe::Identity;

/// Who refers to what, among entries.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Service to the entries that state it.
    stating: Relation<ObjectName, ObjectName>,
    /// Name to look up to the services whose endpoints it is.
    names: Relation<Arc<str>, ObjectName>,
    /// Address to the services that have it as an endpoint.
    addresses: Relation<IpAddr, ObjectName>,
    /// Namespace to its entries that select.
    selecting: Relation<Arc<str>, ObjectName>,
}

/// The services that an entry states.
fn services(entry: &ServiceEntry) -> impl Iterator<Item = ObjectName> {
    let namespace = &entry.object.namespace;
    entry.hosts.iter().map(|host| ObjectName { namespace: namespace.clone(), name: host.clone() })
}

/// Names that have to be looked up for one of its hosts.
fn names(entry: &ServiceEntry, host: &Arc<str>) -> Vec<Arc<str>> {
    if entry.resolution != Resolution::Dns {
        return Vec::new();
    }
    let stated = entry.endpoints.iter().filter_map(|it| match &it.at {
        Whereabouts::Name(name) => Some(name.clone()),
        Whereabouts::Ip(_) => None,
    });
    if entry.endpoints.is_empty() { vec![host.clone()] } else { stated.collect() }
}

impl References {
    fn file(&mut self, entry: &ServiceEntry, refer: impl Fn(&mut Self, &ObjectName, &ObjectName)) {
        services(entry).for_each(|service| refer(self, &service, &entry.object));
    }

    fn add(&mut self, entry: &ServiceEntry) {
        if !entry.selector.is_empty() {
            self.selecting.add(entry.object.namespace.clone(), entry.object.clone());
        }
        self.file(entry, |it, service, object| {
            it.stating.add(service.clone(), object.clone());
            for name in names(entry, &service.name) {
                it.names.add(name, service.clone());
            }
            for endpoint in &entry.endpoints {
                if let Whereabouts::Ip(address) = endpoint.at {
                    it.addresses.add(address, service.clone());
                }
            }
        });
    }

    /// Takes one out. What it shares with an entry of the same host is stated anew with that.
    fn remove(&mut self, entry: &ServiceEntry) {
        self.selecting.remove(&entry.object.namespace, &entry.object);
        self.file(entry, |it, service, object| {
            it.stating.remove(service, object);
            for name in names(entry, &service.name) {
                it.names.remove(&name, service);
            }
            for endpoint in &entry.endpoints {
                if let Whereabouts::Ip(address) = endpoint.at {
                    it.addresses.remove(&address, service);
                }
            }
        });
    }
}

impl Mesh {
    /// Finds the services of entries that have to be built anew.
    pub(super) fn follow_entries(
        &mut self,
        changes: &Changes,
        touched: &[Touched],
        rebuild: &mut BTreeSet<ObjectName>,
    ) {
        for (object, before) in &changes.service_entries {
            let now = self.catalog.service_entries.get(object).cloned();
            before.iter().for_each(|it| self.entries.remove(it));
            now.iter().for_each(|it| self.entries.add(it));
            let concerned: Vec<ObjectName> = before.iter().chain(&now).flat_map(|it| services(it)).collect();
            // Another entry of one of these hosts may have lost what both referred to.
            let others: BTreeSet<&ObjectName> =
                concerned.iter().flat_map(|it| self.entries.stating.of(it)).collect();
            let others: Vec<_> =
                others.into_iter().filter_map(|it| self.catalog.service_entries.get(it)).collect();
            for other in others {
                self.entries.add(other);
            }
            rebuild.extend(concerned);
        }
        for namespace in changes.namespaces.keys() {
            let theirs = self.catalog.service_entries.of(&namespace.name);
            rebuild.extend(theirs.flat_map(|(_, entry)| services(entry)));
        }
        for (object, before) in &changes.workload_entries {
            let now = self.catalog.workload_entries.get(object);
            let labels = before.iter().chain(now).map(|it| &it.endpoint.labels);
            self.selecting(&object.namespace, labels, rebuild);
        }
        for pod in touched {
            let now = self.catalog.pods.get(&pod.object);
            let labels = pod.pod_before.iter().chain(now).map(|it: &Arc<Pod>| &it.labels);
            self.selecting(&pod.object.namespace, labels, rebuild);
            let workloads = [&pod.before, &pod.now].into_iter().flatten();
            let addresses = workloads.flat_map(|it| it.addresses.iter());
            rebuild.extend(addresses.flat_map(|it| self.entries.addresses.of(it)).cloned());
        }
        for name in &changes.resolved {
            rebuild.extend(self.entries.names.of(name).cloned());
        }
        if !changes.service_entries.is_empty() {
            let wanted = &self.entries.names;
            self.catalog.resolved.retain(|name, _| wanted.has(name));
            self.draft.names = wanted.keys().cloned().collect();
        }
    }

    /// The services of entries that may have a pod among their endpoints: a superset.
    pub(super) fn entries_with(&self, workload: &Workload) -> BTreeSet<ObjectName> {
        let at = workload.addresses.iter().flat_map(|it| self.entries.addresses.of(it));
        let mut found = at.cloned().collect();
        self.selecting(workload.namespace(), std::iter::once(&workload.labels), &mut found);
        found
    }

    /// The services of entries that select any of these.
    fn selecting<'l>(
        &self,
        namespace: &Arc<str>,
        labels: impl Iterator<Item = &'l Labels> + Clone,
        found: &mut BTreeSet<ObjectName>,
    ) {
        let entries = self.entries.selecting.of(namespace);
        for entry in entries.filter_map(|it| self.catalog.service_entries.get(it)) {
            if labels.clone().any(|it| entry.selector.all_in(it)) {
                found.extend(services(entry));
            }
        }
    }

    /// The entry that a service is of: the first by name where several state its host.
    pub(super) fn entry_of(&self, service: &ObjectName) -> Option<Arc<ServiceEntry>> {
        let entry = self.entries.stating.of(service).next()?;
        self.catalog.service_entries.get(entry).cloned()
    }

    /// The service that one of its hosts is, and its endpoints.
    pub(super) fn of_entry(&self, entry: &ServiceEntry, service: &ObjectName) -> (Service, Endpoints) {
        let namespace = self.catalog.namespaces.get(&ObjectName::new("", service.namespace.clone()));
        let inherited = namespace.and_then(|it| UseWaypoint::of(&it.labels, &it.name));
        let ports = entry.ports.iter().map(|it| ServicePort {
            port: it.number,
            name: it.name.clone(),
            app_protocol: it.protocol.clone(),
        });
        let made = Service {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            hostname: service.name.clone(),
            vips: entry.addresses.clone(),
            ports: ports.collect(),
            load_balancing: LoadBalancing::default(),
            waypoint: UseWaypoint::resolve(entry.use_waypoint.as_ref(), inherited),
            external: Some(Arc::new(External {
                entry: entry.object.name.clone(),
                visibility: entry.visibility.clone(),
                subject_alt_names: entry.subject_alt_names.clone(),
                goes_where_called: entry.resolution == Resolution::None,
            })),
        };
        (made, Endpoints::collect(self.endpoints_of(entry, &service.name)))
    }

    fn endpoints_of(&self, entry: &ServiceEntry, host: &Arc<str>) -> Vec<Endpoint> {
        let ports = |endpoint: &EntryEndpoint| -> Arc<[(u16, u16)]> {
            entry.ports.iter().map(|it| (it.number, endpoint.target(it))).collect()
        };
        let plain: Arc<[(u16, u16)]> =
            entry.ports.iter().map(|it: &EntryPort| (it.number, it.target)).collect();
        let mut found = Vec::new();
        for endpoint in &entry.endpoints {
            self.place(&entry.object, endpoint, &ports(endpoint), &mut found);
        }
        if entry.resolution == Resolution::Dns && entry.endpoints.is_empty() {
            for address in self.found(host) {
                found.push(Endpoint {
                    address: *address,
                    workload: self.draft.by_address.get(address).cloned(),
                    health: Health::Healthy,
                    ports: plain.clone(),
                    weight: NonZeroU32::MIN,
                });
            }
        }
        if !entry.selector.is_empty() {
            let namespace = &entry.object.namespace;
            for (object, it) in self.catalog.workload_entries.of(namespace) {
                if entry.selector.all_in(&it.endpoint.labels) {
                    self.place(object, &it.endpoint, &ports(&it.endpoint), &mut found);
                }
            }
            for (object, pod) in self.catalog.pods.of(namespace) {
                let workload = self.draft.workloads.get(&*self.constants.uid(object));
                let Some(workload) = workload.filter(|_| entry.selector.all_in(&pod.labels)) else {
                    continue;
                };
                found.extend(workload.addresses.iter().map(|address| Endpoint {
                    address: *address,
                    workload: Some(workload.clone()),
                    health: workload.health,
                    ports: plain.clone(),
                    weight: NonZeroU32::MIN,
                }));
            }
        }
        found
    }

    /// What was found for a name; nothing until it has been looked up.
    fn found(&self, name: &str) -> &[IpAddr] {
        self.catalog.resolved.get(name).map_or(&[], |it| it)
    }

    /// The endpoints at one place: a name may be several.
    fn place(
        &self,
        of: &ObjectName,
        endpoint: &EntryEndpoint,
        ports: &Arc<[(u16, u16)]>,
        found: &mut Vec<Endpoint>,
    ) {
        let addresses: &[IpAddr] = match &endpoint.at {
            Whereabouts::Ip(address) => std::slice::from_ref(address),
            Whereabouts::Name(name) => self.found(name),
        };
        for address in addresses {
            let pod = self.draft.by_address.get(address).cloned();
            found.push(Endpoint {
                address: *address,
                workload: Some(pod.unwrap_or_else(|| Arc::new(self.stranger(of, endpoint, *address)))),
                health: Health::Healthy,
                ports: ports.clone(),
                weight: endpoint.weight,
            });
        }
    }

    /// A workload that is no pod: reached in plaintext, or by the TLS that its DestinationRule states.
    fn stranger(&self, of: &ObjectName, endpoint: &EntryEndpoint, address: IpAddr) -> Workload {
        let settings = self.constants.settings();
        let [region, zone, subzone] = endpoint.locality.clone();
        let label = |name: &str| endpoint.labels.get(name).cloned();
        let (app, version) = (label("app").unwrap_or_default(), label("version"));
        Workload {
            uid: format!("{}/networking.istio.io/Entry/{of}/{address}", settings.cluster).into(),
            incarnation: "".into(),
            name: of.name.clone(),
            addresses: Arc::new([address]),
            node: "".into(),
            workload_name: of.name.clone(),
            locality: Arc::new(Locality { region, zone, subzone }),
            health: Health::Healthy,
            netns: None,
            likeness: Arc::new(Likeness {
                identity: Identity {
                    trust_domain: settings.trust_domain.clone(),
                    namespace: of.namespace.clone(),
                    service_account: endpoint.service_account.clone(),
                },
                protocol: TunnelProtocol::None,
                host_network: false,
                canonical_name: label("service.istio.io/canonical-name").unwrap_or_else(|| of.name.clone()),
                canonical_revision: version.clone().unwrap_or_else(|| "latest".into()),
                workload_kind: WorkloadKind::Pod,
                labels: endpoint.labels.clone(),
                app,
                version: version.unwrap_or_default(),
                cluster: settings.cluster.clone(),
                enrolment: None,
                probed: Arc::default(),
                waypoint: None,
            }),
        }
    }
}

//! Service, its slices and its pods into a service with endpoints.
//!
//! Endpoints come from EndpointSlices; when a service has none at all, from its selector, so that a directory of
//! manifests written by hand needs no slices.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::model::{BalanceMode, Endpoint, Health, LoadBalancing, Scope, Service, ServicePort, Workload};
use crate::config::waypoint::UseWaypoint;
use crate::config::{self, EndpointSlice, Namespace, Pod, SliceEndpoint, TargetPort};

/// Every endpoint of a service, by address: a persistent vector, so that one changed pod costs a path and not a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints(imbl::Vector<Arc<Endpoint>>);

impl Endpoints {
    /// How many there are, healthy or not.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The endpoint at a position, in O(log n).
    pub fn get(&self, at: usize) -> Option<&Arc<Endpoint>> {
        self.0.get(at)
    }

    /// Every endpoint, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.0.iter()
    }

    /// Takes endpoints in any order; of several with one address and workload the first counts, with the ports of all.
    pub fn collect(mut all: Vec<Endpoint>) -> Self {
        all.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut merged: Vec<Endpoint> = Vec::with_capacity(all.len());
        for endpoint in all {
            match merged.last_mut().filter(|last| key(last) == key(&endpoint)) {
                Some(last) => {
                    let mut ports = last.ports.to_vec();
                    ports.extend(endpoint.ports.iter().filter(|(port, _)| last.target_port(*port).is_none()));
                    ports.sort_unstable();
                    last.ports = ports.into();
                    if endpoint.health == Health::Healthy {
                        last.health = Health::Healthy;
                    }
                }
                None => {
                    // Neighbours mostly serve the same ports; one list is enough for all.
                    let ports = merged.last().map(|it| &it.ports).filter(|it| **it == endpoint.ports);
                    let ports = ports.unwrap_or(&endpoint.ports).clone();
                    merged.push(Endpoint { ports, ..endpoint });
                }
            }
        }
        Self(merged.into_iter().map(Arc::new).collect())
    }

    fn position(&self, address: IpAddr, uid: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|it| key(it).cmp(&(address, uid)))
    }

    /// The one of this address and workload.
    pub fn find(&self, address: IpAddr, uid: &str) -> Option<&Arc<Endpoint>> {
        self.0.get(self.position(address, uid).ok()?)
    }

    /// Puts one in its place, or in the place of the one before it.
    pub(crate) fn insert(&mut self, mut endpoint: Endpoint) {
        // Neighbours mostly serve the same ports; one list is enough for all.
        if let Some(first) = self.0.front().filter(|it| it.ports == endpoint.ports) {
            endpoint.ports = first.ports.clone();
        }
        let (address, uid) = key(&endpoint);
        match self.position(address, uid) {
            Ok(at) => {
                self.0.set(at, Arc::new(endpoint));
            }
            Err(at) => self.0.insert(at, Arc::new(endpoint)),
        }
    }

    /// Puts others in the place of all at one address.
    pub(crate) fn replace_at(&mut self, address: IpAddr, others: &Self) {
        let from = self.position(address, "").unwrap_or_else(|at| at);
        while self.0.get(from).is_some_and(|it| it.address == address) {
            self.0.remove(from);
        }
        for endpoint in &others.0 {
            self.insert(Endpoint::clone(endpoint));
        }
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, address: IpAddr, uid: &str) {
        if let Ok(at) = self.position(address, uid) {
            self.0.remove(at);
        }
    }
}

impl<'e> IntoIterator for &'e Endpoints {
    type Item = &'e Arc<Endpoint>;
    type IntoIter = imbl::vector::Iter<'e, Arc<Endpoint>, imbl::shared_ptr::DefaultSharedPtr>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

fn key(endpoint: &Endpoint) -> (IpAddr, &str) {
    (endpoint.address, endpoint.workload.as_ref().map_or("", |it| &it.uid))
}

/// A service without its endpoints; `None` for an alias in DNS.
pub(crate) fn service(
    stated: &config::Service,
    namespace: Option<&Namespace>,
    cluster_domain: &str,
) -> Option<Service> {
    if stated.external_name {
        return None;
    }
    let object = &stated.object;
    let ports = stated.ports.iter().map(|port| ServicePort {
        port: port.port,
        name: port.name.clone(),
        app_protocol: app_protocol(port),
    });
    let inherited = namespace.filter(|_| !stated.is_of_gateway);
    let inherited = inherited.and_then(|it| UseWaypoint::of(&it.labels, &it.name));
    Some(Service {
        name: object.name.clone(),
        namespace: object.namespace.clone(),
        hostname: format!("{}.{}.svc.{cluster_domain}", object.name, object.namespace).into(),
        vips: stated.vips.clone(),
        ports: ports.collect(),
        load_balancing: load_balancing(stated, namespace),
        waypoint: UseWaypoint::resolve(stated.use_waypoint.as_ref(), inherited),
        external: None,
    })
}

/// `appProtocol`, or the protocol that the port's name starts with (Istio: `<protocol>[-<suffix>]`).
fn app_protocol(port: &config::core::ServicePort) -> Arc<str> {
    const KNOWN: [&str; 11] =
        ["http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "mongo", "mysql", "redis", "udp"];
    if !port.app_protocol.is_empty() {
        return port.app_protocol.clone();
    }
    let word = if port.name.starts_with("grpc-web") {
        "grpc-web"
    } else {
        port.name.split('-').next().unwrap_or("")
    };
    if KNOWN.contains(&word) { word.into() } else { "".into() }
}

fn load_balancing(stated: &config::Service, namespace: Option<&Namespace>) -> LoadBalancing {
    const ZONE: [Scope; 3] = [Scope::Network, Scope::Region, Scope::Zone];
    const NODE: [Scope; 5] = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];
    let inherited = || namespace.and_then(|it| it.traffic_distribution.as_deref());
    let (scopes, mode): (&[Scope], _) = if stated.local_only {
        (&[Scope::Node], BalanceMode::Strict)
    } else {
        match stated.traffic_distribution.as_deref().or_else(inherited) {
            Some("PreferClose" | "PreferSameZone") => (&ZONE, BalanceMode::Failover),
            Some("PreferSameNode") => (&NODE, BalanceMode::Failover),
            _ => (&[], BalanceMode::Standard),
        }
    };
    LoadBalancing { routing_preferences: scopes.into(), mode, allow_unready: stated.publish_not_ready }
}

/// The endpoints one pod is for a service that selects it.
pub(crate) fn of_pod(stated: &config::Service, pod: &Pod, workload: &Arc<Workload>) -> Vec<Endpoint> {
    let named = |name: &str| pod.ports.iter().find(|(it, _)| &**it == name).map(|(_, port)| *port);
    let ports: Arc<[(u16, u16)]> = stated
        .ports
        .iter()
        .filter_map(|port| match &port.target {
            TargetPort::Number(target) => Some((port.port, *target)),
            TargetPort::Name(name) => Some((port.port, named(name)?)),
        })
        .collect();
    let endpoint = |address: &IpAddr| Endpoint {
        address: *address,
        workload: Some(workload.clone()),
        health: workload.health,
        ports: ports.clone(),
        weight: NonZeroU32::MIN,
    };
    workload.addresses.iter().map(endpoint).collect()
}

/// The endpoints a slice states for a service. `resolve` finds the workload behind an address, and refuses an address
/// that is no longer that of the pod the slice names.
pub(crate) fn of_slice(
    stated: &config::Service,
    slice: &EndpointSlice,
    about: &impl Fn(IpAddr) -> bool,
    resolve: impl Fn(IpAddr, &SliceEndpoint) -> Result<Option<Arc<Workload>>, Moved>,
) -> Vec<Endpoint> {
    let ports: Arc<[(u16, u16)]> = stated
        .ports
        .iter()
        .filter_map(|port| {
            let (_, target) = slice.ports.iter().find(|(name, _)| *name == port.name)?;
            Some((port.port, *target))
        })
        .collect();
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        for address in endpoint.addresses.iter().filter(|it| about(**it)) {
            let Ok(workload) = resolve(*address, endpoint) else { continue };
            let health = if endpoint.ready { Health::Healthy } else { Health::Unhealthy };
            let (ports, weight) = (ports.clone(), NonZeroU32::MIN);
            endpoints.push(Endpoint { address: *address, workload, health, ports, weight });
        }
    }
    endpoints
}

/// An address that a slice gives for a pod which does not have it: it may be another pod's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved;

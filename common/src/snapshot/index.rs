//! What the compiler remembers between batches: who refers to what, so that a change is followed to what it touches
//! and no further.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::waypoint::GATEWAY_NAME;
use crate::config::{EndpointSlice, Labels, ObjectName, Pod, Service};

/// A many-to-many relation that forgets empty entries.
#[derive(Debug)]
pub(crate) struct Relation<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Relation<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord> Relation<K, V> {
    pub(crate) fn add(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn of<'r>(&'r self, key: &K) -> impl Iterator<Item = &'r V> + use<'r, K, V> {
        self.0.get(key).into_iter().flatten()
    }

    /// Every key, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
}

/// Addresses that more than one object claims; the others need no entry.
#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<IpAddr, BTreeSet<ObjectName>>);

impl Claims {
    /// Adds a claim beside the one of `holder`, if that is another.
    pub(crate) fn add(&mut self, address: IpAddr, holder: Option<ObjectName>, object: &ObjectName) {
        let Some(holder) = holder.filter(|holder| holder != object) else { return };
        self.0.entry(address).or_default().extend([holder, object.clone()]);
    }

    /// Withdraws a claim. True when nobody else claims the address.
    pub(crate) fn withdraw(&mut self, address: IpAddr, object: &ObjectName) -> bool {
        let Some(claimants) = self.0.get_mut(&address) else { return true };
        claimants.remove(object);
        false
    }

    /// All who claim an address, when there were several; a sole survivor is returned once more and then forgotten.
    pub(crate) fn claimants(&mut self, address: IpAddr) -> Option<BTreeSet<ObjectName>> {
        let claimants = self.0.get(&address)?.clone();
        if claimants.len() < 2 {
            self.0.remove(&address);
        }
        Some(claimants)
    }
}

/// Services by one label of their selector, so that a pod finds those that may pick it without asking all.
#[derive(Debug, Default)]
pub(crate) struct Selectors(Relation<LabelOf, ObjectName>);

/// Namespace, key and value of a label.
type LabelOf = (Arc<str>, Arc<str>, Arc<str>);

impl Selectors {
    pub(crate) fn add(&mut self, service: &Service) {
        if let Some(key) = Self::key(service) {
            self.0.add(key, service.object.clone());
        }
    }

    pub(crate) fn remove(&mut self, service: &Service) {
        if let Some(key) = Self::key(service) {
            self.0.remove(&key, &service.object);
        }
    }

    fn key(service: &Service) -> Option<LabelOf> {
        let (label, value) = service.selector.iter().next()?;
        Some((service.object.namespace.clone(), label.clone(), value.clone()))
    }

    /// Services of the namespace that may pick these labels: a superset.
    pub(crate) fn candidates<'s>(
        &'s self,
        namespace: &'s Arc<str>,
        labels: &'s Labels,
    ) -> impl Iterator<Item = &'s ObjectName> {
        labels
            .iter()
            .flat_map(move |(key, value)| self.0.of(&(namespace.clone(), key.clone(), value.clone())))
    }
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Gateway to the pods that are labelled as its own.
    pub(crate) pods_of: Relation<ObjectName, ObjectName>,
    pub(crate) addresses: Claims,
    pub(crate) vips: Claims,
    pub(crate) selectors: Selectors,
    /// Service to its slices.
    pub(crate) slices_of: Relation<ObjectName, ObjectName>,
    /// Pod to the slices that name it.
    pub(crate) slices_naming: Relation<ObjectName, ObjectName>,
    /// Address to the slices that state it.
    pub(crate) slices_at: Relation<IpAddr, ObjectName>,
}

impl Index {
    pub(crate) fn move_pod(&mut self, object: &ObjectName, before: Option<&Pod>, now: Option<&Pod>) {
        let (from, to) = (before.and_then(gateway_of), now.and_then(gateway_of));
        if from != to {
            if let Some(gateway) = from {
                self.pods_of.remove(&gateway, object);
            }
            if let Some(gateway) = to {
                self.pods_of.add(gateway, object.clone());
            }
        }
    }

    pub(crate) fn add_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else { return };
        self.slices_of.add(service, slice.object.clone());
        for endpoint in &slice.endpoints {
            if let Some(pod) = pod_of(slice, endpoint.pod.as_ref()) {
                self.slices_naming.add(pod, slice.object.clone());
            }
            for address in &endpoint.addresses {
                self.slices_at.add(*address, slice.object.clone());
            }
        }
    }

    pub(crate) fn remove_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else { return };
        self.slices_of.remove(&service, &slice.object);
        for endpoint in &slice.endpoints {
            if let Some(pod) = pod_of(slice, endpoint.pod.as_ref()) {
                self.slices_naming.remove(&pod, &slice.object);
            }
            for address in &endpoint.addresses {
                self.slices_at.remove(address, &slice.object);
            }
        }
    }
}

/// The Gateway whose pod this one is labelled to be, which is of its own namespace.
pub(crate) fn gateway_of(pod: &Pod) -> Option<ObjectName> {
    let name = pod.labels.get(GATEWAY_NAME)?.clone();
    Some(ObjectName { namespace: pod.object.namespace.clone(), name })
}

/// The service a slice belongs to, which is of its own namespace.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let name = slice.service.clone()?;
    Some(ObjectName { namespace: slice.object.namespace.clone(), name })
}

/// The pod an endpoint names.
pub(crate) fn pod_of(slice: &EndpointSlice, pod: Option<&Arc<str>>) -> Option<ObjectName> {
    Some(ObjectName { namespace: slice.object.namespace.clone(), name: pod?.clone() })
}

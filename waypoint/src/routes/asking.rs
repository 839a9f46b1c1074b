//! Which services have somebody asked who has to agree (`ExternalAuth` of an HTTPRoute), by the pods they lead to, kept up to
//! date from one snapshot to the next. Knows neither ports nor callers: whoever asks looks those up in the tables.

use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::{Endpoints, Snapshot};
use imbl::OrdMap;

use super::tables::Relation;

/// The services that have somebody asked. Cheap to clone, and empty where no route asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asking {
    /// Pod to the services that lead to it, by uid.
    by_pod: Relation<Arc<str>>,
    /// The pods of each, to take them out again.
    filed: OrdMap<ObjectName, Arc<[Arc<str>]>>,
}

impl Asking {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.filed.is_empty()
    }

    /// Those that lead to some port of a pod.
    pub(crate) fn of_pod(&self, uid: &str) -> impl Iterator<Item = &ObjectName> + use<'_> {
        self.by_pod.of(uid)
    }

    /// Files a service, whose endpoints these are.
    pub(super) fn file(&mut self, service: &ObjectName, endpoints: &Endpoints) {
        let uids = endpoints.iter().filter_map(|it| Some(it.workload.as_ref()?.uid.clone()));
        let uids: Arc<[Arc<str>]> = uids.collect();
        if self.filed.get(service) == Some(&uids) {
            return;
        }
        self.remove(service);
        uids.iter().for_each(|uid| self.by_pod.add(uid, service));
        self.filed.insert(service.clone(), uids);
    }

    /// Takes a service out, if it is filed.
    pub(super) fn remove(&mut self, service: &ObjectName) {
        let uids = self.filed.remove(service);
        uids.iter().flat_map(|it| it.iter()).for_each(|uid| self.by_pod.remove(uid, service));
    }

    /// Follows the endpoints of those that are filed from one snapshot to another.
    pub(super) fn follow(&mut self, old: &Snapshot, new: &Snapshot) {
        if self.is_empty() {
            return;
        }
        for object in new.served_since(old) {
            if self.filed.contains_key(object)
                && let Some(service) = new.service(&object.namespace, &object.name)
            {
                self.file(object, new.endpoints(service));
            }
        }
    }
}

//! What differs between two snapshots, found in time that follows the difference: parts they share are not visited.
//!
//! For whoever compiles a snapshot further and keeps what it compiled: ask what changed since the snapshot it was made
//! from, and do that again. The two may be any two, in any order.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::Snapshot;
use super::model::Service;
use super::policies::PolicyEntry;
use crate::config::{
    BackendTlsPolicy, CaBundle, DestinationRule, FaultFilter, GatewayRoute, Key, ObjectName, RateLimit,
    ReferenceGrant, VirtualService,
};

/// One object as it was and as it is; at least one of both is there, and they are not equal.
#[derive(Debug)]
pub struct Change<'s, T, K = ObjectName> {
    /// Its name.
    pub object: &'s K,
    /// In the earlier snapshot.
    pub before: Option<&'s Arc<T>>,
    /// In the later one.
    pub now: Option<&'s Arc<T>>,
}

impl Snapshot {
    /// The VirtualServices that differ from those of an earlier snapshot, by name.
    pub fn virtual_services_since<'s>(
        &'s self,
        earlier: &'s Self,
    ) -> impl Iterator<Item = Change<'s, VirtualService>> {
        changes(&earlier.virtual_services, &self.virtual_services)
    }

    /// The services that differ from those of an earlier snapshot, by name. Their endpoints are not looked at.
    pub fn services_since<'s>(&'s self, earlier: &'s Self) -> impl Iterator<Item = Change<'s, Service>> {
        changes(&earlier.services, &self.services)
    }

    /// The services that differ from those of an earlier snapshot, or are not served where they were; some perhaps
    /// twice.
    pub fn served_since<'s>(&'s self, earlier: &'s Self) -> impl Iterator<Item = &'s ObjectName> {
        let endpoints = earlier.endpoints.diff(&self.endpoints).map(|item| match item {
            DiffItem::Add(object, _) | DiffItem::Remove(object, _) => object,
            DiffItem::Update { new: (object, _), .. } => object,
        });
        self.services_since(earlier).map(|change| change.object).chain(endpoints)
    }

    /// The AuthorizationPolicies that differ from those of an earlier snapshot, by name.
    pub fn policies_since<'s>(&'s self, earlier: &'s Self) -> impl Iterator<Item = Change<'s, PolicyEntry>> {
        changes(&earlier.policies, &self.policies)
    }

    /// The DestinationRules that differ from those of an earlier snapshot, by name.
    pub fn destination_rules_since<'s>(
        &'s self,
        earlier: &'s Self,
    ) -> impl Iterator<Item = Change<'s, DestinationRule>> {
        changes(&earlier.destination_rules, &self.destination_rules)
    }

    /// The routes of the Gateway API that differ from those of an earlier snapshot, by kind and name.
    pub fn routes_since<'s>(
        &'s self,
        earlier: &'s Self,
    ) -> impl Iterator<Item = Change<'s, GatewayRoute, Key>> {
        changes(&earlier.routes, &self.routes)
    }

    /// The ReferenceGrants that differ from those of an earlier snapshot, by name.
    pub fn grants_since<'s>(&'s self, earlier: &'s Self) -> impl Iterator<Item = Change<'s, ReferenceGrant>> {
        changes(&earlier.grants, &self.grants)
    }

    /// The RateLimits that differ from those of an earlier snapshot, by name.
    pub fn rate_limits_since<'s>(&'s self, earlier: &'s Self) -> impl Iterator<Item = Change<'s, RateLimit>> {
        changes(&earlier.rate_limits, &self.rate_limits)
    }

    /// The BackendTLSPolicies that differ from those of an earlier snapshot, by name.
    pub fn backend_tls_since<'s>(
        &'s self,
        earlier: &'s Self,
    ) -> impl Iterator<Item = Change<'s, BackendTlsPolicy>> {
        changes(&earlier.backend_tls, &self.backend_tls)
    }

    /// The authorities that differ from those of an earlier snapshot, by the name of their ConfigMap.
    pub fn ca_bundles_since<'s>(&'s self, earlier: &'s Self) -> impl Iterator<Item = Change<'s, CaBundle>> {
        changes(&earlier.ca_bundles, &self.ca_bundles)
    }

    /// The HTTPFaultFilters that differ from those of an earlier snapshot, by name.
    pub fn fault_filters_since<'s>(
        &'s self,
        earlier: &'s Self,
    ) -> impl Iterator<Item = Change<'s, FaultFilter>> {
        changes(&earlier.fault_filters, &self.fault_filters)
    }
}

fn changes<'s, T: Eq, K: Ord>(
    earlier: &'s OrdMap<K, Arc<T>>,
    later: &'s OrdMap<K, Arc<T>>,
) -> impl Iterator<Item = Change<'s, T, K>> {
    earlier.diff(later).map(|item| match item {
        DiffItem::Add(object, now) => Change { object, before: None, now: Some(now) },
        DiffItem::Update { old: (object, before), new: (_, now) } => {
            Change { object, before: Some(before), now: Some(now) }
        }
        DiffItem::Remove(object, before) => Change { object, before: Some(before), now: None },
    })
}

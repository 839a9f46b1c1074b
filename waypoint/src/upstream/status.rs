//! What an operator sees of the clusters: their part of the configuration dump, and their metrics.
//!
//! Metrics name clusters, but only those that something happened to: a mesh has many destinations, and few of them
//! trouble.

use std::borrow::Cow;

use common::admin::config_dump::Items;
use common::balance::budget::Resource;
use common::balance::outlier::Cause;
use common::telemetry::exposition::{Family, Kind, Sample, Value};
use serde_json::json;

use super::admission::Usage;
use super::{Cluster, Clusters};

impl Clusters {
    /// Every cluster with its policy's limits, its endpoints and their state, for `/config_dump`.
    pub fn dump(&self) -> Items {
        Box::new(self.all().into_iter().map(|cluster| dump(&cluster)))
    }

    /// The clusters' metrics.
    pub fn families(&self) -> Vec<Family> {
        let all = self.all();
        let single =
            |name, help, kind, value: usize| Family::single(name, help, kind, Value::Count(value as u64));
        let refused = usize::try_from(self.refused()).unwrap_or(usize::MAX);
        vec![
            single("ebb_upstream_clusters", "Destinations that are held.", Kind::Gauge, all.len()),
            single(
                "ebb_upstream_clusters_refused_total",
                "Requests for a destination beyond as many as can be held.",
                Kind::Counter,
                refused,
            ),
            Family {
                name: "ebb_upstream_overflows_total",
                help: "Connections, waiting requests, requests and retries beyond a limit of connectionPool.",
                kind: Kind::Counter,
                samples: series(&all, Usage::RESOURCES, "resource", |cluster, resource| {
                    (word(resource), cluster.usage().overflows(resource))
                }),
            },
            Family {
                name: "ebb_upstream_ejections_total",
                help: "Endpoints ejected by outlierDetection.",
                kind: Kind::Counter,
                samples: series(&all, Cluster::CAUSES, "cause", |cluster, cause| {
                    (reason(cause), cluster.ejections(cause))
                }),
            },
            Family {
                name: "ebb_upstream_ejected_endpoints",
                help: "Endpoints that are ejected now.",
                kind: Kind::Gauge,
                samples: all
                    .iter()
                    .map(|cluster| (cluster, ejected(cluster)))
                    .filter(|(_, ejected)| *ejected > 0)
                    .map(|(cluster, ejected)| Sample {
                        labels: labels(cluster),
                        value: Value::Count(ejected),
                    })
                    .collect(),
            },
        ]
    }
}

/// A series for each cluster and thing that happened to it.
fn series<T, const N: usize>(
    all: &[std::sync::Arc<Cluster>],
    things: [T; N],
    label: &'static str,
    count: impl Fn(&Cluster, T) -> (&'static str, u64),
) -> Vec<Sample>
where
    T: Copy,
{
    let each = all.iter().flat_map(|cluster| things.map(|thing| (cluster, count(cluster, thing))));
    let happened = each.filter(|(_, (_, count))| *count > 0);
    let sample = |(cluster, (word, count)): (&std::sync::Arc<Cluster>, (&'static str, u64))| {
        let mut labels = labels(cluster);
        labels.push((label, word.into()));
        Sample { labels, value: Value::Count(count) }
    };
    happened.map(sample).collect()
}

fn labels(cluster: &Cluster) -> Vec<(&'static str, Cow<'static, str>)> {
    let key = cluster.key();
    vec![
        ("destination_service_namespace", key.service.namespace.to_string().into()),
        ("destination_service_name", key.service.name.to_string().into()),
        ("destination_port", key.port.to_string().into()),
        ("destination_subset", key.subset.as_deref().unwrap_or_default().to_owned().into()),
    ]
}

fn ejected(cluster: &Cluster) -> u64 {
    cluster.compiled().members.iter().filter(|it| it.state.is_ejected()).count() as u64
}

fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Connection => "connection",
        Resource::Pending => "pending",
        Resource::Request => "request",
        Resource::Retry => "retry",
    }
}

fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::Consecutive5xx => "consecutive_5xx",
        Cause::ConsecutiveGateway => "consecutive_gateway",
        Cause::ConsecutiveLocalOrigin => "consecutive_local_origin",
    }
}

fn dump(cluster: &Cluster) -> serde_json::Value {
    let compiled = cluster.compiled();
    let (key, policy, used) = (cluster.key(), &compiled.policy, cluster.in_use());
    let endpoint = |it: &super::members::Member| {
        json!({
            "address": it.address,
            "workload": it.workload.as_ref().map(|it| &it.uid),
            "weight": it.weight,
            "activeRequests": it.state.active(),
            "connections": it.state.connections(),
            "ejected": it.state.is_ejected(),
        })
    };
    let limits = &policy.limits;
    json!({
        "service": compiled.service.hostname,
        "namespace": key.service.namespace,
        "port": key.port,
        "subset": key.subset,
        "destinationRules": policy.rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "loadBalancer": algorithm(&policy.algorithm),
        "backendTls": policy.backend_tls.as_deref().map(|it| json!({
            "by": it.by.as_ref().map(ToString::to_string),
            "sni": it.tls.sni,
            "names": it.tls.subject_alt_names,
            "refused": it.refused(),
        })),
        "circuitBreakers": {
            "connections": { "inUse": used.connections, "limit": limits.connections },
            "pendingRequests": { "inUse": used.pending, "limit": limits.pending },
            "requests": { "inUse": used.requests, "limit": limits.requests },
            "retries": {
                "inUse": used.retries,
                "limit": limits.retries,
                "budgetPercent": limits.retry_budget.map(|it| it.percent),
            },
        },
        "outlierDetection": policy.outlier.is_some(),
        "endpoints": compiled.members.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A way of balancing, in the words of a DestinationRule.
pub fn algorithm(algorithm: &common::config::destination::balance::Algorithm) -> &'static str {
    use common::config::destination::balance::{Algorithm, ConsistentHash, HashTable};
    match algorithm {
        Algorithm::LeastRequest => "LEAST_REQUEST",
        Algorithm::RoundRobin => "ROUND_ROBIN",
        Algorithm::Random => "RANDOM",
        Algorithm::Passthrough => "PASSTHROUGH",
        Algorithm::ConsistentHash(ConsistentHash { table: HashTable::Ring(_), .. }) => "RING_HASH",
        Algorithm::ConsistentHash(ConsistentHash { table: HashTable::Maglev(_), .. }) => "MAGLEV",
    }
}

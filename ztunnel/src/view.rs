//! What an operator is shown: the sections of `/config_dump` and the metrics that are read at each scrape.

use std::collections::HashMap;
use std::sync::Arc;

use common::admin::config_dump::{DumpSection, Items};
use common::admin::dump;
use common::certs::CertStore;
use common::settings::Settings;
use common::snapshot::Snapshot;
use common::snapshot::model::{Endpoint, Service, Workload};
use common::snapshot::publish::Reader;
use common::telemetry::exposition::{Family, Kind, Value};
use common::telemetry::logging::Logging;
use common::telemetry::metrics::Metrics;
use serde_json::json;

use crate::app::VERSION;
use crate::live::{Direction, Live, Protocol};
use crate::pods::status::Status;
use crate::spans::Spans;

/// Adds the metrics of the parts that count for themselves.
pub fn collect(
    metrics: &mut Metrics,
    status: &Arc<Status>,
    certs: &CertStore,
    (logging, spans): (&Logging, &Arc<Spans>),
) {
    let told = spans.clone();
    metrics.collect(Box::new(move || told.exporters().families()));
    metrics.collect_log(logging.sink.clone());
    let pods = status.clone();
    metrics.collect_redirect(move || {
        pods.redirections()
            .iter()
            .map(|(hook, verdict, count)| (hook.name(), verdict.name(), count))
            .collect()
    });
    let pods = status.clone();
    metrics.collect(Box::new(move || pods.families()));
    let certs = certs.clone();
    metrics.collect(Box::new(move || {
        let counter = |(name, count)| {
            Family::single(name, "Certificates: see the name.", Kind::Counter, Value::Count(count))
        };
        certs.counters().named().into_iter().map(counter).collect()
    }));
}

/// The sections of `/config_dump`, under the keys `istioctl ztunnel-config` reads, and Ebb's own under `rejected` and
/// `tracing`.
pub fn sections(
    settings: &Settings,
    mesh: &Reader,
    certs: &CertStore,
    (status, spans): (&Arc<Status>, &Arc<Spans>),
    live: &[Arc<Live>],
) -> Vec<DumpSection> {
    let (config, spans) = (settings.dump(), spans.clone());
    let (certs, status, live) = (certs.clone(), status.clone(), live.to_vec());
    let list = |key, make: fn(Arc<Snapshot>) -> Items| {
        let mesh = mesh.clone();
        DumpSection::list(key, move || make(mesh.current()))
    };
    vec![
        list("workloads", workloads),
        list("services", services),
        list("policies", policies),
        DumpSection::value("certificates", move || json!(certs.dump())),
        list("rejected", rejected),
        DumpSection::value("tracing", move || spans.dump()),
        DumpSection::value("workloadState", move || workload_state(&status, &live)),
        DumpSection::value("version", || dump::version_json(VERSION, "")),
        DumpSection::value("config", move || config.clone()),
    ]
}

fn workloads(mesh: Arc<Snapshot>) -> Items {
    let mut of: HashMap<Arc<str>, Vec<Arc<Service>>> = HashMap::new();
    for service in mesh.services() {
        for endpoint in mesh.endpoints(service).iter() {
            if let Some(workload) = &endpoint.workload {
                let services = of.entry(workload.uid.clone()).or_default();
                // A pod of two families is an endpoint twice.
                if services.last().is_none_or(|last| !Arc::ptr_eq(last, service)) {
                    services.push(service.clone());
                }
            }
        }
    }
    let all: Vec<Arc<Workload>> = mesh.workloads().cloned().collect();
    Box::new(all.into_iter().map(move |workload| {
        let policy = mesh.policy_for(&workload);
        let selected = policy.deny.iter().chain(&policy.allow);
        let selected: Vec<Arc<str>> = selected.map(|policy| policy.key.clone()).collect();
        dump::workload_json(&workload, of.get(&workload.uid).map_or(&[], Vec::as_slice), &selected)
    }))
}

fn services(mesh: Arc<Snapshot>) -> Items {
    let all: Vec<Arc<Service>> = mesh.services().cloned().collect();
    Box::new(all.into_iter().map(move |service| {
        let endpoints: Vec<Endpoint> = mesh.endpoints(&service).iter().map(|e| Endpoint::clone(e)).collect();
        dump::service_json(&service, &endpoints)
    }))
}

fn policies(mesh: Arc<Snapshot>) -> Items {
    let all: Vec<_> = mesh.policies().filter_map(|entry| entry.policy.clone()).collect();
    Box::new(all.into_iter().map(|policy| dump::policy_json(&policy)))
}

fn rejected(mesh: Arc<Snapshot>) -> Items {
    let all: Vec<String> = mesh.rejected().iter().map(ToString::to_string).collect();
    Box::new(all.into_iter().map(Into::into))
}

/// Served pods and their open connections, by uid.
fn workload_state(status: &Status, live: &[Arc<Live>]) -> serde_json::Value {
    let mut pods = serde_json::Map::new();
    for pod in status.pods() {
        let info = json!({
            "name": pod.uid.rsplit('/').next(),
            "namespace": pod.identity.namespace,
            "trustDomain": pod.identity.trust_domain,
            "serviceAccount": pod.identity.service_account,
        });
        let state = json!({ "state": "Up", "connections": { "inbound": [], "outbound": [] }, "info": info });
        pods.insert(pod.uid.to_string(), state);
    }
    for live in live {
        live.for_each(|entry| {
            let direction = match entry.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            };
            let protocol = match entry.protocol {
                Protocol::Hbone => "HBONE",
                Protocol::Tcp => "TCP",
            };
            let shown = json!({
                "src": entry.source,
                "originalDst": entry.original,
                "actualDst": entry.server,
                "protocol": protocol,
            });
            let pod = pods.get_mut(&*entry.pod.uid);
            let list = pod.and_then(|pod| pod["connections"][direction].as_array_mut());
            list.into_iter().for_each(|list| list.push(shown.clone()));
        });
    }
    serde_json::Value::Object(pods)
}

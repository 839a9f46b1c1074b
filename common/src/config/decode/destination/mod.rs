//! The shape of a DestinationRule, as strict as that of a VirtualService.

mod balance;
mod outlier;
mod pool;
mod tls;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use self::balance::BalancerManifest;
use self::outlier::OutlierManifest;
use self::pool::PoolManifest;
use self::tls::TlsManifest;
use super::Fault;
use super::istio::scalar::{Double, MAX_WHOLE, Whole, percent, positive, whole};
use super::istio::{List, PortManifest, Reader, Texts, port};
use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::{Selector, list, selector};
use super::text::{Pairs, Text};
use crate::config::Resource;
use crate::config::destination::{DestinationRule, PortPolicy, RetryBudget, Subset, TrafficPolicy, Tunnel};
use crate::config::names::Names;
use crate::config::note::Caveat;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct DestinationRuleManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<Spec<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    host: Option<Text<'a>>,
    traffic_policy: Option<PolicyManifest<'a>>,
    subsets: List<SubsetManifest<'a>>,
    export_to: Texts<'a>,
    workload_selector: Option<Selector<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct SubsetManifest<'a> {
    name: Option<Text<'a>>,
    labels: Option<Pairs<'a>>,
    traffic_policy: Option<PolicyManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PolicyManifest<'a> {
    load_balancer: Option<BalancerManifest<'a>>,
    connection_pool: Option<PoolManifest<'a>>,
    outlier_detection: Option<OutlierManifest<'a>>,
    tls: Option<TlsManifest<'a>>,
    port_level_settings: List<PortPolicyManifest<'a>>,
    tunnel: Option<TunnelManifest<'a>>,
    proxy_protocol: Option<ProxyProtocolManifest<'a>>,
    retry_budget: Option<BudgetManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PortPolicyManifest<'a> {
    port: Option<PortManifest>,
    load_balancer: Option<BalancerManifest<'a>>,
    connection_pool: Option<PoolManifest<'a>>,
    outlier_detection: Option<OutlierManifest<'a>>,
    tls: Option<TlsManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TunnelManifest<'a> {
    protocol: Option<Text<'a>>,
    target_host: Option<Text<'a>>,
    target_port: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ProxyProtocolManifest<'a> {
    version: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct BudgetManifest<'a> {
    percent: Option<Double>,
    min_retry_concurrency: Option<Whole>,
    budget_interval: Option<Text<'a>>,
}

impl Manifest for DestinationRuleManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let clients = selector(spec.workload_selector, names)
            .map_err(|fault| Fault::new(fault.field.replace("selector", "workloadSelector"), fault.reason))?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        let host = spec.host.filter(|it| !it.is_empty());
        let host = host.ok_or_else(|| Fault::new("spec.host", "not stated"))?;
        let host = reader.host(&host, "spec.host")?;
        let visibility = reader.visibility(spec.export_to, "spec.exportTo")?;
        let policy = policy(&mut reader, spec.traffic_policy, "spec.trafficPolicy")?;
        let subsets = list(spec.subsets, "spec.subsets", |it, field| subset(&mut reader, it, field))?;
        for (i, subset) in subsets.iter().enumerate() {
            if subsets[..i].iter().any(|it| it.name == subset.name) {
                let reason = format!("{} is stated twice", subset.name);
                return Err(Fault::new(format!("spec.subsets[{i}].name"), reason));
            }
        }
        Ok(Resource::DestinationRule(Arc::new(DestinationRule {
            object: named.object,
            created: named.created,
            host,
            visibility,
            clients,
            policy,
            subsets,
            notes: reader.notes(),
        })))
    }
}

fn subset(reader: &mut Reader<'_>, stated: SubsetManifest<'_>, field: &str) -> Result<Subset, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let name = stated.name.unwrap_or_default();
    Ok(Subset {
        name: reader.label(&name, &at("name"))?,
        labels: reader.labels(stated.labels.as_ref(), &at("labels"))?,
        policy: policy(reader, stated.traffic_policy, &at("trafficPolicy"))?,
    })
}

/// `trafficPolicy`.
fn policy(
    reader: &mut Reader<'_>,
    stated: Option<PolicyManifest<'_>>,
    field: &str,
) -> Result<TrafficPolicy, Fault> {
    let Some(stated) = stated else { return Ok(TrafficPolicy::default()) };
    let at = |name: &str| format!("{field}.{name}");
    let has_proxy_protocol = stated.proxy_protocol.is_some();
    if let Some(it) = stated.proxy_protocol {
        proxy_protocol(reader, &it, &at("proxyProtocol"))?;
    }
    let ports = Parts {
        load_balancer: stated.load_balancer,
        connection_pool: stated.connection_pool,
        outlier_detection: stated.outlier_detection,
        tls: stated.tls,
    };
    let policy = TrafficPolicy {
        ports: ports.read(reader, field)?,
        by_port: by_port(reader, stated.port_level_settings, &at("portLevelSettings"))?,
        tunnel: stated.tunnel.map(|it| tunnel(reader, &it, &at("tunnel"))).transpose()?,
        retry_budget: stated.retry_budget.map(|it| budget(&it, &at("retryBudget"))).transpose()?,
    };
    if policy == TrafficPolicy::default() && !has_proxy_protocol {
        return Err(Fault::new(field, "states nothing"));
    }
    Ok(policy)
}

/// What a policy has for all ports and may have for one.
struct Parts<'a> {
    load_balancer: Option<BalancerManifest<'a>>,
    connection_pool: Option<PoolManifest<'a>>,
    outlier_detection: Option<OutlierManifest<'a>>,
    tls: Option<TlsManifest<'a>>,
}

impl Parts<'_> {
    fn read(self, reader: &mut Reader<'_>, field: &str) -> Result<PortPolicy, Fault> {
        let at = |name: &str| format!("{field}.{name}");
        let balancer = self.load_balancer.map(|it| balance::read(reader, it, &at("loadBalancer")));
        let pool = self.connection_pool.map(|it| pool::read(&it, &at("connectionPool")));
        let policy = PortPolicy {
            load_balancer: balancer.transpose()?,
            connection_pool: pool.transpose()?,
            outlier_detection: self
                .outlier_detection
                .map(|it| outlier::read(reader, it, &at("outlierDetection")))
                .transpose()?,
            tls: self.tls.map(|it| tls::read(reader, it, &at("tls"))).transpose()?,
        };
        let locality = policy.load_balancer.as_ref().and_then(|it| it.locality.as_ref());
        let fails_over =
            locality.is_some_and(|it| !it.failover.is_empty() || !it.failover_priority.is_empty());
        if fails_over && policy.outlier_detection.is_none() {
            let field = at("loadBalancer.localityLbSetting");
            reader.note(field, Caveat::FailoverNeedsOutlierDetection);
        }
        Ok(policy)
    }
}

fn by_port(
    reader: &mut Reader<'_>,
    stated: List<PortPolicyManifest<'_>>,
    field: &str,
) -> Result<Box<[(u16, PortPolicy)]>, Fault> {
    let mut seen = Vec::new();
    list(stated, field, |it, field| {
        let at = format!("{field}.port");
        let number = PortManifest::read(it.port.as_ref(), &at)?;
        let number = number.ok_or_else(|| Fault::new(at.clone(), "not stated"))?;
        if seen.contains(&number) {
            return Err(Fault::new(at, format!("{number} is stated twice")));
        }
        seen.push(number);
        let parts = Parts {
            load_balancer: it.load_balancer,
            connection_pool: it.connection_pool,
            outlier_detection: it.outlier_detection,
            tls: it.tls,
        };
        let policy = parts.read(reader, field)?;
        if policy == PortPolicy::default() {
            return Err(Fault::new(field, "states nothing of the port"));
        }
        Ok((number, policy))
    })
}

fn tunnel(reader: &mut Reader<'_>, stated: &TunnelManifest<'_>, field: &str) -> Result<Tunnel, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    match stated.protocol.as_deref() {
        None | Some("" | "CONNECT") => {}
        Some("POST") => return Err(Fault::new(at("protocol"), "POST is not implemented; CONNECT is")),
        Some(other) => {
            return Err(Fault::new(at("protocol"), format!("{other:?} is neither CONNECT nor POST")));
        }
    }
    let host = match stated.target_host.as_deref() {
        None | Some("") => return Err(Fault::new(at("targetHost"), "not stated")),
        Some(host) if host.contains('*') => {
            return Err(Fault::new(at("targetHost"), format!("{host:?} is not one host")));
        }
        Some(host) => reader.host(host, &at("targetHost"))?,
    };
    let port = port(stated.target_port, &at("targetPort"))?;
    let port = port.ok_or_else(|| Fault::new(at("targetPort"), "not stated"))?;
    Ok(Tunnel { host, port })
}

fn proxy_protocol(
    reader: &mut Reader<'_>,
    stated: &ProxyProtocolManifest<'_>,
    field: &str,
) -> Result<(), Fault> {
    match stated.version.as_deref() {
        None | Some("V1" | "V2") => {
            reader.note(field, Caveat::ProxyProtocolIgnored);
            Ok(())
        }
        Some(other) => Err(Fault::new(format!("{field}.version"), format!("{other:?} is neither V1 nor V2"))),
    }
}

/// Retries that a budget always allows, when it does not say.
const MIN_RETRY_CONCURRENCY: u32 = 3;
/// A budget's share of the requests under way, when it does not say.
const BUDGET_PERCENT: f64 = 20.0;

fn budget(stated: &BudgetManifest<'_>, field: &str) -> Result<RetryBudget, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let stated_share = stated.percent.unwrap_or(Double(BUDGET_PERCENT));
    let share = percent(Some(stated_share), &at("percent"))?.unwrap_or_default();
    let at_least = whole(stated.min_retry_concurrency, 0..=MAX_WHOLE, &at("minRetryConcurrency"))?;
    let interval = positive(stated.budget_interval.as_ref(), &at("budgetInterval"))?;
    Ok(RetryBudget { share, at_least: at_least.unwrap_or(MIN_RETRY_CONCURRENCY), interval })
}

/// A limit: 0 is none, as in Istio.
fn limit(stated: Option<Whole>, field: &str) -> Result<Option<std::num::NonZeroU32>, Fault> {
    let number = whole(stated, 0..=MAX_WHOLE, field)?;
    Ok(number.and_then(std::num::NonZeroU32::new))
}

//! The `baggage` header (W3C Baggage) with the members Istio's proxies exchange: who the sender's workload is.

use std::fmt;
use std::sync::Arc;

use crate::snapshot::model::{Workload, WorkloadKind};

/// The longest `baggage` value read, in bytes (W3C Baggage, section 3.3.2).
pub const MAX_BAGGAGE_BYTES: usize = 8192;
/// The most members read (W3C Baggage, section 3.3.2).
pub const MAX_BAGGAGE_MEMBERS: usize = 64;

/// A workload's description, for telemetry. From a peer it is a claim, never a fact. Empty text is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Arc<str>,
    /// `k8s.namespace.name`.
    pub namespace: Arc<str>,
    /// The controller's kind and name: `k8s.deployment.name` and its like.
    pub workload: Option<(WorkloadKind, Arc<str>)>,
    /// `service.name`: the canonical name.
    pub service: Arc<str>,
    /// `service.version`: the canonical revision.
    pub version: Arc<str>,
    /// `cloud.region`.
    pub region: Arc<str>,
    /// `cloud.availability_zone`.
    pub zone: Arc<str>,
}

const KINDS: [(WorkloadKind, &str); 4] = [
    (WorkloadKind::Deployment, "k8s.deployment.name"),
    (WorkloadKind::CronJob, "k8s.cronjob.name"),
    (WorkloadKind::Pod, "k8s.pod.name"),
    (WorkloadKind::Job, "k8s.job.name"),
];

impl Baggage {
    /// The description of one of our own workloads.
    pub fn of(workload: &Workload) -> Self {
        Self {
            cluster: workload.cluster.clone(),
            namespace: workload.namespace().clone(),
            workload: Some((workload.workload_kind, workload.workload_name.clone())),
            service: workload.canonical_name.clone(),
            version: workload.canonical_revision.clone(),
            region: workload.locality.region.clone(),
            zone: workload.locality.zone.clone(),
        }
    }

    /// Reads the members it knows and skips others. Of a repeated member the first counts.
    ///
    /// `None` when it is too long, has too many members, or a member has no `=`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BAGGAGE_BYTES {
            return None;
        }
        let mut baggage = Self::default();
        for (position, member) in text.split(',').enumerate() {
            if position >= MAX_BAGGAGE_MEMBERS {
                return None;
            }
            // Properties follow a semicolon; none has a meaning here.
            let member = member.split(';').next().unwrap_or_default();
            let (key, value) = member.split_once('=')?;
            baggage.take(key.trim(), value.trim());
        }
        Some(baggage)
    }

    fn take(&mut self, key: &str, value: &str) {
        let place = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                let kind = KINDS.iter().find(|(_, name)| *name == key);
                if let (Some((kind, _)), None) = (kind, &self.workload) {
                    self.workload = Some((*kind, value.into()));
                }
                return;
            }
        };
        if place.is_empty() {
            *place = value.into();
        }
    }

    fn members(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let workload = self.workload.as_ref().and_then(|(kind, name)| {
            KINDS.iter().find(|(known, _)| known == kind).map(|(_, key)| (*key, &**name))
        });
        [
            Some(("k8s.cluster.name", &*self.cluster)),
            Some(("k8s.namespace.name", &*self.namespace)),
            workload,
            Some(("service.name", &*self.service)),
            Some(("service.version", &*self.version)),
            Some(("cloud.region", &*self.region)),
            Some(("cloud.availability_zone", &*self.zone)),
        ]
        .into_iter()
        .flatten()
        // What would break the list apart is left out: Kubernetes names hold none of it.
        .filter(|(_, value)| !value.is_empty() && value.bytes().all(is_value_byte))
    }
}

/// W3C Baggage `baggage-octet` without the percent sign, which would need decoding.
fn is_value_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\' | b'%')
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (key, value)) in self.members().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

//! Pod, namespace and node into a workload: who it is, where it is, and whether the mesh captures it.

use std::sync::Arc;

use super::MeshSettings;
use super::model::{Enrolment, Health, Likeness, Locality, TunnelProtocol, Workload, WorkloadKind};
use crate::config::core::{Labels, Phase};
use crate::config::waypoint::{UseWaypoint, is_of_gateway};
use crate::config::{Namespace, ObjectName, Pod};
use crate::spiffe::Identity;

/// The label that enrols, on namespace and pod.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// Names that every workload shares, so that each is allocated once.
#[derive(Debug)]
pub(crate) struct Constants {
    settings: MeshSettings,
    empty: Arc<str>,
    latest: Arc<str>,
}

impl Constants {
    pub(crate) fn new(settings: MeshSettings) -> Self {
        Self { settings, empty: "".into(), latest: "latest".into() }
    }

    /// What the mesh goes by.
    pub(crate) fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// The namespace whose policies bind the whole mesh.
    pub(crate) fn root_namespace(&self) -> &Arc<str> {
        &self.settings.root_namespace
    }

    /// Istio's workload uid of a pod.
    pub(crate) fn uid(&self, object: &ObjectName) -> Arc<str> {
        format!("{}//Pod/{}/{}", self.settings.cluster, object.namespace, object.name).into()
    }

    /// What the namespace of an object is called.
    pub(crate) fn namespace(&self, object: &ObjectName) -> ObjectName {
        ObjectName { namespace: self.empty.clone(), name: object.namespace.clone() }
    }

    /// The workload a pod of this uid is; `None` for a pod that is over, whose address may be another's by now. `stands` says that
    /// it is of a Gateway that is a waypoint.
    pub(crate) fn workload(
        &self,
        pod: &Pod,
        uid: &Arc<str>,
        namespace: Option<&Namespace>,
        locality: &Arc<Locality>,
        stands: bool,
    ) -> Option<Workload> {
        if pod.phase == Phase::Over {
            return None;
        }
        // A waypoint takes tunnels itself, at the very port that capture would take from it.
        let stands = stands && !pod.host_network && !pod.has_sidecar;
        let enrolled = !stands && enrolled(pod, namespace);
        let (workload_kind, workload_name) = owner(pod);
        let label = |names: &[&str]| names.iter().find_map(|name| pod.labels.get(name)).cloned();
        let likeness = Likeness {
            identity: Identity {
                trust_domain: self.settings.trust_domain.clone(),
                namespace: pod.object.namespace.clone(),
                service_account: pod.service_account.clone(),
            },
            protocol: if stands || enrolled { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            host_network: pod.host_network,
            canonical_name: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
                .unwrap_or_else(|| workload_name.clone()),
            canonical_revision: label(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ])
            .unwrap_or_else(|| self.latest.clone()),
            workload_kind,
            labels: pod.labels.clone(),
            app: label(&["app"]).unwrap_or_else(|| self.empty.clone()),
            version: label(&["version"]).unwrap_or_else(|| self.empty.clone()),
            cluster: self.settings.cluster.clone(),
            enrolment: enrolled.then_some(Enrolment { bypass_inbound: pod.bypass_inbound }),
            probed: pod.probed.clone(),
            waypoint: waypoint(pod, namespace),
        };
        Some(Workload {
            uid: uid.clone(),
            incarnation: pod.uid.clone(),
            name: pod.object.name.clone(),
            addresses: pod.addresses.clone(),
            node: pod.node.clone(),
            workload_name,
            locality: locality.clone(),
            health: if pod.ready { Health::Healthy } else { Health::Unhealthy },
            netns: pod.netns.clone(),
            likeness: Arc::new(likeness),
        })
    }
}

/// The enrolment rule: the pod's own label, if it is a word we know, before its namespace's; never a pod on the
/// host's network, nor one with a proxy of its own.
fn enrolled(pod: &Pod, namespace: Option<&Namespace>) -> bool {
    if pod.host_network || pod.has_sidecar {
        return false;
    }
    let ambient = |labels: &Labels| match labels.get(DATAPLANE_MODE).map(|it| &**it) {
        Some("ambient") => Some(true),
        Some("none") => Some(false),
        _ => None,
    };
    ambient(&pod.labels).or_else(|| ambient(&namespace?.labels)).unwrap_or(false)
}

fn waypoint(pod: &Pod, namespace: Option<&Namespace>) -> Option<ObjectName> {
    let own = UseWaypoint::of(&pod.labels, &pod.object.namespace);
    let inherited = namespace.filter(|_| !is_of_gateway(&pod.labels));
    UseWaypoint::resolve(own.as_ref(), inherited.and_then(|it| UseWaypoint::of(&it.labels, &it.name)))
}

/// The controller by the name its author gave it: Deployment `web` for ReplicaSet `web-6d9f`.
fn owner(pod: &Pod) -> (WorkloadKind, Arc<str>) {
    let Some(owner) = &pod.owner else { return (WorkloadKind::Pod, pod.object.name.clone()) };
    match &*owner.kind {
        "ReplicaSet" => {
            let hash = pod.labels.get("pod-template-hash");
            let stem = match hash {
                Some(hash) => owner.name.strip_suffix(&**hash).and_then(|it| it.strip_suffix('-')),
                // Manifests written by hand leave the hash out; hardly anybody makes a bare ReplicaSet.
                None => owner.name.rsplit_once('-').map(|(stem, _)| stem),
            };
            match stem {
                Some(stem) => {
                    // Mostly the value of a label too, and then there already.
                    let label = pod.labels.iter().map(|(_, value)| value).find(|it| ***it == *stem);
                    (WorkloadKind::Deployment, label.cloned().unwrap_or_else(|| stem.into()))
                }
                None => (WorkloadKind::Pod, owner.name.clone()),
            }
        }
        "Job" => {
            // A CronJob names its Jobs after the minute: `backup-28391040`.
            let cron = owner
                .name
                .rsplit_once('-')
                .filter(|(_, minute)| minute.len() >= 8 && minute.bytes().all(|b| b.is_ascii_digit()));
            match cron {
                Some((stem, _)) => (WorkloadKind::CronJob, stem.into()),
                None => (WorkloadKind::Job, owner.name.clone()),
            }
        }
        _ => (WorkloadKind::Pod, owner.name.clone()),
    }
}

/// Where a node is, from its labels.
pub(crate) fn locality(labels: &Labels) -> Locality {
    let label = |name| labels.get(name).cloned().unwrap_or_else(|| "".into());
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

//! One replica of a Deployment: a pod with its programs running, and the Pod object that tells the mesh of it.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::deployment::Deployment;
use crate::{
    binaries,
    cluster::Pod,
    process::{Process, Spawn},
};

/// Names the network namespace of a pod to a node proxy that has no container runtime to ask.
pub const NETNS_ANNOTATION: &str = "ebb.dev/netns";

/// How long a program may take until it serves.
const START: Duration = Duration::from_secs(10);

/// A running replica. Dropping it ends its programs and removes its namespace.
#[derive(Debug)]
pub struct Replica {
    // Declared before the pod, so that the programs end before the namespace goes.
    processes: Vec<Process>,
    pod: Pod,
    namespace: String,
    name: String,
    uid: String,
    created: String,
    deployment: Deployment,
}

impl Replica {
    /// Starts the programs; [`Replica::wait_until_serving`] sees them through.
    pub(super) fn start(deployment: &Deployment, name: String, pod: Pod) -> Result<Self> {
        let namespace = deployment.namespace.clone();
        let (uid, created) = (new_uid()?, timestamp(OffsetDateTime::now_utc()));
        let deployment = deployment.clone();
        let mut replica = Self { processes: Vec::new(), pod, namespace, name, uid, created, deployment };
        let program = binaries::find("ebb-app")?;
        for container in &replica.deployment.template.spec.containers {
            let labels = &replica.deployment.template.metadata.labels;
            let tag = container.image.split_once(':').map_or("", |(_, tag)| tag);
            let mut spawn = Spawn::new(format!("{}.{}", replica.name, container.name), &program)
                .args(container.program()?)
                .env("POD_NAME", &replica.name)
                .env("POD_VERSION", labels.get("version").map_or(tag, String::as_str));
            for (name, value) in container.environment() {
                spawn = spawn.env(name, value);
            }
            replica.processes.push(replica.pod.spawn(spawn)?);
        }
        Ok(replica)
    }

    pub(super) fn wait_until_serving(&self) -> Result<()> {
        let serving = |process: &Process| process.wait_for_log("ready:", START).map(drop);
        self.processes
            .iter()
            .try_for_each(serving)
            .with_context(|| format!("start pod {}/{}", self.namespace, self.name))
    }

    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Kubernetes namespace it is in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `metadata.uid`, new for each incarnation.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its sandbox: addresses, network namespace, and a place to start further processes.
    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Its containers' programs, in the template's order.
    #[must_use]
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    pub(super) fn hash(&self) -> &str {
        &self.deployment.hash
    }

    pub(super) fn file(&self) -> String {
        format!("pod-{}-{}.yaml", self.namespace, self.name)
    }

    /// The Pod as the API server would give it.
    pub(super) fn manifest(&self) -> Value {
        let Deployment { name: deployment, hash, template, .. } = &self.deployment;
        let (addresses, host) = (self.pod.addresses(), self.pod.node().addresses());
        let ips = |ips: [std::net::IpAddr; 2]| ips.map(|ip| json!({"ip": ip}));
        let mut labels: BTreeMap<_, _> = template.metadata.labels.clone();
        labels.insert("pod-template-hash".into(), hash.clone());
        let mut annotations = template.metadata.annotations.clone();
        annotations.insert(NETNS_ANNOTATION.into(), self.pod.namespace().path().display().to_string());
        let containers = template.spec.containers.iter();
        let containers: Vec<_> = containers
            .map(|container| json!({"name": container.name, "image": container.image, "ports": container.ports}))
            .collect();
        let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": self.created});
        let conditions = ["Initialized", "PodScheduled", "ContainersReady", "Ready"].map(condition);
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "creationTimestamp": self.created,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-{hash}"),
                    "uid": format!("{hash}-{deployment}"), "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {
                "serviceAccountName": template.spec.service_account_name,
                "nodeName": self.pod.node().name(),
                "containers": containers,
            },
            "status": {
                "phase": "Running",
                "podIP": addresses.v4,
                "podIPs": ips(addresses.both()),
                "hostIP": host.v4,
                "hostIPs": ips(host.both()),
                "startTime": self.created,
                "conditions": conditions,
            },
        })
    }
}

fn new_uid() -> Result<String> {
    let uid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a random uuid")?;
    Ok(uid.trim().to_owned())
}

/// RFC 3339 in whole seconds, as the API server writes times.
fn timestamp(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_server_does() {
        assert_eq!(
            timestamp(OffsetDateTime::from_unix_timestamp(1_772_323_200).unwrap()),
            "2026-03-01T00:00:00Z"
        );
    }
}

//! One replica of a Deployment: a pod with its programs running, and the Pod object that tells the mesh of it.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    deployment::{Container, Deployment, GATEWAY_NAME, Program},
    keeper::{Keeper, Objects},
    manifest,
};
use crate::{
    binaries,
    cluster::Pod,
    process::{Process, Spawn},
};

/// Names the network namespace of a pod to a node proxy that has no container runtime to ask.
pub const NETNS_ANNOTATION: &str = "ebb.dev/netns";

/// The role under which the CPU time of waypoints is accounted.
pub const WAYPOINT_ROLE: &str = "waypoint";

/// How long a program may take until it serves.
const START: Duration = Duration::from_secs(10);

/// What a node gives its pods beside a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'a> {
    /// The manifests, where Pods are written and waypoints read.
    pub(super) manifests: &'a Path,
    /// The cluster's certificate authority, which the node proxies use as well.
    pub(super) authority: &'a Path,
}

/// A running replica. Dropping it ends its programs and removes its namespace.
#[derive(Debug)]
pub struct Replica {
    // Declared before the pod, so that the programs end before the namespace goes.
    processes: Vec<Process>,
    keeper: Option<Keeper>,
    pod: Arc<Pod>,
    namespace: String,
    name: String,
    uid: String,
    created: String,
    deployment: Deployment,
}

/// What a Pod's object says of the pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Unready,
    Terminating,
}

impl Replica {
    /// Starts the programs; [`Replica::publish`] sees them through.
    pub(super) fn start(deployment: &Deployment, name: String, pod: Pod, host: Host<'_>) -> Result<Self> {
        let namespace = deployment.namespace.clone();
        let (uid, created) = (new_uid()?, timestamp(OffsetDateTime::now_utc()));
        let (deployment, pod) = (deployment.clone(), Arc::new(pod));
        let (processes, keeper) = (Vec::new(), None);
        let mut replica = Self { processes, keeper, pod, namespace, name, uid, created, deployment };
        for container in &replica.deployment.template.spec.containers {
            let name = format!("{}.{}", replica.name, container.name);
            match container.program()? {
                Program::App(arguments) => {
                    let spawn = Spawn::new(name, binaries::find("ebb-app")?).args(arguments);
                    let spawn = replica.with_environment(container, spawn);
                    replica.processes.push(replica.pod.spawn(spawn)?);
                }
                Program::Waypoint(arguments) => {
                    let spawn = replica.waypoint(name, host)?.args(arguments);
                    let spawn = replica.with_environment(container, spawn);
                    replica.keeper = Some(replica.kept(spawn, host)?);
                }
            }
        }
        Ok(replica)
    }

    fn with_environment(&self, container: &Container, spawn: Spawn) -> Spawn {
        let labels = &self.deployment.template.metadata.labels;
        let tag = container.image.split_once(':').map_or("", |(_, tag)| tag);
        let spawn = spawn
            .env("POD_NAME", &self.name)
            .env("POD_VERSION", labels.get("version").map_or(tag, String::as_str));
        container.environment().fold(spawn, |spawn, (name, value)| spawn.env(name, value))
    }

    /// The shipped waypoint, as its Deployment would run it.
    fn waypoint(&self, name: String, host: Host<'_>) -> Result<Spawn> {
        let template = &self.deployment.template;
        let gateway = template.metadata.labels.get(GATEWAY_NAME).context("a waypoint is of a Gateway")?;
        let spawn = Spawn::new(name, binaries::find("waypoint")?)
            .role(WAYPOINT_ROLE)
            .args(["--manifests".as_ref(), host.manifests.as_os_str()])
            .args(["--gateway".to_owned(), format!("{}/{gateway}", self.namespace)])
            .args(["--ca-dir".as_ref(), host.authority.as_os_str()])
            .env("POD_NAMESPACE", &self.namespace)
            .env("POD_IP", self.pod.addresses().v4.to_string())
            .env("SERVICE_ACCOUNT", &template.spec.service_account_name)
            .env("NODE_NAME", self.pod.node().name())
            .env("RUST_LOG", std::env::var_os("RUST_LOG").unwrap_or_else(|| "info".into()));
        Ok(spawn)
    }

    fn kept(&self, spawn: Spawn, host: Host<'_>) -> Result<Keeper> {
        let objects = Objects {
            ready: self.object(State::Ready),
            unready: self.object(State::Unready),
            terminating: self.object(State::Terminating),
        };
        Keeper::start(Arc::clone(&self.pod), spawn, host.manifests.join(self.file()), objects)
    }

    /// Waits until it serves, and tells of it. A waypoint is not waited for: its Pod says when it is ready.
    pub(super) fn publish(&self, directory: &Path) -> Result<()> {
        if self.keeper.is_some() {
            return Ok(());
        }
        let serving = |process: &Process| process.wait_for_log("ready:", START).map(drop);
        self.processes
            .iter()
            .try_for_each(serving)
            .with_context(|| format!("start pod {}/{}", self.namespace, self.name))?;
        manifest::write(directory, &self.file(), &[self.object(State::Ready)])
    }

    /// Ends it in good order, where it is a waypoint or asks for time by a hook.
    pub(super) fn retire(&mut self, directory: &Path) -> Result<()> {
        if let Some(keeper) = &mut self.keeper {
            return keeper.retire();
        }
        let hooks = self.deployment.template.spec.containers.iter().filter_map(Container::stops_after);
        if let Some(longest) = hooks.max() {
            manifest::write(directory, &self.file(), &[self.object(State::Terminating)])?;
            std::thread::sleep(longest);
        }
        Ok(())
    }

    /// Whether its Pod says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.keeper.as_ref().is_none_or(Keeper::is_ready)
    }

    /// The program of a waypoint that runs now, or ended last; `None` for other pods. When it ends, another is started
    /// in its place.
    #[must_use]
    pub fn waypoint_process(&self) -> Option<Arc<Process>> {
        self.keeper.as_ref().map(Keeper::process)
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

    /// The Gateway whose pod it is labelled to be, in its own namespace.
    #[must_use]
    pub fn gateway(&self) -> Option<&str> {
        self.deployment.template.metadata.labels.get(GATEWAY_NAME).map(String::as_str)
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
    fn object(&self, state: State) -> Value {
        let Deployment { name: deployment, hash, template, .. } = &self.deployment;
        let (addresses, host) = (self.pod.addresses(), self.pod.node().addresses());
        let ips = |ips: [std::net::IpAddr; 2]| ips.map(|ip| json!({"ip": ip}));
        let mut labels: BTreeMap<_, _> = template.metadata.labels.clone();
        labels.insert("pod-template-hash".into(), hash.clone());
        let mut annotations = template.metadata.annotations.clone();
        annotations.insert(NETNS_ANNOTATION.into(), self.pod.namespace().path().display().to_string());
        let containers: Vec<_> = template.spec.containers.iter().map(Container::shown).collect();
        let ready = if state == State::Ready { "True" } else { "False" };
        let condition =
            |(kind, status)| json!({"type": kind, "status": status, "lastTransitionTime": self.created});
        let conditions =
            [("Initialized", "True"), ("PodScheduled", "True"), ("ContainersReady", ready), ("Ready", ready)];
        let mut object = json!({
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
                "conditions": conditions.map(condition),
            },
        });
        if state == State::Terminating {
            object["metadata"]["deletionTimestamp"] = self.created.as_str().into();
        }
        object
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

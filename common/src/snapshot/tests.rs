//! Each test states manifests as an operator would and asks the snapshot.

mod enforcement;
mod enrolment;
mod entries;
mod equivalence;
mod mesh_config;
mod routing;
mod serving;
mod waypoints;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::Workload;
use super::{Mesh, MeshSettings, Snapshot};
use crate::config::decode::yaml;
use crate::config::names::Names;
use crate::config::{Batch, Key, Removal};

/// A mesh made of files that can be written and deleted.
pub(super) struct Desk {
    mesh: Mesh,
    names: Names,
    files: BTreeMap<Arc<str>, Vec<Key>>,
    pub(super) now: Arc<Snapshot>,
}

impl Desk {
    pub(super) fn new() -> Self {
        let mesh = Mesh::new(MeshSettings::default());
        Self { mesh, names: Names::default(), files: BTreeMap::new(), now: Arc::default() }
    }

    /// A mesh with one file.
    pub(super) fn with(text: &str) -> Self {
        let mut desk = Self::new();
        desk.write("mesh.yaml", text);
        desk
    }

    /// Writes a file, whole.
    pub(super) fn write(&mut self, file: &str, text: &str) -> &Arc<Snapshot> {
        let file: Arc<str> = file.into();
        let decoded = yaml::decode(&file, text.as_bytes(), &mut self.names);
        let keys: Vec<Key> = decoded.stated.iter().map(|it| it.resource.key()).collect();
        let before = self.files.insert(file.clone(), keys.clone()).unwrap_or_default();
        let gone = before.into_iter().filter(|it| !keys.contains(it));
        let removals = gone.map(|key| Removal { file: file.clone(), key }).collect();
        self.now = self.mesh.apply(Batch {
            reread: vec![file.clone()],
            upserts: decoded.stated,
            removals,
            rejected: decoded.rejected,
            ..Batch::default()
        });
        &self.now
    }

    /// Tells what was found for a name.
    pub(super) fn resolve(&mut self, found: (Arc<str>, Box<[std::net::IpAddr]>)) -> &Arc<Snapshot> {
        self.now = self.mesh.apply(Batch { resolved: vec![found], ..Batch::default() });
        &self.now
    }

    /// That nothing was turned away; says what was.
    pub(super) fn all_good(self) -> Self {
        let rejected: Vec<String> = self.now.rejected().iter().map(ToString::to_string).collect();
        assert!(rejected.is_empty(), "{rejected:#?}");
        self
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Arc<Workload> {
        self.find(namespace, name).unwrap_or_else(|| panic!("no workload {namespace}/{name}"))
    }

    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Workload>> {
        self.now.workload(&format!("Kubernetes//Pod/{namespace}/{name}")).cloned()
    }
}

pub(super) fn namespace(name: &str, mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    istio.io/dataplane-mode: {mode}\n"
    )
}

/// A running pod: `extra` goes below `metadata`, labels as `key: value` pairs.
pub(super) fn pod(name: &str, address: &str, labels: &[(&str, &str)]) -> String {
    pod_with(name, address, labels, "", "")
}

pub(super) fn pod_with(name: &str, ip: &str, labels: &[(&str, &str)], metadata: &str, spec: &str) -> String {
    let labels: String = labels.iter().map(|(k, v)| format!("    {k}: \"{v}\"\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels:\n    x: x\n{labels}{metadata}\
         spec:\n  nodeName: n1\n  serviceAccountName: web\n{spec}status:\n  phase: Running\n  podIP: {ip}\n"
    )
}

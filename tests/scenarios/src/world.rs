//! A mesh of files, and who reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, Key, Removal};
use common::snapshot::publish::{Publisher, Reader, channel};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use tokio_util::sync::CancellationToken;
use ztunnel::netns::Netns;
use ztunnel::pods::Pod;

/// A mesh made of files that are written and deleted; each change is published at once.
pub struct World {
    mesh: Mesh,
    names: Names,
    files: BTreeMap<Arc<str>, Vec<Key>>,
    publisher: Publisher,
    reader: Reader,
}

impl Default for World {
    fn default() -> Self {
        let (publisher, reader) = channel();
        let mesh = Mesh::new(MeshSettings::default());
        Self { mesh, names: Names::default(), files: BTreeMap::new(), publisher, reader }
    }
}

impl World {
    /// Writes a file, whole; nothing removes it.
    pub fn write(&mut self, file: &str, text: &str) -> Arc<Snapshot> {
        let file: Arc<str> = file.into();
        let decoded = yaml::decode(&file, text.as_bytes(), &mut self.names);
        let keys: Vec<Key> = decoded.stated.iter().map(|it| it.resource.key()).collect();
        let before = self.files.insert(file.clone(), keys.clone()).unwrap_or_default();
        let gone = before.into_iter().filter(|it| !keys.contains(it));
        let removals = gone.map(|key| Removal { file: file.clone(), key }).collect();
        let now = self.mesh.apply(Batch {
            reread: vec![file],
            upserts: decoded.stated,
            removals,
            rejected: decoded.rejected,
            ..Batch::default()
        });
        self.publisher.publish(now.clone());
        now
    }

    /// A reader of what is published.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// What is current.
    pub fn now(&self) -> Arc<Snapshot> {
        self.reader.current()
    }

    /// The pod `shop/<name>` as it is now, as if it were served here.
    ///
    /// # Panics
    /// When the mesh has no such pod.
    pub fn pod(&self, name: &str) -> Arc<Pod> {
        let now = self.now();
        let workload = now.workload(&format!("Kubernetes//Pod/shop/{name}")).expect("the mesh has this pod");
        Arc::new(Pod {
            uid: workload.uid.clone(),
            incarnation: workload.incarnation.clone(),
            identity: workload.identity.clone(),
            addresses: workload.addresses.clone(),
            listeners: Box::default(),
            netns: Arc::new(Netns::open("/proc/self/ns/net").expect("a process has a network namespace")),
            closing: CancellationToken::new(),
            gone: CancellationToken::new(),
            open: AtomicUsize::new(0),
        })
    }
}

/// The namespace `shop`, in the mesh.
pub const SHOP: &str = "---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
";

/// A ready pod of `shop`, labelled `app: <app>`; `uid` tells its incarnations apart.
pub fn pod(name: &str, address: &str, app: &str, uid: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {uid}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: n1, serviceAccountName: {name}}}\n\
         status: {{phase: Running, podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

/// An AuthorizationPolicy of `shop` for `app: web`.
pub fn policy(name: &str, action: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: web}}}}, action: {action}, rules: [{rules}]}}\n"
    )
}

/// A rule for callers with the service account `shop/<account>`.
pub fn from(account: &str) -> String {
    format!("{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/{account}]}}}}]}}")
}

//! Plays kubelet, scheduler and API server on a directory of manifests, which the node proxies read as well.
//!
//! The user's files are kept as the user wrote them; Deployments in them become running pods, and for each pod there is one
//! more file with its Pod object. Services are nobody's business here: without a mesh their addresses lead nowhere.

mod deployment;
mod keeper;
mod manifest;
mod replica;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

pub use self::replica::{NETNS_ANNOTATION, Replica, WAYPOINT_ROLE};
use self::{deployment::Deployment, manifest::Object, replica::Host};
use crate::{
    cluster::{Addresses, Cluster, Node},
    run::Run,
};

/// The file with the Node objects.
const NODES_FILE: &str = "00-nodes.yaml";

/// What the names of files with Pod objects begin with.
const POD_FILE: &str = "pod-";

/// Whether a recreated pod keeps the addresses of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The same addresses, as a fast-reusing CNI gives them.
    Same,
    /// The next free ones.
    New,
}

/// A Deployment by namespace and name.
type Key = (String, String);

/// Runs the pods of a manifest directory on a cluster's nodes.
#[derive(Debug)]
pub struct Kubelet {
    // Before the nodes, so that pods go first.
    replicas: BTreeMap<Key, Vec<Replica>>,
    scales: BTreeMap<Key, u32>,
    handed_down: VecDeque<(Key, Addresses)>,
    node_labels: BTreeMap<String, BTreeMap<String, String>>,
    placed: usize,
    directory: PathBuf,
    nodes: Vec<Arc<Node>>,
    run: Arc<Run>,
}

impl Kubelet {
    /// Starts on an empty directory of the cluster's run, with the Node objects in it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let run = Arc::clone(cluster.run());
        let directory = run.directory().join("manifests");
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let kubelet = Self {
            replicas: BTreeMap::new(),
            scales: BTreeMap::new(),
            handed_down: VecDeque::new(),
            node_labels: cluster
                .nodes()
                .iter()
                .map(|node| (node.name().to_owned(), node_labels(node)))
                .collect(),
            placed: 0,
            directory,
            nodes: cluster.nodes().to_vec(),
            run,
        };
        kubelet.write_nodes()?;
        Ok(kubelet)
    }

    /// The directory to point node proxies at.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts a manifest file in place, over any of the same name, and makes the pods it asks for.
    ///
    /// # Errors
    /// It does not parse, then nothing changes; or a pod cannot be started.
    pub fn apply(&mut self, file: &str, yaml: &str) -> Result<()> {
        self.place(file, yaml)?;
        self.reconcile()
    }

    /// Applies a file, or every `*.yaml` of a directory, under their own names.
    ///
    /// # Errors
    /// As [`Kubelet::apply`].
    pub fn apply_path(&mut self, path: &Path) -> Result<()> {
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
            files = entries.flatten().map(|entry| entry.path()).filter(|path| is_manifest(path)).collect();
            files.sort();
        }
        for file in &files {
            let name =
                file.file_name().and_then(|name| name.to_str()).context("a manifest has a UTF-8 name")?;
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            self.place(name, &text)?;
        }
        self.reconcile()
    }

    /// Takes a manifest file away, and the pods that only it asked for.
    ///
    /// # Errors
    /// There is no such file.
    pub fn delete(&mut self, file: &str) -> Result<()> {
        ensure!(!is_own(file), "{file} is not the user's");
        fs::remove_file(self.directory.join(file)).with_context(|| format!("delete {file}"))?;
        self.reconcile()
    }

    /// Changes the number of replicas until the Deployment's file is next applied.
    ///
    /// # Errors
    /// No such Deployment, or a pod cannot be started.
    pub fn scale(&mut self, namespace: &str, deployment: &str, replicas: u32) -> Result<()> {
        let key = key(namespace, deployment);
        ensure!(self.desired()?.contains_key(&key), "no Deployment {namespace}/{deployment}");
        self.scales.insert(key, replicas);
        self.reconcile()
    }

    /// The replicas of a Deployment, oldest first.
    #[must_use]
    pub fn replicas(&self, namespace: &str, deployment: &str) -> &[Replica] {
        self.replicas.get(&key(namespace, deployment)).map_or(&[], Vec::as_slice)
    }

    /// The first replica of a Deployment.
    ///
    /// # Errors
    /// It has none.
    pub fn replica(&self, namespace: &str, deployment: &str) -> Result<&Replica> {
        let first = self.replicas(namespace, deployment).first();
        first.with_context(|| format!("no replica of Deployment {namespace}/{deployment}"))
    }

    /// Every replica of every Deployment.
    pub fn all_replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values().flatten()
    }

    /// Deletes a pod and lets its Deployment replace it; returns the new pod's name.
    ///
    /// # Errors
    /// No such pod, or the new one cannot be started.
    pub fn recreate(&mut self, namespace: &str, pod: &str, address: Address) -> Result<String> {
        let found = self.replicas.iter().find_map(|(key, replicas)| {
            let at = replicas
                .iter()
                .position(|replica| replica.namespace() == namespace && replica.name() == pod)?;
            Some((key.clone(), at))
        });
        let (key, at) = found.with_context(|| format!("no pod {namespace}/{pod}"))?;
        let old = self
            .replicas
            .get_mut(&key)
            .map(|replicas| replicas.remove(at))
            .context("the pod was just found")?;
        let addresses = old.pod().addresses();
        self.remove(old)?;
        if address == Address::Same {
            self.handed_down.push_back((key.clone(), addresses));
        }
        self.reconcile()?;
        let new = self.replicas.get(&key).and_then(|replicas| replicas.last());
        Ok(new.context("the Deployment no longer wants that pod")?.name().to_owned())
    }

    /// Gives the next new pod of a Deployment exactly these free addresses, and so their node, whose they are.
    pub fn hand_down(&mut self, addresses: Addresses, namespace: &str, deployment: &str) {
        self.handed_down.push_back((key(namespace, deployment), addresses));
    }

    /// Sets or removes a label of a Namespace, rewriting the file that holds it.
    ///
    /// # Errors
    /// No applied file holds that Namespace.
    pub fn label_namespace(&mut self, namespace: &str, label: &str, value: Option<&str>) -> Result<()> {
        for (file, mut objects) in self.files()? {
            let is_it = |object: &&mut Object| object.kind() == "Namespace" && object.name() == namespace;
            let Some(object) = objects.iter_mut().find(is_it) else { continue };
            set_label(&mut object.0, label, value)?;
            let documents: Vec<_> = objects.into_iter().map(|object| object.0).collect();
            return manifest::write(&self.directory, &file, &documents);
        }
        bail!("no applied file holds Namespace {namespace}")
    }

    /// Sets or removes a label of a Node.
    ///
    /// # Errors
    /// No such node.
    pub fn label_node(&mut self, node: &str, label: &str, value: Option<&str>) -> Result<()> {
        let labels = self.node_labels.get_mut(node).with_context(|| format!("no node {node}"))?;
        match value {
            Some(value) => labels.insert(label.into(), value.into()),
            None => labels.remove(label),
        };
        self.write_nodes()
    }

    fn place(&mut self, file: &str, yaml: &str) -> Result<()> {
        ensure!(!is_own(file), "{file} is a name the kubelet writes itself");
        ensure!(
            is_manifest(Path::new(file)) && !file.contains('/'),
            "{file} is not a plain name ending in .yaml"
        );
        for object in manifest::parse(file, yaml)? {
            match object.kind() {
                "Deployment" => {
                    let deployment = Deployment::read(&object)?;
                    self.scales.remove(&(deployment.namespace, deployment.name));
                }
                "Pod" => bail!("{file} holds Pod {}; write a Deployment, whose pods are run", object.name()),
                _ => {}
            }
        }
        manifest::write_text(&self.directory, file, yaml)
    }

    /// Makes what runs the same as what the files ask for.
    fn reconcile(&mut self) -> Result<()> {
        let desired = self.desired()?;
        let known: BTreeSet<Key> = self.replicas.keys().chain(desired.keys()).cloned().collect();
        let mut started = Vec::new();
        for key in known {
            let deployment = desired.get(&key);
            let wanted = deployment
                .map_or(0, |deployment| self.scales.get(&key).copied().unwrap_or(deployment.replicas));
            let current = self.replicas.remove(&key).unwrap_or_default();
            let (mut kept, mut surplus): (Vec<_>, Vec<_>) = current
                .into_iter()
                .partition(|replica| deployment.is_some_and(|wish| wish.hash == replica.hash()));
            surplus.extend(kept.split_off(kept.len().min(wanted as usize)));
            surplus.into_iter().try_for_each(|replica| self.remove(replica))?;
            let missing = wanted as usize - kept.len();
            self.replicas.insert(key.clone(), kept);
            if let Some(deployment) = deployment {
                for _ in 0..missing {
                    started.push((key.clone(), self.start_replica(deployment)?));
                }
            }
        }
        // All have been started, so all start at once, and only then is each waited for.
        for (key, replica) in started {
            replica.publish(&self.directory)?;
            self.replicas.entry(key).or_default().push(replica);
        }
        Ok(())
    }

    fn start_replica(&mut self, deployment: &Deployment) -> Result<Replica> {
        let key = key(&deployment.namespace, &deployment.name);
        let suffix = deployment::suffix(self.run.next_number());
        let name = format!("{}-{}-{suffix}", deployment.name, deployment.hash);
        let sandbox = format!("{}-{name}", deployment.namespace);
        let inherited = self.handed_down.iter().position(|(heir, _)| *heir == key);
        let pod = match inherited.and_then(|at| self.handed_down.remove(at)) {
            Some((_, addresses)) => self.node_of(addresses)?.add_pod_at(&sandbox, addresses),
            None => self.place_for(deployment)?.add_pod(&sandbox),
        };
        let authority = self.run.authority()?;
        let host = Host { manifests: &self.directory, authority: &authority };
        Replica::start(deployment, name, pod?, host)
    }

    fn node_of(&self, addresses: Addresses) -> Result<Arc<Node>> {
        let number = addresses.v4.octets()[2];
        let node = self.nodes.iter().find(|node| node.number() == number);
        Ok(Arc::clone(node.with_context(|| format!("no node has pods with {addresses}"))?))
    }

    fn place_for(&mut self, deployment: &Deployment) -> Result<Arc<Node>> {
        if let Some(name) = &deployment.template.spec.node_name {
            let node = self.nodes.iter().find(|node| node.name() == name);
            return node
                .cloned()
                .with_context(|| format!("no node {name} for Deployment {}", deployment.name));
        }
        self.placed += 1;
        Ok(Arc::clone(&self.nodes[(self.placed - 1) % self.nodes.len()]))
    }

    /// As in Kubernetes the Pod object outlives the pod: programs and namespace go first.
    fn remove(&self, mut replica: Replica) -> Result<()> {
        replica.retire(&self.directory)?;
        let file = self.directory.join(replica.file());
        drop(replica);
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        }
        Ok(())
    }

    fn desired(&self) -> Result<BTreeMap<Key, Deployment>> {
        let objects: Vec<_> = self.files()?.into_values().flatten().collect();
        let namespaces = objects.iter().filter(|object| object.kind() == "Namespace").map(Object::name);
        let namespaces: BTreeSet<_> = namespaces.chain(["default"]).collect();
        let mut desired = BTreeMap::new();
        for object in objects.iter().filter(|object| object.kind() == "Deployment") {
            let deployment = Deployment::read(object)?;
            let (namespace, name) = (&deployment.namespace, &deployment.name);
            ensure!(
                namespaces.contains(namespace.as_str()),
                "Deployment {namespace}/{name} is in no known Namespace"
            );
            ensure!(
                !desired.contains_key(&key(namespace, name)),
                "two files hold Deployment {namespace}/{name}"
            );
            desired.insert(key(namespace, name), deployment);
        }
        Ok(desired)
    }

    /// The user's files with their objects, by name.
    fn files(&self) -> Result<BTreeMap<String, Vec<Object>>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.directory).context("read the manifest directory")?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_manifest(Path::new(&name)) && !is_own(&name) {
                let text = fs::read_to_string(entry.path()).with_context(|| format!("read {name}"))?;
                let objects = manifest::parse(&name, &text)?;
                files.insert(name, objects);
            }
        }
        Ok(files)
    }

    fn write_nodes(&self) -> Result<()> {
        let objects: Vec<_> =
            self.nodes.iter().map(|node| node_object(node, &self.node_labels[node.name()])).collect();
        manifest::write(&self.directory, NODES_FILE, &objects)
    }
}

fn key(namespace: &str, deployment: &str) -> Key {
    (namespace.to_owned(), deployment.to_owned())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml")
}

/// Names that the kubelet writes itself. A pod's file is `pod-NAMESPACE-NAME.yaml`.
fn is_own(file: &str) -> bool {
    file == NODES_FILE || file.starts_with(POD_FILE)
}

fn set_label(object: &mut Value, label: &str, value: Option<&str>) -> Result<()> {
    let metadata =
        object.get_mut("metadata").and_then(Value::as_object_mut).context("an object has metadata")?;
    let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    let labels = labels.as_object_mut().context("labels are a mapping")?;
    match value {
        Some(value) => labels.insert(label.into(), value.into()),
        None => labels.remove(label),
    };
    Ok(())
}

fn node_labels(node: &Node) -> BTreeMap<String, String> {
    let labels = [
        ("kubernetes.io/hostname", node.name().to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("topology.kubernetes.io/region", "region-1".to_owned()),
        ("topology.kubernetes.io/zone", format!("zone-{}", node.number())),
    ];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

fn node_object(node: &Node, labels: &BTreeMap<String, String>) -> Value {
    let internal = node.addresses().both().map(|address| json!({"type": "InternalIP", "address": address}));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name(), "uid": format!("{}-uid", node.name()), "labels": labels},
        "spec": {"podCIDR": node.pod_ranges()[0], "podCIDRs": node.pod_ranges()},
        "status": {"addresses": internal},
    })
}

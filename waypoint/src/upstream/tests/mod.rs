//! Each test states manifests as an operator would, takes them over, and asks for endpoints.

mod admission;
mod clusters;
mod hashing;
mod locality;
mod outlier;
mod picking;
mod policy;
mod rules;
mod securing;
mod subsets;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, Key, ObjectName, Removal};
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Cluster, ClusterKey, Clusters, NoUpstream, PickFacts, Picked, Pickers, Vantage};

/// A mesh of files, the clusters that follow it, and one worker of a waypoint in the namespace `edge`.
struct Desk {
    mesh: Mesh,
    names: Names,
    files: BTreeMap<Arc<str>, Vec<Key>>,
    snapshot: Arc<Snapshot>,
    clusters: Clusters,
    pickers: Pickers,
    rng: StdRng,
    now: Instant,
}

impl Desk {
    /// A mesh with one file.
    fn new(text: &str) -> Self {
        let (settings, now) = (MeshSettings::default(), Instant::now());
        let vantage = Vantage::new(&settings, ObjectName::new("edge", "waypoint"));
        let mut desk = Self {
            mesh: Mesh::new(settings),
            names: Names::default(),
            files: BTreeMap::new(),
            snapshot: Arc::default(),
            clusters: Clusters::new(vantage, now),
            pickers: Pickers::default(),
            rng: StdRng::seed_from_u64(7),
            now,
        };
        desk.write("mesh.yaml", text);
        desk
    }

    /// Writes a file, whole; nothing in it may be turned away.
    fn write(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let decoded = yaml::decode(&file, text.as_bytes(), &mut self.names);
        assert!(decoded.rejected.is_empty(), "{:#?}", decoded.rejected);
        let keys: Vec<Key> = decoded.stated.iter().map(|it| it.resource.key()).collect();
        let before = self.files.insert(file.clone(), keys.clone()).unwrap_or_default();
        let gone = before.into_iter().filter(|it| !keys.contains(it));
        let removals = gone.map(|key| Removal { file: file.clone(), key }).collect();
        let reread = vec![file.clone()];
        let batch = Batch { reread, upserts: decoded.stated, removals, ..Batch::default() };
        self.snapshot = self.mesh.apply(batch);
        self.clusters.update(&self.snapshot, self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The cluster of `web` in `shop`, port 80.
    fn web(&self) -> Arc<Cluster> {
        self.cluster("web", None)
    }

    fn cluster(&self, service: &str, subset: Option<&str>) -> Arc<Cluster> {
        self.clusters.get(&key(service, subset)).unwrap()
    }

    fn pick(&mut self, cluster: &Arc<Cluster>) -> Result<Picked, NoUpstream> {
        self.pick_by(cluster, facts())
    }

    fn pick_by(&mut self, cluster: &Arc<Cluster>, facts: PickFacts<'_>) -> Result<Picked, NoUpstream> {
        self.pickers.pick(cluster, &facts, self.now, &mut self.rng)
    }

    /// How often each endpoint is picked, by the last part of its address; each request is over before the next.
    fn tally(&mut self, cluster: &Arc<Cluster>, times: usize) -> BTreeMap<u8, usize> {
        let mut found = BTreeMap::new();
        for _ in 0..times {
            *found.entry(last(self.pick(cluster).unwrap().address)).or_default() += 1;
        }
        found
    }

    /// The endpoints that are picked at all.
    fn seen(&mut self, cluster: &Arc<Cluster>) -> Vec<u8> {
        self.tally(cluster, 300).into_keys().collect()
    }
}

fn key(service: &str, subset: Option<&str>) -> ClusterKey {
    ClusterKey { service: ObjectName::new("shop", service), port: 80, subset: subset.map(Into::into) }
}

fn facts() -> PickFacts<'static> {
    PickFacts::connection("10.9.9.9:40000".parse().unwrap(), "10.96.0.1:80".parse().unwrap())
}

/// The last part of an IPv4 address.
fn last(address: SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(it) => it.ip().octets()[3],
        SocketAddr::V6(_) => panic!("{address}"),
    }
}

/// `web` in `shop` at 10.96.0.1:80, and so many ready pods of version `v1` at 10.0.0.1:8080 and following.
fn web(pods: u8) -> String {
    service("web") + &(1..=pods).map(|n| pod(n, "v1")).collect::<String>()
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterIP: 10.96.0.1\n  \
         selector: {{app: web}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp, port: 81, targetPort: 8081}}]\n"
    )
}

/// Pod n of `web`, at 10.0.0.n on the node `n<n>`.
fn pod(n: u8, version: &str) -> String {
    pod_with(n, version, &format!("uid-{n}"), "Running")
}

fn pod_with(n: u8, version: &str, uid: &str, phase: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web-{n}\n  namespace: shop\n  uid: {uid}\n  labels: {{app: web, \
         version: {version}}}\nspec: {{nodeName: n{n}}}\nstatus: {{phase: {phase}, podIP: 10.0.0.{n}}}\n"
    )
}

/// A rule in `shop` for a host.
fn rule(host: &str, spec: &str) -> String {
    rule_in("shop", "rule", host, spec)
}

fn rule_in(namespace: &str, name: &str, host: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec:\n  host: \"{host}\"\n{spec}"
    )
}

/// A rule for `web` with this traffic policy, in flow style.
fn policy_of_web(policy: &str) -> String {
    rule("web", &format!("  trafficPolicy: {{{policy}}}\n"))
}

//! A mesh of a thousand workloads, fifty services of theirs, and as many policies as workloads.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use common::config::Batch;
use common::config::decode::yaml;
use common::config::names::Names;
use common::snapshot::model::Workload;
use common::snapshot::{Mesh, Snapshot};

/// Workloads, and policies.
pub(crate) const WORKLOADS: usize = 1_000;
/// Workloads of one service, and of one namespace.
const PER_SERVICE: usize = 20;

/// What is said by manifests, all of which have to be right.
pub(crate) fn snapshot(text: &str) -> Result<Arc<Snapshot>> {
    let file: Arc<str> = "mesh.yaml".into();
    let decoded = yaml::decode(&file, text.as_bytes(), &mut Names::default());
    ensure!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let batch = Batch { reread: vec![file], upserts: decoded.stated, ..Batch::default() };
    Ok(Mesh::new(Default::default()).apply(batch))
}

/// Everything: namespaces, services, pods, and for each pod a policy of its own that admits the one before.
pub(crate) fn large() -> Result<Arc<Snapshot>> {
    let mut text = String::new();
    for service in 0..WORKLOADS / PER_SERVICE {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop-{service}, labels: \
             {{istio.io/dataplane-mode: ambient}}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web-{service}, \
             namespace: shop-{service}}}\nspec: {{clusterIP: 10.96.0.{}, selector: {{app: web-{service}}}, ports: [{{name: \
             http, port: 80, targetPort: 8080}}]}}",
            service + 1
        )?;
    }
    text += &pods();
    for i in 0..WORKLOADS {
        writeln!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{i}, namespace: \
             shop-{}}}\nspec:\n  selector: {{matchLabels: {{one: n{i}}}}}\n  rules:\n  - from: [{{source: {{principals: \
             [cluster.local/ns/shop-{}/sa/a{i}]}}}}]\n    to: [{{operation: {{ports: ['8080']}}}}]",
            i / PER_SERVICE,
            i / PER_SERVICE
        )?;
    }
    snapshot(&text)
}

/// The pods alone, written as `kubectl get -o yaml` writes them.
pub(crate) fn pods() -> String {
    (0..WORKLOADS).map(pod).collect()
}

fn pod(i: usize) -> String {
    let (service, [high, low]) = (i / PER_SERVICE, [i / 250, i % 250 + 1]);
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: web-{i}
  namespace: shop-{service}
  uid: 00000000-0000-4000-8000-{i:012}
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  labels:
    app: web-{service}
    one: n{i}
    version: v1
    pod-template-hash: abcdef
  ownerReferences:
    - apiVersion: apps/v1
      kind: ReplicaSet
      name: web-{service}-abcdef
      controller: true
spec:
  nodeName: node-{}
  serviceAccountName: a{i}
  containers:
    - name: app
      image: registry.example/app:1
      args: [\"--listen\", \"0.0.0.0:8080\"]
      ports:
        - containerPort: 8080
          name: http
status:
  phase: Running
  podIP: 10.0.{high}.{low}
  conditions:
    - type: Ready
      status: \"True\"
",
        i % 10
    )
}

/// The workloads in the order of their numbers.
pub(crate) fn workloads(mesh: &Snapshot) -> Result<Vec<Arc<Workload>>> {
    let of = |i: usize| {
        let uid = format!("Kubernetes//Pod/shop-{}/web-{i}", i / PER_SERVICE);
        mesh.workload(&uid).cloned().with_context(|| format!("no {uid}"))
    };
    (0..WORKLOADS).map(of).collect()
}

//! A mesh for tests of the decisions, stated as manifests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use common::config::Batch;
use common::config::decode::yaml;
use common::config::names::Names;
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use tokio_util::sync::CancellationToken;

use crate::flow::Flow;
use crate::netns::Netns;
use crate::pods::Pod;

/// Two enrolled pods, `client` 10.0.0.2 (fd00::2) and `web` 10.0.0.3 (fd00::3); `plain` 10.0.0.4 outside the mesh; a
/// service `web` 10.96.0.10:80 -> 8080, one `plain` 10.96.0.11 and one without endpoints, `empty` 10.96.0.12.
pub(crate) const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: u1}
spec: {nodeName: n1, serviceAccountName: client}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u2, labels: {app: web}}
spec: {nodeName: n2, serviceAccountName: web}
status: {phase: Running, podIPs: [{ip: 10.0.0.3}, {ip: 'fd00::3'}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: outside, uid: u3, labels: {app: plain}}
spec: {nodeName: n2}
status: {phase: Running, podIPs: [{ip: 10.0.0.4}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIPs: [10.96.0.10, 'fd00:96::10'], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: outside}
spec: {clusterIP: 10.96.0.11, selector: {app: plain}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.12, selector: {app: nobody}, ports: [{port: 80}]}
";

/// The waypoint `shop/wp`, which stands for what is put in.
pub(crate) const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, labels: {istio.io/waypoint-for: STANDS_FOR}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
";

/// Its pod, at 10.0.0.9 and fd00::9.
pub(crate) const WAYPOINT_POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, uid: wp-1, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: n2, serviceAccountName: waypoint}
status: {phase: Running, podIPs: [{ip: 10.0.0.9}, {ip: 'fd00::9'}], conditions: [{type: Ready, status: 'True'}]}
---
";

/// Namespace `shop` uses the waypoint `wp`, which stands for what is said and has no pod.
pub(crate) fn behind_waypoint(stands_for: &str) -> String {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {istio.io/dataplane-mode: \
                     ambient, istio.io/use-waypoint: wp}\n---\n";
    namespace.to_owned() + &GATEWAY.replace("STANDS_FOR", stands_for)
}

/// The mesh above with further manifests.
pub(crate) fn mesh(more: &str) -> Arc<Snapshot> {
    let text = format!("{MESH}---\n{more}");
    let decoded = yaml::decode(&"mesh.yaml".into(), text.as_bytes(), &mut Names::default());
    let mut mesh = Mesh::new(MeshSettings::default());
    mesh.apply(Batch {
        reread: vec!["mesh.yaml".into()],
        upserts: decoded.stated,
        removals: Vec::new(),
        rejected: decoded.rejected,
        ..Batch::default()
    })
}

/// The pod `shop/<name>` of `mesh`, as if it were served here.
pub(crate) fn pod(mesh: &Snapshot, name: &str) -> Arc<Pod> {
    let workload = mesh.workload(&format!("Kubernetes//Pod/shop/{name}")).expect("the mesh has this pod");
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

/// A connection of the pod's, from `client` to `original`.
pub(crate) fn flow(pod: &Arc<Pod>, client: &str, original: &str) -> Flow {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
    Flow::new(pod.clone(), parse(client), parse(original))
}

//! Writes the manifests that Ebb reads: what a user or kubelet would have in the cluster, and nothing else. Pure text.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use harness::{
    cluster::{Node, Pod},
    kubelet::NETNS_ANNOTATION,
};

use crate::systems::routes;

/// The namespace of everything here but what is not in the mesh; enrolled.
pub(super) const NAMESPACE: &str = "bench";

/// The namespace of what is not.
const OUTSIDE: &str = "outside";

/// The service of the server's pod, and its pods' label `app`.
pub(super) const SERVICE: &str = "server";

/// Services in one file. Which file a service is in does not matter; a file has a bound.
const SERVICES_PER_FILE: u32 = 500;

/// Pods that fit in 10.0.0.0/8 without a thought about node ranges.
const PODS_MAX: u32 = 1 << 20;

/// Pods of each service account in a large mesh, and of each node.
const PODS_PER_ACCOUNT: u32 = 10;
const PODS_PER_NODE: u32 = 100;

/// What one Pod manifest says.
#[derive(Clone, Debug)]
struct Facts<'a> {
    name: &'a str,
    namespace: &'a str,
    account: &'a str,
    node: &'a str,
    address: Ipv4Addr,
    host: Ipv4Addr,
    /// The pod's network namespace, where it is a pod of this machine.
    netns: Option<PathBuf>,
    /// The Gateway whose waypoint it is.
    gateway: Option<&'a str>,
}

/// A pod of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    /// The pod.
    pub(super) pod: &'a Pod,
    /// Whether it is in the mesh.
    pub(super) in_mesh: bool,
}

/// Writes what the mesh of these pods consists of into a new directory.
pub(super) fn write_small(directory: &Path, members: &[Member<'_>]) -> Result<()> {
    fs::create_dir(directory).with_context(|| format!("create {}", directory.display()))?;
    let mut cluster = namespace(NAMESPACE, true);
    if members.iter().any(|member| !member.in_mesh) {
        cluster += "---\n";
        cluster += &namespace(OUTSIDE, false);
    }
    let nodes: BTreeMap<&str, &Node> =
        members.iter().map(|member| (member.pod.node().name(), member.pod.node().as_ref())).collect();
    for (name, node) in nodes {
        cluster += &node_object(name, node.addresses().v4);
    }
    for member in members {
        let (pod, node) = (member.pod, member.pod.node());
        let namespace = if member.in_mesh { NAMESPACE } else { OUTSIDE };
        cluster += &service_account(pod.name(), namespace);
        cluster += &Facts {
            name: pod.name(),
            namespace,
            account: pod.name(),
            node: node.name(),
            address: pod.addresses().v4,
            host: node.addresses().v4,
            netns: Some(pod.namespace().path()),
            gateway: None,
        }
        .manifest();
    }
    write(directory, "mesh", &cluster)
}

/// A policy of the server that refuses the connections of `account`.
pub(super) fn refusal_of(account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: refusal, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{matchLabels: {{app: server}}}}\n  action: DENY\n  rules:\n  - from:\n    - source:\n        \
         principals: [cluster.local/ns/{NAMESPACE}/sa/{account}]\n"
    )
}

/// Writes `count` pods on other nodes into a new directory, each in a file of its own, and the node `own` that has none.
pub(super) fn write_large(directory: &Path, own: &Node, count: u32) -> Result<()> {
    ensure!(count <= PODS_MAX, "{count} pods are more than the {PODS_MAX} that have an address");
    fs::create_dir(directory).with_context(|| format!("create {}", directory.display()))?;
    let mut cluster = namespace(NAMESPACE, true) + &node_object(own.name(), own.addresses().v4);
    for number in 0..count.div_ceil(PODS_PER_NODE) {
        cluster += &node_object(&format!("other-{number}"), host(number));
    }
    write(directory, "cluster", &cluster)?;
    for number in 0..count {
        let (name, account) = (format!("pod-{number}"), format!("account-{}", number / PODS_PER_ACCOUNT));
        let node_number = number / PODS_PER_NODE;
        let facts = Facts {
            name: &name,
            namespace: NAMESPACE,
            account: &account,
            node: &format!("other-{node_number}"),
            address: Ipv4Addr::from_bits(Ipv4Addr::new(10, 16, 0, 0).to_bits() + number),
            host: host(node_number),
            netns: None,
            gateway: None,
        };
        write(directory, &name, &facts.manifest())?;
    }
    Ok(())
}

/// Adds a waypoint, run by `pod`, and the service that is called at `front` and bound to it.
pub(super) fn write_waypoint(directory: &Path, pod: &Pod, front: SocketAddrV4) -> Result<()> {
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: waypoint\n  namespace: {NAMESPACE}\n  \
         labels: {{istio.io/waypoint-for: service}}\nspec:\n  gatewayClassName: istio-waypoint\n  listeners: [{{name: mesh, \
         port: 15008, protocol: HBONE}}]\n"
    );
    let node = pod.node();
    let facts = Facts {
        name: pod.name(),
        namespace: NAMESPACE,
        account: pod.name(),
        node: node.name(),
        address: pod.addresses().v4,
        host: node.addresses().v4,
        netns: Some(pod.namespace().path()),
        gateway: Some("waypoint"),
    };
    let account = service_account(pod.name(), NAMESPACE);
    write(directory, "waypoint", &(gateway + &account + &facts.manifest() + &service(SERVICE, front)))
}

/// Adds `count` further services behind the waypoint, each with a VirtualService in a file of its own.
pub(super) fn write_services(directory: &Path, count: u32) -> Result<()> {
    for first in (0..count).step_by(SERVICES_PER_FILE as usize) {
        let numbers = first..count.min(first + SERVICES_PER_FILE);
        let address = |number: u32| {
            SocketAddrV4::new(Ipv4Addr::from_bits(Ipv4Addr::new(10, 100, 0, 0).to_bits() + number), 80)
        };
        let services: String =
            numbers.map(|number| service(&format!("other-{number}"), address(number))).collect();
        write(directory, &format!("services-{first}"), &services)?;
    }
    for number in 0..count {
        let name = format!("other-{number}");
        let entry = format!("  - route: [{{destination: {{host: {name}}}}}]\n    timeout: 1s\n");
        write(
            directory,
            &format!("route-{number}"),
            &routes::virtual_service(&name, NAMESPACE, &name, &entry),
        )?;
    }
    Ok(())
}

/// A service of HTTP for the pods with its name as label `app`, bound to the waypoint.
fn service(name: &str, at: SocketAddrV4) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}, labels: \
         {{istio.io/use-waypoint: waypoint}}}}\nspec:\n  clusterIP: {}\n  selector: {{app: {name}}}\n  ports: [{{name: http, \
         port: {port}, targetPort: {port}}}]\n",
        at.ip(),
        port = at.port()
    )
}

fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 31, 0, 0).to_bits() + number)
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(format!("{name}.yaml"));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn namespace(name: &str, in_mesh: bool) -> String {
    let mode = if in_mesh { "ambient" } else { "none" };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
         istio.io/dataplane-mode: {mode}\n"
    )
}

fn service_account(name: &str, namespace: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: {namespace}\n"
    )
}

fn node_object(name: &str, address: Ipv4Addr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  uid: {name}-uid\n  labels:\n    \
         topology.kubernetes.io/region: region-1\nstatus:\n  addresses:\n  - type: InternalIP\n    address: {address}\n"
    )
}

impl Facts<'_> {
    /// The Pod as the API server would give it.
    fn manifest(&self) -> String {
        let Self { name, namespace, account, node, address, host, netns, gateway } = self;
        let mut text = format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: {name}-uid\n  \
             labels:\n    app: {account}\n    version: v1\n"
        );
        if let Some(gateway) = gateway {
            text += &format!("    gateway.networking.k8s.io/gateway-name: {gateway}\n");
        }
        if let Some(netns) = netns {
            // A String takes everything that is written to it.
            let _ = writeln!(text, "  annotations:\n    {NETNS_ANNOTATION}: {}", netns.display());
        }
        text + &format!(
            "spec:\n  nodeName: {node}\n  serviceAccountName: {account}\n  containers:\n  - name: app\n    image: app\n\
             status:\n  phase: Running\n  podIP: {address}\n  podIPs:\n  - ip: {address}\n  hostIP: {host}\n  \
             conditions:\n  - type: Ready\n    status: \"True\"\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_this_machine_names_its_namespace_and_others_do_not() {
        let mut facts = Facts {
            name: "client",
            namespace: NAMESPACE,
            account: "client",
            node: "node-1",
            address: Ipv4Addr::new(10, 244, 1, 2),
            host: Ipv4Addr::new(172, 30, 0, 1),
            netns: Some("/run/netns/x".into()),
            gateway: None,
        };
        let local = facts.manifest();
        assert!(local.contains("\n  annotations:\n    ebb.dev/netns: /run/netns/x\nspec:\n"), "{local}");
        assert!(local.contains("\n  podIP: 10.244.1.2\n"), "{local}");
        facts.netns = None;
        assert!(!facts.manifest().contains("annotations"));
    }
}

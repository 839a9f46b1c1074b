//! Ebb on one node with many pods: its `ztunnel`, and a waypoint beside it where that is to be counted too.

use std::net::SocketAddrV4;

use anyhow::Result;
use harness::{
    cluster::{Cluster, Pod},
    ztunnel::Ztunnel,
};

use super::{
    Ebb, MANIFESTS, READY_WITHIN,
    l7::{SERVICE, Waypoint},
    manifests::{self, Member},
};
use crate::systems::{Crowd, Proxy, port};

/// Starts it with `count` pods in the mesh.
pub(super) fn start(ebb: &Ebb, count: u32, with_waypoint: bool) -> Result<Crowd> {
    let cluster = Cluster::start(1)?;
    let node = cluster.node(0);
    let pods: Vec<Pod> =
        (0..count).map(|number| node.add_pod(&format!("pod-{number}"))).collect::<Result<_>>()?;
    let directory = cluster.run().directory().join(MANIFESTS);
    let members: Vec<Member<'_>> = pods.iter().map(|pod| Member { pod, in_mesh: true }).collect();
    manifests::write_small(&directory, &members)?;
    let waypoint = with_waypoint.then(|| node.add_pod("waypoint")).transpose()?;
    if let Some(pod) = &waypoint {
        manifests::write_waypoint(&directory, pod, SocketAddrV4::new(SERVICE, port::HTTP))?;
    }
    let ztunnel = Ztunnel::start(node, &directory, ebb.settings())?;
    ztunnel.wait_ready(READY_WITHIN)?;
    let mut proxies: Vec<Box<dyn Proxy>> = vec![Box::new(ztunnel)];
    if let Some(pod) = waypoint {
        let waypoint = Waypoint::start(ebb, pod)?;
        waypoint.wait_ready()?;
        proxies.push(Box::new(waypoint));
    }
    Ok(Crowd { proxies, _pods: pods, _cluster: cluster })
}

//! The end of a pod: whatever it was doing, nothing of it stays, and nobody else notices.

use std::time::Duration;

use anyhow::{Context, Result};
use ebb_tests::{
    app::App,
    mesh::{Mesh, eventually},
    peer::{Flow, Server, at, call},
    traces::Held,
};

/// Until everything of a pod is gone from its own node.
const GONE: Duration = Duration::from_secs(8);
/// Until a peer notices that nobody answers any more; nothing can tell it when a pod's interface goes first.
const NOTICED: Duration = Duration::from_secs(40);
const FLOWS: usize = 20;
/// Descriptors that come and go by themselves: a scrape being answered, a tunnel kept for the next connection. A pod holds
/// more than this, and so do the flows of a test.
const OF_ITSELF: usize = 4;

/// Waits until the proxy of `node` holds no more than in `before`.
fn back_to(mesh: &Mesh, node: usize, before: &Held, within: Duration) -> Result<()> {
    let ztunnel = mesh.ztunnel(node);
    let mut last = None;
    let waited = eventually("the proxy to hold what it held before", within, || {
        let now = Held::by(ztunnel)?;
        let same =
            now.pins == before.pins && now.fds <= before.fds + OF_ITSELF && now.threads <= before.threads;
        last = Some(now);
        Ok(same)
    });
    waited.with_context(|| {
        let pins = |held: &Held| held.pins.len();
        let now = last.as_ref().map(|now| (now.fds, now.threads, pins(now)));
        format!(
            "node {node}: descriptors, threads, pins were {:?} and are {now:?}: {:?}",
            (before.fds, before.threads, pins(before)),
            Held::descriptors(ztunnel).unwrap_or_default()
        )
    })
}

#[test]
fn a_pod_deleted_under_live_flows_leaves_nothing_behind_and_no_neighbour_notices() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("neighbour").on(1)])?;
    let _neighbour = Server::echo(mesh.pod("neighbour")?, 8080)?;
    let neighbour = at(mesh.pod("neighbour")?.addresses().v4);
    let mut beside = Flow::open(mesh.pod("client")?.namespace(), neighbour)?;
    beside.say(mesh.marker())?;
    let before = [Held::by(mesh.ztunnel(0))?, Held::by(mesh.ztunnel(1))?];

    mesh.run(&[App::new("victim").on(1)])?;
    // The server's sockets hold the namespace open after its name is gone, as a leaked descriptor would.
    let server = Server::echo(mesh.pod("victim")?, 8080)?;
    let (v4, v6) = (at(mesh.pod("victim")?.addresses().v4), at(mesh.pod("victim")?.addresses().v6));
    let open = |to| Flow::open(mesh.pod("client")?.namespace(), to);
    let mut flows = (0..FLOWS).map(|n| open(if n % 2 == 0 { v4 } else { v6 })).collect::<Result<Vec<_>>>()?;
    let mut outbound = Flow::open(mesh.pod("victim")?.namespace(), neighbour)?;
    for flow in flows.iter_mut().chain([&mut outbound]) {
        flow.say(mesh.marker())?;
    }
    assert!(Held::by(mesh.ztunnel(1))?.fds > before[1].fds + FLOWS, "the flows are there to be seen");

    mesh.kubelet_mut().scale("shop", "victim", 0)?;
    mesh.settle()?;
    back_to(&mesh, 1, &before[1], GONE)?;
    beside.say(mesh.marker())?;
    call(mesh.pod("client")?, neighbour, mesh.marker())?;
    for flow in &mut flows {
        assert!(flow.ends(NOTICED)?, "a flow to a pod that is gone goes on");
    }
    drop((flows, server, outbound));
    back_to(&mesh, 0, &before[0], NOTICED)?;
    mesh.finish()
}

#[test]
fn pods_that_come_and_go_leave_the_proxy_as_it_was() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1).http()])?;
    mesh.kubelet_mut().scale("shop", "server", 0)?;
    mesh.settle()?;
    let before = Held::by(mesh.ztunnel(1))?;
    for _ in 0..3 {
        mesh.kubelet_mut().scale("shop", "server", 4)?;
        mesh.settle()?;
        for server in mesh.kubelet().replicas("shop", "server") {
            let to = at(server.pod().addresses().v6);
            let from = mesh.pod("client")?.namespace();
            let (status, _) = from.http_get(to, &format!("/{}", mesh.marker()), GONE)?;
            assert_eq!(status, 200);
        }
        mesh.kubelet_mut().scale("shop", "server", 0)?;
        mesh.settle()?;
    }
    back_to(&mesh, 1, &before, GONE)?;
    mesh.finish()
}

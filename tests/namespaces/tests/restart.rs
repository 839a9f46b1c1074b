//! The end of a proxy and its next start: new connections wait and then work, and nothing ever goes out in clear.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use ebb_tests::{
    app::App,
    load::Load,
    mesh::{Mesh, SETTLED, eventually},
    peer::{Doorway, Flow, SOON, Server, at, call},
};
use nix::sys::signal::Signal;

const CLIENTS: usize = 4;
/// Exchanges that must go well before and after a restart, to show that it was under load.
const BUSY: usize = 40;
/// How many sockets of a dying proxy a client can meet: each of its two workers has a tunnel and a listener.
const SOCKETS_MET: usize = 4;
/// The proxy's own limit for draining when nothing else is said.
const DRAIN: Duration = Duration::from_secs(5);

fn mesh() -> Result<(Mesh, Server, SocketAddr)> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let server = Server::echo(mesh.pod("server")?, 8080)?;
    let to = at(mesh.pod("server")?.addresses().v4);
    Ok((mesh, server, to))
}

fn busy(load: &Load) -> Result<()> {
    let until = load.done() + BUSY;
    eventually("exchanges to go well", SETTLED, || Ok(load.done() >= until))
}

#[test]
fn a_killed_proxy_of_either_node_costs_the_connections_it_held_and_no_new_one() -> Result<()> {
    let (mut mesh, _server, to) = mesh()?;
    for node in 0..2 {
        let load = Load::start(mesh.pod("client")?.namespace(), to, mesh.marker(), CLIENTS)?;
        busy(&load)?;
        mesh.ztunnel(node).kill9()?;
        let dead = Instant::now();
        mesh.ztunnel_mut(node).start_again()?;
        mesh.ztunnel(node).wait_ready(SETTLED)?;
        busy(&load)?;
        let report = load.stop()?;
        // A dying process closes its descriptors one after the other, so that a client may meet several of its sockets
        // until it is gone; but none afterwards.
        let lost = report.failed.iter().filter(|failed| failed.begun > dead).count();
        assert!(lost == 0, "node {node}: {lost} begun after its death: {report:#?}");
        assert!(report.failed.len() <= SOCKETS_MET * CLIENTS, "node {node}: {report:#?}");
        assert!(report.worst < SOON, "node {node}: somebody waited {:?}", report.worst);
    }
    mesh.finish()
}

#[test]
fn connections_begun_while_no_proxy_runs_wait_and_succeed_when_it_is_back() -> Result<()> {
    let (mut mesh, _server, to) = mesh()?;
    for node in 0..2 {
        mesh.ztunnel(node).kill9()?;
        let (doorway, marker) = (Doorway::to(mesh.pod("client")?.namespace())?, mesh.marker().to_owned());
        let waiting = std::thread::spawn(move || -> Result<()> { Flow::open(&doorway, to)?.say(&marker) });
        let dead = Instant::now();
        // Long enough for the first SYN to be lost, which is the point; there is no event to wait for.
        std::thread::sleep(Duration::from_millis(700));
        assert!(!waiting.is_finished(), "node {node}: it neither waits nor goes through the proxy");
        mesh.ztunnel_mut(node).start_again()?;
        let outcome = waiting.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        outcome.map_err(|error| error.context(format!("node {node}, after {:?}", dead.elapsed())))?;
        mesh.ztunnel(node).wait_ready(SETTLED)?;
    }
    mesh.finish()
}

#[test]
fn sigterm_lets_open_connections_finish_and_ends_the_process_when_they_have() -> Result<()> {
    let (mut mesh, _server, to) = mesh()?;
    for node in 0..2 {
        let mut open = Flow::open(mesh.pod("client")?.namespace(), to)?;
        open.say(mesh.marker())?;
        let asked = Instant::now();
        mesh.ztunnel(node).process().signal(Signal::SIGTERM)?;
        mesh.ztunnel(node).process().wait_for_log("draining", SOON)?;
        while asked.elapsed() < DRAIN / 5 {
            open.say(mesh.marker())?;
        }
        assert!(mesh.ztunnel(node).process().is_alive(), "it waits for the connection");
        drop(open);
        let status = mesh.ztunnel(node).process().wait(SOON)?;
        assert!(status.success(), "{status}");
        assert!(
            asked.elapsed() < DRAIN - Duration::from_millis(500),
            "it ended only after {:?}",
            asked.elapsed()
        );
        mesh.ztunnel_mut(node).start_again()?;
        mesh.ztunnel(node).wait_ready(SETTLED)?;
        call(mesh.pod("client")?, to, mesh.marker())?;
    }
    mesh.finish()
}

#[test]
fn restarts_in_a_row_under_load_fail_no_connection() -> Result<()> {
    let (mut mesh, _server, to) = mesh()?;
    let load = Load::start(mesh.pod("client")?.namespace(), to, mesh.marker(), CLIENTS)?;
    busy(&load)?;
    for node in [0, 1] {
        for _ in 0..2 {
            mesh.ztunnel_mut(node).restart(DRAIN + SOON)?;
            mesh.ztunnel(node).wait_ready(SETTLED)?;
            busy(&load)?;
        }
    }
    let report = load.stop()?;
    assert!(report.failed.is_empty(), "{report:#?}");
    mesh.finish()
}

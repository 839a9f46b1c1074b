//! Enrolment: a label is all it takes, nothing is restarted, and what is not enrolled stays as it was.

use std::net::SocketAddr;

use anyhow::Result;
use ebb_tests::{
    app::{App, service},
    mesh::{Mesh, SETTLED, eventually},
    peer::{Flow, SOON, Server, at, call},
    traces,
};
use harness::netns::Namespace;

const ECHO: u16 = 8080;

fn client_and_server() -> Result<Mesh> {
    let mut mesh = Mesh::start()?;
    mesh.apply("20-server.yaml", &service("server", 10))?;
    mesh.run(&[App::new("client"), App::new("near"), App::new("server").on(1)])?;
    Ok(mesh)
}

fn vips() -> [SocketAddr; 2] {
    ["10.96.0.10:80", "[fd00:10:96::a]:80"].map(|vip| vip.parse().expect("an address"))
}

#[test]
fn enrolled_pods_talk_in_both_families_by_address_and_service_and_the_server_sees_the_true_client()
-> Result<()> {
    let mesh = client_and_server()?;
    let (client, server) = (mesh.pod("client")?, mesh.pod("server")?);
    let echo = Server::echo(server, ECHO)?;
    let mut targets = server.addresses().both().map(at).to_vec();
    targets.extend(vips());
    for to in &targets {
        // `call` compares the address the server sees with the client's own.
        let greeting = call(client, *to, mesh.marker())?;
        assert_eq!(greeting.server, server.name());
        assert_eq!(greeting.client.ip(), client.addresses().both()[usize::from(to.is_ipv6())], "to {to}");
    }
    assert_eq!(echo.accepted().len(), targets.len());
    for (accepted, own) in echo.accepted().iter().zip(server.addresses().both().iter().cycle()) {
        assert_eq!(accepted.local, at(*own), "the application sees its own address, not the service's");
    }
    let records = mesh.capture()?.tls_records(15008)?;
    assert!(records.handshake > 0 && records.application_data > 0, "{records:?}");
    assert_eq!(
        mesh.capture()?.tcp_packets_to(ECHO)?,
        0,
        "nothing went to the application's port on the wire"
    );
    mesh.finish()
}

#[test]
fn pods_of_one_node_and_a_pod_and_itself_talk_as_well() -> Result<()> {
    let mesh = client_and_server()?;
    let (client, near) = (mesh.pod("client")?, mesh.pod("near")?);
    let _echo = Server::echo(near, ECHO)?;
    for to in near.addresses().both().map(at) {
        assert_eq!(call(client, to, mesh.marker())?.server, near.name());
        call(near, to, mesh.marker())?;
    }
    for localhost in ["127.0.0.1:8080", "[::1]:8080"] {
        call(near, localhost.parse()?, mesh.marker())?;
    }
    mesh.finish()
}

#[test]
fn a_pod_that_calls_the_service_it_stands_for_reaches_itself() -> Result<()> {
    let mesh = client_and_server()?;
    let server = mesh.pod("server")?;
    let _echo = Server::echo(server, ECHO)?;
    for vip in vips() {
        let mut flow = Flow::open(server.namespace(), vip)?;
        flow.say(mesh.marker())?;
        assert_eq!(flow.greeting.server, server.name());
    }
    mesh.finish()
}

#[test]
fn a_label_enrols_and_unenrols_running_pods_and_no_open_connection_breaks() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.namespace("shop", false)?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let echo = Server::echo(mesh.pod("server")?, ECHO)?;
    let to = at(mesh.pod("server")?.addresses().v4);
    let open = mesh.open_marker();
    let uids = [mesh.replica("client")?.uid().to_owned(), mesh.replica("server")?.uid().to_owned()];

    let mut before = Flow::open(mesh.pod("client")?.namespace(), to)?;
    before.say(&open)?;
    assert!(
        mesh.capture()?.contains(&open)?,
        "plaintext before enrolment, which also shows that the ear hears"
    );

    mesh.namespace("shop", true)?;
    mesh.settle()?;
    let mut during = Flow::open(mesh.pod("client")?.namespace(), to)?;
    during.say(mesh.marker())?;
    before.say(&open)?;
    assert!(mesh.capture()?.tls_records(15008)?.application_data > 0, "after enrolment it is a tunnel");

    mesh.namespace("shop", false)?;
    mesh.settle()?;
    during.say(mesh.marker())?;
    before.say(&open)?;
    call(mesh.pod("client")?, to, &open)?;
    drop((before, during));

    let now = [mesh.replica("client")?.uid(), mesh.replica("server")?.uid()];
    assert_eq!(now, [&*uids[0], &*uids[1]], "nobody was restarted");
    for name in ["client", "server"] {
        let namespace = mesh.pod(name)?.namespace();
        eventually("listeners of the proxy to go once their connections have", SOON, || {
            Ok(!traces::listening(namespace)?.iter().any(|port| (15001..=15008).contains(port)))
        })?;
        eventually("the rules of the proxy to go as well", SOON, || {
            Ok(!traces::routing(namespace)?.iter().any(|line| line.contains("fwmark")))
        })?;
    }
    drop(echo);
    mesh.finish()
}

#[test]
fn a_label_taken_off_and_put_back_leaves_the_pods_in_the_mesh() -> Result<()> {
    let mut mesh = client_and_server()?;
    let to = at(mesh.pod("server")?.addresses().both()[0]);
    let _echo = Server::echo(mesh.pod("server")?, ECHO)?;
    let mut held = Flow::open(mesh.pod("client")?.namespace(), to)?;
    held.say(mesh.marker())?;
    // With a connection open the pod leaves gently, and comes back before it has left.
    mesh.namespace("shop", false)?;
    mesh.settle()?;
    mesh.namespace("shop", true)?;
    mesh.settle()?;
    held.say(mesh.marker())?;
    drop(held);
    // What the leaving pod would have taken down is looked at every two seconds, once its connection has ended.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while std::time::Instant::now() < until {
        call(mesh.pod("client")?, to, mesh.marker())?;
    }
    for name in ["client", "server"] {
        let routing = traces::routing(mesh.pod(name)?.namespace())?;
        assert!(routing.iter().any(|line| line.contains("fwmark")), "{name}: {routing:?}");
    }
    mesh.finish()
}

#[test]
fn what_is_not_enrolled_stays_plain_in_both_directions() -> Result<()> {
    let mut mesh = client_and_server()?;
    mesh.run(&[
        App::new("opted-out").label("istio.io/dataplane-mode", "none"),
        App::new("other").of("outside").on(1),
    ])?;
    let open = mesh.open_marker();
    let (server, other) = (mesh.pod("server")?, mesh.pod("outside/other")?);
    let (_server, _other) = (Server::echo(server, ECHO)?, Server::echo(other, ECHO)?);
    let opted_out = mesh.pod("opted-out")?;
    for ip in 0..2 {
        let to_other = at(other.addresses().both()[ip]);
        call(opted_out, to_other, &open)?;
        // From the mesh to the outside, and from the outside into a mesh that takes plaintext.
        call(mesh.pod("client")?, to_other, &open)?;
        call(opted_out, at(server.addresses().both()[ip]), &open)?;
    }
    for port in traces::listening(opted_out.namespace())? {
        assert!(!(15001..=15008).contains(&port), "a listener of the proxy in a pod that opted out");
    }
    assert!(mesh.capture()?.contains(&open)?);
    assert_eq!(mesh.capture()?.tcp_packets_to(15008)?, 0);
    mesh.finish()
}

#[test]
fn traffic_of_the_node_itself_stays_plain_and_reaches_pods() -> Result<()> {
    let mesh = client_and_server()?;
    let server = mesh.pod("server")?;
    let _echo = Server::echo(server, ECHO)?;
    let open = mesh.open_marker();
    for (node, to) in [0, 1].into_iter().flat_map(|node| server.addresses().both().map(|ip| (node, at(ip)))) {
        let mut flow = Flow::open(mesh.node(node).namespace(), to)?;
        flow.say(&open)?;
    }
    assert!(mesh.capture()?.contains(&open)?);
    mesh.finish()
}

/// Routing of a namespace, and the sysctls that enrolment needs otherwise.
fn ways(namespace: &Namespace) -> Result<Vec<String>> {
    let mut lines = traces::routing(namespace)?;
    for name in ["conf/lo/accept_local", "conf/lo/rp_filter", "conf/all/rp_filter", "tcp_syncookies"] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        let value = namespace.within(|| Ok(std::fs::read_to_string(&path)?))?;
        lines.push(format!("{name} = {}", value.trim()));
    }
    Ok(lines)
}

#[test]
fn whichever_process_takes_a_pod_out_of_the_mesh_leaves_its_routing_as_it_was() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.namespace("shop", false)?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let untouched = ways(mesh.pod("client")?.namespace())?;
    let back = |mesh: &Mesh| {
        let namespace = mesh.pod("client")?.namespace();
        eventually("routing to be what it was", SOON, || Ok(ways(namespace)? == untouched))
    };
    mesh.namespace("shop", true)?;
    mesh.settle()?;
    assert_ne!(ways(mesh.pod("client")?.namespace())?, untouched);

    // Taken over by a second process, and taken out by it.
    mesh.ztunnel(0).kill9()?;
    mesh.ztunnel_mut(0).start_again()?;
    mesh.ztunnel(0).wait_ready(SETTLED)?;
    mesh.namespace("shop", false)?;
    back(&mesh)?;

    // Taken out while no process ran.
    mesh.namespace("shop", true)?;
    mesh.settle()?;
    mesh.ztunnel(0).kill9()?;
    mesh.namespace("shop", false)?;
    mesh.ztunnel_mut(0).start_again()?;
    mesh.ztunnel(0).wait_ready(SETTLED)?;
    back(&mesh)?;
    mesh.finish()
}

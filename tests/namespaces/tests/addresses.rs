//! A pod of several addresses: what it opens arrives from the address its own socket had.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use ebb_tests::{
    app::App,
    mesh::{Mesh, SETTLED, eventually},
    peer::{Flow, Origin, Server, at},
};
use harness::{cluster::Pod, netns::Namespace};
use socket2::{Domain, Socket, Type};

/// A client that binds its socket before it connects.
struct Bound<'n> {
    namespace: &'n Namespace,
    from: Ipv4Addr,
}

impl Origin for Bound<'_> {
    fn reach(&self, to: SocketAddr, within: Duration) -> Result<TcpStream> {
        self.namespace.within(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((self.from, 0)).into())?;
            socket.connect_timeout(&to.into(), within).with_context(|| format!("connect to {to}"))?;
            Ok(socket.into())
        })
    }
}

/// Gives the pod a further address, on the network and in what the mesh is told of it.
fn add_address(mesh: &Mesh, of: &str) -> Result<Ipv4Addr> {
    let replica = mesh.replica(of)?;
    let pod: &Pod = replica.pod();
    let first = pod.addresses().v4;
    let [a, b, c, _] = first.octets();
    let second = Ipv4Addr::new(a, b, c, 253);
    pod.namespace().ip(&[format!("addr add {second}/32 dev eth0")])?;
    pod.node().namespace().ip(&[format!("route add {second}/32 dev {}", pod.cable())])?;
    let path = fs::read_dir(mesh.manifests())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.to_string_lossy().contains(&format!("pod-{}-{}", replica.namespace(), replica.name()))
        })
        .context("the pod's manifest")?;
    let manifest = fs::read_to_string(&path)?;
    let line = manifest
        .lines()
        .find(|line| line.trim().starts_with("- ip:") && line.contains(&first.to_string()))
        .with_context(|| format!("no line for {first} in {manifest}"))?;
    let both = format!("{line}\n{}", line.replace(&first.to_string(), &second.to_string()));
    let manifest = manifest.replace(line, &both);
    // The kubelet writes it once, and not through the mesh, which takes other names only.
    let whole = path.with_extension("yaml.new");
    fs::write(&whole, manifest)?;
    fs::rename(&whole, &path)?;
    Ok(second)
}

#[test]
fn a_connection_arrives_from_the_address_that_its_socket_was_bound_to() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    mesh.run(&[App::new("plain").of("outside").on(1)])?;
    let (_tunnelled, _plain) =
        (Server::echo(mesh.pod("server")?, 8080)?, Server::echo(mesh.pod("outside/plain")?, 8080)?);
    let second = add_address(&mesh, "client")?;
    let first = mesh.pod("client")?.addresses().v4;
    eventually("the proxy to know both addresses", SETTLED, || {
        let dump = mesh.ztunnel(0).config_dump()?;
        let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
        Ok(workloads.iter().any(|it| it["workloadIps"].to_string().contains(&second.to_string())))
    })?;
    mesh.settle()?;
    for (to, text) in [("server", mesh.marker().to_owned()), ("outside/plain", mesh.open_marker())] {
        let to = at(mesh.pod(to)?.addresses().v4);
        // In turn, so that a shared tunnel would show.
        for from in [first, second, first] {
            let client = Bound { namespace: mesh.pod("client")?.namespace(), from };
            let mut flow = Flow::open(&client, to)?;
            flow.say(&text)?;
            assert_eq!(flow.greeting.client.ip(), IpAddr::from(from), "{to}");
        }
    }
    mesh.finish()
}

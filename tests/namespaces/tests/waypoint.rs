//! Waypoints: what is bound to one is reached through it, or not at all; neither side is a way round it.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::{self, App, gateway},
    mesh::{Mesh, SETTLED, eventually},
    peer::{Flow, SOON, Server, at, call, refused},
};
use harness::{cluster::Pod, ztunnel::Settings};

/// What a binding may take on open connections, by promise.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What two shared processor cores may add to it in this test.
const SLACK: Duration = Duration::from_millis(700);

/// A port of the server that no service leads to.
const OTHER_PORT: u16 = 9090;

/// The service that leads to `server`, bound to a waypoint or to none.
fn service(waypoint: &str) -> String {
    app::service("server", 10).replace(
        "metadata: {name: server, namespace: shop}",
        &format!(
            "metadata: {{name: server, namespace: shop, labels: {{istio.io/use-waypoint: {waypoint}}}}}"
        ),
    )
}

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

fn vip6() -> SocketAddr {
    "[fd00:10:96::a]:80".parse().expect("an address and a port")
}

/// Waits until calls are refused, and makes sure of it.
fn closed(mesh: &Mesh, of: &str, to: SocketAddr, text: &str) -> Result<()> {
    eventually("calls to be refused", SETTLED, || Ok(call(mesh.pod(of)?, to, text).is_err()))?;
    refused(mesh.pod(of)?.namespace(), to, text)
}

fn open(mesh: &Mesh, of: &str, to: SocketAddr, text: &str) -> Result<()> {
    eventually("calls to go through", SETTLED, || {
        call(mesh.pod(of)?, to, text)?;
        Ok(true)
    })
}

/// Calls an echo server and says who it takes for its client. The client speaks first, so that whoever is in between can
/// see what is spoken.
fn seen_by_server(from: &Pod, to: SocketAddr, text: &str) -> Result<IpAddr> {
    let mut stream = from.namespace().connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(text.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 512]);
    while !answer.ends_with(text.as_bytes()) {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "{to} closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
    }
    let greeting = String::from_utf8(answer)?;
    let client = greeting.split([' ', '\n']).nth(1).context("a greeting has two words")?;
    Ok(client.parse::<SocketAddr>()?.ip())
}

/// The addresses of every replica of the waypoint `wp`.
fn waypoints(mesh: &Mesh) -> BTreeSet<IpAddr> {
    mesh.kubelet().replicas("shop", "wp").iter().flat_map(|it| it.pod().addresses().both()).collect()
}

/// That calls to `to` arrive, and from a pod of the waypoint.
fn through(mesh: &Mesh, of: &str, to: SocketAddr, text: &str) -> Result<()> {
    eventually("calls to come through the waypoint", SETTLED, || {
        let seen = seen_by_server(mesh.pod(of)?, to, text)?;
        Ok(waypoints(mesh).contains(&seen))
    })
}

/// A mesh of `client` and `server` in `shop` on two nodes and `stranger` outside, where nothing is bound yet.
fn mesh(settings: Settings) -> Result<Mesh> {
    let mut mesh = Mesh::start_with(settings)?;
    mesh.apply("41-service.yaml", &service("none"))?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    mesh.run(&[App::new("stranger").of("outside")])?;
    Ok(mesh)
}

/// Puts the waypoint `wp` before the service, or the whole of `shop`, and waits until it is ready.
fn bind(mesh: &mut Mesh, stands_for: &str, replicas: u32) -> Result<()> {
    mesh.apply("40-gateway.yaml", &gateway("wp", stands_for))?;
    mesh.run(&[App::new("wp").waypoint("wp").account("waypoint").replicas(replicas)])?;
    mesh.wait_ready("wp")?;
    if stands_for != "service" {
        let labelled =
            app::namespace("shop", true).replace("ambient}", "ambient, istio.io/use-waypoint: wp}");
        mesh.apply("10-shop.yaml", &labelled)?;
    }
    mesh.apply("41-service.yaml", &service("wp"))
}

#[test]
fn a_destination_bound_to_a_waypoint_that_is_not_there_is_refused_by_both_sides() -> Result<()> {
    let mut mesh = mesh(Settings::default())?;
    mesh.apply("40-gateway.yaml", &gateway("wp", "service"))?;
    let (_server, _other) =
        (Server::echo(mesh.pod("server")?, 8080)?, Server::echo(mesh.pod("server")?, OTHER_PORT)?);
    let pod = at(mesh.pod("server")?.addresses().v4);
    let other = SocketAddr::new(pod.ip(), OTHER_PORT);
    let (marker, plain) = (mesh.marker().to_owned(), mesh.open_marker());
    open(&mesh, "client", vip(), &marker)?;

    mesh.apply("41-service.yaml", &service("wp"))?;
    closed(&mesh, "client", vip(), &marker)?;
    eventually("the log to name the waypoint and the service", SETTLED, || {
        let told = mesh.log_lines("unknown waypoint: shop/wp")?;
        Ok(told.iter().any(|line| line.contains("server.shop.svc.cluster.local")))
    })?;
    // Nor is the port that only this service leads to reached by the pod's own address, and any other port is.
    closed(&mesh, "client", pod, &marker)?;
    closed(&mesh, "outside/stranger", pod, &plain)?;
    eventually("the log to name the waypoint", SETTLED, || {
        Ok(!mesh.log_lines("reached through waypoint shop/wp only")?.is_empty())
    })?;
    open(&mesh, "client", other, &marker)?;
    open(&mesh, "outside/stranger", other, &plain)?;

    // The pods themselves: every port.
    mesh.apply("41-service.yaml", &service("none"))?;
    open(&mesh, "outside/stranger", pod, &plain)?;
    let labelled = app::namespace("shop", true).replace("ambient}", "ambient, istio.io/use-waypoint: wp}");
    mesh.apply("10-shop.yaml", &labelled)?;
    mesh.apply("40-gateway.yaml", &gateway("wp", "all"))?;
    closed(&mesh, "outside/stranger", other, &plain)?;
    closed(&mesh, "client", other, &marker)?;

    mesh.apply("10-shop.yaml", &app::namespace("shop", true))?;
    open(&mesh, "client", vip(), &marker)?;
    open(&mesh, "outside/stranger", pod, &plain)?;
    mesh.finish()
}

#[test]
fn a_waypoint_that_comes_between_ends_what_is_open_round_it() -> Result<()> {
    let mut mesh = mesh(Settings::default())?;
    mesh.apply("40-gateway.yaml", &gateway("wp", "service"))?;
    let _server = Server::echo(mesh.pod("server")?, 8080)?;
    let pod = at(mesh.pod("server")?.addresses().v4);
    let (marker, plain) = (mesh.marker().to_owned(), mesh.open_marker());
    let mut flows = Vec::new();
    for (of, to, text) in
        [("client", vip(), &marker), ("client", pod, &marker), ("outside/stranger", pod, &plain)]
    {
        open(&mesh, of, to, text)?;
        let mut flow = Flow::open(mesh.pod(of)?.namespace(), to)?;
        flow.say(text)?;
        flows.push((of, to, flow));
    }
    mesh.apply("41-service.yaml", &service("wp"))?;
    let bound = Instant::now();
    for (of, to, mut flow) in flows {
        let left = (AT_ONCE + SLACK).saturating_sub(bound.elapsed());
        ensure!(flow.ends(left.max(Duration::from_millis(1)))?, "{of} is still connected to {to}");
    }
    mesh.finish()
}

#[test]
fn a_service_behind_a_waypoint_is_reached_through_it_by_either_family_and_no_other_way() -> Result<()> {
    let mut mesh = mesh(Settings::default())?;
    let _server = Server::echo(mesh.pod("server")?, 8080)?;
    let addresses = mesh.pod("server")?.addresses();
    bind(&mut mesh, "service", 1)?;
    let (marker, plain) = (mesh.marker().to_owned(), mesh.open_marker());
    through(&mesh, "client", vip(), &marker)?;
    through(&mesh, "client", vip6(), &marker)?;
    for ip in addresses.both() {
        closed(&mesh, "client", at(ip), &marker)?;
        closed(&mesh, "outside/stranger", at(ip), &plain)?;
    }
    eventually("the log to name the waypoint's pod and the service that was called", SETTLED, || {
        let told = mesh.log_lines("10.96.0.10:80")?;
        let named = |line: &String| line.contains("server.shop.svc.cluster.local") && line.contains("wp-");
        Ok(told.iter().any(named))
    })?;
    mesh.finish()
}

#[test]
fn pods_behind_a_waypoint_are_reached_through_it_on_every_port() -> Result<()> {
    let mut mesh = mesh(Settings::default())?;
    let (_server, _other) =
        (Server::echo(mesh.pod("server")?, 8080)?, Server::echo(mesh.pod("server")?, OTHER_PORT)?);
    let addresses = mesh.pod("server")?.addresses();
    bind(&mut mesh, "all", 1)?;
    let (marker, plain) = (mesh.marker().to_owned(), mesh.open_marker());
    through(&mesh, "client", vip(), &marker)?;
    for ip in addresses.both() {
        through(&mesh, "client", at(ip), &marker)?;
        through(&mesh, "client", SocketAddr::new(ip, OTHER_PORT), &marker)?;
        closed(&mesh, "outside/stranger", at(ip), &plain)?;
    }
    mesh.finish()
}

#[test]
fn a_waypoint_that_is_killed_is_missed_and_comes_back_and_its_replicas_share_the_work() -> Result<()> {
    let mut mesh = mesh(Settings::default())?;
    let _server = Server::echo(mesh.pod("server")?, 8080)?;
    bind(&mut mesh, "service", 2)?;
    let marker = mesh.marker().to_owned();
    through(&mesh, "client", vip(), &marker)?;
    let mut seen = BTreeSet::new();
    eventually("both waypoints to be used", SETTLED, || {
        seen.insert(seen_by_server(mesh.pod("client")?, vip(), &marker)?);
        Ok(seen.len() == 2)
    })?;

    mesh.kubelet_mut().scale("shop", "wp", 1)?;
    mesh.settle()?;
    through(&mesh, "client", vip(), &marker)?;
    let before = mesh.replica("wp")?.waypoint_process().context("a waypoint has a program")?;
    before.kill9()?;
    eventually("another program in its place", SETTLED, || {
        let now = mesh.replica("wp")?.waypoint_process().context("a waypoint has a program")?;
        Ok(now.pid() != before.pid())
    })?;
    through(&mesh, "client", vip(), &marker)?;

    mesh.kubelet_mut().scale("shop", "wp", 0)?;
    closed(&mesh, "client", vip(), &marker)?;
    mesh.kubelet_mut().scale("shop", "wp", 1)?;
    mesh.wait_ready("wp")?;
    through(&mesh, "client", vip(), &marker)?;
    mesh.finish()
}

#[test]
fn plaintext_is_taken_to_the_waypoint_where_the_operator_says_so() -> Result<()> {
    let hairpin = ["--plaintext-to-waypoint-destinations", "hairpin"].map(str::to_owned).to_vec();
    let mut mesh = mesh(Settings { arguments: hairpin, ..Settings::default() })?;
    let _server = Server::echo(mesh.pod("server")?, 8080)?;
    let pod = at(mesh.pod("server")?.addresses().v4);
    bind(&mut mesh, "all", 1)?;
    let plain = mesh.open_marker();
    through(&mesh, "outside/stranger", pod, &plain)?;
    // Where plaintext is not taken at all it is not taken there either.
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: \
                  shop}\nspec: {mtls: {mode: STRICT}}\n";
    mesh.apply("60-strict.yaml", strict)?;
    closed(&mesh, "outside/stranger", pod, &plain)?;
    mesh.finish()
}

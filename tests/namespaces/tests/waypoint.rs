//! A destination that demands a waypoint is refused while there is none: neither side is a way round it.

use std::net::SocketAddr;

use anyhow::Result;
use ebb_tests::{
    app::{self, App},
    mesh::{Mesh, SETTLED, eventually},
    peer::{Server, at, call, refused},
};

fn gateway(stands_for: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: wp\n  namespace: shop\n  labels: \
         {{istio.io/waypoint-for: {stands_for}}}\nspec: {{gatewayClassName: istio-waypoint}}\n"
    )
}

fn service(waypoint: &str) -> String {
    app::service("server", 10).replace(
        "metadata: {name: server, namespace: shop}",
        &format!(
            "metadata: {{name: server, namespace: shop, labels: {{istio.io/use-waypoint: {waypoint}}}}}"
        ),
    )
}

/// Waits until calls are refused, and makes sure of it.
fn closed(mesh: &Mesh, of: &str, to: SocketAddr, text: &str) -> Result<()> {
    eventually("calls to be refused", SETTLED, || Ok(call(mesh.pod(of)?, to, text).is_err()))?;
    refused(mesh.pod(of)?.namespace(), to, text)
}

fn open(mesh: &Mesh, of: &str, to: SocketAddr, text: &str) -> Result<()> {
    eventually("calls to go through", SETTLED, || Ok(call(mesh.pod(of)?, to, text).is_ok()))
}

#[test]
fn a_destination_bound_to_a_waypoint_that_is_not_there_is_refused_by_both_sides() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.apply("40-gateway.yaml", &gateway("service"))?;
    mesh.apply("41-service.yaml", &service("none"))?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    mesh.run(&[App::new("stranger").of("outside")])?;
    let _server = Server::echo(mesh.pod("server")?, 8080)?;
    let (pod, vip) = (at(mesh.pod("server")?.addresses().v4), SocketAddr::from(([10, 96, 0, 10], 80)));
    let (marker, plain) = (mesh.marker().to_owned(), mesh.open_marker());
    open(&mesh, "client", vip, &marker)?;

    mesh.apply("41-service.yaml", &service("wp"))?;
    closed(&mesh, "client", vip, &marker)?;
    call(mesh.pod("client")?, pod, &marker)?;
    eventually("the log to name the waypoint and the service", SETTLED, || {
        let told = mesh.log_lines("unknown waypoint: shop/wp")?;
        Ok(told.iter().any(|line| line.contains("server.shop.svc.cluster.local")))
    })?;

    // The pods themselves: also for a caller outside the mesh, whom only the pod's own node can turn away.
    open(&mesh, "outside/stranger", pod, &plain)?;
    mesh.apply("41-service.yaml", &service("none"))?;
    let labelled = app::namespace("shop", true).replace("ambient}", "ambient, istio.io/use-waypoint: wp}");
    mesh.apply("10-shop.yaml", &labelled)?;
    mesh.apply("40-gateway.yaml", &gateway("all"))?;
    closed(&mesh, "outside/stranger", pod, &plain)?;
    closed(&mesh, "client", pod, &marker)?;

    mesh.apply("10-shop.yaml", &app::namespace("shop", true))?;
    open(&mesh, "client", vip, &marker)?;
    open(&mesh, "outside/stranger", pod, &plain)?;
    mesh.finish()
}

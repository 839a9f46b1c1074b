//! Certificates: they are renewed under load and in the absence of the authority's key, and nobody notices.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::Result;
use ebb_tests::{
    app::App,
    load::Load,
    mesh::{Mesh, eventually},
    peer::{Flow, SOON, Server, at},
};
use harness::ztunnel::Settings;

/// The shortest life that the proxy takes; renewal is at half of it, less some jitter.
const LIFE: &str = "60s";
const RENEWED: Duration = Duration::from_secs(50);

#[test]
fn renewal_fails_no_connection_and_goes_on_while_the_root_key_is_away() -> Result<()> {
    let environment = vec![("SECRET_TTL".to_owned(), LIFE.to_owned())];
    let mut mesh = Mesh::start_with(Settings { environment, ..Settings::default() })?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let _echo = Server::echo(mesh.pod("server")?, 8080)?;
    let to = at(mesh.pod("server")?.addresses().v4);
    let mut long = Flow::open(mesh.pod("client")?.namespace(), to)?;
    let load = Load::start(mesh.pod("client")?.namespace(), to, mesh.marker(), 1)?;
    let ca = mesh.cluster().run().directory().join("ca");
    fs::rename(ca.join("root-key.pem"), ca.join("away.pem"))?;
    for ztunnel in mesh.ztunnels() {
        eventually("a second certificate", RENEWED, || {
            let issued = ztunnel.log_lines("certificate issued")?;
            let serials: BTreeSet<_> = issued
                .iter()
                .filter_map(|line| line.split_once("serial=").map(|(_, serial)| serial))
                .collect();
            Ok(serials.len() >= 2)
        })?;
    }
    long.say(mesh.marker())?;
    let until = load.done() + 20;
    eventually("exchanges under the new certificates", SOON, || Ok(load.done() >= until))?;
    let report = load.stop()?;
    assert!(report.failed.is_empty(), "{report:#?}");
    fs::rename(ca.join("away.pem"), ca.join("root-key.pem"))?;
    mesh.finish()
}

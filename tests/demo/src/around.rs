//! The commands with which to look around while the demo is kept running.

use std::path::PathBuf;

use anyhow::Result;
use harness::binaries;

use crate::{
    labs::market::{self, CUSTOMERS, WAYPOINT},
    screen::Row,
    stage::{CLIENT, INTRUDER, OUTSIDE, Stage, WEB_V1},
};

/// Commands for another terminal.
///
/// # Errors
/// A pod or program is gone.
pub(crate) fn commands(stage: &Stage) -> Result<Vec<Row>> {
    let app = binaries::find("ebb-app")?;
    let enter = |namespace: PathBuf| format!("nsenter --net={}", namespace.display());
    let mut rows = Vec::new();
    // Without the mesh a service's address leads nowhere, so `outside` calls the pod.
    let (service, pod) = ("http://10.96.0.10/".to_owned(), format!("http://{}/", stage.server(WEB_V1)?));
    let calls = [
        (CLIENT, "allowed", &service),
        (INTRUDER, "refused by policy", &service),
        (OUTSIDE, "not in the mesh, refused", &pod),
    ];
    for (name, what, url) in calls {
        let inside = enter(stage.pod(name)?.namespace().path());
        rows.extend(command(
            &format!("call web from {} ({what})", name.1),
            &format!("{inside} curl -sS -m 5 {url}"),
        ));
    }
    let inside = enter(stage.pod(CLIENT)?.namespace().path());
    rows.extend(command("the same without curl", &format!("{inside} {} get {service}", app.display())));
    for ztunnel in &stage.ztunnels {
        let inside = enter(ztunnel.node().namespace().path());
        let name = ztunnel.node().name();
        rows.extend(command(
            &format!("what ztunnel of {name} knows"),
            &format!("{inside} curl -s http://127.0.0.1:15000/config_dump"),
        ));
        rows.extend(command(
            &format!("the metrics of {name} (its ztunnel is pid {})", ztunnel.process().pid()),
            &format!("{inside} curl -s http://127.0.0.1:15020/metrics"),
        ));
    }
    let run = stage.cluster().run().directory();
    rows.extend(command("their access logs", &format!("tail -F {}/logs/ztunnel-node-*", run.display())));
    if let (Ok(client), Ok(waypoint)) = (stage.pod(market::CLIENT), stage.pod(WAYPOINT)) {
        let inside = enter(client.namespace().path());
        let url = format!("http://{}/", CUSTOMERS.address().ip());
        rows.extend(command("call customers, by the waypoint", &format!("{inside} curl -sS -m 5 {url}")));
        let log = run.join("logs").join(format!("{}-*", WAYPOINT.1));
        rows.extend(command("its access log", &format!("tail -F {}", log.display())));
        let inside = enter(waypoint.namespace().path());
        rows.extend(command("its metrics", &format!("{inside} curl -s http://127.0.0.1:15020/metrics")));
        let labs = "deploy/examples/traffic/lab-*.yaml";
        rows.extend(command("the labs; one at a time into the directory below", &format!("ls {labs}")));
    }
    let wire = enter(stage.cluster().node(0).namespace().path());
    rows.extend(command("what crosses between the nodes", &format!("{wire} tcpdump -nAi wire0 tcp")));
    rows.extend(command(
        "the manifests; edit, add or remove a file to change the mesh",
        &format!("ls {}", stage.kubelet.directory().display()),
    ));
    Ok(rows)
}

fn command(what: &str, command: &str) -> [Row; 3] {
    [Row::text(""), Row::text(format!("# {what}")), Row::text(command)]
}

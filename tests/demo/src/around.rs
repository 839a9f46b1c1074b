//! The commands with which to look around while the demo is kept running.

use anyhow::Result;
use harness::binaries;

use crate::{
    screen::Row,
    stage::{CLIENT, INTRUDER, OUTSIDE, Stage},
};

/// Commands for another terminal.
///
/// # Errors
/// A pod or program is gone.
pub(crate) fn commands(stage: &Stage) -> Result<Vec<Row>> {
    let app = binaries::find("ebb-app")?;
    let enter = |namespace: std::path::PathBuf| format!("nsenter --net={}", namespace.display());
    let mut rows = Vec::new();
    for (name, what) in [(CLIENT, "allowed"), (INTRUDER, "refused"), (OUTSIDE, "not in the mesh, refused")] {
        let inside = enter(stage.pod(name)?.namespace().path());
        rows.extend(command(
            &format!("call web from {} ({what})", name.1),
            &format!("{inside} curl -s -m 5 http://10.96.0.10/"),
        ));
    }
    let inside = enter(stage.pod(CLIENT)?.namespace().path());
    rows.extend(command(
        "the same without curl",
        &format!("{inside} {} get http://10.96.0.10/", app.display()),
    ));
    for ztunnel in &stage.ztunnels {
        let inside = enter(ztunnel.node().namespace().path());
        let name = ztunnel.node().name();
        rows.extend(command(
            &format!("what ztunnel of {name} knows"),
            &format!("{inside} curl -s http://127.0.0.1:15000/config_dump"),
        ));
        rows.extend(command(
            &format!("its metrics, its log (pid {})", ztunnel.process().pid()),
            &format!("{inside} curl -s http://127.0.0.1:15020/metrics"),
        ));
    }
    let run = stage.cluster().run().directory();
    rows.push(Row::text(format!("  tail -f {}/logs/ztunnel-node-*", run.display())));
    let wire = enter(stage.cluster().node(0).namespace().path());
    rows.extend(command("what crosses between the nodes", &format!("{wire} tcpdump -nAi wire0 tcp")));
    rows.extend(command(
        "change something (edit, add or remove a file)",
        &format!("ls {}", stage.kubelet.directory().display()),
    ));
    Ok(rows)
}

fn command(what: &str, command: &str) -> [Row; 2] {
    [Row::text(format!("# {what}")), Row::text(format!("  {command}"))]
}

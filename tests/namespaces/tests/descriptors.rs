//! A proxy without descriptors: it does not spin, keeps what it has, and comes back by itself.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ebb_tests::{
    app::App,
    mesh::{Mesh, SETTLED, eventually},
    peer::{Doorway, Flow, Origin, Server, at, call},
};

/// For how long its processor time is watched.
const WATCHED: Duration = Duration::from_secs(2);

fn limit_files(pid: i32, soft: &str) -> Result<()> {
    let status =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")]).status()?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

#[test]
fn out_of_descriptors_it_neither_spins_nor_drops_what_it_carries_and_it_recovers() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let _echo = Server::echo(mesh.pod("server")?, 8080)?;
    let to = at(mesh.pod("server")?.addresses().v4);
    let from = mesh.pod("client")?.namespace();
    let mut carried = Flow::open(from, to)?;
    carried.say(mesh.marker())?;

    let process = mesh.ztunnel(0).process();
    limit_files(process.pid(), &process.fd_count()?.to_string())?;
    let doorway = Doorway::to(from)?;
    // The kernel completes these; the proxy cannot accept them.
    let _waiting = (0..20).map(|_| doorway.reach(to, SETTLED)).collect::<Result<Vec<_>>>()?;
    let (before, start) = (process.role().cpu()?, Instant::now());
    while start.elapsed() < WATCHED {
        carried.say(mesh.marker())?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let used = (process.role().cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(used < 0.2, "{used:.2} of a processor while it can do nothing");

    limit_files(process.pid(), "65536")?;
    let restored = Instant::now();
    eventually("new connections to work again", SETTLED, || {
        call(mesh.pod("client")?, to, mesh.marker()).map(|_| true)
    })?;
    assert!(restored.elapsed() < Duration::from_secs(4), "it took {:?}", restored.elapsed());
    mesh.finish()
}

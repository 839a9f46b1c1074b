//! A proxy without descriptors: it does not spin, keeps what it has, and comes back by itself.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
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

/// The soft limit in force now.
fn file_limit(pid: i32) -> Result<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    Ok(line.and_then(|line| line.split_whitespace().next()).context("no limit of open files")?.to_owned())
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
    let usual = file_limit(process.pid())?;
    limit_files(process.pid(), &process.fd_count()?.to_string())?;
    let doorway = Doorway::to(from)?;
    // The proxy can let these wait, or shed them; it cannot carry them.
    let _waiting: Vec<_> = (0..20).filter_map(|_| doorway.reach(to, SETTLED).ok()).collect();
    let (before, start) = (process.role().cpu()?, Instant::now());
    while start.elapsed() < WATCHED {
        carried.say(mesh.marker())?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let used = (process.role().cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(used < 0.2, "{used:.2} of a processor while it can do nothing");

    limit_files(process.pid(), &usual)?;
    let restored = Instant::now();
    eventually("new connections to work again", SETTLED, || {
        call(mesh.pod("client")?, to, mesh.marker()).map(|_| true)
    })?;
    assert!(restored.elapsed() < Duration::from_secs(4), "it took {:?}", restored.elapsed());
    mesh.finish()
}

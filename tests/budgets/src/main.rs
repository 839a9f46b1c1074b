//! Runs one unit of work many times, for callgrind to count its instructions: `ebb-budgets NAME`.
//!
//! `cargo xtask budgets` is what counts, and owns the figures and their file. Here nothing is measured: what is outside
//! `counted_work` is set-up, and everything inside runs on one thread, in memory or on loopback sockets.

#![forbid(unsafe_code)]

mod connections;
mod counted;
mod manifests;
mod mesh;
mod requests;
mod tls;
mod tunnel_path;
mod waypoint_path;

use anyhow::{Context as _, Result};

use counted::Units;

/// A unit of work: its name, what one of it is, how many are done, and what does them.
struct Benchmark {
    name: &'static str,
    unit: &'static str,
    units: Units,
    run: fn(Units) -> Result<()>,
}

const BENCHMARKS: &[Benchmark] = &[
    benchmark("connection.route", "connection", (1000, 4000), connections::route),
    benchmark("connection.admit", "connection", (1000, 4000), connections::admit),
    benchmark("connect.encode", "CONNECT", (1000, 4000), connections::encode),
    benchmark("connect.decode", "CONNECT", (1000, 4000), connections::decode),
    benchmark("connection.log_line", "line", (1000, 4000), connections::log_line),
    benchmark("connection.edge", "lookup", (1000, 4000), connections::edge),
    benchmark("request.route", "request", (1000, 4000), requests::route),
    benchmark("request.authorize", "request", (1000, 4000), requests::authorize),
    benchmark("request.path", "path", (1000, 4000), requests::path),
    benchmark("manifest.object", "object", (1000, 1000), manifests::object),
    benchmark("tunnel.connection", "connection", (100, 200), tunnel_path::connection),
    benchmark("tunnel.request", "request", (200, 500), tunnel_path::request),
    benchmark("tunnel.megabyte_up", "megabyte", (4, 16), tunnel_path::megabyte_up),
    benchmark("tunnel.megabyte_down", "megabyte", (4, 16), tunnel_path::megabyte_down),
    benchmark("waypoint.request", "request", (200, 500), waypoint_path::request),
];

const fn benchmark(
    name: &'static str,
    unit: &'static str,
    (warm_up, counted): (usize, usize),
    run: fn(Units) -> Result<()>,
) -> Benchmark {
    Benchmark { name, unit, units: Units { warm_up, counted }, run }
}

fn main() -> Result<()> {
    let Some(name) = std::env::args().nth(1) else {
        for Benchmark { name, unit, units, .. } in BENCHMARKS {
            println!("{name} {} {unit}", units.counted);
        }
        return Ok(());
    };
    let found = BENCHMARKS.iter().find(|it| it.name == name);
    let benchmark = found.with_context(|| format!("no benchmark {name}"))?;
    (benchmark.run)(benchmark.units)
}

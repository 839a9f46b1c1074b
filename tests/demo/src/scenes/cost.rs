//! What the mesh costs: the same calls with it and without, in turns, on the same nodes and over the same wire.
//!
//! Rounds alternate, and which side goes first alternates as well, so that whatever else the machine does falls on both.
//! Figures are medians over rounds of a round's median: on a small machine with other work, tails are that work's, and are
//! left to the benchmarks. That one side went through the mesh and the other did not is checked, not assumed; the
//! capture is closed before anything is timed, because it costs something itself.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use harness::cluster::Pod;

use crate::{
    figures::{median, micros, percentile, show_micros},
    http::Connection,
    screen::{Claim, Facts, Row},
    sight::Sight,
    stage::{CALL, CLIENT, Name, Stage, WEB_V2, marker},
};

const UNMESHED: (&str, &str) = ("unmeshed.yaml", include_str!("../../manifests/unmeshed.yaml"));
const PLAIN_CLIENT: Name = Name("outside", "plain-client");
const PLAIN_WEB: Name = Name("outside", "plain-web");

/// Rounds of each side.
const ROUNDS: usize = 7;

/// How long each kind of call is made in a round.
const SPAN: Duration = Duration::from_millis(350);

/// Connections over which requests per second are measured.
const CONNECTIONS: usize = 8;

/// What one download brings, in bytes.
const DOWNLOAD_BYTES: u64 = 8 << 20;

/// Calls on open connections below which percentiles would mean nothing.
const CALLS_MIN: usize = 100 * ROUNDS;

/// The figures of one side in one round, or their medians.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    open_p50_us: f64,
    new_p50_us: f64,
    requests_per_second: f64,
    bits_per_second: f64,
}

/// One side of the comparison.
#[derive(Debug, Default)]
struct Side {
    sight: Sight,
    rounds: Vec<Figures>,
    calls_on_open: usize,
    calls_on_new: usize,
}

struct Cost {
    plain: Side,
    mesh: Side,
    counted: f64,
    optimised: bool,
    /// Load average over the last minute, and processors.
    machine: (String, usize),
}

/// Who calls whom, with connections that are open already.
struct Lane<'a> {
    pod: &'a Pod,
    server: SocketAddr,
    kept: Vec<Connection>,
}

/// Measures both sides in turns.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    stage.apply(UNMESHED.0, UNMESHED.1)?;
    let markers = [marker("plain")?, marker("mesh")?];
    stage.watch_wire()?;
    let mut kept = [open(stage, PLAIN_CLIENT, PLAIN_WEB)?, open(stage, CLIENT, WEB_V2)?];
    let mut sides = [Side::default(), Side::default()];
    for (at, marker) in markers.iter().enumerate() {
        let path = format!("/checkout?number={marker}");
        kept[at].iter_mut().try_for_each(|connection| call(connection, &path))?;
        sides[at].sight = stage.sight(marker)?;
    }
    stage.leave_wire();
    let before = opened(stage)?;
    let names = [(PLAIN_CLIENT, PLAIN_WEB), (CLIENT, WEB_V2)];
    let mut lanes = Vec::new();
    for ((client, server), kept) in names.into_iter().zip(kept) {
        lanes.push(Lane { pod: stage.pod(client)?, server: stage.server(server)?, kept });
    }
    for round in 0..ROUNDS {
        for turn in [round % 2, 1 - round % 2] {
            lanes[turn].round(&mut sides[turn])?;
        }
    }
    let [plain, mesh] = sides;
    let counted = opened(stage)? - before;
    Ok(Box::new(Cost { plain, mesh, counted, optimised: !cfg!(debug_assertions), machine: machine()? }))
}

/// How busy the machine is.
fn machine() -> Result<(String, usize)> {
    let averages = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let average = averages.split(' ').next().unwrap_or_default().to_owned();
    Ok((average, thread::available_parallelism().context("count processors")?.get()))
}

/// Connections of `client` that its ztunnel has counted as carried over mutual TLS.
fn opened(stage: &Stage) -> Result<f64> {
    let labels =
        [("reporter", "source"), ("source_workload", CLIENT.1), ("connection_security_policy", "mutual_tls")];
    Ok(stage.ztunnels[0].metrics()?.sum("istio_tcp_connections_opened_total", &labels))
}

/// Connections that stay open for the whole scene.
fn open(stage: &Stage, client: Name, server: Name) -> Result<Vec<Connection>> {
    let (pod, server) = (stage.pod(client)?, stage.server(server)?);
    (0..CONNECTIONS).map(|_| Connection::open(pod, server, CALL)).collect()
}

impl Lane<'_> {
    fn round(&mut self, side: &mut Side) -> Result<()> {
        let open = self.on_open()?;
        let new = self.on_new()?;
        side.calls_on_open += open.len();
        side.calls_on_new += new.len();
        side.rounds.push(Figures {
            open_p50_us: micros(percentile(&open, 0.5)),
            new_p50_us: micros(percentile(&new, 0.5)),
            requests_per_second: self.requests_per_second()?,
            bits_per_second: self.bits_per_second()?,
        });
        Ok(())
    }

    fn on_open(&mut self) -> Result<Vec<Duration>> {
        let connection = &mut self.kept[0];
        for_span(|| call(connection, "/"))
    }

    fn on_new(&self) -> Result<Vec<Duration>> {
        self.pod.namespace().within(|| for_span(|| call(&mut Connection::open_here(self.server, CALL)?, "/")))
    }

    fn requests_per_second(&mut self) -> Result<f64> {
        let start = Instant::now();
        let calls: usize = thread::scope(|scope| {
            let callers: Vec<_> = self
                .kept
                .iter_mut()
                .map(|connection| scope.spawn(|| for_span(move || call(&mut *connection, "/"))))
                .collect();
            let counts = callers.into_iter().map(|caller| {
                Ok::<_, anyhow::Error>(caller.join().map_err(|_| anyhow!("a caller panicked"))??.len())
            });
            counts.sum::<Result<usize>>()
        })?;
        Ok(calls as f64 / start.elapsed().as_secs_f64())
    }

    fn bits_per_second(&mut self) -> Result<f64> {
        let (connection, path) = (&mut self.kept[0], format!("/bytes/{DOWNLOAD_BYTES}"));
        let start = Instant::now();
        let downloads = for_span(|| connection.download(&path).map(drop))?;
        Ok(downloads.len() as f64 * DOWNLOAD_BYTES as f64 * 8.0 / start.elapsed().as_secs_f64())
    }
}

fn call(connection: &mut Connection, path: &str) -> Result<()> {
    let status = connection.get(path)?.status;
    ensure!(status == 200, "a call was answered with {status}");
    Ok(())
}

/// Does `work` again and again for [`SPAN`], and keeps how long each time took.
fn for_span(mut work: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < SPAN {
        let began = Instant::now();
        work()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

impl Side {
    fn medians(&self) -> Figures {
        let of = |figure: fn(&Figures) -> f64| median(self.rounds.iter().map(figure));
        Figures {
            open_p50_us: of(|it| it.open_p50_us),
            new_p50_us: of(|it| it.new_p50_us),
            requests_per_second: of(|it| it.requests_per_second),
            bits_per_second: of(|it| it.bits_per_second),
        }
    }
}

impl Facts for Cost {
    fn rows(&self) -> Vec<Row> {
        let (plain, mesh) = (self.plain.medians(), self.mesh.medians());
        let latency = |name: &str, plain: f64, mesh: f64| {
            let added = format!("{}{}", if mesh < plain { "" } else { "+" }, show_micros(mesh - plain));
            table(name, &show_micros(plain), &show_micros(mesh), &added)
        };
        let share = |plain: f64, mesh: f64| format!("{:.0} %", 100.0 * mesh / plain);
        let rate = |per_second: f64| format!("{per_second:.0}/s");
        let bits = |per_second: f64| format!("{:.1} Gbit/s", per_second / 1e9);
        let mut rows = vec![
            table("medians of alternating rounds", "without mesh", "with mesh", "difference"),
            latency("request, open connection", plain.open_p50_us, mesh.open_p50_us),
            latency("new connection, request", plain.new_p50_us, mesh.new_p50_us),
            table(
                &format!("requests, {CONNECTIONS} connections"),
                &rate(plain.requests_per_second),
                &rate(mesh.requests_per_second),
                &share(plain.requests_per_second, mesh.requests_per_second),
            ),
            table(
                "download, one connection",
                &bits(plain.bits_per_second),
                &bits(mesh.bits_per_second),
                &share(plain.bits_per_second, mesh.bits_per_second),
            ),
            Row::text(""),
            Row::fact(
                "calls timed one by one",
                format!(
                    "{} on open and {} on new connections without, {} and {} with",
                    self.plain.calls_on_open,
                    self.plain.calls_on_new,
                    self.mesh.calls_on_open,
                    self.mesh.calls_on_new
                ),
            ),
            Row::fact(
                "without mesh",
                "plain-client calls plain-web: like client and web-v2, on the same nodes, not enrolled",
            ),
            Row::fact("machine", format!("{} processors, load average {}", self.machine.1, self.machine.0)),
        ];
        if !self.optimised {
            rows.push(Row::fact("note", "this is an unoptimised build: its figures mean nothing"));
        }
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let enough = [&self.plain, &self.mesh].iter().all(|side| side.calls_on_open >= CALLS_MIN);
        let apart = self.plain.sight.readable && !self.mesh.sight.readable;
        vec![
            Claim::new("every call of either side was answered", enough),
            Claim::new(
                "without the mesh the calls were readable between the nodes, with it they were not",
                apart,
            ),
            Claim::new(
                format!("ztunnel counted {} of them as new connections over mutual TLS", self.counted),
                self.counted >= self.mesh.calls_on_new as f64 && self.mesh.calls_on_new > 0,
            ),
        ]
    }
}

fn table(name: &str, plain: &str, mesh: &str, difference: &str) -> Row {
    Row::text(format!("{name:<32}{plain:>15}{mesh:>15}{difference:>15}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(readable: bool) -> Side {
        let round = |us| Figures { open_p50_us: us, requests_per_second: 1e6 / us, ..Figures::default() };
        let sight = Sight { readable, ..Sight::default() };
        Side { sight, rounds: [60.0, 50.0, 900.0].map(round).into(), calls_on_open: 5000, calls_on_new: 900 }
    }

    fn failing(change: impl FnOnce(&mut Cost)) -> Vec<usize> {
        let mut cost = Cost {
            plain: side(true),
            mesh: side(false),
            counted: 900.0,
            optimised: true,
            machine: (String::new(), 2),
        };
        change(&mut cost);
        let claims = cost.claims();
        claims.iter().enumerate().filter(|(_, claim)| !claim.holds).map(|(at, _)| at).collect()
    }

    #[test]
    fn figures_are_medians_over_rounds() {
        assert_eq!(side(true).medians().open_p50_us, 60.0);
    }

    #[test]
    fn a_comparison_of_the_mesh_with_itself_is_none() {
        assert!(failing(|_| {}).is_empty());
        assert_eq!(failing(|cost| cost.plain.sight.readable = false), [1]);
        assert_eq!(failing(|cost| cost.mesh.sight.readable = true), [1]);
        assert_eq!(failing(|cost| cost.counted = 899.0), [2]);
        assert_eq!(failing(|cost| cost.mesh.calls_on_open = 10), [0]);
    }

    #[test]
    fn what_is_faster_with_the_mesh_is_not_shown_as_added() {
        let mut cost = Cost {
            plain: side(true),
            mesh: side(false),
            counted: 0.0,
            optimised: true,
            machine: (String::new(), 2),
        };
        cost.mesh.rounds.iter_mut().for_each(|round| round.open_p50_us -= 10.0);
        let rows = format!("{:?}", cost.rows());
        assert!(rows.contains(" -10 us"), "{rows}");
    }
}

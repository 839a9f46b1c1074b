//! Opens many connections, holds them idle until its input ends, and then looks which still live.

use std::{
    collections::BTreeMap,
    io::Read,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use harness::report::{Failure, HoldReport};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    conclude,
    net::{connect, late},
    short::echo_one,
    tally::count,
};

/// Connections being opened, or tried at the end, at a time.
const PARALLEL: usize = 64;

#[derive(Args)]
pub(crate) struct Flags {
    /// A `tcp-echo`
    to: SocketAddr,
    /// Connections
    #[arg(long, short, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// Longest that opening or one echo may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

/// Prints a report when all are open, and another after the end of input.
pub(crate) async fn run(flags: Flags) -> Result<ExitCode> {
    let within = Duration::from_millis(flags.timeout_ms);
    let mut report =
        HoldReport { opened: 0, failed: BTreeMap::new(), alive: None, dead: BTreeMap::new(), slowest_us: 0 };
    let mut held = Vec::new();
    let opening = (0..flags.connections).map(|_| open(flags.to, within));
    in_parallel(opening, |result| match result {
        Ok(stream) => held.push(stream),
        Err(failure) => count(&mut report.failed, &failure),
    })
    .await?;
    report.opened = held.len() as u64;
    conclude(&report, true)?;
    end_of_input().await?;
    let (mut alive, mut slowest) = (0, Duration::ZERO);
    in_parallel(held.into_iter().map(|stream| check(stream, within)), |result| match result {
        Ok(took) => {
            alive += 1;
            slowest = slowest.max(took);
        }
        Err(failure) => count(&mut report.dead, &failure),
    })
    .await?;
    report.alive = Some(alive);
    report.slowest_us = u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX);
    conclude(&report, report.failed.is_empty() && report.dead.is_empty())
}

async fn open(to: SocketAddr, within: Duration) -> Result<TcpStream, Failure> {
    let mut stream = connect(to, within).await?;
    timeout(within, echo_one(&mut stream, 1)).await.unwrap_or_else(|_| Err(late(within)))?;
    Ok(stream)
}

async fn check(mut stream: TcpStream, within: Duration) -> Result<Duration, Failure> {
    let start = Instant::now();
    timeout(within, echo_one(&mut stream, 2)).await.unwrap_or_else(|_| Err(late(within)))?;
    Ok(start.elapsed())
}

async fn in_parallel<T, F>(work: impl Iterator<Item = F>, mut each: impl FnMut(T)) -> Result<()>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut running = JoinSet::new();
    for one in work {
        if running.len() >= PARALLEL
            && let Some(result) = running.join_next().await
        {
            each(result.context("a task of ours ended early")?);
        }
        running.spawn(one);
    }
    while let Some(result) = running.join_next().await {
        each(result.context("a task of ours ended early")?);
    }
    Ok(())
}

/// Whoever started this closes the pipe when it is time.
async fn end_of_input() -> Result<()> {
    let read = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new()));
    read.await.context("the reading thread ended early")?.context("read standard input")?;
    Ok(())
}

//! Bulk throughput over one or several streams, counted by the end that received.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use harness::report::{BulkReport, Failure, FailureKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    conclude,
    net::{connect, failed, protocol, timed},
    tally::count,
    tcp::BULK,
};

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// To a `tcp-sink`
    Up,
    /// From a `tcp-source`
    Down,
}

#[derive(Args)]
pub(crate) struct Flags {
    /// A `tcp-sink`, or with `--direction down` a `tcp-source`
    to: SocketAddr,
    /// Which way the bytes go
    #[arg(long, value_enum, default_value = "up")]
    direction: Direction,
    /// Streams at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    streams: u32,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Bytes per stream; then the time is only a limit
    #[arg(long)]
    bytes: Option<u64>,
    /// Longest a stream may stand still, in milliseconds
    #[arg(long, default_value_t = 10_000)]
    stall_ms: u64,
}

#[derive(Clone, Copy)]
struct Stream {
    to: SocketAddr,
    bytes: u64,
    end: Instant,
    stall: Duration,
}

pub(crate) async fn run(flags: Flags) -> Result<ExitCode> {
    let start = Instant::now();
    let stream = Stream {
        to: flags.to,
        bytes: flags.bytes.unwrap_or(u64::MAX),
        end: start + Duration::try_from_secs_f64(flags.seconds).unwrap_or(Duration::MAX / 4),
        stall: Duration::from_millis(flags.stall_ms),
    };
    let arrived = Rc::new(Cell::new(0));
    let failures: Rc<RefCell<BTreeMap<FailureKind, u64>>> = Rc::default();
    let local = tokio::task::LocalSet::new();
    for _ in 0..flags.streams {
        let (arrived, failures) = (Rc::clone(&arrived), Rc::clone(&failures));
        local.spawn_local(async move {
            let result = match flags.direction {
                Direction::Up => stream.send(&arrived).await,
                Direction::Down => stream.receive(&arrived).await,
            };
            if let Err(failure) = result {
                count(&mut failures.borrow_mut(), &failure);
            }
        });
    }
    local.await;
    let (elapsed_s, bytes) = (start.elapsed().as_secs_f64(), arrived.get());
    let failures = failures.borrow().clone();
    let gbit_per_s = bytes as f64 * 8.0 / elapsed_s / 1e9;
    let success = failures.is_empty();
    conclude(&BulkReport { streams: flags.streams, bytes, elapsed_s, gbit_per_s, failures }, success)
}

impl Stream {
    async fn send(self, arrived: &Cell<u64>) -> Result<(), Failure> {
        let mut stream = connect(self.to, self.stall).await?;
        let (piece, mut sent) = (vec![b'b'; BULK], 0);
        while sent < self.bytes && Instant::now() < self.end {
            let length = usize::try_from(self.bytes - sent).unwrap_or(usize::MAX).min(piece.len());
            sent += timed(self.stall, stream.write(&piece[..length])).await? as u64;
        }
        timed(self.stall, stream.shutdown()).await?;
        let confirmed = timed(self.stall, stream.read_u64()).await?;
        arrived.set(arrived.get() + confirmed);
        self.complete(sent)?;
        if confirmed == sent { Ok(()) } else { Err(protocol(format!("{confirmed} of {sent} bytes arrived"))) }
    }

    async fn receive(self, arrived: &Cell<u64>) -> Result<(), Failure> {
        let mut stream: TcpStream = connect(self.to, self.stall).await?;
        stream.write_u64(self.bytes).await.map_err(|error| failed(&error))?;
        let (mut buffer, mut received) = (vec![0; BULK], 0);
        while received < self.bytes && Instant::now() < self.end {
            match timed(self.stall, stream.read(&mut buffer)).await? {
                0 => break,
                length => received += length as u64,
            }
        }
        arrived.set(arrived.get() + received);
        self.complete(received)
    }

    /// When a number of bytes was asked for, running out of time is a failure.
    fn complete(self, moved: u64) -> Result<(), Failure> {
        if self.bytes == u64::MAX || moved == self.bytes {
            return Ok(());
        }
        let kind = if Instant::now() >= self.end { FailureKind::Timeout } else { FailureKind::Closed };
        Err(Failure { kind, detail: format!("{moved} of {} bytes", self.bytes) })
    }
}

//! Measurements of the smallest units: `pingpong`, one byte there and back, and `connrate`, one connection and one request.

use std::{net::SocketAddr, process::ExitCode, rc::Rc, time::Instant};

use anyhow::Result;
use clap::Args;
use harness::report::Failure;
use hyper::Uri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    get::target,
    net::{connect, failed, late, protocol},
    raw_http::{HttpConnection, request},
    tally::{self, Amount, Tally},
};

#[derive(Args)]
pub(crate) struct PingpongFlags {
    /// A `tcp-echo`
    to: SocketAddr,
    /// Connections at a time
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    #[command(flatten)]
    amount: Amount,
}

#[derive(Args)]
pub(crate) struct ConnrateFlags {
    /// `http://ADDRESS[:PORT]/PATH`
    url: Uri,
    /// Connect here whatever the URL says
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Connections being made at a time
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    parallel: u32,
    #[command(flatten)]
    amount: Amount,
}

pub(crate) async fn pingpong(flags: PingpongFlags) -> Result<ExitCode> {
    let (to, within) = (flags.to, flags.amount.timeout());
    tally::run(flags.amount, flags.connections, |tally, _| async move {
        let mut stream: Option<TcpStream> = None;
        while tally.take() {
            let start = Instant::now();
            let echoed = timeout(within, ping(&mut stream, to, within, &tally, start)).await;
            if let Err(failure) = echoed.unwrap_or_else(|_| Err(late(within))) {
                stream = None;
                tally.failed(&failure).await;
            }
        }
        Ok(())
    })
    .await
}

async fn ping(
    stream: &mut Option<TcpStream>,
    to: SocketAddr,
    within: std::time::Duration,
    tally: &Tally,
    start: Instant,
) -> Result<(), Failure> {
    let (stream, start) = match stream {
        Some(stream) => (stream, start),
        // Making the connection is not part of the measurement.
        none => (none.insert(connect(to, within).await?), Instant::now()),
    };
    echo_one(stream, 7).await?;
    tally.done(start, 1);
    Ok(())
}

/// One byte there and back.
pub(crate) async fn echo_one(stream: &mut TcpStream, byte: u8) -> Result<(), Failure> {
    stream.write_all(&[byte]).await.map_err(|error| failed(&error))?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await.map_err(|error| failed(&error))?;
    if answer == [byte] { Ok(()) } else { Err(protocol(format!("{answer:?} came back for {byte}"))) }
}

pub(crate) async fn connrate(flags: ConnrateFlags) -> Result<ExitCode> {
    let to = flags.connect.map_or_else(|| target(&flags.url), Ok)?;
    let request: Rc<[u8]> = request(&flags.url, to, &[], true).into();
    let within = flags.amount.timeout();
    tally::run(flags.amount, flags.parallel, |tally, _| {
        let request = Rc::clone(&request);
        async move {
            while tally.take() {
                let start = Instant::now();
                let one = async {
                    let mut connection = HttpConnection::new(connect(to, within).await?);
                    connection.exchange(&request).await
                };
                match timeout(within, one).await.unwrap_or_else(|_| Err(late(within))) {
                    Ok(answered) => {
                        tally.done(start, answered.body);
                        tally.status(answered.status);
                    }
                    Err(failure) => tally.failed(&failure).await,
                }
            }
            Ok(())
        }
    })
    .await
}

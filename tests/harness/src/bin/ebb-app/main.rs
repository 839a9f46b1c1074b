//! The programs that run in the pods of a harness cluster: servers, clients and load generators.
//!
//! Knows nothing of meshes: these are the applications. Each is one current-thread runtime, prints its results as one JSON
//! object per line (see `harness::report`), and is bounded in count and time by flags that have defaults.

#![forbid(unsafe_code)]

mod authorizer;
mod bulk;
mod collector;
mod get;
mod grpc;
mod hold;
mod http;
mod latency;
mod ledger;
mod load;
mod net;
mod peer;
mod raw_http;
mod short;
mod tally;
mod tcp;
mod ticker;
mod websocket;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(version, about = "Applications and load generators for Ebb's tests")]
struct Arguments {
    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    /// HTTP/1.1 server that names itself
    Http(http::Flags),
    /// TCP server that sends back what comes
    TcpEcho(tcp::Flags),
    /// TCP server that counts what comes, or verifies numbered records
    TcpSink(tcp::SinkFlags),
    /// TCP server that sends as much as it is asked for
    TcpSource(tcp::Flags),
    /// Does nothing until told to end
    Sleep,
    /// One HTTP request
    Get(get::Flags),
    /// HTTP load, closed loop or at a fixed rate
    Load(load::Flags),
    /// Bulk throughput
    Bulk(bulk::Flags),
    /// One byte there and back
    Pingpong(short::PingpongFlags),
    /// New connections, one request on each
    Connrate(short::ConnrateFlags),
    /// Holds idle connections
    Hold(hold::Flags),
    /// Sends numbered records and has them verified
    Ledger(ledger::Flags),
    /// One end of a connection, by a script
    Peer(peer::Flags),
    /// Collector of traces that prints what it is sent
    Collector(collector::Flags),
    /// External authorizer, over HTTP and gRPC
    Authorizer(authorizer::Flags),
    /// gRPC server
    Grpc(grpc::server::Flags),
    /// One gRPC call
    GrpcCall(grpc::client::Flags),
    /// WebSocket server that sends back what comes
    Websocket(websocket::Flags),
    /// One WebSocket, to its end
    WebsocketCall(websocket::CallFlags),
}

fn main() -> ExitCode {
    match run(Arguments::parse().program) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ebb-app: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: Program) -> Result<ExitCode> {
    raise_file_limit()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        tokio::select! {
            code = dispatch(program) => code,
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        }
    });
    // A thread may still be waiting for input that never comes.
    runtime.shutdown_background();
    result
}

async fn dispatch(program: Program) -> Result<ExitCode> {
    match program {
        Program::Http(flags) => http::serve(flags).await,
        Program::TcpEcho(flags) => tcp::echo(flags).await,
        Program::TcpSink(flags) => tcp::sink(flags).await,
        Program::TcpSource(flags) => tcp::source(flags).await,
        Program::Get(flags) => get::run(flags).await,
        Program::Load(flags) => load::run(flags).await,
        Program::Bulk(flags) => bulk::run(flags).await,
        Program::Pingpong(flags) => short::pingpong(flags).await,
        Program::Connrate(flags) => short::connrate(flags).await,
        Program::Hold(flags) => hold::run(flags).await,
        Program::Ledger(flags) => ledger::send(flags).await,
        Program::Peer(flags) => peer::run(flags).await,
        Program::Collector(flags) => collector::serve(flags).await,
        Program::Authorizer(flags) => authorizer::serve(flags).await,
        Program::Grpc(flags) => grpc::server::serve(flags).await,
        Program::GrpcCall(flags) => grpc::client::run(flags).await,
        Program::Websocket(flags) => websocket::serve(flags).await,
        Program::WebsocketCall(flags) => websocket::call(flags).await,
        Program::Sleep => {
            announce("sleeping");
            std::future::pending().await
        }
    }
}

/// Tells the harness that a server is ready; it waits for this line. Standard output is for results.
fn announce(what: impl std::fmt::Display) {
    eprintln!("ready: {what}");
}

/// Prints a result line. The exit status says whether it was a success, for use in shells.
fn conclude<T: Serialize>(report: &T, success: bool) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(report).context("encode the report")?);
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Load generators hold many connections; the soft limit is often 1,024.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

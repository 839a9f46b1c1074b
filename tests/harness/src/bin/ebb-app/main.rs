//! The programs that run in the pods of a harness cluster: servers, clients and load generators.
//!
//! Knows nothing of meshes: these are the applications. Each is one current-thread runtime, prints its results as one JSON
//! object per line (see `harness::report`), and is bounded in count and time by flags that have defaults.

#![forbid(unsafe_code)]

mod get;
mod http;
mod net;

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
    /// One HTTP request
    Get(get::Flags),
    /// Does nothing until told to end
    Sleep,
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
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        tokio::select! {
            code = dispatch(program) => code,
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn dispatch(program: Program) -> Result<ExitCode> {
    match program {
        Program::Http(flags) => http::serve(flags).await,
        Program::Get(flags) => get::run(flags).await,
        Program::Sleep => {
            announce("sleeping");
            std::future::pending().await
        }
    }
}

/// Tells the harness that a server is ready; it waits for this line.
fn announce(what: impl std::fmt::Display) {
    println!("ready: {what}");
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

//! The project's own commands, run as `cargo xtask <command>`.

mod ebpf;
mod toolchain;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Ebb's build and maintenance commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the kernel programs, installing the toolchain for them where that is possible.
    Ebpf,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Ebpf => ebpf::run(),
    }
}

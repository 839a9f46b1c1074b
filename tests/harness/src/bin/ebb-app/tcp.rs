//! TCP servers: `tcp-echo` sends back what comes, `tcp-sink` counts it, `tcp-source` sends as much as is asked for.
//!
//! An echo connection that is idle holds no buffer: all share one, which is never kept across a wait.

use std::{cell::RefCell, io, process::ExitCode, rc::Rc};

use anyhow::Result;
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{announce, ledger, net};

/// Size of read and write buffers for bulk, in bytes.
pub(crate) const BULK: usize = 256 * 1024;

/// Size of the shared echo buffer, in bytes.
const ECHO: usize = 64 * 1024;

#[derive(Args)]
pub(crate) struct Flags {
    /// Port on every address
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Args)]
pub(crate) struct SinkFlags {
    /// Port on every address
    #[arg(long, default_value_t = 9002)]
    port: u16,
    /// Expect numbered records, verify them, and print a receipt per connection
    #[arg(long)]
    ledger: bool,
}

pub(crate) async fn echo(flags: Flags) -> Result<ExitCode> {
    let port = flags.port.unwrap_or(9001);
    let listener = net::listen(port)?;
    announce(format_args!("tcp-echo on port {port}"));
    let shared = Rc::new(RefCell::new(vec![0; ECHO]));
    net::serve(listener, move |connection| {
        let shared = Rc::clone(&shared);
        async move {
            // How a client leaves is its own affair.
            let _ = echo_one(connection.stream, &shared).await;
        }
    })
    .await
}

async fn echo_one(mut stream: TcpStream, shared: &RefCell<Vec<u8>>) -> io::Result<()> {
    loop {
        stream.readable().await?;
        let rest = {
            let mut buffer = shared.borrow_mut();
            let length = match stream.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            let written = match stream.try_write(&buffer[..length]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            // Only what the socket would not take is copied, to be sent while others use the buffer.
            if written < length { buffer[written..length].to_vec() } else { Vec::new() }
        };
        stream.write_all(&rest).await?;
    }
    stream.shutdown().await
}

/// Counts until the end of the stream, then answers the count as eight bytes, most significant first.
pub(crate) async fn sink(flags: SinkFlags) -> Result<ExitCode> {
    let listener = net::listen(flags.port)?;
    announce(format_args!("tcp-sink on port {}", flags.port));
    net::serve(listener, move |connection| async move {
        if flags.ledger {
            ledger::receive(connection.stream).await;
        } else {
            let _ = sink_one(connection.stream).await;
        }
    })
    .await
}

async fn sink_one(mut stream: TcpStream) -> io::Result<()> {
    let (mut buffer, mut total) = (vec![0; BULK], 0_u64);
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => total += length as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await?;
    stream.shutdown().await
}

/// Reads how much is wanted as eight bytes, most significant first, sends that, and ends the stream.
pub(crate) async fn source(flags: Flags) -> Result<ExitCode> {
    let port = flags.port.unwrap_or(9003);
    let listener = net::listen(port)?;
    announce(format_args!("tcp-source on port {port}"));
    let piece: Rc<[u8]> = vec![b's'; BULK].into();
    net::serve(listener, move |connection| {
        let piece = Rc::clone(&piece);
        async move {
            let _ = source_one(connection.stream, &piece).await;
        }
    })
    .await
}

async fn source_one(mut stream: TcpStream, piece: &[u8]) -> io::Result<()> {
    let mut left = stream.read_u64().await?;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        stream.write_all(&piece[..length]).await?;
        left -= length as u64;
    }
    stream.shutdown().await
}

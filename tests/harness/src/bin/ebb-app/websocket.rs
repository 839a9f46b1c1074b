//! A WebSocket server that sends back what comes, and a client that takes one to its end.
//!
//! The server refuses the path `/refused` with 403, closes with code 4001 when it is told `close`, and sends a ping when it
//! is told `ping`.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use futures_util::{SinkExt, StreamExt};
use harness::report::WebSocketReport;
use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        Error, Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    announce, conclude,
    net::{self, Connection},
};

/// What the server closes with.
const CLOSED_BY_SERVER: u16 = 4001;
/// What the client closes with.
const CLOSED_BY_CLIENT: u16 = 4002;

#[derive(Args)]
pub(crate) struct Flags {
    /// Port
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

#[derive(Args)]
pub(crate) struct CallFlags {
    /// Server
    to: SocketAddr,
    /// Path; `/refused` is refused
    #[arg(long, default_value = "/")]
    path: String,
    /// Messages there and back, every other one binary
    #[arg(long, default_value_t = 100)]
    messages: u64,
    /// Bytes of a message, besides its number
    #[arg(long, default_value_t = 100)]
    length: usize,
    /// Who closes
    #[arg(long, value_enum, default_value = "client")]
    closed_by: ClosedBy,
    /// Longest the whole may take, in milliseconds
    #[arg(long, default_value_t = 20_000)]
    timeout_ms: u64,
}

/// Who begins the closing handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClosedBy {
    Client,
    Server,
}

pub(crate) async fn serve(flags: Flags) -> Result<ExitCode> {
    let listener = net::listen(flags.port)?;
    announce(format_args!("websocket on port {}", flags.port));
    net::serve(listener, |Connection { stream, .. }| async move {
        if let Err(error) = echo(stream).await {
            eprintln!("websocket: {error}");
        }
    })
    .await
}

#[expect(clippy::result_large_err, reason = "the library's callback says so")]
fn admit(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != "/refused" {
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(Some("not you".into()));
    *refusal.status_mut() = http::StatusCode::FORBIDDEN;
    Err(refusal)
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let mut socket = accept_hdr_async(stream, admit).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) if text.as_str() == "close" => {
                let code = CloseCode::from(CLOSED_BY_SERVER);
                socket.close(Some(CloseFrame { code, reason: "as you like it".into() })).await?;
            }
            Message::Text(text) if text.as_str() == "ping" => {
                socket.send(Message::Ping("are you there".into())).await?;
            }
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            // The library answers both.
            Message::Ping(_) | Message::Close(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Ok(())
}

pub(crate) async fn call(flags: CallFlags) -> Result<ExitCode> {
    let within = Duration::from_millis(flags.timeout_ms);
    let began = Instant::now();
    let mut report = WebSocketReport {
        status: 101,
        refusal: String::new(),
        texts: 0,
        binaries: 0,
        pongs: 0,
        pings: 0,
        close_code: None,
        close_reason: String::new(),
        is_clean: false,
        elapsed_us: 0,
    };
    timeout(within, converse(&flags, &mut report)).await.context("not over in time")??;
    report.elapsed_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    conclude(&report, report.is_clean)
}

async fn converse(flags: &CallFlags, report: &mut WebSocketReport) -> Result<()> {
    let stream = TcpStream::connect(flags.to).await.context("connect")?;
    stream.set_nodelay(true)?;
    let mut socket = match client_async(format!("ws://{}{}", flags.to, flags.path), stream).await {
        Ok((socket, _)) => socket,
        Err(Error::Http(answer)) => {
            report.status = answer.status().as_u16();
            let body = answer.body().clone().unwrap_or_default();
            report.refusal = String::from_utf8_lossy(&body).into_owned();
            return Ok(());
        }
        Err(error) => return Err(error).context("upgrade"),
    };
    for number in 0..flags.messages {
        let text = format!("{number} {}", ".".repeat(flags.length));
        let message = if number % 2 == 0 { Message::text(text) } else { Message::binary(text.into_bytes()) };
        socket.send(message.clone()).await.context("send")?;
        let back = socket.next().await.context("the end instead of the echo")??;
        ensure!(back == message, "{back:?} came back for {message:?}");
        match back {
            Message::Text(_) => report.texts += 1,
            _ => report.binaries += 1,
        }
    }
    pings(&mut socket, report).await?;
    close(&mut socket, flags.closed_by, report).await
}

/// A ping from either side.
async fn pings(socket: &mut WebSocketStream<TcpStream>, report: &mut WebSocketReport) -> Result<()> {
    socket.send(Message::Ping("one".into())).await?;
    socket.send(Message::text("ping")).await?;
    while report.pongs == 0 || report.pings == 0 {
        match socket.next().await.context("the end instead of a ping")?? {
            Message::Pong(payload) if payload.as_ref() == b"one" => report.pongs += 1,
            // Answered by the library with the next that is read or sent.
            Message::Ping(payload) if payload.as_ref() == b"are you there" => report.pings += 1,
            other => bail!("{other:?} is neither ping nor pong"),
        }
    }
    Ok(())
}

async fn close(
    socket: &mut WebSocketStream<TcpStream>,
    by: ClosedBy,
    report: &mut WebSocketReport,
) -> Result<()> {
    match by {
        ClosedBy::Client => {
            let code = CloseCode::from(CLOSED_BY_CLIENT);
            socket.close(Some(CloseFrame { code, reason: "enough".into() })).await?;
        }
        ClosedBy::Server => socket.send(Message::text("close")).await?,
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while let Some(message) = timeout_at(deadline, socket.next()).await.context("no closing handshake")? {
        if let Message::Close(frame) = message? {
            let frame = frame.context("a close without a code")?;
            report.close_code = Some(frame.code.into());
            report.close_reason = frame.reason.as_str().to_owned();
        }
    }
    report.is_clean = report.close_code.is_some();
    Ok(())
}

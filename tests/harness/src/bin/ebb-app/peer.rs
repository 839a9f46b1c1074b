//! A TCP peer that acts by a script, to try every order in which two ends may close.
//!
//! What is sent is a pattern that depends on the position in the stream, and what is received is compared with it, so that a
//! step succeeds only when the right bytes came.

use std::{
    net::SocketAddr,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use harness::report::{Failure, PeerReport, PeerStep};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    announce, conclude,
    net::{self, failed, late, protocol},
};

/// Longest script.
const STEPS_MAX: usize = 1000;

/// Piece in which bytes are sent and received.
const PIECE: usize = 64 * 1024;

#[derive(Args)]
#[group(required = true, multiple = false, id = "side")]
pub(crate) struct Side {
    /// Accept one connection on this port
    #[arg(long)]
    listen: Option<u16>,
    /// Connect here
    #[arg(long)]
    connect: Option<SocketAddr>,
}

#[derive(Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    side: Side,
    /// Steps in order: send:N recv:N fin rst eof close pause:MS
    #[arg(required = true, num_args = 1..=STEPS_MAX)]
    script: Vec<Step>,
    /// Longest a step may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send so many bytes of the pattern.
    Send(u64),
    /// Receive exactly so many, and the right ones.
    Receive(u64),
    /// Half-close: no more will be sent.
    Finish,
    /// Close with RST.
    Reset,
    /// Receive the end of the stream and nothing before it.
    End,
    /// Close in good order.
    Close,
    /// Wait so many milliseconds.
    Pause(u64),
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (verb, operand) = text.split_once(':').unwrap_or((text, ""));
        let number = || operand.parse().with_context(|| format!("{text} needs a number after the colon"));
        Ok(match verb {
            "send" => Self::Send(number()?),
            "recv" => Self::Receive(number()?),
            "pause" => Self::Pause(number()?),
            "fin" => Self::Finish,
            "rst" => Self::Reset,
            "eof" => Self::End,
            "close" => Self::Close,
            _ => bail!("{text} is none of send:N recv:N fin rst eof close pause:MS"),
        })
    }
}

pub(crate) async fn run(flags: Flags) -> Result<ExitCode> {
    let deadline = Duration::from_millis(flags.timeout_ms);
    let (stream, first) = match (flags.side.listen, flags.side.connect) {
        (Some(port), _) => {
            let listener = net::listen(port)?;
            announce(format_args!("peer on port {port}"));
            (Some(listener.accept().await.context("accept")?.0), None)
        }
        (None, Some(to)) => {
            let start = Instant::now();
            let connected = net::connect(to, deadline).await;
            let failure = connected.as_ref().err().cloned();
            (connected.ok(), Some(step_report("connect".into(), 0, failure, start)))
        }
        (None, None) => bail!("neither --listen nor --connect"),
    };
    let mut peer = Peer { stream, sent: 0, received: 0, buffer: vec![0; PIECE] };
    let mut steps: Vec<_> = first.into_iter().collect();
    for step in &flags.script {
        if steps.iter().any(|step| step.failure.is_some()) {
            break;
        }
        let (start, before) = (Instant::now(), peer.sent + peer.received);
        let result = timeout(deadline, peer.act(*step)).await.unwrap_or_else(|_| Err(late(deadline)));
        steps.push(step_report(format!("{step:?}"), peer.sent + peer.received - before, result.err(), start));
    }
    let complete = steps.iter().all(|step| step.failure.is_none());
    conclude(&PeerReport { steps, complete }, complete)
}

fn step_report(step: String, bytes: u64, failure: Option<Failure>, start: Instant) -> PeerStep {
    PeerStep {
        step,
        bytes,
        failure,
        elapsed_us: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}

struct Peer {
    stream: Option<TcpStream>,
    sent: u64,
    received: u64,
    buffer: Vec<u8>,
}

impl Peer {
    async fn act(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
            Step::Send(length) => self.send(length).await?,
            Step::Receive(length) => self.receive(length).await?,
            Step::Finish => self.open()?.shutdown().await.map_err(|error| failed(&error))?,
            Step::End => self.expect_end().await?,
            Step::Close => drop(self.stream.take()),
            Step::Reset => match self.stream.take() {
                Some(stream) => net::reset(stream).map_err(|error| failed(&error))?,
                None => return Err(protocol("the connection is closed")),
            },
        }
        Ok(())
    }

    fn open(&mut self) -> Result<&mut TcpStream, Failure> {
        self.stream.as_mut().ok_or_else(|| protocol("the connection is closed"))
    }

    async fn send(&mut self, length: u64) -> Result<(), Failure> {
        let end = self.sent + length;
        while self.sent < end {
            let piece = usize::try_from(end - self.sent).unwrap_or(usize::MAX).min(PIECE);
            for (at, byte) in (self.sent..).zip(&mut self.buffer[..piece]) {
                *byte = pattern(at);
            }
            let stream = self.stream.as_mut().ok_or_else(|| protocol("the connection is closed"))?;
            // What a write took is counted at once, so that a report after a deadline is right.
            self.sent += stream.write(&self.buffer[..piece]).await.map_err(|error| failed(&error))? as u64;
        }
        Ok(())
    }

    async fn receive(&mut self, length: u64) -> Result<(), Failure> {
        let end = self.received + length;
        while self.received < end {
            let piece = usize::try_from(end - self.received).unwrap_or(usize::MAX).min(PIECE);
            let stream = self.stream.as_mut().ok_or_else(|| protocol("the connection is closed"))?;
            let got = stream.read(&mut self.buffer[..piece]).await.map_err(|error| failed(&error))?;
            if got == 0 {
                let missing = end - self.received;
                return Err(Failure {
                    kind: harness::report::FailureKind::Closed,
                    detail: format!("the stream ended with {missing} bytes to come"),
                });
            }
            if let Some(wrong) =
                (self.received..).zip(&self.buffer[..got]).find(|(at, byte)| **byte != pattern(*at))
            {
                return Err(protocol(format!("byte {} is {:#x}", wrong.0, wrong.1)));
            }
            self.received += got as u64;
        }
        Ok(())
    }

    async fn expect_end(&mut self) -> Result<(), Failure> {
        let mut one = [0];
        match self.open()?.read(&mut one).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(protocol(format!("more data at byte {}", self.received))),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The byte at a position of either stream; its period is longer than any buffer on the way.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

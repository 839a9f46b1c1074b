//! The calling side: one call on a connection of its own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use harness::report::GrpcReport;
use http::uri::PathAndQuery;
use tokio::time::{sleep, timeout};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    metadata::{KeyAndValueRef, MetadataMap},
    transport::{Channel, Endpoint},
};

use super::{Note, Notes};
use crate::conclude;

/// Most notes one call sends.
const NOTES_MAX: u64 = 10_000_000;

#[derive(Args)]
pub(crate) struct Flags {
    /// Server
    to: SocketAddr,
    /// Shape of the call
    #[arg(value_enum)]
    call: Call,
    /// Text of each note
    #[arg(long, default_value = "hello")]
    text: String,
    /// Number in each note
    #[arg(long, default_value_t = 1)]
    number: u64,
    /// Bytes of filling in each note
    #[arg(long, default_value_t = 0)]
    payload: usize,
    /// Notes to send, where several can be
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=NOTES_MAX))]
    count: u64,
    /// Deadline that the server is told, in milliseconds; none at 0
    #[arg(long, default_value_t = 0)]
    deadline_ms: u64,
    /// Withdraw the call after so many milliseconds; not at 0
    #[arg(long, default_value_t = 0)]
    withdraw_ms: u64,
    /// Longest the whole may take, in milliseconds
    #[arg(long, default_value_t = 20_000)]
    timeout_ms: u64,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Call {
    /// A note there, and a note back.
    Unary,
    /// A note there, and many back.
    Expand,
    /// Many there, and their sum back.
    Sum,
    /// Each that is sent is sent back.
    Chat,
    /// What the server has seen.
    Witness,
}

pub(crate) async fn run(flags: Flags) -> Result<ExitCode> {
    let within = Duration::from_millis(flags.timeout_ms);
    let (mut got, began) = timeout(within, async {
        let channel =
            Endpoint::from_shared(format!("http://{}", flags.to))?.tcp_nodelay(true).connect().await?;
        let began = Instant::now();
        let mut got = Got::default();
        let calling = call(&flags, channel, &mut got);
        let ended = match flags.withdraw_ms {
            0 => calling.await,
            after => tokio::select! {
                ended = calling => ended,
                () = sleep(Duration::from_millis(after)) => Err(Status::cancelled("withdrawn by us")),
            },
        };
        got.ended(ended);
        anyhow::Ok((got, began))
    })
    .await
    .context("no answer in time")??;
    got.report.elapsed_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let success = got.report.code == 0;
    // What was withdrawn must leave before the process does.
    tokio::task::yield_now().await;
    sleep(Duration::from_millis(20)).await;
    conclude(&got.report, success)
}

struct Got {
    report: GrpcReport,
}

impl Default for Got {
    fn default() -> Self {
        let (text, message, trailers) = Default::default();
        let report = GrpcReport { code: 0, message, notes: 0, sum: 0, text, trailers, elapsed_us: 0 };
        Self { report }
    }
}

impl Got {
    fn note(&mut self, note: Note) {
        self.report.notes += 1;
        self.report.sum = self.report.sum.wrapping_add(note.number);
        self.report.text = note.text;
    }

    async fn all(&mut self, mut notes: Streaming<Note>) -> Result<(), Status> {
        while let Some(note) = notes.message().await? {
            self.note(note);
        }
        self.report.trailers = shown(&notes.trailers().await?.unwrap_or_default());
        Ok(())
    }

    fn ended(&mut self, how: Result<(), Status>) {
        if let Err(status) = how {
            self.report.code = status.code().into();
            self.report.message = status.message().to_owned();
            self.report.trailers = shown(status.metadata());
        }
    }
}

fn shown(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let ascii = metadata.iter().filter_map(|field| match field {
        KeyAndValueRef::Ascii(name, value) => Some((name.to_string(), value.to_str().ok()?.to_owned())),
        KeyAndValueRef::Binary(..) => None,
    });
    ascii.collect()
}

async fn call(flags: &Flags, channel: Channel, got: &mut Got) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let note = Note { text: flags.text.clone(), number: flags.number, payload: vec![b'.'; flags.payload] };
    let one = with_deadline(flags, note.clone());
    let count = usize::try_from(flags.count).unwrap_or(usize::MAX);
    let many = with_deadline(flags, tokio_stream::iter(std::iter::repeat_n(note, count)));
    let path = PathAndQuery::from_static(match flags.call {
        Call::Unary => "/ebb.Notes/Unary",
        Call::Expand => "/ebb.Notes/Expand",
        Call::Sum => "/ebb.Notes/Sum",
        Call::Chat => "/ebb.Notes/Chat",
        Call::Witness => "/ebb.Notes/Witness",
    });
    match flags.call {
        Call::Unary | Call::Witness => got.note(grpc.unary(one, path, Notes).await?.into_inner()),
        Call::Sum => got.note(grpc.client_streaming(many, path, Notes).await?.into_inner()),
        Call::Expand => {
            let notes = grpc.server_streaming(one, path, Notes).await?.into_inner();
            got.all(notes).await?;
        }
        Call::Chat => {
            let notes = grpc.streaming(many, path, Notes).await?.into_inner();
            got.all(notes).await?;
        }
    }
    Ok(())
}

fn with_deadline<T>(flags: &Flags, what: T) -> Request<T> {
    let mut request = Request::new(what);
    if flags.deadline_ms > 0 {
        request.set_timeout(Duration::from_millis(flags.deadline_ms));
    }
    request
}

//! The serving side.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::MetadataValue,
    server::Grpc,
    transport::{Server, server::TcpIncoming},
};
use tower::service_fn;

use super::{Note, Notes};
use crate::{announce, net};

/// Keys that are counted for calls that fail at first.
const KEYS_MAX: usize = 1024;

#[derive(Args)]
pub(crate) struct Flags {
    /// Port
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Time taken for each note of a stream of calls, in milliseconds
    #[arg(long, default_value_t = 0)]
    think_ms: u64,
}

/// What the server has seen.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    withdrawn: AtomicU64,
    tries: Mutex<HashMap<String, u64>>,
    think: Duration,
}

type Notified = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

pub(crate) async fn serve(flags: Flags) -> Result<ExitCode> {
    let incoming = TcpIncoming::from(net::listen(flags.port)?).with_nodelay(Some(true));
    announce(format_args!("grpc on port {}", flags.port));
    let seen = Arc::new(Seen { think: Duration::from_millis(flags.think_ms), ..Seen::default() });
    let service = service_fn(move |request: http::Request<Body>| {
        let seen = Arc::clone(&seen);
        async move { Ok::<_, Infallible>(route(seen, request).await) }
    });
    Server::builder().serve_with_incoming(service, incoming).await.context("serve gRPC")?;
    Ok(ExitCode::SUCCESS)
}

async fn route(seen: Arc<Seen>, request: http::Request<Body>) -> http::Response<Body> {
    seen.calls.fetch_add(1, Ordering::Relaxed);
    let mut grpc = Grpc::new(Notes);
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/ebb.Notes/Unary" => grpc.unary(service_fn(|note| unary(Arc::clone(&seen), note)), request).await,
        "/ebb.Notes/Expand" => {
            grpc.server_streaming(service_fn(|note: Request<Note>| expand(note.into_inner())), request).await
        }
        "/ebb.Notes/Sum" => {
            grpc.client_streaming(service_fn(|notes| sum(Arc::clone(&seen), notes)), request).await
        }
        "/ebb.Notes/Chat" => grpc.streaming(service_fn(chat), request).await,
        "/ebb.Notes/Witness" => {
            let (calls, withdrawn) =
                (seen.calls.load(Ordering::Relaxed), seen.withdrawn.load(Ordering::Relaxed));
            let told = Note { text: format!("calls {calls}"), number: withdrawn, payload: Vec::new() };
            let tell = |_: Request<Note>| std::future::ready(Ok(Response::new(told.clone())));
            grpc.unary(service_fn(tell), request).await
        }
        _ => Status::unimplemented(path).into_http(),
    }
}

async fn unary(seen: Arc<Seen>, request: Request<Note>) -> Result<Response<Note>, Status> {
    let note = request.into_inner();
    if note.text == "hang" {
        let _withdrawn = OnDrop(seen);
        return std::future::pending().await;
    }
    asked(&note)?;
    if let Some((key, times)) = note.text.strip_prefix("flaky:").and_then(|rest| rest.split_once(':')) {
        let times: u64 = times.parse().map_err(|_| Status::invalid_argument("no number"))?;
        let mut tries = seen.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= KEYS_MAX {
            return Err(Status::resource_exhausted("too many keys"));
        }
        let so_far = tries.entry(key.to_owned()).or_default();
        *so_far += 1;
        if *so_far <= times {
            return Err(Status::unavailable("not yet"));
        }
    }
    Ok(Response::new(note))
}

/// The status that a note asks for.
fn asked(note: &Note) -> Result<(), Status> {
    let Some(code) = note.text.strip_prefix("fail:") else { return Ok(()) };
    let code = code.parse().map_err(|_| Status::invalid_argument("no code"))?;
    let mut status = Status::new(Code::from_i32(code), "as you like it");
    status.metadata_mut().insert("x-reason", MetadataValue::from_static("asked"));
    Err(status)
}

/// As many notes as the number says, and then what else is asked for.
async fn expand(note: Note) -> Result<Response<Notified>, Status> {
    let end = asked(&note).err().map(Err);
    let count = note.number;
    let numbered = move |number| Ok(Note { number, ..note.clone() });
    let all = tokio_stream::iter((0..count).map(numbered).chain(end));
    Ok(Response::new(Box::pin(all)))
}

async fn sum(seen: Arc<Seen>, request: Request<Streaming<Note>>) -> Result<Response<Note>, Status> {
    let mut notes = request.into_inner();
    let (mut count, mut sum) = (0_u64, 0_u64);
    while let Some(note) = notes.message().await? {
        asked(&note)?;
        count += 1;
        sum = sum.wrapping_add(note.number);
        if !seen.think.is_zero() {
            tokio::time::sleep(seen.think).await;
        }
    }
    Ok(Response::new(Note { text: format!("count {count}"), number: sum, payload: Vec::new() }))
}

async fn chat(request: Request<Streaming<Note>>) -> Result<Response<Notified>, Status> {
    let answers = request.into_inner().map(|note| note.and_then(|note| asked(&note).map(|()| note)));
    Ok(Response::new(Box::pin(answers)))
}

/// Counts calls that were withdrawn before they were answered: nothing else drops them.
struct OnDrop(Arc<Seen>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.withdrawn.fetch_add(1, Ordering::Relaxed);
    }
}

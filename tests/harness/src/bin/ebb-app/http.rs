//! An HTTP/1.1 server that says who it is, for tests to see whom they reached and as whom.
//!
//! `/bytes/N` answers N bytes, `/delay/MS` waits first, `/status/N` answers that status; a body sent is echoed. Any other
//! path gets the description (`harness::report::Described`).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    process::ExitCode,
    rc::Rc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use harness::report::Described;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::{announce, net};

/// Longest body echoed, in bytes.
const ECHO_MAX: usize = 16 * 1024 * 1024;

/// Longest `/delay`, in milliseconds.
const DELAY_MAX_MS: u64 = 600_000;

/// The piece of which `/bytes` answers are made.
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

#[derive(Args)]
pub(crate) struct Flags {
    /// Port on every address
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Name in the description
    #[arg(long, env = "POD_NAME", default_value = "http")]
    name: String,
    /// Version in the description
    #[arg(long, env = "POD_VERSION", default_value = "")]
    version: String,
}

type Answer = Response<Either<Full<Bytes>, Pieces>>;

pub(crate) async fn serve(flags: Flags) -> Result<ExitCode> {
    let listener = net::listen(flags.port)?;
    announce(format_args!("http on port {}", flags.port));
    let flags = Rc::new(flags);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new());
    net::serve(listener, move |connection| {
        let (server, flags) = (server.clone(), Rc::clone(&flags));
        async move {
            let ends = Ends { peer: connection.peer, local: connection.local };
            let service = service_fn(|request| answer(&flags, ends, request));
            // How a client leaves is its own affair.
            let _ = server.serve_connection(TokioIo::new(connection.stream), service).await;
        }
    })
    .await
}

#[derive(Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

async fn answer(flags: &Flags, ends: Ends, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path();
    let (verb, operand) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    Ok(match (verb, operand.parse::<u64>()) {
        ("bytes", Ok(length)) => Response::new(Either::Right(Pieces { left: length })),
        ("status", Ok(code)) => {
            let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
            text(code.unwrap_or(StatusCode::BAD_REQUEST), Bytes::new())
        }
        ("delay", Ok(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms.min(DELAY_MAX_MS))).await;
            describe(flags, ends, &request)
        }
        _ if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => echo(request).await,
        _ => describe(flags, ends, &request),
    })
}

async fn echo(request: Request<Incoming>) -> Answer {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    match Limited::new(request.into_body(), ECHO_MAX).collect().await {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body.to_bytes());
            response.headers_mut().extend(kind.map(|kind| (CONTENT_TYPE, kind)));
            response
        }
        Err(error) => text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string().into()),
    }
}

fn describe(flags: &Flags, ends: Ends, request: &Request<Incoming>) -> Answer {
    let described = Described {
        name: flags.name.clone(),
        version: flags.version.clone(),
        peer: ends.peer,
        local: ends.local,
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: fields(request.headers()),
    };
    match serde_json::to_vec(&described) {
        Ok(json) => {
            let mut response = text(StatusCode::OK, json.into());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into()),
    }
}

fn text(status: StatusCode, body: Bytes) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response
}

/// Header fields as a report shows them.
pub(crate) fn fields(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        fields
            .entry(name.to_string())
            .and_modify(|joined: &mut String| *joined = format!("{joined}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    fields
}

/// A body of a known length made of one piece of static memory over and over.
struct Pieces {
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE.len());
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

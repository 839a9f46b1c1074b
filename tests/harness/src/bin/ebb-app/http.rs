//! An HTTP/1.1 server that says who it is, for tests to see whom they reached and as whom.
//!
//! `/bytes/N` answers N bytes, `/delay/MS` waits first, `/status/N` answers that status; a body sent is echoed.
//! `/-/served` answers how many requests there were, itself not counted. Any other path gets the description
//! (`harness::report::Described`). By its flags it can be slow, fail now and then, or call another service first.

use std::{
    cell::Cell,
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    process::ExitCode,
    rc::Rc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use harness::report::Described;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::http1 as client,
    header::{CONTENT_TYPE, HOST, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};

use tokio::net::TcpStream;

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
    /// Milliseconds before every answer
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=DELAY_MAX_MS))]
    delay_ms: u64,
    /// Answers every N-th request with 503
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    fail_every: Option<u64>,
    /// Answers the first N requests with 503
    #[arg(long, default_value_t = 0)]
    fail_first: u64,
    /// Called for every request (http://HOST[:PORT]/PATH), with its tracing headers and `user`; the answer is in the
    /// description
    #[arg(long)]
    calls: Option<Uri>,
}

/// The flags, and how many requests there were.
struct Server {
    flags: Flags,
    served: Cell<u64>,
}

type Answer = Response<Either<Full<Bytes>, Pieces>>;

pub(crate) async fn serve(flags: Flags) -> Result<ExitCode> {
    let listener = net::listen(flags.port)?;
    announce(format_args!("http on port {}", flags.port));
    let app = Rc::new(Server { flags, served: Cell::new(0) });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new());
    net::serve(listener, move |connection| {
        let (server, app) = (server.clone(), Rc::clone(&app));
        async move {
            let ends = Ends { peer: connection.peer, local: connection.local };
            let service = service_fn(|request| answer(&app, ends, request));
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

async fn answer(app: &Server, ends: Ends, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.uri().path() == "/-/served" {
        return Ok(text(StatusCode::OK, app.served.get().to_string().into()));
    }
    let (flags, number) = (&app.flags, app.served.get() + 1);
    app.served.set(number);
    if flags.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(flags.delay_ms)).await;
    }
    if number <= flags.fail_first || flags.fail_every.is_some_and(|every| number.is_multiple_of(every)) {
        return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "fails on purpose".into()));
    }
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
            describe(flags, ends, &request).await
        }
        _ if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => echo(request).await,
        _ => describe(flags, ends, &request).await,
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

async fn describe(flags: &Flags, ends: Ends, request: &Request<Incoming>) -> Answer {
    let called = match &flags.calls {
        Some(url) => Some(call(url, request.headers()).await),
        None => None,
    };
    let described = Described {
        called,
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

/// The answer of another service, as it came; or the failure, in words.
async fn call(url: &Uri, headers: &HeaderMap) -> String {
    const PASSED_ON: [&str; 12] = [
        "x-request-id",
        "traceparent",
        "tracestate",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "user",
        "user-agent",
        "cookie",
    ];
    let asked = async {
        let authority = url.authority().context("no host in --calls")?;
        let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
        let moving = tokio::task::spawn_local(connection);
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path).header(HOST, authority.as_str());
        for (name, value) in PASSED_ON.iter().filter_map(|name| Some((name, headers.get(*name)?))) {
            request = request.header(*name, value);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::new()))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ECHO_MAX).collect().await;
        moving.abort();
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        anyhow::Ok(format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body)))
    };
    asked.await.unwrap_or_else(|error| format!("no answer: {error:#}"))
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

//! A collector of traces: OTLP over gRPC by a real library, OTLP over HTTP, and what Zipkin takes. Prints each span as a
//! line (`harness::report::TracedSpan`); `/spans/TRACE` on the port for HTTP answers those of a trace as one array.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::Future,
    pin::Pin,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Buf;
use clap::Args;
use harness::report::TracedSpan;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::Value;
use tonic::{
    Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, UnaryService},
    transport::{Server, server::TcpIncoming},
};

use crate::{announce, net};

/// Largest export that is read.
const EXPORT_MAX: usize = 16 << 20;

/// Spans that are kept to be asked for.
const KEPT_MAX: usize = 4096;

/// The last spans.
static KEPT: Mutex<VecDeque<TracedSpan>> = Mutex::new(VecDeque::new());

#[derive(Args)]
pub(crate) struct Flags {
    /// Port for gRPC
    #[arg(long, default_value_t = 4317)]
    port: u16,
    /// Port for HTTP: `/v1/traces` for OTLP and `/api/v2/spans` for Zipkin's JSON
    #[arg(long, default_value_t = 4318)]
    http_port: u16,
    /// Milliseconds before an answer
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, optional, tag = "1")]
    described: Option<Attributes>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    began: u64,
    #[prost(fixed64, tag = "8")]
    ended: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// What an export is answered with: nothing was turned away.
#[derive(Clone, Copy, PartialEq, Message)]
struct Taken {}

pub(crate) async fn serve(flags: Flags) -> Result<ExitCode> {
    let incoming = TcpIncoming::from(net::listen(flags.port)?).with_nodelay(Some(true));
    let listener = net::listen(flags.http_port)?;
    announce(format_args!("collector on ports {} and {}", flags.port, flags.http_port));
    let delay = Duration::from_millis(flags.delay_ms);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service_fn(move |request| http(request, delay));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    let service = tower::service_fn(move |request: http::Request<Body>| async move {
        tokio::time::sleep(delay).await;
        let answer = match request.uri().path() {
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                Grpc::new(Exports).unary(OneExport, request).await
            }
            other => Status::unimplemented(other).into_http(),
        };
        Ok::<_, Infallible>(answer)
    });
    Server::builder().serve_with_incoming(service, incoming).await.context("serve gRPC")?;
    Ok(ExitCode::SUCCESS)
}

/// The one call there is.
struct OneExport;

impl UnaryService<Export> for OneExport {
    type Response = Taken;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Taken>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Export>) -> Self::Future {
        tell(request.into_inner(), "grpc");
        Box::pin(std::future::ready(Ok(tonic::Response::new(Taken {}))))
    }
}

/// How exports are read.
#[derive(Clone, Copy, Default)]
struct Exports;

impl Codec for Exports {
    type Encode = Taken;
    type Decode = Export;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Exports {
    type Item = Taken;
    type Error = Status;

    fn encode(&mut self, taken: Taken, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        taken.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Exports {
    type Item = Export;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Export>, Status> {
        let whole = buffer.copy_to_bytes(buffer.remaining());
        Export::decode(whole).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

async fn http(request: Request<Incoming>, delay: Duration) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(delay).await;
    let path = request.uri().path().to_owned();
    if let Some(trace) = path.strip_prefix("/spans/") {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = kept.iter().filter(|it| it.trace == trace).collect();
        return Ok(Response::new(serde_json::to_vec(&all).unwrap_or_default().into()));
    }
    let body = Limited::new(request.into_body(), EXPORT_MAX).collect().await;
    let status = match (path.as_str(), body) {
        (_, Err(_)) => StatusCode::PAYLOAD_TOO_LARGE,
        ("/v1/traces", Ok(body)) => match Export::decode(body.to_bytes()) {
            Ok(export) => {
                tell(export, "http");
                StatusCode::OK
            }
            Err(_) => StatusCode::BAD_REQUEST,
        },
        ("/api/v2/spans", Ok(body)) => match serde_json::from_slice::<Vec<Value>>(&body.to_bytes()) {
            Ok(spans) => {
                spans.iter().for_each(|span| print(&of_zipkin(span)));
                StatusCode::ACCEPTED
            }
            Err(_) => StatusCode::BAD_REQUEST,
        },
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}

fn tell(export: Export, via: &str) {
    for resource in export.resources {
        let described = tags(resource.described.unwrap_or_default().all);
        for span in resource.scopes.into_iter().flat_map(|it| it.spans) {
            print(&TracedSpan {
                via: via.to_owned(),
                service: described.get("service.name").cloned().unwrap_or_default(),
                trace: hex(&span.trace),
                id: hex(&span.id),
                parent: hex(&span.parent),
                name: span.name,
                kind: match span.kind {
                    2 => "SERVER".to_owned(),
                    3 => "CLIENT".to_owned(),
                    other => other.to_string(),
                },
                took_us: span.ended.saturating_sub(span.began) / 1_000,
                tags: tags(span.attributes),
            });
        }
    }
}

fn of_zipkin(span: &Value) -> TracedSpan {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tags = span["tags"].as_object().into_iter().flatten();
    TracedSpan {
        via: "zipkin".to_owned(),
        service: text(&span["localEndpoint"]["serviceName"]),
        trace: text(&span["traceId"]),
        id: text(&span["id"]),
        parent: text(&span["parentId"]),
        name: text(&span["name"]),
        kind: text(&span["kind"]),
        took_us: span["duration"].as_u64().unwrap_or_default(),
        tags: tags.map(|(name, value)| (name.clone(), text(value))).collect(),
    }
}

fn tags(all: Vec<Attribute>) -> BTreeMap<String, String> {
    all.into_iter().map(|it| (it.key, it.value.unwrap_or_default().text)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print(span: &TracedSpan) {
    println!("{}", serde_json::to_string(span).unwrap_or_default());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(span.clone());
}

//! An external authorizer over HTTP and over gRPC (`envoy.service.auth.v3.Authorization`), that does as the request's header
//! `x-check` says: `allow`, `deny`, `hang`, `fail`, or `body`, which agrees where the body says "open sesame".
//!
//! What it agrees to is told to the endpoint in `x-user` (but for `bare`, which tells nothing) and `x-checked`, and to the
//! client in `x-told`. Its messages are written here again, to agree with nobody's but the protocol's.

use std::{collections::HashMap, convert::Infallible, marker::PhantomData, process::ExitCode};

use anyhow::{Context, Result};
use bytes::Buf;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::{
    Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::Grpc,
    transport::{Server, server::TcpIncoming},
};

use crate::{announce, net};

#[derive(Args)]
pub(crate) struct Flags {
    /// Port for HTTP
    #[arg(long, default_value_t = 8000)]
    http: u16,
    /// Port for gRPC
    #[arg(long, default_value_t = 9000)]
    grpc: u16,
}

/// What it says.
enum Word {
    Agreed { tells: bool },
    Refused,
    Failed,
}

async fn word(check: &str, body: &str) -> Word {
    match check {
        "allow" => Word::Agreed { tells: true },
        "bare" => Word::Agreed { tells: false },
        "body" if body.contains("open sesame") => Word::Agreed { tells: true },
        "hang" => std::future::pending().await,
        "fail" => Word::Failed,
        _ => Word::Refused,
    }
}

pub(crate) async fn serve(flags: Flags) -> Result<ExitCode> {
    let incoming = TcpIncoming::from(net::listen(flags.grpc)?).with_nodelay(Some(true));
    let listener = net::listen(flags.http)?;
    announce(format_args!("authorizer on ports {} and {}", flags.http, flags.grpc));
    let of_grpc = tower::service_fn(|request: http::Request<Body>| async move {
        let check = tower::service_fn(|request: tonic::Request<CheckRequest>| judge(request.into_inner()));
        let answer = match request.uri().path() {
            "/envoy.service.auth.v3.Authorization/Check" => {
                Grpc::new(Plain::default()).unary(check, request).await
            }
            other => Status::unimplemented(other.to_owned()).into_http(),
        };
        Ok::<_, Infallible>(answer)
    });
    let over_grpc = async {
        Server::builder().serve_with_incoming(of_grpc, incoming).await.context("serve gRPC")?;
        Ok(ExitCode::SUCCESS)
    };
    let over_http = net::serve(listener, |connection| async move {
        let service = service_fn(answer);
        // How a client leaves is its own affair.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(connection.stream), service).await;
    });
    tokio::select! {
        ended = over_grpc => ended,
        ended = over_http => ended,
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let check = parts.headers.get("x-check").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    let asked = format!("{} {} by http", parts.method, parts.uri);
    // A body that breaks off says nothing.
    let body = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let answer = Response::builder();
    let answer = match word(&check, &String::from_utf8_lossy(&body)).await {
        Word::Agreed { tells: true } => answer
            .header("x-user", "alice")
            .header("x-checked", asked)
            .header("x-told", "yes")
            .body(Full::default()),
        Word::Agreed { tells: false } => answer.body(Full::default()),
        Word::Refused => answer
            .status(401)
            .header("www-authenticate", "Ebb")
            .header("x-why", "no word")
            .body(Full::from(format!("refused: {asked}"))),
        Word::Failed => answer.status(500).body(Full::default()),
    };
    // All of it is a constant, or was a header or a line of one before.
    Ok(answer.unwrap_or_default())
}

async fn judge(request: CheckRequest) -> Result<tonic::Response<CheckResponse>, Status> {
    let http = request.attributes.and_then(|it| it.request).and_then(|it| it.http).unwrap_or_default();
    let check = http.headers.get("x-check").cloned().unwrap_or_default();
    let asked = format!("{} {} by grpc", http.method, http.path);
    let option = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value: value.to_owned() }),
    };
    let mut response = CheckResponse::default();
    match word(&check, &http.body).await {
        Word::Agreed { tells: true } => {
            response.ok = Some(Ok200 {
                headers: vec![option("x-user", "alice"), option("x-checked", &asked)],
                response_headers_to_add: vec![option("x-told", "yes")],
            });
        }
        Word::Agreed { tells: false } => response.ok = Some(Ok200::default()),
        Word::Refused => {
            response.status = Some(Code { code: 16 });
            response.denied = Some(Denied {
                status: Some(Code { code: 401 }),
                headers: vec![option("www-authenticate", "Ebb"), option("x-why", "no word")],
                body: format!("refused: {asked}"),
            });
        }
        Word::Failed => return Err(Status::unavailable("as you like it")),
    }
    Ok(tonic::Response::new(response))
}

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "11")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Ok200>,
}

/// A message with a number in its first field: a status of gRPC, or of HTTP.
#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Ok200 {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(message, repeated, tag = "6")]
    response_headers_to_add: Vec<HeaderValueOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderValue>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// How messages of these kinds are written and read.
#[derive(Debug)]
struct Plain<A, Q>(PhantomData<(A, Q)>);

impl<A, Q> Default for Plain<A, Q> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A, Q> Codec for Plain<A, Q>
where
    A: Message + Send + 'static,
    Q: Message + Default + Send + 'static,
{
    type Encode = A;
    type Decode = Q;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<A: Message, Q> Encoder for Plain<A, Q> {
    type Item = A;
    type Error = Status;

    fn encode(&mut self, message: A, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<A, Q: Message + Default> Decoder for Plain<A, Q> {
    type Item = Q;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Q>, Status> {
        let whole = buffer.copy_to_bytes(buffer.remaining());
        Q::decode(whole).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

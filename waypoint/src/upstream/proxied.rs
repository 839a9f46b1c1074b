//! A stream through a forward proxy, asked for with HTTP/1.1 CONNECT (DestinationRule `tunnel`).

use common::config::destination::Tunnel;
use common::refusal::Refusal;
use http::{Method, Request, Uri};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{ANSWER_FIELDS, ANSWER_HEAD_BYTES};

/// Asks the proxy at the other end of `io` for a connection to the target.
///
/// # Errors
/// [`Refusal::ConnectFailed`] with what it answered instead.
pub(super) async fn ask<T>(io: T, tunnel: &Tunnel) -> Result<TokioIo<Upgraded>, Refusal>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let target = match tunnel.host.contains(':') {
        true => format!("[{}]:{}", tunnel.host, tunnel.port),
        false => format!("{}:{}", tunnel.host, tunnel.port),
    };
    let failed = |why: String| Refusal::ConnectFailed(format!("CONNECT {target} by proxy: {why}").into());
    let mut builder = http1::Builder::new();
    builder.max_headers(ANSWER_FIELDS).max_buf_size(ANSWER_HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(io)).await.map_err(|error| failed(error.to_string()))?;
    // Ends with the stream, or with the sender where there is none.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = target.parse::<Uri>().map_err(|error| failed(error.to_string()))?;
    let host = http::HeaderValue::from_str(&target).map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert(http::header::HOST, host);
    let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
    if !response.status().is_success() {
        return Err(failed(format!("it answers {}", response.status())));
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(|error| failed(error.to_string()))
}

//! One HTTP/1.1 request on a connection of its own, and all there is to know about the answer.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::report::{Answer, Failure, Outcome};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    conclude,
    http::fields,
    net::{connect, failed, late},
};

/// Longest answer body kept, in bytes.
const BODY_MAX: usize = 64 * 1024 * 1024;

#[derive(Args)]
pub(crate) struct Flags {
    /// `http://ADDRESS[:PORT]/PATH`; the host is an address unless `--connect` gives one
    url: Uri,
    /// Connect here whatever the URL says
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// `Host` header instead of the URL's
    #[arg(long)]
    host: Option<String>,
    /// Further header, as `name: value`
    #[arg(long = "header", short = 'H')]
    headers: Vec<String>,
    /// Method
    #[arg(long, short = 'X', default_value = "GET")]
    method: String,
    /// Body
    #[arg(long, short = 'd', default_value = "")]
    data: String,
    /// Deadline for all of it, in milliseconds
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

pub(crate) async fn run(flags: Flags) -> Result<ExitCode> {
    let to = flags.connect.map_or_else(|| target(&flags.url), Ok)?;
    let request = request(&flags)?;
    let deadline = Duration::from_millis(flags.timeout_ms);
    let answer =
        timeout(deadline, exchange(to, deadline, request)).await.unwrap_or_else(|_| Err(late(deadline)));
    let outcome = match answer {
        Ok(answer) => Outcome::Done(answer),
        Err(failure) => Outcome::Failed(failure),
    };
    conclude(&outcome, outcome.failure().is_none())
}

/// The socket address a URL names: a literal address and a port, 80 by default.
pub(crate) fn target(url: &Uri) -> Result<SocketAddr> {
    ensure!(url.scheme_str() == Some("http"), "{url} is not an http:// URL");
    let host = url.host().context("the URL has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address =
        bare.parse().with_context(|| format!("{host} is not an address; name one with --connect"))?;
    Ok(SocketAddr::new(address, url.port_u16().unwrap_or(80)))
}

fn request(flags: &Flags) -> Result<Request<Full<Bytes>>> {
    let authority = flags.url.authority().context("the URL has no host")?.as_str();
    let path = flags.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(flags.method.as_str())
        .uri(path)
        .header(HOST, flags.host.as_deref().unwrap_or(authority));
    for header in &flags.headers {
        let (name, value) =
            header.split_once(':').with_context(|| format!("no colon in header {header:?}"))?;
        request = request.header(name.trim(), value.trim());
    }
    request.body(Full::new(Bytes::from(flags.data.clone()))).context("build the request")
}

async fn exchange(
    to: SocketAddr,
    within: Duration,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Failure> {
    let start = Instant::now();
    let stream = connect(to, within).await?;
    let (local, peer) = ends(&stream).map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let conversation = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| failed(error.as_ref()))?;
        Ok::<_, Failure>((head, body.to_bytes()))
    };
    tokio::pin!(conversation, connection);
    let (head, body) = tokio::select! {
        biased;
        result = &mut conversation => result?,
        // The connection's end is also the conversation's, which knows better why.
        _ = &mut connection => conversation.await?,
    };
    Ok(Answer {
        status: head.status.as_u16(),
        headers: fields(&head.headers),
        body: String::from_utf8_lossy(&body).into_owned(),
        local,
        peer,
        elapsed_us: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
    })
}

fn ends(stream: &TcpStream) -> std::io::Result<(SocketAddr, SocketAddr)> {
    Ok((stream.local_addr()?, stream.peer_addr()?))
}

//! Performs handshakes under a deadline and says who the peer is.
//!
//! Knows nothing of what is spoken afterwards. A stream leaves here only with a verified peer and `h2` agreed.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::blame::{self, Side};
use super::config::Client;
use super::peer::peer_identity;
use super::provider::ALPN_HTTP2;
use crate::refusal::Refusal;
use crate::spiffe::Identity;

/// How long a peer that dialled us may take for its handshake.
pub const ACCEPT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a peer that we dialled may take for its handshake. The TCP connection has its own deadline.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// An accepted connection.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;

/// A dialled connection.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// A peer that dialled us and proved who it is.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The stream, ready for HTTP/2.
    pub stream: ServerStream<IO>,
    /// Who the peer is.
    pub peer: Identity,
}

/// Answers a handshake within `deadline` (normally [`ACCEPT_DEADLINE`]).
///
/// # Errors
/// [`Refusal::TlsFailed`] naming what failed and on which side. The socket is closed by then.
pub async fn accept<IO>(
    io: IO,
    config: Arc<ServerConfig>,
    deadline: Duration,
) -> Result<Accepted<IO>, Refusal>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(io);
    let stream = within(deadline, Side::Server, handshake).await?;
    let session = stream.get_ref().1;
    require_http2(session.alpn_protocol(), "the caller")?;
    let peer = peer_identity(session.peer_certificates().unwrap_or_default())
        .map_err(|error| Refusal::TlsFailed(format!("the caller is not accepted: {error}").into()))?;
    Ok(Accepted { stream, peer })
}

/// Performs a handshake with a peer that must be `expected`, within `deadline` (normally [`CONNECT_DEADLINE`]).
///
/// Another peer is refused inside the handshake: it sees neither our certificate nor a byte of payload.
///
/// # Errors
/// [`Refusal::TlsFailed`] naming what failed and on which side. The socket is closed by then.
pub async fn connect<IO>(
    io: IO,
    client: &Client,
    expected: &Identity,
    deadline: Duration,
) -> Result<ClientStream<IO>, Refusal>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // rustls wants a name; with SNI off and our own verifier nobody reads it.
    let unused = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
    let handshake = TlsConnector::from(client.expecting(expected)).connect(unused, io);
    let stream = within(deadline, Side::Client, handshake).await?;
    require_http2(stream.get_ref().1.alpn_protocol(), "the peer")?;
    Ok(stream)
}

async fn within<S>(
    deadline: Duration,
    side: Side,
    handshake: impl Future<Output = io::Result<S>>,
) -> Result<S, Refusal> {
    let why = match tokio::time::timeout(deadline, handshake).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => blame::explain(&error, side),
        Err(_) => blame::too_slow(deadline, side),
    };
    Err(Refusal::TlsFailed(why.into()))
}

/// rustls refuses a peer that offers only other protocols, but lets one pass that offers none at all.
fn require_http2(agreed: Option<&[u8]>, who: &str) -> Result<(), Refusal> {
    if agreed == Some(ALPN_HTTP2) {
        return Ok(());
    }
    Err(Refusal::TlsFailed(format!("{who} did not agree on HTTP/2 (ALPN h2); is it an HBONE proxy?").into()))
}

//! One fetch of keys over HTTP: bounded in time and size, from addresses that are allowed, and never redirected.
//!
//! The address that is connected to is the one that was looked at, so that a name that is looked up twice cannot lead
//! elsewhere the second time.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::config::authentication::{KeySource, MAX_JWKS_BYTES};
use common::config::destination::tls::{ClientTls, TlsMode};
use common::tls::origin::{Inside, Origin};
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::json;
use super::keys::InvalidKeys;
use super::reach::may_reach;

/// Addresses of one name that are tried.
pub const MAX_ADDRESSES_TRIED: usize = 4;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what it is")]
pub enum FetchError {
    #[error("{0:?} is no http:// or https:// URL")]
    Url(Arc<str>),
    #[error("look up {host}: {error}")]
    Name { host: String, error: io::Error },
    #[error(
        "{0} leads to addresses of this machine or to link-local ones only, from which no keys are fetched"
    )]
    Forbidden(String),
    #[error("connect to {address}: {error}")]
    Connect { address: SocketAddr, error: io::Error },
    #[error("{0} is this machine, from which no keys are fetched")]
    Myself(SocketAddr),
    #[error("{0}")]
    Tls(String),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("status {0}, a redirect; it is not followed")]
    Redirect(StatusCode),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("the body: {0}")]
    Body(String),
    #[error("no discovery document with a jwks_uri")]
    Discovery,
    #[error("nothing within {0:?}")]
    TooSlow(Duration),
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
}

type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
/// Finds the addresses of a host.
pub type LookUp = Box<dyn Fn(String) -> Addresses + Send + Sync>;

/// Fetches keys.
pub struct Fetcher {
    look_up: LookUp,
    may_reach: fn(IpAddr) -> bool,
    /// Certificates of authorities that are trusted; empty for the machine's own.
    authorities: Arc<str>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

impl Default for Fetcher {
    /// By the machine's resolver and authorities.
    fn default() -> Self {
        let look_up: LookUp = Box::new(|host| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|it| it.ip()).collect()) })
        });
        Self { look_up, may_reach, authorities: "".into() }
    }
}

impl Fetcher {
    /// By another resolver, from other addresses, of servers with certificates of other authorities (a path).
    pub fn new(look_up: LookUp, may_reach: fn(IpAddr) -> bool, authorities: Arc<str>) -> Self {
        Self { look_up, may_reach, authorities }
    }

    /// The text of a JWKS. A fetch may take `deadline`, discovery and keys one each.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn keys(&self, source: &KeySource, deadline: Duration) -> Result<Bytes, FetchError> {
        let uri = match source {
            KeySource::Inline(text) => return Ok(Bytes::copy_from_slice(text.as_bytes())),
            KeySource::Uri(uri) => uri.clone(),
            KeySource::Discovery(document) => {
                let document = json::object(&self.get_within(document, deadline).await?);
                match document.map_err(|_| FetchError::Discovery)?.get("jwks_uri") {
                    Some(Value::String(uri)) => uri.as_str().into(),
                    _ => return Err(FetchError::Discovery),
                }
            }
        };
        self.get_within(&uri, deadline).await
    }

    async fn get_within(&self, uri: &Arc<str>, deadline: Duration) -> Result<Bytes, FetchError> {
        let getting = timeout(deadline, self.get(uri, deadline)).await;
        getting.unwrap_or(Err(FetchError::TooSlow(deadline)))
    }

    async fn get(&self, text: &Arc<str>, deadline: Duration) -> Result<Bytes, FetchError> {
        let wrong = || FetchError::Url(text.clone());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_secured = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|it| !it.is_empty()).ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(if is_secured { 443 } else { 80 });
        let socket = self.connect(host, port).await?;
        if !is_secured {
            return ask(socket, &uri).await;
        }
        let origin = self.origin().await?;
        let secured = origin.connect(socket, host, deadline).await;
        ask(secured.map_err(|refusal| FetchError::Tls(refusal.to_string()))?, &uri).await
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, FetchError> {
        let found = (self.look_up)(host.to_owned()).await;
        let found = found.map_err(|error| FetchError::Name { host: host.to_owned(), error })?;
        let allowed = found.into_iter().filter(|it| (self.may_reach)(*it)).take(MAX_ADDRESSES_TRIED);
        let mut failed = FetchError::Forbidden(host.to_owned());
        for address in allowed.map(|ip| SocketAddr::new(ip, port)) {
            let connected = TcpStream::connect(address).await.and_then(|it| Ok((it.local_addr()?, it)));
            match connected {
                // Nothing has been said yet, and nothing will be: its own admin port is among what listens here.
                Ok((local, _)) if local.ip().to_canonical() == address.ip().to_canonical() => {
                    failed = FetchError::Myself(address);
                }
                Ok((_, socket)) => return Ok(socket),
                Err(error) => failed = FetchError::Connect { address, error },
            }
        }
        Err(failed)
    }

    /// TLS as towards any backend; authorities are read anew, because they are renewed in place.
    async fn origin(&self) -> Result<Origin, FetchError> {
        let stated = ClientTls {
            authorities: None,
            mode: TlsMode::Simple,
            client_certificate: "".into(),
            private_key: "".into(),
            ca_certificates: self.authorities.clone(),
            ca_crl: "".into(),
            credential_name: "".into(),
            subject_alt_names: Box::default(),
            sni: "".into(),
            skip_verification: None,
        };
        let reading = tokio::task::spawn_blocking(move || Origin::read(&stated, &[], Inside::Http1));
        match reading.await {
            Ok(read) => read.map_err(|error| FetchError::Tls(error.to_string())),
            Err(_) => Err(FetchError::Tls("the process is ending".to_owned())),
        }
    }
}

/// One GET on a connection of its own.
async fn ask<IO>(io: IO, uri: &Uri) -> Result<Bytes, FetchError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let target = uri.path_and_query().map_or("/", |it| it.as_str());
    let authority = uri.authority().map_or("", |it| it.as_str());
    let request = Request::get(target)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("ebb-waypoint/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Body(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(FetchError::Redirect(status)),
            status => return Err(FetchError::Status(status)),
        }
        let body = Limited::new(response.into_body(), MAX_JWKS_BYTES).collect().await;
        body.map(|it| it.to_bytes()).map_err(|error| FetchError::Body(error.to_string()))
    };
    // The connection moves only while it is polled, and is of no use when the answer is there.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        outcome = &mut answer => return outcome,
        ended = connection => ended?,
    }
    answer.await
}

//! A byte stream to an endpoint: over HBONE where the endpoint is in the mesh, plain where it is not; within, TLS of its own
//! where a DestinationRule or BackendTLSPolicy asks for that. Knows not what is spoken on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::certs::CertStore;
use common::config::destination::Tunnel;
use common::config::destination::pool::{Http2Keepalive, TcpKeepalive};
use common::config::destination::tls::{ClientTls, TlsMode};
use common::hbone::io::TunnelIo;
use common::hbone::pool::{Key, Pool};
use common::hbone::request::{Authority, Baggage, Connect, Forwarded, Traceparent};
use common::net::socket;
use common::refusal::Refusal;
use common::snapshot::model::{TunnelProtocol, Workload};
use common::spans::reach::ByteStream;
use common::spiffe::Identity;
use common::tls;
use common::tls::origin::Inside;
use http::Version;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::connection::{Sender, begin};
use super::origins::Origins;
use super::proxied;

/// The port of HBONE.
const HBONE_PORT: u16 = 15008;

/// Who a waypoint is when it connects: its own pod.
#[derive(Debug)]
pub struct Myself {
    /// Its identity, as its pod's service account has it.
    pub identity: Identity,
    /// A workload id of its own, by which tunnels are pooled.
    pub uid: Arc<str>,
}

/// Where to connect, and for whom.
#[derive(Debug, Clone)]
pub struct Place {
    /// The endpoint.
    pub address: SocketAddr,
    /// The pod there, when it is a known one.
    pub workload: Option<Arc<Workload>>,
    /// The client on whose behalf.
    pub client: SocketAddr,
    /// The service the client called.
    pub host: Option<Arc<str>>,
    /// Who the client is, for telemetry of the endpoint's node.
    pub baggage: Option<Baggage>,
    /// The trace in which the endpoint's node tells of the connection: that of the request it is made for.
    pub trace: Option<Traceparent>,
    /// `tcpKeepalive` of a connection outside tunnels.
    pub keepalive: Option<TcpKeepalive>,
}

/// What connections are made with.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Who connects.
    pub myself: Arc<Myself>,
    /// Where its certificate is.
    pub certs: CertStore,
    /// Tunnels of this worker.
    pub tunnels: Pool,
    /// TLS towards endpoints, of all workers.
    pub origins: Arc<Origins>,
}

impl Connector {
    /// A byte stream to an endpoint: a tunnel to a pod of the mesh, TCP to anything else, and within either of them TLS
    /// where `secured` says so.
    ///
    /// # Errors
    /// [`Refusal`] when it cannot be had.
    pub async fn connect(&self, place: &Place, secured: Option<&Secured>) -> Result<Transport, Refusal> {
        let in_mesh = place.workload.as_ref().filter(|it| it.protocol == TunnelProtocol::Hbone);
        let Some(secured) = secured.filter(|it| it.is_meant_for(in_mesh.is_some())) else {
            return match in_mesh {
                Some(workload) => self.tunnel(place, workload).await.map(Transport::Tunnel),
                None => dial(place.address, place.keepalive.as_ref()).await.map(Transport::Tcp),
            };
        };
        let origin = self.origins.get(&secured.tls, &secured.names, secured.inside).await?;
        let called = place.host.as_deref().unwrap_or_default();
        let deadline = tls::CONNECT_DEADLINE;
        match in_mesh {
            Some(workload) => {
                let io = self.tunnel(place, workload).await?;
                origin.connect(io, called, deadline).await.map(|it| Transport::TunnelTls(Box::new(it)))
            }
            None => {
                let io = dial(place.address, place.keepalive.as_ref()).await?;
                origin.connect(io, called, deadline).await.map(|it| Transport::TcpTls(Box::new(it)))
            }
        }
    }

    async fn tunnel(&self, place: &Place, workload: &Workload) -> Result<TunnelIo, Refusal> {
        let peer = SocketAddr::new(place.address.ip(), HBONE_PORT);
        let key = Arc::new(Key {
            source_uid: self.myself.uid.clone(),
            source_incarnation: "".into(),
            source: self.myself.identity.clone(),
            destination: workload.identity.clone(),
            address: peer,
            source_ip: unspecified(peer.ip()),
        });
        let authority = Authority::address(place.address)
            .map_err(|error| Refusal::DestinationMismatch(format!("{}: {error}", place.address).into()))?;
        let request = Connect {
            authority,
            forwarded: Some(Forwarded { client: place.client, host: place.host.clone() }),
            baggage: place.baggage.clone(),
            traceparent: place.trace.or_else(|| Some(Traceparent::new(rand::random(), rand::random()))),
            unauthenticated: false,
        };
        let certificate = self.certs.get(&self.myself.identity).await?;
        let dialled = || async {
            let tcp = dial(peer, None).await?;
            tls::connect(tcp, &certificate.client, &workload.identity, tls::CONNECT_DEADLINE).await
        };
        self.tunnels.open(&key, &request, dialled).await.map(TunnelIo::new)
    }
}

/// A byte stream to an endpoint.
#[derive(Debug)]
pub enum Transport {
    /// Within the mesh.
    Tunnel(TunnelIo),
    /// Outside of it.
    Tcp(TcpStream),
    /// Within the mesh, with TLS of the application's own.
    TunnelTls(Box<tls::ClientStream<TunnelIo>>),
    /// Outside of it, with TLS.
    TcpTls(Box<tls::ClientStream<TcpStream>>),
    /// Through a forward proxy, reached in one of these ways.
    Proxied(TokioIo<Upgraded>),
}

/// TLS of its own towards an endpoint.
#[derive(Debug, Clone)]
pub struct Secured {
    /// As stated.
    pub tls: Arc<ClientTls>,
    /// Names of which the certificate has to have one, where `tls` states none (ServiceEntry `subjectAltNames`).
    pub names: Box<[Arc<str>]>,
    /// What is spoken in it.
    pub inside: Inside,
}

impl Secured {
    /// Whether it asks for anything here: the mesh's own TLS is what a tunnel is.
    fn is_meant_for(&self, tunnelled: bool) -> bool {
        match self.tls.mode {
            TlsMode::Disable => false,
            TlsMode::IstioMutual => !tunnelled,
            TlsMode::Simple | TlsMode::Mutual => true,
        }
    }
}

impl Transport {
    /// Begins HTTP of `version` on it. `held` lives as long as the connection.
    ///
    /// # Errors
    /// [`Refusal::Http2Failed`] when the preface cannot be written.
    pub async fn begin(
        self,
        version: Version,
        keepalive: Option<Http2Keepalive>,
        held: impl Send + 'static,
    ) -> Result<Sender, Refusal> {
        match self {
            Self::Tunnel(io) => begin(io, version, keepalive, held).await,
            Self::Tcp(io) => begin(io, version, keepalive, held).await,
            Self::TunnelTls(io) => begin(io, version, keepalive, held).await,
            Self::TcpTls(io) => begin(io, version, keepalive, held).await,
            Self::Proxied(io) => begin(io, version, keepalive, held).await,
        }
    }

    /// The bytes alone.
    pub fn boxed(self) -> Box<dyn ByteStream> {
        match self {
            Self::Tunnel(io) => Box::new(io),
            Self::Tcp(io) => Box::new(io),
            Self::TunnelTls(io) => io,
            Self::TcpTls(io) => io,
            Self::Proxied(io) => Box::new(io),
        }
    }

    /// The stream that a forward proxy at its end leads on to.
    ///
    /// # Errors
    /// [`Refusal::ConnectFailed`] when the proxy does not.
    pub async fn through(self, tunnel: &Tunnel) -> Result<Self, Refusal> {
        let led_on = match self {
            Self::Tunnel(io) => proxied::ask(io, tunnel).await,
            Self::Tcp(io) => proxied::ask(io, tunnel).await,
            Self::TunnelTls(io) => proxied::ask(io, tunnel).await,
            Self::TcpTls(io) => proxied::ask(io, tunnel).await,
            Self::Proxied(io) => proxied::ask(io, tunnel).await,
        };
        led_on.map(Self::Proxied)
    }
}

async fn dial(address: SocketAddr, keepalive: Option<&TcpKeepalive>) -> Result<TcpStream, Refusal> {
    let failed = |error: std::io::Error| Refusal::ConnectFailed(format!("{address}: {error}").into());
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    socket::tune(&stream).map_err(failed)?;
    if let Some(keepalive) = keepalive {
        probe(&stream, keepalive).map_err(failed)?;
    }
    Ok(stream)
}

/// Probes of a silent connection, as stated.
fn probe(stream: &TcpStream, keepalive: &TcpKeepalive) -> std::io::Result<()> {
    let mut probes = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    if let Some(count) = keepalive.probes {
        probes = probes.with_retries(count.get());
    }
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}

fn unspecified(of_family: IpAddr) -> IpAddr {
    match of_family {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

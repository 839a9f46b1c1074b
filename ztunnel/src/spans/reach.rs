//! The way from a node to a provider's service: over HBONE to a pod of the mesh, plain to anything else, where
//! that may be.
//!
//! The surprising thing: it is the one connection that a ztunnel makes in nobody's name but its own. It leaves from the
//! node, and has an identity of its own, which is asked for when it is needed first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::balance::{self, Caller, Wanted};
use common::certs::CertStore;
use common::config::mesh::ProviderService;
use common::hbone::io::TunnelIo;
use common::hbone::pool::{Key, Pool};
use common::hbone::request::{Authority, Connect, Forwarded};
use common::hbone::{Budget, limits};
use common::net::socket;
use common::refusal::Refusal;
use common::settings::NodeSettings;
use common::snapshot::Snapshot;
use common::snapshot::model::{Locality, Service, TunnelProtocol, Workload};
use common::snapshot::publish::Reader;
use common::spans::reach::{Connecting, Dial, Wanted as Asked, Way};
use common::spiffe::Identity;
use common::tls;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ZTUNNEL, secrecy};
use crate::dial::CONNECT_DEADLINE;
use crate::flow::HBONE_PORT;

/// Bytes that slow collectors may hold of tunnels.
const CONTROL_HELD_BYTES: usize = 8 * 1024 * 1024;

/// As a ztunnel reaches them.
pub struct Reach {
    mesh: Reader,
    certs: CertStore,
    tunnels: Pool,
    identity: Identity,
    node: NodeSettings,
}

/// Where a service is served.
struct Place {
    address: SocketAddr,
    workload: Option<Arc<Workload>>,
    service: Arc<Service>,
}

impl Reach {
    /// From a node of this mesh.
    pub fn new(mesh: Reader, certs: CertStore, node: NodeSettings) -> Self {
        let tunnels = Pool::new(limits::IDLE_RELEASE, Budget::new(CONTROL_HELD_BYTES));
        let identity = Identity::new(node.trust_domain.as_str(), node.root_namespace.as_str(), ZTUNNEL);
        Self { mesh, certs, tunnels, identity, node }
    }

    fn place(&self, mesh: &Snapshot, wanted: &ProviderService) -> Result<Place, String> {
        let service = mesh.provided(wanted, &self.node.cluster_domain);
        let service = service.ok_or_else(|| format!("there is no one service {}", wanted.host))?;
        let here = mesh.pods_on(&self.node.node).next().map(|it| it.locality.clone());
        let nowhere = Locality::default();
        let caller = Caller {
            node: &self.node.node,
            locality: here.as_deref().unwrap_or(&nowhere),
            cluster: &self.node.cluster_id,
        };
        let original = service.vips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let asked = Wanted { port: wanted.port, original };
        let chosen =
            balance::choose(service, mesh.endpoints(service), caller, asked, |_| 0, &mut rand::rng());
        let chosen = chosen.map_err(|none| format!("{}:{}: {none:?}", wanted.host, wanted.port))?;
        let address = SocketAddr::new(chosen.endpoint.address, chosen.port);
        let workload = chosen.endpoint.workload.clone();
        Ok(Place {
            address,
            workload: workload.or_else(|| mesh.workload_at(address.ip()).cloned()),
            service: service.clone(),
        })
    }

    async fn tunnel(&self, place: &Place, workload: &Workload) -> Result<TunnelIo, Refusal> {
        self.certs.pin(&self.identity)?;
        let certificate = self.certs.get(&self.identity).await?;
        let peer = SocketAddr::new(place.address.ip(), HBONE_PORT);
        let client = SocketAddr::new(
            if peer.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            },
            0,
        );
        let key = Arc::new(Key {
            source_uid: ZTUNNEL.into(),
            source_incarnation: "".into(),
            source: self.identity.clone(),
            destination: workload.identity.clone(),
            address: peer,
            source_ip: client.ip(),
        });
        let authority = Authority::address(place.address)
            .map_err(|error| Refusal::DestinationMismatch(format!("{}: {error}", place.address).into()))?;
        let host = Some(place.service.hostname.clone());
        let request = Connect { forwarded: Some(Forwarded { client, host }), ..Connect::to(authority) };
        let dialled = || async {
            let tcp = dial(peer).await?;
            tls::connect(tcp, &certificate.client, &workload.identity, tls::CONNECT_DEADLINE).await
        };
        self.tunnels.open(&key, &request, dialled).await.map(TunnelIo::new)
    }

    async fn reach(&self, asked: Asked<'_>) -> Result<Way, String> {
        let mesh = self.mesh.current();
        let place = self.place(&mesh, asked.service)?;
        let in_mesh = place.workload.clone().filter(|it| it.protocol == TunnelProtocol::Hbone);
        let way = |refusal: Refusal| refusal.to_string();
        Ok(match in_mesh {
            Some(workload) => {
                let io = self.tunnel(&place, &workload).await.map_err(way)?;
                Way { io: Box::new(io), keepalive: None }
            }
            None if let Some(why) =
                secrecy::demanded(&mesh, &place.service, &asked, &self.node.cluster_domain) =>
            {
                let host = &asked.service.host;
                return Err(format!("{host} is outside the mesh, {why}, and a ztunnel speaks no TLS to it"));
            }
            None => Way { io: Box::new(dial(place.address).await.map_err(way)?), keepalive: None },
        })
    }
}

impl Dial for Reach {
    fn connect<'c>(&'c self, asked: Asked<'c>) -> Connecting<'c> {
        Box::pin(self.reach(asked))
    }
}

/// From the node itself, whose own connections nobody captures.
async fn dial(address: SocketAddr) -> Result<TcpStream, Refusal> {
    let failed = |why: String| Refusal::ConnectFailed(format!("{address}: {why}").into());
    let connected = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| failed("no answer in time".to_owned()))?;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    socket::tune(&stream).map_err(|error| failed(error.to_string()))?;
    Ok(stream)
}

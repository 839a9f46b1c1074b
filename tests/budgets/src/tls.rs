//! Certificates of a mesh, and tunnels over TLS whose both ends are here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use common::certs::{CertStore, EmbeddedCa, StoreSettings, WorkloadCertificate};
use common::hbone::pool::Key;
use common::hbone::server::{self, Arrival, Incoming, Server};
use common::hbone::{Budget, limits};
use common::refusal::Refusal;
use common::spiffe::Identity;
use common::tls::{ACCEPT_DEADLINE, CONNECT_DEADLINE, ClientStream, ServerStream, accept, connect};
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes on their way between two ends in memory.
const WIRE_BYTES: usize = 256 * 1024;

/// Who signs certificates, in a new folder; keys are made as everywhere else, so that they differ from run to run.
pub(crate) fn authority(folder: &Path) -> Result<CertStore> {
    let ca = EmbeddedCa::open_or_create(folder, "cluster.local".into(), Arc::new(DefaultTimeProvider))?;
    Ok(CertStore::new(Arc::new(ca), StoreSettings::new(Handle::current())))
}

/// The certificate of `identity`, which the store has from now on.
pub(crate) async fn certificate(certs: &CertStore, identity: &Identity) -> Result<Arc<WorkloadCertificate>> {
    let refused = |refusal: Refusal| anyhow::anyhow!("{refusal}");
    certs.want(identity).map_err(refused)?;
    certs.get(identity).await.map_err(refused)
}

/// The key of the only tunnel from `source` to `destination` at `address`.
pub(crate) fn key(uid: &str, source: &Identity, destination: &Identity, address: SocketAddr) -> Arc<Key> {
    Arc::new(Key {
        source_uid: uid.into(),
        source_incarnation: "".into(),
        source: source.clone(),
        destination: destination.clone(),
        address,
        source_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    })
}

/// A peer in memory: whatever is dialled arrives here.
pub(crate) struct Far {
    certificate: Arc<WorkloadCertificate>,
    dialled: UnboundedReceiver<DuplexStream>,
}

/// The way to it.
pub(crate) struct Near {
    certificate: Arc<WorkloadCertificate>,
    peer: Identity,
    dials: UnboundedSender<DuplexStream>,
}

/// A caller and a peer, each with its certificate.
pub(crate) fn ends(near: &Arc<WorkloadCertificate>, far: &Arc<WorkloadCertificate>) -> (Near, Far) {
    let (dials, dialled) = unbounded_channel();
    let near = Near { certificate: near.clone(), peer: far.identity.clone(), dials };
    (near, Far { certificate: far.clone(), dialled })
}

impl Near {
    /// TLS with the peer.
    pub(crate) async fn dial(&self) -> Result<ClientStream<DuplexStream>, Refusal> {
        let (here, there) = duplex(WIRE_BYTES);
        self.dials.send(there).map_err(|_| Refusal::ConnectFailed("the peer is gone".into()))?;
        connect(here, &self.certificate.client, &self.peer, CONNECT_DEADLINE).await
    }
}

impl Far {
    /// Takes one connection.
    async fn accept(&mut self) -> Result<(Server<ServerStream<DuplexStream>>, Identity)> {
        let io = self.dialled.recv().await.context("nobody dials any more")?;
        let config = self.certificate.server.clone();
        let accepted = accept(io, config, ACCEPT_DEADLINE).await.map_err(|it| anyhow::anyhow!("{it}"))?;
        let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
        let server = server::accept(accepted.stream, &budget).await.map_err(|it| anyhow::anyhow!("{it}"))?;
        Ok((server, accepted.peer))
    }

    /// Hands on every CONNECT of one connection, with who sends it, until the connection ends.
    pub(crate) fn serve(mut self, mut take: impl FnMut(&Identity, Incoming) + Send + 'static) {
        tokio::spawn(async move {
            let (mut server, peer) = self.accept().await.expect("both ends of the connection are ours");
            while let Some(Ok(arrival)) = server.next().await {
                if let Arrival::Connect(incoming) = arrival {
                    take(&peer, *incoming);
                }
            }
        });
    }
}

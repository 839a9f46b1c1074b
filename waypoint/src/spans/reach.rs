//! The way to a provider's service: as to any endpoint, over HBONE where it is in the mesh and plain where it is not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use common::config::ObjectName;
use common::config::mesh::ProviderService;
use common::snapshot::publish::Reader;
use common::spans::reach::{Connecting, Dial, Wanted, Way};
use common::tls::origin::Inside;
use http::Version;
use tokio::time::timeout;

use crate::upstream::transport::{Connector, Place, Secured};
use crate::upstream::{ClusterKey, Clusters, PickFacts, Pickers};

/// As a waypoint reaches them.
pub struct Reach {
    mesh: Reader,
    clusters: Clusters,
    connector: Connector,
    cluster_domain: String,
    turns: Mutex<Pickers>,
}

impl Reach {
    /// From this waypoint, in a mesh of this domain.
    pub fn new(mesh: Reader, clusters: Clusters, connector: Connector, cluster_domain: String) -> Self {
        Self { mesh, clusters, connector, cluster_domain, turns: Mutex::default() }
    }

    async fn reach(&self, service: &ProviderService, version: Version) -> Result<Way, String> {
        let mesh = self.mesh.current();
        let found = mesh.provided(service, &self.cluster_domain);
        let found = found.ok_or_else(|| format!("there is no one service {}", service.host))?;
        let name = ObjectName { namespace: found.namespace.clone(), name: found.name.clone() };
        let key = ClusterKey { service: name, port: service.port, subset: None };
        let cluster = self.clusters.get(&key);
        let cluster = cluster.ok_or_else(|| format!("{} has no port {}", service.host, service.port))?;
        let policy = cluster.policy();
        let own = mesh.workload(&self.connector.myself.uid).and_then(|it| it.addresses.first().copied());
        let client = SocketAddr::new(own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0);
        let picked = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.pick(&cluster, &PickFacts::connection(client, client), Instant::now(), &mut rand::rng())
        };
        let picked = picked.map_err(|why| format!("{} has no endpoint ({})", service.host, why.flag()))?;
        let place = Place {
            address: picked.address,
            workload: picked.workload.clone().or_else(|| mesh.workload_at(picked.address.ip()).cloned()),
            client,
            host: Some(found.hostname.clone()),
            baggage: None,
            trace: None,
            keepalive: policy.tcp_keepalive.clone(),
        };
        let inside = if version == Version::HTTP_2 { Inside::Http2 } else { Inside::Http1 };
        let names = || found.external.iter().flat_map(|it| it.subject_alt_names.iter().cloned()).collect();
        let secured = policy.tls.clone().map(|tls| Secured { tls, names: names(), inside });
        let connecting = self.connector.connect(&place, secured.as_ref());
        let connected = timeout(policy.connect_timeout, connecting).await;
        let connected = connected.map_err(|_| format!("no answer from {} in time", picked.address))?;
        let transport = connected.map_err(|refusal| refusal.to_string())?;
        Ok(Way { io: transport.boxed(), keepalive: policy.http2_keepalive })
    }
}

impl Dial for Reach {
    fn connect<'c>(&'c self, wanted: Wanted<'c>) -> Connecting<'c> {
        Box::pin(self.reach(wanted.service, wanted.version))
    }
}

//! What a CONNECT asks this waypoint for: a pure function of the mesh and the authority.
//!
//! Only what is bound to this very waypoint is served: nobody may use it as a way to anywhere else. Knows no routes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::config::ObjectName;
use common::hbone::request::Authority;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::{Service, ServicePort, Workload};

/// What is behind the waypoint at an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A service that was called by one of its addresses or by its name.
    Service {
        /// The service.
        service: Arc<Service>,
        /// The port of the service that was called.
        port: u16,
    },
    /// A pod that was called by one of its own addresses.
    Workload {
        /// The pod.
        workload: Arc<Workload>,
        /// The port of the pod that was called.
        port: u16,
    },
}

/// What is spoken to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, whichever the client begins.
    Http,
    /// Anything: bytes.
    Tcp,
    /// TLS that is the application's own: bytes, whose first name a server.
    Tls,
    /// Not declared: the first bytes of the client tell.
    Undeclared,
}

impl Destination {
    /// What the waypoint that stands for `gateway` has at `authority`.
    ///
    /// # Errors
    /// [`Refusal`] when nothing there is bound to it.
    pub fn find(mesh: &Snapshot, gateway: &ObjectName, authority: &Authority) -> Result<Self, Refusal> {
        let port = authority.port();
        let elsewhere = || Refusal::DestinationMismatch(format!("{authority} behind {gateway}").into());
        let service = match authority {
            Authority::Address(address) => mesh.service_at(address.ip()),
            Authority::Hostname { host, .. } => named(mesh, gateway, host),
        };
        if let Some(service) = service {
            if !mesh.stands_before_service(gateway, service) {
                return Err(elsewhere());
            }
            if !service.ports.iter().any(|it| it.port == port) {
                return Err(Refusal::UnknownServicePort(format!("{}:{port}", service.hostname).into()));
            }
            return Ok(Self::Service { service: service.clone(), port });
        }
        let Authority::Address(address) = authority else { return Err(elsewhere()) };
        match mesh.workload_at(address.ip()) {
            // Its own waypoint, or that of the services which alone lead to the port.
            Some(workload)
                if mesh.waypoints_before(workload, port).any(|it| it == gateway)
                    && mesh.may_use_waypoint(workload.namespace(), gateway) =>
            {
                Ok(Self::Workload { workload: workload.clone(), port })
            }
            _ => Err(elsewhere()),
        }
    }

    /// The address that was called; of what was called by name, one on the family of `local` where it has one.
    pub fn address(&self, authority: &Authority, local: SocketAddr) -> SocketAddr {
        if let Authority::Address(address) = authority {
            return *address;
        }
        let all: &[IpAddr] = match self {
            Self::Service { service, .. } => &service.vips,
            Self::Workload { workload, .. } => &workload.addresses,
        };
        let of_family = all.iter().find(|ip| ip.is_ipv4() == local.is_ipv4());
        SocketAddr::new(of_family.or(all.first()).copied().unwrap_or(local.ip()), self.port())
    }

    /// The port that was called.
    pub fn port(&self) -> u16 {
        match self {
            Self::Service { port, .. } | Self::Workload { port, .. } => *port,
        }
    }

    /// The service that was called, if it was one.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Service { service, .. } => Some(service),
            Self::Workload { .. } => None,
        }
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Service { service, port } => {
                let port = service.ports.iter().find(|it| it.port == *port);
                port.map_or(Protocol::Undeclared, Protocol::of)
            }
            Self::Workload { .. } => Protocol::Undeclared,
        }
    }
}

/// `<name>.<namespace>.svc.<domain>`, the domain being the mesh's own, or the host of a ServiceEntry: of several, in as
/// many namespaces, the first that this waypoint stands before.
fn named<'a>(mesh: &'a Snapshot, gateway: &ObjectName, host: &str) -> Option<&'a Arc<Service>> {
    let mut labels = host.splitn(3, '.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let of_kubernetes = mesh.service(namespace, name).filter(|service| *service.hostname == *host);
    of_kubernetes.or_else(|| mesh.external_named(host).find(|it| mesh.stands_before_service(gateway, it)))
}

impl Protocol {
    /// What a service port declares (`appProtocol`, or the protocol its name begins with).
    pub fn of(port: &ServicePort) -> Self {
        let word = port.app_protocol.to_ascii_lowercase();
        match word.strip_prefix("kubernetes.io/").unwrap_or(&word) {
            "http" | "http2" | "h2c" | "grpc" | "grpc-web" | "ws" => Self::Http,
            "tls" | "https" | "wss" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Tcp,
            _ => Self::Undeclared,
        }
    }
}

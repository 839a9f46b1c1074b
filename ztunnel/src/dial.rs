//! Opens TCP connections from inside a pod's namespace, so that the network sees the pod and not the node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::net::socket;
use common::refusal::Refusal;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::netns::connect;
use crate::pods::Pod;

/// Time for a TCP connection to be made (Istio ztunnel's value).
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Why a connection could not be made.
#[derive(Debug)]
pub enum DialError {
    /// Nobody answered within [`CONNECT_DEADLINE`].
    Unanswered,
    /// The network or the peer said no.
    Failed(io::Error),
}

impl DialError {
    /// As the refusal of an ordinary connection.
    pub fn refusal(&self, target: SocketAddr) -> Refusal {
        Refusal::ConnectFailed(match self {
            Self::Unanswered => {
                format!("no answer from {target} within {}s", CONNECT_DEADLINE.as_secs()).into()
            }
            Self::Failed(error) => format!("{target}: {error}").into(),
        })
    }

    /// As the refusal of a tunnel: silence on its port is most often a NetworkPolicy.
    pub fn tunnel_refusal(&self, peer: SocketAddr) -> Refusal {
        match self {
            Self::Unanswered => Refusal::TunnelUnreachable(peer.to_string().into()),
            Self::Failed(_) => self.refusal(peer),
        }
    }
}

/// Connects to `target` from inside the pod, from `source` when one is given (which may be another host's address).
///
/// # Errors
/// [`DialError`].
pub async fn dial(pod: &Pod, source: Option<IpAddr>, target: SocketAddr) -> Result<TcpStream, DialError> {
    let from = source.map(|ip| SocketAddr::new(ip, 0));
    let stream = timeout(CONNECT_DEADLINE, connect::dial(&pod.netns, target, from))
        .await
        .map_err(|_| DialError::Unanswered)?
        .map_err(DialError::Failed)?;
    // Within the pod one kernel holds both ends, so that neither can be dead without the other's knowing.
    if !pod.addresses.contains(&target.ip()) {
        socket::keep_alive(&stream).map_err(DialError::Failed)?;
    }
    Ok(stream)
}

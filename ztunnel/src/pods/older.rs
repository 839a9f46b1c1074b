//! Connections older than enrolment: which of them policy no longer allows.
//!
//! They were made before the pod was in the mesh and go on untouched, as plaintext from a caller without identity.
//! Where policy would not admit such a connection today they are destroyed in the pod's namespace.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use common::authz::{self, Connection};
use common::refusal::Refusal;
use common::snapshot::model::EffectivePolicy;

use crate::netns::sockets;
use crate::pods::Pod;

/// Where the kernel's range of ports for connecting sockets begins (`net.ipv4.ip_local_port_range`, default).
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// Destroys the older connections of a pod that `policy` no longer admits.
///
/// # Errors
/// When the pod's sockets cannot be listed or destroyed.
pub fn end_refused(pod: &Pod, policy: &EffectivePolicy) -> io::Result<()> {
    let older = sockets::older_than_enrolment(&pod.netns)?;
    if older.is_empty() {
        return Ok(());
    }
    let listening = sockets::listening_ports(&pod.netns)?;
    let mut doomed = Vec::new();
    for socket in older {
        if let Some(refusal) = refusal((socket.local, socket.remote), &listening, policy) {
            let (local, remote) = (socket.local, socket.remote);
            tracing::info!(pod = &*pod.uid, %local, %remote, %refusal, "older connection ended");
            doomed.push(socket);
        }
    }
    sockets::destroy(&pod.netns, &doomed).map(|_| ())
}

/// Why an older connection is to end; `None` when it may go on.
///
/// Only connections that others made to the pod are judged here: what the pod itself opened is judged where it
/// arrives.
fn refusal(
    (local, remote): (SocketAddr, SocketAddr),
    listening: &HashSet<u16>,
    policy: &EffectivePolicy,
) -> Option<Refusal> {
    // A server may have closed its listener and kept the connection; only a port of the range that the kernel gives to
    // connecting sockets says that the pod itself connected.
    if !listening.contains(&local.port()) && local.port() >= FIRST_EPHEMERAL_PORT {
        return None;
    }
    let connection = Connection { source_identity: None, source: remote, destination: local };
    authz::evaluate(policy, &connection).err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::snapshot::model::{MtlsMode, PeerAuthentication};

    fn ends(local: &str, remote: &str) -> (SocketAddr, SocketAddr) {
        (local.parse().unwrap(), remote.parse().unwrap())
    }

    fn strict() -> EffectivePolicy {
        let peer_authentication = PeerAuthentication {
            mode: MtlsMode::Strict,
            decided_by: "istio-system/default".into(),
            ports: Box::default(),
        };
        EffectivePolicy { peer_authentication, ..EffectivePolicy::default() }
    }

    #[test]
    fn permissive_keeps_older_connections_and_strict_ends_them() {
        let (inbound, listening) = (ends("10.0.0.2:8080", "10.0.0.9:4000"), HashSet::from([8080]));
        assert_eq!(refusal(inbound, &listening, &EffectivePolicy::default()), None);
        let refused = refusal(inbound, &listening, &strict());
        assert_eq!(refused, Some(Refusal::PlaintextNotAllowed("istio-system/default".into())));
    }

    #[test]
    fn what_the_pod_itself_opened_is_judged_where_it_arrives() {
        let outbound = ends("10.0.0.2:43210", "10.0.0.9:80");
        assert_eq!(refusal(outbound, &HashSet::from([8080]), &strict()), None);
    }
}

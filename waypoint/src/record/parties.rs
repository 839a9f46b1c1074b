//! Who talks to what, as far as a record needs it.

use std::net::SocketAddr;
use std::sync::Arc;

use common::snapshot::model::{Service, Workload};
use common::spiffe::Identity;

use super::Ledger;
use crate::accept::Peer;
use crate::destination::Destination;
use crate::serve::Conversation;
use crate::telemetry::Effective;

/// The same for every request of one conversation.
#[derive(Clone)]
pub struct Parties {
    /// Where it is told.
    pub ledger: Arc<Ledger>,
    /// Who is at the other end of the tunnel.
    pub peer: Arc<Peer>,
    /// Whether the peer calls for itself.
    pub proved: bool,
    /// The workload that calls.
    pub caller: Option<Arc<Workload>>,
    /// The client's own address.
    pub client: SocketAddr,
    /// The address that was called.
    pub called: SocketAddr,
    /// The service that was called.
    pub service: Option<Arc<Service>>,
    /// The workload that was called by its own address.
    pub workload: Option<Arc<Workload>>,
    /// What an operator wants to hear.
    pub telemetry: Arc<Effective>,
}

impl Parties {
    /// Who calls, when that is proved.
    pub fn identity(&self) -> Option<&Identity> {
        self.proved.then_some(&self.peer.identity)
    }

    /// Those of a conversation.
    pub fn of(conversation: &Conversation) -> Self {
        let (service, workload) = match &conversation.destination {
            Destination::Service { service, .. } => (Some(service.clone()), None),
            Destination::Workload { workload, .. } => (None, Some(workload.clone())),
        };
        let telemetry =
            conversation.worker.shared.routes.load().telemetry().of(&conversation.destination).clone();
        Self {
            ledger: conversation.worker.ledger.clone(),
            peer: conversation.peer.clone(),
            proved: conversation.proved,
            caller: conversation.caller.clone(),
            client: conversation.client,
            called: conversation.original,
            service,
            workload,
            telemetry,
        }
    }
}

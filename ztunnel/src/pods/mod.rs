//! The pods this node serves: which they are, and what is alive on their behalf.
//!
//! `roster` decides (pure), `agent` follows its decisions, `serve` hands listeners to the workers.

pub mod agent;
pub mod older;
pub mod roster;
pub mod serve;
pub mod status;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use common::snapshot::model::Workload;
use common::spiffe::Identity;
use tokio_util::sync::CancellationToken;

use crate::netns::{Netns, listen};

/// One served pod: one incarnation in one network namespace.
///
/// A pod that is recreated, under the same name or the same address, is another value.
#[derive(Debug)]
pub struct Pod {
    /// Istio's workload uid, `<cluster>//Pod/<namespace>/<name>`.
    pub uid: Arc<str>,
    /// `metadata.uid` of this incarnation.
    pub incarnation: Arc<str>,
    /// Who its connections leave as.
    pub identity: Identity,
    /// Its addresses at enrolment; a pod's addresses never change while it lives.
    pub addresses: Arc<[IpAddr]>,
    /// The namespace its sockets are made in.
    pub netns: Arc<Netns>,
    /// What its connections are accepted at. Never a destination: dialling it would end at the same listener again.
    pub listeners: Box<[SocketAddr]>,
    /// Fires when no further connection is to be taken up.
    pub closing: CancellationToken,
    /// Fires when the pod is no longer served; every task of the pod ends on it.
    pub gone: CancellationToken,
    /// Connections being carried for it, by all workers.
    pub open: AtomicUsize,
}

impl Pod {
    /// Whether `workload` describes this very incarnation.
    pub fn is(&self, workload: &Workload) -> bool {
        self.uid == workload.uid && self.incarnation == workload.incarnation
    }

    /// Whether `original` is one of the pod's own listeners: to nobody else does that address mean anything.
    pub fn is_listener(&self, original: SocketAddr) -> bool {
        listen::may_be_listeners(original.ip()) && self.listeners.contains(&original)
    }
}

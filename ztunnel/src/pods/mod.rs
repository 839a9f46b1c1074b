//! The pods this node serves: which they are, and what is alive on their behalf.
//!
//! `roster` decides (pure), `agent` follows its decisions, `serve` hands listeners to the workers.

pub mod agent;
pub mod older;
pub mod roster;
pub mod serve;
pub mod status;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use common::snapshot::model::Workload;
use common::spiffe::Identity;
use tokio_util::sync::CancellationToken;

use crate::netns::Netns;

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
}

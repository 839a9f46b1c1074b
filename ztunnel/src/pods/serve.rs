//! Everything that is held for one served pod, put up and taken down in the order that never lets traffic past.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use anyhow::Context;
use common::snapshot::model::Workload;
use ebb_loader::{EnrolledPod, Enrolment, PodFlags, Redirector, WorkerListeners};
use tokio_util::sync::CancellationToken;

use crate::netns::listen::PodListeners;
use crate::netns::{Netns, sockets, steer};
use crate::pods::Pod;
use crate::pods::roster::Member;

/// A pod that is served.
pub struct Served {
    /// The pod, shared with the workers.
    pub pod: Arc<Pod>,
    enrolled: EnrolledPod,
    before: steer::Before,
    flags: PodFlags,
    /// Policy generation at which connections older than enrolment were last judged, plus one.
    judged: AtomicU64,
    /// Whether segments of connections that the proxy does not hold are dropped.
    cut: AtomicBool,
}

/// Opens the pod's namespace and listeners, then redirects its traffic to them.
///
/// # Errors
/// Names the step; what was put up is taken down again by dropping it.
pub fn start(
    kernel: &Redirector,
    workload: &Workload,
    member: &Member,
    workers: u32,
) -> anyhow::Result<(Served, Vec<PodListeners>)> {
    let netns = Netns::open(&*member.netns).context("open the network namespace")?;
    let before = steer::install(&netns).context("set up routing inside the pod")?;
    let listeners = (0..workers)
        .map(|worker| PodListeners::open(&netns, worker))
        .collect::<std::io::Result<Vec<PodListeners>>>()
        .context("open listeners inside the pod")?;
    let handed: Vec<WorkerListeners<'_>> = listeners.iter().map(PodListeners::as_worker).collect();
    let flags = PodFlags { bypass_inbound: member.bypass_inbound, ..PodFlags::default() };
    let fd = netns.try_clone_fd().context("hand over the network namespace")?;
    let enrolment = Enrolment { uid: &member.incarnation, netns: fd, listeners: &handed, flags };
    let enrolled = kernel.enrol(enrolment).context("redirect its traffic")?;
    let pod = Arc::new(Pod {
        uid: member.uid.clone(),
        incarnation: member.incarnation.clone(),
        identity: workload.identity.clone(),
        addresses: workload.addresses.clone(),
        netns: Arc::new(netns),
        closing: CancellationToken::new(),
        gone: CancellationToken::new(),
        open: AtomicUsize::new(0),
    });
    Ok((
        Served { pod, enrolled, before, flags, judged: AtomicU64::new(0), cut: AtomicBool::new(false) },
        listeners,
    ))
}

impl Served {
    /// Whether an earlier process had enrolled it.
    pub fn is_adopted(&self) -> bool {
        self.enrolled.adopted()
    }

    /// Whether no connection is carried for it.
    pub fn is_idle(&self) -> bool {
        self.pod.open.load(Ordering::Relaxed) == 0
    }

    /// Stops capturing new connections while those that are open go on. False when the kernel refused.
    pub fn release(&self) -> bool {
        let released = self.enrolled.set_flags(PodFlags { release: true, ..self.flags });
        if let Err(error) = &released {
            tracing::warn!(pod = &*self.pod.uid, %error, "cannot release the pod gently");
            return false;
        }
        self.pod.closing.cancel();
        true
    }

    /// Ends everything: capture first, then connections and listeners, then the routing.
    pub fn end(self) {
        let uid = self.pod.uid.clone();
        if let Err(error) = self.enrolled.unenrol() {
            tracing::warn!(pod = &*uid, %error, "the pod's enrolment is not fully removed");
        }
        self.pod.closing.cancel();
        self.pod.gone.cancel();
        if let Err(error) = steer::remove(&self.pod.netns, Some(&self.before)) {
            tracing::debug!(pod = &*uid, %error, "routing inside the pod not removed");
        }
    }

    /// Whether older connections are yet to be judged under this policy generation; asking marks them judged.
    pub fn judge_older_at(&self, generation: u64) -> bool {
        self.judged.swap(generation + 1, Ordering::Relaxed) != generation + 1
    }

    /// Once no connection is older than enrolment, lets the kernel drop what belongs to none of ours.
    ///
    /// Without it, what an application still sends on a connection whose proxy end has just closed would be taken for
    /// an older connection's and leave the pod as plaintext: after a denial, a reset, or a crash of the proxy.
    pub fn cut_when_none_is_older(&self) {
        if self.cut.load(Ordering::Relaxed) {
            return;
        }
        match sockets::older_than_enrolment(&self.pod.netns) {
            Ok(older) if older.is_empty() => self.cut_older(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(pod = &*self.pod.uid, %error, "the pod's connections cannot be listed")
            }
        }
    }

    /// Drops the segments of all connections that the proxy does not hold: also what is left where they cannot be
    /// destroyed one by one.
    pub fn cut_older(&self) {
        match self.enrolled.set_flags(PodFlags { cut_old: true, ..self.flags }) {
            Ok(()) => self.cut.store(true, Ordering::Relaxed),
            Err(error) => tracing::error!(pod = &*self.pod.uid, %error, "older connections cannot be cut"),
        }
    }

    /// Looks whether somebody took our programs off, and puts them back.
    pub fn verify(&self) {
        let faults = match self.enrolled.verify() {
            Ok(faults) if faults.is_empty() => return,
            Ok(faults) => faults,
            Err(error) => {
                return tracing::debug!(pod = &*self.pod.uid, %error, "enrolment cannot be verified");
            }
        };
        for fault in faults {
            tracing::error!(pod = &*self.pod.uid, %fault, "enrolment was changed by somebody else");
        }
        if let Err(error) = self.enrolled.repair() {
            tracing::error!(pod = &*self.pod.uid, %error, "enrolment cannot be repaired");
        }
    }
}

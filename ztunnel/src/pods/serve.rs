//! Everything that is held for one served pod, put up and taken down in the order that never lets traffic past.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context;
use ebb_loader::{EnrolledPod, Enrolment, PodFlags, Redirector, WorkerListeners};
use tokio_util::sync::CancellationToken;

use crate::door::HANDSHAKE_GRACE;
use crate::netns::listen::PodListeners;
use crate::netns::{Netns, steer};
use crate::pods::Pod;
use crate::pods::roster::Member;

/// A pod that is served.
pub struct Served {
    /// The pod, shared with the workers.
    pub pod: Arc<Pod>,
    enrolled: EnrolledPod,
    flags: PodFlags,
    /// When it began to leave the mesh, if it does.
    released: Option<Instant>,
    /// Policy generation at which connections older than enrolment were last judged, plus one.
    judged: AtomicU64,
    /// Whether segments of connections that the proxy does not hold are dropped.
    cut: AtomicBool,
}

/// Redirects the traffic of the pod in `netns` to listeners in that namespace.
///
/// # Errors
/// Names the step. The pod is then as redirected, or not, as it was before.
pub fn start(
    kernel: &Redirector,
    netns: Netns,
    member: &Member,
    workers: u32,
) -> anyhow::Result<(Served, Vec<PodListeners>)> {
    let is_first = steer::install(&netns).context("set up routing inside the pod")?;
    let started = redirect(kernel, &netns, member, workers);
    if started.is_err() && is_first {
        undo_routing(&netns, &member.uid);
    }
    let (enrolled, flags, listeners) = started?;
    let pod = Arc::new(Pod {
        uid: member.uid.clone(),
        incarnation: member.incarnation.clone(),
        identity: member.identity.clone(),
        addresses: member.addresses.clone(),
        listeners: bound(&listeners),
        netns: Arc::new(netns),
        closing: CancellationToken::new(),
        gone: CancellationToken::new(),
        open: AtomicUsize::new(0),
    });
    let (judged, cut) = (AtomicU64::new(0), AtomicBool::new(false));
    Ok((Served { pod, enrolled, flags, released: None, judged, cut }, listeners))
}

fn redirect(
    kernel: &Redirector,
    netns: &Netns,
    member: &Member,
    workers: u32,
) -> anyhow::Result<(EnrolledPod, PodFlags, Vec<PodListeners>)> {
    let listeners = listen(netns, workers)?;
    let handed: Vec<WorkerListeners<'_>> = listeners.iter().map(PodListeners::as_worker).collect();
    let flags = PodFlags { bypass_inbound: member.bypass_inbound, ..PodFlags::default() };
    let fd = netns.try_clone_fd().context("hand over the network namespace")?;
    let enrolment = Enrolment { uid: &member.incarnation, netns: fd, listeners: &handed, flags };
    let enrolled = kernel.enrol(enrolment).context("redirect its traffic")?;
    Ok((enrolled, flags, listeners))
}

/// Leaves the pod's namespace as it was before its first enrolment.
pub fn undo_routing(netns: &Netns, uid: &str) {
    if let Err(error) = steer::remove(netns) {
        tracing::debug!(pod = uid, %error, "routing inside the pod not removed");
    }
}

fn listen(netns: &Netns, workers: u32) -> anyhow::Result<Vec<PodListeners>> {
    (0..workers)
        .map(|worker| PodListeners::open(netns, worker))
        .collect::<std::io::Result<Vec<PodListeners>>>()
        .context("open listeners inside the pod")
}

fn bound(listeners: &[PodListeners]) -> Box<[SocketAddr]> {
    listeners.iter().flat_map(|worker| worker.bound).collect()
}

/// Opens a pod's namespace, and makes sure that it is this pod's: whoever writes a path must not get another pod's
/// identity or the node's traffic by it.
///
/// # Errors
/// Says what is wrong with the path.
pub fn open_netns<'a>(
    (path, addresses): (&str, &[IpAddr]),
    others: impl IntoIterator<Item = &'a Served>,
) -> anyhow::Result<Netns> {
    let netns = Netns::open(path).context("open the network namespace")?;
    for own in ["/proc/self/ns/net", "/proc/1/ns/net"] {
        let is_own = Netns::open(own).is_ok_and(|own| own.identity() == netns.identity());
        anyhow::ensure!(!is_own, "{path} is the node's own network namespace");
    }
    let mut others = others.into_iter();
    // An open namespace keeps its number, so that equal numbers are one namespace, whatever the path says.
    let is_held = others.any(|other| other.pod.netns.identity() == netns.identity());
    anyhow::ensure!(!is_held, "another pod holds the network namespace {path}");
    let is_address = |ip: &IpAddr| std::net::UdpSocket::bind((*ip, 0)).is_ok();
    let is_pods = netns.run(|| addresses.iter().any(is_address)).context("look for the pod's addresses")?;
    anyhow::ensure!(is_pods, "no address of the pod is in the network namespace {path}");
    Ok(netns)
}

impl Served {
    /// Whether an earlier process had enrolled it.
    pub fn is_adopted(&self) -> bool {
        self.enrolled.adopted()
    }

    /// Whether it has been released, its doors have had the time to close, and no connection is carried for it.
    pub fn has_left(&self) -> bool {
        self.released.is_some_and(|at| at.elapsed() > 2 * HANDSHAKE_GRACE)
            && self.pod.open.load(Ordering::Relaxed) == 0
    }

    /// Turns new connections away, to wait for the next process. What has been accepted, queued or half made goes on.
    pub fn close_doors(&self) {
        match self.enrolled.clear_listeners() {
            Ok(()) => {}
            Err(error @ ebb_loader::Error::Superseded { .. }) => {
                tracing::info!(pod = &*self.pod.uid, %error, "the next process serves the pod already");
            }
            Err(error) => {
                tracing::warn!(pod = &*self.pod.uid, %error, "new connections of the pod cannot be turned away");
            }
        }
    }

    /// Stops capturing new connections while those that are open go on. False when the kernel refused.
    pub fn release(&mut self) -> bool {
        let released = self.enrolled.set_flags(PodFlags { release: true, ..self.flags });
        if let Err(error) = &released {
            tracing::warn!(pod = &*self.pod.uid, %error, "cannot release the pod gently");
            return false;
        }
        self.pod.closing.cancel();
        self.released = Some(Instant::now());
        true
    }

    /// Takes a leaving pod back into the mesh: new listeners, the same place in the kernel, and connections that
    /// are open go on.
    ///
    /// # Errors
    /// Names the step. The pod goes on leaving.
    pub fn take_back(&self, workers: u32) -> anyhow::Result<(Arc<Pod>, Vec<PodListeners>)> {
        let listeners = listen(&self.pod.netns, workers)?;
        let handed: Vec<WorkerListeners<'_>> = listeners.iter().map(PodListeners::as_worker).collect();
        self.enrolled.set_listeners(&handed).context("hand over the listeners")?;
        self.enrolled.set_flags(self.flags).context("capture again")?;
        let old = &self.pod;
        let pod = Arc::new(Pod {
            uid: old.uid.clone(),
            incarnation: old.incarnation.clone(),
            identity: old.identity.clone(),
            addresses: old.addresses.clone(),
            listeners: bound(&listeners),
            netns: old.netns.clone(),
            closing: CancellationToken::new(),
            // Shared, so that what was open before ends with the pod as well.
            gone: old.gone.clone(),
            open: AtomicUsize::new(0),
        });
        Ok((pod, listeners))
    }

    /// The same place in the kernel, served for `pod`.
    #[must_use]
    pub fn serving(self, pod: Arc<Pod>) -> Self {
        Self { pod, released: None, judged: AtomicU64::new(0), cut: AtomicBool::new(false), ..self }
    }

    /// Ends everything: capture first, then connections and listeners, then the routing.
    pub fn end(self) {
        let uid = self.pod.uid.clone();
        let removed = self.enrolled.unenrol();
        self.pod.closing.cancel();
        self.pod.gone.cancel();
        match removed {
            Ok(()) => {}
            // Whoever took over needs the routing that we would remove.
            Err(error @ ebb_loader::Error::Superseded { .. }) => {
                return tracing::warn!(pod = &*uid, %error, "the pod's enrolment is somebody else's by now");
            }
            Err(error) => tracing::warn!(pod = &*uid, %error, "the pod's enrolment is not fully removed"),
        }
        undo_routing(&self.pod.netns, &uid);
    }

    /// Whether older connections are yet to be judged under this policy generation; asking marks them judged.
    pub fn judge_older_at(&self, generation: u64) -> bool {
        self.judged.swap(generation + 1, Ordering::Relaxed) != generation + 1
    }

    /// Drops the segments of all connections that the proxy does not hold: also what is left where they cannot be
    /// destroyed one by one.
    pub fn cut_older(&self) {
        match self.enrolled.set_flags(PodFlags { cut_old: true, ..self.flags }) {
            Ok(()) => self.cut.store(true, Ordering::Relaxed),
            Err(error) => tracing::error!(pod = &*self.pod.uid, %error, "older connections cannot be cut"),
        }
    }

    /// Whether another process took the pod over and has left it since.
    pub fn is_abandoned(&self) -> bool {
        self.enrolled.is_abandoned()
    }

    /// Looks whether somebody took our programs off, and puts them back. False when the pod may be unprotected.
    pub fn verify(&self) -> bool {
        let faults = match self.enrolled.verify() {
            Ok(faults) if faults.is_empty() => return true,
            Ok(faults) => faults,
            Err(error) => {
                tracing::debug!(pod = &*self.pod.uid, %error, "enrolment cannot be verified");
                return false;
            }
        };
        for fault in faults {
            tracing::error!(pod = &*self.pod.uid, %fault, "enrolment was changed by somebody else");
        }
        if let Err(error) = self.enrolled.repair() {
            tracing::error!(pod = &*self.pod.uid, %error, "enrolment cannot be repaired");
            return false;
        }
        true
    }
}

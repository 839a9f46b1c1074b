//! Reads the ring of sampled drops and hands them to the log.
//!
//! Never the reason for a drop to go unnoticed: the counters hold every one, the ring only examples.

use std::{collections::HashMap, fmt, io, net::SocketAddr, os::fd::AsFd as _, sync::Arc};

use aya::maps::{MapData, RingBuf};
use ebb_abi::{Drop, Hook, Verdict};
use tokio::io::{Interest, unix::AsyncFd};

use crate::redirector::PodNumbers;

/// One drop, as an example of many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedDrop {
    /// The pod's uid; none when it left in the meantime.
    pub pod: Option<Arc<str>>,
    /// Where it happened.
    pub hook: Hook,
    /// Why.
    pub verdict: Verdict,
    /// Index of the interface in the pod's namespace.
    pub interface: u32,
    /// How often the same happened on that cpu since enrolment.
    pub seen: u64,
    /// Source and destination, where the packet could be read that far.
    pub flow: Option<(SocketAddr, SocketAddr)>,
}

impl fmt::Display for ReportedDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} on interface {}", self.verdict.name(), self.hook.name(), self.interface)?;
        if let Some((source, destination)) = self.flow {
            write!(f, ", {source} to {destination}")?;
        }
        write!(f, " ({} so far on this cpu)", self.seen)
    }
}

/// The reading end of a node's ring of drops.
pub struct DropReader {
    ring: RingBuf<MapData>,
    pods: PodNumbers,
}

impl DropReader {
    pub(crate) fn new(ring: RingBuf<MapData>, pods: PodNumbers) -> Self {
        Self { ring, pods }
    }

    /// Takes what is in the ring now.
    pub fn take(&mut self) -> Vec<ReportedDrop> {
        let mut taken = Vec::new();
        let pods: HashMap<u32, Arc<str>> = self.pods.snapshot();
        while let Some(bytes) = self.ring.next() {
            taken.extend(Drop::from_bytes(&bytes).and_then(|drop| read(&drop, &pods)));
        }
        taken
    }

    /// Logs drops as they come, until the future is dropped.
    ///
    /// # Errors
    /// When the ring cannot be waited for; needs a tokio runtime with I/O enabled.
    pub async fn log(mut self) -> io::Result<()> {
        let fd = self.ring.as_fd().try_clone_to_owned()?;
        // SAFETY: the duplicate is owned by what is registered, so the descriptor stays open and the same.
        let ready =
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        loop {
            let mut guard = ready.readable().await?;
            for drop in self.take() {
                tracing::warn!(
                    pod = drop.pod.as_deref().unwrap_or("unknown"),
                    hook = drop.hook.name(),
                    verdict = drop.verdict.name(),
                    "redirection: {drop}"
                );
            }
            guard.clear_ready();
        }
    }
}

fn read(drop: &Drop, pods: &HashMap<u32, Arc<str>>) -> Option<ReportedDrop> {
    Some(ReportedDrop {
        pod: pods.get(&drop.pod_number).cloned(),
        hook: Hook::from_number(drop.hook)?,
        verdict: Verdict::from_number(drop.verdict)?,
        interface: drop.interface,
        seen: drop.seen,
        flow: drop.flow(),
    })
}

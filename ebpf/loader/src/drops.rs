//! Reads the programs' log and hands what it tells of sampled drops to `tracing`.
//!
//! The log is aya-log's, one ring for all pods of the node, pinned: programs that an earlier process attached still
//! write to it. Two processes that overlap in an upgrade must not read it at once, since each keeps its own place in
//! the ring; whoever holds the lock reads. Never the reason for a drop to go unnoticed: the counters hold every one,
//! the log only examples.

use std::{
    fmt, io, mem,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aya::programs::SchedClassifier;
use aya_log::EbpfLogger;
use ebb_abi::{Hook, LOG_TARGET, Verdict};
use log::{Log, Metadata, Record};
use nix::fcntl::Flock;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{pins::NodePins, redirector::PodNumbers};

/// How often a process that waits for another to stop reading asks.
const TURN_PAUSE: Duration = Duration::from_secs(1);
/// Drops kept between two looks of the reader, more than the ring holds lines.
const MAX_HEARD: usize = 1024;

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

/// The reading end of a node's log.
pub struct DropReader {
    /// A program that writes to the log, by which aya-log finds the ring.
    writer: SchedClassifier,
    pins: NodePins,
    ear: Ear,
    turn: Option<Turn>,
}

/// What is held while this process is the one that reads.
struct Turn {
    logger: EbpfLogger<Ear>,
    _lock: Flock<OwnedFd>,
}

impl DropReader {
    pub(crate) fn new(writer: SchedClassifier, pins: NodePins, pods: PodNumbers) -> Self {
        Self { writer, pins, ear: Ear { pods, heard: Arc::default() }, turn: None }
    }

    /// Takes what is in the log now; nothing while another process reads it.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn take(&mut self) -> io::Result<Vec<ReportedDrop>> {
        if let Some(turn) = self.turn()? {
            turn.logger.flush();
        }
        Ok(self.ear.heard())
    }

    /// Logs drops as they come, until the future is dropped.
    ///
    /// # Errors
    /// When the log cannot be opened or waited for; needs a tokio runtime with I/O and time enabled.
    pub async fn log(mut self) -> io::Result<()> {
        let fd = loop {
            match self.turn()? {
                Some(turn) => break turn.logger.as_fd().try_clone_to_owned()?,
                None => tokio::time::sleep(TURN_PAUSE).await,
            }
        };
        // SAFETY: the duplicate is owned by what is registered, so the descriptor stays open and the same.
        let ready =
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        loop {
            let mut guard = ready.readable().await?;
            for drop in self.take()? {
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

    /// The log, opened when it is this process's turn: the place in the ring is read only then.
    fn turn(&mut self) -> io::Result<Option<&mut Turn>> {
        if self.turn.is_none()
            && let Some(lock) = self.pins.try_lock_log()?
        {
            let writer = self.writer.info().map_err(io::Error::other)?.id();
            let logger = EbpfLogger::init_from_id_with_logger(writer, self.ear.clone());
            self.turn = Some(Turn { logger: logger.map_err(io::Error::other)?, _lock: lock });
        }
        Ok(self.turn.as_mut())
    }
}

/// The logger that aya-log speaks to: understands the lines about drops, and passes on all others.
#[derive(Clone)]
struct Ear {
    pods: PodNumbers,
    heard: Arc<Mutex<Vec<ReportedDrop>>>,
}

impl Ear {
    fn heard(&self) -> Vec<ReportedDrop> {
        mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Log for Ear {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let drop = if record.target() == LOG_TARGET { read(&line, &self.pods) } else { None };
        let Some(drop) = drop else {
            return tracing::info!(target: "ebpf", from = record.target(), "{line}");
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() < MAX_HEARD {
            heard.push(drop);
        }
    }

    fn flush(&self) {}
}

/// Reads a line of `ebpf/programs/src/report.rs`: nine numbers and addresses in its order.
fn read(line: &str, pods: &PodNumbers) -> Option<ReportedDrop> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (pod, hook, verdict) = (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
    let (interface, seen) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let mut end = || -> Option<SocketAddr> {
        let ip: Ipv6Addr = word()?.parse().ok()?;
        Some(SocketAddr::new(IpAddr::from(ip).to_canonical(), word()?.parse().ok()?))
    };
    let (source, destination) = (end()?, end()?);
    let is_read = !source.ip().is_unspecified() || !destination.ip().is_unspecified();
    Some(ReportedDrop {
        pod: pods.get(pod),
        hook: Hook::from_number(hook)?,
        verdict: Verdict::from_number(verdict)?,
        interface,
        seen,
        flow: is_read.then_some((source, destination)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_pods_uid_and_addresses_of_either_family() {
        let pods = PodNumbers::default();
        pods.insert(7, "web".into());
        let drop = read("7 2 32 3 257 ::ffff:10.9.0.1 4000 ::ffff:10.9.0.2 80", &pods).unwrap();
        assert_eq!(drop.pod.as_deref(), Some("web"));
        assert_eq!(
            drop.to_string(),
            "drop_no_listener at assign_inbound on interface 3, 10.9.0.1:4000 to 10.9.0.2:80 (257 so far on this cpu)"
        );
        let drop = read("8 0 34 3 1 fd09::1 4000 fd09::2 80", &pods).unwrap();
        assert_eq!((drop.pod, drop.flow.unwrap().0), (None, "[fd09::1]:4000".parse().unwrap()));
        assert_eq!(read("7 0 34 3 1 :: 0 :: 0", &pods).unwrap().flow, None);
        for not_ours in ["", "7 9 32 3 257 :: 0 :: 0", "7 2 63 3 257 :: 0 :: 0", "7 2 32 3 257 :: 0", "hello"]
        {
            assert_eq!(read(not_ours, &pods), None, "{not_ours}");
        }
    }
}

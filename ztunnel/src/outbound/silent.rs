//! Pods of waypoints that gave no answer of late. What waits there is not its load, so that it would look idle and be
//! chosen again and again; for a while others are asked first.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pods that are remembered; of more, the oldest are forgotten.
pub const MAX_SILENT_PODS: usize = 64;
/// For how long.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Those of one worker.
#[derive(Debug, Default)]
pub struct Silent(Mutex<Vec<(SocketAddr, Instant)>>);

impl Silent {
    /// A pod gave no answer in time.
    pub fn note(&self, peer: SocketAddr, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(it, since)| *it != peer && now.duration_since(*since) < REMEMBERED);
        if known.len() >= MAX_SILENT_PODS {
            known.remove(0);
        }
        known.push((peer, now));
    }

    /// Whether another pod should be asked first.
    pub fn is(&self, peer: SocketAddr, now: Instant) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|(it, since)| *it == peer && now.duration_since(*since) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_pod_is_remembered_for_a_while_and_no_more_than_the_bound_are() {
        let (silent, begin) = (Silent::default(), Instant::now());
        let peer = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        silent.note(peer(1), begin);
        assert!(silent.is(peer(1), begin) && !silent.is(peer(2), begin));
        assert!(!silent.is(peer(1), begin + REMEMBERED));
        for port in 2..=u16::try_from(MAX_SILENT_PODS).unwrap() + 1 {
            silent.note(peer(port), begin);
        }
        assert!(!silent.is(peer(1), begin), "the oldest is forgotten");
        assert!(silent.is(peer(2), begin));
    }
}

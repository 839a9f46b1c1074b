//! Bounds how many tunnel connections one peer identity may hold open on a worker.
//!
//! Each connection keeps buffers and streams of its own beside what the worker's budget counts, so an authenticated peer
//! could otherwise take memory by opening many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::refusal::Refusal;
use crate::spiffe::Identity;

/// Tunnel connections of one peer identity on one worker.
pub const MAX_TUNNELS_PER_PEER: usize = 1024;

/// Counts tunnel connections by peer identity. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct TunnelLimiter {
    open: Arc<Mutex<HashMap<Identity, usize>>>,
}

/// One counted tunnel connection.
#[derive(Debug)]
#[must_use = "the tunnel is counted only while this lives"]
pub struct TunnelPermit {
    limiter: TunnelLimiter,
    peer: Identity,
}

impl TunnelLimiter {
    /// Counts one more tunnel of `peer`.
    ///
    /// # Errors
    /// [`Refusal::LimitReached`] at [`MAX_TUNNELS_PER_PEER`].
    pub fn admit(&self, peer: &Identity) -> Result<TunnelPermit, Refusal> {
        let mut open = self.lock();
        let count = open.entry(peer.clone()).or_insert(0);
        if *count >= MAX_TUNNELS_PER_PEER {
            return Err(Refusal::LimitReached("MAX_TUNNELS_PER_PEER"));
        }
        *count += 1;
        Ok(TunnelPermit { limiter: self.clone(), peer: peer.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.lock();
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_at_its_bound_is_refused_and_others_are_not() {
        let limiter = TunnelLimiter::default();
        let (greedy, other) = (Identity::new("td", "a", "greedy"), Identity::new("td", "a", "other"));
        let held: Vec<_> = (0..MAX_TUNNELS_PER_PEER).map(|_| limiter.admit(&greedy).unwrap()).collect();
        assert!(limiter.admit(&greedy).is_err());
        drop(limiter.admit(&other).unwrap());
        drop(held);
        assert!(limiter.lock().is_empty());
    }
}

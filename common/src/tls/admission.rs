//! Bounds how many handshakes are in flight, in total and per source address.
//!
//! A handshake is the one thing a stranger can make us work for, so it is admitted before the first byte is read.
//! Made to be one per worker: the lock is then never contended. Sharing one between workers is correct, only slower.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::refusal::Refusal;

/// Handshakes in flight per limiter. With a 5 s deadline, drip-feeding strangers fill it at 200 a second.
pub const MAX_HANDSHAKES_IN_FLIGHT: usize = 1024;

/// Handshakes in flight per source address and limiter. A waypoint that dials every pod of a node stays below.
pub const MAX_HANDSHAKES_IN_FLIGHT_PER_SOURCE: usize = 128;

/// Admits handshakes up to its two bounds. Clones share them.
#[derive(Debug, Clone)]
pub struct HandshakeLimiter {
    in_flight: Arc<Mutex<InFlight>>,
    total: usize,
    per_source: usize,
}

/// Holds at most `total` entries, because an entry exists only while its source has a handshake in flight.
#[derive(Debug, Default)]
struct InFlight {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// The right to perform one handshake; drop it when the handshake has ended either way.
#[derive(Debug)]
#[must_use = "the handshake is counted only while the permit lives"]
pub struct HandshakePermit {
    in_flight: Arc<Mutex<InFlight>>,
    source: IpAddr,
}

impl Default for HandshakeLimiter {
    fn default() -> Self {
        Self::new(MAX_HANDSHAKES_IN_FLIGHT, MAX_HANDSHAKES_IN_FLIGHT_PER_SOURCE)
    }
}

impl HandshakeLimiter {
    /// A limiter with bounds of its own; [`Default`] has the named ones.
    pub fn new(total: usize, per_source: usize) -> Self {
        Self { in_flight: Arc::default(), total, per_source }
    }

    /// Admits one handshake from `source`. An IPv4-mapped address counts as the IPv4 one.
    ///
    /// # Errors
    /// [`Refusal::LimitReached`] naming the bound. Close the socket without reading from it.
    pub fn admit(&self, source: IpAddr) -> Result<HandshakePermit, Refusal> {
        let source = site(source);
        let mut in_flight = lock(&self.in_flight);
        if in_flight.total >= self.total {
            return Err(Refusal::LimitReached("handshakes in flight"));
        }
        if in_flight.by_source.get(&source).copied().unwrap_or(0) >= self.per_source {
            return Err(Refusal::LimitReached("handshakes in flight from one address"));
        }
        *in_flight.by_source.entry(source).or_insert(0) += 1;
        in_flight.total += 1;
        Ok(HandshakePermit { in_flight: self.in_flight.clone(), source })
    }

    /// Handshakes in flight now.
    pub fn in_flight(&self) -> usize {
        lock(&self.in_flight).total
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.in_flight);
        in_flight.total -= 1;
        if let Some(from_source) = in_flight.by_source.get_mut(&self.source) {
            *from_source -= 1;
            if *from_source == 0 {
                in_flight.by_source.remove(&self.source);
            }
        }
    }
}

/// The counts are updated without a call that could panic in between, so a poisoned lock still holds true counts.
/// What counts as one source: a host has a whole IPv6 /64 to itself.
fn site(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
        v4 => v4,
    }
}

fn lock(in_flight: &Mutex<InFlight>) -> MutexGuard<'_, InFlight> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_cannot_take_the_place_of_others() {
        let limiter = HandshakeLimiter::new(3, 2);
        let _first = limiter.admit(address("10.0.0.1")).unwrap();
        let second = limiter.admit(address("::ffff:10.0.0.1")).unwrap();
        assert!(matches!(limiter.admit(address("10.0.0.1")), Err(Refusal::LimitReached(_))));
        let _other = limiter.admit(address("10.0.0.2")).unwrap();
        assert!(matches!(
            limiter.admit(address("10.0.0.3")),
            Err(Refusal::LimitReached("handshakes in flight"))
        ));
        drop(second);
        let _again = limiter.admit(address("10.0.0.1")).unwrap();
    }

    #[test]
    fn ended_handshakes_leave_nothing_behind() {
        let limiter = HandshakeLimiter::default();
        for last in 0..=255 {
            drop(limiter.admit(IpAddr::from([10, 0, 0, last])).unwrap());
        }
        assert_eq!(limiter.in_flight(), 0);
        assert!(lock(&limiter.in_flight).by_source.is_empty());
    }

    #[test]
    fn a_refused_source_is_not_remembered() {
        let limiter = HandshakeLimiter::new(8, 0);
        assert!(limiter.admit(address("10.0.0.1")).is_err());
        assert!(lock(&limiter.in_flight).by_source.is_empty());
        assert_eq!(limiter.in_flight(), 0);
    }
}

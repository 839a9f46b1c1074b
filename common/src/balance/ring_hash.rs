//! Consistent hashing on a ring (Istio `consistentHash`, and its `ringHash`).
//!
//! Envoy's ring to the bit, so that requests keep their endpoint when a waypoint takes over from one that runs Envoy:
//! `<address>_<n>` hashed by xxHash64 for as many `n` as the endpoint's part asks for, and a request belongs to the
//! first entry at or after its hash. The order of the shares decides who gets the odd entry when parts are uneven.

use std::fmt::Write as _;

use twox_hash::XxHash64;

use super::Share;

/// `ringHash.minimumRingSize` when it is not stated.
pub const DEFAULT_MINIMUM_ENTRIES: u64 = 1024;
/// Entries of one ring at most, whatever size and weights are asked for (Envoy's default `maximum_ring_size`).
pub const MAX_RING_ENTRIES: u64 = 8 << 20;

/// A ring.
#[derive(Debug, Clone)]
pub struct Ring {
    candidates: Box<[usize]>,
    /// Hash and position in `candidates`, by hash.
    entries: Box<[(u64, u32)]>,
}

impl Ring {
    /// A ring of about `minimum_entries`: enough that the smallest share gets a whole number of them.
    pub fn build(shares: &[Share], minimum_entries: u64) -> Self {
        let candidates = shares.iter().map(|it| it.candidate).collect();
        let Some(scale) = scale(shares, minimum_entries) else {
            return Self { candidates, entries: Box::default() };
        };
        let mut entries = Vec::with_capacity(scale.ceil() as usize);
        // Running sums over the whole ring: what a share leaves of an entry goes to the next one.
        let (mut placed, mut target) = (0.0, 0.0);
        let mut key = String::new();
        for (share, position) in shares.iter().zip(0_u32..) {
            target += scale * share.portion;
            key.clear();
            // Writing to a string does not fail.
            let _ = write!(key, "{}_", share.address);
            let stem = key.len();
            for index in 0_u64.. {
                if placed >= target {
                    break;
                }
                key.truncate(stem);
                let _ = write!(key, "{index}");
                entries.push((XxHash64::oneshot(0, key.as_bytes()), position));
                placed += 1.0;
            }
        }
        entries.sort_by_key(|(hash, _)| *hash);
        Self { candidates, entries: entries.into() }
    }

    /// The candidate that requests of this hash go to; `None` when the ring is empty.
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let at = self.entries.partition_point(|(entry, _)| *entry < hash);
        // Beyond the last entry the ring begins again.
        let (_, position) = self.entries.get(at).or(self.entries.first())?;
        self.candidates.get(*position as usize).copied()
    }
}

/// Entries of the ring; `None` without shares.
fn scale(shares: &[Share], minimum_entries: u64) -> Option<f64> {
    let portions = shares.iter().map(|it| it.portion).filter(|portion| *portion > 0.0);
    let smallest = portions.min_by(f64::total_cmp)?;
    let minimum = minimum_entries.clamp(1, MAX_RING_ENTRIES) as f64;
    Some(((smallest * minimum).ceil() / smallest).min(MAX_RING_ENTRIES as f64))
}

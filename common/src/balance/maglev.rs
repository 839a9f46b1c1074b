//! Consistent hashing by a table (Istio `consistentHash.maglev`): evener than a ring and quicker to ask, and a little
//! more moves when endpoints change.
//!
//! Envoy's table to the bit: each endpoint has a permutation of the slots from two hashes of its address (seeds 0 and
//! 1), and in turns each takes the first of its slots that is free, lighter ones in fewer turns. Endpoints take turns
//! in the order of their addresses as text, so that the order they are given in does not matter.

use twox_hash::XxHash64;

use super::Share;

/// Slots of the largest table, a prime (Envoy's limit).
pub const MAX_TABLE_SLOTS: u64 = 5_000_011;

/// How many slots a table has: a prime, so that every permutation visits all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize(u64);

impl TableSize {
    /// A size that an operator states (`maglev.tableSize`); `None` unless it is a prime and not too large.
    pub fn new(slots: u64) -> Option<Self> {
        let mut divisors = (2_u64..).take_while(|divisor| divisor * divisor <= slots);
        let fits = (2..=MAX_TABLE_SLOTS).contains(&slots);
        (fits && !divisors.any(|divisor| slots.is_multiple_of(divisor))).then_some(Self(slots))
    }
}

impl Default for TableSize {
    /// What Istio and Envoy use when nothing is stated.
    fn default() -> Self {
        Self(65_537)
    }
}

/// A slot that nobody has taken yet.
const FREE: u32 = u32::MAX;

/// A table.
#[derive(Debug, Clone)]
pub struct Maglev {
    candidates: Box<[usize]>,
    /// Positions in `candidates`; empty when there are none.
    slots: Box<[u32]>,
}

impl Maglev {
    /// A table of this size.
    pub fn build(shares: &[Share], size: TableSize) -> Self {
        let candidates = shares.iter().map(|it| it.candidate).collect();
        let mut takers: Vec<Taker> =
            shares.iter().zip(0_u32..).filter_map(|(share, at)| Taker::new(share, at, size)).collect();
        takers.sort_by(|one, other| one.key.cmp(&other.key));
        let slots = if takers.is_empty() { Box::default() } else { fill(&mut takers, size) };
        Self { candidates, slots }
    }

    /// The candidate that requests of this hash go to; `None` when the table is empty.
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let slot = hash.checked_rem(self.slots.len() as u64)?;
        self.candidates.get(*self.slots.get(slot as usize)? as usize).copied()
    }
}

/// An endpoint that takes slots.
struct Taker {
    key: String,
    position: u32,
    portion: f64,
    /// The next slot of its permutation.
    next: u64,
    skip: u64,
    /// It takes a slot in each turn by whose number times its portion this is reached.
    target: f64,
}

impl Taker {
    /// `None` for a share of nothing.
    fn new(share: &Share, position: u32, TableSize(size): TableSize) -> Option<Self> {
        let key = share.address.to_string();
        let next = XxHash64::oneshot(0, key.as_bytes()) % size;
        let skip = XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1;
        let taker = Self { key, position, portion: share.portion, next, skip, target: 0.0 };
        (share.portion > 0.0).then_some(taker)
    }
}

fn fill(takers: &mut [Taker], TableSize(size): TableSize) -> Box<[u32]> {
    let mut slots = vec![FREE; size as usize];
    let largest = takers.iter().map(|it| it.portion).fold(0.0, f64::max);
    let (mut free, mut turn) = (size, 0.0);
    while free > 0 {
        turn += 1.0;
        for taker in &mut *takers {
            if free == 0 {
                break;
            }
            if turn * taker.portion < taker.target {
                continue;
            }
            taker.target += largest;
            while slots[taker.next as usize] != FREE {
                taker.next = (taker.next + taker.skip) % size;
            }
            slots[taker.next as usize] = taker.position;
            free -= 1;
        }
    }
    slots.into()
}

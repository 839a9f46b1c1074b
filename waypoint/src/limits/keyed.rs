//! Buckets by key, so many of them at most.
//!
//! The surprising thing: a bucket is forgotten only when it is full, which changes nothing for whoever has it. Where there
//! is no room, whoever comes new shares one bucket with all others who do, so that nobody gets round a limit by coming
//! under many names, and nobody who has a bucket loses it to those who try.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bucket::{Nanos, Rate, Said, Shared};

/// Keys of one limit with a bucket of their own.
pub const MAX_LIMIT_KEYS: usize = 65_536;
/// Parts of the table, each with a lock of its own.
const PARTS: usize = 16;
/// Keys of one part.
const MAX_PART_KEYS: usize = MAX_LIMIT_KEYS / PARTS;
/// How often a part that is full is searched for buckets that can go, in nanoseconds.
const SWEEP_INTERVAL: Nanos = 100_000_000;

/// A key: everything that requests are told apart by, hashed with secrets of the process.
pub type Key = u128;

/// Buckets of one limit.
#[derive(Debug)]
pub struct Keyed {
    parts: Box<[Mutex<Part>]>,
    overflow: Shared,
}

#[derive(Debug, Default)]
struct Part {
    full: HashMap<Key, Nanos>,
    swept: Nanos,
}

impl Default for Keyed {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), overflow: Shared::default() }
    }
}

impl Keyed {
    /// Takes a token of the bucket of `key`, if there is one.
    pub fn take(&self, key: Key, rate: &Rate, now: Nanos) -> Said {
        let mut part = self.part(key);
        let Some(full) = part.room(key, now) else {
            drop(part);
            return self.overflow.take(rate, now);
        };
        let (said, after) = rate.ask(*full, now);
        *full = after;
        said
    }

    /// Puts a token back.
    pub fn put_back(&self, key: Key, rate: &Rate) {
        match self.part(key).full.get_mut(&key) {
            Some(full) => *full = rate.put_back(*full),
            None => self.overflow.put_back(rate),
        }
    }

    fn part(&self, key: Key) -> MutexGuard<'_, Part> {
        // Each use is one look; a part is whole between any two.
        self.parts[(key % PARTS as u128) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// The bucket of a key, made where there is room for it.
    fn room(&mut self, key: Key, now: Nanos) -> Option<&mut Nanos> {
        if self.full.len() >= MAX_PART_KEYS && !self.full.contains_key(&key) {
            if now < self.swept.saturating_add(SWEEP_INTERVAL) {
                return None;
            }
            self.swept = now;
            self.full.retain(|_, full| *full > now);
            if self.full.len() >= MAX_PART_KEYS {
                return None;
            }
        }
        Some(self.full.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use common::config::rate_limit::Limit;

    use super::*;

    fn rate(requests: u32, burst: u32) -> Rate {
        Rate::of(&Limit {
            name: "".into(),
            matches: Box::default(),
            requests: NonZeroU32::new(requests).unwrap(),
            per: Duration::from_secs(1),
            burst: NonZeroU32::new(burst).unwrap(),
            by: Box::default(),
        })
    }

    fn admits(said: Said) -> bool {
        matches!(said, Said::Admitted { .. })
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let (rate, keyed) = (rate(1, 2), Keyed::default());
        for key in [1, 2, 17] {
            let said: Vec<bool> = (0..3).map(|_| admits(keyed.take(key, &rate, 5))).collect();
            assert_eq!(said, [true, true, false], "{key}");
        }
        keyed.put_back(2, &rate);
        assert!(admits(keyed.take(2, &rate, 5)) && !admits(keyed.take(1, &rate, 5)));
    }

    #[test]
    fn a_flood_of_keys_resets_nobody_and_shares_one_bucket() {
        let (rate, keyed) = (rate(1, 1), Keyed::default());
        let start: Nanos = 10_000_000_000;
        // Somebody has used up what is theirs, and comes again under so many names that there is no room.
        assert!(admits(keyed.take(0, &rate, start)));
        for key in 1..MAX_LIMIT_KEYS as Key {
            assert!(admits(keyed.take(key, &rate, start + 1)), "{key}");
        }
        let more = MAX_LIMIT_KEYS as Key..2 * MAX_LIMIT_KEYS as Key;
        let admitted = more.clone().filter(|key| admits(keyed.take(*key, &rate, start + 2))).count();
        assert_eq!(admitted, 1, "all of them share one bucket");
        assert!(!admits(keyed.take(0, &rate, start + 3)), "their own is still empty");
        let held: usize = keyed.parts.iter().map(|it| it.lock().unwrap().full.len()).sum();
        assert_eq!(held, MAX_LIMIT_KEYS);
        // When those buckets are full they make room.
        let later = start + 2_000_000_000;
        assert!(more.take(1000).all(|key| admits(keyed.take(key, &rate, later))));
    }
}
